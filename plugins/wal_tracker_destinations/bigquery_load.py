"""
Load jobs that load nothing twice.

A job is named after the first row in it and says how many rows there are. Who comes again with that row, after a
crash or a lost answer, finds the job by its name, and goes on behind its last row.

See: https://cloud.google.com/bigquery/docs/reference/rest/v2/jobs/insert
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from wal_tracker.destinations.base import BatchRefused, Outcome, Retry
from wal_tracker.destinations.http import Answer
from wal_tracker.errors import DestinationRefusedUs, DestinationUnavailable
from wal_tracker_destinations.batches import Item
from wal_tracker_destinations.bigquery_api import BigQueryApi, TableId, first_word

_FIRST_LOOK_S = 0.1
_LOOK_S = 5.0
_DUPLICATE = frozenset({409})


class LoadJobs:
    """Loads rows into one table. BigQuery knows a job by its name for six months."""

    def __init__(
        self, name: str, api: BigQueryApi, table: TableId, *, location: str | None, made: str, timeout_s: float
    ) -> None:
        """
        Args:
            name: The destination's, for errors.
            api: See there.
            table: Where the rows go.
            location: Where jobs run; None: BigQuery decides.
            made: Tells the table from another one of its name: when it was made.
            timeout_s: For a job to end.
        """
        self._name, self._api, self._table, self._made = name, api, table, made
        self._location, self._timeout_s = location, timeout_s
        # A name, and how many jobs of that name are of no use.
        self._passed = ("", 0)

    def load(self, items: Sequence[Item]) -> Mapping[int, Outcome]:
        """
        Load every row that no job has loaded.

        Returns:
            What must come again, by position: all rows from one on, or none.

        Raises:
            DestinationUnavailable, DestinationRefusedUs, BatchRefused: Nothing of the items is known to be loaded.
        """
        done = 0
        while done < len(items):
            try:
                done += self._job(items[done:])
            except (DestinationUnavailable, BatchRefused) as error:
                if not done:
                    raise
                asked_s = error.retry_after_s if isinstance(error, DestinationUnavailable) else 0.0
                again = Retry(asked_s, "a later load job of the batch failed")
                return dict.fromkeys(range(done, len(items)), again)
        return {}

    def _job(self, items: Sequence[Item]) -> int:
        """Have one job, found or made, that has loaded the first of these; and tell how many it has."""
        base = self._base(items)
        attempt = self._passed[1] if self._passed[0] == base else 0
        while True:
            job_id = f"{base}-r{attempt}" if attempt else base
            answer = self._submit(job_id, items)
            is_ours = answer.status != 409
            job = self._api.json(answer) if is_ours else self._get(job_id, self._location)
            count = len(items) if is_ours else _holds(job, items)
            error = _error(self._ended(job_id, job)) if count else {}
            if count and not error:
                return count
            # It failed, or its rows are not these: the rules were changed in between, or the batch is shorter now.
            attempt += 1
            self._passed = (base, attempt)
            if is_ours:
                raise self._verdict(job_id, error)

    def _base(self, items: Sequence[Item]) -> str:
        seed = f"{self._table}\n{self._made}\n{items[0].event.id}"
        return f"wal_tracker_{hashlib.sha256(seed.encode()).hexdigest()[:40]}"

    def _submit(self, job_id: str, items: Sequence[Item]) -> Answer:
        reference = {"projectId": self._table.project, "jobId": job_id}
        if self._location:
            reference["location"] = self._location
        document = {
            "jobReference": reference,
            "configuration": {
                "labels": {"wal_tracker_rows": str(len(items)), "wal_tracker_ids": _digest(items)},
                "load": {
                    "destinationTable": self._table.reference,
                    "sourceFormat": "NEWLINE_DELIMITED_JSON",
                    "createDisposition": "CREATE_NEVER",
                    "writeDisposition": "WRITE_APPEND",
                    "maxBadRecords": 0,
                },
            },
        }
        # JSON has no raw line end inside, so no line of a row can be taken for a boundary.
        boundary = job_id.encode()
        body = b"\r\n".join(
            (
                b"--" + boundary,
                b"Content-Type: application/json; charset=UTF-8",
                b"",
                orjson.dumps(document),
                b"--" + boundary,
                b"Content-Type: application/octet-stream",
                b"",
                b"\n".join(item.body for item in items),
                b"--" + boundary + b"--",
                b"",
            )
        )
        answer = self._api.call(
            "POST",
            f"/upload{self._table.project_path}/jobs?uploadType=multipart&prettyPrint=false",
            body,
            f"multipart/related; boundary={job_id}",
            judged=frozenset({400, 409}),
        )
        if answer.status == 400 and b"payload size" not in answer.body:
            # Rows are not looked at before the job runs.
            raise self._api.refused_us(answer)
        if answer.status == 400:
            raise BatchRefused("HTTP 400: the request's payload is too large")
        return answer

    def _get(self, job_id: str, location: str | None) -> dict[str, Any]:
        query = "?prettyPrint=false" + (f"&location={quote(location, safe='')}" if location else "")
        return self._api.json(self._api.ask("GET", f"{self._table.project_path}/jobs/{job_id}{query}"))

    def _ended(self, job_id: str, job: dict[str, Any]) -> dict[str, Any]:
        """
        The job once it has ended.

        Raises:
            DestinationUnavailable: It has not in time; whoever comes again finds it by its name.
        """
        # Where it runs is known once it is there.
        location = (job.get("jobReference") or {}).get("location") or self._location
        deadline = time.monotonic() + self._timeout_s
        look_s = _FIRST_LOOK_S
        while (job.get("status") or {}).get("state") != "DONE":
            if time.monotonic() + look_s > deadline:
                raise DestinationUnavailable(
                    self._name, f"the load job {job_id} has not ended within {self._timeout_s:g} s; it is asked again"
                )
            time.sleep(look_s)
            look_s = min(look_s * 1.5, _LOOK_S)
            job = self._get(job_id, location)
        return job

    def _verdict(self, job_id: str, error: Mapping[str, Any]) -> Exception:
        """What it means that a job failed: the exception to raise."""
        reason, message = first_word(error.get("reason")), str(error.get("message", ""))[:300]
        passing = self._api.passing(reason, f"the load job {job_id} failed")
        if passing is not None:
            return passing
        if reason == "invalid":
            # It names no row by its place in the file.
            return BatchRefused(f"BigQuery: load job {job_id}: {message}")
        return DestinationRefusedUs(
            self._name, f"the load job {job_id} failed ({reason}): {message}; `bq show -j {job_id}` tells more"
        )


def _error(job: Mapping[str, Any]) -> Mapping[str, Any]:
    return (job.get("status") or {}).get("errorResult") or {}


def _digest(items: Sequence[Item]) -> str:
    """Tells rows from others, in what a label may hold."""
    return hashlib.sha256("\n".join(item.event.id for item in items).encode()).hexdigest()[:40]


def _holds(job: Mapping[str, Any], items: Sequence[Item]) -> int:
    """How many of these items, from the first on, are all that the job was given; 0: it was given something else."""
    labels = (job.get("configuration") or {}).get("labels") or {}
    text = str(labels.get("wal_tracker_rows", ""))
    count = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0
    if 0 < count <= len(items) and _digest(items[:count]) == labels.get("wal_tracker_ids"):
        return count
    return 0
