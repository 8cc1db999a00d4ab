"""
The state store's operations, in statements both SQLite and PostgreSQL understand (sql/state/statements.sql).

A subclass gives the connection: one transaction at a time, durable when it ends, vendor errors translated.
"""

from __future__ import annotations

import json
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from importlib.resources import files
from typing import Any

from wal_tracker.errors import CheckpointRegression, StateError
from wal_tracker.lsn import LSN
from wal_tracker.state.base import Cursor, DeadLetter, Gap, LetterStatus, Place, SourceIdentity, Spooled

SCHEMA_VERSION = 1

# "No limit" in a form both databases take: more than either can hold.
_UNLIMITED = 2**62

Execute = Callable[[str, Mapping[str, Any]], list[tuple[Any, ...]]]
"""Runs a statement by its name and gives its rows."""


def read_script(name: str) -> str:
    """A file of sql/state."""
    return files("wal_tracker.sql").joinpath(f"state/{name}").read_text("utf-8")


def _read_statements() -> dict[str, str]:
    parts = re.split(r"^-- (\w+) --$", read_script("statements.sql"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], (text.strip() for text in parts[2::2]), strict=True))


STATEMENTS = _read_statements()


class SqlStateStore(ABC):
    """A state store over a SQL connection."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    @abstractmethod
    def _transaction(self) -> AbstractContextManager[Execute]:
        """One transaction, alone on the connection; committed, and on disk, when left without an exception."""

    @abstractmethod
    def exclusive(self) -> AbstractContextManager[None]:
        """See `StateStore`."""

    @abstractmethod
    def is_held(self) -> bool:
        """See `StateStore`."""

    @abstractmethod
    def close(self) -> None:
        """See `StateStore`."""

    def _check_version(self, where: str) -> None:
        with self._transaction() as execute:
            ((version,),) = execute("read_version", {})
        if version != SCHEMA_VERSION:
            raise StateError(
                f"the state in {where} has schema version {version}, and this wal_tracker knows {SCHEMA_VERSION}: "
                "a newer one made it. Use that version, or another state store"
            )

    def identity(self) -> SourceIdentity | None:
        """See `StateStore`."""
        with self._transaction() as execute:
            rows = execute("read_source", {})
        return SourceIdentity(*rows[0]) if rows else None

    def set_identity(self, identity: SourceIdentity) -> None:
        """See `StateStore`."""
        with self._transaction() as execute:
            _write_identity(execute, identity)

    def cursors(self) -> dict[str, Cursor]:
        """See `StateStore`."""
        with self._transaction() as execute:
            return _cursors(execute)

    def save_cursors(self, cursors: Mapping[str, Cursor]) -> None:
        """See `StateStore`."""
        with self._transaction() as execute:
            stored = _cursors(execute)
            for name, cursor in cursors.items():
                before = stored.get(name)
                if before is not None and cursor.lsn < before.lsn:
                    raise CheckpointRegression(
                        f"destination {name!r} stands at {before.lsn}, and {cursor.lsn} would go back"
                    )
                mark = None if cursor.mark is None else json.dumps(dict(cursor.mark))
                spool = None if cursor.spool is None else json.dumps(cursor.spool)
                execute(
                    "write_position", {"destination": name, "lsn": str(cursor.lsn), "mark": mark, "spool": spool}
                )

    def rebase(self, identity: SourceIdentity, lsn: LSN) -> None:
        """See `StateStore`."""
        with self._transaction() as execute:
            execute("rebase_positions", {"lsn": str(lsn)})
            _write_identity(execute, identity)

    def add(self, letters: Sequence[DeadLetter]) -> None:
        """See `StateStore`."""
        with self._transaction() as execute:
            for letter in letters:
                execute(
                    "add_dead_letter",
                    {
                        "id": letter.id,
                        "destination": letter.destination,
                        "kind": letter.kind,
                        "rule": letter.rule,
                        "event": _storable(letter.event),
                        "relation": letter.table,
                        "commit_lsn": str(letter.commit_lsn),
                        "commit_time": letter.commit_time,
                        "reason": _storable(letter.reason),
                        "payload": letter.payload,
                        "created_at": letter.created_at or _now(),
                    },
                )

    def dead_letters(
        self, *, status: LetterStatus | None = "dead", limit: int | None = None, destination: str | None = None
    ) -> list[DeadLetter]:
        """See `StateStore`."""
        with self._transaction() as execute:
            rows = execute(
                "list_dead_letters",
                {
                    "status": status,
                    "destination": destination,
                    "max_letters": _UNLIMITED if limit is None else limit,
                },
            )
        return [_letter(row) for row in rows]

    def count_dead_letters(self, status: LetterStatus) -> int:
        """See `StateStore`."""
        with self._transaction() as execute:
            ((count,),) = execute("count_dead_letters", {"status": status})
        return int(count)

    def set_status(self, ids: Iterable[str], status: LetterStatus, *, destination: str | None = None) -> None:
        """See `StateStore`."""
        with self._transaction() as execute:
            for id in ids:
                execute("set_dead_letter_status", {"id": id, "status": status, "destination": destination})

    def drop(self, ids: Iterable[str]) -> None:
        """See `StateStore`."""
        with self._transaction() as execute:
            for id in ids:
                execute("drop_dead_letter", {"id": id})

    def record_gap(self, gap: Gap) -> None:
        """See `StateStore`."""
        with self._transaction() as execute:
            execute(
                "add_gap",
                {
                    "from_lsn": str(gap.from_lsn),
                    "to_lsn": None if gap.to_lsn is None else str(gap.to_lsn),
                    "reason": gap.reason,
                    "detail": gap.detail,
                    "at": gap.at or _now(),
                },
            )

    def end_gap(self, gap: Gap, ended: Gap) -> None:
        """See `StateStore`."""
        with self._transaction() as execute:
            execute(
                "end_gap",
                {
                    "from_lsn": str(gap.from_lsn),
                    "reason": gap.reason,
                    "begun": gap.detail,
                    "to_lsn": None if ended.to_lsn is None else str(ended.to_lsn),
                    "detail": ended.detail,
                },
            )

    def gaps(self) -> list[Gap]:
        """See `StateStore`."""
        with self._transaction() as execute:
            rows = execute("list_gaps", {})
        return [
            Gap(LSN.parse(from_lsn), None if to_lsn is None else LSN.parse(to_lsn), *rest)
            for from_lsn, to_lsn, *rest in rows
        ]


def _write_identity(execute: Execute, identity: SourceIdentity) -> None:
    execute(
        "write_source",
        {
            "system_identifier": identity.system_identifier,
            "timeline": identity.timeline,
            "database": identity.database,
            "slot": identity.slot,
        },
    )


def _cursors(execute: Execute) -> dict[str, Cursor]:
    return {
        destination: Cursor(LSN.parse(lsn), None if mark is None else json.loads(mark), _spooled(spool))
        for destination, lsn, mark, spool in execute("read_positions", {})
    }


def _spooled(text: str | None) -> Spooled | None:
    if text is None:
        return None
    begin, end = json.loads(text)
    return Spooled(Place(*begin), Place(*end))


def _letter(row: tuple[Any, ...]) -> DeadLetter:
    id, destination, kind, rule, event, table, commit_lsn, commit_time, reason, payload, created_at, status = row
    return DeadLetter(
        id=id,
        destination=destination,
        kind=kind,
        rule=rule,
        event=event,
        table=table,
        commit_lsn=LSN.parse(commit_lsn),
        commit_time=commit_time,
        reason=reason,
        payload=bytes(payload),
        created_at=created_at,
        status=status,
    )


def _storable(text: str) -> str:
    """Without what PostgreSQL (NUL) or UTF-8 (half a pair of surrogates) cannot hold; a vendor's words may have it."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
