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
from wal_tracker.decode.base import Direct
from wal_tracker.errors import RuleError, RuleEvaluationError
from wal_tracker.identity import IdFactory
from wal_tracker.model import (
    EXACT,
    GROUP_IDENTIFY,
    ROW_OPS,
    Change,
    Event,
    Group,
    Message,
    Op,
    PartialRow,
    ProfileEvent,
    Relation,
    Row,
    Value,
)
from wal_tracker.pgtypes import CelType
from wal_tracker.rules.direct import Block, compile_direct
from wal_tracker.rules.distinct_id import as_distinct_id, property_naming_the_user
from wal_tracker.rules.environment import PARAMETERS, environment
from wal_tracker.rules.moment import commit_moment, timestamp_text

Function = Callable[..., Any]

MAX_REMEMBERED_NAMES = 1000


class CompiledRule:
    """A rule ready to run on the changes of one relation, or on the messages of one prefix."""

    __slots__ = ("rule", "rule_id", "programs", "make", "direct", "targets")

    def __init__(self, rule: TrackRule, programs: Iterable[cel.Program], make: Callable[[Any], Event | None]) -> None:
        self.rule = rule
        self.rule_id = rule.rule_id
        self.programs = tuple(programs)
        self.make = make
        """A `Change` or `Message` in; its event, or None. Raises RuleEvaluationError."""
        self.direct: Callable[[Op], Direct | None] = _no_short_cut
        """Makes the short cut for the changes of an operation, where there is one; only a stream asks for it."""
        self.targets: dict[str, Any] = {}
        """Where each event name of this rule goes; filled by the pipeline, which alone knows destinations."""

    def row_keys(self, variable: str, columns: Iterable[str]) -> frozenset[str]:
        """The row keys of `new` or `old` this rule reads, given the table's (visible) columns."""
        keys = {key for program in self.programs for name, key in program.columns if name == variable}
        if any(variable in program.whole for program in self.programs) or reads_changed(self.programs):
            keys.update(columns)
        return frozenset(keys)


def _no_short_cut(_op: Op) -> Direct | None:
    return None


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

    def compile(
        self, rule: TrackRule, relation: Relation | None, columns: Mapping[str, CelType] | None
    ) -> CompiledRule:
        """
        Compile every expression of `rule`.

        Args:
            rule: The rule.
            relation: The table whose changes it will meet; None for a rule over messages.
            columns: The table's visible columns and their CEL types; None where they are not known.

        Raises:
            RuleError: An expression is wrong; with its place in the configuration and a caret.
        """
        plain = environment(rule, columns, hash_key=self._hash_key)
        programs: list[cel.Program] = []

        def compiled(expression: Expression, result: cel.Result, *, emit: bool = False, env: Any = None) -> cel.Program:
            program = compile_expression(expression, env or plain, result=result, emit=emit)
            programs.append(program)
            return program

        when = compiled(rule.when, "bool") if rule.when else None
        cond = None
        if rule.cond is not None:
            with_events = environment(rule, columns, hash_key=self._hash_key, cond=True)
            cond = compiled(rule.cond, "event", env=with_events)
        distinct_id = compiled(rule.distinct_id, "any") if rule.distinct_id else None
        timestamp = compiled(rule.timestamp, "timestamp") if rule.timestamp else None
        blocks: dict[str, Block] = {}
        table = relation.table if relation is not None else ""
        named = {} if rule.event is None else {rule.event: rule.properties}
        for name, properties in {**rule.blocks, **named}.items():
            outputs = {key: compiled(expression, "any", emit=True) for key, expression in properties.items()}
            blocks[name] = outputs, None if distinct_id else property_naming_the_user(table, properties)
        identify = {key: compiled(expression, "any", emit=True) for key, expression in rule.identify.items()}
        group: dict[str, cel.Program] = {}
        traits: dict[str, cel.Program] = {}
        if rule.group is not None:
            group["id"] = compiled(rule.group.id, "any", emit=True)
            traits = {key: compiled(expression, "any", emit=True) for key, expression in rule.group.traits.items()}
        profile = _profiler(rule, identify, group, traits)
        trait = None if distinct_id else property_naming_the_user(table, identify)
        evaluate = _evaluator(rule, when, cond, timestamp, distinct_id, blocks, profile, trait)
        make = (
            self._message_maker(rule, programs, evaluate)
            if relation is None
            else self._row_maker(rule, relation, programs, evaluate)
        )
        compiled_rule = CompiledRule(rule, programs, make)
        if relation is not None and profile is None:
            ids = _Ids(self._system_identifier, rule.rule_id, relation.name)
            compiled_rule.direct = lambda op: compile_direct(
                when=when,
                cond=cond,
                timestamp=timestamp,
                distinct_id=distinct_id,
                events=blocks,
                ids=ids.make,
                source=_source_beginning(op, relation),
                mode=orjson.dumps(self._mode).decode(),
                rule=compiled_rule,
            )
        return compiled_rule

    def _row_maker(
        self, rule: TrackRule, relation: Relation, programs: list[cel.Program], evaluate: Function
    ) -> Callable[[Change], Event | None]:
        """The closure a row meets; everything it needs is bound here once."""
        ids = _Ids(self._system_identifier, rule.rule_id, relation.name)
        # Up to the commit's LSN an event's source is the same for every row of an operation.
        beginnings = {op: _source_beginning(op, relation) for op in ROW_OPS}
        mode = orjson.dumps(self._mode).decode()
        reads_change = _reads(programs, "change")
        with_changed = reads_changed(programs)

        def make(change: Change) -> Event | None:
            transaction = change.transaction
            try:
                variable = change_variable(change, with_changed=with_changed) if reads_change else None
                made = evaluate(change.new, change.old, variable, change.context, None, transaction.commit_time)
            except (cel.CelEvaluationError, UnknownOldRow) as error:
                raise RuleEvaluationError(rule=rule.rule_id, reason=str(error)) from error
            if made is None:
                return None
            name, person, moment, properties, profile = made
            xid, ordinal = transaction.xid, change.ordinal
            lsn = transaction._lsn_text or transaction.commit_lsn_text
            source = f'{beginnings[change.op]}"{lsn}","ordinal":{ordinal},"xid":{xid},"mode":{mode}}}'
            identity = (ids.get(name) or ids.make(name)).id(xid, ordinal)
            if profile is None:
                return Event(identity, name, person, moment, properties, source)
            return ProfileEvent(identity, name, person, moment, properties, source, *profile)

        return make

    def _message_maker(
        self, rule: TrackRule, programs: list[cel.Program], evaluate: Function
    ) -> Callable[[Message], Event | None]:
        """The same for a logical message."""
        mode = self._mode
        ids = _Ids(self._system_identifier, rule.rule_id, f"message.{rule.message_prefix}")
        reads_change, reads_message = _reads(programs, "change"), _reads(programs, "message")

        def make(message: Message) -> Event | None:
            transaction = message.transaction
            change = change_variable(message, with_changed=False) if reads_change else None
            variable = message_variable(message) if reads_message else None
            try:
                made = evaluate(None, None, change, message.context, variable, transaction.commit_time)
            except cel.CelEvaluationError as error:
                raise RuleEvaluationError(rule=rule.rule_id, reason=str(error)) from error
            if made is None:
                return None
            name, person, moment, properties, profile = made
            if not moment:
                raise RuleEvaluationError(
                    rule=rule.rule_id,
                    reason="a non-transactional message has no commit time: give the rule a `timestamp`, "
                    "or emit the message with pg_logical_emit_message(true, …)",
                )
            # A non-transactional message has no xid; its place in the WAL is what no replay changes.
            identity = (ids.get(name) or ids.make(name)).id(transaction.xid or message.lsn, message.ordinal)
            source = message_source(message, mode)
            if profile is None:
                return Event(identity, name, person, moment, properties, source)
            return ProfileEvent(identity, name, person, moment, properties, source, *profile)

        return make


class _Ids(dict[str, IdFactory]):
    """The id factories of one rule on one table, by event name."""

    def __init__(self, system_identifier: str, rule_id: str, table: str) -> None:
        super().__init__()
        self._of = (system_identifier, rule_id, table)

    def make(self, event: str) -> IdFactory:
        """The factory of an event that was not met before."""
        if len(self) >= MAX_REMEMBERED_NAMES:
            # A `cond` may compute a name of every row.
            self.clear()
        system_identifier, rule_id, table = self._of
        factory = self[event] = IdFactory(system_identifier, rule_id, event, table)
        return factory


def _source_beginning(op: Op, relation: Relation) -> str:
    """An event's source as JSON, up to where the text of its commit LSN stands."""
    known = orjson.dumps({"op": op, "schema": relation.schema, "table": relation.table}).decode()
    return f'{known[:-1]},"commit_lsn":'


def _evaluator(
    rule: TrackRule,
    when: cel.Program | None,
    cond: cel.Program | None,
    timestamp: cel.Program | None,
    distinct_id: cel.Program | None,
    blocks: Mapping[str, Block],
    profile: Function | None,
    trait: str | None,
) -> Function:
    """
    Put a rule's expressions together.

    The five variables and the commit time in; name, distinct_id, timestamp, properties, and what `profile` gives, out.
    None where the rule makes no event. Raises CelEvaluationError.
    """
    fixed = rule.event
    guard = when.function(PARAMETERS) if when else None
    choose = cond.function(PARAMETERS) if cond else None
    moment_of = timestamp.function(PARAMETERS) if timestamp else None
    person_of = distinct_id.function(PARAMETERS) if distinct_id else None
    events = {name: (cel.fuse(outputs, PARAMETERS), user) for name, (outputs, user) in blocks.items()}
    no_properties = (cel.fuse({}, PARAMETERS), None)
    # Nothing would be left of such an event without its group.
    needs_group = fixed == GROUP_IDENTIFY and not rule.properties and not rule.identify

    def evaluate(new: Any, old: Any, change: Any, ctx: Any, message: Any, commit_time: str) -> Any:
        if guard is not None and guard(new, old, change, ctx, message) is not True:
            return None
        name = fixed if choose is None else choose(new, old, change, ctx, message)
        if name is None:
            return None
        properties_of, user = events.get(name, no_properties)
        properties = properties_of(new, old, change, ctx, message)
        told = profile(new, old, change, ctx, message) if profile is not None else None
        if told is None and needs_group:
            return None
        if user is not None:
            person = as_distinct_id(properties[user])
        elif told is not None and trait is not None:
            person = as_distinct_id(told[0][trait])
        elif person_of is not None:
            person = as_distinct_id(person_of(new, old, change, ctx, message))
        else:
            person = None
        if moment_of is not None:
            commit_time = timestamp_text(moment_of(new, old, change, ctx, message)) or commit_time
        return name, person, commit_time, properties, told

    return evaluate


def _profiler(
    rule: TrackRule,
    identify: Mapping[str, cel.Program],
    group: Mapping[str, cel.Program],
    traits: Mapping[str, cel.Program],
) -> Function | None:
    """
    Put together what a rule says of a person and a group; None where it says nothing.

    The five variables in; traits and `Group` out, each None where there is none, or None for both.
    """
    if not identify and not group:
        return None
    person_of = cel.fuse(identify, PARAMETERS) if identify else None
    id_of, traits_of = cel.fuse(group, PARAMETERS), cel.fuse(traits, PARAMETERS)
    kind = rule.group.type if rule.group is not None else ""

    def profile(*variables: Any) -> tuple[dict[str, Value] | None, Group | None] | None:
        person = person_of(*variables) if person_of is not None else None
        which = as_distinct_id(id_of(*variables).get("id"))
        belongs = Group(kind, which, traits_of(*variables)) if which is not None else None
        return None if person is None and belongs is None else (person, belongs)

    return profile


def _reads(programs: Iterable[cel.Program], variable: str) -> bool:
    return any(variable in program.variables for program in programs)


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
