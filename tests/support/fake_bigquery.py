"""BigQuery's REST API for one table, and the endpoint that gives tokens for it."""

from __future__ import annotations

import base64
import re
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, unquote

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from tests.support.fake_vendor import FakeVendor, json_reply, parsed
from tests.support.http_server import Reply, Request

EMAIL = "wal-tracker@shop-1.iam.gserviceaccount.com"
AUDIENCE = "https://oauth2.googleapis.com/token"
METADATA = "/computeMetadata/v1/instance/service-accounts/default/token"
PROJECT = "/bigquery/v2/projects/shop-1"
TABLES = f"{PROJECT}/datasets/analytics/tables"
JOBS = f"{PROJECT}/jobs"
EVENTS = [
    ("id", "STRING", "REQUIRED"),
    ("name", "STRING", "REQUIRED"),
    ("properties", "JSON", "NULLABLE"),
    ("user_id", "STRING", "NULLABLE"),
    ("timestamp", "TIMESTAMP", "REQUIRED"),
    ("processed_at", "TIMESTAMP", "REQUIRED"),
]
CHANGES = [
    ("id", "STRING", "REQUIRED"),
    ("event_type", "STRING", "REQUIRED"),
    ("row_table_name", "STRING", "REQUIRED"),
    ("old_row", "JSON", "NULLABLE"),
    ("new_row", "JSON", "NULLABLE"),
    ("logged_at", "TIMESTAMP", "REQUIRED"),
]


@lru_cache(maxsize=1)
def private_key() -> rsa.RSAPrivateKey:
    """The service account's, made once a run."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class FakeBigQuery(FakeVendor):
    """
    Keeps rows: streamed ones by ``insertId``, loaded ones by job and line, so that what is loaded twice is there twice.

    See: https://cloud.google.com/bigquery/docs/reference/rest
    """

    kind = "bigquery"
    id_key = "id"
    needs_somebody = False
    max_events = 50_000

    def __init__(self, *, method: str = "stream", key: str = "k3y-of-the-project") -> None:
        self.method = method
        self.table: dict[str, Any] | None = None
        """A Table resource; None: it is not there."""
        self.dataset_is_there = True
        self.tokens: list[str] = []
        """Those that are good."""
        self.token_life_s = 3599
        self.given = 0
        """How many tokens were given out."""
        self.aside_requests: list[Request] = []
        self.trouble: dict[str, deque[Reply]] = defaultdict(deque)
        """Scripts for requests without events, by ``token``, ``table`` and ``job``."""
        self.row_faults: dict[str, str] = {}
        """Reasons why rows are not taken now, by id; each once."""
        self.job_faults: deque[str] = deque()
        """Reasons the next jobs fail for."""
        self.jobs: dict[str, dict[str, Any]] = {}
        self.polls = 0
        """How often a job is looked at before it has run."""
        self._waiting: dict[str, tuple[int, list[dict[str, Any]]]] = {}
        self.unknown_for = 0
        """How many inserts do not find the table yet."""
        super().__init__(key=key)
        self.make_table(EVENTS)
        if method == "load":
            self.refuses_with = 413
        else:
            self.max_bytes = 10 * 1024 * 1024

    @property
    def credentials(self) -> dict[str, Any]:
        """A service account's key, as Google gives it."""
        pem = private_key().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "type": "service_account",
            "project_id": "shop-1",
            "private_key_id": self.key,
            "private_key": pem.decode(),
            "client_email": EMAIL,
            "client_id": "1",
            "token_uri": self.url("/token"),
        }

    @property
    def options(self) -> dict[str, Any]:
        options = {
            "tableId": "shop-1.analytics.events",
            "credentialsJson": orjson.dumps(self.credentials).decode(),
            "apiEndpoint": self.url(""),
            "allow_private": True,
        }
        # Nothing for the default, so that pg_track_events' two keys are shown to be enough.
        return options if self.method == "stream" else {**options, "method": self.method}

    def items(self, request: Request) -> list[dict[str, Any]]:
        if request.path.endswith("/insertAll"):
            return [{"insertId": row["insertId"], **row["json"]} for row in request.json()["rows"]]
        return _upload(request)[1]

    def secrets(self, request: Request) -> list[str]:
        return [request.headers["authorization"].removeprefix("Bearer ")]

    def make_table(self, columns: Sequence[tuple[str, str, str]], *, age_s: float = 86_400.0, **more: Any) -> None:
        """Have a table."""
        fields = [{"name": name, "type": type, "mode": mode} for name, type, mode in columns]
        self.table = {
            "kind": "bigquery#table",
            "type": "TABLE",
            "location": "EU",
            "creationTime": str(int((time.time() - age_s) * 1000)),
            "schema": {"fields": fields},
            **more,
        }

    def aside(self, request: Request) -> Reply | None:
        if request.path in ("/token", METADATA):
            kind, answer = "token", self._token
        elif request.path.startswith(TABLES) and not request.path.endswith("/insertAll"):
            kind, answer = "table", self._table
        elif request.path.startswith(JOBS):
            kind, answer = "job", self._job
        else:
            return None
        self.aside_requests.append(request)
        if self.trouble[kind]:
            return self.trouble[kind].popleft()
        return answer(request)

    def handle(self, request: Request) -> Reply:
        if not self._knows(request):
            return error(401, "authError", "Invalid Credentials")
        if len(request.body) > self.max_bytes:
            return Reply(413, b"<html>Error 413 (Request Entity Too Large)</html>")
        if request.path == f"/upload{JOBS}" and request.query.get("uploadType") == ["multipart"]:
            return self._insert_job(request)
        if request.path == f"{TABLES}/events/insertAll":
            return self._insert_all(request)
        return error(404, "notFound", "Not found")

    # Tokens ------------------------------------------------------------------------------------------

    def _token(self, request: Request) -> Reply:
        if request.path == METADATA:
            if request.method != "GET" or request.headers.get("metadata-flavor") != "Google":
                return Reply(403, b"Missing Metadata-Flavor:Google header.")
        else:
            form = parse_qs(request.body.decode())
            fault = self._assertion_fault(form.get("assertion", [""])[0])
            if form.get("grant_type") != ["urn:ietf:params:oauth:grant-type:jwt-bearer"]:
                return json_reply(400, error="unsupported_grant_type")
            if fault:
                return json_reply(400, error="invalid_grant", error_description=fault)
        self.given += 1
        self.tokens.append(f"ya29.token-{self.given}")
        return json_reply(
            200, access_token=self.tokens[-1], expires_in=self.token_life_s, token_type="Bearer"
        )

    def _assertion_fault(self, assertion: str) -> str:
        header, claims, signature = [*assertion.split("."), "", "", ""][:3]
        try:
            private_key().public_key().verify(
                _decoded(signature), f"{header}.{claims}".encode(), padding.PKCS1v15(), SHA256()
            )
        except InvalidSignature:
            return "Invalid JWT Signature."
        if orjson.loads(_decoded(header)) != {"typ": "JWT", "alg": "RS256", "kid": self.key}:
            return "Invalid JWT Signature."
        said = orjson.loads(_decoded(claims))
        if said["iss"] != EMAIL or said["aud"] != AUDIENCE:
            return "Invalid grant: account not found"
        if not said["iat"] - 300 <= time.time() < said["exp"] <= said["iat"] + 3600:
            return "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
        if said["scope"] != "https://www.googleapis.com/auth/bigquery":
            return "Invalid scope"
        return ""

    def _knows(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return scheme == "Bearer" and token in self.tokens

    # The table ---------------------------------------------------------------------------------------

    def _table(self, request: Request) -> Reply:
        if not self._knows(request):
            return error(401, "authError", "Invalid Credentials")
        if not self.dataset_is_there:
            return error(404, "notFound", "Not found: Dataset shop-1:analytics")
        if request.method == "GET":
            if self.table is None or request.path != f"{TABLES}/events":
                return error(404, "notFound", "Not found: Table shop-1:analytics.events")
            return json_reply(200, **self.table)
        if self.table is not None:
            return error(409, "duplicate", "Already Exists: Table shop-1:analytics.events")
        document = request.json()
        assert document["tableReference"] == {"projectId": "shop-1", "datasetId": "analytics", "tableId": "events"}
        self.make_table((), age_s=0, **document)
        assert self.table is not None
        return json_reply(200, **self.table)

    # Streaming ---------------------------------------------------------------------------------------

    def _insert_all(self, request: Request) -> Reply:
        if self.table is None or self.unknown_for:
            self.unknown_for = max(0, self.unknown_for - 1)
            return error(404, "notFound", "Not found: Table shop-1:analytics.events")
        document = parsed(request)
        if document is None or len(document["rows"]) > self.max_events:
            return error(400, "invalid", f"too many rows present in the request, limit: {self.max_events}")
        faults: dict[int, dict[str, Any]] = {}
        good: dict[int, tuple[str, dict[str, Any]]] = {}
        for index, row in enumerate(document["rows"]):
            insert_id, values = row["insertId"], dict(row["json"])
            assert 0 < len(insert_id) <= 128
            reason = self.row_faults.pop(values.get("id", ""), "")
            field, message = self._fault(values, text_is_json=True)
            if reason or field:
                faults[index] = _proto(reason or "invalid", field, message)
            else:
                good[index] = (insert_id, values)
        if faults and not document.get("skipInvalidRows"):
            faults.update({index: _proto("stopped", "", "") for index in good})
            good = {}
        for insert_id, values in good.values():
            self.stored.setdefault(insert_id, values)
        errors = [{"index": index, "errors": [fault]} for index, fault in sorted(faults.items())]
        told = {"insertErrors": errors} if errors else {}
        return json_reply(200, kind="bigquery#tableDataInsertAllResponse", **told)

    def _fault(self, values: dict[str, Any], *, text_is_json: bool) -> tuple[str, str]:
        """Field and message of what is wrong with a row; its JSON columns become what they stand for."""
        assert self.table is not None
        fields = {field["name"]: field for field in self.table["schema"]["fields"]}
        for name in values:
            if name not in fields:
                return name, f"no such field: {name}."
        for name, field in fields.items():
            value = values.get(name)
            if value is None:
                if field.get("mode") == "REQUIRED":
                    return name, f"Missing required field: {name}."
            elif field["type"] == "TIMESTAMP":
                try:
                    datetime.fromisoformat(value.replace("Z", "+00:00"))
                except ValueError:
                    return name, f"Could not parse '{value}' as a timestamp."
            elif field["type"] == "JSON" and text_is_json:
                if not isinstance(value, str):
                    return name, f"This field: {name} is not a record."
                try:
                    values[name] = orjson.loads(value)
                except orjson.JSONDecodeError:
                    return name, "syntax error while parsing value"
            elif field["type"] == "STRING" and not isinstance(value, str):
                return name, f"Cannot convert value to string (bad value): {value}"
        return ("properties", "this row will not do") if values["id"] in self.poison else ("", "")

    # Load jobs ---------------------------------------------------------------------------------------

    def _insert_job(self, request: Request) -> Reply:
        document, rows = _upload(request)
        reference, load = document["jobReference"], document["configuration"]["load"]
        job_id = reference["jobId"]
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,1024}", job_id)
        for label, value in document["configuration"]["labels"].items():
            assert re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", label) and re.fullmatch(r"[a-z0-9_-]{0,63}", value)
        if job_id in self.jobs:
            return error(409, "duplicate", f"Already Exists: Job shop-1:EU.{job_id}")
        if reference.get("location", "EU") != "EU":
            return error(404, "notFound", "Not found: Dataset shop-1:analytics was not found in location")
        assert (load["sourceFormat"], load["writeDisposition"]) == ("NEWLINE_DELIMITED_JSON", "WRITE_APPEND")
        assert load["destinationTable"] == {"projectId": "shop-1", "datasetId": "analytics", "tableId": "events"}
        document["jobReference"]["location"] = "EU"
        document["status"] = {"state": "PENDING" if self.polls else "RUNNING"}
        self.jobs[job_id] = document
        self._waiting[job_id] = (self.polls, rows)
        reply = json_reply(200, **document)
        if not self.polls:
            self._run(job_id)
        return reply

    def _job(self, request: Request) -> Reply:
        if not self._knows(request):
            return error(401, "authError", "Invalid Credentials")
        job_id = unquote(request.path.rpartition("/")[2])
        if job_id not in self.jobs or request.query.get("location") != ["EU"]:
            return error(404, "notFound", f"Not found: Job shop-1:{job_id}")
        if job_id in self._waiting:
            left, rows = self._waiting[job_id]
            self._waiting[job_id] = (left - 1, rows)
            if left <= 1:
                self._run(job_id)
        return json_reply(200, **self.jobs[job_id])

    def _run(self, job_id: str) -> None:
        _, rows = self._waiting.pop(job_id)
        status: dict[str, Any] = {"state": "DONE"}
        if self.job_faults:
            reason = self.job_faults.popleft()
            status["errorResult"] = _proto(reason, "", f"the job failed with {reason}")
        elif self.table is None:
            status["errorResult"] = _proto("notFound", "", "Not found: Table shop-1:analytics.events")
        elif any(self._fault(row, text_is_json=False)[0] for row in rows):
            message = "Error while reading data, error message: JSON table encountered too many errors, giving up."
            status["errorResult"] = _proto("invalid", "", message)
        else:
            self.stored.update({(job_id, line): row for line, row in enumerate(rows)})
        self.jobs[job_id]["status"] = status


def error(status: int, reason: str, message: str, **headers: str) -> Reply:
    """An answer as Google's APIs give it."""
    first = {"domain": "global", "reason": reason, "message": message}
    body = {"error": {"code": status, "message": message, "errors": [first], "status": "X"}}
    return Reply(status, orjson.dumps(body), {"Content-Type": "application/json", **headers})


def _proto(reason: str, location: str, message: str) -> dict[str, Any]:
    return {"reason": reason, "location": location, "debugInfo": "", "message": message}


def _upload(request: Request) -> tuple[Any, list[dict[str, Any]]]:
    """Metadata and rows of a multipart upload (RFC 2387); the library's parser takes seconds for megabytes."""
    boundary = request.headers["content-type"].removeprefix("multipart/related; boundary=").encode()
    before, metadata, media, after = (b"\r\n" + request.body).split(b"\r\n--" + boundary)
    assert (before, after) == (b"", b"--\r\n")
    headers, _, document = metadata.partition(b"\r\n\r\n")
    assert headers == b"\r\nContent-Type: application/json; charset=UTF-8"
    headers, _, rows = media.partition(b"\r\n\r\n")
    assert headers == b"\r\nContent-Type: application/octet-stream"
    return orjson.loads(document), [orjson.loads(line) for line in rows.split(b"\n")]


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
