"""
Each event as a file of its own in a folder, for whoever picks files up.

A whole wal_tracker destination in one module: the shortest one that keeps every promise. Copy it and begin.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from wal_tracker.destinations.base import Limits, Mark, Outcome, Receipt, Rejected
from wal_tracker.errors import DestinationError, DestinationUnavailable
from wal_tracker.model import Deliverable


class DropFolder:
    """Writes ``ID.json``; an event that comes again replaces itself, so nothing is there twice."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The field names are the keys in wal_tracker.yaml; what `__post_init__` refuses is told with its place."""

        path: str
        """The folder; it must exist."""
        max_bytes: int = 1_000_000
        """Of one event."""

        def __post_init__(self) -> None:
            if self.max_bytes <= 0:
                raise ValueError("max_bytes must be positive")

    # At most 100 events a call; do not wait for more when fewer are there.
    limits = Limits(max_batch_events=100, linger_s=0.0)
    # A raw change has an id and a JSON form too, so it may come here.
    accepts_raw: ClassVar[bool] = True

    def __init__(self, name: str, config: Config) -> None:
        """Nothing is opened here: `wal_tracker validate` builds destinations only to check them."""
        self.name, self.config = name, config
        self._folder = Path(config.path)

    def open(self, mark: Mark | None) -> None:  # noqa: ARG002 - ids make repetition harmless, so no bookkeeping
        """Fail here, with the remedy, rather than at the first event."""
        if not self._folder.is_dir():
            raise DestinationError(self.name, f"{self._folder} is not a folder; create it")

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        """Return only when the events are on disk: what is not named in the receipt is never sent again."""
        outcomes: dict[int, Outcome] = {}
        try:
            for index, event in enumerate(batch):
                body = event.to_json()
                if len(body) > self.config.max_bytes:
                    # For good: it becomes a dead letter, and the rest goes on.
                    outcomes[index] = Rejected(f"it is {len(body)} bytes, and max_bytes is {self.config.max_bytes}")
                    continue
                self._write(event.id, body)
            self._sync_folder()
        except OSError as error:
            # For now: the same batch comes again, after a while.
            raise DestinationUnavailable(self.name, f"cannot write to {self._folder}: {error.strerror}") from error
        return Receipt(outcomes)

    def close(self) -> None:
        """Nothing is held open."""

    def _write(self, event_id: str, body: bytes) -> None:
        """A reader of the folder sees a whole file or none."""
        temporary = self._folder / f".{event_id}"
        with temporary.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._folder / f"{event_id}.json")

    def _sync_folder(self) -> None:
        """A new name is durable only when its folder is."""
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
