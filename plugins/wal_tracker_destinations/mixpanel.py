"""
Product analytics in Mixpanel, by its import endpoint in strict mode.

``/track`` would answer 200 to events older than five days and drop them; ``/import`` without ``strict`` to anything.

See: https://developer.mixpanel.com/reference/import-events
See: https://developer.mixpanel.com/reference/profile-set
See: https://developer.mixpanel.com/reference/group-set-property
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

import orjson

from wal_tracker.destinations.base import BatchRefused, Limits, Outcome, Rejected
from wal_tracker.destinations.http import Answer, HttpClient, HttpOptions
from wal_tracker.errors import DestinationUnavailable
from wal_tracker.model import Deliverable
from wal_tracker.secret import Secret
from wal_tracker_destinations.batches import JSON, HttpBatches, Item, Unfit, epoch_ms, is_profile_only, vendor_url

# https://docs.mixpanel.com/docs/privacy/eu-residency
_REGIONS = {
    "us": "https://api.mixpanel.com",
    "eu": "https://api-eu.mixpanel.com",
    "in": "https://api-in.mixpanel.com",
}

# "All property string values are truncated to 255"; a person whose id is cut is another one.
_MAX_TEXT = 255

# Where profiles are set.
_PEOPLE, _GROUPS = "/engage", "/groups"

# Two thousand records that failed are named one by one, with a sentence each.
_MAX_ANSWER_BYTES = 4 * 1024 * 1024


class Mixpanel(HttpBatches):
    """
    Sends events in batches; Mixpanel drops duplicates by event, distinct_id, time and ``$insert_id``.

    All four are the same on every replay. A 400 that names records has stored all the others: the named ones become
    dead letters. A 400 that names none, or a 413, has stored nothing. An event without a distinct_id, or with one or a
    name above 255 characters, is a dead letter, too.

    What a rule says of persons and groups is set in their profiles (``/engage``, ``/groups``), for which the project's
    token is needed; an event in a group carries the group's id as a property named like the group's type.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(HttpOptions):
        """Options of one project, which is named by its token, or by a service account and its number."""

        project_token: Secret | None = None
        """The project's token; it can write events and nothing else."""
        service_account: str | None = None
        """In place of the token: the user name of a service account, admin or owner of the project."""
        service_account_secret: Secret | None = None
        """Its secret."""
        project_id: str | None = None
        """The project it writes to."""
        api_endpoint: str = "https://api.mixpanel.com"
        """``us``, ``eu``, ``in``, or a URL."""
        data_endpoint: str | None = None
        """Taken from pg_track_events' configurations, and not used: it is for reading events."""
        gzip: bool = True
        """Compress requests."""

        def __post_init__(self) -> None:
            HttpOptions.__post_init__(self)
            account = (self.service_account, self.service_account_secret, self.project_id)
            if self.project_token is not None:
                if any(part is not None for part in account):
                    raise ValueError("either project_token, or service_account with its secret and project_id")
                if not self.project_token.reveal().strip():
                    raise ValueError("project_token (projectToken) must not be empty; is its environment variable set?")
            elif not all(part and part.strip() for part in account):
                raise ValueError(
                    "needs project_token (or projectToken), or service_account, service_account_secret and project_id"
                )
            try:
                self.url()
            except ValueError as error:
                raise ValueError(f"api_endpoint {error}") from error

        def url(self, profiles: str = "") -> str:
            """Where events are imported; or where profiles of a kind are set, which the token in them is enough for."""
            if profiles:
                host = vendor_url(self.api_endpoint, _REGIONS, "/import").removesuffix("/import")
                return f"{host}{profiles}?strict=1&verbose=1"
            url = vendor_url(self.api_endpoint, _REGIONS, "/import") + "?strict=1"
            return url if self.project_id is None else f"{url}&project_id={quote(self.project_id, safe='')}"

        def user_and_password(self) -> tuple[str, str]:
            """For Basic authentication; a token is a user without a password."""
            if self.project_token is not None:
                return self.project_token.reveal(), ""
            assert self.service_account is not None and self.service_account_secret is not None
            return self.service_account, self.service_account_secret.reveal()

    vendor = "Mixpanel"
    # Mixpanel takes 2000 events and 10 MB a request; where an older limit of 2 MB holds, its 413 halves the batch.
    # It advises 10 to 20 clients at once for a large import.
    limits = Limits(max_batch_events=1000, max_batch_bytes=4 * 1024 * 1024, linger_s=0.5, concurrency=8)
    max_event_bytes = 1_000_000
    max_request_bytes = 8_000_000

    def __init__(self, name: str, config: Config) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
        """
        self.config = config
        credentials = ":".join(config.user_and_password())
        basic = base64.b64encode(credentials.encode()).decode()
        super().__init__(
            name,
            config.client(
                name,
                config.url(),
                headers={"Authorization": f"Basic {basic}"},
                secrets=[*config.user_and_password(), basic],
                max_answer_bytes=_MAX_ANSWER_BYTES,
            ),
        )
        # As with events, Mixpanel is asked to say what it refuses.
        self._profiles = {
            route: config.client(
                name,
                config.url(route),
                secrets=[*config.user_and_password(), basic],
                max_answer_bytes=_MAX_ANSWER_BYTES,
            )
            for route in (_PEOPLE, _GROUPS)
        }
        self._library = {"$lib": "wal_tracker", "$lib_version": version("wal_tracker")}

    def close(self) -> None:
        """Let go of the connections."""
        super().close()
        for http in self._profiles.values():
            http.close()

    def _item(self, event: Deliverable) -> dict[str, Any]:
        group = self._group(event, _MAX_TEXT)
        return {
            "event": self._event_name(event, _MAX_TEXT),
            "properties": {
                # "0": do not take this server's address for the person's. A rule's own property wins.
                "ip": "0",
                **self._library,
                **event.properties,
                **({} if group is None else {group.type: group.id}),
                "time": epoch_ms(event),
                "distinct_id": self._person(event, _MAX_TEXT),
                "$insert_id": event.id,
            },
        }

    def _parts(self, event: Deliverable) -> Iterator[tuple[str, dict[str, Any]]]:
        group, happened = self._group(event, _MAX_TEXT), not is_profile_only(event)
        if event.identify is not None:
            traits = dict(event.identify)
            if group is not None and not happened:
                # With no event to carry it, the person's profile says which group it is.
                traits[group.type] = group.id
            who = {"$token": self._token(), "$distinct_id": self._person(event, _MAX_TEXT)}
            # A change of a row is no visit: neither our address nor this moment is the person's.
            yield _PEOPLE, {**who, "$ip": "0", "$ignore_time": True, "$set": traits}
        if group is not None and group.traits:
            which = {"$group_key": group.type, "$group_id": group.id}
            yield _GROUPS, {"$token": self._token(), **which, "$set": group.traits}
        elif group is not None and event.identify is None and not happened:
            raise Unfit("a group without traits, and no event in it, is nothing to Mixpanel: give the group `traits`")
        if happened:
            yield "", self._item(event)

    def _token(self) -> str:
        if self.config.project_token is None:
            raise Unfit("it has `identify` or `group`, and Mixpanel takes profiles by project_token alone; set that")
        return self.config.project_token.reveal()

    def _send(self, items: Sequence[Item]) -> Mapping[int, Outcome]:
        outcomes: dict[int, Outcome] = {}
        # Profiles first: should they not be taken, no event has been stored, and the request may be told to have failed
        # as a whole. Should the import fail after them, they are only set again.
        for route in (_PEOPLE, _GROUPS, ""):
            positions = [position for position, item in enumerate(items) if item.route == route]
            if positions:
                said = self._sent([items[position].body for position in positions], route)
                outcomes.update((positions[index], outcome) for index, outcome in said.items())
        return outcomes

    def _sent(self, bodies: Sequence[bytes], route: str) -> Mapping[int, Outcome]:
        """Make one request; what was refused, by position."""
        body = b"[" + b",".join(bodies) + b"]"
        if route:
            # Compressed requests are not taken there, and a 200 says nothing.
            http = self._profiles[route]
            return _refused(http, http.post(body, JSON, judged=frozenset({400})), len(bodies), self._token())
        answer = self._http.post(body, JSON, gzip=self.config.gzip, judged=frozenset({400}))
        if answer.status != 400:
            return {}
        failed = _failed(self._http, answer, len(bodies))
        if not failed:
            raise self._http.verdict(answer)
        return failed


def _refused(http: HttpClient, answer: Answer, count: int, token: str) -> dict[int, Outcome]:
    """
    What an answer to profiles says of each; a 200 may hold errors.

    Raises:
        BatchRefused: None was taken, and it does not say why of each.
        DestinationUnavailable: It is not Mixpanel's, so that nobody knows.
    """
    try:
        document = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        document = None
    if isinstance(document, dict) and document.get("failed_records"):
        return _failed(http, answer, count, token)
    if answer.status == 400:
        raise http.verdict(answer)
    # {"status": 1} with `verbose`, "OK" with `strict`, and a bare 1 where something on the way takes the query off.
    status = document.get("status") if isinstance(document, dict) else document
    if status in (1, "1", "OK"):
        return {}
    if status in (0, "0", "Bad Request"):
        raise BatchRefused("Mixpanel took none of the profiles")
    raise DestinationUnavailable(http.name, f"{http.origin} answered {answer.status}, and not as Mixpanel does")


def _failed(http: HttpClient, answer: Answer, count: int, token: str = "") -> dict[int, Outcome]:
    """
    What a 400 says of each record; empty where it speaks of the request as a whole. `token` is not repeated.

    Raises:
        BatchRefused: It cannot be read. Should the good records have been stored all the same, they come again in the
            halves of the batch with the same ``$insert_id``.
    """
    told = _hidden(http.told(answer.status, answer.body), token)
    try:
        document = orjson.loads(answer.body)
        records = document.get("failed_records") or []
        failed: dict[int, Outcome] = {
            int(record["index"]): Rejected(
                _hidden(f"Mixpanel: {record.get('field')}: {record.get('message')}", token)[:300],
                _hidden(http.told(answer.status, orjson.dumps(record)), token),
            )
            for record in records
        }
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise BatchRefused("HTTP 400, and an answer that is not Mixpanel's", told) from error
    if not all(0 <= index < count for index in failed):
        raise BatchRefused("HTTP 400, and it names records that were not sent", told)
    return failed


def _hidden(text: str, token: str) -> str:
    return text.replace(token, "***") if token else text
