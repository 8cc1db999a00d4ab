"""
Captures what real servers send for each scenario of the corpus.

`python -m tests.conformance.capture [SCENARIO…]` runs every scenario (or those named) on every version there is, and
writes ``pg<major>.<plugin>.jsonl`` beside its SQL. ``expected.json`` is written where there is none, from the newest
pgoutput capture: read it before you trust it. A line of a capture is one message, ``{"lsn": …, "hex": …}``; the first
line is what a consumer learns beside the stream: types and tables by the catalog, and the current transaction id.

A scenario is SQL: what stands before the line ``-- changes`` is done before the slot is made. Comments say what it
needs: ``-- min: 15`` (the lowest major), ``-- wal2json: no, <why>`` (its output differs, and why).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from tests.support import matrix
from tests.support.postgres import Database, Server
from wal_tracker.decode.base import Decoder, OpColumns, Wanted
from wal_tracker.decode.changes import change_document
from wal_tracker.decode.pgoutput import PgOutput
from wal_tracker.decode.wal2json import Wal2Json
from wal_tracker.lsn import LSN
from wal_tracker.model import EXACT, ROW_OPS, Change, Column, Commit, Item, Relation, ReplicaIdentity
from wal_tracker.pgtypes import PgType, PgTypeKind, TypeCatalog
from wal_tracker.source.catalog import read_tables, read_types
from wal_tracker.source.connection import Session

CORPUS = Path(__file__).parent / "corpus"
FIRST_OWN_OID = 16384
"""Object identifiers below it are the server's own (FirstNormalObjectId)."""

SESSION = "-c datestyle=ISO -c timezone=UTC -c intervalstyle=postgres -c extra_float_digits=1 -c bytea_output=hex"
"""As the replication session is set."""

SETTINGS = {"max_prepared_transactions": 5}


@dataclass(frozen=True)
class Scenario:
    """One folder of the corpus."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @cached_property
    def text(self) -> str:
        """The SQL."""
        return (self.path / "scenario.sql").read_text()

    @property
    def lowest(self) -> int:
        """The lowest major it runs on."""
        return int(self._remark("min") or matrix.MAJORS[0])

    @property
    def has_wal2json(self) -> bool:
        """Whether wal2json is to give the same changes."""
        return not self._remark("wal2json").startswith("no")

    def _remark(self, word: str) -> str:
        marker = f"-- {word}: "
        return next((line[len(marker) :] for line in self.text.splitlines() if line.startswith(marker)), "")

    def statements(self) -> tuple[list[str], list[str]]:
        """What comes before the slot, and the changes."""
        before, _, after = self.text.partition("\n-- changes\n")
        return _statements(before), _statements(after)

    def expected(self) -> list[dict[str, Any]]:
        """What every decoder must make of it."""
        documents: list[dict[str, Any]] = json.loads((self.path / "expected.json").read_text())
        return documents


def _statements(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";\n") if statement.strip(" ;\n")]


def scenarios() -> list[Scenario]:
    """All of the corpus."""
    return [Scenario(path.parent) for path in sorted(CORPUS.glob("*/scenario.sql"))]


@dataclass(frozen=True)
class Capture:
    """One stream, and what a consumer knows beside it."""

    plugin: str
    xid8: int
    types: tuple[PgType, ...]
    tables: tuple[Relation, ...]
    messages: tuple[tuple[int, bytes], ...]

    def decoder(self, wanted: Any = None) -> Decoder:
        """A decoder that is ready for the first message."""
        catalog = TypeCatalog(self.types)
        decoder: Decoder
        if self.plugin == "pgoutput":
            decoder = PgOutput(wanted or everything, catalog)
        else:
            tables = {(relation.schema, relation.table): relation for relation in self.tables}
            decoder = Wal2Json(
                wanted or everything, catalog, describe=lambda schema, table: tables.get((schema, table))
            )
        decoder.reset(self.xid8)
        return decoder

    def items(self) -> list[Item]:
        """The whole stream, decoded."""
        decoder = self.decoder()
        items: list[Item] = []
        for lsn, payload in self.messages:
            decoder.feed(payload, lsn, items)
        assert not decoder.in_transaction
        return items

    def write(self, path: Path) -> None:
        """Save it."""
        head = {
            "plugin": self.plugin,
            "xid8": self.xid8,
            "types": [{**asdict(known), "kind": known.kind.value} for known in self.types],
            "tables": [
                {
                    "relation_id": table.relation_id,
                    "schema": table.schema,
                    "table": table.table,
                    "replica_identity": table.replica_identity.value,
                    "columns": [[c.name, c.type_oid, c.type_modifier, c.is_key] for c in table.columns],
                }
                for table in self.tables
            ],
        }
        lines = [{"lsn": str(LSN(lsn)), "hex": payload.hex()} for lsn, payload in self.messages]
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [head, *lines]))

    @classmethod
    def read(cls, path: Path) -> Capture:
        """Load it."""
        head, *lines = [json.loads(line) for line in path.read_text().splitlines()]
        types = tuple(
            PgType(
                **{
                    **known,
                    "kind": PgTypeKind(known["kind"]),
                    "attributes": tuple((name, oid) for name, oid in known["attributes"]),
                }
            )
            for known in head["types"]
        )
        tables = tuple(
            Relation(
                table["relation_id"],
                table["schema"],
                table["table"],
                ReplicaIdentity(table["replica_identity"]),
                tuple(Column(*column) for column in table["columns"]),
            )
            for table in head["tables"]
        )
        messages = tuple((LSN.parse(line["lsn"]), bytes.fromhex(line["hex"])) for line in lines)
        return cls(head["plugin"], head["xid8"], types, tables, messages)


def everything(relation: Relation) -> Wanted:
    """Every column of every row, in both forms."""
    names = {column.name for column in relation.columns}
    keys = frozenset(names | {EXACT + name for name in names})
    return {op: OpColumns(new=keys, old=keys) for op in ROW_OPS}


def documents(items: list[Item]) -> list[dict[str, Any]]:
    """Items as JSON, without what differs from run to run: LSNs, transaction ids and times become a count."""
    transactions: dict[int, int] = {}
    made = []
    for item in items:
        if isinstance(item, Commit):
            continue
        number = transactions.setdefault(id(item.transaction), len(transactions))
        if isinstance(item, Change):
            document = change_document(item)
            for name in ("commit_lsn", "xid", "commit_time"):
                del document[name]
        else:
            document = {
                "op": "message",
                "prefix": item.prefix,
                "content": item.content.decode("latin-1"),
                "transactional": item.transactional,
                "ordinal": item.ordinal,
                "context": item.context,
            }
        written = orjson.dumps({"transaction": number, **document})
        made.append(json.loads(written, parse_float=_digits, parse_int=_integer))
    return made


def _digits(text: str) -> str:
    """A number with a fraction, digit by digit, and not to be taken for a string."""
    return f"number {text}"


def _integer(text: str) -> int | str:
    return int(text) if len(text) < 19 else _digits(text)


def capture(database: Database, scenario: Scenario, plugin: str) -> Capture:
    """Run a scenario in an empty database and take what the plugin says of it."""
    before, changes = scenario.statements()
    slot = f"{database.name}_{plugin}"
    connection = database.connect(options=SESSION)
    try:
        with connection.cursor() as cursor:
            for statement in before:
                cursor.execute(statement)
            cursor.execute("select count(*) from pg_publication where pubname = 'p'")
            if cursor.fetchone() == (0,):
                cursor.execute("create publication p for all tables")
            cursor.execute("select pg_create_logical_replication_slot(%s, %s)", (slot, plugin))
            for statement in changes:
                cursor.execute(statement)
            cursor.execute("select pg_current_xact_id()::text::bigint")
            ((xid8,),) = cursor.fetchall()
            cursor.execute(
                "select lsn::text, data from pg_logical_slot_get_binary_changes(%s, null, null, variadic %s)",
                (slot, list(_options(plugin))),
            )
            messages = tuple((int(LSN.parse(lsn)), bytes(data)) for lsn, data in cursor.fetchall())
    finally:
        connection.close()
    with Session(database.dsn) as session:
        types = tuple(known for known in read_types(session) if known.oid >= FIRST_OWN_OID)
        tables = tuple(table.relation for table in read_tables(session))
    return Capture(plugin, xid8, types, tables, messages)


def _options(plugin: str) -> Iterator[str]:
    kind = PgOutput if plugin == "pgoutput" else Wal2Json
    for name, value in kind(everything, TypeCatalog()).options("p").items():
        yield name
        yield value


def main(names: list[str]) -> None:
    """Capture on every server there is."""
    chosen = [scenario for scenario in scenarios() if not names or scenario.name in names]
    for major in matrix.MAJORS:
        with Server(major=major, settings=SETTINGS) as server:
            for scenario in chosen:
                if major >= scenario.lowest:
                    _save(server, scenario, "pgoutput", major)
    with Server(wal2json=True, settings=SETTINGS) as server:
        for scenario in chosen:
            if scenario.has_wal2json and scenario.lowest <= server.major:
                _save(server, scenario, "wal2json", server.major)
    for scenario in chosen:
        expected = scenario.path / "expected.json"
        if not expected.exists():
            items = Capture.read(scenario.path / f"pg{matrix.MAJORS[-1]}.pgoutput.jsonl").items()
            expected.write_text("[\n" + ",\n".join(map(_line, documents(items))) + "\n]\n")


def _line(document: dict[str, Any]) -> str:
    readable = json.dumps(document, ensure_ascii=False)
    # Half a surrogate pair, which json may hold, has no UTF-8.
    return readable if readable.encode("utf-8", "replace").decode() == readable else json.dumps(document)


def _save(server: Server, scenario: Scenario, plugin: str, major: int) -> None:
    database = server.create_database()
    capture(database, scenario, plugin).write(scenario.path / f"pg{major}.{plugin}.jsonl")
    database.drop()


if __name__ == "__main__":
    main(sys.argv[1:])
