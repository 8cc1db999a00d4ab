"""
PostgreSQL's types as a consumer of the WAL needs them: object identifiers, names, and what CEL sees of each.

The built-in types are known by themselves; domains, enums, composites and the arrays of them are added from the
server's catalog (`wal_tracker.source.catalog`). A type nobody described is text: that is what the wire carries.

See: https://www.postgresql.org/docs/current/catalog-pg-type.html
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

CelType = Literal[
    "int",
    "uint",
    "double",
    "numeric",
    "bool",
    "string",
    "bytes",
    "timestamp",
    "duration",
    "json",
    "list",
    "map",
    "dyn",
    "null",
    "event",
]
"""
What an expression may be. ``numeric`` is the double of a numeric column, ``json`` a value out of json or jsonb: both
mix with int and double at run time. No column type proves that a value is not null.
"""

BOOL = 16
BYTEA = 17
INT8 = 20
INT2 = 21
INT4 = 23
TEXT = 25
OID = 26
JSON = 114
BOX = 603
FLOAT4 = 700
FLOAT8 = 701
BPCHAR = 1042
VARCHAR = 1043
DATE = 1082
TIME = 1083
TIMESTAMP = 1114
TIMESTAMPTZ = 1184
INTERVAL = 1186
TIMETZ = 1266
BIT = 1560
VARBIT = 1562
NUMERIC = 1700
UUID = 2950
JSONB = 3802


class PgTypeKind(enum.Enum):
    """`pg_type.typtype`, with arrays told apart from other base types."""

    BASE = "b"
    ARRAY = "a"
    ENUM = "e"
    DOMAIN = "d"
    COMPOSITE = "c"
    RANGE = "r"
    """Multiranges too."""


@dataclass(frozen=True, slots=True)
class PgType:
    """One type; what it refers to is named by object identifier."""

    oid: int
    name: str
    """As `format_type` spells it, without modifier."""
    kind: PgTypeKind = PgTypeKind.BASE
    element: int = 0
    """ARRAY: the type of its elements."""
    base: int = 0
    """DOMAIN: the type it restricts."""
    attributes: tuple[tuple[str, int], ...] = ()
    """COMPOSITE: name and type of each attribute, in order."""


# oid, array's oid, name by format_type, pg_type.typname where it differs.
# See: src/include/catalog/pg_type.dat
_BASE: tuple[tuple[int, int, str, str], ...] = (
    (BOOL, 1000, "boolean", "bool"),
    (BYTEA, 1001, "bytea", ""),
    (18, 1002, '"char"', ""),
    (19, 1003, "name", ""),
    (INT8, 1016, "bigint", "int8"),
    (INT2, 1005, "smallint", "int2"),
    (INT4, 1007, "integer", "int4"),
    (24, 1008, "regproc", ""),
    (TEXT, 1009, "text", ""),
    (OID, 1028, "oid", ""),
    (27, 1010, "tid", ""),
    (28, 1011, "xid", ""),
    (29, 1012, "cid", ""),
    (JSON, 199, "json", ""),
    (142, 143, "xml", ""),
    (600, 1017, "point", ""),
    (601, 1018, "lseg", ""),
    (602, 1019, "path", ""),
    (BOX, 1020, "box", ""),
    (604, 1027, "polygon", ""),
    (628, 629, "line", ""),
    (650, 651, "cidr", ""),
    (FLOAT4, 1021, "real", "float4"),
    (FLOAT8, 1022, "double precision", "float8"),
    (718, 719, "circle", ""),
    (774, 775, "macaddr8", ""),
    (790, 791, "money", ""),
    (829, 1040, "macaddr", ""),
    (869, 1041, "inet", ""),
    (1033, 1034, "aclitem", ""),
    (BPCHAR, 1014, "character", "bpchar"),
    (VARCHAR, 1015, "character varying", "varchar"),
    (DATE, 1182, "date", ""),
    (TIME, 1183, "time without time zone", "time"),
    (TIMESTAMP, 1115, "timestamp without time zone", "timestamp"),
    (TIMESTAMPTZ, 1185, "timestamp with time zone", "timestamptz"),
    (INTERVAL, 1187, "interval", ""),
    (TIMETZ, 1270, "time with time zone", "timetz"),
    (BIT, 1561, "bit", ""),
    (VARBIT, 1563, "bit varying", "varbit"),
    (NUMERIC, 1231, "numeric", ""),
    (1790, 2201, "refcursor", ""),
    (2202, 2207, "regprocedure", ""),
    (2203, 2208, "regoper", ""),
    (2204, 2209, "regoperator", ""),
    (2205, 2210, "regclass", ""),
    (2206, 2211, "regtype", ""),
    (UUID, 2951, "uuid", ""),
    (2970, 2949, "txid_snapshot", ""),
    (3220, 3221, "pg_lsn", ""),
    (3614, 3643, "tsvector", ""),
    (3615, 3645, "tsquery", ""),
    (3734, 3735, "regconfig", ""),
    (3769, 3770, "regdictionary", ""),
    (JSONB, 3807, "jsonb", ""),
    (4072, 4073, "jsonpath", ""),
    (4089, 4090, "regnamespace", ""),
    (4096, 4097, "regrole", ""),
    (4191, 4192, "regcollation", ""),
    (5038, 5039, "pg_snapshot", ""),
    (5069, 271, "xid8", ""),
)

_RANGES: tuple[tuple[int, int, str], ...] = (
    (3904, 3905, "int4range"),
    (3906, 3907, "numrange"),
    (3908, 3909, "tsrange"),
    (3910, 3911, "tstzrange"),
    (3912, 3913, "daterange"),
    (3926, 3927, "int8range"),
    (4451, 6150, "int4multirange"),
    (4532, 6151, "nummultirange"),
    (4533, 6152, "tsmultirange"),
    (4534, 6153, "tstzmultirange"),
    (4535, 6155, "datemultirange"),
    (4536, 6157, "int8multirange"),
)

# Spellings SQL accepts beside the two above.
_ALIASES: dict[str, int] = {
    "int": INT4,
    "char": BPCHAR,
    "decimal": NUMERIC,
    "dec": NUMERIC,
    "float": FLOAT8,
    "char varying": VARCHAR,
    "serial": INT4,
    "serial2": INT2,
    "serial4": INT4,
    "serial8": INT8,
    "smallserial": INT2,
    "bigserial": INT8,
}

FIXED_SIZE: frozenset[int] = frozenset(
    {BOOL, INT8, INT2, INT4, OID, FLOAT4, FLOAT8, DATE, TIME, TIMESTAMP, TIMESTAMPTZ, INTERVAL, TIMETZ, UUID, 790}
)
"""Types whose values are never TOASTed, so never "unchanged": the frequent ones, for speed only."""

_CEL: dict[int, CelType] = {
    BOOL: "bool",
    BYTEA: "bytes",
    INT2: "int",
    INT4: "int",
    INT8: "int",
    OID: "int",
    FLOAT4: "double",
    FLOAT8: "double",
    NUMERIC: "numeric",
    TIMESTAMP: "timestamp",
    TIMESTAMPTZ: "timestamp",
    JSON: "json",
    JSONB: "json",
}

_NAME = re.compile(
    r"""\s*
    (?P<name> (?:"(?:[^"]|"")*"|[^\s"(\[]+) (?:\s+(?!with(?:out)?\b|array\b)[^\s"(\[]+)* )
    \s* (?:\( \s* (?P<modifier>-?\d+ (?:\s*,\s*-?\d+)?) \s* \))?
    \s* (?P<zone>with(?:out)?\s+time\s+zone)?
    \s* (?P<dimensions>(?:\[\s*\d*\s*\]\s*)+ | array(?:\s*\[\s*\d+\s*\])?)?
    \s*""",
    re.VERBOSE | re.IGNORECASE,
)


class TypeCatalog:
    """
    Every type we know, by object identifier and by name.

    Types may be added at any time by the thread that decodes; what was built from the catalog before keeps what it saw.
    """

    def __init__(self, extra: Iterable[PgType] = ()) -> None:
        """
        Args:
            extra: Types of the database at hand, beside the built-in ones.
        """
        self._by_oid: dict[int, PgType] = {}
        self._by_name: dict[str, int] = {}
        for oid, array, name, short in _BASE:
            self._built_in(PgType(oid, name), array)
            if short:
                self._by_name[short] = oid
        for oid, array, name in _RANGES:
            self._built_in(PgType(oid, name, PgTypeKind.RANGE), array)
        self._by_name.update(_ALIASES)
        self.add(extra)

    def _built_in(self, described: PgType, array: int) -> None:
        self._by_oid[described.oid] = described
        self._by_name[described.name] = described.oid
        self._by_oid[array] = PgType(array, described.name + "[]", PgTypeKind.ARRAY, element=described.oid)
        self._by_name[described.name + "[]"] = array

    def get(self, oid: int) -> PgType | None:
        """The type with this object identifier, or None if nobody described it."""
        return self._by_oid.get(oid)

    def add(self, types: Iterable[PgType]) -> None:
        """Learn `types`; one that is known already is replaced."""
        for described in types:
            self._by_oid[described.oid] = described
            self._by_name[described.name] = described.oid

    def resolve(self, oid: int) -> PgType | None:
        """The type behind `oid` once every domain is taken off; None if it, or what it rests on, is not known."""
        seen = self._by_oid.get(oid)
        for _ in range(64):  # a domain over a domain over…: the catalog has no circles, a hand-made one might
            if seen is None or seen.kind is not PgTypeKind.DOMAIN:
                return seen
            seen = self._by_oid.get(seen.base)
        return None

    def parse_name(self, text: str) -> tuple[int, int] | None:
        """
        Find a type by the name a person, `format_type` or wal2json writes.

        Takes the SQL spellings, their aliases, the modifier in its place (``timestamp(3) with time zone``), and
        any number of ``[]`` (arrays of every dimension are one type).

        Returns:
            The object identifier and the type modifier as `pg_attribute.atttypmod` would hold it (-1: none), or None
            if the name is not known.
        """
        match = _NAME.fullmatch(text)
        if match is None:
            return None
        name = " ".join(match["name"].split())
        if not name.startswith('"'):
            name = name.lower()
        if name.startswith("interval "):  # "interval day to second": the fields are a modifier
            name = "interval"
        if match["zone"]:
            name += " " + " ".join(match["zone"].lower().split())
        oid = self._by_name.get(name) or self._by_name.get(match["name"].strip())
        if oid is None:
            return None
        modifier = _modifier(oid, match["modifier"])
        if match["dimensions"]:
            element = oid
            oid = self._array_of(element)
            if oid is None:
                return None
        return oid, modifier

    def _array_of(self, element: int) -> int | None:
        for described in self._by_oid.values():
            if described.kind is PgTypeKind.ARRAY and described.element == element:
                return described.oid
        return None

    def cel_type(self, oid: int, numeric: Literal["double", "string"] = "double") -> CelType:
        """
        What CEL sees of a column of this type.

        Args:
            oid: The column's type; a domain counts as its base.
            numeric: How numeric columns are read.
        """
        described = self.resolve(oid)
        if described is None:
            return "string"
        if described.kind is PgTypeKind.ARRAY:
            return "list"
        if described.kind is PgTypeKind.COMPOSITE:
            return "map" if described.attributes else "string"
        if described.oid == NUMERIC and numeric == "string":
            return "string"
        return _CEL.get(described.oid, "string")


def _modifier(oid: int, text: str | None) -> int:
    if text is None:
        return -1
    numbers = [int(part) for part in text.split(",")]
    if oid == NUMERIC:  # (precision << 16 | scale) + VARHDRSZ; see numerictypmodin in utils/adt/numeric.c
        precision, scale = numbers[0], numbers[1] if len(numbers) > 1 else 0
        return (precision << 16 | scale & 0x7FF) + 4
    if oid in (VARCHAR, BPCHAR):
        return numbers[0] + 4  # VARHDRSZ; see anychar_typmodin in utils/adt/varchar.c
    return numbers[0]
