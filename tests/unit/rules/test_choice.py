"""Which events a `cond` can choose."""

from __future__ import annotations

import pytest

from wal_tracker.rules.choice import choice


@pytest.mark.parametrize(
    ("cond", "events", "texts", "is_closed"),
    [
        ("events.a", {"a"}, set(), True),
        ("events['a-b']", {"a-b"}, set(), True),
        ("new.x > 0 ? events.a : null", {"a"}, set(), True),
        ("new.x ? events.a : (new.y ? 'b' : events.c)", {"a", "c"}, {"b"}, True),
        ("new.kind", set(), set(), False),
        ("new.x ? events.a : new.kind", {"a"}, set(), False),
        ("'events.z' == new.x ? events.a : null", {"a"}, set(), True),
    ],
)
def test_the_names_are_read_off_the_branches(cond: str, events: set[str], texts: set[str], is_closed: bool) -> None:
    """References, strings, and whether anything is left open; what stands in a condition is no name."""
    found = choice(cond)
    assert (found.events, found.texts, found.is_closed) == (events, texts, is_closed)


def test_a_name_without_a_block_is_accepted_while_every_block_is_used() -> None:
    """As in the README of pg_track_events."""
    found = choice("old.x != new.x ? events.moved : events.touched")
    assert set(found.accepted({"moved": {}})) == {"moved", "touched"}
    assert found.missing({"moved": {}}) == ["touched"]


def test_a_name_without_a_block_is_not_accepted_beside_a_block_without_a_name() -> None:
    """One of the two is misspelt."""
    found = choice("old.x != new.x ? events.moved : events.tuoched")
    assert set(found.accepted({"moved": {}, "touched": {}})) == {"moved", "touched"}
    assert found.unused({"moved": {}, "touched": {}}) == ["touched"]


def test_a_computed_name_may_be_any_block() -> None:
    """Then nothing is known to be unused."""
    assert choice("new.kind").unused({"a": {}}) == []
