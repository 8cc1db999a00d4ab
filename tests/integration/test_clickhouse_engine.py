"""What the ClickHouse destination sends, run by ClickHouse's own engine: the DDL, the inserts, and what is dropped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support import matrix
from tests.support.fake_clickhouse import FakeClickHouse
from tests.support.fixtures import missing
from tests.support.http_server import Request
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import Destination
from wal_tracker.model import RawChange
from wal_tracker.testing import make_event

TABLE = "default.wal_tracker_events"
COLUMNS = "toString(event_id), event, distinct_id, toString(occurred_at), toString(commit_lsn), source, properties"

# In a process of its own: the engine brings threads, signal handlers and 170 MB. It imports pyarrow for results of a
# kind nobody asks for here.
ENGINE = """
import json, sys
from unittest.mock import MagicMock
sys.modules["pyarrow"] = MagicMock()
from chdb import session

engine = session.Session(sys.argv[1])
for statement in json.load(sys.stdin):
    try:
        answer = str(engine.query(statement, "JSONCompactEachRow"))
    except Exception as error:
        answer = json.dumps(str(error))
    print(json.dumps([json.loads(line) for line in answer.splitlines()]))
"""


@pytest.fixture(scope="module")
def engine() -> Path:
    """Where it is imported from."""
    try:
        return matrix.clickhouse()
    except matrix.Missing as reason:
        missing(str(reason))


@pytest.fixture
def recorder() -> Iterator[FakeClickHouse]:
    with FakeClickHouse() as made:
        yield made


def _destination(recorder: FakeClickHouse, **options: Any) -> Destination:
    given = {**recorder.options, "gzip": False, "create": True, **options}
    return registry.build("clickhouse", "clickhouse", given, "destinations.clickhouse")


def _statements(requests: Sequence[Request]) -> list[str]:
    """What was sent, with the settings of its URL before it."""
    statements = []
    for request in requests:
        settings = {name: value for name, (value,) in request.query.items() if name != "wait_end_of_query"}
        statements += [f"set {name} = '{value}'" for name, value in settings.items()]
        statements.append(request.body.decode())
    return statements


def _run(engine: Path, directory: Path, statements: Sequence[str]) -> list[Any]:
    """The rows of each statement, or the text of its exception."""
    done = subprocess.run(
        [sys.executable, "-c", ENGINE, str(directory / "data")],
        input=json.dumps(statements),
        env={"PYTHONPATH": str(engine)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("async_insert", [False, True])
def test_the_engine_takes_what_is_sent_and_keeps_each_event_once(
    engine: Path, recorder: FakeClickHouse, tmp_path: Path, async_insert: bool
) -> None:
    """
    The table is made once, a batch that comes again is dropped, one cut elsewhere is merged away, and no digit is lost.

    Asynchronous inserts of one server keep no tokens for us to rely on: there `final` is all.
    """
    events: list[Any] = [make_event(number) for number in range(1, 4)]
    events[1].properties["n"] = orjson.Fragment("12345678901234567890.123456789")
    events[1].properties["text"] = "a\0b \\u0000 \" ' ` é 🙂"
    events[1].distinct_id = None
    source = {"schema": "public", "table": "orders", "commit_lsn": "1/0"}
    events.append(RawChange(make_event(9).id, "public.orders.delete", "2026-01-02T03:04:05+02:00", {"op": "x"}, source))
    for batch in (events[:3], events[:3], events[2:], [make_event(5)]):
        destination = _destination(recorder, async_insert=async_insert)
        destination.open(None)
        assert not destination.deliver(batch).outcomes
        destination.close()

    *answers, rows, count, once, made = _run(
        engine,
        tmp_path,
        [
            *_statements(recorder.requests),
            f"select {COLUMNS} from {TABLE} final order by commit_lsn",
            f"select toUInt32(count()) from {TABLE}",
            f"select toUInt32(count()) from {TABLE} final",
            f"show create table {TABLE}",
        ],
    )

    assert not [answer for answer in answers if answer], "an exception"
    assert rows[1] == [
        events[1].id,
        "order_placed",
        None,
        "2026-01-02 03:04:05.123456",
        "512",
        orjson.dumps(events[1].source).decode(),
        orjson.dumps(events[1].properties).decode(),
    ]
    assert rows[4][1:5] == ["public.orders.delete", None, "2026-01-02 01:04:05.000000", "4294967296"]
    assert once == [[5]]
    if not async_insert:
        assert count == [[6]], "three, two of the batch cut elsewhere, one"
    assert "ReplacingMergeTree" in made[0][0] and "fsync_after_insert = 1" in made[0][0]


def test_the_engine_refuses_as_the_fake_does(engine: Path, recorder: FakeClickHouse, tmp_path: Path) -> None:
    """The codes by which we tell an event's fault from ours; nothing of such a batch is stored."""
    destination = _destination(recorder)
    destination.open(None)
    destination.deliver([make_event(1), make_event(2)])
    create, insert = recorder.requests
    good = insert.body.decode()

    def spoiled(old: str, new: str) -> str:
        assert old in good
        return good.replace("deduplication_token = '", f"deduplication_token = '{len(old)}").replace(old, new)

    *answers, count = _run(
        engine,
        tmp_path,
        [
            *_statements([create]),
            spoiled(make_event(2).id, "nobody"),
            spoiled("2026-01-02T03:04:05.123456Z", "garbage"),
            spoiled('"commit_lsn":512', '"commit_lsn":"x"'),
            spoiled("commit_lsn, ", "lsn, "),
            spoiled("wal_tracker_events", "nothing"),
            spoiled("`default`", "`nowhere`"),
            f"select toUInt32(count()) from {TABLE}",
        ],
    )

    codes = [answer[0].split("Code: ")[1].split(".")[0] for answer in answers if answer]
    assert codes == ["376", "41", "27", "16", "60", "81"]
    assert count == [[0]]
