"""
A table in any PostgreSQL that holds every event once.

A batch and how far the table is are one transaction: an event is a row by its id, however often it comes. What the
table has is compared with what it was given, on every connection and in every batch, so a table that went back (a
backup, a standby promoted without its last transactions, another database) is told, not written on.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson
import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from wal_tracker.destinations.base import BatchRefused, Limits, Mark, Outcome, Receipt, Rejected
from wal_tracker.errors import DestinationRefusedUs, DestinationUnavailable
from wal_tracker.model import Deliverable, RawChange
from wal_tracker.secret import Secret
from wal_tracker_destinations import sqlstate
from wal_tracker_destinations.batches import Unfit, epoch_ms
from wal_tracker_destinations.statements import read_statement, schema_and_name

logger = logging.getLogger("wal_tracker.destinations.postgres")

POSITION_TABLE = "wal_tracker_position"
"""Beside the table of events, in its schema."""

_MAX_NAME_BYTES = 63  # PostgreSQL would cut a longer name, and write to another table.

_BOUNDS: Mapping[str, str] = {
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    "application_name": "wal_tracker destination",
}
# The server ends a statement by itself first; so much later we no longer believe in the server.
_GRACE_S = 5.0

# `\u0000` in JSON, and not the end of an escaped backslash.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class Postgres:
    """
    Inserts events into a table, each once by its id; the table's own primary key sees to that.

    The columns are `event_id`, `event`, `distinct_id`, `occurred_at`, `commit_lsn`, `source`, `properties` and
    `received_at`; of a raw change the properties are the change. How far the table is stands in
    ``wal_tracker_position`` beside it, in the same transaction. It is never used to pass over an event: a dead letter
    that is replayed is an old one.

    Where the table has lost what it was given the delivery stops and says what is missing. Nothing more goes there
    until the table is brought back, or `accept_position` says that it goes on without; what comes meanwhile waits in
    the spool, or, where there is none or no other destination, at the source.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Options of one table."""

        dsn: Secret
        """Where the table is, as ``postgresql://user:password@host:5432/database``: a primary."""
        table: str = "public.wal_tracker_events"
        """Its schema and name, as they are, without quotes."""
        create: bool = False
        """Make the table and `wal_tracker_position` where they are missing; the schema must exist."""
        accept_position: str | None = None
        """
        Go on at a table that has lost events: the position the error names. It holds for that position alone, so it
        does no harm in a configuration that stays.
        """
        request_timeout_s: float = 15.0
        """For a batch to be written."""

        def __post_init__(self) -> None:
            try:
                psycopg2.extensions.parse_dsn(self.dsn.reveal())
            except psycopg2.ProgrammingError:
                # Without its cause: the message would repeat it, password and all.
                raise ValueError(
                    "dsn is not a PostgreSQL connection string; write postgresql://user@host:5432/database"
                ) from None
            try:
                names = schema_and_name(self.table)
            except ValueError as error:
                raise ValueError(f"table {error}") from error
            if any(len(name.encode()) > _MAX_NAME_BYTES for name in names):
                raise ValueError(f"table: PostgreSQL's names have at most {_MAX_NAME_BYTES} bytes")
            if names[1] == POSITION_TABLE:
                raise ValueError(f"table must not be called {POSITION_TABLE}: that is the one beside it")
            if self.request_timeout_s <= 0:
                raise ValueError("request_timeout_s must be positive")

    limits = Limits(max_batch_events=1000, max_batch_bytes=4 * 1024 * 1024, linger_s=0.2)
    accepts_raw: ClassVar[bool] = True

    def __init__(self, name: str, config: Config) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
        """
        self.name, self.config = name, config
        schema, table = schema_and_name(config.table)
        self._own = {(schema, table), (schema, POSITION_TABLE)}
        self._names = {"table": sql.Identifier(schema, table), "position": sql.Identifier(schema, POSITION_TABLE)}
        self._where = _described(config.dsn.reveal())
        self._connection: Any = None
        self._mark: Mark | None = None

    def open(self, mark: Mark | None) -> Mark | None:
        """
        Connect, make the table if it is to be made, and see that it has what it was given.

        A server that is not there now is waited for by the first batch instead.

        Raises:
            DestinationRefusedUs: The table is missing, is not ours to write, or has lost what it was given.
        """
        # One without is another kind of destination's, which had this name before.
        self._mark = mark if mark is not None and "batches" in mark else None
        try:
            self._connect()
        except DestinationUnavailable as error:
            logger.warning(
                "the table's server is not there; its first batch will wait for it",
                extra={"destination": self.name, "reason": error.message},
            )
        return self._mark

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        """Insert what is not there yet; returns when it is on the server's disk."""
        outcomes: dict[int, Outcome] = {}
        documents: list[str] = []
        last = None
        for index, event in enumerate(batch):
            self._refuse_loop(event)
            try:
                documents.append(_document(event))
                last = event
            except Unfit as reason:
                outcomes[index] = Rejected(str(reason))
        if last is None:
            return Receipt(outcomes)
        if self._connection is None:
            self._connect()
        with self._transaction() as run:
            found = run(
                "deliver.sql",
                documents=documents,
                events=len(documents),
                commit_lsn=last.source["commit_lsn"],
                event_id=last.id,
                timeout_ms=str(max(1, int(self.config.request_timeout_s * 1000))),  # 0 would be none
            )
            # Before it is committed: what is written to a table that went back would hide that it did.
            id, before, commit_lsn = found[0]
            self._check(id, before)
        self._mark = _mark(id, before + 1, commit_lsn)
        return Receipt(outcomes, mark=self._mark)

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    # The connection ------------------------------------------------------------------------------

    def _connect(self) -> None:
        """
        Connect, see that both tables are there, and that they have what they were given.

        Raises:
            DestinationUnavailable, DestinationRefusedUs: See there.
        """
        self.close()
        given = psycopg2.extensions.parse_dsn(self.config.dsn.reveal())
        with self._translated():
            self._connection = psycopg2.connect(**{**_BOUNDS, **given, "client_encoding": "UTF8"})
        try:
            with self._transaction() as run:
                connection = self._connection
                quoted = {key: name.as_string(connection) for key, name in self._names.items()}
                ((has_table, has_position),) = run("exists.sql", **quoted)
                if not (has_table and has_position):
                    if not self.config.create:
                        raise DestinationRefusedUs(
                            self.name,
                            f"{self._where} lacks {quoted['table']} or {quoted['position']}; set create: true, or have "
                            "an operator run sql/table/create.sql there",
                        )
                    run("create.sql")
                    if not has_table:
                        run("forget.sql")
                ((id, batches, commit_lsn),) = run("position.sql")
            # After it is committed: the position that is told must be the one found the next time.
            self._check(id, batches)
        except BaseException:
            self.close()
            raise
        self._mark = _mark(id, batches, commit_lsn)

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """One transaction that ends in time; gives a function that runs a file of sql/table and returns its rows."""
        connection = self._connection
        with self._translated(), self._bounded(connection), connection, connection.cursor() as cursor:

            # A % in a name must not be taken for a parameter.
            names = {key: sql.SQL(name.as_string(connection).replace("%", "%%")) for key, name in self._names.items()}

            def run(script: str, **values: Any) -> list[tuple[Any, ...]]:
                statements = sql.SQL(read_statement(f"table/{script}")).format(**names)
                cursor.execute(statements, {"destination": self.name, "relation": self.config.table, **values})
                return cursor.fetchall() if cursor.description else []

            yield run

    @contextmanager
    def _bounded(self, connection: Any) -> Iterator[None]:
        """Cut the connection if the server does not answer in time: a dead pooler or proxy would be waited for."""
        # A descriptor of its own, so that nothing else can have its number when the time comes.
        with closing(socket.socket(fileno=os.dup(connection.fileno()))) as line:
            timer = threading.Timer(self.config.request_timeout_s + _GRACE_S, _cut, [line])
            timer.daemon = True
            timer.start()
            try:
                yield
            finally:
                timer.cancel()
                timer.join()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (psycopg2.Error, OSError) as error:
            verdict = sqlstate.verdict(self.name, self._where, error)
            if not isinstance(verdict, BatchRefused):
                # The next attempt begins with a new connection, and perhaps on another server.
                self.close()
            # Without its cause: PostgreSQL's words quote the row.
            raise verdict from None

    # What it means -------------------------------------------------------------------------------

    def _check(self, id: str, batches: int) -> None:
        """
        Hold what the table has against what it was given.

        Raises:
            DestinationRefusedUs: It has less.
        """
        given = self._mark
        if given is None or (id == given["id"] and batches >= given["batches"]):
            return
        found = f"{id}:{batches}"
        if found == self.config.accept_position:
            logger.warning(
                "going on at a table that has lost events, as accept_position says",
                extra={"destination": self.name, "given_batches": given["batches"], "batches": batches},
            )
            return
        lost = (
            f"is not the one events were delivered to up to commit_lsn {given['commit_lsn']} (it was made anew, or is "
            "in another database)"
            if id != given["id"]
            else f"has {batches} batches and was given {given['batches']}, up to commit_lsn {given['commit_lsn']} (a "
            "backup was restored, or a standby promoted without its last transactions)"
        )
        raise DestinationRefusedUs(
            self.name,
            f"{self.config.table} in {self._where} {lost}; what it lacks will not come again by itself. Bring back the "
            f"table that has it, or go on without: accept_position: '{found}'",
        )

    def _refuse_loop(self, event: Deliverable) -> None:
        """
        An event about our own table would make a row in it, and so the next event, without end.

        Raises:
            DestinationRefusedUs: It is one.
        """
        source = event.source
        if (source.get("schema"), source.get("table")) in self._own:
            raise DestinationRefusedUs(
                self.name,
                f"an event about {source['schema']}.{source['table']}, which is what this destination writes to, would "
                "make another one, without end: exclude the table by rules or `filter`. If it is a table of another "
                "database, call ours something else (`table`)",
            )


def _document(event: Deliverable) -> str:
    """
    The event as JSON of one shape, every digit as it was.

    Raises:
        Unfit: PostgreSQL cannot store it.
    """
    epoch_ms(event)  # timestamptz takes 'now' and 'infinity' too
    text = event.to_json()
    if isinstance(event, RawChange):
        text = orjson.dumps(
            {
                "id": event.id,
                "event": event.name,
                "timestamp": event.timestamp,
                "source": event.source,
                "properties": orjson.Fragment(text),
            }
        )
    if b"\\u0000" in text and _NUL.search(text):
        raise Unfit("it holds the character U+0000, which PostgreSQL stores in no text or jsonb; mend the rule")
    return text.decode()


def _mark(id: str, batches: int, commit_lsn: str | None) -> Mark:
    return {"id": id, "batches": batches, "commit_lsn": commit_lsn}


def _cut(line: socket.socket) -> None:
    try:
        line.shutdown(socket.SHUT_RDWR)
    except OSError:
        logger.debug("a connection ended by itself before it was cut")


def _described(dsn: str) -> str:
    """The connection string for people: without password."""
    parts = psycopg2.extensions.parse_dsn(dsn)
    host, port = parts.get("host", "localhost"), parts.get("port", "5432")
    return f"postgresql://{host}:{port}/{parts.get('dbname', parts.get('user', ''))}"
