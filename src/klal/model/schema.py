"""Tables as data: what travels instead of SQL text.

A table's id hashes its definition, and a column's id hashes its table and definition,
so two members who declare the same thing apart have declared one thing. Names are data
and may change without touching rows that were written long ago.

Source:
    Protocol spec section 10, rules SCH-1 to SCH-5 and TYP-1.
"""

from __future__ import annotations

import math
import re
from enum import Enum
from typing import Any

import msgspec

from klal.errors import MalformedError
from klal.model.codec import (
    COLUMN_ID_SIZE,
    NAME_LENGTH_MAX,
    TABLE_ID_SIZE,
    pack,
    tagged_hash,
)

Value = None | int | float | str | bytes
Key = tuple[Value, ...]

# Far enough below SQLite's 2,000 that columns added apart never meet that limit.
TABLE_COLUMN_COUNT_MAX = 1000
TABLE_COLUMN_COUNT_GROWN_MAX = 1500
# Functions that may stand in a DEFAULT. They are evaluated by the writer alone; what
# travels is the value, so they need not be deterministic.
DEFAULT_FUNCTIONS = ("klal_id", "current_timestamp", "current_date", "current_time")
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_ ]*(\([0-9]+(, ?[0-9]+)?\))?|")
# Words that would end the type and begin a constraint.
_NOT_TYPE_WORDS = frozenset(
    [
        "AS",
        "CHECK",
        "COLLATE",
        "CONSTRAINT",
        "DEFAULT",
        "FOREIGN",
        "GENERATED",
        "KEY",
        "NOT",
        "NULL",
        "ON",
        "PRIMARY",
        "REFERENCES",
        "UNIQUE",
    ]
)
_FOLD = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_SUFFIX = re.compile(r"__[0-9a-f]{16}([0-9a-f]{16})?$")
_NUMERIC_TEXT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_COLLATIONS = ("BINARY", "NOCASE", "RTRIM")


PLAIN_TYPES: dict[str, set[type]] = {
    # Types that a column of this affinity stores as they are, whatever the value.
    "TEXT": {str, bytes, type(None)},
    "INTEGER": {int, bytes, type(None)},
    "NUMERIC": {int, bytes, type(None)},
    "REAL": {float, bytes, type(None)},
    "BLOB": {str, bytes, int, float, type(None)},
}


class Merge(Enum):
    """How the values of one column come together when they were written apart.

    Shape:
        value: the word of a declared type that asks for it; a register needs none.
    """

    REGISTER = ""
    COUNTER = "COUNTER"
    SET = "ELEMENTS"  # SET is a keyword of SQL, and can be no word of a type.
    TEXT = "COLLABORATIVE"


# What a typed column must be by its other words, and what it shows where nobody wrote it.
_TYPED = {Merge.COUNTER: "INTEGER", Merge.SET: "TEXT", Merge.TEXT: "TEXT"}
_NOTHING: dict[Merge, Value] = {Merge.COUNTER: 0, Merge.SET: "[]", Merge.TEXT: ""}


class Default(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A column's DEFAULT: a literal, or the name of an allowed function."""

    literal: Any = None  # A Value; msgspec cannot tell text from bytes in a union, so SCH-4 checks it.
    function: str = ""


class Column(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One column as declared.

    Shape:
        type: the declared type as written, upper case; it decides the affinity.
        default: None when no DEFAULT was written.
    """

    name: str
    type: str
    not_null: bool = False
    default: Default | None = None
    collation: str = "BINARY"


class TableDefinition(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One table as declared by CREATE TABLE.

    Shape:
        key: names of the primary key columns, in key order.
        follows: id of the dropped table that this one replaces, or empty (D11).
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    strict: bool = False
    without_rowid: bool = False
    follows: bytes = b""

    @property
    def table_id(self) -> bytes:
        """Return the 16 bytes that name this table everywhere (SCH-1)."""
        return tagged_hash("klal/table/1", pack(self))[:TABLE_ID_SIZE]


def column_id_of(table_id: bytes, column: Column) -> bytes:
    """Return the 8 bytes that name this column everywhere (SCH-2)."""
    return tagged_hash("klal/column/1", table_id, pack(column))[:COLUMN_ID_SIZE]


def merge_of(column: Column) -> Merge:
    """Return how a column merges, by the words of its declared type; the first that asks decides."""
    words = re.findall(r"[A-Z0-9_]+", column.type.upper())
    asked = [Merge(word) for word in words if word in _MERGE_WORDS]
    return asked[0] if asked else Merge.REGISTER


_MERGE_WORDS = {merge.value for merge in Merge if merge is not Merge.REGISTER}


def nothing_of(column: Column) -> Value:
    """Return what a column shows where no put wrote it: its literal default, or what its type begins with."""
    if column.default is not None and column.default.literal is not None:
        literal: Value = column.default.literal
        return literal
    return _NOTHING.get(merge_of(column))


def _check_typed(column: Column, merge: Merge) -> None:
    """Return if a counter, set or text is one that every replica can merge (TYP-1)."""
    name = f"{merge.value} column {column.name!r:.40}"
    if affinity_of(column.type) != _TYPED[merge]:
        raise MalformedError(f"{name} has type {column.type}, want {_TYPED[merge]} {merge.value}", rule="TYP-1")
    if not column.not_null:
        raise MalformedError(f"{name} may be NULL, want NOT NULL", rule="TYP-1")
    if column.default is None:
        return
    literal = column.default.literal
    kind = int if merge is Merge.COUNTER else str
    if type(literal) is not kind or (merge is Merge.SET and literal != "[]"):
        wanted = {Merge.COUNTER: "an integer", Merge.SET: "'[]'", Merge.TEXT: "a text"}[merge]
        raise MalformedError(f"{name} has another DEFAULT, want {wanted} or none", rule="TYP-1")


def check_column(column: Column) -> None:
    """Return if a foreign column can be declared here with no risk (SCH-4, T38).

    Raises:
        MalformedError: SCH-4, naming the field. Types are a small grammar and defaults
            literals or listed functions, so that no SQL text of a peer is ever run.
    """
    if not 0 < len(column.name) <= NAME_LENGTH_MAX or "\0" in column.name or has_suffix(column.name):
        raise MalformedError(f"column name {column.name!r:.40} is not usable", rule="SCH-4")
    is_type = column.type.isascii() and _TYPE.fullmatch(column.type) is not None
    if not is_type or not _NOT_TYPE_WORDS.isdisjoint(re.findall(r"[A-Z_]+", column.type.upper())):
        raise MalformedError(f"type {column.type!r:.40} of column {column.name!r:.40} is not allowed", rule="SCH-4")
    if column.collation not in _COLLATIONS:
        raise MalformedError(f"collation {column.collation!r:.40} is not allowed", rule="SCH-4")
    default = column.default
    if default is not None and not _is_storable(default.literal):
        raise MalformedError(f"default of column {column.name!r:.40} is no SQL value", rule="SCH-4")
    if default is not None and not is_as_stored(affinity_of(column.type), default.literal):
        raise MalformedError(f"default of column {column.name!r:.40} is not of its type", rule="SCH-4")
    if (
        default is not None
        and default.function
        and (default.function not in DEFAULT_FUNCTIONS or default.literal is not None)
    ):
        raise MalformedError(f"default function {default.function!r:.40} is not allowed", rule="SCH-4")
    merge = merge_of(column)
    if merge is not Merge.REGISTER:
        _check_typed(column, merge)


def _check_key_column(definition: TableDefinition, column: Column) -> None:
    """Return if equal keys are equal bytes in this column, on every replica (SCH-4)."""
    is_rowid = len(definition.key) == 1 and column.type == "INTEGER" and not definition.without_rowid
    is_typeless = affinity_of(column.type) == "BLOB" and "BLOB" not in column.type
    if is_rowid or is_typeless or column.collation != "BINARY":
        raise MalformedError(f"column {column.name!r:.40} cannot be a key", rule="SCH-4")
    if merge_of(column) is not Merge.REGISTER:
        raise MalformedError(f"{merge_of(column).value} column {column.name!r:.40} cannot be a key", rule="TYP-1")


def _is_storable(literal: Any) -> bool:
    if type(literal) is int:
        return -(1 << 63) <= literal < 1 << 63
    if type(literal) is float:
        return not math.isnan(literal)
    if type(literal) is str:
        return "\0" not in literal  # It could not be written as a literal of SQL.
    return type(literal) in (type(None), bytes)


def check_definition(definition: TableDefinition) -> None:
    """Return if a foreign table can be declared here with no risk (SCH-4).

    Raises:
        MalformedError: SCH-4.
    """
    name = definition.name
    if not 0 < len(name) <= NAME_LENGTH_MAX or "\0" in name or is_reserved(name):
        raise MalformedError(f"table name {name!r:.40} is not usable", rule="SCH-4")
    if not 0 < len(definition.columns) <= TABLE_COLUMN_COUNT_MAX:
        raise MalformedError(f"table {name!r:.40} has {len(definition.columns)} columns", rule="SCH-4")
    for column in definition.columns:
        check_column(column)
    folded = [fold(column.name) for column in definition.columns]
    if len(set(folded)) != len(folded):
        raise MalformedError(f"table {name!r:.40} names a column twice", rule="SCH-4")
    names = {column.name for column in definition.columns}
    if not definition.key or len(set(definition.key)) != len(definition.key) or not names.issuperset(definition.key):
        raise MalformedError(f"table {name!r:.40} has no usable primary key", rule="SCH-4")
    for column in definition.columns:
        if column.name in definition.key:
            _check_key_column(definition, column)
    if len(definition.follows) not in (0, TABLE_ID_SIZE):
        raise MalformedError(f"table {name!r:.40} follows an id of a wrong size", rule="SCH-4")


def fold(name: str) -> str:
    """Return a name as SQLite compares names: without regard to the case of ASCII letters, and of no others."""
    return name.translate(_FOLD)


def is_reserved(table_name: str) -> bool:
    """True for names that belong to SQLite or to klal (T41)."""
    return fold(table_name).startswith(("sqlite_", "klal_")) or has_suffix(table_name)


def has_suffix(name: str) -> bool:
    """True for names that end as those of tables or columns told apart by their ids do (SCH-3)."""
    return _SUFFIX.search(fold(name)) is not None


def is_as_stored(affinity: str, value: Value) -> bool:
    """True when a column of this affinity stores the value as it is, without converting it.

    What travels is what a table holds. A value that SQLite would convert on its way in
    was never in the writer's table, and would be one value to the merge and another to
    the reader (APP-4).

    Source:
        SQLite's datatype page, section 3.
    """
    if value is None or isinstance(value, bytes) or affinity == "BLOB":
        return True
    if isinstance(value, str):
        # SQLite reads a number up to the first NUL.
        digits = value.partition("\0")[0].strip(" \t\n\v\f\r")
        return affinity == "TEXT" or _NUMERIC_TEXT.fullmatch(digits) is None
    if affinity == "TEXT":
        return False
    if affinity == "REAL":
        # A REAL column keeps integral reals as integers, which have no -0.
        return isinstance(value, float) and (value != 0 or math.copysign(1, value) > 0)
    # INTEGER and NUMERIC turn a real into an integer where nothing is lost, but never into the least.
    is_integral = isinstance(value, float) and value.is_integer() and -(2.0**63) < value < 2.0**63
    return not is_integral


def affinity_of(declared_type: str) -> str:
    """Return the affinity SQLite gives a declared type.

    Source:
        SQLite's datatype page, section 3.1, rules 1 to 5, in that order.
    """
    upper = declared_type.upper()
    if "INT" in upper:
        return "INTEGER"
    if "CHAR" in upper or "CLOB" in upper or "TEXT" in upper:
        return "TEXT"
    if not upper or "BLOB" in upper:
        return "BLOB"
    if "REAL" in upper or "FLOA" in upper or "DOUB" in upper:
        return "REAL"
    return "NUMERIC"
