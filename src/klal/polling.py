"""Waiting for a file: something is looked for now, and again whenever the file may have changed.

The one choice a reader would question: another process is noticed by asking SQLite for its
data version every `POLL_S` seconds, because nothing in SQLite tells of it. What this process
commits wakes an asynchronous wait at once; a synchronous one is on the only thread that
could commit here. Nothing is ever asked of a network.

Source:
    Decision D3; decision record 0023.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from klal.store.store import Store

POLL_S = 0.2
"""How often another process on the same file is looked for."""

Found = TypeVar("Found")


def look_until(store: Store, look: Callable[[], Found | None], timeout: float | None) -> Found | None:
    """Return what `look` finds, or None once the time is up or the store is closed."""
    waited = 0.0
    while not store.is_closed:
        found = look()
        if found is not None:
            return found
        nap = POLL_S if timeout is None else min(POLL_S, timeout - waited)
        if nap <= 0:
            break
        time.sleep(nap)  # Counted instead of reading a clock: a look takes next to nothing.
        waited += nap
    return None


async def look_until_async(
    store: Store,
    look: Callable[[], Found | None],
    timeout: float | None,  # noqa: ASYNC109 - as `look_until` has it
) -> Found | None:
    """Return as `look_until` does, without holding up the event loop; `look` itself runs on the loop's thread."""
    loop = asyncio.get_running_loop()
    end = None if timeout is None else loop.time() + timeout
    news = asyncio.Event()
    stop = store.listen(lambda: None if loop.is_closed() else loop.call_soon_threadsafe(news.set))
    try:
        while not store.is_closed:
            news.clear()
            # Another task may be inside a transaction: its commit wakes this one.
            found = None if store.in_transaction else look()
            if found is not None:
                return found
            nap = POLL_S if end is None else min(POLL_S, end - loop.time())
            if nap <= 0:
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), nap)
    finally:
        stop()
    return None
