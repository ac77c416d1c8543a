"""A seal: a member's signature over the length and head of one of its logs.

One signature covers the whole chain below it, which is why changes carry none of their
own. A change is *held* only when it lies under a seal that is held here too.

Source:
    Protocol spec section 7, rules SEA-1 and SEA-2.
"""

from __future__ import annotations

from dataclasses import dataclass

from klal.model.keys import SigningKey, check_signature

SEAL_EVERY_COUNT = 1024  # A log is sealed at least this often, so that a cut never strands more.

_TAG = "klal/seal/1"


@dataclass(frozen=True, slots=True)
class Seal:
    """(log, length, head hash), signed by the log's member."""

    log_id: bytes
    length: int
    head_hash: bytes
    signature: bytes

    def check(self, space_id: bytes, member_id: bytes) -> None:
        """Return if `member_id`, the log's member, made this seal.

        Raises:
            SignatureError: SEA-1.
        """
        length = self.length.to_bytes(8, "big")
        what = f"seal of {self.log_id.hex()[:8]} at {self.length}"
        check_signature(member_id, self.signature, what, _TAG, space_id, self.log_id, length, self.head_hash)


def make_seal(key: SigningKey, space_id: bytes, log_id: bytes, length: int, head_hash: bytes) -> Seal:
    """Return the seal of a log at `length`, whose last header hashes to `head_hash`."""
    signature = key.sign(_TAG, space_id, log_id, length.to_bytes(8, "big"), head_hash)
    return Seal(log_id, length, head_hash, signature)
