"""What a table's shape suggests."""

from __future__ import annotations

import pytest

from tests.support.tables import TYPES, table
from wal_tracker.draft.suggest import (
    Suggestion,
    is_bookkeeping,
    looks_secret,
    secret_columns,
    singular,
    subjects,
    suggest,
)
from wal_tracker.source.survey import SurveyedTable

USERS = {"id": "bigint", "email": "text", "name": "text", "hashed_password": "text", "plan": "text", "bio": "text"}
ORDERS = {"id": "bigint", "user_id": "bigint", "status": "order_status", "total": "numeric(10,2)", "note": "text"}


def rules(described: SurveyedTable, old_rows: bool = True) -> dict[str, Suggestion]:
    """The suggestions by event; one that chooses among several, by its condition."""
    found = suggest(described, TYPES, singular(described.name[1]), old_rows=old_rows)
    return {rule.event or rule.cond or "": rule for rule in found}


def test_users_sign_up_and_change_their_email() -> None:
    """With both addresses, and never with the password."""
    found = rules(table("users", USERS))

    assert set(found) == {"user_signed_up", "user_changed_email", "user_plan_changed", "user_deleted"}
    assert found["user_signed_up"].properties == {"id": "new.id", "email": "new.email", "plan": "new.plan"}
    assert found["user_changed_email"].when == "old.email != new.email"
    assert found["user_changed_email"].properties == {
        "id": "new.id",
        "previous_email": "old.email",
        "new_email": "new.email",
    }
    assert not any("password" in str(rule) for rule in found.values())


def test_a_state_that_is_known_is_an_event_of_its_own() -> None:
    """An enum's labels, or what a CHECK constraint admits; a state that is never null needs no question."""
    states = {"status": ("placed", "paid", "shipped")}
    (update,) = [rule for rule in rules(table("orders", ORDERS, values=states)).values() if rule.op == "update"]
    required = rules(table("orders", ORDERS, values=states, required=("status",)))

    assert update.cond == "old.status == new.status || new.status == null ? null : 'order_' + new.status"
    assert list(update.blocks) == ["order_placed", "order_paid", "order_shipped"]
    assert update.blocks["order_paid"] == {"id": "new.id", "user_id": "new.user_id", "from": "old.status"}
    assert "old.status == new.status ? null : 'order_' + new.status" in required


@pytest.mark.parametrize(
    "values", [{}, {"status": ("only",)}, {"status": ("a b", "c")}, {"status": tuple(f"s{n}" for n in range(99))}]
)
def test_a_state_that_is_not_known_is_one_event(values: dict[str, tuple[str, ...]]) -> None:
    """So are states that no event could be named after, and too many of them."""
    found = rules(table("orders", ORDERS, values=values))

    assert found["order_status_changed"].when == "old.status != new.status"
    assert found["order_status_changed"].properties["to"] == "new.status"


def test_a_state_of_something_names_it() -> None:
    """``payment_status`` of an order is not the order's status."""
    columns = {"id": "int", "payment_status": "text"}
    found = rules(table("orders", columns, values={"payment_status": ("open", "paid")}))

    assert any(list(rule.blocks) == ["order_payment_open", "order_payment_paid"] for rule in found.values())


@pytest.mark.parametrize(
    ("column", "kind", "event"),
    [
        ("accepted_at", "timestamptz", "invitation_accepted"),
        ("paid_on", "date", "invitation_paid"),
        ("emailVerifiedAt", "timestamp", "invitation_email_verified"),
        ("is_archived", "boolean", "invitation_archived"),
        ("deleted_at", "timestamptz", "invitation_deleted"),
        ("removed", "boolean", "invitation_deleted"),
    ],
)
def test_a_moment_that_is_noted_has_happened(column: str, kind: str, event: str) -> None:
    """When the column is filled, or becomes true."""
    found = rules(table("invitations", {"id": "int", column: kind}))[event]

    assert found.op == "update"
    assert found.when == (
        f"old.{column} != true && new.{column} == true"
        if kind == "boolean"
        else f"old.{column} == null && new.{column} != null"
    )


@pytest.mark.parametrize(
    "column", ["created_at", "updated_at", "last_logged_at", "expires_at", "scheduled_at", "at", "date", "red"]
)
def test_a_moment_every_row_has_or_that_lies_ahead_is_no_event(column: str) -> None:
    """Such a table is only said to be updated."""
    found = rules(table("things", {"id": "int", column: "timestamptz"}))

    assert set(found) == {"thing_created", "thing_updated", "thing_deleted"}


def test_a_soft_delete_takes_the_place_of_the_delete() -> None:
    """One event for what is one thing to people."""
    found = rules(table("posts", {"id": "int", "deleted_at": "timestamptz"}))

    assert [rule.op for rule in found.values()] == ["insert", "update"]


def test_the_same_is_not_said_twice() -> None:
    """The state `paid`, `paid_at` and `is_paid` are one event."""
    columns = {"id": "int", "is_paid": "boolean", "paid_at": "date", "status": "text"}
    found = suggest(table("bills", columns, values={"status": ("open", "paid")}), TYPES, "bill", old_rows=True)

    assert [rule.name for rule in found if rule.op == "update"] == ["status"]


def test_without_old_rows_a_delete_tells_its_key() -> None:
    """That is what the server sends of it."""
    found = rules(table("orders", ORDERS), old_rows=False)

    assert found["order_deleted"].properties == {"id": "old.id"}
    assert rules(table("orders", ORDERS))["order_deleted"].properties["total"] == "old.total"


def test_properties_are_identity_and_small_values() -> None:
    """No document, no long text, no generated column, no more than a handful."""
    columns = {"id": "int", "note": "text", "raw": "bytea", "tags": "text[]", "sum": "int", "ok": "bool"}
    found = rules(table("things", columns, generated=("sum",)))
    many = rules(table("things", {"id": "int", **{f"n{n}": "int" for n in range(50)}}))

    assert found["thing_created"].properties == {"id": "new.id", "ok": "new.ok"}
    assert len(many["thing_created"].properties) == 8


@pytest.mark.parametrize(
    ("name", "columns", "references", "expected"),
    [
        ("users", {"id": "int"}, {}, None),
        ("orders", {"id": "int", "user_id": "int"}, {}, None),
        ("orders", {"id": "int", "buyer": "int"}, {"buyer": ("public", "users")}, "new.buyer"),
        ("orders", {"id": "int", "customer_id": "int"}, {}, "new.customer_id"),
        ("customers", {"id": "int"}, {}, "new.id"),
        ("things", {"id": "int"}, {}, None),
    ],
)
def test_whom_an_event_is_about(
    name: str, columns: dict[str, str], references: dict[str, tuple[str, str]], expected: str | None
) -> None:
    """Said where the properties do not say it by themselves: by a foreign key to people, or a telling name."""
    inserted, *_ = suggest(table(name, columns, references=references), TYPES, name, old_rows=True)

    assert inserted.distinct_id == expected


@pytest.mark.parametrize(
    "column",
    ["password", "hashed_password", "passwordHash", "API_KEY", "apiKey", "access-token", "ssn", "reset_token", "cvv",
     "iban", "card_number", "session secret", "totp_seed", "encrypted_notes", "tax_id", "pwd"],
)  # fmt: skip
def test_a_secret_is_known_by_its_name(column: str) -> None:
    """In whatever style it is written; and is in no property."""
    described = table("things", {"id": "int", column: "int"})

    assert looks_secret(column)
    assert secret_columns(described) == [column]
    assert not any(column in str(rule) for rule in rules(described).values())


@pytest.mark.parametrize(
    "column", ["id", "email", "passenger", "hashtag", "shipping", "tokenized", "opinion"]
)
def test_a_word_that_only_contains_one_is_no_secret(column: str) -> None:
    """Words are compared, not letters."""
    assert not looks_secret(column)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("users", "user"),
        ("OrderItems", "order_item"),
        ("companies", "company"),
        ("addresses", "address"),
        ("boxes", "box"),
        ("statuses", "status"),
        ("status", "status"),
        ("people", "person"),
        ("news", "news"),
        ("movies", "movie"),
        ("team_members", "team_member"),
        ("my table", "my_table"),
        ("!!!", "row"),
    ],
)
def test_a_row_is_called_by_the_singular(name: str, expected: str) -> None:
    """As an event's name begins."""
    assert singular(name) == expected


def test_tables_of_one_name_are_told_apart() -> None:
    """By their schema; and by whatever it takes."""
    names = [("public", "orders"), ("archive", "orders"), ("public", "!"), ("public", "?"), ("public", "users")]
    found = subjects(names)

    assert found["archive", "orders"] == "archive_order"
    assert found["public", "users"] == "user"
    assert len(set(found.values())) == len(names)


def test_tables_of_migration_tools_are_known() -> None:
    """They say nothing about the business."""
    assert is_bookkeeping(("public", "alembic_version"))
    assert not is_bookkeeping(("public", "versions"))
