"""`wal_tracker plan`, `apply` and `drop`: what the configuration needs in the database."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from wal_tracker.cli import ask
from wal_tracker.config.load import load
from wal_tracker.errors import PreflightFailed
from wal_tracker.source import setup
from wal_tracker.source.plan import Plan

PLAN_EXAMPLES = """
\b
Examples:
  wal_tracker plan                       the SQL that is missing, on stdout; writes nothing
  wal_tracker plan --out migration.sql   the same as a file: psql -f migration.sql
  wal_tracker plan --json

Leaves with 3 when something is in the way that only a person can decide, with 0 otherwise.
"""
APPLY_EXAMPLES = """
\b
Examples:
  wal_tracker apply           shows the SQL, asks, runs it
  wal_tracker apply --yes     without asking; a second time it changes nothing
"""
DROP_EXAMPLES = """
\b
Examples:
  wal_tracker drop                     publication, functions and slot; shows the SQL and asks
  wal_tracker drop --slot-only --yes   just the slot, and with it the WAL it keeps

Only what wal_tracker made is removed. What the slot has not delivered is lost with it.
"""

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_yes = click.option("--yes", is_flag=True, help="Do not ask. Required where there is no terminal.")


@click.command("plan", epilog=PLAN_EXAMPLES)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False, writable=True), help="Write a script for psql to FILE."
)
@_json
@click.pass_context
def plan_command(ctx: click.Context, out: Path | None, as_json: bool) -> None:
    """Show the SQL this configuration still needs; write nothing to the database."""
    path: Path | None = ctx.obj
    plan = setup.plan(setup.desired(load(path, os.environ)))
    if out is not None:
        out.write_text(script(plan), encoding="utf-8")
        click.echo(f"{len(plan.steps)} statements written to {out}", err=True)
    if as_json:
        click.echo(json.dumps(document(plan)))
    else:
        tell(plan, show_steps=out is None)
    ctx.exit(3 if plan.blocking else 0)


@click.command("apply", epilog=APPLY_EXAMPLES)
@_yes
@_json
@click.pass_obj
def apply_command(path: Path | None, yes: bool, as_json: bool) -> None:
    """Make what this configuration needs in the database: publication, functions, slot."""
    wanted = setup.desired(load(path, os.environ))
    plan = setup.plan(wanted)
    if not as_json or not yes:
        tell(plan, show_steps=not as_json)
    if plan.blocking:
        raise PreflightFailed(plan.blocking)
    executed: list[str] = []
    if plan.steps:
        ask.confirm("Run these statements?", yes)
        executed = setup.apply(wanted)
        click.echo(click.style("done", fg="green") + f": {len(executed)} statements", err=True)
    if as_json:
        click.echo(json.dumps({**document(plan), "executed": executed}))


@click.command("drop", epilog=DROP_EXAMPLES)
@click.option("--slot-only", is_flag=True, help="Drop the slot and leave the rest.")
@_yes
@_json
@click.pass_obj
def drop_command(path: Path | None, slot_only: bool, yes: bool, as_json: bool) -> None:
    """Remove from the database what `apply` made. What the slot has not delivered is lost."""
    wanted = setup.desired(load(path, os.environ))
    plan = setup.plan_drop(wanted, slot_only=slot_only)
    if not as_json or not yes:
        tell(plan, show_steps=not as_json)
    executed: list[str] = []
    if plan.steps:
        ask.confirm("Run these statements?", yes)
        executed = setup.drop(wanted, slot_only=slot_only)
        click.echo(click.style("done", fg="green") + f": {len(executed)} statements", err=True)
    if as_json:
        click.echo(json.dumps({**document(plan), "executed": executed}))


def tell(plan: Plan, *, show_steps: bool) -> None:
    """The statements on stdout; what is in the way, and what else there is to know, on stderr."""
    if show_steps and plan.steps:
        click.echo(script(plan), nl=False)
    for note in plan.notes:
        click.echo(f"note: {note}", err=True)
    for finding in plan.findings:
        what = click.style("finding", fg="red") if finding.is_blocking else click.style("warning", fg="yellow")
        click.echo(f"{what}: {finding}", err=True)
    if not plan.steps and not plan.findings:
        click.echo("nothing to do", err=True)


def script(plan: Plan) -> str:
    """
    The plan as a script psql can run.

    The slot is dropped before and made after the transaction the rest runs in: it cannot see a publication that is
    younger than itself.
    """
    lines = ["-- Made by `wal_tracker plan`. Run with: psql -v ON_ERROR_STOP=1 -f FILE"]
    changes = [step for step in plan.steps if not step.slot]
    for group, opening, closing in (
        ([step for step in plan.steps if step.slot == "drop"], [], []),
        (changes, ["begin;"], ["commit;"]),
        ([step for step in plan.steps if step.slot == "make"], [], []),
    ):
        if group:
            lines += ["", *opening]
        for step in group:
            lines += [f"-- {step.why} (on the {step.where})", step.text]
        if group:
            lines += closing
    return "\n".join(lines) + "\n"


def document(plan: Plan) -> dict[str, Any]:
    """The plan as JSON."""
    return {
        "steps": [{"statement": step.text, "where": step.where, "why": step.why} for step in plan.steps],
        "findings": [
            {"problem": one.problem, "remedy": one.remedy, "blocking": one.is_blocking} for one in plan.findings
        ],
        "notes": list(plan.notes),
    }
