"""`wal_tracker tail`: what happens in the database, live; looks, and leaves nothing behind."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import orjson

from wal_tracker import assemble
from wal_tracker.config.load import load
from wal_tracker.config.model import Config
from wal_tracker.errors import RuleEvaluationError
from wal_tracker.lsn import LSN
from wal_tracker.model import Change, Commit, Deliverable, Event, Message, NoEvent, RawChange, RowEvent
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.rules.engine import EVENT_PREFIX, RuleSet
from wal_tracker.source import catalog, setup, slot
from wal_tracker.source.connection import Session
from wal_tracker.source.replication import ReplicationSource

READ_TIMEOUT_S = 0.25

EXAMPLES = """
\b
Examples:
  wal_tracker tail                     every change, as it commits, until Ctrl-C
  wal_tracker tail --events            the events the rules make of them
  wal_tracker tail --json --limit 10   ten changes, one JSON object a line

Reads a temporary replication slot that ends with this command: your own slot, its position and the
destinations are not touched. Shows what is published by source.publication; `ignore`d columns are not
decoded.
"""


@click.command("tail", epilog=EXAMPLES)
@click.option("--events", is_flag=True, help="Show the events the rules make, not the changes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, in the shape destinations get.")
@click.option("--limit", type=click.IntRange(min=1), help="End after so many lines.")
@click.pass_obj
def tail_command(path: Path | None, events: bool, as_json: bool, limit: int | None) -> None:
    """Print changes (or events) live, from a temporary slot."""
    config = load(path, os.environ)
    for shown, item in enumerate(follow(config, events), 1):
        if as_json:
            click.echo(item.to_json())
        else:
            click.echo(line(item))
        if shown == limit:
            return


def follow(config: Config, events: bool) -> Iterator[Deliverable]:
    """
    What commits from now on; never ends by itself.

    Raises:
        SourceError: The server cannot be read, or went away: what happened since is not known.
    """
    settings = replace(setup.desired(config).settings, slot=f"wal_tracker_tail_{secrets.token_hex(4)}", temporary=True)
    types = TypeCatalog()
    with Session(settings.dsn) as session:
        types.add(catalog.read_types(session))
    server = slot.identify(settings)
    rules = RuleSet(config, types, system_identifier=server.system_identifier, mode="wal", raw=not events)
    source = ReplicationSource(settings, assemble.build_decoder(config, types, rules.wanted_events))
    try:
        source.connect(LSN(0))
        click.echo(f"reading {server.database} from {server.current_lsn} on; Ctrl-C ends", err=True)
        while True:
            for item in source.read(READ_TIMEOUT_S):
                if isinstance(item, Commit):
                    source.confirm(item.transaction.end_lsn)
                elif isinstance(item, RowEvent):
                    yield item
                elif events and not isinstance(item, NoEvent):
                    yield from _events(item, rules)
                elif isinstance(item, Change):
                    yield rules.raw_change(item)
            if source.caught_up_lsn:
                source.confirm(source.caught_up_lsn)
    finally:
        source.close()


def _events(item: Change | Message, rules: RuleSet) -> Iterator[Event]:
    """The events of one change or message; a rule's error is told and passed over."""
    chosen = item.relation.plan.rules[item.op] if isinstance(item, Change) else rules.message_rules(item)
    makers = [rule.make for rule in chosen]
    if isinstance(item, Message) and item.prefix == EVENT_PREFIX:
        makers.append(rules.emitted)
    for make in makers:
        try:
            event = make(item)
        except RuleEvaluationError as error:
            click.echo(click.style("error", fg="red") + f": {error}", err=True)
            continue
        if event is not None:
            yield event


def line(item: Deliverable) -> str:
    """A change or an event on one line, for a person."""
    clock = item.timestamp[11:23]
    if isinstance(item, RawChange):
        return f"{clock}  {_change(item)}"
    who = f" [{item.distinct_id}]" if item.distinct_id is not None else ""
    told = f"{clock}  {click.style(item.name, fg='cyan', bold=True)}{who}  {_text(item.properties)}"
    if item.identify is not None:
        told += f"  identify={_text(item.identify)}"
    if item.group is not None:
        told += f"  group={_text(item.group)}"
    return told


def _change(item: RawChange) -> str:
    document = item.document
    colours = {"insert": "green", "update": "yellow", "delete": "red", "truncate": "magenta"}
    old, new = document["old"], document["new"]
    if document["op"] == "update":
        known = old or {}
        told = {name: value for name, value in new.items() if name not in known or _text(known[name]) != _text(value)}
        row = {**document["key"], **told}
    else:
        row = new or old or {}
    table = f"{document['schema']}.{document['table']}"
    values = "  ".join(f"{name}={_text(value)}" for name, value in row.items())
    return f"{click.style(document['op'], fg=colours[document['op']], bold=True):8} {table}  {values}".rstrip()


def _text(value: object) -> str:
    return orjson.dumps(value).decode()
