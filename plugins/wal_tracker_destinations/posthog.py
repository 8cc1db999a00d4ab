"""
Product analytics in PostHog, by its batch endpoint (v0) or its newer one (v1), on PostHog Cloud or one's own.

See: https://posthog.com/docs/api/capture
See: https://github.com/PostHog/posthog/tree/master/rust/capture/src/v1
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import orjson

from wal_tracker.destinations.base import Limits, Outcome, Rejected, Retry
from wal_tracker.destinations.http import Answer, HttpOptions, check_url, retry_after_s
from wal_tracker.errors import DestinationUnavailable
from wal_tracker.model import Deliverable
from wal_tracker.secret import Secret
from wal_tracker_destinations.batches import JSON, HttpBatches, Item, is_profile_only, part_id

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
# What is said of a group with a longer key is dropped at ingestion.
_MAX_GROUP_KEY = 400

# Items that say something of a group; the others have their event's id.
_GROUP = "group"

_PATHS = {"v0": "/batch/", "v1": "/i/v1/analytics/events"}

# v1 gives a result for each of many events.
_MAX_ANSWER_BYTES = 1024 * 1024
_REQUESTS = uuid.uuid5(uuid.NAMESPACE_DNS, "wal_tracker.posthog")

# Properties that stand elsewhere in an event of v1 (posthog-python, capture_v1.py): among its options, or beside them.
_OPTIONS = {
    "$process_person_profile": "process_person_profile",
    "$cookieless_mode": "cookieless_mode",
    "$product_tour_id": "product_tour_id",
    "$ignore_sent_at": "disable_skew_correction",
}
_BESIDE = {"$session_id": "session_id", "$window_id": "window_id"}
# Details of an event that v1 took and that says nothing of its person (analytics/constants.rs).
_NO_PERSON = "person_processing_disabled"


class PostHog(HttpBatches):
    """
    Sends events in batches; PostHog collapses duplicates by day, event, distinct_id and uuid.

    All four are the same on every replay because the time is the commit's, and because `sent_at` is left out: with
    it the server would shift timestamps by the clocks' difference. The endpoint refuses a whole batch for one bad
    event and does not say which, so what it would refuse or silently drop is found here first and becomes a dead
    letter with its reason: an event without a distinct_id, for instance, or with one or a name above 200 characters.
    A 200 with a quota used up is a 200; PostHog does not tell.

    With ``api: v1`` it does: of each event it says whether it was taken, dropped (a dead letter, also beyond the
    quota), or is to be sent again. That endpoint is young, and not in every PostHog of one's own.

    Traits are ``$set`` of the event, or a ``$set`` event where nothing happened; a group is in its ``$groups``, and
    what is said of one is a ``$groupidentify`` event.
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
        api: Literal["v0", "v1"] = "v0"
        """``v0`` is in every PostHog; ``v1`` says of each event what became of it."""
        geoip_disable: bool = True
        """Do not let PostHog take this server's address for the person's."""
        process_person_profile: bool | None = None
        """
        False: anonymous events, which make no person profile and cost less; None: PostHog's default. It is not said of
        events with `identify` or `group`: PostHog takes neither without a profile.
        """

        def __post_init__(self) -> None:
            HttpOptions.__post_init__(self)
            key = self.api_key.reveal()
            if not key.strip():
                raise ValueError("api_key (apiKey) must not be empty; is its environment variable set?")
            if key.startswith("phx_"):
                raise ValueError("api_key is a personal key (phx_…); events need the project's key (phc_…)")
            try:
                self.url()
            except ValueError as error:
                raise ValueError(f"endpoint {error}; or one of us, eu") from error

        def url(self) -> str:
            """Where batches go."""
            return batch_url(self.endpoint, self.api)

    vendor = "PostHog"
    # PostHog takes 20 MB a request; its own libraries send 100 events and up to 5 MB.
    # It documents no limit of requests.
    limits = Limits(max_batch_events=500, max_batch_bytes=5 * 1024 * 1024, linger_s=0.5, concurrency=4)
    # A larger one is taken with a 200 and dropped at ingestion with a warning nobody sees.
    max_event_bytes = 1_000_000
    max_request_bytes = 20_000_000

    def __init__(self, name: str, config: Config, *, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
            clock: Seconds since the Unix epoch; a test may give its own.
        """
        self.config, self._clock = config, clock
        key = config.api_key.reveal()
        is_v1 = config.api == "v1"
        library = {"$lib": "wal_tracker", "$lib_version": version("wal_tracker")}
        super().__init__(
            name,
            config.client(
                name,
                config.url(),
                headers={"Authorization": f"Bearer {key}"} if is_v1 else None,
                secrets=[key],
                max_answer_bytes=_MAX_ANSWER_BYTES,
            ),
        )
        # v1 takes the library from a header.
        self._properties: dict[str, Any] = {**({} if is_v1 else library), "$geoip_disable": config.geoip_disable}
        self._request = ("", 0)

    def _item(self, event: Deliverable) -> dict[str, Any]:
        name = "$set" if is_profile_only(event) else self._event_name(event, _MAX_NAME)
        # A rule's own property wins, so that one event can be told apart from the rest.
        properties = {**self._properties, **event.properties}
        group, profile = self._group(event, _MAX_GROUP_KEY), self.config.process_person_profile
        if event.identify is not None:
            properties["$set"] = event.identify
        if group is not None:
            properties["$groups"] = {group.type: group.id}
        if profile is not None and event.identify is None and group is None:
            properties.setdefault("$process_person_profile", profile)
        return self._captured(event, name, self._person(event, _MAX_DISTINCT_ID), event.id, properties)

    def _parts(self, event: Deliverable) -> Iterator[tuple[str, dict[str, Any]]]:
        group = self._group(event, _MAX_GROUP_KEY)
        alone = is_profile_only(event) and event.identify is None
        if group is not None and (alone or group.traits):
            told = {"$group_type": group.type, "$group_key": group.id, "$group_set": group.traits}
            # About no person; PostHog's own libraries make a name of the group, too.
            nobody = f"${group.type}_{group.id}".encode()[:_MAX_DISTINCT_ID].decode(errors="ignore")
            properties = {**self._properties, **told}
            yield _GROUP, self._captured(event, "$groupidentify", nobody, part_id(event, "group"), properties)
        if not alone:
            yield "", self._item(event)

    def _captured(
        self, event: Deliverable, name: str, person: str, identity: str, properties: dict[str, Any]
    ) -> dict[str, Any]:
        captured = {
            "event": name,
            "distinct_id": person,
            "uuid": identity,
            "timestamp": event.timestamp,
            "properties": properties,
        }
        if self.config.api == "v1":
            # The commit's time stands, whatever the clocks say.
            captured["options"] = options = {"disable_skew_correction": True}
            for ours, theirs in _OPTIONS.items():
                if ours in properties:
                    options[theirs] = properties.pop(ours)
            for ours, theirs in _BESIDE.items():
                # Of another type, it would refuse the whole batch.
                if isinstance(properties.get(ours), str):
                    captured[theirs] = properties.pop(ours)
        return captured

    def _send(self, items: Sequence[Item]) -> Mapping[int, Outcome]:
        batch = [orjson.Fragment(item.body) for item in items]
        if self.config.api == "v1":
            return self._send_v1(batch, items)
        # Never parsed: 200 has come with {"status":1}, {"status":"Ok"} and more over the years.
        document = {"api_key": self.config.api_key.reveal(), "batch": batch}
        self._http.post(orjson.dumps(document), JSON, gzip=self.config.gzip)
        return {}

    def _send_v1(self, batch: Sequence[orjson.Fragment], items: Sequence[Item]) -> Mapping[int, Outcome]:
        ids = [part_id(item.event, _GROUP) if item.route == _GROUP else item.event.id for item in items]
        # The same for every attempt with the same events.
        request = str(uuid.uuid5(_REQUESTS, ",".join(ids)))
        last, attempt = self._request
        self._request = request, attempt + 1 if request == last else 1
        now = datetime.fromtimestamp(self._clock(), timezone.utc).isoformat(timespec="milliseconds")
        headers = {
            **JSON,
            "PostHog-Sdk-Info": f"wal_tracker/{version('wal_tracker')}",
            "PostHog-Attempt": str(self._request[1]),
            "PostHog-Request-Id": request,
            "PostHog-Request-Timestamp": now,
        }
        document = {"created_at": now, "batch": batch}
        answer = self._http.post(orjson.dumps(document), headers, gzip=self.config.gzip)
        outcomes: dict[int, Outcome] = {}
        for index, (result, details) in self._results(answer, ids).items():
            if result == "drop":
                outcomes[index] = Rejected(f"PostHog drops it: {details}")
            elif result == "retry":
                outcomes[index] = Retry(retry_after_s(answer.headers, self._clock()), f"PostHog: {details}")
            elif details == _NO_PERSON and items[index].event.identify is not None:
                outcomes[index] = Rejected(
                    f"PostHog has the event and not its `identify` ({details}): the distinct_id is a placeholder "
                    "such as '0' or 'null', or there are too many events of it"
                )
        return outcomes

    def _results(self, answer: Answer, sent: Sequence[str]) -> dict[int, tuple[str, str]]:
        """
        Result and details of each event by its position; what v1 does not name it has taken.

        Raises:
            DestinationUnavailable: It is not PostHog's answer, so that nobody knows.
        """
        try:
            results = dict(orjson.loads(answer.body)["results"].items())
            told = {index: results[identity] for index, identity in enumerate(sent) if identity in results}
            return {index: (str(one["result"]), str(one.get("details"))[:100]) for index, one in told.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DestinationUnavailable(
                self.name, f"{self._http.origin} answered {answer.status}, and not as PostHog's v1 does"
            ) from None


def batch_url(endpoint: str, api: str = "v0") -> str:
    """
    Where batches go, for an endpoint as people write it.

    Args:
        endpoint: A region, or the URL of a host.
        api: ``v0`` or ``v1``.

    Raises:
        ValueError: It is neither a region nor a URL.
    """
    endpoint = _REGIONS.get(endpoint.lower(), endpoint)
    check_url(endpoint)
    parts = urlsplit(endpoint)
    netloc = _HOSTS.get(parts.netloc.lower(), parts.netloc)
    return urlunsplit((parts.scheme, netloc, parts.path.rstrip("/") + _PATHS[api], "", ""))
