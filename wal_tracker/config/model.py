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
    line: int = field(compare=False)
    """1-based, of the scalar's beginning; an expression that only moved is the same."""
    column: int = field(compare=False)
    file: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRule:
    """The group the event of a rule belongs to."""

    type: str
    """As it is written, such as ``company``."""
    id: Expression
    """Null: no group."""
    traits: Mapping[str, Expression] = field(default_factory=dict)


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
    """
    The event of a simple rule; None where `cond` chooses among `blocks`.

    `model.IDENTIFY` or `model.GROUP_IDENTIFY` where the rule names none and has `identify` or `group`.
    """
    properties: Mapping[str, Expression] = field(default_factory=dict)
    cond: Expression | None = None
    blocks: Mapping[str, Mapping[str, Expression]] = field(default_factory=dict)
    """Event name to its properties."""
    identify: Mapping[str, Expression] = field(default_factory=dict)
    """Traits of the person the event is about, whichever event it is; empty: none."""
    group: GroupRule | None = None
    when: Expression | None = None
    distinct_id: Expression | None = None
    timestamp: Expression | None = None
    destinations: tuple[str, ...] | None = None
    """Only these; None: every destination whose filter fits."""
    line: int = field(default=0, compare=False)
    column: int = field(default=0, compare=False)

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
    concurrency: int | None = field(default=None, metadata={"low": 1, "high": 64})
    """Requests on their way at once; None: as many as the destination's vendor allows, which can be lowered only."""
    max_events_per_s: float = field(default=0, metadata={"low": 0, "high": 1_000_000})
    """0: as fast as it goes."""
    max_queue_bytes: int = field(default=8 * 1024 * 1024, metadata={"low": 1024, "high": 1 << 34})
    """Bytes on the wire of what a destination holds undelivered in memory; beyond it they go to its spool if it fails,
    and else reading pauses."""
    spool_after_s: float = field(default=30.0, metadata={"low": 0.1, "high": 86400})
    """What a failing destination holds in memory for longer goes to its spool, so that the server need not keep it."""
    max_spool_bytes: int = field(default=1 << 30, metadata={"low": 65536, "high": 1 << 44})
    """On disk, for each destination."""
    at_spool_bound: Literal["hold", "shed"] = field(default="hold", metadata={"choices": ("hold", "shed")})
    """When the spool is full: let the WAL wait on the server, or drop what comes, with a gap on record."""
    spool_dir: str | None = field(default=None, metadata={"text": True})
    """None: beside the state file; with a state in PostgreSQL nothing is spooled."""
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
    {
        "max_batch_events",
        "max_batch_bytes",
        "linger_s",
        "concurrency",
        "max_events_per_s",
        "max_queue_bytes",
        "spool_after_s",
        "max_spool_bytes",
        "at_spool_bound",
        "retry_base_s",
        "retry_cap_s",
        "request_timeout_s",
    }
)
"""The fields of `DeliveryConfig` an entry under `destinations` may set for itself; the others belong to the loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PropertyLists:
    """What a destination gets of an event's properties: globs over their names, at the top level only."""

    allow: tuple[str, ...] = ("*",)
    """These."""
    deny: tuple[str, ...] = ()
    """But not these."""
    hash: tuple[str, ...] = ()
    """Of what is left, these as pseudonyms; ``distinct_id`` means the event's own as well."""


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
    """Globs over the event's name (of a raw change: over table names); see `wal_tracker.config.globs`."""
    when: Expression | None = None
    """CEL over the event; only what it is true of goes there."""
    properties: PropertyLists | None = None
    """None: all of them, as they are."""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What the destination's own Config reads. Variables are expanded; secrets are still plain text."""
    delivery: DeliveryConfig = DeliveryConfig()
    begin: Literal["now", "spool"] = "now"
    """Where one begins that is new: with what is read next, or with what others still have in their spools."""
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
