"""
The outbox in place of a replication slot: committed transactions in, model items out; what is durable is removed.

Transactions are *claimed*: found committed, numbered in the order in which they are handed on, and noted in the
database, in one short transaction (sql/queries/outbox_claim.sql). Everything else goes by those numbers, which are
positions as far as the rest of the program is concerned. So a restart finds the same transactions at the same
positions, and nothing depends on the order in which transaction ids or rows become visible. No transaction is open
while anything is sent.

One process reads at a time, by a lease in the database. Nothing is kept in the session but LISTEN, and that only wakes
us earlier: behind a pooler in transaction mode we do without.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from psycopg2 import sql

from wal_tracker.decode.outbox import CapturedRow, CapturedTable, OutboxDecoder
from wal_tracker.errors import CheckpointRegression, OutboxInUse, SourceRefused, SourceUnavailable, WrongServer
from wal_tracker.lsn import LSN
from wal_tracker.model import Column, Commit, Item, Transaction
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.source.catalog import read_types
from wal_tracker.source.connection import Session, SourceSettings, read_sql
from wal_tracker.source.outbox_plan import is_settled

logger = logging.getLogger("wal_tracker.source")

CHANNEL = "wal_tracker"
"""What the capture functions notify while the reader sleeps."""

# Who has not been heard of for so long has died, and another process takes over; renewed at a third of it.
LEASE_S = 10.0

# One read gives so many rows, or bytes of JSON, at most: what is held of a transaction of any size.
PAGE_ROWS = 4000
PAGE_BYTES = 4_000_000
# Claims fetched at a time.
PAGE_CLAIMS = 1000

# While nothing comes we look this often, at longer and longer intervals; what a notification announces comes at once.
POLL_MIN_S = 0.005
POLL_MAX_S = 0.5
# A claim reads the outbox. Of the server's time this is to take a fifth at most, however long it takes.
CLAIM_REST = 4
# A claim of a backlog of millions takes minutes at worst; ordinary ones take milliseconds.
CLAIM_TIMEOUT_S = 600.0

# Delivered rows go when there are so many of them, when nothing has come for a moment (but a trickle is no reason to
# make new files all the time), or after a while.
TURN_BYTES = 8 * 1024 * 1024
IDLE_TURN_S = 1.0
IDLE_TURN_EVERY_S = 3.0
LATEST_TURN_S = 10.0
TIDY_INTERVAL_S = 0.25
# A transaction that has written to a table keeps us from emptying it: asked for again at longer and longer intervals.
TIDY_MAX_S = 10.0

# The catalog is compared so often while rows flow; columns that do not fit are noticed at once, types by this.
DESCRIBE_INTERVAL_S = 5.0
DESCRIBE_IDLE_S = 30.0

FAILURES_AT_ONCE = 1000

_EVERY_LSN = ("0/0", "FFFFFFFF/FFFFFFFF")
_LOCK_NOT_AVAILABLE = "55P03"
_NO_TABLE = "42P01"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureFailure:
    """Changes of one transaction on one table that were not captured, while the application's write went through."""

    xid: int
    table: str
    op: str
    """INSERT, UPDATE, DELETE or TRUNCATE."""
    sqlstate: str
    """What kept the capture function from it."""
    count: int
    at: str
    """When the first of them was, as the server writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingRows:
    """Captured changes of one transaction that are in the outbox no more, and were not delivered."""

    xid: int
    end_lsn: LSN
    """The position of the transaction."""
    count: int


@dataclass(slots=True)
class _Claim:
    """One claimed transaction."""

    position: int
    xid: str
    rows: int = 0
    bytes: int = 0
    spans: dict[int, _Span] = field(default_factory=dict)
    """By outbox table."""


@dataclass(frozen=True, slots=True)
class _Span:
    """Where in an outbox table rows are."""

    first: str
    last: str

    @staticmethod
    def around(spans: Sequence[_Span]) -> _Span:
        """The least that holds all of these."""
        return _Span(min((span.first for span in spans), key=_place), max((span.last for span in spans), key=_place))


# Of both tables; the last block has the highest number there can be.
_EVERYWHERE = {turn: _Span("(0,0)", "(4294967294,65535)") for turn in (0, 1)}


@dataclass(frozen=True, slots=True)
class _Part:
    """Some rows of a transaction that is too large to be read at once."""

    lsns: tuple[str, str]
    spans: dict[int, _Span]
    rows: int
    at_us: int


@dataclass(slots=True)
class _Large:
    """A transaction that is read in parts."""

    claim: _Claim
    transaction: Transaction
    parts: deque[_Part]


class OutboxSource:
    """
    The outbox of one database.

    One thread. After any `SourceError` call `close`, and `connect` to go on.
    """

    def __init__(
        self,
        settings: SourceSettings,
        decoder: OutboxDecoder,
        *,
        visible_in: str | None = None,
        beyond: LSN = LSN(0),
        on_capture_failures: Callable[[list[CaptureFailure]], None],
        on_missing_rows: Callable[[MissingRows], None],
        lease_s: float = LEASE_S,
    ) -> None:
        """
        Args:
            settings: Where the database is.
            decoder: For the captured rows.
            visible_in: Read only transactions that are visible in this snapshot (`pg_snapshot`), and remove nothing: on
                the way to WAL mode the others come by the slot.
            beyond: The highest position any destination has reached: what is claimed from now on comes after it,
                whatever became of the server, or that destination would take it for delivered.
            on_capture_failures: Given changes that were not captured, before they are forgotten; they are on record
                elsewhere when it returns.
            on_missing_rows: Given changes that somebody else removed from the outbox, before the end of their
                transaction; they are on record elsewhere when it returns.
            lease_s: When a process that is not heard of any more has died.
        """
        self._settings = settings
        self._decoder = decoder
        self._visible_in = visible_in
        self._on_capture_failures = on_capture_failures
        self._on_missing_rows = on_missing_rows
        self._lease_s = lease_s
        self._holder = f"{socket.gethostname()}, process {os.getpid()} ({uuid.uuid4().hex[:8]})"
        self.last_read_bytes = 0
        """JSON in what the last `read` gave."""
        self._session: Session | None = None
        self._hears = False
        self._was_primary = False
        self._position = int(beyond)
        self._read_position = 0
        self._confirmed = 0
        self._renewed = 0.0
        # Reading.
        self._claims: deque[_Claim] = deque()
        self._large: _Large | None = None
        self._has_unread = False
        self._is_dry = False
        self._dry_since = 0.0
        # Claiming.
        self._next_claim = 0.0
        self._rest_until = 0.0
        self._poll_s = POLL_MIN_S
        self._found_last = False
        self._is_asleep = False
        self._next_describe = 0.0
        # Cleaning.
        self._turn = 0
        self._sizes = [0, 0]
        self._last_in = [0, 0]
        self._last_turn = 0.0
        self._next_tidy = 0.0
        self._tidy_s = TIDY_INTERVAL_S

    @property
    def caught_up_lsn(self) -> LSN:
        """The last position there is, when all that is claimed has been read; else 0."""
        return LSN(self._position if self.is_drained else 0)

    @property
    def is_drained(self) -> bool:
        """Whether the last look found nothing that has not been read."""
        return self._is_dry and not self._has_unread and not self._claims and self._large is None

    def connect(self, start: LSN) -> LSN:
        """
        Take the outbox.

        Args:
            start: Everything up to here is durable with us: its claims are forgotten, and what is claimed from now on
                comes after it, and after every position there ever was, whatever became of the server.

        Returns:
            `start`.

        Raises:
            OutboxInUse: Another process reads it.
            WrongServer: The outbox came here from another server, with transaction ids that mean nothing here.
            SourceRefused: There is no outbox, or this is a standby.
            SourceUnavailable: The server cannot be reached.
            SourceError: Anything else it refuses.
        """
        self._disconnect()
        try:
            self._open(start)
        except BaseException:
            self._disconnect()
            raise
        return start

    def _open(self, start: LSN) -> None:
        session = self._session = Session(self._settings.dsn, json_as_text=True)
        backend_pid = self._check_reader(session)
        now = time.monotonic()
        taken = session.rows(
            read_sql("queries/outbox_take.sql"),
            {
                "holder": self._holder,
                "lease_s": self._lease_s,
                "start": str(start),
                "beyond": str(LSN(max(self._position, int(start)))),
            },
            doing="taking the outbox",
        )
        if not taken:
            raise OutboxInUse(holder="another process")
        ((position, signal),) = taken
        self._renewed = now
        self._position, self._read_position, self._confirmed = position, int(start), int(start)
        self._turn, self._is_asleep = signal, False
        self._claims.clear()
        self._large = None
        self._has_unread, self._is_dry, self._found_last = True, False, False
        self._last_in = [position, position]
        self._poll_s, self._next_claim, self._next_describe, self._next_tidy = POLL_MIN_S, 0.0, 0.0, 0.0
        self._rest_until = 0.0
        # A pooler tells us a process of its own, and would give LISTEN to whoever has the connection next.
        self._hears = backend_pid == session.backend_pid
        if self._hears:
            session.run(f"listen {CHANNEL}", doing="listening to the capture functions")

    def _check_reader(self, session: Session) -> int:
        """See to it that this is the outbox's server and that it is free; the server process that answers."""
        try:
            found = session.rows(read_sql("queries/outbox_reader.sql"), doing="reading who reads the outbox")
        except SourceRefused as error:
            if not _is_missing(error):
                raise
            found = []
        if not found:
            raise SourceRefused(
                "there is no outbox in this database; `wal_tracker apply` (or `wal_tracker run --apply`) makes it"
            )
        ((outbox_of, server, is_standby, backend_pid, holder),) = found
        if is_standby:
            text = "this server is a standby, and the outbox is read where it is written: on the primary"
            raise SourceUnavailable(f"{text}; waiting for it") if self._was_primary else SourceRefused(text)
        self._was_primary = True
        if outbox_of != server:
            raise WrongServer(
                f"the outbox holds transaction ids of the server with system identifier {outbox_of}, and this one is "
                f"{server}: the database was copied by dump and restore. What is in its outbox belongs to the other "
                "one; `wal_tracker apply` begins anew here"
            )
        if holder is not None and holder != self._holder:
            raise OutboxInUse(holder=holder)
        return int(backend_pid)

    def end_of_commits(self, start: LSN) -> LSN:
        """
        Claim everything that has committed by now; the position after which all of it has been read.

        Args:
            start: As for `connect`, which this does where it was not done: what is claimed now must come after it, or
                it would be taken for delivered.

        Raises:
            SourceError: As `connect`.
        """
        if self._session is None:
            self.connect(start)
        self._claim()
        return LSN(self._position)

    def read(self, timeout_s: float) -> list[Item]:
        """
        The next items, in order: whole transactions, or a part of a large one.

        Args:
            timeout_s: Wait so long for the first; an empty list when nothing came.

        Raises:
            SourceUnavailable: The line broke, the server is going away, or another process has taken over.
            SourceError: What else the server says.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            now = time.monotonic()
            if now - self._renewed > self._lease_s / 3:
                self._confirm(self._confirmed)
            items = self._next_items()
            if items:
                return items
            now = time.monotonic()
            if now >= self._next_claim:
                if self._claim():
                    continue
                now = time.monotonic()
            self._tidy(now)
            if now >= deadline:
                return []
            self._wait(min(deadline, self._next_claim) - now)

    def confirm(self, lsn: LSN) -> None:
        """
        Everything up to `lsn` is durable with us: its claims are forgotten, and its rows may go.

        Raises:
            CheckpointRegression: `lsn` lies below an earlier one, or above everything that was read.
            SourceUnavailable: The line broke, or another process has taken over.
        """
        if lsn < self._confirmed:
            raise CheckpointRegression(f"asked to confirm {lsn} after {LSN(self._confirmed)}")
        if lsn > self._position:
            raise CheckpointRegression(f"asked to confirm {lsn}, and claimed is only up to {LSN(self._position)}")
        self._confirm(int(lsn))

    def ask_for_keepalive(self) -> None:
        """Look for new transactions at the next `read`, however lately that was done."""
        self._next_claim = 0.0

    def close(self) -> None:
        """
        Let go: nobody wakes us any more, and where all that was read is durable, the next process may begin at once.
        Idempotent.
        """
        session = self._session
        if session is not None:
            try:
                session.rows(
                    read_sql("queries/outbox_release.sql"),
                    {"holder": self._holder, "is_done": self._read_position <= self._confirmed},
                    doing="releasing the outbox",
                )
            except SourceUnavailable:
                # The line is gone; the lease ends by itself.
                logger.debug("the outbox could not be released")
        self._disconnect()

    def _disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _connected(self) -> Session:
        if self._session is None:
            raise SourceUnavailable("reading the outbox: not connected")
        return self._session

    # Reading -------------------------------------------------------------------------------------

    def _next_items(self) -> list[Item]:
        """What of the claimed transactions comes next."""
        if self._large is not None:
            return self._next_part(self._large)
        if not self._claims and self._has_unread:
            self._fetch_claims()
        claims: list[_Claim] = []
        rows = size = 0
        while self._claims:
            claim = self._claims[0]
            rows, size = rows + claim.rows, size + claim.bytes
            if claims and (rows > PAGE_ROWS or size > PAGE_BYTES):
                break
            claims.append(self._claims.popleft())
        if not claims:
            return []
        if claims[0].rows > PAGE_ROWS or (claims[0].bytes > PAGE_BYTES and claims[0].rows > 1):
            return self._begin_large(claims[0])
        return self._whole(claims)

    def _fetch_claims(self) -> None:
        found = self._connected().rows(
            read_sql("queries/outbox_claims.sql"),
            {"after": str(LSN(self._read_position)), "visible_in": self._visible_in, "most": PAGE_CLAIMS},
            doing="reading what is claimed of the outbox",
        )
        self._has_unread = len(found) >= PAGE_CLAIMS
        for position, turn, xid, first, last, rows, size in found:
            if not self._claims or self._claims[-1].position != position:
                self._claims.append(_Claim(position, xid))
            claim = self._claims[-1]
            claim.rows += rows
            claim.bytes += size
            claim.spans[turn] = _Span(first, last)
            self._last_in[turn] = position

    def _whole(self, claims: list[_Claim]) -> list[Item]:
        """Small transactions, several at once."""
        spans = {
            turn: _Span.around([claim.spans[turn] for claim in claims if turn in claim.spans])
            for turn in {turn for claim in claims for turn in claim.spans}
        }
        by_xid: dict[str, list[CapturedRow]] = {claim.xid: [] for claim in claims}
        for row in self._rows(spans, list(by_xid), _EVERY_LSN):
            by_xid[row[0]].append(row)
        moved = {claim.xid: list[CapturedRow]() for claim in claims if len(by_xid[claim.xid]) != claim.rows}
        if moved:
            # VACUUM FULL, CLUSTER and pg_repack put rows in other places than those that were claimed.
            by_xid.update(moved)
            for row in self._rows(_EVERYWHERE, list(moved), _EVERY_LSN):
                by_xid[row[0]].append(row)
        items: list[Item] = []
        for claim in claims:
            rows = by_xid[claim.xid]
            self._tell_missing(claim, claim.rows - len(rows))
            transaction = self._decoder.begin(int(claim.xid), claim.position, max((row[6] for row in rows), default=0))
            self._decoder.rows(transaction, rows, items)
            self._end(transaction, claim, items)
        return items

    def _begin_large(self, claim: _Claim) -> list[Item]:
        parts = self._parts(claim, claim.spans)
        if sum(part.rows for part in parts) != claim.rows:
            parts = self._parts(claim, _EVERYWHERE)
        self._tell_missing(claim, claim.rows - sum(part.rows for part in parts))
        at_us = max((part.at_us for part in parts), default=0)
        transaction = self._decoder.begin(int(claim.xid), claim.position, at_us)
        self._large = _Large(claim, transaction, parts)
        return self._next_part(self._large)

    def _parts(self, claim: _Claim, spans: dict[int, _Span]) -> deque[_Part]:
        found = self._connected().rows(
            read_sql("queries/outbox_parts.sql"),
            {"xid": claim.xid, "most_rows": PAGE_ROWS, "most_bytes": PAGE_BYTES, **_bounds(spans)},
            doing="looking over a large transaction in the outbox",
            timeout_s=CLAIM_TIMEOUT_S,
            while_waiting=self._keep_lease,
        )
        return deque(
            _Part(
                (first_lsn, last_lsn),
                {turn: _Span(*tids) for turn, tids in enumerate(((first_0, last_0), (first_1, last_1))) if tids[0]},
                rows,
                at_us,
            )
            for first_lsn, last_lsn, first_0, last_0, first_1, last_1, rows, at_us in found
        )

    def _next_part(self, large: _Large) -> list[Item]:
        items: list[Item] = []
        # A part may hold nothing that anybody wants: the pipeline is to hear of those that do.
        while large.parts and not items:
            part = large.parts.popleft()
            rows = self._rows(part.spans, [large.claim.xid], part.lsns)
            if len(rows) != part.rows:
                rows = self._rows(_EVERYWHERE, [large.claim.xid], part.lsns)
                self._tell_missing(large.claim, part.rows - len(rows))
            self._decoder.rows(large.transaction, rows, items)
        if not large.parts:
            self._large = None
            self._end(large.transaction, large.claim, items)
        return items

    def _rows(self, spans: dict[int, _Span], xids: list[str], lsns: tuple[str, str]) -> list[CapturedRow]:
        rows: list[CapturedRow] = self._connected().rows(
            read_sql("queries/outbox_rows.sql"),
            {"xids": xids, "first_lsn": lsns[0], "last_lsn": lsns[1], **_bounds(spans)},
            doing="reading the outbox",
            timeout_s=CLAIM_TIMEOUT_S,
            while_waiting=self._keep_lease,
        )
        self.last_read_bytes = sum(len(row[4] or "") + len(row[5] or "") for row in rows)
        return rows

    def _end(self, transaction: Transaction, claim: _Claim, items: list[Item]) -> None:
        transaction.end_lsn = LSN(claim.position)
        self._read_position = claim.position
        items.append(Commit(transaction))

    def _tell_missing(self, claim: _Claim, count: int) -> None:
        if count > 0:
            self._on_missing_rows(MissingRows(xid=int(claim.xid), end_lsn=LSN(claim.position), count=count))

    # Claiming ------------------------------------------------------------------------------------

    def _claim(self) -> bool:
        """Claim what has committed since the last time; whether there was anything."""
        session = self._connected()
        begun = time.monotonic()
        found = session.rows(
            read_sql("queries/outbox_claim.sql"),
            {
                "holder": self._holder,
                "lease_s": self._lease_s,
                "renew_below_s": self._lease_s * 2 / 3,
                "visible_in": self._visible_in,
            },
            doing="claiming committed transactions of the outbox",
            timeout_s=CLAIM_TIMEOUT_S,
        )
        if not found:
            raise SourceUnavailable("the outbox is read by another process now: this one was not heard of for too long")
        ((position, is_renewed, signal, size_0, size_1, has_failures, is_leaving),) = found
        now = time.monotonic()
        if is_renewed:
            self._renewed = begun
        self._turn, self._is_asleep = signal & 1, bool(signal & 2)
        self._sizes = [size_0, size_1]
        if has_failures:
            self._hand_over_failures(session)
        if now >= self._next_describe:
            self._decoder.refresh()
            self._next_describe = now + (DESCRIBE_IDLE_S if position is None else DESCRIBE_INTERVAL_S)
        rest = (now - begun) * CLAIM_REST
        self._rest_until = now + rest
        if position is None and is_leaving and self._visible_in is None and self._confirmed >= self._read_position:
            # Nothing more will be ours, ever, and nothing is left to be confirmed.
            raise SourceRefused(
                "the mode was changed to wal while this ran in mode trigger; `wal_tracker run --mode=wal` "
                "(source.mode: wal) goes on"
            )
        if position is None:
            self._pause(now, rest)
            return False
        self._position = position
        self._has_unread, self._is_dry = True, False
        self._poll_s = POLL_MIN_S
        self._next_claim = now + rest
        if self._found_last and self._is_asleep:
            # Under load nobody has to wake us, and a notification costs every transaction something.
            self._signal(session, is_asleep=False)
        self._found_last = True
        return True

    def _pause(self, now: float, rest: float) -> None:
        """Nothing is new: have ourselves woken, look once more, then at longer and longer intervals."""
        if not self._is_dry:
            self._is_dry, self._dry_since = True, now
        self._found_last = False
        if self._hears and not self._is_asleep:
            self._signal(self._connected(), is_asleep=True)
            self._next_claim = now
            return
        self._next_claim = now + max(self._poll_s, rest)
        self._poll_s = min(self._poll_s * 2, POLL_MAX_S)

    def _wait(self, seconds: float) -> None:
        """Wait for a notification."""
        if not self._hears:
            time.sleep(max(0.0, seconds))
        elif self._connected().wait_for_notice(max(0.0, seconds)):
            # Anybody may notify, and as often as he likes.
            self._poll_s, self._next_claim = POLL_MIN_S, self._rest_until

    def _signal(self, session: Session, *, is_asleep: bool) -> None:
        session.rows(
            read_sql("queries/outbox_signal.sql"),
            {"signal": self._turn + 2 * is_asleep, "holder": self._holder},
            doing="telling the capture functions of us",
        )
        self._is_asleep = is_asleep

    def _hand_over_failures(self, session: Session) -> None:
        found = session.rows(
            read_sql("queries/outbox_failures.sql"), {"most": FAILURES_AT_ONCE}, doing="reading capture failures"
        )
        failures = [
            CaptureFailure(xid=xid, table=table, op=op, sqlstate=sqlstate, count=count, at=at)
            for _, xid, table, op, sqlstate, count, at in found
        ]
        if not failures:
            return
        self._on_capture_failures(failures)
        ids = [number for row in found for number in row[0]]
        session.run(read_sql("queries/outbox_forget_failures.sql"), {"ids": ids}, doing="forgetting capture failures")

    # Confirming and cleaning ---------------------------------------------------------------------

    def _confirm(self, position: int) -> None:
        self._renew(self._connected(), position)
        self._confirmed = position
        self._tidy(time.monotonic())

    def _renew(self, session: Session, position: int) -> None:
        now = time.monotonic()
        held = session.rows(
            read_sql("queries/outbox_confirm.sql"),
            {
                "holder": self._holder,
                "lease_s": self._lease_s,
                "after": str(LSN(self._confirmed)),
                "upto": str(LSN(position)),
            },
            doing="forgetting what is delivered of the outbox",
        )
        if not held:
            raise SourceUnavailable("the outbox is read by another process now: this one was not heard of for too long")
        self._renewed = now

    def _tidy(self, now: float) -> None:
        """Empty the table that is not written to; let the two change places when that is worth it."""
        if now < self._next_tidy or self._visible_in is not None or self._session is None:
            return
        other = 1 - self._turn
        self._next_tidy = now + self._tidy_s
        if self._sizes[other]:
            if self._confirmed >= self._last_in[other] and not self._has_unread:
                self._clean(self._session, other)
            return
        size = self._sizes[self._turn]
        is_idle = self.is_drained and self._confirmed >= self._read_position and now - self._dry_since >= IDLE_TURN_S
        age = now - self._last_turn
        if size and (size >= TURN_BYTES or (is_idle and age >= IDLE_TURN_EVERY_S) or age >= LATEST_TURN_S):
            self._turn = other
            self._signal(self._session, is_asleep=self._is_asleep)
            self._last_turn = now

    def _clean(self, session: Session, turn: int) -> None:
        statement = sql.SQL(read_sql("queries/outbox_clean.sql")).format(
            holder=sql.Literal(self._holder), table=sql.Identifier(f"outbox_{turn}"), turn=sql.Literal(turn)
        )
        try:
            ((self._sizes[turn],),) = session.rows(
                session.as_string(statement), doing="emptying the outbox", timeout_s=CLAIM_TIMEOUT_S
            )
        except SourceUnavailable as error:
            if getattr(error.__cause__, "pgcode", None) != _LOCK_NOT_AVAILABLE:
                raise
        self._tidy_s = min(self._tidy_s * 2, TIDY_MAX_S) if self._sizes[turn] else TIDY_INTERVAL_S
        self._next_tidy = time.monotonic() + self._tidy_s

    def _keep_lease(self) -> None:
        """Renew the lease while our connection is busy with a long statement."""
        if time.monotonic() - self._renewed > self._lease_s / 3:
            with Session(self._settings.dsn) as beside:
                self._renew(beside, self._confirmed)


class CapturedTables:
    """Reads the catalog for the decoder, and says what is wrong with the tables' capture. One thread."""

    def __init__(self, dsn: str, types: TypeCatalog) -> None:
        """
        Args:
            dsn: The database.
            types: Learns the database's own types.
        """
        self._dsn = dsn
        self._types = types
        self._told: dict[int, str] = {}
        self._told_unsettled: dict[int, list[str]] = {}

    def read(self) -> list[CapturedTable]:
        """
        Every table with a capture function, as it is now. What is wrong is logged, once.

        Raises:
            SourceError: The server cannot be asked.
        """
        with Session(self._dsn) as session:
            self._types.add(read_types(session))
            tables = read_captured(session)
        for table in tables:
            problem = capture_problem(table)
            if problem and self._told.get(table.number) != problem:
                logger.warning("changes are not captured", extra={"table": table.name, "reason": problem})
            self._told[table.number] = problem
            unsettled = unsettled_columns(table, self._types)
            if unsettled and self._told_unsettled.get(table.number) != unsettled:
                logger.warning(
                    "the text of these columns depends on the settings of the session that writes: `wal_tracker apply` "
                    "gives the capture function its own",
                    extra={"table": table.name, "columns": ", ".join(unsettled)},
                )
            self._told_unsettled[table.number] = unsettled
        return tables


def read_captured(session: Session) -> list[CapturedTable]:
    """
    Every table with a capture function, as it is now.

    Raises:
        SourceError: The server cannot be asked.
    """
    return [
        CapturedTable(
            number=number,
            oid=oid,
            schema=schema or last_schema,
            table=table or last_table,
            columns=tuple(Column(name, type_oid, modifier, True) for name, type_oid, modifier, _ in columns),
            generated=frozenset(name for name, _, _, is_generated in columns if is_generated),
            is_there=table is not None,
            is_captured=is_captured,
            has_settings=has_settings,
        )
        for number, oid, last_schema, last_table, schema, table, columns, is_captured, has_settings in session.rows(
            read_sql("queries/outbox_tables.sql"), doing="reading which tables are captured"
        )
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxStatus:
    """How far reading of the outbox is."""

    position: LSN
    """The last one given to a transaction."""
    holder: str | None
    """Who reads, or read last without saying goodbye."""
    lease_s: float | None
    """For how long nobody else may; below 0: the holder has died."""
    waiting_transactions: int
    """Committed, and not durable everywhere."""
    waiting_rows: int
    oldest_waiting_s: float | None
    """How long ago the oldest of them was captured; None: nothing waits."""
    capture_failures: int
    """Changes that were not captured, and are not on record as a gap yet."""
    bytes: Mapping[str, int]
    """What each table takes, with everything that belongs to it."""
    switching_to: str | None
    """The mode that a change under way leads to."""
    not_captured: Mapping[str, str]
    """Tables whose changes are not captured, and why."""

    @property
    def is_read(self) -> bool:
        """Whether somebody reads now."""
        return self.lease_s is not None and self.lease_s > 0


def read_outbox_status(session: Session) -> OutboxStatus | None:
    """
    How far reading of the outbox is; None where there is none.

    Raises:
        SourceError: The server cannot be asked.
    """
    try:
        found = session.rows(read_sql("queries/outbox_status.sql"), doing="reading the state of the outbox")
    except SourceRefused as error:
        if not _is_missing(error):
            raise
        return None
    if not found:
        return None
    ((position, holder, lease_s, transactions, rows, oldest_s, failures, size_0, size_1, claims, to_mode),) = found
    return OutboxStatus(
        position=LSN.parse(position),
        holder=holder,
        lease_s=lease_s,
        waiting_transactions=transactions,
        waiting_rows=rows,
        oldest_waiting_s=oldest_s,
        capture_failures=failures,
        bytes={"outbox_0": size_0, "outbox_1": size_1, "claim": claims},
        switching_to=to_mode,
        not_captured={table.name: problem for table in read_captured(session) if (problem := capture_problem(table))},
    )


def _is_missing(error: SourceRefused) -> bool:
    return getattr(error.__cause__, "pgcode", None) == _NO_TABLE


def capture_problem(table: CapturedTable) -> str:
    """Why changes of a table are not captured any more; empty: they are. Pure."""
    if not table.is_there:
        return "it was dropped; if it was made again, `wal_tracker apply` gives it its trigger back"
    if not table.is_captured:
        return "its trigger is gone or disabled; `wal_tracker apply` makes it again"
    return ""


def unsettled_columns(table: CapturedTable, types: TypeCatalog) -> list[str]:
    """Columns, added since `apply`, whose values come in a form that depends on who writes them. Pure."""
    if table.has_settings or not table.is_captured:
        return []
    return [
        column.name
        for column in table.columns
        if column.name not in table.generated and not is_settled(column.type_oid, types)
    ]


def _bounds(spans: dict[int, _Span]) -> dict[str, str | None]:
    """The spans as the queries take them; nothing is read of a table without one."""
    return {
        f"{end}_{turn}": getattr(spans[turn], end) if turn in spans else None
        for turn in (0, 1)
        for end in ("first", "last")
    }


def _place(tid: str) -> tuple[int, int]:
    block, _, offset = tid[1:-1].partition(",")
    return int(block), int(offset)
