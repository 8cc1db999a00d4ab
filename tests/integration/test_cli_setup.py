"""`plan`, `apply` and `drop` on a real server."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import matrix
from tests.support.postgres import Database
from tests.support.project import Project


@pytest.fixture
def project(database: Database, tmp_path: Path) -> Project:
    """A project that tracks inserts of users."""
    database.sql("create table users (id bigint primary key, email text)")
    return Project(tmp_path, database)


def test_plan_shows_the_sql_and_writes_nothing(project: Project) -> None:
    """The statements are on stdout; publication and slot are still not there."""
    done = project.run("plan")
    assert done.code == 0
    assert "create publication" in done.stdout.lower()
    assert project.slot in done.stdout
    assert (project.publications(), project.slots()) == ([], [])


def test_apply_makes_what_plan_showed_and_a_second_time_nothing(project: Project) -> None:
    """Afterwards plan has nothing to show."""
    assert project.run("apply", "--yes").code == 0
    assert (project.publications(), project.slots()) == (["wal_tracker"], [project.slot])
    again = project.run("apply", "--yes")
    assert (again.code, again.stdout) == (0, "")
    assert "nothing to do" in again.stderr
    assert project.run("plan", "--json").json()["steps"] == []


def test_apply_without_a_terminal_needs_yes(project: Project) -> None:
    """Exit 2 with a clear text, and nothing is made."""
    done = project.run("apply")
    assert done.code == 2
    assert "--yes" in done.stderr
    assert (project.publications(), project.slots()) == ([], [])


@pytest.mark.parametrize(("answer", "slots"), [("n", 0), ("y", 1)])
def test_on_a_terminal_apply_asks(project: Project, answer: str, slots: int) -> None:
    """No means nothing is made, yes means it is."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "wal_tracker", "--config", str(project.config), "apply"],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(terminal)
    os.write(controller, f"{answer}\n".encode())
    process.communicate(timeout=60)
    os.close(controller)
    assert process.returncode == (0 if slots else 130)
    assert len(project.slots()) == slots


def test_the_script_plan_writes_is_what_apply_would_do(project: Project) -> None:
    """psql runs it without an error, and plan has nothing left to show."""
    script = project.directory / "migration.sql"
    assert project.run("plan", "--out", str(script)).code == 0
    psql = matrix.binaries(matrix.EMBEDDED_MAJOR).directory / "psql"
    if psql.exists():
        subprocess.run([psql, project.database.dsn, "-v", "ON_ERROR_STOP=1", "-qf", script], check=True, timeout=60)
    else:
        # As psql sends a file: one statement at a time.
        for statement in statements(script.read_text()):
            project.database.sql(statement)
    assert project.slots() == [project.slot]
    assert project.run("plan", "--json").json()["steps"] == []


def statements(script: str) -> list[str]:
    """The statements of a script whose transaction may be run statement by statement."""
    lines = [line for line in script.splitlines() if not line.startswith("--") and line not in ("begin;", "commit;")]
    found, current, quoted = [], "", False
    for line in lines:
        current += line + "\n"
        quoted ^= line.count("$$") % 2 == 1
        if line.endswith(";") and not quoted:
            found.append(current)
            current = ""
    return found


def test_drop_removes_what_apply_made(project: Project) -> None:
    """Slot, publication and functions; the table stays."""
    project.run("apply", "--yes")
    assert project.run("drop", "--yes").code == 0
    assert (project.publications(), project.slots()) == ([], [])
    assert project.database.sql("select count(*) from pg_namespace where nspname = 'wal_tracker'") == [(0,)]
    assert project.database.sql("select count(*) from users") == [(0,)]


def test_drop_slot_only_leaves_the_rest(project: Project) -> None:
    """Just the slot."""
    project.run("apply", "--yes")
    done = project.run("drop", "--slot-only", "--yes", "--json")
    assert len(done.json()["executed"]) == 1
    assert (project.publications(), project.slots()) == (["wal_tracker"], [])


def test_what_is_in_the_way_exits_3_and_changes_nothing(project: Project) -> None:
    """A tracked table that does not exist."""
    project.configure("track: {userz.insert: {event: a}}")
    assert project.run("plan").code == 3
    done = project.run("apply", "--yes")
    assert done.code == 3
    assert "userz" in done.stderr
    assert (project.publications(), project.slots()) == ([], [])


def test_a_server_that_is_not_there_is_told(project: Project) -> None:
    """No traceback, exit 1."""
    project.configure("track: {users.insert: {event: a}}", dsn="host=127.0.0.1 port=1")
    done = project.run("plan")
    assert done.code == 1
    assert "Traceback" not in done.stderr
