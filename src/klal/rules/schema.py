"""What the applied schema acts come to: tables, columns, indexes and views, and the names they bear.

The schema is a function of the set of applied acts, whatever the order in which they came.
So a renaming needs no rows rewritten and no past rows read again, a table that two members
declared apart is one table, and a drop that meets writes it had not seen is no accident:
dropped is dropped, and what was written unseen is listed (SCH-9).

Law: `resolve` of a set of acts does not depend on their order, and declaring an act twice
changes nothing.

Source:
    Protocol spec section 10, rules SCH-1 to SCH-9. Decision D11.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from klal.errors import MalformedError
from klal.model.acts import AddColumn, CreateIndex, CreateTable, CreateView, Drop, DropColumn, Rename, SchemaAct
from klal.model.schema import (
    Column,
    ForeignKey,
    IndexDefinition,
    TableDefinition,
    ViewDefinition,
    check_addable,
    column_id_of,
    fold,
)


@dataclass(frozen=True, slots=True)
class Stated:
    """An applied act and the order key, as bytes that sort, of the first change that states it."""

    order: bytes
    act: SchemaAct


@dataclass(frozen=True, slots=True)
class ColumnState:
    """A column as it stands: its id, the name it bears, and what it was declared as."""

    column_id: bytes
    name: str
    column: Column
    is_added: bool


@dataclass(frozen=True, slots=True)
class TableState:
    """A table as it stands.

    Shape:
        columns: by id; the definition's in its order, added ones after them, ascending by id.
        dropped: ids of columns that were dropped.
        foreign_keys: those whose parent exists.
    """

    table_id: bytes
    name: str
    definition: TableDefinition
    columns: dict[bytes, ColumnState]
    dropped: frozenset[bytes]
    foreign_keys: tuple[ForeignKey, ...]


@dataclass(frozen=True, slots=True)
class Schema:
    """Everything declared and not dropped, by id, and the ids of all that was dropped.

    Shape:
        stated: the acts that it came from.
        rename_numbers: (table id, column id or empty) -> number of the renaming that stands.
    """

    stated: tuple[Stated, ...] = ()
    tables: dict[bytes, TableState] = field(default_factory=dict)
    indexes: dict[bytes, tuple[str, IndexDefinition]] = field(default_factory=dict)
    views: dict[bytes, tuple[str, ViewDefinition]] = field(default_factory=dict)
    dropped: frozenset[bytes] = frozenset()
    rename_numbers: dict[tuple[bytes, bytes], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Renaming:
    number: int
    order: bytes
    name: str


@dataclass(frozen=True, slots=True)
class _Claim:
    """Somebody's claim to a name; the smallest of those to one name bears it."""

    name: str
    rank: tuple[int, bytes, bytes]
    identity: bytes


def resolve(stated: Iterable[Stated]) -> Schema:
    """Return the schema that these acts come to.

    Args:
        stated: Each act once, with the smallest order key of the changes that state it.
    """
    acts = sorted(stated, key=lambda each: each.order)
    dropped = {each.act.object_id for each in acts if isinstance(each.act, Drop)}
    created = {each.act.definition.table_id: each for each in acts if isinstance(each.act, CreateTable)}
    live = {table_id: each for table_id, each in created.items() if table_id not in dropped}
    renames = _renames(acts)
    tables: dict[bytes, TableState] = {}
    claims: list[_Claim] = []
    for table_id, each in live.items():
        assert isinstance(each.act, CreateTable), "created holds nothing else"
        definition = each.act.definition
        table = _table(table_id, definition, acts, renames, live)
        tables[table_id] = table
        renamed = renames.get((table_id, b""))
        order, name = (each.order, definition.name) if renamed is None else (renamed.order, renamed.name)
        claims.append(_Claim(name, (0, order, table_id), table_id))
    indexes, views = {}, {}
    for each in acts:
        act = each.act
        if isinstance(act, CreateView) and (object_id := act.definition.object_id) not in dropped:
            views[object_id] = act.definition
            claims.append(_Claim(act.definition.name, (1, each.order, object_id), object_id))
        elif isinstance(act, CreateIndex) and (object_id := act.definition.object_id) not in dropped:
            on = tables.get(act.definition.table_id)
            # An index lives as long as everything it is over.
            if on is not None and act.definition.column_ids <= on.columns.keys():
                indexes[object_id] = act.definition
                claims.append(_Claim(act.definition.name, (2, each.order, object_id), object_id))
    # SQLite keeps tables, views and indexes under one set of names; a table never gives way to another kind.
    names = _settle(claims)
    return Schema(
        tuple(acts),
        {
            table_id: TableState(
                table_id, names[table_id], table.definition, table.columns, table.dropped, table.foreign_keys
            )
            for table_id, table in tables.items()
        },
        {object_id: (names[object_id], definition) for object_id, definition in indexes.items()},
        {object_id: (names[object_id], definition) for object_id, definition in views.items()},
        frozenset(dropped),
        {place: renaming.number for place, renaming in renames.items()},
    )


def _renames(acts: list[Stated]) -> dict[tuple[bytes, bytes], _Renaming]:
    """Return the renaming that stands, by (table id, column id or empty)."""
    newest: dict[tuple[bytes, bytes], _Renaming] = {}
    for each in acts:
        if isinstance(each.act, Rename):
            place = (each.act.table_id, each.act.column_id)
            found = _Renaming(each.act.number, each.order, each.act.name)
            newest[place] = max(newest.get(place, found), found, key=lambda one: (one.number, one.order, one.name))
    return newest


def _table(
    table_id: bytes,
    definition: TableDefinition,
    acts: list[Stated],
    renames: dict[tuple[bytes, bytes], _Renaming],
    live: dict[bytes, Stated],
) -> TableState:
    declared = [(column_id_of(table_id, column), column, b"") for column in definition.columns]
    added = [
        (column_id_of(table_id, each.act.column), each.act.column, each.order)
        for each in acts
        if isinstance(each.act, AddColumn) and each.act.table_id == table_id
    ]
    own = {column_id for column_id, _, _ in declared}
    added = sorted({column_id: (column_id, column, order) for column_id, column, order in reversed(added)}.values())
    added = [each for each in added if each[0] not in own]
    known = own | {column_id for column_id, _, _ in added}
    dropped = frozenset(
        each.act.column_id
        for each in acts
        if isinstance(each.act, DropColumn) and each.act.table_id == table_id and each.act.column_id in known
    )
    claims = []
    for column_id, column, order in (*declared, *added):
        if column_id not in dropped:
            renamed = renames.get((table_id, column_id))
            # A column of the definition keeps its name against any added or renamed one.
            claim, name = (order, column.name) if renamed is None else (renamed.order, renamed.name)
            claims.append(_Claim(name, (0, claim, column_id), column_id))
    names = _settle(claims)
    columns = {
        column_id: ColumnState(column_id, names[column_id], column, column_id not in own)
        for column_id, column, _ in (*declared, *added)
        if column_id not in dropped
    }
    keys = tuple(key for key in definition.foreign_keys if not key.parent or key.parent in live)
    return TableState(table_id, "", definition, columns, dropped, keys)


def _settle(claims: list[_Claim]) -> dict[bytes, str]:
    """Return identity -> name: the smallest claim to a name bears it, the others are told apart by id (SCH-3)."""
    names: dict[bytes, str] = {}
    taken: set[str] = set()
    for claim in sorted(claims, key=lambda each: each.rank):
        plain = fold(claim.name)
        names[claim.identity] = f"{claim.name}__{claim.identity.hex()}" if plain in taken else claim.name
        taken.add(plain)
    return names


def check_act_fits(schema: Schema, act: SchemaAct) -> None:
    """Return if an act fits the schema that its writer had seen (SCH-5, SCH-7).

    What was dropped apart is no fault: such an act is kept and has no effect.

    Raises:
        MalformedError: It names what was never declared, or drops what its table cannot do without.
    """
    match act:
        case AddColumn():
            check_addable(act.column)
            _known(schema, act.table_id)
        case CreateIndex():
            table = _known(schema, act.definition.table_id)
            if table is not None and not act.definition.column_ids <= table.columns.keys() | table.dropped:
                raise MalformedError(f"index {act.definition.name!r:.40} names an unknown column", rule="SCH-7")
        case Rename() if act.column_id:
            table = _known(schema, act.table_id)
            if table is not None and act.column_id not in table.columns.keys() | table.dropped:
                raise MalformedError("an unknown column is renamed", rule="SCH-5")
        case Rename():
            _known(schema, act.table_id)
        case DropColumn():
            table = _known(schema, act.table_id)
            column = None if table is None else table.columns.get(act.column_id)
            if table is not None and column is not None and column.column.name in needed_columns(table.definition):
                raise MalformedError(f"column {column.name!r:.40} is one its table cannot do without", rule="SCH-5")
            if table is not None and act.column_id not in table.columns.keys() | table.dropped:
                raise MalformedError("an unknown column is dropped", rule="SCH-5")
        case CreateTable():
            for key in act.definition.foreign_keys:
                parent = _known(schema, key.parent) if key.parent else None
                definition = act.definition if not key.parent else None if parent is None else parent.definition
                if definition is not None and not is_parent_key(definition, key.parent_columns):
                    found = f"a FOREIGN KEY of table {act.definition.name!r:.40}"
                    raise MalformedError(f"{found} names no key of its parent", rule="SCH-7")
        case _:
            pass


def _known(schema: Schema, table_id: bytes) -> TableState | None:
    """Return a table, or None where it was dropped.

    Raises:
        MalformedError: SCH-5, it was never declared.
    """
    table = schema.tables.get(table_id)
    if table is None and table_id not in schema.dropped:
        raise MalformedError(f"table {table_id.hex()[:8]} was never declared", rule="SCH-5")
    return table


def needed_columns(definition: TableDefinition) -> set[str]:
    """Return the declared names of the columns that cannot be dropped: keys, and what constraints are over."""
    needed = set(definition.key).union(*definition.uniques)
    for check in definition.checks:
        needed |= {token.value for token in check.condition if token.kind == "c"}
    for column in definition.columns:
        needed |= {token.value for token in column.generated if token.kind == "c"}
    for key in definition.foreign_keys:
        needed.update(key.columns)
        if not key.parent:
            needed.update(key.parent_columns)
    return needed


def is_parent_key(definition: TableDefinition, columns: tuple[str, ...]) -> bool:
    """True when these columns tell rows of a table apart, as the parent side of a FOREIGN KEY must."""
    return any(sorted(columns) == sorted(key) for key in (definition.key, *definition.uniques))
