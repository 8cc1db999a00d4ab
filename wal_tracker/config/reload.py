"""What of a configuration that was read again a running process can take over: the options of its destinations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import replace

from wal_tracker.config.model import Config, DestinationConfig

_DESTINATIONS = ("destinations", "raw_destinations")
_NO_SETTING = ("path", "warnings")


def with_new_options(running: Config, read: Config) -> tuple[Config, list[str]]:
    """
    The running configuration with the options its destinations have now.

    Returns:
        It, and the dotted paths of everything else that has changed, for which a restart is needed.
    """
    settings = [f.name for f in dataclasses.fields(Config) if f.name not in (*_DESTINATIONS, *_NO_SETTING)]
    others = [name for name in settings if getattr(running, name) != getattr(read, name)]
    changed = ["track" if name == "rules" else name for name in others]
    for section in _DESTINATIONS:
        changed += _changed_entries(getattr(running, section), getattr(read, section))
    return (
        replace(
            running,
            destinations=tuple(_merged(running.destinations, read.destinations)),
            raw_destinations=tuple(_merged(running.raw_destinations, read.raw_destinations)),
        ),
        changed,
    )


def _merged(
    running: Sequence[DestinationConfig], read: Sequence[DestinationConfig]
) -> Iterator[DestinationConfig]:
    now = {entry.name: entry for entry in read}
    for entry in running:
        new = now.get(entry.name)
        yield replace(entry, options=new.options) if new is not None and new.kind == entry.kind else entry


def _changed_entries(running: Sequence[DestinationConfig], read: Sequence[DestinationConfig]) -> Iterator[str]:
    """Entries that came, went, or have another kind, filter, `when`, `properties` or `delivery`."""
    before = {entry.name: entry for entry in running}
    now = {entry.name: entry for entry in read}
    for name, entry in {**before, **now}.items():
        old, new = before.get(name), now.get(name)
        if old is None or new is None or replace(new, options=old.options) != old:
            yield entry.path
