"""
CEL's values as Python's.

| CEL | Python |
|---|---|
| int, double, bool, string, bytes, null | int, float, bool, str, bytes, None |
| uint | `UInt` |
| list, map | list, dict (keys str, int, `UInt`; bool as `BoolKey`) |
| timestamp, duration | aware datetime, timedelta |
| type | `TypeValue` |
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from wal_tracker.model import PartialRow

INT_MAX = 2**63 - 1
INT_MIN = -(2**63)
UINT_MAX = 2**64 - 1
MAX_DURATION = timedelta(seconds=315_576_000_000)
"""The range of google.protobuf.Duration."""


class UInt(int):
    """An unsigned integer. Equal to, and hashed like, the int of the same value; arithmetic keeps them apart."""

    __slots__ = ()


class BoolKey:
    """A bool as a map's key: in a dict True would be the same key as 1."""

    __slots__ = ("value",)

    def __init__(self, value: bool) -> None:
        self.value = value


TRUE_KEY = BoolKey(True)
FALSE_KEY = BoolKey(False)


class TypeValue:
    """A type as a value, such as ``type(1)`` gives; one instance for each type."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


TYPES = {
    name: TypeValue(name)
    for name in (
        "int",
        "uint",
        "double",
        "bool",
        "string",
        "bytes",
        "list",
        "map",
        "null_type",
        "type",
        "google.protobuf.Timestamp",
        "google.protobuf.Duration",
    )
}

_TYPE_NAMES: dict[type[Any], str] = {
    int: "int",
    UInt: "uint",
    float: "double",
    bool: "bool",
    str: "string",
    bytes: "bytes",
    list: "list",
    dict: "map",
    PartialRow: "map",
    type(None): "null_type",
    TypeValue: "type",
    datetime: "google.protobuf.Timestamp",
    timedelta: "google.protobuf.Duration",
}


def type_of(value: Any) -> TypeValue | None:
    """The value's type; None for what is no CEL value."""
    name = _TYPE_NAMES.get(type(value))
    return None if name is None else TYPES[name]


def type_name(value: Any) -> str:
    """The value's type for an error text."""
    name = _TYPE_NAMES.get(type(value), "a value CEL does not know")
    return {"null_type": "null"}.get(name, name.rpartition(".")[2].lower() if "." in name else name)
