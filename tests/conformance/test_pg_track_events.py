"""
What pg_track_events does with 147 rules and changes, and what we do: `want` of each case decides.

The cases go the way a person would: a YAML file, a schema file, changes as JSON lines, `eval`. Where `want` is a
sentence, DECIDED says what it came to.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import commands

CASES = {
    case["id"]: case
    for case in map(json.loads, (Path(__file__).parent / "pg_track_events.jsonl").read_text().splitlines())
}

STANDARD_TABLES = {
    "members": {
        "id": "integer",
        "mail": "text",
        "nick": "text",
        "tier": "character varying(20)",
        "years": "integer",
        "vip": "boolean",
        "rate": "numeric(10,2)",
        "extra": "jsonb",
        "labels": "text[]",
        "joined_at": "timestamp with time zone",
        "seen_at": "timestamp without time zone",
        "owner_id": "integer",
    },
    "tickets": {
        "id": "integer",
        "org_id": "integer",
        "who": "integer",
        "state": "text",
        "state_v": "character varying(20)",
    },
}

NOBODY: Any = None


@dataclass(frozen=True)
class Made:
    """An event: its properties, and whom it is about."""

    properties: dict[str, Any]
    distinct_id: str | None = NOBODY
    name: str | None = None
    """None: as upstream named it."""
    says: str = ""
    """Must stand on stderr."""


@dataclass(frozen=True)
class Refused:
    """Exit 2; the message holds `says`."""

    says: str = ""


@dataclass(frozen=True)
class RowError:
    """An error line on stderr, exit 1; the reason holds `says`."""

    says: str = ""


@dataclass(frozen=True)
class Accepted:
    """The configuration is taken; the case has no change."""


def p(value: Any, says: str = "") -> Made:
    """An event with the one property `p`."""
    return Made({"p": value}, says=says)


# What every sentence under `want` came to, and why where the sentence leaves a choice.
DECIDED: dict[str, Any] = {
    "A09": Refused("'signup'"),  # the hint shows the word in quotes
    "B13": Made({"org": 7}, name="approved"),
    "B17": Made({"org": 7}, name="approved"),
    # The block `a-b` is taken; `events.a` names no block, and warns as in the README's example.
    "B22": Made({}, name="a", says="'a'"),
    "B23": Made({"x": 5}, name="approved"),
    "B25": Refused("event"),
    "C01": p(None),
    "C02": p(None),
    "C04": p(None),
    "C05": p(None),
    "C10": p(False),
    "C16": p(False),
    "C17": p(None),
    "C21": p(True),
    "C24": p(True),
    "C25": p(True),
    "C30": RowError("zzz"),  # a typo is told; has(new.extra.zzz) gives the null
    "C31": RowError("null"),
    "C32": RowError("null"),
    "C33": RowError("null"),
    "D05": p(19.9),
    "D29": p(7),
    "D32": p("1010"),
    "D35": p("NaN"),
    "D36": p("-Infinity"),
    "D58": RowError("overflow"),
    "E05": p(True),
    "E24": p("2025-05-08T11:14:15.123456Z"),
    "E26": p(4),
    "E28": p(645255.123456),  # seconds
    "E30": p(5400),
    "E40": p(False),
    "E46": Refused(),
    "E47": p(CASES["E47"]["change"]["new"]),
    "F02": p("kim@ex.org"),  # the table's name is the row: `new`, and `old` of a delete
    "F05": p("kim@ex.org"),
    "F09": p(["kim", "ex.org"]),
    "F11": p(2),
    "F12": p(2),
    "F15": Refused(),
    "F17": Refused(),  # there is no column "in"; one there is, is read as new['in'] or new.`in`
    "G09": Made({"id": 12345678901}),  # `distinct_id:` of the rule is the mapping
    "G13": Made({"id": 12345678901, "distinct_id": None}),
    "G16": Made({"distinct_id": 1}, "1"),
    "G17": Made({"distinct_id": ""}),
    "H05": Made({"id": 1}, says="zzz"),
    "H07": Made({"id": 1}),
    "I02": Accepted(),
    "I06": Refused("ghost"),
    "I08": Refused("bogus"),
    "J06": Made({"id": 1}),
    "J07": Refused("mixpanel"),
    "J10": Made({"id": 1}),
    "J12": Refused("bigquery"),
    "J16": Refused("amplitude"),
    # cel.md: no now(); a change that is read again has to make the same event. change.commit_time, change.lsn and
    # change.xid are what is offered.
    "F14": Refused("change.commit_time"),
    # A name with a dash is a table's name like another; it is just not among the case's tables.
    "I03": Refused("there is no table my-t"),
}


def expected(case: dict[str, Any]) -> Any:
    """What we are to do with a case."""
    if case["id"] in DECIDED:
        return DECIDED[case["id"]]
    upstream = case["upstream"]
    assert case["want"] == "same" or case["want"].startswith("same"), (
        f"{case['id']}: decide what {case['want']!r} means"
    )
    if upstream["status"] == "event":
        return Made(upstream["properties"], upstream["distinct_id"], upstream["name"])
    return {"config_error": Refused(), "row_error": RowError(), "skipped": None, "config_ok": Accepted()}[
        upstream["status"]
    ]


def write(directory: Path, case: dict[str, Any]) -> list[str]:
    """The files of a case; the arguments of `eval`."""
    tables = STANDARD_TABLES if case["tables"] == "std" else case["tables"]
    (directory / "config.yaml").write_text(yaml.safe_dump(case["config"], sort_keys=False))
    (directory / "schema.json").write_text(json.dumps(tables))
    change = case.get("change")
    (directory / "changes.jsonl").write_text(json.dumps(change) + "\n" if change else "")
    return [
        "--config",
        str(directory / "config.yaml"),
        "eval",
        "--changes",
        str(directory / "changes.jsonl"),
        "--schema",
        str(directory / "schema.json"),
    ]


def same(ours: Any, theirs: Any) -> bool:
    """Numbers by value, timestamps by instant, everything else exactly."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, bool) or isinstance(theirs, bool):
        return ours is theirs
    if isinstance(ours, (int, float)) and isinstance(theirs, (int, float)):
        return ours == theirs
    if isinstance(ours, str) and isinstance(theirs, str) and ours != theirs:
        moment = instant(ours)
        return moment is not None and moment == instant(theirs)
    return type(ours) is type(theirs) and ours == theirs


def instant(text: str) -> datetime | None:
    """The moment a text denotes; without an offset it is UTC."""
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def judge(want: Any, code: int, stdout: str, stderr: str) -> None:
    """Hold what a command did against what it was to do."""
    events = [json.loads(line) for line in stdout.splitlines()]
    if isinstance(want, Refused):
        assert (code, events) == (2, []), stderr
        assert want.says in stderr
        assert "config.yaml" in stderr or "track" in stderr or "destinations" in stderr, "names no place"
    elif isinstance(want, RowError):
        (error,) = [line for line in map(json.loads, stderr.splitlines()) if "error" in line]
        assert (code, events) == (1, [])
        assert error["rule"]
        assert error["line"] == 1
        assert want.says in error["error"]
    elif isinstance(want, Made):
        assert code == 0, stderr
        (event,) = events
        assert same(event["properties"], want.properties), event
        assert event.get("distinct_id") == want.distinct_id
        assert want.name is None or event["event"] == want.name
        assert want.says in stderr
    else:
        assert (code, events) == (0, []), stderr


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_case_comes_out_as_it_should(case: dict[str, Any], tmp_path: Path) -> None:
    """`eval` gives the event, the row error or the refusal that `want` asks for."""
    done = commands.run(*write(tmp_path, case), env=case.get("env"))
    judge(expected(case), done.code, done.stdout, done.stderr)


REFUSED_AT_LOAD = [
    case
    for case in CASES.values()
    # I03 is refused for its table, which only a schema tells.
    if isinstance(expected(case), Refused) and case["upstream"].get("phase") == "load" and case["id"] != "I03"
]


@pytest.mark.parametrize("case", REFUSED_AT_LOAD, ids=[case["id"] for case in REFUSED_AT_LOAD])
def test_validate_refuses_what_eval_refuses(case: dict[str, Any], tmp_path: Path) -> None:
    """What needs no schema to be seen wrong, `validate` refuses too, without a database."""
    done = commands.run(*write(tmp_path, case)[:2], "validate", env=case.get("env"))
    assert done.code == 2, done.stderr


def test_a_table_whose_name_has_a_dash_can_be_tracked(tmp_path: Path) -> None:
    """I03: where there is such a table, it makes events."""
    case = {
        **CASES["I03"],
        "tables": {"my-t": {"id": "integer"}},
        "change": {"op": "insert", "table": "my-t", "new": {"id": 1}},
    }
    done = commands.run(*write(tmp_path, case))
    judge(Made({}, name="e"), done.code, done.stdout, done.stderr)
    assert commands.run(*write(tmp_path, case)[:2], "validate").code == 0


@pytest.mark.parametrize("name", ["B01", "C30", "F16"])
def test_the_installed_program_does_the_same(name: str, tmp_path: Path) -> None:
    """As a process of its own, with stdout and stderr apart."""
    case = CASES[name]
    done = commands.finished(*write(tmp_path, case), env=case.get("env"))
    judge(expected(case), done.code, done.stdout, done.stderr)


def test_every_case_is_there_once() -> None:
    """147 cases, each decided by its own `want`."""
    lines = (Path(__file__).parent / "pg_track_events.jsonl").read_text().splitlines()
    assert Counter(json.loads(line)["id"] for line in lines) == Counter(CASES.keys())
    assert len(CASES) == 147
