"""A Slack channel behind an incoming webhook: posts whatever is well formed, as often as it comes."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from tests.support.fake_vendor import FakeVendor, parsed
from tests.support.http_server import Reply, Request

_LINE = re.compile(r"`(?P<name>[^`]*)` (?P<time>\S+)(?P<values>.*)")


class FakeSlack(FakeVendor):
    """
    Takes one URL. `stored` holds the events its messages show, which a test has it show by id.

    See: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
    """

    kind = "slack"
    id_key = "id"
    deduplicates = False
    needs_somebody = False
    summarizes = True

    @property
    def options(self) -> dict[str, Any]:
        return {
            "webhook_url": self.url(f"/services/T0000/B0000/{self.key}"),
            "allow_private": True,
            "show": ["event.id", "number", "id", "version"],
            "shown": 40,
            "interval_s": 0,
        }

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Whatever was sent."""
        return [request.json() for request in self.requests]

    def count(self, request: Request) -> int:
        match = re.match(r"\*.*: (\d+) events?\*", request.json()["blocks"][0]["text"]["text"])
        assert match is not None
        return int(match[1])

    def items(self, request: Request) -> list[dict[str, Any]]:
        return [_item(block["text"]["text"]) for block in request.json()["blocks"][1:-1]]

    def handle(self, request: Request) -> Reply:
        if request.path != f"/services/T0000/B0000/{self.key}":
            return Reply(403, b"invalid_token")
        message = parsed(request)
        if not isinstance(message, dict) or request.headers.get("content-type") != "application/json":
            return Reply(400, b"invalid_payload")
        if not message.get("text") or len(message["text"]) > 40_000:
            return Reply(400, b"no_text")
        blocks = message.get("blocks", [])
        texts = [block["text"] for block in blocks if block["type"] == "section"]
        texts += [element for block in blocks if block["type"] == "context" for element in block["elements"]]
        if len(blocks) > 50 or not all(0 < len(text["text"]) <= 3000 for text in texts):
            return Reply(400, b"invalid_blocks")
        if any(re.search(r"[<>]|&(?!amp;|lt;|gt;)", text["text"]) for text in texts):
            return Reply(400, b"this test escapes everything")
        items = self.items(request)
        if any(item["id"] in self.poison for item in items):
            return Reply(400, b"invalid_payload")
        for item in items:
            self.stored[len(self.stored)] = item
        return Reply(200, b"ok")


def _item(line: str) -> dict[str, Any]:
    match = _LINE.fullmatch(line)
    assert match is not None, line
    values = dict(pair.split("=", 1) for pair in match["values"].split("  ") if "=" in pair)
    shown = {key: int(text) if text.isdigit() else unescape(text) for key, text in values.items()}
    return {"id": shown.pop("event.id", ""), "event": unescape(match["name"]), "line": line, "properties": shown}
