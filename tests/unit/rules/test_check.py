"""What `check` says of a configuration, without and with the tables it names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from wal_tracker.config.load import load
from wal_tracker.model import Column, Relation, ReplicaIdentity
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.rules.check import DescribedTable, Problem, TableDescription, check

Checked = Callable[..., list[Problem]]


@pytest.fixture
def checked(tmp_path: Path) -> Checked:
    """Check a configuration given as YAML."""

    def run(text: str, tables: Iterable[TableDescription] | None = None) -> list[Problem]:
        path = tmp_path / "wal_tracker.yaml"
        path.write_text(text)
        return check(load(path, {}), TypeCatalog(), tables)

    return run


def described(
    name: str = "users",
    identity: ReplicaIdentity = ReplicaIdentity.DEFAULT,
    key: tuple[str, ...] = ("id",),
    toastable: tuple[str, ...] = (),
    **columns: str,
) -> DescribedTable:
    """A table in the schema public."""
    types = TypeCatalog()
    full = identity is ReplicaIdentity.FULL
    found = []
    for column, kind in {"id": "bigint", **columns}.items():
        parsed = types.parse_name(kind)
        assert parsed is not None
        found.append(Column(column, *parsed, is_key=full or column in key))
    return DescribedTable(Relation(1, "public", name, identity, tuple(found)), frozenset(toastable))


def said(problems: list[Problem], severity: str) -> list[str]:
    """The messages of one severity."""
    return [problem.message for problem in problems if problem.severity == severity]


def test_every_error_is_told_and_not_only_the_first(checked: Checked) -> None:
    """Three expressions are wrong in two rules: three errors, each with its line."""
    problems = checked(
        "track:\n"
        "  users.insert:\n"
        "    event: a\n"
        "    properties:\n"
        "      x: new.id +\n"
        "      y: nwe.id\n"
        "  users.update:\n"
        "    event: b\n"
        "    when: new.id ==\n"
    )
    assert [(problem.severity, problem.line) for problem in problems] == [("error", 5), ("error", 6), ("error", 9)]


def test_an_error_shows_the_place_with_a_caret(checked: Checked) -> None:
    """The message carries the expression and a caret under what is wrong."""
    (problem,) = checked("track:\n  users.insert:\n    event: a\n    properties: {x: nwe.id}\n")
    assert "nwe.id" in problem.message
    assert "^" in problem.message
    assert "new" in problem.message


def test_a_right_configuration_has_no_problem(checked: Checked) -> None:
    """The example of the front page, with its tables."""
    text = (
        "track:\n"
        "  users.insert: {event: user_signup, properties: {id: new.id, email: new.email}}\n"
        "  users.update:\n"
        "    cond: 'old.email != new.email ? events.moved : null'\n"
        "    moved: {id: new.id}\n"
    )
    assert checked(text) == []
    assert checked(text, [described(identity=ReplicaIdentity.FULL, email="text")]) == []


def test_an_unknown_table_is_told_with_what_may_be_meant(checked: Checked) -> None:
    """A table the server does not have is an error."""
    (problem,) = checked("track: {user.insert: {event: a}}\n", [described()])
    assert problem.severity == "error"
    assert problem.message == "there is no table user in schema public; did you mean 'users'?"


def test_a_table_of_another_schema_is_pointed_out(checked: Checked) -> None:
    """The same name elsewhere is named with its schema."""
    table = described("visits")
    table.relation.schema = "web"
    (problem,) = checked("track: {visits.insert: {event: a}}\n", [table])
    assert "web.visits" in problem.message


def test_an_unknown_column_is_told_with_what_may_be_meant(checked: Checked) -> None:
    """Columns are checked as soon as the table is known, under has() too."""
    tables = [described(email="text")]
    for expression in ("new.emial", "has(new.emial)"):
        text = f"track: {{users.insert: {{event: a, properties: {{x: '{expression}'}}}}}}\n"
        assert checked(text) == []
        (problem,) = checked(text, tables)
        assert problem.severity == "error"
        assert "'email'" in problem.message


def test_types_are_held_against_each_other(checked: Checked) -> None:
    """An int column times a double can never work."""
    (problem,) = checked("track: {users.insert: {event: a, properties: {x: new.id * 1.5}}}\n", [described()])
    assert problem.severity == "error"
    assert "double(new.id)" in problem.message


def test_an_old_column_the_server_does_not_send_is_a_finding_with_its_remedy(checked: Checked) -> None:
    """Under DEFAULT only the key is sent; the SQL that changes it stands with the finding."""
    text = "track: {users.update: {event: a, properties: {x: old.email, y: old.id}}}\n"
    (problem,) = checked(text, [described(email="text")])
    assert problem.severity == "finding"
    assert "old.email" in problem.message
    assert "old.id" not in problem.message
    assert problem.remedy == "ALTER TABLE public.users REPLICA IDENTITY FULL;"
    assert checked(text, [described(identity=ReplicaIdentity.FULL, email="text")]) == []


def test_the_key_of_an_old_row_may_always_be_read(checked: Checked) -> None:
    """`old.id` of a delete needs nothing."""
    assert checked("track: {users.delete: {event: a, properties: {x: old.id}}}\n", [described()]) == []


def test_reading_what_changed_needs_the_whole_old_row(checked: Checked) -> None:
    """`change.changed` compares all columns."""
    text = "track: {users.update: {event: a, when: \"'email' in change.changed\"}}\n"
    (problem,) = checked(text, [described(email="text")])
    assert (problem.severity, "change.changed" in problem.message) == ("finding", True)


@pytest.mark.parametrize(("identity", "key"), [(ReplicaIdentity.NOTHING, ()), (ReplicaIdentity.DEFAULT, ())])
def test_a_table_whose_updates_postgres_would_refuse_is_a_finding(
    checked: Checked, identity: ReplicaIdentity, key: tuple[str, ...]
) -> None:
    """Publishing a table without replica identity breaks the application's own writes."""
    (problem,) = checked("track: {users.update: {event: a}}\n", [described(identity=identity, key=key)])
    assert problem.severity == "finding"
    assert "refuses" in problem.message
    assert checked("track: {users.insert: {event: a}}\n", [described(identity=identity, key=key)]) == []


def test_a_large_value_that_may_not_be_sent_is_a_warning(checked: Checked) -> None:
    """A TOASTed column an update leaves alone is unknown, unless the rule asks, or the row is sent in full."""
    tables = [described(bio="text", toastable=("bio",))]
    text = "track: {{users.{op}: {{event: a, properties: {{x: '{expression}'}}}}}}\n"
    (problem,) = checked(text.format(op="update", expression="new.bio"), tables)
    assert problem.severity == "warning"
    assert "new.bio" in problem.message
    assert checked(text.format(op="insert", expression="new.bio"), tables) == []
    assert checked(text.format(op="update", expression="unchanged(new.bio) ? null : new.bio"), tables) == []
    full = [described(bio="text", toastable=("bio",), identity=ReplicaIdentity.FULL)]
    assert checked(text.format(op="update", expression="new.bio"), full) == []


def test_computing_with_more_digits_than_a_double_has_is_a_warning(checked: Checked) -> None:
    """A bare column keeps its digits and is not warned of."""
    tables = [described(total="numeric(20,4)", small="numeric(10,2)")]
    text = "track: {{users.insert: {{event: a, properties: {{x: {expression}}}}}}}\n"
    (problem,) = checked(text.format(expression="new.total * 2.0"), tables)
    assert problem.severity == "warning"
    assert "precision 20" in problem.message
    assert "string" in problem.message
    assert checked(text.format(expression="new.total"), tables) == []
    assert checked(text.format(expression="new.small * 2.0"), tables) == []


def test_an_ignored_name_that_does_not_exist_is_a_warning(checked: Checked) -> None:
    """Nothing is hidden by a misspelt name."""
    text = "track: {users.insert: {event: a}}\nignore: {users: [emial], userz: '*'}\n"
    assert checked(text) == []
    problems = checked(text, [described(email="text")])
    assert [problem.severity for problem in problems] == ["warning", "warning"]
    assert "'email'" in problems[0].message
    assert "'users'" in problems[1].message


def test_an_ignored_column_cannot_be_read(checked: Checked) -> None:
    """With the table known or not, and the message says that `ignore` is the reason."""
    text = "track: {users.insert: {event: a, properties: {x: new.email}}}\nignore: {users: [email]}\n"
    for tables in (None, [described(email="text")]):
        (problem,) = checked(text, tables)
        assert problem.severity == "error"
        assert "ignore.users" in problem.message


def test_a_row_that_is_never_there_is_a_warning(checked: Checked) -> None:
    """`old` of an insert and `new` of a delete are null."""
    for op, row in (("insert", "old"), ("delete", "new")):
        (problem,) = checked(f"track: {{users.{op}: {{event: a, properties: {{x: {row}.id}}}}}}\n")
        assert (problem.severity, f"`{row}`" in problem.message) == ("warning", True)


def test_a_block_nobody_names_is_a_warning(checked: Checked) -> None:
    """It can never become an event."""
    text = "track: {users.update: {cond: events.a, a: {x: new.id}, b: {x: new.id}}}\n"
    (warning,) = said(checked(text), "warning")
    assert "'b'" in warning


def test_an_event_without_a_block_is_a_warning(checked: Checked) -> None:
    """The example in pg_track_events' own README has one: it runs, and the event carries no properties."""
    text = "track: {users.update: {cond: 'new.id > 0 ? events.a : events.b', a: {x: new.id}}}\n"
    (problem,) = checked(text)
    assert (problem.severity, "'b'" in problem.message) == ("warning", True)
    (problem,) = checked(text.replace("events.b", '"b"'))
    assert (problem.severity, "'b'" in problem.message) == ("warning", True)


def test_an_event_without_a_block_is_an_error_while_a_block_is_left_over(checked: Checked) -> None:
    """Then one of the two names is misspelt."""
    text = "track: {users.update: {cond: 'new.id > 0 ? events.a : events.jioned', a: {}, joined: {x: new.id}}}\n"
    (error,) = said(checked(text), "error")
    assert "'joined'" in error


TRIGGERS = "source: {mode: trigger}\n"


def test_by_triggers_every_row_is_whole(checked: Checked) -> None:
    """What the replica identity would not send, and large values, are there: neither finding nor warning."""
    text = "track: {users.update: {event: a, properties: {was: old.email, x: new.bio}}}\n"
    table = described(email="text", bio="text", toastable=("bio",))

    assert [problem.severity for problem in checked(text, [table])] == ["finding", "warning"]
    assert checked(TRIGGERS + text, [table]) == []


def test_by_triggers_a_table_needs_no_key(checked: Checked) -> None:
    """No publication, so PostgreSQL refuses nothing."""
    text = "track: {users.delete: {event: a}}\n"
    table = described(key=())

    assert len(said(checked(text, [table]), "finding")) == 1
    assert checked(TRIGGERS + text, [table]) == []


@pytest.mark.parametrize("mode", ["wal", "trigger"])
def test_a_generated_column_is_sent_in_no_mode(checked: Checked, mode: str) -> None:
    """Both modes give the same events."""
    text = f"source: {{mode: {mode}}}\ntrack: {{users.insert: {{event: a, properties: {{x: new.twice}}}}}}\n"
    table = DescribedTable(described(twice="int").relation, generated=frozenset({"twice"}))
    (message,) = said(checked(text, [table]), "finding")

    assert "twice" in message


def test_a_message_rule_is_refused_in_trigger_mode(checked: Checked) -> None:
    """It could never be evaluated; the error says what works in both modes."""
    text = "track: {message.audit: {event: a}}\n"
    (problem,) = checked(TRIGGERS + text)

    assert checked(text) == []
    assert problem.severity == "error"
    assert "wal_tracker.emit" in problem.message


def test_traits_and_groups_are_checked_as_properties_are(checked: Checked) -> None:
    """Every expression of them, each with its line and column; what they read counts as read."""
    problems = checked(
        "ignore: {users: [secret]}\n"
        "track:\n"
        "  users.insert:\n"
        "    event: a\n"
        "    properties: {id: new.id}\n"
        "    identify:\n"
        "      mail: new.emial\n"
        "      hidden: new.secret\n"
        "    group:\n"
        "      type: new.nothing\n"
        "      id: new.id +\n"
        "      traits: {was: old.email}\n",
        [described(email="text", secret="text")],
    )

    errors = [(problem.line, problem.column, problem.message) for problem in problems if problem.severity == "error"]
    assert [(line, column) for line, column, _ in errors] == [(11, 11), (7, 13), (8, 15)]
    assert "did you mean 'email'" in errors[1][2] and "ignore.users" in errors[2][2]
    assert "reads `old`, which is null on insert" in said(problems, "warning")[0]


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ("{identify: {plan: new.plan}}", ["$identify"]),
        ("{identify: {plan: new.plan}, distinct_id: new.id}", []),
        ("{identify: {id: new.id}}", []),
        ("{event: e, properties: {id: new.id}, identify: {plan: new.plan}}", []),
        ("{event: e, properties: {plan: new.plan}, identify: {plan: new.plan}}", ["e"]),
        ("{cond: 'true ? events.a : events.b', a: {id: new.id}, b: {}, identify: {plan: new.plan}}", ["b"]),
        ("{group: {type: t, id: new.id}}", []),
    ],
)
def test_traits_of_nobody_are_told(checked: Checked, rule: str, names: list[str]) -> None:
    """No vendor takes them; each event that has nobody is named."""
    warnings = said(checked(f"track: {{users.insert: {rule}}}", [described(plan="text")]), "warning")

    assert [text for text in warnings if "nobody" in text] == [
        f"`identify` says something of nobody: the event {name!r} has no distinct_id. Give the rule a `distinct_id`"
        for name in names
    ]
