"""`wal_tracker status` in trigger mode."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.outbox import drain, reading
from tests.support.postgres import Database, wait_until
from tests.support.project import Project
from wal_tracker.lsn import LSN

FAILURE = (
    "insert into wal_tracker.capture_failure (at, xid, relation, op, sqlstate) values "
    "(now(), '7', 1, 'INSERT', '22003')"
)


@pytest.fixture
def project(database: Database, tmp_path: Path) -> Project:
    """A project in trigger mode, not yet applied."""
    database.sql("create table users (id bigint primary key, email text)")
    made = Project(tmp_path, database)
    made.config.write_text(made.config.read_text().replace("source: {", "source: {mode: trigger, "))
    return made


def test_status_without_an_outbox_says_how_it_is_made(project: Project) -> None:
    """Exit 1."""
    done = project.run("status")
    assert (done.code, "there is no outbox; `wal_tracker apply` makes it" in done.stdout) == (1, True)


def test_status_tells_what_waits_and_who_reads(project: Project, database: Database) -> None:
    """Transactions and rows not yet durable everywhere, since when, the holder and its lease, and what it all takes."""
    assert project.run("apply", "--yes").code == 0
    before = project.run("status", "--json").json()
    assert (before["healthy"], before["mode"], before["slot"]) == (True, "trigger", None)
    assert before["outbox"]["waiting"] == {"transactions": 0, "rows": 0, "oldest_s": None}
    assert before["outbox"]["read_by"] is None
    database.sql("insert into users values (1, 'a'), (2, 'b')")
    database.sql("insert into users values (3, 'c')")
    with reading(database) as source:
        drain(source, confirm=False)
        database.sql("insert into users values (4, 'd')")
        document = project.run("status", "--json").json()["outbox"]
        text = project.run("status").stdout
    assert (document["waiting"]["transactions"], document["waiting"]["rows"]) == (3, 4)
    assert 0 < document["waiting"]["oldest_s"] < 60
    assert "process" in document["read_by"]
    assert 0 < document["lease_s"] <= 10
    assert document["bytes"]["outbox_0"] > 0
    assert "3 transactions, 4 rows, the oldest for" in text
    assert "read by" in text


def test_status_counts_what_was_not_captured_and_names_tables_without_a_trigger(
    project: Project, database: Database
) -> None:
    """A failed capture is a note until `run` has it on record; a table that is not captured is a problem."""
    assert project.run("apply", "--yes").code == 0
    database.sql(FAILURE)
    document = project.run("status", "--json").json()
    assert (document["healthy"], document["outbox"]["capture_failures"]) == (True, 1)
    assert "1 changes were not captured" in " ".join(document["notes"])
    database.sql('alter table users disable trigger "00_wal_tracker_capture"')
    done = project.run("status")
    assert done.code == 1
    assert "changes of public.users are not captured" in done.stdout


def test_a_run_in_trigger_mode_delivers_and_says_so(project: Project, database: Database) -> None:
    """From commit to file, with what could not be captured on record as a gap."""
    assert project.run("apply", "--yes").code == 0
    database.sql(FAILURE)
    database.sql("insert into users values (1, 'a'), (2, 'b')")
    done = project.finished("run", "--until-caught-up")
    assert done.code == 0, done.stderr
    assert len(project.events_path.read_text().splitlines()) == 2
    document = project.run("status", "--json").json()
    assert document["outbox"]["waiting"]["rows"] == 0
    assert [gap["reason"] for gap in document["gaps"]] == ["capture_failed"]
    wait_until(lambda: project.run("status", "--json").json()["outbox"]["read_by"] is None)


def test_a_run_puts_rows_that_vanished_from_the_outbox_on_record(project: Project, database: Database) -> None:
    """Once, however often it is started; the rest is delivered."""
    assert project.run("apply", "--yes").code == 0
    database.sql("insert into users values (1, 'a'), (2, 'b')")
    with reading(database) as source:
        source.end_of_commits(LSN(0))
    database.sql("truncate wal_tracker.outbox_0, wal_tracker.outbox_1")
    database.sql("insert into users values (3, 'c')")
    for _ in range(2):
        done = project.finished("run", "--until-caught-up")
        assert done.code == 0, done.stderr
    assert len(project.events_path.read_text().splitlines()) == 1
    (gap,) = project.run("status", "--json").json()["gaps"]
    assert gap["reason"] == "rows_missing"
    assert "2 captured changes of transaction" in gap["detail"]


def test_a_run_delivers_what_is_claimed_after_the_server_went_back(project: Project, database: Database) -> None:
    """After a fail-over to a standby that lags, `run --until-caught-up` claims above what it has delivered by then."""
    assert project.run("apply", "--yes").code == 0
    database.sql("insert into users values (1, 'a')")
    # Our positions are ahead of what this server has, as after a fail-over.
    database.sql("update wal_tracker.reader set position = position + 1000000000")
    ((ahead,),) = database.sql("select position::text from wal_tracker.reader")
    assert project.finished("run", "--until-caught-up").code == 0
    database.sql("update wal_tracker.reader set position = %s::pg_lsn - 1000000000", ahead)
    database.sql("insert into users values (2, 'b')")
    assert project.finished("run", "--until-caught-up").code == 0
    assert len(project.events_path.read_text().splitlines()) == 2
    assert project.run("status", "--json").json()["gaps"] == []
