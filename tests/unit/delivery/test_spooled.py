"""A delivery with a spool at its worst moments: what is stored together is of one moment, and nothing stands still."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres import wait_until
from wal_tracker.delivery import Delivery, DeliverySettings, Spool
from wal_tracker.delivery import delivery as delivery_module
from wal_tracker.delivery import spool as spool_module
from wal_tracker.destinations.base import BatchRefused, Limits, Mark, Receipt, Rejected
from wal_tracker.errors import DeadLettersFull, DestinationUnavailable, StateError
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable
from wal_tracker.state.base import Cursor, DeadLetter, Gap
from wal_tracker.testing import MemoryDestination, make_event

SPOOLING = DeliverySettings(retry_base_s=0.001, retry_cap_s=0.002, max_queue_bytes=5, spool_after_s=0.0)
DOWN = DestinationUnavailable("memory", "down")


class Records:
    """Letters and gaps in memory; with `room` for so many letters."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []
        self.gaps: list[Gap] = []
        self.room = 1_000_000
        self.asked = 0

    def add(self, letters: Sequence[DeadLetter]) -> None:
        self.asked += 1
        taken = letters[: self.room]
        self.letters.extend(taken)
        self.room -= len(taken)
        if len(taken) < len(letters):
            raise DeadLettersFull(max_letters=len(self.letters), stored=len(taken))

    def record_gap(self, gap: Gap) -> None:
        self.gaps.append(gap)


class Switched(MemoryDestination):
    """Down or up; its mark counts what it took."""

    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__(limits=limits or Limits(max_batch_events=100, linger_s=0.0))
        self.is_up = True
        self.while_delivering: Callable[[Sequence[Deliverable]], None] = lambda _: None

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        if not self.is_up:
            raise DOWN
        self.while_delivering(batch)
        return super().deliver(batch)

    def numbers(self) -> list[int]:
        return [event.properties["number"] for batch in self.batches for event in batch]


class Bench:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.records = Records()
        self.destination = Switched()
        self.made: list[Delivery] = []

    def start(self, settings: DeliverySettings = SPOOLING, cursor: Cursor | None = None, **spool: Any) -> Delivery:
        made = Delivery(
            "memory",
            self.destination,
            settings,
            self.records,
            spool=Spool(self.directory, "memory", **{"max_bytes": 1 << 30, **spool}),
        )
        self.made.append(made)
        made.start(LSN(0) if cursor is None else cursor.lsn, cursor)
        return made

    def fail(self, delivery: Delivery, *numbers: int, end: int | None) -> None:
        """It goes down, with these for it."""
        self.destination.is_up = False
        delivery.offer(events(*numbers), None if end is None else LSN(end), 100)
        wait_until(lambda: delivery.is_failing)

    def save(self, delivery: Delivery) -> Cursor:
        """What `Pipeline.save` does."""
        delivery.store()
        cursor = delivery.position()
        delivery.saved(cursor)
        return cursor


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.destination.gate.set()
    for made in bench.made:
        made.abort()
    wait_until(lambda: not [one for one in threading.enumerate() if one.name == "delivery-memory"])


def events(*numbers: int, commit: int = 1) -> list[Deliverable]:
    return [make_event(number, commit_lsn=LSN(commit)) for number in numbers]


def test_a_full_spool_that_is_delivered_makes_room_again(bench: Bench) -> None:
    """
    With `at_spool_bound: hold`, and `max_spool_bytes` smaller than one append.

    The last segment is released when spooling ends; did that wait for what is in memory, and that for room in the
    spool, the pipeline would stand still for good.
    """
    delivery = bench.start(max_bytes=100)
    bench.fail(delivery, 1, 2, 3, end=10)
    bench.save(delivery)
    delivery.offer(events(4, commit=11), LSN(20), 100)
    bench.save(delivery)

    bench.destination.is_up = True

    def is_over() -> bool:
        bench.save(delivery)
        return delivery.idle

    wait_until(is_over, timeout_s=5)
    assert bench.destination.numbers() == [1, 2, 3, 4]


def test_a_mark_is_never_stored_with_a_place_before_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Whoever goes back to its mark (`file`) has every event once: mark and place are of the same moment.

    Here the process is killed after a `store` that came between the destination's receipt and the delivery noting it.
    """
    delivery = bench.start()
    bench.fail(delivery, 1, 2, 3, end=10)
    bench.save(delivery)
    begins = delivery.position().spool
    assert begins is not None
    arrived, go = threading.Event(), threading.Event()

    def hold(name: str) -> None:
        if name == "after_destination_before_state":
            arrived.set()
            go.wait()

    monkeypatch.setattr(delivery_module, "hit", hold)
    bench.destination.is_up = True
    assert arrived.wait(5)
    delivery.offer(events(4, commit=11), LSN(20), 100)
    cursor = bench.save(delivery)
    go.set()

    assert cursor.spool is not None
    stored = 0 if cursor.mark is None else cursor.mark["stored"]
    assert (stored == 0) == (cursor.spool.begin == begins.begin), (stored, cursor.spool)


def test_a_mark_of_half_a_batch_is_not_stored_before_the_other_half_is_settled(bench: Bench) -> None:
    """
    The same for as long as an outage lasts: of a batch that was halved one piece is taken, and the other waits.
    """
    delivery = bench.start()
    bench.fail(delivery, 1, 2, 3, 4, end=10)
    bench.save(delivery)
    calls: list[int] = []

    def halved(batch: Sequence[Deliverable]) -> Receipt:
        calls.append(len(batch))
        if len(calls) == 1:
            raise BatchRefused("HTTP 413")
        if len(calls) > 2:
            raise DOWN
        return MemoryDestination.deliver(bench.destination, batch)

    bench.destination.deliver = halved  # type: ignore[method-assign]
    wait_until(lambda: len(calls) > 3)
    delivery.offer(events(5, commit=11), LSN(20), 100)
    cursor = bench.save(delivery)

    assert cursor.spool is not None and cursor.spool.begin.segment == 1
    assert cursor.mark is None, "the file goes back to after 1 and 2, and the spool begins with 1"


def test_what_was_sent_of_an_open_transaction_is_not_marked_before_its_end_is_durable(bench: Bench) -> None:
    """
    A large transaction goes out in parts; the destination fails in the middle, and the next part goes to disk.

    The position still lies before the transaction, so after a crash all of it comes again: so must the mark.
    """
    delivery = bench.start()
    before = delivery.position()
    delivery.offer(events(1, 2), None, 100)
    wait_until(lambda: delivery.held_events == 0)
    bench.fail(delivery, 3, end=None)

    cursor = bench.save(delivery)

    assert cursor.lsn == LSN(0)
    assert cursor.mark == before.mark, "after a crash 1 and 2 come again, and are not taken back"


def test_a_replacement_taken_in_the_middle_of_a_batch_brings_its_limits(bench: Bench) -> None:
    """As test_delivery.py::test_a_replacement_that_is_too_small_in_bytes_gets_smaller_batches, by number of events."""
    bench.destination.is_up = False
    delivery = bench.start(DeliverySettings(retry_base_s=60.0, retry_cap_s=60.0))
    delivery.offer(events(1, 2, 3, 4), LSN(10), 100)
    wait_until(lambda: delivery.retries == 1)
    new = Switched(Limits(max_batch_events=2, linger_s=0.0))

    delivery.replace(new)
    wait_until(lambda: delivery.idle)
    delivery.offer(events(5, 6, 7, commit=11), LSN(20), 100)
    wait_until(lambda: delivery.idle)

    assert [len(batch) for batch in new.batches] == [2, 2, 2, 1]


def test_what_could_not_be_synced_once_is_not_taken_for_durable_the_next_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed fsync the kernel has given up on the pages, and the next one reports success for nothing."""
    delivery = bench.start()
    bench.fail(delivery, 1, 2, 3, end=10)
    real, failures = os.fdatasync, [OSError(5, "Input/output error")]

    def failing(handle: int) -> None:
        if failures:
            raise failures.pop()
        real(handle)

    monkeypatch.setattr(os, "fdatasync", failing)
    for _ in range(2):
        with pytest.raises(StateError, match="could not be made durable"):
            delivery.store()

    assert not failures
    assert delivery.position() == Cursor(LSN(0))


def test_a_replacement_does_not_end_the_wait_for_room_for_letters_again_and_again(bench: Bench) -> None:
    """
    SIGHUP while dead letters are at their bound wakes the one who waits; it is taken then, and the wait goes on.
    """
    bench.records.room = 0
    slow = DeliverySettings(retry_base_s=60.0, retry_cap_s=60.0)
    bench.destination.script.append(Receipt({0: Rejected("no")}))
    delivery = bench.start(slow)
    delivery.offer(events(1), LSN(10), 100)
    wait_until(lambda: bench.records.asked == 1)

    delivery.replace(Switched())
    wait_until(lambda: bench.records.asked >= 2, timeout_s=5)  # woken once: fine
    with pytest.raises(AssertionError):
        wait_until(lambda: bench.records.asked > 50, timeout_s=1)


def test_the_name_of_the_folder_of_all_spools_is_durable_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync of a file or folder does not cover the folder that names it; `append` makes two folders at once."""
    synced: list[Path] = []
    real = spool_module._sync_path

    def noted(path: Path) -> None:
        synced.append(path)
        real(path)

    monkeypatch.setattr(spool_module, "_sync_path", noted)
    spool = Spool(bench.directory / "made" / "here", "memory", max_bytes=1 << 30)
    spool.open(None)
    spool.append(events(1))
    spool.sync()
    spool.close()

    made = {bench.directory / "made" / "here" / "memory", bench.directory / "made" / "here", bench.directory / "made"}
    assert {folder.parent for folder in made} <= {*synced}


def test_two_processes_do_not_share_a_spool(bench: Bench) -> None:
    """Two configurations with one `delivery.spool_dir`: the second must not delete what the first has confirmed."""
    first = Spool(bench.directory, "segment", max_bytes=1 << 30, owner="slot a, state x")
    first.open(None)
    first.append(events(1))
    first.sync()
    held = sorted(first.path.glob("*.spool"))
    second = Spool(bench.directory, "segment", max_bytes=1 << 30, owner="slot b, state x")
    with pytest.raises(StateError, match="belongs to slot a, state x, and this is slot b"):
        second.open(None)
    assert sorted(first.path.glob("*.spool")) == held
    first.clear()
    second.open(None)
    assert not first.path.exists()


def test_why_an_event_cannot_be_written_is_not_forgotten_on_disk(bench: Bench) -> None:
    """The dead letter's reason is the one it would have had without a spool."""
    bad = make_event(1, properties={"text": "\ud800"})
    try:
        bad.to_json()
    except Exception as error:  # noqa: BLE001
        why = str(error)
    spool = Spool(bench.directory, "memory", max_bytes=1 << 30)
    spool.open(None)
    places = spool.append([bad])
    end = spool.sync()
    ((again, _),) = spool.read(places[0], end, 10, 1 << 20)
    spool.close()

    with pytest.raises(TypeError) as raised:
        again.to_json()
    assert str(raised.value) == why


def test_a_destination_that_is_not_there_when_options_change_is_waited_for(bench: Bench) -> None:
    """SIGHUP in an outage of whose `open` asks the network: neither object can be opened now, and that is no end."""
    delivery = bench.start(DeliverySettings(retry_base_s=0.001, retry_cap_s=0.002))

    def closed(mark: Mark | None) -> None:
        raise DOWN

    new = Switched()
    new.open = closed  # type: ignore[method-assign]
    bench.destination.open = closed  # type: ignore[method-assign]
    delivery.replace(new)
    wait_until(lambda: bench.destination.closed > 0)
    with pytest.raises(AssertionError):
        wait_until(lambda: delivery.failure is not None, timeout_s=1)
