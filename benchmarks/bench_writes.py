"""
``python -m benchmarks.bench_writes`` (``make bench-writes``): what tracking a table costs whoever writes to it.

Every way of tracking takes its turn within every round, in an order that changes, on the same table; what is told are
medians over rounds of differences within a round. The writer is the server's own pgbench, one client on the Unix
socket with prepared statements. It and its server process have one CPU to themselves, as far as other programs let
them; readers, walsenders and standbys share the others: a writer whose server has a core to spare.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml

from benchmarks.measure import Section, machine, table
from benchmarks.workload import SERVER_SETTINGS
from tests.support.postgres import Server, wait_until
from wal_tracker.demo.server import embedded_binaries
from wal_tracker.source.connection import read_sql

SCHEMA = Path(__file__).with_name("writes.sql")

OPERATIONS = ("insert", "update", "delete")

PLANS = "-c enable_seqscan=off -c enable_bitmapscan=off -c plan_cache_mode=force_generic_plan"
"""By primary key from the first row on: a table that was just truncated has no statistics."""

BASE = "no tracking"
NOTHING = "no-op trigger"
OURS = "our trigger"
ASLEEP = "our trigger, each write wakes the reader"
STRICT = "our trigger, capture: strict"
PINNED = "our trigger, settings pinned"
IGNORED = "our trigger, a column ignored"
GENERIC = "our trigger, one function for all tables"
SHIPPED = "pg_track_events' trigger"
SLOT = "WAL: slot read by pg_recvlogical"
TRACKER = "WAL: slot read by wal_tracker"
APART = "WAL: slot read by wal_tracker, its files on another disk"
FULL = "WAL: the same, REPLICA IDENTITY FULL"
REPLICA_BASE = "no tracking, with a standby"
REPLICA = "WAL on the standby, read by pg_recvlogical"

BASE_OF = {REPLICA: REPLICA_BASE}
"""What a way of tracking is compared with, where that is not `BASE`."""

TRIGGERS = {
    NOTHING: "bench.nothing()",
    OURS: "wal_tracker.tolerant()",
    ASLEEP: "wal_tracker.waking()",
    STRICT: "wal_tracker.strict()",
    PINNED: "wal_tracker.pinned()",
    IGNORED: "wal_tracker.ignored()",
    GENERIC: "wal_tracker.generic(7)",
    SHIPPED: "bench.shipped()",
}

FAST = (BASE, *TRIGGERS, SLOT, TRACKER, FULL, REPLICA_BASE, REPLICA)
"""What is measured on a server that waits for no disk, where a microsecond shows."""

DURABLE = (BASE, OURS, SHIPPED)
"""What is measured on a server whose commits are on disk when they return, as anybody's are who keeps his data."""

PAUSED = (SLOT, TRACKER, APART, REPLICA)
"""
What is measured there against itself: its reader and walsender are stopped for a moment, and go on for a moment, by
turns, while the writer writes. A stopped walsender costs the writer nothing: it is woken once, and then has been.
"""

MEMORY = Path("/dev/shm")
"""Stands for another machine's disk: nothing written there waits for the server's, or makes it wait."""

CPUS = sorted(os.sched_getaffinity(0))
WRITERS, OTHERS = ({CPUS[0]}, set(CPUS[1:])) if len(CPUS) > 1 else (set(CPUS), set(CPUS))
"""pgbench and the process that serves it; all else."""

TRACK = """
items.insert: {event: item_added, properties: {id: new.id, name: new.name, state: new.state, price: new.price}}
items.update: {event: item_changed, properties: {id: new.id, name: new.name, state: new.state, price: new.price}}
items.delete: {event: item_gone, properties: {id: old.id}}
"""

CAPTURE = {"relation": "7", "old": "row_to_json(old)", "new": "row_to_json(new)", "settings": ""}
"""What `sql/outbox/capture.sql` is filled with for a table of which nothing is ignored."""

SETTINGS = (
    "\nset datestyle = 'ISO'\nset timezone = 'UTC'\nset intervalstyle = 'postgres'\nset extra_float_digits = 1"
    "\nset bytea_output = 'hex'"
)
"""For a table with a column whose text depends on them."""

WITHOUT = {
    record: (
        "(select coalesce(json_object_agg(key, value) filter (where key <> all (array['summary']::text[])), '{}') "
        f"from json_each(row_to_json({record})) having count(*) > 0)"
    )
    for record in ("old", "new")
}
"""For a table of which a column is ignored."""

ARGUMENTS = {
    "relation": "tg_argv[0]::integer",
    "old": (
        "case tg_nargs when 1 then row_to_json(old) else (select json_object_agg(key, value) "
        "from json_each(row_to_json(old)) where key <> all (tg_argv[1:])) end"
    ),
    "new": (
        "case tg_nargs when 1 then row_to_json(new) else (select json_object_agg(key, value) "
        "from json_each(row_to_json(new)) where key <> all (tg_argv[1:])) end"
    ),
    "settings": "",
}
"""The way not taken: one function, told by its trigger's arguments which table it is and which columns are ignored."""

VALUES = ("name", "summary", "state", "urgency", "team", "price", "details", "extras")

SINGLE = {
    "insert": f"insert into bench.items ({', '.join(VALUES)}) values ({', '.join(f':{name}' for name in VALUES)});",
    "update": "update bench.items set name = :summary, summary = :name, state = :state, urgency = :urgency, "
    "price = :price, details = :extras, extras = :details, changed_at = current_timestamp where id = :number;",
    "delete": "delete from bench.items where id = :number;",
}

MANY = {
    "insert": f"insert into bench.items ({', '.join(VALUES)}) select {', '.join(VALUES)} from bench.sample;",
    "update": "update bench.items set name = left(summary, 20), summary = name || summary, price = price + 1, "
    "details = extras, extras = details, changed_at = current_timestamp "
    "where id between :number * 200 - 199 and :number * 200;",
    "delete": "delete from bench.items where id between :number * 200 - 199 and :number * 200;",
}

SCRIPT = """
\\set number :number + 1
\\if :number = {first}
select split_part(pg_read_file('/proc/self/schedstat'), ' ', 1) as begun \\gset
\\endif
{statement}
\\if :number = {last}
select split_part(pg_read_file('/proc/self/schedstat'), ' ', 1) as ended \\gset
\\shell echo CPU :begun :ended
\\endif
"""
"""One transaction; `number` counts them. The first and the last that count ask the server process for its CPU time."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Statements of so many rows, each a transaction of its own."""

    name: str
    scripts: Mapping[str, str]
    rows: int
    statements: int
    warm_up: int
    """A new connection reads the catalog, compiles and plans first; so many statements do not count."""
    ways: tuple[str, ...] = FAST
    is_durable: bool = False
    """Under `fsync` and `full_page_writes`, as every server is that was not made for a test."""
    pauses: bool = False
    """The base is the same way with its reader stopped."""


ONE = Shape("statements of 1 row", SINGLE, rows=1, statements=500, warm_up=100)
BULK = Shape("statements of 200 rows", MANY, rows=200, statements=10, warm_up=3)
KEPT = Shape("statements of 1 row, fsync on", SINGLE, rows=1, statements=250, warm_up=50, ways=DURABLE, is_durable=True)
TURNS = Shape(
    "statements of 1 row, fsync on, reader stopped by turns",
    SINGLE,
    rows=1,
    statements=12_000,
    warm_up=100,
    ways=PAUSED,
    is_durable=True,
    pauses=True,
)
SHAPES = {"one": ONE, "bulk": BULK, "kept": KEPT, "turns": TURNS}

TURN_S = 0.05
"""So long a reader is stopped, and so long it runs; a disk's mood changes more slowly."""
SETTLE_S = 0.01
"""Statements that end sooner after a turn began do not count: the reader makes good what it missed."""


COMPARED = {
    ONE.name: (
        (OURS, SHIPPED, "<= 0.5"), (STRICT, SHIPPED, ""), (GENERIC, SHIPPED, ""),
        *((name, "", "") for name in (SLOT, TRACKER, REPLICA)),
    ),
    BULK.name: ((OURS, SHIPPED, ""), (STRICT, SHIPPED, ""), (GENERIC, SHIPPED, ""), (SLOT, "", "")),
    KEPT.name: ((OURS, SHIPPED, ""), (OURS, "", "")),
    TURNS.name: ((TRACKER, "", ""), *((name, "", "<= 1.05") for name in (SLOT, APART, REPLICA))),
}  # fmt: skip
"""
Ratios, and what they are to be: of what is added to what another way adds, or, where none is named, of the latency to
its base's. Our trigger is to add at most half of what pg_track_events' adds, where a microsecond shows. WAL mode is to
take at most 5 % more than a base that is kept: where nothing waits for a disk, that is one microsecond or two.
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """One operation's, per row."""

    latency_us: float
    cpu_us: float
    """Of the server process that writes; what others do to the machine shows less in it than in the latency."""
    wal_bytes: float


Measured = Literal["latency_us", "cpu_us", "wal_bytes"]


@dataclass(slots=True)
class Results:
    """By shape, operation and way of tracking; one of each for every round."""

    costs: dict[tuple[str, str, str], list[Cost]] = field(default_factory=lambda: defaultdict(list))

    def base_of(self, what: Measured, shape: Shape, operation: str, name: str) -> list[float]:
        """Per row, of what it is compared with."""
        return self.of(what, shape, operation, paused(name) if shape.pauses else BASE_OF.get(name, BASE))

    def of(self, what: Measured, shape: Shape, operation: str, name: str) -> list[float]:
        """Per row."""
        return [getattr(cost, what) for cost in self.costs[shape.name, operation, name]]

    def added(self, what: Measured, shape: Shape, operation: str, name: str) -> list[float]:
        """Per row, more than in the same round without tracking."""
        base = self.base_of(what, shape, operation, name)
        return [own - without for own, without in zip(self.of(what, shape, operation, name), base, strict=True)]

    def of_base(self, what: Measured, shape: Shape, operation: str, name: str) -> list[float]:
        """As a ratio to the same round without tracking."""
        base = self.base_of(what, shape, operation, name)
        return [own / without for own, without in zip(self.of(what, shape, operation, name), base, strict=True)]

    def of_shipped(self, what: Measured, shape: Shape, operation: str, name: str) -> list[float]:
        """What is added, as a ratio to what the shipped trigger adds in the same round."""
        theirs = self.added(what, shape, operation, SHIPPED)
        return [own / other for own, other in zip(self.added(what, shape, operation, name), theirs, strict=True)]


def paused(name: str) -> str:
    """A way of tracking whose reader is stopped for the moment."""
    return f"{name}, stopped"


class Writer:
    """pgbench against one server, and everything that its table can be tracked by."""

    def __init__(self, server: Server, directory: Path, standby: Server | None = None) -> None:
        self.server = server
        self.standby = standby
        self._directory = directory
        self._connection = server.connect()
        install(server)
        self._listener = server.connect()
        with self._listener.cursor() as cursor:
            cursor.execute("listen wal_tracker")
        names = ", ".join(f"{name}::text" for name in VALUES)
        (values,) = server.sql(f"select {names} from bench.sample where number = 1")
        self._values = [text for name, value in zip(VALUES, values, strict=True) for text in ("-D", f"{name}={value}")]
        for process in (*_children(server.pid), *(pid for (pid,) in server.sql("select pid from pg_stat_replication"))):
            _run_on(OTHERS, process)
        for process in (standby.pid, *_children(standby.pid)) if standby else ():
            _run_on(OTHERS, process)
        # What it starts from now on: the processes that serve pgbench.
        _run_on(WRITERS, server.pid)

    def close(self) -> None:
        """Leave the server."""
        self._connection.close()
        self._listener.close()

    def sql(self, statement: str, *values: Any) -> Any:
        """The first column of the first row; None for a command."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None

    def write(self, shape: Shape, operation: str, readers: Sequence[int]) -> tuple[Cost, ...]:
        """
        One operation, `shape.statements` times after those that do not count.

        Args:
            shape: Of the statements.
            operation: One of `OPERATIONS`.
            readers: The processes that read what it writes.

        Returns:
            What it cost; of a shape that pauses, while they ran and while they were stopped.
        """
        total = shape.warm_up + shape.statements
        script = self._directory / "script.sql"
        script.write_text(SCRIPT.format(statement=shape.scripts[operation], first=shape.warm_up + 1, last=total))
        before = self.sql("select pg_current_wal_insert_lsn() - '0/0'")
        process = subprocess.Popen(
            [
                str(embedded_binaries().directory / "pgbench"), "--no-vacuum", "--client=1", "--protocol=prepared",
                f"--transactions={total}", f"--file={script}", "-D", "number=0", *self._values,
                "--log", f"--log-prefix={self._directory / 'log'}",
                f"host={self.server.root} port={self.server.port} user=app dbname=postgres",
            ],
            env={**os.environ, "PGPASSWORD": self.server.password, "PGOPTIONS": PLANS},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=partial(_run_on, WRITERS),
        )  # fmt: skip
        turns = _turns(process, readers) if shape.pauses else []
        said, complaint = process.communicate()
        after = self.sql("select pg_current_wal_insert_lsn() - '0/0'")
        (log,) = self._directory.glob("log.*")
        lines = [line.split() for line in log.read_text().splitlines()][shape.warm_up + 1 : -1]
        log.unlink()
        cpu = re.search(r"^CPU (\d+) (\d+)$", said, re.MULTILINE)
        if process.returncode or len(lines) != shape.statements - 2 or not cpu:
            raise RuntimeError(f"pgbench failed ({process.returncode}): {complaint.strip()}")
        times = [int(line[2]) for line in lines]
        if shape.pauses:
            ends = [int(line[4]) + int(line[5]) / 1e6 for line in lines]
            parts = _by_turn(times, ends, turns)
        else:
            parts = (times,)
        # Others on the machine flush their files, too, and a flush that waits for theirs takes ten times as long.
        typical = statistics.median if shape.is_durable else _mean
        cpu_us = (int(cpu[2]) - int(cpu[1])) / 1000 / shape.statements / shape.rows
        wal_bytes = float(after - before) / total / shape.rows
        return tuple(Cost(typical(part) / shape.rows, cpu_us, wal_bytes) for part in parts)

    def settle(self, *, is_durable: bool) -> None:
        """Have commits wait for the disk, on the standby as well, or not; then a checkpoint."""
        value = "on" if is_durable else "off"
        for server in (self.server, self.standby):
            if server is None:
                continue
            server.configure({"fsync": value, "full_page_writes": value})
            server.sql("select pg_reload_conf()")
            wait_until(lambda server=server: server.sql("show full_page_writes") == [(value,)])
        self.sql("checkpoint")

    def turn(self, shape: Shape, name: str, outbox: int, readers: Sequence[int]) -> dict[str, tuple[Cost, ...]]:
        """All three operations on the same rows, under one way of tracking; leaves the table empty."""
        trigger = TRIGGERS.get(name)
        if trigger:
            self.sql(
                "create trigger tracking after insert or update or delete on bench.items "
                f"for each row execute function {trigger}"
            )
        # Bit 0: which of the two outboxes is written to. Bit 1: the reader sleeps.
        self.sql("select setval('wal_tracker.signal', %s)", outbox + (2 if name == ASLEEP else 0))
        costs = {operation: self.write(shape, operation, readers) for operation in OPERATIONS}
        if trigger and name != NOTHING:
            captured = self.sql("select (select count(*) from wal_tracker.outbox) + (select count(*) from bench.log)")
            if captured != 3 * shape.rows * (shape.warm_up + shape.statements):
                raise RuntimeError(f"{name}: {captured} rows captured")
        if trigger:
            self.sql("drop trigger tracking on bench.items")
        self.sql("truncate bench.items, bench.log, wal_tracker.outbox restart identity")
        with self._listener.cursor() as cursor:
            cursor.execute("select")
        if bool(self._listener.notifies) != (name == ASLEEP):
            raise RuntimeError(f"{name}: {len(self._listener.notifies)} notifications")
        self._listener.notifies.clear()
        return costs


def install(server: Server) -> None:
    """The table, which belongs to the application, and every trigger function, which do not."""
    connection = server.connect()
    with connection.cursor() as cursor:
        cursor.execute(SCHEMA.read_text())
        cursor.execute("alter role app password %s", (server.password,))
        cursor.execute("create schema wal_tracker authorization installer; set role installer")
        cursor.execute(read_sql("outbox/tables.sql"))
        failure = read_sql("outbox/on_failure.sql") + "\n"
        for name, blanks in (
            ("tolerant", {**CAPTURE, "on_failure": failure}),
            ("strict", {**CAPTURE, "on_failure": ""}),
            ("pinned", {**CAPTURE, "on_failure": failure, "settings": SETTINGS}),
            ("ignored", {**CAPTURE, "on_failure": failure, **WITHOUT}),
            ("waking", {**CAPTURE, "on_failure": failure}),
            ("generic", {**ARGUMENTS, "on_failure": failure}),
        ):
            text = read_sql("outbox/capture.sql")
            # on_failure first: it has a blank of its own.
            for blank, value in [("on_failure", blanks["on_failure"]), *blanks.items(), ("function", name)]:
                text = text.replace(f"{{{blank}}}", value)
            if name == "waking":
                # The reader is found asleep by every write, as if it fell asleep again at once.
                text = text.replace("pg_sequence_last_value('wal_tracker.signal') & 1)", "signal)")
            cursor.execute(text)
        cursor.execute("reset role")
    connection.close()


@contextmanager
def reading(writer: Writer, name: str, directory: Path) -> Iterator[tuple[int, ...]]:
    """A new slot, its walsender and its reader at work, where `name` has one; gone afterwards."""
    server = writer.standby or writer.server
    if name not in (SLOT, TRACKER, APART, FULL, REPLICA):
        yield ()
        return
    slot = f"writes_{next(_NUMBERS)}"
    with ExitStack() as stack:
        with writer.server.snapshots() if writer.standby else nullcontext():
            server.sql("select pg_create_logical_replication_slot(%s, 'pgoutput')", slot)
        stack.callback(server.sql, "select pg_drop_replication_slot(%s)", slot)
        if name == APART:
            elsewhere = tempfile.TemporaryDirectory(prefix="wal_tracker_bench_", dir=MEMORY)
            directory = Path(stack.enter_context(elsewhere))
        if name == FULL:
            writer.sql("alter table bench.items replica identity full")
            stack.callback(writer.sql, "alter table bench.items replica identity default")
        log = stack.enter_context((directory / "reader.log").open("w+b"))
        process = subprocess.Popen(
            _reader(server, name, directory, slot), stdout=log, stderr=log, preexec_fn=partial(_run_on, OTHERS)
        )
        stack.callback(process.wait, 60)
        stack.callback(process.terminate)

        def walsender() -> int:
            if process.poll() is not None:
                log.seek(0)
                raise RuntimeError(f"the reader left ({process.returncode}): {log.read().decode()}")
            found = server.sql(
                "select active_pid from pg_replication_slots join pg_stat_replication on pid = active_pid "
                "where slot_name = %s and state = 'streaming'",
                slot,
            )
            return int(found[0][0]) if found else 0

        sender = wait_until(walsender)
        _run_on(OTHERS, sender)
        yield sender, process.pid
        walsender()


def _reader(server: Server, name: str, directory: Path, slot: str) -> list[str]:
    if name not in (TRACKER, APART):
        return [
            str(embedded_binaries().directory / "pg_recvlogical"), "-d", server.dsn(), "-S", slot, "--start",
            "-f", os.devnull, "-o", "proto_version=1", "-o", "publication_names=benchmark", "-o", "messages=true",
        ]  # fmt: skip
    path = directory / "wal_tracker.yaml"
    document = {
        "source": {"dsn": server.dsn(), "slot": slot, "publication": "benchmark", "schema": "bench"},
        "track": yaml.safe_load(TRACK),
        "destinations": {"file": {"path": str(directory / f"{slot}.jsonl"), "filter": "*"}},
        "state": f"sqlite:///{directory / slot}.db",
    }
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return [sys.executable, "-m", "wal_tracker", "--config", str(path), "run"]


def one_round(
    results: Results, shapes: Sequence[Shape], primary: Writer, replicated: Writer, directory: Path, number: int
) -> None:
    """Every way of tracking once, the base twice, in an order of the round's own."""
    for shape in shapes:
        ways = shape.ways if shape.pauses else (*shape.ways, BASE)
        turns = [(replicated if name in (REPLICA_BASE, REPLICA) else primary, name) for name in ways]
        random.Random(number).shuffle(turns)
        for writer in (primary, replicated):
            writer.settle(is_durable=shape.is_durable)
        costs: dict[tuple[str, str], list[Cost]] = defaultdict(list)
        for writer, name in turns:
            with reading(writer, name, directory) as readers:
                for operation, of_all in writer.turn(shape, name, number % 2, readers).items():
                    for known, cost in zip((name, paused(name)), of_all, strict=False):
                        costs[operation, known].append(cost)
        for (operation, name), all_of_it in costs.items():
            mean = Cost(*(statistics.fmean(values) for values in zip(*map(astuple, all_of_it), strict=True)))
            results.costs[shape.name, operation, name].append(mean)


def _turns(process: subprocess.Popen[str], readers: Sequence[int]) -> list[tuple[float, bool]]:
    """Stop the readers and let them go on until the writer has ended: when each turn began, and whether they ran."""
    turns = [(time.time(), True)]
    try:
        while process.poll() is None:
            time.sleep(TURN_S)
            runs = not turns[-1][1]
            for reader in readers:
                os.kill(reader, signal.SIGCONT if runs else signal.SIGSTOP)
            turns.append((time.time(), runs))
    finally:
        for reader in readers:
            with suppress(ProcessLookupError):
                os.kill(reader, signal.SIGCONT)
    return turns


def _by_turn(
    times: Sequence[int], ends: Sequence[float], turns: Sequence[tuple[float, bool]]
) -> tuple[list[int], list[int]]:
    """What statements took that began and ended while the readers ran, and while they were stopped."""
    parts: tuple[list[int], list[int]] = [], []
    begins = [began for began, _ in turns]
    for took, ended in zip(times, ends, strict=True):
        turn = bisect.bisect_right(begins, ended) - 1
        if turn >= 0 and ended - took / 1e6 > begins[turn] + SETTLE_S:
            parts[0 if turns[turn][1] else 1].append(took)
    return parts


def sections(results: Results, shapes: Sequence[Shape]) -> list[Section]:
    """What is printed: one for each shape and operation."""
    return [_section(results, shape, operation) for shape in shapes for operation in OPERATIONS]


def _section(results: Results, shape: Shape, operation: str) -> Section:
    section = Section(f"{operation}, {shape.name}; per row")
    for name in shape.ways:
        where = (shape, operation, name)
        if shape.pauses:
            section.add(paused(name), "µs", results.base_of("latency_us", *where), quartiles=True)
            section.add("+ its reader at work", "µs", results.added("latency_us", *where), quartiles=True)
            continue
        wal = statistics.median(results.of("wal_bytes", *where))
        if name in (BASE, REPLICA_BASE):
            cpu = statistics.median(results.of("cpu_us", *where))
            note = f"CPU {cpu:5.1f} µs; WAL {wal:,.0f} B"
            section.add(name, "µs", results.of("latency_us", *where), quartiles=True, note=note)
            continue
        cpu, ratio, times = (
            statistics.median(values)
            for values in (
                results.added("cpu_us", *where),
                results.of_base("latency_us", *where),
                results.of_base("wal_bytes", *where),
            )
        )
        note = f"CPU {cpu:+5.1f} µs; {ratio:.2f} x base; WAL {wal:,.0f} B, {times:.2f} x"
        section.add(f"+ {name}", "µs", results.added("latency_us", *where), quartiles=True, note=note)
    for name, other, target in COMPARED[shape.name]:
        ratios = results.of_shipped if other else results.of_base
        cpu = statistics.median(ratios("cpu_us", shape, operation, name))
        section.add(
            f"{name} / {other or 'its base'}", "x", ratios("latency_us", shape, operation, name), target=target,
            note="" if shape.pauses else f"by CPU {cpu:.2f}", quartiles=True,
        )  # fmt: skip
    return section


def summary(results: Results) -> str:
    """The tables of docs/modes.md."""

    def cell(name: str, shape: Shape, operation: str) -> str:
        is_base = name in (BASE, REPLICA_BASE)
        what = results.of if is_base else results.added
        value = statistics.median(what("latency_us", shape, operation, name))
        return f"{value:{'' if is_base else '+'}.{0 if abs(value) >= 10 else 1}f}"

    lines = [
        "| µs a row | insert | update | delete | 200 rows a statement | WAL, bytes |",
        "|---|---|---|---|---|---|",
    ]
    for name in (BASE, OURS, STRICT, PINNED, IGNORED, ASLEEP, SHIPPED, SLOT, TRACKER, FULL, REPLICA_BASE, REPLICA):
        single = [cell(name, ONE, operation) for operation in OPERATIONS]
        many = ", ".join(cell(name, BULK, operation) for operation in OPERATIONS)
        wal = ", ".join(
            f"{statistics.median(results.of('wal_bytes', ONE, operation, name)):,.0f}" for operation in OPERATIONS
        )
        lines.append(f"| {name} | {' | '.join(single)} | {many} | {wal} |")
    lines += [
        "",
        "| × base | insert, update, delete: on disk at commit | no disk waited for |",
        "|---|---|---|",
    ]
    for name in (*DURABLE, *PAUSED[:-1], REPLICA_BASE, REPLICA):
        cells = []
        for shape in (KEPT if name in DURABLE else TURNS, ONE):
            if name == REPLICA_BASE and shape is TURNS:
                told = [results.base_of("latency_us", shape, operation, REPLICA) for operation in OPERATIONS]
            elif name in (BASE, REPLICA_BASE):
                told = [results.of("latency_us", shape, operation, name) for operation in OPERATIONS]
            elif name in shape.ways:
                told = [results.of_base("latency_us", shape, operation, name) for operation in OPERATIONS]
            else:
                told = []
            form = "{:,.0f} µs" if name in (BASE, REPLICA_BASE) else "{:.2f}"
            cells.append(", ".join(form.format(statistics.median(values)) for values in told))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _run_on(cpus: set[int], process: int = 0) -> None:
    """By the id of a process, 0 for this one. One that has just ended needs no CPU."""
    with suppress(ProcessLookupError):
        os.sched_setaffinity(process, cpus)


def _mean(times: list[int]) -> float:
    """Without those of three times the median and more: somebody else had the CPU, or the disk."""
    limit = 3 * statistics.median(times)
    return statistics.fmean(time for time in times if time < limit)


def _children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_writes", description=__doc__)
    parser.add_argument("-n", type=int, default=15, metavar="ROUNDS", help="How many rounds (default 15).")
    parser.add_argument("--only", default="", metavar="SHAPES", help=f"Some of {','.join(SHAPES)}.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Also write every raw sample there.")
    parser.add_argument("--markdown", action="store_true", help="Print the table of docs/modes.md, too.")
    parser.add_argument("--check", action="store_true", help="Leave with 1 when a target is missed.")
    arguments = parser.parse_args()
    chosen = [name for name in arguments.only.split(",") if name] or [*SHAPES]
    if set(chosen) - set(SHAPES) or (arguments.markdown and set(chosen) != set(SHAPES)):
        parser.error(f"there are {', '.join(SHAPES)}; --markdown wants all of them")
    shapes = [SHAPES[name] for name in chosen]

    begun, load = time.monotonic(), os.getloadavg()[0]
    header = machine()
    results = Results()
    _run_on(OTHERS)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wal_tracker_bench_")))
        primary, other = (stack.enter_context(Server(settings=SERVER_SETTINGS)) for _ in range(2))
        standby = other.standby(settings=SERVER_SETTINGS)
        stack.callback(standby.close)
        writers = Writer(primary, directory), Writer(other, directory, standby)
        for writer in writers:
            stack.callback(writer.close)
        version = primary.sql("show server_version")[0][0]
        header["server"] = f"PostgreSQL {version}; fsync and full_page_writes off where it does not say on"
        header["writer"] = f"pgbench, 1 client, prepared statements, Unix socket; {arguments.n} rounds; CPU " + (
            f"{CPUS[0]} for it and its server process, {CPUS[1]} and on for the rest" if WRITERS != OTHERS else "shared"
        )
        for number in range(arguments.n):
            one_round(results, shapes, *writers, directory, number)
            print(f"  round {number + 1} of {arguments.n} ({time.monotonic() - begun:.0f} s)", file=sys.stderr)
    printed = sections(results, shapes)
    for section in printed:
        section.load = load
    print(table(printed, header))
    if arguments.markdown:
        print(f"\n{summary(results)}")
    if arguments.json:
        document = {"machine": header, "sections": [section.document() for section in printed]}
        arguments.json.write_text(json.dumps(document, indent=1))
    if arguments.check and any(one.reached is False for section in printed for one in section.measurements):
        raise SystemExit(1)


_NUMBERS = itertools.count()


if __name__ == "__main__":
    main()
