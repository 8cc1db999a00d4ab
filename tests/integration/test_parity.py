"""One commit, two modes: what the outbox gives is what the WAL gives under REPLICA IDENTITY FULL."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from tests.conformance import capture as conformance
from tests.conformance.capture import SESSION, SETTINGS, Capture, Scenario, everything, scenarios
from tests.support import matrix
from tests.support.fixtures import MAJOR, missing
from tests.support.outbox import drain, reading
from tests.support.postgres import Database, Server
from wal_tracker.config.load import load
from wal_tracker.decode.base import WantedFor
from wal_tracker.model import EXACT, Change, Commit, Event, Item, Message
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.rules.engine import RuleSet
from wal_tracker.secret import Secret
from wal_tracker.source import setup
from wal_tracker.source.catalog import read_tables, read_types
from wal_tracker.source.connection import Session, SourceSettings
from wal_tracker.source.plan import Desired

ELSEWHERE = (
    "-c datestyle=SQL,DMY -c timezone=Asia/Kolkata -c intervalstyle=iso_8601 -c extra_float_digits=-2 "
    "-c bytea_output=escape"
)
"""An application that writes in a session like none of ours."""

OTHER = {
    "column_list_and_row_filter": "it is about what a publication leaves out",
    "columns_without_columns": "it is about what a publication leaves out",
    "ddl_within_transaction": "its rows are of two shapes of which the catalog has only the last one",
    "generated_columns_published": "it is about what a publication adds",
    "identity_changed": "it is about replica identities; trigger mode always has the whole rows",
    "logical_messages": "pg_logical_emit_message writes to the WAL alone",
    "logical_messages_of_text": "pg_logical_emit_message writes to the WAL alone",
    "partitions_by_leaf": "it is about a publication that names the leaves",
}
"""Scenarios of the corpus that make no sense in trigger mode, and why."""


@pytest.fixture(scope="module")
def roomy() -> Iterator[Server]:
    """A server that takes prepared transactions."""
    try:
        made = Server(major=MAJOR, settings=SETTINGS)
    except matrix.Missing as reason:
        missing(str(reason))
    with made:
        yield made


class Both:
    """A database that is read in both modes at once."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.slot = f"{database.name}_parity"

    def begin(self) -> None:
        """Track every table there is, in both modes."""
        database = self.database
        tables = database.sql(
            "select oid::regclass::text from pg_class where relkind in ('r', 'p') and not relispartition "
            "and relnamespace::regnamespace::text not in ('pg_catalog', 'information_schema', 'wal_tracker') order by 1"
        )
        leaves = database.sql("select oid::regclass::text from pg_class where relkind = 'r' and relispartition")
        for (table,) in tables + leaves:
            # A table with generated columns that are not published could not be updated.
            if not database.sql(
                "select 1 from pg_attribute where attrelid = %s::regclass and attgenerated <> ''", table
            ):
                database.sql(f"alter table {table} replica identity full")
        captured = database.sql(
            "select nspname, relname from pg_class join pg_namespace as n on n.oid = relnamespace "
            "where pg_class.oid = any(%s::regclass[])",
            [table for (table,) in tables],
        )
        settings = SourceSettings(dsn=Secret(database.dsn))
        setup.apply(Desired(settings, tuple(captured), {}, mode="trigger"))
        database.sql("drop publication if exists p")
        names = ", ".join(table for (table,) in tables)
        database.sql(f"create publication p for table {names} with (publish_via_partition_root = true)")
        database.create_slot(self.slot)

    def wal(self, wanted: WantedFor | None = None) -> list[Item]:
        """What the slot gives."""
        with Session(self.database.dsn) as session:
            types = tuple(read_types(session))
            tables = tuple(table.relation for table in read_tables(session))
            ((xid8,),) = session.rows("select pg_current_xact_id()::text::bigint")
        connection = self.database.connect(options=SESSION)
        with connection.cursor() as cursor:
            cursor.execute(
                "select lsn::text, data from pg_logical_slot_get_binary_changes(%s, null, null, 'proto_version', '1', "
                "'publication_names', 'p', 'messages', 'true')",
                (self.slot,),
            )
            messages = tuple((int(conformance.LSN.parse(lsn)), bytes(data)) for lsn, data in cursor.fetchall())
        connection.close()
        decoder = Capture("pgoutput", xid8, types, tables, messages).decoder(wanted)
        items: list[Item] = []
        for lsn, payload in messages:
            decoder.feed(payload, lsn, items)
        return items

    def outbox(self, wanted: WantedFor = everything) -> list[Item]:
        """What the outbox gives."""
        with reading(self.database, wanted=wanted) as source:
            return drain(source)


@pytest.fixture
def both(roomy: Server) -> Iterator[Both]:
    """A database of its own."""
    database = roomy.create_database()
    yield Both(database)
    database.drop()


@pytest.mark.parametrize("options", [SESSION, ELSEWHERE], ids=["like ours", "elsewhere"])
@pytest.mark.parametrize(
    "scenario", [scenario for scenario in scenarios() if scenario.name not in OTHER], ids=lambda scenario: scenario.name
)
def test_every_scenario_gives_the_same_changes_in_both_modes(both: Both, scenario: Scenario, options: str) -> None:
    """Values of every type, operations of every kind: rules cannot tell the modes apart."""
    if both.database.server.major < scenario.lowest:
        pytest.skip(f"needs PostgreSQL {scenario.lowest}")
    before, changes = scenario.statements()
    connection = both.database.connect(options=options)
    with connection.cursor() as cursor:
        for statement in before:
            cursor.execute(statement)
        both.begin()
        for statement in changes:
            # What sets the context in either mode.
            cursor.execute(
                statement.replace("pg_logical_emit_message(true, 'wal_tracker.context', ", "wal_tracker.set_context(")
            )
    connection.close()

    found = differences(flat(both.outbox()), flat(both.wal()))
    if scenario.name == "generated_columns":
        # No replica identity can be FULL here: of old rows the WAL has the key.
        found = {place: values for place, values in found.items() if values[1] is not None and " key." not in place}
    assert found == {}


def flat(items: list[Item]) -> dict[str, Any]:
    """
    Every value of every change by where it stands: as it is emitted, and as rules compute with it.

    Changes are numbered by table: in which order those of several tables come within a transaction may differ, and so
    may the order of transactions that have no row in common.
    """
    items = sorted(items, key=lambda item: item.transaction.xid)
    found: dict[str, Any] = {}
    numbers: dict[str, int] = {}
    for document, item in zip(
        conformance.documents(items), (item for item in items if not isinstance(item, Commit)), strict=True
    ):
        name = item.relation.name if isinstance(item, Change) else "message"
        number = numbers[name] = numbers.get(name, 0) + 1
        for member, value in document.items():
            rows = value.items() if member in ("old", "new") and value is not None else [("", value)]
            found.update({f"{name} {number} {member}.{column}": inner for column, inner in rows})
        if isinstance(item, Change):
            for member, row in (("old", item.old), ("new", item.new)):
                for column, inner in (row or {}).items():
                    if column[:1] != EXACT:
                        found[f"{name} {number} {member}.{column} computed"] = f"{type(inner).__name__} {inner!r}"
    return found


def differences(outbox: dict[str, Any], wal: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What is not the same: by the outbox, by the WAL."""
    return {
        place: (outbox.get(place), wal.get(place))
        for place in outbox | wal
        if place not in outbox or place not in wal or outbox[place] != wal[place]
    }


SCRIPT = Path(__file__).with_name("parity.sql")

MERGE = """
merge into customers as c using (values (1, 'merged'), (7, 'inserted')) as v (id, email) on c.id = v.id
 when matched then update set email = v.email when not matched then insert (id, email) values (v.id, v.email)
"""

RULES = {
    "customers.*": {
        "event": "customer",
        "distinct_id": "string(change.xid)",
        "properties": {"op": "change.op", "who": "ctx", "changed": "change.op == 'update' ? change.changed : []"},
    },
    "customers.insert": [
        {
            "event": "signup",
            "properties": {"id": "new.id", "balance": "new.balance", "meta": "new.meta", "tags": "new.tags"},
        },
        {"name": "named", "event": "named", "when": "new.email != null", "properties": {"email": "new.email"}},
    ],
    "customers.update": {"event": "moved", "properties": {"was": "old.id", "is": "new.id", "seen": "new.seen"}},
    "orders.*": {"event": "order", "properties": {"op": "change.op", "user": "has(ctx.user) ? ctx.user : 0"}},
    "orders.delete": {"event": "order_gone", "properties": {"id": "old.id", "state": "old.state"}},
    "items.*": {"event": "item", "properties": {"op": "change.op"}},
    "items.delete": {"event": "item_gone", "properties": {"id": "old.id", "price": "old.price"}},
    "tree.delete": {"event": "pruned", "properties": {"id": "old.id", "name": "old.name"}},
    "tree.update": {
        "event": "grafted",
        "properties": {"id": "new.id", "parent": "new.parent_id"},
        "identify": {"name": "new.name", "was": "old.id"},
        "group": {"type": "branch", "id": "new.parent_id", "traits": {"id": "new.id"}},
    },
    "deferred.delete": {"event": "deferred_gone", "properties": {"id": "old.id"}},
    "Odd schema.select.update": {"event": "odd", "properties": {"from": "new.from", "f": "new.new", "b": "new['ünï']"}},
    "log.*": {"event": "logged", "properties": {"op": "change.op"}},
    "log.insert": {"event": "log_line", "properties": {"at": "new.at", "note": "new.note"}},
}


def test_one_workload_makes_the_same_changes_and_events_in_both_modes(both: Both) -> None:
    """Ids, names, properties and their order for each table; the commit's time and position are each mode's own."""
    database = both.database
    connection = database.connect()
    with connection.cursor() as cursor:
        tables, _, workload = SCRIPT.read_text().partition("\n-- workload\n")
        cursor.execute(tables)
        both.begin()
        for statement in statements(workload):
            cursor.execute(statement)
        cursor.copy_expert("copy customers (id, email) from stdin", StringIO("20\tcopied\n21\t\\N\n"))
        if database.server.major >= 15:
            cursor.execute(MERGE)
    connection.close()
    outbox, wal = both.outbox(), both.wal()

    assert differences(flat(outbox), flat(wal)) == {}
    by_outbox, by_wal = events(database, outbox, "trigger"), events(database, wal, "wal")
    assert sum(map(len, by_wal.values())) > 200
    assert by_outbox == by_wal


def statements(text: str) -> list[str]:
    """The statements of a script; those within begin and commit one by one, as an application sends them."""
    return [statement for statement in re.split(r";(?=\s)(?![^$]*\$\$;)", text) if statement.strip()]


def events(database: Database, items: list[Item], mode: str) -> dict[str, list[Any]]:
    """What the rules make of these changes, by table."""
    path = Path(tempfile.mkstemp(suffix=".yaml")[1])
    path.write_text(yaml.safe_dump({"source": {"dsn": database.dsn}, "track": RULES}, allow_unicode=True))
    config = load(path, {})
    path.unlink()
    with Session(database.dsn) as session:
        types = TypeCatalog(read_types(session))
    rules = RuleSet(config, types, system_identifier="7", mode=mode)
    plans: dict[int, Any] = {}
    made: dict[str, list[Any]] = {}
    for item in sorted(items, key=lambda item: item.transaction.xid):
        found: list[Event | None] = []
        if isinstance(item, Change):
            if id(item.relation) not in plans:
                plans[id(item.relation)] = (item.relation, rules.wanted(item.relation))
            found = [rule.make(item) for rule in item.relation.plan.rules[item.op]] if item.relation.plan else []
        elif isinstance(item, Message):
            found = [rules.emitted(item)]
        name = item.relation.name if isinstance(item, Change) else "message"
        for event in found:
            if event is not None:
                document = orjson.loads(event.to_json())
                for member in ("timestamp", "source"):
                    source = document.pop(member)
                document["place"] = [source["op"], source["ordinal"], source["xid"]]
                made.setdefault(name, []).append(document)
    return made


def test_a_trigger_of_the_users_on_the_same_table_is_the_one_exception(both: Both) -> None:
    """
    It writes another row in the middle of a statement: the WAL has that after the statement's rows, the outbox between
    them, where the capture functions of both have run. The same changes, in another order and so with other ordinals.
    """
    database = both.database
    database.sql("create table t (id int primary key, note text)")
    database.sql(
        "create function copy_row() returns trigger language plpgsql as $$ begin "
        "if new.id < 100 then insert into t values (new.id + 100, 'copy'); end if; return null; end $$"
    )
    database.sql("create trigger copy_row after insert on t for each row execute function copy_row()")
    both.begin()
    database.sql("insert into t values (1, 'a'), (2, 'b')")

    def order(items: list[Item]) -> list[int]:
        return [item.new["id"] for item in items if isinstance(item, Change) and item.new]

    outbox, wal = order(both.outbox()), order(both.wal())
    assert wal == [1, 2, 101, 102]
    assert outbox == [1, 101, 2, 102]
