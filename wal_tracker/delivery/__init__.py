"""Queue, batching, retry and dead letters around one destination. Knows no vendor and no state store."""

from __future__ import annotations

from wal_tracker.delivery.backoff import Backoff
from wal_tracker.delivery.delivery import DeadLetters, Delivery, DeliverySettings
from wal_tracker.delivery.queue import Batch, Queue

__all__ = ["Backoff", "Batch", "DeadLetters", "Delivery", "DeliverySettings", "Queue"]
