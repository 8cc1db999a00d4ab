"""
What the vendors of product analytics share: events about somebody, many in a request, each refused for its own reason.

An event that says who somebody is (`identify`, `group`) may be several items to a vendor. They have ids of their own,
made of the event's; the event is durable when all of them are.

A batch is cut by the events' own JSON, a vendor's limit is on the vendor's. So one batch may take several requests;
they go one after the other, and what comes after one that was not taken waits for it.
"""

from __future__ import annotations

import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar
from urllib.parse import urlsplit

import orjson

from wal_tracker.destinations.base import BatchRefused, Limits, Mark, Outcome, Receipt, Rejected, Retry
from wal_tracker.destinations.http import HttpClient, check_url
from wal_tracker.errors import DestinationUnavailable
from wal_tracker.model import GROUP_IDENTIFY, IDENTIFY, Deliverable, Group

JSON = {"Content-Type": "application/json"}

# Braces, key, time and options around the events of a request.
_ENVELOPE_BYTES = 1024

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:[Zz]|([+-]\d\d:\d\d))", re.ASCII)


class Unfit(Exception):
    """The vendor would refuse this event, or lose it without a word; the text says why, and the remedy."""


@dataclass(frozen=True, slots=True)
class Item:
    """An event, or a part of what it says, as the vendor wants it."""

    event: Deliverable
    body: bytes
    route: str = ""
    """Where it goes, for a vendor that takes events and profiles at different places."""

    @property
    def size(self) -> int:
        """Bytes, as the vendor counts them."""
        return len(self.body)


class Batches(ABC):
    """Makes items of events, sorts out what the vendor would not keep, and sends the rest in as few requests as go."""

    limits: Limits
    accepts_raw: ClassVar[bool] = False
    vendor: ClassVar[str]
    """Its name, for reasons."""
    max_event_bytes: int
    """A larger item is a dead letter."""
    max_request_bytes: int
    """Of a body, before compression."""

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        """Send what the vendor would keep; name what it would not, and what must come again."""
        outcomes: dict[int, Outcome] = {}
        items: list[tuple[int, Item]] = []
        for index, event in enumerate(batch):
            try:
                items += [(index, item) for item in self._fit(event)]
            except Unfit as reason:
                outcomes[index] = Rejected(str(reason))
        stored = False
        again: Retry | None = None
        for request in self._requests(items):
            if again is None:
                try:
                    said = self._send([item for _, item in request])
                except (DestinationUnavailable, BatchRefused) as error:
                    if not stored:
                        raise
                    # What came before is durable, so this must not be told of the batch. It comes again as the first.
                    again = _later(error)
                else:
                    stored = True
                    for position, outcome in said.items():
                        _note(outcomes, request[position][0], outcome)
                    again = next((outcome for outcome in said.values() if isinstance(outcome, Retry)), None)
                    continue
            for index, _ in request:
                _note(outcomes, index, again)
        return Receipt(outcomes)

    @abstractmethod
    def _fit(self, event: Deliverable) -> Sequence[Item]:
        """
        The event as the vendor wants it: one item, or several in the order they are to be taken.

        Raises:
            Unfit: The vendor would not keep it.
        """

    @abstractmethod
    def _send(self, items: Sequence[Item]) -> Mapping[int, Outcome]:
        """
        Make one request of items, or several of the same.

        Returns:
            What was not taken, by position; no item behind one that must come again may have been.

        Raises:
            DestinationUnavailable, DestinationRefusedUs, BatchRefused: As `deliver`; nothing of the items was stored.
        """

    def _within(self, item: Item) -> Item:
        """
        The same item.

        Raises:
            Unfit: It is larger than the vendor takes.
        """
        if item.size > self.max_event_bytes:
            raise Unfit(f"it is {item.size} bytes; {self.vendor} takes no event above {self.max_event_bytes}")
        return item

    def _requests(self, items: Sequence[tuple[int, Item]]) -> Iterator[Sequence[tuple[int, Item]]]:
        """The items in runs that fit a request."""
        begin = size = 0
        for end, (_, item) in enumerate(items):
            more = item.size + 1
            if end > begin and size + more > self.max_request_bytes - _ENVELOPE_BYTES:
                yield items[begin:end]
                begin, size = end, 0
            size += more
        if items:
            yield items[begin:]

    def _person(self, event: Deliverable, longest: int) -> str:
        """
        Whom the event is about.

        Never an empty text and never a made-up one: a vendor would take all such events for one person's.

        Args:
            event: See there.
            longest: The vendor cuts or drops an id of more characters.

        Raises:
            Unfit: Nobody, or somebody whose id the vendor would change.
        """
        who = event.distinct_id
        if not who or not who.strip():
            raise Unfit(
                f"it has no distinct_id, which {self.vendor} requires: give the rule a `distinct_id`, or a property "
                "`distinct_id` or `user_id`"
            )
        if len(who) > longest:
            raise Unfit(
                f"its distinct_id is longer than {longest} characters; {self.vendor} would cut it and mix up persons"
            )
        return who

    def _group(self, event: Deliverable, longest: int) -> Group | None:
        """
        The group the event belongs to.

        Raises:
            Unfit: Its type or id is longer than the vendor keeps.
        """
        group = event.group
        if group is not None and max(len(group.type), len(group.id)) > longest:
            raise Unfit(f"its group's type or id is longer than {longest} characters")
        return group

    def _event_name(self, event: Deliverable, longest: int) -> str:
        """
        What happened.

        Raises:
            Unfit: It has no name, or one that is longer than the vendor keeps.
        """
        if not event.name.strip():
            raise Unfit(f"it has no name, which {self.vendor} requires")
        if len(event.name) > longest:
            raise Unfit(f"its name is longer than {longest} characters")
        return event.name


class HttpBatches(Batches):
    """The same over one URL, with events as JSON objects."""

    def __init__(self, name: str, http: HttpClient) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            http: To the vendor's one URL.
        """
        self.name, self._http = name, http

    def open(self, mark: Mark | None) -> None:  # noqa: ARG002 - the vendor keeps what it has
        """Refuse an address that is not allowed before the first event."""
        self._http.check_address()

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    @abstractmethod
    def _item(self, event: Deliverable) -> dict[str, Any]:
        """
        The event as the vendor wants it.

        Raises:
            Unfit: The vendor would not keep it.
        """

    def _parts(self, event: Deliverable) -> Iterator[tuple[str, dict[str, Any]]]:
        """
        Every item the event is, each with its `Item.route`, in the order they are to be taken; by default the one.

        Raises:
            Unfit: As `_item`.
        """
        yield "", self._item(event)

    def _fit(self, event: Deliverable) -> Sequence[Item]:
        try:
            return [self._written(event, route, document) for route, document in self._parts(event)]
        except RecursionError as error:
            raise Unfit(f"its properties nest too deeply for {self.vendor}") from error

    def _written(self, event: Deliverable, route: str, document: dict[str, Any]) -> Item:
        try:
            return self._within(Item(event, orjson.dumps(document), route))
        except orjson.JSONEncodeError as error:
            raise Unfit(f"it cannot be written as JSON for {self.vendor}: {error}") from error


def is_profile_only(event: Deliverable) -> bool:
    """Whether it tells of no happening: all it has is what it says of a person or a group."""
    return (
        event.name in (IDENTIFY, GROUP_IDENTIFY)
        and not event.properties
        and (event.identify is not None or event.group is not None)
    )


def part_id(event: Deliverable, part: str) -> str:
    """
    The id of what an event says of a person or a group, where that is an item of its own: the same on every replay.

    The event's own id goes to the item that tells what happened; where nothing did, to the first.

    Args:
        event: See there.
        part: ``identify`` or ``group``.
    """
    first = "identify" if event.identify is not None else "group"
    return event.id if is_profile_only(event) and part == first else str(uuid.uuid5(uuid.UUID(event.id), part))


def epoch_ms(event: Deliverable) -> int:
    """
    When it happened, in whole milliseconds since 1970; what is finer is cut off, the same way each time.

    Raises:
        Unfit: The rule's `timestamp` gave a text that is not RFC 3339.
    """
    return epoch_ns(event) // 1_000_000


def epoch_us(event: Deliverable) -> int:
    """
    When it happened, in whole microseconds since 1970; what is finer is cut off.

    Raises:
        Unfit: As `epoch_ms`.
    """
    return epoch_ns(event) // 1000


def epoch_ns(event: Deliverable) -> int:
    """
    When it happened, in nanoseconds since 1970.

    Raises:
        Unfit: As `epoch_ms`.
    """
    moment = _ns_of(event.timestamp)
    if moment is None:
        raise Unfit("its timestamp is not RFC 3339 (2026-01-02T03:04:05Z); mend the rule's `timestamp`")
    return moment


# Events of a transaction share its time, and come to several destinations.
@lru_cache(maxsize=4096)
def _ns_of(timestamp: str) -> int | None:
    match = _RFC3339.fullmatch(timestamp)
    if not match:
        return None
    try:
        seconds = datetime.fromisoformat(f"{match[1]}T{match[2]}{match[4] or '+00:00'}").timestamp()
    except ValueError:
        return None
    return int(seconds) * 1_000_000_000 + int(((match[3] or "") + "0" * 9)[:9])


def vendor_url(given: str, regions: Mapping[str, str], path: str) -> str:
    """
    The URL to post to, for an endpoint as people write it.

    Args:
        given: A region, or the URL of a host.
        regions: Their hosts.
        path: On that host.

    Raises:
        ValueError: It is neither.
    """
    url = regions.get(given.lower(), given)
    try:
        check_url(url)
    except ValueError as error:
        raise ValueError(f"{error}; or one of {', '.join(regions)}" if regions else str(error)) from error
    if urlsplit(url).query or urlsplit(url).fragment:
        raise ValueError("is a host's URL, without ? and #")
    return url.rstrip("/").removesuffix(path) + path


def _note(outcomes: dict[int, Outcome], index: int, outcome: Outcome) -> None:
    """An event of which one item was refused and another must come again comes again, and is refused then."""
    if not isinstance(outcomes.get(index), Retry):
        outcomes[index] = outcome


def _later(error: DestinationUnavailable | BatchRefused) -> Retry:
    if isinstance(error, DestinationUnavailable):
        return Retry(error.retry_after_s, error.message)
    return Retry(0.0, "a later request of the batch was refused")
