"""Members' keys and the one place where signatures are made and checked.

A member is an Ed25519 public key. Signing is PyNaCl's (libsodium's) and nothing else:
other libraries accept a different set of edge cases, and two replicas that disagree on
one signature would part for ever.

Law: `check(key, message, sign(seed, message))` returns, and any changed byte raises.

Source:
    Protocol spec section 4, rules KEY-1 to KEY-3. RFC 8032.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import nacl.exceptions
import nacl.signing

from klal.errors import SignatureError
from klal.model.codec import SIGNATURE_SIZE, tagged_hash

MEMBER_ID_SIZE = 32
SEED_SIZE = 32
INCARNATION_SIZE = 16


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A member's secret, made from 32 random bytes.

    Shape:
        seed: 32 bytes, never printed.
        member_id: the public key, 32 bytes; it names the member.
    """

    seed: bytes = field(repr=False)
    member_id: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "member_id", bytes(nacl.signing.SigningKey(self.seed).verify_key))

    def sign(self, tag: str, *parts: bytes) -> bytes:
        """Return the signature over tag and parts (KEY-2: every use has its own tag)."""
        return nacl.signing.SigningKey(self.seed).sign(tagged_hash(tag, *parts)).signature


def check_signature(member_id: bytes, signature: bytes, what: str, tag: str, *parts: bytes) -> None:
    """Return if `member_id` signed exactly these parts under this tag.

    Raises:
        SignatureError: KEY-1, in words that name `what` was signed.
    """
    if len(member_id) != MEMBER_ID_SIZE or len(signature) != SIGNATURE_SIZE:
        raise SignatureError(f"{what}: key or signature has a wrong size", rule="KEY-1")
    try:
        nacl.signing.VerifyKey(member_id).verify(tagged_hash(tag, *parts), signature)
    except (nacl.exceptions.CryptoError, ValueError) as error:
        raise SignatureError(f"{what} is not signed by {member_id.hex()[:8]}", rule="KEY-1") from error


def branch_id_of(log_id: bytes, first: bytes) -> bytes:
    """Return the name under which one branch of a forked log goes on (LOG-7).

    Args:
        log_id: The log that forked.
        first: Hash of the branch's first header that another branch does not share.
    """
    return tagged_hash("klal/branch/1", log_id, first)


def log_id_of(space_id: bytes, member_id: bytes, incarnation: bytes) -> bytes:
    """Return the name of the log that one incarnation of a member writes (LOG-1)."""
    return tagged_hash("klal/log/1", space_id, member_id, incarnation)
