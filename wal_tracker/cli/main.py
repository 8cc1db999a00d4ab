"""The command group, the global options, and the one place where errors become exit codes."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from pathlib import Path

import click

from wal_tracker import __version__
from wal_tracker.cli import logs
from wal_tracker.errors import WalTrackerError

# Command name → module that holds it under the same name; imported only when used, so that `--help`
# and `eval` do not pay for libraries they do not need.
COMMANDS = {
    "demo": "demo",
    "init": "init",
    "plan": "setup",
    "apply": "setup",
    "drop": "setup",
    "create-role": "role",
    "validate": "validate",
    "eval": "evaluate",
    "run": "run",
    "tail": "tail",
    "status": "status",
    "dlq": "dlq",
    "destinations": "destinations",
    "plugins": "plugins",
}

WITHOUT_CONFIGURATION = frozenset({"demo", "init", "plugins"})


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - likewise
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command = getattr(importlib.import_module(f"wal_tracker.cli.{module}"), f"{cmd_name.replace('-', '_')}_command")
        assert isinstance(command, click.Command)
        if cmd_name not in WITHOUT_CONFIGURATION:
            _take_config(command)
        return command


def _take_config(command: click.Command) -> None:
    """Let ``--config`` stand after the command's name, too: where people look for it."""

    def keep(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> None:  # noqa: ARG001 - click's
        if value is not None:
            ctx.obj = value

    if all(parameter.name != "config" for parameter in command.params):
        file = click.Path(path_type=Path, dir_okay=False)
        text = "Configuration file; may also stand before the command."
        command.params.append(click.Option(["--config", "-c"], type=file, callback=keep, expose_value=False, help=text))
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _take_config(inner)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="wal_tracker")
@click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="WAL_TRACKER_CONFIG",
    help="Configuration file. Default: wal_tracker.yaml, else a pg_track_events.config.yaml.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    envvar="WAL_TRACKER_LOG_LEVEL",
    help="What is told on stderr.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    envvar="WAL_TRACKER_LOG_FORMAT",
    help="How it is told.",
)
@click.pass_context
def cli(ctx: click.Context, config: Path | None, log_level: str, log_format: str) -> None:
    """
    Turn PostgreSQL row changes into events that mean something, and deliver them.

    \b
    Examples:
      wal_tracker demo                        see it work, on a throw-away PostgreSQL
      wal_tracker init                        look at a database, draft a configuration
      wal_tracker validate                    is the configuration right?
      wal_tracker plan                        the SQL it needs, executed by `apply`
      wal_tracker run                         the main job
      wal_tracker status                      how far it is, and whether anything is wrong

    \b
    Exit codes: 0 done, 1 failed while running, 2 usage or configuration,
    3 the database is not ready, 130 interrupted.
    """
    logs.set_up(log_level, log_format)
    ctx.obj = config


def main() -> None:
    """Entry point of the console script; never returns."""
    code = 0
    try:
        # click returns what ctx.exit() was given when standalone_mode is off.
        code = cli.main(standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = 130
    except WalTrackerError as error:
        click.echo(f"error: {error}", err=True)
        if error.remedy:
            click.echo(error.remedy, err=True)
        logging.getLogger("wal_tracker").debug("where it came from", exc_info=True)
        code = error.exit_code
    except BrokenPipeError:
        # Whoever read our stdout has gone; nothing more can be said there, and Python must not try at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
