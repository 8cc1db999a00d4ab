"""A consumer for tests: reads a slot with the real source and decoder, and waits for facts in what it read."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.support.postgres import Database
from wal_tracker.decode.base import OpColumns, Wanted
from wal_tracker.decode.pgoutput import PgOutput
from wal_tracker.lsn import LSN
from wal_tracker.model import ROW_OPS, Change, Commit, Item, Relation
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.secret import Secret
from wal_tracker.source.connection import SourceSettings
from wal_tracker.source.replication import ReplicationSource


def everything(relation: Relation) -> Wanted:
    """Wants every column of every row."""
    names = frozenset(column.name for column in relation.columns)
    return {op: OpColumns(new=names, old=names) for op in ROW_OPS}


def settings_for(database: Database, **changed: object) -> SourceSettings:
    """Slot and publication named after the database."""
    values = {"dsn": database.dsn, "slot": database.name, "publication": "p", **changed}
    values["dsn"] = Secret(values["dsn"])
    return SourceSettings(**values)  # type: ignore[arg-type]


def prepare(database: Database, statement: str = "create table t (id int primary key, who text)") -> str:
    """A published table and a slot; the slot's name."""
    database.sql(statement)
    database.sql("create publication p for all tables")
    return database.create_slot(database.name)


class Consumer:
    """A source under a test's hand. Use as a context manager."""

    def __init__(self, settings: SourceSettings, source: type[ReplicationSource] = ReplicationSource) -> None:
        self.settings = settings
        self.source = source(settings, PgOutput(everything, TypeCatalog()))
        self.items: list[Item] = []

    def __enter__(self) -> Consumer:
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()

    def read_until(self, fact: Callable[[], object], *, timeout_s: float = 20.0) -> None:
        """Read until a fact holds."""
        deadline = time.monotonic() + timeout_s
        while not fact():
            assert time.monotonic() < deadline, f"not true within {timeout_s} s; read {len(self.items)} items"
            self.items += self.source.read(0.1)

    def read_transactions(self, count: int) -> None:
        """Read until so many transactions have been read to their end."""
        self.read_until(lambda: len(self.commits) >= count)

    @property
    def commits(self) -> list[LSN]:
        """The end of every transaction read so far."""
        return [item.transaction.end_lsn for item in self.items if isinstance(item, Commit)]

    @property
    def rows(self) -> list[object]:
        """The ``id`` of every row inserted so far."""
        return [item.new["id"] for item in self.items if isinstance(item, Change) and item.new is not None]


def confirmed(database: Database, slot: str = "") -> LSN:
    """The slot's confirmed_flush_lsn."""
    ((text,),) = database.sql(
        "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s", slot or database.name
    )
    return LSN.parse(text)
