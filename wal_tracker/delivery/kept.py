"""
The events that lie in spools, of all of them, in the order of their commits: what a new destination may begin with.

Every spool has them in that order and none has them all. Transactions are told apart by their commit, and what several
spools have of one is woven together: as each of them has it, and the changes of one table by their number. Such a
transaction is held in memory while that is done; one that is in a single spool is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from graphlib import TopologicalSorter
from itertools import groupby, pairwise
from typing import Any, NamedTuple

from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable


class _Commit(NamedTuple):
    """Of a transaction. Positions of one mode say nothing of another's, and clocks do, nearly."""

    mode: str
    lsn: LSN
    time: str


def in_commit_order(spools: Sequence[Iterable[Deliverable]]) -> Iterator[Deliverable]:
    """
    Every event once, each row's in order.

    Args:
        spools: Each in its order; where two have an event of the same id, that of the first of them is given.
    """
    groups = [groupby(spool, key=_commit) for spool in spools]
    heads = [next(group, None) for group in groups]
    while found := [head[0] for head in heads if head is not None]:
        first: dict[str, _Commit] = {}
        for commit in found:
            first[commit.mode] = min(commit, first.get(commit.mode, commit), key=lambda one: one.lsn)
        oldest = min(first.values(), key=lambda one: one.time)
        having = [(index, head[1]) for index, head in enumerate(heads) if head is not None and head[0] == oldest]
        if len(having) == 1:
            yield from having[0][1]
        else:
            yield from _woven([list(events) for _, events in having])
        for index, _ in having:
            heads[index] = next(groups[index], None)


def _woven(parts: Sequence[Sequence[Deliverable]]) -> Iterator[Deliverable]:
    """What several spools have of one transaction: after what each of them has before it, and its table's changes."""
    events: dict[str, Deliverable] = {}
    order: TopologicalSorter[str] = TopologicalSorter()
    tables: dict[Any, dict[int, list[str]]] = {}
    for part in parts:
        before: list[str] = []
        for event in part:
            order.add(event.id, *before)
            before = [event.id]
            if event.id not in events:
                events[event.id] = event
                table, ordinal = _place(event)
                tables.setdefault(table, {}).setdefault(ordinal, []).append(event.id)
    for changes in tables.values():
        numbers = sorted(changes)
        for earlier, later in pairwise(numbers):
            for id in changes[later]:
                order.add(id, *changes[earlier])
    for id in order.static_order():
        yield events[id]


def _commit(event: Deliverable) -> _Commit:
    source = event.source
    return _Commit(source["mode"], LSN.parse(source["commit_lsn"]), event.timestamp)


def _place(event: Deliverable) -> tuple[Any, int]:
    """The table, or the messages, an event is of, and its number there in its transaction."""
    source = event.source
    return (source.get("schema"), source.get("table"), source.get("prefix")), source["ordinal"]
