"""A stream that is not ours beyond one transaction: the loop ends exactly behind it, wherever the line breaks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import wait_until
from tests.support.scripted_source import Committed, Row1, Said
from tests.unit.test_pipeline import BROKEN, Bench
from wal_tracker import pipeline as pipeline_module
from wal_tracker.decode.transactions import SWITCH_PREFIX
from wal_tracker.errors import SourceUnavailable
from wal_tracker.lsn import LSN
from wal_tracker.model import Message

MARKER = Said(SWITCH_PREFIX, b"")
LOG = (
    Committed(100, [Row1(1)]),
    Committed(200, [Said(SWITCH_PREFIX, b"of another change"), Row1(2)]),
    Committed(300, [Row1(3), MARKER, Row1(4)]),
    Committed(400, [Row1(5)]),
    Committed(500, [Row1(6)]),
)


class Ending:
    """Takes the transaction at 300 for the last; may fail to note it at first."""

    def __init__(self, failures: int = 0) -> None:
        self.reached_at: list[LSN] = []
        self._failures = failures

    def is_last(self, message: Message) -> bool:
        """By its place."""
        return message.transaction.commit_lsn == 300

    def reached(self, end_lsn: LSN) -> None:
        """Note it, or fail as a server does."""
        if self._failures:
            self._failures -= 1
            raise SourceUnavailable("away")
        self.reached_at.append(end_lsn)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """As of the pipeline's own tests."""
    monkeypatch.setattr(pipeline_module, "RECONNECT_BASE_S", 0.001)
    made = Bench(tmp_path)
    yield made
    for destination in made.destinations.values():
        destination.gate.set()
    made.state.close()


def run(bench: Bench, ending: Ending, **source: object) -> None:
    """Over the whole log, without an end of its own."""
    bench.make(*LOG, destinations={"memory": 0, "ahead": 210}, until=None, **source)
    assert bench.pipeline is not None
    bench.pipeline._until, bench.pipeline._ending = None, ending
    bench.pipeline.run()


@pytest.mark.parametrize("burst", [1, 3, 100])
@pytest.mark.parametrize("cut", [None, 5, 6, 7, 8])
def test_everything_up_to_the_last_transaction_and_nothing_after_it(
    bench: Bench, burst: int, cut: int | None
) -> None:
    """All of it, once, also when the stream breaks inside that transaction; where it ends is noted once."""
    ending = Ending()
    run(bench, ending, burst=burst, breaks={} if cut is None else {cut: BROKEN})

    assert bench.received() == [1, 2, 3, 4]
    assert bench.received("ahead") == [3, 4]
    assert bench.pipeline is not None and bench.pipeline.has_ended and bench.pipeline.is_complete
    assert set(ending.reached_at) == {310}
    assert {cursor.lsn for cursor in bench.state.cursors().values()} == {310}
    assert max(bench.source.confirmed, default=LSN(0)) <= 310


def test_no_position_passes_the_end_before_it_is_noted(bench: Bench) -> None:
    """The server is away when it is to be noted; the transaction comes again, and what was handled is counted off."""
    ending = Ending(failures=2)
    run(bench, ending)

    assert bench.received() == [1, 2, 3, 4]
    assert ending.reached_at == [310]


def test_a_destination_that_is_slow_at_the_end_is_waited_for_without_the_stream(bench: Bench) -> None:
    """A socket that is held must be read, and nothing after the end may be; so it is closed."""
    bench.make(*LOG, until=None)
    assert bench.pipeline is not None
    bench.pipeline._until, bench.pipeline._ending = None, Ending()
    bench.destinations["memory"].gate.clear()
    thread = bench.start()
    wait_until(lambda: bench.pipeline is not None and bench.pipeline.has_ended and not bench.source.is_open)
    assert thread.is_alive()
    bench.destinations["memory"].gate.set()
    thread.join(10)

    assert bench.received() == [1, 2, 3, 4] and not bench.errors
