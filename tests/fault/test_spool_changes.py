"""The configuration changes while a destination is down and its events lie on disk. On a real server."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import items
from tests.support.job import Job
from tests.support.moody import DELIVERY, MoodyReceiver, cursors, gaps, segments, spooled_ids
from tests.support.postgres import Database, wait_until


@pytest.fixture
def receiver() -> Iterator[MoodyReceiver]:
    """The destination that fails."""
    with MoodyReceiver() as made:
        made.mood = "500"
        yield made


@pytest.fixture
def late() -> Iterator[MoodyReceiver]:
    """One that comes later."""
    with MoodyReceiver() as made:
        yield made


@pytest.fixture
def job(database: Database, receiver: MoodyReceiver) -> Iterator[Job]:
    """A job with a file, which is healthy, and one that is down."""
    database.sql(items.SCHEMA)
    config = items.config(database, delivery=DELIVERY)
    config["destinations"]["moody"] = receiver.entry()
    with Job(config) as made:
        made.apply()
        yield made


def _reconfigure(job: Job, **destinations: Any) -> None:
    """More or other destinations from the next start on; None takes one away."""
    config = copy.deepcopy(job.config)
    config["destinations"].update(destinations)
    config["destinations"] = {name: entry for name, entry in config["destinations"].items() if entry is not None}
    job.configure(config)


def _run_under_load(job: Job, database: Database, rows: int = 150) -> None:
    """So much is written and read; what is for the destinations that are down is in their spools."""
    job.start()
    with items.Writers(database, threads=3) as writers:
        wait_until(lambda: database.sql("select count(*) > %s from items", rows) == [(True,)])
        writers.stop()
    ((made,),) = database.sql("select coalesce(sum(version), 0) from items")
    job.wait_for_lines(made)
    wait_until(lambda: segments(job, "moody"))
    assert job.stop() == 0, job.log_text()


@pytest.mark.parametrize("failpoint", ["spool_written", "spool_synced", "before_destination", ""])
def test_a_new_destination_may_begin_with_what_others_still_have(
    database: Database, job: Job, receiver: MoodyReceiver, late: MoodyReceiver, failpoint: str
) -> None:
    """
    ``from: spool``: every event that is still on disk, once and in order, and what comes from then on.

    Whenever the process dies meanwhile. One that begins at ``now`` has none of it, nor has the other lost any.
    """
    _run_under_load(job, database)
    before = job.lines()
    assert spooled_ids(job, "moody") == [event["id"] for event in before]

    _reconfigure(
        job,
        late={**late.entry(), "from": "spool", "filter": ["item_made", "item_changed"]},
        now={"kind": "file", "path": "now.jsonl"},
    )
    if failpoint:
        job.start(failpoints=f"{failpoint}=kill")
        assert job.wait() == -9, job.log_text()
    job.start()
    database.sql("insert into items select i, 1, 'made' from generate_series(60000000, 60000009) i")
    job.wait_for_lines(10, "now.jsonl")
    receiver.recover()
    assert job.stop() == 0, job.log_text()
    job.catch_up()

    items.judge(database, job.lines())
    assert receiver.events == job.lines()
    assert late.events == [event for event in job.lines() if event["event"] != "item_gone"]
    assert job.lines("now.jsonl") == job.lines()[len(before) :]
    assert {cursor.spool for cursor in cursors(job).values()} == {None} and gaps(job) == []


def test_what_several_have_in_their_spools_is_woven_together(
    database: Database, job: Job, receiver: MoodyReceiver, late: MoodyReceiver
) -> None:
    """One has made and changed, another changed and gone, the third raw changes: together they have every event."""
    config = copy.deepcopy(job.config)
    config["destinations"]["moody"]["filter"] = ["item_made", "item_changed"]
    config["destinations"]["other"] = {**receiver.entry(), "filter": ["item_changed", "item_gone"]}
    config["raw_db_event_destinations"] = {"moody": receiver.entry()}
    job.configure(config)
    _run_under_load(job, database)
    wait_until(lambda: segments(job, "other") and segments(job, "raw%3Amoody"))

    _reconfigure(job, late={**late.entry(), "from": "spool"}, moody=None, other=None)
    config = copy.deepcopy(job.config)
    del config["raw_db_event_destinations"]
    job.configure(config)
    job.catch_up()

    items.judge(database, late.events)
    assert sorted(late.ids) == sorted(event["id"] for event in job.lines())
    by_id = {event["id"]: event for event in job.lines()}
    assert all(event == by_id[event["id"]] for event in late.events)


def test_one_that_is_taken_out_keeps_its_events_and_holds_nobody_back(
    database: Database, job: Job, receiver: MoodyReceiver
) -> None:
    """`status` says what lies there; back in the configuration it gets it."""
    _run_under_load(job, database)
    spooled = spooled_ids(job, "moody")
    entry = job.config["destinations"]["moody"]

    _reconfigure(job, moody=None)
    job.catch_up()
    document = json.loads(job.run("status", "--json").stdout)
    (mine,) = [one for one in document["destinations"] if one["name"] == "moody"]
    assert mine["configured"] is False
    assert mine["spool"]["bytes"] == sum(path.stat().st_size for path in segments(job, "moody"))
    assert mine["spool"]["oldest"] == job.lines()[0]["timestamp"]
    assert any("not configured any more" in note for note in document["notes"])
    assert spooled_ids(job, "moody") == spooled

    _reconfigure(job, moody=entry)
    receiver.recover()
    job.catch_up()
    assert receiver.ids == spooled and not segments(job, "moody")


def test_a_change_of_mode_leaves_what_is_spooled_where_it_is(
    database: Database, job: Job, receiver: MoodyReceiver
) -> None:
    """Positions are counted anew, both ways; the spool drains when its destination is back, in order."""
    _run_under_load(job, database)
    for mode in ("trigger", "wal"):
        config = copy.deepcopy(job.config)
        config["source"]["mode"] = mode
        job.configure(config)
        job.apply()
        job.start()
        base = {"trigger": 70_000_000, "wal": 80_000_000}[mode]
        database.sql(f"insert into items select i, 1, 'made' from generate_series({base}, {base + 49}) i")
        wait_until(
            lambda last=base + 49: any(line["properties"]["id"] == last for line in job.lines()[-50:]), timeout_s=60
        )
        assert job.stop() == 0, job.log_text()
        assert spooled_ids(job, "moody") == [event["id"] for event in job.lines()]
    receiver.recover()
    job.catch_up()
    items.judge(database, job.lines())
    assert receiver.events == job.lines()
    assert {event["source"]["mode"] for event in receiver.events} == {"wal", "trigger"}
    assert gaps(job) == [] and not segments(job, "moody")
