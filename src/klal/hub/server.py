"""A hub as a process: its socket, its signals, its log.

Source:
    Protocol spec section 12. Decision record 0032.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TextIO

import uvicorn

from klal.errors import KlalError, TransportError, UsageError
from klal.hub.gate import REQUEST_SIZE_MAX, protocols
from klal.hub.metrics import SpaceMetrics
from klal.hub.service import Hub, Limits, Served
from klal.hub.tokens import Tokens
from klal.hub.web import application
from klal.model.codec import FRAME_SIZE_MAX
from klal.ports import Clock, Entropy
from klal.reports import Standing
from klal.store.store import Store
from klal.transport.spaces import ThreadSpace
from klal.transport.staying import keep
from klal.transport.websocket import PING_S, PONG_S, Caller

Opened = Callable[[], Store]
CallerOf = Callable[[Store], Caller]


@dataclass(frozen=True, slots=True)
class Setup:
    """What a hub is started with.

    Shape:
        files: each opens one file, on the thread that will use it.
        proxies: addresses whose word on who connects is taken, as a TLS proxy's.
        peers: URLs of other hubs to stay connected to, for every space that has its key here.
        caller_of: says who this hub is when it dials; dice: numbers from 0 to 1.
    """

    files: Sequence[Opened]
    host: str
    port: int
    limits: Limits = field(default_factory=Limits)
    tokens: Tokens = field(default_factory=Tokens)
    proxies: Sequence[str] = ()
    peers: Sequence[str] = ()
    caller_of: CallerOf | None = None
    dice: Callable[[], float] = lambda: 1.0


class JsonLog:
    """One JSON object a line: when, what, and why."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock

    def __call__(self, event: str, what: dict[str, object]) -> None:
        line = json.dumps({"unix_ms": self._clock.unix_ms(), "event": event, **what})
        with suppress(OSError, ValueError):  # Whoever read the log is gone; the hub goes on.
            self._stream.write(line + "\n")
            self._stream.flush()


class _Bugs(logging.Handler):
    """What the server's libraries have to say that is an error, as lines of the same log."""

    def __init__(self, told: JsonLog) -> None:
        super().__init__(logging.ERROR)
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        trace = "" if record.exc_info is None else "".join(traceback.format_exception(*record.exc_info))
        self._told("error", {"why": record.getMessage().strip(), "trace": trace})


class _Server(uvicorn.Server):
    """uvicorn's, which leaves signals alone: the hub has to close its files before its sockets."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bound(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        TransportError: The address cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        made = socket.create_server(found[0][4][:2], family=found[0][0], backlog=1024)
    except OSError as error:
        raise TransportError(f"{host}:{port} cannot be listened on: {error.strerror or error}") from error
    made.setblocking(False)
    return made


async def serve(
    setup: Setup,
    *,
    clock: Clock,
    entropy: Entropy,
    log: TextIO = sys.stderr,
    on_start: Callable[[str, Sequence[str]], None],
) -> None:
    """Serve files until SIGTERM or SIGINT, then finish what is running and return.

    Args:
        log: Where JSON lines go.
        on_start: Called with the URL and the ids of the spaces once connections are taken.

    Raises:
        KlalError: A file cannot be opened, or the address cannot be had.
    """
    told = JsonLog(log, clock)
    hub = Hub(setup.limits, setup.tokens, entropy, told)
    listening = bound(setup.host, setup.port)
    bugs, logger = _Bugs(told), logging.getLogger("uvicorn")
    logger.addHandler(bugs)
    logger.propagate = False
    try:
        await _open_all(setup, hub, told)
        http, websocket = protocols(setup.limits.per_address)
        config = uvicorn.Config(
            application(hub),
            http=http,
            ws=websocket,
            ws_max_size=FRAME_SIZE_MAX,
            ws_ping_interval=PING_S,
            ws_ping_timeout=PONG_S,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(setup.proxies),
            forwarded_allow_ips=list(setup.proxies),
            h11_max_incomplete_event_size=REQUEST_SIZE_MAX,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=5,
        )
        await _run(_Server(config), hub, setup, listening, told, on_start)
    finally:
        for served in hub.spaces.values():
            served.space.stop()
        await asyncio.gather(*(served.space.over for served in hub.spaces.values()))
        listening.close()
        logger.removeHandler(bugs)
        logger.propagate = True


async def _open_all(setup: Setup, hub: Hub, told: JsonLog) -> None:
    """Open every file on its thread; if one cannot be, those that were are closed again by the caller."""
    for opened in setup.files:
        metrics = SpaceMetrics()
        space = ThreadSpace(opened, told, metrics.note)
        await space.started
        try:
            hub.serve(Served(space, metrics))
        except KeyError:
            space.stop()
            await space.over
            raise UsageError(f"two of the files are of one space, {space.name!r}") from None


async def _run(
    server: _Server,
    hub: Hub,
    setup: Setup,
    listening: socket.socket,
    told: JsonLog,
    on_start: Callable[[str, Sequence[str]], None],
) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    tasks = [asyncio.create_task(hub.keep_pace()), *_dial_peers(setup, hub, told)]
    try:
        await server.has_started.wait()
        host, port = listening.getsockname()[:2]
        url = f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"
        spaces = [space_id.hex() for space_id in sorted(hub.spaces)]
        told("listening", {"url": url, "spaces": spaces})
        on_start(url, spaces)
        waiting = [asyncio.create_task(stopping.wait()), serving]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        waiting[0].cancel()
        told("stopping", {"why": "a signal" if stopping.is_set() else "the server ended"})
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await hub.stop()
        server.should_exit = True
        await serving
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        told("stopped", {})


def _dial_peers(setup: Setup, hub: Hub, told: JsonLog) -> list[asyncio.Task[None]]:
    """Stay connected to other hubs, which are replicas as this one is."""
    takers = [served for served in hub.spaces.values() if served.space.takes]
    return [asyncio.create_task(_keep_peer(setup, served, url, told)) for url in setup.peers for served in takers]


async def _keep_peer(setup: Setup, served: Served, url: str, told: JsonLog) -> None:
    caller_of = setup.caller_of
    if caller_of is None:
        return
    about = {"peer": url, "space": served.space.space_id.hex()[:8]}

    def tell(standing: Standing) -> None:
        told(f"peer {standing.state}", {**about, "why": standing.why})

    try:
        caller = await served.space.call(lambda _desk, store: caller_of(store))
        await keep(served.space, url, caller, tell, setup.dice)
    except KlalError as error:
        told("peer given up", {**about, "why": str(error)})
