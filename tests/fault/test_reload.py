"""SIGHUP while changes are being delivered: keys change hands, and every event arrives once."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import items
from tests.support.http_server import HttpServer, Reply, Request
from tests.support.job import Job
from tests.support.postgres import Database, wait_until


class Receiver(HttpServer):
    """A webhook's receiver that knows whom it lets in, and keeps each event once, by its id."""

    def __init__(self) -> None:
        super().__init__()
        self.accepted = {"key-one"}
        self.keys: list[str] = []
        """Of every request that was let in, in order."""

    def handle(self, request: Request) -> Reply:
        key = request.headers.get("x-key", "")
        if key not in self.accepted:
            return Reply(401, b"who are you?")
        self.keys.append(key)
        event = request.json()
        self.stored.setdefault(event["id"], event)
        return Reply()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook's receiver."""
    with Receiver() as made:
        yield made


def config(database: Database, receiver: Receiver) -> dict[str, Any]:
    """Its key stands in a file of its own."""
    made = items.config(database)
    made["destinations"] = {
        "webhook": {"url": receiver.url("/events"), "allow_private": True, "headers": {"X-Key": "file:key"}}
    }
    return made


def put(path: Path, text: str) -> None:
    """Replace a file as orchestrators do: in one step."""
    path.with_suffix(".new").write_text(text)
    os.replace(path.with_suffix(".new"), path)


def hang_up(job: Job) -> None:
    """What a reload is asked for with."""
    assert job.process is not None
    job.process.send_signal(signal.SIGHUP)


def test_a_key_is_rotated_under_load(database: Database, receiver: Receiver) -> None:
    """New key into its file, SIGHUP, old key revoked: nothing lost, nothing twice, nothing out of order."""
    database.sql(items.SCHEMA)
    with Job(config(database, receiver)) as job:
        put(job.directory / "key", "key-one\n")
        job.apply()
        with items.Writers(database) as writers:
            job.start()
            wait_until(lambda: len(receiver.keys) > 50)
            receiver.accepted = {"key-one", "key-two"}
            put(job.directory / "key", "key-two\n")
            hang_up(job)
            wait_until(lambda: "key-two" in receiver.keys)
            receiver.accepted = {"key-two"}
            seen = len(receiver.keys)
            wait_until(lambda: len(receiver.keys) > seen + 50)
            writers.stop()
        assert job.stop() == 0, job.log_text()
        job.catch_up()

        assert len(receiver.keys) == len(receiver.stored), "an event came twice"
        assert receiver.keys == sorted(receiver.keys), "the old key was used after the new one"
        assert "key-one" not in job.log_text() and "key-two" not in job.log_text()
        items.judge(database, list(receiver.stored.values()))
        assert json_letters(job) == []


def json_letters(job: Job) -> list[str]:
    """What `dlq list` knows."""
    return job.run("dlq", "list", "--json").stdout.splitlines()


def test_a_revoked_key_stops_the_process_and_the_new_one_goes_on(database: Database, receiver: Receiver) -> None:
    """Without a reload in time `run` leaves with 1, and no event becomes a dead letter."""
    database.sql(items.SCHEMA)
    with Job(config(database, receiver)) as job:
        put(job.directory / "key", "key-one")
        job.apply()
        job.start()
        database.sql("insert into items values (1, 1, 'made')")
        wait_until(lambda: len(receiver.stored) == 1)
        receiver.accepted = {"key-two"}
        database.sql("insert into items values (2, 1, 'made')")
        assert job.wait() == 1
        put(job.directory / "key", "key-two")
        job.catch_up()

        assert [event["properties"]["id"] for event in receiver.stored.values()] == [1, 2]
        assert json_letters(job) == []


def test_a_revoked_key_stops_nobody_else_and_a_reload_brings_a_new_one(database: Database, receiver: Receiver) -> None:
    """Beside another destination: its events wait in its spool, the other has its own, and no position stands still."""
    database.sql(items.SCHEMA)
    given = config(database, receiver)
    given["delivery"] = {"spool_after_s": 0.1, "retry_base_s": 0.05, "retry_cap_s": 0.1}
    given["destinations"]["file"] = {"path": "events.jsonl"}
    with Job(given) as job:
        put(job.directory / "key", "key-one")
        job.apply()
        job.start()
        database.sql("insert into items values (1, 1, 'made')")
        wait_until(lambda: len(receiver.stored) == 1)
        receiver.accepted = {"key-two"}
        for number in range(2, 30):
            database.sql("insert into items values (%s, 1, 'made')", number)
        wait_until(lambda: len(job.lines()) == 29)
        wait_until(lambda: "a destination refuses us, and needs a person" in job.log_text())
        wait_until(lambda: list(job.directory.glob("*.spool/*/*.spool")))
        put(job.directory / "key", "key-two")
        hang_up(job)
        wait_until(lambda: len(receiver.stored) == 29)
        assert job.stop() == 0

        assert [event["properties"]["id"] for event in receiver.stored.values()] == list(range(1, 30))
        assert json_letters(job) == []


def test_a_configuration_that_cannot_be_used_changes_nothing(database: Database, receiver: Receiver) -> None:
    """It is said, without the secret; so is what needs a restart. Then the mended one is taken."""
    database.sql(items.SCHEMA)
    with Job(config(database, receiver)) as job:
        put(job.directory / "key", "key-one")
        job.apply()
        job.start()
        database.sql("insert into items values (1, 1, 'made')")
        wait_until(lambda: len(receiver.stored) == 1)

        (job.directory / "key").unlink()
        hang_up(job)
        wait_until(lambda: "the file 'key' cannot be read: No such file or directory" in job.log_text())
        database.sql("insert into items values (2, 1, 'made')")
        wait_until(lambda: len(receiver.stored) == 2)

        receiver.accepted = {"key-one", "key-two"}
        put(job.directory / "key", "key-two")
        path = job.directory / "wal_tracker.yaml"
        path.write_text(path.read_text().replace("new.note", "new.note + '!'"))
        hang_up(job)
        wait_until(lambda: "restart to apply" in job.log_text())
        database.sql("insert into items values (3, 1, 'made')")
        wait_until(lambda: len(receiver.stored) == 3)

        assert receiver.keys == ["key-one", "key-one", "key-two"]
        assert [event["properties"]["note"] for event in receiver.stored.values()] == ["made"] * 3
        assert "changed=track" in job.log_text()
        assert job.stop() == 0


def test_a_hang_up_while_it_gets_ready_does_not_end_it() -> None:
    """An orchestrator may send one at any time; here while a server lets it wait."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        dsn = f"host=127.0.0.1 port={server.getsockname()[1]} dbname=x user=x"
        with Job({"source": {"dsn": dsn}, "track": items.CONFIG_RULES}) as job:
            job.start()
            server.settimeout(30)
            connection, _ = server.accept()
            hang_up(job)
            connection.close()
            assert job.wait() == 1, job.log_text()
            assert "server closed the connection" in job.log_text()


def test_a_file_destination_goes_on_in_the_same_file(database: Database) -> None:
    """It holds its file alone, so it is let go of before it is opened anew, with its mark."""
    database.sql(items.SCHEMA)
    with Job(items.config(database)) as job:
        job.apply()
        with items.Writers(database) as writers:
            job.start()
            job.wait_for_lines(50)
            for _ in range(3):
                told = job.log_text().count("goes on with its new options")
                hang_up(job)
                wait_until(lambda told=told: job.log_text().count("goes on with its new options") > told)
            writers.stop()
        assert job.stop() == 0, job.log_text()
        job.catch_up()

        items.judge(database, job.lines())
        assert len({line["id"] for line in job.lines()}) == len(job.lines())
