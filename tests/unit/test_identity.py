"""Event ids: deterministic, UUIDv5, and different for whatever differs."""

from __future__ import annotations

import itertools
import uuid

from hypothesis import given
from hypothesis import strategies as st

from wal_tracker.identity import NAMESPACE, IdFactory, event_id

NAMES = st.text(st.characters(codec="utf-8"), max_size=12)


@given(NAMES, NAMES, NAMES, NAMES, st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_an_id_is_the_uuid5_of_the_documented_name(
    system: str, table: str, rule: str, event: str, xid: int, ordinal: int
) -> None:
    """Anybody can compute it with the standard library."""
    name = "".join(f"{len(part.encode())}:{part}," for part in (system, table, rule, event)) + f"{xid},{ordinal}"

    assert event_id(system, xid, table, ordinal, rule, event) == str(uuid.uuid5(NAMESPACE, name))


def test_the_id_of_a_known_event_never_changes() -> None:
    """What is stored at vendors was made with these very bytes; a changed id would double every event."""
    made = event_id("7395", 733, "public.users", 0, "users.insert", "user_signup")

    assert made == "5275b671-827d-5bad-ab39-f8e1d4cf67f1"


def test_names_that_join_alike_are_told_apart() -> None:
    """No way to move a character from one part to the next gives the same id."""
    parts = ["", "a", "ab", "1:a,", "a,1:b", "b", "0:,"]
    ids = [IdFactory("s", rule, event, table).id(1, 2) for table, rule, event in itertools.product(parts, repeat=3)]

    assert len(ids) == len(set(ids))


def test_numbers_that_join_alike_are_told_apart() -> None:
    """Change 23 of transaction 1 is not change 3 of transaction 12."""
    factory = IdFactory("s", "r", "e", "t")

    assert factory.id(1, 23) != factory.id(12, 3)
