"""Tables that change while they are tracked: noticed, told once, never a wrong column, never a crash loop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from tests.support.outbox import capture, drain, install, reader, reading
from tests.support.postgres import Database
from wal_tracker.config.load import load
from wal_tracker.errors import RuleEvaluationError
from wal_tracker.lsn import LSN
from wal_tracker.model import Change, Item
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.rules.engine import RuleSet
from wal_tracker.source import outbox
from wal_tracker.source.catalog import read_types
from wal_tracker.source.connection import Session
from wal_tracker.source.outbox import OutboxSource
from wal_tracker.source.watch import TableWatch

CONFIG = {
    "track": {
        "t.insert": [
            {"name": "plain", "event": "plain", "properties": {"id": "new.id"}},
            {"name": "noted", "event": "noted", "properties": {"note": "new.note"}},
        ],
        "t.update": {"event": "changed", "properties": {"was": "old.note", "is": "new.note"}},
    }
}


@pytest.fixture
def shop(database: Database) -> Database:
    """A database with one captured table."""
    database.sql("create table t (id int primary key, note text)")
    install(database)
    capture(database, "public.t")
    return database


@pytest.fixture
def rules(shop: Database, tmp_path: Path) -> Callable[[], RuleSet]:
    """Makes the rules, as a process that starts does."""

    def make() -> RuleSet:
        path = tmp_path / "wal_tracker.yaml"
        path.write_text(yaml.safe_dump({"source": {"dsn": shop.dsn}, **CONFIG}))
        with Session(shop.dsn) as session:
            types = TypeCatalog(read_types(session))
        return RuleSet(load(path, {}), types, system_identifier="7", mode="trigger")

    return make


@pytest.fixture(autouse=True)
def _attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the catalog with every claim."""
    monkeypatch.setattr(outbox, "DESCRIBE_INTERVAL_S", 0.0)
    monkeypatch.setattr(outbox, "DESCRIBE_IDLE_S", 0.0)


def events(items: list[Item]) -> list[Any]:
    """What the rules make of the changes: name and properties, or the rule that failed."""
    made: list[Any] = []
    for item in items:
        if isinstance(item, Change):
            for rule in item.relation.plan.rules[item.op]:
                try:
                    event = rule.make(item)
                except RuleEvaluationError as error:
                    made.append(error.rule)
                    continue
                if event is not None:
                    document = orjson.loads(event.to_json())
                    made.append((document["event"], *document["properties"].values()))
    return made


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Every warning, with what goes with it."""
    fields = ("table", "is_now", "columns_new", "columns_gone", "columns_of_another_type", "rule", "reason")
    return [
        " ".join([record.getMessage(), *(str(getattr(record, name)) for name in fields if hasattr(record, name))])
        for record in caplog.records
        if record.levelno >= logging.WARNING
    ]


def test_an_added_column_is_there_from_its_first_row_on(
    shop: Database, rules: Callable[[], RuleSet], caplog: pytest.LogCaptureFixture
) -> None:
    """Rows from before do not have it; told once."""
    with reading(shop, wanted=rules().wanted) as source:
        shop.sql("insert into t values (1, 'a')")
        assert events(drain(source)) == [("plain", 1), ("noted", "a")]
        shop.sql("insert into t values (2, 'b')")
        shop.sql("alter table t add column more numeric default 1.50")
        shop.sql("insert into t values (3, 'c')")
        items = drain(source)
        shop.sql("insert into t values (4, 'd')")
        items += drain(source)

    assert events(items) == [
        ("plain", n) if k else ("noted", x) for n, x in ((2, "b"), (3, "c"), (4, "d")) for k in (1, 0)
    ]
    shapes = [[c.name for c in item.relation.columns] for item in items if isinstance(item, Change)]
    assert shapes == [["id", "note"], ["id", "note", "more"], ["id", "note", "more"]]
    assert [text for text in told(caplog) if "a table has changed" in text and "['more'] [] []" in text]
    assert len(told(caplog)) == 1


def test_a_dropped_column_fails_the_rules_that_need_it_and_no_others(
    shop: Database, rules: Callable[[], RuleSet], caplog: pytest.LogCaptureFixture
) -> None:
    """What was captured before is what it was; afterwards each such change is a rule error, and so a dead letter."""
    with reading(shop, wanted=rules().wanted) as source:
        shop.sql("insert into t values (1, 'a')")
        drain(source)
        shop.sql("insert into t values (2, 'b')")
        shop.sql("alter table t drop column note")
        shop.sql("insert into t values (3)")
        items = drain(source)

    assert events(items) == [("plain", 2), ("noted", "b"), ("plain", 3), "t.insert#noted"]
    assert any("a table has changed" in text and "public.t [] ['note'] []" in text for text in told(caplog))
    assert any("rule does not fit its table" in text and "t.insert#noted" in text for text in told(caplog))


def test_a_renamed_column_is_never_taken_for_another(shop: Database, rules: Callable[[], RuleSet]) -> None:
    """Not even when the name goes to another column at once."""
    with reading(shop, wanted=rules().wanted) as source:
        shop.sql("insert into t values (1, 'a')")
        drain(source)
        shop.sql("insert into t values (2, 'b')")
        shop.sql("alter table t rename column note to other")
        shop.sql("insert into t values (3, 'c')")
        shop.sql("alter table t add column note text default 'new'")
        shop.sql("insert into t values (4, 'd')")
        items = drain(source)

    assert events(items) == [
        ("plain", 2),
        ("noted", "b"),
        ("plain", 3),
        "t.insert#noted",
        ("plain", 4),
        ("noted", "new"),
    ]


TYPES = (
    # From, a value of it, how it becomes the next type, a value of that; then what both are as events.
    ("int", "7", "note::text", "'x'", 7, "x"),
    # Text that has become a number is the number, as in the table itself.
    ("text", "'7'", "note::int", "8", 7, 8),
    ("int", "7", "note::numeric", "8.50", 7, 8.5),
    ("text", "'x'", "array[note]", "array['y', null]", "x", ["y", None]),
    # Nothing says any more that it was a time, or bytes: JSON is what is left.
    ("timestamptz", "'2026-01-02 03:04:05+00'", "note::text", "'z'", "2026-01-02T03:04:05+00:00", "z"),
    ("bytea", r"'\x00ff'", "encode(note, 'hex')", "'ff'", r"\x00ff", "ff"),
    ("boolean", "true", "note::int", "2", True, 2),
)


@pytest.mark.parametrize("is_restarted", [False, True], ids=["running", "restarted"])
def test_a_type_that_changes_leaves_every_value_what_it_was(
    database: Database, tmp_path: Path, *, is_restarted: bool
) -> None:
    """Rows from before and after are read side by side; a process that starts in between knows only the new type."""
    install(database)
    for number, (before, _, _, _, _, _) in enumerate(TYPES):
        database.sql(f"create table t{number} (id int primary key, note {before})")
        capture(database, f"public.t{number}")
    path = tmp_path / "wal_tracker.yaml"
    track = {
        f"t{number}.insert": {"event": f"t{number}", "properties": {"note": "new.note"}} for number in range(len(TYPES))
    }
    path.write_text(yaml.safe_dump({"source": {"dsn": database.dsn}, "track": track}))

    def start() -> OutboxSource:
        rules = RuleSet(load(path, {}), TypeCatalog(), system_identifier="7", mode="trigger")
        source = reader(database, wanted=rules.wanted)
        source.connect(LSN(0))
        return source

    source = start()
    for number in range(len(TYPES)):
        database.sql(f"insert into t{number} values (0, null)")
    drain(source)
    for number, (before, value, using, after, _, _) in enumerate(TYPES):
        ((new_type,),) = database.sql(f"select pg_typeof({using}) from (select null::{before} as note) as n")
        database.sql(f"insert into t{number} values (1, {value})")
        database.sql(f"alter table t{number} alter column note type {new_type} using {using}")
        database.sql(f"insert into t{number} values (2, {after})")
    if is_restarted:
        source.close()
        source = start()
    items = drain(source)
    source.close()

    found: dict[str, list[Any]] = {}
    for name, value in events(items):
        found.setdefault(name, []).append(value)
    assert found == {f"t{number}": [first, then] for number, (_, _, _, _, first, then) in enumerate(TYPES)}


def test_a_renamed_table_is_told_and_matches_nothing(
    shop: Database, rules: Callable[[], RuleSet], caplog: pytest.LogCaptureFixture
) -> None:
    """Its rules are for a name that is not there; with what to do about it, and before a row comes."""
    with reading(shop, wanted=rules().wanted) as source:
        shop.sql("insert into t values (1, 'a')")
        drain(source)
        shop.sql("alter table t rename to people")
        source.end_of_commits(LSN(0))
        warned = told(caplog)
        shop.sql("insert into people values (2, 'b')")
        items = drain(source)

    assert events(items) == []
    assert (
        len([text for text in warned if "a tracked table was renamed" in text and "public.t public.people" in text])
        == 1
    )
    assert told(caplog) == warned


def test_a_table_that_is_dropped_and_made_again_is_told(
    shop: Database, rules: Callable[[], RuleSet], caplog: pytest.LogCaptureFixture
) -> None:
    """It has no trigger any more: silence would look like a quiet table. What was captured before is delivered."""
    with reading(shop, wanted=rules().wanted) as source:
        shop.sql("insert into t values (1, 'a')")
        drain(source)
        shop.sql("insert into t values (2, 'b'); drop table t")
        shop.sql("create table t (id int primary key, note text); insert into t values (3, 'c')")
        items = drain(source)
        drain(source)

    assert events(items) == [("plain", 2), ("noted", "b")]
    (said,) = (text for text in told(caplog) if "changes are not captured" in text)
    assert "public.t it was dropped; if it was made again, `wal_tracker apply`" in said


def test_a_trigger_that_is_disabled_is_told(
    shop: Database, rules: Callable[[], RuleSet], caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody's `alter table … disable trigger` is not our silence."""
    with reading(shop, wanted=rules().wanted) as source:
        shop.sql('alter table t disable trigger "00_wal_tracker_capture"')
        source.end_of_commits(LSN(0))

    assert any("its trigger is gone or disabled; `wal_tracker apply`" in text for text in told(caplog))


def test_a_new_column_whose_text_depends_on_the_session_is_told(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Until `apply` has made the capture function anew, an interval is written as each session likes; told once."""
    database.sql("create table t (id int primary key, note text, d date)")
    install(database)
    capture(database, "public.t", settings="")
    with reading(database) as source:
        source.end_of_commits(LSN(0))
        assert told(caplog) == []
        database.sql("alter table t add column period interval, add column size float8[]")
        database.sql("alter table t add column double float8 generated always as (id * 2) stored")
        source.end_of_commits(LSN(0))
        source.end_of_commits(LSN(0))
        (record,) = (one for one in caplog.records if one.levelno >= logging.WARNING)
        assert (record.__dict__["table"], record.__dict__["columns"]) == ("public.t", "period, size")
        ((function,),) = database.sql("select tgfoid::regproc::text from pg_trigger where tgname ~ '^00' limit 1")
        database.sql(f"alter function {function}() set datestyle = 'ISO'")
        caplog.clear()
        source.end_of_commits(LSN(0))
        assert told(caplog) == []


def test_wal_mode_tells_of_tables_that_give_nothing_any_more(shop: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Dropped, renamed, made again and not published, with columns that are not published: once for each state."""
    shop.sql("create publication p for table t")
    watch = TableWatch([("public", "t")], "p", {}, interval_s=0.0)
    with Session(shop.dsn) as session:

        def look() -> list[str]:
            caplog.clear()
            watch.look(session)
            watch.look(session)
            return told(caplog)

        assert look() == []
        shop.sql("alter table t rename to gone")
        (said,) = look()
        assert "there is no table of this name now" in said
        shop.sql("create table t (id int primary key)")
        (said,) = look()
        assert "`wal_tracker apply` publishes it" in said
        shop.sql("alter publication p add table t")
        assert look() == []
        if session.server_version >= 150000:
            shop.sql("alter publication p set table t (id)")
            shop.sql("alter table t add column more int")
            (said,) = look()
            assert "columns are not published: more; `wal_tracker apply`" in said
