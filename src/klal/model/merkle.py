"""Hash trees that prove that a leaf is in a tree.

They are the audit paths of RFC 6962, and one leaf among a million takes twenty hashes.
Whoever checks is given the size of the tree beside its root: without it a path says that
a leaf is in the tree, and not at which place.

Law: `check_inclusion(leaves[i], i, n, inclusion_path(leaves, i), tree_root(leaves))` for every
i < n; with any other leaf, place, size, path or root it is False.

Source:
    RFC 6962 section 2.1; checked as RFC 9162 section 2.1.3.2 writes it out. Rule ENC-2.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from klal.model.codec import HASH_SIZE, tree_root

PATH_LENGTH_MAX = 64  # A tree of 2^64 leaves is no deeper.
_CHUNK = 1 << 14  # A power of two, so that each chunk is a whole subtree.


class TreeBuilder:
    """The root of many leaves, one after another, without keeping them.

    Law: its root is `tree_root` of the leaves added.
    """

    def __init__(self) -> None:
        self.size = 0
        self._tops: list[bytes] = []
        self._leaves: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        """Add a leaf hash at the end."""
        self._leaves.append(leaf)
        self.size += 1
        if len(self._leaves) == _CHUNK:
            self._tops.append(tree_root(self._leaves))
            self._leaves = []

    def root(self) -> bytes:
        """Return the root of what was added so far."""
        return tree_root([*self._tops, tree_root(self._leaves)] if self._leaves else self._tops)


def inclusion_path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Return what is needed beside the leaf hash at `index` to come to the root, lowest first."""
    assert 0 <= index < len(leaves), "only what is in a tree has a path in it"
    level = leaves
    path = []
    while len(level) > 1:
        beside = index ^ 1
        if beside < len(level):
            path.append(level[beside])
        paired = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
        index >>= 1
    return tuple(path)


def check_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """True when the tree of `size` leaves with this root has this leaf hash at `index`."""
    if not (0 <= index < size < 1 << PATH_LENGTH_MAX) or not _are_hashes(path):
        return False
    at, last = index, size - 1
    found = leaf
    for beside in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = _node(beside, found)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            found = _node(found, beside)
        at >>= 1
        last >>= 1
    return last == 0 and found == root


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _are_hashes(path: Sequence[bytes]) -> bool:
    return len(path) <= PATH_LENGTH_MAX and all(len(beside) == HASH_SIZE for beside in path)
