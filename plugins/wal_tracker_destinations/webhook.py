"""
Events to any HTTP endpoint, signed as Standard Webhooks 1.0.0, plain or as CloudEvents 1.0.

See: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
See: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md ("Structured")
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal
from urllib.parse import quote

import orjson

from wal_tracker.destinations.base import Limits, Mark, Receipt
from wal_tracker.destinations.http import HttpOptions, check_headers, check_url
from wal_tracker.model import Deliverable
from wal_tracker.secret import Secret

_OURS = frozenset({"content-type", "webhook-id", "webhook-signature", "webhook-timestamp"})
# Ids of batches; a batch of the same events in the same order has the same id on every attempt.
_BATCH_NAMESPACE = uuid.UUID("b8a0c7f4-0c59-5d0f-8d6e-0f2f3f5d9a41")


class Webhook:
    """
    Posts each event, one after the other, and goes on once the receiver has answered 2xx.

    ``webhook-id`` is the event's id: the receiver drops what it has seen, because an answer that is lost
    brings the event again. 400, 409, 413 and 422 make the event a dead letter; 410 and everything else that
    speaks of us rather than of the event (401, 404, a redirect …) stops the delivery; the rest is sent again.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(HttpOptions):
        """Options of one endpoint."""

        url: Secret
        """Where to post; a secret because path and query often hold one."""
        secret: Secret | None = None
        """``whsec_`` and base64 of 24 to 64 bytes; None: requests are not signed."""
        previous_secrets: tuple[Secret, ...] = ()
        """Signed with as well, while a receiver changes over to `secret`."""
        headers: Mapping[str, Secret] = field(default_factory=dict)
        """Sent with every request, such as Authorization."""
        format: Literal["json", "cloudevents"] = "json"
        """The event's own JSON, or a CloudEvent with it as `data`."""
        cloudevents_source: str = "/wal_tracker"
        """Beginning of a CloudEvent's `source`; schema and table follow."""
        batch: bool = False
        """Send a JSON array of up to 100 events and 256 KiB in each request; only for receivers that ask for it."""

        def __post_init__(self) -> None:
            HttpOptions.__post_init__(self)
            _checked("url", check_url, self.url)
            for secret in self._signing_secrets():
                _checked("secret", signing_key, secret)
            if self.previous_secrets and self.secret is None:
                raise ValueError("previous_secrets needs secret: the one to sign with from now on")
            check_headers(self.headers, ours=_OURS)

        def _signing_secrets(self) -> tuple[Secret, ...]:
            return (self.secret, *self.previous_secrets) if self.secret is not None else self.previous_secrets

        def signing_keys(self) -> tuple[bytes, ...]:
            """The keys to sign with, the current one first."""
            return tuple(signing_key(secret.reveal()) for secret in self._signing_secrets())

    # 20 KB is what the specification advises for a body, 64 KiB what CloudEvents promises to pass everywhere; a larger
    # event goes alone and the receiver says whether it is too large.
    limits = Limits(max_batch_events=1, max_batch_bytes=64 * 1024, linger_s=0.0)
    accepts_raw: ClassVar[bool] = True

    def __init__(self, name: str, config: Config, *, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
            clock: Seconds since the Unix epoch; a test may give its own.
        """
        self.name, self.config = name, config
        self._clock = clock
        self._keys = config.signing_keys()
        if config.batch:
            self.limits = Limits(max_batch_events=100, max_batch_bytes=256 * 1024, linger_s=0.2)
        headers = {name: value.reveal() for name, value in config.headers.items()}
        self._http = config.client(name, config.url.reveal(), headers=headers, secrets=list(headers.values()))

    def open(self, mark: Mark | None) -> None:  # noqa: ARG002 - the receiver keeps what it has
        """Refuse an address that is not allowed before the first event."""
        self._http.check_address()

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        """Post the events; in order, and one by one unless `batch` is set."""
        if not batch:
            return Receipt()
        if self.config.batch:
            ids = ",".join(event.id for event in batch)
            self._post(str(uuid.uuid5(_BATCH_NAMESPACE, ids)), b"[" + b",".join(map(self._body, batch)) + b"]")
            return Receipt()
        (event,) = batch
        self._post(event.id, self._body(event))
        return Receipt()

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def _body(self, event: Deliverable) -> bytes:
        if self.config.format == "json":
            return event.to_json()
        return orjson.dumps(cloud_event(event, self.config.cloudevents_source))

    def _post(self, webhook_id: str, body: bytes) -> None:
        headers = {"Content-Type": self._content_type(), "webhook-id": webhook_id}
        timestamp = int(self._clock())
        headers["webhook-timestamp"] = str(timestamp)
        if self._keys:
            headers["webhook-signature"] = signatures(self._keys, webhook_id, timestamp, body)
        self._http.post(body, headers)

    def _content_type(self) -> str:
        if self.config.format == "json":
            return "application/json"
        kind = "cloudevents-batch" if self.config.batch else "cloudevents"
        return f"application/{kind}+json; charset=utf-8"


def signing_key(secret: str) -> bytes:
    """
    The bytes a Standard Webhooks secret stands for.

    Raises:
        ValueError: It is not one; the text does not repeat it.
    """
    text = secret.removeprefix("whsec_")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("must be whsec_ and base64") from error
    if not 24 <= len(key) <= 64:
        raise ValueError(f"must be 24 to 64 bytes in base64, and is {len(key)}")
    return key


def signatures(keys: Sequence[bytes], webhook_id: str, timestamp: int, body: bytes) -> str:
    """
    The ``webhook-signature`` header: one ``v1`` entry for each key.

    Args:
        keys: The current one first.
        webhook_id: As in its header.
        timestamp: As in its header: Unix seconds of this attempt.
        body: Exactly the bytes that are sent.
    """
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return " ".join("v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys)


def cloud_event(event: Deliverable, source: str) -> dict[str, object]:
    """
    The event in the CloudEvents JSON format, its own JSON as `data`.

    See: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
    """
    origin = event.source
    place = f"{origin['schema']}.{origin['table']}" if "table" in origin else f"message.{origin.get('prefix', '')}"
    document: dict[str, object] = {
        "specversion": "1.0",
        "id": event.id,
        "source": f"{source}/{_uri_path(place)}",
        "type": event.name,
        "time": event.timestamp,
        "datacontenttype": "application/json",
    }
    if event.distinct_id:
        # https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/partitioning.md
        document["partitionkey"] = event.distinct_id
    document["data"] = orjson.Fragment(event.to_json())
    return document


def _uri_path(text: str) -> str:
    """One segment of a URI-reference; PostgreSQL allows any character in a name."""
    return quote(text, safe=".~_-")


def _checked(name: str, check: Callable[[str], object], value: Secret) -> None:
    try:
        check(value.reveal())
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error
