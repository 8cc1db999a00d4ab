"""The low-water mark over destinations."""

from __future__ import annotations

import pytest

from wal_tracker.checkpoint import Checkpoint
from wal_tracker.errors import CheckpointRegression
from wal_tracker.lsn import LSN


def test_the_slowest_destination_holds_the_mark() -> None:
    """Only what is durable everywhere may be confirmed."""
    checkpoint = Checkpoint({"fast": LSN(5), "slow": LSN(5)})

    assert checkpoint.advance("fast", LSN(20)) == 5
    assert checkpoint.advance("slow", LSN(10)) == 10


def test_a_position_that_goes_back_is_refused_and_changes_nothing() -> None:
    """It would mean that we no longer know what was delivered."""
    checkpoint = Checkpoint({"one": LSN(10)})

    with pytest.raises(CheckpointRegression, match="'one' went back from 0/A to 0/9"):
        checkpoint.advance("one", LSN(9))

    assert checkpoint.low_water == 10


def test_without_a_destination_there_is_no_checkpoint() -> None:
    """Nothing could ever be said to be durable."""
    with pytest.raises(ValueError, match="at least one"):
        Checkpoint({})
