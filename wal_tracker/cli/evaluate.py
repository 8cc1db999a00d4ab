"""`wal_tracker eval`: the rules over changes from a file, without a database and without a destination."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import IO

import click
from click.core import ParameterSource

from wal_tracker.cli import problems
from wal_tracker.cli.schema_file import described, read_schema
from wal_tracker.config.load import load
from wal_tracker.model import Event
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.rules.recorded import Evaluation

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
JSON object a line: {"error": …, "rule": …, "line": …}; warnings about the configuration are lines
{"warning": …}. Event ids are made with the system identifier
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
    found = problems.find(config, types, tables)
    problems.refuse(found)
    for problem in found:
        click.echo(json.dumps({"warning": str(problem)}, ensure_ascii=False), err=True)
    if ctx.find_root().get_parameter_source("log_level") is ParameterSource.DEFAULT:
        # Everything on stderr is a JSON line; the log would repeat what the error lines say.
        logging.getLogger("wal_tracker").setLevel(logging.CRITICAL)
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
