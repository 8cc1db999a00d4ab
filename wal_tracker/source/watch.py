"""
What the WAL does not say of tracked tables: that one was dropped, is not published, or has columns that are not.

A table that changes shows itself by its next row. One that is gone, or was made again and is not published, would only
be silent: so the catalog is asked now and then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping

from wal_tracker.source.connection import Session, read_sql

logger = logging.getLogger("wal_tracker.source")

WATCH_INTERVAL_S = 30.0

TableName = tuple[str, str]


class TableWatch:
    """Says, once, what is wrong with tracked tables; and once more when that has changed. One thread."""

    def __init__(
        self,
        tables: Collection[TableName],
        publication: str | None,
        hidden: Mapping[TableName, Collection[str]],
        *,
        interval_s: float = WATCH_INTERVAL_S,
    ) -> None:
        """
        Args:
            tables: Schema and name of the tables that rules or raw destinations are about.
            publication: What publishes them; None with a plugin that needs none.
            hidden: Columns that are not published on purpose.
            interval_s: How long an answer holds.
        """
        self._tables = sorted(tables)
        self._publication = publication
        self._hidden = hidden
        self._interval_s = interval_s
        self._next = 0.0
        self._told: dict[TableName, str] = {}

    def look(self, session: Session) -> None:
        """
        Ask the catalog, if it is time.

        Raises:
            SourceError: The server cannot be asked.
        """
        now = time.monotonic()
        if now < self._next or not self._tables:
            return
        self._next = now + self._interval_s
        found = session.rows(
            read_sql("queries/watched_tables.sql"),
            {
                "schemas": [schema for schema, _ in self._tables],
                "tables": [table for _, table in self._tables],
                "publication": self._publication,
            },
            doing="looking after the tracked tables",
        )
        for schema, table, is_there, is_published, unpublished in found:
            columns = [name for name in unpublished if name not in self._hidden.get((schema, table), ())]
            problem = table_problem(
                is_there=is_there, is_published=is_published or self._publication is None, unpublished=columns
            )
            if problem and self._told.get((schema, table)) != problem:
                logger.warning(
                    "a tracked table gives no changes, or not all of them",
                    extra={"table": f"{schema}.{table}", "reason": problem},
                )
            self._told[schema, table] = problem


def table_problem(*, is_there: bool, is_published: bool, unpublished: Collection[str]) -> str:
    """What keeps a tracked table's changes from us, and the remedy; empty: nothing. Pure."""
    if not is_there:
        return (
            "there is no table of this name now: its rules match nothing. If it was renamed, write the new name into "
            "the configuration; if it is made again, `wal_tracker apply` publishes it"
        )
    if not is_published:
        return "it is not published (it was made again, or taken out): `wal_tracker apply` publishes it"
    if unpublished:
        return f"columns are not published: {', '.join(unpublished)}; `wal_tracker apply` adds them"
    return ""
