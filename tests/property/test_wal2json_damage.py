"""The wal2json decoder over damaged lines."""

from __future__ import annotations

import json
import random

import orjson
import pytest

from wal_tracker.decode.base import OpColumns, Wanted
from wal_tracker.decode.changes import change_document
from wal_tracker.decode.wal2json import Wal2Json
from wal_tracker.errors import DecodeError
from wal_tracker.model import EXACT, ROW_OPS, Change, Item, Relation
from wal_tracker.pgtypes import TypeCatalog

TYPES = TypeCatalog()
BEGIN = {"action": "B", "xid": 733, "timestamp": "2026-01-02 03:04:05.1+00", "lsn": "0/1000", "nextlsn": "0/1030"}
COLUMNS = [
    {"name": "id", "typeoid": 23, "value": 1},
    {"name": "rate", "typeoid": 1700, "value": 1.5},
    {"name": "ok", "typeoid": 16, "value": True},
    {"name": "at", "typeoid": 1184, "value": "2026-01-02 03:04:05+00"},
    {"name": "content", "typeoid": 17, "value": "00ff"},
    {"name": "extra", "typeoid": 3802, "value": '{"a": ["\u2603"]}'},
    {"name": "tags", "typeoid": 1009, "value": '{a,"b c",NULL}'},
    {"name": "none", "typeoid": 25, "value": None},
]
PLACE = {"lsn": "0/900", "schema": "public", "table": "t"}
MESSAGES = {
    "begin": BEGIN,
    "commit": {**BEGIN, "action": "C"},
    "insert": {"action": "I", **PLACE, "columns": COLUMNS, "pk": COLUMNS[:1]},
    "update": {"action": "U", **PLACE, "columns": COLUMNS, "identity": COLUMNS[:2]},
    "delete": {"action": "D", **PLACE, "identity": COLUMNS[:1]},
    "truncate": {"action": "T", **PLACE},
    "message": {"action": "M", "lsn": "0/900", "transactional": True, "prefix": "p", "content": "c\u2603"},
}


def everything(relation: Relation) -> Wanted:
    names = {column.name for column in relation.columns}
    keys = frozenset(names | {EXACT + name for name in names})
    return {op: OpColumns(new=keys, old=keys) for op in ROW_OPS}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_damaged_line_is_refused_by_type_or_read_as_what_it_says(name: str) -> None:
    """Any cut is refused; any replaced byte ends in a `DecodeError` or in a decoding that can be emitted as JSON."""
    whole = json.dumps(MESSAGES[name], ensure_ascii=False).encode()
    chosen = random.Random(name)
    damaged = [whole[:end] for end in range(len(whole))]
    for at in range(len(whole)):
        for byte in {*b'"}:\\', 0xFF, whole[at] ^ 1, chosen.randrange(256)}:
            damaged.append(whole[:at] + bytes([byte]) + whole[at + 1 :])
    for number, payload in enumerate(damaged):
        decoder = Wal2Json(everything, TYPES)
        decoder.reset(700)
        if name != "begin":
            decoder.feed(json.dumps(BEGIN).encode(), 0, [])
        out: list[Item] = []
        try:
            decoder.feed(payload, 7, out)
        except DecodeError:
            assert out == []
            continue
        assert number >= len(whole), "a cut line was read"
        for item in out:
            if isinstance(item, Change):
                orjson.loads(orjson.dumps(change_document(item)))
