"""What a row becomes when one more write arrives: per cell, and looking only at the window.

Order stamps grow along causality, so a write can only lose to, or conflict with, writes
that are not in its past and that it is not in the past of. Those are the *window*; no
clock or version is stored beside a row. Every causally maximal losing value is an entry
in the conflicts, so nothing that anybody entered goes without a trace.

A key lives several times: an INSERT begins a new *life*, one more than the greatest it
has seen. Only the greatest life can be visible, and it is alive as long as some write of
it was seen by no DELETE of it. So a row deleted here while it was updated there revives.

Law: the state is a function of the set of applied changes, whatever the order (S35).

Source:
    Protocol spec section 10, rules MRG-1 to MRG-7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from klal.model.payload import Kind
from klal.model.schema import Value
from klal.rules.order import OrderKey


class ChangeRef(NamedTuple):
    """A change by its place: the log's index in this file, and the sequence number."""

    log: int
    seq: int


@dataclass(frozen=True, slots=True)
class Write:
    """One row write of one change.

    Shape:
        cells: column id -> value, of the written non-key columns; empty for a DELETE.
    """

    change: ChangeRef
    order: OrderKey
    kind: Kind
    life: int
    cells: Mapping[bytes, Value]


@dataclass(frozen=True, slots=True)
class Entry:
    """One losing value: a line of klal_conflicts.

    Shape:
        column: column id, or None when what lost is a DELETE.
        winner: the change that stands instead: the greatest write of this cell in this
            life, or, where a DELETE lost, the greatest write that it had not seen.
            None when the life itself is over: then a whole later life stands instead.
        winner_value: what the cell shows now; None when the row is not visible.
    """

    column: bytes | None
    change: ChangeRef
    life: int
    value: Value
    winner: ChangeRef | None
    winner_value: Value


@dataclass(frozen=True, slots=True)
class RowState:
    """All that is known of one key.

    Shape:
        life: greatest life applied, 0 when the key was never written.
        cells: values of that life, kept under a DELETE too.
        is_alive: visible in the user's table.
        is_born: some INSERT of that life was applied; only a faulty writer lacks it.
        was_deleted: some DELETE of that life was applied, even if the row survived it.
    """

    life: int = 0
    cells: Mapping[bytes, Value] | None = None
    is_alive: bool = False
    is_born: bool = False
    was_deleted: bool = False
    entries: tuple[Entry, ...] = ()


Sees = Callable[[ChangeRef, ChangeRef], bool]
NO_DEFAULTS: Mapping[bytes, Value] = MappingProxyType({})


def same(a: Value, b: Value) -> bool:
    """True when two values are the same to the byte: 1 and 1.0 are not, 0.0 and -0.0 are not."""
    return type(a) is type(b) and a == b and (a != 0 or str(a) == str(b))


def merge_write(
    row: RowState, window: Sequence[Write], write: Write, sees: Sees, defaults: Mapping[bytes, Value] = NO_DEFAULTS
) -> RowState:
    """Return the key's state after `write`.

    Args:
        row: State so far.
        window: Applied writes of this key that are not in the past of `write`.
        write: The new one; all of its past is applied, so it is in nobody's past.
        sees: sees(a, b) is True when change b is in the past of change a.
        defaults: What a cell shows that no write of its life wrote, by column id.

    Shape:
        At most one write per change in `window`; `write` is not among them.
    """
    everyone = [*window, write]
    merged = _delete(row, window, write, sees) if write.kind is Kind.DELETE else _put(row, window, write, defaults)
    return RowState(
        merged.life,
        merged.cells,
        merged.is_alive,
        merged.is_born,
        merged.was_deleted,
        _entries(row, merged, everyone, write, sees),
    )


def _delete(row: RowState, window: Sequence[Write], write: Write, sees: Sees) -> RowState:
    # A DELETE of a life that is over, or was never begun, changes nothing (MRG-4).
    if write.life != row.life or row.life == 0:
        return row
    deletes = [other.change for other in window if other.kind is Kind.DELETE and other.life == row.life]
    survives = any(
        other.kind is not Kind.DELETE
        and other.life == row.life
        and not any(sees(delete, other.change) for delete in deletes)
        for other in window
    )
    return RowState(row.life, row.cells, survives and row.is_born, row.is_born, was_deleted=True)


def _put(row: RowState, window: Sequence[Write], write: Write, defaults: Mapping[bytes, Value]) -> RowState:
    if write.life < row.life:
        return row
    if write.life > row.life:
        was_deleted = any(other.kind is Kind.DELETE and other.life == write.life for other in window)
        is_born = write.kind is Kind.INSERT
        return RowState(write.life, {**defaults, **write.cells}, is_born, is_born, was_deleted)
    cells = dict(row.cells or {})
    for column, value in write.cells.items():
        # Only the window can hold a greater order key: everything else is in the past.
        beaten = any(
            other.kind is not Kind.DELETE
            and other.life == write.life
            and column in other.cells
            and other.order > write.order
            for other in window
        )
        if not beaten:
            cells[column] = value
    is_born = row.is_born or write.kind is Kind.INSERT
    return RowState(row.life, cells, is_born, is_born, row.was_deleted)


def _entries(row: RowState, merged: RowState, everyone: Sequence[Write], write: Write, sees: Sees) -> tuple[Entry, ...]:
    """Return the conflict entries of the key after `write` (MRG-5, MRG-6)."""
    found: dict[tuple[bytes | None, ChangeRef], Entry] = {}
    for entry in row.entries:
        if not _clears(write, entry, sees):
            found[entry.column, entry.change] = entry
    for other in everyone:
        if other.kind is Kind.DELETE:
            continue
        for column, value in other.cells.items():
            if not any(_supersedes(later, other, column) and sees(later.change, other.change) for later in everyone):
                found.setdefault((column, other.change), Entry(column, other.change, other.life, value, None, None))
    cells = merged.cells or {}
    kept: dict[tuple[bytes | None, ChangeRef], Entry] = {}
    for name, entry in found.items():
        if entry.column is None:
            if merged.is_alive and entry.life == merged.life:
                kept[name] = entry
        elif not (merged.is_alive and entry.column in cells and same(cells[entry.column], entry.value)):
            kept[name] = entry
    if merged.is_alive:
        for other in everyone:
            is_lost_delete = other.kind is Kind.DELETE and other.life == merged.life
            if is_lost_delete and not any(sees(later.change, other.change) for later in everyone):
                kept.setdefault((None, other.change), Entry(None, other.change, other.life, None, None, None))
    winners = [_with_winner(entry, merged, everyone, write, sees) for entry in kept.values()]
    return tuple(sorted(winners, key=lambda entry: (entry.column or b"", entry.change)))


def _clears(write: Write, entry: Entry, sees: Sees) -> bool:
    """True when `write` has seen the entry and wrote over it (MRG-6)."""
    if not sees(write.change, entry.change):
        return False
    return (
        write.kind is Kind.DELETE
        or entry.column is None
        or entry.life < write.life
        or (entry.life == write.life and entry.column in write.cells)
    )


def _supersedes(later: Write, earlier: Write, column: bytes) -> bool:
    return (
        later.kind is Kind.DELETE or later.life > earlier.life or (later.life == earlier.life and column in later.cells)
    )


def _with_winner(entry: Entry, merged: RowState, everyone: Sequence[Write], write: Write, sees: Sees) -> Entry:
    """Return the entry naming what stands instead (MRG-7).

    A winner recorded earlier stands until `write` is itself a candidate: whoever beats
    `write` is in the window, and whoever is outside it lies in its past and is beaten.
    """
    column = entry.column
    value = (merged.cells or {}).get(column) if column is not None and merged.is_alive else None
    # A superseded life lost to a whole life and not to one write. To name one would need
    # the writers of cells that are not in the window, and so depend on the order.
    winner = entry.winner if entry.life == merged.life else None
    if entry.life == merged.life and (winner is None or _stands_against(write, entry, sees)):
        against = [other for other in everyone if _stands_against(other, entry, sees)]
        winner = max(against, key=lambda other: other.order).change
    return Entry(column, entry.change, entry.life, entry.value, winner, value)


def _stands_against(other: Write, entry: Entry, sees: Sees) -> bool:
    """True when `other` may be what an entry of its own life lost to."""
    if other.kind is Kind.DELETE or other.life != entry.life:
        return False
    if entry.column is None:
        # A DELETE loses to what it had not seen; what it saw, it ended.
        return not sees(entry.change, other.change)
    return entry.column in other.cells
