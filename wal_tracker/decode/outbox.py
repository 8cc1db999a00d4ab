"""
Rows of the outbox to model items: changes that rules cannot tell from those off the wire under REPLICA IDENTITY FULL.

A captured row is JSON as `row_to_json` writes it, which names its columns and not their types. So a row is described by
the columns it has, with their types by the catalog as it is now: a row that was captured before its table changed keeps
its own columns, and gets a description (and so rules) of its own.

Values are read in two ways of the same meaning. Where every wanted column is of a type whose JSON value says all there
is, the row is read at once by orjson. Otherwise, and at the slightest doubt, it is taken apart member by member, and
each value goes through the codec of its type as text, digits as they were.

No I/O but what `describe` does; no clock, no logging.
"""

from __future__ import annotations

import json.decoder
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import orjson

from wal_tracker import pgtypes
from wal_tracker.decode.base import Wanted, WantedFor
from wal_tracker.decode.changes import EXACT_JSON, JsonForms, postgres_text
from wal_tracker.decode.rows import NumericAsString, never
from wal_tracker.decode.transactions import CommitTimes, append_transactional_message
from wal_tracker.decode.values import codec
from wal_tracker.lsn import LSN
from wal_tracker.model import EXACT, Change, Column, Item, Op, Relation, ReplicaIdentity, Row, Transaction, Value
from wal_tracker.pgtypes import PgType, PgTypeKind, TypeCatalog

EVENT = "EVENT"
"""The operation of a row that `wal_tracker.emit` wrote; its `new` is the event."""

EVENT_PREFIX = "wal_tracker.event"
"""Of the logical message the same event is in WAL mode."""

CapturedRow = tuple[str, int, str, "str | None", "str | None", "str | None", int]
"""Transaction, table number, operation, context, old row, new row, microseconds since the Unix epoch."""

_OPS: Mapping[str, Op] = {"INSERT": "insert", "UPDATE": "update", "DELETE": "delete", "TRUNCATE": "truncate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedTable:
    """A table with a capture function, as the catalog has it now."""

    number: int
    """``wal_tracker.tracked.id``."""
    oid: int
    schema: str
    table: str
    """The name it has; of a table that was dropped, the last one known."""
    columns: tuple[Column, ...]
    """In order, generated ones included; none of a table that was dropped."""
    generated: frozenset[str] = frozenset()
    is_there: bool = True
    is_captured: bool = True
    """Its trigger is there, and enabled."""
    has_settings: bool = True
    """Its capture function brings the settings that the text of some types depends on."""

    @property
    def name(self) -> str:
        """``schema.table``."""
        return f"{self.schema}.{self.table}"


class Misfit(ValueError):
    """A value has not the form its column's type asks for; never leaves the decoder."""


_Convert = Callable[[Any], Value]
"""Of a value as orjson reads it."""
_Read = Callable[[str, Any], Value]
"""Of a value as it is written, and as `EXACT_JSON` reads it."""


@dataclass(frozen=True, slots=True)
class _Side:
    """What is wanted of an old or a new row."""

    quick: tuple[tuple[str, str, _Convert], ...] | None
    """Row key, column, converter; None: orjson's value does not say all there is."""
    exact: tuple[tuple[str, str, _Read], ...]


@dataclass(slots=True)
class _Shape:
    """Rows of one table with the same columns."""

    relation: Relation
    keys: frozenset[str]
    """The columns such a row has in the outbox, generated ones included."""
    sides: Mapping[Op, tuple[_Side, _Side]]
    """Old and new, for each operation somebody wants."""


@dataclass(slots=True)
class _Table:
    """What is known of one table."""

    described: CapturedTable
    types: dict[str, Column] = field(default_factory=dict)
    """Every column known by name, those of earlier descriptions included."""
    shapes: dict[frozenset[str], _Shape] = field(default_factory=dict)
    latest: _Shape | None = None
    """Of the last row that was read, or of the catalog if none was since."""
    doubted: set[frozenset[str]] = field(default_factory=set)
    """Shapes with a value that did not fit, for which the catalog has been read again."""


class OutboxDecoder:
    """One instance per source, one thread."""

    def __init__(
        self,
        wanted: WantedFor,
        types: TypeCatalog,
        *,
        describe: Callable[[], Sequence[CapturedTable]],
        numeric_as_string: NumericAsString = never,
    ) -> None:
        """
        Args:
            wanted: Asked for every description of a table's rows.
            types: Where column types are looked up.
            describe: Reads the catalog: every captured table as it is now.
            numeric_as_string: Whether a numeric column is read as its digits.
        """
        self._wanted = wanted
        self._types = types
        self._describe = describe
        self._numeric_as_string = numeric_as_string
        self._forms = JsonForms(types)
        self._times = CommitTimes()
        self._tables: dict[int, _Table] = {}
        self._unknown: set[int] = set()
        self._contexts: dict[str, dict[str, Value]] = {}
        self._contexts_size = 0

    @property
    def unknown(self) -> frozenset[int]:
        """Numbers of tables whose rows were passed over, because nobody knows them."""
        return frozenset(self._unknown)

    def refresh(self) -> None:
        """
        Read the catalog again; tables that have changed are described anew, and their rules asked for anew.

        Raises:
            SourceError: The server cannot be asked.
        """
        for described in self._describe():
            known = self._tables.get(described.number)
            if known is None:
                known = self._tables[described.number] = _Table(described)
                self._unknown.discard(described.number)
            elif known.described == described:
                continue
            elif described.columns and known.described.columns != described.columns:
                known.doubted.clear()
            known.described = described
            known.types.update((column.name, column) for column in described.columns)
            known.shapes.clear()
            known.latest = None
            if described.columns:
                # At once, and not with the first row: that a rule no longer fits is told when it comes about.
                known.latest = self._shape(known, frozenset(column.name for column in described.columns))

    def begin(self, xid: int, position: int, at_us: int) -> Transaction:
        """
        A claimed transaction.

        Args:
            xid: Its 64-bit id.
            position: The one it was claimed under: where it ends.
            at_us: When its last statement began, in microseconds since the Unix epoch.
        """
        return Transaction(xid, LSN(position - 1), at_us, self._times.text(at_us))

    def rows(self, transaction: Transaction, rows: Iterable[CapturedRow], out: list[Item]) -> None:
        """
        Append what rows of a transaction yield.

        Args:
            transaction: By `begin`.
            rows: Some of its rows, in the order in which they were captured.
            out: Where items go, in order.

        Raises:
            SourceError: A table is new or has changed, and the server cannot be asked about it.
        """
        counts, tables = transaction.counts, self._tables
        for _, number, operation, context, old, new, _ in rows:
            transaction.context = self._context(context) if context else _NO_CONTEXT
            if operation == EVENT:
                append_transactional_message(
                    transaction, EVENT_PREFIX, (new or "null").encode(), LSN(transaction.commit_lsn), out
                )
                continue
            table = tables.get(number) or self._meet(number)
            if table is None:
                continue
            shape = table.latest or self._first_shape(table, new or old)
            op = _OPS[operation]
            relation = shape.relation
            name = relation.name
            ordinal = counts.get(name, 0)
            counts[name] = ordinal + 1
            sides = shape.sides.get(op)
            if sides is None:
                continue
            old_row: Row | None = None
            new_row: Row | None = None
            if op != "truncate":
                shape, old_row, new_row = self._read(table, shape, op, old, new)
                if op not in shape.sides:
                    continue
            out.append(Change(transaction, shape.relation, op, old_row, new_row, ordinal, transaction.context))

    # Rows ----------------------------------------------------------------------------------------

    def _read(
        self, table: _Table, shape: _Shape, op: Op, old: str | None, new: str | None
    ) -> tuple[_Shape, Row | None, Row | None]:
        """Both rows of a change, and the shape they have."""
        before, after = shape.sides[op]
        if before.quick is not None and after.quick is not None:
            try:
                return (
                    shape,
                    None if old is None else _quick_row(old, shape.keys, before.quick),
                    None if new is None else _quick_row(new, shape.keys, after.quick),
                )
            except (ValueError, KeyError, TypeError, OverflowError):
                pass  # a doubt: the exact way below has the right answer
        return self._read_exactly(table, op, old, new)

    def _read_exactly(
        self, table: _Table, op: Op, old: str | None, new: str | None
    ) -> tuple[_Shape, Row | None, Row | None]:
        """The same, member by member; what does not fit after the catalog was read again is taken as JSON has it."""
        old_members = None if old is None else members(old)
        new_members = None if new is None else members(new)
        keys = frozenset((old_members if new_members is None else new_members) or ())
        shape = table.shapes.get(keys) or self._meet_shape(table, keys)
        table.latest = shape
        for is_last in (False, True):
            if op not in shape.sides:
                break
            before, after = shape.sides[op]
            try:
                return (
                    shape,
                    None if old_members is None else self._exact_row(old_members, before, tolerant=is_last),
                    None if new_members is None else self._exact_row(new_members, after, tolerant=is_last),
                )
            except Misfit:
                if keys not in table.doubted:
                    table.doubted.add(keys)
                    self.refresh()
                    shape = table.latest = table.shapes.get(keys) or self._shape(table, keys)
        return shape, None, None

    def _exact_row(self, found: Mapping[str, tuple[str, Any]], side: _Side, *, tolerant: bool) -> Row:
        row: Row = {}
        for key, name, read in side.exact:
            written, value = found[name]
            if value is None:
                row[key] = None
                continue
            try:
                row[key] = read(written, value)
            except (ValueError, RecursionError) as error:
                if not tolerant:
                    raise Misfit from error
                row[key] = self._as_it_came(written, value, is_exact=key[:1] == EXACT)
        return row

    def _as_it_came(self, written: str, value: Any, *, is_exact: bool) -> Value:
        """What JSON says of a value, whatever its type; its text where it is nested too deep."""
        try:
            return self._forms.of(None, value)[is_exact]
        except RecursionError:
            return written

    # Tables --------------------------------------------------------------------------------------

    def _meet(self, number: int) -> _Table | None:
        """A table nobody has described yet; None where the catalog does not know it either."""
        if number not in self._unknown:
            self.refresh()
            if number not in self._tables:
                self._unknown.add(number)
        return self._tables.get(number)

    def _first_shape(self, table: _Table, row: str | None) -> _Shape:
        """Of a table that is there no more: its rows say what they have."""
        keys = frozenset(members(row)) if row is not None else frozenset[str]()
        table.latest = table.shapes.get(keys) or self._shape(table, keys)
        return table.latest

    def _meet_shape(self, table: _Table, keys: frozenset[str]) -> _Shape:
        """Rows with other columns than those met so far: the table has changed, or they were captured before it did."""
        if keys not in table.doubted and not keys <= {column.name for column in table.described.columns}:
            table.doubted.add(keys)
            self.refresh()
        return table.shapes.get(keys) or self._shape(table, keys)

    def _shape(self, table: _Table, keys: frozenset[str]) -> _Shape:
        """Describe rows with these columns, and ask what is wanted of them."""
        described = table.described
        kept = [column for column in described.columns if column.name in keys]
        # Dropped or renamed since: of the type it had, if anybody saw that.
        gone = sorted(keys - {column.name for column in kept})
        kept += [table.types.get(name) or Column(name, 0, -1, True) for name in gone]
        columns = tuple(column for column in kept if column.name not in described.generated)
        relation = Relation(described.oid, described.schema, described.table, ReplicaIdentity.FULL, columns)
        wanted = self._wanted(relation) or {}
        shape = table.shapes[keys] = _Shape(relation, keys, self._sides(relation, wanted))
        return shape

    def _sides(self, relation: Relation, wanted: Wanted) -> dict[Op, tuple[_Side, _Side]]:
        return {
            op: (self._side(relation, columns.old), self._side(relation, columns.new)) for op, columns in wanted.items()
        }

    def _side(self, relation: Relation, keys: frozenset[str]) -> _Side:
        quick: list[tuple[str, str, _Convert]] | None = []
        exact: list[tuple[str, str, _Read]] = []
        for column in relation.columns:
            for key in (column.name, EXACT + column.name):
                if key not in keys:
                    continue
                is_exact = key != column.name
                exact.append((key, column.name, self._reader(relation, column, is_exact)))
                converter = self._converter(relation, column, is_exact)
                if converter is None:
                    quick = None
                elif quick is not None:
                    quick.append((key, column.name, converter))
        return _Side(None if quick is None else tuple(quick), tuple(exact))

    # Values --------------------------------------------------------------------------------------

    def _converter(self, relation: Relation, column: Column, is_exact: bool) -> _Convert | None:
        """From orjson's value; None where that has lost something, or may have."""
        described = self._types.resolve(column.type_oid)
        as_string = self._numeric_as_string(relation, column)
        if described is None or described.kind in (PgTypeKind.ARRAY, PgTypeKind.COMPOSITE):
            return None
        oid = described.oid
        if oid in _INTEGERS:
            return _integer
        if oid == pgtypes.BOOL:
            return _boolean
        if oid in (pgtypes.FLOAT4, pgtypes.FLOAT8) or (oid == pgtypes.NUMERIC and not is_exact and not as_string):
            return _double
        if oid == pgtypes.NUMERIC and is_exact and not as_string:
            return _decimal(column.type_modifier)
        if oid in (pgtypes.NUMERIC, pgtypes.JSON, pgtypes.JSONB, pgtypes.OID):
            return None
        reads = codec(self._types, oid)
        convert = reads.exact if is_exact else reads.cel
        if oid not in (pgtypes.BYTEA, pgtypes.TIMESTAMP, pgtypes.TIMESTAMPTZ):
            return _string

        def from_text(value: Any) -> Value:
            text = postgres_text(described, value)
            if text is None:
                raise Misfit
            return convert(text)

        if oid == pgtypes.TIMESTAMPTZ:

            def from_timestamp(value: str) -> Value:
                # In a session at UTC, as most are, nothing but the separator differs.
                if value[-6:] == "+00:00":
                    return convert(f"{value[:10]} {value[11:-3]}")
                return from_text(value)

            return from_timestamp
        return from_text

    def _reader(self, relation: Relation, column: Column, is_exact: bool) -> _Read:
        """From what stands in the row, through the text PostgreSQL has for the value."""
        described = self._types.resolve(column.type_oid)
        as_string = self._numeric_as_string(relation, column)
        if described is None:
            # Nobody knows the type: of an unknown one the value is text, of a column that is gone what JSON says.
            return lambda _, value: self._forms.of(None, value)[is_exact]
        if described.kind in (PgTypeKind.ARRAY, PgTypeKind.COMPOSITE):
            nested, shape = described, list if described.kind is PgTypeKind.ARRAY else dict

            def from_nested(_: str, value: Any) -> Value:
                if type(value) is not shape:
                    raise Misfit
                return self._forms.of(nested, value, as_string)[is_exact]

            return from_nested
        reads = codec(self._types, described.oid, numeric_as_string=as_string)
        convert = reads.exact if is_exact else reads.cel
        if described.oid in (pgtypes.JSON, pgtypes.JSONB):
            return lambda written, _: convert(written)
        if described.oid in _NUMBERS:
            return lambda written, value: convert(value if isinstance(value, str) else written)

        def from_text(_: str, value: Any) -> Value:
            text = _text(described, value)
            if text is None:
                raise Misfit
            return convert(text)

        return from_text

    def _context(self, text: str) -> dict[str, Value]:
        found = self._contexts.get(text)
        if found is None:
            self._contexts_size += len(text)
            if len(self._contexts) >= _MAX_CONTEXTS or self._contexts_size > _MAX_CONTEXTS_SIZE:
                self._contexts.clear()
                self._contexts_size = len(text)
            try:
                value = orjson.loads(text)
            except orjson.JSONDecodeError:
                value = None
            found = self._contexts[text] = value if isinstance(value, dict) else {}
        return found


_NO_CONTEXT: dict[str, Value] = {}
_MAX_CONTEXTS = 1000
_MAX_CONTEXTS_SIZE = 1_000_000
_INTEGERS = frozenset({pgtypes.INT2, pgtypes.INT4, pgtypes.INT8})
_NUMBERS = _INTEGERS | {pgtypes.FLOAT4, pgtypes.FLOAT8, pgtypes.NUMERIC}
_VECTORS = frozenset({22, 30})
"""int2vector and oidvector: arrays to JSON, and in text numbers with spaces between."""


def _quick_row(text: str, keys: frozenset[str], wanted: tuple[tuple[str, str, _Convert], ...]) -> Row:
    found = orjson.loads(text)
    if found.keys() != keys:
        raise Misfit
    row: Row = {}
    for key, name, convert in wanted:
        value = found[name]
        row[key] = None if value is None else convert(value)
    return row


def _integer(value: Any) -> Value:
    if type(value) is not int:
        raise Misfit
    return value


def _double(value: Any) -> Value:
    # Infinities and NaN are strings; of -0 orjson may have lost the sign.
    if type(value) not in (float, int) or not value or not isfinite(value):
        raise Misfit
    return float(value)


def _decimal(type_modifier: int) -> _Convert | None:
    """
    Of a numeric column of so many digits at most that a double gives each of them back; None of any other.

    Of numeric(12,2) the server writes two digits after the point, always.
    See: numerictypmodin in src/backend/utils/adt/numeric.c
    """
    precision, scale = (type_modifier - 4) >> 16, (type_modifier - 4) & 0x7FF
    if type_modifier < 0 or not 0 < scale <= precision <= _DOUBLE_DIGITS:
        return None

    def convert(value: Any) -> Value:
        if type(value) is not float:
            raise Misfit
        return orjson.Fragment(f"{value:.{scale}f}")

    return convert


_DOUBLE_DIGITS = 15  # DBL_DIG: so many decimal digits survive the way into a double and back


def _boolean(value: Any) -> Value:
    if type(value) is not bool:
        raise Misfit
    return value


def _string(value: Any) -> Value:
    if type(value) is not str:
        raise Misfit
    return value


def _text(described: PgType, value: Any) -> str | None:
    """The text PostgreSQL has for a value that `row_to_json` wrote; None: it is of another type."""
    if isinstance(value, str) or described.oid == pgtypes.BOOL:
        return postgres_text(described, value)
    if described.oid in _VECTORS and isinstance(value, list):
        return " ".join(map(str, value))
    if described.name.rpartition(".")[2] == "hstore" and isinstance(value, dict):
        return ", ".join(f'"{_escaped(key)}"=>{_hstore_value(item)}' for key, item in value.items())
    # A type of an extension's with a cast to json of its own.
    try:
        return orjson.dumps(value).decode() if isinstance(value, (dict, list)) else None
    except orjson.JSONEncodeError:
        return None


def _hstore_value(value: Any) -> str:
    return "NULL" if value is None else f'"{_escaped(str(value))}"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


# Members -----------------------------------------------------------------------------------------

# Neither is in typeshed; both are what the standard library's own decoder is made of, in C, from 3.10 on.
_scan_value: Callable[[str, int], tuple[Any, int]] = EXACT_JSON.scan_once  # type: ignore[attr-defined]
_scan_string: Callable[[str, int, bool], tuple[str, int]] = json.decoder.scanstring  # type: ignore[attr-defined]
_SPACE = frozenset(" \t\n\r")


def members(text: str) -> dict[str, tuple[str, Any]]:
    """
    The members of a JSON object: each value as it is written, and as `EXACT_JSON` reads it. Of a value that is nested
    too deep for that (a json column may hold thousands of brackets) the text stands for it.

    Args:
        text: What the server made by row_to_json, json_object_agg, or of jsonb: certainly an object.
    """
    found: dict[str, tuple[str, Any]] = {}
    at = 1 if text[1] not in _SPACE else _past_space(text, 1)
    while text[at] != "}":
        name, at = _scan_string(text, at + 1, False)
        if text[at] in _SPACE:
            at = _past_space(text, at)
        at += 1  # the colon
        if text[at] in _SPACE:
            at = _past_space(text, at)
        try:
            value, end = _scan_value(text, at)
        except RecursionError:
            end = _past_value(text, at)
            value = text[at:end]
        found[name] = (text[at:end], value)
        at = end if text[end] not in _SPACE else _past_space(text, end)
        if text[at] == ",":
            at += 1
            if text[at] in _SPACE:
                at = _past_space(text, at)
    return found


_NESTING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]')


def _past_value(text: str, at: int) -> int:
    """The end of an array or object, however deep it is nested."""
    depth = 0
    for found in _NESTING.finditer(text, at):
        first = found[0][0]
        if first in "[{":
            depth += 1
        elif first in "]}":
            depth -= 1
            if depth == 0:
                return found.end()
    raise Misfit


def _past_space(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at
