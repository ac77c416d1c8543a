"""What a light client holds and believes: one outline of a certificate, and why.

It believes a certificate because a person gave it the hash, or because more than half of
the members counted in the one it believed before have signed receipts that name it, and its
chain goes on from that one. Whatever else it is shown must lie under the outline it holds.

The one choice a reader would question: a certificate file is not enough. Its witness shows
that each member closed the epoch, and nobody's signature is on the rows root beside it; a
receipt that names the certificate's hash is.

Law: from a true certificate no number of files makes a `Spark` believe another of the same
epoch, unless more than half of the members signed for both.

Source:
    Protocol spec section 13, rules SPK-1 to SPK-3 (W7).
"""

from __future__ import annotations

import msgspec

from klal.errors import ForkError, IncompleteError, LinkError, MalformedError
from klal.model.certificate import Outline
from klal.model.codec import pack, unpack
from klal.model.proof import NamedClaim, Proof, named_by

SPARK_MAGIC = b"klal spark 1\n"
SPARK_SIZE_MAX = 1 << 12


class Belief(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a light client holds.

    Shape:
        named_count: how many of `of_count` members signed for it; both 0 where a person's word is all there is.
    """

    outline: Outline
    named_count: int = 0
    of_count: int = 0

    def encode(self) -> bytes:
        """Return the bytes of its file."""
        return SPARK_MAGIC + pack(self)


def decode_belief(data: bytes) -> Belief:
    """Return what a light client's file holds.

    Raises:
        RefusedError: SPK-1.
    """
    if not data.startswith(SPARK_MAGIC):
        raise MalformedError("this is not the file of a spark: its first line is another", rule="SPK-1")
    belief = unpack(data[len(SPARK_MAGIC) :], Belief, "spark", SPARK_SIZE_MAX)
    if not belief.outline.is_formed or not 0 <= belief.named_count <= belief.of_count:
        raise MalformedError("spark has a field out of bounds", rule="SPK-1")
    return belief


def advance(belief: Belief, proof: Proof) -> Belief:
    """Return what is believed once a checked proof says who named which certificate (SPK-2).

    Raises:
        ForkError: Members signed for another certificate of the same epoch; `evidence` is both hashes.
        LinkError: It does not begin with the certificate that is believed.
        IncompleteError: Not more than half of the members have named it yet.
    """
    claim, newer = proof.claim, proof.certificate
    assert isinstance(claim, NamedClaim), "only who named a certificate moves a belief"
    held = belief.outline
    names = named_by(newer, claim)
    if newer.space_id != held.space_id:
        raise LinkError("that certificate is of another space", rule="SPK-2")
    if newer.epoch == held.epoch and newer.hash != held.hash and names:
        raise ForkError(
            f"members signed for two certificates of epoch {held.epoch}", rule="SPK-2", evidence=(held.hash, newer.hash)
        )
    earlier = newer if claim.earlier is None else claim.earlier.outline
    if earlier.hash != held.hash:
        raise LinkError(
            f"that is shown to follow the certificate {earlier.hash.hex()[:8]} of epoch {earlier.epoch},"
            f" and held is {held.hash.hex()[:8]} of epoch {held.epoch}",
            rule="SPK-2",
        )
    if 2 * len(names) <= held.member_count:
        raise IncompleteError(
            f"{len(names)} of {held.member_count} members have named the certificate of epoch {newer.epoch},"
            " want more than half",
            epoch=newer.epoch,
            rule="SPK-2",
        )
    return Belief(newer, len(names), held.member_count)


def require_under(belief: Belief, proof: Proof) -> None:
    """Return if a checked proof is about the certificate that is believed, or one in its chain (SPK-3).

    Raises:
        LinkError: SPK-3.
    """
    held = belief.outline
    if held.hash not in (proof.certificate.hash, proof.anchor.hash):
        anchor = proof.anchor
        raise LinkError(
            f"that is under the certificate {anchor.hash.hex()[:8]} of epoch {anchor.epoch},"
            f" and held is {held.hash.hex()[:8]} of epoch {held.epoch}",
            rule="SPK-3",
        )
