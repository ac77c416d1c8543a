"""What a table with constraints must show, worked out from the whole set of changes at once: no order of arrival.

This is the definition that the engine's settling must agree with. Which rows are alive and what their cells are follows
from all writes of a key; then the rows are taken by their claims, one after the other, and one that finds a value of
its own with a row taken before it is hidden. Whether two values are one is asked of SQLite, and of nothing in klal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import apsw

from klal.model.payload import Kind, decode_segments
from klal.model.schema import column_id_of
from klal.rules.merge import ChangeRef
from klal.store.history import STATE_APPLIED
from klal.store.store import Store
from klal.store.window import order_key

Ref = tuple[int, int]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Put:
    """One row write of one applied change: cells by column name, the key among them."""

    change: Ref
    order: tuple[Any, ...]
    past: frozenset[Ref]
    kind: Kind
    life: int
    cells: Row


@dataclass(frozen=True)
class Unique:
    """A UNIQUE constraint or index as the test declares it, with the condition of a partial one."""

    columns: tuple[str, ...]
    collations: tuple[str, ...] = ()
    condition: Callable[[Row], bool] = lambda _row: True
    condition_columns: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Rules:
    """What a table promises.

    Shape:
        defaults: column -> what it shows where nobody wrote it.
        checks: name -> what must not be False.
        parents: column -> (parent table, its column).
    """

    key: str
    defaults: Row
    uniques: tuple[Unique, ...] = ()
    checks: Mapping[str, Callable[[Row], bool]] = field(default_factory=dict)
    parents: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """What a set of changes comes to: rows in the table, rows beside it, and the lines of klal_violations."""

    visible: dict[str, list[Row]]
    hidden: dict[str, list[str]]
    violations: list[tuple[str, str, str, str]]


def writes_of(store: Store, table_name: str) -> dict[Any, list[Put]]:
    """Return every write of a table that is applied, by key: read from history and not from any table."""
    history, table = store.history, store.catalog.named(table_name)
    names = {info.column_id: info.name for info in table.columns}
    names |= {column_id_of(table.table_id, info.column): info.name for info in table.columns}
    found: dict[Any, list[Put]] = {}
    for log in history.logs.values():
        for stored in history.lines(log, 0, log.applied_length):
            data = history.part(stored, table.table_id) if stored.state == STATE_APPLIED else None
            if data is None:
                continue
            ref = (log.log, stored.header.seq)
            vector = dict(history.vector(ChangeRef(*ref)))
            past = frozenset((other, seq) for other, length in vector.items() for seq in range(length)) - {ref}
            order = tuple(order_key(history, log, stored))
            for segment in decode_segments(data):
                for row, key in enumerate(segment.keys):
                    cells = {names[c]: values[row] for c, values in zip(segment.columns, segment.values, strict=True)}
                    cells[table.key[0].name] = key[0]
                    found.setdefault(key[0], []).append(Put(ref, order, past, segment.kind, segment.life(row), cells))
    return found


def expected(tables: Mapping[str, Rules], writes: Mapping[str, Mapping[Any, Collection[Put]]]) -> Shown:
    """Return what everybody must show who has applied exactly these writes.

    Args:
        tables: By name, what each promises.
        writes: By table and key.
    """
    visible: dict[str, list[Row]] = {}
    hidden: dict[str, list[str]] = {}
    for name, rules in tables.items():
        alive = [row for row in (_alive(puts, rules) for puts in writes[name].values()) if row is not None]
        taken: list[_Alive] = []
        hidden[name] = []
        # A survivor comes last; then the older claim; then the smaller key.
        for row in sorted(alive, key=lambda row: (row.has_survived, row.claim, str(row.cells[rules.key]))):
            if any(_share(rules, row.cells, other.cells) for other in taken):
                hidden[name].append(str(row.cells[rules.key]))
            else:
                taken.append(row)
        visible[name] = sorted((row.cells for row in taken), key=lambda row: str(row[rules.key]))
    return Shown(visible, hidden, sorted(_violations(tables, visible, hidden)))


@dataclass(frozen=True)
class _Alive:
    has_survived: bool
    claim: tuple[Any, ...]
    cells: Row


def _alive(puts: Collection[Put], rules: Rules) -> _Alive | None:
    written = [put for put in puts if put.kind is not Kind.DELETE]
    life = max((put.life for put in written), default=0)
    current = sorted((put for put in written if put.life == life), key=lambda put: put.order)
    ends = [put for put in puts if put.kind is Kind.DELETE and put.life == life]
    is_born = any(put.kind is Kind.INSERT for put in current)
    if not is_born or all(any(put.change in end.past for end in ends) for put in current):
        return None
    cells = dict(rules.defaults)
    for put in current:
        cells.update(put.cells)
    depends = {name for unique in rules.uniques for name in (*unique.columns, *unique.condition_columns)}
    claims = [put.order for put in current if put.kind is Kind.INSERT or depends & put.cells.keys() - {rules.key}]
    return _Alive(bool(ends), max(claims), cells)


def _share(rules: Rules, a: Row, b: Row) -> bool:
    return any(
        unique.condition(a)
        and unique.condition(b)
        and all(
            _is_one(a[name], b[name], collation)
            for name, collation in zip(
                unique.columns, unique.collations or ("BINARY",) * len(unique.columns), strict=True
            )
        )
        for unique in rules.uniques
    )


_SQLITE = apsw.Connection(":memory:")


def _is_one(a: Any, b: Any, collation: str) -> bool:
    """Ask SQLite, where NULL is nobody's equal."""
    return _SQLITE.execute(f"SELECT ? = ? COLLATE {collation}", (a, b)).get == 1


def _violations(
    tables: Mapping[str, Rules], visible: Mapping[str, Sequence[Row]], hidden: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str, str, str]]:
    for name, rules in tables.items():
        for key in hidden[name]:
            yield "unique", name, key, "another row shows a value of it"
        for row in visible[name]:
            key = str(row[rules.key])
            for check, holds in rules.checks.items():
                if not holds(row):
                    yield "check", name, key, check
            for column, (parent, parent_column) in rules.parents.items():
                known = [other[parent_column] for other in visible[parent]]
                if row[column] is not None and row[column] not in known:
                    yield "foreign key", name, key, f"{column} names no row of {parent}"
