"""The pgoutput decoder, message by message, over bytes built by hand."""

from __future__ import annotations

import logging
from datetime import datetime, timezone

import orjson
import pytest

from tests.support import pgoutput_builder as wire
from wal_tracker.decode.base import OpColumns, Wanted
from wal_tracker.decode.pgoutput import PgOutput
from wal_tracker.errors import DecodeError, TruncatedMessage, UnknownRelation, UnsupportedValue
from wal_tracker.lsn import LSN
from wal_tracker.model import EXACT, ROW_OPS, Change, Column, Commit, Item, Message, PartialRow, Relation
from wal_tracker.pgtypes import TypeCatalog

USERS = 16385
INT, TEXT, BOOL, NUMERIC, TIMESTAMPTZ = 23, 25, 16, 1700, 1184


def everything(relation: Relation) -> Wanted:
    names = frozenset(column.name for column in relation.columns)
    return {op: OpColumns(new=names, old=names) for op in ROW_OPS}


def users(identity: str = "d") -> bytes:
    whole = identity == "f"
    return wire.relation(
        USERS, "public", "users", [("id", INT, True), ("email", TEXT, whole), ("bio", TEXT, whole)], identity
    )


class Stream:
    """A decoder and what it has yielded."""

    def __init__(self, wanted=everything, *, xid8: int = 700, **options) -> None:
        self.decoder = PgOutput(wanted, TypeCatalog(), **options)
        self.decoder.reset(xid8)
        self.items: list[Item] = []

    def feed(self, *messages: bytes) -> list[Item]:
        """Feed messages; what these yielded."""
        before = len(self.items)
        for message in messages:
            self.decoder.feed(message, 0x100, self.items)
        return self.items[before:]

    def change(self, message: bytes) -> Change:
        """The one change of one message in a transaction."""
        (change,) = self.feed(message)
        assert isinstance(change, Change)
        return change


def opened(relation: bytes, wanted=everything, **options) -> Stream:
    stream = Stream(wanted, **options)
    stream.feed(wire.begin(), relation)
    return stream


def test_a_transaction_yields_its_changes_and_then_its_commit() -> None:
    """Begin and Relation yield nothing; the commit carries the end LSN, which is to be confirmed."""
    stream = Stream()

    first, last = stream.feed(
        wire.begin(xid=733, commit_lsn=0x1000), users(), wire.insert(USERS, ["7", "a@x", None]), wire.commit()
    )

    assert isinstance(first, Change)
    assert isinstance(last, Commit)
    assert (first.op, first.old, first.new) == ("insert", None, {"id": 7, "email": "a@x", "bio": None})
    assert first.transaction is last.transaction
    assert (last.transaction.xid, last.transaction.commit_lsn, last.transaction.end_lsn) == (733, 0x1000, 0x1030)
    assert isinstance(last.transaction.end_lsn, LSN)
    assert last.transaction.commit_lsn_text == "0/1000"
    assert last.transaction.commit_time == "2026-01-02T03:02:05.123456Z"
    assert last.transaction.commit_time_us == 1_767_322_925_123_456
    assert not stream.decoder.in_transaction


def test_commit_times_have_six_digits_and_every_second_its_own_text() -> None:
    """The text of a second is kept for the next transaction; another second is another text."""
    stream = Stream()
    times = []
    for unix_us in (1_000_000_000_000_000, 1_000_000_000_000_007, 1_000_000_001_500_000, 946_684_799_999_999):
        *_, commit = stream.feed(wire.begin(unix_us=unix_us), wire.commit(unix_us=unix_us))
        times.append(commit.transaction.commit_time)

    assert times == [
        "2001-09-09T01:46:40.000000Z",
        "2001-09-09T01:46:40.000007Z",
        "2001-09-09T01:46:41.500000Z",
        "1999-12-31T23:59:59.999999Z",
    ]


@pytest.mark.parametrize(
    ("current", "xid", "expected"),
    [
        (733, 733, 733),
        (733, 740, 740),
        ((5 << 32) + 10, 12, (5 << 32) + 12),
        ((5 << 32) + 10, 0xFFFF_FFF0, (4 << 32) + 0xFFFF_FFF0),
        ((5 << 32) + 0xFFFF_FFF0, 5, (6 << 32) + 5),
        (10, 0xFFFF_FFF0, 0xFFFF_FFF0),
    ],
)
def test_transaction_ids_get_the_epoch_they_were_assigned_in(current: int, xid: int, expected: int) -> None:
    """The wire has 32 bits; the epoch is the server's, or the one before or after if the id lies across the wrap."""
    stream = Stream(xid8=current)
    *_, commit = stream.feed(wire.begin(xid=xid), wire.commit())

    assert commit.transaction.xid == expected


def test_a_connection_that_outlives_an_epoch_counts_on() -> None:
    """The distance is taken from the newest id seen, not from the one at connect."""
    stream = Stream(xid8=1)
    for xid in (0x7000_0000, 0xE000_0000, 0x5000_0000):
        *_, commit = stream.feed(wire.begin(xid=xid), wire.commit())

    assert commit.transaction.xid == (1 << 32) + 0x5000_0000


def test_an_update_without_old_row_knows_the_old_key_and_nothing_else() -> None:
    """Under DEFAULT identity no old row means that the key did not change."""
    change = opened(users()).change(wire.update(USERS, ["7", "b@x", "new"]))

    assert change.new == {"id": 7, "email": "b@x", "bio": "new"}
    assert type(change.new) is dict
    assert change.old == {"id": 7}
    assert isinstance(change.old, PartialRow)
    assert change.old.unsent == {"email", "bio"}


def test_an_update_of_the_key_brings_the_old_key() -> None:
    """K tuple: key columns are known, the nulls beside them are not NULLs."""
    change = opened(users()).change(wire.update(USERS, ["8", "b@x", None], key=["7", None, None]))

    assert change.old == {"id": 7}
    assert isinstance(change.old, PartialRow)
    assert change.old.unsent == {"email", "bio"}
    assert change.new == {"id": 8, "email": "b@x", "bio": None}


def test_an_update_under_full_identity_has_both_rows_whole() -> None:
    """O tuple: a NULL is a NULL."""
    change = opened(users("f")).change(wire.update(USERS, ["7", "b@x", "x"], old=["7", "a@x", None]))

    assert change.old == {"id": 7, "email": "a@x", "bio": None}
    assert type(change.old) is dict
    assert change.new == {"id": 7, "email": "b@x", "bio": "x"}
    assert type(change.new) is dict


def test_an_unchanged_toasted_value_is_unknown_not_null() -> None:
    """Reading it is a KeyError, and the row names it."""
    change = opened(users()).change(wire.update(USERS, ["7", "b@x", wire.UNCHANGED]))

    assert change.new == {"id": 7, "email": "b@x"}
    assert isinstance(change.new, PartialRow)
    assert change.new.unchanged == {"bio"}
    assert not change.new.unsent


def test_an_unchanged_toasted_value_is_taken_from_a_full_old_row() -> None:
    """Under FULL nothing is unknown."""
    long = "x" * 3000
    stream = opened(users("f"))

    change = stream.change(wire.update(USERS, ["7", "b@x", wire.UNCHANGED], old=["7", "a@x", long]))
    null = stream.change(wire.update(USERS, ["7", wire.UNCHANGED, "now"], old=["7", None, None]))

    assert change.new == {"id": 7, "email": "b@x", "bio": long}
    assert type(change.new) is dict
    assert null.new == {"id": 7, "email": None, "bio": "now"}


def test_an_unchanged_toasted_key_column_is_taken_from_the_old_key() -> None:
    """A key of two columns, one of them long: changing the other resends it in the K tuple only."""
    relation = wire.relation(USERS, "public", "users", [("a", TEXT, True), ("b", INT, True)])
    change = opened(relation).change(wire.update(USERS, [wire.UNCHANGED, "2"], key=["long", "1"]))

    assert change.new == {"a": "long", "b": 2}
    assert change.old == {"a": "long", "b": 1}


def test_a_delete_knows_the_key_or_the_whole_row() -> None:
    """K under DEFAULT, O under FULL."""
    short = opened(users()).change(wire.delete(USERS, key=["7", None, None]))
    whole = opened(users("f")).change(wire.delete(USERS, old=["7", "a@x", None]))

    assert short.old == {"id": 7}
    assert isinstance(short.old, PartialRow)
    assert short.old.unsent == {"email", "bio"}
    assert whole.old == {"id": 7, "email": "a@x", "bio": None}
    assert type(whole.old) is dict
    assert short.new is None
    assert whole.new is None


def test_only_wanted_columns_are_decoded_and_the_rest_is_not_looked_at() -> None:
    """A value that does not fit its type is no matter while nobody wants it."""

    def wanted(relation: Relation) -> Wanted:
        return {"insert": OpColumns(new=frozenset({"email", EXACT + "email"}))}

    change = opened(users(), wanted).change(wire.insert(USERS, ["not a number", "a@x", b"\xff"]))

    assert change.new == {"email": "a@x", EXACT + "email": "a@x"}


def test_both_forms_of_a_column_can_be_wanted() -> None:
    """One to compute with, one to emit digit by digit."""
    relation = wire.relation(USERS, "public", "sums", [("at", TIMESTAMPTZ, False), ("sum", NUMERIC, False)])

    def both(relation: Relation) -> Wanted:
        return {"insert": OpColumns(new=frozenset({"at", EXACT + "at", "sum", EXACT + "sum"}))}

    change = opened(relation, both).change(wire.insert(USERS, ["2026-01-02 03:04:05.5+00", "12.50"]))

    assert change.new is not None
    assert change.new["at"] == datetime(2026, 1, 2, 3, 4, 5, 500000, tzinfo=timezone.utc)
    assert change.new["sum"] == 12.5
    assert orjson.dumps([change.new[EXACT + "at"], change.new[EXACT + "sum"]]) == b'["2026-01-02T03:04:05.5Z",12.50]'


def test_numeric_columns_are_strings_where_asked() -> None:
    """Both forms, so that no digit is lost on the way."""
    relation = wire.relation(USERS, "public", "sums", [("a", NUMERIC, False), ("b", NUMERIC, False)])

    def exact_a(relation: Relation, column: Column) -> bool:
        return column.name == "a"

    change = opened(relation, numeric_as_string=exact_a).change(wire.insert(USERS, ["12.50", "12.50"]))

    assert change.new == {"a": "12.50", "b": 12.5}


def test_ordinals_count_each_table_and_count_what_nobody_wants() -> None:
    """Another rule, or another table in the publication, changes no ordinal."""

    def wanted(relation: Relation) -> Wanted:
        return {"delete": OpColumns(old=frozenset({"id"}))}

    stream = opened(users(), wanted)
    stream.feed(wire.relation(2, "public", "other", [("id", INT, True)]))
    changes = stream.feed(
        wire.insert(USERS, ["1", None, None]),
        wire.delete(2, key=["1"]),
        wire.update(USERS, ["2", None, None], key=["1", None, None]),
        wire.delete(USERS, key=["2", None, None]),
        wire.truncate(USERS),
        wire.delete(USERS, key=["3", None, None]),
    )

    assert [(change.relation.table, change.ordinal) for change in changes] == [("other", 0), ("users", 2), ("users", 4)]
    assert changes[0].transaction.counts == {"public.users": 5, "public.other": 1}


def test_a_relation_nobody_wants_is_passed_over() -> None:
    """Neither yielded nor counted; TRUNCATE takes the others."""

    def wanted(relation: Relation) -> Wanted | None:
        return None if relation.table == "users" else everything(relation)

    stream = opened(users(), wanted)
    stream.feed(wire.relation(2, "public", "other", [("id", INT, True)]))
    changes = stream.feed(
        wire.insert(USERS, ["1", None, None]),
        wire.update(USERS, ["1", None, None], key=["2", None, None]),
        wire.delete(USERS, key=["1", None, None]),
        wire.truncate(USERS, 2),
    )

    assert [(change.op, change.relation.table) for change in changes] == [("truncate", "other")]
    assert changes[0].transaction.counts == {"public.other": 1}


def test_truncate_is_one_change_for_each_table() -> None:
    """With neither old nor new."""
    stream = opened(users())
    stream.feed(wire.relation(2, "public", "other", [("id", INT, True)]))
    changes = stream.feed(wire.truncate(USERS, 2, cascade=True, restart_identity=True))

    assert [(c.op, c.relation.table, c.old, c.new, c.ordinal) for c in changes] == [
        ("truncate", "users", None, None, 0),
        ("truncate", "other", None, None, 0),
    ]


def test_a_new_description_replaces_the_old_one_in_mid_transaction() -> None:
    """DDL: the next rows have the new shape, earlier changes keep the relation they came with."""
    stream = opened(users())
    before = stream.change(wire.insert(USERS, ["1", "a@x", None]))
    stream.feed(wire.relation(USERS, "public", "people", [("id", INT, True), ("vip", BOOL, False)], "d"))
    after = stream.change(wire.insert(USERS, ["2", "t"]))

    assert (before.relation.table, after.relation.table) == ("users", "people")
    assert after.new == {"id": 2, "vip": True}
    assert after.ordinal == 0  # ids are made of the name, so the new one counts for itself
    with pytest.raises(DecodeError, match="with 3 columns, not 2"):
        stream.feed(wire.insert(USERS, ["1", "a@x", None]))


def test_names_are_data_not_source() -> None:
    """Every name the server allows is only a key of the row."""
    names = [
        'we"ird',
        "a'b\\",
        "x}: __import__('os')#",
        "per%cent {v} {f}",
        "snow\u2603\U0001f600",
        "two\nlines",
        "class",
    ]
    relation = wire.relation(USERS, 'sche"ma.x', "ta'ble\n", [(name, TEXT, False) for name in names], "f")
    stream = opened(relation)

    change = stream.change(wire.update(USERS, names, old=names))

    assert change.new == change.old == {name: name for name in names}
    assert change.relation.name == "sche\"ma.x.ta'ble\n"


def test_a_type_nobody_described_is_text() -> None:
    """A type made after the catalog was read must not stop the stream."""
    relation = wire.relation(USERS, "public", "moods", [("mood", 99_999, False)])
    stream = opened(relation)
    stream.feed(wire.type_(99_999, "public", "mood"))

    assert stream.change(wire.insert(USERS, ["happy"])).new == {"mood": "happy"}


def test_a_context_message_is_the_context_of_what_follows() -> None:
    """It yields nothing; changes keep the context they saw."""
    stream = opened(users())
    first = stream.change(wire.insert(USERS, ["1", None, None]))
    assert stream.feed(wire.message("wal_tracker.context", b'{"user_id":42}')) == []
    second = stream.change(wire.insert(USERS, ["2", None, None]))
    stream.feed(wire.message("wal_tracker.context", b"{}"))
    third = stream.change(wire.insert(USERS, ["3", None, None]))

    assert (first.context, second.context, third.context) == ({}, {"user_id": 42}, {})


@pytest.mark.parametrize("content", [b"no JSON", b"[1]", b"", b"\xff", b'"text"'])
def test_a_context_message_that_is_no_object_is_seen_as_a_message(content: bytes) -> None:
    """So that it can be dead-lettered; the context stays as it was."""
    stream = opened(users())
    stream.feed(wire.message("wal_tracker.context", b'{"user_id":42}'))
    (message,) = stream.feed(wire.message("wal_tracker.context", content))

    assert isinstance(message, Message)
    assert message.content == content
    assert message.context == {"user_id": 42}


def test_messages_in_a_transaction_are_numbered_by_prefix() -> None:
    """As changes are by table."""
    stream = opened(users())
    items = stream.feed(
        wire.message("a", b"1", lsn=0x800), wire.message("b", b"2"), wire.message("a", b"3"), wire.commit()
    )

    assert [(m.prefix, m.ordinal, m.content) for m in items[:3]] == [("a", 0, b"1"), ("b", 0, b"2"), ("a", 1, b"3")]
    assert items[0].transactional
    assert items[0].lsn == 0x800
    assert items[0].transaction is items[3].transaction


def test_a_message_outside_any_transaction_is_a_transaction_of_its_own() -> None:
    """Its end is just after it, so that it can be confirmed."""
    message, commit = Stream().feed(wire.message("wal_tracker.context", b'{"a":1}', lsn=0x900, transactional=False))

    assert isinstance(message, Message)
    assert isinstance(commit, Commit)
    assert not message.transactional
    assert message.transaction is commit.transaction
    assert (commit.transaction.xid, commit.transaction.commit_time) == (0, "")
    assert (commit.transaction.commit_lsn, commit.transaction.end_lsn) == (0x900, 0x901)


def test_a_message_of_no_transaction_does_not_end_the_one_it_comes_in() -> None:
    """Protocol 1 sends them between transactions; if one ever came inside, nothing before the end may be confirmed."""
    stream = opened(users())
    stream.feed(wire.message("wal_tracker.context", b'{"user_id":42}'))
    (message,) = stream.feed(wire.message("x", b"", lsn=0x900, transactional=False))
    change, commit = stream.feed(wire.insert(USERS, ["1", None, None]), wire.commit())

    assert message.transaction is not change.transaction
    assert message.context == {}
    assert change.transaction is commit.transaction
    assert change.context == {"user_id": 42}


def test_origin_messages_are_read_and_yield_nothing() -> None:
    """They tell where a transaction was first made."""
    stream = Stream()

    assert stream.feed(wire.begin(), wire.origin("node_a")) == []


def test_an_unknown_message_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Tomorrow's message neither stops the stream nor goes by unseen; its content is not logged."""
    stream = opened(users())
    with caplog.at_level(logging.WARNING):
        stream.feed(b"Zsecret", b"Zsecret", b"\x01secret")
    change = stream.change(wire.insert(USERS, ["1", None, None]))

    assert stream.decoder.unknown_messages == {"Z": 2, "\\x01": 1}
    assert len(caplog.records) == 2
    assert "secret" not in caplog.text
    assert change.ordinal == 0


def test_reset_forgets_relations_and_the_open_transaction() -> None:
    """A new connection begins anew: half a transaction is discarded, and it comes again whole."""
    stream = opened(users())
    stream.decoder.reset(700)

    assert not stream.decoder.in_transaction
    stream.feed(wire.begin())
    with pytest.raises(UnknownRelation, match="relation 16385 has not been described"):
        stream.feed(wire.insert(USERS, ["1", None, None]))


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([wire.insert(USERS, ["1", None, None])], "a row outside a transaction"),
        ([wire.truncate(USERS)], "Truncate outside a transaction"),
        ([wire.message("a", b"")], "Message outside a transaction"),
        ([wire.commit()], "Commit outside a transaction"),
        ([wire.begin(), wire.begin()], "Begin inside a transaction"),
        ([wire.begin(commit_lsn=1), wire.commit(commit_lsn=2)], "Commit does not belong to the Begin before it"),
        ([wire.begin(), wire.commit(end_lsn=0x1000)], "Commit does not belong to the Begin before it"),
        ([wire.begin(), wire.insert(USERS, ["1", None])], "with 2 columns, not 3"),
        ([wire.begin(), wire.insert(USERS, ["1", None, wire.Binary(b"1")])], "in binary form, which was not asked for"),
        ([wire.begin(), wire.insert(USERS, ["1", None, None]) + b"n"], "1 bytes are left after an Insert"),
        ([wire.begin(), wire.truncate(1)], "relation 1 has not been described"),
        ([wire.relation(1, "s", "t", [], "x")], "unknown replica identity b'x'"),
        ([wire.relation(1, "s", "t", []) + b"x"], "1 bytes are left after Relation"),
        ([b""], "an empty message"),
    ],
)
def test_a_stream_that_contradicts_itself_is_refused(messages: list[bytes], complaint: str) -> None:
    """With a sentence, and without touching what was yielded before."""
    stream = Stream()
    stream.feed(users())

    with pytest.raises(DecodeError, match=complaint):
        stream.feed(*messages)
    assert stream.items == []


def test_a_value_that_does_not_fit_is_named_by_column_and_not_shown() -> None:
    """The error text goes to logs; the row does not."""
    stream = opened(users())

    with pytest.raises(UnsupportedValue) as caught:
        stream.feed(wire.insert(USERS, ["s3cret", None, None]))
    assert "column 'id' of public.users does not fit its type" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    with pytest.raises(UnsupportedValue, match=r"column 'email' of public\.users is not UTF-8"):
        stream.feed(wire.insert(USERS, ["1", b"\xff", None]))


def test_a_cut_message_says_where_it_ends() -> None:
    """What was being read, and at which byte."""
    stream = opened(users())

    with pytest.raises(TruncatedMessage, match=r"ends inside column 'email' at byte \d+ \(message at 0/100\)"):
        stream.feed(wire.insert(USERS, ["1", "a@x", None])[:-3])


def test_the_publication_is_passed_as_an_identifier() -> None:
    """`publication_names` is a list of identifiers: a comma or a quote in a name must not split it."""
    assert Stream().decoder.options('my "pub", x') == {
        "proto_version": "1",
        "publication_names": '"my ""pub"", x"',
        "messages": "true",
    }


def test_rows_of_a_table_without_columns_are_changes_too() -> None:
    """PostgreSQL allows such tables."""
    relation = wire.relation(USERS, "public", "empty", [])

    assert opened(relation).change(wire.insert(USERS, [])).new == {}
