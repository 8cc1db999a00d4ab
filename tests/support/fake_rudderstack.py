"""RudderStack's gateway: one bad message refuses the whole request; answers are text."""

from __future__ import annotations

from typing import Any

from tests.support.fake_vendor import FakeVendor, parsed
from tests.support.http_server import Reply, Request


class FakeRudderStack(FakeVendor):
    """
    Takes ``/v1/batch``. `stored` holds messages by ``messageId``, as with deduplication on.

    See: https://github.com/rudderlabs/rudder-server/blob/master/gateway/response/response.go
    """

    kind = "rudderstack"
    has_profiles = True
    id_key = "messageId"
    max_bytes = 4000 * 1024

    def __init__(self, *, key: str = "k3y-of-the-project") -> None:
        super().__init__(key=key)
        self.disabled = False
        """Whether somebody has switched the source off."""

    @property
    def options(self) -> dict[str, Any]:
        return {"writeKey": self.key, "dataPlaneUrl": self.url(""), "allow_private": True}

    def items(self, request: Request) -> list[dict[str, Any]]:
        return list(request.json()["batch"])

    def handle(self, request: Request) -> Reply:
        if request.path != "/v1/batch":
            return Reply(404, b"404 page not found")
        if self.basic(request) != f"{self.key}:":
            return Reply(401, b"invalid write key")
        if self.disabled:
            return Reply(404, b"source is disabled")
        if len(request.body) > self.max_bytes:
            return Reply(413, b"request size exceeds max limit")
        document = parsed(request)
        if document is None:
            return Reply(400, b"invalid json")
        messages = document.get("batch")
        if not messages:
            return Reply(400, b"empty batch payload")
        for message in messages:
            if not message.get("userId") and not message.get("anonymousId"):
                return Reply(400, b"request neither has anonymousId nor userId")
            if not message.get("type") or message["messageId"] in self.poison:
                return Reply(400, b"event is not a valid rudder event")
        for message in messages:
            if message["messageId"] not in self.stored:
                self.stored[message["messageId"]] = message
                self._learn(message)
        return Reply(200, b"OK")

    def _learn(self, message: dict[str, Any]) -> None:
        if message["type"] == "identify":
            self.learn_person(message["userId"], message["context"]["traits"])
        elif message["type"] == "group":
            self.learn_group(message["context"].get("groupType", ""), message["groupId"], message["traits"])
