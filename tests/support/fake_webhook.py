"""A webhook's receiver that drops what it has seen, by ``webhook-id``."""

from __future__ import annotations

from typing import Any

from tests.support.fake_vendor import FakeVendor
from tests.support.http_server import Reply, Request

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class FakeWebhook(FakeVendor):
    """
    Takes single events in JSON.

    See: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """

    kind = "webhook"
    id_key = "id"
    needs_somebody = False
    max_events = 1
    max_bytes = 500_000

    @property
    def options(self) -> dict[str, Any]:
        return {
            "url": self.url("/hook?token=t0ken"),
            "allow_private": True,
            "secret": SECRET,
            "headers": {"Authorization": f"Bearer {self.key}"},
        }

    def secrets(self, request: Request) -> list[str]:
        return [self.key, "t0ken", SECRET]

    def items(self, request: Request) -> list[dict[str, Any]]:
        return [request.json()]

    def handle(self, request: Request) -> Reply:
        if len(request.body) > self.max_bytes:
            return Reply(413, b"too large")
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return Reply(401, b"who are you?")
        event = request.json()
        if event["id"] in self.poison:
            return Reply(400, b"this event will not do")
        self.stored.setdefault(request.headers["webhook-id"], event)
        return Reply()
