"""audit-stream in the test's own process; held against the real one in tests/unit/destinations/test_audit_stream.py."""

from __future__ import annotations

import hashlib
import json
from typing import Any, get_args

import orjson

from tests.support.fake_vendor import FakeVendor, json_reply, parsed
from tests.support.http_server import Reply, Request
from wal_tracker_destinations.audit_stream import Kind

_KEYS = {"kind", "source", "payload", "timestamp"}


class FakeAuditStream(FakeVendor):
    """
    Takes and gives ``/events``. Keeps whatever comes, as often as it comes: that nothing is there twice is ours.

    See: https://github.com/mizcausevic-dev/audit-stream-py
    """

    kind = "audit_stream"
    id_key = "event_id"
    max_events = 1
    looks_first = True
    needs_somebody = False

    @property
    def options(self) -> dict[str, Any]:
        return {"endpoint": self.url(""), "allow_private": True}

    @property
    def ids(self) -> list[str]:
        return [event["payload"]["event_id"] for event in list(self.stored.values())]

    def secrets(self, request: Request) -> list[str]:
        return []

    def follows_script(self, request: Request) -> bool:
        return request.method == "POST"

    def items(self, request: Request) -> list[dict[str, Any]]:
        return [request.json()["payload"]] if request.method == "POST" else []

    def handle(self, request: Request) -> Reply:
        # The server knows no credentials: a key that was changed stands for an endpoint that was.
        if request.path != "/events" or self.key != "k3y-of-the-project":
            return json_reply(404, detail="Not Found")
        if request.method == "GET":
            return self._read(request)
        event = parsed(request) if "content-encoding" not in request.headers else None
        if not isinstance(event, dict):
            return json_reply(422, detail=[{"type": "json_invalid", "loc": ["body", 0], "msg": "JSON decode error"}])
        if event.keys() - _KEYS or event.get("kind") not in get_args(Kind) or not event.get("source"):
            return json_reply(422, detail=[{"type": "literal_error", "loc": ["body", "kind"], "msg": "no"}])
        if event["payload"].get("event_id") in self.poison:
            return json_reply(422, detail=[{"type": "dict_type", "loc": ["body", "payload"], "msg": "no"}])
        kept = list(self.stored.values())
        body = {**event, "event_id": len(kept) + 1, "prev_hash": kept[-1]["hash"] if kept else "0" * 64}
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        made = {**body, "hash": hashlib.sha256(canonical).hexdigest()}
        self.stored[made["event_id"]] = made
        return json_reply(201, **made)

    def _read(self, request: Request) -> Reply:
        limit = int(request.query.get("limit", ["1000"])[0])
        if not 1 <= limit <= 100_000:
            return json_reply(400, detail="limit must be in 1..100000")
        sources = request.query.get("source")
        events = [event for event in list(self.stored.values()) if sources is None or event["source"] in sources]
        return Reply(200, orjson.dumps(events[-limit:]), {"Content-Type": "application/json"})
