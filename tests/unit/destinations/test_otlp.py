"""The OTLP destination against a receiver that reads requests by the protocol's own definition."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.support.fake_otlp import FakeOtlp
from tests.support.fake_vendor import json_reply
from tests.support.http_server import Reply
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import BatchRefused, Rejected
from wal_tracker.errors import ConfigError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.model import RawChange
from wal_tracker.testing import make_event
from wal_tracker_destinations.otlp import Otlp, any_value


@pytest.fixture
def receiver() -> Iterator[FakeOtlp]:
    with FakeOtlp() as made:
        yield made


def otlp(receiver: FakeOtlp, **options: Any) -> Otlp:
    given = {**receiver.options, **options}
    return Otlp("otlp", registry.read_config(Otlp.Config, given, "destinations.otlp", defaults={}))


def test_a_request_has_the_shape_the_protocol_documents(receiver: FakeOtlp) -> None:
    """Camel case, 64-bit integers as strings, the time of the commit in both of its fields."""
    event = make_event(1, properties={"plan": "pro", "seats": None, "paid": True, "rate": 0.5, "tags": ["a", 1]})

    otlp(receiver, severity="WARN", resource_attributes={"service.name": "shop", "host.name": "db1"}).deliver([event])

    (request,) = receiver.requests
    (logs,) = request.json()["resourceLogs"]
    (scope,) = logs["scopeLogs"]
    (record,) = scope["logRecords"]
    assert request.headers["content-type"] == "application/json"
    assert logs["resource"] == {
        "attributes": [
            {"key": "service.name", "value": {"stringValue": "shop"}},
            {"key": "host.name", "value": {"stringValue": "db1"}},
        ]
    }
    assert scope["scope"]["name"] == "wal_tracker" and scope["scope"]["version"]
    attributes = {pair["key"]: pair["value"] for pair in record.pop("attributes")}
    assert attributes["event.id"] == {"stringValue": event.id}
    assert attributes["wal_tracker.distinct_id"] == {"stringValue": "1"}
    assert attributes["wal_tracker.commit_lsn"] == {"stringValue": "0/100"}
    assert attributes["wal_tracker.xid"] == {"intValue": "1"}
    assert record == {
        "timeUnixNano": "1767323045123456000",
        "observedTimeUnixNano": "1767323045123456000",
        "severityNumber": 13,
        "severityText": "WARN",
        "eventName": "order_placed",
        "body": {
            "kvlistValue": {
                "values": [
                    {"key": "number", "value": {"intValue": "1"}},
                    {"key": "plan", "value": {"stringValue": "pro"}},
                    {"key": "seats", "value": {}},
                    {"key": "paid", "value": {"boolValue": True}},
                    {"key": "rate", "value": {"doubleValue": 0.5}},
                    {"key": "tags", "value": any_value(["a", 1])},
                ]
            }
        },
    }


def test_values_arrive_as_they_are(receiver: FakeOtlp) -> None:
    """Through the protocol's own reader; what neither an int64 nor a double can hold is the text of its digits."""
    exact = '{"max": 9223372036854775807, "beyond": 9223372036854775808, "total": 12345678901234567.89, "tenth": 0.10}'
    nested = {"list": [None, [], {}, [1, "a", {"b": False}]], "empty": {}, "text": "ünï \x00 \U0001f600", "none": None}
    otlp(receiver).deliver([make_event(1, properties={"numbers": orjson.Fragment(exact), **nested})])

    (item,) = receiver.stored.values()
    assert item["properties"] == {
        "number": 1,
        "numbers": {
            "max": 2**63 - 1,
            "beyond": "9223372036854775808",
            "total": "12345678901234567.89",
            "tenth": 0.1,
        },
        **nested,
    }
    assert type(item["properties"]["list"][3][0]) is int
    assert item["properties"]["list"][3][2]["b"] is False


def test_a_raw_change_is_a_record_too(receiver: FakeOtlp) -> None:
    """The change is the body, and the table and operation are its name."""
    document = {"op": "insert", "table": "orders", "new": {"id": 2**63 - 1, "note": None}}
    change = RawChange("an-id", "public.orders.insert", "2026-01-02T03:04:05Z", document, {"commit_lsn": "0/100"})

    otlp(receiver).deliver([change])

    (item,) = receiver.stored.values()
    assert (item["name"], item["event.id"], item["properties"]) == ("public.orders.insert", "an-id", document)
    assert Otlp.accepts_raw


@pytest.mark.parametrize("timestamp", ["1969-12-31T23:59:59Z", "2600-01-01T00:00:00Z", "noon"])
def test_a_time_that_the_protocol_cannot_say_is_a_dead_letter(receiver: FakeOtlp, timestamp: str) -> None:
    """Never a wrong time, and the others go."""
    events = [make_event(1), make_event(2), make_event(3)]
    events[1].timestamp = timestamp

    outcomes = otlp(receiver).deliver(events).outcomes

    (outcome,) = outcomes.values()
    assert isinstance(outcome, Rejected) and "timestamp" in outcome.reason
    assert receiver.ids == [events[0].id, events[2].id]


@pytest.mark.parametrize("text", ["[" * 2000 + "]" * 2000, "[" * 300 + "]" * 300, '"\\ud800"'])
def test_what_cannot_be_written_is_a_dead_letter(receiver: FakeOtlp, text: str) -> None:
    """Nested beyond reason, or half a character; a `json` column may hold both."""
    outcomes = otlp(receiver).deliver([make_event(1), make_event(2, properties={"x": orjson.Fragment(text)})]).outcomes

    assert list(outcomes) == [1]
    assert receiver.ids == [make_event(1).id]


def test_of_a_request_taken_in_part_every_record_is_kept_as_a_dead_letter(
    receiver: FakeOtlp, caplog: pytest.LogCaptureFixture
) -> None:
    """The receiver does not say which it rejected and must not be asked again: nothing is sent twice, nothing lost."""
    receiver.partial = (2, "too old k3y-of-the-project")
    events = [make_event(number) for number in range(1, 6)]

    with caplog.at_level(logging.WARNING):
        outcomes = otlp(receiver).deliver(events).outcomes

    assert len(receiver.requests) == 1
    reason = "the receiver rejected 2 of the 5 records of a request and does not say which, so it may have this one"
    assert outcomes == dict.fromkeys(range(5), Rejected(f"{reason}: too old ***"))
    (record,) = [record for record in caplog.records if record.name == "wal_tracker.destinations.otlp"]
    assert (vars(record)["records"], vars(record)["rejected"]) == (5, 2)
    assert "too old" not in record.getMessage()


def test_of_a_request_rejected_as_a_whole_every_record_is_known_to_be_out(receiver: FakeOtlp) -> None:
    """And one alone is always known."""
    receiver.partial = (1, "")

    assert otlp(receiver).deliver([make_event(1)]).outcomes == {
        0: Rejected("the receiver rejected 1 of the 1 records of a request")
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"partialSuccess":{}}',
        b'{"partialSuccess":null}',
        b'{"partialSuccess":{"rejectedLogRecords":"0","errorMessage":"use a newer version"}}',
        b'{"partialSuccess":{"rejectedLogRecords":0}}',
        b'{"partial_success":{}, "unknown": 1}',
    ],
)
def test_a_success_is_a_success_in_each_of_its_forms(receiver: FakeOtlp, body: bytes) -> None:
    """Also with a warning in it."""
    receiver.script.append(Reply(200, body))

    assert otlp(receiver).deliver([make_event(1)]).outcomes == {}


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"partialSuccess":{"rejectedLogRecords":"some"}}', b"ok"])
def test_an_answer_that_is_not_the_protocols_stops(receiver: FakeOtlp, body: bytes) -> None:
    """A page of somebody's proxy has taken nothing."""
    receiver.script.append(Reply(200, body))

    with pytest.raises(DestinationRefusedUs, match="not as OTLP/HTTP does"):
        otlp(receiver).deliver([make_event(1)])


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(429, headers={"Retry-After": "7"}), DestinationUnavailable),
        (Reply(502), DestinationUnavailable),
        (Reply(503, headers={"Retry-After": "7"}), DestinationUnavailable),
        (Reply(504), DestinationUnavailable),
        (Reply(fault="close_before_response"), DestinationUnavailable),
        (json_reply(400, code=3, message="bad"), BatchRefused),
        (Reply(413), BatchRefused),
        (json_reply(500, code=13, message="bad"), BatchRefused),
        (Reply(501), BatchRefused),
        (Reply(505), BatchRefused),
        (Reply(408), DestinationRefusedUs),
        (Reply(401), DestinationRefusedUs),
        (Reply(403), DestinationRefusedUs),
        (Reply(404), DestinationRefusedUs),
        (Reply(415), DestinationRefusedUs),
    ],
    ids=lambda value: str(getattr(value, "fault", None) or getattr(value, "status", "")),
)
def test_each_answer_has_the_meaning_the_protocol_gives_it(
    receiver: FakeOtlp, reply: Reply, error: type[Exception]
) -> None:
    """Four statuses are retryable and no other."""
    receiver.script.append(reply)

    with pytest.raises(error) as caught:
        otlp(receiver).deliver([make_event(1)])
    assert getattr(caught.value, "retry_after_s", None) == (7.0 if "Retry-After" in reply.headers else None)


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({"endpoint": "https://collector:4318"}, "https://collector:4318/v1/logs"),
        ({"endpoint": "https://collector:4318/"}, "https://collector:4318/v1/logs"),
        ({"endpoint": "https://vendor.example/otlp"}, "https://vendor.example/otlp/v1/logs"),
        ({"logs_endpoint": "https://vendor.example/ingest?team=1"}, "https://vendor.example/ingest?team=1"),
    ],
)
def test_the_path_is_appended_to_a_base_and_to_nothing_else(options: dict[str, Any], url: str) -> None:
    """As OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_LOGS_ENDPOINT are read."""
    assert registry.read_config(Otlp.Config, options, "destinations.otlp", defaults={}).url() == url


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either endpoint"),
        ({"endpoint": "https://a", "logs_endpoint": "https://b"}, "either endpoint"),
        ({"endpoint": "collector"}, "endpoint is not a URL"),
        ({"logs_endpoint": "collector"}, "logs_endpoint is not a URL"),
        ({"endpoint": "https://a", "headers": {"api key": "s3cret"}}, "not a header's name"),
        ({"endpoint": "https://a", "headers": {"Content-Type": "s3cret"}}, "is set by wal_tracker"),
        ({"endpoint": "https://a", "headers": {"api-key": "s3cret\n"}}, "cannot stand in a header"),
        ({"endpoint": "https://a", "severity": "LOUD"}, "must be one of"),
        ({"endpoint": "https://a", "resource_attributes": {" ": "x"}}, "must not be empty"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    """At load, by name, and without repeating a header's value."""
    with pytest.raises(ConfigError, match=message) as caught:
        registry.build("otlp", "otlp", options, "destinations.otlp")

    assert "s3cret" not in str(caught.value)
