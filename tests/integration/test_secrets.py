"""One canary in the place of every secret, and every command: it is seen nowhere, however things go wrong."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import commands, items
from tests.support.fake_posthog import FakePostHog
from tests.support.http_server import Reply
from tests.support.job import Job
from tests.support.postgres import Database, wait_until
from wal_tracker.destinations import registry

CANARY = "canary7f3aMustNotBeSeen"
BROKEN_DSNS = [
    f"postgresql://u:{CANARY}@127.0.0.1:notaport/db",
    f"host=127.0.0.1 password={CANARY} junk",
    f"postgres://u:{CANARY}@[bad/db",
    f"password={CANARY} connect_timeout=abc host=127.0.0.1 port=1",
    f"host=127.0.0.1 port=1 password='{CANARY}",
    f"postgresql://u:{CANARY}@127.0.0.1:1/db",
    f"postgresql://u:{CANARY}%zz@127.0.0.1:1/db",
    CANARY,
]


def hidden(done: commands.Done) -> commands.Done:
    """The same, held against the canary."""
    assert CANARY not in done.stdout + done.stderr
    return done


@pytest.mark.parametrize("dsn", BROKEN_DSNS)
def test_a_broken_dsn_is_refused_without_repeating_it(dsn: str, tmp_path: Path) -> None:
    """By libpq, by us, or by the network; of the source and of the state."""
    path = tmp_path / "wal_tracker.yaml"
    of_source = {"source": {"dsn": dsn}, "state": f"sqlite:///{tmp_path}/s.db"}
    of_state = {"state": dsn, "source": {"dsn": "host=127.0.0.1 port=1"}}
    for document, asked in (
        (of_source, (["validate", "--database"], ["run"], ["plan"])),
        (of_state, (["status"], ["dlq", "list"])),
    ):
        path.write_text(yaml.safe_dump({"track": items.CONFIG_RULES, **document}))
        for arguments in asked:
            done = commands.run("--log-level", "debug", "-c", str(path), *arguments)
            assert hidden(done).code in (1, 2, 3)


@pytest.mark.parametrize("kind", sorted({plugin.name for plugin in registry.available()}))
def test_an_option_of_the_wrong_form_is_not_repeated(kind: str, tmp_path: Path) -> None:
    """Whichever option the secret was put into by mistake."""
    config: Any = registry.load(kind).Config  # type: ignore[attr-defined]
    path = tmp_path / "wal_tracker.yaml"
    for field in dataclasses.fields(config):
        for value in (CANARY, [CANARY], {"a": CANARY}, f"https://x y/{CANARY}", f"whsec_{CANARY}"):
            path.write_text(yaml.safe_dump({"destinations": {kind: {field.name: value}}}))
            hidden(commands.run("--log-level", "debug", "-c", str(path), "validate"))


@pytest.mark.parametrize(
    "text",
    [
        f"hash_key: {CANARY}: x",
        f"hash_key: [{CANARY}",
        f'hash_key: "{CANARY}',
        f"hash_key: !{CANARY} x",
        f"hash_key: *{CANARY}",
        f"hash_key: '${{{CANARY.lower()}'",
        f"state: {CANARY}",
        f"delivery: {{linger_s: {CANARY}}}",
        f"destinations: {{posthog: {{apiKey: {CANARY}, endpoint: '://'}}}}",
        f"destinations: {{webhook: {{url: 'https://h/{CANARY}', secret: {CANARY}}}}}",
    ],
)
def test_a_file_that_does_not_parse_shows_no_line_of_it(text: str, tmp_path: Path) -> None:
    """Only the place."""
    path = tmp_path / "wal_tracker.yaml"
    path.write_text(text)

    done = commands.run("--log-level", "debug", "-c", str(path), "validate")

    assert hidden(done).code == 2


def test_no_command_shows_a_secret(database: Database) -> None:
    """On a whole life: set up, run, refused, reloaded, dead letters, taken down; with the debug log on."""
    database.sql(items.SCHEMA)
    role = f"r_{database.name}"
    database.sql(f"create role {role} login superuser password '{CANARY}'")
    key = f"phc_{CANARY}"
    with FakePostHog(key=key) as posthog:
        config = items.config(database)
        config["source"]["dsn"] = f"{database.dsn} user={role} password={CANARY}"
        config["hash_key"] = CANARY
        config["track"]["items.insert"]["distinct_id"] = "string(new.id)"
        config["destinations"] = {
            "posthog": {**posthog.options, "apiKey": "file:key", "properties": {"hash": ["note"]}},
            "hook": {
                "kind": "webhook",
                "url": f"{posthog.url('')}/{CANARY}?token={CANARY}",
                "headers": {"X-Key": CANARY},
                "allow_private": True,
                "filter": "!*",
            },
        }
        with Job(config) as job:
            (job.directory / "key").write_text(key + "\n")
            seen: list[str] = []

            def run(*arguments: str) -> int:
                done = job.run("--log-level", "debug", *arguments)
                seen.append(done.stdout + done.stderr)
                assert CANARY not in seen[-1], arguments
                return done.returncode

            assert run("validate", "--database") == 0
            assert run("validate", "--json") == 0
            assert run("plan") == 0
            assert run("apply", "--yes") == 0
            assert run("destinations", "list", "--json") == 0
            assert run("destinations", "test", "posthog", "--yes") == 0
            # What is there answers 404 to a webhook.
            assert run("destinations", "test", "hook", "--yes", "--json") == 1
            database.sql("insert into items values (1, 1, 'made')")
            posthog.script.append(Reply(400, f"not with {key}".encode()))
            posthog.script.append(Reply(503, CANARY.encode()))
            job.start("--log-level", "debug", "run")
            wait_until(lambda: job.run("dlq", "list", "--json").stdout)
            (job.directory / "key").unlink()
            assert job.process is not None
            job.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "cannot be read" in job.log_text())
            assert run("status") == 2
            (job.directory / "key").write_text(key)
            assert run("status") in (0, 1)
            assert run("status", "--json") in (0, 1)
            assert run("dlq", "list") == 0
            assert run("tail", "--limit", "0") in (0, 2)
            (letter,) = [json.loads(line) for line in job.run("dlq", "list", "--json").stdout.splitlines()]
            assert run("dlq", "show", letter["id"]) == 0
            posthog.key = "another"
            database.sql("insert into items values (2, 1, 'made')")
            # Others are there, so it goes on without the one that refuses us.
            wait_until(lambda: "a destination refuses us" in job.log_text())
            assert job.stop() == 0
            assert run("dlq", "replay", "--all") == 1
            assert run("drop", "--yes") == 0
            assert CANARY not in job.log_text()
            kept = [path for path in job.directory.rglob("*") if "wal_tracker.db" in str(path) and path.is_file()]
            assert kept and all(CANARY.encode() not in path.read_bytes() for path in kept)
    database.sql(f"drop owned by {role}; drop role {role}")
