"""What YAML can do to a program that trusts it, and what ours does instead."""

from __future__ import annotations

import time

import pytest

from wal_tracker.config import yaml
from wal_tracker.errors import ConfigError


def value(text: str) -> object:
    """What `x: text` holds."""
    node = yaml.parse(f"x: {text}\n".encode())
    assert isinstance(node, yaml.Mapping)
    held = node.entries["x"][1]
    assert isinstance(held, yaml.Scalar)
    return held.value


def refused(content: str | bytes) -> str:
    """What is said of a document that is not taken."""
    with pytest.raises(ConfigError) as caught:
        yaml.parse(content.encode() if isinstance(content, str) else content, "c.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["no", "off", "yes", "on", "Y", "n", "0123", "0o17", "0x1F", "0b1", "12:30:45", "1_000", "2026-01-02", ".inf",
     "-.inf", ".nan", "2026-01-02T03:04:05Z", "12345678901234567890", "1e999", "=", "1,000", "nUll"],
)  # fmt: skip
def test_a_word_stays_a_word(text: str) -> None:
    """A country code is no truth value, a time no number in base sixty, a zip code keeps its zero."""
    assert value(text) == text


@pytest.mark.parametrize(
    ("text", "held"),
    [("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("7", 7), ("-7", -7), ("0", 0),
     ("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0), ("'7'", "7"), ('"true"', "true"), ("!!str 7", "7"), ("! 7", "7")],
)  # fmt: skip
def test_what_is_plainly_a_value_is_one(text: str, held: object) -> None:
    """The core schema of YAML 1.2; quotes make text."""
    assert value(text) == held
    assert type(value(text)) is type(held)


def test_an_alias_bomb_is_refused_at_once() -> None:
    """Nine lines that stand for nine billion values."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    started = time.monotonic()

    assert "counting what aliases stand for" in refused("\n".join(lines))
    assert time.monotonic() - started < 1


def test_an_honest_alias_is_taken() -> None:
    """Saying a thing once is no crime."""
    node = yaml.parse(b"a: &names [x, y]\nb: *names\n")
    assert isinstance(node, yaml.Mapping)
    assert node.entries["a"][1] is node.entries["b"][1]


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("a: &a [*a]", "c.yaml:1:8: an alias (*…) stands inside itself"),
        ("a: *b", "c.yaml:1:4: an alias (*…) is not defined before"),
        ("a: 1\nb: 2\na: 3\n", "c.yaml:3:1: the key 'a' is there twice; the first is in line 1"),
        ("x:\n  1: a\n  '1': b\n", "c.yaml:3:3: the key '1' is there twice"),
        ("a: 1\n---\nb: 2\n", "c.yaml:2:1: a second document"),
        ("a: !!python/object/apply:os.system [x]", "c.yaml:1:4: a tag"),
        ("a: !secret x", "c.yaml:1:4: a tag (!…) is not understood"),
        ("? [a]\n: b", "c.yaml:1:3: a key must be a single value"),
        ("? {a: b}\n: b", "a key must be a single value"),
        ("a:\n\tb: 1", "c.yaml:2:1: is not YAML"),
        ("a: [1", "is not YAML"),
        ("a: b: c", "c.yaml:1:5: is not YAML"),
        ('a: "\\ud800"', "c.yaml:1:4: half a surrogate pair"),
        (b"a: \xff\n", "c.yaml:1:4: is not UTF-8"),
        (b"ok: 1\nb: \xff\n", "c.yaml:2:4: is not UTF-8"),
        ("a: \0", "c.yaml:1:4: is not YAML: the character U+0000"),
        ("a: x\nb: \x07", "c.yaml:2:4: is not YAML: the character U+0007"),
    ],
)
def test_a_document_that_is_not_taken_says_where_and_why(document: str | bytes, says: str) -> None:
    """File, line, column, then the reason."""
    assert says in refused(document)


def test_a_tab_is_named_as_what_it_is() -> None:
    """The commonest mistake has its remedy beside it."""
    assert "spaces, not tabs" in refused("a:\n\tb: 1")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_is_refused_and_no_stack_overflow(opening: str) -> None:
    """Fifty levels are enough for anybody."""
    assert "deeper than 50 levels" in refused(opening * 2000)


def test_fifty_levels_are_read() -> None:
    """The bound is where it says."""
    assert isinstance(yaml.parse(b"[" * 50 + b"]" * 50), yaml.Sequence)


def test_a_large_file_is_refused_before_it_is_parsed() -> None:
    """At most a megabyte."""
    assert "1,000,000" in refused(b"#" * 1_000_001)


def test_many_values_are_refused() -> None:
    """A megabyte of commas is a hundred thousand values at most."""
    assert "more than 100,000 values" in refused("[" + "a," * 100_001 + "]")


def test_every_key_and_scalar_knows_its_place() -> None:
    """One-based lines and columns, block scalars by their indicator, in files with a byte order mark too."""
    node = yaml.parse("\ufeffa: 1\nlist:\n  - x\n  - key: >-\n      folded\n".encode())
    assert isinstance(node, yaml.Mapping)
    key, held = node.entries["list"]
    assert (key.line, key.column) == (2, 1)
    assert isinstance(held, yaml.Sequence)
    item = held.items[1]
    assert isinstance(item, yaml.Mapping)
    inner_key, scalar = item.entries["key"]
    assert (inner_key.line, inner_key.column) == (4, 5)
    assert isinstance(scalar, yaml.Scalar)
    assert (scalar.value, scalar.line, scalar.column) == ("folded", 4, 10)


def test_an_escaped_surrogate_pair_is_its_character() -> None:
    """JSON writers spell it so, and JSON is YAML."""
    assert value('"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize("document", ["", "\n", "# nothing\n", "---\n", "null"])
def test_an_empty_document_is_null(document: str) -> None:
    """What that means is for the reader of the document."""
    node = yaml.parse(document.encode())
    assert isinstance(node, yaml.Scalar)
    assert node.value is None
