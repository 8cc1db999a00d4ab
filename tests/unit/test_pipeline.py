"""What the loop promises, held against a source that breaks where it is told to and destinations that fail at will."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres import wait_until
from tests.support.scripted_source import Committed, Emitted, Row1, Said, ScriptedSource
from wal_tracker import pipeline as pipeline_module
from wal_tracker.cel.functions import keyed_hash
from wal_tracker.channels import Channel
from wal_tracker.config.load import load, read
from wal_tracker.config.model import DeliveryConfig, DestinationConfig
from wal_tracker.decode.changes import ChangeReader
from wal_tracker.delivery import Delivery, DeliverySettings
from wal_tracker.delivery.lanes import lane_of
from wal_tracker.destinations.base import Receipt, Rejected
from wal_tracker.errors import (
    DestinationError,
    DestinationRefusedUs,
    SlotLost,
    SlotNotFound,
    SourceUnavailable,
    StateError,
)
from wal_tracker.lsn import LSN
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.pipeline import Pipeline
from wal_tracker.replay import deliver_letters
from wal_tracker.rules.engine import RuleSet
from wal_tracker.rules.shape import Shape
from wal_tracker.state import open_state
from wal_tracker.state.base import Cursor, LetterBound, LetterFilter, StateStore
from wal_tracker.testing import MemoryDestination

RULES = """
track:
  items.insert: {event: item_made, properties: {id: new.id}}
  poison.insert: {event: never, properties: {id: 1 / (new.id - new.id)}}
  named.insert: {cond: "'made_' + string(new.id)"}
  message.note: {event: noted, timestamp: "timestamp('2026-01-01T00:00:00Z')", properties: {text: message.content}}
"""

QUICK = DeliverySettings(linger_s=0.0, retry_base_s=0.001, retry_cap_s=0.002)
BROKEN = SourceUnavailable("the line broke")


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits before another attempt are milliseconds here."""
    monkeypatch.setattr(pipeline_module, "RECONNECT_BASE_S", 0.001)
    monkeypatch.setattr(pipeline_module, "IDLE_CONFIRM_INTERVAL_S", 0.0)
    monkeypatch.setattr(pipeline_module, "REPLAY_INTERVAL_S", 0.0)


class Bench:
    """A pipeline over a scripted log, memory destinations and a state file."""

    def __init__(self, directory: Path) -> None:
        path = directory / "wal_tracker.yaml"
        path.write_text(RULES)
        self.config = load(path, {})
        self.types = TypeCatalog()
        self.rules = RuleSet(self.config, self.types, system_identifier="1", mode="wal")
        self.state_url = f"sqlite:///{directory}/state.db"
        self.state: StateStore = open_state(self.state_url)
        self.destinations: dict[str, MemoryDestination] = {}
        self.source = ScriptedSource(self.rules.wanted, [])
        self.settings: dict[str, Any] = {"checkpoint_interval_s": 0.01, "shutdown_timeout_s": 5.0}
        self.pipeline: Pipeline | None = None

    def bound(self, bound: LetterBound) -> None:
        """Open the state again, with a bound of dead letters."""
        self.state.close()
        self.state = open_state(self.state_url, bound)

    def make(
        self,
        *log: Committed | Emitted,
        destinations: Mapping[str, int] | None = None,
        position: int = 0,
        until: LSN | None = None,
        **source: Any,
    ) -> Pipeline:
        """A pipeline up to the end of the log, with destinations by name and where each of them starts."""
        self.source = ScriptedSource(self.rules.wanted, list(log), **source)
        channels = []
        for name, start in (destinations or {"memory": position}).items():
            destination = self.destinations.setdefault(name, MemoryDestination(name))
            bound = self.settings.get("max_queue_bytes", QUICK.max_queue_bytes)
            quick = replace(QUICK, max_queue_bytes=bound)
            delivery = Delivery(name, destination, quick, self.state, rule_of=self.rules.rule_of)
            channels.append(Channel(DestinationConfig(name=name, kind="memory"), delivery, LSN(start)))
        self.channels = channels
        self.pipeline = Pipeline(
            self.source,
            self.rules,
            channels,
            self.state,
            DeliveryConfig(**self.settings),
            position=LSN(position),
            until=until if until is not None else log[-1].end_lsn if log else None,
            reader=ChangeReader(self.types),
        )
        return self.pipeline

    def received(self, name: str = "memory") -> list[Any]:
        """The ids of the rows whose events came, in order, repeated ones too."""
        return [event.properties.get("id", event.name) for batch in self.destinations[name].batches for event in batch]

    def start(self) -> threading.Thread:
        """Run in a thread; `errors` tells how it ended."""
        assert self.pipeline is not None
        run = self.pipeline.run
        self.errors: list[BaseException] = []

        def guarded() -> None:
            try:
                run()
            except BaseException as error:  # noqa: BLE001 - a test looks at it
                self.errors.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """With nothing committed yet; no delivery thread is left when the test has ended."""
    made = Bench(tmp_path)
    yield made
    for destination in made.destinations.values():
        destination.gate.set()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("delivery-")])
    made.state.close()


def rows(*ids: int, table: str = "items") -> list[Row1]:
    """Inserted rows."""
    return [Row1(id, table) for id in ids]


# Reconnecting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut_at", range(1, 11))
def test_a_line_that_breaks_anywhere_loses_and_repeats_nothing(bench: Bench, cut_at: int) -> None:
    """What was handled of a cut transaction is counted off when it comes again; what was whole is passed over."""
    log = [Committed(100, rows(1, 2)), Committed(200), Committed(300, rows(3, 4, 5, 6)), Committed(400, rows(7))]
    bench.make(*log, burst=1, breaks={cut_at: BROKEN}).run()

    assert bench.received() == [1, 2, 3, 4, 5, 6, 7]
    assert bench.state.cursors()["memory"].lsn == 410


@pytest.mark.parametrize("second", [7, 9, 10, 11, 13, 15])
def test_a_transaction_cut_twice_after_others_came_again_repeats_nothing(bench: Bench, second: int) -> None:
    """Transactions and messages that are passed over before it do not make us forget how far we were in it."""
    bench.destinations["memory"] = MemoryDestination("memory")
    # Nothing becomes durable before both breaks: the server begins at the very start each time.
    bench.destinations["memory"].gate.clear()
    log = [Committed(100, rows(1)), Emitted(150, "note", b"n"), Committed(200, rows(2, 3, 4, 5))]
    bench.make(*log, burst=1, breaks={6: BROKEN, second: BROKEN})
    thread = bench.start()
    wait_until(lambda: len(bench.source.connects) == 3)
    bench.destinations["memory"].gate.set()
    thread.join(10)

    assert not bench.errors
    assert bench.received() == [1, "noted", 2, 3, 4, 5]
    assert bench.source.connects == [0, 0, 0]


def test_a_position_passed_while_the_server_is_still_behind_is_confirmed_without_complaint(bench: Bench) -> None:
    """After a reconnect destinations go on delivering what is held, while the server has sent nothing yet."""
    bench.destinations["memory"] = MemoryDestination("memory")
    bench.destinations["memory"].gate.clear()

    def on_connect(source: ScriptedSource) -> None:
        if len(source.connects) == 2:
            bench.destinations["memory"].gate.set()
            wait_until(lambda: bench.channels[0].delivery.idle)

    log = [Committed(100, rows(1)), Committed(200, rows(2))]
    bench.make(*log, breaks={2: BROKEN}, on_connect=on_connect).run()

    assert bench.received() == [1, 2]
    assert bench.source.confirmed[-1] == 210


def test_a_slot_that_somebody_moved_between_two_connections_is_a_recorded_gap(bench: Bench) -> None:
    """Dropped and made again, or advanced: what lies between is on record, once, and the stream goes on."""

    def on_connect(source: ScriptedSource) -> None:
        if len(source.connects) == 2:
            source.begins = LSN(250)

    log = [Committed(100, rows(1)), Committed(200, rows(2)), Committed(300, rows(3))]
    bench.make(*log, breaks={2: BROKEN, 4: SourceUnavailable("again")}, on_connect=on_connect).run()

    assert bench.received() == [1, 3]
    (gap,) = bench.state.gaps()
    assert (gap.from_lsn, gap.to_lsn, gap.reason) == (110, 250, "slot_ahead")


def test_a_slot_moved_over_what_is_in_our_hands_is_no_gap(bench: Bench) -> None:
    """What the slot no longer holds is with the deliveries; should we die with it, the next start finds the gap."""
    bench.destinations["memory"] = MemoryDestination("memory")
    bench.destinations["memory"].gate.clear()

    def on_connect(source: ScriptedSource) -> None:
        if len(source.connects) == 2:
            source.begins = LSN(110)
            bench.destinations["memory"].gate.set()

    log = [Committed(100, rows(1)), Committed(200, rows(2))]
    bench.make(*log, breaks={2: BROKEN}, on_connect=on_connect).run()

    assert bench.received() == [1, 2]
    assert bench.state.gaps() == []


@pytest.mark.parametrize("error", [SlotLost(slot="s", reason="wal_removed"), SlotNotFound(slot="s")])
def test_when_the_slot_is_gone_what_is_in_our_hands_is_delivered_first(bench: Bench, error: Any) -> None:
    """It exists nowhere else any more; the gap begins where it ends."""
    bench.destinations["memory"] = MemoryDestination("memory")
    bench.destinations["memory"].gate.clear()

    def on_connect(source: ScriptedSource) -> None:
        if len(source.connects) == 2:
            threading.Timer(0.05, bench.destinations["memory"].gate.set).start()
            raise error

    bench.make(Committed(100, rows(1, 2)), breaks={3: BROKEN}, until=LSN(1000), on_connect=on_connect)
    with pytest.raises(type(error)):
        bench.pipeline.run()  # type: ignore[union-attr]

    assert bench.received() == [1, 2]
    assert bench.state.cursors()["memory"].lsn == 110
    gaps = [(gap.from_lsn, gap.to_lsn, gap.reason) for gap in bench.state.gaps()]
    assert gaps == ([(110, None, "slot_lost")] if isinstance(error, SlotLost) else [])


def test_an_outage_is_told_now_and_then_and_not_at_every_attempt(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night of it is a page of log; that it is over is told too."""
    monkeypatch.setattr(pipeline_module, "RECONNECT_CAP_S", 0.001)

    def on_connect(source: ScriptedSource) -> None:
        if 2 <= len(source.connects) <= 100:
            raise SourceUnavailable("connection refused")

    caplog.set_level("INFO", logger="wal_tracker.pipeline")
    bench.make(Committed(100, rows(1)), Committed(200, rows(2)), breaks={2: BROKEN}, on_connect=on_connect).run()

    assert bench.received() == [1, 2]
    told = [record.getMessage() for record in caplog.records]
    assert 2 <= told.count("lost the stream") <= 9
    assert told.count("reading the stream again") == 1


# Positions ---------------------------------------------------------------------------------------


def test_transactions_below_the_position_are_passed_over(bench: Bench) -> None:
    """A server that crashed sends again what it had confirmed; the commit record that begins at the position is new."""
    log = [Committed(100, rows(1)), Committed(190, rows(2)), Committed(200, rows(3))]
    pipeline = bench.make(*log, position=200)
    # The slot is behind us.
    real = bench.source.connect
    bench.source.connect = lambda _start: real(LSN(0))  # type: ignore[method-assign]
    pipeline.run()

    assert bench.received() == [3]
    assert pipeline.stats.skipped_transactions == 2


def test_each_destination_begins_where_it_stands(bench: Bench) -> None:
    """One that is ahead gets nothing twice, and the position is that of the one behind."""
    log = [Committed(100, rows(1)), Committed(200, rows(2)), Committed(300, rows(3))]
    bench.make(*log, destinations={"behind": 0, "ahead": 210}).run()

    assert bench.received("behind") == [1, 2, 3]
    assert bench.received("ahead") == [3]
    assert bench.state.cursors() == {
        "behind": Cursor(LSN(310), {"stored": 3}),
        "ahead": Cursor(LSN(310), {"stored": 1}),
    }


def test_wal_without_anything_for_us_moves_the_position(bench: Bench) -> None:
    """Empty transactions and keep-alives; or the server would keep it for ever."""
    bench.make(Committed(100), Committed(200), until=LSN(500), wal_end=LSN(500)).run()

    assert bench.received() == []
    assert bench.state.cursors()["memory"].lsn == 500
    assert bench.source.confirmed[-1] == 500


def test_a_keep_alive_confirms_nothing_that_is_outstanding(bench: Bench) -> None:
    """A destination that has not answered holds the position below its transaction, whatever comes after."""
    destination = bench.destinations["memory"] = MemoryDestination("memory")
    destination.gate.clear()
    log = [Committed(100), Committed(200, rows(1)), Committed(300)]
    bench.make(*log, burst=1, until=LSN(500), wal_end=LSN(500))
    thread = bench.start()
    wait_until(lambda: bench.source.confirmed == [110])
    wait_until(lambda: bench.channels[0].delivery.told == 500)
    assert bench.state.cursors()["memory"].lsn == 110

    destination.gate.set()
    thread.join(10)
    assert not bench.errors
    assert bench.source.confirmed[-1] == 500
    assert bench.state.cursors()["memory"].lsn == 500


def test_a_huge_transaction_goes_out_in_pieces_and_the_position_moves_at_its_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded whatever its size, and half a transaction is never called durable."""
    monkeypatch.setattr(pipeline_module, "MAX_OPEN_EVENTS", 5)
    positions: list[LSN] = []
    log = [Committed(100, rows(0)), Committed(200, rows(*range(1, 51)))]

    def on_read(source: ScriptedSource) -> None:
        (channel,) = bench.channels
        if 10 < source.sent < 50:
            wait_until(lambda: channel.delivery.idle)
            positions.append(channel.delivery.position().lsn)

    bench.make(*log, on_read=on_read).run()

    assert bench.received() == list(range(51))
    assert len(bench.destinations["memory"].batches) > 5
    assert set(positions) == {110}
    assert bench.state.cursors()["memory"].lsn == 210


def test_a_huge_transaction_that_is_cut_in_mid_delivery_goes_on_where_it_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first pieces are out already and come again from the server, not from us."""
    monkeypatch.setattr(pipeline_module, "MAX_OPEN_EVENTS", 5)
    log = [Committed(100, rows(0)), Committed(200, rows(*range(1, 51)))]
    bench.make(*log, breaks={20: BROKEN, 40: SourceUnavailable("again")}).run()

    assert bench.received() == list(range(51))
    assert bench.state.gaps() == []


def test_a_rule_error_is_durable_before_a_position_passes_it(bench: Bench) -> None:
    """Its dead letter is in the state file whenever a position beyond its transaction is."""
    letters_when_saved: list[tuple[int, int]] = []
    save = bench.state.save_cursors

    def watched(cursors: Mapping[str, Cursor]) -> None:
        letters_when_saved.append((cursors["memory"].lsn, bench.state.count_dead_letters("dead")))
        save(cursors)

    bench.state.save_cursors = watched  # type: ignore[method-assign]
    bench.make(Committed(100, rows(1, table="poison")), Committed(200, rows(2))).run()

    assert bench.received() == [2]
    assert letters_when_saved
    assert all(letters == 1 for lsn, letters in letters_when_saved if lsn > 100)


def test_without_room_for_rule_errors_reading_waits_without_a_connection(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Nothing of their burst is handed on, no position passes them, and no socket is held unread. With room it goes on
    where it was, in the middle of the transaction, and repeats nothing.
    """
    monkeypatch.setattr(pipeline_module, "LETTERS_RETRY_S", 0.001)
    bench.bound(LetterBound(2, "hold"))
    log = [
        Committed(100, rows(1)),
        Committed(200, [*rows(2), *rows(1, 2, 3, table="poison"), *rows(3, 4)]),
        Committed(300, rows(5)),
    ]
    pipeline = bench.make(*log, burst=4)
    thread = bench.start()
    wait_until(lambda: bench.state.count_dead_letters("dead") == 2 and not bench.source.is_open)
    wait_until(lambda: bench.received() == [1])
    confirmed = max(bench.source.confirmed, default=LSN(0))

    assert bench.state.drop_letters(LetterFilter()) == 2
    thread.join(10)

    assert not thread.is_alive() and not bench.errors
    assert confirmed <= 110
    assert bench.received() == [1, 2, 3, 4, 5]
    assert bench.state.count_dead_letters("dead") == 1
    assert (pipeline.stats.stalls, pipeline.stats.rule_errors) == (1, 3)
    assert bench.state.cursors()["memory"].lsn >= 300


def test_a_stop_while_there_is_no_room_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not stored comes again, and its transaction with it, after the next start."""
    monkeypatch.setattr(pipeline_module, "LETTERS_RETRY_S", 3600.0)
    bench.bound(LetterBound(1, "hold"))
    log = [Committed(100, rows(1)), Committed(200, [*rows(1, 2, table="poison"), *rows(2)])]
    pipeline = bench.make(*log, burst=2)
    thread = bench.start()
    wait_until(lambda: bench.state.count_dead_letters("dead") == 1 and not bench.source.is_open)
    pipeline.stop()
    thread.join(10)

    assert not thread.is_alive() and not bench.errors
    assert bench.state.cursors()["memory"].lsn <= 110
    bench.bound(LetterBound(2, "hold"))
    bench.make(*log, position=bench.state.cursors()["memory"].lsn).run()
    assert bench.received() == [1, 2]
    assert bench.state.count_dead_letters("dead") == 2


def test_a_refused_event_is_filed_under_its_rule(bench: Bench) -> None:
    """Also where its name was computed, and where it was made of a message; an event does not say, its id does."""
    destination = bench.destinations["memory"] = MemoryDestination("memory")
    destination.deliver = lambda batch: Receipt(dict.fromkeys(range(len(batch)), Rejected("no")))  # type: ignore[method-assign]
    emitted = Said("wal_tracker.event", b'{"event": "emitted", "distinct_id": "7"}')
    bench.make(
        Committed(100, [*rows(1), *rows(2, table="named"), emitted]), Emitted(150, "note", b"hello"), burst=10
    ).run()

    assert {letter.event: letter.rule for letter in bench.state.dead_letters()} == {
        "item_made": "items.insert",
        "made_2": "named.insert",
        "emitted": "wal_tracker.event",
        "noted": "message.note",
    }


def test_shed_rule_errors_are_a_gap_and_reading_goes_on(bench: Bench) -> None:
    """Whoever chose that wants the stream to flow."""
    bench.bound(LetterBound(2, "shed"))
    bench.make(Committed(100, rows(*range(9), table="poison")), Committed(200, rows(1))).run()

    assert bench.received() == [1]
    assert bench.state.count_dead_letters("dead") == 2
    (gap,) = bench.state.gaps()
    assert (gap.reason, gap.events, gap.from_lsn, gap.to_lsn) == ("dead_letters_shed", 7, 100, 100)


def test_a_page_of_letters_that_fail_again_is_not_the_end_of_a_replay(bench: Bench) -> None:
    """Those behind it are looked at as well."""
    bench.make(Committed(100, rows(*range(501), table="poison"))).run()
    bench.state.mark_letters(LetterFilter(), "replay")
    reader = ChangeReader(bench.types)
    bench.make()

    done = deliver_letters(bench.state, bench.rules, reader, bench.channels, DeliveryConfig())

    assert done == (0, 501)
    assert bench.state.count_dead_letters("dead") == 501


def test_messages_outside_transactions_are_events_of_their_own(bench: Bench) -> None:
    """They move the position just past themselves."""
    log = [Committed(100, rows(1)), Emitted(150, "note", b"hello"), Committed(200, [Said("note", b"inside")])]
    bench.make(*log).run()

    made = [event for batch in bench.destinations["memory"].batches for event in batch]
    assert [event.properties.get("text") for event in made] == [None, "hello", "inside"]
    assert len({event.id for event in made}) == 3


def test_truncates_are_recorded_once_for_each_table_also_when_they_come_again(bench: Bench) -> None:
    """Two tables in one transaction are two records; a replay adds none."""
    log = [Committed(100, [Row1(0, "items", "truncate"), Row1(0, "poison", "truncate")]), Committed(200, rows(1))]
    for _ in range(2):
        bench.make(*log, destinations={"memory": 0}).run()
        # As if positions had not been stored before a crash.
        bench.state.save_cursors = lambda _cursors: None  # type: ignore[method-assign]

    assert [(gap.from_lsn, gap.detail.split()[0]) for gap in bench.state.gaps()] == [
        (100, "public.items"),
        (100, "public.poison"),
    ]


def test_computed_event_names_do_not_fill_the_memory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `cond` may make a name of every row; where each goes is remembered for so many only."""
    monkeypatch.setattr("wal_tracker.channels.MAX_REMEMBERED_NAMES", 50)
    bench.make(Committed(100, rows(*range(500), table="named")), burst=100).run()

    assert bench.received() == [f"made_{id}" for id in range(500)]
    relation = bench.source._relation("named")
    (rule,) = relation.plan.rules["insert"]
    assert len(rule.targets) <= 50


# Destinations that do not go on ------------------------------------------------------------------


def test_a_full_destination_closes_the_connection_and_comes_back_repeating_nothing(bench: Bench) -> None:
    """A socket left unread would block the server's checkpointer."""
    destination = bench.destinations["memory"] = MemoryDestination("memory")
    destination.gate.clear()
    bench.settings.update(max_queue_bytes=1024, stall_timeout_s=0.1)
    log = [Committed(number * 100, rows(number)) for number in range(1, 60)]
    bench.make(*log, destinations={"memory": 0, "other": 0})
    thread = bench.start()
    wait_until(lambda: bench.source.closed == 1)
    assert not bench.source.is_open
    destination.gate.set()
    thread.join(20)

    assert not bench.errors
    assert bench.received() == bench.received("other") == list(range(1, 60))
    assert bench.pipeline is not None and bench.pipeline.stats.stalls >= 1


def test_stop_delivers_what_is_held(bench: Bench) -> None:
    """What was read is out, stored and confirmed when `run` returns."""
    bench.make(Committed(100, rows(1, 2)), until=LSN(10_000))
    thread = bench.start()
    wait_until(lambda: bench.source.sent == 3)
    assert bench.pipeline is not None
    bench.pipeline.stop()
    thread.join(10)

    assert not bench.errors
    assert bench.received() == [1, 2]
    assert bench.state.cursors()["memory"].lsn == bench.source.confirmed[-1] == 110
    assert not bench.source.is_open


def test_stop_does_not_wait_for_a_destination_that_hangs(bench: Bench) -> None:
    """It leaves within its time; what was not durable has moved no position."""
    destination = bench.destinations["memory"] = MemoryDestination("memory")
    destination.gate.clear()
    bench.settings.update(shutdown_timeout_s=0.2, stall_timeout_s=0.1)
    bench.make(Committed(100), Committed(200, rows(1)), until=LSN(10_000), burst=1)
    thread = bench.start()
    wait_until(lambda: bench.source.sent == 3)
    assert bench.pipeline is not None
    bench.pipeline.stop()
    thread.join(10)

    assert not thread.is_alive()
    assert bench.state.cursors()["memory"].lsn == 110


def test_stop_is_heard_while_there_is_no_connection(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a long wait before another attempt."""
    monkeypatch.setattr(pipeline_module, "RECONNECT_BASE_S", 100.0)
    monkeypatch.setattr(pipeline_module, "RECONNECT_CAP_S", 100.0)
    bench.make(Committed(100, rows(1)), until=LSN(10_000), breaks={2: BROKEN})
    thread = bench.start()
    wait_until(lambda: bench.pipeline is not None and bench.pipeline.stats.reconnects == 1)
    assert bench.pipeline is not None
    bench.pipeline.stop()
    thread.join(10)

    assert not thread.is_alive() and not bench.errors
    assert bench.state.cursors()["memory"].lsn == 110


def test_a_line_that_is_gone_at_the_last_confirmation_is_no_failure(bench: Bench) -> None:
    """Everything is delivered and stored; the server sends it again and it is passed over."""

    def on_read(source: ScriptedSource) -> None:
        if source.sent == 2:
            assert bench.pipeline is not None
            bench.pipeline.stop()

            def broken(_lsn: LSN) -> None:
                raise SourceUnavailable("the server is gone")

            source.confirm = broken  # type: ignore[method-assign]

    bench.settings.update(checkpoint_interval_s=10.0)
    bench.make(Committed(100, rows(1)), until=LSN(10_000), on_read=on_read).run()

    assert bench.state.cursors()["memory"].lsn == 110


def test_a_destination_that_refuses_us_ends_the_run_and_what_was_durable_is_stored(bench: Bench) -> None:
    """Neither its position nor another's is lost, and none passes what it did not take."""
    destination = bench.destinations["memory"] = MemoryDestination("memory")
    destination.script.extend([None, DestinationRefusedUs("memory", "401")])
    bench.settings.update(checkpoint_interval_s=10.0)

    def on_read(source: ScriptedSource) -> None:
        wait_until(lambda: all(channel.delivery.idle or channel.delivery.failure for channel in bench.channels))
        if source.sent == 2:
            # The loop sees a failure at once, and leaves: it must not come before the other one has its second event.
            destination.gate.clear()
            release.start()

    def when_the_other_has_it() -> None:
        (other,) = [channel.delivery for channel in bench.channels if channel.config.name == "other"]
        wait_until(lambda: other.settled == 2)
        destination.gate.set()

    release = threading.Thread(target=when_the_other_has_it, daemon=True)
    log = [Committed(100, rows(1)), Committed(200, rows(2))]
    bench.make(*log, burst=2, until=LSN(1000), destinations={"memory": 0, "other": 0}, on_read=on_read)
    with pytest.raises(DestinationRefusedUs):
        bench.pipeline.run()  # type: ignore[union-attr]

    assert {name: cursor.lsn for name, cursor in bench.state.cursors().items()} == {"memory": 110, "other": 210}


def test_a_destination_that_fails_while_we_drain_does_not_cost_what_was_durable(bench: Bench) -> None:
    """`stop` came first; the other destination's position is stored all the same."""
    destination = bench.destinations["memory"] = MemoryDestination("memory")
    destination.script.append(DestinationRefusedUs("memory", "401"))
    destination.gate.clear()
    bench.settings.update(checkpoint_interval_s=10.0)

    def on_read(source: ScriptedSource) -> None:
        if source.sent == 2:
            assert bench.pipeline is not None
            bench.pipeline.stop()
            release.start()

    def when_the_other_has_it() -> None:
        assert bench.pipeline is not None
        (other,) = [one.delivery for one in bench.pipeline._channels if one.config.name == "other"]
        wait_until(lambda: other.settled == 1)
        destination.gate.set()

    release = threading.Thread(target=when_the_other_has_it, daemon=True)
    bench.make(
        Committed(100, rows(1)), until=LSN(1000), destinations={"memory": 0, "other": 0}, burst=2, on_read=on_read
    )
    with pytest.raises(DestinationRefusedUs):
        bench.pipeline.run()  # type: ignore[union-attr]

    assert {name: cursor.lsn for name, cursor in bench.state.cursors().items()} == {"memory": 0, "other": 110}


def test_a_destination_that_cannot_be_opened_leaves_no_other_running(bench: Bench) -> None:
    """The first is closed again, and no position is made up for either."""

    class Unopenable(MemoryDestination):
        def open(self, mark: Any) -> None:
            raise DestinationError(self.name, "no such directory")

    bench.destinations["second"] = Unopenable("second")
    bench.make(Committed(100, rows(1)), destinations={"first": 50, "second": 50}, position=50)
    with pytest.raises(DestinationError, match="no such directory"):
        bench.pipeline.run()  # type: ignore[union-attr]

    assert bench.destinations["first"].closed == 1
    assert bench.state.cursors() == {}


def test_a_state_store_that_fails_in_a_delivery_ends_the_run_and_confirms_nothing(bench: Bench) -> None:
    """A refused event whose dead letter is not on disk is not done with."""
    destination = bench.destinations["memory"] = MemoryDestination("memory")
    destination.script.append(Receipt({0: Rejected("too large")}))

    def full(_letters: object) -> None:
        raise StateError("disk is full")

    bench.state.add = full  # type: ignore[method-assign]
    bench.make(Committed(100), Committed(200, rows(1)), until=LSN(1000))
    with pytest.raises(StateError, match="disk is full"):
        bench.pipeline.run()  # type: ignore[union-attr]

    assert max(bench.source.confirmed, default=LSN(0)) <= 110
    assert bench.state.cursors()["memory"].lsn <= 110


# Dead letters replayed on the way ----------------------------------------------------------------


def test_dead_letters_are_replayed_while_running_each_at_its_own_destination(bench: Bench) -> None:
    """One event refused by two: what one of them takes now and the other refuses again is dead at the other only."""
    first, second = MemoryDestination("first"), MemoryDestination("second")
    bench.destinations = {"first": first, "second": second}
    refusal = Receipt({0: Rejected("too large")})
    first.script.append(refusal)
    second.script.extend([refusal, refusal])
    stop_when = threading.Event()

    def on_read(source: ScriptedSource) -> None:
        if source.sent == 2 and bench.state.count_dead_letters("dead") == 2:
            bench.state.mark_letters(LetterFilter(), "replay")
        if bench.state.count_dead_letters("replayed"):
            stop_when.set()
            assert bench.pipeline is not None
            bench.pipeline.stop()

    bench.make(
        Committed(100, rows(1)), until=LSN(1000), destinations={"first": 0, "second": 0}, burst=2, on_read=on_read
    )
    thread = bench.start()
    assert stop_when.wait(10)
    thread.join(10)

    assert not bench.errors
    assert bench.received("first") == bench.received("second") == [1, 1]
    assert {letter.destination: letter.status for letter in bench.state.dead_letters(status=None)} == {
        "first": "replayed",
        "second": "dead",
    }


def test_a_rule_mended_since_makes_the_event_it_owed(bench: Bench, tmp_path: Path) -> None:
    """The change waits in its dead letter; marked, it goes through the rule as it is now."""
    bench.make(Committed(100, rows(7, table="poison"))).run()
    (letter,) = bench.state.dead_letters()
    bench.state.mark_letters(LetterFilter(id=letter.id), "replay")

    path = tmp_path / "mended.yaml"
    path.write_text(RULES.replace("1 / (new.id - new.id)", "new.id"))
    bench.rules = RuleSet(load(path, {}), bench.types, system_identifier="1", mode="wal")

    def on_read(_source: ScriptedSource) -> None:
        if bench.state.count_dead_letters("replayed"):
            assert bench.pipeline is not None
            bench.pipeline.stop()

    bench.make(Committed(200), position=110, until=LSN(1000), on_read=on_read).run()

    assert bench.received() == [7]


def test_a_state_file_on_a_full_disk_goes_on_when_there_is_room(bench: Bench) -> None:
    """The write that failed left no transaction open behind it."""
    connection = bench.state._connection  # type: ignore[attr-defined]
    bench.make(Committed(100, rows(1))).run()
    ((pages,),) = connection.execute("pragma page_count").fetchall()
    connection.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(StateError, match="make room"):
        bench.state.save_cursors({f"{number}": Cursor(LSN(1), {"mark": "x" * 5000}) for number in range(50)})
    connection.execute("pragma max_page_count = 1000000")

    bench.state.save_cursors({"memory": Cursor(LSN(500))})
    assert bench.state.cursors() == {"memory": Cursor(LSN(500))}


# What one destination gets of an event ------------------------------------------------------------


def shape(entry: str) -> Shape:
    """Of a destination with these keys."""
    (configured,) = read(f"destinations: {{shaped: {{kind: stdout, {entry}}}}}\nhash_key: k".encode(), {}).destinations
    made = Shape.of(configured, b"k")
    assert made is not None
    return made


@pytest.mark.parametrize("burst", [1, 2, 3, 100])
def test_a_destination_with_a_shape_gets_its_part_and_keeps_up(bench: Bench, burst: int) -> None:
    """Its position moves past what is not for it; what nobody can decide is its dead letter and no other's."""
    log = [Committed(100, rows(1, 2, 3)), Committed(200, rows(4)), Committed(300, rows(5, 6)), Committed(400, rows(2))]
    bench.make(*log, destinations={"plain": 0, "shaped": 0}, burst=burst)
    bench.channels[1].shape = shape('when: "properties.id == 4 || 10 / (properties.id - 2) > 3"')

    assert bench.pipeline is not None
    bench.pipeline.run()

    assert bench.received("plain") == [1, 2, 3, 4, 5, 6, 2]
    assert bench.received("shaped") == [3, 4]
    assert {name: cursor.lsn for name, cursor in bench.state.cursors().items()} == {"plain": 410, "shaped": 410}
    letters = bench.state.dead_letters()
    assert [(letter.destination, letter.kind, letter.rule) for letter in letters] == [
        ("shaped", "rule", "destinations.shaped.when")
    ] * 2
    assert bench.pipeline.stats.rule_errors == 2


def test_an_event_nobody_could_decide_is_shaped_when_it_is_replayed(bench: Bench) -> None:
    """By the shape as it is now, and for that destination alone."""
    bench.make(Committed(100, rows(1)), destinations={"plain": 0, "shaped": 0})
    bench.channels[1].shape = shape('when: "1 / (properties.id - 1) > 0"')
    assert bench.pipeline is not None
    bench.pipeline.run()
    (letter,) = bench.state.dead_letters()
    bench.state.mark_letters(LetterFilter(id=letter.id), "replay")

    def on_read(_source: ScriptedSource) -> None:
        assert bench.pipeline is not None
        if bench.state.count_dead_letters("replayed"):
            bench.pipeline.stop()

    bench.make(position=110, until=LSN(1000), destinations={"plain": 110, "shaped": 110}, on_read=on_read)
    bench.channels[1].shape = shape("properties: {hash: [id]}")
    bench.pipeline.run()

    assert bench.received("plain") == [1]
    assert bench.received("shaped") == [keyed_hash(b"k")("1")]


def test_a_mended_rule_asks_every_destination_anew(bench: Bench) -> None:
    """A rule error replayed meets `when`: true there, false there, and unanswerable is a letter of that destination."""
    bench.make(Committed(100, rows(1, table="poison")), destinations={"yes": 0, "no": 0, "unknown": 0})
    assert bench.pipeline is not None
    bench.pipeline.run()
    (letter,) = bench.state.dead_letters()
    bench.state.mark_letters(LetterFilter(id=letter.id), "replay")
    mended = read(RULES.replace("new.id - new.id", "new.id").encode(), {})
    bench.rules = RuleSet(mended, bench.types, system_identifier="1", mode="wal")

    def on_read(_source: ScriptedSource) -> None:
        assert bench.pipeline is not None
        if bench.state.count_dead_letters("replayed"):
            bench.pipeline.stop()

    bench.make(position=110, until=LSN(1000), destinations={"yes": 110, "no": 110, "unknown": 110}, on_read=on_read)
    for channel, when in zip(bench.channels, ("true", "false", "properties.nothing == 1"), strict=True):
        channel.shape = shape(f'when: "{when}"')
    bench.pipeline.run()

    assert [len(bench.received(name)) for name in ("yes", "no", "unknown")] == [1, 0, 0]
    assert [(letter.destination, letter.event) for letter in bench.state.dead_letters()] == [("unknown", "never")]


def test_what_is_said_of_a_person_has_its_place_among_all_events(bench: Bench) -> None:
    """Rows may travel abreast, but two of them may say two things of the same person, and the last word stands."""
    rules = """
track:
  items.insert: {event: item_made, properties: {id: new.id}}
  people.insert: {event: joined, distinct_id: new.id, identify: {step: new.id}}
"""
    keys = {("public", table): ["id"] for table in ("items", "people")}
    bench.rules = RuleSet(read(rules.encode(), {}), bench.types, system_identifier="1", mode="wal", primary_keys=keys)
    bench.make(Committed(100, [*rows(1), *rows(2, table="people"), *rows(3)])).run()

    events = [event for batch in bench.destinations["memory"].batches for event in batch]

    assert [event.name for event in events] == ["item_made", "joined", "item_made"]
    assert [lane_of(event) is None for event in events] == [False, True, False]
