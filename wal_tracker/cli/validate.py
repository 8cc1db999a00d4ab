"""`wal_tracker validate`: everything wrong with the configuration, at once."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import click

from wal_tracker.cli import problems
from wal_tracker.config.load import find, load
from wal_tracker.config.model import Config
from wal_tracker.errors import ConfigError, PluginError, SourceError
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.rules.check import Problem
from wal_tracker.source import catalog

WATCH_INTERVAL_S = 0.3

EXAMPLES = """
\b
Examples:
  wal_tracker validate                 the file: keys, every rule, destinations
  wal_tracker validate --database      and every table, column, type and replica identity
  wal_tracker validate --watch         again at every change of the file, until Ctrl-C

Leaves with 0 (warnings or not), with 2 if the configuration is wrong, and with 3 if it is right but
the database is not ready for it. Prints the SQL that mends what SQL can mend.
"""


@click.command("validate", epilog=EXAMPLES)
@click.option("--watch", is_flag=True, help="Validate again whenever the file changes.")
@click.option("--database", is_flag=True, help="Hold the rules against the tables of source.dsn.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document (with --watch: one a line).")
@click.pass_context
def validate_command(ctx: click.Context, watch: bool, database: bool, as_json: bool) -> None:
    """Check the configuration, every rule, and with --database the tables."""
    path: Path | None = ctx.obj
    if not watch:
        ctx.exit(validate(path, database, as_json))
    while True:
        seen = _version(path)
        validate(path, database, as_json)
        while _version(path) == seen:
            time.sleep(WATCH_INTERVAL_S)


def validate(path: Path | None, database: bool, as_json: bool) -> int:
    """Validate once and print; the exit code."""
    config: Config | None = None
    try:
        config = load(path, os.environ)
        tables = None
        types = TypeCatalog()
        found = problems.find(config, types, None)
        if database and not any(problem.severity == "error" for problem in found):
            types, tables = catalog.describe(config.source.dsn)
            found = problems.find(config, types, tables)
    except (ConfigError, PluginError) as error:
        found = [Problem.of(error) if isinstance(error, ConfigError) else Problem("error", str(error))]
    except SourceError as error:
        found = [*found, Problem("finding", f"the database cannot be asked: {error}", path="source.dsn")]
    severities = {problem.severity for problem in found}
    rules = len(config.rules) if config is not None else 0
    if as_json:
        ok = not severities & {"error", "finding"}
        click.echo(json.dumps({"ok": ok, "rules": rules, "problems": [asdict(problem) for problem in found]}))
    else:
        problems.echo(found)
        if not severities & {"error", "finding"}:
            held = "held against the database" if database else "not held against a database (--database does)"
            click.echo(click.style("ok", fg="green") + f": {rules} rule{'' if rules == 1 else 's'}, {held}")
    return 2 if "error" in severities else 3 if "finding" in severities else 0


def _version(path: Path | None) -> tuple[int, int] | None:
    """What changes when the file does."""
    try:
        seen = (path or find(os.environ)).stat()
    except (OSError, ConfigError):
        return None
    return seen.st_mtime_ns, seen.st_size
