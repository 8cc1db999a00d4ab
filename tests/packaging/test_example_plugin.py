"""The tutorial distribution in plugins/example, installed as anybody's package is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_a_package_of_somebody_else_adds_a_destination(tmp_path: Path) -> None:
    """Listed by `plugins`, built from a configuration, and it passes the contract it imports from us."""
    example, installed, drops = tmp_path / "example", tmp_path / "installed", tmp_path / "drops"
    shutil.copytree(ROOT / "plugins" / "example", example, ignore=shutil.ignore_patterns("__pycache__"))
    drops.mkdir()
    _run("-m", "pip", "install", "--no-deps", "--target", str(installed), str(example))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])}

    listed = json.loads(_run("-m", "wal_tracker", "plugins", "--json", env=environment))["destinations"]
    (plugin,) = [plugin for plugin in listed if plugin["name"] == "drop_folder"]
    assert (plugin["distribution"], plugin["version"]) == ("wal-tracker-drop-folder", "1.0.0")

    _run("-c", DELIVER, str(drops), env=environment)
    assert len(list(drops.glob("*.json"))) == 1

    _run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(example / "tests"), env=environment)


DELIVER = """
import sys
from wal_tracker.destinations import registry
from wal_tracker.testing import make_event

drops = registry.build("mine", "drop_folder", {"path": sys.argv[1]}, "destinations.mine")
drops.open(None)
drops.deliver([make_event(1)])
drops.close()
"""


def _run(*arguments: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=170, env=env)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout
