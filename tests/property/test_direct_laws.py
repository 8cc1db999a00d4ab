"""Laws of the short cut from a row to its event (`wal_tracker.rules.direct`)."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import pgoutput_builder as wire
from wal_tracker.config.load import load
from wal_tracker.decode.base import WantedFor
from wal_tracker.decode.pgoutput import PgOutput
from wal_tracker.errors import RuleEvaluationError
from wal_tracker.model import Change, Commit, Item, NoEvent, RowEvent
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.rules.engine import RelationPlan, RuleSet

TABLE = 0x0102FFFE
COLUMNS = [
    ("id", 20, True), ("user_id", 25, False), ("status", 25, False), ("amount", 1700, False), ("paid", 16, False),
    ("rate", 701, False), ("at", 1184, False), ("details", 3802, False),
]  # fmt: skip
SAMPLES: tuple[tuple[str, ...], ...] = (
    ("1", "-9223372036854775808"),
    ("", "u 1", 'q"\\\u2603'),
    ("new", "paid", "sent", "odd"),
    ("12.50", "NaN", "0"),
    ("t", "f"),
    ("1.5", "0", "-Infinity", "NaN"),
    ("2026-01-02 03:04:05.123456+00", "infinity", "0044-03-15 00:00:00+00 BC"),
    ('{"a": [1, {"b": "x"}]}', "null", "3"),
)
RULES = {
    "columns alone": "{event: plain, properties: {id: new.id, amount: new.amount, at: new.at, details: new.details}}",
    "no properties": "{event: bare}",
    "whom by property": "{event: who, properties: {user_id: new.user_id, rate: new.rate}}",
    "whom by a number": "{event: who, properties: {user_id: new.amount}}",
    "whom by expression": "{event: who, distinct_id: 'string(new.id)', properties: {s: 'new.status + \"!\"'}}",
    "a guard": "{event: guarded, when: 'new.paid && new.rate > 1.0', properties: {id: new.id}}",
    "own time": "{event: timed, timestamp: new.at, properties: {id: new.id}}",
    "a choice": (
        "{cond: 'new.status == \"paid\" ? events.paid : new.status == \"sent\" ? \"other\" : null', "
        "paid: {id: new.id, user_id: new.user_id}, other: {twice: 'new.rate * 2.0', at: new.at}}"
    ),
    "a name without a block": "{cond: 'new.status', paid: {id: new.id}}",
    "inside": "{event: inner, properties: {a: 'new.details.a[0]', b: 'new.details.a.size()'}}",
    "both rows": "{event: moved, when: 'old.status != new.status', properties: {was: old.status, now: new.status}}",
    "the key before": "{event: key, properties: {was: old.id, now: new.id}}",
    "the whole row": "{event: whole, properties: {row: new}}",
    "presence": "{event: has, properties: {there: 'has(new.status)', amount: new.amount}}",
    "the change": "{event: change, properties: {op: change.op, table: change.table, id: new.id}}",
    "the context": "{event: context, properties: {who: 'ctx.user', id: new.id}}",
}
DIRECT = frozenset(RULES) - {"the whole row", "presence", "the change", "the context", "both rows"}
"""Rules with a short cut on an update under the default identity; `both rows` needs the full one."""


Rules = Callable[[str, str], RuleSet]


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Rules:
    """The rules of a configuration with one rule, for one operation on table t."""
    config = tmp_path_factory.mktemp("direct") / "wal_tracker.yaml"

    @cache
    def made(rule: str, op: str) -> RuleSet:
        config.write_text(
            textwrap.dedent(f"""
                source: {{dsn: postgresql://nowhere/db}}
                track: {{t.{op}: {rule}}}
                destinations: {{stdout: {{}}}}
                """)
        )
        return RuleSet(load(config, {}), TypeCatalog(), system_identifier="1", mode="wal")

    return made


def items(wanted: WantedFor, identity: str, messages: list[bytes]) -> list[Item]:
    decoder = PgOutput(wanted, TypeCatalog())
    decoder.reset(700)
    out: list[Item] = []
    for message in (wire.begin(), wire.relation(TABLE, "public", "t", COLUMNS, identity), *messages, wire.commit()):
        decoder.feed(message, 7, out)
    return out


def made(found: list[Item]) -> list[object]:
    """The events these items come to, as JSON; of a failure its reason."""
    events: list[object] = []
    for item in found:
        if isinstance(item, RowEvent):
            events.append((item.rule.rule_id, item.to_json()))
        elif isinstance(item, Change):
            plan: RelationPlan = item.relation.plan
            for rule in plan.rules[item.op]:
                try:
                    event = rule.make(item)
                except RuleEvaluationError as error:
                    events.append(error.reason)
                else:
                    if event is not None:
                        events.append((rule.rule_id, event.to_json()))
        else:
            assert isinstance(item, (Commit, NoEvent))
    return events


@st.composite
def streams(draw: st.DrawFn) -> tuple[str, str, list[bytes]]:
    """An operation, a replica identity, and messages of it."""
    op, identity = draw(st.sampled_from(("insert", "update", "delete"))), draw(st.sampled_from("df"))

    def row(*, holes: bool = False, only_key: bool = False) -> list[wire.Field]:
        return [
            None
            if only_key and not column[2]
            else draw(st.sampled_from((None, *texts, *([wire.UNCHANGED] if holes and column[1] in (25, 3802) else []))))
            for column, texts in zip(COLUMNS, SAMPLES, strict=True)
        ]

    messages = []
    for _ in range(draw(st.integers(1, 4))):
        if op == "insert":
            messages.append(wire.insert(TABLE, row()))
        elif op == "delete":
            old = {"old": row()} if identity == "f" else {"key": row(only_key=True)}
            messages.append(wire.delete(TABLE, **old))
        elif identity == "f":
            messages.append(wire.update(TABLE, row(holes=True), old=row()))
        else:
            messages.append(wire.update(TABLE, row(holes=True)))
    return op, identity, messages


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=30, deadline=None)
@given(stream=streams())
def test_the_short_cut_makes_the_event_the_change_would_have_made(
    rules: Rules, name: str, stream: tuple[str, str, list[bytes]]
) -> None:
    """Byte for byte, and where a rule fails on a row it fails in the same words; whatever the rule and the values."""
    op, identity, messages = stream
    text = RULES[name].replace("new.", "old.").replace("row: new", "row: old") if op == "delete" else RULES[name]
    ruleset = rules(text, op)

    short = items(ruleset.wanted_events, identity, messages)
    ordinary = items(ruleset.wanted, identity, messages)

    assert made(short) == made(ordinary)
    # A transaction that is cut and comes again is counted off by its items.
    assert len(short) == len(ordinary)
    assert not any(isinstance(item, RowEvent) for item in ordinary)


@pytest.mark.parametrize("name", RULES)
def test_rules_of_columns_alone_take_the_short_cut(rules: Rules, name: str) -> None:
    """And the others do not: otherwise the law above would compare one thing with itself."""
    plain: list[wire.Field] = ["1", "u", "paid", "12.50", "t", "1.5", "2026-01-02 03:04:05+00", '{"a": [1]}']
    ruleset = rules(RULES[name], "update")

    found = items(ruleset.wanted_events, "d", [wire.update(TABLE, plain)])

    assert isinstance(found[0], RowEvent) == (name in DIRECT)
