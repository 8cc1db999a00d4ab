"""
The slow form: the checked tree walked, with everything CEL says about errors.

It is run when the fast form raises. ``&&``, ``||``, ``all`` and ``exists`` absorb an error where another operand
decides; ``coalesce`` steps over what is missing; a failure that remains carries the place it arose at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from wal_tracker.cel import runtime, tree
from wal_tracker.cel.export import exact_column, exact_row, export
from wal_tracker.cel.runtime import Failure

RELATIONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": runtime.less,
    "<=": runtime.less_or_equal,
    ">": runtime.greater,
    ">=": runtime.greater_or_equal,
}
ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": runtime.add,
    "-": runtime.subtract,
    "*": runtime.multiply,
    "/": runtime.divide,
    "%": runtime.modulo,
}
ARITHMETIC_MIXED: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": runtime.add_mixed,
    "-": runtime.subtract_mixed,
    "*": runtime.multiply_mixed,
    "/": runtime.divide_mixed,
    "%": runtime.modulo_mixed,
}


def interpret(root: tree.Tree, bindings: Mapping[str, Any]) -> Any:
    """
    The value of a checked tree.

    Args:
        root: What to evaluate.
        bindings: A value for each variable the tree reads.

    Raises:
        Failure: There is none; with `offset` set.
    """
    return _Evaluation(bindings).value(root)


class _Evaluation:
    def __init__(self, bindings: Mapping[str, Any]) -> None:
        self._bindings = bindings
        self._slots: dict[int, Any] = {}

    def value(self, node: tree.Tree) -> Any:
        try:
            return _HANDLERS[type(node)](self, node)
        except Failure as failure:
            if failure.offset is None:
                failure.offset = node.offset
            raise

    def _constant(self, node: tree.Constant) -> Any:
        return node.value

    def _variable(self, node: tree.VariableValue) -> Any:
        value = self._bindings[node.name]
        return runtime.whole_row(value) if node.is_row else value

    def _row_is_null(self, node: tree.RowIsNull) -> bool:
        return (self._bindings[node.name] is None) is not node.negated

    def _column(self, node: tree.Column) -> Any:
        return runtime.column(self._bindings[node.variable], node.name)

    def _exact_column(self, node: tree.ExactColumn) -> Any:
        return exact_column(self._bindings[node.variable], node.name)

    def _has_column(self, node: tree.HasColumn) -> bool:
        return runtime.has_column(self._bindings[node.variable], node.name)

    def _unchanged(self, node: tree.Unchanged) -> bool:
        return runtime.is_unchanged(self._bindings[node.variable], node.name)

    def _same_column(self, node: tree.SameColumn) -> bool:
        left, right = self._bindings[node.left.variable], self._bindings[node.right.variable]
        return runtime.same_column(left, right, node.left.name) is not node.negated

    def _slot(self, node: tree.Slot) -> Any:
        value = self._slots[node.number]
        if isinstance(value, Failure):
            raise value
        return value

    def _select(self, node: tree.Select) -> Any:
        return runtime.select(self.value(node.operand), node.field)

    def _has(self, node: tree.Has) -> bool:
        return runtime.has(self.value(node.operand), node.field)

    def _index(self, node: tree.Index) -> Any:
        return runtime.index(self.value(node.operand), self.value(node.key))

    def _list(self, node: tree.MakeList) -> list[Any]:
        return [self.value(item) for item in node.items]

    def _map(self, node: tree.MakeMap) -> dict[Any, Any]:
        return runtime.make_map(*(self.value(part) for entry in node.entries for part in entry))

    def _not(self, node: tree.Not) -> bool:
        return not runtime.truth(self.value(node.operand))

    def _negate(self, node: tree.Negate) -> Any:
        return runtime.negate(self.value(node.operand))

    def _equality(self, node: tree.Equality) -> bool:
        return runtime.equal(self.value(node.left), self.value(node.right)) is not node.negated

    def _relation(self, node: tree.Relation) -> bool:
        return RELATIONS[node.operator](self.value(node.left), self.value(node.right))

    def _contained(self, node: tree.Contained) -> bool:
        return runtime.contained(self.value(node.element), self.value(node.container))

    def _arithmetic(self, node: tree.Arithmetic) -> Any:
        operators = ARITHMETIC_MIXED if node.mixed else ARITHMETIC
        return operators[node.operator](self.value(node.left), self.value(node.right))

    def _logical(self, node: tree.Logical) -> bool:
        return self._decided(node.operator == "||", node.operands, self.value)

    def _decided(self, decisive: bool, operands: Iterable[Any], value: Callable[[Any], Any]) -> bool:
        """`decisive` as soon as one operand's value is; else the first error; else the other bool."""
        first: Failure | None = None
        for operand in operands:
            try:
                if runtime.truth(value(operand)) is decisive:
                    return decisive
            except Failure as failure:
                first = first or failure
        if first is not None:
            raise first
        return not decisive

    def _conditional(self, node: tree.Conditional) -> Any:
        return self.value(node.yes if runtime.truth(self.value(node.condition)) else node.no)

    def _invoke(self, node: tree.Invoke) -> Any:
        return node.function.implementation(*(self.value(argument) for argument in node.arguments))

    def _coalesce(self, node: tree.Coalesce) -> Any:
        for argument in node.arguments:
            try:
                value = self.value(argument)
            except Failure as failure:
                if not failure.missing:
                    raise
            else:
                if value is not None:
                    return value
        return None

    def _comprehension(self, node: tree.Comprehension) -> Any:
        found = self.value(node.range)
        items = runtime.elements(found) if node.limit is None else runtime.bounded_elements(found, node.limit)
        if node.kind == "all" or node.kind == "exists":
            return self._decided(node.kind == "exists", items, lambda item: self._holds(node, item))
        if node.kind == "exists_one":
            return sum([self._holds(node, item) for item in items]) == 1
        kept: list[Any] = []
        for item in items:
            if node.predicate is None or self._holds(node, item):
                if node.transform is not None:
                    self._slots[node.slot] = item
                    item = self.value(node.transform)
                kept.append(item)
        return kept

    def _holds(self, node: tree.Comprehension, item: Any) -> bool:
        assert node.predicate is not None
        self._slots[node.slot] = item
        return runtime.truth(self.value(node.predicate))

    def _bind(self, node: tree.Bind) -> Any:
        try:
            self._slots[node.slot] = self.value(node.value)
        except Failure as failure:
            # A name that is not used fails nothing.
            self._slots[node.slot] = failure
        return self.value(node.body)

    def _undefined(self, node: tree.Undefined) -> Any:
        raise Failure(node.reason)

    def _expect(self, node: tree.Expect) -> Any:
        value = self.value(node.operand)
        if node.type == "bool":
            return runtime.truth(value)
        return runtime.expect_timestamp(value) if node.type == "timestamp" else runtime.expect_string(value)

    def _emit(self, node: tree.Emit) -> Any:
        operand = node.operand
        if isinstance(operand, tree.VariableValue) and operand.is_row:
            return exact_row(self._bindings[operand.name])
        return export(self.value(operand))


_HANDLERS: Mapping[type[Any], Callable[[_Evaluation, Any], Any]] = {
    tree.Constant: _Evaluation._constant,
    tree.VariableValue: _Evaluation._variable,
    tree.RowIsNull: _Evaluation._row_is_null,
    tree.Column: _Evaluation._column,
    tree.ExactColumn: _Evaluation._exact_column,
    tree.HasColumn: _Evaluation._has_column,
    tree.Unchanged: _Evaluation._unchanged,
    tree.SameColumn: _Evaluation._same_column,
    tree.Slot: _Evaluation._slot,
    tree.Select: _Evaluation._select,
    tree.Has: _Evaluation._has,
    tree.Index: _Evaluation._index,
    tree.MakeList: _Evaluation._list,
    tree.MakeMap: _Evaluation._map,
    tree.Not: _Evaluation._not,
    tree.Negate: _Evaluation._negate,
    tree.Equality: _Evaluation._equality,
    tree.Relation: _Evaluation._relation,
    tree.Contained: _Evaluation._contained,
    tree.Arithmetic: _Evaluation._arithmetic,
    tree.Logical: _Evaluation._logical,
    tree.Conditional: _Evaluation._conditional,
    tree.Invoke: _Evaluation._invoke,
    tree.Coalesce: _Evaluation._coalesce,
    tree.Comprehension: _Evaluation._comprehension,
    tree.Bind: _Evaluation._bind,
    tree.Undefined: _Evaluation._undefined,
    tree.Expect: _Evaluation._expect,
    tree.Emit: _Evaluation._emit,
}
