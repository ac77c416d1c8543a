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
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from klal.model.payload import Kind
from klal.model.schema import Merge, Value
from klal.rules.cells import change_of_set, elements_of, readable, set_text, wrapped
from klal.rules.order import OrderKey
from klal.rules.text import Document, Put, begun, decode_edits, edited, text_of, with_bases


class ChangeRef(NamedTuple):
    """A change by its place: the log's index in this file, and the sequence number."""

    log: int
    seq: int


@dataclass(frozen=True, slots=True)
class Write:
    """One row write of one change.

    Shape:
        cells: column id -> value, of the written non-key columns; empty for a DELETE.
        is_final: of a DELETE, that it ends the life whatever it had not seen.
        log_id: of the log that its change was signed for; only texts ask for it.
    """

    change: ChangeRef
    order: OrderKey
    kind: Kind
    life: int
    cells: Mapping[bytes, Value]
    is_final: bool = False
    log_id: bytes = b""


@dataclass(frozen=True, slots=True)
class Entry:
    """One losing value: a line of klal_conflicts.

    Shape:
        column: column id, or None when what lost is a DELETE.
        value: what was written; of a counter's, set's or text's UPDATE, as a person reads it.
        winner: the change that stands instead: the greatest write of this cell in this
            life; the greatest final DELETE that ended it unseen; or, where a DELETE lost,
            the greatest write that it had not seen.
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
        births: how many INSERTs of that life were applied. Only a faulty writer makes a life without any.
        was_deleted: some DELETE of that life was applied, even if the row survived it.
        is_ended: a final DELETE ended that life.
        documents: column id -> the text's document, of those that were edited in this life.
    """

    life: int = 0
    cells: Mapping[bytes, Value] | None = None
    is_alive: bool = False
    births: int = 0
    was_deleted: bool = False
    is_ended: bool = False
    entries: tuple[Entry, ...] = ()
    documents: Mapping[bytes, Document] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Columns:
    """What the merge must know of a table's columns, by column id.

    Shape:
        defaults: what a cell shows that no write of its life wrote.
        merges: how a column merges, of those that are not registers.
    """

    defaults: Mapping[bytes, Value] = field(default_factory=dict)
    merges: Mapping[bytes, Merge] = field(default_factory=dict)

    def of(self, column: bytes) -> Merge:
        return self.merges.get(column, Merge.REGISTER)

    def stated(self, write: Write) -> Mapping[bytes, Value]:
        """Return the cells that a put states: an INSERT begins counters, sets and texts that it leaves out too."""
        if write.kind is not Kind.INSERT or not self.merges:
            return write.cells
        return {**{column: self.defaults.get(column) for column in self.merges}, **write.cells}


Sees = Callable[[ChangeRef, ChangeRef], bool]
PLAIN = Columns()


def same(a: Value, b: Value) -> bool:
    """True when two values are the same to the byte: 1 and 1.0 are not, 0.0 and -0.0 are not."""
    return type(a) is type(b) and a == b and (a != 0 or str(a) == str(b))


def merge_write(row: RowState, window: Sequence[Write], write: Write, sees: Sees, columns: Columns = PLAIN) -> RowState:
    """Return the key's state after `write`.

    Args:
        row: State so far.
        window: Applied writes of this key that are not in the past of `write`.
        write: The new one; all of its past is applied, so it is in nobody's past.
        sees: sees(a, b) is True when change b is in the past of change a.
        columns: What the table says of its columns.

    Shape:
        At most one write per change in `window`; `write` is not among them.
    """
    merged = _delete(row, window, write, sees) if write.kind is Kind.DELETE else _put(row, window, write, sees, columns)
    return replace(merged, entries=_entries(row, merged, window, write, sees, columns))


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
    is_ended = row.is_ended or write.is_final
    return replace(row, is_alive=survives and row.births > 0 and not is_ended, was_deleted=True, is_ended=is_ended)


def _put(row: RowState, window: Sequence[Write], write: Write, sees: Sees, columns: Columns) -> RowState:
    if write.life < row.life:
        return row
    others = [other for other in window if other.life == write.life]
    if write.life > row.life:
        row = RowState(write.life, columns.defaults)
    deletes = [other for other in others if other.kind is Kind.DELETE]
    is_ended = row.is_ended or any(other.is_final for other in deletes)
    births = row.births + (write.kind is Kind.INSERT)
    merged = replace(
        row,
        is_alive=births > 0 and not is_ended,
        births=births,
        was_deleted=row.was_deleted or bool(deletes),
        is_ended=is_ended,
    )
    puts = [other for other in others if other.kind is not Kind.DELETE]
    return _with_cells(merged, row, puts, write, sees, columns)


def _with_cells(
    merged: RowState, row: RowState, puts: Sequence[Write], write: Write, sees: Sees, columns: Columns
) -> RowState:
    """Return the row with the cells of `write` in it; `puts` are those of its life in its window."""
    cells, documents = dict(row.cells or {}), dict(row.documents)
    is_first = write.kind is Kind.INSERT and not _saw_birth(row, puts)
    firsts = _firsts(puts, sees) if is_first else []
    for column, value in columns.stated(write).items():
        merge = columns.of(column)
        if merge is Merge.REGISTER:
            # Only the window can hold a greater order key: everything else is in the past.
            if not any(column in put.cells and put.order > write.order for put in puts):
                cells[column] = value
        elif merge is Merge.SET:
            cells[column] = _set(cells[column], column, puts, write, sees, columns)
        elif write.kind is Kind.INSERT:
            if not is_first:
                continue  # A faulty writer's: the life has begun in its own past (TYP-1).
            if not row.births:
                cells[column] = value
                documents.pop(column, None)
            elif merge is Merge.COUNTER:
                cells[column] = _rebased(cells[column], column, firsts, write, columns)
            elif any(column in put.cells for put in (*firsts, write)):
                # Where none of them wrote it, as before the column came, all begin with its default and are one.
                documents[column] = _joined(row, column, firsts, write, columns)
                cells[column] = text_of(documents[column])
        elif _saw_birth(row, puts):
            if merge is Merge.COUNTER:
                cells[column] = wrapped(_integer(cells[column]) + _integer(value))
            else:
                documents[column] = _edited(row, column, puts, write)
                cells[column] = text_of(documents[column])
    return replace(merged, cells=cells, documents=documents)


def _firsts(puts: Sequence[Write], sees: Sees) -> list[Write]:
    """Return the INSERTs that began a life knowing of no other; one that does has all of them in its window."""
    births = [put for put in puts if put.kind is Kind.INSERT]
    return [put for put in births if not any(sees(put.change, other.change) for other in births)]


def _saw_birth(row: RowState, puts: Sequence[Write]) -> bool:
    """True when an INSERT of the life is in the past of the write whose window `puts` are from."""
    return row.births > sum(put.kind is Kind.INSERT for put in puts)


def _integer(value: Value) -> int:
    assert isinstance(value, int), "a counter holds integers, and nothing else is let in"
    return value


def _base(column: bytes, firsts: Sequence[Write], columns: Columns) -> tuple[Write, int]:
    """Return the INSERT that begins a counter, and what it begins with (TYP-2)."""
    winner = max(firsts, key=lambda put: put.order)
    return winner, _integer(columns.stated(winner)[column])


def _rebased(cell: Value, column: bytes, firsts: Sequence[Write], write: Write, columns: Columns) -> int:
    """Return a counter's value once `write`, which begins its life too, may have become what it begins with."""
    _, was = _base(column, firsts, columns)
    _, now = _base(column, [*firsts, write], columns)
    return wrapped(_integer(cell) - was + now)


def _set(cell: Value, column: bytes, puts: Sequence[Write], write: Write, sees: Sees, columns: Columns) -> str:
    """Return a set after `write`: an element stays while some add of it was seen by no removal of it (TYP-3)."""
    elements = elements_of(cell)
    added, removed = _set_parts(write, column, columns)
    parts = [(put, *_set_parts(put, column, columns)) for put in puts]
    for element in removed:
        removals = [put.change for put, _, out in parts if element in out]
        stays = any(
            element in into and not any(sees(removal, put.change) for removal in removals) for put, into, _ in parts
        )
        if not stays:
            elements.discard(element)
    return set_text(elements | added)


def _set_parts(put: Write, column: bytes, columns: Columns) -> tuple[set[str], set[str]]:
    value = columns.stated(put).get(column)
    if value is None:
        return set(), set()
    return (elements_of(value), set()) if put.kind is Kind.INSERT else change_of_set(value)


def _document(row: RowState, column: bytes) -> Document:
    """Return a text's document; one that nobody edited follows from what the cell shows (TYP-4)."""
    found = row.documents.get(column)
    return begun(str((row.cells or {})[column])) if found is None else found


def _joined(row: RowState, column: bytes, firsts: Sequence[Write], write: Write, columns: Columns) -> Document:
    everyone = [*firsts, write]
    bases = {Put(*put.change): str(columns.stated(put)[column]) for put in everyone}
    return with_bases(_document(row, column), str(columns.stated(write)[column]), bases)


def _edited(row: RowState, column: bytes, puts: Sequence[Write], write: Write) -> Document:
    unseen = {Put(*put.change) for put in puts if put.kind is Kind.INSERT or column in put.cells}
    edits = decode_edits(write.cells[column])
    return edited(_document(row, column), edits, Put(*write.change), write.log_id, unseen)


def _entries(
    row: RowState, merged: RowState, window: Sequence[Write], write: Write, sees: Sees, columns: Columns
) -> tuple[Entry, ...]:
    """Return the conflict entries of the key after `write` (MRG-5, MRG-6)."""
    everyone = [*window, write]
    found: dict[tuple[bytes | None, ChangeRef], Entry] = {}
    for entry in row.entries:
        if not _clears(write, entry, merged, sees, columns):
            found[entry.column, entry.change] = entry
    for other in everyone:
        if other.kind is Kind.DELETE:
            continue
        for column, value in other.cells.items():
            if not any(
                _supersedes(later, other, column, columns) and sees(later.change, other.change) for later in everyone
            ):
                shown = readable(columns.of(column), other.kind, value)
                found.setdefault((column, other.change), Entry(column, other.change, other.life, shown, None, None))
    bases = _bases(row, window, write, sees, columns)
    kept = {name: entry for name, entry in found.items() if _is_lost(entry, row, merged, columns, bases)}
    if merged.is_alive:
        for other in everyone:
            is_lost_delete = other.kind is Kind.DELETE and other.life == merged.life
            if is_lost_delete and not any(sees(later.change, other.change) for later in everyone):
                kept.setdefault((None, other.change), Entry(None, other.change, other.life, None, None, None))
    winners = [_with_winner(entry, row, merged, everyone, write, sees, columns, bases) for entry in kept.values()]
    return tuple(sorted(winners, key=lambda entry: (entry.column or b"", entry.change)))


class _Bases(NamedTuple):
    """What a counter of the current life counts from, and the INSERTs whose beginning was lost to it."""

    winner: ChangeRef
    lost: frozenset[ChangeRef]


def _bases(
    row: RowState, window: Sequence[Write], write: Write, sees: Sees, columns: Columns
) -> Mapping[bytes, _Bases] | None:
    """Return this for every counter if `write` begins the current life too; else None, and nothing has changed."""
    if write.kind is not Kind.INSERT or write.life < row.life or not columns.merges:
        return None
    puts = [other for other in window if other.kind is not Kind.DELETE and other.life == write.life]
    if write.life == row.life and _saw_birth(row, puts):
        return None
    firsts = [*_firsts(puts, sees), write]
    found = {}
    for column in (column for column, merge in columns.merges.items() if merge is Merge.COUNTER):
        winner, base = _base(column, firsts, columns)
        # Whoever changed the counter having seen both has taken note of both.
        knowing = [
            put.change
            for put in puts
            if put.kind is Kind.UPDATE and column in put.cells and sees(put.change, winner.change)
        ]
        lost = [
            put.change
            for put in firsts
            if columns.stated(put)[column] != base and not any(sees(other, put.change) for other in knowing)
        ]
        found[column] = _Bases(winner.change, frozenset(lost))
    return found


def _is_lost(
    entry: Entry, row: RowState, merged: RowState, columns: Columns, bases: Mapping[bytes, _Bases] | None
) -> bool:
    """True when what is not superseded does not show either (MRG-6)."""
    column = entry.column
    if column is None:
        return merged.is_alive and entry.life == merged.life
    cells = merged.cells or {}
    if not merged.is_alive or column not in cells:
        return True
    merge = columns.of(column)
    if merge is Merge.REGISTER or entry.life != merged.life:
        return not same(cells[column], entry.value)
    if merge is not Merge.COUNTER:
        return False  # Whatever was put into a set or text of this life is in it.
    if bases is None:
        # Only what a life began with can lose, and only another INSERT that begins it decides that anew.
        return any((column, entry.change) == (known.column, known.change) for known in row.entries)
    return entry.change in bases[column].lost


def _clears(write: Write, entry: Entry, merged: RowState, sees: Sees, columns: Columns) -> bool:
    """True when `write` has seen the entry and wrote over it (MRG-6)."""
    if not sees(write.change, entry.change):
        return False
    if write.kind is Kind.DELETE or entry.column is None or entry.life < write.life:
        return True
    if entry.life != write.life or entry.column not in write.cells:
        return False
    if columns.of(entry.column) is Merge.REGISTER:
        return True
    # An increment takes the place of nothing. It settles what a counter began with, once it has seen both sides.
    is_base = merged.is_alive and columns.of(entry.column) is Merge.COUNTER and type(entry.value) is int
    is_knowing = write.kind is Kind.UPDATE and entry.winner is not None and sees(write.change, entry.winner)
    return is_base and is_knowing


def _supersedes(later: Write, earlier: Write, column: bytes, columns: Columns) -> bool:
    if later.kind is Kind.DELETE or later.life > earlier.life:
        return True
    return later.life == earlier.life and column in later.cells and columns.of(column) is Merge.REGISTER


def _with_winner(
    entry: Entry,
    row: RowState,
    merged: RowState,
    everyone: Sequence[Write],
    write: Write,
    sees: Sees,
    columns: Columns,
    bases: Mapping[bytes, _Bases] | None,
) -> Entry:
    """Return the entry naming what stands instead (MRG-7).

    A winner recorded earlier stands until `write` is itself a candidate: whoever beats
    `write` is in the window, and whoever is outside it lies in its past and is beaten.
    """
    column = entry.column
    value = (merged.cells or {}).get(column) if column is not None and merged.is_alive else None
    if entry.life != merged.life:
        # A superseded life lost to a whole life and not to one write. To name one would need
        # the writers of cells that are not in the window, and so depend on the order.
        return Entry(column, entry.change, entry.life, entry.value, None, value)
    winner = entry.winner if row.is_ended == merged.is_ended else None
    if merged.is_alive and column is not None and columns.of(column) is Merge.COUNTER:
        winner = winner if bases is None else bases[column].winner
    elif winner is None or _stands_against(write, entry, merged, sees):
        against = [other for other in everyone if _stands_against(other, entry, merged, sees)]
        winner = max(against, key=lambda other: other.order).change if against else winner
    return Entry(column, entry.change, entry.life, entry.value, winner, value)


def _stands_against(other: Write, entry: Entry, merged: RowState, sees: Sees) -> bool:
    """True when `other` may be what an entry of its own life lost to."""
    if other.life != entry.life:
        return False
    if merged.is_ended:
        return other.is_final and not sees(entry.change, other.change)
    if other.kind is Kind.DELETE:
        return False
    if entry.column is None:
        # A DELETE loses to what it had not seen; what it saw, it ended.
        return not sees(entry.change, other.change)
    return entry.column in other.cells
