"""
A source without a server: what is committed is written down, and so is where the line breaks.

It keeps the walsender's laws: after `connect(start)` it sends every transaction whose commit record lies at or after
`start`, whole and in commit order; it takes no confirmation beyond what it has sent on this connection or an earlier
one, and none that goes back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wal_tracker.errors import CheckpointRegression, SourceError, SourceUnavailable
from wal_tracker.lsn import LSN
from wal_tracker.model import Change, Column, Commit, Item, Message, Op, Relation, ReplicaIdentity, Row, Transaction

INT8 = 20


@dataclass(frozen=True)
class Row1:
    """A row of table ``table`` with an ``id``, and what happened to it."""

    id: int
    table: str = "items"
    op: Op = "insert"


@dataclass(frozen=True)
class Said:
    """A logical message inside a transaction."""

    prefix: str
    content: bytes


@dataclass(frozen=True)
class Committed:
    """A transaction in the log: its commit record takes the 10 bytes from `at`."""

    at: int
    items: Sequence[Row1 | Said] = ()

    @property
    def end_lsn(self) -> LSN:
        """Where the commit record ends."""
        return LSN(self.at + 10)


@dataclass(frozen=True)
class Emitted:
    """A non-transactional message at one place of the log."""

    at: int
    prefix: str
    content: bytes

    @property
    def end_lsn(self) -> LSN:
        """As the decoders have it."""
        return LSN(self.at + 1)


@dataclass
class ScriptedSource:
    """
    See above. `breaks` says after how many items (commits included, counted over all connections) the line breaks, and
    with which error; `burst` how many items a read gives.
    """

    wanted: Callable[[Relation], object]
    """`RuleSet.wanted`: asked once for each table and connection, as a decoder does."""
    log: list[Committed | Emitted]
    burst: int = 3
    breaks: dict[int, SourceError] = field(default_factory=dict)
    begins: LSN = LSN(0)
    """Where the slot stands; somebody may have moved it."""
    wal_end: LSN | None = None
    """How far WAL without anything for us goes."""
    on_read: Callable[[ScriptedSource], None] = lambda _source: None
    on_connect: Callable[[ScriptedSource], None] = lambda _source: None

    last_read_bytes: int = 0
    item_bytes: int = 100
    sent: int = 0
    connects: list[LSN] = field(default_factory=list)
    confirmed: list[LSN] = field(default_factory=list)
    closed: int = 0
    keepalives_asked: int = 0
    is_open: bool = False
    _queue: list[Item] = field(default_factory=list)
    _received: LSN = LSN(0)
    _caught_up: LSN = LSN(0)
    _in_transaction: bool = False

    @property
    def caught_up_lsn(self) -> LSN:
        """Of the real source: 0 inside a transaction."""
        return LSN(0) if self._in_transaction else self._caught_up

    def connect(self, start: LSN) -> LSN:
        """Begin after `start`."""
        self.connects.append(start)
        self.on_connect(self)
        begins = max(start, self.begins)
        self._queue = [item for entry in self.log if entry.at >= begins for item in self._items(entry)]
        self._caught_up, self._in_transaction = LSN(0), False
        self._received = max(self._received, begins)
        self.is_open = True
        return begins

    def read(self, timeout_s: float) -> list[Item]:
        """Some items, or the error that is due."""
        if not self.is_open:
            raise SourceUnavailable("not connected")
        self.on_read(self)
        items: list[Item] = []
        while self._queue and len(items) < self.burst:
            if self.sent in self.breaks:
                break
            items.append(self._queue.pop(0))
            self.sent += 1
        if not items and self.sent in self.breaks:
            raise self.breaks.pop(self.sent)
        if items:
            last = items[-1]
            self._in_transaction = not isinstance(last, Commit)
            for item in items:
                if isinstance(item, Commit):
                    self._caught_up = max(self._caught_up, item.transaction.end_lsn)
        elif not self._queue and self.wal_end is not None:
            self._caught_up = max(self._caught_up, self.wal_end)
        self._received = max(self._received, self._caught_up)
        self.last_read_bytes = self.item_bytes * len(items)
        return items

    def confirm(self, lsn: LSN) -> None:
        """Note it; refuse what the real source refuses."""
        if not self.is_open:
            raise SourceUnavailable("not connected")
        if (self.confirmed and lsn < self.confirmed[-1]) or lsn > self._received:
            raise CheckpointRegression(f"asked to confirm {lsn}")
        self.confirmed.append(lsn)

    def ask_for_keepalive(self) -> None:
        """Count."""
        self.keepalives_asked += 1

    def close(self) -> None:
        """Count; idempotent."""
        self.closed += self.is_open
        self.is_open = False
        self._queue = []

    def _items(self, entry: Committed | Emitted) -> list[Item]:
        if isinstance(entry, Emitted):
            transaction = Transaction(0, LSN(entry.at), 0, "")
            transaction.end_lsn = entry.end_lsn
            message = Message(transaction, entry.prefix, entry.content, LSN(entry.at), False, 0, transaction.context)
            return [message, Commit(transaction)]
        transaction = Transaction(entry.at, LSN(entry.at), 1_767_323_045_123_456, "2026-01-02T03:04:05.123456Z")
        transaction.end_lsn = entry.end_lsn
        items: list[Item] = []
        relations: dict[str, Relation] = {}
        for step in entry.items:
            if isinstance(step, Said):
                ordinal = transaction.counts.get(step.prefix, 0)
                transaction.counts[step.prefix] = ordinal + 1
                lsn = LSN(entry.at - 1)
                items.append(Message(transaction, step.prefix, step.content, lsn, True, ordinal, transaction.context))
                continue
            if step.table not in relations:
                relations[step.table] = self._relation(step.table)
            ordinal = transaction.counts.get(step.table, 0)
            transaction.counts[step.table] = ordinal + 1
            new: Row | None = None if step.op == "truncate" else {"id": step.id}
            items.append(Change(transaction, relations[step.table], step.op, None, new, ordinal, transaction.context))
        return [*items, Commit(transaction)]

    def _relation(self, table: str) -> Relation:
        relation = Relation(len(table), "public", table, ReplicaIdentity.DEFAULT, (Column("id", INT8, is_key=True),))
        self.wanted(relation)
        return relation
