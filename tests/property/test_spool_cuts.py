"""The law of test_spool_laws.py where transactions come in many parts, batches are halved, and spools are full."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.postgres import wait_until
from wal_tracker.delivery import Delivery, DeliverySettings, Spool
from wal_tracker.destinations.base import BatchRefused, Limits, Mark, Receipt
from wal_tracker.errors import DestinationUnavailable
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable
from wal_tracker.state.base import Cursor, DeadLetter, Gap
from wal_tracker.testing import MemoryDestination, make_event


class Moody(MemoryDestination):
    """Takes so many events before it is down; halves some batches; what its mark does not know of is cut off."""

    def __init__(self, taken: list[Deliverable], limits: Limits) -> None:
        super().__init__("moody", limits=limits)
        self.taken = taken
        self.left = 1_000_000
        self.halves = False

    def open(self, mark: Mark | None) -> Mark:  # type: ignore[override]
        del self.taken[mark["taken"] if mark is not None else 0 :]
        return {"taken": len(self.taken)}

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        if self.left <= 0:
            raise DestinationUnavailable("moody", "down")
        if self.halves and len(batch) > 1:
            raise BatchRefused("too large")
        self.left -= len(batch)
        self.taken.extend(batch)
        return Receipt(mark={"taken": len(self.taken)})


class Records:
    def add(self, letters: Sequence[DeadLetter]) -> None:
        raise AssertionError("nothing is refused here")

    def record_gap(self, gap: Gap) -> None:
        raise AssertionError(gap)


class World:
    def __init__(self, directory: Path, max_bytes: int, batch: int) -> None:
        self.directory, self.max_bytes = directory, max_bytes
        self.limits = Limits(max_batch_events=batch, linger_s=0.0)
        self.taken: list[Deliverable] = []
        self.log: list[tuple[LSN, list[Deliverable]]] = []
        self.open: tuple[LSN, list[Deliverable]] | None = None
        self.number = 0
        self.cursor = Cursor(LSN(0))
        self.begin()

    def begin(self) -> None:
        self.destination = Moody(self.taken, self.limits)
        spool = Spool(self.directory, "moody", max_bytes=self.max_bytes, segment_bytes=900)
        quick = DeliverySettings(retry_base_s=0.0005, retry_cap_s=0.001, max_queue_bytes=5, spool_after_s=0.0)
        self.delivery = Delivery("moody", self.destination, quick, Records(), spool=spool)
        self.delivery.start(self.cursor.lsn, self.cursor)
        self.save()
        for end_lsn, events in self.log:
            if end_lsn > self.cursor.lsn:
                self.delivery.offer(list(events), end_lsn, len(events))
        if self.open is not None and self.open[1]:
            self.delivery.offer(list(self.open[1]), None, len(self.open[1]))

    def part(self, count: int) -> None:
        """More of the transaction that goes on."""
        end_lsn, events = self.open or (LSN((len(self.log) + 1) * 1000), [])
        made: list[Deliverable] = []
        for _ in range(count):
            self.number += 1
            made.append(make_event(self.number, commit_lsn=LSN(end_lsn - 10)))
        self.open = (end_lsn, events + made)
        self.delivery.offer(list(made), None, count)

    def end(self, count: int) -> None:
        """Its end, with some more or none."""
        if count:
            self.part(count)
        if self.open is not None:
            self.log.append(self.open)
            (end_lsn, _), self.open = self.open, None
            self.delivery.reached(end_lsn)

    def whole(self, count: int) -> None:
        if self.open is not None:
            self.end(0)
        end_lsn = LSN((len(self.log) + 1) * 1000)
        made: list[Deliverable] = []
        for _ in range(count):
            self.number += 1
            made.append(make_event(self.number, commit_lsn=LSN(end_lsn - 10)))
        self.log.append((end_lsn, made))
        self.delivery.offer(list(made), end_lsn, count)

    def fails_after(self, count: int) -> None:
        self.destination.left = count

    def fail(self) -> None:
        """And that is found out, where there is something that could be sent."""
        self.destination.left = 0
        tries = iter(range(20))
        wait_until(lambda: self.delivery.is_failing or next(tries, None) is None, every_s=0.001)

    def halve(self) -> None:
        self.destination.halves = not self.destination.halves

    def recover(self) -> None:
        self.destination.left = 1_000_000

    def save(self) -> None:
        self.delivery.store()
        cursor = self.delivery.position()
        assert cursor.lsn >= self.cursor.lsn
        self.cursor = cursor
        self.delivery.saved(cursor)

    def press(self) -> None:
        self.delivery.store(pressed=True)

    def die(self) -> None:
        self.delivery.abort()
        wait_until(lambda: not [one for one in threading.enumerate() if one.name == "delivery-moody"], every_s=0.001)
        self.begin()

    def leave(self) -> None:
        """SIGTERM: stop, store, and a new process."""
        self.delivery.store(pressed=True)
        self.delivery.stop(0.05)
        self.save()
        wait_until(lambda: not [one for one in threading.enumerate() if one.name == "delivery-moody"], every_s=0.001)
        self.begin()

    def settle(self) -> None:
        self.end(0)
        self.recover()

        def is_settled() -> bool:
            assert self.delivery.failure is None, self.delivery.failure
            self.save()
            return self.delivery.idle

        wait_until(is_settled, every_s=0.001, timeout_s=10)
        self.save()

    def close(self) -> None:
        self.delivery.abort()


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["part", "end", "whole", "fails_after"]), st.integers(1, 6)),
        st.tuples(st.just("end"), st.just(0)),
        st.tuples(st.sampled_from(["fail", "halve", "recover", "save", "save", "press", "die", "leave"])),
    ),
    max_size=40,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(steps=steps, max_bytes=st.sampled_from([2000, 6000, 1 << 30]), batch=st.integers(1, 5))
def test_every_event_arrives_once_and_in_order_however_a_transaction_is_cut(
    steps: list[tuple[str] | tuple[str, int]], max_bytes: int, batch: int
) -> None:
    """Position, mark and spool are of one moment; nothing stands still, nothing is left on disk."""
    directory = Path(tempfile.mkdtemp())
    with closing(World(directory, max_bytes, batch)) as world:
        for step in steps:
            getattr(world, step[0])(*step[1:])
        world.settle()

        offered = [event.id for _, events in world.log for event in events]
        assert [event.id for event in world.taken] == offered
        assert world.cursor.lsn == (world.log[-1][0] if world.log else LSN(0))
        assert world.cursor.spool is None
        assert not list(directory.rglob("*.spool"))
    shutil.rmtree(directory)
