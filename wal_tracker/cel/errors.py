"""
What can go wrong with an expression.

::

    CelError
    ├── CelSyntaxError        it is not CEL
    ├── CelCheckError         it names something that is not there, or mixes types
    └── CelEvaluationError    it failed on one row

The first two are met when the configuration is read and show the place with a caret. The third belongs to one change;
its text never holds a value of the row.
"""

from __future__ import annotations

from wal_tracker.errors import WalTrackerError


class CelError(WalTrackerError):
    """Base of everything raised here. `rendered` is the text for a person."""

    def __init__(self, message: str, *, line: int, column: int, rendered: str) -> None:
        super().__init__(rendered)
        self.message = message
        self.line = line
        """1-based, inside the expression."""
        self.column = column
        """1-based, in characters."""
        self.rendered = rendered


class CelCompileError(CelError):
    """An expression that cannot be used: the common base of `CelSyntaxError` and `CelCheckError`."""

    exit_code = 2

    def __init__(self, message: str, source: str, offset: int, *, hint: str = "") -> None:
        """
        Args:
            message: What is wrong, without the place.
            source: The whole expression.
            offset: Where in `source`, in characters from 0.
            hint: What to write instead.
        """
        line, column = position(source, offset)
        text = source.split("\n")[line - 1]
        # Tabs are kept, so that the caret stands under its character however wide they are shown.
        margin = "".join("\t" if character == "\t" else " " for character in text[: column - 1])
        rendered = f"{line}:{column}: {message}\n  | {text}\n  | {margin}^"
        if hint:
            rendered += f"\n  hint: {hint}"
        super().__init__(message, line=line, column=column, rendered=rendered)
        self.hint = hint


class CelSyntaxError(CelCompileError):
    """The text is not a CEL expression, or exceeds a bound on length or nesting."""


class CelCheckError(CelCompileError):
    """Names, arity, or types known beforehand do not fit."""


class CelEvaluationError(CelError):
    """Evaluation failed on the given values. Says where and why, never with which values."""

    def __init__(self, reason: str, *, line: int = 1, column: int = 1, output: str | None = None) -> None:
        """
        Args:
            reason: Why, and where there is one the remedy.
            line: 1-based line in the expression.
            column: 1-based column in the expression.
            output: Name of the output of a fused function that failed.
        """
        where = f"property {output!r}, " if output is not None else ""
        super().__init__(reason, line=line, column=column, rendered=f"{where}{line}:{column}: {reason}")
        self.reason = reason
        self.output = output


def position(source: str, offset: int) -> tuple[int, int]:
    """Line and column (1-based) of a character."""
    return source.count("\n", 0, offset) + 1, offset - source.rfind("\n", 0, offset)
