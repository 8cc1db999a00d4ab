"""The Redis destination against real Redis servers."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.delivered import deliver
from tests.support.postgres import wait_until
from tests.support.proxy import ChaosProxy
from tests.support.streams import RedisServer, free_port
from wal_tracker.destinations import registry
from wal_tracker.errors import ConfigError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.lsn import LSN
from wal_tracker.model import RawChange
from wal_tracker.testing import DestinationContract, make_event
from wal_tracker_destinations.redis import RedisStream

Servers = Callable[..., RedisServer]
EVENTS = [make_event(number) for number in range(1, 8)]
IDS = [event.id for event in EVENTS]


@pytest.fixture
def build() -> Iterator[Callable[..., RedisStream]]:
    """Builds destinations as a configuration does, and closes them."""
    built: list[RedisStream] = []

    def make(server: RedisServer | str, name: str = "redis", **options: Any) -> RedisStream:
        url = server if isinstance(server, str) else server.url
        given = {"url": url, "request_timeout_s": 1.0, **options}
        made = registry.build(name, "redis", given, "destinations.redis")
        assert isinstance(made, RedisStream)
        built.append(made)
        return made

    yield make
    for made in built:
        made.close()


def entries(server: RedisServer, stream: str = "wal_tracker", **options: Any) -> list[dict[str, str]]:
    """What the stream holds, oldest first."""
    with redis.Redis.from_url(server.url, decode_responses=True, **options) as client:
        return [fields for _, fields in client.xrange(stream)]


def ids(server: RedisServer, stream: str = "wal_tracker", **options: Any) -> list[str]:
    """Of the events in the stream, oldest first, as often as they are there."""
    return [entry["id"] for entry in entries(server, stream, **options)]


def ask(server: RedisServer, *command: str | int) -> Any:
    """The answer of the server to one command."""
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        return client.execute_command(*command)


@pytest.mark.of_kind("redis")
class TestRedis(DestinationContract):
    """One stream of a real server."""

    secrets = ("s3cret-of-redis",)

    @pytest.fixture(autouse=True)
    def server(self, redis_server: Servers) -> Iterator[None]:
        self.redis = redis_server("--requirepass", self.secrets[0])
        self.built: list[RedisStream] = []
        yield
        for made in self.built:
            made.close()

    def build(self) -> RedisStream:
        url = f"redis://:{self.secrets[0]}@127.0.0.1:{self.redis.port}"
        made = registry.build("redis", "redis", {"url": url}, "destinations.redis")
        assert isinstance(made, RedisStream)
        self.built.append(made)
        return made

    def received(self) -> list[str]:
        return ids(self.redis, password=self.secrets[0])


# What is written ---------------------------------------------------------------------------------------


def test_an_entry_has_flat_fields_and_the_events_own_json(redis_server: Servers, build: Callable[..., Any]) -> None:
    """Consumers filter by the fields, and read `data`; an event about nobody has no distinct_id, not an empty one."""
    server = redis_server()
    nobody = make_event(2)
    nobody.distinct_id = None

    build(server).deliver([make_event(1, properties={"name": "Zoë\n", "none": None}), nobody])

    first, second = entries(server)
    data = json.loads(first.pop("data"))
    assert first == {
        "id": IDS[0],
        "event": "order_placed",
        "distinct_id": "1",
        "timestamp": "2026-01-02T03:04:05.123456Z",
    }
    assert data["properties"] == {"number": 1, "name": "Zoë\n", "none": None}
    assert "distinct_id" not in second and second["id"] == IDS[1]


def test_a_raw_change_is_an_entry_too(redis_server: Servers, build: Callable[..., Any]) -> None:
    """Under its table, operation and all."""
    server = redis_server()
    change = RawChange(
        "0b0e8b8e-3a6c-5a0e-9d55-111111111111",
        "public.orders.delete",
        "2026-01-02T03:04:05Z",
        {"op": "delete", "old": {"id": 7}},
        {"op": "delete", "schema": "public", "table": "orders"},
    )

    build(server, stream="raw:{schema}.{table}:{op}").deliver([change])

    (entry,) = entries(server, "raw:public.orders:delete")
    assert json.loads(entry["data"]) == {"op": "delete", "old": {"id": 7}}
    assert RedisStream.accepts_raw


def test_each_kind_of_event_may_have_a_stream_of_its_own(redis_server: Servers, build: Callable[..., Any]) -> None:
    """Each in order; a brace in a name would be a hash tag, and is none."""
    server = redis_server()
    mixed = [make_event(n, name=("seen", "a{b}c")[n % 2]) for n in range(6)]

    build(server, stream="events:{event}").deliver(mixed)

    assert ids(server, "events:seen") == [event.id for event in mixed[::2]]
    assert ids(server, "events:a(b)c") == [event.id for event in mixed[1::2]]


def test_a_stream_is_trimmed_to_about_what_is_asked(redis_server: Servers, build: Callable[..., Any]) -> None:
    """Redis trims by whole nodes of a hundred entries; the newest stay."""
    server = redis_server()
    events = [make_event(number) for number in range(1000)]

    build(server, max_len=300).deliver(events)

    kept = ids(server)
    assert 300 <= len(kept) <= 400
    assert kept == [event.id for event in events][-len(kept) :]


# Once, however often it comes ----------------------------------------------------------------------------


def test_what_comes_again_is_not_added_again(redis_server: Servers, build: Callable[..., Any]) -> None:
    """By another process, in other batches, and mixed with what is new."""
    server = redis_server()
    build(server).deliver(EVENTS[:5])

    build(server).deliver(EVENTS[2:4])
    build(server).deliver(EVENTS[3:7])

    assert ids(server) == IDS


def test_an_event_that_comes_late_is_added_late(redis_server: Servers, build: Callable[..., Any]) -> None:
    """A replayed dead letter has an LSN from long ago; only an event that is there is a duplicate."""
    server = redis_server()
    destination = build(server)
    destination.deliver([*EVENTS[:2], *EVENTS[3:]])

    destination.deliver([EVENTS[2]])
    destination.deliver([EVENTS[2]])

    assert ids(server) == [*IDS[:2], *IDS[3:], IDS[2]]


def test_events_of_one_change_are_different_events(redis_server: Servers, build: Callable[..., Any]) -> None:
    """Same LSN, same ordinal, same time."""
    server = redis_server()
    several = [make_event(1, name=name) for name in ("one", "two", "three")]

    build(server).deliver(several)

    assert ids(server) == [event.id for event in several]


def test_two_destinations_do_not_take_each_others_events_for_their_own(
    redis_server: Servers, build: Callable[..., Any]
) -> None:
    """Two entries of a configuration that write to one stream both do."""
    server = redis_server()

    build(server, "first").deliver(EVENTS[:1])
    build(server, "second").deliver(EVENTS[:1])

    assert ids(server) == [IDS[0], IDS[0]]


def test_ids_are_forgotten_by_count_and_cost_what_the_page_says(
    redis_server: Servers, build: Callable[..., Any]
) -> None:
    """The oldest first; what is remembered is bounded, and small."""
    server = redis_server()
    destination = build(server, dedupe_events=2000)
    for first in range(0, 5000, 1000):
        destination.deliver([make_event(number) for number in range(first, first + 1000)])

    seen = "wal_tracker:seen:{wal_tracker}:redis"
    assert ask(server, "ZCARD", seen) == 2000
    assert ask(server, "MEMORY", "USAGE", seen, "SAMPLES", 0) / 2000 < 160
    destination.deliver([make_event(2999), make_event(3000), make_event(4999)])
    assert len(ids(server)) == 5001
    assert ids(server)[-1] == make_event(2999).id


# Faults --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("toxic", ["cut before the answer", "cut in the answer", "answer held"])
def test_a_lost_answer_brings_the_batch_again_and_leaves_it_once(
    redis_server: Servers, build: Callable[..., Any], toxic: str
) -> None:
    """Redis has run the script; we cannot know."""
    server = redis_server()
    with ChaosProxy(server.port) as line:
        destination = build(f"redis://127.0.0.1:{line.port}", request_timeout_s=0.5)
        destination.deliver(EVENTS[:2])
        if toxic == "answer held":
            # Passes on what we send, and nothing of what comes back.
            line.truncate_after = None
            line.latency_s = 1.0
        else:
            line.truncate_after = 0 if toxic == "cut before the answer" else 3

        with pytest.raises(DestinationUnavailable):
            destination.deliver(EVENTS)
        wait_until(lambda: ids(server) == IDS)
        line.latency_s = 0.0
        destination.deliver(EVENTS)

    assert ids(server) == IDS


def test_a_request_held_on_the_line_and_run_after_the_next_one_adds_nothing(
    redis_server: Servers, build: Callable[..., Any]
) -> None:
    """Whether a duplicate is one is decided where it is added, not by a look beforehand."""
    server = redis_server()
    with ChaosProxy(server.port) as line:
        slow = build(f"redis://127.0.0.1:{line.port}", request_timeout_s=0.3)
        slow.deliver(EVENTS[:1])
        line.latency_s = 1.0
        with pytest.raises(DestinationUnavailable):
            slow.deliver(EVENTS)
        build(server).deliver(EVENTS)
        commands = ask(server, "INFO", "commandstats")["cmdstat_eval"]["calls"]
        wait_until(lambda: ask(server, "INFO", "commandstats")["cmdstat_eval"]["calls"] > commands)

    assert ids(server) == IDS


def test_trouble_on_the_line_costs_no_event_and_doubles_none(
    redis_server: Servers, build: Callable[..., Any]
) -> None:
    """Connections are reset, between requests and with an answer on the way; all is there, once and in order."""
    server = redis_server()
    events = [make_event(number) for number in range(3000)]
    with ChaosProxy(server.port) as line:

        def lose_the_answer() -> None:
            line.truncate_after = 1

        destination = build(f"redis://127.0.0.1:{line.port}", request_timeout_s=0.5)
        trouble = [lose_the_answer, line.cut, lose_the_answer, lose_the_answer]
        delivery, letters = deliver(destination, events, max_batch_events=100, trouble=trouble)

    assert (delivery.failure, letters) == (None, [])
    assert delivery.retries >= 3
    assert ids(server) == [event.id for event in events]
    assert delivery.position().lsn == LSN(10_000_000)


def test_a_server_that_is_down_at_the_start_is_waited_for(
    redis_server: Servers, build: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """`open` does not fail for it."""
    server = redis_server()
    server.stop()

    delivery, letters = deliver(build(server), EVENTS, trouble=[server.start])

    assert (delivery.failure, letters, ids(server)) == (None, [], IDS)
    assert "not reachable yet" in caplog.text


@pytest.mark.parametrize("end", ["stop", "kill9"])
def test_a_restart_keeps_the_entries_and_what_was_seen_together(
    redis_server: Servers, build: Callable[..., Any], end: str
) -> None:
    """One script is one entry of the append-only file: there is no state with the one and without the other."""
    server = redis_server()
    destination = build(server)
    destination.deliver(EVENTS[:4])
    getattr(server, end)()
    with pytest.raises(DestinationUnavailable, match="cannot talk to Redis"):
        destination.deliver(EVENTS)
    server.start()

    destination.deliver(EVENTS)

    assert ids(server) == IDS


def test_a_server_out_of_memory_is_waited_for(redis_server: Servers, build: Callable[..., Any]) -> None:
    """Nothing is a dead letter, nothing is added in part or twice; with room again it goes on."""
    server = redis_server("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    destination = build(server)
    large = [make_event(number, properties={"text": "x" * 20_000}) for number in range(200)]
    refused = None
    for first in range(0, 200, 20):
        try:
            destination.deliver(large[first : first + 20])
        except DestinationUnavailable as error:
            refused = first
            assert "OOM" in str(error) and "xxxx" not in str(error)
            break
    assert refused
    assert len(ids(server)) == refused

    ask(server, "CONFIG", "SET", "maxmemory", "50mb")
    for first in range(refused - 20, 200, 20):
        destination.deliver(large[first : first + 20])

    assert ids(server) == [event.id for event in large]


def test_a_busy_server_is_waited_for(
    redis_server: Servers, build: Callable[..., Any], background: Callable[..., Any]
) -> None:
    """Somebody's endless script answers BUSY to everybody else."""
    server = redis_server("--busy-reply-threshold", "50")

    def hang() -> None:
        with pytest.raises(redis.ResponseError), redis.Redis.from_url(server.url) as client:
            client.eval("while true do end", 0)

    destination = build(server)
    destination.deliver(EVENTS[:1])
    background(hang)
    with redis.Redis.from_url(server.url) as client:
        wait_until(lambda: _is_busy(client))
        with pytest.raises(DestinationUnavailable, match="BUSY"):
            destination.deliver(EVENTS)
        client.script_kill()
        wait_until(lambda: not _is_busy(client))
    destination.deliver(EVENTS)
    assert ids(server) == IDS


def _is_busy(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ResponseError:
        return True
    return False


def test_a_replica_is_no_place_to_write_until_it_is_promoted(
    redis_server: Servers, build: Callable[..., Any]
) -> None:
    """READONLY passes when the failover is through."""
    primary = redis_server()
    replica = redis_server("--replicaof", f"127.0.0.1 {primary.port}")
    destination = build(replica)
    with pytest.raises(DestinationUnavailable, match=r"read-only replica|MASTERDOWN|LOADING"):
        destination.deliver(EVENTS)

    ask(replica, "REPLICAOF", "NO", "ONE")
    destination.deliver(EVENTS)

    assert ids(replica) == IDS


def test_copies_on_replicas_are_waited_for(redis_server: Servers, build: Callable[..., Any]) -> None:
    """Without them the batch comes again, and is there once."""
    primary = redis_server()
    destination = build(primary, wait_replicas=1, request_timeout_s=0.6)
    with pytest.raises(DestinationUnavailable, match="0 of 1 replicas"):
        destination.deliver(EVENTS)
    replica = redis_server("--replicaof", f"127.0.0.1 {primary.port}")
    wait_until(lambda: ask(replica, "INFO", "replication")["master_link_status"] == "up")

    wait_until(lambda: not _fails(destination))

    assert ids(primary) == ids(replica) == IDS


def _fails(destination: RedisStream) -> bool:
    try:
        destination.deliver(EVENTS)
    except DestinationUnavailable:
        return True
    return False


# Who refuses us --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["redis://:wr0ng-secret@{}", "redis://{}", "redis://nobody:wr0ng-secret@{}"])
def test_wrong_credentials_stop_and_dead_letter_nothing(
    redis_server: Servers, build: Callable[..., Any], url: str
) -> None:
    """Told at the start, and when they are changed later."""
    server = redis_server("--requirepass", "right")
    address = f"127.0.0.1:{server.port}"
    wrong = build(url.format(address))

    with pytest.raises(DestinationRefusedUs, match="check the url's user and password") as refusal:
        wrong.open(None)
    assert "wr0ng" not in str(refusal.value)

    with ChaosProxy(server.port) as line, redis.Redis.from_url(server.url, password="right") as client:

        def rotate() -> None:
            client.config_set("requirepass", "rotated")
            # The client logs in again.
            line.cut()

        destination = build(f"redis://:right@127.0.0.1:{line.port}")
        delivery, letters = deliver(destination, EVENTS, max_batch_events=2, trouble=[rotate])
    assert isinstance(delivery.failure, DestinationRefusedUs)
    assert letters == []
    assert delivery.position().lsn == LSN(0)
    assert ids(server, password="rotated") == IDS[:2]


def test_a_user_that_may_not_do_all_of_it_has_added_nothing(redis_server: Servers, build: Callable[..., Any]) -> None:
    """Every privilege the class lists is needed, and with those it works; no half of a batch is left."""
    needed = "+eval +xadd +zadd +zscore +zrevrange +zremrangebyrank"
    server = redis_server()
    url = f"redis://writer:pw@127.0.0.1:{server.port}"
    keys = "~wal_tracker ~wal_tracker:seen:*"
    for missing_one in ("+eval", "+xadd", "+zadd", "+zscore", "+zrevrange"):
        given = [*keys.split(), *needed.replace(missing_one, "").split()]
        ask(server, "ACL", "SETUSER", "writer", "reset", "on", ">pw", *given)
        with pytest.raises(DestinationRefusedUs, match="ACL SETUSER"):
            build(url).deliver(EVENTS)
        assert ids(server) == []
    ask(server, "ACL", "SETUSER", "writer", "reset", "on", ">pw", *keys.split(), *needed.split())
    destination = build(url)
    destination.open(None)
    destination.deliver(EVENTS)
    assert ids(server) == IDS


def test_a_key_of_another_kind_is_left_alone(redis_server: Servers, build: Callable[..., Any]) -> None:
    """And when it is gone, nothing counts as seen that was not added."""
    server = redis_server()
    ask(server, "SET", "wal_tracker", "mine")
    destination = build(server)
    with pytest.raises(DestinationRefusedUs, match="WRONGTYPE"):
        destination.deliver(EVENTS)

    ask(server, "DEL", "wal_tracker")
    destination.deliver(EVENTS)

    assert ids(server) == IDS


def test_tls_is_checked_against_the_authority(
    redis_server: Servers, build: Callable[..., Any], tls_files: tuple[Path, Path, Path]
) -> None:
    """The right one, none, and a name the certificate is not for."""
    authority, certificate, key = tls_files
    tls_port = free_port()
    server = redis_server(
        *("--tls-port", str(tls_port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
        *("--tls-auth-clients", "no", "--tls-ca-cert-file", str(authority)),
    )
    build(f"rediss://localhost:{tls_port}", ca_file=str(authority)).deliver(EVENTS)
    assert ids(server) == IDS

    with pytest.raises(DestinationRefusedUs, match="not trusted"):
        build(f"rediss://localhost:{tls_port}").deliver(EVENTS)
    with pytest.raises(DestinationRefusedUs, match="not trusted"):
        build(f"rediss://127.0.0.1:{tls_port}", ca_file=str(authority)).deliver(EVENTS)


def test_a_unix_socket_is_as_good(redis_server: Servers, build: Callable[..., Any], tmp_path: Path) -> None:
    """With a database."""
    server = redis_server("--unixsocket", str(tmp_path / "redis.sock"))

    build(f"unix://{tmp_path}/redis.sock?db=3").deliver(EVENTS)

    with redis.Redis(port=server.port, db=3) as client:
        assert client.xlen("wal_tracker") == 7


def test_a_cluster_keeps_a_stream_and_what_it_has_seen_in_one_slot(
    redis_server: Servers, build: Callable[..., Any]
) -> None:
    """Streams on both nodes; without `cluster` the node says where else they are."""
    buses = [free_port() for _ in range(2)]
    nodes = [redis_server("--cluster-enabled", "yes", "--cluster-port", str(bus)) for bus in buses]
    ask(nodes[0], "CLUSTER", "ADDSLOTSRANGE", 0, 8191)
    ask(nodes[1], "CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
    ask(nodes[0], "CLUSTER", "MEET", "127.0.0.1", nodes[1].port, buses[1])
    wait_until(lambda: all("cluster_state:ok" in str(_cluster_info(node)) for node in nodes))
    events = [make_event(number, name=f"kind{number % 8}") for number in range(40)]
    destination = build(nodes[0], stream="events:{event}", cluster=True)
    destination.open(None)

    destination.deliver(events)
    destination.deliver(events)

    held = [sum(_length(node, f"events:kind{kind}") for kind in range(8)) for node in nodes]
    assert sum(held) == 40 and 0 not in held
    with pytest.raises(DestinationRefusedUs, match="cluster: true"):
        build(nodes[0], stream="events:{event}").deliver(events)


def _cluster_info(node: RedisServer) -> Any:
    return ask(node, "CLUSTER", "INFO")


def _length(node: RedisServer, stream: str) -> int:
    try:
        return int(ask(node, "XLEN", stream))
    except redis.ResponseError:
        return 0


# What it says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--appendonly", "no"), ["append-only"]),
        (("--maxmemory", "90mb", "--maxmemory-policy", "allkeys-lru"), ["noeviction"]),
        (("--maxmemory", "90mb"), []),
    ],
    ids=["no AOF", "eviction", "neither"],
)
def test_a_server_that_may_forget_is_told_of(
    redis_server: Servers,
    build: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    arguments: tuple[str, ...],
    said: list[str],
) -> None:
    """Once, at the start; delivered is not durable there."""
    build(redis_server(*arguments)).open(None)

    messages = [record.getMessage() for record in caplog.records if record.name.startswith("wal_tracker")]
    assert len(messages) == len(said)
    assert all(word in message for word, message in zip(said, messages, strict=True))


def test_no_log_line_and_no_error_holds_a_secret_or_a_value(
    redis_server: Servers, build: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A server without the command repeats its arguments; and so might the client's pipeline."""
    server = redis_server("--rename-command", "EVAL", "")
    canary, secret = "canary-7f3a", "s3cret-of-redis"
    ask(server, "CONFIG", "SET", "requirepass", secret)
    for options in ({}, {"wait_replicas": 1}):
        with caplog.at_level(logging.DEBUG):
            delivery, letters = deliver(
                build(f"redis://:{secret}@127.0.0.1:{server.port}", **options),
                [make_event(1, properties={"note": canary})],
            )
        assert "unknown command" in str(delivery.failure) and letters == []
        ours = [record for record in caplog.records if record.name.startswith("wal_tracker")]
        shown = f"{delivery.failure} " + " ".join(f"{record.getMessage()} {vars(record)}" for record in ours)
        assert canary not in shown and secret not in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://s3cret"}, "url is not a URL of Redis"),
        ({"url": "redis://:s3cret@host/x"}, "url is not a URL of Redis"),
        ({"url": "redis://:s3cret@[host"}, "url is not a URL"),
        ({"url": "unix://"}, "url is not a URL of Redis"),
        ({"url": "rediss://host?ssl_cert_reqs=none"}, "no other option"),
        ({"url": "unix:///redis.sock?password=s3cret"}, "no other option"),
        ({"stream": ""}, "stream must not be empty"),
        ({"stream": "x:{tabel}"}, r"stream has \{tabel\}; there are \{event\}"),
        ({"stream": "x:{event"}, "stream has a brace"),
        ({"max_len": 0}, "max_len must be positive"),
        ({"dedupe_events": 999}, "dedupe_events must be 1000 or more"),
        ({"wait_replicas": -1}, "wait_replicas must not be negative"),
        ({"wait_replicas": 1, "cluster": True}, "wait_replicas cannot be had with cluster"),
        ({"request_timeout_s": 0}, "request_timeout_s must be positive"),
        ({"ca_file": "/nowhere.pem"}, "ca_file cannot be read: No such file"),
        ({"ca_file": __file__}, "ca_file cannot be read"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_accepted(options: dict[str, Any], message: str) -> None:
    """Before anything is opened, and without repeating a secret."""
    with pytest.raises(ConfigError, match=message) as refusal:
        registry.build("redis", "redis", {"url": "redis://host", **options}, "destinations.redis")
    assert "s3cret" not in str(refusal.value)
