"""`tail` on a real server: sees what commits, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.postgres import Database, wait_until
from tests.support.project import Project


@pytest.fixture
def project(database: Database, tmp_path: Path) -> Project:
    """A project whose publication stands."""
    database.sql("create table users (id bigint primary key, email text, hashed_password text)")
    made = Project(tmp_path, database)
    assert made.run("apply", "--yes").code == 0
    return made


Tail = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def tail(project: Project) -> Iterator[Tail]:
    """Start `tail`; it reads once this returns."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = project.start("tail", *arguments)
        started.append(process)
        assert process.stderr is not None
        told = process.stderr.readline()
        assert "reading" in told, told + process.stderr.read()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_changes_are_printed_as_they_commit(project: Project, tail: Tail) -> None:
    """Three changes, in the JSON shape; then it ends by itself, and its slot is gone."""
    process = tail("--json", "--limit", "3")
    project.users((1, "a@x"))
    project.database.sql("update users set email = 'b@x'")
    project.database.sql("delete from users")
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    changes = [json.loads(line) for line in stdout.splitlines()]
    assert [(change["op"], change["key"]) for change in changes] == [
        ("insert", {"id": 1}),
        ("update", {"id": 1}),
        ("delete", {"id": 1}),
    ]
    assert changes[1]["new"] == {"id": 1, "email": "b@x", "hashed_password": None}
    wait_until(lambda: project.slots() == [project.slot])


def test_a_person_sees_one_line_a_change(project: Project, tail: Tail) -> None:
    """With operation, table and values, and no colours where stdout is no terminal."""
    process = tail("--limit", "1")
    project.users((1, "a@x"))
    stdout, _ = process.communicate(timeout=60)
    (line,) = stdout.splitlines()
    assert "insert" in line
    assert "public.users" in line
    assert 'email="a@x"' in line
    assert "\x1b" not in line


def test_events_are_what_the_rules_make(project: Project, tail: Tail) -> None:
    """A rule's error is told on stderr and ends nothing."""
    project.configure("track: {users.insert: {event: user_signup, properties: {n: int(new.email)}}}")
    process = tail("--events", "--json", "--limit", "1")
    project.users((1, "not a number"), (2, "22"))
    stdout, stderr = process.communicate(timeout=60)
    (event,) = [json.loads(line) for line in stdout.splitlines()]
    assert (event["event"], event["properties"]) == ("user_signup", {"n": 22})
    assert "users.insert" in stderr
    assert "not a number" not in stderr


def test_ignored_columns_are_not_shown(project: Project, tail: Tail) -> None:
    """The canary is nowhere."""
    project.configure("track: {users.insert: {event: a}}\nignore: {users: [hashed_password]}")
    process = tail("--json", "--limit", "1")
    project.database.sql("insert into users values (1, 'a@x', 'canary-7f3')")
    stdout, stderr = process.communicate(timeout=60)
    assert json.loads(stdout)["new"] == {"id": 1, "email": "a@x"}
    assert "canary" not in stdout + stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_however_it_ends_nothing_is_left(project: Project, tail: Tail, how: signal.Signals) -> None:
    """Ctrl-C ends with 130; the temporary slot goes with the connection."""
    process = tail()
    assert len(project.slots()) == 2
    process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert "Traceback" not in stderr
    wait_until(lambda: project.slots() == [project.slot])


def test_what_tail_prints_eval_reads(project: Project, tail: Tail) -> None:
    """Recorded changes give the events a live server gave."""
    process = tail("--json", "--limit", "1")
    project.users((7, "a@x"))
    changes, _ = process.communicate(timeout=60)
    (event,) = project.run("eval", "--changes", "-", stdin=changes).lines()
    assert (event["event"], event["distinct_id"], event["properties"]) == (
        "user_signup",
        "7",
        {"id": 7, "email": "a@x"},
    )


def test_without_its_publication_it_says_what_is_missing(project: Project) -> None:
    """Exit 3, and how it is made."""
    project.database.sql("drop publication wal_tracker")
    done = project.finished("tail", "--limit", "1")
    assert done.code == 3
    assert "wal_tracker apply" in done.stderr
    wait_until(lambda: project.slots() == [project.slot])
