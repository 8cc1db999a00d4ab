"""What must survive us: positions, dead letters, gaps. Knows no source, no destination and no rule."""

from __future__ import annotations

from pathlib import Path

from wal_tracker.errors import StateError
from wal_tracker.secret import Secret
from wal_tracker.state.base import LetterBound, StateStore

__all__ = ["open_state", "spool_directory", "store_name"]

_SQLITE = "sqlite:///"


def open_state(url: str, bound: LetterBound | None = None) -> StateStore:
    """
    Open the state store a URL names, and make it where there is none.

    Args:
        url: ``sqlite:///FILE`` (relative to the working directory; a fourth slash makes it absolute) or
            ``postgresql://…``.
        bound: Of dead letters; None, for who makes none but looks after them: there is none.

    Raises:
        StateError: It cannot be opened; says why and what to do.
    """
    text = url.reveal() if isinstance(url, Secret) else url
    if text.startswith(_SQLITE) and len(text) > len(_SQLITE):
        from wal_tracker.state.sqlite import SqliteStateStore

        return SqliteStateStore(Path(text[len(_SQLITE) :]), bound)
    if text.startswith(("postgresql://", "postgres://")):
        from wal_tracker.state.postgres import PostgresStateStore

        return PostgresStateStore(text, bound)
    raise StateError("`state` names no store; write sqlite:///FILE or postgresql://user@host/database")


def spool_directory(url: str) -> Path | None:
    """
    Where spools lie beside a state store: in a folder next to its file.

    None beside one in PostgreSQL: that is chosen where a local disk does not last, and what is spooled must.
    """
    text = url.reveal() if isinstance(url, Secret) else url
    return Path(text[len(_SQLITE) :] + ".spool") if text.startswith(_SQLITE) else None


def store_name(url: str) -> str:
    """What tells a state store from another one: the file with its whole path, or the database; no password."""
    text = url.reveal() if isinstance(url, Secret) else url
    if text.startswith(_SQLITE):
        return str(Path(text[len(_SQLITE) :]).resolve())
    from wal_tracker.state.postgres import described

    return described(text)
