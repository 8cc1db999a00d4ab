"""
Lanes: a number that all changes of one row share, by which requests of different rows may be told apart.

A row is known by its replica identity, and under FULL by its primary key. An update that changes that key belongs to
two rows and a truncate to all of them: they have no lane, and nothing passes them (`wal_tracker.delivery.lanes`). Nor
has an event that says something of a person or a group: another row may say something else of the same, and the last
word is to stand. The number is the same in every process, because a spool keeps it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from wal_tracker.decode.base import Direct
from wal_tracker.model import Change, Event, Item, Op, Relation, ReplicaIdentity, RowEvent

LaneOf = Callable[[Change], "int | None"]


def key_of(relation: Relation, primary_key: Sequence[str]) -> tuple[str, ...]:
    """
    The columns a row of the relation is known by; none where there are none.

    Args:
        relation: As the stream describes it.
        primary_key: As the catalog has it.
    """
    return tuple(primary_key) if relation.replica_identity is ReplicaIdentity.FULL else relation.key


def lane_function(table: str, key: Sequence[str]) -> LaneOf:
    """
    What gives a change its lane, or None.

    Args:
        table: ``schema.table``.
        key: The columns a row is known by; without any, all rows of the table share a lane.
    """
    seed = zlib.crc32(table.encode())

    def lane(change: Change) -> int | None:
        if change.op == "truncate":
            return None
        old, new = change.old, change.new
        row = new if new is not None else old
        if not key or row is None:
            return seed
        try:
            values = [row[column] for column in key]
        except KeyError:
            return None
        if new is not None and old is not None and any(old.get(column, new[column]) != new[column] for column in key):
            return None
        return zlib.crc32(repr(values).encode(), seed)

    return lane


def is_of_its_row(event: Event) -> bool:
    """Whether what it says is of its row alone, and not of a person or a group that other rows speak of too."""
    group = event.group
    return event.identify is None and (group is None or not group.traits)


def with_lane(direct: Direct, op: Op, table: str, key: Sequence[str]) -> Direct | None:
    """
    The short cut of an operation, with the lane of what it makes; None where it cannot know it.

    Args:
        direct: The short cut.
        op: The operation.
        table: As for `lane_function`.
        key: Likewise.
    """
    if op not in ("insert", "delete"):
        return None
    seed, make, count = zlib.crc32(table.encode()), direct.make, len(direct.reads)

    def make_with_lane(transaction: Any, ordinal: int, *values: Any) -> Item:
        item = make(transaction, ordinal, *values[:count])
        if type(item) is RowEvent:
            item.lane = zlib.crc32(repr(list(values[count:])).encode(), seed) if key else seed
        return item

    which = "new" if op == "insert" else "old"
    return replace(direct, reads=(*direct.reads, *((which, column) for column in key)), make=make_with_lane)
