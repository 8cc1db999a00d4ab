"""docs/modes.md, held against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import bench_writes
from tests.support.capture import capture, captured
from tests.support.postgres import Database
from wal_tracker.source import outbox, setup, switch

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "modes.md").read_text()
PROSE = " ".join(PAGE.split())


def test_times_and_sizes_are_true() -> None:
    """How long a lease lasts, how often is looked, when the outbox is emptied, how long a table is waited for."""
    assert f"a lease of {outbox.LEASE_S:g} s" in PROSE
    assert outbox.POLL_MAX_S == 0.5 and "every half second at most" in PROSE
    told = f"after {outbox.TURN_BYTES // 2**20} MiB, after {outbox.LATEST_TURN_S:g} s, or after a second"
    assert told in PROSE and outbox.IDLE_TURN_S == 1
    assert (switch.LOCK_TIMEOUT_S, switch.LOCK_PATIENCE_S) == (0.5, 60)
    assert "half a second at a time, for a minute" in PROSE


def test_what_was_measured_is_what_is_measured() -> None:
    """The rows of the tables of costs are ways of tracking that `make bench-writes` compares."""
    tables = re.findall(r"^\| (?:µs a row|× base) .*?(?=\n\n)", PAGE, re.MULTILINE | re.DOTALL)
    assert tables[0].startswith("| µs a row")
    for table in tables:
        rows = [line.strip("| ").split(" | ")[0] for line in table.splitlines()[2:]]
        assert rows[0] == bench_writes.BASE
        assert set(rows) <= {*bench_writes.FAST, *bench_writes.DURABLE, *bench_writes.PAUSED}
        assert {bench_writes.OURS, bench_writes.SHIPPED, bench_writes.SLOT, bench_writes.REPLICA} <= set(rows)


def test_the_folder_of_the_sql_is_there() -> None:
    """And the triggers are called what the page calls them."""
    assert (ROOT / "sql" / "outbox" / "capture.sql").exists() and "`sql/outbox/`" in PAGE
    assert (
        'ENABLE ALWAYS TRIGGER "00_wal_tracker_capture"`' in PROSE
        and "00_wal_tracker_capture" in switch.CAPTURE_TRIGGERS
    )


@pytest.mark.parametrize(("is_strict", "ids"), [(False, 101), (True, 1)], ids=["tolerant", "strict"])
def test_tolerant_capture_takes_a_transaction_id_for_each_row(database: Database, is_strict: bool, ids: int) -> None:
    """One for the statement, and under tolerant capture one more for each of its hundred rows."""
    database.sql("create table events (id int primary key)")
    capture(database, "events", is_strict=is_strict)
    following = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
    connection = database.connect()
    # Whoever else is on the server takes some, too: the least of some tries is ours.
    taken = []
    with connection.cursor() as cursor:
        for first in range(0, 500, 100):
            cursor.execute(following)
            before = cursor.fetchone()[0]
            cursor.execute("insert into events select generate_series(%s, %s)", (first + 1, first + 100))
            cursor.execute(following)
            taken.append(cursor.fetchone()[0] - before)
    connection.close()
    assert min(taken) == ids


def test_a_replication_role_writes_past_ordinary_triggers(database: Database) -> None:
    """Unless the table's owner asks for them always, which `apply` leaves as it is."""
    database.sql("create table notes (id int primary key)")
    wanted = capture(database, "notes")
    write = "set session_replication_role = replica; insert into notes values (%s)"
    database.sql(write, 1)
    assert captured(database) == []
    database.sql('alter table notes enable always trigger "00_wal_tracker_capture"')
    database.sql(write, 2)
    assert captured(database) == [("INSERT", None, {"id": 2})]
    assert setup.plan(wanted).steps == ()


def test_the_capture_functions_that_are_measured_are_those_apply_makes(database: Database) -> None:
    """The rows are written to JSON by the same expressions, under the same settings."""
    database.sql("create table plain (id int, summary text); create table floats (id int, value float8)")
    capture(database, "plain", "floats")
    made = (
        "select pg_get_functiondef(tgfoid) from pg_trigger "
        "where tgname = '00_wal_tracker_capture' and tgrelid = %s::regclass"
    )

    def source(table: str) -> str:
        return str(database.sql(made, table)[0][0]).lower()

    assert all(f" {bench_writes.CAPTURE[record]}" in source("plain") for record in ("old", "new"))
    assert source("floats").count("\n set ") == 1 + bench_writes.SETTINGS.count("\nset ")
    capture(database, "plain", "floats", ignored={"plain": {"summary"}})
    assert all(f" {expression}" in source("plain") for expression in bench_writes.WITHOUT.values())
