"""Rows and environments the tests of this room share."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from wal_tracker import cel
from wal_tracker.pgtypes import CelType

COLUMNS: dict[str, CelType] = {
    "id": "int",
    "age": "int",
    "mail": "string",
    "nick": "string",
    "vip": "bool",
    "price": "double",
    "rate": "numeric",
    "extra": "json",
    "labels": "list",
    "raw": "bytes",
    "at": "timestamp",
    "in": "int",
    "for": "int",
    "größe": "int",
}
FULL: dict[str, Any] = {
    "id": 1,
    "age": 30,
    "mail": "kim@example.org",
    "nick": "Kim",
    "vip": True,
    "price": 9.5,
    "rate": 1.25,
    "extra": {"n": 3, "half": 0.5, "seq": [1, 2], "null": None, "big": 10**20},
    "labels": ["x", "y"],
    "raw": b"\x00\xff",
    "at": datetime(2026, 1, 2, 3, 4, 5, 120_000, timezone.utc),
    "in": 7,
    "for": 8,
    "größe": 9,
}
NULLS: dict[str, Any] = dict.fromkeys(COLUMNS)

VARIABLES: dict[str, cel.Variable] = {
    "new": cel.row(COLUMNS),
    "old": cel.row(COLUMNS),
    "change": cel.struct({"op": "string", "commit_time": "timestamp"}),
    "ctx": cel.value("json"),
}
ENVIRONMENT = cel.Environment(VARIABLES)
CHANGE = {"op": "update", "commit_time": datetime(2026, 1, 2, tzinfo=timezone.utc)}


def value_of(
    source: str,
    new: Any = FULL,
    old: Any = FULL,
    *,
    env: cel.Environment = ENVIRONMENT,
    emit: bool = False,
    result: cel.Result = "any",
) -> Any:
    """
    The value of an expression; all forms have to agree on it.

    Raises:
        CelError: It does not compile, or has no value.
    """
    program = cel.compile(source, env, emit=emit, result=result)
    bindings = {"new": new, "old": old, "change": CHANGE, "ctx": {"user": 5}}
    try:
        value = program.evaluate_slowly(bindings)
    except cel.CelEvaluationError as slow:
        try:
            fast = program.evaluate(bindings)
        except cel.CelEvaluationError as error:
            assert error.rendered == slow.rendered
            raise
        raise AssertionError(f"the fast form gives {fast!r}, the slow form fails: {slow}") from slow
    fused = cel.fuse({"it": program}, tuple(bindings))(*bindings.values())
    for other in (program.evaluate(bindings), fused["it"]):
        assert repr(other) == repr(value)
    return value


def refusal(source: str, *, env: cel.Environment = ENVIRONMENT, result: cel.Result = "any") -> cel.CelCompileError:
    """What compiling says."""
    try:
        cel.compile(source, env, result=result)
    except cel.CelCompileError as error:
        return error
    raise AssertionError(f"{source!r} compiles")


def failure(source: str, new: Any = FULL, old: Any = FULL) -> cel.CelEvaluationError:
    """What evaluating says."""
    try:
        value = value_of(source, new, old)
    except cel.CelEvaluationError as error:
        return error
    raise AssertionError(f"{source!r} gives {value!r}")
