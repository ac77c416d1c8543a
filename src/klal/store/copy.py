"""A copy of a whole file that nobody writes yet: the documented way to copy one (D6)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from klal.errors import StoreError, UsageError
from klal.store.file import translated
from klal.store.sql import Connection

_PAGE_COUNT = 2000


def backup_to(connection: Connection, to: Path, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Write everything to the new path `to`, without the writer's identity.

    Raises:
        UsageError: Something is there already.
        StoreError: The disk refuses; nothing is left at `to`.
    """
    if to.exists():
        raise UsageError(f"{to} exists already")
    partial = to.with_name(f"{to.name}.partial-{os.getpid()}")
    try:
        with translated(to):
            copy = Connection(str(partial))
            try:
                with copy.backup("main", connection, "main") as work:
                    while not work.done:
                        work.step(_PAGE_COUNT)
                        if on_progress is not None:
                            on_progress(work.page_count - work.remaining, work.page_count)
                copy.pragma("journal_mode", "delete")
                copy.execute("DELETE FROM klal_meta WHERE name IN ('member_id', 'own_log', 'fence')")
            finally:
                copy.close()
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        _reserve(to)
        partial.replace(to)
    except FileExistsError as error:
        raise UsageError(f"{to} exists already") from error
    except OSError as error:
        raise StoreError(f"{to} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _reserve(to: Path) -> None:
    """Take the name with an empty file, so that one that appeared meanwhile is never replaced."""
    os.close(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
