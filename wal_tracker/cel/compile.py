"""
Programs: an expression made callable, fast form first.

`compile` checks one expression. `fuse` puts many into one generated function, for the properties of an event.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wal_tracker.cel import syntax
from wal_tracker.cel.check import Checked, Result, check
from wal_tracker.cel.environment import Environment
from wal_tracker.cel.errors import CelEvaluationError, CelSyntaxError, position
from wal_tracker.cel.generate import ColumnGenerator, Generator
from wal_tracker.cel.interpret import interpret
from wal_tracker.cel.runtime import Failure
from wal_tracker.cel.tree import Type


class Program:
    """A compiled expression. Immutable, and safe to use from any thread."""

    __slots__ = ("_fast", "_names", "_tree", "columns", "source", "type", "variables", "whole")

    def __init__(self, source: str, checked: Checked) -> None:
        """Made by `compile`."""
        self.source = source
        self.type: Type = checked.tree.type
        """What the value is, if it is not null."""
        self.variables = checked.variables
        """Names of the variables it reads."""
        self.columns = checked.columns
        """``(variable, row key)`` for each column or field it reads; a key may begin with `EXACT`."""
        self.whole = checked.whole
        """Variables it takes as a whole: a bare ``new``, ``new[k]``, ``new.all(…)``."""
        self._tree = checked.tree
        self._names = tuple(sorted(checked.variables))
        self._fast = self.function(self._names)

    def evaluate(self, bindings: Mapping[str, Any]) -> Any:
        """
        The value for the given variables.

        Raises:
            CelEvaluationError: There is none.
        """
        try:
            arguments = [bindings[name] for name in self._names]
        except KeyError as error:
            raise CelEvaluationError(f"no value for the variable {error.args[0]!r}") from None
        return self._fast(*arguments)

    def function(self, params: Sequence[str]) -> Callable[..., Any]:
        """
        The program as a plain function.

        Args:
            params: Names of its positional parameters; every variable of the program must be among them.

        Returns:
            A function that raises CelEvaluationError where there is no value.
        """
        names = _parameters(params)
        generator = Generator(names)
        code = generator.code(self._tree)

        def slow(*arguments: Any) -> Any:
            return self.evaluate_slowly(dict(zip(params, arguments, strict=True)))

        return _function(self.source, code, names, generator.namespace, slow)

    def evaluate_slowly(self, bindings: Mapping[str, Any]) -> Any:
        """
        The value by the slow form alone; what the fast form is held against.

        Raises:
            CelEvaluationError: There is none.
        """
        try:
            return interpret(self._tree, bindings)
        except Failure as failure:
            line, column = position(self.source, failure.offset or 0)
            raise CelEvaluationError(failure.reason, line=line, column=column) from None
        except RecursionError:
            raise CelEvaluationError("the value is nested too deeply") from None
        except Exception as error:
            # Nothing a row holds may stop the stream; the cause tells us what we did not foresee.
            raise CelEvaluationError(f"unforeseen {builtins.type(error).__name__}") from error


def compile(source: str, env: Environment, *, emit: bool = False, result: Result = "any") -> Program:
    """
    Make a program of an expression.

    Args:
        source: The expression.
        env: What it may name.
        emit: Whether the value comes out ready for JSON (see `wal_tracker.cel.export`). An expression that is just a
            column then reads the row key ``EXACT + column``, which holds the digits of the source.
        result: What it must yield. ``event``, ``string`` and ``timestamp`` may be null; ``bool`` may not.

    Raises:
        CelSyntaxError: It is not CEL, or too long or too deep.
        CelCheckError: Names, arity or types do not fit.
    """
    return Program(source, check(source, syntax.parse(source), env, emit=emit, result=result))


def fuse(outputs: Mapping[str, Program], params: Sequence[str]) -> Callable[..., dict[str, Any]]:
    """
    One function that evaluates many programs over the same variables.

    Args:
        outputs: Name of each value in the result, in its order.
        params: Names of the function's positional parameters; they include every variable of every program.

    Returns:
        A function to ``{name: value}``; raises CelEvaluationError with `output` set to the first name that failed.
    """
    names = _parameters(params)
    generator = Generator(names)
    items = [f"{name!r}: {generator.code(program._tree)}" for name, program in outputs.items()]
    code = "{" + ", ".join(items) + "}"

    def slow(*arguments: Any) -> dict[str, Any]:
        bindings = dict(zip(params, arguments, strict=True))
        values: dict[str, Any] = {}
        for name, program in outputs.items():
            try:
                values[name] = program.evaluate_slowly(bindings)
            except CelEvaluationError as error:
                raise CelEvaluationError(
                    error.reason, line=error.line, column=error.column, output=name
                ) from error.__cause__
        return values

    function: Callable[..., dict[str, Any]] = _function("", code, names, generator.namespace, slow)
    return function


class Columns:
    """
    The fast form of programs as source text over columns, for a function somebody else generates.

    What it reads are variables named in `names`. The source raises anything at all where the fast form is not right.
    """

    def __init__(self) -> None:
        self._generator = ColumnGenerator()

    def code(self, program: Program) -> str:
        """
        An expression, safe to put next to any operator.

        Raises:
            NeedsMoreThanColumns: The program reads something else.
        """
        return self._generator.code(program._tree)

    @property
    def reads(self) -> tuple[tuple[str, str], ...]:
        """``(variable, row key)`` of every column the programs read; a key may begin with `EXACT`."""
        return tuple(self._generator.reads)

    @property
    def names(self) -> tuple[str, ...]:
        """The variable that stands for each of `reads`."""
        return tuple(self._generator.reads.values())

    @property
    def namespace(self) -> dict[str, Any]:
        """What else the source names."""
        return self._generator.namespace


def _parameters(params: Sequence[str]) -> dict[str, str]:
    """A Python name for each variable; numbered, as a variable's own name may be anything."""
    return {name: f"v{i}" for i, name in enumerate(params)}


def _function(
    source: str, code: str, names: Mapping[str, str], namespace: dict[str, Any], slow: Callable[..., Any]
) -> Callable[..., Any]:
    arguments = ", ".join(names.values())
    text = f"def f({arguments}):\n try:\n  return {code}\n except Exception:\n  return slow({arguments})\n"
    namespace["slow"] = slow
    try:
        exec(builtins.compile(text, "<cel>", "exec"), namespace)  # noqa: S102 (see generate.py for what is in it)
    except (SyntaxError, MemoryError, RecursionError):
        # Python bounds nesting too: 200 brackets in CPython's tokenizer.
        raise CelSyntaxError("the expression is nested too deeply", source, 0) from None
    function: Callable[..., Any] = namespace["f"]
    return function
