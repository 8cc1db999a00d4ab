"""Amplitude's batch endpoint and HTTP V2: a request with one bad event stores nothing, and says which it was."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.support.fake_vendor import FakeVendor, json_reply, parsed
from tests.support.http_server import Reply, Request

NOBODY = frozenset(
    {
        "anonymous",
        "nil",
        "none",
        "null",
        "n/a",
        "na",
        "undefined",
        "unknown",
        "00000000-0000-0000-0000-000000000000",
        "{}",
        "lmy47d",
        "0",
        "-1",
    }
)


class FakeAmplitude(FakeVendor):
    """
    Takes ``/batch`` or ``/2/httpapi``. `stored` holds events by ``insert_id`` and user.

    See: https://amplitude.com/docs/apis/analytics/batch-event-upload
    See: https://amplitude.com/docs/apis/analytics/http-v2
    """

    kind = "amplitude"
    has_profiles = True
    id_key = "insert_id"
    max_events = 2000

    def __init__(self, *, key: str = "k3y-of-the-project", api: str = "batch") -> None:
        super().__init__(key=key)
        self.api = api
        self.max_bytes = 20_000_000 if api == "batch" else 1_000_000
        self.throttled: Counter[str] = Counter()
        """Users that are too fast, and for how many requests more."""
        self.exhausted: set[str] = set()
        """Users beyond the daily quota."""
        self.silenced: set[str] = set()
        """Users whose device the project does not want."""

    @property
    def options(self) -> dict[str, Any]:
        return {"apiKey": self.key, "endpoint": self.url(""), "allow_private": True, "api": self.api}

    def items(self, request: Request) -> list[dict[str, Any]]:
        return list(request.json()["events"])

    def handle(self, request: Request) -> Reply:
        if request.path != ("/batch" if self.api == "batch" else "/2/httpapi"):
            return Reply(404, b"not found")
        if len(request.raw) > self.max_bytes:
            return json_reply(413, code=413, error="Payload too large")
        document = parsed(request) if request.raw is request.body else None
        if document is None:
            return json_reply(400, code=400, error="Invalid JSON request body", missing_field=None)
        if not document.get("api_key"):
            return json_reply(400, code=400, error="Request missing required field", missing_field="api_key")
        if document["api_key"] != self.key:
            return json_reply(400, code=400, error=f"Invalid API key: {document['api_key']}")
        events = document["events"]
        if len(events) > self.max_events:
            return json_reply(413, code=413, error="Payload too large")
        return self._refusal(events, document.get("options", {}).get("min_id_length", 5)) or self._store(events)

    def _refusal(self, events: list[dict[str, Any]], min_id_length: int) -> Reply | None:
        invalid: dict[str, list[int]] = {}
        missing: dict[str, list[int]] = {}
        for index, event in enumerate(events):
            who = event.get("user_id") or event.get("device_id", "")
            if not event.get("event_type"):
                missing.setdefault("event_type", []).append(index)
            if len(who) < min_id_length:
                missing.setdefault("user_id", []).append(index)
            elif who.lower() in NOBODY:
                invalid.setdefault("user_id", []).append(index)
            if not isinstance(event.get("time"), int):
                invalid.setdefault("time", []).append(index)
            if event.get("insert_id") in self.poison:
                invalid.setdefault("event_properties", []).append(index)
        if self.api == "httpapi":
            # Its documentation: "only the first".
            invalid = {field: indexes[:1] for field, indexes in invalid.items()}
            missing = {field: indexes[:1] for field, indexes in missing.items()}
        if invalid or missing:
            return json_reply(
                400,
                code=400,
                error="Request has events with invalid or missing fields",
                missing_field=None,
                events_with_invalid_fields=invalid,
                events_with_missing_fields=missing,
            )
        users = [_whose(event) for event in events]
        silenced = [index for index, user in enumerate(users) if user in self.silenced]
        if silenced:
            return json_reply(400, code=400, error="Events silenced for device_id", silenced_events=silenced)
        fast = {user for user in users if self.throttled[user] > 0}
        over = {user for user in users if user in self.exhausted}
        if not fast and not over:
            return None
        self.throttled.subtract(fast)
        return json_reply(
            429,
            code=429,
            error="Too many requests for some devices and users",
            eps_threshold=1000 if self.api == "batch" else 30,
            throttled_users=dict.fromkeys((who for who in fast if who[:1] != "$"), 4000),
            throttled_devices=dict.fromkeys((who for who in fast if who[:1] == "$"), 4000),
            throttled_events=[index for index, user in enumerate(users) if user in fast | over],
            exceeded_daily_quota_users=dict.fromkeys((who for who in over if who[:1] != "$"), 500_200),
            exceeded_daily_quota_devices=dict.fromkeys((who for who in over if who[:1] == "$"), 500_200),
        )

    def _store(self, events: list[dict[str, Any]]) -> Reply:
        for event in events:
            key = (event["insert_id"], _whose(event))
            if key not in self.stored:
                self.stored[key] = event
                self._learn(event)
        return json_reply(200, code=200, events_ingested=len(events))

    def _learn(self, event: dict[str, Any]) -> None:
        if "user_properties" in event:
            self.learn_person(event["user_id"], event["user_properties"]["$set"])
        if event["event_type"] == "$groupidentify":
            ((kind, which),) = event["groups"].items()
            self.learn_group(kind, which, event["group_properties"]["$set"])


def _whose(event: dict[str, Any]) -> str:
    """The user, or the device; ours begin with a dollar sign."""
    return str(event.get("user_id") or event["device_id"])
