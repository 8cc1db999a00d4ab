"""Standard output as a destination."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from wal_tracker.testing import make_event
from wal_tracker_destinations.stdout import Stdout

WRITER = """
import sys
from wal_tracker.testing import make_event
from wal_tracker_destinations.stdout import Stdout
out = Stdout("stdout", Stdout.Config())
out.open(None)
try:
    while True:
        out.deliver([make_event(n) for n in range(1000)])
except BrokenPipeError:
    sys.stderr.write("gone")
    sys.stderr.flush()
    import os
    os._exit(7)
"""


def test_each_event_is_a_line_and_the_batch_is_out_when_it_returns(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Whoever reads the pipe sees a batch at once and whole."""
    out = Stdout("stdout", Stdout.Config())
    out.open(None)

    out.deliver([make_event(1), make_event(2)])

    assert capfdbinary.readouterr().out == make_event(1).to_json() + b"\n" + make_event(2).to_json() + b"\n"
    out.close()


def test_a_reader_that_goes_away_is_an_error() -> None:
    """Nothing of that batch is confirmed; `wal_tracker run | head` ends."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
    ) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        writer.stdout.readline()
        writer.stdout.close()

        assert writer.stderr.read() == b"gone"
        assert writer.wait(30) == 7
