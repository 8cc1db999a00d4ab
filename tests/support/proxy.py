"""A TCP proxy on loopback that does to a connection what networks do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from types import TracebackType

_Pair = tuple[asyncio.StreamWriter, asyncio.StreamWriter]


class ChaosProxy:
    """
    Passes bytes between its clients and one server; the toxics are plain attributes, effective at once.

    Runs in a thread of its own. Use it as a context manager.
    """

    def __init__(self, port: int, *, host: str = "127.0.0.1") -> None:
        """
        Args:
            port: The server's.
            host: The server's.
        """
        self._upstream = (host, port)
        self._pairs: set[_Pair] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._ended: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self.port = 0
        self.latency_s = 0.0
        """Added to every read, each way."""
        self.bytes_per_second = 0
        """Limits each direction; 0 is no limit."""
        self.truncate_after: int | None = None
        """Cut (RST) after so many more bytes from the server; once."""
        self.refuse = False
        """Reset every new connection."""
        self.blackhole = False
        """Hold every byte both ways and close nothing: what a dead link looks like."""
        self.to_client_bytes = 0

    def dsn(self, dsn: str) -> str:
        """`dsn`, through the proxy."""
        return f"{dsn} host=127.0.0.1 port={self.port}"

    def cut(self) -> None:
        """Reset every connection that passes now."""
        self._loop.call_soon_threadsafe(lambda: [_reset(*pair) for pair in list(self._pairs)])

    @property
    def connections(self) -> int:
        """How many pass now."""
        return len(self._pairs)

    def __enter__(self) -> ChaosProxy:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._ended is not None
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> None:
        self._ended = asyncio.Event()
        server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        server.close()
        for pair in list(self._pairs):
            _reset(*pair)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _pass(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self.refuse:
            _reset(client)
            return
        try:
            server_reader, server = await asyncio.open_connection(*self._upstream)
        except OSError:
            _reset(client)
            return
        pair = (client, server)
        self._pairs.add(pair)
        try:
            await asyncio.gather(
                self._pump(client_reader, server, pair, from_server=False),
                self._pump(server_reader, client, pair, from_server=True),
            )
        finally:
            self._pairs.discard(pair)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: _Pair, *, from_server: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = await reader.read(16384)
                while self.blackhole:
                    await asyncio.sleep(0.02)
                if not data:
                    break
                if self.latency_s:
                    await asyncio.sleep(self.latency_s)
                if from_server:
                    if self.truncate_after is not None and len(data) >= self.truncate_after:
                        writer.write(data[: self.truncate_after])
                        await writer.drain()
                        self.truncate_after = None
                        _reset(*pair)
                        return
                    if self.truncate_after is not None:
                        self.truncate_after -= len(data)
                    self.to_client_bytes += len(data)
                writer.write(data)
                await writer.drain()
                if self.bytes_per_second:
                    await asyncio.sleep(len(data) / self.bytes_per_second)
        writer.close()


def _reset(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        connection = writer.get_extra_info("socket")
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
