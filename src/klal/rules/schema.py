"""What the applied schema acts come to: tables, columns, indexes and views, and the names they bear.

The schema is a function of the set of applied acts, whatever the order in which they came.
So a renaming needs no rows rewritten and no past rows read again, a table that two members
declared apart is one table, and a drop that meets writes it had not seen is no accident:
dropped is dropped, and what was written unseen is listed (SCH-9).

An act that fits nothing declared has no effect, and is no fault: whether it fits would be a
question of what had arrived first. What an act says by itself is checked before it comes here.

Law: `resolve` of a set of acts does not depend on their order, and declaring an act twice
changes nothing.

Source:
    Protocol spec section 10, rules SCH-1 to SCH-9. Decision D11.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from klal.model.acts import (
    DELETE_POLICIES,
    MERGE_POLICIES,
    AddColumn,
    CreateIndex,
    CreateTable,
    CreateView,
    Drop,
    DropColumn,
    Rename,
    SchemaAct,
    SetPolicy,
    encode_act,
)
from klal.model.schema import (
    STRICT_TYPES,
    Column,
    ForeignKey,
    IndexDefinition,
    TableDefinition,
    ViewDefinition,
    column_id_of,
    fold,
    is_parent_key,
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
class TablePolicy:
    """How writes of a table are made by whoever has seen this (POL-2); number: of the newest act that says so."""

    merge: str = MERGE_POLICIES[0]
    on_delete: str = DELETE_POLICIES[0]
    number: int = 0


@dataclass(frozen=True, slots=True)
class TableState:
    """A table as it stands.

    Shape:
        columns: by id; the definition's in its order, added ones after them, ascending by id.
        dropped: ids of columns that were dropped.
        foreign_keys: those whose parent exists and has the key that they name.
    """

    table_id: bytes
    name: str
    definition: TableDefinition
    columns: dict[bytes, ColumnState]
    dropped: frozenset[bytes]
    foreign_keys: tuple[ForeignKey, ...]
    policy: TablePolicy


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
        stated: Acts, each with the order key of a change that states it.
    """
    first: dict[bytes, Stated] = {}
    for each in stated:
        # By its bytes, since to Python a default 1 is a default 1.0.
        encoded = encode_act(each.act)
        first[encoded] = min(first.get(encoded, each), each, key=lambda one: one.order)
    acts = [each for _, each in sorted(first.items(), key=lambda item: (item[1].order, item[0]))]
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
            if on is not None and _is_over(act.definition, on):
                indexes[object_id] = act.definition
                claims.append(_Claim(act.definition.name, (2, each.order, object_id), object_id))
    # SQLite keeps tables, views and indexes under one set of names; a table never gives way to another kind.
    names = _settle(claims)
    return Schema(
        tuple(acts),
        {
            table_id: TableState(
                table_id,
                names[table_id],
                table.definition,
                table.columns,
                table.dropped,
                table.foreign_keys,
                _policy(table_id, acts),
            )
            for table_id, table in tables.items()
        },
        {object_id: (names[object_id], definition) for object_id, definition in indexes.items()},
        {object_id: (names[object_id], definition) for object_id, definition in views.items()},
        frozenset(dropped),
        {place: renaming.number for place, renaming in renames.items()},
    )


def _is_over(index: IndexDefinition, table: TableState) -> bool:
    """True when a table has everything that an index is over: an index lives as long as that."""
    if not index.column_ids <= table.columns.keys():
        return False
    # What SQLite works out is in no write, so a merge could not tell who has which value.
    compared = [table.columns[term.expression[0].value] for term in index.terms] if index.is_unique else []
    return not any(state.column.generated for state in compared)


def _policy(table_id: bytes, acts: list[Stated]) -> TablePolicy:
    """Return what the newest act that sets it says, each of the two by itself (POL-2)."""
    said = [each for each in acts if isinstance(each.act, SetPolicy) and each.act.table_id == table_id]
    policy = TablePolicy()
    for each in sorted(said, key=lambda one: (one.act.number, one.order, one.act.merge, one.act.on_delete)):  # type: ignore[union-attr]
        assert isinstance(each.act, SetPolicy), "nothing else is said of policies"
        act = each.act
        policy = TablePolicy(act.merge or policy.merge, act.on_delete or policy.on_delete, act.number)
    return policy


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
        if isinstance(each.act, AddColumn)
        and each.act.table_id == table_id
        and (not definition.strict or each.act.column.type in STRICT_TYPES)
    ]
    own = {column_id for column_id, _, _ in declared}
    added = sorted({column_id: (column_id, column, order) for column_id, column, order in reversed(added)}.values())
    added = [each for each in added if each[0] not in own]
    needed = needed_columns(definition)
    can_go = {column_id for column_id, _, _ in added}
    can_go |= {column_id for column_id, column, _ in declared if column.name not in needed}
    dropped = frozenset(
        each.act.column_id
        for each in acts
        if isinstance(each.act, DropColumn) and each.act.table_id == table_id and each.act.column_id in can_go
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
    keys = tuple(key for key in definition.foreign_keys if not key.parent or _has_key(live.get(key.parent), key))
    return TableState(table_id, "", definition, columns, dropped, keys, TablePolicy())


def _has_key(parent: Stated | None, key: ForeignKey) -> bool:
    return (
        parent is not None
        and isinstance(parent.act, CreateTable)
        and is_parent_key(parent.act.definition, key.parent_columns)
    )


def _settle(claims: list[_Claim]) -> dict[bytes, str]:
    """Return identity -> name: the smallest claim to a name bears it, the others are told apart by id (SCH-3)."""
    names: dict[bytes, str] = {}
    taken: set[str] = set()
    for claim in sorted(claims, key=lambda each: each.rank):
        plain = fold(claim.name)
        names[claim.identity] = f"{claim.name}__{claim.identity.hex()}" if plain in taken else claim.name
        taken.add(plain)
    return names


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


def standing_acts(schema: Schema) -> tuple[SchemaAct, ...]:
    """Return the acts that what is declared and not dropped comes from, in an order in which they apply."""
    acts: list[SchemaAct] = []
    for stated in schema.stated:
        act = stated.act
        match act:
            case CreateTable():
                stands = act.definition.table_id in schema.tables
            case CreateIndex():
                stands = act.definition.object_id in schema.indexes
            case CreateView():
                stands = act.definition.object_id in schema.views
            case AddColumn() | DropColumn():
                stands = act.table_id in schema.tables
            case SetPolicy():
                stands = act.table_id in schema.tables
            case Rename():
                newest = schema.rename_numbers.get((act.table_id, act.column_id))
                stands = act.table_id in schema.tables and act.number == newest
            case _:
                stands = False
        if stands:
            acts.append(act)
    return tuple(acts)
