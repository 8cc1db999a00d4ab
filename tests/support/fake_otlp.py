"""A receiver of OTLP/HTTP logs that reads requests by the protocol's own definition."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from tests.support.fake_vendor import FakeVendor, json_reply
from tests.support.http_server import Reply, Request


class FakeOtlp(FakeVendor):
    """
    Takes ``/v1/logs``, and keeps every record that comes, as often as it comes.

    See: https://opentelemetry.io/docs/specs/otlp/#otlphttp
    """

    kind = "otlp"
    id_key = "event.id"
    max_bytes = 20 * 1024 * 1024
    deduplicates = False
    needs_somebody = False
    passing = frozenset({429, 502, 503, 504})

    def __init__(self, *, key: str = "k3y-of-the-project") -> None:
        super().__init__(key=key)
        self.partial: tuple[int, str] | None = None
        """Of every request so many records are rejected, with this message: the first ones, which it does not say."""

    @property
    def options(self) -> dict[str, Any]:
        return {"endpoint": self.url(""), "allow_private": True, "headers": {"api-key": self.key}}

    def items(self, request: Request) -> list[dict[str, Any]]:
        logs = json_format.Parse(request.body, ExportLogsServiceRequest())
        return [
            _item(record)
            for resource in logs.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def handle(self, request: Request) -> Reply:
        if request.path != "/v1/logs":
            return Reply(404, b"not found")
        if request.headers.get("api-key") != self.key:
            return json_reply(401, code=16, message="who are you?")
        if request.headers.get("content-type") != "application/json":
            return Reply(415)
        if len(request.body) > self.max_bytes:
            return json_reply(413, message="too large")
        try:
            items = self.items(request)
        except json_format.ParseError as error:
            return json_reply(400, code=3, message=str(error))
        if any(item["event.id"] in self.poison for item in items):
            return json_reply(400, code=3, message="one of these will not do")
        rejected, message = self.partial or (0, "")
        for item in items[rejected:]:
            self.stored[len(self.stored)] = item
        if self.partial is not None:
            return json_reply(200, partialSuccess={"rejectedLogRecords": str(rejected), "errorMessage": message})
        return json_reply(200)


def _item(record: Any) -> dict[str, Any]:
    attributes = _mapping(record.attributes)
    return {
        "event.id": attributes["event.id"],
        "name": record.event_name,
        "time": record.time_unix_nano,
        "observed": record.observed_time_unix_nano,
        "severity": (record.severity_number, record.severity_text),
        "attributes": attributes,
        "properties": _value(record.body),
    }


def _mapping(pairs: Any) -> dict[str, Any]:
    found = {pair.key: _value(pair.value) for pair in pairs}
    assert len(found) == len(pairs), "a key comes twice"
    return found


def _value(value: Any) -> Any:
    """An AnyValue as Python has it."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _mapping(value.kvlist_value.values)
    return getattr(value, kind)
