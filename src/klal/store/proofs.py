"""Proofs made from a file: one change, row, absent key or member under a certificate; who named a certificate.

What is proved are the rows as of a cut, so unless the file is exactly there the cut is
replayed in memory first. The leaves of a tree are worked out again for each proof, in one
pass over the table or the epoch's headers: nothing is kept for it.

Source:
    Protocol spec section 13, rules PRF-1 to PRF-7.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from klal.errors import IncompleteError, UsageError
from klal.model.certificate import Certificate
from klal.model.codec import tree_leaf, tree_root
from klal.model.merkle import inclusion_path
from klal.model.payload import part_leaves, slices_of
from klal.model.proof import (
    AbsenceClaim,
    ChangeClaim,
    Later,
    MemberClaim,
    NamedClaim,
    Proof,
    RowClaim,
    RowLeaf,
    Slice,
    Step,
    TableNode,
    key_of,
    key_order,
)
from klal.model.roots import change_leaf, row_leaf
from klal.model.schema import Key, Value
from klal.rules.merge import ChangeRef
from klal.store.catalog import Catalog, Table
from klal.store.epochs import Replay
from klal.store.layout import quote
from klal.store.roots import change_leaves, node_of, root_columns, rows_in_order
from klal.store.sql import Connection
from klal.store.store import Store


def certified(store: Store, epoch: int | None) -> Certificate:
    """Return the certificate of an epoch that is complete here, by default the newest.

    Raises:
        IncompleteError: There is none.
    """
    number = store.epochs.next_epoch - 1 if epoch is None else epoch
    certificate = store.certificate(number) if number >= 0 else None
    if certificate is None:
        what = "no epoch" if epoch is None else f"no epoch of number {epoch}"
        raise IncompleteError(f"nothing can be proved yet: {what} is complete here", epoch=epoch)
    return certificate


def prove_change(store: Store, ref: ChangeRef, epoch: int | None, *, with_payload: bool) -> Proof:
    """Return the proof that a change is certified.

    Args:
        ref: The change.
        epoch: Of the certificate that whoever checks will know; the change may be older.
        with_payload: Show the change's payload too.

    Raises:
        IncompleteError: The change is not in that certificate, or its payload is not here.
    """
    under = certified(store, epoch)
    closed = store.applier.closed[: under.epoch + 1]
    first = next((each for each in closed if each.cut.lengths.get(ref.log, 0) > ref.seq), None)
    log = store.history.logs[ref.log]
    if first is None:
        raise IncompleteError(
            f"change {log.log_id.hex()[:8]}:{ref.seq} is not in the cut of epoch {under.epoch}", epoch=under.epoch
        )
    number = first.cut.epoch
    before = closed[number - 1].cut.lengths if number else {}
    leaves = list(change_leaves(store.history, before, first.cut.lengths))
    index = leaves.index(change_leaf(log.origin, ref.seq, store.history.hash_at(ref)))
    claim = ChangeClaim(
        log.member_id,
        log.incarnation,
        store.history.read(ref).header_bytes,
        index,
        len(leaves),
        inclusion_path(leaves, index),
        _slices(store, ref) if with_payload else (),
    )
    certificate = under if number == under.epoch else certified(store, number)
    return Proof(certificate.body.outline, _later(store, certificate, under), claim)


def _later(store: Store, certificate: Certificate, under: Certificate) -> Later | None:
    if certificate.epoch == under.epoch:
        return None
    return Later(under.body.outline, inclusion_path(_chain(store, under.epoch), certificate.epoch))


def _chain(store: Store, epoch: int) -> list[bytes]:
    return [tree_leaf(closed.certificate_hash) for closed in store.applier.closed[:epoch]]


def _slices(store: Store, ref: ChangeRef) -> tuple[Slice, ...]:
    stored = store.history.read(ref)
    found = []
    for part in stored.header.parts:
        data = store.history.part(stored, part.table_id)
        if data is None:
            raise IncompleteError(f"the payload of change {ref.seq} is not here")
        leaves = part_leaves(data)
        found += [
            Slice(part.table_id, index, piece, inclusion_path(leaves, index))
            for index, piece in enumerate(slices_of(data))
        ]
    return tuple(found)


@contextmanager
def tables_at(store: Store, epoch: int) -> Iterator[tuple[Connection, Catalog]]:
    """Yield where the rows of an epoch's cut can be read."""
    cut = store.applier.closed[epoch].cut
    if store.history.applied_lengths() == {log: length for log, length in cut.lengths.items() if length}:
        yield store.connection, store.catalog
        return
    replay = Replay(store.connection, store.history, store.applier.certificate_in)
    try:
        replay.run(cut.lengths)
        yield replay.connection, replay.catalog
    finally:
        replay.connection.close()


def prove_row(store: Store, table_name: str, key: Key, epoch: int | None) -> Proof:
    """Return the proof of what the row with this key was at the close of an epoch, or that there was none.

    Raises:
        IncompleteError: No such certificate here.
        UsageError: No such table then, or no key that it could hold.
        RefusedError: PRF-5, a key that the table would store as another value.
    """
    under = certified(store, epoch)
    with tables_at(store, under.epoch) as (connection, catalog):
        table = catalog.named(table_name)
        if len(key) != len(table.key):
            raise UsageError(f"table {table.name} has {len(table.key)} key columns, found {len(key)} values")
        node = _node(connection, catalog, table)
        key_order(node, key)
        # What the key columns hold as it is compares in SQL as `key_order` has it, and thousands of times quicker.
        marks, names = ", ".join("?" * len(key)), ", ".join(quote(info.name) for info in table.key)
        place: int = connection.execute(
            f"SELECT count(*) FROM main.{quote(table.name)} WHERE ({names}) < ({marks})", key
        ).get
        leaves: list[bytes] = []
        near: dict[int, tuple[Value, ...]] = {}
        for index, row in enumerate(rows_in_order(connection, table)):
            leaves.append(row_leaf(row))
            if place - 1 <= index <= place:
                near[index] = row
    rows = {index: RowLeaf(index, row, inclusion_path(leaves, index)) for index, row in near.items()}
    node = replace(node, row_count=len(leaves), root=tree_root(leaves))
    is_there = place in rows and key_of(node, rows[place].values) == key
    claim = RowClaim(node, rows[place]) if is_there else AbsenceClaim(node, key, tuple(rows.values()))
    return Proof(under.body.outline, None, claim)


def _node(connection: Connection, catalog: Catalog, table: Table) -> TableNode:
    """Return a table and its place among all tables; the count and root of its rows are yet to be filled in."""
    ids = sorted(catalog.by_id)
    index = ids.index(table.table_id)
    # No path of a leaf holds the leaf itself.
    nodes = [b"" if each == table.table_id else node_of(connection, catalog.by_id[each])[0] for each in ids]
    columns = root_columns(table)
    declared = set(table.definition.columns)
    return TableNode(
        table.definition,
        tuple(info.column for info in columns if info.column not in declared),
        tuple(info.column_id for info in columns),
        0,
        b"",
        index,
        len(ids),
        inclusion_path(nodes, index),
    )


def prove_member(store: Store, member_id: bytes, epoch: int | None) -> Proof:
    """Return the proof that a member was counted.

    Raises:
        IncompleteError: No such certificate here.
        UsageError: The member was not counted in it.
    """
    under = certified(store, epoch)
    counted = [witness.member.member_id for witness in under.witness]
    if member_id not in counted:
        raise UsageError(f"member {member_id.hex()[:8]} was not counted in epoch {under.epoch}")
    index = counted.index(member_id)
    path = inclusion_path([tree_leaf(each) for each in counted], index)
    return Proof(under.body.outline, None, MemberClaim(member_id, index, path))


def prove_named(store: Store, epoch: int | None, since: int | None) -> Proof:
    """Return the proof of who signed receipts that name a certificate.

    Args:
        epoch: Of the certificate.
        since: An epoch before: the certificates from there on are shown, each with its members.

    Raises:
        IncompleteError: No such certificate here.
        UsageError: `since` is not before `epoch`.
    """
    under = certified(store, epoch)
    if since is not None and not 0 <= since < under.epoch:
        raise UsageError(f"epoch {since} is not before epoch {under.epoch}")
    first = under.epoch if since is None else since
    steps = [_step(certified(store, number)) for number in range(first, under.epoch + 1)]
    heard = {member_id for step in steps for member_id in (*step.members, step.outline.steward)}
    hashes = {step.outline.hash for step in steps}
    receipts = sorted(
        (receipt.body, receipt.signature)
        for receipt in store.knowledge.receipts().values()
        if receipt.statement.certificate in hashes and receipt.statement.member_id in heard
    )
    return Proof(under.body.outline, None, NamedClaim(tuple(steps), tuple(receipts)))


def _step(certificate: Certificate) -> Step:
    members = tuple(witness.member.member_id for witness in certificate.witness)
    return Step(certificate.body.outline, members, certificate.body.gone)
