"""Laws of several requests at once: whatever is refused, and in whatever order answers come, each row keeps its own."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.postgres import wait_until
from wal_tracker.delivery import Delivery, DeliverySettings
from wal_tracker.destinations.base import BatchRefused, Limits, Receipt, Rejected, Retry
from wal_tracker.errors import DestinationUnavailable
from wal_tracker.lsn import LSN
from wal_tracker.model import Change, Column, Deliverable, Op, Relation, ReplicaIdentity, Row, Transaction
from wal_tracker.rules.lanes import key_of, lane_function
from wal_tracker.state.base import DeadLetter, Gap
from wal_tracker.testing import MemoryDestination, make_event

WIDTH = 3
POISON = 7


class Vendor:
    """One behind several objects. It is slow, takes the beginning of a batch, or refuses, as its dice fall."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.lock = threading.Lock()
        self.taken: list[int] = []
        self.busy = self.busiest = 0

    def take(self, batch: Sequence[Deliverable]) -> Receipt:
        with self.lock:
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
            chance, wait_s = self.dice.random(), self.dice.choice((0, 0, 0.001, 0.002))
        try:
            time.sleep(wait_s)
            if chance < 0.1:
                raise DestinationUnavailable("vendor", "down")
            numbers = [event.properties["number"] for event in batch]
            refused = {index: Rejected("no") for index, number in enumerate(numbers) if number % POISON == 0}
            if refused and chance < 0.5:
                raise BatchRefused("one of these will not do")
            until = len(batch) // 2 if chance > 0.8 else len(batch)
            outcomes: dict[int, Any] = {index: Retry() for index in range(until, len(batch))}
            with self.lock:
                self.taken += [number for number in numbers[:until] if number % POISON]
            return Receipt({**{index: why for index, why in refused.items() if index < until}, **outcomes})
        finally:
            with self.lock:
                self.busy -= 1


class Counter(MemoryDestination):
    """One of a vendor's counters."""

    def __init__(self, vendor: Vendor) -> None:
        super().__init__("vendor", limits=Limits(max_batch_events=4, linger_s=0.0, concurrency=WIDTH))
        self.vendor = vendor

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        return self.vendor.take(batch)


class Records:
    def __init__(self) -> None:
        self.dead: list[str] = []

    def add(self, letters: Sequence[DeadLetter]) -> None:
        self.dead += [letter.id for letter in letters]

    def record_gap(self, gap: Gap) -> None:
        raise AssertionError(gap)


keys = st.integers(0, 3)
changes = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["insert", "update", "delete"]), keys, st.none()),
        st.tuples(st.just("update"), keys, keys),
        st.tuples(st.just("truncate"), st.none(), st.none()),
    ),
    min_size=1,
    max_size=60,
)


def _made(
    number: int, identity: ReplicaIdentity, op: Op, before: int | None, after: int | None
) -> tuple[Deliverable, set[int]]:
    """The event of a change, in its lane, and the rows it is about; none: all of them."""
    relation = Relation(1, "public", "t", identity, (Column("id", 20, is_key=True), Column("v", 23)))
    change_key = after is not None and after != before
    old: Row | None = {"id": before}
    if identity is ReplicaIdentity.FULL:
        old = {"id": before, "v": number - 1}
    new: Row | None = {"id": before if after is None else after, "v": number}
    if op in ("insert", "truncate") or (op == "update" and identity is ReplicaIdentity.DEFAULT and not change_key):
        old = None
    if op in ("delete", "truncate"):
        new = None
    commit_lsn = LSN(number * 100)
    change = Change(Transaction(1, commit_lsn, 0, ""), relation, op, old, new, 0, {})
    event = make_event(number, commit_lsn=commit_lsn)
    lane = lane_function("public.t", key_of(relation, ["id"]))(change)
    if lane is not None:
        event.lane = lane
    rows = {row for row in (before, after if change_key else before) if row is not None}
    return event, rows


@settings(deadline=None, max_examples=60)
@given(changes=changes, seed=st.integers(0, 1000), full=st.booleans(), burst=st.integers(1, 20))
def test_each_rows_changes_arrive_in_the_order_of_their_commits(
    changes: list[tuple[Op, int | None, int | None]], seed: int, full: bool, burst: int
) -> None:
    """An update of the key is a change of two rows, a truncate one of every row; every event arrives, or is dead."""
    identity = ReplicaIdentity.FULL if full else ReplicaIdentity.DEFAULT
    made = [_made(number, identity, *change) for number, change in enumerate(changes, 1)]
    vendor, records = Vendor(seed), Records()
    first, *siblings = [Counter(vendor) for _ in range(WIDTH)]
    quick = DeliverySettings(retry_base_s=0.0005, retry_cap_s=0.001)
    delivery = Delivery("vendor", first, quick, records, siblings=siblings)
    delivery.start(LSN(0))
    try:
        for begin in range(0, len(made), burst):
            events = [event for event, _ in made[begin : begin + burst]]
            delivery.offer(events, LSN((begin + len(events)) * 100 + 10), 100)
        wait_until(lambda: delivery.idle or delivery.failure, every_s=0.001)
    finally:
        delivery.abort()
    assert delivery.failure is None
    numbers = range(1, len(made) + 1)
    assert sorted(vendor.taken) == [number for number in numbers if number % POISON]
    assert len(records.dead) == len(numbers) // POISON
    for row in range(4):
        of_row = [number for number in vendor.taken if row in made[number - 1][1] or not made[number - 1][1]]
        assert of_row == sorted(of_row)
    assert delivery.position().lsn == LSN(len(made) * 100 + 10)


def test_requests_of_different_rows_really_travel_at_once() -> None:
    """Or the law above says nothing."""
    vendor = Vendor(1)
    first, *siblings = [Counter(vendor) for _ in range(WIDTH)]
    delivery = Delivery("vendor", first, DeliverySettings(retry_base_s=0.0005), Records(), siblings=siblings)
    delivery.start(LSN(0))
    try:
        events = [_made(number, ReplicaIdentity.DEFAULT, "insert", number % 4, None)[0] for number in range(1, 201)]
        delivery.offer(events, LSN(30_000), 100)
        wait_until(lambda: delivery.idle or delivery.failure, every_s=0.001)
    finally:
        delivery.abort()
    assert vendor.busiest == WIDTH


def test_a_rate_is_kept_by_all_of_them_together() -> None:
    """`max_events_per_s` is the destination's, however many requests there are at once."""
    vendor = Vendor(1)
    first, *siblings = [Counter(vendor) for _ in range(WIDTH)]
    settings = DeliverySettings(retry_base_s=0.0005, max_events_per_s=400)
    delivery = Delivery("vendor", first, settings, Records(), siblings=siblings)
    delivery.start(LSN(0))
    try:
        begun = time.monotonic()
        events = [_made(number, ReplicaIdentity.DEFAULT, "insert", number % 4, None)[0] for number in range(1, 201)]
        delivery.offer(events, LSN(30_000), 100)
        wait_until(lambda: delivery.idle or delivery.failure, every_s=0.001)
    finally:
        delivery.abort()
    assert time.monotonic() - begun >= (200 - 3 * 4) / 400
