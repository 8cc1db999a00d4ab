"""PostHog's capture endpoints as the Rust service behaves: in v0 one bad event refuses the whole batch, not in v1."""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import datetime
from typing import Any

from tests.support.fake_vendor import FakeVendor, json_reply, parsed
from tests.support.http_server import Reply, Request

# Sent with every request of v1 (rust/capture/src/v1/context.rs).
V1_HEADERS = (
    "user-agent",
    "posthog-sdk-info",
    "posthog-attempt",
    "posthog-request-id",
    "posthog-request-timestamp",
)
# Nobody is called like this; such an event is taken, and says nothing of a person.
ILLEGAL_IDS = frozenset({"0", "anonymous", "false", "guest", "id", "none", "null", "true", "undefined", "user"})
# With the person's profile switched off these are dropped at ingestion, with a warning nobody sees.
NEED_A_PROFILE = frozenset({"$identify", "$create_alias", "$groupidentify"})


class FakePostHog(FakeVendor):
    """
    Takes ``/batch/`` and ``/i/v1/analytics/events``.

    `stored` holds events by what PostHog deduplicates on: day, event, distinct_id, uuid.

    See: https://posthog.com/docs/api/capture
    See: https://github.com/PostHog/posthog/blob/master/rust/capture/src/v1/analytics/process.rs
    """

    kind = "posthog"
    has_profiles = True
    id_key = "uuid"
    max_bytes = 20 * 1024 * 1024

    def __init__(self, *, key: str = "phc_test", api: str = "v0") -> None:
        super().__init__(key=key)
        self.api = api
        self.not_persisted: Counter[str] = Counter()
        """Ids of events that v1 could not write, and for how many requests more."""

    @property
    def options(self) -> dict[str, Any]:
        api = {} if self.api == "v0" else {"api": self.api}
        return {"apiKey": self.key, "endpoint": self.url(""), "allow_private": True, **api}

    def items(self, request: Request) -> list[dict[str, Any]]:
        return list(request.json()["batch"])

    def handle(self, request: Request) -> Reply:
        if request.path == "/batch/":
            return self._batch(request)
        if request.path == "/i/v1/analytics/events":
            return self._v1(request)
        return Reply(404, b"not found")

    # v0 ------------------------------------------------------------------------------------------

    def _batch(self, request: Request) -> Reply:
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
            self._keep(event, event["properties"].get("$process_person_profile"))
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

    # v1 ------------------------------------------------------------------------------------------

    def _v1(self, request: Request) -> Reply:
        missing = [name for name in V1_HEADERS if not request.headers.get(name)]
        if missing:
            return _error(400, "missing_required_headers", f"request is missing required headers: {missing}")
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return _error(401, "invalid_api_token", "The provided API token is not valid.")
        if request.headers.get("content-type") != "application/json":
            return _error(415, "unsupported_content_type", "unsupported content type")
        if len(request.body) > self.max_bytes:
            return _error(413, "payload_too_large", "payload too large")
        document = parsed(request)
        if not isinstance(document, dict) or not _is_rfc3339(document.get("created_at")):
            return _error(400, "invalid_batch", "created_at is not valid RFC 3339")
        events = document["batch"]
        ids = [event.get("uuid") for event in events]
        if not events:
            return _error(400, "empty_batch", "request batch is empty")
        if len(ids) != len(set(ids)):
            return _error(400, "duplicate_event_uuid", "duplicate event uuid")
        results = {str(uuid.UUID(event["uuid"])): self._result(event) for event in events}
        for event in events:
            if results[event["uuid"]]["result"] in ("ok", "warning"):
                self._keep(event, event["options"].get("process_person_profile"))
        retry = any(result["result"] == "retry" for result in results.values())
        reply = json_reply(200, results=results)
        return Reply(200, reply.body, {**reply.headers, **({"Retry-After": "1"} if retry else {})})

    def _result(self, event: dict[str, Any]) -> dict[str, str]:
        fault = ""
        if not event.get("event"):
            fault = "missing_event_name"
        elif len(event["event"].encode()) > 200:
            fault = "event_name_too_long"
        elif not event["distinct_id"].strip():
            fault = "missing_distinct_id"
        elif len(event["distinct_id"].encode()) > 200:
            fault = "distinct_id_too_large"
        elif not _is_rfc3339(event.get("timestamp")):
            fault = "invalid_event_timestamp"
        elif event["uuid"] in self.poison:
            fault = "event_restriction_drop"
        if fault:
            return {"result": "drop", "details": fault}
        if self.not_persisted[event["uuid"]] > 0:
            self.not_persisted[event["uuid"]] -= 1
            return {"result": "retry", "details": "not_persisted"}
        if event["distinct_id"].lower() in ILLEGAL_IDS:
            return {"result": "ok", "details": "person_processing_disabled"}
        return {"result": "ok"}

    def _keep(self, event: dict[str, Any], has_profile: bool | None) -> None:
        properties = event["properties"]
        if has_profile is False and event["event"] in NEED_A_PROFILE:
            return
        day = event["timestamp"][:10]
        self.stored.setdefault((day, event["event"], event["distinct_id"], event["uuid"]), event)
        if has_profile is not False and "$set" in properties:
            self.learn_person(event["distinct_id"], properties["$set"])
        if event["event"] == "$groupidentify":
            self.learn_group(properties["$group_type"], properties["$group_key"], properties["$group_set"])


def _error(status: int, tag: str, description: str) -> Reply:
    return json_reply(status, error=tag, error_description=description, error_uri="https://posthog.com/docs/api")


def _is_rfc3339(text: Any) -> bool:
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).tzinfo is not None
    except (ValueError, AttributeError):
        return False
