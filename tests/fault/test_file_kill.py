"""`kill -9` while the file destination writes and rotates: nothing torn, nothing twice, once it is reopened."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from wal_tracker.testing import make_event
from wal_tracker_destinations.file import File

# Writes batches for ever; now and then, and never at once, it "stores" a mark as the state store would: durably, by
# renaming. Then it goes on writing beyond it.
WRITER = """
import json, os, random, sys
from wal_tracker.testing import make_event
from wal_tracker_destinations.file import File

path, state, next_number, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
chance = random.Random(seed)
stored = json.load(open(state)) if os.path.exists(state) else {"mark": None, "number": 0}

def store(mark, number):
    with open(state + ".new", "w") as file:
        json.dump({"mark": mark, "number": number}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(state + ".new", state)

file = File("file", File.Config(path=path, max_bytes=4000))
store(file.open(stored["mark"]), stored["number"])
number = stored["number"]
print("ready", flush=True)
while True:
    count = chance.randint(1, 12)
    mark = file.deliver([make_event(n) for n in range(number, number + count)]).mark
    number += count
    if chance.random() < 0.3:
        store(mark, number)
"""


@pytest.mark.of_kind("file")
@pytest.mark.parametrize("seed", range(3))
def test_no_torn_line_and_no_event_twice_after_kill_9(tmp_path: Path, seed: int) -> None:
    """Five lives, each killed at a random moment, over one file; then the numbers run without gap or repetition."""
    path, state = tmp_path / "events.jsonl", tmp_path / "state.json"
    chance = random.Random(seed)
    for life in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(state), "0", str(seed * 100 + life)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            # Not waiting for a fact: the moment of the kill is what varies.
            try:
                writer.wait(chance.uniform(0.0, 0.06))
            except subprocess.TimeoutExpired:
                writer.kill()

    stored = json.loads(state.read_text())
    file = File("file", File.Config(path=str(path), max_bytes=4000))
    file.open(stored["mark"])
    file.deliver([make_event(stored["number"])])
    file.close()

    seen = [
        json.loads(line)["properties"]["number"]
        for part in [*sorted(tmp_path.glob("events.jsonl.0*")), path]
        for line in part.read_text().splitlines()
    ]
    assert stored["number"] > 0, "no life got anywhere"
    assert seen == list(range(stored["number"] + 1))
