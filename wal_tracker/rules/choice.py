"""What a `cond` can choose, as far as its text tells: the events it names, held against the rule's blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from wal_tracker.cel import syntax

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Choice:
    """The names a `cond` may yield."""

    events: frozenset[str]
    """Named as ``events.x`` or ``events['x']``."""
    texts: frozenset[str]
    """Named as a string."""
    is_closed: bool
    """Whether that is all; False where a name is computed."""

    def unused(self, blocks: Mapping[str, object]) -> list[str]:
        """Blocks that can never become an event."""
        return [name for name in blocks if self.is_closed and name not in self.events | self.texts]

    def missing(self, blocks: Mapping[str, object]) -> list[str]:
        """Names without a block: such an event carries no properties."""
        return sorted((self.events | self.texts).difference(blocks))

    def accepted(self, blocks: Mapping[str, object]) -> list[str]:
        """
        The names `events` has.

        A name without a block is one of them (the example in pg_track_events' own README does it) unless some block is
        left that nothing names: then one of the two is misspelt. A block whose name cannot be written behind a dot is
        no such sign.
        """
        if any(_IDENTIFIER.fullmatch(name) for name in self.unused(blocks)):
            return list(blocks)
        return [*blocks, *sorted(self.events.difference(blocks))]


def choice(cond: str) -> Choice:
    """
    Read the names off a `cond`.

    Raises:
        CelSyntaxError: It is not an expression.
    """
    events: set[str] = set()
    texts: set[str] = set()
    is_closed = True
    waiting = [syntax.parse(cond)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, syntax.Conditional):
            waiting += (node.yes, node.no)
        elif isinstance(node, syntax.Literal):
            if isinstance(node.value, str):
                texts.add(node.value)
        elif isinstance(node, syntax.Select) and _is_events(node.operand):
            events.add(node.field)
        elif isinstance(node, syntax.Index) and _is_events(node.operand) and isinstance(node.key, syntax.Literal):
            events.add(str(node.key.value))
        else:
            is_closed = False
    return Choice(frozenset(events), frozenset(texts), is_closed)


def _is_events(node: syntax.Node) -> bool:
    return isinstance(node, syntax.Name) and node.name == "events"
