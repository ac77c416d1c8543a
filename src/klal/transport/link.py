"""One connection between a socket that carries whole messages and the desk of a file.

It reads ahead no further than a few frames, and takes from the desk only what the socket has
room for, so a peer that is slow or silent costs a bounded amount of memory. Every wait has a
deadline, or a ping behind it.

Source:
    Protocol spec section 12, rules WEB-1 to WEB-5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from klal.desk import Delivery, Port
from klal.errors import KlalError, RefusedError, StoreError, TransportError

INBOX_COUNT_MAX = 4
TURN_S = 300.0  # Applying a great deal takes time; that the other side is alive, pings show.
SEND_S = 30.0
RATE_MIN = 1024  # Bytes a second, of what is sent and of what is waited for.
REASON_SIZE_MAX = 123  # What a closing frame of a WebSocket holds.

# How a connection is ended, beside the codes that every WebSocket has.
DONE, RESTART, TRY_LATER = 1000, 1012, 1013
BROKE_A_RULE, NOT_ADMITTED, NO_SUCH_SPACE, TOO_SLOW, OTHER_SPACE, TOO_MANY = 4400, 4403, 4404, 4408, 4409, 4429

Deliver = Callable[[Delivery], None]


class SpaceGoneError(Exception):
    """The file is not served any more."""


class ClosedError(Exception):
    """The connection has ended.

    Args:
        code: As WebSockets have it.
        reason: One sentence, or "".
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Socket(Protocol):
    """A WebSocket as both ends use it here. Each method raises `ClosedError` once the connection has ended."""

    async def receive(self) -> bytes:
        """Return the next message."""

    async def send(self, frame: bytes) -> None:
        """Send one message; returns once there is room for another."""

    async def close(self, code: int, reason: str) -> None:
        """End the connection; it never raises."""

    def received_count(self) -> int:
        """Return how many bytes have come in, whole messages or not."""


class Space(Protocol):
    """The desk of a file, on whatever thread."""

    async def join(self, owner: str, deliver: Deliver, *, dials: bool) -> Port:
        """Return a new connection's port; `deliver` is called on the event loop."""

    def leave(self, port: Port) -> None:
        """Note that a connection has ended."""

    def came(self, port: Port, frame: bytes) -> None:
        """Hand over a frame that came."""

    def sent(self, port: Port) -> None:
        """Note that what a connection was given has been sent."""


class Link:
    """A connection while it lasts.

    Shape:
        moved_s: when something last came in whole, or the last of what was to be sent had gone.
    """

    def __init__(self, socket: Socket, space: Space, owner: str, *, dials: bool) -> None:
        self._socket = socket
        self._space = space
        self._owner = owner
        self._dials = dials
        self._unheard_count = 0
        self._room = asyncio.Event()
        self._outbox: list[bytes] = []
        self._news = asyncio.Event()
        self._ending: ClosedError | None = None
        self._rate_mark = (0.0, 0)
        self.port: Port | None = None
        self.over = asyncio.Event()
        """Set once the connection has ended."""
        self.moved_s = asyncio.get_running_loop().time()
        self.on_delivery: Callable[[Port], None] | None = None
        """Called after each round of the desk that had to do with this connection."""

    async def run(self) -> ClosedError:
        """Carry frames until the connection ends; return how it did."""
        try:
            return await self._run()
        finally:
            self.over.set()

    async def _run(self) -> ClosedError:
        try:
            self.port = await self._space.join(self._owner, self._deliver, dials=self._dials)
        except SpaceGoneError:
            await self._socket.close(RESTART, "")
            return ClosedError(RESTART, "")
        self._news.set()
        try:
            done = await first_done((self._read(self.port), self._write(self.port)))
        finally:
            self._space.leave(self.port)
        error = next(iter(done)).exception()
        assert error is not None, "neither of them returns"
        if not isinstance(error, ClosedError):
            await self._socket.close(1011, "")
            raise error
        await self._socket.close(error.code, error.reason)
        return error

    def end(self, code: int, reason: str) -> None:
        """End the connection, as soon as what is being sent is sent."""
        if self._ending is None:
            self._ending = ClosedError(code, reason)
        self._news.set()

    async def _read(self, port: Port) -> None:
        loop = asyncio.get_running_loop()
        while True:
            frame = await self._socket.receive()
            self.moved_s = loop.time()
            self._unheard_count += 1
            self._space.came(port, frame)
            while self._unheard_count >= INBOX_COUNT_MAX:
                self._room.clear()
                await self._room.wait()

    async def _write(self, port: Port) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._news.wait()
            self._news.clear()
            frames, self._outbox = self._outbox, []
            for frame in frames:
                try:
                    async with asyncio.timeout(SEND_S + len(frame) / RATE_MIN):
                        await self._socket.send(frame)
                except TimeoutError:
                    raise ClosedError(TOO_SLOW, "the other side does not read") from None
            if self._ending is not None:
                raise self._ending
            if frames:
                self.moved_s = loop.time()
                self._space.sent(port)

    def _deliver(self, delivery: Delivery) -> None:
        self._unheard_count -= delivery.heard_count
        self._room.set()
        if delivery.error is not None:
            self._ending = self._ending or _closing(delivery.error)
        if delivery.frames or self._ending is not None:
            self._outbox += delivery.frames
            self._news.set()
        if self.on_delivery is not None:
            self.on_delivery(delivery.port)

    def check_pace(self, now_s: float) -> None:
        """End a connection whose other side is to speak and does not, or too slowly (T28)."""
        port = self.port
        if port is None or not port.line.is_waited_for or self._unheard_count or port.is_busy:
            self._rate_mark = (now_s, self._socket.received_count())
            return
        since_s, count = self._rate_mark
        if now_s - max(since_s, self.moved_s) < TURN_S:
            return
        came_count = self._socket.received_count()
        if came_count - count < RATE_MIN * (now_s - since_s):
            self.end(TOO_SLOW, f"nothing whole came for {TURN_S:.0f} s")
        self._rate_mark = (now_s, came_count)


def _closing(error: KlalError) -> ClosedError:
    """Return how a connection ends for a reason of its desk's."""
    match error:
        case RefusedError() if error.rule == "SYN-5":
            code = OTHER_SPACE
        case RefusedError():
            code = BROKE_A_RULE
        case StoreError():
            return ClosedError(TRY_LATER, "the file cannot be used just now")
        case _:
            code = TRY_LATER
    rule = f" ({error.rule})" if error.rule else ""
    return ClosedError(code, f"{error}{rule}")


def cut(reason: str) -> str:
    """Return as much of a reason as a closing frame holds."""
    return reason.encode()[:REASON_SIZE_MAX].decode(errors="ignore")


_MEANINGS = {
    NOT_ADMITTED: "does not admit this member",
    NO_SUCH_SPACE: "has no such space",
    BROKE_A_RULE: "refused what was sent",
    TOO_SLOW: "has waited too long",
    TOO_MANY: "has too many connections already",
    RESTART: "is being stopped or restarted",
    1001: "is being stopped or restarted",
    TRY_LATER: "asks to come back later",
}


def error_of(closed: ClosedError, url: str) -> KlalError:
    """Return what a connection's end means for whoever dialed, in a sentence."""
    reason = f": {closed.reason}" if closed.reason else ""
    if closed.code == OTHER_SPACE:
        return RefusedError(f"{url} serves another space{reason}", rule="SYN-5")
    meaning = _MEANINGS.get(closed.code)
    return TransportError(
        f"the connection to {url} was lost{reason}" if meaning is None else f"{url} {meaning}{reason}"
    )


async def first_done(works: Sequence[Coroutine[Any, Any, object]]) -> set[asyncio.Task[object]]:
    """Do several things until one of them is done or fails, end the others, and return what was done."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return done
