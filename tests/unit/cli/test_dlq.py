"""`wal_tracker dlq` over a state store in a file."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests.support import commands
from tests.support.commands import Done
from wal_tracker.lsn import LSN
from wal_tracker.state import open_state
from wal_tracker.state.base import DeadLetter, LetterFilter, StateStore


def letter(id: str, destination: str = "posthog", created_at: str = "") -> DeadLetter:
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
        answer='HTTP 400\n{"error": "no distinct_id"}' if destination else None,
        created_at=created_at,
    )


class Installation:
    """A configuration and its state store."""

    def __init__(self, directory: Path) -> None:
        self.state_url = f"sqlite:///{directory}/state.db"
        self.config = directory / "wal_tracker.yaml"
        self.configure("")
        self.state: StateStore = open_state(self.state_url)

    def configure(self, more: str) -> None:
        """Write the configuration, with something more in it."""
        self.config.write_text(
            f"track: {{users.insert: {{event: user_signup}}}}\n{more}\n"
            f"state: {self.state_url}\n"
            "source: {dsn: 'host=127.0.0.1 port=1 connect_timeout=1'}\n"
        )

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
    installation.state.drop_letters(LetterFilter())
    done = installation.run("dlq", "list")
    assert (done.code, done.stdout) == (0, "")
    assert "no dead letters" in done.stderr


def test_show_prints_reason_answer_and_payload(installation: Installation) -> None:
    """By the beginning of the id."""
    document = installation.run("dlq", "show", "aaaa").json()
    assert document["payload"]["properties"] == {"id": 7}
    assert document["reason"].endswith("second line")
    assert document["answer"] == 'HTTP 400\n{"error": "no distinct_id"}'


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


FILTERS = [
    (("--destination", "webhook"), "aabb-2"),
    (("--kind", "rule"), "cccc-3"),
    (("--event", "user_*", "--destination", "posthog"), "aaaa-1"),
    (("--table", "users", "--kind", "rule"), "cccc-3"),
    (("--rule", "users.insert", "--destination", "webhook"), "aabb-2"),
    (("--reason", "distinct_id", "--kind", "rule"), "cccc-3"),
    (("aab",), "aabb-2"),
    (("aaaa-1", "--destination", "posthog"), "aaaa-1"),
]


@pytest.mark.parametrize(("given", "id"), FILTERS)
def test_the_same_filters_choose_whatever_is_done(installation: Installation, given: tuple[str, ...], id: str) -> None:
    """Listed, exported, replayed and dropped are the same letters."""
    assert [found["id"] for found in installation.run("dlq", "list", "--json", *given).lines()] == [id]
    assert [found["id"] for found in installation.run("dlq", "export", *given).lines()] == [id]
    with installation.state.exclusive():
        installation.run("dlq", "replay", "--wait", "0", *given)
    assert [found.id for found in installation.state.dead_letters(status="replay")] == [id]
    assert installation.run("dlq", "drop", "--yes", *given).code == 0
    assert sorted([*installation.ids(), id]) == ["aaaa-1", "aabb-2", "cccc-3"]


def test_times_are_those_at_which_it_became_a_dead_letter(installation: Installation) -> None:
    """RFC 3339 in any zone, or an age."""
    now = datetime.now(timezone.utc)
    for id, hours in (("dddd-4", 3), ("eeee-5", 30)):
        installation.state.add([letter(id, "old", (now - timedelta(hours=hours)).isoformat()[:23] + "Z")])

    def listed(*given: str) -> list[str]:
        found = installation.run("dlq", "list", "--json", "--destination", "old", *given).lines()
        return [one["id"] for one in found]

    noon_ago = (now - timedelta(hours=12)).astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat()
    assert listed("--since", "2h") == []
    assert listed("--since", "4h") == listed("--since", noon_ago) == ["dddd-4"]
    assert listed("--until", "1d") == listed("--until", noon_ago) == ["eeee-5"]
    assert listed("--since", "2d", "--until", "90m") == ["dddd-4", "eeee-5"]


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2", "2 h", "2026-01-02", "2026-01-02T03:04:05", "2026-02-30T00:00:00Z"]
)
def test_what_is_no_time_is_a_usage_error(installation: Installation, text: str) -> None:
    """A time without its zone would be a guess."""
    done = installation.run("dlq", "drop", "--since", text, "--yes")
    assert done.code == 2
    assert "--since" in done.stderr
    assert len(installation.ids()) == 3


def test_a_limit_takes_the_oldest(installation: Installation) -> None:
    """Of those that fit; the list says how many more there are."""
    done = installation.run("dlq", "list", "--limit", "2")
    assert len(done.stdout.splitlines()) == 3
    assert "1 more" in done.stderr
    assert len(installation.run("dlq", "export", "--limit", "2").lines()) == 2
    assert "Drop" not in installation.run("dlq", "drop", "--all", "--limit", "2", "--yes").stderr
    assert installation.ids() == ["cccc-3"]


def test_drop_says_how_many_it_is_about(installation: Installation) -> None:
    """So that a filter that fits too much is seen before, not after."""
    asked = installation.run("dlq", "drop", "--event", "user_*")
    assert (asked.code, len(installation.ids())) == (2, 3)
    assert "Drop 3 dead letters for good?" in asked.stderr
    none = installation.run("dlq", "drop", "--destination", "nobody")
    assert (none.code, none.stderr) == (0, "no dead letters\n")


def test_an_id_drops_the_letter_of_the_destination_named(installation: Installation) -> None:
    """The same event may have been refused by another."""
    installation.state.add([letter("aaaa-1", "webhook")])
    assert installation.run("dlq", "drop", "aaaa", "--destination", "webhook", "--yes").code == 0
    assert installation.ids() == ["aaaa-1", "aabb-2", "cccc-3"]
    assert next(found.destination for found in installation.state.dead_letters()) == "posthog"


def test_export_is_what_show_prints_one_a_line(installation: Installation, tmp_path: Path) -> None:
    """To stdout, or to a file nobody else may read."""
    shown = [installation.run("dlq", "show", id).json() for id in installation.ids()]
    assert installation.run("dlq", "export").lines() == shown

    path = tmp_path / "letters.jsonl"
    done = installation.run("dlq", "export", "--output", str(path))
    assert (done.code, done.stdout) == (0, "")
    assert "3 dead letters written" in done.stderr
    assert [json.loads(line) for line in path.read_text().splitlines()] == shown
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_export_is_whole_or_not_there(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of before stays when the new one cannot be finished, and nothing else is left behind."""
    path = tmp_path / "out" / "letters.jsonl"
    path.parent.mkdir()
    path.write_text("before")

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = installation.run("dlq", "export", "--output", str(path))
    assert done.code == 1
    assert "No space left" in done.stderr
    assert [(there.name, there.read_text()) for there in path.parent.iterdir()] == [("letters.jsonl", "before")]


def test_an_export_into_no_directory_is_told(installation: Installation, tmp_path: Path) -> None:
    """Exit 1, with the reason."""
    done = installation.run("dlq", "export", "--output", str(tmp_path / "absent" / "x.jsonl"))
    assert (done.code, "No such file or directory" in done.stderr) == (1, True)


def test_what_a_terminal_takes_for_a_command_is_not_printed(installation: Installation) -> None:
    """A row's values are a stranger's; JSON itself leaves some control characters alone."""
    installation.state.add([replace(letter("dddd-4"), payload='{"note": "\x9b2J\x7f"}'.encode(), reason="a\x1b[2J")])
    done = installation.run("dlq", "show", "dddd")
    assert not {"\x9b", "\x7f", "\x1b"} & {*done.stdout}
    assert done.json()["payload"] == {"note": "\x9b2J\x7f"}
    assert "\x1b" not in installation.run("dlq", "list").stdout


def test_replay_leaves_delivering_to_a_running_run(installation: Installation) -> None:
    """Where a pipeline holds the store, letters are marked and waited for; what is not delivered in time is told."""
    with installation.state.exclusive():
        done = installation.run("dlq", "replay", "aaaa", "--wait", "0.3")
    assert done.code == 1
    assert "running" in done.stderr
    assert "0 delivered, 1 not" in done.stderr
    assert [found.id for found in installation.state.dead_letters(status="replay")] == ["aaaa-1"]


@pytest.mark.parametrize(
    ("section", "where", "says"),
    [
        ("{max_letters: 3}", "problems", "what makes more waits"),
        ("{max_letters: 3, at_bound: shed}", "notes", "the oldest are dropped"),
    ],
)
def test_status_tells_that_dead_letters_are_at_their_bound(
    installation: Installation, section: str, where: str, says: str
) -> None:
    """Held, somebody must make room; shed, somebody should know. One that was replayed makes room by itself."""
    installation.configure(f"dead_letters: {section}")

    def said() -> list[str]:
        document = installation.run("status", "--json").json()
        return [text for text in document["problems"] + document["notes"] if "their bound" in text]

    (text,) = said()
    assert says in text and text in installation.run("status", "--json").json()[where]
    installation.state.mark_letters(LetterFilter(id="aaaa-1"), "replayed")
    assert said() == []


def test_status_warns_before_the_bound(installation: Installation) -> None:
    """While there is still time to mend what makes them."""
    installation.state.add([letter("dddd-4")])
    installation.configure("dead_letters: {max_letters: 5}")
    assert "dead letters are at 4 of 5" in installation.run("status").stdout


def test_status_counts_by_destination(installation: Installation) -> None:
    """With the oldest of each; for a person as a table."""
    found = installation.run("status", "--json").json()["dead_letters"]
    assert [(one["destination"], one["kind"], one["status"], one["count"]) for one in found["by_destination"]] == [
        ("", "rule", "dead", 1),
        ("posthog", "rejected", "dead", 1),
        ("webhook", "rejected", "dead", 1),
    ]
    assert (found["max_letters"], found["at_bound"]) == (100_000, "hold")
    assert found["oldest"] == min(letter.created_at for letter in installation.state.dead_letters())
    lines = installation.run("status").stdout.splitlines()
    assert any(line.split()[:4] == ["webhook", "rejected", "dead", "1"] for line in lines)


def test_status_works_while_the_server_is_down(installation: Installation) -> None:
    """Exit 1, with what is ours: dead letters and positions."""
    done = installation.run("status", "--json")
    document = done.json()
    assert (done.code, document["healthy"], document["server"]["reachable"]) == (1, False, False)
    assert (document["dead_letters"]["dead"], document["dead_letters"]["replay"]) == (3, 0)
    assert "cannot be asked" in installation.run("status").stdout
