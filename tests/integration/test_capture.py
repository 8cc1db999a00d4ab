"""What the triggers capture: every operation of every table, as it was, and never at the application's expense."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest

from tests.support import matrix
from tests.support.capture import capture, captured, failures, wanting
from tests.support.postgres import Database, Server
from wal_tracker.source import setup


@pytest.fixture
def shop(database: Database) -> Database:
    """Users are captured, without their passwords."""
    database.sql("create table users (id int primary key, email text, password text)")
    capture(database, "users", ignored={"users": {"password"}})
    return database


def test_every_operation_is_captured_with_whole_rows(shop: Database) -> None:
    """INSERT, UPDATE, DELETE and TRUNCATE, in their order, of each row of a statement."""
    shop.sql("insert into users values (1, 'a@x', 'p'), (2, null, 'q')")
    shop.sql("update users set email = 'b@x' where id = 1; delete from users where id = 2; truncate users")
    one, two = {"id": 1, "email": "a@x"}, {"id": 2, "email": None}
    changed = {"id": 1, "email": "b@x"}
    assert captured(shop) == [
        ("INSERT", None, one),
        ("INSERT", None, two),
        ("UPDATE", one, changed),
        ("DELETE", two, None),
        ("TRUNCATE", None, None),
    ]


def test_a_row_of_ignored_columns_is_captured_empty(database: Database) -> None:
    """There was a row; of a TRUNCATE there is none."""
    database.sql("create table t (a int, j json)")
    capture(database, "t", ignored={"t": {"a", "j"}})
    database.sql("insert into t values (1); truncate t")
    assert captured(database) == [("INSERT", None, {}), ("TRUNCATE", None, None)]


def test_an_ignored_column_is_nowhere_in_the_outbox(shop: Database) -> None:
    """Its name and its values are in no row that is captured, old or new, nor in a failure; its values nowhere."""
    shop.sql("insert into users values (1, 'a@x', 'CANARY1')")
    shop.sql("update users set password = 'CANARY2'")
    shop.sql("alter table users drop column password; alter table users add column password text default 'CANARY4'")
    for table in ("outbox_0", "outbox_1"):
        shop.sql(f"alter table wal_tracker.{table} add constraint full_up check (false) not valid")
    shop.sql("update users set password = 'CANARY3'")
    shop.sql("delete from users")
    assert len(failures(shop)) == 2
    for table in ("outbox", "capture_failure", "tracked"):
        text = str(shop.sql(f"select to_jsonb(t) from wal_tracker.{table} as t"))
        assert "CANARY" not in text
        assert "password" not in text or table == "tracked"


def test_a_json_column_beside_an_ignored_one_is_captured_as_it_is(database: Database) -> None:
    """What json takes and jsonb does not, keys that come twice, digits, escapes of any kind; in arrays and domains."""
    hidden = {"secret", "b~2u", "a\\0", "c\x01\n", "~0"}
    listed = ", ".join(f'"{name}" text default $$CANARY$$' for name in hidden)
    database.sql("create domain doc as json; create type pair as (a int, b doc[])")
    database.sql(f'create table t (j json, p pair, f float8, "~" text, {listed})')
    capture(database, "t", ignored={"t": hidden}, is_strict=True)
    values = (
        r'{"a":"\u0000", "a":1.50, "b":1e200000, "c":"\ud800"}',
        r'["\\u0000", "\\\u0000", "~2~1~0\"\/\b", "\\", "\\\\", {"secret": 1, "~": null}]',
    )
    for value in values:
        database.sql("insert into t values (%s, row(1, array[%s]::doc[]), 1e-7, %s)", *[value] * 2, value + "\x01")
        database.sql("delete from t")
    rows = database.sql("select old::text, new::text from wal_tracker.outbox order by lsn")
    assert [rows[0][1], rows[2][1]] == [rows[1][0], rows[3][0]]
    for (_, new), value in zip(rows[::2], values, strict=True):
        pairs = json.loads(new, object_pairs_hook=list, parse_float=str)
        same = json.loads(value, object_pairs_hook=list, parse_float=str)
        assert pairs == [("j", same), ("p", [("a", 1), ("b", [same])]), ("f", "1e-07"), ("~", value + "\x01")]


def test_names_may_be_anything(database: Database) -> None:
    """Reserved words, quotes, braces, percent signs, our own variables' names, dollar quotes: tables and columns."""
    schema, table = 'sch"ema {x} %s', "select $function$ ' \\ ; drop table users; --"
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (schema, table))
    columns = ["order", "old", "new", "signal", "tg_op", "lsn", "é{0}%", "$function$", "'\\", 'a"b', "x" * 63]
    listed = ", ".join('"' + column.replace('"', '""') + '" int default 1' for column in columns)
    database.sql(f'create schema "{schema.replace(chr(34), chr(34) * 2)}"')
    hidden = {"hid'den {%}\\", "$function$; '\\"}
    secret = ", ".join(f'"{column}" text default $$CANARY$$' for column in hidden)
    database.sql(f"create table {quoted} (id int, {listed}, {secret})")
    capture(database, (schema, table), ignored={(schema, table): hidden})
    database.sql(f"insert into {quoted} values (1)")
    ((op, _, new),) = captured(database)
    assert (op, new) == ("INSERT", {"id": 1, **dict.fromkeys(columns, 1)})
    assert database.sql("select schema_name, table_name from wal_tracker.tracked") == [(schema, table)]
    assert setup.plan(wanting(database, (schema, table), ignored={(schema, table): hidden})).steps == ()


def test_schemas_keep_tables_of_one_name_apart(database: Database) -> None:
    """Each has a number of its own."""
    database.sql("create table users (id int); create schema crm; create table crm.users (id int, who text)")
    capture(database, "users", ("crm", "users"))
    database.sql("insert into users values (1); insert into crm.users values (2, 'x')")
    assert database.sql(
        "select schema_name, new from wal_tracker.outbox join wal_tracker.tracked on id = outbox.relation order by lsn"
    ) == [("public", {"id": 1}), ("crm", {"id": 2, "who": "x"})]


def test_partitions_are_captured_as_their_table_also_those_made_later(database: Database) -> None:
    """A partition added or attached after apply, with other column order; a row that moves; TRUNCATE of the root."""
    database.sql("create table logs (id int, note text) partition by range (id)")
    database.sql("create table logs_1 partition of logs for values from (0) to (10)")
    wanted = capture(database, "logs")
    database.sql("create table logs_2 partition of logs for values from (10) to (20) partition by range (id)")
    database.sql("create table logs_2_1 partition of logs_2 for values from (10) to (15)")
    database.sql("create table other (note text, gone int, id int)")
    database.sql(
        "alter table other drop column gone; alter table logs attach partition other for values from (20) to (30)"
    )
    database.sql("insert into logs values (1, 'a'), (11, 'b'), (21, 'c')")
    database.sql("update logs set id = 12 where id = 1")
    database.sql("truncate logs_1")
    database.sql("truncate logs")
    assert captured(database, "logs") == [
        ("INSERT", None, {"id": 1, "note": "a"}),
        ("INSERT", None, {"id": 11, "note": "b"}),
        ("INSERT", None, {"id": 21, "note": "c"}),
        ("DELETE", {"id": 1, "note": "a"}, None),
        ("INSERT", None, {"id": 12, "note": "a"}),
        ("TRUNCATE", None, None),
    ]
    assert setup.plan(wanted).steps == ()


def test_identity_and_generated_columns_are_captured_as_they_are_stored(database: Database) -> None:
    """What the server filled in is in the new row."""
    database.sql(
        "create table t (id bigint primary key generated always as identity, n int, "
        "twice int generated always as (n * 2) stored)"
    )
    capture(database, "t")
    database.sql("insert into t (n) values (21); update t set n = 22")
    first, second = {"id": 1, "n": 21, "twice": 42}, {"id": 1, "n": 22, "twice": 44}
    assert captured(database) == [("INSERT", None, first), ("UPDATE", first, second)]


@pytest.mark.parametrize("count", [60, 1600])
def test_a_table_may_have_as_many_columns_as_postgresql_allows(database: Database, count: int) -> None:
    """More than a function takes arguments, up to the server's own limit."""
    names = [f"c{number}" for number in range(count)]
    database.sql(f"create table wide ({', '.join(name + ' int2' for name in names)})")
    capture(database, "wide", ignored={"wide": {"c7"}})
    database.sql(f"insert into wide values ({', '.join(str(number) for number in range(count))})")
    ((_, _, new),) = captured(database)
    assert new == {name: number for number, name in enumerate(names) if name != "c7"}


HOSTILE = (
    "set datestyle = 'German, DMY'; set timezone = 'Asia/Tokyo'; set intervalstyle = 'sql_standard'; "
    "set extra_float_digits = -10; set bytea_output = 'escape'; set lc_monetary = 'C'; "
)


def test_every_type_is_captured_alike_whatever_the_session_has_set(database: Database) -> None:
    """A value's text does not hang on DateStyle, IntervalStyle, digits or bytea_output; a moment stays that moment."""
    values = {
        "a": ("int2", "1"), "b": ("int8", "9007199254740993"), "c": ("numeric", "'1e-20'"), "d": ("float8", "0.1"),
        "e": ("float4", "1.1"), "f": ("money", "12.5"), "g": ("bytea", r"'\x00ff'"), "h": ("text", "E'\\u00e9\\n\"'"),
        "i": ("char(3)", "'x'"), "j": ("bool", "true"), "k": ("date", "'2026-01-02'"), "l": ("time", "'03:04:05.6'"),
        "m": ("timetz", "'03:04:05+02'"), "n": ("timestamp", "'2026-01-02 03:04:05.6'"),
        "p": ("interval", "'1 year -2 days 03:04:05'"), "q": ("uuid", "'00000000-0000-0000-0000-000000000001'"),
        "r": ("jsonb", "'{\"a\": 1.50}'"), "s": ("json", "'{\"a\":1.50}'"), "t": ("int4[]", "'{{1,null},{3,4}}'"),
        "u": ("interval[]", "'{1 day}'"), "v": ("point", "'(0.1,2)'"), "w": ("daterange", "'[2026-01-02,2026-02-03)'"),
        "x": ("int4range", "'[1,2)'"), "y": ("inet", "'::1/64'"), "z": ("bit varying", "'101'"),
        "bb": ("mood", "'so so'"), "cc": ("precise", "0.1"), "dd": ("pair", "'(1,\"2 days\")'"),
        "ee": ("pair[]", "'{}'"), "ff": ("tsvector", "'a b'"), "gg": ("int4multirange", "'{[1,2),[5,6)}'"),
        "hh": ("oid", "1"),
        "ii": ("date[]", "'{2026-01-02}'"), "jj": ("float8", "'NaN'"), "kk": ("date", "'infinity'"),
    }  # fmt: skip
    database.sql(
        "create type mood as enum ('so so'); create domain precise as float8; create type pair as (a int, b interval)"
    )
    database.sql(f"create table t (o timestamptz, {', '.join(f'{name} {kind}' for name, (kind, _) in values.items())})")
    capture(database, "t")
    insert = f"insert into t values ('2026-01-02 03:04:05Z', {', '.join(text for _, text in values.values())})"
    database.sql(insert)
    database.sql(HOSTILE + insert)
    rows = [new for _, _, new in captured(database)]
    assert failures(database) == []
    moments = {row.pop("o") for row in rows}
    assert database.sql("select count(distinct v::timestamptz) from unnest(%s) as v", list(moments)) == [(1,)]
    assert rows[0] == rows[1]
    assert rows[0]["p"] == "1 year -2 days +03:04:05"
    assert (rows[0]["k"], rows[0]["d"], rows[0]["g"]) == ("2026-01-02", 0.1, r"\x00ff")


def test_only_tables_that_need_it_pay_for_pinned_settings(database: Database) -> None:
    """Integers and text have one form; floats, directly or inside of something, have several."""
    database.sql("create type pair as (a int, b float4); create type plain as (a int, b timestamptz[])")
    database.sql("create table a (id int, at timestamptz, t text[], p plain); create table b (id int, p pair[])")
    capture(database, "a", "b")
    ((plain,), (pinned,)) = database.sql(
        "select array_to_string(proconfig, ' ') from pg_proc where proname like 'capture_%' order by proname"
    )
    assert "extra_float_digits" not in plain
    assert "extra_float_digits" in pinned


def test_context_is_that_of_the_transaction(shop: Database) -> None:
    """It is attached to what follows in its transaction, replaced by a later one, and gone after it, or rolled back."""
    connection = shop.connect()
    cursor = connection.cursor()
    for statement in (
        "begin; insert into users values (1)",
        "select wal_tracker.set_context('{\"user\": 1}'); insert into users values (2)",
        "select wal_tracker.set_context('{\"user\": 2}'); insert into users values (3); commit",
        "insert into users values (4)",
        "begin; savepoint a; select wal_tracker.set_context('{\"user\": 3}'); rollback to a",
        "insert into users values (5); commit",
    ):
        cursor.execute(statement)
    rows = shop.sql("select new ->> 'id', coalesce(context, '') from wal_tracker.outbox order by lsn")
    assert rows == [("1", ""), ("2", '{"user": 1}'), ("3", '{"user": 2}'), ("4", ""), ("5", "")]


def test_an_emitted_event_is_captured_and_rolled_back_like_a_row(shop: Database) -> None:
    """`wal_tracker.emit` writes a row EVENT with the context of its transaction, as the role that connected."""
    shop.sql('begin; select wal_tracker.set_context(\'{"a": 1}\'); select wal_tracker.emit(\'{"event": "x"}\'); commit')
    shop.sql('begin; select wal_tracker.emit(\'{"event": "y"}\'); rollback')
    assert shop.sql("select op, relation, context, old, new, actor = session_user from wal_tracker.outbox") == [
        ("EVENT", 0, '{"a": 1}', None, {"event": "x"}, True)
    ]


def test_the_actor_is_who_connected(shop: Database) -> None:
    """Neither the role that was set nor the one the function runs as."""
    shop.sql("create role wt_writer; grant insert on users to wt_writer")
    shop.sql("set role wt_writer; insert into users values (1)")
    assert shop.sql("select actor = session_user from wal_tracker.outbox") == [(True,)]
    shop.sql("drop owned by wt_writer; drop role wt_writer")


def test_what_is_rolled_back_is_not_captured(shop: Database) -> None:
    """Savepoints, and exceptions a function catches; what stays has its transaction's id, and lsn in its order."""
    shop.sql(
        """begin; insert into users values (1); savepoint a; insert into users values (2); rollback to a;
        insert into users values (3); savepoint b; insert into users values (4); release b;
        do $$ begin insert into users values (5); insert into users values (1); exception when unique_violation
        then end $$;
        commit"""
    )
    assert [new["id"] for _, _, new in captured(shop)] == [1, 3, 4]
    assert shop.sql("select count(distinct xid) from wal_tracker.outbox") == [(1,)]


def test_every_way_to_write_is_captured(shop: Database) -> None:
    """COPY, INSERT .. ON CONFLICT, INSERT .. SELECT, foreign keys that cascade, statements of functions."""
    shop.sql("create table notes (id int primary key, owner int references users on delete cascade on update cascade)")
    capture(shop, "users", "notes", ignored={"users": {"password"}})
    connection = shop.connect()
    with connection.cursor() as cursor:
        cursor.copy_expert("copy users (id, email) from stdin", io.StringIO("1\ta\n2\tb\n"))
    shop.sql("insert into users values (1, 'c') on conflict (id) do update set email = excluded.email")
    shop.sql("insert into users values (1, 'd') on conflict do nothing")
    shop.sql("insert into notes select id, id from users")
    shop.sql("update users set id = 3 where id = 1; delete from users where id = 2")
    assert [(op, old and old["id"], new and new["id"]) for op, old, new in captured(shop, "users")] == [
        ("INSERT", None, 1), ("INSERT", None, 2), ("UPDATE", 1, 1), ("UPDATE", 1, 3), ("DELETE", 2, None),
    ]  # fmt: skip
    assert [op for op, _, _ in captured(shop, "notes")] == ["INSERT", "INSERT", "UPDATE", "DELETE"]


@pytest.mark.postgres(min=15)
def test_merge_is_captured(shop: Database) -> None:
    """Each action as what it is."""
    shop.sql("insert into users values (1, 'a'), (2, 'b')")
    shop.sql(
        "merge into users using (values (1), (2), (3)) as given (id) on users.id = given.id "
        "when matched and users.id = 1 then update set email = 'c' when matched then delete "
        "when not matched then insert (id) values (given.id)"
    )
    assert [op for op, _, _ in captured(shop)] == ["INSERT", "INSERT", "UPDATE", "DELETE", "INSERT"]


@pytest.mark.parametrize(
    "breakage",
    [
        "alter table wal_tracker.outbox_{turn} add constraint full_up check (false) not valid",
        "drop table wal_tracker.outbox_{turn}",
    ],
)
def test_a_capture_that_fails_leaves_the_write_alone_and_is_on_record(shop: Database, breakage: str) -> None:
    """Tolerant: the application notices nothing, and each lost change is on record, without its values."""
    for turn in (0, 1):
        shop.sql(breakage.format(turn=turn))
    shop.sql("insert into users values (1, 'a', 'p'); update users set email = 'b'")
    assert shop.sql("select id, email from users") == [(1, "b")]
    assert [op for op, _ in failures(shop)] == ["INSERT", "UPDATE"]
    assert shop.sql("select count(distinct xid) from wal_tracker.capture_failure where relation = 1") == [(1,)]


def test_a_failure_that_cannot_even_be_noted_warns_and_leaves_the_write_alone(shop: Database) -> None:
    """Without any of our tables: a warning, without values, and the row is there."""
    shop.sql("drop table wal_tracker.outbox_0, wal_tracker.outbox_1, wal_tracker.capture_failure")
    connection = shop.connect()
    with connection.cursor() as cursor:
        cursor.execute("insert into users values (1, 'CANARY', 'p')")
    assert "a change of public.users was not captured" in connection.notices[-1]
    assert "CANARY" not in "".join(connection.notices)
    assert shop.sql("select id from users") == [(1,)]


def test_strict_capture_refuses_the_write(database: Database) -> None:
    """Strict: a change that cannot be captured does not happen, and the error names the capture function."""
    database.sql("create table users (id int primary key)")
    capture(database, "users", is_strict=True)
    database.sql("insert into users values (1)")
    database.sql("alter table wal_tracker.outbox_0 add constraint full_up check (false) not valid")
    with pytest.raises(psycopg2.errors.CheckViolation, match=r"outbox_0.*(?s:.)*wal_tracker\.capture_1"):
        database.sql("insert into users values (2)")
    assert database.sql("select id from users") == [(1,)]


def test_a_cancelled_statement_is_cancelled(shop: Database) -> None:
    """The tolerant handler does not eat what a person or a timeout asked for."""
    with pytest.raises(psycopg2.errors.QueryCanceled):
        shop.sql("set statement_timeout = '200ms'; insert into users select n from generate_series(1, 1000000) as n")
    assert shop.sql("select count(*) from users") == [(0,)]


def test_capture_does_not_follow_a_hostile_search_path(shop: Database) -> None:
    """What somebody puts before pg_catalog, or among temporary objects, is never called with the owner's rights."""
    shop.sql("create role wt_evil; grant create on schema public to wt_evil; grant insert on users to wt_evil")
    shop.sql("grant create on database " + shop.name + " to wt_evil")
    evil = """
        set role wt_evil;
        create schema evil;
        create table evil.ran (who text);
        grant usage on schema evil to public; grant insert on evil.ran to public;
        create function evil.row_to_json(record) returns json language plpgsql as
            $$ begin insert into evil.ran values (current_user); return '{}'; end $$;
        create function evil.pg_current_xact_id() returns xid8 language plpgsql as
            $$ begin insert into evil.ran values (current_user); return '1'; end $$;
        create function evil.statement_timestamp() returns timestamptz language plpgsql as
            $$ begin insert into evil.ran values (current_user); return pg_catalog.now(); end $$;
        create function evil.to_jsonb(anyelement) returns jsonb language plpgsql as
            $$ begin insert into evil.ran values (current_user); return '{}'; end $$;
        create operator evil.- (leftarg = jsonb, rightarg = text[], function = pg_catalog.jsonb_delete);
        set search_path = evil, pg_temp, pg_catalog, public;
        create temporary table outbox_0 (like wal_tracker.outbox_0);
    """
    # Who may not read our tables cannot even copy their shape.
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        shop.sql(evil)
    shop.sql(evil.replace("(like wal_tracker.outbox_0)", "(lsn text)") + "insert into users values (1, 'a', 'p')")
    assert shop.sql("select * from evil.ran") == []
    assert captured(shop) == [("INSERT", None, {"id": 1, "email": "a"})]
    shop.sql("drop owned by wt_evil cascade; drop role wt_evil")


def test_the_application_may_call_two_functions_and_nothing_else(shop: Database) -> None:
    """No table of ours is open to others, no capture function is callable, and nobody creates anything in there."""
    shop.sql("create role wt_app; grant create on schema public to wt_app")
    as_app: Callable[[str], Any] = lambda statement: shop.sql("set role wt_app; " + statement)  # noqa: E731
    as_app("select wal_tracker.set_context('{}'); select wal_tracker.emit('{\"event\": \"x\"}')")
    as_app("create table mine (id int)")
    for statement in (
        *(f"select from wal_tracker.{name}" for name in ("outbox", "outbox_0", "tracked", "claim", "reader", "switch")),
        "insert into wal_tracker.outbox_0 select",
        "select nextval('wal_tracker.signal')",
        "create trigger t after insert on mine for each row execute function wal_tracker.capture_1()",
        "create table wal_tracker.mine (id int)",
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            as_app(statement)
    shop.sql("drop owned by wt_app; drop role wt_app")


def test_what_the_database_grants_by_default_is_taken_back(database: Database) -> None:
    """To named roles, too: tables, sequences, functions, schema. What create-role granted stays when apply mends."""
    database.sql("create role wt_reports; create role wt_worker; comment on role wt_worker is 'made by wal_tracker'")
    for kind in ("tables", "sequences", "functions", "schemas"):
        database.sql(f"alter default privileges grant all on {kind} to wt_reports, public")
    database.sql("create table t (id int)")
    capture(database, "t")
    open_to_reports = """select relname from pg_class where relnamespace = 'wal_tracker'::regnamespace
        and relkind in ('r', 'S') and case relkind
        when 'S' then has_sequence_privilege('wt_reports', oid, 'usage, select, update')
        else has_table_privilege('wt_reports', oid, 'select, insert, update, delete, truncate, references, trigger') end
        union all select proname from pg_proc where pronamespace = 'wal_tracker'::regnamespace
        and proname like 'capture%' and has_function_privilege('wt_reports', oid, 'execute')
        union all select nspname from pg_namespace where nspname = 'wal_tracker'
        and has_schema_privilege('wt_reports', oid, 'create')"""
    assert database.sql(open_to_reports) == []
    database.sql("grant select on wal_tracker.outbox to wt_worker; drop table wal_tracker.claim")
    capture(database, "t")
    assert database.sql(open_to_reports) == []
    assert database.sql("select has_table_privilege('wt_worker', 'wal_tracker.outbox', 'select')") == [(True,)]
    database.sql("drop owned by wt_reports, wt_worker; drop role wt_reports, wt_worker")


def test_nothing_of_ours_runs_as_a_superuser(shop: Database) -> None:
    """Schema, tables and functions belong to a role that cannot log in and has no rights elsewhere."""
    owners = shop.sql(
        """select distinct rolname, rolsuper, rolcanlogin, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls
        from pg_roles where oid in (
            select proowner from pg_proc where pronamespace = 'wal_tracker'::regnamespace
            union select relowner from pg_class where relnamespace = 'wal_tracker'::regnamespace
            union select nspowner from pg_namespace where nspname = 'wal_tracker')"""
    )
    assert owners == [("wal_tracker_owner", False, False, False, False, False, False)]
    assert shop.sql("select distinct proconfig[1] from pg_proc where pronamespace = 'wal_tracker'::regnamespace") == [
        ("search_path=pg_catalog, pg_temp",)
    ]


def test_transactions_may_be_prepared(server: Callable[..., Server]) -> None:
    """Where the server allows it nobody is notified, which would make PREPARE TRANSACTION fail; where not, one is."""
    database = server(max_prepared_transactions=2).create_database()
    database.sql("create table users (id int)")
    capture(database, "users")
    database.sql("select setval('wal_tracker.signal', 2)")
    database.sql("begin; insert into users values (1); select wal_tracker.emit('{}'); prepare transaction 'a'")
    assert captured(database) == []
    database.sql("commit prepared 'a'")
    assert [op for op, _, _ in captured(database)] == ["INSERT", "EVENT"]


def test_a_sleeping_reader_is_woken_and_a_busy_one_is_not(shop: Database) -> None:
    """Bit 1 of the signal asks for one notification and is taken back; bit 0 says which table is written to."""
    reader = shop.connect()
    with reader.cursor() as cursor:
        cursor.execute("listen wal_tracker")
        for signal in (0, 1, 2, 3):
            shop.sql("select setval('wal_tracker.signal', %s)", signal)
            shop.sql("insert into users values (%s)", signal)
            shop.sql("select wal_tracker.emit('{}')")
            shop.sql("insert into users values (%s)", signal + 10)
            assert shop.sql("select last_value from wal_tracker.signal") == [(signal & 1,)]
        shop.sql("select setval('wal_tracker.signal', 2)")
        shop.sql("select wal_tracker.emit('{}'); insert into users values (20)")
        cursor.execute("select 1")
    assert len(reader.notifies) == 3
    ids = shop.sql("select new ->> 'id' from wal_tracker.outbox_1 where relation <> 0 order by lsn")
    assert ids == [("1",), ("11",), ("3",), ("13",)]


def test_an_outbox_without_a_signal_captures_and_apply_gives_it_one(shop: Database) -> None:
    """A dump of definitions alone brings the sequence without a value: nothing fails, and apply sets it."""
    shop.sql("alter sequence wal_tracker.signal restart; delete from wal_tracker.reader")
    shop.sql("insert into users values (1); select wal_tracker.emit('{}')")
    assert [op for op, _, _ in captured(shop)] == ["INSERT", "EVENT"]
    assert failures(shop) == []
    setup.apply(wanting(shop, "users", ignored={"users": {"password"}}))
    assert shop.sql("select pg_sequence_last_value('wal_tracker.signal')") == [(0,)]


def test_a_change_made_by_another_trigger_is_captured_after_the_one_that_called_it(database: Database) -> None:
    """Triggers fire in the order of their names: whatever the application calls its own, ours come first."""
    database.sql(
        """create table t (id int primary key, v int);
        create function touch() returns trigger language plpgsql as
            'begin update t set v = 2 where id = new.id; return null; end';
        create trigger "0_touch" after insert on t for each row execute function touch();
        create trigger "A_touch" after insert on t for each row execute function touch()"""
    )
    capture(database, "t")
    database.sql("insert into t values (1, 1)")
    assert [(op, new["v"]) for op, _, new in captured(database)] == [("INSERT", 1), ("UPDATE", 2), ("UPDATE", 2)]


def test_a_failed_capture_leaves_lastval_to_the_application(database: Database) -> None:
    """What ORMs ask after an insert: the number their own sequence gave, not one of ours."""
    database.sql("create table t (id serial primary key); select setval('t_id_seq', 500)")
    capture(database, "t")
    database.sql("alter table wal_tracker.outbox_0 add constraint full_up check (false) not valid")
    assert database.sql("insert into t default values; select lastval()") == [(501,)]
    assert len(failures(database)) == 1


@pytest.mark.parametrize("major", [major for major in matrix.MAJORS if major != matrix.EMBEDDED_MAJOR])
def test_every_version_captures_alike(server: Callable[..., Server], major: int) -> None:
    """14 to 17, without logical decoding: apply, every operation, apply again, drop; the other tests run on 18."""
    database = server(major, wal_level="replica").create_database()
    database.sql("create table users (id int primary key, email text, password text, f float8)")
    database.sql("create table logs (id int) partition by range (id); create table l1 partition of logs default")
    wanted = capture(database, "users", "logs", ignored={"users": {"password"}})
    assert setup.plan(wanted).steps == ()
    database.sql("insert into users values (1, 'a', 'p', 0.1); update users set email = 'b'; delete from users")
    database.sql('truncate users; select wal_tracker.emit(\'{"event": "x"}\'); insert into logs values (1)')
    ops = [op for op, _, _ in captured(database)]
    assert ops == ["INSERT", "UPDATE", "DELETE", "TRUNCATE", "EVENT", "INSERT"]
    assert captured(database)[0][2] == {"id": 1, "email": "a", "f": 0.1}
    setup.drop(wanted)
    assert setup.plan_drop(wanted).steps == ()
