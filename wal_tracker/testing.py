"""
For tests of destinations and of what stands around them; for plugin authors as much as for us.

`DestinationContract` is the suite every destination passes: subclass it in a test module, say how to
build yours, and pytest runs it. `MemoryDestination` is a whole destination without a vendor. `replay` runs recorded
changes through rules and destinations by the pipeline itself, with `ReplaySource` in place of a server.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Union

import orjson

from wal_tracker.config.load import read
from wal_tracker.config.model import Config
from wal_tracker.destinations.base import Destination, Limits, Mark, Receipt
from wal_tracker.lsn import LSN
from wal_tracker.model import (
    GROUP_IDENTIFY,
    IDENTIFY,
    Commit,
    Deliverable,
    Event,
    Group,
    Item,
    ProfileEvent,
    Transaction,
)
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.rules.engine import RuleSet
from wal_tracker.rules.recorded import SYSTEM_IDENTIFIER, Recorded
from wal_tracker.state.base import DeadLetter

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


RecordedChange = Union[bytes, str, Mapping[str, Any]]
"""A line as `wal_tracker tail --json` writes and `wal_tracker eval` reads it, or the object it stands for."""


class ReplaySource:
    """
    A pipeline's source over recorded changes: one transaction after the other, again from wherever it is to begin.

    What follows one another with the same ``xid`` and ``commit_lsn`` is one transaction;
    without them each change is one of its own.
    """

    BURST = 1000
    """At most so many items a read."""

    def __init__(
        self,
        changes: Iterable[RecordedChange],
        config: Config,
        rules: RuleSet,
        *,
        schema: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """
        Args:
            changes: In commit order.
            config: Whose ``ignore`` and ``numeric`` hold.
            rules: Of that configuration.
            schema: ``{table: {column: type}}``, for changes that do not say their ``types``.

        Raises:
            DecodeError: One is not a change; says what of it.
            ValueError: One was committed before the one in front of it.
        """
        recorded = Recorded(config, TypeCatalog(), schema, rules)
        self._items: list[Item] = []
        self._begins: list[tuple[LSN, int]] = []
        open_transaction: Transaction | None = None
        for change in changes:
            line = orjson.dumps(change) if isinstance(change, Mapping) else change
            if not line.strip():
                continue
            read = recorded.read(line)
            if read is None:
                continue
            if read.transaction is not open_transaction:
                self._close(open_transaction)
                open_transaction = read.transaction
                if self._begins and open_transaction.commit_lsn <= self._begins[-1][0]:
                    raise ValueError(
                        f"changes must come in commit order: {open_transaction.commit_lsn_text} after "
                        f"{self._begins[-1][0]}"
                    )
                self._begins.append((open_transaction.commit_lsn, len(self._items)))
            self._items.append(read)
        self._close(open_transaction)
        self.end = open_transaction.end_lsn if open_transaction is not None else LSN(0)
        """Where the last transaction ends."""
        self.confirmed = LSN(0)
        """What the pipeline has confirmed."""
        self.last_read_bytes = 0
        self._next = 0
        self._caught_up = LSN(0)

    @property
    def caught_up_lsn(self) -> LSN:
        """The end of what was read last, or 0 inside a transaction."""
        return self._caught_up

    def connect(self, start: LSN) -> LSN:
        """Begin with the first transaction committed at `start` or later."""
        self._next = next((index for lsn, index in self._begins if lsn >= start), len(self._items))
        self._caught_up = start
        return start

    def read(self, timeout_s: float) -> list[Item]:
        """Some items; at the end none, after a moment."""
        items = self._items[self._next : self._next + self.BURST]
        if not items:
            time.sleep(min(timeout_s, 0.01))
            return []
        self._next += len(items)
        last = items[-1]
        self._caught_up = last.transaction.end_lsn if isinstance(last, Commit) else LSN(0)
        self.last_read_bytes = 100 * len(items)
        return items

    def confirm(self, lsn: LSN) -> None:
        """Note it."""
        self.confirmed = lsn

    def ask_for_keepalive(self) -> None:
        """There is nobody to ask."""

    def close(self) -> None:
        """Nothing is open."""

    def _close(self, transaction: Transaction | None) -> None:
        if transaction is not None:
            self._items.append(Commit(transaction))


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of recorded changes."""

    changes: int
    events: int
    """What the rules made of them."""
    confirmed: LSN
    """Everything up to here is durable at every destination."""
    dead_letters: tuple[DeadLetter, ...]
    """What a rule failed on, and what a destination refused."""


def replay(
    config: Config | str,
    changes: Iterable[RecordedChange],
    destinations: Mapping[str, Destination] | None = None,
    *,
    schema: Mapping[str, Mapping[str, str]] | None = None,
) -> Replayed:
    """
    Run recorded changes through rules and destinations: the pipeline itself, without a server.

    The ids are those `wal_tracker eval` prints. Positions and dead letters are in a folder that goes with the call.

    Args:
        config: The configuration, or its YAML; ``$VAR`` in it are the environment's.
        changes: In commit order.
        destinations: By name, in place of those entries of the configuration.
        schema: ``{table: {column: type}}``, for changes that do not say their ``types``.

    Raises:
        ConfigError: The configuration cannot be used.
        DecodeError: A change is not one.
        ValueError: They are not in commit order.
        WalTrackerError: A destination could not be opened, or ended the delivery.
    """
    # A destination's own tests need nothing of the following.
    from wal_tracker import assemble
    from wal_tracker.pipeline import Pipeline
    from wal_tracker.rules.check import check
    from wal_tracker.secret import Secret
    from wal_tracker.state import open_state

    loaded = read(config.encode(), os.environ) if isinstance(config, str) else config
    with tempfile.TemporaryDirectory(prefix="wal_tracker-") as folder:
        loaded = replace(loaded, state=Secret(f"sqlite:///{folder}/state.db"))
        assemble.refuse(check(loaded, TypeCatalog()))
        rules = RuleSet(loaded, TypeCatalog(), system_identifier=SYSTEM_IDENTIFIER, mode="wal")
        source = ReplaySource(changes, loaded, rules, schema=schema)
        state = open_state(loaded.state)
        try:
            pipeline = Pipeline(
                source,
                rules,
                assemble.Sinks(loaded, destinations).channels(state, rules, LSN(0)),
                state,
                loaded.delivery,
                position=LSN(0),
                until=source.end,
                drain_spools=True,
                own_process=False,
            )
            pipeline.run()
            letters = tuple(state.dead_letters())
        finally:
            state.close()
        return Replayed(pipeline.stats.changes, pipeline.stats.events, pipeline.stats.confirmed_lsn, letters)


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
