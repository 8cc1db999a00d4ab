"""
Product analytics in PostHog, by its batch endpoint (v0), on PostHog Cloud or one's own.

See: https://posthog.com/docs/api/capture
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

import orjson

from wal_tracker.destinations.base import Limits, Mark, Outcome, Receipt, Rejected
from wal_tracker.destinations.http import AddressGuard, HttpClient, check_url
from wal_tracker.model import Deliverable
from wal_tracker.secret import Secret

# What people copy from the address bar is the application; events are taken elsewhere. PostHog's own libraries
# translate the same way (posthog-python, request.py, determine_server_host).
_HOSTS = {
    "us.posthog.com": "us.i.posthog.com",
    "app.posthog.com": "us.i.posthog.com",
    "eu.posthog.com": "eu.i.posthog.com",
}
_REGIONS = {"us": "https://us.i.posthog.com", "eu": "https://eu.i.posthog.com"}

# The server cuts a longer id to this, and two persons become one.
_MAX_DISTINCT_ID = 200
_MAX_NAME = 200
# A larger event is taken with a 200 and dropped at ingestion with a warning nobody sees.
_MAX_EVENT_BYTES = 1_000_000


class PostHog:
    """
    Sends events in batches; PostHog collapses duplicates by day, event, distinct_id and uuid.

    All four are the same on every replay because the time is the commit's, and because `sent_at` is left out: with
    it the server would shift timestamps by the clocks' difference. The endpoint refuses a whole batch for one bad
    event and does not say which, so what it would refuse or silently drop is found here first and becomes a dead
    letter with its reason. A 200 with a quota used up is a 200; PostHog does not tell.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Options of one project."""

        api_key: Secret
        """The project's key (``phc_…``); it can write events and nothing else."""
        endpoint: str = "https://us.i.posthog.com"
        """``us``, ``eu``, or the URL of an own PostHog."""
        gzip: bool = False
        """Compress requests."""
        geoip_disable: bool = True
        """Do not let PostHog take this server's address for the person's."""
        process_person_profile: bool | None = None
        """False: anonymous events, which make no person profile and cost less; None: PostHog's default."""
        allow_private: bool = False
        """Let the endpoint lead to a private network or this machine."""
        allow_http: bool = False
        """Let events travel unencrypted."""
        ca_file: str | None = None
        """Certificates to trust in place of the usual ones."""
        request_timeout_s: float = 15.0
        """As PostHog's own libraries."""

        def __post_init__(self) -> None:
            key = self.api_key.reveal()
            if not key.strip():
                raise ValueError("api_key (apiKey) must not be empty; is its environment variable set?")
            if key.startswith("phx_"):
                raise ValueError("api_key is a personal key (phx_…); events need the project's key (phc_…)")
            try:
                batch_url(self.endpoint)
            except ValueError as error:
                raise ValueError(f"endpoint {error}; or one of us, eu") from error
            if self.request_timeout_s <= 0:
                raise ValueError("request_timeout_s must be positive")

    # PostHog takes 20 MB a request; its own libraries send 100 events and up to 5 MB.
    limits = Limits(max_batch_events=500, max_batch_bytes=5 * 1024 * 1024, linger_s=0.5)
    accepts_raw: ClassVar[bool] = False

    def __init__(self, name: str, config: Config) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
        """
        self.name, self.config = name, config
        self._properties: dict[str, Any] = {
            "$lib": "wal_tracker",
            "$lib_version": version("wal_tracker"),
            "$geoip_disable": config.geoip_disable,
        }
        if config.process_person_profile is not None:
            self._properties["$process_person_profile"] = config.process_person_profile
        self._http = HttpClient(
            name,
            batch_url(config.endpoint),
            timeout_s=config.request_timeout_s,
            guard=AddressGuard(allow_private=config.allow_private, allow_http=config.allow_http),
            secrets=[config.api_key.reveal()],
            ca_file=config.ca_file,
        )

    def open(self, mark: Mark | None) -> None:  # noqa: ARG002 - PostHog keeps what it has
        """Refuse an address that is not allowed before the first event."""
        self._http.check_address()

    def deliver(self, batch: Sequence[Deliverable]) -> Receipt:
        """Send what PostHog would keep; name what it would not."""
        outcomes: dict[int, Outcome] = {}
        taken: list[orjson.Fragment] = []
        for index, event in enumerate(batch):
            body = orjson.dumps(self._capture(event))
            reason = _fault(event, len(body))
            if reason:
                outcomes[index] = Rejected(reason)
            else:
                taken.append(orjson.Fragment(body))
        if taken:
            # Never parsed: 200 has come with {"status":1}, {"status":"Ok"} and more over the years.
            self._http.post(
                orjson.dumps({"api_key": self.config.api_key.reveal(), "batch": taken}),
                {"Content-Type": "application/json"},
                gzip=self.config.gzip,
            )
        return Receipt(outcomes)

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def _capture(self, event: Deliverable) -> dict[str, Any]:
        return {
            "event": event.name,
            "distinct_id": event.distinct_id,
            "uuid": event.id,
            "timestamp": event.timestamp,
            # A rule's own property wins, so that one event can be told apart from the rest.
            "properties": {**self._properties, **event.properties},
        }


def batch_url(endpoint: str) -> str:
    """
    Where batches go, for an endpoint as people write it.

    Raises:
        ValueError: It is neither a region nor a URL.
    """
    endpoint = _REGIONS.get(endpoint.lower(), endpoint)
    check_url(endpoint)
    parts = urlsplit(endpoint)
    netloc = _HOSTS.get(parts.netloc.lower(), parts.netloc)
    return urlunsplit((parts.scheme, netloc, parts.path.rstrip("/") + "/batch/", "", ""))


def _fault(event: Deliverable, size: int) -> str:
    """Why PostHog would refuse or lose this event; empty if it would not."""
    if not event.distinct_id or not event.distinct_id.strip():
        return (
            "it has no distinct_id, which PostHog requires: give the rule a `distinct_id`, or a property "
            "`distinct_id` or `user_id`"
        )
    if len(event.distinct_id) > _MAX_DISTINCT_ID:
        return f"its distinct_id is longer than {_MAX_DISTINCT_ID} characters; PostHog would cut it and mix up persons"
    if not event.name.strip():
        return "it has no name, which PostHog requires"
    if len(event.name) > _MAX_NAME:
        return f"its name is longer than {_MAX_NAME} characters"
    if size > _MAX_EVENT_BYTES:
        return f"it is {size} bytes; PostHog drops events above 1 MB"
    return ""
