"""Moments as events carry them: RFC 3339, UTC, six digits where there is a fraction, ``Z``."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from wal_tracker.model import Transaction, Value

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def commit_moment(transaction: Transaction) -> datetime | None:
    """When the transaction committed, by the server's clock; None for a non-transactional message."""
    if not transaction.commit_time:
        return None
    return _EPOCH + timedelta(microseconds=transaction.commit_time_us)


def timestamp_text(value: Value) -> str:
    """
    A rule's `timestamp` as the event carries it; "" where the rule gave null.

    Args:
        value: An aware datetime, a string that is already RFC 3339, or None.
    """
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    return str(value)
