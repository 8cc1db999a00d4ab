"""The webhook destination, verified by a receiver written from the specification and not from our code."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.support.http_server import HttpServer, Reply
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import BatchRefused
from wal_tracker.errors import ConfigError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.model import RawChange
from wal_tracker.testing import make_event
from wal_tracker_destinations.webhook import Webhook, signatures, signing_key

NEW = "whsec_" + base64.b64encode(b"n" * 32).decode()
OLD = "whsec_" + base64.b64encode(b"o" * 24).decode()


class Hooks:
    """Webhooks to one server."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.built: list[Webhook] = []

    def __call__(self, clock: Any = None, **options: Any) -> Webhook:
        given = {"url": self.server.url("/hook"), "allow_private": True, "request_timeout_s": 2, **options}
        config = registry.read_config(Webhook.Config, given, "destinations.webhook", defaults={})
        webhook = Webhook("webhook", config, clock=clock) if clock else Webhook("webhook", config)
        webhook.open(None)
        self.built.append(webhook)
        return webhook


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    with HttpServer() as server:
        hooks = Hooks(server)
        yield hooks
        for webhook in hooks.built:
            webhook.close()


def is_genuine(secret: str, headers: Mapping[str, str], body: bytes, now: int) -> bool:
    """As a receiver checks it: tolerance of five minutes, any v1 signature that matches."""
    signed = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
    digest = hmac.digest(base64.b64decode(secret.split("_", 1)[1]), signed, hashlib.sha256)
    wanted = base64.b64encode(digest).decode()
    given = [entry.split(",", 1) for entry in headers["webhook-signature"].split(" ")]
    fresh = abs(now - int(headers["webhook-timestamp"])) <= 300
    return fresh and any(version == "v1" and hmac.compare_digest(wanted, text) for version, text in given)


def test_the_specifications_own_example_is_signed_as_it_says() -> None:
    """See: https://github.com/standard-webhooks/standard-webhooks (its libraries' test vector)."""
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

    assert (
        signatures([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_an_event_is_one_signed_request(hooks: Hooks) -> None:
    """The body is the event's JSON, the id the event's, so that the receiver can drop repetitions."""
    hooks(lambda: 1_700_000_000.9, secret=NEW).deliver([make_event(1)])

    (request,) = hooks.server.requests
    assert (request.method, request.path) == ("POST", "/hook")
    assert request.body == make_event(1).to_json()
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == make_event(1).id
    assert request.headers["webhook-timestamp"] == "1700000000"
    assert is_genuine(NEW, request.headers, request.body, 1_700_000_100)
    assert not is_genuine(OLD, request.headers, request.body, 1_700_000_100)


def test_while_a_key_is_changed_both_signatures_are_sent(hooks: Hooks) -> None:
    """Receivers change over when they like."""
    hooks(lambda: 1_700_000_000.0, secret=NEW, previous_secrets=[OLD]).deliver([make_event(1)])

    (request,) = hooks.server.requests
    assert is_genuine(NEW, request.headers, request.body, 1_700_000_000)
    assert is_genuine(OLD, request.headers, request.body, 1_700_000_000)


def test_each_attempt_has_its_own_timestamp_and_the_same_id(hooks: Hooks) -> None:
    """A late retry would otherwise be refused as a replay."""
    now = 1_700_000_000.0
    webhook = hooks(lambda: now, secret=NEW)
    hooks.server.script.append(Reply(503))

    with pytest.raises(DestinationUnavailable):
        webhook.deliver([make_event(1)])
    now += 3600
    webhook.deliver([make_event(1)])

    first, second = hooks.server.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert is_genuine(NEW, second.headers, second.body, 1_700_003_600)


def test_an_answer_lost_after_processing_is_sent_again_and_stored_once(hooks: Hooks) -> None:
    """At least once from us, once at the receiver."""
    webhook = hooks()
    hooks.server.script.append(Reply(fault="close_after_processing"))

    with pytest.raises(DestinationUnavailable):
        webhook.deliver([make_event(1)])
    webhook.deliver([make_event(1)])

    assert len(hooks.server.requests) == 2
    assert list(hooks.server.stored) == [make_event(1).id]


def test_without_a_secret_nothing_is_signed(hooks: Hooks) -> None:
    """pg_track_events' configuration has a URL only."""
    hooks().deliver([make_event(1)])

    assert "webhook-signature" not in hooks.server.requests[0].headers


def test_headers_of_the_configuration_are_sent(hooks: Hooks) -> None:
    """Such as Authorization."""
    hooks(headers={"Authorization": "Bearer abc", "X-Team": "data"}).deliver([make_event(1)])

    assert hooks.server.requests[0].headers["authorization"] == "Bearer abc"
    assert hooks.server.requests[0].headers["x-team"] == "data"


def test_a_cloud_event_carries_the_event_as_data(hooks: Hooks) -> None:
    """Structured mode; attributes as CloudEvents 1.0 wants them, LSNs as text."""
    hooks(format="cloudevents", secret=NEW).deliver([make_event(1)])

    (request,) = hooks.server.requests
    assert request.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert json.loads(request.body) == {
        "specversion": "1.0",
        "id": make_event(1).id,
        "source": "/wal_tracker/public.orders",
        "type": "order_placed",
        "time": "2026-01-02T03:04:05.123456Z",
        "datacontenttype": "application/json",
        "partitionkey": "1",
        "data": json.loads(make_event(1).to_json()),
    }


def test_a_cloud_events_source_is_a_uri_whatever_the_table_is_called(hooks: Hooks) -> None:
    """PostgreSQL allows any character in a name."""
    event = make_event(1)
    event.source["table"] = "order items/ö?"

    hooks(format="cloudevents", cloudevents_source="https://db.example/shop").deliver([event])

    assert hooks.server.requests[0].json()["source"] == "https://db.example/shop/public.order%20items%2F%C3%B6%3F"


@pytest.mark.parametrize(
    ("format_", "content_type"),
    [("json", "application/json"), ("cloudevents", "application/cloudevents-batch+json; charset=utf-8")],
)
def test_a_batch_is_one_request_with_an_array(hooks: Hooks, format_: str, content_type: str) -> None:
    """Only where the receiver asked for it; the same batch has the same id."""
    webhook = hooks(batch=True, format=format_, secret=NEW)
    events = [make_event(1), make_event(2)]

    webhook.deliver(events)
    webhook.deliver(events)
    webhook.deliver(events[:1])

    first, again, other = hooks.server.requests
    assert first.headers["content-type"] == content_type
    assert [document["id"] for document in first.json()] == [event.id for event in events]
    assert first.headers["webhook-id"] == again.headers["webhook-id"] != other.headers["webhook-id"]
    assert webhook.limits.max_batch_events > 1


def test_a_raw_change_is_sent_as_it_is(hooks: Hooks) -> None:
    """`raw_db_event_destinations` may name a webhook."""
    change = RawChange("the-id", "public.orders.insert", "2026-01-02T03:04:05Z", {"op": "insert"}, make_event(1).source)

    hooks().deliver([change])

    assert hooks.server.requests[0].json() == {"op": "insert"}
    assert Webhook.accepts_raw


def test_a_receiver_that_has_gone_stops_the_delivery(hooks: Hooks) -> None:
    """410: it wants no more, ever. Nothing is dead-lettered for that."""
    hooks.server.script.append(Reply(410))

    with pytest.raises(DestinationRefusedUs, match="wants no more events"):
        hooks().deliver([make_event(1)])


def test_an_event_the_receiver_refuses_is_refused_for_good(hooks: Hooks) -> None:
    """With the receiver's words."""
    hooks.server.script.append(Reply(422, b"unknown type"))

    with pytest.raises(BatchRefused, match="HTTP 422: unknown type"):
        hooks().deliver([make_event(1)])


def test_a_url_that_is_not_https_is_accepted_and_refused_when_it_is_opened() -> None:
    """A configuration may be checked where its URL leads nowhere (pg_track_events case J10)."""
    webhook = registry.build("webhook", "webhook", {"url": "http://93.184.215.14/x"}, "destinations.webhook")

    with pytest.raises(DestinationRefusedUs, match="allow_http: true"):
        webhook.open(None)
    webhook.close()
    registry.build("webhook", "webhook", {"url": "http://x"}, "destinations.webhook").close()


def test_a_private_address_is_refused_when_it_is_opened() -> None:
    """And the option that allows it is named."""
    webhook = registry.build("webhook", "webhook", {"url": "https://10.0.0.1/x"}, "destinations.webhook")

    with pytest.raises(DestinationRefusedUs, match="allow_private: true"):
        webhook.open(None)
    webhook.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs url"),
        ({"url": "hooks.example/x"}, "url is not a URL"),
        ({"url": "https://x/", "secret": "whsec_short"}, "secret must be"),
        ({"url": "https://x/", "secret": "whsec_!!!"}, "secret must be"),
        ({"url": "https://x/", "previous_secrets": [OLD]}, "previous_secrets needs secret"),
        ({"url": "https://x/", "headers": {"Bad Name": "x"}}, "not a header's name"),
        ({"url": "https://x/", "headers": {"X": "a\r\nInjected: b"}}, "cannot stand in a header"),
        ({"url": "https://x/", "headers": {"Webhook-Id": "x"}}, "set by wal_tracker"),
        ({"url": "https://x/", "format": "xml"}, "must be one of"),
        ({"url": "https://x/", "request_timeout_s": 0}, "must be positive"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    """At load, by name, and without repeating a secret."""
    with pytest.raises(ConfigError, match=message) as caught:
        registry.build("webhook", "webhook", options, "destinations.webhook")

    assert "short" not in str(caught.value)
    assert "Injected" not in str(caught.value)
