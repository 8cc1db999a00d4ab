"""
Syntax tree to checked tree: names resolved, arity and types held against what is known, columns collected.

Mistakes name the place and what to write instead. With a lax environment (see `Environment.strict`) they become
`Undefined` nodes or dynamic types, and evaluation decides.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from wal_tracker.cel import syntax, tree
from wal_tracker.cel.environment import (
    Environment,
    EventsVariable,
    RowVariable,
    StructVariable,
    ValueVariable,
    Variable,
)
from wal_tracker.cel.errors import CelCheckError
from wal_tracker.cel.functions import FUNCTIONS, METHODS, NAMESPACES, Function, keyed_hash, regex
from wal_tracker.cel.runtime import NESTED_LIMITS, Failure
from wal_tracker.cel.tree import DYNAMIC, MIXING, Tree, Type
from wal_tracker.cel.values import TYPES
from wal_tracker.model import EXACT

Result = Literal["any", "bool", "event", "string", "timestamp"]
"""What a program has to yield; each but ``any`` may also be null, ``bool`` may not."""

_LOOPS: Mapping[str, tree.Loop] = {
    "all": "all",
    "exists": "exists",
    "exists_one": "exists_one",
    "existsOne": "exists_one",
    "map": "map",
    "filter": "filter",
}
_MACROS = ("has", "coalesce", "hash", "unchanged", "now", *_LOOPS)
_SMALL_LIST = 20
"""A literal list of so few elements does not count as a nested loop."""

_NUMBERS = frozenset(("int", "uint", "double", "numeric"))
_ORDERED = _NUMBERS | {"bool", "string", "bytes", "timestamp", "duration"}
_ARITHMETIC: Mapping[str, Mapping[tuple[Type, Type], Type]] = {
    "+": {
        **{(t, t): t for t in ("int", "uint", "double", "numeric", "string", "bytes", "list", "duration")},
        ("timestamp", "duration"): "timestamp",
        ("duration", "timestamp"): "timestamp",
    },
    "-": {
        **{(t, t): t for t in ("int", "uint", "double", "numeric", "duration")},
        ("timestamp", "duration"): "timestamp",
        ("timestamp", "timestamp"): "duration",
    },
    "*": {(t, t): t for t in ("int", "uint", "double", "numeric")},
    "/": {(t, t): t for t in ("int", "uint", "double", "numeric")},
    "%": {(t, t): t for t in ("int", "uint")},
}


@dataclass(frozen=True, slots=True)
class Checked:
    """An expression that may be compiled, and what it reads."""

    tree: Tree
    variables: frozenset[str]
    columns: frozenset[tuple[str, str]]
    whole: frozenset[str]


def check(source: str, node: syntax.Node, env: Environment, *, emit: bool, result: Result) -> Checked:
    """
    Resolve and check an expression.

    Raises:
        CelCheckError: Some name is unknown, or types, arity or the result do not fit.
    """
    checker = _Checker(source, env)
    checked = checker.visit(node)
    checked = checker.result(checked, result)
    if emit:
        checked = checker.emitted(checked)
    return Checked(checked, frozenset(checker.variables), frozenset(checker.columns), frozenset(checker.whole))


class _Checker:
    def __init__(self, source: str, env: Environment) -> None:
        self.variables: set[str] = set()
        self.columns: set[tuple[str, str]] = set()
        self.whole: set[str] = set()
        self._source = source
        self._env = env
        self._scope: dict[str, tuple[int, Type]] = {}
        self._slots = 0
        self._loops = 0
        """How many comprehensions stand around this place."""
        self._deepest = 0
        """The most that stand around any place inside the comprehension being checked."""

    # Mistakes ------------------------------------------------------------------------------------

    def _error(self, offset: int, message: str, hint: str = "") -> CelCheckError:
        return CelCheckError(message, self._source, offset, hint=hint)

    def _mismatch(self, offset: int, message: str, hint: str = "") -> None:
        """Types known beforehand do not fit."""
        if self._env.strict:
            raise self._error(offset, message, hint)

    def _undefined(self, offset: int, message: str, hint: str = "") -> Tree:
        """A name nobody knows."""
        if self._env.strict:
            raise self._error(offset, message, hint)
        return tree.Undefined(offset, "dyn", message)

    def _unknown_name(self, offset: int, name: str, field: str | None = None) -> Tree:
        rows = {row: v.columns for row, v in self._env.variables.items() if isinstance(v, RowVariable)}
        if name == "events":
            return self._undefined(offset, "unknown name 'events'", "events can be named in `cond` only")
        if field is not None and rows:
            row = "new" if "new" in rows else next(iter(rows))
            columns = rows[row]
            if columns is None or field in columns:
                return self._undefined(
                    offset, f"unknown name {name!r}", f"columns are read through {' and '.join(rows)}: {row}.{field}"
                )
        for row, columns in rows.items():
            if columns is not None and name in columns:
                hint = f"the column is written {row}.{name}; the text is quoted: \"'{name}'\""
                return self._undefined(offset, f"unknown name {name!r}", hint)
        meant = _did_you_mean(name, [*self._env.variables, *self._scope])
        return self._undefined(
            offset, f"unknown name {name!r}{meant}", f"if it is text, quote it for CEL too: \"'{name}'\""
        )

    # Walking -------------------------------------------------------------------------------------

    def visit(self, node: syntax.Node) -> Tree:
        """Check any node."""
        match node:
            case syntax.Literal():
                return tree.Constant(node.offset, _literal_type(node.value), node.value)
            case syntax.Name():
                return self._name(node)
            case syntax.Select():
                return self._select(node)
            case syntax.Index():
                return self._index(node)
            case syntax.Call():
                return self._call(node)
            case syntax.ListLiteral():
                return tree.MakeList(node.offset, "list", tuple(self._operand(item) for item in node.items))
            case syntax.MapLiteral():
                return self._map(node)
            case syntax.Unary():
                return self._unary(node)
            case syntax.Binary():
                return self._binary(node)
            case syntax.Logical():
                operands = tuple(self._condition(operand, node.operator) for operand in node.operands)
                return tree.Logical(node.offset, "bool", node.operator, operands)
            case syntax.Conditional():
                condition = self._condition(node.condition, "?:")
                yes, no = self.visit(node.yes), self.visit(node.no)
                kind = self._joined(node.offset, "the branches of ?:", (yes, no))
                return tree.Conditional(node.offset, kind, condition, yes, no)

    def _operand(self, node: syntax.Node) -> Tree:
        """Check a node that something is computed with."""
        checked = self.visit(node)
        if checked.type == "event":
            raise self._error(
                checked.offset, "an event is not a value: it can only be what `cond` yields, or a branch of ?:"
            )
        return checked

    def _condition(self, node: syntax.Node, where: str) -> Tree:
        checked = self._operand(node)
        if checked.type != "bool" and checked.type not in DYNAMIC:
            self._mismatch(checked.offset, f"{where} takes a bool, and this is {checked.type}")
        return checked

    def _joined(self, offset: int, what: str, branches: Iterable[Tree]) -> Type:
        """The type of a value that is one of the branches."""
        joined: Type = "null"
        for branch in branches:
            both = _join(joined, branch.type)
            if both is None:
                if "event" in (joined, branch.type):
                    raise self._error(offset, f"{what} are {joined} and {branch.type}: an event goes with null or text")
                types = f"{joined} and {branch.type}"
                self._mismatch(offset, f"{what} have different types: {types}", "make them one, or wrap one in dyn(…)")
                both = "dyn"
            joined = both
        return joined

    # Names ---------------------------------------------------------------------------------------

    def _name(self, node: syntax.Name) -> Tree:
        if not node.absolute and node.name in self._scope:
            number, kind = self._scope[node.name]
            return tree.Slot(node.offset, kind, number)
        found = self._resolve(node.offset, node.name, node.absolute)
        return found if found is not None else self._unknown_name(node.offset, node.name)

    def _resolve(self, offset: int, name: str, absolute: bool) -> Tree | None:
        """The variable (or type) of a full or qualified name, used as a whole."""
        for candidate in [name] if absolute else self._env.candidates(name):
            variable = self._env.variables.get(candidate)
            if variable is not None:
                return self._whole(offset, candidate, variable)
        if name in TYPES:
            return tree.Constant(offset, "type", TYPES[name])
        return None

    def _whole(self, offset: int, name: str, variable: Variable) -> Tree:
        if isinstance(variable, EventsVariable):
            raise self._error(offset, "events is not a value", f"name one of them: events.{_first(variable.names)}")
        self.variables.add(name)
        if isinstance(variable, ValueVariable):
            return tree.VariableValue(offset, variable.type, name)
        self.whole.add(name)
        return tree.VariableValue(offset, "map", name, is_row=isinstance(variable, RowVariable))

    def _variable_of(self, node: syntax.Node) -> tuple[str, Variable] | None:
        """The variable a plain name stands for, without using it."""
        if not isinstance(node, syntax.Name) or (not node.absolute and node.name in self._scope):
            return None
        for candidate in [node.name] if node.absolute else self._env.candidates(node.name):
            if candidate not in self._env.variables:
                candidate = self._env.aliases.get(candidate, candidate)
            if candidate in self._env.variables:
                return candidate, self._env.variables[candidate]
        return None

    def _select(self, node: syntax.Select) -> Tree:
        qualified = _qualified(node)
        if qualified is not None:
            name, root = qualified
            if root.absolute or root.name not in self._scope:
                found = self._resolve(root.offset, name, root.absolute)
                if found is not None:
                    return found
        member = self._member(node.operand, node.field, node.offset)
        if member is not None:
            return member
        if isinstance(node.operand, syntax.Name) and self._is_unknown(node.operand):
            return self._unknown_name(node.operand.offset, node.operand.name, node.field)
        operand = self._operand(node.operand)
        self._needs_fields(operand, node.field, node.offset)
        return tree.Select(node.offset, "json" if operand.type == "json" else "dyn", operand, node.field)

    def _is_unknown(self, node: syntax.Name) -> bool:
        if not node.absolute and node.name in self._scope:
            return False
        return self._variable_of(node) is None and node.name not in TYPES

    def _needs_fields(self, operand: Tree, field: str, offset: int) -> None:
        if operand.type != "map" and operand.type not in DYNAMIC:
            self._mismatch(offset, f"{operand.type} has no field {field!r}")

    def _member(self, operand: syntax.Node, field: str, offset: int) -> Tree | None:
        """``operand.field`` where the operand is a variable with known members."""
        found = self._variable_of(operand)
        if found is None:
            return None
        name, variable = found
        if isinstance(variable, RowVariable):
            kind = self._column_type(variable, field, offset)
            self.variables.add(name)
            self.columns.add((name, field))
            return tree.Column(offset, kind, name, field)
        if isinstance(variable, StructVariable):
            if field not in variable.fields:
                return self._undefined(
                    offset, f"{name} has no field {field!r}{_did_you_mean(field, variable.fields)}", _fields(variable)
                )
            self.variables.add(name)
            self.columns.add((name, field))
            whole = tree.VariableValue(operand.offset, "map", name)
            return tree.Select(offset, variable.fields[field], whole, field)
        if isinstance(variable, EventsVariable):
            if field not in variable.names:
                known = ", ".join(sorted(variable.names)) or "none"
                message = f"unknown event {field!r}{_did_you_mean(field, variable.names)}"
                raise self._error(offset, message, f"events of this rule: {known}")
            return tree.Constant(offset, "event", field)
        return None

    def _column_type(self, variable: RowVariable, column: str, offset: int) -> Type:
        if column.startswith(EXACT):
            raise self._error(offset, "no column's name begins with NUL")
        if variable.columns is None:
            return "dyn"
        if column not in variable.columns:
            hint = "" if variable.columns else "the table has no visible columns"
            raise self._error(offset, f"unknown column {column!r}{_did_you_mean(column, variable.columns)}", hint)
        return variable.columns[column]

    def _index(self, node: syntax.Index) -> Tree:
        if isinstance(node.key, syntax.Literal) and isinstance(node.key.value, str):
            member = self._member(node.operand, node.key.value, node.key.offset)
            if member is not None:
                return member
        found = self._variable_of(node.operand)
        if found is not None and isinstance(found[1], EventsVariable):
            raise self._error(node.offset, "events takes a literal name", "write events['name']")
        operand, key = self._operand(node.operand), self._operand(node.key)
        if operand.type == "list":
            if key.type not in _NUMBERS and key.type not in DYNAMIC:
                self._mismatch(key.offset, f"a list is indexed by int, not {key.type}")
        elif operand.type != "map" and operand.type not in DYNAMIC:
            hint = "charAt(i) or substring(a, b) reads a string"
            self._mismatch(node.offset, f"{operand.type} cannot be indexed", hint)
        return tree.Index(node.offset, "json" if operand.type == "json" else "dyn", operand, key)

    def _map(self, node: syntax.MapLiteral) -> Tree:
        entries = tuple((self._operand(key), self._operand(value)) for key, value in node.entries)
        seen: set[object] = set()
        for key, _ in entries:
            if key.type not in ("int", "uint", "bool", "string") and key.type not in DYNAMIC:
                self._mismatch(key.offset, f"a map's key cannot be {key.type}")
            if isinstance(key, tree.Constant) and self._env.strict:
                known = (type(key.value) is bool, key.value)
                if known in seen:
                    raise self._error(key.offset, "the same key twice in a map")
                seen.add(known)
        return tree.MakeMap(node.offset, "map", entries)

    # Operators -----------------------------------------------------------------------------------

    def _unary(self, node: syntax.Unary) -> Tree:
        if node.operator == "!":
            return tree.Not(node.offset, "bool", self._condition(node.operand, "!"))
        operand = self._operand(node.operand)
        kind = operand.type
        if kind not in ("int", "double", "numeric") and kind not in DYNAMIC:
            self._mismatch(node.offset, f"- takes a number, and this is {kind}")
            kind = "dyn"
        return tree.Negate(node.offset, kind, operand)

    def _binary(self, node: syntax.Binary) -> Tree:
        if node.operator in ("==", "!="):
            return self._equality(node)
        left, right = self._operand(node.left), self._operand(node.right)
        if node.operator == "in":
            self._check_contained(node.offset, left, right)
            return tree.Contained(node.offset, "bool", left, right)
        if node.operator in ("<", "<=", ">", ">="):
            comparable = _join(left.type, right.type)
            known = {left.type, right.type} - DYNAMIC
            if comparable is None or not known <= _ORDERED:
                self._no_operator(node, left, right)
            return tree.Relation(node.offset, "bool", node.operator, left, right)
        return self._arithmetic(node, left, right)

    def _equality(self, node: syntax.Binary) -> Tree:
        negated = node.operator == "!="
        for side, other in ((node.left, node.right), (node.right, node.left)):
            found = self._variable_of(side) if isinstance(other, syntax.Literal) and other.value is None else None
            if found is not None and isinstance(found[1], RowVariable):
                self.variables.add(found[0])
                return tree.RowIsNull(node.offset, "bool", found[0], negated)
        left, right = self._operand(node.left), self._operand(node.right)
        if (
            isinstance(left, tree.Column)
            and isinstance(right, tree.Column)
            and left.name == right.name
            and left.variable != right.variable
        ):
            return tree.SameColumn(node.offset, "bool", left, right, negated)
        if _join(left.type, right.type) is None:
            self._no_operator(node, left, right)
        return tree.Equality(node.offset, "bool", left, right, negated)

    def _check_contained(self, offset: int, element: Tree, container: Tree) -> None:
        kind = container.type
        if kind not in ("list", "map") and kind not in DYNAMIC:
            hint = "write text.contains(part)" if kind == "string" else ""
            self._mismatch(container.offset, f"in takes a list or a map, and this is {kind}", hint)
        items = container.items if isinstance(container, tree.MakeList) else ()
        if items and all(_join(element.type, item.type) is None for item in items):
            message = f"this is never true: {element.type} in a list of {items[0].type}"
            self._mismatch(offset, message, "convert one side")

    def _arithmetic(self, node: syntax.Binary, left: Tree, right: Tree) -> Tree:
        table = _ARITHMETIC[node.operator]
        mixed = left.type in MIXING or right.type in MIXING
        kind = table.get((left.type, right.type))
        if kind is None and "numeric" in (left.type, right.type) and {left.type, right.type} <= _NUMBERS:
            kind = "numeric" if node.operator != "%" else None
        elif kind is None and (left.type in DYNAMIC or right.type in DYNAMIC):
            known = right.type if left.type in DYNAMIC else left.type
            fitting = {result for pair, result in table.items() if known in pair}
            if known in DYNAMIC:
                kind = "json" if mixed else "dyn"
            elif fitting:
                # A number out of JSON may turn an int into a double; nothing else changes the other side's type.
                sure = len(fitting) == 1 and not (mixed and known in _NUMBERS)
                kind = fitting.pop() if sure else "json" if mixed else "dyn"
        if kind is None:
            self._no_operator(node, left, right)
            kind = "dyn"
        return tree.Arithmetic(node.offset, kind, node.operator, left, right, mixed)

    def _no_operator(self, node: syntax.Binary, left: Tree, right: Tree) -> None:
        hint = ""
        types = {left.type, right.type}
        if types == {"int", "double"}:
            number = left if left.type == "int" else right
            if isinstance(number, tree.Constant):
                hint = f"write {number.value}.0"
            elif isinstance(number, tree.Column):
                hint = f"write double({number.variable}.{number.name})"
            else:
                hint = "convert the int: double(…)"
        elif types == {"timestamp", "string"}:
            hint = "write timestamp('2026-01-02T03:04:05Z') around the text"
        elif "null" in types and node.operator in _ARITHMETIC:
            hint = "coalesce(a, b) gives the first that is not null"
        elif "string" in types and types & _NUMBERS:
            hint = "convert one side: string(…), int(…) or double(…)"
        self._mismatch(node.offset, f"{left.type} {node.operator} {right.type} has no meaning", hint)

    # Calls ---------------------------------------------------------------------------------------

    def _call(self, node: syntax.Call) -> Tree:
        name, target = node.function, node.target
        if target is None:
            if name == "has":
                return self._has(node)
            if name == "coalesce":
                arguments = self._some(node, 1)
                kind = self._joined(node.offset, "the arguments of coalesce()", arguments)
                return tree.Coalesce(node.offset, kind, arguments)
            if name == "hash":
                return self._hash(node)
            if name == "unchanged":
                return self._unchanged(node)
            if name == "now":
                return self._undefined(
                    node.offset,
                    "there is no now(): a change that is read again has to make the same event",
                    "change.commit_time is when it was committed",
                )
            if name in FUNCTIONS:
                return self._invoke(node, FUNCTIONS[name], tuple(self._operand(a) for a in node.arguments))
            return self._unknown_function(node, name, [*FUNCTIONS, *_MACROS, *METHODS])
        if isinstance(target, syntax.Name) and target.name in NAMESPACES and self._is_unknown(target):
            return self._in_namespace(node, target.name)
        if name in _LOOPS and (node.arguments or self._env.strict):
            return self._loop(node, target)
        if name in METHODS:
            receiver = self._operand(target)
            return self._invoke(node, METHODS[name], (receiver, *(self._operand(a) for a in node.arguments)))
        return self._unknown_function(node, name, [*METHODS, *_LOOPS, *FUNCTIONS])

    def _unknown_function(self, node: syntax.Call, name: str, known: Iterable[str]) -> Tree:
        hint = ""
        if node.target is None and name in METHODS:
            hint = f"it is written value.{name}(…)"
        elif node.target is not None and name in FUNCTIONS:
            hint = f"it is written {name}(value)"
        meant = "" if hint else _did_you_mean(name, known)
        return self._undefined(node.offset, f"unknown function {name!r}{meant}", hint)

    def _some(self, node: syntax.Call, least: int, most: int | None = None) -> tuple[Tree, ...]:
        count = len(node.arguments)
        if count < least or (most is not None and count > most):
            wanted = str(least) if most == least else f"at least {least}"
            raise self._error(node.offset, f"{node.function}() takes {wanted} argument(s), and was given {count}")
        return tuple(self._operand(argument) for argument in node.arguments)

    def _in_namespace(self, node: syntax.Call, namespace: str) -> Tree:
        name = f"{namespace}.{node.function}"
        if name == "cel.bind":
            return self._bind(node)
        if name not in FUNCTIONS:
            known = ["cel.bind", *(known for known in FUNCTIONS if known.startswith("math."))]
            return self._undefined(node.offset, f"unknown function {name!r}{_did_you_mean(name, known)}")
        return self._invoke(node, FUNCTIONS[name], tuple(self._operand(argument) for argument in node.arguments))

    def _invoke(self, node: syntax.Call, function: Function, arguments: tuple[Tree, ...]) -> Tree:
        receiver = 1 if function.is_method else 0
        most = len(function.parameters)
        if len(arguments) < function.required or (len(arguments) > most and not function.is_variadic):
            least = function.required - receiver
            wanted = f"{least}" if function.required == most else f"{least} or {most - receiver}"
            given = len(arguments) - receiver
            return self._undefined(node.offset, f"{function.name}() takes {wanted} argument(s), and was given {given}")
        for i, argument in enumerate(arguments):
            accepted = function.parameters[min(i, most - 1)]
            if accepted and not _fits(argument.type, accepted):
                self._mismatch(
                    argument.offset,
                    f"{function.name}() takes {_either(accepted)} here, and this is {argument.type}",
                    "convert the int: double(…)" if argument.type == "int" and accepted == {"double"} else "",
                )
        first = arguments[0]
        if function.result in ("timestamp", "duration") and isinstance(first, tree.Constant) and first.type == "string":
            try:
                return tree.Constant(node.offset, function.result, function.implementation(first.value))
            except Failure as failure:
                self._mismatch(first.offset, failure.reason)
        last = arguments[-1]
        if function.name == "matches" and isinstance(last, tree.Constant) and last.type == "string":
            try:
                regex(last.value)
            except Failure as failure:
                self._mismatch(last.offset, failure.reason)
        kind = first.type if function.result == "first" else function.result
        return tree.Invoke(node.offset, kind, function, arguments)

    def _has(self, node: syntax.Call) -> Tree:
        if len(node.arguments) != 1 or not isinstance(node.arguments[0], (syntax.Select, syntax.Index)):
            raise self._error(node.offset, "has() takes one field, such as has(new.name)")
        field = node.arguments[0]
        if isinstance(field, syntax.Index):
            if not (isinstance(field.key, syntax.Literal) and isinstance(field.key.value, str)):
                raise self._error(field.offset, "has() takes a field by its name")
            operand, name, offset = field.operand, field.key.value, field.key.offset
        else:
            operand, name, offset = field.operand, field.field, field.offset
        member = self._member(operand, name, offset)
        if isinstance(member, tree.Column):
            return tree.HasColumn(node.offset, "bool", member.variable, member.name)
        if isinstance(member, tree.Select):
            return tree.Has(offset, "bool", member.operand, member.field)
        if member is not None:
            raise self._error(offset, "has() takes a column or a key of a map")
        if isinstance(operand, syntax.Name) and self._is_unknown(operand):
            return self._unknown_name(operand.offset, operand.name, name)
        checked = self._operand(operand)
        self._needs_fields(checked, name, offset)
        return tree.Has(offset, "bool", checked, name)

    def _unchanged(self, node: syntax.Call) -> Tree:
        arguments = self._some(node, 1, 1)
        if not isinstance(arguments[0], tree.Column):
            raise self._error(node.offset, "unchanged() takes a column, such as unchanged(new.body)")
        return tree.Unchanged(node.offset, "bool", arguments[0].variable, arguments[0].name)

    def _hash(self, node: syntax.Call) -> Tree:
        arguments = self._some(node, 1, 1)
        if self._env.hash_key is None:
            raise self._error(node.offset, "hash() needs a key", "set `hash_key` in the configuration")
        accepted = frozenset(("string", "int", "uint", "double", "bool", "bytes", "timestamp", "duration", "null"))
        if not _fits(arguments[0].type, accepted):
            self._mismatch(node.offset, f"hash() does not take {arguments[0].type}")
        function = Function("hash", (accepted,), 1, "string", keyed_hash(self._env.hash_key))
        return tree.Invoke(node.offset, "string", function, arguments)

    def _loop_variable(self, node: syntax.Node) -> str:
        if not isinstance(node, syntax.Name) or node.absolute:
            raise self._error(node.offset, "the first argument names the variable that stands for each element")
        return node.name

    def _slot(self) -> int:
        self._slots += 1
        return self._slots

    def _inside(self, slot: int, name: str, kind: Type, body: syntax.Node) -> Tree:
        """Check `body` with one more name in scope."""
        outer = self._scope
        self._scope = {**outer, name: (slot, kind)}
        try:
            return self._operand(body)
        finally:
            self._scope = outer

    def _bind(self, node: syntax.Call) -> Tree:
        if len(node.arguments) != 3:
            raise self._error(node.offset, "cel.bind() takes a name, a value and an expression")
        name = self._loop_variable(node.arguments[0])
        value = self._operand(node.arguments[1])
        slot = self._slot()
        body = self._inside(slot, name, value.type, node.arguments[2])
        return tree.Bind(node.offset, body.type, slot, value, body)

    def _loop(self, node: syntax.Call, target: syntax.Node) -> Tree:
        kind = _LOOPS[node.function]
        if len(node.arguments) != 2 and not (kind == "map" and len(node.arguments) == 3):
            raise self._error(node.offset, f"{kind}() takes a variable and an expression: list.{kind}(x, …)")
        items = self._operand(target)
        if items.type not in ("list", "map") and items.type not in DYNAMIC:
            self._mismatch(items.offset, f"{kind}() runs over a list or a map, and this is {items.type}")
        counts = not (isinstance(items, tree.MakeList) and len(items.items) <= _SMALL_LIST)
        outer_deepest = self._deepest
        self._loops += counts
        self._deepest = self._loops
        if self._loops > len(NESTED_LIMITS):
            raise self._error(node.offset, f"comprehensions nest at most {len(NESTED_LIMITS)} deep")

        name = self._loop_variable(node.arguments[0])
        element = _element_type(items)
        slot = self._slot()
        bodies = [self._inside(slot, name, element, body) for body in node.arguments[1:]]
        transform = bodies.pop() if kind == "map" else None
        predicate = bodies.pop() if bodies else None
        if predicate is not None and predicate.type != "bool" and predicate.type not in DYNAMIC:
            self._mismatch(predicate.offset, f"{kind}() takes a condition, and this is {predicate.type}")

        limit = NESTED_LIMITS[self._deepest - 1] if counts and self._deepest > 1 else None
        self._loops -= counts
        self._deepest = max(outer_deepest, self._deepest)
        result = "bool" if kind in ("all", "exists", "exists_one") else "list"
        if kind == "filter" and items.type == "json":
            result = "json"
        return tree.Comprehension(node.offset, result, kind, items, limit, slot, predicate, transform)

    # The result ----------------------------------------------------------------------------------

    def result(self, checked: Tree, result: Result) -> Tree:
        """Hold the whole expression's type against what its place in the configuration needs."""
        kind, offset = checked.type, checked.offset
        if kind == "event" and result != "event":
            raise self._error(offset, "an event can be named in `cond` only")
        if result == "event":
            if kind not in ("event", "string", "null"):
                hint = "string(…) makes it text" if kind in DYNAMIC else "events.name, text, or null"
                raise self._error(offset, f"cond must yield an event, text or null, and this is {kind}", hint)
        elif result == "bool":
            if kind != "bool" and kind not in DYNAMIC:
                raise self._error(offset, f"this must be a bool, and is {kind}")
        elif result == "string":
            if kind not in ("string", "null") and kind not in DYNAMIC:
                raise self._error(offset, f"this must be text, and is {kind}", "string(…) makes it text")
        elif result == "timestamp" and kind not in ("timestamp", "null") and kind not in DYNAMIC:
            hint = "timestamp(…) reads text" if kind == "string" else ""
            raise self._error(offset, f"this must be a timestamp, and is {kind}", hint)
        if result == "any":
            return checked
        return tree.Expect(offset, "string" if result == "event" else result, checked)

    def emitted(self, checked: Tree) -> Tree:
        """Make the result JSON-ready; a bare column keeps the digits of its source."""
        if isinstance(checked, tree.Column):
            self.columns = {(checked.variable, EXACT + checked.name)}
            return tree.ExactColumn(checked.offset, checked.type, checked.variable, checked.name)
        return tree.Emit(checked.offset, checked.type, checked)


def _literal_type(value: object) -> Type:
    if value is None:
        return "null"
    return {bool: "bool", int: "int", float: "double", str: "string", bytes: "bytes"}.get(type(value), "uint")


def _join(a: Type, b: Type) -> Type | None:
    """The type of a value that is `a` or `b`; None where the two never meet."""
    if a == b or b == "null":
        return a
    if a == "null":
        return b
    if "event" in (a, b):
        return "event" if "string" in (a, b) else None
    if a in DYNAMIC or b in DYNAMIC:
        return "json" if "json" in (a, b) else "dyn"
    if "numeric" in (a, b) and a in _NUMBERS and b in _NUMBERS:
        return "numeric"
    return None


def _fits(kind: Type, accepted: frozenset[str]) -> bool:
    return kind in accepted or kind in DYNAMIC or (kind == "numeric" and "double" in accepted)


def _either(accepted: frozenset[str]) -> str:
    *most, last = sorted(accepted)
    return f"{', '.join(most)} or {last}" if most else last


def _element_type(items: Tree) -> Type:
    if items.type == "json":
        return "json"
    if isinstance(items, tree.VariableValue) and items.is_row:
        return "string"
    if isinstance(items, tree.MakeList):
        types = {item.type for item in items.items}
        if len(types) == 1:
            kind = types.pop()
            return "dyn" if kind == "null" else kind
    return "dyn"


def _qualified(node: syntax.Node) -> tuple[str, syntax.Name] | None:
    """``a.b.c`` as text, and its root, where it is names all the way."""
    fields: list[str] = []
    while isinstance(node, syntax.Select):
        fields.append(node.field)
        node = node.operand
    if not isinstance(node, syntax.Name):
        return None
    return ".".join([node.name, *reversed(fields)]), node


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _fields(variable: StructVariable) -> str:
    return f"its fields: {', '.join(sorted(variable.fields))}"


def _first(names: frozenset[str]) -> str:
    return min(names, default="name")
