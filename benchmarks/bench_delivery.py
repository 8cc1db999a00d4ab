"""
``python -m benchmarks.bench_delivery`` (``make bench-delivery``): what delivery costs, and what a dead one does.

Each destination first sends one batch to the faithful fake of its vendor (`tests/support`), with the options it is then
measured with; every event of it must have been kept. What the fake answered is what a cheap receiver in another process
(`receiver.py`) answers from then on, at the same port. A pass counts only if every event's id came there.
"""

from __future__ import annotations

import argparse
import bisect
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks import deliver, workload
from benchmarks.measure import Section, machine, table
from benchmarks.receiver import Answers, Received, Receiver, receiver
from tests.support import matrix
from tests.support.http_server import Reply
from tests.support.streams import NatsServer, RedisServer, free_port
from tests.support.vendors import FAKES
from wal_tracker import assemble
from wal_tracker.config.model import DestinationConfig

PARTS = ("each", "three", "dead")

EVENTS = 30_000
"""Of a pass of one destination, unless it sends them one by one."""
FEWER = 3_000

# Slack tells of a few of many, audit_stream asks for each whether it is there, and load jobs wait for BigQuery.
LEFT_OUT = frozenset({"slack", "audit_stream", "bigquery-load", "amplitude-httpapi"})

THREE = ("posthog", "mixpanel", "segment")
"""Their vendors recommend batches of 500 (PostHog's own libraries 100), 1000 (of 2000 at most) and 100."""
DEAD = "amplitude"

ROWS = workload.Workload("many small transactions", 75_000, 3, 5, seed=1)
TURN_S = 0.2
WARM_UP = 90_000
"""Rows before the measured ones: more than a dead destination's memory holds (8 MB of the wire)."""


@dataclass(frozen=True)
class Vendor:
    """A destination, and what stands for its vendor."""

    kind: str
    options: Mapping[str, Any]
    answers: Answers


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_delivery", description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help=f"Some of {','.join(PARTS)}, separated by commas.")
    parser.add_argument("--destinations", default="", help="Of `each`: some of them, separated by commas.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Also write every raw sample there.")
    parser.add_argument("-n", type=int, default=5, help="Passes, and rounds of `dead` (default 5).")
    parser.add_argument("--check", action="store_true", help="Leave with 1 when a target is missed.")
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    if set(parts) - set(PARTS):
        parser.error(f"there are {', '.join(PARTS)}")

    begun, header, sections = time.monotonic(), machine(), list[Section]()

    def measured(section: Section, load: float) -> None:
        section.load = load
        sections.append(section)
        print(f"  {section.title} ({time.monotonic() - begun:.0f} s)", file=sys.stderr)

    if "each" in parts:
        load = os.getloadavg()[0]
        measured(each(arguments.n, tuple(filter(None, arguments.destinations.split(",")))), load)
    if {"three", "dead"} & set(parts):
        with workload.server() as server:
            header["server"] = f"PostgreSQL {server.version}, loopback TCP, fsync off"
            rows = server.write(ROWS, "base")
            if "three" in parts:
                load = os.getloadavg()[0]
                measured(three(server, rows, arguments.n), load)
            if "dead" in parts:
                load = os.getloadavg()[0]
                measured(dead(server, rows, arguments.n), load)
    print(table(sections, header))
    if arguments.json:
        document = {"machine": header, "sections": [section.document() for section in sections]}
        arguments.json.write_text(json.dumps(document, indent=1))
    if arguments.check and any(one.reached is False for section in sections for one in section.measurements):
        raise SystemExit(1)


# One destination at a time ---------------------------------------------------------------------------


def each(times: int, chosen: Sequence[str] = ()) -> Section:
    """Every destination by itself, `times` passes; all take turns."""
    section = Section(
        "delivery: events in memory to one destination",
        f"n={times} by turns; CPU is the process's, all threads; bytes are of bodies, as on the wire",
    )
    samples: dict[str, list[tuple[dict[str, Any], Received | None]]] = {}
    with ExitStack() as stack:
        vendors = {name: verified(name) for name in FAKES if name not in LEFT_OUT and (not chosen or name in chosen)}
        ways = stack.enter_context(receiver({name: vendor.answers for name, vendor in vendors.items()}))
        turns = {name: partial(to_vendor, ways, name, vendor) for name, vendor in vendors.items()}
        turns |= {name: turn for name, turn in others(stack) if not chosen or name in chosen}
        for _ in range(times):
            for name, turn in turns.items():
                samples.setdefault(name, []).append(turn())
    for name, passes in samples.items():
        count = passes[0][0]["events"]
        note = ""
        if (received := passes[0][1]) is not None:
            note = f"{count / received.requests:.0f} events, {received.wire_bytes / count:.0f} B an event, in a request"
        section.add(name, "events/s", [count / done["wall_s"] for done, _ in passes])
        section.add(f"{name}: CPU", "µs/event", [1e6 * done["cpu_s"] / count for done, _ in passes], note=note)
    return section


def verified(name: str) -> Vendor:
    """
    One batch of the workload to the vendor's faithful fake, which must keep all of it.

    Returns:
        The destination as it is to be measured, and what the fake said.
    """
    with FAKES[name]() as fake:
        answers, said = Answers(fake.port), fake._answer

        def noted(handler: Any, reply: Reply) -> None:
            path = f"{handler.command} {handler.path.partition('?')[0]}".encode()
            answers.by_path[path] = answers.usual = whole(reply)
            said(handler, reply)

        fake._answer = noted  # type: ignore[method-assign]
        options = {**fake.options, **({"group": "distinct_id"} if name in ("sqs", "sns") else {})}
        destination = assemble.build_destination(
            DestinationConfig(name=fake.kind, kind=fake.kind, options=options, path=f"destinations.{fake.kind}")
        )
        batch = deliver.events(destination.limits.max_batch_events)
        destination.open(None)
        receipt = destination.deliver(batch)
        destination.close()
        if receipt.outcomes or sorted(fake.known) != sorted(event.id for event in batch):
            raise RuntimeError(f"the fake of {name} kept {len(fake.known)} of {len(batch)} events: {receipt.outcomes}")
        return Vendor(fake.kind, options, answers)


def whole(reply: Reply) -> bytes:
    """An answer as it is on the wire."""
    headers = "".join(f"{name}: {text}\r\n" for name, text in reply.headers.items())
    length = "" if reply.status == 204 else f"Content-Length: {len(reply.body)}\r\n"
    return f"HTTP/1.1 {reply.status} .\r\n{headers}{length}\r\n".encode() + reply.body


def to_vendor(ways: Receiver, name: str, vendor: Vendor) -> tuple[dict[str, Any], Received]:
    """One pass to a receiver."""
    one_by_one = name in ("webhook", "sqs", "sns")
    done = in_memory(vendor.kind, vendor.options, FEWER if one_by_one else EVENTS)
    received = ways.received(name)
    if received.ids != done["events"] or done["retries"]:
        raise RuntimeError(f"{name}: of {done['events']} events {received.ids} came, after {done['retries']} retries")
    return done, received


def in_memory(kind: str, options: Mapping[str, Any], count: int) -> dict[str, Any]:
    """One pass in a process of its own."""
    spec = {"kind": kind, "options": dict(options), "events": count}
    return {**child("memory", json.dumps(spec)), "events": count}


def others(stack: ExitStack) -> Iterator[tuple[str, Any]]:
    """Those that are not HTTP: a destination that does nothing, files, and real servers where there are some."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wal_tracker_bench_")))

    def turn(kind: str, **options: Any) -> Any:
        return lambda: (in_memory(kind, options, EVENTS), None)

    yield "nothing", turn("nothing")
    yield "file", turn("file", path=str(directory / "events.jsonl"))
    try:
        yield "redis", turn("redis", url=stack.enter_context(RedisServer()).url)
    except matrix.Missing as reason:
        print(f"  without Redis: {reason}", file=sys.stderr)
    try:
        nats = stack.enter_context(NatsServer())
        nats.create_stream()
        yield "nats", turn("nats", servers=[nats.url], stream="EVENTS")
    except matrix.Missing as reason:
        print(f"  without NATS: {reason}", file=sys.stderr)
    server = stack.enter_context(workload.server())
    yield "postgres", turn("postgres", dsn=server.dsn(), create=True)


# Three at once, from the slot ------------------------------------------------------------------------


def three(server: workload.Server, rows: int, times: int) -> Section:
    """One pipeline, from the slot to three vendors at once; every row is an event for each of them."""
    section = Section(
        f"pipeline: slot to {', '.join(THREE)} at once",
        f"n={times}; {rows:,} rows, an event for each of the three; measured after the first {WARM_UP:,}",
    )
    vendors = {name: verified(name) for name in THREE}
    with receiver({name: vendor.answers for name, vendor in vendors.items()}) as ways:
        passes = [read(server, rows, vendors, ways) for _ in range(times)]
    count = rows - WARM_UP
    section.add("delivered, all three", "events/s", [len(THREE) * count / one["wall_s"] for one in passes],
                target=">= 20000")  # fmt: skip
    section.add("rows", "rows/s", [count / one["wall_s"] for one in passes])
    section.add("client CPU", "µs/row", [1e6 * one["cpu_s"] / count for one in passes])
    section.add("client CPU", "cores", [one["cpu_s"] / one["wall_s"] for one in passes])
    return section


def dead(server: workload.Server, rows: int, times: int) -> Section:
    """The same three, and the same three beside one that refuses connections, or takes a request and never answers."""
    section = Section(
        f"a dead destination ({DEAD}) beside {', '.join(THREE)}",
        f"n={times} for each; two runs of ours, one with it and one without, stopped and going on by turns of "
        f"{TURN_S * 1000:.0f} ms; measured after the first {WARM_UP:,} rows",
    )
    sides = [{name: verified(name) for name in THREE} for _ in range(2)]
    victim = verified(DEAD)
    hanging = Answers(victim.answers.port, usual=b"")
    refusing = {**victim.options, "endpoint": f"http://127.0.0.1:{free_port()}"}
    costs: dict[str, list[tuple[Side, Side]]] = {"refuses": [], "hangs": []}
    beside = {"refuses": Vendor(DEAD, refusing, hanging), "hangs": Vendor(DEAD, victim.options, hanging)}
    with ExitStack() as stack:
        ways = [
            stack.enter_context(receiver({**{name: vendor.answers for name, vendor in side.items()}, **more}))
            for side, more in zip(sides, ({}, {DEAD: hanging}), strict=True)
        ]
        for _ in range(times):
            for way, vendor in beside.items():
                costs[way].append(by_turns(server, rows, sides, ways, vendor))
    alone = [one for passes in costs.values() for one, _ in passes]
    section.add("alone: rows", "rows/s", [one.rows_per_s for one in alone])
    section.add("alone: client CPU", "µs/row", [one.cpu_us for one in alone])
    for way, passes in costs.items():
        lost = [100 * (1 - one.rows_per_s / base.rows_per_s) for base, one in passes]
        more = [100 * (one.cpu_us / base.cpu_us - 1) for base, one in passes]
        spooled = statistics.median(one.spool_bytes for _, one in passes) / 1e6
        section.add(f"{way}: cost to the others' rate", "%", lost, target="<= 5", note=f"{spooled:.0f} MB are spooled")
        section.add(f"{way}: more client CPU", "%", more)
    return section


@dataclass(frozen=True)
class Side:
    """One of two runs that take turns, in its own turns."""

    rows_per_s: float
    cpu_us: float
    """A row."""
    spool_bytes: int


def by_turns(
    server: workload.Server,
    rows: int,
    sides: Sequence[Mapping[str, Vendor]],
    ways: Sequence[Receiver],
    victim: Vendor,
) -> tuple[Side, Side]:
    """
    Two runs of ours over the same rows, the second with `victim` as well; at any time one of them is stopped.

    So both meet the machine in the same mood. They begin to take turns when both are warm, and what counts ends before
    the first of them has read everything.
    """
    with ExitStack() as stack:
        children = []
        for number, side in enumerate(sides):
            slot = f"reading_{number}"
            server.copy_slot("base", slot)
            stack.callback(server.drop_slot, slot)
            vendors = {**side, **({DEAD: victim} if number else {})}
            # Half as often as it does by itself, since it is there for half of the time.
            path = stack.enter_context(configuration(server, vendors, slot=slot, checkpoint_interval_s=0.5))
            spec = json.dumps({"live": list(side), "events": rows, "warm_up": WARM_UP, "stops": True})
            children.append(started("job", str(path), spec))
        turns = _take_turns(children)
        done = [result(child) for child in children]
    for side, way, one in zip(sides, ways, done, strict=True):
        checked(side, way, rows, one)
    # Until then as much is read and not delivered as memory holds; from then on less and less.
    end = min(next(at for at, *_, read in one["moments"] if read >= 0.99 * rows) for one in done)
    first, second = (_side(one, turns[number::2], end) for number, one in enumerate(done))
    return first, second


def _side(done: Mapping[str, Any], turns: Sequence[tuple[float, float]], end: float) -> Side:
    ran_s = sum(max(0.0, min(ends, end) - begins) for begins, ends in turns)
    (_, cpu_s, delivered, _), *_ = moments = done["moments"]
    last = moments[bisect.bisect_right([at for at, *_ in moments], end) - 1]
    rows = last[2] - delivered
    return Side(rows / ran_s, 1e6 * (last[1] - cpu_s) / rows, done["spool_bytes"])


def _take_turns(children: Sequence[subprocess.Popen[bytes]]) -> list[tuple[float, float]]:
    """Once both have stopped, let one go on and then the other, until one has ended: from when to when, by turns."""
    for child in children:
        while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TZ":
            time.sleep(0.01)
    turns: list[tuple[float, float]] = []
    try:
        while all(child.poll() is None for child in children):
            goes = children[len(turns) % 2]
            goes.send_signal(signal.SIGCONT)
            begins = time.monotonic()
            time.sleep(TURN_S)
            goes.send_signal(signal.SIGSTOP)
            turns.append((begins, time.monotonic()))
    finally:
        for child in children:
            child.send_signal(signal.SIGCONT)
    return turns


def read(server: workload.Server, rows: int, vendors: Mapping[str, Vendor], ways: Receiver) -> dict[str, Any]:
    """One run of ours until the vendors have every event; fails unless each has every one."""
    server.copy_slot("base", "reading")
    try:
        with configuration(server, vendors, slot="reading") as path:
            spec = {"live": list(vendors), "events": rows, "warm_up": WARM_UP}
            done = child("job", str(path), json.dumps(spec))
    finally:
        server.drop_slot("reading")
    checked(vendors, ways, rows, done)
    return done


def checked(vendors: Mapping[str, Vendor], ways: Receiver, rows: int, done: Mapping[str, Any]) -> None:
    """Fail unless each vendor has every event."""
    for name in vendors:
        received = ways.received(name)
        if received.ids != rows or done["rule_errors"] or done["rejected"]:
            raise RuntimeError(f"{name} got {received.ids} of {rows} events; the run says {done}")


@contextmanager
def configuration(
    server: workload.Server, vendors: Mapping[str, Vendor], *, slot: str, **delivery: Any
) -> Iterator[Path]:
    """A configuration file in a directory of its own, where state and spools go too."""
    with tempfile.TemporaryDirectory(prefix="wal_tracker_bench_") as directory:
        path = Path(directory) / "wal_tracker.yaml"
        document = {
            "source": {"dsn": server.dsn(), "slot": slot, "publication": workload.PUBLICATION},
            "track": yaml.safe_load(workload.TRACK),
            "destinations": {name: {**vendor.options, "filter": "*"} for name, vendor in vendors.items()},
            "delivery": {"shutdown_timeout_s": 0, **delivery},
            "state": f"sqlite:///{path.parent / 'state.db'}",
        }
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        yield path


def child(*arguments: str) -> dict[str, Any]:
    """Run `benchmarks.deliver`."""
    return result(started(*arguments))


def started(*arguments: str) -> subprocess.Popen[bytes]:
    """Begin a run of `benchmarks.deliver`."""
    command = [sys.executable, "-m", "benchmarks.deliver", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def result(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What it measured."""
    said, complaint = process.communicate()
    if process.returncode:
        raise RuntimeError(f"it failed ({process.returncode}): {complaint.decode()}")
    found: dict[str, Any] = json.loads(said)
    return found


if __name__ == "__main__":
    main()
