"""Who may say what. Rules MEM-6, MEM-8 and EPO-6 to EPO-9."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.model.acts import Admit, Certify, Expel, Hand, Leave, Retire, Return, Support, Take, Word
from klal.rules.closing import Spoken
from klal.rules.membership import (
    Electorate,
    Past,
    choices,
    fault_of,
    is_elected,
    may_name,
    members_of,
    taken_round,
    tally,
)
from klal.rules.merge import ChangeRef

ANA, BEN, CAL, DAN, EVA, FAY, GAL = MEMBERS = [bytes([n]) * 32 for n in range(1, 8)]
OTHER = b"\x77" * 32
CERTIFICATES = [b"\xc0" * 32, b"\xc1" * 32]
OPEN = 2  # Epochs 0 and 1 are decided in the past that words are judged by here.


def vote(voter: bytes, candidate: bytes, number: int = 1, epoch: int = OPEN, order: int = 0) -> Spoken:
    return Spoken(ChangeRef(voter[0], 0), voter, Support(epoch, number, candidate), (order,))


def votes_for(candidate: bytes, *voters: bytes, number: int = 1) -> list[Spoken]:
    return [vote(voter, candidate, number) for voter in voters]


def past(votes: Sequence[Spoken] = (), electorate: Electorate = ((ANA, BEN, CAL),), steward: bytes = ANA) -> Past:
    return Past(OPEN, lambda _: steward, lambda _: electorate, lambda _: votes, {ANA, BEN, CAL}, CERTIFICATES)


def fault(word: Word, who: bytes = ANA, closes: Sequence[int] = (), given: Past | None = None) -> str | None:
    return fault_of(word, who, closes, given or past())


# -- words about others --------------------------------------------------------------------


@pytest.mark.parametrize("word", [Retire(BEN, OPEN, "silent"), Expel(BEN, OPEN, "stole"), Hand(OPEN, BEN)])
def test_the_steward_alone_speaks_about_the_open_epoch_and_others_it_has_heard_of(word: Word) -> None:
    """MEM-6 EPO-6 EPO-7 W23."""
    assert fault(word) is None
    assert fault(word, BEN) == "was not said by the steward"
    assert fault(word, given=past(steward=b"")) == "was not said by the steward"
    for epoch in (OPEN - 1, OPEN + 1):
        wrong = Hand(epoch, BEN) if isinstance(word, Hand) else type(word)(BEN, epoch, "silent")
        assert fault(wrong) == f"is about epoch {epoch}, while epoch {OPEN} was open"
    for subject, why in ((ANA, "is about its own writer"), (DAN, "is about nobody it had heard of")):
        wrong = Hand(OPEN, subject) if isinstance(word, Hand) else type(word)(subject, OPEN, "silent")
        assert fault(wrong) == why


def test_anybody_may_come_back_admit_and_leave_who_finishes() -> None:
    """MEM-6 MEM-8 MEM-10."""
    assert fault(Return(), DAN) is None
    assert fault(Admit(DAN), BEN) is None
    assert fault(Leave(OPEN), BEN, [OPEN]) is None
    assert fault(Leave(OPEN), BEN, [OPEN - 1]) == "leaves without finishing"


def test_a_certificate_is_named_by_the_steward_of_its_epoch_if_it_follows() -> None:
    """EPO-8."""
    assert fault(Certify(1, CERTIFICATES[1])) is None
    assert fault(Certify(1, CERTIFICATES[1]), BEN) == "was not said by the steward"
    for epoch, certificate in ((1, CERTIFICATES[0]), (OPEN, CERTIFICATES[1])):
        assert fault(Certify(epoch, certificate)) == "names a certificate that does not follow from its past"


# -- votes ---------------------------------------------------------------------------------


def test_a_vote_is_of_and_for_a_member_of_the_epoch_and_of_no_later_one() -> None:
    """EPO-9: an epoch that is complete may be voted in, as its steward may be lost before it names the certificate."""
    assert fault(Support(OPEN, 1, BEN), CAL) is None
    assert fault(Support(OPEN - 1, 1, BEN), CAL) is None
    assert fault(Support(OPEN + 1, 1, BEN), CAL) == f"is about epoch {OPEN + 1}, while epoch {OPEN} was open"
    assert fault(Support(OPEN, 1, BEN), DAN) == "was not said by a member of the epoch"
    assert fault(Support(OPEN, 1, DAN), CAL) == "is for somebody who is no member of the epoch"


def test_epoch_0_has_one_round_and_elsewhere_none_is_skipped() -> None:
    """EPO-9."""
    assert fault(Support(0, 1, BEN), CAL) is None
    assert fault(Support(0, 2, BEN), CAL) == "is a second round, which epoch 0 has not"
    assert fault(Support(OPEN, 2, BEN), CAL) == "skips rounds after round 0"
    voted = past(votes_for(BEN, ANA))
    assert fault(Support(OPEN, 2, BEN), CAL, given=voted) is None
    assert fault(Support(OPEN, 3, BEN), CAL, given=voted) == "skips rounds after round 1"


def test_a_member_has_one_voice_in_a_round_the_first_it_gave() -> None:
    """EPO-9 W28: by the one order, and not by the order of hearing."""
    votes = [vote(ANA, BEN, order=2), vote(ANA, CAL, order=1), vote(ANA, BEN, number=2, order=3)]
    assert choices(votes) == choices(votes[::-1]) == {ANA: {1: CAL, 2: BEN}}
    assert tally(votes, {ANA}) == {1: {CAL: {ANA}}, 2: {BEN: {ANA}}}
    assert tally(votes, {BEN}) == {}


def test_it_takes_more_than_half_to_take_the_place_and_of_no_epoch_to_come() -> None:
    """EPO-9."""
    four = (ANA, BEN, CAL, DAN)
    half, more = votes_for(BEN, BEN, CAL), votes_for(BEN, BEN, CAL, DAN)
    assert fault(Take(OPEN, 1), BEN, given=past(half, [four])) == "has not the support of more than half"
    assert fault(Take(OPEN, 1), BEN, given=past(more, [four])) is None
    assert fault(Take(OPEN, 1), CAL, given=past(more, [four])) == "has not the support of more than half"
    assert fault(Take(OPEN, 2), BEN, given=past(more, [four])) == "has not the support of more than half"
    assert fault(Take(OPEN + 1, 1), BEN, given=past(more, [four])) is not None
    assert fault(Take(OPEN, 1), BEN, given=past(votes_for(BEN, BEN, OTHER, EVA), [four])) is not None


def test_two_elected_in_epoch_0_have_a_voter_in_common() -> None:
    """EPO-9 W18: whatever each of them knows of whom the founder has met."""
    met = [(ANA,), (BEN,), (CAL,), (DAN,), (EVA,), (FAY,), (GAL,)]
    first = votes_for(BEN, BEN, CAL)
    assert is_elected(0, 1, BEN, first, met[:3])
    others = votes_for(DAN, DAN, EVA, FAY, GAL)
    assert not is_elected(0, 1, DAN, others, met)
    assert is_elected(1, 1, DAN, others, [MEMBERS])
    assert not is_elected(0, 1, DAN, [*others, vote(ANA, DAN)], met)
    assert is_elected(0, 1, DAN, [*others, vote(ANA, DAN), vote(CAL, DAN)], met)
    # With fewer than three nobody is elected: whoever met the founder next could not know of it.
    assert not is_elected(0, 1, BEN, votes_for(BEN, ANA, BEN), met[:2])


@given(st.data())
def test_no_two_electorates_of_epoch_0_elect_two(data: st.DataObject) -> None:
    """EPO-9 W18: each member gives one voice, and each side sees as much of whom the founder met as it likes."""
    members = MEMBERS[: data.draw(st.integers(3, 7))]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(members) - 1))))
    met = [members[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(members)], strict=True)]
    chosen = [vote(member, data.draw(st.sampled_from([ANA, BEN]))) for member in members]

    elected = {
        candidate
        for candidate in (ANA, BEN)
        for count in range(1, len(met) + 1)
        if is_elected(0, 1, candidate, chosen, met[:count])
    }
    assert len(elected) <= 1


# -- putting one's name to a certificate -----------------------------------------------------


def test_who_voted_names_no_certificate_before_the_place_is_taken() -> None:
    """EPO-9."""
    five = MEMBERS[:5]
    votes = votes_for(BEN, BEN, CAL)
    assert may_name(votes, ANA, None, (), five)
    assert not may_name(votes, CAL, None, (), five)
    take = Spoken(ChangeRef(2, 9), BEN, Take(OPEN, 1), (9,))
    assert may_name(votes, CAL, take, (), five)
    assert (taken_round(take), taken_round(None)) == (1, 0)
    assert not may_name([*votes, vote(CAL, DAN, number=2)], CAL, take, (), five)


def test_a_vote_that_cannot_win_any_more_binds_nobody() -> None:
    """EPO-9: who has voted in the round or named a certificate does not vote in it for another."""
    five = MEMBERS[:5]
    votes = [*votes_for(BEN, BEN, CAL), *votes_for(DAN, DAN, EVA)]
    assert not may_name(votes, CAL, None, (), five)
    assert may_name(votes, CAL, None, {ANA}, five)
    assert may_name([*votes, vote(ANA, DAN)], CAL, None, (), five)
    assert not may_name([*votes, vote(ANA, DAN)], EVA, None, (), five)


def test_a_vote_for_who_has_named_the_certificate_binds_nobody() -> None:
    """EPO-9: whom it elects stands for the same certificate."""
    assert may_name(votes_for(BEN, BEN, CAL), CAL, None, {BEN}, MEMBERS[:5])
    assert not may_name(votes_for(BEN, BEN, CAL), CAL, None, {EVA}, MEMBERS[:5])


def test_an_electorate_is_all_its_groups() -> None:
    """EPO-9."""
    assert members_of([(ANA,), (BEN, CAL)]) == {ANA, BEN, CAL}
    assert members_of(()) == set()
