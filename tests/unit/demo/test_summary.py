"""What the demo says at its end."""

from __future__ import annotations

from typing import Any

import pytest

from wal_tracker.demo.printer import Palette
from wal_tracker.demo.summary import Summary, percentile


def summary(**changed: Any) -> Summary:
    values: dict[str, Any] = {
        "seconds": 8.0,
        "committed": 1200,
        "rolled_back": 3,
        "expected": {"order_placed": 100, "user_signed_up": 60},
        "transactions": 1200,
        "changes": 3400,
        "rule_errors": 0,
        "delivered": {"order_placed": 100, "user_signed_up": 60},
        "repeated": 0,
        "latencies_us": list(range(1000, 101_000, 1000)),
        "mode": "wal",
        "unconfirmed": 0,
    }
    return Summary(**{**values, **changed})


def test_the_summary_tells_how_much_how_fast_and_that_nothing_is_missing() -> None:
    """Everything the issue asks for, once."""
    text = "\n".join(summary().lines(Palette(False), width=60))

    for said in (
        "1,200 read = 1,200 committed; 3 rolled back",
        "changes       3,400",
        "160 delivered = 160 expected, 0 twice",
        "20.0 events/s over 8.0 s",
        "p50 50.0 ms, p99 99.0 ms",
        "0 bytes unconfirmed",
        "ok  every committed change arrived, exactly once",
    ):
        assert said in text


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"delivered": {"order_placed": 99, "user_signed_up": 60}}, "order_placed: 100 expected, 99 delivered"),
        ({"delivered": {"order_placed": 100, "user_signed_up": 60, "new": 1}}, "new: 0 expected, 1 delivered"),
        ({"transactions": 1199}, "1200 transactions were committed, 1199 were read"),
        ({"repeated": 2}, "2 events arrived more than once"),
        ({"rule_errors": 1}, "1 rule errors"),
        ({"unconfirmed": 48}, "48 bytes unconfirmed"),
        ({"unconfirmed": 2, "mode": "trigger"}, "2 rows unconfirmed"),
    ],
)
def test_whatever_is_not_equal_is_a_problem_and_is_said(changed: dict[str, Any], problem: str) -> None:
    """Equal totals do not excuse an unequal part."""
    made = summary(**changed)

    assert [problem] == made.problems()
    assert f"  WRONG  {problem}" == made.lines(Palette(False), width=60)[-1]


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([], 50, None), ([7], 99, 7), ([3, 1, 2], 50, 2), (list(range(1, 101)), 99, 99), (list(range(1, 1001)), 99, 990)],
)
def test_a_percentile_is_a_value_that_was_measured(values: list[int], percent: float, expected: int | None) -> None:
    """Nearest rank: no interpolation between what never happened."""
    assert expected == percentile(values, percent)


def test_a_run_without_events_has_a_summary() -> None:
    """One second may pass without a single event."""
    text = "\n".join(summary(expected={}, delivered={}, latencies_us=[]).lines(Palette(False), width=60))

    assert "p50 -, p99 -" in text
