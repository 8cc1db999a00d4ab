"""`wal_tracker plugins`: the kinds of destination this installation has."""

from __future__ import annotations

import json

import click

from wal_tracker.cli import table
from wal_tracker.destinations import registry

EXAMPLES = """
\b
Examples:
  wal_tracker plugins            the kinds that may stand under `destinations:`
  wal_tracker plugins --json     the same as one JSON document

A package adds a kind through the entry-point group wal_tracker.destinations. Nothing is imported to
list them, so a broken plugin is listed too.
"""


@click.command("plugins", epilog=EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def plugins_command(as_json: bool) -> None:
    """List the kinds of destination that are installed."""
    found = registry.available()
    if as_json:
        document = [
            {
                "name": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "entry_point": plugin.entry_point,
            }
            for plugin in found
        ]
        click.echo(json.dumps({"destinations": document}))
        return
    if not found:
        click.echo("no destinations are installed; is wal_tracker installed with its plugins?", err=True)
        return
    table.echo(
        ("KIND", "FROM", "VERSION", "CLASS"),
        [(plugin.name, plugin.distribution, plugin.version, plugin.entry_point) for plugin in found],
    )
