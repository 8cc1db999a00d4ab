"""Plan, apply and drop of trigger mode against real servers: made once, followed, and removed to the last object."""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import matrix
from tests.support.capture import capture, captured, wanting
from tests.support.postgres import Database, Server, wait_until
from tests.support.project import Project
from wal_tracker.errors import PreflightFailed, SourceUnavailable
from wal_tracker.secret import Secret
from wal_tracker.source import setup
from wal_tracker.source.plan import Plan


@pytest.fixture
def shop(database: Database) -> Database:
    """Two tables."""
    database.sql("create table users (id int primary key, email text, password text)")
    database.sql("create table orders (id int)")
    return database


def triggers(database: Database) -> list[tuple[str, str]]:
    """Table and trigger of everything that captures."""
    return database.sql(
        "select tgrelid::regclass::text, tgname from pg_trigger where tgname like '00\\_wal\\_tracker%' order by 1, 2"
    )


def numbers(database: Database) -> dict[str, int]:
    """The number of each tracked table."""
    return dict(database.sql("select table_name, id from wal_tracker.tracked"))


def test_apply_makes_what_is_missing_and_twice_changes_nothing(shop: Database) -> None:
    """Outbox, reader, functions and triggers, no key needed; the second plan is empty, a second apply runs nothing."""
    wanted = wanting(shop, "users", "orders")
    before = setup.plan(wanted)
    assert before.findings == ()
    assert ["--exclude-schema=wal_tracker" in note for note in before.notes] == [True, False]
    assert "a transaction id of its own" in before.notes[1]
    assert len(setup.plan(replace(wanted, is_strict=True)).notes) == 1
    assert shop.sql("select 1 from pg_namespace where nspname = 'wal_tracker'") == []
    assert setup.apply(wanted) == [step.text for step in before.steps]
    assert triggers(shop) == [
        (table, name)
        for table in ("orders", "users")
        for name in ("00_wal_tracker_capture", "00_wal_tracker_capture_truncate")
    ]
    assert shop.sql("select count(*) from pg_replication_slots where slot_name = %s", shop.name) == [(0,)]
    functions = shop.sql("select oid, xmin::text from pg_proc where pronamespace = 'wal_tracker'::regnamespace")
    assert setup.plan(wanted).steps == ()
    assert setup.apply(wanted) == []
    assert functions == shop.sql("select oid, xmin::text from pg_proc where pronamespace = 'wal_tracker'::regnamespace")


def test_the_reader_begins_where_capture_does(shop: Database) -> None:
    """What commits after apply is not visible in the snapshot it stores, also when the transaction began before."""
    connection = shop.connect()
    with connection.cursor() as cursor:
        cursor.execute("begin; select pg_current_xact_id()")
        capture(shop, "users")
        cursor.execute("insert into users values (1); commit")
    shop.sql("insert into users values (2)")
    assert shop.sql("select pg_visible_in_snapshot(xid, snapshot) from wal_tracker.outbox, wal_tracker.reader") == [
        (False,),
        (False,),
    ]
    assert shop.sql("select system_identifier = (select system_identifier::text from pg_control_system()) "
                    "from wal_tracker.reader") == [(True,)]  # fmt: skip


def test_tables_follow_the_configuration(shop: Database) -> None:
    """A new one is captured, one no rule tracks any more is not; its number is never another table's."""
    capture(shop, "users")
    assert numbers(shop) == {"users": 1}
    shop.sql("insert into users values (1)")
    wanted = capture(shop, "orders")
    assert {table for table, _ in triggers(shop)} == {"orders"}
    assert shop.sql("select to_regproc('wal_tracker.capture_1') is null") == [(True,)]
    # What was captured of it is still there and finds its name; afterwards the number goes.
    assert numbers(shop) == {"users": 1, "orders": 2}
    assert any("users" in note for note in setup.plan(wanted).notes)
    shop.sql("truncate wal_tracker.outbox_0")
    assert len(setup.apply(wanted)) == 1
    assert numbers(shop) == {"orders": 2}
    capture(shop, "users", "orders")
    assert numbers(shop) == {"orders": 2, "users": 3}


def test_functions_follow_ignored_columns_capture_mode_and_types(shop: Database) -> None:
    """One function is replaced, nothing else is touched, and the table's number stays."""
    capture(shop, "users", "orders")
    for wanted in (
        wanting(shop, "users", "orders", ignored={"users": {"password"}}),
        wanting(shop, "users", "orders", ignored={"users": {"password", "email"}}),
    ):
        done = setup.apply(wanted)
        assert ["capture_1" in text for text in done if "create or replace function" in text] == [False]
        assert not any("trigger wal_tracker" in text for text in done)
        assert setup.apply(wanted) == []
    shop.sql("insert into users values (1, 'a', 'p')")
    assert captured(shop) == [("INSERT", None, {"id": 1})]
    assert (
        len([text for text in setup.apply(wanting(shop, "users", "orders", is_strict=True)) if "replace" in text]) == 2
    )
    wanted = capture(shop, "users", "orders")
    shop.sql("alter table orders add column weight float8")
    assert any("extra_float_digits" in text for text in setup.apply(wanted))
    shop.sql("alter table orders add column note text, drop column id")
    assert setup.apply(wanted) == []
    shop.sql("insert into orders values (0.1, 'n')")
    assert captured(shop, "orders") == [("INSERT", None, {"weight": 0.1, "note": "n"})]


def test_a_renamed_ignored_column_stops_apply(shop: Database) -> None:
    """It is captured by its new name: a finding, until that is ignored, or the old one is no longer."""
    wanted = capture(shop, "users", ignored={"users": {"password"}})
    shop.sql("alter table users rename password to secret")
    with pytest.raises(PreflightFailed, match=r"users has a column secret that was called password.*ignore secret"):
        setup.apply(wanted)
    assert setup.plan(wanting(shop, "users")).blocking == []
    both = capture(shop, "users", ignored={"users": {"password", "secret"}})
    assert setup.apply(both) == []
    assert setup.plan(wanting(shop, "users", ignored={"users": {"secret"}})).blocking == []
    shop.sql("alter table users drop column secret; alter table users add column password text")
    setup.apply(wanted)
    assert setup.apply(wanted) == []


def test_a_renamed_table_keeps_its_number(shop: Database) -> None:
    """Under its new name it is the same table; under the old one there is a finding that says the new name."""
    before = capture(shop, "users")
    shop.sql("alter table users rename to people; create schema crm; alter table people set schema crm")
    with pytest.raises(PreflightFailed, match=r"no table public\.users; it is called crm\.people now"):
        setup.apply(before)
    wanted = capture(shop, ("crm", "people"))
    assert shop.sql("select id, schema_name, table_name from wal_tracker.tracked") == [(1, "crm", "people")]
    assert setup.apply(wanted) == []


def test_a_table_made_anew_is_captured_again_under_its_number(shop: Database) -> None:
    """Dropped and created by a migration: apply makes the triggers, and what was captured before keeps its name."""
    wanted = capture(shop, "users")
    shop.sql("drop table users; create table users (id int)")
    assert setup.apply(wanted)
    shop.sql("insert into users values (1)")
    assert captured(shop, "users") == [("INSERT", None, {"id": 1})]
    assert numbers(shop) == {"users": 1}
    assert shop.sql("select relation = 'users'::regclass from wal_tracker.tracked") == [(True,)]
    assert setup.apply(wanted) == []


def test_what_a_hand_has_broken_is_mended(shop: Database) -> None:
    """A disabled trigger, a dropped one, a lost row of our own: apply makes it whole."""
    wanted = capture(shop, "users")
    for breakage in (
        'alter table users disable trigger "00_wal_tracker_capture"',
        "alter table users disable trigger all",
        'alter table users enable replica trigger "00_wal_tracker_capture"',
        'drop trigger "00_wal_tracker_capture_truncate" on users',
        'drop trigger "00_wal_tracker_capture_truncate" on users; drop trigger "00_wal_tracker_capture" on users',
        "delete from wal_tracker.tracked",
        "drop function wal_tracker.capture_1 cascade",
        "drop function wal_tracker.emit",
        "drop table wal_tracker.outbox_0",
        "drop table wal_tracker.tracked",
        "drop table wal_tracker.claim, wal_tracker.capture_failure, wal_tracker.switch",
        "drop table wal_tracker.reader; drop sequence wal_tracker.signal",
    ):
        shop.sql(breakage)
        assert setup.apply(wanted), breakage
        assert setup.apply(wanted) == [], breakage
        shop.sql("truncate users; insert into users values (1)")
        assert [op for op, _, _ in captured(shop, "users")][-2:] == ["TRUNCATE", "INSERT"], breakage
    assert numbers(shop) == {"users": 1}
    shop.sql("drop table wal_tracker.outbox_0, wal_tracker.reader")
    setup.drop(wanted)
    assert shop.sql("select 1 from pg_namespace where nspname = 'wal_tracker'") == []


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("create table good (id int)", "there is no table public.bad"),
        ("create view bad as select 1 as id", "public.bad is a view"),
        ("create materialized view bad as select 1 as id", "public.bad is a materialized view"),
        (
            """create type mood as enum ('a'); create domain moods as mood[]; create table bad (id int, m moods);
            create function f(mood) returns json language sql as 'select null::json';
            create cast (mood as json) with function f(mood)""",
            "public.bad has a column m of a type with a cast to json",
        ),
        (
            """create table bad (id int);
            create function f() returns trigger language plpgsql as 'begin return new; end';
            create trigger "00_wal_tracker_capture" before insert on bad for each row execute function f()""",
            "a trigger 00_wal_tracker_capture that wal_tracker did not make",
        ),
    ],
)
def test_what_cannot_be_captured_is_a_finding(shop: Database, statement: str, says: str) -> None:
    """apply refuses before it changes anything, with the reason."""
    shop.sql(statement)
    with pytest.raises(PreflightFailed, match=says):
        setup.apply(wanting(shop, "users", "bad"))
    assert shop.sql("select 1 from pg_namespace where nspname = 'wal_tracker'") == []


def test_a_table_that_a_subscription_writes_to_is_told(shop: Database) -> None:
    """Its rows fire ordinary triggers not; once ours fires always, there is nothing more to say."""
    shop.sql("create publication p for table users")
    made = shop.name + "_s"
    shop.sql(f"create subscription {made} connection 'dbname=nowhere' publication p with (connect = false)")
    shop.sql(
        "insert into pg_subscription_rel select oid, 'users'::regclass, 'r' from pg_subscription where subname = %s",
        made,
    )
    wanted = wanting(shop, "users", "orders")
    assert ["a subscription writes to public.users" in str(one) for one in setup.plan(wanted).findings] == [True]
    setup.apply(wanted)
    shop.sql('alter table users enable always trigger "00_wal_tracker_capture"')
    assert setup.plan(wanted) == Plan()
    shop.sql(f"alter subscription {made} set (slot_name = none); drop subscription {made}")


def test_our_own_tables_are_not_captured(shop: Database) -> None:
    """Each capture would be captured."""
    capture(shop, "users")
    with pytest.raises(PreflightFailed, match="would never end"):
        capture(shop, ("wal_tracker", "outbox"), ("wal_tracker", "claim"))


def test_unlogged_tables_and_tables_without_a_key_are_captured(database: Database) -> None:
    """Triggers need neither WAL nor a replica identity."""
    database.sql("create unlogged table bad (note text); alter table bad replica identity nothing")
    capture(database, "bad")
    database.sql("insert into bad values ('a'); update bad set note = 'b'; delete from bad")
    assert [op for op, _, _ in captured(database)] == ["INSERT", "UPDATE", "DELETE"]


def test_a_partition_of_a_tracked_table_is_captured_once(database: Database) -> None:
    """Its changes come as the root's; where it was tracked alone before, its own triggers make way."""
    database.sql("create table logs (id int) partition by list (id); create table l1 partition of logs default")
    capture(database, "l1")
    wanted = wanting(database, "l1", "logs")
    assert any("l1 is a partition of public.logs" in str(finding) for finding in setup.plan(wanted).findings)
    setup.apply(wanted)
    database.sql("insert into logs values (1); insert into l1 values (2)")
    assert [new["id"] for _, _, new in captured(database, "logs")] == [1, 2]
    assert len(captured(database)) == 2
    assert setup.apply(wanted) == []


def test_drop_removes_exactly_ours(shop: Database) -> None:
    """Nothing of ours is left, and what others have in the same places is; undelivered rows are counted before."""
    shop.sql("create function f() returns trigger language plpgsql as 'begin return new; end'")
    shop.sql("create trigger theirs after insert on users for each row execute function f()")
    before = shop.sql("select oid from pg_class where relnamespace = 'public'::regnamespace order by 1")
    wanted = capture(shop, "users", "orders")
    shop.sql("insert into users values (1), (2)")
    shop.sql("create table wal_tracker.theirs (id int)")
    planned = setup.plan_drop(wanted)
    assert "2 captured changes are not delivered yet and go with the outbox" in planned.notes
    assert "schema wal_tracker holds other things and stays: theirs" in planned.notes
    assert setup.drop(wanted) == [step.text for step in planned.steps]
    assert shop.sql("select relname from pg_class where relnamespace = 'wal_tracker'::regnamespace") == [("theirs",)]
    assert shop.sql("select proname from pg_proc where pronamespace = 'wal_tracker'::regnamespace") == []
    assert shop.sql("select tgname from pg_trigger where not tgisinternal") == [("theirs",)]
    assert before == shop.sql("select oid from pg_class where relnamespace = 'public'::regnamespace order by 1")
    shop.sql("drop table wal_tracker.theirs")
    setup.drop(wanted)
    assert shop.sql("select 1 from pg_namespace where nspname = 'wal_tracker'") == []
    assert setup.drop(wanted) == []


def test_an_outbox_being_read_is_not_dropped(shop: Database) -> None:
    """A finding as long as the lease runs, and nothing was removed."""
    wanted = capture(shop, "users")
    shop.sql("update wal_tracker.reader set holder = 'box:42', lease_until = clock_timestamp() + interval '1 hour'")
    with pytest.raises(PreflightFailed, match="box:42 reads the outbox"):
        setup.drop(wanted)
    assert len(triggers(shop)) == 2
    shop.sql("update wal_tracker.reader set lease_until = clock_timestamp()")
    setup.drop(wanted)
    assert triggers(shop) == []


def test_the_owner_role_goes_with_the_last_database_that_needs_it(server: Callable[..., Server]) -> None:
    """A role of that name that is not ours is used where it is harmless, and never dropped."""
    made = server()
    one, two = made.create_database(), made.create_database()
    for database in (one, two):
        database.sql("create table users (id int)")
        capture(database, "users")
    roles = "select count(*) from pg_roles where rolname = 'wal_tracker_owner'"
    setup.drop(wanting(one, "users"))
    assert made.sql(roles) == [(1,)]
    setup.drop(wanting(two, "users"))
    assert made.sql(roles) == [(0,)]
    made.sql("create role wal_tracker_owner login")
    with pytest.raises(PreflightFailed, match="alter role wal_tracker_owner nosuperuser nologin"):
        capture(one, "users")
    made.sql("alter role wal_tracker_owner nosuperuser nologin")
    setup.drop(capture(one, "users"))
    assert made.sql(roles) == [(1,)]


def weak(database: Database, *, may: str = "") -> str:
    """A connection string of a role without privileges, but for what is granted."""
    database.sql("drop role if exists wt_weak")
    database.sql("create role wt_weak login password 'w'")
    if may:
        database.sql(may)
    return f"{database.dsn} user=wt_weak password=w"


def test_a_role_that_is_no_superuser_sets_up_what_it_may(shop: Database) -> None:
    """CREATE on the database and TRIGGER on the table are enough; without them each lack is named with its grant."""
    dsn = weak(shop)
    findings = setup.plan(wanting(shop, "users", dsn=dsn)).blocking
    assert any("grant create on database" in finding for finding in findings)
    shop.sql(f"grant create on database {shop.name} to wt_weak")
    ((finding),) = setup.plan(wanting(shop, "users", dsn=dsn)).blocking
    assert 'grant trigger on "public"."users" to "wt_weak"' in finding
    shop.sql("grant trigger on users to wt_weak")
    wanted = capture(shop, "users", dsn=dsn)
    shop.sql("insert into users values (1)")
    assert len(captured(shop)) == 1
    assert setup.apply(wanted) == []
    assert shop.sql("select pg_get_userbyid(proowner) from pg_proc where proname = 'capture_1'") == [("wt_weak",)]
    # A superuser goes on from there and takes nothing over.
    capture(shop, "users", "orders")
    assert shop.sql("select distinct pg_get_userbyid(proowner) from pg_proc where proname like 'capture%'") == [
        ("wt_weak",)
    ]
    # Removing triggers asks for the table itself.
    with pytest.raises(PreflightFailed, match=r"does not own public\.orders"):
        setup.drop(wanted)
    shop.sql("alter table users owner to wt_weak; alter table orders owner to wt_weak")
    setup.drop(wanted)
    shop.sql("drop owned by wt_weak cascade; drop role wt_weak")


def test_a_stranger_is_told_whose_schema_it_is(shop: Database) -> None:
    """A role that may not act for the owner gets a finding with the grant, and an up-to-date installation none."""
    wanted = capture(shop, "users")
    dsn = weak(shop, may="grant all on users, orders to wt_weak")
    shop.sql("grant select on all tables in schema wal_tracker to wt_weak")
    shop.sql("grant select on all sequences in schema wal_tracker to wt_weak")
    as_weak = replace(wanted, settings=replace(wanted.settings, dsn=dsn))
    assert setup.plan(as_weak).findings == ()
    both = wanting(shop, "users", "orders", dsn=dsn)
    assert any('grant "wal_tracker_owner" to "wt_weak"' in finding for finding in setup.plan(both).blocking)
    shop.sql("drop owned by wt_weak; drop role wt_weak")


def test_a_schema_a_superuser_owns_is_given_away(shop: Database) -> None:
    """Installed by hand, or by an older version, as a superuser: apply moves it to a role that is none."""
    shop.sql("create schema wal_tracker")
    wanted = capture(shop, "users")
    assert shop.sql("select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'wal_tracker'") == [
        ("wal_tracker_owner",)
    ]
    shop.sql("alter function wal_tracker.capture_1() owner to postgres")
    shop.sql("alter function wal_tracker.emit(jsonb) owner to postgres")
    assert len(setup.apply(wanted)) == 2
    assert setup.apply(wanted) == []


def test_apply_gives_way_to_the_application(
    shop: Database,
    background: Callable[[Callable[[], object]], threading.Thread],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    While a transaction holds a table, apply tries again and again and says whom it waits for.

    Others write meanwhile, with waits far below a second; once the transaction ends, everything is made at once.
    """
    wanted = wanting(shop, "orders", "users")
    holder = shop.connect(application_name="batch")
    with holder.cursor() as cursor, caplog.at_level(logging.WARNING, "wal_tracker.setup"):
        cursor.execute("begin; insert into users values (1)")
        thread = background(lambda: setup.apply(wanted))
        wait_until(lambda: "public.users is held by process" in caplog.text)
        assert "(batch), idle in transaction" in caplog.text
        assert triggers(shop) == []
        shop.sql("set statement_timeout = '2s'; insert into orders values (1); insert into users values (2)")
        cursor.execute("commit")
        thread.join(30)
    assert len(triggers(shop)) == 4
    monkeypatch.setattr(setup, "LOCK_PATIENCE_S", 0.0)
    with holder.cursor() as cursor:
        cursor.execute("begin; insert into users values (3)")
        with pytest.raises(SourceUnavailable, match=r"public\.users is held by process \d+ of postgres \(batch\)"):
            setup.drop(wanted)
    assert len(triggers(shop)) == 4


def test_applying_under_load_loses_nothing_and_breaks_nothing(
    shop: Database, background: Callable[[Callable[[], object]], threading.Thread]
) -> None:
    """A writer goes on while tables come, functions change and tables go: each is captured from its trigger on."""
    ended = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        with shop.connect().cursor() as cursor:
            while not ended.is_set():
                written += 1
                cursor.execute(
                    "begin; insert into users values (%s); insert into orders values (%s); commit", [written] * 2
                )

    thread = background(write)
    wait_until(lambda: written > 20)
    capture(shop, "users")
    capture(shop, "users", "orders")
    for ignored in ({"email"}, {"email", "password"}, {"password"}):
        capture(shop, "users", "orders", ignored={"users": ignored})
        seen = written
        wait_until(lambda seen=seen: written > seen + 20)  # type: ignore[misc]
    capture(shop, "orders", is_strict=True)
    seen = written
    wait_until(lambda: written > seen + 20)
    ended.set()
    thread.join(30)
    users = [new["id"] for _, _, new in captured(shop, "users")]
    orders = [new["id"] for _, _, new in captured(shop, "orders")]
    assert users == list(range(users[0], users[-1] + 1))
    assert orders == list(range(orders[0], written + 1))
    assert 20 < users[0] <= orders[0]
    assert users[-1] < written
    assert shop.sql("select count(*) from wal_tracker.capture_failure") == [(0,)]


def test_two_at_once_make_it_once(
    shop: Database, background: Callable[[Callable[[], object]], threading.Thread]
) -> None:
    """The second waits for the first and finds nothing to do."""
    wanted = wanting(shop, "orders", "users")
    done: list[int] = []
    threads = [background(lambda: done.append(len(setup.apply(wanted)))) for _ in range(4)]
    for thread in threads:
        thread.join(60)
    assert sorted(done)[:3] == [0, 0, 0]
    assert max(done) > 0


@pytest.mark.standby
def test_trigger_mode_needs_the_primary(standby: Server) -> None:
    """A standby alone is a finding; with its primary named, everything is made there."""
    primary = standby.primary
    assert primary is not None
    database = primary.create_database()
    database.sql("create table users (id int)")
    standby.catch_up()
    wanted = wanting(database, "users", dsn=standby.dsn(database.name))
    with pytest.raises(PreflightFailed, match=r"give source\.primary_dsn"):
        setup.apply(wanted)
    wanted = capture(database, "users", dsn=standby.dsn(database.name), primary_dsn=Secret(database.dsn))
    database.sql("insert into users values (1)")
    assert captured(database, "users") == [("INSERT", None, {"id": 1})]
    assert setup.apply(wanted) == []
    setup.drop(wanted)
    standby.catch_up()
    database.drop()


def test_after_a_restore_apply_makes_the_outbox_this_servers(server: Callable[..., Server], tmp_path: Path) -> None:
    """Numbers, oids and reader follow; what the other server captured is not delivered a second time from here."""
    from_server, to_server = server(), server()
    old = from_server.create_database()
    old.sql("create table pad (id int); create table users (id int); create table orders (id int)")
    wanted = capture(old, "orders", "users")
    old.sql("insert into users values (1)")
    dump = tmp_path / "dump.sql"
    binaries = matrix.binaries(matrix.EMBEDDED_MAJOR).directory
    subprocess.run([binaries / "pg_dump", old.dsn, "-f", dump, "--no-owner"], check=True, timeout=60)
    new = to_server.create_database(old.name)
    new.sql("drop role if exists wal_tracker_owner")
    subprocess.run([binaries / "psql", new.dsn, "-qf", dump], check=True, timeout=60, stdout=subprocess.DEVNULL)
    here = replace(wanted, settings=replace(wanted.settings, dsn=wanting(new).settings.dsn))
    planned = setup.plan(here)
    assert any("restore" in note for note in planned.notes)
    assert any("1 captured changes came with the restore" in str(finding) for finding in planned.findings)
    setup.apply(here)
    assert setup.apply(here) == []
    assert new.sql("select every(relation::regclass::text = table_name) from wal_tracker.tracked") == [(True,)]
    assert captured(new) == []
    new.sql("insert into users values (2)")
    assert captured(new, "users") == [("INSERT", None, {"id": 2})]
    assert new.sql("select pg_visible_in_snapshot(xid, snapshot) from wal_tracker.outbox, wal_tracker.reader") == [
        (False,)
    ]


def test_after_an_upgrade_of_the_server_what_waits_is_kept(shop: Database) -> None:
    """pg_upgrade gives the server another identifier, and keeps transaction ids, rows and tables: apply says so."""
    wanted = capture(shop, "users")
    shop.sql("insert into users values (1)")
    reader = "select snapshot::text, position from wal_tracker.reader"
    before = shop.sql(reader)
    shop.sql("update wal_tracker.reader set system_identifier = '1'")
    shop.sql("insert into users values (2)")
    assert len(setup.apply(wanted)) == 1
    assert len(captured(shop, "users")) == 2
    assert shop.sql(reader) == before
    assert setup.apply(wanted) == []
    # A restore into a server that happens to use the same number again: it has not come to these transactions yet.
    shop.sql("update wal_tracker.reader set system_identifier = '1', snapshot = '99999999:99999999:'")
    setup.apply(wanted)
    assert captured(shop, "users") == []


# The commands -------------------------------------------------------------------------------------

RULES = """
track:
  users.insert:
    event: user_signup
    properties: {id: new.id, email: new.email}
ignore: {users: [password]}
"""


@pytest.fixture
def project(shop: Database, tmp_path: Path) -> Project:
    """A project that tracks inserts of users."""
    return Project(tmp_path, shop, RULES)


def test_the_script_plan_writes_is_what_apply_would_do(project: Project) -> None:
    """psql runs it as it stands, in one transaction, and plan has nothing left to show; so it does with the removal."""
    script = project.directory / "migration.sql"
    assert project.run("plan", "--mode", "trigger", "--out", str(script)).code == 0
    text = script.read_text()
    assert (text.count("begin;"), text.count("commit;")) == (1, 1)
    psql = matrix.binaries(matrix.EMBEDDED_MAJOR).directory / "psql"
    subprocess.run([psql, project.database.dsn, "-v", "ON_ERROR_STOP=1", "-qf", script], check=True, timeout=60)
    assert project.run("plan", "--mode", "trigger", "--json").json() == {"steps": [], "findings": [], "notes": []}
    project.users((1, "a@x"))
    assert captured(project.database, "users") == [("INSERT", None, {"id": 1, "email": "a@x"})]


def test_a_script_holds_no_statement_of_a_tables_name(project: Project) -> None:
    """A line break in a name does not end the comment it stands in."""
    name = "x\ndrop table orders; --"
    project.database.sql(f'create table "{name}" (id int)')
    project.configure('track:\n  "\\"x\\ndrop table orders; --\\".insert": {event: a}')
    script = project.directory / "migration.sql"
    done = project.run("plan", "--mode", "trigger", "--out", str(script))
    assert done.code == 0, done.stderr
    psql = matrix.binaries(matrix.EMBEDDED_MAJOR).directory / "psql"
    subprocess.run([psql, project.database.dsn, "-v", "ON_ERROR_STOP=1", "-qf", script], check=True, timeout=60)
    assert project.database.sql("select to_regclass('orders') is not null") == [(True,)]
    assert project.run("plan", "--mode", "trigger", "--json").json()["steps"] == []


def test_apply_and_drop_by_mode(project: Project) -> None:
    """`--mode` overrides the file; drop says what is lost and asks."""
    assert project.run("apply", "--mode", "trigger", "--yes").code == 0
    again = project.run("apply", "--mode", "trigger", "--yes")
    assert (again.code, again.stdout) == (0, "")
    assert project.slots() == []
    project.users((1, "a@x"))
    assert project.run("drop", "--mode", "trigger").code == 2
    done = project.run("drop", "--mode", "trigger", "--yes")
    assert done.code == 0
    assert "1 captured changes are not delivered" in done.stderr
    assert triggers(project.database) == []
    assert project.database.sql("select 1 from pg_namespace where nspname = 'wal_tracker'") == []


def test_a_plan_says_the_difference_first(project: Project) -> None:
    """One line for each thing that comes, goes or changes, before the statements; no line for what stays."""
    project.run("apply", "--mode", "trigger", "--yes")
    project.configure("track: {orders.insert: {event: a}, users.insert: {event: b}}")
    lines = project.run("plan", "--mode", "trigger").stdout.splitlines()
    assert [line for line in lines if line[:4] in ("-- +", "-- -", "-- ~")] == [
        "-- ~ public.users is captured",
        "-- + public.orders is captured",
    ]
    lines = project.run("drop", "--mode", "trigger", "--yes").stdout.splitlines()
    assert next(line for line in lines if line.startswith("-- - ")) == "-- - public.users is captured no longer"


def test_kafka_is_refused(project: Project) -> None:
    """A mode that is not built is a configuration error."""
    project.config.write_text(project.config.read_text().replace("source: {", "source: {mode: kafka, "))
    assert project.run("plan").code == 2


def test_a_change_of_mode_is_planned_and_not_scripted(project: Project) -> None:
    """The plan names it; as a script it could not be exact, so there is none."""
    assert project.run("apply", "--mode", "trigger", "--yes").code == 0
    planned = project.run("plan", "--mode", "wal")
    assert "mode changes from trigger to wal" in planned.stderr
    script = project.directory / "migration.sql"
    refused = project.run("plan", "--mode", "wal", "--out", str(script))
    assert refused.code == 2
    assert not script.exists()
    assert project.run("apply", "--mode", "wal", "--yes").code == 0
    assert triggers(project.database) == []
    assert project.slots() == [project.slot]
    under_way = project.run("plan", "--mode", "wal")
    assert "a change to mode wal is under way" in under_way.stderr
    assert project.run("plan", "--mode", "trigger").code == 3


def test_a_change_to_triggers_is_made_in_one_go(project: Project) -> None:
    """The outbox and all triggers with the boundary; a second apply changes nothing while it is under way."""
    assert project.run("apply", "--mode", "wal", "--yes").code == 0
    planned = project.run("plan", "--mode", "trigger")
    assert "mode changes from wal to trigger" in planned.stderr
    assert project.run("apply", "--mode", "trigger", "--yes").code == 0
    assert len(triggers(project.database)) == 2
    assert project.database.sql("select to_mode, slot from wal_tracker.switch") == [("trigger", project.slot)]
    again = project.run("apply", "--mode", "trigger", "--yes")
    assert "a change to mode trigger is under way" in again.stderr
    assert project.run("plan", "--mode", "wal").code == 3
    # Giving up altogether is always possible.
    assert project.run("drop", "--mode", "trigger", "--yes").code == 0
    assert project.slots() == []
    assert project.database.sql("select 1 from pg_namespace where nspname = 'wal_tracker'") == []
