"""
From CEL's values to what JSON can carry.

Timestamps become RFC 3339 in UTC with ``Z``, durations a number of seconds, bytes base64, NaN and the infinities
strings, keys of maps strings. Whatever is JSON-ready already (orjson.Fragment) passes.
"""

from __future__ import annotations

import base64
import math
from datetime import datetime, timedelta
from typing import Any

import orjson

from wal_tracker.cel.functions import duration_text, timestamp_text, to_string
from wal_tracker.cel.runtime import Failure, column
from wal_tracker.cel.values import INT_MIN, UINT_MAX, BoolKey, TypeValue
from wal_tracker.model import EXACT


def export(value: Any) -> Any:
    """The value, ready for orjson."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is float:
        if math.isfinite(value):
            return value
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, int):
        # orjson writes 64 bits; JSON out of a column may hold more digits, and keeps them.
        return int(value) if INT_MIN <= value <= UINT_MAX else orjson.Fragment(str(int(value)))
    if kind is list:
        return [export(item) for item in value]
    if isinstance(value, dict):
        return {_key(key): export(item) for key, item in value.items()}
    if kind is datetime:
        return timestamp_text(value)
    if kind is timedelta:
        return _seconds(value)
    if kind is bytes:
        return base64.b64encode(value).decode("ascii")
    if kind is TypeValue:
        return value.name
    return value


def _key(key: Any) -> str:
    return key if type(key) is str else to_string(key.value if type(key) is BoolKey else key)


def _seconds(value: timedelta) -> int | float:
    microseconds = value // timedelta(microseconds=1)
    if microseconds % 1_000_000 == 0:
        return microseconds // 1_000_000
    return float(duration_text(value)[:-1])


def exact_column(row: Any, name: str) -> Any:
    """A column in its emitted form, made here where the row only has the computed one."""
    if isinstance(row, dict) and EXACT + name in row:
        return row[EXACT + name]
    return export(column(row, name))


def exact_row(row: Any) -> Any:
    """A whole row in its emitted form; columns the server did not send are left out."""
    if row is None:
        return None
    if not isinstance(row, dict):
        raise Failure("expected a row")
    names = dict.fromkeys(key.lstrip(EXACT) for key in row)
    return {name: row[EXACT + name] if EXACT + name in row else export(row[name]) for name in names}
