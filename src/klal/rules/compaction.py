"""Before payloads are put down: whether others have them, and promise to keep them.

A receipt is a claim, and a replica that drops on a claim may drop the last copy. So it asks a
question with fresh dice, and whoever holds every payload below the cut answers with a hash
that nobody can make without reading all of them after the dice fell. The answer is also a
promise: as long as the question stands, or its asker names the member among its keepers, that
member puts nothing down. Two who ask at once settle it by a draw; the loser takes its question
back and answers. So however many compact, and however they race, k honest copies remain.

The choice a reader would question: all bytes are read, and not some slices chosen by the dice.
A copy that lacks one slice in a million is no copy (W19), and hashing a gigabyte takes seconds.

Law: among honest members, the keepers of whoever compacted hold everything.

Source:
    Protocol spec section 8, rules CMP-7 to CMP-10 (W14, T19, S58). Decision D17.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from klal.model.codec import tagged_hash
from klal.model.receipt import Copy, Proof, Question

_TALLY = b"klal/copy-bytes/1\0"
_DIGEST = "klal/copy/1"
_DRAW = "klal/keep/1"


@dataclass(frozen=True, slots=True)
class Word:
    """What the newest receipt of one log says of old payloads."""

    log_id: bytes
    member_id: bytes
    copy: Copy


@dataclass(frozen=True, slots=True)
class Answers:
    """What came of a question, each list ascending: who has proven a copy, and whose answer is wrong."""

    proven: tuple[bytes, ...]
    wrong: tuple[bytes, ...]


def tally_of(nonce: bytes, payloads: Iterable[bytes]) -> bytes:
    """Return the hash over a nonce and, after it, every payload byte (CMP-8)."""
    found = sha256(_TALLY + nonce)
    for data in payloads:
        found.update(data)
    return found.digest()


def digest_of(space_id: bytes, question: Question, holder: bytes, tally: bytes) -> bytes:
    """Return a holder's answer: its own, so that nobody can pass on what another said."""
    return tagged_hash(_DIGEST, space_id, question.certificate, question.above, question.nonce, holder, tally)


def draw_of(certificate: bytes, member_id: bytes) -> bytes:
    """Return by what one goes before another where only one of them can: no key is favoured over the epochs (W24)."""
    return tagged_hash(_DRAW, certificate, member_id)


def answers(words: Iterable[Word], asker: Word, question: Question, digests: Mapping[bytes, bytes]) -> Answers:
    """Return who has answered a question.

    Args:
        words: Every log's.
        asker: The one that asks; its other logs are no others (W28).
        question: What it asks.
        digests: Member id -> the right answer.
    """
    proven: set[bytes] = set()
    wrong: set[bytes] = set()
    for word in words:
        for proof in word.copy.proofs:
            if (proof.log_id, proof.nonce) == (asker.log_id, question.nonce) and word.member_id != asker.member_id:
                (proven if proof.digest == digests.get(word.member_id) else wrong).add(word.member_id)
    return Answers(tuple(sorted(proven)), tuple(sorted(wrong - proven)))


def chosen(certificate: bytes, proven: Collection[bytes], words: Iterable[Word], count: int) -> tuple[bytes, ...]:
    """Return `count` keepers, ascending: first those who keep for others already, then by the draw.

    All the others are free again, so that a fleet comes down to as many copies as it wants.
    """
    kept: dict[bytes, int] = {}
    for word in words:
        for member_id in word.copy.keepers:
            kept[member_id] = kept.get(member_id, 0) + 1
    order = sorted(proven, key=lambda member_id: (-kept.get(member_id, 0), draw_of(certificate, member_id)))
    return tuple(sorted(order[:count]))


def bound_to(words: Iterable[Word], me: Word) -> tuple[bytes, ...]:
    """Return the members for whom this one keeps its copy, ascending (CMP-9)."""
    answered = {(proof.log_id, proof.nonce) for proof in me.copy.proofs}
    found: set[bytes] = set()
    for word in words:
        asks = any((word.log_id, question.nonce) in answered for question in word.copy.questions)
        if word.member_id != me.member_id and (asks or me.member_id in word.copy.keepers):
            found.add(word.member_id)
    return tuple(sorted(found))


def goes_first(theirs: Word, mine: Word) -> bool:
    """True when this member's own open question gives way to another's."""
    (ours,) = mine.copy.questions
    (other,) = theirs.copy.questions
    return draw_of(other.certificate, theirs.member_id) < draw_of(ours.certificate, mine.member_id)


def standing(words: Iterable[Word], me: Word) -> dict[tuple[bytes, bytes], Proof]:
    """Return this member's answers whose question still stands, by (log id, nonce)."""
    asked = {(word.log_id, question.nonce) for word in words for question in word.copy.questions}
    return {(each.log_id, each.nonce): each for each in me.copy.proofs if (each.log_id, each.nonce) in asked}
