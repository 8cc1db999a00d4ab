"""Trigger mode under write load, killed at every step; then count."""

from __future__ import annotations

from tests.support import items
from tests.support.job import Job
from tests.support.postgres import Database, wait_until
from wal_tracker import failpoints


def test_nothing_is_lost_or_doubled_wherever_it_is_killed(database: Database) -> None:
    """Every committed change is delivered once and in order, no aborted one is, and the outbox is empty in the end."""
    database.sql(items.SCHEMA)
    config = items.config(database)
    config["source"]["mode"] = "trigger"
    with Job(config) as job:
        job.apply()
        with items.Writers(database) as writers:
            for passage, name in enumerate(failpoints.NAMES, 1):
                job.start(failpoints=f"{name}=kill@{passage}")
                assert job.wait(60) != 0, job.log_text()
                _let_lease_end(database)
            job.start()
            job.wait_for_lines(len(job.lines()) + 200)
            job.kill9()
            _let_lease_end(database)
            job.start()
            job.wait_for_lines(len(job.lines()) + 50)
            database.sql(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'wal_tracker'"
            )
            job.wait_for_lines(len(job.lines()) + 200)
            writers.stop()
        wait_until(lambda: database.sql("select count(*) from wal_tracker.outbox") == [(0,)])
        assert job.stop() == 0, job.log_text()
        items.judge(database, job.lines())


def test_two_workers_take_turns(database: Database) -> None:
    """The second waits; when the first one is stopped it goes on where that one was, and nothing comes twice."""
    database.sql(items.SCHEMA)
    config = items.config(database)
    config["source"]["mode"] = "trigger"
    with Job(config) as first, Job(config) as second:
        first.apply()
        with items.Writers(database) as writers:
            first.start()
            first.wait_for_lines(100)
            second.start()
            wait_until(lambda: "the outbox is read by" in second.log_text())
            first.wait_for_lines(len(first.lines()) + 200)
            assert second.lines() == []
            assert first.stop() == 0, first.log_text()
            second.wait_for_lines(200)
            writers.stop()
        wait_until(lambda: database.sql("select count(*) from wal_tracker.outbox") == [(0,)])
        assert second.stop() == 0, second.log_text()
        items.judge(database, first.lines() + second.lines())


def _let_lease_end(database: Database) -> None:
    """The holder has died: time passes."""
    database.sql("update wal_tracker.reader set lease_until = clock_timestamp()")
