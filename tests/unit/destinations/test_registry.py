"""Finding destinations, and reading their options."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import Any, Literal

import pytest

from wal_tracker.destinations import registry
from wal_tracker.errors import ConfigError, PluginError
from wal_tracker.secret import Secret
from wal_tracker.testing import MemoryDestination


@dataclass(frozen=True, kw_only=True)
class Options:
    api_key: Secret
    host: str = "https://example.org"
    attempts: int = 3
    wait_s: float = 1.5
    gzip: bool = False
    format: Literal["json", "text"] = "json"
    headers: Mapping[str, Secret] = field(default_factory=dict)
    topics: tuple[str, ...] = ()
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.attempts < 0:
            raise ValueError("attempts must not be negative")


def read(**options: Any) -> Any:
    return registry.read_config(Options, options, "destinations.x", defaults={})


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """The entry points there are, instead of the installed ones."""
    found = [EntryPoint("memory", "wal_tracker.testing:MemoryDestination", registry.GROUP)]
    monkeypatch.setattr(registry, "_points", lambda: found)
    return found


def test_ours_are_found_without_being_imported() -> None:
    """`plugins` lists also what cannot be imported, and start-up pays for nothing it does not use."""
    before = set(sys.modules)

    names = {plugin.name for plugin in registry.available()}

    assert {"stdout", "file", "webhook", "posthog"} <= names
    assert not {name for name in set(sys.modules) - before if name.startswith("wal_tracker_destinations")}


@pytest.mark.parametrize(
    "kind", ["stdout", "file", "webhook", "posthog", "mixpanel", "segment", "rudderstack", "amplitude"]
)
def test_ours_load_through_the_same_door(kind: str) -> None:
    """No list of ours stands beside the entry points."""
    assert isinstance(registry.load(kind), type)


def test_a_kind_nobody_provides_is_met_with_the_nearest_name() -> None:
    """A typing error costs one look."""
    with pytest.raises(PluginError, match=r"no destination is called 'posthgo'; did you mean 'posthog'\?"):
        registry.load("posthgo")


def test_a_kind_like_no_other_is_met_with_the_list(points: list[EntryPoint]) -> None:
    """So that one need not run another command."""
    with pytest.raises(PluginError, match="no destination is called 'zzz'; there are: memory"):
        registry.load("zzz")


def test_a_missing_library_names_the_command_that_installs_it(points: list[EntryPoint], tmp_path: Any) -> None:
    """At start-up, not at the first event."""
    (tmp_path / "needy_plugin.py").write_text("import no_such_library.deep\n")
    points.append(EntryPoint("needy", "needy_plugin:Needy", registry.GROUP))
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(PluginError, match=r"needs the library 'no_such_library'.*pip install 'no_such_library'"):
            registry.load("needy")
    finally:
        sys.path.remove(str(tmp_path))


def test_an_entry_point_to_nowhere_says_that_the_package_is_broken(points: list[EntryPoint]) -> None:
    """Installing a library would not help."""
    points.append(EntryPoint("lost", "no_such_module_of_ours:Thing", registry.GROUP))

    with pytest.raises(PluginError, match="reinstall"):
        registry.load("lost")


def test_two_packages_that_claim_one_kind_are_told(points: list[EntryPoint]) -> None:
    """Whichever came first would be a matter of luck."""
    points.append(EntryPoint("memory", "somewhere.else:Memory", registry.GROUP))

    with pytest.raises(PluginError, match="more than one package"):
        registry.load("memory")


def test_what_is_no_destination_is_told_what_it_lacks(points: list[EntryPoint]) -> None:
    """All of it at once."""
    points.append(EntryPoint("dict", "builtins:dict", registry.GROUP))

    with pytest.raises(PluginError, match=r"no open\(\); it has no deliver\(\); it has no close\(\); it has no Config"):
        registry.load("dict")


def test_a_destination_is_built_from_its_options(points: list[EntryPoint]) -> None:
    """Named as its entry is."""
    destination = registry.build("mine", "memory", {}, "destinations.mine")

    assert isinstance(destination, MemoryDestination)
    assert destination.name == "mine"


def test_options_may_be_written_either_way() -> None:
    """pg_track_events writes apiKey; the field is api_key."""
    assert read(apiKey="k").api_key.reveal() == "k"
    assert read(api_key="k").api_key.reveal() == "k"


def test_an_option_written_both_ways_is_refused() -> None:
    """One of them would be lost."""
    with pytest.raises(ConfigError, match="given twice"):
        read(apiKey="k", api_key="k")


def test_an_unknown_option_is_met_with_the_nearest() -> None:
    """And with the place in the file."""
    with pytest.raises(ConfigError, match=r"destinations\.x\.apikye: is not a setting of it; did you mean 'api_key'\?"):
        read(apikye="k")


def test_a_missing_option_is_named_in_both_spellings() -> None:
    """Either works."""
    with pytest.raises(ConfigError, match=r"destinations\.x: needs api_key \(or apiKey\)"):
        read()


def test_what_a_variable_expands_to_is_text_and_is_read_as_what_is_wanted() -> None:
    """`attempts: $N` is as good as `attempts: 5`."""
    config = read(
        api_key=12345, attempts="5", wait_s="0.25", gzip="true", limit="7", headers={"A": "b"}, topics=["x", "y"]
    )

    assert (config.api_key.reveal(), config.attempts, config.wait_s, config.gzip) == ("12345", 5, 0.25, True)
    assert (config.limit, config.topics, config.headers["A"].reveal()) == (7, ("x", "y"), "b")
    assert repr(config.headers["A"]) == "Secret(***)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": "many"}, "attempts: must be a whole number"),
        ({"attempts": 1.5}, "attempts: must be a whole number"),
        ({"attempts": True}, "attempts: must be a whole number"),
        ({"wait_s": "nan"}, "wait_s: must be a number"),
        ({"gzip": "maybe"}, "gzip: must be true or false"),
        ({"format": "xml"}, "format: must be one of 'json', 'text'"),
        ({"topics": "x"}, "topics: must be a list"),
        ({"headers": ["x"]}, "headers: must be a mapping"),
        ({"host": {"a": 1}}, "host: must be text"),
        ({"host": None}, "host: must be text"),
        ({"attempts": -1}, "attempts must not be negative"),
    ],
)
def test_an_option_of_the_wrong_form_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    """With what is accepted, and without repeating a value that may be a secret."""
    with pytest.raises(ConfigError, match=message):
        read(api_key="k", **options)


def test_a_default_from_outside_is_used_only_where_there_is_such_an_option_and_it_is_not_set() -> None:
    """`request_timeout_s` of the delivery section reaches destinations that have a use for it."""
    defaults = {"attempts": 9, "no_such_option": 1}

    assert registry.read_config(Options, {"apiKey": "k"}, "p", defaults=defaults).attempts == 9
    assert registry.read_config(Options, {"apiKey": "k", "attempts": 1}, "p", defaults=defaults).attempts == 1
