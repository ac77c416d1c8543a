"""Items: the immutable, self-checking pieces that shared folders, object stores and bundles are made of.

An item says in its first bytes what it is and how long it is, proves its index by a hash
right behind it, and all of itself by a hash at the end. So a carrier is indexed without
reading payloads, and a half-copied or damaged item is known for what it is.

Law: `parse_head(item) == head` for every encoded item; any changed, added or missing byte
makes `parse_head` or `check_whole` raise `DamagedItem`.

Source:
    docs/spec/folder.md, rules FLD-3 to FLD-6; docs/spec/bundle.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256

import msgspec

from klal.errors import MalformedError
from klal.model.codec import FRAME_SIZE_MAX, HASH_SIZE, HEADER_SIZE_MAX, SEQ_MAX, SLICE_SIZE, TABLE_ID_SIZE, unpack
from klal.model.header import header_hash
from klal.model.seal import SEAL_EVERY_COUNT, Seal
from klal.sync.station import PartSlice, Run

ITEM_VERSION = 1
# A run of 1,024 headers at their limit has 8 MiB; writers stop filling at ITEM_SIZE_AIM.
ITEM_SIZE_MAX = 16 * 1024 * 1024
ITEM_SIZE_AIM = 4 * 1024 * 1024
# A payload's index is read on every opening, so it must stay small beside its body.
PAYLOAD_INDEX_SIZE_MAX = FRAME_SIZE_MAX
ENTRY_COUNT_MAX = 16 * 1024
RANK_MAX = 1 << 48

HEADERS, PAYLOADS, RECEIPT, DAMAGE, CONTENTS, RECEIPTS, END = range(1, 8)
LETTERS = {HEADERS: "H", PAYLOADS: "P", RECEIPT: "R", DAMAGE: "D"}
FOLDER_KINDS = frozenset(LETTERS)
BUNDLE_KINDS = frozenset({HEADERS, PAYLOADS, CONTENTS, RECEIPTS, END})

ITEM_MAGIC = b"klal" + bytes((ITEM_VERSION,))
# magic, version, kind, spare, index size, body size, space id, log id
_FIXED = struct.Struct(">4sBBHIQ32s32s")
FIXED_SIZE = _FIXED.size
ITEM_SIZE_MIN = FIXED_SIZE + 2 * HASH_SIZE


class DamagedItem(Exception):  # noqa: N818 - not an error: it is how one item says that it does not count
    """These bytes are not a whole item; the text says why."""


class RunLine(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One run; its seal's length and head hash follow from the headers."""

    start: int
    headers: tuple[bytes, ...]
    signature: bytes


class HeadersIndex(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What an item of headers says: whose log it is, and runs of it.

    Shape:
        rank: one more than the greatest rank the writer saw in the folder, or the log's
            own. An inviter's log has a smaller rank than those it invited.
    """

    member_id: bytes
    incarnation: bytes
    rank: int
    runs: tuple[RunLine, ...]


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Consecutive slices of one part, with all leaf hashes before them if the part has more than one slice.

    Shape:
        table: counts into the index's tables.
        first, count: slices [first, first + count).
        leaf_count: 0 for a part of one slice.
        size: bytes in the body, leaves included.
    """

    seq: int
    table: int
    first: int
    count: int
    leaf_count: int
    size: int


class PayloadsIndex(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What an item of payloads says: which slices follow in its body, in this order.

    Shape:
        head: hash of the header of the last entry; a log that forked has several headers under one number.
    """

    head: bytes
    tables: tuple[bytes, ...]
    entries: tuple[Entry, ...]


class ReceiptIndex(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One receipt as bytes."""

    body: bytes
    signature: bytes


class DamageIndex(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Names in the same folder of items whose body was found damaged by a reader."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ItemHead:
    """The checked beginning of an item; as `parse_fixed` gives it, the index is still empty."""

    kind: int
    space_id: bytes
    log_id: bytes
    index_size: int
    body_size: int
    index: bytes = b""

    @property
    def front_size(self) -> int:
        """Bytes up to the end of the index."""
        return FIXED_SIZE + self.index_size

    @property
    def body_start(self) -> int:
        return self.front_size + HASH_SIZE

    @property
    def size(self) -> int:
        """Bytes of the whole item."""
        return self.body_start + self.body_size + HASH_SIZE


def encode_item(kind: int, space_id: bytes, log_id: bytes, index: bytes, body: bytes = b"") -> bytes:
    """Return the bytes of one item."""
    head = _FIXED.pack(b"klal", ITEM_VERSION, kind, 0, len(index), len(body), space_id, log_id) + index
    front = head + sha256(head).digest() + body
    assert len(front) + HASH_SIZE <= ITEM_SIZE_MAX, "writers split before the limit"
    return front + sha256(front).digest()


def parse_fixed(data: bytes, kinds: frozenset[int] = FOLDER_KINDS) -> ItemHead:
    """Return the head that an item's first bytes state, its index not read yet.

    Raises:
        DamagedItem: Not an item of these kinds, of a newer version, or larger than any.
    """
    if len(data) < FIXED_SIZE:
        raise DamagedItem(f"has {len(data)} bytes, want at least {ITEM_SIZE_MIN}")
    magic, version, kind, spare, index_size, body_size, space_id, log_id = _FIXED.unpack_from(data)
    if magic != ITEM_MAGIC[:4] or spare or kind not in kinds:
        raise DamagedItem("is not an item of klal")
    if version != ITEM_VERSION:
        raise DamagedItem(f"has item version {version}, want {ITEM_VERSION}")
    head = ItemHead(kind, space_id, log_id, index_size, body_size)
    if head.size > ITEM_SIZE_MAX or (kind == PAYLOADS and index_size > PAYLOAD_INDEX_SIZE_MAX):
        raise DamagedItem(f"states {head.size} bytes, want at most {ITEM_SIZE_MAX}")
    return head


def parse_head(data: bytes, kinds: frozenset[int] = FOLDER_KINDS) -> ItemHead:
    """Return the head of an item from bytes that begin with it, index included and checked.

    Raises:
        DamagedItem: As `parse_fixed`, or the index does not match its hash.
    """
    fixed = parse_fixed(data, kinds)
    end = fixed.front_size
    if data[end : end + HASH_SIZE] != sha256(memoryview(data)[:end]).digest():
        raise DamagedItem("has an index that does not match its hash")
    return replace(fixed, index=data[FIXED_SIZE:end])


def check_whole(data: bytes) -> None:
    """Return if a whole item's bytes match the hash at its end.

    Raises:
        DamagedItem: They do not.
    """
    if data[-HASH_SIZE:] != sha256(memoryview(data)[:-HASH_SIZE]).digest():
        raise DamagedItem("does not match its hash")


# -- what they say ------------------------------------------------------------------------


def decode_headers(head: ItemHead) -> tuple[int, list[Run]]:
    """Return the rank and the runs of an item of headers; each must still be admitted.

    Raises:
        MalformedError: FLD-5, or not of its form.
    """
    index = unpack(head.index, HeadersIndex, "item of headers", ITEM_SIZE_MAX)
    if not 0 <= index.rank <= RANK_MAX:
        raise MalformedError(f"rank is {index.rank}, want 0 to {RANK_MAX}", rule="FLD-5")
    runs = []
    for line in index.runs:
        if not 0 < len(line.headers) <= SEAL_EVERY_COUNT or len(line.headers[-1]) > HEADER_SIZE_MAX:
            raise MalformedError(f"run has {len(line.headers)} headers", rule="FLD-5")
        if not 0 <= line.start <= SEQ_MAX:
            raise MalformedError(f"run starts at {line.start}", rule="FLD-5")
        head_hash = header_hash(head.space_id, line.headers[-1])
        seal = Seal(head.log_id, line.start + len(line.headers), head_hash, line.signature)
        runs.append(Run(head.log_id, index.member_id, index.incarnation, line.start, line.headers, seal))
    return index.rank, runs


def decode_payloads(head: ItemHead) -> PayloadsIndex:
    """Return the index of an item of payloads: every entry lies inside the body and has a size its numbers allow.

    Raises:
        MalformedError: FLD-6, or not of its form.
    """
    index = unpack(head.index, PayloadsIndex, "item of payloads", PAYLOAD_INDEX_SIZE_MAX)
    if (
        not 0 < len(index.entries) <= ENTRY_COUNT_MAX
        or len(index.head) != HASH_SIZE
        or any(len(table_id) != TABLE_ID_SIZE for table_id in index.tables)
    ):
        raise MalformedError("index of payloads has a count or size out of bounds", rule="FLD-6")
    for entry in index.entries:
        slices_size = entry.size - entry.leaf_count * HASH_SIZE
        is_right = (
            0 <= entry.seq <= SEQ_MAX
            and 0 <= entry.table < len(index.tables)
            and entry.first >= 0
            and entry.count > 0
            and entry.first + entry.count <= max(1, entry.leaf_count)
            and entry.leaf_count >= 0
            and (entry.count - 1) * SLICE_SIZE < slices_size <= entry.count * SLICE_SIZE
        )
        if not is_right:
            raise MalformedError(f"index of payloads has an impossible entry for {entry.seq}", rule="FLD-6")
    if sum(entry.size for entry in index.entries) != head.body_size:
        raise MalformedError(f"index of payloads does not add up to {head.body_size} bytes", rule="FLD-6")
    return index


def leaves_in(entry: Entry, data: bytes, offset: int) -> tuple[bytes, ...]:
    """Return the leaf hashes of an entry whose bytes lie at `offset`."""
    end = offset + entry.leaf_count * HASH_SIZE
    return tuple(data[at : at + HASH_SIZE] for at in range(offset, end, HASH_SIZE))


def slices_in(entry: Entry, data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield (number, bytes) of the slices of an entry whose bytes lie at `offset`."""
    start, end = offset + entry.leaf_count * HASH_SIZE, offset + entry.size
    for number in range(entry.count):
        at = start + number * SLICE_SIZE
        yield entry.first + number, data[at : min(at + SLICE_SIZE, end)]


@dataclass(slots=True)
class PayloadsDraft:
    """An item of payloads in the making.

    Shape:
        size_aim: full at this size of the body, or at ENTRY_COUNT_MAX entries.
    """

    size_aim: int
    tables: dict[bytes, int] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, piece: PartSlice, leaves: tuple[bytes, ...]) -> bool:
        """Add one slice, in ascending order, with the leaf hashes of its part; False when the item is full."""
        if self.size >= self.size_aim or len(self.entries) == ENTRY_COUNT_MAX:
            return False
        table = self.tables.setdefault(piece.table_id, len(self.tables))
        last = self.entries[-1] if self.entries else None
        if last is not None and (last.seq, last.table, last.first + last.count) == (piece.seq, table, piece.index):
            self.entries[-1] = Entry(
                last.seq, last.table, last.first, last.count + 1, last.leaf_count, last.size + len(piece.data)
            )
        else:
            # Every item carries the leaves of its large parts, so that no item needs another.
            self._append(leaves)
            size = len(leaves) * HASH_SIZE + len(piece.data)
            self.entries.append(Entry(piece.seq, table, piece.index, 1, len(leaves), size))
        self._append((piece.data,))
        return True

    def _append(self, pieces: tuple[bytes, ...]) -> None:
        self.pieces.extend(pieces)
        self.size += sum(map(len, pieces))

    def finish(self, head: bytes) -> tuple[PayloadsIndex, bytes]:
        """Return the index and the body; `head` is the hash of the header of the last entry."""
        return PayloadsIndex(head, tuple(self.tables), tuple(self.entries)), b"".join(self.pieces)
