"""What the decoders say of transactions and logical messages in the same way, whatever the plugin."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import orjson

from wal_tracker.lsn import LSN
from wal_tracker.model import Commit, Item, Message, Transaction

CONTEXT_PREFIX = "wal_tracker.context"

SWITCH_PREFIX = "wal_tracker.switch"
"""A message with this prefix is in the transaction that divides two modes (`wal_tracker.source.switch`)."""


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def unix_us(moment: datetime) -> int:
    """Microseconds since the Unix epoch of an aware datetime, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


class TransactionIds:
    """Gives 32-bit transaction ids their epoch."""

    def __init__(self) -> None:
        self._newest = 0

    def reset(self, current_xid8: int) -> None:
        """
        Begin anew.

        Args:
            current_xid8: The server's current 64-bit transaction id.
        """
        self._newest = current_xid8

    def xid8(self, xid: int) -> int:
        """
        Of all 64-bit ids that end in `xid`, the one nearest to the newest known.

        At any moment the ids in use lie within 2^31 of one another: PostgreSQL compares them that way
        (src/backend/access/transam/transam.c, TransactionIdPrecedes).
        """
        distance = (xid - self._newest + 2**31) % 2**32 - 2**31
        xid8 = self._newest + distance
        if distance > 0:
            self._newest = xid8
        elif xid8 < 0:
            xid8 += 2**32
            self._newest = xid8
        return xid8


class CommitTimes:
    """Writes commit times as RFC 3339; many fall into the same second, whose text is kept."""

    def __init__(self) -> None:
        self._second: int | None = None
        self._text = ""

    def text(self, unix_us: int) -> str:
        """
        A time as RFC 3339 in UTC, with six digits and ``Z``.

        Args:
            unix_us: Microseconds since the Unix epoch.

        Raises:
            ValueError: It lies outside the years 1 to 9999.
        """
        second, microsecond = divmod(unix_us, 1_000_000)
        if second != self._second:
            try:
                text = datetime.fromtimestamp(second, timezone.utc).isoformat()
            except (OverflowError, OSError) as error:
                raise ValueError("a time outside the years 1 to 9999") from error
            self._second, self._text = second, text[:19]
        return f"{self._text}.{microsecond:06d}Z"


def append_transactional_message(
    transaction: Transaction, prefix: str, content: bytes, lsn: LSN, out: list[Item]
) -> None:
    """
    Hand on a message that was committed with its transaction, or let it become the transaction's context.

    A message of prefix `CONTEXT_PREFIX` whose content is a JSON object is the context from here on and yields
    nothing; with any other content it is a message like the rest, so that somebody sees it.
    """
    if prefix == CONTEXT_PREFIX:
        context = _json_object(content)
        if context is not None:
            transaction.context = context
            return
    ordinal = transaction.counts.get((prefix,), 0)
    transaction.counts[(prefix,)] = ordinal + 1
    out.append(Message(transaction, prefix, content, lsn, True, ordinal, transaction.context))


def append_standalone_message(prefix: str, content: bytes, lsn: LSN, out: list[Item], *, inside: bool) -> None:
    """
    Hand on a message that belongs to no transaction, in one of its own.

    Args:
        prefix: What the application named it.
        content: Its bytes.
        lsn: Where it stands in the WAL.
        out: Where the items go.
        inside: It came between another transaction's begin and commit: no `Commit` follows, as nothing may be
            confirmed before that one's end.
    """
    transaction = Transaction(0, lsn, 0, "")
    transaction.end_lsn = LSN(lsn + 1)
    out.append(Message(transaction, prefix, content, lsn, False, 0, transaction.context))
    if not inside:
        out.append(Commit(transaction))


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
