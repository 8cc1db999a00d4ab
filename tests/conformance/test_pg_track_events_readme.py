"""The example of pg_track_events' own README runs unmodified, under its own file name and under any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import commands

# `events.user_updated` has no block there. (README.md of tight-eng/pg_track_events, MIT.)
README = """
track:
  user.insert:
    event: "user_signup"
    properties:
      id: "new.id"
      email: "new.email"
      name: "new.name"

  user.update:
    cond: "old.email != new.email ? events.user_changed_email : events.user_updated"
    "user_changed_email":
      id: "new.id"
      previous_email: "old.email"
      new_email: "new.email"

destinations:
  posthog:
    filter: "*"
    apiKey: "$POSTHOG_API_KEY"

ignore:
  auth_authenticator: "*" # This ignores the auth_authenticator table
  user: ["hashed_password"] # This ignores the "hased_password" column
"""
ENV = {"POSTHOG_API_KEY": "phc_test"}
ROW = {"id": 7, "email": "a@x", "name": "Kim", "hashed_password": "canary-7f3"}
CHANGES = [
    {"op": "insert", "table": "user", "new": ROW},
    {"op": "update", "table": "user", "old": ROW, "new": {**ROW, "email": "b@x"}},
    {"op": "update", "table": "user", "old": ROW, "new": {**ROW, "name": "Kay"}},
]


@pytest.fixture(params=["pg_track_events.config.yaml", "wal_tracker.yaml"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The file, under a name."""
    path = tmp_path / request.param
    path.write_text(README)
    return str(path)


def test_it_is_right_with_a_warning(config: str) -> None:
    """The event without a block is told."""
    done = commands.run("--config", config, "validate", env=ENV)
    assert done.code == 0, done.stdout
    assert "user_updated" in done.stdout


def test_it_makes_its_events(config: str) -> None:
    """All three, the one without a block without properties; the ignored column is nowhere."""
    lines = "".join(json.dumps(change) + "\n" for change in CHANGES)
    done = commands.run("--config", config, "eval", "--changes", "-", env=ENV, stdin=lines)
    made: list[tuple[str, Any, dict[str, Any]]] = [
        (event["event"], event.get("distinct_id"), event["properties"]) for event in done.lines()
    ]
    assert made == [
        ("user_signup", "7", {"id": 7, "email": "a@x", "name": "Kim"}),
        ("user_changed_email", "7", {"id": 7, "previous_email": "a@x", "new_email": "b@x"}),
        ("user_updated", None, {}),
    ]
    assert done.code == 0
    assert "canary" not in done.stdout + done.stderr
