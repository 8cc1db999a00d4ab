"""
What trigger mode needs in the database, held against what is there. Pure: `wal_tracker.source.setup` asks and tells.

A table is known by its number, `wal_tracker.tracked.id`, which its capture function carries. Which table has a number
is what the triggers say; where there are none, the object identifier, and after a restore the name. A capture
function's mark holds a fingerprint of what it was made from, so that ignored columns, the capture mode and changed
column types are followed, and a second `apply` changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from psycopg2 import sql

from wal_tracker.pgtypes import PgType, PgTypeKind, TypeCatalog
from wal_tracker.source.catalog import Table, TableKind
from wal_tracker.source.connection import read_sql
from wal_tracker.source.plan import (
    FUNCTION_MARK,
    MARK,
    Desired,
    Draft,
    Finding,
    Leaving,
    Live,
    Plan,
    Step,
    TableName,
    composed,
    filled,
    quoted,
)

CAPTURE_TRIGGERS = ("00_wal_tracker_capture", "00_wal_tracker_capture_truncate")
"""The names of our triggers, on every tracked table: triggers fire in the order of their names, and ours come first."""

OUTBOX_OBJECTS = ("signal", "outbox", "outbox_0", "outbox_1", "tracked", "claim", "reader", "capture_failure", "switch")
"""What sql/outbox/tables.sql makes."""

_CAPTURE = re.compile(r"capture_(\d+)")

# The types whose text is the same in every session. Date and time are, too: row_to_json writes them as ISO 8601.
_SETTLED = frozenset(
    {
        "boolean", "smallint", "integer", "bigint", "numeric", "oid", "text", "character varying", "character",
        '"char"', "name", "uuid", "json", "jsonb", "date", "time without time zone", "time with time zone",
        "timestamp without time zone", "timestamp with time zone", "inet", "cidr", "macaddr", "macaddr8", "bit",
        "bit varying", "xml", "tid", "xid", "xid8", "cid", "pg_lsn", "tsvector", "tsquery", "jsonpath", "int4range",
        "int8range", "numrange", "int4multirange", "int8multirange", "nummultirange",
    }
)  # fmt: skip
_SETTLED_EXTENSIONS = frozenset({"citext", "hstore", "ltree"})

_SETTINGS = (
    "\nset datestyle = 'ISO'\nset timezone = 'UTC'\nset intervalstyle = 'postgres'\nset extra_float_digits = 1"
    "\nset bytea_output = 'hex'"
)
_MONEY = 790
_JSON = 114


@dataclass(frozen=True, slots=True)
class Tracked:
    """A row of wal_tracker.tracked: a table with a number, as it was called last."""

    id: int
    relation: int
    name: TableName
    ignored: Mapping[str, int] = field(default_factory=dict)
    """Of the ignored columns the table had: their numbers, which a column keeps when it is renamed."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger that is ours, or has the name of one of ours."""

    relation: int
    table: TableName
    name: str
    function: str | None
    """Of schema wal_tracker; None: of another."""
    is_enabled: bool
    may_drop: bool
    """Our role may act as the table's owner."""

    @property
    def number(self) -> int | None:
        """The number its function carries; None: it is not ours."""
        found = _CAPTURE.fullmatch(self.function or "")
        return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Outbox:
    """What is there of trigger mode."""

    has_tables: bool
    """All of them; False, too, where some are missing."""
    tracked: tuple[Tracked, ...]
    last_number: int
    """The highest number ever given."""
    reader_server: str | None
    """The server the captured transaction ids belong to; None: nobody reads yet."""
    server: str
    switch_to: str | None
    """The mode a change under way goes to."""
    triggers: tuple[Trigger, ...]
    may_trigger: frozenset[int]
    """Tables on which our role may create triggers."""
    ancestors: Mapping[int, frozenset[int]]
    """Of a partition: what it is a partition of, at any level."""
    types: TypeCatalog
    lc_monetary: str
    subscribed: frozenset[int] = frozenset()
    """Tables a subscription writes to, past our triggers."""
    json_casts: frozenset[int] = frozenset()
    """Types whose conversion to JSON is a function some user made."""
    is_same_outbox: bool = True
    """It can be the one its reader was made for, and was not restored from a dump."""
    captured: frozenset[int] = frozenset()
    """Of the numbers `leaving_numbers` names: those the outbox holds rows of."""
    undelivered: int = 0
    """Captured changes that are not durable everywhere; asked only before the outbox is dropped or emptied."""
    failures: int = 0
    read_by: str | None = None
    """Who reads the outbox now."""

    @property
    def is_other_servers(self) -> bool:
        """Restored from a dump: its transaction ids mean nothing here."""
        return self.reader_server is not None and not self.is_same_outbox

    @property
    def is_upgraded(self) -> bool:
        """The server was upgraded in place: another identifier, and the same transaction ids."""
        return self.reader_server is not None and self.is_same_outbox and self.reader_server != self.server

    @property
    def has_triggers(self) -> bool:
        """Something is captured."""
        return any(trigger.number is not None for trigger in self.triggers)


def decide(wanted: Desired, live: Live, outbox: Outbox) -> Plan:
    """Hold what trigger mode wants against what is there. Pure."""
    draft = _Draft(wanted, live, outbox)
    if live.primary.in_recovery:
        draft.find("source.dsn is a standby; trigger mode works on the primary", "give source.primary_dsn")
    if outbox.switch_to == "wal":
        draft.find("a change to mode wal is under way", "finish it first: `wal_tracker run --mode wal`")
    is_able = draft.functions()
    split = len(draft.steps)
    is_able = is_able and draft.outbox_tables()
    draft.tables(is_able=is_able)
    if draft.steps:
        draft.schema()
    slot = live.slot
    is_leftover = slot is not None and slot.database == live.database and outbox.switch_to is None
    if is_leftover and outbox.has_triggers:
        statement = filled("queries/drop_slot.sql", slot=wanted.settings.slot)
        why = "a change to mode wal made it and was not begun; it keeps WAL that nobody reads"
        draft.steps.append(Step(statement, "source", why, slot="drop", change=f"- slot {wanted.settings.slot}"))
    elif is_leftover:
        draft.notes.append(
            f"mode changes from wal to trigger: what commits before the triggers are made comes by slot "
            f"{wanted.settings.slot!r}, everything later by the outbox; then `wal_tracker run` drops the slot"
        )
        draft.steps[split:] = [replace(step, switch="to_trigger") for step in draft.steps[split:]]
    elif outbox.switch_to is None and live.publication is not None and live.publication.mark == MARK:
        name = sql.Identifier(wanted.settings.publication)
        change = f"- publication {wanted.settings.publication}"
        draft.step("setup/drop_publication.sql", "nothing is decoded in trigger mode", publication=name, change=change)
    elif outbox.switch_to == "trigger":
        draft.notes.append("a change to mode trigger is under way; `wal_tracker run --mode trigger` finishes it")
    return draft.plan()


def leave(wanted: Desired, live: Live, outbox: Outbox) -> Leaving:
    """What WAL mode does about triggers and an outbox it finds. Pure."""
    if outbox.switch_to == "trigger":
        finding = Finding("a change to mode trigger is under way", "finish it first: `wal_tracker run --mode trigger`")
        return Leaving(findings=(finding,))
    if not outbox.has_tables:
        return remove(live, outbox)
    stays = [trigger for trigger in outbox.triggers if trigger.number is not None and not trigger.may_drop]
    findings = tuple(_may_not_drop(trigger, live) for trigger in stays)
    if findings:
        return Leaving(findings=findings)
    removal = [*_drop_triggers(outbox), *_drop_functions(live)]
    if outbox.switch_to == "wal":
        note = "a change to mode wal is under way; `wal_tracker run --mode wal` finishes it and removes the outbox"
        return Leaving(steps=tuple(removal), notes=(note,))
    if not outbox.has_triggers and live.slot is not None:
        return remove(live, outbox)
    slot = wanted.settings.slot
    text = f"-- slot {slot!r} is made; the transaction that removes the triggers is marked in the WAL, and noted"
    begin = Step(sql.SQL(text), "source", "the change of mode", switch="to_wal", change=f"+ slot {slot}")
    note = (
        f"mode changes from trigger to wal: what commits before the triggers are removed comes by the outbox, "
        f"everything later by slot {slot!r}; then `wal_tracker run` removes the outbox"
    )
    steps = (begin, *(replace(step, switch="to_wal") for step in removal))
    return Leaving(is_switch=True, steps=steps, notes=(note,))


def remove(live: Live, outbox: Outbox) -> Leaving:
    """Everything of trigger mode, with what was not delivered. Pure."""
    stays = [trigger for trigger in outbox.triggers if trigger.number is not None and not trigger.may_drop]
    if stays:
        return Leaving(findings=tuple(_may_not_drop(trigger, live) for trigger in stays))
    if outbox.read_by is not None:
        return Leaving(findings=(Finding(f"{outbox.read_by} reads the outbox", "stop that `wal_tracker run` first"),))
    steps = [*_drop_triggers(outbox), *_drop_functions(live)]
    notes = []
    objects = {("function", name) for name in _functions(live)}
    tables = {("relation", name) for name in OUTBOX_OBJECTS}
    found = tables & live.own_objects.keys()
    if found and all(live.own_objects[one] == MARK for one in found):
        why = "nothing writes to the outbox any more"
        steps.append(Step(composed("outbox/drop_tables.sql"), "primary", why, change="- outbox"))
        objects |= found
        if outbox.undelivered:
            notes.append(f"{outbox.undelivered} captured changes are not delivered yet and go with the outbox")
        if outbox.failures:
            notes.append(f"{outbox.failures} failed captures are on record and go with the outbox")
    return Leaving(steps=tuple(steps), notes=tuple(notes), objects=frozenset(objects))


def leaving_numbers(wanted: Desired, live: Live, outbox: Outbox) -> list[int]:
    """The numbers of tables that are tracked no longer: of these it matters whether the outbox holds rows. Pure."""
    draft = _Draft(wanted, live, outbox)
    return sorted(set(draft.known) - set(draft.numbers().values()))


@dataclass(frozen=True, slots=True)
class _Known:
    """A table with a number, and which table that is now."""

    number: int
    table: Table | None
    tracked: Tracked | None


class _Draft(Draft):
    """A plan for trigger mode in the making."""

    def __init__(self, wanted: Desired, live: Live, outbox: Outbox) -> None:
        super().__init__(wanted, live)
        self._outbox = outbox
        self._by_oid = {table.relation.relation_id: table for table in live.tables.values()}
        self.known = {one.number: one for one in self._identify()}
        self._tracked_now = {
            table.relation.relation_id for name in wanted.tables if (table := live.tables.get(name)) is not None
        }

    def outbox_tables(self) -> bool:
        """The outbox, and from where on it is read; False where our role may not make it."""
        has_tables = self._outbox.has_tables
        is_superusers = any(self._is_superusers("relation", name) for name in OUTBOX_OBJECTS)
        if (not has_tables or is_superusers) and not self.schema():
            return False
        if not has_tables:
            self.step("outbox/tables.sql", "where captured changes wait", change="+ outbox")
            self.notes.append(
                "leave the outbox out of dumps (`pg_dump --exclude-schema=wal_tracker`): while one runs nothing is "
                "removed from it, and one on a standby is cancelled when something is"
            )
            if not self.wanted.is_strict:
                self.notes.append(
                    "capture: tolerant takes a transaction id of its own for every captured row; tables that are "
                    "written millions of rows at a time are better captured strictly (source.capture), or by WAL"
                )
        if self.owner is not None and (not has_tables or is_superusers):
            owner = sql.Identifier(self.owner)
            self.step("outbox/give_tables.sql", "capture functions run with their owner's rights", owner=owner)
        if self._outbox.is_other_servers:
            self.step("outbox/forget_other_server.sql", "it came with a restore", change="~ outbox: emptied")
            self.notes.append(
                "the outbox came with a restore: what another database captured is that one's to deliver, and goes"
            )
            if self._outbox.undelivered:
                self.find(
                    f"{self._outbox.undelivered} captured changes came with the restore, were not delivered by then, "
                    "and go",
                    "where the database of the dump is gone, they are lost: nobody else delivers them",
                    is_blocking=False,
                )
        if self._outbox.is_upgraded:
            why = "the server was upgraded in place"
            self.step("outbox/follow_server.sql", why, change="~ outbox: read on, after an upgrade of the server")
        elif self._outbox.reader_server is None or self._outbox.is_other_servers:
            self.step("outbox/make_reader.sql", "what commits from now on is captured")
        return True

    def tables(self, *, is_able: bool) -> None:
        """Numbers, functions and triggers: first what waits for nobody, then what waits for the tables' writers."""
        capturable = {table.relation.relation_id: table for table in self._capturable()}
        if not is_able:
            return
        numbers = {oid: number for oid, number in self.numbers().items() if oid in capturable}
        for oid, number in numbers.items():
            self._number(number, capturable[oid])
            self._function(number, capturable[oid])
        wrong = [
            trigger
            for trigger in self._outbox.triggers
            if trigger.number is not None and numbers.get(trigger.relation) != trigger.number
        ]
        for trigger in wrong:
            self._drop(trigger)
        for oid, number in numbers.items():
            self._triggers(number, capturable[oid])
        self._forget({number for number in self.known if number not in numbers.values()}, wrong)

    def numbers(self) -> dict[int, int]:
        """The number of each wanted table, by its object identifier: its own, or the next one."""
        has: dict[int, int] = {}
        for one in self.known.values():
            if one.table is not None:
                has.setdefault(one.table.relation.relation_id, one.number)
        following = max([self._outbox.last_number, *self.known]) + 1
        numbers = {}
        for name in self.wanted.tables:
            table = self.live.tables.get(name)
            if table is None:
                continue
            number = has.get(table.relation.relation_id)
            if number is None:
                number, following = following, following + 1
            numbers[table.relation.relation_id] = number
        return numbers

    def _identify(self) -> Iterator[_Known]:
        """Each number that was given, with its table as it is now."""
        outbox = self._outbox
        by_trigger: dict[int, int] = {}
        for trigger in outbox.triggers:
            if trigger.number is not None:
                by_trigger.setdefault(trigger.number, trigger.relation)
        tracked = {one.id: one for one in outbox.tracked}
        functions = {int(_CAPTURE.fullmatch(name)[1]) for name in _functions(self.live)}  # type: ignore[index]
        for number in sorted({*by_trigger, *tracked, *functions}):
            row = tracked.get(number)
            table = self._by_oid.get(by_trigger.get(number, 0))
            if table is None and row is not None:
                same = self._by_oid.get(row.relation) if not outbox.is_other_servers else None
                table = same if same is not None and _name(same) == row.name else self.live.tables.get(row.name)
            yield _Known(number, table, row)

    def _capturable(self) -> Iterator[Table]:
        """The tracked tables that can have triggers of ours; a finding for each of the others."""
        role = self.live.primary.role
        renamed = {one.tracked.name: one.table for one in self.known.values() if one.tracked and one.table}
        for schema, name in self.wanted.tables:
            table = self.live.tables.get((schema, name))
            if schema == "wal_tracker":
                self.find(f"{schema}.{name} is wal_tracker's own: capturing it would never end")
            elif table is None:
                now = renamed.get((schema, name))
                remedy = f"it is called {now.relation.name} now; track it by that name" if now is not None else ""
                self.find(f"there is no table {schema}.{name}", remedy)
            elif table.kind not in (TableKind.TABLE, TableKind.PARTITIONED):
                what = table.kind.name.lower().replace("_", " ")
                self.find(f"{schema}.{name} is a {what}: its changes cannot be captured by triggers")
            elif roots := self._outbox.ancestors.get(table.relation.relation_id, frozenset()) & self._tracked_now:
                root = self._by_oid[min(roots)].relation.name
                self.find(f"{schema}.{name} is a partition of {root}: its changes come as {root}'s", is_blocking=False)
            elif theirs := self._triggers_of_others(table):
                self.find(
                    f"{schema}.{name} has a trigger {theirs[0]} that wal_tracker did not make",
                    f"run: alter trigger {quoted(theirs[0])} on {quoted(schema)}.{quoted(name)} rename to another;",
                )
            elif renamed_column := self._renamed_column(table):
                before, after = renamed_column
                self.find(
                    f"{schema}.{name} has a column {after} that was called {before}, which is ignored; under its new "
                    "name it is captured",
                    f"ignore {after}, or {before} no longer",
                )
            elif cast := self._casts_of_users(table):
                self.find(
                    f"{schema}.{name} has a column {cast} of a type with a cast to json that is no extension's: our "
                    "capture function would call it, with the rights of who owns the outbox",
                    "drop that cast, or capture by mode wal",
                )
            elif table.relation.relation_id not in self._outbox.may_trigger:
                self.find(
                    f"role {role!r} may not create triggers on {schema}.{name}",
                    f"run: grant trigger on {quoted(schema)}.{quoted(name)} to {quoted(role)};",
                )
            else:
                if table.relation.relation_id in self._outbox.subscribed:
                    self.find(
                        f"a subscription writes to {schema}.{name}, and what it writes fires no trigger of ours",
                        f"to capture that, too, its owner runs after apply: alter table {quoted(schema)}."
                        f"{quoted(name)} enable always trigger {quoted(CAPTURE_TRIGGERS[0])};",
                        is_blocking=False,
                    )
                yield table

    def _triggers_of_others(self, table: Table) -> list[str]:
        """The triggers that have a name of ours, and are not."""
        return [
            trigger.name
            for trigger in self._outbox.triggers
            if trigger.relation == table.relation.relation_id
            and trigger.number is None
            and trigger.name in CAPTURE_TRIGGERS
        ]

    def _renamed_column(self, table: Table) -> tuple[str, str] | None:
        """An ignored column that has another name since `apply`, by which it is not ignored: the two names."""
        hidden = self.wanted.ignored.get(_name(table), frozenset())
        names = dict(table.numbers)
        for one in self.known.values():
            if one.tracked is None or one.tracked.relation != table.relation.relation_id or one.table is not table:
                continue
            for before, number in one.tracked.ignored.items():
                after = names.get(number, before)
                if before in hidden and after not in {before, *hidden}:
                    return before, after
        return None

    def _casts_of_users(self, table: Table) -> str:
        """The first column whose conversion to JSON runs a user's function; empty: there is none."""
        for column in table.relation.columns:
            if _leaves(column.type_oid, self._outbox.types) & self._outbox.json_casts:
                return column.name
        return ""

    def _number(self, number: int, table: Table) -> None:
        """The table's row in wal_tracker.tracked."""
        known = self.known.get(number)
        row = known.tracked if known is not None else None
        hidden = self.wanted.ignored.get(_name(table), frozenset())
        ignored = {column: number for number, column in sorted(table.numbers) if column in hidden}
        names = {
            "id": sql.Literal(number),
            "table": _regclass(table),
            "schema_name": sql.Literal(table.relation.schema),
            "table_name": sql.Literal(table.relation.table),
            "ignored": sql.Literal(json.dumps(ignored)),
        }
        if row is None:
            self.step("outbox/track.sql", "a rule tracks it", **names)
        elif (row.relation, row.name) != (table.relation.relation_id, _name(table)):
            why = f"it was called {'.'.join(row.name)}" if row.name != _name(table) else "it was made anew"
            self.step("outbox/follow_table.sql", why, change=f"~ {table.relation.name}: {why}", **names)
        elif row.ignored != ignored:
            self.step("outbox/follow_table.sql", "it has other ignored columns", **names)

    def _function(self, number: int, table: Table) -> None:
        """The table's capture function, in today's edition."""
        function = f"capture_{number}"
        # Also those the table does not have: it may get them tomorrow.
        hidden = sorted(self.wanted.ignored.get(_name(table), ()))
        settings = self._settings(table)
        has_json = any(_JSON in _leaves(column.type_oid, self._outbox.types) for column in table.relation.columns)
        rows = {record: _row(record, hidden, has_json=has_json) for record in ("old", "new")}
        mark = _mark(number, settings, rows, is_strict=self.wanted.is_strict)
        found = self.live.own_objects.get(("function", function))
        qualified = sql.Identifier("wal_tracker", function)
        is_superusers = self._is_superusers("function", function)
        if found != mark:
            without = f" without {', '.join(hidden)}" if hidden else ""
            why = f"captures {table.relation.name}{without}"
            change = f"~ {table.relation.name} is captured{without}" if found is not None else ""
            failure = sql.SQL("")
            if not self.wanted.is_strict:
                failure = sql.SQL("{}\n").format(composed("outbox/on_failure.sql", relation=sql.Literal(number)))
            self.step(
                "outbox/capture.sql", why, function=sql.Identifier(function), relation=sql.Literal(number),
                settings=sql.SQL(settings), **rows, on_failure=failure, change=change,
            )  # fmt: skip
            self.step("outbox/guard_capture.sql", "only triggers call it", function=qualified)
            self.step("outbox/mark_capture.sql", "so that we know it", function=qualified, mark=sql.Literal(mark))
        if self.owner is not None and (found is None or is_superusers):
            self.step(
                "outbox/give_capture.sql", "it runs with its owner's rights", function=qualified,
                owner=sql.Identifier(self.owner),
            )  # fmt: skip

    def _settings(self, table: Table) -> str:
        """The settings a capture function runs under, for the sake of the table's columns."""
        columns = [column.type_oid for column in table.relation.columns if column.name not in table.generated]
        types = self._outbox.types
        if all(is_settled(oid, types) for oid in columns):
            return ""
        if self._outbox.lc_monetary and any(_MONEY in _leaves(oid, types) for oid in columns):
            escaped = self._outbox.lc_monetary.replace("'", "''")
            return f"{_SETTINGS}\nset lc_monetary = '{escaped}'"
        return _SETTINGS

    def _triggers(self, number: int, table: Table) -> None:
        """The table's triggers: there, ours, and enabled."""
        found = {
            trigger.name: trigger
            for trigger in self._outbox.triggers
            if trigger.relation == table.relation.relation_id and trigger.number == number
        }
        name = _name(table)
        if found.keys() == set(CAPTURE_TRIGGERS):
            for trigger in found.values():
                if trigger.is_enabled:
                    continue
                if not trigger.may_drop:
                    qualified = ".".join(map(quoted, name))
                    self.find(
                        f"trigger {trigger.name} on {table.relation.name} is disabled: its changes are not captured",
                        f"its owner runs: alter table {qualified} enable trigger {quoted(trigger.name)};",
                    )
                    continue
                self.step(
                    "outbox/enable_trigger.sql", "somebody has disabled it", waits_for=name,
                    table=sql.Identifier(*name), trigger=sql.Identifier(trigger.name),
                    change=f"~ trigger {trigger.name} on {table.relation.name} is enabled",
                )  # fmt: skip
            return
        for trigger in found.values():
            self._drop(trigger)
        hidden = sorted(self.wanted.ignored.get(name, ()))
        self.step(
            "outbox/create_triggers.sql", f"captures {table.relation.name}", waits_for=name,
            table=sql.Identifier(*name), function=sql.Identifier("wal_tracker", f"capture_{number}"),
            change=f"+ {table.relation.name} is captured" + (f" without {', '.join(hidden)}" if hidden else ""),
        )  # fmt: skip

    def _drop(self, trigger: Trigger) -> None:
        if trigger.may_drop:
            self.steps.append(_drop_trigger(trigger, "no rule tracks it"))
        else:
            self.findings.append(replace(_may_not_drop(trigger, self.live), is_blocking=False))

    def _forget(self, numbers: set[int], wrong: Iterable[Trigger]) -> None:
        """Functions and numbers of tables that are tracked no longer."""
        held = {trigger.number for trigger in wrong if not trigger.may_drop}
        for number in sorted(numbers - held):
            function = f"capture_{number}"
            if function in _functions(self.live):
                self.steps.append(_drop_function(function, "no rule tracks its table"))
            row = self.known[number].tracked
            if row is None:
                continue
            if number in self._outbox.captured:
                self.notes.append(
                    f"the outbox still holds changes of {'.'.join(row.name)}, which no rule tracks; its number goes "
                    "with a later `wal_tracker apply`"
                )
            else:
                self.step("outbox/untrack.sql", f"no rule tracks {'.'.join(row.name)}", id=sql.Literal(number))


def _mark(number: int, settings: str, rows: Mapping[str, sql.Composable], *, is_strict: bool) -> str:
    """What a capture function's comment says: ours, the edition, and the fingerprint of what it was made from."""
    failure = "" if is_strict else read_sql("outbox/on_failure.sql")
    made_from = repr((read_sql("outbox/capture.sql"), failure, number, settings, rows))
    return f"{FUNCTION_MARK}, {hashlib.sha256(made_from.encode()).hexdigest()[:16]}"


_WITHOUT = sql.SQL(
    "(select coalesce(json_object_agg(key, value) filter (where key <> all (array[{names}]::text[])), '{{}}') "
    "from json_each({row}) having count(*) > 0)"
)
# The escapes of json values that json_each does not take, written without a backslash, and back again.
_MASK = sql.SQL("replace(replace(replace({}::text, '~', '~0'), repeat(chr(92), 2), '~1'), chr(92) || 'u', '~2')::json")
_UNMASK = sql.SQL(
    "replace(replace(replace({}::text, '~2', chr(92) || 'u'), '~1', repeat(chr(92), 2)), '~0', '~')::json"
)


def _row(record: str, hidden: list[str], *, has_json: bool) -> sql.Composable:
    """
    A row as JSON, without the ignored columns: empty where all are ignored, null where there is none (TRUNCATE).

    Not by jsonb, which takes less than json (no NUL, no lone surrogate, no 1e200000), keeps one of several equal keys
    and writes numbers anew. `json_each` takes no such characters either, but only the values of json columns hold any.
    """
    row = sql.SQL(f"row_to_json({record})")
    if not hidden:
        return row
    names = sql.SQL(", ").join(_in_body(_masked(name) if has_json else name) for name in hidden)
    if not has_json:
        return _WITHOUT.format(row=row, names=names)
    return _UNMASK.format(_WITHOUT.format(row=_MASK.format(row), names=names))


def _masked(name: str) -> str:
    """A column's name as `json_each` reads it out of a row that is masked."""
    masked = name.replace("~", "~0").replace("\\", "~1")
    return "".join(f"~2{ord(one):04x}" if one < " " and one not in "\b\f\n\r\t" else one for one in masked)


def _in_body(text: str) -> sql.Composable:
    """A string inside of a function's dollar quotes, which it must not end."""
    if "$" not in text:
        return sql.Literal(text)
    escaped = text.replace("\\", "\\\\").replace("'", "''").replace("$", "\\x24")
    return sql.SQL(f"E'{escaped}'")


def _leaves(oid: int, types: TypeCatalog) -> frozenset[int]:
    """The base types a type is made of."""
    found: set[int] = set()
    seen: set[int] = set()
    waiting = [oid]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        described = types.get(one)
        if described is None:
            found.add(one)
        elif described.kind is PgTypeKind.ARRAY:
            waiting.append(described.element)
        elif described.kind is PgTypeKind.DOMAIN:
            waiting.append(described.base)
        elif described.kind is PgTypeKind.COMPOSITE:
            waiting.extend(attribute for _, attribute in described.attributes)
        else:
            found.add(one)
    return frozenset(found)


def is_settled(oid: int, types: TypeCatalog) -> bool:
    """Whether a type's text is the same whatever the session's settings; unknown ones are not."""
    return all(_is_settled_leaf(types.get(leaf)) for leaf in _leaves(oid, types))


def _is_settled_leaf(described: PgType | None) -> bool:
    if described is None:
        return False
    if described.kind is PgTypeKind.ENUM:
        return True
    return described.name in _SETTLED or described.name.rpartition(".")[2] in _SETTLED_EXTENSIONS


def _functions(live: Live) -> list[str]:
    """Our capture functions."""
    return sorted(
        name
        for (kind, name), mark in live.own_objects.items()
        if kind == "function" and _CAPTURE.fullmatch(name) and (mark or "").startswith(MARK)
    )


def _drop_triggers(outbox: Outbox) -> list[Step]:
    return [_drop_trigger(trigger, "the trigger is ours") for trigger in outbox.triggers if trigger.number is not None]


def _drop_trigger(trigger: Trigger, why: str) -> Step:
    statement = composed(
        "outbox/drop_trigger.sql", table=sql.Identifier(*trigger.table), trigger=sql.Identifier(trigger.name)
    )
    change = f"- {'.'.join(trigger.table)} is captured no longer" if trigger.name == CAPTURE_TRIGGERS[0] else ""
    return Step(statement, "primary", why, waits_for=trigger.table, change=change)


def _drop_functions(live: Live) -> list[Step]:
    return [_drop_function(name, "the function is ours") for name in _functions(live)]


def _drop_function(name: str, why: str) -> Step:
    return Step(composed("outbox/drop_capture.sql", function=sql.Identifier("wal_tracker", name)), "primary", why)


def _may_not_drop(trigger: Trigger, live: Live) -> Finding:
    table = ".".join(trigger.table)
    return Finding(
        f"role {live.primary.role!r} does not own {table} and may not drop trigger {trigger.name}",
        f"its owner runs: drop trigger {quoted(trigger.name)} on {'.'.join(map(quoted, trigger.table))};",
    )


def _regclass(table: Table) -> sql.Composable:
    return sql.Literal(f"{quoted(table.relation.schema)}.{quoted(table.relation.table)}")


def _name(table: Table) -> TableName:
    return table.relation.schema, table.relation.table
