"""
One rule of the configuration, compiled against the columns of one table.

Compilation happens when the stream describes a table (and again after each schema change), never per
row; what is left for a row is a handful of calls into generated code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from wal_tracker import cel
from wal_tracker.config.model import Expression, TrackRule
from wal_tracker.errors import RuleError, RuleEvaluationError
from wal_tracker.identity import IdFactory
from wal_tracker.model import EXACT, Change, Event, Message, PartialRow, Relation, Row, Transaction, Value
from wal_tracker.pgtypes import CelType
from wal_tracker.rules.distinct_id import as_distinct_id, property_naming_the_user
from wal_tracker.rules.environment import PARAMETERS, environment
from wal_tracker.rules.moment import commit_moment, timestamp_text

Function = Callable[..., Any]

MAX_REMEMBERED_NAMES = 1000


class CompiledRule:
    """A rule ready to run on the changes of one relation, or on the messages of one prefix."""

    __slots__ = ("rule", "rule_id", "programs", "make", "targets")

    def __init__(self, rule: TrackRule, programs: Iterable[cel.Program], make: Callable[[Any], Event | None]) -> None:
        self.rule = rule
        self.rule_id = rule.rule_id
        self.programs = tuple(programs)
        self.make = make
        """A `Change` or `Message` in; its event, or None. Raises RuleEvaluationError."""
        self.targets: dict[str, Any] = {}
        """Where each event name of this rule goes; filled by the pipeline, which alone knows destinations."""

    def row_keys(self, variable: str, columns: Iterable[str]) -> frozenset[str]:
        """The row keys of `new` or `old` this rule reads, given the table's (visible) columns."""
        keys = {key for program in self.programs for name, key in program.columns if name == variable}
        if any(variable in program.whole for program in self.programs) or reads_changed(self.programs):
            keys.update(columns)
        return frozenset(keys)


def reads_changed(programs: Iterable[cel.Program]) -> bool:
    """Whether some program names `change.changed`, which takes every column of both rows."""
    return any(("change", "changed") in program.columns or "change" in program.whole for program in programs)


class RuleCompiler:
    """Compiles rules of one configuration for one server and mode."""

    def __init__(self, *, system_identifier: str, mode: str, hash_key: bytes | None) -> None:
        """
        Args:
            system_identifier: Of the database cluster; part of every event id.
            mode: ``wal``, ``trigger`` or ``kafka``; stands in every event's source.
            hash_key: Key of ``hash()`` in rules, or None where none is configured.
        """
        self._system_identifier = system_identifier
        self._mode = mode
        self._hash_key = hash_key

    def compile(self, rule: TrackRule, table: str, columns: Mapping[str, CelType] | None) -> CompiledRule:
        """
        Compile every expression of `rule`.

        Args:
            rule: The rule.
            table: The table's bare name (for distinct_id), or the message prefix.
            columns: Its visible columns and their CEL types; None where they are not known.

        Raises:
            RuleError: An expression is wrong; with its place in the configuration and a caret.
        """
        plain = environment(rule, columns, hash_key=self._hash_key)
        programs: list[cel.Program] = []

        def compiled(expression: Expression, result: cel.Result, *, emit: bool = False, env: Any = None) -> cel.Program:
            program = compile_expression(expression, env or plain, result=result, emit=emit)
            programs.append(program)
            return program

        when = compiled(rule.when, "bool").function(PARAMETERS) if rule.when else None
        cond = None
        if rule.cond is not None:
            with_events = environment(rule, columns, hash_key=self._hash_key, cond=True)
            cond = compiled(rule.cond, "event", env=with_events).function(PARAMETERS)
        distinct_id = compiled(rule.distinct_id, "any").function(PARAMETERS) if rule.distinct_id else None
        timestamp = compiled(rule.timestamp, "timestamp").function(PARAMETERS) if rule.timestamp else None
        blocks = dict(rule.blocks)
        if rule.event is not None:
            blocks[rule.event] = rule.properties
        events: dict[str, tuple[Function, Function | None, str | None]] = {}
        for name, properties in blocks.items():
            outputs = {key: compiled(expression, "any", emit=True) for key, expression in properties.items()}
            user = None if distinct_id else property_naming_the_user(table, properties)
            events[name] = (cel.fuse(outputs, PARAMETERS), distinct_id, user)

        reads = frozenset(name for program in programs for name in program.variables)
        make = self._maker(
            rule,
            when,
            cond,
            timestamp,
            events,
            distinct_id,
            reads_change="change" in reads,
            reads_changed=reads_changed(programs),
            reads_message="message" in reads,
        )
        return CompiledRule(rule, programs, make)

    def _maker(
        self,
        rule: TrackRule,
        when: Function | None,
        cond: Function | None,
        timestamp: Function | None,
        events: dict[str, tuple[Function, Function | None, str | None]],
        distinct_id: Function | None,
        *,
        reads_change: bool,
        reads_changed: bool,
        reads_message: bool,
    ) -> Callable[[Any], Event | None]:
        """The closure a row meets; everything it needs is bound here once."""
        rule_id, mode = rule.rule_id, self._mode
        fixed = rule.event
        ids: dict[object, dict[str, IdFactory]] = {}
        no_properties = (cel.fuse({}, PARAMETERS), distinct_id, None)

        def ids_of(subject: Relation | str, event: str) -> IdFactory:
            table = subject.name if isinstance(subject, Relation) else "message." + subject
            factory = IdFactory(self._system_identifier, rule_id, event, table)
            of_subject = ids.setdefault(subject, {})
            if len(of_subject) >= MAX_REMEMBERED_NAMES:
                # A `cond` may compute a name of every row.
                of_subject.clear()
            of_subject[event] = factory
            return factory

        def make(item: Any) -> Event | None:
            transaction: Transaction = item.transaction
            ctx = item.context
            message = None
            if type(item) is Change:
                new, old = item.new, item.old
                relation = subject = item.relation
                source = {
                    "op": item.op,
                    "schema": relation.schema,
                    "table": relation.table,
                    "commit_lsn": transaction._lsn_text or transaction.commit_lsn_text,
                    "ordinal": item.ordinal,
                    "xid": transaction.xid,
                    "mode": mode,
                }
            else:
                new = old = None
                subject = item.prefix
                source = message_source(item, mode)
                if reads_message:
                    message = message_variable(item)
            try:
                change = change_variable(item, with_changed=reads_changed) if reads_change else None
                if when is not None and when(new, old, change, ctx, message) is not True:
                    return None
                if cond is None:
                    name = fixed
                else:
                    name = cond(new, old, change, ctx, message)
                    if name is None:
                        return None
                assert name is not None
                properties_of, who, user = events.get(name, no_properties)
                properties = properties_of(new, old, change, ctx, message)
                if who is not None:
                    person = as_distinct_id(who(new, old, change, ctx, message))
                elif user is not None:
                    person = as_distinct_id(properties[user])
                else:
                    person = None
                if timestamp is None:
                    moment = transaction.commit_time
                else:
                    moment = timestamp_text(timestamp(new, old, change, ctx, message)) or transaction.commit_time
            except (cel.CelEvaluationError, UnknownOldRow) as error:
                raise RuleEvaluationError(rule=rule_id, reason=str(error)) from error
            if not moment:
                raise RuleEvaluationError(
                    rule=rule_id,
                    reason="a non-transactional message has no commit time: give the rule a `timestamp`, "
                    "or emit the message with pg_logical_emit_message(true, …)",
                )
            try:
                identity = ids[subject][name]
            except KeyError:
                identity = ids_of(subject, name)
            # A non-transactional message has no xid; its place in the WAL is what no replay changes.
            xid = transaction.xid or (0 if type(item) is Change else item.lsn)
            return Event(identity.id(xid, item.ordinal), name, person, moment, properties, source)

        return make


def compile_expression(
    expression: Expression, env: cel.Environment, *, result: cel.Result = "any", emit: bool = False
) -> cel.Program:
    """
    Compile one expression of the configuration.

    Raises:
        RuleError: With the expression's place in the file and the compiler's caret.
    """
    try:
        return cel.compile(expression.source, env, result=result, emit=emit)
    except cel.CelError as error:
        raise RuleError(
            error.rendered, path=expression.path, file=expression.file, line=expression.line, column=expression.column
        ) from error


def change_variable(item: Change | Message, *, with_changed: bool) -> dict[str, Value]:
    """
    The `change` variable; built only for rules that name it.

    Raises:
        UnknownOldRow: `changed` is asked for and the old row is not known in full.
    """
    transaction = item.transaction
    variable: dict[str, Value] = {
        "op": "message",
        "schema": "",
        "table": "",
        "lsn": transaction.commit_lsn_text,
        "xid": transaction.xid,
        "commit_time": commit_moment(transaction),
        "changed": [],
    }
    if isinstance(item, Change):
        variable["op"] = item.op
        variable["schema"] = item.relation.schema
        variable["table"] = item.relation.table
        if with_changed:
            variable["changed"] = changed_columns(item.old, item.new)
    return variable


class UnknownOldRow(Exception):
    """What a rule asks of the old row, the replica identity does not tell."""


def changed_columns(old: Row | None, new: Row | None) -> list[str]:
    """
    Names of the columns whose values differ, in the new row's order.

    Raises:
        UnknownOldRow: The old row is not known in full; the text holds the remedy.
    """
    if old is None or new is None:
        return []
    if isinstance(old, PartialRow) and old.unsent:
        raise UnknownOldRow(
            "change.changed needs the whole old row: ALTER TABLE … REPLICA IDENTITY FULL makes the server send it"
        )
    missing = object()
    return [
        name for name, value in new.items() if not name.startswith(EXACT) and not _same(old.get(name, missing), value)
    ]


def _same(a: Value, b: Value) -> bool:
    return a is b or (type(a) is type(b) and bool(a == b))


def message_source(message: Message, mode: str) -> dict[str, Value]:
    """The `source` of an event made of a logical message."""
    transaction = message.transaction
    return {
        "op": "message",
        "prefix": message.prefix,
        "commit_lsn": transaction.commit_lsn_text,
        "ordinal": message.ordinal,
        "xid": transaction.xid,
        "mode": mode,
    }


def message_variable(message: Message) -> dict[str, Value]:
    """The `message` variable: `data` is the content read as JSON, or null where it is not JSON."""
    content = message.content.decode("utf-8", "replace")
    try:
        data = orjson.loads(message.content)
    except orjson.JSONDecodeError:
        data = None
    return {"prefix": message.prefix, "content": content, "data": data, "transactional": message.transactional}
