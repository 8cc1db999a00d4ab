"""The destination that prints and counts."""

from __future__ import annotations

import io

from wal_tracker.demo.screen import Screen
from wal_tracker.destinations.base import Destination
from wal_tracker.model import Deliverable, Event


def event(id: str, name: str = "seen") -> Event:
    return Event(id, name, None, "1970-01-01T00:00:01.000000Z", {}, {"xid": 1})


def name_of(event: Deliverable) -> bytes:
    return event.name.encode()


def screen_on(out: io.BytesIO) -> Screen:
    return Screen(out, name_of, on_broken=lambda: None, clock_ns=lambda: 1_002_500_000)


def test_the_screen_is_a_destination() -> None:
    """It stands behind the same port as any other."""
    assert isinstance(screen_on(io.BytesIO()), Destination)


def test_latency_runs_from_the_commit_to_the_written_line() -> None:
    """Every event has its own latency, in microseconds."""
    out = io.BytesIO()
    screen = screen_on(out)

    receipt = screen.deliver([event("a"), event("b", "done")])

    assert receipt.outcomes == {}
    assert out.getvalue() == b"seen\ndone\n"
    assert list(screen.latencies_us) == [2500, 2500]
    assert screen.delivered == {"seen": 1, "done": 1}


def test_an_event_that_comes_again_is_counted_as_repeated() -> None:
    """A doubled event is noticed, and does not hide a lost one."""
    screen = screen_on(io.BytesIO())
    screen.deliver([event("a")])
    screen.deliver([event("a"), event("b")])

    assert screen.delivered == {"seen": 2}
    assert screen.repeated == 1


def test_a_reader_that_has_gone_ends_the_show() -> None:
    """`wal_tracker demo | head` ends instead of retrying for ever."""

    class Gone(io.BytesIO):
        def flush(self) -> None:
            raise BrokenPipeError

    told: list[bool] = []
    screen = Screen(Gone(), name_of, on_broken=lambda: told.append(True))

    screen.deliver([event("a")])

    assert screen.broken
    assert told == [True]
    assert not screen.delivered
