"""Where an event goes by what it is: a stream's or subject's name that holds ``{event}``, or ``{table}``."""

from __future__ import annotations

import re
from collections.abc import Callable

from wal_tracker.model import Deliverable

PARTS = ("event", "schema", "table", "op")

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def check_template(template: str) -> None:
    """
    Check the braces of a name.

    Raises:
        ValueError: They hold something else than one of `PARTS`, or do not pair.
    """
    for part in _PLACEHOLDER.findall(template):
        if part not in PARTS:
            raise ValueError(f"has {{{part}}}; there are {', '.join(f'{{{known}}}' for known in PARTS)}")
    if set("{}") & set(_PLACEHOLDER.sub("", template)):
        raise ValueError("has a brace that is no part of a placeholder")


def fill(template: str, event: Deliverable, safe: Callable[[str], str]) -> str:
    """
    The name for an event; that of a logical message stands for a table in the schema ``message``.

    Args:
        template: Checked.
        event: See there.
        safe: Makes of a part of it what may stand in such a name.
    """
    if "{" not in template:
        return template
    source = event.source
    parts = {
        "event": event.name,
        "schema": str(source.get("schema", "message")),
        "table": str(source.get("table", source.get("prefix", ""))),
        "op": str(source["op"]),
    }
    return _PLACEHOLDER.sub(lambda match: safe(parts[match[1]]), template)
