"""The decoder port: one message of the output plugin in, model items out; no I/O, no clock, no logging."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from wal_tracker.model import Item, Op, Relation


@dataclass(frozen=True, slots=True)
class Direct:
    """A short cut: what is made of a row without a `Change` in between, straight from the values it is made of."""

    reads: tuple[tuple[str, str], ...]
    """The values it takes, in this order: ``("new", row key)`` or ``("old", row key)``."""
    make: Callable[..., Item]
    """
    ``make(transaction, ordinal, *values)``: what stands in the change's place.

    May raise anything where it would rather see the `Change`; then the message is read again and gives that.
    """


@dataclass(frozen=True, slots=True)
class OpColumns:
    """
    The row keys somebody reads of one operation on one relation.

    A key is a column's name for the value CEL computes with, or `wal_tracker.model.EXACT` + name for
    the form it is emitted in. Columns not named here are skipped as bytes.
    """

    new: frozenset[str] = frozenset()
    old: frozenset[str] = frozenset()
    direct: Direct | None = None
    """Where a decoder can give these values alone, it may hand on what this makes of them instead of a `Change`."""


XLOG_DATA_HEADER_SIZE = 25
"""XLogData: Byte1('w') Int64 start, Int64 end of WAL, Int64 clock, then the output plugin's bytes."""

Wanted = Mapping[Op, OpColumns]
"""What to decode of a relation. An operation that is absent is counted (ordinals!) but not handed on."""

WantedFor = Callable[[Relation], "Wanted | None"]
"""Asked once for every Relation message; None: nobody wants this relation, skip its rows on sight."""


class Decoder(Protocol):
    """Turns the payloads of one replication stream into items. One instance per source, one thread."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun and its commit has not come."""
        ...

    def options(self, publication: str) -> dict[str, str]:
        """The plugin options START_REPLICATION must carry for this decoder."""
        ...

    def reset(self, current_xid8: int) -> None:
        """
        Forget everything tied to a connection (relations, an open transaction); called on every connect.

        Args:
            current_xid8: The server's current 64-bit transaction id, from which the epoch of 32-bit xids is derived.
        """
        ...

    def rows(self, messages: Sequence[bytes], at: int, out: list[Item], /) -> int:
        """
        Decode messages for as long as that is plain going; the way nearly all of them take.

        Args:
            messages: Whole XLogData messages, header and all (`XLOG_DATA_HEADER_SIZE`).
            at: Where to begin.
            out: Where items go, in order.

        Returns:
            Which message is next: the first that has to go through `feed`, or the number of them.

        Raises:
            DecodeError: As `feed`.
        """
        ...

    def feed(self, payload: bytes, lsn: int, out: list[Item]) -> None:
        """
        Decode one message and append what it yields, if anything, to `out`.

        Args:
            payload: The message as the plugin wrote it.
            lsn: Its XLogData start LSN (0 for Relation messages); only for error texts and wal2json.
            out: Where items go, in order.

        Raises:
            DecodeError: The message is damaged; `out` is as it was before.
        """
        ...
