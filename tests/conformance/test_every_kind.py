"""
Every destination of ours is held by the contract suite, and has been killed between a request and its acknowledgement.

A vendor with a fake in `tests/support/vendors.py: FAKES` is held by both. Another one has a `DestinationContract` of
its own, and a test that kills us while it has what we do not know it has; both are marked ``of_kind("its kind")``.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.vendors import KINDS
from wal_tracker.destinations import registry
from wal_tracker.testing import DestinationContract

TESTS = Path(__file__).resolve().parents[1]
OURS = {
    point.name
    for point in entry_points(group=registry.GROUP)
    if point.value.startswith("wal_tracker_destinations.")
}
# `job.kill9()`, `writer.kill()`, or a failpoint's.
KILLS = re.compile(r"\.kill9?\(|=kill")


def modules() -> Iterator[ModuleType]:
    """The test modules in which something is marked."""
    for path in sorted(TESTS.rglob("test_*.py")):
        if "mark.of_kind(" in path.read_text() and path != Path(__file__).resolve():
            yield importlib.import_module(".".join(path.relative_to(TESTS.parent).with_suffix("").parts))


def kinds_of(test: Any) -> set[str]:
    """What it is marked with itself."""
    marks = vars(test).get("pytestmark", [])
    return {kind for mark in marks if mark.name == "of_kind" for kind in mark.args}


@lru_cache(maxsize=1)
def held() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """By kind, the contracts and the kills there are."""
    contracts: dict[str, list[str]] = defaultdict(list)
    kills: dict[str, list[str]] = defaultdict(list)
    for module in modules():
        for name, test in vars(module).items():
            if inspect.isclass(test) and issubclass(test, DestinationContract):
                into = contracts
            elif inspect.isfunction(test) and name.startswith("test_") and KILLS.search(inspect.getsource(test)):
                into = kills
            else:
                continue
            for kind in kinds_of(test):
                into[kind].append(f"{module.__name__}.{name}")
    return contracts, kills


def lacking(kinds: set[str]) -> dict[str, list[str]]:
    """By kind, what nobody has written; empty where nothing lacks."""
    contracts, kills = held()
    found = {
        kind: [what for what, there in (("a contract", contracts), ("a kill -9", kills)) if not there.get(kind)]
        for kind in kinds
    }
    return {kind: what for kind, what in found.items() if what}


def test_every_kind_of_ours_is_held_by_the_contract_and_has_been_killed() -> None:
    """Whoever adds an entry point adds both."""
    assert len(OURS) >= 19
    assert lacking(OURS) == {}


def test_a_kind_that_nobody_holds_is_found() -> None:
    """Else the test above could not fail."""
    assert lacking({"carrier_pigeon", "file"}) == {"carrier_pigeon": ["a contract", "a kill -9"]}


def test_what_is_held_is_there() -> None:
    """A mark or a fake that is left over, or misspelt, holds nothing."""
    contracts, kills = held()

    assert contracts.keys() | kills.keys() | KINDS == OURS


@pytest.mark.parametrize("kind", sorted(OURS - KINDS))
def test_a_contract_of_its_own_is_about_its_kind(kind: str) -> None:
    """It builds that destination: by its name, or by its class."""
    contracts, _ = held()
    (name,) = contracts[kind]
    module, _, contract = name.rpartition(".")
    text = inspect.getsource(getattr(importlib.import_module(module), contract).build)
    made = re.search(r'registry\.build\("(\w+)"', text)

    assert made[1] == kind if made else f"-> {registry.load(kind).__name__}:" in text  # type: ignore[attr-defined]
