"""What one destination gets of an event."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import orjson
import pytest

from wal_tracker.config.load import read
from wal_tracker.config.model import Config
from wal_tracker.errors import ConfigError, RuleError, RuleEvaluationError
from wal_tracker.model import IDENTIFY, Deliverable, Event, Group, ProfileEvent, RawChange
from wal_tracker.pgtypes import TypeCatalog
from wal_tracker.rules.check import check
from wal_tracker.rules.recorded import Evaluation
from wal_tracker.rules.shape import Shape

KEY = "k3y"
SOURCE = {
    "op": "insert",
    "schema": "public",
    "table": "users",
    "commit_lsn": "0/1",
    "ordinal": 0,
    "xid": 7,
    "mode": "wal",
}


def config(entry: str) -> Config:
    """With one destination."""
    return read(f"destinations: {{there: {{kind: stdout, {entry}}}}}\nhash_key: {KEY}\n".encode(), {})


def shape(entry: str) -> Shape:
    """Of a destination with these keys."""
    made = Shape.of(config(entry).destinations[0], KEY.encode())
    assert made is not None
    return made


def event(name: str = "signup", distinct_id: str | None = "7", **properties: Any) -> Event:
    """Of a user."""
    return Event("the-id", name, distinct_id, "2026-01-02T03:04:05Z", properties, SOURCE)


def pseudonym(text: str) -> str:
    """By the standard library."""
    return hmac.new(KEY.encode(), text.encode(), hashlib.sha256).hexdigest()


def properties(made: Deliverable | None) -> Any:
    """As they are written."""
    assert made is not None
    return orjson.loads(made.to_json())["properties"]


def test_a_destination_that_asks_for_nothing_has_no_shape() -> None:
    """So that nothing is done for each of its events."""
    assert Shape.of(config("filter: '*'").destinations[0], None) is None


# when --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "passes"),
    [
        ("event == 'signup'", True),
        ("event.startsWith('team_')", False),
        ("distinct_id == '7'", True),
        ("distinct_id != null", True),
        ("properties.plan == 'pro' && properties.seats > 3", True),
        ("properties.price > 10", True),
        ("has(properties.nothing) && properties.nothing == 1", False),
        ("source.table == 'users' && source.op in ['insert', 'update']", True),
        ("source.prefix == ''", True),
        ("size(hash(distinct_id)) == 64", True),
    ],
)
def test_when_sees_the_event(when: str, passes: bool) -> None:
    """Its name, distinct_id, properties and source; digits kept exact are numbers here."""
    given = event(plan="pro", seats=5, price=orjson.Fragment(b"10.50"))

    made = shape(f'when: "{when}"')(given)

    assert (made is given) if passes else made is None


def test_when_of_nobodys_event() -> None:
    """A missing distinct_id is null."""
    assert shape('when: "distinct_id == null"')(event(distinct_id=None)) is not None


@pytest.mark.parametrize("when", ["properties.plan == 'pro'", "properties.seats", "1 / (properties.seats - 5) > 0"])
def test_a_when_that_has_no_answer_is_an_error(when: str) -> None:
    """Neither let through nor dropped; the reason names the place, and no value."""
    with pytest.raises(RuleEvaluationError) as caught:
        shape(f'when: "{when}"')(event(seats=5, name="canary"))

    assert caught.value.rule == "destinations.there.when"
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("evnt == 'a'", "evnt"),
        ("source.tabel == 'a'", "tabel"),
        ("event == 1", "1:"),
        ("event", "bool"),
        ("event ==", "1:"),
    ],
)
def test_a_when_that_cannot_be_is_refused_with_its_place(when: str, said: str) -> None:
    """Names and types, before anything runs; by `validate`, too."""
    configured = config(f'when: "{when}"')
    (problem,) = check(configured, TypeCatalog())

    assert (problem.severity, problem.path, problem.line) == ("error", "destinations.there.when", 1)
    assert problem.column > 1 and said in problem.message
    with pytest.raises(RuleError):
        Shape.of(configured.destinations[0], None)


# Lists -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lists", "left"),
    [
        ("allow: [plan, 'utm_*']", ["plan", "utm_source"]),
        ("allow: plan", ["plan"]),
        ("allow: []", []),
        ("deny: [email, '*_ip']", ["plan", "utm_source", "nested"]),
        ("allow: ['*'], deny: [plan]", ["email", "last_ip", "utm_source", "nested"]),
        ("deny: ['*', '!plan']", ["plan"]),
        ("deny: [inner]", ["plan", "email", "last_ip", "utm_source", "nested"]),
    ],
)
def test_lists_choose_properties_by_name(lists: str, left: list[str]) -> None:
    """At the top level; what is denied goes though it is allowed; the order is kept."""
    given = event(plan="pro", email="a@b", last_ip="1.2.3.4", utm_source="x", nested={"inner": 1})

    made = shape(f"properties: {{{lists}}}")(given)

    assert list(properties(made)) == left
    assert list(given.properties) == ["plan", "email", "last_ip", "utm_source", "nested"]


def test_everything_but_the_properties_stays() -> None:
    """Id, name, moment and source; and the event of the other destinations is another one."""
    given = event(plan="pro", email="a@b")
    shared = given.to_json()

    made = shape("properties: {deny: [email]}")(given)

    assert made is not None and made is not given
    assert given.to_json() is shared
    assert made.to_json() == shared.replace(b',"email":"a@b"', b"")


def test_an_event_that_loses_nothing_is_itself() -> None:
    """Its JSON is written once for all destinations."""
    given = event(plan="pro")

    assert shape("properties: {deny: [email], hash: [phone]}")(given) is given


@pytest.mark.parametrize(
    ("name", "group", "left"),
    [(IDENTIFY, None, None), (IDENTIFY, Group("team", "7", {}), "group"), ("signup", None, "event")],
)
def test_traits_that_are_all_dropped_are_nothing_to_say_of_a_person(
    name: str, group: Group | None, left: str | None
) -> None:
    """An event that had nothing else to say is not sent at all; no vendor is told of a person without traits."""
    told = ProfileEvent("the-id", name, "7", "2026-01-02T03:04:05Z", {}, SOURCE, {"email": "a@b"}, group)

    made = shape("properties: {deny: [email]}")(told)

    if left is None:
        assert made is None
        return
    assert isinstance(made, Event)
    assert (made.name, made.identify, made.group) == (name, None, group)
    assert "identify" not in orjson.loads(made.to_json())


def test_hash_gives_the_pseudonym_of_a_rule() -> None:
    """A number and its text alike; null stays null."""
    price, tags = orjson.Fragment(b"10.50"), {"b": 1, "a": [1.5]}
    given = event(user_id=7, team_id=None, phone="+49", price=price, tags=tags, plan="pro")

    made = shape("properties: {hash: ['*_id', phone, price, tags]}")(given)

    assert made is not None and made.distinct_id == pseudonym("7")
    assert properties(made) == {
        "user_id": pseudonym("7"),
        "team_id": None,
        "phone": pseudonym("+49"),
        "price": pseudonym("10.5"),
        "tags": pseudonym('{"a":[1.5],"b":1}'),
        "plan": "pro",
    }


def test_a_pseudonym_of_a_destination_joins_with_that_of_a_rule() -> None:
    """Whatever the column's type: the same value through `hash()` in a rule, and through the list."""
    row = '{"id": 7, "email": "a@b", "score": 1.25, "ok": true, "nothing": null}'
    names = ["id", "email", "score", "ok", "nothing"]
    tracked = {name: f"new.{name}" for name in names}
    hashed = {name: f"hash(new.{name})" for name in names}
    rules = [
        {"name": "plain", "event": "plain", "properties": tracked},
        {"name": "hashed", "event": "hashed", "properties": hashed},
    ]
    made = read(orjson.dumps({"track": {"users.insert": rules}, "hash_key": KEY}), {})
    plain, by_rule = Evaluation(made, TypeCatalog(), None).of(
        f'{{"op":"insert","table":"users","new":{row}}}'.encode()
    )
    assert isinstance(plain, Event) and isinstance(by_rule, Event)

    assert properties(shape("properties: {hash: ['*']}")(plain)) == properties(by_rule)


@pytest.mark.parametrize(("lists", "hashed"), [("hash: [distinct_id]", True), ("hash: ['*', '!distinct_id']", False)])
def test_distinct_id_is_hashed_by_its_name(lists: str, hashed: bool) -> None:
    """And by no list let through or taken out."""
    made = shape(f"properties: {{deny: [distinct_id], {lists}}}")(event(plan="pro"))

    assert made is not None and made.distinct_id == (pseudonym("7") if hashed else "7")


def test_a_raw_change_is_shaped_in_all_its_rows() -> None:
    """Columns of key, old and new, and the names of those that were not resent."""
    document = {
        "op": "update",
        "key": {"id": 1},
        "old": {"id": 1, "email": "a@b", "phone": None},
        "new": {"id": 1, "email": "c@d", "phone": "+49"},
        "unchanged": ["avatar", "secret_note"],
        "xid": 7,
        "context": {"email": "by"},
    }
    given = RawChange("the-id", "public.users.update", "2026-01-02T03:04:05Z", document, SOURCE)

    made = shape("properties: {deny: [email, 'secret_*'], hash: [id, phone]}")(given)

    assert made is not None and (made.id, made.name, made.source) == (given.id, given.name, given.source)
    assert orjson.loads(made.to_json()) == {
        "op": "update",
        "key": {"id": pseudonym("1")},
        "old": {"id": pseudonym("1"), "phone": None},
        "new": {"id": pseudonym("1"), "phone": pseudonym("+49")},
        "unchanged": ["avatar"],
        "xid": 7,
        "context": {"email": "by"},
    }
    assert document["new"] == {"id": 1, "email": "c@d", "phone": "+49"}


def test_a_raw_inserts_missing_rows_stay_missing() -> None:
    """null is null."""
    document = {"key": {}, "old": None, "new": {"id": 1}, "unchanged": []}
    made = shape("properties: {deny: [x]}")(RawChange("i", "n", "", document, SOURCE))

    assert made is not None and orjson.loads(made.to_json()) == document


def test_hash_needs_a_key() -> None:
    """Said with its place."""
    with pytest.raises(ConfigError) as caught:
        read(b"destinations: {stdout: {properties: {hash: [email]}}}", {})

    assert str(caught.value) == (
        "line 1, column 38: destinations.stdout.properties.hash: needs a key; set the top-level `hash_key`"
    )


def test_a_list_that_is_none_is_refused() -> None:
    """With what was meant."""
    with pytest.raises(ConfigError, match="did you mean 'deny'"):
        read(b"destinations: {stdout: {properties: {denny: [email]}}}", {})


def test_a_pseudonym_beside_the_plain_id_is_told() -> None:
    """The property that names the user is hashed, and the distinct_id read from it is not."""
    text = "track: {{users.insert: {{event: e, properties: {{id: new.id}}}}}}\nhash_key: k\n{}"
    told = check(read(text.format("destinations: {stdout: {properties: {hash: [id]}}}").encode(), {}), TypeCatalog())
    quiet = check(
        read(text.format("destinations: {stdout: {properties: {hash: [id, distinct_id]}}}").encode(), {}), TypeCatalog()
    )

    assert [(p.severity, p.path) for p in told] == [("warning", "destinations.stdout.properties.hash")]
    assert quiet == []
