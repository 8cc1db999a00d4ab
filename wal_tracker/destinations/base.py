"""
The destination port: what a plugin author implements.

A destination is a class named by an entry point in the group ``wal_tracker.destinations``. It has
a ``Config`` (a frozen, keyword-only dataclass whose field names are the YAML keys; a ``Secret``
field prints as ``***``), and is called from one thread at a time. Batching, retry, back-off and
dead letters are done around it by `wal_tracker.delivery`; it only speaks the vendor's protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Union, runtime_checkable

from wal_tracker.model import Deliverable

Mark = Mapping[str, Any]
"""JSON-ready bookkeeping of a destination, stored in the state store together with its position."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The vendor refuses this event for good, however often it is sent: dead letter."""

    reason: str
    answer: str | None = field(default=None, repr=False)
    """The vendor's own, kept with the dead letter: `HttpClient.told` makes it. Neither logged nor part of an error."""


@dataclass(frozen=True, slots=True)
class Retry:
    """This event was not taken now; send it again, not before `after_s` seconds."""

    after_s: float | None = None
    reason: str = ""


Outcome = Union[Rejected, Retry]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a batch. An event that is not named in `outcomes` is durable at the vendor."""

    outcomes: Mapping[int, Outcome] = field(default_factory=dict)
    """By index into the batch."""
    mark: Mark | None = None
    """Given back to `open` after a restart, as of the last batch whose position was stored."""


class BatchRefused(Exception):
    """
    The vendor refuses the request as a whole and does not say which event is to blame (HTTP 400, 413, 422).

    Delivery halves the batch and tries again, down to the single guilty event, which becomes a dead letter.
    Raised only where nothing of the batch was stored.
    """

    def __init__(self, reason: str, answer: str | None = None) -> None:
        """
        Args:
            reason: In a sentence.
            answer: As of `Rejected`.
        """
        super().__init__(reason)
        self.reason, self.answer = reason, answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The vendor's hard limits, and what is sensible below them. Configuration may lower them, not raise them."""

    max_batch_events: int = 500
    max_batch_bytes: int = 4 * 1024 * 1024
    """Of the events' JSON, before compression."""
    linger_s: float = 0.2
    """How long a batch may wait for more events before it is sent."""
    concurrency: int = 1
    """
    How many batches may be on their way at once, each handed to an object of its own of this class; events of one row
    stay in order. A destination that keeps a mark, or whose vendor wants requests one after the other, leaves it at 1.
    """


@runtime_checkable
class Destination(Protocol):
    """Where events go."""

    @property
    def Config(self) -> type:
        """Frozen dataclass of the options of one entry in the configuration."""
        ...

    limits: Limits
    accepts_raw: ClassVar[bool]
    """Whether it may stand under `raw_db_event_destinations`."""

    # def __init__(self, name: str, config: Config): checks the configuration, opens nothing.

    def open(self, mark: Mark | None) -> Mark | None:
        """
        Make ready to deliver; called before the first batch.

        Called again after `close` where it failed and is outlasted, and where new options were to be taken over
        (SIGHUP) and could not be opened; from another thread then, but never from two at a time.

        Args:
            mark: The mark of the receipt that was stored last, or None at the very first start.

        Returns:
            A mark for the state before the first batch, stored before anything is delivered; or None, as most do.

        Raises:
            DestinationError: It cannot be opened; the message holds the remedy.
        """
        ...

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        """
        Hand a batch to the vendor; return once the vendor holds it durably.

        The same batch may come again after a crash or a lost answer: map ``event.id`` to the
        vendor's own deduplication field.

        Args:
            batch: At least one event, oldest first, within `limits`.

        Returns:
            Which events were refused for good, and which must come again.

        Raises:
            DestinationUnavailable: Nothing was accepted, or we cannot know; all of it is sent again.
            DestinationRefusedUs: Our credentials or project are wrong; delivery stops.
            BatchRefused: The request as a whole is wrong; the batch is halved.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections; calling it twice is harmless."""
        ...
