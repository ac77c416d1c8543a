"""The replicated tables of one file: their ids, their present names, their SQL.

A table is its id; its name is data. When two members apart give one name to two tables,
the earlier in the order keeps it and the other gets a suffix, the same on every replica.
Columns added apart under one name are told apart the same way, by column id.

Source:
    Protocol spec section 10, rules SCH-1 to SCH-5. Decision D11.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import apsw

from klal.errors import MalformedError, UsageError
from klal.model.acts import DELETE_POLICIES, MERGE_POLICIES, SetPolicy
from klal.model.codec import pack, unpack
from klal.model.schema import (
    Column,
    Key,
    Merge,
    TableDefinition,
    Value,
    affinity_of,
    column_id_of,
    fold,
    merge_of,
    nothing_of,
)
from klal.rules.merge import Columns
from klal.store.declare import column_sql, table_sql
from klal.store.layout import quote
from klal.store.sql import Connection


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """A column with its id and the name it goes by here."""

    column_id: bytes
    name: str
    column: Column
    is_key: bool


@dataclass(frozen=True)
class Table:
    """One replicated table as it stands in this file.

    Shape:
        columns: in the physical order of the file's table.
        key: the key columns, in key order.
        merge, on_delete: the policies that a write of this table is made under.
    """

    tab: int
    table_id: bytes
    name: str
    definition: TableDefinition
    columns: tuple[ColumnInfo, ...]
    key: tuple[ColumnInfo, ...]
    values: tuple[ColumnInfo, ...] = field(init=False)
    merge: str = MERGE_POLICIES[0]
    on_delete: str = DELETE_POLICIES[0]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(column for column in self.columns if not column.is_key))

    @cached_property
    def by_id(self) -> dict[bytes, ColumnInfo]:
        """Column id -> column, key columns left out."""
        return {column.column_id: column for column in self.values}

    @cached_property
    def defaults(self) -> dict[bytes, Value]:
        """Column id -> what the column shows where nobody wrote it; without those only SQLite can give."""
        return {
            info.column_id: nothing_of(info.column)
            for info in self.values
            if info.column.default is None or not info.column.default.function
        }

    @cached_property
    def typed(self) -> dict[int, Merge]:
        """Where the counters, sets and texts stand among `columns`."""
        merges = {position: merge_of(self.columns[position].column) for position in self.value_positions}
        return {position: merge for position, merge in merges.items() if merge is not Merge.REGISTER}

    @cached_property
    def merge_columns(self) -> Columns:
        """What the merge must know of the columns."""
        return Columns(self.defaults, {self.columns[place].column_id: merge for place, merge in self.typed.items()})

    @cached_property
    def has_text(self) -> bool:
        """True when a column is a text, whose documents are kept beside the table."""
        return Merge.TEXT in self.typed.values()

    @cached_property
    def key_positions(self) -> tuple[int, ...]:
        """Where the key columns stand among `columns`, in key order."""
        names = [column.name for column in self.columns]
        return tuple(names.index(column.name) for column in self.key)

    @cached_property
    def value_positions(self) -> tuple[int, ...]:
        """Where the value columns stand among `columns`."""
        return tuple(index for index, column in enumerate(self.columns) if not column.is_key)

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
        """Inserts one row given in physical column order."""
        names = ", ".join(quote(column.name) for column in self.columns)
        return f"INSERT INTO main.{quote(self.name)}({names}) VALUES ({', '.join('?' * len(self.columns))})"

    def update(self, columns: tuple[ColumnInfo, ...]) -> str:
        """Return an UPDATE of `columns` by key."""
        cells = ", ".join(f"{quote(column.name)} = ?" for column in columns)
        return f"UPDATE main.{quote(self.name)} SET {cells} {self.where_key}"

    def key_of(self, row: tuple[Value, ...]) -> Key:
        """Return the key of a row in physical column order."""
        return tuple(row[position] for position in self.key_positions)


class Catalog:
    """All replicated tables of one file."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.by_id: dict[bytes, Table] = {}
        self.by_name: dict[str, Table] = {}

    def load(self) -> None:
        """Read the tables from the file."""
        tables = []
        for tab, table_id, name, definition in self._connection.execute(
            "SELECT tab, table_id, name, definition FROM klal_table ORDER BY tab"
        ).fetchall():
            tables.append(self._table(tab, table_id, name, unpack(definition, TableDefinition, "stored table")))
        self.by_id = {table.table_id: table for table in tables}
        self.by_name = {fold(table.name): table for table in tables}

    def _table(self, tab: int, table_id: bytes, name: str, definition: TableDefinition) -> Table:
        rows = self._connection.execute(
            "SELECT column_id, name, definition FROM klal_column WHERE tab = ?", (tab,)
        ).fetchall()
        infos = {}
        for column_id, column_name, stored in rows:
            column = unpack(stored, Column, "stored column")
            is_key = column.name in definition.key and column in definition.columns
            infos[column_name] = ColumnInfo(column_id, column_name, column, is_key)
        physical = self._connection.execute(f"PRAGMA main.table_info({quote(name)})").fetchall()
        columns = tuple(infos[row[1]] for row in physical if row[1] in infos)
        key = tuple(
            next(info for info in columns if info.is_key and info.column.name == part) for part in definition.key
        )
        policies = dict(
            self._connection.execute("SELECT name, value FROM klal_policy WHERE tab = ?", (tab,)).fetchall()
        )
        return Table(tab, table_id, name, definition, columns, key, **policies)

    def named(self, name: str) -> Table:
        """Return the table of this name.

        Raises:
            UsageError: There is none.
        """
        table = self.by_name.get(fold(name))
        if table is None:
            raise UsageError(f"there is no table {name}")
        return table

    def definitions(self) -> list[TableDefinition]:
        """Return the tables as they stand, added columns included, for reading new DDL against."""
        return [
            TableDefinition(
                table.name,
                tuple(
                    Column(
                        info.name, info.column.type, info.column.not_null, info.column.default, info.column.collation
                    )
                    for info in table.columns
                ),
                tuple(info.name for info in table.key),
                table.definition.strict,
                table.definition.without_rowid,
            )
            for table in self.by_id.values()
        ]

    def set_policy(self, act: SetPolicy, order_key: bytes) -> None:
        """Let an act say how writes of a table are made, unless one with a greater order key has (POL-2).

        Raises:
            MalformedError: POL-1, there is no such table.
        """
        table = self.by_id.get(act.table_id)
        if table is None:
            raise MalformedError(f"policy of unknown table {act.table_id.hex()[:8]}", rule="POL-1")
        for name, value in (("merge", act.merge), ("on_delete", act.on_delete)):
            if value:
                self._connection.execute(
                    "INSERT INTO klal_policy VALUES(?,?,?,?) ON CONFLICT(tab, name) DO UPDATE"
                    " SET value = excluded.value, order_key = excluded.order_key"
                    " WHERE excluded.order_key >= order_key",
                    (table.tab, name, value, order_key),
                )
        self.load()

    # -- declaring -------------------------------------------------------------------

    def declare_table(self, definition: TableDefinition, order_key: bytes) -> None:
        """Create a table, or learn that it was declared earlier too.

        Args:
            definition: Checked already.
            order_key: Bytes that sort as the declaring change; the smallest keeps the name.

        Raises:
            MalformedError: SQLite does not accept it.
        """
        table_id = definition.table_id
        known = self.by_id.get(table_id)
        if known is not None:
            self._connection.execute(
                "UPDATE klal_table SET order_key = min(order_key, ?) WHERE tab = ?", (order_key, known.tab)
            )
        else:
            self._create(definition, table_id, order_key)
        self._settle_names(definition.name)
        self.load()

    def _create(self, definition: TableDefinition, table_id: bytes, order_key: bytes) -> None:
        name = _suffixed(definition.name, table_id)
        # Under its suffixed name first: whether it may have the plain one is decided next.
        declared = TableDefinition(
            name, definition.columns, definition.key, definition.strict, definition.without_rowid, definition.follows
        )
        try:
            self._connection.execute(table_sql(declared))
        except apsw.Error as error:
            raise MalformedError(f"table {definition.name!r:.40} cannot be created: {error}", rule="SCH-4") from error
        tab = (self._connection.execute("SELECT max(tab) FROM klal_table").get or 0) + 1
        self._connection.execute(
            "INSERT INTO klal_table VALUES(?,?,?,?,?)", (tab, table_id, name, pack(definition), order_key)
        )
        for column in definition.columns:
            self._connection.execute(
                "INSERT INTO klal_column VALUES(?,?,?,?,0)",
                (tab, column_id_of(table_id, column), column.name, pack(column)),
            )

    def _settle_names(self, plain: str) -> None:
        """Give the plain name to the first table that declares it, suffixes to the others (SCH-3)."""
        claims = []
        for tab, table_id, name, stored, order_key in self._connection.execute(
            "SELECT tab, table_id, name, definition, order_key FROM klal_table"
        ).fetchall():
            definition = unpack(stored, TableDefinition, "stored table")
            if fold(definition.name) == fold(plain):
                claims.append((order_key, table_id, tab, name, definition.name))
        claims.sort()
        wanted = [
            (tab, name, declared if place == 0 else _suffixed(declared, table_id))
            for place, (_, table_id, tab, name, declared) in enumerate(claims)
        ]
        # Losers first: the plain name must be free before its new owner takes it.
        for tab, name, new_name in reversed(wanted):
            if name != new_name:
                self._rename(f"ALTER TABLE main.{quote(name)} RENAME TO {quote(new_name)}")
                self._connection.execute("UPDATE klal_table SET name = ? WHERE tab = ?", (new_name, tab))

    def declare_column(self, table_id: bytes, column: Column) -> None:
        """Add a column; adding the same one again changes nothing. It writes no rows.

        Raises:
            MalformedError: The table is not known, or SQLite does not accept it.
        """
        table = self.by_id.get(table_id)
        if table is None:
            raise MalformedError(f"column {column.name!r:.40} is added to an unknown table", rule="SCH-5")
        check_addable(column)
        column_id = column_id_of(table_id, column)
        if any(info.column_id == column_id for info in table.columns):
            return
        namesakes = [info for info in table.columns if fold(info.column.name) == fold(column.name)]
        ids = sorted([column_id, *(info.column_id for info in namesakes)])
        if any(info.column in table.definition.columns for info in namesakes):
            ids = [b"", *ids]  # A column of the definition keeps its name against any added one.
        name = column.name if ids[0] == column_id else _suffixed(column.name, column_id)
        for info in namesakes:
            if name == column.name and info.name == info.column.name:
                self._rename_column(table, info)
        declared = Column(name, column.type, column.not_null, column.default, column.collation)
        try:
            self._connection.execute(f"ALTER TABLE main.{quote(table.name)} ADD COLUMN {column_sql(declared)}")
        except apsw.Error as error:
            raise MalformedError(f"column {column.name!r:.40} cannot be added: {error}", rule="SCH-5") from error
        self._connection.execute(
            "INSERT INTO klal_column VALUES(?,?,?,?,1)", (table.tab, column_id, name, pack(column))
        )
        self.load()

    def _rename(self, sql: str) -> None:
        try:
            self._connection.execute(sql)
        except apsw.Error as error:
            raise MalformedError(f"a table or column cannot take its name: {error}", rule="SCH-3") from error

    def _rename_column(self, table: Table, info: ColumnInfo) -> None:
        name = _suffixed(info.column.name, info.column_id)
        self._rename(f"ALTER TABLE main.{quote(table.name)} RENAME COLUMN {quote(info.name)} TO {quote(name)}")
        self._connection.execute(
            "UPDATE klal_column SET name = ? WHERE tab = ? AND column_id = ?", (name, table.tab, info.column_id)
        )


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


def _suffixed(name: str, identity: bytes) -> str:
    return f"{name}__{identity.hex()}"
