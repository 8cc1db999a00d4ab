"""Several requests at once, on a real server: each row's changes still arrive in the order of their commits."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from tests.support import items
from tests.support.fake_posthog import FakePostHog
from tests.support.http_server import Reply, Request
from tests.support.job import Job
from tests.support.postgres import Database, wait_until

DELIVERY = {"retry_base_s": 0.02, "retry_cap_s": 0.1, "max_batch_events": 10, "linger_s": 0.01}


class BusyPostHog(FakePostHog):
    """Counts the requests that are with it at the same time; each takes a moment, and every seventh fails."""

    def __init__(self) -> None:
        super().__init__()
        self._counting = threading.Lock()
        self.busy = self.busiest = self.count_of_requests = 0

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        with self._counting:
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
        try:
            self.released.wait(0.01)
            super()._serve(handler)
        finally:
            with self._counting:
                self.busy -= 1

    def handle(self, request: Request) -> Reply:
        self.count_of_requests += 1
        return Reply(503) if self.count_of_requests % 7 == 0 else super().handle(request)


@pytest.mark.parametrize("identity", ["default", "full"])
@pytest.mark.parametrize("key", ["bigint", "numeric", "text", "timestamptz", "uuid"])
def test_each_row_keeps_its_order(database: Database, identity: str, key: str) -> None:
    """Whatever its key is. An update of it belongs to two rows, and nothing of either passes it."""
    value = {
        "bigint": "{0}",
        "numeric": "{0}.50",
        "text": "'row {0}'",
        "timestamptz": "timestamptz '2026-01-01' + interval '{0} hours'",
        "uuid": "lpad('{0}', 32, '0')::uuid",
    }[key]
    database.sql(f"create table moved (key {key} primary key, version int not null, note text)")
    database.sql(f"alter table moved replica identity {identity}")
    with BusyPostHog() as vendor:
        config = items.config(database, delivery=DELIVERY)
        config["track"] = {
            f"moved.{op}": {"event": op, "distinct_id": "'one'", "properties": {"version": "new.version"}}
            for op in ("insert", "update")
        }
        config["destinations"] = {"posthog": vendor.options, "file": {"path": "events.jsonl"}}
        with Job(config) as job:
            job.apply()
            ways: dict[int, list[int]] = defaultdict(list)
            version = 0
            for turn in range(12):
                for row in range(12):
                    version += 1
                    mine = value.format(row)
                    ways[row].append(version)
                    if turn == 0:
                        database.sql(f"insert into moved values ({mine}, {version}, 'note')")
                    elif turn % 5 == 4:
                        # It gets the key of a row that is no more, and the next turn takes it back.
                        away = value.format(row + 100)
                        database.sql(f"update moved set key = {away}, version = {version} where key = {mine}")
                        version += 1
                        ways[row].append(version)
                        database.sql(f"update moved set key = {mine}, version = {version} where key = {away}")
                    else:
                        database.sql(f"update moved set version = {version} where key = {mine}")
            job.catch_up()
            arrived = [_version(event) for event in vendor.stored.values()]
            assert sorted(arrived) == [line["properties"]["version"] for line in job.lines()]
            for row, versions in ways.items():
                mine_arrived = [one for one in arrived if one in set(versions)]
                assert mine_arrived == versions, f"row {row}"
            assert vendor.busiest > 1


def _version(event: dict[str, Any]) -> int:
    return int(event["properties"]["version"])


def test_a_rate_is_kept_with_several_requests_at_once(database: Database) -> None:
    """`max_events_per_s` is the destination's."""
    database.sql(items.SCHEMA)
    with BusyPostHog() as vendor:
        config = items.config(database, delivery={**DELIVERY, "max_events_per_s": 100})
        config["destinations"] = {"posthog": vendor.options}
        config["track"]["items.insert"]["distinct_id"] = "new.id"
        with Job(config) as job:
            job.apply()
            database.sql("insert into items select i, 1, 'made' from generate_series(1, 300) i")
            job.start("run", "--until-caught-up")
            wait_until(lambda: vendor.stored)
            begun = time.monotonic()
            assert job.wait() == 0, job.log_text()
            # What is on its way at the beginning goes at once.
            assert time.monotonic() - begun >= (300 - 40) / 100 - 0.5
            assert len(vendor.stored) == 300
