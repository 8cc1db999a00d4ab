"""Laws of the queue, for any chunks and any limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wal_tracker.delivery import Queue
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable
from wal_tracker.testing import make_event

# Of one chunk: how many events, whether a transaction ends there, how many bytes of filling each event has.
chunks = st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.integers(0, 300)), max_size=12)


@given(
    chunks=chunks,
    max_events=st.integers(1, 12),
    max_bytes=st.integers(1, 3000),
    interleave=st.integers(1, 4),
    ends=st.booleans(),
)
def test_every_event_goes_once_in_order_and_the_position_is_the_last_boundary_passed(
    chunks: list[tuple[int, bool, int]], max_events: int, max_bytes: int, interleave: int, ends: bool
) -> None:
    """Never beyond what is durable, never inside a transaction; and at the end nothing is left behind."""
    queue = Queue(LSN(0), max_events=max_events, max_bytes=max_bytes, ends_on_boundaries=ends)
    boundaries: dict[int, int] = {0: 0}
    offered: list[Deliverable] = []
    sent: list[Deliverable] = []

    def send() -> None:
        batch = queue.cut(queue.front())
        assert 1 <= len(batch.events) <= max_events
        assert len(batch.events) == 1 or sum(len(event.to_json()) for event in batch.events) <= max_bytes
        first = len(sent)
        sent.extend(batch.events)
        before = queue.position
        assert queue.finish(batch) == (queue.position > before)
        passed = max(count for count in boundaries if count <= len(sent))
        assert (queue.position, queue.beyond) == (boundaries[passed], len(sent) - passed)
        # A boundary inside a batch is where it ends; or the batch is as full as it can be.
        assert not ends or passed <= first or passed == len(sent)

    for index, (count, is_whole, filling) in enumerate(chunks, start=1):
        first = len(offered)
        made: list[Deliverable] = [
            make_event(first + n, commit_lsn=LSN(index * 1000), properties={"text": "x" * filling})
            for n in range(count)
        ]
        offered += made
        if is_whole:
            boundaries[len(offered)] = index * 1000 + 10
        queue.add(list(made), LSN(index * 1000 + 10) if is_whole else None, 100, 0.0)
        if index % interleave == 0:
            send()
    while queue.events:
        send()

    assert sent == offered
    assert queue.wire_bytes == 0
