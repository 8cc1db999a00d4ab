"""
A table in ClickHouse, by its HTTP interface: one insert a batch, a line of JSON an event.

The statement and the lines are the body, so the URL is the same for all of them. What an answer means is in its
``X-ClickHouse-Exception-Code``, whatever the status.

See: https://clickhouse.com/docs/interfaces/http
See: https://clickhouse.com/docs/guides/developer/deduplicating-inserts-on-retries
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlencode, urlsplit

import orjson

from wal_tracker.destinations.base import BatchRefused, Limits, Mark, Outcome, Receipt
from wal_tracker.destinations.http import Answer, HttpOptions
from wal_tracker.errors import DestinationRefusedUs, DestinationUnavailable
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable
from wal_tracker.secret import Secret
from wal_tracker_destinations.batches import HttpBatches, Item, Unfit, epoch_ms, vendor_url
from wal_tracker_destinations.statements import read_statement, schema_and_name

logger = logging.getLogger("wal_tracker.destinations.clickhouse")

# See: https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp
# What passes whatever the status: time-outs, lines, quota, too many queries or parts, memory, disk, Keeper, replicas,
# a table that is read-only for a while, and an insert of which nobody knows whether it is in.
_PASSES = frozenset(
    {159, 173, 201, 202, 203, 209, 210, 225, 236, 241, 242, 243, 244, 252, 254}
    | {279, 285, 286, 319, 364, 394, 425, 439, 999}
)
# What speaks of a row: a text, date, number or UUID that cannot be parsed, a constraint, a size.
_ABOUT_THE_EVENTS = frozenset({6, 25, 26, 27, 38, 41, 53, 69, 72, 117, 131, 321, 349, 376, 407, 469})
# What speaks of us though its status is 500: no such column, a user that may only read, a setting that is not allowed.
_ABOUT_US = frozenset({16, 20, 164, 195, 291, 392, 452})

_NAME_OF_ERROR = re.compile(rb"\(([A-Z][A-Z0-9_]+)\) \(version ")

# All but redirects, which are nobody's answer.
_JUDGED = frozenset(range(400, 600))

# DateTime64's range; what is beyond it some versions store as something else.
_FIRST_MS, _LAST_MS = -2_208_988_800_000, 10_413_791_999_999


class ClickHouse(HttpBatches):
    """
    Inserts events into a table; what comes again in the same batch ClickHouse drops, the rest is merged away.

    The columns are `event_id`, `event`, `distinct_id`, `occurred_at`, `commit_lsn` (as a number), `source` and
    `properties` (both JSON in a String, every digit as it was) and `received_at`. A batch that is sent again after a
    lost answer has the same ``insert_deduplication_token`` and the same bytes. After a crash batches are cut in other
    places: then an event may be there twice until its parts are merged, so read the table with ``final``.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(HttpOptions):
        """Options of one table."""

        url: str
        """The HTTP interface, as ``https://host:8443``."""
        user: str = "default"
        """Who inserts."""
        password: Secret | None = None
        """The user's."""
        table: str = "default.wal_tracker_events"
        """Its database and name, as they are, without quotes."""
        create: bool = False
        """Make the table where it is missing, as a ReplacingMergeTree; the database must exist."""
        async_insert: bool = False
        """Let the server gather inserts of many clients; it still answers when they are stored."""
        gzip: bool = True
        """Compress requests."""

        def __post_init__(self) -> None:
            HttpOptions.__post_init__(self)
            try:
                url = vendor_url(self.url, {}, "/")
            except ValueError as error:
                raise ValueError(f"url {error}") from error
            if urlsplit(url).username is not None or urlsplit(url).password is not None:
                raise ValueError("url must not hold user and password; give them as user and password")
            try:
                schema_and_name(self.table)
            except ValueError as error:
                raise ValueError(f"table {error}") from error
            for name, text in (("user", self.user), ("password", self.password.reveal() if self.password else "")):
                # Headers are latin-1 at most, and a line end would begin another one.
                if not text.isascii() or (text and not text.isprintable()):
                    raise ValueError(f"{name} must be printable ASCII: it travels in a header")
            if not self.user:
                raise ValueError("user must not be empty")

    vendor = "ClickHouse"
    accepts_raw: ClassVar[bool] = True
    # Few large inserts: each makes a part, and too many parts stop a table ("at least 1000 rows, one insert a second").
    limits = Limits(max_batch_events=5000, max_batch_bytes=8 * 1024 * 1024, linger_s=1.0)
    max_event_bytes = 16_000_000
    max_request_bytes = 32_000_000

    def __init__(self, name: str, config: Config) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
        """
        self.config = config
        password = config.password.reveal() if config.password is not None else ""
        settings = {
            # An error after the headers would go unseen.
            "wait_end_of_query": 1,
            "date_time_input_format": "best_effort",
            # Said either way: since version 26 the server's default is 1, with another window for what comes again.
            "async_insert": int(config.async_insert),
            "wait_for_async_insert": 1,
        }
        if config.async_insert:
            settings["async_insert_deduplicate"] = 1
        super().__init__(
            name,
            config.client(
                name,
                f"{vendor_url(config.url, {}, '/')}?{urlencode(settings)}",
                headers={"X-ClickHouse-User": config.user, "X-ClickHouse-Key": password},
                secrets=[password] if password else [],
            ),
        )
        self._table = ".".join(map(_quoted, schema_and_name(config.table)))
        self._is_made = not config.create

    def open(self, mark: Mark | None) -> None:
        """
        Make the table if it is to be made; a server that is not there now is waited for by the first batch.

        Raises:
            DestinationRefusedUs: The address is not allowed, or the table may not be made.
        """
        super().open(mark)
        try:
            self._make_table()
        except DestinationUnavailable as error:
            logger.warning(
                "the table's server is not there; its first batch will wait for it",
                extra={"destination": self.name, "reason": error.message},
            )

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        """See `HttpBatches`."""
        self._make_table()
        return super().deliver(batch)

    def _make_table(self) -> None:
        if not self._is_made:
            try:
                self._post(read_statement("clickhouse/create.sql").replace("{table}", self._table).encode())
            except BatchRefused as refusal:
                # There is no event in it that could be to blame.
                raise DestinationRefusedUs(
                    self.name, f"{self._http.origin} does not make the table: {refusal.reason}"
                ) from refusal
            self._is_made = True

    def _item(self, event: Deliverable) -> dict[str, Any]:
        if not _FIRST_MS <= epoch_ms(event) <= _LAST_MS:
            raise Unfit("its timestamp is outside the years 1900 to 2299, which ClickHouse's DateTime64 holds")
        return {
            "event_id": event.id,
            "event": event.name,
            "distinct_id": event.distinct_id,
            "occurred_at": event.timestamp,
            "commit_lsn": int(LSN.parse(event.source["commit_lsn"])),
            "source": orjson.dumps(event.source).decode(),
            "properties": orjson.dumps(event.properties).decode(),
        }

    def _send(self, items: Sequence[Item]) -> Mapping[int, Outcome]:
        # Of the ids, so that it does not hang on what a version of ClickHouse takes into its own digest of a block.
        token = hashlib.sha256(",".join(item.event.id for item in items).encode()).hexdigest()
        statement = read_statement("clickhouse/insert.sql").replace("{token}", token).replace("{table}", self._table)
        self._post(b"\n".join([statement.encode(), *(item.body for item in items), b""]))
        return {}

    def _post(self, body: bytes) -> None:
        answer = self._http.post(
            body, {"Content-Type": "text/plain; charset=utf-8"}, gzip=self.config.gzip, judged=_JUDGED
        )
        code = answer.headers.get("X-ClickHouse-Exception-Code", "")
        if code:
            raise self._exception(int(code) if code.isdigit() else 0, answer)
        if answer.status >= 400:
            raise self._http.verdict(answer)
        if not any(name.lower().startswith("x-clickhouse-") for name in answer.headers):
            raise DestinationRefusedUs(
                self.name, f"what answers at {self._http.origin} is not ClickHouse's HTTP interface; check the url"
            )

    def _exception(self, code: int, answer: Answer) -> Exception:
        """What an exception of ClickHouse means, by its code; its text may quote the row, so only its name is told."""
        names = _NAME_OF_ERROR.findall(answer.body)
        said = f"ClickHouse says {code}{' ' + names[-1].decode() if names else ''}"
        if code in _ABOUT_THE_EVENTS:
            return BatchRefused(said)
        is_of_the_server = not 300 <= answer.status < 500 and answer.status != 501
        if code in _PASSES or (is_of_the_server and code not in _ABOUT_US):
            return DestinationUnavailable(self.name, f"{self._http.origin}: {said}")
        return DestinationRefusedUs(self.name, f"{self._http.origin}: {said}; {_remedy(code)}")


def _quoted(name: str) -> str:
    """An identifier. See: https://clickhouse.com/docs/sql-reference/syntax#identifiers"""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _remedy(code: int) -> str:
    if code in (192, 193, 194, 195, 497, 516):
        return "check the user, its password, and that it may insert (and create, with create: true)"
    if code in (60, 81):
        return "create the database, and the table by create: true or sql/clickhouse/create.sql"
    if code in (16, 20, 47):
        return "the table must have the columns of sql/clickhouse/create.sql"
    return "see the server's log"
