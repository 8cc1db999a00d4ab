"""One event is handed to every destination, each with a thread of its own, and to the spool."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from types import FrameType
from typing import Any

import orjson
import pytest

from wal_tracker import model
from wal_tracker.model import Event, Group, RowEvent
from wal_tracker.testing import make_event


def plain() -> Event:
    return make_event(1)


def profile() -> Event:
    return make_event(1, identify={"plan": None}, group=Group("team", "7", {"size": 3}))


def row() -> Event:
    """Its source is text until somebody reads it."""
    event = make_event(1)
    return RowEvent(event.id, event.name, None, event.timestamp, {}, orjson.dumps(event.source).decode())


def seen_by_two(make: Callable[[], Event], ask: Callable[[Event], object]) -> list[object]:
    """What two threads get who ask the same event, the second before each of the first one's lines in turn."""
    seen: list[object] = []
    for chosen in count():
        event, lines = make(), count()
        passed: list[int] = []

        def trace(frame: FrameType, _what: str, _argument: object) -> Any:
            if frame.f_code.co_filename != model.__file__:
                return None
            passed.append(next(lines))  # noqa: B023 - gone before the next round
            if passed[-1] == chosen:  # noqa: B023
                seen.append(ask(event))  # noqa: B023
            return trace

        sys.settrace(trace)
        try:
            seen.append(ask(event))
        finally:
            sys.settrace(None)
        if chosen not in passed:
            return seen
    raise AssertionError("count ends never")


@pytest.mark.parametrize("make", [plain, profile, row])
def test_who_asks_for_the_bytes_while_they_are_made_gets_all_of_them(make: Callable[[], Event]) -> None:
    """Else a destination, or what is spooled for it, has it without what it says of a person, or with that twice."""
    seen = seen_by_two(make, Event.to_json)

    assert len(seen) > 5
    assert {*seen} == {make().to_json()}


def test_who_asks_for_the_source_while_it_is_read_gets_it() -> None:
    """Else the thread that came second would fail, and the process with it."""
    seen = seen_by_two(row, lambda event: event.source)

    assert len(seen) > 3
    assert all(source == plain().source for source in seen)
