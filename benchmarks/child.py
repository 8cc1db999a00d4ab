"""
One run of the pipeline as a process of its own, so that its memory and CPU are its own.

``python -m benchmarks.child CONFIG`` reads the slot until caught up; with ``--latency`` it reads until SIGTERM and
notes for every event how long after its commit it was durable. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.measure import peak_rss_bytes
from wal_tracker import assemble
from wal_tracker.config.load import load
from wal_tracker.destinations.base import Receipt
from wal_tracker.model import Deliverable
from wal_tracker_destinations.file import File


class Watch:
    """
    Stands in front of `File.deliver` and notes when each event became durable.

    Durable means that `deliver` has returned: the lines are written and fsynced.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[float, list[str]]] = []
        """When by the clock, and the commit timestamps of the events."""
        deliver = File.deliver

        def watched(destination: File, batch: Sequence[Deliverable]) -> Receipt:
            receipt = deliver(destination, batch)
            self.batches.append((time.time(), [event.timestamp for event in batch]))
            return receipt

        File.deliver = watched  # type: ignore[method-assign, assignment]

    def latencies_ms(self, warm_up_s: float) -> list[float]:
        """Sorted; without those committed in the first `warm_up_s` seconds."""
        latencies = []
        first = None
        for durable_at, timestamps in self.batches:
            for text in timestamps:
                committed_at = datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
                first = committed_at if first is None else first
                if committed_at - first >= warm_up_s:
                    latencies.append(1000 * (durable_at - committed_at))
        return sorted(latencies)


def main(path: str, *options: str) -> None:
    """The command."""
    watch = Watch() if "--latency" in options else None
    config = load(Path(path), os.environ)
    with assemble.Run(config, apply_first=False, until_caught_up=watch is None) as job:
        signal.signal(signal.SIGTERM, lambda *_: job.pipeline.stop())
        before = time.process_time()
        begun = time.perf_counter()
        job.pipeline.run()
        wall_s = time.perf_counter() - begun
        cpu_s = time.process_time() - before
    stats = job.pipeline.stats
    result: dict[str, Any] = {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "transactions": stats.transactions,
        "changes": stats.changes,
        "events": stats.events,
        "rule_errors": stats.rule_errors,
        "peak_rss_bytes": peak_rss_bytes(),
    }
    if watch is not None:
        result["latencies_ms"] = watch.latencies_ms(warm_up_s=1.0)
        result["batches"] = len(watch.batches)
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
