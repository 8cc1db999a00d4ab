"""
What WAL mode needs in the database, held against what is there. Pure: `wal_tracker.source.setup` asks and tells.
Trigger mode's part is `wal_tracker.source.outbox_plan`.

What a configuration wants and what the servers have go in; statements, findings and notes come out. `decide` never
publishes a table whose UPDATE or DELETE PostgreSQL would then refuse, and `decide_drop` removes only what carries our
mark. Every statement comes from a file in sql/setup.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from psycopg2 import sql

from wal_tracker.model import ReplicaIdentity
from wal_tracker.source import slot as slots
from wal_tracker.source.catalog import Table, TableKind, identity_problem
from wal_tracker.source.connection import OUTPUT_PLUGIN_REMEDY, SourceSettings, read_sql

MARK = "made by wal_tracker"
"""The comment on what is ours."""

FUNCTION_MARK = "made by wal_tracker, edition 3"
"""Changes with the text of the functions, so that `apply` replaces older ones."""

OWNER = "wal_tracker_owner"
"""The role our schema belongs to where a superuser sets up: our functions run with their owner's rights."""

_FUNCTIONS = {"set_context": "setup/set_context.sql", "emit": "setup/emit.sql"}

COLUMN_LISTS_SINCE = 150000
_STANDBY_DECODING_SINCE = 160000
TableName = tuple[str, str]
"""Schema and table."""

Where = Literal["primary", "source"]


@dataclass(frozen=True, slots=True)
class Desired:
    """What a configuration needs."""

    settings: SourceSettings
    tables: tuple[TableName, ...]
    ignored: Mapping[TableName, frozenset[str]]
    """Columns that shall not leave the server, where it can keep them."""
    mode: Literal["wal", "trigger"] = "wal"
    is_strict: bool = False
    """TRIGGER: a change that cannot be captured is refused, rather than written and noted."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication as it is."""

    is_for_all_tables: bool
    has_all_operations: bool
    is_via_root: bool
    mark: str | None
    tables: Mapping[TableName, tuple[frozenset[int] | None, str | None]]
    """Column numbers (None: all) and row filter of each table."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """What one server and our role on it allow."""

    wal_level: str
    in_recovery: bool
    free_slots: int
    max_wal_senders: int
    output_plugin_libraries: str | None
    """None: this version lets every plugin in."""
    role: str
    may_replicate: bool
    may_create: bool


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whose schema wal_tracker is, and what our role may do about it."""

    is_superuser: bool
    """Our role is one."""
    schema_owner: str | None
    """None: there is no schema."""
    may_own: bool | None
    """Our role may act for the schema's owner."""
    has_owner_role: bool
    """There is a role `OWNER`."""
    owner_role_mark: str
    is_owner_role_unfit: bool
    """It is a superuser, or can log in."""
    is_owner_role_used: bool
    """Something in another database belongs to it."""


@dataclass(frozen=True, slots=True)
class Live:
    """What is there."""

    server_version: int
    """The primary's."""
    source: Readiness
    primary: Readiness
    tables: Mapping[TableName, Table]
    publication: Publication | None
    slot: slots.SlotStatus | None
    database: str
    own_objects: Mapping[tuple[str, str], str | None]
    """Kind and name of everything in schema wal_tracker, with its mark."""
    superusers_objects: frozenset[tuple[str, str]]
    """Those of them a superuser owns."""
    ownership: Ownership


@dataclass(frozen=True, slots=True)
class Step:
    """One statement to run."""

    statement: sql.Composable
    where: Where
    why: str
    slot: Literal["", "make", "drop"] = ""
    """Concerns the slot: outside the transaction the others run in."""
    text: str = ""
    """The statement as it is sent, ending in a semicolon."""
    switch: Literal["", "to_wal", "to_trigger"] = ""
    """Part of a change of mode, which `wal_tracker.source.switch` carries out."""
    waits_for: TableName | None = None
    """A table of the application: the statement waits for those who write to it."""
    change: str = ""
    """A line of the difference it makes, beginning with + - or ~; empty for steps that only go with another."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in the way that only a person can decide."""

    problem: str
    remedy: str = ""
    is_blocking: bool = True

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem


@dataclass(frozen=True, slots=True)
class Plan:
    """What `apply` (or `drop`) would do, and what it cannot."""

    steps: tuple[Step, ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def blocking(self) -> list[str]:
        """The findings that keep `apply` from doing anything."""
        return [str(finding) for finding in self.findings if finding.is_blocking]


# Deciding ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Leaving:
    """What trigger mode has left in the database, where it is not, or no longer, wanted."""

    is_switch: bool = False
    """Something captured may not be delivered yet: the change of mode needs a boundary."""
    steps: tuple[Step, ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    objects: frozenset[tuple[str, str]] = frozenset()
    """Kind and name of what of ours the steps remove."""


def decide(wanted: Desired, live: Live, leaving: Leaving = Leaving()) -> Plan:
    """Hold what is wanted against what is there. Pure."""
    draft = Draft(wanted, live)
    draft.check_server()
    draft.functions()
    if wanted.settings.plugin == "pgoutput":
        draft.publication()
    draft.slot(is_switch=leaving.is_switch)
    draft.steps += leaving.steps
    draft.findings += leaving.findings
    draft.notes += leaving.notes
    return draft.plan()


def decide_drop(wanted: Desired, live: Live, *, slot_only: bool, outbox: Leaving = Leaving()) -> Plan:
    """What to remove: the slot by its name, everything else by our mark. Pure."""
    steps: list[Step] = []
    notes: list[str] = []
    settings = wanted.settings
    if live.slot is not None and (wanted.mode == "wal" or live.slot.database == live.database):
        statement = filled("queries/drop_slot.sql", slot=settings.slot)
        why, change = f"give up slot {settings.slot!r} and the WAL it keeps", f"- slot {settings.slot}"
        steps.append(Step(statement, "source", why, slot="drop", change=change))
    if slot_only:
        return Plan(tuple(steps))
    steps += outbox.steps
    notes += outbox.notes
    if live.publication is not None:
        if live.publication.mark == MARK:
            name = sql.Identifier(settings.publication)
            statement = composed("setup/drop_publication.sql", publication=name)
            change = f"- publication {settings.publication}"
            steps.append(Step(statement, "primary", "the publication is ours", change=change))
        else:
            notes.append(f"publication {settings.publication!r} was not made by wal_tracker and stays")
    ours = {
        name
        for (kind, name), mark in live.own_objects.items()
        if kind == "function" and (mark or "").startswith(MARK) and (kind, name) not in outbox.objects
    }
    for name in sorted(ours):
        function = sql.Identifier("wal_tracker", name)
        statement, change = composed("setup/drop_function.sql", function=function), f"- function wal_tracker.{name}"
        steps.append(Step(statement, "primary", "the function is ours", change=change))
    others = {(kind, name) for kind, name in live.own_objects if kind != "schema"} - outbox.objects
    others -= {("function", name) for name in ours}
    if ("schema", "") in live.own_objects:
        if others:
            notes.append("schema wal_tracker holds other things and stays: " + ", ".join(sorted(n for _, n in others)))
        else:
            statement, why = composed("setup/drop_schema.sql"), "nothing is left in our schema"
            steps.append(Step(statement, "primary", why, change="- schema wal_tracker"))
            steps += _drop_owner(live.ownership)
    elif not others:
        steps += _drop_owner(live.ownership)
    return Plan(tuple(steps), outbox.findings, tuple(notes))


def _drop_owner(ownership: Ownership) -> list[Step]:
    """The role, if it is ours and no other database needs it."""
    is_ours = ownership.has_owner_role and ownership.owner_role_mark == MARK
    if not is_ours or ownership.is_owner_role_used or not ownership.is_superuser:
        return []
    why = "nothing belongs to our role any more"
    return [Step(composed("setup/drop_owner.sql"), "primary", why, change=f"- role {OWNER}")]


@dataclass(slots=True)
class Draft:
    """A plan in the making."""

    wanted: Desired
    live: Live
    steps: list[Step] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _has_schema: bool | None = None

    def plan(self) -> Plan:
        """What came together."""
        return Plan(tuple(self.steps), tuple(self.findings), tuple(self.notes))

    def check_server(self) -> None:
        """What servers and role allow."""
        live, settings = self.live, self.wanted.settings
        if live.primary.in_recovery:
            self.find("source.dsn is a standby; what is set up, is set up on its primary", "give source.primary_dsn")
        if live.source.in_recovery and live.server_version < _STANDBY_DECODING_SINCE:
            self.find("a standby can be read from PostgreSQL 16 on only", "point source.dsn at the primary")
        if live.primary.wal_level != "logical":
            self.find(
                f"wal_level is {live.primary.wal_level}",
                "as a superuser run: alter system set wal_level = logical; then restart the server",
            )
        if not live.source.may_replicate:
            self.find(
                f"role {live.source.role!r} may not replicate", f'run: alter role "{live.source.role}" replication;'
            )
        if live.source.max_wal_senders == 0:
            self.find("max_wal_senders is 0", "raise it and restart the server")
        allowed = live.source.output_plugin_libraries
        if allowed is not None and settings.plugin not in [name.strip(' "') for name in allowed.split(",")]:
            self.find(f"the server does not let output plugin {settings.plugin} in", OUTPUT_PLUGIN_REMEDY)

    @property
    def owner(self) -> str | None:
        """Who shall own what is made, where that is not our role."""
        if self._is_owner_role_wanted:
            return OWNER
        owner = self.live.ownership.schema_owner
        return None if owner == self.live.primary.role else owner

    @property
    def _is_owner_role_wanted(self) -> bool:
        """Otherwise a superuser would own the schema."""
        ownership = self.live.ownership
        return ownership.is_superuser and (ownership.schema_owner is None or self._is_superusers("schema", ""))

    def schema(self) -> bool:
        """Our schema, and whose it is; False (with a finding) where our role may not change anything in it."""
        if self._has_schema is None:
            self._has_schema = self._own_schema()
        return self._has_schema

    def _own_schema(self) -> bool:
        ownership = self.live.ownership
        if ownership.schema_owner is None and not self.live.primary.may_create:
            self._may_not_create()
            return False
        if ownership.schema_owner is not None and not ownership.may_own:
            role, owner = self.live.primary.role, ownership.schema_owner
            self.find(
                f"schema wal_tracker belongs to {owner!r}, and role {role!r} may not act for it",
                f"run: grant {quoted(owner)} to {quoted(role)};",
            )
            return False
        if self._is_owner_role_wanted and ownership.has_owner_role and ownership.is_owner_role_unfit:
            self.find(
                f"role {OWNER!r} is a superuser or can log in, and our functions would run with its rights",
                f"run: alter role {OWNER} nosuperuser nologin;",
            )
            return False
        if self._is_owner_role_wanted and not ownership.has_owner_role:
            why = "our functions shall not run as a superuser"
            self.step("setup/create_owner.sql", why, change=f"+ role {OWNER}")
        if ownership.schema_owner is None:
            self.step("setup/create_schema.sql", "a place for what is ours", change="+ schema wal_tracker")
        if self._is_owner_role_wanted:
            owner = sql.Identifier(OWNER)
            self.step("setup/give_schema.sql", "our functions shall not run as a superuser", owner=owner)
        return True

    def functions(self) -> bool:
        """`wal_tracker.set_context` and `wal_tracker.emit`; False where our role may not make them."""
        own, owner = self.live.own_objects, self.owner
        missing = [name for name in _FUNCTIONS if own.get(("function", name)) != FUNCTION_MARK]
        given = [name for name in _FUNCTIONS if owner is not None and self._is_superusers("function", name)]
        if not missing and not given and ("schema", "") in own and not self._is_superusers("schema", ""):
            return True
        if not self.schema():
            return False
        if missing:
            self.step("setup/grant_schema.sql", "the application calls our functions")
        for name in _FUNCTIONS:
            function = sql.Identifier("wal_tracker", name)
            why = "context and events by SQL"
            if name in missing:
                sign = "~" if ("function", name) in own else "+"
                self.step(_FUNCTIONS[name], why, change=f"{sign} function wal_tracker.{name}")
                self.step("setup/mark_function.sql", why, function=function, mark=sql.Literal(FUNCTION_MARK))
            if owner is not None and (name in missing or name in given):
                self.step(
                    "setup/give_function.sql", "it runs with its owner's rights", function=function,
                    owner=sql.Identifier(owner),
                )  # fmt: skip
        return True

    def publication(self) -> None:
        """The publication, with exactly the tracked tables."""
        found = self.live.publication
        name = sql.Identifier(self.wanted.settings.publication)
        if found is None:
            if not self.live.primary.may_create:
                self._may_not_create()
                return
            change = f"+ publication {self.wanted.settings.publication}"
            self.step("setup/create_publication.sql", "what is decoded", publication=name, change=change)
            self.step("setup/mark_publication.sql", "so that `drop` knows it", publication=name, mark=sql.Literal(MARK))
        elif found.is_for_all_tables:
            self.notes.append(
                f"publication {self.wanted.settings.publication!r} publishes all tables and stays as it is"
            )
        elif not (found.has_all_operations and found.is_via_root):
            if found.mark == MARK:
                change = f"~ publication {self.wanted.settings.publication}: all operations, by root table"
                self.step("setup/set_publication_options.sql", "our rules need them", publication=name, change=change)
            else:
                self.find(
                    f"publication {self.wanted.settings.publication!r} was not made by wal_tracker and does not "
                    "publish all four operations via the partition root",
                    "publish them, or configure another name",
                    is_blocking=False,
                )
        tables = {table.relation.name: table for table in self._publishable()}
        if found is None or not found.is_for_all_tables:
            self._publish(list(tables.values()), found)

    def slot(self, *, is_switch: bool) -> None:
        """The slot; in a change of mode it is made together with the boundary."""
        settings, found = self.wanted.settings, self.live.slot
        drop_it = "`wal_tracker drop --slot-only --yes` gives it up, with what it has not delivered"
        if found is None:
            if self.live.source.free_slots < 1:
                self.find("all max_replication_slots are in use", "drop a slot nobody reads, or raise it and restart")
            statement = filled("queries/create_slot.sql", slot=settings.slot, plugin=settings.plugin)
            if not is_switch:
                why, change = "keeps WAL for us from now on", f"+ slot {settings.slot}"
                self.steps.append(Step(statement, "source", why, slot="make", change=change))
        elif found.loss_reason is not None:
            self.find(f"slot {settings.slot!r} is lost ({found.loss_reason})", drop_it)
        elif found.plugin != settings.plugin:
            self.find(f"slot {settings.slot!r} is of plugin {found.plugin}, not {settings.plugin}", drop_it)
        elif found.database != self.live.database:
            self.find(
                f"slot {settings.slot!r} belongs to database {found.database!r}",
                "configure another name in source.slot",
            )

    def _publishable(self) -> Iterator[Table]:
        """The tracked tables that may be published without harm; a finding for each of the others."""
        for schema, name in self.wanted.tables:
            table = self.live.tables.get((schema, name))
            if table is None:
                self.find(f"there is no table {schema}.{name}")
            elif not table.is_publishable:
                what = table.kind.name.lower().replace("_", " ") if table.is_permanent else "unlogged table"
                self.find(f"{schema}.{name} is a {what}: its changes are not in the WAL")
            elif problem := identity_problem(table):
                self.find(
                    f"{problem}: once published, PostgreSQL refuses every UPDATE and DELETE of its rows",
                    "add a primary key, or run: alter table "
                    f"{quoted(schema)}.{quoted(name)} replica identity full; (on the partitions, where it has some)",
                )
            else:
                yield table

    def _publish(self, tables: list[Table], found: Publication | None) -> None:
        """Add, change and take away tables."""
        publication = sql.Identifier(self.wanted.settings.publication)
        now = found.tables if found is not None else {}
        lists = {_name(table): self._column_list(table) for table in tables}
        changed = [
            table
            for table in tables
            if _name(table) in now and now[_name(table)][0] != _numbers(table, lists[_name(table)])
        ]
        added = [table for table in tables if _name(table) not in now]
        extra = sorted(set(now) - set(lists))
        is_ours = found is None or found.mark == MARK
        for table in [*added, *changed]:
            if not table.is_ours:
                self.find(
                    f"role {self.live.primary.role!r} does not own {table.relation.name}, as publishing it asks for"
                )
        if changed:
            kept = [] if is_ours else extra
            entries = [
                _entry(_name(table), lists[_name(table)], now.get(_name(table), (None, None))[1]) for table in tables
            ]
            entries += [_entry(name, None, now[name][1]) for name in kept]
            self.step(
                "setup/set_tables.sql", "other columns leave the server", publication=publication,
                tables=sql.SQL(", ").join(entries),
                change="~ publication: " + ", ".join(table.relation.name for table in [*changed, *added]),
            )  # fmt: skip
            return
        for table in added:
            entry = _entry(_name(table), lists[_name(table)], None)
            change = f"+ {table.relation.name} is published"
            self.step("setup/add_table.sql", "a rule tracks it", publication=publication, table=entry, change=change)
        for schema, name in extra:
            if is_ours and (schema, name) not in self.wanted.tables:
                entry = _entry((schema, name), None, None)
                change = f"- {schema}.{name} is published no longer"
                self.step(
                    "setup/drop_table.sql", "no rule tracks it", publication=publication, table=entry, change=change
                )
            elif is_ours:
                self.notes.append(f"{schema}.{name} stays published, although that breaks its UPDATE and DELETE now")
            else:
                self.notes.append(f"{schema}.{name} is published, too; the publication is not ours, so it stays")

    def _column_list(self, table: Table) -> tuple[str, ...] | None:
        """The columns to publish; None: all, because none is ignored or the server cannot leave them out."""
        names = [column.name for column in table.relation.columns]
        hidden = self.wanted.ignored.get(_name(table), frozenset()).intersection(names)
        if not hidden:
            return None
        why = ""
        if self.live.server_version < COLUMN_LISTS_SINCE:
            why = "PostgreSQL 14 has no column lists"
        elif table.relation.replica_identity is ReplicaIdentity.FULL:
            why = "under REPLICA IDENTITY FULL a column list makes UPDATE and DELETE fail"
        elif table.kind is TableKind.PARTITIONED:
            why = "each partition's replica identity would have to allow it"
        elif hidden.intersection(table.relation.key):
            why = "the replica identity needs them"
        listed = ", ".join(sorted(hidden))
        if why:
            self.notes.append(
                f"{table.relation.name}: {listed} cannot be kept on the server ({why}); we drop them on arrival"
            )
            return None
        self.notes.append(
            f"{table.relation.name}: {listed} will not leave the server (column list). Run `wal_tracker apply` again "
            "after adding a column to the table; and before setting its REPLICA IDENTITY to FULL take it off `ignore` "
            "and apply, or PostgreSQL refuses its UPDATE and DELETE"
        )
        return tuple(name for name in names if name not in hidden and name not in table.generated)

    def _may_not_create(self) -> None:
        finding = Finding(
            f"role {self.live.primary.role!r} may not create anything in database {self.live.database!r}",
            f"run: grant create on database {quoted(self.live.database)} to {quoted(self.live.primary.role)};",
        )
        if finding not in self.findings:
            self.findings.append(finding)

    def _is_superusers(self, kind: str, name: str) -> bool:
        return (kind, name) in self.live.superusers_objects

    def find(self, problem: str, remedy: str = "", *, is_blocking: bool = True) -> None:
        """Note a finding."""
        self.findings.append(Finding(problem, remedy, is_blocking))

    def step(
        self, file: str, why: str, *, waits_for: TableName | None = None, change: str = "", **parts: sql.Composable
    ) -> None:
        """Note a step: a file of sql/ with its names filled in."""
        self.steps.append(Step(composed(file, **parts), "primary", why, waits_for=waits_for, change=change))


def _name(table: Table) -> TableName:
    return table.relation.schema, table.relation.table


def _numbers(table: Table, columns: tuple[str, ...] | None) -> frozenset[int] | None:
    return None if columns is None else frozenset(number for number, name in table.numbers if name in columns)


def _entry(name: TableName, columns: tuple[str, ...] | None, row_filter: str | None) -> sql.Composable:
    """A table as CREATE and ALTER PUBLICATION take it; the filter is the server's own text."""
    parts: list[sql.Composable] = [sql.Identifier(*name)]
    if columns is not None:
        parts.append(sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, columns))))
    if row_filter is not None:
        parts.append(sql.SQL(" where (" + row_filter.replace("{", "{{").replace("}", "}}") + ")").format())
    return sql.Composed(parts)


def composed(file: str, **parts: sql.Composable) -> sql.Composable:
    """A file of sql/ with its names filled in."""
    return sql.SQL(read_sql(file)).format(**parts)


def filled(file: str, **values: str) -> sql.Composable:
    """A query with parameters as a statement of its own, for people and for `plan --out`."""
    text = read_sql(file)
    for name in values:
        text = text.replace(f"%({name})s", "{" + name + "}")
    return sql.SQL(text).format(**{name: sql.Literal(value) for name, value in values.items()})


def quoted(name: str) -> str:
    """An identifier as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'
