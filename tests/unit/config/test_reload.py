"""What a running process takes over of a configuration that was read again."""

from __future__ import annotations

import pytest

from wal_tracker.config.load import read
from wal_tracker.config.model import Config
from wal_tracker.config.reload import with_new_options

TEXT = """
track:
  users.insert: {event: signup, properties: {id: new.id}, when: new.id > 0}
source: {dsn: host=a}
destinations:
  one: {kind: webhook, url: https://a, filter: "user_*"}
  two: {kind: webhook, url: https://b}
raw_db_event_destinations:
  one: {kind: file, path: a}
"""


def config(*changes: tuple[str, str]) -> Config:
    """`TEXT`, changed."""
    text = TEXT
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    return read(text.encode(), {})


def test_options_are_taken_over() -> None:
    """Of both sections, each by its name."""
    merged, changed = with_new_options(config(), config(("https://b", "https://c"), ("path: a", "path: b")))

    assert [entry.options["url"] for entry in merged.destinations] == ["https://a", "https://c"]
    assert merged.raw_destinations[0].options == {"path": "b"}
    assert changed == []


def test_what_only_moved_in_the_file_has_not_changed() -> None:
    """A line added above the rules is no new rule."""
    moved = config(("track:", "# a comment\n\ntrack:"), ("id: new.id}", "id:    new.id}"))

    _, changed = with_new_options(config(), moved)

    assert changed == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("new.id > 0", "new.id > 1"), "track"),
        (("host=a", "host=b"), "source"),
        (("source:", "hash_key: k\nsource:"), "hash_key"),
        (("source:", "delivery: {stall_timeout_s: 1}\nsource:"),
         "delivery, destinations.one, destinations.two, raw_db_event_destinations.one"),
        (('"user_*"', '"team_*"'), "destinations.one"),
        (("  two: {kind: webhook, url: https://b}\n", ""), "destinations.two"),
        (("  two: {", "  three: {kind: stdout}\n  two: {"), "destinations.three"),
        (("kind: webhook, url: https://b", "kind: segment, writeKey: k"), "destinations.two"),
        (("url: https://b", "url: https://b, when: event == 'x'"), "destinations.two"),
        (("url: https://b", "url: https://b, delivery: {linger_s: 1}"), "destinations.two"),
    ],
)  # fmt: skip
def test_everything_else_is_named_and_left_as_it_is(change: tuple[str, str], named: str) -> None:
    """The person restarts for it."""
    running = config()

    merged, changed = with_new_options(running, config(change))

    assert ", ".join(changed) == named
    assert merged == running


def test_an_entry_with_another_filter_still_gets_its_new_options() -> None:
    """A key that was rotated does not wait for it."""
    merged, changed = with_new_options(config(), config(('"user_*"', '"team_*"'), ("https://a", "https://new")))

    assert changed == ["destinations.one"]
    assert (merged.destinations[0].options["url"], merged.destinations[0].filter) == ("https://new", ("user_*",))
