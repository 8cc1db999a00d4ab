"""Messages to SQS and SNS: their form, their limits, their order, and requests that are taken by half."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import pytest

from tests.support.delivered import deliver
from tests.support.fake_aws import FakeMessages, FakeSns, FakeSqs
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import Receipt, Rejected, Retry
from wal_tracker.errors import ConfigError, DestinationRefusedUs
from wal_tracker.model import Event, RawChange
from wal_tracker.testing import make_event
from wal_tracker_destinations.sqs import group_id, queue_region


@pytest.fixture(params=[FakeSqs, FakeSns], ids=["sqs", "sns"])
def fifo(request: pytest.FixtureRequest) -> Iterator[FakeMessages]:
    """A FIFO queue or topic."""
    with request.param() as made:
        yield made


@pytest.fixture(params=[FakeSqs, FakeSns], ids=["sqs", "sns"])
def standard(request: pytest.FixtureRequest) -> Iterator[FakeMessages]:
    """A standard one."""
    with request.param(fifo=False) as made:
        yield made


def build(target: FakeMessages, **options: Any) -> Any:
    return registry.build("bus", target.kind, {**target.options, **options}, "destinations.bus")


def opened(target: FakeMessages, **options: Any) -> Any:
    destination = build(target, **options)
    destination.open(None)
    return destination


def numbers(entries: Sequence[dict[str, Any]]) -> list[int]:
    return [orjson.loads(entry["MessageBody"])["properties"]["number"] for entry in entries]


def of_table(number: int, table: str) -> Event:
    event = make_event(number)
    event.source["table"] = table
    return event


def test_a_message_in_a_fifo_has_the_events_id_for_what_it_is_deduplicated_by(fifo: FakeMessages) -> None:
    """Beside the event's own JSON, and two attributes to filter by."""
    opened(fifo, group="table").deliver([make_event(1)])

    (message,) = fifo.messages
    assert message == {
        "Id": "0",
        "MessageBody": make_event(1).to_json().decode(),
        "MessageAttributes": {
            "id": {"DataType": "String", "StringValue": make_event(1).id},
            "event": {"DataType": "String", "StringValue": "order_placed"},
        },
        "MessageGroupId": "public.orders",
        "MessageDeduplicationId": make_event(1).id,
    }


def test_a_standard_message_has_neither_and_a_copy_is_told_by_its_attribute(standard: FakeMessages) -> None:
    """Nothing is dropped there."""
    destination = opened(standard)
    destination.deliver([make_event(1)])
    destination.deliver([make_event(1)])

    assert len(standard.messages) == 2
    assert {message["MessageAttributes"]["id"]["StringValue"] for message in standard.messages} == {make_event(1).id}
    assert not any("MessageGroupId" in message for message in standard.messages)


def test_ten_go_in_a_request(standard: FakeMessages) -> None:
    """In order."""
    opened(standard).deliver([make_event(number) for number in range(25)])

    assert [len(standard.entries(request)) for request in standard.requests] == [10, 10, 5]
    assert numbers(standard.messages) == list(range(25))


def test_no_two_of_a_group_share_a_request(fifo: FakeMessages) -> None:
    """Or the one behind might be taken without the one before."""
    tables = ["a", "b", "c", "a", "b", "d", "d"]
    events = [of_table(number, table) for number, table in enumerate(tables)]

    opened(fifo, group="table").deliver(events)

    assert [numbers(fifo.entries(request)) for request in fifo.requests] == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("failing", range(6))
def test_a_group_keeps_its_order_when_a_message_is_not_taken(fifo: FakeMessages, failing: int) -> None:
    """Whichever it is; the others of its request are in, those behind wait, and each comes once."""
    events = [of_table(number, "abc"[number % 3]) for number in range(6)]
    # The request with it fails by half, and then once more.
    fifo.failing = [{events[failing].id: (False, "InternalError")}] * 3

    delivery, letters = deliver(build(fifo, group="table"), events)

    assert (delivery.failure, letters) == (None, [])
    for table in "abc":
        assert numbers([m for m in fifo.messages if m["MessageGroupId"] == f"public.{table}"]) == [
            number for number in range(6) if "abc"[number % 3] == table
        ]


def test_what_fails_by_our_fault_is_a_dead_letter_and_by_theirs_comes_again(standard: FakeMessages) -> None:
    """Each message has its own answer in a 200."""
    events = [make_event(number) for number in range(12)]
    standard.failing = [
        {
            events[2].id: (True, "InvalidMessageContents"),
            events[4].id: (False, "InternalError"),
            events[5].id: (True, "RequestThrottled"),
        }
    ]

    receipt = opened(standard).deliver(events)

    assert numbers(standard.messages) == [0, 1, 3, 6, 7, 8, 9]
    assert isinstance(receipt.outcomes[2], Rejected) and "InvalidMessageContents" in receipt.outcomes[2].reason
    again = {index: outcome for index, outcome in receipt.outcomes.items() if index != 2}
    assert sorted(again) == [4, 5, 10, 11] and all(isinstance(outcome, Retry) for outcome in again.values())
    assert len(standard.requests) == 1, "what is behind waits"


def test_credentials_that_fail_for_a_single_message_stop_it(standard: FakeMessages) -> None:
    """A key of KMS that we may not use is no message's fault."""
    standard.failing = [{make_event(1).id: (True, "KMSAccessDenied")}]

    delivery, letters = deliver(build(standard), [make_event(1), make_event(2)])

    assert isinstance(delivery.failure, DestinationRefusedUs) and "KMSAccessDenied" in str(delivery.failure)
    assert letters == []


def test_a_character_no_message_may_hold_arrives_all_the_same(fifo: FakeMessages) -> None:
    """Escaped, as JSON may; PostgreSQL stores any of them."""
    text = "tab\t nul\u0001 del\x7f \ufffe\uffff \U0001f600 \U0001fffe"
    event = make_event(1, properties={"text": text}, name="odd\ufffe\u0001name")

    assert opened(fifo).deliver([event]) == Receipt()

    (message,) = fifo.messages
    assert orjson.loads(message["MessageBody"]) == orjson.loads(event.to_json())
    assert message["MessageAttributes"]["event"]["StringValue"] == "odd\ufffd\ufffdname"


def test_a_message_may_be_as_large_as_the_limit_with_its_attributes(fifo: FakeMessages) -> None:
    """One byte more is a dead letter, and is not sent."""
    beside = sum(map(len, ["id", "String", make_event(1).id, "event", "String", "order_placed"]))
    empty = len(make_event(1, properties={"text": ""}).to_json())
    room = fifo.max_message_bytes - beside - empty
    events = [make_event(1, properties={"text": "x" * room}), make_event(1, properties={"text": "x" * (room + 1)})]

    receipt = opened(fifo).deliver(events)

    assert len(fifo.messages) == 1 and len(fifo.requests) == 1
    assert isinstance(receipt.outcomes[1], Rejected) and str(fifo.max_message_bytes) in receipt.outcomes[1].reason


@pytest.mark.parametrize("kind", [FakeSqs, FakeSns])
def test_a_queue_with_a_lower_limit_than_we_are_told_takes_what_it_can(kind: type[FakeSqs | FakeSns]) -> None:
    """A request refused as too long is halved; the one message that is too large alone is a dead letter."""
    with kind(max_message_bytes=4096) as small:
        events = [make_event(number, properties={"text": "x" * (5000 if number == 3 else 900)}) for number in range(8)]

        _, letters = deliver(build(small), events)

        assert numbers(small.messages) == [0, 1, 2, 4, 5, 6, 7]
        assert [letter.id for letter in letters] == [events[3].id]


@pytest.mark.parametrize("group", ["table", "row", "distinct_id"])
def test_a_group_has_a_name_the_queue_takes(group: Any) -> None:
    """Whatever tables and persons are called; two that differ stay two."""
    events = [of_table(1, "orders"), of_table(2, "Ünïcode table"), of_table(3, "x" * 63)]
    events[1].distinct_id, events[2].distinct_id = "a person\n", "p" * 200

    names = [group_id(event, group) for event in events]

    assert len(set(names)) == 3
    assert all(0 < len(name) <= 128 and name.isascii() and name.isprintable() and " " not in name for name in names)


def test_groups_are_of_a_table_a_row_or_a_person() -> None:
    """What a group cannot be told by falls back to the table, which keeps more order, not less."""
    event = make_event(1)
    nobody = make_event(2)
    nobody.distinct_id = None
    document = {"key": {"id": 7}, "schema": "public", "table": "orders"}
    keyed = RawChange(event.id, "public.orders.update", event.timestamp, document, event.source)
    keyless = RawChange(event.id, "public.orders.update", event.timestamp, {**document, "key": {}}, event.source)
    said = RawChange(event.id, "message", event.timestamp, {}, {"prefix": "app"})

    assert [group_id(each, "row") for each in (keyed, keyless, event)] == [
        'public.orders:{"id":7}', "public.orders", "public.orders"
    ]  # fmt: skip
    assert [group_id(each, "distinct_id") for each in (event, nobody)] == ["1", "public.orders"]
    assert group_id(said, "table") == "message.app"


def test_a_standard_one_takes_requests_side_by_side_and_a_fifo_does_not(
    standard: FakeMessages, fifo: FakeMessages
) -> None:
    """Messages of a group would overtake each other."""
    assert (build(standard).limits.concurrency, build(fifo).limits.concurrency) == (4, 1)


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/1/q", "eu-west-1"),
        ("https://eu-central-1.queue.amazonaws.com/1/q", "eu-central-1"),
        ("https://sqs.us-gov-west-1.amazonaws.com/1/q", "us-gov-west-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", "cn-north-1"),
        ("https://vpce-1a-2b.sqs.ap-southeast-2.vpce.amazonaws.com/1/q", "ap-southeast-2"),
        ("http://localhost:9324/1/q", None),
    ],
)
def test_a_queues_url_tells_its_region(url: str, region: str | None) -> None:
    """So that one need not say it twice."""
    assert queue_region(url) == region


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"queueUrl": "events"}, "queue_url .* is not a URL"),
        ({"queueUrl": "https://sqs.eu-west-1.amazonaws.com/"}, "names no queue"),
        ({"topicArn": "events"}, "topic_arn .* is not an ARN"),
        ({"max_message_bytes": 2 << 20}, "max_message_bytes must be from 1024 to 1048576"),
        ({"group": "person"}, "must be one of 'table', 'row', 'distinct_id'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(fifo: FakeMessages, options: dict[str, Any], told: str) -> None:
    """Before anything starts."""
    (name,) = options
    if name not in fifo.options and name not in ("max_message_bytes", "group"):
        told = "is not a setting"

    with pytest.raises(ConfigError, match=told):
        build(fifo, **options)


def test_a_queue_that_is_not_there_stops_it(fifo: FakeMessages) -> None:
    """Nothing becomes a dead letter."""
    destination = build(fifo)
    fifo.target_name = "another.fifo"

    delivery, letters = deliver(destination, [make_event(1)])

    assert isinstance(delivery.failure, DestinationRefusedUs) and letters == []
    assert fifo.ids == []
