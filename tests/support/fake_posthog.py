"""PostHog's capture endpoint as the Rust service behaves (v0): one bad event refuses the whole batch."""

from __future__ import annotations

import uuid
from typing import Any

import orjson

from tests.support.http_server import HttpServer, Reply, Request

MAX_BODY_BYTES = 20 * 1024 * 1024


class FakePostHog(HttpServer):
    """
    Takes ``/batch/``. `stored` holds events by what PostHog deduplicates on: day, event, distinct_id, uuid.

    See: https://posthog.com/docs/api/capture
    """

    def __init__(self, *, key: str = "phc_test") -> None:
        super().__init__(max_body_bytes=MAX_BODY_BYTES)
        self.key = key

    @property
    def uuids(self) -> list[str]:
        """Of the events stored, in order of arrival."""
        return [event["uuid"] for event in self.stored.values()]

    def handle(self, request: Request) -> Reply:
        if request.path != "/batch/":
            return Reply(404, b"not found")
        try:
            document = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            return Reply(400, b"failed to parse JSON")
        key = document.get("api_key", "")
        if not key.startswith("phc_") or key != self.key:
            return Reply(401, f"API key {key} is invalid".encode())
        events = document.get("batch", [])
        if not events:
            return Reply(400, b"request holds no event")
        for event in events:
            fault = self._fault(event)
            if fault:
                return Reply(400, fault)
        for event in events:
            day = event["timestamp"][:10]
            self.stored[day, event["event"], event["distinct_id"], event["uuid"]] = event
        return Reply(200, b'{"status":"Ok"}')

    @staticmethod
    def _fault(event: dict[str, Any]) -> bytes:
        if not event.get("event"):
            return b"event has empty name"
        if not event.get("distinct_id") and not event.get("properties", {}).get("distinct_id"):
            return b"missing distinct_id"
        try:
            uuid.UUID(event.get("uuid", ""))
        except ValueError:
            return b"bad uuid"
        return b""
