"""
The fast form: the checked tree as one Python expression.

It is right whenever it returns, and raises anything at all where it would not be: then the slow form decides. So it
uses Python's own operators where, for the types at hand, they either say what CEL says or raise: ``None < 1`` raises,
but ``not None`` does not, so a bool is tested to be one unless it is proven (`tree.is_proven_bool`).

Into the source go only numbered names, names of our own functions, and constants by ``repr``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from wal_tracker.cel import functions, runtime, tree
from wal_tracker.cel.export import exact_row, export
from wal_tracker.cel.interpret import ARITHMETIC, ARITHMETIC_MIXED, RELATIONS
from wal_tracker.cel.tree import Tree
from wal_tracker.model import EXACT

_BY_TYPE_ALONE = frozenset(("string", "bytes", "timestamp", "duration"))
"""Types whose values Python compares with nothing else: ``==`` is then false, ``<`` raises."""
_NUMBERS = frozenset(("int", "uint", "double", "numeric"))
_JSON_READY = frozenset(("string", "bool", "int", "event", "null"))
_SUBSCRIPTED = (tree.VariableValue, tree.Column, tree.Slot, tree.Select, tree.Index, tree.MakeMap)
"""Python warns of a subscript after a literal it knows to be wrong; after these it knows nothing."""
_SIZED = frozenset(("string", "bytes", "list", "map"))


class NeedsMoreThanColumns(Exception):
    """A program reads something else than columns by name: a row as a whole, whether one is there, another variable."""


class Generator:
    """Makes source; constants and functions it names are collected in `namespace`."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        """
        Args:
            parameters: The Python name each variable is bound to.
        """
        self.namespace: dict[str, Any] = {
            "__builtins__": {},
            "Exception": Exception,
            "all": all,
            "any": any,
            "float": float,
            "len": len,
            "sum": sum,
        }
        self._parameters = parameters
        self._names: dict[int, str] = {}

    def named(self, value: Any) -> str:
        """A name for a constant that has no literal, or for a function."""
        name = self._names.get(id(value))
        if name is None:
            name = f"k{len(self._names)}"
            self._names[id(value)] = name
            self.namespace[name] = value
        return name

    def code(self, node: Tree) -> str:
        """Source of one node; always safe to put next to any operator."""
        match node:
            case tree.Constant():
                return self._constant(node.value)
            case tree.VariableValue():
                name = self._parameters[node.name]
                return self._call(runtime.whole_row, name) if node.is_row else name
            case tree.RowIsNull():
                return f"({self._parameters[node.name]} is {'not ' if node.negated else ''}None)"
            case tree.Column():
                return f"{self._parameters[node.variable]}[{node.name!r}]"
            case tree.ExactColumn():
                return f"{self._parameters[node.variable]}[{EXACT + node.name!r}]"
            case tree.HasColumn():
                return f"({self._parameters[node.variable]}.get({node.name!r}) is not None)"
            case tree.Unchanged():
                return self._call(runtime.is_unchanged, self._parameters[node.variable], repr(node.name))
            case tree.SameColumn():
                return self._equality(node.left, node.right, node.negated)
            case tree.Slot():
                return f"s{node.number}"
            case tree.Select():
                operand = self.code(node.operand)
                if isinstance(node.operand, _SUBSCRIPTED):
                    return f"{operand}[{node.field!r}]"
                return self._call(runtime.select, operand, repr(node.field))
            case tree.Has():
                return self._call(runtime.has, self.code(node.operand), repr(node.field))
            case tree.Index():
                return self._index(node)
            case tree.MakeList():
                return f"[{', '.join(map(self.code, node.items))}]"
            case tree.MakeMap():
                return self._map(node)
            case tree.Not():
                return f"(not {self._condition(node.operand)})"
            case tree.Negate():
                return self._negate(node)
            case tree.Equality():
                return self._equality(node.left, node.right, node.negated)
            case tree.Relation():
                return self._relation(node)
            case tree.Contained():
                return self._contained(node)
            case tree.Arithmetic():
                return self._arithmetic(node)
            case tree.Logical():
                operator = " or " if node.operator == "||" else " and "
                return f"({operator.join(map(self._condition, node.operands))})"
            case tree.Conditional():
                return f"({self._conditional(node)})"
            case tree.Invoke():
                return self._invoke(node)
            case tree.Coalesce():
                return self._call(runtime.first_known, *map(self.code, node.arguments))
            case tree.Comprehension():
                return self._comprehension(node)
            case tree.Bind():
                return f"(lambda s{node.slot}: {self.code(node.body)})({self.code(node.value)})"
            case tree.Undefined():
                return "None.undefined"
            case tree.Expect():
                return self._expect(node)
            case tree.Emit():
                return self._emit(node)

    def _call(self, function: Any, *arguments: str) -> str:
        return f"{self.named(function)}({', '.join(arguments)})"

    def _constant(self, value: Any) -> str:
        kind = type(value)
        if value is None or kind in (bool, str, bytes) or (kind is float and math.isfinite(value)):
            text = repr(value)
        elif kind is int:
            return f"({value!r})"
        else:
            return self.named(value)
        return f"({text})" if text[0] == "-" else text

    def _condition(self, node: Tree) -> str:
        """Source of a node as a bool and nothing else."""
        code = self.code(node)
        return code if tree.is_proven_bool(node) else self._call(runtime.truth, code)

    def _index(self, node: tree.Index) -> str:
        operand, key = self.code(node.operand), self.code(node.key)
        if isinstance(node.key, tree.Constant) and isinstance(node.operand, _SUBSCRIPTED):
            value = node.key.value
            # Python indexes strings by int, and lists from their end; nothing but a dict takes a str.
            if type(value) is str or (type(value) is int and value >= 0 and node.operand.type == "list"):
                return f"{operand}[{key}]"
        return self._call(runtime.index, operand, key)

    def _map(self, node: tree.MakeMap) -> str:
        if _has_text_keys(node):
            return "{" + ", ".join(f"{self.code(key)}: {self.code(value)}" for key, value in node.entries) + "}"
        return self._call(runtime.make_map, *(self.code(part) for entry in node.entries for part in entry))

    def _negate(self, node: tree.Negate) -> str:
        operand = self.code(node.operand)
        if node.operand.type == "double":
            return f"(-{operand})"
        return self._call(runtime.negate, operand)

    def _equality(self, left: Tree, right: Tree, negated: bool) -> str:
        a, b = self.code(left), self.code(right)
        for node, other, code in ((left, right, b), (right, left, a)):
            # There is one None, one True and one False: identity is CEL's equality with them.
            if (
                isinstance(node, tree.Constant)
                and (node.value is None or type(node.value) is bool)
                and not isinstance(other, tree.Constant)
            ):
                return f"({code} is {'not ' if negated else ''}{node.value!r})"
        types = {left.type, right.type}
        if types & _BY_TYPE_ALONE or _is_telling(left) or _is_telling(right):
            return f"({a} {'!=' if negated else '=='} {b})"
        if len(types) == 1 and types <= _NUMBERS | {"bool"}:
            return f"({a} {'!=' if negated else '=='} {b})"
        same = self._call(runtime.equal, a, b)
        return f"(not {same})" if negated else same

    def _relation(self, node: tree.Relation) -> str:
        a, b = self.code(node.left), self.code(node.right)
        types = {node.left.type, node.right.type}
        if types & _BY_TYPE_ALONE or (len(types) == 1 and types <= _NUMBERS):
            return f"({a} {node.operator} {b})"
        return self._call(RELATIONS[node.operator], a, b)

    def _contained(self, node: tree.Contained) -> str:
        element, container = self.code(node.element), node.container
        if isinstance(container, tree.MakeList) and container.items:
            values = [item.value for item in container.items if isinstance(item, tree.Constant)]
            kinds = {type(value) for value in values} if len(values) == len(container.items) else set()
            # Hashing is exact here: a str equals str only, an int column is never a bool; what cannot be hashed raises.
            if kinds == {str} or (kinds == {int} and node.element.type == "int"):
                return f"({element} in {self.named(frozenset(values))})"
        if container.type == "list" and node.element.type == "string":
            return f"({element} in {self.code(container)})"
        return self._call(runtime.contained, element, self.code(container))

    def _arithmetic(self, node: tree.Arithmetic) -> str:
        a, b = self.code(node.left), self.code(node.right)
        types = {node.left.type, node.right.type}
        if types == {"double"} and node.operator in "+-*":
            return f"({a} {node.operator} {b})"
        if types == {"int"} and node.operator in "+-*":
            return self._call(runtime.int64, f"{a} {node.operator} {b}")
        operators = ARITHMETIC_MIXED if node.mixed else ARITHMETIC
        return self._call(operators[node.operator], a, b)

    def _conditional(self, node: tree.Conditional) -> str:
        no = self._conditional(node.no) if isinstance(node.no, tree.Conditional) else self.code(node.no)
        return f"{self.code(node.yes)} if {self._condition(node.condition)} else {no}"

    def _invoke(self, node: tree.Invoke) -> str:
        function, first = node.function, node.arguments[0]
        codes = [self.code(argument) for argument in node.arguments]
        types = [argument.type for argument in node.arguments]
        match function.name:
            case "size" if first.type in _SIZED:
                return f"len({codes[0]})"
            case "dyn" if not isinstance(first, tree.Constant):
                return codes[0]
            case "double" if first.type == "int":
                return f"float({codes[0]})"
            case "startsWith" if "string" in types:
                return f"{codes[0]}.startswith({codes[1]})"
            case "endsWith" if "string" in types:
                return f"{codes[0]}.endswith({codes[1]})"
            case "contains" if types[0] == "string":
                return f"({codes[1]} in {codes[0]})"
            case "matches" if isinstance(node.arguments[1], tree.Constant) and types[1] == "string":
                return self._matches(codes[0], node)
        return self._call(function.implementation, *codes)

    def _matches(self, text: str, node: tree.Invoke) -> str:
        pattern = node.arguments[1]
        assert isinstance(pattern, tree.Constant)
        try:
            search = functions.regex(pattern.value).search
        except runtime.Failure:
            # Known to be wrong, and not refused: checking is off. The slow form says why.
            return self._call(node.function.implementation, text, self.code(pattern))
        return f"({self.named(search)}({text}.encode()) is not None)"

    def _comprehension(self, node: tree.Comprehension) -> str:
        found = self.code(node.range)
        if node.limit is not None:
            items = self._call(runtime.bounded_elements, found, repr(node.limit))
        else:
            items = found if isinstance(node.range, tree.MakeList) else self._call(runtime.elements, found)
        predicate = None if node.predicate is None else self._condition(node.predicate)
        loop = f"for s{node.slot} in {items}"
        match node.kind:
            case "all" | "exists":
                return f"{'all' if node.kind == 'all' else 'any'}({predicate} {loop})"
            case "exists_one":
                return f"(sum([{predicate} {loop}]) == 1)"
            case "filter":
                return f"[s{node.slot} {loop} if {predicate}]"
            case "map":
                assert node.transform is not None
                kept = "" if predicate is None else f" if {predicate}"
                return f"[{self.code(node.transform)} {loop}{kept}]"

    def _expect(self, node: tree.Expect) -> str:
        operand = node.operand
        if node.type == "bool":
            return self._condition(operand)
        code = self.code(operand)
        if node.type == "timestamp":
            # A timestamp column may hold the text 'infinity'.
            return self._call(runtime.expect_timestamp, code)
        return code if operand.type in ("string", "event", "null") else self._call(runtime.expect_string, code)

    def _emit(self, node: tree.Emit) -> str:
        operand = node.operand
        if isinstance(operand, tree.VariableValue) and operand.is_row:
            return self._call(exact_row, self._parameters[operand.name])
        return self._emitted(operand)

    def _emitted(self, node: Tree) -> str:
        """Source of a node in its emitted form; only what may need it is looked at when it runs."""
        match node:
            case tree.MakeList():
                return f"[{', '.join(map(self._emitted, node.items))}]"
            case tree.MakeMap() if _has_text_keys(node):
                return "{" + ", ".join(f"{self.code(key)}: {self._emitted(value)}" for key, value in node.entries) + "}"
            case tree.Conditional():
                condition = self._condition(node.condition)
                return f"({self._emitted(node.yes)} if {condition} else {self._emitted(node.no)})"
        code = self.code(node)
        return code if node.type in _JSON_READY else self._call(export, code)


class ColumnGenerator(Generator):
    """Makes source in which each column is a variable of its own; raises NeedsMoreThanColumns for anything else."""

    def __init__(self) -> None:
        super().__init__({})
        self.reads: dict[tuple[str, str], str] = {}
        """The name of the variable for each ``(variable, row key)`` that was met, in the order of their first."""

    def code(self, node: Tree) -> str:
        """Source of one node; see `Generator.code`."""
        match node:
            case tree.Column():
                return self._column(node.variable, node.name)
            case tree.ExactColumn():
                return self._column(node.variable, EXACT + node.name)
            case tree.VariableValue() | tree.RowIsNull() | tree.HasColumn() | tree.Unchanged():
                raise NeedsMoreThanColumns
        return super().code(node)

    def _emit(self, node: tree.Emit) -> str:
        if isinstance(node.operand, tree.VariableValue):
            raise NeedsMoreThanColumns
        return super()._emit(node)

    def _column(self, variable: str, key: str) -> str:
        return self.reads.setdefault((variable, key), f"c{len(self.reads)}")


def _is_telling(node: Tree) -> bool:
    """Whether Python's ``==`` with this number is CEL's: it equals no bool, and as a double it is exact."""
    if not isinstance(node, tree.Constant) or type(node.value) not in (int, float):
        return False
    return node.value not in (0, 1) and abs(node.value) < 2**53


def _has_text_keys(node: tree.MakeMap) -> bool:
    """Whether all keys are literal strings, each another."""
    keys = {key.value for key, _ in node.entries if isinstance(key, tree.Constant) and type(key.value) is str}
    return len(keys) == len(node.entries)
