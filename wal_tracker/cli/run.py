"""`wal_tracker run`: the main job."""

from __future__ import annotations

import logging
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import FrameType

import click

from wal_tracker import assemble
from wal_tracker.cli import problems
from wal_tracker.config.load import load
from wal_tracker.config.model import Config, Mode

logger = logging.getLogger("wal_tracker.run")

EXAMPLES = """
\b
Examples:
  wal_tracker run                        read changes until stopped
  wal_tracker run --apply                first make what is missing: publication and slot, or outbox and triggers
  wal_tracker run --mode=wal             after `apply` has changed the mode: finish the change, then go on
  wal_tracker run --until-caught-up      deliver what is committed by now, then leave with 0

SIGTERM (or Ctrl-C) stops reading, delivers what is held, confirms, and leaves within
delivery.shutdown_timeout_s; a second signal leaves at once. Nothing is lost either way: what was
not confirmed comes again.

SIGHUP reads the configuration again, with the files of secrets (file:PATH), and goes over to the
destinations' new options between two requests. For everything else that has changed it says that a
restart is needed.
"""


@click.command("run", epilog=EXAMPLES)
@click.option("--mode", type=click.Choice(["wal", "trigger", "kafka"]), help="Overrides source.mode.")
@click.option("--apply", "apply_first", is_flag=True, help="Make what the mode needs where it is missing.")
@click.option("--until-caught-up", is_flag=True, help="Deliver everything committed before the start, then exit 0.")
@click.pass_obj
def run_command(config_path: Path | None, mode: Mode | None, apply_first: bool, until_caught_up: bool) -> None:
    """Read row changes, run the rules, deliver the events."""
    config = _load(config_path, mode)
    problems.refuse_mode(config.source.mode)
    for warning in config.warnings:
        logger.warning("configuration: %s", warning)
    made = assemble.Run(
        config,
        apply_first=apply_first,
        until_caught_up=until_caught_up,
        reread=lambda: _load(config.path, mode),
    )
    # From here on: one that comes while we get ready must not end us.
    signal.signal(signal.SIGHUP, lambda _number, _frame: made.reload())
    with made as job:
        interrupted = _stop_on_signals(job)
        job.run()
    stats = job.stats
    logger.info(
        "done",
        extra={
            "transactions": stats.transactions,
            "changes": stats.changes,
            "events": stats.events,
            "rule_errors": stats.rule_errors,
            "confirmed_lsn": str(stats.confirmed_lsn),
        },
    )
    if interrupted:
        raise click.Abort


def _load(path: Path | None, mode: Mode | None) -> Config:
    config = load(path, os.environ)
    return config if mode is None else replace(config, source=replace(config.source, mode=mode))


def _stop_on_signals(job: assemble.Run) -> list[int]:
    """First signal: drain and leave; second: leave at once. Returns a list that SIGINT makes non-empty."""
    interrupted: list[int] = []
    seen: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if seen:
            # Unconfirmed work comes again; there is nothing to tidy that a crash would not leave in order.
            os._exit(128 + number)
        seen.append(number)
        if number == signal.SIGINT:
            interrupted.append(number)
        # Nothing is written here: the signal may have come in the middle of a write to the same stream.
        job.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return interrupted
