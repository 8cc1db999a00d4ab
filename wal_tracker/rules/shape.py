"""
What one destination gets of an event: `when`, and the lists of its properties.

Made for a destination that asks for it, after the rules and before its queue; the others get the event itself. What
is made has the event's id, name, timestamp and source, and the same bytes on every replay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import orjson

from wal_tracker import cel
from wal_tracker.cel.functions import keyed_hash
from wal_tracker.config.globs import chosen
from wal_tracker.config.model import DestinationConfig, Expression, PropertyLists
from wal_tracker.errors import RuleEvaluationError
from wal_tracker.model import IDENTIFY, Deliverable, Event, Group, ProfileEvent, RawChange, Value
from wal_tracker.pgtypes import CelType
from wal_tracker.rules.compile import compile_expression

_PARAMETERS = ("event", "distinct_id", "properties", "source")
_SOURCE: Mapping[str, CelType] = {
    "op": "string",
    "schema": "string",
    "table": "string",
    "prefix": "string",
    "commit_lsn": "string",
    "ordinal": "int",
    "xid": "int",
    "mode": "string",
}
# A logical message has no table, and a change no prefix.
_NOWHERE: Mapping[str, Value] = {"schema": "", "table": "", "prefix": ""}

# An event may bring names of its own making; so many are remembered before they are forgotten and looked up anew.
MAX_REMEMBERED_NAMES = 1000


def compile_when(when: Expression, hash_key: bytes | None) -> cel.Program:
    """
    Compile the `when` of a destination.

    Raises:
        RuleError: With its place in the file, and a caret.
    """
    variables = {
        "event": cel.value("string"),
        "distinct_id": cel.value("string"),
        "properties": cel.value("json"),
        "source": cel.struct(_SOURCE),
    }
    return compile_expression(when, cel.Environment(variables, hash_key=hash_key), result="bool")


class Shape:
    """Turns an event into what one destination gets. One thread."""

    def __init__(self, entry: DestinationConfig, hash_key: bytes | None) -> None:
        """
        Args:
            entry: The destination, with `when` or `properties`.
            hash_key: Key of ``hash()`` and of `properties.hash`.

        Raises:
            RuleError: `when` does not compile.
        """
        self._path = entry.path
        self._when = None
        if entry.when is not None:
            program = compile_when(entry.when, hash_key)
            self._when = program.function(_PARAMETERS)
            self._reads = program.variables
        self._lists = None
        if entry.properties is not None:
            self._lists = _Lists(entry.properties, hash_key)

    @classmethod
    def of(cls, entry: DestinationConfig, hash_key: bytes | None) -> Shape | None:
        """The shape a destination asks for; None where it takes every event as it is."""
        return None if entry.when is None and entry.properties is None else cls(entry, hash_key)

    def __call__(self, event: Deliverable) -> Deliverable | None:
        """
        What the destination gets; None: nothing.

        Raises:
            RuleEvaluationError: `when` has no value for this event, or a property cannot be hashed.
        """
        if self._when is not None and not self._lets_through(event):
            return None
        if self._lists is None:
            return event
        try:
            return self._lists.applied(event)
        except (orjson.JSONEncodeError, UnicodeEncodeError) as error:
            raise RuleEvaluationError(
                rule=f"{self._path}.properties.hash", reason=f"a value cannot be hashed ({type(error).__name__})"
            ) from error

    def _lets_through(self, event: Deliverable) -> bool:
        assert self._when is not None
        rule = f"{self._path}.when"
        try:
            # Exact digits (`orjson.Fragment`) become what can be computed with.
            properties = orjson.loads(orjson.dumps(event.properties)) if "properties" in self._reads else None
            source = {**_NOWHERE, **event.source} if "source" in self._reads else None
            answer = self._when(event.name, event.distinct_id, properties, source)
        except cel.CelEvaluationError as error:
            raise RuleEvaluationError(rule=rule, reason=str(error)) from error
        except orjson.JSONEncodeError as error:
            raise RuleEvaluationError(rule=rule, reason=f"the event cannot be written as JSON: {error}") from error
        if not isinstance(answer, bool):
            raise RuleEvaluationError(rule=rule, reason=f"it yields {type(answer).__name__}, neither true nor false")
        return answer


class _Lists:
    """`properties` of one destination, decided once for each name."""

    def __init__(self, lists: PropertyLists, hash_key: bytes | None) -> None:
        self._lists = lists
        # The configuration refuses `hash` without a key.
        self._hash = keyed_hash(hash_key or b"")
        self._fates: dict[str, str] = {}

    def applied(self, event: Deliverable) -> Deliverable | None:
        """The event as the lists leave it: itself where they change nothing, None where they leave nothing to say."""
        if isinstance(event, RawChange):
            return self._raw(event)
        properties = self._shaped(event.properties)
        distinct_id = event.distinct_id
        # By its own name, whatever `allow` and `deny` say: without it most vendors take no event.
        if distinct_id is not None and chosen(self._lists.hash, "distinct_id"):
            distinct_id = self._hash(distinct_id)
        # An event never has an empty `identify`, and one that said nothing else is none.
        identify = (event.identify and self._shaped(event.identify)) or None
        if identify is None and event.identify and event.group is None and event.name == IDENTIFY and not properties:
            return None
        group = event.group and replace(event.group, traits=self._shaped(event.group.traits))
        is_same = properties is event.properties and distinct_id is event.distinct_id and identify is event.identify
        if is_same and group == event.group:
            return event
        return _derived(event, distinct_id, properties, identify, group)

    def _raw(self, change: RawChange) -> RawChange:
        """The same for a change: its columns are its properties, wherever they stand in it."""
        document = dict(change.document)
        for part in ("key", "old", "new"):
            if document.get(part) is not None:
                document[part] = self._shaped(document[part])
        document["unchanged"] = [name for name in document.get("unchanged", ()) if self._fate(name) != "drop"]
        return _in_its_lane(RawChange(change.id, change.name, change.timestamp, document, change.source), change)

    def _shaped(self, values: dict[str, Value]) -> dict[str, Value]:
        """What is left of named values; the same object where nothing changes."""
        fates = [self._fates.get(name) or self._fate(name) for name in values]
        if all(fate == "keep" for fate in fates):
            return values
        return {
            name: value if fate == "keep" else self._hashed(value)
            for fate, (name, value) in zip(fates, values.items(), strict=True)
            if fate != "drop"
        }

    def _fate(self, name: str) -> str:
        lists = self._lists
        if len(self._fates) >= MAX_REMEMBERED_NAMES:
            self._fates.clear()
        kept = chosen(lists.allow, name) and not chosen(lists.deny, name)
        fate = "drop" if not kept else "hash" if chosen(lists.hash, name) else "keep"
        self._fates[name] = fate
        return fate

    def _hashed(self, value: Any) -> str | None:
        """The pseudonym `hash()` gives in a rule; lists and objects by their JSON with sorted keys."""
        if isinstance(value, (orjson.Fragment, list, dict)):
            value = orjson.loads(orjson.dumps(value))
        if isinstance(value, (list, dict)):
            value = orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
        return self._hash(value)


def _derived(
    event: Event,
    distinct_id: str | None,
    properties: dict[str, Value],
    identify: dict[str, Value] | None,
    group: Group | None,
) -> Event:
    """The event with other properties and traits, for one destination. The one place that makes such an event."""
    told = (event.id, event.name, distinct_id, event.timestamp, properties, event._source)
    if identify is None and group is None:
        return _in_its_lane(Event(*told), event)
    return _in_its_lane(ProfileEvent(*told, identify, group), event)


D = TypeVar("D", Event, RawChange)


def _in_its_lane(made: D, event: Deliverable) -> D:
    lane = getattr(event, "lane", None)
    if lane is not None:
        made.lane = lane
    return made
