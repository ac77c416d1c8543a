"""What the roots in a certificate are over: the leaf of a change, of a row, of a member, of a certificate.

Each root is a tree of RFC 6962, so whoever has the certificate's hash can be shown any one
of them by a few hashes. A row is a leaf by itself, and not part of a block of rows: a proof
then shows the row asked for and of its neighbours nothing but hashes. There is no salt in
them, because every replica must come to the same root: who holds a proof can try out
what a neighbour might say.

Source:
    Protocol spec section 13, rules CRT-3, CRT-4, CRT-8 and CRT-9.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from klal.model.codec import pack, tagged_hash, tree_leaf, tree_root


def change_leaf(log_id: bytes, seq: int, hashed: bytes) -> bytes:
    """Return the leaf of one change, which says itself whose it is (CRT-8)."""
    return tree_leaf(log_id + seq.to_bytes(8, "big") + hashed)


def row_leaf(values: Sequence[object]) -> bytes:
    """Return the leaf of one row (CRT-3)."""
    return tree_leaf(pack(values))


def table_node(table_id: bytes, row_count: int, root: bytes, columns: Sequence[bytes]) -> bytes:
    """Return what stands for a table in the tree over all tables (CRT-3)."""
    return tagged_hash("klal/rows-table/1", table_id, row_count.to_bytes(8, "big"), root, pack(columns))


def members_root(member_ids: Iterable[bytes]) -> bytes:
    """Return the root over member ids, ascending (CRT-4)."""
    return tree_root([tree_leaf(member_id) for member_id in sorted(member_ids)])


def chain_root(hashes: Iterable[bytes]) -> bytes:
    """Return the root over the hashes of certificates, from that of epoch 0 on (CRT-9)."""
    return tree_root([tree_leaf(hashed) for hashed in hashes])
