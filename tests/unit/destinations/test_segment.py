"""Segment, and RudderStack that speaks its protocol, against endpoints that behave as theirs do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fake_rudderstack import FakeRudderStack
from tests.support.fake_segment import FakeSegment
from tests.support.fake_vendor import FakeVendor
from tests.support.http_server import Reply
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import BatchRefused, Rejected
from wal_tracker.errors import ConfigError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.model import GROUP_IDENTIFY, IDENTIFY, Group
from wal_tracker.testing import make_event
from wal_tracker_destinations.batches import part_id
from wal_tracker_destinations.rudderstack import RudderStack
from wal_tracker_destinations.segment import Segment

NOW = 1_800_000_000.5


@pytest.fixture
def segment() -> Iterator[FakeSegment]:
    with FakeSegment() as made:
        yield made


@pytest.fixture
def rudderstack() -> Iterator[FakeRudderStack]:
    with FakeRudderStack() as made:
        yield made


def source(server: FakeVendor, **options: Any) -> Segment | RudderStack:
    kind = Segment if isinstance(server, FakeSegment) else RudderStack
    given = {**server.options, **options}
    config = registry.read_config(kind.Config, given, "destinations.source", defaults={})
    return kind("source", config, clock=lambda: NOW)


def track() -> dict[str, Any]:
    """What both have in common."""
    return {
        "type": "track",
        "messageId": make_event(1).id,
        "userId": "1",
        "event": "order_placed",
        "timestamp": "2026-01-02T03:04:05.123456Z",
        "properties": {"number": 1, "plan": "pro"},
    }


def test_a_batch_has_the_shape_segment_documents(segment: FakeSegment) -> None:
    """The write key as a user, the time of this attempt beside the events."""
    source(segment).deliver([make_event(1, properties={"plan": "pro"})])

    (request,) = segment.requests
    document = request.json()
    assert request.path == "/v1/batch"
    assert set(document) == {"batch", "sentAt"}
    assert document["sentAt"] == "2027-01-15T08:00:00.500Z"
    (message,) = document["batch"]
    assert message.pop("context")["library"]["name"] == "wal_tracker"
    assert message == track()


def test_a_batch_has_the_shape_rudderstack_documents(rudderstack: FakeRudderStack) -> None:
    """As Segment's, from a server, to all destinations; compressed."""
    source(rudderstack).deliver([make_event(1, properties={"plan": "pro"})])

    (request,) = rudderstack.requests
    (message,) = request.json()["batch"]
    assert request.headers["content-encoding"] == "gzip"
    assert message.pop("context")["library"]["name"] == "wal_tracker"
    assert message == {
        **track(),
        "originalTimestamp": "2026-01-02T03:04:05.123456Z",
        "channel": "server",
        "integrations": {"All": True},
    }


def test_what_segment_would_drop_behind_a_200_is_found_before(segment: FakeSegment) -> None:
    """It says nothing of single messages."""
    unknown, large, undated = (make_event(2), make_event(3, properties={"text": "x" * 32_768}), make_event(4))
    unknown.distinct_id = None
    undated.timestamp = "noon"

    outcomes = source(segment).deliver([make_event(1), unknown, large, undated, make_event(5)]).outcomes

    reasons = [outcome.reason for outcome in outcomes.values() if isinstance(outcome, Rejected)]
    assert list(outcomes) == [1, 2, 3]
    assert "distinct_id" in reasons[0] and "no event above 32768" in reasons[1] and "RFC 3339" in reasons[2]
    assert segment.ids == [make_event(1).id, make_event(5).id]


@pytest.mark.parametrize("status", [408, 410, 425, 429, 460, 500, 502, 503, 504, 511])
def test_what_segments_own_libraries_send_again_is_sent_again(segment: FakeSegment, status: int) -> None:
    """410 and 460 among them."""
    segment.script.append(Reply(status))

    with pytest.raises(DestinationUnavailable):
        source(segment).deliver([make_event(1)])


@pytest.mark.parametrize(("status", "error"), [(410, DestinationRefusedUs), (400, BatchRefused), (413, BatchRefused)])
def test_rudderstack_has_statuses_of_its_own(rudderstack: FakeRudderStack, status: int, error: type[Exception]) -> None:
    """410 is no transient one there."""
    rudderstack.script.append(Reply(status))

    with pytest.raises(error):
        source(rudderstack).deliver([make_event(1)])


def test_a_source_that_is_switched_off_stops(rudderstack: FakeRudderStack) -> None:
    """It may be switched on again; nothing becomes a dead letter."""
    rudderstack.disabled = True

    with pytest.raises(DestinationRefusedUs, match="source is disabled"):
        source(rudderstack).deliver([make_event(1)])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Segment, {}, r"needs write_key \(or writeKey\)"),
        (Segment, {"writeKey": " "}, "must not be empty"),
        (Segment, {"writeKey": "wr1te", "endpoint": "asia"}, "endpoint is not a URL.*us, eu"),
        (RudderStack, {"writeKey": "wr1te"}, r"needs data_plane_url \(or dataPlaneUrl\)"),
        (RudderStack, {"writeKey": "wr1te", "dataPlaneUrl": "example.com"}, "data_plane_url is not a URL"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    kind: type[Segment] | type[RudderStack], options: dict[str, Any], message: str
) -> None:
    """At load, by name, and without repeating the key."""
    with pytest.raises(ConfigError, match=message) as caught:
        registry.read_config(kind.Config, options, "destinations.source", defaults={})

    assert "wr1te" not in str(caught.value)


def test_a_region_is_a_host() -> None:
    """Data of a European workspace is refused elsewhere."""
    config = registry.read_config(Segment.Config, {"writeKey": "wr1te", "endpoint": "eu"}, "d", defaults={})

    assert config.url() == "https://events.eu1.segmentapis.com/v1/batch"


# Persons and groups ------------------------------------------------------------------------------


@pytest.fixture(params=["segment", "rudderstack"])
def either(request: pytest.FixtureRequest) -> FakeVendor:
    server: FakeVendor = request.getfixturevalue(request.param)
    return server


def test_who_somebody_is_comes_before_what_they_did(either: FakeVendor) -> None:
    """Three calls, each with an id of its own; the group is in the event's context as well."""
    event = make_event(1, identify={"email": None}, group=Group("company", "acme", {"plan": "pro"}))

    assert source(either).deliver([event]).outcomes == {}

    identify, group, track = either.items(either.requests[0])
    assert [message["type"] for message in (identify, group, track)] == ["identify", "group", "track"]
    assert {message["userId"] for message in (identify, group, track)} == {"1"}
    assert {message["timestamp"] for message in (identify, group, track)} == {event.timestamp}
    ids = [message["messageId"] for message in (identify, group, track)]
    assert ids == [part_id(event, "identify"), part_id(event, "group"), event.id]
    traits = identify["context"]["traits"] if either.kind == "rudderstack" else identify["traits"]
    assert traits == {"email": None}
    assert (group["groupId"], group["traits"], group["context"]["groupType"]) == ("acme", {"plan": "pro"}, "company")
    assert (track["context"]["groupId"], track["context"]["groupType"]) == ("acme", "company")
    assert (identify.get("event"), identify.get("properties"), group.get("event")) == (None, None, None)
    assert either.people == {"1": {"email": None}}
    assert either.groups == {("company", "acme"): {"plan": "pro"}}


def test_where_nothing_happened_there_is_no_track_call(either: FakeVendor) -> None:
    """The event's id is the first call's."""
    events = [
        make_event(1, name=IDENTIFY, identify={"a": 1}),
        make_event(2, name=GROUP_IDENTIFY, group=Group("company", "acme", {})),
        make_event(3, name=IDENTIFY, identify={"a": 3}, group=Group("company", "acme", {})),
    ]
    source(either).deliver(events)

    assert [message["type"] for message in either.stored.values()] == ["identify", "group", "identify", "group"]
    assert either.ids == [*(event.id for event in events), part_id(events[2], "group")]


def test_a_call_about_nobody_is_a_dead_letter_also_a_groups(either: FakeVendor) -> None:
    """Of such a protocol it is a person that belongs to a group."""
    events = [
        make_event(1, name=IDENTIFY, identify={"a": 1}),
        make_event(2, name=GROUP_IDENTIFY, group=Group("company", "acme", {"plan": "pro"})),
    ]
    for event in events:
        event.distinct_id = None

    outcomes = source(either).deliver([*events, make_event(3)]).outcomes

    assert [isinstance(outcome, Rejected) and "distinct_id" in outcome.reason for outcome in outcomes.values()] == [
        True,
        True,
    ]
    assert either.ids == [make_event(3).id]
