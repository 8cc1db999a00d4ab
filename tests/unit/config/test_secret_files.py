"""`file:PATH`: where it is read, and what is said when it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from wal_tracker.config.load import read
from wal_tracker.errors import ConfigError

CANARY = "canary-5ecret"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A file with a secret and a newline."""
    path = tmp_path / "key"
    path.write_text(CANARY + "\n")
    return path


def test_a_file_stands_where_a_secret_may(key: Path, tmp_path: Path) -> None:
    """Options at any depth, both DSNs, the state and the hash key."""
    state = tmp_path / "state"
    state.write_text("sqlite:////tmp/x.db\n")
    config = read(
        f"""
source: {{dsn: "file:{key}", primary_dsn: 'file:{key}'}}
state: file:{state}
hash_key: file:{key}
destinations:
  webhook: {{url: https://x, secret: file:{key}, previous_secrets: [file:{key}], headers: {{X-Key: file:{key}}}}}
raw_db_event_destinations:
  file: {{path: file:{key}}}
""".encode(),
        {},
    )
    assert config.source.primary_dsn is not None and config.hash_key is not None
    assert [config.source.dsn.reveal(), config.source.primary_dsn.reveal(), config.hash_key.reveal()] == [CANARY] * 3
    assert config.state.reveal() == "sqlite:////tmp/x.db"
    (entry,) = config.destinations
    assert entry.options == {
        "url": "https://x",
        "secret": CANARY,
        "previous_secrets": [CANARY],
        "headers": {"X-Key": CANARY},
    }
    assert config.raw_destinations[0].options == {"path": CANARY}
    assert CANARY not in repr(config)


def test_the_path_may_have_variables(key: Path) -> None:
    """As systemd's $CREDENTIALS_DIRECTORY."""
    text = b"destinations: {stdout: {a: 'file:${CREDENTIALS_DIRECTORY}/key',"
    text += b" b: 'file:${DIR:-${CREDENTIALS_DIRECTORY}}/key'}}"

    (entry,) = read(text, {"CREDENTIALS_DIRECTORY": str(key.parent)}).destinations

    assert entry.options == {"a": CANARY, "b": CANARY}


def test_a_variables_value_names_no_file(key: Path) -> None:
    """Only what is written in the configuration does; so a text that begins like that can be written, too."""
    text = b"destinations: {stdout: {a: $PATH_OF, b: '${PATH_OF}', c: '${NO:-file:}x'}}"

    (entry,) = read(text, {"PATH_OF": f"file:{key}"}).destinations

    assert entry.options == {"a": f"file:{key}", "b": f"file:{key}", "c": "file:x"}


def test_rules_and_names_read_no_file(key: Path) -> None:
    """A rule, a filter, a slot are what is written."""
    text = f"track: {{a.insert: {{event: 'file:{key}', properties: {{x: \"'file:{key}'\"}}}}}}\n"
    text += f"destinations: {{stdout: {{filter: 'file:{key}'}}}}\n"

    config = read(text.encode(), {})

    assert config.rules[0].event == f"file:{key}"
    assert config.destinations[0].filter == (f"file:{key}",)


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"a\n", "a"),
        (b"a\r\n", "a"),
        (b"a\n\n", "a\n"),
        (b" a ", " a "),
        (b"a\nb\n", "a\nb"),
        (b"$HOME ${X}", "$HOME ${X}"),
    ],
)
def test_one_newline_at_the_end_goes(tmp_path: Path, content: bytes, kept: str) -> None:
    """Editors add one; everything else is the secret's."""
    (tmp_path / "key").write_bytes(content)

    (entry,) = read(f"destinations: {{stdout: {{a: file:{tmp_path}/key}}}}".encode(), {}).destinations

    assert entry.options == {"a": kept}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (CANARY.encode() + b"\xff", "is not UTF-8"),
        (CANARY.encode() * 6000, "is larger than 65536 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_not_quoted(tmp_path: Path, content: bytes | None, said: str) -> None:
    """With the place in the configuration; nothing of what the file holds."""
    if content is not None:
        (tmp_path / "key").write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        read(f"destinations:\n  stdout: {{secret: file:{tmp_path}/key}}".encode(), {})

    assert f"the file '{tmp_path}/key' {said}" in str(caught.value)
    assert (caught.value.path, caught.value.line) == ("destinations.stdout.secret", 2)
    assert CANARY not in str(caught.value)


def test_a_directory_is_no_secret(tmp_path: Path) -> None:
    """Also by the form of a URL, which a `file:` never is."""
    with pytest.raises(ConfigError, match="Is a directory"):
        read(f"hash_key: file://{tmp_path}".encode(), {})
