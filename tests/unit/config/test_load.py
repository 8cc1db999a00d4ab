"""From a file to a `Config`: which file, every section, and what is said of each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from wal_tracker.config.load import load, read
from wal_tracker.config.model import Config, DeadLettersConfig, DeliveryConfig
from wal_tracker.errors import ConfigError

ENV = {"DATABASE_URL": "postgresql://me:geheim@db/shop", "KEY": "phc_geheim", "PORT": "8080"}


def config(text: str, env: dict[str, str] | None = None, name: str = "c.yaml") -> Config:
    """Read a configuration."""
    return read(text.encode(), ENV if env is None else env, path=Path(name))


def refused(text: str, env: dict[str, str] | None = None) -> str:
    """What is said of a configuration that is not taken."""
    with pytest.raises(ConfigError) as caught:
        config(text, env)
    return str(caught.value)


# Which file --------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_file_named_wins_then_the_variable_then_our_name_then_theirs(directory: Path) -> None:
    """--config, WAL_TRACKER_CONFIG, wal_tracker.yaml, pg_track_events' two places."""
    (directory / "pg_track_events").mkdir()
    places = [
        "pg_track_events.config.yaml",
        "pg_track_events/pg_track_events.config.yaml",
        "wal_tracker.yaml",
    ]
    for place in places:
        Path(place).write_text("track: {}")
        assert load(None, {}).path == Path(place)
    Path("other.yaml").write_text("track: {}")
    assert load(None, {"WAL_TRACKER_CONFIG": "other.yaml"}).path == Path("other.yaml")
    assert load(Path("wal_tracker.yaml"), {"WAL_TRACKER_CONFIG": "other.yaml"}).path == Path("wal_tracker.yaml")


def test_without_any_file_it_says_where_it_looked(directory: Path) -> None:
    """And how to name one."""
    with pytest.raises(ConfigError, match=r"wal_tracker.yaml.*pg_track_events.*--config"):
        load(None, {})


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_a_file_that_cannot_be_read_is_named(directory: Path, name: str) -> None:
    """A directory is not a file either."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Path(name), {})


# Sections ----------------------------------------------------------------------------------------


def test_dead_letters_have_a_bound_and_a_policy() -> None:
    """Either may be set; what is neither is refused with its place."""
    assert config("track: {}\ndead_letters: {max_letters: 5, at_bound: shed}").dead_letters == DeadLettersConfig(
        max_letters=5, at_bound="shed"
    )
    assert config("track: {}\ndead_letters: {max_letters: 5}").dead_letters.at_bound == "hold"
    assert "dead_letters.at_bound: is 'drop'" in refused("track: {}\ndead_letters: {at_bound: drop}")
    assert "from 1 to 100,000,000" in refused("track: {}\ndead_letters: {max_letters: 0}")
    assert "did you mean 'max_letters'?" in refused("track: {}\ndead_letters: {max_leters: 5}")


def test_everything_has_a_default() -> None:
    """The smallest configuration is a track section; the connection comes from DATABASE_URL."""
    made = config("track: {}")

    assert made.source.dsn.reveal() == ENV["DATABASE_URL"]
    assert (made.source.slot, made.source.publication, made.source.schema) == ("wal_tracker", "wal_tracker", "public")
    assert made.state.reveal() == "sqlite:///wal_tracker.db"
    assert made.delivery == DeliveryConfig()
    assert made.dead_letters == DeadLettersConfig(max_letters=100_000, at_bound="hold")
    assert (made.rules, made.destinations, made.raw_destinations, made.warnings) == ((), (), (), ())


def test_a_whole_configuration_is_read() -> None:
    """Every section, once."""
    made = config(
        """
        source:
          {dsn: $DATABASE_URL, primary_dsn: "host=p", plugin: wal2json, slot: s_1, publication: My Pub, schema: app}
        delivery: {linger_s: 0.5, max_batch_events: 10, shutdown_timeout_s: 5}
        state: postgresql://u:geheim@h/d
        numeric: {default: string, orders.total: double, columns: {x.y.z: double}}
        hash_key: ${KEY}
        ignore: {users: [a, b], sessions: "*", '"odd.schema".t': x*}
        """.replace("x*", '"*"')
    )

    assert made.source.primary_dsn is not None and made.source.primary_dsn.reveal() == "host=p"
    assert (made.source.plugin, made.source.slot, made.source.publication) == ("wal2json", "s_1", "My Pub")
    assert (made.delivery.linger_s, made.delivery.max_batch_events, made.delivery.shutdown_timeout_s) == (0.5, 10, 5)
    assert made.state.reveal() == "postgresql://u:geheim@h/d"
    assert made.numeric.of("app", "orders", "total") == "double"
    assert made.numeric.of("x", "y", "z") == "double"
    assert made.numeric.of("app", "orders", "tax") == "string"
    assert made.hash_key is not None and made.hash_key.reveal() == "phc_geheim"
    assert made.ignore == {
        ("app", "users"): frozenset({"a", "b"}),
        ("app", "sessions"): "*",
        ("odd.schema", "t"): "*",
    }


def test_no_secret_shows_when_a_configuration_is_printed() -> None:
    """DSN, state URL, hash key and destination options are all in a traceback's reach."""
    made = config("state: postgresql://u:geheim@h/d\nhash_key: $KEY\ndestinations: {posthog: {apiKey: $KEY}}\n")

    assert "geheim" not in repr(made) + str(made) + f"{made}"


def test_a_destination_is_its_key_or_its_kind() -> None:
    """Two webhooks are two entries; what the loader knows is taken out of the options."""
    made = config(
        """
        delivery: {linger_s: 1}
        destinations:
          posthog: {apiKey: $KEY, filter: "user_*"}
          audit:
            {kind: file, path: a.jsonl, filter: [a, b], delivery: {linger_s: 2}, nested: {port: "${PORT}", on: [1, no]}}
          stdout:
        raw_db_event_destinations:
          stdout: {}
        """
    )
    posthog, audit, stdout = made.destinations

    assert (posthog.name, posthog.kind, posthog.filter, posthog.path) == (
        "posthog", "posthog", ("user_*",), "destinations.posthog",
    )  # fmt: skip
    assert posthog.options == {"apiKey": "phc_geheim"}
    assert (audit.kind, audit.filter, audit.delivery.linger_s) == ("file", ("a", "b"), 2)
    assert audit.options == {"path": "a.jsonl", "nested": {"port": "8080", "on": [1, "no"]}}
    assert (posthog.delivery.linger_s, stdout.options) == (1, {})
    assert [raw.path for raw in made.raw_destinations] == ["raw_db_event_destinations.stdout"]


def test_the_default_connection_written_out_is_the_default() -> None:
    """`dsn: $DATABASE_URL` needs no variable until a database is needed: `validate` and `eval` work without one."""
    assert config("source: {dsn: $DATABASE_URL}", {}).source.dsn.reveal() == ""
    assert "OTHER_URL is not set" in refused("source: {dsn: $OTHER_URL}", {})


def test_a_number_may_come_from_the_environment() -> None:
    """Text that reads as one is one."""
    assert config("delivery: {max_batch_events: $PORT, linger_s: '${LINGER:-0.25}'}").delivery == DeliveryConfig(
        max_batch_events=8080, linger_s=0.25
    )


def test_a_dollar_sign_inside_a_text_stays_and_is_warned_of() -> None:
    """pg_track_events does not interpolate there; who meant it learns how."""
    made = config("destinations: {posthog: {apiKey: pre$KEY}}")

    assert made.destinations[0].options == {"apiKey": "pre$KEY"}
    (warning,) = made.warnings
    assert "destinations.posthog.apiKey" in warning and "${KEY}" in warning and "geheim" not in warning


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "c.yaml: is empty"),
        ("- a", "c.yaml:1:1: must be a mapping"),
        ("trakc: {}", "c.yaml:1:1: trakc: is not a setting; did you mean 'track'?"),
        ("kafka: {}", "c.yaml:1:1: kafka: is not in this version yet"),
        ("http: {port: 1}", "http: is not in this version yet"),
        ("source: x", "c.yaml:1:1: source: must be a mapping"),
        ("source: {mod: wal}", "c.yaml:1:10: source.mod: is not a setting; did you mean 'mode'?"),
        ("source: {mode: wall}", "source.mode: is 'wall'; did you mean 'wal'?"),
        ("source: {plugin: decoderbufs}", "source.plugin: is 'decoderbufs'; there are pgoutput and wal2json"),
        ("source: {capture: lenient}", "source.capture: is 'lenient'; there are tolerant and strict"),
        ("source: {slot: My-Slot}", "source.slot: is 'My-Slot'; a slot name has at most 63 of a-z, 0-9 and _"),
        ("source: {schema: [a]}", "source.schema: must be a single value"),
        ("source: {publication: ''}", "source.publication: must not be empty"),
        ("delivery: {linger_s: soon}", "delivery.linger_s: must be a number from 0 to 3,600"),
        ("delivery: {linger_s: true}", "delivery.linger_s: must be a number"),
        ("delivery: {linger_s: .nan}", "delivery.linger_s: must be a number"),
        ("delivery: {linger_s: 1e99}", "delivery.linger_s: must be a number"),
        ("delivery: {max_batch_events: 0}", "delivery.max_batch_events: must be a number from 1 to 1,000,000"),
        ("delivery: {max_batch_events: 1.5}", "delivery.max_batch_events: must be a whole number"),
        ("delivery: {retry_base_s: 9, retry_cap_s: 3}", "retry_cap_s (3) is less than retry_base_s (9)"),
        ("delivery: {lingerS: 1}", "delivery.lingerS: is not a setting; did you mean 'linger_s'?"),
        ("destinations: {a: {delivery: {stall_timeout_s: 1}}}",
         "destinations.a.delivery.stall_timeout_s: holds for all destinations together"),
        ("destinations: [stdout]", "destinations: must be a mapping"),
        ("destinations: {posthog: x}", "destinations.posthog: must be a mapping"),
        ("destinations: {posthog: {apiKey: $NOPE}}",
         "c.yaml:1:26: destinations.posthog.apiKey: the environment variable NOPE is not set"),
        ("destinations: {posthog: {filter: [[a]]}}", "destinations.posthog.filter[0]: must be a single value"),
        ("state: mysql://x", "state: is not a state store; write sqlite:///FILE or postgresql://"),
        ("state: 'sqlite:///'", "state: is not a state store"),
        ("numeric: decimal", "numeric: is 'decimal'; there are double and string"),
        ("numeric: {defualt: string}", "numeric.defualt: is not a setting"),
        ("numeric: {columns: {total: string}}", "numeric.columns.total: is not a column; write table.column"),
        ("hash_key: ''", "hash_key: must not be empty"),
        ("ignore: {users: all}", 'ignore.users: is "*" for the whole table, or a list'),
        ("ignore: {a.b.c: '*'}", "ignore.a.b.c: is not a table"),
        ("ignore: {users: [a], public.users: [b]}", "ignore.public.users: names the table public.users a second time"),
        ("ignore: {users: '*'}\ntrack: {users.insert: {event: e}}",
         "c.yaml:2:9: track.users.insert: table 'users' is tracked here and ignored as a whole"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place_and_what_is_accepted(text: str, says: str) -> None:
    """Place first, then what is wrong, then the remedy; one sentence."""
    assert says in refused(text)


@pytest.mark.parametrize("text", ["state: mysql://u:geheim@x", "source: {slot: $KEY-x, dsn: 'geheim '}"])
def test_no_message_repeats_a_url(text: str) -> None:
    """It may hold a password."""
    assert "geheim" not in refused(text)


def test_a_pg_track_events_file_runs_with_a_block_missing() -> None:
    """Its README's own example names a block that is not there: a warning, by the file's name."""
    text = """
track:
  users.update:
    cond: "new.a ? events.known : events['user_updated']"
    known: {id: new.id}
"""
    made = config(text, name="pg_track_events/pg_track_events.config.yaml")

    assert dict(made.rules[0].blocks)["user_updated"] == {}
    (warning,) = made.warnings
    assert "'user_updated'" in warning and "line 4" in warning
    assert list(config(text).rules[0].blocks) == ["known"]
