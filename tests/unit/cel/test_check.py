"""Names, arity and types are checked before anything runs, and each mistake says what to write."""

from __future__ import annotations

import pytest

from tests.unit.cel.rows import ENVIRONMENT, VARIABLES, refusal, value_of
from wal_tracker import cel


@pytest.mark.parametrize(
    ("source", "column", "message", "hint"),
    [
        ("new.emial", 5, "unknown column 'emial'", ""),
        ("new.mial", 5, "did you mean 'mail'", ""),
        ("has(new.typo)", 9, "unknown column 'typo'", ""),
        ("new['typo']", 5, "unknown column 'typo'", ""),
        ("signup", 1, "unknown name 'signup'", "\"'signup'\""),
        ("mail", 1, "unknown name 'mail'", "new.mail"),
        ("members.mail", 1, "unknown name 'members'", "new.mail"),
        ("nev.mail", 1, "unknown name 'nev'", "new.mail"),
        ("change.lsm", 8, "no field 'lsm'", "commit_time"),
        ("events.x", 1, "unknown name 'events'", "`cond`"),
        ("now()", 1, "no now()", "change.commit_time"),
        ("hash(new.mail)", 1, "needs a key", "`hash_key`"),
        ("new.mail.startswith('a')", 10, "did you mean 'startsWith'", ""),
        ("startsWith(new.mail, 'a')", 1, "unknown function", "value.startsWith(…)"),
        ("new.age.string()", 9, "unknown function", "string(value)"),
        ("math.gratest(1, 2)", 6, "did you mean 'math.greatest'", ""),
        ("size()", 1, "takes 1 argument", ""),
        ("new.mail.substring()", 10, "takes 1 or 2 argument", ""),
        ("coalesce()", 1, "takes at least 1", ""),
        ("unchanged('x')", 1, "takes a column", ""),
        ("has(1)", 1, "has() takes one field", ""),
        ("new.labels.all(1, true)", 16, "first argument names the variable", ""),
        ("new.labels.map(x)", 12, "takes a variable and an expression", ""),
    ],
)
def test_a_wrong_name_says_where_and_what_is_meant(source: str, column: int, message: str, hint: str) -> None:
    """The place is the name's own; a hint shows the spelling that works."""
    error = refusal(source)
    assert isinstance(error, cel.CelCheckError)
    assert (error.line, error.column) == (1, column)
    assert message in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        ("1 == 1.0", "int == double", "1.0"),
        ("new.age * 1.5", "int * double", "double(new.age)"),
        ("new.price > 5", "double > int", "5.0"),
        ("new.mail == 5", "string == int", "string(…)"),
        ("new.mail + new.age", "string + int", "string(…)"),
        ("new.at > '2026-01-01'", "timestamp > string", "timestamp("),
        ("new.age + null", "int + null", "coalesce"),
        ("new.age ? 1 : 2", "takes a bool", ""),
        ("new.mail && true", "takes a bool", ""),
        ("!new.age", "takes a bool", ""),
        ("-new.mail", "takes a number", ""),
        ("new.vip ? 1 : 'no'", "int and string", "dyn(…)"),
        ("new.mail.foo", "string has no field", ""),
        ("new.mail[0]", "cannot be indexed", "charAt"),
        ("new.labels['a']", "indexed by int", ""),
        ("'a' in new.mail", "list or a map", "contains"),
        ("new.age in ['a', 'b']", "never true", ""),
        ("size(new.age)", "size() takes", ""),
        ("new.mail.matches('(')", "not RE2", ""),
        ("new.mail.matches('(?=a)')", "not RE2", ""),
        ("timestamp('yesterday')", "RFC 3339", ""),
        ("duration('1 hour')", "not a duration", ""),
        ("{'a': 1, 'a': 2}", "same key twice", ""),
        ("{1.5: 1}", "key cannot be double", ""),
        ("int(new.vip)", "int() takes", ""),
        ("math.ceil(new.age)", "takes double", "double(…)"),
        ("new.age.all(x, true)", "list or a map", ""),
        ("new.labels.filter(x, 1)", "takes a condition", ""),
        ("coalesce(new.age, 'none')", "int and string", ""),
    ],
)
def test_types_that_are_known_beforehand_have_to_fit(source: str, message: str, hint: str) -> None:
    """What could never have a value is refused when the configuration is read."""
    error = refusal(source)
    assert isinstance(error, cel.CelCheckError)
    assert message in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    "source",
    [
        "new.age == null",
        "null != new.at",
        "new.vip ? new.age : null",
        "new.extra.n * 1.5",
        "new.rate * 2",
        "new.rate > 5",
        "new.extra == 5",
        "new.extra.seq[0] + 1",
        "dyn(1) == 1.0",
        "[1, 'a', null]",
        "new == null ? 'gone' : 'there'",
        "new.at - change.commit_time > duration('1h')",
        "new.labels.exists(l, l == 'x') && new.mail.endsWith('org')",
        "type(new.age) == int",
        "ctx.user == 5",
    ],
)
def test_rules_as_people_write_them_are_accepted(source: str) -> None:
    """Null goes with every type; values out of JSON and numeric columns mix."""
    cel.compile(source, ENVIRONMENT)


_COND = cel.Environment({**VARIABLES, "events": cel.events(["joined", "left", "a-b"])})


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("events.joined", "joined"),
        ("events['a-b']", "a-b"),
        ("'joined'", "joined"),
        ("null", None),
        ("new.vip ? events.joined : null", "joined"),
        ("!new.vip ? events.joined : new.age == 30 ? events.left : null", "left"),
        ("new.vip ? events.joined : 'other'", "joined"),
        ("new.nick", "Kim"),
        ("string(new.extra.n)", "3"),
    ],
)
def test_a_cond_yields_an_event_text_or_null(source: str, value: object) -> None:
    """An event is its name; any text will do, so that a name can be computed."""
    assert value_of(source, env=_COND, result="event") == value


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("events.joind", "unknown event 'joind'; did you mean 'joined'"),
        ("events", "events is not a value"),
        ("events.joined.value", "not a value"),
        ("dyn(events.joined)", "not a value"),
        ("events.joined == 'joined'", "not a value"),
        ("[events.joined][0]", "not a value"),
        ("events[new.nick]", "literal name"),
        ("new.extra.n", "cond must yield an event, text or null, and this is json"),
        ("dyn('x')", "this is dyn"),
        ("new.vip", "this is bool"),
        ("new.vip ? events.joined : new.extra.n", "event and json"),
        ("new.vip ? events.joined : 1", "event and int"),
    ],
)
def test_an_event_is_nothing_but_what_a_cond_yields(source: str, message: str) -> None:
    """It cannot be computed with, and nothing of an unknown type stands in for it."""
    assert message in refusal(source, env=_COND, result="event").message


@pytest.mark.parametrize(
    ("source", "result", "message"),
    [
        ("new.age", "bool", "must be a bool"),
        ("null", "bool", "must be a bool"),
        ("new.age", "string", "must be text"),
        ("new.nick", "timestamp", "must be a timestamp"),
        ("'x'", "timestamp", "must be a timestamp"),
    ],
)
def test_a_result_of_the_wrong_type_is_refused(source: str, result: cel.Result, message: str) -> None:
    """Where the configuration needs one kind of value."""
    assert message in refusal(source, result=result).message


def test_a_result_that_turns_out_wrong_fails_the_change() -> None:
    """Dynamic values and NULL bools are known only then."""
    assert value_of("new.vip", result="bool") is True
    assert value_of("new.extra.missing == 1 || new.vip", result="bool") is True
    assert value_of("new.at", result="timestamp") is not None
    for source, result in (("new.extra.n", "bool"), ("new.extra.n", "string"), ("new.extra.n", "timestamp")):
        with pytest.raises(cel.CelEvaluationError, match="expected"):
            value_of(source, result=result)  # type: ignore[arg-type]
    with pytest.raises(cel.CelEvaluationError, match="expected bool, got null"):
        value_of("new.vip", new={"vip": None}, result="bool")
    with pytest.raises(cel.CelEvaluationError, match="expected a timestamp"):
        value_of("new.at", new={"at": "infinity"}, result="timestamp")


def test_unknown_columns_pass_where_no_table_is_known() -> None:
    """`validate` without a database checks all but columns."""
    env = cel.Environment({"new": cel.row(None)})
    assert cel.compile("new.anything + new.other", env).columns == {("new", "anything"), ("new", "other")}


def test_a_loop_variable_hides_a_variable_and_only_inside() -> None:
    """The innermost name counts."""
    assert value_of("new.labels.map(new, new + '!')") == ["x!", "y!"]
    assert value_of("[1].map(x, [2].map(x, x))") == [[2]]
    assert value_of("cel.bind(x, new.age, x + [1].map(x, x)[0] + x)") == 61
    assert "unknown name 'x'" in refusal("[1].map(x, x)[0] + x").message


def test_comprehensions_nest_three_deep_and_no_deeper() -> None:
    """Loops over rows of data multiply; literal lists that are short do not count."""
    three = "new.labels.map(a, new.labels.map(b, new.labels.map(c, {}))) != []"
    cel.compile(three.format("a + b + c"), ENVIRONMENT)
    assert "nest at most 3" in refusal(three.format("new.labels.all(d, true)")).message
    cel.compile(three.format("['x', 'y'].exists(d, d == a)"), ENVIRONMENT)
