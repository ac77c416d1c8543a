"""The desk of a file with the rounds of work it does: on a thread of its own, or on the event loop's.

On its own thread, which is the only one that uses the file from opening to closing, a file
that is busy keeps nobody else waiting. A program that holds a replica has its rounds done
between its own steps, on the thread that uses the replica.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing, suppress
from typing import TypeVar

from klal.desk import Delivery, Desk, Port
from klal.errors import BusyError, KlalError
from klal.polling import POLL_S
from klal.store.store import Store
from klal.transport.link import Deliver, SpaceGoneError

T = TypeVar("T")
Told = Callable[[str, dict[str, object]], None]
OnRound = Callable[[list[Delivery], float], None]


class ThreadSpace:
    """A file that is served.

    Args:
        opened: Opens the file, on the thread that will use it.
        told: Told what is worth a line in a log; called on that thread.
        on_round: Told what each round came to, and how long it took; called on that thread.
    """

    def __init__(self, opened: Callable[[], Store], told: Told, on_round: OnRound | None = None) -> None:
        self._opened = opened
        self._told = told
        self._on_round = on_round
        self._loop = asyncio.get_running_loop()
        self._wake = threading.Condition()
        self._is_woken = False
        self._is_stopping = False
        self._is_over = False
        self._calls: deque[Callable[[Desk | None], None]] = deque()
        self._delivers: dict[Port, Deliver] = {}
        self._store: Store
        self.space_id = b""
        self.name = ""
        self.takes = False
        started: Future[None] = Future()
        self.over: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="klal space", daemon=True)
        self._thread.start()
        self.started = asyncio.wrap_future(started)

    # On the event loop.

    async def call(self, work: Callable[[Desk, Store], T]) -> T:
        """Have something done on the file's thread, between two rounds.

        Raises:
            SpaceGoneError: The space is not served any more.
        """
        future: Future[T] = Future()

        def run(desk: Desk | None) -> None:
            try:
                if desk is None:
                    raise SpaceGoneError
                future.set_result(work(desk, self._store))
            except BaseException as error:  # noqa: BLE001 - whoever asked is told, whatever it was
                future.set_exception(error)

        self._post(run)
        return await asyncio.wrap_future(future)

    async def join(self, owner: str, deliver: Deliver, *, dials: bool) -> Port:
        """Return a new connection; `deliver` is called on the event loop with what becomes of it."""

        def joined(desk: Desk, _store: Store) -> Port:
            port = desk.join(owner, dials=dials)
            self._delivers[port] = deliver
            return port

        return await self.call(joined)

    def leave(self, port: Port) -> None:
        """Note that a connection has ended."""

        def left(desk: Desk | None) -> None:
            self._delivers.pop(port, None)
            if desk is not None:
                desk.leave(port)

        if not self._is_over:
            self._post(left)

    def came(self, port: Port, frame: bytes) -> None:
        """Hand over a frame that came."""
        port.inbox.append(frame)
        self.wake()

    def sent(self, port: Port) -> None:
        """Note that what a connection was given has been sent."""
        port.is_busy = False
        self.wake()

    def wake(self) -> None:
        """Have the thread look for work."""
        with self._wake:
            self._is_woken = True
            self._wake.notify()

    def stop(self) -> None:
        """Have the thread finish its round, close the file and end."""
        self._is_stopping = True
        self.wake()

    def _post(self, work: Callable[[Desk | None], None]) -> None:
        self._calls.append(work)
        self.wake()
        if self._thread.is_alive():
            return
        # It has ended, perhaps just now, and will not find it.
        while self._calls:
            self._calls.popleft()(None)

    # On the file's thread.

    def _run(self, started: Future[None]) -> None:
        try:
            self._store = self._opened()
        except BaseException as error:  # noqa: BLE001 - whoever waits for it is told
            self._is_over = True
            started.set_exception(error)
            return
        try:
            with closing(self._store) as store:
                desk = Desk(store, time.monotonic)
                self.space_id, self.name, self.takes = store.space_id, store.genesis.space_name, desk.takes
                started.set_result(None)
                while not self._is_stopping:
                    self._round(desk)
        except BaseException as error:  # noqa: BLE001 - the loop must hear of it, or it waits for ever
            self._told("space ended", {"why": f"{type(error).__name__}: {error}"})
            if not started.done():
                started.set_exception(error)
        finally:
            self._is_over = True
            while self._calls:
                self._calls.popleft()(None)
            self._on_loop(self._end)

    def _round(self, desk: Desk) -> None:
        with self._wake:
            if not self._is_woken and not desk.has_more:
                self._wake.wait(POLL_S)
            self._is_woken = False
        while self._calls:
            self._calls.popleft()(desk)
        begun = time.perf_counter()
        try:
            deliveries = desk.work()
        except KlalError as error:
            # The file refuses: everybody comes back, and by then it may be well again.
            self._told("file refused", {"why": str(error), "kind": type(error).__name__})
            ports = list(self._delivers)
            deliveries = [Delivery(port, [], len(port.inbox), error) for port in ports]
            time.sleep(POLL_S)
        if deliveries:
            if self._on_round is not None:
                self._on_round(deliveries, time.perf_counter() - begun)
            self._on_loop(lambda: self._deliver(deliveries))

    def _on_loop(self, work: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work)

    # On the event loop again.

    def _deliver(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            deliver = self._delivers.get(delivery.port)
            if deliver is not None:
                deliver(delivery)

    def _end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)


class LoopSpace:
    """A file that a program uses on the event loop's thread, with the desk's rounds between the program's steps."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._desk = Desk(store, time.monotonic)
        self._delivers: dict[Port, Deliver] = {}
        self._wake = asyncio.Event()

    async def join(self, owner: str, deliver: Deliver, *, dials: bool) -> Port:
        """Return a new connection's port."""
        port = self._desk.join(owner, dials=dials)
        self._delivers[port] = deliver
        self._wake.set()
        return port

    def leave(self, port: Port) -> None:
        """Note that a connection has ended."""
        self._delivers.pop(port, None)
        if not self._store.is_closed:
            self._desk.leave(port)

    def came(self, port: Port, frame: bytes) -> None:
        """Take a frame that came."""
        port.inbox.append(frame)
        self._wake.set()

    def sent(self, port: Port) -> None:
        """Note that what a connection was given has been sent."""
        port.is_busy = False
        self._wake.set()

    async def run(self) -> None:
        """Do rounds of work until the store is closed."""
        loop = asyncio.get_running_loop()
        is_own = False

        def committed() -> None:
            # What the desk commits itself is no news to it.
            if not is_own and not loop.is_closed():
                loop.call_soon_threadsafe(self._noticed)

        stop = self._store.listen(committed)
        try:
            while not self._store.is_closed:
                self._wake.clear()
                # Another task may be inside a transaction: its commit wakes this one.
                if not self._store.in_transaction:
                    is_own = True
                    try:
                        self._round()
                    finally:
                        is_own = False
                if self._desk.has_more:
                    await asyncio.sleep(0)
                    continue
                with suppress(TimeoutError):
                    # Not wait_for, which may take a cancellation for the event that comes with it (before 3.12).
                    async with asyncio.timeout(POLL_S):
                        await self._wake.wait()
        finally:
            stop()

    def _noticed(self) -> None:
        self._desk.touch()
        self._wake.set()

    def _round(self) -> None:
        try:
            deliveries = self._desk.work()
        except BusyError as error:
            deliveries = [Delivery(port, [], len(port.inbox), error) for port in self._delivers]
        for delivery in deliveries:
            deliver = self._delivers.get(delivery.port)
            if deliver is not None:
                deliver(delivery)
