"""What a connection must get past before there is anything to decide: time, number, size.

uvicorn waits for a request as long as its client likes, answers every ping whether or not
the answers are read, and counts nobody's connections. Here a request has some seconds to be
whole, a peer that does not read is hung up on, and an address has so many connections (T28).

Source:
    Protocol spec section 12, rule WEB-4.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from klal.transport.websocket import HANDSHAKE_S

REQUEST_SIZE_MAX = 16 * 1024
CLOSE_S = 2.0  # For the other side to say goodbye too.
SENT_AHEAD_MAX = 256 * 1024  # Bytes that wait in a socket before the next message waits for them.


def protocols(per_address_max: int) -> tuple[type[asyncio.Protocol], type[asyncio.Protocol]]:
    """Return uvicorn's protocols for HTTP and WebSockets, with their gate; they share one count of addresses."""
    addresses: Counter[str] = Counter()

    class GatedHttp(H11Protocol):
        """A request: whole within seconds, or hung up on."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._address = self.client[0] if self.client else ""
            addresses[self._address] += 1
            self._is_counted = True
            self._deadline = self.loop.call_later(HANDSHAKE_S, transport.abort)
            if addresses[self._address] > per_address_max:
                transport.abort()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.scope is not None:
                self._deadline.cancel()

        def handle_websocket_upgrade(self, event: Any) -> None:
            self._deadline.cancel()
            self._is_counted = False  # The protocol that takes over counts from here on.
            addresses[self._address] -= 1
            super().handle_websocket_upgrade(event)

        def connection_lost(self, exc: Exception | None) -> None:
            self._deadline.cancel()
            if self._is_counted:
                addresses[self._address] -= 1
                self._is_counted = False
            if not addresses[self._address]:
                del addresses[self._address]
            super().connection_lost(exc)

    class GatedWebSocket(WebSocketsSansIOProtocol):
        """A WebSocket that counts what comes, and hangs up on whoever makes it say more than is read."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.app_state = {**self.app_state, "gate": self}
            self.received_count = 0
            self.close_timeout = CLOSE_S

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.set_write_buffer_limits(high=SENT_AHEAD_MAX)
            self._address = self.client[0] if self.client else ""
            addresses[self._address] += 1

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            addresses[self._address] -= 1
            if not addresses[self._address]:
                del addresses[self._address]

        def data_received(self, data: bytes) -> None:
            self.received_count += len(data)
            super().data_received(data)

        def handle_ping(self) -> None:
            if not self.writable.is_set():
                self.transport.abort()
                return
            super().handle_ping()

    return GatedHttp, GatedWebSocket
