"""Redis and NATS servers of a test's own, on free ports of loopback, with their data in temporary directories."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support import matrix
from tests.support.fixtures import missing
from tests.support.postgres import wait_until
from wal_tracker.demo.server import Binaries
from wal_tracker_destinations.nats_wire import NatsConnection, NatsOptions, header_lines


class StreamServer:
    """One server process; what it has written survives `kill9` and `stop` until `close`."""

    program: str

    def __init__(self, binaries: Binaries, *arguments: str) -> None:
        """
        Args:
            binaries: Where the program is.
            arguments: Beside those it is always given.
        """
        self._binaries, self._arguments = binaries, arguments
        self._directory = tempfile.TemporaryDirectory(prefix="wal_tracker_streams_", ignore_cleanup_errors=True)
        self.directory = Path(self._directory.name)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, again on the same port; returns when it takes connections."""
        libraries = {"LD_LIBRARY_PATH": str(self._binaries.libraries)} if self._binaries.libraries else {}
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binaries.directory / self.program), *self._always(), *self._arguments],
                env={**os.environ, **libraries},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._listens)

    def stop(self) -> None:
        """Ask it to leave."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

    def kill9(self) -> None:
        """As a power cut."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(20)

    def close(self) -> None:
        """End it and remove what it has written."""
        if self.runs:
            self.kill9()
        self._directory.cleanup()

    def __enter__(self) -> StreamServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def runs(self) -> bool:
        """Whether it does."""
        return self._process is not None and self._process.poll() is None

    def log_text(self) -> str:
        """What it has said."""
        return (self.directory / "log").read_text(errors="replace")

    def _always(self) -> list[str]:
        raise NotImplementedError

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.program} has ended: {self.log_text()[-2000:]}"
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


class RedisServer(StreamServer):
    """With an append-only file that is synced for every write, unless its arguments say otherwise."""

    program = "redis-server"

    def __init__(self, *arguments: str) -> None:
        """
        Args:
            arguments: ``--maxmemory 10mb`` and so on.

        Raises:
            matrix.Missing: There is no Redis on this machine.
        """
        super().__init__(matrix.redis(), *arguments)

    @property
    def url(self) -> str:
        """Of its first database."""
        return f"redis://127.0.0.1:{self.port}/0"

    def _listens(self) -> bool:
        """And has read what it had written: until then it takes connections and nothing else."""
        if not super()._listens():
            return False
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as line:
                line.sendall(b"PING\r\n")
                return not line.recv(64).startswith(b"-LOADING")
        except OSError:
            # One that wants TLS, for example.
            return True

    def _always(self) -> list[str]:
        given = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "yes"]
        return [*given, "--appendfsync", "always", "--dir", str(self.directory)]


class NatsServer(StreamServer):
    """With JetStream on disk, in the configuration it is given."""

    program = "nats-server"

    def __init__(self, configuration: str = "") -> None:
        """
        Args:
            configuration: More of it, as in its file: ``authorization {token: x}``.

        Raises:
            matrix.Missing: There is no NATS server on this machine.
        """
        super().__init__(matrix.nats(), "-c", "nats.conf")
        (self.directory / "nats.conf").write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{store_dir: "{self.directory / "store"}", max_mem: 64MB, max_file: 256MB}}\n'
            f"{configuration}\n"
        )

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"nats://127.0.0.1:{self.port}"

    def request(self, subject: str, document: Any = None, **login: Any) -> dict[str, Any]:
        """What JetStream's API answers; raises AssertionError where it answers with an error."""
        (answer,) = self._requests([(subject, document)], login)
        return answer

    def create_stream(self, name: str = "EVENTS", *subjects: str, login: Any = None, **config: Any) -> None:
        """A stream on disk with these subjects (``events.>``), and its configuration as in the API."""
        wanted = {"name": name, "subjects": list(subjects) or ["events.>"], "storage": "file", **config}
        self.request(f"$JS.API.STREAM.CREATE.{name}", wanted, **(login or {}))

    def messages(self, name: str = "EVENTS", **login: Any) -> list[dict[str, Any]]:
        """What the stream holds, oldest first: ``subject``, ``headers`` and ``data``."""
        state = self.request(f"$JS.API.STREAM.INFO.{name}", **login)["state"]
        sequence = range(state["first_seq"], state["last_seq"] + 1) if state["messages"] else ()
        found = []
        for answer in self._requests([(f"$JS.API.STREAM.MSG.GET.{name}", {"seq": seq}) for seq in sequence], login):
            message = answer["message"]
            lines = base64.b64decode(message.get("hdrs", "")).decode().split("\r\n")[1:]
            headers = dict(line.split(": ", 1) for line in lines if line)
            data = base64.b64decode(message.get("data", ""))
            found.append({"subject": message["subject"], "headers": headers, "data": data})
        return found

    def ids(self, name: str = "EVENTS", **login: Any) -> list[str]:
        """Of the events in the stream, oldest first, as often as they are there; "" for somebody else's messages."""
        return [message["headers"].get("Nats-Msg-Id", "") for message in self.messages(name, **login)]

    def _requests(self, requests: Sequence[tuple[str, Any]], login: dict[str, Any]) -> list[dict[str, Any]]:
        connection = NatsConnection(self.url, NatsOptions(servers=(self.url,), **login))
        answers = []
        try:
            replies = connection.replies(time.monotonic() + 30)
            for subject, document in requests:
                data = b"" if document is None else orjson.dumps(document)
                connection.publish(subject, "request", header_lines({}), data)
                connection.flush()
                answer = orjson.loads(next(replies).data or b'{"error": "nobody answers"}')
                assert "error" not in answer, answer["error"]
                answers.append(answer)
        finally:
            connection.close()
        return answers

    def _always(self) -> list[str]:
        return []


def free_port() -> int:
    """A port of loopback nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def certificates(directory: Path) -> tuple[Path, Path, Path]:
    """A throw-away authority, and the certificate and key it has signed for ``localhost``, and not for its address."""
    authority, key, certificate = (directory / name for name in ("ca.pem", "server.key", "server.pem"))

    def openssl(*arguments: str | Path) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    new = ("req", "-newkey", "rsa:2048", "-nodes", "-batch")
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=wal_tracker test", "-keyout", "ca.key", "-out", authority)
    openssl(*new, "-subj", "/CN=localhost", "-keyout", key, "-out", "server.csr")
    (directory / "names").write_text("subjectAltName=DNS:localhost\n")
    signed = ("-CA", authority, "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    openssl("x509", "-req", "-in", "server.csr", *signed, "-out", certificate)
    return authority, certificate, key


@pytest.fixture
def redis_server() -> Iterator[Callable[..., RedisServer]]:
    """Makes running Redis servers of this test's own: ``redis_server("--maxmemory", "10mb")``."""
    yield from _servers(RedisServer)


@pytest.fixture
def nats_server() -> Iterator[Callable[..., NatsServer]]:
    """Makes running NATS servers of this test's own: ``nats_server("max_payload: 1024")``."""
    yield from _servers(NatsServer)


@pytest.fixture
def tls_files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """See `certificates`."""
    if shutil.which("openssl") is None:
        missing("no openssl: apt-get install openssl")
    return certificates(tmp_path)


def _servers(kind: Callable[..., StreamServer]) -> Iterator[Callable[..., StreamServer]]:
    with ExitStack() as stack:

        def make(*arguments: str) -> StreamServer:
            try:
                server = kind(*arguments)
            except matrix.Missing as reason:
                missing(str(reason))
            return stack.enter_context(server)

        yield make
