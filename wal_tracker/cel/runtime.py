"""
CEL's operators over Python values, with all their refusals.

Both forms of a program call these: the fast form where Python's own operator could say something else than CEL, the
slow form always. A refusal is a `Failure`; its text never holds a value.

Where a name ends in ``_mixed``, an int meets a double as a double: so do values out of JSON and numeric columns.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, NoReturn

from wal_tracker.cel.values import (
    FALSE_KEY,
    INT_MAX,
    INT_MIN,
    MAX_DURATION,
    TRUE_KEY,
    UINT_MAX,
    BoolKey,
    TypeValue,
    UInt,
    type_name,
)
from wal_tracker.model import EXACT, PartialRow

MAX_SIZE = 16 * 1024 * 1024
"""Characters, bytes or elements an expression may build."""

_NUMBERS = frozenset((int, UInt, float))
_ORDERED = frozenset((int, UInt, float, str, bytes, bool, datetime, timedelta))
_SCALARS = _ORDERED | {type(None), TypeValue}
_MAX_DIFFERENCE = timedelta(microseconds=2**63 // 1000)


class Failure(Exception):
    """An operation that has no result. `offset` is filled in by the slow form."""

    def __init__(self, reason: str, *, missing: bool = False) -> None:
        """
        Args:
            reason: Why, without values.
            missing: The value is not there at all (no such key, not resent): what ``coalesce`` skips.
        """
        super().__init__(reason)
        self.reason = reason
        self.missing = missing
        self.offset: int | None = None


def no_overload(what: str, *values: Any) -> NoReturn:
    """Refuse operands by their types."""
    types = ", ".join(map(type_name, values))
    raise Failure(f"{what} does not take ({types})")


def truth(value: Any) -> bool:
    """The bool itself; nothing else counts as true or false."""
    if value is True or value is False:
        return value
    raise Failure(f"expected bool, got {type_name(value)}")


# Equality and order ------------------------------------------------------------------------------


def equal(a: Any, b: Any) -> bool:
    """``a == b``: false, not an error, for different types; numbers compare by value."""
    type_a, type_b = type(a), type(b)
    if type_a is type_b and type_a in _SCALARS:
        return bool(a == b)
    if type_a in _NUMBERS and type_b in _NUMBERS:
        return _as_compared(a, b, operator.eq)
    if type_a is list and type_b is list:
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        if type_a is PartialRow or type_b is PartialRow:
            return _equal_rows(a, b)
        return len(a) == len(b) and all(key in b and equal(value, b[key]) for key, value in a.items())
    return type_a is type_b and bool(a == b)


def _as_compared(a: Any, b: Any, compare: Callable[[Any, Any], Any]) -> bool:
    """Numbers of two types: next to a double both are doubles, and so inexact beyond 2**53, as the specification."""
    if type(a) is float or type(b) is float:
        return bool(compare(_double(a), _double(b)))
    return bool(compare(a, b))


def _equal_rows(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Rows with unknown columns: what is unchanged is equal, what was not sent cannot be told."""
    unchanged: set[str] = set()
    for row in (a, b):
        if isinstance(row, PartialRow):
            if row.unsent:
                raise _unsent(sorted(row.unsent)[0])
            unchanged |= row.unchanged
    names = (a.keys() | b.keys()) - unchanged
    return all(name in a and name in b and equal(a[name], b[name]) for name in names)


def _ordering(symbol: str, compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], bool]:
    def ordered(a: Any, b: Any) -> bool:
        type_a, type_b = type(a), type(b)
        if type_a is type_b and type_a in _ORDERED:
            return bool(compare(a, b))
        if type_a in _NUMBERS and type_b in _NUMBERS:
            return _as_compared(a, b, compare)
        no_overload(symbol, a, b)

    return ordered


less = _ordering("<", operator.lt)
less_or_equal = _ordering("<=", operator.le)
greater = _ordering(">", operator.gt)
greater_or_equal = _ordering(">=", operator.ge)


# Arithmetic --------------------------------------------------------------------------------------


def int64(value: int) -> int:
    """The value, if it fits a CEL int."""
    if INT_MIN <= value <= INT_MAX:
        return value
    raise Failure("integer overflow")


def uint64(value: int) -> UInt:
    """The value, if it fits a CEL uint."""
    if 0 <= value <= UINT_MAX:
        return UInt(value)
    raise Failure("unsigned integer overflow")


def duration(value: timedelta) -> timedelta:
    """The value, if it fits a duration."""
    if -MAX_DURATION <= value <= MAX_DURATION:
        return value
    raise Failure("duration out of range")


def _moved(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError:
        raise Failure("timestamp out of range") from None


def sized(size: int) -> None:
    """Refuse to build something longer than MAX_SIZE."""
    if size > MAX_SIZE:
        raise Failure(f"the result would be longer than {MAX_SIZE}")


def add(a: Any, b: Any) -> Any:
    """``a + b``"""
    type_a, type_b = type(a), type(b)
    if type_a is type_b:
        if type_a is int:
            return int64(a + b)
        if type_a is float:
            return a + b
        if type_a is str or type_a is bytes or type_a is list:
            sized(len(a) + len(b))
            return a + b
        if type_a is UInt:
            return uint64(int(a) + int(b))
        if type_a is timedelta:
            return duration(a + b)
    elif type_a is datetime and type_b is timedelta:
        return _moved(a, b)
    elif type_a is timedelta and type_b is datetime:
        return _moved(b, a)
    no_overload("+", a, b)


def subtract(a: Any, b: Any) -> Any:
    """``a - b``"""
    type_a, type_b = type(a), type(b)
    if type_a is type_b:
        if type_a is int:
            return int64(a - b)
        if type_a is float:
            return a - b
        if type_a is UInt:
            return uint64(int(a) - int(b))
        if type_a is timedelta:
            return duration(a - b)
        if type_a is datetime:
            difference = a - b
            if -_MAX_DIFFERENCE <= difference <= _MAX_DIFFERENCE:
                return difference
            raise Failure("duration out of range")
    elif type_a is datetime and type_b is timedelta:
        return _moved(a, -b)
    no_overload("-", a, b)


def multiply(a: Any, b: Any) -> Any:
    """``a * b``"""
    type_a = type(a)
    if type_a is type(b):
        if type_a is int:
            return int64(a * b)
        if type_a is float:
            return a * b
        if type_a is UInt:
            return uint64(int(a) * int(b))
    no_overload("*", a, b)


def divide(a: Any, b: Any) -> Any:
    """``a / b``: whole numbers truncate towards zero, doubles follow IEEE 754."""
    type_a = type(a)
    if type_a is type(b):
        if type_a is float:
            if b == 0.0:
                if a == 0.0 or a != a:
                    return math.nan
                return math.copysign(math.inf, a) * math.copysign(1.0, b)
            return a / b
        if type_a is int or type_a is UInt:
            if b == 0:
                raise Failure("division by zero")
            if type_a is UInt:
                return UInt(int(a) // int(b))
            quotient = abs(a) // abs(b)
            return int64(quotient if (a < 0) == (b < 0) else -quotient)
    no_overload("/", a, b)


def modulo(a: Any, b: Any) -> Any:
    """``a % b``: the remainder takes the sign of `a`."""
    type_a = type(a)
    if type_a is type(b) and (type_a is int or type_a is UInt):
        if b == 0:
            raise Failure("modulus by zero")
        if type_a is UInt:
            return UInt(int(a) % int(b))
        if a == INT_MIN and b == -1:
            raise Failure("integer overflow")
        remainder = abs(a) % abs(b)
        return -remainder if a < 0 else remainder
    no_overload("%", a, b)


def negate(a: Any) -> Any:
    """``-a``"""
    if type(a) is int:
        return int64(-a)
    if type(a) is float:
        return -a
    no_overload("-", a)


def _mixing(strict: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def mixed(a: Any, b: Any) -> Any:
        type_a, type_b = type(a), type(b)
        if type_a is float and (type_b is int or type_b is UInt):
            return strict(a, _double(b))
        if type_b is float and (type_a is int or type_a is UInt):
            return strict(_double(a), b)
        return strict(a, b)

    return mixed


def _double(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise Failure("the number is too large") from None


add_mixed = _mixing(add)
subtract_mixed = _mixing(subtract)
multiply_mixed = _mixing(multiply)
divide_mixed = _mixing(divide)
modulo_mixed = modulo


# Lists and maps ----------------------------------------------------------------------------------

_NO_KEY = BoolKey(False)
"""Equal to no key."""


def lookup_key(value: Any) -> Any:
    """What a value is as a key to look up; a double finds the whole number it equals."""
    kind = type(value)
    if kind is str or kind is int or kind is UInt:
        return value
    if kind is bool:
        return TRUE_KEY if value else FALSE_KEY
    if kind is float and value.is_integer():
        return int(value)
    return _NO_KEY


def map_key(value: Any) -> Any:
    """What a value is as the key of a map that is being made."""
    kind = type(value)
    if kind is str or kind is int or kind is UInt:
        return value
    if kind is bool:
        return TRUE_KEY if value else FALSE_KEY
    raise Failure(f"a map's key cannot be {type_name(value)}")


def make_map(*items: Any) -> dict[Any, Any]:
    """A map of alternating keys and values."""
    made: dict[Any, Any] = {}
    for key, value in zip(items[::2], items[1::2], strict=True):
        key = map_key(key)
        if key in made:
            raise Failure("the same key twice in a map")
        made[key] = value
    return made


def contained(element: Any, container: Any) -> bool:
    """``element in container``"""
    if type(container) is list:
        return any(equal(element, item) for item in container)
    if isinstance(container, dict) and type(element) in (str, int, UInt, bool, float):
        return lookup_key(element) in container
    no_overload("in", element, container)


def index(container: Any, key: Any) -> Any:
    """``container[key]``"""
    if isinstance(container, dict):
        try:
            return container[lookup_key(key)]
        except KeyError:
            if type(container) is PartialRow and type(key) is str:
                raise _unknown_column(container, key) from None
            raise Failure("no such key", missing=True) from None
    if type(container) is list:
        if type(key) is float and key.is_integer():
            key = int(key)
        if type(key) is int or type(key) is UInt:
            if 0 <= key < len(container):
                return container[key]
            raise Failure(f"the index is out of the list's {len(container)} elements", missing=True)
    no_overload("[…]", container, key)


def select(operand: Any, field: str) -> Any:
    """``operand.field``"""
    if isinstance(operand, dict):
        try:
            return operand[field]
        except KeyError:
            if type(operand) is PartialRow:
                raise _unknown_column(operand, field) from None
            raise Failure(f"no such key: {field!r}", missing=True) from None
    raise Failure(f"{type_name(operand)} has no field {field!r}", missing=operand is None)


def has(operand: Any, field: str) -> bool:
    """``has(operand.field)`` on a map; a key whose value is null is there."""
    if isinstance(operand, dict):
        return field in operand
    raise Failure(f"{type_name(operand)} has no field {field!r}", missing=operand is None)


def elements(value: Any) -> Iterable[Any]:
    """What a comprehension runs over: a list's elements, a map's keys."""
    if type(value) is list:
        return value
    if isinstance(value, dict):
        return [key.value if type(key) is BoolKey else key for key in value]
    raise Failure(f"a comprehension needs a list or a map, not {type_name(value)}")


NESTED_LIMITS = (MAX_SIZE, 2_000, 150)
"""Elements a range may have, by how deep comprehensions nest at its place: about four million steps at most."""


def bounded_elements(value: Any, limit: int) -> Iterable[Any]:
    """`elements`, of at most `limit`: for comprehensions inside one another."""
    found = elements(value)
    if len(value) > limit:
        raise Failure(f"nested comprehensions run over at most {limit} elements each here")
    return found


# Rows --------------------------------------------------------------------------------------------


def _unsent(name: str) -> Failure:
    return Failure(
        f"the server did not send the old value of {name!r}: "
        "ALTER TABLE … REPLICA IDENTITY FULL makes it send whole old rows",
        missing=True,
    )


def _unknown_column(row: PartialRow, name: str) -> Failure:
    if name in row.unchanged:
        return Failure(
            f"{name!r} did not change, and the server does not resend large values that did not: "
            "test with has() or unchanged(), or ALTER TABLE … REPLICA IDENTITY FULL",
            missing=True,
        )
    if name in row.unsent:
        return _unsent(name)
    return Failure(f"no such column: {name!r}", missing=True)


def column(row: Any, name: str) -> Any:
    """A column of a row variable."""
    if row is None:
        raise Failure("there is no such row in this operation (null)", missing=True)
    return select(row, name)


def has_column(row: Any, name: str) -> bool:
    """``has(new.col)``: known and not NULL."""
    if row is None:
        raise Failure("there is no such row in this operation (null)", missing=True)
    if not isinstance(row, dict):
        raise Failure(f"{type_name(row)} has no field {name!r}")
    return row.get(name) is not None


def is_unchanged(row: Any, name: str) -> bool:
    """``unchanged(new.col)``: not resent, because it is large and did not change."""
    if row is None:
        raise Failure("there is no such row in this operation (null)", missing=True)
    return isinstance(row, PartialRow) and name in row.unchanged


def same_column(a: Any, b: Any, name: str) -> bool:
    """``new.col == old.col``: what was not resent did not change."""
    if a is not None and b is not None and (is_unchanged(a, name) or is_unchanged(b, name)):
        return True
    return equal(column(a, name), column(b, name))


def whole_row(row: Any) -> Any:
    """A row used as a map: without the keys that hold columns in their emitted form."""
    if row is None or not isinstance(row, dict):
        return row
    known = {key: value for key, value in row.items() if key[:1] != EXACT}
    if isinstance(row, PartialRow):
        return PartialRow(known, row.unchanged, row.unsent)
    return known


# Results -----------------------------------------------------------------------------------------


def first_known(*values: Any) -> Any:
    """The first value that is not null."""
    for value in values:
        if value is not None:
            return value
    return None


def expect_string(value: Any) -> str | None:
    """A result that has to be text or null."""
    if value is None or type(value) is str:
        return value
    raise Failure(f"expected text, got {type_name(value)}")


def expect_timestamp(value: Any) -> datetime | None:
    """A result that has to be a timestamp or null."""
    if value is None or type(value) is datetime:
        return value
    raise Failure(f"expected a timestamp, got {type_name(value)}")
