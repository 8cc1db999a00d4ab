"""Batches that take several requests, and times as vendors want them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from tests.support.http_server import HttpServer, Reply, Request
from wal_tracker.destinations.base import BatchRefused, Limits, Outcome, Rejected, Retry
from wal_tracker.destinations.http import HttpOptions
from wal_tracker.errors import DestinationUnavailable
from wal_tracker.model import GROUP_IDENTIFY, IDENTIFY, Deliverable, Event, Group
from wal_tracker.testing import make_event
from wal_tracker_destinations.batches import (
    HttpBatches,
    Item,
    Unfit,
    epoch_ms,
    is_profile_only,
    part_id,
    vendor_url,
)


class Two(HttpBatches):
    """Sends two events of this size a request."""

    limits = Limits()
    vendor = "Two"
    max_event_bytes = 1000
    max_request_bytes = 1024 + 600
    said: Mapping[int, Outcome] = {}

    def _item(self, event: Deliverable) -> dict[str, Any]:
        return {"id": event.id, "text": "x" * 200, **event.properties}

    def _send(self, items: Sequence[Item]) -> Mapping[int, Outcome]:
        self._http.post(b"\n".join(item.event.id.encode() for item in items), {})
        return self.said


class Lines(HttpServer):
    """Keeps the ids it is sent, each request's together."""

    def handle(self, request: Request) -> Reply:
        self.stored[len(self.stored)] = request.body.decode().split()
        return Reply()


@pytest.fixture
def server() -> Iterator[Lines]:
    with Lines() as made:
        yield made


@pytest.fixture
def two(server: Lines) -> Iterator[Two]:
    made = Two("two", HttpOptions(allow_private=True).client("two", server.url()))
    yield made
    made.close()


EVENTS = [make_event(number) for number in range(1, 6)]
IDS = [event.id for event in EVENTS]


def test_a_batch_beyond_the_vendors_bytes_takes_several_requests_in_order(two: Two, server: Lines) -> None:
    """Each as full as may be."""
    assert two.deliver(EVENTS).outcomes == {}
    assert list(server.stored.values()) == [IDS[:2], IDS[2:4], IDS[4:]]


@pytest.mark.parametrize(
    ("reply", "again"), [(Reply(503, headers={"Retry-After": "7"}), 7.0), (Reply(400, b"no"), 0.0)], ids=["503", "400"]
)
def test_what_follows_a_request_that_failed_comes_again(two: Two, server: Lines, reply: Reply, again: float) -> None:
    """What came before is durable, and nothing overtakes."""
    server.script.extend([Reply(), reply])

    outcomes = two.deliver(EVENTS).outcomes

    assert sorted(outcomes) == [2, 3, 4]
    assert {outcome.after_s for outcome in outcomes.values() if isinstance(outcome, Retry)} == {again}
    assert len(server.requests) == 2


@pytest.mark.parametrize(("status", "error"), [(503, DestinationUnavailable), (400, BatchRefused)])
def test_a_first_request_that_failed_is_the_batchs(
    two: Two, server: Lines, status: int, error: type[Exception]
) -> None:
    """Nothing of it was stored."""
    server.script.append(Reply(status))

    with pytest.raises(error):
        two.deliver(EVENTS)


def test_nothing_overtakes_an_event_that_must_come_again(two: Two, server: Lines) -> None:
    """Where the vendor takes a part of a request, what is behind it is not sent."""
    two.said = {1: Retry(30, "slowly")}

    assert two.deliver(EVENTS).outcomes == dict.fromkeys([1, 2, 3, 4], Retry(30, "slowly"))
    assert len(server.requests) == 1


def test_an_item_that_is_too_large_is_refused_alone(two: Two, server: Lines) -> None:
    """By what the vendor would get, not by the event's own JSON."""
    large = make_event(9, properties={"more": "x" * 900})

    outcomes = two.deliver([EVENTS[0], large, EVENTS[1]]).outcomes

    assert [type(outcome) for outcome in outcomes.values()] == [Rejected]
    assert list(outcomes) == [1]
    assert list(server.stored.values()) == [IDS[:2]]


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("2026-01-02T03:04:05.123999Z", 1767323045123),
        ("2026-01-02T03:04:05Z", 1767323045000),
        ("2026-01-02T03:04:05.1Z", 1767323045100),
        ("2026-01-02t05:04:05.000000001+02:00", 1767323045000),
        ("1969-12-31T23:59:59.250Z", -750),
    ],
)
def test_a_moment_in_milliseconds_is_cut_not_rounded(text: str, milliseconds: int) -> None:
    """The same every time, and never in the future."""
    event = make_event(1)
    event.timestamp = text

    assert epoch_ms(event) == milliseconds


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-02", "2026-01-02T03:04:05", "2026-13-02T03:04:05Z"])
def test_a_text_that_is_no_moment_is_the_events_fault(text: str) -> None:
    """A rule's `timestamp` may give any text."""
    event = make_event(1)
    event.timestamp = text

    with pytest.raises(Unfit, match="RFC 3339"):
        epoch_ms(event)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("EU", "https://eu.example/v1/batch"),
        ("https://own.example/", "https://own.example/v1/batch"),
        ("https://own.example/v1/batch", "https://own.example/v1/batch"),
        ("http://localhost:8080/proxy", "http://localhost:8080/proxy/v1/batch"),
    ],
)
def test_the_url_is_found_from_what_people_write(given: str, url: str) -> None:
    """A region, a host, or the whole."""
    assert vendor_url(given, {"eu": "https://eu.example"}, "/v1/batch") == url


@pytest.mark.parametrize("given", ["", "asia", "ftp://x", "https://own.example/?key=1", "https://own.example/#a"])
def test_what_is_neither_is_refused(given: str) -> None:
    """And what a query would be lost of."""
    with pytest.raises(ValueError, match=r"is (not|a host's)"):
        vendor_url(given, {"eu": "https://eu.example"}, "/v1/batch")


class Parts(Two):
    """Sends each event as two items."""

    def _parts(self, event: Deliverable) -> Iterator[tuple[str, dict[str, Any]]]:
        yield "person", self._item(event)
        yield "", self._item(event)


@pytest.mark.parametrize(
    ("said", "outcomes"),
    [
        ({0: Rejected("a")}, {0: Rejected("a")}),
        ({1: Rejected("b")}, {0: Rejected("b")}),
        ({0: Rejected("a"), 1: Retry(1)}, {0: Retry(1)}),
        ({0: Retry(1), 1: Rejected("b")}, {0: Retry(1)}),
    ],
    ids=["the first", "the second", "refused and again", "again and refused"],
)
def test_an_event_of_several_items_is_durable_when_all_of_them_are(
    server: Lines, said: dict[int, Outcome], outcomes: dict[int, Outcome]
) -> None:
    """One that must come again comes first: what was refused is refused then, and nothing is lost."""
    http = HttpOptions(allow_private=True).client("parts", server.url())
    parts = Parts("parts", http)
    parts.said = said

    assert parts.deliver([make_event(1)]).outcomes == outcomes
    parts.close()


def test_an_event_whose_items_take_two_requests_waits_for_the_second(server: Lines) -> None:
    """The second event's items, and all behind them, come again."""
    parts = Parts("parts", HttpOptions(allow_private=True).client("parts", server.url()))
    server.script.extend([Reply(), Reply(503)])

    outcomes = parts.deliver([make_event(number) for number in (1, 2, 3)]).outcomes

    assert sorted(outcomes) == [1, 2]
    assert all(isinstance(outcome, Retry) for outcome in outcomes.values())
    parts.close()


TEAM = Group("team", "7", {})


@pytest.mark.parametrize(
    ("event", "only", "first"),
    [
        (make_event(1), False, None),
        (make_event(1, identify={"a": 1}), False, None),
        (make_event(1, name=IDENTIFY), False, None),
        (make_event(1, name=IDENTIFY, identify={"a": 1}, group=TEAM), True, "identify"),
        (make_event(1, name=GROUP_IDENTIFY, group=TEAM), True, "group"),
    ],
    ids=["plain", "with traits", "no more than the name", "identify", "group"],
)
def test_an_events_own_id_goes_to_what_happened_or_to_the_first(event: Event, only: bool, first: str | None) -> None:
    """The others are made of it, each another one and the same each time."""
    assert is_profile_only(event) == only
    ids = {part: part_id(event, part) for part in ("identify", "group")}

    assert {part for part, id in ids.items() if id == event.id} == ({first} if first else set())
    assert len(set(ids.values())) == 2
    assert ids == {part: part_id(event, part) for part in ids}
    assert not set(ids.values()) & {part_id(make_event(2), part) for part in ids}
