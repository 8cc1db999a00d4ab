"""One marked event to one destination, and what was said: whether a configuration reaches anybody."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from wal_tracker import assemble
from wal_tracker.config.model import DestinationConfig
from wal_tracker.destinations import http, registry
from wal_tracker.destinations.base import BatchRefused, Destination
from wal_tracker.errors import DestinationError
from wal_tracker.model import Deliverable, Event, RawChange
from wal_tracker.secret import Secret

NAME = "wal_tracker_test"
"""The event's name, its distinct_id, and its one property, which is true."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a test event."""

    event: Deliverable
    reason: str
    """Why it was not taken; empty: it was."""
    exchanges: list[http.Exchange]
    """What went over HTTP, without secrets; nothing where the destination speaks something else."""


def send(entry: DestinationConfig, *, raw: bool, mode: str) -> Trial:
    """
    Send one test event, once; filters, `when` and `properties` are not asked.

    Raises:
        ConfigError: Options are wrong.
        PluginError: There is no such destination.
    """
    destination = assemble.build_destination(entry, raw=raw)
    event = _change(mode) if raw else _event(mode)
    hidden = _Hidden(entry)
    exchanges: list[http.Exchange] = []
    try:
        with http.observed(exchanges.append):
            reason = _deliver(destination, event)
    finally:
        destination.close()
    return Trial(event, hidden.text(reason), [hidden.exchange(exchange) for exchange in exchanges])


def _deliver(destination: Destination, event: Deliverable) -> str:
    """Why the event was not taken, if so."""
    try:
        # Without a mark: nothing that was written before is taken back.
        destination.open(None)
        outcome = destination.deliver([event]).outcomes.get(0)
    except DestinationError as error:
        return error.message
    except BatchRefused as refusal:
        return refusal.reason
    return "" if outcome is None else outcome.reason or "it is to be sent again later"


def _event(mode: str) -> Event:
    # Not of a change, so there is nothing an id or a time could be made of twice.
    return Event(str(uuid.uuid4()), NAME, NAME, _now(), {NAME: True}, _source("insert", mode))


def _change(mode: str) -> RawChange:
    source, now = _source("insert", mode), _now()
    document = {
        "op": "insert",
        "schema": source["schema"],
        "table": source["table"],
        "key": {},
        "old": None,
        "new": {NAME: True},
        "unchanged": [],
        "commit_lsn": source["commit_lsn"],
        "ordinal": source["ordinal"],
        "xid": source["xid"],
        "commit_time": now,
        "context": {},
    }
    return RawChange(str(uuid.uuid4()), f"{source['schema']}.{source['table']}.insert", now, document, source)


def _source(op: str, mode: str) -> dict[str, Any]:
    return {"op": op, "schema": NAME, "table": NAME, "commit_lsn": "0/0", "ordinal": 0, "xid": 0, "mode": mode}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


class _Hidden:
    """Takes the secrets of an entry's options out of whatever is to be shown."""

    def __init__(self, entry: DestinationConfig) -> None:
        kind: Any = registry.load(entry.kind)
        config = registry.read_config(kind.Config, entry.options, entry.path, defaults={})
        values = [getattr(config, field.name) for field in dataclasses.fields(config)]
        secrets = {secret for secret in _secrets(values) if secret}
        # Begins with a scheme; a key in JSON may well have a URL in it.
        self._url_is_secret = any(re.match(r"[a-z][a-z0-9+.-]*://", secret, re.IGNORECASE) for secret in secrets)
        # The longest first: one may be part of another.
        self._secrets = sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True)

    def text(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def exchange(self, exchange: http.Exchange) -> http.Exchange:
        answer = exchange.answer
        return replace(
            exchange,
            url=self._url(exchange.url),
            headers={name: self.text(value) for name, value in exchange.headers.items()},
            body=self._bytes(exchange.body),
            answer=None if answer is None else replace(answer, body=self._bytes(answer.body)),
            failure=self.text(exchange.failure),
        )

    def _url(self, url: str) -> str:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc}/***" if self._url_is_secret else self.text(url)

    def _bytes(self, text: bytes) -> bytes:
        for secret in self._secrets:
            text = text.replace(secret.encode(), b"***")
        return text


def _forms(secret: str) -> Iterator[str]:
    """A secret as it may stand in a body, a URL or an answer."""
    yield secret
    yield orjson.dumps(secret).decode()[1:-1]
    yield json.dumps(secret)[1:-1]
    yield quote(secret, safe="")
    yield base64.b64encode(secret.encode()).decode()


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, Secret):
        yield value.reveal()
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _secrets(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _secrets(inner)
