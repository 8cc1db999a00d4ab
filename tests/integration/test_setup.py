"""Plan, apply and drop against real servers: what is made, what is refused, and that nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import psycopg2
import pytest

from tests.support import matrix
from tests.support.postgres import Database, Server, wait_until
from tests.support.replication import Consumer, settings_for
from wal_tracker.errors import PreflightFailed, SlotInUse, SourceRefused, SourceUnavailable
from wal_tracker.lsn import LSN
from wal_tracker.model import Message
from wal_tracker.secret import Secret
from wal_tracker.source import setup, slot
from wal_tracker.source.connection import OUTPUT_PLUGIN_REMEDY, SourceSettings
from wal_tracker.source.plan import Desired


def wanting(
    database: Database, *tables: str, ignored: Mapping[str, set[str]] = {}, plugin: str = "pgoutput"
) -> Desired:
    """What a configuration with these tables in schema public would need."""
    return Desired(
        settings_for(database, plugin=plugin),
        tuple(("public", table) for table in sorted(tables)),
        {("public", table): frozenset(columns) for table, columns in ignored.items()},
    )


def published(database: Database, publication: str = "p") -> set[str]:
    """What the publication holds."""
    rows = database.sql("select tablename from pg_publication_tables where pubname = %s", publication)
    return {name for (name,) in rows}


@pytest.fixture
def shop(database: Database) -> Database:
    """A database with tables of every sort."""
    database.sql("create table users (id int primary key, email text, hashed_password text)")
    database.sql("create table orders (id int primary key, total numeric)")
    database.sql("create table plain (note text)")
    return database


def test_apply_makes_what_is_missing_and_twice_changes_nothing(shop: Database) -> None:
    """Publication, slot and functions; the second plan is empty and the second apply runs nothing."""
    wanted = wanting(shop, "users", "orders")
    before = setup.plan(wanted)
    assert before.findings == ()
    done = setup.apply(wanted)
    assert done == [step.text for step in before.steps]
    assert published(shop) == {"users", "orders"}
    assert shop.sql("select plugin, temporary from pg_replication_slots where slot_name = %s", shop.name) == [
        ("pgoutput", False)
    ]
    assert setup.plan(wanted).steps == ()
    assert setup.apply(wanted) == []


def test_the_planned_statements_do_the_same_in_another_hand(shop: Database) -> None:
    """`plan --out` is a migration: run as it stands, it leaves nothing to plan."""
    wanted = wanting(shop, "users", "orders", ignored={"users": {"hashed_password"}})
    for step in setup.plan(wanted).steps:
        shop.sql(step.text.replace("%", "%%"))
    assert setup.plan(wanted).steps == ()


def test_tables_follow_the_configuration(shop: Database) -> None:
    """A table no rule tracks any more leaves the publication; a new one enters."""
    setup.apply(wanting(shop, "users"))
    setup.apply(wanting(shop, "orders"))
    assert published(shop) == {"orders"}


def test_drop_removes_exactly_ours(shop: Database) -> None:
    """Everything `apply` made goes; a publication, functions and a schema somebody else made stay."""
    wanted = wanting(shop, "users")
    shop.sql("create publication theirs for table orders")
    setup.apply(wanted)
    shop.sql("create function wal_tracker.theirs() returns int language sql as 'select 1'")
    planned = setup.plan_drop(wanted)
    assert setup.drop(wanted) == [step.text for step in planned.steps]
    assert planned.notes == ("schema wal_tracker holds other things and stays: theirs",)
    assert shop.sql("select pubname from pg_publication") == [("theirs",)]
    assert shop.sql("select proname from pg_proc where pronamespace = 'wal_tracker'::regnamespace") == [("theirs",)]
    shop.sql("drop function wal_tracker.theirs()")
    setup.drop(wanted)
    assert shop.sql("select to_regnamespace('wal_tracker') is null") == [(True,)]
    assert setup.drop(wanted) == []


def test_drop_leaves_a_publication_without_our_mark(shop: Database) -> None:
    """A publication of the configured name that we did not make is used, widened, and never dropped."""
    shop.sql("create publication p for table orders with (publish_via_partition_root = true)")
    wanted = wanting(shop, "users")
    setup.apply(wanted)
    assert published(shop) == {"users", "orders"}
    setup.drop(wanted)
    assert published(shop) == {"users", "orders"}


def test_slot_only_drop_keeps_the_rest(shop: Database) -> None:
    """After a lost slot only the slot is made anew."""
    wanted = wanting(shop, "users")
    setup.apply(wanted)
    assert len(setup.drop(wanted, slot_only=True)) == 1
    assert published(shop) == {"users"}
    assert [step.slot for step in setup.plan(wanted).steps] == ["make"]


def test_a_slot_being_read_is_not_dropped(shop: Database) -> None:
    """`SlotInUse`, and nothing else was removed."""
    wanted = wanting(shop, "users")
    setup.apply(wanted)
    with Consumer(wanted.settings) as consumer:
        consumer.source.connect(LSN(0))
        with pytest.raises(SlotInUse):
            setup.drop(wanted)
    assert published(shop) == {"users"}


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("create table bad (note text)", "has no primary key"),
        ("create table bad (id int primary key deferrable, note text)", "deferrable"),
        ("create table bad (id int primary key); alter table bad replica identity nothing", "NOTHING"),
        (
            """create table bad (id int not null unique); alter table bad replica identity using index bad_id_key;
            alter table bad drop constraint bad_id_key""",
            "no longer exists",
        ),
        (
            """create table bad (id int) partition by range (id);
            create table bad_1 partition of bad for values from (0) to (10)""",
            "partitions of public.bad",
        ),
        ("create unlogged table bad (id int primary key)", "unlogged"),
        ("create view bad as select 1 as id", "is a view"),
        ("create table good (id int)", "there is no table public.bad"),
    ],
)
def test_a_table_that_would_break_the_application_is_refused(shop: Database, statement: str, says: str) -> None:
    """apply refuses before it changes anything, with the reason; the application's UPDATE goes on working."""
    shop.sql(statement)
    with pytest.raises(PreflightFailed, match=says):
        setup.apply(wanting(shop, "users", "bad"))
    assert shop.sql("select 1 from pg_publication") == []
    assert shop.sql("select 1 from pg_replication_slots where slot_name = %s", shop.name) == []


def test_the_reason_for_the_refusal_is_real(shop: Database) -> None:
    """What we refuse to do does break: publishing a table without identity makes its UPDATE fail."""
    shop.sql("insert into plain values ('a')")
    shop.sql("create publication careless for table plain")
    with pytest.raises(psycopg2.errors.ObjectNotInPrerequisiteState, match="does not have a replica identity"):
        shop.sql("update plain set note = 'b'")


@pytest.mark.postgres(min=15)
def test_ignored_columns_do_not_leave_the_server(shop: Database) -> None:
    """A column list where the identity allows; the application's writes go on, and the plan says what to mind."""
    wanted = wanting(shop, "users", "orders", ignored={"users": {"hashed_password"}})
    planned = setup.plan(wanted)
    assert any("hashed_password will not leave the server" in note for note in planned.notes)
    setup.apply(wanted)
    with Consumer(wanted.settings) as consumer:
        consumer.source.connect(LSN(0))
        shop.sql("insert into users values (1, 'a@x', 'canary')")
        shop.sql("update users set email = 'b@x', hashed_password = 'canary2'")
        shop.sql("delete from users")
        consumer.read_transactions(3)
        changes = [item for item in consumer.items if hasattr(item, "new") and item.new is not None]
        assert [set(change.new) for change in changes] == [{"id", "email"}] * 2
    assert setup.plan(wanted).steps == ()
    shown = setup.apply(wanting(shop, "users", "orders"))
    assert len(shown) == 1
    assert "set table" in shown[0]
    assert setup.plan(wanting(shop, "users", "orders")).steps == ()


@pytest.mark.postgres(min=15)
@pytest.mark.parametrize(
    ("identity", "hidden", "why"),
    [
        ("full", "email", "REPLICA IDENTITY FULL"),
        ("default", "id", "the replica identity needs them"),
    ],
)
def test_a_column_list_that_would_break_the_application_is_left_out(
    shop: Database, identity: str, hidden: str, why: str
) -> None:
    """42P10 never reaches the application: the columns are published, dropped on arrival, and the plan says so."""
    shop.sql(f"alter table users replica identity {identity}")
    wanted = wanting(shop, "users", ignored={"users": {hidden}})
    assert any(why in note for note in setup.plan(wanted).notes)
    setup.apply(wanted)
    shop.sql("insert into users values (1, 'a@x', 'h')")
    shop.sql("update users set email = 'b@x'")
    assert setup.plan(wanted).steps == ()


@pytest.mark.postgres(min=15)
def test_row_filters_of_others_survive(shop: Database) -> None:
    """Changing the columns keeps a filter somebody put on a table."""
    shop.sql("create publication p for table orders where (id > 10) with (publish_via_partition_root = true)")
    wanted = wanting(shop, "orders", ignored={"orders": {"total"}})
    setup.apply(wanted)
    assert shop.sql("select rowfilter, attnames from pg_publication_tables") == [("(id > 10)", ["id"])]
    assert setup.plan(wanted).steps == ()


def test_partitions_come_as_their_table(shop: Database) -> None:
    """A partitioned table is published by its root."""
    shop.sql("create table logs (id int primary key, note text) partition by range (id)")
    shop.sql("create table logs_1 partition of logs for values from (0) to (10)")
    wanted = wanting(shop, "logs")
    setup.apply(wanted)
    with Consumer(wanted.settings) as consumer:
        consumer.source.connect(LSN(0))
        shop.sql("insert into logs values (1, 'a')")
        consumer.read_transactions(1)
        assert consumer.items[0].relation.name == "public.logs"  # type: ignore[union-attr]


def test_functions_carry_context_and_events(shop: Database) -> None:
    """The functions work for a role without any privilege, whatever its search_path, inside its transaction."""
    wanted = wanting(shop, "users")
    setup.apply(wanted)
    shop.sql("drop role if exists wt_app")
    shop.sql("create role wt_app")
    with Consumer(wanted.settings) as consumer:
        consumer.source.connect(LSN(0))
        shop.sql("create schema evil")
        shop.sql("set role wt_app; set search_path = evil; select wal_tracker.set_context('{\"user_id\": 42}')")
        shop.sql('set role wt_app; select wal_tracker.emit(\'{"event": "signed_up"}\')')
        consumer.read_transactions(2)
        messages = [item for item in consumer.items if isinstance(item, Message)]
        assert ("wal_tracker.event", b'{"event": "signed_up"}') in [(m.prefix, bytes(m.content)) for m in messages]
        contexts = [item.transaction.context for item in consumer.items]
        assert {"user_id": 42} in contexts
    shop.sql("drop role wt_app")


def test_names_that_need_quoting_are_quoted(database: Database) -> None:
    """A table may be called anything."""
    nasty = 'x"; drop table orders; --'
    quoted = '"' + nasty.replace('"', '""') + '"'
    database.sql(f'create table {quoted} (id int primary key, "a{{b}}%%" text, c text)', *())
    wanted = Desired(
        settings_for(database, publication='p"q'), (("public", nasty),), {("public", nasty): frozenset({"c"})}
    )
    setup.apply(wanted)
    assert setup.plan(wanted).steps == ()
    assert published(database, 'p"q') == {nasty}
    setup.drop(wanted)


def test_a_role_without_privileges_gets_findings_and_not_errors(shop: Database) -> None:
    """What the role lacks is said all at once, with the grant that mends it."""
    shop.sql("drop role if exists wt_weak")
    shop.sql("create role wt_weak login password 'w'")
    settings = settings_for(shop, dsn=f"{shop.dsn} user=wt_weak password=w")
    findings = setup.plan(Desired(settings, (("public", "users"),), {})).blocking
    assert any("may not replicate" in finding for finding in findings)
    assert any("grant create on database" in finding for finding in findings)
    shop.sql("drop role wt_weak")


def test_a_plugin_that_is_not_allowed_is_found_before_it_is_tried(shop: Database) -> None:
    """18.6 lets wal2json in only when it is listed: the finding holds the ALTER SYSTEM, and so does the refusal."""
    if not shop.sql("select 1 from pg_settings where name = 'output_plugin_libraries'"):
        pytest.skip("this version lets every plugin in")
    wanted = wanting(shop, "users", plugin="wal2json")
    with pytest.raises(PreflightFailed, match="alter system set output_plugin_libraries = pgoutput"):
        setup.apply(wanted)
    with pytest.raises(SourceRefused, match="alter system set output_plugin_libraries = pgoutput"):
        slot.create(wanted.settings)


def test_the_remedy_for_a_plugin_mends_it(server: Callable[..., Server]) -> None:
    """The ALTER SYSTEM of the finding, run as it stands, lets the plugin in (and pgoutput stays in)."""
    made = server()
    if not made.sql("select 1 from pg_settings where name = 'output_plugin_libraries'"):
        pytest.skip("this version lets every plugin in")
    database = made.create_database()
    database.sql("create table users (id int primary key)")
    for statement in OUTPUT_PLUGIN_REMEDY.split(": ", 1)[1].split("(")[0].split("; ")[:1]:
        made.sql(statement)
    made.sql("select pg_reload_conf()")
    wait_until(lambda: "wal2json" in made.sql("show output_plugin_libraries")[0][0])
    assert setup.plan(wanting(database, "users", plugin="wal2json")).findings == ()
    assert setup.plan(wanting(database, "users")).findings == ()


@pytest.mark.wal2json
def test_wal2json_needs_no_publication(wal2json_server: Server) -> None:
    """Only the slot and the functions."""
    database = wal2json_server.create_database()
    database.sql("create table users (id int primary key)")
    wanted = wanting(database, "users", plugin="wal2json")
    setup.apply(wanted)
    assert database.sql("select 1 from pg_publication") == []
    assert setup.plan(wanted).steps == ()
    setup.drop(wanted)
    database.drop()


@pytest.mark.parametrize("major", matrix.MAJORS)
def test_every_version_is_set_up_alike(server: Callable[..., Server], major: int) -> None:
    """14 to 18: apply, read through it, apply again, drop."""
    database = server(major).create_database()
    database.sql("create table users (id int primary key, hashed_password text)")
    wanted = wanting(database, "users", ignored={"users": {"hashed_password"}})
    setup.apply(wanted)
    assert setup.plan(wanted).steps == ()
    with Consumer(wanted.settings) as consumer:
        consumer.source.connect(LSN(0))
        database.sql("insert into users values (1, 'h')")
        consumer.read_transactions(1)
        assert consumer.rows == [1]
        consumer.source.confirm(consumer.commits[0])
    setup.drop(wanted)
    assert setup.plan_drop(wanted).steps == ()


@contextmanager
def on_standby(standby: Server) -> Iterator[tuple[Database, SourceSettings]]:
    """A database of the primary, and settings that read it on the standby."""
    primary = standby.primary
    assert primary is not None
    database = primary.create_database()
    database.sql("create table users (id int primary key)")
    standby.catch_up()
    yield (
        database,
        SourceSettings(
            dsn=Secret(standby.dsn(database.name)),
            primary_dsn=Secret(database.dsn),
            slot=database.name,
            publication="p",
        ),
    )
    for (name,) in standby.sql("select slot_name from pg_replication_slots where database = %s", database.name):
        standby.sql("select pg_drop_replication_slot(%s)", name)
    database.drop()


@pytest.mark.standby
def test_a_standby_is_read_with_nothing_but_a_publication_on_its_primary(standby: Server) -> None:
    """The slot is made on the standby within seconds, and changes of the primary come through it."""
    with on_standby(standby) as (database, settings):
        wanted = Desired(settings, (("public", "users"),), {})
        setup.apply(wanted)
        assert database.sql("select 1 from pg_replication_slots where slot_name = %s", database.name) == []
        assert setup.plan(wanted).steps == ()
        with Consumer(settings) as consumer:
            consumer.source.connect(LSN(0))
            database.sql("insert into users values (1)")
            consumer.read_transactions(1)
            assert consumer.rows == [1]
            consumer.source.confirm(consumer.commits[0])
        setup.drop(wanted)


@pytest.mark.standby
def test_giving_up_on_a_standby_leaves_no_slot(standby: Server) -> None:
    """Without its primary a standby may wait for ever: the call ends in time, and no half-made slot keeps WAL."""
    with on_standby(standby) as (_, settings):
        with pytest.raises(SourceUnavailable, match=r"source\.primary_dsn"):
            slot.create(replace(settings, primary_dsn=None), timeout_s=1)
        assert standby.sql("select slot_name from pg_replication_slots where slot_name = %s", settings.slot) == []


@pytest.mark.standby
def test_a_standby_alone_cannot_be_set_up(standby: Server) -> None:
    """Without primary_dsn the plan says what is missing."""
    with on_standby(standby) as (_, settings):
        wanted = Desired(replace(settings, primary_dsn=None), (("public", "users"),), {})
        with pytest.raises(PreflightFailed, match=r"give source\.primary_dsn"):
            setup.apply(wanted)
