"""What an answer at the terminal means."""

from __future__ import annotations

import pytest

from tests.support.tables import table
from wal_tracker.cli.choose import picked, split
from wal_tracker.errors import ConfigError

TABLES = [
    table("invoices", {"id": "int"}, schema="billing"),
    table("7", {"id": "int"}),
    table("orders", {"id": "int"}),
    table("orders", {"id": "int"}, schema="archive"),
    table("users, old", {"id": "int"}),
    table("1", {"id": "int"}, schema="only.here"),
]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("1", [0]),
        ("1,3-5", [0, 2, 3, 4]),
        (" 2 - 3 , 1 ", [0, 1, 2]),
        ("orders", [2]),
        ("archive.orders, 1", [0, 3]),
        ("invoices", [0]),
        ('"7"', [1]),
        ('"users, old", 1', [0, 4]),
        ('"only.here"."1"', [5]),
        ("1,1,1-2", [0, 1]),
        ("all", [2]),
        ("", [2]),
    ],
)
def test_an_answer_names_tables(answer: str, expected: list[int]) -> None:
    """By numbers, ranges and names, in the order of the list, each once."""
    assert picked(TABLES, answer, preferred=[TABLES[2]]) == [TABLES[number] for number in expected]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("0", "tables 1 to 6"),
        ("3-2", "tables 1 to 6"),
        ("1-99", "tables 1 to 6"),
        ("ordersz", "did you mean"),
        ("a.b.c", "is not a table"),
        (",", "names no table"),
        ("1 2", "there is no table 1 2"),
    ],
)
def test_an_answer_that_is_not_understood_says_why(answer: str, told: str) -> None:
    """For the next try."""
    with pytest.raises(ConfigError, match=told):
        picked(TABLES, answer, preferred=[])


def test_a_comma_in_quotes_does_not_separate() -> None:
    """It belongs to the name."""
    assert split('a, "b, ""c"", d" ,e.f') == ["a", '"b, ""c"", d"', "e.f"]
