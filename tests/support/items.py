"""
The workload the fault tests judge by: concurrent writers over one table, and what must come of it.

Every committed change of a row raises its ``version`` by one, so that a lost, repeated or reordered change shows in
the sequence of versions; rows of aborted transactions and savepoints carry a note that must never be seen.
"""

from __future__ import annotations

import copy
import random
import threading
from typing import Any

import psycopg2

from tests.support.postgres import Database

SCHEMA = "create table items (id bigint primary key, version int not null, note text not null, big text)"
ABORTED = "this was rolled back"
_MAX_ALIVE = 200

CONFIG_RULES: dict[str, Any] = {
    "items.insert": {
        "event": "item_made",
        "properties": {"id": "new.id", "version": "new.version", "note": "new.note"},
    },
    "items.update": {
        "event": "item_changed",
        "properties": {"id": "new.id", "version": "new.version", "note": "new.note"},
    },
    "items.delete": {"event": "item_gone", "properties": {"id": "old.id"}},
}


def config(database: Database, **more: Any) -> dict[str, Any]:
    """A configuration over this workload that writes ``events.jsonl``."""
    return {
        "source": {"dsn": database.dsn, "slot": f"wt_{database.name}", "publication": "wal_tracker"},
        "track": copy.deepcopy(CONFIG_RULES),
        "destinations": {"file": {"path": "events.jsonl"}},
        **more,
    }


class Writers:
    """Threads that write until stopped: short transactions, long overlapping ones, savepoints, rollbacks."""

    def __init__(self, database: Database, *, threads: int = 4, seed: int = 1) -> None:
        self._database = database
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(number, random.Random(seed * 1000 + number)), daemon=True)
            for number in range(threads)
        ]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every writer finish its transaction."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        if self._errors:
            raise self._errors[0]

    def _guarded(self, number: int, chance: random.Random) -> None:
        try:
            self._write(number, chance)
        except BaseException as error:  # noqa: BLE001 - raised again by stop()
            self._errors.append(error)

    def _write(self, number: int, chance: random.Random) -> None:
        # Each thread has rows of its own, so that its order of commits is the rows' order of changes.
        connection = psycopg2.connect(self._database.dsn)
        cursor = connection.cursor()
        next_id, alive = number * 1_000_000, dict[int, int]()
        while not self._stop.is_set():
            before = dict(alive)
            length = 40 if number == 0 else chance.randint(1, 5)
            for _ in range(length):
                kind = chance.random()
                if (kind < 0.4 and len(alive) < _MAX_ALIVE) or not alive:
                    next_id += 1
                    cursor.execute(
                        "insert into items values (%s, 1, 'made', %s)", (next_id, "x" * chance.choice((3, 3000)))
                    )
                    alive[next_id] = 1
                elif kind < 0.85:
                    row = chance.choice(list(alive))
                    alive[row] += 1
                    cursor.execute("update items set version = %s, note = 'changed' where id = %s", (alive[row], row))
                elif kind < 0.92:
                    row = chance.choice(list(alive))
                    del alive[row]
                    cursor.execute("delete from items where id = %s", (row,))
                else:
                    next_id += 1
                    cursor.execute("savepoint s")
                    cursor.execute("insert into items values (%s, 1, %s)", (next_id, ABORTED))
                    cursor.execute("rollback to savepoint s")
            # Concurrent and overlapping, not as many as can be: what is under test needs the CPUs, too.
            self._stop.wait(0.05 if number == 0 else 0.004)
            if chance.random() < 0.15:
                cursor.execute("update items set note = %s where id = any(%s)", (ABORTED, list(alive)[-20:]))
                connection.rollback()
                alive = before
            else:
                connection.commit()
        connection.close()


def judge(database: Database, events: list[dict[str, Any]], *, duplicates: bool = False) -> None:
    """
    Hold the delivered events against the table.

    Args:
        database: Where the workload ran; nothing writes any more, and everything committed has been delivered.
        events: In the order of delivery.
        duplicates: Whether an event may have come again (it is then counted once, where it first came).
    """
    ids = [event["id"] for event in events]
    if not duplicates:
        assert len(ids) == len(set(ids)), "an event came twice"
    seen: set[str] = set()
    rows: dict[int, int] = {}
    for event in events:
        if event["id"] in seen:
            continue
        seen.add(event["id"])
        properties = event["properties"]
        row = properties["id"]
        assert properties.get("note") != ABORTED, "an aborted change was delivered"
        if event["event"] == "item_made":
            assert row not in rows and properties["version"] == 1
            rows[row] = 1
        elif event["event"] == "item_changed":
            assert properties["version"] == rows[row] + 1, "a change is missing, or came out of order"
            rows[row] += 1
        else:
            del rows[row]
    assert rows == dict(database.sql("select id, version from items")), "the events do not add up to the table"
