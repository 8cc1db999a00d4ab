"""
Files in S3, or in what speaks like it (MinIO, R2, Spaces): JSON lines or Parquet, laid out as Hive does.

See: https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html
See: https://athena.guide/articles/hive-style-partitioning/
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, ClassVar, Literal
from urllib.parse import quote

import orjson

from wal_tracker.destinations.base import Limits, Mark, Outcome
from wal_tracker.errors import PluginError
from wal_tracker.lsn import LSN
from wal_tracker.model import Deliverable, RawChange
from wal_tracker_destinations.aws import AwsClient, AwsOptions
from wal_tracker_destinations.batches import Batches, Item, Unfit, epoch_us

# What botocore lets through: also old buckets with capitals, and access points.
_BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}|arn:[A-Za-z0-9:/._-]+")

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
_MAX_KEY_BYTES = 1024
# Two LSNs, a digest and an ending.
_NAME_BYTES = 16 + 1 + 16 + 1 + 32 + len(".jsonl.gz")

# Half of what a delivery holds by default (max_queue_bytes): with a batch that is larger, reading would pause for it.
_OBJECT_BYTES = 4 * 1024 * 1024

# An event's JSON is seldom smaller, so that bytes, not a count, end a batch.
_SMALL_EVENT_BYTES = 256


def _limits(object_bytes: int) -> Limits:
    return Limits(max_batch_events=object_bytes // _SMALL_EVENT_BYTES, max_batch_bytes=object_bytes, linger_s=5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line(Item):
    """An event's line, and the directory its object goes to."""

    directory: str


class S3(Batches):
    """
    Puts each batch as one object for each event name and hour, and goes on once S3 has them all.

    Keys are ``{rootDir}/event={name}/dt=YYYY-MM-DD/hour=HH/{first LSN}-{last LSN}-{digest}.jsonl.gz``, by the event's
    own time in UTC; a raw change's begin with ``table={schema.table}``. The digest is of the object's lines, so a key
    only ever holds one content: a batch that comes again overwrites itself, and nothing else is ever overwritten. After
    a crash the same events may be cut into batches differently; then an event stands in two objects, and is told by
    ``id`` (a raw change by ``commit_lsn``, ``schema``, ``table`` and ``ordinal``). Nothing is lost either way.

    A batch is put after 5 s or 4 MiB, and what it holds is not confirmed to PostgreSQL before that. For fewer and
    larger objects raise ``linger_s``, `object_bytes` and ``max_queue_bytes`` (twice `object_bytes`, or reading pauses
    until the batch is put); when stopped, a batch may wait ``stall_timeout_s`` before it is put.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(AwsOptions):
        """Options of one bucket; the role needs ``s3:PutObject`` and nothing else."""

        bucket: str
        """Its name, or an access point's ARN."""
        root_dir: str = ""
        """Beginning of every key."""
        format: Literal["jsonl", "parquet"] = "jsonl"
        """JSON lines, or Parquet with zstd (`pip install 'wal_tracker[parquet]'`)."""
        compression: Literal["gzip", "none"] = "gzip"
        """Of JSON lines."""
        object_bytes: int = _OBJECT_BYTES
        """Of a batch's events as JSON, before compression; an object is no larger."""

        def __post_init__(self) -> None:
            AwsOptions.__post_init__(self)
            if not _BUCKET.fullmatch(self.bucket):
                raise ValueError("bucket is not a bucket's name")
            if any(part in (".", "..") for part in self.root_dir.split("/")) or not self.root_dir.isprintable():
                raise ValueError("root_dir (rootDir) must be a plain path, without . and ..")
            if len(self.root_dir.encode()) > _MAX_KEY_BYTES // 2:
                raise ValueError(f"root_dir (rootDir) must not be longer than {_MAX_KEY_BYTES // 2} bytes")
            if not 1024 <= self.object_bytes <= 1 << 28:
                raise ValueError(f"object_bytes must be from 1024 to {1 << 28}")

    vendor = "S3"
    limits = _limits(_OBJECT_BYTES)
    accepts_raw: ClassVar[bool] = True

    def __init__(self, name: str, config: Config) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.

        Raises:
            PluginError: The library that writes Parquet is not installed.
        """
        self.name, self.config = name, config
        self.limits = _limits(config.object_bytes)
        if config.format == "parquet":
            try:
                import pyarrow.parquet  # noqa: F401 - an extra of its own, and large
            except ModuleNotFoundError as error:
                raise PluginError(
                    f"destination {name!r}: format: parquet needs the library 'pyarrow', which is not installed: "
                    "pip install 'wal_tracker[parquet]'"
                ) from error
        self._root = config.root_dir.strip("/")
        self._aws = AwsClient(
            name,
            "s3",
            config,
            # What stands behind an endpoint of one's own seldom has a host name for each bucket.
            s3={"addressing_style": "path" if config.endpoint else "auto", "payload_signing_enabled": True},
            region="us-east-1" if config.endpoint else None,
        )

    def open(self, mark: Mark | None) -> None:  # noqa: ARG002 - S3 keeps what it has
        """Find credentials; the bucket is met with the first batch, because listing it needs another permission."""
        self._aws.open()

    def close(self) -> None:
        """Let go of the connection."""
        self._aws.close()

    def _fit(self, event: Deliverable) -> Sequence[_Line]:
        line = _Line(event, event.to_json(), directory=self._directory(event))
        if len(line.directory) + 1 + _NAME_BYTES > _MAX_KEY_BYTES:
            raise Unfit(f"its name is too long for a key of {_MAX_KEY_BYTES} bytes")
        return [line]

    def _directory(self, event: Deliverable) -> str:
        """Where an event's object goes; whatever the event is called, it is one segment, and no other's."""
        moment = datetime.fromtimestamp(epoch_us(event) // 1_000_000, timezone.utc)
        if isinstance(event, RawChange):
            kind = f"table={quote(event.name.rpartition('.')[0], safe='')}"
        else:
            kind = f"event={quote(event.name, safe='')}"
        root = f"{self._root}/" if self._root else ""
        return f"{root}{kind}/dt={moment:%Y-%m-%d}/hour={moment:%H}"

    def _requests(self, items: Sequence[tuple[int, Item]]) -> Iterator[Sequence[tuple[int, Item]]]:
        """The items by the directory they go to; within one, in order."""
        directories: dict[str, list[tuple[int, Item]]] = {}
        for index, item in items:
            assert isinstance(item, _Line)
            directories.setdefault(item.directory, []).append((index, item))
        yield from directories.values()

    def _send(self, items: Sequence[Item]) -> Mapping[int, Outcome]:
        first, last = items[0], items[-1]
        assert isinstance(first, _Line)
        lines = b"".join(item.body + b"\n" for item in items)
        # Of the lines whatever the format: what compresses or writes Parquet may change with a version.
        digest = hashlib.sha256(lines).hexdigest()[:32]
        name = f"{_commit_lsn(first.event):016X}-{_commit_lsn(last.event):016X}-{digest}"
        if self.config.format == "parquet":
            ending, kind, body = "parquet", "application/vnd.apache.parquet", to_parquet([i.event for i in items])
        elif self.config.compression == "gzip":
            # mtime=0: the same events give the same bytes. No Content-Encoding: the file is what its name says.
            ending, kind, body = "jsonl.gz", "application/gzip", gzip.compress(lines, 6, mtime=0)
        else:
            ending, kind, body = "jsonl", "application/x-ndjson", lines
        self._aws.call(
            "put_object",
            Bucket=self.config.bucket,
            Key=f"{first.directory}/{name}.{ending}",
            Body=body,
            ContentType=kind,
            # Buckets with Object Lock ask for it; everything that speaks like S3 knows it.
            ContentMD5=base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode(),
        )
        return {}


def to_parquet(events: Sequence[Deliverable]) -> bytes:
    """
    The events as a Parquet file: ``event_id``, ``event``, ``distinct_id``, ``timestamp`` (microseconds, UTC), and
    ``properties`` and ``source`` as JSON text, because what they hold differs from event to event.

    See: https://parquet.apache.org/docs/file-format/
    """
    import pyarrow
    from pyarrow import parquet

    text = pyarrow.string()
    schema = pyarrow.schema(
        [
            pyarrow.field("event_id", text, nullable=False),
            pyarrow.field("event", text, nullable=False),
            pyarrow.field("distinct_id", text),
            pyarrow.field("timestamp", pyarrow.timestamp("us", tz="UTC"), nullable=False),
            pyarrow.field("properties", text, nullable=False),
            pyarrow.field("source", text, nullable=False),
        ]
    )
    rows = [_row(event) for event in events]
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), out, compression="zstd")
    return out.getvalue()


def _row(event: Deliverable) -> dict[str, Any]:
    if isinstance(event, RawChange):
        properties, source = event.to_json(), orjson.dumps(event.source)
    else:
        # From the JSON, so that every digit is what a line would hold.
        document = json.loads(event.to_json(), parse_float=orjson.Fragment, parse_int=orjson.Fragment)
        properties, source = orjson.dumps(document["properties"]), orjson.dumps(document["source"])
    return {
        "event_id": event.id,
        "event": event.name,
        "distinct_id": event.distinct_id,
        "timestamp": epoch_us(event),
        "properties": properties.decode(),
        "source": source.decode(),
    }


def _commit_lsn(event: Deliverable) -> LSN:
    return LSN.parse(event.source["commit_lsn"])
