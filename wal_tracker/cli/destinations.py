"""`wal_tracker destinations`: the destinations of this configuration, and whether they can be reached."""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import Any

import click
import orjson

from wal_tracker.cli import ask, table, trial
from wal_tracker.config.load import load
from wal_tracker.config.model import DestinationConfig
from wal_tracker.destinations.http import Exchange

MAX_SHOWN = 2000
"""Characters of a body; the rest is counted."""

EXAMPLES = """
\b
Examples:
  wal_tracker destinations list
  wal_tracker destinations test posthog          send one marked event, show request and answer
  wal_tracker destinations test posthog --yes    the same from a script
"""
LIST_EXAMPLES = "\b\nExample:\n  wal_tracker destinations list --json"
TEST_EXAMPLES = """
\b
Examples:
  wal_tracker destinations test posthog
  wal_tracker destinations test changes --raw    of raw_db_event_destinations
  wal_tracker destinations test posthog --yes --json

Leaves with 0 if the destination took the event, and with 1 if it did not. Keys and what of a URL may
be one are shown as ***.
"""


@click.group("destinations", epilog=EXAMPLES)
def destinations_command() -> None:
    """Where events go: what is configured, and whether it can be reached."""


@destinations_command.command("list", epilog=LIST_EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def list_destinations(path: Path | None, as_json: bool) -> None:
    """List the destinations of the configuration."""
    config = load(path, os.environ)
    found: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "kind": entry.kind,
            "raw": raw,
            "filter": list(entry.filter),
            "when": entry.when.source if entry.when is not None else None,
        }
        for raw, entries in ((False, config.destinations), (True, config.raw_destinations))
        for entry in entries
    ]
    if as_json:
        click.echo(json.dumps({"destinations": found}))
    elif found:
        table.echo(
            ("NAME", "KIND", "GETS", "FILTER", "WHEN"),
            [
                (one["name"], one["kind"], "changes" if one["raw"] else "events", " ".join(one["filter"]), one["when"])
                for one in found
            ],
        )
    else:
        click.echo("none is configured; events go to stdout", err=True)


@destinations_command.command("test", epilog=TEST_EXAMPLES)
@click.argument("name")
@click.option("--raw", is_flag=True, help="One of raw_db_event_destinations; it gets a marked change.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def send_test(ctx: click.Context, name: str, raw: bool, yes: bool, as_json: bool) -> None:
    """
    Send one marked event to NAME; show request and answer.

    The event is called wal_tracker_test, is about the user wal_tracker_test and has one property,
    wal_tracker_test: true. It goes straight there: filter, `when` and `properties` are not asked.
    """
    path: Path | None = ctx.obj
    config = load(path, os.environ)
    entry = _entry(config.raw_destinations if raw else config.destinations, name, raw)
    ask.confirm(f"Send one test event named {trial.NAME!r} to {name} ({entry.kind})? It stays there.", yes)
    done = trial.send(entry, raw=raw, mode=config.source.mode)
    if as_json:
        document = {
            "destination": name,
            "kind": entry.kind,
            "delivered": not done.reason,
            "reason": done.reason,
            "event": orjson.loads(done.event.to_json()),
            "exchanges": [_document(exchange) for exchange in done.exchanges],
        }
        click.echo(json.dumps(document))
    else:
        for exchange in done.exchanges:
            _echo(exchange)
        if not done.exchanges:
            click.echo(f"{entry.kind}: opened, handed one event over, closed; nothing went over HTTP")
        verdict = click.style("not delivered", fg="red") if done.reason else click.style("delivered", fg="green")
        click.echo(f"{verdict}: {done.reason or f'{name} has taken the event {done.event.id}'}")
    ctx.exit(1 if done.reason else 0)


def _entry(entries: tuple[DestinationConfig, ...], name: str, raw: bool) -> DestinationConfig:
    for entry in entries:
        if entry.name == name:
            return entry
    section = "raw_db_event_destinations" if raw else "destinations"
    names = [entry.name for entry in entries]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}" if names else "there are none"
    raise click.UsageError(f"there is no {name!r} under `{section}`; {hint}")


def _document(exchange: Exchange) -> dict[str, Any]:
    answer = exchange.answer
    return {
        "request": {
            "method": exchange.method,
            "url": exchange.url,
            "headers": dict(exchange.headers),
            "body": _shown(exchange.body),
        },
        "answer": None if answer is None else {"status": answer.status, "body": _shown(answer.body)},
        "failure": exchange.failure,
    }


def _echo(exchange: Exchange) -> None:
    click.echo(click.style(f"{exchange.method} {exchange.url}", bold=True))
    for name, value in exchange.headers.items():
        click.echo(f"  {name}: {value}")
    click.echo(f"\n  {_shown(exchange.body)}\n" if exchange.body else "")
    if exchange.answer is None:
        click.echo(f"no answer: {exchange.failure}")
    else:
        click.echo(click.style(f"{exchange.answer.status}", bold=True))
        if exchange.answer.body:
            click.echo(f"  {_shown(exchange.answer.body)}")
    click.echo()


def _shown(body: bytes) -> str:
    """A body as a person reads it: short, and harmless to a terminal."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return f"({len(body)} bytes that are not text)"
    text = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text) - MAX_SHOWN} characters more)"
