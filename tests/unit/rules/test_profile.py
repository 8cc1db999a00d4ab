"""What rules say of persons and groups, beside an event or without one."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from wal_tracker.config.load import read
from wal_tracker.model import Event, Group, ProfileEvent
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.rules.engine import RuleSet
from wal_tracker.rules.recorded import Evaluation

NEW = {
    "id": 7, "email": "a@x", "plan": None, "company_id": 12345678901234567890, "company_name": "Acme", "paid": True,
}  # fmt: skip


def made(rule: str, *, table: str = "users", **new: Any) -> list[Event | dict[str, Any]]:
    """What a rule makes of an insert into `table`."""
    config = read(f"track: {{{table}.insert: {rule}}}".encode(), {})
    change = {"op": "insert", "table": table, "new": {**NEW, **new}, "commit_time": "2026-01-02T03:04:05Z"}
    return list(Evaluation(config, TypeCatalog(), None).of(orjson.dumps(change)))


def event(rule: str, *, table: str = "users", **new: Any) -> Event:
    """The only event it makes."""
    (only,) = made(rule, table=table, **new)
    assert isinstance(only, Event), only
    return only


def test_traits_and_a_group_stand_behind_what_the_event_was_before() -> None:
    """NULL stays null, and a number its digits; the bytes of the rest are those of the event without."""
    told = "event: user_signup, properties: {id: new.id}"
    plain = event(f"{{{told}}}")
    more = event(
        f"{{{told}, identify: {{email: new.email, plan: new.plan}}, "
        "group: {type: company, id: new.company_id, traits: {name: new.company_name}}}"
    )

    assert more.identify == {"email": "a@x", "plan": None}
    assert more.group == Group("company", "12345678901234567890", {"name": "Acme"})
    assert more.to_json() == (
        plain.to_json()[:-1] + b',"identify":{"email":"a@x","plan":null},'
        b'"group":{"type":"company","id":"12345678901234567890","traits":{"name":"Acme"}}}'
    )
    assert more.to_json() == more.to_json()
    assert (more.id, more.distinct_id) == (plain.id, "7")
    assert (plain.identify, plain.group, type(plain)) == (None, None, Event)


@pytest.mark.parametrize("which", ["new.plan", "\"''\"", "new.paid", "'[new.id]'"])
def test_an_id_that_names_no_group_is_no_group(which: str) -> None:
    """Null above all; the event goes on without, and a rule of a group alone makes nothing."""
    group = f"group: {{type: company, id: {which}, traits: {{name: new.company_name}}}}"

    assert b"group" not in event(f"{{event: e, {group}}}").to_json()
    assert event(f"{{identify: {{plan: new.plan}}, {group}}}").group is None
    assert made(f"{{{group}}}") == []


@pytest.mark.parametrize(
    ("rule", "table", "who"),
    [
        ("{identify: {email: new.email}}", "users", None),
        ("{identify: {email: new.email}, distinct_id: new.id}", "users", "7"),
        ("{identify: {id: new.id, email: new.email}}", "users", "7"),
        ("{identify: {id: new.id, email: new.email}}", "members", None),
        ("{identify: {user_id: new.id}}", "members", "7"),
        ("{event: e, properties: {user_id: new.email}, identify: {user_id: new.id}}", "members", "a@x"),
        ("{event: e, properties: {x: new.id}, identify: {user_id: new.id}}", "members", "7"),
        ("{event: e, properties: {user_id: new.plan}, identify: {user_id: new.id}}", "members", None),
        ("{group: {type: team, id: new.id}, distinct_id: new.email}", "users", "a@x"),
    ],
)
def test_whom_traits_are_about_is_whom_the_event_is_about(rule: str, table: str, who: str | None) -> None:
    """By the rule's distinct_id, or a property, or else a trait, that names the user."""
    assert event(rule, table=table).distinct_id == who


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("{identify: {email: new.email}}", "$identify"),
        ("{group: {type: team, id: new.id}}", "$groupidentify"),
        ("{identify: {email: new.email}, group: {type: team, id: new.id}}", "$identify"),
    ],
)
def test_without_an_event_there_is_one_named_after_the_call(rule: str, name: str) -> None:
    """With no property of its own."""
    only = event(rule)

    assert (only.name, only.properties, type(only)) == (name, {}, ProfileEvent)


def test_beside_a_condition_they_go_with_the_event_that_is_chosen() -> None:
    """Whichever it is; and with none there is none."""
    rule = (
        "{cond: 'new.paid ? events.bought : new.id > 7 ? \"looked\" : null', identify: {paid: new.paid}, "
        "bought: {id: new.id}, looked: {}}"
    )

    assert (event(rule).name, event(rule).identify) == ("bought", {"paid": True})
    assert (event(rule, paid=False, id=8).name, event(rule, paid=False, id=8).identify) == ("looked", {"paid": False})
    assert made(rule, paid=False) == []


def test_a_guard_comes_first_and_a_failure_is_the_rules() -> None:
    """A trait that cannot be evaluated is a rule error, as a property is."""
    assert made("{when: new.id > 7, identify: {x: new.plan + 1}}") == []
    assert [type(one) for one in made("{identify: {x: new.plan + 1}}")] == [dict]
    assert [type(one) for one in made("{event: e, group: {type: a, id: new.plan + 1}}")] == [dict]


def test_columns_only_traits_read_are_decoded() -> None:
    """What nobody else asks for."""
    config = read(b"track: {users.insert: {identify: {a: new.x}, group: {type: t, id: new.y, traits: {b: new.z}}}}", {})
    rules = RuleSet(config, TypeCatalog(), system_identifier="1", mode="wal")
    (compiled,) = (rules._compiler.compile(rule, None, None) for rule in config.rules)

    keys = compiled.row_keys("new", ())
    assert {key.removeprefix("\0") for key in keys} == {"x", "y", "z"}
    assert compiled.direct("insert") is None
