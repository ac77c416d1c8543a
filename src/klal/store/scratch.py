"""SQLite as the parser of DDL: an empty database in memory, and what SQLite then says about it.

Two parsers can disagree on SQL, one cannot. Expressions, of which SQLite tells only the
text, become tokens.

Law: a definition's SQL reads back here as that definition, or it is refused.

Source:
    Protocol spec section 10, rules SCH-1 to SCH-8. Decision D11.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import apsw
import msgspec

from klal.errors import MalformedError, UnsupportedError, UsageError
from klal.model.acts import (
    AddColumn,
    CreateIndex,
    CreateTable,
    SchemaAct,
)
from klal.model.schema import (
    DEFAULT_FUNCTIONS,
    Check,
    Column,
    Default,
    ForeignKey,
    IndexDefinition,
    TableDefinition,
    Value,
    ViewDefinition,
    affinity_of,
    fold,
    is_parent_key,
    is_reserved,
)
from klal.model.tokens import CHECK, TOTAL
from klal.rules.schema import Schema, Stated, resolve
from klal.store.ddl import index_sql, index_sql_over, table_sql, view_sql
from klal.store.file import allow_klal_id, translate
from klal.store.layout import quote
from klal.store.sql import Connection
from klal.store.sqltext import (
    Reader,
    bare,
    find_name,
    lexemes_of,
    read_tokens,
    split,
)

_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|[+-]?0[xX][0-9a-fA-F]+")
_TEXT = re.compile(r"'(?:[^']|'')*'")
_BLOB = re.compile(r"[xX]'(?:[0-9a-fA-F]{2})*'")
_VIEW_DEPTH_MAX = 100  # Of views over views: SQLite expands them all for each use.
_CONSTRAINT_WORDS = ("CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN")
_READ_ACTIONS = {
    apsw.SQLITE_SELECT,
    apsw.SQLITE_READ,
    apsw.SQLITE_FUNCTION,
    apsw.SQLITE_RECURSIVE,
}
_DDL_ACTIONS = _READ_ACTIONS | {
    apsw.SQLITE_ALTER_TABLE,
    apsw.SQLITE_CREATE_INDEX,
    apsw.SQLITE_CREATE_TABLE,
    apsw.SQLITE_CREATE_VIEW,
    apsw.SQLITE_DELETE,
    apsw.SQLITE_DROP_INDEX,
    apsw.SQLITE_DROP_TABLE,
    apsw.SQLITE_DROP_VIEW,
    apsw.SQLITE_INSERT,
    apsw.SQLITE_REINDEX,
    apsw.SQLITE_UPDATE,
}


class Scratch:
    """A database in memory with a schema and no rows, in which SQLite reads DDL for us."""

    def __init__(self, schema: Schema) -> None:
        self._connection = Connection(":memory:")
        allow_klal_id(self._connection, str)
        self._connection.pragma("trusted_schema", "off")
        self._connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
        self._connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
        for table in schema.tables.values():
            self._connection.execute(table_sql(table, schema))
        for name, index in schema.indexes.values():
            self._connection.execute(index_sql(name, index, schema))
        self.broken_views = {schema.views[object_id][0] for object_id in create_views(self._connection, schema)}
        self._connection.authorizer = _allow_plain_ddl

    def run(self, sql: str) -> None:
        """Run the user's DDL here.

        Raises:
            UsageError: SQLite does not accept it, or it does more than declare.
        """
        try:
            for _ in self._connection.execute(sql):
                pass
        except apsw.Error as error:
            raise translate(error, "the statement") from error

    def check_writable(self, name: str) -> None:
        """Prepare an INSERT: only then SQLite finds that generated columns go round in a circle."""
        self._connection.authorizer = None
        self._connection.execute(f"EXPLAIN INSERT INTO main.{quote(name)} DEFAULT VALUES").fetchall()

    def names(self, kind: str) -> set[str]:
        """Return the names of everything of one kind: "table", "index" or "view"."""
        rows = self._connection.execute("SELECT name FROM sqlite_schema WHERE type = ? AND sql NOT NULL", (kind,))
        return {name for (name,) in rows}

    def table(self, name: str, schema: Schema) -> TableDefinition:
        """Return what SQLite says of a table that was declared here.

        Raises:
            UsageError: What cannot be replicated, in a sentence that says what to do instead.
        """
        self._connection.authorizer = None  # Nothing of the user's is run from here on.
        return _TableReader(self._connection, name, schema).read()


class _TableReader:
    """Reads one table of a scratch database back as a definition."""

    def __init__(self, connection: Connection, name: str, schema: Schema) -> None:
        self._connection = connection
        self._name = name
        self._schema = schema
        sql = connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (name,)).get
        reader = Reader(lexemes_of(sql))
        while not reader.peek().is_operator("("):
            reader.take()
        self._stretches = list(split(reader.take_group()))
        info = connection.execute(f"PRAGMA main.table_xinfo({quote(name)})").fetchall()
        self._info = [row for row in info if row[6] in (0, 2, 3)]
        self._names = [row[1] for row in self._info]

    def read(self) -> TableDefinition:
        name = self._name
        _, _, _, _, without_rowid, strict = self._connection.execute(
            f"PRAGMA main.table_list({quote(name)})"
        ).fetchone()
        keys = sorted((row[5], row[1]) for row in self._info if row[5])
        if not keys:
            raise UnsupportedError(
                f"table {name} has no primary key, so its rows could not be told apart on another replica",
                hint="declare one, for instance id TEXT PRIMARY KEY DEFAULT (klal_id())",
            )
        generated = dict(self._generated())
        columns = tuple(
            self._column(row, generated, is_only_key=len(keys) == 1, without_rowid=bool(without_rowid))
            for row in self._info
        )
        return TableDefinition(
            name,
            columns,
            tuple(column_name for _, column_name in keys),
            bool(strict),
            bool(without_rowid),
            tuple(self._checks()),
            tuple(self._uniques({column.name: column for column in columns})),
            tuple(self._foreign_keys()),
        )

    def _column(
        self, row: Sequence[Any], generated: dict[str, tuple[Any, ...]], *, is_only_key: bool, without_rowid: bool
    ) -> Column:
        _, name, declared_type, not_null, default, key_position, hidden = row
        if hidden == 2:  # Virtual.
            raise UnsupportedError(
                f"column {name} is generated and virtual, which SQLite does not show to those who watch its writes",
                hint="declare it STORED, or make a view",
            )
        if hidden and not_null:
            raise UnsupportedError(f"generated column {name} is NOT NULL, which a merge could not keep; leave it out")
        collation = self._connection.column_metadata("main", self._name, name)[1].upper()
        words = " ".join(declared_type.upper().split())
        column = Column(
            name, words, bool(not_null), _default(name, declared_type, default), collation, generated.get(name, ())
        )
        if key_position:
            _check_key_column(column, is_only=is_only_key, without_rowid=without_rowid)
        return column

    def _column_of(self, name: str) -> str | None:
        return find_name(self._names, name)

    def _generated(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        for stretch in self._stretches:
            column = self._column_of(stretch[0].name or "")
            if column is None or stretch[0].upper in _CONSTRAINT_WORDS:
                continue
            reader = Reader(stretch)
            while not reader.is_done:
                if reader.peek().upper == "AS" and reader.peek(1).is_operator("("):
                    reader.take()
                    yield column, read_tokens(reader.take_group(), TOTAL, f"generated column {column}", self._column_of)
                elif reader.peek().is_operator("("):
                    reader.take_group()
                else:
                    reader.take()

    def _checks(self) -> Iterator[Check]:
        for stretch in self._stretches:
            reader = Reader(stretch)
            name = ""
            while not reader.is_done:
                if reader.skip("CONSTRAINT"):
                    name = reader.take().name or ""
                elif reader.peek().upper == "CHECK" and reader.peek(1).is_operator("("):
                    reader.take()
                    what = f"CHECK of table {self._name}"
                    yield Check(name, bare(read_tokens(reader.take_group(), CHECK, what, self._column_of)))
                    name = ""
                elif reader.peek().is_operator("("):
                    reader.take_group()
                else:
                    reader.take()

    def _uniques(self, columns: dict[str, Column]) -> Iterator[tuple[str, ...]]:
        lists = self._connection.execute(f"PRAGMA main.index_list({quote(self._name)})").fetchall()
        for _, index, _, origin, _ in reversed(lists):
            if origin != "u":
                continue
            rows = self._connection.execute(f"PRAGMA main.index_xinfo({quote(index)})").fetchall()
            terms = [(name, collation.upper()) for _, _, name, _, collation, is_key in rows if is_key]
            for name, collation in terms:
                if columns[name].generated:
                    raise UnsupportedError(
                        f"UNIQUE over the generated column {name} is not replicated; make it a column"
                    )
                if columns[name].collation != collation:
                    raise UnsupportedError(f"UNIQUE with another collation than column {name} has is not replicated")
            yield tuple(name for name, _ in terms)

    def _foreign_keys(self) -> Iterator[ForeignKey]:
        rows = self._connection.execute(f"PRAGMA main.foreign_key_list({quote(self._name)})").fetchall()
        deferred = self._deferred()
        groups: dict[int, list[Any]] = {}
        for row in rows:
            groups.setdefault(row[0], []).append(row)
        # SQLite numbers them from the last one declared to the first.
        for number in sorted(groups, reverse=True):
            group = sorted(groups[number], key=lambda row: row[1])
            parent_name, on_update, on_delete = group[0][2], group[0][5], group[0][6]
            columns = tuple(str(find_name(self._names, row[3])) for row in group)
            wanted = None if group[0][4] is None else [row[4] for row in group]
            parent, parent_columns = self._parent(parent_name, wanted)
            is_deferred = deferred[len(groups) - 1 - number]
            yield ForeignKey(columns, parent, parent_columns, on_delete, on_update, is_deferred)

    def _parent(self, name: str, wanted: list[str] | None) -> tuple[bytes, tuple[str, ...]]:
        """Return the parent's id, or b"" for this table, and the declared names of its columns."""
        if fold(name) == fold(self._name):
            if wanted is None:
                keys = sorted((row[5], row[1]) for row in self._info if row[5])
                return b"", tuple(column for _, column in keys)
            # Whether they are a key is asked of the whole definition, once it is read.
            return b"", tuple(find_name(self._names, column) or column for column in wanted)
        parents = [table for table in self._schema.tables.values() if fold(table.name) == fold(name)]
        if not parents:
            raise UsageError(f"FOREIGN KEY names table {name}, which does not exist; create it first")
        parent = parents[0]
        if wanted is None:
            return parent.table_id, parent.definition.key
        declared = {fold(state.name): state.column.name for state in parent.columns.values()}
        columns = tuple(declared.get(fold(column), column) for column in wanted)
        if not is_parent_key(parent.definition, columns):
            raise UsageError(f"FOREIGN KEY names columns of table {name} that are neither its key nor UNIQUE in it")
        return parent.table_id, columns

    def _deferred(self) -> list[bool]:
        found: list[bool] = []
        for stretch in self._stretches:
            reader = Reader(stretch)
            while not reader.is_done:
                if reader.skip("REFERENCES"):
                    found.append(False)
                elif reader.skip("NOT", "DEFERRABLE"):
                    pass
                elif reader.skip("DEFERRABLE", "INITIALLY", "DEFERRED"):
                    found[-1] = True
                else:
                    reader.take()
        return found


def _allow_plain_ddl(
    action: int, first: str | None, _second: str | None, _third: str | None, _fourth: str | None
) -> int:
    # DROP asks to delete what it drops; no statement that is run here deletes anything else.
    is_own = action in (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE) and not str(first).startswith("sqlite_")
    is_pragma = action == apsw.SQLITE_PRAGMA and first == "quick_check"  # DROP COLUMN asks.
    return apsw.SQLITE_OK if is_pragma or (action in _DDL_ACTIONS and not is_own) else apsw.SQLITE_DENY


def _allow_reading(action: int, first: str | None, _second: str | None, _third: str | None, _fourth: str | None) -> int:
    # What is klal's or SQLite's own is another thing in every file.
    is_theirs = action == apsw.SQLITE_READ and is_reserved(str(first))
    return apsw.SQLITE_OK if action in _READ_ACTIONS and not is_theirs else apsw.SQLITE_DENY


def create_views(connection: Connection, schema: Schema) -> list[bytes]:
    """Create all views that can be used, and return the ids of the others (SCH-8).

    One may select from another, whatever their order, so they are tried until no more can be made.
    """
    left = sorted(schema.views)
    for _ in range(_VIEW_DEPTH_MAX):
        broken = [object_id for object_id in left if not try_view(connection, *schema.views[object_id])]
        if len(broken) in (0, len(left)):
            return broken
        left = broken
    return left


def try_view(connection: Connection, name: str, view: ViewDefinition) -> bool:
    """Create a view if what it selects from is there and it does nothing but read; True if so (SCH-8)."""
    before = connection.authorizer
    connection.execute("SAVEPOINT klal_view")
    try:
        connection.execute(view_sql(name, view))
        # Prepared and not run: SQLite looks a view's names up when it is used.
        connection.authorizer = _allow_reading
        connection.execute(f"EXPLAIN SELECT * FROM {quote(name)}").fetchall()
    except apsw.Error:
        connection.authorizer = before
        connection.execute("ROLLBACK TO klal_view")
        is_usable = False
    else:
        is_usable = True
    finally:
        connection.authorizer = before
    connection.execute("RELEASE klal_view")
    return is_usable


def _check_key_column(column: Column, *, is_only: bool, without_rowid: bool) -> None:
    if is_only and column.type == "INTEGER" and not without_rowid:
        raise UnsupportedError(
            f"INTEGER PRIMARY KEY on column {column.name} numbers rows by itself, and two replicas apart would hand out"
            " the same number",
            hint=f"use {column.name} TEXT PRIMARY KEY DEFAULT (klal_id()), or INT PRIMARY KEY to number rows yourself",
        )
    if column.collation != "BINARY":
        raise UnsupportedError(f"key column {column.name} has collation {column.collation}, want BINARY")
    if affinity_of(column.type) == "BLOB" and "BLOB" not in column.type:
        raise UnsupportedError(
            f"key column {column.name} has no type, so 1 and 1.0 would be one key in SQLite and two elsewhere",
            hint="declare it TEXT, INT or BLOB",
        )


def _default(column: str, declared_type: str, text: str | None) -> Default | None:
    """Return the structured form of a DEFAULT that SQLite gives as text.

    A literal is kept as the column stores it: DEFAULT 3 of a REAL column is 3.0. SQLite shows rows
    that are older than an added column with the one to a query and with the other to the hook.
    """
    if text is None:
        return None
    stripped = text.strip()
    while stripped.startswith("(") and stripped.endswith(")"):
        stripped = stripped[1:-1].strip()
    folded = stripped.casefold().removesuffix("()")
    if folded in DEFAULT_FUNCTIONS:
        return Default(None, folded)
    if folded == "null":
        return Default(None)
    stripped = {"true": "1", "false": "0"}.get(folded, stripped)
    if not (_NUMBER.fullmatch(stripped) or _TEXT.fullmatch(stripped) or _BLOB.fullmatch(stripped)):
        raise UnsupportedError(
            f"DEFAULT {text} of column {column} is not replicated:"
            f" want a literal or one of {', '.join(DEFAULT_FUNCTIONS)}"
        )
    # A literal by the grammar above, so this evaluates nothing but itself.
    connection = Connection(":memory:")
    connection.execute(f"CREATE TABLE t(c {affinity_of(declared_type)})")
    literal: Value = connection.execute(f"INSERT INTO t VALUES({stripped}) RETURNING c").get
    return Default(literal)


def check_act_reads_back(act: SchemaAct) -> None:
    """Return if SQLite understands an act as it was meant, whatever else is declared.

    The verdict depends on the act alone, so it is the same on every replica, whatever came first.

    Raises:
        MalformedError: SCH-4 or SCH-7, SQLite does not accept it or reads something else.
    """
    match act:
        case CreateTable():
            check_reads_back(act.definition)
        case AddColumn():
            key = Column("k" if fold(act.column.name) != "k" else "l", "TEXT")
            check_reads_back(TableDefinition("t", (key, act.column), (key.name,)))
        case CreateIndex():
            _check_index_reads_back(act.definition)
        case _:
            pass


def _check_index_reads_back(index: IndexDefinition) -> None:
    connection = Connection(":memory:")
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
    try:
        columns = ", ".join(["k", *(quote(column_id.hex()) for column_id in sorted(index.column_ids))])
        connection.execute(f"CREATE TABLE t({columns})")
        connection.execute(index_sql_over("i", index, "t", bytes.hex))
        found = connection.execute("SELECT count(*) FROM pragma_index_xinfo('i') WHERE key").get
    except apsw.Error as error:
        raise MalformedError(f"index {index.name!r:.40} cannot be created: {error}", rule="SCH-7") from error
    if found != len(index.terms):
        raise MalformedError(f"index {index.name!r:.40} is not what its definition says", rule="SCH-7")


def check_reads_back(definition: TableDefinition) -> None:
    """Return if SQLite understands a definition as it was meant.

    Raises:
        MalformedError: SCH-4, SQLite does not accept it or reads something else.
    """
    # Foreign keys are names and listed words only, and their parents are elsewhere.
    alone = msgspec.structs.replace(definition, foreign_keys=())
    schema = resolve([Stated(b"", CreateTable(alone))])
    try:
        scratch = Scratch(schema)
        scratch.check_writable(definition.name)
        again = scratch.table(definition.name, schema)
    except (apsw.Error, UsageError) as error:
        raise MalformedError(f"table {definition.name!r:.40} cannot be created: {error}", rule="SCH-4") from error
    if msgspec.structs.replace(again, follows=definition.follows) != alone:
        raise MalformedError(f"table {definition.name!r:.40} is not what its definition says", rule="SCH-4")
