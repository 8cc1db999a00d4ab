"""`wal_tracker dlq`: the events and changes that could not be delivered, and what may be done with them."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from wal_tracker.cli import ask, table
from wal_tracker.cli.letters import chosen, deliver, document, shortened
from wal_tracker.config.load import load
from wal_tracker.state import open_state

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
@click.option("--replayed", is_flag=True, help="Those that have been delivered after all, too.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="How many at most.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def list_letters(path: Path | None, destination: str | None, replayed: bool, limit: int, as_json: bool) -> None:
    """List the dead letters, oldest first."""
    config = load(path, os.environ)
    with closing(open_state(config.state)) as state:
        found = state.dead_letters(status=None, destination=destination)
    letters = [letter for letter in found if replayed or letter.status != "replayed"][:limit]
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
        letters = [letter for letter in chosen(state, ids, destination, every) if letter.status != "replayed"]
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
