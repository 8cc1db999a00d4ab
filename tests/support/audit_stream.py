"""The audit-stream server, as its package comes, on a free port of this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
from types import TracebackType
from typing import Any

import requests

from tests.support.postgres import wait_until


class AuditStreamServer:
    """A process with an empty chain; stopped, the chain is gone. Use it as a context manager."""

    def __init__(self) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: int = sock.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> AuditStreamServer:
        command = [sys.executable, "-m", "uvicorn", "audit_stream.app:app", "--host", "127.0.0.1"]
        self._process = subprocess.Popen(
            [*command, "--port", str(self.port), "--log-level", "error"], stdin=subprocess.DEVNULL
        )
        wait_until(self._is_up, timeout_s=60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)

    def get(self, path: str) -> Any:
        """What it answers to a GET."""
        answer = requests.get(self.url(path), timeout=30)
        answer.raise_for_status()
        return answer.json()

    def events(self, source: str) -> list[dict[str, Any]]:
        """What a source has in the chain, oldest first."""
        return list(self.get(f"/events?source={source}&limit=100000"))

    def url(self, path: str = "") -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}{path}"

    def _is_up(self) -> bool:
        assert self._process is not None and self._process.poll() is None
        try:
            return bool(self.get("/healthz") == {"status": "ok"})
        except requests.ConnectionError:
            return False
