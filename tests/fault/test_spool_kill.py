"""Kill the process at every step of a spool, with one destination down and another up; then count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import items
from tests.support.http_server import HttpServer, Reply, Request
from tests.support.job import Job
from tests.support.postgres import Database, wait_until
from wal_tracker import failpoints

EAGER = {"spool_after_s": 0.1, "max_queue_bytes": 4096, "retry_base_s": 0.02, "retry_cap_s": 0.05, "linger_s": 0.01}


class Receiver(HttpServer):
    """A webhook's receiver that is down until it is up, and keeps each event once, by its id."""

    def __init__(self) -> None:
        super().__init__()
        self.is_up = False
        self.ids: list[str] = []
        """Of every event that was taken, repeated ones too."""

    def handle(self, request: Request) -> Reply:
        if not self.is_up:
            return Reply(503)
        event = request.json()
        self.ids.append(event["id"])
        self.stored.setdefault(event["id"], event)
        return Reply()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Down."""
    with Receiver() as made:
        yield made


def config(database: Database, receiver: Receiver) -> dict[str, Any]:
    """With a file beside it that takes everything."""
    made = items.config(database, delivery=EAGER)
    made["destinations"]["webhook"] = {"url": receiver.url("/events"), "allow_private": True}
    return made


@pytest.mark.parametrize("passage", [1, 5])
@pytest.mark.parametrize("name", failpoints.SPOOL_NAMES)
def test_what_is_spooled_outlives_every_kill(database: Database, receiver: Receiver, name: str, passage: int) -> None:
    """The one that is up has every event once; the one that was down has it at least once, each row in order."""
    database.sql(items.SCHEMA)
    with Job(config(database, receiver)) as job:
        job.apply()
        with items.Writers(database) as writers:
            job.start(failpoints=f"{name}=kill@{passage}")
            assert job.wait(60) == -9, job.log_text()
            job.start(failpoints=f"{name}=kill@{passage + 1}")
            assert job.wait(60) == -9, job.log_text()
            job.start()
            # While it is down the other one goes on, and the server keeps nothing for it.
            job.wait_for_lines(len(job.lines()) + 50)
            wait_until(lambda: list(job.directory.glob("wal_tracker.db.spool/webhook/*.spool")))
            job.kill9()
            receiver.is_up = True
            job.start(failpoints="after_destination_before_state=kill@20")
            assert job.wait(60) == -9, job.log_text()
            writers.stop()
        job.catch_up()

        items.judge(database, job.lines())
        assert len({line["id"] for line in job.lines()}) == len(job.lines())
        items.judge(database, list(receiver.stored.values()))
        assert not list(job.directory.glob("wal_tracker.db.spool/**/*.spool"))
        assert job.run("dlq", "list", "--json").stdout == ""
