"""How much of each log, and with which newest header: a prefix length and a head hash.

A length alone is not knowledge: equal counters over different content is how replicas
come to believe a lie. So a head always travels with its hash.

Law: merge is the least upper bound; `a.merge(b).covers(a)`; merging is idempotent,
commutative and associative wherever no log is forked.

Source:
    Protocol spec section 6, rules FRN-1 to FRN-3. Parker et al. 1983 (version vectors).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from klal.model.codec import HASH_SIZE, tagged_hash

EMPTY_ROOT = tagged_hash("klal/trie-empty/1")


@dataclass(frozen=True, slots=True)
class Head:
    """The prefix of one log: `length` headers, the last of which hashes to `head_hash`."""

    length: int
    head_hash: bytes


@dataclass(frozen=True, slots=True)
class Frontier:
    """The prefix held, by log.

    Shape:
        heads: log id (32 bytes) -> Head with length >= 1, in ascending log order.
            An absent log means 0, so equal knowledge is always equal data.

    Raises:
        ValueError: A length below 1.
    """

    heads: Mapping[bytes, Head]

    def __post_init__(self) -> None:
        for log_id, head in self.heads.items():
            if head.length < 1:
                raise ValueError(f"length of {log_id.hex()[:8]} is {head.length}, want >= 1")
        # Sorted here, once, because frontiers are hashed and printed.
        object.__setattr__(self, "heads", MappingProxyType(dict(sorted(self.heads.items()))))

    def length(self, log_id: bytes) -> int:
        """Return how many headers of this log are inside."""
        head = self.heads.get(log_id)
        return 0 if head is None else head.length

    def covers(self, other: Frontier) -> bool:
        """True when everything `other` holds is held here too."""
        return not other.beyond(self)

    def beyond(self, other: Frontier) -> dict[bytes, range]:
        """Return what is held here and missing from `other`.

        Returns:
            Half-open ranges of sequence numbers. A log with nothing to offer
            is left out, so an empty dict means "you are up to date with me".
        """
        ranges = {log_id: range(other.length(log_id), head.length) for log_id, head in self.heads.items()}
        return {log_id: seqs for log_id, seqs in ranges.items() if seqs}

    def merge(self, other: Frontier) -> Frontier:
        """Return the frontier of both: the longer prefix of every log."""
        merged = dict(self.heads)
        for log_id, head in other.heads.items():
            if head.length > self.length(log_id):
                merged[log_id] = head
        return Frontier(merged)

    @property
    def change_count(self) -> int:
        """Changes inside, over all logs."""
        return sum(head.length for head in self.heads.values())

    def root(self) -> bytes:
        """Return the root of the Merkle trie over this frontier (FRN-3).

        Keys are hashes of log ids, so that nobody can shape the trie by choosing ids.
        Equal roots are the only meaning of "the same".
        """
        return _trie_root(
            sorted(
                (key := tagged_hash("klal/trie-key/1", log_id), _leaf(key, head)) for log_id, head in self.heads.items()
            ),
            0,
        )


NOTHING = Frontier({})


def _leaf(key: bytes, head: Head) -> bytes:
    return tagged_hash("klal/trie-leaf/1", key, head.length.to_bytes(8, "big"), head.head_hash)


def _trie_root(leaves: list[tuple[bytes, bytes]], depth: int) -> bytes:
    """Return the node hash of sorted (key, leaf hash) pairs that share `depth` nibbles.

    A subtree with one leaf is that leaf, whatever its depth, so shape depends on
    the set of keys alone and not on the order in which they came.
    """
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0][1]
    children: dict[int, list[tuple[bytes, bytes]]] = {}
    for leaf in leaves:
        children.setdefault(_nibble(leaf[0], depth), []).append(leaf)
    bitmap = sum(1 << nibble for nibble in children)
    hashes: Iterable[bytes] = (_trie_root(children[nibble], depth + 1) for nibble in sorted(children))
    return tagged_hash("klal/trie-node/1", bitmap.to_bytes(2, "big"), *hashes)


def _nibble(key: bytes, depth: int) -> int:
    assert depth < 2 * HASH_SIZE, "two different 32-byte keys differ in some nibble"
    byte = key[depth // 2]
    return byte & 15 if depth % 2 else byte >> 4
