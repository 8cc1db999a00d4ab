"""The state store's promises, kept by the SQLite store; tests/integration/test_state_postgres.py has PostgreSQL's."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.state import StateStorePromises
from wal_tracker.errors import StateError
from wal_tracker.lsn import LSN
from wal_tracker.secret import Secret
from wal_tracker.state import open_state
from wal_tracker.state.base import Cursor

VERSION_1 = Path(__file__).parents[2] / "support" / "state_1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path / "state.db"


class TestSqlite(StateStorePromises):
    """A store in a file."""

    @pytest.fixture
    def url(self, path: Path) -> str:
        """Of this test's store."""
        return f"sqlite:///{path}"

    def make_version_1(self, url: str, *statements: str) -> None:
        """By the script of that version."""
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript((VERSION_1 / "sqlite.sql").read_text())
            for statement in statements:
                connection.execute(statement)
            connection.execute("update dead_letter set payload = cast(payload as blob)")
            connection.commit()


def test_nobody_else_may_read_the_files(path: Path) -> None:
    """Payloads of dead letters are rows."""
    store = open_state(f"sqlite:///{path}")
    store.save_cursors({"a": Cursor(LSN(1))})
    with store.exclusive():
        modes = {name: stat.S_IMODE((path.parent / name).stat().st_mode) for name in os.listdir(path.parent)}
    store.close()

    assert modes == dict.fromkeys(("state.db", "state.db-wal", "state.db-shm", "state.db.lock"), 0o600)


def test_a_transaction_is_synced_before_it_is_done(path: Path) -> None:
    """synchronous = FULL (2), in the write-ahead log; SQLite's default in that mode may lose the last commits."""
    store = open_state(f"sqlite:///{path}")
    connection = store._connection  # type: ignore[attr-defined]

    with closing(store):
        assert connection.execute("pragma synchronous").fetchone() == (2,)
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:///absent/state.db", "cannot make the state file absent/state.db: No such file or directory"),
        ("sqlite:///", "names no store"),
        ("mysql://x", "names no store"),
        ("postgresql://u:geheim@[broken", "not a PostgreSQL connection string"),
    ],
)
def test_a_store_that_cannot_be_opened_says_why(url: str, says: str) -> None:
    """And repeats no password."""
    with pytest.raises(StateError) as caught:
        open_state(Secret(url))
    assert says in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_a_file_that_is_something_else_is_left_alone(path: Path) -> None:
    """Neither a text nor somebody's database is written to."""
    path.write_text("not a database, and longer than a header of one hundred bytes " * 4)
    with pytest.raises(StateError, match="file is not a database; move it away"):
        open_state(f"sqlite:///{path}")
    path.unlink()
    with sqlite3.connect(path) as foreign:
        foreign.execute("create table theirs (x)")
    foreign.close()

    with pytest.raises(StateError, match="holds other tables"):
        open_state(f"sqlite:///{path}")

    with sqlite3.connect(path) as foreign:
        assert foreign.execute("select name from sqlite_master").fetchall() == [("theirs",)]
    foreign.close()


def test_a_state_of_a_newer_version_is_not_touched(path: Path) -> None:
    """Downgrading is told, not guessed."""
    open_state(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as newer:
        newer.execute("update schema_version set version = 99")
    newer.close()

    with pytest.raises(StateError, match=r"schema version 99.*a newer one made it"):
        open_state(f"sqlite:///{path}")


def test_a_damaged_file_is_an_error_with_a_remedy(path: Path) -> None:
    """Never a sqlite3 exception."""
    store = open_state(f"sqlite:///{path}")
    store.save_cursors({"a": Cursor(LSN(1))})
    store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)

    with pytest.raises(StateError, match="move it away"), closing(open_state(f"sqlite:///{path}")) as damaged:
        damaged.cursors()


HOLD = """
import sys
from wal_tracker.state import open_state
store = open_state(sys.argv[1])
with store.exclusive():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_ends_with_the_process_however_it_ends(path: Path) -> None:
    """Two runs over one state would confirm past each other; a killed one must not be in the way."""
    url = f"sqlite:///{path}"
    store = open_state(url)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None and holder.stdout is not None
    with holder, holder.stdin, holder.stdout:
        assert holder.stdout.readline() == "held\n"
        assert store.is_held()
        with pytest.raises(StateError, match=f"held by process {holder.pid} on "), store.exclusive():
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()

        assert not store.is_held()
        with store.exclusive():
            assert store.is_held()
    store.close()


def test_looking_whether_it_is_held_never_keeps_a_run_from_starting(path: Path) -> None:
    """`status` in a loop beside `run` starting again and again."""
    url = f"sqlite:///{path}"
    looker, runner = open_state(url), open_state(url)
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            looker.is_held()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(200):
            with runner.exclusive():
                pass
    finally:
        stop.set()
        thread.join()
        looker.close()
        runner.close()
