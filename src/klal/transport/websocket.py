"""A hub's URL, dialed: one frame of the protocol in each binary message of a WebSocket.

Compression is off, a message is never larger than a frame, and nothing waits without a
deadline. Who dials is shown by a token, or by signing the hub's challenge; who was dialed is
shown by TLS and by nothing else, so what must stay secret goes by `wss://`.

Source:
    Protocol spec section 12, rules WEB-1 to WEB-5 and ADM-1 to ADM-4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import websockets
import websockets.asyncio.client
import websockets.exceptions
import websockets.sync.client

from klal.errors import KlalError, MalformedError, TransportError, UsageError
from klal.model.acts import Join
from klal.model.codec import FRAME_SIZE_MAX
from klal.model.keys import SigningKey
from klal.sync.admission import SUBPROTOCOL, Challenge, Welcome, answer, decode, encode
from klal.transport.link import INBOX_COUNT_MAX, TURN_S, ClosedError, cut, error_of

HANDSHAKE_S = 5.0
PING_S = 20.0
PONG_S = 60.0  # A program may be busy applying what came, on the thread that would answer.
_CLOSE_S = 2.0
_DEFAULT_PORTS = {"ws": 80, "wss": 443}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who dials, and for which space.

    Shape:
        join: shown to a hub that may not know this member yet.
        token: shown instead of an answer to the challenge, where it is not "".
    """

    space_id: bytes
    key: SigningKey
    join: Join | None
    token: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """A hub's URL, and the space there: the caller's own where the URL names none."""

    url: str
    authority: str


def address_of(url: str, space_id: bytes) -> Address:
    """Return what a URL stands for.

    Raises:
        UsageError: It is no `ws://` or `wss://` URL of a hub.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{url!r:.200} is no URL: {error}") from error
    if parts.scheme not in _DEFAULT_PORTS or not host:
        raise UsageError(f"{url!r:.200} is no URL of a hub, want ws://host:port/space or wss://host/space")
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError("a hub's URL holds a host, a port and a space; a token goes into a file")
    path = parts.path.strip("/") or space_id.hex()
    host = f"[{host}]" if ":" in host else host
    authority = host if port in (None, _DEFAULT_PORTS[parts.scheme]) else f"{host}:{port}"
    return Address(f"{parts.scheme}://{authority}/{path}", authority)


class WebSocketWire:
    """A dialed hub as a `Wire`, on the calling thread."""

    def __init__(self, url: str, caller: Caller) -> None:
        address = address_of(url, caller.space_id)
        self._url = address.url
        self._stack = ExitStack()
        with _dialing(address.url):
            self._socket = self._stack.enter_context(
                websockets.sync.client.connect(
                    address.url, additional_headers=_headers(caller), max_queue=INBOX_COUNT_MAX, **_options()
                )
            )
        try:
            self._enter(address, caller)
        except BaseException:
            self.close()
            raise

    def _enter(self, address: Address, caller: Caller) -> None:
        frames = _entering(address, caller)
        to_send = next(frames)
        while True:
            if to_send is not None:
                self.send(to_send)
            try:
                to_send = frames.send(self._receive(HANDSHAKE_S))
            except StopIteration:
                return

    def send(self, frame: bytes) -> None:
        """Send one frame; a peer that does not read is given up by its pings."""
        try:
            self._socket.send(frame)
        except (websockets.exceptions.WebSocketException, OSError) as error:
            raise self._lost(error) from error

    def receive(self) -> bytes:
        """Return the next frame."""
        return self._receive(TURN_S)

    def _receive(self, timeout_s: float) -> bytes:
        try:
            message = self._socket.recv(timeout=timeout_s)
        except TimeoutError as error:
            raise TransportError(f"{self._url} said nothing for {timeout_s:.0f} s") from error
        except (websockets.exceptions.WebSocketException, OSError) as error:
            raise self._lost(error) from error
        if isinstance(message, str):
            raise TransportError(f"{self._url} sent text, which no hub does")
        return bytes(message)

    def _lost(self, error: Exception) -> KlalError:
        return error_of(_closed(error), self._url)

    def close(self) -> None:
        """Say goodbye, and release the socket."""
        self._stack.close()


class DialedSocket:
    """A dialed hub as a `Socket`, on the event loop."""

    def __init__(self, socket: websockets.asyncio.client.ClientConnection) -> None:
        self._socket = socket
        self._count = 0

    async def receive(self) -> bytes:
        """Return the next message."""
        try:
            message = await self._socket.recv()
        except (websockets.exceptions.WebSocketException, OSError) as error:
            raise _closed(error) from error
        if isinstance(message, str):
            raise ClosedError(1003, "text came")
        self._count += len(message)
        return message

    async def send(self, frame: bytes) -> None:
        """Send one message."""
        try:
            await self._socket.send(frame)
        except (websockets.exceptions.WebSocketException, OSError) as error:
            raise _closed(error) from error

    async def close(self, code: int, reason: str) -> None:
        """End the connection."""
        await self._socket.close(code if code in (1000, 1001) or code >= 3000 else 1000, cut(reason))

    def received_count(self) -> int:
        """Return how many bytes of whole messages have come."""
        return self._count


async def dial(url: str, caller: Caller) -> DialedSocket:
    """Return a connection to a hub that has admitted the caller.

    Raises:
        TransportError: It cannot be reached, or does not admit. UsageError: No URL of a hub.
    """
    address = address_of(url, caller.space_id)
    with _dialing(address.url):
        connection = await websockets.asyncio.client.connect(
            address.url, additional_headers=_headers(caller), max_queue=INBOX_COUNT_MAX, **_options()
        )
    socket = DialedSocket(connection)
    try:
        frames = _entering(address, caller)
        to_send = next(frames)
        while True:
            if to_send is not None:
                await socket.send(to_send)
            try:
                to_send = frames.send(await _soon(socket))
            except StopIteration:
                return socket
    except ClosedError as closed:
        await connection.close()
        raise error_of(closed, address.url) from closed
    except BaseException:
        await connection.close()
        raise


async def _soon(socket: DialedSocket) -> bytes:
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            return await socket.receive()
    except TimeoutError:
        raise ClosedError(1008, f"nothing came for {HANDSHAKE_S:.0f} s") from None


def _entering(address: Address, caller: Caller) -> Generator[bytes | None, bytes, None]:
    """Yield what the caller says to be admitted; is sent what the hub says (ADM-1 to ADM-3)."""
    to_send: bytes | None = None
    while True:
        said = yield to_send
        try:
            message = decode(said)
        except MalformedError as error:
            raise TransportError(f"{address.url} is no hub: {error}") from error
        if isinstance(message, Welcome):
            return
        if to_send is not None or not isinstance(message, Challenge):
            raise TransportError(f"{address.url} is no hub: it asks what nobody can answer")
        to_send = encode(answer(caller.key, caller.space_id, message.nonce, address.authority, caller.join))


def _headers(caller: Caller) -> dict[str, str]:
    return {"Authorization": f"Bearer {caller.token}"} if caller.token else {}


def _options() -> dict[str, Any]:
    return {
        "subprotocols": [SUBPROTOCOL],
        "compression": None,
        "max_size": FRAME_SIZE_MAX,
        "open_timeout": HANDSHAKE_S,
        "ping_interval": PING_S,
        "ping_timeout": PONG_S,
        "close_timeout": _CLOSE_S,
        "proxy": None,  # The library reads no environment, where proxies are named.
        "user_agent_header": None,
    }


@contextmanager
def _dialing(url: str) -> Iterator[None]:
    """Turn what can go wrong before anything is said into a sentence."""
    try:
        yield
    except websockets.exceptions.InvalidStatus as error:
        raise TransportError(_status_sentence(url, error.response.status_code, error.response.body)) from error
    except TimeoutError as error:
        raise TransportError(f"{url} did not answer within {HANDSHAKE_S:.0f} s") from error
    except ConnectionRefusedError as error:
        raise TransportError(f"{url} refused the connection: nothing listens there") from error
    except OSError as error:
        raise TransportError(f"{url} cannot be reached: {error.strerror or error}") from error
    except websockets.exceptions.WebSocketException as error:
        raise TransportError(f"{url} is no hub: {error}") from error


def _status_sentence(url: str, status: int, body: bytes | bytearray | None) -> str:
    said = (body or b"")[:200].decode("utf-8", "replace").strip()
    said = said if said.isprintable() else ""
    return f"{url} does not let a session begin (HTTP {status})" + (f": {said}" if said else "")


def _closed(error: Exception) -> ClosedError:
    if isinstance(error, websockets.exceptions.ConnectionClosed) and error.rcvd is not None:
        return ClosedError(error.rcvd.code, error.rcvd.reason if error.rcvd.reason.isprintable() else "")
    if isinstance(error, websockets.exceptions.ConnectionClosed) and error.sent is not None:
        return ClosedError(1006, error.sent.reason)
    return ClosedError(1006, "")
