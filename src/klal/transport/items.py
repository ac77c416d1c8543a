"""Items: the immutable, self-checking files a shared folder is made of, and how they touch the disk.

An item says in its first bytes what it is and how long it is, proves its index by a hash
right behind it, and all of itself by a hash at the end. So a folder is indexed without
reading payloads, and a half-copied or damaged file is known for what it is.

Nothing here follows a symbolic link, opens what is no plain file, or reads a size that
was not bounded first. Nothing is overwritten: a name is reserved before it is renamed to.

Law: `parse_head(item)[0] == head` and `body_of(item) == body` for every encoded item; any changed, added or
missing byte makes one of the two raise `DamagedItem`.

Source:
    docs/spec/folder.md, rules FLD-1 to FLD-4.
"""

# Paths stay text here: a folder may hold a hundred thousand of them.
# ruff: noqa: PTH105, PTH108, PTH118

from __future__ import annotations

import os
import secrets
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from klal.model.codec import FRAME_SIZE_MAX, HASH_SIZE

ITEM_VERSION = 1
# A run of 1,024 headers at their limit has 8 MiB; writers stop filling at ITEM_SIZE_AIM.
ITEM_SIZE_MAX = 16 * 1024 * 1024
ITEM_SIZE_AIM = 4 * 1024 * 1024
# A payload's index is read on every opening, so it must stay small beside its body.
PAYLOAD_INDEX_SIZE_MAX = FRAME_SIZE_MAX
ENTRY_COUNT_MAX = 16 * 1024

HEADERS, PAYLOADS, RECEIPT, DAMAGE = range(1, 5)
LETTERS = {HEADERS: "H", PAYLOADS: "P", RECEIPT: "R", DAMAGE: "D"}

_MAGIC = b"klal"
# magic, version, kind, spare, index size, body size, space id, log id
_FIXED = struct.Struct(">4sBBHIQ32s32s")
_NAME_TRY_COUNT = 256


class DamagedItem(Exception):  # noqa: N818 - not an error: it is how one file says that it does not count
    """This file is not a whole item of this space; the text says why."""


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
    """The checked beginning of an item."""

    kind: int
    space_id: bytes
    log_id: bytes
    index: bytes
    body_size: int

    @property
    def body_start(self) -> int:
        return _FIXED.size + len(self.index) + HASH_SIZE

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.body_start + self.body_size + HASH_SIZE


def encode_item(kind: int, space_id: bytes, log_id: bytes, index: bytes, body: bytes = b"") -> bytes:
    """Return the bytes of one item."""
    head = _FIXED.pack(_MAGIC, ITEM_VERSION, kind, 0, len(index), len(body), space_id, log_id) + index
    front = head + sha256(head).digest() + body
    assert len(front) + HASH_SIZE <= ITEM_SIZE_MAX, "writers split before the limit"
    return front + sha256(front).digest()


def parse_fixed(data: bytes, file_size: int) -> ItemHead:
    """Return the head that a file's first bytes state, its index not read yet (left empty).

    The index's size is `file_size` less everything else, which is checked here.

    Raises:
        DamagedItem: Not an item, of a newer version, or of another size than it states.
    """
    if len(data) < _FIXED.size:
        raise DamagedItem(f"has {file_size} bytes, want at least {_FIXED.size + 2 * HASH_SIZE}")
    magic, version, kind, spare, index_size, body_size, space_id, log_id = _FIXED.unpack_from(data)
    if magic != _MAGIC or spare or kind not in LETTERS:
        raise DamagedItem("is not an item of klal")
    if version != ITEM_VERSION:
        raise DamagedItem(f"has item version {version}, want {ITEM_VERSION}")
    stated = _FIXED.size + index_size + body_size + 2 * HASH_SIZE
    if stated > ITEM_SIZE_MAX or (kind == PAYLOADS and index_size > PAYLOAD_INDEX_SIZE_MAX):
        raise DamagedItem(f"states {stated} bytes, want at most {ITEM_SIZE_MAX}")
    if stated != file_size:
        raise DamagedItem(f"has {file_size} bytes and states {stated}")
    return ItemHead(kind, space_id, log_id, b"", body_size)


def parse_head(data: bytes, file_size: int) -> ItemHead:
    """Return the head of an item from its first bytes, index included and checked.

    Raises:
        DamagedItem: As `parse_fixed`, or the index does not match its hash.
    """
    fixed = parse_fixed(data, file_size)
    end = file_size - HASH_SIZE - fixed.body_size - HASH_SIZE
    if data[end : end + HASH_SIZE] != sha256(data[:end]).digest():
        raise DamagedItem("has an index that does not match its hash")
    return ItemHead(fixed.kind, fixed.space_id, fixed.log_id, data[_FIXED.size : end], fixed.body_size)


def check_whole(data: bytes) -> None:
    """Return if a whole item's bytes match the hash at its end.

    Raises:
        DamagedItem: They do not.
    """
    if data[-HASH_SIZE:] != sha256(memoryview(data)[:-HASH_SIZE]).digest():
        raise DamagedItem("does not match its hash")


def read_head(path: str) -> ItemHead:
    """Return an item's head, reading no more of the file than its index; small items are checked whole.

    Raises:
        DamagedItem: As `parse_head`; for items without a body also the hash at the end.
        OSError: The file cannot be read.
    """
    descriptor, size = _open(path)
    try:
        fixed = parse_fixed(_read(descriptor, 0, min(size, _FIXED.size)), size)
        front = size if not fixed.body_size else size - fixed.body_size - HASH_SIZE
        data = _read(descriptor, 0, front)
    finally:
        os.close(descriptor)
    head = parse_head(data, size)
    if not head.body_size:
        check_whole(data)
    return head


def read_whole(path: str) -> bytes:
    """Return a whole item's bytes, checked.

    Raises:
        DamagedItem: Any byte of it is not what was written.
        OSError: The file cannot be read.
    """
    descriptor, size = _open(path)
    try:
        parse_fixed(_read(descriptor, 0, min(size, _FIXED.size)), size)
        data = _read(descriptor, 0, size)
    finally:
        os.close(descriptor)
    parse_head(data, size)
    check_whole(data)
    return data


def write_item(folder: str, number: int, kind: int, data: bytes, avoid: frozenset[str] = frozenset()) -> str:
    """Store `data` under a new short name in `folder`, durably, and return the name.

    If it is there already, nothing is written. A name that holds anything else is left
    alone and the next one tried.

    Args:
        folder: An existing directory.
        number: Begins the name, for a person looking at the folder.
        kind: Gives the letter after the dot.
        data: A whole item.
        avoid: Names, upper case, that count as taken whatever they hold.

    Raises:
        OSError: Disk full, read-only, unplugged. Nothing half-written bears an item's name,
            except an empty file, which never counts.
    """
    digest = sha256(data).hexdigest().upper()
    temporary = ""
    try:
        for attempt in range(_NAME_TRY_COUNT):
            name = _short_name(number, kind, digest, attempt)
            path = os.path.join(folder, name)
            if name in avoid:
                continue
            if os.path.lexists(path):
                if _holds(path, data):
                    return name
                continue
            temporary = temporary or _write_temporary(folder, data)
            try:
                # Ours from here on: rename replaces this empty file and can replace nothing else.
                # A hard link would do the same in one step, and FAT has none.
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
            except FileExistsError:
                continue
            os.replace(temporary, path)
            temporary = ""
            sync_folder(folder)
            return name
    finally:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)
    raise FileExistsError(f"no free name for {number:08X} in {folder}")


def sync_folder(folder: str) -> None:
    """Make new names in `folder` durable, where the system can."""
    # Windows cannot open a directory, and some network file systems cannot sync one.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _short_name(number: int, kind: int, digest: str, attempt: int) -> str:
    # 8.3 and upper case: FAT then spends one directory entry on it, and at most 65,534 fit
    # in a directory there. A lower-case name would cost three.
    two = digest[attempt % 32 * 2 :][:2]
    stem = number if attempt < 32 else int(digest[attempt % 32 : attempt % 32 + 8], 16)
    return f"{stem & 0xFFFFFFFF:08X}.{LETTERS[kind]}{two}"


def _write_temporary(folder: str, data: bytes) -> str:
    path = os.path.join(folder, f"{secrets.token_hex(4).upper()}.TMP")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except BaseException:
        os.close(descriptor)
        with suppress(OSError):
            os.unlink(path)
        raise
    os.close(descriptor)
    return path


def _holds(path: str, data: bytes) -> bool:
    try:
        descriptor, size = _open(path)
    except (OSError, DamagedItem):
        return False
    try:
        return size == len(data) and _read(descriptor, 0, size) == data
    except (OSError, DamagedItem):
        return False
    finally:
        os.close(descriptor)


def _open(path: str) -> tuple[int, int]:
    """Return (descriptor, size) of a plain file within the limit."""
    # O_NONBLOCK: opening a pipe that somebody left here must not wait for its writer.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    info = os.fstat(descriptor)
    if stat.S_ISREG(info.st_mode) and info.st_size <= ITEM_SIZE_MAX:
        return descriptor, info.st_size
    os.close(descriptor)
    raise DamagedItem(f"is no plain file of at most {ITEM_SIZE_MAX} bytes")


def _read(descriptor: int, start: int, size: int) -> bytes:
    os.lseek(descriptor, start, os.SEEK_SET)
    pieces: list[bytes] = []
    while size > 0:
        piece = os.read(descriptor, size)
        if not piece:
            raise DamagedItem("became shorter while it was read")
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
