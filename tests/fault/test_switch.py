"""
The change of mode, both ways, while everybody writes: every committed change exactly once, whatever dies when.

The file destination takes back what a crash left beyond its stored mark, so that here "at least once" is "once"; a
destination that cannot gets the same ids again.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
import yaml

from tests.support import items
from tests.support.job import Job
from tests.support.postgres import Database, Server, wait_until
from wal_tracker.config.load import load
from wal_tracker.source import setup

CONTEXT = {"by": "has(ctx.n) ? ctx.n : 0"}


class Emitter:
    """Transactions with a context, a row and an explicit event, some of them long, some rolled back; until stopped."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self.committed: list[int] = []
        self._thread = threading.Thread(target=self._guarded, daemon=True)

    def __enter__(self) -> Emitter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let the transaction that is open end."""
        self._stop.set()
        self._thread.join(30)
        if self._error is not None:
            raise self._error

    def _guarded(self) -> None:
        try:
            self._emit()
        except BaseException as error:  # noqa: BLE001 - raised again by stop()
            self._error = error

    def _emit(self) -> None:
        connection = psycopg2.connect(self._database.dsn)
        cursor = connection.cursor()
        number = 50_000_000
        while not self._stop.is_set():
            number += 1
            cursor.execute("select wal_tracker.set_context(%s)", (json.dumps({"n": number}),))
            if number % 3:
                cursor.execute("insert into items values (%s, 1, 'made')", (number,))
            said = {"event": "said", "properties": {"n": number}}
            cursor.execute("select wal_tracker.emit(%s)", (json.dumps(said),))
            # Some stay open while the mode changes under them.
            self._stop.wait(0.4 if number % 16 == 0 else 0.003)
            if number % 7 == 0:
                connection.rollback()
                continue
            connection.commit()
            self.committed.append(number)
        connection.close()

    def judge(self, events: list[dict[str, Any]]) -> None:
        """Each event that was committed is there once, in order, and each row has its transaction's context."""
        assert [event["properties"]["n"] for event in events if event["event"] == "said"] == self.committed
        made = {
            event["properties"]["id"]: event["properties"]["by"] for event in events if event["event"] == "item_made"
        }
        assert {row: by for row, by in made.items() if row > 50_000_000} == {
            number: number for number in self.committed if number % 3
        }


def parsed(line: str) -> Any:
    """A line as JSON; None where it is none."""
    try:
        return json.loads(line)
    except ValueError:
        return None


class Switched(Job):
    """A job whose mode changes, over the workload of `items` and `Emitter`; events go to the file and to stdout."""

    def __init__(self, database: Database) -> None:
        config = items.config(database)
        config["track"]["items.insert"]["properties"].update(CONTEXT)
        config["destinations"]["stdout"] = {}
        super().__init__(config)
        self.database = database

    def set_mode(self, mode: str) -> None:
        """Change the configuration."""
        self.config["source"]["mode"] = mode
        (self.directory / "wal_tracker.yaml").write_text(yaml.safe_dump(self.config, sort_keys=False))

    def change_to(self, mode: str) -> None:
        """Change the configuration, and `apply` it, in this process."""
        self.set_mode(mode)
        setup.apply(setup.desired(load(self.directory / "wal_tracker.yaml", {})))

    def crash(self, failpoint: str, *arguments: str) -> None:
        """`run`, or another command, until it kills itself there."""
        self.start(*arguments, failpoints=f"{failpoint}=kill")
        assert self.wait() == -9, self.log_text()
        self.expire_lease()

    def kill9(self) -> None:
        """As a power cut."""
        super().kill9()
        self.expire_lease()

    def expire_lease(self) -> None:
        """The outbox's lease of a process that was killed runs out: we do not wait ten seconds for it."""
        if self.leftovers()[1]:
            self.database.sql("update wal_tracker.reader set lease_until = now()")

    def wait_for_mode(self, mode: str) -> None:
        """Wait until events come by this mode."""
        path = self.directory / "events.jsonl"

        def came() -> bool:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - 5000))
                return f'"mode":"{mode}"'.encode() in file.read()

        wait_until(came, timeout_s=60)

    def judge(self, emitter: Emitter) -> None:
        """Hold the file against what was committed; stdout, which takes nothing back, may have some of it twice."""
        events = self.lines()
        ids = [event["id"] for event in events]
        assert len(ids) == len(set(ids)), "an event came twice"
        assert {event["source"]["mode"] for event in events} == {"wal", "trigger"}
        emitter.judge(events)
        items.judge(self.database, [event for event in events if event["event"] != "said"])
        # What kills the process may tear the line it is writing.
        told = [
            event for event in map(parsed, self.log_text().splitlines()) if isinstance(event, dict) and "id" in event
        ]
        assert {event["id"] for event in told} == set(ids)
        by_id = {event["id"]: event for event in events}
        assert all(by_id[event["id"]] == event for event in told)

    def status(self) -> Any:
        """What `status` says, as JSON."""
        return json.loads(self.run("status", "--json").stdout)

    def leftovers(self) -> tuple[int, bool, int]:
        """Slots, whether there is an outbox, and triggers of ours."""
        ((slots, outbox, triggers),) = self.database.sql(
            "select (select count(*) from pg_replication_slots where database = current_database()),"
            " to_regclass('wal_tracker.outbox') is not null,"
            " (select count(*) from pg_trigger where tgname ~ '^00_wal_tracker_capture')"
        )
        return slots, outbox, triggers


@pytest.fixture
def job(database: Database) -> Iterator[Switched]:
    """A job over the workload's table."""
    database.sql(items.SCHEMA)
    with Switched(database) as made:
        yield made


def test_back_and_forth_under_load_everything_comes_once(job: Switched) -> None:
    """Three changes of mode, with a worker and writers running throughout; the old worker ends, a new one goes on."""
    job.change_to("trigger")
    with items.Writers(job.database, threads=3) as writers, Emitter(job.database) as emitter:
        job.start()
        job.wait_for_lines(50)
        for mode in ("wal", "trigger", "wal"):
            job.change_to(mode)
            # The worker of the old mode ends by itself, at the boundary, with a word of what is to be done.
            assert job.wait() == 3, job.log_text()
            assert f"wal_tracker run --mode={mode}" in job.log_text()
            job.start()
            job.wait_for_mode(mode)
        writers.stop()
        emitter.stop()
        assert job.stop() == 0
    job.start("run", "--until-caught-up")
    assert job.wait() == 0, job.log_text()
    job.judge(emitter)
    assert job.leftovers() == (1, False, 0)


@pytest.mark.parametrize(
    ("mode", "in_apply", "in_run"),
    [
        (
            "wal",
            ["switch_slot_made", "switch_boundary_stored"],
            ["switch_drained", "switch_marker_read", "switch_rebased", "switch_finished"],
        ),
        (
            "trigger",
            ["switch_boundary_stored"],
            ["switch_marker_read", "switch_drained", "switch_rebased", "switch_slot_dropped", "switch_finished"],
        ),
    ],
)
def test_a_crash_at_any_step_is_resumed_by_the_same_command(
    job: Switched, mode: str, in_apply: list[str], in_run: list[str]
) -> None:
    """`kill -9` at one step after the other; whoever was killed is started again, and every change comes once."""
    job.change_to("trigger" if mode == "wal" else "wal")
    with items.Writers(job.database, threads=1) as writers, Emitter(job.database) as emitter:
        job.start()
        job.wait_for_lines(30)
        job.kill9()
        job.set_mode(mode)
        for failpoint in in_apply:
            job.crash(failpoint, "apply", "--yes")
        job.change_to(mode)
        for failpoint in in_run:
            job.crash(failpoint)
        job.start()
        job.wait_for_mode(mode)
        job.kill9()
        writers.stop()
        emitter.stop()
    job.start("run", "--until-caught-up")
    assert job.wait() == 0, job.log_text()
    job.judge(emitter)
    assert job.leftovers() == ((1, False, 0) if mode == "wal" else (0, True, 2))


def said(job: Switched) -> list[Any]:
    """What the explicit events say, in the order of the file."""
    return [event["properties"]["n"] for event in job.lines() if event["event"] == "said"]


def emit(cursor: Any, number: int) -> None:
    """An explicit event."""
    cursor.execute("select wal_tracker.emit(%s)", (json.dumps({"event": "said", "properties": {"n": number}}),))


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_a_transaction_that_began_before_the_change_and_writes_after_it(job: Switched, isolation: str) -> None:
    """It had touched nothing of ours, so nobody waited for it; its session remembers what there was. It comes once."""
    job.change_to("wal")
    with contextlib.closing(job.database.connect()) as connection:
        cursor = connection.cursor()
        emit(cursor, 0)
        for number, mode in ((1, "trigger"), (2, "wal")):
            # So that the session has seen how it was before.
            emit(cursor, 10 * number)
            cursor.execute(f"begin isolation level {isolation}")
            cursor.execute("select 1")
            job.change_to(mode)
            job.catch_up()
            emit(cursor, 10 * number + 1)
            cursor.execute("insert into items values (%s, 1, 'made')", (number,))
            cursor.execute("commit")
            job.catch_up()
    assert said(job) == [0, 10, 11, 20, 21]
    assert [line["properties"]["id"] for line in job.lines() if line["event"] == "item_made"] == [1, 2]


def test_a_signal_while_the_old_side_is_read_loses_nothing(job: Switched) -> None:
    """SIGTERM drains and leaves with 0; the next `run` goes on where it was, either way."""
    job.change_to("trigger")
    number = 0
    for mode in ("wal", "trigger"):
        job.database.sql(f"insert into items select i, 1, 'made' from generate_series({number}, {number + 9999}) i")
        number += 10_000
        job.change_to(mode)
        job.database.sql("insert into items values (%s, 1, 'made')", number)
        number += 1
        job.start()
        job.wait_for_lines(number - 10_000)
        assert job.stop() == 0, job.log_text()
        job.catch_up()
    assert [line["properties"]["id"] for line in job.lines()] == list(range(number))


def test_it_is_so_on_the_oldest_server(server: Callable[..., Server]) -> None:
    """There and back, with writers, on PostgreSQL 14."""
    database = server(14).create_database()
    database.sql(items.SCHEMA)
    with Switched(database) as job:
        job.change_to("trigger")
        with items.Writers(database, threads=1) as writers, Emitter(database) as emitter:
            for mode in ("wal", "trigger"):
                job.start()
                job.wait_for_lines(len(job.lines()) + 10)
                job.change_to(mode)
                assert job.wait() == 3, job.log_text()
            writers.stop()
            emitter.stop()
        job.start("run", "--until-caught-up")
        assert job.wait() == 0, job.log_text()
        job.judge(emitter)


@pytest.mark.standby
def test_a_standby_is_the_source_afterwards(standby: Server) -> None:
    """From triggers on the primary to a slot on its standby, and back."""
    assert standby.primary is not None
    database = standby.primary.create_database()
    database.sql(items.SCHEMA)
    with Switched(database) as job, standby.primary.snapshots():
        standby.catch_up()
        job.config["source"].update(dsn=standby.dsn(database.name), primary_dsn=database.dsn)
        job.change_to("trigger")
        with items.Writers(database, threads=1) as writers, Emitter(database) as emitter:
            for mode in ("wal", "trigger"):
                job.start()
                job.wait_for_lines(len(job.lines()) + 10)
                job.change_to(mode)
                assert job.wait() == 3, job.log_text()
            writers.stop()
            emitter.stop()
        standby.catch_up()
        job.start("run", "--until-caught-up")
        assert job.wait() == 0, job.log_text()
        job.judge(emitter)
    database.drop()
