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


@given(chunks=chunks, max_events=st.integers(1, 12), max_bytes=st.integers(1, 3000), interleave=st.integers(1, 4))
def test_every_event_goes_once_in_order_and_the_position_is_the_last_boundary_passed(
    chunks: list[tuple[int, bool, int]], max_events: int, max_bytes: int, interleave: int
) -> None:
    """Never beyond what is durable, never inside a transaction; and at the end nothing is left behind."""
    queue = Queue(LSN(0), max_events=max_events, max_bytes=max_bytes)
    boundaries: dict[int, int] = {0: 0}
    offered: list[Deliverable] = []
    sent: list[Deliverable] = []

    def send() -> None:
        batch = queue.cut(queue.front())
        assert 1 <= len(batch.events) <= max_events
        assert len(batch.events) == 1 or sum(len(event.to_json()) for event in batch.events) <= max_bytes
        sent.extend(batch.events)
        queue.finish(batch)
        assert queue.position == max(lsn for count, lsn in boundaries.items() if count <= len(sent))

    for index, (count, ends, filling) in enumerate(chunks, start=1):
        first = len(offered)
        made: list[Deliverable] = [
            make_event(first + n, commit_lsn=LSN(index * 1000), properties={"text": "x" * filling})
            for n in range(count)
        ]
        offered += made
        if ends:
            boundaries[len(offered)] = index * 1000 + 10
        queue.add(list(made), LSN(index * 1000 + 10) if ends else None, 100, 0.0)
        if index % interleave == 0:
            send()
    while queue.events:
        send()

    assert sent == offered
    assert queue.wire_bytes == 0
