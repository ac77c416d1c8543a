"""The header of a change: small, hash-linked, kept by every replica for ever.

A header carries no signature and no log name. The first header's backlink *is* the
log's id, and the id hashes space, member and incarnation, so a header hash stands for
all of them. A seal over the newest header then signs the whole log.

Law: `Header.decode(h.encode()) == h`; no two byte strings decode to equal headers.

Source:
    Protocol spec section 5 (layout drawn there), rules HDR-1 to HDR-6.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from klal.errors import MalformedError
from klal.model.codec import (
    EPOCH_MAX,
    HASH_SIZE,
    HEADER_SIZE_MAX,
    PART_COUNT_MAX,
    PART_SIZE_MAX,
    PAST_COUNT_MAX,
    SEQ_MAX,
    TABLE_ID_SIZE,
    UNIX_MS_MAX,
)

if TYPE_CHECKING:
    from hashlib import _Hash as HASH

HEADER_VERSION = 1
NO_CERTIFICATE = bytes(HASH_SIZE)
ACTS_TABLE = bytes(TABLE_ID_SIZE)  # The part of membership, schema and epoch acts: every scope holds it.

# version, past_count, part_count, flags, epoch, seq, unix_ms (48 bits) << 16 | counter, backlink, certificate
_FIXED = struct.Struct(">BBBBIQQ32s32s")
_PLAIN = bytes((HEADER_VERSION, 0, 1, 0))  # How a header begins that has no past, one part and no flag.
_SEALED = 1  # The one flag: a seal stands exactly here (SEA-3).
_PART = struct.Struct(">16s32sQI")
_WHOLE = struct.Struct(_FIXED.format + _PART.format.removeprefix(">"))  # A header with one part and no past: most are.


class Part(NamedTuple):
    """What a header commits to, per table: the payload's root and sizes.

    Shape:
        table_id: 16 bytes; all zero is the part of acts.
        root: 32 bytes, the hash tree over the part's slices.
        size: bytes as stored and sent, salt included.
        row_count: row writes in it (acts, in the part of acts).
    """

    table_id: bytes
    root: bytes
    size: int
    row_count: int


class Header(msgspec.Struct, frozen=True, gc=False):
    """One committed transaction, without its rows.

    Shape:
        seq: position in its log, from 0.
        unix_ms, counter: the writer's hybrid logical clock; an annotation, never trusted (D9).
        backlink: hash of the previous header, or the log id at seq 0.
        certificate: newest certificate in the past, or 32 zero bytes.
        past: at most 16 header hashes of other logs, ascending, that the writer had applied.
        parts: one per table, ascending by table id.
        is_sealed: a seal stands exactly here, as it must at a Close (SEA-3).
    """

    seq: int
    epoch: int
    unix_ms: int
    counter: int
    backlink: bytes
    certificate: bytes
    past: tuple[bytes, ...]
    parts: tuple[Part, ...]
    is_sealed: bool = False

    def encode(self) -> bytes:
        """Return the one byte form of this header."""
        return encode_header(
            self.seq,
            self.epoch,
            self.unix_ms << 16 | self.counter,
            self.backlink,
            self.certificate,
            self.past,
            self.parts,
            is_sealed=self.is_sealed,
        )

    @staticmethod
    def decode(data: bytes) -> Header:
        """Return the header that `data` spells.

        Raises:
            MalformedError: HDR-1 to HDR-5, in the order of the layout.
        """
        if len(data) == _WHOLE.size and data.startswith(_PLAIN):
            _, _, _, _, epoch, seq, clock, backlink, certificate, table_id, root, size, row_count = _WHOLE.unpack(data)
            if seq <= SEQ_MAX and epoch <= EPOCH_MAX and 0 < size <= PART_SIZE_MAX:
                part = tuple.__new__(Part, (table_id, root, size, row_count))
                return Header(seq, epoch, clock >> 16, clock & 0xFFFF, backlink, certificate, (), (part,))
        if not _FIXED.size <= len(data) <= HEADER_SIZE_MAX:
            raise MalformedError(f"header has {len(data)} bytes, want {_FIXED.size} to {HEADER_SIZE_MAX}", rule="HDR-1")
        version, past_count, part_count, flags, epoch, seq, clock, backlink, certificate = _FIXED.unpack_from(data)
        if version != HEADER_VERSION:
            raise MalformedError(f"header has version {version}, want {HEADER_VERSION}", rule="HDR-2")
        if past_count > PAST_COUNT_MAX or part_count > PART_COUNT_MAX or flags > _SEALED:
            raise MalformedError(
                f"header has counts {past_count}, {part_count} and flags {flags}, out of bounds", rule="HDR-3"
            )
        past_end = _FIXED.size + past_count * HASH_SIZE
        if len(data) != past_end + part_count * _PART.size:
            raise MalformedError(f"header has {len(data)} bytes, its counts say otherwise", rule="HDR-1")
        if seq > SEQ_MAX or epoch > EPOCH_MAX:
            raise MalformedError(f"seq {seq} or epoch {epoch} is out of bounds", rule="HDR-3")
        past = tuple(data[i : i + HASH_SIZE] for i in range(_FIXED.size, past_end, HASH_SIZE))
        parts = tuple(Part(*_PART.unpack_from(data, i)) for i in range(past_end, len(data), _PART.size))
        # Ascending order admits one spelling only, and makes repeats visible.
        if list(past) != sorted(set(past)):
            raise MalformedError("past hashes are not strictly ascending", rule="HDR-4")
        tables = [part.table_id for part in parts]
        if tables != sorted(set(tables)):
            raise MalformedError("parts are not strictly ascending", rule="HDR-5")
        for part in parts:
            if not 0 < part.size <= PART_SIZE_MAX:
                raise MalformedError(f"part has {part.size} bytes, want 1 to {PART_SIZE_MAX}", rule="HDR-3")
        return Header(seq, epoch, clock >> 16, clock & 0xFFFF, backlink, certificate, past, parts, bool(flags))

    @property
    def payload_size(self) -> int:
        """Bytes of all parts together."""
        return sum(part.size for part in self.parts)


def parts_of(data: bytes) -> list[Part]:
    """Return the parts that a stored header names, and look at nothing else of it.

    Law: equal to `Header.decode(data).parts`, for a fifth of the time.
    """
    start = _FIXED.size + data[1] * HASH_SIZE
    return [Part(*_PART.unpack_from(data, i)) for i in range(start, len(data), _PART.size)]


def header_size(start: bytes) -> int:
    """Return how many bytes a header has that begins with these three."""
    return _FIXED.size + start[1] * HASH_SIZE + start[2] * _PART.size


def past_of(data: bytes) -> list[bytes]:
    """Return the past that a stored header names, and look at nothing else of it.

    Law: equal to `Header.decode(data).past`.
    """
    return [data[i : i + HASH_SIZE] for i in range(_FIXED.size, _FIXED.size + data[1] * HASH_SIZE, HASH_SIZE)]


def encode_header(
    seq: int,
    epoch: int,
    clock: int,
    backlink: bytes,
    certificate: bytes,
    past: Sequence[bytes],
    parts: Sequence[Part | tuple[bytes, bytes, int, int]],
    *,
    is_sealed: bool = False,
) -> bytes:
    """Return the bytes of a header from its fields; a commit makes no Header to throw away.

    Args:
        clock: unix_ms << 16 | counter.
    """
    if len(parts) == 1 and not past:
        return _WHOLE.pack(HEADER_VERSION, 0, 1, is_sealed, epoch, seq, clock, backlink, certificate, *parts[0])
    fixed = _FIXED.pack(HEADER_VERSION, len(past), len(parts), is_sealed, epoch, seq, clock, backlink, certificate)
    return b"".join((fixed, *past, *[_PART.pack(*part) for part in parts]))


def header_hash(space_id: bytes, data: bytes) -> bytes:
    """Return the hash of a header's bytes as received (HDR-6), bound to its space."""
    digest = _begun(space_id).copy()
    digest.update(data)
    return digest.digest()


def lone_table(data: bytes) -> bytes | None:
    """Return the table id of a stored header with one part and no past, without decoding it; None for any other.

    Law: equal to the table id of `Header.decode(data).parts[0]`.
    """
    if len(data) != _WHOLE.size or not data.startswith(_PLAIN):
        return None
    return data[_FIXED.size : _FIXED.size + TABLE_ID_SIZE]


@lru_cache(16)
def _begun(space_id: bytes) -> HASH:
    return sha256(b"klal/header/1\0" + space_id)


assert UNIX_MS_MAX < 1 << 48, "unix_ms and counter share eight bytes"
