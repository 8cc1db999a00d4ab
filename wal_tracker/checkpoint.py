"""
How far everything is durable everywhere. Pure: positions in, the low-water mark out.

The slot forgets everything below the position we confirm. So what is confirmed is the *lowest* of the
destinations' durable positions, and it never goes back: a position that falls means that we no longer
know what was delivered, which is our own bug and stops the pipeline before anything is confirmed.
"""

from __future__ import annotations

from collections.abc import Mapping

from wal_tracker.errors import CheckpointRegression
from wal_tracker.lsn import LSN


class Checkpoint:
    """The durable position of every destination, and the lowest of them. One thread."""

    def __init__(self, positions: Mapping[str, LSN]) -> None:
        """
        Args:
            positions: Every destination's name, and up to where everything is durable there already.

        Raises:
            ValueError: There is no destination; then nothing could ever be said to be durable everywhere.
        """
        if not positions:
            raise ValueError("a checkpoint needs at least one destination")
        self._positions = dict(positions)

    @property
    def positions(self) -> Mapping[str, LSN]:
        """Every destination's durable position."""
        return self._positions

    @property
    def low_water(self) -> LSN:
        """Below here everything is durable at every destination. Never goes back."""
        return min(self._positions.values())

    def advance(self, destination: str, lsn: LSN) -> LSN:
        """
        Note that everything up to `lsn` is durable at `destination`.

        Args:
            destination: A name given at the start.
            lsn: The end of a transaction, or any position below which nothing is for this destination.

        Returns:
            The low-water mark.

        Raises:
            CheckpointRegression: `lsn` is behind what was said before.
            KeyError: No such destination.
        """
        stands_at = self._positions[destination]
        if lsn < stands_at:
            raise CheckpointRegression(f"destination {destination!r} went back from {stands_at} to {lsn}")
        self._positions[destination] = lsn
        return self.low_water
