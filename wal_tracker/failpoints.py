"""
Named places where a test makes the program fail on purpose.

``WAL_TRACKER_FAILPOINTS="after_decode=kill@3,before_destination=raise"``: at the third passage of
``after_decode`` the process kills itself with SIGKILL, at the first of ``before_destination`` an
`InjectedFault` is raised. ``hang`` sleeps for ever. Without the variable `hit` is a no-op and costs one
truth test.
"""

from __future__ import annotations

import os
import signal
import threading
import time

NAMES = (
    "after_decode",
    "mid_transaction",
    "before_destination",
    "after_destination_before_state",
    "after_state_before_confirm",
)
"""In the loop; every run passes them."""

SPOOL_NAMES = ("spool_written", "spool_synced")
"""When a destination is behind, and its events go to disk."""

SWITCH_NAMES = (
    "switch_slot_made",
    "switch_boundary_stored",
    "switch_marker_read",
    "switch_drained",
    "switch_rebased",
    "switch_slot_dropped",
    "switch_finished",
)
"""In a change of mode."""

STATE_NAMES = ("dead_letters_shed",)
"""In the state store, at the bound of dead letters: a gap is written and the letters are still there, uncommitted."""


class InjectedFault(RuntimeError):
    """Raised by a failpoint; nothing catches it by name."""


def _parse(text: str) -> dict[str, tuple[str, int]]:
    armed: dict[str, tuple[str, int]] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, rest = item.partition("=")
        action, _, passage = rest.partition("@")
        names = (*NAMES, *SPOOL_NAMES, *SWITCH_NAMES, *STATE_NAMES)
        if name not in names or action not in ("raise", "kill", "hang"):
            raise ValueError(f"WAL_TRACKER_FAILPOINTS: cannot read {item!r} (names: {', '.join(names)})")
        armed[name] = (action, int(passage or 1))
    return armed


_armed = _parse(os.environ.get("WAL_TRACKER_FAILPOINTS", ""))
_passages: dict[str, int] = {}
_lock = threading.Lock()


def hit(name: str) -> None:
    """Pass the failpoint `name`; fails as armed, once."""
    if not _armed or name not in _armed:
        return
    action, passage = _armed[name]
    with _lock:
        _passages[name] = _passages.get(name, 0) + 1
        if _passages[name] != passage:
            return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "hang":
        while True:
            time.sleep(3600)
    raise InjectedFault(f"failpoint {name}, passage {passage}")
