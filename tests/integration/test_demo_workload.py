"""The shop's writers, and the account they keep."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg2
import pytest

from tests.support.postgres import Server, wait_until
from wal_tracker.demo.shop import DATABASE, open_shop
from wal_tracker.demo.workload import Workload
from wal_tracker.source.connection import read_sql


@pytest.fixture
def shop(postgres: Server) -> Iterator[str]:
    dsn = open_shop(postgres)
    # What `wal_tracker apply` makes, and the writers call.
    for name in ("create_schema", "set_context", "emit"):
        postgres.sql(read_sql(f"setup/{name}.sql"), database=DATABASE)
    yield dsn
    postgres.sql(f"drop database {DATABASE} with (force)")


def count(dsn: str, what: str) -> int:
    connection = psycopg2.connect(dsn)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"select count(*) from {what}")
            ((number,),) = cursor.fetchall()
            return int(number)
    finally:
        connection.close()


def test_the_ledger_agrees_with_the_tables(shop: str) -> None:
    """What the writers expect is what the rows say happened; what was rolled back is in neither."""
    users = count(shop, "users")
    workload = Workload(shop, writers=4, rate=400, seed=7, on_failure=lambda: None)

    workload.start()
    wait_until(lambda: workload.ledger.committed > 300 and workload.ledger.rolled_back > 5)
    workload.stop()

    expected = workload.ledger.expected
    assert workload.failure is None
    assert users + expected["user_signed_up"] - expected["account_closed"] == count(shop, "users")
    assert expected["order_placed"] == count(shop, "orders where placed_at is not null")
    assert expected["order_refunded"] == count(shop, "orders where status = 'refunded'")
    assert expected["payment_failed"] == count(shop, "payments where status = 'failed'")
    assert expected["payment_authorised"] == count(shop, "payments where status <> 'failed'")


def test_a_writer_that_loses_its_connection_is_told_and_the_others_stop_when_asked(shop: str, postgres: Server) -> None:
    """A shop that is half closed must not pass for an even account."""
    told = threading.Event()
    workload = Workload(shop, writers=2, rate=50, seed=7, on_failure=told.set)

    workload.start()
    wait_until(lambda: workload.ledger.committed)
    postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'shop writer 1'")
    assert told.wait(30)
    workload.stop()

    assert isinstance(workload.failure, psycopg2.OperationalError)
    wait_until(lambda: not postgres.sql("select from pg_stat_activity where application_name like 'shop writer%%'"))
