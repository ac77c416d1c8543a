"""The roots that a certificate names, worked out from a file.

Each takes one pass. The tree over the rows and the one over the changes are built leaf by
leaf, so memory does not grow with the table.

Source:
    Protocol spec section 13, rules CRT-3 and CRT-8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import merge

from klal.model.codec import tree_root
from klal.model.header import header_hash
from klal.model.merkle import TreeBuilder
from klal.model.roots import change_leaf, row_leaf, table_node
from klal.model.schema import Value, column_id_of
from klal.store.catalog import Catalog, ColumnInfo, Table
from klal.store.history import History, Log
from klal.store.layout import quote
from klal.store.sql import Connection


@dataclass(frozen=True, slots=True)
class RowsRoot:
    """Root over all rows of all tables, and how many there are."""

    root: bytes
    row_count: int


def rows_root(connection: Connection, catalog: Catalog) -> RowsRoot:
    """Return the root over all rows of all tables (CRT-3)."""
    nodes = []
    total = 0
    for table_id in sorted(catalog.by_id):
        node, count = node_of(connection, catalog.by_id[table_id])
        nodes.append(node)
        total += count
    return RowsRoot(tree_root(nodes), total)


def node_of(connection: Connection, table: Table) -> tuple[bytes, int]:
    """Return what stands for one table among all of them, and how many rows it has."""
    tree = TreeBuilder()
    for row in rows_in_order(connection, table):
        tree.add(row_leaf(row))
    columns = [info.column_id for info in root_columns(table)]
    return table_node(table.table_id, tree.size, tree.root(), columns), tree.size


def root_columns(table: Table) -> list[ColumnInfo]:
    """Return columns in an order that does not depend on who added which first."""
    declared = {info.column_id: info for info in table.given}
    ids = [column_id_of(table.table_id, column) for column in table.definition.columns]
    first = [declared[column_id] for column_id in ids if column_id in declared]
    added = sorted((info for info in table.given if info not in first), key=lambda info: info.column_id)
    return [*first, *added]


def rows_in_order(connection: Connection, table: Table) -> Iterator[tuple[Value, ...]]:
    """Yield the visible rows by ascending key, each by `root_columns`."""
    names = ", ".join(quote(info.name) for info in root_columns(table))
    order = ", ".join(quote(info.name) for info in table.key)
    yield from connection.execute(f"SELECT {names} FROM main.{quote(table.name)} ORDER BY {order}")


def changes_root(history: History, before: Mapping[int, int], lengths: Mapping[int, int]) -> bytes:
    """Return the root over the changes of one cut that the cut before it has not (CRT-8).

    Args:
        before, lengths: Log -> length, of the one and of the other.
    """
    tree = TreeBuilder()
    for leaf in change_leaves(history, before, lengths):
        tree.add(leaf)
    return tree.root()


def change_leaves(history: History, before: Mapping[int, int], lengths: Mapping[int, int]) -> Iterator[bytes]:
    """Yield the leaves of `changes_root`, by ascending log id and then by number."""
    strands: dict[bytes, list[Log]] = {}
    for index in lengths:
        strands.setdefault(history.logs[index].origin, []).append(history.logs[index])
    for log_id in sorted(strands):
        runs = (_hashes(history, log, before.get(log.log, 0), lengths[log.log]) for log in strands[log_id])
        # Of the branches of one log, those under one number stand by their hashes.
        for seq, hashed in merge(*runs):
            yield change_leaf(log_id, seq, hashed)


def _hashes(history: History, log: Log, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    headers = history.headers(log, start, stop)
    return ((seq, header_hash(history.space_id, header)) for seq, header in enumerate(headers, max(start, log.start)))
