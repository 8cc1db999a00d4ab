"""
A delivery without a destination: events wait in memory until a program takes them, and until it confirms them.

It stands where a `Delivery` stands, and the pipeline does not see a difference: what is not confirmed is held, too much
of it closes the replication connection, and the position is that of the last transaction confirmed as a whole.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from itertools import groupby

from wal_tracker.delivery.queue import Batch, Queue
from wal_tracker.errors import StateError
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable
from wal_tracker.state.base import Cursor


class HandOver:
    """The pipeline's thread offers, another takes and confirms; each event in order, and once."""

    failure: BaseException | None = None
    """Of a `Delivery`: why its thread ended. There is none here."""

    def __init__(self, name: str, *, max_held_bytes: int) -> None:
        """
        Args:
            name: Under which the state store knows the position.
            max_held_bytes: What may be unconfirmed, as bytes on the wire; beyond it reading pauses.
        """
        self.name, self.max_held_bytes = name, max_held_bytes
        self.changed = threading.Condition()
        """Notified whenever there may be something new for who takes."""
        self._queue = Queue(LSN(0), max_events=1, max_bytes=1)
        self._ready: deque[Deliverable] = deque()
        self._leaving = False
        self._stalled_at: float | None = None
        self._confirmed_at = 0.0
        self.offered = self.settled = 0

    # The pipeline's side -------------------------------------------------------------------------

    def start(self, position: LSN, cursor: Cursor | None = None) -> None:
        """
        Begin after `position`.

        Raises:
            StateError: Events lie in a spool; they would be passed over.
        """
        if cursor is not None and cursor.spool is not None:
            raise StateError(f"events for destination {self.name!r} lie in its spool: it must stay a destination")
        with self.changed:
            self._queue = Queue(position, max_events=1, max_bytes=1)
            self._ready.clear()
            self._stalled_at = None

    def offer(self, events: list[Deliverable], end_lsn: LSN | None, wire_bytes: int) -> None:
        """As `Delivery.offer`; a burst of many transactions is taken apart, so that each can be confirmed."""
        if not events:
            if end_lsn is not None:
                self.reached(end_lsn)
            return
        with self.changed:
            for part, boundary in _transactions(events, self._queue.told, end_lsn):
                share = wire_bytes * len(part) // len(events) + 1
                self._queue.add(part, boundary, share, time.monotonic())
            self._ready.extend(events)
            self.offered += len(events)
            self._stalled_at = None
            self.changed.notify_all()

    def reached(self, lsn: LSN) -> None:
        """As `Delivery.reached`."""
        with self.changed:
            if self._queue.reach(lsn):
                self._moved()
            self._stalled_at = None
            self.changed.notify_all()

    def store(self, *, pressed: bool = False, leaving: bool = False) -> None:  # noqa: ARG002 - it has no disk
        """There is no disk; `pressed` says that reading pauses for want of room."""
        with self.changed:
            if pressed and self._stalled_at is None:
                self._stalled_at = time.monotonic()
                self.changed.notify_all()

    def saved(self, cursor: Cursor) -> None:
        """Nothing is to be given back."""

    @property
    def held_bytes(self) -> int:
        """Bytes on the wire of what is not confirmed."""
        return self._queue.wire_bytes

    @property
    def is_failing(self) -> bool:
        """Never: who takes nothing is slow."""
        return False

    @property
    def idle(self) -> bool:
        """Everything offered is confirmed."""
        with self.changed:
            return self._queue.events == 0

    @property
    def is_durable(self) -> bool:
        """Nothing is to be waited for: all is confirmed, or nobody will confirm any more."""
        return self._leaving or self.idle

    @property
    def told(self) -> LSN:
        """Everything up to here has been offered."""
        return self._queue.told

    def position(self) -> Cursor:
        """Up to where everything is confirmed; always a place between two transactions."""
        with self.changed:
            return Cursor(self._queue.position)

    def stop(self, deadline_s: float) -> bool:  # noqa: ARG002 - nothing here takes time
        """As `Delivery.stop`."""
        self.leave()
        return self.idle

    def abort(self) -> None:
        """As `Delivery.abort`."""
        self.leave()

    # The program's side --------------------------------------------------------------------------

    def take(self) -> list[Deliverable]:
        """Everything that has come since; the lock of `changed` is held."""
        taken = list(self._ready)
        self._ready.clear()
        return taken

    def confirm(self, count: int) -> None:
        """The oldest `count` events taken and not yet confirmed are done with."""
        with self.changed:
            while count:
                (chunk,) = self._queue.front()
                part = chunk.events[chunk.done : chunk.done + count]
                count -= len(part)
                if self._queue.finish(Batch(part)):
                    self._moved()
            self._confirmed_at = time.monotonic()
            self.changed.notify_all()

    def starved_since(self) -> float | None:
        """
        Since when (monotonic) reading pauses because of what is unconfirmed, and nothing has been confirmed; the lock
        of `changed` is held. None: it does not.
        """
        # Having paused, the pipeline reads on when half of it is free.
        if self._stalled_at is None or self._queue.wire_bytes * 2 <= self.max_held_bytes:
            return None
        return max(self._stalled_at, self._confirmed_at)

    def leave(self) -> None:
        """Nothing will be confirmed any more."""
        with self.changed:
            self._leaving = True
            self.changed.notify_all()

    def _moved(self) -> None:
        self.settled = self.offered - self._queue.events


def _transactions(
    events: list[Deliverable], told: LSN, end_lsn: LSN | None
) -> Iterator[tuple[list[Deliverable], LSN | None]]:
    """
    The events of each transaction, and the place between it and the next: where the next commit record begins.

    Letters that are replayed are older than what was told; they stay together.
    """
    parts = [list(part) for _, part in groupby(events, key=lambda event: str(event.source["commit_lsn"]))]
    begins = [LSN.parse(part[0].source["commit_lsn"]) for part in parts]
    if any(begin < told for begin in begins) or begins != sorted(begins):
        yield events, end_lsn
        return
    # The first may end a transaction that began in an earlier chunk, and an unsent end is the next one's beginning.
    yield from zip(parts, [*begins[1:], end_lsn], strict=True)
