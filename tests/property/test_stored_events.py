"""Laws of events that were stored as JSON and are read again (dead letters, and what waits on a disk)."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wal_tracker.model import Event, Group, ProfileEvent, load_json

digits = st.text("0123456789", min_size=1, max_size=25)
# Numbers as PostgreSQL and people write them, many of which no Python type gives back.
numbers = st.one_of(
    st.integers(-(2**65), 2**65).map(str),
    st.builds("{}{}.{}".format, st.sampled_from(["", "-"]), st.integers(0, 2**70), digits),
    st.builds("{}{}{}".format, st.integers(0, 99), st.sampled_from(["e", "E+", "e-", ".50e"]), st.integers(0, 500)),
    st.sampled_from(["-0", "0.10", "1e400", "9" * 5000, "18446744073709551615", "-9223372036854775808"]),
)
texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(lambda text: orjson.dumps(text).decode()),
    st.sampled_from([r'"\ud800"', r'"\u00e9\/"', r'"a\"b,}:{]["', "null", "true"]),
)
names = st.text("ab\"\\{}\u00e9", max_size=3)


def arrays(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Lists and maps of what there is, as JSON with blanks."""
    members = st.builds("{}: {}".format, st.sampled_from(['"a"', '"\\"b"', '"\u00e9"']), inner)
    return st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
        st.lists(members, max_size=1).map(lambda items: "{" + ",".join(items) + "}"),
    )


written = st.recursive(numbers | texts, arrays, max_leaves=5)
properties = st.dictionaries(names, written.map(orjson.Fragment), max_size=4)


def tokens(text: bytes) -> Any:
    """JSON with every number as it is written."""
    return json.loads(text, parse_int=str, parse_float=str)


def make(told: dict[str, Any], identify: dict[str, Any] | None, group: Group | None, who: str | None) -> Event:
    common = ("id-1", "made", who, "2026-01-02T03:04:05Z", told, '{"op":"insert","xid":733}')
    return ProfileEvent(*common, identify, group) if identify is not None or group is not None else Event(*common)


@given(properties, st.none() | properties, st.none() | properties, st.none() | st.just("7"))
def test_an_event_that_was_stored_is_what_it_was(
    told: dict[str, Any], identify: dict[str, Any] | None, traits: dict[str, Any] | None, who: str | None
) -> None:
    """The same bytes; and each part of it, written again by whoever sends it on, has every digit and every text."""
    event = make(told, identify, None if traits is None else Group("company", "12", traits), who)

    again = Event.from_json(event.to_json())

    assert again.to_json() == event.to_json()
    assert type(again) is type(event)
    assert (again.id, again.name, again.distinct_id, again.timestamp) == ("id-1", "made", who, event.timestamp)
    assert again.source == event.source
    for part in ("properties", "identify", "group"):
        assert tokens(orjson.dumps(getattr(again, part))) == tokens(orjson.dumps(getattr(event, part))), part


@pytest.mark.parametrize("depth", [200, 300, 1100, 30_000])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_a_value_nested_however_deep_comes_back(depth: int, brackets: str) -> None:
    """Deeper than Python or orjson read: it goes on as it is."""
    inner = b"1.50" if brackets == "[]" else b'"x"'
    opened = b"[" if brackets == "[]" else b'{"a":'
    deep = opened * depth + inner + brackets[1].encode() * depth
    event = make({"deep": orjson.Fragment(deep), "id": 7}, None, None, None)

    again = Event.from_json(event.to_json())

    assert again.properties["id"] == 7
    assert orjson.dumps(again.properties) == b'{"deep":' + deep + b',"id":7}'


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        ("1", int),
        ("-9223372036854775808", int),
        ("18446744073709551615", int),
        ("18446744073709551616", orjson.Fragment),
        ("-9223372036854775809", orjson.Fragment),
        ("-0", orjson.Fragment),
        ("1.5", float),
        ("1.50", orjson.Fragment),
        ("1e400", orjson.Fragment),
        ("0.1000000000000000055511151231257827", orjson.Fragment),
    ],
)
def test_a_number_is_a_number_where_it_can_be(number: str, kind: type) -> None:
    """And what carries its text where it cannot."""
    assert type(load_json(b'{"a":1.50,"n":%b}' % number.encode())["n"]) is kind


@pytest.mark.parametrize("payload", [b"", b"[]", b"1", b"{}", b"nonsense", b'{"id":"a","event":"b"}', b'{"id":'])
def test_what_is_no_event_is_refused(payload: bytes) -> None:
    """By a ValueError, whatever it is."""
    with pytest.raises(ValueError, match=r"not (an event|a JSON object)"):
        Event.from_json(payload)


@pytest.mark.parametrize("group", ["null", "{}", '{"type":"a","id":"b","traits":{},"more":1}', "3"])
def test_a_group_of_another_shape_is_no_event(group: str) -> None:
    """Never half read."""
    stored = '{"id":"a","event":"b","timestamp":"c","source":{},"group":' + group + "}"
    with pytest.raises(ValueError, match="not an event"):
        Event.from_json(stored.encode())
