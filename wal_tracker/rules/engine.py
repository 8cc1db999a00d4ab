"""
All rules of a configuration over one stream: what to decode of each table, and what a change makes.

`RuleSet.wanted` is asked once for every description of a table; it compiles the rules of that table
and leaves them on ``relation.plan``, where a change finds them. A rule that no longer fits its table
(a column was dropped in mid-stream) does not stop the stream: every change it would have looked at
becomes a rule error, and so a dead letter.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import orjson

from wal_tracker.config.model import Config, TrackRule
from wal_tracker.decode.base import OpColumns, Wanted
from wal_tracker.decode.changes import change_document
from wal_tracker.errors import RuleError, RuleEvaluationError
from wal_tracker.identity import event_id
from wal_tracker.lsn import LSN
from wal_tracker.model import EXACT, ROW_OPS, Change, Column, Deliverable, Event, Message, Op, RawChange, Relation
from wal_tracker.pgtypes import CelType, TypeCatalog
from wal_tracker.rules.compile import CompiledRule, RuleCompiler, message_source
from wal_tracker.rules.distinct_id import as_distinct_id
from wal_tracker.rules.lanes import LaneOf, key_of, lane_function, with_lane

logger = logging.getLogger("wal_tracker.rules")

EVENT_PREFIX = "wal_tracker.event"
"""Logical messages with this prefix are events themselves (design.md §3)."""

HEARTBEAT_PREFIX = "wal_tracker.hb"
"""Messages with this prefix only move the slot."""


class RelationPlan:
    """What one description of a table means to us: its rules by operation, and whether changes go out raw."""

    __slots__ = ("rules", "raw", "lane")

    def __init__(self, rules: Mapping[Op, tuple[CompiledRule, ...]], raw: bool, lane: LaneOf | None = None) -> None:
        self.rules = rules
        self.raw = raw
        self.lane = lane
        """Gives a change its lane; None: nobody asks."""


@dataclass(slots=True)
class _Known:
    """How a table was described before."""

    place: tuple[str, str]
    columns: dict[str, int]
    """Name and type of those that are visible."""
    shapes: set[frozenset[tuple[str, int]]]
    """Every one so far: rows that were captured before a change come after it."""


class RuleSet:
    """The rules of one configuration, compiled as tables appear. One thread."""

    def __init__(
        self,
        config: Config,
        types: TypeCatalog,
        *,
        system_identifier: str,
        mode: str,
        raw: bool | None = None,
        primary_keys: Mapping[tuple[str, str], Sequence[str]] | None = None,
    ) -> None:
        """
        Args:
            config: The configuration.
            types: Types of the server the stream comes from.
            system_identifier: Part of every event id.
            mode: ``wal``, ``trigger`` or ``kafka``.
            raw: Whether somebody takes raw changes; by default whether the configuration has such destinations.
            primary_keys: Of tables, by schema and name; where they are given events get lanes (`rules.lanes`).
        """
        self._config = config
        self._types = types
        self._system_identifier = system_identifier
        self._mode = mode
        self._raw = bool(config.raw_destinations) if raw is None else raw
        self._primary_keys = primary_keys
        hash_key = config.hash_key.reveal().encode() if config.hash_key else None
        self._compiler = RuleCompiler(system_identifier=system_identifier, mode=mode, hash_key=hash_key)
        self._by_table: dict[tuple[str, str], list[TrackRule]] = {}
        self._known: dict[int, _Known] = {}
        self._messages: dict[str, tuple[CompiledRule, ...]] = {}
        for rule in config.rules:
            if rule.message_prefix is not None:
                compiled = self._compiler.compile(rule, None, None)
                self._messages[rule.message_prefix] = (*self._messages.get(rule.message_prefix, ()), compiled)
            else:
                self._by_table.setdefault((rule.schema, rule.table), []).append(rule)

    # What to decode ------------------------------------------------------------------------------

    def visible(self, schema: str, table: str, columns: Sequence[Column]) -> list[Column]:
        """The columns that are not ignored; none of an ignored table."""
        ignored = self._config.ignore.get((schema, table))
        if ignored == "*":
            return []
        return [column for column in columns if not ignored or column.name not in ignored]

    def cel_types(self, schema: str, table: str, columns: Sequence[Column]) -> dict[str, CelType]:
        """Visible columns and what they are to CEL; a column without a type (a change out of a file) is dynamic."""
        return {
            column.name: self._types.cel_type(column.type_oid, self._config.numeric.of(schema, table, column.name))
            if column.type_oid
            else "dyn"
            for column in self.visible(schema, table, columns)
        }

    def wanted(self, relation: Relation, *, is_recorded: bool = False) -> Wanted | None:
        """
        What of this relation somebody reads; compiles its rules and sets ``relation.plan``.

        Never raises for a rule that does not fit: its changes become rule errors, one warning is logged.

        Args:
            relation: Its description. One that is not the last one is told in the log.
            is_recorded: It is out of a store or a file, and says nothing of the table as it is.
        """
        if not is_recorded:
            self._tell_change(relation)
        if self._config.ignore.get((relation.schema, relation.table)) == "*":
            return None
        rules = self._by_table.get((relation.schema, relation.table), [])
        raw = self._raw
        if not rules and not raw:
            return None
        columns = self.cel_types(relation.schema, relation.table, relation.columns)
        relation.plan = plan = self.plan(relation, columns)
        wanted: dict[Op, OpColumns] = {}
        every = frozenset(EXACT + name for name in columns) if raw else frozenset()
        if plan.lane is not None:
            every |= frozenset(self._key(relation))
        for op, chosen in plan.rules.items():
            # A truncate is on record even where no rule looks at it: rows vanish without a delete.
            if chosen or raw or op == "truncate":
                wanted[op] = OpColumns(
                    new=every.union(*(rule.row_keys("new", columns) for rule in chosen)),
                    old=every.union(*(rule.row_keys("old", columns) for rule in chosen)),
                )
        return wanted

    def _tell_change(self, relation: Relation) -> None:
        """Log, once, that a table is not what it was: its name, its columns, or their types."""
        place = (relation.schema, relation.table)
        columns = {column.name: column.type_oid for column in self.visible(*place, relation.columns)}
        shape = frozenset(columns.items())
        known = self._known.get(relation.relation_id)
        if known is None:
            self._known[relation.relation_id] = _Known(place, columns, {shape})
            return
        before, known.place = known.place, place
        if before != place and before in self._by_table:
            logger.warning(
                "a tracked table was renamed, and rules for its old name match nothing now: write the new one into the "
                "configuration (or rename it back), and run `wal_tracker apply`",
                extra={"table": ".".join(before), "is_now": relation.name, "rules": len(self._by_table[before])},
            )
        if shape not in known.shapes and (before in self._by_table or place in self._by_table or self._raw):
            then, known.columns = known.columns, columns
            logger.warning(
                "a table has changed, and its rules are checked again; `wal_tracker plan` says what is to be done",
                extra={
                    "table": relation.name,
                    "columns_new": sorted(columns.keys() - then.keys()),
                    "columns_gone": sorted(then.keys() - columns.keys()),
                    "columns_of_another_type": sorted(
                        name for name in columns.keys() & then.keys() if columns[name] != then[name]
                    ),
                },
            )
        known.shapes.add(shape)

    def wanted_events(self, relation: Relation) -> Wanted | None:
        """
        As `wanted`, for a reader that takes events in the place of changes (`Item`).

        Where one rule alone looks at an operation, and at columns alone, its event is made as the row is decoded.
        """
        wanted = self.wanted(relation)
        if wanted is None or self._raw:
            return wanted
        plan: RelationPlan = relation.plan
        short = {op: chosen[0].direct(op) for op, chosen in plan.rules.items() if len(chosen) == 1 and op in wanted}
        if plan.lane is not None:
            key = self._key(relation)
            short = {op: direct and with_lane(direct, op, relation.name, key) for op, direct in short.items()}
        return {op: replace(columns, direct=short.get(op)) for op, columns in wanted.items()}

    def plan(self, relation: Relation, columns: Mapping[str, CelType] | None) -> RelationPlan:
        """
        The rules of a relation, compiled; a rule that does not fit makes every change it looks at a rule error.

        Args:
            relation: The relation.
            columns: Its visible columns and what they are to CEL; None where that is not known.
        """
        rules = self._by_table.get((relation.schema, relation.table), [])
        compiled = [self._compile(rule, relation, columns) for rule in rules]
        lane = None if self._primary_keys is None else lane_function(relation.name, self._key(relation))
        chosen = {op: tuple(rule for rule in compiled if op in rule.rule.ops) for op in ROW_OPS}
        return RelationPlan(chosen, self._raw, lane)

    def _key(self, relation: Relation) -> tuple[str, ...]:
        """The columns a row is known by, as far as we may see them all."""
        primary_key = (self._primary_keys or {}).get((relation.schema, relation.table), ())
        key = key_of(relation, primary_key)
        visible = {column.name for column in self.visible(relation.schema, relation.table, relation.columns)}
        return key if visible.issuperset(key) else ()

    def _compile(self, rule: TrackRule, relation: Relation, columns: Mapping[str, CelType] | None) -> CompiledRule:
        try:
            return self._compiler.compile(rule, relation, columns)
        except RuleError as error:
            logger.warning("rule does not fit its table", extra={"rule": rule.rule_id, "reason": str(error)})
            reason = f"does not fit {relation.name} as it is now: {error}"

            def refuse(_change: Change) -> Event | None:
                raise RuleEvaluationError(rule=rule.rule_id, reason=reason)

            return CompiledRule(rule, (), refuse)

    # What a change makes -------------------------------------------------------------------------

    def message_rules(self, message: Message) -> tuple[CompiledRule, ...]:
        """The rules over this message's prefix."""
        return self._messages.get(message.prefix, ())

    def emitted(self, message: Message) -> Event:
        """
        The event a ``wal_tracker.event`` message is.

        Raises:
            RuleEvaluationError: The content is not an event; says what is.
        """
        problem = "content must be a JSON object: a non-empty string `event`, optional `distinct_id` and `properties`"
        try:
            content = orjson.loads(message.content)
        except orjson.JSONDecodeError as error:
            raise RuleEvaluationError(rule=EVENT_PREFIX, reason=f"{problem}; it is not JSON: {error}") from error
        if not isinstance(content, dict) or not isinstance(content.get("event"), str) or not content["event"]:
            raise RuleEvaluationError(rule=EVENT_PREFIX, reason=problem)
        properties = content.get("properties") or {}
        unknown = sorted(set(content) - {"event", "distinct_id", "properties"})
        if not isinstance(properties, dict) or unknown:
            raise RuleEvaluationError(rule=EVENT_PREFIX, reason=f"{problem}; not understood: {unknown or 'properties'}")
        if not message.transaction.commit_time:
            raise RuleEvaluationError(
                rule=EVENT_PREFIX, reason="an event is emitted with its transaction: pg_logical_emit_message(true, …)"
            )
        name = content["event"]
        given = content.get("distinct_id", properties.get("distinct_id"))
        return Event(
            self._event_id(message, EVENT_PREFIX, name),
            name,
            as_distinct_id(given),
            message.transaction.commit_time,
            properties,
            message_source(message, self._mode),
        )

    def raw_change(self, change: Change) -> RawChange:
        """The change as `raw_db_event_destinations` get it."""
        relation = change.relation
        return RawChange(
            self._event_id(change, "raw", change.op),
            f"{relation.name}.{change.op}",
            change.transaction.commit_time,
            change_document(change),
            {
                "op": change.op,
                "schema": relation.schema,
                "table": relation.table,
                "commit_lsn": change.transaction.commit_lsn_text,
                "ordinal": change.ordinal,
                "xid": change.transaction.xid,
                "mode": self._mode,
            },
        )

    def failure_payload(self, item: Change | Message) -> bytes:
        """What a rule failed on, as JSON that can be evaluated again; ignored columns are not in it."""
        transaction = item.transaction
        if isinstance(item, Change):
            document = change_document(item)
            document["types"] = {
                column.name: known.name
                for column in self.visible(item.relation.schema, item.relation.table, item.relation.columns)
                if (known := self._types.get(column.type_oid)) is not None
            }
            return orjson.dumps(document)
        return orjson.dumps(
            {
                "prefix": item.prefix,
                "content": item.content.decode("utf-8", "replace"),
                "transactional": item.transactional,
                "lsn": str(LSN(item.lsn)),
                "ordinal": item.ordinal,
                "xid": transaction.xid,
                "commit_time_us": transaction.commit_time_us,
                "context": item.context,
            }
        )

    def failure_id(self, item: Change | Message, rule_id: str) -> str:
        """The id of a rule error: the same failure on a replay is the same dead letter."""
        return self._event_id(item, rule_id, "rule error")

    def rule_of(self, event: Deliverable) -> str:
        """
        The id of the rule an event was made by; empty for a raw change, or when that rule is configured no more.

        An event does not carry it, but its id says it: of the rules over its table one makes this id. Any thread.
        """
        source = event.source
        if "table" in source:
            place = f"{source['schema']}.{source['table']}"
            rules = [rule.rule_id for rule in self._by_table.get((source["schema"], source["table"]), ())]
        else:
            place = f"message.{source['prefix']}"
            rules = [rule.rule_id for rule in self._messages.get(source["prefix"], ())] + [EVENT_PREFIX]
        xid = source["xid"] or int(LSN.parse(source["commit_lsn"]))
        for rule_id in rules:
            if event_id(self._system_identifier, xid, place, source["ordinal"], rule_id, event.name) == event.id:
                return rule_id
        return ""

    def _event_id(self, item: Change | Message, rule_id: str, event: str) -> str:
        if isinstance(item, Change):
            return event_id(
                self._system_identifier, item.transaction.xid, item.relation.name, item.ordinal, rule_id, event
            )
        xid = item.transaction.xid or int(item.lsn)
        return event_id(self._system_identifier, xid, "message." + item.prefix, item.ordinal, rule_id, event)
