"""DDL from the user's words to acts: what travels instead of SQL text.

The statement runs in an empty database that has the same schema (`scratch`), and what
SQLite then says about it is the structure.

Source:
    Protocol spec section 10, rules SCH-1 to SCH-9 and POL-1. Decision D11.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from klal.errors import RefusedError, UnsupportedError, UsageError
from klal.model.acts import (
    DELETE_POLICIES,
    MERGE_POLICIES,
    RENAME_NUMBER_MAX,
    AddColumn,
    CreateIndex,
    CreateTable,
    CreateView,
    Drop,
    DropColumn,
    Rename,
    SchemaAct,
    SetPolicy,
    check_act,
)
from klal.model.schema import (
    TABLE_COLUMN_COUNT_GROWN_MAX,
    IndexDefinition,
    IndexTerm,
    ViewDefinition,
    column_id_of,
    fold,
    is_reserved,
)
from klal.model.tokens import ROW, TOTAL, VIEW
from klal.rules.schema import Schema, Stated, TableState, needed_columns, resolve
from klal.store.scratch import Scratch
from klal.store.sqltext import (
    Lexeme,
    Reader,
    find_name,
    lexemes_of,
    read_tokens,
    split,
    words_of,
)

# Words that can only stand unquoted as keywords, and why a CREATE TABLE or ADD COLUMN cannot have them.
_REFUSED_WORDS = {
    "CONFLICT": "ON CONFLICT in a table is not replicated; say INSERT OR ... in the statement instead",
    "AUTOINCREMENT": "two replicas would hand out the same number; use TEXT PRIMARY KEY DEFAULT (klal_id())",
}
_REFUSED_ADDED_WORDS = {
    **_REFUSED_WORDS,
    "REFERENCES": "an added column cannot have a foreign key; declare it in CREATE TABLE",
    "CHECK": "an added column cannot have a CHECK; declare it in CREATE TABLE",
    "GENERATED": "SQLite adds only virtual generated columns, and those are not replicated; use a view",
}
_LASTING = {
    "TRIGGER": (
        "a trigger in the file would run again wherever its change arrives;"
        " CREATE TEMP TRIGGER makes one for this connection, and what it writes is replicated"
    ),
    "VIRTUAL": (
        "a virtual table in the file is not replicated;"
        " CREATE VIRTUAL TABLE temp.NAME makes one for this connection, filled from a replicated table"
    ),
}


def read_ddl(sql: str, schema: Schema) -> list[SchemaAct]:
    """Return what a DDL statement declares; nothing when IF [NOT] EXISTS says that there is nothing to do.

    Raises:
        UsageError: Not accepted by SQLite, or not replicable, in a sentence that says what to do instead.
    """
    scratch = Scratch(schema)
    try:
        acts = _read_ddl(sql, schema, scratch)
        for act in acts:
            check_act(act)
    except RefusedError as error:
        raise UsageError(error.message) from error
    _check_views(schema, acts, scratch.broken_views)
    return acts


def _read_ddl(sql: str, schema: Schema, scratch: Scratch) -> list[SchemaAct]:
    reader = Reader(lexemes_of(sql))
    if reader.skip("CREATE", "TABLE"):
        reader.skip("IF", "NOT", "EXISTS")
        name = reader.take_name()
        if reader.skip("AS"):
            raise UnsupportedError(f"CREATE TABLE {name} AS is not replicated; create the table, then insert")
        return _created_table(sql, schema, scratch)
    if reader.skip("CREATE", "INDEX") or reader.skip("CREATE", "UNIQUE", "INDEX"):
        return _created_index(sql, reader, schema, scratch)
    if reader.skip("CREATE", "VIEW"):
        return _created_view(sql, reader, schema, scratch)
    if reader.skip("ALTER", "TABLE"):
        policy = read_policy(sql)
        if policy is not None:
            return policy_acts(schema, *policy)
        return _altered(sql, reader, schema, scratch)
    if reader.skip("DROP"):
        return _dropped(sql, reader, schema, scratch)
    kinds = [word for word in words_of(sql)[1:3] if word not in ("TEMP", "TEMPORARY")]
    kind = kinds[0] if kinds else "..."
    raise UnsupportedError(_LASTING.get(kind, f"CREATE {kind} is not replicated"))


def _check_words(sql: str, refused: dict[str, str]) -> None:
    words = words_of(sql)
    for word, sentence in refused.items():
        if word in words:
            raise UnsupportedError(f"{word}: {sentence}")


def _created_table(sql: str, schema: Schema, scratch: Scratch) -> list[SchemaAct]:
    _check_words(sql, _REFUSED_WORDS)
    before = scratch.names("table")
    scratch.run(sql)
    created = scratch.names("table") - before
    if not created:
        return []
    name = created.pop()
    if is_reserved(name):
        raise UsageError(f"table name {name} is reserved: it begins with klal_ or sqlite_, or ends as an id does")
    definition = scratch.table(name, schema)
    while definition.table_id in schema.dropped:
        definition = msgspec.structs.replace(definition, follows=definition.table_id)
    if definition.table_id in schema.tables:
        raise UsageError(f"table {name} was declared already, under another name here")
    return [CreateTable(definition)]


def _created_index(sql: str, reader: Reader, schema: Schema, scratch: Scratch) -> list[SchemaAct]:
    is_unique = "UNIQUE" in words_of(sql)[:2]
    before = scratch.names("index")
    scratch.run(sql)
    if scratch.names("index") == before:
        return []
    reader.skip("IF", "NOT", "EXISTS")
    name = reader.take_name()
    reader.skip("ON")
    table = _table_named(schema, reader.take_name())
    column_ids = {state.name: state.column_id for state in table.columns.values()}

    def column_of(column: str) -> bytes | None:
        found = find_name(list(column_ids), column)
        return None if found is None else column_ids[found]

    terms = tuple(_term(name, stretch, column_of, table, is_unique=is_unique) for stretch in split(reader.take_group()))
    condition = (
        read_tokens(reader.rest(), TOTAL if is_unique else ROW, f"index {name}", column_of)
        if reader.skip("WHERE")
        else ()
    )
    definition = IndexDefinition(name, table.table_id, terms, is_unique, condition)
    while definition.object_id in schema.dropped:
        definition = msgspec.structs.replace(definition, follows=definition.object_id)
    if definition.object_id in schema.indexes:
        raise UsageError(f"index {name} was declared already, under another name here")
    return [CreateIndex(definition)]


def _term(
    index: str,
    stretch: list[Lexeme],
    column_of: Callable[[str], bytes | None],
    table: TableState,
    *,
    is_unique: bool,
) -> IndexTerm:
    is_descending = stretch[-1].upper == "DESC"
    if stretch[-1].upper in ("ASC", "DESC"):
        stretch = stretch[:-1]
    collation = ""
    if len(stretch) > 2 and stretch[-2].upper == "COLLATE":
        collation = (stretch[-1].name or "").upper()
        stretch = stretch[:-2]
    expression = read_tokens(stretch, ROW, f"index {index}", column_of)
    if is_unique:
        column = table.columns.get(expression[0].value) if len(expression) == 1 else None
        if column is None or column.column.generated:
            raise UnsupportedError(
                f"UNIQUE INDEX {index} is over an expression, and a merge can tell only plain columns apart",
                hint="make it a column of its own",
            )
    return IndexTerm(expression, collation, is_descending)


def _created_view(sql: str, reader: Reader, schema: Schema, scratch: Scratch) -> list[SchemaAct]:
    before = scratch.names("view")
    scratch.run(sql)
    if scratch.names("view") == before:
        return []
    reader.skip("IF", "NOT", "EXISTS")
    name = reader.take_name()
    columns = (
        tuple(lexeme.name or "" for lexeme in reader.take_group() if lexeme.name)
        if reader.peek().is_operator("(")
        else ()
    )
    reader.skip("AS")
    definition = ViewDefinition(name, columns, read_tokens(reader.rest(), VIEW, f"view {name}"))
    while definition.object_id in schema.dropped:
        definition = msgspec.structs.replace(definition, follows=definition.object_id)
    if definition.object_id in schema.views:
        raise UsageError(f"view {name} was declared already, under another name here")
    return [CreateView(definition)]


def _altered(sql: str, reader: Reader, schema: Schema, scratch: Scratch) -> list[SchemaAct]:
    table = _table_named(schema, reader.take_name())
    if reader.skip("ADD"):
        return _added_column(sql, table, schema, scratch)
    scratch.run(sql)
    if reader.skip("RENAME", "TO"):
        return [Rename(table.table_id, b"", reader.take_name(), _next_number(schema, table.table_id, b""))]
    if reader.skip("RENAME"):
        reader.skip("COLUMN")
        column_id = _column_named(table, reader.take_name())
        reader.skip("TO")
        return [Rename(table.table_id, column_id, reader.take_name(), _next_number(schema, table.table_id, column_id))]
    if reader.skip("DROP"):
        reader.skip("COLUMN")
        name = reader.take_name()
        column_id = _column_named(table, name)
        state = table.columns[column_id]
        if not state.is_added and state.column.name in needed_columns(table.definition):
            raise UsageError(f"column {name} is one that table {table.name} cannot do without")
        return [DropColumn(table.table_id, column_id)]
    raise UnsupportedError("of ALTER TABLE, only ADD COLUMN, DROP COLUMN and RENAME are replicated")


def read_policy(sql: str) -> tuple[str, str, str] | None:
    """Return (table name, merge, on delete) that an ALTER TABLE SET declares, the one not named empty; else None.

    SQLite does not know these words, so they are read here, whole, before it sees the text.

    Raises:
        UsageError: It sets something else.
    """
    reader = Reader(lexemes_of(sql))
    if not reader.skip("ALTER", "TABLE"):
        return None
    name = reader.take_name()
    if not reader.skip("SET"):
        return None
    merge = on_delete = ""
    if reader.skip("MERGE"):
        reader.skip("BY")
        merge = reader.take().upper.lower()
    elif reader.skip("ON", "DELETE"):
        on_delete = reader.take().upper.lower()
    is_known = merge in MERGE_POLICIES or on_delete in DELETE_POLICIES
    if not is_known or reader.rest():
        raise UsageError(
            "ALTER TABLE ... SET is not understood: want SET MERGE CELL or ROW, or SET ON DELETE REVIVE or WINS"
        )
    return name, merge, on_delete


def policy_acts(schema: Schema, name: str, merge: str, on_delete: str) -> list[SchemaAct]:
    """Return the act that sets how writes of a table are made, either of the two empty to leave it."""
    table = _table_named(schema, name)
    return [SetPolicy(table.table_id, merge, on_delete, min(table.policy.number + 1, RENAME_NUMBER_MAX))]


def _next_number(schema: Schema, table_id: bytes, column_id: bytes) -> int:
    # Of two with the last number, the later one stands.
    return min(schema.rename_numbers.get((table_id, column_id), 0) + 1, RENAME_NUMBER_MAX)


def _added_column(sql: str, table: TableState, schema: Schema, scratch: Scratch) -> list[SchemaAct]:
    _check_words(sql, _REFUSED_ADDED_WORDS)
    if len(table.columns) >= TABLE_COLUMN_COUNT_GROWN_MAX:
        raise UsageError(f"table {table.name} has {len(table.columns)} columns, which is as wide as one may grow")
    scratch.run(sql)
    column = scratch.table(table.name, schema).columns[-1]
    known = table.columns.keys() | table.dropped
    if column_id_of(table.table_id, column) in table.columns:
        raise UsageError(f"column {column.name} of table {table.name} was declared already, under another name here")
    while column_id_of(table.table_id, column) in known:
        column = msgspec.structs.replace(column, follows=column_id_of(table.table_id, column))
    return [AddColumn(table.table_id, column)]


def _dropped(sql: str, reader: Reader, schema: Schema, scratch: Scratch) -> list[SchemaAct]:
    kind = reader.take().upper
    if kind not in ("TABLE", "INDEX", "VIEW"):
        raise UnsupportedError(f"DROP {kind or '...'} is not replicated")
    may_be_absent = reader.skip("IF", "EXISTS")
    name = reader.take_name()
    named = {
        "TABLE": {table_id: table.name for table_id, table in schema.tables.items()},
        "INDEX": {object_id: present for object_id, (present, _) in schema.indexes.items()},
        "VIEW": {object_id: present for object_id, (present, _) in schema.views.items()},
    }[kind]
    found = [object_id for object_id, present in named.items() if fold(present) == fold(name)]
    if not found:
        if may_be_absent:
            return []
        raise UsageError(f"there is no {kind.lower()} {name} to drop")
    for other in schema.tables.values():
        if any(key.parent == found[0] for key in other.foreign_keys):
            raise UsageError(f"table {name} is referenced by table {other.name}; drop that first")
    # A view that names what is not there any more is declared, and in no database.
    if find_name(list(scratch.names(kind.lower())), name) is not None:
        scratch.run(sql)
    return [Drop(found[0])]


def _table_named(schema: Schema, name: str) -> TableState:
    for table in schema.tables.values():
        if fold(table.name) == fold(name):
            return table
    raise UsageError(f"there is no table {name}")


def _column_named(table: TableState, name: str) -> bytes:
    for state in table.columns.values():
        if fold(state.name) == fold(name):
            return state.column_id
    raise UsageError(f"table {table.name} has no column {name}")


def _check_views(schema: Schema, acts: list[SchemaAct], broken_before: set[str]) -> None:
    """Return if no view that is usable now stops being so, and none is made that is not.

    Raises:
        UsageError: It names the view.
    """
    if not schema.views and not any(isinstance(act, CreateView) for act in acts):
        return
    broken = Scratch(resolve_with(schema, acts)).broken_views - broken_before
    if broken:
        made = {act.definition.name for act in acts if isinstance(act, CreateView)}
        name = min(broken)
        if name in made:
            raise UsageError(f"view {name} cannot be used: it names something that is not replicated or not there")
        raise UsageError(f"view {name} uses what this changes; drop the view first")


def resolve_with(schema: Schema, acts: Sequence[SchemaAct]) -> Schema:
    """Return what a schema becomes with acts that have seen all of it."""
    newest = b"\xff" * 72
    return resolve([*schema.stated, *(Stated(newest, act) for act in acts)])
