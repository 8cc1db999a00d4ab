"""What the demo tells at its end: how much, how fast, and whether anything is missing. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wal_tracker.config.model import Mode
from wal_tracker.demo.printer import BOLD, DIM, GREEN, RED, Palette, aligned


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was seen on each side of the pipeline."""

    seconds: float
    """How long the shop was open."""
    committed: int
    """Transactions the writers were told are committed."""
    rolled_back: int
    """Transactions that wrote something and took it back."""
    expected: Mapping[str, int]
    """Events by name that the committed transactions must lead to, by the writers' own account."""
    transactions: int
    """Transactions the pipeline read."""
    changes: int
    """Row changes and messages in them that a rule looked at."""
    rule_errors: int
    """Changes on which a rule could not be evaluated."""
    delivered: Mapping[str, int]
    """Events by name that arrived."""
    repeated: int
    """Events that arrived more than once."""
    latencies_us: Sequence[int]
    """From the server's commit timestamp (by triggers: the statement's) to the line on the screen."""
    mode: Mode
    """How changes were read."""
    unconfirmed: int
    """What is still held back of what was committed: bytes of WAL by the slot, or rows in the outbox."""

    def problems(self) -> list[str]:
        """Everything that is not as it must be; empty: nothing was lost, doubled or made up."""
        found = []
        if self.transactions != self.committed:
            found.append(f"{self.committed} transactions were committed, {self.transactions} were read")
        for name in sorted({*self.expected, *self.delivered}):
            expected, delivered = self.expected.get(name, 0), self.delivered.get(name, 0)
            if expected != delivered:
                found.append(f"{name}: {expected} expected, {delivered} delivered")
        if self.repeated:
            found.append(f"{self.repeated} events arrived more than once")
        if self.rule_errors:
            found.append(f"{self.rule_errors} rule errors")
        if self.unconfirmed:
            found.append(f"{self.unconfirmed} {self._unit} unconfirmed")
        return found

    def lines(self, palette: Palette, *, width: int) -> list[str]:
        """The summary for a person, without line ends."""
        delivered, expected = sum(self.delivered.values()), sum(self.expected.values())
        problems = self.problems()
        busiest = ", ".join(f"{name} {count:,}" for name, count in Counter(self.delivered).most_common(4))
        p50, p99 = (_milliseconds(percentile(self.latencies_us, percent)) for percent in (50, 99))
        transactions = _equation(self.transactions, "read", self.committed, "committed")
        rows = [
            ("transactions", f"{transactions}; {self.rolled_back:,} rolled back"),
            ("changes", f"{self.changes:,}"),
            ("events", f"{_equation(delivered, 'delivered', expected, 'expected')}, {self.repeated:,} twice"),
            ("", busiest + (", …" if len(self.delivered) > 4 else "")),
            ("rate", f"{delivered / self.seconds:.1f} events/s over {self.seconds:.1f} s"),
            ("latency", f"p50 {p50}, p99 {p99}, from the {self._moment} to this line"),
            ("slot" if self.mode == "wal" else "outbox", f"{self.unconfirmed:,} {self._unit} unconfirmed"),
        ]
        lines = [palette.paint("─" * min(width, 78), DIM), *aligned([row for row in rows if row[1]], palette)]
        if problems:
            return [*lines, *(f"  {palette.paint('WRONG', BOLD, RED)}  {problem}" for problem in problems)]
        return [*lines, f"  {palette.paint('ok', BOLD, GREEN)}  every committed change arrived, exactly once"]

    @property
    def _unit(self) -> str:
        return "bytes" if self.mode == "wal" else "rows"

    @property
    def _moment(self) -> str:
        return "server's commit" if self.mode == "wal" else "statement"


def percentile(values: Sequence[int], percent: float) -> int | None:
    """The smallest value that at least `percent` of `values` do not exceed (nearest rank); None of no values."""
    if not values:
        return None
    rank = -(-len(values) * percent // 100)
    return sorted(values)[max(0, int(rank) - 1)]


def _milliseconds(value_us: int | None) -> str:
    if value_us is None:
        return "-"
    return f"{value_us / 1000:.1f} ms" if value_us < 100_000 else f"{value_us / 1000:,.0f} ms"


def _equation(seen: int, verb: str, known: int, state: str) -> str:
    return f"{seen:,} {verb} {'=' if seen == known else '≠'} {known:,} {state}"
