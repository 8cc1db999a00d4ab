"""Captured rows to changes: two ways to read a value, one meaning; and descriptions that follow the rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wal_tracker import pgtypes
from wal_tracker.decode.base import OpColumns, Wanted
from wal_tracker.decode.outbox import CapturedTable, OutboxDecoder, members
from wal_tracker.model import EXACT, ROW_OPS, Change, Column, Item, Message, Relation
from wal_tracker.pgtypes import TypeCatalog

NUMERIC_12_2 = (12 << 16 | 2) + 4


def table(*columns: tuple[str, int, int], number: int = 1, name: str = "t") -> CapturedTable:
    """A captured table of these columns."""
    return CapturedTable(
        number=number,
        oid=16384 + number,
        schema="public",
        table=name,
        columns=tuple(Column(column, oid, modifier, True) for column, oid, modifier in columns),
    )


def everything(relation: Relation) -> Wanted:
    """Every column in both forms."""
    names = {column.name for column in relation.columns}
    keys = frozenset(names | {EXACT + name for name in names})
    return {op: OpColumns(new=keys, old=keys) for op in ROW_OPS}


def computed(relation: Relation) -> Wanted:
    """Every column as rules compute with it."""
    keys = frozenset(column.name for column in relation.columns)
    return {op: OpColumns(new=keys, old=keys) for op in ROW_OPS}


def decode(
    decoder: OutboxDecoder, *rows: tuple[int, str, str | None, str | None, str | None]
) -> Sequence[Change | Message]:
    """What rows (table, operation, context, old, new) of one transaction become."""
    items: list[Item] = []
    transaction = decoder.begin(7, 101, 1_000_000)
    decoder.rows(transaction, [("7", *row, 1_000_000) for row in rows], items)
    return items  # type: ignore[return-value]


@given(st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**9), max_value=10**9))
def test_digits_survive_the_short_way(value: Decimal) -> None:
    """What the server wrote of a numeric(12,2) is what goes out, zeros at the end included."""
    text = format(value if value else value.copy_abs(), "f")
    decoder = OutboxDecoder(everything, TypeCatalog(), describe=lambda: [table(("n", pgtypes.NUMERIC, NUMERIC_12_2))])
    (change,) = decode(decoder, (1, "INSERT", None, None, f'{{"n":{text}}}'))
    assert isinstance(change, Change)
    assert change.new is not None
    assert orjson.dumps(change.new[EXACT + "n"]).decode() == text
    assert change.new["n"] == float(text)


@given(
    st.dictionaries(
        st.sampled_from(["i", "t", "b", "f"]),
        st.one_of(
            st.none(),
            st.integers(-(2**31), 2**31 - 1),
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10),
            st.booleans(),
            st.floats(),
        ),
        min_size=4,
    ),
    st.booleans(),
)
def test_both_ways_of_reading_a_row_agree(row: dict[str, Any], is_spaced: bool) -> None:
    """The quick way is either the exact one's answer or none, also where values and types do not go together."""
    row = {
        name: "NaN" if value != value else str(value).replace("inf", "Infinity") if value in (1e999, -1e999) else value
        for name, value in row.items()
    }
    text = json.dumps(row, separators=(", ", ": ") if is_spaced else (",", ":"))
    columns = (("i", pgtypes.INT4, -1), ("t", pgtypes.TEXT, -1), ("b", pgtypes.BOOL, -1), ("f", pgtypes.FLOAT8, -1))
    rows = []
    for extra in ((), (("j", pgtypes.JSON, -1),)):
        # A json column sends the row the exact way.
        decoder = OutboxDecoder(everything, TypeCatalog(), describe=lambda extra=extra: [table(*columns, *extra)])
        written = text if not extra else text[:-1] + ',"j":null}'
        (change,) = decode(decoder, (1, "INSERT", None, None, written))
        assert isinstance(change, Change)
        assert change.new is not None
        rows.append(
            {
                key: orjson.dumps(value) if key[:1] == EXACT else repr(value)
                for key, value in change.new.items()
                if key.strip(EXACT) != "j"
            }
        )
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{}", {}),
        ('{"a":1.50,"b":"x,\\"}"}', {"a": "1.50", "b": '"x,\\"}"'}),
        ('{"a": [1, {"b": 2}], "c": null}', {"a": '[1, {"b": 2}]', "c": "null"}),
        ('{"a":  {"b" : 1,\n "c":2} ,"d":true}', {"a": '{"b" : 1,\n "c":2}', "d": "true"}),
        ('{ "a" : [1, {"b" : 2}], "c" : null }', {"a": '[1, {"b" : 2}]', "c": "null"}),
        ("{ }", {}),
        ('{"a\\"\\u00fc":12345678901234567890123}', {'a"ü': "12345678901234567890123"}),
    ],
)
def test_members_are_kept_as_they_are_written(text: str, found: dict[str, str]) -> None:
    """As row_to_json writes them, as jsonb does, and as a json column may hold them."""
    assert {name: written for name, (written, _) in members(text).items()} == found


def test_ordinals_count_by_table_and_also_what_nobody_wants() -> None:
    """Ids stay when a rule for another operation comes and goes."""

    def only_updates(relation: Relation) -> Wanted | None:
        return {"update": everything(relation)["update"]} if relation.table == "t" else None

    tables = [table(("a", pgtypes.INT4, -1)), table(("a", pgtypes.INT4, -1), number=2, name="u")]
    decoder = OutboxDecoder(only_updates, TypeCatalog(), describe=lambda: tables)
    row = '{"a":1}'
    changes = decode(
        decoder,
        (1, "INSERT", None, None, row),
        (2, "UPDATE", None, row, row),
        (1, "UPDATE", None, row, row),
        (1, "TRUNCATE", None, None, None),
        (1, "UPDATE", None, row, row),
    )
    assert [(change.op, change.ordinal) for change in changes if isinstance(change, Change)] == [
        ("update", 1),
        ("update", 3),
    ]


def test_the_catalog_is_asked_once_for_each_shape() -> None:
    """Rows of two shapes in turn are no reason to read it again and again, nor is a table nobody knows."""
    asked = []

    def describe() -> list[CapturedTable]:
        asked.append(None)
        return [table(("a", pgtypes.INT4, -1))]

    decoder = OutboxDecoder(everything, TypeCatalog(), describe=describe)
    for _ in range(5):
        decode(
            decoder,
            (1, "INSERT", None, None, '{"a":1}'),
            (1, "INSERT", None, None, '{"a":1,"dropped":"x"}'),
            (1, "INSERT", None, None, '{"a":"no number"}'),
            (9, "INSERT", None, None, '{"a":1}'),
        )
    assert len(asked) == 4
    assert decoder.unknown == {9}


def test_an_event_keeps_its_text_and_a_context_that_is_no_object_is_none() -> None:
    """As messages of the WAL do."""
    decoder = OutboxDecoder(everything, TypeCatalog(), describe=list)
    first, second = decode(
        decoder, (0, "EVENT", '{"a": 1}', None, '{"event": "e", "n": 1.50}'), (0, "EVENT", "[1]", None, "{}")
    )
    assert isinstance(first, Message)
    assert isinstance(second, Message)
    assert (first.prefix, first.content, first.ordinal, first.context) == (
        "wal_tracker.event",
        b'{"event": "e", "n": 1.50}',
        0,
        {"a": 1},
    )
    assert (second.ordinal, second.context) == (1, {})


DEEP = "[" * 100_000 + '"]{\\""' + "]" * 100_000


@pytest.mark.parametrize(
    ("type_oid", "value"),
    [(pgtypes.JSON, DEEP), (pgtypes.JSONB, DEEP), (0, DEEP), (pgtypes.TEXT, DEEP), (199, f"[{DEEP}]"), (199, DEEP)],
)
def test_no_nesting_of_a_value_ends_reading(type_oid: int, value: str) -> None:
    """A json column may hold thousands of brackets: wanted or not, its row is read, and the value is text."""
    described = table(("a", pgtypes.INT4, -1), ("j", type_oid, -1))
    row = f'{{"a":1,"j":{value},"b":2}}'
    for wanted in (everything, lambda relation: {"insert": OpColumns(new=frozenset({"a"}), old=frozenset())}):
        (change,) = decode(
            OutboxDecoder(wanted, TypeCatalog(), describe=lambda: [described]), (1, "INSERT", None, None, row)
        )
        assert isinstance(change, Change)
        assert change.new is not None
        assert change.new["a"] == 1
        assert change.new.get("j", value) == value
        assert change.new.get(EXACT + "j", value) == value


def test_a_value_that_only_the_forms_cannot_follow_is_text() -> None:
    """What the C scanner still reads may be too deep for what walks over it in Python."""
    for depth in range(100, 2000, 100):
        value = "[" * depth + "]" * depth
        decoder = OutboxDecoder(everything, TypeCatalog(), describe=lambda: [table(("j", 0, -1))])
        (change,) = decode(decoder, (1, "INSERT", None, None, f'{{"j":{value}}}'))
        assert isinstance(change, Change)
        assert change.new is not None
        assert change.new["j"] == value or isinstance(change.new["j"], list)


def test_contexts_are_remembered_up_to_a_size() -> None:
    """A context of a megabyte in each transaction is not a gigabyte with us."""
    decoder = OutboxDecoder(everything, TypeCatalog(), describe=lambda: [table(("a", pgtypes.INT4, -1))])
    for number in range(20):
        context = json.dumps({"number": number, "text": "x" * 400_000})
        (change,) = decode(decoder, (1, "INSERT", context, None, '{"a":1}'))
        assert isinstance(change, Change)
        assert change.context["number"] == number
        assert sum(map(len, decoder._contexts)) <= 1_000_000
