"""Tables as data. Rules SCH-1, SCH-2 and SCH-4."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from klal.errors import MalformedError
from klal.model.codec import pack, unpack
from klal.model.schema import (
    Column,
    Default,
    TableDefinition,
    affinity_of,
    check_column,
    check_definition,
    column_id_of,
    is_reserved,
)
from tests.helpers.model_strategies import columns, definitions

ID = Column("id", "TEXT")


@given(definitions())
def test_a_definition_decodes_to_itself_and_is_usable(definition: TableDefinition) -> None:
    """SCH-1, SCH-4."""
    assert unpack(pack(definition), TableDefinition, "table") == definition
    check_definition(definition)


@given(definitions(), definitions())
def test_two_tables_have_one_id_exactly_when_they_are_declared_alike(a: TableDefinition, b: TableDefinition) -> None:
    """SCH-1: two members who declare the same thing apart have declared one thing."""
    assert (a.table_id == b.table_id) == (pack(a) == pack(b))


@given(columns, columns)
def test_two_columns_have_one_id_exactly_when_they_are_declared_alike(a: Column, b: Column) -> None:
    """SCH-2."""
    table = bytes(16)

    assert (column_id_of(table, a) == column_id_of(table, b)) == (pack(a) == pack(b))
    assert column_id_of(table, a) != column_id_of(bytes([1]) * 16, a)


def test_a_table_that_follows_a_dropped_one_is_another_table() -> None:
    """SCH-1."""
    one = TableDefinition("t", (ID,), ("id",))

    assert TableDefinition("t", (ID,), ("id",), follows=one.table_id).table_id != one.table_id


@pytest.mark.parametrize(
    "column",
    [
        Column("", "TEXT"),
        Column("x" * 201, "TEXT"),
        Column("a\0b", "TEXT"),
        Column("c", "TEXT); DROP TABLE t; --"),
        Column("c", "TEXT DEFAULT (load_extension('x'))"),
        Column("c", "TEXT\nNOT NULL"),
        Column("c", "TEXT--"),
        Column("c", '"TEXT"'),
        Column("c", "T\u00c9XT"),
        Column("c", "TEXT(1"),
        Column("c", "TEXT(-1)"),
        Column("c", "1TEXT"),
        Column("c", "TEXT", collation="binary"),
        Column("c", "TEXT", collation="NOCASE, x"),
        Column("c", "TEXT", default=Default(None, "load_extension")),
        Column("c", "TEXT", default=Default(None, "klal_id() || x")),
        Column("c", "TEXT", default=Default("x", "klal_id")),
        Column("c", "TEXT", default=Default([1])),
        Column("c", "TEXT", default=Default({"a": 1})),
        Column("c", "TEXT", default=Default(True)),
    ],
)
def test_a_foreign_column_that_could_say_more_than_a_column_is_refused(column: Column) -> None:
    """SCH-4, T38: what reaches SQLite's parser is a name, a type of a small grammar, and a literal."""
    with pytest.raises(MalformedError) as caught:
        check_column(column)

    assert caught.value.rule == "SCH-4"


@pytest.mark.parametrize(
    "words",
    [
        "TEXT UNIQUE",
        "TEXT REFERENCES OTHER",
        "TEXT CHECK (1)",
        "TEXT NOT NULL",
        "TEXT COLLATE NOCASE",
        "TEXT DEFAULT CURRENT_TIMESTAMP",
        "INT PRIMARY KEY",
        "UNIQUE",
    ],
)
def test_a_foreign_type_that_hides_a_constraint_is_refused(words: str) -> None:
    """SCH-4, T38: a UNIQUE nobody sees as one would void changes by what is held where they arrive."""
    with pytest.raises(MalformedError):
        check_column(Column("c", words))


@pytest.mark.parametrize("text", ["'; DROP TABLE t; --", '"', "x') --", "[a]", "`", "a\nb", "\u202e"])
def test_a_hostile_text_in_a_name_or_default_is_data(text: str) -> None:
    """SCH-4, T38: it is let through because it is quoted by the one function that writes SQL names and values."""
    check_column(Column(text, "TEXT", default=Default(text)))


@pytest.mark.parametrize(
    "definition",
    [
        TableDefinition("", (ID,), ("id",)),
        TableDefinition("a\0", (ID,), ("id",)),
        TableDefinition("klal_log", (ID,), ("id",)),
        TableDefinition("Sqlite_master", (ID,), ("id",)),
        TableDefinition("t", (), ()),
        TableDefinition("t", (ID,), ()),
        TableDefinition("t", (ID,), ("id", "id")),
        TableDefinition("t", (ID,), ("other",)),
        TableDefinition("t", (ID, Column("ID", "INT")), ("id",)),
        TableDefinition("t", (ID,), ("id",), follows=b"short"),
        TableDefinition("t", tuple(Column(f"c{n}", "INT") for n in range(2001)), ("c0",)),
        TableDefinition("t", (Column("c", "TEXT("),), ("c",)),
    ],
)
def test_a_foreign_table_that_cannot_be_declared_safely_is_refused(definition: TableDefinition) -> None:
    """SCH-4, T38, T41."""
    with pytest.raises(MalformedError) as caught:
        check_definition(definition)

    assert caught.value.rule == "SCH-4"


@pytest.mark.parametrize(
    ("name", "reserved"), [("KLAL_x", True), ("sqlite_x", True), ("klal", False), ("tsqlite_", False)]
)
def test_names_of_sqlite_and_of_klal_are_reserved_in_any_case(name: str, reserved: bool) -> None:
    """T41."""
    assert is_reserved(name) is reserved


@pytest.mark.parametrize("literal", [1 << 63, float("nan")])
def test_a_default_that_sqlite_cannot_hold_is_refused(literal: Any) -> None:
    """SCH-4, T42."""
    with pytest.raises(MalformedError):
        check_column(Column("c", "INT", default=Default(literal)))


@pytest.mark.parametrize(
    ("declared", "affinity"),
    [
        ("INT", "INTEGER"),
        ("BIGINT", "INTEGER"),
        ("CHARINT", "INTEGER"),
        ("VARCHAR(20)", "TEXT"),
        ("CLOB", "TEXT"),
        ("BLOB", "BLOB"),
        ("", "BLOB"),
        ("FLOATING POINT", "INTEGER"),
        ("DOUBLE", "REAL"),
        ("REAL", "REAL"),
        ("DECIMAL(10,5)", "NUMERIC"),
        ("BOOLEAN", "NUMERIC"),
    ],
)
def test_affinity_is_sqlites(declared: str, affinity: str) -> None:
    assert affinity_of(declared) == affinity
    assert affinity_of(declared.lower()) == affinity
