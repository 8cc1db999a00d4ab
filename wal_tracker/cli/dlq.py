"""`wal_tracker dlq`: the events and changes that could not be delivered, and what may be done with them."""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click

from wal_tracker.cli import ask, letters, table
from wal_tracker.config.load import load
from wal_tracker.state import open_state
from wal_tracker.state.base import LetterFilter

EXAMPLES = """
\b
Examples:
  wal_tracker dlq list
  wal_tracker dlq list --destination posthog --since 2h
  wal_tracker dlq show 9f1c2d3e                        reason, the vendor's answer, payload
  wal_tracker dlq replay 9f1c2d3e                      one of them, by the beginning of its id
  wal_tracker dlq replay --rule users.insert           once the rule is mended
  wal_tracker dlq export --output letters.jsonl
  wal_tracker dlq drop --destination webhook --until 7d

The same filters everywhere; a letter is meant when it fits all that are given. Times are those
at which it became a dead letter. `wal_tracker status` counts them.
"""
LIST_EXAMPLES = """
\b
Examples:
  wal_tracker dlq list --limit 20
  wal_tracker dlq list --table orders --event 'order_*' --reason 400
  wal_tracker dlq list --since 2026-01-02T03:00:00Z --until 2026-01-02T04:00:00Z --json
"""
SHOW_EXAMPLES = "\b\nExample:\n  wal_tracker dlq show 9f1c2d3e"
REPLAY_EXAMPLES = """
\b
Examples:
  wal_tracker dlq replay 9f1c2d3e
  wal_tracker dlq replay --rule users.insert
  wal_tracker dlq replay --destination posthog --since 2h
  wal_tracker dlq replay --all --limit 10              try the ten oldest

Which it would be, without sending anything: `wal_tracker dlq list` with the same filters.
"""
EXPORT_EXAMPLES = """
\b
Examples:
  wal_tracker dlq export --output letters.jsonl
  wal_tracker dlq export --kind rejected | jq -r .answer | sort | uniq -c
"""
DROP_EXAMPLES = """
\b
Examples:
  wal_tracker dlq drop 9f1c2d3e
  wal_tracker dlq drop --destination webhook --until 7d
  wal_tracker dlq drop --all --yes
"""

_replayed = click.option("--replayed", is_flag=True, help="Those that have been delivered after all, too.")
_every = click.option("--all", "every", is_flag=True, help="All of them.")
_limit = click.option("--limit", type=click.IntRange(min=1), help="The oldest of them, so many.  [default: all]")


@click.group("dlq", epilog=EXAMPLES)
def dlq_command() -> None:
    """
    Dead letters: what a rule or a destination refused for good.

    A letter is a change some rule could not be evaluated on (kind `rule`), or an event a
    destination refused (kind `rejected`); with the reason, the vendor's answer and the whole
    payload. How many are kept, and what happens beyond, says `dead_letters` in the configuration.
    """


@dlq_command.command("list", epilog=LIST_EXAMPLES)
@letters.filters
@_replayed
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="The oldest, so many.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def list_letters(
    path: Path | None, ids: tuple[str, ...], chosen: LetterFilter, replayed: bool, limit: int, as_json: bool
) -> None:
    """List the dead letters, oldest first: all, or those with these IDS or beginnings of ids."""
    config = load(path, os.environ)
    with closing(open_state(config.state)) as state:
        meant = letters.selected(state, ids, replace(chosen, is_open=not replayed))
        found = letters.each(state, meant, limit)
        if as_json:
            for letter in found:
                click.echo(json.dumps(letters.document(letter)))
            return
        rows = [
            (
                letter.id,
                letter.status,
                letter.kind,
                letter.rule or None,
                letter.destination or None,
                letter.table,
                letters.age(letter.created_at),
                letters.shortened(letter.reason),
            )
            for letter in found
        ]
        if not rows:
            click.echo("no dead letters", err=True)
            return
        table.echo(("ID", "STATUS", "KIND", "RULE", "DESTINATION", "TABLE", "AGE", "REASON"), rows)
        if len(rows) == limit and (more := letters.count(state, meant) - limit) > 0:
            click.echo(f"{more} more; --limit shows them, filters narrow them down", err=True)


@dlq_command.command("show", epilog=SHOW_EXAMPLES)
@click.argument("id")
@click.option("--destination", metavar="NAME", help="Where the event was refused by several: by this one.")
@click.pass_obj
def show(path: Path | None, id: str, destination: str | None) -> None:
    """Print one letter as JSON: reason, the vendor's answer, payload. ID may be the beginning of an id."""
    config = load(path, os.environ)
    with closing(open_state(config.state)) as state:
        meant = letters.selected(state, (id,), LetterFilter(destination=destination))
        for letter in letters.each(state, meant, None):
            click.echo(letters.whole_text(letter, indent=2))


@dlq_command.command("replay", epilog=REPLAY_EXAMPLES)
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds to wait for a running `run` to deliver.",
)
@letters.filters
@_every
@_limit
@click.pass_context
def replay(
    ctx: click.Context, ids: tuple[str, ...], chosen: LetterFilter, every: bool, limit: int | None, wait_s: float
) -> None:
    """
    Deliver dead letters again: a rejected event as it is, a change by the rules as they are now.

    Those with these IDS or beginnings of ids, those that fit the filters, or --all. Events keep
    their ids. While `wal_tracker run` is running, it delivers them; else this command does. What is
    refused again stays a dead letter. Exit 1: not all were delivered.
    """
    letters.require_choice(ids, chosen, every)
    path: Path | None = ctx.obj
    config = load(path, os.environ)
    with closing(open_state(config.state)) as state:
        meant = letters.selected(state, ids, replace(chosen, is_open=True, up_to=state.last_letter()))
        delivered, failed = letters.deliver(config, state, meant, limit, wait_s)
    click.echo(f"{delivered} delivered, {failed} not", err=True)
    ctx.exit(1 if failed else 0)


@dlq_command.command("export", epilog=EXPORT_EXAMPLES)
@letters.filters
@_replayed
@_limit
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to FILE, whole or not at all; one that is there is replaced. Only its owner may read it.",
)
@click.pass_obj
def export(
    path: Path | None,
    ids: tuple[str, ...],
    chosen: LetterFilter,
    replayed: bool,
    limit: int | None,
    output: Path | None,
) -> None:
    """Print dead letters as JSON lines, oldest first, each as `show` prints it: with answer and payload."""
    config = load(path, os.environ)
    with closing(open_state(config.state)) as state:
        meant = letters.selected(state, ids, replace(chosen, is_open=not replayed))
        lines = map(letters.whole_text, letters.each(state, meant, limit))
        if output is None:
            for line in lines:
                click.echo(line)
        else:
            click.echo(f"{letters.write_whole(output, lines)} dead letters written to {output}", err=True)


@dlq_command.command("drop", epilog=DROP_EXAMPLES)
@click.option("--yes", is_flag=True, help="Do not ask.")
@letters.filters
@_every
@_limit
@click.pass_obj
def drop(
    path: Path | None, ids: tuple[str, ...], chosen: LetterFilter, every: bool, limit: int | None, yes: bool
) -> None:
    """Forget dead letters for good: those with these IDS or beginnings of ids, that fit the filters, or --all."""
    letters.require_choice(ids, chosen, every)
    config = load(path, os.environ)
    with closing(open_state(config.state)) as state:
        # Those there are now: what comes while the person thinks is not meant.
        meant = letters.selected(state, ids, replace(chosen, up_to=state.last_letter()))
        number = letters.count(state, meant)
        number = number if limit is None else min(number, limit)
        if not number:
            click.echo("no dead letters", err=True)
            return
        ask.confirm(f"Drop {number} dead letters for good?", yes)
        click.echo(f"{letters.drop(state, meant, limit)} dropped", err=True)
