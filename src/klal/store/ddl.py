"""What is declared, in the words SQLite gets: names quoted, literals written out, under the names borne now.

Source:
    Protocol spec section 10, rules SCH-3 to SCH-8. Decision D11.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from klal.model.schema import (
    Column,
    Default,
    ForeignKey,
    IndexDefinition,
    ViewDefinition,
)
from klal.rules.schema import Schema, TableState
from klal.store.layout import quote
from klal.store.sqltext import (
    literal_sql,
    tokens_sql,
)


def column_sql(column: Column, name: str, column_name: Callable[[Any], str]) -> str:
    """Return one column as it stands in CREATE TABLE or ADD COLUMN."""
    words = [quote(name)]
    if column.type:
        words.append(column.type)
    if column.not_null:
        words.append("NOT NULL")
    if column.default is not None:
        words.append(f"DEFAULT {_default_sql(column.default)}")
    if column.collation != "BINARY":
        words.append(f"COLLATE {column.collation}")
    if column.generated:
        words.append(f"GENERATED ALWAYS AS ({tokens_sql(column.generated, column_name)}) STORED")
    return " ".join(words)


def table_sql(table: TableState, schema: Schema, name: str | None = None) -> str:
    """Return the CREATE TABLE of a table as it stands, under its own name or another."""
    names = names_of(table)
    definition = table.definition
    parts = [column_sql(state.column, state.name, names.__getitem__) for state in table.columns.values()]
    parts.append(f"PRIMARY KEY({_names(names[column] for column in definition.key)})")
    parts.extend(f"UNIQUE({_names(names[column] for column in unique)})" for unique in definition.uniques)
    for check in definition.checks:
        label = f"CONSTRAINT {quote(check.name)} " if check.name else ""
        # In parentheses of its own, or SQLite would name only the first column where the CHECK fails.
        parts.append(f"{label}CHECK(({tokens_sql(check.condition, names.__getitem__)}))")
    parts.extend(_foreign_key_sql(key, table, schema) for key in table.foreign_keys)
    options = ", ".join(["STRICT"] * definition.strict + ["WITHOUT ROWID"] * definition.without_rowid)
    return f"CREATE TABLE main.{quote(name or table.name)}({', '.join(parts)}) {options}".rstrip()


def names_of(table: TableState) -> dict[str, str]:
    """Return declared name -> present name of the columns of a table's definition."""
    return {state.column.name: state.name for state in table.columns.values() if not state.is_added}


def _foreign_key_sql(key: ForeignKey, table: TableState, schema: Schema) -> str:
    names = names_of(table)
    parent = schema.tables[key.parent] if key.parent else table
    parent_names = names_of(parent)
    text = (
        f"FOREIGN KEY({_names(names[column] for column in key.columns)}) REFERENCES {quote(parent.name)}"
        f"({_names(parent_names[column] for column in key.parent_columns)})"
        f" ON DELETE {key.on_delete} ON UPDATE {key.on_update}"
    )
    return f"{text} DEFERRABLE INITIALLY DEFERRED" if key.is_deferred else text


def index_sql(name: str, index: IndexDefinition, schema: Schema) -> str:
    """Return the CREATE INDEX of an index over a table that stands."""
    table = schema.tables[index.table_id]

    def column_name(column_id: bytes) -> str:
        return table.columns[column_id].name

    return index_sql_over(name, index, table.name, column_name)


def index_sql_over(name: str, index: IndexDefinition, table_name: str, column_name: Callable[[Any], str]) -> str:
    terms = []
    for term in index.terms:
        text = tokens_sql(term.expression, column_name)
        if len(term.expression) > 1:
            text = f"({text})"
        terms.append(text + (f" COLLATE {term.collation}" if term.collation else "") + " DESC" * term.is_descending)
    where = f" WHERE {tokens_sql(index.condition, column_name)}" if index.condition else ""
    unique = "UNIQUE " * index.is_unique
    return f"CREATE {unique}INDEX main.{quote(name)} ON {quote(table_name)}({', '.join(terms)}){where}"


def view_sql(name: str, view: ViewDefinition) -> str:
    """Return the CREATE VIEW of a view."""
    columns = f"({_names(view.columns)})" if view.columns else ""
    return f"CREATE VIEW main.{quote(name)}{columns} AS {tokens_sql(view.select)}"


def _names(names: Iterator[str] | Sequence[str]) -> str:
    return ", ".join(map(quote, names))


def _default_sql(default: Default) -> str:
    if default.function:
        return f"({default.function}())" if default.function == "klal_id" else f"({default.function.upper()})"
    return f"({literal_sql(default.literal)})"
