"""
The events that lie in spools, of all of them, in the order of their commits: what a new destination may begin with.

Every spool has them in that order and none has them all. Transactions are told apart by their commit, and what several
spools have of one is woven together: as each of them has it, and the changes of one table by their number. Such a
transaction is held in memory while that is done; one that is in a single spool is not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
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
            woven: list[Deliverable] = []
            for _, events in having:
                woven = list(_woven(woven, events))
            yield from woven
        for index, _ in having:
            heads[index] = next(groups[index], None)


def _woven(first: Sequence[Deliverable], second: Iterable[Deliverable]) -> Iterator[Deliverable]:
    """What two spools have of one transaction."""
    index_of = {event.id: index for index, event in enumerate(first)}
    ordinals: dict[Any, tuple[list[int], list[int]]] = {}
    for index, event in enumerate(first):
        table, ordinal = _place(event)
        numbers, indexes = ordinals.setdefault(table, ([], []))
        numbers.append(ordinal)
        indexes.append(index)
    given = 0
    for event in second:
        same = index_of.get(event.id)
        if same is not None:
            until = same + 1
        else:
            table, ordinal = _place(event)
            numbers, indexes = ordinals.get(table, ([], []))
            before = bisect_left(numbers, ordinal)
            until = indexes[before - 1] + 1 if before else 0
        if until > given:
            yield from first[given:until]
            given = until
        if same is None:
            yield event
    yield from first[given:]


def _commit(event: Deliverable) -> _Commit:
    source = event.source
    return _Commit(source["mode"], LSN.parse(source["commit_lsn"]), event.timestamp)


def _place(event: Deliverable) -> tuple[Any, int]:
    """The table, or the messages, an event is of, and its number there in its transaction."""
    source = event.source
    return (source.get("schema"), source.get("table"), source.get("prefix")), source["ordinal"]
