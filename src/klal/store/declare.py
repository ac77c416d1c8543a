"""DDL in and out: from the user's words to data, and from data to the words SQLite gets.

SQLite itself is the parser. The statement runs in an empty database in memory, and what
SQLite then says about the table is the structure: two parsers can disagree on SQL, one
cannot. What travels is data with a small grammar, never SQL text (T38).

Law: `read_back(table_sql(d)) == d` for every definition that `definition_of` returns.

Source:
    Protocol spec section 10, rules SCH-1 to SCH-5.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import apsw

from klal.errors import UsageError
from klal.model.schema import DEFAULT_FUNCTIONS, Column, Default, TableDefinition, Value, affinity_of, is_reserved
from klal.store.file import allow_klal_id, translate
from klal.store.layout import quote
from klal.store.sql import Connection

_SPACE = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*"
_FIRST_WORD = re.compile(rf"{_SPACE}([A-Za-z]+)", re.DOTALL)
_BLANK = re.compile(rf"(?:{_SPACE};)*{_SPACE}(?:/\*.*|--[^\n]*)?", re.DOTALL)
_STRINGS = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/", re.DOTALL)
_TOKENS = re.compile(rf"{_STRINGS.pattern}|[^\s;]+", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|[+-]?0[xX][0-9a-fA-F]+")
_TEXT = re.compile(r"'(?:[^']|'')*'")
_BLOB = re.compile(r"[xX]'(?:[0-9a-fA-F]{2})*'")

# SQLite does not know these two, so they are read here, whole, before it sees the text.
_NAME = r"(?P<name>\w+|\"(?:[^\"]|\"\")+\"|`[^`]+`|\[[^\]]+\])"
_POLICY = re.compile(
    rf"{_SPACE}ALTER\s+TABLE\s+{_NAME}\s+SET\s+(?:MERGE\s+(?:BY\s+)?(?P<merge>CELL|ROW)|ON\s+DELETE\s+(?P<on_delete>REVIVE|WINS))"
    rf"{_SPACE};?{_SPACE}",
    re.IGNORECASE | re.DOTALL,
)
# Words that can only stand unquoted as keywords, and what each would ask of a merge.
_REFUSED_WORDS = {
    "CHECK": "CHECK constraints are not replicated by this version; check in your program",
    "REFERENCES": "foreign keys are not replicated by this version; keep the column and leave out REFERENCES",
    "UNIQUE": "UNIQUE is not replicated by this version; make the value the primary key, or leave it out",
    "CONFLICT": "ON CONFLICT in a table is not replicated; say INSERT OR ... in the statement instead",
    "GENERATED": "generated columns are not replicated by this version; compute them in a query",
    "AUTOINCREMENT": "two replicas would hand out the same number; use TEXT PRIMARY KEY DEFAULT (klal_id())",
    "TEMP": "temporary tables are not replicated",
    "TEMPORARY": "temporary tables are not replicated",
    "VIRTUAL": "virtual tables are not replicated by this version",
    "SELECT": "CREATE TABLE ... AS SELECT is not replicated; create the table, then insert",
}


def first_word(sql: str) -> str:
    """Return the statement's first keyword, upper case, or "" when it has none."""
    match = _FIRST_WORD.match(sql)
    return match[1].upper() if match else ""


def is_blank(sql: str) -> bool:
    """True when SQL text holds no statement: only spaces, comments and semicolons."""
    return _BLANK.fullmatch(sql) is not None


def savepoint_name(sql: str) -> str:
    """Return the name that a SAVEPOINT, RELEASE or ROLLBACK TO ends with, folded."""
    tokens: list[str] = [token for token in _TOKENS.findall(sql) if not token.startswith(("--", "/*"))]
    return tokens[-1].strip("\"'`[]").casefold()


def words_of(sql: str) -> list[str]:
    """Return the bare words of a statement, upper case, without strings, quoted names and comments."""
    return re.findall(r"[A-Za-z_][A-Za-z0-9_]*", _STRINGS.sub(" ", sql).upper())


class Scratch:
    """An empty database in memory in which SQLite reads DDL for us."""

    def __init__(self, tables: Sequence[TableDefinition]) -> None:
        self._connection = Connection(":memory:")
        allow_klal_id(self._connection, str)
        self._connection.pragma("trusted_schema", "off")
        for table in tables:
            self._connection.execute(table_sql(table))
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

    def tables(self) -> dict[str, TableDefinition]:
        """Return what is declared now, by name."""
        found = {}
        for _, name, kind, _, without_rowid, strict in self._connection.execute("PRAGMA main.table_list").fetchall():
            if kind == "table" and not name.startswith("sqlite_"):
                found[name] = self._definition(name, without_rowid=bool(without_rowid), strict=bool(strict))
        return found

    def _definition(self, name: str, *, without_rowid: bool, strict: bool) -> TableDefinition:
        columns = []
        key: list[tuple[int, str]] = []
        info = self._connection.execute(f"PRAGMA main.table_xinfo({quote(name)})").fetchall()
        for _, column_name, declared_type, not_null, default, key_position, hidden in info:
            if hidden:
                raise UsageError(f"column {column_name}: {_REFUSED_WORDS['GENERATED']}")
            collation = self._connection.column_metadata("main", name, column_name)[1].upper()
            column = Column(
                column_name,
                " ".join(declared_type.upper().split()),
                bool(not_null),
                _default(column_name, declared_type, default),
                collation,
            )
            columns.append(column)
            if key_position:
                key.append((key_position, column_name))
                _check_key_column(column, is_only=sum(bool(row[5]) for row in info) == 1, without_rowid=without_rowid)
        if not key:
            raise UsageError(
                f"table {name} has no primary key, so its rows could not be told apart on another replica",
                hint="declare one, for instance id TEXT PRIMARY KEY DEFAULT (klal_id())",
            )
        names = tuple(column_name for _, column_name in sorted(key))
        return TableDefinition(name, tuple(columns), names, strict, without_rowid)


def _allow_plain_ddl(
    action: int, first: str | None, _second: str | None, _third: str | None, _fourth: str | None
) -> int:
    allowed = {
        apsw.SQLITE_CREATE_TABLE,
        apsw.SQLITE_ALTER_TABLE,
        apsw.SQLITE_CREATE_INDEX,
        apsw.SQLITE_INSERT,
        apsw.SQLITE_UPDATE,
        apsw.SQLITE_READ,
        apsw.SQLITE_FUNCTION,
        apsw.SQLITE_SELECT,
        apsw.SQLITE_REINDEX,
        apsw.SQLITE_PRAGMA,
    }
    is_own = action in (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE) and not str(first).startswith("sqlite_")
    is_pragma = action == apsw.SQLITE_PRAGMA and first not in ("table_xinfo", "table_list", "quick_check")
    return apsw.SQLITE_OK if action in allowed and not is_own and not is_pragma else apsw.SQLITE_DENY


def _check_key_column(column: Column, *, is_only: bool, without_rowid: bool) -> None:
    if is_only and column.type == "INTEGER" and not without_rowid:
        raise UsageError(
            f"INTEGER PRIMARY KEY on column {column.name} numbers rows by itself, and two replicas apart would hand out"
            " the same number",
            hint=f"use {column.name} TEXT PRIMARY KEY DEFAULT (klal_id()), or INT PRIMARY KEY to number rows yourself",
        )
    if column.collation != "BINARY":
        raise UsageError(f"key column {column.name} has collation {column.collation}, want BINARY")
    if affinity_of(column.type) == "BLOB" and "BLOB" not in column.type:
        raise UsageError(
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
        raise UsageError(
            f"DEFAULT {text} of column {column} is not replicated:"
            f" want a literal or one of {', '.join(DEFAULT_FUNCTIONS)}"
        )
    # A literal by the grammar above, so this evaluates nothing but itself.
    connection = Connection(":memory:")
    connection.execute(f"CREATE TABLE t(c {affinity_of(declared_type)})")
    literal: Value = connection.execute(f"INSERT INTO t VALUES({stripped}) RETURNING c").get
    return Default(literal)


def check_words(sql: str) -> None:
    """Return if a CREATE TABLE or ADD COLUMN uses nothing that this version cannot replicate.

    Raises:
        UsageError: In a sentence that says what to do instead.
    """
    words = words_of(sql)
    for word, sentence in _REFUSED_WORDS.items():
        if word in words:
            raise UsageError(f"{word}: {sentence}")


def created_table(sql: str, tables: Sequence[TableDefinition]) -> TableDefinition | None:
    """Return the table that a CREATE TABLE declares, or None when IF NOT EXISTS found it.

    Raises:
        UsageError: Not accepted by SQLite, or not replicable.
    """
    check_words(sql)
    scratch = Scratch(tables)
    before = set(scratch.tables())
    scratch.run(sql)
    created = [table for name, table in scratch.tables().items() if name not in before]
    if not created:
        return None
    if len(created) > 1:
        raise UsageError("want one CREATE TABLE in a statement")
    if is_reserved(created[0].name):
        raise UsageError(f"table name {created[0].name} is reserved: it begins with klal_ or sqlite_")
    return created[0]


def set_policy(sql: str) -> tuple[str, str, str] | None:
    """Return (table name, merge, on delete) that an ALTER TABLE SET declares, the one not named empty; else None."""
    match = _POLICY.fullmatch(sql)
    if match is None:
        return None
    name = match["name"]
    quoted = name[1:-1].replace('""', '"') if name[0] == '"' else name[1:-1]
    return quoted if name[0] in '"`[' else name, (match["merge"] or "").lower(), (match["on_delete"] or "").lower()


def added_column(sql: str, tables: Sequence[TableDefinition]) -> tuple[str, Column]:
    """Return (table name, column) that an ALTER TABLE ADD COLUMN declares.

    Raises:
        UsageError: Not accepted by SQLite, not replicable, or another kind of ALTER.
    """
    words = words_of(sql)
    if "RENAME" in words[:6] or "DROP" in words[:6]:
        raise UsageError("RENAME and DROP are not replicated by this version; of ALTER TABLE, only ADD COLUMN is")
    if "SET" in words[3:6] and "ADD" not in words[3:6]:
        raise UsageError(
            "ALTER TABLE ... SET is not understood: want SET MERGE CELL or ROW, or SET ON DELETE REVIVE or WINS"
        )
    check_words(sql)
    scratch = Scratch(tables)
    before = scratch.tables()
    scratch.run(sql)
    for name, table in scratch.tables().items():
        was = before.get(name)
        if was is not None and table.columns[:-1] == was.columns:
            return name, table.columns[-1]
    raise UsageError("of ALTER TABLE, only ADD COLUMN is replicated by this version")


def column_sql(column: Column) -> str:
    """Return one column as it stands in CREATE TABLE or ADD COLUMN."""
    words = [quote(column.name)]
    if column.type:
        words.append(column.type)
    if column.not_null:
        words.append("NOT NULL")
    if column.default is not None:
        words.append(f"DEFAULT {_default_sql(column.default)}")
    if column.collation != "BINARY":
        words.append(f"COLLATE {column.collation}")
    return " ".join(words)


def table_sql(table: TableDefinition) -> str:
    """Return the CREATE TABLE of a definition."""
    key = f"PRIMARY KEY({', '.join(map(quote, table.key))})"
    options = ["STRICT"] * table.strict + ["WITHOUT ROWID"] * table.without_rowid
    columns = ", ".join(column_sql(column) for column in table.columns)
    return f"CREATE TABLE {quote(table.name)}({columns}, {key}) {', '.join(options)}".rstrip()


def _default_sql(default: Default) -> str:
    if default.function:
        return f"({default.function}())" if default.function == "klal_id" else f"({default.function.upper()})"
    # SQLite's own quoting, so that text, blobs and odd floats come back as they went in.
    return f"({apsw.format_sql_value(default.literal)})"
