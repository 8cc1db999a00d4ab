"""Full jitter, and the vendor's word as a minimum."""

from __future__ import annotations

from wal_tracker.delivery import Backoff


def largest(low: float, high: float) -> float:
    return high


def test_the_bound_doubles_up_to_the_cap() -> None:
    """0.5, 1, 2, 4 … 60."""
    backoff = Backoff(0.5, 60.0, largest)

    assert [backoff.next_s() for _ in range(10)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_wait_is_anything_below_the_bound() -> None:
    """Otherwise all clients of a recovering server come back at once."""
    waits = [Backoff(8.0, 60.0).next_s() for _ in range(200)]

    assert min(waits) < 2 < 6 < max(waits) <= 8


def test_retry_after_is_a_minimum() -> None:
    """The vendor knows when; never earlier, and later only by our own jitter."""
    backoff = Backoff(0.5, 60.0, largest)

    assert backoff.next_s(30.0) == 30.0
    assert backoff.next_s(0.0) == 1.0


def test_retry_after_is_capped() -> None:
    """A mistaken header must not stop us for a day."""
    assert Backoff(0.5, 60.0).next_s(86_400.0) == 300.0


def test_a_very_long_outage_does_not_overflow() -> None:
    """Unlimited attempts are unlimited."""
    backoff = Backoff(0.5, 60.0, largest)
    backoff.attempts = 100_000

    assert backoff.next_s() == 60.0


def test_success_begins_from_the_start() -> None:
    """The next outage is another one."""
    backoff = Backoff(0.5, 60.0, largest)
    backoff.next_s()
    backoff.reset()

    assert backoff.next_s() == 0.5
