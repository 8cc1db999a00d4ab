"""The catalog as the rooms above see it."""

from __future__ import annotations

from tests.support.postgres import Database
from wal_tracker.model import ReplicaIdentity
from wal_tracker.source.catalog import TableKind, describe, identity_problem, read_relations
from wal_tracker.source.connection import Session


def test_types_of_the_database_are_known_by_oid_and_name(database: Database) -> None:
    """Enums, domains over domains, composites, ranges, and arrays of each."""
    database.sql("create type mood as enum ('sad', 'happy')")
    database.sql("create domain amount as numeric(10, 2)")
    database.sql("create domain price as amount check (value > 0)")
    database.sql("create type place as (street text, number int)")
    database.sql("create type span as range (subtype = int)")
    database.sql("create table t (id int primary key, m mood, ms mood[], p price, l place, s span, b bigint[])")
    types, (table,) = describe(database.dsn)
    seen = {column.name: types.cel_type(column.type_oid) for column in table.relation.columns}
    assert seen == {
        "id": "int",
        "m": "string",
        "ms": "list",
        "p": "numeric",
        "l": "map",
        "s": "string",
        "b": "list",
    }
    assert types.parse_name("mood[]") is not None


def test_a_table_is_described_with_its_identity_and_toast(database: Database) -> None:
    """Keys in table order, what may be TOASTed, what is generated."""
    database.sql(
        "create table t (a int, id bigint, bio text, code varchar(3), twice int generated always as (a * 2) stored, "
        "primary key (id, a))"
    )
    _, (table,) = describe(database.dsn)
    assert table.relation.name == "public.t"
    assert table.relation.replica_identity is ReplicaIdentity.DEFAULT
    assert table.relation.key == ("a", "id")
    assert table.toastable == {"bio", "code"}
    assert table.generated == {"twice"}
    assert table.is_ours
    assert identity_problem(table) is None


def test_full_identity_has_every_column_as_key(database: Database) -> None:
    """As the Relation message has it."""
    database.sql("create table t (id int, note text)")
    database.sql("alter table t replica identity full")
    _, (table,) = describe(database.dsn)
    assert table.relation.key == ("id", "note")
    assert identity_problem(table) is None


def test_dropped_columns_are_gone(database: Database) -> None:
    """A number in the catalog is no longer a column."""
    database.sql("create table t (id int primary key, a int, b int)")
    database.sql("alter table t drop column a")
    _, (table,) = describe(database.dsn)
    assert [column.name for column in table.relation.columns] == ["id", "b"]


def test_views_are_told_from_tables(database: Database) -> None:
    """`describe` has tables only; a view is found to say that it is one."""
    database.sql("create table t (id int primary key)")
    database.sql("create view v as select * from t")
    _, tables = describe(database.dsn)
    assert [table.relation.table for table in tables] == ["t"]
    with Session(database.dsn) as session:
        assert {table.relation.table: table.kind for table in read_relations(session)} == {
            "t": TableKind.TABLE,
            "v": TableKind.VIEW,
        }
