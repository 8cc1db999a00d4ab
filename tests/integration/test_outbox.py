"""Reading the outbox: everything committed, once, in order, and then removed; whatever dies on the way."""

from __future__ import annotations

import logging
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from tests.conformance.capture import documents
from tests.support import matrix
from tests.support.fixtures import missing
from tests.support.items import ABORTED, SCHEMA, Writers
from tests.support.outbox import capture, drain, install, reader, reading
from tests.support.pooler import Pooler
from tests.support.postgres import Database, Server, wait_until
from tests.support.proxy import ChaosProxy
from wal_tracker.errors import CheckpointRegression, OutboxInUse, SourceRefused, SourceUnavailable, WrongServer
from wal_tracker.lsn import LSN
from wal_tracker.model import Change, Commit, Item, Message
from wal_tracker.source import outbox
from wal_tracker.source.connection import read_sql
from wal_tracker.source.outbox import CaptureFailure, MissingRows, OutboxSource


@pytest.fixture
def shop(database: Database) -> Database:
    """A database with one captured table."""
    database.sql("create table t (id bigint primary key, note text)")
    install(database)
    capture(database, "public.t")
    return database


def ids(items: list[Item]) -> list[int]:
    """Of the rows inserted, in the order of the items."""
    return [item.new["id"] for item in items if isinstance(item, Change) and item.new is not None]


def waiting(database: Database) -> int:
    """Rows in the outbox."""
    ((count,),) = database.sql("select count(*) from wal_tracker.outbox")
    return int(count)


def read_until(source: OutboxSource, fact: Callable[[], Any], within_s: float = 20) -> list[Item]:
    """Read, confirming everything, until `fact` is true."""
    items: list[Item] = []
    deadline = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < deadline, f"not true within {within_s} s"
        found = source.read(0.05)
        items += found
        for item in found:
            if isinstance(item, Commit):
                source.confirm(item.transaction.end_lsn)
    return items


# Order and completeness --------------------------------------------------------------------------


def test_a_transaction_that_commits_late_is_not_passed_over(shop: Database) -> None:
    """Ids are given out at the beginning and become visible at the end: nothing goes by "higher than the last"."""
    early = psycopg2.connect(shop.dsn)
    with reading(shop) as source:
        early.cursor().execute("insert into t values (1)")
        shop.sql("insert into t values (2)")
        first = drain(source)
        early.commit()
        shop.sql("insert into t values (3)")
        second = drain(source)
    early.close()

    assert (ids(first), ids(second)) == ([2], [1, 3])


def test_a_long_transaction_elsewhere_holds_nothing_back(shop: Database) -> None:
    """Neither delivery nor, as long as it has captured nothing, the removal of what is delivered."""
    elsewhere = psycopg2.connect(shop.dsn)
    elsewhere.cursor().execute("create table busy (x int); insert into busy values (1)")
    with reading(shop) as source:
        for number in range(2):
            shop.sql("insert into t values (%s)", number)
            assert ids(drain(source)) == [number]
            read_until(source, lambda: waiting(shop) == 0)
    elsewhere.close()


def test_a_long_transaction_with_rows_of_ours_holds_only_itself_back(shop: Database) -> None:
    """What others write meanwhile is delivered, and its table is emptied once the long one has ended."""
    long = psycopg2.connect(shop.dsn)
    long.cursor().execute("insert into t values (1)")
    with reading(shop) as source:
        shop.sql("insert into t values (2)")
        assert ids(drain(source)) == [2]
        shop.sql("insert into t values (3)")
        assert ids(drain(source)) == [3]
        long.commit()
        assert ids(drain(source)) == [1]
        read_until(source, lambda: waiting(shop) == 0)
    long.close()


def test_who_waited_for_a_row_comes_after_who_held_it(shop: Database, background: Callable[..., Any]) -> None:
    """Order is commit order for every row, also where one claim finds both transactions."""
    shop.sql("insert into t values (1, 'made')")
    holder = psycopg2.connect(shop.dsn)
    later = psycopg2.connect(shop.dsn)
    later.cursor().execute("select pg_current_xact_id()")
    holder.cursor().execute("update t set note = 'first' where id = 1")
    thread = background(lambda: later.cursor().execute("update t set note = 'second' where id = 1"))
    wait_until(lambda: shop.sql("select 1 from pg_stat_activity where wait_event_type = 'Lock'"))
    holder.commit()
    thread.join()
    later.commit()
    with reading(shop) as source:
        items = drain(source)
    holder.close()
    later.close()

    assert [item.new["note"] for item in items if isinstance(item, Change) and item.new] == ["made", "first", "second"]


def test_each_transaction_is_whole_and_has_a_position_of_its_own(shop: Database) -> None:
    """Positions rise; a transaction's changes stand between the end of the last one and its own."""
    for number in range(5):
        shop.sql("insert into t select 10 * %s + n from generate_series(0, 3) as n", number)
    with reading(shop) as source:
        items = drain(source)

    commits = [item for item in items if isinstance(item, Commit)]
    assert [ids(list(group)) for group in split(items)] == [[10 * n + m for m in range(4)] for n in range(5)]
    assert [commit.transaction.end_lsn - commit.transaction.commit_lsn for commit in commits] == [1] * 5
    ends = [commit.transaction.end_lsn for commit in commits]
    assert ends == sorted(set(ends))


def split(items: list[Item]) -> Iterator[list[Item]]:
    """Items by transaction."""
    group: list[Item] = []
    for item in items:
        group.append(item)
        if isinstance(item, Commit):
            yield group
            group = []
    assert not group


def test_rows_in_both_tables_are_one_transaction(shop: Database) -> None:
    """A transaction that began before the tables changed places is claimed, ordered and handed on as one."""
    connection = psycopg2.connect(shop.dsn)
    with reading(shop) as source:
        connection.cursor().execute("insert into t values (1)")
        shop.sql("select setval('wal_tracker.signal', 1)")
        connection.cursor().execute("insert into t values (2)")
        shop.sql("select setval('wal_tracker.signal', 0)")
        connection.cursor().execute("insert into t values (3)")
        connection.commit()
        items = drain(source, confirm=False)
    connection.close()

    assert ids(items) == [1, 2, 3]
    assert [item.ordinal for item in items if isinstance(item, Change)] == [0, 1, 2]
    assert len([item for item in items if isinstance(item, Commit)]) == 1


def test_emitted_events_are_messages_among_the_changes(shop: Database) -> None:
    """As in WAL mode: with the prefix, an ordinal of their own, the context, and the transaction they stand in."""
    shop.sql(
        "begin; insert into t values (1); select wal_tracker.set_context('{\"user\": 7}'); "
        "select wal_tracker.emit('{\"event\": \"a\"}'); savepoint s; select wal_tracker.emit('{\"event\": \"lost\"}'); "
        "rollback to s; select wal_tracker.emit('{\"event\": \"b\"}'); insert into t values (2); commit"
    )
    shop.sql("insert into t values (3)")
    with reading(shop) as source:
        items = drain(source)

    messages = [item for item in items if isinstance(item, Message)]
    assert [(m.prefix, m.content, m.ordinal, m.transactional) for m in messages] == [
        ("wal_tracker.event", b'{"event": "a"}', 0, True),
        ("wal_tracker.event", b'{"event": "b"}', 1, True),
    ]
    assert [item.context for item in items if not isinstance(item, Commit)] == [
        {},
        {"user": 7},
        {"user": 7},
        {"user": 7},
        {},
    ]


# Bounds ------------------------------------------------------------------------------------------


def test_a_transaction_of_any_size_is_read_in_parts(shop: Database) -> None:
    """No part is larger than a page, and together they are the transaction, in order."""
    count = 3 * outbox.PAGE_ROWS + 1
    shop.sql("insert into t select n from generate_series(1, %s) as n", count)
    shop.sql("insert into t values (0)")
    with reading(shop) as source:
        parts = []
        while not parts or ids(parts[-1]) != [0]:
            parts.append(source.read(1))
            assert source.caught_up_lsn == 0 or ids(parts[-1]) == [0]

    assert max(map(len, parts)) <= outbox.PAGE_ROWS + 1
    whole = [item for part in parts for item in part]
    assert ids(whole) == [*range(1, count + 1), 0]
    assert [item.ordinal for item in whole[:count] if isinstance(item, Change)] == list(range(count))
    assert len({item.transaction.commit_time for item in whole[:count]}) == 1


def test_large_rows_are_read_a_few_at_a_time(shop: Database) -> None:
    """By bytes as well as by rows, and also where they are compressed in the table."""
    shop.sql("insert into t select n, repeat(n || 'x', 500000) from generate_series(1, 30) as n")
    shop.sql(
        "insert into t select 1000 + n, (select string_agg(md5(random()::text), '') from generate_series(1, 32768)) "
        "from generate_series(1, 12) as n"
    )
    with reading(shop) as source:
        found: list[int] = []
        sizes = []
        while len(found) < 42:
            items = source.read(1)
            found += ids(items)
            sizes.append(source.last_read_bytes)

    assert len(set(found)) == 42
    assert max(sizes) < 10 * outbox.PAGE_BYTES


def test_the_size_of_a_row_is_no_integer_of_four_bytes(shop: Database) -> None:
    """Sixteen times a row of 128 MB, compressed, is more: no claim would ever succeed again."""
    for name in ("queries/outbox_claim.sql", "queries/outbox_parts.sql"):
        text = read_sql(name)
        sizes = re.findall(r"pg_column_size\((?:old|new)\) \* case when .*? end", text)
        assert len(sizes) == 4
        for size in sizes:
            assert shop.sql(f"select pg_typeof({size})::text from (select null::json, null::json) as _ (old, new)") == [
                ("bigint",)
            ]


def test_a_backlog_is_claimed_at_once_and_read_in_pages(shop: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many transactions wait, a page of claims is what is held of them."""
    monkeypatch.setattr(outbox, "PAGE_CLAIMS", 10)
    shop.sql("do $$ begin for n in 1..105 loop insert into t values (n); commit; end loop; end $$")
    with reading(shop) as source:
        items = drain(source)

    assert ids(items) == list(range(1, 106))


# Dying -------------------------------------------------------------------------------------------


def test_who_comes_after_a_crash_finds_the_same_positions(shop: Database) -> None:
    """What was read and not confirmed comes again, the same; what was confirmed does not."""
    for number in range(4):
        shop.sql("insert into t values (%s)", number)
    first = reader(shop, lease_s=0.2)
    first.connect(LSN(0))
    before = first.read(1)
    commits = [item for item in before if isinstance(item, Commit)]
    first.confirm(commits[1].transaction.end_lsn)
    shop.sql("insert into t values (4)")
    # Without a word, as kill -9 does it.
    first._disconnect()
    with closing(reader(shop)) as second:
        wait_until(lambda: connected(second, commits[1].transaction.end_lsn))
        after = drain(second)

    assert (ids(before), ids(after)) == ([0, 1, 2, 3], [2, 3, 4])
    again = [item.transaction for item in after if isinstance(item, Commit)]
    assert [(t.xid, t.commit_lsn, t.end_lsn, t.commit_time) for t in again[:2]] == [
        (c.transaction.xid, c.transaction.commit_lsn, c.transaction.end_lsn, c.transaction.commit_time)
        for c in commits[2:]
    ]


def connected(source: OutboxSource, start: LSN = LSN(0)) -> bool:
    """Whether the outbox is ours now."""
    try:
        source.connect(start)
    except OutboxInUse:
        return False
    return True


def test_two_never_read_at_once(shop: Database) -> None:
    """The second is refused for as long as the first is heard of, and takes over when it is not."""
    first, second = reader(shop, lease_s=1.0), reader(shop, lease_s=1.0)
    with closing(first), closing(second):
        first.connect(LSN(0))
        with pytest.raises(OutboxInUse, match=r"is read by .*process") as refused:
            second.connect(LSN(0))
        assert refused.value.retryable
        shop.sql("insert into t values (1)")
        items = drain(first, confirm=False)
        wait_until(lambda: connected(second))
        assert ids(drain(second)) == [1]
        # The first one awakes: it may neither claim nor remove anything any more.
        with pytest.raises(SourceUnavailable, match="another process"):
            first.confirm(items[-1].transaction.end_lsn)
        with pytest.raises(SourceUnavailable, match="another process"):
            first.end_of_commits(LSN(0))


def test_who_has_delivered_everything_lets_the_next_one_in_at_once(shop: Database) -> None:
    """A restart costs no waiting for a lease to end, and nobody asks to be woken meanwhile."""
    shop.sql("insert into t values (1)")
    with reading(shop) as first:
        drain(first)
        read_until(first, lambda: shop.sql("select last_value >= 2 from wal_tracker.signal") == [(True,)])
    assert shop.sql("select last_value < 2 from wal_tracker.signal") == [(True,)]
    with reading(shop) as second:
        assert second.read(0) == []


def test_nobody_is_left_asleep(shop: Database) -> None:
    """Who goes with work undone keeps the lease, and wants no notifications; who comes after a crash ends them, too."""

    def is_asleep() -> bool:
        return shop.sql("select last_value & 2 from wal_tracker.signal") == [(2,)]

    source = reader(shop, lease_s=0.2)
    source.connect(LSN(0))
    shop.sql("insert into t values (1)")
    while not source.read(1):
        pass
    while not is_asleep():
        assert source.read(0.05) == []
    source.close()
    assert not is_asleep()
    assert shop.sql("select holder is not null from wal_tracker.reader") == [(True,)]

    shop.sql("select setval('wal_tracker.signal', 2)")
    wait_until(lambda: connected(source))
    assert not is_asleep()
    # Who has lost the outbox to another one keeps his hands off it.
    shop.sql("update wal_tracker.reader set holder = 'somebody else'")
    shop.sql("select setval('wal_tracker.signal', 2)")
    source.close()
    assert is_asleep()


def test_a_signal_without_a_value_is_none(shop: Database) -> None:
    """As a dump of definitions alone leaves it: the first table, and nobody sleeps."""
    shop.sql("alter sequence wal_tracker.signal restart")
    assert shop.sql("select pg_sequence_last_value('wal_tracker.signal')") == [(None,)]
    with reading(shop) as source:
        shop.sql("alter sequence wal_tracker.signal restart")
        source.end_of_commits(LSN(0))


def test_a_process_that_waits_keeps_its_lease(shop: Database) -> None:
    """Without anything to read it is heard of all the same."""
    first, second = reader(shop, lease_s=0.6), reader(shop, lease_s=0.6)
    with closing(first), closing(second):
        first.connect(LSN(0))
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            first.read(0.1)
            assert not connected(second)


def test_a_cut_line_and_a_restarted_server_are_a_reason_to_come_back(
    server: Callable[..., Server], background: Callable[..., Any]
) -> None:
    """Retryable errors, and nothing lost or repeated beyond what was not confirmed."""
    made = server()
    database = made.create_database()
    database.sql("create table t (id bigint primary key, note text)")
    install(database)
    capture(database, "public.t")
    with closing(reader(database)) as source:
        source.connect(LSN(0))
        database.sql("insert into t values (1)")
        drain(source)
        database.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'wal_tracker'")
        with pytest.raises(SourceUnavailable) as cut:
            source.read(1)
        assert cut.value.retryable
        source.close()
        source.connect(LSN(0))
        database.sql("insert into t values (2)")
        assert ids(drain(source)) == [2]
        database.sql("insert into t values (3)")
        made.restart("crash")
        with pytest.raises(SourceUnavailable):
            source.read(1)
        source.close()
        source.connect(LSN(0))
        assert ids(drain(source)) == [3]


def test_a_line_that_goes_dead_is_given_up(shop: Database, proxy: ChaosProxy) -> None:
    """An error, not a wait for ever; what was read by then comes again."""
    dsn = psycopg2.extensions.make_dsn(shop.dsn, host="127.0.0.1", port=proxy.port)
    shop.sql("insert into t values (1)")
    with closing(reader(shop, dsn=dsn)) as source:
        source.connect(LSN(0))
        assert ids(source.read(1)) == [1]
        proxy.cut()
        with pytest.raises(SourceUnavailable):
            source.confirm(LSN(source._position))


def test_positions_stay_above_what_is_delivered_after_a_failover(shop: Database) -> None:
    """A promoted standby that had not received our last claims gives none of their positions again."""
    shop.sql("insert into t values (1)")
    with reading(shop) as source:
        ahead = LSN(drain(source)[-1].transaction.end_lsn + 10**9)
    with closing(reader(shop)) as source:
        assert source.connect(ahead) == ahead
        shop.sql("insert into t values (2)")
        items = drain(source)

    assert ids(items) == [2]
    assert items[-1].transaction.commit_lsn >= ahead


def test_what_is_to_be_read_is_claimed_above_what_is_delivered(shop: Database) -> None:
    """Also before the outbox is read at all (--until-caught-up), and above the destination that is furthest."""
    for start, beyond in ((10**15, 0), (10**15, 10**16)):
        shop.sql("truncate t; insert into t values (1)")
        source = reader(shop, beyond=LSN(beyond))
        with closing(source):
            until = source.end_of_commits(LSN(start))
            assert until > max(start, beyond)
            source.close()
            source.connect(LSN(start))
            items = drain(source)
        assert ids(items) == [1]
        commits = [item.transaction for item in items if isinstance(item, Commit)]
        assert all(transaction.commit_lsn >= max(start, beyond) for transaction in commits)


def test_a_crash_takes_back_nothing_that_was_handed_on(server: Callable[..., Server]) -> None:
    """Commits that nobody waited for (synchronous_commit = off) are durable before we tell of them."""
    made = server(synchronous_commit="off", wal_writer_delay="10s")
    database = made.create_database()
    database.sql("create table t (id bigint primary key, note text)")
    install(database)
    capture(database, "public.t")
    database.sql("checkpoint")
    database.sql("set synchronous_commit = on; select pg_logical_emit_message(true, 'x', 'x')")
    with reading(database) as source:
        database.sql("insert into t values (1)")
        items = drain(source, confirm=False)
        made.kill9()
    made.start()

    assert ids(items) == [1]
    assert database.sql("select id from t") == [(1,)]
    with closing(reader(database)) as source:
        wait_until(lambda: connected(source))
        assert [item.transaction.xid for item in drain(source)] == [item.transaction.xid for item in items]


def test_an_outbox_of_another_server_is_refused(shop: Database) -> None:
    """Its transaction ids mean nothing here: a database restored from a dump says so, with the remedy."""
    shop.sql("update wal_tracker.reader set system_identifier = '1'")
    with pytest.raises(WrongServer, match="wal_tracker apply"), reading(shop):
        pass


def test_no_outbox_is_told_with_the_remedy(database: Database) -> None:
    """Not an SQL error."""
    with pytest.raises(SourceRefused, match="wal_tracker apply"), reading(database):
        pass


def test_only_what_was_read_can_be_confirmed(shop: Database) -> None:
    """A position beyond, or one that goes back, is a mistake of ours."""
    shop.sql("insert into t values (1)")
    with reading(shop) as source:
        items = drain(source)
        with pytest.raises(CheckpointRegression):
            source.confirm(LSN(items[-1].transaction.end_lsn + 1))
        with pytest.raises(CheckpointRegression):
            source.confirm(LSN(1))


# Cleaning ----------------------------------------------------------------------------------------


def test_delivered_rows_are_gone_within_seconds(shop: Database) -> None:
    """By TRUNCATE: no dead rows are left for vacuum."""
    shop.sql("insert into t select n from generate_series(1, 1000) as n")
    with reading(shop) as source:
        drain(source)
        begun = time.monotonic()
        read_until(source, lambda: waiting(shop) == 0)

    assert time.monotonic() - begun < 5
    assert shop.sql(
        "select sum(pg_relation_size(oid)) from pg_class where relname in ('outbox_0', 'outbox_1')"
    ) == [(0,)]


def test_nothing_is_removed_before_it_is_confirmed(shop: Database) -> None:
    """Neither what is claimed nor what has not been claimed yet."""
    shop.sql("insert into t values (1)")
    with reading(shop) as source:
        items = drain(source, confirm=False)
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            assert source.read(0.1) == []
        assert waiting(shop) == 1
        shop.sql("insert into t values (2)")
        source.confirm(items[-1].transaction.end_lsn)
        source._clean(source._connected(), 1 - source._turn)
        source._clean(source._connected(), source._turn)
        assert waiting(shop) >= 1
        assert ids(drain(source)) == [2]


def test_who_reads_the_claims_keeps_nothing_from_being_emptied(shop: Database) -> None:
    """Vacuum or a dump at the claims: they stay for now, and the outbox is emptied all the same."""
    shop.sql(
        "insert into wal_tracker.claim select '0/0'::pg_lsn + n, 0, '1', '(0,1)', '(0,1)', 1, 1 "
        "from generate_series(1, 100000) as n; delete from wal_tracker.claim"
    )
    elsewhere = psycopg2.connect(shop.dsn)
    elsewhere.cursor().execute("lock table wal_tracker.claim in access share mode")
    with reading(shop) as source:
        shop.sql("insert into t values (1)")
        drain(source)
        read_until(source, lambda: waiting(shop) == 0, within_s=8)
        elsewhere.close()
        shop.sql("insert into t values (2)")
        drain(source)
        read_until(source, lambda: shop.sql("select pg_relation_size('wal_tracker.claim') < 1000000") == [(True,)])


def test_a_trickle_makes_no_new_files_all_the_time(shop: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each TRUNCATE is work for the catalog and for every session: once in some seconds, for little."""
    monkeypatch.setattr(outbox, "IDLE_TURN_S", 0.1)
    files = "select array_agg(pg_relation_filenode(oid) order by oid) from pg_class where relname ~ '^outbox_[01]$'"
    seen = set()
    with reading(shop) as source:
        begun = time.monotonic()
        number = 0
        while time.monotonic() - begun < 2.5:
            number += 1
            shop.sql("insert into t values (%s)", number)
            drain(source)
            quiet = time.monotonic() + 0.4
            while time.monotonic() < quiet:
                source.read(0.05)
            seen.add(str(shop.sql(files)))

    assert len(seen) <= 2


def test_nothing_is_lost_or_doubled_while_the_tables_change_places(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Concurrent writers with savepoints and rollbacks, tables emptied as often as can be, readers that die."""
    monkeypatch.setattr(outbox, "TURN_BYTES", 1)
    monkeypatch.setattr(outbox, "TIDY_INTERVAL_S", 0.0)
    database.sql(SCHEMA)
    install(database)
    capture(database, "public.items")
    seen: dict[tuple[int, int], None] = {}
    rows: dict[int, int] = {}
    position = LSN(0)

    def take(items: list[Item]) -> None:
        nonlocal position
        for item in items:
            if isinstance(item, Commit):
                position = item.transaction.end_lsn
                continue
            assert isinstance(item, Change)
            place = (item.transaction.xid, item.ordinal)
            assert place not in seen
            seen[place] = None
            row = item.new or item.old
            assert row is not None
            assert row["note"] != ABORTED
            if item.op == "insert":
                assert row["id"] not in rows
                rows[row["id"]] = 1
            elif item.op == "update":
                assert row["version"] == rows[row["id"]] + 1
                rows[row["id"]] += 1
            else:
                del rows[row["id"]]

    emptied = 0
    with Writers(database, threads=4) as writers:
        for _ in range(4):
            source = reader(database, lease_s=0.2)
            wait_until(lambda source=source: connected(source, position))
            until = time.monotonic() + 1.0
            while time.monotonic() < until:
                take(source.read(0.05))
                if position > source._confirmed and not source._large:
                    source.confirm(position)
                emptied += not source._sizes[1 - source._turn]
            take_rest(source, take)
            source._disconnect()
        writers.stop()
        with closing(reader(database)) as source:
            wait_until(lambda: connected(source, position))
            take(drain(source))
            read_until(source, lambda: waiting(database) == 0)

    assert rows == dict(database.sql("select id, version from items"))
    assert emptied > 3


def take_rest(source: OutboxSource, take: Callable[[list[Item]], None]) -> None:
    """To the end of a transaction that is read in parts."""
    while source._large is not None:
        take(source.read(0.1))


# Waking ------------------------------------------------------------------------------------------


def test_a_commit_wakes_the_reader_within_milliseconds(shop: Database) -> None:
    """Idle, as in WAL mode; the machine is shared, hence the generous bound on the median."""
    delays: list[float] = []
    connection = shop.connect()
    with reading(shop) as source:
        for number in range(30):
            drain(source)
            quiet = time.monotonic() + 0.05
            while time.monotonic() < quiet:
                assert source.read(0.02) == []
            woken: list[float] = []
            thread = threading.Thread(target=write, args=(connection, number, woken))
            thread.start()
            while not (items := source.read(1)):
                pass
            delays.append(time.monotonic() - woken[0] if woken else 0.0)
            thread.join()
            source.confirm(items[-1].transaction.end_lsn)
    connection.close()

    assert statistics.median(delays) < 0.03


def write(connection: Any, number: int, done: list[float]) -> None:
    """Insert a row, and note when that was."""
    with connection.cursor() as cursor:
        done.append(time.monotonic())
        cursor.execute("insert into t values (%s)", (number,))


def test_nobody_is_notified_under_load(shop: Database) -> None:
    """A reader that is busy has itself woken by nobody."""
    with reading(shop) as source:
        read_until(source, lambda: shop.sql("select last_value & 2 from wal_tracker.signal") == [(2,)])
        stop = threading.Event()

        def write_on() -> None:
            connection = shop.connect()
            with connection.cursor() as cursor:
                number = 0
                while not stop.is_set():
                    number += 1
                    cursor.execute("insert into t values (%s)", (number,))
            connection.close()

        thread = threading.Thread(target=write_on)
        thread.start()
        try:
            read_until(source, lambda: shop.sql("select last_value & 2 from wal_tracker.signal") == [(0,)])
        finally:
            stop.set()
            thread.join()


def test_notifications_of_others_do_not_keep_the_server_busy(shop: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any role may notify: that is no reason to look more often than the work of looking allows."""
    looks = 0

    def count(claim: Callable[[], bool]) -> Callable[[], bool]:
        def counted() -> bool:
            nonlocal looks
            looks += 1
            return claim()

        return counted

    with reading(shop) as source:
        read_until(source, lambda: source._is_asleep)
        monkeypatch.setattr(outbox, "CLAIM_REST", 100_000)
        monkeypatch.setattr(source, "_claim", count(source._claim))
        until = time.monotonic() + 1
        while time.monotonic() < until:
            shop.sql("notify wal_tracker")
            assert source.read(0.01) == []

    assert looks <= 2


# The rest ----------------------------------------------------------------------------------------


def test_any_isolation_the_role_prefers_will_do(shop: Database) -> None:
    """Claims and removals are read committed, whatever new transactions are by default."""
    shop.sql(f'alter database "{shop.name}" set default_transaction_isolation = serializable')
    with reading(shop) as source:
        for number in range(3):
            shop.sql("insert into t values (%s)", number)
            assert ids(drain(source)) == [number]
        read_until(source, lambda: waiting(shop) == 0)


def test_failed_captures_are_handed_over_and_forgotten(shop: Database) -> None:
    """Counted by transaction, table and cause; they come again until somebody has them on record."""
    told: list[CaptureFailure] = []
    shop.sql(
        "insert into wal_tracker.capture_failure (at, xid, relation, op, sqlstate) "
        "select now(), '7', (select id from wal_tracker.tracked), 'UPDATE', '22003' from generate_series(1, 3)"
    )

    def refuse(_: list[CaptureFailure]) -> None:
        raise SourceUnavailable("the state store is busy")

    with reading(shop, on_failures=refuse) as source, pytest.raises(SourceUnavailable, match="busy"):
        source.read(0.1)
    with reading(shop, on_failures=told.extend) as source:
        source.read(0.1)

    assert [(f.xid, f.table, f.op, f.sqlstate, f.count) for f in told] == [(7, "public.t", "UPDATE", "22003", 3)]
    assert shop.sql("select count(*) from wal_tracker.capture_failure") == [(0,)]


def test_on_the_way_to_wal_mode_only_what_the_snapshot_shows_is_read(shop: Database) -> None:
    """The rest comes by the slot, and nothing is removed; a worker that still runs in trigger mode keeps to it, too."""
    late = psycopg2.connect(shop.dsn)
    late.cursor().execute("insert into t values (1)")
    shop.sql("insert into t values (2)")
    ((snapshot,),) = shop.sql("select pg_current_snapshot()::text")
    late.commit()
    late.close()
    shop.sql("insert into t values (3)")
    with reading(shop, visible_in=snapshot) as source:
        assert not source.is_drained
        assert ids(drain(source)) == [2]
        assert source.is_drained
    assert waiting(shop) == 3

    shop.sql("insert into wal_tracker.switch (to_mode, snapshot) values ('wal', %s)", snapshot)
    with pytest.raises(SourceRefused, match="mode was changed to wal"), reading(shop) as source:
        drain(source)
    shop.sql("delete from wal_tracker.switch")
    with reading(shop) as source:
        assert sorted(ids(drain(source))) == [1, 3]


@pytest.mark.parametrize("rows", [1, outbox.PAGE_ROWS + 2])
def test_rows_somebody_else_removed_are_told(shop: Database, rows: int) -> None:
    """An operator's TRUNCATE of the outbox loses what was claimed; a gap is on record before that is passed."""
    told: list[MissingRows] = []
    shop.sql("insert into t select n from generate_series(1, %s) as n", rows)
    with reading(shop, on_missing=told.append) as source:
        source.end_of_commits(LSN(0))
        shop.sql("truncate wal_tracker.outbox_0, wal_tracker.outbox_1")
        (commit,) = source.read(1)

    assert told == [MissingRows(xid=commit.transaction.xid, end_lsn=commit.transaction.end_lsn, count=rows)]


def test_claimed_rows_are_found_wherever_they_were_moved_to(shop: Database) -> None:
    """VACUUM FULL, CLUSTER and pg_repack give rows other places, before a transaction is read and in its middle."""
    told: list[MissingRows] = []
    large = 2 * outbox.PAGE_ROWS
    connection = psycopg2.connect(shop.dsn)
    connection.cursor().execute("insert into t select n, repeat('x', 100) from generate_series(1, 5000) as n")
    connection.rollback()
    shop.sql("insert into t select n from generate_series(1, 5) as n")
    shop.sql("insert into t select n from generate_series(6, %s) as n", large)
    with reading(shop, on_missing=told.append) as source:
        source.end_of_commits(LSN(0))
        shop.sql("vacuum full wal_tracker.outbox_0")
        assert ids(source.read(1)) == [1, 2, 3, 4, 5]
        found = ids(source.read(1))
        connection.cursor().execute("insert into t values (0)")
        connection.rollback()
        shop.sql("create index on wal_tracker.outbox_0 (lsn desc)")
        shop.sql("cluster wal_tracker.outbox_0 using outbox_0_lsn_idx")
        found += ids(drain(source))
    connection.close()

    assert found == list(range(6, large + 1))
    assert told == []


def test_a_pooler_in_transaction_mode_will_do(shop: Database) -> None:
    """No session is ours: nothing is left in one, and notifications are done without."""
    try:
        pooler = Pooler(shop)
    except matrix.Missing as reason:
        missing(str(reason))
    with closing(pooler), closing(reader(shop, dsn=pooler.dsn)) as source:
        source.connect(LSN(0))
        for number in range(20):
            shop.sql("insert into t values (%s)", number)
            assert ids(drain(source)) == [number]
        read_until(source, lambda: waiting(shop) == 0)
        assert shop.sql("select last_value & 2 from wal_tracker.signal") == [(0,)]
        application = psycopg2.connect(pooler.dsn)
        with application.cursor() as cursor:
            cursor.execute("select current_setting('statement_timeout'), array(select * from pg_listening_channels())")
            assert cursor.fetchall() == [("0", [])]
        application.close()


def test_ignored_columns_are_not_in_the_outbox_and_missed_by_nobody(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Left out when they are captured; what is captured keeps its digits, and rows without them are nothing new."""
    database.sql(
        "create table t (id bigint primary key, secret text, n numeric(12,2), free numeric, at timestamptz, f float8, "
        "j jsonb, twice bigint generated always as (id * 2) stored)"
    )
    install(database)
    capture(database, "public.t", ignored=["secret"])
    database.sql(
        "insert into t values (1, 'hush', 1.50, 0.10, '2026-01-02 03:04:05.60+00', 1e300, '{\"a\": 1.0}'), "
        "(9007199254740993, 'hush', null, null, null, 'NaN', null)"
    )
    database.sql("set timezone = 'America/St_Johns'; update t set secret = 'still'")
    with caplog.at_level(logging.WARNING), reading(database) as source:
        captured = database.sql("select string_agg(old::text || new::text, '') from wal_tracker.outbox")
        rows = [document["new"] for document in documents(drain(source))]

    assert "hush" not in str(captured)
    assert rows[0] == {
        "id": 1,
        "n": "number 1.50",
        "free": "number 0.10",
        "at": "2026-01-02T03:04:05.6Z",
        "f": "number 1e+300",
        "j": {"a": "number 1.0"},
    }
    assert rows[1] == {"id": 9007199254740993, "n": None, "free": None, "at": None, "f": "NaN", "j": None}
    assert rows[2:] == rows[:2]
    assert not caplog.records
