"""The replicated tables, indexes and views of one file: their ids, their present names, their SQL.

What is declared is decided by `klal.rules.schema` from the acts that are applied. This room
keeps those acts and makes the file's own schema what they come to, step by step: after any
act the file looks as if it had been made from all of them at once, but for the order of
columns that members added apart.

Source:
    Protocol spec section 10, rules SCH-1 to SCH-9. Decision D11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import apsw
import msgspec

from klal.errors import MalformedError, UsageError
from klal.model.acts import AddColumn, CreateTable, SchemaAct, decode_schema_act, encode_act
from klal.model.codec import pack, unpack
from klal.model.schema import (
    Column,
    ForeignKey,
    IndexDefinition,
    Key,
    TableDefinition,
    Value,
    affinity_of,
    column_id_of,
    fold,
    key_text,
)
from klal.model.tokens import columns_in
from klal.rules.schema import Schema, Stated, TableState, check_act_fits, resolve
from klal.store.declare import check_reads_back, column_sql, index_sql, names_of, table_sql, try_view
from klal.store.layout import quote
from klal.store.sql import Connection
from klal.store.sqltext import literal_sql, tokens_sql

decode_image = msgspec.msgpack.Decoder(dict[bytes, Any]).decode
UNNAMED_ORDER = b"\xff" * 72  # Sorts after every real order key; replaced when the change has one.


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """A column with its id and the name it goes by here."""

    column_id: bytes
    name: str
    column: Column
    is_key: bool

    @property
    def is_generated(self) -> bool:
        """True when SQLite works its value out; it is never written."""
        return bool(self.column.generated)


@dataclass(frozen=True, slots=True)
class UniqueRule:
    """A UNIQUE constraint or unique index, as a merge sees it.

    Shape:
        column_ids: what must differ together. condition_ids: what a partial index's condition uses.
        condition: SQL of a partial index's condition over one row, else "".
    """

    column_ids: tuple[bytes, ...]
    collations: tuple[str, ...]
    condition: str = ""
    condition_ids: frozenset[bytes] = frozenset()


@dataclass(frozen=True)
class Table:
    """One replicated table as it stands in this file.

    Shape:
        columns: in the physical order of the file's table, generated ones among them.
        key: the key columns, in key order. values: the others that are written.
    """

    tab: int
    table_id: bytes
    name: str
    definition: TableDefinition
    columns: tuple[ColumnInfo, ...]
    key: tuple[ColumnInfo, ...]
    uniques: tuple[UniqueRule, ...] = ()
    values: tuple[ColumnInfo, ...] = field(init=False)
    given: tuple[ColumnInfo, ...] = field(init=False)

    def __post_init__(self) -> None:
        given = tuple(column for column in self.columns if not column.is_generated)
        object.__setattr__(self, "given", given)
        object.__setattr__(self, "values", tuple(column for column in given if not column.is_key))

    @cached_property
    def by_id(self) -> dict[bytes, ColumnInfo]:
        """Column id -> column, key columns left out."""
        return {column.column_id: column for column in self.values}

    @cached_property
    def defaults(self) -> dict[bytes, Value]:
        """Column id -> what the column shows where nobody wrote it; without those only SQLite can give."""
        literals = {info.column_id: info.column.default for info in self.values}
        return {
            column_id: None if default is None else default.literal
            for column_id, default in literals.items()
            if default is None or not default.function
        }

    @cached_property
    def key_positions(self) -> tuple[int, ...]:
        """Where the key columns stand among `columns`, in key order."""
        names = [column.name for column in self.columns]
        return tuple(names.index(column.name) for column in self.key)

    @cached_property
    def value_positions(self) -> tuple[int, ...]:
        """Where the value columns stand among `columns`."""
        return tuple(index for index, column in enumerate(self.columns) if not (column.is_key or column.is_generated))

    @cached_property
    def value_ids(self) -> tuple[bytes, ...]:
        """Ids of the value columns."""
        return tuple(column.column_id for column in self.values)

    @cached_property
    def has_blob_key(self) -> bool:
        """True when a key column is declared BLOB, where numbers are not allowed."""
        return any("BLOB" in column.column.type for column in self.key)

    @cached_property
    def affinities(self) -> tuple[str, ...]:
        """Affinity of each of `columns`."""
        return tuple(map(self.affinity, self.columns))

    def affinity(self, info: ColumnInfo) -> str:
        """Return the affinity of a column: in a STRICT table ANY converts nothing, elsewhere it is NUMERIC."""
        is_any = self.definition.strict and info.column.type == "ANY"
        return "BLOB" if is_any else affinity_of(info.column.type)

    @cached_property
    def real_positions(self) -> tuple[int, ...]:
        """Where the columns of REAL affinity stand among `columns`."""
        return tuple(index for index, affinity in enumerate(self.affinities) if affinity == "REAL")

    @cached_property
    def where_key(self) -> str:
        """`WHERE k1 = ? AND ...` over the key columns."""
        return "WHERE " + " AND ".join(f"{quote(column.name)} = ?" for column in self.key)

    @cached_property
    def select_values(self) -> str:
        """Reads the value columns of one row by key; the 1 keeps it valid without any."""
        names = ", ".join(["1", *(quote(column.name) for column in self.values)])
        return f"SELECT {names} FROM main.{quote(self.name)} {self.where_key}"

    @cached_property
    def select_row(self) -> str:
        """Reads one whole row by key, in physical column order."""
        names = ", ".join(quote(column.name) for column in self.columns)
        return f"SELECT {names} FROM main.{quote(self.name)} {self.where_key}"

    @cached_property
    def delete(self) -> str:
        """Deletes one row by key."""
        return f"DELETE FROM main.{quote(self.name)} {self.where_key}"

    def insert(self, columns: tuple[ColumnInfo, ...], row_count: int, verb: str = "INSERT OR FAIL") -> str:
        """Return an INSERT of `row_count` rows giving key and `columns`."""
        names = ", ".join(quote(column.name) for column in (*self.key, *columns))
        row = f"({', '.join('?' * (len(self.key) + len(columns)))})"
        return f"{verb} INTO main.{quote(self.name)}({names}) VALUES {', '.join([row] * row_count)}"

    @cached_property
    def insert_in_order(self) -> str:
        """Inserts one row given in physical column order, without what is generated."""
        names = ", ".join(quote(column.name) for column in self.given)
        return f"INSERT INTO main.{quote(self.name)}({names}) VALUES ({', '.join('?' * len(self.given))})"

    @cached_property
    def unique_ids(self) -> frozenset[bytes]:
        """Ids of the columns on which it depends whether a row may be visible."""
        ids = (frozenset(rule.column_ids) | rule.condition_ids for rule in self.uniques)
        return frozenset().union(*ids)

    def update(self, columns: tuple[ColumnInfo, ...]) -> str:
        """Return an UPDATE of `columns` by key."""
        cells = ", ".join(f"{quote(column.name)} = ?" for column in columns)
        return f"UPDATE main.{quote(self.name)} SET {cells} {self.where_key}"

    def key_of(self, row: tuple[Value, ...]) -> Key:
        """Return the key of a row in physical column order."""
        return tuple(row[position] for position in self.key_positions)


class Catalog:
    """All that is declared in one file."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._schema: Schema | None = None
        self.by_id: dict[bytes, Table] = {}
        self.by_name: dict[str, Table] = {}
        self.unsettled: set[int] = set()

    @property
    def schema(self) -> Schema:
        """Return what the applied acts come to."""
        if self._schema is None:
            rows = self._connection.execute("SELECT order_key, act FROM klal_schema").fetchall()
            self._schema = resolve(Stated(order, decode_schema_act(act)) for order, act in rows)
        return self._schema

    def load(self) -> None:
        """Read everything from the file."""
        self._schema = None
        uniques = self._unique_indexes()
        tables = []
        for tab, table_id, name, definition in self._connection.execute(
            "SELECT tab, table_id, name, definition FROM klal_table ORDER BY tab"
        ).fetchall():
            decoded = unpack(definition, TableDefinition, "stored table")
            tables.append(self._table(tab, table_id, name, decoded, uniques.get(tab, [])))
        self.by_id = {table.table_id: table for table in tables}
        self.by_name = {fold(table.name): table for table in tables}

    def _table(
        self, tab: int, table_id: bytes, name: str, definition: TableDefinition, indexes: list[IndexDefinition]
    ) -> Table:
        rows = self._connection.execute(
            "SELECT column_id, name, definition FROM klal_column WHERE tab = ?", (tab,)
        ).fetchall()
        infos = {}
        for column_id, column_name, stored in rows:
            column = unpack(stored, Column, "stored column")
            is_key = column.name in definition.key and column in definition.columns
            infos[column_name] = ColumnInfo(column_id, column_name, column, is_key)
        physical = self._connection.execute(f"PRAGMA main.table_xinfo({quote(name)})").fetchall()
        columns = tuple(infos[row[1]] for row in physical if row[1] in infos)
        key = tuple(
            next(info for info in columns if info.is_key and info.column.name == part) for part in definition.key
        )
        return Table(tab, table_id, name, definition, columns, key, _unique_rules(definition, columns, indexes))

    def _unique_indexes(self) -> dict[int, list[IndexDefinition]]:
        found: dict[int, list[IndexDefinition]] = {}
        for tab, definition in self._connection.execute(
            "SELECT tab, definition FROM klal_object WHERE kind = 'index' AND is_built ORDER BY object_id"
        ).fetchall():
            index = unpack(definition, IndexDefinition, "stored index")
            if index.is_unique:
                found.setdefault(tab, []).append(index)
        return found

    def named(self, name: str) -> Table:
        """Return the table of this name.

        Raises:
            UsageError: There is none.
        """
        table = self.by_name.get(fold(name))
        if table is None:
            raise UsageError(f"there is no table {name}")
        return table

    def dropped_columns(self, table: Table) -> frozenset[bytes]:
        """Return the ids of the columns that a table had once."""
        return self.schema.tables[table.table_id].dropped

    def declared_name(self, table_id: bytes) -> str:
        """Return the name that a table was declared with, dropped or not; "" for what is no table."""
        for stated in self.schema.stated:
            if isinstance(stated.act, CreateTable) and stated.act.definition.table_id == table_id:
                return stated.act.definition.name
        return ""

    def declared_order(self, table_id: bytes) -> bytes | None:
        """Return the order key of the first change that declared a table, as bytes that sort; None if none did."""
        for stated in self.schema.stated:
            if isinstance(stated.act, CreateTable) and stated.act.definition.table_id == table_id:
                return stated.order
        return None

    def declared_column(self, table_id: bytes, column_id: bytes) -> str:
        """Return the name that a column was declared with, dropped or not; "" for one never declared."""
        for stated in self.schema.stated:
            act = stated.act
            columns: tuple[Column, ...] = ()
            if isinstance(act, CreateTable) and act.definition.table_id == table_id:
                columns = act.definition.columns
            elif isinstance(act, AddColumn) and act.table_id == table_id:
                columns = (act.column,)
            for column in columns:
                if column_id_of(table_id, column) == column_id:
                    return column.name
        return ""

    # -- declaring -------------------------------------------------------------------

    def declare(self, act: SchemaAct, order_key: bytes = UNNAMED_ORDER) -> None:
        """Take in one schema act, and make the file's schema what all of them come to.

        Args:
            act: Its fields checked already.
            order_key: Bytes that sort as the change that states it; left out for one that is being made here.

        Raises:
            MalformedError: SCH-4 to SCH-8, it does not fit what its writer had seen, or SQLite does not accept it.
        """
        check_act_fits(self.schema, act)
        if isinstance(act, CreateTable):
            check_reads_back(act.definition)
        self._connection.execute(
            "INSERT INTO klal_schema VALUES(?,?)"
            " ON CONFLICT DO UPDATE SET order_key = min(order_key, excluded.order_key)",
            (encode_act(act), order_key),
        )
        self._schema = None
        self._settle(is_own=order_key == UNNAMED_ORDER)
        self.load()
        self._connection.execute(violations_sql(self.by_id, self.schema))

    def name_order(self, order_key: bytes) -> None:
        """Give the acts of this file's newest change the order key that it came to have."""
        self._connection.execute("UPDATE klal_schema SET order_key = ? WHERE order_key = ?", (order_key, UNNAMED_ORDER))
        self._schema = None

    def _settle(self, *, is_own: bool) -> None:
        """Make the file's own schema what is declared."""
        schema = self.schema
        connection = self._connection
        try:
            self._drop_objects(schema)
            self._drop_tables(schema)
            self._rename_tables(schema)
            for table_id, table in schema.tables.items():
                tab = connection.execute("SELECT tab FROM klal_table WHERE table_id = ?", (table_id,)).get
                if tab is None:
                    self._create_table(table, schema)
                else:
                    self._settle_table(tab, table, schema)
            self._create_objects(schema, is_own=is_own)
        except apsw.Error as error:
            if is_own:
                raise
            raise MalformedError(f"SQLite does not take what is declared: {error}", rule="SCH-5") from error

    def _drop_objects(self, schema: Schema) -> None:
        # Views go in any case and come back at the end: SQLite would rewrite them, or refuse, by what they name.
        self._connection.execute("DROP VIEW klal_violations")
        rows = self._connection.execute("SELECT object_id, kind, name, is_built FROM klal_object").fetchall()
        for object_id, kind, name, is_built in rows:
            stays = kind == "index" and is_built and schema.indexes.get(object_id, ("",))[0] == name
            if not stays:
                if is_built:
                    self._connection.execute(f"DROP {kind} main.{quote(name)}")
                self._connection.execute("DELETE FROM klal_object WHERE object_id = ?", (object_id,))

    def _drop_tables(self, schema: Schema) -> None:
        for tab, table_id, name in self._connection.execute("SELECT tab, table_id, name FROM klal_table").fetchall():
            if table_id not in schema.tables:
                self._connection.execute(f"DROP TABLE main.{quote(name)}")
                for side in ("klal_table", "klal_column", "klal_life", "klal_dead", "klal_conflict", "klal_hidden"):
                    self._connection.execute(f"DELETE FROM {side} WHERE tab = ?", (tab,))

    def _rename_tables(self, schema: Schema) -> None:
        moves = []
        for tab, table_id, name in self._connection.execute("SELECT tab, table_id, name FROM klal_table").fetchall():
            if schema.tables[table_id].name != name:
                moves.append((tab, name, f"klal_renamed_{tab}", schema.tables[table_id].name))
        # In two steps, since one may take the name that another gives up.
        for _, name, between, _ in moves:
            self._connection.execute(f"ALTER TABLE main.{quote(name)} RENAME TO {quote(between)}")
        for tab, _, between, new_name in moves:
            self._connection.execute(f"ALTER TABLE main.{quote(between)} RENAME TO {quote(new_name)}")
            self._connection.execute("UPDATE klal_table SET name = ? WHERE tab = ?", (new_name, tab))

    def _create_table(self, table: TableState, schema: Schema) -> None:
        self._connection.execute(table_sql(table, schema))
        tab = (self._connection.execute("SELECT max(tab) FROM klal_table").get or 0) + 1
        self._connection.execute(
            "INSERT INTO klal_table VALUES(?,?,?,?,?)",
            (tab, table.table_id, table.name, pack(table.definition), pack(table.foreign_keys)),
        )
        for state in table.columns.values():
            self._connection.execute(
                "INSERT INTO klal_column VALUES(?,?,?,?)", (tab, state.column_id, state.name, pack(state.column))
            )

    def _settle_table(self, tab: int, table: TableState, schema: Schema) -> None:
        connection = self._connection
        name = quote(table.name)
        have: dict[bytes, str] = dict(
            connection.execute("SELECT column_id, name FROM klal_column WHERE tab = ?", (tab,)).fetchall()
        )
        for column_id in sorted(have.keys() - table.columns.keys()):
            connection.execute(f"ALTER TABLE main.{name} DROP COLUMN {quote(have.pop(column_id))}")
            connection.execute("DELETE FROM klal_column WHERE tab = ? AND column_id = ?", (tab, column_id))
            connection.execute("DELETE FROM klal_conflict WHERE tab = ? AND column_id = ?", (tab, column_id))
            self._drop_cells(tab, column_id)
        moves = [
            (column_id, old, table.columns[column_id].name)
            for column_id, old in sorted(have.items())
            if table.columns[column_id].name != old
        ]
        for column_id, old, _ in moves:
            between = f"klal_renamed_{column_id.hex()}"
            connection.execute(f"ALTER TABLE main.{name} RENAME COLUMN {quote(old)} TO {quote(between)}")
        for column_id, _, new_name in moves:
            between = f"klal_renamed_{column_id.hex()}"
            connection.execute(f"ALTER TABLE main.{name} RENAME COLUMN {quote(between)} TO {quote(new_name)}")
            connection.execute(
                "UPDATE klal_column SET name = ? WHERE tab = ? AND column_id = ?", (new_name, tab, column_id)
            )
        names = names_of(table)
        for column_id in sorted(table.columns.keys() - have.keys()):
            state = table.columns[column_id]
            connection.execute(
                f"ALTER TABLE main.{name} ADD COLUMN {column_sql(state.column, state.name, names.__getitem__)}"
            )
            connection.execute(
                "INSERT INTO klal_column VALUES(?,?,?,?)", (tab, column_id, state.name, pack(state.column))
            )
        stored = connection.execute("SELECT foreign_keys FROM klal_table WHERE tab = ?", (tab,)).get
        if unpack(stored, tuple[ForeignKey, ...], "stored foreign keys") != table.foreign_keys:
            self._rebuild(tab, table, schema)

    def _drop_cells(self, tab: int, column_id: bytes) -> None:
        """Take a dropped column out of the images of rows that are not in the table."""
        for side in ("klal_dead", "klal_hidden"):
            rows = self._connection.execute(f"SELECT key, image FROM {side} WHERE tab = ?", (tab,)).fetchall()
            for key, image in rows:
                cells = decode_image(image)
                if cells.pop(column_id, None) is not None:
                    self._connection.execute(
                        f"UPDATE {side} SET image = ? WHERE tab = ? AND key = ?", (pack(cells), tab, key)
                    )

    def _rebuild(self, tab: int, table: TableState, schema: Schema) -> None:
        """Make a table anew without the foreign keys whose parents are gone: SQLite cannot take one away."""
        connection = self._connection
        between = f"klal_renamed_{tab}"
        connection.execute(table_sql(table, schema, between))
        names = ", ".join(quote(state.name) for state in table.columns.values() if not state.column.generated)
        connection.execute(f"INSERT INTO main.{quote(between)}({names}) SELECT {names} FROM main.{quote(table.name)}")
        connection.execute(f"DROP TABLE main.{quote(table.name)}")
        connection.execute(f"ALTER TABLE main.{quote(between)} RENAME TO {quote(table.name)}")
        connection.execute("DELETE FROM klal_object WHERE kind = 'index' AND tab = ?", (tab,))
        connection.execute("UPDATE klal_table SET foreign_keys = ? WHERE tab = ?", (pack(table.foreign_keys), tab))

    def _create_objects(self, schema: Schema, *, is_own: bool) -> None:
        connection = self._connection
        have = {object_id for (object_id,) in connection.execute("SELECT object_id FROM klal_object").fetchall()}
        for object_id, (name, index) in sorted(schema.indexes.items()):
            if object_id not in have:
                tab = connection.execute("SELECT tab FROM klal_table WHERE table_id = ?", (index.table_id,)).get
                is_built = self._build_index(tab, name, index, schema, is_own=is_own)
                connection.execute(
                    "INSERT INTO klal_object VALUES(?,'index',?,?,?,?)", (object_id, tab, name, pack(index), is_built)
                )
        for object_id, (name, view) in sorted(schema.views.items()):
            is_built = try_view(connection, name, view)
            connection.execute(
                "INSERT INTO klal_object VALUES(?,'view',NULL,?,?,?)", (object_id, name, pack(view), is_built)
            )

    def _build_index(self, tab: int, name: str, index: IndexDefinition, schema: Schema, *, is_own: bool) -> bool:
        """Create an index; False if it cannot be built, which shows nowhere but in speed.

        A unique one comes to rows that were written apart from it: those that share a value are
        hidden first, and who of them may be seen is settled with the rows (UNQ-1).
        """
        if index.is_unique:
            self.unsettled.add(tab)
        if index.is_unique and not is_own:
            self._hide_sharing(tab, schema.tables[index.table_id], index)
        try:
            self._connection.execute(index_sql(name, index, schema))
        except apsw.SQLError:
            if is_own:
                raise
            return False
        return True

    def _hide_sharing(self, tab: int, table: TableState, index: IndexDefinition) -> None:
        """Put every row that shares a value of a unique index to come among the hidden ones."""
        connection = self._connection
        keys = [state for name in table.definition.key for state in table.columns.values() if state.column.name == name]
        values = [state for state in table.columns.values() if state not in keys and not state.column.generated]

        def column_name(column_id: bytes) -> str:
            return table.columns[column_id].name

        terms = [
            tokens_sql(term.expression, column_name) + (f" COLLATE {term.collation}" if term.collation else "")
            for term in index.terms
        ]
        where = " AND ".join(
            [*(f"{term} IS NOT NULL" for term in terms)]
            + ([f"({tokens_sql(index.condition, column_name)})"] if index.condition else [])
        )
        names = ", ".join(quote(state.name) for state in (*keys, *values))
        group = ", ".join(terms)
        rows = connection.execute(
            f"SELECT {names} FROM main.{quote(table.name)} WHERE {where} AND ({group}) IN"
            f" (SELECT {group} FROM main.{quote(table.name)} WHERE {where} GROUP BY {group} HAVING count(*) > 1)"
        ).fetchall()
        match = " AND ".join(f"{quote(state.name)} = ?" for state in keys)
        for row in rows:
            key, cells = row[: len(keys)], row[len(keys) :]
            image = {state.column_id: value for state, value in zip(values, cells, strict=True)}
            connection.execute(f"DELETE FROM main.{quote(table.name)} WHERE {match}", key)
            hidden = (tab, pack(key), key_text(key), pack(image))
            connection.execute("INSERT OR REPLACE INTO klal_hidden VALUES(?,?,?,?)", hidden)


def violations_sql(tables: Mapping[bytes, Table], schema: Schema) -> str:
    """Return the CREATE VIEW of klal_violations: every constraint asked of every row, and what was not built.

    A merge never stops on a constraint, so what it may have broken is asked of the rows
    themselves: the answer cannot be out of date, and any SQLite program can ask (VIO-1).
    """
    asked = [_BUILT_VIOLATIONS]
    for table_id in sorted(tables):
        table, state = tables[table_id], schema.tables[table_id]
        declared = names_of(state)
        start = f", {literal_sql(table.name)}, {_key_sql(table)}"
        source = f"FROM main.{quote(table.name)} AS t"
        for check in table.definition.checks:
            condition = tokens_sql(check.condition, declared.__getitem__)
            detail = literal_sql(check.name or condition)
            asked.append(f"SELECT 'check'{start}, {detail} {source} WHERE NOT ({condition})")
        for key in state.foreign_keys:
            parent = schema.tables[key.parent] if key.parent else state
            parent_names = names_of(parent)
            ours = [f"t.{quote(declared[name])}" for name in key.columns]
            theirs = [f"p.{quote(parent_names[name])}" for name in key.parent_columns]
            given = " AND ".join(f"{column} IS NOT NULL" for column in ours)
            equal = " AND ".join(f"{a} = {b}" for a, b in zip(theirs, ours, strict=True))
            detail = literal_sql(f"{', '.join(declared[name] for name in key.columns)} names no row of {parent.name}")
            asked.append(
                f"SELECT 'foreign key'{start}, {detail} {source} WHERE {given}"
                f" AND NOT EXISTS (SELECT 1 FROM main.{quote(parent.name)} AS p WHERE {equal})"
            )
    return f'CREATE VIEW main.klal_violations(kind, "table", "key", detail) AS {" UNION ALL ".join(asked)}'


def _key_sql(table: Table) -> str:
    """Return SQL that gives a row's key as `key_text` does."""
    names = [f"t.{quote(info.name)}" for info in table.key]
    shown = [f"CASE typeof({name}) WHEN 'blob' THEN lower(hex({name})) ELSE {name} END" for name in names]
    return f"CAST({shown[0]} AS TEXT)" if len(shown) == 1 else f"json_array({', '.join(shown)})"


_BUILT_VIOLATIONS = """
SELECT 'unique', t.name, h.key_text, 'another row shows a value of it' FROM klal_hidden h JOIN klal_table t USING (tab)
UNION ALL
SELECT 'dropped', l.name, NULL, l.row_count || ' rows written in a change that the drop had not seen' FROM klal_lost l
UNION ALL
SELECT o.kind, o.name, NULL, 'it names something that is not there' FROM klal_object o WHERE NOT o.is_built
"""


def _unique_rules(
    definition: TableDefinition, columns: tuple[ColumnInfo, ...], indexes: list[IndexDefinition]
) -> tuple[UniqueRule, ...]:
    declared = {info.column.name: info for info in columns if info.column in definition.columns}
    by_id = {info.column_id: info for info in columns}
    rules = [
        UniqueRule(
            tuple(declared[name].column_id for name in unique),
            tuple(declared[name].column.collation for name in unique),
        )
        for unique in definition.uniques
    ]
    for index in indexes:
        ids: list[bytes] = [term.expression[0].value for term in index.terms]
        collations = (
            term.collation or by_id[column_id].column.collation
            for term, column_id in zip(index.terms, ids, strict=True)
        )
        condition = tokens_sql(index.condition, lambda column_id: by_id[column_id].name)
        rules.append(UniqueRule(tuple(ids), tuple(collations), condition, frozenset(columns_in(index.condition))))
    return tuple(rules)
