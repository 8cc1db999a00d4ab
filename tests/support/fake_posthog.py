"""PostHog's capture endpoint as the Rust service behaves (v0): one bad event refuses the whole batch."""

from __future__ import annotations

import uuid
from typing import Any

from tests.support.fake_vendor import FakeVendor, parsed
from tests.support.http_server import Reply, Request


class FakePostHog(FakeVendor):
    """
    Takes ``/batch/``. `stored` holds events by what PostHog deduplicates on: day, event, distinct_id, uuid.

    See: https://posthog.com/docs/api/capture
    """

    kind = "posthog"
    id_key = "uuid"
    max_bytes = 20 * 1024 * 1024

    def __init__(self, *, key: str = "phc_test") -> None:
        super().__init__(key=key)

    @property
    def options(self) -> dict[str, Any]:
        return {"apiKey": self.key, "endpoint": self.url(""), "allow_private": True}

    def items(self, request: Request) -> list[dict[str, Any]]:
        return list(request.json()["batch"])

    def handle(self, request: Request) -> Reply:
        if request.path != "/batch/":
            return Reply(404, b"not found")
        if len(request.body) > self.max_bytes:
            return Reply(413, b"too large")
        document = parsed(request)
        if document is None:
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
            self.stored.setdefault((day, event["event"], event["distinct_id"], event["uuid"]), event)
        return Reply(200, b'{"status":"Ok"}')

    def _fault(self, event: dict[str, Any]) -> bytes:
        if not event.get("event"):
            return b"event has empty name"
        if not event.get("distinct_id") and not event.get("properties", {}).get("distinct_id"):
            return b"missing distinct_id"
        try:
            uuid.UUID(event.get("uuid", ""))
        except ValueError:
            return b"bad uuid"
        return b"this event will not do" if event["uuid"] in self.poison else b""
