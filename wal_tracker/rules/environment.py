"""The variables a rule sees, and their types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from wal_tracker import cel
from wal_tracker.config.model import TrackRule
from wal_tracker.pgtypes import CelType
from wal_tracker.rules.choice import choice

PARAMETERS = ("new", "old", "change", "ctx", "message")
"""Every program is called with these five, in this order; what it does not read may be None."""

_CHANGE: Mapping[str, CelType] = {
    "op": "string",
    "schema": "string",
    "table": "string",
    "lsn": "string",
    "xid": "int",
    "commit_time": "timestamp",
    "changed": "list",
}
_MESSAGE: Mapping[str, CelType] = {"prefix": "string", "content": "string", "data": "json", "transactional": "bool"}


def environment(
    rule: TrackRule, columns: Mapping[str, CelType] | None, *, hash_key: bytes | None, cond: bool = False
) -> cel.Environment:
    """
    What the expressions of `rule` may name.

    Args:
        rule: A rule over row changes sees `new`, `old`; one over messages sees `message`. All see `change`, `ctx`.
        columns: Column types of the rule's table; None where they are not known.
        hash_key: Key of ``hash()``.
        cond: Whether this is for a `cond`, the only place that sees `events`.
    """
    aliases: dict[str, str] = {}
    variables: dict[str, Any] = {"change": cel.struct(_CHANGE), "ctx": cel.value("json")}
    if rule.message_prefix is not None:
        variables["message"] = cel.struct(_MESSAGE)
    else:
        variables["new"] = cel.row(columns)
        variables["old"] = cel.row(columns)
        # As pg_track_events' own `init` writes rules: the table's name is the row.
        aliases = {rule.table: "old" if rule.ops == ("delete",) else "new"}
    if cond:
        variables["events"] = cel.events(_events(rule))
    return cel.Environment(variables, aliases=aliases, hash_key=hash_key)


def _events(rule: TrackRule) -> Iterable[str]:
    assert rule.cond is not None
    try:
        return choice(rule.cond.source).accepted(rule.blocks)
    except cel.CelSyntaxError:
        # Compiling the expression says so, with its place.
        return rule.blocks
