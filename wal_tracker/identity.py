"""
The id of an event: the same commit makes the same id on every replay, in either mode.

A UUIDv5 (RFC 9562 §5.5: SHA-1 over namespace and name) of what no replay changes. The name is four
netstrings and two numbers, so that no two different sources of an event spell the same name::

    <len>:<system identifier>,<len>:<table>,<len>:<rule>,<len>:<event>,<xid8>,<ordinal>

with lengths in bytes of UTF-8, and numbers in decimal. `ordinal` counts per table within the
transaction, so ids stay when another table joins the publication.
"""

from __future__ import annotations

import hashlib
import uuid

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "wal_tracker.event")

# RFC 9562 §4.1: the two upper bits of this digit are 10.
_VARIANT = {f"{digit:x}": "89ab"[digit & 3] for digit in range(16)}


class IdFactory:
    """Makes the ids of one event of one rule on one table; what they share is encoded once. Thread-safe."""

    __slots__ = ("_begun",)

    def __init__(self, system_identifier: str, rule: str, event: str, table: str) -> None:
        """
        Args:
            system_identifier: The database cluster's, from IDENTIFY_SYSTEM.
            rule: The rule's id: its track key, and in a list its name or position.
            event: The event's name.
            table: ``schema.table``, or ``message.<prefix>``.
        """
        parts = [text.encode() for text in (system_identifier, table, rule, event)]
        prefix = NAMESPACE.bytes + b"".join(b"%d:%b," % (len(part), part) for part in parts)
        self._begun = hashlib.sha1(prefix, usedforsecurity=False)

    def id(self, xid: int, ordinal: int) -> str:
        """
        The id of one event, in the usual 36 characters.

        Args:
            xid: The 64-bit transaction id, epoch included.
            ordinal: Zero-based place of the change among its table's changes in the transaction.
        """
        name = self._begun.copy()
        name.update(b"%d,%d" % (xid, ordinal))
        digest = name.hexdigest()
        return (
            f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{_VARIANT[digest[16]]}{digest[17:20]}-{digest[20:32]}"
        )


def event_id(system_identifier: str, xid: int, table: str, ordinal: int, rule: str, event: str) -> str:
    """The id of a single event; `IdFactory` makes many of them faster."""
    return IdFactory(system_identifier, rule, event, table).id(xid, ordinal)
