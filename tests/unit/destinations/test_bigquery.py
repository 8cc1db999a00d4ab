"""The BigQuery destination against an API that behaves as BigQuery's does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.support.fake_bigquery import CHANGES, EVENTS, FakeBigQuery, error
from tests.support.http_server import Reply
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import BatchRefused, Rejected, Retry
from wal_tracker.errors import ConfigError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.model import RawChange
from wal_tracker.testing import make_event
from wal_tracker_destinations.bigquery import BigQuery
from wal_tracker_destinations.bigquery_api import TableId

ADDED = [("source", "STRING", "NULLABLE")]


@pytest.fixture
def server() -> Iterator[FakeBigQuery]:
    with FakeBigQuery() as made:
        yield made


@pytest.fixture
def loads() -> Iterator[FakeBigQuery]:
    """One that is loaded into."""
    with FakeBigQuery(method="load") as made:
        yield made


def table(server: FakeBigQuery, **options: Any) -> BigQuery:
    """The destination, not yet open."""
    given = {**server.options, **options}
    return BigQuery("bigquery", registry.read_config(BigQuery.Config, given, "destinations.bigquery", defaults={}))


def change(number: int, *, op: str = "update", schema: str = "public") -> RawChange:
    old = None if op in ("insert", "truncate") else {"id": number, "note": None}
    new = None if op in ("delete", "truncate") else {"id": number, "price": orjson.Fragment(b"12.50")}
    document = {"op": op, "schema": schema, "table": "orders", "old": old, "new": new}
    return RawChange(f"change-{number}", f"{schema}.orders.{op}", "2026-01-02T03:04:05.123456Z", document, {})


# Rows ------------------------------------------------------------------------------------------------


def test_a_streamed_row_has_the_columns_of_pg_track_events(server: FakeBigQuery) -> None:
    """Times are the event's, whoever it is about is absent where there is nobody, and JSON travels as text."""
    events = [make_event(1, properties={"plan": None, "total": orjson.Fragment(b"12.50")}), make_event(2)]
    events[1].distinct_id = None

    table(server).deliver(events)

    (request,) = server.requests
    assert request.path == "/bigquery/v2/projects/shop-1/datasets/analytics/tables/events/insertAll"
    assert request.headers["authorization"] == "Bearer ya29.token-1"
    moment = "2026-01-02T03:04:05.123456Z"
    row = {"id": events[0].id, "name": "order_placed", "user_id": "1", "timestamp": moment, "processed_at": moment}
    first, second = request.json()["rows"]
    assert first == {
        "insertId": events[0].id,
        "json": {**row, "properties": '{"number":1,"plan":null,"total":12.50}'},
    }
    assert "user_id" not in second["json"]


def test_a_raw_change_has_the_columns_of_pg_track_events(server: FakeBigQuery) -> None:
    """Old and new row as JSON, NULL where there is none; a schema that is not public is told."""
    server.make_table(CHANGES)

    table(server).deliver([change(1), change(2, op="insert"), change(3, op="delete", schema="billing")])

    first, second, third = server.stored.values()
    assert first == {
        "id": "change-1",
        "event_type": "update",
        "row_table_name": "orders",
        "old_row": {"id": 1, "note": None},
        "new_row": {"id": 1, "price": 12.5},
        "logged_at": "2026-01-02T03:04:05.123456Z",
    }
    assert "old_row" not in second and "new_row" not in third
    assert third["row_table_name"] == "billing.orders"


def test_a_loaded_json_column_is_json(loads: FakeBigQuery) -> None:
    """In a file to load, a text would be a JSON string; digits are as they were."""
    table(loads).deliver([make_event(1, properties={"total": orjson.Fragment(b"12.50")})])

    (request,) = loads.requests
    assert b'"properties":{"number":1,"total":12.50}' in request.body
    assert loads.items(request)[0]["properties"] == {"number": 1, "total": 12.5}


@pytest.mark.parametrize("moment", ["", "yesterday"])
def test_a_time_bigquery_cannot_read_is_a_dead_letter(server: FakeBigQuery, moment: str) -> None:
    """Here, before a load job fails for it."""
    event = make_event(1)
    event.timestamp = moment

    outcome = table(server).deliver([event]).outcomes[0]

    assert isinstance(outcome, Rejected) and "RFC 3339" in outcome.reason
    assert server.requests == []


# Streaming -------------------------------------------------------------------------------------------


def test_rows_that_are_invalid_are_named_and_the_others_are_in(server: FakeBigQuery) -> None:
    """In one request; what is stored is not sent again."""
    events = [make_event(number) for number in range(1, 5)]
    server.poison = {events[1].id}
    server.row_faults = {events[2].id: "backendError"}
    bigquery = table(server)

    outcomes = bigquery.deliver(events).outcomes

    assert outcomes == {
        1: Rejected("BigQuery: properties: this row will not do"),
        2: Retry(None, "BigQuery did not take some rows (backendError)"),
    }
    assert server.ids == [events[0].id, events[3].id]
    assert bigquery.deliver([events[2]]).outcomes == {}
    assert len(server.requests) == 2


@pytest.mark.parametrize("reason", ["stopped", "timeout", "internalError", "somethingNew"])
def test_a_row_that_is_not_invalid_comes_again(server: FakeBigQuery, reason: str) -> None:
    """What BigQuery does not call invalid may pass by itself."""
    server.row_faults = {make_event(1).id: reason}

    outcome = table(server).deliver([make_event(1)]).outcomes[0]

    assert isinstance(outcome, Retry) and reason in outcome.reason


def test_a_table_that_loses_a_column_stops_and_refuses_no_event(server: FakeBigQuery) -> None:
    """Every event would be as guilty as the first."""
    bigquery = table(server)
    bigquery.deliver([make_event(1)])
    server.make_table([column for column in EVENTS if column[0] != "user_id"])

    with pytest.raises(DestinationRefusedUs, match="has lost a column"):
        bigquery.deliver([make_event(2)])


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (error(403, "rateLimitExceeded", "slow down"), DestinationUnavailable),
        (error(403, "quotaExceeded", "too much"), DestinationUnavailable),
        (error(400, "tableUnavailable", "not now"), DestinationUnavailable),
        (error(500, "internalError", "oops"), DestinationUnavailable),
        (error(502, "badGateway", "oops"), DestinationUnavailable),
        (error(503, "backendError", "oops"), DestinationUnavailable),
        (Reply(503, b"<html>"), DestinationUnavailable),
        (Reply(429), DestinationUnavailable),
        (Reply(200, b"<html>"), DestinationUnavailable),
        (error(400, "invalid", "Request payload size exceeds the limit: 10485760 bytes."), BatchRefused),
        (Reply(413, b"<html>"), BatchRefused),
        (error(403, "accessDenied", "Access Denied"), DestinationRefusedUs),
        (error(403, "billingNotEnabled", "Streaming is not allowed in the free tier"), DestinationRefusedUs),
        (error(404, "notFound", "Not found: Table"), DestinationRefusedUs),
        (error(501, "notImplemented", "no"), DestinationRefusedUs),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_an_error_means_what_its_reason_says(
    server: FakeBigQuery, reply: Reply, expected: type[Exception]
) -> None:
    """A rate limit is a 403, as is a missing right."""
    server.script.append(reply)

    with pytest.raises(expected):
        table(server).deliver([make_event(1)])


def test_a_missing_right_is_told_with_its_remedy(server: FakeBigQuery) -> None:
    """In BigQuery's words."""
    server.script.append(error(403, "accessDenied", "Permission bigquery.tables.updateData denied"))

    with pytest.raises(DestinationRefusedUs, match=r"403: accessDenied: Permission .* denied; .*bigquery\.dataEditor"):
        table(server).deliver([make_event(1)])


def test_what_passes_is_told_without_bigquerys_words(server: FakeBigQuery) -> None:
    """It is logged each time, and their words may repeat a value."""
    server.script.append(error(403, "quotaExceeded", "canary", **{"Retry-After": "7"}))

    with pytest.raises(DestinationUnavailable, match=r"answered 403 \(quotaExceeded\)$") as caught:
        table(server).deliver([make_event(1)])

    assert caught.value.retry_after_s == 60


# The table -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "columns", "moment"),
    [(make_event(1), EVENTS, "timestamp"), (change(1), CHANGES, "logged_at")],
    ids=["events", "changes"],
)
def test_a_table_is_made_where_that_is_asked_for(
    server: FakeBigQuery, event: Any, columns: Any, moment: str
) -> None:
    """With the columns of what goes into it, partitioned by day; once."""
    server.table = None
    bigquery = table(server, create=True)
    bigquery.open(None)

    bigquery.deliver([event])
    bigquery.deliver([event])

    assert server.table is not None
    fields = server.table["schema"]["fields"]
    assert [(field["name"], field["type"], field["mode"]) for field in fields] == columns
    assert server.table["timePartitioning"] == {"type": "DAY", "field": moment}
    assert len(server.ids) == 1
    assert [request.method for request in server.aside_requests] == ["POST", "GET", "POST"]


def test_a_table_somebody_else_makes_at_the_same_time_is_taken(server: FakeBigQuery) -> None:
    """Two of us start at once."""
    server.trouble["table"].append(error(404, "notFound", "not yet"))

    table(server, create=True).deliver([make_event(1)])

    assert server.ids == [make_event(1).id]


def test_a_new_table_is_waited_for_until_it_is_known_everywhere(server: FakeBigQuery) -> None:
    """404 is nobody's mistake then."""
    server.table, server.unknown_for = None, 2
    bigquery = table(server, create=True)

    for _ in range(2):
        with pytest.raises(DestinationUnavailable, match="the table is new"):
            bigquery.deliver([make_event(1)])
    bigquery.deliver([make_event(1)])

    assert server.ids == [make_event(1).id]


def test_a_new_table_is_not_waited_for_without_end(server: FakeBigQuery) -> None:
    """One that is gone an hour later was dropped."""
    now = [1_000_000.0]
    server.make_table(EVENTS, creationTime="1000000000")
    given = {**server.options, "credentialsJson": None, "access_token": "t"}
    server.tokens.append("t")
    config = registry.read_config(BigQuery.Config, given, "destinations.bigquery", defaults={})
    bigquery = BigQuery("bigquery", config, clock=lambda: now[0])
    server.unknown_for = 2

    with pytest.raises(DestinationUnavailable):
        bigquery.deliver([make_event(1)])
    now[0] += 3600
    with pytest.raises(DestinationRefusedUs, match="404"):
        bigquery.deliver([make_event(1)])


@pytest.mark.parametrize("create", [False, True])
def test_a_missing_dataset_is_told_before_the_first_event(server: FakeBigQuery, create: bool) -> None:
    """It is not made: where data lives is not ours to choose."""
    server.dataset_is_there = False
    bigquery = table(server, create=create)

    with pytest.raises(DestinationRefusedUs, match=r"404: notFound: Not found: Dataset .*mend table_id"):
        bigquery.open(None)
        bigquery.deliver([make_event(1)])

    assert server.requests == []


@pytest.mark.parametrize(
    ("columns", "more", "message"),
    [
        (EVENTS[:-1], {}, "has no column processed_at; expected are id STRING, .*processed_at TIMESTAMP"),
        (CHANGES, {}, "has no column name"),
        ([*EVENTS, ("shop", "STRING", "REQUIRED")], {}, "has a column shop that must not be NULL"),
        ([("id", "INTEGER", "REQUIRED"), *EVENTS[1:]], {}, "has a column id that is not STRING"),
        (EVENTS, {"type": "VIEW"}, "is a VIEW"),
    ],
)
def test_a_table_that_would_refuse_every_row_is_refused(
    server: FakeBigQuery, columns: Any, more: dict[str, Any], message: str
) -> None:
    """Not one dead letter for it."""
    server.make_table(columns, **more)

    with pytest.raises(DestinationRefusedUs, match=message):
        table(server).deliver([make_event(1)])

    assert server.requests == []


def test_columns_somebody_added_are_left_alone(server: FakeBigQuery) -> None:
    """Where they may be NULL or have a default; names have no case."""
    server.make_table([*EVENTS, *ADDED])
    assert server.table is not None
    default = {"name": "at", "type": "TIMESTAMP", "mode": "REQUIRED", "defaultValueExpression": "CURRENT_TIMESTAMP()"}
    fields = [*server.table["schema"]["fields"], default]
    fields[0] = {**fields[0], "name": "ID"}
    server.trouble["table"].append(Reply(200, orjson.dumps({**server.table, "schema": {"fields": fields}})))

    table(server).deliver([make_event(1)])

    assert server.ids == [make_event(1).id]


def test_bigquery_may_be_down_when_we_start(server: FakeBigQuery) -> None:
    """What is asked before the first event is asked again with it."""
    server.trouble["token"].append(Reply(503))
    server.trouble["table"].append(Reply(503))
    bigquery = table(server)

    bigquery.open(None)
    with pytest.raises(DestinationUnavailable):
        bigquery.deliver([make_event(1)])
    bigquery.deliver([make_event(1)])

    assert server.ids == [make_event(1).id]


# Tokens ----------------------------------------------------------------------------------------------


def test_a_token_that_is_refused_is_fetched_again_once(server: FakeBigQuery) -> None:
    """And if the new one is refused too, somebody must look."""
    bigquery = table(server)
    bigquery.deliver([make_event(1)])
    server.tokens.clear()

    bigquery.deliver([make_event(2)])

    assert (len(server.ids), server.given) == (2, 2)
    server.script.extend([Reply(401), Reply(401)])
    with pytest.raises(DestinationRefusedUs, match="401"):
        bigquery.deliver([make_event(3)])


def test_a_given_token_is_used_as_it_is(server: FakeBigQuery) -> None:
    """And is in no error, also where BigQuery repeats it."""
    server.tokens.append("ya29.given")
    bigquery = table(server, credentialsJson=None, accessToken="ya29.given")
    bigquery.deliver([make_event(1)])
    server.script.extend([Reply(401, b"what is ya29.given?")] * 2)

    with pytest.raises(DestinationRefusedUs, match=r"what is \*\*\*\?"):
        bigquery.deliver([make_event(2)])

    assert "ya29" not in repr(vars(bigquery)) + repr(bigquery.config)
    assert server.given == 0


# Load jobs -------------------------------------------------------------------------------------------


def test_a_job_is_waited_for(loads: FakeBigQuery) -> None:
    """Its rows are not there before it is done; where it runs is taken from the table."""
    loads.polls = 3

    assert table(loads).deliver([make_event(1), make_event(2)]).outcomes == {}

    assert loads.ids == [make_event(1).id, make_event(2).id]
    polls = [request for request in loads.aside_requests if "/jobs/" in request.path]
    assert [request.query["location"] for request in polls] == [["EU"]] * 3


def test_a_job_that_does_not_end_in_time_is_found_again(loads: FakeBigQuery) -> None:
    """By its name; nothing is loaded twice."""
    loads.polls = 4
    bigquery = table(loads, job_timeout_s=0.2)

    with pytest.raises(DestinationUnavailable, match=r"has not ended within 0\.2 s"):
        bigquery.deliver([make_event(1)])
    assert loads.ids == []
    with pytest.raises(DestinationUnavailable):
        bigquery.deliver([make_event(1)])
    bigquery.deliver([make_event(1)])

    assert loads.ids == [make_event(1).id]
    assert len(loads.jobs) == 1


@pytest.mark.parametrize("more", [0, 3], ids=["the same", "more"])
def test_what_a_job_has_loaded_is_not_loaded_again_after_a_crash(loads: FakeBigQuery, more: int) -> None:
    """Also where the batch that comes again is cut at another place."""
    events = [make_event(number) for number in range(1, 5 + more)]
    table(loads).deliver(events[:4])

    assert table(loads).deliver(events).outcomes == {}

    assert loads.ids == [event.id for event in events]
    assert len(loads.jobs) == (2 if more else 1)


def test_a_job_of_other_rows_is_not_taken_for_ours(loads: FakeBigQuery) -> None:
    """After a change of the rules: rather twice than not at all."""
    events = [make_event(number) for number in range(1, 5)]
    table(loads).deliver([events[0], events[2]])

    table(loads).deliver(events)
    table(loads).deliver(events)

    assert loads.ids == [events[0].id, events[2].id, *(event.id for event in events)]


def test_a_table_made_anew_is_loaded_anew(loads: FakeBigQuery) -> None:
    """The jobs of the one that was dropped are not its own."""
    table(loads).deliver([make_event(1)])
    loads.stored.clear()
    loads.make_table(EVENTS, age_s=3600)

    table(loads).deliver([make_event(1)])

    assert loads.ids == [make_event(1).id]


@pytest.mark.parametrize("reason", ["backendError", "internalError", "rateLimitExceeded", "quotaExceeded", "stopped"])
def test_a_job_that_failed_for_a_while_is_followed_by_another(loads: FakeBigQuery, reason: str) -> None:
    """Under a new name: a job's name is used once."""
    loads.job_faults.extend([reason, reason])
    bigquery = table(loads)

    for _ in range(2):
        with pytest.raises(DestinationUnavailable, match=rf"failed \({reason}\)$"):
            bigquery.deliver([make_event(1)])
    bigquery.deliver([make_event(1)])
    table(loads).deliver([make_event(1)])

    assert loads.ids == [make_event(1).id]
    base, *rest = loads.jobs
    assert rest == [f"{base}-r1", f"{base}-r2"]


def test_a_job_that_failed_for_its_rows_is_halved_around_us(loads: FakeBigQuery) -> None:
    """It does not name them."""
    loads.poison = {make_event(2).id}

    with pytest.raises(BatchRefused, match="Error while reading data"):
        table(loads).deliver([make_event(1), make_event(2)])

    assert loads.ids == []


def test_a_job_that_failed_for_us_stops(loads: FakeBigQuery) -> None:
    """No event is to blame."""
    loads.job_faults.append("accessDenied")

    with pytest.raises(DestinationRefusedUs, match=r"failed \(accessDenied\).*bq show -j wal_tracker_"):
        table(loads).deliver([make_event(1)])


def test_rows_behind_a_job_that_is_done_come_again_if_theirs_fails(loads: FakeBigQuery) -> None:
    """The first are not told to have failed with them."""
    events = [make_event(number) for number in range(1, 5)]
    table(loads).deliver(events[:2])
    loads.poison = {events[3].id}

    outcomes = table(loads).deliver(events).outcomes

    assert outcomes == dict.fromkeys((2, 3), Retry(0.0, "a later load job of the batch failed"))
    assert loads.ids == [event.id for event in events[:2]]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (error(400, "invalid", "Request payload size exceeds the limit"), BatchRefused),
        (Reply(413), BatchRefused),
        (error(400, "invalid", "Invalid value for location: mars is not a valid value"), DestinationRefusedUs),
        (error(400, "jobRateLimitExceeded", "slow down"), DestinationUnavailable),
        (error(403, "quotaExceeded", "too many jobs"), DestinationUnavailable),
        (error(403, "accessDenied", "bigquery.jobs.create"), DestinationRefusedUs),
        (Reply(500), DestinationUnavailable),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_a_job_that_is_not_made_means_what_its_reason_says(
    loads: FakeBigQuery, reply: Reply, expected: type[Exception]
) -> None:
    """Rows are looked at later: what is wrong with a job is ours, but for its size."""
    loads.script.append(reply)

    with pytest.raises(expected):
        table(loads).deliver([make_event(1)])


def test_a_day_has_room_for_its_jobs() -> None:
    """1500 a table."""
    given = {"tableId": "p.d.t", "accessToken": "t", "method": "load"}
    bigquery = BigQuery("b", registry.read_config(BigQuery.Config, given, "d", defaults={}))

    assert 86_400 / bigquery.limits.linger_s < 1500
    assert bigquery.limits.concurrency == 1


# Options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"needs table_id \(or tableId\)"),
        ({"tableId": "events"}, "table_id .* is not project.dataset.table"),
        ({"tableId": "p.d.t$20260102"}, "table_id .* is not project.dataset.table"),
        ({"tableId": "p.d/../x.t"}, "table_id .* is not project.dataset.table"),
        ({"tableId": "p.d.t", "credentialsJson": ""}, "credentials_json must not be empty; is its environment"),
        ({"tableId": "p.d.t", "credentialsJson": "{s3cret"}, "credentials_json is not JSON"),
        ({"tableId": "p.d.t", "credentialsJson": '{"type":"authorized_user"}'}, "not the key of a service account"),
        ({"tableId": "p.d.t", "credentialsJson": "{}", "accessToken": "s3cret"}, "needs one of credentials_json"),
        ({"tableId": "p.d.t", "tokenUri": "nowhere"}, "token_uri is not a URL"),
        ({"tableId": "p.d.t", "apiEndpoint": "eu"}, "api_endpoint is not a URL"),
        ({"tableId": "p.d.t", "apiEndpoint": "https://x.example/bigquery/v2"}, "api_endpoint is a host's URL"),
        ({"tableId": "p.d.t", "method": "write"}, "one of 'stream', 'load'"),
        ({"tableId": "p.d.t", "job_timeout_s": 0}, "job_timeout_s must be positive"),
        ({"tableId": "p.d.t", "location": " "}, "location must not be empty"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    """At load, by name, and without repeating a secret."""
    given = options if "credentialsJson" in options else {"defaultCredentials": True, **options}
    with pytest.raises(ConfigError, match=message) as caught:
        registry.read_config(BigQuery.Config, given, "destinations.bigquery", defaults={})

    assert "s3cret" not in str(caught.value)


def test_the_two_keys_of_pg_track_events_are_enough(server: FakeBigQuery) -> None:
    """The rest of the fake's options says where it is."""
    assert server.options.keys() - {"apiEndpoint", "allow_private"} == {"tableId", "credentialsJson"}
    config = registry.read_config(
        BigQuery.Config, {key: server.options[key] for key in ("tableId", "credentialsJson")}, "d", defaults={}
    )

    assert (config.api_endpoint, config.method) == ("https://bigquery.googleapis.com", "stream")
    assert BigQuery.accepts_raw


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("shop-1.analytics.events", "/bigquery/v2/projects/shop-1/datasets/analytics/tables/events"),
        ("example.com:shop.d.t 1", "/bigquery/v2/projects/example.com%3Ashop/datasets/d/tables/t%201"),
        ("p.d.événements", "/bigquery/v2/projects/p/datasets/d/tables/%C3%A9v%C3%A9nements"),
    ],
)
def test_a_tables_name_is_its_path(text: str, path: str) -> None:
    """Old projects have a domain in theirs; a table's may be in any script."""
    assert TableId.parse(text).path == path
    assert str(TableId.parse(text)) == text
