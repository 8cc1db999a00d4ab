"""`wal_tracker run`, whole, on a real server: what goes in as rows comes out as events."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import items
from tests.support.http_server import HttpServer, Reply
from tests.support.job import Job
from tests.support.postgres import Database, Server, wait_until

CANARY = "canary-7f3a-must-not-be-seen"


def test_a_missing_slot_is_said_and_apply_makes_it(database: Database) -> None:
    """`run` without its slot exits 3 and names the command; `run --apply` makes publication and slot and goes on."""
    database.sql(items.SCHEMA)
    with Job(items.config(database)) as job:
        refused = job.run("run", "--until-caught-up")
        assert refused.returncode == 3
        assert "run --apply" in refused.stderr
        done = job.run("run", "--apply", "--until-caught-up")
        assert done.returncode == 0, done.stderr
        database.sql("insert into items values (1, 1, 'made')")
        job.catch_up()
        assert [line["event"] for line in job.lines()] == ["item_made"]


def test_commits_that_are_not_on_disk_yet_belong_to_before_the_start(database: Database) -> None:
    """`--until-caught-up` waits for commits under synchronous_commit = off too."""
    database.sql(items.SCHEMA)
    with Job(items.config(database)) as job:
        job.apply()
        database.sql("set synchronous_commit = off; insert into items values (1, 1, 'made')")
        job.catch_up()
        assert len(job.lines()) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_first_signal_drains(database: Database, number: int, code: int) -> None:
    """What was read is delivered, stored and confirmed before the process leaves."""
    database.sql(items.SCHEMA)
    with Job(items.config(database)) as job:
        job.apply()
        job.start()
        database.sql("insert into items select i, 1, 'made' from generate_series(1, 5000) i")
        job.wait_for_lines(1)
        assert job.stop(number) == code, job.log_text()
        ((confirmed,),) = database.sql(
            "select confirmed_flush_lsn from pg_replication_slots where slot_name = %s", job.config["source"]["slot"]
        )
        (cursor,) = json.loads(job.run("status", "--json").stdout)["destinations"]
        assert cursor["lsn"] == confirmed
        job.catch_up()
        items.judge(database, job.lines())


def test_a_second_signal_leaves_at_once_and_loses_nothing(database: Database) -> None:
    """A destination that hangs does not hold the process; its event comes again."""
    database.sql(items.SCHEMA)
    config = items.config(database)
    with HttpServer() as receiver:
        receiver.script.append(Reply(fault="hang"))
        config["destinations"] = {"webhook": {"url": receiver.url("/"), "allow_private": True}}
        with Job(config) as job:
            job.apply()
            process = job.start()
            database.sql("insert into items values (1, 1, 'made')")
            # The event is on its way, so it has been read, and cannot be delivered: that is what the second one is for.
            wait_until(lambda: len(receiver.requests) == 1)
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: "a second signal leaves at once" in job.log_text())
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 128 + signal.SIGTERM
            assert receiver.stored == {}
            job.catch_up()
        first, second = receiver.requests
        assert first.body == second.body
        assert [json.loads(body)["properties"]["id"] for body in receiver.stored.values()] == [1]


def test_context_and_explicit_events_travel_with_their_transaction(database: Database) -> None:
    """Context reaches the changes after it, an emitted event is an event; rolled back, neither ever was."""
    database.sql(items.SCHEMA)
    config = items.config(database)
    config["track"] = {
        "items.insert": {
            "event": "item_made",
            "properties": {"id": "new.id", "by": "has(ctx.user_id) ? ctx.user_id : 0"},
        },
        "message.audit": {"event": "audited", "properties": {"what": "message.data.what", "by": "ctx.user_id"}},
    }
    with Job(config) as job:
        job.apply()
        connection = database.connect()
        cursor = connection.cursor()
        cursor.execute("begin")
        cursor.execute("insert into items values (1, 1, 'before the context')")
        cursor.execute("select pg_logical_emit_message(true, 'wal_tracker.context', '{\"user_id\": 42}')")
        cursor.execute("insert into items values (2, 1, 'after')")
        cursor.execute("select pg_logical_emit_message(true, 'audit', '{\"what\": \"login\"}')")
        explicit = '{"event": "explicit", "distinct_id": "u1", "properties": {"n": 1.50}}'
        cursor.execute("select wal_tracker.emit(%s::jsonb)", (explicit,))
        cursor.execute("commit")
        cursor.execute("begin")
        cursor.execute("select wal_tracker.emit('{\"event\": \"never\"}'::jsonb)")
        cursor.execute("rollback")
        connection.close()
        job.catch_up()
        made = [(line["event"], line.get("distinct_id"), line["properties"]) for line in job.lines()]
        assert made == [
            ("item_made", None, {"id": 1, "by": 0}),
            ("item_made", None, {"id": 2, "by": 42}),
            ("audited", None, {"what": "login", "by": 42}),
            ("explicit", "u1", {"n": 1.5}),
        ]
        assert len({line["timestamp"] for line in job.lines()}) == 1


def test_an_event_nobody_can_read_is_a_dead_letter_and_can_be_replayed(database: Database) -> None:
    """A rule error stops nothing; after the rule is mended `dlq replay` delivers what it had refused."""
    database.sql(items.SCHEMA)
    config = items.config(database)
    properties = {"id": "new.id", "part": "100 / new.version"}
    config["track"] = {"items.insert": {"event": "item_made", "properties": properties}}
    with Job(config) as job:
        job.apply()
        database.sql("insert into items values (1, 0, 'made'), (2, 50, 'made')")
        job.catch_up()
        assert [line["properties"] for line in job.lines()] == [{"id": 2, "part": 2}]
        (letter,) = [json.loads(line) for line in job.run("dlq", "list", "--json").stdout.splitlines()]
        assert letter["kind"] == "rule" and "zero" in letter["reason"]
        still = job.run("dlq", "replay", "--all")
        assert still.returncode == 1 and "0 delivered, 1 not" in still.stderr
        mended = job.directory / "wal_tracker.yaml"
        mended.write_text(mended.read_text().replace("100 / new.version", "100 / (new.version + 1)"))
        done = job.run("dlq", "replay", "--all")
        assert done.returncode == 0, done.stderr
        assert job.lines()[-1]["properties"] == {"id": 1, "part": 100}
        job.catch_up()
        assert len(job.lines()) == 2


def test_raw_changes_have_the_shape_of_the_documents(database: Database) -> None:
    """`raw_db_event_destinations` get every change of the tables their filter names, without ignored columns."""
    database.sql(items.SCHEMA)
    config = items.config(database, ignore={"items": ["big"]})
    config["raw_db_event_destinations"] = {"changes": {"kind": "file", "path": "changes.jsonl", "filter": "items"}}
    with Job(config) as job:
        job.apply()
        database.sql(f"insert into items values (1, 1, 'made', '{CANARY}')")
        database.sql("update items set version = 2")
        database.sql("truncate items")
        job.catch_up()
        made, changed, emptied = job.lines("changes.jsonl")
        assert (made["op"], made["new"], made["old"]) == ("insert", {"id": 1, "version": 1, "note": "made"}, None)
        assert (changed["op"], changed["key"], changed["old"]) == ("update", {"id": 1}, {"id": 1})
        assert emptied["op"] == "truncate" and emptied["new"] is None
        assert set(made) >= {"commit_lsn", "ordinal", "xid", "commit_time", "context", "unchanged"}
        (gap,) = json.loads(job.run("status", "--json").stdout)["gaps"]
        assert gap["reason"] == "truncate"


def test_an_ignored_column_appears_nowhere(database: Database) -> None:
    """Not in a destination, the log, a dead letter or the state file, also when rules fail and destinations refuse."""
    database.sql(items.SCHEMA)
    config = items.config(database, ignore={"items": ["big"]})
    config["track"]["items.update"]["properties"]["part"] = "1 / (new.version - 2)"
    config["raw_db_event_destinations"] = {"changes": {"kind": "file", "path": "changes.jsonl"}}
    with Job(config) as job:
        database.sql("alter table items replica identity full")
        job.apply()
        database.sql(f"insert into items values (1, 1, 'made', '{CANARY}')")
        database.sql(f"update items set version = 2, big = '{CANARY}!'")
        database.sql("delete from items")
        job.start("--log-level", "debug", "run", "--until-caught-up")
        assert job.wait() == 0, job.log_text()
        assert len(job.run("dlq", "list", "--json").stdout.splitlines()) == 1
        for path in job.directory.iterdir():
            assert CANARY.encode() not in path.read_bytes(), f"seen in {path.name}"


@pytest.mark.parametrize("major", [14, 15, 16, 17])
def test_every_supported_server_is_a_source(server: Callable[..., Server], major: int) -> None:
    """The whole walk on each major but the session's own: set up, crash, catch up, count, take down."""
    own = server(major)
    database = own.create_database()
    database.sql(items.SCHEMA)
    with Job(items.config(database)) as job:
        job.apply()
        with items.Writers(database) as writers:
            job.start()
            job.wait_for_lines(100)
            job.kill9()
            writers.stop()
        job.catch_up()
        items.judge(database, job.lines())
        assert job.run("drop", "--yes").returncode == 0
        assert not own.sql("select 1 from pg_replication_slots")


@pytest.mark.wal2json
def test_wal2json_makes_the_same_events(wal2json_server: Server) -> None:
    """The same commits through either output plugin are the same events, byte for byte but for nothing."""
    database = wal2json_server.create_database()
    database.sql(items.SCHEMA)
    with Job(items.config(database)) as one:
        config = items.config(database)
        config["source"].update(plugin="wal2json", slot=f"wj_{database.name}")
        with Job(config) as other:
            one.apply()
            other.apply()
            with items.Writers(database) as writers:
                wait_until(lambda: database.sql("select count(*) > 300 from items")[0][0])
                writers.stop()
            one.catch_up()
            other.catch_up()
            items.judge(database, one.lines())
            assert one.lines() == other.lines()
    database.drop()


@pytest.mark.standby
def test_a_standby_is_a_source(standby: Server) -> None:
    """The publication is made through the primary, the slot on the standby; the primary's commits come out."""
    assert standby.primary is not None
    database = standby.primary.create_database(f"standby_run_{standby.port}")
    database.sql(items.SCHEMA)
    standby.catch_up()
    config = items.config(database)
    config["source"].update(dsn=standby.dsn(database.name), primary_dsn=database.dsn)
    with Job(config) as job:
        job.apply()
        job.start()
        with items.Writers(database) as writers:
            job.wait_for_lines(200)
            writers.stop()
        standby.catch_up()
        assert job.stop() == 0, job.log_text()
        job.catch_up()
        items.judge(database, job.lines())
        dropped = job.run("drop", "--yes")
        assert dropped.returncode == 0, dropped.stderr
        assert not standby.sql("select 1 from pg_replication_slots where slot_type = 'logical'")


def test_a_new_destination_begins_where_the_others_stand(database: Database) -> None:
    """It gets what comes after it was added, and holds nobody back."""
    database.sql(items.SCHEMA)
    config: dict[str, Any] = items.config(database)
    with Job(config) as job:
        job.apply()
        database.sql("insert into items values (1, 1, 'made')")
        job.catch_up()
        path = job.directory / "wal_tracker.yaml"
        late = "destinations:\n  late: {kind: file, path: late.jsonl}\n"
        path.write_text(path.read_text().replace("destinations:\n", late))
        database.sql("insert into items values (2, 1, 'made')")
        job.catch_up()
        assert [line["properties"]["id"] for line in job.lines()] == [1, 2]
        assert [line["properties"]["id"] for line in job.lines("late.jsonl")] == [2]
