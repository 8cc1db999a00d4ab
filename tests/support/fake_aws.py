"""
S3, SQS and SNS as their documents say they behave, where moto does not: faults, limits, half-taken requests.

Signatures are checked (Signature Version 4), so that a wrong secret is refused as AWS refuses it.

See: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

import orjson

from tests.support.fake_vendor import FakeVendor, json_reply
from tests.support.http_server import Reply, Request

ACCESS_KEY = "AKIDEXAMPLE"
ACCOUNT = "123456789012"
MAX_ENTRIES = 10


class FakeAws(FakeVendor):
    """One service; `key` is the secret that belongs to `ACCESS_KEY`."""

    id_key = "id"
    needs_somebody = False
    service: ClassVar[str]
    region = "eu-west-1"

    @property
    def options(self) -> dict[str, Any]:
        return {"accessKey": ACCESS_KEY, "secretKey": self.key, "region": self.region, "endpoint": self.url("")}

    def secrets(self, request: Request) -> list[str]:
        return [ACCESS_KEY, self.key, request.headers["authorization"].rpartition("Signature=")[2]]

    def handle(self, request: Request) -> Reply:
        fault = self._who(request)
        if fault:
            return self.error(403, fault, "check your key and signing method")
        return self.act(request)

    def act(self, request: Request) -> Reply:
        """What the service does with a request that is signed well."""
        raise NotImplementedError

    def error(self, status: int, code: str, message: str) -> Reply:
        """A refusal in the service's form."""
        raise NotImplementedError

    def _who(self, request: Request) -> str:
        """The code of what is wrong with the signature."""
        match = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, "
            r"SignedHeaders=([^,]+), Signature=([0-9a-f]{64})",
            request.headers.get("authorization", ""),
        )
        if not match:
            return "MissingAuthenticationToken"
        key, day, region, service, names, signature = match.groups()
        if key != ACCESS_KEY:
            return "InvalidClientTokenId"
        if (region, service) != (self.region, self.service):
            return "SignatureDoesNotMatch"
        body = hashlib.sha256(request.raw).hexdigest()
        if request.headers.get("x-amz-content-sha256", body) != body:
            return "XAmzContentSHA256Mismatch"
        canonical = "\n".join(
            [
                request.method,
                request.path,
                "",
                *(f"{name}:{' '.join(request.headers[name].split())}" for name in names.split(";")),
                "",
                names,
                body,
            ]
        )
        scope = f"{day}/{region}/{service}/aws4_request"
        text = "\n".join(
            ["AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()]
        )
        signing = f"AWS4{self.key}".encode()
        for part in (*scope.split("/"), text):
            signing = hmac.new(signing, part.encode(), hashlib.sha256).digest()
        return "" if hmac.compare_digest(signing.hex(), signature) else "SignatureDoesNotMatch"


def xml_error(status: int, code: str, message: str, *, namespace: str = "") -> Reply:
    """An error as S3 (bare) and the query protocol (in an ErrorResponse) tell it."""
    error = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    body = f'<ErrorResponse xmlns="{namespace}">{error}<RequestId>1</RequestId></ErrorResponse>' if namespace else error
    return Reply(status, f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'.encode(), {"Content-Type": "text/xml"})


class FakeS3(FakeAws):
    """
    One bucket. `objects` holds what is in it by key; `stored` the events in them, by id, where each first came.

    See: https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html
    """

    kind = "s3"
    service = "s3"
    parts_by_name = True
    bucket = "events-of-the-shop"
    looks_inside = False

    def __init__(self, *, key: str = "k3y-of-the-project") -> None:
        super().__init__(key=key)
        self.objects: dict[str, bytes] = {}
        self.overwritten = 0
        """How many objects were replaced by other bytes."""

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, "bucket": self.bucket, "rootDir": "/shop/"}

    def items(self, request: Request) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in request.body.splitlines()]

    def refusal(self, text: bytes = b"") -> Reply:
        return self.error(400, "EntityTooLarge", text.decode())

    def error(self, status: int, code: str, message: str) -> Reply:
        return xml_error(status, code, message)

    def act(self, request: Request) -> Reply:
        bucket, _, key = request.path.removeprefix("/").partition("/")
        if request.method != "PUT":
            return self.error(405, "MethodNotAllowed", "The specified method is not allowed")
        if bucket != self.bucket:
            return self.error(404, "NoSuchBucket", "The specified bucket does not exist")
        if len(unquote(key).encode()) > 1024:
            return self.error(400, "KeyTooLongError", "Your key is too long")
        digest = base64.b64encode(hashlib.md5(request.raw).digest()).decode()
        if request.headers.get("content-md5", digest) != digest:
            return self.error(400, "BadDigest", "The Content-MD5 you specified did not match what we received")
        before = self.objects.get(unquote(key), request.raw)
        self.objects[unquote(key)] = request.raw
        if before != request.raw:
            # What was overwritten is gone.
            self.overwritten += 1
            self.stored = {}
        fresh = [request.body] if ".jsonl" in key else []
        for body in self.lines.values() if before != request.raw else fresh:
            for line in body.splitlines():
                event = orjson.loads(line)
                # A raw change has no id of its own.
                self.stored.setdefault(event.get("id", line), event)
        return Reply(200, b"", {"ETag": f'"{hashlib.md5(request.raw).hexdigest()}"'})

    @property
    def lines(self) -> Mapping[str, bytes]:
        """The objects, decompressed; those of JSON lines."""
        return {
            key: gzip.decompress(body) if key.endswith(".gz") else body
            for key, body in list(self.objects.items())
            if ".jsonl" in key
        }


class FakeMessages(FakeAws):
    """
    What SQS and SNS have in common. `messages` holds what can be received, in order; a FIFO drops what it has seen.

    `stored` holds events by the id they are deduplicated by; standard queues keep every copy.
    """

    max_events = MAX_ENTRIES

    def __init__(self, *, key: str = "k3y-of-the-project", fifo: bool = True, max_message_bytes: int) -> None:
        super().__init__(key=key)
        self.fifo, self.max_message_bytes = fifo, max_message_bytes
        self.target_name = "events.fifo" if fifo else "events"
        self.messages: list[dict[str, Any]] = []
        self.failing: list[dict[str, tuple[bool, str]]] = []
        """For each of the next requests: by an event's id, whether the sender is at fault, and the code."""

    @property
    def options(self) -> dict[str, Any]:
        # A test's events are each about somebody else.
        return {**super().options, "group": "distinct_id"}

    def entries(self, request: Request) -> list[dict[str, Any]]:
        """Of a request, as SendMessageBatch has them."""
        raise NotImplementedError

    def items(self, request: Request) -> list[dict[str, Any]]:
        return [orjson.loads(entry["MessageBody"]) for entry in self.entries(request)]

    def refusal(self, text: bytes = b"") -> Reply:
        return self.error(400, "InvalidMessageContents", text.decode())

    def take(self, entries: list[dict[str, Any]]) -> Reply | tuple[list[str], list[tuple[str, bool, str]]]:
        """Which entries were taken, and which not: their id, whether the sender is at fault, and the code."""
        if not entries:
            return self.error(400, "EmptyBatchRequest", "There should be at least one entry")
        if len(entries) > MAX_ENTRIES:
            return self.error(400, "TooManyEntriesInBatchRequest", "Maximum number of entries per request are 10")
        if sum(map(size, entries)) > self.max_message_bytes:
            return self.error(400, "BatchRequestTooLong", f"it is longer than {self.max_message_bytes} bytes")
        failing = self.failing.pop(0) if self.failing else {}
        taken, failed = [], []
        for entry in entries:
            event = orjson.loads(entry["MessageBody"])
            sender_fault, code = failing.get(event["id"], (True, self._fault(entry, event)))
            if code:
                failed.append((entry["Id"], sender_fault, code))
                continue
            taken.append(entry["Id"])
            key = entry["MessageDeduplicationId"] if self.fifo else len(self.messages)
            if key not in self.stored:
                self.stored[key] = event
                self.messages.append(entry)
        return taken, failed

    def _fault(self, entry: dict[str, Any], event: dict[str, Any]) -> str:
        if re.search("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", entry["MessageBody"]):
            return "InvalidMessageContents"
        if self.fifo != ("MessageDeduplicationId" in entry) or self.fifo != ("MessageGroupId" in entry):
            return "InvalidParameterValue"
        if self.fifo and not re.fullmatch(r"[!-~]{1,128}", entry["MessageGroupId"]):
            return "InvalidParameterValue"
        return "InvalidParameterValue" if event["id"] in self.poison else ""


def size(entry: dict[str, Any]) -> int:
    """Bytes of a message: its body, and its attributes' names, types and values."""
    attributes = entry.get("MessageAttributes", {})
    return len(entry["MessageBody"].encode()) + sum(
        len(name.encode()) + len(value["DataType"]) + len(value["StringValue"].encode())
        for name, value in attributes.items()
    )


class FakeSqs(FakeMessages):
    """
    One queue, in the JSON protocol.

    See: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
    """

    kind = "sqs"
    service = "sqs"

    def __init__(self, *, key: str = "k3y-of-the-project", fifo: bool = True, max_message_bytes: int = 1 << 20) -> None:
        super().__init__(key=key, fifo=fifo, max_message_bytes=max_message_bytes)

    @property
    def queue_url(self) -> str:
        return self.url(f"/{ACCOUNT}/{self.target_name}")

    @property
    def options(self) -> dict[str, Any]:
        given = {**super().options, "queueUrl": self.queue_url}
        del given["endpoint"]
        return given

    def entries(self, request: Request) -> list[dict[str, Any]]:
        return list(request.json()["Entries"])

    def error(self, status: int, code: str, message: str) -> Reply:
        return json_reply(status, __type=f"com.amazonaws.sqs#{code}", message=message)

    def act(self, request: Request) -> Reply:
        if request.headers.get("x-amz-target") != "AmazonSQS.SendMessageBatch":
            return self.error(400, "InvalidAction", "no such action")
        if request.json()["QueueUrl"] != self.queue_url:
            return self.error(400, "QueueDoesNotExist", "The specified queue does not exist.")
        outcome = self.take(self.entries(request))
        if isinstance(outcome, Reply):
            return outcome
        taken, failed = outcome
        digests = {e["Id"]: hashlib.md5(e["MessageBody"].encode()).hexdigest() for e in self.entries(request)}
        return json_reply(
            200,
            Successful=[{"Id": id, "MessageId": f"m{id}", "MD5OfMessageBody": digests[id]} for id in taken],
            Failed=[
                {"Id": id, "SenderFault": fault, "Code": code, "Message": "this event will not do"}
                for id, fault, code in failed
            ],
        )


class FakeSns(FakeMessages):
    """
    One topic, in the query protocol.

    See: https://docs.aws.amazon.com/sns/latest/api/API_PublishBatch.html
    """

    kind = "sns"
    service = "sns"
    namespace = "http://sns.amazonaws.com/doc/2010-03-31/"

    def __init__(self, *, key: str = "k3y-of-the-project", fifo: bool = True, max_message_bytes: int = 1 << 18) -> None:
        super().__init__(key=key, fifo=fifo, max_message_bytes=max_message_bytes)

    @property
    def topic_arn(self) -> str:
        return f"arn:aws:sns:{self.region}:{ACCOUNT}:{self.target_name}"

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, "topicArn": self.topic_arn}

    def entries(self, request: Request) -> list[dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for name, value in parse_qsl(request.body.decode(), keep_blank_values=True):
            match = re.fullmatch(r"PublishBatchRequestEntries\.member\.(\d+)\.(.+)", name)
            if match:
                found.setdefault(int(match[1]), {})[match[2]] = value
        return [self._entry(found[number]) for number in sorted(found)]

    def error(self, status: int, code: str, message: str) -> Reply:
        return xml_error(status, code, message, namespace=self.namespace)

    def act(self, request: Request) -> Reply:
        form = dict(parse_qsl(request.body.decode(), keep_blank_values=True))
        if form.get("Action") != "PublishBatch":
            return self.error(400, "InvalidAction", "no such action")
        if form.get("TopicArn") != self.topic_arn:
            return self.error(404, "NotFound", "Topic does not exist")
        outcome = self.take(self.entries(request))
        if isinstance(outcome, Reply):
            return outcome
        taken, failed = outcome
        successful = "".join(f"<member><Id>{id}</Id><MessageId>m{id}</MessageId></member>" for id in taken)
        refused = "".join(
            f"<member><Id>{id}</Id><SenderFault>{str(fault).lower()}</SenderFault><Code>{code}</Code>"
            "<Message>this event will not do</Message></member>"
            for id, fault, code in failed
        )
        body = (
            f'<PublishBatchResponse xmlns="{self.namespace}"><PublishBatchResult><Successful>{successful}</Successful>'
            f"<Failed>{refused}</Failed></PublishBatchResult></PublishBatchResponse>"
        )
        return Reply(200, body.encode(), {"Content-Type": "text/xml"})

    @staticmethod
    def _entry(flat: dict[str, str]) -> dict[str, Any]:
        entry: dict[str, Any] = {name: value for name, value in flat.items() if "." not in name}
        entry["MessageBody"] = entry.pop("Message")
        attributes: dict[str, dict[str, str]] = {}
        for number in range(1, 11):
            begin = f"MessageAttributes.entry.{number}."
            if f"{begin}Name" in flat:
                attributes[flat[f"{begin}Name"]] = {
                    "DataType": flat[f"{begin}Value.DataType"],
                    "StringValue": flat[f"{begin}Value.StringValue"],
                }
        return {**entry, "MessageAttributes": attributes}
