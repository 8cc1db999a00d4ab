"""
The `track` section: keys, and the shapes a rule may have.

Expressions are taken as text and not compiled; whether a `cond` names a block that is not there is seen when it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from wal_tracker.config import yaml
from wal_tracker.config.model import Expression, GroupRule, TrackRule
from wal_tracker.config.reader import Reader, shortlist, suggestion
from wal_tracker.model import GROUP_IDENTIFY, IDENTIFY, ROW_OPS, Op

SIMPLE = ("event", "properties", "identify", "group", "when", "distinct_id", "timestamp", "destinations", "name")
CONDITIONAL = ("cond", "identify", "group", "when", "distinct_id", "timestamp", "destinations", "name")
PROFILE = ("identify", "group")
"""Keys that say something of a person or a group; with neither `event` nor `cond` they make an event of their own."""
GROUP = ("type", "id", "traits")
RESERVED_PREFIXES = ("wal_tracker.context", "wal_tracker.event", "wal_tracker.hb")
"""Logical messages that mean something to us already."""

_PART = re.compile(r'"((?:[^"]|"")+)"|([^".\s][^".]*)')
_EVENT_REFERENCE = re.compile(r"""\bevents\s*(?:\.\s*([A-Za-z_]\w*)|\[\s*(?:'([^'\\]+)'|"([^"\\]+)")\s*\])""")


@dataclass(frozen=True, slots=True)
class Target:
    """What a track key names."""

    schema: str
    table: str
    ops: tuple[Op, ...]
    message_prefix: str | None = None


def split_name(text: str) -> list[str] | None:
    """
    The parts of a dotted name, those in double quotes taken whole (``""`` is a quote in one).

    Returns:
        At least one part, or None where the text is no such name.
    """
    parts: list[str] = []
    at = 0
    while True:
        match = _PART.match(text, at)
        if match is None:
            return None
        parts.append(match[1].replace('""', '"') if match[1] is not None else match[2])
        at = match.end()
        if at == len(text):
            return parts
        if text[at] != ".":
            return None
        at += 1


def read_track(
    section: Reader | None, *, schema: str, destinations: Sequence[str], lenient: bool
) -> tuple[TrackRule, ...]:
    """
    Every rule, in the order of the file.

    Args:
        section: The value of `track`.
        schema: Of tables named without one.
        destinations: Names a rule may send to.
        lenient: A pg_track_events file: a block that a `cond` names and that is not there is taken to be empty.

    Raises:
        ConfigError: A key or a rule has no shape we know.
    """
    if section is None:
        return ()
    rules: list[TrackRule] = []
    seen: dict[tuple[str, str, Op], str] = {}
    for key, entry in section.without_environment().entries():
        target = _target(entry, key, schema)
        for op in target.ops if target.message_prefix is None else ():
            other = seen.setdefault((target.schema, target.table, op), key)
            if other != key and (split_name(other) or [""])[-1] != "*" and (split_name(key) or [""])[-1] != "*":
                entry.warn(f"names the same table and operation as {other!r}; both rules are applied")
        listed = isinstance(entry.node, yaml.Sequence)
        readers = entry.items() if listed else [entry]
        if not readers:
            raise entry.error("is an empty list; write a rule, or take the key out")
        names: set[str] = set()
        for position, reader in enumerate(readers):
            rule = _Rule(reader, key, target, position, listed, destinations, lenient).read()
            if rule.name is not None and rule.name in names:
                raise reader.error(f"the name {rule.name!r} is there twice in this list; it is part of event ids")
            names.add(rule.name or "")
            rules.append(rule)
    return tuple(rules)


def _target(entry: Reader, key: str, schema: str) -> Target:
    parts = split_name(key)
    ops: tuple[str, ...] = (*ROW_OPS, "*")
    prefix = key.partition(".")[2] if key.startswith("message.") else ""
    if prefix and (parts is None or parts[-1] not in ops):
        if prefix in RESERVED_PREFIXES:
            raise entry.error(f"messages with the prefix {prefix!r} are wal_tracker's own; choose another prefix")
        return Target("", "", ("message",), prefix)
    if parts is None or not 2 <= len(parts) <= 3:
        raise entry.error(
            'is not table.op, schema.table.op or message.prefix; a name with dots is quoted: "my.schema".orders.insert'
        )
    *names, op = parts
    if op not in ops:
        raise entry.error(f"{op!r} is not an operation{suggestion(op, ops)}")
    if "*" in names:
        raise entry.error("a rule names one table; `*` stands for every operation, not for every table")
    table_schema, table = names if len(names) == 2 else (schema, names[0])
    return Target(table_schema, table, ROW_OPS if op == "*" else (_op(op),))


def _op(text: str) -> Op:
    return next(op for op in ROW_OPS if op == text)


class _Rule:
    """One rule of the file."""

    def __init__(
        self,
        reader: Reader,
        key: str,
        target: Target,
        position: int,
        listed: bool,
        destinations: Sequence[str],
        lenient: bool,
    ) -> None:
        self._reader = reader
        self._key = key
        self._target = target
        self._position = position
        self._listed = listed
        self._destinations = destinations
        self._lenient = lenient

    def read(self) -> TrackRule:
        reader = self._reader
        entries = dict(reader.entries())
        event, cond = entries.get("event"), entries.get("cond")
        if event is not None and cond is not None and not isinstance(event.node, yaml.Mapping):
            raise event.error("a rule has `event` or `cond`, not both: which of them names the event is not clear")
        profile = {name: entry for name, entry in entries.items() if name in PROFILE and not entry.is_null}
        if cond is None and event is None and not profile:
            raise reader.error(
                "a rule needs `event` (its name), `cond` (an expression that chooses one of the rule's event blocks), "
                "`identify` or `group`"
            )
        place = reader.key or reader.node
        blocks: dict[str, Mapping[str, Expression]] = {}
        properties: Mapping[str, Expression] = {}
        if cond is not None:
            # An event may have one of these names (pg_track_events has no such keys): what `cond` chooses is its block.
            told = set(PROFILE).difference(_names(cond))
            profile = {name: entry for name, entry in profile.items() if name in told}
            blocks = dict(self._blocks({name: entry for name, entry in entries.items() if name not in told}))
            if self._lenient:
                self._add_missing(cond, blocks)
        else:
            reader.only(SIMPLE)
            if (given := entries.get("properties")) is not None:
                if event is None:
                    raise given.error("goes with `event`; a rule without one says what it has to say in `identify`")
                properties = _properties(given)
        settings = {
            name: entry for name, entry in entries.items() if cond is None or not isinstance(entry.node, yaml.Mapping)
        }
        identify = _traits(profile["identify"]) if "identify" in profile else {}
        group = _group(profile["group"]) if "group" in profile else None
        name = event.text() if cond is None and event is not None else None
        if cond is None and event is None:
            name = IDENTIFY if identify else GROUP_IDENTIFY
        return TrackRule(
            key=self._key,
            schema=self._target.schema,
            table=self._target.table,
            ops=self._target.ops,
            message_prefix=self._target.message_prefix,
            position=self._position,
            listed=self._listed,
            name=settings["name"].text() if "name" in settings else None,
            event=name,
            properties=properties,
            cond=read_expression(cond) if cond is not None else None,
            blocks=blocks,
            identify=identify,
            group=group,
            when=_optional(settings.get("when")),
            distinct_id=_optional(settings.get("distinct_id")),
            timestamp=_optional(settings.get("timestamp")),
            destinations=self._chosen(settings.get("destinations")),
            line=place.line,
            column=place.column,
        )

    def _blocks(self, entries: Mapping[str, Reader]) -> Iterator[tuple[str, Mapping[str, Expression]]]:
        """The event blocks of a rule with `cond`: every mapping in it, and a key nobody knows with nothing under it."""
        for name, entry in entries.items():
            if isinstance(entry.node, yaml.Mapping):
                if name == "properties":
                    raise entry.error(
                        "`properties` goes with `event`; beside `cond`, each event has a block of its own: "
                        "its name, and the properties under it"
                    )
                if name == "cond":
                    raise entry.error("must be an expression, not a mapping")
                yield name, _block(entry, name)
            elif name not in CONDITIONAL or name in PROFILE:
                if not entry.is_null:
                    raise entry.error(
                        f"is neither a setting ({shortlist(CONDITIONAL)}) nor an event block (a mapping of properties)"
                    )
                yield name, {}

    def _add_missing(self, cond: Reader, blocks: dict[str, Mapping[str, Expression]]) -> None:
        for name in _names(cond):
            if name not in blocks:
                blocks[name] = {}
                cond.warn(f"names the event {name!r}, which has no block here; it is sent without properties")

    def _chosen(self, entry: Reader | None) -> tuple[str, ...] | None:
        if entry is None:
            return None
        names = tuple(entry.texts())
        for name in names:
            if name not in self._destinations:
                raise entry.error(f"{name!r} is not under `destinations`{suggestion(name, self._destinations)}")
        return names


def _block(entry: Reader, name: str) -> Mapping[str, Expression]:
    """The properties of an event block, which may also stand under `properties` in it."""
    inner = dict(entry.entries())
    nested = inner.get("properties")
    if nested is None or not isinstance(nested.node, yaml.Mapping):
        return _properties(entry)
    entry.only(("event", "properties"))
    if "event" in inner and inner["event"].text() != name:
        raise inner["event"].error(f"must be the block's own name, {name!r}: that is the event's name; or leave it out")
    return _properties(nested)


def _names(cond: Reader) -> Iterator[str]:
    """The events a `cond` names as ``events.x`` or ``events['x']``."""
    if not isinstance(cond.node, yaml.Scalar):
        return
    for match in _EVENT_REFERENCE.finditer(read_expression(cond).source):
        yield match[1] or match[2] or match[3]


def _group(entry: Reader) -> GroupRule:
    entry.only(GROUP)
    given = dict(entry.entries())
    for name in ("type", "id"):
        if name not in given or given[name].is_null:
            raise entry.error(
                f"needs `{name}`; a group is {{type: company, id: new.company_id, traits: {{name: new.name}}}}, "
                "with `type` as it is and expressions for the others"
            )
    kind = given["type"].text()
    if not kind.strip():
        raise given["type"].error("must not be empty")
    traits = given.get("traits")
    return GroupRule(type=kind, id=read_expression(given["id"]), traits={} if traits is None else _properties(traits))


def _traits(entry: Reader) -> Mapping[str, Expression]:
    traits = _properties(entry)
    if not traits:
        raise entry.error("is empty; name what is known of the person, such as {email: new.email}")
    return traits


def _properties(entry: Reader) -> Mapping[str, Expression]:
    return {name: read_expression(value) for name, value in entry.entries()}


def _optional(entry: Reader | None) -> Expression | None:
    return None if entry is None or entry.is_null else read_expression(entry)


def read_expression(entry: Reader) -> Expression:
    """A scalar as CEL: text as it is; numbers, true, false and null of the file are the same in CEL."""
    node = entry.node
    if not isinstance(node, yaml.Scalar):
        raise entry.error("must be a CEL expression; for a list or a map write one in quotes: \"[new.a, new.b]\"")
    if isinstance(node.value, str):
        if not node.value.strip():
            raise entry.error("is an empty expression; write null for no value, \"''\" for an empty text")
        source = node.value
    elif isinstance(node.value, bool):
        source = "true" if node.value else "false"
    else:
        source = "null" if node.value is None else str(node.value)
    return Expression(source, entry.path, node.line, node.column, entry.file)
