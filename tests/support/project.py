"""A project of a user: a configuration beside a database, and the program run over it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.support import commands
from tests.support.commands import Done
from tests.support.postgres import Database

RULES = """
track:
  users.insert:
    event: user_signup
    properties: {id: new.id, email: new.email}
"""


class Project:
    """Its configuration names the test's own database, slot and state file; events go to a file."""

    def __init__(self, directory: Path, database: Database, rules: str = RULES) -> None:
        self.directory = directory
        self.database = database
        self.slot = f"wt_{database.name}"
        self.events_path = directory / "events.jsonl"
        self.configure(rules)

    def configure(self, rules: str, *, dsn: str = "") -> None:
        """Write the configuration: the rules, and where everything is."""
        self.config = self.directory / "wal_tracker.yaml"
        self.config.write_text(
            f"{rules}\n"
            f"source: {{dsn: '{dsn or self.database.dsn}', slot: {self.slot}}}\n"
            f"state: sqlite:///{self.directory}/state.db\n"
            f"destinations: {{file: {{path: '{self.events_path}'}}}}\n"
        )

    def run(self, *arguments: str, stdin: str | None = None) -> Done:
        """A command over this project, in this process."""
        return commands.run("--config", str(self.config), *arguments, stdin=stdin)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command over this project, as a process of its own."""
        return commands.start("--config", str(self.config), *arguments)

    def finished(self, *arguments: str) -> Done:
        """A command over this project, as a process of its own, to its end."""
        return commands.finished("--config", str(self.config), *arguments)

    def slots(self) -> list[str]:
        """The slots there are in the database."""
        rows = self.database.sql(
            "select slot_name from pg_replication_slots where database = current_database() order by 1"
        )
        return [name for (name,) in rows]

    def publications(self) -> list[str]:
        """The publications there are in the database."""
        return [name for (name,) in self.database.sql("select pubname from pg_publication order by 1")]

    def users(self, *rows: tuple[Any, ...]) -> None:
        """Insert users, one transaction each."""
        for row in rows:
            self.database.sql("insert into users (id, email) values (%s, %s)", *row)
