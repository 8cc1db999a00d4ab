"""`wal_tracker demo`: see it work, on a throw-away PostgreSQL."""

from __future__ import annotations

import logging
import signal
from types import FrameType
from typing import cast

import click
from click.core import ParameterSource

from wal_tracker.config.model import Mode
from wal_tracker.demo.show import Format, Options, play

EXAMPLES = """
\b
Examples:
  wal_tracker demo                          about ten seconds of a small shop
  wal_tracker demo --seconds 30 --rate 200  longer, and busier
  wal_tracker demo --format json | jq .     the events as every destination gets them
  wal_tracker demo --mode trigger           the same shop, by triggers and an outbox

Needs the extra: pip install "wal_tracker[demo]". Leaves nothing behind. Exits 0 when every committed
change arrived exactly once and nothing is left unconfirmed, else 1.
"""


@click.command("demo", epilog=EXAMPLES)
@click.option(
    "--seconds", type=click.IntRange(1, 3600), default=8, show_default=True, help="How long the shop is open."
)
@click.option(
    "--rate", type=click.IntRange(1, 2000), default=12, show_default=True, help="Transactions a second, about."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["pretty", "json"]),
    default="pretty",
    show_default=True,
    help="For a person; or one JSON object a line on stdout, and the talk on stderr.",
)
@click.option(
    "--mode",
    type=click.Choice(["wal", "trigger"]),
    default="wal",
    show_default=True,
    help="How changes are read: from the WAL; or by triggers, on a server without logical decoding.",
)
@click.pass_context
def demo_command(context: click.Context, seconds: int, rate: int, form: str, mode: Mode) -> None:
    """Watch a small shop's commits become events, on a PostgreSQL that exists only for this."""
    if context.find_root().get_parameter_source("log_level") is ParameterSource.DEFAULT:
        # The show tells what happens; the log is for what goes wrong, unless it was asked for.
        logging.getLogger("wal_tracker").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _interrupt)
    if not play(Options(seconds=seconds, rate=rate, form=cast(Format, form), mode=mode)):
        context.exit(1)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM ends the demo as Ctrl-C does: everything is tidied."""
    raise KeyboardInterrupt
