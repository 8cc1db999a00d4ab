"""
The composition root: the only file that turns a configuration into objects that run.

`Run` is everything `wal_tracker run` needs, checked and connected, and let go of again in the right order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType

from wal_tracker.channels import Channel
from wal_tracker.config.model import Config, DestinationConfig
from wal_tracker.decode.base import Decoder, Wanted, WantedFor
from wal_tracker.decode.changes import ChangeReader
from wal_tracker.decode.pgoutput import PgOutput
from wal_tracker.delivery import Delivery, DeliverySettings
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import Destination
from wal_tracker.errors import ConfigError, PluginError, PreflightFailed, SlotLost
from wal_tracker.lsn import LSN
from wal_tracker.model import Column, Relation
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.pipeline import Pipeline
from wal_tracker.replay import deliver_letters
from wal_tracker.rules.check import Problem, check
from wal_tracker.rules.engine import RuleSet
from wal_tracker.source import catalog, setup
from wal_tracker.source import slot as slots
from wal_tracker.source.connection import Session, SourceSettings
from wal_tracker.source.replication import ReplicationSource
from wal_tracker.state import open_state
from wal_tracker.state.base import Gap, SourceIdentity, StateStore

logger = logging.getLogger("wal_tracker.assemble")

RAW = "raw:"
"""Before the name of a destination of raw changes, wherever it stands beside the others."""


def build_decoder(config: Config, types: TypeCatalog, wanted: WantedFor) -> Decoder:
    """The decoder for the configured output plugin; types that appear in mid-stream are looked up."""
    live = catalog.LiveCatalog(config.source.dsn, types)

    def wanted_with_types(relation: Relation) -> Wanted | None:
        live.learn_types(relation)
        return wanted(relation)

    as_string = numeric_as_string(config)
    if config.source.plugin == "pgoutput":
        return PgOutput(wanted_with_types, types, numeric_as_string=as_string)
    from wal_tracker.decode.wal2json import Wal2Json

    return Wal2Json(wanted_with_types, types, numeric_as_string=as_string, describe=live.describe)


def numeric_as_string(config: Config) -> Callable[[Relation, Column], bool]:
    """Whether a numeric column is read as its digits."""

    def as_string(relation: Relation, column: Column) -> bool:
        return config.numeric.of(relation.schema, relation.table, column.name) == "string"

    return as_string


def delivery_settings(entry: DestinationConfig) -> DeliverySettings:
    """What the delivery room needs to know of one destination."""
    delivery = entry.delivery
    return DeliverySettings(
        max_batch_events=delivery.max_batch_events,
        max_batch_bytes=delivery.max_batch_bytes,
        linger_s=delivery.linger_s,
        retry_base_s=delivery.retry_base_s,
        retry_cap_s=delivery.retry_cap_s,
    )


def build_reader(config: Config, types: TypeCatalog) -> ChangeReader:
    """What reads stored changes for the rules."""
    return ChangeReader(types, numeric_as_string=numeric_as_string(config), default_schema=config.source.schema)


def build_destination(entry: DestinationConfig, *, raw: bool = False) -> Destination:
    """
    Make the destination of one entry; opens nothing.

    Args:
        entry: Of `destinations` or `raw_db_event_destinations`.
        raw: Which of the two.

    Raises:
        ConfigError: Options are wrong.
        PluginError: It is unknown, lacks its library, or takes no raw changes.
    """
    destination = registry.build(
        entry.name,
        entry.kind,
        entry.options,
        entry.path,
        defaults={"request_timeout_s": entry.delivery.request_timeout_s},
    )
    if raw and not destination.accepts_raw:
        raise PluginError(f"destination {entry.kind!r} takes events, not raw changes")
    return destination


class Sinks:
    """The configured destinations, built and not yet opened."""

    def __init__(self, config: Config, given: Mapping[str, Destination] | None = None) -> None:
        """
        Args:
            config: The configuration; without any destination, events go to stdout.
            given: Destinations made already, by name; they take the place of what the configuration says there.

        Raises:
            ConfigError: Options are wrong.
            PluginError: A destination is unknown or lacks its library.
        """
        given = given or {}
        self.events = [(entry, given.get(entry.name) or build_destination(entry)) for entry in config.destinations]
        # The two sections are name spaces of their own; positions and dead letters are not.
        self.raw = [
            (replace(entry, name=RAW + entry.name), build_destination(entry, raw=True))
            for entry in config.raw_destinations
        ]
        if not self.events and not self.raw:
            entry = DestinationConfig(
                name="stdout", kind="stdout", filter=("*",), options={}, delivery=config.delivery, path="destinations"
            )
            self.events = [(entry, given.get("stdout") or build_destination(entry))]

    def channels(self, state: StateStore, position: LSN) -> list[Channel]:
        """
        One channel for each destination, beginning where the state store says it stands.

        Args:
            state: Where positions and dead letters are.
            position: Where a destination begins that is not known yet.
        """
        cursors = state.cursors()
        channels = []
        for entry, destination in (*self.events, *self.raw):
            cursor = cursors.get(entry.name)
            channels.append(
                Channel(
                    config=entry,
                    delivery=Delivery(entry.name, destination, delivery_settings(entry), state),
                    start=max(position, cursor.lsn) if cursor else position,
                    raw=entry.name.startswith(RAW),
                )
            )
        return channels

    @property
    def names(self) -> list[str]:
        """Under which the state store knows them."""
        return [entry.name for entry, _ in (*self.events, *self.raw)]


def refuse(problems: list[Problem]) -> None:
    """
    Log warnings, and raise for the rest.

    Raises:
        ConfigError: At least one error.
        PreflightFailed: No error, but findings.
    """
    errors = [str(problem) for problem in problems if problem.severity == "error"]
    if errors:
        raise ConfigError("\n".join(errors))
    for problem in problems:
        if problem.severity == "warning":
            logger.warning("configuration: %s", problem)
    findings = [str(problem) for problem in problems if problem.severity == "finding"]
    if findings:
        raise PreflightFailed(findings)


class Run:
    """
    The main job, ready to go: ``with Run(config) as job: job.pipeline.run()``.

    Entering checks the configuration against the database, takes the state store for this process alone, and decides
    where reading begins. Leaving closes everything.
    """

    pipeline: Pipeline
    state: StateStore

    def __init__(
        self,
        config: Config,
        *,
        apply_first: bool = False,
        until_caught_up: bool = False,
        destinations: Mapping[str, Destination] | None = None,
    ) -> None:
        """
        Args:
            config: The configuration.
            apply_first: Make publication and slot where they are missing.
            until_caught_up: The pipeline ends when everything committed by now is delivered.
            destinations: Take these instead of what the configuration names.
        """
        self._config = config
        self._apply_first = apply_first
        self._until_caught_up = until_caught_up
        self._given = destinations
        self._stack = ExitStack()

    def __enter__(self) -> Run:
        with ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self, stack: ExitStack) -> None:
        config = self._config
        sinks = Sinks(config, self._given)
        self.state = state = open_state(config.state)
        stack.callback(state.close)
        stack.enter_context(state.exclusive())
        settings = setup.desired(config).settings
        types = TypeCatalog()
        with Session(settings.dsn) as session:
            types.add(catalog.read_types(session))
            refuse(check(config, types, catalog.read_tables(session)))
            if self._apply_first:
                for statement in setup.apply(setup.desired(config)):
                    logger.info("executed", extra={"statement": statement})
            server = slots.identify(settings)
            status = slots.read_status(session, settings.slot)
            until = slots.end_of_commits(session) if self._until_caught_up else None
        position = self._begin_at(settings, server, status, sinks)
        rules = RuleSet(config, types, system_identifier=server.system_identifier, mode="wal")
        source = ReplicationSource(settings, build_decoder(config, types, rules.wanted_events))
        stack.callback(source.close)
        self.pipeline = Pipeline(
            source,
            rules,
            sinks.channels(state, position),
            state,
            config.delivery,
            position=position,
            until=until,
            reader=build_reader(config, types),
        )

    def _begin_at(
        self, settings: SourceSettings, server: slots.ServerIdentity, status: slots.SlotStatus | None, sinks: Sinks
    ) -> LSN:
        """Hold our own position against the slot; record a gap where the slot is ahead of it."""
        state, known = self.state, self.state.identity()
        cursors = state.cursors()
        # A destination that was taken out of the configuration holds nobody back.
        concerned = [cursors[name] for name in sinks.names if name in cursors] or list(cursors.values())
        stored = None
        if known is not None and concerned:
            positions = [cursor.lsn for cursor in concerned]
            stored = slots.StoredPosition(
                min(positions), known.system_identifier, known.timeline, known.database, furthest=max(positions)
            )
        try:
            start = slots.check_start(stored, status, server, slot=settings.slot, plugin=settings.plugin)
        except SlotLost as error:
            state.record_gap(Gap(error.confirmed or LSN(0), None, "slot_lost", error.reason))
            raise
        if start.gap is not None:
            gap = start.gap
            state.record_gap(Gap(gap.from_lsn, gap.to_lsn, gap.reason, gap.detail))
            logger.warning("gap: changes were not delivered", extra={"detail": gap.detail})
        state.set_identity(
            SourceIdentity(server.system_identifier, server.timeline, server.database, settings.slot)
        )
        return start.lsn


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What became of dead letters that were to be delivered."""

    delivered: int
    failed: int


def replay_dead_letters(config: Config, state: StateStore) -> ReplayResult:
    """
    Deliver the dead letters marked for it, without a source; for when no `run` holds the state store.

    Raises:
        StateError: Another process holds the store.
        DestinationError: A destination cannot be opened, or refuses us.
    """
    with state.exclusive():
        known = state.identity()
        types = TypeCatalog()
        rules = RuleSet(config, types, system_identifier=known.system_identifier if known else "", mode="wal")
        channels = Sinks(config).channels(state, LSN(0))
        return ReplayResult(*deliver_letters(state, rules, build_reader(config, types), channels, config.delivery))
