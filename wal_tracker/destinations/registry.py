"""
Where destinations come from: the entry-point group ``wal_tracker.destinations``, for ours and for anybody's.

Nothing is imported before a configuration names it. This room turns a name and a mapping of options
into a ready object and knows no vendor; what an option means is the destination's own `Config`.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, Union

from wal_tracker.destinations.base import Destination, Limits
from wal_tracker.errors import ConfigError, PluginError
from wal_tracker.secret import Secret

GROUP = "wal_tracker.destinations"

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


@dataclass(frozen=True, slots=True)
class Available:
    """A kind of destination that is installed; nothing of it has been imported."""

    name: str
    distribution: str
    """The package it came with."""
    version: str
    entry_point: str
    """``module:Class``."""


def available() -> list[Available]:
    """Every installed kind, by name, without importing any."""
    found = [
        Available(
            name=point.name,
            distribution=point.dist.name if point.dist else "?",
            version=point.dist.version if point.dist else "?",
            entry_point=point.value,
        )
        for point in _points()
    ]
    return sorted(found, key=lambda plugin: (plugin.name, plugin.distribution))


def load(kind: str) -> type:
    """
    Import the class of one kind of destination.

    Raises:
        PluginError: There is no such kind, two packages claim it, the library it needs is not installed, or it is
            not a destination; the message says which, and the remedy.
    """
    points = [point for point in _points() if point.name == kind]
    if not points:
        raise PluginError(f"no destination is called {kind!r}{_suggest(kind, sorted({p.name for p in _points()}))}")
    if len({point.value for point in points}) > 1:
        claims = ", ".join(f"{p.value} ({p.dist.name if p.dist else '?'})" for p in points)
        raise PluginError(f"destination {kind!r} is claimed by more than one package: {claims}; uninstall all but one")
    point = points[0]
    try:
        loaded = point.load()
    except ModuleNotFoundError as error:
        raise PluginError(_missing_library(point, error)) from error
    except Exception as error:
        # A plugin's module may raise anything; whatever it is, this plugin cannot be used, and the cause is kept.
        raise PluginError(f"destination {kind!r} ({point.value}) cannot be imported: {error!r}") from error
    faults = _class_faults(loaded)
    if faults:
        raise PluginError(f"destination {kind!r} ({point.value}) is not a destination: {'; '.join(faults)}")
    assert isinstance(loaded, type)
    return loaded


def build(
    name: str, kind: str, options: Mapping[str, Any], path: str, *, defaults: Mapping[str, Any] | None = None
) -> Destination:
    """
    Make the destination an entry of the configuration describes; opens nothing.

    Args:
        name: The entry's key.
        kind: Which destination it is.
        options: The entry's options as read, ``$VAR`` expanded.
        path: Where the entry stands, such as ``destinations.posthog``; for messages.
        defaults: Values for options the entry does not set, used where this kind has such an option
            (``request_timeout_s`` of the delivery section).

    Raises:
        PluginError: As `load`; or the object lacks something.
        ConfigError: An option is unknown, missing, or of the wrong form.
    """
    loaded: Any = load(kind)
    config = read_config(loaded.Config, options, path, defaults=defaults or {})
    try:
        destination = loaded(name, config)
    except ValueError as error:
        raise ConfigError(str(error), path=path) from error
    if not isinstance(getattr(destination, "limits", None), Limits):
        raise PluginError(f"destination {kind!r} is not a destination: it has no `limits` (a base.Limits)")
    assert isinstance(destination, Destination)
    return destination


def read_config(config: type, options: Mapping[str, Any], path: str, *, defaults: Mapping[str, Any]) -> Any:
    """
    Fill a destination's `Config` from options.

    A key may be written as the field or in camel case (``api_key``, ``apiKey``). Text is accepted where a number
    or a truth value is wanted, because that is what ``$VAR`` expands to.

    Raises:
        ConfigError: An option is unknown, given twice, missing, or of the wrong form, or `Config` refuses it
            (ValueError); names the option.
    """
    fields = {field.name: field for field in dataclasses.fields(config) if field.init}
    hints = typing.get_type_hints(config)
    values: dict[str, Any] = {}
    for key, given in options.items():
        field_name = _snake(key) if key not in fields else key
        if field_name not in fields:
            raise ConfigError(f"is not a setting of it{_suggest(key, list(fields))}", path=f"{path}.{key}")
        if field_name in values:
            raise ConfigError(f"is given twice (as {key!r} and in its other spelling)", path=f"{path}.{field_name}")
        values[field_name] = _convert(given, hints[field_name], f"{path}.{key}")
    for field_name, default in defaults.items():
        if field_name in fields and field_name not in values:
            values[field_name] = _convert(default, hints[field_name], f"{path}.{field_name}")
    for field in fields.values():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            camel = camel_case(field.name)
            other = f" (or {camel})" if camel != field.name else ""
            raise ConfigError(f"needs {field.name}{other}", path=path)
    try:
        return config(**values)
    except ValueError as error:
        raise ConfigError(str(error), path=path) from error


def _points() -> Sequence[EntryPoint]:
    return tuple(entry_points(group=GROUP))


def _suggest(wrong: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(wrong, known, n=1)
    if not near and _snake(wrong) != wrong:
        near = difflib.get_close_matches(_snake(wrong), known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are: {', '.join(known)}" if known else "; there are none"


def _missing_library(point: EntryPoint, error: ModuleNotFoundError) -> str:
    missing = (error.name or str(error)).split(".")[0]
    if missing == point.module.split(".")[0]:
        return f"destination {point.name!r} is broken: its module {point.module} is not there; reinstall its package"
    extras = (point.dist.metadata.get_all("Provides-Extra") or []) if point.dist else []
    package = point.dist.name if point.dist else ""
    wanted = f"{package}[{point.name}]" if point.name in extras else missing
    return f"destination {point.name!r} needs the library {missing!r}, which is not installed: pip install '{wanted}'"


def _class_faults(loaded: Any) -> list[str]:
    """What keeps this object from being a destination class, in words."""
    if not isinstance(loaded, type):
        return ["it is not a class"]
    methods = ("open", "deliver", "close")
    faults = [f"it has no {name}()" for name in methods if not callable(getattr(loaded, name, None))]
    config = getattr(loaded, "Config", None)
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        faults.append("it has no Config dataclass")
    if not isinstance(getattr(loaded, "accepts_raw", None), bool):
        faults.append("it does not say accepts_raw = True or False")
    return faults


def _snake(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match[1].lower(), key)


def camel_case(name: str) -> str:
    """The other spelling of an option: ``apiKey`` for ``api_key``."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def _convert(value: Any, wanted: Any, path: str) -> Any:
    """A YAML value as the field's type; says what is accepted, and never repeats the value (it may be a secret)."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [argument for argument in arguments if argument is not type(None)]
        for index, kind in enumerate(kinds):
            try:
                return _convert(value, kind, path)
            except ConfigError:
                if index == len(kinds) - 1:
                    raise
    if wanted is Any:
        return value
    if origin is Literal:
        if value in arguments:
            return value
        raise ConfigError(f"must be one of {', '.join(map(repr, arguments))}", path=path)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError("must be a list", path=path)
        return tuple(_convert(item, arguments[0], f"{path}[{index}]") for index, item in enumerate(value))
    if origin in (dict, collections.abc.Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError("must be a mapping", path=path)
        return {str(key): _convert(item, arguments[1], f"{path}.{key}") for key, item in value.items()}
    if wanted is bool:
        return _truth(value, path)
    if wanted in (int, float):
        return _number(value, wanted, path)
    if wanted in (str, Secret):
        if isinstance(value, (Mapping, list)) or value is None or isinstance(value, bool):
            raise ConfigError("must be text", path=path)
        text = value.reveal() if isinstance(value, Secret) else str(value)
        return Secret(text) if wanted is Secret else text
    raise PluginError(f"{path}: the destination's Config has a field of a type that cannot be read: {wanted!r}")


def _truth(value: Any, path: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise ConfigError("must be true or false", path=path)


def _number(value: Any, wanted: type[int] | type[float], path: str) -> int | float:
    what = "a whole number" if wanted is int else "a number"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ConfigError(f"must be {what}", path=path)
    try:
        number = wanted(value)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"must be {what}", path=path) from error
    if not math.isfinite(number) or (isinstance(value, float) and number != value):
        raise ConfigError(f"must be {what}", path=path)
    return number
