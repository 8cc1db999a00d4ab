"""Payload bytes to `Change`s: no server, no socket, no rules. Process CPU, best of n."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from benchmarks import workload
from benchmarks.measure import Section, cpu_samples
from benchmarks.workload import Payload
from tests.support import matrix
from wal_tracker.decode.base import XLOG_DATA_HEADER_SIZE, Decoder, OpColumns, Wanted, WantedFor
from wal_tracker.decode.pgoutput import PgOutput
from wal_tracker.decode.wal2json import Wal2Json
from wal_tracker.model import EXACT, Item, Op
from wal_tracker.pgtypes import TypeCatalog

BURST = 1000
"""Items are dropped after so many messages, as the pipeline drops a burst once it is evaluated."""

ALL = (
    "id", "customer", "status", "note", "placed_at", "updated_at", "details", "amount", "paid", "token", "quantity",
)  # fmt: skip

KEYS: Mapping[str, tuple[str, ...] | None] = {
    "table nobody wants": None,
    "3 of 11 columns (int8, text, int4)": ("id", "status", "quantity"),
    "5 of 11 columns, as emitted": tuple(EXACT + name for name in ("id", "customer", "amount", "status", "updated_at")),
    "11 columns, as CEL computes": ALL,
    "11 columns, as emitted (raw)": tuple(EXACT + name for name in ALL),
}


def run(payloads: list[Payload], rows: int) -> Section:
    """Decode pgoutput's messages for several sets of wanted columns."""
    return _measure("decode: pgoutput bytes to changes", payloads, rows, pgoutput, tuple(KEYS))


def run_wal2json() -> Section:
    """The same transactions as wal2json writes them, where a server that has it is on this machine."""
    title = "decode: wal2json bytes to changes"
    try:
        binaries = matrix.wal2json_binaries()
    except matrix.Missing as reason:
        return Section(title, f"left out: {reason}")
    settings = {"output_plugin_libraries": "pgoutput, test_decoding, wal2json"}
    with workload.server(binaries, settings) as server:
        rows = server.write(workload.FEWER, "offline", "wal2json")
        payloads = server.payloads("offline", wal2json(None).options(workload.PUBLICATION))
    return _measure(title, payloads, rows, wal2json, (*KEYS,)[1:4])


def _measure(
    title: str,
    payloads: list[Payload],
    rows: int,
    decoder: Callable[[Wanted | None], Decoder],
    names: tuple[str, ...],
    times: int = 5,
) -> Section:
    megabytes = sum(len(payload) for payload, _ in payloads) / 1e6
    section = Section(
        title,
        f"{len(payloads):,} messages, {rows:,} rows, {megabytes:.0f} MB, Begin and Commit too; CPU, best of {times}",
    )
    for name in names:
        keys = KEYS[name]
        wanted = None if keys is None else _wanted(keys)
        samples = cpu_samples(partial(decode, payloads, partial(decoder, wanted)), times)
        section.add(
            name, "rows/s", [rows / sample for sample in samples], best=True,
            note=f"{min(samples) / rows * 1e6:.2f} µs/row, {megabytes / min(samples):.0f} MB/s",
        )  # fmt: skip
    return section


def pgoutput(wanted: Wanted | None) -> Decoder:
    """A decoder that wants the same of every table."""
    return PgOutput(lambda _: wanted, TypeCatalog())


def wal2json(wanted: Wanted | None) -> Decoder:
    """A decoder that wants the same of every table."""
    return Wal2Json(lambda _: wanted, TypeCatalog())


def decode(payloads: list[Payload], make: Callable[[], Decoder]) -> None:
    """Feed all messages to a new decoder."""
    decoder = make()
    decoder.reset(0)
    out: list[Item] = []
    header = bytes(XLOG_DATA_HEADER_SIZE)
    feed, rows = decoder.feed, decoder.rows
    for start in range(0, len(payloads), BURST):
        burst = payloads[start : start + BURST]
        messages = [header + payload for payload, _ in burst]
        at = 0
        while (at := rows(messages, at, out)) < len(burst):
            feed(*burst[at], out)
            at += 1
        out = []


def changes_of(payloads: list[Payload], wanted_for: WantedFor) -> list[Item]:
    """All items of the messages, kept."""
    decoder = PgOutput(wanted_for, TypeCatalog())
    decoder.reset(0)
    out: list[Item] = []
    for payload, lsn in payloads:
        decoder.feed(payload, lsn, out)
    return out


def _wanted(keys: tuple[str, ...]) -> Wanted:
    columns = OpColumns(new=frozenset(keys), old=frozenset(key for key in keys if key.lstrip(EXACT) == "id"))
    operations: tuple[Op, ...] = ("insert", "update", "delete")
    return dict.fromkeys(operations, columns)
