"""`validate --database`: the rules held against real tables."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.support.postgres import Database
from tests.support.project import Project


@pytest.fixture
def project(database: Database, tmp_path: Path) -> Project:
    """A project whose users have a key, large values and a type of their own."""
    database.sql("create domain amount as numeric(20, 4)")
    database.sql("create table users (id bigint primary key, email text, bio text, balance amount, n integer)")
    return Project(tmp_path, database)


def problems(project: Project, code: int) -> list[tuple[str, str]]:
    """What is found, by severity; with the exit code it must come with."""
    done = project.run("validate", "--database", "--json")
    assert done.code == code, done.stderr
    return [(problem["severity"], problem["message"]) for problem in done.json()["problems"]]


def test_right_rules_exit_0(project: Project) -> None:
    """Every column is there and sent."""
    assert problems(project, 0) == []
    assert "held against the database" in project.run("validate", "--database").stdout


def test_names_and_types_are_held_against_the_table(project: Project) -> None:
    """An unknown table, an unknown column, a type that does not fit: three errors, exit 2."""
    project.configure(
        "track:\n  userz.insert: {event: a}\n  users.insert: {event: a, properties: {x: new.emial, y: new.n * 1.5}}\n"
    )
    found = problems(project, 2)
    assert [severity for severity, _ in found] == ["error"] * 3
    for (_, message), hint in zip(found, ("'users'", "'email'", "double(new.n)"), strict=True):
        assert hint in message


def test_what_the_server_does_not_send_is_a_finding_and_its_remedy_mends_it(project: Project) -> None:
    """Exit 3 with SQL; after that SQL, exit 0."""
    project.configure("track: {users.update: {event: a, properties: {was: old.email}}}")
    problems(project, 3)
    (problem,) = project.run("validate", "--database", "--json").json()["problems"]
    project.database.sql(problem["remedy"])
    assert problems(project, 0) == []


def test_a_large_value_is_warned_of(project: Project) -> None:
    """bio may be TOASTed; exit 0."""
    project.configure("track: {users.update: {event: a, properties: {x: new.bio}}}")
    ((severity, message),) = problems(project, 0)
    assert severity == "warning"
    assert "new.bio" in message


def test_a_server_that_is_down_is_a_finding(project: Project) -> None:
    """What needs no server is still checked; exit 3."""
    project.configure("track: {users.insert: {event: a}}", dsn="host=127.0.0.1 port=1")
    ((severity, message),) = problems(project, 3)
    assert severity == "finding"
    assert "cannot be asked" in message


def test_the_identity_of_a_partitioned_table_is_that_of_its_partitions(project: Project) -> None:
    """FULL on the table itself sends nothing more; the remedy gives it to every partition."""
    columns = "id int, at date, note text, primary key (id, at)"
    project.database.sql(f'create table "Parts" ({columns}) partition by range (at)')
    for year in (2025, 2026):
        project.database.sql(
            f"create table parts_{year} partition of \"Parts\" for values from ('{year}-01-01') to ('{year}-12-31')"
        )
    project.configure("track: {Parts.update: {event: a, properties: {was: old.note}}}")
    problems(project, 3)
    project.database.sql('alter table "Parts" replica identity full')
    ((severity, message),) = problems(project, 3)
    assert (severity, "sends only id, at" in message) == ("finding", True)
    (problem,) = project.run("validate", "--database", "--json").json()["problems"]
    project.database.sql(problem["remedy"])
    assert problems(project, 0) == []


def test_trigger_mode_asks_for_no_replica_identity(project: Project) -> None:
    """Old rows and large values are there; `--mode` holds the same file against the other mode."""
    project.configure("track: {users.update: {event: a, properties: {was: old.email, x: new.bio}}}")
    done = project.run("validate", "--database", "--mode", "trigger", "--json")
    assert (done.code, done.json()["problems"]) == (0, [])
    project.config.write_text(project.config.read_text().replace("source: {", "source: {mode: trigger, "))
    assert problems(project, 0) == []
    assert project.run("validate", "--database", "--mode", "wal").code == 3


class Watch:
    """`validate --watch --database`, read line by line."""

    def __init__(self, project: Project) -> None:
        self.process: subprocess.Popen[str] = project.start("validate", "--watch", "--database", "--json")

    def next(self) -> Any:
        """What it says next."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


@pytest.fixture
def large(project: Project) -> Project:
    """A project of a hundred rules, in a database of five hundred tables."""
    columns = ", ".join(f"c{number} int" for number in range(15))
    project.database.sql(
        "do $$ begin for n in 1..500 loop execute format("
        f"'create table t%s (id int primary key, email text, {columns})', n); end loop; end $$"
    )
    rules = "".join(f"  t{n}.insert: {{event: e, properties: {{x: new.c1 + new.c2}}}}\n" for n in range(1, 101))
    project.configure(f"track:\n{rules}")
    return project


@pytest.fixture
def watch(large: Project) -> Iterator[Watch]:
    """Watches the large project, and has seen it once."""
    started = Watch(large)
    try:
        assert started.next() == {"ok": True, "rules": 100, "problems": []}
        yield started
    finally:
        started.process.send_signal(signal.SIGINT)
        started.process.communicate(timeout=30)


def test_a_save_is_answered_within_a_second(watch: Watch, large: Project) -> None:
    """The database's tables included: they are read once."""
    took = []
    for number in range(5):
        saved = time.monotonic()
        large.config.write_text(f"{large.config.read_text()}# {number}\n")
        assert watch.next()["ok"]
        took.append(time.monotonic() - saved)

    assert median(took) < 1, took


def test_a_changed_table_is_noticed_without_a_save(watch: Watch, large: Project) -> None:
    """Dropping a column breaks the rule that reads it; adding it again mends it."""
    large.database.sql("alter table t7 drop column c2")
    (problem,) = watch.next()["problems"]
    assert problem["path"].startswith("track.t7.insert")
    large.database.sql("alter table t7 add column c2 int")
    assert watch.next()["ok"]
