"""
wal2json, format version 2: one JSON object for each begin, row, truncate, message and commit.

The second plugin, for servers that have it and not pgoutput. It yields the same items as `PgOutput`, as far as its
output goes. It does not tell, and we cannot: NaN and infinities in float and numeric columns (it writes null), message
content after a NUL byte, rows of tables without replica identity that are updated or deleted (it leaves them out), the
root of a partition. A TOASTed value that did not change is missing from its row: that takes the catalog
(`describe`) to see. Its text is in the server's encoding, which must be UTF-8.

See: https://github.com/eulerto/wal2json (README, "format version 2")
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from wal_tracker import pgtypes
from wal_tracker.decode.base import WantedFor
from wal_tracker.decode.reader import Reader
from wal_tracker.decode.rows import UNCHANGED, Field, NumericAsString, RowReader, never
from wal_tracker.decode.transactions import (
    CommitTimes,
    TransactionIds,
    append_standalone_message,
    append_transactional_message,
    unix_us,
)
from wal_tracker.decode.values import codec
from wal_tracker.errors import DecodeError, UnsupportedValue
from wal_tracker.lsn import LSN
from wal_tracker.model import Column, Commit, Item, Relation, ReplicaIdentity, Transaction
from wal_tracker.pgtypes import FIXED_SIZE, TypeCatalog

_log = logging.getLogger(__name__)

Describe = Callable[[str, str], "Relation | None"]
"""What the catalog says now of a table, by schema and name; None if there is no such table (any more)."""

_Cells = dict[str, tuple[int, Any]]  # column -> type's oid, value as JSON has it

_REMEMBERED_SHAPES = 4096  # of rows; a table has one for each combination of unchanged columns it has sent


def undescribed(_schema: str, _table: str) -> Relation | None:
    """No catalog at hand: relations are what the messages show."""
    return None


class Wal2Json:
    """Decodes one wal2json stream. One thread; holds nothing of a transaction but the open `Transaction` itself."""

    def __init__(
        self,
        wanted: WantedFor,
        types: TypeCatalog,
        *,
        numeric_as_string: NumericAsString = never,
        describe: Describe = undescribed,
        tables: Iterable[tuple[str, str]] = (),
    ) -> None:
        """
        Args:
            wanted: Asked once for each shape a table's rows come in.
            types: Where column types are looked up.
            numeric_as_string: Whether a numeric column is read as its digits.
            describe: Tells identity and columns of a table. Asked when a row comes in a shape not seen before.
            tables: Schema and name of the only tables the server shall send; none: all.
        """
        self.unknown_messages: dict[str, int] = {}
        """How many messages came of each action that this decoder does not know."""
        self._wanted = wanted
        self._types = types
        self._numeric_as_string = numeric_as_string
        self._describe = describe
        self._tables = tuple(tables)
        self._shapes: dict[tuple[Any, ...], RowReader | None] = {}
        self._made: dict[tuple[Any, ...], RowReader | None] = {}
        self._relation_ids: dict[tuple[str, str], int] = {}
        self._transaction: Transaction | None = None
        self._ids = TransactionIds()
        self._times = CommitTimes()
        self._timestamp = codec(types, pgtypes.TIMESTAMPTZ).cel

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun and its commit has not come."""
        return self._transaction is not None

    def options(self, publication: str) -> dict[str, str]:  # noqa: ARG002 - wal2json knows no publications
        """The plugin options START_REPLICATION must carry for this decoder."""
        options = {
            "format-version": "2",
            "include-transaction": "true",
            "include-xids": "true",
            "include-timestamp": "true",
            "include-lsn": "true",
            "include-types": "false",
            "include-type-oids": "true",
            "include-pk": "true",
        }
        if self._tables:
            options["add-tables"] = ",".join(f"{_escaped(schema)}.{_escaped(table)}" for schema, table in self._tables)
        return options

    def reset(self, current_xid8: int) -> None:
        """Forget shapes and any open transaction; see `Decoder.reset`."""
        self._shapes.clear()
        self._made.clear()
        self._transaction = None
        self._ids.reset(current_xid8)

    def rows(self, _messages: Sequence[bytes], at: int, _out: list[Item], /) -> int:
        """Leave every message to `feed`; see `Decoder.rows`."""
        return at

    def feed(self, payload: bytes, lsn: int, out: list[Item]) -> None:
        """Decode one message; see `Decoder.feed`."""
        document = _Document(payload, lsn)
        action = document.text("action")
        if action in ("I", "U", "D"):
            self._row(action, document, out)
        elif action == "B":
            self._begin(document)
        elif action == "C":
            self._commit(document, out)
        elif action == "T":
            self._truncate(document, out)
        elif action == "M":
            self._message(document, out)
        else:
            self._count_unknown(action)

    def _count_unknown(self, action: str) -> None:
        seen = self.unknown_messages.get(action, 0)
        self.unknown_messages[action] = seen + 1
        if not seen:
            _log.warning(
                "messages of an unknown type are counted and passed over",
                extra={"action": "unknown_message", "type": action},
            )

    def _begin(self, document: _Document) -> None:
        if self._transaction is not None:
            raise document.error("begin inside a transaction")
        commit_lsn, _ = document.lsn("lsn"), document.lsn("nextlsn")
        xid = document.integer("xid")
        if not 0 <= xid < 2**32:
            raise document.error("a transaction id of more than 32 bits")
        moment = self._moment(document)
        time_us = unix_us(moment)
        self._transaction = Transaction(self._ids.xid8(xid), commit_lsn, time_us, self._times.text(time_us))

    def _moment(self, document: _Document) -> datetime:
        try:
            moment = self._timestamp(document.text("timestamp"))
        except ValueError:
            moment = None
        if not isinstance(moment, datetime):
            raise document.error("'timestamp' is no time")
        return moment

    def _open(self, document: _Document, what: str) -> Transaction:
        if self._transaction is None:
            raise document.error(f"{what} outside a transaction")
        return self._transaction

    def _commit(self, document: _Document, out: list[Item]) -> None:
        transaction = self._open(document, "commit")
        end_lsn = document.lsn("nextlsn")
        if document.lsn("lsn") != transaction.commit_lsn or end_lsn <= transaction.commit_lsn:
            raise document.error("commit does not belong to the begin before it")
        transaction.end_lsn = end_lsn
        self._transaction = None
        out.append(Commit(transaction))

    def _message(self, document: _Document, out: list[Item]) -> None:
        prefix, lsn = document.text("prefix"), document.lsn("lsn")
        content = document.content()
        if document.boolean("transactional"):
            append_transactional_message(self._open(document, "message"), prefix, content, lsn, out)
        else:
            append_standalone_message(prefix, content, lsn, out, inside=self._transaction is not None)

    def _truncate(self, document: _Document, out: list[Item]) -> None:
        transaction = self._open(document, "truncate")
        rows = self._reader("T", document, {}, {})
        if rows is not None:
            rows.truncated(transaction, out)

    def _row(self, action: str, document: _Document, out: list[Item]) -> None:
        transaction = self._open(document, "a row")
        new = {} if action == "D" else document.cells("columns")
        old = {} if action == "I" else document.cells("identity")
        rows = self._reader(action, document, new, old)
        if rows is None:
            return
        place = document.reader
        columns = rows.relation.columns
        if action == "I":
            rows.inserted(_fields(columns, new, document), place, transaction, out)
        elif action == "U":
            rows.updated(_fields(columns, old, document), _fields(columns, new, document), place, transaction, out)
        else:
            rows.deleted(_fields(columns, old, document), place, transaction, out)

    def _reader(self, action: str, document: _Document, new: _Cells, old: _Cells) -> RowReader | None:
        """What reads rows of this table in the shape of this message."""
        schema, table = document.text("schema"), document.text("table")
        shape = (
            action,
            schema,
            table,
            tuple((name, oid) for name, (oid, _) in new.items()),
            tuple((name, oid) for name, (oid, _) in old.items()),
        )
        if shape in self._shapes:
            return self._shapes[shape]
        relation = self._relation(action, schema, table, document, new, old)
        same = (relation.relation_id, schema, table, relation.replica_identity, relation.columns)
        if same not in self._made:
            wanted = self._wanted(relation)
            self._made[same] = (
                None if wanted is None else RowReader(relation, wanted, self._types, self._numeric_as_string)
            )
        if len(self._shapes) >= _REMEMBERED_SHAPES:
            self._shapes.clear()
        self._shapes[shape] = self._made[same]
        return self._made[same]

    def _relation(
        self, action: str, schema: str, table: str, document: _Document, new: _Cells, old: _Cells
    ) -> Relation:
        """
        The table as it was when the row was written, as far as message and catalog tell together.

        The catalog is of now, and the row may be older: where they contradict each other the row is right.
        """
        described = self._describe(schema, table)
        sent = {name: oid for cells in (new, old) for name, (oid, _) in cells.items()}
        if described is not None and _agrees(described, action, sent, new):
            return described
        relation_id = described.relation_id if described is not None else self._relation_id(schema, table)
        identity = described.replica_identity if described is not None else ReplicaIdentity.DEFAULT
        keys = set(old) or set(document.names("pk"))
        modifiers = {column.name: column.type_modifier for column in described.columns} if described else {}
        if described is not None and not old:
            keys = set(described.key)
        columns = tuple(
            Column(name, oid, modifiers.get(name, -1), identity is ReplicaIdentity.FULL or name in keys)
            for name, oid in sent.items()
        )
        return Relation(relation_id, schema, table, identity, columns)

    def _relation_id(self, schema: str, table: str) -> int:
        # Negative: never the object identifier of a table that the catalog does know.
        return self._relation_ids.setdefault((schema, table), -1 - len(self._relation_ids))


def _agrees(described: Relation, action: str, sent: dict[str, int], new: _Cells) -> bool:
    """Whether a row may have been written to the table as the catalog has it: what is missing must be explicable."""
    if not sent:
        return True
    known = {column.name: column.type_oid for column in described.columns}
    if any(known.get(name) != oid for name, oid in sent.items()):
        return False
    if action == "D":
        return True
    missing = [oid for name, oid in known.items() if name not in new]
    return not missing if action == "I" else not any(oid in FIXED_SIZE for oid in missing)


def _fields(columns: Sequence[Column], cells: _Cells, document: _Document) -> list[Field]:
    return [_field(cells[column.name], document) if column.name in cells else UNCHANGED for column in columns]


def _field(cell: tuple[int, Any], document: _Document) -> Field:
    oid, value = cell
    if value is None:
        return None
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if not isinstance(value, str):
        raise document.error("a value that is neither a scalar nor null")
    if oid == pgtypes.BYTEA:
        value = "\\x" + value  # wal2json cuts the mark off
    if not _is_text(value):
        raise UnsupportedValue("a value is not UTF-8", **document.reader.place())
    return value.encode()


def _escaped(name: str) -> str:
    """A name inside `add-tables`; see wal2json.c, string_to_SelectTable."""
    return "".join("\\" + character if character in " ',.*\\" else character for character in name)


_DIGITS = re.compile(r"[0-9]{1,10}")


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Document:
    """One message, with every member checked as it is read. Numbers keep their digits: they are read as strings."""

    def __init__(self, payload: bytes, lsn: int) -> None:
        self.reader = Reader(payload, lsn)
        try:
            # The content of a message may be any bytes, and they stand in the JSON as they are.
            members = json.loads(payload.decode("utf-8", "surrogateescape"), parse_int=str, parse_float=str)
        except (ValueError, RecursionError):
            members = None
        if not isinstance(members, dict):
            raise self.error("not a JSON object")
        self._members: dict[str, Any] = members

    def content(self) -> bytes:
        """The content of a message, byte by byte."""
        content = self._members.get("content")
        if not isinstance(content, str):
            raise self.error("'content' is missing")
        try:
            return content.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            pass
        raise self.error("'content' is no text")

    def error(self, message: str) -> DecodeError:
        """A `DecodeError` that tells where the message stands."""
        return self.reader.error(f"wal2json: {message}")

    def text(self, name: str) -> str:
        """A member that must be a string."""
        value = self._members.get(name)
        if not isinstance(value, str) or not _is_text(value):
            raise self.error(f"{name!r} is missing or no text")
        return value

    def integer(self, name: str) -> int:
        """A member that must be a number without a fraction."""
        text = self.text(name)
        if _DIGITS.fullmatch(text) is None:
            raise self.error(f"{name!r} is no integer")
        return int(text)

    def boolean(self, name: str) -> bool:
        """A member that must be true or false."""
        value = self._members.get(name)
        if not isinstance(value, bool):
            raise self.error(f"{name!r} is missing")
        return value

    def lsn(self, name: str) -> LSN:
        """A member that must be an LSN."""
        try:
            return LSN.parse(self.text(name))
        except ValueError:
            pass
        raise self.error(f"{name!r} is no LSN")

    def names(self, name: str) -> list[str]:
        """The names in a member that is a list of columns; empty if there is none."""
        return list(self._columns(name)) if name in self._members else []

    def cells(self, name: str) -> _Cells:
        """A member that must be a list of columns with type and value."""
        cells: _Cells = {}
        for column, entry in self._columns(name).items():
            oid = entry.get("typeoid")
            if not isinstance(oid, str) or _DIGITS.fullmatch(oid) is None or "value" not in entry:
                raise self.error(f"column {column!r} lacks its type or value")
            cells[column] = (int(oid), entry["value"])
        return cells

    def _columns(self, name: str) -> dict[str, dict[str, Any]]:
        entries = self._members.get(name)
        if not isinstance(entries, list):
            raise self.error(f"{name!r} is missing")
        columns: dict[str, dict[str, Any]] = {}
        for entry in entries:
            column = entry.get("name") if isinstance(entry, dict) else None
            if not isinstance(column, str) or not _is_text(column) or column in columns:
                raise self.error(f"{name!r} is no list of columns")
            columns[column] = entry
        return columns
