"""A destination inside a delivery, to its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.support.postgres import wait_until
from wal_tracker.delivery import Delivery, DeliverySettings
from wal_tracker.destinations.base import Destination
from wal_tracker.errors import DestinationRefusedUs
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable
from wal_tracker.state.base import DeadLetter


class Letters:
    """Keeps dead letters."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []

    def add(self, letters: Sequence[DeadLetter]) -> None:
        self.letters.extend(letters)


def deliver(
    destination: Destination,
    events: Sequence[Deliverable],
    *,
    siblings: Sequence[Destination] = (),
    max_batch_events: int | None = None,
    trouble: Sequence[Callable[[], object]] = (),
    timeout_s: float = 30.0,
) -> tuple[Delivery, list[DeadLetter]]:
    """
    Send events through a delivery until nothing is left or it has failed, as the end of the transaction at 10 000 000.

    That the destination refuses us when it is opened is the delivery's failure too.

    Args:
        destination: Opened and closed by the delivery.
        events: All of them.
        siblings: More objects of the same destination, for requests abreast.
        max_batch_events: In a batch.
        trouble: Each happens once, spread over the first attempts and batches.
        timeout_s: Longer than it takes.
    """
    letters = Letters()
    settings = DeliverySettings(retry_base_s=0.01, retry_cap_s=0.02, linger_s=0.0, max_batch_events=max_batch_events)
    first = _Troubled(destination, list(trouble)) if trouble else destination
    delivery = Delivery("vendor", first, settings, letters, siblings=siblings)
    try:
        delivery.start(LSN(0))
    except DestinationRefusedUs as error:
        # Some ask before the first event.
        delivery.failure = error
        return delivery, []
    delivery.offer(list(events), LSN(10_000_000), 100)
    wait_until(lambda: delivery.idle or delivery.failure is not None, timeout_s=timeout_s)
    delivery.stop(10)
    return delivery, letters.letters


class _Troubled:
    """The destination, with something that happens before every other call."""

    def __init__(self, destination: Destination, trouble: list[Callable[[], object]]) -> None:
        self._destination, self._trouble, self._calls = destination, trouble, 0
        self.limits, self.Config, self.accepts_raw = destination.limits, destination.Config, destination.accepts_raw
        self.open, self.close = destination.open, destination.close

    def deliver(self, batch):  # type: ignore[no-untyped-def]
        self._calls += 1
        if self._trouble and self._calls % 2 == 0:
            self._trouble.pop(0)()
        return self._destination.deliver(batch)
