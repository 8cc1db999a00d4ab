"""Trigger mode's objects straight from their SQL, and what reads the outbox, for tests below `apply` and `run`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager

from tests.conformance.capture import everything
from tests.support.postgres import Database
from wal_tracker.decode.base import WantedFor
from wal_tracker.decode.outbox import OutboxDecoder
from wal_tracker.lsn import LSN
from wal_tracker.model import Commit, Item
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.secret import Secret
from wal_tracker.source.connection import SourceSettings, read_sql
from wal_tracker.source.outbox import CapturedTables, CaptureFailure, MissingRows, OutboxSource

SAFE_SETTINGS = (
    "\nset datestyle = 'ISO'\nset timezone = 'UTC'\nset intervalstyle = 'postgres'\nset extra_float_digits = 1"
    "\nset bytea_output = 'hex'"
)


def install(database: Database) -> None:
    """The outbox, and the functions the application calls."""
    for name in ("setup/create_schema.sql", "outbox/tables.sql", "setup/set_context.sql", "setup/emit.sql"):
        database.sql(read_sql(name))
    database.sql(read_sql("outbox/make_reader.sql"))


def capture(
    database: Database, *tables: str, ignored: Iterable[str] = (), settings: str = SAFE_SETTINGS, strict: bool = True
) -> None:
    """Give tables (``schema.table`` as SQL writes it) their capture functions and triggers."""
    for table in tables:
        ((number,),) = database.sql(
            "insert into wal_tracker.tracked (relation, schema_name, table_name) "
            "select oid, relnamespace::regnamespace, relname from pg_class where oid = %s::regclass returning id",
            table,
        )
        names = ",".join(ignored)
        text = read_sql("outbox/capture.sql")
        for end in ("old", "new"):
            row = f"row_to_json({end})"
            if names:
                row = f"(select json_object_agg(key, value) from json_each({row}) where key <> all ('{{{names}}}'))"
            text = text.replace("{" + end + "}", row)
        failure = "" if strict else read_sql("outbox/on_failure.sql").replace("{relation}", str(number)) + "\n"
        text = text.replace("{function}", f"capture_{number}").replace("{relation}", str(number))
        text = text.replace("{settings}", settings).replace("{on_failure}", failure)
        database.sql(text)
        database.sql(
            f'create trigger "00_wal_tracker_capture" after insert or update or delete on {table} '
            f"for each row execute function wal_tracker.capture_{number}()"
        )
        database.sql(
            f'create trigger "00_wal_tracker_capture_truncate" after truncate on {table} '
            f"for each statement execute function wal_tracker.capture_{number}()"
        )


def reader(
    database: Database,
    *,
    wanted: WantedFor = everything,
    dsn: str = "",
    on_failures: Callable[[list[CaptureFailure]], None] = lambda failures: None,
    on_missing: Callable[[MissingRows], None] = lambda missing: None,
    beyond: LSN = LSN(0),
    visible_in: str | None = None,
    lease_s: float = 10.0,
) -> OutboxSource:
    """What reads the outbox, not yet connected."""
    dsn = dsn or database.dsn
    types = TypeCatalog()
    decoder = OutboxDecoder(wanted, types, describe=CapturedTables(dsn, types).read)
    settings = SourceSettings(dsn=Secret(dsn))
    return OutboxSource(
        settings,
        decoder,
        visible_in=visible_in,
        beyond=beyond,
        on_capture_failures=on_failures,
        on_missing_rows=on_missing,
        lease_s=lease_s,
    )


@contextmanager
def reading(database: Database, **options: object) -> Iterator[OutboxSource]:
    """A connected reader."""
    with closing(reader(database, **options)) as source:  # type: ignore[arg-type]
        source.connect(LSN(0))
        yield source


def drain(source: OutboxSource, *, confirm: bool = True, within_s: float = 30) -> list[Item]:
    """Everything that has committed by now."""
    items: list[Item] = []
    deadline = time.monotonic() + within_s
    until = source.end_of_commits(LSN(0))
    while not (source.caught_up_lsn and source.caught_up_lsn >= until):
        assert time.monotonic() < deadline, "the outbox was not read to its end"
        found = source.read(0.05)
        items += found
        source.ask_for_keepalive()
        if confirm and found and isinstance(found[-1], Commit):
            source.confirm(found[-1].transaction.end_lsn)
    return items
