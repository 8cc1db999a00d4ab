"""
The functions an expression may call: CEL's own, the strings and math extensions, and `hash`.

Every one is pure. There is no clock and no I/O here: a replay has to make the same events.

See: https://github.com/google/cel-spec/blob/master/doc/langdef.md#list-of-standard-definitions and
https://github.com/google/cel-go/tree/master/ext
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import re2

from wal_tracker.cel.runtime import (
    Failure,
    duration,
    greater,
    int64,
    less,
    no_overload,
    sized,
    uint64,
)
from wal_tracker.cel.values import BoolKey, TypeValue, UInt, type_name, type_of

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


# Text of numbers and moments ---------------------------------------------------------------------


def double_text(value: float) -> str:
    """The shortest text that reads back as the same double."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    text = repr(value)
    return text[:-2] if text.endswith(".0") else text


def timestamp_text(value: datetime) -> str:
    """RFC 3339 in UTC with ``Z`` and no more digits than needed."""
    moment = value.astimezone(timezone.utc).replace(tzinfo=None)
    text = moment.isoformat()
    return (text.rstrip("0") if moment.microsecond else text) + "Z"


def duration_text(value: timedelta) -> str:
    """Seconds with ``s``, as protobuf's JSON has it."""
    microseconds = value // _MICROSECOND
    seconds, rest = divmod(abs(microseconds), 1_000_000)
    fraction = f".{rest:06d}".rstrip("0") if rest else ""
    return f"{'-' if microseconds < 0 else ''}{seconds}{fraction}s"


_TIMESTAMP = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def read_timestamp(text: str) -> datetime:
    """RFC 3339 to a moment; digits past the microsecond are dropped, as PostgreSQL has none."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise Failure("the text is not an RFC 3339 timestamp such as 2026-01-02T03:04:05Z")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, zone = match[7] or "", match[8]
    try:
        moment = datetime(year, month, day, hour, minute, second, int(fraction[:6].ljust(6, "0")), timezone.utc)
        if zone not in "Zz":
            offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
            moment = moment - offset if zone[0] == "+" else moment + offset
    except (ValueError, OverflowError):
        raise Failure("the timestamp is out of range") from None
    return moment


_UNITS = {"h": 3_600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "µs": 10**3, "ns": 1}
_PART = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|us|µs|ns|m|s)"
_DURATION = re.compile(rf"([+-]?)((?:{_PART})+)")
_DURATION_PART = re.compile(_PART)


def read_duration(text: str) -> timedelta:
    """Go's text of a duration, such as ``1h30m``, to a duration."""
    if text in ("0", "+0", "-0"):
        return timedelta()
    match = _DURATION.fullmatch(text) if len(text) <= 100 else None
    if match is None:
        raise Failure("the text is not a duration such as 1h30m or 0.5s")
    parts = _DURATION_PART.findall(match[2])
    nanoseconds = sum(int(Fraction(number.rstrip(".")) * _UNITS[unit]) for number, unit in parts)
    try:
        return duration(timedelta(microseconds=nanoseconds // 1_000 * (-1 if match[1] == "-" else 1)))
    except OverflowError:
        raise Failure("duration out of range") from None


# Standard functions ------------------------------------------------------------------------------


def size(value: Any) -> int:
    """Code points, bytes, elements or entries."""
    if isinstance(value, (str, bytes, list, dict)):
        return len(value)
    no_overload("size()", value)


def to_string(value: Any) -> str:
    """``string(value)``"""
    if type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is int or type(value) is UInt:
        return str(int(value))
    if type(value) is float:
        return double_text(value)
    if type(value) is bytes:
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise Failure("the bytes are not UTF-8") from None
    if type(value) is datetime:
        return timestamp_text(value)
    if type(value) is timedelta:
        return duration_text(value)
    no_overload("string()", value)


_INT = re.compile(r"[+-]?[0-9]{1,40}")
_DOUBLE = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?|nan)", re.IGNORECASE)


def to_int(value: Any) -> int:
    """``int(value)``"""
    if type(value) is int:
        return int64(value)
    if type(value) is UInt:
        return int64(int(value))
    if type(value) is float:
        # Open bounds: the doubles next to them are already out of range.
        if -9223372036854775808.0 < value < 9223372036854775808.0:
            return int(value)
        raise Failure("the number does not fit an int")
    if type(value) is str:
        if _INT.fullmatch(value):
            return int64(int(value))
        raise Failure("the text is not a whole number")
    if type(value) is datetime:
        return (value - _EPOCH) // timedelta(seconds=1)
    no_overload("int()", value)


def to_uint(value: Any) -> UInt:
    """``uint(value)``"""
    if type(value) is UInt:
        return value
    if type(value) is int:
        return uint64(value)
    if type(value) is float:
        if 0.0 <= value < 18446744073709551616.0:
            return UInt(int(value))
        raise Failure("the number does not fit a uint")
    if type(value) is str:
        if _INT.fullmatch(value) and value[0] != "-":
            return uint64(int(value))
        raise Failure("the text is not a whole number")
    no_overload("uint()", value)


def to_double(value: Any) -> float:
    """``double(value)``"""
    if type(value) is float:
        return value
    if type(value) is int or type(value) is UInt:
        try:
            return float(value)
        except OverflowError:
            raise Failure("the number does not fit a double") from None
    if type(value) is str:
        if _DOUBLE.fullmatch(value):
            return float(value)
        raise Failure("the text is not a number")
    no_overload("double()", value)


def to_bytes(value: Any) -> bytes:
    """``bytes(value)``"""
    if type(value) is bytes:
        return value
    if type(value) is str:
        return value.encode()
    no_overload("bytes()", value)


def to_bool(value: Any) -> bool:
    """``bool(value)``"""
    if type(value) is bool:
        return value
    if type(value) is str:
        if value in ("1", "t", "true", "TRUE", "True"):
            return True
        if value in ("0", "f", "false", "FALSE", "False"):
            return False
        raise Failure("the text is not a bool")
    no_overload("bool()", value)


def to_timestamp(value: Any) -> datetime:
    """``timestamp(value)``"""
    if type(value) is datetime:
        return value
    if type(value) is str:
        return read_timestamp(value)
    if type(value) is int:
        try:
            return _EPOCH + timedelta(seconds=value)
        except OverflowError:
            raise Failure("timestamp out of range") from None
    no_overload("timestamp()", value)


def to_duration(value: Any) -> timedelta:
    """``duration(value)``"""
    if type(value) is timedelta:
        return value
    if type(value) is str:
        return read_duration(value)
    if type(value) is int:
        try:
            return duration(timedelta(seconds=value))
        except OverflowError:
            raise Failure("duration out of range") from None
    no_overload("duration()", value)


def to_type(value: Any) -> TypeValue:
    """``type(value)``"""
    found = type_of(value)
    if found is None:
        no_overload("type()", value)
    return found


def to_dyn(value: Any) -> Any:
    """``dyn(value)``: the value, with its type forgotten."""
    return value


def _texts(name: str, test: Callable[[str, str], bool]) -> Callable[[Any, Any], bool]:
    def tested(a: Any, b: Any) -> bool:
        if type(a) is str and type(b) is str:
            return test(a, b)
        no_overload(f"{name}()", a, b)

    return tested


@functools.lru_cache(maxsize=256)
def regex(pattern: str) -> Any:
    """
    A compiled RE2 pattern over UTF-8.

    Raises:
        Failure: It is not RE2.
    """
    options = re2.Options()
    options.log_errors = False
    try:
        # As bytes: over str the library computes the position of every match in characters, which nobody asks for.
        return re2.compile(pattern.encode(), options)
    except (re2.error, UnicodeEncodeError):
        raise Failure("the pattern is not RE2 (https://github.com/google/re2/wiki/Syntax)") from None


def _matches(text: str, pattern: str) -> bool:
    return regex(pattern).search(text.encode()) is not None


def _in_zone(moment: datetime, zone: str | None) -> datetime:
    if zone is None:
        return moment.astimezone(timezone.utc)
    try:
        return moment.astimezone(_zone(zone))
    except OverflowError:
        raise Failure("timestamp out of range") from None


@functools.lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    match = re.fullmatch(r"([+-]?)([0-9]{2}):([0-9]{2})", name)
    try:
        if match is None:
            return ZoneInfo(name)
        offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
        return timezone(-offset if match[1] == "-" else offset)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Failure("no such time zone") from None


def _part(
    name: str, of_timestamp: Callable[[datetime], int], of_duration: Callable[[int], int] | None = None
) -> Callable[..., int]:
    def part(value: Any, zone: Any = None) -> int:
        if type(value) is datetime and (zone is None or type(zone) is str):
            return of_timestamp(_in_zone(value, zone))
        if of_duration is not None and type(value) is timedelta and zone is None:
            microseconds = value // _MICROSECOND
            return of_duration(microseconds) if microseconds >= 0 else -of_duration(-microseconds)
        no_overload(f"{name}()", value)

    return part


# Extension functions -----------------------------------------------------------------------------


def _at(name: str, text: Any, *offsets: Any) -> None:
    """The receiver is a string, and the offsets are ints inside it."""
    if type(text) is not str or any(type(offset) is not int for offset in offsets):
        no_overload(f"{name}()", text, *offsets)
    if any(not 0 <= offset <= len(text) for offset in offsets):
        raise Failure(f"{name}() was given a position outside the string")


def char_at(text: Any, position: Any) -> str:
    """``text.charAt(position)``; empty just past the end."""
    _at("charAt", text, position)
    return str(text[position : position + 1])


def index_of(text: Any, part: Any, start: Any = 0) -> int:
    """``text.indexOf(part)``; -1 where it is not found."""
    _at("indexOf", text, start)
    if type(part) is not str:
        no_overload("indexOf()", text, part)
    return int(text.find(part, start))


def last_index_of(text: Any, part: Any, start: Any = None) -> int:
    """``text.lastIndexOf(part)``: the last that begins at or before `start`; -1 where it is not found."""
    _at("lastIndexOf", text, *([] if start is None else [start]))
    if type(part) is not str:
        no_overload("lastIndexOf()", text, part)
    return int(text.rfind(part) if start is None else text.rfind(part, 0, start + len(part)))


def join(parts: Any, separator: Any = "") -> str:
    """``list.join(separator)``"""
    if type(parts) is not list or type(separator) is not str:
        no_overload("join()", parts, separator)
    if not all(type(part) is str for part in parts):
        raise Failure("join() needs a list of strings")
    sized(sum(map(len, parts)) + len(separator) * max(len(parts) - 1, 0))
    return separator.join(parts)


def replace(text: Any, old: Any, new: Any, limit: Any = -1) -> str:
    """``text.replace(old, new)``"""
    if type(text) is not str or type(old) is not str or type(new) is not str or type(limit) is not int:
        no_overload("replace()", text, old, new)
    sized(len(text) + text.count(old) * max(len(new) - len(old), 0))
    return str(text.replace(old, new, limit if limit >= 0 else -1))


def split(text: Any, separator: Any, limit: Any = -1) -> list[str]:
    """``text.split(separator)``: at most `limit` parts; between all characters where the separator is empty."""
    if type(text) is not str or type(separator) is not str or type(limit) is not int:
        no_overload("split()", text, separator)
    if limit == 0:
        return []
    if separator == "":
        if limit < 0 or limit > len(text):
            return list(text)
        return [*text[: limit - 1], text[limit - 1 :]]
    return list(text.split(separator, limit - 1 if limit > 0 else -1))


def substring(text: Any, start: Any, end: Any = None) -> str:
    """``text.substring(start, end)``"""
    _at("substring", text, start, *([] if end is None else [end]))
    if end is not None and end < start:
        raise Failure("substring() was given an end before its start")
    return str(text[start:end])


def _one_text(name: str, change: Callable[[str], str]) -> Callable[[Any], str]:
    def changed(text: Any) -> str:
        if type(text) is str:
            return change(text)
        no_overload(f"{name}()", text)

    return changed


_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_UPPER = {code: code - 32 for code in range(ord("a"), ord("z") + 1)}
_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
_CLAUSE = re.compile(r"%(?:%|(?:\.([0-9]{1,3}))?([a-zA-Z]))|%")
MAX_PRECISION = 100
"""Digits after the point that ``format`` writes."""


def format_text(pattern: Any, values: Any) -> str:
    """``pattern.format([…])`` with %s %d %f %e %b %x %X %o %%."""
    if type(pattern) is not str or type(values) is not list:
        no_overload("format()", pattern, values)
    parts: list[str] = []
    last, used, total = 0, 0, 0
    for clause in _CLAUSE.finditer(pattern):
        parts.append(pattern[last : clause.start()])
        last = clause.end()
        if clause.group() == "%%":
            parts.append("%")
        elif clause[2] is None or int(clause[1] or 0) > MAX_PRECISION:
            raise Failure("format() was given a clause it does not know")
        elif used >= len(values):
            raise Failure("format() was given fewer values than clauses")
        else:
            parts.append(_formatted(clause[2], None if clause[1] is None else int(clause[1]), values[used]))
            used += 1
        total += len(parts[-1])
        sized(total)
    parts.append(pattern[last:])
    return "".join(parts)


def _formatted(clause: str, precision: int | None, value: Any) -> str:
    kind = type(value)
    if clause == "s":
        return _shown(value)
    if clause in "fe" and kind in (int, UInt, float):
        number = to_double(value)
        if math.isfinite(number):
            return f"{number:.{6 if precision is None else precision}{clause}}"
        return _shown(number)
    if clause == "d" and kind in (int, UInt):
        return str(int(value))
    if clause == "d" and kind is float and not math.isfinite(value):
        return _shown(value)
    if clause == "b" and kind is bool:
        return "1" if value else "0"
    if clause in "boxX" and kind in (int, UInt):
        return format(int(value), clause)
    if clause in "xX" and kind in (str, bytes):
        digits: str = to_bytes(value).hex()
        return digits.upper() if clause == "X" else digits
    raise Failure(f"format() has no %{clause} for {type_name(value)}")


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if type(value) is float:
        return {"+Inf": "Infinity", "-Inf": "-Infinity"}.get(double_text(value)) or double_text(value)
    if type(value) is list:
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, dict):
        entries = [(_shown(key.value if type(key) is BoolKey else key), _shown(item)) for key, item in value.items()]
        return "{" + ", ".join(f"{key}: {item}" for key, item in sorted(entries)) + "}"
    if type(value) is TypeValue:
        return value.name
    return to_string(value)


def _most(name: str, beats: Callable[[Any, Any], bool]) -> Callable[..., Any]:
    def most(*values: Any) -> Any:
        if len(values) == 1 and type(values[0]) is list:
            values = tuple(values[0])
            if not values:
                raise Failure(f"math.{name}() was given an empty list")
        for value in values:
            if type(value) not in (int, UInt, float):
                no_overload(f"math.{name}()", *values)
        best = values[0]
        for value in values[1:]:
            if beats(value, best):
                best = value
        return best

    return most


def _rounding(name: str, to_whole: Callable[[float], float]) -> Callable[[Any], float]:
    def rounded(value: Any) -> float:
        if type(value) is float:
            # The sign is kept for zeros: ceil(-0.5) is -0.0.
            return math.copysign(to_whole(value), value) if math.isfinite(value) else value
        if type(value) is int:  # 10 and 10.5 out of JSON are both numbers
            return float(value)
        no_overload(f"math.{name}()", value)

    return rounded


def _half_up(value: float) -> float:
    """The magnitude, rounded with halves away from zero; `_rounding` puts the sign back."""
    whole = float(math.floor(abs(value)))
    return whole + 1.0 if abs(value) - whole >= 0.5 else whole


def absolute(value: Any) -> Any:
    """``math.abs(value)``"""
    if type(value) is int:
        return int64(abs(value))
    if type(value) is UInt or type(value) is float:
        return abs(value) if type(value) is float else value
    no_overload("math.abs()", value)


def keyed_hash(key: bytes) -> Callable[[Any], str | None]:
    """
    ``hash(value)``: HMAC-SHA256 of the value's text, in hex; null stays null.

    A number and its text hash alike, so that an id is the same pseudonym wherever it stands.
    """

    def hashed(value: Any) -> str | None:
        if value is None:
            return None
        data = value if type(value) is bytes else to_string(value).encode()
        return hmac.new(key, data, hashlib.sha256).hexdigest()

    return hashed


# The table ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Function:
    """A function and what is known of its types."""

    name: str
    parameters: tuple[frozenset[str], ...]
    """Types each takes, the receiver's first; empty set for any."""
    required: int
    """How many must be given, the receiver counted."""
    result: str
    """Its type; ``first`` for that of the first argument, ``dyn`` where it depends."""
    implementation: Callable[..., Any]
    is_method: bool = False
    is_variadic: bool = False
    """The last parameter repeats."""


FUNCTIONS: dict[str, Function] = {}
"""Called as ``name(…)``; with a dot in the name for a namespace."""
METHODS: dict[str, Function] = {}
"""Called as ``value.name(…)``."""

NAMESPACES = frozenset(("math", "cel"))


def _function(
    name: str,
    implementation: Callable[..., Any],
    *parameters: str,
    result: str,
    optional: int = 0,
    variadic: bool = False,
) -> None:
    FUNCTIONS[name] = Function(
        name, _types(parameters), len(parameters) - optional, result, implementation, is_variadic=variadic
    )


def _method(name: str, implementation: Callable[..., Any], *parameters: str, result: str, optional: int = 0) -> None:
    METHODS[name] = Function(
        name, _types(parameters), len(parameters) - optional, result, implementation, is_method=True
    )


def _types(parameters: tuple[str, ...]) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(parameter.split()) for parameter in parameters)


_SIZED = "string bytes list map"
_function("size", size, _SIZED, result="int")
_method("size", size, _SIZED, result="int")
_function("string", to_string, "string int uint double bool bytes timestamp duration", result="string")
_function("int", to_int, "int uint double string timestamp", result="int")
_function("uint", to_uint, "uint int double string", result="uint")
_function("double", to_double, "double int uint string", result="double")
_function("bytes", to_bytes, "bytes string", result="bytes")
_function("bool", to_bool, "bool string", result="bool")
_function("timestamp", to_timestamp, "timestamp string int", result="timestamp")
_function("duration", to_duration, "duration string int", result="duration")
_function("type", to_type, "", result="type")
_function("dyn", to_dyn, "", result="dyn")
_method("startsWith", _texts("startsWith", str.startswith), "string", "string", result="bool")
_method("endsWith", _texts("endsWith", str.endswith), "string", "string", result="bool")
_method("contains", _texts("contains", str.__contains__), "string", "string", result="bool")
_function("matches", _texts("matches", _matches), "string", "string", result="bool")
_method("matches", _texts("matches", _matches), "string", "string", result="bool")

for _name, _of_timestamp in {
    "getFullYear": lambda t: t.year,
    "getMonth": lambda t: t.month - 1,
    "getDate": lambda t: t.day,
    "getDayOfMonth": lambda t: t.day - 1,
    "getDayOfWeek": lambda t: (t.weekday() + 1) % 7,
    "getDayOfYear": lambda t: t.timetuple().tm_yday - 1,
}.items():
    _method(_name, _part(_name, _of_timestamp), "timestamp", "string", result="int", optional=1)
for _name, _of_both in {
    "getHours": (lambda t: t.hour, lambda us: us // 3_600_000_000),
    "getMinutes": (lambda t: t.minute, lambda us: us // 60_000_000),
    "getSeconds": (lambda t: t.second, lambda us: us // 1_000_000),
    "getMilliseconds": (lambda t: t.microsecond // 1_000, lambda us: us // 1_000 % 1_000),
}.items():
    _method(_name, _part(_name, *_of_both), "timestamp duration", "string", result="int", optional=1)

_method("charAt", char_at, "string", "int", result="string")
_method("indexOf", index_of, "string", "string", "int", result="int", optional=1)
_method("lastIndexOf", last_index_of, "string", "string", "int", result="int", optional=1)
_method("join", join, "list", "string", result="string", optional=1)
_method("replace", replace, "string", "string", "string", "int", result="string", optional=1)
_method("split", split, "string", "string", "int", result="list", optional=1)
_method("substring", substring, "string", "int", "int", result="string", optional=1)
_method("format", format_text, "string", "list", result="string")
_method("trim", _one_text("trim", lambda text: text.strip(_WHITE_SPACE)), "string", result="string")
_method("lowerAscii", _one_text("lowerAscii", lambda text: text.translate(_LOWER)), "string", result="string")
_method("upperAscii", _one_text("upperAscii", lambda text: text.translate(_UPPER)), "string", result="string")

_function("math.greatest", _most("greatest", greater), "int uint double list", result="dyn", variadic=True)
_function("math.least", _most("least", less), "int uint double list", result="dyn", variadic=True)
_function("math.ceil", _rounding("ceil", lambda x: float(math.ceil(x))), "double", result="double")
_function("math.floor", _rounding("floor", lambda x: float(math.floor(x))), "double", result="double")
_function("math.round", _rounding("round", _half_up), "double", result="double")
_function("math.abs", absolute, "int uint double", result="first")
