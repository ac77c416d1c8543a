"""Writes behind klal's back: whether anybody may have written, which rows it was, and both ways on.

History says what every row is, so a row written by another program is found by applying
history again in memory and comparing. That costs as much as all of history, so the file is
*known* as long as cheap signs say that only klal wrote it: what a clean close left, and
SQLite's data version since. Where they do not, it is unchecked, and the comparison runs before
klal writes, syncs, finishes or closes. What it finds stays as it is until the user decides:

    adopt   the rows are put back as history says and written once more as the user's own, so
            that they go through capture like any write
    undo    the rows are put back

Law: after either, a comparison finds nothing more of what it dealt with.

Source:
    Decision D3, rule FIL-4 (T40).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from klal.errors import ConstraintError, DamagedError, ForeignWritesError, KlalError
from klal.model.codec import pack
from klal.model.schema import Key, Value, is_as_stored, key_text
from klal.rules.merge import same
from klal.store.apply import Applier
from klal.store.capture import Capture, Row
from klal.store.catalog import Catalog, Table
from klal.store.epochs import Replay
from klal.store.file import unchecked
from klal.store.history import History
from klal.store.layout import DERIVED, quote
from klal.store.local import put_aside
from klal.store.sql import Connection
from klal.store.typed import checked

_HINT = "klal behind lists what it was; with --adopt it becomes a change of mine, with --undo it is taken back"
_UNDOABLE = ("index", "trigger", "view")


@dataclass(frozen=True, slots=True)
class BrokenText:
    """Bytes that lie in the file as text and are none."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class Finding:
    """One row, or one object of the schema, that is not as history says.

    Shape:
        kind: "inserted", "updated", "deleted" or "schema".
        name: the table, or the object.
        before, after: the row as history says and as it lies here, in the order of `table.columns`;
            None where there is none.
        obstacle: why it cannot be adopted, as a sentence; "" where it can.
        undo_sql: what takes an object of the schema back; "" where nothing of klal's can.
    """

    kind: str
    name: str
    table: Table | None = None
    key: Key = ()
    before: Row | None = None
    after: Row | None = None
    obstacle: str = ""
    undo_sql: str = ""


class Behind:
    """What is known of one file's having been written by others.

    Shape:
        is_suspect: somebody wrote who was not klal, or it cannot be known who: even a local write
            must look first, lest it overwrite what nobody has seen.
        is_unsure: another klal wrote, and whether anybody else did between cannot be told.
        found: what the last comparison found and nobody has decided on.
    """

    def __init__(
        self, connection: Connection, history: History, catalog: Catalog, applier: Applier, path: Path
    ) -> None:
        self._connection = connection
        self._history = history
        self._catalog = catalog
        self._applier = applier
        self._path = path
        self.is_suspect = False
        self.is_unsure = False
        self.found: list[Finding] = []

    @property
    def is_known(self) -> bool:
        """True when the tables are known to be what history says."""
        return not (self.is_suspect or self.is_unsure or self.found)

    def others_wrote(self, *, is_klal: bool) -> None:
        """Note that another connection has committed."""
        self.is_unsure = True
        self.is_suspect = self.is_suspect or not is_klal

    def warning(self) -> str:
        """Return what `status` says of it, or ""."""
        if self.is_suspect or self.is_unsure:
            return "unchecked: another program may have written to this file since klal last looked"
        return self._sentence() if self.found else ""

    def _sentence(self) -> str:
        rows = sum(found.table is not None for found in self.found)
        others = len(self.found) - rows
        parts = [f"{rows} row{'s' * (rows != 1)}"] * bool(rows)
        parts += [f"{others} object{'s' * (others != 1)} of the schema"] * bool(others)
        return f"another program wrote to {self._path.name}: {' and '.join(parts)}"

    # -- looking -------------------------------------------------------------------------

    def check(self) -> None:
        """Compare the tables with history, inside a transaction, and keep what was found.

        Raises:
            DamagedError: History cannot be applied again.
        """
        replay = Replay(self._connection, self._history, self._applier.certificate_in)
        try:
            replay.run(self._history.applied_lengths())
            self.found = [*self._schema_findings(replay), *self._row_findings(replay)]
        except (apsw.Error, KlalError, LookupError, TypeError, ValueError, AssertionError) as error:
            found = f"{self._path} cannot be compared with its history: {error}"
            raise DamagedError(found, hint="klal verify says where it is damaged") from error
        finally:
            replay.connection.close()
        self.is_suspect = self.is_unsure = False

    def require_clean(self) -> None:
        """Return if the tables are what history says, looking where that is not known; inside a transaction.

        Raises:
            ForeignWritesError: They are not.
        """
        if self.is_suspect or self.is_unsure:
            self.check()
        if self.found:
            raise ForeignWritesError(self._sentence(), hint=_HINT)

    def refuse_touched(self, capture: Capture) -> None:
        """Return if a local transaction writes none of the rows that were found.

        Raises:
            ForeignWritesError: It does, and what the other program wrote there would be gone unseen.
        """
        found = {(each.table.table_id, each.key) for each in self.found if each.table is not None}
        for seen in capture.captures():
            table = seen.table
            if not any(table_id == table.table_id for table_id, _ in found):
                continue
            if not seen.is_mixed:
                seen.mix()
            for images in seen.events:
                for image in images:
                    if image is not None and (table.table_id, table.key_of(image)) in found:
                        row = f"row {key_text(table.key_of(image))} of {table.name}"
                        raise ForeignWritesError(
                            f"{row} was written by another program, and what it wrote would be lost", hint=_HINT
                        )

    # -- what differs --------------------------------------------------------------------

    def _schema_findings(self, replay: Replay) -> Iterator[Finding]:
        """Yield what others made, dropped or altered, klal's own tables among them."""
        ours, theirs = objects_in(self._connection), objects_in(replay.connection)
        for kind, name in sorted(ours.keys() - theirs.keys()):
            where = ours[kind, name]
            what = f"{kind} {name} was made by another program" + (f" on {where}" if where != name else "")
            drop = f"DROP {kind} main.{quote(name)}" if kind in _UNDOABLE else ""
            yield Finding("schema", name, obstacle=what, undo_sql=drop)
        for kind, name in sorted(theirs.keys() - ours.keys()):
            yield Finding("schema", name, obstacle=f"{kind} {name} was dropped by another program")
        for table in self._catalog.by_id.values():
            difference = self._column_difference(replay, table)
            if difference:
                yield Finding("schema", table.name, obstacle=difference)
        for name, columns in DERIVED:
            sql = f"SELECT {columns} FROM {name}"
            mine, its = (sorted(map(repr, c.execute(sql).fetchall())) for c in (self._connection, replay.connection))
            if mine != its:
                yield Finding("schema", name, obstacle=f"{name}, a table of klal's own, was written by another program")

    def _column_difference(self, replay: Replay, table: Table) -> str:
        sql = "SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_xinfo(?, 'main')"
        ours = {row[0]: row for row in self._connection.execute(sql, (table.name,)).fetchall()}
        theirs = {row[0]: row for row in replay.connection.execute(sql, (table.name,)).fetchall()}
        changed = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        if not changed:
            return ""
        return f"column {', '.join(changed)} of table {table.name} was added, dropped or altered by another program"

    def _row_findings(self, replay: Replay) -> Iterator[Finding]:
        for table in sorted(self._catalog.by_id.values(), key=lambda table: table.name):
            altered = self._column_difference(replay, table)
            mine, its = rows_in(self._connection, table), rows_in(replay.connection, table)
            for before, after in differences(table, mine, its):
                kind = "inserted" if before is None else "deleted" if after is None else "updated"
                image = after if before is None else before
                assert image is not None, "a difference has at least one side"
                obstacle = altered or ("" if after is None else obstacle_to(table, after))
                yield Finding(kind, table.name, table, table.key_of(image), before, after, obstacle)

    # -- both ways on --------------------------------------------------------------------

    def undo(self, capture: Capture) -> int:
        """Put everything that was found back as history says, inside a write transaction; return how many rows."""
        left = []
        for each in self.found:
            if each.table is None and each.undo_sql:
                self._connection.execute(each.undo_sql)
            elif each.table is None:
                left.append(each)
        rows = [each for each in self.found if each.table is not None]
        self._put_back(capture, rows)
        self.found = left
        return len(rows)

    def adopt(self, capture: Capture) -> int:
        """Write what was found once more as the user's own, inside a write transaction; return how many rows."""
        rows = [each for each in self.found if each.table is not None and not each.obstacle]
        self._put_back(capture, rows)
        for each in rows:
            self.write(each)
        self.found = [each for each in self.found if each.table is None or each.obstacle]
        return len(rows)

    def _put_back(self, capture: Capture, rows: list[Finding]) -> None:
        capture.stop()
        try:
            with put_aside(self._connection), unchecked(self._connection):
                for each in rows:
                    self._restore(each)
        finally:
            capture.start()

    def _restore(self, each: Finding) -> None:
        table, before, after = each.table, each.before, each.after
        assert table is not None, "only rows are restored"
        if before is None:
            where, key = _where(table, each.key)
            self._connection.execute(f"DELETE FROM main.{quote(table.name)} WHERE {where}", key)
        elif after is None:
            self._connection.execute(table.insert_in_order, _given(table, before))
        else:
            values = tuple(before[position] for position in table.value_positions)
            self._connection.execute(table.update(table.values), (*values, *each.key))

    def write(self, each: Finding) -> None:
        """Write one row that was found as the user's own, where the table is as history says."""
        table, before, after = each.table, each.before, each.after
        assert table is not None, "only rows are written"
        if after is None:
            self._connection.execute(table.delete, each.key)
        elif before is None:
            self._connection.execute(table.insert_in_order, _given(table, after))
        else:
            changed = tuple(p for p in table.value_positions if not same(before[p], after[p]))
            infos = tuple(table.columns[position] for position in changed)
            self._connection.execute(table.update(infos), (*(after[p] for p in changed), *each.key))


def _given(table: Table, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a row without what SQLite works out."""
    return tuple(value for info, value in zip(table.columns, row, strict=True) if not info.is_generated)


def objects_in(connection: Connection) -> dict[tuple[str, str], str]:
    """Return (kind, name) -> table, of everything in the schema that SQLite did not make itself."""
    rows = connection.execute("SELECT type, name, tbl_name FROM main.sqlite_schema").fetchall()
    return {(kind, name): table for kind, name, table in rows if not name.startswith("sqlite_")}


def rows_in(connection: Connection, table: Table) -> Iterator[tuple[Any, ...]]:
    """Yield a table's rows in key order, text that is none as `BrokenText`."""
    names = [quote(info.name) for info in table.columns]
    tail = f"FROM main.{quote(table.name)} ORDER BY {', '.join(quote(info.name) for info in table.key)}"
    count = 0
    try:
        for row in connection.execute(f"SELECT {', '.join(names)} {tail}"):
            count += 1
            yield row
    except UnicodeDecodeError:
        # From the first row that cannot be read text is asked for as bytes, which costs twice as much.
        columns = ", ".join(
            f"typeof({name}) = 'text', CASE typeof({name}) WHEN 'text' THEN CAST({name} AS BLOB) ELSE {name} END"
            for name in names
        )
        for row in connection.execute(f"SELECT {columns} {tail} LIMIT -1 OFFSET {count}"):
            yield tuple(_text(value) if is_text else value for is_text, value in zip(*[iter(row)] * 2, strict=True))


def _text(raw: bytes) -> str | BrokenText:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return BrokenText(raw)


def differences(table: Table, mine: Iterator[Row], its: Iterator[Row]) -> Iterator[tuple[Row | None, Row | None]]:
    """Yield (as history says, as it lies here) where two tables in key order differ."""
    ours, theirs = next(mine, None), next(its, None)
    while ours is not None or theirs is not None:
        if ours is not None and theirs is not None and ours == theirs and pack(ours) == pack(theirs):
            ours, theirs = next(mine, None), next(its, None)
            continue
        here = None if ours is None else _order(table.key_of(ours))
        there = None if theirs is None else _order(table.key_of(theirs))
        if there is None or (here is not None and here < there):
            yield None, ours
            ours = next(mine, None)
        elif here is None or there < here:
            yield theirs, None
            theirs = next(its, None)
        else:
            yield theirs, ours
            ours, theirs = next(mine, None), next(its, None)


def _order(key: tuple[Any, ...]) -> tuple[tuple[int, Any], ...]:
    """Return what sorts keys as SQLite does: NULL, numbers, text by its bytes, BLOB."""
    return tuple(
        (0, 0)
        if value is None
        else (1, value)
        if isinstance(value, int | float)
        else (3, value)
        if isinstance(value, bytes)
        else (2, value.raw if isinstance(value, BrokenText) else value.encode())
        for value in key
    )


def obstacle_to(table: Table, row: tuple[Any, ...]) -> str:
    """Return why a row cannot travel, or ""."""
    for info, affinity, value in zip(table.columns, table.affinities, row, strict=True):
        where = f"column {info.name} of table {table.name}"
        if isinstance(value, BrokenText):
            return f"{where} holds text that is not valid UTF-8"
        if value is None and (info.is_key or info.column.not_null):
            return f"{where} is NULL, so such a row {'cannot be told apart' if info.is_key else 'fits no table'}"
        is_number = isinstance(value, int | float)
        if not is_as_stored(affinity, value) or (info.is_key and is_number and "BLOB" in info.column.type):
            return f"{where} holds a {type(value).__name__}, which this column does not store"
    try:
        for position, merge in table.typed.items():
            checked(table, position, merge, row[position])
    except ConstraintError as error:
        return error.message
    return ""


def _where(table: Table, key: tuple[Any, ...]) -> tuple[str, list[Any]]:
    """Return a condition that finds a key even where it is NULL or broken."""
    conditions: list[str] = []
    values: list[Any] = []
    for info, value in zip(table.key, key, strict=True):
        if isinstance(value, BrokenText):
            conditions.append(f"typeof({quote(info.name)}) = 'text' AND CAST({quote(info.name)} AS BLOB) = ?")
            values.append(value.raw)
        else:
            conditions.append(f"{quote(info.name)} IS ?")
            values.append(value)
    return " AND ".join(conditions), values


def shown(value: object) -> Value:
    """Return a value as a report can carry it: broken text as its bytes."""
    return value.raw if isinstance(value, BrokenText) else value  # type: ignore[return-value]
