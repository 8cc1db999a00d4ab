"""Decoded `Change`s to `Event`s: one evaluation is one rule meeting one row. Process CPU, best of n."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import bench_decode
from benchmarks.measure import Section, cpu_samples
from benchmarks.workload import Payload
from wal_tracker.config.load import load
from wal_tracker.model import Change, Event
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.rules.engine import RuleSet

FIVE = "{id: new.id, user_id: new.customer, amount: new.amount, status: new.status, at: new.updated_at}"

RULES: Mapping[str, str] = {
    "simple: one property": "orders.*: {event: seen, properties: {id: new.id}}",
    "5 properties, distinct_id": f"orders.*: {{event: seen, properties: {FIVE}}}",
    "5 computed properties": (
        "orders.*: {event: seen, properties: {a: new.quantity * 2 + 1, b: new.status.upperAscii(), "
        "c: 'new.amount > 100.0 ? \"big\" : \"small\"', d: \"new.status in ['paid', 'sent']\", e: new.customer.size()}}"
    ),
    "cond choosing between two blocks of 5": (
        f"orders.*: {{cond: \"new.status == 'paid' ? events.paid : events.other\", paid: {FIVE}, other: {FIVE}}}"
    ),
    "cond that says null": "orders.*: {cond: \"new.quantity > 1000 ? 'never' : null\", never: {id: new.id}}",
}


def run(payloads: list[Payload], times: int = 5) -> Section:
    """Evaluate a few rules over the same changes."""
    section = Section("rules: changes to events")
    for name, track in RULES.items():
        pairs = evaluations(payloads, track)
        samples = cpu_samples(partial(evaluate, pairs), times)
        section.add(
            name, "evals/s", [len(pairs) / sample for sample in samples], best=True,
            note=f"{min(samples) / len(pairs) * 1e6:.2f} µs",
        )  # fmt: skip
    pairs = evaluations(payloads, RULES["5 properties, distinct_id"])
    samples = cpu_samples(partial(to_json, pairs), times)
    section.add(
        "5 properties, and the event as JSON", "evals/s", [len(pairs) / sample for sample in samples], best=True,
        note=f"{min(samples) / len(pairs) * 1e6:.2f} µs",
    )  # fmt: skip
    section.about = f"{len(pairs):,} changes, inserts and updates; process CPU, best of {times}"
    return section


Evaluation = tuple[Callable[[Any], "Event | None"], Change]


def evaluations(payloads: list[Payload], track: str) -> list[Evaluation]:
    """Every change of the messages with the compiled rule it meets."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "wal_tracker.yaml"
        path.write_text(f"track:\n  {track}\ndestinations:\n  stdout: {{filter: '*'}}\n")
        config = load(path, {})
    rules = RuleSet(config, TypeCatalog(), system_identifier="1", mode="wal")
    items = bench_decode.changes_of(payloads, rules.wanted)
    return [(rule.make, item) for item in items if type(item) is Change for rule in item.relation.plan.rules[item.op]]


def evaluate(pairs: list[Evaluation]) -> None:
    """Make and drop the events."""
    for make, change in pairs:
        make(change)


def to_json(pairs: list[Evaluation]) -> None:
    """Make the events and their JSON, and drop both."""
    for make, change in pairs:
        event = make(change)
        if event is not None:
            event.to_json()
