"""wal_tracker inside a program: iterators with an explicit confirmation, and functions as destinations."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

import wal_tracker
from tests.support.postgres import Database, wait_until
from wal_tracker.config.load import load
from wal_tracker.destinations.base import Limits, Receipt, Rejected
from wal_tracker.embed import RowChange, Stream
from wal_tracker.errors import ConfigError, DestinationUnavailable, StreamFull
from wal_tracker.model import Event
from wal_tracker.source import setup
from wal_tracker.state import open_state
from wal_tracker.testing import MemoryDestination


@pytest.fixture(params=["wal", "trigger"])
def mode(request: pytest.FixtureRequest) -> str:
    """Both: a program cannot tell."""
    return str(request.param)


@pytest.fixture
def path(database: Database, tmp_path: Path, mode: str) -> Path:
    """A configuration over table items, with all it needs in the database."""
    database.sql("create table items (id bigint primary key, price numeric(10, 2), tags jsonb)")
    found = tmp_path / "wal_tracker.yaml"
    write(found, database, tmp_path, mode)
    setup.apply(setup.desired(load(found, {})))
    return found


def write(path: Path, database: Database, tmp_path: Path, mode: str = "wal", **more: object) -> None:
    """The configuration; `more` are top-level keys."""
    document = {
        "source": {"dsn": database.dsn, "mode": mode, "slot": database.name, "publication": database.name},
        "state": f"sqlite:///{tmp_path}/state.db",
        "track": {"items.*": {"event": "item", "properties": {"id": "new.id", "n": "new.id + 1"}}},
        **more,
    }
    path.write_text(yaml.safe_dump(document))


def insert(database: Database, *ids: int) -> None:
    """One transaction each."""
    for number in ids:
        database.sql("insert into items values (%s, 12.50, '{\"a\": [1, 2.5]}')", number)


MANY = "do $$ begin for i in 1..5000 loop insert into items values (i); commit; end loop; end $$"
"""As many transactions."""


def ids(stream: Stream[RowChange]) -> list[int]:
    """What a stream still has."""
    return [change.new["id"] for change in stream if change.new is not None]


def test_changes_come_in_order_and_typed(path: Path, database: Database, mode: str) -> None:
    """Each with its old and new row, keys, place and moment; digits are kept."""
    insert(database, 1)
    database.sql("update items set price = 13 where id = 1")
    database.sql("delete from items")

    with wal_tracker.changes(path, until_caught_up=True) as stream:
        inserted, updated, deleted = list(stream)

    assert [change.op for change in (inserted, updated, deleted)] == ["insert", "update", "delete"]
    assert (inserted.schema, inserted.table, inserted.old) == ("public", "items", None)
    assert inserted.new == {"id": 1, "price": Decimal("12.50"), "tags": {"a": [1, 2.5]}}
    assert str(inserted.new["price"]) == "12.50"
    assert updated.new is not None and updated.new["price"] == Decimal("13.00")
    assert deleted.new is None and deleted.old is not None and deleted.old["id"] == 1
    assert inserted.commit_lsn < updated.commit_lsn < deleted.commit_lsn
    assert inserted.commit_time.utcoffset() is not None and inserted.commit_time <= deleted.commit_time
    assert len({inserted.id, updated.id, deleted.id}) == 3


def test_what_is_not_confirmed_comes_again(path: Path, database: Database) -> None:
    """Up to and including the confirmed one nothing does, whatever burst it came in."""
    insert(database, *range(1, 8))

    with wal_tracker.changes(path, until_caught_up=True) as stream:
        for change in stream:
            if change.new is not None and change.new["id"] == 3:
                stream.confirm(change)
    with wal_tracker.changes(path, until_caught_up=True) as again:
        assert ids(again) == [4, 5, 6, 7]


def test_a_transaction_is_confirmed_as_a_whole(path: Path, database: Database) -> None:
    """Confirmed in its middle it comes again, and the one before it does not."""
    insert(database, 1)
    database.sql("insert into items select generate_series(2, 4)")

    with wal_tracker.changes(path, until_caught_up=True) as stream:
        for change in stream:
            if change.new is not None and change.new["id"] == 3:
                stream.confirm(change)
                stream.confirm(change)
    with wal_tracker.changes(path, until_caught_up=True) as again:
        assert ids(again) == [2, 3, 4]


def test_events_come_after_the_rules(path: Path, database: Database, tmp_path: Path, mode: str) -> None:
    """Wherever a rule sends them; and a rule that fails is a dead letter, not the end."""
    rule = {"event": "item", "destinations": ["stdout"], "properties": {"half": "100 / (new.id - 2)"}}
    write(path, database, tmp_path, mode, track={"items.insert": rule}, destinations={"stdout": {}})
    insert(database, 1, 2, 3)

    with wal_tracker.events(path, until_caught_up=True) as stream:
        found = list(stream)
        stream.confirm(found[-1])

    assert [event.properties for event in found] == [{"half": -100}, {"half": 100}]
    state = open_state(load(path, {}).state)
    assert [letter.kind for letter in state.dead_letters()] == ["rule"]
    state.close()
    with wal_tracker.events(path, until_caught_up=True) as again:
        assert list(again) == []


def test_a_timeout_ends_the_iteration_and_not_the_stream(path: Path, database: Database) -> None:
    """The next `for` goes on where it was."""
    with wal_tracker.changes(path, timeout_s=0.5) as stream:
        assert ids(stream) == []
        insert(database, 1)
        assert ids(stream) == [1]


def test_a_confirmation_reaches_the_server_while_the_stream_goes_on(
    path: Path, database: Database, mode: str
) -> None:
    """Not only when it is closed."""
    insert(database, 1)

    def left() -> int:
        if mode == "trigger":
            return int(database.sql("select count(*) from wal_tracker.outbox")[0][0])
        query = "select count(*) from pg_replication_slots where slot_name = %s and confirmed_flush_lsn < %s"
        return int(database.sql(query, database.name, str(end))[0][0])

    with wal_tracker.changes(path) as stream:
        end = database.sql("select pg_current_wal_lsn()")[0][0]
        change = next(stream)
        assert left() == 1
        stream.confirm(change)
        wait_until(lambda: left() == 0)


@pytest.mark.parametrize("mode", ["wal"], indirect=True)
def test_a_slow_program_holds_no_connection_and_loses_nothing(
    path: Path, database: Database, tmp_path: Path
) -> None:
    """Beyond the bound the replication connection is closed, and opened again when half of it is confirmed."""
    write(path, database, tmp_path, delivery={"max_queue_bytes": 65536, "stall_timeout_s": 0.3})
    database.sql(MANY)

    def connected() -> bool:
        query = "select active from pg_replication_slots where slot_name = %s"
        return bool(database.sql(query, database.name)[0][0])

    found = []
    with wal_tracker.changes(path, until_caught_up=True) as stream:
        for change in stream:
            if not found:
                wait_until(lambda: not connected())
            found.append(change.new["id"] if change.new else None)
            stream.confirm(change)
    assert found == list(range(1, 5001))


@pytest.mark.parametrize("mode", ["wal"], indirect=True)
def test_who_never_confirms_is_told(path: Path, database: Database, tmp_path: Path) -> None:
    """Waiting for ever would help nobody; a confirmation then goes on."""
    write(path, database, tmp_path, delivery={"max_queue_bytes": 65536, "stall_timeout_s": 0.3})
    database.sql(MANY)

    with wal_tracker.changes(path, until_caught_up=True) as stream:
        found = []
        with pytest.raises(StreamFull, match=r"call confirm\(\) more often"):
            for change in stream:
                found.append(change)
        assert 0 < len(found) < 5000
        while len(found) < 5000:
            stream.confirm(found[-1])
            found.append(next(stream))
    assert [change.new["id"] for change in found if change.new] == list(range(1, 5001))


@pytest.mark.parametrize("mode", ["wal"], indirect=True)
def test_a_transaction_larger_than_memory_can_be_confirmed_in_parts(
    path: Path, database: Database, tmp_path: Path
) -> None:
    """Each part makes room; the transaction is done with at its end."""
    write(path, database, tmp_path, delivery={"max_queue_bytes": 65536, "stall_timeout_s": 1})
    database.sql("insert into items select generate_series(1, 20000)")

    count = 0
    with wal_tracker.changes(path, until_caught_up=True) as stream:
        for count, change in enumerate(stream, 1):  # noqa: B007 - the last is asked for
            stream.confirm(change)
    assert count == 20000
    with wal_tracker.changes(path, until_caught_up=True) as again:
        assert ids(again) == []


@pytest.mark.parametrize("mode", ["wal"], indirect=True)
def test_a_stream_outlives_a_broken_connection(path: Path, database: Database) -> None:
    """Nothing is lost or comes twice for it."""
    with wal_tracker.changes(path) as stream:
        insert(database, 1, 2)
        first = next(stream)
        database.sql("select pg_terminate_backend(active_pid) from pg_replication_slots where active_pid is not null")
        insert(database, 3)
        rest = [next(stream), next(stream)]
        assert [change.new["id"] for change in (first, *rest) if change.new] == [1, 2, 3]


def test_closing_ends_an_iteration_elsewhere_and_frees_the_slot(path: Path, database: Database) -> None:
    """From any thread; twice is harmless, and another stream may begin at once."""
    stream = wal_tracker.changes(path)
    taken: list[RowChange] = []
    thread = threading.Thread(target=lambda: taken.extend(stream))
    thread.start()
    insert(database, 1)
    wait_until(lambda: len(taken) == 1)
    stream.close()
    thread.join(10)
    assert not thread.is_alive()
    stream.close()
    assert list(stream) == []

    with wal_tracker.changes(path, until_caught_up=True) as again:
        assert ids(again) == [1]


def test_a_stream_that_cannot_begin_says_why(path: Path, tmp_path: Path) -> None:
    """At the first step, with the remedy; not by an iteration without end."""
    with pytest.raises(ConfigError, match="cannot be read"):
        wal_tracker.changes(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="name must not be empty"):
        wal_tracker.events(path, name="")


KILLED = """
import os, sys, wal_tracker
with wal_tracker.changes(sys.argv[1]) as stream:
    for change in stream:
        print(change.new["id"], flush=True)
        stream.confirm(change)
"""


@pytest.mark.parametrize("mode", ["wal"], indirect=True)
def test_a_killed_program_loses_nothing(path: Path, database: Database, tmp_path: Path) -> None:
    """What it had confirmed and not stored comes again; what it never saw comes."""
    out = tmp_path / "out"
    seen: list[int] = []
    for first in (1, 51, 101):
        insert(database, *range(first, first + 50))
        with out.open("wb") as stdout:
            process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=stdout)
            wait_until(lambda: out.read_bytes().count(b"\n") >= 20)
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        seen += map(int, out.read_text().split())
    with wal_tracker.changes(path, until_caught_up=True) as stream:
        seen += ids(stream)
    assert set(seen) == set(range(1, 151))
    assert list(dict.fromkeys(seen)) == list(range(1, 151))


# Functions as destinations ---------------------------------------------------------------------------


def test_a_function_gets_what_the_configured_destinations_get(path: Path, database: Database, tmp_path: Path) -> None:
    """Beside them; its receipt makes dead letters, and what it says is down is sent again."""
    limits = Limits(linger_s=0, concurrency=4)
    memory, batches, failures = MemoryDestination(limits=limits), [], iter([True])

    def mine(batch: Sequence[Event]) -> Receipt | None:
        if next(failures, False):
            raise DestinationUnavailable("mine", "not yet", retry_after_s=0.01)
        batches.append([event.properties["id"] for event in batch])
        return Receipt({0: Rejected("not that one")}) if batch[0].properties["id"] == 1 else None

    insert(database, 1, 2, 3)
    with wal_tracker.Pipeline(path, destinations={"mine": mine, "memory": memory}, until_caught_up=True) as job:
        job.run()

    assert [number for batch in batches for number in batch] == [1, 2, 3]
    assert [event.properties["id"] for event in memory.events.values()] == [1, 2, 3]
    assert job.stats.events == 3
    state = open_state(load(path, {}).state)
    assert [letter.destination for letter in state.dead_letters()] == ["mine"]
    state.close()


def test_an_entry_of_its_name_says_what_a_function_gets(
    path: Path, database: Database, tmp_path: Path, mode: str
) -> None:
    """Filter, condition and lists of properties hold for it."""
    entry = {"when": "properties.id > 1", "properties": {"allow": ["id"]}, "delivery": {"max_batch_events": 1}}
    write(path, database, tmp_path, mode, destinations={"mine": entry})
    insert(database, 1, 2, 3)
    got: list[list[dict[str, object]]] = []

    def mine(batch: Sequence[Event]) -> None:
        got.append([event.properties for event in batch])

    with wal_tracker.Pipeline(path, destinations={"mine": mine}, until_caught_up=True) as job:
        job.run()

    assert got == [[{"id": 2}], [{"id": 3}]]


def test_what_a_function_raises_ends_the_pipeline(path: Path, database: Database) -> None:
    """The caller sees it; nothing of the batch was confirmed, so it comes again."""

    def broken(batch: Sequence[Event]) -> None:
        raise ZeroDivisionError("a bug")

    insert(database, 1)
    with wal_tracker.Pipeline(path, destinations={"mine": broken}) as job, pytest.raises(ZeroDivisionError):
        job.run()

    got: list[Event] = []
    with wal_tracker.Pipeline(path, destinations={"mine": got.extend}, until_caught_up=True) as again:
        again.run()
    assert [event.properties["id"] for event in got] == [1]


def test_a_pipeline_is_stopped_from_another_thread(path: Path, database: Database) -> None:
    """It delivers what it holds, and returns."""
    got: list[Event] = []
    with wal_tracker.Pipeline(path, destinations={"mine": got.extend}) as job:
        thread = threading.Thread(target=job.run)
        thread.start()
        insert(database, 1)
        wait_until(lambda: len(got) == 1)
        job.stop()
        thread.join(20)
        assert not thread.is_alive()


def test_the_collector_of_the_program_is_left_alone(path: Path, database: Database) -> None:
    """`run` tunes it for itself; here it belongs to somebody else."""
    import gc

    seen: list[tuple[int, int, int]] = []
    before = gc.get_threshold()
    insert(database, 1)
    with wal_tracker.Pipeline(
        path, destinations={"mine": lambda batch: seen.append(gc.get_threshold())}, until_caught_up=True
    ) as job:
        job.run()
    assert seen == [before]
