"""What `tail` prints of an event for a person."""

from __future__ import annotations

import click

from wal_tracker.cli.tail import line
from wal_tracker.model import Group
from wal_tracker.testing import make_event


def test_a_line_shows_what_an_event_says_of_a_person_and_a_group() -> None:
    """And nothing more of one that says nothing."""
    plain = make_event(1)
    more = make_event(1, identify={"plan": None}, group=Group("team", "7", {}))

    assert click.unstyle(line(plain)) == '03:04:05.123  order_placed [1]  {"number":1}'
    assert click.unstyle(line(more)) == (
        click.unstyle(line(plain)) + '  identify={"plan":null}  group={"type":"team","id":"7","traits":{}}'
    )
