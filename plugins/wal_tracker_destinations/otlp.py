"""
Events as OpenTelemetry log records, by OTLP/HTTP in JSON: a Collector, or any backend that speaks OTLP.

See: https://opentelemetry.io/docs/specs/otlp/#otlphttp
See: https://opentelemetry.io/docs/specs/otel/logs/data-model/
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, ClassVar, Literal

import orjson

from wal_tracker.destinations.base import Limits, Outcome, Rejected
from wal_tracker.destinations.http import ABOUT_THE_EVENTS, Answer, HttpOptions, check_headers, check_url
from wal_tracker.errors import DestinationRefusedUs
from wal_tracker.model import Deliverable
from wal_tracker.secret import Secret
from wal_tracker_destinations.batches import JSON, HttpBatches, Item, Unfit, epoch_ns, vendor_url
from wal_tracker_destinations.exact import exact_properties

logger = logging.getLogger("wal_tracker.destinations.otlp")

# https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
_SEVERITIES = {"TRACE": 1, "DEBUG": 5, "INFO": 9, "WARN": 13, "ERROR": 17, "FATAL": 21}

# "All other 4xx or 5xx response status codes MUST NOT be retried" (OTLP 1.x, "Retryable Response Codes").
_TRANSIENT = frozenset({429})
_PASSING = frozenset({502, 503, 504})
_REFUSALS = ABOUT_THE_EVENTS | (frozenset(range(500, 600)) - _PASSING)

# A fixed64 of the protocol.
_TIMES = range(2**64)


class Otlp(HttpBatches):
    """
    Sends events as log records with an event name; the properties are the body, the id is the attribute ``event.id``.

    OTLP knows no deduplication: a record that is sent again because its answer was lost is there twice, the same byte
    for byte, and ``event.id`` tells. What is sent again is what the specification allows: 429, 502, 503, 504, and
    requests without an answer. Every other 5xx is by it an answer about these records: the batch is halved as for a
    400, and what is refused alone becomes a dead letter. A receiver that answers 500 because it is ill thus fills the
    dead letters; `wal_tracker dlq replay` sends them when it is well. 401, 403, 404 and the like stop the delivery.

    A receiver may take a request in part, and says then how many records it rejected, but not which ("partial
    success"), and must not be sent them again. So that none is lost, **all** records of that request become dead
    letters, which say how many were rejected: those that were taken are there as well, and a replay sends them twice.

    Nothing is read from ``OTEL_EXPORTER_OTLP_*`` variables by itself: they are often set for somebody else's traces.
    The configuration may name them: ``endpoint: $OTEL_EXPORTER_OTLP_ENDPOINT``.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(HttpOptions):
        """Options of one receiver."""

        endpoint: str | None = None
        """The base URL, such as ``https://collector:4318``; records go to ``/v1/logs`` below it."""
        logs_endpoint: str | None = None
        """In place of `endpoint`: the whole URL records go to, taken as it is."""
        headers: Mapping[str, Secret] = field(default_factory=dict)
        """Sent with every request, such as Authorization or the vendor's key."""
        gzip: bool = True
        """Compress requests."""
        resource_attributes: Mapping[str, str] = field(default_factory=dict)
        """Describe the sender, such as ``deployment.environment.name``; ``service.name`` is ``wal_tracker`` unless it
        is set here."""
        severity: Literal["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"] = "INFO"
        """Of every record."""

        def __post_init__(self) -> None:
            HttpOptions.__post_init__(self)
            if (self.endpoint is None) == (self.logs_endpoint is None):
                raise ValueError("needs either endpoint, a base URL, or logs_endpoint, a whole one")
            option = "endpoint" if self.logs_endpoint is None else "logs_endpoint"
            try:
                self.url()
            except ValueError as error:
                raise ValueError(f"{option} {error}") from error
            check_headers(self.headers, ours=("content-encoding", "content-type"))
            if any(not name.strip() for name in self.resource_attributes):
                raise ValueError("resource_attributes: an attribute's name must not be empty")

        def url(self) -> str:
            """Where records go."""
            if self.logs_endpoint is None:
                return vendor_url(self.endpoint or "", {}, "/v1/logs")
            check_url(self.logs_endpoint)
            return self.logs_endpoint

    accepts_raw: ClassVar[bool] = True
    vendor = "OTLP"
    # "The client MAY send requests using several parallel HTTP connections."
    limits = Limits(max_batch_events=512, max_batch_bytes=2 * 1024 * 1024, linger_s=0.5, concurrency=4)
    # A Collector takes 20 MiB, uncompressed, by default; what takes less answers 413, and the batch is halved.
    max_event_bytes = 15_000_000
    max_request_bytes = 16_000_000

    def __init__(self, name: str, config: Config) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
        """
        self.config = config
        headers = {header: value.reveal() for header, value in config.headers.items()}
        http = config.client(
            name,
            config.url(),
            headers=headers,
            secrets=list(headers.values()),
            transient=_TRANSIENT,
            refusals=_REFUSALS,
        )
        super().__init__(name, http)
        resource = {"service.name": "wal_tracker", **config.resource_attributes}
        self._resource = {"attributes": _attributes(resource)}
        self._scope = {"name": "wal_tracker", "version": version("wal_tracker")}
        self._severity = {"severityNumber": _SEVERITIES[config.severity], "severityText": config.severity}

    def _item(self, event: Deliverable) -> dict[str, Any]:
        moment = epoch_ns(event)
        if moment not in _TIMES:
            raise Unfit("its timestamp is before 1970 or after 2554, which OTLP cannot say; mend its `timestamp`")
        attributes = {"event.id": event.id}
        if event.distinct_id is not None:
            attributes["wal_tracker.distinct_id"] = event.distinct_id
        attributes.update((f"wal_tracker.{key}", value) for key, value in event.source.items() if value is not None)
        return {
            "timeUnixNano": str(moment),
            # The moment of the commit, not of this attempt: the record is the same each time.
            "observedTimeUnixNano": str(moment),
            **self._severity,
            "eventName": event.name,
            "body": any_value(exact_properties(event)),
            "attributes": _attributes(attributes),
        }

    def _send(self, items: Sequence[Item]) -> Mapping[int, Outcome]:
        records = [orjson.Fragment(item.body) for item in items]
        logs = {"resource": self._resource, "scopeLogs": [{"scope": self._scope, "logRecords": records}]}
        answer = self._http.post(orjson.dumps({"resourceLogs": [logs]}), JSON, gzip=self.config.gzip)
        rejected, said = self._partial_success(answer)
        if not rejected:
            return {}
        logger.warning(
            "the receiver took a request only in part and does not say which records it rejected; all of them become "
            "dead letters",
            extra={"destination": self.name, "records": len(items), "rejected": rejected},
        )
        reason = f"the receiver rejected {rejected} of the {len(items)} records of a request"
        if rejected < len(items):
            reason += " and does not say which, so it may have this one"
        return dict.fromkeys(range(len(items)), Rejected(reason + said))

    def _partial_success(self, answer: Answer) -> tuple[int, str]:
        """
        How many records of a request were rejected, and the receiver's words.

        Raises:
            DestinationRefusedUs: The answer is not OTLP's.
        """
        if not answer.body.strip():
            return 0, ""
        try:
            partial = orjson.loads(answer.body).get("partialSuccess") or {}
            rejected, said = int(partial.get("rejectedLogRecords") or 0), str(partial.get("errorMessage") or "")
        except (orjson.JSONDecodeError, AttributeError, TypeError, ValueError) as error:
            raise DestinationRefusedUs(
                self.name,
                f"{self._http.origin} answered {answer.status}, but not as OTLP/HTTP does in JSON; check the endpoint",
            ) from error
        # Nothing rejected and a message all the same is a warning; it is not logged, for it may repeat what was sent.
        return max(0, rejected), self._http.words(said.encode("utf-8", "replace"))


def any_value(value: Any) -> dict[str, Any]:
    """
    A JSON value as an ``AnyValue``; NULL is the one that is not set.

    See: https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/common/v1/common.proto
    """
    if value is None:
        return {}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        # 64-bit integers are decimal strings in protobuf's JSON.
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(item) for item in value]}}
    return {"kvlistValue": {"values": _attributes(value)}}


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": any_value(value)} for key, value in values.items()]
