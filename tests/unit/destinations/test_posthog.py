"""The PostHog destination against an endpoint that behaves as PostHog's does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fake_posthog import FakePostHog
from tests.support.http_server import Reply
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import BatchRefused, Rejected, Retry
from wal_tracker.errors import ConfigError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.model import GROUP_IDENTIFY, IDENTIFY, Event, Group
from wal_tracker.testing import make_event
from wal_tracker_destinations.batches import part_id
from wal_tracker_destinations.posthog import PostHog, batch_url

ACME = Group("company", "acme", {"plan": "pro"})


class Projects:
    """PostHog destinations to one fake."""

    def __init__(self, server: FakePostHog) -> None:
        self.server = server
        self.built: list[PostHog] = []

    def __call__(self, **options: Any) -> PostHog:
        given = {"apiKey": "phc_test", "endpoint": self.server.url(""), "allow_private": True, **options}
        posthog = PostHog("posthog", registry.read_config(PostHog.Config, given, "destinations.posthog", defaults={}))
        posthog.open(None)
        self.built.append(posthog)
        return posthog


@pytest.fixture
def project() -> Iterator[Projects]:
    with FakePostHog() as server:
        projects = Projects(server)
        yield projects
        for posthog in projects.built:
            posthog.close()


def nobody(number: int, **told: Any) -> Event:
    event = make_event(number, **told)
    event.distinct_id = None
    return event


def test_a_batch_has_the_shape_posthog_documents(project: Projects) -> None:
    """Key in the body, no `sent_at`: with it the server would shift timestamps and lose duplicates."""
    project().deliver([make_event(1, properties={"plan": "pro"})])

    (request,) = project.server.requests
    document = request.json()
    (event,) = document["batch"]
    version = event["properties"].pop("$lib_version")
    assert request.path == "/batch/"
    assert set(document) == {"api_key", "batch"}
    assert document["api_key"] == "phc_test"
    assert version
    assert event == {
        "event": "order_placed",
        "distinct_id": "1",
        "uuid": make_event(1).id,
        "timestamp": "2026-01-02T03:04:05.123456Z",
        "properties": {"number": 1, "plan": "pro", "$lib": "wal_tracker", "$geoip_disable": True},
    }


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (nobody(2), "no distinct_id"),
        (make_event(2, name=" "), "no name"),
        (make_event(2, name="x" * 201), "name is longer"),
        (make_event(2, properties={"text": "x" * 1_000_001}), "no event above 1000000"),
    ],
    ids=["distinct_id", "empty name", "long name", "large"],
)
def test_what_posthog_would_refuse_or_lose_is_found_before_it_spoils_the_batch(
    project: Projects, event: Event, reason: str
) -> None:
    """One bad event refuses a whole batch there, or vanishes behind a 200."""
    receipt = project().deliver([make_event(1), event, make_event(3)])

    outcome = receipt.outcomes[1]
    assert isinstance(outcome, Rejected)
    assert reason in outcome.reason
    assert list(receipt.outcomes) == [1]
    assert project.server.ids == [make_event(1).id, make_event(3).id]


def test_a_distinct_id_that_would_be_cut_is_refused(project: Projects) -> None:
    """Cut to 200 characters, two persons become one."""
    event = make_event(1)
    event.distinct_id = "x" * 201

    assert isinstance(project().deliver([event]).outcomes[0], Rejected)
    assert project.server.requests == []


def test_a_rules_own_property_wins(project: Projects) -> None:
    """Such as `$geoip_disable` for one event."""
    project(process_person_profile=False).deliver(
        [
            make_event(1, properties={"$geoip_disable": False}),
            make_event(2, properties={"$process_person_profile": True}),
        ]
    )

    first, second = (event["properties"] for event in project.server.stored.values())
    assert (first["$geoip_disable"], first["$process_person_profile"]) == (False, False)
    assert (second["$geoip_disable"], second["$process_person_profile"]) == (True, True)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(400, b"bad"), BatchRefused),
        (Reply(413), BatchRefused),
        (Reply(401), DestinationRefusedUs),
        (Reply(403), DestinationRefusedUs),
        (Reply(408), DestinationUnavailable),
        (Reply(429), DestinationUnavailable),
        (Reply(503, b"transient error, please retry"), DestinationUnavailable),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_each_answer_has_its_meaning(project: Projects, reply: Reply, error: type[Exception]) -> None:
    """See destinations.md 2."""
    project.server.script.append(reply)

    with pytest.raises(error):
        project().deliver([make_event(1)])


@pytest.mark.parametrize(
    "reply", [Reply(200, b'{"status":1}'), Reply(200, b'{"status":"Ok"}'), Reply(204), Reply(200, b"?")]
)
def test_the_body_of_a_success_says_nothing(project: Projects, reply: Reply) -> None:
    """It has changed over the years."""
    project.server.script.append(reply)

    assert project().deliver([make_event(1)]).outcomes == {}


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("https://us.i.posthog.com", "https://us.i.posthog.com/batch/"),
        ("us", "https://us.i.posthog.com/batch/"),
        ("EU", "https://eu.i.posthog.com/batch/"),
        ("https://app.posthog.com", "https://us.i.posthog.com/batch/"),
        ("https://us.posthog.com/", "https://us.i.posthog.com/batch/"),
        ("https://eu.posthog.com/project/1", "https://eu.i.posthog.com/project/1/batch/"),
        ("https://ph.example.com/ingest/", "https://ph.example.com/ingest/batch/"),
        ("http://localhost:8000", "http://localhost:8000/batch/"),
    ],
)
def test_the_endpoint_is_found_from_what_people_write(endpoint: str, url: str) -> None:
    """Region, application host, capture host, or an own PostHog."""
    assert batch_url(endpoint) == url


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"needs api_key \(or apiKey\)"),
        ({"apiKey": ""}, "must not be empty"),
        ({"apiKey": "phx_personal"}, "personal key"),
        ({"apiKey": "phc_x", "endpoint": "posthog"}, "endpoint is not a URL"),
        ({"apiKey": "phc_x", "endpiont": "us"}, "did you mean 'endpoint'"),
        ({"apiKey": "phc_x", "api": "v2"}, "must be one of 'v0', 'v1'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    """At load, by name, and without repeating the key."""
    with pytest.raises(ConfigError, match=message) as caught:
        registry.build("posthog", "posthog", options, "destinations.posthog")

    assert "phx_personal" not in str(caught.value)
    assert not PostHog.accepts_raw


# Persons and groups ------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["v0", "v1"])
def test_traits_are_set_with_the_event_and_a_group_by_an_event_of_its_own(project: Projects, api: str) -> None:
    """`$groups` on an event alone would not make the group known."""
    event = make_event(1, identify={"email": None, "plan": "pro"}, group=ACME)
    project(api=api).deliver([event])

    about, happened = project.server.items(project.server.requests[0])
    assert about["event"] == "$groupidentify"
    assert about["distinct_id"] == "$company_acme"
    assert (about["uuid"], about["timestamp"]) == (part_id(event, "group"), event.timestamp)
    wanted = {"$group_type": "company", "$group_key": "acme", "$group_set": {"plan": "pro"}}
    assert wanted.items() <= about["properties"].items()
    assert (happened["event"], happened["uuid"], happened["distinct_id"]) == ("order_placed", event.id, "1")
    wanted = {"number": 1, "$set": {"email": None, "plan": "pro"}, "$groups": {"company": "acme"}}
    assert wanted.items() <= happened["properties"].items()


def test_a_group_of_which_nothing_is_said_costs_no_event(project: Projects) -> None:
    """It is only named."""
    project().deliver([make_event(1, group=Group("company", "acme", {}))])

    (event,) = project.server.stored.values()
    assert event["properties"]["$groups"] == {"company": "acme"}


def test_where_nothing_happened_only_the_profile_is_set(project: Projects) -> None:
    """A group needs no person for that."""
    nobodys = nobody(2, name=GROUP_IDENTIFY, group=Group("team", "x" * 400, {}))
    identify = make_event(1, name=IDENTIFY, identify={"plan": "pro"})

    assert project().deliver([identify, nobodys]).outcomes == {}

    first, second = project.server.stored.values()
    assert (first["event"], first["uuid"], first["properties"]["$set"]) == ("$set", identify.id, {"plan": "pro"})
    assert (second["event"], second["uuid"]) == ("$groupidentify", nobodys.id)
    assert len(second["distinct_id"]) == 200
    assert project.server.people == {"1": {"plan": "pro"}}
    assert project.server.groups == {("team", "x" * 400): {}}


def test_an_event_called_like_a_call_is_an_event(project: Projects) -> None:
    """As people wrote it by hand before there was another way."""
    project().deliver([make_event(1, name="$identify", identify=None)])

    assert [event["event"] for event in project.server.stored.values()] == ["$identify"]


@pytest.mark.parametrize("api", ["v0", "v1"])
def test_without_a_profile_no_traits_are_sent(project: Projects, api: str) -> None:
    """`process_person_profile: false` would make PostHog drop them: such events are told apart."""
    project(process_person_profile=False, api=api).deliver(
        [make_event(1), make_event(2, identify={"a": 1}), make_event(3, group=ACME)]
    )

    assert project.server.people == {"2": {"a": 1}}
    assert project.server.groups == {("company", "acme"): {"plan": "pro"}}
    where, flag = ("options", "process_person_profile") if api == "v1" else ("properties", "$process_person_profile")
    flags = [event[where].get(flag) for event in project.server.stored.values()]
    assert flags == [False, None, None, None]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (nobody(1, name=IDENTIFY, identify={"a": 1}), "no distinct_id"),
        (make_event(1, group=Group("team", "x" * 401, {})), "longer than 400"),
    ],
    ids=["nobody", "long"],
)
def test_traits_of_nobody_and_groups_that_would_be_dropped_are_dead_letters(
    project: Projects, event: Event, reason: str
) -> None:
    """As a track without anybody."""
    (outcome,) = project().deliver([event]).outcomes.values()

    assert isinstance(outcome, Rejected) and reason in outcome.reason
    assert project.server.requests == []


# v1 ----------------------------------------------------------------------------------------------


def test_a_v1_request_has_the_shape_posthog_documents(project: Projects) -> None:
    """Key and library in headers; what is no property of the event, among its options or beside them."""
    told = {"plan": "pro", "$session_id": "s1", "$window_id": 7, "$process_person_profile": False, "$lib": "billing"}
    project(api="v1").deliver([make_event(1, properties=told)])

    (request,) = project.server.requests
    document = request.json()
    (event,) = document["batch"]
    assert request.path == "/i/v1/analytics/events"
    assert request.headers["authorization"] == "Bearer phc_test"
    assert request.headers["posthog-sdk-info"].startswith("wal_tracker/")
    assert set(document) == {"created_at", "batch"}
    assert event == {
        "event": "order_placed",
        "distinct_id": "1",
        "uuid": make_event(1).id,
        "timestamp": "2026-01-02T03:04:05.123456Z",
        "session_id": "s1",
        "options": {"disable_skew_correction": True, "process_person_profile": False},
        "properties": {"number": 1, "plan": "pro", "$window_id": 7, "$geoip_disable": True, "$lib": "billing"},
    }


def test_v1_says_of_each_event_what_became_of_it(project: Projects) -> None:
    """One is dropped, one comes again, the others are in."""
    events = [make_event(number) for number in range(1, 5)]
    events[0].timestamp = "noon"
    project.server.not_persisted[events[2].id] = 1
    posthog = project(api="v1")

    outcomes = posthog.deliver(events).outcomes

    dropped, again = outcomes[0], outcomes[2]
    assert sorted(outcomes) == [0, 2]
    assert isinstance(dropped, Rejected) and "invalid_event_timestamp" in dropped.reason
    assert again == Retry(1.0, "PostHog: not_persisted")
    assert project.server.ids == [events[1].id, events[3].id]
    assert posthog.deliver(events[2:3]).outcomes == {}
    assert project.server.ids == [events[1].id, events[3].id, events[2].id]


def test_v1_does_not_lose_traits_silently(project: Projects) -> None:
    """It takes a placeholder's event, and says beside an "ok" that it has nobody; without traits that is fine."""
    placeholder, plain = make_event(1, identify={"a": 1}), make_event(2)
    placeholder.distinct_id = plain.distinct_id = "null"

    outcomes = project(api="v1").deliver([placeholder, plain]).outcomes

    (outcome,) = outcomes.values()
    assert list(outcomes) == [0]
    assert isinstance(outcome, Rejected) and "placeholder" in outcome.reason


def test_attempts_of_v1_are_counted_and_are_one_request(project: Projects) -> None:
    """By an id that another batch does not have."""
    project.server.script.extend([Reply(503), Reply(429, headers={"Retry-After": "1"})])
    posthog = project(api="v1")
    for _ in range(2):
        with pytest.raises(DestinationUnavailable):
            posthog.deliver([make_event(1)])
    posthog.deliver([make_event(1)])
    posthog.deliver([make_event(2)])

    headers = [request.headers for request in project.server.requests]
    assert [one["posthog-attempt"] for one in headers] == ["1", "2", "3", "1"]
    assert len({one["posthog-request-id"] for one in headers[:3]}) == 1
    assert headers[3]["posthog-request-id"] != headers[0]["posthog-request-id"]
    assert project.server.ids == [make_event(1).id, make_event(2).id]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"results":[]}', b'{"results":{"%s":7}}'])
def test_a_200_of_v1_that_says_nothing_is_not_believed(project: Projects, body: bytes) -> None:
    """Somebody in between answered; the ids make a second time harmless."""
    event = make_event(1)
    project.server.script.append(Reply(200, body.replace(b"%s", event.id.encode())))

    posthog = project(api="v1")
    with pytest.raises(DestinationUnavailable, match="not as PostHog's v1 does"):
        posthog.deliver([event])


def test_the_endpoint_of_v1_is_another_path() -> None:
    """On the same hosts."""
    assert batch_url("eu", "v1") == "https://eu.i.posthog.com/i/v1/analytics/events"
