"""What the fakes of vendors have in common."""

from __future__ import annotations

import base64
from typing import Any, ClassVar

import orjson

from tests.support.http_server import HttpServer, Reply, Request


class FakeVendor(HttpServer):
    """A vendor that keeps events by what it drops duplicates on; a new event is appended to `stored`."""

    kind: ClassVar[str]
    """The destination that speaks to it."""
    id_key: ClassVar[str]
    """Under which an item has its id."""
    needs_distinct_id: ClassVar[bool] = True
    """Whether an event about nobody is refused."""
    max_events: ClassVar[int] = 1_000_000
    """Of a request."""
    max_bytes: int = 64 * 1024 * 1024
    """Of a request's body."""

    def __init__(self, *, key: str = "k3y-of-the-project") -> None:
        super().__init__()
        self.key = key
        self.poison: set[str] = set()
        """Ids of events it never takes, in the way it refuses events."""

    @property
    def options(self) -> dict[str, Any]:
        """The destination's, to reach it."""
        raise NotImplementedError

    @property
    def ids(self) -> list[str]:
        """Of the events kept, in the order they first came."""
        return [item[self.id_key] for item in list(self.stored.values())]

    def items(self, request: Request) -> list[dict[str, Any]]:
        """The events of a request, as the vendor gets them."""
        raise NotImplementedError

    def basic(self, request: Request) -> str:
        """User and password of a request, with a colon between; empty without."""
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        return base64.b64decode(text).decode() if scheme == "Basic" else ""


def json_reply(status: int, /, **document: Any) -> Reply:
    """An answer in JSON."""
    return Reply(status, orjson.dumps(document), {"Content-Type": "application/json"})


def parsed(request: Request) -> Any:
    """The body, or None where it is not JSON."""
    try:
        return orjson.loads(request.body)
    except orjson.JSONDecodeError:
        return None
