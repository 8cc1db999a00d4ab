"""`wal_tracker eval`: changes as JSON lines in, events as JSON lines out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import commands
from tests.support.commands import Done

RULES = """
track:
  users.insert:
    event: user_signup
    properties: {id: new.id, email: new.email}
"""
INSERT = {"op": "insert", "table": "users", "new": {"id": 7, "email": "a@x"}}

Evaluate = Callable[..., Done]


@pytest.fixture
def evaluate(tmp_path: Path) -> Evaluate:
    """Run `eval` over a configuration and changes; objects are written as JSON, text as it is."""

    def run(rules: str, *changes: Any, schema: Any = None, stdin: bool = False) -> Done:
        (tmp_path / "wal_tracker.yaml").write_text(rules)
        lines = "".join((change if isinstance(change, str) else json.dumps(change)) + "\n" for change in changes)
        (tmp_path / "changes.jsonl").write_text(lines)
        arguments = ["--changes", "-" if stdin else str(tmp_path / "changes.jsonl")]
        if schema is not None:
            (tmp_path / "schema").write_text(schema if isinstance(schema, str) else json.dumps(schema))
            arguments += ["--schema", str(tmp_path / "schema")]
        config = ["--config", str(tmp_path / "wal_tracker.yaml")]
        return commands.run(*config, "eval", *arguments, stdin=lines if stdin else None)

    return run


def errors(done: Done) -> list[Any]:
    """The error lines."""
    return [line for line in map(json.loads, done.stderr.splitlines()) if "error" in line]


def test_an_event_has_the_shape_destinations_get(evaluate: Evaluate) -> None:
    """Everything of design.md's shape, without a database."""
    done = evaluate(RULES, {**INSERT, "xid": 733, "commit_lsn": "0/16B3748", "commit_time": "2026-01-02T03:04:05Z"})
    (event,) = done.lines()
    assert done.code == 0
    assert event.pop("id")
    assert event == {
        "event": "user_signup",
        "distinct_id": "7",
        "timestamp": "2026-01-02T03:04:05Z",
        "properties": {"id": 7, "email": "a@x"},
        "source": {
            "op": "insert",
            "schema": "public",
            "table": "users",
            "commit_lsn": "0/16B3748",
            "ordinal": 0,
            "xid": 733,
            "mode": "wal",
        },
    }


def test_the_same_changes_make_the_same_bytes(evaluate: Evaluate) -> None:
    """Ids too; and two changes never share one."""
    first, second = evaluate(RULES, INSERT, INSERT), evaluate(RULES, INSERT, INSERT)
    assert first.stdout == second.stdout
    assert len({event["id"] for event in first.lines()}) == 2


def test_changes_may_come_by_stdin(evaluate: Evaluate) -> None:
    """`--changes -` ends a pipe; empty lines are nothing."""
    assert len(evaluate(RULES, INSERT, "", INSERT, stdin=True).lines()) == 2


def test_an_error_names_rule_and_line_and_the_rest_goes_on(evaluate: Evaluate) -> None:
    """A poison change costs its own events and the exit code, nothing else."""
    rules = "track: {users.insert: {event: a, properties: {x: new.n + 1}}}\n"
    done = evaluate(
        rules,
        {"op": "insert", "table": "users", "new": {"n": 1}},
        {"op": "insert", "table": "users", "new": {"n": None}},
        {"op": "insert", "table": "users", "new": {"n": 2}},
    )
    assert [event["properties"]["x"] for event in done.lines()] == [2, 3]
    (error,) = errors(done)
    assert (error["rule"], error["line"], done.code) == ("users.insert", 2, 1)
    assert "null" in error["error"]


@pytest.mark.parametrize("line", ["{", "[]", '{"table": "users"}', '{"op": "upsert", "table": "users"}', "\x00"])
def test_a_line_that_is_no_change_is_an_error_line(evaluate: Evaluate, line: str) -> None:
    """With its number, and without a traceback."""
    done = evaluate(RULES, INSERT, line)
    (error,) = errors(done)
    assert (error["rule"], error["line"], done.code, len(done.lines())) == (None, 2, 1, 1)


def test_a_value_is_never_in_an_error(evaluate: Evaluate) -> None:
    """Errors name rule, column and reason; they end up in logs."""
    canary = "canary-7f3"
    rules = "track: {users.insert: {event: a, properties: {x: int(new.email)}}}\n"
    done = evaluate(rules, {**INSERT, "new": {"email": canary}})
    assert done.code == 1
    assert canary not in done.stderr


def test_an_ignored_column_is_not_there(evaluate: Evaluate) -> None:
    """Not even in the whole row."""
    rules = "track: {users.insert: {event: a, properties: {row: new}}}\nignore: {users: [email]}\n"
    for schema in (None, {"users": {"id": "integer", "email": "text"}}):
        (event,) = evaluate(rules, INSERT, schema=schema).lines()
        assert event["properties"] == {"row": {"id": 7}}


def test_types_may_stand_in_the_change(evaluate: Evaluate) -> None:
    """`"types"` says what the JSON value cannot: exact digits, timestamps."""
    rules = "track: {users.insert: {event: a, properties: {at: new.at.getFullYear(), total: new.total}}}\n"
    change = {
        "op": "insert",
        "table": "users",
        "new": {"at": "2026-01-02T03:04:05Z", "total": "19.90"},
        "types": {"at": "timestamptz", "total": "numeric(10,2)"},
    }
    done = evaluate(rules, change)
    assert '"total":19.90' in done.stdout
    assert done.lines()[0]["properties"]["at"] == 2026


def test_a_schema_may_be_yaml_and_name_schemas(evaluate: Evaluate) -> None:
    """`shop.orders: {id: bigint}` is the table orders of schema shop."""
    rules = "track: {shop.orders.insert: {event: a, properties: {id: new.id}}}\n"
    change = {"op": "insert", "schema": "shop", "table": "orders", "new": {"id": 1}}
    assert len(evaluate(rules, change, schema="shop.orders:\n  id: bigint\n").lines()) == 1


def test_a_rule_that_does_not_fit_the_schema_exits_2_before_the_first_change(evaluate: Evaluate) -> None:
    """With place, caret and what may be meant; all errors at once."""
    rules = RULES.replace("new.email", "new.emial").replace("new.id", "new.idd")
    done = evaluate(rules, INSERT, schema={"users": {"id": "integer", "email": "text"}})
    assert (done.code, done.stdout) == (2, "")
    assert "wal_tracker.yaml:5" in done.stderr
    assert "'email'" in done.stderr
    assert "'id'" in done.stderr


@pytest.mark.parametrize("schema", ["[]", "users: [id]", "users: {id: 1}", "users: {id: integer", "users: {id: !x y}"])
def test_a_schema_that_is_none_exits_2(evaluate: Evaluate, schema: str) -> None:
    """Says what is expected."""
    done = evaluate(RULES, INSERT, schema=schema)
    assert (done.code, done.stdout) == (2, "")
    assert "schema" in done.stderr


def test_a_configuration_that_is_not_there_exits_2(tmp_path: Path) -> None:
    """And names the file."""
    (tmp_path / "changes.jsonl").write_text("")
    missing = str(tmp_path / "missing.yaml")
    done = commands.run("--config", missing, "eval", "--changes", str(tmp_path / "changes.jsonl"))
    assert done.code == 2
    assert "missing.yaml" in done.stderr


def test_unchanged_columns_are_unknown(evaluate: Evaluate) -> None:
    """As from the server: reading one is an error, asking is not."""
    rules = """
track:
  users.update:
    - {event: a, properties: {x: "unchanged(new.bio)"}}
    - {event: b, properties: {x: new.bio}}
"""
    change = {"op": "update", "table": "users", "new": {"id": 1}, "unchanged": ["bio"]}
    done = evaluate(rules, change)
    assert [(event["event"], event["properties"]) for event in done.lines()] == [("a", {"x": True})]
    assert "REPLICA IDENTITY FULL" in errors(done)[0]["error"]


def test_a_change_without_a_schema_is_of_the_configured_one(evaluate: Evaluate) -> None:
    """As tables named without one are."""
    done = evaluate(RULES + "source: {schema: shop}\n", INSERT, schema={"users": {"id": "integer", "email": "text"}})
    assert [event["source"]["schema"] for event in done.lines()] == ["shop"]


def test_what_is_said_of_persons_and_groups_is_shown(evaluate: Evaluate) -> None:
    """In the shape destinations get."""
    rules = "track: {users.insert: {identify: {email: new.email}, group: {type: team, id: new.id}}}"
    (event,) = evaluate(rules, INSERT).lines()

    assert (event["event"], event["properties"]) == ("$identify", {})
    assert event["identify"] == {"email": "a@x"}
    assert event["group"] == {"type": "team", "id": "7", "traits": {}}
