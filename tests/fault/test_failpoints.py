"""Crash it at every step, in every way; then count."""

from __future__ import annotations

import pytest

from tests.support import items
from tests.support.job import Job
from tests.support.postgres import Database, wait_until
from wal_tracker import failpoints


@pytest.mark.parametrize("action", ["raise", "kill", "hang"])
@pytest.mark.parametrize("name", failpoints.NAMES)
def test_nothing_is_lost_whatever_fails_wherever(database: Database, name: str, action: str) -> None:
    """Every committed change is delivered once and in order, no aborted one is, and a replay makes the same bytes."""
    database.sql(items.SCHEMA)
    with Job(items.config(database)) as job:
        job.apply()
        slot = job.config["source"]["slot"]
        database.sql("select pg_copy_logical_replication_slot(%s, %s)", slot, slot + "_copy")
        with items.Writers(database) as writers:
            for passage in (1, 3):
                job.start(failpoints=f"{name}={action}@{passage}")
                if action == "hang":
                    wait_until(
                        lambda: database.sql("select 1 from pg_replication_slots where slot_name = %s and active", slot)
                    )
                    wait_until(_still(job), timeout_s=30)
                    job.kill9()
                else:
                    assert job.wait(60) != 0, job.log_text()
            job.start()
            job.wait_for_lines(len(job.lines()) + 50)
            job.kill9()
            writers.stop()
        job.catch_up()
        delivered = job.lines()
        items.judge(database, delivered)
        with Job({**job.config, "source": {**job.config["source"], "slot": slot + "_copy"}}) as replay:
            replay.catch_up()
            assert delivered == replay.lines()


def _still(job: Job) -> object:
    """A fact that is true once nothing has been delivered for a second, while the writers go on."""
    seen: list[int] = []

    def still() -> bool:
        path = job.directory / "events.jsonl"
        seen.append(path.stat().st_size if path.exists() else 0)
        return len(seen) > 50 and len(set(seen[-50:])) == 1

    return still
