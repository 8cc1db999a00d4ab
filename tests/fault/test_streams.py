"""Redis and NATS, with our process killed and their servers gone; every committed change is there once, in order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from tests.support import items
from tests.support.delivered import deliver
from tests.support.job import Job
from tests.support.postgres import Database, wait_until
from tests.support.proxy import ChaosProxy
from tests.support.streams import NatsServer, RedisServer, StreamServer, free_port
from wal_tracker.destinations import registry
from wal_tracker.testing import make_event


@dataclass
class Broker:
    """A server that keeps a stream, and how our configuration reaches it by a port."""

    server: StreamServer
    options: Callable[[int], dict[str, Any]]
    documents: Callable[[], list[dict[str, Any]]]
    """The events in the stream, as often as they are there."""


@pytest.fixture(params=["redis", "nats"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """One after the other."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")()

        def entries() -> list[dict[str, Any]]:
            with redis.Redis.from_url(server.url, decode_responses=True) as client:
                return [json.loads(fields["data"]) for _, fields in client.xrange("wal_tracker")]

        yield Broker(server, lambda port: {"kind": "redis", "url": f"redis://127.0.0.1:{port}"}, entries)
    else:
        nats: NatsServer = request.getfixturevalue("nats_server")()
        nats.create_stream()
        yield Broker(
            nats,
            lambda port: {"kind": "nats", "servers": [f"nats://127.0.0.1:{port}"], "stream": "EVENTS"},
            lambda: [json.loads(message["data"]) for message in nats.messages()],
        )


def config(database: Database, broker: Broker, port: int, **delivery: Any) -> dict[str, Any]:
    """The workload's, with the broker for its destination."""
    retries = {"retry_base_s": 0.05, "retry_cap_s": 0.2, "request_timeout_s": 5.0, **delivery}
    return items.config(database, destinations={"broker": {**broker.options(port), "delivery": retries}})


def dead_letters(job: Job) -> list[str]:
    return job.run("dlq", "list", "--json").stdout.splitlines()


@pytest.mark.of_kind("redis", "nats")
def test_killed_between_request_and_acknowledgement_the_stream_has_each_event_once(
    database: Database, broker: Broker
) -> None:
    """It has stored the batch, the answer is on the line, and we are gone; the batch comes again."""
    database.sql(items.SCHEMA)
    with (
        ChaosProxy(broker.server.port) as line,
        Job(config(database, broker, line.port, max_batch_events=4)) as job,
    ):
        job.apply()
        job.start()
        database.sql("insert into items values (0, 1, 'made')")
        wait_until(broker.documents)
        line.latency_s = 1.0
        database.sql("insert into items select i, 1, 'made' from generate_series(1, 10) i")
        database.sql("update items set version = 2, note = 'changed'")
        wait_until(lambda: len(broker.documents()) > 1)
        job.kill9()
        assert len(broker.documents()) == 5, "the answer must not have been here yet"
        line.latency_s = 0.0
        job.catch_up()
        assert dead_letters(job) == []
    properties = [event["properties"] for event in broker.documents()]
    expected = [(0, 1), *((i, 1) for i in range(1, 11)), *((i, 2) for i in range(11))]
    assert [(row["id"], row["version"]) for row in properties] == expected


def test_a_server_killed_and_a_process_killed_under_load_lose_and_double_nothing(
    database: Database, broker: Broker
) -> None:
    """Writers go on all the while; both keep what they have acknowledged on disk."""
    database.sql(items.SCHEMA)
    with Job(config(database, broker, broker.server.port, max_batch_events=20)) as job:
        job.apply()
        with items.Writers(database):
            for life in range(3):
                job.start()
                before = len(broker.documents())
                wait_until(lambda: len(broker.documents()) > before + 50, every_s=0.3)  # noqa: B023 - at once
                if life == 1:
                    broker.server.kill9()
                    wait_until(lambda: "a destination is not taking events" in job.log_text())
                    broker.server.start()
                    wait_until(lambda: "a destination is taking events again" in job.log_text())
                job.kill9()
        job.catch_up()
        assert dead_letters(job) == []
    items.judge(database, broker.documents())


def test_a_nats_cluster_that_changes_its_leader_keeps_the_order(nats_server: Callable[..., NatsServer]) -> None:
    """
    The stream is on three servers; its leader steps down, and then is killed, in the middle of the publishing.

    Acknowledgements are lost, subjects have no responder for a while, and what was on its way may be stored or not.
    """
    ports = [free_port() for _ in range(3)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    nodes = [
        nats_server(f'server_name: n{n}\ncluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}] }}')
        for n, port in enumerate(ports)
    ]
    wait_until(lambda: _creates(nodes[0]), every_s=0.3)
    events = [make_event(number) for number in range(3000)]
    given = {"servers": [node.url for node in nodes], "stream": "EVENTS", "request_timeout_s": 2.0}
    destination = registry.build("nats", "nats", given, "destinations.nats")

    def step_down() -> None:
        nodes[0].request("$JS.API.STREAM.LEADER.STEPDOWN.EVENTS")

    def kill_leader() -> None:
        leader = nodes[0].request("$JS.API.STREAM.INFO.EVENTS")["cluster"]["leader"]
        nodes[int(leader[1:])].kill9()

    trouble = [step_down, kill_leader]
    delivery, letters = deliver(destination, events, max_batch_events=500, trouble=trouble, timeout_s=120)

    assert (delivery.failure, letters) == (None, [])
    alive = next(node for node in nodes if node.runs)
    assert alive.ids() == [event.id for event in events]


def _creates(node: NatsServer) -> bool:
    """Whether the cluster has a leader who creates the stream."""
    try:
        node.create_stream(num_replicas=3)
    except (AssertionError, OSError):
        return False
    return True
