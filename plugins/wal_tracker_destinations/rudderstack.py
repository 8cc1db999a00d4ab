"""
RudderStack, cloud or one's own, by its data plane's batch endpoint: Segment's protocol with other limits.

See: https://www.rudderstack.com/docs/api/http-api/
See: https://github.com/rudderlabs/rudder-server/blob/master/gateway/response/response.go
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wal_tracker.destinations.base import Limits
from wal_tracker.model import Deliverable
from wal_tracker_destinations.batches import part_id, vendor_url
from wal_tracker_destinations.segment import Tracks, WriteKeyOptions


class RudderStack(Tracks):
    """
    Sends ``track``, ``identify`` and ``group`` calls to one source, each of which needs a distinct_id; duplicates are
    dropped by ``messageId`` where the data plane does that.

    It refuses a whole request for one bad message and does not say which; halving finds it. An event without a
    distinct_id is a dead letter.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(WriteKeyOptions):
        """Options of one source."""

        data_plane_url: str
        """The workspace's data plane, such as ``https://example.dataplane.rudderstack.com``."""
        gzip: bool = True
        """Compress requests, as RudderStack's own libraries do."""

        def __post_init__(self) -> None:
            WriteKeyOptions.__post_init__(self)
            try:
                self.url()
            except ValueError as error:
                raise ValueError(f"data_plane_url {error}") from error

        def url(self) -> str:
            """Where batches go."""
            return vendor_url(self.data_plane_url, {}, "/v1/batch")

    vendor = "RudderStack"
    # The gateway takes 4000 KiB a request (Gateway.maxReqSizeInKB), decompressed, and knows no limit for one message.
    limits = Limits(max_batch_events=100, max_batch_bytes=3_000_000, linger_s=0.5, concurrency=4)
    max_event_bytes = 3_900_000
    max_request_bytes = 4_000_000

    def __init__(self, name: str, config: Config, *, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
            clock: Seconds since the Unix epoch; a test may give its own.
        """
        self.config = config
        super().__init__(name, config, config.url(), gzip=config.gzip, clock=clock)

    def _identify(self, event: Deliverable, traits: dict[str, Any]) -> dict[str, Any]:
        # As in their libraries; a ``group`` call has its traits where Segment's has them.
        return self._message(event, "identify", part_id(event, "identify"), {}, {"traits": traits})

    def _message(
        self, event: Deliverable, kind: str, message_id: str, told: Mapping[str, Any], context: Mapping[str, Any]
    ) -> dict[str, Any]:
        # The first is required by the event specification, the second is what their libraries send.
        return {
            **super()._message(event, kind, message_id, told, context),
            "originalTimestamp": event.timestamp,
            "channel": "server",
            "integrations": {"All": True},
        }
