"""`wal_tracker.testing.replay`: recorded changes through the pipeline itself, for authors of rules and destinations."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support import commands
from wal_tracker import pgtypes
from wal_tracker.config.load import read
from wal_tracker.destinations.base import Receipt, Rejected
from wal_tracker.errors import ConfigError, DecodeError, DestinationUnavailable
from wal_tracker.lsn import LSN
from wal_tracker.model import Commit
from wal_tracker.rules.engine import RuleSet
from wal_tracker.testing import MemoryDestination, ReplaySource, replay

CONFIG = """
track:
  users.insert: {event: user_signup, properties: {id: new.id, email: new.email}}
  users.delete: {event: user_gone, properties: {tenth: 10 / old.id}}
ignore:
  users: [password]
  sessions: "*"
delivery: {retry_base_s: 0.001}
destinations:
  memory: {filter: "user_*"}
"""


def change(number: int, op: str = "insert", table: str = "users", **more: Any) -> dict[str, Any]:
    """A change as `tail --json` writes it, in a transaction of its own."""
    row = {"id": number, "email": f"{number}@example.com", "password": "a hash"}
    return {
        "op": op,
        "table": table,
        "new" if op == "insert" else "old": row,
        "commit_lsn": str(LSN(number * 256 + 256)),
        "xid": number + 1,
        **more,
    }


def test_recorded_changes_become_events_at_the_destination() -> None:
    """By rules, in order, whether they are lines or objects."""
    memory = MemoryDestination()
    lines = [json.dumps(change(1)), b"\n", json.dumps(change(2)).encode(), change(3)]

    told = replay(CONFIG, lines, {"memory": memory})

    assert [event.properties["id"] for event in memory.events.values()] == [1, 2, 3]
    assert (told.changes, told.events, told.dead_letters) == (3, 3, ())
    assert told.confirmed == LSN(3 * 256 + 256 + 1)
    assert memory.closed == 1


def test_ids_and_bytes_are_those_of_eval(tmp_path: Any) -> None:
    """So what was tried by one is what the other delivers."""
    config = tmp_path / "wal_tracker.yaml"
    config.write_text(CONFIG.split("destinations:")[0])
    done = commands.run("-c", str(config), "eval", "--changes", "-", stdin=json.dumps(change(1)))
    memory = MemoryDestination()
    replay(CONFIG, [change(1)], {"memory": memory})
    assert done.stdout.strip() == next(iter(memory.events.values())).to_json().decode()


def test_what_is_ignored_is_not_replayed() -> None:
    """Neither the table nor the column, also where changes go out raw."""
    memory = MemoryDestination()
    config = CONFIG.replace("destinations:", "raw_db_event_destinations:").replace('filter: "user_*"', 'filter: "*"')
    replay(config, [change(1), change(2, table="sessions")], {"raw:memory": memory})
    (raw,) = memory.events.values()
    assert b"a hash" not in raw.to_json() and b"1@example.com" in raw.to_json()


def test_retries_and_dead_letters_are_the_pipelines() -> None:
    """What is down is asked again; what is refused, and what a rule fails on, is a letter."""
    memory = MemoryDestination()
    memory.script.extend([DestinationUnavailable("memory", "down"), Receipt({1: Rejected("never")})])

    told = replay(CONFIG, [change(1), change(2), change(0, "delete", commit_lsn="0/9000")], {"memory": memory})

    assert [event.properties["id"] for event in memory.events.values()] == [1]
    assert sorted((letter.kind, letter.destination) for letter in told.dead_letters) == [
        ("rejected", "memory"),
        ("rule", ""),
    ]
    assert told.confirmed == LSN(0x9001)


def test_no_changes_are_no_events() -> None:
    """And no waiting."""
    assert replay(CONFIG, [], {"memory": MemoryDestination()}).events == 0


def test_what_cannot_be_replayed_is_told() -> None:
    """A configuration that does not hold, a line that is no change, an order that is none."""
    memory = {"memory": MemoryDestination()}
    with pytest.raises(ConfigError, match="nev"):
        replay(CONFIG.replace("new.email", "nev.email"), [], memory)
    with pytest.raises(DecodeError, match="one JSON object"):
        replay(CONFIG, ["nonsense"], memory)
    with pytest.raises(ValueError, match="commit order"):
        replay(CONFIG, [change(2), change(1)], memory)


def test_a_source_begins_where_it_is_asked_to() -> None:
    """Whole transactions, of one or of several changes, in bursts that need not end with one."""
    config = read(CONFIG.encode(), {})
    rules = RuleSet(config, pgtypes.TypeCatalog(), system_identifier="eval", mode="wal")
    together = [change(2, ordinal=0), {**change(2, ordinal=1), "new": {"id": 20}}]
    source = ReplaySource([change(1), *together, change(3)], config, rules)
    source.BURST = 2  # type: ignore[misc]

    assert source.connect(LSN(3 * 256)) == LSN(3 * 256)
    read_items, caught_up = [], []
    while items := source.read(0):
        read_items += items
        caught_up.append(source.caught_up_lsn)

    kinds = ["commit" if isinstance(item, Commit) else item.new["id"] for item in read_items]  # type: ignore[union-attr,index]
    assert kinds == [2, 20, "commit", 3, "commit"]
    assert caught_up == [LSN(0), LSN(0), source.end]
    source.connect(source.end)
    assert source.read(0) == [] and source.caught_up_lsn == source.end
