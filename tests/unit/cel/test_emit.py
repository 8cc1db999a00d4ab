"""What leaves a program that emits is ready for JSON, and a bare column keeps the digits of its source."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest

from tests.unit.cel.rows import ENVIRONMENT, FULL, VARIABLES, value_of
from wal_tracker import cel
from wal_tracker.model import EXACT, PartialRow


@pytest.mark.parametrize(
    ("source", "written"),
    [
        ("new.age + 1", "31"),
        ("new.at + duration('1h')", '"2026-01-02T04:04:05.12Z"'),
        ("timestamp('0999-01-01T00:00:00+01:00')", '"0998-12-31T23:00:00Z"'),
        ("duration('90s')", "90"),
        ("duration('-1.5s')", "-1.5"),
        ("new.at - new.at", "0"),
        ("b'\\xff'", '"/w=="'),
        ("0.0 / 0.0", '"NaN"'),
        ("-1.0 / 0.0", '"-Infinity"'),
        ("[1.0 / 0.0, {'a': 0.0 / 0.0}]", '["Infinity",{"a":"NaN"}]'),
        ("18446744073709551615u", "18446744073709551615"),
        ("{1: 'a', true: 'b', 2u: 'c', 'd': null}", '{"1":"a","true":"b","2":"c","d":null}'),
        ("type(1)", '"int"'),
        ("new.extra", '{"n":3,"half":0.5,"seq":[1,2],"null":null,"big":100000000000000000000}'),
        ("new.extra.big", "100000000000000000000"),
        ("new.vip ? new.nick : null", '"Kim"'),
        ("null", "null"),
        ("[new.at, new.raw]", '["2026-01-02T03:04:05.12Z","AP8="]'),
    ],
)
def test_every_value_is_ready_for_json(source: str, written: str) -> None:
    """By the forms the documentation names; orjson takes them as they are."""
    program = cel.compile(source, ENVIRONMENT, emit=True)
    bindings = {"new": FULL}
    assert orjson.dumps(program.evaluate(bindings)).decode() == written
    assert orjson.dumps(program.evaluate_slowly(bindings)).decode() == written


@pytest.mark.parametrize("source", ["new.rate", "(new.rate)", "new['rate']", "new.`rate`"])
def test_a_bare_column_reads_the_emitted_form(source: str) -> None:
    """However it is written, it is the only key read."""
    program = cel.compile(source, ENVIRONMENT, emit=True)
    assert program.columns == {("new", EXACT + "rate")}
    assert program.evaluate({"new": {EXACT + "rate": "1.2500"}}) == "1.2500"


def test_a_bare_column_is_exported_where_the_row_has_no_emitted_form() -> None:
    """A row that was made by hand."""
    assert value_of("new.at", emit=True) == "2026-01-02T03:04:05.12Z"
    assert value_of("new.raw", emit=True) == "AP8="
    assert value_of("old.age", old={"age": None}, emit=True) is None


def test_a_column_inside_an_expression_reads_the_computed_form() -> None:
    """Only what is just a column keeps its digits."""
    program = cel.compile("new.vip ? new.rate : null", ENVIRONMENT, emit=True)
    assert program.columns == {("new", "vip"), ("new", "rate")}


def test_a_whole_row_is_emitted_column_by_column() -> None:
    """In the emitted form where there is one, and without what the server did not send."""
    known = {"id": 1, EXACT + "id": 1, EXACT + "rate": "1.50", "at": FULL["at"]}
    row = PartialRow(known, unchanged=frozenset({"mail"}))
    assert value_of("new", row, emit=True) == {"id": 1, "rate": "1.50", "at": "2026-01-02T03:04:05.12Z"}
    assert value_of("new", None, emit=True) is None
    assert value_of("[new]", {"at": FULL["at"]}, emit=True) == [{"at": "2026-01-02T03:04:05.12Z"}]


def test_an_unknown_column_is_not_emitted_as_null() -> None:
    """It is an error, as everywhere."""
    for row in (PartialRow({}, unchanged=frozenset({"mail"})), PartialRow({}, unsent=frozenset({"mail"})), None):
        with pytest.raises(cel.CelEvaluationError):
            value_of("new.mail", row, emit=True)


def _fused(**sources: str) -> Any:
    outputs = {name: cel.compile(source, ENVIRONMENT, emit=True) for name, source in sources.items()}
    return cel.fuse(outputs, ("old", "new", "change", "ctx", "message"))


def test_fused_programs_give_one_dict_in_order() -> None:
    """Names may be anything; variables nobody reads may be None."""
    outputs = _fused(**{"z": "new.age", "a'\n\"": "new.nick + '!'", "class": "old.vip"})
    assert list(outputs(FULL, FULL, None, None, None).items()) == [("z", 30), ("a'\n\"", "Kim!"), ("class", True)]
    assert cel.fuse({}, ("new",))(None) == {}


def test_a_fused_failure_names_the_output_and_the_place() -> None:
    """The first that fails, with its own line and column; values are not shown."""
    outputs = _fused(good="new.age", bad="1 +\n  int(new.nick)", worse="int('x')")
    with pytest.raises(cel.CelEvaluationError) as caught:
        outputs(FULL, FULL, None, None, None)
    assert caught.value.output == "bad"
    assert (caught.value.line, caught.value.column) == (2, 3)
    assert str(caught.value) == "property 'bad', 2:3: the text is not a whole number"


def test_a_failure_that_is_absorbed_fails_nothing() -> None:
    """One output's slow form decides for all."""
    outputs = _fused(a="new.extra.none == 1 || true", b="new.age")
    assert outputs(FULL, FULL, None, None, None) == {"a": True, "b": 30}


def test_a_function_takes_its_parameters_in_the_order_given() -> None:
    """More than it needs, in any order."""
    program = cel.compile("new.age - old.age", cel.Environment(VARIABLES))
    assert program.function(("change", "old", "new"))(None, {"age": 1}, {"age": 3}) == 2


def test_no_value_of_a_row_stands_in_an_error() -> None:
    """Errors go to logs and dead letters; values must not."""
    row = {**FULL, "nick": "SECRET", "extra": {"k": "SECRET", "SECRET": 1}, "labels": ["SECRET"]}
    sources = [
        "int(new.nick)",
        "timestamp(new.nick)",
        "duration(new.nick)",
        "bool(new.nick)",
        "new.extra[new.nick].a",
        "new.extra[new.nick + 'x']",
        "''.matches('(' + new.nick)",
        "new.at.getHours(new.nick)",
        "(new.nick + '%q').format([new.nick])",
        "new.labels[new.extra.k]",
        "new.nick in new.extra.k",
        "-new.extra.k",
        "new.extra.k.nope",
        "math.greatest(new.extra.k)",
    ]
    for source in sources:
        with pytest.raises(cel.CelEvaluationError) as caught:
            value_of(source, row)
        assert "SECRET" not in caught.value.rendered


def test_seconds_of_a_duration_are_exact_to_the_microsecond() -> None:
    """A whole number where they are whole."""
    found = cel.compile("ctx", cel.Environment({"ctx": cel.value("duration")}), emit=True)
    assert found.evaluate({"ctx": timedelta(days=30, microseconds=1)}) == 2592000.000001
    assert repr(found.evaluate({"ctx": timedelta(seconds=3)})) == "3"
