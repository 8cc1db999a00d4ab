"""`status`, `dlq replay` and `plugins` beside a real pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.moody import MoodyReceiver
from tests.support.postgres import Database, wait_until
from tests.support.project import RULES, Project


@pytest.fixture
def project(database: Database, tmp_path: Path) -> Project:
    """A project, not yet applied."""
    database.sql("create table users (id bigint primary key, email text)")
    return Project(tmp_path, database)


def events(project: Project) -> list[Any]:
    """What the destination holds."""
    if not project.events_path.exists():
        return []
    return [json.loads(line) for line in project.events_path.read_text().splitlines()]


def test_status_without_the_slot_says_how_it_is_made(project: Project) -> None:
    """Exit 1."""
    done = project.run("status")
    assert done.code == 1
    assert "wal_tracker apply" in done.stdout


def test_status_tells_positions_and_distances(project: Project) -> None:
    """Healthy after a run; what is written since shows as lag, in bytes."""
    project.run("apply", "--yes")
    project.users((1, "a@x"))
    assert project.finished("run", "--until-caught-up").code == 0
    first = project.run("status", "--json")
    assert (first.code, first.json()["healthy"]) == (0, True)
    project.users((2, "b@x"))
    document = project.run("status", "--json").json()
    assert document["slot"]["lag_bytes"] > first.json()["slot"]["lag_bytes"]
    (destination,) = document["destinations"]
    assert destination["name"] == "file"
    assert destination["behind_bytes"] > 0
    assert document["slot"]["retained_bytes"] >= document["slot"]["lag_bytes"]
    text = project.run("status").stdout
    assert "healthy" in text
    assert "DESTINATION" in text


def test_status_tells_what_is_spooled(project: Project) -> None:
    """How much, and since when; a destination that waits makes nothing unhealthy, and it is said as long as it does."""
    with MoodyReceiver() as receiver:
        receiver.mood = "500"
        project.configure(RULES + "delivery: {max_queue_bytes: 1024, retry_base_s: 0.05, retry_cap_s: 0.1}\n")
        text = project.config.read_text()
        entry = f"moody: {{kind: webhook, url: '{receiver.url()}', allow_private: true, batch: true}}"
        project.config.write_text(text.replace("destinations: {", "destinations: {" + entry + ", "))
        project.run("apply", "--yes")
        process = project.start("run")
        try:
            project.users(*((number, "x" * 500) for number in range(50)))
            spooled = wait_until(lambda: _spooled(project, "moody"))
            document = project.run("status", "--json").json()
            assert (document["healthy"], _spooled(project, "file")) == (True, None)
            assert spooled["bytes"] > 1000 and (spooled["max_bytes"], spooled["at_bound"]) == (1 << 30, "hold")
            assert spooled["oldest"] == events(project)[0]["timestamp"]
            assert any("'moody' is down or behind" in note for note in document["notes"])
            assert spooled["oldest"] in project.run("status").stdout
            receiver.recover()
            wait_until(lambda: _spooled(project, "moody") is None)
            assert not any("moody" in note for note in project.run("status", "--json").json()["notes"])
        finally:
            process.terminate()
            process.communicate(timeout=60)


def _spooled(project: Project, name: str) -> Any:
    found = project.run("status", "--json").json()["destinations"]
    return next((one["spool"] for one in found if one["name"] == name), None)


def test_status_counts_dead_letters_and_gaps(project: Project) -> None:
    """A rule error is a dead letter; a slot that was made anew is a gap. Neither makes it unhealthy."""
    project.configure(RULES.replace("new.email", "int(new.email)"))
    project.run("apply", "--yes")
    project.users((1, "a@x"))
    assert project.finished("run", "--until-caught-up").code == 0
    project.run("drop", "--slot-only", "--yes")
    project.users((2, "22"))
    project.run("apply", "--yes")
    assert project.finished("run", "--until-caught-up").code == 0
    done = project.run("status", "--json")
    assert done.code == 0, done.stdout
    letters = done.json()["dead_letters"]
    assert (letters["dead"], letters["replay"], letters["replayed"]) == (1, 0, 0)
    (counted,) = letters["by_destination"]
    assert (counted["destination"], counted["kind"], counted["oldest"]) == ("", "rule", letters["oldest"])
    assert "DEAD LETTERS OF" in project.run("status").stdout
    (gap,) = done.json()["gaps"]
    assert gap["reason"] == "slot_ahead"


def test_a_mended_rule_delivers_its_dead_letters(project: Project) -> None:
    """`dlq replay` evaluates the stored change by the rules as they are now, with the same id as ever."""
    project.configure(RULES.replace("new.email", "int(new.email)"))
    project.run("apply", "--yes")
    project.users((1, "a@x"))
    project.finished("run", "--until-caught-up")
    assert events(project) == []
    assert project.run("dlq", "replay", "--all").code == 1
    assert len(project.run("dlq", "list", "--json").lines()) == 1
    project.configure(RULES)
    assert project.run("dlq", "replay", "--all").code == 0
    (event,) = events(project)
    assert event["properties"] == {"id": 1, "email": "a@x"}
    assert [letter["status"] for letter in project.run("dlq", "list", "--json").lines()] in ([], ["replayed"])


def test_letters_of_one_rule_are_replayed(project: Project) -> None:
    """By a filter; those of another rule stay, and what cannot be evaluated is no reason to send it twice."""
    broken = RULES.replace("new.email", "int(new.email)") + "  users.delete: {event: gone, properties: {id: 1 / 0}}\n"
    project.configure(broken)
    project.run("apply", "--yes")
    project.users((1, "a@x"), (2, "b@x"))
    project.database.sql("delete from users")
    project.finished("run", "--until-caught-up")
    assert len(project.run("dlq", "list", "--json").lines()) == 4
    project.configure(broken.replace("int(new.email)", "new.email"))

    done = project.run("dlq", "replay", "--rule", "users.insert")

    assert (done.code, done.stderr.splitlines()[-1]) == (0, "2 delivered, 0 not")
    assert [event["properties"]["id"] for event in events(project)] == [1, 2]
    left = project.run("dlq", "list", "--json").lines()
    assert [letter["rule"] for letter in left] == ["users.delete"] * 2
    assert project.run("dlq", "replay", "--rule", "users.insert").stderr.splitlines()[-1] == "0 delivered, 0 not"
    assert len(events(project)) == 2


def test_a_running_run_delivers_what_is_replayed(project: Project) -> None:
    """The process that holds the store sees the mark and delivers."""
    project.configure(RULES.replace("new.email", "int(new.email)"))
    project.run("apply", "--yes")
    project.users((1, "a@x"))
    project.finished("run", "--until-caught-up")
    project.configure(RULES)
    process = project.start("run")
    try:
        wait_until(lambda: project.run("status", "--json").json()["running"])
        done = project.run("dlq", "replay", "--all")
        assert done.code == 0, done.stderr
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert len(events(project)) == 1
