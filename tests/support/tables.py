"""Tables as a survey finds them, without a server."""

from __future__ import annotations

from collections.abc import Mapping

from wal_tracker.model import Column, Relation, ReplicaIdentity
from wal_tracker.pgtypes import PgType, PgTypeKind, TypeCatalog
from wal_tracker.source.catalog import Table, TableKind
from wal_tracker.source.plan import Readiness
from wal_tracker.source.survey import Survey, SurveyedTable

TYPES = TypeCatalog([PgType(50_000, "order_status", PgTypeKind.ENUM)])


def table(
    name: str,
    columns: Mapping[str, str],
    *,
    schema: str = "public",
    key: tuple[str, ...] = ("id",),
    identity: ReplicaIdentity = ReplicaIdentity.DEFAULT,
    kind: TableKind = TableKind.TABLE,
    is_permanent: bool = True,
    required: tuple[str, ...] = (),
    values: Mapping[str, tuple[str, ...]] = {},
    references: Mapping[str, tuple[str, str]] = {},
    generated: tuple[str, ...] = (),
) -> SurveyedTable:
    """A table with these columns, by name and type; `key` is its primary key as far as it has such columns."""
    keys = tuple(column for column in key if column in columns)
    full = identity is ReplicaIdentity.FULL
    described = []
    for column, type_name in columns.items():
        parsed = TYPES.parse_name(type_name)
        assert parsed is not None, type_name
        described.append(Column(column, *parsed, is_key=full or column in keys))
    return SurveyedTable(
        table=Table(
            relation=Relation(1, schema, name, identity, tuple(described)),
            kind=kind,
            is_permanent=is_permanent,
            is_ours=True,
            toastable=frozenset(column for column, type_name in columns.items() if type_name == "text"),
            generated=frozenset(generated),
            primary_key=keys,
            numbers=tuple(enumerate(columns, 1)),
            leaves_without_identity=(),
        ),
        rows=None,
        inserts=0,
        updates=0,
        deletes=0,
        required=frozenset({*keys, *required}),
        values=values,
        references=references,
    )


def readiness(
    wal_level: str = "logical", may_replicate: bool = True, may_create: bool = True, in_recovery: bool = False
) -> Readiness:
    """What a server and a role allow; everything, if not said otherwise."""
    return Readiness(
        wal_level=wal_level,
        in_recovery=in_recovery,
        free_slots=5,
        max_wal_senders=10,
        output_plugin_libraries=None,
        role="someone",
        may_replicate=may_replicate,
        may_create=may_create,
    )


def surveyed(*tables: SurveyedTable) -> Survey:
    """A database with these tables."""
    return Survey(
        database="shop",
        server_version="18.1",
        readiness=readiness(),
        counted_s=3600.0,
        types=TYPES,
        tables=tables,
        against_wal=(),
    )
