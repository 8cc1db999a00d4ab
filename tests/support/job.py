"""`wal_tracker run` as a process of its own, for tests that kill it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.support.postgres import wait_until


class Job:
    """One configuration in a directory of its own, and the process that runs it, again and again."""

    def __init__(self, config: dict[str, Any]) -> None:
        """
        Args:
            config: The configuration; a destination's ``path`` may be relative to the job's directory.
        """
        self._directory = tempfile.TemporaryDirectory(prefix="wal_tracker_job_")
        self.directory = Path(self._directory.name)
        self.process: subprocess.Popen[bytes] | None = None
        self.configure(config)
        self.log = self.directory / "log"

    def configure(self, config: dict[str, Any]) -> None:
        """Another configuration, from the next start on."""
        self.config = config
        (self.directory / "wal_tracker.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    def start(self, *arguments: str, failpoints: str = "", **env: str) -> subprocess.Popen[bytes]:
        """Start ``wal_tracker ARGUMENTS`` (default: ``run``); its stderr goes to `log`."""
        command = [sys.executable, "-m", "wal_tracker", *(arguments or ("run",))]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.directory,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "WAL_TRACKER_FAILPOINTS": failpoints, **env},
            )
        return self.process

    def run(self, *arguments: str, timeout_s: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
        """Run ``wal_tracker ARGUMENTS`` to its end and give back what it said."""
        return subprocess.run(
            [sys.executable, "-m", "wal_tracker", *arguments],
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **env},
        )

    def apply(self) -> None:
        """Make publication and slot."""
        done = self.run("apply", "--yes")
        assert done.returncode == 0, done.stderr

    def catch_up(self, timeout_s: float = 90) -> None:
        """``run --until-caught-up``, to its end."""
        done = self.run("run", "--until-caught-up", timeout_s=timeout_s)
        assert done.returncode == 0, done.stderr + self.log_text()

    def kill9(self) -> None:
        """As a power cut."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 60) -> int:
        """Ask it to leave; its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def wait(self, timeout_s: float = 60) -> int:
        """Wait for it to end by itself; its exit code."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def log_text(self) -> str:
        """Everything it said on stdout and stderr so far."""
        return self.log.read_text() if self.log.exists() else ""

    def lines(self, name: str = "events.jsonl") -> list[dict[str, Any]]:
        """The whole lines of a JSON-lines file in the job's directory; [] where there is none yet."""
        path = self.directory / name
        if not path.exists():
            return []
        text = path.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def wait_for_lines(self, count: int, name: str = "events.jsonl", timeout_s: float = 60) -> None:
        """Wait until the file has at least `count` lines."""
        path = self.directory / name
        wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count, timeout_s=timeout_s)

    def close(self) -> None:
        """Kill what runs and remove the directory."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)
        self._directory.cleanup()

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
