"""`wal_tracker init`: the real command against real tables, and what it writes."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2.extensions
import pytest

from tests.support import commands
from tests.support.commands import Done
from tests.support.postgres import Database, Server
from wal_tracker.config.load import load
from wal_tracker.config.model import Config

SHOP = """
create type order_status as enum ('placed', 'paid', 'shipped');
create table users (id bigint primary key, email text not null, hashed_password text, plan text);
create table orders (id bigint primary key, user_id bigint references users, status order_status not null, total int);
create table schema_migrations (version text primary key);
create schema billing;
create table billing.invoices (id int primary key, customer_id int, state text check (state in ('open', 'paid')));
"""

ODD = r'''
create schema "my.schema";
create table "my.schema"."My ""Table""" ("Odd Name" int primary key, "in" int, "a'b\c" int, "$token" text, state text);
create table "select" (id int primary key, "user" text, "order" int, "new" text);
create table "ünï" (id int primary key, "it's paid" boolean);
create table parts (id int, at date, status text, primary key (id, at)) partition by range (at);
create table parts_2026 partition of parts for values from ('2026-01-01') to ('2027-01-01');
create table nokey (a int, b text);
create unlogged table fast (id int primary key);
create table generated (id int primary key, a int, b int generated always as (a * 2) stored);
create table wide (id int primary key);
create table empty ();
'''


class Room:
    """A directory to write to, and a database to look at."""

    def __init__(self, directory: Path, database: Database) -> None:
        self.directory = directory
        self.database = database

    def init(self, *arguments: str) -> Done:
        """`wal_tracker init …`, writing here."""
        env = {"DATABASE_URL": self.database.dsn}
        return commands.run("init", "--output", str(self.directory), *arguments, env=env)

    def validate(self, *arguments: str) -> Done:
        """`validate --database` of what was written."""
        return commands.run(
            "validate", "--config", str(self.path), "--database", *arguments, env={"DATABASE_URL": self.database.dsn}
        )

    @property
    def path(self) -> Path:
        """The configuration."""
        return self.directory / "wal_tracker.yaml"

    def config(self) -> Config:
        """The configuration as it loads."""
        return load(self.path, {"DATABASE_URL": self.database.dsn})

    def events(self) -> set[str | None]:
        """The names of events there are, of simple rules."""
        return {rule.event for rule in self.config().rules}

    def tables(self) -> list[str]:
        """The tables that are tracked."""
        return sorted({f"{rule.schema}.{rule.table}" for rule in self.config().rules})


@pytest.fixture
def room(tmp_path: Path, database: Database) -> Room:
    """With a small shop."""
    database.sql(SHOP)
    return Room(tmp_path, database)


def test_a_draft_validates_on_its_database_as_it_is(room: Room) -> None:
    """In WAL mode, where no old rows are sent: what needs them is a comment, with its SQL."""
    done = room.init("--all")

    assert done.code == 0, done.stderr
    assert room.validate().stdout == f"ok: {len(room.config().rules)} rules, held against the database\n"
    assert room.config().source.mode == "wal"
    assert room.tables() == ["billing.invoices", "public.orders", "public.users"]
    assert {"user_signed_up", "order_created", "invoice_created"} <= room.events()
    assert "#   ALTER TABLE public.orders REPLICA IDENTITY FULL;" in room.path.read_text()


def test_what_is_a_comment_becomes_a_rule(room: Room) -> None:
    """Once the SQL beside it has run and its signs are taken away, it validates."""
    room.init("--all")
    text = room.path.read_text()
    for statement in set(re.findall(r"ALTER TABLE .* FULL;", text)):
        room.database.sql(statement)
    lines = [line for line in text.splitlines() if not re.search("ALTER TABLE|or, if `wal_tracker apply`", line)]
    room.path.write_text("\n".join(re.sub(r"^  # (?=  |[\w.]+:$)", "  ", line) for line in lines))

    assert room.validate().code == 0, room.validate().stdout
    assert "user_changed_email" in room.events()
    (orders,) = [rule for rule in room.config().rules if (rule.table, rule.ops) == ("orders", ("update",))]
    assert list(orders.blocks) == ["order_placed", "order_paid", "order_shipped"]


def test_a_trigger_mode_draft_has_every_rule(room: Room) -> None:
    """Triggers see old rows whole; secrets are ignored."""
    done = room.init("--all", "--mode", "trigger")

    assert done.code == 0, done.stderr
    assert room.validate().code == 0, room.validate().stdout
    assert {"user_changed_email", "user_deleted", "user_signed_up"} <= room.events()
    assert "not active" not in room.path.read_text()
    assert room.config().ignore == {("public", "users"): frozenset({"hashed_password"})}


@pytest.mark.parametrize("mode", ["wal", "trigger"])
def test_whatever_tables_and_columns_are_called(room: Room, mode: str) -> None:
    """Several schemas, quotes, dots, CEL's and SQL's words, partitions, no key, no columns: it validates."""
    room.database.sql(ODD)
    names = ", ".join(f"c{number} int" for number in range(200))
    room.database.sql(f"create table very_wide (id int primary key, {names})")
    done = room.init("--all", "--mode", mode)

    assert done.code == 0, done.stderr
    assert room.validate().code == 0, room.validate().stdout
    assert "public.parts" in room.tables()
    assert "public.parts_2026" not in room.tables()
    assert 'my.schema.My "Table"' in room.tables()
    assert room.config().ignore["my.schema", 'My "Table"'] == {"$token"}
    without_wal = {"public.nokey", "public.fast", "public.empty"}
    assert without_wal.issubset(room.tables()) is (mode == "trigger")
    if mode == "wal":
        assert "nokey has no primary key" in done.stderr.replace("public.", "")
        assert "fast is not tracked: it is unlogged" in done.stderr


def test_what_apply_needs_is_there(room: Room) -> None:
    """`plan` finds nothing in the way of a WAL mode draft."""
    room.database.sql(ODD)
    room.init("--all")
    done = commands.run("plan", "--config", str(room.path), env={"DATABASE_URL": room.database.dsn})

    assert done.code == 0, done.stderr


@pytest.mark.parametrize("mode", ["wal", "trigger"])
def test_what_is_drafted_runs(room: Room, mode: str) -> None:
    """init, apply, run: rows in tables of every kind become the events the draft names, and nothing fails."""
    room.database.sql(ODD)
    room.database.sql("alter table orders replica identity full")
    assert room.init("--all", "--mode", mode).code == 0

    def do(*arguments: str) -> Done:
        return commands.finished(*arguments, env={"DATABASE_URL": room.database.dsn}, cwd=room.directory)

    applied = do("apply", "--yes")
    assert applied.code == 0, applied.stderr
    room.database.sql(
        '''
        insert into users values (1, 'ann@example.com', 'a secret', 'free');
        insert into orders values (5, 1, 'placed', 7);
        update orders set status = 'paid';
        insert into "my.schema"."My ""Table""" values (1, 2, 3, 'a secret', 'on');
        insert into "select" values (1, 'x', 2, 'y');
        insert into "ünï" values (1, true);
        insert into parts values (1, '2026-06-01', 'new');
        delete from parts;
        insert into generated values (1, 2);
        '''
    )
    done = do("run", "--until-caught-up")

    assert done.code == 0, done.stderr
    events = {event["event"]: event for event in done.lines()}
    assert set(events) == {
        "user_signed_up", "order_created", "order_paid", "my_table_created", "select_created", "ünï_created",
        "part_created", "part_deleted", "generated_created",
    }  # fmt: skip
    assert events["order_paid"]["properties"] == {"id": 5, "user_id": 1, "from": "placed"}
    assert events["order_paid"]["distinct_id"] == "1"
    assert events["my_table_created"]["properties"] == {"Odd Name": 1, "in": 2, "a'b\\c": 3, "state": "on"}
    assert {event["source"]["mode"] for event in events.values()} == {mode}
    assert "a secret" not in done.stdout + done.stderr
    assert do("dlq", "list", "--json").lines() == []


def test_tables_are_chosen_by_name(room: Room) -> None:
    """With their schema, or without where that is clear; a misspelt one is told with what was meant."""
    assert room.init("--tables", "users, invoices").code == 0
    assert room.tables() == ["billing.invoices", "public.users"]
    wrong = room.init("--tables", "userz", "--force")
    assert wrong.code == 2
    assert "did you mean users" in wrong.stderr


def test_tables_of_migration_tools_are_left_out_of_all(room: Room) -> None:
    """And told; by name they are taken."""
    done = room.init("--yes")
    assert "left out, as tables of migration tools: schema_migrations" in done.stderr
    assert room.init("--tables", "schema_migrations", "--force").code == 0
    assert room.tables() == ["public.schema_migrations"]


def test_a_draft_that_could_not_be_read_is_not_written(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a configuration may be long: exit 2, and what to do."""
    monkeypatch.setattr("wal_tracker.cli.init.MAX_BYTES", 3000)
    done = room.init("--all")

    assert done.code == 2
    assert "choose fewer with --tables" in done.stderr
    assert not room.path.exists()


@pytest.mark.standby
def test_a_standby_is_told_from_a_primary(standby: Server, tmp_path: Path) -> None:
    """WAL mode works on it; what is set up, is set up on its primary."""
    assert standby.primary is not None
    database = standby.primary.create_database("drafted")
    database.sql(SHOP)
    standby.catch_up()
    done = commands.run("init", "--all", "--output", str(tmp_path), "--dsn", standby.dsn("drafted"))

    assert done.code == 0, done.stderr
    assert "mode wal" in done.stderr
    assert "source.primary_dsn" in done.stderr
    assert "# primary_dsn: $PRIMARY_URL" in (tmp_path / "wal_tracker.yaml").read_text()
    validated = commands.run(
        "validate", "--config", str(tmp_path / "wal_tracker.yaml"), "--database",
        env={"DATABASE_URL": standby.dsn("drafted")},
    )  # fmt: skip
    assert validated.code == 0, validated.stdout


def test_nothing_is_overwritten_unasked(room: Room) -> None:
    """A Dockerfile of somebody else's in the way: exit 2, and neither file is written."""
    theirs = room.directory / "Dockerfile"
    theirs.write_text("FROM scratch\n")
    done = room.init("--all")

    assert done.code == 2
    assert "--force" in done.stderr
    assert (theirs.read_text(), room.path.exists()) == ("FROM scratch\n", False)
    assert room.init("--all", "--force").code == 0
    assert theirs.read_text() != "FROM scratch\n"


def test_without_a_terminal_the_answer_is_an_option(room: Room) -> None:
    """Exit 2, before anything is asked of the database."""
    done = commands.run("init", "--output", str(room.directory), "--dsn", "host=127.0.0.1 port=1")

    assert done.code == 2
    assert "--tables" in done.stderr
    assert not room.path.exists()


def test_a_database_without_tables_exits_3(database: Database, tmp_path: Path) -> None:
    """There is nothing to draft."""
    done = commands.run("init", "--yes", "--output", str(tmp_path), "--dsn", database.dsn)

    assert done.code == 3
    assert list(tmp_path.iterdir()) == []


def test_the_connection_string_is_not_written(room: Room) -> None:
    """Neither to the files nor to the screen; --dsn is said to be needed in the environment."""
    done = commands.run("init", "--all", "--output", str(room.directory), "--dsn", room.database.dsn)
    password = psycopg2.extensions.parse_dsn(room.database.dsn)["password"]

    written = "".join(path.read_text() for path in room.directory.iterdir())
    assert password not in written + done.stdout + done.stderr
    assert "dsn: $DATABASE_URL" in written
    assert "export DATABASE_URL" in done.stderr


def test_init_writes_nothing_to_the_database(room: Room) -> None:
    """It works in a read-only session."""
    done = room.init("--all", "--dsn", f"{room.database.dsn} options='-c default_transaction_read_only=on'")

    assert done.code == 0, done.stderr


def test_writes_and_rows_are_shown(room: Room) -> None:
    """From the statistics the server keeps; the busy table is pointed out."""
    room.database.sql("insert into users select n, 'a@x' from generate_series(1, 3000) as n")
    room.database.sql("select pg_stat_force_next_flush()" if room.database.server.major >= 15 else "select 1")
    room.database.sql("analyze users")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        document = room.init("--all", "--json", "--force").json()
        (users,) = [one for one in document["tables"] if one["table"] == "users"]
        if users["inserts"] == 3000:
            break
    assert (users["rows"], users["inserts"], users["state"]) == (3000, 3000, "tracked")
    assert users["ignored"] == ["hashed_password"]
    shown = room.init("--all", "--force").stdout
    assert re.search(r"users +3,000 .*busy: 100% of all writes", shown), shown


def test_the_mode_follows_from_what_the_server_allows(server: Callable[..., Server], tmp_path: Path) -> None:
    """wal_level = replica, or a role that may not replicate: trigger mode, and why."""
    replica = server(wal_level="replica")
    room = Room(tmp_path, replica.create_database())
    room.database.sql(SHOP)
    document = room.init("--all", "--json").json()
    assert document["mode"] == "trigger"
    assert "wal_level is replica" in document["why"]
    assert room.validate().code == 0

    asked = room.init("--all", "--mode", "wal", "--force")
    assert "wal mode is not possible yet: wal_level is replica" in asked.stderr


def test_a_role_without_rights_is_told_what_is_missing(room: Room) -> None:
    """It sees the tables, may not replicate, and owns nothing: trigger mode, and who has to run `apply`."""
    room.database.sql("create role looker login password 'x'")
    try:
        dsn = psycopg2.extensions.make_dsn(room.database.dsn, user="looker", password="x")
        done = room.init("--tables", "users", "--dsn", dsn)
        assert done.code == 0, done.stderr
        assert "mode trigger: no wal mode: role 'looker' may not replicate" in done.stderr
        assert "'looker' does not own users" in done.stderr
        assert "may not create a schema" in done.stderr
    finally:
        room.database.sql("drop role looker")


def test_the_dockerfile_runs_it_without_rights_and_without_secrets(room: Room) -> None:
    """A base by its full version, a user of its own, a health check that asks something real."""
    room.init("--all")
    text = (room.directory / "Dockerfile").read_text()
    instructions = [line.split(None, 1) for line in text.splitlines() if re.match(r"[A-Z]+ ", line)]
    found: dict[str, list[str]] = {}
    for name, rest in instructions:
        found.setdefault(name, []).append(rest)

    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", *found["FROM"])
    assert found["USER"] == ["10001"]
    assert found["CMD"] == ['["wal_tracker", "run"]']
    (health,) = found["HEALTHCHECK"]
    assert commands.run(*re.findall(r'"(\w+)"', health)[1:], "--help").code == 0
    assert not re.search(r"postgres(ql)?://|password|DATABASE_URL=", text.replace("PATH-TO", ""))
    assert [copy.split()[0].rsplit(".")[-1] for copy in found["COPY"]] == ["whl", "yaml"]


# On a terminal -----------------------------------------------------------------------------------


class Terminal:
    """`wal_tracker init` on a terminal, typed at by a person."""

    def __init__(self, room: Room, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "wal_tracker", "init", "--output", str(room.directory), *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "DATABASE_URL": room.database.dsn, "TERM": "dumb"},
            close_fds=True,
        )
        os.close(theirs)
        self.seen = ""

    def expect(self, text: str, timeout_s: float = 30) -> None:
        """Read until this is on the screen, after what was waited for before."""
        deadline = time.monotonic() + timeout_s
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self._ours], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self._ours, 65536).decode(errors="replace")
                except OSError:  # Linux says EIO when the other side has gone.
                    break
        assert text in self.seen, self.seen
        self.seen = self.seen.split(text, 1)[1]

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self._ours, line.encode() + b"\n")

    def leave(self) -> int:
        """Wait for the end; the exit code."""
        while True:
            try:
                if not os.read(self._ours, 65536):
                    break
            except OSError:
                break
        os.close(self._ours)
        return self.process.wait(30)


@pytest.fixture
def terminal(room: Room) -> Any:
    """Starts it, and sees that it ends."""
    started: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        started.append(Terminal(room, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def test_a_person_chooses_by_number(room: Room, terminal: Callable[..., Terminal]) -> None:
    """An answer that cannot be understood is asked again; then the choice is written, once it is confirmed."""
    session = terminal()
    session.expect("billing.invoices")
    session.expect("Which tables?")
    session.type("1-9")
    session.expect("there are tables 1 to 4")
    session.expect("Which tables?")
    session.type("1, users")
    session.expect("[Y/n]")
    assert not room.path.exists()
    session.type("")
    session.expect("next:")

    assert session.leave() == 0
    assert room.tables() == ["billing.invoices", "public.users"]


def test_a_person_may_leave(room: Room, terminal: Callable[..., Terminal]) -> None:
    """Nothing is written; exit 130."""
    session = terminal()
    session.expect("Which tables?")
    session.type("")
    session.expect("[Y/n]")
    session.type("n")

    assert session.leave() == 130
    assert list(room.directory.iterdir()) == []
