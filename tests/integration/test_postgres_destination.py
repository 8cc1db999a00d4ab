"""The `postgres` destination against real servers: what it writes, what it refuses, and what it notices."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.support.delivered import deliver
from tests.support.postgres import Database, Server, wait_until
from tests.support.proxy import ChaosProxy
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import BatchRefused, Mark, Rejected
from wal_tracker.errors import ConfigError, DestinationError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.lsn import LSN
from wal_tracker.model import Event, RawChange
from wal_tracker.testing import DestinationContract, make_event
from wal_tracker_destinations import postgres as module
from wal_tracker_destinations.postgres import Postgres

TABLE = "public.wal_tracker_events"


def make(dsn: str, **options: Any) -> Postgres:
    given = {"dsn": dsn, "create": True, **options}
    return Postgres("table", registry.read_config(Postgres.Config, given, "destinations.table", defaults={}))


@contextmanager
def opened(dsn: str, mark: Mark | None = None, **options: Any) -> Iterator[Postgres]:
    with closing(make(dsn, **options)) as destination:
        destination.open(mark)
        yield destination


def ids(database: Database, table: str = TABLE) -> list[str]:
    """Of the rows, transaction by transaction as they were inserted."""
    rows = database.sql(f"select event_id::text from {table} order by xmin::text::bigint, commit_lsn")
    return [id for (id,) in rows]


def ids_of(events: Sequence[Any]) -> list[str]:
    return [event.id for event in events]


@pytest.mark.of_kind("postgres")
class TestPostgres(DestinationContract):
    """The laws of every destination."""

    secrets = ("s3cret-of-it",)

    @pytest.fixture(autouse=True)
    def its_database(self, database: Database) -> None:
        self.database = database
        make_tables(database)

    def build(self) -> Postgres:
        return make(self.database.dsn + " sslpassword=s3cret-of-it")

    def received(self) -> list[str]:
        return ids(self.database)


def make_tables(database: Database) -> None:
    with opened(database.dsn):
        pass


def test_an_event_is_a_row_with_its_own_columns(database: Database) -> None:
    """Everything of the event, exactly: no digit is rounded, NULL is null, and the time is the event's."""
    event = make_event(1, properties={"price": orjson.Fragment("12345678901234567890.123456789"), "note": None})
    nobody = make_event(2)
    nobody.distinct_id = None

    with opened(database.dsn) as destination:
        assert not destination.deliver([event, nobody]).outcomes

    columns = "event_id::text, event, distinct_id, occurred_at at time zone 'UTC', commit_lsn::text, source, properties"
    row, other = database.sql(f"select {columns}::text from {TABLE} order by commit_lsn")
    assert row[:3] == (event.id, "order_placed", "1")
    assert row[3].isoformat() == "2026-01-02T03:04:05.123456"
    assert row[4:6] == ("0/100", event.source)
    assert row[6] == '{"note": null, "price": 12345678901234567890.123456789, "number": 1}'
    assert other[2] is None
    assert database.sql(f"select count(*) from {TABLE} where received_at > now() - interval '1 hour'") == [(2,)]


def test_a_raw_change_is_a_row_too(database: Database) -> None:
    """Its properties are the change."""
    source = {"schema": "public", "table": "orders", "commit_lsn": "0/16B3748"}
    document = {"op": "delete", **source, "old": {"id": 7, "big": orjson.Fragment("1e30")}}
    change = RawChange(str(uuid.uuid4()), "public.orders.delete", "2026-01-02T03:04:05Z", document, source)

    with opened(database.dsn) as destination:
        destination.deliver([change])

    ((event, lsn, old),) = database.sql(f"select event, commit_lsn::text, properties->'old' from {TABLE}")
    assert (event, lsn, old) == ("public.orders.delete", "0/16B3748", {"id": 7, "big": 10**30})


def test_a_dead_letter_keeps_its_digits(database: Database) -> None:
    """It comes as the text it was stored as, and its LSN is an old one: it is a row all the same."""
    text = b'"number":0.10000000000000000000000001'
    event = Event.from_json(make_event(1).to_json().replace(b'"number":1', text))

    with opened(database.dsn) as destination:
        destination.deliver([make_event(500)])
        destination.deliver([event])

    assert database.sql(f"select properties->>'number' from {TABLE} where event_id = %s", event.id) == [
        ("0.10000000000000000000000001",)
    ]


def test_names_are_quoted(database: Database) -> None:
    """Any name PostgreSQL takes will do, and none is SQL."""
    database.sql('create schema "Odd ""%s"')

    with opened(database.dsn, table='Odd "%s."; drop--{x}%(y)s') as destination:
        destination.deliver([make_event(1)])

    assert ids(database, '"Odd ""%s"."""; drop--{x}%(y)s"') == [make_event(1).id]


def test_nul_is_refused_alone_and_a_backslash_is_not_nul(database: Database) -> None:
    """PostgreSQL stores U+0000 nowhere; the text ``\\u0000`` is six characters like any."""
    events = [make_event(number) for number in range(1, 7)]
    events[1].properties["note"] = "a\0b"
    events[2].properties["note"] = "\\u0000 and \\\\u0000"
    events[3].properties["\0"] = 1
    events[4].distinct_id = "\0"
    events[5].properties["note"] = "\\\0"

    with opened(database.dsn) as destination:
        outcomes = destination.deliver(events).outcomes

    assert list(outcomes) == [1, 3, 4, 5]
    assert all(isinstance(outcome, Rejected) and "U+0000" in outcome.reason for outcome in outcomes.values())
    assert ids(database) == [events[0].id, events[2].id]
    ((note,),) = database.sql(f"select properties->>'note' from {TABLE} where event_id = %s", events[2].id)
    assert note == "\\u0000 and \\\\u0000"


@pytest.mark.parametrize("timestamp", ["now", "infinity", "yesterday noon", ""])
def test_a_timestamp_that_is_none_is_refused_alone(database: Database, timestamp: str) -> None:
    """PostgreSQL would take some of them, for another moment on every replay."""
    events = [make_event(1), make_event(2)]
    events[0].timestamp = timestamp

    with opened(database.dsn) as destination:
        (outcome,) = destination.deliver(events).outcomes.values()

    assert isinstance(outcome, Rejected) and "timestamp" in outcome.reason
    assert ids(database) == [events[1].id]


@pytest.mark.parametrize(
    ("properties", "sqlstate"),
    [
        ({"n": orjson.Fragment("1e200000")}, "22003"),
        ({"note": orjson.Fragment('"\\ud800"')}, "22P02"),
        ({"deep": orjson.Fragment("[" * 50_000 + "]" * 50_000)}, "54001"),
    ],
    ids=["a number without bounds", "half a character", "bottomless"],
)
def test_what_postgres_cannot_hold_refuses_the_batch_and_quotes_nothing(
    database: Database, properties: dict[str, Any], sqlstate: str
) -> None:
    """Nothing of the batch was stored, so it can be halved; and the connection goes on."""
    event = make_event(1, properties={"note": "canary-7f3a", **properties})

    with opened(database.dsn) as destination:
        with pytest.raises(BatchRefused) as caught:
            destination.deliver([make_event(2), event])
        assert ids(database) == []
        destination.deliver([make_event(3)])

    assert sqlstate in caught.value.reason and "canary" not in caught.value.reason
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert ids(database) == [make_event(3).id]


def test_a_constraint_of_the_operators_is_named(database: Database) -> None:
    """The table is theirs; what it does not take is a dead letter that says why."""
    make_tables(database)
    database.sql(f"alter table {TABLE} add constraint no_orders check (event <> 'order_placed')")

    with opened(database.dsn) as destination, pytest.raises(BatchRefused, match=r"23514.*no_orders"):
        destination.deliver([make_event(1)])


def test_what_came_before_is_not_written_again(database: Database) -> None:
    """Neither after a lost answer nor twice in a batch; and the first row stays."""
    events = [make_event(number) for number in range(1, 4)]

    with opened(database.dsn) as destination:
        destination.deliver(events[:2])
        before = database.sql(f"select ctid::text, xmin::text from {TABLE} order by commit_lsn")
        destination.deliver([*events, events[2]])

    assert ids(database) == ids_of(events)
    assert database.sql(f"select ctid::text, xmin::text from {TABLE} order by commit_lsn")[:2] == before


def test_the_position_is_in_the_transaction_of_its_events(database: Database) -> None:
    """One xmin, so one cannot be there without the other; and the mark says the same."""
    with opened(database.dsn) as destination:
        destination.deliver([make_event(1), make_event(2)])
        receipt = destination.deliver([make_event(3)])

    ((destination_name, relation, id, batches, events, lsn, last, xmin),) = database.sql(
        "select destination, relation, id::text, batches, events, commit_lsn::text, event_id::text, xmin::text "
        "from wal_tracker_position"
    )
    assert (destination_name, relation, batches, events, lsn) == ("table", TABLE, 2, 3, "0/300")
    assert last == make_event(3).id
    assert receipt.mark == {"id": id, "batches": 2, "commit_lsn": "0/300"}
    assert database.sql(f"select xmin::text from {TABLE} where event_id = %s", last) == [(xmin,)]


def test_durable_is_durable_whatever_the_servers_default(database: Database) -> None:
    """synchronous_commit and the time-out are the transaction's own, so a pooler hands them on to nobody."""
    make_tables(database)
    database.sql(f'alter database "{database.name}" set synchronous_commit = off')
    database.sql("create table seen (setting text)")
    database.sql(
        "create function look() returns trigger language plpgsql as $$ begin insert into seen values "
        "(current_setting('synchronous_commit')), (current_setting('statement_timeout')); return null; end $$"
    )
    database.sql(f"create trigger look after insert on {TABLE} execute function look()")

    with opened(database.dsn, request_timeout_s=7) as destination:
        destination.deliver([make_event(1)])
        with destination._connection.cursor() as cursor:
            cursor.execute("select current_setting('synchronous_commit'), current_setting('statement_timeout')")
            assert cursor.fetchone() == ("off", "0")

    assert database.sql("select setting from seen") == [("on",), ("7s",)]


# What it refuses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dsn": "postgresql://u:hunter2@[::1/db"}, "not a PostgreSQL connection string"),
        ({"table": "events"}, "schema.name"),
        ({"table": "a.b.c"}, "schema.name"),
        ({"table": ".events"}, "schema.name"),
        ({"table": "public." + "é" * 32}, "63 bytes"),
        ({"table": "public.wal_tracker_position"}, "the one beside it"),
        ({"request_timeout_s": 0}, "positive"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(options: dict[str, Any], said: str) -> None:
    """With the place in the file, and without the password."""
    with pytest.raises(ConfigError, match=said) as caught:
        make(**{"dsn": "postgresql://localhost/db", **options})
    assert "hunter2" not in str(caught.value)


def test_a_wrong_password_stops(postgres: Server, database: Database) -> None:
    """It is not an outage, and no event's fault."""
    role = f"writer_{database.name}"
    postgres.sql(f"create role {role} login password 'right-0ne'")
    try:
        with pytest.raises(DestinationRefusedUs, match=r"authentication failed.*check the dsn") as caught:
            make(f"{database.dsn} user={role} password=wr0ng-one").open(None)
        assert "wr0ng-one" not in str(caught.value) + repr(caught.value.__dict__)
        with pytest.raises(DestinationRefusedUs, match="does not exist"):
            make(f"{database.dsn} dbname=no_such_database").open(None)
    finally:
        postgres.sql(f"drop role {role}")


def test_a_missing_table_is_told_with_the_remedy(database: Database) -> None:
    """Nothing is made unless `create` says so; and a schema never."""
    with pytest.raises(DestinationRefusedUs, match=r"lacks .*create: true.*sql/table/create\.sql"):
        make(database.dsn, create=False).open(None)
    with pytest.raises(DestinationRefusedUs, match=r"3F000.*create the schema"):
        make(database.dsn, table="nowhere.events").open(None)
    assert database.sql("select count(*) from pg_tables where schemaname = 'public'") == [(0,)]


def test_a_table_that_goes_away_stops(database: Database) -> None:
    """Dropped, renamed, or of another shape: a person must say what is meant."""
    make_tables(database)
    with opened(database.dsn, create=False) as destination:
        destination.deliver([make_event(1)])
        database.sql(f"alter table {TABLE} rename column properties to props")
        with pytest.raises(DestinationRefusedUs, match=r"42703.*properties.*sql/table/create.sql"):
            destination.deliver([make_event(2)])
        database.sql(f"drop table {TABLE}")
        with pytest.raises(DestinationRefusedUs, match="lacks"):
            destination.deliver([make_event(2)])


def test_a_role_needs_no_more_than_it_is_told(postgres: Server, database: Database) -> None:
    """Tables made by an operator, and the grants of sql/table/create.sql; without them the remedy is the grants."""
    make_tables(database)
    role = f"grantee_{database.name}"
    postgres.sql(f"create role {role} login password 'w'")
    dsn = f"{database.dsn} user={role} password=w"
    try:
        with pytest.raises(DestinationRefusedUs, match=r"42501.*grant its role"):
            make(dsn).open(None)
        database.sql(f"grant select, insert on {TABLE} to {role}")
        database.sql(f"grant select, insert, update on wal_tracker_position to {role}")
        with opened(dsn) as destination:
            assert not destination.deliver([make_event(1)]).outcomes
    finally:
        database.sql(f"drop owned by {role}")
        postgres.sql(f"drop role {role}")
    assert ids(database) == [make_event(1).id]


@pytest.mark.postgres(min=16)
def test_a_standby_is_waited_out_and_named(standby: Server) -> None:
    """After a failover the next connection may reach the primary; if it does not, the reason is in the log."""
    assert standby.primary is not None
    database = standby.primary.create_database()
    try:
        make_tables(database)
        standby.catch_up()
        destination = make(standby.dsn(database.name))
        assert destination.open(None) is None
        with pytest.raises(DestinationUnavailable, match=r"25006.*name the primary"):
            destination.deliver([make_event(1)])
        destination.close()
    finally:
        database.drop()


def test_a_server_that_is_not_there_is_an_outage(database: Database) -> None:
    """A server that is not there is no reason not to start: the first batch waits for it."""
    destination = make(f"{database.dsn} host=127.0.0.1 port=1")

    assert destination.open(None) is None
    with pytest.raises(DestinationUnavailable, match=r"127.0.0.1"):
        destination.deliver([make_event(1)])


# What it notices -------------------------------------------------------------------------------------


def test_a_state_store_that_was_lost_or_restored_costs_nothing(database: Database) -> None:
    """The events come again from an older position, or with no mark at all: each is one row."""
    events = [make_event(number) for number in range(1, 7)]
    with opened(database.dsn) as destination:
        marks = [destination.deliver([event]).mark for event in events]

    for mark in (marks[1], None):
        with opened(database.dsn, mark) as destination:
            destination.deliver(events[2:])

    assert ids(database) == ids_of(events)


def _gone_back(database: Database) -> Mark:
    """A table as a backup would bring it back, and the mark of what it had."""
    with opened(database.dsn) as destination:
        destination.deliver([make_event(1)])
        database.sql("create table kept as select * from wal_tracker_position")
        mark = destination.deliver([make_event(2)]).mark
    assert mark is not None
    database.sql(f"delete from {TABLE} where event_id = %s", make_event(2).id)
    database.sql("delete from wal_tracker_position")
    database.sql("insert into wal_tracker_position select * from kept")
    return mark


def test_a_table_that_went_back_is_not_written_on(database: Database) -> None:
    """A backup was restored: what it lacks was confirmed long ago, so somebody has to know; and may say go on."""
    mark = _gone_back(database)
    ((id,),) = database.sql("select id::text from wal_tracker_position")

    with pytest.raises(DestinationError, match=f"has 1 batches and was given 2.*accept_position: '{id}:1'"):
        make(database.dsn).open(mark)
    with pytest.raises(DestinationError, match="has 1 batches"):
        make(database.dsn, accept_position=f"{id}:0").open(mark)

    with closing(make(database.dsn, accept_position=f"{id}:1")) as destination:
        accepted = destination.open(mark)
        assert accepted == {"id": id, "batches": 1, "commit_lsn": "0/100"}
        last = destination.deliver([make_event(3)]).mark
    with opened(database.dsn, last):
        pass
    assert ids(database) == [make_event(1).id, make_event(3).id]


@pytest.mark.parametrize("dropped", [TABLE, "wal_tracker_position", f"{TABLE}, wal_tracker_position"])
def test_another_table_under_the_same_name_is_not_written_on(database: Database, dropped: str) -> None:
    """Made anew, or in another database: as loud."""
    with opened(database.dsn) as destination:
        mark = destination.deliver([make_event(1)]).mark
    database.sql(f"drop table {dropped}")

    with pytest.raises(DestinationError, match=r"not the one events were delivered to up to commit_lsn 0/100") as told:
        make(database.dsn).open(mark)

    found = str(told.value).split("accept_position: ")[1].strip("'")
    with opened(database.dsn, mark, accept_position=found) as destination:
        destination.deliver([make_event(2)])
    assert ids(database)[-1] == make_event(2).id


def test_a_table_that_goes_back_under_a_running_process_is_noticed_by_the_next_batch(database: Database) -> None:
    """A standby promoted without its last transactions takes connections as if nothing were; the batch is undone."""
    with opened(database.dsn) as destination:
        for number in range(1, 4):
            destination.deliver([make_event(number)])
        database.sql("update wal_tracker_position set batches = 2")
        with pytest.raises(DestinationRefusedUs, match="has 2 batches and was given 3"):
            destination.deliver([make_event(4)])
        assert len(ids(database)) == 3
        database.sql("delete from wal_tracker_position")
        with pytest.raises(DestinationRefusedUs, match="not the one"):
            destination.deliver([make_event(4)])
    assert len(ids(database)) == 3


def test_a_mark_of_another_kind_is_none_of_ours(database: Database) -> None:
    """A name in the configuration may have been a file's before."""
    with opened(database.dsn, {"inode": 7, "offset": 0}) as destination:
        assert not destination.deliver([make_event(1)]).outcomes


def test_its_own_table_never_feeds_itself(database: Database) -> None:
    """An event about the table, or the one beside it, would be the next event; nothing of its batch is written."""
    with opened(database.dsn) as destination:
        for table in ("wal_tracker_events", "wal_tracker_position"):
            event = make_event(1)
            event.source["table"] = table
            with pytest.raises(DestinationRefusedUs, match=f"public.{table}.*without end.*filter"):
                destination.deliver([make_event(2), event])
    assert ids(database) == []


# The line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 20, 80])
def test_a_line_cut_in_a_batch_costs_nothing(database: Database, proxy: ChaosProxy, after: int) -> None:
    """Wherever the answer is cut, the statement's or the commit's: sent again it is there once."""
    events = [make_event(number) for number in range(1, 51)]
    with opened(proxy.dsn(database.dsn)) as destination:
        destination.deliver(events[:10])
        proxy.truncate_after = after
        with pytest.raises(DestinationUnavailable):
            for event in events[10:]:
                destination.deliver([event])
        destination.deliver(events[10:])

    assert ids(database) == ids_of(events)


def test_a_lost_answer_to_the_commit_is_one_row(
    database: Database, proxy: ChaosProxy, background: Callable[[Callable[[], Any]], Any]
) -> None:
    """It is on the server's disk, and we cannot know: sent again it is there once."""
    make_tables(database)
    database.sql(
        "create function linger() returns trigger language plpgsql "
        "as $$ begin perform pg_sleep(0.5); return null; end $$"
    )
    # Deferred: it runs in the commit.
    database.sql(
        f"create constraint trigger linger after insert on {TABLE} deferrable initially deferred for each row "
        "execute function linger()"
    )

    def cut_in_commit() -> None:
        wait_until(
            lambda: database.sql(
                "select 1 from pg_stat_activity where datname = %s and query = 'COMMIT' and wait_event = 'PgSleep'",
                database.name,
            )
        )
        proxy.cut()

    with opened(proxy.dsn(database.dsn)) as destination:
        background(cut_in_commit)
        with pytest.raises(DestinationUnavailable):
            destination.deliver([make_event(1)])
        wait_until(lambda: ids(database))
        receipt = destination.deliver([make_event(1)])

    assert ids(database) == [make_event(1).id]
    assert receipt.mark is not None and receipt.mark["batches"] == 2


def test_a_server_that_falls_silent_is_left(
    database: Database, proxy: ChaosProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooler or proxy whose far side is gone holds the line for ever; we do not."""
    monkeypatch.setattr(module, "_GRACE_S", 0.1)
    with opened(proxy.dsn(database.dsn), request_timeout_s=0.4) as destination:
        destination.deliver([make_event(1)])
        proxy.blackhole = True
        with pytest.raises(DestinationUnavailable):
            destination.deliver([make_event(2)])
        proxy.blackhole = False
        destination.deliver([make_event(2)])

    assert ids(database) == ids_of([make_event(1), make_event(2)])


def test_a_lock_that_is_held_for_long_is_an_outage(database: Database) -> None:
    """The server ends the statement; nothing of the batch is there, and it comes again."""
    with opened(database.dsn, request_timeout_s=0.2) as destination, closing(database.connect()) as somebody:
        somebody.autocommit = False
        somebody.cursor().execute(f"lock table {TABLE}")
        with pytest.raises(DestinationUnavailable, match="57014"):
            destination.deliver([make_event(1)])
        somebody.rollback()
        destination.deliver([make_event(1)])

    assert ids(database) == [make_event(1).id]


# Inside a delivery -----------------------------------------------------------------------------------


def test_every_event_arrives_through_trouble_once_and_in_order(
    database: Database, proxy: ChaosProxy, background: Callable[[Callable[[], Any]], Any]
) -> None:
    """The line is cut and refused for a while, in the middle."""
    events = [make_event(number) for number in range(1, 201)]
    destination = make(proxy.dsn(database.dsn))
    destination.limits = replace(destination.limits, max_batch_events=10)

    def trouble() -> None:
        wait_until(lambda: database.sql("select to_regclass(%s) is not null", TABLE) == [(True,)])
        wait_until(lambda: len(ids(database)) >= 20)
        proxy.refuse = True
        proxy.cut()
        wait_until(lambda: proxy.connections == 0)
        proxy.refuse = False

    proxy.latency_s = 0.005
    background(trouble)
    delivery, letters = deliver(destination, events)

    assert ids(database) == ids_of(events)
    assert (delivery.failure, letters) == (None, [])
    assert delivery.retries > 0


def test_a_poisoned_event_is_the_only_dead_letter(database: Database) -> None:
    """Whether we see it ourselves or PostgreSQL refuses the batch."""
    events = [make_event(number) for number in range(1, 12)]
    events[2].properties["note"] = "\0"
    events[6].properties["n"] = orjson.Fragment("1e200000")

    delivery, letters = deliver(make(database.dsn), events)

    assert ids(database) == [event.id for event in events if event not in (events[2], events[6])]
    assert sorted(letter.id for letter in letters) == sorted(ids_of([events[2], events[6]]))
    assert delivery.position().lsn == LSN(10_000_000)


def test_credentials_that_stop_working_dead_letter_nothing(postgres: Server, database: Database) -> None:
    """A rotated password must not empty the backlog into the dead letters."""
    role = f"rotated_{database.name}"
    postgres.sql(f"create role {role} superuser login password 'old-0ne'")
    destination = make(f"{database.dsn} user={role} password=old-0ne")
    destination.deliver([make_event(1)])
    destination.close()
    try:
        postgres.sql(f"alter role {role} password 'new-0ne'")
        unopened, _ = deliver(destination, [make_event(2)])
        destination.open = lambda mark: mark  # type: ignore[method-assign]
        delivery, letters = deliver(destination, [make_event(2)])
    finally:
        postgres.sql(f"reassign owned by {role} to current_user")
        database.sql(f"reassign owned by {role} to current_user")
        postgres.sql(f"drop role {role}")

    for refused in (unopened, delivery):
        assert isinstance(refused.failure, DestinationRefusedUs)
        assert "old-0ne" not in str(refused.failure)
    assert letters == []
    assert ids(database) == [make_event(1).id]


def test_no_log_line_holds_a_secret_or_a_value(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """PostgreSQL's own words quote the row."""
    make_tables(database)
    database.sql(f"alter table {TABLE} add constraint fussy check (not properties ? 'note')")

    with caplog.at_level(logging.DEBUG):
        destination = make(f"{database.dsn} sslpassword=hunter2")
        _, (letter,) = deliver(destination, [make_event(1, properties={"note": "canary"})])

    shown = " ".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records) + letter.reason
    assert "dead letters" in shown and "fussy" in letter.reason
    assert not [text for text in ("canary", "hunter2") if text in shown]
