"""Dead letters as a person deals with them: which are meant, how they look, and having them delivered."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import click

from wal_tracker import assemble
from wal_tracker.config.model import Config
from wal_tracker.state.base import DeadLetter, LetterFilter, StateStore, rfc3339

POLL_INTERVAL_S = 0.2

# Fewer are done before a bar is drawn.
_WORTH_A_BAR = 5000

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_AGE = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)


def moment(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    """
    A time as RFC 3339 or as an age, in the form the state store has (`rfc3339`).

    Raises:
        click.BadParameter: It is neither.
    """
    if text is None:
        return None
    age, written = _AGE.fullmatch(text), _RFC3339.fullmatch(text)
    try:
        if age:
            return rfc3339(datetime.now(timezone.utc) - timedelta(**{_UNITS[age[2]]: int(age[1])}))
        if written:
            # Python 3.10 reads neither Z nor any number of decimals.
            zone = "+00:00" if written[3] in "Zz" else written[3]
            whole = datetime.fromisoformat(written[1].upper() + zone)
            return rfc3339(whole.replace(microsecond=int(((written[2] or "") + "000000")[:6])))
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{text!r}: {error}") from error
    raise click.BadParameter(
        f"{text!r} is no time; write 2026-01-02T03:04:05Z, with its zone, or an age: 90s, 30m, 2h, 3d, 1w"
    )


_FILTERS = (
    click.option("--destination", metavar="NAME", help="Refused by this destination."),
    click.option("--rule", metavar="RULE", help="Of this rule, by its id, such as users.insert."),
    click.option("--event", metavar="GLOB", help="Whose event's name fits, such as 'user_*'."),
    click.option("--table", metavar="TABLE", help="Of this table, with its schema or without."),
    click.option("--kind", type=click.Choice(["rule", "rejected"]), help="Rule errors, or events that were refused."),
    click.option(
        "--since",
        metavar="TIME",
        callback=moment,
        help="Became a dead letter then or later: RFC 3339, or an age (2h, 3d).",
    ),
    click.option("--until", metavar="TIME", callback=moment, help="Became a dead letter before then."),
    click.option("--reason", metavar="TEXT", help="Whose reason has this in it."),
)


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options and arguments that say which letters are meant; the command gets `ids` and `chosen`."""

    @functools.wraps(command)
    def with_filter(*args: Any, **given: Any) -> Any:
        names = ("destination", "rule", "event", "table", "kind", "since", "until", "reason")
        return command(*args, chosen=LetterFilter(**{name: given.pop(name) for name in names}), **given)

    wrapped: Callable[..., Any] = with_filter
    for option in reversed(_FILTERS):
        wrapped = option(wrapped)
    return click.argument("ids", nargs=-1)(wrapped)


def selected(state: StateStore, ids: Sequence[str], chosen: LetterFilter) -> list[LetterFilter]:
    """
    What a filter and ids mean together: the filter alone, or one for each id.

    Raises:
        click.UsageError: A beginning of an id fits no letter the filter fits, or more than one.
    """
    if not ids:
        return [chosen]
    whole = []
    for beginning in ids:
        found = state.ids_beginning(beginning, chosen)
        if not found:
            raise click.UsageError(f"no dead letter's id begins with {beginning!r}")
        if len(found) > 1 and found[0] != beginning:
            raise click.UsageError(f"more than one id begins with {beginning!r}")
        whole.append(found[0])
    return [replace(chosen, id=id) for id in dict.fromkeys(whole)]


def require_choice(ids: Sequence[str], chosen: LetterFilter, every: bool) -> None:
    """
    Whoever changes something says to what.

    Raises:
        click.UsageError: Nothing is said.
    """
    if not ids and not every and chosen == LetterFilter():
        raise click.UsageError("name dead letters by their ids or by filters (--destination, --rule, …), or say --all")


def each(state: StateStore, meant: Iterable[LetterFilter], limit: int | None) -> Iterator[DeadLetter]:
    """The letters, oldest first, and up to a number of them."""
    for chosen in meant:
        for letter in state.find_letters(chosen, limit=limit):
            yield letter
            if limit is not None:
                limit -= 1


def count(state: StateStore, meant: Iterable[LetterFilter]) -> int:
    """How many letters are meant."""
    return sum(state.count_letters(chosen) for chosen in meant)


def mark(state: StateStore, meant: Sequence[LetterFilter], limit: int | None) -> int:
    """Mark letters to be sent again; how many were."""
    return _change("marking", state, meant, limit, functools.partial(state.mark_letters, status="replay"))


def drop(state: StateStore, meant: Sequence[LetterFilter], limit: int | None) -> int:
    """Forget letters; how many were."""
    return _change("dropping", state, meant, limit, state.drop_letters)


def _change(
    doing: str,
    state: StateStore,
    meant: Sequence[LetterFilter],
    limit: int | None,
    change: Callable[..., int],
) -> int:
    done = 0
    with _progress(doing, state, meant, limit) as told:
        for chosen in meant:
            done += change(chosen, limit=None if limit is None else limit - done, told=told)
    return done


@contextmanager
def _progress(
    doing: str, state: StateStore, meant: Sequence[LetterFilter], limit: int | None
) -> Iterator[Callable[[int], object]]:
    total = count(state, meant) if sys.stderr.isatty() else 0
    total = total if limit is None else min(total, limit)
    if total < _WORTH_A_BAR:
        yield int
        return
    with click.progressbar(length=total, label=doing, file=sys.stderr) as bar:
        yield bar.update


def deliver(
    config: Config, state: StateStore, meant: Sequence[LetterFilter], limit: int | None, wait_s: float
) -> tuple[int, int]:
    """
    Mark letters to be sent again, and see to it that they are.

    Returns:
        How many were delivered, and how many were not (in time).
    """
    replayed = [replace(chosen, is_open=False, status="replayed") for chosen in meant]
    before = count(state, replayed)
    marked = mark(state, meant, limit)
    if not marked:
        return 0, 0
    if not state.is_held():
        result = assemble.replay_dead_letters(config, state)
        return result.delivered, result.failed
    click.echo(f"`wal_tracker run` is running and delivers them; waiting up to {wait_s:g} s", err=True)
    waiting = [replace(chosen, status="replay") for chosen in meant]
    deadline = time.monotonic() + wait_s
    while count(state, waiting) and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL_S)
    delivered = min(marked, max(0, count(state, replayed) - before))
    return delivered, marked - delivered


def document(letter: DeadLetter) -> dict[str, Any]:
    """A letter as JSON, without its payload and the vendor's answer."""
    return {
        "id": letter.id,
        "status": letter.status,
        "kind": letter.kind,
        "destination": letter.destination,
        "rule": letter.rule,
        "event": letter.event,
        "table": letter.table,
        "commit_lsn": str(letter.commit_lsn),
        "commit_time": letter.commit_time,
        "reason": letter.reason,
        "created_at": letter.created_at,
    }


def whole_text(letter: DeadLetter, indent: int | None = None) -> str:
    """A letter as JSON, with everything."""
    whole = {**document(letter), "answer": letter.answer, "payload": json.loads(letter.payload)}
    text = json.dumps(whole, indent=indent, ensure_ascii=False)
    # What JSON leaves as it is, and a terminal takes for commands.
    return re.sub("[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text)


def write_whole(path: Path, lines: Iterable[str]) -> int:
    """
    Write lines to a file that only its owner may read: all of them, or there is no such file, or the one of before.

    Raises:
        click.ClickException: It cannot be written.
    """
    part = None
    written = 0
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            part = file.name
            for line in lines:
                file.write(line + "\n")
                written += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        part = None
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}; nothing was written") from error
    finally:
        if part is not None:
            os.unlink(part)
    return written


def age(stored: str) -> str:
    """How long ago a stored time is, in the largest unit that fits: 45s, 12m, 3h, 2d."""
    past = datetime.fromisoformat(stored.replace("Z", "+00:00"))
    seconds = max(0, int((datetime.now(timezone.utc) - past).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def shortened(reason: str) -> str:
    """The first line of a reason, short enough for a table."""
    first = reason.splitlines()[0] if reason else ""
    first = "".join(c if c.isprintable() else " " for c in first)
    return first if len(first) <= 60 else first[:59] + "…"
