"""
An append-only, hash-chained audit trail: the audit-stream server.

See: https://github.com/mizcausevic-dev/audit-stream-py
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import orjson

from wal_tracker.destinations.base import BatchRefused, Limits, Mark, Receipt
from wal_tracker.destinations.http import Answer, HttpOptions
from wal_tracker.errors import DestinationRefusedUs, DestinationUnavailable
from wal_tracker.model import Deliverable
from wal_tracker_destinations.batches import JSON, vendor_url
from wal_tracker_destinations.exact import exact_properties

logger = logging.getLogger("wal_tracker.destinations.audit_stream")

Kind = Literal[
    "decision_card_drafted",
    "decision_card_signed",
    "decision_card_status_changed",
    "policy_bundle_registered",
    "request_denied",
    "request_allowed",
    "contract_promoted",
    "contract_deprecated",
    "contract_compatibility_failed",
    "watch_created",
    "watch_drifted",
    "watch_validity_flipped",
    "incident_filed",
    "remediation_planned",
    "attestation_verified",
    "attestation_tampered",
    "flag_swapped",
    "shadow_divergence_recorded",
    "tool_invocation_allowed",
    "tool_invocation_denied",
    "tool_invocation_required_approval",
    "other",
]

# How far back to look while no event of ours is known to be there: more than are sent between two stored positions.
_FIRST_LOOK_EVENTS = 1000
_MAX_LOOK_EVENTS = 100_000
"""The server gives no more at once."""
_MAX_ANSWER_BYTES = 16 * 1024 * 1024


class AuditStream:
    """
    Appends each event to the chain, one after the other in the order of commits.

    The server drops no duplicates and an event that is in the chain stays there, so before anything is sent that may
    be there already (the first event after a start, and whatever comes after a failure) the destination reads what its
    `source` has appended since the last event it knows of, and passes over the ids it finds. An event is there twice
    only where the server processed a request after that look. Let no other writer use the same `source`.

    A 422 or 400 makes the event a dead letter. The server keeps its chain in memory; that it has lost it is told in
    the log.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(HttpOptions):
        """Options of one chain; the server knows no credentials, so keep it to a private network."""

        endpoint: str
        """The server's base URL, such as ``http://audit:8093``."""
        source: str = "wal_tracker"
        """Who writes; one for each wal_tracker that appends to the chain."""
        kinds: Mapping[str, Kind] = field(default_factory=dict)
        """The audit-stream kind of events, by their name; every other event is of kind ``other``."""

        def __post_init__(self) -> None:
            HttpOptions.__post_init__(self)
            if not self.source.strip():
                raise ValueError("source must not be empty")
            try:
                self.url()
            except ValueError as error:
                raise ValueError(f"endpoint {error}") from error

        def url(self) -> str:
            """Where events are appended and read."""
            return vendor_url(self.endpoint, {}, "/events")

    # The server knows no limit, but answers with the event, and what we read of an answer is limited.
    max_event_bytes = 4_000_000
    limits = Limits(max_batch_events=1, max_batch_bytes=1024 * 1024, linger_s=0.0)
    accepts_raw: ClassVar[bool] = True

    def __init__(self, name: str, config: Config) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
        """
        self.name, self.config = name, config
        self._http = config.client(name, config.url(), max_answer_bytes=_MAX_ANSWER_BYTES)
        self._last: int | None = None
        """The chain's number of the last event we know to be there."""
        self._there: frozenset[str] | None = None
        """Ids of what may come again and is there; None: look before the next is sent."""

    def open(self, mark: Mark | None) -> None:
        """Take up the number that was stored with the position; everything after it is looked at before it is sent."""
        self._http.check_address()
        self._last = None if mark is None else int(mark["event_id"])
        self._there = None

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        """Append the event, unless it is there already."""
        if not batch:
            return Receipt()
        (event,) = batch
        body = self._body(event)
        if self._there is None:
            self._there = self._look()
        if event.id not in self._there:
            try:
                answer = self._http.post(body, JSON)
            except DestinationUnavailable:
                self._there = None
                raise
            self._last = self._appended(answer)
        return Receipt(mark=None if self._last is None else {"event_id": self._last})

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def _body(self, event: Deliverable) -> bytes:
        """
        Raises:
            BatchRefused: It cannot be written, or is too large.
        """
        payload: dict[str, Any] = {"event": event.name, "event_id": event.id}
        if event.distinct_id is not None:
            payload["distinct_id"] = event.distinct_id
        payload["lsn"] = event.source["commit_lsn"]
        try:
            # The chain is over what the server reads, and it reads fractions as doubles.
            payload["properties"] = exact_properties(event)
        except RecursionError as error:
            raise BatchRefused("its properties nest too deeply for audit-stream") from error
        document = {
            "kind": self.config.kinds.get(event.name, "other"),
            "source": self.config.source,
            "payload": payload,
            "timestamp": event.timestamp,
        }
        try:
            # Refuses what the server would append and could then not give back: half a character, more than 254 levels.
            body = orjson.dumps(document)
        except orjson.JSONEncodeError as error:
            raise BatchRefused(f"it cannot be written as JSON for audit-stream: {error}") from error
        if len(body) > self.max_event_bytes:
            raise BatchRefused(f"it is {len(body)} bytes; audit-stream is sent no event above {self.max_event_bytes}")
        return body

    def _look(self) -> frozenset[str]:
        """Ids of the events our source has appended since the last one we know of."""
        newest = self._events({"limit": "1"})
        end = newest[-1]["event_id"] if newest else 0
        if self._last is not None and end < self._last:
            self._warn_of_loss(end)
            self._last = None
        count = _FIRST_LOOK_EVENTS if self._last is None else min(end - self._last, _MAX_LOOK_EVENTS)
        if not count or not newest:
            return frozenset()
        found = self._events({"source": self.config.source, "limit": str(count)})
        return frozenset(str(event["payload"].get("event_id")) for event in found)

    def _events(self, query: dict[str, str]) -> list[dict[str, Any]]:
        """The newest events, oldest first; fewer than asked for where that many would be too large an answer."""
        limit = int(query["limit"])
        try:
            answer = self._http.get(query)
            while len(answer.body) >= _MAX_ANSWER_BYTES and limit > 1:
                limit //= 2
                answer = self._http.get({**query, "limit": str(limit)})
        except BatchRefused as refusal:
            # Of what we ask, not of the event that waits for the answer.
            raise DestinationRefusedUs(
                self.name, f"{self._http.origin} does not let us read events: {refusal.reason}; check the endpoint"
            ) from refusal
        try:
            events: list[dict[str, Any]] = orjson.loads(answer.body)
            if all(isinstance(event["event_id"], int) and isinstance(event["payload"], dict) for event in events):
                return events
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise self._is_something_else(answer) from error
        raise self._is_something_else(answer)

    def _appended(self, answer: Answer) -> int:
        """The chain's number of what was just appended."""
        try:
            document = orjson.loads(answer.body)
            number, _ = int(document["event_id"]), bytes.fromhex(document["hash"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise self._is_something_else(answer) from error
        if self._last is not None and number <= self._last:
            self._warn_of_loss(number)
        return number

    def _is_something_else(self, answer: Answer) -> DestinationRefusedUs:
        return DestinationRefusedUs(
            self.name, f"{self._http.origin} answered {answer.status}, but not as audit-stream does; check the endpoint"
        )

    def _warn_of_loss(self, number: int) -> None:
        logger.warning(
            "the audit stream has lost events it had taken (it keeps them in memory); its chain has begun anew",
            extra={"destination": self.name, "event_id": number, "last_event_id": self._last},
        )
