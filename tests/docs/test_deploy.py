"""The unit file for systemd."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wal_tracker.config.model import DeliveryConfig
from wal_tracker.errors import ConfigError, PreflightFailed

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "wal_tracker.service"


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say, once the program it starts is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    program = Path(sys.executable).with_name("wal_tracker")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/wal_tracker/bin/wal_tracker", str(program)))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_knows_our_exit_codes_and_our_patience() -> None:
    """What does not mend by starting again is not started again; SIGKILL comes after our own time to drain."""
    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))
    assert settings["RestartPreventExitStatus"].split() == [str(ConfigError.exit_code), str(PreflightFailed.exit_code)]
    assert float(settings["TimeoutStopSec"]) > DeliveryConfig().shutdown_timeout_s
