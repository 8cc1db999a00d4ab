"""How variables are written, and what is said when one is missing."""

from __future__ import annotations

import pytest

from wal_tracker.config.environment import Unexpandable, expand, unbraced

ENV = {"SET": "value", "EMPTY": "", "PRICE": "$5 ${SET}"}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$SET", "value"),
        ("${SET}", "value"),
        ("a ${SET} b ${SET}", "a value b value"),
        ("${UNSET:-other}", "other"),
        ("${EMPTY:-other}", "other"),
        ("${SET:-other}", "value"),
        ("${UNSET:-}", ""),
        ("${UNSET:-${SET}}", "value"),
        ("${UNSET:-${EMPTY:-deep}}", "deep"),
        ("${SET:-${UNSET}}", "value"),
        ("${UNSET:-a:-b}", "a:-b"),
        ("$PRICE", "$5 ${SET}"),
        ("pre$SET", "pre$SET"),
        ("$SET post", "$SET post"),
        ("5$", "5$"),
        ("$1", "$1"),
        ("$$SET", "$SET"),
        ("$${SET}", "${SET}"),
        ("", ""),
    ],
)
def test_a_scalar_is_expanded(text: str, expanded: str) -> None:
    """`$VAR` whole, `${VAR}` anywhere, defaults, `$$`; everything else stands for itself."""
    assert expand(text, ENV) == expanded


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("$UNSET", "UNSET is not set"),
        ("${UNSET}", "UNSET is not set"),
        ("a ${EMPTY}", "EMPTY is empty"),
        ("${UNSET:-${EMPTY}}", "EMPTY is empty"),
        ("${SET", "not closed"),
        ("${SET:-x", "not closed"),
        ("${SET-x}", "not closed or not understood"),
        ("${1}", "not understood"),
        ("${}", "not understood"),
    ],
)
def test_what_cannot_be_expanded_names_the_variable(text: str, says: str) -> None:
    """Unset and empty are both errors: an empty password is never meant."""
    with pytest.raises(Unexpandable, match=says):
        expand(text, ENV)


def test_a_variable_that_is_not_text_is_refused() -> None:
    """Bytes that are not UTF-8 would only fail where they are sent."""
    with pytest.raises(Unexpandable, match="not UTF-8"):
        expand("$A", {"A": b"\xff".decode(errors="surrogateescape")})


@pytest.mark.parametrize(
    ("text", "name"),
    [("pre$SET", "SET"), ("$SET post", "SET"), ("$SET", None), ("${SET}", None), ("$$SET", None), ("5$", None)],
)
def test_a_dollar_sign_that_may_be_meant_as_a_variable_is_found(text: str, name: str | None) -> None:
    """So that it can be warned of."""
    assert unbraced(text) == name
