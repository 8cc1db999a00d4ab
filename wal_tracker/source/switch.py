"""
The exact change between the two modes: what divides them is stored before either side moves.

One transaction divides: the one that makes the triggers, or the one that removes them. It waits for everybody who has
written to one of the tables, and nobody writes to them before it has ended; so every other transaction that concerns
us commits before it, or after it. A logical message in it marks its place in the WAL, and it stores itself in
``wal_tracker.switch``. What commits before it is read from the old side, the rest from the new one: `wal_tracker run`
reads the old side up to it and ends the change with `finish_to_wal` or `finish_to_trigger`. Each may be called again
after a crash anywhere.

(To WAL mode, a slot could export a snapshot of the place where it begins instead. PostgreSQL refuses that, "initial
slot snapshot too large", when as many transactions as connections were rolled back during the longest one.)
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from psycopg2 import sql

from wal_tracker.decode.transactions import SWITCH_PREFIX
from wal_tracker.errors import PreflightFailed, SlotInUse, SlotNotFound, SourceError, SourceRefused, SourceUnavailable
from wal_tracker.failpoints import hit
from wal_tracker.lsn import LSN
from wal_tracker.model import Commit, Message
from wal_tracker.source import slot as slots
from wal_tracker.source.connection import Session, SourceSettings, read_sql
from wal_tracker.source.plan import MARK
from wal_tracker.source.replication import ReplicationSource

logger = logging.getLogger("wal_tracker.switch")

# Shorter than deadlock_timeout (1 s by default), so that nobody who waits for us while we wait for him is made to fail;
# and whoever comes to a table while we wait for it waits no longer than this.
LOCK_TIMEOUT_S = 0.5
LOCK_PATIENCE_S = 60.0
# The outbox that is left over is in nobody's way.
FINISH_PATIENCE_S = 10.0
# A reader that has just let go of the slot is still seen on it for a moment.
RELEASE_PATIENCE_S = 15.0

_LOCK_NOT_AVAILABLE = "55P03"
_DEADLOCK = "40P01"

APPLY_AGAIN = "`wal_tracker apply` goes on where it was"


CAPTURE_TRIGGERS = frozenset({"00_wal_tracker_capture", "00_wal_tracker_capture_truncate"})


@dataclass(frozen=True, slots=True)
class Switch:
    """A change of mode that is under way: the row of ``wal_tracker.switch``."""

    to_mode: Literal["wal", "trigger"]
    slot: str | None
    """To WAL: the slot made for it. To trigger: the slot that is read to its end; None: whichever is configured."""
    xid: int
    """The transaction that divides."""
    lsn: LSN | None
    """Where it ends in the WAL, once it has been read."""
    snapshot: str | None
    """To WAL: what is visible in it comes by the outbox; explicit events later than that are in there, too."""


def read_switch(session: Session) -> Switch | None:
    """
    The change of mode that is under way; None where there is none.

    Args:
        session: Of the primary.

    Raises:
        SourceError: The server cannot be asked, or our role may not.
    """
    doing = "asking whether a change of mode is under way"
    ((may_be,),) = session.rows(read_sql("queries/switch_table.sql"), doing=doing)
    if not may_be:
        return None
    for to_mode, slot, xid, lsn, snapshot in session.rows(read_sql("queries/switch.sql"), doing=doing):
        return Switch(to_mode, slot, int(xid), None if lsn is None else LSN.parse(lsn), snapshot)
    return None


def has_outbox(session: Session) -> bool:
    """
    Whether trigger mode has its tables.

    Raises:
        SourceError: The server cannot be asked.
    """
    ((there,),) = session.rows(read_sql("queries/outbox_table.sql"), doing="looking for the outbox")
    return bool(there)


def capture_triggers(session: Session) -> dict[tuple[str, str], set[str]]:
    """
    The names of our triggers that are enabled, by schema and table.

    Raises:
        SourceError: The server cannot be asked.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for _, schema, table, trigger, function, is_enabled, *_ in session.rows(
        read_sql("queries/capture_triggers.sql"), doing="looking for triggers"
    ):
        if function is not None and is_enabled:
            found.setdefault((schema, table), set()).add(trigger)
    return found


# To WAL ------------------------------------------------------------------------------------------


def begin_to_wal(settings: SourceSettings, primary: Session, statements: Sequence[str]) -> list[str]:
    """
    Make the slot; then remove the triggers, mark the place in the WAL and store what divides, in one transaction.

    The publication must be there already: a slot does not see younger ones. Where a long transaction holds one of the
    tables it is tried again and again, and nobody waits behind us for long. A failure leaves no slot behind; one that
    a crash has left is taken, because any slot will do that is older than the dividing transaction.

    Args:
        settings: The slot to make, and where.
        primary: Where the outbox is, with no transaction open.
        statements: What removes the triggers from all tables.

    Returns:
        The statements that were run; none when this was done before.

    Raises:
        PreflightFailed: A change to trigger mode is under way.
        SlotInUse: A slot of that name is read by somebody.
        SourceUnavailable: A table was not to be had within a minute, or the slot; nothing was changed.
        SourceError: A server refused, or cannot be reached.
    """
    with _alone(primary):
        if _has_begun(primary, "wal"):
            return []
        with Session(settings.dsn) as source:
            status = slots.read_status(source, settings.slot)
        is_new = status is None or status.confirmed_flush_lsn is None
        if status is not None and is_new:
            logger.info("dropping a slot that is half made", extra={"slot": settings.slot})
            slots.drop_orphan(settings)
        elif status is not None and status.active_pid is not None:
            raise SlotInUse(slot=settings.slot, detail=f"process {status.active_pid} reads it")
        if is_new:
            slots.create(settings)
        hit("switch_slot_made")
        store = read_sql("switch/store_to_wal.sql")
        try:
            done = _divide(primary, statements, [], store, settings.slot, doing="removing the triggers")
        except BaseException:
            if is_new:
                _forget_slot(settings)
            raise
    if is_new:
        done.insert(0, f"select pg_create_logical_replication_slot('{settings.slot}', '{settings.plugin}')")
    return done


def _forget_slot(settings: SourceSettings) -> None:
    """Drop a slot whose boundary was not stored; where the answer to storing it was lost, look."""
    try:
        with _primary(settings) as session:
            if read_switch(session) is None:
                slots.drop_orphan(settings)
    except SourceError as error:
        logger.warning(
            "a slot without a stored boundary may have been left; `wal_tracker apply` removes it",
            extra={"slot": settings.slot, "reason": str(error)},
        )


def finish_to_wal(primary: Session) -> list[str]:
    """
    End a change to WAL mode: everything in the outbox is durable everywhere, and positions are those of the slot.

    The outbox is dropped, if our role may do so and no long transaction keeps us from it; else only the note that the
    change is under way, and `wal_tracker apply` drops the outbox.

    Returns:
        The statements that were run.

    Raises:
        SourceError: The server cannot be reached, or refuses even to forget.
    """
    drop = read_sql("outbox/drop_tables.sql")

    def work() -> list[str]:
        # Who has called wal_tracker.emit may be about to write to what is dropped here.
        primary.run(read_sql("switch/hold_emit.sql"), doing="waiting for transactions that have emitted events")
        primary.run(drop, doing="dropping the outbox")
        return [drop]

    if read_switch(primary) is None:
        return []
    try:
        done = _locked(primary, work, doing="dropping the outbox", patience_s=FINISH_PATIENCE_S)
    except SourceError as error:
        if not (isinstance(error, SourceRefused) or _is_lock(error)):
            raise
        forget = read_sql("switch/forget.sql")
        primary.run(forget, doing="ending the change to WAL mode")
        logger.warning(
            "the outbox stays, empty and unread; `wal_tracker apply`, run by its owner, drops it",
            extra={"reason": str(error)},
        )
        done = [forget]
    hit("switch_finished")
    return done


# To trigger --------------------------------------------------------------------------------------


def begin_to_trigger(session: Session, statements: Sequence[str], *, slot: str | None = None) -> list[str]:
    """
    Make the triggers and mark the place in the WAL, in one transaction. The outbox's tables must be there already.

    Where a long transaction holds one of the tables it is tried again and again, and nobody waits behind us for long.

    Args:
        session: Of the primary, with no transaction open.
        statements: What makes the triggers on all tables.
        slot: The slot that is read to that place; None: whichever is configured when it is read.

    Returns:
        The statements that were run; none when this was done before.

    Raises:
        PreflightFailed: A change to WAL mode is under way.
        SourceUnavailable: A table was not to be had within a minute; nothing was changed.
        SourceError: The server refused, or cannot be reached.
    """
    with _alone(session):
        if _has_begun(session, "trigger"):
            return []
        # What is in the outbox already, events of wal_tracker.emit, comes by WAL. It was waited for.
        begin = read_sql("outbox/make_reader.sql")
        store = read_sql("switch/store_to_trigger.sql")
        return _divide(session, statements, [begin], store, slot, doing="making the triggers")


class Marker:
    """Finds the transaction that made the triggers in the WAL; the pipeline's `Ending`."""

    def __init__(self, settings: SourceSettings) -> None:
        """
        Args:
            settings: The slot that is read, and where the primary is.
        """
        self._settings = settings

    def is_last(self, message: Message) -> bool:
        """
        Whether the message marks the change that is under way, and for this slot.

        Anybody may write such a message, and old ones stay in the WAL; so the server is asked.

        Raises:
            SourceError: It cannot be asked.
        """
        with _primary(self._settings) as session:
            found = read_switch(session)
        return (
            found is not None
            and found.to_mode == "trigger"
            and found.xid == message.transaction.xid
            and found.slot in (None, self._settings.slot)
        )

    def reached(self, end_lsn: LSN) -> None:
        """
        Note where the transaction ends: once positions are past it the slot does not send it again.

        Raises:
            SourceError: The server cannot be told.
        """
        note_end(self._settings, end_lsn)


def note_end(settings: SourceSettings, end_lsn: LSN) -> None:
    """
    Store where the dividing transaction ends in the WAL.

    Raises:
        SourceError: The server cannot be told.
    """
    with _primary(settings) as session:
        session.run("set synchronous_commit to on")
        session.run(read_sql("switch/note_marker.sql"), {"lsn": str(end_lsn)}, doing="noting where the modes divide")
    hit("switch_marker_read")


def find_end(settings: SourceSettings, source: ReplicationSource, found: Switch) -> LSN | None:
    """
    Read the slot of a change to WAL mode up to the dividing transaction; nothing is confirmed.

    Args:
        settings: The slot, and where it is.
        source: Reads it; its decoder need want nothing. Closed afterwards.
        found: The change.

    Returns:
        Where that transaction ends; None: the slot does not have it, somebody made it anew or advanced it.

    Raises:
        SourceError: The slot cannot be read.
    """
    try:
        with Session(settings.dsn) as session:
            until = slots.end_of_commits(session)
        source.connect(LSN(0))
        divides = False
        while source.caught_up_lsn < until:
            items = source.read(0.1)
            if not items:
                source.ask_for_keepalive()
            for item in items:
                if isinstance(item, Message) and item.prefix == SWITCH_PREFIX:
                    divides = item.transaction.xid == found.xid
                elif divides and isinstance(item, Commit):
                    return item.transaction.end_lsn
        return None
    finally:
        source.close()


def _primary(settings: SourceSettings) -> Session:
    return Session(settings.primary_dsn or settings.dsn)


def finish_to_trigger(settings: SourceSettings, primary: Session) -> list[str]:
    """
    End a change to trigger mode: everything before the dividing transaction is durable everywhere.

    The slot is dropped, and the publication if it is ours and our role may.

    Args:
        settings: The slot and the publication to drop, and where they are.
        primary: Where the outbox is.

    Returns:
        The statements that were run.

    Raises:
        SlotInUse: Somebody else reads the slot.
        SourceError: A server refused, or cannot be reached.
    """
    if read_switch(primary) is None:
        return []
    done = []
    with Session(settings.dsn) as source:
        deadline = time.monotonic() + RELEASE_PATIENCE_S
        while True:
            try:
                slots.drop(source, settings.slot)
                done.append(f"select pg_drop_replication_slot('{settings.slot}')")
            except SlotNotFound:
                pass
            except SlotInUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
                continue
            break
    hit("switch_slot_dropped")
    found = primary.rows(
        read_sql("queries/publication.sql"), {"publication": settings.publication}, doing="looking for the publication"
    )
    if found and found[0][3] == MARK:
        drop = sql.SQL(read_sql("setup/drop_publication.sql")).format(publication=sql.Identifier(settings.publication))
        try:
            primary.run(drop, doing="dropping the publication")
            done.append(primary.as_string(drop))
        except SourceRefused as error:
            logger.warning("the publication stays, unread; its owner may drop it", extra={"reason": str(error)})
    forget = read_sql("switch/forget.sql")
    primary.run(forget, doing="ending the change to trigger mode")
    hit("switch_finished")
    return [*done, forget]


# Both --------------------------------------------------------------------------------------------


@contextmanager
def _alone(session: Session) -> Iterator[None]:
    """Keep every other `apply` out."""
    doing = "keeping every other `wal_tracker apply` out"
    ((is_ours,),) = session.rows(read_sql("switch/hold_apply.sql"), doing=doing)
    if not is_ours:
        raise SourceUnavailable("another `wal_tracker apply` is at work in this database; wait for it, and try again")
    try:
        yield
    finally:
        # Where the connection is gone, so is the lock.
        with suppress(SourceUnavailable):
            session.rows(read_sql("switch/release_apply.sql"), doing=doing)


def _has_begun(session: Session, to_mode: str) -> bool:
    """Whether this change is under way; PreflightFailed where it is the other one."""
    found = read_switch(session)
    if found is not None and found.to_mode != to_mode:
        raise PreflightFailed([under_way(found)])
    return found is not None


def _divide(
    session: Session, statements: Sequence[str], after: Sequence[str], store: str, slot: str | None, *, doing: str
) -> list[str]:
    """
    The transaction that divides: it has every table to itself for a moment, and whoever writes commits before or after.

    Args:
        session: Of the primary.
        statements: What makes or removes the triggers, and so waits for everybody who writes to the tables.
        after: What is run once all of them have been waited for.
        store: What stores the boundary.
        slot: Of the boundary.
        doing: For messages.
    """
    framed = [read_sql("switch/hold_emit.sql"), *statements, *after, read_sql("switch/mark_wal.sql")]

    def work() -> list[str]:
        session.run("set local synchronous_commit to on")
        for statement in framed:
            session.run(statement, doing=f"running {statement.splitlines()[0]}")
        session.run(store, {"slot": slot}, doing="storing what divides WAL and outbox")
        return [*framed, store]

    done = _locked(session, work, doing=doing, patience_s=LOCK_PATIENCE_S)
    hit("switch_boundary_stored")
    return done


def under_way(found: Switch) -> str:
    """A finding: the change that must be finished first, and how."""
    return (
        f"a change to {found.to_mode} mode is under way; `wal_tracker run --mode={found.to_mode}` (source.mode: "
        f"{found.to_mode}) reads what is left of the other side and finishes it"
    )


def _locked(session: Session, work: Callable[[], list[str]], *, doing: str, patience_s: float) -> list[str]:
    """Do something in one transaction, again and again while somebody else holds what it needs."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with _transaction(session):
                session.run("select set_config('lock_timeout', %s, true)", (f"{int(LOCK_TIMEOUT_S * 1000)}ms",))
                done = work()
        except SourceError as error:
            if not _is_lock(error):
                raise
            if time.monotonic() > deadline:
                raise SourceUnavailable(
                    f"{doing}: not to be had within {patience_s:g} s, because transactions that run long hold what it "
                    "needs (pg_stat_activity, oldest xact_start, shows them); nothing was changed. Once they have "
                    f"ended, {APPLY_AGAIN}"
                ) from error.__cause__
            logger.info("waiting for a lock; nobody is kept waiting meanwhile", extra={"doing": doing})
            time.sleep(random.uniform(0.2, 0.6))
        else:
            return done


@contextmanager
def _transaction(session: Session) -> Iterator[None]:
    session.run("begin")
    try:
        yield
        session.run("commit")
    except BaseException:
        # Where the connection is gone the server has rolled back by itself.
        with suppress(SourceError):
            session.run("rollback")
        raise


def _is_lock(error: SourceError) -> bool:
    return getattr(error.__cause__, "pgcode", None) in (_LOCK_NOT_AVAILABLE, _DEADLOCK)
