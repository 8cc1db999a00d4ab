"""What the server's catalog says of types and tables."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from wal_tracker.errors import SourceUnavailable
from wal_tracker.model import Column, Relation, ReplicaIdentity
from wal_tracker.pgtypes import PgType, PgTypeKind, TypeCatalog
from wal_tracker.source.connection import Session, read_sql

# pg_attribute.attstorage of columns that may be moved out of line (external, extended). "main" may, too, as a last
# resort that no row of ordinary size comes to.
_OUT_OF_LINE = frozenset("ex")


class TableKind(enum.Enum):
    """`pg_class.relkind`, as far as people mean it by "table"."""

    TABLE = "r"
    PARTITIONED = "p"
    VIEW = "v"
    MATERIALIZED_VIEW = "m"
    FOREIGN = "f"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table as the catalog describes it."""

    relation: Relation
    """
    Its columns in order; ``is_key`` marks what the replica identity sends of an old row (FULL: all). A partitioned
    table's identity is FULL when that of all its partitions is.
    """
    kind: TableKind
    is_permanent: bool
    """Neither unlogged nor temporary: only permanent tables are in the WAL."""
    is_ours: bool
    """Our role may act as its owner, as publishing it asks for."""
    toastable: frozenset[str]
    """Columns whose values may be stored out of line, and so may be missing from an update."""
    generated: frozenset[str]
    """Generated columns; not published by default."""
    primary_key: tuple[str, ...]
    numbers: tuple[tuple[int, str], ...]
    """`pg_attribute.attnum` of each column."""
    leaves_without_identity: tuple[str, ...]
    """PARTITIONED: partitions that hold rows and have no usable replica identity."""

    @property
    def is_partitioned(self) -> bool:
        """Whether its rows are in partitions, each of which has a replica identity of its own."""
        return self.kind is TableKind.PARTITIONED

    @property
    def is_publishable(self) -> bool:
        """Whether a publication takes it at all."""
        return self.kind in (TableKind.TABLE, TableKind.PARTITIONED) and self.is_permanent


def identity_problem(table: Table) -> str | None:
    """
    Say why PostgreSQL would refuse the application's UPDATE and DELETE once the table is published, or None. Pure.

    See: src/backend/executor/execReplication.c, CheckCmdReplicaIdentity
    """
    name, identity = table.relation.name, table.relation.replica_identity
    if table.kind is TableKind.PARTITIONED:
        if table.leaves_without_identity:
            return f"partitions of {name} have no usable replica identity: {', '.join(table.leaves_without_identity)}"
        return None
    if identity is ReplicaIdentity.FULL or (identity is not ReplicaIdentity.NOTHING and table.relation.key):
        return None
    if identity is ReplicaIdentity.NOTHING:
        return f"the replica identity of {name} is NOTHING"
    if identity is ReplicaIdentity.INDEX:
        return f"the replica identity of {name} is an index that no longer exists or is not valid"
    if table.primary_key:
        return f"the primary key of {name} is deferrable and does not serve as replica identity"
    return f"{name} has no primary key"


def read_types(session: Session) -> list[PgType]:
    """
    The database's own types: enums, domains, composites, ranges, extensions' types, and arrays of them.

    Raises:
        SourceError: The server cannot be asked.
    """
    return [
        PgType(
            oid,
            name,
            PgTypeKind(kind),
            element if kind == PgTypeKind.ARRAY.value else 0,
            base if kind == PgTypeKind.DOMAIN.value else 0,
            tuple((attribute, attribute_type) for attribute, attribute_type in attributes),
        )
        for oid, name, kind, element, base, attributes in session.rows(
            read_sql("queries/types.sql"), doing="reading the types"
        )
    ]


def read_relations(session: Session) -> list[Table]:
    """
    Everything people call a table, views included, by schema and name.

    Raises:
        SourceError: The server cannot be asked.
    """
    return [_table(*row) for row in session.rows(read_sql("queries/tables.sql"), {}, doing="reading the tables")]


def read_tables(session: Session) -> list[Table]:
    """
    Every table, by schema and name.

    Raises:
        SourceError: The server cannot be asked.
    """
    return [table for table in read_relations(session) if table.kind in (TableKind.TABLE, TableKind.PARTITIONED)]


class KeptCatalog:
    """Types and tables of one database, read again only when they have changed. One thread."""

    def __init__(self, dsn: str) -> None:
        """
        Args:
            dsn: The database.
        """
        self.dsn = dsn
        self._session: Session | None = None
        self._version = ""
        self._known: tuple[TypeCatalog, list[Table]] | None = None

    def describe(self) -> tuple[TypeCatalog, list[Table]]:
        """
        Types and tables as they are now.

        Raises:
            SourceError: The server cannot be asked.
        """
        version = self._ask()
        if self._known is None or version != self._version:
            assert self._session is not None
            self._known = TypeCatalog(read_types(self._session)), read_tables(self._session)
            self._version = version
        return self._known

    def has_changed(self) -> bool:
        """
        Whether `describe` would say something else than the last time.

        Raises:
            SourceError: The server cannot be asked.
        """
        return self._ask() != self._version

    def close(self) -> None:
        """Disconnect. Idempotent."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _ask(self) -> str:
        """The catalog's version; over a new connection where the one we had has gone."""
        if self._session is not None:
            try:
                return self._read_version(self._session)
            except SourceUnavailable:
                self.close()
        self._session = Session(self.dsn)
        return self._read_version(self._session)

    def _read_version(self, session: Session) -> str:
        ((version,),) = session.rows(read_sql("queries/catalog_version.sql"), doing="asking whether tables changed")
        return str(version)


class LiveCatalog:
    """What the stream shows and nobody has described yet is asked of the catalog, as it is now. One thread."""

    def __init__(self, dsn: str, types: TypeCatalog) -> None:
        """
        Args:
            dsn: The database the stream comes from.
            types: Learns what is read.
        """
        self._dsn = dsn
        self._types = types
        self._unknown: set[int] = set()

    def learn_types(self, relation: Relation) -> None:
        """
        See to it that the types of a relation's columns are known; one that was dropped since stays text.

        Raises:
            SourceError: The server cannot be asked.
        """
        missing = {
            column.type_oid for column in relation.columns if self._types.get(column.type_oid) is None
        } - self._unknown
        if missing:
            with Session(self._dsn) as session:
                self._types.add(read_types(session))
            self._unknown |= {oid for oid in missing if self._types.get(oid) is None}

    def describe(self, schema: str, table: str) -> Relation | None:
        """
        A table's columns and identity; None where there is no such table any more.

        Raises:
            SourceError: The server cannot be asked.
        """
        with Session(self._dsn) as session:
            for found in read_relations(session):
                if (found.relation.schema, found.relation.table) == (schema, table):
                    return found.relation
        return None


def _table(
    oid: int,
    schema: str,
    name: str,
    kind: str,
    persistence: str,
    replica_identity: str,
    has_toast: bool,
    is_ours: bool,
    columns: list[tuple[str, int, int, str, str, int]],
    identity: list[str],
    primary_key: list[str],
    leaves: list[str],
) -> Table:
    policy = ReplicaIdentity(replica_identity)
    keys = {column[0] for column in columns} if policy is ReplicaIdentity.FULL else set(identity)
    return Table(
        relation=Relation(
            oid,
            schema,
            name,
            policy,
            tuple(
                Column(column, type_oid, modifier, column in keys) for column, type_oid, modifier, _, _, _ in columns
            ),
        ),
        kind=TableKind(kind),
        is_permanent=persistence == "p",
        is_ours=is_ours,
        toastable=frozenset(column for column, _, _, storage, _, _ in columns if has_toast and storage in _OUT_OF_LINE),
        generated=frozenset(column for column, _, _, _, generated, _ in columns if generated),
        primary_key=tuple(primary_key),
        numbers=tuple((number, column) for column, _, _, _, _, number in columns),
        leaves_without_identity=tuple(leaves),
    )
