"""A snapshot: the rows as of one certificate, so that a newcomer can read before history is here.

It proves nothing by itself. Whoever takes one checks every slice by its hash, the rows by the
root that the certificate names, and the certificate by what it says of itself; that it is the
true one only history shows, which follows behind.

The choice a reader would question: rows travel as pages of SQLite, under zstd. They are foreign
bytes that a parser of C reads, so they are never opened as a database of their own: they are
attached, looked through, and copied into tables that this side has declared (SNP-4). Columns
that we decode ourselves would cost a newcomer twice the time.

Source:
    Protocol spec section 19, rules SNP-1 to SNP-3. Decision 0037.
"""

from __future__ import annotations

import struct

import msgspec

from klal.errors import LinkError, MalformedError
from klal.model.acts import SchemaAct, check_act
from klal.model.certificate import CERTIFICATE_SIZE_MAX
from klal.model.codec import EPOCH_MAX, HASH_SIZE, PART_SIZE_MAX, SLICE_SIZE, pack, tree_leaf, tree_root, unpack

SNAPSHOT_VERSION = 1
SNAPSHOT_SIZE_MAX = PART_SIZE_MAX
IMAGE_SIZE_MAX = 1 << 32  # Unpacked; SQLite itself can hold more, this side's memory may not.
LEAF_COUNT_MAX = SNAPSHOT_SIZE_MAX // SLICE_SIZE
OUTLINE_SIZE_MAX = 1 << 18

_HEAD_SIZE = struct.Struct(">I")


class Outline(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is said of a snapshot before it is sent: small, and enough to check every slice.

    Shape:
        certificate: hash of the certificate of `epoch`.
        size: bytes of the snapshot.
        leaves: leaf hash of every slice of it, in order.
    """

    version: int
    space_id: bytes
    epoch: int
    certificate: bytes
    size: int
    leaves: tuple[bytes, ...]

    @property
    def root(self) -> bytes:
        """The hash tree over its slices: which snapshot it is."""
        return tree_root(list(self.leaves))


class Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What comes before the image.

    Shape:
        certificate: the bytes of its file.
        schema: the acts that give its tables, in the order in which they apply.
        row_counts: how many rows each table has, by ascending table id.
        image_size: of the image, unpacked.
    """

    certificate: bytes
    schema: tuple[SchemaAct, ...]
    row_counts: tuple[int, ...]
    image_size: int


def decode_outline(data: bytes, space_id: bytes) -> Outline:
    """Return the outline of a snapshot of this space.

    Raises:
        MalformedError: SNP-1.
    """
    outline = unpack(data, Outline, "outline of a snapshot", OUTLINE_SIZE_MAX)
    if outline.version != SNAPSHOT_VERSION:
        raise MalformedError(f"snapshot has version {outline.version}, want {SNAPSHOT_VERSION}", rule="SNP-1")
    if outline.space_id != space_id:
        raise MalformedError("snapshot is of another space", rule="SNP-1")
    is_bounded = 0 <= outline.epoch <= EPOCH_MAX and 0 < outline.size <= SNAPSHOT_SIZE_MAX
    if not is_bounded or len(outline.leaves) != -(-outline.size // SLICE_SIZE):
        raise MalformedError("snapshot has a number, size or count out of bounds", rule="SNP-1")
    if any(len(hashed) != HASH_SIZE for hashed in (outline.certificate, *outline.leaves)):
        raise MalformedError("snapshot has a hash of a wrong size", rule="SNP-1")
    return outline


def check_snapshot_slice(outline: Outline, index: int, data: bytes) -> None:
    """Return if these bytes are slice `index` of a snapshot.

    Raises:
        MalformedError: SNP-2, a position or size that the outline rules out.
        LinkError: SNP-2, other bytes.
    """
    if not 0 <= index < len(outline.leaves):
        raise MalformedError(f"slice of a snapshot is number {index}, want below {len(outline.leaves)}", rule="SNP-2")
    size = min(SLICE_SIZE, outline.size - index * SLICE_SIZE)
    if len(data) != size:
        raise MalformedError(f"slice of a snapshot has {len(data)} bytes, want {size}", rule="SNP-2")
    found = tree_leaf(data)
    if found != outline.leaves[index]:
        want = outline.leaves[index].hex()[:8]
        raise LinkError(f"slice of a snapshot hashes to {found.hex()[:8]}, want {want}", rule="SNP-2", evidence=found)


def encode_content(head: Head, image: bytes) -> bytes:
    """Return the bytes of a snapshot."""
    data = pack(head)
    return _HEAD_SIZE.pack(len(data)) + data + image


def decode_content(data: bytes) -> tuple[Head, memoryview]:
    """Return head and packed image of a snapshot, each field of the head within its bounds.

    Raises:
        RefusedError: SNP-3, or the rule of the field.
    """
    start = _HEAD_SIZE.size
    size = int.from_bytes(data[:start], "big")
    if len(data) < start or start + size >= len(data):
        raise MalformedError("snapshot ends before its image", rule="SNP-3")
    head = unpack(data[start : start + size], Head, "head of a snapshot", CERTIFICATE_SIZE_MAX)
    for act in head.schema:
        check_act(act)
    if not 0 < head.image_size <= IMAGE_SIZE_MAX or any(count < 0 for count in head.row_counts):
        raise MalformedError("snapshot has a size or count out of bounds", rule="SNP-3")
    return head, memoryview(data)[start + size :]
