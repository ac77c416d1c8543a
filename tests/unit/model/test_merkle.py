"""Hash trees that prove: inclusion, as RFC 6962 has it. Rule ENC-2."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.model.codec import tree_leaf, tree_root
from klal.model.merkle import TreeBuilder, check_inclusion, inclusion_path

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "merkle.json").read_text("utf-8"))
LEAVES = [tree_leaf(bytes([n])) for n in range(40)]
ROOTS = [tree_root(LEAVES[:n]) for n in range(41)]

# Published with the reference implementation of Certificate Transparency, for the inputs in merkle.json.
PUBLISHED = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def test_roots_are_those_that_rfc_6962_was_published_with() -> None:
    """ENC-2: the tree is nobody's own invention."""
    assert tuple(VECTORS["roots"]) == PUBLISHED


def _path(leaves: list[bytes], index: int) -> list[bytes]:
    """PATH(m, D[n]) of RFC 6962 section 2.1.1, word for word."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if index < k:
        return [*_path(leaves[:k], index), tree_root(leaves[k:])]
    return [*_path(leaves[k:], index - k), tree_root(leaves[:k])]


@pytest.mark.parametrize("size", range(1, 41))
def test_every_leaf_of_a_tree_is_shown_by_its_path_and_at_no_other_place(size: int) -> None:
    """ENC-2: and by no other leaf, size, path or root."""
    leaves, root = LEAVES[:size], ROOTS[size]
    for index in range(size):
        path = inclusion_path(leaves, index)

        assert list(path) == _path(leaves, index)
        assert check_inclusion(leaves[index], index, size, path, root)
        assert not check_inclusion(tree_leaf(b"other"), index, size, path, root)
        assert not check_inclusion(leaves[index], index, size, path, ROOTS[size - 1])
        assert not any(
            check_inclusion(leaves[index], other, size, path, root) for other in range(-1, size + 2) if other != index
        )
        assert not check_inclusion(leaves[index], index, size, (*path, bytes(32)), root)
        assert not path or not check_inclusion(leaves[index], index, size, path[:-1], root)
        assert not path or not check_inclusion(leaves[index], index, size, (path[0][:31], *path[1:]), root)
        for at in range(len(path)):
            wrong = (*path[:at], bytes(32), *path[at + 1 :])
            assert not check_inclusion(leaves[index], index, size, wrong, root)


@given(st.integers(0, 70_000))
def test_a_tree_built_leaf_by_leaf_is_the_tree(size: int) -> None:
    """ENC-2: the builder keeps one hash for each 16,384 leaves."""
    leaves = [sha256(n.to_bytes(4, "big")).digest() for n in range(size)]
    built = TreeBuilder()
    for leaf in leaves:
        built.add(leaf)

    assert (built.root(), built.size) == (tree_root(leaves), size)


def test_the_vectors_of_paths_check() -> None:
    """ENC-2: what a second implementation can be held to."""
    leaves = [tree_leaf(bytes.fromhex(data)) for data in VECTORS["inputs"]]
    roots = [tree_root([]), *map(bytes.fromhex, VECTORS["roots"])]

    for each in VECTORS["inclusion"]:
        path = [bytes.fromhex(h) for h in each["path"]]
        assert check_inclusion(leaves[each["index"]], each["index"], each["size"], path, roots[each["size"]])
