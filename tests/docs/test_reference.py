"""The reference pages, held against the code: no name left out, none invented, every default and bound true."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click
import pytest
import yaml

from tests.support import commands
from wal_tracker import errors, failpoints, pgtypes, pipeline
from wal_tracker.cel import functions, runtime, syntax
from wal_tracker.cli.main import COMMANDS, cli
from wal_tracker.config import load
from wal_tracker.config import yaml as bounds
from wal_tracker.config.load import SEARCHED, SECTIONS
from wal_tracker.config.model import (
    PER_DESTINATION,
    DeadLettersConfig,
    DeliveryConfig,
    DestinationConfig,
    PropertyLists,
    SourceConfig,
)
from wal_tracker.config.track import CONDITIONAL, SIMPLE
from wal_tracker.delivery.backoff import RETRY_AFTER_CAP_S
from wal_tracker.destinations import http, registry
from wal_tracker.rules.check import check

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
PAGES += [ROOT / room / "README.md" for room in ("tests", "deploy", "plugins")]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
RULES = (ROOT / "docs" / "rules.md").read_text()
DESTINATIONS = sorted(
    point.name
    for point in entry_points(group="wal_tracker.destinations")
    if point.dist is not None and point.dist.name == "wal_tracker"
)


def code() -> str:
    """Everything the pages set as code."""
    text = "\n".join(page.read_text() for page in PAGES)
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))


def is_documented(name: str, where: str) -> bool:
    """Whether a name stands there by itself, not as a part of another."""
    return re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", where) is not None


def every_command() -> Iterator[str]:
    """Commands, and those of groups as ``dlq list``."""
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        yield from ([f"{name} {inner}" for inner in command.commands] if isinstance(command, click.Group) else [name])


def section(heading: str) -> dict[str, list[str]]:
    """The table under a heading of configuration.md: its rows by the key in their first cell."""
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", CONFIGURATION, re.MULTILINE | re.DOTALL)
    assert match, f"no heading {heading}"
    rows = [row for row in cells(match[1]) if row[0].startswith("`")]
    return {row[0].strip("`"): row[1:] for row in rows}


def cells(text: str) -> list[list[str]]:
    """The rows of the tables in a text."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def shown(default: Any) -> str:
    """A default as the pages write it."""
    if default is dataclasses.MISSING:
        return "required"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, (int, float)):
        return str(int(default)) if default == int(default) else str(default)
    return default or "none"


def allowed(metadata: Any) -> str:
    """What a key of `delivery` may be, as the page writes it."""
    if "choices" in metadata:
        return " or ".join(f"`{word}`" for word in metadata["choices"])
    return "a directory" if "text" in metadata else f"{shown(metadata['low'])} to {shown(metadata['high'])}"


def defaults(config: type) -> dict[str, str]:
    """Every field of a dataclass and its default as the pages write it."""
    return {
        field.name: "none" if field.default_factory is not dataclasses.MISSING else shown(field.default)
        for field in dataclasses.fields(config)
    }


FAILPOINTS = [*failpoints.NAMES, *failpoints.SPOOL_NAMES, *failpoints.SWITCH_NAMES, *failpoints.STATE_NAMES]


@pytest.mark.parametrize("name", [*every_command(), *DESTINATIONS, *FAILPOINTS, *SEARCHED])
def test_a_name_is_documented(name: str) -> None:
    """Commands, destinations, failpoints and the files that are looked for stand somewhere as code."""
    assert is_documented(name, code())


def test_every_environment_variable_is_documented() -> None:
    """All that the program, and the support of its tests, ask the environment for."""
    asking = re.compile(r'(?:env|environ)(?:\.get\(|\[)"([A-Z_]+)"|envvar="([A-Z_]+)"')
    roots = [ROOT / "wal_tracker", ROOT / "plugins", ROOT / "tests" / "support"]
    files = [path for root in roots for path in root.rglob("*.py")]
    asked = {name for path in files for found in asking.findall(path.read_text()) for name in found if name}
    assert {"DATABASE_URL", "WAL_TRACKER_CONFIG", "WT_TEST_PG"} <= asked
    assert [name for name in sorted(asked) if not is_documented(name, code())] == []


def test_every_exit_code_is_documented() -> None:
    """What errors leave with, and what the command line adds; in the README as in `--help`."""
    codes = {0, 130, *(one.exit_code for one in vars(errors).values() if hasattr(one, "exit_code"))}
    (line,) = re.findall(r"^Exit codes: .*", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert codes == {int(number) for number in re.findall(r"\b(\d+) (?!and)", line)}
    helped = commands.run("--help").stdout
    assert all(re.search(rf"\b{code} ", helped.split("Exit codes:")[1]) for code in codes)


def test_the_top_level_keys_are_the_ones_there_are() -> None:
    """None is left out, none invented."""
    assert set(section("Top level")) == set(SECTIONS)


def test_source_keys_have_their_true_defaults() -> None:
    """The dsn's default is an environment variable."""
    told = {key.removeprefix("source."): cells[0].strip("`") for key, cells in section("`source`").items()}
    assert told == {**defaults(SourceConfig), "dsn": "$DATABASE_URL"}


def test_delivery_keys_have_their_true_defaults_and_bounds() -> None:
    """And those a destination may set for itself are marked."""
    told = {key.removeprefix("delivery."): cells for key, cells in section("`delivery`").items()}
    limits = {field.name: allowed(field.metadata) for field in dataclasses.fields(DeliveryConfig)}
    assert {key: cells[0].strip("`") for key, cells in told.items()} == defaults(DeliveryConfig)
    assert {key: cells[1] for key, cells in told.items()} == limits
    assert {key for key, cells in told.items() if cells[2].startswith("*own*")} == PER_DESTINATION


def test_dead_letters_keys_have_their_true_defaults_and_bounds() -> None:
    """A number within bounds, and a word of two."""
    told = {key.removeprefix("dead_letters."): cells for key, cells in section("`dead_letters`").items()}
    fields = {field.name: field for field in dataclasses.fields(DeadLettersConfig)}
    assert {key: cells[0].strip("`") for key, cells in told.items()} == defaults(DeadLettersConfig)
    bounds = fields["max_letters"].metadata
    assert told["max_letters"][1] == f"{bounds['low']} to {bounds['high']}"
    words = get_args(get_type_hints(DeadLettersConfig)["at_bound"])
    assert told["at_bound"][1] == " or ".join(f"`{word}`" for word in words)


def test_what_is_told_of_the_commands_for_dead_letters_is_true() -> None:
    """Every filter is there, on every command that chooses letters; and how much of an answer is kept."""
    page = (ROOT / "docs" / "guarantees.md").read_text().split("## Dead letters")[1].split("\n## ")[0]
    filters = set(re.findall(r"`(--[a-z]+)`", page)) - {"--yes"}
    group = cli.get_command(click.Context(cli), "dlq")
    assert isinstance(group, click.Group)
    for name, command in group.commands.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert name == "show" or filters <= options
    assert f"the first {http._TOLD_CHARACTERS} characters" in page
    assert pipeline.LETTERS_RETRY_S == 2.0 and "within `delivery.retry_cap_s`, or two seconds" in CONFIGURATION


def test_the_bounds_in_the_prose_are_true() -> None:
    """Of files and expressions."""
    told = f"{bounds.MAX_BYTES:,} bytes, {bounds.MAX_DEPTH} levels, {bounds.MAX_NODES:,} values"
    assert told in CONFIGURATION
    assert f"up to {RETRY_AFTER_CAP_S:g} s" in CONFIGURATION
    assert f"at most {syntax.MAX_LENGTH} characters and {syntax.MAX_DEPTH} levels" in RULES
    assert len(runtime.NESTED_LIMITS) == 3 and "comprehensions nest three deep" in RULES


def test_where_raw_changes_may_go_is_true() -> None:
    """The kinds named beside `raw_db_event_destinations` are those that take them."""
    (_, text) = section("Top level")["raw_db_event_destinations"]
    assert set(re.findall(r"`(\w+)`", text)) == {kind for kind in DESTINATIONS if registry.load(kind).accepts_raw}  # type: ignore[attr-defined]


def test_the_keys_of_a_destination_are_the_ones_there_are() -> None:
    """Without the options of its kind; and the lists of properties are named."""
    table = section("An entry under `destinations`")
    ours = {field.name for field in dataclasses.fields(DestinationConfig)} - {"name", "options", "path", "begin"}
    assert set(table) == {*ours, "from"}
    (begin,) = [field for field in dataclasses.fields(DestinationConfig) if field.name == "begin"]
    words = get_args(get_type_hints(DestinationConfig)["begin"])
    assert table["from"][0] == f"`{begin.default}`" and all(f"`{word}`" in table["from"][1] for word in words)
    assert set(re.findall(r"`(\w+)`", table["properties"][1])) == {f.name for f in dataclasses.fields(PropertyLists)}


def test_the_example_of_a_destination_is_one(tmp_path: Path) -> None:
    """It loads, and its `when` compiles."""
    text = CONFIGURATION.split("## An entry under `destinations`")[1].split("```yaml")[1].split("```")[0]
    (tmp_path / "key").write_text("phc_k")
    loaded = load.read(re.sub(r"file:\S+", f"file:{tmp_path}/key", text).encode(), {})
    assert check(loaded, pgtypes.TypeCatalog()) == []
    (entry,) = loaded.destinations
    assert entry.when is not None and entry.properties is not None


def test_the_keys_of_a_rule_are_the_ones_there_are() -> None:
    """None is left out, none invented."""
    assert set(section("A rule under `track`")) == {*SIMPLE, *CONDITIONAL}


def test_every_function_of_rules_is_documented() -> None:
    """Functions and methods; and every one the table names can be called."""
    table = RULES.split("## Functions")[1].split("## Examples")[0]
    there = {*functions.FUNCTIONS, *functions.METHODS}
    macros = {"has", "all", "exists", "exists_one", "existsOne", "map", "filter", "coalesce", "hash", "unchanged"}
    told = {name for name in re.findall(r"`([\w.]+)[`(]", table) if name != "hash_key"}
    assert told - {"now", "is"} == there | macros


def test_types_are_what_the_table_says() -> None:
    """Every type named in the first column is to CEL what the second says."""
    types = pgtypes.TypeCatalog()
    _, *rows = cells(RULES.split("## Types")[1].split("## NULL")[0])
    mixing = {"numeric": "numeric", "json": "json", "jsonb": "json"}
    seen = 0
    for names, cel, *_ in rows:
        for name in map(str.strip, names.split(",")):
            known = types.parse_name(name)
            if known is not None:
                seen += 1
                assert types.cel_type(known[0]) == mixing.get(name, cel.split()[0].rstrip(",;")), name
    assert seen >= 18


def _examples() -> Iterator[tuple[str, str]]:
    block = re.search(r"^```text\n(.*?)^```", RULES, re.MULTILINE | re.DOTALL)
    assert block
    for line in block[1].splitlines():
        expression, _, told = line.rpartition(" → ")
        yield expression.strip(), told.strip()


@pytest.mark.parametrize(("expression", "told"), list(_examples()))
def test_an_example_gives_what_is_told(expression: str, told: str, tmp_path: Path) -> None:
    """By `eval`, on the row of the page."""
    row = re.search(r"^```json\n(.*?)^```", RULES, re.MULTILINE | re.DOTALL)
    assert row
    change = json.loads(row[1])
    rule = {"event": "example", "properties": {"value": expression}}
    config, schema = tmp_path / "wal_tracker.yaml", tmp_path / "schema.yaml"
    config.write_text(yaml.safe_dump({"track": {"users.update": rule}}))
    schema.write_text(yaml.safe_dump({"users": change["types"]}))

    done = commands.run("-c", str(config), "eval", "--changes", "-", "--schema", str(schema), stdin=json.dumps(change))

    kind, _, said = told.partition(": ")
    if kind == "refused":
        assert done.code == 2 and said in done.stderr
    elif kind == "rule error":
        assert done.code == 1 and said in done.stderr
    else:
        assert done.code == 0, done.stderr
        assert f'"properties":{{"value":{told}}}' in done.stdout


def test_the_rules_about_persons_and_groups_make_what_is_told(tmp_path: Path) -> None:
    """By `eval`, on the row of the page."""
    change = json.loads(re.findall(r"^```json\n(.*?)^```", RULES, re.MULTILINE | re.DOTALL)[0])
    section = RULES.split("## Who somebody is")[1].split("\n## ")[0]
    config = tmp_path / "wal_tracker.yaml"
    config.write_text(section.split("```yaml\n")[1].split("```")[0])
    told = [json.loads(line) for line in section.split("```json\n")[1].split("```")[0].splitlines()]

    done = commands.run("-c", str(config), "eval", "--changes", "-", stdin=json.dumps(change))

    assert done.code == 0, done.stderr
    left_out = {"id", "timestamp", "source"}
    assert [{key: event[key] for key in event if key not in left_out} for event in done.lines()] == told
