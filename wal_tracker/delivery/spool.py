"""
What one destination still has to get, on disk: for as long as it does not take it from memory.

A *segment* is a file of records, one an event; records are only ever appended, and a segment is deleted when
everything in it has been delivered and the position that says so is stored. Where reading stands and where the last
whole transaction ends is kept in the state store, in one step with the position (`Cursor.spool`): what a segment
holds beyond that was never confirmed to the server and comes again, so it is cut off when the spool is opened.

A record is a length, a CRC-32 over what follows, the event's kind and lane, and the event as it was first written:
the same bytes go to the vendor however long they lay here. A segment begins with where the one before it ends, so that
one that was cut short, or is not there any more, is told from one that is read to its end.

Thread: one thread appends, syncs and releases; another reads, and only below what has been synced.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import overload
from urllib.parse import quote

import orjson

from wal_tracker.delivery.lanes import lane_of
from wal_tracker.errors import StateError
from wal_tracker.failpoints import hit
from wal_tracker.model import Deliverable, Event, RawChange
from wal_tracker.state.base import Place, Spooled

logger = logging.getLogger("wal_tracker.delivery")

_MAGIC = b"wal_tracker spool 1\n"
_BEFORE = struct.Struct("!QQI")
"""After the magic: where the segment before ends (number and offset), and the CRC-32 of that."""
_HEADER_BYTES = len(_MAGIC) + _BEFORE.size
_FRAME = struct.Struct("!II")
"""Length and CRC-32 of the rest of the record."""
_CRC = struct.Struct("!I")
_HEAD = struct.Struct("!BqI")
"""Kind, lane (-1: none), and length of what stands before the event's JSON."""
_EVENT, _RAW, _UNWRITABLE = 0, 1, 2

_OWNER = "owner"
"""The file in a spool's folder that says whose it is."""

SEGMENT_BYTES = 16 * 1024 * 1024
"""A new segment is begun beyond this: small enough to give disk back soon, large enough for few of them."""

# What is read at a time from a spool that is only looked at.
_PAGE_EVENTS = 1000
_PAGE_BYTES = 4 * 1024 * 1024

BEGINNING = Place(0, _HEADER_BYTES)
"""Where an empty spool stands."""


class SpoolDamaged(Exception):
    """A segment does not hold what was written into it; `resume` is the next place that may be read."""

    def __init__(self, where: str, resume: Place) -> None:
        super().__init__(where)
        self.where, self.resume = where, resume


class Places(Sequence[Place]):
    """Places of one segment, each made when it is asked for: of thousands two or three are."""

    def __init__(self, segment: int, offsets: list[int]) -> None:
        self._segment, self._offsets = segment, offsets

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> Place: ...
    @overload
    def __getitem__(self, index: slice) -> list[Place]: ...
    def __getitem__(self, index: int | slice) -> Place | list[Place]:
        if isinstance(index, slice):
            return [Place(self._segment, offset) for offset in self._offsets[index]]
        return Place(self._segment, self._offsets[index])


class Spool:
    """Events of one destination on disk, in order. Opens nothing before `open`, makes nothing before `append`."""

    def __init__(
        self, directory: Path, name: str, *, max_bytes: int, segment_bytes: int = SEGMENT_BYTES, owner: str = ""
    ) -> None:
        """
        Args:
            directory: Of all spools; made when first needed.
            name: The destination's; its spool is a folder of this name, made safe for a file system.
            max_bytes: What it is meant to take on disk; it is up to who appends to heed it.
            segment_bytes: See `SEGMENT_BYTES`.
            owner: Whose it is, where the directory may be another's as well: a spool that says otherwise is refused.
        """
        self.path = directory / quote(name, safe="")
        self._owner = owner
        # Room comes back a segment at a time: a small spool has small ones.
        self.max_bytes, self._segment_bytes = max_bytes, min(segment_bytes, max_bytes // 4)
        self._first = 0
        self._unsynced: list[int] = []
        self._new_names = self._begin_anew = False
        self._missing: list[Path] = []
        self._is_lost = False
        self._handle: int | None = None
        self._reading: tuple[int, int, Place] | None = None
        self.end = BEGINNING
        """After the last record written."""
        self.bytes = 0
        """What the segments take on disk."""

    def open(self, stands: Spooled | None) -> None:
        """
        Take up what an earlier process left, as far as its stored cursor knows of it; the rest is cut off.

        Args:
            stands: From the state store; None: nothing is spooled, and what lies there is left over.

        Raises:
            StateError: The folder or a segment cannot be read or cut, or it is another's.
        """
        self.close()
        self._first, self.end, self.bytes = BEGINNING.segment, BEGINNING, 0
        try:
            self._refuse_foreign()
            for number in self._numbers():
                path = self._segment(number)
                if stands is None or not stands.begin.segment <= number <= stands.end.segment:
                    path.unlink()
                    continue
                size = path.stat().st_size
                if number == stands.end.segment and size > stands.end.offset:
                    os.truncate(path, stands.end.offset)
                    size = stands.end.offset
                self.bytes += size
            if stands is not None:
                self._first, self.end = stands.begin.segment, stands.end
            else:
                # It stays where somebody else has put something into it.
                with suppress(OSError):
                    self.path.rmdir()
        except OSError as error:
            raise self._state_error("opened", error) from error
        if stands is None:
            # It stays where somebody else has put something into it.
            with suppress(OSError):
                (self.path / _OWNER).unlink(missing_ok=True)
                self.path.rmdir()

    def append(self, events: Sequence[Deliverable]) -> Places:
        """
        Write events behind what is there; durable once `sync` has returned.

        Args:
            events: At least one, oldest first.

        Returns:
            The place before the first, and for each of them the one behind it.

        Raises:
            OSError: It could not be written; nothing of it counts.
        """
        handle, at = self._end_to_write_at()
        segment = at.segment
        data, offsets = _records(events, at.offset)
        try:
            _write_all(handle, data, at.offset)
        except OSError:
            if handle == self._handle:
                # Half a record is in nobody's way: the next append begins where this one did.
                os.ftruncate(handle, at.offset)
            else:
                os.close(handle)
                self._segment(segment).unlink()
            raise
        if handle != self._handle:
            self._go_on_in(handle, segment)
        self.end = Place(segment, offsets[-1])
        self.bytes += len(data)
        if segment not in self._unsynced:
            self._unsynced.append(segment)
        hit("spool_written")
        return Places(segment, offsets)

    def sync(self) -> Place:
        """
        Make everything written durable.

        Returns:
            Up to where.

        Raises:
            StateError: It is not. What was written since the last time may be lost, whatever is tried: the kernel does
                not write again what it could not. So this stays as it is until the process begins anew.
        """
        if self._is_lost:
            raise StateError(f"the spool {self.path} could not be made durable")
        try:
            if self._new_names:
                for path in (self.path, *(made.parent for made in self._missing)):
                    _sync_path(path)
                self._new_names, self._missing = False, []
            while self._unsynced:
                number = self._unsynced[0]
                if number == self.end.segment and self._handle is not None:
                    os.fdatasync(self._handle)
                else:
                    _sync_path(self._segment(number))
                del self._unsynced[0]
        except OSError as error:
            self._is_lost = True
            raise StateError(
                f"the spool {self.path} could not be made durable: {error.strerror}; see to its disk. What was not "
                "durable comes again from the server"
            ) from error
        hit("spool_synced")
        return self.end

    def read(self, at: Place, end: Place, max_events: int, max_bytes: int) -> list[tuple[Deliverable, Place]]:
        """
        Events from a place on.

        Args:
            at: Where to begin.
            end: Where to stop; synced.
            max_events: At most so many.
            max_bytes: Of their records; a single one that is larger comes alone.

        Returns:
            Each with the place behind it; at least one where there is one between `at` and `end`.

        Raises:
            SpoolDamaged: What is next cannot be read; nothing before it is held back: ask again, for less.
        """
        found: list[tuple[Deliverable, Place]] = []
        size = 0
        if at.segment < self._first:
            at = Place(self._first, _HEADER_BYTES)
        while at < end and len(found) < max_events:
            try:
                handle, length, _ = self._open_for_reading(at.segment, end)
                if at.offset >= length and at.segment < end.segment:
                    _, _, ends_at = self._open_for_reading(at.segment + 1, end)
                    if ends_at > at:
                        raise self._damaged(at, "it ends too early")
                    at = Place(at.segment + 1, _HEADER_BYTES)
                    continue
                event, behind = self._read_record(handle, at, length)
            except SpoolDamaged:
                if found:
                    break
                raise
            size += behind.offset - at.offset
            if found and size > max_bytes:
                break
            found.append((event, behind))
            at = behind
        return found

    def kept(self, stands: Spooled) -> Iterator[Deliverable]:
        """
        All that is to be delivered from here, read and left as it is; of a spool that is not open.

        What cannot be read is passed over, with a line in the log: that it is a gap is for whom it belongs to.

        Args:
            stands: From the state store.
        """
        at = stands.begin
        try:
            while at < stands.end:
                try:
                    found = self.read(at, stands.end, _PAGE_EVENTS, _PAGE_BYTES)
                except SpoolDamaged as damage:
                    logger.warning("a spool is damaged; passing over it", extra={"where": damage.where})
                    at = damage.resume
                    continue
                yield from (event for event, _ in found)
                at = found[-1][1] if found else stands.end
        finally:
            self.close()

    def size(self, stands: Spooled) -> int:
        """
        What the segments that are still needed take on disk; of a spool that is not open, and may be another process's.

        Args:
            stands: From the state store.
        """
        sizes = 0
        for number in self._numbers():
            if number >= stands.begin.segment:
                with suppress(FileNotFoundError):
                    sizes += self._segment(number).stat().st_size
        return sizes

    def release(self, before: Place) -> None:
        """
        Delete the segments that lie wholly before a place; its position is stored.

        Raises:
            StateError: One cannot be deleted.
        """
        try:
            while self._first < before.segment:
                path = self._segment(self._first)
                if path.exists():
                    self.bytes -= path.stat().st_size
                    path.unlink()
                self._first += 1
        except OSError as error:
            raise self._state_error("emptied", error) from error

    def clear(self) -> None:
        """
        Everything is delivered, and the position that says so is stored: give the disk back.

        Raises:
            StateError: A segment cannot be deleted.
        """
        self.open(None)

    def close(self) -> None:
        """Let go of the files; calling it twice is harmless."""
        if self._handle is not None:
            os.close(self._handle)
        if self._reading is not None:
            os.close(self._reading[1])
        self._handle = self._reading = None

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem) for path in self.path.glob("*.spool")) if self.path.exists() else []

    def _segment(self, number: int) -> Path:
        return self.path / f"{number:012d}.spool"

    def _refuse_foreign(self) -> None:
        """Two configurations may name one `spool_dir`, and one must not delete what the other has confirmed."""
        path = self.path / _OWNER
        if self._owner and path.exists() and (found := path.read_text().strip()) != self._owner:
            raise StateError(
                f"the spool {self.path} belongs to {found}, and this is {self._owner}: name another "
                f"`delivery.spool_dir`. If both are the same under different names, write the present one into {path}"
            )

    def _end_to_write_at(self) -> tuple[int, Place]:
        """The last segment, open for writing, and its end; a new one where it is full or not to be gone on with."""
        is_new = self._begin_anew or self.end.offset >= self._segment_bytes
        if self._handle is not None and not is_new:
            return self._handle, self.end
        last = self._segment(self.end.segment)
        if not is_new and last.exists() and last.stat().st_size == self.end.offset:
            self._handle = os.open(last, os.O_RDWR)
            return self._handle, self.end
        # Only its owner may read it: it holds what the events hold.
        self._missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()] or self._missing
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._owner and not (self.path / _OWNER).exists():
            (self.path / _OWNER).write_text(self._owner + "\n")
            _sync_path(self.path / _OWNER)
        path = self._segment(self.end.segment + 1)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        before = _BEFORE.pack(*self.end, 0)[: -_CRC.size]
        try:
            _write_all(handle, _MAGIC + before + _CRC.pack(zlib.crc32(before)), 0)
        except OSError:
            os.close(handle)
            path.unlink()
            raise
        return handle, Place(self.end.segment + 1, _HEADER_BYTES)

    def _go_on_in(self, handle: int, number: int) -> None:
        """A new segment has its first records: it is the last one now."""
        if self._handle is not None:
            os.close(self._handle)
        if not self.bytes:
            self._first = number
        self._handle, self._new_names, self._begin_anew = handle, True, False
        self.bytes += _HEADER_BYTES

    def _open_for_reading(self, number: int, end: Place) -> tuple[int, int, Place]:
        """A handle of a segment, up to where it may be read, and where the segment before it ends."""
        if self._reading is None or self._reading[0] != number:
            if self._reading is not None:
                os.close(self._reading[1])
                self._reading = None
            try:
                handle = os.open(self._segment(number), os.O_RDONLY)
            except OSError as error:
                raise self._damaged(Place(number, 0), error.strerror or "it cannot be opened") from error
            header = os.pread(handle, _HEADER_BYTES, 0)
            before = header[len(_MAGIC) :]
            if not header.startswith(_MAGIC) or _CRC.pack(zlib.crc32(before[: -_CRC.size])) != before[-_CRC.size :]:
                os.close(handle)
                raise self._damaged(Place(number, 0), "it does not begin as a spool does")
            self._reading = (number, handle, Place(*_BEFORE.unpack(before)[:2]))
        _, handle, ends_at = self._reading
        return handle, end.offset if number == end.segment else os.fstat(handle).st_size, ends_at

    def _read_record(self, handle: int, at: Place, length: int) -> tuple[Deliverable, Place]:
        frame = os.pread(handle, _FRAME.size, at.offset)
        if len(frame) < _FRAME.size:
            raise self._damaged(at, "it ends too early")
        size, checksum = _FRAME.unpack(frame)
        behind = Place(at.segment, at.offset + _FRAME.size + size)
        if size < _HEAD.size or behind.offset > length:
            raise self._damaged(at, "a record reaches beyond its end")
        body = os.pread(handle, size, at.offset + _FRAME.size)
        if len(body) < size:
            raise self._damaged(at, "it ends too early")
        if zlib.crc32(body) != checksum:
            what = "a record does not fit its checksum"
            # Where a sound one follows it was the body that was hit, and not the length.
            if behind.offset == length or _is_sound(handle, behind.offset, length):
                raise SpoolDamaged(f"{self._segment(at.segment)} at byte {at.offset}: {what}", behind)
            raise self._damaged(at, what)
        return _event(body), behind

    def _damaged(self, at: Place, what: str) -> SpoolDamaged:
        # Where the next record of this segment begins is not known any more; what is still to be appended goes beyond.
        self._begin_anew = True
        resume = Place(at.segment + 1, _HEADER_BYTES)
        return SpoolDamaged(f"{self._segment(at.segment)} at byte {at.offset}: {what}", resume)

    def _state_error(self, done: str, error: OSError) -> StateError:
        return StateError(f"the spool {self.path} cannot be {done}: {error.strerror}; it must be ours to write")


def _write_all(handle: int, data: bytes, offset: int) -> None:
    """
    Raises:
        OSError: Not all of it could be written.
    """
    text = memoryview(data)
    while text:
        count = os.pwrite(handle, text, offset)
        text, offset = text[count:], offset + count


def _is_sound(handle: int, offset: int, length: int) -> bool:
    """Whether a whole record stands here."""
    frame = os.pread(handle, _FRAME.size, offset)
    if len(frame) < _FRAME.size:
        return False
    size, checksum = map(int, _FRAME.unpack(frame))
    begin = offset + _FRAME.size
    return begin + size <= length and zlib.crc32(os.pread(handle, size, begin)) == checksum


def _records(events: Sequence[Deliverable], offset: int) -> tuple[bytes, list[int]]:
    """Records, one behind the other, and the offset of the first and of what is behind each."""
    # While a destination is down this is done for every event, so in one pass, and its bytes are copied once.
    pack_frame, pack_head, crc32 = _FRAME.pack, _HEAD.pack, zlib.crc32
    parts: list[bytes] = []
    offsets = [offset]
    for event in events:
        lane = lane_of(event)
        kind, before = _EVENT, b""
        try:
            text = event.to_json()
        except orjson.JSONEncodeError as error:
            # It becomes a dead letter in its turn, as it would have without a spool, and for the same reason.
            kind, text = _UNWRITABLE, str(error).encode()
        if kind or type(event) is RawChange:
            kind = kind or _RAW
            before = orjson.dumps([event.id, event.name, event.timestamp, event.source])
        head = pack_head(kind, -1 if lane is None else lane, len(before)) + before
        size = len(head) + len(text)
        parts += (pack_frame(size, crc32(text, crc32(head))), head, text)
        offset += _FRAME.size + size
        offsets.append(offset)
    return b"".join(parts), offsets


class _Unwritable(Event):
    """An event of which nothing is left but why it could not be written."""

    __slots__ = ()

    def to_json(self) -> bytes:
        """Raise as it did."""
        raise orjson.JSONEncodeError(self.properties["why"])


def _event(body: bytes) -> Deliverable:
    kind, lane, length = _HEAD.unpack_from(body)
    text = body[_HEAD.size + length :]
    event: Deliverable
    if kind == _EVENT:
        event = Event.from_json(text)
    else:
        id, name, timestamp, source = orjson.loads(body[_HEAD.size : _HEAD.size + length])
        if kind == _RAW:
            event = RawChange.from_json(text, id=id, name=name, timestamp=timestamp, source=source)
        else:
            event = _Unwritable(id, name, None, timestamp, {"why": text.decode()}, source)
    if lane >= 0:
        event.lane = lane
    return event


def _sync_path(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
