"""``python -m benchmarks`` (``make bench``): every benchmark, as a table. About three minutes on two cores."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import bench_decode, bench_latency, bench_pipeline, bench_rules, workload
from benchmarks.measure import Section, machine, table

NAMES = ("decode", "rules", "pipeline", "memory", "latency")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", help=f"Some of {','.join(NAMES)}, separated by commas.", default=",".join(NAMES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="Also write every raw sample there.")
    parser.add_argument("-n", type=int, default=3, help="Passes of the pipeline and of pg_recvlogical (default 3).")
    parser.add_argument("--check", action="store_true", help="Leave with 1 when a target is missed.")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    unknown = sorted(set(chosen) - set(NAMES))
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(NAMES)}")

    begun = time.monotonic()
    header = machine()
    sections: list[Section] = []

    def measured(benchmark: Callable[[], Section]) -> None:
        load = os.getloadavg()[0]
        section = benchmark()
        section.load = load
        sections.append(section)
        print(f"  {section.title} ({time.monotonic() - begun:.0f} s)", file=sys.stderr)

    with workload.server() as server:
        header["server"] = f"PostgreSQL {server.version}, loopback TCP, fsync off; reader and server share the CPUs"
        if {"decode", "rules"} & set(chosen):
            rows = server.write(workload.OFFLINE, "offline")
            payloads = server.payloads("offline", bench_decode.pgoutput(None).options(workload.PUBLICATION))
            server.drop_slot("offline")
            if "decode" in chosen:
                measured(lambda: bench_decode.run(payloads, rows))
                measured(bench_decode.run_wal2json)
            if "rules" in chosen:
                measured(lambda: bench_rules.run(payloads))
            del payloads
            gc.collect()
        if "pipeline" in chosen:
            measured(lambda: bench_pipeline.run(server, arguments.n))
        if "memory" in chosen:
            measured(lambda: bench_pipeline.memory(server))
        if "latency" in chosen:
            measured(lambda: bench_latency.run(server))
    print(table(sections, header))
    if arguments.json:
        document = {"machine": header, "sections": [section.document() for section in sections]}
        arguments.json.write_text(json.dumps(document, indent=1))
    if arguments.check and any(one.reached is False for section in sections for one in section.measurements):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
