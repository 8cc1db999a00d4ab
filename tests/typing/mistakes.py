"""What mypy --strict must refuse, line by line: each marked line is an error of that kind. Never run."""

from __future__ import annotations

from pathlib import Path

from wal_tracker.config.load import load
from wal_tracker.destinations.base import Destination, Receipt, Rejected


class WithoutLimits:
    """No `limits`, no `Config`, no `accepts_raw`."""

    def open(self, mark: object) -> None:
        pass

    def deliver(self, batch: object) -> Receipt:
        return Receipt()

    def close(self) -> None:
        pass


destination: Destination = WithoutLimits()  # error: assignment
receipt = Receipt({"first": Rejected("why")})  # error: dict-item
config = load("wal_tracker.yaml", {})  # error: arg-type
load(Path("wal_tracker.yaml"), {}).source.slot = "other"  # error: misc
