"""Destinations that get a part of what there is, on a real server."""

from __future__ import annotations

import hashlib
import hmac
import json

from tests.support import items
from tests.support.job import Job
from tests.support.postgres import Database


def pseudonym(text: str) -> str:
    """By the standard library."""
    return hmac.new(b"k3y", text.encode(), hashlib.sha256).hexdigest()


def test_each_destination_gets_its_part_of_every_change(database: Database) -> None:
    """Filter, `when` and lists, for events and for raw changes; ids and moments are everybody's."""
    database.sql(items.SCHEMA)
    config = items.config(database, hash_key="k3y")
    config["track"]["items.insert"]["distinct_id"] = "string(new.id)"
    config["destinations"] = {
        "file": {"path": "all.jsonl"},
        "part": {
            "kind": "file",
            "path": "part.jsonl",
            "filter": ["item_*", "!item_gone"],
            "when": "properties.version != 3 && source.table == 'items'",
            "properties": {"deny": ["note"], "hash": ["id", "distinct_id"]},
        },
        "fussy": {"kind": "file", "path": "fussy.jsonl", "when": "10 / (properties.version - 2) > 0"},
    }
    config["raw_db_event_destinations"] = {
        "changes": {
            "kind": "file",
            "path": "changes.jsonl",
            "filter": "!other",
            "when": "event.endsWith('.update')",
            "properties": {"allow": ["id", "big"], "hash": ["id"]},
        }
    }
    with Job(config) as job:
        job.apply()
        database.sql("insert into items values (1, 1, 'made', 'large')")
        database.sql("update items set version = 2")
        database.sql("update items set version = 3")
        database.sql("delete from items")
        job.catch_up()

        every, part = job.lines("all.jsonl"), job.lines("part.jsonl")
        assert [line["event"] for line in every] == ["item_made", "item_changed", "item_changed", "item_gone"]
        assert [line["id"] for line in part] == [line["id"] for line in every[:2]]
        assert [line["properties"] for line in part] == [
            {"id": pseudonym("1"), "version": 1},
            {"id": pseudonym("1"), "version": 2},
        ]
        assert (every[0]["distinct_id"], part[0]["distinct_id"]) == ("1", pseudonym("1"))
        assert all(line["timestamp"] == other["timestamp"] for line, other in zip(part, every, strict=False))

        changes = job.lines("changes.jsonl")
        assert [(line["key"], line["new"]) for line in changes] == [
            ({"id": pseudonym("1")}, {"id": pseudonym("1"), "big": "large"})
        ] * 2

        assert [line["properties"]["version"] for line in job.lines("fussy.jsonl")] == [3]
        letters = [json.loads(line) for line in job.run("dlq", "list", "--json").stdout.splitlines()]
        assert {(letter["destination"], letter["kind"], letter["rule"]) for letter in letters} == {
            ("fussy", "rule", "destinations.fussy.when")
        }
        # The division of version 2, and the delete, whose event has no version.
        assert len(letters) == 2

        path = job.directory / "wal_tracker.yaml"
        path.write_text(path.read_text().replace("10 / (properties.version - 2) > 0", "event == 'item_changed'"))
        done = job.run("dlq", "replay", "--all")
        assert done.returncode == 0, done.stderr
        assert [line["properties"]["version"] for line in job.lines("fussy.jsonl")] == [3, 2]


def test_a_when_that_cannot_be_stops_before_anything_is_touched(database: Database) -> None:
    """`validate` and `run` say where."""
    database.sql(items.SCHEMA)
    config = items.config(database)
    config["destinations"]["file"]["when"] = "evnt == 'x'"
    with Job(config) as job:
        job.apply()
        for arguments in (["validate"], ["run", "--until-caught-up"]):
            done = job.run(*arguments)
            assert done.returncode == 2
            assert "destinations.file.when" in done.stdout + done.stderr
        assert not (job.directory / "events.jsonl").exists()
