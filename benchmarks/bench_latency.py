"""
From the server's commit timestamp to the line being durable in the file, at a steady rate of transactions.

The commit timestamp is taken before the commit record is flushed, so this is a little more than what the writing
client sees after its COMMIT has returned. Durable: written and fsynced, `File.deliver` has returned.
Both clocks are the same machine's.
"""

from __future__ import annotations

import json
import subprocess
import time

from benchmarks.bench_pipeline import command, configuration
from benchmarks.measure import Section
from benchmarks.workload import Server

RATE = 1000
ROWS = 4


def run(server: Server, seconds: float = 10.0) -> Section:
    """Write `RATE` transactions of `ROWS` rows a second while the pipeline runs."""
    section = Section(f"latency: commit to file at {RATE:,} transactions/s of {ROWS} rows, {seconds:g} s")
    server.one("truncate orders")
    server.one("select pg_create_logical_replication_slot('reading', 'pgoutput')")
    with configuration(server, "reading") as path:
        process = subprocess.Popen(command(path, "--latency"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        _wait_for_reader(server, process)
        transactions, took_s = write(server, seconds)
        _wait_for_confirmation(server)
        process.terminate()
        output, errors = process.communicate(timeout=60)
        if process.returncode:
            raise RuntimeError(f"the pipeline failed ({process.returncode}): {errors.decode()}")
    server.drop_slot("reading")
    result = json.loads(output)
    latencies = result["latencies_ms"]
    if result["events"] != transactions * ROWS:
        raise RuntimeError(f"{transactions} transactions written, {result['events']} events made")
    section.add("p50", "ms", [latencies[len(latencies) // 2]])
    section.add("p99", "ms", [latencies[len(latencies) * 99 // 100]], target="<= 50")
    section.add("worst", "ms", [latencies[-1]])
    section.about = (
        f"{transactions / took_s:,.0f} transactions/s written; {len(latencies):,} events after a second of warm-up, "
        f"{result['batches']:,} batches; client CPU {100 * result['cpu_s'] / result['wall_s']:.0f} %"
    )
    return section


def write(server: Server, seconds: float) -> tuple[int, float]:
    """Commit at a steady rate; how many transactions, in how many seconds."""
    total = int(RATE * seconds)
    with server.connection.cursor() as cursor:
        cursor.execute("prepare put as select insert_orders($1, $2, $3)")
        begun = time.perf_counter()
        for number in range(total):
            ahead = begun + number / RATE - time.perf_counter()
            if ahead > 0:
                time.sleep(ahead)
            cursor.execute("execute put (%s, %s, 5)", (1 + number * ROWS, ROWS))
        took_s = time.perf_counter() - begun
        cursor.execute("deallocate put")
    return total, took_s


def _wait_for_reader(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while not server.one("select active from pg_replication_slots where slot_name = 'reading'"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the pipeline did not start to read")
        time.sleep(0.02)


def _wait_for_confirmation(server: Server) -> None:
    """Until everything written is durable in the file: a reader that is asked to stop stops at once."""
    end_lsn = server.one("select pg_current_wal_flush_lsn()")
    deadline = time.monotonic() + 30
    confirmed = "select confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots where slot_name = 'reading'"
    while not server.one(confirmed, end_lsn):
        if time.monotonic() > deadline:
            raise TimeoutError("the pipeline does not catch up")
        time.sleep(0.05)
