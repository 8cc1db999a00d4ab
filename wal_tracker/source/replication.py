"""
The replication stream: XLogData in, model items out; our confirmation back.

The acknowledgement is ours alone: a standby status update leaves this file only with a position that `confirm` was
given, and `confirm` refuses one that goes back or lies beyond what the server has sent. See
https://www.postgresql.org/docs/current/protocol-replication.html.
"""

from __future__ import annotations

import select
import struct
import time
from typing import Any

from wal_tracker.decode.base import XLOG_DATA_HEADER_SIZE, Decoder
from wal_tracker.errors import (
    CheckpointRegression,
    DecodeError,
    PublicationNotFound,
    SlotLost,
    SlotNotFound,
    SourceError,
    SourceUnavailable,
    WrongServer,
)
from wal_tracker.lsn import LSN
from wal_tracker.model import Item
from wal_tracker.source import slot
from wal_tracker.source.connection import Session, SourceSettings, open_connection, read_sql, source_errors, wait
from wal_tracker.source.copy_stream import CopyStream
from wal_tracker.source.watch import TableWatch

SESSION_OPTIONS = (
    "-c datestyle=ISO -c timezone=UTC -c intervalstyle=postgres -c extra_float_digits=1 -c bytea_output=hex"
)
"""The output plugin writes values with the session's settings; decoders count on these."""

MAX_BURST_MESSAGES = 1000
MAX_BURST_BYTES = 1_000_000

# After a burst the next one is left to gather for a moment: the server spends less than half per row when it is not
# woken for each (performance.md §2). At low rates it never happens, so it adds no latency there.
COALESCE_AFTER_MESSAGES = 8
COALESCE_S = 0.0003

STATUS_INTERVAL_S = 5.0
DEFAULT_SILENCE_S = 60.0
START_TIMEOUT_S = 60.0

# psycopg2 would send a status of its own, with its own idea of what is flushed, at this interval while it reads. It
# does not read here (`CopyStream`), and would have to be asked to every hour.
_PSYCOPG2_STATUS_INTERVAL_S = 3600

_XLOG_DATA = ord("w")
_xlog_data_start = struct.Struct(">xQ")
# Primary keepalive: Byte1('k') Int64 end of WAL, Int64 clock, Byte1 whether an answer is wanted now.
_KEEPALIVE = ord("k")
_keepalive = struct.Struct(">xQqB")
# Standby status update: Byte1('r') Int64 written, Int64 flushed, Int64 applied, Int64 clock, Byte1 answer wanted.
_status_update = struct.Struct(">cQQQqB")
_POSTGRES_EPOCH_S = 946_684_800


class ReplicationSource:
    """
    Changes of one logical replication slot.

    One thread. After any `SourceError` call `close`, and `connect` to go on. Between `connect` and `close` it must be
    read from: PostgreSQL's checkpointer can wait for a client that does not read.
    """

    def __init__(self, settings: SourceSettings, decoder: Decoder, *, watch: TableWatch | None = None) -> None:
        """
        Args:
            settings: Which slot, where.
            decoder: For the slot's plugin; reset on every connect.
            watch: Looks after the tracked tables, over the connection beside the stream.
        """
        self._settings = settings
        self._decoder = decoder
        self._watch = watch
        self.last_read_bytes = 0
        """What the last `read` took from the wire."""
        self.identity: slot.ServerIdentity | None = None
        """The server of the last `connect`; every later one must be the same."""
        self._connection: Any = None
        self._stream: CopyStream | None = None
        self._side: Session | None = None
        self._poller = select.poll()
        self._doing = f"reading slot {settings.slot!r}"
        self._received_lsn = LSN(0)
        self._caught_up_lsn = LSN(0)
        self._confirmed_lsn = LSN(0)
        self._has_reply_due = False
        self._last_status = 0.0
        self._last_byte = 0.0
        self._silence_s = DEFAULT_SILENCE_S
        self._burst = 0

    @property
    def caught_up_lsn(self) -> LSN:
        """
        Up to where the server has nothing more for us than what `read` has returned; 0 inside a transaction.

        May be confirmed if nothing that was read is outstanding.
        """
        if self._decoder.in_transaction or not self._caught_up_lsn:
            return LSN(0)
        return max(self._caught_up_lsn, self._confirmed_lsn)

    def connect(self, start: LSN) -> LSN:
        """
        Open the stream.

        Looks at the slot first: a line that broke (57P01) may have been broken because the slot was invalidated.

        Args:
            start: Everything up to here is durable with us; the server begins after it. 0: where the slot is.

        Returns:
            From where the stream comes: beyond `start` where the slot has been moved, or made again, by somebody else.

        Raises:
            SlotLost: The slot's WAL is gone.
            SlotNotFound: No such slot.
            SlotInUse: Somebody else reads it.
            PublicationNotFound: No such publication.
            WrongServer: Not the server of the last connect, or one that has not come to `start`.
            SourceUnavailable: The server cannot be reached.
            SourceError: Anything else it refuses.
        """
        self.close()
        try:
            return self._open(start)
        except BaseException:
            self.close()
            raise

    def _open(self, start: LSN) -> LSN:
        settings = self._settings
        side = self._side = Session(settings.dsn)
        ((timeout_ms, current_xid8, has_publication),) = side.rows(
            read_sql("queries/stream_preflight.sql"), {"publication": settings.publication}, doing=self._doing
        )
        # The server pings at half its time-out; without one (0), or with a long one, we ping, and judge by the default.
        self._silence_s = min(timeout_ms / 1000 or DEFAULT_SILENCE_S, DEFAULT_SILENCE_S)
        options = self._decoder.options(settings.publication)
        # An unknown publication is an error only from 14 to 17; 18 sends nothing and says nothing.
        if "publication_names" in options and not has_publication:
            raise PublicationNotFound(publication=settings.publication)
        begins = LSN(0)
        if not settings.temporary:
            status = slot.read_status(side, settings.slot)
            if status is None:
                raise SlotNotFound(slot=settings.slot)
            if status.loss_reason is not None:
                raise SlotLost(slot=settings.slot, reason=status.loss_reason, confirmed=start or None)
            begins = status.confirmed_flush_lsn or begins
        connection = self._connection = open_connection(settings.dsn, replication=True, options=SESSION_OPTIONS)
        self._check_server(slot.identify_over(connection), start)
        # A server that stays silent while it has 'timed us out' is found out by its ordinary sessions.
        side.run("select set_config('idle_session_timeout', '0', false)")
        if settings.temporary:
            slot.create_temporary(connection, settings)
        self._decoder.reset(current_xid8)
        with source_errors(self._doing, slot=settings.slot, publication=settings.publication):
            # Kept in a name until it has started: psycopg2 holds it weakly, and spins without it.
            cursor = connection.cursor()
            cursor.start_replication(
                slot_name=settings.slot,
                decode=False,
                start_lsn=int(start),
                options=options,
                status_interval=_PSYCOPG2_STATUS_INTERVAL_S,
            )
            wait(connection, doing=self._doing, timeout_s=START_TIMEOUT_S)
        self._stream = CopyStream(connection, doing=self._doing, slot=settings.slot, publication=settings.publication)
        self._poller = select.poll()
        self._poller.register(self._stream.descriptor, select.POLLIN)
        self._poller.register(side.descriptor, select.POLLIN)
        self._confirmed_lsn = start
        # What an earlier connection brought may be confirmed on this one before the server comes to it again.
        self._received_lsn = max(self._received_lsn, start, begins)
        self._caught_up_lsn = LSN(0)
        self._burst = 0
        self._last_byte = time.monotonic()
        self._send_status()
        return max(start, begins)

    def _check_server(self, found: slot.ServerIdentity, start: LSN) -> None:
        known = self.identity
        if known is not None and known.system_identifier != found.system_identifier:
            raise WrongServer(
                f"the server changed under us: system identifier {known.system_identifier} before, "
                f"{found.system_identifier} now"
            )
        # Up to 17 a flush position beyond the end of WAL is believed, and the slot jumps there; and what is committed
        # anew below what was read would be taken for what was read.
        seen = max(start, self._received_lsn)
        if seen > found.current_lsn:
            text = f"we have read up to {seen}, and the server has only come to {found.current_lsn}"
            if found.in_recovery:
                raise SourceUnavailable(f"{text}: waiting for the standby to catch up")
            raise WrongServer(f"{text}: it was restored to an earlier time, or is another server")
        self.identity = found

    def read(self, timeout_s: float) -> list[Item]:
        """
        The next burst, in commit order: all that has arrived, but not much more than a thousand items or a megabyte.

        Args:
            timeout_s: Wait so long for the first; an empty list when nothing came.

        Raises:
            SourceUnavailable: The line broke, fell silent, or the server is going away.
            DecodeError: A message cannot be understood; carries its LSN.
            SourceError: What else the server says.
        """
        stream = self._stream
        if stream is None:
            raise SourceUnavailable(f"{self._doing}: not connected")
        if self._burst > COALESCE_AFTER_MESSAGES:
            time.sleep(COALESCE_S)
        messages, self.last_read_bytes, is_dry = stream.receive(MAX_BURST_MESSAGES, MAX_BURST_BYTES)
        if not messages:
            self._wait(stream, timeout_s)
            messages, self.last_read_bytes, is_dry = stream.receive(MAX_BURST_MESSAGES, MAX_BURST_BYTES)
        self._burst = len(messages) if is_dry else 0
        items: list[Item] = []
        if messages:
            self._last_byte = time.monotonic()
            self._decode(messages, items)
        self._keep_status()
        if self._watch is not None and self._side is not None:
            self._watch.look(self._side)
        return items

    def confirm(self, lsn: LSN) -> None:
        """
        Tell the server that everything up to `lsn` is durable with us; it may forget it.

        Args:
            lsn: The end of a transaction, or a `caught_up_lsn`.

        Raises:
            CheckpointRegression: `lsn` is below an earlier one, or above everything the server has sent.
            SourceError: The line broke.
        """
        if self._stream is None:
            raise SourceUnavailable(f"{self._doing}: not connected")
        if lsn < self._confirmed_lsn:
            raise CheckpointRegression(f"asked to confirm {lsn} after {self._confirmed_lsn}")
        if lsn > self._received_lsn:
            raise CheckpointRegression(
                f"asked to confirm {lsn}, and the server has only sent up to {self._received_lsn}"
            )
        self._confirmed_lsn = lsn
        self._send_status()

    def ask_for_keepalive(self) -> None:
        """
        Ask the server how far it is; its answer moves `caught_up_lsn`.

        Raises:
            SourceError: The line broke.
        """
        self._send_status(wants_reply=True)

    def close(self) -> None:
        """Let go of both connections. What was not confirmed comes again. Idempotent."""
        self._stream = None
        connection, self._connection = self._connection, None
        side, self._side = self._side, None
        if connection is not None:
            connection.close()
        if side is not None:
            side.close()

    def _decode(self, messages: list[bytes], items: list[Item]) -> None:
        """Feed a burst to the decoder and note how far the server has come."""
        decoder = self._decoder
        feed, rows, start_of = decoder.feed, decoder.rows, _xlog_data_start.unpack_from
        received = int(self._received_lsn)
        lsn = 0
        at, end = 0, len(messages)
        try:
            while at < end:
                # Where a row stands in the WAL matters to nobody; where its transaction ends, its commit says.
                at = rows(messages, at, items)
                if at == end:
                    break
                message = messages[at]
                at += 1
                if message[0] == _XLOG_DATA:
                    (lsn,) = start_of(message)
                    if lsn > received:
                        received = lsn
                    feed(message[XLOG_DATA_HEADER_SIZE:], lsn, items)
                elif message[0] == _KEEPALIVE:
                    wal_end, _, wants_reply = _keepalive.unpack_from(message)
                    if wal_end > received:
                        received = wal_end
                    if not decoder.in_transaction:
                        # Messages and keep-alives come in order: all that ended up to here has been fed.
                        self._caught_up_lsn = LSN(wal_end)
                    if wants_reply:
                        self._has_reply_due = True
                else:
                    raise DecodeError(f"unknown replication message {message[:1]!r}")
        except DecodeError as error:
            if error.lsn is not None:
                raise
            raise type(error)(error.message, offset=error.offset, lsn=LSN(lsn)) from error
        # A commit's XLogData starts at the transaction's end with pgoutput, not with every plugin.
        for item in reversed(items):
            end_lsn = item.transaction.end_lsn
            if end_lsn:
                received = max(received, end_lsn)
                self._caught_up_lsn = max(self._caught_up_lsn, end_lsn)
                break
        self._received_lsn = LSN(received)

    def _wait(self, stream: CopyStream, timeout_s: float) -> None:
        """Wait for something to read, not beyond the next status; look after the side connection."""
        timeout_s = min(timeout_s, max(0.0, self._last_status + self._status_interval_s - time.monotonic()))
        if stream.wants_to_write:
            self._poller.modify(stream.descriptor, select.POLLIN | select.POLLOUT)
        ready = dict(self._poller.poll(timeout_s * 1000))
        if stream.wants_to_write:
            stream.flush()
            if not stream.wants_to_write:
                self._poller.modify(stream.descriptor, select.POLLIN)
        side = self._side
        assert side is not None
        if side.descriptor in ready:
            # Nobody asked it anything: it was ended (57P01, a shutdown that waits for us too), or has a notice.
            side.rows("select 1", doing="the connection beside the stream", timeout_s=5)
        if not ready and time.monotonic() - self._last_byte > self._silence_s:
            self._judge_silence(side)

    def _judge_silence(self, side: Session) -> None:
        """
        Nothing came for longer than the server may stay silent. A server deep in a transaction that concerns nobody
        may do so; a dead line always does. The server's ordinary sessions know the difference.
        """
        try:
            found = side.rows(
                read_sql("queries/slot_reader.sql"), {"slot": self._settings.slot}, doing=self._doing, timeout_s=5
            )
        except SourceError as error:
            raise SourceUnavailable(
                f"{self._doing}: nothing came for {self._silence_s:g} s, and the server does not answer elsewhere"
            ) from error
        if found != [(self._connection.info.backend_pid,)]:
            raise SourceUnavailable(
                f"{self._doing}: nothing came for {self._silence_s:g} s, and the server has given us up"
            )
        self._last_byte = time.monotonic()

    @property
    def _status_interval_s(self) -> float:
        return min(STATUS_INTERVAL_S, self._silence_s / 3)

    def _keep_status(self) -> None:
        """Answer a keep-alive that wants it at once, and otherwise report every few seconds."""
        if self._has_reply_due or time.monotonic() - self._last_status >= self._status_interval_s:
            self._send_status(wants_reply=time.monotonic() - self._last_byte > self._silence_s / 2)

    def _send_status(self, *, wants_reply: bool = False) -> None:
        """Send a standby status update; all three positions are what is durable with us."""
        if self._stream is None:
            raise SourceUnavailable(f"{self._doing}: not connected")
        lsn = self._confirmed_lsn
        clock_us = int((time.time() - _POSTGRES_EPOCH_S) * 1_000_000)
        if self._stream.send(_status_update.pack(b"r", lsn, lsn, lsn, clock_us, wants_reply)):
            self._has_reply_due = False
            self._last_status = time.monotonic()
