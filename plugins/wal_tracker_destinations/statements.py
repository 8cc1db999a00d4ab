"""The SQL of destinations that write to tables; see sql/README.md."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def read_statement(name: str) -> str:
    """
    The text of a file below sql/, without the comment it begins with.

    Args:
        name: Such as ``table/deliver.sql``.
    """
    lines = files("wal_tracker.sql").joinpath(name).read_text("utf-8").splitlines()
    while lines[0].startswith("--"):
        del lines[0]
    return "\n".join(lines)


def schema_and_name(table: str) -> tuple[str, str]:
    """
    The two parts of a table's name, as they are, without quotes.

    Raises:
        ValueError: It has not two parts.
    """
    parts = table.split(".")
    if len(parts) != 2 or not all(parts) or "\0" in table:
        raise ValueError("must be two names with a point between, as in schema.name")
    return parts[0], parts[1]
