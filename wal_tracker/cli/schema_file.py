"""The schema file of `eval`: ``{table: {column: type}}``, as JSON or YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from wal_tracker.errors import ConfigError
from wal_tracker.model import Column, Relation, ReplicaIdentity
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.rules.check import DescribedTable


def read_schema(path: Path) -> dict[str, dict[str, str]]:
    """
    Read a schema file: ``{table: {column: type}}``.

    Raises:
        ConfigError: It is not such a mapping; names the place.
    """
    try:
        schema = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"not JSON or YAML: {error}", file=str(path)) from error
    if not isinstance(schema, dict):
        raise ConfigError("expected {table: {column: type}}", file=str(path))
    for table, columns in schema.items():
        if not isinstance(columns, dict):
            raise ConfigError("expected {column: type}", file=str(path), path=str(table))
        for name, kind in columns.items():
            if not isinstance(kind, str):
                problem = "expected a type such as integer or numeric(10,2)"
                raise ConfigError(problem, file=str(path), path=f"{table}.{name}")
    return {str(table): {str(name): kind for name, kind in columns.items()} for table, columns in schema.items()}


def described(schema: Mapping[str, Mapping[str, str]], types: TypeCatalog, default: str) -> list[DescribedTable]:
    """
    Descriptions of the tables of a schema file; a type that is not built in is not known.

    Args:
        schema: ``{table: {column: type}}``; a table may be written ``schema.table``.
        types: Where types are looked up.
        default: Schema of tables written without one.
    """
    tables: list[DescribedTable] = []
    for name, columns in schema.items():
        where, _, table = name.rpartition(".")
        known = [(column, types.parse_name(kind) or (0, -1)) for column, kind in columns.items()]
        tables.append(
            DescribedTable(
                Relation(
                    relation_id=len(tables) + 1,
                    schema=where or default,
                    table=table,
                    # What is in the file is all there: old rows stand in the changes themselves.
                    replica_identity=ReplicaIdentity.FULL,
                    columns=tuple(Column(column, oid, modifier) for column, (oid, modifier) in known),
                )
            )
        )
    return tables
