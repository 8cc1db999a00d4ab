"""
Queues in Amazon SQS, standard and FIFO; and what they share with SNS: messages, ten in a request, each with an answer.

See: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import orjson

from wal_tracker.destinations.base import Limits, Mark, Outcome, Rejected, Retry
from wal_tracker.destinations.http import check_url
from wal_tracker.model import Deliverable, RawChange
from wal_tracker_destinations.aws import AwsClient, AwsOptions, whose_fault_of_one
from wal_tracker_destinations.batches import Batches, Item

_MAX_ENTRIES = 10
_MIB = 1024 * 1024

# What a body or an attribute may hold is what XML 1.0 may: https://www.w3.org/TR/xml/#charsets
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# Alphanumerics and punctuation, up to 128.
_GROUP_ID = re.compile(r"[!-~]{1,128}", re.ASCII)


def message_limits(max_message_bytes: int, *, fifo: bool = False) -> Limits:
    """The limits of a queue or topic that takes messages of so many bytes."""
    # A batch may take ten requests, one after the other. A standard queue promises no order and takes any number of
    # requests at once; in a FIFO the messages of a group would overtake each other.
    return Limits(
        max_batch_events=10 * _MAX_ENTRIES,
        max_batch_bytes=max(max_message_bytes, 256 * 1024),
        concurrency=1 if fifo else 4,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageOptions(AwsOptions):
    """The options of what takes messages."""

    group: Literal["table", "row", "distinct_id"] = "table"
    """
    FIFO only: which messages keep their order among themselves. ``table`` keeps every row's. ``row`` is by a raw
    change's key, where it has one (an event has none, and goes by its table); ``distinct_id`` keeps a person's, and a
    row's as long as its events are about the same person. Both are faster than ``table``.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message(Item):
    """A body, and what goes beside it."""

    text: str
    attributes: Mapping[str, str]
    group: str

    @property
    def size(self) -> int:
        """Of the body, and of its attributes' names, types and values."""
        beside = sum(len(name) + len("String") + len(value.encode()) for name, value in self.attributes.items())
        return len(self.body) + beside


class Messages(Batches):
    """
    Sends each event's JSON as a message, with ``id`` and ``event`` (the event's name) as attributes.

    Characters a message may not hold are escaped in the JSON, so that nothing of it is lost.
    """

    accepts_raw: ClassVar[bool] = True
    operation: ClassVar[str]
    """Of botocore; then the names of its parameters."""
    target_parameter: ClassVar[str]
    entries_parameter: ClassVar[str]
    body_parameter: ClassVar[str]

    def __init__(self, name: str, config: MessageOptions, aws: AwsClient, target: str, max_message_bytes: int) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
            aws: The service.
            target: The queue's URL or the topic's ARN; FIFO where it ends so, which AWS requires.
            max_message_bytes: Of a message, and of all in a request.
        """
        self.name, self._aws, self._target, self._group_by = name, aws, target, config.group
        self._fifo = target.endswith(".fifo")
        self.max_event_bytes = self.max_request_bytes = max_message_bytes
        self.limits = message_limits(max_message_bytes, fifo=self._fifo)

    def open(self, mark: Mark | None) -> None:  # noqa: ARG002 - the vendor keeps what it has
        """Find credentials."""
        self._aws.open()

    def close(self) -> None:
        """Let go of the connection."""
        self._aws.close()

    def _fit(self, event: Deliverable) -> Sequence[_Message]:
        # Only U+FFFE and U+FFFF can be left of what is forbidden: JSON escapes the others.
        text = _FORBIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", event.to_json().decode())
        attributes = {"id": event.id}
        if event.name:
            attributes["event"] = _FORBIDDEN.sub("\ufffd", event.name)
        message = _Message(
            event, text.encode(), text=text, attributes=attributes, group=group_id(event, self._group_by)
        )
        self._within(message)
        return [message]

    def _requests(self, items: Sequence[tuple[int, Item]]) -> Iterator[Sequence[tuple[int, Item]]]:
        """
        The items in runs that fit a request; in FIFO no two of a group.

        One message of a request may fail while one behind it is taken, and in a group that would change the order.
        """
        request: list[tuple[int, Item]] = []
        size, groups = 0, set[str]()
        for index, item in items:
            assert isinstance(item, _Message)
            full = len(request) == _MAX_ENTRIES or size + item.size > self.max_request_bytes
            if request and (full or (self._fifo and item.group in groups)):
                yield request
                request, size, groups = [], 0, set()
            request.append((index, item))
            size += item.size
            groups.add(item.group)
        if request:
            yield request

    def _send(self, items: Sequence[Item]) -> Mapping[int, Outcome]:
        entries = [self._entry(str(position), item) for position, item in enumerate(items)]
        answer = self._aws.call(
            self.operation, **{self.target_parameter: self._target, self.entries_parameter: entries}
        )
        taken = {int(entry["Id"]) for entry in answer.get("Successful", ())}
        # What the answer does not name was not taken, as far as we know.
        missing = set(range(len(items))) - taken
        outcomes: dict[int, Outcome] = {position: Retry(reason="the answer does not name it") for position in missing}
        for failed in answer.get("Failed", ()):
            code, words = str(failed.get("Code", "")), str(failed.get("Message", ""))
            fault = whose_fault_of_one(code, sender_fault=bool(failed.get("SenderFault")))
            if fault == "us":
                raise self._aws.refused(code, words)
            passing = fault == "passing"
            outcomes[int(failed["Id"])] = Retry(reason=code) if passing else Rejected(code + self._aws.reason(words))
        return outcomes

    def _entry(self, id: str, item: Item) -> dict[str, Any]:
        assert isinstance(item, _Message)
        entry: dict[str, Any] = {
            "Id": id,
            self.body_parameter: item.text,
            "MessageAttributes": {
                name: {"DataType": "String", "StringValue": value} for name, value in item.attributes.items()
            },
        }
        if self._fifo:
            entry |= {"MessageGroupId": item.group, "MessageDeduplicationId": item.event.id}
        return entry


class Sqs(Messages):
    """
    Sends to one queue, in order, ten messages a request.

    A FIFO queue (its URL ends in ``.fifo``) drops what comes again within five minutes, by the event's id, and keeps
    the order within a group (`group`); two messages of one group never share a request, because one may fail while the
    other is taken, so with ``table`` a request often holds one message. A standard queue keeps order as well as it can
    and drops nothing: consumers tell duplicates by the attribute ``id``.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(MessageOptions):
        """Options of one queue; the role needs ``sqs:SendMessage``, and of an encrypted queue its key."""

        queue_url: str
        """Such as ``https://sqs.eu-west-1.amazonaws.com/123456789012/events.fifo``."""
        max_message_bytes: int = _MIB
        """Of a message, and of all in a request; the queue's MaximumMessageSize where that is lower."""

        def __post_init__(self) -> None:
            AwsOptions.__post_init__(self)
            try:
                check_url(self.queue_url)
            except ValueError as error:
                raise ValueError(f"queue_url (queueUrl) {error}") from error
            if not urlsplit(self.queue_url).path.strip("/"):
                raise ValueError("queue_url (queueUrl) names no queue")
            if not 1024 <= self.max_message_bytes <= _MIB:
                raise ValueError(f"max_message_bytes must be from 1024 to {_MIB}")

    vendor = "SQS"
    limits = message_limits(_MIB)
    operation = "send_message_batch"
    target_parameter, entries_parameter, body_parameter = "QueueUrl", "Entries", "MessageBody"

    def __init__(self, name: str, config: Config) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
        """
        self.config = config
        aws = AwsClient(
            name, "sqs", config, endpoint=check_url(config.queue_url), region=queue_region(config.queue_url)
        )
        super().__init__(name, config, aws, config.queue_url, config.max_message_bytes)


def queue_region(url: str) -> str | None:
    """The region a queue's URL at AWS names."""
    match = re.search(r"\b([a-z]{2}(?:-[a-z]+)+-\d)\.(?:[a-z.]*\.)?(?:amazonaws\.com|api\.aws)\b", urlsplit(url).netloc)
    return match[1] if match else None


def group_id(event: Deliverable, by: Literal["table", "row", "distinct_id"]) -> str:
    """
    The group whose messages keep their order.

    Args:
        event: See there.
        by: What makes the group; see `MessageOptions`.
    """
    source = event.source
    table = f"{source['schema']}.{source['table']}" if "table" in source else f"message.{source.get('prefix', '')}"
    group = table
    if by == "distinct_id" and event.distinct_id:
        group = event.distinct_id
    elif by == "row" and isinstance(event, RawChange) and event.document.get("key"):
        group = f"{table}:{orjson.dumps(event.document['key']).decode()}"
    # Digests of what does not fit; a group's name is seen by nobody but the queue.
    return group if _GROUP_ID.fullmatch(group) else hashlib.sha256(group.encode()).hexdigest()
