"""How a replica reaches hubs; the libraries for it are loaded when it does."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from klal.errors import ReadOnlyError, StoreError, UsageError
from klal.ports import Entropy
from klal.reports import Standing
from klal.store.door import own_join
from klal.store.store import Store
from klal.sync.wire import Wire
from klal.transport.link import first_done

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klal.transport.websocket import Caller

_DICE_SIZE = 4


class Hubs:
    """The network as `Replica` knows it.

    Args:
        entropy: Dice for how long to wait before dialing again.
    """

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy

    def wire(self, store: Store, url: str, token: str) -> Wire:
        """Return a wire to a hub that has admitted this file's member.

        Raises:
            TransportError: It cannot be reached, or does not admit. UsageError: The extra is not installed.
        """
        with extra():
            from klal.transport.websocket import WebSocketWire  # noqa: PLC0415 - an extra
        return WebSocketWire(url, self.caller(store, token))

    async def stay(self, store: Store, urls: Sequence[str], token: str, told: Callable[[Standing], None]) -> None:
        """Stay connected to hubs, with the desk's rounds on this event loop."""
        with extra():
            from klal.transport.spaces import LoopSpace  # noqa: PLC0415 - an extra
            from klal.transport.staying import keep  # noqa: PLC0415 - an extra
        caller = self.caller(store, token)
        space = LoopSpace(store)
        await _first([space.run(), *(keep(space, url, caller, told, self.dice) for url in urls)])

    async def stay_apart(
        self, opened: Callable[[], Store], urls: Sequence[str], token: str, told: Callable[[Standing], None]
    ) -> None:
        """Stay connected to hubs until a signal, with the file on a thread of its own, which opens and closes it."""
        with extra():
            from klal.transport.spaces import ThreadSpace  # noqa: PLC0415 - an extra
            from klal.transport.staying import keep  # noqa: PLC0415 - an extra
        loop = asyncio.get_running_loop()
        signaled = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signaled.set)
        failures: list[str] = []
        space = ThreadSpace(opened, lambda event, what: failures.append(f"{event}: {what.get('why', '')}"))
        await space.started
        try:
            caller = await space.call(lambda _desk, store: self.caller(store, token))
            dialing = [keep(space, url, caller, told, self.dice) for url in urls]
            await _first([_until(signaled), _over(space.over, failures), *dialing])
        finally:
            space.stop()
            await space.over

    def caller(self, store: Store, token: str) -> Caller:
        """Return who dials for a file.

        Raises:
            ReadOnlyError: Nobody: its key is not at hand. UsageError: The extra is not installed.
        """
        with extra():
            from klal.transport.websocket import Caller  # noqa: PLC0415 - an extra
        if store.identity is None:
            raise ReadOnlyError(f"{store.path} is read-only here: the key of its member is not at hand")
        return Caller(store.space_id, store.identity.key, own_join(store), token)

    def dice(self) -> float:
        """Return a number from 0 to 1 that nobody can foresee."""
        return int.from_bytes(self._entropy.token(_DICE_SIZE), "big") / (1 << 8 * _DICE_SIZE)


async def _first(works: Sequence[Coroutine[Any, Any, object]]) -> None:
    """Do several things until one of them is done or fails, and end the others."""
    for task in await first_done(works):
        task.result()


async def _until(event: asyncio.Event) -> None:
    await event.wait()


async def _over(over: asyncio.Future[None], failures: list[str]) -> None:
    await asyncio.shield(over)
    raise StoreError(failures[-1] if failures else "the file is not used any more")


@contextmanager
def extra() -> Iterator[None]:
    """Say what to install where something imported inside is not there."""
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"hubs need the package {error.name or 'websockets'}, which is not installed",
            hint="pip install 'klal[hub]'",
        ) from error
