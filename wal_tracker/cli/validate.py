"""`wal_tracker validate`: everything wrong with the configuration, at once."""

from __future__ import annotations

import json
import os
import time
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import click

from wal_tracker.cli import problems
from wal_tracker.config.load import find, load
from wal_tracker.config.model import Config, Mode
from wal_tracker.errors import ConfigError, PluginError, SourceError
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.rules.check import Problem
from wal_tracker.source import catalog

FileVersion = tuple[int, int]
"""What changes when the file does."""

WATCH_INTERVAL_S = 0.1
WATCH_DATABASE_INTERVAL_S = 2.0
WATCH_SETTLE_S = 0.5

EXAMPLES = """
\b
Examples:
  wal_tracker validate                    the file: keys, every rule, destinations
  wal_tracker validate --database         and every table, column and type, and what the mode needs
  wal_tracker validate --mode trigger     would it do in the other mode, too?
  wal_tracker validate --watch --database again at every save, and when the tables change, until Ctrl-C

Leaves with 0 (warnings or not), with 2 if the configuration is wrong, and with 3 if it is right but
the database is not ready for it. Prints the SQL that mends what SQL can mend.
"""


@click.command("validate", epilog=EXAMPLES)
@click.option("--watch", is_flag=True, help="Validate again whenever the file changes.")
@click.option("--database", is_flag=True, help="Hold the rules against the tables of source.dsn.")
@click.option("--mode", type=click.Choice(["wal", "trigger"]), help="Validate for this mode instead of source.mode.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document (with --watch: one a line).")
@click.pass_context
def validate_command(ctx: click.Context, watch: bool, database: bool, mode: Mode | None, as_json: bool) -> None:
    """Check the configuration, every rule, and with --database the tables."""
    validator = Validator(ctx.obj, database=database, mode=mode, as_json=as_json)
    with closing(validator):
        if not watch:
            ctx.exit(validator.validate())
        while True:
            seen = _version(ctx.obj)
            validator.validate()
            validator.wait(seen)


class Validator:
    """Validates one file, as often as asked; between two times it keeps what the database said."""

    def __init__(self, path: Path | None, *, database: bool, mode: Mode | None, as_json: bool) -> None:
        """
        Args:
            path: The file; None looks for one.
            database: Ask the database, too.
            mode: In place of the file's.
            as_json: How to print.
        """
        self._path = path
        self._database = database
        self._mode = mode
        self._as_json = as_json
        self._catalog: catalog.KeptCatalog | None = None

    def validate(self) -> int:
        """Validate once and print; the exit code."""
        config: Config | None = None
        found: list[Problem] = []
        try:
            config = load(self._path, os.environ)
            if self._mode is not None:
                config = replace(config, source=replace(config.source, mode=self._mode))
            found = problems.find(config, TypeCatalog(), None)
            if self._database and not any(problem.severity == "error" for problem in found):
                found = problems.find(config, *self._described(config))
        except (ConfigError, PluginError) as error:
            found = [Problem.of(error) if isinstance(error, ConfigError) else Problem("error", str(error))]
        except SourceError as error:
            found = [*found, Problem("finding", f"the database cannot be asked: {error}", path="source.dsn")]
        self._tell(found, len(config.rules) if config is not None else 0)
        severities = {problem.severity for problem in found}
        return 2 if "error" in severities else 3 if "finding" in severities else 0

    def wait(self, seen: FileVersion | None) -> None:
        """Return when the file is no longer the one `seen`, or the tables no longer those of the last time."""
        ask_at = time.monotonic() + WATCH_DATABASE_INTERVAL_S
        while _version(self._path) == seen:
            time.sleep(WATCH_INTERVAL_S)
            if self._catalog is not None and time.monotonic() > ask_at:
                try:
                    if self._catalog.has_changed():
                        return
                except SourceError:
                    # Told when the file is saved next; a server that restarts is no reason to repeat everything.
                    self._catalog.close()
                ask_at = time.monotonic() + WATCH_DATABASE_INTERVAL_S
        self._settle()

    def _settle(self) -> None:
        """Wait until the file is all there: editors empty it first, or put another in its place."""
        give_up_at = time.monotonic() + WATCH_SETTLE_S
        before = None
        while (now := _version(self._path)) is None or now != before:
            if time.monotonic() > give_up_at:
                return
            before = now
            time.sleep(WATCH_INTERVAL_S)

    def close(self) -> None:
        """Disconnect. Idempotent."""
        if self._catalog is not None:
            self._catalog.close()

    def _described(self, config: Config) -> tuple[TypeCatalog, list[catalog.Table]]:
        dsn = config.source.dsn
        if self._catalog is None or self._catalog.dsn != dsn:
            self.close()
            self._catalog = catalog.KeptCatalog(dsn)
        return self._catalog.describe()

    def _tell(self, found: list[Problem], rules: int) -> None:
        ok = not {problem.severity for problem in found} & {"error", "finding"}
        if self._as_json:
            click.echo(json.dumps({"ok": ok, "rules": rules, "problems": [asdict(problem) for problem in found]}))
            return
        problems.echo(found)
        if ok:
            held = "held against the database" if self._database else "not held against a database (--database does)"
            click.echo(click.style("ok", fg="green") + f": {rules} rule{'' if rules == 1 else 's'}, {held}")


def _version(path: Path | None) -> FileVersion | None:
    """Of the file; None while there is none."""
    try:
        seen = (path or find(os.environ)).stat()
    except (OSError, ConfigError):
        return None
    return seen.st_mtime_ns, seen.st_size
