"""
A file and an environment to a `Config`; every error names file, line, column and the dotted path.

Rules are read in `wal_tracker.config.track`. Here: which file, its sections, and the small readers all of them share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wal_tracker.config import yaml
from wal_tracker.config.model import (
    PER_DESTINATION,
    Config,
    DeadLettersConfig,
    DeliveryConfig,
    DestinationConfig,
    Ignored,
    NumericConfig,
    NumericForm,
    PropertyLists,
    SourceConfig,
)
from wal_tracker.config.reader import Reader, one_of
from wal_tracker.config.track import read_expression, read_track, split_name
from wal_tracker.errors import ConfigError
from wal_tracker.secret import Secret

FILE_NAME = "wal_tracker.yaml"
UPSTREAM_NAME = "pg_track_events.config.yaml"
"""pg_track_events' own file, which works as it is."""
SEARCHED = (FILE_NAME, f"pg_track_events/{UPSTREAM_NAME}", UPSTREAM_NAME)
"""In the working directory, in this order, where neither `--config` nor ``$WAL_TRACKER_CONFIG`` names a file."""

SECTIONS = (
    "track",
    "destinations",
    "raw_db_event_destinations",
    "ignore",
    "source",
    "delivery",
    "dead_letters",
    "state",
    "numeric",
    "hash_key",
)
LATER = ("kafka", "http")
"""Sections of design.md that this version does not have."""

STATE_SCHEMES = ("sqlite:///", "postgresql://", "postgres://")


def load(path: Path | None, env: Mapping[str, str]) -> Config:
    """
    Read the configuration.

    Args:
        path: The file; None looks for one: ``$WAL_TRACKER_CONFIG``, then `SEARCHED`.
        env: The environment: expands ``$VAR`` everywhere but in `track`.

    Raises:
        ConfigError: There is no such file, or something in it cannot be used; names the place and the remedy.
    """
    chosen = path or find(env)
    try:
        with chosen.open("rb") as opened:
            content = opened.read(yaml.MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(chosen)) from error
    return read(content, env, path=chosen)


def find(env: Mapping[str, str]) -> Path:
    """
    The configuration file that is used when none is named on the command line.

    Raises:
        ConfigError: There is none; says where it was looked for.
    """
    named = env.get("WAL_TRACKER_CONFIG")
    if named:
        return Path(named)
    for candidate in SEARCHED:
        if Path(candidate).is_file():
            return Path(candidate)
    raise ConfigError(
        f"there is no configuration: {', '.join(SEARCHED)} are not in this directory; "
        "name one with --config or WAL_TRACKER_CONFIG"
    )


def read(content: bytes, env: Mapping[str, str], *, path: Path | None = None) -> Config:
    """
    Read a configuration that is in memory.

    Args:
        content: The file's bytes.
        env: As `load`.
        path: Where it came from; for messages.

    Raises:
        ConfigError: As `load`.
    """
    file = str(path) if path is not None else ""
    warnings: list[str] = []
    top = Reader(yaml.parse(content, file), "", file, env, warnings)
    if isinstance(top.node, yaml.Scalar) and top.node.value is None:
        raise ConfigError("is empty; `track` says what is tracked, `destinations` where events go", file=file)
    for key, entry in top.entries():
        if key in LATER:
            raise entry.error("is not in this version yet; take the section out")
    top.only(SECTIONS)
    source = _source(top.child("source"), env)
    delivery = _delivery(top.child("delivery"), DeliveryConfig())
    hash_key = top.child("hash_key")
    destinations = tuple(_destinations(top.child("destinations"), delivery, has_hash_key=hash_key is not None))
    ignore = _ignore(top.child("ignore"), source.schema)
    track = top.child("track")
    rules = read_track(
        track,
        schema=source.schema,
        destinations=[destination.name for destination in destinations],
        lenient=path is not None and path.name == UPSTREAM_NAME,
    )
    if track is not None:
        for rule in rules:
            if rule.message_prefix is None and ignore.get((rule.schema, rule.table)) == "*":
                raise ConfigError(
                    f"table {rule.table!r} is tracked here and ignored as a whole under `ignore`; take one of them out",
                    path=f"track.{rule.key}",
                    file=file,
                    line=rule.line,
                    column=rule.column,
                )
    numeric = _numeric(top.child("numeric"), source.schema)
    state = top.child("state")
    return Config(
        path=path,
        source=source,
        rules=rules,
        destinations=destinations,
        raw_destinations=tuple(
            _destinations(top.child("raw_db_event_destinations"), delivery, has_hash_key=hash_key is not None)
        ),
        ignore=ignore,
        delivery=delivery,
        dead_letters=_dead_letters(top.child("dead_letters")),
        numeric=numeric,
        hash_key=hash_key.secret() if hash_key is not None else None,
        warnings=tuple(warnings),
        **({"state": _state(state)} if state is not None else {}),
    )


def _source(section: Reader | None, env: Mapping[str, str]) -> SourceConfig:
    default_dsn = Secret(env.get("DATABASE_URL", ""))
    if section is None:
        return SourceConfig(dsn=default_dsn)
    section.only([field.name for field in dataclasses.fields(SourceConfig)])
    given: dict[str, Any] = {}
    for key, entry in section.entries():
        if key == "dsn":
            # The default written out is the default: what needs no database works without DATABASE_URL.
            written = isinstance(entry.node, yaml.Scalar) and entry.node.text in ("$DATABASE_URL", "${DATABASE_URL}")
            given[key] = default_dsn if written else entry.secret()
        elif key == "primary_dsn":
            given[key] = entry.secret()
        elif key == "mode":
            given[key] = one_of(entry, ("wal", "trigger", "kafka"))
        elif key == "plugin":
            given[key] = one_of(entry, ("pgoutput", "wal2json"))
        elif key == "capture":
            given[key] = one_of(entry, ("tolerant", "strict"))
        elif key == "slot":
            given[key] = entry.matching(r"[a-z0-9_]{1,63}", "a slot name has at most 63 of a-z, 0-9 and _")
        else:
            # NAMEDATALEN: PostgreSQL cuts longer identifiers off, and would then look for another name.
            given[key] = entry.matching(r"[^\0]{1,63}", "an identifier has 1 to 63 characters")
    return SourceConfig(**{"dsn": default_dsn, **given})


def _delivery(section: Reader | None, base: DeliveryConfig, *, per_destination: bool = False) -> DeliveryConfig:
    if section is None:
        return base
    fields = {field.name: field for field in dataclasses.fields(DeliveryConfig)}
    given: dict[str, Any] = {}
    for key, entry in section.entries():
        if per_destination and key in fields and key not in PER_DESTINATION:
            raise entry.error("holds for all destinations together; set it in the top-level `delivery`")
    section.only([name for name in fields if not per_destination or name in PER_DESTINATION])
    for key, entry in section.entries():
        bounds = fields[key].metadata
        if "choices" in bounds:
            given[key] = one_of(entry, bounds["choices"])
            continue
        if "text" in bounds:
            given[key] = entry.text()
            continue
        whole = not key.endswith("_s")
        given[key] = entry.number(bounds["low"], bounds["high"], whole=whole)
    merged = dataclasses.replace(base, **given)
    if merged.retry_cap_s < merged.retry_base_s:
        raise section.error(f"retry_cap_s ({merged.retry_cap_s:g}) is less than retry_base_s ({merged.retry_base_s:g})")
    return merged


def _dead_letters(section: Reader | None) -> DeadLettersConfig:
    if section is None:
        return DeadLettersConfig()
    fields = {field.name: field for field in dataclasses.fields(DeadLettersConfig)}
    section.only(list(fields))
    given: dict[str, Any] = {}
    for key, entry in section.entries():
        if key == "at_bound":
            given[key] = one_of(entry, ("hold", "shed"))
        else:
            bounds = fields[key].metadata
            given[key] = entry.number(bounds["low"], bounds["high"], whole=True)
    return DeadLettersConfig(**given)


def _destinations(
    section: Reader | None, delivery: DeliveryConfig, *, has_hash_key: bool
) -> Iterator[DestinationConfig]:
    for name, entry in section.entries() if section is not None else ():
        options = dict(entry.entries())
        kind, chosen, own = options.pop("kind", None), options.pop("filter", None), options.pop("delivery", None)
        begin = options.pop("from", None)
        when, lists = options.pop("when", None), options.pop("properties", None)
        yield DestinationConfig(
            name=name,
            kind=kind.text() if kind is not None else name,
            filter=tuple(chosen.texts()) if chosen is not None else ("*",),
            when=read_expression(when) if when is not None and not when.is_null else None,
            properties=_properties(lists, has_hash_key) if lists is not None and not lists.is_null else None,
            options={key: option.plain() for key, option in options.items()},
            delivery=_delivery(own, delivery, per_destination=True),
            begin=one_of(begin, ("now", "spool")) if begin is not None else "now",
            path=entry.path,
        )


def _properties(section: Reader, has_hash_key: bool) -> PropertyLists:
    known = [field.name for field in dataclasses.fields(PropertyLists)]
    section.only(known)
    given = {key: (tuple(entry.texts()), entry) for key, entry in section.entries()}
    if "hash" in given and not has_hash_key:
        raise given["hash"][1].error("needs a key; set the top-level `hash_key`")
    return PropertyLists(**{key: globs for key, (globs, _) in given.items()})


def _ignore(section: Reader | None, schema: str) -> dict[tuple[str, str], Ignored]:
    ignored: dict[tuple[str, str], Ignored] = {}
    for key, entry in section.entries() if section is not None else ():
        table = _table(entry, key, schema)
        if table in ignored:
            raise entry.error(f"names the table {'.'.join(table)} a second time; write all of its columns in one list")
        if isinstance(entry.node, yaml.Scalar):
            if entry.text() != "*":
                raise entry.error('is "*" for the whole table, or a list of column names')
            ignored[table] = "*"
        else:
            columns = frozenset(entry.texts())
            ignored[table] = "*" if "*" in columns else columns
    return ignored


def _numeric(section: Reader | None, schema: str) -> NumericConfig:
    """``double`` or ``string``; or a mapping: ``default``, and columns by ``table.column`` (also under ``columns``)."""
    if section is None:
        return NumericConfig()
    forms: tuple[NumericForm, ...] = ("double", "string")
    if isinstance(section.node, yaml.Scalar):
        return NumericConfig(default=one_of(section, forms))
    default: NumericForm = "double"
    columns: dict[tuple[str, str, str], NumericForm] = {}
    for key, entry in section.entries():
        if key == "default":
            default = one_of(entry, forms)
            continue
        if key != "columns" and "." not in key:
            raise entry.error("is not a setting; there are default and columns, and columns named as table.column")
        for name, column in entry.entries() if key == "columns" else [(key, entry)]:
            parts = split_name(name)
            if parts is None or len(parts) not in (2, 3):
                raise column.error("is not a column; write table.column or schema.table.column")
            place = (schema, *parts) if len(parts) == 2 else tuple(parts)
            columns[place[0], place[1], place[2]] = one_of(column, forms)
    return NumericConfig(default=default, columns=columns)


def _table(entry: Reader, key: str, schema: str) -> tuple[str, str]:
    parts = split_name(key)
    if parts is None or len(parts) > 2:
        raise entry.error('is not a table; write table, schema.table, or "my.schema"."my.table" where a name has dots')
    return (schema, parts[0]) if len(parts) == 1 else (parts[0], parts[1])


def _state(entry: Reader) -> Secret:
    secret = entry.secret()
    url = secret.reveal()
    if not url.startswith(STATE_SCHEMES) or url in STATE_SCHEMES:
        raise entry.error("is not a state store; write sqlite:///FILE or postgresql://user@host/database")
    return secret
