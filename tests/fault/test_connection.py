"""The line and the server fail; the stream goes on, and the count is right."""

from __future__ import annotations

import json
from collections.abc import Callable

import psycopg2
import pytest

from tests.support import items
from tests.support.job import Job
from tests.support.postgres import Database, Server, wait_until
from tests.support.proxy import ChaosProxy


def _judge_against_replay(database: Database, job: Job) -> None:
    """What was delivered adds up to the table, and a reader that nothing disturbed makes the same bytes."""
    items.judge(database, job.lines())
    slot = job.config["source"]["slot"] + "_copy"
    source = {**job.config["source"], "slot": slot, "dsn": database.dsn}
    with Job({**job.config, "source": source}) as replay:
        replay.catch_up()
        assert job.lines() == replay.lines()


def _start(database: Database, job: Job) -> None:
    job.apply()
    slot = job.config["source"]["slot"]
    database.sql("select pg_copy_logical_replication_slot(%s, %s)", slot, slot + "_copy")
    job.start()


def test_a_cut_line_repeats_nothing(database: Database, proxy: ChaosProxy) -> None:
    """The connection is cut again and again, in the middle of transactions too; the process lives and loses nothing."""
    database.sql(items.SCHEMA)
    config = items.config(database)
    config["source"]["dsn"] = proxy.dsn(database.dsn)
    with Job(config) as job:
        _start(database, job)
        with items.Writers(database) as writers:
            for _ in range(5):
                job.wait_for_lines(len(job.lines()) + 30)
                proxy.cut()
            job.wait_for_lines(len(job.lines()) + 30)
            writers.stop()
            assert job.stop() == 0, job.log_text()
            assert "lost the stream" in job.log_text()
            job.catch_up()
            _judge_against_replay(database, job)


def test_a_silent_line_is_noticed(server: Callable[..., Server]) -> None:
    """A black hole swallows every byte without an error; the watchdog leaves the connection and comes back."""
    own = server(wal_sender_timeout="3s")
    database = own.create_database()
    database.sql(items.SCHEMA)
    config = items.config(database)
    with ChaosProxy(own.port) as proxy:
        config["source"]["dsn"] = proxy.dsn(database.dsn)
        with Job(config) as job:
            _start(database, job)
            with items.Writers(database) as writers:
                job.wait_for_lines(30)
                proxy.blackhole = True
                wait_until(lambda: "lost the stream" in job.log_text(), timeout_s=40)
                proxy.blackhole = False
                proxy.cut()
                job.wait_for_lines(len(job.lines()) + 30)
                writers.stop()
                assert job.stop() == 0, job.log_text()
                job.catch_up()
                _judge_against_replay(database, job)


@pytest.mark.parametrize("how", ["fast", "crash"])
def test_a_server_that_restarts_is_waited_for(server: Callable[..., Server], how: str) -> None:
    """A restart, or a kill -9 of the postmaster that takes confirmed_flush_lsn back, repeats and loses nothing."""
    own = server(fsync="on", synchronous_commit="on")
    database = own.create_database()
    database.sql(items.SCHEMA)
    with Job(items.config(database)) as job:
        _start(database, job)
        with items.Writers(database) as writers:
            job.wait_for_lines(100)
            writers.stop()
        own.restart(how)
        database.sql("insert into items select i, 1, 'made' from generate_series(90000001, 90000050) i")
        wait_until(lambda: any(line["properties"]["id"] == 90000050 for line in job.lines()))
        assert job.stop() == 0, job.log_text()
        job.catch_up()
        _judge_against_replay(database, job)


def test_a_slot_dropped_under_us_is_told_and_not_made_again(database: Database) -> None:
    """The process leaves with the name of the slot and the remedy; it makes no new slot by itself."""
    database.sql(items.SCHEMA)
    with Job(items.config(database)) as job:
        job.apply()
        slot = job.config["source"]["slot"]
        job.start()
        database.sql("insert into items values (1, 1, 'made')")
        job.wait_for_lines(1)
        _drop_as_soon_as_free(database, slot)
        assert job.wait(60) == 3, job.log_text()
        assert slot in job.log_text() and "does not exist" in job.log_text()
        assert not database.sql("select 1 from pg_replication_slots where slot_name = %s", slot)


def test_an_advanced_slot_is_a_recorded_gap(database: Database) -> None:
    """Somebody moves the slot past changes we never saw: `status` tells from where to where."""
    database.sql(items.SCHEMA)
    with Job(items.config(database)) as job:
        job.apply()
        slot = job.config["source"]["slot"]
        database.sql("insert into items values (1, 1, 'made')")
        job.catch_up()
        database.sql("insert into items values (2, 1, 'made')")
        database.sql("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", slot)
        database.sql("insert into items values (3, 1, 'made')")
        job.catch_up()
        assert [line["properties"]["id"] for line in job.lines()] == [1, 3]
        status = json.loads(job.run("status", "--json").stdout)
        (gap,) = status["gaps"]
        assert gap["reason"] == "slot_ahead" and gap["from_lsn"] < gap["to_lsn"]


def _drop_as_soon_as_free(database: Database, slot: str) -> None:
    def dropped() -> bool:
        try:
            database.sql("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s", slot)
            database.sql("select pg_drop_replication_slot(%s)", slot)
        except psycopg2.errors.ObjectInUse:
            return False
        return True

    wait_until(dropped)
