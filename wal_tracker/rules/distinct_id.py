"""Whom an event is about: the fixed rule of design.md §3, decided as far as possible before the first row."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from wal_tracker.model import Value

_USER_TABLES = frozenset({"user", "users", "_users"})
_USER_PROPERTIES = frozenset({"user_id", "userid", "_user_id"})


def property_naming_the_user(table: str, properties: Iterable[str]) -> str | None:
    """
    The property an event's distinct_id is read from, where the rule has no `distinct_id` of its own.

    ``distinct_id`` by that exact name; else ``id`` on a table called user, users or _users in any case; else the
    first property whose lower-cased name is user_id, userid or _user_id; else none.
    """
    names = list(properties)
    if "distinct_id" in names:
        return "distinct_id"
    if table.lower() in _USER_TABLES and "id" in names:
        return "id"
    return next((name for name in names if name.lower() in _USER_PROPERTIES), None)


def as_distinct_id(value: Value) -> str | None:
    """
    A string or a number as text; anything else, and the empty string, is nobody.

    A number keeps its digits where they are known (`orjson.Fragment`); a whole double loses its ``.0``.
    """
    kind = type(value)
    if kind is str:
        return value or None
    if kind is bool or value is None:
        return None
    if isinstance(value, int):
        return str(int(value))
    if kind is float:
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if kind is orjson.Fragment:
        text = orjson.dumps(value).decode()
        parsed = orjson.loads(text)
        if isinstance(parsed, str):
            return parsed or None
        return text if isinstance(parsed, (int, float)) and not isinstance(parsed, bool) else None
    return None
