"""Frames: one spelling each, bounded before anything else."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.errors import MalformedError, RefusedError
from klal.model.codec import FRAME_SIZE_MAX, PROTOCOL_VERSION, pack
from klal.sync.messages import (
    LEAF_COUNT_MAX,
    LOG_PAGE_COUNT_MAX,
    WANT_COUNT_MAX,
    Begun,
    End,
    HeaderPiece,
    Hello,
    Leaves,
    LogLine,
    Logs,
    ReceiptLine,
    ReceiptPage,
    SignedLine,
    SliceLine,
    Slices,
    Span,
    Turn,
    WantHeaders,
    WantPayloads,
    decode,
    encode,
    frame_size,
)

H = bytes(range(32))
T = bytes(16)
U = bytes(range(16))

MESSAGES = [
    Hello(PROTOCOL_VERSION, H, H, H, H, takes=True),
    Logs((LogLine(H, H, T, 3, H, 2),), (ReceiptLine(H, 7),), is_last=True),
    Logs((), (), is_last=False),
    HeaderPiece(H, 0, (b"header", b"other"), b""),
    HeaderPiece(H, 5, (b"header",), bytes(64)),
    Leaves(H, 0, T, (H, H)),
    Slices(H, (T, U), (SliceLine(0, 0, 0, b"x"), SliceLine(0, 1, 0, b"y"), SliceLine(1, 0, 3, b"z"))),
    WantHeaders((Span(H, 0, 1),)),
    WantPayloads((Span(H, 0, 1), Span(H, 4, 9)), (Begun(H, 4, T, 2),)),
    ReceiptPage((SignedLine(b"body", bytes(64)),), is_last=True),
    Turn(),
    End(H, H, H),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_its_frame(message):
    frame = encode(message)

    assert decode(frame) == message
    assert encode(decode(frame)) == frame
    assert frame_size(frame[:5]) == len(frame)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_frame_cut_at_any_byte_is_malformed(message):
    """SYN-1, T1."""
    frame = encode(message)

    for size in range(len(frame)):
        with pytest.raises(MalformedError):
            decode(frame[:size])


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_trailing_bytes_are_malformed(message):
    """SYN-1, T1: also when the length is made to agree."""
    frame = encode(message)

    with pytest.raises(MalformedError):
        decode(frame + b"\0")
    with pytest.raises(MalformedError):
        decode(struct.pack(">I", len(frame) - 3) + frame[4:] + b"\0")


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_frame_mangled_anywhere_is_refused_or_means_one_thing(message):
    """T1, T4: whatever decodes is the one spelling of what it means."""
    frame = encode(message)

    for at in range(len(frame)):
        for bit in range(8):
            mangled = bytearray(frame)
            mangled[at] ^= 1 << bit
            try:
                other = decode(bytes(mangled))
            except RefusedError:
                continue
            assert encode(other) == mangled


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_mean_one_thing(data):
    """T1, T4."""
    frame = struct.pack(">I", len(data)) + data
    try:
        message = decode(frame)
    except RefusedError:
        return
    assert encode(message) == frame


def test_a_huge_length_is_refused_from_its_first_bytes():
    """SYN-1, T2: before anything is allocated for it."""
    with pytest.raises(MalformedError) as caught:
        frame_size(b"\xff\xff\xff\xff\x01")
    assert caught.value.rule == "SYN-1"
    with pytest.raises(MalformedError):
        frame_size(struct.pack(">IB", FRAME_SIZE_MAX - 3, 1))
    assert frame_size(struct.pack(">IB", FRAME_SIZE_MAX - 4, 1)) == FRAME_SIZE_MAX


def test_a_huge_array_length_is_refused():
    """T2: the body says four billion items and holds none."""
    body = b"\xdd\xff\xff\xff\xff"

    for kind in range(1, 11):
        with pytest.raises(MalformedError):
            decode(struct.pack(">IB", 1 + len(body), kind) + body)


def test_deep_nesting_is_refused():
    """T3."""
    body = b"\x91" * 100_000 + b"\xc0"

    for kind in range(1, 11):
        with pytest.raises(MalformedError):
            decode(struct.pack(">IB", 1 + len(body), kind) + body)


def test_an_unknown_type_is_malformed():
    """SYN-2."""
    for kind in (0, 11, 255):
        with pytest.raises(MalformedError) as caught:
            decode(struct.pack(">IB", 2, kind) + b"\x90")
        assert caught.value.rule == "SYN-2"


def test_a_second_spelling_is_malformed():
    """ENC-3, T4: the same number in more bytes, and a map where an array stands."""
    body = pack(WantHeaders((Span(H, 0, 1),)))
    assert body.endswith(b"\x00\x01")
    longer = body[:-1] + b"\xcc\x01"

    with pytest.raises(MalformedError) as caught:
        decode(struct.pack(">IB", 1 + len(longer), 6) + longer)
    assert caught.value.rule == "ENC-3"
    for body in (pack({"spans": []}), pack([[{"log_id": H, "start": 0, "stop": 1}]])):
        with pytest.raises(MalformedError):
            decode(struct.pack(">IB", 1 + len(body), 6) + body)


@pytest.mark.parametrize(
    "message",
    [
        Hello(1, H[:31], H, H, H, takes=True),
        Hello(-1, H, H, H, H, takes=True),
        Logs((LogLine(H, H, T, 0, H, 0),), (), is_last=True),
        Logs((LogLine(H, H, T, 1, H, 2),), (), is_last=True),
        Logs((LogLine(H, H, T, 1 << 60, H, 2),), (), is_last=True),
        Logs((LogLine(H, b"", T, 1, H, 1),), (), is_last=True),
        Logs((LogLine(H, H, b"", 1, H, 1),), (), is_last=True),
        Logs((), (ReceiptLine(H, -1),), is_last=True),
        Logs((), (ReceiptLine(H, 1),) * (LOG_PAGE_COUNT_MAX + 1), is_last=True),
        HeaderPiece(H, 0, (), b""),
        HeaderPiece(H, -1, (b"h",), b""),
        HeaderPiece(H, 0, (b"",), b""),
        HeaderPiece(H, 0, (b"h",), bytes(63)),
        HeaderPiece(H, 0, (b"h",) * 1025, b""),
        Leaves(H, 0, T, (H,)),
        Leaves(H, 0, T, (H,) * (LEAF_COUNT_MAX + 1)),
        Leaves(H, 0, T[:15], (H, H)),
        Slices(H, (), ()),
        Slices(H, (T,), (SliceLine(0, 1, 0, b"x"),)),
        Slices(H, (T, T), (SliceLine(0, 0, 0, b"x"), SliceLine(0, 1, 0, b"x"))),
        Slices(H, (T, U), (SliceLine(0, 0, 0, b"x"),)),
        Slices(H, (T, U), (SliceLine(0, 1, 0, b"x"), SliceLine(0, 0, 0, b"x"))),
        Slices(H, (T,), (SliceLine(0, 0, 0, b""),)),
        Slices(H, (T,), (SliceLine(0, 0, LEAF_COUNT_MAX, b"x"),)),
        Slices(H, (T,), (SliceLine(-1, 0, 0, b"x"),)),
        WantHeaders(()),
        WantHeaders((Span(H, 1, 1),)),
        WantHeaders((Span(H, -1, 1),)),
        WantHeaders((Span(H, 0, 1),) * (WANT_COUNT_MAX + 1)),
        WantPayloads((Span(H, 0, 1),), (Begun(H, 0, T, 0),)),
        WantPayloads((Span(H, 0, 1),), (Begun(H, 0, T, 1),) * (WANT_COUNT_MAX + 1)),
        ReceiptPage((SignedLine(b"body", b""),), is_last=True),
        End(H, H, b""),
    ],
)
def test_a_size_or_count_out_of_bounds_is_malformed(message):
    """SYN-3, T2."""
    with pytest.raises(MalformedError) as caught:
        decode(encode(message))
    assert caught.value.rule == "SYN-3"
