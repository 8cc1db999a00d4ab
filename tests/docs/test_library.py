"""The examples of docs/library.md, and the one of the README, run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_readme import blocks
from tests.support.postgres import Database
from wal_tracker.config.load import load
from wal_tracker.source import setup

CONFIG = """
source: {{dsn: $DATABASE_URL, slot: {name}, publication: {name}}}
track:
  users.insert: {{event: user_signup, properties: {{id: new.id, email: new.email}}}}
destinations: {{file: {{path: events.jsonl}}}}
"""

NAMES, CHANGES, EVENTS, FUNCTION = blocks("docs/library.md", "python")
(README,) = blocks("README.md", "python")


@pytest.fixture
def place(database: Database, tmp_path: Path) -> Path:
    """Where a program runs: its configuration, and two rows that were committed."""
    database.sql("create table users (id bigint primary key, email text)")
    path = tmp_path / "wal_tracker.yaml"
    path.write_text(CONFIG.format(name=database.name))
    setup.apply(setup.desired(load(path, {"DATABASE_URL": database.dsn})))
    database.sql("insert into users values (1, 'ann@example.com')")
    database.sql("insert into users values (2, 'bob@example.com')")
    return tmp_path


def run(program: str, place: Path, database: Database) -> str:
    """What it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=place,
        env={**os.environ, "DATABASE_URL": database.dsn},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ending(program: str, call: str) -> str:
    """An example that goes on for ever, made to end; nothing else of it is changed."""
    assert program.count(call) == 1
    return program.replace(call, f"{call[:-1]}, until_caught_up=True)")


def test_every_example_is_run_below() -> None:
    """One that is added is added here, too; and they are as short as they are said to be."""
    assert NAMES == "from wal_tracker import Pipeline, changes, events\n"
    assert max(len(block.splitlines()) for block in (README, CHANGES, EVENTS, FUNCTION)) <= 10


def test_the_example_of_changes_prints_and_confirms(place: Path, database: Database) -> None:
    """A second run of it has nothing more to print."""
    program = ending(CHANGES, 'changes("wal_tracker.yaml", name="search_index")')
    told = run(program, place, database).splitlines()
    assert [line.split()[:2] for line in told] == [["insert", "ann@example.com"], ["insert", "bob@example.com"]]
    assert run(program, place, database) == ""


def test_the_example_of_events_stores_what_is_left(place: Path, database: Database) -> None:
    """Fewer than a batch, too."""
    assert run(EVENTS, place, database) == "2 stored\n"
    assert run(EVENTS, place, database) == ""


def test_the_example_of_the_readme_prints_events(place: Path, database: Database) -> None:
    """Each once."""
    program = ending(README, 'events("wal_tracker.yaml")')
    told = run(program, place, database).splitlines()
    assert told[0] == "user_signup {'id': 1, 'email': 'ann@example.com'}" and len(told) == 2
    assert run(program, place, database) == ""


def test_the_example_of_a_function_gets_what_the_file_gets(place: Path, database: Database) -> None:
    """Both of them, every event."""
    assert run(FUNCTION, place, database) == "index user_signup 1\nindex user_signup 2\n2 events\n"
    assert (place / "events.jsonl").read_bytes().count(b"\n") == 2


def test_importing_the_package_imports_next_to_nothing() -> None:
    """No driver, no rules, no metadata, until one of its names is asked for."""
    program = (
        "import sys; before = set(sys.modules); import wal_tracker; new = set(sys.modules) - before;"
        "print(sorted(name for name in new if name.split('.')[0] not in ('wal_tracker', 'typing')));"
        "assert {'wal_tracker.embed', 'psycopg2'}.isdisjoint(sys.modules);"
        "wal_tracker.changes; assert 'wal_tracker.embed' in sys.modules;"
        "print(wal_tracker.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    modules, version = done.stdout.splitlines()
    heavy = {name.split(".")[0].strip("_' ") for name in modules.strip("[]").split(",")} & {
        "psycopg2", "orjson", "yaml", "celpy", "requests", "importlib", "email"
    }
    assert not heavy, modules
    assert version


def test_an_unknown_name_is_no_attribute() -> None:
    """As of any module."""
    import wal_tracker

    with pytest.raises(AttributeError, match="'wal_tracker' has no attribute 'chnages'"):
        wal_tracker.chnages  # type: ignore[attr-defined] # noqa: B018
