"""
One destination is down for long: the others do not notice, nothing is lost, and it gets all of it in the end.

On a real server. The healthy destination beside it is a file, which has every event once and in commit order: what
the other one has in the end must be the same.
"""

from __future__ import annotations

import copy
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support import items
from tests.support.job import Job
from tests.support.moody import DELIVERY, Mood, MoodyReceiver, cursors, gaps, segments, spooled_ids
from tests.support.postgres import Database, wait_until
from tests.support.proxy import ChaosProxy
from wal_tracker.lsn import LSN

# A commit each, some 10 kB on the wire.
ROW = "insert into items select i, 1, repeat('n', 1000) from generate_series(%s, %s) i"


@pytest.fixture
def receiver() -> Iterator[MoodyReceiver]:
    """The destination that fails."""
    with MoodyReceiver() as made:
        yield made


def _config(database: Database, entry: dict[str, Any], *, mode: str = "wal", **delivery: Any) -> dict[str, Any]:
    config = items.config(database, delivery={**DELIVERY, **delivery})
    config["source"]["mode"] = mode
    config["destinations"]["moody"] = entry
    return config


def _confirmed(database: Database, job: Job) -> LSN:
    slot = job.config["source"]["slot"]
    ((text,),) = database.sql("select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s", slot)
    return LSN.parse(text)


def _write(database: Database, first: int, count: int, *, each: int = 20) -> None:
    """So many rows, `each` in a transaction."""
    for begin in range(first, first + count, each):
        database.sql(ROW, begin, min(begin + each, first + count) - 1)


def _is_told(job: Job, what: str) -> bool:
    return what in job.log_text()


def _wait_for_spool(job: Job, name: str = "moody") -> None:
    wait_until(lambda: segments(job, name))


def _wait_for_calm(job: Job, receiver: MoodyReceiver) -> None:
    """Both have everything, and the disk is given back."""
    wait_until(lambda: len(receiver.stored) == len(job.lines()) and not segments(job, "moody"), timeout_s=60)
    wait_until(lambda: cursors(job)["moody"].spool is None)


def _judge(database: Database, job: Job, receiver: MoodyReceiver) -> None:
    items.judge(database, job.lines())
    assert receiver.events == job.lines(), "not the same events, bytes or order"


@pytest.mark.parametrize("mood", ["refused", "500", "hang"])
def test_one_that_is_down_is_noticed_by_nobody_else(
    database: Database, receiver: MoodyReceiver, mood: Mood | str
) -> None:
    """
    The file beside it has everything at once, the reader never stops, and the slot moves on; memory stays as it was.

    Back again, it gets everything in order, and nothing is left on disk.
    """
    database.sql(items.SCHEMA)
    with ChaosProxy(receiver.port) as line, Job(_config(database, receiver.entry(line.port))) as job:
        job.apply()
        process = job.start()
        _write(database, 40_000_000, 20)
        wait_until(lambda: len(receiver.stored) == 20)
        ((reader,),) = database.sql("select pid from pg_stat_replication where application_name ~ 'wal_tracker'")
        resident, confirmed = _resident_bytes(process.pid), _confirmed(database, job)
        if mood == "refused":
            line.refuse = True
            line.cut()
        else:
            receiver.mood = mood  # type: ignore[assignment]
        with items.Writers(database) as writers:
            # Ten times what it may hold in memory.
            _write(database, 10_000_000, 2000)
            _wait_for_spool(job)
            begun = time.monotonic()
            _write(database, 20_000_000, 20)
            wait_until(lambda: any(line["properties"]["id"] == 20_000_019 for line in job.lines()[-2000:]))
            assert time.monotonic() - begun < 5.0
            writers.stop()
        ((end,),) = database.sql("select pg_current_wal_lsn()::text")
        job.wait_for_lines(2040)
        wait_until(lambda: _confirmed(database, job) >= LSN.parse(end))
        assert _confirmed(database, job) > confirmed
        assert cursors(job)["moody"].spool is not None
        assert len(receiver.stored) == 20
        assert _resident_bytes(process.pid) - resident < 20_000_000
        assert database.sql("select pid from pg_stat_replication where application_name ~ 'wal_tracker'") == [(reader,)]
        assert not _is_told(job, "closing the replication connection")

        line.refuse = False
        receiver.recover()
        _wait_for_calm(job, receiver)
        _write(database, 30_000_000, 20)
        wait_until(lambda: len(receiver.stored) == len(job.lines()) and 30_000_019 in _rows(receiver))
        assert job.stop() == 0, job.log_text()
        _judge(database, job, receiver)
        assert not segments(job, "moody")


def _rows(receiver: MoodyReceiver) -> set[int]:
    return {event["properties"]["id"] for event in receiver.events}


def test_in_trigger_mode_too(database: Database, receiver: MoodyReceiver) -> None:
    """The outbox is emptied while a destination is down: what it still has to get is in its spool."""
    database.sql(items.SCHEMA)
    receiver.mood = "500"
    with Job(_config(database, receiver.entry(), mode="trigger")) as job:
        job.apply()
        job.start()
        with items.Writers(database) as writers:
            _write(database, 10_000_000, 400)
            _wait_for_spool(job)
            writers.stop()
        ((rows,),) = database.sql("select count(*) from items")
        wait_until(lambda: len(job.lines()) >= rows)
        wait_until(lambda: database.sql("select count(*) from wal_tracker.outbox") == [(0,)])
        assert receiver.stored == {}
        receiver.recover()
        _wait_for_calm(job, receiver)
        assert job.stop() == 0, job.log_text()
        _judge(database, job, receiver)


@contextmanager
def _files_no_larger_than(limit: int) -> Iterator[None]:
    """What is started here writes no file beyond this size (setrlimit(2): EFBIG), unless it is allowed to later."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Slow enough to be killed in the middle.
SLOW = {"max_events_per_s": 200, "max_batch_events": 20}
KILLS = ["spool_written@3", "spool_synced@4", "before_destination@6", "after_destination_before_state@4"]


@pytest.mark.parametrize("kill", [*KILLS, "after_state_before_confirm@4"])
def test_killed_while_it_spools_and_while_it_drains_nothing_is_lost(
    database: Database, receiver: MoodyReceiver, kill: str
) -> None:
    """Whatever was on its way comes again; each row's changes stay in order, and what is kept once is whole."""
    database.sql(items.SCHEMA)
    name, _, passage = kill.partition("@")
    receiver.mood = "500"
    with Job(_config(database, receiver.entry(**SLOW))) as job:
        job.apply()
        with items.Writers(database, threads=2, seed=3) as writers:
            job.start(failpoints=f"{name}=kill@{passage}")
            assert job.wait() == -9, job.log_text()
            job.start()
            _wait_for_spool(job)
            job.kill9()
            receiver.recover()
            job.start(failpoints=f"{name}=kill@{passage}")
            assert job.wait() == -9, job.log_text()
            writers.stop()
        _reconfigured(job, moody=receiver.entry()).catch_up()
        _judge(database, job, receiver)
        assert not segments(job, "moody") and cursors(job)["moody"].spool is None
        assert gaps(job) == []


@pytest.mark.parametrize("kill", [*KILLS, "after_state_before_confirm@4"])
def test_a_file_that_was_full_has_everything_exactly_once(
    database: Database, receiver: MoodyReceiver, kill: str
) -> None:
    """It has a mark, and takes nothing twice, whenever the process dies: while it spools, and while it drains."""
    database.sql(items.SCHEMA)
    name, _, passage = kill.partition("@")
    entry = {"kind": "file", "path": "full.jsonl", "delivery": {**DELIVERY, **SLOW}}
    config = _config(database, entry)
    # Not the largest file: that one is to be the one that is full.
    config["destinations"]["file"] = receiver.entry()
    with Job(config) as job:
        job.apply()
        job.start()
        path = job.directory / "full.jsonl"
        database.sql("insert into items select i, 1, repeat('n', 60000) from generate_series(-100, -1) i")
        job.wait_for_lines(100, "full.jsonl")
        assert job.stop() == 0
        with items.Writers(database, threads=2, seed=3) as writers:
            with _files_no_larger_than(path.stat().st_size + 3000):
                job.start(failpoints=f"{name}=kill@{passage}")
            assert job.wait() == -9, job.log_text()
            with _files_no_larger_than(path.stat().st_size):
                job.start()
            _wait_for_spool(job)
            job.kill9()
            job.start(failpoints=f"{name}=kill@{passage}")
            assert job.wait() == -9, job.log_text()
            writers.stop()
        _reconfigured(job, moody={**entry, "delivery": DELIVERY}).catch_up()
        items.judge(database, job.lines("full.jsonl"))
        assert job.lines("full.jsonl") == receiver.events
        assert not segments(job, "moody")


def test_at_its_bound_a_spool_holds_the_reader_up_and_no_more(database: Database, receiver: MoodyReceiver) -> None:
    """`hold`: the connection is closed and the WAL waits on the server; afterwards it goes on where it was."""
    database.sql(items.SCHEMA)
    receiver.mood = "500"
    entry = receiver.entry(max_spool_bytes=2_000_000)
    with Job(_config(database, entry, stall_timeout_s=0.3)) as job:
        job.apply()
        process = job.start()
        # One transaction alone is larger than the spool.
        _write(database, 1, 200)
        _write(database, 1000, 8000, each=8000)
        _write(database, 10_000, 200)
        wait_until(lambda: _is_told(job, "closing the replication connection"))
        wait_until(lambda: not database.sql("select 1 from pg_replication_slots where active"))
        # What was read at once goes beyond it.
        assert sum(path.stat().st_size for path in segments(job, "moody")) < 6_000_000
        assert len(job.lines()) < 8400
        assert process.poll() is None and gaps(job) == []
        status = job.run("status").stdout
        assert "is full" in status and "everything waits" in status
        receiver.recover()
        wait_until(lambda: len(receiver.stored) == 8400, timeout_s=60)
        _wait_for_calm(job, receiver)
        assert job.stop() == 0, job.log_text()
        _judge(database, job, receiver)


def test_at_its_bound_a_spool_may_shed_what_comes(database: Database, receiver: MoodyReceiver) -> None:
    """`shed`: what is dropped is one gap, with its range and how many there were; nobody else loses any."""
    database.sql(items.SCHEMA)
    receiver.mood = "500"
    with Job(_config(database, receiver.entry(max_spool_bytes=300_000, at_spool_bound="shed"))) as job:
        job.apply()
        job.start()
        _write(database, 1, 3000, each=10)
        job.wait_for_lines(3000)
        wait_until(lambda: gaps(job))
        assert not _is_told(job, "closing the replication connection")
        receiver.recover()
        _wait_for_shed(job, receiver)
        _write(database, 5000, 20)
        wait_until(lambda: 5019 in _rows(receiver))
        assert job.stop() == 0, job.log_text()
        items.judge(database, job.lines())
        (gap,) = gaps(job)
        missing = [event for event in job.lines() if event["id"] not in receiver.stored]
        assert missing and (gap.reason, gap.events) == ("shed", len(missing))
        lsns = [LSN.parse(event["source"]["commit_lsn"]) for event in missing]
        assert (gap.from_lsn, gap.to_lsn) == (min(lsns), max(lsns))
        left = [event for event in job.lines() if event["id"] in receiver.stored]
        assert receiver.events == left


def _wait_for_shed(job: Job, receiver: MoodyReceiver) -> None:
    def is_over() -> bool:
        return len(receiver.stored) + sum(gap.events or 0 for gap in gaps(job)) == len(job.lines())

    wait_until(lambda: is_over() and not segments(job, "moody"), timeout_s=60)


def test_a_full_disk_holds_the_reader_up_and_no_more(database: Database, receiver: MoodyReceiver) -> None:
    """It breaks off in the middle of a record. That is told once; with room again it goes on, and nothing is lost."""
    database.sql(items.SCHEMA)
    receiver.mood = "500"
    healthy = MoodyReceiver()
    config = _config(database, receiver.entry(), stall_timeout_s=0.3)
    config["destinations"]["file"] = healthy.entry()
    limit = 3_000_000
    with healthy, Job(config) as job:
        job.apply()
        with _files_no_larger_than(limit):
            process = job.start()
        _write(database, 1, 4000, each=100)
        wait_until(lambda: _is_told(job, "a spool cannot be written"))
        wait_until(lambda: _is_told(job, "closing the replication connection"))
        assert len(healthy.stored) < 4000
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE))
        wait_until(lambda: len(healthy.stored) == 4000, timeout_s=60)
        assert receiver.stored == {} and gaps(job) == []
        assert job.log_text().count("a spool cannot be written") == 1
        receiver.recover()
        wait_until(lambda: len(receiver.stored) == 4000, timeout_s=60)
        assert job.stop() == 0, job.log_text()
        items.judge(database, receiver.events)
        assert receiver.events == healthy.events


@pytest.mark.parametrize("damage", ["flipped", "removed", "truncated", "last is short"])
def test_what_is_damaged_is_on_record_and_the_rest_arrives(
    database: Database, receiver: MoodyReceiver, damage: str
) -> None:
    """A segment a disk has eaten is a gap, said once; before it and after it everything comes, in order."""
    database.sql(items.SCHEMA)
    receiver.mood = "500"
    with Job(_config(database, receiver.entry(max_spool_bytes=2_000_000))) as job:
        job.apply()
        job.start()
        # Each part fills a segment.
        for first in (1, 501):
            _write(database, first, 500)
            job.wait_for_lines(first + 499)
            wait_until(lambda: segments(job, "moody") and cursors(job)["moody"].spool is not None)
        wait_until(lambda: len(segments(job, "moody")) >= 2)
        assert job.stop() == 0, job.log_text()
        assert spooled_ids(job, "moody") == [event["id"] for event in job.lines()]
        files = segments(job, "moody")
        assert len(files) >= 2
        if damage == "removed":
            files[0].unlink()
        elif damage == "truncated":
            with files[0].open("r+b") as file:
                file.truncate(files[0].stat().st_size // 2)
        elif damage == "last is short":
            with files[-1].open("r+b") as file:
                file.truncate(files[-1].stat().st_size // 2)
        else:
            with files[0].open("r+b") as file:
                file.seek(files[0].stat().st_size // 2)
                (byte,) = file.read(1)
                file.seek(-1, 1)
                file.write(bytes([byte ^ 1]))
        left = spooled_ids(job, "moody")
        assert 0 < len(left) < 1000
        receiver.recover()
        job.catch_up()
        assert receiver.ids == left
        (gap,) = gaps(job)
        assert (gap.reason, "moody") == ("spool_damaged", gap.detail.partition(":")[0])
        missing = [event for event in job.lines() if event["id"] not in receiver.stored]
        assert len(missing) == 1000 - len(left)
        assert damage != "flipped" or len(missing) == 1
        lsns = [LSN.parse(event["source"]["commit_lsn"]) for event in missing]
        assert gap.from_lsn <= min(lsns) and gap.to_lsn is not None and gap.to_lsn >= max(lsns)
        assert not segments(job, "moody")


def test_without_a_failure_no_spool_is_ever_made(database: Database, receiver: MoodyReceiver) -> None:
    """Neither under load nor for one that is slow: that is waited for."""
    database.sql(items.SCHEMA)
    receiver.delay_s = 0.05
    with Job(_config(database, receiver.entry(request_timeout_s=15))) as job:
        job.apply()
        job.start()
        with items.Writers(database) as writers:
            _write(database, 10_000_000, 1500)
            job.wait_for_lines(1500)
            writers.stop()
        assert job.stop() == 0, job.log_text()
        job.catch_up()
        _judge(database, job, receiver)
        assert not (job.directory / "wal_tracker.db.spool").exists()


@pytest.mark.parametrize("mood", ["500", "hang"])
def test_one_that_is_down_does_not_hold_up_the_end(database: Database, receiver: MoodyReceiver, mood: Mood) -> None:
    """SIGTERM: what it still has to get is on disk in a moment; the next run, to its end, delivers it."""
    database.sql(items.SCHEMA)
    receiver.mood = mood
    with Job(_config(database, receiver.entry(request_timeout_s=20 if mood == "hang" else 1))) as job:
        job.apply()
        job.start()
        _write(database, 1, 600)
        job.wait_for_lines(600)
        _wait_for_spool(job)
        begun = time.monotonic()
        assert job.stop() == 0, job.log_text()
        assert time.monotonic() - begun < 5.0
        assert spooled_ids(job, "moody") == [event["id"] for event in job.lines()]
        _write(database, 1000, 100)
        receiver.recover()
        job.catch_up()
        _judge(database, job, receiver)
        assert len(receiver.stored) == 700 and not segments(job, "moody")


def _resident_bytes(pid: int) -> int:
    """What of a process is in memory, by /proc/PID/statm (proc(5): pages)."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _reconfigured(job: Job, **destinations: Any) -> Job:
    """The same directory, with more or fewer destinations from the next start on."""
    config = copy.deepcopy(job.config)
    for name, entry in destinations.items():
        if entry is None:
            del config["destinations"][name]
        else:
            config["destinations"][name] = entry
    job.configure(config)
    return job
