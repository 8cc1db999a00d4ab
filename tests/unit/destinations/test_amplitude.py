"""The Amplitude destination against endpoints that behave as Amplitude's do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fake_amplitude import FakeAmplitude
from tests.support.fake_vendor import json_reply
from tests.support.http_server import Reply
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import BatchRefused, Rejected, Retry
from wal_tracker.errors import ConfigError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.model import GROUP_IDENTIFY, IDENTIFY, Event, Group
from wal_tracker.testing import make_event
from wal_tracker_destinations.amplitude import Amplitude
from wal_tracker_destinations.batches import part_id

EVENTS = [make_event(number) for number in range(1, 7)]
IDS = [event.id for event in EVENTS]


@pytest.fixture(params=["batch", "httpapi"])
def server(request: pytest.FixtureRequest) -> Iterator[FakeAmplitude]:
    with FakeAmplitude(api=request.param) as made:
        yield made


def project(server: FakeAmplitude, **options: Any) -> Amplitude:
    given = {**server.options, **options}
    return Amplitude("amplitude", registry.read_config(Amplitude.Config, given, "destinations.amplitude", defaults={}))


def test_a_request_has_the_shape_amplitude_documents(server: FakeAmplitude) -> None:
    """Key in the body, ids of one character allowed, time in milliseconds, no address."""
    project(server).deliver([make_event(1, properties={"plan": "pro"})])

    (request,) = server.requests
    document = request.json()
    (event,) = document.pop("events")
    assert event.pop("library").startswith("wal_tracker/")
    assert document == {"api_key": server.key, "options": {"min_id_length": 1}}
    assert event == {
        "user_id": "1",
        "event_type": "order_placed",
        "time": 1767323045123,
        "insert_id": make_event(1).id,
        "event_properties": {"number": 1, "plan": "pro"},
    }


def test_what_amplitude_names_is_a_dead_letter_and_the_rest_is_sent_at_once(server: FakeAmplitude) -> None:
    """A 400 has stored nothing; HTTP V2 names one event of a kind at a time."""
    server.poison = {IDS[1], IDS[3]}
    server.silenced = {"6"}

    outcomes = project(server).deliver(EVENTS).outcomes

    assert sorted(outcomes) == [1, 3, 5]
    reasons = [outcomes[index].reason for index in (1, 3, 5)]
    assert "event_properties" in reasons[0] and "silenced" in reasons[2]
    assert all(isinstance(outcome, Rejected) for outcome in outcomes.values())
    assert server.ids == [IDS[0], IDS[2], IDS[4]]


def test_nothing_overtakes_a_throttled_user(server: FakeAmplitude) -> None:
    """What came before goes at once; the rest waits for the half minute Amplitude asks for."""
    server.throttled["3"] = 1

    amplitude = project(server)
    outcomes = amplitude.deliver(EVENTS).outcomes

    assert sorted(outcomes) == [2, 3, 4, 5]
    assert {outcome.after_s for outcome in outcomes.values() if isinstance(outcome, Retry)} == {30.0}
    assert server.ids == IDS[:2]

    assert amplitude.deliver(EVENTS[2:]).outcomes == {}
    assert server.ids == IDS


def test_a_user_beyond_the_daily_quota_holds_up_nobody(server: FakeAmplitude) -> None:
    """Those events are dead letters, to be replayed the next day."""
    server.exhausted = {"2"}
    server.throttled["5"] = 1

    outcomes = project(server).deliver(EVENTS).outcomes

    refused = outcomes[1]
    assert isinstance(refused, Rejected) and "replay it" in refused.reason
    assert sorted(index for index, outcome in outcomes.items() if isinstance(outcome, Retry)) == [4, 5]
    assert server.ids == [IDS[0], IDS[2], IDS[3]]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(400, b"<html>"), BatchRefused),
        (Reply(400, b"[]"), BatchRefused),
        (json_reply(400, code=400, error="Invalid JSON request body"), BatchRefused),
        (json_reply(400, code=400, events_with_invalid_fields={"time": [99]}), BatchRefused),
        (json_reply(400, code=400, events_with_invalid_fields={"time": "all"}), BatchRefused),
        (json_reply(400, code=400, error="x", missing_field="api_key"), DestinationRefusedUs),
        (json_reply(400, code=400, error="Invalid API key: k3y"), DestinationRefusedUs),
        (Reply(403), DestinationRefusedUs),
        (Reply(413), BatchRefused),
        (Reply(429), DestinationUnavailable),
        (Reply(504), DestinationUnavailable),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_an_answer_that_names_no_event_speaks_of_the_request(
    server: FakeAmplitude, reply: Reply, error: type[Exception]
) -> None:
    """And a key that is wrong is a 400 here."""
    server.script.append(reply)

    with pytest.raises(error) as caught:
        project(server).deliver([make_event(1)])
    assert "k3y" not in str(caught.value)


@pytest.mark.parametrize(("headers", "wait_s"), [({}, 30.0), ({"retry-after": "5"}, 5.0)], ids=["none", "told"])
def test_a_429_that_names_nobody_is_waited_out(server: FakeAmplitude, headers: dict[str, str], wait_s: float) -> None:
    """As long as it says, or as its documentation does."""
    server.script.append(Reply(429, headers=headers))

    with pytest.raises(DestinationUnavailable) as caught:
        project(server).deliver([make_event(1)])

    assert caught.value.retry_after_s == wait_s


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"needs api_key \(or apiKey\)"),
        ({"apiKey": ""}, "must not be empty"),
        ({"apiKey": "k3y", "endpoint": "asia"}, "endpoint is not a URL.*us, eu"),
        ({"apiKey": "k3y", "api": "identify"}, "must be one of 'batch', 'httpapi'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    """At load, by name, and without repeating the key."""
    with pytest.raises(ConfigError, match=message) as caught:
        registry.read_config(Amplitude.Config, options, "destinations.amplitude", defaults={})

    assert "k3y" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, "https://api2.amplitude.com/batch"),
        ({"endpoint": "https://api2.amplitude.com"}, "https://api2.amplitude.com/batch"),
        ({"endpoint": "eu", "api": "httpapi"}, "https://api.eu.amplitude.com/2/httpapi"),
    ],
)
def test_the_endpoint_is_a_host_and_the_api_a_path(options: dict[str, str], url: str) -> None:
    """As pg_track_events has it."""
    config = registry.read_config(Amplitude.Config, {"apiKey": "k3y", **options}, "d", defaults={})

    assert config.url() == url


# Persons and groups ------------------------------------------------------------------------------

ACME = Group("company", "acme", {"plan": "pro"})


def test_traits_are_user_properties_of_the_event(server: FakeAmplitude) -> None:
    """What is said of the group is an event before it; both name the group."""
    event = make_event(1, identify={"email": None}, group=ACME)

    assert project(server).deliver([event]).outcomes == {}

    about, happened = server.items(server.requests[0])
    for item in (about, happened):
        assert item.pop("library")
        assert item.pop("time") == 1767323045123
    assert about == {
        "user_id": "1",
        "event_type": "$groupidentify",
        "insert_id": part_id(event, "group"),
        "groups": {"company": "acme"},
        "group_properties": {"$set": {"plan": "pro"}},
    }
    assert happened == {
        "user_id": "1",
        "event_type": "order_placed",
        "insert_id": event.id,
        "event_properties": {"number": 1},
        "user_properties": {"$set": {"email": None}},
        "groups": {"company": "acme"},
    }


def test_where_nothing_happened_only_profiles_are_set(server: FakeAmplitude) -> None:
    """A group about nobody has a device of that name, since Amplitude wants one of the two."""
    identify, group = make_event(1, name=IDENTIFY, identify={"a": 1}), make_event(2, name=GROUP_IDENTIFY, group=ACME)
    group.distinct_id = None

    assert project(server).deliver([identify, group]).outcomes == {}

    first, second = server.stored.values()
    assert (first["event_type"], first["user_properties"]) == ("$identify", {"$set": {"a": 1}})
    assert "event_properties" not in first
    assert (second["event_type"], second["device_id"]) == ("$groupidentify", "$company_acme")
    assert "user_id" not in second
    assert server.ids == [identify.id, group.id]
    assert (server.people, server.groups) == ({"1": {"a": 1}}, {("company", "acme"): {"plan": "pro"}})


def test_a_group_beyond_the_daily_quota_holds_up_nobody(server: FakeAmplitude) -> None:
    """It counts as a device."""
    group = make_event(2, name=GROUP_IDENTIFY, group=ACME)
    group.distinct_id = None
    server.exhausted = {"$company_acme"}

    outcomes = project(server).deliver([make_event(1), group, make_event(3)]).outcomes

    assert [type(outcome) for outcome in outcomes.values()] == [Rejected]
    assert server.ids == [make_event(1).id, make_event(3).id]


def test_an_event_is_refused_with_any_of_its_items(server: FakeAmplitude) -> None:
    """The group is known by then, the event is not; a dead letter brings both again."""
    event = make_event(1, group=ACME)
    server.poison = {event.id}

    outcomes = project(server).deliver([event, make_event(2)]).outcomes

    assert [type(outcome) for outcome in outcomes.values()] == [Rejected]
    assert server.ids == [part_id(event, "group"), make_event(2).id]


def nobodys(event: Event) -> Event:
    event.distinct_id = None
    return event


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (nobodys(make_event(1, name=IDENTIFY, identify={"a": 1})), "no distinct_id"),
        (make_event(1, group=Group("company", "x" * 1025, {})), "longer than 1024"),
    ],
    ids=["nobody", "long"],
)
def test_traits_of_nobody_are_a_dead_letter(server: FakeAmplitude, event: Event, reason: str) -> None:
    """As an event about nobody."""
    (outcome,) = project(server).deliver([event]).outcomes.values()

    assert isinstance(outcome, Rejected) and reason in outcome.reason
    assert server.requests == []
