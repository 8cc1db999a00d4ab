"""Laws of the pgoutput decoder over bytes of every kind: whole, cut, flipped, and random."""

from __future__ import annotations

import copy
import random
from contextlib import suppress

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import pgoutput_builder as wire
from wal_tracker.decode.base import OpColumns, Wanted
from wal_tracker.decode.changes import change_document
from wal_tracker.decode.pgoutput import PgOutput
from wal_tracker.decode.rows import RowReader
from wal_tracker.errors import DecodeError
from wal_tracker.model import EXACT, ROW_OPS, Change, Item, Message, PartialRow, Relation
from wal_tracker.pgtypes import PgType, PgTypeKind, TypeCatalog

TABLE = 0x0102FFFE
SAMPLES: dict[int, tuple[str, ...]] = {  # type -> texts the server would write
    16: ("t", "f"),
    17: ("\\x", "\\x00ff"),
    20: ("0", "-9223372036854775808", "42"),
    25: ("", "text", "snow \u2603 \U0001f600", 'q"\\'),
    701: ("0", "1.5e-07", "NaN", "-Infinity"),
    1114: ("2026-01-02 03:04:05.5", "infinity"),
    1184: ("2026-01-02 03:04:05.123456+00", "-infinity", "0044-03-15 00:00:00+00 BC"),
    1700: ("12.50", "NaN", "-0.001"),
    3802: ('{"a": [1, null, "x"]}', "null", "1.10"),
    1009: ("{}", '{a,NULL,"b c"}', "{{1},{2}}"),
    50_000: ("(1,a)", '(,"x ""y"" z")'),
    99_999: ("unknown", ""),
}
TYPES = TypeCatalog([PgType(50_000, "spot", PgTypeKind.COMPOSITE, attributes=(("x", 23), ("note", 25)))])


def everything(relation: Relation) -> Wanted:
    names = {column.name for column in relation.columns}
    keys = frozenset(names | {EXACT + name for name in names})
    return {op: OpColumns(new=keys, old=keys) for op in ROW_OPS}


def stream(relation: bytes, wanted=everything) -> PgOutput:
    decoder = PgOutput(wanted, TYPES)
    decoder.reset(700)
    decoder.feed(wire.begin(), 0, [])
    decoder.feed(relation, 0, [])
    return decoder


def by_definition(decoder: PgOutput) -> PgOutput:
    """The same decoder without its compiled handlers."""
    decoder._handlers.clear()
    return decoder


def another(decoder: PgOutput) -> PgOutput:
    """A decoder in the same state, without compiling its handlers again."""
    twin = copy.copy(decoder)
    twin._relations, twin._handlers = dict(decoder._relations), dict(decoder._handlers)
    twin._transaction = copy.copy(decoder._transaction)
    assert twin._transaction is not None
    twin._transaction.counts = {}
    return twin


def shown(items: list[Item]) -> list[object]:
    """Everything an item says, comparable: emitted forms as JSON."""
    told: list[object] = []
    for item in items:
        if isinstance(item, Change):
            told.append((item.op, item.ordinal, _row(item.old), _row(item.new), orjson.dumps(change_document(item))))
        elif isinstance(item, Message):
            told.append((item.prefix, item.content, item.ordinal))
        else:
            told.append(item.transaction.end_lsn)
    return told


def _row(row: dict[str, object] | None) -> object:
    if row is None:
        return None
    computed = {key: repr(value) for key, value in row.items() if key[:1] != EXACT}
    unknown = (sorted(row.unchanged), sorted(row.unsent)) if isinstance(row, PartialRow) else ((), ())
    return computed, sorted(key for key in row if key[:1] == EXACT), unknown


ALL_COLUMNS = [(f"c{position}", oid, position in (0, 3)) for position, oid in enumerate(SAMPLES)]
VALUES = [texts[-1] for texts in SAMPLES.values()]
KEY_ONLY = [value if key else None for value, (_, _, key) in zip(VALUES, ALL_COLUMNS, strict=True)]
DEFAULT = wire.relation(TABLE, "public", "everything", ALL_COLUMNS, "d")
FULL = wire.relation(TABLE, "public", "everything", [(name, oid, True) for name, oid, _ in ALL_COLUMNS], "f")
SMALL = wire.relation(TABLE, "public", "t", [("id", 23, True)])
HOLES = [
    wire.UNCHANGED if oid in (25, 1700, 3802) else value for (_, oid, _), value in zip(ALL_COLUMNS, VALUES, strict=True)
]
NULLS: list[wire.Field] = [None] * len(VALUES)

MESSAGES = {
    "begin": (DEFAULT, wire.begin()),
    "commit": (DEFAULT, wire.commit()),
    "insert": (DEFAULT, wire.insert(TABLE, VALUES)),
    "insert of nulls": (DEFAULT, wire.insert(TABLE, NULLS)),
    "update": (DEFAULT, wire.update(TABLE, VALUES)),
    "update with unchanged values": (DEFAULT, wire.update(TABLE, HOLES)),
    "update of the key": (DEFAULT, wire.update(TABLE, VALUES, key=KEY_ONLY)),
    "delete by key": (DEFAULT, wire.delete(TABLE, key=KEY_ONLY)),
    "full update": (FULL, wire.update(TABLE, HOLES, old=VALUES)),
    "full delete": (FULL, wire.delete(TABLE, old=VALUES)),
    "truncate": (DEFAULT, wire.truncate(TABLE)),
    "relation": (SMALL, SMALL),
    "type": (DEFAULT, wire.type_(50_000, "public", "spot")),
    "origin": (DEFAULT, wire.origin("node")),
    "message": (DEFAULT, wire.message("prefix", b"content")),
    "context": (DEFAULT, wire.message("wal_tracker.context", b'{"a":1}')),
    "standalone message": (DEFAULT, wire.message("p", b"c", transactional=False)),
}


def damaged(whole: bytes) -> list[bytes]:
    """Every cut, and every byte replaced by its neighbours and by bytes that mean something."""
    cuts = [whole[:end] for end in range(len(whole))]
    flips = []
    for at in range(len(whole)):
        for byte in {whole[at] ^ 1, whole[at] ^ 16, whole[at] ^ 128, 0, 255, *b"tnuKON"} - {whole[at]}:
            flips.append(whole[:at] + bytes([byte]) + whole[at + 1 :])
    return cuts + flips + [whole + b"n", whole + whole]


@pytest.mark.parametrize("name", MESSAGES)
def test_a_damaged_message_is_refused_by_type_or_read_as_what_it_says(name: str) -> None:
    """
    Any cut and any flipped byte ends in a `DecodeError` or in a decoding that can be emitted as JSON, never in another
    exception; a refused message leaves what was yielded as it was, and the compiled form agrees with the definition.
    """
    relation, whole = MESSAGES[name]
    fast, slow = stream(relation), by_definition(stream(relation))
    for payload in damaged(whole):
        told = []
        for decoder in (another(fast), another(slow)):
            out: list[Item] = []
            try:
                decoder.feed(payload, 7, out)
                told.append(shown(out))
            except DecodeError as refused:
                assert out == []
                told.append([type(refused), str(refused)])
        assert told[0] == told[1]


@pytest.mark.parametrize("name", MESSAGES)
def test_a_cut_message_is_never_read_as_whole(name: str) -> None:
    """Where every column is wanted, the decoder knows where each message must end."""
    relation, whole = MESSAGES[name]
    decoder = stream(relation)
    for end in range(len(whole)):
        with pytest.raises(DecodeError):
            another(decoder).feed(whole[:end], 7, [])


READY = stream(DEFAULT)


@given(st.binary(max_size=60), st.sampled_from("BCIUDTRYMO"))
def test_random_bytes_are_refused_or_read(payload: bytes, kind: str) -> None:
    """No input brings the decoder down."""
    decoder = another(READY)
    head = kind.encode() + (TABLE.to_bytes(4, "big") if kind in "IUD" else b"")
    with suppress(DecodeError):
        decoder.feed(head + payload, 7, [])


@st.composite
def situations(draw: st.DrawFn) -> tuple[bytes, dict[str, OpColumns], list[bytes]]:
    """A table, what is wanted of it, and messages the server may send about it."""
    oids = draw(st.lists(st.sampled_from(sorted(SAMPLES)), min_size=1, max_size=8))
    identity = draw(st.sampled_from("dnfi"))
    keys = [identity == "f" or (identity != "n" and draw(st.booleans())) for _ in oids]
    columns = [(f"c{position}", oid, key) for position, (oid, key) in enumerate(zip(oids, keys, strict=True))]
    row_keys = st.sampled_from([prefix + name for name, _, _ in columns for prefix in ("", EXACT)] + ["absent"])
    wanted = {
        op: OpColumns(new=frozenset(draw(st.sets(row_keys))), old=frozenset(draw(st.sets(row_keys))))
        for op in draw(st.sets(st.sampled_from(ROW_OPS)))
    }

    def row(*, only_key: bool = False, holes: bool = False) -> list[wire.Field]:
        fields: list[wire.Field] = []
        for (_, oid, key), texts in zip(columns, (SAMPLES[oid] for oid in oids), strict=True):
            choices: list[wire.Field] = [None, *texts]
            if holes and oid not in (16, 20, 701, 1114, 1184):
                choices.append(wire.UNCHANGED)
            fields.append(None if only_key and not key else draw(st.sampled_from(choices)))
        return fields

    messages = []
    for kind in draw(st.lists(st.sampled_from("iukd"), min_size=1, max_size=4)):
        if kind == "i":
            messages.append(wire.insert(TABLE, row()))
        elif kind == "d":
            messages.append(
                wire.delete(TABLE, old=row()) if identity == "f" else wire.delete(TABLE, key=row(only_key=True))
            )
        elif identity == "f":
            messages.append(wire.update(TABLE, row(holes=True), old=row()))
        elif kind == "k":
            messages.append(wire.update(TABLE, row(holes=True), key=row(only_key=True)))
        else:
            messages.append(wire.update(TABLE, row(holes=True)))
    return wire.relation(TABLE, "public", "t", columns, identity), wanted, messages


@given(situations())
def test_the_compiled_form_says_what_the_definition_says(situation: tuple[bytes, Wanted, list[bytes]]) -> None:
    """Whatever the table, the identity, what is wanted, and the values."""
    relation, wanted, messages = situation
    fast, slow = stream(relation, lambda _: wanted), by_definition(stream(relation, lambda _: wanted))
    for message in messages:
        quick: list[Item] = []
        careful: list[Item] = []
        fast.feed(message, 7, quick)
        slow.feed(message, 7, careful)
        assert shown(quick) == shown(careful)
    assert fast._transaction is not None
    assert slow._transaction is not None
    assert fast._transaction.counts == slow._transaction.counts


def test_ordinary_rows_never_need_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """A doubt costs ten times a row: what a server sends all day must be read by the compiled form."""

    def forbidden(*_: object) -> None:
        raise AssertionError("read by the definition")

    decoders = {identity: stream(relation) for identity, relation in (("d", DEFAULT), ("f", FULL))}
    for method in ("insert", "update", "delete"):
        monkeypatch.setattr(RowReader, method, forbidden)
    chosen = random.Random(7)
    for _ in range(200):
        values = [chosen.choice([None, *texts]) for texts in SAMPLES.values()]
        holes = [
            wire.UNCHANGED if oid in (17, 25, 1700) else value
            for (_, oid, key), value in zip(ALL_COLUMNS, values, strict=True)
        ]
        holes[3] = values[3]
        for identity, message in (
            ("d", wire.insert(TABLE, values)),
            ("d", wire.update(TABLE, values)),
            ("d", wire.update(TABLE, holes)),
            ("d", wire.delete(TABLE, key=KEY_ONLY)),
            ("f", wire.update(TABLE, holes, old=values)),
            ("f", wire.delete(TABLE, old=values)),
        ):
            out: list[Item] = []
            decoders[identity].feed(message, 7, out)
            assert len(out) == 1
