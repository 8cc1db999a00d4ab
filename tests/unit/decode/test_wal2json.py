"""The wal2json decoder, over lines as version 2.5 writes them."""

from __future__ import annotations

import json
import logging
from typing import Any

import orjson
import pytest

from wal_tracker.decode.base import OpColumns, Wanted
from wal_tracker.decode.wal2json import Wal2Json
from wal_tracker.errors import DecodeError, UnsupportedValue
from wal_tracker.model import ROW_OPS, Change, Column, Commit, Item, Message, PartialRow, Relation, ReplicaIdentity
from wal_tracker.pgtypes import TypeCatalog

INT, TEXT, BYTEA, NUMERIC = 23, 25, 17, 1700


def everything(relation: Relation) -> Wanted:
    names = frozenset(column.name for column in relation.columns)
    return {op: OpColumns(new=names, old=names) for op in ROW_OPS}


def users(identity: ReplicaIdentity = ReplicaIdentity.DEFAULT) -> Relation:
    full = identity is ReplicaIdentity.FULL
    columns = (Column("id", INT, -1, True), Column("email", TEXT, -1, full), Column("bio", TEXT, -1, full))
    return Relation(16385, "public", "users", identity, columns)


def begin(**changed: Any) -> dict[str, Any]:
    return {
        "action": "B", "xid": 733, "timestamp": "2026-01-02 03:04:05.123456+00", "lsn": "0/1000", "nextlsn": "0/1030",
        **changed,
    }  # fmt: skip


def commit(**changed: Any) -> dict[str, Any]:
    return {**begin(), "action": "C", **changed}


def row(
    action: str, *, new: dict[str, Any] | None = None, old: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    types = {"id": INT, "email": TEXT, "bio": TEXT, "code": INT, "content": BYTEA, "price": NUMERIC}

    def cells(values: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"name": name, "typeoid": types[name], "value": value} for name, value in values.items()]

    document = {"action": action, "xid": 733, "lsn": "0/900", "schema": "public", "table": "users", **more}
    if new is not None:
        document["columns"] = cells(new)
    if old is not None:
        document["identity"] = cells(old)
    return document


class Stream:
    """A decoder and what it has yielded."""

    def __init__(self, described: Relation | None = None, wanted=everything) -> None:
        self.asked: list[tuple[str, str]] = []

        def describe(schema: str, table: str) -> Relation | None:
            self.asked.append((schema, table))
            return described if described is not None and described.table == table else None

        self.decoder = Wal2Json(wanted, TypeCatalog(), describe=describe)
        self.decoder.reset(700)
        self.items: list[Item] = []

    def feed(self, *messages: dict[str, Any] | bytes) -> list[Item]:
        """Feed messages; what these yielded."""
        before = len(self.items)
        for message in messages:
            payload = message if isinstance(message, bytes) else json.dumps(message, ensure_ascii=False).encode()
            self.decoder.feed(payload, 0x100, self.items)
        return self.items[before:]

    def change(self, message: dict[str, Any]) -> Change:
        """The one change of one message."""
        (change,) = self.feed(message)
        assert isinstance(change, Change)
        return change


def opened(described: Relation | None = None, wanted=everything) -> Stream:
    stream = Stream(described, wanted)
    stream.feed(begin())
    return stream


def test_a_transaction_yields_its_changes_and_then_its_commit() -> None:
    """With the positions and the time of pgoutput's."""
    stream = Stream(users())
    change, last = stream.feed(begin(), row("I", new={"id": 7, "email": "a@x", "bio": None}), commit())

    assert isinstance(change, Change)
    assert isinstance(last, Commit)
    assert change.new == {"id": 7, "email": "a@x", "bio": None}
    assert change.transaction is last.transaction
    assert (last.transaction.xid, last.transaction.commit_lsn, last.transaction.end_lsn) == (733, 0x1000, 0x1030)
    assert last.transaction.commit_time == "2026-01-02T03:04:05.123456Z"
    assert last.transaction.commit_time_us == 1_767_323_045_123_456
    assert not stream.decoder.in_transaction


def test_an_unchanged_toasted_value_is_seen_with_the_catalogs_help() -> None:
    """The message just leaves it out; the catalog knows that it is there."""
    change = opened(users()).change(row("U", new={"id": 7, "email": "b@x"}, old={"id": 7}))

    assert change.new == {"id": 7, "email": "b@x"}
    assert isinstance(change.new, PartialRow)
    assert change.new.unchanged == {"bio"}
    assert isinstance(change.old, PartialRow)
    assert change.old.unsent == {"email", "bio"}


def test_an_unchanged_toasted_value_is_taken_from_a_full_old_row() -> None:
    """As pgoutput's."""
    old = {"id": 7, "email": "a@x", "bio": "long"}
    change = opened(users(ReplicaIdentity.FULL)).change(row("U", new={"id": 7, "email": "b@x"}, old=old))

    assert change.new == {"id": 7, "email": "b@x", "bio": "long"}
    assert change.old == old
    assert type(change.new) is type(change.old) is dict


def test_a_column_of_fixed_size_that_is_missing_was_added_later() -> None:
    """An integer is never TOASTed: the row is older than the catalog, and the column no unknown of it."""
    relation = users()
    grown = Relation(16385, "public", "users", relation.replica_identity, (*relation.columns, Column("code", INT)))
    change = opened(grown).change(row("U", new={"id": 7, "email": "b@x", "bio": None}, old={"id": 7}))

    assert change.new == {"id": 7, "email": "b@x", "bio": None}
    assert type(change.new) is dict
    assert change.relation.relation_id == 16385
    assert change.relation.key == ("id",)


def test_a_table_the_catalog_does_not_know_is_what_its_rows_show() -> None:
    """It was dropped since; its key is the primary key, or what identifies the row."""
    stream = opened()
    inserted = stream.change(row("I", new={"id": 7, "bio": "x"}, pk=[{"name": "id", "typeoid": INT}]))
    deleted = stream.change(row("D", old={"id": 7}))

    assert (inserted.relation.key, deleted.relation.key) == (("id",), ("id",))
    assert inserted.relation.relation_id == deleted.relation.relation_id < 0
    assert (inserted.ordinal, deleted.ordinal) == (0, 1)


def test_the_catalog_is_asked_once_for_each_shape_of_a_row() -> None:
    """Not once for each row: it is a query."""
    stream = opened(users())
    for _ in range(3):
        stream.feed(row("I", new={"id": 7, "email": "a@x", "bio": None}))
        stream.feed(row("U", new={"id": 7, "email": "b@x"}, old={"id": 7}))

    assert len(stream.asked) == 2
    assert len({id(change.relation) for change in stream.items}) == 1


def test_values_have_the_digits_and_bytes_they_were_written_with() -> None:
    """JSON numbers are not read as doubles first, and bytea has lost its mark."""

    def exact(relation: Relation) -> Wanted:
        return {"insert": OpColumns(new=frozenset({"price", "\0price", "content"}))}

    message = (
        json.dumps(row("I", new={"content": "00ff", "price": 0})).replace('"value": 0}', '"value": 1.50}').encode()
    )
    (change,) = opened(None, exact).feed(message)

    assert change.new["price"] == 1.5
    assert orjson.dumps(change.new["\0price"]) == b"1.50"
    assert change.new["content"] == b"\x00\xff"


def test_what_nobody_wants_is_passed_over_and_counted_where_the_table_is_wanted() -> None:
    """As with pgoutput."""

    def wanted(relation: Relation) -> Wanted | None:
        return {"delete": OpColumns(old=frozenset({"id"}))} if relation.table == "users" else None

    stream = opened(users(), wanted)
    stream.feed(
        row("I", new={"id": 7, "email": None, "bio": None}),
        row("I", new={"id": 7, "email": None, "bio": None}, table="others"),
        {"action": "T", "schema": "public", "table": "users"},
    )
    change = stream.change(row("D", old={"id": 7}))

    assert change.ordinal == 2
    assert change.transaction.counts == {"public.users": 3}


def test_messages_are_pgoutputs() -> None:
    """Context, numbered messages, and those outside a transaction."""
    stream = Stream()

    def message(prefix: str, content: str, transactional: bool = True) -> dict[str, Any]:
        return {"action": "M", "lsn": "0/900", "transactional": transactional, "prefix": prefix, "content": content}

    outside, own_commit = stream.feed(message("o", "1", transactional=False))
    first, second = stream.feed(
        begin(), message("wal_tracker.context", '{"a":1}'), message("p", "1"), message("p", "2")
    )

    assert isinstance(own_commit, Commit)
    assert isinstance(outside, Message)
    assert (outside.transaction.end_lsn, outside.transaction.xid) == (0x901, 0)
    assert [(m.content, m.ordinal, m.context) for m in (first, second)] == [(b"1", 0, {"a": 1}), (b"2", 1, {"a": 1})]


def test_message_content_may_be_bytes_that_are_no_text() -> None:
    """The plugin writes them into its JSON as they are."""
    line = b'{"action":"M","lsn":"0/900","transactional":true,"prefix":"p","content":"\xff\xe9"}'
    (message,) = opened().feed(line)

    assert isinstance(message, Message)
    assert message.content == b"\xff\xe9"


def test_an_unknown_action_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Neither fatal nor silent."""
    stream = Stream()
    with caplog.at_level(logging.WARNING):
        stream.feed({"action": "Z"}, {"action": "Z"})

    assert stream.decoder.unknown_messages == {"Z": 2}
    assert len(caplog.records) == 1


def test_tables_are_named_to_the_server_with_their_odd_characters_escaped() -> None:
    """Else a comma would name two tables, and a star all."""
    decoder = Wal2Json(everything, TypeCatalog(), tables=[("public", "users"), ("Sche ma", "a.b,c'd*e\\f")])

    assert decoder.options("p")["add-tables"] == "public.users,Sche\\ ma.a\\.b\\,c\\'d\\*e\\\\f"
    assert "add-tables" not in Wal2Json(everything, TypeCatalog()).options("p")


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([b"{"], "not a JSON object"),
        ([b"[]"], "not a JSON object"),
        ([{}], "'action' is missing"),
        ([begin(xid="x")], "'xid' is no integer"),
        ([begin(xid=2**32)], "more than 32 bits"),
        ([begin(lsn="x")], "'lsn' is no LSN"),
        ([begin(timestamp="x")], "'timestamp' is no time"),
        ([begin(), begin()], "begin inside a transaction"),
        ([commit()], "commit outside a transaction"),
        ([begin(), commit(lsn="0/1")], "commit does not belong"),
        ([row("I", new={"id": 1})], "a row outside a transaction"),
        ([begin(), row("I")], "'columns' is missing"),
        ([begin(), row("U", new={"id": 1})], "'identity' is missing"),
        ([begin(), row("I", new={"id": [1]})], "neither a scalar nor null"),
        ([begin(), {**row("I"), "columns": [{"name": "id"}]}], "lacks its type or value"),
        ([begin(), {**row("I"), "columns": [1]}], "is no list of columns"),
    ],
)
def test_a_stream_that_contradicts_itself_is_refused(messages: list[Any], complaint: str) -> None:
    """With a sentence, and without touching what was yielded before."""
    stream = Stream()

    with pytest.raises(DecodeError, match=complaint):
        stream.feed(*messages)
    assert stream.items == []


def test_a_value_that_does_not_fit_is_named_by_column_and_not_shown() -> None:
    """As with pgoutput."""
    with pytest.raises(UnsupportedValue, match=r"column 'id' of public\.users does not fit") as caught:
        opened(users()).feed(row("I", new={"id": "s3cret", "email": None, "bio": None}))
    assert "s3cret" not in str(caught.value)
