"""
Which of the suggested rules hold on this database as it is; each is tried by the same check as the user's own.

Pure: a survey comes in. What the server would not send, or could not be asked for without harm, is kept, but not
active: it stands in the file as a comment, with what it waits for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wal_tracker.config.load import read
from wal_tracker.draft import yaml
from wal_tracker.draft.suggest import Suggestion, secret_columns, sees_old_rows, subjects, suggest
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.rules.check import Problem, check, full_identity, quoted
from wal_tracker.source.catalog import identity_problem
from wal_tracker.source.survey import Survey, SurveyedTable

Mode = Literal["wal", "trigger"]
SCHEMA = "public"
"""Of tables that are written without one."""


@dataclass(frozen=True, slots=True)
class DraftedRule:
    """A suggestion, and what it waits for."""

    suggestion: Suggestion
    waits_for: tuple[str, ...] = ()
    """Lines that say why it is not active, and the SQL that changes that; empty: it is."""


@dataclass(frozen=True, slots=True)
class DraftedTable:
    """A table in the draft."""

    table: SurveyedTable
    rules: tuple[DraftedRule, ...]
    ignored: tuple[str, ...]
    """Columns that look like secrets."""
    obstacle: tuple[str, ...] = ()
    """Why nothing of it can be tracked as things are; empty: something can."""

    @property
    def is_tracked(self) -> bool:
        """Whether any rule is active."""
        return not self.obstacle and any(not rule.waits_for for rule in self.rules)


@dataclass(frozen=True, slots=True)
class Draft:
    """A configuration in the making."""

    survey: Survey
    mode: Mode
    why: str
    """Why this mode."""
    tables: tuple[DraftedTable, ...]

    @property
    def active(self) -> int:
        """How many rules are active."""
        return sum(not rule.waits_for for table in self.tables if not table.obstacle for rule in table.rules)

    @property
    def waiting(self) -> int:
        """How many are not."""
        return sum(len(table.rules) for table in self.tables) - self.active


def draft(survey: Survey, chosen: Sequence[SurveyedTable], mode: Mode, why: str) -> Draft:
    """
    Rules for the chosen tables.

    Args:
        survey: The database.
        chosen: Some of its tables.
        mode: How they will be read.
        why: Why in this mode.
    """
    names = subjects(table.name for table in chosen)
    tables = tuple(_drafted(table, survey.types, names[table.name], mode) for table in chosen)
    return Draft(survey, mode, why, tables)


def _drafted(table: SurveyedTable, types: TypeCatalog, subject: str, mode: Mode) -> DraftedTable:
    ignored = tuple(secret_columns(table))
    rules = suggest(table, types, subject, old_rows=sees_old_rows(table, mode))
    obstacle = _obstacle(table, mode)
    if obstacle:
        return DraftedTable(table, tuple(map(DraftedRule, rules)), ignored, tuple(obstacle))
    return DraftedTable(
        table,
        tuple(DraftedRule(rule, tuple(_waits_for(table, types, rule, ignored, mode))) for rule in rules),
        ignored,
    )


def _obstacle(table: SurveyedTable, mode: Mode) -> list[str]:
    """What stands against tracking the table at all."""
    if "*" in table.name:
        return ["a rule cannot name it: in a rule * stands for every operation"]
    if mode == "trigger":
        return []
    if not table.table.is_publishable:
        return ["it is unlogged: its changes are not in the WAL. Trigger mode can track it, or:",
                f"ALTER TABLE {quoted(table.table.relation)} SET LOGGED;"]  # fmt: skip
    if problem := identity_problem(table.table):
        return [f"{problem}:", "once published, PostgreSQL would refuse every UPDATE and DELETE of its rows.",
                "Give it a primary key, or have the server send the whole old row:",
                full_identity(table.table)]  # fmt: skip
    return []


def _waits_for(
    table: SurveyedTable, types: TypeCatalog, rule: Suggestion, ignored: Sequence[str], mode: Mode
) -> list[str]:
    """What the check of `wal_tracker validate --database` has against a rule, and what mends it."""
    lines = [f"source: {{mode: {mode}}}", "track:", *yaml.track_lines(table.name, SCHEMA, rule.op, [rule])]
    if ignored:
        lines += ["ignore:", *yaml.ignore_lines(table.name, SCHEMA, ignored)]
    config = read("\n".join(lines).encode(), {})
    against = [problem for problem in check(config, types, [table.table]) if problem.severity != "warning"]
    return [line for problem in against for line in _told(problem)]


def _told(problem: Problem) -> list[str]:
    if not problem.remedy:
        return [problem.message]
    told = [problem.message]
    if "REPLICA IDENTITY FULL" in problem.remedy:
        # Shorter than the check's own message, which names columns and table.
        told = ["compares with the old row, of which the server sends the key only. First run:"]
    return told + [line.strip() for line in problem.remedy.splitlines()]
