"""The replicated tables, indexes and views of one file: their ids, their present names, their SQL.

What is declared is decided by `klal.rules.schema` from the acts that are applied. This room
keeps those acts and makes the file's own schema what they come to, step by step: after any
act the file looks as if it had been made from all of them at once, but for the order of
columns that members added apart.

Source:
    Protocol spec section 10, rules SCH-1 to SCH-9. Decision D11.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import apsw
import msgspec

from klal.errors import MalformedError, UsageError
from klal.model.acts import (
    DELETE_POLICIES,
    MERGE_POLICIES,
    AddColumn,
    CreateTable,
    SchemaAct,
    decode_schema_act,
    encode_act,
)
from klal.model.codec import pack, unpack
from klal.model.schema import (
    Column,
    ForeignKey,
    IndexDefinition,
    Key,
    Merge,
    TableDefinition,
    Value,
    affinity_of,
    column_id_of,
    fold,
    key_text,
    merge_of,
    nothing_of,
)
from klal.model.tokens import Token, Tokens, columns_in, is_total
from klal.rules.merge import Columns, same
from klal.rules.schema import Schema, Stated, TableState, resolve
from klal.store.ddl import column_sql, index_sql, names_of, table_sql
from klal.store.layout import quote
from klal.store.scratch import check_act_reads_back, create_views
from klal.store.sql import Connection
from klal.store.sqltext import literal_sql, tokens_sql

decode_image = msgspec.msgpack.Decoder(dict[bytes, Any]).decode
_TOUCH_COUNT_MAX = 100_000  # Keys of one batch; beyond, all is looked at.
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
        merge, on_delete: the policies that a write of this table is made under.
    """

    tab: int
    table_id: bytes
    name: str
    definition: TableDefinition
    columns: tuple[ColumnInfo, ...]
    key: tuple[ColumnInfo, ...]
    uniques: tuple[UniqueRule, ...] = ()
    values: tuple[ColumnInfo, ...] = field(init=False)
    merge: str = MERGE_POLICIES[0]
    on_delete: str = DELETE_POLICIES[0]
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
    def select_numbered(self) -> str:
        """Reads the value columns of one row by a number and its key, after that number."""
        names = ", ".join(["?", *(quote(column.name) for column in self.values)])
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
    def declared_names(self) -> dict[str, str]:
        """Declared name -> present name, of the columns of the definition."""
        by_id = {info.column_id: info.name for info in self.columns}
        ids = {column.name: column_id_of(self.table_id, column) for column in self.definition.columns}
        return {name: by_id[column_id] for name, column_id in ids.items() if column_id in by_id}

    @cached_property
    def unique_ids(self) -> frozenset[bytes]:
        """Ids of the columns on which it depends whether a row may be visible."""
        ids = (frozenset(rule.column_ids) | rule.condition_ids for rule in self.uniques)
        return frozenset().union(*ids)

    def encode_image(self, cells: Mapping[bytes, Value]) -> bytes:
        """Return the cells of a row that is not in the table as they are kept.

        Without those that show their default: whether a column was added before or after the row was
        kept differs between replicas, and must not show.
        """
        kept = {
            column_id: value
            for column_id, value in sorted(cells.items())
            if column_id in self.by_id and not (column_id in self.defaults and same(self.defaults[column_id], value))
        }
        return pack(kept)

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
        # Tables in which it must be looked anew at who may be seen; None: whichever keys were written.
        self.unsettled: dict[int, set[Key] | None] = {}
        # Tables that have an index which is not there, since some row makes it raise.
        self.unbuilt: set[int] = set()

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
        self.unbuilt = {tab for _, tab, _, _ in self._indexes(is_built=False)}

    def _table(
        self, tab: int, table_id: bytes, name: str, definition: TableDefinition, indexes: list[IndexDefinition]
    ) -> Table:
        rows = self._connection.execute(
            "SELECT column_id, name, definition FROM klal_column WHERE tab = ?", (tab,)
        ).fetchall()
        infos = {}
        declared = {column_id_of(table_id, column) for column in definition.columns}
        for column_id, column_name, stored in rows:
            column = unpack(stored, Column, "stored column")
            is_key = column.name in definition.key and column_id in declared
            infos[column_name] = ColumnInfo(column_id, column_name, column, is_key)
        physical = self._connection.execute(f"PRAGMA main.table_xinfo({quote(name)})").fetchall()
        columns = tuple(infos[row[1]] for row in physical if row[1] in infos)
        key = tuple(
            next(info for info in columns if info.is_key and info.column.name == part) for part in definition.key
        )
        rules = _unique_rules(table_id, definition, columns, indexes)
        policies = dict(
            self._connection.execute("SELECT name, value FROM klal_policy WHERE tab = ?", (tab,)).fetchall()
        )
        return Table(tab, table_id, name, definition, columns, key, rules, **policies)

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

    def touch(self, tab: int, keys: Iterable[Key] | None = None) -> None:
        """Note that these keys of a table were written, or, left out, that anything may have changed."""
        known = self.unsettled.get(tab, set())
        if known is None or keys is None:
            self.unsettled[tab] = None
        else:
            known.update(keys)
            self.unsettled[tab] = known if len(known) <= _TOUCH_COUNT_MAX else None

    def declare(self, acts: Sequence[SchemaAct], order_key: bytes = UNNAMED_ORDER, *, is_own: bool = False) -> bool:
        """Take in the schema acts of one change, and make the file's schema what all of them come to.

        Args:
            acts: Their fields checked already.
            order_key: Bytes that sort as the change that states them; left out for one that is being made here.
            is_own: True for the user's own statement: an index that raises on some row is refused.

        Returns:
            False when all of them were known, by changes that come before this one: nothing is changed then.

        Raises:
            MalformedError: SCH-4 or SCH-7, SQLite does not accept it.
        """
        # Whoever joins states again what its ticket knew, so most of very many members state nothing new.
        known = "SELECT order_key FROM klal_schema WHERE act = ?"
        orders = [self._connection.execute(known, (encode_act(act),)).get for act in acts]
        if all(order is not None and order <= order_key for order in orders):
            return False
        for act in acts:
            check_act_reads_back(act)
        self._connection.executemany(
            "INSERT INTO klal_schema VALUES(?,?)"
            " ON CONFLICT DO UPDATE SET order_key = min(order_key, excluded.order_key)",
            [(encode_act(act), order_key) for act in acts],
        )
        self._schema = None
        self._settle(is_own=is_own)
        self.load()
        self._connection.execute(violations_sql(self.by_id, self.schema))
        return True

    def name_order(self, order_key: bytes) -> None:
        """Give the acts of this file's newest change the order key that it came to have."""
        self._connection.execute("UPDATE klal_schema SET order_key = ? WHERE order_key = ?", (order_key, UNNAMED_ORDER))
        self._schema = None

    def _settle(self, *, is_own: bool) -> None:
        """Make the file's own schema what is declared."""
        schema = self.schema
        connection = self._connection
        had = {object_id for (object_id,) in connection.execute("SELECT object_id FROM klal_object").fetchall()}
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
            self._set_policies(schema)
            self._create_indexes(schema, schema.indexes.keys() - had if is_own else set())
            self._create_views(schema)
        except apsw.Error as error:
            if is_own:
                raise
            raise MalformedError(f"SQLite does not take what is declared: {error}", rule="SCH-5") from error

    def _set_policies(self, schema: Schema) -> None:
        self._connection.execute("DELETE FROM klal_policy")
        for table_id, table in schema.tables.items():
            for name, value, plain in (
                ("merge", table.policy.merge, MERGE_POLICIES[0]),
                ("on_delete", table.policy.on_delete, DELETE_POLICIES[0]),
            ):
                if value != plain:
                    self._connection.execute(
                        "INSERT INTO klal_policy SELECT tab, ?, ? FROM klal_table WHERE table_id = ?",
                        (name, value, table_id),
                    )

    def _drop_objects(self, schema: Schema) -> None:
        # Views go in any case and come back at the end: SQLite would rewrite them, or refuse, by what they name.
        self._connection.execute("DROP VIEW klal_violations")
        rows = self._connection.execute("SELECT object_id, kind, tab, name, definition, is_built FROM klal_object")
        for object_id, kind, tab, name, definition, is_built in rows.fetchall():
            if kind == "index" and schema.indexes.get(object_id, ("",))[0] == name:
                continue
            if is_built:
                self._connection.execute(f"DROP {kind} main.{quote(name)}")
            if kind == "index" and unpack(definition, IndexDefinition, "stored index").is_unique:
                self.touch(tab)  # Who waited for a value of it may wait for nothing now.
            self._connection.execute("DELETE FROM klal_object WHERE object_id = ?", (object_id,))

    def _drop_tables(self, schema: Schema) -> None:
        for tab, table_id, name in self._connection.execute("SELECT tab, table_id, name FROM klal_table").fetchall():
            if table_id not in schema.tables:
                self._connection.execute(f"DROP TABLE main.{quote(name)}")
                for side in (
                    "klal_table",
                    "klal_column",
                    "klal_life",
                    "klal_dead",
                    "klal_text",
                    "klal_conflict",
                    "klal_hidden",
                ):
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
            between = f"klal_renamed__{column_id.hex()}"  # Ends as no name that is declared can.
            connection.execute(f"ALTER TABLE main.{name} RENAME COLUMN {quote(old)} TO {quote(between)}")
        for column_id, _, new_name in moves:
            between = f"klal_renamed__{column_id.hex()}"
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
                if column_id in cells:
                    del cells[column_id]
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

    def _create_indexes(self, schema: Schema, own: AbstractSet[bytes]) -> None:
        """Create the indexes that are not there.

        Args:
            own: Ids of those that the user makes now.
        """
        connection = self._connection
        have = {object_id for (object_id,) in connection.execute("SELECT object_id FROM klal_object").fetchall()}
        for object_id, (name, index) in sorted(schema.indexes.items()):
            if object_id in have:
                continue
            tab = connection.execute("SELECT tab FROM klal_table WHERE table_id = ?", (index.table_id,)).get
            self.touch(tab)
            if index.is_unique and object_id not in own:
                self._hide_sharing(tab, index)
            # One that may raise is built once all rows are settled, if then none of them makes it raise.
            is_built = index.is_unique or object_id in own or not _may_raise(index)
            if is_built:
                connection.execute(index_sql(name, index, schema))
            connection.execute(
                "INSERT INTO klal_object VALUES(?,'index',?,?,?,?)", (object_id, tab, name, pack(index), is_built)
            )

    def _create_views(self, schema: Schema) -> None:
        broken = set(create_views(self._connection, schema))
        self._connection.executemany(
            "INSERT INTO klal_object VALUES(?,'view',NULL,?,?,?)",
            [
                (object_id, name, pack(view), object_id not in broken)
                for object_id, (name, view) in sorted(schema.views.items())
            ],
        )

    # -- indexes that may raise ------------------------------------------------------------

    def take_away(self, tabs: AbstractSet[int]) -> bool:
        """Drop the indexes of these tables that may raise on a row; True if there were any (SCH-7)."""
        taken = False
        for object_id, of, name, index in self._indexes(is_built=True):
            if of in tabs and _may_raise(index):
                self._connection.execute(f"DROP INDEX main.{quote(name)}")
                self._connection.execute("UPDATE klal_object SET is_built = 0 WHERE object_id = ?", (object_id,))
                self.touch(of)
                self.unbuilt.add(of)
                taken = True
        return taken

    def build(self, tab: int) -> None:
        """Build a table's indexes that are not there, unless some row makes one raise (SCH-7).

        So whether one is there follows from the rows that are there, and from nothing else.
        """
        for object_id, of, name, index in self._indexes(is_built=False):
            if of == tab:
                try:
                    self._connection.execute(index_sql(name, index, self.schema))
                except apsw.SQLError:
                    continue
                self._connection.execute("UPDATE klal_object SET is_built = 1 WHERE object_id = ?", (object_id,))
        self.unbuilt = {tab for _, tab, _, _ in self._indexes(is_built=False)}

    def _indexes(self, *, is_built: bool) -> list[tuple[bytes, int, str, IndexDefinition]]:
        rows = self._connection.execute(
            "SELECT object_id, tab, name, definition FROM klal_object WHERE kind = 'index' AND is_built = ?"
            " ORDER BY object_id",
            (is_built,),
        ).fetchall()
        return [(*row, unpack(definition, IndexDefinition, "stored index")) for *row, definition in rows]

    def _hide_sharing(self, tab: int, index: IndexDefinition) -> None:
        """Put every row that shares a value of a unique index to come among the hidden ones.

        The index comes to rows that were written apart from it. Who of them may be seen is settled
        with the rows (UNQ-1).
        """
        connection = self._connection
        row = connection.execute("SELECT table_id, name, definition FROM klal_table WHERE tab = ?", (tab,)).fetchone()
        table_id, name, definition = row
        table = self._table(tab, table_id, name, unpack(definition, TableDefinition, "stored table"), [index])
        rule = table.uniques[-1]
        by_id = {info.column_id: info for info in table.columns}
        terms = [
            f"{quote(by_id[column_id].name)} COLLATE {collation}"
            for column_id, collation in zip(rule.column_ids, rule.collations, strict=True)
        ]
        where = " AND ".join([f"{term} IS NOT NULL" for term in terms] + [f"({rule.condition})"] * bool(rule.condition))
        names = ", ".join(quote(info.name) for info in (*table.key, *table.values))
        group = ", ".join(terms)
        source = f"FROM main.{quote(name)} WHERE {where}"
        rows = connection.execute(
            f"SELECT {names} {source} AND ({group}) IN (SELECT {group} {source} GROUP BY {group} HAVING count(*) > 1)"
        ).fetchall()
        for row in rows:
            key, cells = row[: len(table.key)], row[len(table.key) :]
            image = table.encode_image(dict(zip(table.value_ids, cells, strict=True)))
            connection.execute(table.delete, key)
            hidden = (tab, pack(key), key_text(key), image)
            connection.execute("INSERT OR REPLACE INTO klal_hidden VALUES(?,?,?,?)", hidden)


def _may_raise(index: IndexDefinition) -> bool:
    return not all(map(is_total, (index.condition, *(term.expression for term in index.terms))))


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
            condition = tokens_sql(_unraised(check.condition), declared.__getitem__)
            detail = literal_sql(check.name or tokens_sql(check.condition, declared.__getitem__))
            asked.append(f"SELECT 'check'{start}, {detail} {source} WHERE NOT ({condition})")
        for key in state.foreign_keys:
            parent = schema.tables[key.parent] if key.parent else state
            parent_names = names_of(parent)
            ours = [f"t.{quote(declared[name])}" for name in key.columns]
            theirs = [f"p.{quote(parent_names[name])}" for name in key.parent_columns]
            given = " AND ".join(f"{column} IS NOT NULL" for column in ours)
            # With the parent's affinity and collation, as SQLite looks up a parent: the plus takes away the child's.
            equal = " AND ".join(f"{a} = +{b}" for a, b in zip(theirs, ours, strict=True))
            detail = literal_sql(f"{', '.join(declared[name] for name in key.columns)} names no row of {parent.name}")
            asked.append(
                f"SELECT 'foreign key'{start}, {detail} {source} WHERE {given}"
                f" AND NOT EXISTS (SELECT 1 FROM main.{quote(parent.name)} AS p WHERE {equal})"
            )
    # Group by group, since SQLite takes at most 500 SELECTs in one UNION.
    while len(asked) > _UNION_COUNT_MAX:
        groups = [asked[i : i + _UNION_COUNT_MAX] for i in range(0, len(asked), _UNION_COUNT_MAX)]
        asked = [f"SELECT * FROM ({' UNION ALL '.join(group)})" for group in groups]
    return f'CREATE VIEW main.klal_violations(kind, "table", "key", detail) AS {" UNION ALL ".join(asked)}'


def _unraised(condition: Tokens) -> Tokens:
    """Return a CHECK's condition with each abs(x) as abs(0 - (x)), which also has a value for the least integer."""
    found: list[Token] = []
    closes: list[bool] = []  # For each parenthesis that is open: whether it is one of abs.
    for at, token in enumerate(condition):
        if token == Token("o", "("):
            closes.append(at > 0 and condition[at - 1] == Token("f", "abs"))
            found.append(token)
            if closes[-1]:
                found += [Token("v", 0), Token("o", "-"), token]
        else:
            found.append(token)
            if token == Token("o", ")") and closes.pop():
                found.append(token)
    return tuple(found)


def _key_sql(table: Table) -> str:
    """Return SQL that gives a row's key as `key_text` does."""
    names = [f"t.{quote(info.name)}" for info in table.key]
    shown = [f"CASE typeof({name}) WHEN 'blob' THEN lower(hex({name})) ELSE {name} END" for name in names]
    return f"CAST({shown[0]} AS TEXT)" if len(shown) == 1 else f"json_array({', '.join(shown)})"


_UNION_COUNT_MAX = 200
_BUILT_VIOLATIONS = """
SELECT 'unique', t.name, h.key_text, 'another row shows a value of it' FROM klal_hidden h JOIN klal_table t USING (tab)
UNION ALL
SELECT 'dropped', l.name, NULL, l.row_count || CASE l.row_count WHEN 1 THEN ' row' ELSE ' rows' END
  || ' written in a change that the drop had not seen' FROM klal_lost l
UNION ALL
SELECT o.kind, o.name, NULL, CASE o.kind WHEN 'view' THEN 'it names something that is not there'
  ELSE 'some row makes it raise' END FROM klal_object o WHERE NOT o.is_built
"""


def _unique_rules(
    table_id: bytes, definition: TableDefinition, columns: tuple[ColumnInfo, ...], indexes: list[IndexDefinition]
) -> tuple[UniqueRule, ...]:
    by_id = {info.column_id: info for info in columns}
    found = ((column.name, by_id.get(column_id_of(table_id, column))) for column in definition.columns)
    declared = {name: info for name, info in found if info is not None}
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
