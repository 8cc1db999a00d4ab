"""
The bytes of a replication stream, through libpq's own functions on a psycopg2 connection.

psycopg2 makes the connection and starts the replication; from then on it is not asked to read. Its `read_message`
keeps a flush position of its own, moves it on keep-alives and sends it: it raises it to the keep-alive's position
whenever the last message's start is not above what the caller confirmed (psycopg2 2.9.13, psycopg/pqpath.c,
`pq_read_replication_message`). Two transactions that overlap are enough for it to confirm one we hold and have not
delivered, and a Relation message, whose start is 0, is enough even when the caller never confirms through psycopg2.
So nobody but us speaks on this line.

See: https://www.postgresql.org/docs/current/libpq-copy.html
"""

from __future__ import annotations

import ctypes
from typing import Any, NoReturn

import psycopg2
import psycopg2._psycopg

from wal_tracker.errors import SourceUnavailable
from wal_tracker.source.connection import classify

# dlsym looks through the library and those it depends on: libpq is found whether it is bundled (the wheel) or the
# system's. PyDLL keeps the GIL: the calls do not block, and releasing it costs more than they do.
_libpq = ctypes.PyDLL(psycopg2._psycopg.__file__)

# These three run for every message; without argtypes ctypes passes its own objects on as they are, which is faster.
_libpq.PQgetCopyData.restype = ctypes.c_int
_libpq.PQfreemem.restype = None
_copy_bytes = ctypes.pythonapi["PyBytes_FromStringAndSize"]
_copy_bytes.restype = ctypes.py_object
_libpq.PQconsumeInput.argtypes = [ctypes.c_void_p]
_libpq.PQconsumeInput.restype = ctypes.c_int
_libpq.PQputCopyData.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
_libpq.PQputCopyData.restype = ctypes.c_int
_libpq.PQflush.argtypes = [ctypes.c_void_p]
_libpq.PQflush.restype = ctypes.c_int
_libpq.PQgetResult.argtypes = [ctypes.c_void_p]
_libpq.PQgetResult.restype = ctypes.c_void_p
_libpq.PQclear.argtypes = [ctypes.c_void_p]
_libpq.PQclear.restype = None
_libpq.PQresultErrorField.argtypes = [ctypes.c_void_p, ctypes.c_int]
_libpq.PQresultErrorField.restype = ctypes.c_char_p
_libpq.PQresultErrorMessage.argtypes = [ctypes.c_void_p]
_libpq.PQresultErrorMessage.restype = ctypes.c_char_p
_libpq.PQerrorMessage.argtypes = [ctypes.c_void_p]
_libpq.PQerrorMessage.restype = ctypes.c_char_p

_NOTHING_YET = 0
_COPY_DONE = -1
_SQLSTATE_FIELD = ord("C")
_WITHOUT_BLOCKING = ctypes.c_int(1)


class CopyStream:
    """Reads and writes copy messages on one connection in COPY BOTH mode, without blocking. One thread."""

    def __init__(self, connection: Any, *, doing: str, slot: str, publication: str) -> None:
        """
        Args:
            connection: A psycopg2 connection that streams; it must stay open as long as this is used.
            doing: For messages.
            slot: For messages.
            publication: For messages.
        """
        self.descriptor: int = connection.fileno()
        """The socket."""
        self.wants_to_write = False
        """Something is still to be sent: call `flush` when the socket takes it."""
        self._connection = ctypes.c_void_p(connection.pgconn_ptr)
        self._buffer = ctypes.c_void_p()
        self._doing, self._slot, self._publication = doing, slot, publication

    def receive(self, max_messages: int, max_bytes: int) -> tuple[list[bytes], int, bool]:
        """
        Take what has arrived.

        Args:
            max_messages: Not more than so many messages.
            max_bytes: Stop after the message that brings the sum to this.

        Returns:
            The messages, the sum of their sizes, and whether that was everything.

        Raises:
            SourceError: The server ended the stream; `classify` says what its reason means.
        """
        get, free, copy = _libpq.PQgetCopyData, _libpq.PQfreemem, _copy_bytes
        connection, buffer, without_blocking = self._connection, self._buffer, _WITHOUT_BLOCKING
        reference = ctypes.byref(buffer)
        messages: list[bytes] = []
        add = messages.append
        total = 0
        has_looked = False
        for _ in range(max_messages):
            size = get(connection, reference, without_blocking)
            if size > 0:
                add(copy(buffer, size))
                free(buffer)
                has_looked = False
                total += size
                if total >= max_bytes:
                    break
            elif size == _NOTHING_YET:
                # Look at the socket once for each time libpq runs dry, and not more: a fast server must not keep us
                # here, and libpq's buffer must not grow while we hold messages unread.
                if has_looked:
                    return messages, total, True
                has_looked = True
                if not _libpq.PQconsumeInput(connection):
                    if messages:
                        break
                    self._raise_connection_error()
            elif messages:
                # Hand on what came before the end; the next call finds the end again.
                break
            elif size == _COPY_DONE:
                self._raise_result()
            else:
                self._raise_connection_error()
        return messages, total, False

    def send(self, message: bytes) -> bool:
        """
        Send one copy message, or begin to.

        Returns:
            False: libpq has no room; nothing was taken.

        Raises:
            SourceError: The line is broken.
        """
        taken = _libpq.PQputCopyData(self._connection, message, len(message))
        if taken < 0:
            self._raise_connection_error()
        self.flush()
        return bool(taken)

    def flush(self) -> None:
        """
        Push out what libpq still holds; sets `wants_to_write`.

        Raises:
            SourceError: The line is broken.
        """
        left = _libpq.PQflush(self._connection)
        if left < 0:
            self._raise_connection_error()
        self.wants_to_write = left == 1

    def _raise_connection_error(self) -> NoReturn:
        text: bytes = _libpq.PQerrorMessage(self._connection) or b""
        # A server that ends the line sends its reason first: libpq keeps it as a result.
        self._raise_result(text.decode(errors="replace"))

    def _raise_result(self, otherwise: str = "") -> NoReturn:
        """Raise what the server gave as its reason, or `otherwise`."""
        result = _libpq.PQgetResult(self._connection)
        sqlstate, message = None, ""
        if result:
            code: bytes | None = _libpq.PQresultErrorField(result, _SQLSTATE_FIELD)
            text: bytes = _libpq.PQresultErrorMessage(result) or b""
            sqlstate = code.decode() if code else None
            message = text.decode(errors="replace")
            _libpq.PQclear(result)
        message = message or otherwise
        if not message:
            raise SourceUnavailable(f"{self._doing}: the server ended the stream (it may be shutting down)")
        raise classify(sqlstate, message, doing=self._doing, slot=self._slot, publication=self._publication)
