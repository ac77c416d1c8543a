"""Admission: who dials, shown by a signature that serves one connection to one host."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.errors import MalformedError, RefusedError, SignatureError
from klal.model.acts import make_invitation, make_join
from klal.model.keys import SigningKey
from klal.sync.admission import (
    ADMISSION_SIZE_MAX,
    Answer,
    Challenge,
    Welcome,
    answer,
    check_answer,
    decode,
    encode,
)

SPACE, NONCE = bytes(range(32)), bytes(range(32, 64))
ANA, TICKET = SigningKey(b"a" * 32), SigningKey(b"t" * 32)
JOIN = make_join(TICKET, SPACE, ANA.member_id, "ana", make_invitation(ANA, SPACE, TICKET.member_id, 1, 0))
MESSAGES = [
    Challenge(NONCE),
    answer(ANA, SPACE, NONCE, "host:1", None),
    answer(ANA, SPACE, NONCE, "host:1", JOIN),
    Welcome(),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_its_frame_and_any_other_bytes_are_refused_or_mean_one_thing(message):
    """ADM-1 T1 T4."""
    frame = encode(message)

    assert decode(frame) == message
    for size in range(len(frame)):
        with pytest.raises(MalformedError):
            decode(frame[:size])
    for at in range(len(frame)):
        mangled = bytearray(frame)
        mangled[at] ^= 1
        try:
            other = decode(bytes(mangled))
        except RefusedError:
            continue
        assert encode(other) == mangled


@given(st.binary(max_size=300), st.integers(0, 255))
def test_any_bytes_are_refused_or_mean_one_thing(body, kind):
    """ADM-1 T1."""
    frame = struct.pack(">IB", 1 + len(body), kind) + body
    try:
        message = decode(frame)
    except RefusedError:
        return
    assert encode(message) == frame


def test_a_message_beyond_its_limit_is_refused_before_it_is_parsed():
    """ADM-1 T2."""
    with pytest.raises(MalformedError) as caught:
        decode(bytes(ADMISSION_SIZE_MAX + 1))
    assert caught.value.rule == "ADM-1"


@pytest.mark.parametrize(
    "message", [Challenge(b"short"), Answer(b"short", bytes(64), None), Answer(bytes(32), b"short", None)]
)
def test_a_size_out_of_bounds_is_malformed(message):
    """ADM-1."""
    with pytest.raises(MalformedError):
        decode(encode(message))


def test_an_answer_is_good_for_its_member_space_nonce_and_host_alone():
    """ADM-2 KEY-2 T12: passed on to another hub it is of no use."""
    given_answer = answer(ANA, SPACE, NONCE, "Hub.Example:8765", None)

    check_answer(given_answer, SPACE, NONCE, "hub.example:8765")

    other = SigningKey(b"o" * 32).member_id
    for wrong in (
        (given_answer, NONCE, NONCE, "hub.example:8765"),
        (given_answer, SPACE, SPACE, "hub.example:8765"),
        (given_answer, SPACE, NONCE, "hub.example"),
        (Answer(other, given_answer.signature, None), SPACE, NONCE, "hub.example:8765"),
    ):
        with pytest.raises(SignatureError):
            check_answer(*wrong)
