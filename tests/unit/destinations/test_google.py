"""Tokens for Google's APIs, against an endpoint that checks what it is given."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from tests.support.fake_bigquery import METADATA, FakeBigQuery
from tests.support.fake_vendor import json_reply
from tests.support.http_server import Reply
from wal_tracker.destinations import registry
from wal_tracker.destinations.http import AddressRefused
from wal_tracker.errors import DestinationRefusedUs, DestinationUnavailable
from wal_tracker_destinations import google
from wal_tracker_destinations.bigquery_api import SCOPE
from wal_tracker_destinations.google import GoogleOptions, Tokens, read_key


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have some."""
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GCE_METADATA_HOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[FakeBigQuery]:
    with FakeBigQuery() as made:
        yield made


def tokens(clock: Any = time.time, **options: Any) -> Tokens:
    given = {"allow_private": True, "request_timeout_s": 2, **options}
    if not {"credentials_json", "access_token"} & options.keys():
        given["default_credentials"] = True
    config: GoogleOptions = registry.read_config(GoogleOptions, given, "d", defaults={})
    return config.tokens("vendor", SCOPE, clock)


def key(server: FakeBigQuery, **changed: Any) -> str:
    return orjson.dumps({**server.credentials, **changed}).decode()


def test_a_service_accounts_key_gives_tokens(server: FakeBigQuery) -> None:
    """For an assertion whose signature, audience, scope and life are right; kept while it is good."""
    given = tokens(credentials_json=key(server))

    assert [given.token(), given.token()] == ["ya29.token-1"] * 2
    given.forget()
    assert given.token() == "ya29.token-2"
    given.close()


def test_a_token_is_refreshed_minutes_before_it_ends(server: FakeBigQuery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request under way when it ends would be refused."""
    now = [1000.0]
    monkeypatch.setattr(google.time, "monotonic", lambda: now[0])
    server.token_life_s = 3600
    given = tokens(credentials_json=key(server))
    given.token()

    now[0] += 3299
    assert given.token() == "ya29.token-1"
    now[0] += 2
    assert given.token() == "ya29.token-2"


def test_a_short_token_is_not_fetched_for_each_request(server: FakeBigQuery) -> None:
    """The machine's own is given with what is left of it."""
    server.token_life_s = 200
    given = tokens(credentials_json=key(server))

    assert [given.token(), given.token()] == ["ya29.token-1"] * 2


def test_the_key_may_be_in_a_file(server: FakeBigQuery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named by us or by the environment; a new key in its place is used for the next token."""
    file = tmp_path / "key.json"
    file.write_text(key(server))
    named = tokens(credentials_json=str(file))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))

    assert tokens().token() == "ya29.token-1"
    assert named.token() == "ya29.token-2"
    server.key = "a-new-key"
    named.forget()
    with pytest.raises(DestinationRefusedUs):
        named.token()
    file.write_text(key(server))
    assert named.token() == "ya29.token-3"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\xff", "cannot be read: it is not UTF-8"),
        (b"s3cret", "is not JSON"),
        (b"[]", "is not the key of a service account"),
    ],
)
def test_a_file_without_a_key_is_told(tmp_path: Path, content: bytes | None, message: str) -> None:
    """By its path, and nothing of what is in it."""
    file = tmp_path / "key.json"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(DestinationRefusedUs, match=message) as caught:
        tokens(credentials_json=str(file)).token()

    assert str(file) in str(caught.value) and "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"client_email": None}, "has no client_email"),
        ({"private_key": "s3cret"}, "not one in PEM"),
        ({"token_uri": "s3cret"}, "is not a URL"),
    ],
)
def test_a_key_that_is_none_is_refused_by_what_it_lacks(
    server: FakeBigQuery, changed: dict[str, Any], message: str
) -> None:
    """Without a word of it."""
    with pytest.raises(ValueError, match=message) as caught:
        read_key(key(server, **changed))

    assert "s3cret" not in str(caught.value)


def test_a_key_shows_no_secret(server: FakeBigQuery) -> None:
    """Neither it nor who holds it."""
    given = tokens(credentials_json=key(server))
    given.token()

    shown = repr(read_key(key(server))) + repr(vars(given))
    assert "PRIVATE" not in shown and "ya29" not in shown


def test_a_deleted_key_stops_with_the_endpoints_words(server: FakeBigQuery) -> None:
    """invalid_grant is about us; so is a clock that is off."""
    given = tokens(credentials_json=key(server))
    late = tokens(clock=lambda: time.time() - 7200, credentials_json=key(server))
    server.key = "another"
    with pytest.raises(DestinationRefusedUs, match=r"400 \(invalid_grant\): Invalid JWT Signature.*check the service"):
        given.token()

    server.key = "k3y-of-the-project"
    with pytest.raises(DestinationRefusedUs, match=r"short-lived token.*this machine's clock"):
        late.token()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(500), DestinationUnavailable),
        (Reply(429), DestinationUnavailable),
        (json_reply(400, error="temporarily_unavailable"), DestinationUnavailable),
        (json_reply(401, error="internal_failure"), DestinationUnavailable),
        (Reply(200, b"<html>"), DestinationUnavailable),
        (Reply(200, b"[]"), DestinationUnavailable),
        (json_reply(200, access_token="a\nb", expires_in=60), DestinationUnavailable),
        (Reply(fault="close_before_response"), DestinationUnavailable),
        (Reply(fault="hang"), DestinationUnavailable),
        (json_reply(401, error="invalid_client"), DestinationRefusedUs),
        (Reply(400, b"<html>"), DestinationRefusedUs),
        (Reply(413), DestinationRefusedUs),
        (Reply(302), DestinationRefusedUs),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_an_endpoint_in_trouble_is_waited_for_and_one_that_refuses_is_not(
    server: FakeBigQuery, reply: Reply, expected: type[Exception]
) -> None:
    """No answer about a token speaks of an event."""
    server.trouble["token"].append(reply)

    with pytest.raises(expected):
        tokens(credentials_json=key(server), request_timeout_s=0.3).token()


def test_an_endpoint_that_repeats_the_assertion_does_not_make_us_tell_it(server: FakeBigQuery) -> None:
    """It is good for an hour."""
    now = int(time.time())
    assertion = read_key(key(server)).assertion(SCOPE, now)
    server.trouble["token"].append(json_reply(400, error="invalid_grant", error_description=f"bad {assertion}"))

    with pytest.raises(DestinationRefusedUs, match=r"\(invalid_grant\): bad \*\*\*;"):
        tokens(clock=lambda: now, credentials_json=key(server)).token()


def test_a_machine_at_google_needs_no_key(server: FakeBigQuery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its metadata server is asked, with the header that shows we mean it."""
    monkeypatch.setenv("GCE_METADATA_HOST", urlsplit(server.url()).netloc)

    assert tokens().token() == "ya29.token-1"

    (request,) = server.aside_requests
    assert (request.method, request.path, request.headers["metadata-flavor"]) == ("GET", METADATA, "Google")


@pytest.mark.parametrize(
    ("reply", "expected"), [(Reply(404), DestinationRefusedUs), (Reply(503), DestinationUnavailable)]
)
def test_why_the_metadata_server_is_asked_is_told(
    server: FakeBigQuery, monkeypatch: pytest.MonkeyPatch, reply: Reply, expected: type[Exception]
) -> None:
    """Who forgot the key reads of a server they have never heard of."""
    monkeypatch.setenv("GCE_METADATA_HOST", urlsplit(server.url()).netloc)
    server.trouble["token"].append(reply)

    with pytest.raises(expected, match="neither credentials_json nor GOOGLE_APPLICATION_CREDENTIALS"):
        tokens().token()


def test_only_a_token_is_asked_of_the_metadata_server() -> None:
    """The guard of events lets nothing there; that of tokens lets it there, in the clear, and nowhere else."""
    guard = google._MetadataGuard()
    guard.check(google.ipaddress.ip_address("169.254.169.254"), "http")

    for address in ("169.254.169.253", "10.0.0.1", "100.100.100.200"):
        with pytest.raises(AddressRefused):
            guard.check(google.ipaddress.ip_address(address), "http")
