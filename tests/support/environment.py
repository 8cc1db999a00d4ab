"""Fresh virtual environments, for what is installed."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path


class Environment:
    """A fresh virtual environment that borrows the libraries we depend on from the running one."""

    def __init__(self, directory: Path) -> None:
        venv.create(directory, with_pip=False, symlinks=True)
        self.bin = directory / "bin"
        self._away = directory
        (site,) = directory.glob("lib/python*/site-packages")
        self._site = site

    def install(self, *what: str) -> None:
        """Install without dependencies, with the running environment's pip."""
        done(sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--no-deps", *what)
        # After the installation: what is borrowed must not pass for what was installed.
        borrowed = [path for path in sys.path if path.endswith("site-packages")]
        (self._site / "zz_borrowed.pth").write_text("\n".join(borrowed) + "\n")

    def run(self, program: str, *arguments: str) -> str:
        """Run one of its programs in an empty place."""
        return done(str(self.bin / program), *arguments, cwd=self._away)


def done(*command: str, cwd: Path | None = None) -> str:
    """Run a command that must succeed; what it printed."""
    completed = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=170)
    told = f"{' '.join(command[:6])} …\n{completed.stdout}\n{completed.stderr}"
    assert completed.returncode == 0, told
    return completed.stdout
