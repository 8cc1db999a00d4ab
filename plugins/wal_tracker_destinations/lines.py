"""JSON lines: one event a line, UTF-8, ``\\n`` after each. See: https://jsonlines.org/"""

from __future__ import annotations

from collections.abc import Sequence

from wal_tracker.model import Deliverable


def to_lines(batch: Sequence[Deliverable]) -> bytes:
    """The batch as JSON lines; JSON has no raw line end inside, so a line is an event."""
    lines = [event.to_json() for event in batch]
    lines.append(b"")
    return b"\n".join(lines)
