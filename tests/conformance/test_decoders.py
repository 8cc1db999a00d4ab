"""Both decoders over what real servers sent: the corpus, captured once, and the session's server, captured now."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.capture import SETTINGS, Capture, Scenario, capture, documents, scenarios
from tests.support import matrix
from tests.support.fixtures import MAJOR, missing
from tests.support.postgres import Server
from wal_tracker.decode.rows import RowReader
from wal_tracker.errors import DecodeError
from wal_tracker.model import EXACT, Change, Item, PartialRow

SCENARIOS = scenarios()
CAPTURES = [(scenario, path) for scenario in SCENARIOS for path in sorted(scenario.path.glob("*.jsonl"))]
PLAIN = {
    "replica_identity_default",
    "replica_identity_full",
    "every_type",
    "user_types",
    "arrays",
    "savepoints_and_rollback",
}


def by_name(scenario: Scenario) -> str:
    return scenario.name


@pytest.mark.parametrize("scenario", SCENARIOS, ids=by_name)
def test_each_scenario_was_captured_on_every_version_it_runs_on(scenario: Scenario) -> None:
    """A version without its file would pass every other test here."""
    wanted = {f"pg{major}.pgoutput.jsonl" for major in matrix.MAJORS if major >= scenario.lowest}
    if scenario.has_wal2json:
        wanted.add("pg15.wal2json.jsonl")

    assert {path.name for path in scenario.path.glob("*.jsonl")} == wanted


@pytest.mark.parametrize(("scenario", "path"), CAPTURES, ids=[f"{s.name}/{p.name}" for s, p in CAPTURES])
def test_every_version_and_plugin_tells_the_same_changes(scenario: Scenario, path) -> None:
    """What is emitted is expected.json, digit by digit."""
    assert documents(Capture.read(path).items()) == scenario.expected()


@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if s.has_wal2json], ids=by_name)
def test_wal2json_gives_the_values_pgoutput_gives(scenario: Scenario) -> None:
    """Also in the form CEL computes with, and of the same Python types; what is unknown to one is to the other."""
    first, second = (
        [
            _told(item)
            for item in Capture.read(scenario.path / f"pg15.{plugin}.jsonl").items()
            if isinstance(item, Change)
        ]
        for plugin in ("pgoutput", "wal2json")
    )

    assert first == second


def _told(change: Change) -> tuple[object, ...]:
    return change.op, change.relation.name, change.relation.key, _row(change.old), _row(change.new)


def _row(row: dict[str, object] | None) -> object:
    if row is None:
        return None
    unknown = (row.unchanged, row.unsent) if isinstance(row, PartialRow) else None
    return {name: repr(value) for name, value in row.items() if not name.startswith(EXACT)}, unknown


@pytest.mark.parametrize("scenario", SCENARIOS, ids=by_name)
def test_a_stream_whose_messages_are_cut_is_refused_by_type(scenario: Scenario) -> None:
    """At every byte of every message, with all that came before it read."""
    for path in (scenario.path / "pg18.pgoutput.jsonl", scenario.path / "pg15.wal2json.jsonl"):
        if not path.exists():
            continue
        captured = Capture.read(path)
        decoder = captured.decoder()
        items: list[Item] = []
        for lsn, payload in captured.messages:
            for end in _cuts(len(payload)):
                before = len(items)
                with pytest.raises(DecodeError):
                    decoder.feed(payload[:end], lsn, items)
                assert len(items) == before
            decoder.feed(payload, lsn, items)
        assert documents(items) == scenario.expected()


def _cuts(size: int) -> list[int]:
    """Every place in a short message; in a long one its ends, and some of the middle."""
    return sorted({*range(min(size, 120)), *range(max(0, size - 20), size), *range(0, size, 97)})


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_ordinary_streams_are_read_by_the_compiled_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real rows of every type raise no doubt; only a change of the key is left to the definition."""
    doubts: list[str] = []
    for method in ("insert", "delete"):
        monkeypatch.setattr(RowReader, method, lambda *_: doubts.append("doubt"))
    (scenario,) = (scenario for scenario in SCENARIOS if scenario.name == name)
    Capture.read(scenario.path / "pg18.pgoutput.jsonl").items()

    assert doubts == []


@pytest.fixture(scope="module")
def scratch() -> Iterator[Server]:
    """A server of the session's version that takes prepared transactions."""
    try:
        server = Server(major=MAJOR, settings=SETTINGS)
    except matrix.Missing as reason:
        missing(str(reason))
    with server:
        yield server


@pytest.mark.parametrize("scenario", SCENARIOS, ids=by_name)
def test_this_server_says_today_what_was_captured(scenario: Scenario, scratch: Server) -> None:
    """The corpus is no fiction: the session's server still sends it."""
    if scratch.major < scenario.lowest:
        pytest.skip(f"needs PostgreSQL {scenario.lowest}")
    database = scratch.create_database()

    assert documents(capture(database, scenario, "pgoutput").items()) == scenario.expected()
    database.drop()


@pytest.fixture(scope="module")
def scratch_wal2json() -> Iterator[Server]:
    """PostgreSQL 15 with wal2json that takes prepared transactions."""
    try:
        server = Server(wal2json=True, settings=SETTINGS)
    except matrix.Missing as reason:
        missing(str(reason))
    with server:
        yield server


@pytest.mark.wal2json
@pytest.mark.parametrize("name", ["toast", "ddl_within_transaction", "logical_messages_of_text"])
def test_wal2json_says_today_what_was_captured(name: str, scratch_wal2json: Server) -> None:
    """The options are taken, and the plugin still writes what we read."""
    (scenario,) = (scenario for scenario in SCENARIOS if scenario.name == name)
    database = scratch_wal2json.create_database()

    assert documents(capture(database, scenario, "wal2json").items()) == scenario.expected()
    database.drop()
