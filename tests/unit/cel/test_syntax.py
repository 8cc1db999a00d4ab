"""What the scan and the adapter make of text, where cel-python's grammar alone reads it differently."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.unit.cel.rows import refusal, value_of
from wal_tracker import cel
from wal_tracker.cel import syntax


@pytest.mark.parametrize(
    ("source", "value"),
    [
        (r"'\x41\101\u0041\U00000041'", "AAAA"),
        (r"'\a\b\f\n\r\t\v\\\?\"\'\`'", "\a\b\f\n\r\t\v\\?\"'`"),
        (r"r'\x41'", r"\x41"),
        ("'''a\n'b' \"c\"'''", "a\n'b' \"c\""),
        ('"""x"""', "x"),
        ("'// no comment'", "// no comment"),
        (r"b'\xff\377a'", b"\xff\xffa"),
        ("b'é'", "é".encode()),
        (r"rb'\x'", b"\\x"),
        ("'' + \"\"", ""),
        ("'a' // a comment with 'quotes\n + 'b'", "ab"),
    ],
)
def test_strings_are_read_as_the_specification_says(source: str, value: object) -> None:
    """Escapes, raw strings, triple quotes with line ends, bytes; comments are none inside a string."""
    assert value_of(source) == value


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("1-1", 0),
        ("1 -1", 0),
        ("1 - -1", 2),
        ("2*-3", -6),
        ("--1", 1),
        ("- 5", -5),
        ("-9223372036854775808", -(2**63)),
        ("- 9223372036854775808", -(2**63)),
        ("-0x10", -16),
        ("0xFFu == 255u", True),
        ("-2.5e1", -25.0),
        (".5", 0.5),
        ("-new.age", -30),
        ("[1,2,].size()", 2),
        ("{'a': 1,}", {"a": 1}),
        ("true?false:true", False),
        ("!!true", True),
        ("1 + 2 * 3 - 4 / 2", 5),
        ("2 - 3 - 4", -5),
        ("false || true && false", False),
        ("false ? 1 : true ? 2 : 3", 2),
    ],
)
def test_numbers_signs_and_precedence(source: str, value: object) -> None:
    """A sign belongs to a number or stands between two, whatever spaces there are."""
    found = value_of(source)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("new.for", 8),
        ("new['in']", 7),
        ("new.`in`", 7),
        ("new['größe']", 9),
        ("new.`größe`", 9),
        ("has(new.`in`)", True),
    ],
)
def test_columns_with_awkward_names_can_be_read(source: str, value: object) -> None:
    """A reserved word is a name after a dot; anything is one in back quotes or brackets."""
    assert value_of(source) == value


@pytest.mark.parametrize(
    ("source", "line", "column", "message", "hint"),
    [
        ("new.mail ==", 1, 12, "ends too early", ""),
        ("", 1, 1, "ends too early", ""),
        ("(1 + 2", 1, 7, "ends too early", ""),
        ("1 +\n  * 2", 2, 3, "unexpected '*'", ""),
        ("new.in", 1, 5, "keyword", ".`in`"),
        ("new.true", 1, 5, "keyword", ""),
        ("for", 1, 1, "reserved", "'for'"),
        ("new.age = 3", 1, 9, "unexpected '='", "=="),
        ("new.vip & true", 1, 9, "unexpected '&'", "&&"),
        ("new.vip and true", 1, 9, "unexpected 'and'", "&&"),
        ("hello world", 1, 7, "unexpected 'world'", "quote"),
        ("'abc", 1, 1, "does not end", ""),
        ("'a\nb'", 1, 1, "does not end", ""),
        (r"'\q'", 1, 2, "not an escape", ""),
        (r"'\ud800'", 1, 2, "not an escape", ""),
        ("new.größe", 1, 7, "unexpected 'ö'", "['größe']"),
        ("9223372036854775808", 1, 1, "64 bits", ""),
        ("18446744073709551616u", 1, 1, "64 bits", ""),
        ("1.", 1, 1, "not a number", "1.0"),
        ("`a`", 1, 1, "after a dot", ""),
        ("Message{a: 1}", 1, 1, "messages", ""),
        ("size(1,)", 1, 8, "unexpected ')'", ""),
    ],
)
def test_a_syntax_error_says_where_and_what_to_write(
    source: str, line: int, column: int, message: str, hint: str
) -> None:
    """Line and column count from 1; the caret stands under the place."""
    error = refusal(source)
    assert (error.line, error.column) == (line, column)
    assert message in error.message
    assert hint in error.hint
    text, caret = error.rendered.split("\n")[1:3]
    assert text == "  | " + source.split("\n")[line - 1]
    assert caret.index("^") == len("  | ") + column - 1


@pytest.mark.parametrize(
    "source",
    [
        "'" + "x" * syntax.MAX_LENGTH + "'",
        "(" * 200 + "1" + ")" * 200,
        "[" * 150 + "]" * 150,
        "!" * 300 + "true",
        " + ".join(["1"] * 300),
        "".join(f"new.age == {i} ? {i} : " for i in range(300)) + "0",
        "new" + ".extra" * 300,
    ],
)
def test_length_and_depth_are_bounded(source: str) -> None:
    """A configuration cannot overflow the stack, of ours or of Python's compiler."""
    assert isinstance(refusal(source), cel.CelSyntaxError)


def test_long_flat_expressions_are_fine() -> None:
    """Chains of && and lists are flat, however long."""
    assert value_of(" && ".join(["new.age == 30"] * 500)) is True
    assert value_of("new.age in [" + ", ".join(map(str, range(1000))) + "]") is True
    assert value_of("".join(f"new.age == {i} ? 'a{i}' : " for i in range(60)) + "'none'") == "a30"


def test_the_recursion_limit_is_left_alone() -> None:
    """Importing celpy raises it for the whole process; importing this room does not."""
    program = "import sys; a = sys.getrecursionlimit(); import wal_tracker.cel; print(a, sys.getrecursionlimit())"
    before, after = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert before == after
