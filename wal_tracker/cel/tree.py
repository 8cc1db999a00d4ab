"""
The checked tree: every name resolved, every node with a type. Both forms of a program are made from it.

A type is one of `pgtypes.CelType`, or ``type``. It says what a value is *if it is not null*: no column type proves that
a value is there. Loop variables and `cel.bind` names are numbered slots; no text of the expression but names of
variables, fields and functions reaches this tree except as data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Union

from wal_tracker.cel.functions import Function

Type = str

Loop = Literal["all", "exists", "exists_one", "map", "filter"]

DYNAMIC = frozenset(("dyn", "json"))
"""Types of which nothing is known beforehand."""
MIXING = frozenset(("json", "numeric"))
"""Types whose numbers mix int with double."""


@dataclass(frozen=True, slots=True)
class Constant:
    offset: int
    type: Type
    value: Any


@dataclass(frozen=True, slots=True)
class VariableValue:
    """A variable as a whole; `is_row` where keys in emitted form have to be left out."""

    offset: int
    type: Type
    name: str
    is_row: bool = False


@dataclass(frozen=True, slots=True)
class RowIsNull:
    """``new == null``, which does not take the whole row."""

    offset: int
    type: Type
    name: str
    negated: bool


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a row variable."""

    offset: int
    type: Type
    variable: str
    name: str


@dataclass(frozen=True, slots=True)
class ExactColumn:
    """A column in the form it is emitted in."""

    offset: int
    type: Type
    variable: str
    name: str


@dataclass(frozen=True, slots=True)
class HasColumn:
    offset: int
    type: Type
    variable: str
    name: str


@dataclass(frozen=True, slots=True)
class Unchanged:
    offset: int
    type: Type
    variable: str
    name: str


@dataclass(frozen=True, slots=True)
class SameColumn:
    """``new.x == old.x``, or ``!=`` where negated."""

    offset: int
    type: Type
    left: Column
    right: Column
    negated: bool


@dataclass(frozen=True, slots=True)
class Slot:
    """A loop variable or a `cel.bind` name."""

    offset: int
    type: Type
    number: int


@dataclass(frozen=True, slots=True)
class Select:
    offset: int
    type: Type
    operand: Tree
    field: str


@dataclass(frozen=True, slots=True)
class Has:
    offset: int
    type: Type
    operand: Tree
    field: str


@dataclass(frozen=True, slots=True)
class Index:
    offset: int
    type: Type
    operand: Tree
    key: Tree


@dataclass(frozen=True, slots=True)
class MakeList:
    offset: int
    type: Type
    items: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class MakeMap:
    offset: int
    type: Type
    entries: tuple[tuple[Tree, Tree], ...]


@dataclass(frozen=True, slots=True)
class Not:
    offset: int
    type: Type
    operand: Tree


@dataclass(frozen=True, slots=True)
class Negate:
    offset: int
    type: Type
    operand: Tree


@dataclass(frozen=True, slots=True)
class Equality:
    offset: int
    type: Type
    left: Tree
    right: Tree
    negated: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """``<``, ``<=``, ``>``, ``>=``"""

    offset: int
    type: Type
    operator: str
    left: Tree
    right: Tree


@dataclass(frozen=True, slots=True)
class Contained:
    """``element in container``"""

    offset: int
    type: Type
    element: Tree
    container: Tree


@dataclass(frozen=True, slots=True)
class Arithmetic:
    offset: int
    type: Type
    operator: str
    left: Tree
    right: Tree
    mixed: bool


@dataclass(frozen=True, slots=True)
class Logical:
    offset: int
    type: Type
    operator: str
    operands: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Conditional:
    offset: int
    type: Type
    condition: Tree
    yes: Tree
    no: Tree


@dataclass(frozen=True, slots=True)
class Invoke:
    """A call of a function in the table."""

    offset: int
    type: Type
    function: Function
    arguments: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Coalesce:
    offset: int
    type: Type
    arguments: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Comprehension:
    """``range.kind(slot, …)``; `predicate` for all kinds but ``map``, which may have one."""

    offset: int
    type: Type
    kind: Loop
    range: Tree
    limit: int | None
    """Elements it may run over, where comprehensions nest."""
    slot: int
    predicate: Tree | None
    transform: Tree | None


@dataclass(frozen=True, slots=True)
class Bind:
    """``cel.bind(slot, value, body)``"""

    offset: int
    type: Type
    slot: int
    value: Tree
    body: Tree


@dataclass(frozen=True, slots=True)
class Undefined:
    """A name that nothing stands for; met only where checking is off."""

    offset: int
    type: Type
    reason: str


@dataclass(frozen=True, slots=True)
class Expect:
    """The result of a program that has to be of one kind."""

    offset: int
    type: Type
    operand: Tree


@dataclass(frozen=True, slots=True)
class Emit:
    """The result of a program, made ready for JSON."""

    offset: int
    type: Type
    operand: Tree


Tree = Union[
    Constant,
    VariableValue,
    RowIsNull,
    Column,
    ExactColumn,
    HasColumn,
    Unchanged,
    SameColumn,
    Slot,
    Select,
    Has,
    Index,
    MakeList,
    MakeMap,
    Not,
    Negate,
    Equality,
    Relation,
    Contained,
    Arithmetic,
    Logical,
    Conditional,
    Invoke,
    Coalesce,
    Comprehension,
    Bind,
    Undefined,
    Expect,
    Emit,
]


def is_proven_bool(tree: Tree) -> bool:
    """Whether the value, if there is one, is true or false: a bool column may still be null."""
    match tree:
        case Constant():
            return tree.type == "bool"
        case Conditional():
            return is_proven_bool(tree.yes) and is_proven_bool(tree.no)
        case Bind():
            return is_proven_bool(tree.body)
        case Invoke():
            return tree.function.result == "bool"
        case Comprehension():
            return tree.kind in ("all", "exists", "exists_one")
        case RowIsNull() | HasColumn() | Unchanged() | SameColumn() | Has() | Not() | Equality() | Relation():
            return True
        case Contained() | Logical():
            return True
        case _:
            return False
