"""
YAML as configuration needs it: strict, bounded, and with the place of everything.

Built on PyYAML's event stream, not on its constructors. What differs from ``yaml.safe_load``:

- a key given twice, a tag, a second document and an alias to a value still open are errors;
- at most `MAX_BYTES`, `MAX_DEPTH` levels, and `MAX_NODES` values with every alias counted as often as it stands for
  something, so that nine lines of aliases cannot become nine billion values;
- plain scalars are read as YAML 1.2 does (core schema, https://yaml.org/spec/1.2.2/#103-core-schema): ``no``, ``on``,
  ``12:30:45``, ``1_000``, ``2026-01-02`` are text. So are ``0123``, ``0o17``, ``0x1F``, ``.inf`` and numbers of more
  than 18 digits: what looks like a number and would change its digits is more often an identifier or a secret;
- keys are text as written: ``1: x`` has the key ``"1"``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Union

import yaml

from wal_tracker.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_NODES = 100_000

ScalarValue = Union[None, bool, int, float, str]

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,18}|(0|[1-9][0-9]{0,17})(\.[0-9]{0,18})?)([eE][-+]?[0-9]{1,2})?")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value."""

    value: ScalarValue
    text: str
    """As written, without quotes."""
    line: int
    column: int


@dataclass(slots=True)
class Sequence:
    """A list."""

    line: int
    column: int
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Mapping:
    """A mapping, in the order of the file; its keys are scalars and each is there once."""

    line: int
    column: int
    entries: dict[str, tuple[Scalar, Node]] = field(default_factory=dict)


Node = Union[Scalar, Sequence, Mapping]


def parse(content: bytes, file: str = "") -> Node:
    """
    Read one document.

    Args:
        content: UTF-8, with or without a byte order mark.
        file: The file as the person named it; for messages.

    Raises:
        ConfigError: It is not such a document; names line and column.
    """
    if len(content) > MAX_BYTES:
        raise ConfigError(f"is {len(content):,} bytes long, and at most {MAX_BYTES:,} are read", file=file)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise ConfigError("is not UTF-8; save it as UTF-8", file=file, line=line, column=column) from error
    try:
        return _Builder(yaml.parse(text, Loader=yaml.SafeLoader), file).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        hint = "; indent with spaces, not tabs" if "'\\t'" in problem else ""
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise ConfigError(f"is not YAML: {problem}{hint}", file=file, line=line, column=column) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        raise ConfigError(
            f"is not YAML: the character U+{error.character:04X} is not allowed", file=file, line=line, column=column
        ) from error


class _Builder:
    """Events to nodes, without recursion."""

    def __init__(self, events: Iterator[yaml.Event], file: str) -> None:
        self._events = events
        self._file = file
        self._anchors: dict[str, tuple[Node, int] | None] = {}
        self._nodes = 0

    def document(self) -> Node:
        """The only document."""
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent) and root is not None:
                raise self._error("a second document begins here; a configuration is one", event)
            if isinstance(event, yaml.NodeEvent):
                root = self._node(event)
        return root if root is not None else Scalar(None, "", 1, 1)

    def _node(self, first: yaml.NodeEvent) -> Node:
        """The node that begins with this event, its whole subtree read."""
        # One frame per open collection: the node, its anchor, how many nodes there were before, the key waiting.
        open_nodes: list[tuple[Sequence | Mapping, str | None, int]] = []
        keys: list[Scalar | None] = []
        event = first
        while True:
            done: Node | None = None
            if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
                self._begin(event)
                if len(open_nodes) >= MAX_DEPTH:
                    raise self._error(f"is nested deeper than {MAX_DEPTH} levels", event)
                if keys and isinstance(open_nodes[-1][0], Mapping) and keys[-1] is None:
                    raise self._error("a key must be a single value, not a list or a mapping", event)
                kind = Sequence if isinstance(event, yaml.SequenceStartEvent) else Mapping
                open_nodes.append((kind(*_place(event)), event.anchor, self._nodes))
                keys.append(None)
            elif isinstance(event, yaml.CollectionEndEvent):
                done, anchor, before = open_nodes.pop()
                keys.pop()
                if anchor is not None:
                    self._anchors[anchor] = (done, self._nodes - before + 1)
            elif isinstance(event, yaml.AliasEvent):
                done = self._alias(event)
            else:
                assert isinstance(event, yaml.ScalarEvent)
                self._begin(event)
                done = self._scalar(event)
                if event.anchor is not None:
                    self._anchors[event.anchor] = (done, 1)
            if done is not None:
                if not open_nodes:
                    return done
                self._put(open_nodes[-1][0], keys, done, event)
            event = next(self._events)

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        text: str = event.value
        try:
            # Escapes may spell a character as two surrogates, as JSON does; one alone is no character.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError as error:
            raise self._error("half a surrogate pair is not a character", event) from error
        plain = event.style is None and event.tag is None
        return Scalar(_resolve(text) if plain else text, text, *_place(event))

    def _begin(self, event: yaml.NodeEvent) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._error(f"more than {MAX_NODES:,} values", event)
        if event.tag is not None and event.tag not in ("!", "tag:yaml.org,2002:str"):
            # Not repeated, and no alias is: it may be a password that begins like one.
            raise self._error(
                "a tag (!…) is not understood; write the value without it, or in quotes if the ! belongs to it", event
            )
        if event.anchor is not None:
            self._anchors[event.anchor] = None

    def _alias(self, event: yaml.AliasEvent) -> Node:
        found = self._anchors.get(event.anchor)
        if found is None:
            if event.anchor in self._anchors:
                raise self._error("an alias (*…) stands inside itself", event)
            raise self._error(
                "an alias (*…) is not defined before; write the value in quotes if the * belongs to it", event
            )
        node, size = found
        self._nodes += size
        if self._nodes > MAX_NODES:
            raise self._error(f"more than {MAX_NODES:,} values, counting what aliases stand for", event)
        return node

    def _put(self, parent: Sequence | Mapping, keys: list[Scalar | None], node: Node, event: yaml.Event) -> None:
        if isinstance(parent, Sequence):
            parent.items.append(node)
            return
        key = keys[-1]
        if key is not None:
            parent.entries[key.text] = (key, node)
            keys[-1] = None
            return
        if not isinstance(node, Scalar):
            raise self._error("a key must be a single value, not a list or a mapping", event)
        if node.text in parent.entries:
            first = parent.entries[node.text][0]
            raise self._error(f"the key {node.text!r} is there twice; the first is in line {first.line}", event)
        keys[-1] = node

    def _error(self, message: str, event: yaml.Event) -> ConfigError:
        line, column = _place(event)
        return ConfigError(message, file=self._file, line=line, column=column)


def _place(event: yaml.Event) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _resolve(text: str) -> ScalarValue:
    """The value of a plain scalar."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
