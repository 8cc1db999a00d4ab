"""What a plugin author and an embedding program write, for mypy --strict: see test_typing.py. Never run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import ClassVar

from wal_tracker import Pipeline, changes, events
from wal_tracker.config.load import load
from wal_tracker.config.model import Config
from wal_tracker.destinations.base import BatchRefused, Limits, Mark, Receipt, Rejected, Retry
from wal_tracker.destinations.http import AddressGuard, HttpClient
from wal_tracker.embed import RowChange, Stream
from wal_tracker.errors import DestinationUnavailable
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable, Event
from wal_tracker.secret import Secret
from wal_tracker.testing import DestinationContract, MemoryDestination, Replayed, make_event, replay


class Courier:
    """A destination with everything the port allows."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Options: one required, one with a default, one a mapping."""

        token: Secret
        url: str = "https://example.com"
        headers: dict[str, Secret] = field(default_factory=dict)

    limits = Limits(max_batch_events=10, max_batch_bytes=1_000_000, linger_s=0.0)
    accepts_raw: ClassVar[bool] = True

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self._http = HttpClient(name, config.url, timeout_s=5, guard=AddressGuard(), secrets=[config.token.reveal()])

    def open(self, mark: Mark | None) -> Mark | None:
        return mark

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        if len(batch) > self.limits.max_batch_events:
            raise BatchRefused("too many")
        for event in batch:
            answer = self._http.post(event.to_json(), {"Idempotency-Key": event.id})
            if answer.status == 202:
                raise DestinationUnavailable(self.name, "not yet", retry_after_s=1.5)
        return Receipt({0: Rejected("never"), 1: Retry(2.0, "busy")}, mark={"sent": len(batch)})

    def close(self) -> None:
        self._http.close()


courier = Courier("mine", Courier.Config(token=Secret("x")))
receipt: Receipt = courier.deliver([make_event(1, commit_lsn=LSN(16))])


class TestCourier(DestinationContract):
    """The contract's suite is a class to subclass."""


def rules_of(path: Path) -> dict[str, tuple[str, ...]]:
    """A configuration is frozen dataclasses."""
    config: Config = load(path, {"DATABASE_URL": "postgresql://localhost/shop"})
    dsn: Secret = config.source.dsn
    assert repr(dsn) == "Secret(***)"
    return {rule.key: tuple(str(op) for op in rule.ops) for rule in config.rules}


def prices(path: Path) -> list[Decimal]:
    """A program that reads changes and confirms them."""
    found: list[Decimal] = []
    stream: Stream[RowChange]
    with changes(path, until_caught_up=True) as stream:
        for change in stream:
            lsn: LSN = change.commit_lsn
            if change.op == "insert" and change.new is not None and lsn:
                found.append(change.new["price"])
            stream.confirm(change)
    return found


def names() -> list[str]:
    """And one that reads events."""
    with events(timeout_s=5) as stream:
        return [event.name for event in stream]


def store(batch: Sequence[Event]) -> Receipt | None:
    """A destination as a function; it may say nothing, or what became of the batch."""
    return Receipt({0: Rejected("no")}) if batch[0].distinct_id is None else None


def count(batch: Sequence[Event]) -> None:
    """As this one."""


with Pipeline("wal_tracker.yaml", destinations={"mine": store, "count": count, "memory": MemoryDestination()}) as job:
    job.run()
    total: int = job.stats.events

replayed: Replayed = replay("track: {}", ['{"op": "insert", "table": "users"}'], {"memory": MemoryDestination()})
