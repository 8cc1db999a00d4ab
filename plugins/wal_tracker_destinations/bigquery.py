"""
A table in BigQuery, by streaming inserts (``tabledata.insertAll``) or by load jobs.

See: https://cloud.google.com/bigquery/docs/streaming-data-into-bigquery
See: https://cloud.google.com/bigquery/docs/batch-loading-data
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple
from urllib.parse import urlsplit

import orjson

from wal_tracker.destinations.base import Limits, Mark, Outcome, Receipt, Rejected, Retry
from wal_tracker.destinations.http import check_url
from wal_tracker.errors import DestinationRefusedUs, DestinationUnavailable
from wal_tracker.model import Deliverable, RawChange
from wal_tracker_destinations.batches import HttpBatches, Item, epoch_ms
from wal_tracker_destinations.bigquery_api import SCOPE, BigQueryApi, TableId, first_word
from wal_tracker_destinations.bigquery_load import LoadJobs
from wal_tracker_destinations.google import GoogleOptions


class Column(NamedTuple):
    """A TableFieldSchema, as the tables of pg_track_events have them."""

    name: str
    type: str
    mode: str
    description: str


_EVENTS = (
    Column("id", "STRING", "REQUIRED", "The event's id: the same however often it is sent"),
    Column("name", "STRING", "REQUIRED", "What happened"),
    Column("properties", "JSON", "NULLABLE", "The event's properties"),
    Column("user_id", "STRING", "NULLABLE", "Whom it is about (its distinct_id)"),
    Column("timestamp", "TIMESTAMP", "REQUIRED", "When it happened"),
    Column("processed_at", "TIMESTAMP", "REQUIRED", "The same as timestamp"),
)
_CHANGES = (
    Column("id", "STRING", "REQUIRED", "The change's id: the same however often it is sent"),
    Column("event_type", "STRING", "REQUIRED", "insert, update, delete or truncate"),
    Column("row_table_name", "STRING", "REQUIRED", "The table; with its schema where that is not public"),
    Column("old_row", "JSON", "NULLABLE", "The row before"),
    Column("new_row", "JSON", "NULLABLE", "The row after"),
    Column("logged_at", "TIMESTAMP", "REQUIRED", "When it was committed"),
)
# Five hundred rows that failed are named one by one, with a sentence each; so is each column of a table.
_MAX_ANSWER_BYTES = 4 * 1024 * 1024


class BigQuery(HttpBatches):
    """
    Writes rows to one table, with the columns pg_track_events gives it.

    Under ``destinations``: id, name, properties, user_id, timestamp, processed_at. Under
    ``raw_db_event_destinations``: id, event_type, row_table_name, old_row, new_row, logged_at.

    ``method: stream`` writes within seconds. BigQuery drops a row that comes twice within about a minute, by its
    ``insertId``, as best it can. ``method: load`` writes about once a minute and costs nothing; what a job has loaded
    is not loaded again after a crash, because the job is found by its name, unless the rules were changed in between
    or the batch that comes again is shorter. Either way ``id`` tells a row that is there twice.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(GoogleOptions):
        """Options of one table."""

        table_id: str
        """``project.dataset.table``."""
        method: Literal["stream", "load"] = "stream"
        """``stream``: streaming inserts, billed by volume. ``load``: load jobs, free, a minute later."""
        create: bool = False
        """Make the table if it is not there, partitioned by day; its dataset must be."""
        location: str | None = None
        """Where load jobs run, such as ``EU``; None: where the table is."""
        job_timeout_s: float = 300.0
        """How long to wait for a load job before it is asked for again."""
        api_endpoint: str = "https://bigquery.googleapis.com"
        """The API's host; a private or regional endpoint, or an emulator."""

        def __post_init__(self) -> None:
            GoogleOptions.__post_init__(self)
            try:
                TableId.parse(self.table_id)
            except ValueError as error:
                raise ValueError(f"table_id (tableId) {error}") from error
            try:
                check_url(self.api_endpoint)
            except ValueError as error:
                raise ValueError(f"api_endpoint {error}") from error
            parts = urlsplit(self.api_endpoint)
            if parts.path.strip("/") or parts.query or parts.fragment:
                raise ValueError("api_endpoint is a host's URL, without a path")
            if self.job_timeout_s <= 0:
                raise ValueError("job_timeout_s must be positive")
            if self.location is not None and not self.location.strip():
                raise ValueError("location must not be empty")

    vendor = "BigQuery"
    accepts_raw: ClassVar[bool] = True
    # 500 rows is what Google recommends; a request may have 10 MB, and so may a row. A table has no order, and of
    # parallel requests only the bytes a second are limited.
    limits = Limits(max_batch_events=500, max_batch_bytes=4_000_000, linger_s=0.5, concurrency=4)
    max_event_bytes = 9_000_000
    max_request_bytes = 5_000_000

    def __init__(self, name: str, config: Config, *, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
            clock: Seconds since the Unix epoch; a test may give its own.
        """
        self.config = config
        super().__init__(name, config.client(name, config.api_endpoint, max_answer_bytes=_MAX_ANSWER_BYTES))
        self._table = TableId.parse(config.table_id)
        self._api = BigQueryApi(name, self._http, config.tokens(name, SCOPE, clock), clock=clock)
        self._columns: Sequence[Mapping[str, Any]] | None = None
        self._loads: LoadJobs | None = None
        self._is_known = self._fits = False
        if config.method == "load":
            # 1500 jobs a table and day: one a minute, and large.
            self.limits = Limits(max_batch_events=50_000, max_batch_bytes=32 * 1024 * 1024, linger_s=60.0)
            self.max_request_bytes = 64 * 1024 * 1024

    def open(self, mark: Mark | None) -> None:
        """
        Try the credentials, and look at the table.

        Where BigQuery cannot be reached now, the first batch does it.
        """
        super().open(mark)
        try:
            self._look()
        except DestinationUnavailable:
            return

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        """Write the rows; name those BigQuery will not have, and those that must come again."""
        if batch:
            self._prepare(_CHANGES if isinstance(batch[0], RawChange) else _EVENTS)
        return super().deliver(batch)

    def close(self) -> None:
        """Let go of the connections."""
        self._api.close()

    def _item(self, event: Deliverable) -> dict[str, Any]:
        epoch_ms(event)
        # A streamed JSON column takes a text of JSON; in a file to load that would be a text in it.
        as_json = _text if self.config.method == "stream" else _itself
        if isinstance(event, RawChange):
            change = event.document
            row = {
                "id": event.id,
                "event_type": change["op"],
                "row_table_name": _table_name(change["schema"], change["table"]),
                "old_row": as_json(change["old"]),
                "new_row": as_json(change["new"]),
                "logged_at": event.timestamp,
            }
        else:
            row = {
                "id": event.id,
                "name": self._event_name(event, 1024),
                "properties": as_json(event.properties),
                "user_id": event.distinct_id,
                "timestamp": event.timestamp,
                # When a row was written would be another time on each attempt.
                "processed_at": event.timestamp,
            }
        # An absent value is NULL; `null` may be read as the JSON value of that name.
        row = {name: value for name, value in row.items() if value is not None}
        return row if self.config.method == "load" else {"insertId": event.id, "json": row}

    def _send(self, items: Sequence[Item]) -> Mapping[int, Outcome]:
        if self._loads is not None:
            return self._loads.load(items)
        # With skipInvalidRows rows behind one that must come again are taken: a table has no order, and what is
        # stored need not be sent twice, where only the insertId would keep it from being there twice.
        body = b'{"skipInvalidRows":true,"rows":[' + b",".join(item.body for item in items) + b"]}"
        answer = self._api.call("POST", f"{self._table.path}/insertAll?prettyPrint=false", body)
        outcomes: dict[int, Outcome] = {}
        for refused in self._api.json(answer).get("insertErrors") or ():
            outcomes[int(refused.get("index", 0))] = self._row_outcome(refused.get("errors") or ())
        return outcomes

    def _row_outcome(self, errors: Sequence[Mapping[str, Any]]) -> Outcome:
        for error in errors:
            if error.get("reason") == "invalid":
                message = str(error.get("message", ""))
                if "no such field" in message.lower():
                    # We send the same columns each time, so each event would be as guilty as this one.
                    raise DestinationRefusedUs(
                        self.name, f"{self._table} has lost a column; expected are {_names(_EVENTS)}, or for raw "
                        f"changes {_names(_CHANGES)}"
                    )
                return Rejected(f"BigQuery: {error.get('location') or 'row'}: {message}"[:300])
        reasons = {first_word(error.get("reason")) for error in errors}
        return Retry(None, f"BigQuery did not take some rows ({', '.join(sorted(filter(None, reasons)))})")

    def _look(self) -> None:
        """Learn what there is to know of the table, or that it is to be made."""
        missing = frozenset({404} if self.config.create else ())
        answer = self._api.ask("GET", self._table.path, judged=missing)
        self._is_known = True
        if answer.status == 404:
            return
        self._found(self._api.json(answer))

    def _prepare(self, columns: Sequence[Column]) -> None:
        """Have a table with these columns; asks nothing once it has."""
        if self._fits:
            return
        if not self._is_known:
            self._look()
        if self._columns is None:
            self._make(columns)
        self._check(columns)
        self._fits = True

    def _make(self, columns: Sequence[Column]) -> None:
        moment = next(column.name for column in columns if column.type == "TIMESTAMP")
        document = {
            "tableReference": self._table.reference,
            "schema": {"fields": [column._asdict() for column in columns]},
            "timePartitioning": {"type": "DAY", "field": moment},
        }
        answer = self._api.ask("POST", self._table.tables_path, document, judged=frozenset({409}))
        if answer.status == 409:
            # Somebody else was first.
            answer = self._api.ask("GET", self._table.path)
        self._found(self._api.json(answer))

    def _found(self, table: Mapping[str, Any]) -> None:
        kind = table.get("type", "TABLE")
        if kind != "TABLE":
            raise DestinationRefusedUs(self.name, f"{self._table} is a {kind}, and not a table that can be written to")
        self._columns = (table.get("schema") or {}).get("fields") or []
        self._api.table_since = int(table.get("creationTime") or 0) / 1000
        if self.config.method == "load":
            location = self.config.location or table.get("location")
            self._loads = LoadJobs(
                self.name,
                self._api,
                self._table,
                location=location,
                made=str(table.get("creationTime", "")),
                timeout_s=self.config.job_timeout_s,
            )

    def _check(self, wanted: Sequence[Column]) -> None:
        """Refuse a table that would refuse every row."""
        faults = []
        found = {str(column.get("name", "")).lower(): column for column in self._columns or ()}
        for column in wanted:
            there = found.pop(column.name, None)
            # JSON is streamed as text.
            as_text = column.type == "JSON" and self.config.method == "stream"
            if there is None:
                faults.append(f"has no column {column.name}")
            elif there.get("type") not in {column.type, "STRING" if as_text else ""} or there.get("mode") == "REPEATED":
                faults.append(f"has a column {column.name} that is not {column.type}")
        faults += [
            f"has a column {name} that must not be NULL"
            for name, there in found.items()
            if there.get("mode") == "REQUIRED" and not there.get("defaultValueExpression")
        ]
        if faults:
            raise DestinationRefusedUs(
                self.name, f"the table {self._table} {', '.join(faults)}; expected are {_names(wanted)}"
            )


def _text(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _itself(value: Any) -> Any:
    return value


def _table_name(schema: str, table: str) -> str:
    """As pg_track_events names it, which knows no schema but public."""
    return table if schema == "public" else f"{schema}.{table}"


def _names(columns: Sequence[Column]) -> str:
    return ", ".join(f"{column.name} {column.type}" for column in columns)
