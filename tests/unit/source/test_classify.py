# ruff: noqa: E501 - messages stand as they were said
"""The table that says what a PostgreSQL error means; every message here was said by a real server or libpq."""

from __future__ import annotations

import psycopg2
import pytest

from wal_tracker.errors import (
    ConfigError,
    PublicationNotFound,
    SlotInUse,
    SlotLost,
    SlotNotFound,
    SourceError,
    SourceRefused,
    SourceUnavailable,
)
from wal_tracker.secret import Secret
from wal_tracker.source.connection import classify, describe_dsn, parse_dsn, source_errors

CASES: list[tuple[str | None, str, type[SourceError]]] = [
    # The slot's WAL is gone: 18, then 14 and 15, then 16 and 17.
    ("55000", 'can no longer access replication slot "s"\nDETAIL:  This replication slot has been invalidated due to "wal_removed".\n', SlotLost),
    ("55000", 'cannot read from logical replication slot "s"\nDETAIL:  This slot has been invalidated because it exceeded the maximum reserved size.\n', SlotLost),
    ("55000", 'can no longer get changes from replication slot "s"\nDETAIL:  This slot has been invalidated because it was conflicting with recovery.\n', SlotLost),
    ("58P01", "requested WAL segment 000000010000000000000003 has already been removed", SlotLost),
    # Names.
    ("42704", 'replication slot "s" does not exist\n', SlotNotFound),
    ("42704", 'publication "p" does not exist\nCONTEXT:  slot "s", output plugin "pgoutput", in the change callback', PublicationNotFound),
    ("55006", 'replication slot "s" is active for PID 4711\n', SlotInUse),
    # Refused until somebody mends it.
    ("42501", 'library "wal2json" may not be used as an output plugin\nHINT:  If it is safe for all REPLICATION users to use this library', SourceRefused),
    ("58P01", 'could not access file "wal2json": No such file or directory\n', SourceRefused),
    ("55000", "logical decoding requires wal_level >= logical\n", SourceRefused),
    ("55000", 'logical decoding requires "wal_level" >= "logical"\n', SourceRefused),
    ("55000", 'cannot use replication slot "s" for logical decoding\nDETAIL:  This replication slot is being synchronized from the primary server.', SourceRefused),
    ("55000", 'replication slot "s" was not created in this database\n', SourceRefused),
    ("42501", "permission denied to use replication slots", SourceRefused),
    ("42501", "permission denied for function pg_log_standby_snapshot", SourceRefused),
    ("53400", "all replication slots are in use\nHINT:  Free one or increase \"max_replication_slots\".", SourceRefused),
    ("22023", 'option "proto_version" = "1" is unknown', SourceRefused),
    ("25006", "cannot execute CREATE PUBLICATION in a read-only transaction", SourceRefused),
    ("28P01", 'password authentication failed for user "u"', SourceRefused),
    ("3D000", 'database "d" does not exist', SourceRefused),
    ("57P04", 'database "d" does not exist', SourceRefused),
    ("08P01", "unsupported startup parameter: replication", SourceRefused),
    # Come back.
    ("57P01", "terminating connection due to administrator command\n", SourceUnavailable),
    ("57P02", "terminating connection because of crash of another server process", SourceUnavailable),
    ("57P03", "the database system is starting up", SourceUnavailable),
    ("57014", "canceling statement due to statement timeout", SourceUnavailable),
    ("08006", "connection failure", SourceUnavailable),
    ("53300", "sorry, too many clients already", SourceUnavailable),
    ("40001", "canceling statement due to conflict with recovery", SourceUnavailable),
    # libpq's own words, and the server's while a connection is made: no SQLSTATE.
    (None, 'connection to server at "127.0.0.1", port 5432 failed: Connection refused', SourceUnavailable),
    (None, 'connection to server at "h" failed: FATAL:  the database system is starting up', SourceUnavailable),
    (None, 'could not translate host name "nowhere" to address: Name or service not known', SourceUnavailable),
    (None, "server closed the connection unexpectedly", SourceUnavailable),
    (None, "error with status PGRES_COPY_BOTH and no message from the libpq", SourceUnavailable),
    (None, "connection already closed", SourceUnavailable),
    (None, "", SourceUnavailable),
    (None, 'connection to server failed: FATAL:  password authentication failed for user "u"', SourceRefused),
    (None, 'connection to server failed: fe_sendauth: no password supplied', SourceRefused),
    (None, 'connection to server failed: FATAL:  database "nodb" does not exist', SourceRefused),
    (None, 'connection to server failed: FATAL:  role "nobody2" does not exist', SourceRefused),
    (None, 'connection failed: FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "u"', SourceRefused),
    (None, "connection failed: FATAL:  must be superuser or replication role to start walsender", SourceRefused),
    (None, "connection failed: FATAL:  permission denied to start WAL sender", SourceRefused),
    (None, "connection failed: SSL error: certificate verify failed", SourceRefused),
    (None, "connection failed: server does not support SSL, but SSL was required", SourceRefused),
    (None, "connection failed: FATAL:  unsupported startup parameter: replication", SourceRefused),
    # Nothing we know: not retried, not explained away.
    ("XX000", "unrecognized pgoutput option: bogus", SourceError),
]  # fmt: skip


@pytest.mark.parametrize(("sqlstate", "message", "means"), CASES)
def test_every_known_error_means_one_thing(sqlstate: str | None, message: str, means: type[SourceError]) -> None:
    """The class decides about retrying and the exit code; a mistake here is an outage or a crash loop."""
    error = classify(sqlstate, message, doing="reading slot 's'", slot="s", publication="p")
    assert type(error) is means


@pytest.mark.parametrize(("sqlstate", "message", "means"), CASES)
def test_no_reason_is_lost(sqlstate: str | None, message: str, means: type[SourceError]) -> None:
    """What the server said stands in our message, but for a missing slot, which says it all."""
    error = classify(sqlstate, message, doing="reading slot 's'", slot="s", publication="p")
    if means is not SlotNotFound:
        assert " ".join(message.split()) in str(error)


def test_a_refused_plugin_tells_the_statement_that_lets_it_in() -> None:
    """The list is written without quotes: quoted it would be one library with commas in its name."""
    error = classify("42501", 'library "wal2json" may not be used as an output plugin', doing="making slot 's'")
    assert "alter system set output_plugin_libraries = pgoutput, test_decoding, wal2json" in str(error)


def test_the_vendors_exception_is_the_cause() -> None:
    """Above this room nobody imports psycopg2; the original is still there to look at."""
    with pytest.raises(SourceUnavailable) as caught, source_errors("reading"):
        raise psycopg2.OperationalError("server closed the connection unexpectedly")
    assert isinstance(caught.value.__cause__, psycopg2.OperationalError)


@pytest.mark.parametrize(
    "dsn",
    [
        "host=db port=5432 user=u password=hunter2 dbname=d",
        "postgresql://u:hunter2@db:5432/d?sslpassword=hunter2",
        Secret("postgresql://u:hunter2@db/d"),
    ],
)
def test_a_connection_string_is_shown_without_its_password(dsn: str) -> None:
    """Everything else is shown."""
    shown = describe_dsn(dsn)
    assert "hunter2" not in shown
    assert "host=db" in shown
    assert "user=u" in shown


def test_a_connection_string_that_cannot_be_read_is_not_repeated() -> None:
    """It may be a password by mistake."""
    with pytest.raises(ConfigError) as caught:
        parse_dsn("hunter2 and more")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
