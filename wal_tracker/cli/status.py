"""`wal_tracker status`: how far everything is, and whether anything is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from wal_tracker.assemble import RAW, spools_of
from wal_tracker.cli import letters, table
from wal_tracker.config.load import load
from wal_tracker.config.model import Config, DeadLettersConfig, DeliveryConfig
from wal_tracker.delivery import Spool
from wal_tracker.errors import SourceError
from wal_tracker.lsn import LSN
from wal_tracker.source.connection import Session
from wal_tracker.source.outbox import OutboxStatus, read_outbox_status
from wal_tracker.source.slot import SlotStatus, read_status
from wal_tracker.state import open_state
from wal_tracker.state.base import Gap, LetterCount, LetterStatus, Spooled, StateStore

EXAMPLES = """
\b
Examples:
  wal_tracker status             for a person
  wal_tracker status --json      for a machine: positions, slot or outbox, lag, dead letters, gaps

Leaves with 0 when all is well and with 1 when something needs a person. It also works, and says
so, when the server is down: positions and dead letters are ours.
"""


# From here on a person is told how near the bound of dead letters is.
ALMOST_FULL = 0.8


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """What lies on disk for one destination. Whether it fails now only the process that runs it knows."""

    bytes: int
    oldest: str | None
    """When the oldest event in it was committed; None where it cannot be read, or was delivered just now."""
    max_bytes: int | None
    """None: it is not configured any more."""
    at_bound: str | None


@dataclass(frozen=True, slots=True)
class Status:
    """Everything there is to say."""

    mode: str
    slot_name: str
    slot: SlotStatus | None
    outbox: OutboxStatus | None
    server_error: str | None
    running: bool
    positions: dict[str, LSN]
    configured: Collection[str]
    """Names of destinations."""
    spools: dict[str, SpoolStatus]
    """By destination; without those that have nothing on disk."""
    letters: list[LetterCount]
    letter_bound: DeadLettersConfig
    gaps: list[Gap]

    def count(self, *statuses: LetterStatus) -> int:
        """Dead letters in these statuses."""
        return sum(found.count for found in self.letters if found.status in statuses)

    @property
    def problems(self) -> list[str]:
        """What needs a person; empty: healthy."""
        bound = self.letter_bound
        is_full = self.count("dead", "replay") >= bound.max_letters
        full = f"dead letters are at their bound (dead_letters.max_letters: {bound.max_letters}); what makes more waits"
        return [*self._problems_of_the_source(), *([full] if is_full and bound.at_bound == "hold" else [])]

    def _problems_of_the_source(self) -> list[str]:
        if self.server_error is not None:
            return [f"the server cannot be asked: {self.server_error}"]
        if self.mode == "trigger":
            if self.outbox is None:
                return ["there is no outbox; `wal_tracker apply` makes it"]
            return [f"changes of {table} are not captured: {why}" for table, why in self.outbox.not_captured.items()]
        if self.slot is None:
            return [f"replication slot {self.slot_name!r} does not exist; `wal_tracker apply` makes it"]
        if self.slot.loss_reason is not None:
            return [f"SLOT_LOST: replication slot {self.slot_name!r} can no longer be read ({self.slot.loss_reason})"]
        if self.slot.wal_status == "unreserved":
            return [f"replication slot {self.slot_name!r} is lost at the server's next checkpoint: start `run` now"]
        return []

    @property
    def notes(self) -> list[str]:
        """What a person should know of, and no alarm should ring for."""
        said = []
        if self.outbox is not None:
            if self.outbox.switching_to is not None:
                said.append(f"a change of mode to {self.outbox.switching_to} is under way; `wal_tracker run` ends it")
            if not self.outbox.is_read:
                said.append("nobody reads the outbox now; it grows until `wal_tracker run` goes on")
            if self.outbox.capture_failures:
                said.append(
                    f"{self.outbox.capture_failures} changes were not captured; `run` puts them on record as gaps"
                )
        elif not self.running and (self.slot is None or self.slot.active_pid is None):
            said.append("nobody reads the slot now; WAL is kept until `wal_tracker run` goes on")
        said += [self._spool_note(name, spool) for name, spool in self.spools.items()]
        if self.count("dead"):
            said.append(f"{self.count('dead')} dead letters wait for you: wal_tracker dlq list")
        kept, bound = self.count("dead", "replay"), self.letter_bound
        if kept >= bound.max_letters:
            if bound.at_bound == "shed":
                said.append(f"dead letters are at their bound ({bound.max_letters}), and the oldest are dropped")
        elif kept >= ALMOST_FULL * bound.max_letters:
            said.append(f"dead letters are at {kept} of {bound.max_letters} (dead_letters.max_letters)")
        if self.gaps:
            said.append(f"{len(self.gaps)} gaps are on record: changes in them were not delivered")
        return said

    @staticmethod
    def _spool_note(name: str, spool: SpoolStatus) -> str:
        since = "" if spool.oldest is None else f", the oldest of {spool.oldest}"
        held = f"{table.size(spool.bytes)} of events{since}"
        if spool.max_bytes is None:
            return (
                f"destination {name!r} is not configured any more, and its spool holds {held}; they are delivered once "
                "it is again"
            )
        if spool.bytes >= spool.max_bytes:
            what = "everything waits for it" if spool.at_bound == "hold" else "newer ones are dropped"
            return f"the spool of destination {name!r} is full ({held}), and {what}"
        return f"destination {name!r} is down or behind: its spool holds {held}"

    def behind(self, lsn: LSN) -> int | None:
        """Bytes of WAL after `lsn`; None where the server does not say how far it is."""
        return None if self.slot is None else max(0, self.slot.current_lsn - lsn)


@click.command("status", epilog=EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def status_command(ctx: click.Context, as_json: bool) -> None:
    """Show how far everything is, and whether anything is wrong."""
    path: Path | None = ctx.obj
    config = load(path, os.environ)
    with closing(open_state(config.state)) as state:
        status = read(config, state)
    if as_json:
        click.echo(json.dumps(document(status)))
    else:
        show(status)
    ctx.exit(1 if status.problems else 0)


def read(config: Config, state: StateStore) -> Status:
    """Ask the state store, and the server as far as it answers."""
    source = config.source
    slot, outbox, error = None, None, None
    try:
        if source.mode == "trigger":
            with Session(source.primary_dsn or source.dsn) as session:
                outbox = read_outbox_status(session)
        else:
            with Session(source.dsn) as session:
                slot = read_status(session, source.slot)
    except SourceError as refused:
        error = str(refused)
    cursors = state.cursors()
    # The two sections are name spaces of their own; positions are not.
    entries = {entry.name: entry.delivery for entry in config.destinations}
    entries.update({RAW + entry.name: entry.delivery for entry in config.raw_destinations})
    entries = entries or {"stdout": config.delivery}
    return Status(
        mode=source.mode,
        slot_name=source.slot,
        slot=slot,
        outbox=outbox,
        server_error=error,
        running=state.is_held(),
        positions={name: cursor.lsn for name, cursor in cursors.items()},
        configured=entries.keys(),
        spools={
            name: _spool_status(config, name, cursor.spool, entries.get(name))
            for name, cursor in cursors.items()
            if cursor.spool is not None and cursor.spool.begin < cursor.spool.end
        },
        letters=state.letter_counts(),
        letter_bound=config.dead_letters,
        gaps=list(state.gaps()),
    )


def _spool_status(config: Config, name: str, stands: Spooled, delivery: DeliveryConfig | None) -> SpoolStatus:
    directory = spools_of(config)
    spool = None if directory is None else Spool(directory, name, max_bytes=0)
    oldest = None if spool is None else next(spool.kept(stands), None)
    return SpoolStatus(
        bytes=0 if spool is None else spool.size(stands),
        oldest=None if oldest is None else oldest.timestamp,
        max_bytes=None if delivery is None else delivery.max_spool_bytes,
        at_bound=None if delivery is None else delivery.at_spool_bound,
    )


def document(status: Status) -> dict[str, Any]:
    """The status as JSON; positions in PostgreSQL's text form, sizes in bytes, null for unknown."""
    slot = None
    if status.slot is not None:
        slot = {key: _plain(value) for key, value in asdict(status.slot).items()}
        slot["lag_bytes"] = status.slot.lag_bytes
        slot["retained_bytes"] = status.slot.retained_bytes
    return {
        "healthy": not status.problems,
        "problems": status.problems,
        "notes": status.notes,
        "running": status.running,
        "mode": status.mode,
        "server": {"reachable": status.server_error is None, "error": status.server_error},
        "slot": slot,
        "outbox": _outbox_document(status.outbox),
        "destinations": [
            {
                "name": name,
                "configured": name in status.configured,
                "lsn": str(lsn),
                "behind_bytes": status.behind(lsn),
                "spool": asdict(status.spools[name]) if name in status.spools else None,
            }
            for name, lsn in status.positions.items()
        ],
        "dead_letters": {
            "dead": status.count("dead"),
            "replay": status.count("replay"),
            "replayed": status.count("replayed"),
            "oldest": min((found.oldest for found in status.letters if found.status == "dead"), default=None),
            "max_letters": status.letter_bound.max_letters,
            "at_bound": status.letter_bound.at_bound,
            "by_destination": [asdict(found) for found in status.letters],
        },
        "gaps": [{key: _plain(value) for key, value in asdict(gap).items()} for gap in status.gaps],
    }


def _outbox_document(outbox: OutboxStatus | None) -> dict[str, Any] | None:
    if outbox is None:
        return None
    return {
        "position": str(outbox.position),
        "read_by": outbox.holder,
        "lease_s": outbox.lease_s,
        "waiting": {
            "transactions": outbox.waiting_transactions,
            "rows": outbox.waiting_rows,
            "oldest_s": outbox.oldest_waiting_s,
        },
        "capture_failures": outbox.capture_failures,
        "bytes": dict(outbox.bytes),
        "switching_to": outbox.switching_to,
        "not_captured": dict(outbox.not_captured),
    }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, LSN) else value


def show(status: Status) -> None:
    """The status as a person reads it."""
    click.echo(click.style("healthy", fg="green") if not status.problems else click.style("not healthy", fg="red"))
    for problem in status.problems:
        click.echo(f"  {problem}")
    for note in status.notes:
        click.echo(f"  note: {note}")
    if status.slot is not None:
        click.echo(f"\nslot {status.slot_name}")
        click.echo(f"  confirmed   {status.slot.confirmed_flush_lsn}, {table.size(status.slot.lag_bytes)} behind")
        click.echo(f"  WAL kept    {table.size(status.slot.retained_bytes)} (wal_status {status.slot.wal_status})")
        room = status.slot.safe_wal_size_bytes
        click.echo(f"  may grow by {'any amount (no limit is set)' if room is None else table.size(room)}")
        click.echo(f"  read by     {status.slot.active_pid or 'nobody'}")
    if status.outbox is not None:
        _show_outbox(status.outbox)
    if status.positions:
        click.echo()
        table.echo(
            ("DESTINATION", "DURABLE UP TO", "BEHIND", "SPOOLED", "OLDEST SPOOLED"),
            [
                (name, str(lsn), table.size(status.behind(lsn)), *_spooled(status.spools.get(name)))
                for name, lsn in status.positions.items()
            ],
        )
    if status.letters:
        click.echo()
        table.echo(
            ("DEAD LETTERS OF", "KIND", "STATUS", "COUNT", "OLDEST"),
            [
                (found.destination or None, found.kind, found.status, found.count, letters.age(found.oldest))
                for found in status.letters
            ],
        )
    if status.gaps:
        click.echo()
        table.echo(
            ("GAP FROM", "TO", "EVENTS", "REASON", "DETAIL"),
            [(gap.from_lsn, gap.to_lsn, gap.events, gap.reason, gap.detail) for gap in status.gaps],
        )


def _spooled(spool: SpoolStatus | None) -> tuple[str | None, str | None]:
    return (None, None) if spool is None else (table.size(spool.bytes), spool.oldest)


def _show_outbox(outbox: OutboxStatus) -> None:
    oldest = "" if outbox.oldest_waiting_s is None else f", the oldest for {outbox.oldest_waiting_s:.1f} s"
    lease = "" if outbox.lease_s is None else f", lease ends in {outbox.lease_s:.1f} s"
    if outbox.lease_s is not None and not outbox.is_read:
        lease = f" (not heard of for {-outbox.lease_s:.0f} s beyond its lease)"
    click.echo("\noutbox")
    click.echo(f"  waiting     {outbox.waiting_transactions} transactions, {outbox.waiting_rows} rows{oldest}")
    click.echo(f"  read by     {outbox.holder or 'nobody'}{lease}")
    click.echo(f"  failed      {outbox.capture_failures} captures")
    click.echo("  takes       " + ", ".join(f"{name} {table.size(size)}" for name, size in outbox.bytes.items()))
