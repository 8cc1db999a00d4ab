"""
Product analytics in PostHog, by its batch endpoint (v0), on PostHog Cloud or one's own.

See: https://posthog.com/docs/api/capture
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import orjson

from wal_tracker.destinations.base import Limits, Outcome
from wal_tracker.destinations.http import HttpOptions, check_url
from wal_tracker.model import Deliverable
from wal_tracker.secret import Secret
from wal_tracker_destinations.batches import JSON, HttpBatches, Item

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


class PostHog(HttpBatches):
    """
    Sends events in batches; PostHog collapses duplicates by day, event, distinct_id and uuid.

    All four are the same on every replay because the time is the commit's, and because `sent_at` is left out: with
    it the server would shift timestamps by the clocks' difference. The endpoint refuses a whole batch for one bad
    event and does not say which, so what it would refuse or silently drop is found here first and becomes a dead
    letter with its reason. A 200 with a quota used up is a 200; PostHog does not tell.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(HttpOptions):
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

        def __post_init__(self) -> None:
            HttpOptions.__post_init__(self)
            key = self.api_key.reveal()
            if not key.strip():
                raise ValueError("api_key (apiKey) must not be empty; is its environment variable set?")
            if key.startswith("phx_"):
                raise ValueError("api_key is a personal key (phx_…); events need the project's key (phc_…)")
            try:
                batch_url(self.endpoint)
            except ValueError as error:
                raise ValueError(f"endpoint {error}; or one of us, eu") from error

    vendor = "PostHog"
    # PostHog takes 20 MB a request; its own libraries send 100 events and up to 5 MB.
    limits = Limits(max_batch_events=500, max_batch_bytes=5 * 1024 * 1024, linger_s=0.5)
    # A larger one is taken with a 200 and dropped at ingestion with a warning nobody sees.
    max_event_bytes = 1_000_000
    max_request_bytes = 20_000_000

    def __init__(self, name: str, config: Config) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
        """
        self.config = config
        super().__init__(name, config.client(name, batch_url(config.endpoint), secrets=[config.api_key.reveal()]))
        self._properties: dict[str, Any] = {
            "$lib": "wal_tracker",
            "$lib_version": version("wal_tracker"),
            "$geoip_disable": config.geoip_disable,
        }
        if config.process_person_profile is not None:
            self._properties["$process_person_profile"] = config.process_person_profile

    def _item(self, event: Deliverable) -> dict[str, Any]:
        return {
            "event": self._event_name(event, _MAX_NAME),
            "distinct_id": self._person(event, _MAX_DISTINCT_ID),
            "uuid": event.id,
            "timestamp": event.timestamp,
            # A rule's own property wins, so that one event can be told apart from the rest.
            "properties": {**self._properties, **event.properties},
        }

    def _send(self, items: Sequence[Item]) -> Mapping[int, Outcome]:
        # Never parsed: 200 has come with {"status":1}, {"status":"Ok"} and more over the years.
        self._http.post(
            orjson.dumps(
                {"api_key": self.config.api_key.reveal(), "batch": [orjson.Fragment(item.body) for item in items]}
            ),
            JSON,
            gzip=self.config.gzip,
        )
        return {}


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
