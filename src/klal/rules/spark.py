"""What a light client holds and believes: one outline of a certificate, and why.

It believes a certificate because a person gave it the hash, or because it goes on from the
one believed before and cannot be given up any more: its steward has signed a receipt that
names it or a later one, and so have at least half of those who decide about its epoch.
Whatever else it is shown must lie under the outline it holds.

The one choice a reader would question: a certificate file is not enough. Its witness shows
that each member closed the epoch, and nobody's signature is on the rows root beside it; a
receipt that names the certificate's hash is.

Law: as long as members keep their word, no files make a `Spark` believe a certificate that
the space gives up, and none make it raise `ForkError`.

Source:
    Protocol spec section 13, rules SPK-1 to SPK-3, EPO-5 (W7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import msgspec

from klal.errors import ForkError, IncompleteError, LinkError, MalformedError
from klal.model.certificate import NO_MEMBER, Outline
from klal.model.codec import pack, unpack
from klal.model.proof import NamedClaim, Proof, Step, named_by

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
        LinkError: It does not go on from the certificate that is believed.
        IncompleteError: The next certificate may still be given up.
    """
    claim = proof.claim
    assert isinstance(claim, NamedClaim), "only who named a certificate moves a belief"
    naming = named_by(proof.certificate, claim)
    held = belief.outline
    if proof.certificate.space_id != held.space_id:
        raise LinkError("that certificate is of another space", rule="SPK-2")
    hashes = [step.outline.hash for step in claim.steps]
    if held.hash not in hashes:
        _refuse(belief, claim, naming)
    at = hashes.index(held.hash)
    if at == len(hashes) - 1:
        members = claim.steps[at].members
        return _with_more(belief, len(naming[at].intersection(members)), len(members))
    for place in range(at + 1, len(hashes)):
        lacking = _lacking(claim.steps[place - 1], claim.steps[place], naming[place])
        if lacking and place == at + 1:
            raise IncompleteError(lacking, epoch=claim.steps[place].outline.epoch, rule="SPK-2")
        if lacking:
            break
        voices = claim.steps[place - 1].electorate
        belief = Belief(claim.steps[place].outline, len(naming[place] & voices), len(voices))
    return belief


def _with_more(belief: Belief, named_count: int, of_count: int) -> Belief:
    """Return the same certificate, believed on more members' word than before if these are."""
    is_more = 2 * named_count > of_count and named_count > belief.named_count
    return Belief(belief.outline, named_count, of_count) if is_more else belief


def _lacking(before: Step, step: Step, naming: frozenset[bytes]) -> str:
    """Return what keeps a certificate from being settled, or "": its steward's name, or those of half (EPO-5)."""
    voices, steward = before.electorate, step.outline.steward
    count, number = len(voices & naming), step.outline.epoch
    # Half with the steward: more cannot be asked for, since an epoch may go on with half. Without one, more than half.
    if 2 * count < len(voices) or (steward == NO_MEMBER and 2 * count == len(voices)):
        return f"{count} of {len(voices)} members have named the certificate of epoch {number}, want at least half"
    if steward not in (NO_MEMBER, *naming):
        return f"the steward of epoch {number} has not named its certificate"
    return ""


def _refuse(belief: Belief, claim: NamedClaim, naming: Sequence[frozenset[bytes]]) -> NoReturn:
    """Refuse steps in which the certificate that is believed is not.

    They are evidence only where another certificate of its epoch is settled: one that was given up may have had names.
    """
    held, first = belief.outline, claim.steps[0].outline
    second = claim.steps[1] if len(claim.steps) > 1 and first.hash == held.previous else None
    if second is not None and not _lacking(claim.steps[0], second, naming[1]):
        other = second.outline
        if belief.of_count:
            raise ForkError(
                f"members signed for two certificates of epoch {held.epoch}",
                rule="SPK-2",
                evidence=(held.hash, other.hash),
            )
        raise LinkError(
            f"members signed for the certificate {other.hash.hex()[:8]} of epoch {held.epoch}, and held on a person's"
            f" word is {held.hash.hex()[:8]}",
            rule="SPK-2",
            hint="a certificate that was complete and not closed can be given up: begin a spark with the other's hash",
        )
    raise LinkError(
        f"that goes on from the certificate {first.hash.hex()[:8]} of epoch {first.epoch},"
        f" and held is {held.hash.hex()[:8]} of epoch {held.epoch}",
        rule="SPK-2",
    )


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
