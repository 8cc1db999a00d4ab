"""
The nouns every room shares: relation, row, change, transaction, event.

Rows are plain ``dict``s from column name to value, holding only the columns somebody asked for, so
that generated code reads them at the speed of a dict. A row with something *unknown* in it is a
`PartialRow`: the unknown columns are absent from the dict (reading one is a ``KeyError``, never a
silent NULL) and named in its attributes.

`Change`, `Transaction` and `Event` have slots and no validation: a hundred thousand are made a
second. They are not changed once handed on, except that a `Transaction` learns its ``end_lsn``.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union

import orjson

from wal_tracker.lsn import LSN

Value = Any
"""A decoded column: None, bool, int, float, str, bytes, aware datetime, list, dict, or orjson.Fragment."""

Row = dict[str, Value]

Op = Literal["insert", "update", "delete", "truncate", "message"]

ROW_OPS: tuple[Op, ...] = ("insert", "update", "delete", "truncate")

EXACT = "\0"
"""
Prefix of a row key that holds a column in the form it is *emitted* in (JSON-ready, digits as in
the source) rather than the form CEL computes with. NUL cannot stand in a PostgreSQL identifier,
so no column name collides.
"""


IDENTIFY = "$identify"
"""Name of the event of a rule that has `identify` and no event of its own."""
GROUP_IDENTIFY = "$groupidentify"
"""Name of the event of a rule that has `group` alone."""


class ReplicaIdentity(enum.Enum):
    """`pg_class.relreplident`: which old columns an UPDATE or DELETE carries."""

    DEFAULT = "d"
    """The primary key."""
    NOTHING = "n"
    """No old row."""
    FULL = "f"
    """All columns."""
    INDEX = "i"
    """The columns of the index named by REPLICA IDENTITY USING INDEX."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the Relation message describes it."""

    name: str
    type_oid: int
    type_modifier: int = -1
    is_key: bool = False
    """Part of the replica identity."""


@dataclass(slots=True, eq=False)
class Relation:
    """A table as described on the wire at one moment; a new one comes after every schema change."""

    relation_id: int
    schema: str
    table: str
    replica_identity: ReplicaIdentity
    columns: tuple[Column, ...]
    plan: Any = None
    """
    What the reader of its changes computed once for it, so that a change finds it without a look-up; set
    when the decoder asks what is wanted of the relation, never changed afterwards.
    """

    @property
    def name(self) -> str:
        """``schema.table``, for people and for event ids."""
        return f"{self.schema}.{self.table}"

    @property
    def key(self) -> tuple[str, ...]:
        """Names of the replica identity's columns, in table order."""
        return tuple(column.name for column in self.columns if column.is_key)


class PartialRow(dict[str, Any]):
    """A row in which some columns are unknown. The unknown ones are absent from the dict."""

    __slots__ = ("unchanged", "unsent")

    def __init__(
        self, known: Mapping[str, Value], unchanged: frozenset[str] = frozenset(), unsent: frozenset[str] = frozenset()
    ) -> None:
        """
        Args:
            known: The columns the server sent.
            unchanged: Columns not resent because they are TOASTed and did not change.
            unsent: Columns the replica identity leaves out of an old row.
        """
        super().__init__(known)
        self.unchanged = unchanged
        self.unsent = unsent


class Transaction:
    """A committed transaction, told before its changes; `end_lsn` is known only at its end."""

    __slots__ = ("xid", "commit_lsn", "commit_time_us", "commit_time", "end_lsn", "context", "counts", "_lsn_text")

    def __init__(self, xid: int, commit_lsn: LSN, commit_time_us: int, commit_time: str) -> None:
        """
        Args:
            xid: The 64-bit transaction id (xid8: epoch included).
            commit_lsn: Where the commit record begins (Begin's ``final_lsn``); 0 where the protocol tells it late.
            commit_time_us: Microseconds since the Unix epoch, by the server's clock.
            commit_time: The same as RFC 3339 in UTC with six digits and ``Z``.
        """
        self.xid = xid
        self.commit_lsn = commit_lsn
        self.commit_time_us = commit_time_us
        self.commit_time = commit_time
        self.end_lsn = LSN(0)
        self.context: dict[str, Value] = {}
        """Replaced, never mutated, by a `wal_tracker.context` message; changes keep the one they saw."""
        self.counts: dict[object, int] = {}
        """
        How many changes each table, by ``schema.table``, and how many messages each prefix, as ``(prefix,)``, has had
        so far in this transaction. By name, as event ids are: a table dropped and made again within a transaction
        goes on counting.
        """
        self._lsn_text = ""

    @property
    def commit_lsn_text(self) -> str:
        """`commit_lsn` as PostgreSQL writes it; computed once."""
        if not self._lsn_text:
            self._lsn_text = str(LSN(self.commit_lsn))
        return self._lsn_text


class Change:
    """One row's insert, update or delete, or one table's truncate."""

    __slots__ = ("transaction", "relation", "op", "old", "new", "ordinal", "context")

    def __init__(
        self,
        transaction: Transaction,
        relation: Relation,
        op: Op,
        old: Row | None,
        new: Row | None,
        ordinal: int,
        context: dict[str, Value],
    ) -> None:
        """
        Args:
            transaction: The transaction it belongs to.
            relation: The table, as it was when the row was written.
            op: insert, update, delete or truncate.
            old: The row before, as far as the replica identity tells it; None for insert and truncate.
            new: The row after; None for delete and truncate.
            ordinal: Zero-based place among this *table's* changes in the transaction.
            context: The transaction's context as it stood at this change.
        """
        self.transaction = transaction
        self.relation = relation
        self.op = op
        self.old = old
        self.new = new
        self.ordinal = ordinal
        self.context = context


class Message:
    """A logical message (`pg_logical_emit_message`)."""

    __slots__ = ("transaction", "prefix", "content", "lsn", "transactional", "ordinal", "context")

    def __init__(
        self,
        transaction: Transaction,
        prefix: str,
        content: bytes,
        lsn: LSN,
        transactional: bool,
        ordinal: int,
        context: dict[str, Value],
    ) -> None:
        """
        Args:
            transaction: The transaction it was emitted in. A non-transactional message gets one of its own, with
                ``xid`` 0, ``commit_time`` "" and ``end_lsn`` just after the message.
            prefix: What the application named it.
            content: Its bytes.
            lsn: Where it stands in the WAL.
            transactional: Whether it was committed with a transaction.
            ordinal: Zero-based place among the messages of this prefix in the transaction.
            context: The transaction's context as it stood here.
        """
        self.transaction = transaction
        self.prefix = prefix
        self.content = content
        self.lsn = lsn
        self.transactional = transactional
        self.ordinal = ordinal
        self.context = context


class Commit:
    """The end of a transaction: everything of it has been read, and ``transaction.end_lsn`` is set."""

    __slots__ = ("transaction",)

    def __init__(self, transaction: Transaction) -> None:
        self.transaction = transaction


@dataclass(frozen=True, slots=True)
class Group:
    """A group (a company, a team) that an event belongs to."""

    type: str
    """Such as ``company``."""
    id: str
    """Which of them; never empty."""
    traits: dict[str, Value]
    """What is said of it, JSON-ready; may be empty."""


class Event:
    """What a rule makes of a change, ready for any destination. Same commit, same id and bytes on every replay."""

    __slots__ = ("id", "name", "distinct_id", "timestamp", "properties", "_source", "_json", "lane")

    lane: int
    """What events of the same row share (`wal_tracker.rules.lanes`); not set where nobody asks, or there is no row."""

    def __init__(
        self,
        id: str,
        name: str,
        distinct_id: str | None,
        timestamp: str,
        properties: dict[str, Value],
        source: dict[str, Value] | str,
    ) -> None:
        """
        Args:
            id: UUIDv5, see `wal_tracker.identity`.
            name: The event's name.
            distinct_id: Whom it is about, or None.
            timestamp: RFC 3339, UTC, ``Z``.
            properties: JSON-ready values (`orjson.Fragment` where exact digits are kept).
            source: Where it comes from, in the shape of design.md §3; a string is that as JSON.
        """
        self.id = id
        self.name = name
        self.distinct_id = distinct_id
        self.timestamp = timestamp
        self.properties = properties
        self._source = source
        self._json: bytes | None = None

    @property
    def source(self) -> dict[str, Value]:
        """Where it comes from, in the shape of design.md §3."""
        # Read once: every destination's thread has this event, and another one may replace it meanwhile.
        source = self._source
        if isinstance(source, str):
            # Made as text, because most destinations write it and none reads it of every event.
            self._source = source = dict(orjson.loads(source))
        return source

    @property
    def identify(self) -> dict[str, Value] | None:
        """Traits of the person `distinct_id` names, JSON-ready and never empty; None where nothing is said of them."""
        return None

    @property
    def group(self) -> Group | None:
        """The group it belongs to; None without."""
        return None

    def to_json(self) -> bytes:
        """
        One JSON object without a line end; computed once. Any thread.

        ``distinct_id``, and `identify` and `group`, are left out where there is none.
        """
        if self._json is None:
            self._json = orjson.dumps(self._document())
        return self._json

    def _document(self) -> dict[str, Value]:
        source = self._source
        document = {
            "id": self.id,
            "event": self.name,
            "distinct_id": self.distinct_id,
            "timestamp": self.timestamp,
            "properties": self.properties,
            "source": orjson.Fragment(source) if isinstance(source, str) else source,
        }
        if self.distinct_id is None:
            del document["distinct_id"]
        return document

    @staticmethod
    def from_json(payload: bytes) -> Event:
        """
        The event that `to_json` gave these bytes for; gives them again, and every number in it has its digits.

        Raises:
            ValueError: They are no event's.
        """
        document = load_json(payload)
        try:
            told = (
                document["id"],
                document["event"],
                document.get("distinct_id"),
                document["timestamp"],
                document.get("properties", {}),
                document["source"],
            )
            group = Group(**document["group"]) if "group" in document else None
        except (KeyError, TypeError) as error:
            raise ValueError("not an event: a key is missing") from error
        identify = document.get("identify")
        event = Event(*told) if identify is None and group is None else ProfileEvent(*told, identify, group)
        event._json = payload
        return event


class ProfileEvent(Event):
    """
    An event that also says who somebody is: traits of the person it is about, the group it belongs to, or both.

    A class of its own, so that events without, which are nearly all, carry neither.
    """

    __slots__ = ("_identify", "_group")

    def __init__(
        self,
        id: str,
        name: str,
        distinct_id: str | None,
        timestamp: str,
        properties: dict[str, Value],
        source: dict[str, Value] | str,
        identify: dict[str, Value] | None,
        group: Group | None,
    ) -> None:
        """
        Args:
            id: As an event's, and so are the next five.
            name: `IDENTIFY` or `GROUP_IDENTIFY` where there is nothing else to tell.
            distinct_id: Whom it and `identify` are about, or None.
            timestamp: RFC 3339, UTC, ``Z``.
            properties: JSON-ready values.
            source: Where it comes from.
            identify: Traits of that person, or None.
            group: Its group, or None.
        """
        super().__init__(id, name, distinct_id, timestamp, properties, source)
        self._identify = identify
        self._group = group

    @property
    def identify(self) -> dict[str, Value] | None:
        """Traits of the person, or None."""
        return self._identify

    @property
    def group(self) -> Group | None:
        """Its group, or None."""
        return self._group

    def _document(self) -> dict[str, Value]:
        """As any event's, and behind it ``identify`` and ``group``."""
        told = {"identify": self._identify, "group": self._group}
        return {**super()._document(), **{name: value for name, value in told.items() if value is not None}}


class RowEvent(Event):
    """
    An event that was made while its row was being decoded, without a `Change` in between; stands in its place.

    Only where a table's change makes one event by one rule, of columns alone (`wal_tracker.rules.direct`).
    """

    __slots__ = ("transaction", "rule")

    transaction: Transaction
    """The transaction its change belongs to."""
    rule: Any
    """The compiled rule that made it, which knows where it goes."""


class NoEvent:
    """A change of which nothing came while its row was being decoded; stands in its place, as `RowEvent` does."""

    __slots__ = ("transaction",)

    def __init__(self, transaction: Transaction) -> None:
        self.transaction = transaction


class RawChange:
    """A change as it is, for `raw_db_event_destinations`; looks like an `Event` to a destination."""

    __slots__ = ("id", "name", "distinct_id", "timestamp", "document", "source", "_json", "lane")

    lane: int
    """As an event's."""

    identify: None = None
    group: None = None

    def __init__(
        self, id: str, name: str, timestamp: str, document: dict[str, Value], source: dict[str, Value]
    ) -> None:
        """
        Args:
            id: UUIDv5 over the change itself.
            name: ``schema.table.op``.
            timestamp: RFC 3339, UTC, ``Z``: the commit's.
            document: The change in the shape of design.md §3.
            source: As an event's.
        """
        self.id = id
        self.name = name
        self.distinct_id: str | None = None
        self.timestamp = timestamp
        self.document = document
        self.source = source
        self._json: bytes | None = None

    @classmethod
    def from_json(
        cls, text: bytes, *, id: str, name: str, timestamp: str, source: dict[str, Value] | None = None
    ) -> RawChange:
        """
        The change that was written as `text`: `to_json` gives these bytes again.

        Args:
            text: As `to_json` gave it.
            id: Not part of it.
            name: Likewise.
            timestamp: Likewise.
            source: None: what of it stands in the text.
        """
        document = load_json(text)
        if source is None:
            source = {key: document.get(key) for key in ("op", "schema", "table", "commit_lsn", "ordinal", "xid")}
        change = cls(id, name, timestamp, document, source)
        change._json = text
        return change

    @property
    def properties(self) -> dict[str, Value]:
        """The change itself."""
        return self.document

    def to_json(self) -> bytes:
        """One JSON object without a line end; computed once."""
        if self._json is None:
            self._json = orjson.dumps(self.document)
        return self._json


Deliverable = Union[Event, RawChange]

Item = Union[Change, Message, Commit, RowEvent, NoEvent]
"""What a source yields, in commit order: the changes and messages of a transaction, then its commit."""


def load_json(payload: bytes) -> dict[str, Value]:
    """
    A JSON object of ours, so that orjson writes it again with every number's digits as they were.

    Numbers that no Python type gives back (``1.50``, ``1E3``, ``-0``, integers beyond 64 bits) are `orjson.Fragment`s,
    and so is what Python cannot hold at all: PostgreSQL's json may nest deeper than orjson writes, and has escapes
    that are no Unicode (``"\\ud800"``).

    Raises:
        ValueError: It is not a JSON object.
    """
    document = _exactly(payload, levels=3)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    return document


def _exactly(text: bytes, *, levels: int) -> Value:
    try:
        document = orjson.loads(text)
        if orjson.dumps(document) == text:
            return document
    except (ValueError, TypeError):
        pass
    try:
        document = _DIGITS.decode(text.decode())
        orjson.dumps(document)
        return document
    except (ValueError, TypeError, RecursionError):
        pass
    if levels and text[:1] == b"{":
        try:
            return {name: _exactly(value, levels=levels - 1) for name, value in _members(text)}
        except ValueError:
            pass
    return orjson.Fragment(text)


def _members(text: bytes) -> Iterator[tuple[str, bytes]]:
    """The members of a JSON object, each value as it is written; however deep, nothing recurs."""
    depth = begin = 0
    name: str | None = None
    for token in _MARK.finditer(text):
        mark = token[0]
        depth -= mark in b"}]"
        if depth == 1 and mark == b":":
            name, begin = orjson.loads(text[begin : token.start()]), token.end()
        elif name is not None and ((depth == 1 and mark == b",") or depth == 0):
            yield name, text[begin : token.start()].strip()
            begin = token.end()
        elif depth == 0:
            begin = token.end()
        depth += mark in b"{["


def _integer(text: str) -> Value:
    # Python refuses integers of thousands of digits, and knows no negative zero.
    if len(text) > _INTEGER_DIGITS or text == "-0":
        return orjson.Fragment(text)
    value = int(text)
    return value if -(2**63) <= value < 2**64 else orjson.Fragment(text)


def _fraction(text: str) -> Value:
    value = float(text)
    return value if orjson.dumps(value) == text.encode() else orjson.Fragment(text)


_INTEGER_DIGITS = 20  # what 64 bits hold, with or without a sign
_DIGITS = json.JSONDecoder(parse_int=_integer, parse_float=_fraction)
_MARK = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]')
