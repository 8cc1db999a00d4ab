"""A whole job over the `postgres` destination: `kill -9`, a lost state store, and tables in the tracked database."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.support import items
from tests.support.job import Job
from tests.support.postgres import Database, wait_until

TABLE = "public.wal_tracker_events"


def _config(database: Database, target: Database, **more: Any) -> dict[str, Any]:
    destination = {"dsn": target.dsn, "create": True, "delivery": {"max_batch_events": 20}}
    return items.config(database, destinations={"postgres": destination, "file": {"path": "events.jsonl"}}, **more)


@pytest.fixture
def target(postgres: Any) -> Any:
    """Another database, where the table is."""
    made = postgres.create_database()
    yield made
    made.drop()


def _rows(target: Database) -> list[dict[str, Any]]:
    """The events in the table, transaction by transaction as they were inserted."""
    rows = target.sql(
        "select event_id::text, event, distinct_id, properties, source "
        f"from {TABLE} order by xmin::text::bigint, commit_lsn, (source ->> 'ordinal')::int"
    )
    return [dict(zip(("id", "event", "distinct_id", "properties", "source"), row, strict=True)) for row in rows]


@pytest.mark.of_kind("postgres")
@pytest.mark.parametrize(
    ("moment", "passages"),
    [
        ("before_destination", (3, 2)),
        ("after_destination_before_state", (3, 2)),
        ("after_state_before_confirm", (1, 1)),
    ],
)
def test_killed_between_request_and_acknowledgement_each_event_is_one_row(
    database: Database, target: Database, moment: str, passages: tuple[int, int]
) -> None:
    """What the table has comes again after kill -9; the rows add up to the tracked table, in order."""
    database.sql(items.SCHEMA)
    with Job(_config(database, target)) as job:
        job.apply()
        for passage in passages:
            with items.Writers(database, threads=2, seed=passage) as writers:
                wait_until(lambda: database.sql("select count(*) > 100 from items") == [(True,)])
                writers.stop()
            process = job.start("run", "--until-caught-up", failpoints=f"{moment}=kill@{passage}")
            assert process.wait(60) == -signal.SIGKILL, job.log_text()
            database.sql("delete from items")
        job.catch_up()
        items.judge(database, _rows(target))
        assert [row["id"] for row in _rows(target)] == [event["id"] for event in job.lines()]


def test_killed_while_the_server_commits_each_event_is_one_row(database: Database, target: Database) -> None:
    """The process is gone and its transaction is not: the one that comes after it waits, and writes nothing twice."""
    database.sql(items.SCHEMA)
    with Job(_config(database, target)) as job:
        job.apply()
        database.sql("insert into items values (0, 1, 'made')")
        job.catch_up()
        target.sql(
            "create function linger() returns trigger language plpgsql "
            "as $$ begin perform pg_sleep(1); return null; end $$"
        )
        target.sql(
            f"create constraint trigger linger after insert on {TABLE} deferrable initially deferred for each row "
            "when (new.event = 'item_gone') execute function linger()"
        )
        database.sql("insert into items select i, 1, 'made' from generate_series(1, 9) i")
        database.sql("delete from items where id = 5")
        job.start()
        wait_until(
            lambda: target.sql(
                "select 1 from pg_stat_activity where datname = %s and query = 'COMMIT' and wait_event = 'PgSleep'",
                target.name,
            )
        )
        job.kill9()
        job.catch_up()
        rows = _rows(target)
        assert len(rows) == 11
        items.judge(database, rows)


def test_a_state_store_that_is_lost_brings_every_event_once(database: Database, target: Database) -> None:
    """Without positions everything the slot still has comes again."""
    database.sql(items.SCHEMA)
    with Job(_config(database, target)) as job:
        job.apply()
        database.sql("insert into items select i, 1, 'made' from generate_series(1, 30) i")
        copy = job.directory / "kept.db"
        job.catch_up()
        store = job.directory / "wal_tracker.db"
        copy.write_bytes(store.read_bytes())
        database.sql("update items set version = 2, note = 'changed'")
        job.catch_up()
        database.sql("select pg_drop_replication_slot(%s)", job.config["source"]["slot"])
        store.unlink()
        job.apply()
        database.sql("update items set version = 3, note = 'changed'")
        job.catch_up()
        items.judge(database, _rows(target))


@pytest.mark.parametrize("mode", ["wal", "trigger"])
def test_a_table_in_the_tracked_database_does_not_feed_itself(database: Database, mode: str) -> None:
    """It is neither published nor captured, for events and for raw changes of every table."""
    database.sql(items.SCHEMA)
    config = _config(database, database)
    config["source"]["mode"] = mode
    del config["destinations"]["file"]
    config["raw_db_event_destinations"] = {
        "changes": {"kind": "postgres", "dsn": database.dsn, "create": True, "table": "public.raw", "filter": "*"}
    }
    with Job(config) as job:
        job.apply()
        database.sql("insert into items select i, 1, 'made' from generate_series(1, 5) i")
        for _ in range(3):
            job.catch_up()
        job.apply()
        database.sql("insert into items values (6, 1, 'made')")
        for _ in range(2):
            job.catch_up()
    assert [row["properties"]["id"] for row in _rows(database)] == [1, 2, 3, 4, 5, 6]
    assert database.sql("select count(*) from raw") == [(6,)]
    assert database.sql("select destination, batches >= 2, events from wal_tracker_position order by 1") == [
        ("changes", True, 6),
        ("postgres", True, 6),
    ]


def test_a_publication_of_all_tables_is_a_loop_that_stops_at_its_first_turn(database: Database) -> None:
    """Where somebody publishes everything and every change is wanted, our own rows come back: told, and not written."""
    database.sql(items.SCHEMA)
    database.sql("create publication wal_tracker for all tables")
    config = _config(database, database)
    config["destinations"] = {}
    changes = {"kind": "postgres", "dsn": database.dsn, "create": True, "filter": "*"}
    config["raw_db_event_destinations"] = {"changes": changes}
    with Job(config) as job:
        job.apply()
        database.sql("insert into items values (1, 1, 'made')")
        job.start()
        assert job.wait() == 1
        assert "without end" in job.log_text() and "filter" in job.log_text()
        assert database.sql(f"select event from {TABLE} where event <> 'public.items.insert'") == []
        assert job.run("dlq", "list", "--json").stdout == ""
        job.start()
        assert job.wait() == 1
    changes["filter"] = "items"
    with Job(config) as job:
        database.sql("insert into items values (2, 1, 'made')")
        job.catch_up()
        job.catch_up()
    assert database.sql(f"select properties -> 'new' -> 'id' from {TABLE}") == [(1,), (2,)]


def test_dead_letters_are_replayed_into_the_table(database: Database, target: Database) -> None:
    """An old event after new ones: its LSN is below the position, and it is a row all the same."""
    database.sql(items.SCHEMA)
    with Job(_config(database, target)) as job:
        job.apply()
        database.sql("insert into items values (1, 1, 'made')")
        job.catch_up()
        target.sql(f"alter table {TABLE} add constraint fussy check (properties ->> 'note' <> 'bad') not valid")
        database.sql("insert into items values (2, 1, 'bad'), (3, 1, 'made')")
        job.catch_up()
        database.sql("insert into items values (4, 1, 'made')")
        job.catch_up()
        (letter,) = map(json.loads, job.run("dlq", "list", "--json").stdout.splitlines())
        assert "fussy" in letter["reason"]
        target.sql(f"alter table {TABLE} drop constraint fussy")
        replayed = job.run("dlq", "replay", "--all")
        assert replayed.returncode == 0, replayed.stderr
        assert [row["properties"]["id"] for row in _rows(target)] == [1, 3, 4, 2]
        job.catch_up()
        assert len(_rows(target)) == 4
