"""
Dead letters that a person wants delivered after all.

A rejected event goes to its destination again, byte for byte. A change some rule could not be evaluated on goes through
that rule as it is now. What is refused again is dead again, with its new reason; the rest is marked as replayed once
it is durable and the position that covers it is stored.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from wal_tracker.channels import Channel, Router
from wal_tracker.config.model import DeliveryConfig
from wal_tracker.decode.changes import ChangeReader
from wal_tracker.delivery import Delivery, HandOver
from wal_tracker.errors import DeadLettersFull, DecodeError, RuleEvaluationError
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable, Event, Message, RawChange, Transaction, load_json
from wal_tracker.rules.compile import CompiledRule
from wal_tracker.rules.engine import EVENT_PREFIX, RuleSet
from wal_tracker.state.base import DeadLetter, LetterFilter, StateStore

logger = logging.getLogger("wal_tracker.replay")


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A delivery, and how many events it must have settled before everything replayed is settled."""

    delivery: Delivery | HandOver
    settled: int

    @property
    def is_over(self) -> bool:
        return self.delivery.settled >= self.settled


class Replay:
    """Delivers letters marked ``replay``, some at a time. Called on the pipeline's thread, between transactions."""

    def __init__(self, state: StateStore, rules: RuleSet, reader: ChangeReader, router: Router) -> None:
        """
        Args:
            state: Where the letters are.
            rules: The rules as they are now.
            reader: Reads the stored changes.
            router: Who gets an event.
        """
        self._state = state
        self._rules = rules
        self._reader = reader
        self._router = router
        self._channels = {channel.config.name: channel for channel in router.channels}
        self._letters: list[DeadLetter] = []
        self._waiting: list[_Waiting] = []

    def begin(self, max_letters: int = 500) -> bool:
        """
        Offer marked letters to their destinations, unless some are on their way already.

        Returns:
            Whether any are on their way now, or were looked at and are dead again: there may be more.
        """
        if self._letters:
            return True
        offers: dict[str, list[Deliverable]] = {}
        size = 0
        marked = self._state.dead_letters(status="replay", limit=max_letters)
        for letter in marked:
            try:
                for name, event in self._deliverables(letter):
                    offers.setdefault(name, []).append(event)
            except (RuleEvaluationError, DecodeError, DeadLettersFull) as error:
                reason = error.reason if isinstance(error, RuleEvaluationError) else str(error)
                same = LetterFilter(id=letter.id, destination=letter.destination, status="replay")
                self._state.mark_letters(same, "dead", reason=reason)
                continue
            self._letters.append(letter)
            size += len(letter.payload)
        for name, events in offers.items():
            delivery = self._channels[name].delivery
            # A boundary, so that the mark of what is written now is stored with a position that covers it.
            delivery.offer(events, delivery.told, size)
            self._waiting.append(_Waiting(delivery, delivery.offered))
        return bool(marked)

    @property
    def is_waiting(self) -> bool:
        """Whether letters are on their way."""
        return bool(self._letters)

    @property
    def is_settled(self) -> bool:
        """Whether everything offered is durable or dead again; positions must be stored before `finish`."""
        return all(waiting.is_over for waiting in self._waiting)

    def finish(self) -> tuple[int, int]:
        """
        Mark what was delivered.

        Returns:
            How many letters were delivered, and how many are dead again.
        """
        # The same event may have been refused by several, and be dead again at one of them.
        delivered = self._state.finish_replay(self._letters)
        failed = len(self._letters) - delivered
        logger.info("dead letters replayed", extra={"delivered": delivered, "dead_again": failed})
        self._letters, self._waiting = [], []
        return delivered, failed

    def _deliverables(self, letter: DeadLetter) -> list[tuple[str, Deliverable]]:
        """What is to be sent for a letter, and where."""
        if letter.destination:
            channel = self._channels.get(letter.destination)
            if channel is None:
                raise RuleEvaluationError(
                    rule=letter.rule,
                    reason=f"{letter.reason} (no destination {letter.destination!r} is configured now)",
                )
            stored = _stored(letter)
            if letter.kind == "rejected":
                return [(letter.destination, stored)]
            # The destination's own `when` or lists failed on it.
            made = stored if channel.shape is None else channel.shape(stored)
            return [] if made is None else [(letter.destination, made)]
        event, rule = self._evaluated(letter)
        if event is None:
            return []
        router = self._router
        found: list[tuple[str, Deliverable]] = []
        for channel in router.matching(event.name) if rule is None else router.of_rule(rule, event.name):
            events, letters = channel.shaped([event])
            if letters:
                self._state.add(letters)
            found += [(channel.config.name, made) for made in events]
        return found

    def _evaluated(self, letter: DeadLetter) -> tuple[Event | None, CompiledRule | None]:
        """The rule of a rule error, tried anew."""
        if letter.table.startswith("message."):
            message = _message(letter)
            if letter.rule == EVENT_PREFIX:
                return self._rules.emitted(message), None
            for rule in self._rules.message_rules(message):
                if rule.rule_id == letter.rule:
                    return rule.make(message), rule
        else:
            change = self._reader.read(letter.payload)
            self._rules.wanted(change.relation, is_recorded=True)
            plan = change.relation.plan
            for rule in plan.rules[change.op] if plan is not None else ():
                if rule.rule_id == letter.rule:
                    return rule.make(change), rule
        raise RuleEvaluationError(rule=letter.rule, reason=f"{letter.reason} (no such rule is configured now)")


def _stored(letter: DeadLetter) -> Deliverable:
    """A rejected event as it was sent."""
    if "event" in load_json(letter.payload):
        return Event.from_json(letter.payload)
    return RawChange.from_json(letter.payload, id=letter.id, name=letter.event, timestamp=letter.commit_time)


def _message(letter: DeadLetter) -> Message:
    document = orjson.loads(letter.payload)
    transaction = Transaction(
        document["xid"], letter.commit_lsn, document["commit_time_us"], letter.commit_time
    )
    return Message(
        transaction,
        document["prefix"],
        document["content"].encode("utf-8", "surrogateescape"),
        LSN.parse(document["lsn"]),
        document["transactional"],
        document["ordinal"],
        document["context"],
    )


def deliver_letters(
    state: StateStore, rules: RuleSet, reader: ChangeReader, channels: Sequence[Channel], settings: DeliveryConfig
) -> tuple[int, int]:
    """
    Deliver marked letters without a source; for when no `run` does it.

    Args:
        state: Held by this process (`StateStore.exclusive`).
        rules: As for `Replay`.
        reader: As for `Replay`.
        channels: The destinations, not yet started.
        settings: `shutdown_timeout_s` bounds how long a destination that does not answer is waited for.

    Returns:
        How many letters were delivered, or are in a spool behind what was there before them, and how many are not.

    Raises:
        WalTrackerError: A destination cannot be opened, or refuses us; the letters stay marked.
    """
    cursors = state.cursors()
    replay = Replay(state, rules, reader, Router(channels))
    started: list[Channel] = []
    try:
        for channel in channels:
            cursor = cursors.get(channel.config.name)
            channel.delivery.start(channel.start, cursor)
            started.append(channel)
        delivered = 0
        wanted = state.count_dead_letters("replay")
        # What lay in spools goes before the letters, and is off the books by then; who refuses us says so now.
        deadline = time.monotonic() + settings.shutdown_timeout_s
        while any(_takes(channel) for channel in channels) and time.monotonic() < deadline:
            _look(channels)
        _save(state, channels)
        while replay.begin():
            deadline = time.monotonic() + settings.shutdown_timeout_s
            while not replay.is_settled and time.monotonic() < deadline:
                _look(channels)
            if not replay.is_settled:
                break
            if replay.is_waiting:
                _save(state, channels)
                delivered += replay.finish()[0]
        return delivered, wanted - delivered
    finally:
        for channel in started:
            channel.delivery.stop(0.0 if channel.delivery.failure else 1.0)


def _takes(channel: Channel) -> bool:
    """Whether a destination still has something to get, and gets it."""
    return not channel.delivery.idle and not channel.delivery.is_failing


def _look(channels: Sequence[Channel]) -> None:
    for channel in channels:
        # Without a position to be stored with, what is spooled would be lost.
        if channel.delivery.position().lsn:
            channel.delivery.store()
        if channel.delivery.failure is not None:
            raise channel.delivery.failure
    time.sleep(0.01)


def _save(state: StateStore, channels: Sequence[Channel]) -> None:
    moved = {}
    for channel in channels:
        cursor = channel.delivery.position()
        if cursor.lsn:  # a destination no `run` has been to has no position, and none is to be made up
            moved[channel.config.name] = (channel.delivery, cursor)
    state.save_cursors({name: cursor for name, (_, cursor) in moved.items()})
    for delivery, cursor in moved.values():
        delivery.saved(cursor)
