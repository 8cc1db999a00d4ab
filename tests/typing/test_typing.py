"""The public types, as mypy --strict sees them from outside: what should pass does, what should not does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed: pip install 'wal_tracker[dev]'"),
]


def _mypy(name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), str(HERE / name)],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": f"{ROOT}{os.pathsep}{ROOT / 'plugins'}"},
        capture_output=True,
        text=True,
        timeout=170,
    )


def test_what_a_plugin_author_writes_is_typed() -> None:
    """A destination, the contract suite, a configuration: no error, and nothing that is Any where it should not be."""
    done = _mypy("public_api.py")
    assert done.returncode == 0, done.stdout + done.stderr


def test_our_destinations_are_destinations() -> None:
    """The port is what its implementations are."""
    done = _mypy("port.py")
    assert done.returncode == 0, done.stdout + done.stderr


def test_mistakes_are_found() -> None:
    """Each marked line, and no other."""
    lines = (HERE / "mistakes.py").read_text().splitlines()
    marks = {number: re.search(r"# error: (\S+)", line) for number, line in enumerate(lines, 1)}
    marked = {(number, mark[1]) for number, mark in marks.items() if mark}
    done = _mypy("mistakes.py")
    found = re.findall(r"mistakes\.py:(\d+): error: .*\[([\w-]+)\]", done.stdout)
    assert {(int(number), kind) for number, kind in found} == marked, done.stdout
