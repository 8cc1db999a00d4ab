"""Dead letters that are delivered after all."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import orjson

from wal_tracker.channels import Channel
from wal_tracker.config.load import read
from wal_tracker.config.model import DeliveryConfig, DestinationConfig
from wal_tracker.decode.changes import ChangeReader
from wal_tracker.delivery import Delivery, DeliverySettings
from wal_tracker.lsn import LSN
from wal_tracker.model import Group
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.replay import deliver_letters
from wal_tracker.rules.engine import RuleSet
from wal_tracker.state import open_state
from wal_tracker.state.base import DeadLetter, LetterFilter
from wal_tracker.testing import MemoryDestination, make_event


def test_an_event_that_was_refused_comes_back_whole(tmp_path: Path) -> None:
    """With what it says of a person and a group, and every digit, for vendors that build their own request of it."""
    digits = {"total": orjson.Fragment("12.50"), "large": orjson.Fragment("9" * 30)}
    event = make_event(
        1, properties=digits, identify={"plan": None, **digits}, group=Group("team", "7", {"budget": digits["total"]})
    )
    payload = event.to_json()
    memory = MemoryDestination()
    with closing(open_state(f"sqlite:///{tmp_path}/state.db")) as state:
        letter = DeadLetter(
            id=event.id,
            destination="memory",
            kind="rejected",
            rule="orders.insert",
            event=event.name,
            table="public.orders",
            commit_lsn=LSN(1),
            commit_time=event.timestamp,
            reason="no",
            payload=payload,
        )
        state.add([letter])
        state.mark_letters(LetterFilter(id=event.id), "replay")
        types, config = TypeCatalog(), read(b"track: {}", {})
        rules = RuleSet(config, types, system_identifier="1", mode="wal")
        settings = DeliverySettings(linger_s=0.0, retry_base_s=0.001)
        delivery = Delivery("memory", memory, settings, state)
        channel = Channel(DestinationConfig(name="memory", kind="memory"), delivery, LSN(0))

        counts = deliver_letters(state, rules, ChangeReader(types), [channel], DeliveryConfig())

    assert counts == (1, 0)
    (again,) = memory.events.values()
    assert again.to_json() == payload
    for part in ("properties", "identify", "group"):
        assert orjson.dumps(getattr(again, part)) == orjson.dumps(getattr(event, part))
