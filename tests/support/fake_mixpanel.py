"""
Mixpanel's import endpoint, which in strict mode keeps the good records of a request and names the bad ones, and those
of profiles, which answer 200 whatever became of them.
"""

from __future__ import annotations

import re
import time
from typing import Any

from tests.support.fake_vendor import FakeVendor, json_reply, parsed
from tests.support.http_server import Reply, Request

# Neither a distinct_id nor an $insert_id may be one of these.
PLACEHOLDERS = frozenset(
    {
        "00000000-0000-0000-0000-000000000000",
        "anon",
        "anonymous",
        "nil",
        "none",
        "null",
        "n/a",
        "na",
        "undefined",
        "unknown",
        "<nil>",
        "0",
        "-1",
        "true",
        "false",
        "[]",
        "{}",
    }
)
MIN_TIME_MS = 31_536_000_000
HOUR_MS = 3_600_000


class FakeMixpanel(FakeVendor):
    """
    Takes ``/import``, ``/engage``, ``/groups``.

    `stored` holds events by what Mixpanel deduplicates on: event, distinct_id, time, $insert_id.

    See: https://developer.mixpanel.com/reference/import-events
    See: https://developer.mixpanel.com/reference/profile-set
    """

    kind = "mixpanel"
    has_profiles = True
    id_key = "$insert_id"
    max_events = 2000
    max_bytes = 10 * 1024 * 1024

    def __init__(self, *, key: str = "k3y-of-the-project") -> None:
        super().__init__(key=key)
        self.account = ("wal.tracker.mp-service-account", "s3cret-of-it", "4711")
        """User, secret and project."""
        self.poisoned_people: set[str] = set()
        """Persons whose profile it never takes."""

    @property
    def options(self) -> dict[str, Any]:
        return {"projectToken": self.key, "apiEndpoint": self.url(""), "allow_private": True}

    @property
    def ids(self) -> list[str]:
        return [event["properties"]["$insert_id"] for event in list(self.stored.values())]

    def items(self, request: Request) -> list[dict[str, Any]]:
        if request.path != "/import":
            return []
        return [{"$insert_id": event["properties"]["$insert_id"], **event} for event in request.json()]

    def handle(self, request: Request) -> Reply:
        if request.path in ("/engage", "/groups"):
            return self._profiles(request)
        if request.path != "/import":
            return json_reply(404, code=404, error="not found", status="Not Found")
        if len(request.body) > self.max_bytes:
            error = f"request exceeds max limit of {self.max_bytes} bytes"
            return json_reply(413, code=413, error=error, status="Request Entity Too Large")
        if not self._knows(request):
            return json_reply(401, code=401, error="Invalid credentials", status="Unauthorized")
        events = parsed(request)
        if not isinstance(events, list) or len(events) > self.max_events:
            return json_reply(400, code=400, error="request body is not a list of events", status="Bad Request")
        failed = []
        for index, event in enumerate(events):
            field, message = self._fault(event)
            if field:
                insert_id = event.get("properties", {}).get("$insert_id", "")
                failed.append({"index": index, "insert_id": insert_id, "field": field, "message": message})
            else:
                properties = event["properties"]
                key = (event["event"], properties["distinct_id"], properties["time"], properties["$insert_id"])
                self.stored.setdefault(key, event)
        if failed and request.query.get("strict") == ["1"]:
            return json_reply(
                400,
                code=400,
                error="some data points in the request failed validation",
                status="Bad Request",
                num_records_imported=len(events) - len(failed),
                failed_records=failed,
            )
        return json_reply(200, code=200, num_records_imported=len(events) - len(failed), status="OK")

    def _profiles(self, request: Request) -> Reply:
        """Without `strict` 1 says that some record is good; an unknown token is taken, too, and leads nowhere."""
        if "content-encoding" in request.headers:
            return json_reply(400, error="compressed requests are not taken", status=0)
        updates = parsed(request)
        if not isinstance(updates, list) or not updates:
            return json_reply(200, error="data, missing or empty", status=0)
        failed = []
        for index, update in enumerate(updates):
            field = self._profile_fault(update, is_group=request.path == "/groups")
            if field:
                failed.append({"index": index, "field": field, "message": f"'{field}' is invalid"})
            elif update["$token"] == self.key and request.path == "/engage":
                self.learn_person(update["$distinct_id"], update["$set"])
            elif update["$token"] == self.key:
                self.learn_group(update["$group_key"], update["$group_id"], update["$set"])
        if failed and request.query.get("strict") == ["1"]:
            error = "some data points in the request failed validation"
            good = len(updates) - len(failed)
            return json_reply(
                200, code=400, error=error, status="Bad Request", num_good_events=good, failed_records=failed
            )
        return json_reply(200, error=None, status=int(len(failed) < len(updates)))

    def _profile_fault(self, update: dict[str, Any], *, is_group: bool) -> str:
        names = ("$token", "$group_key", "$group_id") if is_group else ("$token", "$distinct_id")
        for name in names:
            if not isinstance(update.get(name), str) or not update[name]:
                return name
        if not isinstance(update.get("$set"), dict):
            return "$set"
        who = "" if is_group else update["$distinct_id"]
        return "$distinct_id" if who.lower() in PLACEHOLDERS or who in self.poisoned_people else ""

    def _knows(self, request: Request) -> bool:
        user, secret, project = self.account
        if request.query.get("project_id") is None:
            return self.basic(request) == f"{self.key}:"
        return request.query["project_id"] == [project] and self.basic(request) == f"{user}:{secret}"

    def _fault(self, event: dict[str, Any]) -> tuple[str, str]:
        properties = event.get("properties")
        if not event.get("event") or not isinstance(properties, dict):
            return "event", "'event' is required"
        moment, who, insert_id = (properties.get(name) for name in ("time", "distinct_id", "$insert_id"))
        if not isinstance(moment, int) or not MIN_TIME_MS <= moment <= time.time() * 1000 + HOUR_MS:
            return "properties.time", "'properties.time' is invalid: must be between 1971 and an hour from now"
        if not isinstance(who, str) or who.lower() in PLACEHOLDERS:
            return "properties.distinct_id", "'properties.distinct_id' is invalid: a placeholder"
        if not isinstance(insert_id, str) or not re.fullmatch(r"[A-Za-z0-9-]{1,36}", insert_id):
            return "properties.$insert_id", "'properties.$insert_id' is invalid"
        if len(properties) >= 255 or insert_id in self.poison:
            return "properties", "'properties' is invalid: this event will not do"
        return "", ""
