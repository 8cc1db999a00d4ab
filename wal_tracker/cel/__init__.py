"""
CEL, the Common Expression Language, over rows.

cel-python parses; names and types are checked here; what runs is generated Python, with an interpreter behind it
for everything unusual. This room is pure: it knows no PostgreSQL, no change, no clock.
"""

from __future__ import annotations

from wal_tracker.cel.check import Result
from wal_tracker.cel.compile import Columns, Program, compile, fuse  # noqa: A004 (cel.compile, as re.compile)
from wal_tracker.cel.environment import Environment, Variable, events, row, struct, value
from wal_tracker.cel.errors import CelCheckError, CelCompileError, CelError, CelEvaluationError, CelSyntaxError
from wal_tracker.cel.generate import NeedsMoreThanColumns

__all__ = [
    "CelCheckError",
    "CelCompileError",
    "CelError",
    "CelEvaluationError",
    "CelSyntaxError",
    "Columns",
    "Environment",
    "NeedsMoreThanColumns",
    "Program",
    "Result",
    "Variable",
    "compile",
    "events",
    "fuse",
    "row",
    "struct",
    "value",
]
