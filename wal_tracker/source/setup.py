"""Plan, apply and drop what WAL mode needs in the database; `wal_tracker.source.plan` decides what that is."""

from __future__ import annotations

import time
from contextlib import ExitStack

from wal_tracker.config.model import Config
from wal_tracker.errors import PreflightFailed, SourceUnavailable
from wal_tracker.source import slot as slots
from wal_tracker.source.catalog import read_relations
from wal_tracker.source.connection import Session, SourceSettings, read_sql
from wal_tracker.source.plan import (
    COLUMN_LISTS_SINCE,
    Desired,
    Live,
    Plan,
    Publication,
    Readiness,
    Step,
    decide,
    decide_drop,
)

_REPLAY_TIMEOUT_S = 60.0


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
        tuple(sorted(tables)),
        {name: columns for name, columns in config.ignore.items() if isinstance(columns, frozenset)},
    )


def plan(wanted: Desired) -> Plan:
    """
    What is missing; changes nothing.

    Raises:
        SourceError: A server cannot be asked.
    """
    with _Servers(wanted.settings) as servers:
        return servers.render(decide(wanted, servers.look(wanted.settings)))


def apply(wanted: Desired) -> list[str]:
    """
    Make what is missing. A second time it finds nothing to do.

    Publication and functions are made in one transaction; the slot after it, because a slot cannot see a publication
    that is younger than itself.

    Returns:
        The statements that were run.

    Raises:
        PreflightFailed: Something is in the way; nothing was changed.
        SourceError: A server refused, or cannot be reached.
    """
    with _Servers(wanted.settings) as servers:
        decided = servers.render(decide(wanted, servers.look(wanted.settings)))
        if decided.blocking:
            raise PreflightFailed(decided.blocking)
        return servers.execute(decided)


def plan_drop(wanted: Desired, *, slot_only: bool = False) -> Plan:
    """
    What `drop` would remove; changes nothing.

    Raises:
        SourceError: A server cannot be asked.
    """
    with _Servers(wanted.settings) as servers:
        return servers.render(decide_drop(wanted, servers.look(wanted.settings), slot_only=slot_only))


def drop(wanted: Desired, *, slot_only: bool = False) -> list[str]:
    """
    Remove the slot and, unless `slot_only`, what else is ours.

    Returns:
        The statements that were run.

    Raises:
        SlotInUse: Somebody reads the slot; nothing was removed.
        SourceError: A server refused, or cannot be reached.
    """
    with _Servers(wanted.settings) as servers:
        decided = decide_drop(wanted, servers.look(wanted.settings), slot_only=slot_only)
        return servers.execute(servers.render(decided))


class _Servers:
    """The server that is read, and the one that is written to; the same where it is a primary."""

    def __init__(self, settings: SourceSettings) -> None:
        self._stack = ExitStack()
        self._settings = settings
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

    def look(self, settings: SourceSettings) -> Live:
        """Read what is there."""
        ((database,),) = self.source.rows("select current_database()::text")
        own = self.primary.rows(read_sql("queries/own_objects.sql"), doing="reading what is installed")
        return Live(
            server_version=self.primary.server_version,
            source=_readiness(self.source),
            primary=_readiness(self.primary),
            tables={(table.relation.schema, table.relation.table): table for table in read_relations(self.primary)},
            publication=read_publication(self.primary, settings.publication),
            slot=slots.read_status(self.source, settings.slot),
            database=database,
            own_objects={(kind, name): mark for kind, name, mark in own},
        )

    def render(self, decided: Plan) -> Plan:
        """The plan with every statement as text."""
        steps = tuple(
            Step(step.statement, step.where, step.why, step.slot, self.primary.as_string(step.statement).rstrip() + ";")
            for step in decided.steps
        )
        return Plan(steps, decided.findings, decided.notes)

    def execute(self, decided: Plan) -> list[str]:
        """Run the steps: dropping the slot first, making it last, the rest between in one transaction."""
        done: list[str] = []
        for step in decided.steps:
            if step.slot == "drop":
                slots.drop(self.source, self._settings.slot)
                done.append(step.text)
        changes = [step for step in decided.steps if not step.slot]
        if changes:
            self.primary.run("begin")
            for step in changes:
                # On an error the session ends with us, and the server rolls back.
                self.primary.run(step.text, doing=f"running {step.text.splitlines()[0]}")
                done.append(step.text)
            self.primary.run("commit")
        for step in decided.steps:
            if step.slot == "make":
                self._wait_for_replay()
                slots.create(self._settings)
                done.append(step.text)
        return done

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
