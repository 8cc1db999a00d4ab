"""Tables a person reads: columns as wide as what stands in them, no lines drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click


def echo(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print `rows` under `headers` on stdout; None prints as ``-``, numbers stand to the right."""
    texts = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    numbers = [all(_is_number(row[at]) for row in texts) for at in range(len(headers))]
    widths = [max(len(headers[at]), *(len(row[at]) for row in texts), 0) for at in range(len(headers))]
    click.echo(click.style(_line(headers, widths, numbers), bold=True))
    for row in texts:
        click.echo(_line(row, widths, numbers))


def _line(cells: Sequence[str], widths: Sequence[int], numbers: Sequence[bool]) -> str:
    parts = (
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, numbers, strict=True)
    )
    return "  ".join(parts).rstrip()


def _is_number(text: str) -> bool:
    return text == "-" or text.lstrip("-<").replace(",", "").replace(".", "", 1).isdigit()


def size(count: int | None) -> str:
    """A number of bytes as a person says it; None is unknown."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
