"""The draft as YAML a person reads: comments, and every name quoted where it has to be. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from wal_tracker.draft.suggest import Suggestion

WIDTH = 100
"""Beyond it, properties stand one below the other."""

_PLAIN_FLOW = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z_][\w.()]*(?: (?:[\w.()]+|==|!=|&&|\|\|))*", re.ASCII)
_WORDS_WITH_A_MEANING = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n", "_"})


def scalar(text: str, *, flow: bool = False) -> str:
    """
    A string as YAML: plain where nothing can misread it, else quoted.

    Args:
        text: The string.
        flow: It stands inside ``{…}`` or ``[…]``.
    """
    plain = _PLAIN_FLOW if flow else _PLAIN
    if plain.fullmatch(text) and text.lower() not in _WORDS_WITH_A_MEANING:
        return text
    if text.isprintable() and "'" not in text:
        return f"'{text}'"
    # A JSON string is one of YAML; what cannot be seen, and what YAML does not let in, is escaped.
    return json.dumps(text, ensure_ascii=not text.isprintable()).replace("\x7f", "\\u007f")


def name(table: tuple[str, str], schema: str, op: str = "") -> str:
    """
    A table as the file names it, with its operation if there is one.

    Args:
        table: Schema and table.
        schema: Of tables that are written without one.
        op: Such as ``insert``.
    """
    parts = [part if re.fullmatch(r"\w+", part) else _quoted(part) for part in table]
    if table[0] == schema:
        del parts[0]
    return scalar(".".join([*parts, *([op] if op else [])]))


def track_lines(table: tuple[str, str], schema: str, op: str, rules: Sequence[Suggestion]) -> list[str]:
    """The rules of one table and operation, with their key; a list where there are several."""
    if len(rules) == 1:
        return [f"  {name(table, schema, op)}:", *_indented(rule_lines(rules[0], listed=False), "    ")]
    lines = [f"  {name(table, schema, op)}:"]
    for rule in rules:
        lines += item_lines(rule)
    return lines


def item_lines(rule: Suggestion) -> list[str]:
    """A rule as one of a list."""
    first, *others = rule_lines(rule, listed=True)
    return [f"    - {first}", *_indented(others, "      ")]


def rule_lines(rule: Suggestion, *, listed: bool) -> list[str]:
    """A rule without its key; in a list it has a name, which is part of event ids."""
    lines = [f"name: {scalar(rule.name)}"] if listed else []
    for key, value in (
        ("event", rule.event), ("cond", rule.cond), ("when", rule.when), ("distinct_id", rule.distinct_id),
    ):  # fmt: skip
        if value is not None:
            lines.append(f"{key}: {scalar(value)}")
    if rule.properties:
        lines += _mapping("properties", rule.properties)
    for block, properties in rule.blocks.items():
        lines += _mapping(scalar(block), properties)
    return lines


def ignore_lines(table: tuple[str, str], schema: str, columns: Iterable[str]) -> list[str]:
    """The ignored columns of one table."""
    # Scalars under `ignore` are expanded, so a dollar sign is written twice.
    listed = ", ".join(scalar(column.replace("$", "$$"), flow=True) for column in columns)
    return [f"  {name(table, schema)}: [{listed}]"]


def comment(line: str) -> str:
    """A line of a comment; a name with a line break in it cannot end it early."""
    return "".join(character if character.isprintable() else "?" for character in line)


def _mapping(key: str, entries: Mapping[str, str]) -> list[str]:
    flow = ", ".join(f"{scalar(name, flow=True)}: {scalar(value, flow=True)}" for name, value in entries.items())
    line = f"{key}: {{{flow}}}"
    if len(line) <= WIDTH:
        return [line]
    return [f"{key}:", *(f"  {scalar(name)}: {scalar(value)}" for name, value in entries.items())]


def _indented(lines: Iterable[str], by: str) -> list[str]:
    return [by + line for line in lines]


def _quoted(part: str) -> str:
    return '"' + part.replace('"', '""') + '"'
