"""
Product analytics in Mixpanel, by its import endpoint in strict mode.

``/track`` would answer 200 to events older than five days and drop them; ``/import`` without ``strict`` to anything.

See: https://developer.mixpanel.com/reference/import-events
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

import orjson

from wal_tracker.destinations.base import BatchRefused, Limits, Outcome, Rejected
from wal_tracker.destinations.http import Answer, HttpOptions
from wal_tracker.model import Deliverable
from wal_tracker.secret import Secret
from wal_tracker_destinations.batches import JSON, HttpBatches, Item, epoch_ms, vendor_url

# https://docs.mixpanel.com/docs/privacy/eu-residency
_REGIONS = {
    "us": "https://api.mixpanel.com",
    "eu": "https://api-eu.mixpanel.com",
    "in": "https://api-in.mixpanel.com",
}

# "All property string values are truncated to 255"; a person whose id is cut is another one.
_MAX_TEXT = 255

# Two thousand records that failed are named one by one, with a sentence each.
_MAX_ANSWER_BYTES = 4 * 1024 * 1024


class Mixpanel(HttpBatches):
    """
    Sends events in batches; Mixpanel drops duplicates by event, distinct_id, time and ``$insert_id``.

    All four are the same on every replay. A 400 that names records has stored all the others: the named ones become
    dead letters. A 400 that names none, or a 413, has stored nothing.
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

        def url(self) -> str:
            """Where events are imported."""
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
    limits = Limits(max_batch_events=1000, max_batch_bytes=4 * 1024 * 1024, linger_s=0.5)
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
        self._library = {"$lib": "wal_tracker", "$lib_version": version("wal_tracker")}

    def _item(self, event: Deliverable) -> dict[str, Any]:
        return {
            "event": self._event_name(event, _MAX_TEXT),
            "properties": {
                # "0": do not take this server's address for the person's. A rule's own property wins.
                "ip": "0",
                **self._library,
                **event.properties,
                "time": epoch_ms(event),
                "distinct_id": self._person(event, _MAX_TEXT),
                "$insert_id": event.id,
            },
        }

    def _send(self, items: Sequence[Item]) -> Mapping[int, Outcome]:
        body = b"[" + b",".join(item.body for item in items) + b"]"
        answer = self._http.post(body, JSON, gzip=self.config.gzip, judged=frozenset({400}))
        if answer.status != 400:
            return {}
        failed = self._failed(answer, len(items))
        if not failed:
            raise self._http.verdict(answer)
        return failed

    def _failed(self, answer: Answer, count: int) -> dict[int, Outcome]:
        """
        What a 400 says of each record; empty where it speaks of the request as a whole.

        Raises:
            BatchRefused: It cannot be read. Should the good records have been stored all the same, they come again in
                the halves of the batch with the same ``$insert_id``.
        """
        told = self._http.told(answer.status, answer.body)
        try:
            document = orjson.loads(answer.body)
            records = document.get("failed_records") or []
            failed: dict[int, Outcome] = {
                int(record["index"]): Rejected(
                    f"Mixpanel: {record.get('field')}: {record.get('message')}"[:300],
                    self._http.told(answer.status, orjson.dumps(record)),
                )
                for record in records
            }
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise BatchRefused("HTTP 400, and an answer that is not Mixpanel's", told) from error
        if not all(0 <= index < count for index in failed):
            raise BatchRefused("HTTP 400, and it names records that were not sent", told)
        return failed
