"""The catalog as the rooms above see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support.postgres import Database
from wal_tracker.model import ReplicaIdentity
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.source.catalog import KeptCatalog, Table, TableKind, identity_problem, read_relations
from wal_tracker.source.connection import Session


def described(database: Database) -> tuple[TypeCatalog, list[Table]]:
    """Types and tables as they are now."""
    with closing(KeptCatalog(database.dsn)) as catalog:
        return catalog.describe()


def test_types_of_the_database_are_known_by_oid_and_name(database: Database) -> None:
    """Enums, domains over domains, composites, ranges, and arrays of each."""
    database.sql("create type mood as enum ('sad', 'happy')")
    database.sql("create domain amount as numeric(10, 2)")
    database.sql("create domain price as amount check (value > 0)")
    database.sql("create type place as (street text, number int)")
    database.sql("create type span as range (subtype = int)")
    database.sql("create table t (id int primary key, m mood, ms mood[], p price, l place, s span, b bigint[])")
    types, (table,) = described(database)
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
    _, (table,) = described(database)
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
    _, (table,) = described(database)
    assert table.relation.key == ("id", "note")
    assert identity_problem(table) is None


def test_dropped_columns_are_gone(database: Database) -> None:
    """A number in the catalog is no longer a column."""
    database.sql("create table t (id int primary key, a int, b int)")
    database.sql("alter table t drop column a")
    _, (table,) = described(database)
    assert [column.name for column in table.relation.columns] == ["id", "b"]


def test_views_are_told_from_tables(database: Database) -> None:
    """The catalog has tables only; a view is found to say that it is one."""
    database.sql("create table t (id int primary key)")
    database.sql("create view v as select * from t")
    _, tables = described(database)
    assert [table.relation.table for table in tables] == ["t"]
    with Session(database.dsn) as session:
        assert {table.relation.table: table.kind for table in read_relations(session)} == {
            "t": TableKind.TABLE,
            "v": TableKind.VIEW,
        }


@pytest.fixture
def kept(database: Database) -> Iterator[KeptCatalog]:
    """The catalog of a database with a table, described once."""
    database.sql("create table t (id int primary key, note text)")
    with closing(KeptCatalog(database.dsn)) as catalog:
        catalog.describe()
        yield catalog


@pytest.mark.parametrize(
    "change",
    [
        "alter table t add column more int",
        "alter table t drop column note",
        "alter table t rename column note to remark",
        "alter table t alter column id type bigint",
        "alter table t rename to u",
        "alter table t replica identity full",
        "alter table t drop constraint t_pkey",
        "alter table t set unlogged",
        "drop table t",
        "create table u (id int)",
        "create type mood as enum ('sad')",
        "create schema other",
    ],
)
def test_a_kept_catalog_notices_every_change(kept: KeptCatalog, database: Database, change: str) -> None:
    """And describes what is there then; asked again, nothing has changed."""
    before = kept.describe()
    database.sql(change)

    assert kept.has_changed()
    assert kept.describe() is not before
    assert not kept.has_changed()


def test_a_kept_catalog_is_not_read_again_for_nothing(kept: KeptCatalog, database: Database) -> None:
    """Rows, VACUUM and ANALYZE change no table's description."""
    before = kept.describe()
    database.sql("insert into t select n, 'a' from generate_series(1, 1000) as n")
    database.sql("vacuum analyze t")

    assert not kept.has_changed()
    assert kept.describe() is before


def test_a_kept_catalog_comes_back_after_its_connection_was_cut(kept: KeptCatalog, database: Database) -> None:
    """As when the server was restarted."""
    database.sql("create table u (id int)")
    database.sql(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s and pid <> pg_backend_pid()",
        database.name,
    )
    _, tables = kept.describe()

    assert [table.relation.table for table in tables] == ["t", "u"]
