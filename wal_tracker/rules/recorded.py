"""The rules over changes that come as JSON, without a server: for `eval`, and for trying rules on a recording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from wal_tracker.config.model import Config
from wal_tracker.decode.changes import ChangeReader
from wal_tracker.errors import DecodeError, RuleEvaluationError
from wal_tracker.model import EXACT, Change, Column, Event, Relation
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.rules.engine import RelationPlan, RuleSet

SYSTEM_IDENTIFIER = "eval"
"""Stands for the server's in event ids: the same changes give the same ids, and never those of a real server."""


class Recorded:
    """Reads changes from JSON for the rules of one configuration: ready for them, without what is ignored."""

    def __init__(
        self, config: Config, types: TypeCatalog, schema: Mapping[str, Mapping[str, str]] | None, rules: RuleSet
    ) -> None:
        """
        Args:
            config: The configuration.
            types: Where type names are looked up.
            schema: ``{table: {column: type}}``; None: what a change does not say of its types is not known.
            rules: Of the configuration.
        """

        def numeric_as_string(relation: Relation, column: Column) -> bool:
            return config.numeric.of(relation.schema, relation.table, column.name) == "string"

        self._ignore = config.ignore
        self._rules = rules
        self._reader = ChangeReader(
            types, schema, numeric_as_string=numeric_as_string, default_schema=config.source.schema
        )
        self._plans: dict[object, RelationPlan] = {}

    def read(self, line: bytes | str) -> Change | None:
        """
        The change of one line, with its relation's plan; None: its table is ignored.

        Raises:
            DecodeError: It is not a change in the JSON shape.
        """
        change = self._reader.read(line)
        relation = change.relation
        ignored = self._ignore.get((relation.schema, relation.table), frozenset())
        if ignored == "*":
            return None
        for row in filter(None, (change.old, change.new)):
            for name in ignored:
                row.pop(name, None)
                row.pop(EXACT + name, None)
        relation.plan = self._plan(relation)
        return change

    def _plan(self, relation: Relation) -> RelationPlan:
        """The table's rules; each change describes its relation anew, so compiled ones are kept by what it says."""
        typed = any(column.type_oid for column in relation.columns)
        key = (relation.schema, relation.table, relation.columns if typed else None)
        plan = self._plans.get(key)
        if plan is None:
            columns = self._rules.cel_types(relation.schema, relation.table, relation.columns) if typed else None
            plan = self._plans[key] = self._rules.plan(relation, columns)
        return plan


class Evaluation:
    """The rules of a configuration over changes as JSON."""

    def __init__(self, config: Config, types: TypeCatalog, schema: Mapping[str, Mapping[str, str]] | None) -> None:
        """
        Args:
            config: As of `Recorded`.
            types: As of `Recorded`.
            schema: As of `Recorded`.
        """
        rules = RuleSet(config, types, system_identifier=SYSTEM_IDENTIFIER, mode="wal", raw=False)
        self._recorded = Recorded(config, types, schema, rules)

    def of(self, line: bytes) -> Iterator[Event | dict[str, Any]]:
        """What the rules make of one line: events, and the error of each rule that fails."""
        try:
            change = self._recorded.read(line)
        except DecodeError as error:
            yield {"error": str(error), "rule": None}
            return
        if change is None:
            return
        plan: RelationPlan = change.relation.plan
        for rule in plan.rules[change.op]:
            try:
                event = rule.make(change)
            except RuleEvaluationError as error:
                yield {"error": error.reason, "rule": error.rule}
                continue
            if event is not None:
                yield event
