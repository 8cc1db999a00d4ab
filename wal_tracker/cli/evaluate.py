"""`wal_tracker eval`: the rules over changes from a file, without a database and without a destination."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import click
import yaml

from wal_tracker.cli import problems
from wal_tracker.config.load import load
from wal_tracker.config.model import Config
from wal_tracker.decode.changes import ChangeReader
from wal_tracker.errors import ConfigError, DecodeError, RuleEvaluationError
from wal_tracker.model import EXACT, Column, Event, Relation, ReplicaIdentity
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.rules.check import DescribedTable
from wal_tracker.rules.engine import RelationPlan, RuleSet

SYSTEM_IDENTIFIER = "eval"
"""Stands for the server's in event ids: the same changes give the same ids, and never those of a real server."""

EXAMPLES = """
\b
Examples:
  wal_tracker eval --changes changes.jsonl
  wal_tracker eval --changes changes.jsonl --schema schema.yaml
  wal_tracker tail --limit 10 --json | wal_tracker eval --changes -

A change is one line of JSON:

\b
  {"op":"update","table":"users","old":{"id":7,"email":"a@x"},"new":{"id":7,"email":"b@x"}}

The schema file ({table: {column: type}}, JSON or YAML) lists every table there is; with it, rules are
held against names and types before the first change. Events go to stdout and errors to stderr, one
JSON object a line: {"error": …, "rule": …, "line": …}. Event ids are made with the system identifier
"eval", so they are the same every time and never those of a server.

Leaves with 1 if there was any error line, with 2 if the configuration is wrong.
"""


@click.command("eval", epilog=EXAMPLES)
@click.option("--changes", type=click.File("rb"), required=True, help="Changes, one JSON object a line; - is stdin.")
@click.option(
    "--schema",
    "schema_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Tables and their columns' types, as JSON or YAML.",
)
@click.pass_context
def eval_command(ctx: click.Context, changes: IO[bytes], schema_path: Path | None) -> None:
    """Run the rules over changes from a file; print the events."""
    path: Path | None = ctx.obj
    config = load(path, os.environ)
    types = TypeCatalog()
    schema = None if schema_path is None else read_schema(schema_path)
    tables = None if schema is None else described(schema, types, config.source.schema)
    problems.refuse(problems.find(config, types, tables))
    evaluation = Evaluation(config, types, schema)
    failed = False
    for number, line in enumerate(changes, 1):
        if not line.strip():
            continue
        for made in evaluation.of(line):
            if isinstance(made, Event):
                click.echo(made.to_json())
            else:
                failed = True
                click.echo(json.dumps({**made, "line": number}, ensure_ascii=False), err=True)
    ctx.exit(1 if failed else 0)


class Evaluation:
    """The rules of a configuration over changes as JSON."""

    def __init__(self, config: Config, types: TypeCatalog, schema: Mapping[str, Mapping[str, str]] | None) -> None:
        """
        Args:
            config: The configuration.
            types: Where type names are looked up.
            schema: ``{table: {column: type}}``; None: what a change does not say of its types is not known.
        """

        def numeric_as_string(relation: Relation, column: Column) -> bool:
            return config.numeric.of(relation.schema, relation.table, column.name) == "string"

        self._config = config
        self._rules = RuleSet(config, types, system_identifier=SYSTEM_IDENTIFIER, mode="wal", raw=False)
        self._reader = ChangeReader(types, schema, numeric_as_string=numeric_as_string)
        self._plans: dict[object, RelationPlan] = {}

    def of(self, line: bytes) -> Iterator[Event | dict[str, Any]]:
        """What the rules make of one line: events, and the error of each rule that fails."""
        try:
            change = self._reader.read(line)
        except DecodeError as error:
            yield {"error": str(error), "rule": None}
            return
        relation = change.relation
        ignored = self._config.ignore.get((relation.schema, relation.table), frozenset())
        if ignored == "*":
            return
        for row in filter(None, (change.old, change.new)):
            for name in ignored:
                row.pop(name, None)
                row.pop(EXACT + name, None)
        for rule in self._plan(relation).rules[change.op]:
            try:
                event = rule.make(change)
            except RuleEvaluationError as error:
                yield {"error": error.reason, "rule": error.rule}
                continue
            if event is not None:
                yield event

    def _plan(self, relation: Relation) -> RelationPlan:
        """The table's rules; each change describes its relation anew, so compiled ones are kept by what it says."""
        typed = any(column.type_oid for column in relation.columns)
        key = (relation.schema, relation.table, relation.columns if typed else None)
        plan = self._plans.get(key)
        if plan is None:
            columns = self._rules.cel_types(relation.schema, relation.table, relation.columns) if typed else None
            plan = self._plans[key] = self._rules.plan(relation, columns)
        return plan


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
