"""
The state store's operations, in statements both SQLite and PostgreSQL understand (sql/state/statements.sql).

A subclass gives the connection: one transaction at a time, durable when it ends, vendor errors translated.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timezone
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

from wal_tracker.errors import CheckpointRegression, DeadLettersFull, StateError
from wal_tracker.failpoints import hit
from wal_tracker.lsn import LSN
from wal_tracker.state.base import (
    Cursor,
    DeadLetter,
    Gap,
    LetterBound,
    LetterCount,
    LetterFilter,
    LetterStatus,
    Place,
    SourceIdentity,
    Spooled,
    rfc3339,
)

logger = logging.getLogger("wal_tracker.state")

SCHEMA_VERSION = 2

# Letters read into memory at a time.
PAGE = 500
# Letters marked or dropped in one transaction, and then somebody else may write: `run` waits for the same lock.
PIECE = 1000

_SHED = "dead_letters_shed"


class Execute(Protocol):
    """Runs a statement by its name, with the conditions it is to hold at ``{chosen}``, and gives its rows."""

    def __call__(
        self, statement: str, values: Mapping[str, Any], chosen: tuple[str, ...] = ()
    ) -> list[tuple[Any, ...]]: ...


def read_script(name: str) -> str:
    """A file of sql/state."""
    return files("wal_tracker.sql").joinpath(f"state/{name}").read_text("utf-8")


def _read_statements() -> dict[str, str]:
    parts = re.split(r"^-- (\w+) --$", read_script("statements.sql"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], (text.strip() for text in parts[2::2]), strict=True))


_STATEMENTS = _read_statements()


@cache
def statement_text(name: str, chosen: tuple[str, ...]) -> str:
    """A statement of statements.sql, with conditions of the same file."""
    conditions = "\n   and ".join(_STATEMENTS[f"chosen_{condition}"] for condition in chosen)
    return _STATEMENTS[name].replace("{chosen}", conditions or "true")


class SqlStateStore(ABC):
    """A state store over a SQL connection."""

    def __init__(self, bound: LetterBound | None) -> None:
        """
        Args:
            bound: Of dead letters; None: there is none.
        """
        self._lock = threading.RLock()
        self._bound = bound
        # At least as many letters as there are: others drop some, and only this process adds any.
        self._kept: int | None = None

    @abstractmethod
    def _transaction(self, *, writes: bool = True) -> AbstractContextManager[Execute]:
        """
        One transaction, alone on the connection; committed, and on disk, when left without an exception.

        Args:
            writes: False: only reads, and is in nobody's way.
        """

    def _glob(self, pattern: str) -> str:
        """A shell glob as the database's own operator for it has it."""
        return pattern.replace("[!", "[^")

    @abstractmethod
    def exclusive(self) -> AbstractContextManager[None]:
        """See `StateStore`."""

    @abstractmethod
    def is_held(self) -> bool:
        """See `StateStore`."""

    @abstractmethod
    def close(self) -> None:
        """See `StateStore`."""

    def _check_version(self, where: str, version: int) -> None:
        """
        Raises:
            StateError: A newer wal_tracker made it.
        """
        if version > SCHEMA_VERSION:
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
        piece = self._bound.max_letters if self._bound is not None else max(1, len(letters))
        for begin in range(0, len(letters), piece):
            part = letters[begin : begin + piece]
            with self._transaction() as execute:
                room = self._make_room(execute, part)
                for letter in part[:room]:
                    execute("add_dead_letter", _values(letter))
                if self._kept is not None:
                    self._kept += room
            if self._bound is not None and room < len(part):
                raise DeadLettersFull(max_letters=self._bound.max_letters, stored=begin + room)

    def _make_room(self, execute: Execute, letters: Sequence[DeadLetter]) -> int:
        """How many of these may be stored, from the first on. Only at the bound it counts and drops any."""
        if self._bound is None:
            return len(letters)
        limit = self._bound.max_letters
        if self._kept is None or self._kept + len(letters) > limit:
            ((self._kept,),) = execute("count_dead_letters", {})
            assert self._kept is not None
        if self._kept + len(letters) <= limit:
            return len(letters)
        new = [
            index
            for index, letter in enumerate(letters)
            if not execute("find_dead_letter", {"id": letter.id, "destination": letter.destination})
        ]
        # Some more than is needed now, so that one that comes at a time does not count and drop each time.
        over = self._kept + len(new) - limit
        some = max(over, limit // 100)
        if over > 0:
            over -= self._drop_oldest(execute, "replayed", some)
        if over > 0 and self._bound.at_bound == "shed":
            over -= self._drop_oldest(execute, "dead", some)
            if over > 0:
                # All wait to be sent again; were they kept, what is refused now would wait behind them for ever.
                over -= self._drop_oldest(execute, "replay", over)
        return len(letters) if over <= 0 or not new else new[max(0, len(new) - over)]

    def _drop_oldest(self, execute: Execute, status: LetterStatus, count: int) -> int:
        """Drop letters to make room; those that were not delivered are a gap in the same transaction."""
        rows = execute("oldest_dead_letters", {"status": status, "max_letters": count})
        if not rows:
            return 0
        if status != "replayed":
            today = _now()[:10]
            for destination in sorted({destination for _, destination, _ in rows}):
                lsns = [LSN.parse(lsn) for _, refused_by, lsn in rows if refused_by == destination]
                what = f"refused by {destination!r}" if destination else "rule errors"
                detail = f"on {today} dead letters were dropped at dead_letters.max_letters, the oldest first: {what}"
                _record_gap(execute, Gap(min(lsns), max(lsns), _SHED, detail, events=len(lsns)))
            logger.warning("dead letters were dropped to make room for newer ones", extra={"letters": len(rows)})
        hit("dead_letters_shed")
        execute("drop_dead_letters", {"status": status, "up_to": rows[-1][0]}, ("status", "up_to"))
        assert self._kept is not None
        self._kept -= len(rows)
        return len(rows)

    def dead_letters(
        self, *, status: LetterStatus | None = "dead", limit: int | None = None, destination: str | None = None
    ) -> list[DeadLetter]:
        """See `StateStore`."""
        return list(self.find_letters(LetterFilter(status=status, destination=destination), limit=limit))

    def find_letters(self, chosen: LetterFilter, *, limit: int | None = None) -> Iterator[DeadLetter]:
        """See `StateStore`."""
        conditions, values = self._conditions(chosen)
        after = given = 0
        while limit is None or given < limit:
            page = PAGE if limit is None else min(PAGE, limit - given)
            with self._transaction(writes=False) as execute:
                some = {**values, "after": after, "max_letters": page}
                rows = execute("page_of_dead_letters", some, (*conditions, "after"))
            for row in rows:
                yield _letter(row[1:])
            if len(rows) < page:
                return
            given += page
            after = rows[-1][0]

    def ids_beginning(self, beginning: str, chosen: LetterFilter) -> list[str]:
        """See `StateStore`."""
        conditions, values = self._conditions(chosen)
        with self._transaction(writes=False) as execute:
            rows = execute("ids_beginning", {**values, "beginning": beginning}, (*conditions, "beginning"))
        return [id for (id,) in rows]

    def count_letters(self, chosen: LetterFilter) -> int:
        """See `StateStore`."""
        conditions, values = self._conditions(chosen)
        with self._transaction(writes=False) as execute:
            ((count,),) = execute("count_dead_letters", values, conditions)
        return int(count)

    def count_dead_letters(self, status: LetterStatus) -> int:
        """See `StateStore`."""
        return self.count_letters(LetterFilter(status=status))

    def letter_counts(self) -> list[LetterCount]:
        """See `StateStore`."""
        with self._transaction(writes=False) as execute:
            rows = execute("counts_by_destination", {})
        return [LetterCount(*row) for row in rows]

    def last_letter(self) -> int:
        """See `StateStore`."""
        with self._transaction(writes=False) as execute:
            ((last,),) = execute("last_seq", {})
        return int(last)

    def mark_letters(
        self,
        chosen: LetterFilter,
        status: LetterStatus,
        *,
        reason: str | None = None,
        limit: int | None = None,
        told: Callable[[int], object] = int,
    ) -> int:
        """See `StateStore`."""
        new = {"status_after": status, "reason_after": None if reason is None else _storable(reason)}
        return self._by_pieces("mark_dead_letters", chosen, new, limit, told)

    def drop_letters(
        self, chosen: LetterFilter, *, limit: int | None = None, told: Callable[[int], object] = int
    ) -> int:
        """See `StateStore`."""
        return self._by_pieces("drop_dead_letters", chosen, {}, limit, told)

    def _by_pieces(
        self,
        statement: str,
        chosen: LetterFilter,
        new: Mapping[str, Any],
        limit: int | None,
        told: Callable[[int], object],
    ) -> int:
        """Change letters some at a time; between two pieces others may write for as long as a piece took."""
        if chosen.up_to is None:
            chosen = replace(chosen, up_to=self.last_letter())
        after = done = 0
        while limit is None or done < limit:
            piece = PIECE if limit is None else min(PIECE, limit - done)
            begun = time.monotonic()
            conditions, values = self._conditions(chosen)
            with self._transaction() as execute:
                page = {**values, "after": after, "max_letters": piece}
                seqs = [seq for (seq,) in execute("page_of_seqs", page, (*conditions, "after"))]
                if seqs:
                    some = {**values, **new, "after": after, "up_to": seqs[-1]}
                    execute(statement, some, (*conditions, "after"))
            done += len(seqs)
            told(len(seqs))
            if len(seqs) < piece:
                break
            after = seqs[-1]
            time.sleep(time.monotonic() - begun)
        return done

    def finish_replay(self, letters: Sequence[DeadLetter]) -> int:
        """See `StateStore`."""
        done = 0
        with self._transaction() as execute:
            for letter in letters:
                values = {"id": letter.id, "destination": letter.destination, "status": "replay"}
                if execute("find_dead_letter", values) == [("replay",)]:
                    new = {"status_after": "replayed", "reason_after": None}
                    execute("mark_dead_letters", {**values, **new}, ("id", "destination", "status"))
                    done += 1
        return done

    def _conditions(self, chosen: LetterFilter) -> tuple[tuple[str, ...], dict[str, Any]]:
        """The names of the conditions a filter has, and their values."""
        given = {
            "id": chosen.id,
            "status": chosen.status,
            "destination": chosen.destination,
            "kind": chosen.kind,
            "rule": chosen.rule,
            "event": None if chosen.event is None else self._glob(chosen.event),
            "table": chosen.table,
            "since": chosen.since,
            "until": chosen.until,
            "reason": chosen.reason,
            "up_to": chosen.up_to,
        }
        values = {name: value for name, value in given.items() if value is not None}
        return (*values, *(["open"] if chosen.is_open else [])), values

    def record_gap(self, gap: Gap) -> None:
        """See `StateStore`."""
        with self._transaction() as execute:
            _record_gap(execute, gap)

    def gaps(self) -> list[Gap]:
        """See `StateStore`."""
        with self._transaction() as execute:
            rows = execute("list_gaps", {})
        return [
            Gap(LSN.parse(from_lsn), None if to_lsn is None else LSN.parse(to_lsn), *rest)
            for from_lsn, to_lsn, *rest in rows
        ]


def _record_gap(execute: Execute, gap: Gap) -> None:
    from_lsn, to_lsn, events = gap.from_lsn, gap.to_lsn, gap.events
    if events is not None:
        for seq, known_from, known_to, known_events in execute(
            "find_gap", {"reason": gap.reason, "detail": gap.detail}
        ):
            from_lsn = min(from_lsn, LSN.parse(known_from))
            to_lsn = None if to_lsn is None or known_to is None else max(to_lsn, LSN.parse(known_to))
            reach = {"from_lsn": str(from_lsn), "to_lsn": None if to_lsn is None else str(to_lsn)}
            execute("extend_gap", {**reach, "seq": seq, "events": known_events + events})
            return
    reach = {"from_lsn": str(from_lsn), "to_lsn": None if to_lsn is None else str(to_lsn)}
    told = {"reason": gap.reason, "detail": gap.detail, "at": gap.at or _now(), "events": events}
    execute("add_gap", {**reach, **told})


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


def _values(letter: DeadLetter) -> dict[str, Any]:
    return {
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
        "answer": None if letter.answer is None else _storable(letter.answer),
    }


def _letter(row: tuple[Any, ...]) -> DeadLetter:
    id, destination, kind, rule, event, table, commit_lsn, commit_time, reason, payload, created_at, *rest = row
    status, answer = rest
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
        answer=answer,
    )


def _storable(text: str) -> str:
    """Without what PostgreSQL (NUL) or UTF-8 (half a pair of surrogates) cannot hold; a vendor's words may have it."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def _now() -> str:
    return rfc3339(datetime.now(timezone.utc))
