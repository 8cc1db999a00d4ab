"""Destinations as `Destination`, for mypy --strict: ours, and one for tests. Never run."""

from __future__ import annotations

from wal_tracker.destinations.base import Destination
from wal_tracker.testing import MemoryDestination
from wal_tracker_destinations.file import File
from wal_tracker_destinations.stdout import Stdout

destinations: list[Destination] = [
    MemoryDestination(),
    Stdout("stdout", Stdout.Config()),
    File("file", File.Config(path="events.jsonl")),
]
