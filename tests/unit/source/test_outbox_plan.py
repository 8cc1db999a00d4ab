"""What trigger mode needs, decided without a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from psycopg2 import sql

from wal_tracker.model import Column, Relation, ReplicaIdentity
from wal_tracker.pgtypes import PgType, PgTypeKind, TypeCatalog
from wal_tracker.secret import Secret
from wal_tracker.source import outbox_plan
from wal_tracker.source.catalog import Table, TableKind
from wal_tracker.source.connection import SourceSettings
from wal_tracker.source.outbox_plan import CAPTURE_TRIGGERS, OUTBOX_OBJECTS, Outbox, Tracked, Trigger
from wal_tracker.source.plan import MARK, Desired, Live, Ownership, Plan, Readiness

TEXT, FLOAT8 = 25, 701


def table(oid: int, name: str, type_oid: int = TEXT) -> Table:
    """A table of one column."""
    return Table(
        relation=Relation(oid, "public", name, ReplicaIdentity.DEFAULT, (Column("c", type_oid, -1, False),)),
        kind=TableKind.TABLE,
        is_permanent=True,
        is_ours=True,
        toastable=frozenset(),
        generated=frozenset(),
        primary_key=(),
        numbers=((1, "c"),),
        leaves_without_identity=(),
    )


READY = Readiness("replica", False, 0, 0, None, "me", False, True)
NOTHING = Live(
    server_version=180000,
    source=READY,
    primary=READY,
    tables={},
    publication=None,
    slot=None,
    database="shop",
    own_objects={},
    superusers_objects=frozenset(),
    ownership=Ownership(False, None, None, False, "", False, False),
)
EMPTY = Outbox(
    has_tables=False,
    tracked=(),
    last_number=0,
    reader_server=None,
    server="77",
    switch_to=None,
    triggers=(),
    may_trigger=frozenset(range(100)),
    ancestors={},
    types=TypeCatalog(),
    lc_monetary="C",
)


def rendered(statement: sql.Composable) -> str:
    """A statement as text; psycopg2 asks for a connection to write names, which these need not."""
    if isinstance(statement, sql.Composed):
        return "".join(map(rendered, statement.seq))
    if isinstance(statement, sql.Identifier):
        return ".".join(f'"{name}"' for name in statement.strings)
    if isinstance(statement, sql.Literal):
        value = statement.wrapped
        return f"'{value}'" if isinstance(value, str) else str(value)
    assert isinstance(statement, sql.SQL)
    return str(statement.string)


def wanting(*names: str) -> Desired:
    """A configuration that tracks these tables."""
    return Desired(SourceSettings(dsn=Secret("")), tuple(("public", name) for name in names), {}, mode="trigger")


def with_tables(*tables: Table) -> Live:
    """A database with these tables, and nothing of ours."""
    return replace(NOTHING, tables={(one.relation.schema, one.relation.table): one for one in tables})


def applied(wanted: Desired, live: Live) -> tuple[Live, Outbox]:
    """The database after `apply`, as far as this plan looks."""
    planned = outbox_plan.decide(wanted, live, EMPTY)
    marks: dict[str, str | None] = {}
    for step in planned.steps:
        text = rendered(step.statement)
        if text.startswith("comment on function") and "capture_" in text:
            marks[text.split('"')[3]] = text.split("'")[1]
    own: Mapping[tuple[str, str], str | None] = {
        ("schema", ""): None,
        **{("function", name): "made by wal_tracker, edition 3" for name in ("emit", "set_context")},
        **{("relation", name): MARK for name in OUTBOX_OBJECTS},
        **{("function", name): mark for name, mark in marks.items()},
    }
    tables = [live.tables[name] for name in wanted.tables]
    outbox = replace(
        EMPTY,
        has_tables=True,
        tracked=tuple(
            Tracked(number, one.relation.relation_id, ("public", one.relation.table))
            for number, one in enumerate(tables, 1)
        ),
        last_number=len(tables),
        reader_server="77",
        triggers=tuple(
            Trigger(one.relation.relation_id, ("public", one.relation.table), name, f"capture_{number}", True, True)
            for number, one in enumerate(tables, 1)
            for name in CAPTURE_TRIGGERS
        ),
    )
    return replace(live, own_objects=own, ownership=Ownership(False, "me", True, False, "", False, False)), outbox


def texts(planned: Plan) -> list[str]:
    """The statements."""
    return [rendered(step.statement) for step in planned.steps]


def test_what_is_there_needs_nothing() -> None:
    """After apply the plan is empty; so it is whatever the order the catalog gives things in."""
    wanted, before = wanting("a", "b"), with_tables(table(2, "b"), table(1, "a"))
    live, outbox = applied(wanted, before)
    assert outbox_plan.decide(wanted, live, outbox) == Plan()
    shuffled = replace(outbox, triggers=outbox.triggers[::-1], tracked=outbox.tracked[::-1])
    assert outbox_plan.decide(wanted, live, shuffled) == Plan()


def test_application_tables_are_waited_for_last() -> None:
    """Between the first trigger and the end of the transaction nothing is made that could be made before."""
    planned = outbox_plan.decide(wanting("a", "b"), with_tables(table(1, "a"), table(2, "b")), EMPTY)
    waits = [step.waits_for for step in planned.steps]
    first = next(index for index, one in enumerate(waits) if one is not None)
    assert waits[first:] == [("public", "a"), ("public", "b")]


def test_a_number_is_never_given_twice() -> None:
    """Not even after the table that had the highest one is gone, with its row and its function."""
    live, outbox = applied(wanting("a"), with_tables(table(1, "a"), table(2, "b")))
    gone = replace(outbox, tracked=(), triggers=(), last_number=7)
    own = {key: mark for key, mark in live.own_objects.items() if key != ("function", "capture_1")}
    planned = outbox_plan.decide(wanting("b"), replace(live, own_objects=own), gone)
    assert any("capture_8()" in text or '"capture_8"' in text for text in texts(planned))
    assert not any("capture_1" in text for text in texts(planned))


def test_a_table_is_known_by_its_trigger_whatever_its_number_was_stored_for() -> None:
    """After a restore into the same server the stored oid may be another table's: the trigger decides."""
    wanted = wanting("a", "b")
    live, outbox = applied(wanted, with_tables(table(1, "a"), table(2, "b")))
    swapped = tuple(replace(one, relation=3 - one.relation) for one in outbox.tracked)
    statements = texts(outbox_plan.decide(wanted, live, replace(outbox, tracked=swapped)))
    assert [text.split("\n")[0] for text in statements] == ["update wal_tracker.tracked"] * 2
    assert ('"a"\'::regclass' in statements[0], "where id = 1" in statements[0]) == (True, True)


def test_two_tables_that_change_names_keep_their_numbers() -> None:
    """The numbers follow the tables, not the names."""
    wanted = wanting("a", "b")
    live, outbox = applied(wanted, with_tables(table(1, "a"), table(2, "b")))
    renamed = replace(live, tables=with_tables(table(2, "a"), table(1, "b")).tables)
    now = tuple(replace(one, table=("public", {1: "b", 2: "a"}[one.relation])) for one in outbox.triggers)
    statements = texts(outbox_plan.decide(wanted, renamed, replace(outbox, triggers=now)))
    assert len(statements) == 2
    assert all(text.startswith("update wal_tracker.tracked") for text in statements)


@pytest.mark.parametrize(
    ("type_oid", "is_pinned"),
    [
        (TEXT, False), (1184, False), (1185, False), (114, False), (3904, False), (600, True), (FLOAT8, True),
        (1022, True), (17, True), (1186, True), (790, True), (3910, True), (99999, True),
        (20001, False), (20002, True), (20003, True), (20004, False), (20005, True), (20006, False), (20007, True),
    ],
)  # fmt: skip
def test_settings_are_pinned_where_a_types_text_hangs_on_them(type_oid: int, is_pinned: bool) -> None:
    """Directly, or inside of arrays, domains and composites; and for every type nobody knows."""
    types = TypeCatalog(
        [
            PgType(20001, "mood", PgTypeKind.ENUM),
            PgType(20002, "precise", PgTypeKind.DOMAIN, base=FLOAT8),
            PgType(20003, "pairs", PgTypeKind.COMPOSITE, attributes=(("a", TEXT), ("b", 20002))),
            PgType(20004, "public.citext"),
            PgType(20005, "public.date"),
            PgType(20006, "itself", PgTypeKind.COMPOSITE, attributes=(("a", 20006), ("b", TEXT))),
            PgType(20007, "spans", PgTypeKind.RANGE),
        ]
    )
    planned = outbox_plan.decide(wanting("a"), with_tables(table(1, "a", type_oid)), replace(EMPTY, types=types))
    (function,) = [text for text in texts(planned) if 'function wal_tracker."capture_1"' in text and "create" in text]
    assert ("extra_float_digits" in function) == is_pinned
    assert ("lc_monetary" in function) == (type_oid == 790)


@pytest.mark.parametrize(
    "changed",
    [
        {"is_strict": True},
        {"ignored": {("public", "a"): frozenset({"unheard_of"})}},
    ],
)
def test_a_function_is_replaced_exactly_when_what_it_is_made_from_changed(changed: dict[str, object]) -> None:
    """Its mark holds a fingerprint; what is ignored elsewhere changes nothing."""
    wanted = wanting("a")
    live, outbox = applied(wanted, with_tables(table(1, "a")))
    assert len(outbox_plan.decide(replace(wanted, **changed), live, outbox).steps) == 3  # type: ignore[arg-type]
    elsewhere = replace(wanted, ignored={("public", "b"): frozenset({"c"})})
    assert outbox_plan.decide(elsewhere, live, outbox) == Plan()
