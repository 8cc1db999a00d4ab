"""
Turns PostgreSQL row changes into events that mean something, and delivers them.

`Pipeline`, `changes` and `events` are for programs that run it themselves (`wal_tracker.embed`); they are imported when
they are first asked for, so that ``import wal_tracker`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wal_tracker.embed import Pipeline, changes, events

    __version__: str

__all__ = ["Pipeline", "__version__", "changes", "events"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("wal_tracker")
    if name in __all__:
        from wal_tracker import embed

        return getattr(embed, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
