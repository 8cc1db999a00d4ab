"""The configuration a newcomer reads first."""

from __future__ import annotations

import inspect
from pathlib import Path

from wal_tracker.config.load import load
from wal_tracker.demo import workload

CONFIG = Path(workload.__file__).with_name("config.yaml")


def test_the_configuration_of_the_demo_has_no_warnings_and_hides_the_password() -> None:
    """What we show is how it should be done."""
    config = load(CONFIG, {"DATABASE_URL": "host=nowhere", "WAL_TRACKER_STATE": "sqlite:///state.db"})

    assert config.warnings == ()
    assert config.ignore == {("public", "users"): frozenset({"hashed_password"})}


def test_every_event_of_the_configuration_is_one_the_shop_can_cause() -> None:
    """A rule that never fires in the demo would never be checked by its account."""
    config = load(CONFIG, {"DATABASE_URL": "host=nowhere", "WAL_TRACKER_STATE": "sqlite:///state.db"})
    names = {name for rule in config.rules for name in (rule.event, *rule.blocks) if name}

    assert {name for name in names if f'"{name}"' not in inspect.getsource(workload)} == set()
