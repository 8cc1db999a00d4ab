"""The LSN's text form, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wal_tracker.lsn import LSN


@given(st.integers(0, 2**64 - 1))
def test_text_and_back_is_the_same_position(position: int) -> None:
    """Every 64-bit position survives PostgreSQL's text form."""
    assert LSN.parse(str(LSN(position))) == position


def test_positions_compare_as_numbers_and_not_as_text() -> None:
    """0/9 is before 0/10, and FFFFFFFF is before 1/0."""
    assert LSN.parse("0/9") < LSN.parse("0/10")
    assert LSN.parse("0/FFFFFFFF") + 1 == LSN.parse("1/0")


@pytest.mark.parametrize("text", ["", "0", "0/", "/0", "0/0/0", "g/0", "0/123456789", " 0/1", "0/1\n", "-1/0", "0x1/0"])
def test_what_is_not_a_position_is_refused(text: str) -> None:
    """The error repeats the text and shows the form."""
    with pytest.raises(ValueError, match="16/B374D848"):
        LSN.parse(text)
