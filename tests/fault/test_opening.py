"""A destination that cannot be opened at the start of `run`: the others go on, and it gets everything once it can."""

from __future__ import annotations

import shutil
import signal
import time
from typing import Any

from tests.support import items
from tests.support.job import Job
from tests.support.postgres import Database, wait_until

CANNOT = "a destination cannot be opened, and needs a person"


def config(database: Database) -> dict[str, Any]:
    """Two files; the second lies in a folder that can be taken away."""
    made = items.config(database)
    made["delivery"] = {"spool_after_s": 0.1, "retry_base_s": 0.05, "retry_cap_s": 0.1}
    made["destinations"] = {
        "file": {"path": "events.jsonl"},
        "apart": {"kind": "file", "path": "apart/events.jsonl"},
    }
    return made


def ids(job: Job, name: str) -> list[int]:
    """Of the rows a file tells of, in its order."""
    return [event["properties"]["id"] for event in job.lines(name)]


def insert(database: Database, numbers: range) -> None:
    """Each in a transaction of its own."""
    for number in numbers:
        database.sql("insert into items values (%s, 1, 'made')", number)


def seen_once(database: Database, job: Job) -> None:
    """`run` has had both open, and has left."""
    (job.directory / "apart").mkdir()
    job.apply()
    insert(database, range(1, 3))
    job.catch_up()
    (job.directory / "apart").rename(job.directory / "taken")


def spooled(database: Database, job: Job) -> None:
    """`run` goes on without the second, whose events are in its spool: rows 3 to 19."""
    seen_once(database, job)
    job.start()
    wait_until(lambda: CANNOT in job.log_text())
    insert(database, range(3, 20))
    job.wait_for_lines(19)
    wait_until(lambda: list(job.directory.glob("*.spool/apart/*.spool")))


def test_it_stops_nobody_else_and_opens_when_it_can(database: Database) -> None:
    """Through a kill -9 as well: what the others have is in its spool, and comes to it once, in order."""
    database.sql(items.SCHEMA)
    with Job(config(database)) as job:
        spooled(database, job)
        job.kill9()
        job.start()
        insert(database, range(20, 30))
        job.wait_for_lines(29)
        (job.directory / "taken").rename(job.directory / "apart")
        job.wait_for_lines(29, "apart/events.jsonl")
        wait_until(lambda: "a destination is open now" in job.log_text())
        assert job.stop() == 0, job.log_text()

        assert ids(job, "events.jsonl") == ids(job, "apart/events.jsonl") == list(range(1, 30))
        assert job.run("dlq", "list", "--json").stdout == ""


def test_a_file_that_is_lost_for_good_begins_anew_and_doubles_nothing(database: Database) -> None:
    """Killed as soon as it has the first event: its new mark was stored before that."""
    database.sql(items.SCHEMA)
    with Job(config(database)) as job:
        spooled(database, job)
        # All of it is stored now: the first to deliver anything is the one that is opened late.
        assert job.stop() == 0, job.log_text()
        job.start(failpoints="after_destination_before_state=kill@1")
        wait_until(lambda: job.log_text().count(CANNOT) == 2)
        (job.directory / "apart").mkdir()
        assert job.wait() != 0
        assert ids(job, "apart/events.jsonl")
        job.catch_up()

        assert ids(job, "apart/events.jsonl") == list(range(3, 20))


def test_a_reload_brings_it_back(database: Database) -> None:
    """The configuration names another place, and SIGHUP has it taken at once."""
    database.sql(items.SCHEMA)
    with Job(config(database)) as job:
        seen_once(database, job)
        job.start()
        wait_until(lambda: CANNOT in job.log_text())
        insert(database, range(3, 10))
        job.wait_for_lines(9)
        elsewhere = config(database)
        elsewhere["destinations"]["apart"]["path"] = "taken/events.jsonl"
        job.configure(elsewhere)
        assert job.process is not None
        job.process.send_signal(signal.SIGHUP)
        job.wait_for_lines(9, "taken/events.jsonl")
        assert job.stop() == 0, job.log_text()

        assert ids(job, "taken/events.jsonl") == list(range(1, 10))


def test_with_nothing_to_deliver_it_leaves_at_once(database: Database) -> None:
    """Nobody waits for a destination that has nothing to get."""
    database.sql(items.SCHEMA)
    with Job(config(database)) as job:
        seen_once(database, job)
        job.start()
        wait_until(lambda: "a destination cannot be opened; trying again" in job.log_text())
        begun = time.monotonic()
        assert job.stop() == 0, job.log_text()
        assert time.monotonic() - begun < 5


def test_one_that_was_never_open_is_a_mistake_to_be_told(database: Database) -> None:
    """At its first start, also `from: spool`; where it is the only one; where `run` is to end with the last event."""
    database.sql(items.SCHEMA)
    with Job(config(database)) as job:
        job.apply()
        job.start()
        assert job.wait() == 1
        assert "apart" in job.log_text()

        later = config(database)
        later["destinations"]["late"] = {"kind": "file", "path": "late/events.jsonl", "from": "spool"}
        job.configure(later)
        (job.directory / "apart").mkdir()
        job.start()
        assert job.wait() == 1
        assert "late" in job.log_text()

        job.configure(config(database))
        job.catch_up()
        shutil.rmtree(job.directory / "apart")
        assert job.run("run", "--until-caught-up").returncode == 1

        alone = config(database)
        del alone["destinations"]["file"]
        job.configure(alone)
        job.start()
        assert job.wait() == 1
