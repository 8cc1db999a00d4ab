"""
One destination's thread: batches in order, until everything is durable there or refused for good.

Events wait in memory (`Queue`) for as long as their destination takes them. From one that fails, and holds more than
memory is meant for or has held it for too long, they go to disk (`Spool`): the position may pass them then, so the
server keeps no WAL for them and nobody else waits. While anything is on disk everything new goes behind it, and when
the last of it is delivered events wait in memory again; the order is the same all the way.

Where the vendor takes several requests at once, a backlog of events of different rows is sent by several senders
(`wal_tracker.delivery.lanes`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from queue import SimpleQueue
from typing import Literal, NamedTuple

from wal_tracker.delivery import lanes
from wal_tracker.delivery.backoff import Backoff
from wal_tracker.delivery.queue import Batch, Queue, writable
from wal_tracker.delivery.sender import Aborted, Pace, Records, Sender
from wal_tracker.delivery.spool import BEGINNING, Spool, SpoolDamaged
from wal_tracker.destinations.base import Destination, Mark, Rejected
from wal_tracker.errors import StateError
from wal_tracker.failpoints import hit
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable
from wal_tracker.state.base import Cursor, Gap, Place, Spooled

logger = logging.getLogger("wal_tracker.delivery")

# After `abort` a call about to return may do so and close its files; one that hangs is left to its daemon thread.
ABORT_GRACE_S = 1.0

# A spool that was full is written to again when so much of it is free: shedding and writing do not take turns.
_ROOM_AGAIN = 7 / 8

# A spooling delivery writes what has come once it is so much; less waits until positions are stored.
_WRITE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """What the configuration says about one delivery; None leaves it to the destination's `limits`."""

    max_batch_events: int | None = None
    """Lowers the destination's limit, never raises it."""
    max_batch_bytes: int | None = None
    """Likewise."""
    linger_s: float | None = None
    retry_base_s: float = 0.5
    retry_cap_s: float = 60.0
    max_events_per_s: float = 0.0
    """0: as fast as it goes."""
    max_queue_bytes: int = 8 * 1024 * 1024
    """Bytes on the wire that may wait in memory; it is up to the pipeline to offer no more."""
    spool_after_s: float = 30.0
    """A failing destination's events are put on disk once they have waited so long."""
    at_spool_bound: Literal["hold", "shed"] = "hold"
    """When the spool is full too: let everything wait, or drop what comes, with a gap on record."""
    outlasts_refusal: bool = False
    """Where there is a spool: go on when the destination refuses us, since others would have to stop with it."""
    outlasts_opening: bool = False
    """Likewise when it cannot be opened at the start: it was open before, so nobody has just mistyped it."""


class _Boundary(NamedTuple):
    """The end of a transaction, in the spool: everything before it is there, or durable at the destination."""

    lsn: LSN
    place: Place
    offered: int
    """How many events had been offered by then."""


class Delivery:
    """
    Queue, spool and thread of one destination.

    `offer`, `reached`, `store`, `saved`, `replace`, `stop` and `abort` are called from the pipeline's thread and never
    wait for the destination (`stop` and `abort` wait within their bounds); everything else from any thread.
    """

    def __init__(
        self,
        name: str,
        destination: Destination,
        settings: DeliverySettings,
        records: Records,
        *,
        siblings: Sequence[Destination] = (),
        spool: Spool | None = None,
        rule_of: Callable[[Deliverable], str] = lambda _: "",
    ) -> None:
        """
        Args:
            name: The destination's key in the configuration.
            destination: Called from one thread at a time.
            settings: See there.
            records: Where refused events and gaps are kept.
            siblings: Further objects of the same destination, for as many more requests at once.
            spool: Where events wait that memory has no room for; None: nowhere.
            rule_of: The id of the rule that made an event; asked for dead letters only.
        """
        self.name = name
        self._settings = settings
        self._records = records
        self._spool = spool
        self._take_limits(destination)
        pace = Pace(settings.max_events_per_s)
        self._senders = [
            Sender(
                name,
                one,
                Backoff(settings.retry_base_s, settings.retry_cap_s),
                records,
                pace,
                rule_of,
                outlasts_refusal=settings.outlasts_refusal and spool is not None,
            )
            for one in (destination, *siblings)
        ]
        self._queue = self._new_queue(LSN(0))
        self._changed = threading.Condition()
        self._leaving = threading.Event()
        self._aborted = threading.Event()
        self._position = Cursor(LSN(0))
        self._thread: threading.Thread | None = None
        self._workers: list[_Worker] = []
        self._in_flight = 0
        self._spooling = False
        self._front: deque[tuple[Deliverable, Place]] = deque()
        # Of the spool: up to where it was read, up to where that is delivered, and what can be read.
        self._loaded = self._read = self._synced = BEGINNING
        # The last one written, and the last one synced; None: only of a transaction that goes on there is anything.
        self._written: _Boundary | None = None
        self._durable: _Boundary | None = None
        self._stored: Spooled | None = None
        self._stored_mark: Mark | None = None
        self._mark: Mark | None = None
        self._last_read: Deliverable | None = None
        self._shedding_since: str | None = None
        self._no_disk = False
        self.failure: BaseException | None = None
        """Why the thread has ended, if it ended by itself; only a person can mend it."""
        self.delivered = 0
        """Events durable at the destination since the start."""
        self.rejected = 0
        """Events refused for good, now dead letters."""
        self.offered = 0
        """Events handed over since the start."""
        self.settled = 0
        """Of those, how many `position` covers: delivered, dead, spooled or shed; counted after it, never before."""

    def start(self, position: LSN, cursor: Cursor | None = None) -> None:
        """
        Open the destination and start its thread.

        Store `position()` before the first `offer`: it may hold a mark for the state before the first batch.

        Args:
            position: Up to where everything is durable, as stored.
            cursor: What is stored of it; None: nothing yet.

        Raises:
            DestinationError: It cannot be opened, and is not outlasted (`DeliverySettings`); no thread was started.
            StateError: Its spool cannot be opened, or there is to be none and events lie in it.
        """
        spooled = cursor.spool if cursor is not None else None
        if spooled is not None and spooled.begin >= spooled.end:
            # All of it was delivered, and only that nothing is left there was not stored any more.
            spooled = None
        if self._spool is not None:
            self._spool.open(spooled)
        elif spooled is not None:
            raise StateError(
                f"events for destination {self.name!r} lie in its spool, and no spool is configured now: set "
                "`delivery.spool_dir` to where it is"
            )
        opened: list[Sender] = []
        try:
            for sender in self._senders:
                sender.open(
                    cursor.mark if cursor is not None else None,
                    outlasts=self._settings.outlasts_opening and self._spool is not None,
                )
                opened.append(sender)
        except BaseException:
            for sender in opened:
                sender.close()
            raise
        self._queue = self._new_queue(position)
        if spooled is not None:
            self._spooling = True
            self._loaded = self._read = spooled.begin
            self._synced = spooled.end
            self._written = self._durable = _Boundary(position, spooled.end, 0)
        self._stored = spooled
        self._stored_mark = cursor.mark if cursor is not None else None
        self._mark = self._senders[0].mark
        self._position = Cursor(position, self._mark, spooled)
        # A daemon: a destination that hangs must not keep the process after its deadline.
        self._thread = threading.Thread(target=self._run, name=f"delivery-{self.name}", daemon=True)
        self._workers = [_Worker(self.name, sender) for sender in self._senders[1:]]
        self._thread.start()

    def offer(self, events: list[Deliverable], end_lsn: LSN | None, wire_bytes: int) -> None:
        """
        Hand over events, oldest first; never blocks. The list is the delivery's from now on.

        Args:
            events: Of transactions after everything offered before; may be empty where `end_lsn` is told.
            end_lsn: The transaction end these complete exactly; None: their transaction goes on.
            wire_bytes: What they took on the wire.

        Raises:
            CheckpointRegression: `end_lsn` lies before one told earlier.
        """
        if not events:
            if end_lsn is not None:
                self.reached(end_lsn)
            return
        with self._changed:
            self._queue.add(events, end_lsn, wire_bytes, time.monotonic())
            self.offered += len(events)
            if not self._spooling:
                self._changed.notify()
            elif self._queue.wire_bytes >= min(_WRITE_BYTES, self._settings.max_queue_bytes):
                self._write()

    def reached(self, lsn: LSN) -> None:
        """
        Everything up to `lsn` has been offered, and there was no more for this destination.

        On an idle delivery the position moves at once, on a busy one when what is held is durable.
        """
        with self._changed:
            if self._queue.reach(lsn):
                if self._spooling:
                    assert self._spool is not None
                    self._written = _Boundary(lsn, self._spool.end, self.offered)
                else:
                    self._moved()

    @property
    def held_bytes(self) -> int:
        """Bytes on the wire of what is in memory and not yet durable."""
        return self._queue.wire_bytes

    @property
    def held_events(self) -> int:
        """How many events are in memory and not yet durable."""
        return self._queue.events

    @property
    def max_held_bytes(self) -> int:
        """How many bytes are meant to wait in memory."""
        return self._settings.max_queue_bytes

    @property
    def spool_bytes(self) -> int:
        """What the spool takes on disk."""
        return self._spool.bytes if self._spool is not None else 0

    @property
    def is_failing(self) -> bool:
        """The destination does not take what it is sent, for now."""
        return any(sender.is_failing for sender in self._senders)

    @property
    def idle(self) -> bool:
        """Nothing is held, spooled or on its way; counters and position are up to date."""
        with self._changed:
            return self._queue.events == 0 and not self._spooling

    @property
    def is_durable(self) -> bool:
        """`position` covers everything that was offered."""
        with self._changed:
            return self._queue.events == 0 and (not self._spooling or self._durable == self._written)

    @property
    def retries(self) -> int:
        """How often something was sent again."""
        return sum(sender.retries for sender in self._senders)

    @property
    def told(self) -> LSN:
        """The last boundary: everything up to here has been offered."""
        return self._queue.told

    def position(self) -> Cursor:
        """Up to where everything is durable, always the end of a transaction; and what belongs to it."""
        return self._position

    def store(self, *, pressed: bool = False, leaving: bool = False) -> None:
        """
        Put on disk what should not wait in memory, and move the position to what is durable there.

        Args:
            pressed: Not only of a destination that fails, but of any that holds more than memory is meant for; and of
                one that fails everything.
            leaving: Of one that fails everything; one that is only slow may still take it.

        Raises:
            StateError: A gap could not be recorded, or what is written to the spool does not become durable.
        """
        spool = self._spool
        if spool is None:
            return
        with self._changed:
            if self._spooling:
                self._write()
            elif not self._should_spool(pressed, leaving) or not self._begin_spooling():
                return
            written = self._written
        synced = spool.sync()
        with self._changed:
            if self._spooling:
                self._durable, self._synced = written, synced
                self._moved_in_spool()
                self._changed.notify()
        self._give_back()

    def saved(self, cursor: Cursor) -> None:
        """
        Give back what the spool needs no more.

        Args:
            cursor: From `position`, stored by now.
        """
        with self._changed:
            self._stored, self._stored_mark = cursor.spool, cursor.mark
            self._changed.notify()
        self._give_back()

    def replace(self, destination: Destination, *siblings: Destination) -> None:
        """
        Deliver to other objects from now on: the same vendor by newer options.

        Takes effect between two requests, also while one is being tried again; what was taken by then is not sent
        again for it.

        Args:
            destination: Not yet open; given up where it cannot be opened.
            siblings: As many as there are already.
        """
        with self._changed:
            for sender, one in zip(self._senders, (destination, *siblings), strict=True):
                sender.replace(one)
            self._changed.notify()

    def stop(self, deadline_s: float) -> bool:
        """
        Deliver what is held in memory, close the destination, and end the thread; what is spooled stays there.

        Args:
            deadline_s: After so many seconds what is left is abandoned; it comes again after the next start.

        Returns:
            Whether everything held was delivered.
        """
        with self._changed:
            self._leaving.set()
            if self._spooling or (self.is_failing and not self._queue.events):
                self._abort_senders()
                if self.is_failing:
                    # What hangs is not going to be an answer.
                    deadline_s = min(deadline_s, ABORT_GRACE_S)
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(deadline_s)
            if self._thread.is_alive():
                self.abort()
        self._let_go()
        return self.idle and self.failure is None

    def abort(self) -> None:
        """End the thread without sending more. A call on its way is given a second; its outcome may go unrecorded."""
        with self._changed:
            self._abort_senders()
            self._leaving.set()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(ABORT_GRACE_S)
        self._let_go()

    # Spooling, on the pipeline's thread ----------------------------------------------------------

    def _should_spool(self, pressed: bool, leaving: bool) -> bool:
        """Whether events in memory are to go to disk; called with the lock held."""
        if not self._queue.events:
            return False
        is_full = self._queue.wire_bytes > self._settings.max_queue_bytes
        if not self.is_failing:
            return pressed and is_full
        return pressed or leaving or is_full or time.monotonic() - self._queue.oldest > self._settings.spool_after_s

    def _begin_spooling(self) -> bool:
        """Write what is in memory, and go on on disk; called with the lock held."""
        assert self._spool is not None
        waiting = self._queue.waiting()
        try:
            places = self._spool.append(waiting)
        except OSError as error:
            self._warn_of_disk(error)
            return False
        # What may be on its way stays here too, so that its outcome is counted off where it stands.
        self._front = deque(zip(waiting[: self._in_flight], places[1 : self._in_flight + 1], strict=True))
        self._read = self._synced = places[0]
        self._loaded = self._front[-1][1] if self._front else self._read
        self._spooling, self._no_disk = True, False
        # Not the boundary memory stands at: of the transaction after it a part may have been delivered.
        self._written = self._durable = None
        self._drain(places)
        logger.warning(
            "a destination is behind; its events go to its spool on disk until it has caught up",
            extra={"destination": self.name, "events": len(waiting)},
        )
        return True

    def _write(self) -> None:
        """Append what has come to the spool, or what the configuration says when it is full; with the lock held."""
        assert self._spool is not None
        if not self._queue.events:
            return
        bound = self._spool.max_bytes * (_ROOM_AGAIN if self._shedding_since is not None else 1)
        if self._spool.bytes >= bound:
            if self._settings.at_spool_bound == "shed":
                self._shed()
            return
        waiting = self._queue.waiting()
        try:
            places = self._spool.append(waiting)
        except OSError as error:
            self._warn_of_disk(error)
            return
        self._no_disk, self._shedding_since = False, None
        self._drain(places)

    def _drain(self, places: Sequence[Place]) -> None:
        """What was in memory is on disk at these places, or, where they are all the same, dropped."""
        behind = self._queue.drain()
        if behind < len(places) - 1:
            self._written = _Boundary(self._queue.position, places[len(places) - 1 - behind], self.offered - behind)

    def _shed(self) -> None:
        """Drop what has come; that it was dropped is on record before any position passes it."""
        assert self._spool is not None
        waiting = self._queue.waiting()
        if self._shedding_since is None:
            self._shedding_since = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
            logger.error("gap: a spool is full, and events are being dropped", extra={"destination": self.name})
        first, last = (LSN.parse(event.source["commit_lsn"]) for event in (waiting[0], waiting[-1]))
        # The same words for as long as it lasts: it is one gap, that grows.
        detail = f"{self.name}: events were dropped from {self._shedding_since} on, its spool being full"
        self._records.record_gap(Gap(first, last, "shed", detail, events=len(waiting)))
        self._drain([self._spool.end] * (len(waiting) + 1))

    def _give_back(self) -> None:
        """Delete what of the spool neither a process that comes after this one will read nor the thread."""
        spool = self._spool
        if spool is None or not spool.bytes:
            return
        with self._changed:
            needed = [
                spooled.begin
                for spooled in (self._stored, self._position.spool)
                if spooled is not None and spooled.begin < spooled.end
            ]
            # What is behind the position comes again from the server, and is here for the thread alone.
            first = min(needed, default=self._read)
            is_over = not needed and not self._spooling and self._stored is None
        if is_over:
            spool.clear()
        else:
            spool.release(first)

    def _warn_of_disk(self, error: OSError) -> None:
        """The spool cannot be written now: its events wait in memory, and then on the server."""
        if not self._no_disk:
            logger.error(
                "a spool cannot be written; its events wait in memory, and then in the server's WAL",
                extra={"destination": self.name, "reason": error.strerror or type(error).__name__},
            )
        self._no_disk = True

    def _let_go(self) -> None:
        """After the thread has ended, or was left: close what is ours."""
        for worker in self._workers:
            worker.leave()
        if self._spool is not None and (self._thread is None or not self._thread.is_alive()):
            self._spool.close()

    def _abort_senders(self) -> None:
        self._aborted.set()
        for sender in self._senders:
            sender.abort()

    # The thread ----------------------------------------------------------------------------------

    def _new_queue(self, position: LSN) -> Queue:
        width = len(self._senders)
        return Queue(
            position,
            max_events=self._max_events * width,
            max_bytes=self._max_bytes * width,
            # Where several requests are on their way at once there is no mark (`Limits.concurrency`).
            ends_on_boundaries=width == 1,
        )

    def _run(self) -> None:
        try:
            try:
                self._open_late()
                while (batch := self._next()) is not None:
                    self._deliver(batch)
            except Aborted:
                logger.debug("left with events undelivered", extra={"destination": self.name})
            finally:
                self._senders[0].close()
        except BaseException as error:  # noqa: BLE001 - kept, and raised again by the pipeline's thread
            logger.error("a destination has failed", extra={"destination": self.name, "error": type(error).__name__})
            self.failure = error

    def _open_late(self) -> None:
        """Open what could not be opened at the start; a new mark is stored before anything is delivered."""
        for sender in self._senders:
            sender.open_late()
        with self._changed:
            if self._mark == self._senders[0].mark:
                return
            self._mark = self._senders[0].mark
            self._position = replace(self._position, mark=self._mark)
            while self._stored_mark != self._mark:
                if self._leaving.is_set():
                    raise Aborted
                self._changed.wait()

    def _take_limits(self, destination: Destination) -> None:
        settings, limits, self._limited_by = self._settings, destination.limits, destination
        self._linger_s = limits.linger_s if settings.linger_s is None else settings.linger_s
        self._max_events = min(limits.max_batch_events, settings.max_batch_events or limits.max_batch_events)
        self._max_bytes = min(limits.max_batch_bytes, settings.max_batch_bytes or limits.max_batch_bytes)

    def _take_replacements(self) -> None:
        """Go over to other objects where there are some; nothing is on its way now."""
        for sender in self._senders:
            sender.take_replacement()
        with self._changed:
            width = len(self._senders)
            self._take_limits(self._senders[0].destination)
            self._mark = self._senders[0].mark
            self._queue.limit(max_events=self._max_events * width, max_bytes=self._max_bytes * width)

    def _next(self) -> Batch | None:
        """Wait for events that are many enough or have lingered long enough; None: it is time to leave."""
        while True:
            with self._changed:
                is_ready = self._wait_for_events()
                limit = self._limit if self._spooling else None
                chunks = self._queue.front()
                if limit is None:
                    self._in_flight = min(self._queue.events, self._max_events * len(self._senders))
            if is_ready is None:
                return None
            if is_ready:
                # Outside the lock: this is where events become JSON, or are read from disk.
                return self._queue.cut(chunks) if limit is None else self._from_spool(limit)
            self._take_replacements()

    def _wait_for_events(self) -> bool | None:
        """Whether there are some; False: there is a replacement to go over to; None: it is time to leave."""
        while True:
            if self._aborted.is_set():
                raise Aborted
            # A sender may have gone over to another one already, in the middle of a batch.
            is_limited_anew = self._senders[0].destination is not self._limited_by
            if is_limited_anew or any(sender.has_replacement for sender in self._senders):
                return False
            if self._spooling:
                if self._leaving.is_set():
                    return None
                if self._front or self._loaded < self._limit:
                    return True
                if not self._end_spooling():
                    self._changed.wait()
            elif self._queue.events:
                wait = self._queue.oldest + self._linger_s - time.monotonic()
                if (
                    wait <= 0
                    or self._leaving.is_set()
                    or self._queue.events >= self._max_events
                    or self._queue.wire_bytes >= self._max_bytes
                ):
                    return True
                self._changed.wait(wait)
            elif self._leaving.is_set():
                return None
            else:
                self._changed.wait()

    @property
    def _limit(self) -> Place:
        """
        Up to where the spool may be read now; with the lock held.

        To the last boundary first, so that there is a moment when exactly that is delivered; then, where a transaction
        goes on and on, what there is of it.
        """
        durable = self._durable
        return durable.place if durable is not None and self._loaded < durable.place else self._synced

    def _from_spool(self, limit: Place) -> Batch:
        """The next events on disk; none where what is next cannot be read, which is on record then."""
        assert self._spool is not None
        width = len(self._senders)
        if not self._front:
            try:
                self._front.extend(
                    self._spool.read(self._loaded, limit, self._max_events * width, self._max_bytes * width)
                )
            except SpoolDamaged as damage:
                self._pass_over(damage)
                return Batch(())
            if not self._front:
                self._loaded = limit
                return Batch(())
            self._last_read, self._loaded = self._front[-1]
        events = [event for event, _ in self._front]
        count, reason = writable(events)
        if count == 0:
            return Batch((), events[0], reason)
        if width == 1:
            return Batch(lanes.batches(events[:count], self._max_events, self._max_bytes)[0])
        return Batch(events[:count])

    def _pass_over(self, damage: SpoolDamaged) -> None:
        """What cannot be read is not delivered: on record before anything behind it is sent."""
        logger.error("gap: a spool is damaged", extra={"destination": self.name, "where": damage.where})
        last, durable = self._last_read, self._durable
        assert self._spool is not None
        ends_there = durable is not None and min(damage.resume, self._spool.end) <= durable.place
        self._records.record_gap(
            Gap(
                LSN(0) if last is None else LSN.parse(last.source["commit_lsn"]),
                durable.lsn if durable is not None and ends_there else None,
                "spool_damaged",
                f"{self.name}: {damage.where}; what was in it was not delivered",
            )
        )
        with self._changed:
            if durable is not None and self._read < durable.place < damage.resume:
                # The boundary is passed unseen: everything before it is delivered, or on record.
                self._read = durable.place
                self._moved_in_spool()
            self._loaded = self._read = damage.resume
            self._moved_in_spool()

    def _end_spooling(self) -> bool:
        """Everything on disk is delivered, and what has come meanwhile can wait in memory; with the lock held."""
        assert self._spool is not None
        if self._loaded < self._spool.end:
            return False
        self._spooling = False
        # Of a transaction that goes on a part is delivered; the position moves at its end.
        if self._written is not None and self._written.place == self._spool.end:
            self._moved()
        logger.info("a destination has caught up with its spool", extra={"destination": self.name})
        return True

    def _deliver(self, batch: Batch) -> None:
        """Send events until every one is durable or a dead letter; then move the position."""
        buried = 0
        if batch.unwritable is not None:
            why = Rejected(f"it cannot be written as JSON: {batch.reason}")
            buried = self._senders[0].bury([(batch.unwritable, why)])
        elif batch.events:
            batch, buried = self._send(batch)
        hit("after_destination_before_state")
        with self._changed:
            self._in_flight = 0
            # Not before: a mark that knows of more than the position would have it sent again behind itself.
            self._mark = self._senders[0].mark
            if self._spooling:
                for _ in range(batch.taken):
                    self._read = self._front.popleft()[1]
                self._moved_in_spool()
            elif self._queue.finish(batch):
                self._moved()
            # After the position: who sees an event counted may store the position and find it covered.
            self.delivered += batch.taken - buried
            self.rejected += buried

    def _send(self, batch: Batch) -> tuple[Batch, int]:
        """
        Send the batch, or where several requests may be on their way at once its beginning.

        Returns:
            What of it was sent, and how many events became dead letters.
        """
        if len(self._senders) == 1:
            return batch, self._senders[0].send(batch.events)
        # No more requests than it takes: few full ones cost less than many small ones.
        width = min(len(self._senders), len(lanes.batches(batch.events, self._max_events, self._max_bytes)))
        if width == 1:
            return batch, self._senders[0].send(batch.events)
        ways = [
            lanes.batches(way, self._max_events, self._max_bytes)
            for way in lanes.abreast(batch.events, width, self._max_events)
        ]
        for worker, way in zip(self._workers, ways[1:], strict=False):
            worker.begin(way)
        working = self._workers[: len(ways) - 1]
        try:
            buried = sum(self._senders[0].send(events) for events in ways[0])
        except BaseException:
            for sender in self._senders:
                sender.abort()
            for worker in working:
                worker.outcome()
            raise
        outcomes = [worker.outcome() for worker in working]
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            buried += outcome
        return Batch([event for way in ways for events in way for event in events]), buried

    def _moved(self) -> None:
        """The queue stands at a new boundary, and with a mark nothing beyond it was sent; called with the lock held."""
        self._position = Cursor(self._queue.position, self._mark)
        self.settled = self.offered - self._queue.events - self._queue.beyond

    def _moved_in_spool(self) -> None:
        """More is durable on disk, or delivered from there; called with the lock held."""
        if self._durable is not None and self._read <= self._durable.place:
            spooled = Spooled(self._read, self._durable.place)
            self._position = Cursor(self._durable.lsn, self._mark, spooled)
            self.settled = self._durable.offered


class _Worker:
    """The thread of one more sender."""

    def __init__(self, name: str, sender: Sender) -> None:
        self._sender = sender
        self._inbox: SimpleQueue[list[Sequence[Deliverable]] | None] = SimpleQueue()
        self._outbox: SimpleQueue[int | BaseException] = SimpleQueue()
        threading.Thread(target=self._run, name=f"delivery-{name}-beside", daemon=True).start()

    def begin(self, way: list[Sequence[Deliverable]]) -> None:
        """Send these batches, one after the other."""
        self._inbox.put(way)

    def outcome(self) -> int | BaseException:
        """Wait for the end of what was begun: how many events became dead letters, or what went wrong."""
        return self._outbox.get()

    def leave(self) -> None:
        """Close the destination and end the thread."""
        self._inbox.put(None)

    def _run(self) -> None:
        try:
            while (way := self._inbox.get()) is not None:
                try:
                    self._outbox.put(sum(self._sender.send(events) for events in way))
                except BaseException as error:  # noqa: BLE001 - raised again by the delivery's own thread
                    self._outbox.put(error)
        finally:
            self._sender.close()
