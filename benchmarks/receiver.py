"""
The other end of a destination, as cheap as it can be made: it reads HTTP/1.1, gives the answers it was told, and keeps
the bodies. A process of its own, so that what it costs is not our CPU and holds up none of our threads.

``python -m benchmarks.receiver`` reads the ports and answers as JSON from stdin, says ``ready``, and for every further
line, a name, prints what came there since the last time. It leaves when stdin ends.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CONTINUE = re.compile(rb"\r\nexpect: *100-continue", re.IGNORECASE)
# Ids of events are UUIDs of version 5 (`wal_tracker.identity`), and nothing else in the workload is.
_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@dataclass
class Answers:
    """What is said at one port: by method and path, without the query."""

    port: int
    by_path: dict[bytes, bytes] = field(default_factory=dict)
    """Whole answers, by ``POST /batch/``."""
    usual: bytes = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    """To every other path. Empty: none; the request hangs."""

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        by_path = {path.decode(): base64.b64encode(answer).decode() for path, answer in self.by_path.items()}
        return {"port": self.port, "by_path": by_path, "usual": base64.b64encode(self.usual).decode()}


@dataclass(frozen=True)
class Received:
    """What came at one port."""

    requests: int
    wire_bytes: int
    """Of the bodies, as they came."""
    ids: int
    """How many different events were in them."""


class Receiver:
    """The process, from the outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def received(self, name: str) -> Received:
        """What came at a port since the last time."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()
        return Received(**json.loads(self._process.stdout.readline()))


@contextmanager
def receiver(answers: Mapping[str, Answers]) -> Iterator[Receiver]:
    """A running receiver; gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.receiver"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    with process:
        try:
            process.stdin.write(json.dumps({name: one.document() for name, one in answers.items()}) + "\n")
            process.stdin.flush()
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("the receiver did not start")
            yield Receiver(process)
        finally:
            process.stdin.close()
            process.wait(10)


class _Port(asyncio.Protocol):
    """One connection; many requests, one after the other."""

    def __init__(self, answers: Mapping[bytes, bytes], usual: bytes, bodies: list[bytes]) -> None:
        self._answers, self._usual, self._bodies = answers, usual, bodies
        self._parts: list[bytes] = []
        self._missing = 0
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        if self._missing:
            self._missing -= len(data)
        else:
            data = b"".join(self._parts)
            self._parts = [data]
            end = data.find(b"\r\n\r\n")
            if end < 0:
                return
            head = data[:end]
            length = _LENGTH.search(head)
            self._missing = (int(length[1]) if length else 0) - (len(data) - end - 4)
            self._answer = self._answers.get(head[: head.find(b" HTTP/")].partition(b"?")[0], self._usual)
            self._parts = [data[end + 4 :]]
            if self._missing and _CONTINUE.search(head):
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._missing <= 0:
            self._bodies.append(b"".join(self._parts))
            self._parts, self._missing = [], 0
            if self._answer:
                self._transport.write(self._answer)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    bodies: dict[str, list[bytes]] = {}
    for name, one in json.loads(sys.stdin.readline()).items():
        kept = bodies[name] = []
        by_path = {path.encode(): base64.b64decode(answer) for path, answer in one["by_path"].items()}
        usual = base64.b64decode(one["usual"])
        await loop.create_server(lambda by_path=by_path, usual=usual, kept=kept: _Port(by_path, usual, kept),
                                 "127.0.0.1", one["port"])
    print("ready", flush=True)
    while name := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        ids = {found for body in bodies[name] for found in _ID.findall(_plain(body))}
        size = sum(map(len, bodies[name]))
        print(json.dumps({"requests": len(bodies[name]), "wire_bytes": size, "ids": len(ids)}), flush=True)
        bodies[name].clear()


def _plain(body: bytes) -> bytes:
    return gzip.decompress(body) if body.startswith(b"\x1f\x8b\x08") else body


if __name__ == "__main__":
    asyncio.run(_serve())
