"""Which changes may travel at the same time: those of different rows, and of them what is said of the row alone."""

from __future__ import annotations

from typing import Any

import pytest

from wal_tracker.lsn import LSN
from wal_tracker.model import Change, Column, Group, Op, PartialRow, Relation, ReplicaIdentity, Transaction
from wal_tracker.rules.lanes import is_of_its_row, key_of, lane_function
from wal_tracker.testing import make_event

RELATION = Relation(1, "public", "items", ReplicaIdentity.DEFAULT, (Column("id", 20, is_key=True), Column("note", 25)))
OF_A_GROUP = Group("company", "a", {"name": "Acme"})


def lane(op: Op, old: dict[str, Any] | None, new: dict[str, Any] | None, *key: str) -> int | None:
    """Of a change of a table that is known by `key`."""
    transaction = Transaction(1, LSN(1), 0, "2026-01-02T03:04:05Z")
    return lane_function("public.items", key)(Change(transaction, RELATION, op, old, new, 0, {}))


def test_a_row_has_one_lane_for_life() -> None:
    """Whatever happens to it, and whether its old row was sent or not; another row has another."""
    made = lane("insert", None, {"id": 7, "note": "a"}, "id")

    assert made is not None
    assert lane("update", None, {"id": 7, "note": "b"}, "id") == made
    assert lane("update", {"id": 7, "note": "a"}, {"id": 7, "note": "b"}, "id") == made
    assert lane("delete", PartialRow({"id": 7}, unsent=frozenset({"note"})), None, "id") == made
    assert lane("insert", None, {"id": 8, "note": "a"}, "id") != made


def test_what_is_of_more_rows_than_one_has_no_lane() -> None:
    """A key that changes joins two rows; a truncate is of all; an unknown key is of any."""
    assert lane("update", {"id": 7}, {"id": 8}, "id") is None
    assert lane("truncate", None, None, "id") is None
    assert lane("delete", PartialRow({}, unsent=frozenset({"id"})), None, "id") is None


def test_rows_without_a_key_share_a_lane() -> None:
    """Nobody can tell them apart."""
    first = lane("insert", None, {"note": "a"})

    assert first is not None and lane("insert", None, {"note": "b"}) == first


def test_under_full_a_row_is_known_by_its_primary_key() -> None:
    """The replica identity would be every column, and change with each."""
    columns = (Column("id", 20, is_key=True), Column("n", 20, is_key=True))
    full = Relation(1, "public", "items", ReplicaIdentity.FULL, columns)

    assert key_of(full, ["id"]) == ("id",)
    assert key_of(RELATION, ["note"]) == ("id",)


@pytest.mark.parametrize(
    ("told", "is_alone"),
    [
        ({}, True),
        ({"group": Group("company", "a", {})}, True),
        ({"identify": {"plan": "pro"}}, False),
        ({"group": OF_A_GROUP}, False),
        ({"identify": {"plan": "pro"}, "group": OF_A_GROUP}, False),
    ],
)
def test_what_is_said_of_a_person_or_a_group_is_said_by_other_rows_too(told: dict[str, Any], is_alone: bool) -> None:
    """The last word is to stand; that it belongs to a group is no word about the group."""
    assert is_of_its_row(make_event(1, **told)) is is_alone
