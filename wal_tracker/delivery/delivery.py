"""
One destination's thread: it sends batches in order until they are durable or refused for good.

A batch that is refused for a while blocks what is behind it, and goes again without end: back-pressure
reaches the server, and nothing is dropped for being late. What is refused for good becomes a dead
letter, durable before the position may pass it. Anything unexpected ends the thread and is shown as
`failure`; it is never swallowed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson

from wal_tracker.delivery.backoff import Backoff
from wal_tracker.delivery.queue import Batch, Queue
from wal_tracker.destinations.base import BatchRefused, Destination, Mark, Outcome, Rejected
from wal_tracker.errors import DeadLettersFull, DestinationUnavailable
from wal_tracker.failpoints import hit
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable
from wal_tracker.state.base import DeadLetter

logger = logging.getLogger("wal_tracker.delivery")

# After `abort` a call about to return may do so and close its files; one that hangs is left to its daemon thread.
ABORT_GRACE_S = 1.0


class DeadLetters(Protocol):
    """Where refused events are kept; the state store."""

    def add(self, letters: Sequence[DeadLetter]) -> None:
        """
        Keep them; returns when they are on disk. Idempotent on (id, destination).

        Raises:
            DeadLettersFull: There is room for the first of them only, or for none.
        """
        ...


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


class _Aborted(Exception):
    """Told to leave in the middle of a batch; the batch counts as not sent."""


class Delivery:
    """
    Queue and thread of one destination.

    `offer`, `reached`, `position`, `held_bytes`, `failure`, `stop` and `abort` are called from the pipeline's
    thread and never wait for the destination (`stop` and `abort` wait within their bounds).
    """

    def __init__(
        self,
        name: str,
        destination: Destination,
        settings: DeliverySettings,
        dead_letters: DeadLetters,
        rule_of: Callable[[Deliverable], str] = lambda _: "",
    ) -> None:
        """
        Args:
            name: The destination's key in the configuration.
            destination: Called from one thread at a time.
            settings: See there.
            dead_letters: Where refused events go.
            rule_of: The id of the rule that made an event; asked for dead letters only.
        """
        limits = destination.limits
        self.name = name
        self._destination = destination
        self._dead_letters = dead_letters
        self._rule_of = rule_of
        self._linger_s = limits.linger_s if settings.linger_s is None else settings.linger_s
        self._max_events = min(limits.max_batch_events, settings.max_batch_events or limits.max_batch_events)
        self._max_bytes = min(limits.max_batch_bytes, settings.max_batch_bytes or limits.max_batch_bytes)
        self._backoff = Backoff(settings.retry_base_s, settings.retry_cap_s)
        self._queue = self._new_queue(LSN(0))
        self._changed = threading.Condition()
        self._leaving = threading.Event()
        self._aborted = threading.Event()
        self._mark: Mark | None = None
        self._position: tuple[LSN, Mark | None] = (LSN(0), None)
        self._thread: threading.Thread | None = None
        self._buried = 0
        self.failure: BaseException | None = None
        """Why the thread has ended, if it ended by itself; only a person can mend it."""
        self.delivered = 0
        """Events durable at the destination since the start."""
        self.rejected = 0
        """Events refused for good, now dead letters."""
        self.offered = 0
        """Events handed over since the start."""
        self.settled = 0
        """Of those, how many `position` covers, delivered or dead; counted after it has moved, never before."""
        self.retries = 0
        """How often something was sent again."""

    def start(self, position: LSN, mark: Mark | None) -> None:
        """
        Open the destination and start its thread.

        Store `position()` before the first `offer`: it may hold a mark for the state before the first batch.

        Args:
            position: Up to where everything is durable there, as stored.
            mark: The mark stored with it.

        Raises:
            DestinationError: It cannot be opened; no thread was started.
        """
        opened = self._destination.open(mark)
        self._mark = mark if opened is None else opened
        self._queue = self._new_queue(position)
        self._position = (position, self._mark)
        # A daemon: a destination that hangs must not keep the process after its deadline.
        self._thread = threading.Thread(target=self._run, name=f"delivery-{self.name}", daemon=True)
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
            self._changed.notify()

    def reached(self, lsn: LSN) -> None:
        """
        Everything up to `lsn` has been offered, and there was no more for this destination.

        On an idle delivery the position moves at once, on a busy one when what is held is durable.
        """
        with self._changed:
            if self._queue.reach(lsn):
                self._moved()

    @property
    def held_bytes(self) -> int:
        """Bytes on the wire of what is not yet durable."""
        return self._queue.wire_bytes

    @property
    def held_events(self) -> int:
        """How many events are not yet durable."""
        return self._queue.events

    @property
    def idle(self) -> bool:
        """Nothing is held, or on its way; counters and position are up to date."""
        with self._changed:
            return self._queue.events == 0

    @property
    def told(self) -> LSN:
        """The last boundary: everything up to here has been offered."""
        return self._queue.told

    def position(self) -> tuple[LSN, Mark | None]:
        """Up to where everything is durable, always the end of a transaction; and the mark that belongs to it."""
        return self._position

    def stop(self, deadline_s: float) -> bool:
        """
        Deliver what is held, close the destination, and end the thread.

        Args:
            deadline_s: After so many seconds what is left is abandoned; it comes again after the next start.

        Returns:
            Whether everything held was delivered.
        """
        with self._changed:
            self._leaving.set()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(deadline_s)
            if self._thread.is_alive():
                self.abort()
        return self.idle and self.failure is None

    def abort(self) -> None:
        """End the thread without sending more. A call on its way is given a second; its outcome may go unrecorded."""
        with self._changed:
            self._aborted.set()
            self._leaving.set()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(ABORT_GRACE_S)

    # The thread ----------------------------------------------------------------------------------

    def _new_queue(self, position: LSN) -> Queue:
        return Queue(position, max_events=self._max_events, max_bytes=self._max_bytes)

    def _run(self) -> None:
        try:
            try:
                while (batch := self._next()) is not None:
                    self._deliver(batch)
            except _Aborted:
                logger.debug("left with events undelivered", extra={"destination": self.name})
            finally:
                self._destination.close()
        except BaseException as error:  # noqa: BLE001 - kept, and raised again by the pipeline's thread
            logger.error("a destination has failed", extra={"destination": self.name, "error": type(error).__name__})
            self.failure = error

    def _next(self) -> Batch | None:
        """Wait for a batch that is full or has lingered long enough; None: it is time to leave."""
        with self._changed:
            while True:
                if self._aborted.is_set():
                    raise _Aborted
                if self._queue.events:
                    wait = self._queue.oldest + self._linger_s - time.monotonic()
                    if (
                        wait <= 0
                        or self._leaving.is_set()
                        or self._queue.events >= self._max_events
                        or self._queue.wire_bytes >= self._max_bytes
                    ):
                        break
                    self._changed.wait(wait)
                elif self._leaving.is_set():
                    return None
                else:
                    self._changed.wait()
            chunks = self._queue.front()
        # Outside the lock: this is where events become JSON.
        return self._queue.cut(chunks)

    def _deliver(self, batch: Batch) -> None:
        """Send a batch until every event of it is durable or a dead letter; then move the position."""
        self._buried = 0
        if batch.unwritable is not None:
            self._bury([(batch.unwritable, Rejected(f"it cannot be written as JSON: {batch.reason}"))])
        pieces: list[Sequence[Deliverable]] = [batch.events] if batch.events else []
        while pieces:
            if self._aborted.is_set():
                raise _Aborted
            piece = pieces[0]
            hit("before_destination")
            try:
                receipt = self._destination.deliver(piece)
            except DestinationUnavailable as error:
                self._wait_to_retry(error.message, error.retry_after_s)
                continue
            except BatchRefused as refusal:
                if len(piece) == 1:
                    self._bury([(piece[0], Rejected(refusal.reason, refusal.answer))])
                    del pieces[0]
                else:
                    half = len(piece) // 2
                    pieces[0:1] = [piece[:half], piece[half:]]
                continue
            if receipt.mark is not None:
                self._mark = receipt.mark
            again = self._settle(piece, receipt.outcomes) if receipt.outcomes else []
            if again:
                pieces[0] = again
            else:
                self._taken()
                del pieces[0]
        hit("after_destination_before_state")
        with self._changed:
            if self._queue.finish(batch):
                self._moved()
            # After the position: who sees an event counted may store the position and find it covered.
            self.delivered += batch.taken - self._buried
            self.rejected += self._buried

    def _moved(self) -> None:
        """The queue stands at a new boundary, and nothing beyond it has been sent; called with the lock held."""
        self._position = (self._queue.position, self._mark)
        self.settled = self.offered - self._queue.events

    def _settle(self, piece: Sequence[Deliverable], outcomes: Mapping[int, Outcome]) -> list[Deliverable]:
        """Bury what was refused for good, wait if something must come again, and give that back in order."""
        refused: list[tuple[Deliverable, Rejected]] = []
        again: list[Deliverable] = []
        retry_after_s: float | None = None
        reason = ""
        for index, event in enumerate(piece):
            outcome = outcomes.get(index)
            if outcome is None:
                continue
            if isinstance(outcome, Rejected):
                refused.append((event, outcome))
            else:
                again.append(event)
                reason = reason or outcome.reason
                if outcome.after_s is not None:
                    retry_after_s = max(outcome.after_s, retry_after_s or 0.0)
        if refused:
            self._bury(refused)
        if again:
            if len(refused) + len(again) < len(piece):
                self._backoff.reset()
            self._wait_to_retry(reason or "some events were not taken", retry_after_s)
        return again

    def _bury(self, refused: Sequence[tuple[Deliverable, Rejected]]) -> None:
        """Dead letters, on disk before this returns; where there is no room for them it waits until there is."""
        letters = [_dead_letter(event, self._rule_of(event), self.name, refusal) for event, refusal in refused]
        while letters:
            try:
                self._dead_letters.add(letters)
                break
            except DeadLettersFull as full:
                letters = letters[full.stored :]
                self._wait_to_retry(str(full), None, "no room for dead letters; this destination waits")
        self._buried += len(refused)
        logger.warning(
            "events were refused and are now dead letters (`wal_tracker dlq list`)",
            extra={"destination": self.name, "events": len(refused)},
        )

    def _wait_to_retry(
        self,
        reason: str,
        retry_after_s: float | None,
        what: str = "a destination is not taking events; trying again",
    ) -> None:
        wait_s = self._backoff.next_s(retry_after_s)
        self.retries += 1
        attempts = self._backoff.attempts
        # The first, second, fourth, eighth …: an outage of a night is a page of log.
        logger.log(
            logging.DEBUG if attempts & (attempts - 1) else logging.WARNING,
            what,
            extra={
                "destination": self.name,
                "reason": reason,
                "attempt": attempts,
                "retry_in_s": round(wait_s, 3),
            },
        )
        if self._aborted.wait(wait_s):
            raise _Aborted

    def _taken(self) -> None:
        if self._backoff.attempts:
            logger.info(
                "a destination is taking events again",
                extra={"destination": self.name, "attempts": self._backoff.attempts},
            )
            self._backoff.reset()


def _dead_letter(event: Deliverable, rule: str, destination: str, refusal: Rejected) -> DeadLetter:
    source = event.source
    table = f"{source['schema']}.{source['table']}" if "table" in source else f"message.{source.get('prefix', '')}"
    try:
        payload = event.to_json()
    except orjson.JSONEncodeError:
        payload = orjson.dumps({"id": event.id, "event": event.name, "timestamp": event.timestamp, "source": source})
    return DeadLetter(
        id=event.id,
        destination=destination,
        kind="rejected",
        rule=rule,
        event=event.name,
        table=table,
        commit_lsn=LSN.parse(source["commit_lsn"]),
        commit_time=event.timestamp,
        reason=refusal.reason,
        payload=payload,
        answer=refusal.answer,
    )
