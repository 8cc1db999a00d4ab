"""
Entries of Redis Streams, each event once however often it comes.

See: https://redis.io/docs/latest/commands/xadd/
"""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Union
from urllib.parse import parse_qsl, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry

from wal_tracker.destinations.base import Limits, Mark, Receipt
from wal_tracker.errors import DestinationError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.model import Deliverable
from wal_tracker.secret import Secret
from wal_tracker_destinations.places import check_template, fill

logger = logging.getLogger("wal_tracker.destinations.redis")

# KEYS: the stream, the ids it has seen (a sorted set, in the order they came).
# ARGV: how many ids to remember; the stream's length to trim to, or ""; then for each event how many fields and values
# follow, and those, the id's value second.
# A script that fails keeps what it has written (https://redis.io/docs/latest/develop/programmability/eval-intro/), so
# an id is remembered right after its entry, and what could be refused is asked for before the first entry: the set's
# privilege and memory, by an update of a member that is not there. Its errors are returned, not raised, so that they
# begin with their code on every version.
_SCRIPT = """
local stream, seen = KEYS[1], KEYS[2]
local max_seen, max_len = tonumber(ARGV[1]), ARGV[2]
local probe = redis.pcall('ZADD', seen, 'XX', 0, '')
if type(probe) == 'table' and probe.err then return probe end
local newest = redis.call('ZREVRANGE', seen, 0, 0, 'WITHSCORES')
local place = tonumber(newest[2] or 0)
local at = 3
while at <= #ARGV do
  local last = at + tonumber(ARGV[at])
  local id = ARGV[at + 2]
  if not redis.call('ZSCORE', seen, id) then
    local add = {'XADD', stream}
    if max_len ~= '' then
      add[3], add[4], add[5] = 'MAXLEN', '~', max_len
    end
    add[#add + 1] = '*'
    for i = at + 1, last do add[#add + 1] = ARGV[i] end
    local added = redis.pcall(unpack(add))
    if type(added) == 'table' and added.err then return added end
    place = place + 1
    redis.call('ZADD', seen, place, id)
  end
  at = last + 1
end
redis.call('ZREMRANGEBYRANK', seen, 0, -max_seen - 1)
return 'OK'
"""

# A retried batch must be remembered whole.
_MIN_SEEN = 1000

# First words of replies for which the client has no class. They pass when the server is done, has its disk or its
# replicas back.
_PASSES = ("BUSY", "MISCONF", "NOREPLICAS", "UNKILLABLE")


class RedisStream:
    """
    Adds events to a stream, or to one for each kind of event; an event that is there already is not added again.

    An entry has the fields ``id``, ``event``, ``distinct_id`` (where there is one), ``timestamp`` and ``data``, the
    event's JSON. A batch is one script for each stream, which Redis runs as a whole: it adds what the last
    `dedupe_events` ids of this destination do not hold, and remembers what it adds. So a batch that comes again after
    a lost answer or a crash is added once, whatever its order or cut, and also a week later: ids are forgotten by
    count, not by time. A dead letter that is replayed was never added, and is now. (Entry ids made of LSN and ordinal
    would refuse it as older than the last, and two tables of a transaction have the same ordinals. A key with a
    life-time for each event would forget a crash on Friday by Monday, and keep a day of events.) The ids are in
    ``wal_tracker:seen:{STREAM}:NAME``, about 150 bytes each, and in the slot of their stream.

    What Redis has acknowledged is as durable as Redis is: with ``appendfsync everysec`` its crash may cost the last
    second, without AOF everything since the last snapshot; `wait_replicas` asks for copies. An eviction policy
    other than ``noeviction`` may evict the stream. Both are told in the log.

    A user needs ``+eval +xadd +zadd +zscore +zrevrange +zremrangebyrank +info`` (and ``+wait``), and the keys
    ``~STREAM ~wal_tracker:seen:*``. Redis 5 or newer.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Options of one stream, or family of streams."""

        url: Secret
        """``redis://user:password@host:6379/0``, ``rediss://…`` for TLS, or ``unix:///path?db=0``."""
        stream: str = "wal_tracker"
        """The stream's key; ``{event}``, ``{schema}``, ``{table}`` and ``{op}`` stand for the event's own."""
        max_len: int | None = None
        """Let Redis trim the stream to about so many entries, read or not; None: never."""
        dedupe_events: int = 100_000
        """How many ids are remembered for each stream; more than one transaction makes, to be safe."""
        wait_replicas: int = 0
        """How many replicas must have a batch before it counts as delivered."""
        cluster: bool = False
        """Whether the server is part of a Redis Cluster."""
        ca_file: str | None = None
        """Certificates to trust in place of the usual ones."""
        request_timeout_s: float = 15.0
        """For connecting, and for an answer."""

        def __post_init__(self) -> None:
            _check_url(self.url.reveal())
            if not self.stream:
                raise ValueError("stream must not be empty")
            try:
                check_template(self.stream)
            except ValueError as error:
                raise ValueError(f"stream {error}") from error
            if self.max_len is not None and self.max_len <= 0:
                raise ValueError("max_len must be positive")
            if self.dedupe_events < _MIN_SEEN:
                raise ValueError(f"dedupe_events must be {_MIN_SEEN} or more: a batch that comes again is so large")
            if self.wait_replicas < 0:
                raise ValueError("wait_replicas must not be negative")
            if self.wait_replicas and self.cluster:
                raise ValueError(
                    "wait_replicas cannot be had with cluster; set min-replicas-to-write on the servers instead"
                )
            if self.request_timeout_s <= 0:
                raise ValueError("request_timeout_s must be positive")
            if self.ca_file is not None:
                try:
                    ssl.create_default_context(cafile=self.ca_file)
                except OSError as error:
                    raise ValueError(f"ca_file cannot be read: {error.strerror or 'no certificate in it'}") from error

    # One script a batch, and a server does nothing else meanwhile: for so many events about ten milliseconds.
    limits = Limits(max_batch_events=_MIN_SEEN, max_batch_bytes=4 * 1024 * 1024, linger_s=0.1)
    accepts_raw: ClassVar[bool] = True

    def __init__(self, name: str, config: Config) -> None:
        """
        Args:
            name: The entry's key in the configuration, and part of the key of the ids it remembers.
            config: See there.
        """
        self.name, self.config = name, config
        self._opened: Union[redis.Redis, redis.RedisCluster, None] = None

    def open(self, mark: Mark | None) -> None:  # noqa: ARG002 - Redis remembers what it has
        """
        Look whether the server takes us, and say in the log what it would lose; one that is down is waited for.

        Raises:
            DestinationRefusedUs: It does not.
        """
        try:
            self._tell_durability()
        except DestinationUnavailable as error:
            logger.warning("Redis is not reachable yet", extra={"destination": self.name, "reason": error.message})

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        """Add what is not there yet; after a failure all of it may come again."""
        streams: dict[str, list[Deliverable]] = {}
        for event in batch:
            streams.setdefault(fill(self.config.stream, event, _safe), []).append(event)
        for stream, events in streams.items():
            self._add(stream, events)
        return Receipt()

    def close(self) -> None:
        """Let go of the connection."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _client(self) -> Any:
        """The client; it connects when it is asked something."""
        if self._opened is None:
            url, timeout_s = self.config.url.reveal(), self.config.request_timeout_s
            options: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "protocol": 2}
            if url.startswith("rediss:"):
                # Said, because older releases of the client do not check the name.
                options.update(ssl_cert_reqs="required", ssl_check_hostname=True, ssl_ca_certs=self.config.ca_file)
            # Beyond following a slot that moves, nothing is tried again below the delivery.
            if self.config.cluster:
                self._opened = redis.RedisCluster.from_url(url, retry=Retry(NoBackoff(), 3), **options)
            else:
                self._opened = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **options)
        return self._opened

    def _add(self, stream: str, events: Sequence[Deliverable]) -> None:
        arguments: list[str | bytes | int] = [self.config.dedupe_events, self.config.max_len or ""]
        for event in events:
            fields: list[str | bytes] = ["id", event.id, "event", event.name]
            if event.distinct_id is not None:
                fields += ["distinct_id", event.distinct_id]
            fields += ["timestamp", event.timestamp, "data", event.to_json()]
            arguments += [len(fields), *fields]
        script = (_SCRIPT, 2, stream, f"wal_tracker:seen:{{{stream}}}:{self.name}", *arguments)
        copies, wanted = 0, self.config.wait_replicas
        try:
            if wanted:
                # In one go, because WAIT answers for the connection it comes by.
                pipeline = self._client().pipeline(transaction=False)
                pipeline.eval(*script)
                pipeline.wait(wanted, math.ceil(self.config.request_timeout_s * 500))
                added, copies = pipeline.execute(raise_on_error=False)
                for answer in (added, copies):
                    if isinstance(answer, Exception):
                        raise answer
            else:
                self._client().eval(*script)
        except (RedisError, RedisClusterException, OSError) as error:
            raise self._verdict(error) from error
        if copies < wanted:
            raise DestinationUnavailable(
                self.name, f"{copies} of {wanted} replicas have the batch; it comes again, and is added once"
            )

    def _tell_durability(self) -> None:
        try:
            # A cluster's answers for one of its nodes; they are configured alike.
            found = self._client().info()
        except (RedisError, RedisClusterException, OSError) as error:
            if isinstance(error, NoPermissionError):
                logger.info("Redis does not let us see how durable it is (INFO)", extra={"destination": self.name})
                return
            raise self._verdict(error) from error
        if not found.get("aof_enabled"):
            logger.warning(
                "Redis keeps no append-only file: its crash loses what it acknowledged since its last snapshot. "
                "If events matter, set appendonly yes",
                extra={"destination": self.name},
            )
        policy = found.get("maxmemory_policy", "noeviction")
        if found.get("maxmemory") and policy != "noeviction":
            logger.warning(
                "Redis may evict the stream, or the ids it has seen, when memory is short: set maxmemory-policy "
                "noeviction",
                extra={"destination": self.name, "maxmemory_policy": policy},
            )

    def _verdict(self, error: Exception) -> DestinationError:
        """What an error of the client means for the batch. Its text is the server's, which repeats no argument."""
        said = f"{getattr(error, 'status_code', None) or ''} {error}".strip().partition(", with args")[0][:300]
        code = said.partition(" ")[0]
        if isinstance(error, (AuthenticationError, AuthorizationError)):
            return DestinationRefusedUs(
                self.name, f"Redis refuses our credentials: {said}; check the url's user and password"
            )
        if isinstance(error, MovedError) or code == "MOVED":
            return DestinationRefusedUs(self.name, "the server is part of a Redis Cluster: set cluster: true")
        if isinstance(error, ReadOnlyError):
            return DestinationUnavailable(
                self.name, "the server is a read-only replica; it goes on when the url leads to a primary"
            )
        if isinstance(error, OutOfMemoryError):
            return DestinationUnavailable(
                self.name, "Redis is out of memory (OOM); trim the stream (max_len), or raise maxmemory"
            )
        passing = (BusyLoadingError, ClusterDownError, TryAgainError)
        if isinstance(error, passing) or code in _PASSES:
            return DestinationUnavailable(self.name, f"Redis takes nothing now: {said}")
        if isinstance(error, NoPermissionError) or "user executing the script" in said:
            return DestinationRefusedUs(
                self.name, f"{said}; give the user the commands and keys on the destination's page (ACL SETUSER)"
            )
        if isinstance(error, ResponseError):
            remedy = "; another kind of value has the stream's key" if code == "WRONGTYPE" else ""
            return DestinationRefusedUs(self.name, f"Redis refuses: {said}{remedy}")
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error)):
            return DestinationRefusedUs(
                self.name, f"the server's certificate is not trusted: {said}; set ca_file, or check the host name"
            )
        return DestinationUnavailable(self.name, f"cannot talk to Redis: {said or type(error).__name__}")


def _causes(error: BaseException) -> list[BaseException]:
    """The error and those it comes from."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found


def _safe(part: str) -> str:
    """A part of a stream's key: braces would change its slot in a cluster."""
    return part.replace("{", "(").replace("}", ")")


def _check_url(url: str) -> None:
    """
    Check the form of a Redis URL.

    Raises:
        ValueError: It is not one; the text does not repeat it.
    """
    expected = "expected redis://host:6379/0, rediss://host:6379/0 or unix:///path?db=0"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0
        good = good and (parts.path.strip("/") or "0").isdigit()
    except ValueError as error:
        raise ValueError(f"url is not a URL; {expected}") from error
    if not good and not (parts.scheme == "unix" and parts.path):
        raise ValueError(f"url is not a URL of Redis; {expected}")
    # The client takes any of its options from there, and among them those that turn off the check of certificates.
    if any(key != "db" or not value.isdigit() for key, value in parse_qsl(parts.query, keep_blank_values=True)):
        raise ValueError("url may have ?db= and no other option after ?")
