"""Track keys and the shapes of rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from wal_tracker.config.load import read
from wal_tracker.config.model import Config, TrackRule
from wal_tracker.config.track import split_name
from wal_tracker.errors import ConfigError
from wal_tracker.model import ROW_OPS


def config(text: str) -> Config:
    """Read a configuration that is only a track section, given without its indentation."""
    return read(("track:\n" + "\n".join("  " + line for line in text.splitlines())).encode(), {"SET": "x"})


def rule(text: str) -> TrackRule:
    """The only rule."""
    (only,) = config(text).rules
    return only


def refused(text: str) -> str:
    """What is said of rules that are not taken."""
    with pytest.raises(ConfigError) as caught:
        config(text)
    return str(caught.value)


def sources(properties: object) -> dict[str, str]:
    """Properties as text."""
    assert isinstance(properties, dict)
    return {name: expression.source for name, expression in properties.items()}


@pytest.mark.parametrize(
    ("key", "schema", "table", "ops"),
    [
        ("users.insert", "public", "users", ("insert",)),
        ("app.users.update", "app", "users", ("update",)),
        ("my-table.truncate", "public", "my-table", ("truncate",)),
        ("Über Tabelle.delete", "public", "Über Tabelle", ("delete",)),
        ('"my.schema"."t".insert', "my.schema", "t", ("insert",)),
        ('"say ""hi""".insert', "public", 'say "hi"', ("insert",)),
        ("users.*", "public", "users", ROW_OPS),
        ("message.insert", "public", "message", ("insert",)),
        ("message.part.update", "message", "part", ("update",)),
    ],
)
def test_a_key_names_a_table_and_an_operation(key: str, schema: str, table: str, ops: tuple[str, ...]) -> None:
    """table.op, schema.table.op; quoted where a name has dots."""
    made = rule(f"'{key}': {{event: e}}")

    assert (made.schema, made.table, made.ops, made.message_prefix) == (schema, table, ops, None)
    assert made.rule_id == made.key == key


@pytest.mark.parametrize("prefix", ["orders", "my.app.events", "wal_tracker.other", "a b"])
def test_a_message_key_names_a_prefix(prefix: str) -> None:
    """Everything after the first dot, unless it ends in an operation."""
    made = rule(f"'message.{prefix}': {{event: e}}")

    assert (made.message_prefix, made.ops, made.table) == (prefix, ("message",), "")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ["a"]),
        ("a.b", ["a", "b"]),
        ('"a.b".c', ["a.b", "c"]),
        ("", None),
        (".a", None),
        ("a.", None),
        ("a..b", None),
        ('"a', None),
        ('a"b', None),
        ('"a"b', None),
        ('"".a', None),
        (" a", None),
    ],
)
def test_a_dotted_name_falls_into_its_parts(text: str, parts: list[str] | None) -> None:
    """Or it is no name."""
    assert split_name(text) == parts


def test_a_simple_rule_has_an_event_and_properties() -> None:
    """Scalars of the file are the same in CEL; names of events and properties are any text."""
    made = rule(
        "users.insert:\n"
        "  event: User {signed} up\n"
        "  properties: {id: new.id, one: 1, half: 0.5, yes: true, none: null, empty: , 'odd name': '\"text\"', 7: no}\n"
        "  when: new.id > 0\n"
        "  distinct_id: new.id\n"
        "  timestamp: new.at\n"
    )

    assert made.event == "User {signed} up"
    assert sources(made.properties) == {
        "id": "new.id", "one": "1", "half": "0.5", "yes": "true", "none": "null", "empty": "null",
        "odd name": '"text"', "7": "no",
    }  # fmt: skip
    assert made.when is not None and made.when.source == "new.id > 0"
    assert made.distinct_id is not None and made.timestamp is not None
    assert (made.cond, dict(made.blocks), made.destinations) == (None, {}, None)


def test_an_expression_knows_where_it_stands() -> None:
    """Path, line and column of the scalar, for the compiler's caret."""
    made = rule("users.insert:\n  event: e\n  properties:\n    id: new.id\n")
    expression = made.properties["id"]

    assert (expression.path, expression.line, expression.column) == ("track.users.insert.properties.id", 5, 11)
    assert (made.line, made.column) == (2, 3)


def test_a_conditional_rule_has_blocks() -> None:
    """A mapping is a block, whatever its name; so is a key with nothing under it."""
    made = rule(
        "t.update:\n"
        "  cond: events.a\n"
        "  distinct_id: new.id\n"
        "  a: {x: new.id}\n"
        "  a-b: {}\n"
        "  nothing:\n"
        "  when: {y: new.id}\n"
        "  nested: {event: nested, properties: {z: new.id}}\n"
        "  also: {properties: {z: new.id}}\n"
        "  flat: {event: new.kind, properties: new.extra}\n"
    )

    assert made.cond is not None and made.cond.source == "events.a"
    assert made.distinct_id is not None and made.when is None and made.event is None
    assert {name: sources(block) for name, block in made.blocks.items()} == {
        "a": {"x": "new.id"},
        "a-b": {},
        "nothing": {},
        "when": {"y": "new.id"},
        "nested": {"z": "new.id"},
        "also": {"z": "new.id"},
        "flat": {"event": "new.kind", "properties": "new.extra"},
    }


def test_rules_of_a_list_are_told_apart_by_name_or_place() -> None:
    """What goes into event ids: a rule named "0" is not the first one."""
    rules = config("t.insert:\n  - event: a\n  - {event: b, name: second}\n  - {event: c, name: '0'}\n").rules

    assert [made.rule_id for made in rules] == ["t.insert[0]", "t.insert#second", "t.insert#0"]
    assert rules[1].position == 1
    assert rule("t.insert: {event: a, name: alone}").rule_id == "t.insert"


def test_variables_are_not_expanded_in_rules() -> None:
    """A dollar sign in a regular expression is its end."""
    made = rule("t.insert: {event: $SET, properties: {a: \"new.a.matches('x$')\", b: $SET}}")

    assert (made.event, sources(made.properties)) == ("$SET", {"a": "new.a.matches('x$')", "b": "$SET"})


def test_two_keys_for_one_table_are_both_applied_with_a_warning() -> None:
    """`users` and `public.users` are one table; `*` beside an operation is meant."""
    made = config("users.insert: {event: a}\npublic.users.insert: {event: b}\nusers.*: {event: c}\n")

    assert [found.event for found in made.rules] == ["a", "b", "c"]
    (warning,) = made.warnings
    assert "track.public.users.insert" in warning and "'users.insert'" in warning


def test_a_rule_sends_only_where_it_says() -> None:
    """A list, or a single name."""
    text = "destinations: {audit: {kind: file}, stdout: {}}\ntrack: {t.insert: {event: e, destinations: %s}}"

    assert read((text % "audit").encode(), {}).rules[0].destinations == ("audit",)
    assert read((text % "[audit, stdout]").encode(), {}).rules[0].destinations == ("audit", "stdout")
    with pytest.raises(ConfigError, match=r"'adit' is not under `destinations`; did you mean 'audit'\?"):
        read((text % "adit").encode(), {})


def test_a_rule_may_say_who_somebody_is_beside_its_event() -> None:
    """Traits and a group's id are CEL, the group's type is a text."""
    made = rule(
        "users.insert:\n"
        "  event: user_signup\n"
        "  identify: {email: new.email, vip: true}\n"
        "  group: {type: new.company, id: new.company_id, traits: {name: new.name}}\n"
    )

    assert (made.event, sources(made.identify)) == ("user_signup", {"email": "new.email", "vip": "true"})
    assert made.group is not None
    assert (made.group.type, made.group.id.source) == ("new.company", "new.company_id")
    assert sources(made.group.traits) == {"name": "new.name"}
    assert made.group.id.path == "track.users.insert.group.id"


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("{identify: {a: new.a}}", "$identify"),
        ("{group: {type: team, id: new.id}}", "$groupidentify"),
        ("{identify: {a: new.a}, group: {type: team, id: new.id}}", "$identify"),
        ("{event: e, identify: }", "e"),
    ],
)
def test_a_rule_without_an_event_of_its_own_is_named_after_what_it_says(text: str, event: str) -> None:
    """As vendors name such calls; nothing under a key is as if it were not there."""
    assert rule(f"t.insert: {text}").event == event


def test_beside_a_condition_traits_go_with_whichever_event_is_chosen() -> None:
    """They are no event blocks."""
    made = rule(
        "t.update:\n"
        "  cond: 'new.a == \"group\" ? events.x : null'\n"
        "  identify: {plan: new.plan}\n"
        "  group: {type: team, id: new.team}\n"
        "  x: {a: new.a}\n"
    )

    assert list(made.blocks) == ["x"]
    assert sources(made.identify) == {"plan": "new.plan"}
    assert made.group is not None and made.group.type == "team"


@pytest.mark.parametrize("cond", ["events.identify", "events['group']", 'a ? events.identify : events["group"]'])
@pytest.mark.parametrize("path", [None, Path("pg_track_events.config.yaml")])
def test_an_event_of_a_condition_may_be_called_identify_or_group(cond: str, path: Path | None) -> None:
    """What `cond` chooses is its block; pg_track_events' files know no other meaning of these names."""
    names = {name for name in ("identify", "group") if name in cond}
    blocks = "".join(f"    {name}: {{type: new.a, id: new.b}}\n" for name in names)

    made = read(f"track:\n  t.update:\n    cond: {cond!r}\n{blocks}".encode(), {}, path=path).rules[0]

    assert set(made.blocks) == names
    assert all(sources(block) == {"type": "new.a", "id": "new.b"} for block in made.blocks.values())
    assert (made.identify, made.group) == ({}, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("t.insert: {identify: {}}", "identify: is empty; name what is known"),
        ("t.insert: {identify: }", "a rule needs `event`"),
        ("t.insert: {identify: new}", "identify: must be a mapping"),
        ("t.insert: {identify: {a: [1]}}", "track.t.insert.identify.a: must be a CEL expression"),
        ("t.insert: {identify: {a: b}, properties: {a: b}}", "properties: goes with `event`"),
        ("t.insert: {event: e, identfy: {a: b}}", "did you mean 'identify'?"),
        ("t.insert: {event: e, group: team}", "group: must be a mapping"),
        ("t.insert: {event: e, group: {type: team}}", "group: needs `id`"),
        ("t.insert: {event: e, group: {id: new.id}}", "group: needs `type`"),
        ("t.insert: {event: e, group: {type: ' ', id: a}}", "type: must not be empty"),
        ("t.insert: {event: e, group: {type: [a], id: a}}", "type: must be a single value"),
        ("t.insert: {event: e, group: {type: a, id: a, traitz: {}}}", "group.traitz: is not a setting; did you mean"),
        ("t.insert: {event: e, group: {type: a, id: a, traits: b}}", "traits: must be a mapping"),
        ("t.insert: {cond: c, identify: text}", "identify: must be a mapping"),
        ("t.insert: {cond: events.group, group: text}", "group: is neither a setting"),
    ],
)
def test_traits_and_groups_of_no_shape_we_know_are_refused(text: str, says: str) -> None:
    """As rules are."""
    assert says in refused(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("users: {event: e}", "track.users: is not table.op"),
        ("a.b.c.insert: {event: e}", "is not table.op, schema.table.op or message.prefix"),
        ("users.inserted: {event: e}", "'inserted' is not an operation; did you mean 'insert'?"),
        ("users.INSERT: {event: e}", "did you mean 'insert'?"),
        ("users.upsert: {event: e}", "'upsert' is not an operation"),
        ("'*.insert': {event: e}", "a rule names one table"),
        ("'message.': {event: e}", "is not table.op"),
        ("message.wal_tracker.context: {event: e}", "are wal_tracker's own"),
        ("t.insert: []", "is an empty list"),
        ("t.insert:", "a rule needs `event`"),
        ("t.insert: e", "must be a mapping"),
        ("t.insert: {properties: {a: b}}", "a rule needs `event`"),
        ("t.insert: {event: }", "event: must not be empty"),
        ("t.insert: {event: [a]}", "event: must be a single value"),
        ("t.insert: {event: e, cond: c}", "`event` or `cond`, not both"),
        ("t.insert: {event: e, bogus: 1}", "track.t.insert.bogus: is not a setting"),
        ("t.insert: {event: e, propertys: {}}", "did you mean 'properties'?"),
        ("t.insert: {event: e, properties: [a]}", "properties: must be a mapping"),
        ("t.insert: {event: e, properties: {a: [1]}}", "track.t.insert.properties.a: must be a CEL expression"),
        ("t.insert: {event: e, properties: {a: {b: c}}}", "properties.a: must be a CEL expression"),
        ("t.insert: {event: e, properties: {a: ' '}}", "is an empty expression"),
        ("t.insert: {event: e, destinations: nowhere}", "'nowhere' is not under `destinations`; there are none"),
        ("t.insert: {cond: c, bogus: 1}", "is neither a setting (cond, identify, group, when,"),
        ("t.insert: {cond: c, properties: {a: b}}", "`properties` goes with `event`"),
        ("t.insert: {cond: {a: b}}", "cond: must be an expression"),
        ("t.insert: {cond: c, a: {event: b, properties: {}}}", "must be the block's own name, 'a'"),
        ("t.insert: {cond: c, a: {when: x, properties: {}}}", "a.when: is not a setting"),
        ("t.insert: {cond: c, a: {x: [1]}}", "track.t.insert.a.x: must be a CEL expression"),
        ("t.insert: [{event: a, name: n}, {event: b, name: n}]", "the name 'n' is there twice"),
    ],
)
def test_a_rule_with_no_shape_we_know_is_refused(text: str, says: str) -> None:
    """Never guessed at; the place comes first."""
    message = refused(text)
    assert says in message
    assert message.startswith("line 2, column ")
