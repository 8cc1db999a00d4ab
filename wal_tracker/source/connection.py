"""
Ordinary connections to PostgreSQL, and what its errors mean to us.

Every connection here is asynchronous in psycopg2's sense and waited for with a deadline: a network that swallows
packets cannot hang us, and Ctrl-C works in the middle of a statement. psycopg2's exceptions stop in this room.
"""

from __future__ import annotations

import contextlib
import re
import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Union

import psycopg2
import psycopg2.extensions
import psycopg2.extras
from psycopg2 import sql

from wal_tracker.errors import (
    ConfigError,
    PublicationNotFound,
    SlotInUse,
    SlotLost,
    SlotNotFound,
    SourceError,
    SourceRefused,
    SourceUnavailable,
    WalTrackerError,
)
from wal_tracker.secret import Secret

Statement = Union[str, sql.Composable]
Values = Union[Mapping[str, Any], Sequence[Any], None]

CONNECT_TIMEOUT_S = 10.0
STATEMENT_TIMEOUT_S = 30.0

# The server ends the statement by itself first; this much later we no longer believe in the server.
_GRACE_S = 5.0

_LIBPQ_DEFAULTS: Mapping[str, str] = {
    # A peer that went without a word is found by the kernel: idle lines by keep-alives (30 + 3 * 10 s), lines with
    # something under way by tcp_user_timeout. What stands in the connection string wins.
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "client_encoding": "UTF8",
    "application_name": "wal_tracker",
}

_SECRET_PARAMETERS = frozenset({"password", "sslpassword", "oauth_client_secret"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """What this room needs to know of the configuration."""

    dsn: Secret
    slot: str = "wal_tracker"
    publication: str = "wal_tracker"
    plugin: str = "pgoutput"
    primary_dsn: Secret | None = None
    """The primary, when `dsn` is a standby."""
    temporary: bool = False
    """Make a slot of this name on the replication connection itself; it vanishes with it (`tail`)."""


def parse_dsn(dsn: str) -> dict[str, str]:
    """
    The parameters of a connection string, in either of libpq's two forms.

    Raises:
        ConfigError: It is neither. The message does not repeat it: it may hold a password.
    """
    text = dsn.reveal() if isinstance(dsn, Secret) else dsn
    try:
        parsed: dict[str, str] = psycopg2.extensions.parse_dsn(text)
    except psycopg2.ProgrammingError:
        raise ConfigError(
            "not a PostgreSQL connection string; write postgresql://user@host:5432/database or "
            "host=… port=… user=… dbname=…",
            path="source.dsn",
        ) from None
    return parsed


def describe_dsn(dsn: str) -> str:
    """A connection string for people: everything of it that is not a secret."""
    shown = {name: value for name, value in parse_dsn(dsn).items() if name not in _SECRET_PARAMETERS}
    return psycopg2.extensions.make_dsn(**shown) or "(libpq defaults)"


# Errors ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of the table that says what a PostgreSQL error means."""

    sqlstate: str
    """How the SQLSTATE begins; empty: any, also none (libpq's own errors have none)."""
    says: str
    """A regular expression the message must match somewhere; empty: any."""
    means: type[SourceError]
    remedy: str = ""


OUTPUT_PLUGIN_REMEDY = (
    "as a superuser run: alter system set output_plugin_libraries = pgoutput, test_decoding, wal2json; "
    "then: select pg_reload_conf(); (the setting replaces its default, so the defaults are repeated)"
)

VERDICTS: tuple[Verdict, ...] = (
    # The slot's WAL is gone. 18 says the first, 14 to 17 the next two; a missing segment is found only while decoding.
    Verdict("55000", r"can no longer access replication slot", SlotLost),
    Verdict("55000", r"cannot read from logical replication slot", SlotLost),
    Verdict("55000", r"can no longer get changes from replication slot", SlotLost),
    Verdict("", r"requested WAL segment \S+ has already been removed", SlotLost),
    # What we ask for is there, but not for us.
    Verdict("", r"may not be used as an output plugin", SourceRefused, OUTPUT_PLUGIN_REMEDY),
    Verdict("55000", r"is being synchronized from the primary", SourceRefused, "read the slot on the primary"),
    Verdict(
        "55000",
        r"wal_level",
        SourceRefused,
        "as a superuser run: alter system set wal_level = logical; then restart the server",
    ),
    Verdict("55006", r"", SlotInUse),
    Verdict("42704", r"publication", PublicationNotFound),
    Verdict("42704", r"replication slot", SlotNotFound),
    Verdict("58P01", r"could not access file", SourceRefused, "install the output plugin on the server"),
    Verdict("53400", r"", SourceRefused, "raise max_replication_slots (or drop a slot nobody reads) and restart"),
    # Ended, interrupted, or not up yet: come back. 57P01 may also mean that the slot was invalidated: whoever comes
    # back looks at the slot first. 40001 and 40P01 end a statement on a standby in recovery.
    Verdict("57P04", r"", SourceRefused, "the database was dropped"),
    Verdict("57", r"", SourceUnavailable),
    Verdict("08P01", r"", SourceRefused, "connect to PostgreSQL itself: poolers do not pass replication connections"),
    Verdict("08", r"", SourceUnavailable),
    Verdict("40", r"", SourceUnavailable),
    Verdict("53", r"", SourceUnavailable),
    Verdict("55P03", r"", SourceUnavailable),
    Verdict("58030", r"", SourceUnavailable),
    Verdict("25006", r"", SourceRefused, "this server is a standby; give its primary in source.primary_dsn"),
    Verdict("42501", r"replication|walsender|WAL sender", SourceRefused, "alter role … replication"),
    Verdict("42501", r"", SourceRefused),
    Verdict("28", r"", SourceRefused),
    Verdict("3D000", r"", SourceRefused),
    Verdict("0A000", r"", SourceRefused),
    Verdict("22", r"", SourceRefused),
    Verdict("42", r"", SourceRefused),
    Verdict("55000", r"", SourceRefused),
    # While a connection is being made libpq gives no SQLSTATE, only the server's words.
    Verdict(
        "",
        r"unsupported startup parameter|replication connections? .*not (?:supported|allowed)",
        SourceRefused,
        "connect to PostgreSQL itself: poolers do not pass replication connections",
    ),
    Verdict("", r"password authentication failed|no password supplied|authentication failed", SourceRefused),
    Verdict("", r"no pg_hba\.conf entry|pg_hba\.conf rejects", SourceRefused, "allow this client in pg_hba.conf"),
    Verdict("", r"(?:role|database) \".*\" does not exist|is not permitted to log in", SourceRefused),
    Verdict("", r"must be superuser or replication role|permission denied to start WAL sender",
            SourceRefused, "alter role … replication"),
    Verdict("", r"permission denied for database|not currently accepting connections", SourceRefused),
    Verdict("", r"certificate|does not support SSL|sslmode|channel binding", SourceRefused),
    Verdict("", r"invalid (?:connection option|port number|sslmode value)|extra key/value", SourceRefused),
    # Everything else without a SQLSTATE is a line that broke: "server closed the connection unexpectedly", "could not
    # connect to server", "error with status PGRES_COPY_BOTH", "no COPY in progress", "connection already closed".
)  # fmt: skip


def classify(
    sqlstate: str | None, message: str, *, doing: str, slot: str = "", publication: str = ""
) -> WalTrackerError:
    """
    What a PostgreSQL error means to us, by `VERDICTS`. Pure.

    Args:
        sqlstate: As the server gave it; None for libpq's own errors.
        message: The message with detail and hint, as the vendor has it.
        doing: What we were at, as ``reading slot 'x'``; stands in front of the message.
        slot: Names the slot in slot errors.
        publication: Names the publication in publication errors.
    """
    code = sqlstate or ""
    text = " ".join(message.split())
    for verdict in VERDICTS:
        if code.startswith(verdict.sqlstate) and re.search(verdict.says, text):
            means, remedy = verdict.means, verdict.remedy
            break
    else:
        means, remedy = (SourceError if code else SourceUnavailable), ""
    if means is SlotLost:
        return SlotLost(slot=slot, reason=text)
    if means is SlotInUse:
        return SlotInUse(slot=slot, detail=text)
    if means is SlotNotFound:
        return SlotNotFound(slot=slot)
    if means is PublicationNotFound:
        return PublicationNotFound(publication=publication, detail=text)
    sentence = f"{doing}: {text or 'the connection broke'}"
    return means(f"{sentence}; {remedy}" if remedy else sentence)


@contextlib.contextmanager
def source_errors(doing: str, *, slot: str = "", publication: str = "") -> Iterator[None]:
    """Turn psycopg2's exceptions into ours, by `classify`; the original stays as the cause."""
    try:
        yield
    except psycopg2.Error as error:
        raise classify(error.pgcode, str(error), doing=doing, slot=slot, publication=publication) from error


# Connections -------------------------------------------------------------------------------------


def open_connection(
    dsn: str, *, replication: bool = False, options: str = "", timeout_s: float = CONNECT_TIMEOUT_S
) -> Any:
    """
    A new psycopg2 connection in asynchronous mode, ready for use.

    Args:
        dsn: The connection string.
        replication: Open a logical replication connection.
        options: Server settings of the session, as ``-c name=value``; added to those of the connection string.
        timeout_s: Give up after.

    Raises:
        ConfigError: `dsn` is not a connection string.
        SourceError: What `classify` makes of the failure.
    """
    parameters = {**_LIBPQ_DEFAULTS, **parse_dsn(dsn)}
    if options:
        parameters["options"] = " ".join(filter(None, (parameters.get("options"), options)))
    doing = f"connecting to {describe_dsn(dsn)}"
    factory = psycopg2.extras.LogicalReplicationConnection if replication else None
    connection: Any = None
    with source_errors(doing):
        try:
            connection = psycopg2.connect(connection_factory=factory, async_=True, **parameters)
            wait(connection, doing=doing, timeout_s=timeout_s)
        except BaseException:
            if connection is not None:
                connection.close()
            raise
    return connection


def wait(
    connection: Any,
    *,
    doing: str,
    timeout_s: float,
    while_waiting: Callable[[], None] | None = None,
    every_s: float = 0.2,
) -> None:
    """
    Wait for an asynchronous psycopg2 connection to finish what it is at.

    Args:
        connection: The connection.
        doing: For the message.
        timeout_s: Give up after.
        while_waiting: Called about every `every_s` seconds.
        every_s: See `while_waiting`.

    Raises:
        SourceUnavailable: No end within `timeout_s`.
        psycopg2.Error: What the server answered; for `source_errors` around the call.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        state = connection.poll()
        if state == psycopg2.extensions.POLL_OK:
            return
        left = deadline - time.monotonic()
        if left <= 0:
            raise SourceUnavailable(f"{doing}: no answer within {timeout_s:g} s")
        # poll() and not select(), which cannot take descriptors above 1023.
        poller = select.poll()
        poller.register(
            connection.fileno(), select.POLLIN if state == psycopg2.extensions.POLL_READ else select.POLLOUT
        )
        ready = poller.poll(1000 * (min(left, every_s) if while_waiting else left))
        if not ready and while_waiting is not None:
            while_waiting()


_JSON_AS_TEXT = psycopg2.extensions.new_type((114,), "json as text", lambda text, _cursor: text)

# A pooler in transaction mode would hand the setting on to whoever has the server's connection next.
_SET_TIMEOUT = "select set_config('statement_timeout', %s, false) where pg_backend_pid() = %s"


class Session:
    """
    An ordinary connection: every statement commits by itself and ends within a time, and errors are ours.

    One thread. Usable as a context manager.
    """

    def __init__(self, dsn: str, *, timeout_s: float = STATEMENT_TIMEOUT_S, json_as_text: bool = False) -> None:
        """
        Connect.

        Args:
            dsn: The connection string.
            timeout_s: What a statement may take at most, if the call does not say otherwise.
            json_as_text: Give columns of type json as they came.

        Raises:
            ConfigError: `dsn` is not a connection string.
            SourceError: What `classify` makes of the failure.
        """
        self._connection = open_connection(dsn)
        if json_as_text:
            psycopg2.extensions.register_type(_JSON_AS_TEXT, self._connection)
        self._timeout_s = timeout_s
        self._server_timeout_s = 0.0

    @property
    def server_version(self) -> int:
        """As ``server_version_num``: 180006 is 18.6."""
        version: int = self._connection.server_version
        return version

    @property
    def backend_pid(self) -> int:
        """The server's process as it was told on connecting; behind a pooler another one than pg_backend_pid()."""
        pid: int = self._connection.info.backend_pid
        return pid

    def wait_for_notice(self, timeout_s: float) -> bool:
        """
        Wait until the server says something nobody asked it for, such as a notification, and take that in.

        Raises:
            SourceError: It said that the connection ends.
        """
        connection = self._connection
        with source_errors("waiting for the server"):
            if not connection.notifies:
                poller = select.poll()
                poller.register(connection.fileno(), select.POLLIN)
                if not poller.poll(timeout_s * 1000):
                    return False
                connection.poll()
            connection.notifies.clear()
        return True

    @property
    def descriptor(self) -> int:
        """The socket; readable while no statement runs means that the server has something to say."""
        descriptor: int = self._connection.fileno()
        return descriptor

    def rows(
        self,
        statement: Statement,
        values: Values = None,
        *,
        doing: str = "asking the server",
        slot: str = "",
        publication: str = "",
        timeout_s: float | None = None,
        while_waiting: Callable[[], None] | None = None,
    ) -> list[tuple[Any, ...]]:
        """
        Run one statement; its rows, none for a command.

        Raises:
            SourceError: What `classify` makes of the answer, or of its staying away.
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        with source_errors(doing, slot=slot, publication=publication):
            cursor = self._connection.cursor()
            try:
                if limit_s != self._server_timeout_s:
                    cursor.execute(_SET_TIMEOUT, (str(int(limit_s * 1000)), self.backend_pid))
                    wait(self._connection, doing=doing, timeout_s=_GRACE_S)
                    self._server_timeout_s = limit_s
                cursor.execute(statement, values)
                wait(
                    self._connection,
                    doing=doing,
                    timeout_s=limit_s + (_GRACE_S if while_waiting or limit_s > _GRACE_S else 0),
                    while_waiting=while_waiting,
                )
                return cursor.fetchall() if cursor.description else []
            except BaseException as error:
                # An unanswered statement: this connection can no longer be used.
                if not isinstance(error, psycopg2.Error):
                    self.close()
                raise
            finally:
                if not self._connection.closed:
                    cursor.close()

    def run(self, statement: Statement, values: Values = None, *, doing: str = "changing the database") -> None:
        """
        Run one statement for its effect.

        Raises:
            SourceError: What `classify` makes of the answer, or of its staying away.
        """
        self.rows(statement, values, doing=doing)

    def close(self) -> None:
        """Disconnect. Idempotent."""
        self._connection.close()

    def as_string(self, statement: Statement) -> str:
        """The statement as text, for people."""
        return statement if isinstance(statement, str) else statement.as_string(self._connection)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@cache
def read_sql(name: str) -> str:
    """
    The text of a file below sql/, without its header comment.

    Args:
        name: Such as ``queries/slot_status.sql``.
    """
    text = resources.files("wal_tracker.sql").joinpath(*name.split("/")).read_text(encoding="utf-8")
    lines = text.splitlines()
    while lines and (lines[0].startswith("--") or not lines[0].strip()):
        del lines[0]
    return "\n".join(lines).strip()
