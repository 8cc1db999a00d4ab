"""The Mixpanel destination against an import endpoint that behaves as Mixpanel's does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from tests.support.fake_mixpanel import FakeMixpanel
from tests.support.fake_vendor import json_reply
from tests.support.http_server import Reply
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import BatchRefused, Rejected
from wal_tracker.errors import ConfigError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.testing import make_event
from wal_tracker_destinations.mixpanel import Mixpanel


@pytest.fixture
def server() -> Iterator[FakeMixpanel]:
    with FakeMixpanel() as made:
        yield made


def project(server: FakeMixpanel, **options: Any) -> Mixpanel:
    given = {**server.options, **options}
    return Mixpanel("mixpanel", registry.read_config(Mixpanel.Config, given, "destinations.mixpanel", defaults={}))


def test_a_request_has_the_shape_mixpanel_documents(server: FakeMixpanel) -> None:
    """An array, strict, the token as a user; time in milliseconds, and no address of ours."""
    project(server).deliver([make_event(1, properties={"plan": "pro", "time": "noon", "$lib": "billing"})])

    (request,) = server.requests
    (event,) = request.json()
    assert event["properties"].pop("$lib_version")
    assert (request.path, request.query) == ("/import", {"strict": ["1"]})
    assert event == {
        "event": "order_placed",
        "properties": {
            "time": 1767323045123,
            "distinct_id": "1",
            "$insert_id": make_event(1).id,
            "ip": "0",
            "$lib": "billing",
            "number": 1,
            "plan": "pro",
        },
    }


def test_what_mixpanel_names_is_a_dead_letter_and_the_rest_is_in(server: FakeMixpanel) -> None:
    """Its 400 has stored the good records; they are not sent again."""
    events = [make_event(number) for number in range(1, 5)]
    events[0].distinct_id = "undefined"
    events[2].timestamp = (datetime.now(timezone.utc) + timedelta(hours=2)).isoformat().replace("+00:00", "Z")

    outcomes = project(server).deliver(events).outcomes

    assert list(outcomes) == [0, 2]
    reasons = [outcome.reason for outcome in outcomes.values() if isinstance(outcome, Rejected)]
    assert "distinct_id" in reasons[0] and "time" in reasons[1]
    assert server.ids == [events[1].id, events[3].id]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (json_reply(400, code=400, error="bad JSON", status="Bad Request"), BatchRefused),
        (json_reply(400, code=400, failed_records=[{"index": 7}]), BatchRefused),
        (json_reply(400, code=400, failed_records=[{"field": "x"}]), BatchRefused),
        (Reply(400, b"<html>"), BatchRefused),
        (Reply(400, b"[]"), BatchRefused),
        (Reply(413), BatchRefused),
        (Reply(401), DestinationRefusedUs),
        (Reply(403), DestinationRefusedUs),
        (Reply(429), DestinationUnavailable),
        (Reply(502), DestinationUnavailable),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_an_answer_that_names_no_record_speaks_of_the_request(
    server: FakeMixpanel, reply: Reply, error: type[Exception]
) -> None:
    """By its status."""
    server.script.append(reply)

    with pytest.raises(error):
        project(server).deliver([make_event(1)])


def test_a_thousand_records_that_failed_are_all_read(server: FakeMixpanel) -> None:
    """The answer is larger than others are allowed to be."""
    events = [make_event(number) for number in range(1, 1001)]
    server.poison = {event.id for event in events[1:]}

    assert len(project(server).deliver(events).outcomes) == 999
    assert server.ids == [events[0].id]


def test_a_smaller_limit_of_older_projects_is_met(server: FakeMixpanel) -> None:
    """413 is halved around us."""
    server.max_bytes = 2 * 1024 * 1024

    with pytest.raises(BatchRefused, match="2097152"):
        project(server).deliver([make_event(number, properties={"text": "x" * 900_000}) for number in (1, 2, 3)])


def test_a_service_account_names_its_project(server: FakeMixpanel) -> None:
    """Its user and secret, and the project's number in the query."""
    user, secret, number = server.account
    account = {"serviceAccount": user, "serviceAccountSecret": secret, "projectId": number}
    given = {"apiEndpoint": server.url(""), "allow_private": True, **account}
    mixpanel = Mixpanel("mixpanel", registry.read_config(Mixpanel.Config, given, "d", defaults={}))

    mixpanel.deliver([make_event(1)])

    assert server.ids == [make_event(1).id]
    assert server.requests[0].query == {"strict": ["1"], "project_id": [number]}
    assert secret not in repr(vars(mixpanel))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"needs project_token \(or projectToken\), or service_account"),
        ({"projectToken": ""}, "must not be empty"),
        ({"projectToken": "t0ken", "projectId": "1"}, "either project_token, or"),
        ({"serviceAccount": "a", "projectId": "1"}, "service_account_secret"),
        ({"projectToken": "t0ken", "apiEndpoint": "asia"}, "api_endpoint is not a URL.*us, eu, in"),
        ({"projectToken": "t0ken", "request_timeout_s": 0}, "must be positive"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    """At load, by name, and without repeating the token."""
    with pytest.raises(ConfigError, match=message) as caught:
        registry.read_config(Mixpanel.Config, options, "destinations.mixpanel", defaults={})

    assert "t0ken" not in str(caught.value)


def test_the_keys_of_pg_track_events_are_taken() -> None:
    """As they are written there; the data endpoint is for reading, which we do not."""
    options = {
        "projectToken": "t0ken",
        "apiEndpoint": "https://api-eu.mixpanel.com",
        "dataEndpoint": "https://data-eu.mixpanel.com",
    }
    config = registry.read_config(Mixpanel.Config, options, "destinations.mixpanel", defaults={})

    assert config.url() == "https://api-eu.mixpanel.com/import?strict=1"
