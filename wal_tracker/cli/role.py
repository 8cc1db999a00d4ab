"""`wal_tracker create-role`: the role `run` logs in with."""

from __future__ import annotations

import json
from pathlib import Path

import click

from wal_tracker.cli import ask
from wal_tracker.cli.setup import json_option, mode_option, wanted_by, yes_option
from wal_tracker.config.model import Mode
from wal_tracker.source import role

EXAMPLES = """
\b
Examples:
  wal_tracker create-role                      a role named wal_tracker, for source.mode
  wal_tracker create-role --name events --yes  without asking
  wal_tracker create-role --print-sql          only show the SQL; the connection string goes to stderr

Run it after `wal_tracker apply`, and put the connection string it prints into source.dsn: it is shown
this once. A role it made before keeps its password, and is allowed what the mode needs beside what
it may do already.
"""


@click.command("create-role", epilog=EXAMPLES)
@click.option("--name", default="wal_tracker", show_default=True, help="What the role is called.")
@click.option("--print-sql", is_flag=True, help="Show the SQL on stdout and run nothing.")
@mode_option
@yes_option
@json_option
@click.pass_obj
def create_role_command(
    path: Path | None, name: str, print_sql: bool, mode: Mode | None, yes: bool, as_json: bool
) -> None:
    """Make a role that may do what `run` needs in this mode and nothing else; print its connection string."""
    wanted = wanted_by(path, mode)
    planned = role.plan_role(wanted, name)
    script = "\n".join(planned.statements)
    if print_sql:
        click.echo(script)
        if planned.dsn is not None:
            click.echo(f"once these have been run it connects with {planned.dsn.reveal()}", err=True)
        return
    if not as_json:
        click.echo(script, err=True)
    ask.confirm(f"Run these statements to make or extend role {name!r}?", yes)
    role.make_role(wanted, planned)
    dsn = planned.dsn.reveal() if planned.dsn is not None else None
    if as_json:
        click.echo(json.dumps({"role": name, "dsn": dsn, "executed": list(planned.statements)}))
    elif dsn is not None:
        click.echo(dsn)
    else:
        click.echo(f"role {name!r} was there; it keeps its password", err=True)
