"""Laws of a delivery with a spool: whatever fails, and wherever the process ends, nothing is lost and order is kept."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.postgres import wait_until
from wal_tracker.delivery import Delivery, DeliverySettings, Spool
from wal_tracker.destinations.base import Limits, Mark, Receipt
from wal_tracker.errors import DestinationUnavailable
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable, Event
from wal_tracker.state.base import Cursor, DeadLetter, Gap
from wal_tracker.testing import MemoryDestination, make_event


class Moody(MemoryDestination):
    """Takes events, or not. What it took outlives every process, and what its mark does not know of is cut off."""

    def __init__(self, taken: list[Deliverable]) -> None:
        super().__init__("moody", limits=Limits(max_batch_events=3, linger_s=0.0))
        self.taken = taken
        self.is_up = True

    def open(self, mark: Mark | None) -> Mark:  # type: ignore[override]
        del self.taken[mark["taken"] if mark is not None else 0 :]
        return {"taken": len(self.taken)}

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        if not self.is_up:
            raise DestinationUnavailable("moody", "down")
        self.taken.extend(batch)
        return Receipt(mark={"taken": len(self.taken)})


class Records:
    def add(self, letters: Sequence[DeadLetter]) -> None:
        raise AssertionError("nothing is refused here")

    def record_gap(self, gap: Gap) -> None:
        raise AssertionError(gap)

    def end_gap(self, gap: Gap, ended: Gap) -> None:
        raise AssertionError(gap)


class World:
    """A log of transactions, a delivery that may die at any time, and what is stored of it."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.directory, self.max_bytes = directory, max_bytes
        self.log: list[tuple[LSN, list[Deliverable]]] = []
        self.taken: list[Deliverable] = []
        self.cursor = Cursor(LSN(0))
        self.begin()

    def begin(self) -> None:
        """A new process: what is stored decides what is sent again."""
        self.destination = Moody(self.taken)
        self.rest: tuple[LSN, list[Deliverable]] | None = None
        spool = Spool(self.directory, "moody", max_bytes=self.max_bytes, segment_bytes=700)
        quick = DeliverySettings(retry_base_s=0.001, retry_cap_s=0.002, max_queue_bytes=5, spool_after_s=0.0)
        self.delivery = Delivery("moody", self.destination, quick, Records(), spool=spool)
        self.delivery.start(self.cursor.lsn, self.cursor)
        self.cursor = self.delivery.position()
        for end_lsn, events in self.log:
            if end_lsn > self.cursor.lsn:
                self.delivery.offer(list(events), end_lsn, len(events))

    def part(self, count: int, parts: int) -> None:
        """A transaction begins to be read; it is committed already, as the server sends no other."""
        self.end()
        begin = sum(len(events) for _, events in self.log)
        end_lsn = LSN((len(self.log) + 1) * 1000)
        events: list[Deliverable] = [make_event(begin + n, commit_lsn=LSN(end_lsn - 10)) for n in range(count)]
        self.log.append((end_lsn, events))
        cut = count * parts // 3
        if cut:
            self.delivery.offer(events[:cut], None, cut)
        self.rest = (end_lsn, events[cut:])

    def more(self, count: int, parts: int) -> None:
        """Some more is read of a transaction that goes on, and the destination may have it before the next is."""
        if self.rest is None:
            return
        end_lsn, left = self.rest
        part, left = left[:count], left[count:]
        if left:
            self.delivery.offer(list(part), None, len(part))
            self.rest = end_lsn, left
        if parts and self.destination.is_up:
            self.delivery.store()
            tries = iter(range(20))
            wait_until(lambda: self.delivery.idle or next(tries, None) is None, every_s=0.001)

    def end(self) -> None:
        """It is read to its end."""
        if self.rest is not None:
            (end_lsn, events), self.rest = self.rest, None
            self.delivery.offer(list(events), end_lsn, len(events))

    def commit(self, count: int, parts: int) -> None:
        """A transaction, handed over in parts."""
        self.part(count, parts)
        self.delivery.store()
        self.end()

    def fail(self) -> None:
        """It goes down, and is found out where there is something that could be sent."""
        self.destination.is_up = False
        tries = iter(range(50))

        def is_found_out() -> bool:
            self.delivery.store()
            return self.delivery.is_failing or self.delivery.idle or next(tries, None) is None

        wait_until(is_found_out, every_s=0.001)

    def blow(self, count: int, parts: int) -> None:
        """It goes down for a moment in which a transaction is on its way whose end has not been read."""
        self.destination.is_up = False
        self.part(count, parts)
        self.fail()
        self.save()
        self.recover()
        self.save()

    def outage(self, count: int, parts: int) -> None:
        """It goes down while there is something for it, and more comes."""
        self.destination.is_up = False
        self.commit(2, 0)
        self.fail()
        self.commit(count, parts)
        self.save()

    def recover(self) -> None:
        """It is up again, and takes what was on its way."""
        self.destination.is_up = True
        wait_until(lambda: not self.delivery.is_failing, every_s=0.001)

    def save(self) -> None:
        """What the pipeline does now and then."""
        self.delivery.store()
        cursor = self.delivery.position()
        assert cursor.lsn >= self.cursor.lsn
        self.cursor = cursor
        self.delivery.saved(cursor)

    def die(self) -> None:
        """As if killed: nothing is stored any more. What was on its way may have arrived."""
        self.delivery.abort()
        wait_until(lambda: not [one for one in threading.enumerate() if one.name == "delivery-moody"], every_s=0.001)
        self.begin()

    def settle(self) -> None:
        """Everything arrives in the end."""

        def is_settled() -> bool:
            self.save()
            return self.delivery.idle

        self.end()
        self.recover()
        wait_until(is_settled, every_s=0.001)
        self.save()

    def close(self) -> None:
        self.delivery.abort()


steps = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["commit", "part", "more", "more", "outage", "blow"]), st.integers(1, 7), st.integers(0, 3)
        ),
        st.tuples(st.sampled_from(["fail", "recover", "save", "die"])),
    ),
    max_size=25,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(steps=steps, max_bytes=st.sampled_from([1 << 30, 1500]))
def test_every_event_arrives_once_and_in_order_wherever_it_waits_and_whoever_dies(
    steps: list[tuple[str] | tuple[str, int, int]], max_bytes: int
) -> None:
    """
    Position, mark and spool are stored in one step: whoever goes back to its mark has every event once.

    The bytes are those of the first hour, and at the end nothing is left on disk. A spool smaller than a transaction
    holds it up, and no more.
    """
    directory = Path(tempfile.mkdtemp())
    with closing(World(directory, max_bytes)) as world:
        for step in steps:
            getattr(world, step[0])(*step[1:])
        world.settle()

        offered = [event.id for _, events in world.log for event in events]
        assert [event.id for event in world.taken] == offered
        written = {event.id: event.to_json() for _, events in world.log for event in events}
        assert all(event.to_json() == written[event.id] for event in world.taken)
        assert world.cursor.lsn == (world.log[-1][0] if world.log else LSN(0))
        assert world.cursor.spool is None
        assert not list(directory.iterdir())
    shutil.rmtree(directory)


numbers = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
)


@given(number=numbers, other=numbers)
def test_a_stored_event_has_every_digit_it_was_written_with(number: str, other: str) -> None:
    """Its own bytes, and those a vendor's form of it is made of."""
    fragment = orjson.Fragment(number)
    event = make_event(1, properties={"n": fragment, "deep": {"list": [orjson.Fragment(other), None, "text"]}})

    again = Event.from_json(event.to_json())

    assert again.to_json() == event.to_json()
    assert orjson.dumps(again.properties) == orjson.dumps(event.properties)
    assert (again.id, again.name, again.distinct_id, again.timestamp) == (event.id, event.name, "1", event.timestamp)
    assert again.source == event.source
