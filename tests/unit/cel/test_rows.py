"""Rows: NULL, columns the server did not send, and what a program says it reads."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.cel.rows import COLUMNS, ENVIRONMENT, FULL, NULLS, VARIABLES, failure, value_of
from wal_tracker import cel
from wal_tracker.model import EXACT, PartialRow


@pytest.mark.parametrize("column", [name for name in COLUMNS if name not in ("in", "for", "größe")])
def test_null_is_null_in_every_type(column: str) -> None:
    """NULL equals null, differs from every value, and has() says there is none."""
    assert value_of(f"new.{column} == null", NULLS) is True
    assert value_of(f"new.{column} == null", FULL) is False
    assert value_of(f"has(new.{column})", NULLS) is False
    assert value_of(f"has(new.{column})", FULL) is True
    assert value_of(f"new.{column} != old.{column}", FULL, NULLS) is True
    assert value_of(f"new.{column} == old.{column}", NULLS, NULLS) is True
    assert value_of(f"coalesce(new.{column}, old.{column}) == old.{column}", NULLS, FULL) is True


@pytest.mark.parametrize(
    ("source", "row"),
    [
        ("new.age == 0", {"age": None}),
        ("new.price == 0.0", {"price": None}),
        ("new.nick == ''", {"nick": None}),
        ("new.vip == false", {"vip": None}),
        ("dyn(new.vip) == 1", {"vip": True}),
        ("dyn(new.vip) == 0", {"vip": False}),
        ("new.extra == 1", {"extra": True}),
        ("new.extra in [1, 2]", {"extra": True}),
        ("new.extra == [1]", {"extra": [True]}),
        ("new.extra == {'a': 1}", {"extra": {"a": True}}),
    ],
)
def test_no_zero_false_or_empty_text_stands_for_another(source: str, row: dict[str, Any]) -> None:
    """Neither NULL for a type's zero, nor a bool for a number as in Python."""
    assert value_of(source, row) is False


@pytest.mark.parametrize(
    "source",
    [
        "!new.vip",
        "new.vip && true",
        "new.vip || false",
        "new.vip ? 1 : 2",
        "new.age + 1",
        "new.age < 1",
        "-new.age",
        "new.nick + 'x'",
        "new.nick.size()",
        "new.nick.startsWith('x')",
        "new.nick.matches('x')",
        "new.labels[0]",
        "new.labels.exists(l, l == 'x')",
        "'x' in new.labels",
        "new.at < change.commit_time",
        "new.rate * 2",
        "string(new.age)",
        "double(new.age)",
    ],
)
def test_computing_with_null_is_an_error(source: str) -> None:
    """Never a silent zero, and no truth in null."""
    assert "null" in failure(source, NULLS).reason


_TOASTED = PartialRow({"id": 1, "age": 30}, unchanged=frozenset({"mail"}))
_KEY_ONLY = PartialRow({"id": 1}, unsent=frozenset(COLUMNS) - {"id"})


def test_an_unchanged_column_is_unknown_and_known_to_be_unchanged() -> None:
    """Reading it fails with the remedy; asking about it does not."""
    error = failure("new.mail + '!'", _TOASTED)
    assert "did not change" in error.reason
    assert "REPLICA IDENTITY FULL" in error.reason
    assert error.column == 5
    assert value_of("has(new.mail)", _TOASTED) is False
    assert value_of("unchanged(new.mail)", _TOASTED) is True
    assert value_of("unchanged(new.id)", _TOASTED) is False
    assert value_of("unchanged(new.mail)", FULL) is False
    assert value_of("coalesce(new.mail, 'same')", _TOASTED) == "same"


@pytest.mark.parametrize("old", [FULL, _KEY_ONLY, _TOASTED])
def test_an_unchanged_column_equals_its_old_self(old: Any) -> None:
    """Whether or not the old row is known."""
    assert value_of("new.mail == old.mail", _TOASTED, old) is True
    assert value_of("new.mail != old.mail", _TOASTED, old) is False
    assert value_of("old.mail != new.mail && new.age == 30", _TOASTED, old) is False


def test_an_old_column_that_was_not_sent_fails_with_the_remedy() -> None:
    """It is never NULL, and no comparison with it has a value."""
    for source in ("old.age", "old.age != new.age", "old.age == null", "old['age'] == 30"):
        assert "ALTER TABLE … REPLICA IDENTITY FULL" in failure(source, FULL, _KEY_ONLY).reason
    assert value_of("has(old.age)", FULL, _KEY_ONLY) is False
    assert value_of("old.id", FULL, _KEY_ONLY) == 1
    assert value_of("old.age == 30 || new.vip", FULL, _KEY_ONLY) is True


def test_whole_rows_compare_by_what_is_known() -> None:
    """Unchanged columns are equal; with columns that were not sent nothing can be said."""
    assert value_of("new == old", FULL, dict(FULL)) is True
    assert value_of("new == old", {**FULL, "age": 31}, FULL) is False
    rest = {name: value for name, value in FULL.items() if name != "mail"}
    assert value_of("new == old", PartialRow(rest, unchanged=frozenset({"mail"})), FULL) is True
    assert "did not send" in failure("new == old", FULL, _KEY_ONLY).reason


def test_there_is_no_new_row_in_a_delete() -> None:
    """The row variable is null, which can be tested and not read."""
    assert value_of("new == null", None) is True
    assert value_of("new != null && new.age > 1", None) is False
    assert value_of("old == null ? 'insert' : 'update'", FULL, None) == "insert"
    assert "no such row" in failure("new.age", None).reason
    assert value_of("coalesce(new.age, old.age)", None) == 30


def test_keys_that_hold_the_emitted_form_are_no_columns() -> None:
    """They are the decoder's, and a row as a map does not show them."""
    row = {"id": 1, EXACT + "id": 1, EXACT + "price": 2}
    env = cel.Environment({"new": cel.row(None)})
    assert value_of("size(new)", row, env=env) == 1
    assert value_of("new.map(k, k)", row, env=env) == ["id"]
    assert value_of("new", row, env=env) == {"id": 1}
    with pytest.raises(cel.CelCheckError, match="NUL"):
        cel.compile(r"new['\000id']", env)


@pytest.mark.parametrize(
    ("source", "columns", "whole"),
    [
        ("new.age + old.age", {("new", "age"), ("old", "age")}, set()),
        ("has(new.mail) && unchanged(new.nick)", {("new", "mail"), ("new", "nick")}, set()),
        ("new['age'] == 1 ? new.extra.a.b : null", {("new", "age"), ("new", "extra")}, set()),
        ("change.op == 'x'", {("change", "op")}, set()),
        ("new == null", set(), set()),
        ("new", set(), {"new"}),
        ("new[old.nick]", {("old", "nick")}, {"new"}),
        ("new.all(k, k != old.nick)", {("old", "nick")}, {"new"}),
        ("new.labels.map(old, old + 'x')", {("new", "labels")}, set()),
        ("1 + 1", set(), set()),
    ],
)
def test_a_program_tells_what_it_reads(source: str, columns: set[tuple[str, str]], whole: set[str]) -> None:
    """So that nothing else is decoded."""
    program = cel.compile(source, ENVIRONMENT)
    assert program.columns == columns
    assert program.whole == whole


def test_a_program_tells_its_variables_and_type() -> None:
    """A function needs just these bound."""
    program = cel.compile("new.age > 1 && ctx.user == 5", ENVIRONMENT)
    assert program.variables == {"new", "ctx"}
    assert program.type == "bool"
    assert cel.compile("new == null", ENVIRONMENT).variables == {"new"}
    with pytest.raises(cel.CelEvaluationError, match="no value for the variable 'ctx'"):
        program.evaluate({"new": FULL})


def test_hash_is_keyed_and_the_same_for_a_number_and_its_text() -> None:
    """HMAC-SHA256 in hex; NULL stays NULL."""
    one, other = (cel.Environment(VARIABLES, hash_key=key) for key in (b"k", b"l"))
    mail = "c421a11a9e27b10522612b6cdd8b029961409c0bf8358ba736c9ae992cb4bfdc"
    assert value_of("hash(new.mail)", env=one) == mail
    assert value_of("hash(new.mail)", env=other) != mail
    assert value_of("hash(new.age)", env=one) == value_of("hash('30')", env=one)
    assert value_of("hash(new.mail)", NULLS, env=one) is None
    assert "b'k'" not in repr(one)
