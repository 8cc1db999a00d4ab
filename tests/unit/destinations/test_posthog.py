"""The PostHog destination against an endpoint that behaves as PostHog's does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fake_posthog import FakePostHog
from tests.support.http_server import Reply
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import BatchRefused, Rejected
from wal_tracker.errors import ConfigError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.model import Event
from wal_tracker.testing import make_event
from wal_tracker_destinations.posthog import PostHog, batch_url


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


def nobody(number: int) -> Event:
    event = make_event(number)
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
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    """At load, by name, and without repeating the key."""
    with pytest.raises(ConfigError, match=message) as caught:
        registry.build("posthog", "posthog", options, "destinations.posthog")

    assert "phx_personal" not in str(caught.value)
    assert not PostHog.accepts_raw
