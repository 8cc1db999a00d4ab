"""
The JSON shape of a change (design.md, section 3), out and in.

`change_document` writes it, for `tail`, raw destinations and the Kafka transport. `ChangeReader` reads it back into a
`Change` that rules cannot tell from one off the wire, for `eval` and the Kafka source: strings become timestamps or
bytes where the column's type says so.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, cast

import orjson

from wal_tracker import pgtypes
from wal_tracker.decode.rows import NumericAsString, never
from wal_tracker.decode.transactions import unix_us
from wal_tracker.decode.values import codec
from wal_tracker.errors import DecodeError
from wal_tracker.lsn import LSN
from wal_tracker.model import (
    EXACT,
    ROW_OPS,
    Change,
    Column,
    Op,
    PartialRow,
    Relation,
    ReplicaIdentity,
    Row,
    Transaction,
    Value,
)
from wal_tracker.pgtypes import PgType, PgTypeKind, TypeCatalog

_INTEGERS = range(-(2**63), 2**64)  # what orjson reads as integers out of a jsonb column


def change_document(change: Change) -> dict[str, Any]:
    """
    A change in the JSON shape, ready for orjson.

    Columns come in the form they are emitted in where the row holds it (`EXACT`), otherwise made from what it holds.
    ``key`` is empty under REPLICA IDENTITY FULL, where every column would be part of it. ``unchanged`` names TOASTed
    columns of the new row that were not resent.
    """
    relation, transaction = change.relation, change.transaction
    new, old = change.new, change.old
    row = new if new is not None else old
    key: dict[str, Value] = {}
    if row is not None and relation.replica_identity is not ReplicaIdentity.FULL:
        key = _emitted(row, relation.key)
    names = [column.name for column in relation.columns]
    unchanged = new.unchanged if isinstance(new, PartialRow) else frozenset()
    return {
        "op": change.op,
        "schema": relation.schema,
        "table": relation.table,
        "key": key,
        "old": None if old is None else _emitted(old, names),
        "new": None if new is None else _emitted(new, names),
        "unchanged": [name for name in names if name in unchanged],
        "commit_lsn": transaction.commit_lsn_text,
        "ordinal": change.ordinal,
        "xid": transaction.xid,
        "commit_time": transaction.commit_time,
        "context": change.context,
    }


def _emitted(row: Mapping[str, Value], names: Iterable[str]) -> dict[str, Value]:
    document: dict[str, Value] = {}
    for name in names:
        exact = EXACT + name
        if exact in row:
            document[name] = row[exact]
        elif name in row:
            document[name] = emitted(row[name])
    return document


def emitted(value: Value) -> Value:
    """
    What orjson writes for a value of the form CEL computes with.

    Timestamps become RFC 3339 with ``Z``, bytes base64, and what JSON has no number for its name as a string.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list):
        return [emitted(item) for item in value]
    if isinstance(value, dict):
        return {name: emitted(item) for name, item in value.items() if name[:1] != EXACT}
    return value


class _Digits(float):
    """A JSON number with a point or an exponent, and how it was written."""

    __slots__ = ("text",)
    text: str


def _digits(text: str) -> _Digits:
    value = _Digits(text)
    value.text = text
    return value


def _refuse_constant(_name: str) -> Value:
    raise ValueError("not JSON")  # Python takes NaN and Infinity for JSON


def _integer(text: str) -> int | _Digits:
    # Python refuses integers of thousands of digits, and knows no negative zero.
    return int(text) if len(text) <= _INTEGER_DIGITS and text != "-0" else _digits(text)


_INTEGER_DIGITS = 20  # what 64 bits hold, with or without a sign

EXACT_JSON = json.JSONDecoder(parse_float=_digits, parse_int=_integer, parse_constant=_refuse_constant)
"""Reads JSON so that every number can be written as it was: those no Python type holds are kept with their text."""


def load_exactly(text: bytes | str) -> Any:
    """
    A JSON document, read by `EXACT_JSON`.

    Raises:
        ValueError: It is not JSON.
        RecursionError: It is nested too deep.
    """
    return EXACT_JSON.decode(text.decode("utf-8") if isinstance(text, bytes) else text)


class ChangeReader:
    """
    Reads changes from JSON lines.

    Only ``op`` and ``table`` are required. ``old`` and ``new`` are objects or null; ``key`` fills an `old` that is not
    given; ``schema`` is `default_schema`, ``xid``, ``ordinal`` and ``commit_lsn`` count up, ``commit_time`` is the
    epoch unless given. A column's type comes from the change's own ``"types": {column: type}``, else from the schema,
    else its JSON value says all there is.
    """

    def __init__(
        self,
        types: TypeCatalog,
        schema: Mapping[str, Mapping[str, str]] | None = None,
        *,
        numeric_as_string: NumericAsString = never,
        default_schema: str = "public",
    ) -> None:
        """
        Args:
            types: Where type names are looked up; a name it does not know leaves the JSON value as it is.
            schema: ``{table: {column: type}}``; a table may be named with its schema.
            numeric_as_string: Whether a numeric column is read as its digits.
            default_schema: Of changes that name none.
        """
        self._default_schema = default_schema
        self._numeric_as_string = numeric_as_string
        self._types = types
        self._forms = JsonForms(types)
        self._schema = schema or {}
        self._relation_ids: dict[tuple[str, str], int] = {}
        self._transactions: dict[int, Transaction] = {}
        self._lines = 0

    def read(self, line: bytes | str) -> Change:
        """
        Read one line.

        Raises:
            DecodeError: It is not a change in the JSON shape; the text names the member, not its value.
        """
        self._lines += 1
        try:
            document = load_exactly(line)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise DecodeError("a change must be one JSON object on one line")
        op = document.get("op")
        if op not in ROW_OPS:
            raise DecodeError(f'a change needs "op", one of {", ".join(ROW_OPS)}')
        table = _text(document, "table", None)
        schema = _text(document, "schema", self._default_schema)
        typed = self._column_types(schema, table, document)
        transaction = self._transaction(document)
        key, old, new = (_object(document, name) for name in ("key", "old", "new"))
        relation = self._relation(schema, table, typed, (new, old, key), key)
        unchanged = document.get("unchanged", [])
        if not isinstance(unchanged, list) or not all(isinstance(name, str) for name in unchanged):
            raise DecodeError('"unchanged" must be a list of column names')
        if old is None and key is not None and op in ("update", "delete"):
            old = key
        context = _object(document, "context") or {}
        ordinal = self._ordinal(document, transaction, relation)
        return Change(
            transaction,
            relation,
            cast(Op, op),
            None if old is None or op in ("insert", "truncate") else self._old_row(old, relation, key),
            None if new is None or op in ("delete", "truncate") else self._new_row(new, relation, unchanged),
            ordinal,
            _plain(context),
        )

    def _column_types(self, schema: str, table: str, document: Mapping[str, Any]) -> dict[str, int]:
        names = dict(self._schema.get(f"{schema}.{table}") or self._schema.get(table) or {})
        own = document.get("types", {})
        if not isinstance(own, dict) or not all(isinstance(name, str) for name in own.values()):
            raise DecodeError('"types" must be an object of type names')
        names.update(own)
        typed = {}
        for column, name in names.items():
            found = self._types.parse_name(name)
            if found is not None:
                typed[column] = found[0]
        return typed

    def _transaction(self, document: Mapping[str, Any]) -> Transaction:
        xid = document.get("xid", self._lines)
        if not isinstance(xid, int) or isinstance(xid, bool):
            raise DecodeError('"xid" must be an integer')
        given = _text(document, "commit_lsn", None) if "commit_lsn" in document else str(LSN(self._lines))
        commit_time = _text(document, "commit_time", "1970-01-01T00:00:00.000000Z")
        known = self._transactions.get(xid)
        if known is not None and known.commit_lsn_text == given and known.commit_time == commit_time:
            return known
        try:
            commit_lsn = LSN.parse(given)
        except ValueError:
            commit_lsn = None
        if commit_lsn is None:
            raise DecodeError('"commit_lsn" must be an LSN such as "0/16B3748"')
        moment = _moment(commit_time)
        if moment is None:
            raise DecodeError('"commit_time" must be a timestamp such as "2026-01-02T03:04:05.123456Z"')
        microseconds = unix_us(moment)
        transaction = Transaction(xid, commit_lsn, microseconds, commit_time)
        transaction.end_lsn = LSN(commit_lsn + 1)
        self._transactions = {xid: transaction}  # changes of one transaction follow one another
        return transaction

    def _ordinal(self, document: Mapping[str, Any], transaction: Transaction, relation: Relation) -> int:
        counts = transaction.counts
        ordinal = document.get("ordinal", counts.get(relation.name, 0))
        if not isinstance(ordinal, int) or isinstance(ordinal, bool):
            raise DecodeError('"ordinal" must be an integer')
        counts[relation.name] = ordinal + 1
        return ordinal

    def _relation(
        self,
        schema: str,
        table: str,
        typed: Mapping[str, int],
        rows: Iterable[Mapping[str, Any] | None],
        key: Mapping[str, Any] | None,
    ) -> Relation:
        names = dict.fromkeys(typed)
        for row in rows:
            names.update(dict.fromkeys(row or ()))
        relation_id = self._relation_ids.setdefault((schema, table), len(self._relation_ids) + 1)
        columns = tuple(Column(name, typed.get(name, 0), -1, key is None or not key or name in key) for name in names)
        identity = ReplicaIdentity.DEFAULT if key else ReplicaIdentity.FULL
        return Relation(relation_id, schema, table, identity, columns)

    def _new_row(self, row: Mapping[str, Any], relation: Relation, unchanged: Iterable[str]) -> Row:
        values = self._row(row, relation)
        absent = frozenset(unchanged) - row.keys()
        return PartialRow(values, absent, frozenset()) if absent else values

    def _old_row(self, row: Mapping[str, Any], relation: Relation, key: Mapping[str, Any] | None) -> Row:
        values = self._row(row, relation)
        if key and row.keys() <= key.keys():  # as under DEFAULT: the key is all that is known
            unsent = frozenset(column.name for column in relation.columns) - row.keys()
            if unsent:
                return PartialRow(values, frozenset(), unsent)
        return values

    def _row(self, row: Mapping[str, Any], relation: Relation) -> Row:
        values: Row = {}
        for column in relation.columns:
            if column.name not in row:
                continue
            as_string = self._numeric_as_string(relation, column)
            described = self._types.resolve(column.type_oid)
            try:
                forms = self._forms.of(described, row[column.name], as_string)
            except ValueError:  # its text may hold the value
                forms = None
            if forms is None:
                raise DecodeError(f"the value of column {column.name!r} does not fit its type")
            values[column.name], values[EXACT + column.name] = forms
        return values


_MAX_NESTING = 32
_NUMBERS = frozenset({pgtypes.INT2, pgtypes.INT4, pgtypes.INT8, pgtypes.OID})
_DECIMALS = frozenset({pgtypes.FLOAT4, pgtypes.FLOAT8, pgtypes.NUMERIC})


class JsonForms:
    """Both forms of a value that came as JSON: to compute with, and to emit."""

    def __init__(self, types: TypeCatalog) -> None:
        """
        Args:
            types: Where the types of elements and attributes are looked up.
        """
        self._types = types

    def of(self, described: PgType | None, value: Any, as_string: bool = False, depth: int = 0) -> tuple[Value, Value]:
        """
        The forms of one value.

        Args:
            described: Its type; None: the value says all there is.
            value: Read by `load_exactly`.
            as_string: Whether numeric is read as its digits.
            depth: How far inside other values it stands.

        Raises:
            ValueError: It is no value of that type.
        """
        if value is None:
            return None, None
        if described is None:
            return _plain(value), _exact(value)
        if depth > _MAX_NESTING:
            raise ValueError("too deep")
        if described.kind is PgTypeKind.ARRAY and isinstance(value, list):
            element = self._types.resolve(described.element)
            array = described
            pairs = [
                self.of(array if isinstance(item, list) else element, item, as_string, depth + 1) for item in value
            ]
            return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        if described.kind is PgTypeKind.COMPOSITE and isinstance(value, dict):
            known = dict(described.attributes)
            both = {
                name: self.of(self._types.resolve(known[name]) if name in known else None, item, as_string, depth + 1)
                for name, item in value.items()
            }
            return {name: pair[0] for name, pair in both.items()}, {name: pair[1] for name, pair in both.items()}
        if described.oid in (pgtypes.JSON, pgtypes.JSONB):
            return _plain(value), _exact(value)
        text = postgres_text(described, value)
        if text is None:  # a value of another shape than its type's: no guess
            return _plain(value), _exact(value)
        reads = codec(self._types, described.oid, numeric_as_string=as_string)
        return reads.cel(text), reads.exact(text)


def postgres_text(described: PgType, value: Any) -> str | None:
    """The text PostgreSQL would write for a JSON value of this type; None where it is not of that shape."""
    oid = described.oid
    if isinstance(value, bool):
        return ("t" if value else "f") if oid == pgtypes.BOOL else None
    if isinstance(value, int):
        return str(value) if oid in _NUMBERS or oid in _DECIMALS else None
    if isinstance(value, _Digits):
        if oid == pgtypes.NUMERIC and "e" not in value.text.lower():
            return value.text
        return repr(float(value)) if oid in _DECIMALS else None
    if not isinstance(value, str):
        return None
    if oid == pgtypes.BYTEA:
        if value.startswith("\\x"):
            return value
        try:
            return "\\x" + base64.b64decode(value, validate=True).hex()
        except binascii.Error:
            raise ValueError("bytea is neither base64 nor hex") from None
    if oid in (pgtypes.TIMESTAMP, pgtypes.TIMESTAMPTZ):
        return _timestamp_text(oid, value)
    if oid in _NUMBERS or oid == pgtypes.BOOL:
        # row_to_json writes an oid as a string.
        return value if oid == pgtypes.OID and value.isdigit() else None
    return value


_FAR = re.compile(
    r"(?P<year>[0-9]{4,6})(?P<date>-[0-9]{2}-[0-9]{2})[T ](?P<time>[0-9:.]+)(?P<zone>[+-][0-9:]+)?(?P<era> BC)?"
)
_FRACTION = re.compile(r"\.[0-9]{1,6}")
_CYCLE_YEARS = 400  # The Gregorian calendar repeats after them.


def _timestamp_text(oid: int, value: str) -> str:
    """The text of a timestamp in a session at UTC; as it came where it is none."""
    if value in ("infinity", "-infinity"):
        return value
    far = _FAR.fullmatch(value)
    if far is not None and (far["era"] or len(far["year"]) > 4):
        return _far_timestamp_text(oid, far)
    moment = _moment(value)
    if moment is None:
        return value
    return _written(moment, value) + ("+00" if oid == pgtypes.TIMESTAMPTZ else "")


def _written(moment: datetime, value: str) -> str:
    """Date and time of a moment, with the fraction as `value` has it: the server writes no zeros at its end."""
    fraction = _FRACTION.search(value)
    return moment.replace(tzinfo=None, microsecond=0).isoformat(" ") + (fraction[0] if fraction else "")


def _far_timestamp_text(oid: int, far: re.Match[str]) -> str:
    """The text of a timestamp before our era or after the year 9999, which Python has no type for."""
    year, text = int(far["year"]), f"{far['date']} {far['time']}"
    zone = far["zone"] or ""
    if oid == pgtypes.TIMESTAMPTZ and zone.strip("+-0:"):
        year = 1 - year if far["era"] else year
        shown = year % _CYCLE_YEARS + _CYCLE_YEARS
        moment = _moment(f"{shown:04d}{text}{zone}")
        if moment is not None:
            year += moment.year - shown
            text, zone = _written(moment, text)[4:], "+00"
            return f"{1 - year:04d}{text}{zone} BC" if year < 1 else f"{year:04d}{text}{zone}"
    return f"{far['year']}{text}{'+00' if zone else ''}{far['era'] or ''}"


def _moment(text: str) -> datetime | None:
    """Read RFC 3339 or PostgreSQL's ISO form; without an offset it is UTC."""
    body = text.strip()
    if body[-1:] in ("Z", "z"):
        body = body[:-1] + "+00:00"
    body = body[:10] + " " + body[11:]
    zone = max(body.rfind("+"), body.rfind("-", 11))
    if zone < 11:
        body += "+00"
    elif len(body) - zone == 6 and body.endswith(":00"):
        body = body[:-3]
    reads = codec(_BUILT_IN, pgtypes.TIMESTAMPTZ)
    try:
        moment = reads.cel(body)
    except ValueError:
        return None
    return moment if isinstance(moment, datetime) else None


_BUILT_IN = TypeCatalog()


def _plain(value: Any) -> Any:
    """A JSON value as the decoder would give it: numbers without their text."""
    if isinstance(value, _Digits):
        return float(value)
    if isinstance(value, int) and value not in _INTEGERS and not isinstance(value, bool):
        return float(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _exact(value: Any) -> Any:
    """A JSON value as it was written."""
    if isinstance(value, _Digits):
        return orjson.Fragment(value.text)
    if isinstance(value, int) and value not in _INTEGERS and not isinstance(value, bool):
        return orjson.Fragment(str(value))
    if isinstance(value, list):
        return [_exact(item) for item in value]
    if isinstance(value, dict):
        return {name: _exact(item) for name, item in value.items()}
    return value


def _text(document: Mapping[str, Any], name: str, default: str | None) -> str:
    value = document.get(name, default)
    if not isinstance(value, str) or not value:
        raise DecodeError(f'a change needs "{name}", a string')
    return value


def _object(document: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    value = document.get(name)
    if value is not None and not isinstance(value, dict):
        raise DecodeError(f'"{name}" must be an object or null')
    return value
