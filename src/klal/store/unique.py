"""Settling UNIQUE: which rows are shown in the user's table, and which wait beside it.

The merge itself knows nothing of UNIQUE. It makes row states, and a row that SQLite will not
take beside another is put into `klal_hidden`. At the end of each batch, and of each local
transaction that may have freed a value, the rows that share values are compared by their
claims. Claims are not stored: they are read from history, for the few rows that need one.

Source:
    Protocol spec section 10, rules UNQ-1 to UNQ-4. Decision D12.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import apsw
import msgspec

from klal.errors import ConstraintError
from klal.model.payload import Kind, decode_segments
from klal.model.schema import Key, Value, key_text
from klal.rules.merge import ChangeRef
from klal.rules.order import OrderKey, order_bytes
from klal.rules.unique import Claimant, compared, visible
from klal.store.base import written_of
from klal.store.catalog import Catalog, Table, UniqueRule
from klal.store.ddl import column_sql
from klal.store.history import STATE_APPLIED, History
from klal.store.layout import quote
from klal.store.rows import Rows, encode_key
from klal.store.sql import Connection
from klal.store.window import order_key

Cells = Mapping[bytes, Value]


class Uniques:
    """What hides and reveals rows of one file."""

    def __init__(self, connection: Connection, history: History, catalog: Catalog, rows: Rows) -> None:
        self._connection = connection
        self._history = history
        self._catalog = catalog
        self._rows = rows
        # Of tables with hidden rows: these, and the visible ones that share a value with them, when last settled.
        self._contests: dict[int, frozenset[Key]] = {}

    def settle(self) -> None:
        """Show and hide rows as UNIQUE allows, in every table where a write may have changed that."""
        for table in list(self._catalog.by_id.values()):
            if table.tab in self._catalog.unsettled:
                self._settle(table, self._catalog.unsettled[table.tab])
                if table.tab in self._catalog.unbuilt:
                    self._catalog.build(table.tab)
        self._catalog.unsettled.clear()

    def forget(self) -> None:
        """Drop what is remembered between transactions."""
        self._contests.clear()

    def _settle(self, table: Table, written: set[Key] | None) -> None:
        hidden = self._rows.hidden(table)
        if not hidden:
            self._contests.pop(table.tab, None)
            return
        shown = self.sharing(table, hidden)
        contest = frozenset(shown | hidden.keys())
        if written is not None and written.isdisjoint(contest) and contest == self._contests.get(table.tab):
            return  # The same rows, none of them written, wait for the same values.
        states = {key: self._rows.load(table, key) for key in contest}
        orders = self._orders(table, {key: state.life for key, state in states.items()})
        values_of = self._values_of(table)
        claimants = {
            key: Claimant(state.was_deleted, orders[key], encode_key(key), values_of(key, state.cells or {}))
            for key, state in states.items()
        }
        winners = visible(claimants)
        # Those that go make room for those that come.
        for key in sorted(shown - winners, key=encode_key):
            self._rows.hide(table, key, states[key].cells or {})
        for key in sorted(hidden.keys() & winners, key=encode_key):
            self._reveal(table, key, states[key].cells or {})
        self._remember(table)

    def _reveal(self, table: Table, key: Key, cells: Cells) -> None:
        try:
            self._rows.reveal(table, key, cells)
        except apsw.SQLError:
            self._catalog.take_away({table.tab})
            self._rows.reveal(table, key, cells)

    def _remember(self, table: Table) -> None:
        hidden = self._rows.hidden(table)
        if hidden:
            self._contests[table.tab] = frozenset(self.sharing(table, hidden) | hidden.keys())
        else:
            self._contests.pop(table.tab, None)

    def check_local(self, table: Table, keys: Iterable[Key]) -> None:
        """Return if the rows of a local transaction take nothing that a hidden row waits for (UNQ-4).

        Args:
            keys: Of rows inserted, or changed in a column that UNIQUE depends on.

        Raises:
            ConstraintError: It names the hidden row.
        """
        hidden = self._rows.hidden(table)
        values_of = self._values_of(table)
        owner = {value: key for key, cells in hidden.items() for value in values_of(key, cells)}
        for key in keys:
            if key in hidden:
                raise ConstraintError(
                    f"a row with key {key_text(key)} of table {table.name} is hidden: it waits for its UNIQUE value",
                    hint="see klal_violations; resolve it, or free the value that it waits for",
                )
            state = self._rows.load(table, key)
            for value in values_of(key, state.cells or {}) if state.is_alive else ():
                if value in owner:
                    raise ConstraintError(
                        f"a UNIQUE value of table {table.name} is one that the hidden row with key"
                        f" {key_text(owner[value])} waits for",
                        hint="see klal_violations; resolve it, or free the value that it waits for",
                    )

    def _values_of(self, table: Table) -> Callable[[Key, Cells], frozenset[Hashable]]:
        """Return what gives a row's values: (number of the rule, the value as compared)."""
        probe = _Probe(table)

        def values_of(key: Key, cells: Cells) -> frozenset[Hashable]:
            row = {**table.defaults, **dict(zip((info.column_id for info in table.key), key, strict=True)), **cells}
            found = set()
            for number, rule in enumerate(table.uniques):
                value = compared([row.get(column_id) for column_id in rule.column_ids], rule.collations)
                if value is not None and (not rule.condition or probe.holds(rule, row)):
                    found.add((number, value))
            return frozenset(found)

        return values_of

    def make_room(self, table: Table, key: Key) -> None:
        """Show a hidden row for now, and hide those whose values it shares, so that SQL can reach it.

        What is shown in the end is settled with the transaction, as always.
        """
        cells = self._rows.hidden(table)[key]
        for rival in sorted(self.sharing(table, {key: cells}), key=encode_key):
            self._rows.hide(table, rival, self._rows.load(table, rival).cells or {})
        self._rows.reveal(table, key, cells)

    def sharing(self, table: Table, hidden: Mapping[Key, Cells]) -> set[Key]:
        """Return the keys of the visible rows that share a value with a hidden one."""
        by_id = {info.column_id: info for info in table.columns}
        keys = ", ".join(quote(info.name) for info in table.key)
        found: set[Key] = set()
        for rule in table.uniques:
            where = " AND ".join(
                f"{quote(by_id[column_id].name)} = ? COLLATE {collation}"
                for column_id, collation in zip(rule.column_ids, rule.collations, strict=True)
            )
            condition = f" AND ({rule.condition})" if rule.condition else ""
            sql = f"SELECT {keys} FROM main.{quote(table.name)} WHERE {where}{condition}"
            for key, cells in hidden.items():
                row = {**dict(zip((info.column_id for info in table.key), key, strict=True)), **cells}
                values = [row.get(column_id) for column_id in rule.column_ids]
                found.update(tuple(each) for each in self._connection.execute(sql, values).fetchall())
        return found

    def _orders(self, table: Table, lives: Mapping[Key, int]) -> dict[Key, bytes]:
        """Return the order key of the newest write, in its life, of a cell that UNIQUE depends on (UNQ-1)."""
        newest = dict.fromkeys(lives, b"")
        if self._history.floor:
            newest.update(self._orders_of_base(table, lives))
        for log in self._history.logs.values():
            for stored in self._history.lines(log, 0, log.applied_length):
                data = self._history.part(stored, table.table_id) if stored.state == STATE_APPLIED else None
                if data is None:
                    continue
                order = order_bytes(order_key(self._history, log, stored))
                for segment in decode_segments(data):
                    is_claim = segment.kind is Kind.INSERT or not table.unique_ids.isdisjoint(segment.columns)
                    if segment.kind is Kind.DELETE or not is_claim:
                        continue
                    for row, key in enumerate(segment.keys):
                        if lives.get(key) == segment.life(row) and order > newest[key]:
                            newest[key] = order
        return newest

    def _orders_of_base(self, table: Table, lives: Mapping[Key, int]) -> dict[Key, bytes]:
        """Return the same of what was written by changes whose payload was put down (CMP-3)."""
        found = {}
        written = written_of(self._connection, table.table_id, map(encode_key, lives))
        for key, life in lives.items():
            known, writes = written.get(encode_key(key), (0, {}))
            refs = [ref for column_id, ref in writes.items() if not column_id or column_id in table.unique_ids]
            if known == life and refs:
                found[key] = max(order_bytes(self._order(ref)) for ref in refs)
        return found

    def _order(self, ref: ChangeRef) -> OrderKey:
        return order_key(self._history, self._history.logs[ref.log], self._history.read(ref))


class _Probe:
    """A table of the same columns in memory, where SQLite says whether a row fulfils a condition."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._connection: Connection | None = None

    def holds(self, rule: UniqueRule, row: Mapping[bytes, Any]) -> bool:
        if self._connection is None:
            self._connection = Connection(":memory:")
            name_of = self._table.declared_names.__getitem__
            columns = (
                column_sql(msgspec.structs.replace(info.column, not_null=False, default=None), info.name, name_of)
                for info in self._table.columns
            )
            options = " STRICT" * self._table.definition.strict
            self._connection.execute(f"CREATE TABLE t({', '.join(columns)}){options}")
        marks = ", ".join("?" * len(self._table.given))
        self._connection.execute("DELETE FROM t")
        names = ", ".join(quote(info.name) for info in self._table.given)
        self._connection.execute(
            f"INSERT INTO t({names}) VALUES({marks})", [row.get(info.column_id) for info in self._table.given]
        )
        return bool(self._connection.execute(f"SELECT {rule.condition} FROM t").get)
