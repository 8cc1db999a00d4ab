"""The ClickHouse destination against an HTTP interface that behaves as ClickHouse's does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.support.fake_clickhouse import FakeClickHouse, exception
from tests.support.http_server import Reply
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import BatchRefused, Rejected
from wal_tracker.errors import ConfigError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.model import RawChange
from wal_tracker.testing import make_event
from wal_tracker_destinations.clickhouse import ClickHouse


@pytest.fixture
def server() -> Iterator[FakeClickHouse]:
    with FakeClickHouse() as made:
        yield made


def table(server: FakeClickHouse, **options: Any) -> ClickHouse:
    given = {**server.options, **options}
    return ClickHouse("ch", registry.read_config(ClickHouse.Config, given, "destinations.ch", defaults={}))


def test_an_insert_has_the_shape_clickhouse_documents(server: FakeClickHouse) -> None:
    """Statement and lines in the body, settings in the URL, the user in headers; NULL is null, digits are digits."""
    events = [make_event(1, properties={"price": orjson.Fragment("12345678901234567890.1234")}), make_event(2)]
    events[1].distinct_id = None

    table(server).deliver(events)

    (request,) = server.requests
    token = hashlib.sha256(",".join(event.id for event in events).encode()).hexdigest()
    statement, first, second = request.body.decode().split("\nformat JSONEachRow\n")[0], *server.rows
    assert statement == (
        "insert into `default`.`wal_tracker_events` "
        "(event_id, event, distinct_id, occurred_at, commit_lsn, source, properties)\n"
        f"settings insert_deduplication_token = '{token}'"
    )
    assert (request.path, request.query) == (
        "/",
        {
            "wait_end_of_query": ["1"],
            "date_time_input_format": ["best_effort"],
            "async_insert": ["0"],
            "wait_for_async_insert": ["1"],
        },
    )
    assert "authorization" not in request.headers
    assert first == {
        "event_id": events[0].id,
        "event": "order_placed",
        "distinct_id": "1",
        "occurred_at": "2026-01-02T03:04:05.123456Z",
        "commit_lsn": 256,
        "source": orjson.dumps(events[0].source).decode(),
        "properties": '{"number":1,"price":12345678901234567890.1234}',
    }
    assert second["distinct_id"] is None


def test_a_raw_change_is_a_row_too(server: FakeClickHouse) -> None:
    """Its properties are the change."""
    source = {"schema": "public", "table": "orders", "commit_lsn": "1/0"}
    change = RawChange(make_event(1).id, "public.orders.delete", "2026-01-02T03:04:05Z", {"op": "delete"}, source)

    table(server).deliver([change])

    assert (server.rows[0]["commit_lsn"], server.rows[0]["properties"]) == (1 << 32, '{"op":"delete"}')


def test_a_batch_that_comes_again_is_dropped_and_the_same_byte_for_byte(server: FakeClickHouse) -> None:
    """The answer was lost: same token, same bytes, one block."""
    server.script.append(Reply(fault="close_after_processing"))
    destination = table(server)
    with pytest.raises(DestinationUnavailable):
        destination.deliver([make_event(1), make_event(2)])
    destination.deliver([make_event(1), make_event(2)])

    first, second = server.requests
    assert first.raw == second.raw and first.query == second.query
    assert len(server.rows) == 2


def test_batches_cut_elsewhere_are_merged_away(server: FakeClickHouse) -> None:
    """After a crash: other tokens, rows that are there twice, and each event once by `final`."""
    table(server).deliver([make_event(1), make_event(2)])
    table(server).deliver([make_event(1)])
    table(server).deliver([make_event(2), make_event(1)])

    assert len(server.rows) == 5
    assert server.ids == [make_event(1).id, make_event(2).id]


def test_asynchronous_inserts_are_waited_for_and_deduplicated(server: FakeClickHouse) -> None:
    """Off unless asked for; then the answer still means that it is stored."""
    table(server, async_insert=True).deliver([make_event(1)])

    (request,) = server.requests
    said = {name: request.query[name] for name in ("async_insert", "wait_for_async_insert", "async_insert_deduplicate")}
    assert said == {"async_insert": ["1"], "wait_for_async_insert": ["1"], "async_insert_deduplicate": ["1"]}


@pytest.mark.parametrize("status", [None, 200])
@pytest.mark.parametrize("code", [159, 202, 209, 210, 241, 242, 252, 319, 999, 1002])
def test_what_passes_is_sent_again(server: FakeClickHouse, code: int, status: int | None) -> None:
    """By the code, and also where the status says 200."""
    server.script.append(exception(code, "canary-7f3a", status))

    with pytest.raises(DestinationUnavailable, match=f"ClickHouse says {code}") as caught:
        table(server).deliver([make_event(1)])
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("status", [None, 200, 500])
@pytest.mark.parametrize("code", [6, 26, 27, 38, 41, 53, 117, 376, 469])
def test_what_speaks_of_a_row_refuses_the_batch(server: FakeClickHouse, code: int, status: int | None) -> None:
    """Halved by the delivery; the text that quotes the row is not repeated."""
    server.script.append(exception(code, "while reading canary-7f3a", status))

    with pytest.raises(BatchRefused, match=f"ClickHouse says {code}") as caught:
        table(server).deliver([make_event(1)])
    assert "canary" not in caught.value.reason


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        (60, None, "UNKNOWN_TABLE; create the database, and the table"),
        (81, None, "create the database"),
        (516, None, "check the user, its password"),
        (497, None, "check the user"),
        (16, None, "must have the columns"),
        (62, None, "SYNTAX_ERROR"),
        (164, None, "server's log"),
        (60, 200, "create the database, and the table"),
    ],
)
def test_what_speaks_of_us_stops(server: FakeClickHouse, code: int, status: int | None, said: str) -> None:
    """A table, a right or a password that is missing is no event's fault, whatever the status."""
    status = 500 if code == 164 else 404 if status == 200 else status
    server.script.append(exception(code, "no", status))

    with pytest.raises(DestinationRefusedUs, match=said):
        table(server).deliver([make_event(1)])


def test_a_server_that_is_not_clickhouse_holds_nothing(server: FakeClickHouse) -> None:
    """A proxy's welcome page is a 200 too."""
    server.script.append(Reply(200, b"<h1>It works!</h1>"))

    with pytest.raises(DestinationRefusedUs, match="is not ClickHouse's HTTP interface; check the url"):
        table(server).deliver([make_event(1)])


def test_the_table_is_made_once_where_that_is_asked_for(server: FakeClickHouse) -> None:
    """At the start, or by the first batch of a server that was not there; the name is quoted."""
    server.table = None
    destination = table(server, create=True, table="odd`s\\.{token}")
    server.script.append(exception(999, "Keeper is away"))
    destination.open(None)
    server.table = None
    destination.deliver([make_event(1)])
    destination.deliver([make_event(2)])

    creates = [request for request in server.requests if request.body.startswith(b"create")]
    assert len(creates) == 2
    assert b"create table if not exists `odd\\`s\\\\`.`{token}` (" in creates[1].body
    assert b"insert into `odd\\`s\\\\`.`{token}` (" in server.requests[-1].body


def test_a_table_that_may_not_be_made_stops(server: FakeClickHouse) -> None:
    """Even where the answer would blame a row: there is none in it."""
    server.script.extend([exception(117, "no"), Reply(400), exception(497, "no grant")])
    destination = table(server, create=True)
    for _ in range(3):
        with pytest.raises(DestinationRefusedUs):
            destination.open(None)


@pytest.mark.parametrize("timestamp", ["1899-12-31T23:59:59.999Z", "2300-01-01T00:00:00Z", "now", "2026-01-02"])
def test_a_time_that_clickhouse_would_change_is_refused_alone(server: FakeClickHouse, timestamp: str) -> None:
    """It has the years 1900 to 2299; others become these in some versions, without a word."""
    events = [make_event(1), make_event(2)]
    events[0].timestamp = timestamp

    ((index, outcome),) = table(server).deliver(events).outcomes.items()

    assert index == 0 and isinstance(outcome, Rejected) and "timestamp" in outcome.reason
    assert server.ids == [events[1].id]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": "clickhouse"}, "url is not a URL"),
        ({"url": "https://h:8443/?user=x"}, "without"),
        ({"url": "https://u:hunter2@h:8443"}, "must not hold user and password"),
        ({"table": "events"}, "table must be two names"),
        ({"user": ""}, "user must not be empty"),
        ({"user": "a\nb"}, "printable ASCII"),
        ({"password": "hunter2é"}, "password must be printable ASCII"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(
    server: FakeClickHouse, options: dict[str, Any], said: str
) -> None:
    """Before anything is sent, and without the secret."""
    with pytest.raises(ConfigError, match=said) as caught:
        table(server, **options)
    assert "hunter2" not in str(caught.value)
