"""Laws of variable expansion."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wal_tracker.config.environment import Unexpandable, expand

TEXT = st.text(max_size=30)
VALUES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
ANYTHING = st.text(st.sampled_from(list("${}:-AB a")), max_size=30)


@given(TEXT)
def test_doubling_every_dollar_sign_gives_the_text_itself(text: str) -> None:
    """There is a way to write any text."""
    assert expand(text.replace("$", "$$"), {}) == text


@given(VALUES, st.sampled_from(["$A", "${A}", "${A:-x}", "${B:-${A}}"]))
def test_what_a_variable_holds_is_not_looked_at_again(value: str, form: str) -> None:
    """A password with dollar signs, braces or colons arrives as it is."""
    assert expand(form, {"A": value}) == value


@given(VALUES, TEXT, TEXT)
def test_what_stands_around_a_variable_stays(value: str, before: str, after: str) -> None:
    """Text on both sides is untouched."""
    escaped = [part.replace("$", "$$") for part in (before, after)]
    assert expand(f"{escaped[0]}${{A}}{escaped[1]}", {"A": value}) == before + value + after


@given(ANYTHING, st.dictionaries(st.sampled_from(["A", "B", "AB"]), st.text("x$", max_size=3)))
def test_any_text_is_expanded_or_refused(text: str, env: dict[str, str]) -> None:
    """No other exception, whatever is written."""
    try:
        expand(text, env)
    except Unexpandable as error:
        assert str(error)


@pytest.mark.parametrize("depth", [10, 11, 5000])
def test_defaults_in_defaults_end_somewhere(depth: int) -> None:
    """Ten levels are read; more is an error and no stack overflow."""
    text = "${A:-" * depth + "x" + "}" * depth
    if depth == 10:
        assert expand(text, {}) == "x"
    else:
        with pytest.raises(Unexpandable, match="nested deeper"):
            expand(text, {})
