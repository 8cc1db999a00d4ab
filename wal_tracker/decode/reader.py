"""A cursor over one message whose every read is checked; for the rare messages and for any doubt."""

from __future__ import annotations

import struct
from typing import Any

from wal_tracker.errors import DecodeError, TruncatedMessage, UnsupportedValue
from wal_tracker.lsn import LSN


class Reader:
    """Reads one message from front to back; never past its end."""

    __slots__ = ("_at", "_data", "_lsn")

    def __init__(self, data: bytes, lsn: int = 0, at: int = 0) -> None:
        """
        Args:
            data: The whole message.
            lsn: Where it stands in the WAL, for error texts; 0 if unknown.
            at: Where to begin.
        """
        self._data = data
        self._lsn = lsn
        self._at = at

    @property
    def at(self) -> int:
        """Offset of the next byte."""
        return self._at

    def truncated(self, wanted: str) -> TruncatedMessage:
        """The error that says the message ends inside `wanted`."""
        return TruncatedMessage(f"message of {len(self._data)} bytes ends inside {wanted}", **self.place())

    def error(self, message: str) -> DecodeError:
        """A `DecodeError` at the present place."""
        return DecodeError(message, **self.place())

    def place(self) -> dict[str, Any]:
        """Keyword arguments that tell a `DecodeError` where we are."""
        return {"offset": self._at, "lsn": LSN(self._lsn) if self._lsn else None}

    def unpack(self, layout: struct.Struct, wanted: str) -> tuple[Any, ...]:
        """
        Read fixed-size fields.

        Raises:
            TruncatedMessage: They are not all there.
        """
        if self._at + layout.size > len(self._data):
            raise self.truncated(wanted)
        values = layout.unpack_from(self._data, self._at)
        self._at += layout.size
        return values

    def take(self, size: int, wanted: str) -> bytes:
        """
        Read `size` bytes.

        Raises:
            TruncatedMessage: There are fewer.
        """
        if size < 0 or self._at + size > len(self._data):
            raise self.truncated(wanted)
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def text(self, wanted: str) -> str:
        """
        Read a NUL-terminated string.

        Raises:
            TruncatedMessage: The NUL is missing.
            UnsupportedValue: It is not UTF-8.
        """
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise self.truncated(wanted)
        try:
            value = self._data[self._at : end].decode()
        except UnicodeDecodeError:
            value = None
        if value is None:
            raise UnsupportedValue(f"{wanted} is not UTF-8", **self.place())
        self._at = end + 1
        return value

    def finish(self, message: str) -> None:
        """
        Say that `message` has been read.

        Raises:
            DecodeError: Bytes are left.
        """
        if self._at != len(self._data):
            raise self.error(f"{len(self._data) - self._at} bytes are left after {message}")
