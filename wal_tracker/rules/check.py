"""
What can be said about a configuration before it runs: every expression compiled, every rule held against its table.

Pure: descriptions of tables come in, problems go out, all of them at once. Who reads the descriptions from a server
or a file is not known here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from wal_tracker import cel
from wal_tracker.config.globs import chosen
from wal_tracker.config.model import Config, Expression, TrackRule
from wal_tracker.errors import ConfigError, RuleError
from wal_tracker.model import EXACT, Column, Relation, ReplicaIdentity
from wal_tracker.pgtypes import NUMERIC, CelType, TypeCatalog
from wal_tracker.rules.choice import choice
from wal_tracker.rules.compile import compile_expression, reads_changed
from wal_tracker.rules.distinct_id import property_naming_the_user
from wal_tracker.rules.engine import RuleSet
from wal_tracker.rules.environment import environment
from wal_tracker.rules.shape import compile_when

Severity = Literal["error", "finding", "warning"]
"""
``error``: the configuration cannot be used. ``finding``: it can, but not on this database as it is.
``warning``: it runs, and may not do what its author meant.
"""

EXACT_DOUBLE_DIGITS = 15
"""How many decimal digits every double keeps (IEEE 754: DBL_DIG)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with the configuration, and where."""

    severity: Severity
    message: str
    path: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    remedy: str = ""
    """SQL that mends it, where SQL does."""

    @classmethod
    def of(cls, error: ConfigError) -> Problem:
        """The problem a configuration error is."""
        return cls("error", error.message, error.path, error.file, error.line, error.column)

    def __str__(self) -> str:
        place = ConfigError(self.message, path=self.path, file=self.file, line=self.line, column=self.column)
        return f"{place}\n  {self.remedy}" if self.remedy else str(place)


class TableDescription(Protocol):
    """A table as somebody describes it: the server's catalog, or a file."""

    @property
    def relation(self) -> Relation:
        """Its columns in order; ``is_key`` marks what the replica identity sends of an old row (FULL: all)."""
        ...

    @property
    def toastable(self) -> frozenset[str]:
        """Columns whose values may be stored out of line, and so may be missing from an update."""
        ...

    @property
    def generated(self) -> frozenset[str]:
        """Generated columns: not published, and left out in trigger mode, too."""
        ...

    @property
    def is_partitioned(self) -> bool:
        """Whether its rows are in partitions, each of which has a replica identity of its own."""
        ...


@dataclass(frozen=True, slots=True)
class DescribedTable:
    """A table that is described by hand."""

    relation: Relation
    toastable: frozenset[str] = frozenset()
    generated: frozenset[str] = frozenset()
    is_partitioned: bool = False


def check(config: Config, types: TypeCatalog, tables: Iterable[TableDescription] | None = None) -> list[Problem]:
    """
    Everything wrong with the rules of a configuration, in the order of the file.

    Args:
        config: A configuration that loads.
        types: Types of the server, or the built-in ones.
        tables: Every table there is; None where nobody knows, and then only what needs no table is checked.
    """
    known = None if tables is None else {(t.relation.schema, t.relation.table): t for t in tables}
    scope = RuleSet(replace(config, rules=()), types, system_identifier="", mode="wal", raw=False)
    hash_key = config.hash_key.reveal().encode() if config.hash_key else None
    problems = [Problem("warning", warning) for warning in config.warnings]
    for rule in config.rules:
        problems += _RuleCheck(rule, config, scope, known, hash_key).problems()
    for entry in (*config.destinations, *config.raw_destinations):
        if entry.when is not None:
            try:
                compile_when(entry.when, hash_key)
            except RuleError as error:
                problems.append(Problem.of(error))
    problems += _plain_ids(config)
    if known is not None:
        problems += _ignored_names(config, known)
    return problems


class _RuleCheck:
    """One rule, seen from all sides."""

    def __init__(
        self,
        rule: TrackRule,
        config: Config,
        scope: RuleSet,
        tables: Mapping[tuple[str, str], TableDescription] | None,
        hash_key: bytes | None,
    ) -> None:
        self._rule = rule
        self._file = str(config.path or "")
        self._publication = config.source.publication
        self._by_triggers = config.source.mode == "trigger"
        self._ignored = config.ignore.get((rule.schema, rule.table), frozenset())
        self._scope = scope
        self._tables = tables
        self._hash_key = hash_key

    def problems(self) -> Iterator[Problem]:
        rule = self._rule
        table: TableDescription | None = None
        columns: dict[str, CelType] | None = None
        if self._tables is not None and rule.message_prefix is None:
            table = self._tables.get((rule.schema, rule.table))
            if table is None:
                yield self._problem("error", _unknown_table(rule.schema, rule.table, self._tables))
                return
            columns = self._scope.cel_types(rule.schema, rule.table, table.relation.columns)
        programs: list[cel.Program] = []
        for expression, result, is_cond in _expressions(rule):
            try:
                program = self._compile(expression, result, is_cond, columns)
            except RuleError as error:
                yield Problem.of(self._ignored_column(expression, result, is_cond) or error)
                continue
            programs.append(program)
            if hidden := self._hidden(program):
                yield Problem.of(self._reads_ignored(expression, hidden))
            elif is_cond:
                yield from self._blocks(expression)
        yield from self._rows_there_are(programs)
        yield from self._messages_there_are()
        yield from self._somebody_to_identify()
        if table is not None:
            if not self._by_triggers:
                # A trigger has both rows whole, whatever the replica identity, large values included.
                yield from self._old_rows(programs, table)
                yield from self._toast(programs, table)
            yield from self._generated(programs, table)
            yield from self._numerics(programs, table.relation)

    def _compile(
        self, expression: Expression, result: cel.Result, is_cond: bool, columns: Mapping[str, CelType] | None
    ) -> cel.Program:
        env = environment(self._rule, columns, hash_key=self._hash_key, cond=is_cond)
        return compile_expression(expression, env, result=result, emit=result == "any")

    def _problem(self, severity: Severity, message: str, *, remedy: str = "") -> Problem:
        rule = self._rule
        return Problem(severity, message, f"track.{rule.key}", self._file, rule.line, rule.column, remedy)

    # Ignored columns -----------------------------------------------------------------------------

    def _hidden(self, program: cel.Program) -> list[str]:
        """The ignored columns a program names."""
        return sorted(
            f"{row}.{name}" for row in ("new", "old") for name in _columns([program], row) if name in self._ignored
        )

    def _ignored_column(self, expression: Expression, result: cel.Result, is_cond: bool) -> RuleError | None:
        """What to say instead of "unknown column" where the column exists and is ignored."""
        try:
            hidden = self._hidden(self._compile(expression, result, is_cond, None))
        except RuleError:
            return None
        return self._reads_ignored(expression, hidden) if hidden else None

    def _reads_ignored(self, expression: Expression, hidden: Sequence[str]) -> RuleError:
        return RuleError(
            f"{', '.join(hidden)} cannot be read: the column is listed under `ignore.{self._rule.table}`",
            path=expression.path,
            file=expression.file,
            line=expression.line,
            column=expression.column,
        )

    def _blocks(self, cond: Expression) -> Iterator[Problem]:
        """Names without a block and blocks without a name; both run, and neither may be meant."""
        found, blocks = choice(cond.source), self._rule.blocks
        for name in found.missing(blocks):
            yield self._problem("warning", f"the event {name!r} has no block: it will carry no properties")
        for name in found.unused(blocks):
            yield self._problem("warning", f"`cond` never yields the block {name!r}")

    def _somebody_to_identify(self) -> Iterator[Problem]:
        """Traits of nobody: no vendor takes them."""
        rule = self._rule
        if not rule.identify or rule.distinct_id is not None or property_naming_the_user(rule.table, rule.identify):
            return
        named = {**rule.blocks, rule.event: rule.properties} if rule.event is not None else rule.blocks
        for name, properties in named.items():
            if property_naming_the_user(rule.table, properties) is None:
                yield self._problem(
                    "warning",
                    f"`identify` says something of nobody: the event {name!r} has no distinct_id. Give the rule a "
                    "`distinct_id`",
                )

    # What the server sends -----------------------------------------------------------------------

    def _rows_there_are(self, programs: Sequence[cel.Program]) -> Iterator[Problem]:
        """`old` of a rule that only sees inserts, `new` of one that only sees deletes."""
        for row, ops in (("old", {"insert", "truncate"}), ("new", {"delete", "truncate"})):
            if set(self._rule.ops) <= ops and _columns(programs, row):
                on = " and ".join(self._rule.ops)
                yield self._problem("warning", f"the rule reads `{row}`, which is null on {on}")

    def _messages_there_are(self) -> Iterator[Problem]:
        """Logical messages are in the WAL, where triggers do not look."""
        prefix = self._rule.message_prefix
        if prefix is not None and self._by_triggers:
            yield self._problem(
                "error",
                f"logical messages do not come in trigger mode, so no message {prefix!r} would ever be seen. Events "
                "that need no table come in both modes by wal_tracker.emit(jsonb), without a rule; for the message "
                "itself, read the WAL (source.mode: wal)",
            )

    def _old_rows(self, programs: Sequence[cel.Program], table: TableDescription) -> Iterator[Problem]:
        relation = table.relation
        ops = [op for op in self._rule.ops if op in ("update", "delete")]
        identity = relation.replica_identity
        if not ops or identity is ReplicaIdentity.FULL:
            return
        keys = relation.key
        full = self._whole_old_rows(table)
        if not keys:
            nothing = identity is ReplicaIdentity.NOTHING
            without = "is NOTHING" if nothing else "has no columns (there is no primary key)"
            yield self._problem(
                "finding",
                f"the replica identity of {relation.name} {without}: once it is published, PostgreSQL refuses "
                f"every {' and '.join(ops)} of its rows. Add a primary key, or use the whole row",
                remedy=full,
            )
            return
        unsent = [f"old.{name}" for name in sorted(_columns(programs, "old").difference(keys))]
        if not unsent and any("old" in program.whole for program in programs):
            unsent = ["the whole of `old`"]
        if not unsent and "update" in ops and reads_changed(programs):
            unsent = ["`change.changed`"]
        if unsent:
            yield self._problem(
                "finding",
                f"the rule reads {', '.join(unsent)}, but {relation.name} has REPLICA IDENTITY {identity.name}: of an "
                f"old row the server sends only {', '.join(keys)}",
                remedy=full,
            )

    def _generated(self, programs: Sequence[cel.Program], table: TableDescription) -> Iterator[Problem]:
        if unsent := sorted(_columns(programs, "new", "old") & table.generated):
            yield self._problem(
                "finding",
                f"the rule reads {', '.join(unsent)}, generated by {table.relation.name}: generated columns are not "
                "published, and left out of what triggers capture, too. Compute the value in the rule, or keep it in "
                "an ordinary column",
            )

    def _toast(self, programs: Sequence[cel.Program], table: TableDescription) -> Iterator[Problem]:
        relation = table.relation
        if "update" not in self._rule.ops or relation.replica_identity is ReplicaIdentity.FULL:
            return
        asked = {name for program in programs for name in _UNCHANGED.findall(program.source)}
        risky = sorted((_columns(programs, "new") & table.toastable).difference(asked, relation.key))
        if risky:
            yield self._problem(
                "warning",
                f"large values of {', '.join(f'new.{name}' for name in risky)} are not sent with an update that leaves "
                "them unchanged; the rule then ends in the dead letters. Ask unchanged(…), or have the old row sent",
                remedy=self._whole_old_rows(table),
            )

    def _whole_old_rows(self, table: TableDescription) -> str:
        """
        The SQL that has old rows sent whole.

        Where columns are ignored `apply` may have published the table with a column list, under which PostgreSQL would
        refuse the application's UPDATE and DELETE (42P10): the list goes in the same transaction.
        """
        name, full = quoted(table.relation), full_identity(table)
        if not self._ignored:
            return full
        publication = _identifier(self._publication)
        return (
            f"{full}\n  or, if `wal_tracker apply` has run already, in one transaction:\n  BEGIN; "
            f"ALTER PUBLICATION {publication} DROP TABLE {name}; {full} "
            f"ALTER PUBLICATION {publication} ADD TABLE {name}; COMMIT;"
        )

    def _numerics(self, programs: Sequence[cel.Program], relation: Relation) -> Iterator[Problem]:
        """A property that is a bare column keeps its digits; what is computed with, is a double."""
        computed = {key for program in programs for row, key in program.columns if row in ("new", "old")}
        types = self._scope.cel_types(relation.schema, relation.table, relation.columns)
        for column in relation.columns:
            if column.name not in computed or types.get(column.name) != "numeric":
                continue
            digits = _precision(column)
            if digits is None or digits > EXACT_DOUBLE_DIGITS:
                size = "without a precision" if digits is None else f"of precision {digits}"
                yield self._problem(
                    "warning",
                    f"the rule computes with {column.name}, a numeric {size}; it is read as a double, exact to "
                    f"{EXACT_DOUBLE_DIGITS} digits. To read it exactly as text: numeric: "
                    f"{{{relation.table}.{column.name}: string}}",
                )


_UNCHANGED = re.compile(r"\bunchanged\(\s*new\.(\w+)\s*\)")


def _expressions(rule: TrackRule) -> Iterator[tuple[Expression, cel.Result, bool]]:
    """Every expression of a rule: what it must yield, and whether it is the `cond`."""
    if rule.when is not None:
        yield rule.when, "bool", False
    if rule.cond is not None:
        yield rule.cond, "event", True
    if rule.distinct_id is not None:
        yield rule.distinct_id, "any", False
    if rule.timestamp is not None:
        yield rule.timestamp, "timestamp", False
    if rule.group is not None:
        yield rule.group.id, "any", False
    traits = rule.group.traits if rule.group is not None else {}
    for properties in (rule.properties, *rule.blocks.values(), rule.identify, traits):
        for expression in properties.values():
            yield expression, "any", False


def _columns(programs: Iterable[cel.Program], *rows: str) -> set[str]:
    """Names of the columns of `rows` that are read, in whatever form."""
    return {key.removeprefix(EXACT) for program in programs for row, key in program.columns if row in rows}


def _precision(column: Column) -> int | None:
    """Digits a numeric column may hold; None where it is declared without."""
    if column.type_oid != NUMERIC or column.type_modifier < 4:
        return None
    # (precision << 16 | scale) + VARHDRSZ; see make_numeric_typmod in utils/adt/numeric.c
    return (column.type_modifier - 4) >> 16 & 0xFFFF


def full_identity(table: TableDescription) -> str:
    """The SQL that gives a table, or each of its partitions, REPLICA IDENTITY FULL."""
    name = quoted(table.relation)
    if not table.is_partitioned:
        return f"ALTER TABLE {name} REPLICA IDENTITY FULL;"
    return (
        f"DO $do$ DECLARE part regclass; BEGIN FOR part IN SELECT relid FROM pg_partition_tree({_literal(name)}) "
        "LOOP EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', part); END LOOP; END $do$;"
    )


def quoted(relation: Relation) -> str:
    """The table's name as SQL takes it."""
    return ".".join(_identifier(part) for part in (relation.schema, relation.table))


def _identifier(name: str) -> str:
    if re.fullmatch(r"[a-z_][a-z0-9_]*", name):
        return name
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _unknown_table(schema: str, table: str, tables: Mapping[tuple[str, str], TableDescription]) -> str:
    elsewhere = [other for other, name in tables if name == table]
    if elsewhere:
        return f"there is no table {table} in schema {schema}; there is one in {elsewhere[0]}: {elsewhere[0]}.{table}"
    near = difflib.get_close_matches(table, [name for where, name in tables if where == schema], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"there is no table {table} in schema {schema}{hint}"


def _plain_ids(config: Config) -> Iterator[Problem]:
    """A destination that is to get a pseudonym, and gets what it stands for as the event's distinct_id."""
    for entry in config.destinations:
        globs = entry.properties.hash if entry.properties is not None else ()
        if chosen(globs, "distinct_id"):
            continue
        users = {
            user
            for rule in config.rules
            if rule.distinct_id is None
            for properties in (rule.properties, *rule.blocks.values())
            if (user := property_naming_the_user(rule.table, properties)) is not None and chosen(globs, user)
        }
        if users:
            yield Problem(
                "warning",
                f"{', '.join(sorted(users))} is hashed, but it also names the user, and the event's distinct_id goes "
                "there as it is; if that is not meant, list distinct_id, too",
                f"{entry.path}.properties.hash",
                str(config.path or ""),
            )


def _ignored_names(config: Config, tables: Mapping[tuple[str, str], TableDescription]) -> Iterator[Problem]:
    """An ignored name that does not exist hides nothing: most likely it is misspelt, and something leaks."""
    for (schema, table), ignored in config.ignore.items():
        description = tables.get((schema, table))
        path, file = f"ignore.{table}", str(config.path or "")
        if description is None:
            yield Problem("warning", _unknown_table(schema, table, tables), path, file)
            continue
        names = [column.name for column in description.relation.columns]
        for name in sorted(() if ignored == "*" else set(ignored).difference(names)):
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            yield Problem("warning", f"{table} has no column {name!r}, so nothing is ignored{hint}", path, file)
