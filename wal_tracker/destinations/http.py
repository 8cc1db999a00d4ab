"""
JSON over HTTP, once, for every destination that speaks it.

One connection to one place: no proxy and no ``.netrc`` from the environment, no redirects, no cookies, no
retries below ours, bounded times and answers. What a status means for an event is decided here
(`HttpClient.post`); what is in a body is the destination's business.

Where it connects is guarded: the address that was checked is the address that is connected to, so a
name that resolves to something else a moment later (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import email.utils
import gzip as gzip_format
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timezone
from http.cookiejar import DefaultCookiePolicy
from importlib.metadata import version
from typing import Any, Union
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests.utils import check_header_validity
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from wal_tracker.destinations.base import BatchRefused
from wal_tracker.errors import DestinationRefusedUs, DestinationUnavailable
from wal_tracker.secret import Secret

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

CONNECT_TIMEOUT_S = 10.0
"""Longer than a lost SYN takes to be sent three times; a host that has not answered by then is not there."""

# Of an answer we read a reason at most; more would be memory given to a stranger.
MAX_ANSWER_BYTES = 64 * 1024
_REASON_CHARACTERS = 300
# Of it what a dead letter keeps.
_TOLD_CHARACTERS = 2000

TRANSIENT = frozenset({408, 425, 429})
"""Below 500, what passes."""
# Of every other 4xx (no key, wrong place, wrong method) each event would be as guilty as the next, and dead-lettering
# a backlog for a rotated key helps nobody.
ABOUT_THE_EVENTS = frozenset({400, 409, 413, 422})
"""What speaks of the content."""
# Which headers may be shown with their values; every other one may be, or hold, a credential.
_SHOWN_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-md5",
        "content-type",
        "date",
        "expect",
        "retry-after",
        "user-agent",
        "webhook-id",
        "webhook-timestamp",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-target",
    }
)
_NEVER_MENDS = frozenset({501, 505})
# So many characters of an answer that also stood in the request are no accident.
_REPEATED_CHARACTERS = 16
REPEATED = "it repeats what was sent (`wal_tracker destinations test` shows the answer)"
"""What is said in place of words that do."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FRAMING = frozenset({"content-length", "host", "transfer-encoding"})

# Where clouds answer with credentials to whoever asks; link-local 169.254.169.254 is refused with its whole network.
_METADATA = frozenset(
    map(ipaddress.ip_address, ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"))
)
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
# Prefixes that carry an IPv4 address in their last 32 bits: NAT64 (RFC 6052) and the deprecated IPv4-compatible form.
_EMBEDDING = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))


class AnswerLost(DestinationUnavailable):
    """The request went out and no whole answer came back: it may have been processed, or may yet be."""


class AddressRefused(Exception):
    """The guard does not let us connect there; the text says why, and what to set."""


@dataclass(frozen=True, slots=True)
class AddressGuard:
    """Which addresses may be connected to."""

    allow_private: bool = False
    """Also addresses that only exist inside: private networks and this machine."""
    allow_http: bool = False
    """Also without TLS, wherever it is; with `allow_private` loopback may do without in any case."""

    def check(self, address: Address, scheme: str) -> None:
        """
        Refuse an address this destination may not reach.

        Raises:
            AddressRefused: The address is private, and that is not allowed; or is one nobody delivers to.
        """
        address = _innermost(address)
        if (
            address in _METADATA
            or address.is_link_local
            or address.is_multicast
            or address.is_unspecified
            or (address.version == 6 and address.is_site_local)
            or (address.version == 4 and address in _THIS_NETWORK)
            or (address.is_reserved and not address.is_loopback)
        ):
            raise AddressRefused(
                f"{address} is link-local, metadata, multicast or reserved; events are never sent there"
            )
        if not self.allow_private and not address.is_global:
            raise AddressRefused(f"{address} is a private address; if that is meant, set allow_private: true")
        if scheme != "https" and not self.allow_http and not address.is_loopback:
            raise AddressRefused(
                "it is not https, events would travel in the clear; if that is meant, set allow_http: true"
            )

    def resolve(self, host: str, port: int, scheme: str) -> list[tuple[int, Any]]:
        """
        The places `host` may be connected at: pairs of address family and socket address.

        Raises:
            AddressRefused: It has none that is allowed.
            OSError: It cannot be resolved.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        allowed: list[tuple[int, Any]] = []
        refusal: AddressRefused | None = None
        for family, _, _, _, place in found:
            try:
                # A scope ("fe80::1%eth0") is only ever link-local, and that is refused.
                self.check(ipaddress.ip_address(str(place[0]).partition("%")[0]), scheme)
            except AddressRefused as error:
                refusal = error
                continue
            allowed.append((family, place))
        if not allowed:
            raise refusal or AddressRefused(f"{host} has no address")
        return allowed


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back with a 2xx."""

    status: int
    body: bytes
    """The beginning of it; see `HttpClient`."""
    headers: Mapping[str, str]
    """Whatever case a name is asked for in."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and what came of it, to be shown: no credential is in it, nor what of the URL may be one."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    """Before compression."""
    answer: Answer | None
    failure: str = ""
    """Why there was no answer."""


_observer: ContextVar[Callable[[Exchange], None] | None] = ContextVar("observer", default=None)


@contextmanager
def observed(observer: Callable[[Exchange], None]) -> Iterator[None]:
    """Call `observer` with every exchange of every client on this thread, until the block is left."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def is_observed() -> bool:
    """Whether somebody on this thread wants to be shown exchanges."""
    return _observer.get() is not None


def show(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    answer: Answer | None,
    failure: str = "",
    *,
    secrets: Sequence[str],
) -> None:
    """
    Show an exchange to who watches, if somebody does; for a client that is not `HttpClient`.

    Args:
        method: GET, POST, PUT …
        url: Whole.
        headers: Of the request; those that may hold a credential are shown without their value.
        body: Before compression.
        answer: None: there was none.
        failure: Why not.
        secrets: Texts to be hidden wherever they stand, the longest first.
    """
    observer = _observer.get()
    if observer is None:
        return

    def hidden(text: bytes) -> bytes:
        for secret in secrets:
            text = text.replace(secret.encode(), b"***")
        return text

    shown = {name: text if name.lower() in _SHOWN_HEADERS else "***" for name, text in headers.items()}
    if answer is not None:
        harmless = {name: text for name, text in answer.headers.items() if name.lower() in _SHOWN_HEADERS}
        answer = Answer(answer.status, hidden(answer.body), harmless)
    place, asked, query = url.partition("?")
    # As in `_secrets_in`: a short text is no secret.
    told = "&".join(f"{name}={text if len(text) < 4 else '***'}" for name, text in parse_qsl(query))
    url = hidden(place.encode()).decode() + asked + told
    observer(Exchange(method, url, shown, hidden(body), answer, failure))


class HttpClient:
    """
    Posts to one URL, and asks other things of its host. One thread.

    No text it makes (errors, repr) holds the URL's path, query or credentials, or a header's value: any of them may
    be a secret.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        timeout_s: float,
        guard: AddressGuard,
        headers: Mapping[str, str] | None = None,
        secrets: Sequence[str] = (),
        ca_file: str | None = None,
        transient: frozenset[int] = TRANSIENT,
        refusals: frozenset[int] = ABOUT_THE_EVENTS,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        confidential: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            name: The destination's, for errors.
            url: Whole; ``user:password@`` becomes an Authorization header.
            timeout_s: For the answer to begin, and for it to end.
            guard: Where it may connect.
            headers: Sent with every request.
            secrets: Texts to be hidden wherever the vendor's words are repeated.
            ca_file: Certificates to trust in place of the usual ones, for a private authority.
            transient: Statuses below 500 after which the same is sent again.
            refusals: Statuses that refuse what was sent for good, and say nothing of us; they come before all others.
            max_answer_bytes: More of an answer is not read.
            confidential: What it says and hears are credentials, to be shown to nobody.
            clock: Seconds since the Unix epoch; a test may give its own.

        Raises:
            ValueError: The URL is not one.
        """
        self.name = name
        self.origin = check_url(url)
        """Scheme, host and port: what may be shown."""
        parts = urlsplit(url)
        self._scheme, self._host = parts.scheme, parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._url = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))
        self._guard = guard
        self._timeout = (min(timeout_s, CONNECT_TIMEOUT_S), timeout_s)
        self._transient, self._refusals, self._max_answer_bytes = transient, refusals, max_answer_bytes
        self._clock = clock
        given = {part for secret in secrets for part in (secret, _behind_scheme(secret)) if part}
        self._secrets = sorted({*given, *_secrets_in(url)}, key=len, reverse=True)
        self._credential, self._is_confidential = "", confidential
        self._sent = b""
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = ca_file or True
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.update(
            {"User-Agent": f"wal_tracker/{version('wal_tracker')}", "Accept-Encoding": "identity", **(headers or {})}
        )
        if parts.username is not None:
            self._session.auth = HTTPBasicAuth(unquote(parts.username), unquote(parts.password or ""))
        self._adapter = _GuardedAdapter(guard)
        self._session.mount("https://", self._adapter)
        self._session.mount("http://", self._adapter)
        self._templates: dict[str, requests.PreparedRequest] = {}

    def __repr__(self) -> str:
        return f"HttpClient({self.name!r}, {self.origin!r})"

    def check_address(self) -> None:
        """
        Say at start-up what every request would run into.

        A name that does not resolve is no error yet: it may by the time of the first event.

        Raises:
            DestinationRefusedUs: The guard does not let us connect there.
        """
        try:
            self._guard.resolve(self._host, self._port, self._scheme)
        except AddressRefused as error:
            raise DestinationRefusedUs(self.name, f"{self.origin} is refused: {error}") from error
        except OSError:
            return

    def post(
        self, body: bytes, headers: Mapping[str, str], *, gzip: bool = False, judged: frozenset[int] = frozenset()
    ) -> Answer:
        """
        Send a body, and return once it was accepted (any 2xx).

        Args:
            body: As it is; with `gzip`, compressed here and so declared.
            headers: Of this request; Content-Type among them.
            judged: Statuses that are returned as well, for a caller that reads more in the answer; what it cannot read
                it hands to `verdict`.

        Raises:
            DestinationUnavailable: 408, 425, 429, most 5xx, no or half an answer: send it again.
            AnswerLost: Of those, no or half an answer where the request may have been processed.
            BatchRefused: 400, 409, 413, 422: something in it is refused for good.
            DestinationRefusedUs: Every other status, a certificate that does not hold, an address not allowed.
        """
        return self.request("POST", None, body, headers, gzip=gzip, judged=judged)

    def request(
        self,
        method: str,
        target: str | None,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        gzip: bool = False,
        judged: frozenset[int] = frozenset(),
    ) -> Answer:
        """
        As `post`, with any method and anywhere on the same host.

        Args:
            method: GET, POST, PUT …
            target: Path and query, beginning with ``/``; None: the client's own URL.
            body: None: no body.
            headers: A credential in Authorization is hidden wherever the vendor's words are repeated.
            gzip: Compress the body, and declare it so.
            judged: As `post`.

        Raises:
            DestinationUnavailable, BatchRefused, DestinationRefusedUs: As `post`.
        """
        sent, plain, self._sent = dict(headers), body, body or b""
        self._credential = sent.get("Authorization", "").rpartition(" ")[2]
        if gzip and body is not None:
            # mtime=0: the same events give the same bytes. Level 1 makes 14 % more of them than 6, at half the CPU.
            body, sent["Content-Encoding"] = gzip_format.compress(body, 1, mtime=0), "gzip"
        url = self._url if target is None else self.origin + target
        try:
            # By the adapter: what a session does around it is half of a request's CPU, and nothing we want.
            with self._adapter.send(
                self._prepared(method, url, body, sent), stream=True, timeout=self._timeout, verify=self._session.verify
            ) as response:
                # From here: sending a large body may take longer than an answer should.
                deadline = time.monotonic() + self._timeout[1]
                answer = Answer(response.status_code, self._read(response, deadline), response.headers)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            failure = self._failure(error)
            self._tell(method, url, plain, sent, None, str(failure))
            # Without its cause: the libraries' texts hold the whole URL.
            raise failure from None
        self._tell(method, url, plain, sent, answer)
        if 200 <= answer.status < 300 or answer.status in judged:
            return answer
        raise self.verdict(answer)

    def get(self, query: Mapping[str, str]) -> Answer:
        """
        Read from the client's own URL.

        Args:
            query: In place of the URL's own.

        Raises:
            DestinationUnavailable, BatchRefused, DestinationRefusedUs: As `post`.
        """
        return self.request("GET", f"{urlsplit(self._url).path}?{urlencode(query)}", None, {})

    def close(self) -> None:
        """Let go of the connection; calling it twice is harmless."""
        self._session.close()

    def _prepared(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> requests.PreparedRequest:
        """A request to be sent. To the client's own URL only what differs between two of them is made anew."""
        if url != self._url:
            return self._session.prepare_request(requests.Request(method, url, data=body, headers=headers))
        template = self._templates.get(method)
        if template is None:
            template = self._templates[method] = self._session.prepare_request(requests.Request(method, url))
        prepared = template.copy()
        assert prepared.headers is not None
        for name, value in headers.items():
            check_header_validity((name, value))
            # Credentials in the URL come before these, as with a session.
            if self._session.auth is None or name.lower() != "authorization":
                prepared.headers[name] = value
        prepared.body = body
        if body is not None:
            prepared.headers["Content-Length"] = str(len(body))
        return prepared

    def _tell(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        answer: Answer | None,
        failure: str = "",
    ) -> None:
        """Show the exchange to who watches, unless it is nobody's business."""
        if self._is_confidential or not is_observed():
            return
        every = {name: str(text) for name, text in {**self._session.headers, **headers}.items()}
        if self._session.auth is not None:
            every["Authorization"] = ""
        secrets = [*filter(None, (self._credential, *self._secrets))]
        show(method, url, every, body or b"", answer, failure, secrets=secrets)

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        """The beginning of the answer; a body that never ends, or trickles, is left."""
        body = b""
        while len(body) < self._max_answer_bytes:
            chunk: bytes = response.raw.read1(self._max_answer_bytes - len(body))
            if not chunk:
                break
            body += chunk
            if time.monotonic() > deadline:
                raise requests.exceptions.ReadTimeout
        return body

    def verdict(self, answer: Answer) -> Exception:
        """What an answer other than 2xx means by its status alone: the exception to raise."""
        status = answer.status
        said = f"{self.origin} answered {status}{self._new_words(answer.body)}"
        if status in self._refusals:
            return BatchRefused(f"HTTP {status}{self.words(answer.body)}", self.told(status, answer.body))
        if status in self._transient or (status >= 500 and status not in _NEVER_MENDS):
            # Without the body: what is retried is logged.
            return DestinationUnavailable(
                self.name,
                f"{self.origin} answered {status}",
                retry_after_s=retry_after_s(answer.headers, self._clock()),
            )
        if 300 <= status < 400:
            return DestinationRefusedUs(
                self.name, f"{said}, a redirect, which is not followed; configure the final URL"
            )
        if status in (401, 403):
            return DestinationRefusedUs(self.name, f"{said}; check the key or secret in the configuration")
        if status == 410:
            return DestinationRefusedUs(
                self.name, f"{said}: the receiver wants no more events; give its new URL or remove this destination"
            )
        return DestinationRefusedUs(self.name, f"{said}; check the URL and what is expected there")

    def _failure(self, error: Exception) -> Exception:
        """What a request without an answer means, in words of our own."""
        for cause in _causes(error):
            if isinstance(cause, AddressRefused):
                return DestinationRefusedUs(self.name, f"{self.origin} is refused: {cause}")
            if isinstance(cause, ssl.SSLCertVerificationError):
                return DestinationRefusedUs(
                    self.name,
                    f"the certificate of {self.origin} does not hold: {cause.verify_message}; mend it there, or name "
                    "the authority that signed it as ca_file",
                )
        if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader)):
            return DestinationRefusedUs(self.name, f"the URL or a header for {self.origin} cannot be sent")
        kind: type[DestinationUnavailable] = DestinationUnavailable
        if isinstance(error, requests.exceptions.ConnectTimeout):
            what = f"did not take a connection within {self._timeout[0]:g} s"
        elif isinstance(error, (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)):
            what, kind = f"did not answer within {self._timeout[1]:g} s", AnswerLost
        elif any(isinstance(cause, socket.gaierror) for cause in _causes(error)):
            what = "has a name that does not resolve now"
        elif any(isinstance(cause, ConnectionRefusedError) for cause in _causes(error)):
            what = "refuses connections"
        elif any(isinstance(cause, urllib3.exceptions.NewConnectionError) for cause in _causes(error)):
            what = "cannot be reached"
        else:
            what, kind = f"cut the connection ({type(_root(error)).__name__})", AnswerLost
        return kind(self.name, f"{self.origin} {what}")

    def told(self, status: int, body: bytes) -> str:
        """An answer for a dead letter: its status, and the beginning of its body as it came, without our secrets."""
        text = self._without_secrets(body, _TOLD_CHARACTERS)
        text = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
        return f"HTTP {status}\n{text}"

    def words(self, body: bytes) -> str:
        """The vendor's words after a colon, short, printable, and without our secrets; empty where it says nothing."""
        text = self._without_secrets(body, 4 * _REASON_CHARACTERS)
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_REASON_CHARACTERS]
        return f": {text}" if text else ""

    def _new_words(self, body: bytes) -> str:
        """The same, unless it repeats what was sent: this is logged, and no value of an event may be."""
        words = self.words(body)
        return f": {REPEATED}" if repeats(words[2:], self._sent.decode("utf-8", "replace")) else words

    def _without_secrets(self, body: bytes, characters: int) -> str:
        """The beginning of a body; no part of a secret is in it."""
        secrets = [*filter(None, (self._credential, *self._secrets))]
        longest = max((len(secret.encode()) for secret in secrets), default=0)
        end = 4 * characters + longest
        text = body[:end].decode("utf-8", "replace")
        for secret in secrets:
            text = text.replace(secret, "***")
        if len(body) > end and longest:
            # Where we stop, one may be cut in two.
            text = text[:-longest]
        return text[:characters]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """The options every destination on HTTP has; the base of its `Config`."""

    allow_private: bool = False
    """Let the URL lead to a private network or this machine."""
    allow_http: bool = False
    """Let events travel unencrypted."""
    ca_file: str | None = None
    """Certificates to trust in place of the usual ones."""
    request_timeout_s: float = 15.0
    """For the answer."""

    def __post_init__(self) -> None:
        if self.request_timeout_s <= 0:
            raise ValueError("request_timeout_s must be positive")

    def client(
        self,
        name: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        secrets: Sequence[str] = (),
        transient: frozenset[int] = TRANSIENT,
        refusals: frozenset[int] = ABOUT_THE_EVENTS,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        confidential: bool = False,
    ) -> HttpClient:
        """A client with these options; the arguments are `HttpClient`'s."""
        return HttpClient(
            name,
            url,
            timeout_s=self.request_timeout_s,
            guard=AddressGuard(allow_private=self.allow_private, allow_http=self.allow_http),
            headers=headers,
            secrets=secrets,
            ca_file=self.ca_file,
            transient=transient,
            refusals=refusals,
            confidential=confidential,
            max_answer_bytes=max_answer_bytes,
        )


def check_url(url: str) -> str:
    """
    Check the form of an HTTP URL, and give the part of it that may be shown: scheme, host and port.

    Raises:
        ValueError: It is not one; the text does not repeat it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        if host and ":" not in host:
            host.encode("idna")
    except ValueError as error:
        raise ValueError("is not a URL; expected https://host/path") from error
    if parts.scheme not in ("http", "https") or not host or any(c.isspace() or not c.isprintable() for c in url):
        raise ValueError("is not a URL; expected https://host/path")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port else "")


def check_headers(headers: Mapping[str, Secret], *, ours: Collection[str]) -> None:
    """
    Check headers of a configuration.

    Args:
        headers: By name.
        ours: Lower-case names of those the destination sets by itself, beside those of HTTP's own framing.

    Raises:
        ValueError: One cannot be sent, or is ours; the text does not repeat its value.
    """
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"headers: {name!r} is not a header's name")
        if name.lower() in _FRAMING or name.lower() in ours:
            raise ValueError(f"headers: {name} is set by wal_tracker")
        text = value.reveal()
        if not text.isascii() or not text.isprintable() or text != text.strip():
            raise ValueError(f"headers: the value of {name} cannot stand in a header")


def _behind_scheme(header: str) -> str:
    """The credential in what an Authorization header holds (``Bearer abc…``), which may come back alone."""
    match = re.fullmatch(r"[A-Za-z-]+ +(\S{4,})", header)
    return match[1] if match else ""


def _secrets_in(url: str) -> set[str]:
    """What of a URL may be a secret and must not come back in a vendor's words ("cannot POST /services/T0/B0/XXXX")."""
    parts = urlsplit(url)
    # A short text ("1", "v1", "batch") is no secret, and hiding it would only spoil the message.
    values = [value for _, value in parse_qsl(parts.query) if len(value) >= 4]
    segments = [segment for segment in parts.path.split("/") if len(segment) >= 8]
    found = [parts.query, *values, *segments, unquote(parts.password or ""), parts.password or ""]
    return {text for text in found if text}


def repeats(words: str, sent: str) -> bool:
    """Whether words of an answer hold a part of what was sent: such are not logged, since no value of an event is."""
    return any(
        words[at : at + _REPEATED_CHARACTERS] in sent for at in range(len(words) - _REPEATED_CHARACTERS + 1)
    )


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """
    Seconds the server asks us to wait; None where it does not say, or not so that we understand.

    See: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    when = _http_date(text)
    if when is None:
        return None
    # By the server's own clock, where it tells it: ours may be off.
    served = _http_date(headers.get("Date", ""))
    return max(0.0, when - (now if served is None else served))


def _http_date(text: str) -> float | None:
    try:
        when = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()


def _innermost(address: Address) -> Address:
    """The IPv4 address an IPv6 address leads to, where it is one in disguise."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if not address.is_loopback and not address.is_unspecified and any(address in network for network in _EMBEDDING):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _causes(error: BaseException) -> list[BaseException]:
    """The error and everything it says it comes from; libraries hide causes in `args` and `reason` as well."""
    seen: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        cause = waiting.pop(0)
        if not isinstance(cause, BaseException) or cause in seen:
            continue
        seen.append(cause)
        waiting += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
    return seen


def _root(error: BaseException) -> BaseException:
    return _causes(error)[-1]


class _GuardedConnection(HTTPConnection):
    """
    Connects to an address that was checked, and to no other.

    `_new_conn` is where urllib3 resolves and connects (urllib3 2, connection.py). TLS's server name and the Host
    header are the URL's, as ever.
    """

    guard: AddressGuard
    scheme = "http"

    def _new_conn(self) -> socket.socket:
        host = self.host.strip("[]")
        try:
            places = self.guard.resolve(host, self.port or 0, self.scheme)
        except socket.gaierror as error:
            raise urllib3.exceptions.NameResolutionError(self.host, self, error) from error
        except (AddressRefused, OSError) as error:
            raise urllib3.exceptions.NewConnectionError(self, "refused") from error
        failed: OSError | None = None
        for family, place in places:
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                sock.settimeout(self.timeout if isinstance(self.timeout, (int, float)) else CONNECT_TIMEOUT_S)
                sock.connect(place)
                return sock
            except OSError as error:
                sock.close()
                failed = error
        if isinstance(failed, TimeoutError):
            raise urllib3.exceptions.ConnectTimeoutError(self, "timed out") from failed
        raise urllib3.exceptions.NewConnectionError(self, "failed") from failed


class _GuardedTLSConnection(_GuardedConnection, HTTPSConnection):
    """The same, and then TLS."""

    scheme = "https"


class _GuardedAdapter(HTTPAdapter):
    """One kept connection, no retries below ours, every connection by way of the guard."""

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard
        self._pool: HTTPConnectionPool | None = None
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """As the base class; then the pools are ours."""
        super().init_poolmanager(*args, **kwargs)
        guard = self._guard
        plain = type("Connection", (_GuardedConnection,), {"guard": guard})
        tls = type("TLSConnection", (_GuardedTLSConnection,), {"guard": guard})
        self.poolmanager.pool_classes_by_scheme = {
            "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("TLSPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
        }

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        """The one pool, since a client has one host; looked up once."""
        if self._pool is None:
            self._pool = super().get_connection_with_tls_context(*args, **kwargs)
        return self._pool

    def close(self) -> None:
        """As the base class; a pool that is closed is not used again."""
        self._pool = None
        super().close()
