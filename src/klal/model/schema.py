"""Tables as data: what travels instead of SQL text.

A table's id hashes its definition, and a column's id hashes its table and definition,
so two members who declare the same thing apart have declared one thing. Names are data
and may change without touching rows that were written long ago.

Source:
    Protocol spec section 10, rules SCH-1 to SCH-5 and TYP-1.
"""

from __future__ import annotations

import base64
import json
import math
import re
from enum import Enum
from functools import lru_cache
from typing import Any

import msgspec

from klal.errors import MalformedError
from klal.model.codec import (
    COLUMN_ID_SIZE,
    TABLE_ID_SIZE,
    pack,
    tagged_hash,
)
from klal.model.tokens import CHECK, ROW, TOTAL, VIEW, Token, check_tokens, columns_in, is_name

Value = None | int | float | str | bytes
Key = tuple[Value, ...]

# Far enough below SQLite's 2,000 that columns added apart never meet that limit.
TABLE_COLUMN_COUNT_MAX = 1000
TABLE_COLUMN_COUNT_GROWN_MAX = 1500
# Functions that may stand in a DEFAULT. They are evaluated by the writer alone; what
# travels is the value, so they need not be deterministic.
DEFAULT_FUNCTIONS = ("klal_id", "current_timestamp", "current_date", "current_time")
KLAL_ID_SIZE = 16
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
ACTIONS = ("NO ACTION", "RESTRICT", "SET NULL", "SET DEFAULT", "CASCADE")
# The types that a STRICT table may have.
STRICT_TYPES = ("INT", "INTEGER", "REAL", "TEXT", "BLOB", "ANY")
_CONSTRAINT_COUNT_MAX = 200
_INDEX_TERM_COUNT_MAX = 100


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
        generated: of a stored generated column its expression over this table's columns, else empty.
        follows: id of the dropped column that an added one replaces, or empty.
    """

    name: str
    type: str
    not_null: bool = False
    default: Default | None = None
    collation: str = "BINARY"
    generated: tuple[Token, ...] = ()
    follows: bytes = b""


class Check(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A CHECK constraint: its name, or "", and what must not be false."""

    name: str
    condition: tuple[Token, ...]


class ForeignKey(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A FOREIGN KEY constraint.

    Shape:
        columns, parent_columns: declared names, pair by pair.
        parent: the parent's table id, or empty for the table itself.
        on_delete, on_update: one of ACTIONS.
    """

    columns: tuple[str, ...]
    parent: bytes
    parent_columns: tuple[str, ...]
    on_delete: str = "NO ACTION"
    on_update: str = "NO ACTION"
    is_deferred: bool = False


class TableDefinition(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One table as declared by CREATE TABLE.

    Shape:
        key: names of the primary key columns, in key order.
        uniques: the column names of each UNIQUE constraint, in its order.
        follows: id of the dropped table that this one replaces, or empty (D11).
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    strict: bool = False
    without_rowid: bool = False
    checks: tuple[Check, ...] = ()
    uniques: tuple[tuple[str, ...], ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    follows: bytes = b""

    @property
    def table_id(self) -> bytes:
        """Return the 16 bytes that name this table everywhere (SCH-1)."""
        return tagged_hash("klal/table/1", pack(self))[:TABLE_ID_SIZE]


class IndexTerm(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What an index is ordered by at one place: an expression over columns by id."""

    expression: tuple[Token, ...]
    collation: str = ""
    is_descending: bool = False


class IndexDefinition(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One index as declared by CREATE INDEX.

    Shape:
        condition: of a partial index what its rows fulfil, else empty.
        follows: id of the dropped index that this one replaces, or empty.
    """

    name: str
    table_id: bytes
    terms: tuple[IndexTerm, ...]
    is_unique: bool = False
    condition: tuple[Token, ...] = ()
    follows: bytes = b""

    @property
    def object_id(self) -> bytes:
        """Return the 16 bytes that name this index everywhere (SCH-1)."""
        return tagged_hash("klal/index/1", pack(self))[:TABLE_ID_SIZE]

    @property
    def column_ids(self) -> set[bytes]:
        """Return the ids of all columns that it uses."""
        return columns_in(self.condition).union(*(columns_in(term.expression) for term in self.terms))


class ViewDefinition(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One view as declared by CREATE VIEW.

    Shape:
        columns: names given after the view's own, or empty.
        select: names in it are looked up where the view is used (SCH-8).
    """

    name: str
    columns: tuple[str, ...]
    select: tuple[Token, ...]
    follows: bytes = b""

    @property
    def object_id(self) -> bytes:
        """Return the 16 bytes that name this view everywhere (SCH-1)."""
        return tagged_hash("klal/view/1", pack(self))[:TABLE_ID_SIZE]


def klal_id(token: bytes) -> str:
    """Return `KLAL_ID_SIZE` random bytes as a key of 26 characters, as DEFAULT (klal_id()) makes it."""
    return base64.b32encode(token).decode().rstrip("=").lower()


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
    check_column_name(column.name)
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
    if len(column.follows) not in (0, COLUMN_ID_SIZE):
        raise MalformedError(f"column {column.name!r:.40} follows an id of a wrong size", rule="SCH-4")
    merge = merge_of(column)
    if merge is not Merge.REGISTER:
        _check_typed(column, merge)
    if column.generated:
        check_tokens(column.generated, TOTAL)
        if default is not None or column.not_null or merge is not Merge.REGISTER:
            raise MalformedError(f"generated column {column.name!r:.40} has a DEFAULT or NOT NULL", rule="SCH-4")


def check_addable(column: Column) -> None:
    """Return if a column can be added to a table that has rows, on every replica.

    Raises:
        MalformedError: SCH-5.
    """
    default = column.default
    if default is not None and default.function:
        raise MalformedError(f"added column {column.name!r:.40} has a DEFAULT that is not constant", rule="SCH-5")
    if column.not_null and (default is None or default.literal is None):
        raise MalformedError(f"added column {column.name!r:.40} is NOT NULL without a DEFAULT", rule="SCH-5")
    if column.generated:
        raise MalformedError(f"added column {column.name!r:.40} is generated", rule="SCH-5")


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
    check_table_name(name)
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
        if column.name in definition.key and column.generated:
            raise MalformedError(f"column {column.name!r:.40} is generated and cannot be a key", rule="SCH-4")
    _check_constraints(definition)
    if len(definition.follows) not in (0, TABLE_ID_SIZE):
        raise MalformedError(f"table {name!r:.40} follows an id of a wrong size", rule="SCH-4")


def _check_constraints(definition: TableDefinition) -> None:
    """Return if a table's constraints name what it has, within bounds (SCH-7)."""
    name = definition.name
    names = {column.name for column in definition.columns}
    generated = {column.name for column in definition.columns if column.generated}
    counts = (len(definition.checks), len(definition.uniques), len(definition.foreign_keys))
    if max(counts) > _CONSTRAINT_COUNT_MAX:
        raise MalformedError(f"table {name!r:.40} has {max(counts)} constraints of one kind", rule="SCH-7")
    used = set().union(*(columns_in(column.generated) for column in definition.columns))
    for check in definition.checks:
        if check.name and not is_name(check.name):
            raise MalformedError(f"a CHECK of table {name!r:.40} has an unusable name", rule="SCH-7")
        check_tokens(check.condition, CHECK)
        used |= columns_in(check.condition)
    if not used <= names:
        raise MalformedError(f"an expression of table {name!r:.40} names a column it does not have", rule="SCH-7")
    for unique in definition.uniques:
        if not unique or len(set(unique)) != len(unique) or not set(unique) <= names - generated:
            raise MalformedError(f"a UNIQUE of table {name!r:.40} does not fit its columns", rule="SCH-7")
    for key in definition.foreign_keys:
        is_sized = len(key.parent) in (0, TABLE_ID_SIZE) and 0 < len(key.columns) == len(key.parent_columns)
        is_own = set(key.columns) <= names - generated and all(map(is_name, key.parent_columns))
        if not is_sized or not is_own or key.on_delete not in ACTIONS or key.on_update not in ACTIONS:
            raise MalformedError(f"a FOREIGN KEY of table {name!r:.40} does not fit it", rule="SCH-7")
        if not key.parent and not is_parent_key(definition, key.parent_columns):
            raise MalformedError(f"a FOREIGN KEY of table {name!r:.40} names no key of it", rule="SCH-7")


def is_parent_key(definition: TableDefinition, columns: tuple[str, ...]) -> bool:
    """True when these columns tell rows of a table apart, as the parent side of a FOREIGN KEY must."""
    return any(sorted(columns) == sorted(key) for key in (definition.key, *definition.uniques))


def check_index(definition: IndexDefinition) -> None:
    """Return if a foreign index can be declared here with no risk (SCH-6, SCH-7).

    Raises:
        MalformedError: SCH-6 or SCH-7. A unique index is over plain columns, and its condition
            gives a value for every row, since a merge asks which rows share one.
    """
    name = definition.name
    if not is_name(name) or is_reserved(name):
        raise MalformedError(f"index name {name!r:.40} is not usable", rule="SCH-7")
    if len(definition.table_id) != TABLE_ID_SIZE or len(definition.follows) not in (0, TABLE_ID_SIZE):
        raise MalformedError(f"index {name!r:.40} names an id of a wrong size", rule="SCH-7")
    if not 0 < len(definition.terms) <= _INDEX_TERM_COUNT_MAX:
        raise MalformedError(f"index {name!r:.40} has {len(definition.terms)} terms", rule="SCH-7")
    for term in definition.terms:
        check_tokens(term.expression, ROW)
        is_plain = len(term.expression) == 1 and term.expression[0].kind == "c"
        if term.collation not in ("", *_COLLATIONS) or not term.expression or (definition.is_unique and not is_plain):
            raise MalformedError(f"index {name!r:.40} has a term that is not allowed", rule="SCH-7")
    check_tokens(definition.condition, TOTAL if definition.is_unique else ROW)
    if any(type(column_id) is not bytes for column_id in definition.column_ids):
        raise MalformedError(f"index {name!r:.40} names a column by name", rule="SCH-7")


def check_view(definition: ViewDefinition) -> None:
    """Return if a foreign view can be declared here with no risk (SCH-6, SCH-8).

    Raises:
        MalformedError: SCH-6 or SCH-8.
    """
    name = definition.name
    if not is_name(name) or is_reserved(name) or not all(map(is_name, definition.columns)):
        raise MalformedError(f"view name {name!r:.40} is not usable", rule="SCH-8")
    if len(definition.follows) not in (0, TABLE_ID_SIZE) or len(definition.columns) > TABLE_COLUMN_COUNT_MAX:
        raise MalformedError(f"view {name!r:.40} is out of bounds", rule="SCH-8")
    check_tokens(definition.select, VIEW)
    starts = definition.select and definition.select[0] in (
        Token("w", "SELECT"),
        Token("w", "WITH"),
        Token("w", "VALUES"),
    )
    if not starts:
        raise MalformedError(f"view {name!r:.40} does not begin as a query", rule="SCH-8")


def check_table_name(name: str) -> None:
    """Return if a table can take this name (SCH-4).

    Raises:
        MalformedError: SCH-4.
    """
    if not is_name(name) or is_reserved(name):
        raise MalformedError(f"table name {name!r:.40} is not usable", rule="SCH-4")


def check_column_name(name: str) -> None:
    """Return if a column can take this name (SCH-4).

    Raises:
        MalformedError: SCH-4.
    """
    if not is_name(name) or has_suffix(name):
        raise MalformedError(f"column name {name!r:.40} is not usable", rule="SCH-4")


@lru_cache(4096)
def fold(name: str) -> str:
    """Return a name as SQLite compares names: without regard to the case of ASCII letters, and of no others."""
    return name.translate(_FOLD)


def key_text(key: Key) -> str:
    """Return a key as people read it: one value bare, several as a JSON list."""
    shown = [value.hex() if isinstance(value, bytes) else value for value in key]
    return str(shown[0]) if len(shown) == 1 else json.dumps(shown, ensure_ascii=False, separators=(",", ":"))


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
