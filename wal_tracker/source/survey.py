"""What `wal_tracker init` wants to know of a database before it proposes anything; reads catalog and counters only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.source.catalog import Table, read_relations, read_types
from wal_tracker.source.connection import Session, read_sql
from wal_tracker.source.plan import Readiness

_STANDBY_DECODING_SINCE = 160000


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyedTable:
    """A table a rule may track, and how it is used."""

    table: Table
    rows: int | None
    """The planner's estimate; None where there is none yet."""
    inserts: int
    updates: int
    deletes: int
    required: frozenset[str]
    """Columns that are never null."""
    values: Mapping[str, tuple[str, ...]]
    """What a column may hold, where an enum or a CHECK constraint says so."""
    references: Mapping[str, tuple[str, str]]
    """Foreign keys of one column: schema and table it leads to."""

    @property
    def name(self) -> tuple[str, str]:
        """Schema and table."""
        return self.table.relation.schema, self.table.relation.table

    @property
    def writes(self) -> int:
        """Rows written since counting began."""
        return self.inserts + self.updates + self.deletes


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A database as `init` sees it."""

    database: str
    server_version: str
    """As a person says it: 18.1."""
    readiness: Readiness
    counted_s: float
    """How long the counters of writes have been counting."""
    types: TypeCatalog
    tables: tuple[SurveyedTable, ...]
    """By schema and name."""
    against_wal: tuple[str, ...]
    """Why WAL mode does not work here now; empty: it does."""


def survey(dsn: str) -> Survey:
    """
    Look at the database at `dsn`; changes nothing.

    Raises:
        SourceError: The server cannot be asked.
    """
    with Session(dsn) as session:
        ((database, version),) = session.rows("select current_database()::text, current_setting('server_version')")
        (row,) = session.rows(read_sql("queries/readiness.sql"), doing="asking what the server allows")
        readiness = Readiness(*row)
        ((counted_s,),) = session.rows(read_sql("queries/statistics_age.sql"), doing="asking how long it has counted")
        known = {(table.relation.schema, table.relation.table): table for table in read_relations(session)}
        found = session.rows(read_sql("queries/table_survey.sql"), doing="reading how tables are used")
        return Survey(
            database=database,
            server_version=version.split()[0],
            readiness=readiness,
            counted_s=max(1.0, counted_s or 0.0),
            types=TypeCatalog(read_types(session)),
            # A table made between the two queries is not there yet.
            tables=tuple(_surveyed(known[row[0], row[1]], *row[2:]) for row in found if (row[0], row[1]) in known),
            against_wal=tuple(obstacles_to_wal(readiness, session.server_version)),
        )


def obstacles_to_wal(readiness: Readiness, server_version: int) -> list[str]:
    """
    Say why this role cannot read this server's WAL as things are. Pure.

    Args:
        readiness: What the server and our role on it allow.
        server_version: As ``server_version_num``.
    """
    found = []
    if readiness.wal_level != "logical":
        found.append(f"wal_level is {readiness.wal_level}, not logical")
    if not readiness.may_replicate:
        found.append(f"role {readiness.role!r} may not replicate")
    if readiness.free_slots < 1:
        found.append("all max_replication_slots are in use")
    if readiness.max_wal_senders == 0:
        found.append("max_wal_senders is 0")
    if readiness.in_recovery and server_version < _STANDBY_DECODING_SINCE:
        found.append("this is a standby, which can be read from PostgreSQL 16 on only")
    if not readiness.in_recovery and not readiness.may_create:
        found.append(f"role {readiness.role!r} may not create a publication")
    allowed = readiness.output_plugin_libraries
    if allowed is not None and "pgoutput" not in [name.strip(' "') for name in allowed.split(",")]:
        found.append("the server does not let output plugin pgoutput in")
    return found


def _surveyed(
    table: Table,
    rows: int,
    inserts: int,
    updates: int,
    deletes: int,
    required: list[str],
    checks: list[tuple[str, str]],
    labels: list[tuple[str, str]],
    links: list[tuple[str, str, str]],
) -> SurveyedTable:
    values: dict[str, tuple[str, ...]] = {}
    for column, label in labels:
        values[column] = (*values.get(column, ()), label)
    for column, definition in checks:
        if listed := listed_values(definition):
            values.setdefault(column, listed)
    return SurveyedTable(
        table=table,
        rows=rows if rows >= 0 else None,
        inserts=inserts,
        updates=updates,
        deletes=deletes,
        required=frozenset(required),
        values=values,
        references={column: (schema, name) for column, schema, name in links},
    )


_LITERAL = re.compile(r"'((?:[^'\\]|'')*)'")
# `status in ('a', 'b')` as pg_get_constraintdef writes it, with its literals taken out.
_LISTED = re.compile(
    r'CHECK \(+(?:"[^"]+"|\w+)\)?(?:::text)? = ANY \(+ARRAY\[(?:(?:::[a-z ]+)?(?:, )?)+\]\)*(?:::text\[\])?\)+'
)


def listed_values(definition: str) -> tuple[str, ...]:
    """The values a CHECK constraint of the form ``column in ('a', 'b')`` admits; none of any other form. Pure."""
    if not _LISTED.fullmatch(_LITERAL.sub("", definition)):
        return ()
    return tuple(text.replace("''", "'") for text in _LITERAL.findall(definition))
