"""The servers that the other tests stand on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import matrix
from tests.support.postgres import Database, Server, wait_until


def test_a_database_is_the_tests_own(database: Database) -> None:
    """A test's database is empty and can be written to."""
    database.sql("create table t (id int primary key)")
    database.sql("insert into t values (1)")
    assert database.sql("select id from t") == [(1,)]


@pytest.mark.parametrize("major", matrix.MAJORS)
def test_every_major_starts_and_decodes(server: Callable[..., Server], major: int) -> None:
    """Each version of the matrix is the version it says, and makes a pgoutput slot."""
    made = server(major)
    assert made.sql("show server_version_num")[0][0].startswith(str(major))
    made.create_database("d").create_slot("s")


@pytest.mark.wal2json
def test_wal2json_may_be_used(wal2json_server: Server) -> None:
    """The server with wal2json allows it."""
    database = wal2json_server.create_database()
    database.create_slot("w", plugin="wal2json")
    database.drop()


@pytest.mark.standby
def test_a_standby_follows_and_is_promoted(server: Callable[..., Server]) -> None:
    """A standby has what its primary had, takes writes after promotion, and leaves nothing behind."""
    primary = server()
    standby = primary.standby()
    try:
        primary.sql("create table t (id int)")
        standby.catch_up()
        assert standby.sql("select count(*) from t") == [(0,)]
        standby.promote()
        standby.sql("insert into t values (1)")
    finally:
        root = standby.root
        standby.close()
    assert not root.exists()


def test_a_crashed_server_comes_back_with_what_was_committed(server: Callable[..., Server]) -> None:
    """kill -9 of the postmaster is survived on the same port."""
    made = server()
    made.sql("create table t (id int)")
    made.sql("insert into t values (1)")
    made.restart("crash")
    assert made.sql("select id from t") == [(1,)]


def test_nothing_is_left_behind() -> None:
    """A closed server has no directory and no process."""
    with Server() as made:
        root, pid = made.root, made.pid
    assert not root.exists()
    assert not Path(f"/proc/{pid}").exists()


def test_a_killed_owner_leaves_nothing_behind() -> None:
    """kill -9 of the process that started a server ends the server and removes its directory."""
    program = (
        "import os, signal\n"
        "from wal_tracker.demo.server import EmbeddedPostgres\n"
        "with EmbeddedPostgres() as server:\n"
        "    print(server.root, server.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    root, pid = done.stdout.split()
    wait_until(lambda: not Path(root).exists())
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
