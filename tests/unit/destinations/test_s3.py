"""Objects in S3: what they are called, what is in them, and that none is ever overwritten by another."""

from __future__ import annotations

import gzip
import io
import sys
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from pyarrow import parquet

from tests.support.fake_aws import FakeS3
from tests.support.http_server import Reply
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import Receipt, Rejected, Retry
from wal_tracker.errors import ConfigError, DestinationUnavailable, PluginError
from wal_tracker.lsn import LSN
from wal_tracker.model import Event, RawChange
from wal_tracker.testing import make_event
from wal_tracker_destinations.s3 import S3


@pytest.fixture
def bucket() -> Iterator[FakeS3]:
    with FakeS3() as made:
        yield made


def opened(server: FakeS3, /, **options: Any) -> Any:
    given = {**server.options, **options}
    destination = registry.build("lake", "s3", given, "destinations.lake")
    destination.open(None)
    return destination


def at(number: int, timestamp: str, name: str = "order_placed") -> Event:
    event = make_event(number, name=name)
    event.timestamp = timestamp
    return event


def change(number: int) -> RawChange:
    """An insert of a row."""
    document = {
        "op": "insert", "schema": "public", "table": "orders", "key": {"id": number}, "old": None,
        "new": {"id": number}, "unchanged": [], "commit_lsn": f"0/{number:X}00", "ordinal": 0, "xid": number,
        "commit_time": "2026-01-02T03:04:05.123456Z", "context": {},
    }  # fmt: skip
    source = {key: document[key] for key in ("op", "schema", "table", "commit_lsn", "ordinal", "xid")}
    return RawChange(make_event(number).id, "public.orders.insert", "2026-01-02T03:04:05.123456Z", document, source)


def test_an_object_is_named_by_event_hour_place_in_the_wal_and_content(bucket: FakeS3) -> None:
    """And holds one line for each event, as everywhere."""
    events = [make_event(1), make_event(2)]

    receipt = opened(bucket).deliver(events)

    assert receipt == Receipt()
    ((key, body),) = bucket.objects.items()
    directory, _, name = key.rpartition("/")
    assert directory == "shop/event=order_placed/dt=2026-01-02/hour=03"
    assert name.startswith("0000000000000100-0000000000000200-") and name.endswith(".jsonl.gz")
    assert gzip.decompress(body) == b"".join(event.to_json() + b"\n" for event in events)
    (request,) = bucket.requests
    assert request.headers["content-type"] == "application/gzip"
    assert "content-encoding" not in request.headers and "x-amz-trailer" not in request.headers


def test_the_keys_of_pg_track_events_work_as_they_are(bucket: FakeS3) -> None:
    """`bucket region accessKey secretKey rootDir endpoint`."""
    keys = ("bucket", "region", "accessKey", "secretKey", "rootDir", "endpoint")
    options = {key: bucket.options[key] for key in keys}
    destination = registry.build("s3", "s3", options, "destinations.s3")
    destination.open(None)
    destination.deliver([make_event(1)])
    destination.deliver([make_event(2)])

    assert len(bucket.objects) == 2, "the second batch has not overwritten the first"


def test_a_batch_that_comes_again_overwrites_itself(bucket: FakeS3) -> None:
    """Same key, same bytes, also from another process."""
    opened(bucket).deliver([make_event(1), make_event(2)])
    opened(bucket).deliver([make_event(1), make_event(2)])

    assert len(bucket.requests) == 2 and len(bucket.objects) == 1
    assert bucket.overwritten == 0
    assert len({request.raw for request in bucket.requests}) == 1


@pytest.mark.parametrize("first", range(1, 7))
def test_however_a_replay_is_cut_nothing_is_lost(bucket: FakeS3, first: int) -> None:
    """An event may then stand in two objects; its id tells."""
    # All of one transaction, so that places in the WAL tell nothing apart.
    events = [make_event(number, commit_lsn=LSN(256)) for number in range(6)]
    destination = opened(bucket)

    for second in range(1, 7):
        bucket.objects, bucket.stored = {}, {}
        for cut in (first, second):
            for begin in range(0, len(events), cut):
                destination.deliver(events[begin : begin + cut])

        assert bucket.overwritten == 0
        assert sorted(bucket.ids) == sorted(event.id for event in events)


def test_batches_with_the_same_ends_are_not_each_others(bucket: FakeS3) -> None:
    """A rule that was changed before the replay leaves out, adds, or makes other events of the same id."""
    destination = opened(bucket)
    changed = make_event(2, properties={"note": "of the new rule"})

    destination.deliver([make_event(1), make_event(2), make_event(4)])
    destination.deliver([make_event(1), make_event(3), make_event(4)])
    destination.deliver([make_event(1), changed, make_event(4)])

    assert bucket.overwritten == 0 and len(bucket.objects) == 3
    assert {make_event(number).id for number in range(1, 5)} == set(bucket.ids)


def test_there_is_an_object_for_each_event_and_hour(bucket: FakeS3) -> None:
    """By the event's own time, in UTC, whatever its offset."""
    events = [
        at(1, "2026-01-02T03:59:59.999999Z"),
        at(2, "2026-01-02T04:00:00Z"),
        at(3, "2026-01-02T00:30:00+02:00"),
        at(4, "2026-01-02T03:00:00Z", name="order_paid"),
        at(5, "2026-01-02T03:00:00Z"),
    ]

    opened(bucket).deliver(events)

    assert {key.rpartition("/")[0]: body.count(b"\n") for key, body in bucket.lines.items()} == {
        "shop/event=order_placed/dt=2026-01-02/hour=03": 2,
        "shop/event=order_placed/dt=2026-01-02/hour=04": 1,
        "shop/event=order_placed/dt=2026-01-01/hour=22": 1,
        "shop/event=order_paid/dt=2026-01-02/hour=03": 1,
    }


def test_when_the_third_object_fails_the_first_two_are_not_sent_again(bucket: FakeS3) -> None:
    """Two are durable; what is left comes again as the same objects."""
    events = [make_event(number, name=f"e{number % 4}") for number in range(8)]
    handle, calls = bucket.act, 0

    def act(request: Any) -> Reply:
        nonlocal calls
        calls += 1
        return bucket.error(503, "SlowDown", "reduce your request rate") if calls == 3 else handle(request)

    bucket.act = act  # type: ignore[method-assign]
    destination = opened(bucket)

    receipt = destination.deliver(events)

    assert {index for index, outcome in receipt.outcomes.items() if isinstance(outcome, Retry)} == {2, 3, 6, 7}
    assert set(bucket.ids) == {events[index].id for index in (0, 1, 4, 5)}
    assert len(bucket.requests) == 3, "nothing is sent behind what failed"

    assert destination.deliver([events[index] for index in sorted(receipt.outcomes)]) == Receipt()
    assert bucket.requests[2].path == bucket.requests[3].path
    assert set(bucket.ids) == {event.id for event in events} and bucket.overwritten == 0


def test_when_the_first_object_fails_nothing_was_stored(bucket: FakeS3) -> None:
    """All of the batch comes again."""
    bucket.script.append(bucket.error(503, "SlowDown", "reduce your request rate"))

    with pytest.raises(DestinationUnavailable, match="503 SlowDown"):
        opened(bucket).deliver([make_event(1), make_event(2, name="other")])


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "..", "", "dt=1", "naïve ☃", "a%2Fb", "\n\0", "x" * 300])
def test_whatever_an_event_is_called_is_one_segment(bucket: FakeS3, name: str) -> None:
    """No name leads elsewhere, and no two names to the same place."""
    opened(bucket).deliver([make_event(1, name=name)])

    ((key, _),) = bucket.objects.items()
    parts = key.split("/")
    assert len(parts) == 5 and parts[0] == "shop" and parts[1].startswith("event=")
    assert parts[1].isascii() and parts[1].isprintable()
    assert bucket.ids == [make_event(1, name=name).id]


def test_a_name_too_long_for_a_key_is_a_dead_letter_alone(bucket: FakeS3) -> None:
    """S3 takes 1024 bytes."""
    events = [make_event(1, name="☃" * 150), make_event(2)]

    receipt = opened(bucket).deliver(events)

    assert list(receipt.outcomes) == [0]
    assert isinstance(receipt.outcomes[0], Rejected) and "1024 bytes" in receipt.outcomes[0].reason
    assert bucket.ids == [events[1].id]


def test_a_time_that_cannot_be_read_is_a_dead_letter(bucket: FakeS3) -> None:
    """It belongs to no hour."""
    receipt = opened(bucket).deliver([at(1, "yesterday"), make_event(2)])

    assert isinstance(receipt.outcomes[0], Rejected) and "RFC 3339" in receipt.outcomes[0].reason
    assert bucket.ids == [make_event(2).id]


def test_raw_changes_go_by_table(bucket: FakeS3) -> None:
    """Whatever was done to the row; they never mix with events."""
    opened(bucket).deliver([change(1), change(2)])

    ((key, body),) = bucket.objects.items()
    assert key.startswith("shop/table=public.orders/dt=2026-01-02/hour=03/0000000000000100-0000000000000200-")
    assert [orjson.loads(line)["new"] for line in gzip.decompress(body).splitlines()] == [{"id": 1}, {"id": 2}]


def test_lines_may_be_left_as_they_are(bucket: FakeS3) -> None:
    """For who reads them by eye."""
    opened(bucket, compression="none").deliver([make_event(1)])

    ((key, body),) = bucket.objects.items()
    assert key.endswith(".jsonl") and body == make_event(1).to_json() + b"\n"


def test_parquet_holds_the_same(bucket: FakeS3) -> None:
    """One fixed schema, no digit lost, NULL where there is nobody; and the same key each time."""
    events = [make_event(1, properties={"total": orjson.Fragment(b"12345678901234567890.10"), "none": None}), change(2)]
    nobody = at(3, "2026-01-02T05:04:05.123456+02:00")
    nobody.distinct_id = None

    destination = opened(bucket, format="parquet", rootDir="")
    destination.deliver([*events, nobody])
    destination.deliver([*events, nobody])

    assert len(bucket.objects) == 2 and bucket.overwritten == 0
    tables = {key.split("/")[0]: parquet.read_table(io.BytesIO(body)) for key, body in bucket.objects.items()}
    assert all(key.endswith(".parquet") for key in bucket.objects)
    schema = tables["event=order_placed"].schema
    assert {field.name: str(field.type) for field in schema} == {
        "event_id": "string",
        "event": "string",
        "distinct_id": "string",
        "timestamp": "timestamp[us, tz=UTC]",
        "properties": "string",
        "source": "string",
    }
    first, second = tables["event=order_placed"].to_pylist()
    assert first["event_id"] == events[0].id and first["distinct_id"] == "1" and second["distinct_id"] is None
    assert first["properties"] == '{"number":1,"total":12345678901234567890.10,"none":null}'
    assert orjson.loads(first["source"]) == events[0].source
    assert first["timestamp"] == second["timestamp"] and first["timestamp"].microsecond == 123456
    (raw,) = tables["table=public.orders"].to_pylist()
    assert raw["event"] == "public.orders.insert" and orjson.loads(raw["properties"])["new"] == {"id": 2}


def test_without_pyarrow_parquet_names_the_extra(bucket: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """At start-up, and only where it is asked for."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)

    opened(bucket)
    with pytest.raises(PluginError, match=r"pip install 'wal_tracker\[parquet\]'"):
        opened(bucket, format="parquet")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"bucket": ""}, "bucket is not a bucket's name"),
        ({"bucket": "a/b"}, "bucket is not a bucket's name"),
        ({"rootDir": "a/../b"}, "root_dir .* without"),
        ({"rootDir": "a\nb"}, "root_dir .* plain path"),
        ({"rootDir": "x" * 600}, "root_dir .* longer than 512 bytes"),
        ({"object_bytes": 10}, "object_bytes must be from 1024"),
        ({"format": "csv"}, "must be one of 'jsonl', 'parquet'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(bucket: FakeS3, options: dict[str, Any], told: str) -> None:
    """Before anything starts."""
    with pytest.raises(ConfigError, match=told):
        opened(bucket, **options)


def test_larger_objects_are_asked_for_by_their_size(bucket: FakeS3) -> None:
    """The limits follow the option; without it a batch is half of what a delivery holds."""
    assert opened(bucket).limits == S3.limits
    assert opened(bucket, object_bytes=64 * 1024 * 1024).limits.max_batch_bytes == 64 * 1024 * 1024
