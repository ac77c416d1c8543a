"""The hub itself: who comes in, to which space, and how it ends. No socket is opened here.

A hub is a replica that is easy to reach. It has no say over anybody: whatever it passes on
is judged by who takes it, as if it had come on a stick. What it decides is only whom it talks
to: its members, whoever one of them invited, and whoever has a token.

A stranger learns nothing. Whichever space it names and whatever it signs, the same work is
done and the same few bytes come back (T31, T54).

Source:
    Protocol spec section 12, rules ADM-1 to ADM-4 and WEB-1 to WEB-5. Decision record 0032.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.websockets import WebSocket, WebSocketDisconnect

from klal.desk import Port
from klal.errors import KlalError, RefusedError
from klal.hub.metrics import HubMetrics, SpaceMetrics
from klal.hub.tokens import Tokens
from klal.model.codec import HASH_SIZE
from klal.ports import Entropy
from klal.store.door import is_admitted
from klal.sync.admission import NONCE_SIZE, SUBPROTOCOL, Answer, Challenge, Welcome, check_answer, decode, encode
from klal.transport.link import (
    NO_SUCH_SPACE,
    NOT_ADMITTED,
    RESTART,
    TOO_MANY,
    ClosedError,
    Link,
    SpaceGoneError,
    cut,
)
from klal.transport.spaces import ThreadSpace, Told
from klal.transport.websocket import HANDSHAKE_S

_PACE_EVERY_S = 1.0
_NOBODY = bytes(HASH_SIZE)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one hub gives to whom.

    Shape:
        per_member: connections of one member, or of one token, at once.
        per_address: connections of one address at once.
        per_space: connections to one space at once.
        origins: what browsers may say they come from; nothing else from a browser is let in.
    """

    per_member: int = 8
    per_address: int = 64
    per_space: int = 2000
    origins: frozenset[str] = frozenset()


@dataclass
class Served:
    """One space and what is counted of it."""

    space: ThreadSpace
    metrics: SpaceMetrics = field(default_factory=SpaceMetrics)
    links: set[Link] = field(default_factory=set)


class HubSocket:
    """An accepted WebSocket as a `Socket`."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._gate = websocket.scope["state"].get("gate")

    async def receive(self) -> bytes:
        """Return the next message."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise ClosedError(int(message.get("code") or 1006), str(message.get("reason") or ""))
        frame = message.get("bytes")
        if frame is None:
            raise ClosedError(1003, "a message came as text")
        return bytes(frame)

    async def send(self, frame: bytes) -> None:
        """Send one message."""
        try:
            await self._websocket.send_bytes(frame)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise ClosedError(1006, "") from error

    async def close(self, code: int, reason: str) -> None:
        """End the connection."""
        try:
            await self._websocket.close(code if code not in (1005, 1006) else 1000, cut(reason))
        except (WebSocketDisconnect, RuntimeError):
            return

    def received_count(self) -> int:
        """Return how many bytes have come in."""
        return 0 if self._gate is None else int(self._gate.received_count)


class Hub:
    """Spaces, and the connections to them.

    Args:
        limits: How much is given to whom.
        tokens: Who comes in without being a member.
        entropy: Makes challenges.
        told: Told what is worth a line in the log: an event, and what belongs to it.
    """

    def __init__(self, limits: Limits, tokens: Tokens, entropy: Entropy, told: Told) -> None:
        self.limits = limits
        self.tokens = tokens
        self.metrics = HubMetrics()
        self.spaces: dict[bytes, Served] = {}
        self.is_stopping = False
        self._entropy = entropy
        self._told = told
        self._owners: Counter[tuple[bytes, str]] = Counter()
        self._serial = 0

    def serve(self, served: Served) -> None:
        """Let others come to a space that has started.

        Raises:
            KeyError: It is served already.
        """
        if served.space.space_id in self.spaces:
            raise KeyError(served.space.space_id)
        self.spaces[served.space.space_id] = served

    def find(self, named: str) -> Served | None:
        """Return the space that a path names: by the beginning of its id, at least 8 digits, or its name."""
        text = named.strip("/").lower()
        by_id = [each for space_id, each in self.spaces.items() if len(text) >= 8 and space_id.hex().startswith(text)]
        by_name = [each for each in self.spaces.values() if each.space.name.lower() == text]
        found = by_id or by_name
        return found[0] if len(found) == 1 else None

    # One connection.

    async def meet(self, websocket: WebSocket) -> None:
        """Take one WebSocket from its request to its end."""
        self._serial += 1
        client = websocket.client.host if websocket.client else ""
        about: dict[str, object] = {"connection": self._serial, "address": client}
        why = self._obstacle(websocket)
        if why:
            self.metrics.refused[why] += 1
            self._told("turned away", {**about, "why": why})
            await websocket.close()
            return
        await websocket.accept(subprotocol=SUBPROTOCOL)
        socket = HubSocket(websocket)
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                served, owner, by = await self._admit(websocket, socket)
                await socket.send(encode(Welcome()))
        except TimeoutError:
            await self._turn_away(socket, about, "said nothing", ClosedError(NOT_ADMITTED, ""))
            return
        except ClosedError as closed:
            await self._turn_away(socket, about, closed.reason or "not admitted", closed)
            return
        about |= {"space": served.space.space_id.hex()[:8], "owner": owner, "by": by}
        key = (served.space.space_id, owner)
        limits = self.limits
        if self._owners[key] >= limits.per_member or len(served.links) >= limits.per_space:
            reason = f"at most {limits.per_member} of one member, {limits.per_space} of one space"
            await self._turn_away(socket, about, reason, ClosedError(TOO_MANY, reason))
            return
        self._owners[key] += 1
        self.metrics.admitted[by] += 1
        try:
            await self._carry(socket, served, owner, about)
        finally:
            self._owners[key] -= 1
            if not self._owners[key]:
                del self._owners[key]

    def _obstacle(self, websocket: WebSocket) -> str:
        """Return why a request is not even heard, or ""."""
        origin = websocket.headers.get("origin")
        if origin is not None and origin not in self.limits.origins:
            return "origin"  # A browser: some page's script, with whatever its user's network reaches (T34).
        if SUBPROTOCOL not in websocket.scope["subprotocols"]:
            return "protocol"
        return "stopping" if self.is_stopping else ""

    async def _turn_away(self, socket: HubSocket, about: Mapping[str, object], why: str, closed: ClosedError) -> None:
        self.metrics.refused[_kind(closed.code)] += 1
        self._told("not admitted", {**about, "why": why})
        await socket.close(closed.code, closed.reason if closed.code != NOT_ADMITTED else "")

    async def _admit(self, websocket: WebSocket, socket: HubSocket) -> tuple[Served, str, str]:
        """Return the space, who comes, and by what they were admitted.

        Raises:
            ClosedError: Not admitted.
        """
        served = self.find(websocket.path_params["space"])
        authorization = websocket.headers.get("authorization")
        if authorization is not None:
            name = self.tokens.name_of(authorization)
            if name is None:
                raise ClosedError(NOT_ADMITTED, "the token is not known")
            if served is None:
                raise ClosedError(NO_SUCH_SPACE, "")
            return served, f"token {name}", "token"
        nonce = self._entropy.token(NONCE_SIZE)
        await socket.send(encode(Challenge(nonce)))
        try:
            answer = decode(await socket.receive())
            if not isinstance(answer, Answer):
                raise ClosedError(NOT_ADMITTED, "no answer to the challenge came")
            # All of it is done whether or not there is such a space, and such a member in it.
            space_id = _NOBODY if served is None else served.space.space_id
            check_answer(answer, space_id, nonce, websocket.headers.get("host", ""))
        except RefusedError as error:
            raise ClosedError(NOT_ADMITTED, str(error)) from error
        member_id, join = answer.member_id, answer.join
        asked = served or next(iter(self.spaces.values()))
        try:
            is_let_in = await asked.space.call(lambda _desk, store: is_admitted(store, member_id, join))
        except (KlalError, SpaceGoneError) as error:
            raise ClosedError(RESTART, "") from error
        if served is None:
            raise ClosedError(NOT_ADMITTED, "no such space")
        if not is_let_in:
            raise ClosedError(NOT_ADMITTED, "not a member, nor invited by one who is known here")
        return served, f"member {member_id.hex()[:16]}", "key"

    async def _carry(self, socket: HubSocket, served: Served, owner: str, about: Mapping[str, object]) -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        link = Link(socket, served.space, owner, dials=False)
        session_count = 0

        def count(port: Port) -> None:
            nonlocal session_count
            self.metrics.sessions += port.line.session_count - session_count
            session_count = port.line.session_count

        link.on_delivery = count
        served.links.add(link)
        self._told("admitted", dict(about))
        try:
            closed = await link.run()
        finally:
            served.links.discard(link)
            received = socket.received_count()
            self.metrics.bytes_received += received
        line = None if link.port is None else link.port.line
        self.metrics.ended[_kind(closed.code)] += 1
        if line is not None:
            self.metrics.things_refused += line.refused_count
        self._told(
            "ended",
            {
                **about,
                "why": closed.reason or _kind(closed.code),
                "code": closed.code,
                "seconds": round(loop.time() - begun_s, 3),
                "sessions": session_count,
                "received_bytes": received,
                "changes": 0 if line is None else line.change_count,
                "refused": [] if line is None else list(line.refused),
            },
        )

    # All of them.

    async def keep_pace(self) -> None:
        """End connections that keep others waiting, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_PACE_EVERY_S)
            for served in self.spaces.values():
                for link in list(served.links):
                    link.check_pace(loop.time())

    async def stop(self) -> None:
        """Finish the rounds that are running, close the files, and tell everybody to come back."""
        self.is_stopping = True
        for served in self.spaces.values():
            served.space.stop()
        await asyncio.gather(*(served.space.over for served in self.spaces.values()))
        for served in self.spaces.values():
            for link in list(served.links):
                link.end(RESTART, "the hub stops or restarts")
        running = [link.over.wait() for served in self.spaces.values() for link in served.links]
        await asyncio.gather(*running)


_KINDS = {
    1000: "done",
    1001: "went away",
    1005: "went away",
    1006: "lost",
    1011: "no pong",
    RESTART: "restart",
    NOT_ADMITTED: "not admitted",
    NO_SUCH_SPACE: "no such space",
    TOO_MANY: "too many",
    4400: "broke a rule",
    4408: "too slow",
    4409: "other space",
    1013: "file refused",
}


def _kind(code: int) -> str:
    """Return an end's kind as metrics and log call it."""
    return _KINDS.get(code, "other")
