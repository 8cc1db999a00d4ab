"""
Seeded workloads, the server they are written to, and the rules that make one event of every row.

The table has eleven columns (int8 key, three text, two timestamptz, jsonb, numeric, bool, uuid, int4), a row of it
is about 270 bytes of pgoutput. Half of the changes are inserts, half updates of these rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from wal_tracker.demo.server import Binaries, EmbeddedPostgres

Payload = tuple[bytes, int]
"""One message of the output plugin, and its LSN."""

SCHEMA = Path(__file__).with_name("workload.sql")

PUBLICATION = "benchmark"

SERVER_SETTINGS: Mapping[str, str | int] = {
    # No checkpoint and no vacuum in the middle of a measurement.
    "shared_buffers": "256MB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "wal_sender_timeout": "60s",
}


@dataclass(frozen=True, slots=True)
class Workload:
    """Transactions of one shape. The same seed writes the same rows."""

    name: str
    transactions: int
    fewest_rows: int
    most_rows: int
    seed: int


SMALL = Workload("many small transactions", 50_000, 3, 5, seed=1)
LARGE = Workload("few large transactions", 4, 50_000, 50_000, seed=2)
HUGE = Workload("one transaction of 1,000,000 rows", 1, 1_000_000, 1_000_000, seed=3)
OFFLINE = Workload("decoded offline", 20_000, 3, 5, seed=4)
FEWER = Workload("decoded offline, slowly", 2_000, 3, 5, seed=4)

TRACK = """
  orders.insert:
    event: order_placed
    properties:
      id: new.id
      user_id: new.customer
      amount: new.amount
      quantity: new.quantity
      placed_at: new.placed_at
  orders.update:
    cond: "new.status == 'paid' ? events.order_paid : events.order_changed"
    order_paid: {id: new.id, user_id: new.customer, amount: new.amount, status: new.status, at: new.updated_at}
    order_changed: {id: new.id, user_id: new.customer, amount: new.amount, status: new.status, at: new.updated_at}
"""
"""Every row makes one event with five properties and a distinct_id; updates choose theirs by a condition."""


class Server:
    """A throw-away PostgreSQL with the table and the publication in it."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.postgres = server
        self.connection = psycopg2.connect(server.dsn())
        self.connection.autocommit = True
        with self.connection.cursor() as cursor:
            cursor.execute(SCHEMA.read_text())

    def one(self, statement: str, *values: Any) -> Any:
        """The first column of the first row; None for a command."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None

    @property
    def version(self) -> str:
        """Such as 18.6."""
        return str(self.one("show server_version"))

    def dsn(self) -> str:
        """How to reach it."""
        return self.postgres.dsn()

    def write(self, workload: Workload, slot: str, plugin: str = "pgoutput") -> int:
        """Make `slot`, write `workload` behind it, and say how many rows it changed."""
        self.one("truncate orders")
        self.one("select pg_create_logical_replication_slot(%s, %s)", slot, plugin)
        if workload.transactions == 1:
            half = workload.most_rows // 2
            self.connection.autocommit = False
            self.one("select insert_orders(1, %s, %s)", half, workload.seed)
            self.one("select update_orders(1, %s, %s)", half, workload.seed)
            self.connection.commit()
            self.connection.autocommit = True
            return 2 * half
        self.one(
            "call write_orders(%s, %s, %s, %s)",
            workload.transactions,
            workload.fewest_rows,
            workload.most_rows,
            workload.seed,
        )
        # Every row was written twice.
        return 2 * int(self.one("select count(*) from orders"))

    def copy_slot(self, slot: str, copy: str) -> None:
        """A slot that begins where `slot` does, so that every reader of a copy reads the same WAL."""
        self.one("select pg_copy_logical_replication_slot(%s, %s)", slot, copy)

    def drop_slot(self, slot: str) -> None:
        """Drop `slot` once its reader is gone."""
        deadline = time.monotonic() + 30
        while self.one("select active from pg_replication_slots where slot_name = %s", slot):
            if time.monotonic() > deadline:
                raise TimeoutError(f"slot {slot} is still being read")
            time.sleep(0.01)
        self.one("select pg_drop_replication_slot(%s)", slot)

    def payloads(self, slot: str, options: Mapping[str, str]) -> list[Payload]:
        """What the slot's plugin writes for everything behind it, with LSNs; the slot stays where it is."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                "select data, lsn - '0/0' from pg_logical_slot_peek_binary_changes(%s, null, null, variadic %s)",
                (slot, [text for option in options.items() for text in option]),
            )
            return [(bytes(data), int(lsn)) for data, lsn in cursor]


@contextmanager
def server(binaries: Binaries | None = None, settings: Mapping[str, str | int] = {}) -> Iterator[Server]:
    """A server for one benchmark; gone afterwards."""
    with EmbeddedPostgres(binaries=binaries, settings={**SERVER_SETTINGS, **settings}) as postgres:
        started = Server(postgres)
        try:
            yield started
        finally:
            started.connection.close()
