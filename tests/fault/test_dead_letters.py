"""More dead letters than may be kept: held, nothing is lost and no socket left unread; shed, all are accounted for."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import pytest

from tests.support import items
from tests.support.job import Job
from tests.support.postgres import Database, wait_until
from tests.support.state import url_of
from wal_tracker.secret import Secret
from wal_tracker.state import open_state
from wal_tracker.state.base import LetterFilter, StateStore

ROWS = 12


def _config(database: Database, store: str, at_bound: str) -> dict[str, Any]:
    """Every row makes an event by one rule, and cannot be evaluated by another."""
    config = items.config(database, dead_letters={"max_letters": 3, "at_bound": at_bound})
    made = config["track"]["items.insert"]
    config["track"]["items.insert"] = [
        {"name": "good", **made},
        {"name": "poison", "event": "never", "properties": {"id": "1 / (new.id - new.id)"}},
    ]
    if store == "postgresql":
        config["state"] = url_of(database)
    return config


def _open(job: Job) -> StateStore:
    return open_state(Secret(job.config.get("state", f"sqlite:///{job.directory}/wal_tracker.db")))


def _is_read(database: Database, job: Job) -> bool:
    slot = job.config["source"]["slot"]
    return database.sql("select active from pg_replication_slots where slot_name = %s", slot) == [(True,)]


def _holds(database: Database, job: Job, state: StateStore) -> bool:
    return state.count_dead_letters("dead") == 3 and not _is_read(database, job)


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_held_at_the_bound_it_waits_without_a_connection_and_loses_nothing(database: Database, store: str) -> None:
    """Through kill -9; as a person makes room it goes on, and each event and each letter is there once."""
    database.sql(items.SCHEMA)
    dropped: list[str] = []
    with Job(_config(database, store, "hold")) as job, closing(_open(job)) as state:
        job.apply()
        for number in range(ROWS):
            database.sql("insert into items values (%s, 1, 'made')", number)
        job.start()
        wait_until(lambda: _holds(database, job, state))
        status = job.run("status", "--json")
        assert status.returncode == 1
        assert any("dead letters are at their bound" in problem for problem in json.loads(status.stdout)["problems"])
        assert "no room for dead letters" in job.log_text()
        job.kill9()

        told = job.log_text().count("no room for dead letters")
        process = job.start("run", "--until-caught-up")
        # A letter dropped before its change has come again would come again with it.
        wait_until(lambda: job.log_text().count("no room for dead letters") > told)
        while process.poll() is None:
            wait_until(lambda: process.poll() is not None or _holds(database, job, state))
            dropped += [letter.id for letter in state.find_letters(LetterFilter(up_to=state.last_letter()))]
            state.drop_letters(LetterFilter())
        assert process.returncode == 0, job.log_text()
        dropped += [letter.id for letter in state.dead_letters()]
        assert len(dropped) == len(set(dropped)) == ROWS
        assert [event["properties"]["id"] for event in job.lines()] == list(range(ROWS))
        assert state.gaps() == []


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_shed_at_the_bound_every_letter_is_there_or_in_the_gap(database: Database, store: str) -> None:
    """Killed while it sheds, again and again: what had not been done is done after the next start."""
    database.sql(items.SCHEMA)
    with Job(_config(database, store, "shed")) as job, closing(_open(job)) as state:
        job.apply()
        for number in range(ROWS):
            database.sql("insert into items values (%s, 1, 'made')", number)
        for passage in (1, 2):
            job.start("run", "--until-caught-up", failpoints=f"dead_letters_shed=kill@{passage}")
            assert job.wait() in (0, -9), job.log_text()
        job.catch_up()

        kept = state.count_dead_letters("dead")
        assert kept == 3
        # What was shed, and comes again after a crash, is shed again.
        assert sum(gap.events or 0 for gap in state.gaps()) >= ROWS - kept
        assert {gap.reason for gap in state.gaps()} == {"dead_letters_shed"}
        assert [event["properties"]["id"] for event in job.lines()] == list(range(ROWS))
        assert json.loads(job.run("status", "--json").stdout)["healthy"]
