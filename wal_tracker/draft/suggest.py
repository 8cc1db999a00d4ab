"""
Rules that a table's shape suggests: sign-ups, states that change, moments that are noted, rows that come and go.

Pure: a surveyed table comes in, rules come out. A suggestion may be beside the point, but never sends what looks like a
secret, and never a column of unknown size.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from wal_tracker.draft import words
from wal_tracker.model import ReplicaIdentity
from wal_tracker.pgtypes import DATE, UUID, PgTypeKind, TypeCatalog
from wal_tracker.source.survey import SurveyedTable

Op = Literal["insert", "update", "delete"]

MAX_PROPERTIES = 8
MAX_STATES = 12
"""Of so many values each gets an event of its own; of more, all share one."""

_SEPARATORS = re.compile(r"[\W_]+")
# Where a word begins inside of another: userId, HTTPServer.
_INNER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """One rule over one table."""

    op: Op
    name: str
    """What tells it from the others over the same operation."""
    event: str | None = None
    cond: str | None = None
    when: str | None = None
    distinct_id: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    blocks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    comment: str = ""
    """Why, or what to look at."""


def is_bookkeeping(name: tuple[str, str]) -> bool:
    """Whether a table is a migration tool's or a framework's own, and tells nothing about the business."""
    return name[1].lower() in words.BOOKKEEPING


def looks_secret(column: str) -> bool:
    """Whether a column's name says that it should stay where it is."""
    parts = [word.rstrip("0123456789") for word in words_of(column)]
    return not words.SECRETS.isdisjoint(parts) or not words.SECRET_PAIRS.isdisjoint(pairwise(parts))


def secret_columns(table: SurveyedTable) -> list[str]:
    """The columns of a table that look like secrets, in its order."""
    return [column.name for column in table.table.relation.columns if looks_secret(column.name)]


def words_of(name: str) -> list[str]:
    """The words of an identifier, in lower case: of ``hashedPassword`` and ``hashed_password`` the same."""
    parts = _SEPARATORS.split(name)
    return [word.lower() for part in parts if part for word in _INNER.split(part)]


def access(row: str, column: str) -> str:
    """A column of a row in CEL, whatever its name: ``new.id``, ``new['odd name']``."""
    if _IDENTIFIER.fullmatch(column) and column not in words.CEL_RESERVED:
        return f"{row}.{column}"
    return f"{row}[{text(column)}]"


def text(value: str) -> str:
    """A string in CEL."""
    escaped = "".join(
        "\\" + character if character in "\\'"
        else character if character.isprintable()
        else f"\\u{ord(character):04x}" if ord(character) < 0x10000
        else f"\\U{ord(character):08x}"
        for character in value
    )  # fmt: skip
    return f"'{escaped}'"


def singular(table: str) -> str:
    """What one row of a table is called in an event's name."""
    *before, last = words_of(table) or ["row"]
    if last in ("people", "children"):
        last = {"people": "person", "children": "child"}[last]
    elif last.endswith("ies") and len(last) > 4 and last not in ("series", "movies"):
        last = last[:-3] + "y"
    elif last.endswith(("sses", "shes", "ches", "xes", "zes", "tuses")):
        last = last[:-2]
    elif last.endswith("s") and not last.endswith(("ss", "us", "is", "series", "news")):
        last = last[:-1]
    return "_".join([*before, last])


def subjects(names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """What a row of each table is called; with the schema in front where two tables would share a name."""
    names = list(names)
    plain = {name: singular(name[1]) for name in names}
    found: dict[tuple[str, str], str] = {}
    for name in names:
        subject = plain[name]
        if list(plain.values()).count(subject) > 1:
            subject = "_".join([*words_of(name[0]), subject])
        while subject in found.values():
            subject += "_"
        found[name] = subject
    return found


def suggest(table: SurveyedTable, types: TypeCatalog, subject: str, *, old_rows: bool) -> list[Suggestion]:
    """
    Rules for one table, inserts first.

    Args:
        table: The table.
        types: Types of its database.
        subject: What one of its rows is called.
        old_rows: Whether the whole old row is known (trigger mode, REPLICA IDENTITY FULL); else only its key.
    """
    return list(_Shape(table, types, subject, old_rows).rules())


def sees_old_rows(table: SurveyedTable, mode: str) -> bool:
    """Whether the whole old row of an update or delete is known in this mode."""
    return mode == "trigger" or table.table.relation.replica_identity is ReplicaIdentity.FULL


class _Shape:
    """One table, looked at for what it means."""

    def __init__(self, table: SurveyedTable, types: TypeCatalog, subject: str, old_rows: bool) -> None:
        self._table = table
        self._types = types
        self._subject = subject
        self._old_rows = old_rows
        self._name = table.name[1].lower()
        description = table.table
        self._columns = {
            column.name: column.type_oid
            for column in description.relation.columns
            if column.name not in description.generated and not looks_secret(column.name)
        }
        self._key = [name for name in description.primary_key if name in self._columns]

    def rules(self) -> Iterator[Suggestion]:
        yield self._inserted()
        updated: list[Suggestion] = []
        events: set[str] = set()
        for rule in self._updated():
            # `paid_at`, `is_paid` and the state `paid` say the same.
            if rule.event not in events and rule.name not in (other.name for other in updated):
                updated.append(rule)
                events.update(rule.blocks, filter(None, [rule.event]))
        yield from updated or [self._just_updated()]
        if f"{self._subject}_deleted" not in events:
            yield self._deleted()

    # Rows that come and go -----------------------------------------------------------------------

    def _inserted(self) -> Suggestion:
        verb = "created"
        if self._name in words.USERS:
            verb = "signed_up"
        elif self._name in words.INVITATIONS:
            verb = "sent"
        elif self._name in words.MEMBERSHIPS:
            verb = "joined" if self._subject.endswith("member") else "created"
        properties = self._properties("new")
        return Suggestion(
            op="insert",
            name=verb,
            event=f"{self._subject}_{verb}",
            distinct_id=self._who("new", properties),
            properties=properties,
        )

    def _deleted(self) -> Suggestion:
        properties = self._properties("old") if self._old_rows else {name: access("old", name) for name in self._key}
        return Suggestion(
            op="delete",
            name="deleted",
            event=f"{self._subject}_deleted",
            distinct_id=self._who("old", properties, known=None if self._old_rows else self._key),
            properties=properties,
            comment="" if self._old_rows or not properties else "of a deleted row the server sends the key only",
        )

    # What changes --------------------------------------------------------------------------------

    def _updated(self) -> Iterator[Suggestion]:
        if self._name in words.USERS and (email := self._find("email")) is not None:
            yield self._changed("email", f"{self._subject}_changed_email", email, ("previous_email", "new_email"))
        named = {column: parts for column in self._columns if (parts := words_of(column))}
        short = {column for column in named if self._cel(column) in ("string", "int")}
        for column, parts in named.items():
            if parts[-1] in words.STATES and column in short:
                yield self._state(column, parts)
        for column, parts in named.items():
            if parts[-1] in words.LEVELS and column in short:
                name = "_".join(parts)
                yield self._changed(name, f"{self._subject}_{name}_changed", column, ("from", "to"))
            elif (moment := self._moment(column, parts)) is not None:
                yield self._happened(column, moment)

    def _state(self, column: str, parts: list[str]) -> Suggestion:
        """An event for each state where the states are known, else one for all of them."""
        about = "_".join([self._subject, *parts[:-1]])
        name = "_".join(parts)
        old, new = access("old", column), access("new", column)
        states = self._table.values.get(column, ())
        slugs = all(re.fullmatch(r"[A-Za-z0-9_]+", state) for state in states)
        if not 2 <= len(states) <= MAX_STATES or not slugs or self._cel(column) != "string":
            return self._changed(name, f"{about}_{parts[-1]}_changed", column, ("from", "to"))
        nothing = f"{old} == {new}"
        if column not in self._table.required:
            nothing += f" || {new} == null"
        properties = {**self._identity("new"), "from": old}
        return Suggestion(
            op="update",
            name=name,
            cond=f"{nothing} ? null : {text(about + '_')} + {new}",
            distinct_id=self._who("new", properties),
            blocks={f"{about}_{state}": properties for state in states},
            comment=f"{column} leads to an event of the state's own name",
        )

    def _changed(self, name: str, event: str, column: str, labels: tuple[str, str]) -> Suggestion:
        old, new = access("old", column), access("new", column)
        properties = {**self._identity("new"), labels[0]: old, labels[1]: new}
        return Suggestion(
            op="update",
            name=name,
            event=event,
            when=f"{old} != {new}",
            distinct_id=self._who("new", properties),
            properties=properties,
        )

    def _moment(self, column: str, parts: list[str]) -> str | None:
        """What has happened when this column is filled (``accepted_at``) or becomes true (``is_verified``)."""
        kind = self._cel(column)
        if kind == "timestamp" or self._columns[column] == DATE:
            if len(parts) < 2 or parts[-1] not in ("at", "on", "date") or column in self._table.required:
                return None
            verbs = parts[:-1]
        elif kind == "bool":
            verbs = parts[1:] if parts[0] in ("is", "was") else parts
        else:
            return None
        past = verbs and (verbs[-1].endswith("ed") or verbs[-1] in words.HAPPENED)
        return "_".join(verbs) if past and not words.NO_EVENT.intersection(verbs) else None

    def _happened(self, column: str, moment: str) -> Suggestion:
        old, new = access("old", column), access("new", column)
        is_flag = self._cel(column) == "bool"
        soft = moment in words.DELETED
        event = f"{self._subject}_{'deleted' if soft else moment}"
        properties = self._identity("new")
        return Suggestion(
            op="update",
            name=moment,
            event=event,
            when=f"{old} != true && {new} == true" if is_flag else f"{old} == null && {new} != null",
            distinct_id=self._who("new", properties),
            properties=properties,
            comment="a soft delete" if soft else "",
        )

    def _just_updated(self) -> Suggestion:
        properties = {**self._identity("new"), **({"changed": "change.changed"} if self._old_rows else {})}
        return Suggestion(
            op="update",
            name="updated",
            event=f"{self._subject}_updated",
            distinct_id=self._who("new", properties),
            properties=properties,
            comment="every update; a `when` makes it mean something",
        )

    # Properties ----------------------------------------------------------------------------------

    def _properties(self, row: str) -> dict[str, str]:
        """Identity first, then what is small and tells something."""
        names = list(self._identity(row))
        if self._name in words.USERS and (email := self._find("email")) is not None:
            names.append(email)
        names += [name for name in self._columns if name not in names and self._tells(name)]
        return {name: access(row, name) for name in names[:MAX_PROPERTIES]}

    def _identity(self, row: str) -> dict[str, str]:
        """The key, and what the row belongs to."""
        names = [*self._key, *(name for name in self._columns if name not in self._key and self._links(name))]
        return {name: access(row, name) for name in names[:MAX_PROPERTIES]}

    def _links(self, column: str) -> bool:
        small = self._cel(column) == "int" or self._columns[column] == UUID
        return column in self._table.references or (small and words_of(column)[-1:] in (["id"], ["uuid"]))

    def _tells(self, column: str) -> bool:
        kind = self._cel(column)
        if kind in ("int", "double", "numeric", "bool"):
            return True
        described = self._types.get(self._columns[column])
        if described is not None and described.kind is PgTypeKind.ENUM:
            return True
        return kind == "string" and (words_of(column)[-1:] or [""])[0] in words.TELLING

    def _who(self, row: str, properties: Mapping[str, str], known: list[str] | None = None) -> str | None:
        """Whom the event is about, where the properties do not say so by themselves."""
        names = self._columns if known is None else known
        by_itself = any(name.lower() in words.DISTINCT for name in properties) or (
            self._name in ("user", "users", "_users") and "id" in properties
        )
        if by_itself:
            return None
        if self._name in words.PEOPLE and len(self._key) == 1 and not self._references_people():
            return access(row, self._key[0])
        people = [*self._references_people(), *(name for name in words.ACTORS if name in self._columns)]
        return next((access(row, name) for name in people if name in names and self._is_scalar(name)), None)

    def _references_people(self) -> list[str]:
        found = [name for name, (_, target) in self._table.references.items() if target.lower() in words.PEOPLE]
        return [name for name in found if name in self._columns]

    def _is_scalar(self, column: str) -> bool:
        return self._cel(column) in ("int", "string")

    def _find(self, column: str) -> str | None:
        return next((name for name in self._columns if name.lower() == column and self._cel(name) == "string"), None)

    def _cel(self, column: str) -> str:
        return self._types.cel_type(self._columns[column])
