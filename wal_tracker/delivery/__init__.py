"""Queue, spool, batching, retry and dead letters around one destination. Knows no vendor."""

from __future__ import annotations

from wal_tracker.delivery.backoff import Backoff
from wal_tracker.delivery.delivery import Delivery, DeliverySettings
from wal_tracker.delivery.handover import HandOver
from wal_tracker.delivery.kept import in_commit_order
from wal_tracker.delivery.queue import Batch, Queue
from wal_tracker.delivery.sender import Records, dead_letter
from wal_tracker.delivery.spool import Spool

__all__ = [
    "Backoff",
    "Batch",
    "Delivery",
    "DeliverySettings",
    "HandOver",
    "Queue",
    "Records",
    "Spool",
    "dead_letter",
    "in_commit_order",
]
