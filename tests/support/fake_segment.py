"""Segment's batch endpoint: 200 to nearly everything, and what it does not like is gone."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from tests.support.fake_vendor import FakeVendor, json_reply, parsed
from tests.support.http_server import Reply, Request


class FakeSegment(FakeVendor):
    """
    Takes ``/v1/batch``. `stored` holds messages by ``messageId``.

    See: https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/
    """

    kind = "segment"
    id_key = "messageId"
    max_events = 2500
    max_bytes = 500_000

    @property
    def options(self) -> dict[str, Any]:
        return {"writeKey": self.key, "endpoint": self.url(""), "allow_private": True}

    def items(self, request: Request) -> list[dict[str, Any]]:
        return list(request.json()["batch"])

    def handle(self, request: Request) -> Reply:
        if request.path != "/v1/batch":
            return Reply(404, b"not found")
        if self.basic(request) != f"{self.key}:":
            return json_reply(401, success=False, message="invalid write key")
        document = parsed(request)
        if len(request.body) > self.max_bytes or document is None:
            return json_reply(400, success=False, message="too large, or not JSON")
        messages = document["batch"]
        if any(message["messageId"] in self.poison for message in messages):
            return json_reply(400, success=False, message="this message will not do")
        # Corrects every time by it.
        datetime.fromisoformat(document["sentAt"].replace("Z", "+00:00"))
        if len(messages) <= self.max_events:
            for message in messages:
                if self._is_kept(message):
                    self.stored.setdefault(message["messageId"], message)
        return json_reply(200, success=True)

    @staticmethod
    def _is_kept(message: dict[str, Any]) -> bool:
        return (
            message.get("type") == "track"
            and bool(message.get("event"))
            and bool(message.get("userId") or message.get("anonymousId"))
            and 0 < len(message.get("messageId", "")) < 100
            and len(orjson.dumps(message)) <= 32 * 1024
        )
