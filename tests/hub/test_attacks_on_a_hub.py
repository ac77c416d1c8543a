"""What strangers and members may try with a hub: a process on loopback, and hands that do not keep to the rules."""

import re
import socket
import struct
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
import websockets.sync.client
from websockets.exceptions import ConnectionClosed, InvalidStatus

import klal
from klal.errors import KlalError, TransportError
from klal.model.codec import FRAME_SIZE_MAX
from klal.store.door import own_join
from klal.sync import messages as sync
from klal.sync.admission import SUBPROTOCOL, Answer, Challenge, answer, decode, encode
from klal.sync.messages import End, Hello, Logs, Span, Turn, WantPayloads
from klal.sync.messages import encode as framed
from klal.transport.websocket import Caller, WebSocketWire
from tests.helpers.hubs import DEADLINE_S, until
from tests.hub.conftest import TOKEN

H = bytes(32)


def dial(hub, path="", **options):
    """Return a bare WebSocket to a hub, which has not been asked for anything yet."""
    return websockets.sync.client.connect(
        f"{hub.url}/{path}", subprotocols=[SUBPROTOCOL], compression=None, proxy=None, close_timeout=1, **options
    )


def wire_of(replica, hub):
    """Return a wire on which a member has been let in, for whatever frames it likes to send."""
    store = replica._store
    return WebSocketWire(hub.url, Caller(store.space_id, store.identity.key, own_join(store)))


def bare(hub, text=b""):
    made = socket.create_connection(("127.0.0.1", hub.port), timeout=DEADLINE_S)
    made.sendall(text)
    return made


def upgrade():
    """Return a request for a WebSocket."""
    lines = (
        *("GET / HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
        *(f"Sec-WebSocket-Key: {'x' * 22}==", f"Sec-WebSocket-Protocol: {SUBPROTOCOL}", "", ""),
    )
    return "\r\n".join(lines).encode()


def closed_by(socket_or_wire):
    """Return the code by which a connection was ended."""
    try:
        while True:
            socket_or_wire.recv(timeout=DEADLINE_S)
    except ConnectionClosed as closed:
        return closed.rcvd.code, closed.rcvd.reason


def memory_kib(hub):
    status = Path(f"/proc/{hub.process.pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+)", status, re.MULTILINE)[1])


def test_who_is_slow_with_a_request_or_an_answer_is_hung_up_on(shared):
    """T28 WEB-4: silent, half a request, a header a second, and no answer to the challenge; others go on meanwhile."""
    site, hub = shared
    begun_s = time.monotonic()
    silent = [bare(hub), bare(hub, b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")]
    dripping = bare(hub, b"GET / HTTP/1.1\r\n")
    stop = threading.Event()

    def drip():
        with suppress(OSError):
            while not stop.wait(0.5):
                dripping.sendall(b"X: y\r\n")

    thread = threading.Thread(target=drip)
    thread.start()
    with dial(hub) as unanswered:
        assert site.join("patient").sync(hub.url).equal
        assert closed_by(unanswered) == (4403, "")
    for each in (*silent, dripping):
        with closing(each), suppress(ConnectionResetError):
            while each.recv(4096):
                pass
    stop.set()
    thread.join()

    assert time.monotonic() - begun_s < 15


def test_who_never_reads_costs_bounded_memory(site):
    """T28 T31: eight connections ask for everything and read nothing."""
    ana, ben = site.join("ana"), site.join("ben")
    hub = site.serve()
    ana.insert_many("bird", [(f"{n:05}", n, f"{n * 7919 % 1000003:0200}") for n in range(60_000)])
    ana.sync(hub.url)
    ben.sync(hub.url)
    before_kib = memory_kib(hub)
    wires = [wire_of(ben, hub) for _ in range(8)]
    for wire in wires:
        wire.send(framed(Hello(1, ben.space_id, H, H, H, takes=True)))
        wire.send(framed(Turn()))
        logs = ()
        while not isinstance(message := sync.decode(wire.receive()), Turn):
            logs = message.logs if isinstance(message, Logs) else logs
        wire.send(framed(Logs((), (), is_last=True)))
        wire.send(framed(WantPayloads(tuple(Span(log.log_id, 0, log.length) for log in logs), ())))
        wire.send(framed(Turn()))
    cleo = site.join("cleo")

    report = cleo.sync(hub.url)

    assert report.equal
    assert memory_kib(hub) - before_kib < 64 * 1024
    for wire in wires:
        wire.close()


def test_pings_whose_answers_are_never_read_end_the_connection(shared):
    """T28: their answers wait nowhere without end."""
    _, hub = shared
    made = bare(hub, upgrade())
    pings = (struct.pack(">BB4s", 0x89, 0x80 | 125, b"\0\0\0\0") + b"p" * 125) * 1000

    with closing(made), pytest.raises(OSError):  # noqa: PT012 - which of them fails depends on the kernel's buffers
        for _ in range(500):
            made.sendall(pings)


def test_before_an_admission_a_hub_says_next_to_nothing(shared):
    """T31 ADM-5: less than 1 KiB, HTTP and all."""
    _, hub = shared
    made = bare(hub, upgrade())
    hello = framed(Hello(1, H, H, H, H, takes=True))
    with closing(made), suppress(ConnectionResetError):
        said = made.recv(4096)
        made.sendall(struct.pack(">BBH4s", 0x82, 0x80 | 126, len(hello), b"\0\0\0\0") + hello)
        while more := made.recv(4096):
            said += more

    assert b"101" in said
    assert len(said) < 1024


def test_strangers_hear_the_same_whatever_they_try(shared):
    """T54 ADM-5: an unknown space, an unknown member, a false signature, a wrong token, nonsense."""
    site, hub = shared
    member = site.join("member")
    member.sync(hub.url)
    eve = klal.model.keys.SigningKey(b"e" * 32)
    space = member.space_id.hex()

    def answers(path, made):
        with dial(hub, path) as stranger:
            challenge = decode(stranger.recv(timeout=DEADLINE_S))
            assert isinstance(challenge, Challenge)
            stranger.send(made(challenge.nonce))
            return closed_by(stranger)

    host = hub.url.removeprefix("ws://")
    heard = {
        "no such space": answers("nowhere", lambda nonce: encode(answer(eve, H, nonce, host, None))),
        "no member": answers(space, lambda nonce: encode(answer(eve, member.space_id, nonce, host, None))),
        "false": answers(space, lambda _: encode(Answer(member.member_id, bytes(64), None))),
        "another host": answers(
            space,
            lambda nonce: encode(answer(member._store.identity.key, member.space_id, nonce, "elsewhere", None)),
        ),
        "nonsense": answers(space, lambda _: b"nonsense"),
    }
    with dial(hub, space, additional_headers={"Authorization": f"Bearer {TOKEN}x"}) as stranger:
        heard["token"] = closed_by(stranger)

    assert set(heard.values()) == {(4403, "")}


def test_pages_of_other_sites_and_whoever_has_no_token_see_nothing(shared):
    """T34: an Origin is a browser's; and what is to be seen wants a token in a header."""
    _, hub = shared
    with pytest.raises(InvalidStatus) as caught, dial(hub, origin="https://evil.example"):
        pass
    assert caught.value.response.status_code == 403
    nothing = hub.get("nowhere")[0]

    assert [hub.get(page)[0] for page in ("metrics", "status")] == [nothing, nothing] == [404, 404]
    assert hub.get("health") == (200, '{"ok":true}')
    status, text = hub.get("metrics", TOKEN)
    assert status == 200
    assert "klal_connections{" in text
    assert hub.get("status", TOKEN)[0] == 200


def test_an_origin_that_was_named_is_let_in(site):
    """T34."""
    hub = site.serve(options=("--origin", "https://app.example"))
    with dial(hub, origin="https://app.example") as socket_:
        assert isinstance(decode(socket_.recv(timeout=DEADLINE_S)), Challenge)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("text", 1003),
        (bytes(FRAME_SIZE_MAX + 1), 1009),
        (b"\xff\xff\xff\xff\x01", 4400),
        (framed(Hello(1, H, H, H, H, takes=True)), 4409),
        (framed(Hello(99, H, H, H, H, takes=True)), 4400),
        (framed(End(H, H, H)), 4400),
        (framed(Logs((), (), is_last=True)), 4400),
    ],
    ids=["text", "too large", "huge", "other space", "other version", "out of place", "offer before a session"],
)
def test_a_member_that_breaks_the_rules_is_ended_with_a_reason_and_nobody_else(shared, frame, code):
    """T1 T2 WEB-1 WEB-5 LIN-1."""
    site, hub = shared
    eve = site.join(f"eve {len(site.opened)}")
    wire = wire_of(eve, hub)
    with closing(wire):
        with suppress(KlalError):
            wire._socket.send(frame)
        assert closed_by(wire._socket)[0] == code

    assert eve.sync(hub.url).equal


def test_one_member_has_so_many_connections(shared):
    """T28 T55."""
    site, hub = shared
    eve = site.join("many")
    wires = [wire_of(eve, hub) for _ in range(8)]
    try:
        with pytest.raises(TransportError, match="too many connections"):
            wire_of(eve, hub).receive()
        assert site.join("one").sync(hub.url).equal
    finally:
        for wire in wires:
            wire.close()


def test_one_address_has_so_many_connections(site):
    """T28."""
    hub = site.serve(options=("--per-address", "5"))
    held = [bare(hub, b"GET / HTTP/1.1\r\n") for _ in range(5)]
    ana = site.join("ana")

    with pytest.raises(TransportError):
        ana.sync(hub.url)
    for each in held:
        each.close()

    def is_let_in():
        with suppress(TransportError):
            return ana.sync(hub.url).equal
        return False

    until(is_let_in)


def test_a_flood_by_one_member_does_not_keep_another_waiting(site):
    """T55 T29 T17: session after session on all the connections one member has; a newcomer gets through meanwhile."""
    hub = site.serve()
    eve, ana = site.join("eve"), site.join("ana")
    eve.sync(hub.url)
    wires = [wire_of(eve, hub) for _ in range(7)]
    stop = threading.Event()
    count = [0] * len(wires)

    def flood(index):
        wire = wires[index]
        with suppress(KlalError):
            while not stop.is_set():
                wire.send(framed(Hello(1, eve.space_id, H, H, H, takes=True)))
                wire.send(framed(Turn()))
                while not stop.is_set():
                    frame = wire.receive()
                    if frame[4] == 9:
                        break
                wire.send(framed(Logs((), (), is_last=True)))
                wire.send(framed(Turn()))
                count[index] += 1
                wire.close()
                wires[index] = wire = wire_of(eve, hub)

    threads = [threading.Thread(target=flood, args=(index,)) for index in range(len(wires))]
    for thread in threads:
        thread.start()
    try:
        until(lambda: sum(count) > 20)
        begun_s = time.monotonic()
        assert ana.sync(hub.url).equal
        took_s = time.monotonic() - begun_s
    finally:
        stop.set()
        for wire in list(wires):
            wire.close()
        for thread in threads:
            thread.join()

    assert took_s < 10
