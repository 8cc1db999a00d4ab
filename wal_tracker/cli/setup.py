"""`wal_tracker plan`, `apply` and `drop`: what the configuration needs in the database."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from wal_tracker.cli import ask, problems
from wal_tracker.config.load import load
from wal_tracker.config.model import Mode
from wal_tracker.errors import PreflightFailed
from wal_tracker.source import setup
from wal_tracker.source.plan import Desired, Plan

PLAN_EXAMPLES = """
\b
Examples:
  wal_tracker plan                       the SQL that is missing, on stdout; writes nothing
  wal_tracker plan --out migration.sql   the same as a file: psql -f migration.sql
  wal_tracker plan --mode trigger        what the other mode needs
  wal_tracker plan --json

Leaves with 3 when something is in the way that only a person can decide, with 0 otherwise.
"""
APPLY_EXAMPLES = """
\b
Examples:
  wal_tracker apply           shows the SQL, asks, runs it
  wal_tracker apply --yes     without asking; a second time it changes nothing

Where the mode has changed, what divides the two sources is stored before either side moves, and
`wal_tracker run` then finishes the change: nothing is lost or delivered twice.
"""
DROP_EXAMPLES = """
\b
Examples:
  wal_tracker drop                     everything of either mode; shows the SQL and asks
  wal_tracker drop --slot-only --yes   just the slot, and with it the WAL it keeps

Only what wal_tracker made is removed: publication, slot, triggers, outbox, functions. What slot and
outbox have not delivered is lost with them.
"""

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
mode_option = click.option("--mode", type=click.Choice(["wal", "trigger"]), help="Overrides source.mode.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask. Required where there is no terminal.")


@click.command("plan", epilog=PLAN_EXAMPLES)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False, writable=True), help="Write a script for psql to FILE."
)
@mode_option
@json_option
@click.pass_context
def plan_command(ctx: click.Context, out: Path | None, mode: Mode | None, as_json: bool) -> None:
    """Show the SQL this configuration still needs; write nothing to the database."""
    plan = setup.plan(wanted_by(ctx.obj, mode))
    if out is not None:
        if any(step.switch for step in plan.steps):
            raise click.UsageError(
                "a change of mode cannot be a script: what divides the two sources is noted while it runs. "
                "`wal_tracker apply` carries it out."
            )
        out.write_text(script(plan), encoding="utf-8")
        click.echo(f"{len(plan.steps)} statements written to {out}", err=True)
    if as_json:
        click.echo(json.dumps(document(plan)))
    else:
        tell(plan, show_steps=out is None)
    ctx.exit(3 if plan.blocking else 0)


@click.command("apply", epilog=APPLY_EXAMPLES)
@mode_option
@yes_option
@json_option
@click.pass_obj
def apply_command(path: Path | None, mode: Mode | None, yes: bool, as_json: bool) -> None:
    """Make what this configuration needs in the database: publication and slot, or outbox and triggers."""
    wanted = wanted_by(path, mode)
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
@mode_option
@yes_option
@json_option
@click.pass_obj
def drop_command(path: Path | None, slot_only: bool, mode: Mode | None, yes: bool, as_json: bool) -> None:
    """Remove from the database what `apply` made. What is not delivered yet is lost."""
    wanted = wanted_by(path, mode)
    plan = setup.plan_drop(wanted, slot_only=slot_only)
    if not as_json or not yes:
        tell(plan, show_steps=not as_json)
    if plan.blocking:
        raise PreflightFailed(plan.blocking)
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
    The plan as a script psql can run, with the difference it makes at its head.

    What can be, is one transaction. The slot is dropped before and made after it: it cannot see a publication that is
    younger than itself. Where triggers wait for the application's transactions, they do not wait for long: everything
    is rolled back then, and the script may be run again.
    """
    lines = ["-- Made by `wal_tracker plan`. Run with: psql -v ON_ERROR_STOP=1 -f FILE", "--"]
    lines += [f"-- {_one_line(step.change)}" for step in plan.steps if step.change]
    for (slot, switch), group in itertools.groupby(plan.steps, key=lambda step: (step.slot, step.switch)):
        steps = list(group)
        is_transaction = not slot and switch != "to_wal"
        lines.append("")
        if is_transaction:
            lines.append("begin;")
            if any(step.waits_for for step in steps):
                lines.append(f"set local lock_timeout = '{setup.LOCK_TIMEOUT_MS}ms';")
        for step in steps:
            lines += [f"-- {_one_line(step.why)} (on the {step.where})", step.text]
        if is_transaction:
            lines.append("commit;")
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    """For a comment: a table may have a line break in its name."""
    return " ".join(text.splitlines())


def document(plan: Plan) -> dict[str, Any]:
    """The plan as JSON."""
    return {
        "steps": [
            {"statement": step.text, "where": step.where, "why": step.why, "change": step.change} for step in plan.steps
        ],
        "findings": [
            {"problem": one.problem, "remedy": one.remedy, "blocking": one.is_blocking} for one in plan.findings
        ],
        "notes": list(plan.notes),
    }


def wanted_by(path: Path | None, mode: Mode | None) -> Desired:
    """What the configuration needs, in its own mode or another."""
    config = load(path, os.environ)
    if mode is not None:
        config = replace(config, source=replace(config.source, mode=mode))
    problems.refuse_mode(config.source.mode)
    return setup.desired(config)
