"""One suite, held against every first-party destination, alone and inside a delivery to a fake of its vendor."""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.delivered import deliver
from tests.support.fake_vendor import FakeVendor
from tests.support.http_server import Reply
from tests.support.vendors import FAKES, KINDS
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import Destination
from wal_tracker.errors import DestinationRefusedUs
from wal_tracker.lsn import LSN
from wal_tracker.model import IDENTIFY, Deliverable, Group
from wal_tracker.testing import DestinationContract, MemoryDestination, make_event


@pytest.fixture(params=FAKES)
def vendor(request: pytest.FixtureRequest) -> Iterator[FakeVendor]:
    """Every HTTP destination's vendor, one after the other."""
    with FAKES[request.param]() as fake:
        yield fake


def build(vendor: FakeVendor, **options: Any) -> Destination:
    """The destination that speaks to it."""
    given = {**vendor.options, "request_timeout_s": 0.5, **options}
    return registry.build(vendor.kind, vendor.kind, given, f"destinations.{vendor.kind}")


class TestMemory(DestinationContract):
    """The one for tests keeps the laws too."""

    @pytest.fixture(autouse=True)
    def vendor(self) -> None:
        self.stored: dict[str, Any] = {}

    def build(self) -> Destination:
        memory = MemoryDestination()
        memory.events = self.stored
        return memory

    def received(self) -> list[str]:
        return list(self.stored)


@pytest.mark.of_kind("file")
class TestFile(DestinationContract):
    """JSON lines in a file."""

    @pytest.fixture(autouse=True)
    def vendor(self, tmp_path: Path) -> None:
        self.path = tmp_path / "events.jsonl"

    def build(self) -> Destination:
        return registry.build("file", "file", {"path": str(self.path)}, "destinations.file")

    def received(self) -> list[str]:
        return [json.loads(line)["id"] for line in self.path.read_text().splitlines()]


@pytest.mark.of_kind("stdout")
class TestStdout(DestinationContract):
    """JSON lines on standard output."""

    @pytest.fixture(autouse=True)
    def vendor(self, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        self.captured = capfdbinary

    def build(self) -> Destination:
        return registry.build("stdout", "stdout", {}, "destinations.stdout")

    def received(self) -> list[str]:
        return [json.loads(line)["id"] for line in self.captured.readouterr().out.splitlines()]


@pytest.mark.of_kind(*KINDS)
class TestVendors(DestinationContract):
    """Everything that speaks HTTP."""

    secrets = ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "t0ken", "phc_test", "k3y-of-the-project")

    @pytest.fixture(autouse=True)
    def its_vendor(self, vendor: FakeVendor) -> None:
        self.vendor = vendor

    def build(self) -> Destination:
        return build(self.vendor)

    def received(self) -> list[str]:
        return self.vendor.ids


# Inside a delivery -----------------------------------------------------------------------------------


def ids(events: Sequence[Deliverable]) -> list[str]:
    return [event.id for event in events]


@pytest.mark.parametrize(
    "trouble",
    [
        [Reply(500), Reply(502), Reply(503)],
        [Reply(429, headers={"Retry-After": "0"}), Reply(408)],
        [Reply(fault="close_before_response")],
        [Reply(fault="close_after_processing"), Reply(fault="truncated_body")],
        [Reply(fault="hang")],
        [Reply(fault="hang_after_processing")],
    ],
    ids=["5xx", "4xx that pass", "closed", "lost answers", "hanging", "hanging afterwards"],
)
def test_every_event_arrives_through_trouble_once_and_in_order(vendor: FakeVendor, trouble: list[Reply]) -> None:
    """
    At least once from us, the same each time; the vendor's deduplication makes it once, or that we look first.

    A vendor without either may have it more often, never less.
    """
    vendor.script.extend(reply for reply in trouble if reply.fault or reply.status in vendor.passing)
    events = [make_event(number) for number in range(1, 6)]

    delivery, letters = deliver(build(vendor), events)

    assert (vendor.ids if vendor.deduplicates else vendor.known) == ids(events)
    assert (delivery.failure, letters) == (None, [])
    assert delivery.position().lsn == LSN(10_000_000)
    copies: dict[str, list[Any]] = defaultdict(list)
    for request in vendor.requests:
        for item in vendor.items(request):
            copies[item[vendor.id_key]].append(item)
    assert vendor.looks_first or max(map(len, copies.values())) > 1
    assert all(item == sent[0] for sent in copies.values() for item in sent)


@pytest.mark.parametrize(
    "trouble",
    [
        [Reply(503), Reply(fault="close_before_response")],
        [Reply(fault="close_after_processing"), Reply(fault="hang_after_processing")],
    ],
    ids=["refused", "lost answers"],
)
def test_sent_abreast_every_event_arrives_and_each_rows_are_in_order(vendor: FakeVendor, trouble: list[Reply]) -> None:
    """As many requests at once as the destination says it may, each by an object of its own; a lane is a row."""
    vendor.script.extend(reply for reply in trouble if reply.fault or reply.status in vendor.passing)
    events = [make_event(number) for number in range(1, 31)]
    for number, event in enumerate(events):
        event.lane = number % 5
    first, *siblings = [build(vendor) for _ in range(vendor.width)]

    delivery, letters = deliver(first, events, siblings=siblings, max_batch_events=3)

    assert (delivery.failure, letters) == (None, [])
    assert delivery.position().lsn == LSN(10_000_000)
    place = {id: position for position, id in enumerate(vendor.known)}
    assert place.keys() == set(ids(events))
    assert vendor.ids == vendor.known or not vendor.deduplicates
    for lane in range(5):
        row = [place[event.id] for event in events if event.lane == lane]
        assert row == sorted(row)
    assert vendor.known == ids(events) or vendor.width > 1


@pytest.mark.parametrize(
    "trouble",
    [
        [],
        [Reply(503), Reply(fault="close_before_response")],
        [Reply(fault="close_after_processing"), Reply(fault="truncated_body")],
        [Reply(fault="hang_after_processing")],
    ],
    ids=["none", "refused", "lost answers", "hanging afterwards"],
)
def test_what_is_said_of_persons_and_groups_arrives_through_trouble(vendor: FakeVendor, trouble: list[Reply]) -> None:
    """
    In order, so that the last word stands; each call that makes an item is kept once, the same each time.

    To a vendor that knows no persons they are events like all others.
    """
    vendor.script.extend(reply for reply in trouble if reply.fault or reply.status in vendor.passing)
    told: list[tuple[str, dict[str, Any], Group]] = [
        ("order_placed", {"plan": "free", "email": None}, Group("company", "a", {"name": "Acme"})),
        (IDENTIFY if vendor.has_profiles else "moved", {"plan": "pro"}, Group("company", "b", {"name": "Bee"})),
        ("order_placed", {"plan": "max"}, Group("company", "a", {"name": "ACME", "size": 12.5})),
    ]
    events = [make_event(n, name=name, identify=who, group=group) for n, (name, who, group) in enumerate(told, 1)]
    for event in events:
        event.distinct_id = "7"
    events.insert(0, make_event(9))

    delivery, letters = deliver(build(vendor), events)

    assert (delivery.failure, letters) == (None, [])
    if vendor.has_profiles:
        person = vendor.people["7"]
        assert (person["plan"], person["email"]) == ("max", None)
        assert vendor.groups == {("company", "a"): {"name": "ACME", "size": 12.5}, ("company", "b"): {"name": "Bee"}}
    else:
        assert vendor.known == vendor.in_order(events)
    assert vendor.ids == vendor.known or not vendor.deduplicates
    copies: dict[str, list[Any]] = defaultdict(list)
    for request in vendor.requests:
        for item in vendor.items(request):
            copies[item[vendor.id_key]].append(item)
    assert set(copies) == set(vendor.known)
    assert all(item == sent[0] for sent in copies.values() for item in sent)


def test_it_waits_as_long_as_it_is_asked_to(vendor: FakeVendor) -> None:
    """Retry-After is a minimum."""
    vendor.script.append(Reply(429, headers={"Retry-After": "1"}))
    begun = time.monotonic()

    deliver(build(vendor), [make_event(1)])

    assert len(vendor.stored) == 1
    assert time.monotonic() - begun >= 1.0


def test_a_poisoned_event_among_good_ones_is_the_only_dead_letter(vendor: FakeVendor) -> None:
    """Whether the vendor names it or refuses the whole request."""
    events = [make_event(number) for number in range(1, 8)]
    vendor.poison = {events[2].id, events[5].id}

    delivery, letters = deliver(build(vendor), events)

    refused = vendor.poison if vendor.looks_inside else set()
    assert vendor.ids == [event.id for event in events if event.id not in refused]
    assert [letter.id for letter in letters] == [event.id for event in events if event.id in refused]
    assert all(letter.reason for letter in letters)
    assert delivery.position().lsn == LSN(10_000_000)


def test_an_event_that_is_too_large_goes_nowhere_and_takes_nothing_with_it(vendor: FakeVendor) -> None:
    """It is a dead letter alone, before or after it was sent."""
    destination = build(vendor)
    # Where files are kept nothing is too large; larger than a batch then.
    largest = vendor.max_bytes if vendor.looks_inside else destination.limits.max_batch_bytes
    size = int(getattr(destination, "max_event_bytes", largest))
    events = [make_event(1), make_event(2, properties={"text": "x" * size}), make_event(3)]

    _, letters = deliver(destination, events)

    refused = events[1:2] if vendor.looks_inside and not vendor.summarizes else []
    assert vendor.ids == [event.id for event in events if event not in refused]
    assert [letter.id for letter in letters] == ids(refused)


def test_an_event_about_nobody_is_never_given_to_somebody(vendor: FakeVendor) -> None:
    """Without a distinct_id: a dead letter, or where a vendor needs none an event without one; never an empty one."""
    events = [make_event(number) for number in range(1, 4)]
    events[1].distinct_id = None

    _, letters = deliver(build(vendor), events)

    if vendor.needs_somebody:
        assert vendor.ids == ids([events[0], events[2]])
        assert ["distinct_id" in letter.reason for letter in letters] == [True]
    else:
        assert (vendor.ids, letters) == (ids(events), [])
        sent = [item for request in vendor.requests for item in vendor.items(request)]
        (item,) = [item for item in sent if item[vendor.id_key] == events[1].id]
        assert not {"distinct_id", "user_id"} & {key for key, value in item.items() if value is not None}


@pytest.mark.parametrize("size", [0, 1], ids=["many", "large"])
def test_no_request_is_beyond_the_vendors_limits(vendor: FakeVendor, size: int) -> None:
    """Count and bytes, and every event arrives in as few requests as may be."""
    # Long enough for megabytes and a fake on a busy machine: nothing is to come twice.
    destination = build(vendor, request_timeout_s=30)
    limits = destination.limits
    if size:
        most = min(int(getattr(destination, "max_event_bytes", vendor.max_bytes)), limits.max_batch_bytes) // 3
        count = 2 * limits.max_batch_bytes // most + 2
    else:
        most, count = 1, 2 * limits.max_batch_events + 2
    events = [make_event(number, properties={"text": "x" * most}) for number in range(1, count + 1)]

    _, letters = deliver(destination, events)

    assert letters == []
    assert vendor.summarizes or vendor.ids == ids(events)
    counts = [vendor.count(request) for request in vendor.requests if request.method != "GET"]
    assert sum(counts) == count
    assert max(counts) <= min(vendor.max_events, limits.max_batch_events)
    assert max(len(request.body) for request in vendor.requests) <= vendor.max_bytes
    assert len(vendor.requests) <= 6 + count // vendor.max_events


def test_wrong_credentials_stop_and_dead_letter_nothing(vendor: FakeVendor) -> None:
    """A rotated key must not empty the backlog into the dead letters."""
    destination = build(vendor)
    vendor.key = "phc_rotated"

    delivery, letters = deliver(destination, [make_event(1), make_event(2)])

    assert isinstance(delivery.failure, DestinationRefusedUs)
    assert "check the" in str(delivery.failure)
    assert "k3y-of-the-project" not in str(delivery.failure) and "phc_test" not in str(delivery.failure)
    assert (vendor.stored, letters) == ({}, [])
    assert delivery.position().lsn == LSN(0)


@pytest.mark.parametrize("status", [301, 401, 403, 404])
def test_what_speaks_of_us_is_no_events_fault(vendor: FakeVendor, status: int) -> None:
    """A wrong place, or a key that may not: it stops."""
    vendor.script.extend([Reply(status)] * 3)

    delivery, letters = deliver(build(vendor), [make_event(1), make_event(2)])

    assert str(status) in str(delivery.failure)
    assert letters == []


def test_compressed_is_as_good(vendor: FakeVendor) -> None:
    """Where the vendor takes it; the others are sent nothing compressed."""
    takes_it = hasattr(registry.load(vendor.kind).Config, "gzip")  # type: ignore[attr-defined]

    for options in ({"gzip": True}, {"gzip": False}) if takes_it else ({},):
        deliver(build(vendor, **options), [make_event(1)])

    sent = [request for request in vendor.requests if request.method != "GET"]
    compressed = [request.headers.get("content-encoding") == "gzip" for request in sent]
    assert compressed == ([True, False] if takes_it else [False])
    # A file may be compressed by itself: its name says so.
    if vendor.looks_inside:
        assert [request.raw.startswith(b"\x1f\x8b") for request in sent] == compressed
    assert vendor.known == [make_event(1).id]


def test_no_log_line_holds_a_secret_or_a_value(vendor: FakeVendor, caplog: pytest.LogCaptureFixture) -> None:
    """Also when the vendor repeats what it was sent."""
    canary = "canary-7f3a"
    secrets = [canary, *TestVendors.secrets]
    told = " ".join(secrets).encode()
    vendor.script.extend([Reply(500, told), Reply(fault="close_before_response"), *[vendor.refusal(told)] * 2])

    with caplog.at_level(logging.DEBUG):
        deliver(build(vendor), [make_event(1, properties={"note": canary})])

    ours = [record for record in caplog.records if record.name.startswith("wal_tracker")]
    shown = " ".join(f"{record.getMessage()} {vars(record)}" for record in ours)
    assert "dead letters" in shown
    assert not [text for text in secrets if text in shown]
