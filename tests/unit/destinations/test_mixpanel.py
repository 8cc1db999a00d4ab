"""The Mixpanel destination against an import endpoint that behaves as Mixpanel's does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from tests.support.fake_mixpanel import FakeMixpanel
from tests.support.fake_vendor import json_reply
from tests.support.http_server import Reply, Request
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import BatchRefused, Rejected
from wal_tracker.errors import ConfigError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.model import GROUP_IDENTIFY, IDENTIFY, Event, Group
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


# Persons and groups ------------------------------------------------------------------------------

ACME = Group("company", "acme", {"plan": "pro"})


def by_path(server: FakeMixpanel) -> dict[str, list[Request]]:
    """The requests, by where they went, in order."""
    found: dict[str, list[Request]] = {}
    for request in server.requests:
        found.setdefault(request.path, []).append(request)
    return found


def test_profiles_are_set_before_the_events_are_imported(server: FakeMixpanel) -> None:
    """One request each; what a row's change says of a person is no visit of theirs."""
    events = [
        make_event(1, identify={"email": None, "plan": "pro"}, group=ACME),
        make_event(2),
        make_event(3, name=IDENTIFY, identify={"plan": "free"}),
    ]
    assert project(server).deliver(events).outcomes == {}

    requests = by_path(server)
    assert list(requests) == ["/engage", "/groups", "/import"]
    assert all(len(sent) == 1 for sent in requests.values())
    assert requests["/engage"][0].query == requests["/groups"][0].query == {"strict": ["1"], "verbose": ["1"]}
    assert "content-encoding" not in requests["/engage"][0].headers
    person = {"$token": server.key, "$ip": "0", "$ignore_time": True}
    assert requests["/engage"][0].json() == [
        {**person, "$distinct_id": "1", "$set": {"email": None, "plan": "pro"}},
        {**person, "$distinct_id": "3", "$set": {"plan": "free"}},
    ]
    assert requests["/groups"][0].json() == [
        {"$token": server.key, "$group_key": "company", "$group_id": "acme", "$set": {"plan": "pro"}}
    ]
    imported = requests["/import"][0].json()
    assert [event["properties"].get("company") for event in imported] == ["acme", None]
    assert server.ids == [events[0].id, events[1].id]


def test_with_no_event_to_carry_it_the_group_is_on_the_persons_profile(server: FakeMixpanel) -> None:
    """As a property named like the group's type."""
    event = make_event(1, name=IDENTIFY, identify={"plan": "pro"}, group=Group("company", "acme", {}))
    project(server).deliver([event])

    assert server.people == {"1": {"plan": "pro", "company": "acme"}}
    assert list(by_path(server)) == ["/engage"]


def test_what_is_said_of_a_group_needs_nobody(server: FakeMixpanel) -> None:
    """And no event."""
    event = make_event(1, name=GROUP_IDENTIFY, group=ACME)
    event.distinct_id = None

    assert project(server).deliver([event]).outcomes == {}
    assert server.groups == {("company", "acme"): {"plan": "pro"}}


def nobodys(event: Event) -> Event:
    event.distinct_id = None
    return event


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (nobodys(make_event(1, name=IDENTIFY, identify={"a": 1})), "no distinct_id"),
        (make_event(1, name=GROUP_IDENTIFY, group=Group("company", "acme", {})), "give the group `traits`"),
        (make_event(1, group=Group("company", "x" * 256, {})), "longer than 255"),
    ],
    ids=["nobody", "nothing", "long"],
)
def test_what_would_be_lost_is_a_dead_letter(server: FakeMixpanel, event: Event, reason: str) -> None:
    """And nothing of it is sent."""
    (outcome,) = project(server).deliver([event]).outcomes.values()

    assert isinstance(outcome, Rejected) and reason in outcome.reason
    assert server.requests == []


def test_a_profile_mixpanel_refuses_behind_a_200_is_a_dead_letter(server: FakeMixpanel) -> None:
    """By its index; the others are set, and every event is in."""
    events = [make_event(number, identify={"n": number}) for number in (1, 2, 3)]
    server.poisoned_people = {"2"}

    outcomes = project(server).deliver(events).outcomes

    assert list(outcomes) == [1]
    assert "$distinct_id" in str(outcomes[1])
    assert server.people == {"1": {"n": 1}, "3": {"n": 3}}
    assert server.ids == [event.id for event in events]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (json_reply(200, status=0, error="'$set' is invalid"), BatchRefused),
        (Reply(200, b"0"), BatchRefused),
        (Reply(200, b"<html>"), DestinationUnavailable),
        (Reply(200, b"{}"), DestinationUnavailable),
        (json_reply(200, status="maintenance"), DestinationUnavailable),
        (json_reply(200, code=400, status="Bad Request"), BatchRefused),
        (Reply(400), BatchRefused),
        (Reply(413), BatchRefused),
        (json_reply(401, status="error", error="no"), DestinationRefusedUs),
        (Reply(429), DestinationUnavailable),
        (Reply(503), DestinationUnavailable),
    ],
    ids=lambda value: str(getattr(value, "body", "")),
)
def test_profiles_that_were_not_taken_hold_back_their_events(
    server: FakeMixpanel, reply: Reply, error: type[Exception]
) -> None:
    """Nothing was imported yet, so all of it comes again."""
    server.script.append(reply)

    with pytest.raises(error):
        project(server).deliver([make_event(1, identify={"a": 1})])
    assert server.stored == {}


@pytest.mark.parametrize("reply", [Reply(200, b"1"), json_reply(200, status=1), json_reply(200, status="OK")])
def test_each_form_of_success_is_one(server: FakeMixpanel, reply: Reply) -> None:
    """As its documentation, its libraries and strict answers have it."""
    server.script.append(reply)

    assert project(server).deliver([make_event(1, name=IDENTIFY, identify={"a": 1})]).outcomes == {}


def test_an_import_that_fails_after_the_profiles_brings_them_again(server: FakeMixpanel) -> None:
    """The same: setting them twice changes nothing."""
    server.script.extend([json_reply(200, status=1), Reply(503)])
    mixpanel, event = project(server), make_event(1, identify={"a": 1})
    with pytest.raises(DestinationUnavailable):
        mixpanel.deliver([event])

    assert mixpanel.deliver([event]).outcomes == {}

    first, second = by_path(server)["/engage"]
    assert first.body == second.body
    assert (server.people, server.ids) == ({"1": {"a": 1}}, [event.id])


def test_a_service_account_sets_no_profile(server: FakeMixpanel) -> None:
    """Mixpanel takes them by the token, which is not there; the remedy is told."""
    user, secret, number = server.account
    account = {"serviceAccount": user, "serviceAccountSecret": secret, "projectId": number}
    given = {"apiEndpoint": server.url(""), "allow_private": True, **account}
    mixpanel = Mixpanel("mixpanel", registry.read_config(Mixpanel.Config, given, "d", defaults={}))

    events = [make_event(1, identify={"a": 1}), make_event(2, group=Group("team", "7", {}))]
    outcomes = mixpanel.deliver(events).outcomes

    assert list(outcomes) == [0]
    assert "project_token" in str(outcomes[0])
    assert [event["properties"]["team"] for event in server.stored.values()] == ["7"]


def test_the_token_is_in_no_reason(server: FakeMixpanel) -> None:
    """Also where Mixpanel repeats it."""
    told = [{"index": 0, "field": "$token", "message": f"'{server.key}' is invalid"}]
    server.script.append(json_reply(200, code=400, failed_records=told))

    (outcome,) = project(server).deliver([make_event(1, name=IDENTIFY, identify={"a": 1})]).outcomes.values()

    assert isinstance(outcome, Rejected)
    assert "'***' is invalid" in outcome.reason
