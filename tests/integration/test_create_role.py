"""`wal_tracker create-role`: a role that can do what `run` does, found by running with it, and nothing else."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.support.postgres import Database
from tests.support.project import RULES, Project
from wal_tracker.source.role import scram_verifier, with_login

NAME = "wt_created"


@pytest.fixture
def project(database: Database, tmp_path: Path) -> Any:
    """A project that tracks inserts of users, in a database nobody may connect to without being allowed to."""
    database.sql("create table users (id bigint primary key, email text)")
    database.sql(f'revoke connect on database "{database.name}" from public')
    yield Project(tmp_path, database)
    if database.sql("select 1 from pg_roles where rolname = %s", NAME):
        database.sql(f"drop owned by {NAME}; drop role {NAME}")


def created(project: Project, mode: str) -> str:
    """Set the mode up, make the role, and let the project use it from now on; its connection string."""
    assert project.run("apply", "--mode", mode, "--yes").code == 0
    done = project.run("create-role", "--mode", mode, "--name", NAME, "--yes")
    assert done.code == 0
    dsn = done.stdout.strip()
    project.configure(RULES, dsn=dsn)
    return dsn


@pytest.mark.parametrize("mode", ["wal", "trigger"])
def test_the_pipeline_runs_with_it(project: Project, mode: str) -> None:
    """Everything committed is delivered and confirmed, twice in a row, and what is found wrong is nothing."""
    created(project, mode)
    for number in (1, 2):
        project.users((number, "a@x"))
        done = project.finished("run", "--mode", mode, "--until-caught-up")
        assert done.code == 0, done.stderr
        assert "warning" not in done.stderr
    delivered = [json.loads(line) for line in project.events_path.read_text().splitlines()]
    assert [event["properties"]["id"] for event in delivered] == [1, 2]
    assert [event["source"]["mode"] for event in delivered] == [mode] * 2
    assert project.run("plan", "--mode", mode, "--json").json()["steps"] == []


@pytest.mark.parametrize("mode", ["wal", "trigger"])
def test_it_may_do_nothing_else(project: Project, mode: str) -> None:
    """No table of the application, nothing to create, no attribute beyond its mode's."""
    connection = psycopg2.connect(created(project, mode))
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in (
            "select from users",
            "insert into users values (1)",
            "create table wal_tracker.mine (id int)",
            "create schema mine",
            "create role mine",
            "drop function wal_tracker.emit(jsonb)",
            *(
                [
                    "insert into wal_tracker.outbox_0 select",
                    "delete from wal_tracker.outbox_0",
                    "drop table wal_tracker.claim",
                ]
                if mode == "trigger"
                else []
            ),
        ):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cursor.execute(statement)
    assert project.database.sql(
        "select rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication from pg_roles where rolname = %s",
        NAME,
    ) == [(False, False, False, False, mode == "wal")]
    connection.close()


def test_the_connection_string_is_shown_once_and_its_password_nowhere_else(project: Project) -> None:
    """stdout holds exactly it; what is said on stderr, and what the server stored, is a verifier."""
    project.run("apply", "--yes")
    done = project.run("create-role", "--name", NAME, "--yes")
    (dsn,) = done.stdout.splitlines()
    password = psycopg2.extensions.parse_dsn(dsn)["password"]
    assert password not in done.stderr
    assert "SCRAM-SHA-256$" in done.stderr
    again = project.run("create-role", "--name", NAME, "--yes")
    assert (again.code, again.stdout) == (0, "")
    assert "keeps its password" in again.stderr
    psycopg2.connect(dsn).close()


def test_print_sql_only_prints(project: Project) -> None:
    """The SQL on stdout, run by somebody else, makes the role with the connection string that was on stderr."""
    project.run("apply", "--yes")
    done = project.run("create-role", "--name", NAME, "--print-sql")
    assert done.code == 0
    assert project.database.sql("select 1 from pg_roles where rolname = %s", NAME) == []
    project.database.sql(done.stdout)
    psycopg2.connect(done.stderr.strip().rpartition("connects with ")[2]).close()


def test_it_asks_and_refuses_what_is_not_ours(project: Project) -> None:
    """Without a terminal --yes is required; before apply, and for a role somebody else made, there is a finding."""
    assert project.run("create-role", "--name", NAME, "--yes").code == 3
    project.run("apply", "--yes")
    assert project.run("create-role", "--name", NAME).code == 2
    project.database.sql(f"create role {NAME}")
    refused = project.run("create-role", "--name", NAME, "--yes")
    assert (refused.code, refused.stdout) == (3, "")
    assert "not ours" in refused.stderr


def test_a_role_of_one_mode_is_extended_to_the_other(project: Project) -> None:
    """It keeps what it may do, because a change of mode needs both sides."""
    created(project, "trigger")
    project.configure(RULES)
    project.run("apply", "--mode", "wal", "--yes")
    assert project.run("create-role", "--mode", "wal", "--name", NAME, "--yes").code == 0
    assert project.database.sql(
        "select rolreplication, has_table_privilege(oid, 'wal_tracker.outbox_0', 'truncate') from pg_roles "
        "where rolname = %s",
        NAME,
    ) == [(True, True)]


def test_a_verifier_is_what_the_server_makes_itself(database: Database) -> None:
    """The same password, salt and rounds give the same verifier."""
    database.sql("set password_encryption = 'scram-sha-256'; create role wt_scram password 'secret'")
    ((stored,),) = database.sql("select rolpassword from pg_authid where rolname = 'wt_scram'")
    salt = base64.b64decode(stored.split(":")[1].split("$")[0])
    assert scram_verifier("secret", salt) == stored
    database.sql("drop role wt_scram")


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:old@db.example:6432/shop?sslmode=require&application_name=a%20b",
        "postgres://db.example/shop",
        "postgresql://me@[::1]:5433/sh%2Fop",
        "postgresql://a:1,b:2/shop?target_session_attrs=read-write",
        "host=/var/run/postgresql dbname=shop user=me password=old",
        "postgresql:///shop?host=/var/run/postgresql",
    ],
)
def test_a_connection_string_is_the_old_one_with_another_login(dsn: str) -> None:
    """Host, port, database and every option stay; a URL stays one where it can."""
    parsed = psycopg2.extensions.parse_dsn(with_login(dsn, "we@us", "p/w:d"))
    expected = {**psycopg2.extensions.parse_dsn(dsn), "user": "we@us", "password": "p/w:d"}
    assert parsed == expected
