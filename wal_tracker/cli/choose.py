"""Choosing tables: by name, or on a terminal by number, with nothing but a keyboard and a line of text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import click

from wal_tracker.config.track import split_name
from wal_tracker.errors import ConfigError
from wal_tracker.source.survey import SurveyedTable

_RANGE = re.compile(r"(\d+)(?:\s*-\s*(\d+))?")
_OUTSIDE_QUOTES = re.compile(r'((?:[^,"]|"(?:[^"]|"")*")+)')


def tables(found: Sequence[SurveyedTable], *, preferred: list[SurveyedTable]) -> list[SurveyedTable]:
    """
    Ask which tables to track, until the answer can be understood.

    Args:
        found: The tables, as they were numbered on the screen from 1 on.
        preferred: What an empty answer, or ``all``, means.

    Raises:
        click.Abort: The person left.
    """
    question = "Which tables? Numbers, ranges (1-3,5), names, or all"
    while True:
        answer: str = click.prompt(question, default="all", err=True)
        try:
            return picked(found, answer, preferred=preferred)
        except ConfigError as error:
            click.echo(error.message, err=True)


def picked(found: Sequence[SurveyedTable], answer: str, *, preferred: list[SurveyedTable]) -> list[SurveyedTable]:
    """
    The tables an answer names, in the order of `found`.

    Raises:
        ConfigError: It names something that is not there, or nothing.
    """
    if answer.strip().lower() in ("all", "*", ""):
        return preferred
    chosen: list[SurveyedTable] = []
    for part in split(answer):
        numbers = _RANGE.fullmatch(part)
        if numbers is None:
            chosen += by_name(found, [part], "public")
            continue
        first = int(numbers[1])
        last = int(numbers[2] or first)
        if not 1 <= first <= last <= len(found):
            raise ConfigError(f"{part!r}: there are tables 1 to {len(found)}")
        chosen += found[first - 1 : last]
    if not chosen:
        raise ConfigError("that names no table")
    return [table for table in found if table in chosen]


def split(text: str) -> list[str]:
    """Names or numbers separated by commas; a comma in double quotes belongs to the name."""
    return [part.strip() for part in _OUTSIDE_QUOTES.findall(text) if part.strip()]


def by_name(found: Sequence[SurveyedTable], names: Sequence[str], schema: str) -> list[SurveyedTable]:
    """
    The tables of these names, in the order of `found`.

    Args:
        found: The tables there are.
        names: As a configuration writes them: ``users``, ``billing.invoices``, ``"odd.schema"."odd table"``.
        schema: Of names without one; a name that is there in one other schema only means that one.

    Raises:
        ConfigError: One of them is not there.
    """
    known = {table.name: table for table in found}
    chosen = []
    for name in names:
        parts = split_name(name)
        if parts is None or len(parts) > 2:
            raise ConfigError(f'{name!r} is not a table; write table, schema.table, or "my.schema"."my.table"')
        wanted = (schema, parts[0]) if len(parts) == 1 else (parts[0], parts[1])
        elsewhere = [other for other in known if other[1] == parts[-1]]
        if wanted not in known and len(parts) == 1 and len(elsewhere) == 1:
            wanted = elsewhere[0]
        if wanted not in known:
            spelled = {".".join(other): other for other in known} | {other[1]: other for other in known}
            near = difflib.get_close_matches(".".join(parts), spelled, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            several = f"; it is in schemas {', '.join(s for s, _ in elsewhere)}" if len(elsewhere) > 1 else ""
            raise ConfigError(f"there is no table {name}{several or hint}")
        chosen.append(known[wanted])
    if not chosen:
        raise ConfigError("no table is named")
    return [table for table in found if table in chosen]
