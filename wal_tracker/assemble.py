"""
The composition root: the only file that turns a configuration into objects that run.

`Run` is everything `wal_tracker run` needs, checked and connected, and let go of again in the right order.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Union

from wal_tracker.channels import Channel
from wal_tracker.config.globs import chosen
from wal_tracker.config.model import Config, DestinationConfig
from wal_tracker.config.reload import with_new_options
from wal_tracker.decode.base import Decoder, Wanted, WantedFor
from wal_tracker.decode.changes import ChangeReader
from wal_tracker.decode.outbox import OutboxDecoder
from wal_tracker.decode.pgoutput import PgOutput
from wal_tracker.delivery import Delivery, DeliverySettings, HandOver, Spool, in_commit_order
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import Destination
from wal_tracker.errors import (
    ConfigError,
    OutboxInUse,
    PluginError,
    PreflightFailed,
    SlotLost,
    SourceError,
    SourceRefused,
    StateError,
)
from wal_tracker.failpoints import hit
from wal_tracker.lsn import LSN
from wal_tracker.model import Column, Deliverable, Relation
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.pipeline import Pipeline, Source, Stats
from wal_tracker.replay import deliver_letters
from wal_tracker.rules.check import Problem, check
from wal_tracker.rules.engine import RuleSet
from wal_tracker.rules.shape import Shape
from wal_tracker.secret import Secret
from wal_tracker.source import catalog, setup, switch
from wal_tracker.source import slot as slots
from wal_tracker.source.connection import Session, SourceSettings, read_sql
from wal_tracker.source.outbox import CapturedTables, CaptureFailure, MissingRows, OutboxSource
from wal_tracker.source.replication import ReplicationSource
from wal_tracker.source.switch import Switch
from wal_tracker.source.watch import TableWatch
from wal_tracker.state import open_state, spool_directory, store_name
from wal_tracker.state.base import OUTBOX, Cursor, Gap, LetterBound, SourceIdentity, Spooled, StateStore

logger = logging.getLogger("wal_tracker.assemble")

# Events copied at a time into the spool of a new destination.
_FILL_EVENTS = 1000

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


def build_outbox_source(
    config: Config,
    settings: SourceSettings,
    types: TypeCatalog,
    wanted: WantedFor,
    *,
    visible_in: str | None,
    beyond: LSN,
    on_capture_failures: Callable[[list[CaptureFailure]], None],
    on_missing_rows: Callable[[MissingRows], None],
) -> OutboxSource:
    """The source of trigger mode."""
    tables = CapturedTables(settings.dsn, types)
    decoder = OutboxDecoder(wanted, types, describe=tables.read, numeric_as_string=numeric_as_string(config))
    return OutboxSource(
        settings,
        decoder,
        visible_in=visible_in,
        beyond=beyond,
        on_capture_failures=on_capture_failures,
        on_missing_rows=on_missing_rows,
    )


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
        max_events_per_s=delivery.max_events_per_s,
        max_queue_bytes=delivery.max_queue_bytes,
        spool_after_s=delivery.spool_after_s,
        at_spool_bound=delivery.at_spool_bound,
    )


def spools_of(config: Config) -> Path | None:
    """The folder of all spools; None: nothing is spooled."""
    directory = config.delivery.spool_dir
    return Path(directory) if directory is not None else spool_directory(config.state)


def width(entry: DestinationConfig, destination: Destination) -> int:
    """How many requests to a destination may be on their way at once."""
    allowed = destination.limits.concurrency
    return min(allowed, entry.delivery.concurrency or allowed)


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


Sink = Union[Destination, HandOver]
"""Where events go: to a destination, or to a program that takes them itself."""


class Sinks:
    """The configured destinations, built and not yet opened."""

    def __init__(self, config: Config, given: Mapping[str, Sink] | None = None) -> None:
        """
        Args:
            config: The configuration; without any destination, events go to stdout.
            given: Destinations made already, by name (of raw changes with `RAW` before it); they take the place of what
                the configuration says there.

        Raises:
            ConfigError: Options are wrong.
            PluginError: A destination is unknown or lacks its library.
        """
        self._given = given = given or {}
        self._spools = spools_of(config)
        # Beside the state file they can be nobody else's.
        named = config.delivery.spool_dir is not None
        self._spools_owner = f"slot {config.source.slot}, state {store_name(config.state)}" if named else ""
        self.events: list[tuple[DestinationConfig, Sink]] = [
            (entry, given.get(entry.name) or build_destination(entry)) for entry in config.destinations
        ]
        # The two sections are name spaces of their own; positions and dead letters are not.
        self.raw: list[tuple[DestinationConfig, Sink]] = [
            (replace(entry, name=RAW + entry.name), given.get(RAW + entry.name) or build_destination(entry, raw=True))
            for entry in config.raw_destinations
        ]
        if not self.events and not self.raw:
            entry = DestinationConfig(
                name="stdout", kind="stdout", filter=("*",), options={}, delivery=config.delivery, path="destinations"
            )
            self.events = [(entry, given.get("stdout") or build_destination(entry))]
        hash_key = config.hash_key.reveal().encode() if config.hash_key else None
        self._named = {rule.rule_id: rule.destinations for rule in config.rules}
        self._shapes = {entry.name: Shape.of(entry, hash_key) for entry, _ in (*self.events, *self.raw)}

    def channels(
        self, state: StateStore, rules: RuleSet, position: LSN, *, outlast_refusals: bool = False
    ) -> list[Channel]:
        """
        One channel for each destination, beginning where the state store says it stands.

        Args:
            state: Where positions and dead letters are.
            rules: Know which rule made an event that is refused.
            position: Where a destination begins that is not known yet.
            outlast_refusals: Go on without a destination that refuses us, where there are others.
        """
        cursors = state.cursors()
        outlasts = outlast_refusals and len(self.names) > 1
        channels = []
        for entry, destination in (*self.events, *self.raw):
            cursor, raw = cursors.get(entry.name), entry.name.startswith(RAW)
            siblings: list[Destination] = []
            delivery: Delivery | HandOver
            if isinstance(destination, HandOver):
                delivery = destination
            else:
                first, *siblings = self.objects(entry, destination)
                delivery = Delivery(
                    entry.name,
                    first,
                    replace(
                        delivery_settings(entry),
                        outlasts_refusal=outlasts,
                        outlasts_opening=outlasts and cursor is not None,
                    ),
                    state,
                    siblings=siblings,
                    spool=self._spool(entry),
                    rule_of=rules.rule_of,
                )
            start = max(position, cursor.lsn) if cursor else position
            shape = self._shapes[entry.name]
            wide = 1 + len(siblings)
            channels.append(Channel(config=entry, delivery=delivery, start=start, raw=raw, shape=shape, width=wide))
        return channels

    def _spool(self, entry: DestinationConfig) -> Spool | None:
        if self._spools is None:
            return None
        return Spool(self._spools, entry.name, max_bytes=entry.delivery.max_spool_bytes, owner=self._spools_owner)

    def fill_spools(
        self, channels: Sequence[Channel], state: StateStore, rules: RuleSet, position: LSN, *, mode: str
    ) -> None:
        """
        Give destinations that are new, and are to begin ``from: spool``, what the others have in theirs.

        Their spools are filled, whatever their bound, and then their positions are stored: a process that dies before
        that begins anew. What was shaped for another destination (`when`, `properties`) is as it was shaped.

        Args:
            channels: Not yet started.
            state: Where positions are.
            rules: Know which rule made an event, and so who gets it.
            position: Where the stream begins: what was committed there or later comes from it.
            mode: Of the stream; of another one everything is older.

        Raises:
            StateError: Something cannot be written.
        """
        cursors = state.cursors()
        for channel in channels:
            entry = channel.config
            if entry.begin == "now" or entry.name in cursors:
                continue
            if self._spools is None:
                logger.warning("there are no spools to begin from", extra={"destination": entry.name})
                continue
            # Who is given events as the rules made them comes first.
            names = sorted((self._shapes.get(name) is not None, name) for name in cursors)
            given = in_commit_order(
                [
                    Spool(self._spools, name, max_bytes=0).kept(spooled)
                    for _, name in names
                    if (spooled := cursors[name].spool) is not None and name.startswith(RAW) == channel.raw
                ]
            )
            older = (
                event
                for event in given
                if event.source["mode"] != mode or LSN.parse(event.source["commit_lsn"]) < position
            )
            own = self._spool(entry)
            assert own is not None
            own.open(None)
            begin, count = None, 0
            for events in self._for_channel(channel, older, state, rules):
                try:
                    places = own.append(events)
                except OSError as error:
                    raise StateError(f"the spool {own.path} cannot be written: {error.strerror}") from error
                begin, count = begin or places[0], count + len(events)
            if begin is not None:
                spooled = Spooled(begin, own.sync())
                state.save_cursors({entry.name: Cursor(channel.start, None, spooled)})
            own.close()
            logger.info(
                "a new destination begins with what others have in their spools",
                extra={"destination": entry.name, "events": count},
            )

    def _for_channel(
        self, channel: Channel, events: Iterator[Deliverable], state: StateStore, rules: RuleSet
    ) -> Iterator[list[Deliverable]]:
        """What a destination gets of stored events, some at a time."""
        entry = channel.config
        while some := list(islice(events, _FILL_EVENTS)):
            mine = []
            for event in some:
                source = event.source
                if channel.raw:
                    is_mine = chosen(entry.filter, source["table"], f"{source['schema']}.{source['table']}")
                else:
                    named = self._named.get(rules.rule_of(event))
                    is_mine = chosen(entry.filter, event.name) and (named is None or entry.name in named)
                if is_mine:
                    mine.append(event)
            made, letters = channel.shaped(mine)
            if letters:
                state.add(letters)
            if made:
                yield made

    @property
    def need_lanes(self) -> bool:
        """Whether some destination takes several requests at once."""
        return any(
            width(entry, destination) > 1
            for entry, destination in (*self.events, *self.raw)
            if not isinstance(destination, HandOver) and entry.name not in self._given
        )

    def objects(self, entry: DestinationConfig, destination: Destination) -> list[Destination]:
        """The destination, and as many more objects of it as requests may be on their way at once."""
        raw = entry.name.startswith(RAW)
        if entry.name in self._given:
            # Nobody can say how another one is made.
            return [destination]
        return [destination, *(build_destination(entry, raw=raw) for _ in range(1, width(entry, destination)))]

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
    The main job, ready to go: ``with Run(config) as job: job.run()``.

    Entering checks the configuration against the database, takes the state store for this process alone, and decides
    where reading begins. Leaving closes everything. Where a change of mode is under way (`wal_tracker.source.switch`)
    the old side is read to its end first: one pipeline after the other, each with its own source.
    """

    pipeline: Pipeline
    """The one that runs now, or is about to."""
    state: StateStore

    def __init__(
        self,
        config: Config,
        *,
        apply_first: bool = False,
        until_caught_up: bool = False,
        destinations: Mapping[str, Sink] | None = None,
        reread: Callable[[], Config] | None = None,
        evaluate: bool = True,
        own_process: bool = True,
    ) -> None:
        """
        Args:
            config: The configuration.
            apply_first: Make what the mode needs where it is missing.
            until_caught_up: `run` ends when everything committed by now is delivered.
            destinations: Take these instead of what the configuration names; each is opened and closed for every
                pipeline.
            reread: Reads the configuration again, for `reload`; may raise ConfigError.
            evaluate: Run the rules; without, they only name the tables whose changes are wanted.
            own_process: Nothing else runs in this process, so that what is its own (the collector) may be tuned.
        """
        self._wanted = desired = setup.desired(config)
        self._config = config if evaluate else replace(config, rules=())
        self._apply_first = apply_first
        self._until_caught_up = until_caught_up
        self._given = destinations
        self._reread = reread
        self._own_process = own_process
        self._reload_asked = False
        self._stack = ExitStack()
        self._source = ExitStack()
        self._types = TypeCatalog()
        self._primary_keys: Mapping[tuple[str, str], Sequence[str]] = {}
        self._draining: Switch | None = None
        self._over: list[Stats] = []
        self._names: list[str] = []
        self._stopping = False
        self._tables = desired.tables
        self._settings = desired.settings

    def __enter__(self) -> Run:
        with ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self) -> None:
        """
        Run the pipeline, and after a change of mode the next one, until stopped or caught up.

        Raises:
            WalTrackerError: Something only a person can mend; what is durable by then has been stored.
        """
        while not self._stopping:
            self.pipeline.run()
            if self._stopping or not self.pipeline.is_complete:
                return
            if self._draining is None:
                if self.pipeline.has_ended:
                    raise SourceRefused(_CHANGED_UNDER_US.format("trigger", "wal"))
                return
            hit("switch_drained")
            self._over.append(self.pipeline.stats)
            self._patiently(self._next_side)

    @property
    def end(self) -> LSN | None:
        """Up to where everything is to be delivered; None: there is no end, or the other mode's side comes after it."""
        return self.pipeline.until if self._until_caught_up and self._draining is None else None

    def stop(self) -> None:
        """Ask `run` to drain and return. Safe from a signal handler and from any thread."""
        self._stopping = True
        self.pipeline.stop()

    def reload(self) -> None:
        """
        Ask `run` to read the configuration again and to go over to the destinations' new options.

        Nothing is lost or sent twice for it. What else has changed waits for a restart, and is named in the log; a
        configuration that cannot be used changes nothing. Safe from a signal handler and from any thread.
        """
        self._reload_asked = True
        if "pipeline" in vars(self):
            self.pipeline.reload()

    @property
    def stats(self) -> Stats:
        """What went through since the start, in all pipelines."""
        total = replace(self.pipeline.stats)
        for stats in self._over:
            if stats is not self.pipeline.stats:
                total.add(stats)
        return total

    def _open(self, stack: ExitStack) -> None:
        config, settings = self._config, self._settings
        # Options that are wrong are found before anything is touched.
        self._names = Sinks(config, self._given).names
        letters = config.dead_letters
        self.state = state = open_state(config.state, LetterBound(letters.max_letters, letters.at_bound))
        stack.callback(state.close)
        stack.enter_context(state.exclusive())
        stack.callback(lambda: self._source.close())
        with Session(settings.dsn) as session:
            self._types.add(catalog.read_types(session))
            tables = catalog.read_tables(session)
            refuse(check(config, self._types, tables))
        self._primary_keys = {
            (table.relation.schema, table.relation.table): table.primary_key for table in tables
        }
        if self._apply_first:
            for statement in setup.apply(self._wanted):
                logger.info("executed", extra={"statement": statement})
        self._choose()

    def _take_over(self, channels: Sequence[Channel]) -> None:
        """What `reload` asks for, between two bursts of the pipeline."""
        self._reload_asked = False
        if self._reread is None:
            return
        try:
            config, changed = with_new_options(self._config, self._reread())
            sinks = Sinks(config, self._given)
            made = {
                entry.name: sinks.objects(entry, destination)
                for entry, destination in (*sinks.events, *sinks.raw)
                if not isinstance(destination, HandOver)
            }
        except (ConfigError, PluginError) as error:
            logger.error("the configuration cannot be used; going on as before", extra={"reason": str(error)})
            return
        # A FIFO where there was a queue: how many requests may be on their way at once is up to an option there.
        ours = [
            (channel, channel.delivery, made[channel.config.name])
            for channel in channels
            if isinstance(channel.delivery, Delivery) and channel.config.name not in (self._given or {})
        ]
        others = [channel for channel, _, objects in ours if channel.width != len(objects)]
        changed += [channel.config.path for channel in others]
        if changed:
            logger.warning(
                "more has changed in the configuration than options of destinations: restart to apply",
                extra={"changed": ", ".join(changed)},
            )
        self._config = config
        for channel, delivery, objects in ours:
            if channel not in others:
                delivery.replace(*objects)

    # Which side ----------------------------------------------------------------------------------

    def _choose(self) -> None:
        """
        Make the pipeline that is due, by what the database and the state store say: nothing else is remembered.

        Raises:
            PreflightFailed: The database is set up for the other mode, or for none.
        """
        mode = self._config.source.mode
        self._draining = None
        with Session(self._primary_dsn) as primary:
            found = switch.read_switch(primary)
            if found is not None and found.to_mode != mode:
                raise PreflightFailed([switch.under_way(found)])
            triggers = switch.capture_triggers(primary)
            if mode == "trigger":
                captured = {name for name, found_there in triggers.items() if found_there >= switch.CAPTURE_TRIGGERS}
                self._refuse_uncaptured(primary, captured)
            elif triggers:
                listed = ", ".join(f"{schema}.{table}" for schema, table in triggers)
                raise PreflightFailed([_STILL_CAPTURED.format(listed)])
            if found is not None and self._is_over(found):
                self._finish(found, primary)
                found = None
        if found is not None:
            logger.info(
                "a change of mode is under way: reading what is left of the other side", extra={"to": found.to_mode}
            )
            self._draining = found
        if mode == "trigger" and found is None:
            self._warn_of_stale_capture()
            self._read_outbox()
        elif mode == "trigger":
            self._read_wal(drain=found)
        elif found is None:
            self._read_wal()
        else:
            self._read_outbox(drain=found)

    def _next_side(self) -> None:
        """The old side is durable everywhere: positions become those of the new one, and it begins."""
        found = self._draining
        if found is not None:
            self._source.close()
            self._rebase(found)
        self._choose()

    def _is_over(self, found: Switch) -> bool:
        """Whether everything of the old side is durable everywhere, and the state store counts as the new one does."""
        known, positions = self.state.identity(), self._positions(self._names)
        if found.to_mode == "trigger" and not self._has_slot(found):
            if known is None or known.slot != OUTBOX:
                self._record_lost_slot(min(positions, default=LSN(0)), found.lsn, found)
                self._rebase(found)
            return True
        if known is None or not positions or found.lsn is None:
            return False
        if found.to_mode == "wal":
            return known.slot == self._slot_settings(found).slot and min(positions) >= found.lsn
        if known.slot != OUTBOX and min(positions) >= found.lsn:
            # The other side was read to its end, and we were ended before this could be noted.
            self._rebase(found)
            return True
        return known.slot == OUTBOX

    def _rebase(self, found: Switch) -> None:
        """Let the state store count as the new side does."""
        if found.to_mode == "trigger":
            # The outbox gives positions beyond every one the WAL has had.
            self.state.rebase(self._outbox_identity(), max(self._positions([]), default=LSN(0)))
            hit("switch_rebased")
            return
        settings = self._slot_settings(found)
        server = slots.identify(settings)
        if self._has_slot(found):
            lsn = found.lsn or self._end_of_outbox_in_wal(settings, found)
        else:
            lsn = found.lsn or server.current_lsn
            self._record_lost_slot(lsn, None, found)
            switch.note_end(settings, lsn)
        identity = SourceIdentity(server.system_identifier, server.timeline, server.database, settings.slot)
        self.state.rebase(identity, lsn)
        hit("switch_rebased")

    def _end_of_outbox_in_wal(self, settings: SourceSettings, found: Switch) -> LSN:
        """Where the dividing transaction ends; noted."""
        decoder = build_decoder(self._config, self._types, lambda _: None)
        end_lsn = switch.find_end(settings, ReplicationSource(settings, decoder), found)
        if end_lsn is None:
            raise SourceRefused(
                f"slot {settings.slot!r} was advanced, or made anew, while the mode was being changed: it no longer "
                f"has the place where it is to begin (transaction {found.xid}). `wal_tracker drop --slot-only --yes` "
                "gives it up, `wal_tracker run` then ends the change, and `wal_tracker apply` makes a new one; reload "
                "from the tables what was committed since the change began"
            )
        switch.note_end(settings, end_lsn)
        return end_lsn

    def _record_lost_slot(self, from_lsn: LSN, to_lsn: LSN | None, found: Switch) -> None:
        """The slot was dropped before the change of mode was done with it: a gap, and no reason to stand still."""
        detail = f"slot {self._slot_settings(found).slot!r} was dropped while the mode was being changed"
        self.state.record_gap(Gap(from_lsn, to_lsn, "slot_lost", detail))
        logger.warning("gap: changes were not delivered", extra={"detail": detail})

    def _finish(self, found: Switch, primary: Session) -> None:
        """End a change of mode whose old side is done with."""
        if found.to_mode == "wal":
            done = switch.finish_to_wal(primary)
        else:
            done = switch.finish_to_trigger(self._slot_settings(found), primary)
        for statement in done:
            logger.info("executed", extra={"statement": statement})
        logger.info("the change of mode is done", extra={"mode": found.to_mode})

    def _patiently(self, work: Callable[[], None]) -> None:
        """Do something between two pipelines, however often the server is away meanwhile."""
        attempts = 0
        while not self._stopping:
            try:
                return work()
            except SourceError as error:
                if not error.retryable:
                    raise
                attempts += 1
                logger.warning("the change of mode waits", extra={"reason": str(error), "attempt": attempts})
                time.sleep(min(5.0, 0.2 * 2 ** min(attempts, 5)))

    def _refuse_uncaptured(self, primary: Session, captured: Collection[tuple[str, str]]) -> None:
        """
        Raises:
            PreflightFailed: The outbox or a trigger is missing.
        """
        ignored = {name for name, columns in self._config.ignore.items() if columns == "*"}
        findings = [
            f"{schema}.{table} has no capture trigger"
            for schema, table in self._tables
            if (schema, table) not in captured and (schema, table) not in ignored
        ]
        if not switch.has_outbox(primary):
            findings.insert(0, "there is no outbox")
        if findings:
            raise PreflightFailed(
                findings, remedy="`wal_tracker apply` (or `wal_tracker run --apply`) makes what is missing"
            )

    def _warn_of_stale_capture(self) -> None:
        """
        Say so where `apply` would change something. No reason to refuse: a change of a table's columns is enough for
        it, and what is ignored is dropped on arrival in any case.
        """
        due = [step.change or step.why for step in setup.plan(self._wanted).steps]
        if due:
            logger.warning(
                "what captures changes is not as this configuration wants it: `wal_tracker apply` mends it",
                extra={"due": "; ".join(due[:5])},
            )

    # Pipelines -----------------------------------------------------------------------------------

    @property
    def _primary_dsn(self) -> Secret:
        return self._settings.primary_dsn or self._settings.dsn

    def _slot_settings(self, found: Switch | None) -> SourceSettings:
        """The settings with the slot of a change of mode, whatever is configured by now."""
        return replace(self._settings, slot=found.slot) if found is not None and found.slot else self._settings

    def _has_slot(self, found: Switch) -> bool:
        with Session(self._settings.dsn) as session:
            return slots.read_status(session, self._slot_settings(found).slot) is not None

    def _outbox_identity(self) -> SourceIdentity:
        """The server as trigger mode knows it: beside a replica, its primary."""
        with Session(self._primary_dsn) as session:
            ((system_identifier, timeline, database),) = session.rows(
                read_sql("queries/identify.sql"), doing="identifying the server"
            )
        return SourceIdentity(system_identifier, timeline, database, OUTBOX)

    def _positions(self, names: Collection[str]) -> list[LSN]:
        """How far the destinations are, without those that are not configured any more: they hold nobody back."""
        cursors = self.state.cursors()
        return [cursors[name].lsn for name in names if name in cursors] or [cursor.lsn for cursor in cursors.values()]

    def _read_wal(self, drain: Switch | None = None) -> None:
        settings, sinks = self._slot_settings(drain), Sinks(self._config, self._given)
        server = slots.identify(settings)
        with Session(settings.dsn) as session:
            status = slots.read_status(session, settings.slot)
            until = slots.end_of_commits(session) if self._until_caught_up and drain is None else None
        position = self._begin_at(settings, server, status)
        rules = self._rules(sinks, server.system_identifier, "wal")
        watch = TableWatch(
            self._tables,
            settings.publication if self._config.source.plugin == "pgoutput" else None,
            {name: columns for name, columns in self._config.ignore.items() if columns != "*"},
        )
        source = ReplicationSource(settings, build_decoder(self._config, self._types, rules.wanted_events), watch=watch)
        self._source.callback(source.close)
        self._make_pipeline(source, rules, sinks, position, mode="wal", until=until, ending=switch.Marker(settings))

    def _read_outbox(self, drain: Switch | None = None) -> None:
        settings, sinks = replace(self._settings, dsn=self._primary_dsn), Sinks(self._config, self._given)
        identity = self._outbox_identity()
        position = self._begin_outbox_at(identity)
        rules = self._rules(sinks, identity.system_identifier, "trigger")
        source = build_outbox_source(
            self._config,
            settings,
            self._types,
            rules.wanted,
            visible_in=drain.snapshot if drain is not None else None,
            beyond=max(self._positions(self._names), default=position),
            on_capture_failures=self._record_capture_failures,
            on_missing_rows=self._record_missing_rows,
        )
        self._source.callback(source.close)
        until = self._end_of_outbox(source, position) if self._until_caught_up or drain is not None else None
        self._make_pipeline(source, rules, sinks, position, mode="trigger", until=until)

    def _rules(self, sinks: Sinks, system_identifier: str, mode: str) -> RuleSet:
        return RuleSet(
            self._config,
            self._types,
            system_identifier=system_identifier,
            mode=mode,
            primary_keys=self._primary_keys if sinks.need_lanes else None,
        )

    def _end_of_outbox(self, source: OutboxSource, position: LSN) -> LSN:
        """Up to where the outbox is to be read; a process that was killed holds it for some seconds more."""
        told = False
        while True:
            try:
                return source.end_of_commits(position)
            except OutboxInUse as error:
                if self._stopping:
                    return LSN(0)
                if not told:
                    logger.warning("waiting for the outbox", extra={"reason": str(error)})
                told = True
                time.sleep(0.5)

    def _make_pipeline(
        self,
        source: Source,
        rules: RuleSet,
        sinks: Sinks,
        position: LSN,
        *,
        mode: str,
        until: LSN | None,
        ending: switch.Marker | None = None,
    ) -> None:
        channels = sinks.channels(self.state, rules, position, outlast_refusals=not self._until_caught_up)
        sinks.fill_spools(channels, self.state, rules, position, mode=mode)
        self.pipeline = Pipeline(
            source,
            rules,
            channels,
            self.state,
            self._config.delivery,
            position=position,
            until=until,
            reader=build_reader(self._config, self._types),
            ending=ending,
            drain_spools=self._until_caught_up,
            on_reload=self._take_over,
            own_process=self._own_process,
        )
        if self._reload_asked:
            self.pipeline.reload()

    def _begin_at(
        self, settings: SourceSettings, server: slots.ServerIdentity, status: slots.SlotStatus | None
    ) -> LSN:
        """Hold our own position against the slot; record a gap where the slot is ahead of it."""
        state, known = self.state, self.state.identity()
        positions = self._positions(self._names)
        if known is not None and known.slot == OUTBOX and status is not None and status.confirmed_flush_lsn is not None:
            self._begin_anew(replace(known, slot=settings.slot), status.confirmed_flush_lsn, positions)
            known, positions = state.identity(), self._positions(self._names)
        stored = None
        if known is not None and positions:
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

    def _begin_outbox_at(self, identity: SourceIdentity) -> LSN:
        """
        The position of the outbox everything is durable up to; 0 in a new state.

        Raises:
            WrongServer: The state belongs to another server or database.
        """
        known, positions = self.state.identity(), self._positions(self._names)
        if known is not None:
            slots.check_owner(known.system_identifier, known.database, identity.system_identifier, identity.database)
            if known.slot != OUTBOX and positions:
                self._begin_anew(identity, max(positions), positions)
        self.state.set_identity(identity)
        return min(self._positions(self._names), default=LSN(0))

    def _begin_anew(self, identity: SourceIdentity, lsn: LSN, positions: list[LSN]) -> None:
        """The positions are those of the other mode, and it was not `apply` that changed it: who knows what is lost."""
        if not positions:
            return
        detail = "the mode was changed by hand: what was committed between the last change read and this was not read"
        self.state.record_gap(Gap(min(positions), None, "mode_changed", detail))
        logger.warning("gap: changes were not delivered", extra={"detail": detail})
        self.state.rebase(identity, lsn)

    def _record_capture_failures(self, failures: list[CaptureFailure]) -> None:
        """Put on record what the capture functions could not capture; the same words, so that it is there once."""
        for failure in failures:
            detail = (
                f"{failure.table}: {failure.count} {failure.op} in transaction {failure.xid} at {failure.at} could not "
                f"be captured (SQLSTATE {failure.sqlstate})"
            )
            self.state.record_gap(Gap(LSN(0), None, "capture_failed", detail))
            logger.warning("gap: changes were not captured", extra={"detail": detail})

    def _record_missing_rows(self, missing: MissingRows) -> None:
        """Put on record what somebody else removed from the outbox; the same words, so that it is there once."""
        detail = (
            f"{missing.count} captured changes of transaction {missing.xid} have vanished from the outbox: somebody "
            "else removed them"
        )
        self.state.record_gap(Gap(LSN(missing.end_lsn - 1), missing.end_lsn, "rows_missing", detail))
        logger.warning("gap: changes were not delivered", extra={"detail": detail})


_STILL_CAPTURED = (
    "the triggers of trigger mode are still there ({}): `wal_tracker apply` with mode wal (or `wal_tracker run "
    "--apply`) makes the slot and then takes them away; until it has, `wal_tracker run --mode=trigger` goes on"
)

_CHANGED_UNDER_US = (
    "the mode was changed to {0} while this ran in mode {1}, and everything before the change is delivered; "
    "`wal_tracker run --mode={0}` (source.mode: {0}) goes on"
)


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
        mode = "trigger" if known is not None and known.slot == OUTBOX else "wal"
        rules = RuleSet(config, types, system_identifier=known.system_identifier if known else "", mode=mode)
        channels = Sinks(config).channels(state, rules, LSN(0))
        return ReplayResult(*deliver_letters(state, rules, build_reader(config, types), channels, config.delivery))
