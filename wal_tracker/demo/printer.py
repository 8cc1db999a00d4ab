"""
Events as lines a person enjoys reading, and the colours for them. Pure: text in, text out.

::

    12:04:31.482     17  order_placed          order=23  total=129.90  channel=web
                     17  payment_authorised    order=23  amount=129.90  method=card
    12:04:31.511     24  user_signed_up        email=lena.ito.12@example.com  plan=free

The time is that of the commit, and stands at the first event of each transaction only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone, tzinfo

import orjson

from wal_tracker.model import Deliverable, Value

BOLD, DIM, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN = 1, 2, 31, 32, 33, 34, 35, 36

# Each table gets the next one when it is first met, so that the same colour always means the same table.
_TABLE_COLOURS = (CYAN, GREEN, MAGENTA, YELLOW, BLUE)

# Longer values are cut: the line is for looking at, `--format json` for reading on.
MAX_VALUE_LENGTH = 40

_PLAIN = re.compile(r"[^\s\x00-\x1f\x7f-\x9f\"=]+")


class Palette:
    """ANSI colours, or none."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    def paint(self, text: str, *codes: int) -> str:
        """`text` in the given codes; `text` itself where colours are off or there is no code."""
        if not self.enabled or not codes:
            return text
        return f"\033[{';'.join(map(str, codes))}m{text}\033[0m"


def colours_wanted(is_terminal: bool, environ: Mapping[str, str]) -> bool:
    """Colours are for terminals that have them and people who want them (https://no-color.org)."""
    return is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


class EventPrinter:
    """Turns events into lines. One thread; remembers the last transaction and how wide the columns have become."""

    TIME_WIDTH = len("12:04:31.482")

    def __init__(self, palette: Palette, *, width: int, zone: tzinfo | None = None) -> None:
        """
        Args:
            palette: Colours.
            width: Columns of the screen; properties that do not fit are left out, with an ellipsis.
            zone: In which the time is told; None: the machine's.
        """
        self._palette = palette
        self._width = width
        self._zone = zone
        self._transaction: Value = None
        self._who_width = 5
        self._name_width = 22
        self._colours: dict[str, int] = {}

    def heading(self) -> str:
        """The names of the columns."""
        cells = ("committed".ljust(self.TIME_WIDTH), "who".rjust(self._who_width), "event".ljust(self._name_width))
        return self._palette.paint("  ".join((*cells, "properties")), DIM)

    def line(self, event: Deliverable) -> str:
        """One event, without a line end; nulls are left out. Never longer than the screen, unless the name alone is."""
        paint = self._palette.paint
        transaction = event.source.get("xid")
        moment = "" if transaction == self._transaction else self._clock(event.timestamp)
        self._transaction = transaction
        who = event.distinct_id or ""
        self._who_width = max(self._who_width, len(who))
        self._name_width = max(self._name_width, len(event.name))
        left = [
            paint(moment.ljust(self.TIME_WIDTH), DIM),
            paint(who.rjust(self._who_width), BOLD),
            paint(event.name, *self._colour(event)) + " " * (self._name_width - len(event.name)),
        ]
        room = self._width - self.TIME_WIDTH - self._who_width - self._name_width - 6
        return "  ".join([*left, self._properties(event, room)]).rstrip()

    def _clock(self, timestamp: str) -> str:
        return moment_of(timestamp).astimezone(self._zone).isoformat(sep=" ", timespec="milliseconds")[11:23]

    def _colour(self, event: Deliverable) -> tuple[int, ...]:
        table = event.source.get("table")
        if table is None:
            # Made by the application itself (a logical message): of no table.
            return (BOLD,)
        if table not in self._colours:
            self._colours[table] = _TABLE_COLOURS[len(self._colours) % len(_TABLE_COLOURS)]
        return (self._colours[table],)

    def _properties(self, event: Deliverable, room: int) -> str:
        parts: list[str] = []
        used = 0
        for name, value in event.properties.items():
            if value is None:
                continue
            text = value_text(value)
            if text == event.distinct_id and name in ("id", "user_id"):
                # Already said on the left.
                continue
            size = len(name) + 1 + len(text) + (2 if parts else 0)
            if used + size > room - 3:
                parts.append(self._palette.paint("…", DIM))
                break
            used += size
            parts.append(self._palette.paint(name + "=", DIM) + text)
        return "  ".join(parts)


def moment_of(timestamp: str) -> datetime:
    """An event's timestamp (RFC 3339, UTC, ``Z``) as a moment."""
    # Python 3.10's fromisoformat does not know the Z.
    return datetime.fromisoformat(timestamp.replace("Z", "")).replace(tzinfo=timezone.utc)


def value_text(value: Value) -> str:
    """A property's value in one short, printable piece; quoted where it holds spaces or control characters."""
    plain = isinstance(value, str) and _PLAIN.fullmatch(value)
    text = value if plain else orjson.dumps(value).decode()
    # JSON leaves C1 control characters as they are; a terminal obeys some of them.
    text = "".join(character if character.isprintable() else "�" for character in text)
    return text if len(text) <= MAX_VALUE_LENGTH else text[: MAX_VALUE_LENGTH - 1] + "…"


def aligned(rows: Sequence[tuple[str, str]], palette: Palette) -> list[str]:
    """Lines of label and text, the texts under one another."""
    widest = max(len(label) for label, _ in rows)
    return [f"  {palette.paint(label.ljust(widest), DIM)}  {text}" for label, text in rows]
