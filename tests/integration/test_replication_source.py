"""The replication source against real servers: what it reads, what it confirms, and how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg2
import psycopg2.extras
import pytest

from tests.support.fixtures import MAJOR
from tests.support.postgres import Database, Server, wait_until
from tests.support.proxy import ChaosProxy
from tests.support.replication import Consumer, confirmed, prepare, settings_for
from wal_tracker.errors import (
    CheckpointRegression,
    PublicationNotFound,
    SlotInUse,
    SlotLost,
    SlotNotFound,
    SourceUnavailable,
    WrongServer,
)
from wal_tracker.lsn import LSN
from wal_tracker.model import Change, Commit
from wal_tracker.secret import Secret
from wal_tracker.source import slot
from wal_tracker.source.connection import SourceSettings


def test_rows_come_in_commit_order_with_their_end(database: Database) -> None:
    """Items are the changes of a transaction, then its commit with `end_lsn` set; transactions in commit order."""
    prepare(database)
    with Consumer(settings_for(database)) as consumer:
        consumer.source.connect(LSN(0))
        database.sql("insert into t select n, 'a' from generate_series(1, 3) n")
        database.sql("insert into t values (4, 'b')")
        consumer.read_transactions(2)
        assert consumer.rows == [1, 2, 3, 4]
        assert [type(item) for item in consumer.items] == [Change, Change, Change, Commit, Change, Commit]
        assert sorted(consumer.commits) == consumer.commits
        assert all(consumer.commits)


def test_what_is_not_confirmed_comes_again(database: Database) -> None:
    """After a reconnect everything above the confirmed position is sent again, and nothing below it."""
    prepare(database)
    with Consumer(settings_for(database)) as consumer:
        consumer.source.connect(LSN(0))
        for number in range(1, 6):
            database.sql("insert into t values (%s, '')", number)
        consumer.read_transactions(5)
        consumer.source.confirm(consumer.commits[1])
        wait_until(lambda: confirmed(database) == consumer.commits[1])
        consumer.items.clear()
        consumer.source.connect(LSN(0))
        consumer.read_transactions(3)
        assert consumer.rows == [3, 4, 5]


def test_start_skips_what_is_durable_with_us(database: Database) -> None:
    """`connect(start)` asks for what comes after `start`, also where the slot is behind (a crashed server)."""
    prepare(database)
    with Consumer(settings_for(database)) as consumer:
        consumer.source.connect(LSN(0))
        for number in range(1, 4):
            database.sql("insert into t values (%s, '')", number)
        consumer.read_transactions(3)
        second = consumer.commits[1]
        consumer.items.clear()
        consumer.source.connect(second)
        consumer.read_transactions(1)
        assert consumer.rows == [3]


def test_confirm_refuses_to_go_back_or_beyond(database: Database) -> None:
    """A confirmation below an earlier one, or beyond what the server has sent, is our bug and never leaves."""
    prepare(database)
    with Consumer(settings_for(database)) as consumer:
        consumer.source.connect(LSN(0))
        database.sql("insert into t values (1, '')")
        consumer.read_transactions(1)
        end = consumer.commits[0]
        with pytest.raises(CheckpointRegression):
            consumer.source.confirm(LSN(end + 1_000_000))
        consumer.source.confirm(end)
        with pytest.raises(CheckpointRegression):
            consumer.source.confirm(LSN(end - 1))


def test_an_idle_slot_moves_with_the_servers_keep_alives(database: Database) -> None:
    """WAL that concerns nobody is passed on as `caught_up_lsn`, and confirming it moves the slot."""
    prepare(database)
    database.sql("create table elsewhere (id int)")
    database.sql("drop publication p")
    database.sql("create publication p for table t")
    with Consumer(settings_for(database)) as consumer:
        # The slot's window holds a dropped publication up to 17; begin after it.
        database.sql("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", database.name)
        consumer.source.connect(LSN(0))
        before = confirmed(database)
        database.sql("insert into elsewhere select generate_series(1, 1000)")
        ((target,),) = database.sql("select pg_current_wal_flush_lsn()::text")
        consumer.source.ask_for_keepalive()

        def has_caught_up() -> bool:
            consumer.source.ask_for_keepalive()
            return consumer.source.caught_up_lsn >= LSN.parse(target)

        consumer.read_until(has_caught_up)
        assert not any(isinstance(item, Change) for item in consumer.items)
        consumer.source.confirm(consumer.source.caught_up_lsn)
        wait_until(lambda: confirmed(database) >= LSN.parse(target) > before)


class StockConsumer:
    """What psycopg2's documentation shows: the control arm that loses a transaction."""

    def __init__(self, database: Database) -> None:
        self.connection = psycopg2.connect(
            database.dsn, connection_factory=psycopg2.extras.LogicalReplicationConnection
        )
        self.cursor = self.connection.cursor()
        self.cursor.start_replication(
            slot_name=database.name,
            decode=False,
            options={"proto_version": "1", "publication_names": "p"},
            status_interval=1,
        )
        self.rows = 0

    def read(self, *, confirm_first: bool, until_rows: int) -> None:
        """Read; confirm the first transaction's end as it passes."""
        commits = 0
        deadline = time.monotonic() + 30
        while self.rows < until_rows:
            assert time.monotonic() < deadline
            message = self.cursor.read_message()
            if message is None:
                time.sleep(0.01)
                continue
            kind = message.payload[:1]
            self.rows += kind == b"I"
            if kind == b"C":
                commits += 1
                if commits == 1 and confirm_first:
                    self.cursor.send_feedback(flush_lsn=int.from_bytes(message.payload[10:18], "big"), force=True)

    def answer_keepalives(self) -> None:
        """Read on for a while in mid-transaction, as a slow consumer does."""
        self.cursor.send_feedback(reply=True, force=True)
        ended = time.monotonic() + 1.5
        while time.monotonic() < ended:
            self.cursor.read_message()
        self.cursor.send_feedback(force=True)


def overlap(database: Database) -> None:
    """Three transactions: a long one that begins first and commits last, with two small ones inside it."""
    database.sql("create table t (id serial primary key, who text, pad text)")
    database.sql("create publication p for table t")
    database.create_slot(database.name)
    long = psycopg2.connect(database.dsn)
    with long.cursor() as cursor:
        cursor.execute("insert into t (who, pad) select 'long', repeat('x', 900) from generate_series(1, 60000)")
        database.sql("insert into t (who) values ('first')")
        database.sql("insert into t (who) values ('second')")
    long.commit()
    long.close()


@pytest.mark.slow
def test_the_stock_way_of_confirming_loses_a_transaction(database: Database) -> None:
    """
    The control arm of the next test: psycopg2's own flush position moves on keep-alives in mid-transaction.

    If this one ever fails, psycopg2 or PostgreSQL has changed, and `source.copy_stream` may be simplified.
    """
    overlap(database)
    before = confirmed(database)
    stock = StockConsumer(database)
    stock.read(confirm_first=True, until_rows=2002)
    first = wait_until(lambda: (lsn := confirmed(database)) > before and lsn)
    stock.answer_keepalives()
    # The second transaction was read and never confirmed; the slot has let go of it.
    wait_until(lambda: confirmed(database) > first)
    stock.connection.close()


def test_a_keep_alive_in_mid_transaction_confirms_nothing(database: Database) -> None:
    """
    postgres.md §0.1: what we read and did not confirm is sent again after a crash, whatever keep-alives came.

    Holds as long as nobody reads with psycopg2's `read_message` or confirms with its `send_feedback`.
    """
    overlap(database)
    with Consumer(settings_for(database)) as consumer:
        consumer.source.connect(LSN(0))
        consumer.read_until(lambda: len(consumer.rows) >= 2002)
        first, second = consumer.commits[:2]
        consumer.source.confirm(first)
        for _ in range(50):
            consumer.source.ask_for_keepalive()
            consumer.items += consumer.source.read(0.05)
            if len(consumer.commits) == 3:
                break
            assert consumer.source.caught_up_lsn == LSN(0), "inside a transaction nothing may be passed on"
        wait_until(lambda: confirmed(database) >= first)
        assert confirmed(database) == first < second
        consumer.source.close()
        consumer.items.clear()
        consumer.source.connect(LSN(0))
        consumer.read_transactions(1)
        assert next(item.new["who"] for item in consumer.items if isinstance(item, Change) and item.new) == "second"


def test_a_fast_shutdown_is_not_held_up(server: Callable[..., Server]) -> None:
    """A server that shuts down while something is outstanding, so that no confirmation is honest, is let go at once."""
    made = server()
    database = made.create_database()
    prepare(database)
    with Consumer(settings_for(database)) as consumer:
        consumer.source.connect(LSN(0))
        database.sql("insert into t values (1, '')")
        consumer.read_transactions(1)
        begun = time.monotonic()
        stopping = threading.Thread(target=made.stop)
        stopping.start()
        with pytest.raises(SourceUnavailable):
            consumer.read_until(lambda: False, timeout_s=10)
        consumer.source.close()
        stopping.join()
        assert time.monotonic() - begun < 5
        made.start()
        # It comes back with what was outstanding.
        consumer.items.clear()
        consumer.source.connect(LSN(0))
        consumer.read_transactions(1)
        assert consumer.rows == [1]


def test_a_fast_shutdown_is_not_held_up_when_idle(server: Callable[..., Server]) -> None:
    """With nothing outstanding, too."""
    made = server()
    database = made.create_database()
    prepare(database)
    with Consumer(settings_for(database)) as consumer:
        consumer.source.connect(LSN(0))
        begun = time.monotonic()
        stopping = threading.Thread(target=made.stop)
        stopping.start()
        with pytest.raises(SourceUnavailable):
            consumer.read_until(lambda: False, timeout_s=10)
        consumer.source.close()
        stopping.join()
        assert time.monotonic() - begun < 5


def test_a_dead_line_is_noticed(server: Callable[..., Server]) -> None:
    """A network that swallows everything makes no error: silence beyond the server's time-out does."""
    made = server(wal_sender_timeout="2s")
    database = made.create_database()
    prepare(database)
    with ChaosProxy(made.port) as proxy, Consumer(settings_for(database, dsn=proxy.dsn(database.dsn))) as consumer:
        consumer.source.connect(LSN(0))
        database.sql("insert into t values (1, '')")
        consumer.read_transactions(1)
        proxy.blackhole = True
        with pytest.raises(SourceUnavailable, match="nothing came for"):
            consumer.read_until(lambda: False, timeout_s=25)
        consumer.source.close()
        proxy.blackhole = False
        consumer.items.clear()
        consumer.source.connect(LSN(0))
        consumer.read_transactions(1)
        assert consumer.rows == [1]


def test_a_quiet_line_is_not_a_dead_one(server: Callable[..., Server]) -> None:
    """Nothing happens for much longer than the server's time-out, and the stream lives."""
    made = server(wal_sender_timeout="2s")
    database = made.create_database()
    prepare(database)
    with Consumer(settings_for(database)) as consumer:
        consumer.source.connect(LSN(0))
        ended = time.monotonic() + 5
        consumer.read_until(lambda: time.monotonic() > ended)
        database.sql("insert into t values (1, '')")
        consumer.read_transactions(1)


def test_a_cut_in_mid_transaction_brings_it_again_from_its_beginning(postgres: Server, database: Database) -> None:
    """After a reset every row of the cut transaction comes once more, in order."""
    prepare(database, "create table t (id int primary key, who text)")
    with ChaosProxy(postgres.port) as proxy, Consumer(settings_for(database, dsn=proxy.dsn(database.dsn))) as consumer:
        consumer.source.connect(LSN(0))
        proxy.truncate_after = 50_000
        database.sql("insert into t select n, repeat('x', 100) from generate_series(1, 5000) n")
        with pytest.raises(SourceUnavailable):
            consumer.read_until(lambda: False)
        consumer.source.close()
        assert consumer.commits == []
        consumer.items.clear()
        consumer.source.connect(LSN(0))
        consumer.read_transactions(1)
        assert consumer.rows == list(range(1, 5001))


def test_the_stream_ends_with_the_connection_beside_it(database: Database) -> None:
    """57P01 on the ordinary connection closes the stream: an administrator, or a shutdown, meant us."""
    prepare(database)
    with Consumer(settings_for(database)) as consumer:
        consumer.source.connect(LSN(0))
        database.sql(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
            "where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
        with pytest.raises(SourceUnavailable):
            consumer.read_until(lambda: False, timeout_s=5)


def test_a_terminated_walsender_says_so(database: Database) -> None:
    """pg_terminate_backend on the stream is retryable and carries the server's own reason."""
    prepare(database)
    with Consumer(settings_for(database)) as consumer:
        consumer.source.connect(LSN(0))
        database.sql(
            "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where slot_name = %s",
            database.name,
        )
        with pytest.raises(SourceUnavailable, match="terminating connection due to administrator command"):
            consumer.read_until(lambda: False, timeout_s=5)


def test_a_slot_in_use_says_by_whom(database: Database) -> None:
    """The slot is the mutual exclusion: the second reader gets `SlotInUse` at once."""
    prepare(database)
    with Consumer(settings_for(database)) as first, Consumer(settings_for(database)) as second:
        first.source.connect(LSN(0))
        with pytest.raises(SlotInUse, match="PID"):
            second.source.connect(LSN(0))


def test_a_slot_dropped_under_us_is_not_found(database: Database) -> None:
    """Somebody ends the stream and drops the slot: the reconnect says so."""
    prepare(database)
    with Consumer(settings_for(database)) as consumer:
        consumer.source.connect(LSN(0))
        database.sql(
            "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where slot_name = %s",
            database.name,
        )
        with pytest.raises(SourceUnavailable):
            consumer.read_until(lambda: False, timeout_s=5)
        database.sql("select pg_drop_replication_slot(%s)", database.name)
        with pytest.raises(SlotNotFound):
            consumer.source.connect(LSN(0))


def test_no_publication_is_an_error_on_every_version(database: Database) -> None:
    """18 would connect and silently send nothing."""
    database.create_slot(database.name)
    with Consumer(settings_for(database)) as consumer, pytest.raises(PublicationNotFound):
        consumer.source.connect(LSN(0))


def test_a_lost_slot_is_reported_as_lost_and_not_as_a_broken_line(server: Callable[..., Server]) -> None:
    """max_slot_wal_keep_size: the stream is ended with 57P01, and the reconnect finds the slot lost."""
    made = server(max_slot_wal_keep_size="1MB", max_wal_size="32MB", min_wal_size="32MB")
    database = made.create_database()
    prepare(database)
    with Consumer(settings_for(database)) as consumer:
        consumer.source.connect(LSN(0))
        database.sql("insert into t values (1, '')")
        consumer.read_transactions(1)
        database.sql("create table filler (pad text)")

        def write_until_lost() -> bool:
            database.sql("insert into filler select repeat('x', 1000) from generate_series(1, 40000)")
            database.sql("select pg_switch_wal()")
            database.sql("checkpoint")
            ((status,),) = database.sql(
                "select wal_status from pg_replication_slots where slot_name = %s", database.name
            )
            return bool(status == "lost")

        wait_until(write_until_lost)
        with pytest.raises(SourceUnavailable):
            consumer.read_until(lambda: False)
        with pytest.raises(SlotLost):
            consumer.source.connect(consumer.commits[0])


def test_a_server_taken_back_in_time_is_refused(database: Database) -> None:
    """A start beyond the server's WAL would be believed by 14 to 17, and the slot would jump there."""
    prepare(database)
    with Consumer(settings_for(database)) as consumer, pytest.raises(WrongServer):
        consumer.source.connect(LSN.parse("FF/0"))


def test_another_server_behind_the_same_name_is_refused(server: Callable[..., Server]) -> None:
    """A reconnect that reaches another cluster stops."""
    first, second = server(), server()
    databases = [made.create_database("same") for made in (first, second)]
    for database in databases:
        prepare(database)
    with ChaosProxy(first.port) as proxy:
        through = f"host=127.0.0.1 port={proxy.port} user=postgres dbname=same password="
        first.sql(f"alter role postgres password '{second.password}'")
        with Consumer(settings_for(databases[0], dsn=through + second.password)) as consumer:
            consumer.source.connect(LSN(0))
            proxy._upstream = ("127.0.0.1", second.port)
            with pytest.raises(WrongServer):
                consumer.source.connect(LSN(0))


def test_a_crash_of_the_server_loses_nothing(server: Callable[..., Server]) -> None:
    """kill -9 of the postmaster takes the slot back to its last checkpoint; what we ask for by `start` still holds."""
    made = server()
    database = made.create_database()
    prepare(database)
    made.sql("checkpoint")
    with Consumer(settings_for(database)) as consumer:
        consumer.source.connect(LSN(0))
        for number in range(1, 6):
            database.sql("insert into t values (%s, '')", number)
        consumer.read_transactions(5)
        durable = consumer.commits[2]
        consumer.source.confirm(durable)
        wait_until(lambda: confirmed(database) == durable)
        made.kill9()
        with pytest.raises(SourceUnavailable):
            consumer.read_until(lambda: False)
        consumer.source.close()
        with pytest.raises(SourceUnavailable):
            consumer.source.connect(durable)
        made.start()
        consumer.items.clear()
        consumer.source.connect(durable)
        consumer.read_transactions(2)
        assert consumer.rows == [4, 5]


@pytest.mark.standby
def test_a_stream_from_a_standby_goes_on_over_its_promotion(server: Callable[..., Server]) -> None:
    """The slot and the line survive promotion; a reconnect finds the same server on a later timeline."""
    primary = server(max(MAJOR, 16))
    database = primary.create_database("shop")
    database.sql("create table t (id int primary key, who text)")
    database.sql("create publication p for table t")
    standby = primary.standby()
    try:
        standby.catch_up()
        settings = SourceSettings(
            dsn=Secret(standby.dsn("shop")), primary_dsn=Secret(database.dsn), slot="s", publication="p"
        )
        slot.create(settings)
        with Consumer(settings) as consumer:
            consumer.source.connect(LSN(0))
            database.sql("insert into t values (1, '')")
            consumer.read_transactions(1)
            consumer.source.confirm(consumer.commits[-1])
            timeline = consumer.source.identity.timeline if consumer.source.identity else 0
            standby.catch_up()
            primary.stop("immediate")
            standby.promote()
            standby.sql("insert into t values (2, '')", database="shop")
            consumer.read_transactions(2)
            consumer.source.connect(consumer.commits[-1])
            assert consumer.source.identity is not None
            assert consumer.source.identity.timeline == timeline + 1
            standby.sql("insert into t values (3, '')", database="shop")
            consumer.read_transactions(3)
            assert consumer.rows == [1, 2, 3]
    finally:
        standby.close()


def test_a_temporary_slot_leaves_nothing_behind(database: Database) -> None:
    """`tail` looks, and the slot goes with the connection."""
    database.sql("create table t (id int primary key)")
    database.sql("create publication p for table t")
    with Consumer(settings_for(database, slot="wt_tail", temporary=True)) as consumer:
        consumer.source.connect(LSN(0))
        database.sql("insert into t values (1)")
        consumer.read_transactions(1)
        assert database.sql("select temporary from pg_replication_slots where slot_name = 'wt_tail'") == [(True,)]
    wait_until(lambda: not database.sql("select 1 from pg_replication_slots where slot_name = 'wt_tail'"))


def test_values_come_in_the_formats_decoders_count_on(database: Database) -> None:
    """The database's own settings do not reach the stream."""
    database.sql(f"alter database \"{database.name}\" set datestyle = 'SQL, DMY'")
    database.sql(f"alter database \"{database.name}\" set timezone = 'Asia/Tokyo'")
    database.sql(f"alter database \"{database.name}\" set bytea_output = 'escape'")
    prepare(database, "create table t (id int primary key, at timestamptz, b bytea)")
    with Consumer(settings_for(database)) as consumer:
        consumer.source.connect(LSN(0))
        database.sql("insert into t values (1, '2026-02-01 12:00+00', '\\x00ff')")
        consumer.read_transactions(1)
        (change,) = [item for item in consumer.items if isinstance(item, Change)]
        row: Any = change.new
        assert row["b"] == b"\x00\xff"
        assert row["at"].isoformat() == "2026-02-01T12:00:00+00:00"
