"""
The state store port: what must survive us beside the slot.

Positions, dead letters and gaps. Whatever a method writes is on disk when it returns; everything may be called from
any thread. Only one process at a time runs a pipeline over a store (`exclusive`); any may look, and mark or drop dead
letters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal, NamedTuple, Protocol

from wal_tracker.lsn import LSN

OUTBOX = "outbox"
"""What stands for the slot in the identity of trigger mode's source."""

LetterKind = Literal["rule", "rejected"]
LetterStatus = Literal["dead", "replay", "replayed"]
"""
``dead``: waits for a person. ``replay``: a person wants it sent again. ``replayed``: it was.
"""


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """The server the positions belong to."""

    system_identifier: str
    timeline: int
    database: str
    slot: str
    """The slot; `OUTBOX` in trigger mode."""


class Place(NamedTuple):
    """Between two records of a spool."""

    segment: int
    offset: int
    """In bytes."""


class Spooled(NamedTuple):
    """What of a destination's spool is still to be delivered."""

    begin: Place
    end: Place
    """The end of the last transaction that is in it as a whole."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a destination is durable, and what it asked to be kept beside that."""

    lsn: LSN
    """Everything up to here is durable: at the destination, or in its spool."""
    mark: Mapping[str, Any] | None = None
    """JSON-ready."""
    spool: Spooled | None = None
    """None: nothing is spooled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An event a destination refused for good, or a change a rule could not be evaluated on."""

    id: str
    """Of the event, or of the rule error; the same on every replay."""
    destination: str
    """Empty for a rule error."""
    kind: LetterKind
    rule: str
    event: str
    table: str
    commit_lsn: LSN
    commit_time: str
    reason: str
    payload: bytes
    """The event or the change, as JSON."""
    created_at: str = ""
    """RFC 3339; set when it is stored."""
    status: LetterStatus = "dead"
    answer: str | None = None
    """The vendor's own, its beginning, without our secrets; None where it gave none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterFilter:
    """Which dead letters are meant: those that fit everything that is given; None fits any."""

    id: str | None = None
    """Whole."""
    status: LetterStatus | None = None
    is_open: bool = False
    """Without those that have been replayed."""
    destination: str | None = None
    """An empty text: rule errors, which have none."""
    kind: LetterKind | None = None
    rule: str | None = None
    event: str | None = None
    """A shell glob, case and all."""
    table: str | None = None
    """With its schema or without."""
    since: str | None = None
    """Of `DeadLetter.created_at`, and in its form (`rfc3339`); included."""
    until: str | None = None
    """Likewise; not included."""
    reason: str | None = None
    """A part of it, case and all."""
    up_to: int | None = None
    """Stored no later than `StateStore.last_letter` was when it gave this."""


@dataclass(frozen=True, slots=True)
class LetterCount:
    """How many dead letters of one kind a destination has in one status."""

    destination: str
    kind: LetterKind
    status: LetterStatus
    count: int
    oldest: str
    """`created_at` of the oldest."""


@dataclass(frozen=True, slots=True)
class LetterBound:
    """How many dead letters may be kept, and what happens beyond."""

    max_letters: int
    at_bound: Literal["hold", "shed"]
    """
    ``hold``: `StateStore.add` takes no more, and what makes them waits. ``shed``: the oldest are dropped and recorded
    as a gap. Either way those that have been replayed make room first.
    """


@dataclass(frozen=True, slots=True)
class Gap:
    """Changes that were not delivered and will not be."""

    from_lsn: LSN
    to_lsn: LSN | None
    """None: nobody knows how far."""
    reason: str
    """One word, such as ``slot_lost``."""
    detail: str
    at: str = ""
    """RFC 3339; set when it is recorded."""
    events: int | None = None
    """How many events, or changes that would have made some; None: nobody knows."""


def rfc3339(moment: datetime) -> str:
    """A moment with its time zone in the one form that is stored, and that sorts as text: UTC, to the millisecond."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class StateStore(Protocol):
    """
    Where state is kept. Every method raises `StateError`, with a remedy, when the store cannot be read or written.
    """

    def identity(self) -> SourceIdentity | None:
        """The server the positions belong to; None before the first run."""
        ...

    def set_identity(self, identity: SourceIdentity) -> None:
        """Note which server the positions belong to."""
        ...

    def cursors(self) -> dict[str, Cursor]:
        """Every known destination's position, those no longer configured included."""
        ...

    def save_cursors(self, cursors: Mapping[str, Cursor]) -> None:
        """
        Store positions, all of them or none.

        Raises:
            CheckpointRegression: One would go back.
        """
        ...

    def rebase(self, identity: SourceIdentity, lsn: LSN) -> None:
        """
        Count positions anew, in one piece: after a change of mode the next source has positions of its own.

        Every known destination stands at `lsn` afterwards, forwards or back, and keeps its mark. Only for when all that
        was read is durable everywhere.

        Args:
            identity: The source that is read from now on.
            lsn: Where it begins.
        """
        ...

    def add(self, letters: Sequence[DeadLetter]) -> None:
        """
        Store dead letters, from the first to the last; returns when all are on disk.

        One that is there already (same id and destination) is not stored twice and takes no room; one that was to be
        replayed is dead again, with its new reason and answer. Without a bound all are stored or none.

        Raises:
            DeadLettersFull: At the bound, and what was given first is stored, as far as there was room.
        """
        ...

    def dead_letters(
        self, *, status: LetterStatus | None = "dead", limit: int | None = None, destination: str | None = None
    ) -> list[DeadLetter]:
        """Dead letters, oldest first; None stands for any."""
        ...

    def find_letters(self, chosen: LetterFilter, *, limit: int | None = None) -> Iterator[DeadLetter]:
        """Dead letters, oldest first, read a page at a time: one that changes meanwhile may come as it is then."""
        ...

    def ids_beginning(self, beginning: str, chosen: LetterFilter) -> list[str]:
        """The first two ids among these letters that begin so; one, if it fits exactly one."""
        ...

    def count_letters(self, chosen: LetterFilter) -> int:
        """How many fit."""
        ...

    def count_dead_letters(self, status: LetterStatus) -> int:
        """How many there are."""
        ...

    def letter_counts(self) -> list[LetterCount]:
        """How many there are of each kind at each destination, and since when."""
        ...

    def last_letter(self) -> int:
        """Stands for the newest letter (`LetterFilter.up_to`); 0 where there is none."""
        ...

    def mark_letters(
        self,
        chosen: LetterFilter,
        status: LetterStatus,
        *,
        reason: str | None = None,
        limit: int | None = None,
        told: Callable[[int], object] = int,
    ) -> int:
        """
        Give dead letters another status, oldest first, some at a time.

        Args:
            chosen: Which.
            status: From now on.
            reason: From now on; None: as before.
            limit: At most so many.
            told: Called with a number of letters that have been marked, again and again.

        Returns:
            How many were.
        """
        ...

    def drop_letters(
        self, chosen: LetterFilter, *, limit: int | None = None, told: Callable[[int], object] = int
    ) -> int:
        """Forget dead letters, as `mark_letters` marks them."""
        ...

    def finish_replay(self, letters: Sequence[DeadLetter]) -> int:
        """
        Mark these as replayed, unless they are dead again or dropped.

        Returns:
            How many were.
        """
        ...

    def record_gap(self, gap: Gap) -> None:
        """
        Note changes that will not be delivered; one that differs only in its time is the same gap, met again.

        One that says how many `events` adds to the one of the same reason and detail, which reaches over both.
        """
        ...

    def gaps(self) -> list[Gap]:
        """Every gap on record, oldest first."""
        ...

    def exclusive(self) -> AbstractContextManager[None]:
        """
        Hold the store for the one pipeline that runs over it; let go when the process dies, however it dies.

        Raises:
            StateError: Another process holds it; says which.
        """
        ...

    def is_held(self) -> bool:
        """Whether a pipeline runs over it now, in any process."""
        ...

    def close(self) -> None:
        """Let go of the file or connection; calling it twice is harmless."""
        ...
