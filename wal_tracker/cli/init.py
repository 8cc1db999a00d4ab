"""`wal_tracker init`: look at a database, choose tables, write a configuration that holds on it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click

from wal_tracker.cli import choose, table
from wal_tracker.config.load import FILE_NAME, SEARCHED
from wal_tracker.config.yaml import MAX_BYTES
from wal_tracker.draft import document, yaml
from wal_tracker.draft.draft import SCHEMA, Draft, Mode, draft
from wal_tracker.draft.suggest import is_bookkeeping
from wal_tracker.errors import PreflightFailed
from wal_tracker.secret import Secret
from wal_tracker.source.survey import Survey, SurveyedTable, survey

EXAMPLES = """
\b
Examples:
  wal_tracker init                                 looks at $DATABASE_URL, asks which tables
  wal_tracker init --tables users,billing.invoices --yes
  wal_tracker init --all --mode trigger --yes      without a question, for scripts
  wal_tracker init --output deploy/wal_tracker     writes there instead of here

Writes wal_tracker.yaml and a Dockerfile, and nothing to the database. Rules that would need more than
the database gives now stand in the file as comments, with the SQL they wait for; `wal_tracker validate
--database` passes as it is. The connection string is never written: the file says $DATABASE_URL.
Without a terminal it needs --tables, --all or --yes (all tables but those of migration tools).

Leaves with 0; with 2 if a file is in the way or a table is not there; with 3 if there is no table to track.
"""

BUSY_SHARE = 0.2
"""A table with more than this part of all writes is pointed out."""

MAX_NAMES = 8
"""Of more tables than these a sentence says only how many."""


@click.command("init", epilog=EXAMPLES)
@click.option("--dsn", envvar="DATABASE_URL", help="The database. Default: $DATABASE_URL, else libpq's own variables.")
@click.option("--tables", "names", help="Tables to track, separated by commas: users,billing.invoices.")
@click.option("--all", "every", is_flag=True, help="Track all tables but those of migration tools.")
@click.option(
    "--mode",
    type=click.Choice(["wal", "trigger"]),
    help="How changes are read. Default: wal where server and role allow it, else trigger.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Directory to write to; made if missing. Default: this one.",
)
@click.option("--force", is_flag=True, help="Overwrite wal_tracker.yaml and Dockerfile.")
@click.option("--yes", is_flag=True, help="Do not ask. Without a terminal this, --tables or --all is required.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found and written as one JSON document.")
@click.pass_context
def init_command(
    ctx: click.Context,
    dsn: str | None,
    names: str | None,
    every: bool,
    mode: Mode | None,
    output: Path,
    force: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Look at a database and draft wal_tracker.yaml and a Dockerfile for it."""
    if names is not None and every:
        raise click.UsageError("--tables and --all exclude each other")
    asking = names is None and not every and not yes
    if asking and not sys.stdin.isatty():
        raise click.UsageError("which tables? There is no terminal to ask on: give --tables, --all or --yes")
    files = {output / FILE_NAME: "", output / "Dockerfile": ""}
    _refuse_overwriting(files, force)
    found = survey(Secret(dsn or ""))
    if not found.tables:
        raise PreflightFailed([f"database {found.database!r} has no table that can be tracked"])
    chosen_mode, why = _mode(found, mode)
    if not as_json:
        _show(found)
    if asking:
        chosen = choose.tables(found.tables, preferred=_all(found))
    elif names is not None:
        chosen = choose.by_name(found.tables, choose.split(names), SCHEMA)
    else:
        chosen = _all(found)
    drafted = draft(found, chosen, chosen_mode, why)
    files = {output / FILE_NAME: document.configuration(drafted), output / "Dockerfile": document.dockerfile()}
    _refuse_what_is_too_long(files, drafted)
    notes = list(_notes(drafted, every or (yes and names is None)))
    if not as_json:
        _tell(drafted, notes)
    if asking:
        click.confirm(f"Write {' and '.join(map(str, files))}?", default=True, abort=True, err=True)
    output.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        path.write_text(content, encoding="utf-8")
    if as_json:
        click.echo(json.dumps(_document(drafted, list(files), notes), ensure_ascii=False))
    else:
        _next_steps(output, list(files), given_dsn=_is_given(ctx))


def _refuse_overwriting(files: Sequence[Path] | dict[Path, str], force: bool) -> None:
    there = [str(path) for path in files if path.exists()]
    if there and not force:
        raise click.UsageError(f"in the way: {', '.join(there)}; --force overwrites, --output DIR writes elsewhere")


def _refuse_what_is_too_long(files: dict[Path, str], drafted: Draft) -> None:
    length = max(len(content.encode()) for content in files.values())
    if length > MAX_BYTES:
        raise click.UsageError(
            f"a configuration for {_count(len(drafted.tables), 'table')} would have {length:,} bytes, and at most "
            f"{MAX_BYTES:,} are read; choose fewer with --tables"
        )


def _mode(found: Survey, wanted: Mode | None) -> tuple[Mode, str]:
    """The mode, and why."""
    if wanted == "wal" and found.against_wal:
        return "wal", "as asked for, but not possible yet: " + "; ".join(found.against_wal)
    if wanted is not None:
        return wanted, "as asked for"
    if found.against_wal:
        return "trigger", "no wal mode: " + "; ".join(found.against_wal)
    return "wal", "nothing is added to the application's writes"


def _all(found: Survey) -> list[SurveyedTable]:
    """What `--all` means: every table, but for what migration tools keep; those if there is nothing else."""
    return [one for one in found.tables if not is_bookkeeping(one.name)] or list(found.tables)


def _show(found: Survey) -> None:
    """The tables, with how large and how busy they are."""
    total = sum(one.writes for one in found.tables)
    click.echo(
        f"database {found.database!r}, PostgreSQL {found.server_version}; "
        f"writes counted over {_span(found.counted_s)}",
        err=True,
    )
    rows = []
    for number, one in enumerate(found.tables, 1):
        rows.append(
            (
                number,
                yaml.comment(_shown(one)),
                None if one.rows is None else f"{one.rows:,}",
                *(_rate(count, found.counted_s) for count in (one.inserts, one.updates, one.deletes)),
                _remark(one, total),
            )
        )
    table.echo(("#", "table", "rows", "inserts/s", "updates/s", "deletes/s", ""), rows)


def _shown(one: SurveyedTable) -> str:
    schema, name = one.name
    return name if schema == SCHEMA else f"{schema}.{name}"


def _remark(one: SurveyedTable, total: int) -> str:
    remarks = []
    if total and one.writes / total > BUSY_SHARE:
        remarks.append(f"busy: {one.writes / total:.0%} of all writes")
    if one.table.kind.name == "PARTITIONED":
        remarks.append("partitioned")
    if not one.table.primary_key:
        remarks.append("no primary key")
    if not one.table.is_permanent:
        remarks.append("unlogged")
    if not one.table.is_ours:
        remarks.append("not owned by this role")
    if is_bookkeeping(one.name):
        remarks.append("a migration tool's")
    return ", ".join(remarks)


def _rate(count: int, seconds: float) -> str:
    rate = count / seconds
    if count and rate < 0.01:
        return "<0.01"
    return f"{rate:,.0f}" if rate >= 100 or not count else f"{rate:,.2f}"


def _span(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _notes(drafted: Draft, took_all: bool) -> list[str]:
    """What a person should know before going on."""
    notes = []
    found = drafted.survey
    chosen = {one.table.name for one in drafted.tables}
    left = [one for one in found.tables if is_bookkeeping(one.name) and one.name not in chosen]
    if took_all and left:
        notes.append(f"left out, as tables of migration tools: {_listed(left)}; --tables takes them in")
    stopped = [one for one in drafted.tables if one.obstacle]
    notes += [f"{_shown(one.table)} is not tracked: {' '.join(one.obstacle)}" for one in stopped[:MAX_NAMES]]
    if stopped[MAX_NAMES:]:
        notes.append(f"{_count(len(stopped) - MAX_NAMES, 'more table')} not tracked; why, is in the file")
    waiting = [one.table for one in drafted.tables if not one.obstacle and any(rule.waits_for for rule in one.rules)]
    if waiting:
        notes.append(
            f"rules that compare with the old row wait, as comments, for REPLICA IDENTITY FULL on {_listed(waiting)} "
            "(trigger mode needs nothing)"
        )
    foreign = [one.table for one in drafted.tables if one.is_tracked and not one.table.table.is_ours]
    if foreign:
        notes.append(
            f"role {found.readiness.role!r} does not own {_listed(foreign)}: `wal_tracker apply` has to be run by a "
            "role that does"
        )
    if drafted.mode == "wal":
        notes += [f"wal mode is not possible yet: {problem}" for problem in found.against_wal]
    if found.readiness.in_recovery:
        notes.append("this is a standby: give its primary in source.primary_dsn; what is set up, is set up there")
    elif drafted.mode == "trigger" and not found.readiness.may_create:
        notes.append(
            f"role {found.readiness.role!r} may not create a schema here: `wal_tracker apply` has to be run by a role "
            "that may"
        )
    return [yaml.comment(note) for note in notes]


def _listed(tables: Sequence[SurveyedTable]) -> str:
    """Names for a sentence; of many, the first."""
    more = len(tables) - MAX_NAMES
    return ", ".join(map(_shown, tables[:MAX_NAMES])) + (f" and {more} more" if more > 0 else "")


def _tell(drafted: Draft, notes: Sequence[str]) -> None:
    click.echo(f"\nmode {drafted.mode}: {drafted.why}", err=True)
    secrets = sum(len(one.ignored) for one in drafted.tables)
    click.echo(
        f"{_count(drafted.active, 'rule')} over {_count(sum(one.is_tracked for one in drafted.tables), 'table')}"
        + (f", {drafted.waiting} more as comments" if drafted.waiting else "")
        + (f"; {_count(secrets, 'column')} that may be secret ignored" if secrets else ""),
        err=True,
    )
    for note in notes:
        click.echo(click.style("note", fg="yellow", bold=True) + f": {note}", err=True)


def _next_steps(output: Path, files: Sequence[Path], *, given_dsn: bool) -> None:
    click.echo(click.style("written", fg="green") + f": {', '.join(map(str, files))}", err=True)
    here = output.resolve() == Path.cwd()
    option = "" if here else f" --config {shlex.quote(str(files[0]))}"
    steps = [
        (f"wal_tracker validate{option} --database", "after every change of the file"),
        (f"wal_tracker plan{option}", "the SQL it needs; executes nothing"),
        (f"wal_tracker apply{option}", "executes it"),
        (f"wal_tracker run{option}", "events on stdout"),
    ]
    if given_dsn:
        steps.insert(0, ("export DATABASE_URL=…", "what you gave as --dsn; it is not in the file"))
    width = max(len(command) for command, _ in steps)
    click.echo("next:", err=True)
    for command, what in steps:
        click.echo(f"  {command.ljust(width)}  {what}", err=True)
    upstream = [name for name in SEARCHED[1:] if Path(name).is_file()]
    if here and upstream:
        click.echo(f"{FILE_NAME} is read before {upstream[0]} from now on, which also works as it is", err=True)


def _is_given(ctx: click.Context) -> bool:
    return ctx.get_parameter_source("dsn") is click.core.ParameterSource.COMMANDLINE


def _document(drafted: Draft, files: Sequence[Path], notes: Sequence[str]) -> dict[str, Any]:
    """What was found and written, as JSON."""
    found = drafted.survey
    chosen = {one.table.name: one for one in drafted.tables}
    return {
        "database": found.database,
        "server_version": found.server_version,
        "mode": drafted.mode,
        "why": drafted.why,
        "counted_s": round(found.counted_s, 3),
        "tables": [
            {
                "schema": one.name[0],
                "table": one.name[1],
                "rows": one.rows,
                "inserts": one.inserts,
                "updates": one.updates,
                "deletes": one.deletes,
                "state": _state(chosen[one.name].is_tracked if one.name in chosen else None),
                "ignored": list(chosen[one.name].ignored) if one.name in chosen else [],
            }
            for one in found.tables
        ],
        "rules": drafted.active,
        "waiting": drafted.waiting,
        "notes": list(notes),
        "files": [str(path) for path in files],
    }


def _state(is_tracked: bool | None) -> Literal["not chosen", "tracked", "waiting"]:
    if is_tracked is None:
        return "not chosen"
    return "tracked" if is_tracked else "waiting"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
