"""Who may say what about who belongs and who decides: each word is judged by its own past alone.

A word that its writer had no right to say is no fault of the change it stands in: the
rows beside it stand. It has no effect and is shown, the same on every replica, since
nothing but its past is asked.

What arrives later can put a word out of force (another steward has taken over), never a
verdict: those are two questions, and `rules.closing` answers the other.

Source:
    Protocol spec section 9, rules MEM-6 to MEM-11, and section 13, EPO-6 to EPO-9. Decisions D15, D21.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from klal.model.acts import Admit, Certify, Leave, Return, Support, Take, Word
from klal.rules.closing import Spoken, has_half

# In epoch 0, where an electorate is whom the founder has met: with fewer nobody could be elected without the founder,
# and an election among two could not be known of by those who meet the founder next.
FIRST_ELECTORATE_MIN = 3


Electorate = Sequence[Sequence[bytes]]
"""Who may vote: members in groups, in the order in which the founder met them; after epoch 0 they are one group."""


@dataclass(frozen=True, slots=True)
class Past:
    """What the change that a word stands in had seen, as far as words are judged by it.

    Shape:
        epoch: the first that is not decided in this past.
        steward_in: gives the steward of an epoch up to that one; empty bytes when the place is vacant.
        electorate_of: gives who may vote in such an epoch, as groups (EPO-9).
        votes_in: gives the votes of an epoch.
        known: members of whom there is a change in it.
        certificates: hashes that can be computed from this past, by epoch.
    """

    epoch: int
    steward_in: Callable[[int], bytes]
    electorate_of: Callable[[int], Electorate]
    votes_in: Callable[[int], Sequence[Spoken]]
    known: Collection[bytes] = ()
    certificates: Sequence[bytes] = ()


def fault_of(word: Word, member_id: bytes, closes: Collection[int], past: Past) -> str | None:
    """Return why a word has no effect, in a few words, or None if its writer had the right to say it.

    Args:
        word: What was said.
        member_id: Who said it.
        closes: Epochs that the same change closes.
        past: What its change had seen.
    """
    if isinstance(word, Return | Admit):
        return None
    if isinstance(word, Take):
        return _fault_of_take(word, member_id, past)
    if isinstance(word, Certify):
        return _fault_of_certify(word, member_id, past)
    if isinstance(word, Leave):
        return None if word.epoch in closes else "leaves without finishing"
    if isinstance(word, Support):
        return _fault_of_support(word, member_id, past)
    if word.epoch != past.epoch:
        return _is_about(word.epoch, past)
    if member_id != past.steward_in(past.epoch):
        return "was not said by the steward"
    if word.member == member_id:
        return "is about its own writer"
    return None if word.member in past.known else "is about nobody it had heard of"


def _is_about(epoch: int, past: Past) -> str:
    return f"is about epoch {epoch}, while epoch {past.epoch} was open"


def _fault_of_take(word: Take, member_id: bytes, past: Past) -> str | None:
    # Also of an epoch that is complete: those who voted in it wait for this before they name its certificate.
    if word.epoch > past.epoch:
        return _is_about(word.epoch, past)
    if is_elected(word.epoch, word.round, member_id, past.votes_in(word.epoch), past.electorate_of(word.epoch)):
        return None
    return "has not the support of more than half"


def _fault_of_certify(word: Certify, member_id: bytes, past: Past) -> str | None:
    if word.epoch >= len(past.certificates) or past.certificates[word.epoch] != word.certificate:
        return "names a certificate that does not follow from its past"
    return None if past.steward_in(word.epoch) == member_id else "was not said by the steward"


def _fault_of_support(word: Support, member_id: bytes, past: Past) -> str | None:
    # Also of an epoch that is complete: its steward may be lost before it has put its name to the certificate.
    if word.epoch > past.epoch:
        return _is_about(word.epoch, past)
    electorate = members_of(past.electorate_of(word.epoch))
    if member_id not in electorate:
        return "was not said by a member of the epoch"
    if word.candidate not in electorate:
        return "is for somebody who is no member of the epoch"
    # In epoch 0 nobody has been counted before: each further round might have another electorate.
    if word.epoch == 0 and word.round != 1:
        return "is a second round, which epoch 0 has not"
    newest = max((number for chosen in choices(past.votes_in(word.epoch)).values() for number in chosen), default=0)
    return None if word.round <= newest + 1 else f"skips rounds after round {newest}"


def members_of(electorate: Electorate) -> frozenset[bytes]:
    """Return everybody who may vote."""
    return frozenset(member_id for group in electorate for member_id in group)


def choices(votes: Iterable[Spoken]) -> dict[bytes, dict[int, bytes]]:
    """Return what each member voted: member -> round -> candidate. One voice for each, the first it gave (W28)."""
    found: dict[bytes, dict[int, bytes]] = {}
    for spoken in sorted(votes, key=lambda each: each.order):
        if isinstance(spoken.act, Support):
            found.setdefault(spoken.member_id, {}).setdefault(spoken.act.round, spoken.act.candidate)
    return found


def tally(votes: Iterable[Spoken], electorate: Collection[bytes]) -> Mapping[int, Mapping[bytes, frozenset[bytes]]]:
    """Return who supports whom: round -> candidate -> voters."""
    rounds: dict[int, dict[bytes, frozenset[bytes]]] = {}
    for voter, chosen in choices(votes).items():
        for number, candidate in chosen.items() if voter in electorate else ():
            candidates = rounds.setdefault(number, {})
            candidates[candidate] = candidates.get(candidate, frozenset()) | {voter}
    return rounds


def taken_round(take: Spoken | None) -> int:
    """Return the round of a Take, 0 where there is none."""
    return take.act.round if take is not None and isinstance(take.act, Take) else 0


def is_elected(epoch: int, number: int, candidate: bytes, votes: Iterable[Spoken], electorate: Electorate) -> bool:
    """True when more than half of the electorate support this candidate in this round (EPO-9).

    In epoch 0 others may elect at the same time with whom the founder had met before. They cannot, where at least
    half of each of these earlier electorates are among the supporters.
    """
    members = members_of(electorate)
    if epoch == 0 and len(members) < FIRST_ELECTORATE_MIN:
        return False
    voters = tally(votes, members).get(number, {}).get(candidate, frozenset())
    return 2 * len(voters) > len(members) and has_half(voters, electorate, FIRST_ELECTORATE_MIN)


def may_name(
    votes: Sequence[Spoken],
    member_id: bytes,
    take: Spoken | None,
    named_by: Collection[bytes],
    electorate: Collection[bytes],
) -> bool:
    """True when a member who may have voted in an epoch may name a certificate of it (EPO-9).

    Whoever voted for another steward names no certificate before that steward's place is taken, unless that steward
    has named it: this is what keeps two certificates of an epoch from being closed. A vote is void once its candidate
    can no longer win: who has voted in the round has no second voice in it, and who has named a certificate gives
    none but to another who has.
    """
    rounds = tally(votes, electorate)
    for number, candidate in choices(votes).get(member_id, {}).items():
        if number > taken_round(take) and candidate not in named_by:
            cast = rounds.get(number, {})
            free = set(electorate).difference(named_by, *cast.values())
            if 2 * (len(cast.get(candidate, ())) + len(free)) > len(electorate):
                return False
    return True
