"""`kill -9` of a process that writes to a pipe: what its reader has, and what it is given again."""

from __future__ import annotations

import json
import signal

import pytest

from tests.support import items
from tests.support.job import Job
from tests.support.postgres import Database


@pytest.mark.of_kind("stdout")
def test_killed_after_a_batch_was_written_and_before_it_was_acknowledged_the_batch_comes_again(
    database: Database,
) -> None:
    """
    At least once, in order, and the same byte for byte, so that a reader can tell by the id.

    A pipe cannot be cut as a file can, and its reader acknowledges nothing: this is all there is to hold.
    """
    database.sql(items.SCHEMA)
    with Job(items.config(database, destinations={"stdout": {"delivery": {"max_batch_events": 4}}})) as job:
        job.apply()
        database.sql("insert into items select i, 1, 'made' from generate_series(1, 10) i")
        database.sql("update items set version = 2, note = 'changed'")

        killed = job.run("run", "--until-caught-up", WAL_TRACKER_FAILPOINTS="after_destination_before_state=kill@2")
        ended = job.run("run", "--until-caught-up")

        assert (killed.returncode, ended.returncode) == (-signal.SIGKILL, 0), killed.stderr + ended.stderr
        before, after = killed.stdout.splitlines(), ended.stdout.splitlines()
    assert len(before) == 8, "the second batch was out, and nobody knew"
    events = [json.loads(line) for line in after]
    assert [(event["properties"]["id"], event["properties"]["version"]) for event in events] == [
        (i, v) for v in (1, 2) for i in range(1, 11)
    ]
    assert after[: len(before)] == before
