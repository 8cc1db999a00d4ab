"""The package as it is installed: editable, from the directory, and as a wheel; each in an environment of its own."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.environment import Environment, done
from wal_tracker.draft.document import dockerfile

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COPIED = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "wal_tracker", "plugins", "sql")

# Run in the new environment, away from the source tree.
SEES_EVERYTHING = """
import importlib.metadata, pkgutil, sys
from importlib.resources import files
import wal_tracker, wal_tracker.sql
from wal_tracker.destinations import registry
from wal_tracker.errors import PluginError
from wal_tracker.state.store import read_script

assert wal_tracker.__version__ == importlib.metadata.version("wal_tracker")
assert "create table" in read_script("sqlite.sql")
assert files("wal_tracker").joinpath("py.typed").is_file()
assert files("wal_tracker.demo").joinpath("config.yaml").is_file()
found, extras = [], importlib.metadata.metadata("wal_tracker").get_all("Provides-Extra")
for plugin in registry.available():
    try:
        registry.load(plugin.name)
        found.append(plugin.name)
    except PluginError as error:
        assert plugin.name in extras and f"'wal_tracker[{plugin.name}]'" in str(error), error
assert {"stdout", "file", "webhook", "posthog"} <= set(found), found
for module in pkgutil.walk_packages(wal_tracker.__path__, "wal_tracker."):
    if module.name not in ("wal_tracker.__main__",):
        __import__(module.name)
print(wal_tracker.__file__)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged, so that building leaves nothing in the tree."""
    copy = tmp_path_factory.mktemp("source")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    directory = tmp_path_factory.mktemp("wheel")
    done(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(directory), str(source))
    (built,) = directory.glob("*.whl")
    return built


def test_the_wheel_holds_the_whole_program_and_nothing_else(wheel: Path) -> None:
    """Every module and data file of the three source roots; no tests, no caches."""
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = set()
    for root, package in (
        (ROOT / "wal_tracker", "wal_tracker"),
        (ROOT / "sql", "wal_tracker/sql"),
        (ROOT / "plugins" / "wal_tracker_destinations", "wal_tracker_destinations"),
    ):
        for path in root.rglob("*"):
            if path.suffix in (".py", ".sql", ".yaml") or path.name == "py.typed":
                expected.add(f"{package}/{path.relative_to(root)}")

    assert packed == expected


def test_the_drafted_dockerfile_takes_the_wheel_by_its_name(wheel: Path) -> None:
    """As the first line of its comment has it made."""
    assert f"COPY {wheel.name} /tmp/" in dockerfile()


@pytest.mark.parametrize("way", ["wheel", "directory", "editable"])
def test_an_installation_works_away_from_its_source(way: str, source: Path, wheel: Path, tmp_path: Path) -> None:
    """Every module imports, SQL and plugins are found, the console script and ``python -m`` run."""
    environment = Environment(tmp_path / "venv")
    environment.install(*{"wheel": [str(wheel)], "directory": [str(source)], "editable": ["-e", str(source)]}[way])

    place = environment.run("python", "-c", SEES_EVERYTHING).strip()

    assert Path(place).is_relative_to(source if way == "editable" else tmp_path)
    assert environment.run("wal_tracker", "--version") == environment.run("python", "-m", "wal_tracker", "--version")
    assert "posthog" in environment.run("wal_tracker", "plugins")
