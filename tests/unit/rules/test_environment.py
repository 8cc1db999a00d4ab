"""What a rule's expressions may name."""

from __future__ import annotations

import pytest

from wal_tracker import cel
from wal_tracker.config.load import read
from wal_tracker.rules.environment import environment


def compiled(key: str, source: str) -> cel.Program:
    """An expression of a rule over `key`."""
    (rule,) = read(f"track: {{{key}: {{event: a}}}}".encode(), {}).rules
    return cel.compile(source, environment(rule, {"id": "int"}, hash_key=None))


@pytest.mark.parametrize(
    ("key", "row"), [("users.insert", "new"), ("users.update", "new"), ("users.delete", "old"), ("'users.*'", "new")]
)
def test_the_tables_name_is_the_row(key: str, row: str) -> None:
    """As pg_track_events' own `init` writes it: `new`, and `old` of a delete."""
    assert compiled(key, "users.id").columns == frozenset({(row, "id")})


@pytest.mark.parametrize("table", ["new", "old", "change", "ctx"])
def test_a_table_that_is_called_as_a_variable_does_not_hide_it(table: str) -> None:
    """The variable's own name goes first."""
    assert compiled(f"{table}.insert", "new.id").columns == frozenset({("new", "id")})


def test_columns_of_the_tables_name_are_checked_too() -> None:
    """An alias is no way round the name check."""
    with pytest.raises(cel.CelCheckError, match="idd"):
        compiled("users.insert", "users.idd")


def test_a_message_has_no_rows() -> None:
    """`message` is what there is."""
    with pytest.raises(cel.CelCheckError):
        compiled("message.audit", "new.id")
    assert compiled("message.audit", "message.data.id").variables == frozenset({"message"})
