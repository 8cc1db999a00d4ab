"""
What PostgreSQL's errors mean to a destination, by SQLSTATE.

See: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

import re

import psycopg2.errorcodes

from wal_tracker.destinations.base import BatchRefused
from wal_tracker.errors import DestinationRefusedUs, DestinationUnavailable

# How SQLSTATEs begin that pass: the line, a lack of memory, disk or connections, a lock, a deadlock, a server that
# goes down or comes up, an I/O error, a time-out. 25006: a standby, and after a failover the next connection may reach
# the primary.
_PASSES = ("08", "40001", "40P01", "53", "55P03", "57", "58030", "25006", "25P03", "25P04")
# Those that speak of a row: its values, a constraint, a limit, a trigger that raises.
_ABOUT_THE_EVENTS = ("22", "23", "54", "P0001")
# These name things of the database, not what is in them, so their words may be repeated.
_SHOWN = ("28", "3D", "3F", "42", "25", "53", "55", "57")

# While a connection is being made libpq gives no SQLSTATE, only the server's words. All else it says then passes.
_NOT_FOR_US = re.compile(
    r"authentication failed|no password supplied|pg_hba\.conf|(?:role|database) \".*\" does not exist"
    r"|not permitted to log in|permission denied|not currently accepting|certificate|does not support SSL"
    r"|channel binding|invalid (?:connection option|port|sslmode)"
)


def verdict(destination: str, where: str, error: Exception) -> Exception:
    """
    The exception to raise for an error; its text quotes no row.

    Args:
        destination: Its name.
        where: The server, for people.
        error: psycopg2's, or an OSError.
    """
    code = getattr(error, "pgcode", None) or ""
    if not code:
        text = " ".join(str(error).split()) or "the connection is closed"
        if _NOT_FOR_US.search(text):
            return DestinationRefusedUs(destination, f"{where}: {text}; check the dsn and what it may do there")
        return DestinationUnavailable(destination, f"{where}: {text}")
    diagnosis = error.diag  # type: ignore[attr-defined]
    said = _named(code)
    if code.startswith(_ABOUT_THE_EVENTS):
        names = {"constraint": diagnosis.constraint_name, "column": diagnosis.column_name}
        named = [f"{kind} {name}" for kind, name in names.items() if name]
        return BatchRefused(f"PostgreSQL refuses it: {', '.join([said, *named])}")
    if code.startswith(_SHOWN):
        said += f": {diagnosis.message_primary}"
    if code.startswith(_PASSES):
        if code == "25006":
            said += "; if it stays so, dsn names a standby: name the primary"
        return DestinationUnavailable(destination, f"{where}: {said}")
    return DestinationRefusedUs(destination, f"{where}: {said}; {_remedy(code)}")


def _named(code: str) -> str:
    """An SQLSTATE with its name."""
    try:
        return f"{code} {psycopg2.errorcodes.lookup(code).lower()}"
    except KeyError:
        return code


def _remedy(code: str) -> str:
    if code == "42501":
        return "grant its role select and insert on the table, and select, insert and update on wal_tracker_position"
    if code.startswith("3F"):
        return "create the schema"
    if code.startswith("42"):
        return "the table must have the columns and the primary key of sql/table/create.sql"
    if code.startswith(("28", "3D")):
        return "check the dsn and what its role may do there"
    return "see the server's log"
