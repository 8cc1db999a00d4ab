"""The specification's own conformance tests, those that need no protobuf messages (cel-spec 508bd98, Apache-2.0)."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest

from wal_tracker import cel
from wal_tracker.cel.values import BoolKey, TypeValue, UInt

_SUITE = Path(__file__).parents[3] / "shared" / "cases" / "cel_spec_core.jsonl"
_TO_REACH = 0.995


def _decoded(tagged: dict[str, Any]) -> Any:
    """A tagged value of the suite as ours."""
    ((kind, value),) = tagged.items()
    if kind == "uint":
        return UInt(value)
    if kind == "double":
        return float(value)
    if kind == "bytes":
        return base64.b64decode(value)
    if kind == "list":
        return [_decoded(item) for item in value]
    if kind == "map":
        return {_decoded(key): _decoded(item) for key, item in value}
    return value


def _agrees(tagged: dict[str, Any], value: Any) -> bool:
    """Whether our value is the tagged one, in type too."""
    ((kind, wanted),) = tagged.items()
    if kind == "type":
        return type(value) is TypeValue and value.name == wanted
    if kind == "null":
        return value is None
    if kind == "double":
        return type(value) is float and (value == float(wanted) or (math.isnan(value) and math.isnan(float(wanted))))
    if kind == "bytes":
        return type(value) is bytes and value == base64.b64decode(wanted)
    if kind == "list":
        return type(value) is list and len(value) == len(wanted) and all(map(_agrees, wanted, value))
    if kind == "map":
        entries = [(key.value if type(key) is BoolKey else key, item) for key, item in value.items()]
        return len(entries) == len(wanted) and all(
            any(_agrees(key, k) and _agrees(item, v) for k, v in entries) for key, item in wanted
        )
    return type(value) is {"int": int, "uint": UInt, "bool": bool, "string": str}[kind] and bool(value == wanted)


def _outcome(case: dict[str, Any]) -> str:
    """Empty where we agree; else what we gave."""
    variables = {name: cel.value(kind.partition("(")[0]) for name, kind in case["types"].items()}
    for name in case["bindings"]:
        variables.setdefault(name, cel.value("dyn"))
    env = cel.Environment(variables, strict=False, container=case.get("container", ""))
    bindings = {name: _decoded(value) for name, value in case["bindings"].items()}
    try:
        program = cel.compile(case["expr"], env)
        value = program.evaluate(bindings)
    except cel.CelError as error:
        return "" if "error" in case["expected"] else f"{type(error).__name__}: {error.message}"
    if "error" in case["expected"] or not _agrees(case["expected"], value):
        return repr(value)
    assert _agrees(case["expected"], program.evaluate_slowly(bindings)), "the slow form differs"
    return ""


@pytest.mark.spec
@pytest.mark.skipif(not _SUITE.exists(), reason="the conformance suite is not part of the repository")
def test_the_specifications_own_tests_pass(capsys: pytest.CaptureFixture[str]) -> None:
    """At least 99.5 %; what fails are moments finer than a microsecond, which PostgreSQL does not have."""
    cases = [json.loads(line) for line in _SUITE.read_text().splitlines()]
    failures = [(case, outcome) for case in cases if (outcome := _outcome(case))]
    with capsys.disabled():
        for case, outcome in failures:
            print(f"\n{case['name']}: {case['expr'][:100]}\n  wanted {case['expected']}, got {outcome[:100]}", end="")
    assert len(cases) == 1091
    assert len(failures) <= len(cases) * (1 - _TO_REACH)
