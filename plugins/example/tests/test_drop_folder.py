"""The laws of every destination, from wal_tracker.testing, and what is special about this one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from drop_folder import DropFolder

from wal_tracker.destinations.base import Destination, Rejected
from wal_tracker.errors import DestinationError
from wal_tracker.testing import DestinationContract, make_event, replay


class TestContract(DestinationContract):
    """Empty batches, closing twice, secrets: all of it comes from the base class."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.path = tmp_path

    def build(self) -> Destination:
        return DropFolder("drops", DropFolder.Config(path=str(self.path)))

    def received(self) -> list[str]:
        events = [json.loads(path.read_bytes()) for path in self.path.glob("*.json")]
        return [event["id"] for event in sorted(events, key=lambda event: event["properties"]["number"])]


def test_an_event_that_is_too_large_is_refused_and_the_rest_is_kept(tmp_path: Path) -> None:
    """One poison event is one dead letter."""
    drops = DropFolder("drops", DropFolder.Config(path=str(tmp_path), max_bytes=1000))
    drops.open(None)

    receipt = drops.deliver([make_event(1), make_event(2, properties={"text": "x" * 1000}), make_event(3)])

    assert isinstance(receipt.outcomes[1], Rejected)
    assert {path.stem for path in tmp_path.iterdir()} == {make_event(1).id, make_event(3).id}


def test_a_missing_folder_is_told_at_the_start(tmp_path: Path) -> None:
    """With what to do."""
    drops = DropFolder("drops", DropFolder.Config(path=str(tmp_path / "nowhere")))

    with pytest.raises(DestinationError, match="create it"):
        drops.open(None)


CONFIG = """
track:
  users.insert: {event: user_signup, properties: {id: new.id, about: new.about}}
destinations:
  drops: {kind: drop_folder, path: unused, filter: "user_*"}
"""
RECORDED = [
    '{"op": "insert", "table": "users", "new": {"id": 1, "about": "short"}, "commit_lsn": "0/100"}',
    '{"op": "insert", "table": "users", "new": {"id": 2, "about": "%s"}, "commit_lsn": "0/200"}' % ("x" * 1000),
    '{"op": "insert", "table": "users", "new": {"id": 3, "about": "short"}, "commit_lsn": "0/300"}',
]


def test_recorded_changes_arrive_by_rules_and_pipeline(tmp_path: Path) -> None:
    """As `wal_tracker tail --json` recorded them; batching, dead letters and positions are the real ones."""
    drops = DropFolder("drops", DropFolder.Config(path=str(tmp_path), max_bytes=1000))

    told = replay(CONFIG, RECORDED, {"drops": drops})

    events = [json.loads(path.read_bytes()) for path in tmp_path.glob("*.json")]
    assert sorted(event["properties"]["id"] for event in events) == [1, 3]
    (letter,) = told.dead_letters
    assert letter.destination == "drops" and "max_bytes" in letter.reason
    assert str(told.confirmed) == "0/301", "a dead letter holds nobody up"
