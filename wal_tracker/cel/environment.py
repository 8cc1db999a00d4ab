"""What an expression may name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Union

from wal_tracker.pgtypes import CelType


@dataclass(frozen=True, slots=True)
class RowVariable:
    """A row of a table; bound to a dict (or `PartialRow`), or None."""

    columns: Mapping[str, CelType] | None


@dataclass(frozen=True, slots=True)
class ValueVariable:
    """A value of one type."""

    type: CelType


@dataclass(frozen=True, slots=True)
class StructVariable:
    """A dict whose fields are known."""

    fields: Mapping[str, CelType]


@dataclass(frozen=True, slots=True)
class EventsVariable:
    """The names a `cond` chooses from; bound to nothing."""

    names: frozenset[str]


Variable = Union[RowVariable, ValueVariable, StructVariable, EventsVariable]


def row(columns: Mapping[str, CelType] | None) -> Variable:
    """
    A row variable.

    Args:
        columns: Name and type of each column; None where they are not known: every name is accepted then.
    """
    return RowVariable(columns)


def value(type: CelType) -> Variable:
    """A variable of the given type."""
    return ValueVariable(type)


def struct(fields: Mapping[str, CelType]) -> Variable:
    """A variable bound to a dict with just these fields."""
    return StructVariable(fields)


def events(names: Iterable[str]) -> Variable:
    """Event names: ``events.x`` and ``events['x']`` are the string x, as what a `cond` yields and nowhere else."""
    return EventsVariable(frozenset(names))


@dataclass(frozen=True, slots=True)
class Environment:
    """The variables, and how strictly they are taken."""

    variables: Mapping[str, Variable]
    strict: bool = field(default=True, kw_only=True)
    """
    Whether names and types that are known beforehand are checked beforehand. False leaves both to evaluation, as the
    conformance suite of the specification wants; the product never does.
    """
    aliases: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    """Other names of variables; a variable's own name goes first."""
    hash_key: bytes | None = field(default=None, kw_only=True, repr=False)
    """Key of ``hash()``."""
    container: str = field(default="", kw_only=True)
    """Namespace that names are looked up in first; of use to the conformance suite alone."""

    def candidates(self, name: str) -> list[str]:
        """Full names that `name` may stand for, the innermost container's first."""
        found: list[str] = []
        container = self.container
        while container:
            found.append(f"{container}.{name}")
            container = container.rpartition(".")[0]
        return [*found, name]
