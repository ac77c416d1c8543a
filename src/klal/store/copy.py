"""A copy of a whole file that nobody writes yet: the documented way to copy one (D6)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from klal.errors import UsageError
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
        # Linked, not renamed: a file that appeared meanwhile is never replaced.
        os.link(partial, to)
    except FileExistsError as error:
        raise UsageError(f"{to} exists already") from error
    finally:
        partial.unlink(missing_ok=True)
