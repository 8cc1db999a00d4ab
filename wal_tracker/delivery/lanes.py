"""
Which events may travel at the same time: those of different rows. Pure.

An event's *lane* is a number that all events of one row share (`wal_tracker.rules.lanes`). Events of one lane keep
their order; an event without a lane keeps its place among all of them: what is before it is durable before it is
sent, and it is before what follows is.
"""

from __future__ import annotations

from collections.abc import Sequence

from wal_tracker.model import Deliverable


def lane_of(event: Deliverable) -> int | None:
    """The event's lane; None where it has none, and so a place among all."""
    return getattr(event, "lane", None)


def abreast(events: Sequence[Deliverable], width: int, max_events: int) -> list[list[Deliverable]]:
    """
    The beginning of `events` that may travel abreast, shared out to at most `width` ways, each in order.

    Either every event of it has a lane, or none has and there is one way. Taken together the ways hold a beginning of
    `events`, never one with a hole in it. It ends where a way would need a second batch: few of the rest would be in
    it, and the others would wait for them.

    Args:
        events: At least one, oldest first.
        width: At least 1.
        max_events: Of one batch; of a single way there may be more.
    """
    laned = lane_of(events[0]) is not None
    end = next((index for index, event in enumerate(events) if (lane_of(event) is not None) != laned), len(events))
    if not laned or width == 1:
        return [list(events[:end])]
    ways: dict[int, list[Deliverable]] = {}
    for event in events[:end]:
        way = ways.setdefault((lane_of(event) or 0) % width, [])
        if len(way) == max_events:
            break
        way.append(event)
    return list(ways.values())


def batches(events: Sequence[Deliverable], max_events: int, max_bytes: int) -> list[Sequence[Deliverable]]:
    """
    Cut one way into batches within a destination's limits; a single event that is larger goes alone.

    Args:
        events: Oldest first; each can be written as JSON.
        max_events: Of one batch.
        max_bytes: Of one batch's events as JSON.
    """
    cut: list[Sequence[Deliverable]] = []
    begin = size = 0
    for index, event in enumerate(events):
        more = len(event.to_json())
        if index > begin and (index - begin >= max_events or size + more > max_bytes):
            cut.append(events[begin:index])
            begin, size = index, 0
        size += more
    cut.append(events[begin:])
    return cut
