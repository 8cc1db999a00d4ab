"""`validate --database`: the rules held against real tables."""

from __future__ import annotations

from pathlib import Path

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
