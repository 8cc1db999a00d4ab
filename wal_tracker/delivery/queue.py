"""
What one destination still has to get, and the positions that become true as it gets it.

Chunks come in as the pipeline made them and stay here until durable; batches are cut from the
front. A *boundary* is a place between two events where a transaction ends: the only places a stored
position may name, because after a restart the server sends whole transactions.

Thread: one thread adds, one takes; the lock belongs to whoever owns the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import orjson

from wal_tracker.errors import CheckpointRegression
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable


@dataclass(slots=True)
class _Chunk:
    events: list[Deliverable]
    end_lsn: LSN | None
    wire_bytes: int
    arrived: float
    done: int = 0
    """How many of `events` are durable already."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events cut from the front of a queue: either some to be sent, or one that cannot be written as JSON."""

    events: Sequence[Deliverable]
    unwritable: Deliverable | None = None
    reason: str = ""
    """Why `unwritable` is not JSON."""

    @property
    def taken(self) -> int:
        """How many events of the queue it accounts for."""
        return len(self.events) if self.unwritable is None else 1


class Queue:
    """Chunks in, batches out, in order; nothing is forgotten before `finish` says it is durable."""

    def __init__(self, position: LSN, *, max_events: int, max_bytes: int, ends_on_boundaries: bool = True) -> None:
        """
        Args:
            position: Up to where everything is durable already.
            max_events: Of one batch.
            max_bytes: Of one batch's events as JSON; a single event that is larger goes alone.
            ends_on_boundaries: A batch with a boundary in it ends on one, so that nothing beyond `position` has been
                sent when it moves, as a mark needs it; without, batches are as large as they may be.
        """
        self.position = position
        """Everything up to here is durable; a boundary."""
        self.wire_bytes = 0
        """Bytes on the wire of everything that is here."""
        self.events = 0
        """How many events are here."""
        self.beyond = 0
        """How many events beyond `position` are durable."""
        self._ends_on_boundaries = ends_on_boundaries
        self._max_events, self._max_bytes = max_events, max_bytes
        self._chunks: deque[_Chunk] = deque()
        self.told = position
        """The last boundary added, or reached with nothing to add."""
        self._open_commit_lsn: LSN | None = None

    def add(self, events: list[Deliverable], end_lsn: LSN | None, wire_bytes: int, now: float) -> None:
        """
        Append events; the list is ours from now on.

        Args:
            events: At least one.
            end_lsn: End of the transaction these complete exactly; None: their transaction goes on.
            wire_bytes: What they took on the wire.
            now: Monotonic seconds.

        Raises:
            CheckpointRegression: `end_lsn` lies before one already told.
        """
        if end_lsn is None:
            self._open_commit_lsn = _commit_lsn(events[-1])
        else:
            if end_lsn < self.told:
                raise CheckpointRegression(f"a transaction that ends at {end_lsn} came after {self.told}")
            self.told, self._open_commit_lsn = end_lsn, None
        self._chunks.append(_Chunk(events, end_lsn, wire_bytes, now))
        self.events += len(events)
        self.wire_bytes += wire_bytes

    def reach(self, lsn: LSN) -> bool:
        """
        Everything up to `lsn` has been added, and there was no more for us: the end of what is here is a boundary.

        An `lsn` before the end of the transaction whose first events are here already says nothing and is passed over:
        that transaction is still to come to its end (after a reconnect, in whole).

        Returns:
            Whether `position` moved.
        """
        if lsn <= self.told or (self._open_commit_lsn is not None and lsn <= self._open_commit_lsn):
            return False
        self.told, self._open_commit_lsn = lsn, None
        if self._chunks:
            self._chunks[-1].end_lsn = lsn
            return False
        self.position, self.beyond = lsn, 0
        return True

    def limit(self, *, max_events: int, max_bytes: int) -> None:
        """Cut batches within other limits from now on; not between `front` and `cut`."""
        self._max_events, self._max_bytes = max_events, max_bytes

    @property
    def oldest(self) -> float:
        """When the chunk at the front arrived; only while there is one."""
        return self._chunks[0].arrived

    def front(self) -> list[_Chunk]:
        """The chunks a batch could be cut from; for `cut`, which needs no lock then."""
        # Every chunk holds an event that is not done, so max_events chunks fill any batch.
        return list(islice(self._chunks, self._max_events))

    def cut(self, chunks: list[_Chunk]) -> Batch:
        """
        The next batch: whole chunks where they fit, so that it ends on a boundary whenever there is one in reach; or as
        many events as may be.

        Args:
            chunks: What `front` gave.
        """
        events: list[Deliverable] = []
        size = boundary = 0
        for chunk in chunks:
            room = self._max_events - len(events)
            whole = len(chunk.events) - chunk.done <= room
            part = chunk.events if whole and not chunk.done else chunk.events[chunk.done : chunk.done + room]
            try:
                sizes = [len(event.to_json()) for event in part]
            except orjson.JSONEncodeError:
                good, reason = writable(part)
                if not good and not events:
                    return Batch((), part[0], reason)
                part, whole = part[:good], False
                sizes = [len(event.to_json()) for event in part]
            total = sum(sizes)
            if size + total > self._max_bytes:
                part, whole = part[: _fitting(sizes, self._max_bytes - size)], False
                if not part and not events:
                    part = chunk.events[chunk.done : chunk.done + 1]
                    whole = len(chunk.events) - chunk.done == 1
            size += total
            events = part if not events else events + part
            if not whole:
                break
            if chunk.end_lsn is not None:
                boundary = len(events)
            if len(events) >= self._max_events or size >= self._max_bytes:
                break
        if self._ends_on_boundaries and 0 < boundary < len(events):
            events = events[:boundary]
        return Batch(events)

    def waiting(self) -> list[Deliverable]:
        """Everything that is here, oldest first."""
        return [event for chunk in self._chunks for event in chunk.events[chunk.done :]]

    def drain(self) -> int:
        """
        Everything that is here is durable elsewhere: forget it, and move `position` to the last boundary in it.

        Returns:
            How many of the events lie behind that boundary: of a transaction that goes on.
        """
        behind = 0
        for chunk in self._chunks:
            behind += len(chunk.events) - chunk.done
            if chunk.end_lsn is not None:
                self.position, self.beyond, behind = chunk.end_lsn, 0, 0
        # Not emptied: a batch that is being cut looks at the chunks it was given.
        self._chunks = deque()
        self.events = self.wire_bytes = 0
        return behind

    def finish(self, batch: Batch) -> bool:
        """
        The batch just cut is durable: forget it, and move `position` to the last boundary passed.

        Returns:
            Whether it moved.
        """
        count = batch.taken
        self.events -= count
        moved = False
        while count:
            chunk = self._chunks[0]
            left = len(chunk.events) - chunk.done
            if count < left:
                chunk.done += count
                self.beyond += count
                break
            count -= left
            self.beyond += left
            self._chunks.popleft()
            self.wire_bytes -= chunk.wire_bytes
            if chunk.end_lsn is not None:
                self.position, self.beyond, moved = chunk.end_lsn, 0, True
        return moved


def _fitting(sizes: list[int], room: int) -> int:
    """How many of the first fit."""
    for index, size in enumerate(sizes):
        room -= size
        if room < 0:
            return index
    return len(sizes)


def writable(events: Sequence[Deliverable]) -> tuple[int, str]:
    """How many of the first can be written as JSON, and what is wrong with the next."""
    for index, event in enumerate(events):
        try:
            event.to_json()
        except orjson.JSONEncodeError as error:
            return index, str(error)
    return len(events), ""


def _commit_lsn(event: Deliverable) -> LSN:
    return LSN.parse(event.source["commit_lsn"])
