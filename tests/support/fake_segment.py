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
    has_profiles = True
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
                if self._is_kept(message) and message["messageId"] not in self.stored:
                    self.stored[message["messageId"]] = message
                    self._learn(message)
        return json_reply(200, success=True)

    def _learn(self, message: dict[str, Any]) -> None:
        if message["type"] == "identify":
            self.learn_person(message["userId"], message["traits"])
        elif message["type"] == "group":
            self.learn_group(message["context"].get("groupType", ""), message["groupId"], message["traits"])

    @staticmethod
    def _is_kept(message: dict[str, Any]) -> bool:
        needs = {"track": "event", "identify": "traits", "group": "groupId"}
        return (
            message.get("type") in needs
            and bool(message.get(needs[message["type"]]))
            and bool(message.get("userId") or message.get("anonymousId"))
            and 0 < len(message.get("messageId", "")) < 100
            and len(orjson.dumps(message)) <= 32 * 1024
        )
