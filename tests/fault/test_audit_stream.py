"""A real audit-stream server behind a line that fails, and a wal_tracker that is killed: one whole chain results."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.support import items
from tests.support.audit_stream import AuditStreamServer
from tests.support.job import Job
from tests.support.postgres import Database, wait_until
from tests.support.proxy import ChaosProxy

TROUBLE = "a destination is not taking events"


@pytest.fixture
def server() -> Iterator[AuditStreamServer]:
    """Nothing is in its chain."""
    if sys.version_info < (3, 11):
        pytest.skip("audit-stream needs Python 3.11")
    with AuditStreamServer() as made:
        yield made


def test_killed_and_cut_off_the_chain_holds_each_event_once_in_order(
    database: Database, server: AuditStreamServer
) -> None:
    """The server drops no duplicates and its chain cannot be mended, so what may be there is looked for."""
    database.sql(items.SCHEMA)
    with ChaosProxy(server.port) as line:
        entry = {"kind": "audit_stream", "endpoint": f"http://127.0.0.1:{line.port}", "allow_private": True}
        delivery = {"retry_base_s": 0.05, "retry_cap_s": 0.2, "request_timeout_s": 2.0}
        config = items.config(database, destinations={"audit": entry}, delivery=delivery)
        with Job(config) as job:
            job.apply()
            database.sql("insert into items select i, 1, 'made' from generate_series(1, 60) i")
            database.sql("update items set version = 2, note = 'changed'")
            line.latency_s = 0.005
            for count in (10, 40, 70):
                job.start()
                wait_until(lambda count=count: server.get("/stats")["count"] >= count)
                before = job.log_text().count(TROUBLE)
                line.truncate_after = 30
                wait_until(lambda before=before: job.log_text().count(TROUBLE) > before)
                job.kill9()
            line.latency_s = 0.0
            job.catch_up()
    kept = [event["payload"]["properties"] for event in server.events("wal_tracker")]
    assert [(item["id"], item["version"]) for item in kept] == [(i, v) for v in (1, 2) for i in range(1, 61)]
    assert server.get("/verify")["valid"] is True
    assert server.get("/stats")["count"] == 120
