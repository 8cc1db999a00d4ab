"""The draft of a configuration holds on the tables it was made from, whatever they are called."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.tables import TYPES, surveyed, table
from wal_tracker.config.load import read
from wal_tracker.draft import document
from wal_tracker.draft.draft import Mode, draft
from wal_tracker.model import ReplicaIdentity
from wal_tracker.rules.check import check
from wal_tracker.source.survey import SurveyedTable

# What PostgreSQL lets a name be: anything but the zero byte, up to 63 bytes.
ANYTHING = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=15)
ODD = st.sampled_from(
    ["new", "in", "null", "true", "*", "a.b", 'q"q', "it's", "a\\b", "$HOME", "${X}", "a: b", "# x", "- x", "{", "\n",
     "\x7f", "distinct_id", "cond", "event", "properties", "name", "message", "insert", "password", "$token", "status",
     "is_paid", "paid_at", "x y_status", "email", "\U0001f600", "id ", " id", "__proto__"]
)  # fmt: skip
NAMES = ODD | ANYTHING
KINDS = st.sampled_from(["int", "text", "boolean", "timestamptz", "date", "numeric", "jsonb", "uuid", "text[]"])
STATES = st.lists(NAMES, min_size=2, max_size=4, unique=True).map(tuple)


@st.composite
def tables(draw: st.DrawFn) -> SurveyedTable:
    """Any table: with a key or without, with secrets, with states."""
    columns = draw(st.dictionaries(NAMES, KINDS, min_size=1, max_size=6))
    texts = [name for name, kind in columns.items() if kind == "text"]
    return table(
        draw(NAMES | st.sampled_from(["users", "orders"])),
        columns,
        schema=draw(NAMES | st.just("public")),
        key=tuple(draw(st.sets(st.sampled_from(sorted(columns)), max_size=2))),
        identity=draw(st.sampled_from([ReplicaIdentity.DEFAULT, ReplicaIdentity.FULL])),
        values={name: draw(STATES) for name in texts},
        references=dict.fromkeys(texts[:1], ("public", "users")),
    )


@settings(max_examples=100, deadline=None)
@given(
    chosen=st.lists(tables(), min_size=1, max_size=3, unique_by=lambda one: one.name),
    mode=st.sampled_from(["wal", "trigger"]),
)
def test_a_draft_holds_on_the_tables_it_was_made_from(chosen: list[SurveyedTable], mode: Mode) -> None:
    """It loads, every rule that is active is there, none is wrong, and secrets are ignored by their names."""
    made = draft(surveyed(*chosen), chosen, mode, "because")
    config = read(document.configuration(made).encode(), {})

    problems = check(config, TYPES, [one.table for one in chosen])
    assert [str(problem) for problem in problems if problem.severity != "warning"] == []
    assert len(config.rules) == made.active
    assert config.ignore == {one.table.name: frozenset(one.ignored) for one in made.tables if one.ignored}


@settings(max_examples=100, deadline=None)
@given(chosen=tables())
def test_in_trigger_mode_nothing_has_to_wait(chosen: SurveyedTable) -> None:
    """Every suggestion is active: rows come whole. Only a name that is * cannot be written."""
    made = draft(surveyed(chosen), [chosen], "trigger", "because")

    assert made.waiting == 0 or "*" in chosen.name
