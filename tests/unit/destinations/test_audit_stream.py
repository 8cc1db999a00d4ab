"""The audit-stream destination against the server itself, and where a server must misbehave against a fake of it."""

from __future__ import annotations

import logging
import sys
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import pytest
import requests

from tests.support.audit_stream import AuditStreamServer
from tests.support.fake_audit_stream import FakeAuditStream
from tests.support.http_server import Reply
from tests.support.proxy import ChaosProxy
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import BatchRefused, Mark
from wal_tracker.errors import ConfigError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.model import Deliverable
from wal_tracker.testing import make_event
from wal_tracker_destinations import audit_stream
from wal_tracker_destinations.audit_stream import AuditStream


@pytest.fixture(scope="module")
def real() -> Iterator[AuditStreamServer]:
    """One server for this module; each test has a source of its own."""
    if sys.version_info < (3, 11):
        pytest.skip("audit-stream needs Python 3.11")
    with AuditStreamServer() as server:
        yield server


@pytest.fixture
def source() -> str:
    """Nobody else's."""
    return f"wal_tracker-{uuid.uuid4()}"


@pytest.fixture
def fake() -> Iterator[FakeAuditStream]:
    with FakeAuditStream() as made:
        yield made


def chain(url: str, mark: Mark | None = None, **options: Any) -> AuditStream:
    given = {"endpoint": url, "allow_private": True, "request_timeout_s": 5, **options}
    made = AuditStream("audit", registry.read_config(AuditStream.Config, given, "destinations.audit", defaults={}))
    made.open(mark)
    return made


def append(destination: AuditStream, events: Sequence[Deliverable], *, attempts: int = 50) -> Mark | None:
    """One by one, each until it is there; the last mark."""
    mark: Mark | None = None
    for event in events:
        for _ in range(attempts):
            try:
                mark = destination.deliver([event]).mark
                break
            except DestinationUnavailable:
                continue
        else:
            raise AssertionError("it is never taken")
    return mark


def ids(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["payload"]["event_id"] for event in events]


# The real server -------------------------------------------------------------------------------------


def test_an_event_in_the_chain_says_what_happened(real: AuditStreamServer, source: str) -> None:
    """Its kind from the configuration, its own time, and its properties to the last digit."""
    total = orjson.Fragment("12345678901234567.89")
    event = make_event(1, properties={"total": total, "none": None, "big": 2**63 - 1})
    other = make_event(2, name="account_closed")
    other.distinct_id = None

    append(chain(real.url(), source=source, kinds={"order_placed": "request_allowed"}), [event, other])

    first, second = real.events(source)
    assert (first["kind"], first["timestamp"]) == ("request_allowed", "2026-01-02T03:04:05.123456Z")
    assert first["payload"] == {
        "event": "order_placed",
        "event_id": event.id,
        "distinct_id": "1",
        "lsn": "0/100",
        "properties": {"number": 1, "total": "12345678901234567.89", "none": None, "big": 2**63 - 1},
    }
    assert (second["kind"], second["payload"]["event"]) == ("other", "account_closed")
    assert "distinct_id" not in second["payload"]


def test_through_a_line_that_fails_the_chain_has_each_event_once_and_in_order(
    real: AuditStreamServer, source: str
) -> None:
    """Answers are lost after the server has appended; the destination looks before it sends again."""
    events = [make_event(number) for number in range(1, 41)]
    lost = 0
    with ChaosProxy(real.port) as line:
        destination = chain(f"http://127.0.0.1:{line.port}", source=source)
        for number, event in enumerate(events):
            if number % 3 == 1:
                line.truncate_after = 20
                with pytest.raises(DestinationUnavailable):
                    destination.deliver([event])
                lost += real.events(source)[-1]["payload"]["event_id"] == event.id
            append(destination, [event])
        destination.close()

    assert lost > 5
    assert ids(real.events(source)) == [event.id for event in events]
    assert real.get("/verify")["valid"] is True


def test_after_a_crash_what_is_there_is_passed_over(real: AuditStreamServer, source: str) -> None:
    """Everything since the stored position comes again, from a process that knows its mark only."""
    events = [make_event(number) for number in range(1, 11)]
    first = chain(real.url(), source=source)
    mark = append(first, events[:3])
    append(first, events[3:8])
    first.close()

    append(chain(real.url(), mark, source=source), events[3:])

    assert ids(real.events(source)) == [event.id for event in events]
    assert real.get("/verify")["valid"] is True


def test_before_there_is_a_mark_it_looks_as_well(real: AuditStreamServer, source: str) -> None:
    """The first position may not have been stored before the crash."""
    events = [make_event(number) for number in range(1, 4)]
    append(chain(real.url(), source=source), events[:2])

    append(chain(real.url(), source=source), events)

    assert ids(real.events(source)) == [event.id for event in events]


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")], ids=["lists", "mappings"])
def test_what_the_server_could_not_give_back_is_not_sent(
    real: AuditStreamServer, source: str, opened: str, closed: str
) -> None:
    """It would append what nests too deeply, answer 500, and from then on to every look as well."""
    taken = 0
    destination = chain(real.url(), source=source)
    for depth in [*range(240, 260), 300, 2000]:
        text = orjson.Fragment(opened * depth + "1" + closed * depth)
        try:
            destination.deliver([make_event(depth, properties={"nested": text})])
            taken += 1
        except BatchRefused as refusal:
            assert "JSON" in refusal.reason or "nest too deeply" in refusal.reason

    assert 0 < taken < 20
    assert len(real.events(source)) == taken
    with pytest.raises(BatchRefused, match="surrogates"):
        destination.deliver([make_event(1, properties={"text": orjson.Fragment('"\\ud800"')})])
    assert len(real.events(source)) == taken


@pytest.mark.parametrize(
    "body",
    [
        b'{"kind":"other","source":"s","payload":{"event_id":"1"},"timestamp":"2026-01-02T03:04:05Z"}',
        b'{"kind":"order_placed","source":"s","payload":{},"timestamp":"t"}',
        b'{"kind":"other","source":"","payload":{},"timestamp":"t"}',
        b'{"kind":"other","source":"s","payload":{},"timestamp":"t","id":1}',
        b"{",
    ],
    ids=["good", "kind", "source", "extra", "json"],
)
def test_the_fake_answers_as_the_server_does(real: AuditStreamServer, fake: FakeAuditStream, body: bytes) -> None:
    """Status, shape, and how the hash of an event is made."""
    headers = {"Content-Type": "application/json"}
    theirs = requests.post(real.url("/events"), body, headers=headers, timeout=30)
    ours = requests.post(fake.url("/events"), body, headers=headers, timeout=30)

    assert ours.status_code == theirs.status_code
    assert ours.json().keys() == theirs.json().keys()
    if theirs.status_code == 201:
        (read,) = requests.get(fake.url("/events?limit=1"), timeout=30).json()
        assert real.get("/events?limit=1")[0].keys() == read.keys()
        with AuditStreamServer() as fresh:
            again = requests.post(fresh.url("/events"), body, headers=headers, timeout=30)
        assert again.json() == ours.json()
    for limit in (0, 100_001):
        query = f"/events?limit={limit}"
        assert requests.get(fake.url(query), timeout=30).status_code == 400
        assert requests.get(real.url(query), timeout=30).status_code == 400


# The fake --------------------------------------------------------------------------------------------


def test_a_dead_letter_in_between_does_not_end_the_look(fake: FakeAuditStream) -> None:
    """An event that is not there may stand before one that is."""
    events = [make_event(number) for number in range(1, 5)]
    fake.poison = {events[1].id}
    first = chain(fake.url())
    for event in events:
        try:
            first.deliver([event])
        except BatchRefused:
            assert event is events[1]

    second = chain(fake.url())
    with pytest.raises(BatchRefused):
        append(second, events)
    append(second, events[2:])

    assert fake.ids == [event.id for event in events if event is not events[1]]


def test_it_looks_no_further_back_than_its_mark(fake: FakeAuditStream) -> None:
    """And not at all where nothing was appended since; one look serves all that comes again."""
    events = [make_event(number) for number in range(1, 7)]
    mark = append(chain(fake.url()), events[:3])
    append(chain(fake.url(), mark), events[3:5])
    fake.requests.clear()

    append(chain(fake.url(), mark), events[3:])
    looks = [request.query for request in fake.requests if request.method == "GET"]

    assert mark == {"event_id": 3}
    assert looks == [{"limit": ["1"]}, {"source": ["wal_tracker"], "limit": ["2"]}]
    assert fake.ids == [event.id for event in events]
    fake.requests.clear()
    append(chain(fake.url(), {"event_id": 6}), [make_event(7)])
    assert [request.query for request in fake.requests if request.method == "GET"] == [{"limit": ["1"]}]


def test_a_look_that_would_be_too_large_is_made_smaller(fake: FakeAuditStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest are looked at, for they are the ones that may come again."""
    events = [make_event(number, properties={"text": "x" * 1000}) for number in range(1, 21)]
    append(chain(fake.url()), events)
    monkeypatch.setattr(audit_stream, "_MAX_ANSWER_BYTES", 10_000)
    fake.requests.clear()

    append(chain(fake.url(), {"event_id": 0}), events[-3:])

    limits = [request.query["limit"] for request in fake.requests]
    assert limits == [["1"], ["20"], ["10"], ["5"]]
    assert len(fake.ids) == 20


def test_a_chain_that_was_lost_is_told(fake: FakeAuditStream, caplog: pytest.LogCaptureFixture) -> None:
    """The server keeps it in memory. Seen at the next look, and by the number of the next event."""
    events = [make_event(number) for number in range(1, 7)]
    destination = chain(fake.url())
    mark = append(destination, events[:3])
    fake.stored.clear()
    with caplog.at_level(logging.WARNING):
        append(destination, events[3:5])
        assert caplog.text.count("has lost events") == 1
        append(chain(fake.url(), mark), events[3:])

    assert caplog.text.count("has lost events") == 2
    assert fake.ids == [event.id for event in events[3:]]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(422), BatchRefused),
        (Reply(400), BatchRefused),
        (Reply(404), DestinationRefusedUs),
        (Reply(405), DestinationRefusedUs),
        (Reply(200, b"<html>"), DestinationRefusedUs),
        (Reply(201, b'{"event_id":"one"}'), DestinationRefusedUs),
        (Reply(500), DestinationUnavailable),
        (Reply(fault="hang"), DestinationUnavailable),
    ],
    ids=lambda value: str(getattr(value, "fault", None) or getattr(value, "status", "")),
)
def test_each_answer_has_its_meaning(fake: FakeAuditStream, reply: Reply, error: type[Exception]) -> None:
    """Something else that answers 2xx is no audit trail."""
    fake.script.append(reply)

    with pytest.raises(error):
        chain(fake.url(), request_timeout_s=0.3).deliver([make_event(1)])


@pytest.mark.parametrize("answer", [b"<html>", b'{"a": 1}', b'[{"event_id": "1", "payload": {}}]', b"[1]"])
def test_a_look_that_is_answered_by_something_else_stops(
    fake: FakeAuditStream, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is sent there."""
    monkeypatch.setattr(fake, "handle", lambda request: Reply(200, answer))

    with pytest.raises(DestinationRefusedUs, match="not as audit-stream does"):
        chain(fake.url()).deliver([make_event(1)])
    assert {request.method for request in fake.requests} == {"GET"}


def test_a_look_that_is_refused_is_no_events_fault(fake: FakeAuditStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event that waits for it does not become a dead letter."""
    monkeypatch.setattr(fake, "handle", lambda request: Reply(400, b"no"))

    with pytest.raises(DestinationRefusedUs, match="does not let us read"):
        chain(fake.url()).deliver([make_event(1)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs endpoint"),
        ({"endpoint": "audit"}, "endpoint is not a URL"),
        ({"endpoint": "http://a", "source": " "}, "source must not be empty"),
        ({"endpoint": "http://a", "kinds": {"order_placed": "ordered"}}, "kinds.order_placed.*must be one of.*other"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    """At load, by name."""
    with pytest.raises(ConfigError, match=message):
        registry.read_config(AuditStream.Config, options, "destinations.audit", defaults={})
