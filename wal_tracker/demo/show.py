"""
The demo from its first line to its last: server, shop, pipeline, summary, and nothing left behind.

The main thread directs; the pipeline has a thread, as has each writer. Whatever ends it, Ctrl-C included, the way
out is the same: writers first, then the pipeline, then the server with everything that was on its disk.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import psycopg2

from wal_tracker import __version__, assemble
from wal_tracker.config.load import load
from wal_tracker.config.model import Config, Mode, SourceConfig
from wal_tracker.demo.printer import BOLD, DIM, EventPrinter, Palette, colours_wanted
from wal_tracker.demo.screen import Screen
from wal_tracker.demo.server import EmbeddedPostgres
from wal_tracker.demo.shop import open_shop
from wal_tracker.demo.summary import Summary
from wal_tracker.demo.workload import Workload
from wal_tracker.errors import SourceUnavailable
from wal_tracker.model import Deliverable
from wal_tracker.source.connection import read_sql

Format = Literal["pretty", "json"]

WRITERS = 4
SEED = 20260102

# How long what was committed last may take to be delivered and confirmed.
SETTLE_TIMEOUT_S = 20.0

# For a screen that cannot show the signs we like best.
_PLAIN_SIGNS = str.maketrans({"─": "-", "…": "~", "≠": "!=", "·": "-"})


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the person asked for."""

    seconds: float
    """How long the shop is open."""
    form: Format
    rate: float
    """Transactions a second."""
    mode: Mode = "wal"
    """How changes are read: from the WAL, or captured by triggers."""


def play(options: Options) -> bool:
    """
    Run the whole demo on stdout and stderr.

    Returns:
        Whether everything that was committed has arrived exactly once and is confirmed.

    Raises:
        WalTrackerError: The server did not start, or the pipeline stopped.
        BrokenPipeError: Nobody reads stdout any more.
        KeyboardInterrupt: As it came; everything is tidied.
    """
    stage = Stage(options.form)
    # Trigger mode is for servers without logical decoding, so it is shown on one.
    with EmbeddedPostgres(settings={"wal_level": "replica"} if options.mode == "trigger" else {}) as server:
        dsn = open_shop(server)
        with configuration(dsn, server.root, options.mode) as config:
            stage.introduce(_version(dsn), config)
            return _perform(options, stage, config, dsn)


def _perform(options: Options, stage: Stage, config: Config, dsn: str) -> bool:
    trouble = threading.Event()
    screen = Screen(sys.stdout.buffer, stage.event_line, on_broken=trouble.set)
    workload = Workload(dsn, writers=WRITERS, rate=options.rate, seed=SEED, on_failure=trouble.set)
    with assemble.Run(config, apply_first=True, destinations={"stdout": screen}) as job:
        loop = Background(job.run, on_failure=trouble.set)
        loop.start()
        try:
            _wait_for_reader(dsn, config.source, trouble)
            stage.begin()
            opened = time.monotonic()
            workload.start()
            trouble.wait(options.seconds)
            workload.stop()
            seconds = time.monotonic() - opened
            unconfirmed = _settle(dsn, config.source, trouble)
        finally:
            workload.stop()
            job.stop()
            loop.join()
        if screen.broken:
            raise BrokenPipeError
        if loop.failure is not None:
            raise loop.failure
        if workload.failure is not None:
            raise SourceUnavailable(f"a writer of the shop lost its server: {workload.failure}") from workload.failure
        ledger, stats = workload.ledger, job.stats
        summary = Summary(
            seconds=seconds,
            committed=ledger.committed,
            rolled_back=ledger.rolled_back,
            expected=ledger.expected,
            transactions=stats.transactions,
            changes=stats.changes,
            rule_errors=stats.rule_errors,
            delivered=screen.delivered,
            repeated=screen.repeated,
            latencies_us=screen.latencies_us,
            mode=options.mode,
            unconfirmed=unconfirmed,
        )
        stage.conclude(summary)
        return not summary.problems()


def _wait_for_reader(dsn: str, source: SourceConfig, trouble: threading.Event) -> None:
    """Return when somebody reads, so that the first latency is not that of our own start; or on trouble."""
    by_slot = "select active from pg_replication_slots where slot_name = %s"
    by_lease = "select holder is not null from wal_tracker.reader"
    with _session(dsn) as cursor:
        while not (_value(cursor, by_lease) if source.mode == "trigger" else _value(cursor, by_slot, source.slot)):
            if trouble.wait(0.01):
                return


def _settle(dsn: str, source: SourceConfig, trouble: threading.Event) -> int:
    """
    Wait until slot or outbox have let go of everything committed by now, or until there is trouble.

    Returns:
        What they still hold, bytes or rows; 0 if all went well.
    """
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    with _session(dsn) as cursor:
        last_commit = _value(cursor, "select pg_current_wal_flush_lsn()")
        while True:
            unconfirmed = int(
                _value(cursor, f"select undelivered from ({read_sql('queries/undelivered.sql')}) as _ (undelivered)")
                if source.mode == "trigger"
                else _value(
                    cursor,
                    "select greatest(0, pg_wal_lsn_diff(%s, confirmed_flush_lsn)) from pg_replication_slots"
                    " where slot_name = %s",
                    last_commit,
                    source.slot,
                )
            )
            if not unconfirmed or time.monotonic() > deadline or trouble.wait(0.02):
                return unconfirmed


@contextmanager
def _session(dsn: str) -> Iterator[Any]:
    """A cursor in autocommit mode."""
    try:
        with closing(psycopg2.connect(dsn)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor
    except psycopg2.Error as error:
        raise SourceUnavailable(f"the demo lost its server: {error}") from error


def _value(cursor: Any, statement: str, *values: object) -> Any:
    cursor.execute(statement, values or None)
    (value,) = cursor.fetchone()
    return value


def _version(dsn: str) -> str:
    with _session(dsn) as cursor:
        return str(_value(cursor, "show server_version")).split()[0]


@contextmanager
def configuration(dsn: str, directory: Path, mode: Mode = "wal") -> Iterator[Config]:
    """The demo's configuration, for the database at `dsn`, with its state below `directory`."""
    environ = {"DATABASE_URL": dsn, "WAL_TRACKER_STATE": f"sqlite:///{directory / 'state.db'}"}
    with as_file(files("wal_tracker.demo").joinpath("config.yaml")) as path:
        config = load(path, environ)
        yield replace(config, source=replace(config.source, mode=mode))


@dataclass
class Background:
    """A function on a thread of its own, and what it raised."""

    work: Callable[[], None]
    on_failure: Callable[[], None]
    failure: BaseException | None = None
    _thread: threading.Thread = field(init=False)

    def start(self) -> None:
        """Begin."""
        # A daemon: a second Ctrl-C leaves without waiting for it; the server's watch tidies up.
        self._thread = threading.Thread(target=self._guarded, name="pipeline", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()

    def _guarded(self) -> None:
        try:
            self.work()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever joins
            self.failure = error
            self.on_failure()


class Stage:
    """Where the demo is seen: events on stdout; the talk beside them, or on stderr when stdout is for a machine."""

    def __init__(self, form: Format) -> None:
        self._form = form
        self._talk = sys.stdout if form == "pretty" else sys.stderr
        is_terminal = self._talk.isatty()
        self._palette = Palette(colours_wanted(is_terminal, os.environ))
        # Into a file or a pipe there is no edge of the screen; long lines are still no joy.
        self._width = shutil.get_terminal_size().columns if is_terminal else 120
        self._printer = EventPrinter(self._palette, width=self._width)

    def event_line(self, event: Deliverable) -> bytes:
        """An event as the person asked to see it."""
        if self._form == "json":
            return event.to_json()
        return self._encoded(self._printer.line(event))

    def introduce(self, version: str, config: Config) -> None:
        """What this is."""
        paint = self._palette.paint
        title = f"{paint('wal_tracker ' + __version__, BOLD)}  PostgreSQL {version}, started for this and gone with it"
        self._say(title)
        read = "its WAL" if config.source.mode == "wal" else "what its triggers capture (wal_level is replica)"
        self._say(
            paint(f"a shop with 5 tables and {WRITERS} busy writers; {len(config.rules)} rules read {read}:", DIM)
        )
        self._say(paint(str(config.path), DIM))

    def begin(self) -> None:
        """Events come next."""
        self._say("")
        if self._form == "pretty":
            self._say(self._printer.heading())

    def conclude(self, summary: Summary) -> None:
        """How it went."""
        for line in summary.lines(self._palette, width=self._width):
            self._say(line)

    def _say(self, line: str) -> None:
        stream = self._talk.buffer
        stream.write(self._encoded(line) + b"\n")
        stream.flush()

    def _encoded(self, line: str) -> bytes:
        encoding = self._talk.encoding or "utf-8"
        try:
            return line.encode(encoding)
        except UnicodeEncodeError:
            return line.translate(_PLAIN_SIGNS).encode(encoding, "replace")
