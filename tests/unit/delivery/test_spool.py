"""A spool: what is appended comes back, what cannot be written does not count, what is damaged is told."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.postgres import wait_until
from wal_tracker.delivery import Delivery, DeliverySettings, Spool, in_commit_order
from wal_tracker.destinations.base import Limits
from wal_tracker.errors import DestinationUnavailable, StateError
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable, Event
from wal_tracker.state.base import Cursor, DeadLetter, Gap, Place, Spooled
from wal_tracker.testing import MemoryDestination, make_event


class Records:
    def __init__(self) -> None:
        self.gaps: list[Gap] = []

    def add(self, letters: Sequence[DeadLetter]) -> None:
        raise AssertionError("nothing is refused here")

    def record_gap(self, gap: Gap) -> None:
        self.gaps.append(gap)


def _events(*numbers: int) -> list[Deliverable]:
    return [make_event(number, commit_lsn=LSN(number * 100)) for number in numbers]


def _numbers(events: Sequence[Deliverable]) -> list[int]:
    return [event.properties["number"] for event in events]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spools", "one/with a name", max_bytes=1 << 30, segment_bytes=600)
    made.open(None)
    yield made
    made.close()


def _filled(spool: Spool, segments: int = 3) -> Spooled:
    """Two events in each segment."""
    places = []
    for number in range(segments):
        spool._begin_anew = number > 0
        places += spool.append(_events(10 * number + 1, 10 * number + 2))
    spool.sync()
    return Spooled(places[0], spool.end)


def _files(spool: Spool) -> list[Path]:
    return sorted(spool.path.glob("*.spool"))


def test_half_a_record_on_a_full_disk_does_not_count(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in a segment that is there nor in a new one; when there is room again it goes on."""
    spool.append(_events(1))
    write = os.pwrite
    room = 50

    def pwrite(handle: int, data: Any, offset: int) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = write(handle, bytes(data)[:room], offset)
        room -= count
        return count

    monkeypatch.setattr(os, "pwrite", pwrite)
    begin = spool.end
    for is_new in (False, True, True):
        spool._begin_anew = is_new
        for left in (0, 10, 50):
            room = left
            with pytest.raises(OSError, match="No space"):
                spool.append(_events(2, 3))
    assert spool.end == begin and len(_files(spool)) == 1
    assert spool.bytes == _files(spool)[0].stat().st_size
    room = 1 << 20
    spool.append(_events(2, 3))
    spool.sync()
    found = spool.read(Place(1, 40), spool.end, 10, 1 << 20)
    assert _numbers([event for event, _ in found]) == [1, 2, 3]


def test_what_was_not_synced_once_never_counts_as_durable(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fsync(2) the next one may say yes to pages that were dropped."""
    spool.append(_events(1))
    spool.sync()
    spool.append(_events(2))
    with monkeypatch.context() as patch:

        def fdatasync(handle: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        patch.setattr(os, "fdatasync", fdatasync)
        with pytest.raises(StateError, match="Input/output error"):
            spool.sync()
    with pytest.raises(StateError, match="durable"):
        spool.sync()


def test_a_segment_cut_at_a_records_end_is_noticed(spool: Spool) -> None:
    """It looks whole; the next one knows how long it was."""
    stands = _filled(spool)
    first = _files(spool)[0]
    ((_, behind), *_) = spool.read(stands.begin, stands.end, 1, 1 << 20)
    spool.close()
    os.truncate(first, behind.offset)

    assert _numbers(list(spool.kept(stands))) == [1, 11, 12, 21, 22]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_byte_is_hit_it_is_told_and_nothing_wrong_comes_out(spool: Spool, seed: int) -> None:
    """At most the segment that was hit is missing, and the others are as they were."""
    stands = _filled(spool)
    spool.close()
    dice = random.Random(seed)
    path = dice.choice(_files(spool))
    data = bytearray(path.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)

    left = list(spool.kept(stands))

    whole = {event.id: event.to_json() for number in range(3) for event in _events(10 * number + 1, 10 * number + 2)}
    assert 4 <= len(left) < 6
    assert all(whole[event.id] == event.to_json() for event in left)
    assert _numbers(left) == sorted(_numbers(left))


def test_a_damaged_spool_is_one_gap_and_the_rest_is_delivered(spool: Spool) -> None:
    """Also in the last segment: what comes then goes into a new one."""
    stands = _filled(spool)
    spool.close()
    for path in _files(spool)[1:]:
        os.truncate(path, path.stat().st_size - 5)
    records = Records()
    destination = MemoryDestination("one", limits=Limits(linger_s=0.0))
    delivery = Delivery("one", destination, DeliverySettings(), records, spool=spool)
    delivery.start(LSN(5000), Cursor(LSN(5000), None, stands))
    try:
        delivery.offer(_events(60), LSN(6010), 100)

        def is_settled() -> bool:
            delivery.store()
            return delivery.idle

        wait_until(is_settled)
    finally:
        delivery.abort()
    assert _numbers(list(destination.events.values())) == [1, 2, 11, 21, 60]
    assert [(gap.reason, gap.from_lsn) for gap in records.gaps] == [
        ("spool_damaged", LSN(1100)),
        ("spool_damaged", LSN(2100)),
    ]
    # How far is said by what is durable by then; where more has been written to the last segment, nobody knows.
    assert all(gap.to_lsn is None or gap.to_lsn >= LSN(5000) for gap in records.gaps)
    assert delivery.position() == Cursor(LSN(6010), {"stored": 5})


def test_a_disk_that_is_full_for_a_while_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events wait in memory; the position does not move before they are on disk."""
    write = os.pwrite
    is_full = True

    def pwrite(handle: int, data: Any, offset: int) -> int:
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    destination = MemoryDestination("one", limits=Limits(linger_s=0.0))
    destination.script.extend([DestinationUnavailable("one", "down", retry_after_s=600)] * 5)
    small = DeliverySettings(max_queue_bytes=1)
    spool = Spool(tmp_path, "one", max_bytes=1 << 20)
    delivery = Delivery("one", destination, small, Records(), spool=spool)
    delivery.start(LSN(0), None)
    try:
        delivery.offer(_events(1, 2, 3), LSN(310), 100)
        wait_until(lambda: delivery.is_failing)
        delivery.store()
        delivery.store()
        assert (delivery.position(), delivery.held_events) == (Cursor(LSN(0)), 3)
        is_full = False
        delivery.store()
        assert (delivery.position().lsn, delivery.held_events) == (LSN(310), 0)
    finally:
        delivery.abort()


def test_one_that_hangs_and_is_spooled_is_left_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`stop` waits for what is in memory; what is on disk is safe there."""
    monkeypatch.setattr("wal_tracker.delivery.sender.HANGING_AFTER_S", 0.01)
    destination = MemoryDestination("one", limits=Limits(linger_s=0.0))
    destination.gate.clear()
    spool = Spool(tmp_path, "one", max_bytes=1 << 20)
    delivery = Delivery("one", destination, DeliverySettings(max_queue_bytes=1), Records(), spool=spool)
    delivery.start(LSN(0), None)
    delivery.offer(_events(1, 2, 3), LSN(310), 100)
    wait_until(lambda: delivery.is_failing)
    delivery.store()
    try:
        assert delivery.position().spool is not None
        begun = time.monotonic()
        assert delivery.stop(30.0) is False
        assert time.monotonic() - begun < 10.0
        assert delivery.position().lsn == LSN(310)
    finally:
        destination.gate.set()


commits = st.lists(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=6), max_size=8)


@settings(deadline=None)
@given(commits=commits, seed=st.integers(0, 10_000), spools=st.integers(1, 4))
def test_events_of_several_spools_come_in_the_order_of_their_commits(
    commits: list[list[str]], seed: int, spools: int
) -> None:
    """Each once, whoever has it; and of one table in the order of its changes."""
    dice = random.Random(seed)
    log: list[Event] = []
    for number, tables in enumerate(commits, 1):
        counts: dict[str, int] = {}
        for table in tables:
            ordinal = counts.setdefault(table, 0)
            counts[table] += 1
            source = {
                "op": "insert",
                "schema": "s",
                "table": table,
                "commit_lsn": str(LSN(number * 100)),
                "ordinal": ordinal,
                "xid": number,
                "mode": "wal",
            }
            name = f"{number}-{table}-{ordinal}"
            log.append(Event(name, name, None, f"2026-01-01T00:00:{number:02}Z", {}, source))
    held = [[event for event in log if dice.random() < 0.6] for _ in range(spools)]

    given = list(in_commit_order(held))

    kept = {event.id for one in held for event in one}
    assert sorted(event.id for event in given) == sorted(kept)
    assert [event.source["xid"] for event in given] == sorted(event.source["xid"] for event in given)
    for table in "abc":
        mine = [event.id for event in given if event.source["table"] == table]
        assert mine == [event.id for event in log if event.source["table"] == table and event.id in kept]
