"""
For tests of destinations and of what stands around them; for plugin authors as much as for us.

`DestinationContract` is the suite every destination passes: subclass it in a test module, say how to
build yours, and pytest runs it. `MemoryDestination` is a whole destination without a vendor.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from wal_tracker.destinations.base import Destination, Limits, Mark, Receipt
from wal_tracker.lsn import LSN
from wal_tracker.model import GROUP_IDENTIFY, IDENTIFY, Deliverable, Event, Group, ProfileEvent

_NAMESPACE = uuid.UUID("6f0c0e0a-53a6-5b0e-9f5c-6f4a3d1f7b11")


def make_event(
    number: int,
    *,
    commit_lsn: LSN | None = None,
    properties: Mapping[str, Any] | None = None,
    name: str = "order_placed",
    identify: dict[str, Any] | None = None,
    group: Group | None = None,
) -> Event:
    """
    An event like those rules make; the same `number` gives the same id and bytes.

    Args:
        number: Also its distinct_id and its only property, ``number``.
        commit_lsn: Of its transaction; None: ``number`` times 256.
        properties: Beside ``number``.
        name: The event's name. `wal_tracker.model.IDENTIFY` and `GROUP_IDENTIFY` are of events without properties.
        identify: What a rule says of the person.
        group: The group it belongs to.
    """
    told: dict[str, Any] = {
        "id": str(uuid.uuid5(_NAMESPACE, f"{name}/{number}")),
        "name": name,
        "distinct_id": str(number),
        "timestamp": "2026-01-02T03:04:05.123456Z",
        "properties": {} if name in (IDENTIFY, GROUP_IDENTIFY) else {"number": number, **(properties or {})},
        "source": {
            "op": "insert",
            "schema": "public",
            "table": "orders",
            "commit_lsn": str(commit_lsn if commit_lsn is not None else LSN(number * 256)),
            "ordinal": 0,
            "xid": number,
            "mode": "wal",
        },
    }
    if identify is None and group is None:
        return Event(**told)
    return ProfileEvent(**told, identify=identify, group=group)


class MemoryDestination:
    """
    Keeps what it is given, and honours the contract: a repeated id is stored once.

    `script` says what happens to the next calls: an exception is raised, a `Receipt` is answered (and the events it
    names are not stored), None means an ordinary success. With an empty script everything is taken.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Has no options."""

    limits = Limits(max_batch_events=100, linger_s=0.0)
    accepts_raw: ClassVar[bool] = True

    def __init__(self, name: str = "memory", config: Config | None = None, *, limits: Limits | None = None) -> None:
        """
        Args:
            name: As in a configuration.
            config: Empty.
            limits: Other than the class's.
        """
        self.name, self.config = name, config or self.Config()
        if limits is not None:
            self.limits = limits
        self.events: dict[str, Deliverable] = {}
        """What is durable here, by id, in order of arrival."""
        self.batches: list[list[Deliverable]] = []
        """Every batch as it came, repeated and refused ones too."""
        self.script: deque[Exception | Receipt | None] = deque()
        self.opened_with: list[Mark | None] = []
        self.closed = 0
        self.gate = threading.Event()
        """Clear it, and `deliver` waits until it is set again."""
        self.gate.set()

    def open(self, mark: Mark | None) -> None:
        """Remember the mark."""
        self.opened_with.append(mark)

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        """Do what the script says; the mark counts the events stored."""
        self.gate.wait()
        self.batches.append(list(batch))
        step = self.script.popleft() if self.script else None
        if isinstance(step, Exception):
            raise step
        outcomes = step.outcomes if step is not None else {}
        for index, event in enumerate(batch):
            if index not in outcomes:
                self.events.setdefault(event.id, event)
        return Receipt(outcomes, mark={"stored": len(self.events)})

    def close(self) -> None:
        """Count."""
        self.closed += 1


class DestinationContract:
    """
    The laws every destination keeps. Subclass it, name the subclass ``Test…``, and override `build` and `received`.
    """

    secrets: ClassVar[tuple[str, ...]] = ()
    """Texts of the configuration that must never be seen."""

    def build(self) -> Destination:
        """A new destination, configured to reach its (fake) vendor, not yet open."""
        raise NotImplementedError

    def received(self) -> list[str]:
        """The ids the vendor holds by now, each once where the vendor drops duplicates."""
        raise NotImplementedError

    def test_it_has_the_shape_of_a_destination(self) -> None:
        """What the registry checks when a configuration names it."""
        destination = self.build()

        assert isinstance(destination, Destination)
        assert isinstance(destination.limits, Limits)

    def test_a_delivered_batch_is_with_the_vendor(self) -> None:
        """No outcome for an event means that it is durable."""
        events = [make_event(number) for number in range(1, 4)]

        receipts = self._deliver([[event] for event in events])

        assert all(not receipt.outcomes for receipt in receipts)
        assert self.received() == [event.id for event in events]

    def test_an_empty_batch_is_harmless(self) -> None:
        """It delivers nothing and refuses nothing."""
        (receipt,) = self._deliver([[]])

        assert not receipt.outcomes
        assert self.received() == []

    def test_it_can_be_closed_twice_and_without_being_opened(self) -> None:
        """Shutdown after a failed start closes what was never open."""
        unopened = self.build()
        unopened.close()

        destination = self.build()
        destination.open(None)
        destination.close()
        destination.close()

    def test_it_can_be_opened_again_after_it_was_closed(self) -> None:
        """A reload that fails goes back to the object there was."""
        first, second = make_event(1), make_event(2)
        destination = self.build()
        destination.open(None)
        destination.deliver([first])
        destination.close()
        destination.open(None)
        destination.deliver([second])
        destination.close()

        assert self.received() == [first.id, second.id]

    def test_secrets_are_not_in_its_repr(self) -> None:
        """A traceback or a debugger shows objects."""
        destination = self.build()
        shown = repr(destination) + repr(vars(destination)) + repr(getattr(destination, "config", None))

        assert not [secret for secret in self.secrets if secret in shown]

    def _deliver(self, batches: Sequence[Sequence[Deliverable]]) -> list[Receipt]:
        destination = self.build()
        destination.open(None)
        try:
            return [destination.deliver(batch) for batch in batches]
        finally:
            destination.close()
