"""A receipt: signed and numbered, outside the logs: this I durably hold.

Not the receipts of COSE or SCITT. Receipts never cause receipts, and only the newest of
each log counts, so a fleet of n replicas keeps n of them. What lies in the cut of the
certificate that one names is not listed again: n replicas that closed their books and rest
would name n heads each.

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
NONCE_SIZE = 16
HEAD_COUNT_MAX = 4096  # Of the applied, and of the parked: with all else that a receipt can hold they fit into one.
PROOF_COUNT_MAX = 256  # Each costs its giver one reading of all payloads.
KEEPER_COUNT_MAX = 256


class HeldHead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One named header: (log id, length, header hash)."""

    log_id: bytes
    length: int
    head_hash: bytes


class Question(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A question whether another has the payloads below a cut: (certificate, certificate before, nonce).

    Shape:
        certificate: names the epoch whose cut it is about.
        above: names an epoch below whose cut it does not ask, or 32 zero bytes.
        nonce: 16 random bytes, so that no answer can be kept ready.
    """

    certificate: bytes
    above: bytes
    nonce: bytes


class Proof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An answer to the question of one log, which also promises to keep what it is about: (log id, nonce, digest)."""

    log_id: bytes
    nonce: bytes
    digest: bytes


class Copy(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a replica says about old payloads.

    Shape:
        compacted: names the epoch below whose cut row payloads are not held, or 32 zero bytes.
        keepers: members whose copies it relies on for that, ascending.
        questions: one at most.
        proofs: ascending by log id.
    """

    compacted: bytes = NO_CERTIFICATE
    keepers: tuple[bytes, ...] = ()
    questions: tuple[Question, ...] = ()
    proofs: tuple[Proof, ...] = ()

    @property
    def is_right(self) -> bool:
        """True when every field has its size and every list its order."""
        hashes = [self.compacted]
        hashes.extend(each for question in self.questions for each in (question.certificate, question.above))
        hashes.extend(each for proof in self.proofs for each in (proof.log_id, proof.digest))
        nonces = [question.nonce for question in self.questions] + [proof.nonce for proof in self.proofs]
        logs = [proof.log_id for proof in self.proofs]
        return (
            all(len(each) == HASH_SIZE for each in hashes)
            and all(len(nonce) == NONCE_SIZE for nonce in nonces)
            and all(len(member_id) == MEMBER_ID_SIZE for member_id in self.keepers)
            and len(self.questions) <= 1
            and len(self.proofs) <= PROOF_COUNT_MAX
            and len(self.keepers) <= KEEPER_COUNT_MAX
            and sorted(set(logs)) == logs
            and sorted(set(self.keepers)) == list(self.keepers)
        )


class Statement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a receipt says.

    Shape:
        member_id, incarnation: together they name the log whose replica speaks.
        number: rises with every receipt of that log; the greatest counts (RCP-2).
        unix_ms: the speaker's clock, an annotation.
        heads: maximal applied headers outside the cut of `certificate`; the speaker holds each with all its past,
            payloads included but for what `copy` leaves out.
        parked: prefixes held with payloads but waiting; their own log only.
        certificate: newest certificate the speaker computed and may name, or 32 zero bytes; it holds its cut.
        copy: what of old payloads it does not hold, asks others for, and has shown that it holds.
    """

    member_id: bytes
    incarnation: bytes
    number: int
    unix_ms: int
    heads: tuple[HeldHead, ...]
    parked: tuple[HeldHead, ...]
    certificate: bytes = NO_CERTIFICATE
    copy: Copy = Copy()

    @property
    def content(self) -> tuple[object, ...]:
        """What it says, number and clock aside (RCP-3)."""
        return self.heads, self.parked, self.certificate, self.copy


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
            and statement.copy.is_right
            and max(len(statement.heads), len(statement.parked)) <= HEAD_COUNT_MAX
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
