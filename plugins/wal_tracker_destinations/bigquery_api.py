"""
BigQuery's REST API, as far as it is needed to write to one table: requests with a token, and what its errors mean.

See: https://cloud.google.com/bigquery/docs/reference/rest
See: https://cloud.google.com/bigquery/docs/error-messages
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import orjson

from wal_tracker.destinations.http import Answer, HttpClient, retry_after_s
from wal_tracker.errors import DestinationRefusedUs, DestinationUnavailable
from wal_tracker_destinations.google import Tokens

SCOPE = "https://www.googleapis.com/auth/bigquery"

# Their HTTP status says nothing: a rate limit is a 403, a job's internal error a 400.
_PASSING = frozenset(
    {
        "backendError",
        "badGateway",
        "internalError",
        "jobBackendError",
        "jobInternalError",
        "jobRateLimitExceeded",
        "quotaExceeded",
        "rateLimitExceeded",
        "stopped",
        "tableUnavailable",
        "timeout",
    }
)
# A quota is counted by the minute or by the day.
_QUOTA_WAIT_S = 60.0
_ERRORS = frozenset(range(400, 600))
_NEW_TABLE_S = 600.0

_DATASET = re.compile(r"\w+", re.ASCII)
_PROJECT = re.compile(r"[A-Za-z0-9.:-]+")
# Letters of any script, and no decorator ($20260102, @-3600000).
_TABLE = re.compile(r"[\w-][\w -]*")
_REMEDIES = {
    403: "or grant it roles/bigquery.dataEditor on the dataset, and with `method: load` roles/bigquery.jobUser on the "
    "project",
    404: "the table, its dataset or the project is not there; mend table_id, or let `create: true` make the table",
}


@dataclass(frozen=True, slots=True)
class TableId:
    """Names a table."""

    project: str
    dataset: str
    table: str

    @classmethod
    def parse(cls, text: str) -> TableId:
        """
        From ``project.dataset.table``; an old project's id may have a domain in it (``example.com:shop``).

        Raises:
            ValueError: It is not of that form.
        """
        parts = text.rsplit(".", 2)
        if (
            len(parts) != 3
            or not _PROJECT.fullmatch(parts[0])
            or not _DATASET.fullmatch(parts[1])
            or not _TABLE.fullmatch(parts[2])
        ):
            raise ValueError("is not project.dataset.table")
        return cls(*parts)

    def __str__(self) -> str:
        return f"{self.project}.{self.dataset}.{self.table}"

    @property
    def reference(self) -> dict[str, str]:
        """A TableReference."""
        return {"projectId": self.project, "datasetId": self.dataset, "tableId": self.table}

    @property
    def project_path(self) -> str:
        """Of the project's resources."""
        return f"/bigquery/v2/projects/{quote(self.project, safe='')}"

    @property
    def tables_path(self) -> str:
        """Of the dataset's tables."""
        return f"{self.project_path}/datasets/{quote(self.dataset, safe='')}/tables"

    @property
    def path(self) -> str:
        """Of the table."""
        return f"{self.tables_path}/{quote(self.table, safe='')}"


class BigQueryApi:
    """Requests with a token. A token that is refused is fetched again, once."""

    def __init__(
        self, name: str, http: HttpClient, tokens: Tokens, *, clock: Callable[[], float] = time.time
    ) -> None:
        """
        Args:
            name: The destination's, for errors.
            http: To the API's host.
            tokens: See there.
            clock: Seconds since the Unix epoch; a test may give its own.
        """
        self._name, self._http, self._tokens, self._clock = name, http, tokens, clock
        self.table_since = 0.0
        """When the table was made, in seconds since the Unix epoch; a new one is not known everywhere at once."""

    def call(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        content_type: str = "application/json",
        *,
        judged: frozenset[int] = frozenset(),
    ) -> Answer:
        """
        Make a request.

        Args:
            method: GET or POST.
            target: Path and query.
            body: None: no body.
            content_type: Of the body.
            judged: Statuses that are returned as well.

        Raises:
            DestinationUnavailable, DestinationRefusedUs, BatchRefused: By the error's reason; where it has none, by
                the status.
        """
        answer = self._request(method, target, body, content_type)
        if answer.status == 401:
            self._tokens.forget()
            answer = self._request(method, target, body, content_type)
        if answer.status in _ERRORS - judged:
            raise self._verdict(answer)
        return answer

    def ask(self, method: str, target: str, document: Any = None, *, judged: frozenset[int] = frozenset()) -> Answer:
        """`call` in JSON about what is no event's fault: what would be `BatchRefused` is `DestinationRefusedUs`."""
        body = None if document is None else orjson.dumps(document)
        refusals = frozenset({400, 409, 413, 422})
        answer = self.call(method, target, body, judged=judged | refusals)
        if answer.status in refusals - judged:
            raise self.refused_us(answer)
        return answer

    def refused_us(self, answer: Answer) -> Exception:
        """What an error means where no event is to blame."""
        error = self._verdict(answer)
        if isinstance(error, (DestinationUnavailable, DestinationRefusedUs)):
            return error
        return DestinationRefusedUs(self._name, f"{self._http.origin} answered {error}; check table_id and location")

    def passing(self, reason: str, what: str, asked_s: float | None = None) -> DestinationUnavailable | None:
        """
        The error to raise for a reason that passes by itself; None where it does not.

        Args:
            reason: ``reason`` of an ErrorProto.
            what: What happened, for people.
            asked_s: Seconds the server asks us to wait.
        """
        if reason == "notFound" and self._clock() - self.table_since < _NEW_TABLE_S:
            return DestinationUnavailable(self._name, f"{what} (notFound): the table is new", retry_after_s=asked_s)
        if reason not in _PASSING:
            return None
        if reason == "quotaExceeded":
            asked_s = max(asked_s or 0.0, _QUOTA_WAIT_S)
        # Without the message: what is retried is logged, and a message may repeat what was sent.
        return DestinationUnavailable(self._name, f"{what} ({reason})", retry_after_s=asked_s)

    def json(self, answer: Answer) -> dict[str, Any]:
        """
        The document of an answer.

        Raises:
            DestinationUnavailable: There is none; what became of the request cannot be known.
        """
        try:
            document = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            raise DestinationUnavailable(self._name, f"{self._http.origin} answered {answer.status} and no JSON")
        return document

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()
        self._tokens.close()

    def _request(self, method: str, target: str, body: bytes | None, content_type: str) -> Answer:
        headers = {"Authorization": f"Bearer {self._tokens.token()}"}
        if body is not None:
            headers["Content-Type"] = content_type
        return self._http.request(method, target, body, headers, judged=_ERRORS)

    def _verdict(self, answer: Answer) -> Exception:
        reason, message = _error(answer.body)
        reason = reason or ("notFound" if answer.status == 404 else "")
        asked_s = retry_after_s(answer.headers, self._clock())
        passing = self.passing(reason, f"{self._http.origin} answered {answer.status}", asked_s)
        if passing is not None:
            return passing
        said = replace(answer, body=f"{reason}: {message}".encode()) if message else answer
        error = self._http.verdict(said)
        remedy = _REMEDIES.get(answer.status)
        if isinstance(error, DestinationRefusedUs) and remedy:
            return DestinationRefusedUs(self._name, f"{error.message}; {remedy}")
        return error


def _error(body: bytes) -> tuple[str, str]:
    """Reason and message of an error's envelope; empty where there are none."""
    try:
        error = orjson.loads(body)["error"]
        first = error["errors"][0]
        return first_word(first["reason"]), str(error.get("message") or first.get("message") or "")
    except (orjson.JSONDecodeError, AttributeError, IndexError, KeyError, TypeError):
        return "", ""


def first_word(reason: Any) -> str:
    """A reason as it may be shown and compared; BigQuery's are words such as ``backendError``."""
    match = re.match(r"[A-Za-z]{1,40}", str(reason or ""))
    return match[0] if match else ""
