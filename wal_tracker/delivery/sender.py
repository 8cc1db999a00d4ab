"""
One destination object, and the way events take through it: sent until each is durable or refused for good.

What is refused for a while blocks what is behind it, and goes again without end: nothing is dropped for being late.
What is refused for good becomes a dead letter, on disk before it counts. Anything unexpected is raised, and ends the
delivery; it is never swallowed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import orjson

from wal_tracker.delivery.backoff import Backoff
from wal_tracker.delivery.lanes import batches
from wal_tracker.destinations.base import BatchRefused, Destination, Mark, Outcome, Rejected
from wal_tracker.errors import DeadLettersFull, DestinationError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.failpoints import hit
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable
from wal_tracker.state.base import DeadLetter, Gap, LetterKind

logger = logging.getLogger("wal_tracker.delivery")

# A call that has not come back after so long is no success any more, whatever becomes of it.
HANGING_AFTER_S = 5.0


class Aborted(Exception):
    """Told to leave in the middle of a batch; the batch counts as not sent."""


class Records(Protocol):
    """Where what was not delivered is kept; the state store."""

    def add(self, letters: Sequence[DeadLetter]) -> None:
        """
        Keep dead letters; returns when they are on disk. Idempotent on (id, destination).

        Raises:
            DeadLettersFull: There is room for the first of them only, or for none.
        """
        ...

    def record_gap(self, gap: Gap) -> None:
        """Keep a gap, or add to the one of the same reason and words; returns when it is on disk."""
        ...


class Pace:
    """Lets so many events a second pass, evenly; shared by the senders of one destination."""

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            per_s: Events a second; 0 lets all pass.
            clock: Monotonic seconds; a test may give its own.
        """
        self._per_s, self._clock = per_s, clock
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait_s(self, events: int) -> float:
        """Book the passage of so many events: in how many seconds they may go."""
        if not self._per_s:
            return 0.0
        with self._lock:
            now = self._clock()
            begins = max(now, self._free_at)
            self._free_at = begins + events / self._per_s
            return begins - now


class Sender:
    """
    Sends through one destination object, from one thread at a time.

    `replace`, `wake` and the attributes may be used from any thread.
    """

    def __init__(
        self,
        name: str,
        destination: Destination,
        backoff: Backoff,
        records: Records,
        pace: Pace,
        rule_of: Callable[[Deliverable], str],
        *,
        outlasts_refusal: bool,
    ) -> None:
        """
        Args:
            name: The destination's key in the configuration.
            destination: Ours alone.
            backoff: Ours alone.
            records: Where refused events go.
            pace: How fast events may go.
            rule_of: The id of the rule that made an event; asked for dead letters only.
            outlasts_refusal: A destination that refuses us (a key that was taken back) is tried again, like one that
                is down, since its events have another place to be meanwhile; else that ends the delivery.
        """
        self.name, self.destination = name, destination
        self._backoff, self._records, self._pace, self._rule_of = backoff, records, pace, rule_of
        self._outlasts_refusal = outlasts_refusal
        self._is_open = False
        self._replacement: Destination | None = None
        self._wake = threading.Event()
        self._aborted = False
        self._calling_since: float | None = None
        self.mark: Mark | None = None
        """Of the last receipt that had one."""
        self.retries = 0
        """How often something was sent again."""

    @property
    def is_failing(self) -> bool:
        """The last attempt was in vain, or the one that is under way takes too long."""
        since = self._calling_since
        return self._backoff.attempts > 0 or (since is not None and time.monotonic() - since > HANGING_AFTER_S)

    def open(self, mark: Mark | None, *, outlasts: bool) -> None:
        """
        Open the destination.

        Args:
            mark: As stored.
            outlasts: Where that fails, leave it for `open_late`.

        Raises:
            DestinationError: It cannot be opened, and is not outlasted.
        """
        self.mark = mark
        try:
            self._open(self.destination)
        except DestinationError as error:
            if not outlasts:
                raise
            self.destination.close()
            # It is failing from now on: its events go to its spool as soon as there are some.
            self._backoff.next_s(None)
            logger.error(
                "a destination cannot be opened, and needs a person; its events wait",
                extra={"destination": self.name, "reason": error.message},
            )

    def open_late(self) -> None:
        """
        Open what could not be opened at first, however long that takes; on the thread that sends.

        Raises:
            Aborted: Told to leave.
        """
        if self._is_open:
            return
        if not self._open_again(self.destination, "a destination cannot be opened; trying again"):
            self.take_replacement()
        # Of several senders those that have nothing to send would be failing for ever.
        self._backoff.reset()
        logger.info("a destination is open now", extra={"destination": self.name})

    def replace(self, destination: Destination) -> None:
        """
        Take another object instead, before the next attempt: the same vendor by newer options.

        The old object is closed, the new one opened with the mark as it is; where that fails the old one is opened
        again, and a log line says so.
        """
        # One that was still waiting has never been open.
        self._replacement = destination
        self._wake.set()

    @property
    def has_replacement(self) -> bool:
        """Whether another object waits to be taken."""
        return self._replacement is not None

    def abort(self) -> None:
        """Let `send` raise `Aborted` at the next opportunity."""
        self._aborted = True
        self._wake.set()

    def send(self, events: Sequence[Deliverable]) -> int:
        """
        Send events until every one is durable or a dead letter.

        Args:
            events: Within the destination's limits, oldest first.

        Returns:
            How many of them are dead letters now.

        Raises:
            Aborted: Told to leave.
            DestinationRefusedUs: It does, and nothing outlasts it.
        """
        buried = 0
        pieces: list[Sequence[Deliverable]] = [events]
        while pieces:
            if self._replacement is not None and self.take_replacement():
                # Events that were cut for one object, as another one takes them.
                limits = self.destination.limits
                pieces = [
                    part for one in pieces for part in batches(one, limits.max_batch_events, limits.max_batch_bytes)
                ]
            piece = pieces[0]
            self._rest(self._pace.wait_s(len(piece)))
            if self._replacement is not None:
                continue
            hit("before_destination")
            try:
                self._calling_since = time.monotonic()
                try:
                    receipt = self.destination.deliver(piece)
                finally:
                    self._calling_since = None
            except DestinationUnavailable as error:
                self._wait_to_retry(error.message, error.retry_after_s)
                continue
            except DestinationRefusedUs as error:
                if not self._outlasts_refusal:
                    raise
                self._wait_to_retry(
                    error.message, None, "a destination refuses us, and needs a person; its events wait", logging.ERROR
                )
                continue
            except BatchRefused as refused:
                if len(piece) == 1:
                    buried += self.bury([(piece[0], Rejected(refused.reason, refused.answer))])
                    self._taken()
                    del pieces[0]
                else:
                    half = len(piece) // 2
                    pieces[0:1] = [piece[:half], piece[half:]]
                continue
            if receipt.mark is not None:
                self.mark = receipt.mark
            again: list[Deliverable] = []
            if receipt.outcomes:
                again, gone = self._settle(piece, receipt.outcomes)
                buried += gone
            if again:
                pieces[0] = again
            else:
                self._taken()
                del pieces[0]
        return buried

    def bury(self, refused: Sequence[tuple[Deliverable, Rejected]]) -> int:
        """
        Make dead letters, on disk before this returns; where there is no room for them it waits until there is.

        Returns:
            How many.

        Raises:
            Aborted: Told to leave; those without room come again.
        """
        letters = [
            dead_letter(event, self.name, why, kind="rejected", rule=self._rule_of(event)) for event, why in refused
        ]
        while letters:
            try:
                self._records.add(letters)
                break
            except DeadLettersFull as full:
                letters = letters[full.stored :]
                # Who is woken for a replacement comes back here, and would again and again: take it.
                self.take_replacement()
                self._wait_to_retry(str(full), None, "no room for dead letters; this destination waits")
        logger.warning(
            "events were refused and are now dead letters (`wal_tracker dlq list`)",
            extra={"destination": self.name, "events": len(refused)},
        )
        return len(refused)

    def close(self) -> None:
        """Close the destination."""
        self.destination.close()

    def _settle(self, piece: Sequence[Deliverable], outcomes: Mapping[int, Outcome]) -> tuple[list[Deliverable], int]:
        """Bury what was refused for good; wait if something must come again, and give that back in order."""
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
        buried = self.bury(refused) if refused else 0
        if again:
            if len(refused) + len(again) < len(piece):
                self._backoff.reset()
            self._wait_to_retry(reason or "some events were not taken", retry_after_s)
        return again, buried

    def _wait_to_retry(
        self,
        reason: str,
        retry_after_s: float | None,
        what: str = "a destination is not taking events; trying again",
        level: int = logging.WARNING,
    ) -> None:
        wait_s = self._backoff.next_s(retry_after_s)
        self.retries += 1
        attempts = self._backoff.attempts
        # The first, second, fourth, eighth …: an outage of a night is a page of log.
        logger.log(
            logging.DEBUG if attempts & (attempts - 1) else level,
            what,
            extra={"destination": self.name, "reason": reason, "attempt": attempts, "retry_in_s": round(wait_s, 3)},
        )
        self._rest(wait_s)

    def _rest(self, seconds: float) -> None:
        """Wait; a replacement ends it early."""
        if not self._aborted and seconds > 0 and self._replacement is None:
            self._wake.wait(seconds)
        if self._aborted:
            raise Aborted

    def take_replacement(self) -> bool:
        """Go over to the other object, if there is one, and say whether we did; on the thread that sends."""
        new, self._replacement = self._replacement, None
        if new is None:
            return False
        self._wake.clear()
        if self._aborted:
            raise Aborted
        old = self.destination
        old.close()
        self._is_open = False
        try:
            self._open(new)
        except DestinationError as error:
            logger.error(
                "a destination cannot be opened with its new options; going on with those before",
                extra={"destination": self.name, "reason": error.message},
            )
            new.close()
            if not self._open_again(old, "nor can it be opened with those; trying again"):
                return self.take_replacement()
        else:
            self.destination = new
            logger.info("a destination goes on with its new options", extra={"destination": self.name})
        return self.destination is new

    def _open(self, destination: Destination) -> None:
        opened = destination.open(self.mark)
        self.mark = self.mark if opened is None else opened
        self._is_open = True

    def _open_again(self, old: Destination, what: str) -> bool:
        """Open what was open before, however long that takes; False: there is another replacement by now."""
        while self._replacement is None:
            try:
                self._open(old)
            except DestinationError as error:
                old.close()
                if isinstance(error, DestinationRefusedUs) and not self._outlasts_refusal:
                    raise
                self._wait_to_retry(error.message, None, what, logging.ERROR)
            else:
                if self._aborted:
                    # Who aborted has closed it already, and it is open again.
                    old.close()
                    raise Aborted
                return True
        return False

    def _taken(self) -> None:
        if self._backoff.attempts:
            logger.info(
                "a destination is taking events again",
                extra={"destination": self.name, "attempts": self._backoff.attempts},
            )
            self._backoff.reset()


def dead_letter(
    event: Deliverable, destination: str, why: Rejected, *, kind: LetterKind, rule: str
) -> DeadLetter:
    """
    The letter of an event a destination does not get.

    Args:
        event: As it is to be replayed.
        destination: Its name.
        why: Without values.
        kind: Whether the destination refused it, or something in the configuration could not be evaluated.
        rule: The rule that made it, or what could not be evaluated.
    """
    source = event.source
    table = f"{source['schema']}.{source['table']}" if "table" in source else f"message.{source.get('prefix', '')}"
    try:
        payload = event.to_json()
    except orjson.JSONEncodeError:
        payload = orjson.dumps({"id": event.id, "event": event.name, "timestamp": event.timestamp, "source": source})
    return DeadLetter(
        id=event.id,
        destination=destination,
        kind=kind,
        rule=rule,
        event=event.name,
        table=table,
        commit_lsn=LSN.parse(source["commit_lsn"]),
        commit_time=event.timestamp,
        reason=why.reason,
        payload=payload,
        answer=why.answer,
    )
