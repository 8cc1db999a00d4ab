"""The HTTP client: what each status means, what is waited for, what is never shown, and where it never connects."""

from __future__ import annotations

import email.utils
import gzip
import ipaddress
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.http_server import HttpServer, Reply
from wal_tracker.destinations.base import BatchRefused
from wal_tracker.destinations.http import (
    MAX_ANSWER_BYTES,
    AddressGuard,
    AddressRefused,
    AnswerLost,
    HttpClient,
    check_url,
    retry_after_s,
)
from wal_tracker.errors import DestinationRefusedUs, DestinationUnavailable

INSIDE = AddressGuard(allow_private=True, allow_http=True)
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


class Clients:
    def __init__(self) -> None:
        self.made: list[HttpClient] = []

    def __call__(self, url: str, *, timeout_s: float = 5.0, guard: AddressGuard = INSIDE, **options: Any) -> HttpClient:
        self.made.append(HttpClient("vendor", url, timeout_s=timeout_s, guard=guard, **options))
        return self.made[-1]


@pytest.fixture
def client() -> Iterator[Clients]:
    clients = Clients()
    yield clients
    for made in clients.made:
        made.close()
        made.close()


# What a status means ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_delivered(server: HttpServer, client: Clients, status: int) -> None:
    """Vendors differ in which."""
    server.script.append(Reply(status))

    assert client(server.url()).post(b"{}", JSON).status == status


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *[(status, DestinationUnavailable) for status in (408, 425, 429, 500, 502, 503, 504, 599)],
        *[(status, BatchRefused) for status in (400, 409, 413, 422)],
        *[
            (status, DestinationRefusedUs)
            for status in (300, 301, 302, 307, 308, 401, 402, 403, 404, 405, 410, 415, 451, 501, 505)
        ],
    ],
)
def test_every_other_status_has_one_meaning(
    server: HttpServer, client: Clients, status: int, error: type[Exception]
) -> None:
    """The table of destinations.md 1.3."""
    server.script.append(Reply(status, b"because", {"Location": "/elsewhere"} if status < 400 else {}))

    with pytest.raises(error):
        client(server.url()).post(b"{}", JSON)

    assert len(server.requests) == 1


def test_the_vendors_words_are_the_reason(server: HttpServer, client: Clients) -> None:
    """Short, on one line, printable."""
    server.script.append(Reply(400, b'{"error":\n "bad\x00 uuid"}' + b"x" * 5000))

    with pytest.raises(BatchRefused, match=r'HTTP 400: \{"error": "bad uuid"\}x{100}') as caught:
        client(server.url()).post(b"{}", JSON)

    assert len(caught.value.reason) < 400


def test_the_vendors_answer_is_kept_as_it_came(server: HttpServer, client: Clients) -> None:
    """Its status and the beginning of its body, line ends and all; nothing a terminal would take for a command."""
    server.script.append(Reply(422, "{\n\t\"error\": \"ungültig\x1b[2J\"}".encode() + b"x" * 5000 + b"\xff"))

    with pytest.raises(BatchRefused) as caught:
        client(server.url()).post(b"{}", JSON)

    answer = caught.value.answer
    assert answer is not None and answer.startswith('HTTP 422\n{\n\t"error": "ungültig\ufffd[2J"}xxx')
    assert 1900 < len(answer) <= 2048


@pytest.mark.parametrize("before", [*range(0, 80, 7), *range(7950, 8030)])
def test_no_part_of_a_secret_is_kept_wherever_we_stop_reading(client: Clients, before: int) -> None:
    """Also where an answer is nothing but secrets, so that what is left of it is short."""
    secret = "s3cret-key-of-forty-characters-0123456789"
    vendor = client("https://vendor.example/", secrets=[secret])

    answer = vendor.told(400, b"." * (before % 100) + secret.encode() * 400)

    assert not any(secret[at : at + 6] in answer for at in range(len(secret) - 5))
    assert "***" in answer


@pytest.mark.parametrize("fault", ["close_before_response", "close_after_processing", "truncated_body"])
def test_an_answer_that_does_not_come_whole_means_send_again(server: HttpServer, client: Clients, fault: Any) -> None:
    """It may have been processed or not; ids make that harmless."""
    server.script.append(Reply(fault=fault))

    with pytest.raises(DestinationUnavailable, match="cut the connection"):
        client(server.url()).post(b"{}", JSON)

    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", ["hang", "slow_headers"])
def test_an_answer_that_takes_too_long_means_send_again(server: HttpServer, client: Clients, fault: Any) -> None:
    """Nothing waits for ever."""
    server.script.append(Reply(fault=fault))

    with pytest.raises(DestinationUnavailable, match=r"did not answer within 0\.2 s"):
        client(server.url(), timeout_s=0.2).post(b"{}", JSON)


def test_an_endless_answer_is_left(server: HttpServer, client: Clients) -> None:
    """The status has told what matters; the rest is not read into memory."""
    server.script.append(Reply(fault="endless_body"))

    assert len(client(server.url()).post(b"{}", JSON).body) == MAX_ANSWER_BYTES


def test_nobody_listening_means_send_again(client: Clients) -> None:
    """It is restarting, perhaps."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(DestinationUnavailable, match="refuses connections"):
            client(url).post(b"{}", JSON)


def test_a_name_that_does_not_resolve_means_send_again(client: Clients) -> None:
    """DNS has its bad days."""
    vendor = client("https://no-such-host.invalid/")

    with pytest.raises(DestinationUnavailable, match="does not resolve"):
        vendor.post(b"{}", JSON)
    vendor.check_address()


# Retry-After -----------------------------------------------------------------------------------------


def test_retry_after_in_seconds_is_passed_on(server: HttpServer, client: Clients) -> None:
    """As what the vendor asked for; the cap is the delivery's."""
    server.script.append(Reply(429, headers={"Retry-After": "17"}))

    with pytest.raises(DestinationUnavailable) as caught:
        client(server.url()).post(b"{}", JSON)

    assert caught.value.retry_after_s == 17.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": " 120 "}, 120.0),
        ({"Retry-After": "99999999999999999999"}, 999999999.0),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "1.5"}, None),
        ({"Retry-After": "²"}, None),
        ({"Retry-After": email.utils.formatdate(1030, usegmt=True)}, 30.0),
        ({"Retry-After": email.utils.formatdate(900, usegmt=True)}, 0.0),
        (
            {
                "Retry-After": email.utils.formatdate(5030, usegmt=True),
                "Date": email.utils.formatdate(5000, usegmt=True),
            },
            30.0,
        ),
    ],
)
def test_retry_after_is_read_in_both_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds or a date; a date by the server's own clock where it tells it. Now is 1000."""
    assert retry_after_s(headers, 1000.0) == seconds


def test_headers_are_found_in_any_case(server: HttpServer, client: Clients) -> None:
    """HTTP/2 gateways write them small."""
    server.script.append(Reply(503, headers={"retry-after": "17"}))

    with pytest.raises(DestinationUnavailable) as caught:
        client(server.url()).post(b"{}", JSON)

    assert caught.value.retry_after_s == 17.0


def test_a_status_the_caller_judges_is_handed_back_whole(server: HttpServer, client: Clients) -> None:
    """Some name events in a 400; what the caller cannot read means what it always does."""
    body = b"x" * 100_000
    server.script.extend([Reply(400, body), Reply(400, body)])

    answer = client(server.url(), max_answer_bytes=200_000).post(b"{}", JSON, judged=frozenset({400}))
    small = client(server.url())

    assert (answer.status, answer.body) == (400, body)
    assert isinstance(small.verdict(answer), BatchRefused)
    assert len(small.post(b"{}", JSON, judged=frozenset({400})).body) == 64 * 1024


def test_a_vendor_may_have_more_statuses_that_pass(server: HttpServer, client: Clients) -> None:
    """Segment's 460; elsewhere it speaks of us."""
    server.script.extend([Reply(460), Reply(460)])

    with pytest.raises(DestinationUnavailable):
        client(server.url(), transient=frozenset({460})).post(b"{}", JSON)
    with pytest.raises(DestinationRefusedUs):
        client(server.url()).post(b"{}", JSON)


def test_a_vendor_may_say_of_more_statuses_that_the_content_is_wrong(server: HttpServer, client: Clients) -> None:
    """OTLP's 500; the vendor's words are the reason."""
    server.script.append(Reply(500, b"a bad record"))

    with pytest.raises(BatchRefused, match="HTTP 500: a bad record"):
        client(server.url(), refusals=frozenset({500})).post(b"{}", JSON)


@pytest.mark.parametrize("fault", ["close_before_response", "close_after_processing", "truncated_body", "hang"])
def test_a_request_that_may_have_been_processed_is_told_apart(
    server: HttpServer, client: Clients, fault: Any
) -> None:
    """From one that nobody can have read, because no connection was made."""
    server.script.append(Reply(fault=fault))

    with pytest.raises(AnswerLost):
        client(server.url(), timeout_s=0.3).post(b"{}", JSON)
    server.close()
    with pytest.raises(DestinationUnavailable) as caught:
        client(server.url(), timeout_s=0.3).post(b"{}", JSON)
    assert not isinstance(caught.value, AnswerLost)


def test_the_same_url_can_be_read_from(server: HttpServer, client: Clients) -> None:
    """With a query of its own, and the same meanings."""
    server.script.extend([Reply(200, b"[]"), Reply(503)])
    reader = client(server.url("/events?team=1"))

    assert reader.get({"source": "a b&c", "limit": "1"}).body == b"[]"
    with pytest.raises(DestinationUnavailable):
        reader.get({})

    first = server.requests[0]
    assert (first.method, first.path, first.raw) == ("GET", "/events", b"")
    assert first.query == {"source": ["a b&c"], "limit": ["1"]}


# What is sent ----------------------------------------------------------------------------------------


def test_a_compressed_body_is_declared_and_the_same_each_time(server: HttpServer, client: Clients) -> None:
    """And what the server sees inside is what was given."""
    vendor = client(server.url())

    vendor.post(b'{"a":1}', JSON, gzip=True)
    vendor.post(b'{"a":1}', JSON, gzip=True)

    first, second = server.requests
    assert first.headers["content-encoding"] == "gzip"
    assert gzip.decompress(first.raw) == first.body == b'{"a":1}'
    assert first.raw == second.raw


def test_one_connection_is_kept(server: HttpServer, client: Clients) -> None:
    """A handshake per batch would be most of the time."""
    vendor = client(server.url())

    for _ in range(5):
        vendor.post(b"{}", JSON)

    assert server.connections == 1


def test_the_environment_adds_nothing(
    server: HttpServer, client: Clients, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A proxy or a .netrc of the machine would see, or replace, what is sent."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login them password theirs\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    server.script.append(Reply(200, headers={"Set-Cookie": "a=b"}))
    vendor = client(server.url())

    vendor.post(b"{}", JSON)
    vendor.post(b"{}", JSON)

    assert not {"authorization", "cookie", "proxy-authorization"} & {
        name for request in server.requests for name in request.headers
    }


def test_credentials_in_the_url_become_a_header(server: HttpServer, client: Clients) -> None:
    """And are nowhere else."""
    url = server.url("/in?q=1").replace("http://", "http://user:p%40ss@")

    client(url).post(b"{}", JSON)

    (request,) = server.requests
    assert request.headers["authorization"] == "Basic dXNlcjpwQHNz"
    assert (request.path, request.query) == ("/in", {"q": ["1"]})
    assert request.headers["host"] == f"127.0.0.1:{server.port}"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(400, b"no: s3cret-key hunter2 t0ken, cannot POST /secret-p4th"),
        Reply(401, b"no: s3cret-key hunter2 t0ken"),
        Reply(500, b"s3cret-key"),
        Reply(302, headers={"Location": "/?t0ken"}),
        Reply(fault="close_before_response"),
        Reply(fault="hang"),
    ],
    ids=lambda reply: str(reply.fault or reply.status),
)
def test_no_error_shows_a_secret(server: HttpServer, client: Clients, reply: Reply) -> None:
    """Not the key, not the URL's path, query or password; whoever raises it, and however it is shown."""
    import traceback

    server.script.append(reply)
    url = server.url("/secret-p4th?token=t0ken").replace("http://", "http://me:hunter2@")
    vendor = client(url, timeout_s=0.3, secrets=["s3cret-key"], headers={"X-Key": "s3cret-key"})

    with pytest.raises(Exception) as caught:
        vendor.post(b"{}", JSON)

    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(vendor)
    shown += str(getattr(caught.value, "answer", ""))
    lines = [line for line in shown.splitlines() if not line.lstrip().startswith(("File", "vendor", "server"))]
    assert not [s for s in ("s3cret-key", "hunter2", "t0ken", "p4th") if s in "\n".join(lines)]


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://x/", "https://", "https:///x", "https://x:99999/", "https://a b/", "https://[::1/", "http://x\n/"],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    """Before anything is connected."""
    with pytest.raises(ValueError, match="not a URL"):
        check_url(url)


# Where it connects -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "100.100.100.200",
        "0.0.0.0",
        "0.1.2.3",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "198.18.0.1",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2002:a00:1::",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
    ],
)
def test_an_address_inside_is_refused(address: str) -> None:
    """Whoever may write the configuration, or a DNS record, must not reach what only we can reach."""
    with pytest.raises(AddressRefused):
        AddressGuard().check(ipaddress.ip_address(address), "https")


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_an_address_outside_is_allowed(address: str) -> None:
    """Over TLS; in the clear only where that was said to be meant."""
    AddressGuard().check(ipaddress.ip_address(address), "https")
    AddressGuard(allow_http=True).check(ipaddress.ip_address(address), "http")
    with pytest.raises(AddressRefused, match="allow_http: true"):
        AddressGuard(allow_private=True).check(ipaddress.ip_address(address), "http")


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "168.63.129.16", "0.0.0.0", "ff02::1", "fe80::1"],
)
def test_metadata_and_its_like_are_refused_even_where_private_is_allowed(address: str) -> None:
    """There is no receiver of events there, only credentials."""
    with pytest.raises(AddressRefused):
        AddressGuard(allow_private=True, allow_http=True).check(ipaddress.ip_address(address), "https")


def test_a_private_network_is_allowed_where_it_was_said_to_be_meant() -> None:
    """And this machine, without TLS too."""
    guard = AddressGuard(allow_private=True)

    guard.check(ipaddress.ip_address("10.1.2.3"), "https")
    guard.check(ipaddress.ip_address("127.0.0.1"), "http")


def test_a_refused_address_says_what_to_set(server: HttpServer, client: Clients) -> None:
    """At start-up and at the request, and nothing is sent."""
    vendor = client(server.url(), guard=AddressGuard(allow_http=True))

    with pytest.raises(DestinationRefusedUs, match="allow_private: true"):
        vendor.check_address()
    with pytest.raises(DestinationRefusedUs, match="allow_private: true"):
        vendor.post(b"{}", JSON)
    assert server.connections == 0


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1"])
def test_odd_spellings_of_an_address_gain_nothing(server: HttpServer, client: Clients, host: str) -> None:
    """The resolver reads them as the system does, and what it read is what is checked."""
    with pytest.raises((DestinationRefusedUs, DestinationUnavailable)):
        client(server.url(host=host), guard=AddressGuard(allow_http=True)).post(b"{}", JSON)
    assert server.connections == 0


class Resolver:
    """Answers for one name, each time differently."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, *answers: list[str]) -> None:
        self.asked = 0
        real = socket.getaddrinfo

        def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            if host != name:
                return real(host, port, *args, **kwargs)
            answer = answers[min(self.asked, len(answers) - 1)]
            self.asked += 1
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_a_name_that_changes_its_address_after_the_check_gains_nothing(
    server: HttpServer, client: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public when asked first, inside when asked again. A connection asks once and uses that answer."""
    connected: list[Any] = []

    def connect(self: socket.socket, place: Any) -> None:
        connected.append(place)
        raise ConnectionRefusedError

    resolver = Resolver(monkeypatch, "rebind.example", ["93.184.215.14"], ["127.0.0.1"])
    vendor = client(server.url(host="rebind.example"), guard=AddressGuard(allow_http=True))
    monkeypatch.setattr(socket.socket, "connect", connect)

    with pytest.raises(DestinationUnavailable):
        vendor.post(b"{}", JSON)

    assert connected == [("93.184.215.14", server.port)]
    assert resolver.asked == 1
    with pytest.raises(DestinationRefusedUs):
        vendor.post(b"{}", JSON)
    assert len(connected) == 1


def test_of_a_name_with_addresses_on_both_sides_only_the_outside_is_used(
    client: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even as a second choice."""
    connected: list[Any] = []

    def connect(self: socket.socket, place: Any) -> None:
        connected.append(place)
        raise ConnectionRefusedError

    Resolver(monkeypatch, "both.example", ["10.0.0.1", "93.184.215.14", "127.0.0.1"])
    monkeypatch.setattr(socket.socket, "connect", connect)

    with pytest.raises(DestinationUnavailable):
        client("https://both.example/", guard=AddressGuard()).post(b"{}", JSON)

    assert [place[0] for place in connected] == ["93.184.215.14"]


def test_the_host_header_is_the_urls_name_and_not_the_address(
    server: HttpServer, client: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver may be one of many behind the address."""
    Resolver(monkeypatch, "hooks.example", ["127.0.0.1"])

    client(server.url(host="hooks.example")).post(b"{}", JSON)

    assert server.requests[0].headers["host"] == f"hooks.example:{server.port}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for hooks.example, with its key."""
    directory = tmp_path_factory.mktemp("tls")
    path = directory / "hooks.pem"
    key = directory / "key.pem"
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=hooks.example"),
            *("-addext", "subjectAltName=DNS:hooks.example", "-keyout", str(key), "-out", str(path)),
        ],
        capture_output=True,
        check=False,
    )
    if made.returncode != 0:
        pytest.skip("openssl cannot make a certificate here")
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


def tls_server(certificate: Path) -> tuple[HttpServer, list[str | None]]:
    import ssl

    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda sock, name, context: names.append(name)
    return HttpServer(tls=context), names


def test_tls_asks_for_and_checks_the_urls_name_though_it_connects_to_an_address(
    certificate: Path, client: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Server name and certificate are the name's."""
    Resolver(monkeypatch, "hooks.example", ["127.0.0.1"])
    server, names = tls_server(certificate)
    with server:
        client(server.url(host="hooks.example"), ca_file=str(certificate)).post(b"{}", JSON)

    assert names == ["hooks.example"]
    assert len(server.requests) == 1


def test_a_certificate_for_another_name_stops_us(
    certificate: Path, client: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trying again would not mend it, and whoever answers is not whom we mean."""
    Resolver(monkeypatch, "other.example", ["127.0.0.1"])
    server, _ = tls_server(certificate)
    with server, pytest.raises(DestinationRefusedUs, match="certificate"):
        client(server.url(host="other.example"), ca_file=str(certificate)).post(b"{}", JSON)

    assert server.requests == []


def test_a_certificate_nobody_signed_stops_us(
    certificate: Path, client: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the remedy is named."""
    Resolver(monkeypatch, "hooks.example", ["127.0.0.1"])
    server, _ = tls_server(certificate)
    with server, pytest.raises(DestinationRefusedUs, match="ca_file"):
        client(server.url(host="hooks.example")).post(b"{}", JSON)


def test_an_answer_in_drops_is_left_when_its_time_is_over(client: Clients) -> None:
    """A timeout per read alone would let a byte a second go on for ever."""
    listener = socket.create_server(("127.0.0.1", 0))
    import threading

    done = threading.Event()

    def drip() -> None:
        sock, _ = listener.accept()
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not done.wait(0.02):
            try:
                sock.sendall(b"x")
            except OSError:
                break
        sock.close()

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    begun = time.monotonic()
    try:
        with pytest.raises(DestinationUnavailable, match="did not answer"):
            client(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout_s=0.3).post(b"{}", JSON)
    finally:
        done.set()
        thread.join(10)
        listener.close()
    assert time.monotonic() - begun < 5


def test_other_things_may_be_asked_of_the_same_host(server: HttpServer, client: Clients) -> None:
    """Any method, path and query, with or without a body; the rules are the same."""
    vendor = client(server.url("/events?key=1"))

    assert vendor.request("GET", "/jobs/7?location=EU", None, {}).status == 200
    assert vendor.request("PUT", "/jobs/7", b"{}", JSON).status == 200
    server.script.append(Reply(503))
    with pytest.raises(DestinationUnavailable):
        vendor.request("GET", "/jobs/7", None, {})

    first, second, _ = server.requests
    assert (first.method, first.path, first.query, first.body) == ("GET", "/jobs/7", {"location": ["EU"]}, b"")
    assert (second.method, second.path, second.query, second.body) == ("PUT", "/jobs/7", {}, b"{}")


def test_a_requests_own_credential_is_hidden_too(server: HttpServer, client: Clients) -> None:
    """A token that was fetched is as secret as one that was configured."""
    server.script.append(Reply(401, b"no such token: ya29.secret"))

    with pytest.raises(DestinationRefusedUs, match=r"no such token: \*\*\*"):
        client(server.url()).post(b"{}", {**JSON, "Authorization": "Bearer ya29.secret"})


def test_an_answer_that_repeats_the_event_is_not_repeated(server: HttpServer, client: Clients) -> None:
    """What a refusal says is logged; a receiver in debug mode shows what it was sent."""
    server.script.append(Reply(404, b'no route for {"properties": {"email": "ada@example.com"}}'))

    with pytest.raises(DestinationRefusedUs) as refused:
        client(server.url()).post(b'{"properties":{"email": "ada@example.com"}}', JSON)

    assert "answered 404: it repeats what was sent" in str(refused.value)
    assert "ada@" not in str(refused.value)
