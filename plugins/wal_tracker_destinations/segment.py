"""
Segment, by its batch endpoint, and the protocol it shares with others: messages with an id, about a user.

See: https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any, ClassVar

import orjson

from wal_tracker.destinations.base import Limits, Outcome
from wal_tracker.destinations.http import TRANSIENT, HttpOptions
from wal_tracker.model import Deliverable
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

# https://segment.com/docs/guides/regional-segment/
_REGIONS = {"us": "https://api.segment.io", "eu": "https://events.eu1.segmentapis.com"}

# Neither documents a bound; a text this long is a mistake in a rule, and both index it.
_MAX_TEXT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteKeyOptions(HttpOptions):
    """Options of a source that is named by a write key."""

    write_key: Secret
    """The source's; it can write events and nothing else."""

    def __post_init__(self) -> None:
        HttpOptions.__post_init__(self)
        if not self.write_key.reveal().strip():
            raise ValueError("write_key (writeKey) must not be empty; is its environment variable set?")


class Tracks(HttpBatches):
    """
    Sends ``track`` calls, and ``identify`` and ``group`` calls before them; duplicates are dropped by ``messageId``.

    A group's type, for which the protocol has no field, is ``context.groupType``.
    """

    transient: ClassVar[frozenset[int]] = TRANSIENT
    """Statuses below 500 after which the same is sent again."""

    def __init__(
        self, name: str, config: WriteKeyOptions, url: str, *, gzip: bool, clock: Callable[[], float] = time.time
    ) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
            url: Of the batch endpoint.
            gzip: Compress requests.
            clock: Seconds since the Unix epoch; a test may give its own.
        """
        key = config.write_key.reveal()
        # The key is a user without a password; the colon belongs to it.
        basic = base64.b64encode(f"{key}:".encode()).decode()
        headers = {"Authorization": f"Basic {basic}"}
        super().__init__(
            name, config.client(name, url, headers=headers, secrets=[key, basic], transient=self.transient)
        )
        self._gzip, self._clock = gzip, clock
        self._context = {"library": {"name": "wal_tracker", "version": version("wal_tracker")}}

    def _item(self, event: Deliverable) -> dict[str, Any]:
        group = self._group(event, _MAX_TEXT)
        belongs = {} if group is None else {"groupId": group.id, "groupType": group.type}
        told = {"event": self._event_name(event, _MAX_TEXT), "properties": event.properties}
        return self._message(event, "track", event.id, told, belongs)

    def _parts(self, event: Deliverable) -> Iterator[tuple[str, dict[str, Any]]]:
        group = self._group(event, _MAX_TEXT)
        if event.identify is not None:
            yield "", self._identify(event, event.identify)
        if group is not None:
            told = {"groupId": group.id, "traits": group.traits}
            yield "", self._message(event, "group", part_id(event, "group"), told, {"groupType": group.type})
        if not is_profile_only(event):
            yield "", self._item(event)

    def _identify(self, event: Deliverable, traits: dict[str, Any]) -> dict[str, Any]:
        return self._message(event, "identify", part_id(event, "identify"), {"traits": traits}, {})

    def _message(
        self, event: Deliverable, kind: str, message_id: str, told: Mapping[str, Any], context: Mapping[str, Any]
    ) -> dict[str, Any]:
        # A time that cannot be read is answered with 200 and replaced by theirs: refused here.
        epoch_ms(event)
        return {
            "type": kind,
            "messageId": message_id,
            "userId": self._person(event, _MAX_TEXT),
            "timestamp": event.timestamp,
            **told,
            "context": {**self._context, **context},
        }

    def _send(self, items: Sequence[Item]) -> Mapping[int, Outcome]:
        # Of this attempt: they correct every timestamp by the difference between this and their own clock.
        sent_at = datetime.fromtimestamp(self._clock(), timezone.utc).isoformat(timespec="milliseconds")
        document = {
            "batch": [orjson.Fragment(item.body) for item in items],
            "sentAt": sent_at.replace("+00:00", "Z"),
        }
        self._http.post(orjson.dumps(document), JSON, gzip=self._gzip)
        return {}


class Segment(Tracks):
    """
    Sends ``track``, ``identify`` and ``group`` calls to one source; Segment drops duplicates by ``messageId``, for at
    least a day. Each call needs a distinct_id, a ``group`` call as well: it is a person that belongs to the group.

    It answers 200 to nearly everything, and drops what it does not like. So what it documents as a limit is checked
    here first, and becomes a dead letter with its reason, as does an event without a distinct_id.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(WriteKeyOptions):
        """Options of one source."""

        endpoint: str = "https://api.segment.io"
        """``us``, ``eu``, or a URL; data of a workspace in another region is refused."""
        gzip: bool = False
        """Compress requests."""

        def __post_init__(self) -> None:
            WriteKeyOptions.__post_init__(self)
            try:
                self.url()
            except ValueError as error:
                raise ValueError(f"endpoint {error}") from error

        def url(self) -> str:
            """Where batches go."""
            return vendor_url(self.endpoint, _REGIONS, "/v1/batch")

    vendor = "Segment"
    # Segment takes 500 KB and 2500 messages a request, 32 KB a message; its own libraries send 100, and up to 475 000.
    # It advises to stay below 1000 requests a second for a workspace.
    limits = Limits(max_batch_events=100, max_batch_bytes=400_000, linger_s=0.5, concurrency=4)
    max_event_bytes = 32 * 1024
    max_request_bytes = 475_000
    # As Segment's own libraries (analytics-python, client.py).
    transient: ClassVar[frozenset[int]] = TRANSIENT | {410, 460}

    def __init__(self, name: str, config: Config, *, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
            clock: Seconds since the Unix epoch; a test may give its own.
        """
        self.config = config
        super().__init__(name, config, config.url(), gzip=config.gzip, clock=clock)
