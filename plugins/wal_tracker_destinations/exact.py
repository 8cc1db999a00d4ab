"""What an event says, as Python values, for formats that are not the event's own JSON; no number loses a digit."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any

from wal_tracker.model import Deliverable, RawChange

_INT64 = range(-(2**63), 2**63)

# Digits and sign of the longest of them.
_INT64_CHARACTERS = 20


def exact_properties(event: Deliverable) -> dict[str, Any]:
    """
    The properties of an event, or a raw change itself, read from the JSON it is stored and replayed as.

    A number is an int of 64 bits or a float that is exactly it when read back; one that is neither (``numeric`` has no
    bound) is the text of its digits, because whoever reads it as a double would keep another number.

    Raises:
        RecursionError: It nests deeper than Python reads.
    """
    document: dict[str, Any] = json.loads(event.to_json(), parse_int=_integer, parse_float=_fraction)
    return document if isinstance(event, RawChange) else document["properties"]


def _integer(digits: str) -> int | str:
    # Longer ones are not even tried: Python refuses to read thousands of digits.
    if len(digits) > _INT64_CHARACTERS or int(digits) not in _INT64:
        return digits
    return int(digits)


def _fraction(digits: str) -> float | str:
    number = float(digits)
    try:
        return number if Decimal(repr(number)) == Decimal(digits) else digits
    except InvalidOperation:
        # An exponent beyond any that a decimal has.
        return digits
