"""Changes in their JSON shape, read and written."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import orjson
import pytest

from wal_tracker.decode.changes import ChangeReader, change_document, emitted
from wal_tracker.errors import DecodeError
from wal_tracker.model import EXACT, PartialRow, ReplicaIdentity
from wal_tracker.pgtypes import PgType, PgTypeKind, TypeCatalog

SCHEMA = {
    "users": {
        "id": "bigint", "email": "text", "rate": "numeric(10,2)", "at": "timestamp with time zone",
        "local": "timestamp", "content": "bytea", "extra": "jsonb", "tags": "text[]", "moments": "timestamptz[]",
        "posint": "posint",
    }
}  # fmt: skip


EXTRA = '{"a":1.10,"n":123456789012345678901}'


def utc(hour: int, microsecond: int = 0) -> datetime:
    return datetime(2026, 1, 2, hour, 4, 5, microsecond, timezone.utc)


def read(document: dict[str, Any] | str, schema: Any = SCHEMA, **options: Any):
    line = document if isinstance(document, str) else json.dumps(document)
    return ChangeReader(TypeCatalog(), schema, **options).read(line)


def value(column: str, written: str) -> Any:
    """What a column becomes whose JSON value is written so."""
    change = read(f'{{"op":"insert","table":"users","new":{{"{column}":{written}}}}}')
    assert change.new is not None
    return change.new[column], orjson.dumps(change.new[EXACT + column]).decode()


def test_the_least_a_change_needs_is_op_and_table() -> None:
    """The rest is filled in, the same on every run."""
    change = read('{"op":"truncate","table":"users"}')

    assert (change.op, change.relation.name, change.old, change.new, change.ordinal) == (
        "truncate", "public.users", None, None, 0,
    )  # fmt: skip
    assert change.transaction.commit_time == "1970-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("column", "written", "computed", "shown"),
    [
        ("id", "7", 7, "7"),
        ("email", '"a@x"', "a@x", '"a@x"'),
        ("email", "null", None, "null"),
        ("rate", "19.90", 19.9, "19.90"),
        ("rate", '"19.90"', 19.9, "19.90"),
        ("rate", '"NaN"', None, '"NaN"'),
        ("rate", "1e2", 100.0, "100.0"),
        ("at", '"2026-01-02T03:04:05.5Z"', utc(3, 500_000), '"2026-01-02T03:04:05.5Z"'),
        ("at", '"2026-01-02T03:04:05+02:00"', utc(1), '"2026-01-02T01:04:05Z"'),
        ("at", '"infinity"', "infinity", '"infinity"'),
        ("local", '"2026-01-02T03:04:05"', utc(3), '"2026-01-02T03:04:05"'),
        ("content", '"AP8Q"', b"\x00\xff\x10", '"AP8Q"'),
        ("content", '"\\\\x00ff10"', b"\x00\xff\x10", '"AP8Q"'),
        ("extra", '{"a": 1.10, "n": 123456789012345678901}', {"a": 1.1, "n": 123456789012345678901.0}, EXTRA),
        ("extra", '"2026-01-02"', "2026-01-02", '"2026-01-02"'),
        ("tags", '["a",null]', ["a", None], '["a",null]'),
        ("moments", '[["2026-01-02T03:04:05Z"]]', [[utc(3)]], '[["2026-01-02T03:04:05Z"]]'),
        ("posint", "7", 7, "7"),
        ("untyped", "1.50", 1.5, "1.50"),
        ("untyped", '"2026-01-02T03:04:05Z"', "2026-01-02T03:04:05Z", '"2026-01-02T03:04:05Z"'),
        ("id", '"not an integer"', "not an integer", '"not an integer"'),
    ],
)  # fmt: skip
def test_a_value_is_read_by_its_columns_type(column: str, written: str, computed: Any, shown: str) -> None:
    """As the wire's text would be; without a known type, or against it, the JSON value is the value."""
    found, emitted_as = value(column, written)

    if written != '"NaN"':
        assert found == computed
        assert type(found) is type(computed)
    assert emitted_as == shown


def test_a_change_may_bring_its_own_types() -> None:
    """They go before the schema's."""
    change = read({"op": "insert", "table": "users", "new": {"email": "AP8Q"}, "types": {"email": "bytea"}})

    assert change.new is not None
    assert change.new["email"] == b"\x00\xff\x10"


def test_numeric_is_a_string_where_asked() -> None:
    """As in the configuration."""
    change = read('{"op":"insert","table":"users","new":{"rate":19.90}}', numeric_as_string=lambda *_: True)

    assert change.new is not None
    assert (change.new["rate"], change.new[EXACT + "rate"]) == ("19.90", "19.90")


def test_composites_are_read_by_their_attributes() -> None:
    """A map in, a map out, its members by type."""
    types = TypeCatalog([PgType(50_000, "spot", PgTypeKind.COMPOSITE, attributes=(("at", 1184), ("n", 1700)))])
    reader = ChangeReader(types, {"t": {"s": "spot"}})
    change = reader.read('{"op":"insert","table":"t","new":{"s":{"at":"2026-01-02T03:04:05Z","n":1.50,"more":1}}}')

    assert change.new is not None
    assert change.new["s"] == {"at": utc(3), "n": 1.5, "more": 1}
    assert orjson.dumps(change.new[EXACT + "s"]) == b'{"at":"2026-01-02T03:04:05Z","n":1.50,"more":1}'


def test_the_old_row_of_a_known_key_knows_the_key_only() -> None:
    """What `tail` prints under DEFAULT identity can be evaluated as it was."""
    change = read(
        {"op": "update", "table": "t", "key": {"id": 7}, "new": {"id": 7, "a": 1}, "unchanged": ["bio"]}, None
    )

    assert isinstance(change.old, PartialRow)
    assert (change.old, change.old.unsent) == ({"id": 7, EXACT + "id": 7}, {"a"})
    assert isinstance(change.new, PartialRow)
    assert change.new.unchanged == {"bio"}
    assert change.relation.replica_identity is ReplicaIdentity.DEFAULT
    assert change.relation.key == ("id",)


def test_changes_of_one_transaction_share_it_and_are_numbered() -> None:
    """By table, as the decoders do."""
    reader = ChangeReader(TypeCatalog())
    lines = [
        {"op": "insert", "table": table, "new": {}, "xid": xid, "commit_lsn": "0/1"}
        for table, xid in (("a", 5), ("a", 5), ("b", 5), ("a", 6))
    ]
    first, second, other, later = (reader.read(json.dumps(line)) for line in lines)

    assert first.transaction is second.transaction is other.transaction is not later.transaction
    assert [c.ordinal for c in (first, second, other, later)] == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "one JSON object on one line"),
        ("[]", "one JSON object on one line"),
        ('{"op":"insert","table":"t","new":{"a":NaN}}', "one JSON object on one line"),
        ('{"table":"t"}', '"op", one of insert, update, delete, truncate'),
        ('{"op":"merge","table":"t"}', '"op", one of'),
        ('{"op":"insert"}', 'needs "table", a string'),
        ('{"op":"insert","table":"t","new":1}', '"new" must be an object or null'),
        ('{"op":"insert","table":"t","xid":"x"}', '"xid" must be an integer'),
        ('{"op":"insert","table":"t","ordinal":1.5}', '"ordinal" must be an integer'),
        ('{"op":"insert","table":"t","commit_lsn":"x"}', '"commit_lsn" must be an LSN'),
        ('{"op":"insert","table":"t","commit_time":"x"}', '"commit_time" must be a timestamp'),
        ('{"op":"insert","table":"t","unchanged":"x"}', '"unchanged" must be a list'),
        ('{"op":"insert","table":"t","types":[]}', '"types" must be an object'),
        ('{"op":"insert","table":"users","new":{"content":"!s3cret"}}', "column 'content' does not fit its type"),
        ('{"op":"insert","table":"users","new":{"at":"s3cret"}}', "column 'at' does not fit its type"),
    ],
)
def test_what_is_no_change_is_refused_without_showing_values(line: str, complaint: str) -> None:
    """The text goes to a terminal or a log."""
    with pytest.raises(DecodeError) as caught:
        read(line)
    assert complaint in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_the_shape_is_complete_and_in_table_order() -> None:
    """Each member is there in every change, so that readers need not ask."""
    document = change_document(read({"op": "insert", "table": "users", "new": {"email": "a", "id": 1}}))

    assert list(document) == [
        "op", "schema", "table", "key", "old", "new", "unchanged",
        "commit_lsn", "ordinal", "xid", "commit_time", "context",
    ]  # fmt: skip
    assert list(document["new"]) == ["id", "email"]


def test_computed_values_can_be_emitted() -> None:
    """The form without an exact twin: timestamps, bytes and non-finite numbers, however deep."""
    moment = utc(3)

    assert emitted({"a": [moment, b"\x00"], "b": float("inf"), "c": float("nan"), EXACT + "a": 1, "d": 1.5}) == {
        "a": ["2026-01-02T03:04:05Z", "AA=="], "b": "Infinity", "c": "NaN", "d": 1.5,
    }  # fmt: skip
