"""`wal_tracker destinations`: what is listed, what a test event shows, and what it hides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import commands
from tests.support.fake_vendor import FakeVendor
from tests.support.http_server import HttpServer, Reply, Request
from tests.support.vendors import FAKES
from wal_tracker.cli import trial

KEY = 'k3y-"of"-the-project'
"""With what JSON writes in another way."""


@pytest.fixture(params=FAKES)
def vendor(request: pytest.FixtureRequest) -> Iterator[FakeVendor]:
    """Each vendor there is a fake of."""
    with FAKES[request.param]() as made:
        yield made


def configured(directory: Path, **sections: Any) -> str:
    """The path of a configuration."""
    path = directory / "wal_tracker.yaml"
    path.write_text(yaml.safe_dump(sections))
    return str(path)


def test_a_test_event_arrives_and_is_shown_without_secrets(vendor: FakeVendor, tmp_path: Path) -> None:
    """Marked by its name, its user and its property; sent once; the key is nowhere on the screen."""
    config = configured(tmp_path, destinations={"there": {"kind": vendor.kind, **vendor.options}})

    done = commands.run("-c", config, "destinations", "test", "there", "--yes")
    as_json = commands.run("-c", config, "destinations", "test", "there", "--yes", "--json")

    assert (done.code, as_json.code) == (0, 0), done.stdout + done.stderr
    told, taken = as_json.json(), [request for request in vendor.requests if vendor.items(request)]
    assert told["delivered"] and told["reason"] == ""
    assert told["event"]["event"] == told["event"]["distinct_id"] == trial.NAME
    assert told["event"]["properties"] == {trial.NAME: True}
    assert len(taken) == 2 and vendor.ids[1] == told["event"]["id"]
    # Some ask for more before the event, or after it; what it was handed over with is one request all the same.
    (exchange,) = [each for each in told["exchanges"] if trial.NAME in each["request"]["body"]]
    assert exchange["answer"]["status"] in (200, 201) and exchange["request"]["method"] in ("POST", "PUT")
    assert all(each["request"]["url"].startswith(vendor.url("")) for each in told["exchanges"])
    for shown in (done.stdout, done.stderr, as_json.stdout, as_json.stderr):
        assert not [secret for request in taken for secret in vendor.secrets(request) if secret in shown]
    assert f"delivered: there has taken the event {vendor.ids[0]}" in done.stdout
    assert f"{exchange['request']['method']} {vendor.url('')}" in done.stdout and trial.NAME in done.stdout


def test_a_refused_key_is_said_with_the_vendors_answer(
    vendor: FakeVendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves with 1; what the vendor says is there, but for the credentials it repeats."""
    repeated: list[str] = []

    def refuse(request: Request) -> Reply:
        repeated.extend(vendor.secrets(request))
        return Reply(401, "|".join(["no such key", *vendor.secrets(request), "."]).encode())

    monkeypatch.setattr(vendor, "handle", refuse)
    config = configured(tmp_path, destinations={"there": {"kind": vendor.kind, **vendor.options}})

    done = commands.run("-c", config, "destinations", "test", "there", "--yes")

    assert done.code == 1
    assert "401" in done.stdout and "not delivered" in done.stdout
    hidden = "***|" * (len(repeated) // len(vendor.requests))
    assert f"no such key|{hidden}." in done.stdout
    assert not [secret for secret in repeated if secret in done.stdout + done.stderr]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(503), "answered 503"),
        (Reply(400, b"bad"), "HTTP 400: bad"),
        (Reply(fault="close_before_response"), "cut the connection"),
    ],
)
def test_it_is_sent_once_and_what_came_of_it_is_told(reply: Reply, said: str, tmp_path: Path) -> None:
    """No second attempt behind a person's back."""
    with HttpServer() as receiver:
        receiver.script.append(reply)
        options = {"url": receiver.url("/token-of-mine/x"), "allow_private": True}
        config = configured(tmp_path, destinations={"webhook": options})

        done = commands.run("-c", config, "destinations", "test", "webhook", "--yes", "--json")

        told = done.json()
        assert (done.code, told["delivered"], len(receiver.requests)) == (1, False, 1)
        assert said in told["reason"]
        assert (told["exchanges"][0]["answer"] is None) == (reply.fault is not None)
        assert told["exchanges"][0]["request"]["url"] == receiver.url("/***")


def test_odd_secrets_are_hidden_in_every_form(tmp_path: Path) -> None:
    """As JSON, a URL and base64 write them; and so are header values and a signature."""
    with HttpServer() as receiver:
        forms = {"quoted": "k3y-%22of%22-the-project", "basic": "azN5LSJvZiItdGhlLXByb2plY3Q="}
        echo = json.dumps({"you sent": KEY, **forms})
        receiver.script.append(Reply(200, echo.encode()))
        options = {"url": receiver.url("/x"), "allow_private": True, "headers": {"X-Key": KEY}}
        config = configured(tmp_path, destinations={"webhook": options})

        done = commands.run("-c", config, "destinations", "test", "webhook", "--yes")

        assert done.code == 0
        assert receiver.requests[0].headers["x-key"] == KEY
        assert "  X-Key: ***\n" in done.stdout
        assert '{"you sent": "***", "quoted": "***", "basic": "***"}' in done.stdout


def test_a_long_answer_is_shortened(tmp_path: Path) -> None:
    """And control characters do not reach the terminal."""
    with HttpServer() as receiver:
        receiver.script.append(Reply(200, b"\x1b[2J" + b"x" * 5000))
        options = {"url": receiver.url("/x"), "allow_private": True}
        config = configured(tmp_path, destinations={"webhook": options})

        done = commands.run("-c", config, "destinations", "test", "webhook", "--yes")

        assert "\x1b[2J" not in done.stdout and "characters more)" in done.stdout
        assert len(done.stdout) < 4000


def test_what_is_no_http_says_what_was_done(tmp_path: Path) -> None:
    """A file has a line more."""
    config = configured(tmp_path, destinations={"file": {"path": f"{tmp_path}/events.jsonl"}})

    done = commands.run("-c", config, "destinations", "test", "file", "--yes")

    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    assert done.code == 0 and json.loads(line)["id"] in done.stdout
    assert "nothing went over HTTP" in done.stdout


def test_a_destination_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    """With the remedy, and without a traceback."""
    config = configured(tmp_path, destinations={"file": {"path": f"{tmp_path}/nowhere/events.jsonl"}})

    done = commands.run("-c", config, "destinations", "test", "file", "--yes")

    assert done.code == 1 and "create its directory" in done.stdout


def test_a_raw_destination_gets_a_change(tmp_path: Path) -> None:
    """In the shape changes have."""
    changes = {"kind": "file", "path": f"{tmp_path}/c.jsonl"}
    config = configured(tmp_path, raw_db_event_destinations={"changes": changes})

    done = commands.run("-c", config, "destinations", "test", "changes", "--raw", "--yes", "--json")

    assert done.code == 0 and done.json()["event"]["new"] == {trial.NAME: True}
    assert json.loads((tmp_path / "c.jsonl").read_text()) == done.json()["event"]


def test_nothing_is_sent_unasked(tmp_path: Path) -> None:
    """Without a terminal --yes is the answer."""
    config = configured(tmp_path, destinations={"file": {"path": f"{tmp_path}/events.jsonl"}})

    done = commands.run("-c", config, "destinations", "test", "file")

    assert done.code == 2 and "give --yes" in done.stderr
    assert not (tmp_path / "events.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["flie"], "there is no 'flie' under `destinations`; did you mean 'file'?"),
        (["nobody"], "there is no 'nobody' under `destinations`; there are file"),
        (["file", "--raw"], "there is no 'file' under `raw_db_event_destinations`; there are none"),
    ],
)
def test_a_name_that_is_not_there_is_met_with_those_that_are(arguments: list[str], said: str, tmp_path: Path) -> None:
    """Exit code 2."""
    config = configured(tmp_path, destinations={"file": {"path": "x"}})

    done = commands.run("-c", config, "destinations", "test", *arguments, "--yes")

    assert done.code == 2 and said in done.stderr


def test_the_list_says_what_goes_where(tmp_path: Path) -> None:
    """Of both sections; for a person and for a program."""
    destinations = {
        "one": {"kind": "file", "path": "x", "filter": ["user_*", "!user_test"], "when": "event != 'a'"},
        "stdout": {},
    }
    config = configured(tmp_path, destinations=destinations, raw_db_event_destinations={"raw": {"kind": "stdout"}})

    told = commands.run("-c", config, "destinations", "list", "--json").json()["destinations"]
    lines = commands.run("-c", config, "destinations", "list").stdout.splitlines()

    assert told == [
        {"name": "one", "kind": "file", "raw": False, "filter": ["user_*", "!user_test"], "when": "event != 'a'"},
        {"name": "stdout", "kind": "stdout", "raw": False, "filter": ["*"], "when": None},
        {"name": "raw", "kind": "stdout", "raw": True, "filter": ["*"], "when": None},
    ]
    assert len(lines) == 4 and "user_* !user_test" in lines[1]
