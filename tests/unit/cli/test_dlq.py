"""`wal_tracker dlq` over a state store in a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import commands
from tests.support.commands import Done
from wal_tracker.lsn import LSN
from wal_tracker.state import open_state
from wal_tracker.state.base import DeadLetter, StateStore


def letter(id: str, destination: str = "posthog") -> DeadLetter:
    """An event somebody refused, or, without a destination, a change no rule could read."""
    return DeadLetter(
        id=id,
        destination=destination,
        kind="rejected" if destination else "rule",
        rule="users.insert",
        event="user_signup",
        table="public.users",
        commit_lsn=LSN(0x16B3748),
        commit_time="2026-01-02T03:04:05.000000Z",
        reason="400: no distinct_id\nsecond line",
        payload=b'{"event":"user_signup","properties":{"id":7}}',
    )


class Installation:
    """A configuration and its state store."""

    def __init__(self, directory: Path) -> None:
        self.state_url = f"sqlite:///{directory}/state.db"
        self.config = directory / "wal_tracker.yaml"
        self.config.write_text(
            "track: {users.insert: {event: user_signup}}\n"
            f"state: {self.state_url}\n"
            "source: {dsn: 'host=127.0.0.1 port=1 connect_timeout=1'}\n"
        )
        self.state: StateStore = open_state(self.state_url)

    def run(self, *arguments: str) -> Done:
        """A command over this configuration."""
        return commands.run("--config", str(self.config), *arguments)

    def ids(self) -> list[str]:
        """The letters there are."""
        return [letter.id for letter in self.state.dead_letters(status=None)]


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    """With three dead letters."""
    made = Installation(tmp_path)
    made.state.add([letter("aaaa-1"), letter("aabb-2", "webhook"), letter("cccc-3", "")])
    yield made
    made.state.close()


def test_list_shows_what_there_is(installation: Installation) -> None:
    """A table; one line a letter, with the first line of its reason."""
    done = installation.run("dlq", "list")
    assert done.code == 0
    header, *lines = done.stdout.splitlines()
    assert header.split()[:2] == ["ID", "STATUS"]
    assert [line.split()[0] for line in lines] == ["aaaa-1", "aabb-2", "cccc-3"]
    assert "second line" not in done.stdout


def test_list_may_be_narrowed_and_machine_read(installation: Installation) -> None:
    """One JSON object a line, of one destination."""
    (found,) = installation.run("dlq", "list", "--destination", "webhook", "--json").lines()
    assert (found["id"], found["kind"], found["commit_lsn"]) == ("aabb-2", "rejected", "0/16B3748")
    assert len(installation.run("dlq", "list", "--limit", "2", "--json").lines()) == 2


def test_an_empty_list_says_so(installation: Installation) -> None:
    """On stderr; stdout has no data."""
    installation.state.drop(installation.ids())
    done = installation.run("dlq", "list")
    assert (done.code, done.stdout) == (0, "")
    assert "no dead letters" in done.stderr


def test_show_prints_the_payload(installation: Installation) -> None:
    """By the beginning of the id."""
    document = installation.run("dlq", "show", "aaaa").json()
    assert document["payload"]["properties"] == {"id": 7}
    assert document["reason"].endswith("second line")


@pytest.mark.parametrize(("id", "says"), [("aa", "more than one"), ("zz", "no dead letter")])
def test_a_beginning_must_fit_exactly_one(installation: Installation, id: str, says: str) -> None:
    """Nothing is done to a letter nobody named."""
    for verb in ("show", "replay", "drop"):
        done = installation.run("dlq", verb, id)
        assert done.code == 2
        assert says in done.stderr
    assert {letter.status for letter in installation.state.dead_letters(status=None)} == {"dead"}


def test_drop_without_a_terminal_needs_yes(installation: Installation) -> None:
    """Exit 2, and nothing is dropped."""
    done = installation.run("dlq", "drop", "--all")
    assert done.code == 2
    assert "--yes" in done.stderr
    assert len(installation.ids()) == 3


def test_drop_forgets_what_was_named(installation: Installation) -> None:
    """And only that."""
    assert installation.run("dlq", "drop", "aaaa", "--yes").code == 0
    assert installation.ids() == ["aabb-2", "cccc-3"]
    assert installation.run("dlq", "drop", "--destination", "webhook", "--yes").code == 0
    assert installation.ids() == ["cccc-3"]


@pytest.mark.parametrize("verb", ["drop", "replay"])
def test_nothing_named_is_a_usage_error(installation: Installation, verb: str) -> None:
    """All of them is said with --all."""
    done = installation.run("dlq", verb)
    assert done.code == 2
    assert "--all" in done.stderr


def test_replay_leaves_delivering_to_a_running_run(installation: Installation) -> None:
    """Where a pipeline holds the store, letters are marked and waited for; what is not delivered in time is told."""
    with installation.state.exclusive():
        done = installation.run("dlq", "replay", "aaaa", "--wait", "0.3")
    assert done.code == 1
    assert "running" in done.stderr
    assert "0 delivered, 1 not" in done.stderr
    assert [found.id for found in installation.state.dead_letters(status="replay")] == ["aaaa-1"]


def test_status_works_while_the_server_is_down(installation: Installation) -> None:
    """Exit 1, with what is ours: dead letters and positions."""
    done = installation.run("status", "--json")
    document = done.json()
    assert (done.code, document["healthy"], document["server"]["reachable"]) == (1, False, False)
    assert document["dead_letters"] == {"dead": 3, "replay": 0}
    assert "cannot be asked" in installation.run("status").stdout
