"""
Product analytics in Amplitude, by its batch endpoint or by HTTP V2.

See: https://amplitude.com/docs/apis/analytics/batch-event-upload
See: https://amplitude.com/docs/apis/analytics/http-v2
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import orjson

from wal_tracker.destinations.base import Limits, Outcome, Rejected, Retry
from wal_tracker.destinations.http import Answer, HttpOptions, retry_after_s
from wal_tracker.errors import DestinationRefusedUs, DestinationUnavailable
from wal_tracker.model import Deliverable, Group
from wal_tracker.secret import Secret
from wal_tracker_destinations.batches import (
    JSON,
    HttpBatches,
    Item,
    epoch_ms,
    is_profile_only,
    part_id,
    vendor_url,
)

_REGIONS = {"us": "https://api2.amplitude.com", "eu": "https://api.eu.amplitude.com"}
_PATHS = {"batch": "/batch", "httpapi": "/2/httpapi"}

# Strings are cut to this.
_MAX_TEXT = 1024

# "Pause sending events for that user or device for a period of 30 seconds" (HTTP V2, 429).
_THROTTLED_S = 30.0

# Each holds indexes of events that will never be taken, by the name of a field.
_INVALID = ("events_with_invalid_fields", "events_with_missing_fields", "events_with_invalid_id_lengths")


class Amplitude(HttpBatches):
    """
    Sends events in batches; Amplitude drops what repeats an ``insert_id`` within seven days.

    A 400 or 429 has stored nothing. What it names as invalid becomes a dead letter and the rest is sent at once. From
    the first event of a throttled user on everything waits, so that order is kept; a user beyond the daily quota
    would hold up everybody for hours, so that user's events are dead letters that can be replayed the next day. An
    event without a distinct_id is a dead letter, unless all it has to say is about a group.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(HttpOptions):
        """Options of one project."""

        api_key: Secret
        """The project's key; it can write events and nothing else."""
        endpoint: str = "https://api2.amplitude.com"
        """``us``, ``eu``, or a URL."""
        api: Literal["batch", "httpapi"] = "batch"
        """
        ``batch`` takes 20 MB a request and 1000 events a second of one user; ``httpapi`` (HTTP V2) 1 MB and 30, so
        that a batch is 500 events and 800 kB at most.
        """

        def __post_init__(self) -> None:
            HttpOptions.__post_init__(self)
            if not self.api_key.reveal().strip():
                raise ValueError("api_key (apiKey) must not be empty; is its environment variable set?")
            try:
                self.url()
            except ValueError as error:
                raise ValueError(f"endpoint {error}") from error

        def url(self) -> str:
            """Where batches go."""
            return vendor_url(self.endpoint, _REGIONS, _PATHS[self.api])

    vendor = "Amplitude"
    # Both take 2000 events a request (one of ours may be two), and 100 requests a second. Compressed requests are not
    # documented, so none are sent.
    limits = Limits(max_batch_events=1000, max_batch_bytes=4 * 1024 * 1024, linger_s=0.5, concurrency=4)

    def __init__(self, name: str, config: Config) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
        """
        self.config = config
        key = config.api_key.reveal()
        super().__init__(name, config.client(name, config.url(), secrets=[key], max_answer_bytes=1024 * 1024))
        self.max_request_bytes = 19_000_000
        if config.api == "httpapi":
            self.limits = Limits(max_batch_events=500, max_batch_bytes=800_000, linger_s=0.5, concurrency=4)
            self.max_request_bytes = 950_000
        self.max_event_bytes = self.max_request_bytes - 10_000
        self._library = f"wal_tracker/{version('wal_tracker')}"

    def _item(self, event: Deliverable) -> dict[str, Any]:
        happened = not is_profile_only(event)
        group = self._group(event, _MAX_TEXT)
        item = {
            "user_id": self._person(event, _MAX_TEXT),
            "event_type": self._event_name(event, _MAX_TEXT) if happened else "$identify",
            "time": epoch_ms(event),
            "insert_id": event.id,
        }
        if happened:
            item["event_properties"] = event.properties
        if event.identify is not None:
            item["user_properties"] = {"$set": event.identify}
        if group is not None:
            item["groups"] = {group.type: group.id}
        return {**item, "library": self._library}

    def _parts(self, event: Deliverable) -> Iterator[tuple[str, dict[str, Any]]]:
        group = self._group(event, _MAX_TEXT)
        alone = is_profile_only(event) and event.identify is None
        if group is not None and (alone or group.traits):
            yield "", {
                **self._whose(event, group),
                "event_type": "$groupidentify",
                "time": epoch_ms(event),
                "insert_id": part_id(event, "group"),
                "groups": {group.type: group.id},
                "group_properties": {"$set": group.traits},
                "library": self._library,
            }
        if not alone:
            yield "", self._item(event)

    def _whose(self, event: Deliverable, group: Group) -> dict[str, str]:
        """Every event needs a user or a device; what is said of a group may be about nobody."""
        if event.distinct_id is not None:
            return {"user_id": self._person(event, _MAX_TEXT)}
        return {"device_id": _device(group)}

    def _send(self, items: Sequence[Item]) -> Mapping[int, Outcome]:
        outcomes: dict[int, Outcome] = {}
        left = list(range(len(items)))
        while left:
            document = {
                "api_key": self.config.api_key.reveal(),
                "events": [orjson.Fragment(items[position].body) for position in left],
                # Without it ids of fewer than five characters, as most keys of tables are, are taken off the event.
                "options": {"min_id_length": 1},
            }
            answer = self._http.post(orjson.dumps(document), JSON, judged=frozenset({400, 429}))
            if answer.status not in (400, 429):
                break
            named = self._named(answer, [items[position] for position in left])
            outcomes.update((left[index], outcome) for index, outcome in named.items())
            left = [position for index, position in enumerate(left) if index not in named]
        return outcomes

    def _named(self, answer: Answer, sent: Sequence[Item]) -> dict[int, Outcome]:
        """
        What a 400 or 429 says of single events, at least of one.

        Raises:
            DestinationUnavailable, DestinationRefusedUs, BatchRefused: It speaks of the request as a whole.
        """
        try:
            document = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            # A gateway's page, not Amplitude's.
            document = None
        if not isinstance(document, dict):
            document = {}
        told = self._http.told(answer.status, answer.body)
        named = (
            self._invalid(document, told) if answer.status == 400 else self._throttled(document, sent, answer, told)
        )
        named = {index: outcome for index, outcome in named.items() if index < len(sent)}
        if named:
            return named
        if answer.status == 429:
            wait_s = retry_after_s(answer.headers, time.time())
            raise DestinationUnavailable(
                self.name,
                f"{self._http.origin} answered 429",
                retry_after_s=_THROTTLED_S if wait_s is None else wait_s,
            )
        if document.get("missing_field") == "api_key" or str(document.get("error")).startswith("Invalid API key"):
            raise DestinationRefusedUs(
                self.name, f"{self._http.origin} answered 400: it does not know the API key; check the configuration"
            )
        raise self._http.verdict(answer)

    @staticmethod
    def _invalid(document: Mapping[str, Any], told: str) -> dict[int, Outcome]:
        named: dict[int, Outcome] = {}
        for kind in _INVALID:
            fields = document.get(kind)
            for field, indexes in fields.items() if isinstance(fields, dict) else ():
                reason = f"Amplitude: {kind.replace('_', ' ').removeprefix('events with ')}: {str(field)[:100]}"
                named.update((index, Rejected(reason, told)) for index in _indexes(indexes))
        for index in _indexes(document.get("silenced_events")):
            named[index] = Rejected("Amplitude: events of its device are silenced in the project", told)
        return named

    @staticmethod
    def _throttled(
        document: Mapping[str, Any], sent: Sequence[Item], answer: Answer, told: str
    ) -> dict[int, Outcome]:
        exhausted = {**_counts(document.get("exceeded_daily_quota_users"))}
        exhausted.update(_counts(document.get("exceeded_daily_quota_devices")))
        throttled = set(_indexes(document.get("throttled_events")))
        over = Rejected("Amplitude: its user is beyond the daily quota (500,000 events); replay it in a day", told)
        named: dict[int, Outcome] = {
            index: over for index, item in enumerate(sent) if not exhausted.keys().isdisjoint(_ids(item.event))
        }
        slow = throttled - named.keys()
        if slow:
            wait_s = retry_after_s(answer.headers, time.time())
            again = Retry(_THROTTLED_S if wait_s is None else wait_s, "Amplitude throttles a user")
            named.update({index: again for index in range(min(slow), len(sent)) if index not in named})
        return named


def _device(group: Group) -> str:
    """Stands for nobody in particular; no vendor's id begins like this."""
    return f"${group.type}_{group.id}"[:_MAX_TEXT]


def _ids(event: Deliverable) -> set[str]:
    """What an event may be counted under: its user, or the device of a group."""
    return {event.distinct_id or ""} | ({_device(event.group)} if event.group is not None else set())


def _counts(given: Any) -> Mapping[str, Any]:
    return given if isinstance(given, dict) else {}


def _indexes(given: Any) -> Iterable[int]:
    return (index for index in given if isinstance(index, int) and index >= 0) if isinstance(given, list) else ()
