"""Vendors fail in the ways vendors fail; every committed change arrives, once by its id, each row's in order."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support import items
from tests.support.fake_posthog import FakePostHog
from tests.support.fake_vendor import FakeVendor
from tests.support.http_server import HttpServer, Reply, Request
from tests.support.job import Job
from tests.support.postgres import Database, wait_until
from tests.support.proxy import ChaosProxy
from tests.support.vendors import FAKES, KINDS
from wal_tracker.lsn import LSN
from wal_tracker.secret import Secret
from wal_tracker.state import open_state
from wal_tracker.state.base import DeadLetter

KEY = "phc_right"
POISON = "the vendor never takes this"
# Short, so that what is refused comes again while the test looks.
DELIVERY = {"retry_base_s": 0.05, "retry_cap_s": 0.2, "request_timeout_s": 1.0}
# With a backlog of some hundred events the fault falls in the middle.
BATCH = 20
FAULT_AFTER_REQUESTS = 4

Misfortune = Callable[[], object]


class Receiver(HttpServer):
    """A webhook's receiver: keeps each event once, by its id, in the order of arrival."""

    misfortune: Misfortune | None = None
    """Happens once, after some requests."""

    def handle(self, request: Request) -> Reply:
        for event in _sent(request):
            self.stored.setdefault(event["id"], event)
        _happen(self)
        return Reply()


class FussyPostHog(FakePostHog):
    """Refuses a whole batch for one event with the note `POISON`, and does not say for which."""

    misfortune: Misfortune | None = None

    def handle(self, request: Request) -> Reply:
        if any(event["properties"].get("note") == POISON for event in request.json()["batch"]):
            return Reply(400, b"one of these will not do")
        reply = super().handle(request)
        _happen(self)
        return reply


def _happen(vendor: Receiver | FussyPostHog) -> None:
    if vendor.misfortune is not None and len(vendor.requests) >= FAULT_AFTER_REQUESTS:
        happen, vendor.misfortune = vendor.misfortune, None
        happen()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook's receiver."""
    made = Receiver()
    with made:
        yield made


@pytest.fixture
def posthog() -> Iterator[FussyPostHog]:
    """A PostHog."""
    made = FussyPostHog(key=KEY)
    with made:
        yield made


def _sent(request: Request) -> list[dict[str, Any]]:
    """The events of a request to a webhook."""
    document = request.json()
    return document if isinstance(document, list) else [document]


def _events(vendor: HttpServer) -> list[dict[str, Any]]:
    """What a vendor keeps, in the order it first came, with the id where `items.judge` looks for it."""
    return [{"id": event.get("uuid"), **event} for event in list(vendor.stored.values())]


def _config(database: Database, *, receiver: str = "", posthog: str = "", **delivery: Any) -> dict[str, Any]:
    config = items.config(database, delivery={**DELIVERY, **delivery})
    config["destinations"] = {}
    if receiver:
        config["destinations"]["webhook"] = {"url": receiver, "allow_private": True}
    if posthog:
        config["destinations"]["posthog"] = {
            "apiKey": KEY,
            "endpoint": posthog,
            "allow_private": True,
            "delivery": {"max_batch_events": BATCH},
        }
    for key, rule in config["track"].items():
        rule["distinct_id"] = "old.id" if key.endswith("delete") else "new.id"
    return config


def _apply(database: Database, job: Job) -> None:
    """Publication and slot, and a copy of the slot that nothing disturbs."""
    job.apply()
    slot = job.config["source"]["slot"]
    database.sql("select pg_copy_logical_replication_slot(%s, %s)", slot, slot + "_copy")


def _write(database: Database) -> None:
    """Some hundred changes: long and short transactions at once, savepoints and rollbacks."""
    with items.Writers(database) as writers:
        wait_until(lambda: database.sql("select count(*) > 150 from items") == [(True,)])
        writers.stop()


def _undisturbed(job: Job) -> list[dict[str, Any]]:
    """The same commits, read from the copied slot into a file by a process nothing happens to."""
    source = {**job.config["source"], "slot": job.config["source"]["slot"] + "_copy"}
    with Job({**job.config, "source": source, "destinations": {"file": {"path": "events.jsonl"}}}) as replay:
        replay.catch_up()
        return replay.lines()


def _judge(database: Database, undisturbed: list[dict[str, Any]], *vendors: HttpServer) -> None:
    """
    Every vendor keeps what adds up to the table: the events of a run nothing happened to, each row's in order.

    All of them are in the order of that run where requests are made one after the other.
    """
    expected = [event["id"] for event in undisturbed]
    for vendor in vendors:
        items.judge(database, _events(vendor))
        kept = [event["id"] for event in _events(vendor)]
        assert sorted(kept) == sorted(expected)
        assert kept == expected or (isinstance(vendor, FakeVendor) and vendor.width > 1)


def _in_rows(events: list[dict[str, Any]]) -> dict[int, list[str]]:
    """The ids of each row's events, in order."""
    rows: dict[int, list[str]] = defaultdict(list)
    for event in events:
        rows[event["properties"]["id"]].append(event["id"])
    return rows


def _dead_letters(job: Job) -> list[DeadLetter]:
    with closing(open_state(Secret(f"sqlite:///{job.directory}/wal_tracker.db"))) as state:
        return list(state.dead_letters(status=None))


def _confirmed(database: Database, job: Job) -> LSN:
    slot = job.config["source"]["slot"]
    ((text,),) = database.sql("select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s", slot)
    return LSN.parse(text)


def _is_read(database: Database, job: Job) -> bool:
    """Whether a replication connection reads the job's slot."""
    slot = job.config["source"]["slot"]
    return bool(
        database.sql(
            "select 1 from pg_stat_replication join pg_replication_slots on pid = active_pid where slot_name = %s", slot
        )
    )


@pytest.mark.parametrize(
    "reply",
    [
        Reply(500, b"we are sorry"),
        Reply(429, headers={"Retry-After": "1"}),
        Reply(fault="hang"),
        Reply(fault="close_before_response"),
        Reply(fault="close_after_processing"),
    ],
    ids=lambda reply: reply.fault or str(reply.status),
)
def test_what_passes_is_waited_for(database: Database, receiver: Receiver, posthog: FussyPostHog, reply: Reply) -> None:
    """
    An error that passes makes no dead letter, and what is behind it waits; what is sent twice is the same twice.

    With Retry-After nothing is sent before that.
    """
    database.sql(items.SCHEMA)
    vendors = (receiver, posthog)
    failed: list[float] = []

    def fail(vendor: HttpServer) -> None:
        vendor.script.append(reply)
        failed.append(time.monotonic())

    receiver.misfortune, posthog.misfortune = partial(fail, receiver), partial(fail, posthog)
    with Job(_config(database, receiver=receiver.url(), posthog=posthog.url(""))) as job:
        _apply(database, job)
        _write(database)
        job.start("run", "--until-caught-up")
        assert job.wait() == 0, job.log_text()
        ended = time.monotonic()
        _judge(database, _undisturbed(job), *vendors)
        assert len(failed) == 2 and not any(vendor.script for vendor in vendors)
        assert job.log_text().count("a destination is not taking events") >= 2
        assert _dead_letters(job) == []
    if "Retry-After" in reply.headers:
        assert ended - max(failed) >= 1.0
    copies: dict[str, list[bytes]] = defaultdict(list)
    for request in receiver.requests:
        copies[request.headers["webhook-id"]].append(request.body)
    for request in posthog.requests:
        for event in request.json()["batch"]:
            copies["posthog " + event["uuid"]].append(orjson.dumps(event))
    assert all(len(set(bodies)) == 1 for bodies in copies.values())
    twice = {id.partition(" ")[0] == "posthog" for id, bodies in copies.items() if len(bodies) > 1}
    assert twice == {True, False}, "both vendors were sent something twice"


def test_an_event_refused_for_good_is_found_in_its_batch(database: Database, posthog: FussyPostHog) -> None:
    """A batch answered with 400 is halved down to the guilty event; that one is a dead letter, the rest arrives."""
    database.sql(items.SCHEMA)
    with Job(_config(database, posthog=posthog.url(""))) as job:
        _apply(database, job)
        database.sql("insert into items select i, 1, 'made' from generate_series(1, 60) i")
        database.sql("update items set version = 2, note = %s where id = 23", POISON)
        database.sql("update items set version = 3, note = 'changed' where id in (22, 23, 24)")
        job.catch_up()
        (letter,) = _dead_letters(job)
        assert (letter.kind, letter.destination, letter.event) == ("rejected", "posthog", "item_changed")
        assert "400" in letter.reason and "will not do" in letter.reason
        undisturbed = _undisturbed(job)
        assert letter.id in [event["id"] for event in undisturbed]
        taken = [event for event in undisturbed if event["id"] != letter.id]
        assert _in_rows(_events(posthog)) == _in_rows(taken)
        batches = -(-len(undisturbed) // BATCH)
        assert len(posthog.requests) <= batches * posthog.width + 2 * BATCH.bit_length()


def test_a_key_that_is_refused_stops_the_pipeline(database: Database, posthog: FussyPostHog) -> None:
    """
    401 says nothing about events: exit 1, no dead letter, nothing confirmed that was not taken.

    With the key put right everything arrives.
    """
    database.sql(items.SCHEMA)
    posthog.misfortune = lambda: setattr(posthog, "key", "phc_rotated")
    with Job(_config(database, posthog=posthog.url(""))) as job:
        _apply(database, job)
        _write(database)
        job.start()
        assert job.wait() == 1
        assert "401" in job.log_text() and "check the key" in job.log_text()
        assert KEY not in job.log_text()
        assert _dead_letters(job) == []
        undisturbed = _undisturbed(job)
        refused = [event for event in undisturbed if event["id"] not in posthog.ids]
        assert refused
        kept, whole = _in_rows(_events(posthog)), _in_rows(undisturbed)
        assert all(whole[row][: len(ids)] == ids for row, ids in kept.items()), "a row has a hole"
        assert _confirmed(database, job) <= LSN.parse(refused[0]["source"]["commit_lsn"])
        posthog.key = KEY
        job.catch_up()
        _judge(database, undisturbed, posthog)


def test_a_dead_letter_can_be_had_back(database: Database, receiver: Receiver) -> None:
    """It waits with the receiver's words, and `dlq replay` delivers it."""
    database.sql(items.SCHEMA)
    with Job(_config(database, receiver=receiver.url())) as job:
        job.apply()
        database.sql("insert into items select n, 1, 'made' from generate_series(1, 5) n")
        receiver.script.extend([Reply(fault="close_after_processing"), Reply(), Reply(400, b"out of stock")])
        job.catch_up()

        (letter,) = map(json.loads, job.run("dlq", "list", "--json").stdout.splitlines())
        assert "out of stock" in letter["reason"]
        assert letter["id"] not in receiver.stored
        assert len(receiver.stored) == 4

        replayed = job.run("dlq", "replay", "--all")
        assert replayed.returncode == 0, replayed.stderr
        assert letter["id"] in receiver.stored
        assert len(receiver.stored) == 5


@pytest.mark.of_kind(*KINDS)
@pytest.mark.parametrize("name", FAKES)
def test_killed_between_request_and_acknowledgement_the_vendor_keeps_each_event_once(
    database: Database, name: str
) -> None:
    """
    What it has stored comes again after kill -9, the same byte for byte, and each row's changes in order.

    Unless it can be seen to be there. A vendor that drops no duplicates has some of what was on its way twice, and no
    other event.
    """
    database.sql(items.SCHEMA)
    with FAKES[name]() as vendor:
        delivery = {**DELIVERY, "max_batch_events": 4, "linger_s": 0.2}
        entry = {"kind": vendor.kind, **vendor.options, "delivery": delivery}
        config = items.config(database, destinations={"vendor": entry})
        for rule in ("items.insert", "items.update"):
            config["track"][rule]["distinct_id"] = "new.id"
        with Job(config) as job:
            job.apply()
            database.sql("insert into items select i, 1, 'made' from generate_series(1, 10) i")
            database.sql("update items set version = 2, note = 'changed'")
            vendor.script.append(Reply(fault="hang_after_processing"))
            job.start()
            wait_until(lambda: vendor.ids)
            job.kill9()
            assert vendor.ids
            job.catch_up()
            assert _dead_letters(job) == []
        sent = [item for request in vendor.requests for item in vendor.items(request)]
        twice = {id for id, count in Counter(vendor.ids).items() if count > 1}
        kept = {id: _properties(list(vendor.stored.values())[vendor.ids.index(id)]) for id in vendor.known}
        width = vendor.width
    changes = [(i, v) for v in (1, 2) for i in range(1, 11)]
    arrived = {id: (item["id"], item["version"]) for id, item in kept.items()}
    seen = list(arrived.values())
    assert sorted(seen) == sorted(changes)
    assert seen == changes or width > 1
    assert all(seen.index((i, 1)) < seen.index((i, 2)) for i in range(1, 11))
    # As much as may be on its way at once is the beginning of what was committed.
    assert {arrived[id] for id in twice} <= (set() if vendor.deduplicates else set(changes[: 4 * width]))
    assert len(sent) == len(kept) if vendor.looks_first else len(sent) > len(kept)
    by_id: dict[str, dict[str, Any]] = {}
    assert all(item == by_id.setdefault(item[vendor.id_key], item) for item in sent)


def _properties(item: dict[str, Any]) -> dict[str, Any]:
    """An event's, wherever its vendor has them."""
    found: dict[str, Any] = item.get("event_properties") or item.get("payload", item)["properties"]
    return found


def test_a_vendor_that_dies_is_waited_for(database: Database, receiver: Receiver) -> None:
    """Its connections are reset and no new one is taken, in the middle of the stream; back again, it gets the rest."""
    database.sql(items.SCHEMA)
    with ChaosProxy(receiver.port) as line, Job(_config(database, receiver=f"http://127.0.0.1:{line.port}/")) as job:

        def die() -> None:
            line.refuse = True
            line.cut()

        receiver.misfortune = die
        _apply(database, job)
        _write(database)
        job.start("run", "--until-caught-up")
        wait_until(lambda: job.log_text().count("a destination is not taking events") >= 3)
        line.refuse = False
        assert job.wait() == 0, job.log_text()
        _judge(database, _undisturbed(job), receiver)


def test_a_vendor_that_stays_down_costs_neither_memory_nor_the_server_its_socket(
    database: Database, receiver: Receiver
) -> None:
    """
    Longer than stall_timeout_s, and more than its spool takes: the replication connection is closed, the slot free.

    What is held is bounded. When the vendor is back the stream goes on where it was: nothing comes twice at the file
    beside it.
    """
    database.sql(items.SCHEMA)
    with ChaosProxy(receiver.port) as line:
        config = _config(
            database,
            receiver=f"http://127.0.0.1:{line.port}/",
            max_queue_bytes=65536,
            max_spool_bytes=65536,
            stall_timeout_s=0.3,
        )
        config["destinations"]["webhook"]["batch"] = True
        config["destinations"]["file"] = {"path": "events.jsonl"}
        with Job(config) as job:
            _apply(database, job)
            process = job.start()
            database.sql("insert into items values (0, 1, 'made')")
            wait_until(lambda: len(receiver.stored) == 1)
            job.wait_for_lines(1)
            before = _resident_bytes(process.pid)
            line.refuse = True
            line.cut()
            # 40 MB on the wire, in transactions of 2 MB.
            rows = "insert into items select i, 1, repeat('x', 4000) from generate_series(%s, %s) i"
            for first in range(1, 10_001, 500):
                database.sql(rows, first, first + 499)
            wait_until(lambda: not _is_read(database, job))
            assert "closing the replication connection" in job.log_text()
            assert len(job.lines()) < 5_000, "the bound did not hold the reader back"
            assert _resident_bytes(process.pid) - before < 20_000_000
            assert process.poll() is None
            line.refuse = False
            wait_until(lambda: len(receiver.stored) == 10_001, timeout_s=120)
            assert _resident_bytes(process.pid) - before < 40_000_000
            wait_until(lambda: _is_read(database, job))
            assert job.stop() == 0, job.log_text()
            items.judge(database, job.lines())
            _judge(database, _undisturbed(job), receiver)


def _resident_bytes(pid: int) -> int:
    """What of a process is in memory, by /proc/PID/statm (proc(5): pages)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
