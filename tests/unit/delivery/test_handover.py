"""A delivery whose destination is the program itself: what is confirmed, and what room it takes."""

from __future__ import annotations

import pytest

from wal_tracker.delivery import HandOver
from wal_tracker.errors import StateError
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable
from wal_tracker.state.base import Cursor, Place, Spooled
from wal_tracker.testing import make_event


def transaction(lsn: int, *numbers: int) -> list[Deliverable]:
    """The events of one."""
    return [make_event(number, commit_lsn=LSN(lsn)) for number in numbers]


@pytest.fixture
def hand() -> HandOver:
    """At position 100."""
    made = HandOver("mine", max_held_bytes=1000)
    made.start(LSN(100))
    return made


def taken(hand: HandOver) -> list[str]:
    """What a program gets now."""
    with hand.changed:
        return [event.id for event in hand.take()]


def test_each_transaction_of_a_burst_can_be_confirmed(hand: HandOver) -> None:
    """The position is where the next one's commit record begins, and at last where the burst ends."""
    burst = [*transaction(200, 1, 2), *transaction(300, 3), *transaction(400, 4)]
    hand.offer(burst, LSN(450), 400)
    assert taken(hand) == [event.id for event in burst]
    assert taken(hand) == []

    positions = []
    for _ in burst:
        hand.confirm(1)
        positions.append(hand.position().lsn)
    assert positions == [LSN(100), LSN(300), LSN(400), LSN(450)]
    assert hand.idle and hand.settled == hand.offered == 4


def test_several_are_confirmed_at_once(hand: HandOver) -> None:
    """Over boundaries, and up to the middle of a transaction: then the one before it counts."""
    hand.offer([*transaction(200, 1), *transaction(300, 2), *transaction(400, 3, 4)], LSN(450), 400)
    hand.confirm(3)
    assert hand.position() == Cursor(LSN(400))
    assert hand.settled == 2 and not hand.idle


def test_an_open_transaction_is_done_with_at_its_end(hand: HandOver) -> None:
    """Its parts make room before that."""
    hand.offer([*transaction(200, 1), *transaction(300, 2, 3)], None, 300)
    hand.confirm(2)
    assert hand.position().lsn == LSN(300)
    held = hand.held_bytes
    hand.confirm(1)
    assert hand.position().lsn == LSN(300) and hand.held_bytes < held
    hand.reached(LSN(290))
    assert hand.position().lsn == LSN(300)
    hand.offer(transaction(300, 4), LSN(310), 100)
    hand.confirm(1)
    assert hand.position().lsn == LSN(310)
    hand.reached(LSN(500))
    assert hand.position().lsn == hand.told == LSN(500)


def test_replayed_letters_move_no_position(hand: HandOver) -> None:
    """They are older than what was told."""
    hand.offer([*transaction(50, 1), *transaction(20, 2)], hand.told, 200)
    hand.confirm(1)
    assert hand.position().lsn == LSN(100)
    hand.confirm(1)
    assert hand.position().lsn == LSN(100) and hand.idle


def test_it_starves_only_when_reading_pauses_for_what_it_holds(hand: HandOver) -> None:
    """Not when there is room again, and not once there is more to take."""

    def starved() -> bool:
        with hand.changed:
            return hand.starved_since() is not None

    hand.offer([*transaction(200, 1), *transaction(300, 2)], LSN(350), 1200)
    assert hand.held_bytes > hand.max_held_bytes and not starved()
    hand.store(pressed=True)
    assert starved()
    hand.confirm(1)
    assert starved(), "more than half of it is still held"
    hand.confirm(1)
    assert not starved()


def test_it_takes_no_place_of_a_destination_with_a_spool(hand: HandOver) -> None:
    """What lies there would never be delivered."""
    with pytest.raises(StateError, match="spool"):
        hand.start(LSN(0), Cursor(LSN(0), None, Spooled(Place(0, 0), Place(0, 9))))


def test_nobody_is_waited_for_once_it_is_left(hand: HandOver) -> None:
    """What is unconfirmed comes again; shutdown does not wait for it."""
    hand.offer(transaction(200, 1), LSN(210), 100)
    assert not hand.is_durable
    assert not hand.stop(10.0)
    assert hand.is_durable and hand.position().lsn == LSN(100)
