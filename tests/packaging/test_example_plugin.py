"""The tutorial distribution in plugins/example, installed as anybody's package is, into an environment of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.support.environment import Environment
from tests.support.postgres import Database

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PACKAGED = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "wal_tracker", "plugins", "sql")


def test_a_package_of_somebody_else_adds_a_destination(database: Database, tmp_path: Path) -> None:
    """Listed by `plugins`, its own tests pass, and what is committed arrives through it: events, and raw changes."""
    source, drops, raw = tmp_path / "source", tmp_path / "drops", tmp_path / "raw"
    for folder in (source, drops, raw):
        folder.mkdir()
    for name in PACKAGED:
        copied = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copied(ROOT / name, source / name)
    example = shutil.copytree(source / "plugins" / "example", tmp_path / "example")
    environment = Environment(tmp_path / "venv")
    environment.install(str(source), str(example))

    listed = json.loads(environment.run("wal_tracker", "plugins", "--json"))["destinations"]
    (plugin,) = [plugin for plugin in listed if plugin["name"] == "drop_folder"]
    assert (plugin["distribution"], plugin["version"]) == ("wal-tracker-drop-folder", "1.0.0")

    environment.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(example / "tests"))

    database.sql("create table users (id bigint primary key, email text)")
    config = tmp_path / "wal_tracker.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "source": {"dsn": database.dsn, "slot": database.name, "publication": database.name},
                "state": f"sqlite:///{tmp_path}/state.db",
                "track": {"users.insert": {"event": "user_signup", "properties": {"id": "new.id"}}},
                "destinations": {"drop_folder": {"path": str(drops)}},
                "raw_db_event_destinations": {"changes": {"kind": "drop_folder", "path": str(raw)}},
            }
        )
    )
    environment.run("wal_tracker", "-c", str(config), "apply", "--yes")
    database.sql("insert into users values (7, 'ann@example.com')")
    environment.run("wal_tracker", "-c", str(config), "run", "--until-caught-up")

    (event,) = [json.loads(path.read_bytes()) for path in drops.glob("*.json")]
    assert (event["event"], event["properties"]) == ("user_signup", {"id": 7})
    (change,) = [json.loads(path.read_bytes()) for path in raw.glob("*.json")]
    assert change["new"] == {"id": 7, "email": "ann@example.com"}
