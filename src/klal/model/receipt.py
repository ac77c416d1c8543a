"""A receipt: signed and numbered, outside the logs: this I durably hold.

Not the receipts of COSE or SCITT. Receipts never cause receipts, and only the newest of
each log counts, so a fleet of n replicas keeps n of them.

Source:
    Protocol spec section 8, rules RCP-1 to RCP-4.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from klal.errors import MalformedError
from klal.model.codec import HASH_SIZE, SEQ_MAX, UNIX_MS_MAX, pack, tagged_hash, unpack
from klal.model.header import NO_CERTIFICATE
from klal.model.keys import INCARNATION_SIZE, MEMBER_ID_SIZE, SigningKey, check_signature, log_id_of

_TAG = "klal/receipt/1"
RECEIPT_SIZE_MAX = (1 << 20) - 4096  # One receipt and its frame's head fit FRAME_SIZE_MAX.


class HeldHead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One named header: (log id, length, header hash)."""

    log_id: bytes
    length: int
    head_hash: bytes


class Statement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a receipt says.

    Shape:
        member_id, incarnation: together they name the log whose replica speaks.
        number: rises with every receipt of that log; the greatest counts (RCP-2).
        unix_ms: the speaker's clock, an annotation.
        heads: maximal applied headers; the speaker holds each with all its past, payloads included.
        parked: prefixes held with payloads but waiting; their own log only.
        certificate: newest certificate the speaker computed, or 32 zero bytes.
    """

    member_id: bytes
    incarnation: bytes
    number: int
    unix_ms: int
    heads: tuple[HeldHead, ...]
    parked: tuple[HeldHead, ...]
    certificate: bytes = NO_CERTIFICATE


@dataclass(frozen=True, slots=True)
class Receipt:
    """A statement as signed bytes, with what they say."""

    body: bytes
    signature: bytes
    statement: Statement

    @staticmethod
    def decode(body: bytes, signature: bytes) -> Receipt:
        """Return the receipt that these bytes spell; its signature is not checked here.

        Raises:
            MalformedError: RCP-1.
        """
        statement = unpack(body, Statement, "receipt", RECEIPT_SIZE_MAX)
        sizes_are_right = (
            len(statement.member_id) == MEMBER_ID_SIZE
            and len(statement.incarnation) == INCARNATION_SIZE
            and len(statement.certificate) == HASH_SIZE
            and 0 <= statement.number <= SEQ_MAX
            and 0 <= statement.unix_ms <= UNIX_MS_MAX
            and all(
                len(head.log_id) == HASH_SIZE and len(head.head_hash) == HASH_SIZE and 1 <= head.length <= SEQ_MAX
                for head in (*statement.heads, *statement.parked)
            )
        )
        if not sizes_are_right:
            raise MalformedError("receipt has a field of a wrong size", rule="RCP-1")
        return Receipt(body, signature, statement)

    def check(self, space_id: bytes) -> None:
        """Return if the member it names signed it.

        Raises:
            SignatureError: RCP-1.
        """
        member_id = self.statement.member_id
        what = f"receipt {self.statement.number} of {member_id.hex()[:8]}"
        check_signature(member_id, self.signature, what, _TAG, space_id, self.body)

    def log_id(self, space_id: bytes) -> bytes:
        """Return the log whose replica speaks."""
        return log_id_of(space_id, self.statement.member_id, self.statement.incarnation)


def make_receipt(key: SigningKey, space_id: bytes, statement: Statement) -> Receipt:
    """Return `statement`, signed."""
    body = pack(statement)
    return Receipt(body, key.sign(_TAG, space_id, body), statement)


def receipts_root(receipts: dict[bytes, Receipt]) -> bytes:
    """Return one hash over the newest receipt of each log (RCP-4), by which two sides compare them."""
    bodies = (tagged_hash(_TAG, receipts[log_id].body) for log_id in sorted(receipts))
    return tagged_hash("klal/receipts/1", *bodies)
