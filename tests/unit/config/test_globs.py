"""Which names a list of globs lets through."""

from __future__ import annotations

import pytest

from wal_tracker.config.globs import chosen


@pytest.mark.parametrize(
    ("globs", "let_through", "kept_out"),
    [
        (["*"], ["a", "", "user_signup"], []),
        (["user_*"], ["user_signup"], ["team_made", "User_signup"]),
        (["user_*", "team_?"], ["user_x", "team_a"], ["team_ab"]),
        (["[ab]*"], ["a", "bc"], ["c"]),
        (["[!ab]*"], ["c"], ["a"]),
        (["[^ab]*"], ["c"], ["a"]),
        ([], [], ["a"]),
        (["*", "!internal_*"], ["a"], ["internal_a"]),
        (["*", "!internal_*", "internal_signup"], ["internal_signup"], ["internal_a"]),
        (["!internal_*"], ["a"], ["internal_a"]),
        (["!internal_*", "internal_signup"], ["a", "internal_signup"], ["internal_a"]),
        (["user_*", "!*_test"], ["user_a"], ["user_test", "a"]),
        (["\\!odd"], ["!odd"], ["odd"]),
    ],
)
def test_the_last_glob_that_fits_decides(globs: list[str], let_through: list[str], kept_out: list[str]) -> None:
    """As in a .gitignore; a list that begins with an exclusion is everything but that."""
    assert [name for name in (*let_through, *kept_out) if chosen(globs, name)] == let_through


def test_one_name_of_several_is_enough() -> None:
    """A table is called by its name, with its schema or without; so it is taken out."""
    assert chosen(["items"], "items", "shop.items")
    assert chosen(["shop.*"], "items", "shop.items")
    assert not chosen(["*", "!shop.*"], "items", "shop.items")
    assert not chosen(["*", "!items"], "items", "shop.items")
