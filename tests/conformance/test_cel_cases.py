"""Small expressions that engines get wrong on rows, with the one value each must give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wal_tracker import cel
from wal_tracker.cel.values import UInt

_CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("cel.json").read_text())["cases"]
_PYTHON_TYPES = {"int": int, "uint": UInt, "double": float, "bool": bool, "string": str, "list": list, "map": dict}


def _environment(case: dict[str, Any]) -> cel.Environment:
    return cel.Environment({name: cel.row(None) for name in case["bindings"]})


@pytest.mark.parametrize("case", _CASES, ids=lambda case: f"{case['id']}: {case['note']}")
def test_the_expression_gives_its_one_value(case: dict[str, Any]) -> None:
    """Value and type are the case's; where it wants an error, checking or evaluation refuses."""
    kind, wanted = next(iter(case["expected"].items()))
    if kind == "error":
        with pytest.raises(cel.CelError):
            cel.compile(case["expr"], _environment(case)).evaluate(case["bindings"])
        return
    value = cel.compile(case["expr"], _environment(case)).evaluate(case["bindings"])
    assert type(value) is _PYTHON_TYPES[kind]
    assert value == wanted
