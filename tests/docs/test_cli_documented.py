"""Every command explains itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.support import commands
from wal_tracker.cli.main import COMMANDS, cli


def every_command() -> Iterator[tuple[str, ...]]:
    """The name of each command, and of each command in a group."""
    context = click.Context(cli)
    for name in COMMANDS:
        yield (name,)
        command = cli.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((name, inner) for inner in command.list_commands(context))


@pytest.mark.parametrize("name", list(every_command()), ids=" ".join)
def test_a_command_has_help_with_an_example(name: tuple[str, ...]) -> None:
    """`--help` says what it does, and shows how it is written."""
    done = commands.run(*name, "--help")
    assert done.code == 0
    assert "Example" in done.stdout
    assert f"wal_tracker {' '.join(name)}" in done.stdout.split("Example", 1)[1]


@pytest.mark.parametrize("name", list(every_command()), ids=" ".join)
def test_an_option_says_what_it_does(name: tuple[str, ...]) -> None:
    """No option without help."""
    command: click.Command | None = cli
    for part in name:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), part)
    assert command is not None
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name


def test_what_is_written_wrong_exits_with_2() -> None:
    """An unknown command and an unknown option are usage errors."""
    assert commands.run("rnu").code == 2
    assert commands.run("plugins", "--jsno").code == 2


@pytest.mark.parametrize(
    "arguments", [("--config", "{}", "validate"), ("validate", "-c", "{}"), ("dlq", "list", "-c", "{}")]
)
def test_the_configuration_may_be_named_before_and_after_the_command(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Either way it is the file that is read."""
    path = tmp_path / "mine.yaml"
    path.write_text(f"track: {{users.insert: {{event: a}}}}\nstate: sqlite:///{tmp_path}/state.db\n")
    assert commands.run(*(part.format(path) for part in arguments)).code == 0
    path.unlink()
    missing = commands.run(*(part.format(path) for part in arguments))
    assert missing.code == 2
    assert "mine.yaml" in missing.stdout + missing.stderr
