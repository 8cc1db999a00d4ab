"""
Amazon Web Services and what speaks like them: signing and protocol are botocore's, the outcomes are ours.

botocore's own retries are off, because a delivery retries; times are bounded; no proxy is taken from the environment.
The endpoint is the operator's word: unlike a webhook's URL it may be private (a VPC endpoint, MinIO), and plain http
too, over which events travel in the clear.

See: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html#ErrorCodeList
See: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html
"""

from __future__ import annotations

import gzip
import io
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal
from urllib.parse import unquote_plus

from botocore.config import Config as BotoConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
    NoRegionError,
    ReadTimeoutError,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.loaders import Loader
from botocore.parsers import ResponseParserError
from botocore.session import Session

from wal_tracker.destinations.base import BatchRefused
from wal_tracker.destinations.http import (
    CONNECT_TIMEOUT_S,
    REPEATED,
    TRANSIENT,
    Answer,
    check_url,
    is_observed,
    repeats,
    retry_after_s,
    show,
)
from wal_tracker.errors import DestinationRefusedUs, DestinationUnavailable
from wal_tracker.secret import Secret

Fault = Literal["passing", "events", "us"]
"""Whose an error is: the moment's, what was sent, or our configuration."""

# A service's description is some megabytes of JSON: read once, for every client there is.
_DESCRIPTIONS = Loader()

# What passes, though its status (400, 403, 409) would say otherwise; without a prefix such as "KMS.".
_PASSING = frozenset(
    {
        "BandwidthLimitExceeded",
        "ConditionalRequestConflict",
        "InternalError",
        "InternalFailure",
        "KMSThrottlingException",
        "KmsThrottled",
        "LimitExceededException",
        "OperationAborted",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeTooSkewed",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttled",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)
# What speaks of what was sent; everything else below 500 would be said of the next event too.
_ABOUT_THE_EVENTS = frozenset({"BatchRequestTooLong", "EntityTooLarge", "InvalidMessageContents", "KeyTooLongError"})
# Said of a single message in an answer that takes others, and yet no message's fault.
_ABOUT_US = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthorizationError",
        "AuthorizationErrorException",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "OptInRequired",
        "SignatureDoesNotMatch",
    }
)
_NEVER_MENDS = frozenset({501, 505})
_REASON_CHARACTERS = 300
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-signing-elements.html
_SIGNATURE = re.compile(r"Credential=([^/,]+).*Signature=(\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsOptions:
    """The options every destination at AWS has; the base of its `Config`."""

    region: str | None = None
    """Such as ``eu-west-1``; None: taken from the address where it holds one, else from the environment."""
    access_key: Secret | None = None
    """None: the usual chain (environment, profile, container, instance)."""
    secret_key: Secret | None = None
    """Belongs to `access_key`."""
    session_token: Secret | None = None
    """Of temporary credentials."""
    endpoint: str | None = None
    """URL of something that speaks the same protocol, or of a VPC endpoint; it may be private, and plain http."""
    ca_file: str | None = None
    """Certificates to trust in place of the usual ones."""
    request_timeout_s: float = 15.0
    """For the answer."""

    def __post_init__(self) -> None:
        if self.request_timeout_s <= 0:
            raise ValueError("request_timeout_s must be positive")
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access_key (accessKey) and secret_key (secretKey) go together: give both or neither")
        if self.session_token is not None and self.access_key is None:
            raise ValueError("session_token (sessionToken) needs access_key and secret_key")
        for field in ("access_key", "secret_key", "session_token"):
            value: Secret | None = getattr(self, field)
            if value is not None and not value.reveal().strip():
                raise ValueError(f"{field} must not be empty; is its environment variable set?")
        if self.region is not None and not self.region.strip():
            raise ValueError("region must not be empty; is its environment variable set?")
        if self.endpoint is not None:
            try:
                check_url(self.endpoint)
            except ValueError as error:
                raise ValueError(f"endpoint {error}") from error


class AwsClient:
    """
    One service, as one destination uses it. One thread.

    No text it makes holds a secret or what was sent; of the service's words it repeats those that end a delivery.
    """

    def __init__(
        self,
        name: str,
        service: str,
        options: AwsOptions,
        *,
        region: str | None = None,
        endpoint: str | None = None,
        s3: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            name: The destination's, for errors.
            service: As botocore names it.
            options: See there.
            region: Used where the options name none.
            endpoint: Likewise; None: AWS's own.
            s3: botocore's options for S3.
        """
        self._name, self._service, self._options = name, service, options
        self._region, self._endpoint = options.region or region, options.endpoint or endpoint
        self._s3 = dict(s3 or {})
        self._client: Any = None
        self._origin = service
        self._answered: Mapping[str, Any] = {}
        """Status and headers of the last answer, which may be one that botocore cannot read."""
        self._headers: Mapping[str, str] = {}
        """Of the last request, signed."""
        self._sent: Any = None
        """The last request."""
        self._is_shown = False

    def open(self) -> None:
        """
        Find credentials and read the service's description; nothing is asked of the service.

        Raises:
            DestinationRefusedUs: There are no credentials, or no region.
        """
        options = self._options
        try:
            session = Session()
            session.register_component("data_loader", _DESCRIPTIONS)
            session.user_agent_name, session.user_agent_version = "wal_tracker", version("wal_tracker")
            if options.access_key is not None and options.secret_key is not None:
                token = options.session_token
                session.set_credentials(
                    options.access_key.reveal(), options.secret_key.reveal(), token.reveal() if token else None
                )
            elif session.get_credentials() is None:
                raise NoCredentialsError
            self._client = session.create_client(
                self._service,
                region_name=self._region,
                endpoint_url=self._endpoint,
                verify=options.ca_file,
                config=BotoConfig(
                    connect_timeout=min(options.request_timeout_s, CONNECT_TIMEOUT_S),
                    read_timeout=options.request_timeout_s,
                    retries={"total_max_attempts": 1, "mode": "standard"},
                    proxies={},
                    # Payloads are signed; checksums in trailers are more than what speaks like S3 understands.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    s3=self._s3,
                ),
            )
            self._client.meta.events.register("before-send", self._keep_request)
            self._client.meta.events.register("before-parse", self._keep_answer)
            self._origin = check_url(self._client.meta.endpoint_url)
        except (BotoCoreError, ValueError) as error:
            raise self._failure(error) from None

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """
        Make one request, once.

        Raises:
            DestinationUnavailable: Throttled, 5xx, no or half an answer: send it again.
            BatchRefused: Too large, or with contents the service does not take; nothing was stored.
            DestinationRefusedUs: Credentials, permissions, bucket, queue, topic, region or address are wrong.
        """
        try:
            return dict(getattr(self._client, operation)(**parameters))
        except ClientError as error:
            raise self._verdict(error.response) from None
        except ResponseParserError as error:
            # A proxy's page, or an answer without a body.
            status = int(self._answered.get("HTTPStatusCode", 0))
            unread = {"ResponseMetadata": self._answered}
            raise (self._verdict(unread) if status >= 300 else self._failure(error)) from None
        except BotoCoreError as error:
            failure = self._failure(error)
            self._show(None, str(failure))
            # Without its cause: botocore's texts may hold what was sent.
            raise failure from None

    def close(self) -> None:
        """Let go of connections; calling it twice is harmless."""
        if self._client is not None:
            self._client.close()
            self._client = self._sent = None

    def refused(self, code: str, words: str) -> DestinationRefusedUs:
        """What to raise when the service says that it is us; it is logged."""
        said = f": {REPEATED}" if repeats(words, self._sent_text()) else self.reason(words)
        return DestinationRefusedUs(
            self._name,
            f"{self._origin} answered {code}{said}; check the credentials, what they permit, the region, "
            "and what the configuration names there",
        )

    def reason(self, words: str) -> str:
        """The service's words after a colon: short, printable, without our secrets."""
        for secret in self._secrets:
            words = words.replace(secret, "***")
        text = " ".join("".join(c if c.isprintable() else " " for c in words).split())[:_REASON_CHARACTERS]
        return f": {text}" if text else ""

    def _sent_text(self) -> str:
        """The body of the last request, and its values without what encodes them; nothing of an object of S3."""
        body = _body(self._sent) if self._sent is not None and self._service != "s3" else b""
        text = body.decode("utf-8", "replace")
        if text.startswith("Action="):
            return f"{text}\n{unquote_plus(text)}"
        return f"{text}\n{json.dumps(json.loads(text), ensure_ascii=False)}" if text.startswith("{") else text

    def _keep_request(self, request: Any, **_: Any) -> None:
        self._headers = {name: _text(value) for name, value in request.headers.items()}
        # Of S3 an object of many megabytes, which nobody asks for but who watches.
        self._sent = request if self._service != "s3" or is_observed() else None
        self._is_shown = False

    def _keep_answer(self, response_dict: Mapping[str, Any], **_: Any) -> None:
        status, headers = response_dict["status_code"], response_dict["headers"]
        self._answered = {"HTTPStatusCode": status, "HTTPHeaders": headers}
        self._show(Answer(status, response_dict["body"], headers))

    def _show(self, answer: Answer | None, failure: str = "") -> None:
        """Show the request that was sent last, and what came of it, to who watches."""
        request = self._sent
        if request is None or self._is_shown or not is_observed():
            return
        self._is_shown, body = True, _body(request)
        if body.startswith(b"\x1f\x8b\x08"):
            # An object of ours.
            body = gzip.decompress(body)
        show(request.method, request.url, self._headers, body, answer, failure, secrets=self._secrets)

    @property
    def _secrets(self) -> list[str]:
        """What was configured, and what the last request was signed with, which may be an instance's; longest first."""
        options, headers = self._options, self._headers
        given = (options.secret_key, options.session_token, options.access_key)
        signature = _SIGNATURE.search(headers.get("Authorization", ""))
        texts = [secret.reveal() for secret in given if secret is not None]
        texts += [headers.get("X-Amz-Security-Token", ""), *(signature.groups() if signature else ())]
        return sorted(filter(None, texts), key=len, reverse=True)

    def _verdict(self, answer: Mapping[str, Any]) -> Exception:
        error, metadata = answer.get("Error", {}), answer.get("ResponseMetadata", {})
        code, words = str(error.get("Code", "")), str(error.get("Message", ""))
        status = int(metadata.get("HTTPStatusCode", 0))
        said = " ".join(dict.fromkeys(filter(None, (str(status), code))))
        fault = whose_fault(code, status)
        if fault == "passing":
            # Without the words: what is retried is logged, and an answer may repeat what was sent.
            headers = {name.title(): value for name, value in metadata.get("HTTPHeaders", {}).items()}
            return DestinationUnavailable(
                self._name, f"{self._origin} answered {said}", retry_after_s=retry_after_s(headers, time.time())
            )
        if fault == "events":
            return BatchRefused(f"{said}{self.reason(words)}")
        return self.refused(said, words)

    def _failure(self, error: Exception) -> Exception:
        """What a request without an answer means, in words of our own."""
        if isinstance(error, NoCredentialsError):
            return DestinationRefusedUs(
                self._name,
                "there are no AWS credentials: set accessKey and secretKey, or give this process a profile or a role",
            )
        if isinstance(error, NoRegionError):
            return DestinationRefusedUs(self._name, "there is no AWS region: set region, or AWS_REGION")
        if isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
            return DestinationRefusedUs(
                self._name,
                f"the certificate of {self._origin} does not hold; mend it there, or name the authority that signed it "
                "as ca_file",
            )
        if isinstance(error, (CredentialRetrievalError, MetadataRetrievalError)):
            what = "cannot be reached: the provider of its credentials does not answer"
        elif isinstance(error, ConnectTimeoutError):
            what = "did not take a connection in time"
        elif isinstance(error, ReadTimeoutError):
            what = f"did not answer within {self._options.request_timeout_s:g} s"
        elif isinstance(error, EndpointConnectionError):
            what = "cannot be connected to"
        elif isinstance(error, (ResponseParserError, IncompleteReadError)):
            what = "answered what cannot be read"
        elif isinstance(error, (HTTPClientError, BotoConnectionError)):
            what = f"cut the connection ({type(error).__name__})"
        else:
            return DestinationRefusedUs(
                self._name, f"{self._service} cannot be used as configured ({type(error).__name__} of botocore)"
            )
        return DestinationUnavailable(self._name, f"{self._origin} {what}")


def whose_fault(code: str, status: int) -> Fault:
    """
    Whose an error is that refuses a request as a whole.

    Args:
        code: As the service names it, such as ``SlowDown`` or ``KMS.ThrottlingException``.
        status: Of HTTP.
    """
    if code.rpartition(".")[2] in _PASSING or status in TRANSIENT or (status >= 500 and status not in _NEVER_MENDS):
        return "passing"
    if code.rpartition(".")[2] in _ABOUT_THE_EVENTS or status == 413:
        return "events"
    return "us"


def whose_fault_of_one(code: str, *, sender_fault: bool) -> Fault:
    """
    Whose an error is that refuses one message of a request.

    Args:
        code: As the service names it.
        sender_fault: As the service says; true also of what is no message's fault.
    """
    if not sender_fault or code.rpartition(".")[2] in _PASSING:
        return "passing"
    return "us" if code.rpartition(".")[2] in _ABOUT_US or code.lower().startswith("kms") else "events"


def _body(request: Any) -> bytes:
    """What botocore was given; of bytes it makes a file."""
    body = request.body.getvalue() if isinstance(request.body, io.BytesIO) else request.body or b""
    return body.encode() if isinstance(body, str) else bytes(body)


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
