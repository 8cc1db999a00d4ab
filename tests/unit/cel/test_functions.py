"""The functions: CEL's own where rows meet them, the strings and math extensions, and ours."""

from __future__ import annotations

import pytest

from tests.unit.cel.rows import FULL, failure, value_of
from wal_tracker.cel import runtime


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("'Ärger'.lowerAscii()", "Ärger"),
        ("'AbÄ'.upperAscii()", "ABÄ"),
        ("' \\t a b\\u00a0'.trim()", "a b"),
        ("'a,b,,c'.split(',')", ["a", "b", "", "c"]),
        ("'a,b,c'.split(',', 2)", ["a", "b,c"]),
        ("'a,b'.split(',', 0)", []),
        ("'äb'.split('')", ["ä", "b"]),
        ("'abc'.split('', 2)", ["a", "bc"]),
        ("'banana'.replace('a', 'o')", "bonono"),
        ("'banana'.replace('a', 'o', 1)", "bonana"),
        ("'banana'.replace('a', 'o', 0)", "banana"),
        ("'ab'.replace('', '-')", "-a-b-"),
        ("'añb'.substring(1)", "ñb"),
        ("'añb'.substring(1, 2)", "ñ"),
        ("'abc'.substring(3)", ""),
        ("'abc'.charAt(1)", "b"),
        ("'abc'.charAt(3)", ""),
        ("'abcabc'.indexOf('c')", 2),
        ("'abcabc'.indexOf('c', 3)", 5),
        ("'abc'.indexOf('x')", -1),
        ("'abcabc'.lastIndexOf('c')", 5),
        ("'abcabc'.lastIndexOf('c', 4)", 2),
        ("['a', 'b'].join()", "ab"),
        ("['a', 'b'].join(', ')", "a, b"),
        ("[].join('-')", ""),
        ("'%s is %d, %.2f%%'.format([new.nick, new.age, new.price])", "Kim is 30, 9.50%"),
        ("'%s %s %s'.format([null, [1, 'a'], {'b': 1.5, 'a': true}])", "null [1, a] {a: true, b: 1.5}"),
        ("'%x %X %o %b %e'.format([255, 'az', 8, 5, 1234.5])", "ff 617A 10 101 1.234500e+03"),
        ("math.greatest(1, 3, 2)", 3),
        ("math.greatest([1.5, 2.5])", 2.5),
        ("math.least(new.age, 5)", 5),
        ("math.ceil(1.2)", 2.0),
        ("math.floor(-1.2)", -2.0),
        ("math.round(2.5)", 3.0),
        ("math.round(-2.5)", -3.0),
        ("math.round(new.extra.n)", 3.0),
        ("math.abs(-3)", 3),
        ("math.abs(new.rate)", 1.25),
        ("coalesce(null, new.extra.none, new.extra.seq[9], new.nick)", "Kim"),
        ("coalesce(null, new.extra.none)", None),
        ("cel.bind(a, new.age, a * a)", 900),
        ("string(1.0)", "1"),
        ("string(0.1)", "0.1"),
        ("string(new.at)", "2026-01-02T03:04:05.12Z"),
        ("string(duration('1h30m'))", "5400s"),
        ("timestamp('2026-01-02T03:04:05+01:30') == timestamp('2026-01-02T01:34:05Z')", True),
        ("new.at.getFullYear('America/New_York')", 2026),
        ("new.at.getDate('America/New_York')", 1),
        ("new.at.getHours('-03:30')", 23),
        ("duration('25h').getHours()", 25),
        ("duration('1.5s').getMilliseconds()", 500),
        ("'a\\nb'.matches('a.b')", False),
        ("'äöü'.matches('^...$')", True),
        ("new.nick.matches('(?i)^k')", True),
        ("'1234'.matches('^' + '[0-9]+$')", True),
        ("size('😀')", 1),
    ],
)
def test_functions_give_what_their_documentation_says(source: str, value: object) -> None:
    """Positions count code points; case is ASCII's; regular expressions are RE2 over UTF-8."""
    found = value_of(source)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("'abc'.substring(4)", "outside the string"),
        ("'abc'.substring(2, 1)", "end before its start"),
        ("'abc'.charAt(-1)", "outside the string"),
        ("'abc'.indexOf('a', 9)", "outside the string"),
        ("['a', 1].join()", "list of strings"),
        ("'%d'.format(['a'])", "no %d for string"),
        ("'%s %s'.format([1])", "fewer values"),
        ("'%y'.format([1])", "no %y"),
        ("'%.999f'.format([1.0])", "does not know"),
        ("'%'.format([])", "does not know"),
        ("math.abs(-9223372036854775807 - 1)", "overflow"),
        ("math.greatest([])", "empty list"),
        ("coalesce(1 / (new.age - 30), 5)", "division by zero"),
        ("new.at.getHours('Nowhere/Else')", "time zone"),
        ("int('1.5')", "whole number"),
        ("double('1_0')", "not a number"),
        ("int(1e30)", "does not fit"),
        ("timestamp(new.nick)", "RFC 3339"),
        ("[1, 2][2]", "out of the list"),
        ("[1, 2][dyn(-1)]", "out of the list"),
    ],
)
def test_functions_refuse_what_has_no_result(source: str, reason: str) -> None:
    """With the reason; `coalesce` skips what is missing, not what is wrong."""
    assert reason in failure(source).reason


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("new.extra.n * 1.5", 4.5),
        ("new.extra.n + new.extra.half", 3.5),
        ("new.rate * 2", 2.5),
        ("new.rate + new.age", 31.25),
        ("new.extra.n / 2", 1),
        ("new.extra.n / 2.0", 1.5),
        ("new.extra.seq.filter(x, x > 1)[0] * 0.5", 1.0),
        ("new.extra.seq.map(x, x * 0.5)", [0.5, 1.0]),
        ("new.extra.n == 3.0", True),
        ("new.rate > 1", True),
    ],
)
def test_numbers_out_of_json_and_numeric_columns_mix(source: str, value: object) -> None:
    """JSON has one kind of number; int next to double is a double there."""
    found = value_of(source)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("source", ["dyn(new.age) + 1.5", "dyn(1) * 1.5", "[1][0] + 1.5"])
def test_other_numbers_do_not_mix(source: str) -> None:
    """As the specification has it."""
    assert "does not take" in failure(source).reason


@pytest.mark.parametrize(
    "source",
    [
        "new.id + 9223372036854775807",
        "new.id * -9223372036854775807 - 2",
        "-(new.id * -9223372036854775807 - 1)",
        "(new.id * -9223372036854775807 - 1) / -1",
        "new.extra.big + 1",
        "dyn(new.id) - 9223372036854775807 - 3",
    ],
)
def test_whole_numbers_never_wrap_and_never_grow(source: str) -> None:
    """Past 64 bits is an error of this change."""
    assert "overflow" in failure(source).reason


_LONG = {**FULL, "nick": "x" * (runtime.MAX_SIZE // 4)}


@pytest.mark.parametrize(
    "source",
    [
        "cel.bind(a, new.nick + new.nick, cel.bind(b, a + a, b + b))",
        "new.nick.replace('x', 'xxxxxxxxxx')",
        "new.nick.replace('', 'xxxxx')",
        "[1,2,3,4,5,6].map(x, new.nick).join()",
        "'%s%s%s%s%s'.format([new.nick, new.nick, new.nick, new.nick, new.nick])",
    ],
)
def test_what_an_expression_builds_is_bounded(source: str) -> None:
    """A rule cannot fill the memory, by mistake or by a row."""
    assert "longer than" in failure(source, _LONG).reason


def test_nested_loops_over_data_are_bounded() -> None:
    """A million elements are fine once, and not times themselves."""
    row = {**FULL, "extra": list(range(100_000))}
    assert value_of("new.extra.exists(x, x == 99999)", row) is True
    assert "nested comprehensions" in failure("new.extra.map(x, new.extra.exists(y, y == x))", row).reason


def test_a_value_nested_too_deeply_fails_its_change_only() -> None:
    """Not the process."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert "nested too deeply" in failure("new.extra == old.extra", {"extra": deep}, {"extra": [deep[0]]}).reason
