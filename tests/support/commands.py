"""The program as its user runs it: in this process for speed, or as a process of its own."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

from wal_tracker.cli.main import main


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """Stdout as one JSON document."""
        return json.loads(self.stdout)

    def lines(self) -> list[Any]:
        """Stdout as JSON lines."""
        return [json.loads(line) for line in self.stdout.splitlines()]


def run(*arguments: str, env: Mapping[str, str] | None = None, stdin: str | None = None) -> Done:
    """Run the console script's entry point in this process; logging is put back afterwards."""
    streams = [io.TextIOWrapper(io.BytesIO((stdin or "").encode()), "utf-8")]
    streams += [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    root, package = logging.getLogger(), logging.getLogger("wal_tracker")
    handlers, levels = root.handlers[:], (root.level, package.level)
    try:
        with (
            mock.patch.object(sys, "argv", ["wal_tracker", *arguments]),
            mock.patch.object(sys, "stdin", streams[0]),
            mock.patch.object(sys, "stdout", streams[1]),
            mock.patch.object(sys, "stderr", streams[2]),
            mock.patch.dict(os.environ, env or {}),
        ):
            main()
    except SystemExit as left:
        code = left.code
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        package.setLevel(levels[1])
    stdout, stderr = (stream.buffer.getvalue().decode() for stream in streams[1:])  # type: ignore[attr-defined]
    return Done(int(code or 0), stdout, stderr)


def start(*arguments: str, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    """The program as a process of its own, its streams piped."""
    return subprocess.Popen(
        [sys.executable, "-m", "wal_tracker", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
        **options,
    )


def finished(*arguments: str, env: Mapping[str, str] | None = None, timeout_s: float = 60, **options: Any) -> Done:
    """The program as a process of its own, run to its end."""
    process = start(*arguments, env=env, stdin=subprocess.DEVNULL, **options)
    stdout, stderr = process.communicate(timeout=timeout_s)
    return Done(process.returncode, stdout, stderr)
