"""
pgoutput, protocol version 1 in text form: what the server's own output plugin writes, to model items.

Protocol 1 sends committed transactions only, one after another; a transaction's changes come between its Begin and
its Commit. Logical messages outside a transaction come outside both.

See: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Sequence

from wal_tracker.decode.base import XLOG_DATA_HEADER_SIZE, WantedFor
from wal_tracker.decode.reader import Reader
from wal_tracker.decode.rows import (
    DOUBT,
    HEAD,
    HEAD_SIZE,
    Handler,
    NumericAsString,
    RowReader,
    compile_rows,
    never,
    skip_rows,
)
from wal_tracker.decode.transactions import (
    CommitTimes,
    TransactionIds,
    append_standalone_message,
    append_transactional_message,
)
from wal_tracker.errors import DecodeError, TruncatedMessage, UnknownRelation, UnsupportedValue
from wal_tracker.lsn import LSN
from wal_tracker.model import Column, Commit, Item, Relation, ReplicaIdentity, Transaction
from wal_tracker.pgtypes import TypeCatalog

_log = logging.getLogger(__name__)

_NO_HEADER = bytes(XLOG_DATA_HEADER_SIZE)
# Within an XLogData message.
_START = slice(1, 9)
_PAYLOAD = slice(XLOG_DATA_HEADER_SIZE, None)
_KIND = slice(XLOG_DATA_HEADER_SIZE, XLOG_DATA_HEADER_SIZE + 1)

_POSTGRES_EPOCH_US = 946_684_800_000_000  # 2000-01-01 UTC, in microseconds since 1970

_BEGIN = struct.Struct("!cQqI")  # B, final_lsn, commit time in microseconds since 2000-01-01 UTC, xid
_COMMIT = struct.Struct("!cBQQq")  # C, flags, commit_lsn, end_lsn, commit time
_ID = struct.Struct("!I")
_BYTE = struct.Struct("!B")
_RELATION = struct.Struct("!ch")  # replica identity, number of columns
_COLUMN = struct.Struct("!Ii")  # type's oid, type modifier
_TRUNCATE = struct.Struct("!IB")  # number of relations, option bits
_MESSAGE = struct.Struct("!BQ")  # flags (1: transactional), lsn
_SIZE = struct.Struct("!I")


class PgOutput:
    """Decodes one pgoutput stream. One thread; holds nothing of a transaction but the open `Transaction` itself."""

    def __init__(self, wanted: WantedFor, types: TypeCatalog, *, numeric_as_string: NumericAsString = never) -> None:
        """
        Args:
            wanted: Asked at every Relation message; may add to `types` what the relation needs before it answers.
            types: Looked up after `wanted` has answered.
            numeric_as_string: Whether a numeric column is read as its digits.
        """
        self.unknown_messages: dict[str, int] = {}
        """How many messages came of each type that this decoder does not know."""
        self._wanted = wanted
        self._types = types
        self._numeric_as_string = numeric_as_string
        self._relations: dict[int, RowReader | None] = {}
        self._handlers: dict[bytes, Handler] = {}
        self._transaction: Transaction | None = None
        self._ids = TransactionIds()
        self._times = CommitTimes()

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun and its commit has not come."""
        return self._transaction is not None

    def options(self, publication: str) -> dict[str, str]:
        """The plugin options START_REPLICATION must carry for this decoder."""
        quoted = publication.replace('"', '""')  # publication_names is a list of identifiers
        return {"proto_version": "1", "publication_names": f'"{quoted}"', "messages": "true"}

    def reset(self, current_xid8: int) -> None:
        """Forget relations and any open transaction; see `Decoder.reset`."""
        self._relations.clear()
        self._handlers.clear()
        self._transaction = None
        self._ids.reset(current_xid8)

    def rows(self, messages: Sequence[bytes], at: int, out: list[Item], /) -> int:
        """Decode rows, by the compiled form, and what begins and ends their transactions; see `Decoder.rows`."""
        transaction = self._transaction
        handler_of, head, end = self._handlers.get, HEAD, len(messages)
        try:
            for at in range(at, end):  # noqa: B020 - where it ends is the answer
                message = messages[at]
                handler = handler_of(message[head])
                if handler is None or transaction is None:
                    decode = _BOUNDARIES.get(message[_KIND])
                    if decode is None:
                        break
                    decode(self, message[_PAYLOAD], int.from_bytes(message[_START], "big"), out)
                    transaction = self._transaction
                else:
                    handler(message, transaction, out)
            else:
                return end
        except DOUBT:
            pass  # `feed` reads it by the definition; what went wrong may quote the row
        return at

    def feed(self, payload: bytes, lsn: int, out: list[Item]) -> None:
        """Decode one message; see `Decoder.feed`."""
        if payload[:HEAD_SIZE] in self._handlers and self.rows((_NO_HEADER + payload,), 0, out):
            return
        decode = _DECODERS.get(payload[:1])
        if decode is not None:
            decode(self, payload, lsn, out)
        elif payload:
            self._count_unknown(payload[:1])
        else:
            raise TruncatedMessage("an empty message", lsn=LSN(lsn))

    def _count_unknown(self, kind: bytes) -> None:
        name = kind.decode("latin-1").encode("unicode_escape").decode()
        seen = self.unknown_messages.get(name, 0)
        self.unknown_messages[name] = seen + 1
        if not seen:
            _log.warning(
                "messages of an unknown type are counted and passed over",
                extra={"action": "unknown_message", "type": name},
            )

    def _begin(self, payload: bytes, lsn: int, _out: list[Item]) -> None:
        # Begin and Commit are as frequent as rows in small transactions: no Reader.
        if len(payload) != _BEGIN.size:
            raise _wrong_size(payload, _BEGIN, "Begin", lsn)
        _kind, final_lsn, time_us, xid = _BEGIN.unpack(payload)
        if self._transaction is not None:
            raise DecodeError("Begin inside a transaction", lsn=LSN(lsn))
        unix_us = time_us + _POSTGRES_EPOCH_US
        try:
            time_text = self._times.text(unix_us)
        except ValueError as error:
            raise UnsupportedValue(f"Begin with {error}", lsn=LSN(lsn)) from error
        self._transaction = Transaction(self._ids.xid8(xid), LSN(final_lsn), unix_us, time_text)

    def _open(self, reader: Reader, what: str) -> Transaction:
        if self._transaction is None:
            raise reader.error(f"{what} outside a transaction")
        return self._transaction

    def _commit(self, payload: bytes, lsn: int, out: list[Item]) -> None:
        if len(payload) != _COMMIT.size:
            raise _wrong_size(payload, _COMMIT, "Commit", lsn)
        _kind, _flags, commit_lsn, end_lsn, time_us = _COMMIT.unpack(payload)
        transaction = self._transaction
        if transaction is None:
            raise DecodeError("Commit outside a transaction", lsn=LSN(lsn))
        if (
            commit_lsn != transaction.commit_lsn
            or end_lsn <= commit_lsn
            or time_us + _POSTGRES_EPOCH_US != transaction.commit_time_us
        ):
            raise DecodeError("Commit does not belong to the Begin before it", lsn=LSN(lsn))
        transaction.end_lsn = LSN(end_lsn)
        self._transaction = None
        out.append(Commit(transaction))

    def _origin(self, payload: bytes, lsn: int, _out: list[Item]) -> None:
        reader = Reader(payload, lsn, at=1)
        reader.take(8, "Origin")
        reader.text("the name of an origin")
        reader.finish("Origin")

    def _type(self, payload: bytes, lsn: int, _out: list[Item]) -> None:
        reader = Reader(payload, lsn, at=1)
        # Name and oid only: what a domain or a composite is made of, the catalog tells.
        reader.unpack(_ID, "Type")
        reader.text("the schema of a type")
        reader.text("the name of a type")
        reader.finish("Type")

    def _relation(self, payload: bytes, lsn: int, _out: list[Item]) -> None:
        reader = Reader(payload, lsn, at=1)
        (relation_id,) = reader.unpack(_ID, "Relation")
        schema = reader.text("the schema of a relation") or "pg_catalog"
        table = reader.text("the name of a relation")
        code, count = reader.unpack(_RELATION, "Relation")
        columns = []
        for _ in range(count):
            (flags,) = reader.unpack(_BYTE, "a column's flags")
            name = reader.text("the name of a column")
            type_oid, modifier = reader.unpack(_COLUMN, "a column's type")
            columns.append(Column(name, type_oid, modifier, bool(flags & 1)))
        reader.finish("Relation")
        if code not in (b"d", b"n", b"f", b"i"):
            raise reader.error(f"unknown replica identity {code!r}")
        relation = Relation(relation_id, schema, table, ReplicaIdentity(code.decode()), tuple(columns))
        wanted = self._wanted(relation)
        if wanted is None:
            self._relations[relation_id] = None
            handlers = skip_rows(relation)
        else:
            rows = RowReader(relation, wanted, self._types, self._numeric_as_string)
            self._relations[relation_id] = rows
            handlers = compile_rows(rows)
        self._forget_handlers(relation_id)
        self._handlers.update(handlers)

    def _forget_handlers(self, relation_id: int) -> None:
        key = _ID.pack(relation_id)
        for head in [head for head in self._handlers if head[1:5] == key]:
            del self._handlers[head]

    def _described(self, relation_id: int, reader: Reader) -> RowReader | None:
        if relation_id not in self._relations:
            raise UnknownRelation(f"relation {relation_id} has not been described", **reader.place())
        return self._relations[relation_id]

    def _row(self, payload: bytes, lsn: int, out: list[Item]) -> None:
        reader = Reader(payload, lsn, at=1)
        (relation_id,) = reader.unpack(_ID, "a relation's id")
        rows = self._described(relation_id, reader)
        transaction = self._open(reader, "a row")
        if rows is None:
            return
        if payload[:1] == b"I":
            rows.insert(reader, transaction, out)
        elif payload[:1] == b"U":
            rows.update(reader, transaction, out)
        else:
            rows.delete(reader, transaction, out)

    def _truncate(self, payload: bytes, lsn: int, out: list[Item]) -> None:
        reader = Reader(payload, lsn, at=1)
        count, _options = reader.unpack(_TRUNCATE, "Truncate")
        transaction = self._open(reader, "Truncate")
        truncated = []
        for _ in range(count):
            (relation_id,) = reader.unpack(_ID, "a relation's id")
            truncated.append(self._described(relation_id, reader))
        reader.finish("Truncate")
        for rows in truncated:
            if rows is not None:
                rows.truncated(transaction, out)

    def _message(self, payload: bytes, lsn: int, out: list[Item]) -> None:
        reader = Reader(payload, lsn, at=1)
        flags, message_lsn = reader.unpack(_MESSAGE, "Message")
        prefix = reader.text("the prefix of a message")
        (size,) = reader.unpack(_SIZE, "the length of a message")
        content = reader.take(size, "the content of a message")
        reader.finish("Message")
        if flags not in (0, 1):
            raise reader.error(f"unknown flags {flags} in Message")
        if flags:
            append_transactional_message(self._open(reader, "Message"), prefix, content, LSN(message_lsn), out)
        else:
            append_standalone_message(prefix, content, LSN(message_lsn), out, inside=self._transaction is not None)


_DECODERS: dict[bytes, Callable[[PgOutput, bytes, int, list[Item]], None]] = {
    b"B": PgOutput._begin,
    b"C": PgOutput._commit,
    b"O": PgOutput._origin,
    b"R": PgOutput._relation,
    b"Y": PgOutput._type,
    b"I": PgOutput._row,
    b"U": PgOutput._row,
    b"D": PgOutput._row,
    b"T": PgOutput._truncate,
    b"M": PgOutput._message,
}


# As frequent as rows in small transactions.
_BOUNDARIES = {kind: _DECODERS[kind] for kind in (b"B", b"C")}


def _wrong_size(payload: bytes, layout: struct.Struct, what: str, lsn: int) -> DecodeError:
    if len(payload) < layout.size:
        return TruncatedMessage(f"message of {len(payload)} bytes ends inside {what}", lsn=LSN(lsn))
    return DecodeError(f"{len(payload) - layout.size} bytes are left after {what}", lsn=LSN(lsn))
