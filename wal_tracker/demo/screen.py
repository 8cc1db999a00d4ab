"""
The demo's destination: what the pipeline delivers is written to stdout, and counted.

It stands behind the ordinary delivery machinery like any other destination. "Durable" here means written and flushed.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, ClassVar

from wal_tracker.demo.printer import moment_of
from wal_tracker.destinations.base import Limits, Mark, Receipt
from wal_tracker.model import Deliverable


@dataclass(frozen=True, kw_only=True)
class ScreenConfig:
    """No options."""


class Screen:
    """Writes every event as one line and remembers what passed. Its counts are read when delivery has stopped."""

    Config: ClassVar[type] = ScreenConfig
    accepts_raw: ClassVar[bool] = False
    # Somebody is watching: no waiting for a fuller batch.
    limits = Limits(max_batch_events=200, linger_s=0.0)

    def __init__(
        self,
        out: BinaryIO,
        line: Callable[[Deliverable], bytes],
        *,
        on_broken: Callable[[], None],
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """
        Args:
            out: Where lines go.
            line: An event as a line, without its end.
            on_broken: Called, on the delivery's thread, when nobody reads `out` any more; see `broken`.
            clock_ns: Nanoseconds since the Unix epoch, by the clock of the machine the server runs on.
        """
        self._out = out
        self._line = line
        self._on_broken = on_broken
        self._clock_ns = clock_ns
        self._ids: set[str] = set()
        self.delivered: Counter[str] = Counter()
        """Events by name; one that came twice counts once."""
        self.repeated = 0
        """Events that had come before."""
        self.latencies_us = array("q")
        """For every event, in order: microseconds from the server's commit timestamp until the line was written."""
        self.broken = False
        """Whether stdout has gone away."""

    def open(self, mark: Mark | None) -> None:
        """Nothing to open."""

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        """Write the batch and flush it. Where nobody reads any more, it is dropped: the demo is over then."""
        try:
            self._out.write(b"".join(self._line(event) + b"\n" for event in batch))
            self._out.flush()
        except BrokenPipeError:
            self.broken = True
            self._on_broken()
            return Receipt()
        now_us = self._clock_ns() // 1000
        for event in batch:
            if event.id in self._ids:
                self.repeated += 1
                continue
            self._ids.add(event.id)
            self.delivered[event.name] += 1
            # No rule of the demo has a `timestamp` of its own, so this is the commit's.
            committed_us = round(moment_of(event.timestamp).timestamp() * 1_000_000)
            self.latencies_us.append(now_us - committed_us)
        return Receipt()

    def close(self) -> None:
        """Nothing to close: stdout is not ours."""
