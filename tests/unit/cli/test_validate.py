"""`wal_tracker validate` without a database."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.support import commands

RIGHT = "track: {users.insert: {event: user_signup, properties: {id: new.id}}}\n"


def write(directory: Path, text: str) -> str:
    """The configuration file; its path."""
    path = directory / "wal_tracker.yaml"
    path.write_text(text)
    return str(path)


def test_a_right_configuration_exits_0(tmp_path: Path) -> None:
    """And says how many rules there are."""
    done = commands.run("--config", write(tmp_path, RIGHT), "validate")
    assert done.code == 0
    assert "ok: 1 rule" in done.stdout


def test_all_errors_are_told_with_their_places(tmp_path: Path) -> None:
    """A broken expression and a wrong destination are both there; exit 2."""
    text = "track:\n  users.insert:\n    event: a\n    properties: {x: new.id +}\ndestinations:\n  nirvana: {}\n"
    done = commands.run("--config", write(tmp_path, text), "validate")
    assert done.code == 2
    assert "wal_tracker.yaml:4" in done.stdout
    assert "nirvana" in done.stdout
    assert "^" in done.stdout


def test_a_file_that_does_not_load_exits_2(tmp_path: Path) -> None:
    """An unknown key is told with what may be meant."""
    done = commands.run("--config", write(tmp_path, RIGHT + "destinatons: {}\n"), "validate")
    assert done.code == 2
    assert "destinations" in done.stdout


def test_warnings_do_not_change_the_exit_code(tmp_path: Path) -> None:
    """They are told, and the configuration is right."""
    text = "track: {users.update: {cond: events.a, a: {}, b: {}}}\n"
    done = commands.run("--config", write(tmp_path, text), "validate")
    assert done.code == 0
    assert "warning" in done.stdout


@pytest.mark.parametrize(("text", "ok"), [(RIGHT, True), (RIGHT.replace("new.id", "new.id +"), False)])
def test_json_says_the_same(tmp_path: Path, text: str, ok: bool) -> None:
    """One document: ok, rules, problems."""
    document = commands.run("--config", write(tmp_path, text), "validate", "--json").json()
    assert (document["ok"], document["rules"], len(document["problems"])) == (ok, 1, 0 if ok else 1)


def test_watch_validates_again_when_the_file_changes(tmp_path: Path) -> None:
    """Wrong, then mended; Ctrl-C ends with 130."""
    path = write(tmp_path, RIGHT.replace("new.id", "new.id +"))
    process = commands.start("--config", path, "validate", "--watch", "--json")
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline())["ok"] is False
        write(tmp_path, RIGHT)
        assert json.loads(process.stdout.readline())["ok"] is True
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
