"""How batches are cut from chunks, and which positions become true."""

from __future__ import annotations

from wal_tracker.delivery import Queue
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable
from wal_tracker.testing import make_event


def events(*numbers: int) -> list[Deliverable]:
    return [make_event(number) for number in numbers]


def drain(queue: Queue) -> list[tuple[list[int], int]]:
    """Every batch, and the position after it."""
    seen = []
    while queue.events:
        batch = queue.cut(queue.front())
        queue.finish(batch)
        seen.append(([event.properties["number"] for event in batch.events], int(queue.position)))
    return seen


def test_chunks_are_joined_up_to_the_count_and_cut_back_to_a_boundary() -> None:
    """A batch that always ended inside a chunk would never move the position."""
    queue = Queue(LSN(0), max_events=5, max_bytes=10**6)
    queue.add(events(1, 2), LSN(20), 1, 0.0)
    queue.add(events(3, 4), LSN(30), 1, 0.0)
    queue.add(events(5, 6), LSN(40), 1, 0.0)
    queue.add(events(*range(7, 19)), LSN(50), 1, 0.0)

    assert drain(queue) == [
        ([1, 2, 3, 4], 30),
        ([5, 6], 40),
        ([7, 8, 9, 10, 11], 40),
        ([12, 13, 14, 15, 16], 40),
        ([17, 18], 50),
    ]
    assert queue.wire_bytes == 0


def test_parts_of_an_open_transaction_fill_batches_and_leave_the_position() -> None:
    """A huge transaction goes out while it is read; it is a boundary only at its end."""
    queue = Queue(LSN(7), max_events=4, max_bytes=10**6)
    queue.add(events(1, 2, 3), None, 1, 0.0)
    queue.add(events(4, 5, 6), None, 1, 0.0)
    queue.add(events(7), LSN(50), 1, 0.0)

    assert drain(queue) == [([1, 2, 3, 4], 7), ([5, 6, 7], 50)]


def test_progress_told_while_events_are_here_moves_the_boundary_behind_them() -> None:
    """Also when the last chunk is on its way already."""
    queue = Queue(LSN(0), max_events=4, max_bytes=10**6)
    queue.add(events(1), LSN(500), 1, 0.0)
    batch = queue.cut(queue.front())

    queue.reach(LSN(600))
    queue.finish(batch)

    assert queue.position == LSN(600)


def test_a_whole_chunk_is_handed_on_without_a_copy() -> None:
    """A hundred thousand events a second."""
    chunk = events(1, 2, 3)
    queue = Queue(LSN(0), max_events=3, max_bytes=10**6)
    queue.add(chunk, LSN(10), 1, 0.0)

    assert queue.cut(queue.front()).events is chunk
