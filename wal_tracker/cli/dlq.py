"""`wal_tracker dlq`: the events and changes that could not be delivered, and what may be done with them."""

from __future__ import annotations

import json
import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from wal_tracker import assemble
from wal_tracker.cli import ask, table
from wal_tracker.config.load import load
from wal_tracker.config.model import Config
from wal_tracker.state import open_state
from wal_tracker.state.base import DeadLetter, StateStore

POLL_INTERVAL_S = 0.2

EXAMPLES = """
\b
Examples:
  wal_tracker dlq list
  wal_tracker dlq list --destination posthog --json
  wal_tracker dlq show 9f1c2d3e
  wal_tracker dlq replay 9f1c2d3e       one of them, by the beginning of its id
  wal_tracker dlq replay --all
  wal_tracker dlq drop --all --yes
"""
LIST_EXAMPLES = "\b\nExample:\n  wal_tracker dlq list --limit 20"
SHOW_EXAMPLES = "\b\nExample:\n  wal_tracker dlq show 9f1c2d3e"
REPLAY_EXAMPLES = """
\b
Examples:
  wal_tracker dlq replay 9f1c2d3e
  wal_tracker dlq replay --all --destination posthog
"""
DROP_EXAMPLES = """
\b
Examples:
  wal_tracker dlq drop 9f1c2d3e
  wal_tracker dlq drop --all --yes
"""


@click.group("dlq", epilog=EXAMPLES)
def dlq_command() -> None:
    """
    Dead letters: what a rule or a destination refused for good.

    A letter is a change some rule could not be evaluated on (kind `rule`), or an event a
    destination refused (kind `rejected`); with the reason and the whole payload. They are kept
    until they are dropped.
    """


def _options(command: Any) -> Any:
    """Which letters: ids, a destination, or all."""
    command = click.option("--destination", help="Only letters of this destination.")(command)
    command = click.option("--all", "every", is_flag=True, help="All of them.")(command)
    return click.argument("ids", nargs=-1)(command)


@dlq_command.command("list", epilog=LIST_EXAMPLES)
@click.option("--destination", help="Only letters of this destination.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="How many at most.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def list_letters(path: Path | None, destination: str | None, limit: int, as_json: bool) -> None:
    """List the dead letters, oldest first."""
    config = load(path, os.environ)
    with closing(open_state(config.state)) as state:
        letters = state.dead_letters(status=None, limit=limit, destination=destination)
    if as_json:
        for letter in letters:
            click.echo(json.dumps(document(letter)))
    elif letters:
        table.echo(
            ("ID", "STATUS", "KIND", "RULE", "DESTINATION", "TABLE", "REASON"),
            [
                (
                    letter.id,
                    letter.status,
                    letter.kind,
                    letter.rule,
                    letter.destination or None,
                    letter.table,
                    shortened(letter.reason),
                )
                for letter in letters
            ],
        )
    else:
        click.echo("no dead letters", err=True)


@dlq_command.command("show", epilog=SHOW_EXAMPLES)
@click.argument("id")
@click.pass_obj
def show(path: Path | None, id: str) -> None:
    """Print one letter, payload and all, as JSON. ID may be the beginning of an id."""
    config = load(path, os.environ)
    with closing(open_state(config.state)) as state:
        found = chosen(state, (id,), None, False)
    for letter in found:
        whole = {**document(letter), "payload": json.loads(letter.payload)}
        click.echo(json.dumps(whole, indent=2, ensure_ascii=False))


@dlq_command.command("replay", epilog=REPLAY_EXAMPLES)
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds to wait for a running `run` to deliver.",
)
@_options
@click.pass_context
def replay(ctx: click.Context, ids: tuple[str, ...], every: bool, destination: str | None, wait_s: float) -> None:
    """
    Deliver dead letters again: a rejected event as it is, a change by the rules as they are now.

    While `wal_tracker run` is running, it delivers them; else this command does. What is refused
    again stays a dead letter.
    """
    path: Path | None = ctx.obj
    config = load(path, os.environ)
    with closing(open_state(config.state)) as state:
        letters = chosen(state, ids, destination, every)
        state.set_status([letter.id for letter in letters], "replay")
        delivered, failed = deliver(config, state, [letter.id for letter in letters], wait_s)
    click.echo(f"{delivered} delivered, {failed} not", err=True)
    ctx.exit(1 if failed else 0)


@dlq_command.command("drop", epilog=DROP_EXAMPLES)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_options
@click.pass_obj
def drop(path: Path | None, ids: tuple[str, ...], every: bool, destination: str | None, yes: bool) -> None:
    """Forget dead letters for good."""
    config = load(path, os.environ)
    with closing(open_state(config.state)) as state:
        letters = chosen(state, ids, destination, every)
        if letters:
            ask.confirm(f"Drop {len(letters)} dead letters for good?", yes)
            state.drop([letter.id for letter in letters])
            click.echo(f"{len(letters)} dropped", err=True)


def chosen(state: StateStore, ids: tuple[str, ...], destination: str | None, every: bool) -> list[DeadLetter]:
    """
    The letters a person means.

    Raises:
        click.UsageError: None is named, or a name fits no letter, or more than one.
    """
    letters = [
        letter for letter in state.dead_letters(status=None, destination=destination) if letter.status != "replayed"
    ]
    if every or (destination is not None and not ids):
        return letters
    if not ids:
        raise click.UsageError("name dead letters by their ids, or say --all or --destination NAME")
    found = []
    for id in ids:
        fitting = [letter for letter in letters if letter.id.startswith(id)]
        if len({letter.id for letter in fitting}) != 1:
            raise click.UsageError(
                f"no dead letter's id begins with {id!r}" if not fitting else f"more than one id begins with {id!r}"
            )
        found += fitting
    return found


def deliver(config: Config, state: StateStore, ids: list[str], wait_s: float) -> tuple[int, int]:
    """
    See to it that letters marked "replay" are delivered.

    Returns:
        How many were, and how many were not (in time).
    """
    if ids and not state.is_held():
        result = assemble.replay_dead_letters(config, state)
        return result.delivered, result.failed
    if ids:
        click.echo(f"`wal_tracker run` is running and delivers them; waiting up to {wait_s:g} s", err=True)
    deadline = time.monotonic() + wait_s
    while True:
        status = {letter.id: letter.status for letter in state.dead_letters(status=None) if letter.id in ids}
        waiting = sum(1 for id in ids if status.get(id) == "replay")
        if not waiting or time.monotonic() > deadline:
            failed = sum(1 for id in ids if status.get(id, "replayed") != "replayed")
            return len(ids) - failed, failed
        time.sleep(POLL_INTERVAL_S)


def document(letter: DeadLetter) -> dict[str, Any]:
    """A letter as JSON, without its payload."""
    return {
        "id": letter.id,
        "status": letter.status,
        "kind": letter.kind,
        "destination": letter.destination,
        "rule": letter.rule,
        "event": letter.event,
        "table": letter.table,
        "commit_lsn": str(letter.commit_lsn),
        "commit_time": letter.commit_time,
        "reason": letter.reason,
        "created_at": letter.created_at,
    }


def shortened(reason: str) -> str:
    """The first line of a reason, short enough for a table."""
    first = reason.splitlines()[0] if reason else ""
    return first if len(first) <= 60 else first[:59] + "…"
