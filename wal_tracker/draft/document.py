"""The files `wal_tracker init` writes: the configuration, with comments, and a Dockerfile. Pure."""

from __future__ import annotations

import itertools

from wal_tracker import __version__
from wal_tracker.draft import yaml
from wal_tracker.draft.draft import SCHEMA, Draft, DraftedRule, DraftedTable

PYTHON_IMAGE = "python:3.13.7-slim-bookworm"

_DESTINATIONS = """
# Events are lines on stdout until more is said. `wal_tracker plugins` lists what there is, docs/configuration.md has
# every key.
destinations:
  stdout: {}
  # posthog: {api_key: $POSTHOG_API_KEY, endpoint: us}
  # hook: {kind: webhook, url: $WEBHOOK_URL, secret: $WEBHOOK_SECRET}
  # audit: {kind: file, path: events.jsonl, max_bytes: 104857600}

# Positions, dead letters and gaps; on a disk that survives restarts.
state: sqlite:///wal_tracker.db
"""

_DOCKERFILE = """\
# wal_tracker with the configuration beside this file. Written by `wal_tracker init`; nothing secret is in it.
#
#   pip wheel --no-deps --wheel-dir . PATH-TO-WAL_TRACKER
#   docker build -t wal_tracker .
#   docker run -e DATABASE_URL -v wal_tracker:/var/lib/wal_tracker --stop-timeout 40 wal_tracker
#
# The volume holds positions and dead letters (`state`): one container at a time, and it must survive restarts.
# SIGTERM delivers what is held and confirms it, within delivery.shutdown_timeout_s (30 s).
FROM {image}

ENV PYTHONUNBUFFERED=1 \\
    PIP_NO_CACHE_DIR=1 \\
    PIP_DISABLE_PIP_VERSION_CHECK=1 \\
    WAL_TRACKER_CONFIG=/etc/wal_tracker/wal_tracker.yaml \\
    WAL_TRACKER_LOG_FORMAT=json

RUN useradd --system --uid 10001 --home-dir /var/lib/wal_tracker --create-home --shell /usr/sbin/nologin wal_tracker

COPY wal_tracker-{version}-py3-none-any.whl /tmp/
RUN pip install /tmp/wal_tracker-{version}-py3-none-any.whl && rm /tmp/*.whl

COPY wal_tracker.yaml /etc/wal_tracker/wal_tracker.yaml

USER 10001
WORKDIR /var/lib/wal_tracker
VOLUME /var/lib/wal_tracker

# Asks the server and the state store, also while `run` is running; unhealthy is what needs a person.
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s --retries=3 CMD ["wal_tracker", "status"]

# What the database needs is made beforehand, by a role that may: `wal_tracker apply`.
CMD ["wal_tracker", "run"]
"""


def configuration(draft: Draft) -> str:
    """The draft as ``wal_tracker.yaml``."""
    survey = draft.survey
    lines = [
        f"# Drafted by `wal_tracker init` from database {survey.database!r} (PostgreSQL {survey.server_version}).",
        "# Names of events and properties are guesses from the names of tables and columns: change them before others",
        "# build on them. What rules can say: docs/rules.md. After a change: wal_tracker validate --database",
        "",
        "source:",
        "  dsn: $DATABASE_URL            # from the environment: no password belongs in this file",
        f"  mode: {draft.mode}{' ' * (24 - len(draft.mode))}# {draft.why}",
    ]
    if draft.mode == "trigger":
        lines.append("  # capture: strict             # rather fail the application's write than miss a change")
    if survey.readiness.in_recovery:
        lines.append("  # primary_dsn: $PRIMARY_URL   # this is a standby: what is set up, is set up on its primary")
    lines.append("")
    body = [line for table in draft.tables for line in ["", *_table_lines(table)]]
    if any(table.is_tracked for table in draft.tables):
        lines += ["track:", *body[1:]]
    else:
        lines += ["# Nothing can be tracked as things are; below is why, and what could be.", "track: {}", *body[1:]]
    ignored = [table for table in draft.tables if table.ignored]
    if ignored:
        lines += [
            "",
            "# These look like secrets: never decoded, so never logged, stored or sent. Take out what is none.",
            "ignore:",
        ]
        for table in ignored:
            lines += yaml.ignore_lines(table.table.name, SCHEMA, table.ignored)
    lines += _DESTINATIONS.rstrip().splitlines()
    return "\n".join(map(_clean, lines)) + "\n"


def dockerfile() -> str:
    """A Dockerfile that runs this version with that configuration."""
    return _DOCKERFILE.format(image=PYTHON_IMAGE, version=__version__)


def _table_lines(table: DraftedTable) -> list[str]:
    known = table.table
    rows = "never analyzed" if known.rows is None else f"about {known.rows:,} rows" if known.rows else "empty"
    lines = [f"  # {yaml.comment('.'.join(known.name))}: {rows}"]
    lines += [f"  # not tracked: {yaml.comment(table.obstacle[0])}"] if table.obstacle else []
    lines += [f"  #   {yaml.comment(line)}" for line in table.obstacle[1:]]
    for op, rules in itertools.groupby(table.rules, lambda rule: rule.suggestion.op):
        lines += _rules_lines(table, op, list(rules))
    return lines


def _rules_lines(table: DraftedTable, op: str, rules: list[DraftedRule]) -> list[str]:
    """The rules over one operation; what is not active is a comment that becomes a rule when the sign is taken away."""
    waiting = [rule for rule in rules if table.obstacle or rule.waits_for]
    key = f"  {yaml.name(table.table.name, SCHEMA, op)}:"
    if len(rules) == 1:
        (rule,) = rules
        lines = [f"    {line}" for line in yaml.rule_lines(rule.suggestion, listed=False)]
        if waiting:
            return [*_why(rule), *_commented([key, *lines])]
        return [*_why(rule), key, *lines]
    if len(waiting) == len(rules):
        together = [yaml_line for rule in rules for yaml_line in yaml.item_lines(rule.suggestion)]
        return [*_why(rules[0], plural=True), *_commented([key, *together])]
    lines = [key]
    for rule in rules:
        items = yaml.item_lines(rule.suggestion)
        lines += [f"  {line}" for line in _why(rule)]
        lines += _commented(items) if rule in waiting else items
    return lines


def _why(rule: DraftedRule, *, plural: bool = False) -> list[str]:
    told = [] if plural or not rule.suggestion.comment else [rule.suggestion.comment]
    if rule.waits_for:
        first, *others = rule.waits_for
        told += [f"not active: {first}", *(f"  {line}" for line in others)]
    return [f"  # {yaml.comment(line)}" for line in told]


def _commented(lines: list[str]) -> list[str]:
    return [f"  # {line[2:]}" for line in lines]


def _clean(line: str) -> str:
    return line.rstrip()
