"""Laws of a delivery with a spool that a hostile reading found broken once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres import wait_until
from wal_tracker.delivery import Delivery, DeliverySettings, Spool
from wal_tracker.delivery import spool as spool_module
from wal_tracker.destinations.base import Limits, Mark, Receipt, Rejected
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
