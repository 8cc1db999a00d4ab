"""Dead letters as a person deals with them: which are meant, how they look, and having them delivered."""

from __future__ import annotations

import time
from typing import Any

import click

from wal_tracker import assemble
from wal_tracker.config.model import Config
from wal_tracker.state.base import DeadLetter, StateStore

POLL_INTERVAL_S = 0.2


def chosen(state: StateStore, ids: tuple[str, ...], destination: str | None, every: bool) -> list[DeadLetter]:
    """
    The letters a person means.

    Raises:
        click.UsageError: None is named, or a name fits no letter, or more than one.
    """
    letters = state.dead_letters(status=None, destination=destination)
    if every or (destination is not None and not ids):
        return letters
    if not ids:
        raise click.UsageError("name dead letters by their ids, or say --all or --destination NAME")
    found = []
    for id in ids:
        fitting = [letter for letter in letters if letter.id.startswith(id)]
        if len({letter.id for letter in fitting}) != 1:
            raise click.UsageError(
                f"no dead letter's id begins with {id!r}" if not fitting else f"more than one id begins with {id!r}"
            )
        found += fitting
    return found


def deliver(config: Config, state: StateStore, ids: list[str], wait_s: float) -> tuple[int, int]:
    """
    See to it that letters marked "replay" are delivered.

    Returns:
        How many were, and how many were not (in time).
    """
    if ids and not state.is_held():
        result = assemble.replay_dead_letters(config, state)
        return result.delivered, result.failed
    if ids:
        click.echo(f"`wal_tracker run` is running and delivers them; waiting up to {wait_s:g} s", err=True)
    deadline = time.monotonic() + wait_s
    while True:
        status = {letter.id: letter.status for letter in state.dead_letters(status=None) if letter.id in ids}
        waiting = sum(1 for id in ids if status.get(id) == "replay")
        if not waiting or time.monotonic() > deadline:
            failed = sum(1 for id in ids if status.get(id, "replayed") != "replayed")
            return len(ids) - failed, failed
        time.sleep(POLL_INTERVAL_S)


def document(letter: DeadLetter) -> dict[str, Any]:
    """A letter as JSON, without its payload."""
    return {
        "id": letter.id,
        "status": letter.status,
        "kind": letter.kind,
        "destination": letter.destination,
        "rule": letter.rule,
        "event": letter.event,
        "table": letter.table,
        "commit_lsn": str(letter.commit_lsn),
        "commit_time": letter.commit_time,
        "reason": letter.reason,
        "created_at": letter.created_at,
    }


def shortened(reason: str) -> str:
    """The first line of a reason, short enough for a table."""
    first = reason.splitlines()[0] if reason else ""
    return first if len(first) <= 60 else first[:59] + "…"
