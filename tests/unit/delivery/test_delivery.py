"""What a delivery promises: order, at least once, dead letters before positions, and positions only at boundaries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson
import pytest

from tests.support.postgres import wait_until
from wal_tracker import failpoints
from wal_tracker.delivery import Delivery, DeliverySettings
from wal_tracker.destinations.base import BatchRefused, Limits, Receipt, Rejected, Retry
from wal_tracker.errors import CheckpointRegression, DeadLettersFull, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable
from wal_tracker.state.base import Cursor, DeadLetter
from wal_tracker.testing import MemoryDestination, make_event

QUICK = DeliverySettings(retry_base_s=0.001, retry_cap_s=0.002)


class Letters:
    """Dead letters in memory; `when_added` sees what else is true at that moment."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []
        self.positions_when_added: list[LSN] = []
        self.delivery: Delivery | None = None
        self.error: Exception | None = None
        self.room = 1_000_000

    def add(self, letters: Sequence[DeadLetter]) -> None:
        if self.error is not None:
            raise self.error
        assert self.delivery is not None
        self.positions_when_added.append(self.delivery.position().lsn)
        taken = letters[: self.room]
        self.letters.extend(taken)
        self.room -= len(taken)
        if len(taken) < len(letters):
            raise DeadLettersFull(max_letters=len(self.letters), stored=len(taken))


class Bench:
    """A delivery around a memory destination, and what a test does with it."""

    def __init__(self) -> None:
        self.letters = Letters()
        self.destination = MemoryDestination()
        self.delivery: Delivery | None = None
        self.rule_of: Callable[[Deliverable], str] = lambda _: ""

    def start(
        self, limits: Limits | None = None, settings: DeliverySettings = QUICK, position: int = 0, mark: Any = None
    ) -> Delivery:
        if limits is not None:
            self.destination.limits = limits
        self.delivery = self.letters.delivery = Delivery(
            "memory", self.destination, settings, self.letters, rule_of=lambda event: self.rule_of(event)
        )
        self.delivery.start(LSN(position), Cursor(LSN(position), mark))
        return self.delivery

    def close(self) -> None:
        self.destination.gate.set()
        if self.delivery is not None:
            self.delivery.abort()

    def numbers(self) -> list[int]:
        """What is stored, in order of arrival."""
        return [event.properties["number"] for event in self.destination.events.values()]

    def batches(self) -> list[list[int]]:
        return [[event.properties["number"] for event in batch] for batch in self.destination.batches]


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def events(*numbers: int) -> list[Deliverable]:
    return [make_event(number) for number in numbers]


def settle(delivery: Delivery) -> None:
    """Wait until nothing is held, or it has failed."""
    wait_until(lambda: delivery.idle or delivery.failure is not None)


# Positions -------------------------------------------------------------------------------------------


def test_the_position_moves_to_a_boundary_when_everything_before_it_is_durable(bench: Bench) -> None:
    """And its mark is the one of the receipt that made it true."""
    delivery = bench.start(position=5)

    delivery.offer(events(1, 2), LSN(1000), 100)
    settle(delivery)

    assert delivery.position() == Cursor(LSN(1000), {"stored": 2})
    assert (delivery.held_bytes, delivery.offered, delivery.settled) == (0, 2, 2)


def test_the_position_does_not_move_inside_a_transaction(bench: Bench) -> None:
    """The server sends whole transactions, so a position inside one would repeat or lose."""
    delivery = bench.start(position=5)

    delivery.offer(events(1, 2), None, 100)
    settle(delivery)
    before = delivery.position()
    delivery.offer(events(3), LSN(2000), 10)
    settle(delivery)

    assert before == Cursor(LSN(5))
    assert delivery.position() == Cursor(LSN(2000), {"stored": 3})


def test_the_end_of_a_transaction_without_more_events_is_its_boundary(bench: Bench) -> None:
    """Its first events were sent while it was open; `reached` tells that it has ended."""
    delivery = bench.start()

    delivery.offer(events(1, 2), None, 100)
    settle(delivery)
    delivery.reached(LSN(3000))

    assert delivery.position() == Cursor(LSN(3000), {"stored": 2})


def test_progress_before_the_commit_of_an_open_transaction_does_not_close_it(bench: Bench) -> None:
    """After a reconnect the server may report progress below a transaction of which a part was sent already."""
    delivery = bench.start()
    delivery.offer([make_event(1, commit_lsn=LSN(5000))], None, 100)
    settle(delivery)

    delivery.reached(LSN(4000))
    before, settled = delivery.position(), delivery.settled
    delivery.reached(LSN(5100))

    assert (before, settled) == (Cursor(LSN(0)), 0)
    assert delivery.position() == Cursor(LSN(5100), {"stored": 1})
    assert delivery.settled == 1


def test_progress_on_an_idle_delivery_moves_it_at_once(bench: Bench) -> None:
    """A quiet destination must not hold back the slot."""
    delivery = bench.start(mark={"offset": 7})

    delivery.reached(LSN(9000))

    assert delivery.position() == Cursor(LSN(9000), {"offset": 7})


def test_progress_on_a_busy_delivery_waits_for_what_is_before_it(bench: Bench) -> None:
    """Confirming past an event in flight would lose it."""
    bench.destination.gate.clear()
    delivery = bench.start()

    delivery.offer(events(1), LSN(1000), 100)
    delivery.reached(LSN(2000))
    before = delivery.position().lsn
    bench.destination.gate.set()
    settle(delivery)

    assert before == LSN(0)
    assert delivery.position().lsn == LSN(2000)


def test_a_transaction_that_ends_before_one_already_told_is_our_own_bug(bench: Bench) -> None:
    """Stop before anything wrong is confirmed."""
    delivery = bench.start()
    delivery.reached(LSN(2000))

    with pytest.raises(CheckpointRegression):
        delivery.offer(events(1), LSN(1000), 0)


def test_the_mark_of_the_opened_destination_is_there_before_the_first_batch(bench: Bench) -> None:
    """A crash in the first batch ever must find what was before it."""
    bench.destination.open = lambda mark: {"stored": 0}  # type: ignore[method-assign]

    delivery = bench.start(position=7)

    assert delivery.position() == Cursor(LSN(7), {"stored": 0})


# Batches ---------------------------------------------------------------------------------------------


def test_a_batch_stays_within_its_bytes_and_a_giant_goes_alone(bench: Bench) -> None:
    """The vendor says what is too large, not we."""
    size = len(make_event(1).to_json())
    giant = make_event(3, properties={"text": "x" * 4 * size})
    delivery = bench.start(Limits(max_batch_events=100, max_batch_bytes=2 * size + 10, linger_s=0.0))

    delivery.offer([*events(1, 2), giant, *events(4, 5, 6)], LSN(10), 1)
    settle(delivery)

    assert bench.batches() == [[1, 2], [3], [4, 5], [6]]


def test_the_configuration_lowers_limits_and_never_raises_them(bench: Bench) -> None:
    """A limit is the vendor's."""
    settings = DeliverySettings(max_batch_events=1000, max_batch_bytes=1)
    delivery = bench.start(Limits(max_batch_events=3, linger_s=0.0), settings)

    delivery.offer(events(1, 2, 3), LSN(10), 1)
    settle(delivery)

    assert bench.batches() == [[1], [2], [3]]


def test_a_batch_lingers_for_more_until_it_is_full(bench: Bench) -> None:
    """Fewer requests; a full batch does not wait."""
    delivery = bench.start(Limits(max_batch_events=4, linger_s=3600.0))

    delivery.offer(events(1, 2), LSN(10), 1)
    delivery.offer(events(3), LSN(20), 1)
    sent_early = list(bench.destination.batches)
    delivery.offer(events(4), LSN(30), 1)
    settle(delivery)

    assert sent_early == []
    assert bench.batches() == [[1, 2, 3, 4]]


def test_a_batch_lingers_no_longer_than_said(bench: Bench) -> None:
    """It is sent without another event coming."""
    delivery = bench.start(Limits(max_batch_events=4, linger_s=0.01))

    delivery.offer(events(1), LSN(10), 1)

    settle(delivery)
    assert bench.numbers() == [1]


def test_offering_never_waits_for_a_destination(bench: Bench) -> None:
    """The thread that reads the socket must not stand still."""
    bench.destination.gate.clear()
    delivery = bench.start()
    begun = time.monotonic()

    for number in range(1000):
        delivery.offer(events(number), LSN(number + 1), 10)

    assert time.monotonic() - begun < 5
    assert delivery.held_bytes == 10_000


# Failures --------------------------------------------------------------------------------------------


def test_an_unavailable_destination_gets_the_same_batch_until_it_takes_it(bench: Bench) -> None:
    """Nothing overtakes it."""
    bench.destination.script.extend([DestinationUnavailable("memory", "down")] * 5)
    delivery = bench.start(Limits(max_batch_events=2, linger_s=0.0))

    delivery.offer(events(1, 2, 3), LSN(10), 1)
    settle(delivery)

    assert bench.batches() == [[1, 2]] * 6 + [[3]]
    assert (delivery.delivered, delivery.retries, delivery.rejected) == (3, 5, 0)


def test_the_guilty_event_of_a_refused_batch_is_found_by_halving(bench: Bench) -> None:
    """One poison event is one dead letter, and not an outage."""
    deliver = bench.destination.deliver

    def picky(batch: Sequence[Deliverable]) -> Receipt:
        if any(event.properties["number"] == 6 for event in batch):
            raise BatchRefused("HTTP 400: bad event")
        return deliver(batch)

    bench.destination.deliver = picky  # type: ignore[method-assign]
    delivery = bench.start()

    delivery.offer(events(*range(1, 9)), LSN(10), 1)
    settle(delivery)

    assert bench.numbers() == [1, 2, 3, 4, 5, 7, 8]
    assert [(letter.id, letter.reason) for letter in bench.letters.letters] == [
        (make_event(6).id, "HTTP 400: bad event")
    ]
    assert delivery.position().lsn == LSN(10)


def test_a_rejected_event_is_a_dead_letter_before_the_position_moves(bench: Bench) -> None:
    """With everything needed to look at it and send it again."""
    bench.destination.script.append(Receipt({1: Rejected("no such thing")}))
    delivery = bench.start(position=3)

    delivery.offer(events(1, 2, 3), LSN(1000), 1)
    settle(delivery)

    (letter,) = bench.letters.letters
    assert bench.letters.positions_when_added == [LSN(3)]
    assert (letter.id, letter.destination, letter.kind) == (make_event(2).id, "memory", "rejected")
    assert (letter.event, letter.table, letter.commit_lsn) == ("order_placed", "public.orders", LSN(512))
    assert letter.payload == make_event(2).to_json()
    assert (delivery.delivered, delivery.rejected) == (2, 1)
    assert delivery.position().lsn == LSN(1000)


def test_events_to_be_retried_go_again_in_order_before_what_is_behind_them(bench: Bench) -> None:
    """Order per row is commit order, also through retries."""
    bench.destination.script.append(Receipt({0: Retry(0.001), 2: Retry()}))
    delivery = bench.start(Limits(max_batch_events=3, linger_s=0.0))

    delivery.offer(events(1, 2, 3, 4), LSN(10), 1)
    settle(delivery)

    assert bench.batches() == [[1, 2, 3], [1, 3], [4]]
    assert delivery.delivered == 4


def test_an_event_that_is_not_json_is_a_dead_letter_and_the_rest_goes_on(bench: Bench) -> None:
    """Whatever a plugin or a message put there, the stream does not stop."""
    bad = make_event(2, properties={"text": "\ud800"})
    with pytest.raises(orjson.JSONEncodeError):
        bad.to_json()
    delivery = bench.start()

    delivery.offer([*events(1), bad, *events(3)], LSN(10), 1)
    settle(delivery)

    assert bench.numbers() == [1, 3]
    assert [letter.id for letter in bench.letters.letters] == [bad.id]
    assert "cannot be written as JSON" in bench.letters.letters[0].reason
    assert delivery.position().lsn == LSN(10)


@pytest.mark.parametrize(
    "error",
    [DestinationRefusedUs("memory", "wrong key"), BrokenPipeError("gone"), KeyError("a bug in a plugin")],
    ids=lambda error: type(error).__name__,
)
def test_what_trying_again_cannot_mend_stops_the_delivery_and_is_shown(bench: Bench, error: Exception) -> None:
    """Nothing is dead-lettered for a rotated key, and nothing is swallowed."""
    bench.destination.script.append(error)
    delivery = bench.start()

    delivery.offer(events(1), LSN(10), 1)
    wait_until(lambda: delivery.failure is not None)

    assert delivery.failure is error
    assert bench.letters.letters == []
    assert delivery.position() == Cursor(LSN(0), None)
    assert delivery.stop(1) is False
    assert bench.destination.closed == 1


def test_a_dead_letter_that_cannot_be_kept_stops_the_delivery(bench: Bench) -> None:
    """Otherwise the event would be lost."""
    bench.destination.script.append(Receipt({0: Rejected("no")}))
    bench.letters.error = OSError("disk full")
    delivery = bench.start()

    delivery.offer(events(1), LSN(10), 1)
    settle(delivery)

    assert delivery.failure is bench.letters.error
    assert delivery.position().lsn == LSN(0)


@pytest.mark.parametrize("name", ["before_destination", "after_destination_before_state"])
def test_both_failpoints_are_passed_and_fail_the_delivery(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault tests rely on them."""
    monkeypatch.setattr(failpoints, "_armed", {name: ("raise", 1)})
    monkeypatch.setattr(failpoints, "_passages", {})
    delivery = bench.start()

    delivery.offer(events(1), LSN(10), 1)
    settle(delivery)

    assert isinstance(delivery.failure, failpoints.InjectedFault)
    assert bench.numbers() == ([] if name == "before_destination" else [1])
    assert delivery.position().lsn == LSN(0)


def test_the_vendors_answer_is_kept_with_the_letter(bench: Bench) -> None:
    """Whether one event was refused, or a request with a single event in it; and the rule that made the event."""

    def picky(batch: Sequence[Deliverable]) -> Receipt:
        if any(event.properties["number"] == 2 for event in batch):
            raise BatchRefused("HTTP 400", "HTTP 400\nnot two")
        return Receipt({0: Rejected("no", "HTTP 200\nnot this one")})

    bench.destination.deliver = picky  # type: ignore[method-assign]
    bench.rule_of = lambda event: f"rule of {event.properties['number']}"
    delivery = bench.start()

    delivery.offer(events(1, 2), LSN(10), 1)
    settle(delivery)

    assert [(letter.rule, letter.reason, letter.answer) for letter in bench.letters.letters] == [
        ("rule of 1", "no", "HTTP 200\nnot this one"),
        ("rule of 2", "HTTP 400", "HTTP 400\nnot two"),
    ]
    assert "not this one" not in repr(Rejected("no", "not this one"))
    assert str(BatchRefused("HTTP 400", "not two")) == "HTTP 400"


def test_without_room_for_dead_letters_the_destination_waits(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """As in an outage: nothing behind it goes, no position moves, no letter is stored twice; then it goes on."""
    bench.destination.script.append(Receipt({0: Rejected("no"), 1: Rejected("no"), 2: Rejected("no")}))
    bench.letters.room = 2
    delivery = bench.start(Limits(max_batch_events=3, linger_s=0.0), position=3)

    delivery.offer(events(1, 2, 3, 4), LSN(10), 1)
    wait_until(lambda: delivery.retries > 3)

    assert (bench.numbers(), delivery.position().lsn, delivery.failure) == ([], LSN(3), None)
    (told, *_) = [record for record in caplog.records if "no room for dead letters" in record.message]
    assert (told.levelname, told.destination) == ("WARNING", "memory")  # type: ignore[attr-defined]
    assert "dlq drop" in told.reason  # type: ignore[attr-defined]
    bench.letters.room = 10
    settle(delivery)
    assert [letter.id for letter in bench.letters.letters] == [make_event(n).id for n in (1, 2, 3)]
    assert (bench.numbers(), delivery.rejected, delivery.position().lsn) == ([4], 3, LSN(10))


def test_waiting_for_room_does_not_hold_up_a_shutdown(bench: Bench) -> None:
    """What is not stored comes again after the next start."""
    bench.destination.script.append(Receipt({0: Rejected("no")}))
    bench.letters.room = 0
    delivery = bench.start(settings=DeliverySettings(retry_base_s=3600.0, retry_cap_s=3600.0))
    delivery.offer(events(1), LSN(10), 1)
    wait_until(lambda: delivery.retries > 0)

    assert delivery.stop(0.05) is False
    assert delivery.position().lsn == LSN(0)
    assert delivery.failure is None


# Leaving ---------------------------------------------------------------------------------------------


def test_stopping_delivers_what_is_held_without_lingering(bench: Bench) -> None:
    """And closes the destination."""
    delivery = bench.start(Limits(max_batch_events=100, linger_s=3600.0))
    delivery.offer(events(1, 2, 3), LSN(10), 1)

    assert delivery.stop(10) is True
    assert bench.numbers() == [1, 2, 3]
    assert delivery.position().lsn == LSN(10)
    assert bench.destination.closed == 1


def test_stopping_gives_up_at_its_deadline(bench: Bench) -> None:
    """A destination that is down must not hold up a shutdown; what is left comes again after the next start."""
    bench.destination.script.extend([DestinationUnavailable("memory", "down", retry_after_s=3600.0)] * 3)
    delivery = bench.start()
    delivery.offer(events(1), LSN(10), 1)
    wait_until(lambda: delivery.retries > 0)

    assert delivery.stop(0.05) is False
    assert delivery.position().lsn == LSN(0)
    wait_until(lambda: bench.destination.closed == 1)
    assert delivery.failure is None


def test_aborting_leaves_a_hanging_destination_behind(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second signal leaves at once."""
    monkeypatch.setattr("wal_tracker.delivery.delivery.ABORT_GRACE_S", 0.05)
    bench.destination.gate.clear()
    delivery = bench.start()
    delivery.offer(events(1, 2), LSN(10), 1)
    begun = time.monotonic()

    delivery.abort()

    assert time.monotonic() - begun < 5
    assert delivery.position().lsn == LSN(0)


def test_a_destination_that_cannot_be_opened_is_told_at_the_start(bench: Bench) -> None:
    """And no thread is left."""
    error = DestinationRefusedUs("memory", "no directory")

    def refuse(mark: Any) -> None:
        raise error

    bench.destination.open = refuse  # type: ignore[method-assign]
    with pytest.raises(DestinationRefusedUs):
        bench.start()

    assert not [thread for thread in threading.enumerate() if thread.name == "delivery-memory"]


# Another object for the same vendor ------------------------------------------------------------------


def test_an_idle_delivery_goes_over_to_its_replacement_at_once(bench: Bench) -> None:
    """The old one is closed, the new one opened with the mark as it is, and events go on in it."""
    delivery, new = bench.start(position=5), MemoryDestination()
    delivery.offer(events(1, 2), LSN(1000), 100)
    settle(delivery)

    delivery.replace(new)
    wait_until(lambda: bool(new.opened_with))
    delivery.offer(events(3), LSN(2000), 100)
    settle(delivery)

    assert (bench.destination.closed, new.opened_with, new.closed) == (1, [{"stored": 2}], 0)
    assert bench.numbers() == [1, 2]
    assert [event.properties["number"] for event in new.events.values()] == [3]
    assert delivery.position() == Cursor(LSN(2000), {"stored": 1})


def test_what_is_being_tried_again_goes_to_the_replacement(bench: Bench) -> None:
    """However long the wait would be: a wrong URL is mended by giving the right one. Nothing is lost on the way."""
    delivery = bench.start(settings=DeliverySettings(retry_base_s=600, retry_cap_s=600))
    new = MemoryDestination(limits=Limits(max_batch_events=2))
    bench.destination.script.extend([DestinationUnavailable("memory", "down", retry_after_s=300)])
    delivery.offer(events(1, 2, 3, 4, 5), LSN(1000), 100)
    wait_until(lambda: delivery.retries == 1)

    delivery.replace(new)
    settle(delivery)

    assert bench.numbers() == []
    sizes = [len(batch) for batch in new.batches]
    assert [event.properties["number"] for event in new.events.values()] == [1, 2, 3, 4, 5]
    assert max(sizes) == 2, "within the limits of the new one"
    assert delivery.position().lsn == LSN(1000)


def test_a_replacement_that_is_too_small_in_bytes_gets_smaller_batches(bench: Bench) -> None:
    """Limits may depend on options."""
    size = len(events(1)[0].to_json())
    delivery = bench.start()
    new = MemoryDestination(limits=Limits(max_batch_bytes=2 * size + 2, linger_s=0.0))
    bench.destination.script.extend([DestinationUnavailable("memory", "down", retry_after_s=300)])
    delivery.offer(events(1, 2, 3, 4), LSN(1000), 100)
    wait_until(lambda: delivery.retries == 1)

    delivery.replace(new)
    settle(delivery)
    delivery.offer(events(5, 6, 7), LSN(2000), 100)
    settle(delivery)

    assert [[event.properties["number"] for event in batch] for batch in new.batches] == [[1, 2], [3, 4], [5, 6], [7]]


def test_a_request_on_its_way_ends_before_the_replacement_begins(bench: Bench) -> None:
    """Its events are not sent a second time."""
    begun = threading.Event()

    class Slow(MemoryDestination):
        def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
            begun.set()
            return super().deliver(batch)

    bench.destination = Slow()
    delivery, new = bench.start(), MemoryDestination()
    bench.destination.gate.clear()
    delivery.offer(events(1), LSN(1000), 100)
    assert begun.wait(10)

    delivery.replace(new)
    assert new.opened_with == []
    bench.destination.gate.set()
    wait_until(lambda: bool(new.opened_with))

    assert bench.numbers() == [1]
    assert new.batches == []


def test_a_replacement_that_cannot_be_opened_leaves_the_old_one_at_work(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """And it is said, with the reason."""
    class Refused(MemoryDestination):
        def open(self, mark: Any) -> None:
            raise DestinationRefusedUs("memory", "the address is not allowed")

    delivery, new = bench.start(), Refused()
    delivery.offer(events(1), LSN(1000), 100)
    settle(delivery)
    delivery.replace(new)
    wait_until(lambda: len(bench.destination.opened_with) == 2)
    delivery.offer(events(2), LSN(2000), 100)
    settle(delivery)

    assert bench.numbers() == [1, 2]
    assert (bench.destination.opened_with[1], new.closed) == ({"stored": 1}, 1)
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.reason == "the address is not allowed"  # type: ignore[attr-defined]


def test_stopping_closes_the_replacement(bench: Bench) -> None:
    """Also one that came while the last events were on their way."""
    delivery, new = bench.start(), MemoryDestination()
    delivery.replace(new)
    delivery.offer(events(1), LSN(1000), 100)

    assert delivery.stop(10)

    assert (bench.destination.closed, new.closed) == (1, 1)
    assert [event.properties["number"] for event in new.events.values()] == [1]
