"""Types by number and by name."""

from __future__ import annotations

import pytest

from wal_tracker.pgtypes import PgType, PgTypeKind, TypeCatalog

OWN = [
    PgType(50_000, "mood", PgTypeKind.ENUM),
    PgType(50_001, "mood[]", PgTypeKind.ARRAY, element=50_000),
    PgType(50_002, "posint", PgTypeKind.DOMAIN, base=23),
    PgType(50_003, "evenint", PgTypeKind.DOMAIN, base=50_002),
    PgType(50_004, "spot", PgTypeKind.COMPOSITE, attributes=(("x", 23),)),
    PgType(50_005, '"Odd Name"', PgTypeKind.DOMAIN, base=1700),
    PgType(50_006, "other.mood", PgTypeKind.ENUM),
    PgType(50_007, "lost", PgTypeKind.DOMAIN, base=60_000),
]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("integer", (23, -1)),
        ("INT", (23, -1)),
        ("int4", (23, -1)),
        ("bigserial", (20, -1)),
        ("numeric", (1700, -1)),
        ("numeric(10,2)", (1700, 655366)),
        ("decimal( 10 , 2 )", (1700, 655366)),
        ("numeric(5)", (1700, 327684)),
        ("character varying(20)", (1043, 24)),
        ("varchar", (1043, -1)),
        ("char(3)", (1042, 7)),
        ('"char"', (18, -1)),
        ("timestamp", (1114, -1)),
        ("timestamp(3) with time zone", (1184, 3)),
        ("timestamp without time zone", (1114, -1)),
        ("time with time zone", (1266, -1)),
        ("interval day to second", (1186, -1)),
        ("double  precision", (701, -1)),
        ("bit varying(5)", (1562, 5)),
        ("text[]", (1009, -1)),
        ("integer[][]", (1007, -1)),
        ("integer array[4]", (1007, -1)),
        ("timestamp(3) without time zone[]", (1115, 3)),
        ("int4multirange", (4451, -1)),
        ("mood", (50_000, -1)),
        ("mood[]", (50_001, -1)),
        ('"Odd Name"', (50_005, -1)),
        ("other.mood", (50_006, -1)),
        ("posint", (50_002, -1)),
        ("unknown_type", None),
        ("posint[]", None),
        ("", None),
        ("integer; drop table users", None),
    ],
)
def test_a_type_is_found_by_every_name_people_give_it(name: str, expected: tuple[int, int] | None) -> None:
    """The spellings of format_type, the catalog's short names, SQL's aliases, any case, any spacing."""
    assert TypeCatalog(OWN).parse_name(name) == expected


@pytest.mark.parametrize(
    ("name", "numeric", "expected"),
    [
        ("smallint", "double", "int"),
        ("oid", "double", "int"),
        ("real", "double", "double"),
        ("numeric", "double", "numeric"),
        ("numeric", "string", "string"),
        ('"Odd Name"', "string", "string"),
        ('"Odd Name"', "double", "numeric"),
        ("boolean", "double", "bool"),
        ("text", "double", "string"),
        ("uuid", "double", "string"),
        ("date", "double", "string"),
        ("timestamp", "double", "timestamp"),
        ("timestamptz", "double", "timestamp"),
        ("interval", "double", "string"),
        ("bytea", "double", "bytes"),
        ("jsonb", "double", "json"),
        ("integer[]", "double", "list"),
        ("spot", "double", "map"),
        ("evenint", "double", "int"),
        ("mood", "double", "string"),
        ("int4range", "double", "string"),
        ("lost", "double", "string"),
    ],
)
def test_cel_sees_each_type_as_decided(name: str, numeric, expected: str) -> None:
    """cel.md, section 0, decision 4."""
    types = TypeCatalog(OWN)
    found = types.parse_name(name)
    assert found is not None
    assert types.cel_type(found[0], numeric) == expected


def test_domains_are_resolved_to_what_they_rest_on() -> None:
    """Through any number of them; not through what is not known."""
    types = TypeCatalog(OWN)

    assert types.resolve(50_003) == types.get(23)
    assert types.resolve(50_007) is None
    assert types.resolve(60_000) is None
    assert types.cel_type(60_000) == "string"


def test_types_can_be_added_and_replaced() -> None:
    """A type made in mid-stream."""
    types = TypeCatalog()
    types.add([PgType(50_000, "mood", PgTypeKind.ENUM)])
    types.add([PgType(50_000, "mood", PgTypeKind.DOMAIN, base=23)])

    assert types.parse_name("mood") == (50_000, -1)
    assert types.cel_type(50_000) == "int"
