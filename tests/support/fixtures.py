"""
Fixtures that give a test its PostgreSQL, and the account of what this machine could not give.

A test says what it needs by markers: ``postgres(min=16)`` (the lowest and highest major it makes sense on),
``standby`` and ``wal2json``. What is missing is skipped with a reason and counted in the summary; with
``WT_TEST_REQUIRE_ALL=1`` it fails.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support import matrix
from tests.support.postgres import Database, Server
from tests.support.proxy import ChaosProxy

REQUIRE_ALL = os.environ.get("WT_TEST_REQUIRE_ALL") == "1"
MAJOR = int(os.environ.get("WT_TEST_PG") or matrix.EMBEDDED_MAJOR)
"""The major the session's server runs; ``WT_TEST_PG=16 pytest tests/integration`` runs the floor on another."""

_missing: Counter[str] = Counter()


def missing(reason: str) -> None:
    """Skip the running test because the machine lacks something; fail it where everything is required."""
    _missing[reason] += 1
    if REQUIRE_ALL:
        pytest.fail(f"WT_TEST_REQUIRE_ALL=1, and {reason}", pytrace=False)
    pytest.skip(reason)


def pytest_report_header() -> list[str]:
    """What this machine has."""
    import psycopg2

    servers = ", ".join(line.split(":")[0] for line in matrix.status() if "PostgreSQL)" in line)
    return [f"wal_tracker: PostgreSQL {MAJOR} (there are: {servers or 'none'}), psycopg2 {psycopg2.__version__}"]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many tests this machine could not run, so that a green run does not hide them."""
    for reason, count in _missing.items():
        terminalreporter.write_line(f"MISSING on this machine, {count} tests: {reason}", yellow=True)


@pytest.fixture(autouse=True)
def _capabilities(request: pytest.FixtureRequest) -> None:
    """Hold the ``postgres(min, max)`` marker against the session's server."""
    marker = request.node.get_closest_marker("postgres")
    if marker is None or "server" in request.fixturenames:
        return
    low, high = marker.kwargs.get("min", 0), marker.kwargs.get("max", 99)
    if not low <= MAJOR <= high:
        pytest.skip(f"needs PostgreSQL {low} to {high}, and this session runs {MAJOR}")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """The session's server: shared, so neither stopped nor reconfigured."""
    try:
        server = Server(major=MAJOR)
    except matrix.Missing as reason:
        missing(str(reason))
    with server:
        yield server


@pytest.fixture(scope="session")
def _standby_pair() -> Iterator[tuple[Server, Server]]:
    try:
        primary = Server(major=max(MAJOR, 16))
    except matrix.Missing as reason:
        missing(str(reason))
    with ExitStack() as stack:
        stack.enter_context(primary)
        standby = primary.standby()
        stack.callback(standby.close)
        yield primary, standby


@pytest.fixture
def standby(_standby_pair: tuple[Server, Server]) -> Server:
    """The session's hot standby (PostgreSQL 16 or later); its primary is ``standby.primary``."""
    return _standby_pair[1]


@pytest.fixture
def database(postgres: Server) -> Iterator[Database]:
    """A database of the session's server, for this test alone; its slots go with it."""
    made = postgres.create_database()
    yield made
    made.drop()


@pytest.fixture
def server() -> Iterator[Callable[..., Server]]:
    """Makes running servers of this test's own, to stop, crash and reconfigure: ``server(16, wal_keep_size=…)``."""
    with ExitStack() as stack:

        def make(major: int = MAJOR, *, wal2json: bool = False, **settings: str | int) -> Server:
            try:
                made = Server(major=major, wal2json=wal2json, settings=settings)
            except matrix.Missing as reason:
                missing(str(reason))
            return stack.enter_context(made)

        yield make


@pytest.fixture(scope="session")
def wal2json_server() -> Iterator[Server]:
    """The session's PostgreSQL 15 with wal2json."""
    try:
        made = Server(wal2json=True)
    except matrix.Missing as reason:
        missing(str(reason))
    with made:
        yield made


@pytest.fixture
def proxy(postgres: Server) -> Iterator[ChaosProxy]:
    """A chaos proxy before the session's server."""
    with ChaosProxy(postgres.port) as made:
        yield made


@pytest.fixture
def background() -> Iterator[Callable[[Callable[[], Any]], threading.Thread]]:
    """Runs functions in threads and joins them at the end; what they raise fails the test."""
    started: list[threading.Thread] = []
    errors: list[BaseException] = []

    def run(work: Callable[[], Any]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - handed to the test below
                errors.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        started.append(thread)
        return thread

    yield run
    for thread in started:
        thread.join(60)
    if errors:
        raise errors[0]
