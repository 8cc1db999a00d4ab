"""The destinations as the loop sees them, and which of them an event goes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wal_tracker.config.globs import chosen
from wal_tracker.config.model import DestinationConfig
from wal_tracker.delivery import Delivery, HandOver, dead_letter
from wal_tracker.destinations.base import Rejected
from wal_tracker.errors import RuleEvaluationError
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable, Relation
from wal_tracker.rules.compile import CompiledRule
from wal_tracker.rules.shape import Shape
from wal_tracker.state.base import DeadLetter

# A `cond` may compute a name of every row; so many are remembered before they are forgotten and looked up anew.
MAX_REMEMBERED_NAMES = 1000


@dataclass(slots=True)
class Channel:
    """One destination as the loop sees it: a list to append to, and who takes it away."""

    config: DestinationConfig
    delivery: Delivery | HandOver
    start: LSN
    """Transactions that end here or earlier were durable there before this process began."""
    raw: bool = False
    shape: Shape | None = None
    """What it gets of an event; None: the event as it is."""
    width: int = 1
    """How many requests may be on their way at once."""
    pending: list[Deliverable] = field(default_factory=list)
    boundary: int = 0
    """How many of `pending` belong to transactions read to their end."""

    def shaped(self, events: list[Deliverable]) -> tuple[list[Deliverable], list[DeadLetter]]:
        """
        What this destination gets of events that are for it, and letters for those where nobody can say.

        The letters must be on disk before a position passes the events.
        """
        if self.shape is None:
            return events, []
        made: list[Deliverable] = []
        letters: list[DeadLetter] = []
        for event in events:
            try:
                shaped = self.shape(event)
            except RuleEvaluationError as error:
                # With the event as the rules made it: a replay shapes it anew.
                why = Rejected(error.reason)
                letters.append(dead_letter(event, self.config.name, why, kind="rule", rule=error.rule))
                continue
            if shaped is not None:
                made.append(shaped)
        return made, letters


class Router:
    """Decides by name, once for each rule and table; names are matched as shell globs, case and all."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._channels = tuple(channels)
        self._raw: dict[str, tuple[Channel, ...]] = {}

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Every one."""
        return self._channels

    def matching(self, event_name: str) -> tuple[Channel, ...]:
        """The destinations whose filter lets an event of this name through."""
        return tuple(
            channel
            for channel in self._channels
            if not channel.raw and chosen(channel.config.filter, event_name)
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
                if channel.raw and chosen(channel.config.filter, relation.table, relation.name)
            )
        return found
