"""
As much of the NATS client protocol as a publisher needs: messages with headers, and the replies to them.

In one thread and without a loop of its own: a server that went away, or asks whether we are there, is met when there
is something to publish. (The official client for Python, 2.16, is built on asyncio, leaves the acknowledgements of a
lost connection pending, and sends credentials in the clear to a server that offers no TLS where ``tls://`` was asked
for.)

See: https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

from __future__ import annotations

import base64
import re
import socket
import ssl
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nkeys
import orjson

from wal_tracker.secret import Secret

_READ_BYTES = 64 * 1024
# INFO lists the servers of a cluster; what is longer than this is not from NATS.
_MAX_LINE_BYTES = 1024 * 1024
_NOT_NATS = "what answers there is not NATS"

_JWT = re.compile(r"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END")
_SEED = re.compile(r"-+BEGIN USER NKEY SEED-+\s+(\S+)\s+-+END")


class NatsError(Exception):
    """The server said ``-ERR``, or what it said is not NATS; the text says what."""


class NoTLS(NatsError):
    """TLS was asked for, and the server offers none; nothing was sent to it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A message that came to our inbox."""

    token: str
    """What follows the inbox in its subject."""
    status: str
    """Of its header, such as ``503``; "" where there is none."""
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsOptions:
    """How to reach a NATS server, and who we are there; the base of a `Config`."""

    servers: tuple[str, ...]
    """``nats://host:4222``, or ``tls://host:4222`` for one that must offer TLS; the first that takes us is used."""
    token: Secret | None = None
    """To log in with a token,"""
    user: str | None = None
    """or with a user"""
    password: Secret | None = None
    """and password,"""
    nkey_seed: Secret | None = None
    """or with an NKey, by its seed (``SU…``),"""
    credentials: str | None = None
    """or with a JWT and NKey, in a ``.creds`` file; it is read again at each login."""
    ca_file: str | None = None
    """Certificates to trust in place of the usual ones."""
    cert_file: str | None = None
    """Our own certificate, where the server asks for one,"""
    key_file: str | None = None
    """and its key."""
    request_timeout_s: float = 15.0
    """For connecting, and for an acknowledgement."""

    def __post_init__(self) -> None:
        if not self.servers:
            raise ValueError("servers must not be empty")
        for server in self.servers:
            _check_server(server)
        if (self.user is None) != (self.password is None):
            raise ValueError("user needs password, and password user")
        ways = ("token", "user", "nkey_seed", "credentials")
        given = [way for way in ways if getattr(self, way) is not None]
        if len(given) > 1:
            raise ValueError(f"has more than one way to log in: {', '.join(given)}")
        if self.nkey_seed is not None:
            _key_pair(self.nkey_seed.reveal(), "nkey_seed")
        if self.credentials is not None:
            _read_credentials(self.credentials)
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("key_file needs cert_file")
        self.tls()
        if self.request_timeout_s <= 0:
            raise ValueError("request_timeout_s must be positive")

    def tls(self) -> ssl.SSLContext:
        """
        How to check the server's certificate, with our own.

        Raises:
            ValueError: A file cannot be read.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise ValueError(f"ca_file cannot be read: {error.strerror or 'no certificate in it'}") from error
        if self.cert_file is not None:
            try:
                # Without a terminal nobody could be asked for a key's pass phrase.
                context.load_cert_chain(self.cert_file, self.key_file, password="")
            except OSError as error:
                raise ValueError(
                    f"cert_file or key_file cannot be read: {error.strerror or 'no pair, or with a pass phrase'}"
                ) from error
        return context

    def login(self, nonce: str) -> dict[str, str]:
        """The fields of CONNECT that say who we are; `nonce` is what the server wants signed."""
        if self.token is not None:
            return {"auth_token": self.token.reveal()}
        if self.user is not None and self.password is not None:
            return {"user": self.user, "pass": self.password.reveal()}
        if self.nkey_seed is not None:
            pair = _key_pair(self.nkey_seed.reveal(), "nkey_seed")
            return {"nkey": pair.public_key.decode(), "sig": _signature(pair, nonce)}
        if self.credentials is not None:
            jwt, pair = _read_credentials(self.credentials)
            return {"jwt": jwt, "sig": _signature(pair, nonce)}
        return {}


class NatsConnection:
    """One connection to one server, ready to publish once it is made."""

    def __init__(self, server: str, options: NatsOptions) -> None:
        """
        Args:
            server: One of `options.servers`.
            options: See there.

        Raises:
            OSError: It cannot be reached, its certificate is not trusted, or it went away.
            NatsError: It does not take us.
            ValueError: A file of the options can no longer be read.
        """
        tls, timeout_s = options.tls(), options.request_timeout_s
        url = urlsplit(server)
        self._buffer = bytearray()
        self._out = bytearray()
        self._timeout_s = timeout_s
        deadline = time.monotonic() + timeout_s
        self._socket: socket.socket = socket.create_connection((url.hostname, url.port or 4222), timeout_s)
        try:
            kind, _, info = self._line(deadline).partition(b" ")
            try:
                self.info = dict[str, Any](orjson.loads(info if kind == b"INFO" else b"").items())
            except (ValueError, AttributeError) as error:
                raise NatsError(_NOT_NATS) from error
            if self.info.get("tls_required") or (url.scheme == "tls" and self.info.get("tls_available")):
                if self._buffer:
                    # Said in the clear to be taken for what was said under TLS.
                    raise NatsError("the server spoke on before TLS")
                self._socket = tls.wrap_socket(self._socket, server_hostname=url.hostname)
            elif url.scheme == "tls":
                raise NoTLS("the server offers no TLS")
            if not self.info.get("headers"):
                raise NatsError(f"the server takes no headers (version {self.info.get('version')}; 2.2 or newer does)")
            connect = {
                "verbose": False,
                "pedantic": False,
                "lang": "python",
                "version": version("wal_tracker"),
                "name": "wal_tracker",
                "protocol": 1,
                "headers": True,
                "no_responders": True,
                **options.login(self.info.get("nonce", "")),
            }
            self.inbox = f"_INBOX.{uuid.uuid4().hex}."
            self._out += b"CONNECT %b\r\nSUB %b* 1\r\nPING\r\n" % (orjson.dumps(connect), self.inbox.encode())
            self.flush()
            while self._line(deadline) != b"PONG":
                pass
        except BaseException:
            self.close()
            raise

    @property
    def max_payload(self) -> int:
        """The most bytes of a message, headers and all."""
        return int(self.info.get("max_payload", 1024 * 1024))

    def publish(self, subject: str, token: str, headers: bytes, data: bytes) -> None:
        """
        Put a message with the next `flush`.

        Args:
            subject: Without white space.
            token: Its reply comes with it.
            headers: As on the wire, see `header_lines`.
            data: The message itself.
        """
        self._out += b"HPUB %b %b%b %d %d\r\n" % (
            *(subject.encode(), self.inbox.encode(), token.encode()),
            *(len(headers), len(headers) + len(data)),
        )
        self._out += headers
        self._out += data
        self._out += b"\r\n"

    def flush(self) -> None:
        """
        Send what was published.

        Raises:
            OSError: The server went away, or took nothing for `timeout_s`.
        """
        out, self._out = self._out, bytearray()
        self._socket.settimeout(self._timeout_s)
        self._socket.sendall(out)

    def wake(self) -> None:
        """
        Answer what the server asked while nobody was looking.

        Raises:
            OSError: It has gone away.
            NatsError: It has said why.
        """
        self._out += b"PING\r\n"
        self.flush()
        deadline = time.monotonic() + self._timeout_s
        while self._line(deadline) != b"PONG":
            pass

    def replies(self, deadline: float) -> Iterator[Reply]:
        """
        What comes to our inbox, without end.

        Args:
            deadline: By `time.monotonic`; the next reply must have come by then.

        Raises:
            TimeoutError: None came in time.
            OSError: The server went away.
            NatsError: It refuses something.
        """
        while True:
            words = self._line(deadline).split()
            if words[:1] not in ([b"MSG"], [b"HMSG"]):
                continue
            try:
                sizes = [int(word) for word in words[-2 if words[0] == b"HMSG" else -1 :]]
            except ValueError as error:
                raise NatsError(_NOT_NATS) from error
            body = self._take(sizes[-1] + 2, deadline)[:-2]
            status, data = "", body
            if len(sizes) == 2:
                size = sizes[0]
                # "NATS/1.0 503", then lines of header.
                first = body[:size].partition(b"\r\n")[0].split()
                status, data = (first[1].decode() if len(first) > 1 else ""), body[size:]
            yield Reply(words[1].decode().removeprefix(self.inbox), status, data)

    def close(self) -> None:
        """Let go of the connection."""
        self._socket.close()

    def _line(self, deadline: float) -> bytes:
        """The next protocol line that is not about the connection itself; PING is answered, ``-ERR`` raised."""
        while True:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                if len(self._buffer) > _MAX_LINE_BYTES:
                    raise NatsError(_NOT_NATS)
                self._receive(deadline)
                continue
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 2]
            if line == b"PING":
                self._out += b"PONG\r\n"
                self.flush()
            elif line.startswith(b"-ERR"):
                raise NatsError(line[4:].decode(errors="replace").strip().strip("'"))
            else:
                return line

    def _take(self, count: int, deadline: float) -> bytes:
        while len(self._buffer) < count:
            self._receive(deadline)
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        self._socket.settimeout(left)
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self._buffer += data


def header_lines(headers: Mapping[str, str]) -> bytes:
    """
    A message's headers as they travel; no name or value may hold a line end.

    See: https://docs.nats.io/reference/reference-protocols/nats-protocol#hpub
    """
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"NATS/1.0\r\n{lines}\r\n".encode()


def _check_server(server: str) -> None:
    """
    Check the form of a server's URL.

    Raises:
        ValueError: It is not one; the text does not repeat it.
    """
    expected = "expected nats://host:4222 or tls://host:4222"
    try:
        url = urlsplit(server)
        good = url.scheme in ("nats", "tls") and bool(url.hostname) and url.port != 0 and not url.path.strip("/")
    except ValueError as error:
        raise ValueError(f"servers: not a URL; {expected}") from error
    if not good or url.query or url.fragment or any(c.isspace() or not c.isprintable() for c in server):
        raise ValueError(f"servers: not a URL of NATS; {expected}")
    if "@" in url.netloc:
        raise ValueError("servers: must hold no credentials; use user and password, or token")


def _key_pair(seed: str, option: str) -> Any:
    """
    The key pair of an NKey seed.

    Raises:
        ValueError: It is none; the text does not repeat it.
    """
    try:
        return nkeys.from_seed(bytearray(seed.strip().encode()))
    except (nkeys.NkeysError, ValueError, IndexError) as error:
        raise ValueError(f"{option} holds no NKey seed (SU…)") from error


def _read_credentials(path: str) -> tuple[str, Any]:
    """
    The JWT and key pair of a ``.creds`` file.

    Raises:
        ValueError: It cannot be read, or holds none.
    """
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"credentials cannot be read: {getattr(error, 'strerror', None) or 'not text'}") from error
    jwt, seed = _JWT.search(text), _SEED.search(text)
    if jwt is None or seed is None:
        raise ValueError("credentials is no .creds file: it must hold a user JWT and a user NKey seed")
    return jwt[1], _key_pair(seed[1], "credentials")


def _signature(pair: Any, nonce: str) -> str:
    return base64.urlsafe_b64encode(pair.sign(nonce.encode())).rstrip(b"=").decode()
