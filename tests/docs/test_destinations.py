"""The pages of docs/destinations, held against what makes them and against the classes they are about."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from docs import generate
from wal_tracker.config.load import read
from wal_tracker.destinations import registry
from wal_tracker.secret import Secret

KINDS = generate.first_party()


def page(kind: str) -> str:
    """As it is committed."""
    return (generate.FOLDER / f"{kind}.md").read_text()


def options(text: str) -> dict[str, tuple[str, str]]:
    """Of every table of a page: option to other spelling (or "") and default."""
    rows = re.findall(r"^\| `(\w+)`(?:, `(\w+)`)? \| [^|]+ \| `?([^|`]+)`? \| [^|].* \|$", text, re.MULTILINE)
    return {name: (camel, default) for name, camel, default in rows}


def shown(field: dataclasses.Field[Any]) -> str:
    """A default as the pages write it."""
    if field.default_factory is not dataclasses.MISSING:
        return "none"
    if field.default is dataclasses.MISSING:
        return "required"
    if isinstance(field.default, bool):
        return str(field.default).lower()
    if isinstance(field.default, (int, float)):
        return str(int(field.default)) if field.default == int(field.default) else str(field.default)
    return field.default or ("empty" if field.default == "" else "none")


def test_the_pages_are_what_the_classes_say() -> None:
    """`make docs` would change nothing, and leave no page over."""
    assert {path.name: path.read_text() for path in generate.FOLDER.glob("*.md")} == generate.pages()


def test_making_them_again_writes_only_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is wrong is mended, one of a kind that is gone is taken away."""
    monkeypatch.setattr(generate, "FOLDER", tmp_path / "docs" / "destinations")
    generate.FOLDER.mkdir(parents=True)
    (generate.FOLDER / "gone.md").write_text("an old kind")
    (generate.FOLDER / "stdout.md").write_text("wrong")
    generate.main()
    assert {path.name: path.read_text() for path in generate.FOLDER.glob("*.md")} == generate.pages()


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_is_there_with_its_true_default(kind: str) -> None:
    """None is left out, none invented; and the other spelling of each is one the registry reads."""
    config: Any = registry.load(kind).Config  # type: ignore[attr-defined]
    told = options(page(kind))
    assert {name: default for name, (_, default) in told.items()} == {
        field.name: shown(field) for field in dataclasses.fields(config)
    }
    for name, (camel, _) in told.items():
        assert (registry.camel_case(name) if camel else name) == (camel or registry.camel_case(name))


@pytest.mark.parametrize("kind", KINDS)
def test_limits_and_raw_changes_are_true(kind: str) -> None:
    """As the class has them."""
    loaded: Any = registry.load(kind)
    limits, text = loaded.limits, " ".join(page(kind).split())
    (events, number, unit) = re.findall(r"At most (\d+) events? and ([\d.]+) (\w+) a batch", text)[0]
    size = float(number) * {"MiB": 2**20, "KiB": 2**10, "MB": 1e6, "kB": 1e3}[unit]
    assert (int(events), size) == (limits.max_batch_events, limits.max_batch_bytes)
    assert (f"waits {limits.linger_s:g} s for more" in text) == (limits.linger_s > 0)
    assert (f"up to {limits.concurrency} batches on their way at once" in text) == (limits.concurrency > 1)
    assert ("Raw changes may go there, too." in text) == loaded.accepts_raw


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_is_one(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loads, and a destination is built of it, as it stands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("/nowhere/key.json")
    text = re.sub(r"file:\S+", f"file:{tmp_path}/secret", page(kind).split("```yaml\n")[1].split("```")[0])
    values = {name: VALUES.get(name, "a-secret") for name in re.findall(r"\$([A-Z_]+)", text)}
    (entry,) = read(text.encode(), values).destinations
    assert entry.kind == kind
    registry.build(entry.name, entry.kind, entry.options, entry.path).close()


VALUES = {
    "REDIS_URL": "redis://127.0.0.1:6379/0",
    "SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T0/B0/x",
    "WAREHOUSE_URL": "postgresql://user@127.0.0.1/warehouse",
    "WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}
"""Where not any text will do."""


def test_the_index_leads_to_every_kind() -> None:
    """With what has to be installed for it."""
    text = (generate.FOLDER / "README.md").read_text()
    assert re.findall(r"^\| \[`(\w+)`\]", text, re.MULTILINE) == KINDS
    assert "`pip install 'wal_tracker[bigquery]'`" in text


def test_a_field_without_a_word_is_refused() -> None:
    """A page is complete, or is not made."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config:
        """Options."""

        told: str = ""
        """What it says."""
        silent: Secret | None = None

    with pytest.raises(AssertionError, match="silent has no docstring"):
        generate._table(Config, list(dataclasses.fields(Config)))
