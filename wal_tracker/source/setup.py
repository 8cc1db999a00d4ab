"""
Plan, apply and drop what a mode needs in the database.

`wal_tracker.source.plan` and, for trigger mode, `wal_tracker.source.outbox_plan` decide what that is;
`wal_tracker.source.switch` carries a change of mode out.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import psycopg2.errorcodes

from wal_tracker.config.model import Config
from wal_tracker.errors import PreflightFailed, SourceError, SourceUnavailable
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.source import outbox_plan, switch
from wal_tracker.source import slot as slots
from wal_tracker.source.catalog import read_relations, read_types
from wal_tracker.source.connection import Session, SourceSettings, read_sql
from wal_tracker.source.outbox_plan import OUTBOX_OBJECTS, Outbox, Tracked, Trigger
from wal_tracker.source.plan import (
    COLUMN_LISTS_SINCE,
    Desired,
    Live,
    Ownership,
    Plan,
    Publication,
    Readiness,
    Step,
    TableName,
    decide,
    decide_drop,
    quoted,
)

logger = logging.getLogger("wal_tracker.setup")

_REPLAY_TIMEOUT_S = 60.0

LOCK_TIMEOUT_MS = 500
"""While we wait for a table's writers, later ones wait behind us. Below deadlock_timeout (1 s): we give way first."""

_LEAST_LOCK_TIMEOUT_MS = 20

LOCK_PATIENCE_S = 60.0
_LOCK_RETRY_S = (0.2, 0.5, 1.0, 2.0, 3.0)

_LOOKING = "reading what is installed"


def desired(config: Config) -> Desired:
    """What this configuration needs in the database."""
    source = config.source
    tables = {(rule.schema, rule.table) for rule in config.rules if rule.message_prefix is None}
    return Desired(
        SourceSettings(
            dsn=source.dsn,
            primary_dsn=source.primary_dsn,
            slot=source.slot,
            publication=source.publication,
            plugin=source.plugin,
        ),
        tuple(sorted(table for table in tables if config.ignore.get(table) != "*")),
        {name: columns for name, columns in config.ignore.items() if isinstance(columns, frozenset)},
        mode="trigger" if source.mode == "trigger" else "wal",
        is_strict=source.capture == "strict",
    )


def plan(wanted: Desired) -> Plan:
    """
    What is missing; changes nothing.

    Raises:
        SourceError: A server cannot be asked.
    """
    with _Servers(wanted.settings) as servers:
        return servers.decide(wanted)


def apply(wanted: Desired) -> list[str]:
    """
    Make what is missing. A second time it finds nothing to do.

    Everything is made in one transaction, except the slot: that comes after it, because a slot cannot see a publication
    that is younger than itself. Triggers wait for the transactions that have written to their tables, half a second
    at a time, and who is in the way is logged.

    Returns:
        The statements that were run.

    Raises:
        PreflightFailed: Something is in the way; nothing was changed.
        SourceUnavailable: Long transactions left no room for a trigger; nothing was changed. Retryable.
        SourceError: A server refused, or cannot be reached.
    """
    with _Servers(wanted.settings) as servers:
        return servers.apply(wanted)


def plan_drop(wanted: Desired, *, slot_only: bool = False) -> Plan:
    """
    What `drop` would remove; changes nothing.

    Raises:
        SourceError: A server cannot be asked.
    """
    with _Servers(wanted.settings) as servers:
        return servers.decide_drop(wanted, slot_only=slot_only)


def drop(wanted: Desired, *, slot_only: bool = False) -> list[str]:
    """
    Remove the slot and, unless `slot_only`, what else is ours, of either mode.

    Returns:
        The statements that were run.

    Raises:
        PreflightFailed: Triggers of ours are on a table our role does not own, or somebody reads the outbox; nothing
            was removed.
        SlotInUse: Somebody reads the slot; nothing was removed.
        SourceUnavailable: Long transactions hold a table with triggers of ours. Retryable.
        SourceError: A server refused, or cannot be reached.
    """
    with _Servers(wanted.settings) as servers:
        decided = servers.decide_drop(wanted, slot_only=slot_only)
        if decided.blocking:
            raise PreflightFailed(decided.blocking)
        return servers.execute(_parts(decided))


class _Servers:
    """The server that is read, and the one that is written to; the same where it is a primary."""

    def __init__(self, settings: SourceSettings) -> None:
        self._stack = ExitStack()
        self._settings = settings
        self._waits_for: TableName | None = None
        with ExitStack() as stack:
            self.source = stack.enter_context(Session(settings.dsn))
            self.primary = self.source
            if settings.primary_dsn is not None:
                self.primary = stack.enter_context(Session(settings.primary_dsn))
            self._stack = stack.pop_all()

    def __enter__(self) -> _Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # Looking and deciding ------------------------------------------------------------------------

    def decide(self, wanted: Desired) -> Plan:
        """What is missing."""
        live = self._look(wanted.settings)
        outbox = self._look_at_outbox(live, is_wanted=wanted.mode == "trigger")
        if wanted.mode == "wal":
            return self._render(decide(wanted, live, outbox_plan.leave(wanted, live, outbox)))
        numbers = outbox_plan.leaving_numbers(wanted, live, outbox) if outbox.has_tables else []
        if numbers:
            found = self.primary.rows(read_sql("queries/captured_tables.sql"), {"ids": numbers}, doing=_LOOKING)
            outbox = replace(outbox, captured=frozenset(number for (number,) in found))
        if outbox.is_other_servers and outbox.has_tables:
            outbox = self._count_undelivered(outbox)
        return self._render(outbox_plan.decide(wanted, live, outbox))

    def decide_drop(self, wanted: Desired, *, slot_only: bool) -> Plan:
        """What is ours."""
        live = self._look(wanted.settings)
        outbox = self._look_at_outbox(live, is_wanted=False)
        if outbox.has_tables and not slot_only:
            outbox = self._count_undelivered(outbox)
        removal = outbox_plan.remove(live, outbox)
        return self._render(decide_drop(wanted, live, slot_only=slot_only, outbox=removal))

    def _count_undelivered(self, outbox: Outbox) -> Outbox:
        ((undelivered, failures, read_by),) = self.primary.rows(
            read_sql("queries/undelivered.sql"), doing="counting what is not delivered", timeout_s=600
        )
        return replace(outbox, undelivered=undelivered, failures=failures, read_by=read_by)

    def _look(self, settings: SourceSettings) -> Live:
        """Read what is there."""
        ((database,),) = self.source.rows("select current_database()::text")
        own = self.primary.rows(read_sql("queries/own_objects.sql"), doing=_LOOKING)
        (ownership,) = self.primary.rows(read_sql("queries/owner_role.sql"), doing=_LOOKING)
        return Live(
            server_version=self.primary.server_version,
            source=_readiness(self.source),
            primary=_readiness(self.primary),
            tables={(table.relation.schema, table.relation.table): table for table in read_relations(self.primary)},
            publication=read_publication(self.primary, settings.publication),
            slot=slots.read_status(self.source, settings.slot),
            database=database,
            own_objects={(kind, name): mark for kind, name, mark, _ in own},
            superusers_objects=frozenset((kind, name) for kind, name, _, is_superusers in own if is_superusers),
            ownership=Ownership(*ownership),
        )

    def _look_at_outbox(self, live: Live, *, is_wanted: bool) -> Outbox:
        """Read what is there of trigger mode; and, where it is wanted, what it has to know of the tables."""
        there = {name for kind, name in live.own_objects if kind == "relation"}
        last_number, server, lc_monetary = 0, "", ""
        tables: list[tuple[Any, ...]] = []
        casts: list[tuple[Any, ...]] = []
        if is_wanted:
            casts = self.primary.rows(read_sql("queries/json_casts.sql"), doing=_LOOKING)
            ((server, lc_monetary),) = self.primary.rows(read_sql("queries/this_server.sql"), doing=_LOOKING)
            tables = self.primary.rows(read_sql("queries/capture_tables.sql"), doing=_LOOKING)
        tracked: list[Tracked] = []
        if "tracked" in there:
            ((last_number,),) = self.primary.rows(read_sql("queries/last_number.sql"), doing=_LOOKING)
            for number, oid, schema, name, ignored in self.primary.rows(
                read_sql("queries/tracked.sql"), doing=_LOOKING
            ):
                tracked.append(Tracked(number, oid, (schema, name), ignored))
        reader = self.primary.rows(read_sql("queries/reader_server.sql"), doing=_LOOKING) if "reader" in there else []
        under_way = switch.read_switch(self.primary)
        triggers = self.primary.rows(read_sql("queries/capture_triggers.sql"), doing=_LOOKING)
        return Outbox(
            has_tables=there.issuperset(OUTBOX_OBJECTS),
            tracked=tuple(tracked),
            last_number=last_number,
            reader_server=reader[0][0] if reader else None,
            is_same_outbox=not reader or reader[0][1],
            server=server,
            switch_to=under_way.to_mode if under_way is not None else None,
            triggers=tuple(Trigger(oid, (schema, table), *rest) for oid, schema, table, *rest in triggers),
            may_trigger=frozenset(oid for oid, may, _, _ in tables if may),
            ancestors={oid: frozenset(ancestors) for oid, _, ancestors, _ in tables if ancestors},
            subscribed=frozenset(oid for oid, _, _, is_subscribed in tables if is_subscribed),
            types=TypeCatalog(read_types(self.primary) if is_wanted else ()),
            lc_monetary=lc_monetary or "",
            json_casts=frozenset(oid for (oid,) in casts),
        )

    def _render(self, decided: Plan) -> Plan:
        """The plan with every statement as text."""
        steps = tuple(
            replace(step, text=self.primary.as_string(step.statement).rstrip().rstrip(";") + ";")
            for step in decided.steps
        )
        return Plan(steps, decided.findings, decided.notes)

    # Doing ---------------------------------------------------------------------------------------

    def apply(self, wanted: Desired) -> list[str]:
        """Decide and execute. The first transaction begins with looking: two at once do not meet in it."""
        rest: list[list[Step]] = []

        def look_and_change() -> list[str]:
            self.primary.run(read_sql("setup/one_at_a_time.sql"), doing="waiting for another `wal_tracker apply`")
            decided = self.decide(wanted)
            if decided.blocking:
                raise PreflightFailed(decided.blocking)
            rest[:] = _parts(decided)
            return self._change(rest.pop(0)) if rest and _is_ours(rest[0][0]) else []

        done = self._locked(look_and_change)
        return done + self.execute(rest)

    def execute(self, parts: list[list[Step]]) -> list[str]:
        """Run steps, in groups as `_parts` makes them."""
        done: list[str] = []
        for part in parts:
            first = part[0]
            if first.switch == "to_wal":
                self._wait_for_replay()
                texts = [step.text for step in part[1:]]
                done += switch.begin_to_wal(self._settings, self.primary, texts)
            elif first.switch == "to_trigger":
                texts = [step.text for step in part]
                done += switch.begin_to_trigger(self.primary, texts, slot=self._settings.slot)
            elif first.slot == "drop":
                slots.drop(self.source, self._settings.slot)
                done.append(first.text)
            elif first.slot == "make":
                self._wait_for_replay()
                slots.create(self._settings)
                done.append(first.text)
            else:
                done += self._locked(lambda steps=part: self._change(steps))  # type: ignore[misc]
        return done

    def _change(self, steps: list[Step]) -> list[str]:
        """Run steps in the transaction that is open."""
        first_lock = 0.0
        for step in steps:
            self._waits_for = step.waits_for
            if step.waits_for is not None and first_lock:
                # Those who wait for the first table wait for all that come after it, too.
                left_ms = LOCK_TIMEOUT_MS - int(1000 * (time.monotonic() - first_lock))
                self.primary.run(f"set local lock_timeout = {max(left_ms, _LEAST_LOCK_TIMEOUT_MS)}")
            self.primary.run(step.text, doing=f"running {step.text.splitlines()[0]}")
            if step.waits_for is not None and not first_lock:
                first_lock = time.monotonic()
        self._waits_for = None
        return [step.text for step in steps]

    def _locked(self, work: Callable[[], list[str]]) -> list[str]:
        """
        Do something in one transaction, again and again while somebody else holds a table it needs.

        Raises:
            SourceUnavailable: Somebody still does after `LOCK_PATIENCE_S`.
        """
        deadline = time.monotonic() + LOCK_PATIENCE_S
        for attempt in itertools.count():
            self.primary.run("begin")
            try:
                self.primary.run(f"set local lock_timeout = {LOCK_TIMEOUT_MS}")
                done = work()
                self.primary.run("commit")
            except BaseException as error:
                # Where the connection is gone the server has rolled back by itself.
                with suppress(SourceError):
                    self.primary.run("rollback")
                if not isinstance(error, SourceUnavailable) or not _is_lock_timeout(error):
                    raise
                who = self._who_is_in_the_way()
                if time.monotonic() > deadline:
                    raise SourceUnavailable(
                        f"{who}, and did for {LOCK_PATIENCE_S:g} s; nothing was changed. Run `wal_tracker apply` "
                        "again once that transaction has ended, or end it: select pg_terminate_backend(pid)"
                    ) from error.__cause__
                logger.warning("%s; trying again", who)
                time.sleep(_LOCK_RETRY_S[min(attempt, len(_LOCK_RETRY_S) - 1)])
            else:
                return done
        raise AssertionError

    def _who_is_in_the_way(self) -> str:
        """A sentence on who holds the table the last statement waited for."""
        if self._waits_for is None:
            return "another session holds what is to be changed"
        name = ".".join(self._waits_for)
        values = {"table": ".".join(map(quoted, self._waits_for))}
        found = self.primary.rows(read_sql("queries/lock_holders.sql"), values, doing="asking who holds a table")
        holders = [
            f"process {pid} of {user} ({application}), {state}, in a transaction for {age:.0f} s"
            for pid, user, application, state, age in found
            if age is not None
        ]
        return f"{name} is held by " + ("; ".join(holders) or "a transaction that has just ended")

    def _wait_for_replay(self) -> None:
        """On a standby, wait for what was just made on its primary: a slot does not see younger publications."""
        if self.source is self.primary:
            return
        target = slots.end_of_wal(self.primary)
        deadline = time.monotonic() + _REPLAY_TIMEOUT_S
        while slots.end_of_wal(self.source) < target:
            if time.monotonic() > deadline:
                raise SourceUnavailable(
                    f"the standby has not replayed up to {target} within {_REPLAY_TIMEOUT_S:g} s; the slot was not "
                    "made. Run `wal_tracker apply` again once it has caught up"
                )
            time.sleep(0.05)


def read_publication(session: Session, publication: str) -> Publication | None:
    """
    A publication as it is; None where there is none.

    Raises:
        SourceError: The server cannot be asked.
    """
    names = {"publication": publication}
    doing = f"reading publication {publication!r}"
    found = session.rows(read_sql("queries/publication.sql"), names, doing=doing)
    if not found:
        return None
    ((for_all, has_all, via_root, mark),) = found
    has_lists = session.server_version >= COLUMN_LISTS_SINCE
    file = "queries/publication_tables.sql" if has_lists else "queries/publication_tables_14.sql"
    tables = {
        (schema, name): (None if numbers is None else frozenset(numbers), row_filter)
        for schema, name, numbers, row_filter in session.rows(read_sql(file), names, doing=doing)
    }
    return Publication(for_all, has_all, via_root, mark, tables)


def _readiness(session: Session) -> Readiness:
    (row,) = session.rows(read_sql("queries/readiness.sql"), doing="asking what the server allows")
    return Readiness(*row)


def _is_ours(step: Step) -> bool:
    """Whether it runs in a transaction of ours on the primary."""
    return not step.slot and not step.switch


def _parts(decided: Plan) -> list[list[Step]]:
    """The steps in groups of one transaction, or one call, each."""
    return [list(group) for _, group in itertools.groupby(decided.steps, key=lambda step: (step.slot, step.switch))]


def _is_lock_timeout(error: SourceUnavailable) -> bool:
    code = getattr(error.__cause__, "pgcode", None)
    return code in (psycopg2.errorcodes.LOCK_NOT_AVAILABLE, psycopg2.errorcodes.DEADLOCK_DETECTED)
