"""Laws of the checkpoint, over any order in which destinations report."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wal_tracker.checkpoint import Checkpoint
from wal_tracker.errors import CheckpointRegression
from wal_tracker.lsn import LSN

NAMES = ("a", "b", "c")
REPORTS = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 50)), max_size=60)


@given(st.fixed_dictionaries({name: st.integers(0, 20) for name in NAMES}), REPORTS)
def test_the_mark_never_goes_back_and_never_passes_a_destination(
    start: dict[str, int], reports: list[tuple[str, int]]
) -> None:
    """Whatever is reported, refused reports included, the mark is the lowest of the best that was accepted."""
    checkpoint = Checkpoint({name: LSN(lsn) for name, lsn in start.items()})
    known = dict(start)
    for name, lsn in reports:
        before = checkpoint.low_water
        try:
            checkpoint.advance(name, LSN(lsn))
        except CheckpointRegression:
            assert lsn < known[name]
        else:
            assert lsn >= known[name]
            known[name] = lsn
        assert before <= checkpoint.low_water == min(known.values())
