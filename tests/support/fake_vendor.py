"""What the fakes of vendors have in common."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, ClassVar

import orjson

from tests.support.http_server import HttpServer, Reply, Request
from wal_tracker.destinations import registry
from wal_tracker.model import Deliverable


class FakeVendor(HttpServer):
    """A vendor that keeps events by what it drops duplicates on; a new event is appended to `stored`."""

    kind: ClassVar[str]
    """The destination that speaks to it."""
    id_key: ClassVar[str]
    """Under which an item has its id."""
    max_events: ClassVar[int] = 1_000_000
    """Of a request."""
    max_bytes: int = 64 * 1024 * 1024
    """Of a request's body."""
    has_profiles: ClassVar[bool] = False
    """Whether it keeps what is said of persons and groups beside events."""
    deduplicates: ClassVar[bool] = True
    """What is sent twice is kept once. Without it an event may be there twice, where an answer was lost."""
    looks_first: ClassVar[bool] = False
    """The destination looks whether an event is there before it sends it again, and so sends nothing twice."""
    needs_somebody: ClassVar[bool] = True
    """An event without a distinct_id is refused."""
    summarizes: ClassVar[bool] = False
    """Tells how many events there were, and not each; `ids` are of those it shows, which a test makes all of few."""
    passing: ClassVar[frozenset[int]] = frozenset({408, 429, 500, 502, 503})
    """Statuses after which the same request is to be sent again."""
    refuses_with: int = 400
    """The status of a request refused for what is in it."""
    looks_inside: ClassVar[bool] = True
    """Whether it may refuse an event for what it holds, or its size; False: it keeps files, and no event is refused."""
    parts_by_name: ClassVar[bool] = False
    """Events of each name go to a place of their own; only there they are in order."""

    def __init__(self, *, key: str = "k3y-of-the-project") -> None:
        super().__init__()
        self.key = key
        self.poison: set[str] = set()
        """Ids of events it never takes, in the way it refuses events."""
        self.people: dict[str, dict[str, Any]] = {}
        """What is known of each person by now."""
        self.groups: dict[tuple[str, str], dict[str, Any]] = {}
        """What is known of each group, by its type and id."""

    @property
    def options(self) -> dict[str, Any]:
        """The destination's, to reach it."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """How many requests its destination makes at once; beyond one, only the events of a row are in order."""
        return registry.build(self.kind, self.kind, self.options, self.kind).limits.concurrency

    @property
    def ids(self) -> list[str]:
        """Of the events kept, in the order they first came."""
        return [item[self.id_key] for item in list(self.stored.values())]

    @property
    def known(self) -> list[str]:
        """`ids`, each once, where it first came."""
        return list(dict.fromkeys(self.ids))

    def count(self, request: Request) -> int:
        """How many events a request tells of."""
        return len(self.items(request))

    def items(self, request: Request) -> list[dict[str, Any]]:
        """The events of a request, as the vendor gets them."""
        raise NotImplementedError

    def in_order(self, events: Sequence[Deliverable]) -> list[str]:
        """The ids of events that come at once, as `ids` has them."""
        names = list(dict.fromkeys(event.name for event in events)) if self.parts_by_name else []
        return [event.id for event in sorted(events, key=lambda event: names.index(event.name) if names else 0)]

    def secrets(self, request: Request) -> list[str]:
        """What of a request is a credential, and what else of ours the vendor knows; it may repeat any of them."""
        return [self.key]

    def learn_person(self, who: str, traits: dict[str, Any]) -> None:
        """Set traits; those there are and are not named stay."""
        self.people.setdefault(who, {}).update(traits)

    def learn_group(self, kind: str, which: str, traits: dict[str, Any]) -> None:
        """Set a group's traits."""
        self.groups.setdefault((kind, which), {}).update(traits)

    def refusal(self, text: bytes = b"") -> Reply:
        """How it refuses a request for what is in it, with words of its own."""
        return Reply(self.refuses_with, text)

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
