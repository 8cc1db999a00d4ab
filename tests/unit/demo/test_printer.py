"""Events as a person sees them."""

from __future__ import annotations

import re
from datetime import timezone
from typing import Any

import orjson
import pytest

from wal_tracker.demo.printer import EventPrinter, Palette, colours_wanted, moment_of, value_text
from wal_tracker.model import Event


def event(name: str = "order_placed", *, who: str | None = "17", xid: int = 7, **properties: Any) -> Event:
    source = {"op": "update", "schema": "public", "table": "orders", "xid": xid}
    return Event(f"{name}-{xid}", name, who, "2026-01-02T12:04:31.482900Z", properties, source)


def printer(*, width: int = 100, colours: bool = False) -> EventPrinter:
    return EventPrinter(Palette(colours), width=width, zone=timezone.utc)


def test_a_line_tells_when_who_what_and_the_properties() -> None:
    """Columns stand under their headings."""
    made = printer()

    assert made.heading() == "committed       who  event                   properties"
    assert (
        made.line(event(order=23, total=orjson.Fragment(b"129.90")))
        == "12:04:31.482     17  order_placed            order=23  total=129.90"
    )


def test_only_the_first_event_of_a_transaction_tells_the_time() -> None:
    """What was committed together is seen together."""
    made = printer()

    lines = [made.line(event(xid=xid)) for xid in (7, 7, 8)]

    assert [line[:12] for line in lines] == ["12:04:31.482", "            ", "12:04:31.482"]


def test_the_id_that_is_already_told_as_who_is_not_told_again() -> None:
    """`user_id` and `id` are left out where they repeat the distinct_id, and only there."""
    assert printer().line(event(user_id=17, order=17)).endswith("order_placed            order=17")
    assert "user_id=18" in printer().line(event(user_id=18))


def test_an_event_about_nobody_leaves_the_column_empty() -> None:
    """No distinct_id is nobody, not "None"."""
    assert printer().line(event(who=None, sku="TEA")) == "12:04:31.482         order_placed            sku=TEA"


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_a_line_fits_the_screen(width: int) -> None:
    """Properties that have no room are left out, visibly."""
    line = printer(width=width).line(event(**{f"property_{n}": "x" * 20 for n in range(8)}))

    assert len(line) <= width
    assert line.endswith("…")


def test_a_null_is_left_out() -> None:
    """There is little room, and it says nothing."""
    assert printer().line(event(order=1, coupon=None)).endswith("order=1")


def test_long_names_widen_their_column() -> None:
    """A later line stands under the widest one seen."""
    made = printer()
    long = made.line(event("a_name_that_is_longer_than_the_column", a=1))
    short = made.line(event("short", a=1))

    assert long.index("a=1") == short.index("a=1")


def test_colours_change_nothing_but_colour() -> None:
    """Without the escape sequences, a coloured line is the plain line."""
    plain, coloured = printer().line(event(order=23)), printer(colours=True).line(event(order=23))

    assert "\033[" in coloured
    assert "\033[" not in plain
    assert plain == re.sub(r"\033\[[0-9;]*m", "", coloured)


def test_a_table_keeps_its_colour() -> None:
    """Two events of one table look alike, two tables do not."""
    made = printer(colours=True)
    other = event("x")
    other.source["table"] = "users"
    codes = [re.findall(r"\033\[(\d+)m(?=order_placed|x)", made.line(e))[0] for e in (event(), other, event())]

    assert codes[0] == codes[2] != codes[1]


@pytest.mark.parametrize(
    ("is_terminal", "environ", "wanted"),
    [
        (True, {"TERM": "xterm"}, True),
        (False, {"TERM": "xterm"}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_of_people_who_want_them(
    is_terminal: bool, environ: dict[str, str], wanted: bool
) -> None:
    """NO_COLOR holds when it is not empty (no-color.org)."""
    assert wanted is colours_wanted(is_terminal, environ)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a@example.org", "a@example.org"),
        ("Zoë", "Zoë"),
        ("two words", '"two words"'),
        ("", '""'),
        (None, "null"),
        (True, "true"),
        (12, "12"),
        ([1, "a"], '[1,"a"]'),
        (orjson.Fragment("10.50"), "10.50"),
        ("\033[31mred", '"\\u001b[31mred"'),
        ("a\x9b31m", '"a�31m"'),
        ("x" * 50, "x" * 39 + "…"),
    ],
)
def test_a_value_is_one_printable_piece(value: Any, text: str) -> None:
    """Whatever a row holds, it cannot steer the terminal."""
    assert text == value_text(value)


def test_a_timestamp_without_fraction_is_a_moment_too() -> None:
    """Commit times have six digits or none."""
    assert (moment_of("2026-01-02T12:04:31.500000Z") - moment_of("2026-01-02T12:04:31Z")).total_seconds() == 0.5
