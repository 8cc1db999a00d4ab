"""Dead letters that are delivered after all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import orjson
import pytest

from tests.support.postgres import wait_until
from wal_tracker.channels import Channel, Router
from wal_tracker.config.load import read
from wal_tracker.config.model import DeliveryConfig, DestinationConfig
from wal_tracker.decode.changes import ChangeReader
from wal_tracker.delivery import Delivery, DeliverySettings, Spool
from wal_tracker.errors import DestinationRefusedUs, DestinationUnavailable
from wal_tracker.lsn import LSN
from wal_tracker.model import Event, Group
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.replay import Replay, deliver_letters
from wal_tracker.rules.engine import RuleSet
from wal_tracker.rules.shape import Shape
from wal_tracker.state import open_state
from wal_tracker.state.base import Cursor, DeadLetter, LetterBound, LetterFilter, Spooled, StateStore
from wal_tracker.testing import MemoryDestination, make_event

TYPES, CONFIG = TypeCatalog(), read(b"track: {}", {})
RULES = RuleSet(CONFIG, TYPES, system_identifier="1", mode="wal")
READER = ChangeReader(TYPES)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateStore]:
    """With room for one letter more than a test puts there at first."""
    with closing(open_state(f"sqlite:///{tmp_path}/state.db", LetterBound(2, "hold"))) as state:
        yield state
    wait_until(lambda: not [one for one in threading.enumerate() if one.name.startswith("delivery-")])


def letter(event: Event, destination: str = "memory") -> DeadLetter:
    """Of an event that was refused."""
    return DeadLetter(
        id=event.id,
        destination=destination,
        kind="rejected",
        rule="orders.insert",
        event=event.name,
        table="public.orders",
        commit_lsn=LSN(1),
        commit_time=event.timestamp,
        reason="no",
        payload=event.to_json(),
    )


def emitted(number: int) -> DeadLetter:
    """Of a message that was no event, and would be one now: it goes to every destination."""
    message = {
        "prefix": "wal_tracker.event",
        "content": '{"event": "made"}',
        "transactional": True,
        "lsn": "0/1",
        "ordinal": 0,
        "xid": number,
        "commit_time_us": 0,
        "context": {},
    }
    return DeadLetter(
        id=f"letter {number}",
        destination="",
        kind="rule",
        rule="wal_tracker.event",
        event="",
        table="message.wal_tracker.event",
        commit_lsn=LSN(1),
        commit_time="2026-01-01T00:00:00Z",
        reason="no",
        payload=orjson.dumps(message),
    )


def channel(
    state: StateStore, memory: MemoryDestination, *, spool: Spool | None = None, shape: Shape | None = None
) -> Channel:
    settings = DeliverySettings(linger_s=0.0, retry_base_s=0.001, retry_cap_s=0.002, spool_after_s=0.0)
    delivery = Delivery(memory.name, memory, settings, state, spool=spool)
    return Channel(DestinationConfig(name=memory.name, kind="memory"), delivery, LSN(0), shape=shape)


def test_an_event_that_was_refused_comes_back_whole(state: StateStore) -> None:
    """With what it says of a person and a group, and every digit, for vendors that build their own request of it."""
    digits = {"total": orjson.Fragment("12.50"), "large": orjson.Fragment("9" * 30)}
    event = make_event(
        1, properties=digits, identify={"plan": None, **digits}, group=Group("team", "7", {"budget": digits["total"]})
    )
    memory = MemoryDestination()
    state.add([letter(event)])
    state.mark_letters(LetterFilter(id=event.id), "replay")

    counts = deliver_letters(state, RULES, READER, [channel(state, memory)], DeliveryConfig())

    assert counts == (1, 0)
    (again,) = memory.events.values()
    assert again.to_json() == event.to_json()
    for part in ("properties", "identify", "group"):
        assert orjson.dumps(getattr(again, part)) == orjson.dumps(getattr(event, part))


def test_a_letter_is_not_replayed_into_a_spool_nobody_will_know_of(state: StateStore, tmp_path: Path) -> None:
    """A destination no `run` has been to has no position; a spool that stands in none is cut off at the next start."""
    event, memory = make_event(1), MemoryDestination()
    memory.script.extend([DestinationUnavailable("memory", "down")] * 10_000)
    state.add([letter(event)])
    state.mark_letters(LetterFilter(id=event.id), "replay")
    made = channel(state, memory, spool=Spool(tmp_path, "memory", max_bytes=1 << 20))

    counts = deliver_letters(state, RULES, READER, [made], DeliveryConfig(shutdown_timeout_s=0.3))

    assert counts == (0, 1)
    assert state.count_dead_letters("replay") == 1
    assert not list(tmp_path.rglob("*.spool"))


def test_a_letter_goes_behind_what_is_spooled_already(state: StateStore, tmp_path: Path) -> None:
    """The spool is on record, so there it is as safe as at the destination."""
    event, memory = make_event(1), MemoryDestination()
    memory.script.extend([DestinationUnavailable("memory", "down")] * 10_000)
    state.add([letter(event)])
    state.mark_letters(LetterFilter(id=event.id), "replay")
    state.save_cursors({"memory": Cursor(LSN(500))})
    made = channel(state, memory, spool=Spool(tmp_path, "memory", max_bytes=1 << 20))
    made.start = LSN(500)

    counts = deliver_letters(state, RULES, READER, [made], DeliveryConfig(shutdown_timeout_s=10.0))

    assert counts == (1, 0)
    assert state.cursors()["memory"].spool is not None
    assert list(tmp_path.rglob("*.spool"))


def spooled(state: StateStore, directory: Path, *events: Event) -> Channel:
    """A destination for which these lie in its spool."""
    spool = Spool(directory, "memory", max_bytes=1 << 20)
    spool.open(None)
    begin, *_, end = spool.append(events)
    spool.sync()
    spool.close()
    state.save_cursors({"memory": Cursor(LSN(500), None, Spooled(begin, end))})
    made = channel(state, MemoryDestination(), spool=Spool(directory, "memory", max_bytes=1 << 20))
    made.start = LSN(500)
    return made


def test_what_is_spooled_is_delivered_and_off_the_books_before_a_letter_follows(
    state: StateStore, tmp_path: Path
) -> None:
    """A destination that refuses the letter then has nothing of the spool come again."""
    made = spooled(state, tmp_path, make_event(1), make_event(2))
    memory = cast(MemoryDestination, made.delivery._senders[0].destination)
    memory.script.extend([None, DestinationRefusedUs("memory", "who are you?")])
    state.add([letter(make_event(3))])
    state.mark_letters(LetterFilter(id=make_event(3).id), "replay")

    with pytest.raises(DestinationRefusedUs):
        deliver_letters(state, RULES, READER, [made], DeliveryConfig(shutdown_timeout_s=10.0))

    assert [*memory.events] == [make_event(1).id, make_event(2).id]
    assert state.cursors()["memory"].spool is None
    assert state.count_dead_letters("replay") == 1


def test_a_destination_that_refuses_us_is_told_before_a_letter_goes_to_its_spool(
    state: StateStore, tmp_path: Path
) -> None:
    """There it would be safe, and yet not delivered, which is what was asked for."""
    made = spooled(state, tmp_path, make_event(1))
    memory = cast(MemoryDestination, made.delivery._senders[0].destination)
    memory.script.append(DestinationRefusedUs("memory", "who are you?"))
    state.add([letter(make_event(3))])
    state.mark_letters(LetterFilter(id=make_event(3).id), "replay")

    with pytest.raises(DestinationRefusedUs):
        deliver_letters(state, RULES, READER, [made], DeliveryConfig(shutdown_timeout_s=10.0))

    assert state.count_dead_letters("replay") == 1
    assert state.cursors()["memory"].spool is not None


def test_a_replay_that_makes_a_letter_there_is_no_room_for_is_dead_again(state: StateStore) -> None:
    """It would end the process else, and every one after it: the letter stays marked."""
    memory = MemoryDestination()
    entry = read(b"destinations: {memory: {kind: stdout, when: properties.nothing == 1}}", {}).destinations[0]
    made = channel(state, memory, shape=Shape.of(entry, None))
    state.add([emitted(1), emitted(2)])
    state.mark_letters(LetterFilter(id="letter 1"), "replay")
    replay = Replay(state, RULES, READER, Router([made]))

    assert replay.begin() is True

    first, second = state.dead_letters()
    assert "dead_letters.max_letters" in first.reason
    assert second.reason == "no"
    assert (replay.is_waiting, memory.batches) == (False, [])
