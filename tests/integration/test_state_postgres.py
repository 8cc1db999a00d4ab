"""The state store in PostgreSQL: the same promises as in a file, and what only a server can do to it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from tests.support.postgres import Database
from tests.support.state import StateStorePromises, url_of
from wal_tracker.errors import StateError
from wal_tracker.lsn import LSN
from wal_tracker.state import open_state
from wal_tracker.state.base import Cursor

VERSION_1 = Path(__file__).parents[1] / "support" / "state_1"


@pytest.fixture
def url(database: Database) -> str:
    """Of this test's store."""
    return url_of(database)


class TestPostgres(StateStorePromises):
    """A store in a schema."""

    def make_version_1(self, url: str, *statements: str) -> None:
        """By the script of that version."""
        with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute((VERSION_1 / "postgres.sql").read_text())
            for statement in statements:
                cursor.execute(statement)


def test_it_keeps_to_its_own_schema(database: Database, url: str) -> None:
    """Nothing is left in anybody else's."""
    with closing(open_state(url)) as store:
        store.save_cursors({"a": Cursor(LSN(1))})
    with closing(psycopg2.connect(database.dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "select distinct table_schema from information_schema.tables "
            "where table_schema not in ('pg_catalog', 'information_schema')"
        )
        assert cursor.fetchall() == [("wal_tracker_state",)]


def test_a_lost_connection_is_told_and_lets_go_of_the_lock(database: Database, url: str) -> None:
    """Whoever starts next may have it; the one that lost it cannot go on."""
    store = open_state(url)
    with pytest.raises(StateError, match="start again") as caught, store.exclusive():
        with closing(psycopg2.connect(database.dsn)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
                "where application_name = 'wal_tracker state'"
            )
        store.save_cursors({"a": Cursor(LSN(1))})
    assert psycopg2.extensions.parse_dsn(database.dsn)["password"] not in str(caught.value)
    with closing(open_state(url)) as other, other.exclusive():
        assert other.cursors() == {}


def test_a_role_that_may_not_make_the_schema_is_told_what_to_grant(database: Database) -> None:
    """And one that was granted what is there needs no more."""
    role = f"{psycopg2.extensions.parse_dsn(database.dsn)['dbname']}_state"
    with closing(psycopg2.connect(database.dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"create role {role} login password 'geheim'")
            try:
                with pytest.raises(StateError, match=r"permission denied.*sql/state/postgres.sql"):
                    open_state(url_of(database, role, "geheim"))
                open_state(url_of(database)).close()
                cursor.execute(f'grant usage on schema wal_tracker_state to "{role}"')
                cursor.execute(f'grant all on all tables in schema wal_tracker_state to "{role}"')

                with closing(open_state(url_of(database, role, "geheim"))) as store:
                    store.save_cursors({"a": Cursor(LSN(1))})
            finally:
                cursor.execute(f'drop owned by "{role}"')
                cursor.execute(f'drop role "{role}"')
