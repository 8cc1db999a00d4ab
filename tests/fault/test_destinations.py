"""Destinations that fail under the whole job: nothing is lost, what is refused can be had back, a wrong key stops."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import items
from tests.support.fake_posthog import FakePostHog
from tests.support.http_server import HttpServer, Reply
from tests.support.job import Job
from tests.support.postgres import Database, wait_until

QUICK = {"retry_base_s": 0.01, "retry_cap_s": 0.05, "request_timeout_s": 1}


@pytest.fixture
def receiver() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


def _config(database: Database, receiver: HttpServer) -> dict[str, Any]:
    webhook = {"url": receiver.url("/hook"), "allow_private": True, "delivery": QUICK}
    return items.config(database, destinations={"webhook": webhook})


def _stored(receiver: HttpServer) -> list[dict[str, Any]]:
    """What the receiver keeps: each id once, in the order they first came."""
    return [json.loads(body) for body in receiver.stored.values()]


def test_a_receiver_that_fails_in_every_way_gets_everything_once_and_in_order(
    database: Database, receiver: HttpServer
) -> None:
    """500, 429, hanging, closing before and after processing, half an answer; while four writers write."""
    database.sql(items.SCHEMA)
    with Job(_config(database, receiver)) as job:
        job.apply()
        trouble = [
            Reply(500),
            Reply(429, headers={"Retry-After": "0"}),
            Reply(fault="close_before_response"),
            Reply(fault="close_after_processing"),
            Reply(fault="hang"),
            Reply(503),
            Reply(fault="truncated_body"),
        ]
        with items.Writers(database) as writers:
            job.start()
            for reply in trouble:
                receiver.script.append(reply)
                wait_until(lambda: not receiver.script)
                target = len(receiver.stored) + 10
                wait_until(lambda target=target: len(receiver.stored) >= target, timeout_s=60)  # type: ignore[misc]
            writers.stop()
        assert job.stop() == 0, job.log_text()
        job.catch_up()

        items.judge(database, _stored(receiver))
        assert len(receiver.requests) > len(receiver.stored)
        assert "events were refused" not in job.log_text()


def test_a_refused_event_is_a_dead_letter_that_can_be_had_back(database: Database, receiver: HttpServer) -> None:
    """400 for one event: the others arrive, it waits with the receiver's words, and `dlq replay` delivers it."""
    database.sql(items.SCHEMA)
    with Job(_config(database, receiver)) as job:
        job.apply()
        database.sql("insert into items select n, 1, 'made' from generate_series(1, 5) n")
        receiver.script.extend([Reply(fault="close_after_processing"), Reply(), Reply(400, b"out of stock")])
        job.catch_up()

        (letter,) = map(json.loads, job.run("dlq", "list", "--json").stdout.splitlines())
        assert "out of stock" in letter["reason"]
        assert letter["id"] not in receiver.stored
        assert len(receiver.stored) == 4

        replayed = job.run("dlq", "replay", "--all")
        assert replayed.returncode == 0, replayed.stderr
        assert letter["id"] in receiver.stored
        assert len(receiver.stored) == 5


def test_a_wrong_key_stops_the_job_and_loses_nothing(database: Database) -> None:
    """Exit 1 and what to check; with the right key everything arrives, and nothing became a dead letter."""
    database.sql(items.SCHEMA)
    with FakePostHog(key="phc_right") as posthog:
        assert isinstance(posthog, FakePostHog)
        entry = {"apiKey": "$KEY", "endpoint": posthog.url(""), "allow_private": True, "delivery": QUICK}
        config = items.config(database, destinations={"posthog": entry})
        for rule in config["track"].values():
            rule["distinct_id"] = "string(old.id)" if "old.id" in rule["properties"]["id"] else "string(new.id)"
        with Job(config) as job:
            assert job.run("apply", "--yes", KEY="phc_wrong").returncode == 0
            database.sql("insert into items select n, 1, 'made' from generate_series(1, 20) n")

            refused = job.run("run", "--until-caught-up", KEY="phc_wrong")
            assert refused.returncode == 1
            assert "401" in refused.stderr
            assert "phc_wrong" not in refused.stderr
            assert posthog.stored == {}

            accepted = job.run("run", "--until-caught-up", KEY="phc_right")
            assert accepted.returncode == 0, accepted.stderr
            assert len(posthog.stored) == 20
