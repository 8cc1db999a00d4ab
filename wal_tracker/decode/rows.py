"""
Row messages (Insert, Update, Delete) of one relation, in two forms of the same meaning.

`RowReader` reads any such message with every read checked; it is the definition. `compile_rows` writes, once per
relation, Python source that reads just the wanted columns of the messages this relation normally sends and stops after
the last of them. The compiled form must be right whenever it returns; at the slightest doubt it raises one of `DOUBT`
(an index beyond the end, a conversion that fails, a kind of tuple it does not expect) and the message is read again
by the definition, which either has the right answer or the right error.

Source is built from positions and from the ``repr`` of names, never from the names themselves.

See: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html ("TupleData")
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Union

from wal_tracker.decode.base import XLOG_DATA_HEADER_SIZE, OpColumns, Wanted
from wal_tracker.decode.reader import Reader
from wal_tracker.decode.values import SOURCE_NAMES, Codec, codec
from wal_tracker.errors import UnsupportedValue
from wal_tracker.model import EXACT, Change, Column, Item, Op, PartialRow, Relation, ReplicaIdentity, Row, Transaction
from wal_tracker.pgtypes import FIXED_SIZE, TypeCatalog

Handler = Callable[[bytes, Any, "list[Item]"], None]
"""Reads one XLogData message of one relation and operation in a transaction, and appends what it yields."""

NumericAsString = Callable[[Relation, Column], bool]
"""Whether a numeric column is read as its digits instead of a double."""


def never(_relation: Relation, _column: Column) -> bool:
    """Numeric columns are read as doubles."""
    return False


class Doubt(Exception):
    """The compiled form has met something it leaves to the definition; never leaves the decoder."""


DOUBT = (Doubt, IndexError, KeyError, ValueError, OverflowError, struct.error)
"""What the compiled form may raise; each means: read the message again with `RowReader`."""


class Unchanged:
    """Stands for a value the server did not send; never leaves the decoders."""


UNCHANGED = Unchanged()
Field = Union[bytes, Unchanged, None]
"""A column as it came: its text, a value that was not sent, or NULL."""

_COUNT = struct.Struct("!h")
_LENGTH = struct.Struct("!i")
_RELATION_ID = struct.Struct("!I")
_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Form:
    """One row key of one column."""

    key: str
    exact: bool


def _forms(name: str, keys: frozenset[str]) -> tuple[_Form, ...]:
    return tuple(_Form(key, key != name) for key in (name, EXACT + name) if key in keys)


class RowReader:
    """Reads the row messages of one relation, whatever they are."""

    def __init__(
        self, relation: Relation, wanted: Wanted, types: TypeCatalog, numeric_as_string: NumericAsString
    ) -> None:
        """
        Args:
            relation: What the Relation message said.
            wanted: What to hand on.
            types: Where column types are looked up, now.
            numeric_as_string: Whether a numeric column is read as its digits.
        """
        self.relation = relation
        self.wanted = wanted
        self.codecs: tuple[Codec, ...] = tuple(
            codec(types, column.type_oid, numeric_as_string=numeric_as_string(relation, column))
            for column in relation.columns
        )

    def insert(self, reader: Reader, transaction: Transaction, out: list[Item]) -> None:
        """Read an Insert; the reader stands after the relation's id."""
        if _kind(reader) != b"N":
            raise reader.error(f"an Insert into {self.relation.name} without a new row")
        new = self._tuple(reader)
        reader.finish("an Insert")
        self.inserted(new, reader, transaction, out)

    def update(self, reader: Reader, transaction: Transaction, out: list[Item]) -> None:
        """Read an Update; the reader stands after the relation's id."""
        kind = _kind(reader)
        old: list[Field] | None = None
        following = kind
        if kind in (b"K", b"O"):
            old = self._tuple(reader)
            following = _kind(reader)
        if following != b"N":
            raise reader.error(f"an Update of {self.relation.name} without a new row")
        new = self._tuple(reader)
        reader.finish("an Update")
        if kind == b"K":
            self._only_key(old)
        self.updated(old, new, reader, transaction, out)

    def delete(self, reader: Reader, transaction: Transaction, out: list[Item]) -> None:
        """Read a Delete; the reader stands after the relation's id."""
        kind = _kind(reader)
        if kind not in (b"K", b"O"):
            raise reader.error(f"a Delete from {self.relation.name} without an old row")
        old = self._tuple(reader)
        reader.finish("a Delete")
        if kind == b"K":
            self._only_key(old)
        self.deleted(old, reader, transaction, out)

    def inserted(self, new: list[Field], reader: Reader, transaction: Transaction, out: list[Item]) -> None:
        """Hand on an insert of these fields; the reader tells errors where we are."""
        columns = self.wanted.get("insert")
        row = None if columns is None else self._row(new, columns.new, reader)
        self._append("insert", None, row, transaction, out)

    def updated(
        self, old: list[Field] | None, new: list[Field], reader: Reader, transaction: Transaction, out: list[Item]
    ) -> None:
        """
        Hand on an update.

        Args:
            old: The old row, `UNCHANGED` where it is not known; None: no old row came, so the key is as it was.
            new: The new row; what is `UNCHANGED` in it is taken from the old one if that knows it.
            reader: Tells errors where we are.
            transaction: The open transaction.
            out: Where the change goes.
        """
        if old is None:
            old = list(new)
            if self.relation.replica_identity is ReplicaIdentity.FULL:
                old = [UNCHANGED] * len(new)  # FULL always brings an old row: without one, nothing is known
            self._only_key(old)
        else:
            new = [before if isinstance(after, Unchanged) else after for before, after in zip(old, new, strict=True)]
        columns = self.wanted.get("update")
        if columns is None:
            self._append("update", None, None, transaction, out)
            return
        new_row = self._row(new, columns.new, reader)
        old_row = self._row(old, columns.old, reader, unknown_is_unsent=True)
        self._append("update", old_row, new_row, transaction, out)

    def deleted(self, old: list[Field], reader: Reader, transaction: Transaction, out: list[Item]) -> None:
        """Hand on a delete of these fields, `UNCHANGED` where they are not known."""
        columns = self.wanted.get("delete")
        row = None if columns is None else self._row(old, columns.old, reader, unknown_is_unsent=True)
        self._append("delete", row, None, transaction, out)

    def truncated(self, transaction: Transaction, out: list[Item]) -> None:
        """Hand on a truncate of this relation."""
        self._append("truncate", None, None, transaction, out)

    def _only_key(self, fields: list[Field] | None) -> None:
        """Forget the columns beside the key: a tuple of the key holds nulls in their place, which are no NULLs."""
        if fields is not None:
            for position, column in enumerate(self.relation.columns):
                if not column.is_key:
                    fields[position] = UNCHANGED

    def _append(self, op: Op, old: Row | None, new: Row | None, transaction: Transaction, out: list[Item]) -> None:
        counts, relation = transaction.counts, self.relation
        ordinal = counts.get(relation.name, 0)
        counts[relation.name] = ordinal + 1
        if op in self.wanted:
            out.append(Change(transaction, relation, op, old, new, ordinal, transaction.context))

    def _tuple(self, reader: Reader) -> list[Field]:
        (count,) = reader.unpack(_COUNT, "the number of columns")
        if count != len(self.relation.columns):
            raise reader.error(f"a row of {self.relation.name} with {count} columns, not {len(self.relation.columns)}")
        fields: list[Field] = []
        for column in self.relation.columns:
            kind = reader.take(1, f"column {column.name!r}")
            if kind == b"t":
                (size,) = reader.unpack(_LENGTH, f"the length of column {column.name!r}")
                fields.append(reader.take(size, f"column {column.name!r}"))
            elif kind == b"n":
                fields.append(None)
            elif kind == b"u":
                fields.append(UNCHANGED)
            elif kind == b"b":
                raise reader.error(f"column {column.name!r} is in binary form, which was not asked for")
            else:
                raise reader.error(f"column {column.name!r} is of unknown kind {kind!r}")
        return fields

    def _row(
        self, fields: list[Field], keys: frozenset[str], reader: Reader, *, unknown_is_unsent: bool = False
    ) -> Row:
        row: Row = {}
        unknown: set[str] = set()
        for column, reads, value in zip(self.relation.columns, self.codecs, fields, strict=True):
            for form in _forms(column.name, keys):
                if isinstance(value, Unchanged):
                    unknown.add(column.name)
                elif value is None:
                    row[form.key] = None
                else:
                    row[form.key] = self._value(column, reads.exact if form.exact else reads.cel, value, reader)
        if not unknown:
            return row
        if unknown_is_unsent:
            return PartialRow(row, _NOTHING, frozenset(unknown))
        return PartialRow(row, frozenset(unknown), _NOTHING)

    def _value(self, column: Column, convert: Callable[[str], Any], value: bytes, reader: Reader) -> Any:
        try:
            return convert(value.decode())
        except ValueError as error:  # its text may hold the value: it goes no further
            reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else "does not fit its type"
        raise UnsupportedValue(
            f"a value of column {column.name!r} of {self.relation.name} {reason} (type {column.type_oid})",
            **reader.place(),
        )


def _kind(reader: Reader) -> bytes:
    return reader.take(1, "the kind of a row")


# ---------------------------------------------------------------------------------------------------------------------
# The compiled form


class _Source:
    """Lines of a function in the making, and the objects its names stand for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {
            **SOURCE_NAMES,
            "Change": Change,
            "Doubt": Doubt,
            "blank": Change.__new__,
            "PartialRow": PartialRow,
            "UNCHANGED": UNCHANGED,
            "again": _again,
            "kind_length": struct.Struct("!BI").unpack_from,
            "length": struct.Struct("!I").unpack_from,
            "partial": _partial,
        }

    def add(self, indent: int, line: str) -> None:
        self.lines.append(" " * indent + line)

    def name(self, prefix: str, value: Any) -> str:
        name = f"{prefix}{len(self.names)}"
        self.names[name] = value
        return name

    def conversion(self, reads: Codec, form: _Form) -> str:
        """Expression over ``{v}`` for one form of a column."""
        template, function = (reads.exact_source, reads.exact) if form.exact else (reads.cel_source, reads.cel)
        if "{f}" in template:
            template = template.replace("{f}", self.name("convert", function))
        return template


HEAD_SIZE = 8
"""How many bytes of a row message name its handler: type, relation, kind of the first tuple, number of columns."""

HEAD = slice(XLOG_DATA_HEADER_SIZE, XLOG_DATA_HEADER_SIZE + HEAD_SIZE)
"""Where these stand in an XLogData message."""


def compile_rows(reader: RowReader) -> dict[bytes, Handler]:
    """
    Make the fast handlers of a relation, by what stands at `HEAD` in the XLogData messages they read.

    A handler counts the operation and, where it is wanted, appends its `Change`, or what `Direct` makes of it. It
    raises one of `DOUBT` before it has touched anything when the message must be read by `reader`.
    """
    relation = reader.relation
    full = relation.replica_identity is ReplicaIdentity.FULL
    # An update of the key brings a K tuple; it is rare, and left to the definition.
    kinds: tuple[tuple[bytes, Op, bytes, _Write], ...] = (
        (b"I", "insert", b"N", _insert),
        (b"U", "update", b"O" if full else b"N", _update_full if full else _update),
        (b"D", "delete", b"O" if full else b"K", _delete),
    )
    handlers = {}
    for letter, op, kind, write in kinds:
        columns = reader.wanted.get(op)
        handlers[_head(letter, relation, kind)] = (
            _counter(relation.name) if columns is None else _compile(reader, op, columns, write)
        )
    return handlers


def skip_rows(relation: Relation) -> dict[bytes, Handler]:
    """The handlers of a relation nobody wants: they do nothing."""
    kinds = ((b"I", b"N"), (b"U", b"N"), (b"U", b"K"), (b"U", b"O"), (b"D", b"K"), (b"D", b"O"))
    return {_head(letter, relation, kind): _skip for letter, kind in kinds}


def _skip(_message: bytes, _transaction: Any, _out: list[Item]) -> None:
    pass


def _head(letter: bytes, relation: Relation, kind: bytes) -> bytes:
    return letter + _RELATION_ID.pack(relation.relation_id) + kind + _COUNT.pack(len(relation.columns))


def _counter(table: str) -> Handler:
    def count(_message: bytes, transaction: Any, _out: list[Item]) -> None:
        counts = transaction.counts
        counts[table] = counts.get(table, 0) + 1

    return count


@dataclass(frozen=True, slots=True)
class _Read:
    """The variables a handler's source has read a message into, by row key; None: there is no such row."""

    old: dict[str, str] | None
    new: dict[str, str] | None
    unsent: frozenset[str] = _NOTHING
    """Wanted columns of the old row that were not sent."""
    may_be_unchanged: bool = False
    """Whether the new row may lack columns: then the variable ``unchanged`` says so."""

    def has(self, keys: Iterable[tuple[str, str]]) -> bool:
        """Whether all of these row keys are there."""
        return all(key in ((self.new if which == "new" else self.old) or ()) for which, key in keys)


_Write = Callable[[_Source, RowReader, OpColumns], _Read]


def _compile(reader: RowReader, op: str, columns: OpColumns, write: _Write) -> Handler:
    source = _Source()
    source.add(0, f"def {op}(m, transaction, out):")
    source.add(1, f"o = {HEAD.stop}")
    row = write(source, reader, columns)
    source.add(1, "counts = transaction.counts")
    source.add(1, f"ordinal = counts.get({reader.relation.name!r}, 0)")
    direct = columns.direct
    if direct is not None and row.has(direct.reads):
        if row.may_be_unchanged:
            source.add(1, "if unchanged: raise Doubt")
        values = [((row.new if which == "new" else row.old) or {})[key] for which, key in direct.reads]
        source.names["direct"] = direct.make
        source.add(1, "try:")
        source.add(2, f"item = direct({', '.join(['transaction', 'ordinal', *values])})")
        source.add(1, "except Exception: raise Doubt from None")
        source.add(1, f"counts[{reader.relation.name!r}] = ordinal + 1")
        source.add(1, "out.append(item)")
    else:
        _append_change(source, reader.relation, op, row)
    code = compile("\n".join(source.lines), f"<{op} of relation {reader.relation.relation_id}>", "exec")
    exec(code, source.names)  # noqa: S102 - built above from positions and reprs only
    handler: Handler = source.names[op]
    return handler


def _append_change(source: _Source, relation: Relation, op: str, row: _Read) -> None:
    """Write the making of the change."""
    source.names["relation"] = relation
    new, old = _literal(row.new), _literal(row.old)
    if row.unsent:
        old = f"PartialRow({old}, {source.name('names', _NOTHING)}, {source.name('names', row.unsent)})"
    if row.may_be_unchanged:
        source.add(1, f"new = {new}")
        source.add(1, "if unchanged: new = partial(new)")
        new = "new"
    source.add(1, f"counts[{relation.name!r}] = ordinal + 1")
    # Attribute by attribute: half the cost of a call of Change, which does no more (a law in tests/property says so).
    source.add(1, "change = blank(Change)")
    values = {
        "transaction": "transaction",
        "relation": "relation",
        "op": repr(op),
        "old": old,
        "new": new,
        "ordinal": "ordinal",
        "context": "transaction.context",
    }
    for attribute in Change.__slots__:
        source.add(1, f"change.{attribute} = {values[attribute]}")
    source.add(1, "out.append(change)")


def _insert(source: _Source, reader: RowReader, columns: OpColumns) -> _Read:
    values = _columns(source, reader, _wanted(reader, columns.new), "new", last=True)
    return _Read(None, _variables(reader, values, columns.new))


def _update(source: _Source, reader: RowReader, columns: OpColumns) -> _Read:
    # No old row came: the key has not changed.
    relation = reader.relation
    wanted_new, wanted_old = _wanted(reader, columns.new), _wanted(reader, columns.old)
    key = {position for position, column in enumerate(relation.columns) if column.is_key}
    forms = dict(wanted_new)
    for position in key & wanted_old.keys():
        merged = {form.key: form for form in (*forms.get(position, ()), *wanted_old[position])}
        forms[position] = tuple(merged.values())
    toastable = {position for position in wanted_new if relation.columns[position].type_oid not in FIXED_SIZE} - key
    values = _columns(source, reader, forms, "new", last=True, unchanged=toastable)
    old_values = {position: value for position, value in values.items() if position in key}
    return _Read(
        _variables(reader, old_values, columns.old),
        _variables(reader, values, columns.new),
        unsent=_names(reader, wanted_old.keys() - key),
        may_be_unchanged=bool(toastable),
    )


def _update_full(source: _Source, reader: RowReader, columns: OpColumns) -> _Read:
    wanted_new, wanted_old = _wanted(reader, columns.new), _wanted(reader, columns.old)
    toastable = {position for position in wanted_new if reader.relation.columns[position].type_oid not in FIXED_SIZE}
    old_values = _columns(source, reader, wanted_old, "old", remember=toastable)
    head = b"N" + _COUNT.pack(len(reader.relation.columns))
    source.add(1, f"if m[o:o + 3] != {head!r}: raise Doubt")
    source.add(1, "o += 3")
    new_values = _columns(source, reader, wanted_new, "new", last=True, remember=toastable, refill=True)
    return _Read(_variables(reader, old_values, columns.old), _variables(reader, new_values, columns.new))


def _delete(source: _Source, reader: RowReader, columns: OpColumns) -> _Read:
    relation = reader.relation
    wanted = _wanted(reader, columns.old)
    if relation.replica_identity is ReplicaIdentity.FULL:
        values = _columns(source, reader, wanted, "old", last=True)
        return _Read(_variables(reader, values, columns.old), None)
    key = {position for position, column in enumerate(relation.columns) if column.is_key}
    forms = {position: forms for position, forms in wanted.items() if position in key}
    nulls_follow = max(key, default=-1) <= max(forms, default=-1)
    values = _columns(source, reader, forms, "old", last=True, nulls_follow=nulls_follow)
    return _Read(_variables(reader, values, columns.old), None, unsent=_names(reader, wanted.keys() - key))


def _wanted(reader: RowReader, keys: frozenset[str]) -> dict[int, tuple[_Form, ...]]:
    found = {}
    for position, column in enumerate(reader.relation.columns):
        forms = _forms(column.name, keys)
        if forms:
            found[position] = forms
    return found


_Values = dict[int, "dict[str, str]"]  # position -> row key -> variable


def _columns(
    source: _Source,
    reader: RowReader,
    wanted: dict[int, tuple[_Form, ...]],
    prefix: str,
    *,
    last: bool = False,
    remember: set[int] | frozenset[int] = frozenset(),
    refill: bool = False,
    unchanged: set[int] | frozenset[int] = frozenset(),
    nulls_follow: bool = False,
) -> _Values:
    """
    Write the reading of one tuple; ``o`` stands at its first column, and after it when `last` is false.

    Args:
        source: Where lines go.
        reader: The relation's.
        wanted: The forms to make of each column; the others are skipped.
        prefix: Of the variables.
        last: This tuple ends the message: stop after the last wanted column.
        remember: Columns whose place is kept, so that an unchanged value of the new row can be read there.
        refill: This is the new row whose unchanged values are to be found at the places kept.
        unchanged: Columns that may be unchanged and then become `UNCHANGED`.
        nulls_follow: All columns after the last wanted one are null.
    """
    total = len(reader.relation.columns)
    stop = max(wanted, default=-1) + 1 if last else total
    values: _Values = {}
    if unchanged:
        source.add(1, "unchanged = False")
    for position in range(stop):
        forms = wanted.get(position, ())
        if position in remember and not refill:
            source.add(1, f"place{position} = o")
        # Five bytes can be read at once while five or more must follow: one for each column to come.
        if position <= total - 5 or not last:
            source.add(1, "kind, n = kind_length(m, o)")
        else:
            source.add(1, "kind = m[o]")
            source.add(1, "if kind == 116: n = length(m, o + 1)[0]")
        if not forms:
            source.add(1, "if kind == 116: o += 5 + n")
            source.add(1, "elif kind == 110 or kind == 117: o += 1")
            source.add(1, "else: raise Doubt")
            continue
        variables, assignments = _conversions(source, reader.codecs[position], forms, f"{prefix}{position}_")
        values[position] = variables
        names = " = ".join(dict.fromkeys(variables.values()))
        source.add(1, "if kind == 116:")
        source.add(2, "start = o + 5")
        source.add(2, "o = start + n")
        for assignment in assignments("m[start:o]"):
            source.add(2, assignment)
        source.add(1, f"elif kind == 110: {names} = None; o += 1")
        if position in unchanged:
            source.add(1, f"elif kind == 117: {names} = UNCHANGED; unchanged = True; o += 1")
        if position in remember and refill:
            source.add(1, "elif kind == 117:")
            source.add(2, f"raw = again(m, place{position}); o += 1")
            source.add(2, f"if raw is None: {names} = None")
            source.add(2, "else:")
            for assignment in assignments("raw"):
                source.add(3, assignment)
        source.add(1, "else: raise Doubt")
    # Places only grow: when the last is inside the message, every slice before it was.
    passed_over = total - stop
    if nulls_follow and passed_over:
        source.add(1, f"if m[o:] != {b'n' * passed_over!r}: raise Doubt")
    else:  # a column passed over takes a byte at least
        source.add(1, f"if len(m) - o {'<' if passed_over or not last else '!='} {passed_over}: raise Doubt")
    return values


def _conversions(
    source: _Source, reads: Codec, forms: tuple[_Form, ...], prefix: str
) -> tuple[dict[str, str], Callable[[str], list[str]]]:
    variables: dict[str, str] = {}
    templates: dict[str, str] = {}  # template -> variable: two forms of one conversion share it
    for form in forms:
        template = source.conversion(reads, form)
        variables[form.key] = templates.setdefault(template, f"{prefix}{len(templates)}")

    def assignments(expression: str) -> list[str]:
        if len(templates) == 1:
            return [f"{variable} = {template.replace('{v}', expression)}" for template, variable in templates.items()]
        lines = [f"v = {expression}"]
        return lines + [f"{variable} = {template.replace('{v}', 'v')}" for template, variable in templates.items()]

    return variables, assignments


def _variables(reader: RowReader, values: _Values, keys: frozenset[str]) -> dict[str, str]:
    return {
        form.key: values[position][form.key]
        for position, column in enumerate(reader.relation.columns)
        if position in values
        for form in _forms(column.name, keys)
    }


def _names(reader: RowReader, positions: Iterable[int]) -> frozenset[str]:
    return frozenset(reader.relation.columns[position].name for position in positions)


def _literal(row: Mapping[str, str] | None) -> str:
    """Source of a row."""
    if row is None:
        return "None"
    return "{" + ", ".join(f"{key!r}: {variable}" for key, variable in row.items()) + "}"


def _partial(row: Row) -> PartialRow:
    """Take the unchanged columns out of a row."""
    unchanged = frozenset(key[key[:1] == EXACT :] for key, value in row.items() if value is UNCHANGED)
    return PartialRow({key: value for key, value in row.items() if value is not UNCHANGED}, unchanged, _NOTHING)


def _again(message: bytes, place: int) -> bytes | None:
    """The field at `place`, read before: text or NULL."""
    kind = message[place]
    if kind == 110:
        return None
    if kind != 116:
        raise Doubt
    (size,) = _LENGTH.unpack_from(message, place + 1)
    return message[place + 5 : place + 5 + size]
