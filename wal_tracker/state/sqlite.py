"""
The state store in a SQLite file, the default: nothing to install, and durable on any local disk.

``synchronous=FULL`` with the write-ahead log: a transaction is on disk when it ends, also through a power cut
(https://www.sqlite.org/pragma.html#pragma_synchronous). The file may hold payloads of dead letters, so only its owner
may read it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wal_tracker.errors import StateError
from wal_tracker.state.base import LetterBound
from wal_tracker.state.store import Execute, SqlStateStore, read_script, statement_text

# Another process's transaction is over in milliseconds; longer, and something sits on the file.
BUSY_TIMEOUT_S = 10.0

# `is_held` takes the lock for an instant to see whether it can; nobody who starts may fail for that.
LOCK_PATIENCE_S = 0.5


class SqliteStateStore(SqlStateStore):
    """A state store in a file. The lock of `exclusive` stands beside it, as ``<file>.lock``."""

    def __init__(self, path: Path, bound: LetterBound | None = None) -> None:
        """
        Open the store, make it where there is none, and bring one of an older version up to this one.

        Args:
            path: The file; its directory must exist, on a local disk.
            bound: Of dead letters; None: there is none.

        Raises:
            StateError: It cannot be opened, is no state store, or was made by a newer version.
        """
        super().__init__(bound)
        self._path = path
        self._create()
        with self._translated("opening it"):
            self._connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        try:
            with self._translated("opening it"):
                self._refuse_foreign()
                self._use_write_ahead_log()
                self._connection.execute("pragma synchronous = full")
                self._connection.executescript(read_script("sqlite.sql"))
            self._upgrade()
        except StateError:
            self._connection.close()
            raise

    def _create(self) -> None:
        """Make an empty file nobody else may read, and make its name durable."""
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return
        except OSError as error:
            raise StateError(
                f"cannot make the state file {self._path}: {error.strerror}; its directory must exist and be writable "
                "(configuration: `state: sqlite:///FILE`)"
            ) from error
        os.close(handle)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _use_write_ahead_log(self) -> None:
        """One process makes the log of a new file, and SQLite lets no other wait for it: the others try again."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                self._connection.execute("pragma journal_mode = wal")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def _refuse_foreign(self) -> None:
        """Write into no database that is somebody else's, or a newer version's."""
        tables = {name for (name,) in self._connection.execute("select name from sqlite_master where type = 'table'")}
        if tables and "schema_version" not in tables:
            raise StateError(
                f"{self._path} is a database that holds other tables and no state; name another file in `state`"
            )
        if tables:
            ((version,),) = self._connection.execute(statement_text("read_version", ()))
            self._check_version(str(self._path), version)

    def _upgrade(self) -> None:
        """All of it or nothing, and once, however many open the file at once."""
        with self._transaction() as execute:
            if execute("read_version", {}) == [(1,)]:
                for statement in filter(str.strip, read_script("sqlite_upgrade.sql").split(";")):
                    self._connection.execute(statement)

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StateError(f"state file {self._path}, {doing}: {error}; {_remedy(error)}") from error

    @contextmanager
    def _transaction(self, *, writes: bool = True) -> Iterator[Execute]:
        connection = self._connection

        def execute(
            statement: str, values: Mapping[str, Any], chosen: tuple[str, ...] = ()
        ) -> list[tuple[Any, ...]]:
            rows: list[tuple[Any, ...]] = connection.execute(statement_text(statement, chosen), values).fetchall()
            return rows

        with self._lock, self._translated("reading or writing it"):
            connection.execute("begin immediate" if writes else "begin")
            try:
                yield execute
                connection.execute("commit")
            except BaseException:
                # SQLite may have rolled back by itself, as it does when the disk is full.
                if connection.in_transaction:
                    connection.execute("rollback")
                raise

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See `StateStore`."""
        handle = self._open_lock()
        try:
            deadline = time.monotonic() + LOCK_PATIENCE_S
            while not _try_lock(handle, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
                    raise StateError(
                        f"the state file {self._path} is held by {holder}; one `wal_tracker run` at a time may use it. "
                        "Stop that one, or give this one another `state` and slot"
                    )
                time.sleep(0.02)
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            yield
        finally:
            os.close(handle)

    def is_held(self) -> bool:
        """See `StateStore`."""
        handle = self._open_lock()
        try:
            return not _try_lock(handle, fcntl.LOCK_SH)
        finally:
            os.close(handle)

    def _open_lock(self) -> int:
        path = f"{self._path}.lock"
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StateError(f"cannot open {path}: {error.strerror}; it must be writable, like the state") from error

    def close(self) -> None:
        """See `StateStore`."""
        with self._lock:
            self._connection.close()


def _try_lock(handle: int, kind: int) -> bool:
    """Whether the lock could be had; the kernel takes it back when the process ends, however it ends."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remedy(error: sqlite3.Error) -> str:
    text = str(error)
    if "locked" in text or "busy" in text:
        return f"another process has kept it locked for {BUSY_TIMEOUT_S:g} s; is it open in a database tool?"
    if "not a database" in text or "malformed" in text:
        return "move it away, or name another file in `state`; positions are then taken from the slot"
    if "full" in text:
        return "make room on its disk; nothing is confirmed to PostgreSQL until then, and nothing is lost"
    return "it must be a file this user may read and write, on a local disk"
