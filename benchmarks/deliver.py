"""
Deliveries as a process of its own, so that its CPU is its own.

``python -m benchmarks.deliver memory SPEC`` delivers events that are in memory already to one destination;
``python -m benchmarks.deliver job CONFIG SPEC`` runs the whole job until some of its destinations have so many events.
Both read what to do from JSON, and print one JSON object.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import orjson

from wal_tracker import assemble
from wal_tracker.config.load import load
from wal_tracker.config.model import DeliveryConfig, DestinationConfig
from wal_tracker.delivery import Delivery, Spool
from wal_tracker.destinations.base import Destination, Limits, Mark, Receipt
from wal_tracker.identity import IdFactory
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable, Event
from wal_tracker.pipeline import _rare_collections
from wal_tracker.state.base import DeadLetter, Gap

ROW_BYTES = 270
"""On the wire; by it the queue is bounded, as in a run."""
BURST = 240
"""Events of a read of the pipeline: 64 KB of the wire."""


class Nothing:
    """Takes everything at once: what a delivery costs before there is a destination."""

    limits = Limits(max_batch_events=500, linger_s=0.5)
    accepts_raw: ClassVar[bool] = True

    def open(self, mark: Mark | None) -> None:
        """Nothing."""

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:  # noqa: ARG002 - nothing is done with it
        """Nothing."""
        return Receipt()

    def close(self) -> None:
        """Nothing."""


class NoLetters:
    """No event of the workload is refused; if one is, the numbers are of something else."""

    def add(self, letters: Sequence[DeadLetter]) -> None:
        raise RuntimeError(f"an event became a dead letter: {letters[0].reason}")

    def record_gap(self, gap: Gap) -> None:
        raise RuntimeError(f"there is a gap: {gap.detail}")


def events(count: int) -> list[Deliverable]:
    """What the rules of `workload.TRACK` make, by the hundred thousand."""
    ids, made = IdFactory("1", "orders.insert", "order_placed", "public.orders"), list[Deliverable]()
    for number in range(count):
        at, xid = f"2026-01-02T03:{number // 60 % 60:02}:{number % 60:02}.123456Z", 1000 + number // 4
        event = Event(
            ids.id(xid, number % 4),
            "order_placed",
            f"customer {number * 7919 % 50_000}",
            at,
            {
                "id": number,
                "user_id": f"customer {number * 7919 % 50_000}",
                "amount": orjson.Fragment(f"{number % 10_000}.50"),
                "quantity": number % 10,
                "placed_at": "2026-01-02T03:04:05.123456Z",
            },
            f'{{"op":"insert","schema":"public","table":"orders","commit_lsn":"0/{1 + xid:X}","ordinal":{number % 4},'
            f'"xid":{xid},"rule":"orders.insert","mode":"wal"}}',
        )
        event.lane = zlib.crc32(b"[%d]" % number)
        made.append(event)
    return made


def in_memory(spec: dict[str, Any]) -> dict[str, Any]:
    """One destination through a real `Delivery`."""
    kind, options = spec["kind"], spec["options"]
    settings = DeliveryConfig(max_batch_events=spec.get("max_batch_events"))
    entry = DestinationConfig(name=kind, kind=kind, options=options, delivery=settings, path=f"destinations.{kind}")
    one: Destination = Nothing() if kind == "nothing" else assemble.build_destination(entry)
    siblings = [assemble.build_destination(entry) for _ in range(1, assemble.width(entry, one))]
    waiting = events(spec["events"])
    with tempfile.TemporaryDirectory(prefix="wal_tracker_bench_") as directory, _rare_collections():
        delivery = Delivery(
            kind, one, assemble.delivery_settings(entry), NoLetters(), siblings=siblings,
            spool=Spool(Path(directory), kind, max_bytes=1 << 30),
        )  # fmt: skip
        delivery.start(LSN(0))
        begun, before = time.perf_counter(), time.process_time()
        for first in range(0, len(waiting), BURST):
            burst = waiting[first : first + BURST]
            while delivery.held_bytes > delivery.max_held_bytes and delivery.failure is None:
                time.sleep(0.002)
            delivery.offer(burst, LSN(10 * (first + 1)), ROW_BYTES * len(burst))
        if not delivery.stop(600) or delivery.delivered != len(waiting):
            raise RuntimeError("not everything was delivered") from delivery.failure
        wall_s, cpu_s = time.perf_counter() - begun, time.process_time() - before
    return {"wall_s": wall_s, "cpu_s": cpu_s, "retries": delivery.retries}


class Moment(NamedTuple):
    """How far a run was."""

    at: float
    """Monotonic seconds, which every process of a machine counts alike."""
    cpu_s: float
    delivered: int
    read: int
    """Events made."""


def job(path: str, spec: dict[str, Any]) -> dict[str, Any]:
    """
    The whole job, from the slot, until each destination of `live` has `events` events.

    Measured from when each has `warm_up`: by then a dead destination beside them has gone to its spool. With `stops`
    this process stops itself (`SIGSTOP`) at that moment.
    """
    config = load(Path(path), os.environ)
    moments: list[Moment] = []
    with assemble.Run(config, apply_first=False) as run:
        channels = {channel.config.name: channel.delivery for channel in run.pipeline._channels}
        live = [channels[name] for name in spec["live"]]

        def moment() -> Moment:
            usage = resource.getrusage(resource.RUSAGE_SELF)
            delivered = min(delivery.delivered for delivery in live)
            return Moment(time.monotonic(), usage.ru_utime + usage.ru_stime, delivered, run.pipeline.stats.events)

        def goes_on(count: int) -> bool:
            return moment().delivered < count and not any(delivery.failure for delivery in channels.values())

        def watch() -> None:
            while goes_on(spec["warm_up"]):
                time.sleep(0.01)
            if spec.get("stops"):
                os.kill(os.getpid(), signal.SIGSTOP)
            moments.append(moment())
            while goes_on(spec["events"]):
                time.sleep(0.02)
                moments.append(moment())
            run.pipeline.stop()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        run.pipeline.run()
        watcher.join(10)
    stats = run.pipeline.stats
    return {
        "wall_s": moments[-1].at - moments[0].at,
        "cpu_s": moments[-1].cpu_s - moments[0].cpu_s,
        "moments": moments,
        "events": stats.events,
        "rule_errors": stats.rule_errors,
        "stalls": stats.stalls,
        "rejected": sum(delivery.rejected for delivery in channels.values()),
        "spool_bytes": sum(delivery.spool_bytes for delivery in channels.values()),
    }


def main(what: str, *arguments: str) -> None:
    """The command."""
    done = in_memory(json.loads(arguments[0])) if what == "memory" else job(arguments[0], json.loads(arguments[1]))
    json.dump(done, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
