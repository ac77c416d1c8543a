"""One encoding for everything that is hashed, signed or sent, and the limits on foreign bytes.

Fixed layouts are big-endian `struct` records; everything else is msgpack in which a
value has exactly one accepted spelling: what is decoded is encoded again and must give
the same bytes. Hashes are SHA-256 with a tag per use, so that no byte string can serve
two purposes.

Law: `decode(encode(x)) == x`, and `encode(decode(b)) == b` for every accepted `b`.

Source:
    Protocol spec sections 2 and 3, rules ENC-1 to ENC-5.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TypeVar

import msgspec
import zstandard

from klal.errors import MalformedError

PROTOCOL_VERSION = 1

HASH_SIZE = 32
SIGNATURE_SIZE = 64
SALT_SIZE = 16
TABLE_ID_SIZE = 16
COLUMN_ID_SIZE = 8

# Limits on foreign data. Each is a named number so that a breach can say which one it was.
HEADER_SIZE_MAX = 8 * 1024
PAST_COUNT_MAX = 16
PART_COUNT_MAX = 120  # With 16 past hashes this still fits HEADER_SIZE_MAX.
SLICE_SIZE = 256 * 1024  # A part is hashed, stored and sent in slices of this size.
PART_SIZE_MAX = 1 << 30
SEGMENT_ROW_COUNT_MAX = 16 * 1024
SEGMENT_PLAIN_SIZE_MAX = 1 << 28
SEGMENT_COLUMN_COUNT_MAX = 2000  # SQLite's own default limit on columns.
ACTS_SIZE_MAX = 1 << 20
FRAME_SIZE_MAX = 1 << 20
UNIX_MS_MAX = (1 << 48) - 1
SEQ_MAX = (1 << 48) - 1
EPOCH_MAX = (1 << 31) - 1
NAME_LENGTH_MAX = 200

_T = TypeVar("_T")


def tagged_hash(tag: str, *parts: bytes) -> bytes:
    """Return SHA-256 over `tag`, a NUL and the parts.

    Rule ENC-2: the parts of one tag have fixed sizes, except the last, so the
    concatenation can be read in one way only.
    """
    digest = sha256(tag.encode() + b"\0")
    for part in parts:
        digest.update(part)
    return digest.digest()


def pack(value: object) -> bytes:
    """Return the one msgpack encoding of `value` (ENC-3)."""
    return msgspec.msgpack.encode(value)


def unpack(data: bytes, kind: type[_T], what: str, size_max: int = ACTS_SIZE_MAX) -> _T:
    """Return the value that `data` spells, refusing any second spelling of it.

    Args:
        data: Foreign bytes.
        kind: The type wanted; msgspec checks it field by field.
        what: The noun for the error message.
        size_max: Refused before parsing beyond this many bytes.

    Raises:
        MalformedError: ENC-3, too large, not msgpack, not of that type, or not canonical.
    """
    if len(data) > size_max:
        raise MalformedError(f"{what} has {len(data)} bytes, want at most {size_max}", rule="ENC-4")
    try:
        value = msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError) as error:
        raise MalformedError(f"{what} cannot be decoded: {error}", rule="ENC-3") from error
    if pack(value) != data:
        raise MalformedError(f"{what} is not in the one accepted encoding", rule="ENC-3")
    return value


def tree_root(leaves: list[bytes]) -> bytes:
    """Return the root of the RFC 6962 hash tree over leaf hashes, in order.

    An empty tree is SHA-256 of nothing, as in RFC 6962 section 2.1.
    """
    if not leaves:
        return sha256(b"").digest()
    level = leaves
    # Pairing level by level and carrying an odd last node up unchanged gives
    # the same tree as RFC 6962's split at the largest power of two.
    while len(level) > 1:
        paired = [sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0]


def tree_leaf(data: bytes) -> bytes:
    """Return the RFC 6962 leaf hash of `data`."""
    return sha256(b"\x00" + data).digest()


def compress(data: bytes) -> bytes:
    """Return one zstd frame (level 1) that states its plain size."""
    return zstandard.ZstdCompressor(level=1).compress(data)


def decompress(data: bytes, plain_size: int) -> bytes:
    """Return the plain bytes of one zstd frame, bounded before anything is allocated.

    Raises:
        MalformedError: ENC-5, the frame does not give exactly `plain_size` bytes.
    """
    if plain_size > SEGMENT_PLAIN_SIZE_MAX:
        raise MalformedError(f"plain size is {plain_size}, want at most {SEGMENT_PLAIN_SIZE_MAX}", rule="ENC-4")
    try:
        # The frame's own statement is checked first: zstandard allocates by it.
        stated = zstandard.frame_content_size(data)
        if stated != plain_size:
            raise MalformedError(f"frame states {stated} plain bytes, want {plain_size}", rule="ENC-5")
        plain = zstandard.ZstdDecompressor().decompress(data, max_output_size=plain_size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise MalformedError(f"zstd frame cannot be read: {error}", rule="ENC-5") from error
    if len(plain) != plain_size:
        raise MalformedError(f"frame gave {len(plain)} plain bytes, want {plain_size}", rule="ENC-5")
    return plain
