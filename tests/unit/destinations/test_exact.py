"""What an event says, for formats that are not its own JSON: no number loses a digit."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from wal_tracker.model import Event, Group, RawChange
from wal_tracker.testing import make_event
from wal_tracker_destinations.exact import exact_properties


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-9223372036854775808", -(2**63)),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", "9223372036854775808"),
        ("-9223372036854775809", "-9223372036854775809"),
        ("9" * 5000, "9" * 5000),
        ("79.00", 79.0),
        ("0.1", 0.1),
        ("0.30000000000000004", 0.30000000000000004),
        ("-0.0", -0.0),
        ("12345678901234567.89", "12345678901234567.89"),
        ("1e400", "1e400"),
        ("1e-400", "1e-400"),
        ("1e99999999999999999999", "1e99999999999999999999"),
        ("null", None),
        ("true", True),
        ('["1", {"a": null}]', ["1", {"a": None}]),
    ],
)
def test_a_number_is_exact_or_the_text_of_its_digits(text: str, value: Any) -> None:
    """An int of 64 bits, a double that reads back as the same number, or a text; NULL and truth stay what they are."""
    found = exact_properties(make_event(1, properties={"value": orjson.Fragment(text)}))["value"]

    assert (found, type(found)) == (value, type(value))


def test_what_is_read_is_what_is_stored() -> None:
    """A dead letter that is replayed keeps its digits in its JSON alone."""
    written = {"total": orjson.Fragment("12345678901234567.89"), "ratio": orjson.Fragment("1.50"), "none": None}
    events = [make_event(1, properties=written), make_event(2, properties=written, identify=dict(written))]
    events.append(make_event(3, properties=written, group=Group("team", "7", dict(written))))
    exact = {"total": "12345678901234567.89", "ratio": 1.5, "none": None}

    for number, event in enumerate(events, 1):
        again = Event.from_json(event.to_json())

        assert type(again) is type(event)
        assert exact_properties(again) == exact_properties(event) == {"number": number, **exact}


def test_a_change_that_was_stored_is_what_it_was() -> None:
    """Its document is its JSON, digits and all."""
    document = {"op": "insert", "new": {"total": orjson.Fragment("12345678901234567.89")}}
    change = RawChange("id", "public.orders.insert", "2026-01-02T03:04:05Z", document, {})
    again = RawChange.from_json(change.to_json(), id="id", name=change.name, timestamp=change.timestamp)

    assert exact_properties(again) == exact_properties(change)
    assert exact_properties(again)["new"] == {"total": "12345678901234567.89"}


def test_a_raw_change_is_its_own_properties() -> None:
    """As a whole; a column may be called properties."""
    document = {"op": "insert", "new": {"properties": 1}}

    assert exact_properties(RawChange("id", "public.orders.insert", "2026-01-02T03:04:05Z", document, {})) == document
