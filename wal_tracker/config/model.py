"""
What a configuration says, complete and checked: frozen dataclasses, one per section.

Defaults stand here with their unit and reason. No expression is compiled here and no vendor's option is known:
an expression is its text and its place, a destination's options are handed on as they stand in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union

from wal_tracker.model import Op
from wal_tracker.secret import Secret

Mode = Literal["wal", "trigger", "kafka"]
NumericForm = Literal["double", "string"]
Ignored = Union[Literal["*"], frozenset[str]]
"""A whole table, or the names of columns."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A CEL expression as it stands in the file; not compiled."""

    source: str
    path: str
    """Dotted path inside the file, such as ``track.users.insert.properties.id``."""
    line: int
    """1-based, of the scalar's beginning."""
    column: int
    file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackRule:
    """One rule: what one kind of change becomes."""

    key: str
    """The track key as written."""
    schema: str
    table: str
    """Empty for a rule over logical messages."""
    ops: tuple[Op, ...]
    message_prefix: str | None = None
    position: int = 0
    """Zero-based place in the key's list."""
    listed: bool = False
    """Whether the key holds a list of rules."""
    name: str | None = None
    event: str | None = None
    """The event of a simple rule; None where `cond` chooses among `blocks`."""
    properties: Mapping[str, Expression] = field(default_factory=dict)
    cond: Expression | None = None
    blocks: Mapping[str, Mapping[str, Expression]] = field(default_factory=dict)
    """Event name to its properties."""
    when: Expression | None = None
    distinct_id: Expression | None = None
    timestamp: Expression | None = None
    destinations: tuple[str, ...] | None = None
    """Only these; None: every destination whose filter fits."""
    line: int = 0
    column: int = 0

    @property
    def rule_id(self) -> str:
        """
        What names the rule in event ids and dead letters: its key, and in a list its name or else its position.

        ``#`` before a name and brackets round a position keep a rule named "0" apart from the first one.
        """
        if not self.listed:
            return self.key
        return f"{self.key}#{self.name}" if self.name is not None else f"{self.key}[{self.position}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """Where changes come from."""

    dsn: Secret
    """A primary or a replica; empty where none is configured: libpq's own defaults then hold."""
    primary_dsn: Secret | None = None
    """When `dsn` is a replica: where publications are made and running transactions are logged."""
    mode: Mode = "wal"
    plugin: Literal["pgoutput", "wal2json"] = "pgoutput"
    slot: str = "wal_tracker"
    publication: str = "wal_tracker"
    schema: str = "public"
    """Of tables named without one."""
    capture: Literal["tolerant", "strict"] = "tolerant"
    """Trigger mode, when a change cannot be captured: let the application's write through and note it, or refuse it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryConfig:
    """How events are handed to destinations. `metadata` holds each field's bounds, both included."""

    max_batch_events: int | None = field(default=None, metadata={"low": 1, "high": 1_000_000})
    """None: the destination's own limit, which can be lowered and not raised."""
    max_batch_bytes: int | None = field(default=None, metadata={"low": 1024, "high": 1 << 30})
    linger_s: float | None = field(default=None, metadata={"low": 0, "high": 3600})
    """How long a batch may wait for more events."""
    max_queue_bytes: int = field(default=8 * 1024 * 1024, metadata={"low": 1024, "high": 1 << 34})
    """Bytes on the wire of what a destination holds undelivered; beyond it reading pauses."""
    retry_base_s: float = field(default=0.5, metadata={"low": 0.001, "high": 3600})
    retry_cap_s: float = field(default=60.0, metadata={"low": 0.001, "high": 86400})
    request_timeout_s: float = field(default=15.0, metadata={"low": 0.1, "high": 3600})
    shutdown_timeout_s: float = field(default=30.0, metadata={"low": 0, "high": 3600})
    """Container platforms kill 30 s after SIGTERM by default (Kubernetes: terminationGracePeriodSeconds)."""
    stall_timeout_s: float = field(default=10.0, metadata={"low": 0.1, "high": 3600})
    """How long the replication connection may wait for room before it is closed: a socket left unread
    blocks the server, and one closed does not."""
    checkpoint_interval_s: float = field(default=0.25, metadata={"low": 0.01, "high": 60})
    """Positions are stored and confirmed at most this often."""


PER_DESTINATION = frozenset(
    {"max_batch_events", "max_batch_bytes", "linger_s", "retry_base_s", "retry_cap_s", "request_timeout_s"}
)
"""The fields of `DeliveryConfig` an entry under `destinations` may set for itself; the others belong to the loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLettersConfig:
    """How many dead letters are kept. `metadata` holds the bounds, both included."""

    max_letters: int = field(default=100_000, metadata={"low": 1, "high": 100_000_000})
    """A letter is some kilobytes on the state store's disk; and a person looks at one of a kind, not at so many."""
    at_bound: Literal["hold", "shed"] = "hold"
    """``hold``: what makes more waits until there is room, nothing is lost. ``shed``: the oldest go, as a gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationConfig:
    """One entry under `destinations` or `raw_db_event_destinations`."""

    name: str
    kind: str
    filter: tuple[str, ...] = ("*",)
    """Globs over the event's name (of a raw change: over table names)."""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What the destination's own Config reads. Variables are expanded; secrets are still plain text."""
    delivery: DeliveryConfig = DeliveryConfig()
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumericConfig:
    """How numeric columns are read: as doubles, or as text with every digit."""

    default: NumericForm = "double"
    columns: Mapping[tuple[str, str, str], NumericForm] = field(default_factory=dict)

    def of(self, schema: str, table: str, column: str) -> NumericForm:
        """How this column is read."""
        return self.columns.get((schema, table, column), self.default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole configuration."""

    path: Path | None = None
    source: SourceConfig
    rules: tuple[TrackRule, ...] = ()
    """In the order of the file."""
    destinations: tuple[DestinationConfig, ...] = ()
    """May be empty; who runs the pipeline then takes stdout."""
    raw_destinations: tuple[DestinationConfig, ...] = ()
    ignore: Mapping[tuple[str, str], Ignored] = field(default_factory=dict)
    """By (schema, table)."""
    delivery: DeliveryConfig = DeliveryConfig()
    dead_letters: DeadLettersConfig = DeadLettersConfig()
    state: Secret = Secret("sqlite:///wal_tracker.db")
    """Where positions, dead letters and gaps are kept. A PostgreSQL URL may hold a password."""
    numeric: NumericConfig = NumericConfig()
    hash_key: Secret | None = None
    """Key of ``hash()`` in rules."""
    warnings: tuple[str, ...] = ()
    """What may not be meant as it is written; each names its place."""
