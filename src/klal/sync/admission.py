"""How a side that was dialed finds out who dials, before it says anything that matters.

The side that was dialed sends 32 random bytes, and the other signs them with its member's
key. What is signed names the space, and the host that was dialed: a hub that passes a
challenge on to another hub gets an answer that is of no use there. A member who has joined
and whom nobody has met yet shows its join, which is proof enough if its inviter is known.

    dialed                      dials
    CHALLENGE               ->
                            <-  ANSWER
    WELCOME                 ->

Whoever showed a token is told WELCOME at once.

Law: `decode(encode(m)) == m`, and `encode(decode(f)) == f` for every accepted frame.

Source:
    Protocol spec section 12, rules ADM-1 to ADM-4; KEY-2.
"""

from __future__ import annotations

import struct

import msgspec

from klal.errors import MalformedError
from klal.model.acts import Join
from klal.model.codec import SIGNATURE_SIZE, pack, unpack
from klal.model.keys import MEMBER_ID_SIZE, SigningKey, check_signature

SUBPROTOCOL = "klal.1"
NONCE_SIZE = 32
ADMISSION_SIZE_MAX = 4096
TAG = "klal/admit/1"

_PREFIX = struct.Struct(">IB")
_LENGTH_SIZE = 4


class _Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Common form of all bodies."""


class Challenge(_Body, frozen=True):
    """32 bytes that were never said before."""

    nonce: bytes


class Answer(_Body, frozen=True):
    """Who dials, the signature of ADM-2, and the join of a member who may not be known yet."""

    member_id: bytes
    signature: bytes
    join: Join | None


class Welcome(_Body, frozen=True):
    """Admitted: now the side that dialed opens a session."""


Admission = Challenge | Answer | Welcome
_TYPES: dict[int, type[Admission]] = {32: Challenge, 33: Answer, 34: Welcome}
_NUMBERS = {kind: number for number, kind in _TYPES.items()}


def encode(message: Admission) -> bytes:
    """Return `message` as one frame."""
    body = pack(message)
    return _PREFIX.pack(1 + len(body), _NUMBERS[type(message)]) + body


def decode(frame: bytes) -> Admission:
    """Return the message that one whole frame spells.

    Raises:
        MalformedError: ADM-1.
    """
    if not _PREFIX.size <= len(frame) <= ADMISSION_SIZE_MAX:
        raise MalformedError(
            f"frame has {len(frame)} bytes, want {_PREFIX.size} to {ADMISSION_SIZE_MAX} before admission", rule="ADM-1"
        )
    size, number = _PREFIX.unpack_from(frame)
    kind = _TYPES.get(number)
    if size != len(frame) - _LENGTH_SIZE or kind is None:
        raise MalformedError(f"frame of type {number} and size {size} is no admission", rule="ADM-1")
    message = unpack(frame[_PREFIX.size :], kind, f"{kind.__name__} message", ADMISSION_SIZE_MAX)
    is_right = True
    if isinstance(message, Challenge):
        is_right = len(message.nonce) == NONCE_SIZE
    elif isinstance(message, Answer):
        is_right = len(message.member_id) == MEMBER_ID_SIZE and len(message.signature) == SIGNATURE_SIZE
    if not is_right:
        raise MalformedError(f"{kind.__name__} message has a size out of bounds", rule="ADM-1")
    return message


def answer(key: SigningKey, space_id: bytes, nonce: bytes, authority: str, join: Join | None) -> Answer:
    """Return what a member answers to a challenge from the host it dialed (`host:port` as the URL says it)."""
    return Answer(key.member_id, key.sign(TAG, space_id, nonce, _spelled(authority)), join)


def check_answer(given: Answer, space_id: bytes, nonce: bytes, authority: str) -> None:
    """Return if the member named signed this challenge, for this space and this host.

    Raises:
        SignatureError: ADM-2.
    """
    check_signature(
        given.member_id, given.signature, "answer to the challenge", TAG, space_id, nonce, _spelled(authority)
    )


def _spelled(authority: str) -> bytes:
    return authority.lower().encode("utf-8", "surrogateescape")
