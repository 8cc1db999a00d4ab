"""
From a row's values straight to its event, where a rule asks for no more than columns.

The common rule reads columns and nothing else. For it one Python function is generated per rule, table and operation
that takes those columns' values, as the decoder has just read them, and makes the event: no `Change`, no row, no
look-up by name. It says what `CompiledRule.make` says of the same change, or raises, and then the change takes the
ordinary way (a law in tests/property holds the two against one another).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Union

from wal_tracker import cel
from wal_tracker.decode.base import Direct
from wal_tracker.identity import IdFactory
from wal_tracker.model import NoEvent, RowEvent
from wal_tracker.rules.distinct_id import as_distinct_id
from wal_tracker.rules.moment import timestamp_text

Block = tuple[Mapping[str, cel.Program], Union[str, None]]
"""The properties of an event, and which of them names whom it is about."""


def compile_direct(
    *,
    when: cel.Program | None,
    cond: cel.Program | None,
    timestamp: cel.Program | None,
    distinct_id: cel.Program | None,
    events: Mapping[str, Block],
    ids: Callable[[str], IdFactory],
    source: str,
    mode: str,
    rule: Any,
) -> Direct | None:
    """
    Generate the function; None where the rule reads more than columns.

    Args:
        when: The rule's guard.
        cond: What chooses the event; None: there is one.
        timestamp: The rule's own timestamp.
        distinct_id: The rule's own distinct_id.
        events: The properties of each event.
        ids: The id factory of an event.
        source: The event's source as JSON, up to where the text of its commit LSN stands.
        mode: As JSON.
        rule: The compiled rule, for `RowEvent.rule`.
    """
    columns = cel.Columns()
    lines = ["xid = transaction.xid"]
    names: dict[str, Any] = {
        "blank": RowEvent.__new__,
        "RowEvent": RowEvent,
        "NoEvent": NoEvent,
        "rule": rule,
        "as_distinct_id": as_distinct_id,
        "timestamp_text": timestamp_text,
        "ValueError": ValueError,
        "str": str,
        "type": type,
        "source": source,
        "tail": f',"mode":{mode}}}',
    }
    try:
        if when is not None:
            lines.append(f"if {columns.code(when)} is not True: return NoEvent(transaction)")
        if cond is not None:
            lines += [f"chosen = {columns.code(cond)}", "if chosen is None: return NoEvent(transaction)"]
        lines.append("event = blank(RowEvent)")
        for number, (name, (properties, user)) in enumerate(events.items()):
            body = [f"name = {name!r}"]
            values = ", ".join(f"{key!r}: {columns.code(program)}" for key, program in properties.items())
            body.append(f"properties = {{{values}}}")
            who = f"properties[{user!r}]" if user is not None else distinct_id and columns.code(distinct_id)
            body.append(f"who = {who}")
            if who is not None:
                body.append("if type(who) is not str or not who: who = as_distinct_id(who)")
            names[f"id{number}"] = ids(name).id
            body.append(f"event.id = id{number}(xid, ordinal)")
            if cond is None:
                lines += body
            else:
                lines.append(f"{'if' if number == 0 else 'elif'} chosen == {name!r}:")
                lines += [" " + line for line in body]
        moment = "transaction.commit_time"
        if timestamp is not None:
            moment = f"timestamp_text({columns.code(timestamp)}) or {moment}"
    except cel.NeedsMoreThanColumns:
        return None
    if not events:
        return None
    if cond is not None:
        lines.append("else: raise ValueError")
    lines += [
        "event.name = name",
        "event.distinct_id = who",
        f"event.timestamp = {moment}",
        "event.properties = properties",
        "lsn = transaction._lsn_text or transaction.commit_lsn_text",
        "event._source = f'{source}\"{lsn}\",\"ordinal\":{ordinal},\"xid\":{xid}{tail}'",
        "event._json = None",
        "event.transaction = transaction",
        "event.rule = rule",
        "return event",
    ]
    parameters = ", ".join(["transaction", "ordinal", *columns.names])
    text = "\n ".join([f"def make({parameters}):", *lines])
    namespace = {**columns.namespace, **names}
    exec(compile(text, "<direct>", "exec"), namespace)  # noqa: S102 - reprs and what cel.generate makes
    return Direct(tuple(columns.reads), namespace["make"])
