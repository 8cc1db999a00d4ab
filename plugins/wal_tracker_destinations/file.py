"""
JSON lines in a file that survives crashes without a torn line and without an event twice.

Every batch is one append, fsynced before its receipt. The receipt's mark says how long the file was
then; it is stored together with the position in the WAL. After a crash `open` cuts off whatever was
written later, because exactly that comes again. See: https://jsonlines.org/
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import stat
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from wal_tracker.destinations.base import Limits, Mark, Receipt
from wal_tracker.errors import DestinationError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.model import Deliverable
from wal_tracker_destinations.lines import to_lines

logger = logging.getLogger("wal_tracker.destinations.file")

# Errors that pass when somebody makes room or the storage comes back. Everything else needs a person.
_TRANSIENT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EAGAIN, errno.ENOMEM, errno.ESTALE})

# So many bytes before the marked offset prove that a file is the one the mark was made of: about one event, whose id
# and LSN are in it.
_TAIL_BYTES = 256

# A file's name is asked of the file system so often (on NFS others may change it), and whenever the kernel tells of it.
_LOOK_INTERVAL_S = 1.0


class File:
    """
    Appends each event as a line; rotates between batches.

    A full file is renamed to ``PATH.000001``, ``PATH.000002`` and so on, and a new one begun. Finished files
    are never touched again, except that after a crash a rotation nobody recorded is undone. They are not
    deleted either: that is the business of whoever collects them.

    Another program may move the file away (logrotate ``create``): the next batch goes to a new file, or, where another
    machine moved it on a network's file system, what comes a second later. That one is told in the log, and so is a
    file somebody else wrote to or shortened; none is ever cut by us.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Options of one file."""

        path: str
        """Where to write; relative to the working directory. The directory must exist."""
        max_bytes: int | None = None
        """Begin a new file before this one grows beyond; None: never."""
        max_age_s: float | None = None
        """Begin a new file, with the next batch, when this one is older; None: never."""

        def __post_init__(self) -> None:
            if not self.path:
                raise ValueError("path must not be empty")
            if self.max_bytes is not None and self.max_bytes <= 0:
                raise ValueError("max_bytes must be positive")
            if self.max_age_s is not None and self.max_age_s <= 0:
                raise ValueError("max_age_s must be positive")

    limits = Limits(max_batch_events=5000, max_batch_bytes=4 * 1024 * 1024, linger_s=0.0)
    accepts_raw: ClassVar[bool] = True

    def __init__(self, name: str, config: Config, *, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
            clock: Seconds since the Unix epoch; a test may give its own.
        """
        self.name = name
        self._config = config
        self._clock = clock
        if config.max_bytes is not None:
            self.limits = replace(self.limits, max_batch_bytes=min(self.limits.max_batch_bytes, config.max_bytes))
        self._path = Path(os.path.realpath(config.path))
        self._rotated = re.compile(re.escape(self._path.name) + r"\.(\d{6,})(\..+)?")
        self._fd = -1
        self._inode = 0
        self._offset = 0
        self._since = 0.0
        self._tail = b""
        self._unfinished_line = False
        self._torn = False
        self._last_name, self._last_look = "", 0.0

    def open(self, mark: Mark | None) -> Mark:
        """
        Open or create the file and take back what was written after `mark`.

        Returns:
            The mark of the file as it is now.

        Raises:
            DestinationError: The directory is missing, the file cannot be written or is not an ordinary file, or
                another process writes to it.
        """
        try:
            # Opened, and so locked, before anything is undone: another process may be at work here.
            self._open_file()
            if mark is not None:
                if self._undo_rotation(mark):
                    self._open_file()
                self._take_back(mark)
        except OSError as error:
            self.close()
            raise DestinationError(self.name, f"cannot open {self._path}: {_why(error)}") from error
        except DestinationError:
            self.close()
            raise
        return self._mark()

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        """Append the batch; returns once it is on disk, or raises with nothing of it left in the file."""
        if not batch:
            return Receipt(mark=self._mark())
        data = to_lines(batch)
        try:
            if self._torn:
                self._mend()
            self._notice_others(surely=self._is_due(len(data)))
            if self._is_due(len(data)):
                self._rotate()
            self._append(data)
        except OSError as error:
            message = f"cannot write {self._path}: {_why(error)}"
            if error.errno in _TRANSIENT:
                raise DestinationUnavailable(self.name, message) from error
            raise DestinationRefusedUs(self.name, message) from error
        return Receipt(mark=self._mark())

    def close(self) -> None:
        """Let go of the file; everything in it has been on disk since its batch."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # Opening -------------------------------------------------------------------------------------

    def _open_file(self) -> None:
        """Open `_path` for appending, making it if need be, and learn what it holds."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC)
            created = False
        except FileNotFoundError:
            fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            created = True
        self.close()
        self._fd = fd
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise DestinationError(
                self.name, f"{self._path} is not an ordinary file; for a pipe use the stdout destination"
            )
        try:
            # Two writers would put lines between each other's marks, and a crash of one would cut those of the other.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DestinationError(
                self.name, f"another wal_tracker writes to {self._path}; give each destination a path of its own"
            ) from error
        if created:
            self._sync_directory()
        self._inode, self._offset = status.st_ino, status.st_size
        self._since = self._clock() if status.st_size == 0 else status.st_mtime
        self._read_tail()

    def _undo_rotation(self, mark: Mark) -> bool:
        """
        If the marked file was rotated after its mark was stored, make it the current one again.

        The files after it hold only what was written after the mark, and all of that comes again.

        Returns:
            Whether there was something to undo.
        """
        if self._inode == mark["inode"] or _is_at(self._path, mark):
            return False
        rotated = self._rotated_files()
        for number, path in rotated:
            if path.stat().st_ino == mark["inode"] and _is_at(path, mark):
                later = [other for other_number, other in rotated if other_number > number]
                logger.warning(
                    "undoing a rotation that was not recorded before a crash",
                    extra={**self._where(), "rotated": str(path), "removed_files": len(later)},
                )
                for other in later:
                    other.unlink()
                # Atomic: at every instant one of the two is the marked file.
                os.replace(path, self._path)
                self._sync_directory()
                return True
        return False

    def _take_back(self, mark: Mark) -> None:
        """Cut off what was written after the mark, if this is the marked file."""
        if _is_at(self._path, mark):
            surplus = self._offset - mark["offset"]
            self._since = mark["since"]
            if surplus:
                logger.info(
                    "taking back what was written after the stored position; it comes again",
                    extra={**self._where(), "bytes": surplus},
                )
                os.ftruncate(self._fd, mark["offset"])
                os.fsync(self._fd)
                self._offset = mark["offset"]
                self._read_tail()
            return
        moved = self._inode != mark["inode"]
        logger.warning(
            "the file is not the one we wrote (it was moved away or replaced); going on in this one"
            if moved
            else "the file was shortened or rewritten by somebody else; going on at its end",
            extra={**self._where(), "expected_bytes": mark["offset"], "bytes": self._offset},
        )

    # Writing -------------------------------------------------------------------------------------

    def _append(self, data: bytes) -> None:
        """One write and one fsync; on failure the file is as before."""
        if self._unfinished_line:
            data = b"\n" + data
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fsync(self._fd)
        except OSError:
            # Also after a failed fsync: what is written again must be new, dirty pages, or the next fsync would
            # report success for data the kernel has given up on.
            self._torn = True
            self._mend()
            raise
        self._offset += len(data)
        self._tail = (self._tail + data)[-_TAIL_BYTES:] if len(data) < _TAIL_BYTES else data[-_TAIL_BYTES:]
        self._unfinished_line = False

    def _mend(self) -> None:
        """Cut off what a failed write left; tried again before the next write if it fails now."""
        os.ftruncate(self._fd, self._offset)
        self._torn = False

    def _notice_others(self, *, surely: bool) -> None:
        """See whether somebody moved the file away, wrote to it or shortened it, and say so."""
        if surely:
            self._last_name = ""
        if self._is_moved():
            logger.info("the file was moved away; beginning a new one", extra=self._where())
            self._open_file()
            return
        size = os.lseek(self._fd, 0, os.SEEK_END)
        if size != self._offset:
            logger.warning(
                "somebody else has written to the file or shortened it; going on at its end",
                extra={**self._where(), "expected_bytes": self._offset, "bytes": size},
            )
            self._offset = size
            self._read_tail()

    def _is_moved(self) -> bool:
        """
        Whether the name leads to another file now, or to none.

        Where the kernel tells an open file's name (proc(5)), its status is not asked for each time: that includes its
        times, and who has asked for them makes Linux write the next ones more finely, for every file there is. On a
        machine shared with a PostgreSQL server each of its commits then wrote the times of its WAL file as well, and
        took 5 to 10 % longer. See: https://docs.kernel.org/filesystems/multigrain-ts.html
        """
        try:
            name = os.readlink(f"/proc/self/fd/{self._fd}")
        except OSError:
            name = ""
        now = time.monotonic()
        if name and name == self._last_name and now - self._last_look < _LOOK_INTERVAL_S:
            return False
        try:
            moved = os.stat(self._path).st_ino != self._inode
        except FileNotFoundError:
            moved = True
        if not moved:
            # Only that it stays is remembered: where another file cannot be opened, this is found again.
            self._last_name, self._last_look = name, now
        return moved

    def _is_due(self, coming_bytes: int) -> bool:
        if self._offset == 0:
            return False
        maximum, age = self._config.max_bytes, self._config.max_age_s
        return (maximum is not None and self._offset + coming_bytes > maximum) or (
            age is not None and self._clock() - self._since >= age
        )

    def _rotate(self) -> None:
        rotated = self._rotated_files(also_others=True)
        number = max((number for number, _ in rotated), default=0) + 1
        os.rename(self._path, self._path.with_name(f"{self._path.name}.{number:06d}"))
        self._open_file()

    # Bookkeeping ---------------------------------------------------------------------------------

    def _where(self) -> dict[str, object]:
        """Fields of a log record."""
        return {"destination": self.name, "path": str(self._path)}

    def _rotated_files(self, *, also_others: bool = False) -> list[tuple[int, Path]]:
        """Finished files, oldest first; `also_others`: with those somebody has made of them (``.000001.gz``)."""
        found: list[tuple[int, Path]] = []
        for entry in os.scandir(self._path.parent):
            match = self._rotated.fullmatch(entry.name)
            if match and (also_others or match[2] is None):
                found.append((int(match[1]), Path(entry.path)))
        return sorted(found)

    def _sync_directory(self) -> None:
        """Make a name durable: fsync of a file does not cover the directory that names it (fsync(2))."""
        fd = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _read_tail(self) -> None:
        start = max(0, self._offset - _TAIL_BYTES)
        self._tail = os.pread(self._fd, self._offset - start, start)
        self._unfinished_line = self._tail != b"" and not self._tail.endswith(b"\n")

    def _mark(self) -> Mark:
        return {
            "inode": self._inode,
            "offset": self._offset,
            "since": self._since,
            "tail_bytes": len(self._tail),
            "tail_crc32": zlib.crc32(self._tail),
        }


def _is_at(path: Path, mark: Mark) -> bool:
    """Whether this file begins as the marked one did, up to the marked offset."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size < mark["offset"]:
                return False
            if mark["offset"] == 0:
                return bool(status.st_ino == mark["inode"])
            file.seek(mark["offset"] - mark["tail_bytes"])
            return bool(zlib.crc32(file.read(mark["tail_bytes"])) == mark["tail_crc32"])
    except FileNotFoundError:
        return False


def _why(error: OSError) -> str:
    """The operating system's words, and what to do."""
    words = os.strerror(error.errno) if error.errno else str(error)
    remedies = {
        errno.ENOENT: "create its directory",
        errno.EACCES: "let this user write there",
        errno.EROFS: "choose a path on a writable file system",
        errno.EISDIR: "name a file, not a directory",
        errno.ENOSPC: "make room; it goes on by itself",
        errno.EDQUOT: "raise the quota; it goes on by itself",
        errno.ENXIO: "name an ordinary file",
    }
    remedy = remedies.get(error.errno or 0)
    return f"{words} ({remedy})" if remedy else words
