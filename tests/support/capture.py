"""Trigger mode under a test's hand: set up what captures, and look into the outbox."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.postgres import Database
from tests.support.replication import settings_for
from wal_tracker.source import setup
from wal_tracker.source.plan import Desired


def wanting(
    database: Database,
    *tables: str | tuple[str, str],
    ignored: Mapping[str | tuple[str, str], set[str]] = {},
    is_strict: bool = False,
    **settings: Any,
) -> Desired:
    """What a configuration of trigger mode with these tables (of schema public, or with theirs) would need."""

    def named(table: str | tuple[str, str]) -> tuple[str, str]:
        return ("public", table) if isinstance(table, str) else table

    return Desired(
        settings_for(database, **settings),
        tuple(sorted(map(named, tables))),
        {named(table): frozenset(columns) for table, columns in ignored.items()},
        mode="trigger",
        is_strict=is_strict,
    )


def capture(database: Database, *tables: str | tuple[str, str], **options: Any) -> Desired:
    """Set capture up for these tables; what was wanted."""
    wanted = wanting(database, *tables, **options)
    setup.apply(wanted)
    return wanted


def captured(database: Database, table: str | None = None) -> list[tuple[str, Any, Any]]:
    """Operation, old row and new row of everything captured so far (of one table), as it happened."""
    return database.sql(
        "select op, old, new from wal_tracker.outbox left join wal_tracker.tracked on id = outbox.relation "
        "where %s is null or table_name = %s order by lsn",
        table,
        table,
    )


def failures(database: Database) -> list[tuple[Any, ...]]:
    """Operation and SQLSTATE of every capture that failed."""
    return database.sql("select op, sqlstate from wal_tracker.capture_failure order by at, xid")
