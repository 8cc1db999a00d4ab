"""
From a column's text to a value: in the form CEL computes with, and in the form it is emitted in.

A type's `Codec` holds both. The text is what the type's output function writes in a session with ``datestyle=ISO``,
``TimeZone=UTC``, ``IntervalStyle=postgres``, ``extra_float_digits=1`` and ``bytea_output=hex``. What a form cannot
hold (infinity and years that Python lacks for a timestamp, a numeric beyond double) stays the text it was; text that
is no value of its type is a `ValueError`, which says nothing of the text.

Codecs also carry source text: the expression that a generated row decoder uses in place of a call.
"""

from __future__ import annotations

import binascii
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import orjson

from wal_tracker import pgtypes
from wal_tracker.model import Value
from wal_tracker.pgtypes import PgType, PgTypeKind, TypeCatalog

Convert = Callable[[str], Value]


@dataclass(frozen=True, slots=True)
class Codec:
    """How one type is read."""

    cel: Convert
    """Text to the value CEL computes with."""
    exact: Convert
    """Text to a value orjson writes, digits as in the source."""
    cel_source: str = "{f}({v}.decode())"
    """The same as an expression: ``{v}`` stands for the bytes, ``{f}`` for `cel`."""
    exact_source: str = "{f}({v}.decode())"
    delimiter: str = field(default=",", kw_only=True)
    """What stands between two elements in an array of this type (`pg_type.typdelim`)."""


def _same(text: str) -> str:
    return text


_INTEGER = re.compile(r"-?[0-9]{1,19}")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_FLOAT = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?|NaN|-?Infinity")
_SPECIAL_NUMBERS = frozenset({"NaN", "Infinity", "-Infinity"})
_TIMESTAMP = re.compile(
    r"(?P<date>[0-9]{4,6}-[0-9]{2}-[0-9]{2}) (?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?)"
    r"(?P<zone>[+-][0-9]{2}(?::[0-9]{2}){0,2})?(?P<era> BC)?"
)


def _integer(text: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise ValueError("not an integer")
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise ValueError("not a 64-bit integer")
    return value


def _boolean(text: str) -> bool:
    if text == "t":
        return True
    if text == "f":
        return False
    raise ValueError("neither t nor f")


def _double(text: str) -> float:
    if _FLOAT.fullmatch(text) is None:
        raise ValueError("not a floating-point number")
    return float(text)


def _double_exact(text: str) -> float | str:
    value = _double(text)
    return value if math.isfinite(value) else text


def _numeric(text: str) -> float | str:
    value = _double(text)
    # A numeric of 400 digits is no infinity: what double cannot hold stays text.
    return value if math.isfinite(value) or text in _SPECIAL_NUMBERS else text


def _numeric_exact(text: str) -> orjson.Fragment | str:
    try:
        # Half the cost of the pattern; but orjson has no numbers beyond double.
        if type(orjson.loads(text)) in (float, int):
            return orjson.Fragment(text)
    except orjson.JSONDecodeError:
        if _NUMBER.fullmatch(text) is not None:
            return orjson.Fragment(text)
    if text in _SPECIAL_NUMBERS:
        return text
    raise ValueError("not a number")


def _numeric_text(text: str) -> str:
    if _NUMBER.fullmatch(text) is None and text not in _SPECIAL_NUMBERS:
        raise ValueError("not a number")
    return text


def _from_iso_before_3_11(text: str) -> datetime:
    # There fromisoformat takes fractions of three or six digits only, and no offset of two.
    match = _TIMESTAMP.fullmatch(text)
    if match is None or match["era"]:
        raise ValueError("not a timestamp")
    time, _, fraction = match["time"].partition(".")
    zone = match["zone"] or ""
    if len(zone) == 3:
        zone += ":00"
    return datetime.fromisoformat(f"{match['date']}T{time}.{fraction:0<6}{zone}")


_from_iso = datetime.fromisoformat if sys.version_info >= (3, 11) else _from_iso_before_3_11


def _timestamptz(text: str) -> datetime | str:
    try:
        value = _from_iso(text)
        if value.tzinfo is timezone.utc:
            return value
    except ValueError:
        pass
    return _timestamptz_rare(text)


def _timestamptz_rare(text: str) -> datetime | str:
    match = _TIMESTAMP.fullmatch(text)
    if match is None or not match["zone"]:
        if text in ("infinity", "-infinity"):
            return text
        raise ValueError("not a timestamp with time zone")
    if match["era"] or len(match["date"]) > 10:
        return text
    try:
        return _from_iso(text).astimezone(timezone.utc)
    except OverflowError:
        return text


def _timestamptz_exact(text: str) -> str:
    if text[-3:] == "+00":
        try:
            _from_iso(text)
            return f"{text[:10]}T{text[11:-3]}Z"
        except ValueError:
            pass
    value = _timestamptz_rare(text)
    return value if isinstance(value, str) else value.isoformat().replace("+00:00", "Z")


def _timestamp(text: str) -> datetime | str:
    try:
        if len(text) >= 19:
            return _from_iso(text + "+00:00")
    except ValueError:
        pass
    match = _TIMESTAMP.fullmatch(text)
    if match is not None and not match["zone"] and (match["era"] or len(match["date"]) > 10):
        return text
    if text in ("infinity", "-infinity"):
        return text
    raise ValueError("not a timestamp")


def _timestamp_exact(text: str) -> str:
    value = _timestamp(text)
    return value if isinstance(value, str) else f"{text[:10]}T{text[11:]}"


def _bytes(text: str) -> bytes:
    if text[:2] != "\\x":
        raise ValueError("bytea is not in hex form")
    return binascii.unhexlify(text[2:])


def _bytes_exact(text: str) -> str:
    return binascii.b2a_base64(_bytes(text), newline=False).decode()


def _json(text: str) -> Value:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    # PostgreSQL's json takes escapes that are no Unicode ("\ud800"); such a document stays text.
    _loads_strictly(text)
    return text


def _json_exact(text: str) -> orjson.Fragment:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        _loads_strictly(text)
    # json keeps the line ends it was written with (never inside a string): ours is one event a line.
    if "\n" in text or "\r" in text:
        text = text.replace("\n", " ").replace("\r", " ")
    return orjson.Fragment(text)


def _refuse_constant(_name: str) -> Value:
    raise ValueError("not JSON")


def _loads_strictly(text: str) -> None:
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None


_TEXT = Codec(_same, _same, "{v}.decode()", "{v}.decode()")
_INT = Codec(_integer, _integer, "int({v})", "int({v})")
_CODECS: dict[int, Codec] = {
    pgtypes.BOOL: Codec(_boolean, _boolean, "BOOLEAN[{v}]", "BOOLEAN[{v}]"),
    pgtypes.BYTEA: Codec(_bytes, _bytes_exact),
    pgtypes.INT2: _INT,
    pgtypes.INT4: _INT,
    pgtypes.INT8: _INT,
    pgtypes.OID: _INT,
    pgtypes.FLOAT4: Codec(_double, _double_exact, "float({v})"),
    pgtypes.FLOAT8: Codec(_double, _double_exact, "float({v})"),
    pgtypes.NUMERIC: Codec(_numeric, _numeric_exact),
    pgtypes.TIMESTAMP: Codec(_timestamp, _timestamp_exact),
    pgtypes.TIMESTAMPTZ: Codec(_timestamptz, _timestamptz_exact),
    pgtypes.JSON: Codec(_json, _json_exact),
    pgtypes.JSONB: Codec(_json, _json_exact),
    pgtypes.BOX: Codec(_same, _same, "{v}.decode()", "{v}.decode()", delimiter=";"),
}
_NUMERIC_TEXT = Codec(_numeric_text, _numeric_text)

SOURCE_NAMES: dict[str, Any] = {"BOOLEAN": {b"t": True, b"f": False}}
"""What `Codec.cel_source` and `Codec.exact_source` name beside ``{v}`` and ``{f}``."""

_MAX_NESTING = 16  # domains, arrays and composites inside one another


def codec(types: TypeCatalog, oid: int, *, numeric_as_string: bool = False, _depth: int = 0) -> Codec:
    """
    How values of a type are read. A type nobody described is text.

    Args:
        types: Where to look the type up.
        oid: The type.
        numeric_as_string: Read numeric (also inside arrays and composites) as its digits, both to compute and to emit.
    """
    described = types.resolve(oid)
    if described is None or _depth > _MAX_NESTING:
        return _TEXT
    if described.kind is PgTypeKind.ARRAY:
        return _array_codec(codec(types, described.element, numeric_as_string=numeric_as_string, _depth=_depth + 1))
    if described.kind is PgTypeKind.COMPOSITE and described.attributes:
        return _composite_codec(types, described, numeric_as_string, _depth)
    if numeric_as_string and described.oid == pgtypes.NUMERIC:
        return _NUMERIC_TEXT
    return _CODECS.get(described.oid, _TEXT)


def _array_codec(element: Codec) -> Codec:
    delimiter = element.delimiter

    def cel(text: str) -> Value:
        return read_array(text, element.cel, delimiter)

    def exact(text: str) -> Value:
        return read_array(text, element.exact, delimiter)

    return Codec(cel, exact)


def _composite_codec(types: TypeCatalog, described: PgType, numeric_as_string: bool, depth: int) -> Codec:
    attributes = tuple(
        (name, codec(types, oid, numeric_as_string=numeric_as_string, _depth=depth + 1))
        for name, oid in described.attributes
    )

    def cel(text: str) -> Value:
        return read_composite(text, tuple((name, attribute.cel) for name, attribute in attributes))

    def exact(text: str) -> Value:
        return read_composite(text, tuple((name, attribute.exact) for name, attribute in attributes))

    return Codec(cel, exact)


_BOUNDS = re.compile(r"(?:\[-?[0-9]+:-?[0-9]+\])+=(?={)")


def read_array(text: str, element: Convert, delimiter: str = ",") -> list[Value]:
    """
    Read an array of any dimension into nested lists; its lower bounds are dropped, its NULLs are None.

    See: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO

    Args:
        text: As the server writes it.
        element: What reads one element.
        delimiter: What stands between elements.

    Raises:
        ValueError: It is not an array, or an element is not of its type.
    """
    if text[:1] == "[":
        bounds = _BOUNDS.match(text)
        if bounds is None:
            raise ValueError("not an array")
        text = text[bounds.end() :]
    if text[:1] != "{" or text[-1:] != "}" or len(text) < 2:
        raise ValueError("not an array")
    inner = text[1:-1]
    if not inner:
        return []
    if "{" not in inner and '"' not in inner and "\\" not in inner and "}" not in inner:
        return [None if item == "NULL" else element(_not_empty(item)) for item in inner.split(delimiter)]
    return _read_nested(text, element, delimiter)


def _not_empty(item: str) -> str:
    if not item:
        raise ValueError("an array element is missing")
    return item


def _read_nested(text: str, element: Convert, delimiter: str) -> list[Value]:
    # One pass with a stack of open lists; `separated` says that an element or a sub-array must come next.
    outermost: list[Value] = []
    stack: list[list[Value]] = []
    at, end, separated = 0, len(text), True
    while at < end:
        character = text[at]
        if character == "{":
            if not separated or (stack == [] and at):
                raise ValueError("not an array")
            opened: list[Value] = outermost if not stack else []
            if stack:
                stack[-1].append(opened)
            stack.append(opened)
            at += 1
            continue
        if not stack:
            raise ValueError("text after the end of an array")
        if character == "}":
            if separated and stack[-1]:
                raise ValueError("an array element is missing")
            stack.pop()
            at += 1
            separated = False
            continue
        if character == delimiter:
            if separated:
                raise ValueError("an array element is missing")
            at += 1
            separated = True
            continue
        if not separated:
            raise ValueError("two array elements without a delimiter")
        if character == '"':
            item, at = _quoted(text, at)
            stack[-1].append(element(item))
        else:
            item, at, escaped = _unquoted(text, at, "{}" + delimiter)
            stack[-1].append(None if item == "NULL" and not escaped else element(item))
        separated = False
    if stack:
        raise ValueError("an array is not closed")
    return outermost


def _quoted(text: str, at: int) -> tuple[str, int]:
    """Read from the quote at `at`; backslash escapes, and two quotes stand for one (composites)."""
    parts: list[str] = []
    at += 1
    while True:
        close, escape = text.find('"', at), text.find("\\", at)
        if close < 0:
            raise ValueError("a quoted element is not closed")
        if 0 <= escape < close:
            if escape + 1 >= len(text):
                raise ValueError("text ends in a backslash")
            parts.append(text[at:escape])
            parts.append(text[escape + 1])
            at = escape + 2
            continue
        parts.append(text[at:close])
        if text[close + 1 : close + 2] == '"':
            parts.append('"')
            at = close + 2
            continue
        return "".join(parts), close + 1


def _unquoted(text: str, at: int, stops: str) -> tuple[str, int, bool]:
    """Read up to one of `stops`; tells whether a backslash was met."""
    parts: list[str] = []
    escaped = False
    while at < len(text) and text[at] not in stops:
        if text[at] == '"':
            raise ValueError("a quote inside an element")
        if text[at] == "\\":
            escaped = True
            at += 1
            if at == len(text):
                raise ValueError("text ends in a backslash")
        parts.append(text[at])
        at += 1
    return "".join(parts), at, escaped


def read_composite(text: str, attributes: tuple[tuple[str, Convert], ...]) -> dict[str, Value]:
    """
    Read a composite value into a dict, in the order of its attributes; an empty field is None.

    See: https://www.postgresql.org/docs/current/rowtypes.html#ROWTYPES-IO-SYNTAX

    Args:
        text: As the server writes it.
        attributes: Name of each attribute and what reads it.

    Raises:
        ValueError: It is not a composite, has another number of fields, or a field is not of its type.
    """
    if text[:1] != "(" or text[-1:] != ")" or len(text) < 2:
        raise ValueError("not a composite")
    fields: list[str | None] = []
    at, end = 1, len(text) - 1
    while True:
        if at == end or text[at] == ",":
            fields.append(None)
        elif text[at] == '"':
            item, at = _quoted(text, at)
            fields.append(item)
        else:
            item, at, _ = _unquoted(text, at, ",()")
            fields.append(item)
        if at == end:
            break
        if at > end or text[at] != ",":
            raise ValueError("not a composite")
        at += 1
    if len(fields) != len(attributes):
        raise ValueError("a composite has another number of fields than its type")
    return {
        name: None if item is None else convert(item) for (name, convert), item in zip(attributes, fields, strict=True)
    }
