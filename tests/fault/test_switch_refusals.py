"""A mode the database is not set up for, or that is being left, is refused with a sentence and a command."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fault.test_switch import Switched
from tests.support import items
from tests.support.postgres import Database
from wal_tracker.errors import SourceError, SourceUnavailable
from wal_tracker.secret import Secret
from wal_tracker.source import switch
from wal_tracker.source.connection import Session, SourceSettings


def refused(job: Switched, *arguments: str) -> str:
    """What `run` says when it refuses."""
    done = job.run("run", "--until-caught-up", *arguments)
    assert done.returncode == 3, (done.returncode, done.stderr)
    return done.stderr


@pytest.fixture
def job(database: Database) -> Iterator[Switched]:
    """Over an empty table, with nothing set up."""
    database.sql(items.SCHEMA)
    with Switched(database) as made:
        yield made


def test_trigger_mode_needs_outbox_and_triggers(job: Switched) -> None:
    """Nothing there, or a table without its triggers: named, with `apply` as the remedy; `run --apply` does it."""
    job.set_mode("trigger")
    said = refused(job)
    assert "there is no outbox" in said and "public.items has no capture trigger" in said and "run --apply" in said
    assert job.run("run", "--apply", "--until-caught-up").returncode == 0
    job.database.sql("alter table items disable trigger \"00_wal_tracker_capture_truncate\"")
    assert "public.items has no capture trigger" in refused(job)
    job.change_to("trigger")
    job.database.sql("insert into items values (1, 1, 'made')")
    job.catch_up()
    assert [line["source"]["mode"] for line in job.lines()] == ["trigger"]


def test_a_mode_is_not_changed_by_run_alone(job: Switched) -> None:
    """`--mode` against what is installed, without a change begun, reads nothing."""
    job.change_to("trigger")
    said = refused(job, "--mode=wal")
    assert "triggers of trigger mode are still there (public.items)" in said and "wal_tracker apply" in said


def test_a_change_under_way_is_finished_before_anything_else(job: Switched) -> None:
    """Neither `run` nor `apply` goes back in the middle; `run` in the new mode ends it."""
    job.change_to("trigger")
    job.database.sql("insert into items values (1, 1, 'made')")
    job.change_to("wal")
    assert "a change to wal mode is under way; `wal_tracker run --mode=wal`" in refused(job, "--mode=trigger")
    job.set_mode("trigger")
    assert job.run("apply", "--yes").returncode == 3
    job.set_mode("wal")
    job.catch_up()
    job.change_to("trigger")
    assert "a change to trigger mode is under way; `wal_tracker run --mode=trigger`" in refused(job, "--mode=wal")
    job.catch_up()
    job.database.sql("insert into items values (2, 1, 'made')")
    job.catch_up()
    assert [line["properties"]["id"] for line in job.lines()] == [1, 2]


def test_run_apply_changes_the_mode_in_one_go(job: Switched) -> None:
    """What `apply` and `run` do one after the other; either way, to the end."""
    for number, mode in enumerate(("trigger", "wal", "trigger")):
        job.set_mode(mode)
        done = job.run("run", "--apply", "--until-caught-up")
        assert done.returncode == 0, done.stderr
        job.database.sql("insert into items values (%s, 1, 'made')", number)
    job.catch_up()
    assert [(line["properties"]["id"], line["source"]["mode"]) for line in job.lines()] == [
        (0, "trigger"),
        (1, "wal"),
        (2, "trigger"),
    ]
    assert job.status()["gaps"] == []
    assert job.leftovers() == (0, True, 2)


def test_a_slot_whose_boundary_cannot_be_stored_is_not_left(job: Switched) -> None:
    """The dividing transaction fails: no slot, the triggers are there still, and trigger mode goes on."""
    job.change_to("trigger")
    job.database.sql("alter table wal_tracker.switch add constraint never check (to_mode <> 'wal')")
    with pytest.raises(SourceError, match="storing what divides"):
        job.change_to("wal")
    assert job.leftovers() == (0, True, 2)
    job.database.sql("insert into items values (1, 1, 'made')")
    job.set_mode("trigger")
    job.catch_up()
    assert len(job.lines()) == 1


def test_a_table_that_is_held_for_too_long_changes_nothing(job: Switched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction outlives our patience, either way: neither slot nor boundary nor triggers are left behind."""
    monkeypatch.setattr(switch, "LOCK_PATIENCE_S", 0.1)
    settings = SourceSettings(dsn=Secret(job.database.dsn), slot="waits")
    lock = "lock table items in share row exclusive mode"
    job.change_to("trigger")
    with job.database.connect() as connection, connection.cursor() as cursor, Session(job.database.dsn) as primary:
        # It only reads, so that the slot need not wait for it.
        cursor.execute("begin")
        cursor.execute("lock table items in share mode")
        with pytest.raises(SourceUnavailable, match="removing the triggers: not to be had within"):
            switch.begin_to_wal(settings, primary, [lock])
        with pytest.raises(SourceUnavailable, match="making the triggers: not to be had within"):
            switch.begin_to_trigger(primary, [lock])
        assert switch.read_switch(primary) is None
        cursor.execute("commit")
    assert job.leftovers() == (0, True, 2)


def test_a_slot_that_is_lost_in_the_middle_is_a_gap_and_no_standstill(job: Switched) -> None:
    """Somebody drops the slot before WAL mode was read to its end: on record, and trigger mode goes on."""
    job.change_to("wal")
    job.catch_up()
    job.change_to("trigger")
    job.database.sql("select pg_drop_replication_slot(%s)", job.config["source"]["slot"])
    job.database.sql("insert into items values (1, 1, 'made')")
    job.catch_up()
    assert len(job.lines()) == 1
    ((reason, detail),) = [(gap["reason"], gap["detail"]) for gap in job.status()["gaps"]]
    assert reason == "slot_lost" and "was dropped while the mode was being changed" in detail


def test_a_slot_lost_on_the_way_to_wal_is_a_gap_too(job: Switched) -> None:
    """The outbox is delivered, the change is ended, and `apply` makes a new slot."""
    job.change_to("trigger")
    job.database.sql("insert into items values (1, 1, 'made')")
    job.change_to("wal")
    job.database.sql("select pg_drop_replication_slot(%s)", job.config["source"]["slot"])
    assert "does not exist; `wal_tracker apply`" in refused(job)
    job.change_to("wal")
    job.database.sql("insert into items values (2, 1, 'made')")
    job.catch_up()
    assert [line["properties"]["id"] for line in job.lines()] == [1, 2]
    assert {gap["reason"] for gap in job.status()["gaps"]} >= {"slot_lost"}


def test_a_mode_changed_by_hand_is_a_gap(job: Switched) -> None:
    """`drop` and `apply` in the other mode leave no boundary: that something may be lost is on record."""
    for mode, number in (("wal", 1), ("trigger", 2), ("wal", 3)):
        assert job.run("drop", "--yes").returncode == 0
        job.change_to(mode)
        job.database.sql("insert into items values (%s, 1, 'made')", number)
        job.catch_up()
    assert [line["properties"]["id"] for line in job.lines()] == [1, 2, 3]
    assert [gap["reason"] for gap in job.status()["gaps"]] == ["mode_changed", "mode_changed"]


def test_a_role_that_owns_nothing_ends_a_change(job: Switched) -> None:
    """It may not drop the outbox, and says who may; the change is over all the same, and `apply` drops it."""
    owner = job.database.dsn
    job.change_to("trigger")
    made = job.run("create-role", "--mode", "trigger", "--name", "wt_switch", "--yes")
    assert made.returncode == 0, made.stderr
    job.database.sql("alter role wt_switch replication")
    try:
        job.database.sql("insert into items values (1, 1, 'made')")
        job.change_to("wal")
        job.database.sql("insert into items values (2, 1, 'made')")
        job.config["source"]["dsn"] = made.stdout.strip()
        job.set_mode("wal")
        for number in (3, 4):
            done = job.run("run", "--until-caught-up")
            assert done.returncode == 0, done.stderr
            assert ("the outbox stays" in done.stderr) == (number == 3)
            job.database.sql("insert into items values (%s, 1, 'made')", number)
        job.config["source"]["dsn"] = owner
        assert job.leftovers() == (1, True, 0)
        job.change_to("wal")
        assert job.leftovers() == (1, False, 0)
        job.catch_up()
        assert [line["properties"]["id"] for line in job.lines()] == [1, 2, 3, 4]
    finally:
        job.database.sql("drop owned by wt_switch; drop role wt_switch")
