"""
Access tokens for Google's APIs: of a service account's key, of the machine we run on, or one that was given.

See: https://developers.google.com/identity/protocols/oauth2/service-account
See: https://cloud.google.com/docs/authentication/application-default-credentials
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlencode

import orjson
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from wal_tracker.destinations.http import Address, AddressGuard, Answer, HttpClient, HttpOptions, check_url
from wal_tracker.errors import DestinationRefusedUs, DestinationUnavailable
from wal_tracker.secret import Secret

TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 - where tokens are had
"""Also whom an assertion is for, whatever URL it is posted to; Google's own libraries do the same."""

_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_ASSERTION_LIFE_S = 3600
# As Google's own libraries, roughly: a request that is under way when the token ends is refused.
_REFRESH_BEFORE_S = 300.0
# RFC 6749 has no code for "come back later" in a 400; Google does.
_PASSING = frozenset({"internal_failure", "server_error", "temporarily_unavailable"})
_METADATA_HOST = "metadata.google.internal"
_METADATA_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
_METADATA_ADDRESSES = frozenset(map(ipaddress.ip_address, ("169.254.169.254", "fd20:ce::254")))


class Tokens(Protocol):
    """Gives the token to put behind ``Authorization: Bearer``."""

    def token(self) -> str:
        """
        One that is good for minutes to come.

        Raises:
            DestinationUnavailable: None is to be had now.
            DestinationRefusedUs: The credentials are wrong.
        """
        ...

    def forget(self) -> None:
        """The API has refused the last one; do not give it again."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceAccountKey:
    """What of a service account's key file is needed."""

    email: str
    key_id: str
    token_uri: str
    private_key: RSAPrivateKey = field(repr=False)

    def assertion(self, scope: str, now: int) -> str:
        """
        A JWT that says who we are, signed with RS256 (RFC 7515, RFC 7523).

        Args:
            scope: What the token will be for.
            now: Seconds since the Unix epoch.
        """
        header = {"typ": "JWT", "alg": "RS256", "kid": self.key_id}
        claims = {
            "iss": self.email,
            "scope": scope,
            "aud": TOKEN_URI,
            "iat": now,
            "exp": now + _ASSERTION_LIFE_S,
        }
        signed = b".".join(_base64url(orjson.dumps(part)) for part in (header, claims))
        return (signed + b"." + _base64url(self.private_key.sign(signed, PKCS1v15(), SHA256()))).decode()


def read_key(text: str) -> ServiceAccountKey:
    """
    A service account's key, as the JSON Google gives.

    Raises:
        ValueError: It is not one; the text does not repeat it.
    """
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise ValueError("is not JSON; expected a service account's key as Google gives it") from None
    if not isinstance(document, dict) or document.get("type") != "service_account":
        raise ValueError('is not the key of a service account ("type": "service_account")')
    missing = [name for name in ("client_email", "private_key") if not isinstance(document.get(name), str)]
    if missing:
        raise ValueError(f"has no {' and no '.join(missing)}")
    try:
        key = load_pem_private_key(document["private_key"].encode(), password=None)
    except (ValueError, TypeError):
        raise ValueError("has a private_key that is not one in PEM; were its line ends (\\n) kept?") from None
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("has a private_key that is not RSA's")
    token_uri = document.get("token_uri") or TOKEN_URI
    check_url(token_uri)
    return ServiceAccountKey(document["client_email"], str(document.get("private_key_id", "")), token_uri, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoogleOptions(HttpOptions):
    """Options of whoever speaks to one of Google's APIs."""

    credentials_json: Secret | None = None
    """A service account's key: the JSON itself, or the path of its file."""
    default_credentials: bool = False
    """
    In its place the file that ``GOOGLE_APPLICATION_CREDENTIALS`` names, else the service account of the machine (GCE,
    GKE, Cloud Run).
    """
    access_token: Secret | None = None
    """In its place a token that somebody else fetched; nobody refreshes it."""
    token_uri: str | None = None
    """Where tokens are had, in place of what the key says."""

    def __post_init__(self) -> None:
        HttpOptions.__post_init__(self)
        ways = (self.credentials_json is not None, self.access_token is not None, self.default_credentials)
        if sum(ways) != 1:
            raise ValueError(
                "needs one of credentials_json (credentialsJson), access_token, and default_credentials: true for the "
                "key GOOGLE_APPLICATION_CREDENTIALS names or the machine's own account"
            )
        for name in ("credentials_json", "access_token"):
            given = getattr(self, name)
            if given is not None and not given.reveal().strip():
                raise ValueError(f"{name} must not be empty; is its environment variable set?")
        if self.credentials_json is not None and _is_json(self.credentials_json.reveal()):
            try:
                read_key(self.credentials_json.reveal())
            except ValueError as error:
                raise ValueError(f"credentials_json {error}") from error
        if self.token_uri is not None:
            try:
                check_url(self.token_uri)
            except ValueError as error:
                raise ValueError(f"token_uri {error}") from error

    def tokens(self, name: str, scope: str, clock: Callable[[], float] = time.time) -> Tokens:
        """
        Where this configuration has its tokens from; reads and asks nothing yet.

        Args:
            name: The destination's, for errors.
            scope: What the tokens are for.
            clock: Seconds since the Unix epoch; a test may give its own.
        """
        if self.access_token is not None:
            return _Given(self.access_token)
        if self.credentials_json is not None:
            return _OfServiceAccount(name, self, self.credentials_json, scope, clock)
        named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
        if named:
            return _OfServiceAccount(name, self, Secret(named), scope, clock)
        return _OfMachine(name, self)


class _Given:
    """A token from the configuration."""

    def __init__(self, token: Secret) -> None:
        self._token = token

    def token(self) -> str:
        return self._token.reveal()

    def forget(self) -> None:
        """There is no other one; the same is refused again, and that stops the delivery."""

    def close(self) -> None:
        """Nothing is open."""


class _Fetched(ABC):
    """A token that is kept until shortly before it ends."""

    def __init__(self, name: str, options: GoogleOptions) -> None:
        self._name, self._options = name, options
        self._token = Secret("")
        self._good_until = 0.0

    def token(self) -> str:
        if not self._token or time.monotonic() >= self._good_until:
            asked = time.monotonic()
            token, life_s = self._read(self._ask())
            self._token = Secret(token)
            self._good_until = asked + life_s - min(_REFRESH_BEFORE_S, life_s / 2)
        return self._token.reveal()

    def forget(self) -> None:
        self._token = Secret("")

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection."""

    @abstractmethod
    def _ask(self) -> Answer:
        """The answer that holds a token."""

    def _read(self, answer: Answer) -> tuple[str, float]:
        """A token, and for how many seconds it is good."""
        try:
            document = orjson.loads(answer.body)
            token, life_s = document["access_token"], float(document.get("expires_in", 0))
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
            token, life_s = "", 0.0
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise DestinationUnavailable(self._name, "the token endpoint answered without a token")
        return token, life_s


class _OfServiceAccount(_Fetched):
    """For a signed assertion. A key that is a file is read again for each token, so it may be changed in place."""

    def __init__(
        self, name: str, options: GoogleOptions, key: Secret, scope: str, clock: Callable[[], float]
    ) -> None:
        super().__init__(name, options)
        self._key, self._scope, self._clock = key, scope, clock
        self._http: HttpClient | None = None

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    def _ask(self) -> Answer:
        key = self._service_account()
        self.close()
        self._http = http = self._options.client(
            self._name, self._options.token_uri or key.token_uri, confidential=True
        )
        assertion = key.assertion(self._scope, int(self._clock()))
        form = urlencode({"grant_type": _GRANT, "assertion": assertion}).encode()
        # None of these is about an event.
        judged = frozenset({400, 401, 403, 404, 409, 413, 422})
        answer = http.post(form, {"Content-Type": "application/x-www-form-urlencoded"}, judged=judged)
        if answer.status not in judged:
            return answer
        code, words = _oauth_error(answer.body.replace(assertion.encode(), b"***"))
        said = f"{http.origin} answered {answer.status}" + (f" ({code})" if code else "")
        if code in _PASSING:
            raise DestinationUnavailable(self._name, said)
        raise DestinationRefusedUs(
            self._name,
            f"{said}{': ' + words if words else ''}; check the service account's key (credentials_json), whether it "
            "was deleted, and this machine's clock",
        )

    def _service_account(self) -> ServiceAccountKey:
        text = self._key.reveal()
        where = "credentials_json"
        if not _is_json(text):
            where = f"the file {text.strip()!r} (credentials_json or GOOGLE_APPLICATION_CREDENTIALS)"
            try:
                text = Path(text.strip()).expanduser().read_text("utf-8")
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
                raise DestinationRefusedUs(self._name, f"{where} cannot be read: {why}") from error
        try:
            return read_key(text)
        except ValueError as error:
            raise DestinationRefusedUs(self._name, f"{where} {error}") from error


class _OfMachine(_Fetched):
    """
    Of the metadata server of a machine at Google's, which knows its service account.

    See: https://cloud.google.com/compute/docs/access/authenticate-workloads#applications
    """

    def __init__(self, name: str, options: GoogleOptions) -> None:
        super().__init__(name, options)
        # As Google's own libraries, for emulators.
        host = os.environ.get("GCE_METADATA_HOST") or _METADATA_HOST
        self._http = HttpClient(
            name,
            f"http://{host}{_METADATA_PATH}",
            timeout_s=options.request_timeout_s,
            guard=_MetadataGuard(allow_private=options.allow_private, allow_http=options.allow_http),
            confidential=True,
        )

    def close(self) -> None:
        self._http.close()

    def _ask(self) -> Answer:
        remedy = "it is asked because there is neither credentials_json nor GOOGLE_APPLICATION_CREDENTIALS"
        judged = frozenset({400, 401, 403, 404, 409, 413, 422})
        try:
            answer = self._http.request("GET", None, None, {"Metadata-Flavor": "Google"}, judged=judged)
        except DestinationUnavailable as error:
            raise DestinationUnavailable(
                self._name, f"{error.message}; {remedy}", retry_after_s=error.retry_after_s
            ) from error
        if answer.status in judged:
            raise DestinationRefusedUs(
                self._name,
                f"{self._http.origin} answered {answer.status}: this machine has no service account; {remedy}",
            )
        return answer


class _MetadataGuard(AddressGuard):
    """Also lets through to the metadata server, where a token is asked for and no event is ever sent."""

    def check(self, address: Address, scheme: str) -> None:
        if address not in _METADATA_ADDRESSES:
            AddressGuard.check(self, address, scheme)


def _is_json(text: str) -> bool:
    """Whether credentials are a key, or else a path."""
    return text.lstrip().startswith("{")


def _oauth_error(body: bytes) -> tuple[str, str]:
    """Code and words of an OAuth error (RFC 6749, 5.2); empty where there are none."""
    try:
        document = orjson.loads(body)
        code, words = document.get("error"), document.get("error_description") or ""
    except (orjson.JSONDecodeError, AttributeError):
        return "", ""
    if not isinstance(code, str) or not re.fullmatch(r"\w{1,40}", code, re.ASCII):
        return "", ""
    return code, "".join(c for c in str(words)[:200] if c.isprintable())


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
