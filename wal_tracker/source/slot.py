"""
The replication slot: what it is like, making and dropping it, and whether reading may begin at it.

`check_start` decides without a connection; everything else asks or tells the server.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from psycopg2 import sql

from wal_tracker.errors import (
    SlotLost,
    SlotNotFound,
    SourceError,
    SourceRefused,
    SourceUnavailable,
    WrongServer,
)
from wal_tracker.lsn import LSN
from wal_tracker.source.connection import Session, SourceSettings, open_connection, read_sql, source_errors, wait

CREATE_TIMEOUT_S = 60.0
SNAPSHOT_INTERVAL_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotStatus:
    """One row of pg_replication_slots; None where this server's version does not say."""

    name: str
    plugin: str | None
    """None: a physical slot."""
    database: str | None
    temporary: bool
    active_pid: int | None
    restart_lsn: LSN | None
    confirmed_flush_lsn: LSN | None
    current_lsn: LSN
    """Flushed on a primary, replayed on a standby."""
    wal_status: str | None
    """reserved, extended, unreserved or lost."""
    safe_wal_size_bytes: int | None
    """What may still be written before the slot is lost; None: no limit is set, or it is lost."""
    conflicting: bool | None = None
    invalidation_reason: str | None = None
    inactive_since: str | None = None
    failover: bool | None = None
    synced: bool | None = None

    @property
    def lag_bytes(self) -> int | None:
        """WAL written and not yet confirmed."""
        return None if self.confirmed_flush_lsn is None else max(0, self.current_lsn - self.confirmed_flush_lsn)

    @property
    def retained_bytes(self) -> int | None:
        """WAL the server keeps for this slot."""
        return None if self.restart_lsn is None else max(0, self.current_lsn - self.restart_lsn)

    @property
    def loss_reason(self) -> str | None:
        """Why the slot can no longer be read; None: it can."""
        if self.invalidation_reason:
            return self.invalidation_reason
        if self.wal_status == "lost":
            return "wal_status is lost"
        if self.conflicting:
            return "it conflicted with recovery"
        return None


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What IDENTIFY_SYSTEM says: which server this is and how far it has come."""

    system_identifier: str
    timeline: int
    current_lsn: LSN
    database: str
    in_recovery: bool


@dataclass(frozen=True, slots=True)
class StoredPosition:
    """What the state store remembers of the source."""

    lsn: LSN
    system_identifier: str
    timeline: int
    database: str
    furthest: LSN = LSN(0)
    """The highest position of any destination; below it that one passes over what comes."""


@dataclass(frozen=True, slots=True)
class SlotGap:
    """Changes in (from_lsn, to_lsn] did not and will not come through the slot."""

    from_lsn: LSN
    to_lsn: LSN
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Start:
    """Reading may begin after `lsn`; `gap` must be recorded first."""

    lsn: LSN
    gap: SlotGap | None = None


def check_start(
    stored: StoredPosition | None, status: SlotStatus | None, server: ServerIdentity, *, slot: str, plugin: str
) -> Start:
    """
    Decide where reading begins, or why it must not. Pure.

    The higher of our position and the slot's holds: a slot behind us (after a crash of the server) sends again what we
    skip. A slot *ahead* of us was advanced or recreated by somebody: a gap.

    Args:
        stored: Our own position; None on the first start.
        status: The slot; None: there is none.
        server: The server we are connected to.
        slot: The slot's configured name.
        plugin: The output plugin we can decode.

    Raises:
        WrongServer: The stored position belongs to another server, or to a future this one does not have.
        SlotNotFound: No slot.
        SlotLost: The slot's WAL is gone.
        SourceRefused: The slot is of another database or plugin.
        SourceUnavailable: A standby has not yet replayed up to our position.
    """
    if stored is not None:
        _check_identity(stored, server)
    if status is None:
        raise SlotNotFound(slot=slot)
    if status.loss_reason is not None:
        confirmed = stored.lsn if stored is not None else status.confirmed_flush_lsn
        raise SlotLost(slot=slot, reason=status.loss_reason, confirmed=confirmed)
    if status.plugin is None:
        raise SourceRefused(f"slot {slot!r} is a physical slot; configure another name in source.slot")
    if status.database != server.database:
        raise SourceRefused(
            f"slot {slot!r} belongs to database {status.database!r}, and source.dsn names {server.database!r}"
        )
    if status.plugin != plugin:
        raise SourceRefused(
            f"slot {slot!r} was made for plugin {status.plugin!r}, and source.plugin is {plugin!r}; configure "
            f"plugin: {status.plugin}, or another slot name"
        )
    if status.synced and server.in_recovery:
        raise SourceRefused(f"slot {slot!r} is synchronized from the primary and cannot be read here; read it there")
    confirmed_lsn = status.confirmed_flush_lsn or LSN(0)
    if stored is None:
        return Start(confirmed_lsn)
    if confirmed_lsn <= stored.lsn:
        return Start(stored.lsn)
    gap = SlotGap(
        stored.lsn,
        confirmed_lsn,
        "slot_ahead",
        f"slot {slot!r} was confirmed up to {confirmed_lsn} by somebody else, or dropped and made again; "
        f"we had delivered up to {stored.lsn}",
    )
    return Start(confirmed_lsn, gap)


def check_owner(stored_system: str, stored_database: str, system: str, database: str) -> None:
    """
    Hold whose positions are stored against whom we are connected to. Pure.

    Args:
        stored_system: The system identifier the state store has.
        stored_database: The database the state store has.
        system: The server's system identifier.
        database: The database we are connected to.

    Raises:
        WrongServer: Not the same.
    """
    if stored_system != system:
        raise WrongServer(
            f"the state belongs to the server with system identifier {stored_system}, and this one is "
            f"{system}: another cluster, or one restored by dump. Point source.dsn at the right "
            "server, or begin anew with another state file"
        )
    if stored_database != database:
        raise WrongServer(
            f"the state belongs to database {stored_database!r}, and source.dsn names {database!r}; "
            "use one state for each database"
        )


def _check_identity(stored: StoredPosition, server: ServerIdentity) -> None:
    check_owner(stored.system_identifier, stored.database, server.system_identifier, server.database)
    seen = max(stored.lsn, stored.furthest)
    if seen > server.current_lsn:
        if server.in_recovery:
            raise SourceUnavailable(
                f"the standby has replayed up to {server.current_lsn}, and we have read up to {seen}: "
                "waiting for it to catch up"
            )
        raise WrongServer(
            f"we have read up to {seen}, and the server has only come to {server.current_lsn}: it was restored "
            "to an earlier time, or a standby was promoted that had not received everything. What we delivered "
            "beyond that point no longer exists there; begin anew with another state file once that is understood"
        )
    if server.timeline < stored.timeline:
        raise WrongServer(
            f"the state belongs to timeline {stored.timeline}, and the server is on {server.timeline}: "
            "an old primary, or one restored to an earlier time"
        )


def read_status(session: Session, slot: str) -> SlotStatus | None:
    """
    The slot as it is now; None where there is none.

    Raises:
        SourceError: The server cannot be asked.
    """
    found = session.rows(
        read_sql("queries/slot_status.sql"), {"slot": slot}, doing=f"reading the state of slot {slot!r}"
    )
    if not found:
        return None
    ((row, current),) = found
    reason = row.get("invalidation_reason")
    return SlotStatus(
        name=row["slot_name"],
        plugin=row["plugin"],
        database=row["database"],
        temporary=row["temporary"],
        active_pid=row["active_pid"],
        restart_lsn=_lsn(row["restart_lsn"]),
        confirmed_flush_lsn=_lsn(row["confirmed_flush_lsn"]),
        current_lsn=LSN.parse(current),
        wal_status=row["wal_status"],
        safe_wal_size_bytes=row["safe_wal_size"],
        conflicting=row.get("conflicting"),
        invalidation_reason=reason,
        inactive_since=row.get("inactive_since"),
        failover=row.get("failover"),
        synced=row.get("synced"),
    )


def end_of_wal(session: Session) -> LSN:
    """
    How far the server's WAL goes: flushed on a primary, replayed on a standby.

    Raises:
        SourceError: The server cannot be asked.
    """
    ((text,),) = session.rows(read_sql("queries/end_of_wal.sql"), doing="reading the server's WAL position")
    return LSN.parse(text)


def end_of_commits(session: Session) -> LSN:
    """
    A position past every transaction that has committed by now, and that the replication stream is sure to reach.

    Commits under ``synchronous_commit = off`` may not be on disk yet, and only what is on disk is sent.

    Raises:
        SourceError: The server cannot be asked.
    """
    ((recovering,),) = session.rows("select pg_is_in_recovery()", doing="asking whether the server is a standby")
    if not recovering:
        session.run(read_sql("queries/flush_commits.sql"), doing="having the server write what is committed")
    return end_of_wal(session)


def identify(settings: SourceSettings) -> ServerIdentity:
    """
    Ask the server who it is, over a replication connection of its own.

    Raises:
        SourceError: The server cannot be asked, or refuses replication connections.
    """
    connection = open_connection(settings.dsn, replication=True)
    try:
        return identify_over(connection)
    finally:
        connection.close()


def identify_over(connection: Any) -> ServerIdentity:
    """
    Ask who the server is over an open replication connection that is not streaming yet.

    Raises:
        SourceError: The server cannot be asked.
    """
    (found,) = command(connection, "IDENTIFY_SYSTEM", doing="identifying the server")
    ((recovering,),) = command(connection, "SHOW in_hot_standby", doing="identifying the server")
    return ServerIdentity(str(found[0]), int(found[1]), LSN.parse(found[2]), str(found[3]), recovering == "on")


def command(
    connection: Any,
    text: str | sql.Composable,
    *,
    doing: str,
    slot: str = "",
    timeout_s: float = 30.0,
    while_waiting: Callable[[], None] | None = None,
) -> list[tuple[Any, ...]]:
    """
    Run one command on a replication connection; its rows.

    Raises:
        SourceError: What `classify` makes of the answer, or of its staying away.
    """
    with source_errors(doing, slot=slot):
        cursor = connection.cursor()
        cursor.execute(text)
        wait(
            connection,
            doing=doing,
            timeout_s=timeout_s,
            while_waiting=while_waiting,
            every_s=SNAPSHOT_INTERVAL_S,
        )
        rows: list[tuple[Any, ...]] = cursor.fetchall() if cursor.description else []
        cursor.close()
        return rows


def create(settings: SourceSettings, *, failover: bool = False, timeout_s: float = CREATE_TIMEOUT_S) -> LSN:
    """
    Make the slot and return from where it keeps changes.

    Waits for every transaction that runs now. On a standby it needs a record of running transactions from the primary,
    which is asked for over and over through ``primary_dsn``. When this gives up, no slot is left behind.

    Args:
        settings: Which slot, where, for which plugin.
        failover: Copied to standbys (PostgreSQL 17 and later).
        timeout_s: Give up after.

    Raises:
        SourceUnavailable: Not made within `timeout_s`; the message says what it waits for.
        SourceError: The server refuses, or there is a slot of that name.
    """
    slot = settings.slot
    statement = read_sql("queries/create_failover_slot.sql" if failover else "queries/create_slot.sql")
    with StandbySnapshots(settings) as snapshots, Session(settings.dsn) as session:
        existed = read_status(session, slot) is not None
        try:
            ((_, lsn),) = session.rows(
                statement,
                {"slot": slot, "plugin": settings.plugin},
                doing=f"making slot {slot!r}{snapshots.hint}",
                slot=slot,
                timeout_s=timeout_s,
                while_waiting=snapshots.log,
            )
        except BaseException:
            if not existed:
                drop_orphan(settings)
            raise
    return LSN.parse(lsn)


def drop(session: Session, slot: str) -> None:
    """
    Drop the slot.

    Raises:
        SlotInUse: Somebody reads it.
        SlotNotFound: There is none.
        SourceError: The server cannot be asked, or refuses.
    """
    session.rows(read_sql("queries/drop_slot.sql"), {"slot": slot}, doing=f"dropping slot {slot!r}", slot=slot)


def create_temporary(connection: Any, settings: SourceSettings, *, timeout_s: float = CREATE_TIMEOUT_S) -> None:
    """
    Make a temporary slot on a replication connection; it vanishes with the connection.

    Raises:
        SourceError: As `create`.
    """
    with StandbySnapshots(settings) as snapshots:
        command(
            connection,
            sql.SQL("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL {} NOEXPORT_SNAPSHOT").format(
                sql.Identifier(settings.slot), sql.Identifier(settings.plugin)
            ),
            doing=f"making temporary slot {settings.slot!r}{snapshots.hint}",
            slot=settings.slot,
            timeout_s=timeout_s,
            while_waiting=snapshots.log,
        )


class StandbySnapshots:
    """Has the primary log its running transactions while a slot is being made on its standby; else does nothing."""

    def __init__(self, settings: SourceSettings) -> None:
        self._primary_dsn = settings.primary_dsn
        self._session: Session | None = None
        self._last = 0.0

    @property
    def hint(self) -> str:
        """For the message when it takes too long."""
        if self._primary_dsn is not None:
            return ""
        return (
            " (it waits for running transactions to end; on a standby also for a record the primary writes now and "
            "then: give the primary in source.primary_dsn, or run there: select pg_log_standby_snapshot())"
        )

    def log(self) -> None:
        """Ask once, at most every `SNAPSHOT_INTERVAL_S`."""
        if self._session is None or time.monotonic() - self._last < SNAPSHOT_INTERVAL_S:
            return
        self._last = time.monotonic()
        self._session.rows(read_sql("queries/log_running_transactions.sql"), doing="logging a snapshot on the primary")

    def __enter__(self) -> StandbySnapshots:
        if self._primary_dsn is not None:
            self._session = Session(self._primary_dsn)
        return self

    def __exit__(self, *_: object) -> None:
        if self._session is not None:
            self._session.close()


def drop_orphan(settings: SourceSettings) -> None:
    """
    Drop the slot that a call of ours which gave up may have left.

    The server goes on making it after the client has gone, so it is ended there first.
    """
    with Session(settings.dsn) as session:
        deadline = time.monotonic() + 10
        while (status := read_status(session, settings.slot)) is not None:
            if status.active_pid is None:
                drop(session, settings.slot)
                return
            session.rows("select pg_terminate_backend(%s)", (status.active_pid,), doing="ending an unfinished slot")
            if time.monotonic() > deadline:
                raise SourceError(
                    f"slot {settings.slot!r} was left half made and is still held by process {status.active_pid}; "
                    "`wal_tracker drop --slot-only` removes it"
                )
            time.sleep(0.1)


def _lsn(text: str | None) -> LSN | None:
    return None if text is None else LSN.parse(text)
