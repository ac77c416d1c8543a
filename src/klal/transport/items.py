"""Items as files in a folder: read without trust, written so that nothing is replaced and nothing half-written counts.

Nothing here follows a symbolic link, opens what is no plain file, or reads a size that
was not bounded first. Nothing is overwritten: a name is reserved before it is renamed to.

Source:
    docs/spec/folder.md, rules FLD-1 to FLD-4.
"""

# Paths stay text here: a folder may hold a hundred thousand of them.
# ruff: noqa: PTH105, PTH108, PTH118

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from hashlib import sha256

from klal import disk
from klal.items import FIXED_SIZE, ITEM_SIZE_MAX, LETTERS, DamagedItem, ItemHead, check_whole, parse_fixed, parse_head

_NAME_TRY_COUNT = 256


def read_head(path: str) -> ItemHead:
    """Return an item's head, reading no more of the file than its index; small items are checked whole.

    Raises:
        DamagedItem: As `parse_head`; for items without a body also the hash at the end.
        OSError: The file cannot be read.
    """
    descriptor, size = _open(path)
    try:
        fixed = _fixed(descriptor, size)
        data = _read(descriptor, 0, fixed.body_start if fixed.body_size else size)
    finally:
        os.close(descriptor)
    head = parse_head(data)
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
        _fixed(descriptor, size)
        data = _read(descriptor, 0, size)
    finally:
        os.close(descriptor)
    parse_head(data)
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
                os.close(disk.create(path))
            except FileExistsError:
                continue
            os.replace(temporary, path)
            temporary = ""
            disk.sync_folder(folder)
            return name
    finally:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)
    raise FileExistsError(f"no free name for {number:08X} in {folder}")


def _short_name(number: int, kind: int, digest: str, attempt: int) -> str:
    # 8.3 and upper case: FAT then spends one directory entry on it, and at most 65,534 fit
    # in a directory there. A lower-case name would cost three.
    two = digest[attempt % 32 * 2 :][:2]
    stem = number if attempt < 32 else int(digest[attempt % 32 : attempt % 32 + 8], 16)
    return f"{stem & 0xFFFFFFFF:08X}.{LETTERS[kind]}{two}"


def _write_temporary(folder: str, data: bytes) -> str:
    path = os.path.join(folder, f"{secrets.token_hex(4).upper()}.TMP")
    descriptor = disk.create(path)
    try:
        disk.write_all(descriptor, data)
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
    try:
        descriptor, size = disk.open_plain(path)
    except disk.NotPlainError as error:
        raise DamagedItem("is no plain file") from error
    if size <= ITEM_SIZE_MAX:
        return descriptor, size
    os.close(descriptor)
    raise DamagedItem(f"has {size} bytes, want at most {ITEM_SIZE_MAX}")


def _fixed(descriptor: int, size: int) -> ItemHead:
    fixed = parse_fixed(_read(descriptor, 0, min(size, FIXED_SIZE)))
    if fixed.size != size:
        raise DamagedItem(f"has {size} bytes and states {fixed.size}")
    return fixed


def _read(descriptor: int, start: int, size: int) -> bytes:
    data = disk.read_at(descriptor, start, size)
    if len(data) != size:
        raise DamagedItem("became shorter while it was read")
    return data
