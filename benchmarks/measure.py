"""Measurements, their spread, and the machine they were taken on."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
import timeit
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number with everything it was made of."""

    name: str
    unit: str
    samples: tuple[float, ...]
    best: bool = False
    """The best sample counts (process CPU without I/O: everything else is disturbance), not the median."""
    target: str = ""
    """What was asked for, as ``>= 0.5``; empty: nothing."""
    note: str = ""
    quartiles: bool = False
    """Spread is where the middle half lies, not the extremes: of many short rounds they are other programs'."""

    @property
    def value(self) -> float:
        """What counts: the median, or the best."""
        if not self.best:
            return statistics.median(self.samples)
        return max(self.samples) if self.unit.endswith("/s") else min(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """The extremes, or the quartiles."""
        if not self.quartiles or len(self.samples) < 4:
            return min(self.samples), max(self.samples)
        low, _, high = statistics.quantiles(self.samples, n=4)
        return low, high

    @property
    def reached(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if not self.target:
            return None
        sign, bound = self.target.split()
        return self.value >= float(bound) if sign == ">=" else self.value <= float(bound)


@dataclass(slots=True)
class Section:
    """One benchmark's measurements."""

    title: str
    about: str = ""
    measurements: list[Measurement] = field(default_factory=list)
    load: float = 0.0
    """One-minute load average when it began."""

    def add(self, name: str, unit: str, samples: Sequence[float], **rest: Any) -> None:
        """Append one measurement."""
        self.measurements.append(Measurement(name, unit, tuple(samples), **rest))

    def document(self) -> dict[str, Any]:
        """JSON-ready, raw samples included."""
        rows = [{**asdict(one), "value": one.value, "reached": one.reached} for one in self.measurements]
        return {"title": self.title, "about": self.about, "load": self.load, "measurements": rows}


def cpu_samples(work: Callable[[], object], times: int) -> list[float]:
    """Process CPU seconds of `work`, once to warm up and then `times` times."""
    work()
    samples = []
    for _ in range(times):
        begun = time.process_time()
        work()
        samples.append(time.process_time() - begun)
    return samples


def machine() -> dict[str, str]:
    """What the numbers depend on."""
    cpu = platform.processor() or "unknown CPU"
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = {}
    for name in ("psycopg2", "psycopg2-binary", "orjson", "cel-python", "wal-tracker"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "when": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": f"{cpu}, {os.cpu_count()} CPUs",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {sys.version.split()[0]}",
        "pace": _pace(),
        "packages": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _pace() -> str:
    """A yardstick for other numbers: how an interpreter was compiled makes up to half of them."""
    turn_s = min(timeit.repeat("row = {'a': 1}; row['b'] = row['a'] + 1", number=20_000, repeat=20)) / 20_000
    return f"{1e9 * turn_s:.0f} ns for a dict made, read and written"


def peak_rss_bytes() -> int:
    """
    The most memory this process has had since it began to run its own program.

    By VmHWM: ``ru_maxrss`` of a process that was started from a large parent begins at the parent's size.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("peak memory is read from /proc, which only Linux has")


def cpu_of_ended_children(pid: int) -> float:
    """CPU seconds of the children of `pid` that have ended; ticks of 10 ms. For a postmaster: of its past backends."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def table(sections: Sequence[Section], header: dict[str, str]) -> str:
    """For a person: the machine, then every section's numbers with their spread."""
    lines = [f"{name:>9}  {value}" for name, value in header.items()]
    for section in sections:
        lines += ["", f"{section.title}   (load {section.load:.1f})"]
        if section.about:
            lines.append(f"  {section.about}")
        width = max((len(one.name) for one in section.measurements), default=0)
        for one in section.measurements:
            low, high = map(_number, one.spread)
            spread = f"[{low} .. {high}]" if len(one.samples) > 1 else ""
            verdict = {None: "", True: f"{one.target}: yes", False: f"{one.target}: NO"}[one.reached]
            value = f"{_number(one.value):>10} {one.unit:<8}"
            lines.append(f"  {one.name:<{width}}  {value} {spread:<22} {verdict:<14} {one.note}".rstrip())
    return "\n".join(lines)


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 20 else f"{value:.2f}"
