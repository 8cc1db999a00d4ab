"""
Random expressions over random rows: the fast form, the slow form and the fused form agree, and so does Google's CEL.

Where Google's implementation and ours differ on purpose, the generator writes the two texts differently, and says why
(`Text`). So nothing that differs is excused afterwards.
"""

from __future__ import annotations

import datetime
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from wal_tracker import cel
from wal_tracker.cel.values import BoolKey, TypeValue
from wal_tracker.model import EXACT, PartialRow
from wal_tracker.pgtypes import CelType

_SEEDS = (11, 12, 13)
_SECONDS = 1.2
"""For each seed."""
_LEAST = 200
"""Expressions a seed has to get through, on a slow machine too."""

_UTC = datetime.timezone.utc
_COLUMNS: dict[str, CelType] = {
    "id": "int",
    "n": "int",
    "email": "string",
    "f": "double",
    "b": "bool",
    "j": "dyn",
    "l": "list",
    "raw": "bytes",
    "missing": "dyn",
    "ts": "timestamp",
    "td": "duration",
}
_VALUES: dict[str, list[Any]] = {
    "id": [None, 0, 1, -1, 2, 2**63 - 1, -(2**63), 2**53 + 1],
    "n": [None, 0, 1, 5],
    "email": [None, "", "a", "abc", "é", "1", "true", "a,b,,c"],
    "f": [None, 0.0, -0.0, 1.0, 1.5, -2.5, 1e19, 9007199254740992.0, float("nan"), float("inf")],
    "b": [None, True, False],
    "j": [None, {"a": 1}, {"a": {"b": [1, 2]}}, {}, "a", 1, True, 1.0, [1, None]],
    "l": [None, [1, 2], ["a", "b"], [True, 1.0], []],
    "raw": [None, b"", b"a", b"\xff"],
    "ts": [
        None,
        datetime.datetime(2026, 1, 2, 3, 4, 5, 678, _UTC),
        datetime.datetime(1969, 12, 31, 23, 59, 59, 1, _UTC),
        datetime.datetime(9999, 12, 30, tzinfo=_UTC),
        datetime.datetime(2024, 2, 29, 23, 59, tzinfo=_UTC),
    ],
    "td": [
        None,
        datetime.timedelta(0),
        datetime.timedelta(hours=-1, microseconds=1),
        datetime.timedelta(days=40),
        datetime.timedelta(seconds=1, milliseconds=500),
    ],
}
_MOMENTS = ("ts", "td")
_LITERALS = (
    "null true false (0) (1) (-1) (2) (5) (9223372036854775807) (-9223372036854775808) (1.0) (0.0) (-2.5) (1u) (0u) "
    "'' 'a' 'abc' 'é' b'a' [1,2] ['a','b',''] [] [1,true,1.0] {'a':1} {1:2} {true:1} dyn(1) dyn(null) "
    "timestamp('2026-01-02T03:04:05.000678Z') timestamp('9999-12-30T00:00:00Z') "
    "duration('1h') duration('-1.5s') duration('960h')"
)


class Text(NamedTuple):
    """An expression as we are given it, and as Google's is."""

    ours: str
    google: str


def _same(text: str) -> Text:
    return Text(text, text)


class _Expressions:
    """Random expressions."""

    def __init__(self, choose: random.Random) -> None:
        self._random = choose

    def any(self, depth: int) -> Text:
        """An expression of some type, most of them of a wrong one."""
        if depth <= 0:
            return self._random.choice([self._literal, self._column, self._column])()
        return self._random.choice(self._compounds())(depth - 1)

    def _compounds(self) -> list[Callable[[int], Text]]:
        return [
            *[self._relation] * 4,
            *[self._logical] * 3,
            *[self._arithmetic] * 3,
            *[self._conditional] * 2,
            self._contained,
            self._test,
            self._conversion,
            self._unary,
            self._loop,
            self._has,
            self._index,
            self._part,
            self._extension,
            self._bind,
            self._same_column,
        ]

    def _of(self, pattern: str, *parts: Text) -> Text:
        return Text(pattern.format(*(p.ours for p in parts)), pattern.format(*(p.google for p in parts)))

    def _literal(self) -> Text:
        # Numbers in brackets: cel-python's grammar takes the dot after 1 for a fraction's, before a method's name too.
        return _same(self._random.choice(_LITERALS.split(" ")))

    def _column(self) -> Text:
        row, name = self._random.choice(["new", "old"]), self._random.choice(list(_COLUMNS))
        if name in _MOMENTS:
            # Google's refuses moments inside a map, and null where it was told of a moment.
            return Text(f"{row}.{name}", f"({row}_{name}_null ? dyn(null) : dyn({row}_{name}))")
        return _same(f"{row}.{name}")

    def _relation(self, depth: int) -> Text:
        operator = self._random.choice(["==", "!=", "<", "<=", ">", ">="])
        return self._of(f"({{}} {operator} {{}})", self.any(depth), self.any(depth))

    def _logical(self, depth: int) -> Text:
        operator = self._random.choice(["&&", "||"])
        return self._of(f"({{}} {operator} {{}})", self.any(depth), self.any(depth))

    def _arithmetic(self, depth: int) -> Text:
        operator = self._random.choice(["+", "-", "*", "/", "%"])
        return self._of(f"({{}} {operator} {{}})", self.any(depth), self.any(depth))

    def _conditional(self, depth: int) -> Text:
        return self._of("({} ? {} : {})", self.any(depth), self.any(depth), self.any(depth))

    def _contained(self, depth: int) -> Text:
        return self._of("({} in {})", self.any(depth), self.any(depth))

    def _test(self, depth: int) -> Text:
        method = self._random.choice(["startsWith", "endsWith", "contains", "matches"])
        return self._of(f"{{}}.{method}({{}})", self.any(depth), self.any(depth))

    def _conversion(self, depth: int) -> Text:
        argument = self.any(depth)
        function = self._random.choice(
            ["size", "string", "int", "double", "uint", "type", "bool", "bytes", "timestamp"]
        )
        if function == "int":
            # Google's converts a bool to an int; the specification has no such conversion.
            google = f"int(type({argument.google}) == bool ? dyn([]) : dyn({argument.google}))"
            return Text(f"int({argument.ours})", google)
        if function == "string":
            # Google's text of a double is not the shortest that reads back, and fractions of a second have 3, 6 or 9
            # digits there; ours have as many as are needed.
            others = "[double, google.protobuf.Duration, google.protobuf.Timestamp]"
            return self._of(f"string(type({{0}}) in {others} ? dyn('') : dyn({{0}}))", argument)
        return self._of(f"{function}({{}})", argument)

    def _unary(self, depth: int) -> Text:
        return self._of(self._random.choice(["!({})", "-({})"]), self.any(depth))

    def _loop(self, depth: int) -> Text:
        method = self._random.choice(["all", "exists", "exists_one", "map", "filter"])
        target, body = self.any(depth), self.any(depth)
        inside = Text(body.ours.replace("new.id", "x"), body.google.replace("new.id", "x"))
        return self._of(f"{{}}.{method}(x, {{}})", target, inside)

    def _has(self, depth: int) -> Text:
        row, name = self._random.choice(["new", "old"]), self._random.choice(["f", "email", "b", "j", "missing"])
        if self._random.random() < 0.5:
            return _same(f"has({row}.{name}.a)")
        # A column that is NULL is there for Google's, which knows maps only; for us it has no value.
        return Text(f"has({row}.{name})", f"(has({row}.{name}) ? {row}.{name} != null : false)")

    def _index(self, depth: int) -> Text:
        return self._of("{}[{}]", self.any(depth), self.any(depth))

    def _part(self, depth: int) -> Text:
        method = self._random.choice(["getFullYear", "getMonth", "getDayOfYear", "getDayOfWeek", "getHours"])
        zone = self._random.choice(["", "", "'+02:30'", "'America/New_York'", "'Nowhere'"])
        return self._of(f"{{}}.{method}({zone})", self.any(depth))

    def _extension(self, depth: int) -> Text:
        pattern = self._random.choice(
            [
                "{}.lowerAscii()",
                "{}.upperAscii()",
                "{}.trim()",
                "{}.split(',')",
                "{}.split({})",
                "{}.replace('a', {})",
                "{}.substring({})",
                "{}.substring({}, {})",
                "{}.charAt({})",
                "{}.indexOf({})",
                "{}.lastIndexOf({})",
                "{}.join()",
                "{}.join('-')",
                "math.greatest({}, {})",
                "math.least({}, {}, {})",
                "math.abs({})",
                "math.ceil(double({}))",
                "math.round(double({}))",
            ]
        )
        return self._of(pattern, self.any(depth), self.any(depth), self.any(depth))

    def _bind(self, depth: int) -> Text:
        body = self.any(depth)
        inside = Text(body.ours.replace("new.n", "y"), body.google.replace("new.n", "y"))
        return self._of("cel.bind(y, {}, {})", self.any(depth), inside)

    def _same_column(self, depth: int) -> Text:
        name = self._random.choice([name for name in _COLUMNS if name not in _MOMENTS])
        return _same(f"(old.{name} {self._random.choice(['==', '!='])} new.{name})")


def _row(choose: random.Random) -> dict[str, Any]:
    return {name: choose.choice(values) for name, values in _VALUES.items()}


def _canonical(value: Any) -> Any:
    """A value with its type, so that 1, 1.0 and true differ, and NaN equals itself."""
    if type(value) is TypeValue:
        return ("type", value.name)
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, int):
        return ("int", int(value))
    if isinstance(value, float):
        return ("double", repr(value))
    if isinstance(value, (bytes, bytearray)):
        return ("bytes", bytes(value))
    if isinstance(value, list):
        return ("list", [_canonical(item) for item in value])
    if isinstance(value, dict):
        items = [(_canonical(k.value if type(k) is BoolKey else k), _canonical(v)) for k, v in value.items()]
        return ("map", sorted(items, key=repr))
    if isinstance(value, datetime.datetime):
        return ("timestamp", value.astimezone(_UTC))
    return (type(value).__name__, value)


_ERROR = "error"


def _outcome(evaluate: Callable[[], Any]) -> Any:
    try:
        return _canonical(evaluate())
    except cel.CelEvaluationError as error:
        assert "unforeseen" not in error.reason, error.__cause__
        return _ERROR


class _Google:
    """cel-expr-python, asked the same question."""

    def __init__(self) -> None:
        google = pytest.importorskip("cel_expr_python.cel", reason="cel-expr-python has no wheel for this Python")
        from cel_expr_python.ext import ext_bindings, ext_math, ext_strings  # type: ignore[import-untyped]

        kinds = google.Type
        moments = {"ts": kinds.TIMESTAMP, "td": kinds.DURATION}
        variables = {row: kinds.Map(kinds.STRING, kinds.DYN) for row in ("new", "old")}
        for row in ("new", "old"):
            for name, kind in moments.items():
                variables[f"{row}_{name}"] = kind
                variables[f"{row}_{name}_null"] = kinds.BOOL
        extensions = [ext_bindings.ExtBindings(), ext_math.ExtMath(), ext_strings.ExtStrings()]
        self._kinds, self._value = kinds, google.Value
        self._environment = google.NewEnv(variables=variables, extensions=extensions)

    def compiled(self, text: str) -> Any:
        """The program, or None where its checker refuses."""
        try:
            return self._environment.compile(text)
        except RuntimeError:
            return None

    def outcome(self, program: Any, rows: dict[str, dict[str, Any]]) -> Any:
        """The canonical value."""
        data: dict[str, Any] = {}
        some: dict[str, Any] = {"ts": datetime.datetime(2026, 1, 1, tzinfo=_UTC), "td": datetime.timedelta(0)}
        for row, values in rows.items():
            data[row] = {name: value for name, value in values.items() if name not in _MOMENTS}
            for name in _MOMENTS:
                data[f"{row}_{name}"] = some[name] if values[name] is None else values[name]
                data[f"{row}_{name}_null"] = values[name] is None
        try:
            return _canonical(self._plain(program.eval(data=data)))
        except RuntimeError:
            return _ERROR

    def _plain(self, value: Any) -> Any:
        if isinstance(value, self._value):
            if value.type() == self._kinds.ERROR:
                raise RuntimeError(str(value))
            if value.type() == self._kinds.TYPE:
                return TypeValue(str(value).partition("<")[0])
            return self._plain(value.value())
        if isinstance(value, list):
            return [self._plain(item) for item in value]
        if isinstance(value, dict):
            return {
                (BoolKey(k) if isinstance(k, bool) else k): self._plain(v)
                for k, v in ((self._plain(k), v) for k, v in value.items())
            }
        return value


_LAX = cel.Environment({"new": cel.row(_COLUMNS), "old": cel.row(_COLUMNS)}, strict=False)
_STRICT = cel.Environment({"new": cel.row(_COLUMNS), "old": cel.row(_COLUMNS)})


@pytest.mark.parametrize("seed", _SEEDS)
def test_all_forms_agree_with_one_another_and_with_googles_cel(seed: int) -> None:
    """Every expression, over typed columns that may be NULL: one value from the four of them, or an error from all."""
    google = _Google()
    choose = random.Random(seed)
    expressions = _Expressions(choose)
    until = time.monotonic() + _SECONDS
    done = values = 0
    while done < _LEAST or time.monotonic() < until:
        text = expressions.any(choose.randint(1, 3))
        theirs = google.compiled(text.google)
        if theirs is None:
            continue
        done += 1
        ours = cel.compile(text.ours, _LAX)
        fused = cel.fuse({"first": ours, "second": ours}, ("old", "new"))
        try:
            strict: cel.Program | None = cel.compile(text.ours, _STRICT)
        except cel.CelCheckError:
            strict = None
        for _ in range(3):
            rows = {"new": _row(choose), "old": _row(choose)}
            wanted = google.outcome(theirs, rows)
            values += wanted != _ERROR
            shown = f"{text.ours}\n{ {row: {k: v for k, v in r.items() if k in text.ours} for row, r in rows.items()} }"
            assert _outcome(lambda: ours.evaluate(rows)) == wanted, shown  # noqa: B023
            assert _outcome(lambda: ours.evaluate_slowly(rows)) == wanted, shown  # noqa: B023
            assert _outcome(lambda: fused(rows["old"], rows["new"])["second"]) == wanted, shown  # noqa: B023
            if strict is not None:
                assert _outcome(lambda: strict.evaluate(rows)) == wanted, shown  # noqa: B023
    assert values > done // 10, "too many of the expressions only fail"


class _RowExpressions(_Expressions):
    """Random expressions with what Google's has not: unknown columns, numbers that mix, functions of ours."""

    def _compounds(self) -> list[Callable[[int], Text]]:
        return [*super()._compounds(), *[self._unchanged] * 3, *[self._coalesce] * 3, self._hash, self._whole]

    def _unchanged(self, depth: int) -> Text:
        row, name = self._random.choice(["new", "old"]), self._random.choice(["email", "j", "l", "ts"])
        return _same(f"unchanged({row}.{name})")

    def _coalesce(self, depth: int) -> Text:
        return self._of("coalesce({}, {})", self.any(depth), self.any(depth))

    def _hash(self, depth: int) -> Text:
        return self._of("hash({})", self.any(depth))

    def _whole(self, depth: int) -> Text:
        return _same(self._random.choice(["new", "old == null", "new == old", "size(new)", "new['id']", "'id' in old"]))


def _partial_row(choose: random.Random) -> dict[str, Any] | None:
    """A row as decoders make them: some columns unknown, some in the emitted form too; or none at all."""
    if choose.random() < 0.1:
        return None
    known, unchanged, unsent = _row(choose), set(), set()
    for name in list(known):
        fate = choose.random()
        if fate < 0.1:
            unchanged.add(name)
            del known[name]
        elif fate < 0.2:
            unsent.add(name)
            del known[name]
        elif fate < 0.5:
            known[EXACT + name] = f"exact {name}"
    return PartialRow(known, frozenset(unchanged), frozenset(unsent))


@pytest.mark.parametrize("seed", _SEEDS)
@pytest.mark.parametrize("emit", [False, True])
def test_the_fast_form_is_right_whenever_it_returns(seed: int, emit: bool) -> None:
    """Over rows with unknown columns, and columns whose numbers mix: fast, slow and fused are one."""
    choose = random.Random(seed)
    expressions = _RowExpressions(choose)
    columns: dict[str, CelType] = {**_COLUMNS, "j": "json", "f": "numeric"}
    env = cel.Environment({row: cel.row(columns) for row in ("new", "old")}, strict=False, hash_key=b"k")
    for _ in range(2 * _LEAST):
        text = expressions.any(choose.randint(1, 3)).ours
        program = cel.compile(text, env, emit=emit)
        fused = cel.fuse({"first": program}, ("old", "new"))
        for _ in range(3):
            rows = {"new": _partial_row(choose), "old": _partial_row(choose)}
            wanted = _outcome(lambda: program.evaluate_slowly(rows))  # noqa: B023
            assert _outcome(lambda: program.evaluate(rows)) == wanted, (text, rows)  # noqa: B023
            assert _outcome(lambda: fused(rows["old"], rows["new"])["first"]) == wanted, (text, rows)  # noqa: B023
