"""What can be said of a database without asking it more."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.tables import readiness
from wal_tracker.source.survey import listed_values, obstacles_to_wal


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        ("CHECK ((status = ANY (ARRAY['a'::text, 'b'::text])))", ("a", "b")),
        (
            "CHECK (((status)::text = ANY ((ARRAY['a'::character varying, 'it''s'::character varying])::text[])))",
            ("a", "it's"),
        ),
        ("CHECK (((\"x y\")::text = ANY (ARRAY[('a'::character varying)::text, 'b'::text])))", ()),
        ("CHECK ((status <> ALL (ARRAY['a'::text, 'b'::text])))", ()),
        ("CHECK (((status = ANY (ARRAY['a'::text])) OR (other = 'b'::text)))", ()),
        ("CHECK ((length(status) > 3))", ()),
        ("CHECK ((n = ANY (ARRAY[1, 2])))", ()),
    ],
)
def test_a_check_that_lists_values_tells_them(definition: str, expected: tuple[str, ...]) -> None:
    """As pg_get_constraintdef writes `in (…)`; anything else tells nothing."""
    assert listed_values(definition) == expected


def test_a_server_that_is_ready_has_nothing_against_wal() -> None:
    """Logical, a free slot, the rights."""
    assert obstacles_to_wal(readiness(), 180001) == []


@pytest.mark.parametrize(
    ("changed", "version", "told"),
    [
        ({"wal_level": "replica"}, 180001, "wal_level is replica"),
        ({"may_replicate": False}, 180001, "'someone' may not replicate"),
        ({"may_create": False}, 180001, "may not create a publication"),
        ({"in_recovery": True}, 150004, "standby"),
    ],
)
def test_what_is_missing_for_wal_is_told(changed: dict[str, Any], version: int, told: str) -> None:
    """One line each."""
    (problem,) = obstacles_to_wal(readiness(**changed), version)
    assert told in problem


def test_a_standby_needs_no_right_to_create() -> None:
    """What is made, is made on its primary."""
    assert obstacles_to_wal(readiness(in_recovery=True, may_create=False), 160000) == []
