"""
Messages of a NATS JetStream stream.

See: https://docs.nats.io/nats-concepts/jetstream/streams, and for headers
https://docs.nats.io/nats-concepts/jetstream/headers
"""

from __future__ import annotations

import logging
import re
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson

from wal_tracker.destinations.base import Limits, Mark, Outcome, Receipt, Rejected, Retry
from wal_tracker.errors import DestinationError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.model import Deliverable
from wal_tracker_destinations.nats_wire import NatsConnection, NatsError, NatsOptions, NoTLS, Reply, header_lines
from wal_tracker_destinations.places import check_template, fill

logger = logging.getLogger("wal_tracker.destinations.nats")

# Messages sent before the first of them is acknowledged.
_MAX_IN_FLIGHT = 256
# A protocol line has 4096 bytes unless a server is told otherwise (max_control_line), and holds the inbox too.
_MAX_SUBJECT_BYTES = 2048
_SHORT_WINDOW_S = 120

# https://github.com/nats-io/nats-server/blob/main/server/errors.json
_MESSAGE_TOO_LARGE, _HEADERS_TOO_LARGE = 10054, 10097
_WRONG_LAST_MSG_ID, _OTHER_STREAM, _STREAM_NOT_FOUND = 10070, 10060, 10059
# Besides 5xx: a 400 that passes when somebody makes room, the same id on its way already, and too much at once.
_NO_ROOM, _IN_PROCESS, _TOO_MANY = 10002, 10158, 10167

_UNSAFE = re.compile(r"[\x00-\x20\x7f.*>\s]")
_TOKEN = re.compile(r"[^\x00-\x20\x7f.*>\s]+")


@dataclass(frozen=True, slots=True)
class _Message:
    """An event ready to publish."""

    index: int
    """In the batch."""
    id: str
    subject: str
    data: bytes


class Nats:
    """
    Publishes each event to a subject of the stream, its JSON as the message; it is delivered when JetStream says so.

    ``Nats-Msg-Id`` is the event's id: within the stream's duplicate window (2 minutes unless the stream says otherwise)
    JetStream stores it once. What comes again later, after a longer crash or outage, is stored a second time with the
    same id: at most what was on its way or not yet recorded, and consumers can drop it by the id. Set the window longer
    than you are ever down: ``nats stream edit STREAM --dupe-window 24h``.

    Messages are sent without waiting for one another, and yet stay in order through every failure: each says by
    ``Nats-Expected-Last-Msg-Id`` that it follows the one before it, so that none is stored where that one was not.
    Where others publish to the stream as well, and so come in between, fewer are sent at once.

    ``Nats-Expected-Stream`` keeps events out of another stream. A subject no stream listens to, and a stream that is
    full, are waited for; an event larger than the server or the stream takes is a dead letter. NATS 2.2 or newer.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(NatsOptions):
        """Options of one stream."""

        stream: str
        """The stream's name; it must exist, and have the subjects."""
        subject: str = "events.{event}"
        """Where to publish; ``{event}``, ``{schema}``, ``{table}`` and ``{op}`` stand for the event's, each a token."""

        def __post_init__(self) -> None:
            NatsOptions.__post_init__(self)
            if not _TOKEN.fullmatch(self.stream):
                raise ValueError("stream must be the name of a stream, without white space, '.', '*' and '>'")
            try:
                check_template(self.subject)
            except ValueError as error:
                raise ValueError(f"subject {error}") from error
            first, *others = self.subject.split(".")
            if first.startswith(("$", "_INBOX")) or "{" in first:
                raise ValueError("subject must begin with a token of its own, as in events.{event}, and not with '$'")
            if not all(_TOKEN.fullmatch(token) for token in (first, *others)):
                raise ValueError("subject must be tokens joined by '.', without white space, '*' and '>'")

    limits = Limits(max_batch_events=1000, max_batch_bytes=4 * 1024 * 1024, linger_s=0.1)
    accepts_raw: ClassVar[bool] = True

    def __init__(self, name: str, config: Config) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
        """
        self.name, self.config = name, config
        self._connection: NatsConnection | None = None
        self._in_flight = _MAX_IN_FLIGHT

    def open(self, mark: Mark | None) -> None:  # noqa: ARG002 - the stream keeps what it has
        """
        Look whether a server takes us, and tell what is wrong with the stream; one that is down is waited for.

        Raises:
            DestinationRefusedUs: It does not, or the stream acknowledges nothing.
        """
        try:
            self._look_at_stream(self._connect())
        except DestinationUnavailable as error:
            logger.warning("NATS is not reachable yet", extra={"destination": self.name, "reason": error.message})

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        """Publish the events; from the first that was not stored on, all come again."""
        if not batch:
            return Receipt()
        connection = self._connect()
        outcomes: dict[int, Outcome] = {}
        fitting = (self._fit(index, event, connection, outcomes) for index, event in enumerate(batch))
        messages = [message for message in fitting if message is not None]
        while messages:
            run = messages[: self._in_flight]
            settled, failure = self._publish(connection, run, outcomes)
            messages = messages[settled:]
            if failure is not None:
                if not isinstance(failure, DestinationUnavailable):
                    raise failure
                outcomes.update((message.index, Retry(failure.retry_after_s, failure.message)) for message in messages)
                break
            self._in_flight = min(_MAX_IN_FLIGHT, self._in_flight * 2) if settled == len(run) else max(1, settled)
        return Receipt(outcomes)

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # Publishing ------------------------------------------------------------------------------------

    def _fit(
        self, index: int, event: Deliverable, connection: NatsConnection, outcomes: dict[int, Outcome]
    ) -> _Message | None:
        """The message of an event, or in `outcomes` why it would break the connection."""
        subject = fill(self.config.subject, event, lambda part: _UNSAFE.sub("_", part) or "_")
        message = _Message(index, event.id, subject, event.to_json())
        # With the longest headers it may have.
        size = len(message.data) + len(self._headers(message, event.id))
        if size > connection.max_payload:
            outcomes[index] = Rejected(f"it is {size} bytes; the server takes {connection.max_payload} (max_payload)")
        elif len(subject.encode()) > _MAX_SUBJECT_BYTES:
            outcomes[index] = Rejected(f"its subject would be longer than {_MAX_SUBJECT_BYTES} bytes")
        else:
            return message
        return None

    def _headers(self, message: _Message, after: str) -> bytes:
        headers = {"Nats-Msg-Id": message.id, "Nats-Expected-Stream": self.config.stream}
        if after:
            headers["Nats-Expected-Last-Msg-Id"] = after
        return header_lines(headers)

    def _publish(
        self, connection: NatsConnection, run: Sequence[_Message], outcomes: dict[int, Outcome]
    ) -> tuple[int, DestinationError | None]:
        """
        Send messages and read what became of them.

        Returns:
            How many of them, from the first, are stored or in `outcomes`; and what keeps the next one from it, unless
            that is only that somebody else's message came between.
        """
        acks: dict[str, Reply] = {}
        waiting = {str(position) for position in range(len(run))}
        broken: DestinationError | None = None
        try:
            after = ""
            for position, message in enumerate(run):
                connection.publish(message.subject, str(position), self._headers(message, after), message.data)
                after = message.id
            connection.flush()
            replies = connection.replies(time.monotonic() + self.config.request_timeout_s)
            while waiting:
                reply = next(replies)
                waiting.discard(reply.token)
                acks[reply.token] = reply
        except (OSError, NatsError) as error:
            # Late acknowledgements would be taken for those of what is sent next.
            self.close()
            broken = self._verdict(error)
        for position, message in enumerate(run):
            if str(position) not in acks:
                return position, broken
            said = self._ack(acks[str(position)])
            if isinstance(said, Rejected):
                outcomes[message.index] = said
            elif isinstance(said, Retry):
                # The first said that it follows nothing.
                return position, None if position else DestinationUnavailable(self.name, said.reason)
            elif said is not None:
                return position, said
        return len(run), None

    def _ack(self, reply: Reply) -> Outcome | DestinationError | None:
        """What an acknowledgement says; None: stored, now or before. Retry: the message before it is not the last."""
        if reply.status == "503":
            return DestinationUnavailable(
                self.name, f"no stream takes {self.config.subject}; create {self.config.stream} with that subject"
            )
        try:
            document = dict(orjson.loads(reply.data))
            error = document.get("error")
            if error is None:
                int(document["seq"])
                return None
            code, number, said = int(error["code"]), int(error.get("err_code", 0)), str(error.get("description"))[:200]
        except (ValueError, TypeError, KeyError):
            return DestinationRefusedUs(
                self.name, f"something else than JetStream answers on {self.config.subject}; who subscribes to it?"
            )
        if number == _WRONG_LAST_MSG_ID:
            return Retry(reason=f"JetStream: wrong last message ({number})")
        if number in (_MESSAGE_TOO_LARGE, _HEADERS_TOO_LARGE):
            return Rejected(f"JetStream: {said} ({number}); the stream's max_msg_size may be raised")
        if number == _OTHER_STREAM:
            return DestinationRefusedUs(
                self.name, f"{self.config.subject} belongs to another stream than {self.config.stream}"
            )
        if code >= 500 or number in (_NO_ROOM, _IN_PROCESS, _TOO_MANY):
            return DestinationUnavailable(self.name, f"JetStream stores nothing now: {said} ({number})")
        return DestinationRefusedUs(self.name, f"JetStream refuses: {said} ({number})")

    # The connection --------------------------------------------------------------------------------

    def _connect(self) -> NatsConnection:
        """
        The connection there is, if it still is, or else a new one to the first server that takes us.

        Raises:
            DestinationUnavailable: No server can be reached.
            DestinationRefusedUs: None of them takes us.
        """
        if self._connection is not None:
            try:
                self._connection.wake()
                return self._connection
            except (OSError, NatsError) as error:
                logger.info(
                    "the connection to NATS has ended; making a new one",
                    extra={"destination": self.name, "reason": str(error) or type(error).__name__},
                )
                self.close()
        verdicts: list[DestinationError] = []
        for server in self.config.servers:
            try:
                self._connection = NatsConnection(server, self.config)
                return self._connection
            except (OSError, NatsError) as error:
                verdicts.append(self._verdict(error, server))
            except ValueError as error:
                raise DestinationRefusedUs(self.name, str(error)) from error
        # One that is down may be the one that would take us.
        passing = (verdict for verdict in verdicts if isinstance(verdict, DestinationUnavailable))
        raise next(passing, verdicts[-1])

    def _verdict(self, error: Exception, server: str = "") -> DestinationError:
        """What a broken connection means."""
        said = str(error) or type(error).__name__
        at = f" at {server}" if server else ""
        if isinstance(error, ssl.SSLCertVerificationError):
            return DestinationRefusedUs(
                self.name, f"the certificate{at} is not trusted: {said}; set ca_file, or check the host name"
            )
        if isinstance(error, NoTLS):
            return DestinationRefusedUs(self.name, f"{said}{at}; give it a certificate, or write nats:// for tls://")
        if isinstance(error, NatsError):
            # "User Authentication Expired" ends a connection; the next one shows whether they have been renewed.
            if re.match(r"authorization violation", said, re.IGNORECASE):
                return DestinationRefusedUs(self.name, f"NATS refuses our credentials{at}: {said}; check them")
            if re.match(r"permissions violation", said, re.IGNORECASE):
                return DestinationRefusedUs(
                    self.name, f"NATS: {said}; the user must be allowed to publish there, and to subscribe to _INBOX.>"
                )
            return DestinationUnavailable(self.name, f"NATS has closed the connection{at}: {said}")
        return DestinationUnavailable(self.name, f"cannot talk to NATS{at}: {said}")

    def _look_at_stream(self, connection: NatsConnection) -> None:
        stream = self.config.stream
        try:
            connection.publish(f"$JS.API.STREAM.INFO.{stream}", "info", header_lines({}), b"")
            connection.flush()
            reply = next(connection.replies(time.monotonic() + self.config.request_timeout_s))
            document: Mapping[str, Any] = orjson.loads(reply.data or b"{}")
        except (OSError, NatsError, ValueError) as error:
            self.close()
            logger.info(
                "the stream's configuration cannot be read; set its duplicate window to longer than you are ever down",
                extra={"destination": self.name, "stream": stream, "reason": str(error) or type(error).__name__},
            )
            return
        config = document.get("config")
        if config is None:
            number = (document.get("error") or {}).get("err_code")
            logger.warning(
                "the stream does not exist; nothing is delivered until it is created"
                if number == _STREAM_NOT_FOUND
                else "the stream's configuration cannot be read",
                extra={"destination": self.name, "stream": stream, "err_code": number or reply.status},
            )
            return
        if config.get("no_ack"):
            raise DestinationRefusedUs(self.name, f"stream {stream} acknowledges nothing (no_ack); set it to false")
        window_s = config.get("duplicate_window", 0) / 1e9
        if window_s < _SHORT_WINDOW_S:
            logger.warning(
                "the stream's duplicate window is short: what comes again after a longer outage is stored twice",
                extra={"destination": self.name, "stream": stream, "duplicate_window_s": window_s},
            )
        if config.get("storage") == "memory":
            logger.warning(
                "the stream is kept in memory: a restart of the server loses it",
                extra={"destination": self.name, "stream": stream},
            )
