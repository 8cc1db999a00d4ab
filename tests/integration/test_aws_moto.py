"""S3, SQS and SNS as moto has them: what was put can be got, with another client than ours."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.session import Session
from moto.server import ThreadedMotoServer

from wal_tracker.destinations import registry
from wal_tracker.errors import DestinationRefusedUs
from wal_tracker.model import Event
from wal_tracker.testing import make_event

KEYS = {"accessKey": "AKIDEXAMPLE", "secretKey": "k3y-of-the-project", "region": "eu-west-1"}
EVENTS = [make_event(number) for number in range(1, 16)]


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """A whole AWS on this machine; its URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def client(moto: str, service: str) -> Any:
    session = Session()
    session.set_credentials("AKIDEXAMPLE", "k3y-of-the-project")
    return session.create_client(service, region_name="eu-west-1", endpoint_url=moto)


def deliver(moto: str, kind: str, events: list[Event], **options: Any) -> None:
    """By a destination of its own, all of it taken."""
    destination = registry.build(kind, kind, {**KEYS, "endpoint": moto, **options}, f"destinations.{kind}")
    destination.open(None)
    try:
        assert not destination.deliver(events).outcomes
    finally:
        destination.close()


def received(moto: str, url: str) -> list[dict[str, Any]]:
    """Everything in a queue, and it is gone from there."""
    sqs, bodies = client(moto, "sqs"), []
    while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        for message in messages:
            bodies.append(json.loads(message["Body"]))
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return bodies


def documents(events: list[Event]) -> list[dict[str, Any]]:
    return [json.loads(event.to_json()) for event in events]


def test_objects_can_be_listed_by_event_and_hour_and_read(moto: str) -> None:
    """And a replay adds none."""
    s3 = client(moto, "s3")
    s3.create_bucket(Bucket="lake", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    for _ in range(2):
        deliver(moto, "s3", [*EVENTS, make_event(1, name="order/paid")], bucket="lake", rootDir="shop")

    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket="lake")["Contents"]]

    assert [key.rpartition("/")[0] for key in keys] == [
        "shop/event=order%2Fpaid/dt=2026-01-02/hour=03",
        "shop/event=order_placed/dt=2026-01-02/hour=03",
    ]
    lines = gzip.decompress(s3.get_object(Bucket="lake", Key=keys[1])["Body"].read()).splitlines()
    assert [json.loads(line) for line in lines] == documents(EVENTS)


@pytest.mark.parametrize("group", ["table", "distinct_id"])
def test_a_fifo_queue_gives_each_event_once_and_in_order(moto: str, group: str) -> None:
    """Though the batch was sent twice."""
    attributes = {"FifoQueue": "true"}
    url = client(moto, "sqs").create_queue(QueueName=f"{group}.fifo", Attributes=attributes)["QueueUrl"]
    for _ in range(2):
        deliver(moto, "sqs", EVENTS, queueUrl=url, group=group)

    assert received(moto, url) == documents(EVENTS)


def test_a_standard_queue_gives_each_event(moto: str) -> None:
    """At least once."""
    url = client(moto, "sqs").create_queue(QueueName="events")["QueueUrl"]
    deliver(moto, "sqs", EVENTS, queueUrl=url)

    assert sorted(event["id"] for event in received(moto, url)) == sorted(event.id for event in EVENTS)


@pytest.mark.parametrize("ending", ["", ".fifo"])
def test_a_topics_subscriber_gets_each_event(moto: str, ending: str) -> None:
    """By a queue that asks for one event's name only."""
    sqs, sns = client(moto, "sqs"), client(moto, "sns")
    kind = "true" if ending else ""
    url = sqs.create_queue(QueueName=f"all{ending}", Attributes={"FifoQueue": "true"} if ending else {})["QueueUrl"]
    topic = sns.create_topic(Name=f"events{ending}", Attributes={"FifoTopic": kind} if ending else {})["TopicArn"]
    queue = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    subscription = {"RawMessageDelivery": "true", "FilterPolicy": '{"event": ["order_placed"]}'}
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue, Attributes=subscription)

    deliver(moto, "sns", [*EVENTS, make_event(99, name="another")], topicArn=topic)

    got = received(moto, url)
    assert sorted(event["id"] for event in got) == sorted(event.id for event in EVENTS)
    assert not ending or got == documents(EVENTS)


@pytest.mark.parametrize(
    ("kind", "options", "code"),
    [
        ("s3", {"bucket": "nowhere-at-all"}, "NoSuchBucket"),
        ("sqs", {"queueUrl": "http://127.0.0.1/123456789012/nowhere"}, "NonExistentQueue"),
        ("sns", {"topicArn": "arn:aws:sns:eu-west-1:123456789012:nowhere"}, "NotFound"),
    ],
)
def test_what_is_not_there_stops_it_and_is_named(moto: str, kind: str, options: dict[str, str], code: str) -> None:
    """In AWS's own code."""
    with pytest.raises(DestinationRefusedUs, match=code):
        deliver(moto, kind, EVENTS, **options)
