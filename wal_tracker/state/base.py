"""
The state store port: what must survive us beside the slot.

Positions, dead letters and gaps. Whatever a method writes is on disk when it returns; everything may be called from
any thread. Only one process at a time runs a pipeline over a store (`exclusive`); any may look, or mark dead letters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
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
        Store dead letters, all of them or none.

        One that is there already (same id and destination) is not stored twice; one that was to be replayed is dead
        again, with its new reason.
        """
        ...

    def dead_letters(
        self, *, status: LetterStatus | None = "dead", limit: int | None = None, destination: str | None = None
    ) -> list[DeadLetter]:
        """Dead letters, oldest first; None stands for any. They are never dropped by themselves."""
        ...

    def count_dead_letters(self, status: LetterStatus) -> int:
        """How many there are."""
        ...

    def set_status(self, ids: Iterable[str], status: LetterStatus, *, destination: str | None = None) -> None:
        """Mark dead letters, those of one destination or of any; unknown ids are passed over."""
        ...

    def drop(self, ids: Iterable[str]) -> None:
        """Forget dead letters; unknown ids are passed over."""
        ...

    def record_gap(self, gap: Gap) -> None:
        """Note changes that will not be delivered; one that differs only in its time is the same gap, met again."""
        ...

    def end_gap(self, gap: Gap, ended: Gap) -> None:
        """Put what is known at its end in the place of a gap that was recorded when it began."""
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
