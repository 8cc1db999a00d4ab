"""
A vendor in the test's own process: answers by a script, fails in the ways networks fail, and remembers.

`HttpServer` listens on a free port of 127.0.0.1. Subclass it and override `handle` for a vendor with a mind of
its own; the script comes first.
"""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import zlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qs, urlsplit

import orjson

Fault = Literal[
    "close_before_response",
    "close_after_processing",
    "hang",
    "hang_after_processing",
    "slow_headers",
    "truncated_body",
    "endless_body",
]


S = TypeVar("S", bound="HttpServer")


@dataclass(frozen=True)
class Request:
    """What came."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    """By lower-cased name."""
    raw: bytes
    """As on the wire."""
    body: bytes
    """Decompressed."""

    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """What goes back, or how it does not."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    fault: Fault | None = None
    """Those after processing let `handle` do its work first; the others end or hold the request."""


class HttpServer:
    """Serves until closed. `script` is used up reply by reply; after it, `handle` answers."""

    def __init__(self, *, max_body_bytes: int = 64 * 1024 * 1024, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.script: deque[Reply] = deque()
        self.stored: dict[Any, Any] = {}
        """What a real vendor would have on disk, by its deduplication key."""
        self.connections = 0
        self.max_body_bytes = max_body_bytes
        # Requests come on many connections at once, and what a subclass makes of one is to be whole before the next.
        self._lock = threading.Lock()
        self._scheme = "https" if tls else "http"
        # Set when the server closes: lets go of requests that hang on purpose.
        self.released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Nagle and delayed acknowledgements would add 40 ms to each answer.
            disable_nagle_algorithm = True

            def setup(self) -> None:
                server.connections += 1
                super().setup()

            def do_POST(self) -> None:
                server._serve(self)

            do_GET = do_PUT = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                """Silence."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that leaves in the middle is what many tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        """Where it listens."""
        return f"{self._scheme}://{host}:{self.port}{path}"

    def handle(self, request: Request) -> Reply:
        """Process a request; the default takes everything."""
        self.stored.setdefault(request.headers.get("webhook-id", request.body), request.body)
        return Reply()

    def follows_script(self, request: Request) -> bool:
        """Whether the script answers this request, as long as it lasts; not so where a vendor is also read from."""
        return True

    def aside(self, request: Request) -> Reply | None:
        """The answer to a request that carries no events, for a token and the like: not scripted, not remembered."""
        return None

    def close(self) -> None:
        """Stop; requests that hang are cut."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length", 0))
        raw = handler.rfile.read(length)
        if len(raw) < length:
            # Who sent it is gone.
            handler.close_connection = True
            return
        parts = urlsplit(handler.path)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        try:
            body = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b\x08") else raw
        except (OSError, EOFError, zlib.error):
            self._answer(handler, Reply(400, b"bad gzip"))
            return
        with self._lock:
            reply = self._reply(Request(handler.command, parts.path, parse_qs(parts.query), headers, raw, body))
        self._answer(handler, reply)

    def _reply(self, request: Request) -> Reply:
        """What the script, or the vendor, says to a request, once what is to be done with it is done."""
        aside = self.aside(request)
        if aside is not None:
            return aside
        self.requests.append(request)
        if len(request.body) > self.max_body_bytes:
            return Reply(413, b"too large")
        scripted = self.script.popleft() if self.script and self.follows_script(request) else None
        if scripted is None:
            return self.handle(request)
        if scripted.fault in ("close_after_processing", "hang_after_processing"):
            self.handle(request)
        return scripted

    def _answer(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.fault in ("close_before_response", "close_after_processing"):
            self._cut(handler)
            return
        if reply.fault in ("hang", "hang_after_processing"):
            self._hang(handler)
            return
        if reply.fault == "slow_headers":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            handler.wfile.flush()
            self._hang(handler)
            return
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        if reply.fault == "endless_body":
            handler.end_headers()
            while not self.released.is_set():
                handler.wfile.write(b"x" * 65536)
            return
        promised = len(reply.body) + (100 if reply.fault == "truncated_body" else 0)
        if reply.status != 204:
            handler.send_header("Content-Length", str(promised))
        handler.end_headers()
        handler.wfile.write(reply.body)
        if reply.fault == "truncated_body":
            self._cut(handler)

    def _hang(self, handler: BaseHTTPRequestHandler) -> None:
        self.released.wait(60)
        self._cut(handler)

    @staticmethod
    def _cut(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)
