"""What a running process does with destinations that were configured anew."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from wal_tracker.assemble import Run, Sinks
from wal_tracker.channels import Channel
from wal_tracker.config.load import read
from wal_tracker.config.model import Config
from wal_tracker.lsn import LSN
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.rules.engine import RuleSet
from wal_tracker.state import open_state

QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/events"


def config(queue: str, key: str) -> Config:
    """A queue that takes several requests at once, or a FIFO that does not; and somebody else."""
    text = f"""
        source: {{dsn: host=nowhere}}
        destinations:
          queue: {{kind: sqs, queue_url: {queue}, access_key: a, secret_key: b}}
          webhook: {{url: https://example.com, headers: {{X-Key: {key}}}}}
    """
    return read(text.encode(), {})


@pytest.fixture
def channels(tmp_path: Path) -> Iterator[list[Channel]]:
    """Of the first configuration, not started."""
    with closing(open_state(f"sqlite:///{tmp_path}/state.db")) as state:
        first = config(QUEUE, "one")
        rules = RuleSet(first, TypeCatalog(), system_identifier="1", mode="wal")
        yield Sinks(first).channels(state, rules, LSN(0))


def test_another_number_of_requests_at_once_needs_a_restart(
    channels: list[Channel], caplog: pytest.LogCaptureFixture
) -> None:
    """A FIFO's messages would overtake each other. The others' new options do not wait for it."""
    run = Run(config(QUEUE, "one"), reread=lambda: config(f"{QUEUE}.fifo", "two"))

    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            run._take_over(channels)

    queue, webhook = (channel.delivery._senders[0].has_replacement for channel in channels)
    assert (queue, webhook) == (False, True)
    assert [record.changed for record in caplog.records] == ["destinations.queue"] * 2  # type: ignore[attr-defined]
