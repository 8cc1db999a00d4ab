"""
The state store in PostgreSQL, in a schema of its own: for machines that keep nothing, such as containers.

It may be the tracked database or, better, another one: what is written here is WAL there too. One connection; when it
is lost the store says so and the process must start again, because its lock went with the connection.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import psycopg2
import psycopg2.extensions

from wal_tracker.errors import StateError
from wal_tracker.state.base import LetterBound
from wal_tracker.state.store import SCHEMA_VERSION, Execute, SqlStateStore, read_script, statement_text

# Any two numbers nobody else uses, in the name space of two-part advisory locks: "wal_" and "stat" in ASCII.
LOCK_KEY = (0x77616C5F, 0x73746174)

CONNECT_TIMEOUT_S = 10

# The loop waits for this store with a replication connection in its hand, and one left unread stops the server's
# checkpointer: nothing here may take for ever, whatever becomes of the network or of somebody's lock.
_BOUNDS: Mapping[str, str] = {
    "connect_timeout": str(CONNECT_TIMEOUT_S),
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    "application_name": "wal_tracker state",
}
STATEMENT_TIMEOUT_S = 15

# A process that was killed keeps its lock until the server sees the connection end.
LOCK_PATIENCE_S = 2.0

_HOLDER = """
select a.pid, coalesce(a.client_addr::text, 'a local socket'), coalesce(a.application_name, '')
  from pg_locks as l join pg_stat_activity as a using (pid)
 where l.locktype = 'advisory' and l.granted and l.classid = %s and l.objid = %s and l.objsubid = 2
   and l.database = (select oid from pg_database where datname = current_database())
"""


@cache
def _statement(name: str, chosen: tuple[str, ...]) -> str:
    """psycopg2's way to write parameters (a `::` cast is none), and PostgreSQL's operator for `glob`."""
    text = statement_text(name, chosen).replace("%", "%%").replace(" glob ", " ~ ")
    return re.sub(r"(?<!:):(\w+)", r"%(\1)s", text)


class PostgresStateStore(SqlStateStore):
    """A state store in the schema ``wal_tracker_state`` of a database."""

    def __init__(self, url: str, bound: LetterBound | None = None) -> None:
        """
        Open the store, make it where there is none, and bring one of an older version up to this one.

        Args:
            url: ``postgresql://…``; its password is never repeated.
            bound: Of dead letters; None: there is none.

        Raises:
            StateError: It cannot be reached, may not be made, or was made by a newer version.
        """
        super().__init__(bound)
        self._where = described(url)
        with self._translated("connecting"):
            self._connection = psycopg2.connect(**{**_BOUNDS, **psycopg2.extensions.parse_dsn(url)})
        try:
            self._prepare()
        except StateError:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        with self._cursor("preparing its schema") as cursor:
            # One at a time: `create … if not exists` of two sessions at once can still collide.
            cursor.execute("select pg_advisory_xact_lock(%s, %s)", (LOCK_KEY[0], 1))
            cursor.execute("select to_regclass('wal_tracker_state.gap') is not null")
            version = 0
            if cursor.fetchone() == (True,):
                cursor.execute("select version from wal_tracker_state.schema_version")
                (version,) = cursor.fetchone()
            self._check_version(self._where, version)
            if version < SCHEMA_VERSION:
                cursor.execute(read_script("postgres.sql"))
        with self._cursor("preparing its schema") as cursor:
            cursor.execute("set search_path to wal_tracker_state, pg_catalog, pg_temp")
            # Durable when it ends, whatever the server's default says.
            cursor.execute("set synchronous_commit to on")
            cursor.execute("set statement_timeout to %s", (STATEMENT_TIMEOUT_S * 1000,))

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except psycopg2.Error as error:
            # Not the whole text: its DETAIL may quote the row, and the row may be a dead letter.
            reason = error.diag.message_primary or str(error).strip() or "the connection is closed"
            raise StateError(f"state store {self._where}, {doing}: {reason}; {_remedy(error)}") from error

    @contextmanager
    def _cursor(self, doing: str) -> Iterator[Any]:
        """A cursor inside one transaction, alone on the connection."""
        with self._lock, self._translated(doing), self._connection, self._connection.cursor() as cursor:
            yield cursor

    @contextmanager
    def _transaction(self, *, writes: bool = True) -> Iterator[Execute]:  # noqa: ARG002 - reading locks nobody out here
        with self._cursor("reading or writing it") as cursor:

            def execute(
                statement: str, values: Mapping[str, Any], chosen: tuple[str, ...] = ()
            ) -> list[tuple[Any, ...]]:
                cursor.execute(_statement(statement, chosen), values)
                return cursor.fetchall() if cursor.description is not None else []

            yield execute

    def _glob(self, pattern: str) -> str:
        """
        As a regular expression.

        See: https://www.postgresql.org/docs/current/functions-matching.html#POSIX-SYNTAX-DETAILS
        """
        expression = ""
        for part in re.findall(r"\[!?\]?[^]]*\]|.", pattern, re.DOTALL):
            if len(part) > 1:
                expression += part.replace("\\", r"\\").replace("[!", "[^", 1)
            elif part in "*?":
                expression += ".*" if part == "*" else "."
            else:
                expression += part if part.isalnum() else rf"\U{ord(part):08x}"
        return f"^{expression}$"

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See `StateStore`."""
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while not self._ask("select pg_try_advisory_lock(%s, %s)", LOCK_KEY):
            if time.monotonic() > deadline:
                raise StateError(
                    f"the state store {self._where} is held by {self._holder() or 'another process'}; one "
                    "`wal_tracker run` at a time may use it. Stop that one, or give this one another database for "
                    "`state`, and another slot"
                )
            time.sleep(0.05)
        try:
            yield
        finally:
            # A connection that is gone has let go already.
            if not self._connection.closed:
                self._ask("select pg_advisory_unlock(%s, %s)", LOCK_KEY)

    def is_held(self) -> bool:
        """See `StateStore`."""
        return self._holder() is not None

    def _holder(self) -> str | None:
        with self._cursor("asking who holds it") as cursor:
            cursor.execute(_HOLDER, LOCK_KEY)
            row = cursor.fetchone()
        return None if row is None else f"backend {row[0]}, connected from {row[1]} ({row[2]})"

    def _ask(self, statement: str, values: tuple[int, ...]) -> bool:
        with self._cursor("locking it") as cursor:
            cursor.execute(statement, values)
            return bool(cursor.fetchone()[0])

    def close(self) -> None:
        """See `StateStore`."""
        with self._lock:
            self._connection.close()


def described(url: str) -> str:
    """The URL for people: without password."""
    try:
        parts = psycopg2.extensions.parse_dsn(url)
    except psycopg2.ProgrammingError:
        # The message would repeat the URL.
        raise StateError(
            "the `state` URL is not a PostgreSQL connection string; write postgresql://user@host:5432/database"
        ) from None
    host, port = parts.get("host", "localhost"), parts.get("port", "5432")
    return f"postgresql://{host}:{port}/{parts.get('dbname', parts.get('user', ''))}"


def _remedy(error: psycopg2.Error) -> str:
    if isinstance(error, psycopg2.errors.InsufficientPrivilege):
        return "grant CREATE on the database, or have the owner run sql/state/postgres.sql and grant what it makes"
    if isinstance(error, psycopg2.errors.ReadOnlySqlTransaction):
        return "it must be a primary; a read replica cannot keep state"
    return "nothing is confirmed without it; start again when it can be reached"
