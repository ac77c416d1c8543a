"""Foreign files opened without trust, and new files that are there whole or not at all.

Nothing here follows a symbolic link in the last place of a path, waits for a pipe, or writes over anything.
"""

# Paths stay text here: a folder may hold a hundred thousand of them.
# ruff: noqa: PTH105, PTH108, PTH120

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_NAME_TRY_COUNT = 256
_BINARY = getattr(os, "O_BINARY", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


class NotPlainError(OSError):
    """The path holds something else than a plain file."""


class OpenDatabaseError(OSError):
    """The path holds a database that may be open."""


def refuse_open_database(path: str) -> None:
    """Return if a file can be opened beside SQLite: POSIX drops a process's locks on a file when any descriptor closes.

    Another program would then take itself for the last one, and remove the log that klal goes on writing to
    (docs/decisions/0024). A database that is open in klal has its log beside it.

    Raises:
        OpenDatabaseError: It may be open.
    """
    if os.path.lexists(f"{os.path.realpath(path)}-wal"):
        raise OpenDatabaseError(errno.EBUSY, "it is a database that may be open")


def open_plain(path: str) -> tuple[int, int]:
    """Return (descriptor, size) of a plain file, opened for reading.

    Raises:
        NotPlainError: A directory, a pipe, a device.
        OSError: It cannot be opened; of a symbolic link, that it is one.
    """
    # O_NONBLOCK: opening a pipe that somebody left here must not wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    info = os.fstat(descriptor)
    if stat.S_ISREG(info.st_mode):
        return descriptor, info.st_size
    os.close(descriptor)
    raise NotPlainError(f"{path} is no plain file")


def read_at(descriptor: int, start: int, size: int) -> bytes:
    """Return `size` bytes from `start`, or fewer where the file ends."""
    os.lseek(descriptor, start, os.SEEK_SET)
    pieces: list[bytes] = []
    while size > 0:
        piece = os.read(descriptor, size)
        if not piece:
            break
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def create(path: str) -> int:
    """Return a descriptor of a new, empty file.

    Raises:
        FileExistsError: Something has that name.
    """
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _BINARY, 0o644)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def new_file(path: str) -> Iterator[int]:
    """Give a descriptor for a file that bears a temporary name; afterwards it is durable and is called `path`.

    Where the block raises, nothing is left. A process that is killed leaves the temporary file.

    Raises:
        FileExistsError: Something has that name already, or has taken it meanwhile.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already")
    descriptor, temporary = _temporary(path)
    try:
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        # Ours from here on: rename replaces this empty file and can replace nothing else.
        # A hard link would do the same in one step, and FAT has none.
        os.close(create(path))
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(os.path.dirname(path) or ".")


def _temporary(path: str) -> tuple[int, str]:
    # The process's own number comes first: two that write one name at once should not meet before the rename.
    for attempt in range(_NAME_TRY_COUNT):
        temporary = f"{path}.partial-{os.getpid()}-{attempt}"
        with suppress(FileExistsError):
            return create(temporary), temporary
    raise FileExistsError(f"no free temporary name beside {path}")


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make new names in `folder` durable, where the system can."""
    # Windows cannot open a directory, and some network file systems cannot sync one.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
