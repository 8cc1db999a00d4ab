"""What is wrong with a configuration: finding it, telling it, and stopping at it."""

from __future__ import annotations

from collections.abc import Iterable

import click

from wal_tracker import assemble
from wal_tracker.config.model import Config
from wal_tracker.errors import ConfigError, PluginError
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.rules.check import Problem, TableDescription, check


def find(config: Config, types: TypeCatalog, tables: Iterable[TableDescription] | None) -> list[Problem]:
    """Everything wrong with a configuration that loads: its rules, and its destinations' options."""
    found = check(config, types, tables)
    try:
        refuse_mode(config.source.mode)
    except ConfigError as error:
        found.append(Problem.of(error))
    for raw, entries in ((False, config.destinations), (True, config.raw_destinations)):
        for entry in entries:
            try:
                assemble.build_destination(entry, raw=raw)
            except ConfigError as error:
                found.append(Problem.of(error))
            except PluginError as error:
                found.append(Problem("error", str(error), entry.path))
    return found


def refuse_mode(mode: str) -> None:
    """
    Say which modes there are.

    Raises:
        ConfigError: This version has no such mode.
    """
    if mode not in ("wal", "trigger"):
        raise ConfigError(f"mode {mode!r} is not in this version yet; `wal` and `trigger` are", path="source.mode")


def refuse(found: Iterable[Problem]) -> None:
    """
    Stop at errors.

    Raises:
        ConfigError: All of them, one below the other.
    """
    errors = [str(problem) for problem in found if problem.severity == "error"]
    if errors:
        raise ConfigError("\n".join(errors))


def echo(found: Iterable[Problem]) -> None:
    """Problems as a person reads them, on stdout."""
    colours = {"error": "red", "finding": "magenta", "warning": "yellow"}
    for problem in found:
        click.echo(click.style(problem.severity, fg=colours[problem.severity], bold=True) + f": {problem}")
