"""JSON lines on standard output, for pipes and for looking. See: https://jsonlines.org/"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, ClassVar

from wal_tracker.destinations.base import Limits, Mark, Receipt
from wal_tracker.model import Deliverable
from wal_tracker_destinations.lines import to_lines


class Stdout:
    """
    Writes each event as a line and flushes once per batch.

    A batch counts as delivered when the operating system has taken it; what the reader of a pipe does
    with it is beyond us. When the reader goes away, `BrokenPipeError` stops the delivery: nothing of that
    batch is confirmed.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Has no options."""

    limits = Limits(max_batch_events=5000, max_batch_bytes=4 * 1024 * 1024, linger_s=0.0)
    accepts_raw: ClassVar[bool] = True

    def __init__(self, name: str, config: Config) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: Empty.
        """
        self.name, self.config = name, config
        self._out: BinaryIO | None = None

    def open(self, mark: Mark | None) -> None:  # noqa: ARG002 - a stream cannot be taken back
        """Take standard output as it is now."""
        self._out = sys.stdout.buffer

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        """Write and flush; BrokenPipeError where nobody reads any more."""
        assert self._out is not None, "deliver before open"
        if batch:
            self._out.write(to_lines(batch))
            self._out.flush()
        return Receipt()

    def close(self) -> None:
        """Standard output belongs to the process; it stays open."""
        self._out = None
