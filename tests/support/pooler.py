"""PgBouncer in transaction mode before a test's server: sessions are nobody's, transactions are somebody's."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import psycopg2

from tests.support import matrix
from tests.support.postgres import Database, wait_until


class Pooler:
    """Serves one database with so many server connections until closed."""

    def __init__(self, database: Database, *, connections: int = 2) -> None:
        """
        Raises:
            matrix.Missing: There is no PgBouncer on this machine.
        """
        binaries = matrix.pgbouncer()
        assert binaries.libraries is not None
        self._directory = tempfile.TemporaryDirectory(prefix="wal_tracker_pooler_")
        directory = Path(self._directory.name)
        server = psycopg2.extensions.parse_dsn(database.dsn)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (directory / "users").write_text(f'"{server["user"]}" "{server.get("password", "")}"\n')
        (directory / "pgbouncer.ini").write_text(
            f"""[databases]
{database.name} = host={server["host"]} port={server["port"]} dbname={database.name}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = any
auth_file = {directory}/users
pool_mode = transaction
default_pool_size = {connections}
ignore_startup_parameters = extra_float_digits,options
logfile = {directory}/log
pidfile = {directory}/pid
"""
        )
        databases = (directory / "pgbouncer.ini").read_text()
        login = f" user={server['user']} password={server.get('password', '')}"
        (directory / "pgbouncer.ini").write_text(
            databases.replace(f"dbname={database.name}\n", f"dbname={database.name}{login}\n")
        )
        # It refuses to run as root, and nobody else may look into root's cache.
        for file in (binaries.directory / "pgbouncer", *binaries.libraries.glob("*.so.*")):
            shutil.copy(file, directory)
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        if user:
            for path in (directory, *directory.iterdir()):
                os.chown(path, 65534, 65534)
        self._process = subprocess.Popen(
            [*user, str(directory / "pgbouncer"), "-q", str(directory / "pgbouncer.ini")],
            env={**os.environ, "LD_LIBRARY_PATH": str(directory)},
        )
        self.dsn = psycopg2.extensions.make_dsn(
            host="127.0.0.1", port=self.port, user=server["user"], password="x", dbname=database.name
        )
        try:
            wait_until(self._answers)
        except BaseException:
            self.close()
            raise

    def _answers(self) -> bool:
        try:
            psycopg2.connect(self.dsn).close()
        except psycopg2.OperationalError:
            assert self._process.poll() is None, "PgBouncer has ended"
            return False
        return True

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)
        self._directory.cleanup()
