"""Tables a person reads."""

from __future__ import annotations

import pytest

from wal_tracker.cli import table


def test_columns_are_as_wide_as_what_stands_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Text stands to the left, numbers to the right, and no line ends in blanks."""
    table.echo(("NAME", "COUNT"), [("a", 5), ("longer", 12_000), (None, None)])
    assert capsys.readouterr().out.splitlines() == [
        "NAME    COUNT",
        "a           5",
        "longer  12000",
        "-           -",
    ]


def test_a_table_without_rows_is_its_headers(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to show is not an error."""
    table.echo(("NAME", "COUNT"), [])
    assert capsys.readouterr().out == "NAME  COUNT\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (16 << 20, "16.0 MiB"), (5 << 40, "5.0 TiB")],
)
def test_a_size_is_said_in_the_unit_that_fits(count: int | None, text: str) -> None:
    """Binary units; unknown is a dash."""
    assert table.size(count) == text
