"""
The loop: read, evaluate, hand on, and confirm what is durable everywhere.

One thread reads and evaluates; each destination has a thread of its own (`wal_tracker.delivery`).
Nothing here waits for a destination while it holds a socket unread for long: a pipeline that stays
full *closes* the replication connection and comes back (postgres.md §0.2).

Positions. `_handed` is the end of the last transaction all of whose events are with the deliveries;
each delivery knows how far it is durable; the lowest of them is stored and then, and only then,
confirmed to the server. After a reconnect the server sends again what was not confirmed: whole
transactions below `_handed` are passed over, and of the one that was cut the items already handled
are counted off, so an in-process reconnect repeats nothing.
"""

from __future__ import annotations

import gc
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Protocol

from wal_tracker.channels import Channel, Router
from wal_tracker.checkpoint import Checkpoint
from wal_tracker.config.model import DeliveryConfig
from wal_tracker.decode.changes import ChangeReader
from wal_tracker.decode.transactions import SWITCH_PREFIX
from wal_tracker.errors import DeadLettersFull, DecodeError, RuleEvaluationError, SlotLost, SourceError
from wal_tracker.failpoints import hit
from wal_tracker.lsn import LSN
from wal_tracker.model import Change, Commit, Deliverable, Event, Item, Message, NoEvent, RowEvent, Transaction
from wal_tracker.replay import Replay
from wal_tracker.rules.compile import CompiledRule
from wal_tracker.rules.engine import EVENT_PREFIX, HEARTBEAT_PREFIX, RelationPlan, RuleSet
from wal_tracker.rules.lanes import is_of_its_row
from wal_tracker.state.base import Cursor, DeadLetter, Gap, StateStore

logger = logging.getLogger("wal_tracker.pipeline")

# Once this much of a transaction that is still being read waits for a destination, it goes out without
# waiting for the commit (protocol 1 sends committed transactions only): memory stays bounded whatever its size.
MAX_OPEN_EVENTS = 1000
MAX_OPEN_BYTES = 1_000_000

# An idle slot is moved along the server's WAL this often; each move is one durable write of ours.
IDLE_CONFIRM_INTERVAL_S = 1.0

# How often the state store is asked for dead letters a person wants delivered.
REPLAY_INTERVAL_S = 2.0

# How often it is looked whether there is room for dead letters again.
LETTERS_RETRY_S = 2.0

RECONNECT_BASE_S = 0.2
RECONNECT_CAP_S = 15.0
# A stream that held this long has recovered; the next failure is a first one again.
STEADY_S = 5.0

# With an end in sight a read waits so long at most, so that the end is noticed when the last event is durable.
END_WAIT_S = 0.02

# Objects made and not yet let go of, before the cyclic collector looks at them (Python's default: 700).
COLLECT_AFTER = 100_000


class Source(Protocol):
    """Where transactions come from: a slot, the outbox, or Kafka. The pipeline never learns which. One thread."""

    last_read_bytes: int
    """Bytes the last `read` took from the wire."""

    @property
    def caught_up_lsn(self) -> LSN:
        """Up to where there is nothing more for us, or 0 while a transaction is open."""
        ...

    def connect(self, start: LSN) -> LSN:
        """
        Open the stream after `start`; SourceError says what is wrong.

        Returns:
            From where it comes: beyond `start` when what lies between is there no more.
        """
        ...

    def read(self, timeout_s: float) -> list[Item]:
        """The next burst of items, in commit order; empty when nothing came in time."""
        ...

    def confirm(self, lsn: LSN) -> None:
        """Tell the server that everything below `lsn` may be forgotten."""
        ...

    def ask_for_keepalive(self) -> None:
        """Ask the server how far it is; the answer moves `caught_up_lsn`."""
        ...

    def close(self) -> None:
        """Let go of the connection; calling it twice is harmless."""
        ...


class Ending(Protocol):
    """Knows the transaction after which a stream is not ours any more: the one that changed the mode."""

    def is_last(self, message: Message) -> bool:
        """Whether the transaction of this message, whose prefix is `SWITCH_PREFIX`, is that one."""
        ...

    def reached(self, end_lsn: LSN) -> None:
        """Keep where it ends; called before any position can pass it."""
        ...


@dataclass(slots=True)
class Stats:
    """What went through since the start."""

    transactions: int = 0
    changes: int = 0
    events: int = 0
    rule_errors: int = 0
    reconnects: int = 0
    stalls: int = 0
    skipped_transactions: int = 0
    confirmed_lsn: LSN = LSN(0)

    def add(self, other: Stats) -> None:
        """Count what went through another pipeline, too; the position stays this one's."""
        self.transactions += other.transactions
        self.changes += other.changes
        self.events += other.events
        self.rule_errors += other.rule_errors
        self.reconnects += other.reconnects
        self.stalls += other.stalls
        self.skipped_transactions += other.skipped_transactions


class Pipeline:
    """The main job. `run` returns when asked to stop, or when everything up to `until` is durable everywhere."""

    def __init__(
        self,
        source: Source,
        rules: RuleSet,
        channels: Sequence[Channel],
        state: StateStore,
        settings: DeliveryConfig,
        *,
        position: LSN,
        until: LSN | None = None,
        reader: ChangeReader | None = None,
        ending: Ending | None = None,
        drain_spools: bool = False,
        on_reload: Callable[[Sequence[Channel]], None] | None = None,
        own_process: bool = True,
    ) -> None:
        """
        Args:
            source: Where items come from.
            rules: What is made of them.
            channels: The destinations, not yet started.
            state: Where positions and dead letters are kept; already ours (`StateStore.exclusive`).
            settings: Bounds and intervals.
            position: Up to where everything is durable at every destination.
            until: Stop once everything up to here is durable; None: run until stopped.
            reader: Reads stored changes; with it, dead letters that are marked for it are delivered on the way.
            ending: Knows the last transaction that is ours; `run` returns once it is durable everywhere.
            drain_spools: Of `until`: until everything is delivered, and nothing is spooled.
            on_reload: Called on the thread of `run`, between two bursts, after `reload` was.
            own_process: Nothing else runs in this process: the cyclic collector is ours to tune.
        """
        self._source = source
        self._rules = rules
        self._channels = list(channels)
        self._router = Router(self._channels)
        self._state = state
        self._settings = settings
        self._until = until
        self._ending = ending
        self._drain_spools = drain_spools
        self._last_commit_lsn = LSN(0)
        self._has_ended = False
        self.stats = Stats(confirmed_lsn=position)
        self._checkpoint = Checkpoint({channel.config.name: channel.start for channel in channels})
        self._handed = position
        self._partial_at = LSN(0)
        self._partial_items = 0
        self._skip_items = 0
        self._transaction: Transaction | None = None
        self._passing_over = False
        self._failures: list[DeadLetter] = []
        self._saved: dict[str, Cursor] = {}
        self._last_checkpoint = 0.0
        self._last_idle = 0.0
        self._connected = False
        self._replay = None if reader is None else Replay(state, rules, reader, self._router)
        self._next_replay = 0.0
        # Not an Event: setting one in a signal handler can wait for a lock the interrupted code holds.
        self._stopping = False
        self._on_reload = on_reload
        self._own_process = own_process
        self._reload_asked = False
        self._wake: SimpleQueue[None] = SimpleQueue()

    def stop(self) -> None:
        """Ask the loop to drain and return. Safe from a signal handler and from any thread."""
        self._stopping = True
        self._wake.put(None)

    def reload(self) -> None:
        """Ask the loop to call `on_reload`. Safe from a signal handler and from any thread."""
        self._reload_asked = True
        self._wake.put(None)

    @property
    def is_complete(self) -> bool:
        """Whether everything up to `until`, or of `ending`, is durable everywhere."""
        if self._until is None or self._checkpoint.low_water < self._until:
            return False
        return not self._drain_spools or all(channel.delivery.idle for channel in self._channels)

    @property
    def until(self) -> LSN | None:
        """Up to where it runs; None: until stopped."""
        return self._until

    @property
    def has_ended(self) -> bool:
        """Whether the last transaction that is ours has been read."""
        return self._has_ended

    # The loop ------------------------------------------------------------------------------------

    def run(self) -> None:
        """
        Read until stopped.

        Raises:
            WalTrackerError: Something only a person can mend; what is durable by then has been stored.
        """
        with _rare_collections() if self._own_process else nullcontext():
            self._run()

    def _run(self) -> None:
        self._start_deliveries()
        try:
            # Where every destination stands before its first event: what a crash leaves behind this is taken back.
            self.save()
            self._read_on()
        except (SourceError, DecodeError) as error:
            # The stream is over; what it gave us is not, and of a slot that is gone it is all there is.
            try:
                self._leave(drain=True)
            finally:
                if isinstance(error, SlotLost):
                    self._record_lost(error)
            raise
        except BaseException:
            self._leave(drain=False)
            raise
        if self._stopping:
            logger.info("stopping: delivering what is held; a second signal leaves at once")
        self._leave(drain=True)
        self._raise_failure()

    def _start_deliveries(self) -> None:
        """Open every destination, or none."""
        cursors = self._state.cursors()
        try:
            for channel in self._channels:
                channel.delivery.start(channel.start, cursors.get(channel.config.name))
        except BaseException:
            for channel in self._channels:
                channel.delivery.abort()
            raise

    def _read_on(self) -> None:
        """Read one connection after the other until stopped or done; raises what another attempt will not mend."""
        failures, connected_at, unanswered = 0, 0.0, False
        last: type[SourceError] | None = None
        while not self._finished():
            if self._has_ended:
                self._wait(self._settings.checkpoint_interval_s)
                continue
            try:
                begins = self._source.connect(self._checkpoint.low_water)
                self._connected = True
                self._begin_stream(begins)
                if not self._connected:
                    # Letters waited for room meanwhile.
                    continue
                connected_at = time.monotonic()
                if unanswered:
                    logger.info("reading the stream again", extra={"failures": failures})
                    unanswered = False
                self._stream()
            except SourceError as error:
                self._disconnect()
                if not error.retryable:
                    raise
                if connected_at and time.monotonic() - connected_at > STEADY_S:
                    failures = 0
                connected_at = 0.0
                failures += 1
                self.stats.reconnects += 1
                delay = random.uniform(0.5, 1.0) * min(RECONNECT_CAP_S, RECONNECT_BASE_S * 2 ** min(failures, 10))
                # The first, second, fourth, eighth …: an outage of a night is a page of log.
                is_told = failures & (failures - 1) == 0 or type(error) is not last
                last, unanswered = type(error), unanswered or is_told
                logger.log(
                    logging.WARNING if is_told else logging.DEBUG,
                    "lost the stream",
                    extra={"reason": str(error), "retry_in_s": round(delay, 1), "failures": failures},
                )
                self._wait(delay)

    def _stream(self) -> None:
        """Read one connection until there is a reason to leave it: stop, done, or full for too long."""
        interval = self._settings.checkpoint_interval_s
        while not self._finished():
            if self._is_full() and not self._wait_for_room():
                self.stats.stalls += 1
                logger.warning("destinations are behind; closing the replication connection until they catch up")
                self._disconnect()
                while self._is_full(half=True) and not self._finished():
                    self._wait(interval)
                return
            items = self._source.read(interval if self._until is None else min(interval, END_WAIT_S))
            if items:
                hit("after_decode")
                self._process(items)
                item_bytes = self._source.last_read_bytes / len(items)
                if self._failures and not self._bury(self._failures):
                    return
                self._failures = []
                if not self._hand_on(item_bytes) or not self._connected:
                    return
                if self._has_ended:
                    # What is still to be delivered may take long, and a socket we hold is a socket we read.
                    self._disconnect()
                    return
            else:
                self._idle()
            if self._transaction is None and not self._partial_items:
                self._replay_letters()
            self._tick(now=self._until is not None and not items)

    def _begin_stream(self, begins: LSN) -> None:
        """A new connection begins between transactions; what was handled of a cut one is counted off on its return."""
        if self._transaction is not None and not self._passing_over:
            self._partial_at = LSN(self._transaction.commit_lsn)
        self._transaction = None
        self._passing_over = False
        self._skip_items = 0
        if begins > self._handed:
            self._skip_to(begins)

    def _skip_to(self, begins: LSN) -> None:
        """The slot was moved, or made again, beyond what we have read: a gap, and no reason to stand still."""
        detail = f"the slot was moved to {begins} by somebody else, or made again; we had read up to {self._handed}"
        self._state.record_gap(Gap(self._handed, begins, "slot_ahead", detail))
        logger.warning("gap: changes were not delivered", extra={"detail": detail})
        self._handed = begins
        # What is here of a transaction that was cut is all that will come of it.
        self._partial_items = 0
        for channel in self._channels:
            channel.boundary = len(channel.pending)
        self._hand_on(0.0)

    def _process(self, items: list[Item]) -> None:
        """Evaluate a burst; events end up in the channels' pending lists, failures in `_failures`."""
        transaction = self._transaction
        changes = events = 0
        for item in items:
            if item.transaction is not transaction:
                transaction = self._transaction = item.transaction
                self._begin(transaction)
            if isinstance(item, Commit):
                self._commit(item.transaction)
                transaction = self._transaction = None
                if self._has_ended:
                    break
                continue
            if self._passing_over:
                continue
            if self._skip_items:
                self._skip_items -= 1
                continue
            self._partial_items += 1
            changes += 1
            if isinstance(item, RowEvent):
                events += 1
                rule, name = item.rule, item.name
                for channel in rule.targets.get(name) or self._router.of_rule(rule, name):
                    if transaction.commit_lsn >= channel.start:
                        channel.pending.append(item)
                continue
            if isinstance(item, NoEvent):
                continue
            if isinstance(item, Message):
                self._message(item)
                continue
            plan: RelationPlan = item.relation.plan
            op = item.op
            if op == "truncate":
                self._truncated(item)
            lane = None if plan.lane is None else plan.lane(item)
            for rule in plan.rules[op]:
                try:
                    event = rule.make(item)
                except RuleEvaluationError as error:
                    self._fail(item, rule, error)
                    continue
                if event is not None:
                    events += 1
                    if lane is not None and is_of_its_row(event):
                        event.lane = lane
                    for channel in rule.targets.get(event.name) or self._router.of_rule(rule, event.name):
                        if transaction.commit_lsn >= channel.start:
                            channel.pending.append(event)
            if plan.raw:
                self._send_raw(item, lane)
        self.stats.changes += changes
        self.stats.events += events

    def _begin(self, transaction: Transaction) -> None:
        commit_lsn = transaction.commit_lsn
        # Every position is the end of a transaction or of WAL without any, so "begins its commit record below"
        # and "ends at or below" are the same question.
        self._passing_over = commit_lsn < self._handed
        if self._passing_over:
            self.stats.skipped_transactions += 1
            return
        if commit_lsn == self._partial_at and self._partial_items:
            self._skip_items, self._partial_at = self._partial_items, LSN(0)
        else:
            self._skip_items = self._partial_items = 0
        hit("mid_transaction")

    def _commit(self, transaction: Transaction) -> None:
        if self._passing_over:
            # Nothing is forgotten of one that was cut: it comes after those that were whole.
            self._passing_over = False
            return
        if transaction.commit_lsn == self._last_commit_lsn:
            self._end(transaction.end_lsn)
        self._partial_items = 0
        self.stats.transactions += 1
        self._handed = transaction.end_lsn
        for channel in self._channels:
            channel.boundary = len(channel.pending)

    def _end(self, end_lsn: LSN) -> None:
        """The last transaction that is ours ends here; what comes after it is read by another source."""
        assert self._ending is not None
        self._ending.reached(end_lsn)
        self._until, self._has_ended = end_lsn, True

    def _truncated(self, change: Change) -> None:
        """Rows went without a change for each: on record, whatever the rules make of it."""
        lsn = LSN(change.transaction.commit_lsn)
        table = change.relation.name
        self._state.record_gap(Gap(lsn, lsn, "truncate", f"{table} was emptied; its rows have no delete of their own"))

    def _message(self, message: Message) -> None:
        if message.prefix == HEARTBEAT_PREFIX:
            return
        if message.prefix == SWITCH_PREFIX:
            if self._ending is not None and message.transactional and self._ending.is_last(message):
                # Not the transaction itself: a stream that breaks here brings it again as another object.
                self._last_commit_lsn = LSN(message.transaction.commit_lsn)
            return
        if message.prefix == EVENT_PREFIX:
            try:
                event = self._rules.emitted(message)
            except RuleEvaluationError as error:
                self._fail(message, None, error)
                return
            self._send(event, self._router.matching(event.name), message.transaction)
        for rule in self._rules.message_rules(message):
            try:
                made = rule.make(message)
            except RuleEvaluationError as error:
                self._fail(message, rule, error)
                continue
            if made is not None:
                channels = rule.targets.get(made.name) or self._router.of_rule(rule, made.name)
                self._send(made, channels, message.transaction)

    def _send(self, event: Event, channels: Sequence[Channel], transaction: Transaction) -> None:
        self.stats.events += 1
        for channel in channels:
            if transaction.commit_lsn >= channel.start:
                channel.pending.append(event)

    def _send_raw(self, change: Change, lane: int | None) -> None:
        record = None
        for channel in self._router.of_table(change.relation):
            if change.transaction.commit_lsn >= channel.start:
                if record is None:
                    record = self._rules.raw_change(change)
                    if lane is not None:
                        record.lane = lane
                channel.pending.append(record)

    def _fail(self, item: Change | Message, rule: CompiledRule | None, error: RuleEvaluationError) -> None:
        self.stats.rule_errors += 1
        transaction = item.transaction
        table = item.relation.name if isinstance(item, Change) else "message." + item.prefix
        self._failures.append(
            DeadLetter(
                id=self._rules.failure_id(item, error.rule),
                destination="",
                kind="rule",
                rule=error.rule,
                event=rule.rule.event or "" if rule else "",
                table=table,
                commit_lsn=LSN(transaction.commit_lsn),
                commit_time=transaction.commit_time,
                reason=error.reason,
                payload=self._rules.failure_payload(item),
            )
        )

    # Handing on and confirming -------------------------------------------------------------------

    def _hand_on(self, item_bytes: float) -> bool:
        """
        Give the deliveries what is complete, and of an unfinished transaction what would grow too large.

        Args:
            item_bytes: What an item of this burst took on the wire; by it the queues' memory is bounded.

        Returns:
            False: asked to stop in the middle of it; what was not handed on comes again.
        """
        handed, inside = self._handed, self._transaction is not None
        for channel in self._channels:
            pending, boundary = channel.pending, channel.boundary
            if not pending:
                channel.delivery.reached(handed)
                continue
            if boundary == len(pending):
                if not self._offer(channel, pending, handed, int(item_bytes * boundary) + 1):
                    return False
                channel.pending, channel.boundary = [], 0
                continue
            if boundary:
                if not self._offer(channel, pending[:boundary], handed, int(item_bytes * boundary) + 1):
                    return False
                channel.pending, channel.boundary = pending[boundary:], 0
            else:
                channel.delivery.reached(handed)
            open_events = len(channel.pending)
            if inside and (open_events >= MAX_OPEN_EVENTS or open_events * item_bytes >= MAX_OPEN_BYTES):
                if not self._offer(channel, channel.pending, None, int(item_bytes * open_events) + 1):
                    return False
                channel.pending = []
        return True

    def _offer(self, channel: Channel, events: list[Deliverable], end_lsn: LSN | None, wire_bytes: int) -> bool:
        """Hand events to a delivery; False: not, since we were asked to stop while letters for some of them waited."""
        if channel.shape is not None:
            events, letters = channel.shaped(events)
            if letters:
                self.stats.rule_errors += len(letters)
                if not self._bury(letters):
                    return False
        channel.delivery.offer(events, end_lsn, wire_bytes)
        return True

    def _bury(self, letters: Sequence[DeadLetter]) -> bool:
        """
        Rule errors as dead letters, on disk before anything of their burst is handed on and any position can pass them.

        Where there is no room for them it waits until there is, without a stream. False: asked to stop meanwhile; they
        come again.
        """
        attempts = 0
        while True:
            try:
                self._state.add(letters)
            except DeadLettersFull as full:
                letters = letters[full.stored :]
                if self._connected:
                    self.stats.stalls += 1
                    self._disconnect()
                attempts += 1
                # The first, second, fourth, eighth …
                logger.log(
                    logging.DEBUG if attempts & (attempts - 1) else logging.WARNING,
                    "no room for dead letters; reading waits, and the server keeps the WAL",
                    extra={"reason": str(full), "letters": len(letters), "attempt": attempts},
                )
                self._wait(LETTERS_RETRY_S)
                if self._stopping:
                    return False
            else:
                return True

    def _idle(self) -> None:
        """Nothing came: WAL without anything for us is progress too, or the slot would hold it for ever."""
        caught_up = self._source.caught_up_lsn
        now = time.monotonic()
        waiting_for_end = self._until is not None
        if caught_up > self._handed and self._transaction is None:
            if waiting_for_end or now - self._last_idle >= IDLE_CONFIRM_INTERVAL_S:
                self._last_idle = now
                self._handed = caught_up
                for channel in self._channels:
                    channel.delivery.reached(caught_up)
        elif waiting_for_end and now - self._last_idle >= self._settings.checkpoint_interval_s:
            self._last_idle = now
            self._source.ask_for_keepalive()

    def _replay_letters(self) -> None:
        """Look for letters to replay now and then; mark them once they and the positions over them are on disk."""
        if self._replay is None or time.monotonic() < self._next_replay:
            return
        if self._replay.is_waiting and self._replay.is_settled:
            self.save()
            self._replay.finish()
        waits = self._replay.begin()
        self._next_replay = time.monotonic() + (self._settings.checkpoint_interval_s if waits else REPLAY_INTERVAL_S)

    def _tick(self, *, now: bool = False) -> None:
        """Store and confirm what has become durable, at most once per `checkpoint_interval_s`."""
        self._attend()
        clock = time.monotonic()
        if not now and clock - self._last_checkpoint < self._settings.checkpoint_interval_s:
            return
        self._last_checkpoint = clock
        self._advance()

    def _attend(self) -> None:
        """What other threads and signals want of the loop."""
        self._raise_failure()
        if self._reload_asked:
            self._reload_asked = False
            if self._on_reload is not None:
                self._on_reload(self._channels)

    def _raise_failure(self) -> None:
        for channel in self._channels:
            if channel.delivery.failure is not None:
                raise channel.delivery.failure

    def _advance(self) -> None:
        """Store what has become durable; what is stored everywhere is then confirmed."""
        self.save()
        low_water = self._checkpoint.low_water
        if low_water > self.stats.confirmed_lsn and self._connected:
            hit("after_state_before_confirm")
            self._source.confirm(low_water)
            self.stats.confirmed_lsn = low_water

    def save(self) -> None:
        """Store every destination's durable position; returns when it is on disk."""
        moved: dict[str, Cursor] = {}
        for channel in self._channels:
            channel.delivery.store()
            cursor = channel.delivery.position()
            if cursor != self._saved.get(channel.config.name):
                moved[channel.config.name] = cursor
        if moved:
            self._state.save_cursors(moved)
            self._saved.update(moved)
            for channel in self._channels:
                if (stored := moved.get(channel.config.name)) is not None:
                    channel.delivery.saved(stored)
                    self._checkpoint.advance(channel.config.name, stored.lsn)

    # Waiting and leaving -------------------------------------------------------------------------

    def _finished(self) -> bool:
        return self._stopping or self.is_complete

    def _is_full(self, *, half: bool = False) -> bool:
        share = 2 if half else 1
        return any(channel.delivery.held_bytes * share > channel.delivery.max_held_bytes for channel in self._channels)

    def _wait_for_room(self) -> bool:
        """Wait, briefly, with the socket open; False: it stays full and the connection must go."""
        deadline = time.monotonic() + self._settings.stall_timeout_s
        while self._is_full():
            if self._stopping:
                return True
            if time.monotonic() > deadline:
                # One that takes too little for too long is as good as one that takes nothing, where there is a disk.
                for channel in self._channels:
                    channel.delivery.store(pressed=True)
                return not self._is_full()
            self._pause(0.002)
            self._tick()
        return True

    def _wait(self, seconds: float) -> None:
        """Wait without a stream: positions are still stored, failures still seen."""
        deadline = time.monotonic() + seconds
        while not self._stopping and (left := deadline - time.monotonic()) > 0:
            self._pause(min(left, self._settings.checkpoint_interval_s))
            self._attend()
            self.save()

    def _pause(self, seconds: float) -> None:
        """Sleep, but not through `stop`."""
        with suppress(Empty):
            self._wake.get(timeout=seconds)

    def _record_lost(self, error: SlotLost) -> None:
        self._state.record_gap(
            Gap(from_lsn=self._checkpoint.low_water, to_lsn=None, reason="slot_lost", detail=error.reason)
        )

    def _leave(self, *, drain: bool) -> None:
        """Deliver what is held, store, confirm, close; after a failure only store what is durable already."""
        try:
            if drain:
                self._drain()
                try:
                    self._advance()
                except SourceError as error:
                    logger.warning(
                        "the last confirmation did not reach the server; what it covers comes again and is passed over",
                        extra={"reason": str(error)},
                    )
            else:
                for channel in self._channels:
                    channel.delivery.abort()
                self.save()
        finally:
            self._disconnect()

    def _disconnect(self) -> None:
        self._connected = False
        self._source.close()

    def _drain(self) -> None:
        """Let the deliveries finish, within `shutdown_timeout_s`; the connection is not held unread for all of that."""
        begun = time.monotonic()
        for channel in self._channels:
            left = begun + self._settings.stall_timeout_s - time.monotonic()
            channel.delivery.store(leaving=True)
            while not channel.delivery.is_durable and channel.delivery.failure is None and left > 0:
                time.sleep(0.005)
                channel.delivery.store(leaving=True)
                left = begun + self._settings.stall_timeout_s - time.monotonic()
        if not all(channel.delivery.is_durable for channel in self._channels):
            self._disconnect()
        for channel in self._channels:
            channel.delivery.stop(max(0.0, begun + self._settings.shutdown_timeout_s - time.monotonic()))


@contextmanager
def _rare_collections() -> Iterator[None]:
    """
    Let the cyclic collector run seldom. Rows and events are never part of a cycle, but there are thousands of them at
    any time, and by default it would walk them all several times for every burst: a fifth of the CPU of a row.
    """
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()
