"""The log sequence number: a byte position in the WAL, with the type it deserves."""

from __future__ import annotations

import re

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


class LSN(int):
    """
    A byte position in the WAL; compares, and subtracts to bytes, as an integer.

    See: https://www.postgresql.org/docs/current/datatype-pg-lsn.html
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> LSN:
        """
        Read PostgreSQL's text form, such as ``16/B374D848``.

        Raises:
            ValueError: The text is not an LSN.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"not an LSN: {text!r} (expected e.g. '16/B374D848')")
        return cls(int(match[1], 16) << 32 | int(match[2], 16))

    def __str__(self) -> str:
        return "%X/%X" % (self >> 32, self & 0xFFFFFFFF)  # noqa: UP031 - for every transaction, and faster so

    def __repr__(self) -> str:
        return f"LSN({str(self)!r})"
