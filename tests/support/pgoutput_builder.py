"""
Builds pgoutput messages (protocol 1) byte by byte, as the manual lays them out.

See: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

POSTGRES_EPOCH_US = 946_684_800_000_000


class Unchanged:
    """A TOASTed value that is not resent."""


class Binary(bytes):
    """A value in binary form."""


UNCHANGED = Unchanged()

Field = str | bytes | Unchanged | Binary | None


def _cstring(text: str) -> bytes:
    return text.encode() + b"\0"


def begin(xid: int = 733, commit_lsn: int = 0x1000, unix_us: int = 1_767_322_925_123_456) -> bytes:
    return b"B" + struct.pack("!QqI", commit_lsn, unix_us - POSTGRES_EPOCH_US, xid)


def commit(
    commit_lsn: int = 0x1000, end_lsn: int = 0x1030, unix_us: int = 1_767_322_925_123_456, flags: int = 0
) -> bytes:
    return b"C" + struct.pack("!BQQq", flags, commit_lsn, end_lsn, unix_us - POSTGRES_EPOCH_US)


def relation(
    relation_id: int,
    schema: str,
    table: str,
    columns: Sequence[tuple[str, int, bool] | tuple[str, int, bool, int]],
    identity: str = "d",
) -> bytes:
    """Columns are (name, type's oid, part of the key[, type modifier])."""
    parts = [b"R", struct.pack("!I", relation_id), _cstring(schema), _cstring(table), identity.encode()]
    parts.append(struct.pack("!h", len(columns)))
    for column in columns:
        name, oid, key = column[:3]
        modifier = column[3] if len(column) == 4 else -1
        parts += [struct.pack("!B", key), _cstring(name), struct.pack("!Ii", oid, modifier)]
    return b"".join(parts)


def row(fields: Sequence[Field]) -> bytes:
    parts = [struct.pack("!h", len(fields))]
    for field in fields:
        if field is None:
            parts.append(b"n")
        elif isinstance(field, Unchanged):
            parts.append(b"u")
        else:
            data = field.encode() if isinstance(field, str) else bytes(field)
            parts.append((b"b" if isinstance(field, Binary) else b"t") + struct.pack("!i", len(data)) + data)
    return b"".join(parts)


def insert(relation_id: int, new: Sequence[Field]) -> bytes:
    return b"I" + struct.pack("!I", relation_id) + b"N" + row(new)


def update(
    relation_id: int, new: Sequence[Field], *, key: Sequence[Field] | None = None, old: Sequence[Field] | None = None
) -> bytes:
    before = b""
    if key is not None:
        before = b"K" + row(key)
    if old is not None:
        before = b"O" + row(old)
    return b"U" + struct.pack("!I", relation_id) + before + b"N" + row(new)


def delete(relation_id: int, *, key: Sequence[Field] | None = None, old: Sequence[Field] | None = None) -> bytes:
    before = b"O" + row(old) if old is not None else b"K" + row(key or ())
    return b"D" + struct.pack("!I", relation_id) + before


def truncate(*relation_ids: int, cascade: bool = False, restart_identity: bool = False) -> bytes:
    options = cascade | restart_identity << 1
    return b"T" + struct.pack("!IB", len(relation_ids), options) + struct.pack(f"!{len(relation_ids)}I", *relation_ids)


def message(prefix: str, content: bytes, lsn: int = 0x900, *, transactional: bool = True) -> bytes:
    return b"M" + struct.pack("!BQ", transactional, lsn) + _cstring(prefix) + struct.pack("!I", len(content)) + content


def origin(name: str, lsn: int = 0x10) -> bytes:
    return b"O" + struct.pack("!Q", lsn) + _cstring(name)


def type_(oid: int, schema: str, name: str) -> bytes:
    return b"Y" + struct.pack("!I", oid) + _cstring(schema) + _cstring(name)
