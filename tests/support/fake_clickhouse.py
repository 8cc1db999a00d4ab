"""ClickHouse's HTTP interface: one table, blocks that are dropped by their token, exceptions in a header."""

from __future__ import annotations

import re
import uuid
from collections import deque
from datetime import datetime
from typing import Any

import orjson

from tests.support.fake_vendor import FakeVendor
from tests.support.http_server import Reply, Request

_TABLE = r"(`(?:[^`\\]|\\.)+`\.`(?:[^`\\]|\\.)+`)"
_INSERT = re.compile(
    rf"insert into {_TABLE} \(([\w, ]+)\)\nsettings insert_deduplication_token = '(\w+)'\nformat JSONEachRow\n"
)
_CREATE = re.compile(rf"create table if not exists {_TABLE} \(")
_COLUMNS = ["event_id", "event", "distinct_id", "occurred_at", "commit_lsn", "source", "properties"]
_STATUS = {60: 404, 81: 404, 117: 400, 27: 400, 62: 400, 376: 400, 41: 400, 516: 403, 497: 403, 159: 408}
_NAMES = {
    16: "NO_SUCH_COLUMN_IN_TABLE",
    27: "CANNOT_PARSE_INPUT_ASSERTION_FAILED",
    41: "CANNOT_PARSE_DATETIME",
    60: "UNKNOWN_TABLE",
    62: "SYNTAX_ERROR",
    117: "INCORRECT_DATA",
    252: "TOO_MANY_PARTS",
    376: "CANNOT_PARSE_UUID",
    516: "AUTHENTICATION_FAILED",
}


class FakeClickHouse(FakeVendor):
    """
    A server with one ReplacingMergeTree. `rows` is what it holds, `stored` what ``final`` reads: each event once.

    See: https://clickhouse.com/docs/interfaces/http
    """

    kind = "clickhouse"
    id_key = "event_id"
    needs_somebody = False

    def __init__(self, *, key: str = "k3y-of-the-project", window: int = 10_000) -> None:
        """
        Args:
            key: The password of the user `writer`.
            window: So many blocks it remembers (non_replicated_deduplication_window).
        """
        super().__init__(key=key)
        self.table: str | None = "`default`.`wal_tracker_events`"
        """The table there is."""
        self.rows: list[dict[str, Any]] = []
        self.tokens: deque[str] = deque(maxlen=window)

    @property
    def options(self) -> dict[str, Any]:
        return {"url": self.url(""), "user": "writer", "password": self.key, "allow_private": True}

    def items(self, request: Request) -> list[dict[str, Any]]:
        text = request.body.decode()
        match = _INSERT.match(text)
        return [_item(orjson.loads(line)) for line in text[match.end() :].splitlines()] if match else []

    def handle(self, request: Request) -> Reply:
        user = (request.headers.get("x-clickhouse-user"), request.headers.get("x-clickhouse-key"))
        if user != ("writer", self.key):
            return exception(516, f"{user[0]}: Authentication failed: password is incorrect")
        text = request.body.decode()
        create = _CREATE.match(text)
        if create:
            self.table = create[1]
            return accepted()
        insert = _INSERT.match(text)
        if not insert:
            return exception(62, f"Syntax error: failed at position 1: {text[:100]}")
        if insert[1] != self.table:
            return exception(60, f"Table {insert[1]} does not exist")
        if insert[2].split(", ") != _COLUMNS:
            return exception(16, "No such column in table")
        try:
            rows = [orjson.loads(line) for line in text[insert.end() :].splitlines()]
        except orjson.JSONDecodeError as error:
            return exception(27, f"Cannot parse input: {error}")
        for row in rows:
            fault = self._fault(row, request)
            if fault:
                return exception(fault, f"Cannot parse: (while reading the value of {row}): (at row 1)")
        if insert[3] in self.tokens:
            return accepted()
        self.tokens.append(insert[3])
        self.rows += rows
        for row in rows:
            self.stored.setdefault(row["event_id"], _item(row))
        return accepted()

    def _fault(self, row: dict[str, Any], request: Request) -> int:
        """The code of what is wrong with a row; 0: nothing."""
        if row["event_id"] in self.poison or list(row) != _COLUMNS or not isinstance(row["commit_lsn"], int):
            return 117
        try:
            uuid.UUID(row["event_id"])
        except ValueError:
            return 376
        try:
            assert request.query.get("date_time_input_format") == ["best_effort"]
            datetime.fromisoformat(row["occurred_at"].replace("Z", "+00:00"))
        except (ValueError, AssertionError):
            return 41
        texts = (row["event"], row["source"], row["properties"], row["distinct_id"] or "")
        return 0 if all(isinstance(text, str) for text in texts) else 27


def _item(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its properties read."""
    return {**row, "properties": orjson.loads(row["properties"])}


def accepted() -> Reply:
    """What an insert is answered."""
    return Reply(200, b"", {"X-ClickHouse-Query-Id": "0b7e", "X-ClickHouse-Summary": '{"written_rows":"1"}'})


def exception(code: int, text: str, status: int | None = None) -> Reply:
    """An exception as ClickHouse tells it."""
    name = _NAMES.get(code, "SOME_ERROR")
    body = f"Code: {code}. DB::Exception: {text}. ({name}) (version 26.9.2.1 (official build))\n"
    headers = {"X-ClickHouse-Exception-Code": str(code), "X-ClickHouse-Query-Id": "0b7e"}
    return Reply(_STATUS.get(code, 500) if status is None else status, body.encode(), headers)
