"""Laws of values: what goes in as text comes out as the same value, whatever it is."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from wal_tracker.decode.changes import ChangeReader, change_document, emitted
from wal_tracker.decode.values import _from_iso_before_3_11, codec
from wal_tracker.lsn import LSN
from wal_tracker.model import Change, Column, PartialRow, Relation, ReplicaIdentity, Transaction
from wal_tracker.pgtypes import PgType, PgTypeKind, TypeCatalog

SPOT = PgType(50_000, "spot", PgTypeKind.COMPOSITE, attributes=(("a", 25), ("b", 23), ("c", 1009)))
SPOTS = PgType(50_001, "spot[]", PgTypeKind.ARRAY, element=50_000)
TYPES = TypeCatalog([SPOT, SPOTS])

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


def array_text(items: list[Any]) -> str:
    """What array_out writes, quoting everything that may need it."""
    parts = []
    for item in items:
        if isinstance(item, list):
            parts.append(array_text(item))
        elif item is None:
            parts.append("NULL")
        else:
            escaped = item.replace("\\", "\\\\").replace('"', '\\"')
            parts.append(f'"{escaped}"')
    return "{" + ",".join(parts) + "}"


def composite_text(fields: list[str | None]) -> str:
    """What record_out writes, quoting every field."""
    parts = [
        '"{}"'.format(field.replace("\\", "\\\\").replace('"', '""')) if field is not None else "" for field in fields
    ]
    return "(" + ",".join(parts) + ")"


@given(st.lists(st.none() | text, max_size=6))
def test_arrays_of_text_come_back_as_they_were(items: list[str | None]) -> None:
    """Quotes, backslashes, braces, the word NULL and NULL itself."""
    assert codec(TYPES, 1009).cel(array_text(items)) == items


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.data())
def test_arrays_keep_their_dimensions(x: int, y: int, z: int, data: st.DataObject) -> None:
    """Nested as in the server."""
    cube = [[[data.draw(text) for _ in range(z)] for _ in range(y)] for _ in range(x)]

    assert codec(TYPES, 1009).cel(array_text(cube)) == cube


@given(st.lists(st.tuples(st.none() | text, st.none() | st.integers(-(2**31), 2**31 - 1), st.none() | st.lists(text))))
def test_composites_in_arrays_come_back_as_they_were(
    rows: list[tuple[str | None, int | None, list[str] | None]],
) -> None:
    """Two ways of quoting, one inside the other, three deep."""
    written = [
        composite_text([a, None if b is None else str(b), None if c is None else array_text(c)]) for a, b, c in rows
    ]

    assert codec(TYPES, SPOTS.oid).cel(array_text(written)) == [{"a": a, "b": b, "c": c} for a, b, c in rows]


@given(st.datetimes())
def test_timestamps_are_the_instant_they_say(moment: datetime) -> None:
    """With the fraction cut as PostgreSQL cuts it."""
    written = moment.isoformat(" ")
    if "." in written:
        written = written.rstrip("0")
    aware = moment.replace(tzinfo=timezone.utc)

    assert codec(TYPES, 1184).cel(written + "+00") == aware
    assert _from_iso_before_3_11(written + "+00") == _from_iso_before_3_11(written + "+00:00") == aware
    assert codec(TYPES, 1114).cel(written) == aware
    assert codec(TYPES, 1184).exact(written + "+00") == written.replace(" ", "T") + "Z"


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30))
def test_numerics_are_emitted_digit_by_digit(number: Any) -> None:
    """And computed with as the nearest double."""
    written = f"{number:f}"
    reads = codec(TYPES, 1700)

    assert orjson.dumps(reads.exact(written)).decode() == written
    assert reads.cel(written) == float(number)


@given(st.binary(max_size=40))
def test_bytes_come_back_as_they_were(content: bytes) -> None:
    """Hex in, bytes and base64 out."""
    reads = codec(TYPES, 17)

    assert reads.cel("\\x" + content.hex()) == content
    assert reads.exact("\\x" + content.hex()) == emitted(content)


@given(
    st.sampled_from([16, 17, 20, 23, 25, 701, 1009, 1114, 1184, 1231, 1700, 3802, 50_000, 50_001]), st.text(max_size=30)
)
def test_any_text_is_a_value_or_a_value_error(oid: int, written: str) -> None:
    """Nothing else is raised, and what is a value can be emitted."""
    reads = codec(TYPES, oid)
    for convert in (reads.cel, reads.exact):
        try:
            value = convert(written)
        except ValueError:
            continue
        if "\ud800" <= max(written, default="") <= "\udfff":
            continue  # no UTF-8 on the wire holds a surrogate
        orjson.loads(orjson.dumps(emitted(value) if convert is reads.cel else value))


@given(
    st.integers(-(2**63), 2**63 - 1),
    st.none() | text,
    st.datetimes(),
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20),
    st.binary(max_size=10),
    st.lists(st.none() | st.integers(-5, 5), max_size=3),
    st.booleans(),
)
def test_a_change_survives_its_json_shape(
    number: int, words: str | None, moment: datetime, price: Any, content: bytes, numbers: list[int | None], hole: bool
) -> None:
    """What `change_document` writes, `ChangeReader` reads back to the same values and writes again byte by byte."""
    texts = {
        "id": (20, str(number)),
        "words": (25, words),
        "at": (1184, moment.isoformat(" ") + "+00"),
        "local": (1114, moment.isoformat(" ")),
        "price": (1700, f"{price:f}"),
        "content": (17, "\\x" + content.hex()),
        "numbers": (1007, "{" + ",".join("NULL" if n is None else str(n) for n in numbers) + "}"),
    }
    columns = tuple(Column(name, oid, -1, name == "id") for name, (oid, _) in texts.items())
    relation = Relation(1, "public", "t", ReplicaIdentity.DEFAULT, columns)
    row: dict[str, Any] = {}
    for name, (oid, written) in texts.items():
        reads = codec(TYPES, oid)
        row[name] = None if written is None else reads.cel(written)
        row["\0" + name] = None if written is None else reads.exact(written)
    new: dict[str, Any] = row
    if hole:
        new = PartialRow({k: v for k, v in row.items() if k.lstrip("\0") != "words"}, frozenset({"words"}))
    old = PartialRow({"id": number, "\0id": number}, frozenset(), frozenset(texts) - {"id"})
    transaction = Transaction(7, LSN(0x16B3748), 1_767_322_925_123_456, "2026-01-02T03:02:05.123456Z")
    change = Change(transaction, relation, "update", old, new, 3, {"user_id": 42})
    document = orjson.dumps(change_document(change))
    schema = {"t": {name: TYPES.get(oid).name for name, (oid, _) in texts.items()}}  # type: ignore[union-attr]

    again = ChangeReader(TYPES, schema).read(document)

    assert orjson.dumps(change_document(again)) == document
    assert {k: v for k, v in (again.new or {}).items() if k[0] != "\0"} == {
        k: v for k, v in new.items() if k[0] != "\0"
    }
    assert (again.transaction.xid, again.transaction.commit_time_us) == (7, 1_767_322_925_123_456)
    assert (again.ordinal, again.context, again.op) == (3, {"user_id": 42}, "update")
    assert isinstance(again.old, PartialRow)
    assert again.old.unsent == set(texts) - {"id"}
    assert getattr(again.new, "unchanged", frozenset()) == ({"words"} if hole else frozenset())
