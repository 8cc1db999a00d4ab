"""What the README, and the pages it leads to, tell a person to type."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import Database, wait_until
from wal_tracker.cli import problems
from wal_tracker.cli.schema_file import described
from wal_tracker.config.load import read
from wal_tracker.draft.document import dockerfile
from wal_tracker.pgtypes import TypeCatalog

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "plugins/README.md", "tests/README.md", "deploy/README.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
ENVIRONMENT = {
    "DATABASE_URL": "postgresql://user@host/database",
    "POSTHOG_API_KEY": "phc_x",
    "WEBHOOK_SECRET": "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(body) for _, body in found]


def lines(block: str) -> list[str]:
    """The commands of a shell block, without comments."""
    return [" ".join(shlex.split(line, comments=True)) for line in block.splitlines() if line.strip()]


TWO_COMMANDS, INSTALLATION, QUICKSTART = blocks("README.md", "sh")
QUICKSTART_YAML, EXAMPLE_YAML, IDENTIFY_YAML = blocks("README.md", "yaml")


def test_every_shell_block_is_tried_somewhere() -> None:
    """A block that is added is added here, too: below, in tests/packaging, or in .ci/run."""
    assert [len(blocks(page, "sh")) for page in PAGES[:3]] == [3, 0, 1]
    assert not any(blocks(page, "sh") for page in PAGES[3:] if page != "docs/setup.md")
    init, docker = blocks("docs/setup.md", "sh")
    assert lines(init) == ["export DATABASE_URL=postgresql://…", "wal_tracker init"]  # tests/integration/test_init.py
    assert all(f"#   {line}\n" in dockerfile() for line in lines(docker))
    assert lines(INSTALLATION) == ["python3 -m venv .venv && . .venv/bin/activate && pip install ."]  # test_installs.py


def test_the_two_commands_are_targets_and_ci_runs_them() -> None:
    """`make demo` and `make test`; and every other `make` target a page names."""
    makefile, ci = (ROOT / "Makefile").read_text(), (ROOT / ".ci" / "run").read_text()
    assert lines(TWO_COMMANDS) == ["make demo", "make test"]
    for page in PAGES:
        for target in re.findall(r"`(?:[A-Z_]+=\S+ )*make ([a-z]+)", (ROOT / page).read_text()):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page}: make {target}"
    for target in ("demo", "test"):
        assert re.search(rf"^(?:\w+=\S+ )?make --no-print-directory {target}\b", ci, re.MULTILINE)


def test_the_quickstart_works_as_it_is_written(database: Database, tmp_path: Path) -> None:
    """Its file and its commands, in their order, on a real database; a change comes out as the event it shows."""
    database.sql("create table users (id bigint primary key, email text, hashed_password text)")
    database.sql("create table orders (id bigint primary key, user_id bigint, status text, total numeric(10, 2))")
    (tmp_path / "wal_tracker.yaml").write_text(QUICKSTART_YAML)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DATABASE_URL": database.dsn,
    }

    def do(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )

    export, *checks, run = lines(QUICKSTART)
    assert export.startswith("export DATABASE_URL=postgresql://")
    assert run == "wal_tracker run"
    (alter,) = re.findall(r"`(ALTER TABLE [^`]*)`", (ROOT / "README.md").read_text().split("## The walk")[0])
    assert checks[0] == "wal_tracker validate --database"
    before = do(checks[0])
    assert before.returncode == 3 and "REPLICA IDENTITY FULL" in before.stdout
    database.sql(alter)
    for command in checks:
        done = do(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert do(checks[-1]).stdout == "", "a second apply changes nothing"

    out = tmp_path / "out"
    with out.open("wb") as stdout:
        process = subprocess.Popen(run.split(), cwd=tmp_path, env=environment, stdout=stdout, stderr=subprocess.PIPE)
        try:
            database.sql("insert into users values (1, 'ann@example.com', 'a hash')")
            database.sql("insert into orders values (5, 1, 'new', 12.50)")
            database.sql("update orders set status = 'paid'")
            wait_until(lambda: out.read_bytes().count(b"\n") == 2)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
        finally:
            process.kill()
            process.communicate()
    assert '"event":"user_signup"' in out.read_text() and "a hash" not in out.read_text()
    assert '"properties":{"user_id":1,"order_id":5,"total":12.50}' in out.read_text()

    assert "`wal_tracker drop --yes`" in (ROOT / "README.md").read_text()
    assert do("wal_tracker drop --yes").returncode == 0
    assert database.sql("select 1 from pg_replication_slots where database = current_database()") == []


def test_the_example_rules_fit_their_tables() -> None:
    """Rules by example: nothing to say against them, not even a warning."""
    config = read(EXAMPLE_YAML.encode(), ENVIRONMENT)
    types = TypeCatalog()
    tables = {
        "users": {"id": "bigint", "email": "text", "hashed_password": "text"},
        "sessions": {"id": "bigint"},
        "orders": {"id": "bigint"},
        "invitations": {"id": "bigint", "status": "text", "user_id": "bigint", "team_id": "bigint"},
        "billing.invoices": {
            "id": "bigint",
            "total": "numeric(10,2)",
            "customer_id": "bigint",
            "created_at": "timestamptz",
        },
    }
    assert len(config.rules) == 4
    assert problems.find(config, types, described(tables, types, "public")) == []


def test_the_example_of_identify_and_group_fits_its_table() -> None:
    """It says of whom, and of which company."""
    config = read(IDENTIFY_YAML.encode(), {})
    types = TypeCatalog()
    tables = {"users": {"id": "bigint", "email": "text", "plan": "text", "company_id": "bigint"}}
    (rule,) = config.rules
    assert set(rule.identify) == {"email", "plan"} and rule.group is not None
    assert problems.find(config, types, described(tables, types, "public")) == []


def test_the_plugin_page_shows_the_example_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its TOML stands in the example's pyproject.toml, and its YAML configures the example's class."""
    (toml,), (yaml,) = blocks("plugins/README.md", "toml"), blocks("plugins/README.md", "yaml")
    entry = "\n".join(line for line in toml.splitlines() if not line.startswith("#"))
    assert entry in (ROOT / "plugins" / "example" / "pyproject.toml").read_text()
    monkeypatch.syspath_prepend(str(ROOT / "plugins" / "example"))
    from drop_folder import DropFolder  # type: ignore[import-not-found]

    (destination,) = read(yaml.encode(), {}).destinations
    assert destination.kind == "drop_folder"
    assert DropFolder.Config(**destination.options).path == "/var/spool/events"


def test_the_servers_can_be_listed_as_the_tests_page_says() -> None:
    """`status` runs; `install` is what .ci/run calls."""
    ((status, install),) = map(lines, blocks("tests/README.md", "sh"))
    done = subprocess.run([sys.executable, *status.split()[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "18: postgres (PostgreSQL)" in done.stdout, done.stderr
    assert install in (ROOT / ".ci" / "run").read_text()


def _links() -> Iterator[tuple[str, str]]:
    for page in (*PAGES, "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
            if not target.startswith("https://"):
                yield page, target


@pytest.mark.parametrize(("page", "target"), list(_links()))
def test_a_link_leads_somewhere(page: str, target: str) -> None:
    """To a file of the repository, and to a heading in it."""
    name, _, anchor = target.partition("#")
    path = (ROOT / page).parent / name if name else ROOT / page
    assert path.exists()
    if anchor:
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
