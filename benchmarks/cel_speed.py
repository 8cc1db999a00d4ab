"""
How fast expressions run, in µs for one evaluation. By hand: ``python benchmarks/cel_speed.py``. No network, no files.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from wal_tracker import cel
from wal_tracker.model import EXACT
from wal_tracker.pgtypes import CelType

_COLUMNS: dict[str, CelType] = {
    "id": "int",
    "email": "string",
    "name": "string",
    "status": "string",
    "vip": "bool",
    "price": "double",
    "rate": "numeric",
    "meta": "json",
    "at": "timestamp",
}
_NEW = {
    "id": 7,
    "email": "kim@example.org",
    "name": "Kim",
    "status": "accepted",
    "vip": True,
    "price": 9.5,
    "rate": 1.5,
    "meta": {"tags": ["x", "y"], "n": 3},
    "at": datetime(2026, 1, 2, tzinfo=timezone.utc),
}
_NEW |= {EXACT + name: value for name, value in _NEW.items()}
_OLD = {**_NEW, "status": "open"}
_PARAMETERS = ("new", "old", "change", "ctx", "message")
_EXPRESSIONS = (
    "new.email",
    "old.status != new.status && new.status == 'accepted' ? events.joined : null",
    "new.vip && new.price > 5.0",
    "new.id + 1",
    "new.rate * 2",
    "new.meta.tags.exists(t, t == 'y')",
    "new.status in ['accepted', 'open']",
    "new.email.matches('^[a-z]+@')",
    "{'id': new.id, 'tags': new.meta.tags}",
    "has(new.meta.none) ? new.meta.none : null",
    "new.meta.none == 1 || true",
)


def _microseconds(call: Callable[..., Any]) -> float:
    """The best of five runs, which the machine's other work disturbs least."""
    arguments = (_NEW, _OLD, None, None, None)
    best, rounds = float("inf"), 20_000
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(rounds):
            call(*arguments)
        best = min(best, time.perf_counter() - started)
    return best / rounds * 1e6


def main() -> None:
    """Print one line for each expression, and one for five bare columns together."""
    rows = {"new": cel.row(_COLUMNS), "old": cel.row(_COLUMNS), "events": cel.events(["joined"])}
    env = cel.Environment(rows)
    for source in _EXPRESSIONS:
        is_cond = "events" in source
        program = cel.compile(source, env, emit=not is_cond, result="event" if is_cond else "any")
        print(f"{_microseconds(program.function(_PARAMETERS)):7.3f}  {source}")
    properties = {name: cel.compile(f"new.{name}", env, emit=True) for name in ("id", "email", "name", "status", "vip")}
    print(f"{_microseconds(cel.fuse(properties, _PARAMETERS)):7.3f}  {len(properties)} bare columns, fused")
    started = time.perf_counter()
    for _ in range(200):
        cel.compile(_EXPRESSIONS[1], env, result="event")
    print(f"{(time.perf_counter() - started) / 200 * 1e6:7.0f}  to compile the second of them")


if __name__ == "__main__":
    main()
