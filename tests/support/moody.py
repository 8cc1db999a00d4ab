"""A webhook's receiver that has its moods, and what lies in a job's spools."""

from __future__ import annotations

import threading
from typing import Any, Literal

from tests.support.http_server import HttpServer, Reply, Request
from tests.support.job import Job
from wal_tracker.delivery import Spool
from wal_tracker.secret import Secret
from wal_tracker.state import open_state
from wal_tracker.state.base import Cursor, Gap

# Short, so that what is refused comes again while a test looks; and little waits in memory.
DELIVERY: dict[str, Any] = {
    "retry_base_s": 0.05,
    "retry_cap_s": 0.2,
    "request_timeout_s": 1.0,
    "max_queue_bytes": 65536,
    "spool_after_s": 0.3,
}

Mood = Literal["up", "500", "hang"]


class MoodyReceiver(HttpServer):
    """Takes batches of events while it is up, and keeps each event once, by its id, where it first came."""

    def __init__(self) -> None:
        super().__init__()
        self.mood: Mood = "up"
        self.delay_s = 0.0
        """It takes so long for a request."""
        self.given_up = threading.Event()
        """Requests that hang are cut when this is set."""

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it keeps, in the order it first came."""
        return list(self.stored.values())

    @property
    def ids(self) -> list[str]:
        """Of these."""
        return list(self.stored)

    def entry(self, port: int | None = None, **delivery: Any) -> dict[str, Any]:
        """The destination that sends to it: one request after the other, many events in each."""
        return {
            "kind": "webhook",
            "url": f"http://127.0.0.1:{port or self.port}/",
            "allow_private": True,
            "batch": True,
            "delivery": {**DELIVERY, **delivery},
        }

    def handle(self, request: Request) -> Reply:
        if self.mood == "500":
            return Reply(500, b"we are sorry")
        if self.mood == "hang":
            self.given_up.wait(30)
            return Reply(fault="close_before_response")
        if self.delay_s:
            self.released.wait(self.delay_s)
        for event in request.json():
            self.stored.setdefault(event["id"], event)
        return Reply()

    def recover(self) -> None:
        """It is up again."""
        self.mood = "up"
        self.given_up.set()


def cursors(job: Job) -> dict[str, Cursor]:
    """What the job's state store says of each destination."""
    state = open_state(Secret(f"sqlite:///{job.directory}/wal_tracker.db"))
    try:
        return state.cursors()
    finally:
        state.close()


def gaps(job: Job) -> list[Gap]:
    """What is on record as not delivered."""
    state = open_state(Secret(f"sqlite:///{job.directory}/wal_tracker.db"))
    try:
        return state.gaps()
    finally:
        state.close()


def segments(job: Job, name: str) -> list[Any]:
    """The files of a destination's spool, oldest first."""
    folder = job.directory / "wal_tracker.db.spool" / name
    return sorted(folder.glob("*.spool")) if folder.exists() else []


def spooled_ids(job: Job, name: str) -> list[str]:
    """The events a destination still has to get from its spool, by the stored position; nothing must run."""
    stands = cursors(job)[name].spool
    if stands is None:
        return []
    spool = Spool(job.directory / "wal_tracker.db.spool", name, max_bytes=0)
    return [event.id for event in spool.kept(stands)]
