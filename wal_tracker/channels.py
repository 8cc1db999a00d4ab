"""The destinations as the loop sees them, and which of them an event goes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from wal_tracker.config.model import DestinationConfig
from wal_tracker.delivery import Delivery
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable, Relation
from wal_tracker.rules.compile import CompiledRule

# A `cond` may compute a name of every row; so many are remembered before they are forgotten and looked up anew.
MAX_REMEMBERED_NAMES = 1000


@dataclass(slots=True)
class Channel:
    """One destination as the loop sees it: a list to append to, and who takes it away."""

    config: DestinationConfig
    delivery: Delivery
    start: LSN
    """Transactions that end here or earlier were durable there before this process began."""
    raw: bool = False
    pending: list[Deliverable] = field(default_factory=list)
    boundary: int = 0
    """How many of `pending` belong to transactions read to their end."""


class Router:
    """Decides by name, once for each rule and table; names are matched as shell globs, case and all."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._channels = tuple(channels)
        self._raw: dict[str, tuple[Channel, ...]] = {}

    @property
    def deliveries(self) -> dict[str, Delivery]:
        """Every delivery under its destination's name."""
        return {channel.config.name: channel.delivery for channel in self._channels}

    def matching(self, event_name: str) -> tuple[Channel, ...]:
        """The destinations whose filter lets an event of this name through."""
        return tuple(
            channel
            for channel in self._channels
            if not channel.raw and any(fnmatchcase(event_name, pattern) for pattern in channel.config.filter)
        )

    def of_rule(self, rule: CompiledRule, event_name: str) -> tuple[Channel, ...]:
        """Of these the ones the rule names, if it names any; remembered in ``rule.targets``."""
        named = rule.rule.destinations
        channels = tuple(
            channel for channel in self.matching(event_name) if named is None or channel.config.name in named
        )
        if len(rule.targets) >= MAX_REMEMBERED_NAMES:
            rule.targets.clear()
        rule.targets[event_name] = channels
        return channels

    def of_table(self, relation: Relation) -> tuple[Channel, ...]:
        """The destinations of raw changes whose filter fits the table, with its schema or without."""
        found = self._raw.get(relation.name)
        if found is None:
            found = self._raw[relation.name] = tuple(
                channel
                for channel in self._channels
                if channel.raw
                and any(
                    fnmatchcase(relation.table, pattern) or fnmatchcase(relation.name, pattern)
                    for pattern in channel.config.filter
                )
            )
        return found
