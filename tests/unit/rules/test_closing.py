"""Cuts of epochs. Rules EPO-1 to EPO-8."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from klal.model.acts import Admit, Expel, Hand, Leave, Retire, Take, Word
from klal.rules.closing import (
    NOTHING,
    Cut,
    Entry,
    Gone,
    Ground,
    Open,
    Said,
    Spoken,
    covers,
    cut_of,
    has_half,
    steward_of,
    uncounted,
    undoes,
)
from klal.rules.merge import ChangeRef

ANA, BEN, MIRA = (bytes([n]) * 32 for n in (1, 2, 3))


class History:
    """A small history in which every change says what it had seen."""

    def __init__(self) -> None:
        self.vectors: dict[ChangeRef, dict[int, int]] = {}
        self.lengths: dict[int, int] = {}

    def change(self, log: int, *seen: ChangeRef) -> ChangeRef:
        seq = self.lengths.get(log, 0)
        vector: dict[int, int] = dict(self.vectors.get(ChangeRef(log, seq - 1), {}))
        if seq:
            vector[log] = seq
        for other in seen:
            for index, length in {**self.vectors[other], other.log: other.seq + 1}.items():
                vector[index] = max(vector.get(index, 0), length)
        ref = ChangeRef(log, seq)
        self.vectors[ref] = vector
        self.lengths[log] = seq + 1
        return ref

    def vector(self, ref: ChangeRef) -> Mapping[int, int]:
        return self.vectors[ref]


def cut_after(
    history: History, joins: list[Entry], closes: dict[bytes, ChangeRef], previous: Cut = NOTHING
) -> Cut | Open:
    said = Said({member: [close] for member, close in closes.items()})
    return cut_of(previous, said, Ground(ANA, lambda: joins, history.vector))


def test_an_epoch_of_one_is_its_founders_past() -> None:
    """EPO-3, W20: the smallest epoch there is."""
    history = History()
    join = Entry(ANA, history.change(1))
    close = history.change(1)

    cut = cut_after(history, [join], {ANA: close})

    assert cut == Cut(0, {1: 2}, (ANA,), {ANA: close}, steward=ANA, steward_next=ANA)


def test_one_members_silence_holds_the_epoch_open_whoever_the_others_are() -> None:
    """EPO-3, W10, W27: and it is named."""
    history = History()
    joins = [Entry(ANA, history.change(1))]
    joins.append(Entry(BEN, history.change(2, joins[0].change)))
    joins.append(Entry(MIRA, history.change(3, joins[0].change)))
    closes = {ANA: history.change(1, joins[1].change, joins[2].change), BEN: history.change(2)}

    assert cut_after(history, joins, closes) == Open((MIRA,))
    assert cut_after(history, joins, {}) == Open((ANA,))
    assert cut_after(history, joins, {MIRA: history.change(3)}) == Open((ANA,))


def test_every_close_that_is_counted_is_needed_and_no_other() -> None:
    """W27: all are required, one who has them all suffices."""
    history = History()
    joins = [Entry(ANA, history.change(1))]
    joins.append(Entry(BEN, history.change(2, joins[0].change)))
    closes = {ANA: history.change(1, joins[1].change), BEN: history.change(2)}

    cut = cut_after(history, joins, closes)

    assert isinstance(cut, Cut)
    assert cut.counted == (ANA, BEN)
    for member in (ANA, BEN):
        fewer = {other: close for other, close in closes.items() if other != member}
        assert cut_after(history, joins, fewer) == Open((member,))


def test_a_join_that_no_counted_close_had_seen_is_counted_in_a_later_epoch() -> None:
    """EPO-3: nobody can be waited for whom no finished member had met."""
    history = History()
    joins = [Entry(ANA, history.change(1))]
    close = history.change(1)
    joins.append(Entry(BEN, history.change(2, joins[0].change)))

    first = cut_after(history, joins, {ANA: close})
    assert isinstance(first, Cut)
    assert first.counted == (ANA,)

    closes = {ANA: history.change(1, joins[1].change)}
    assert cut_after(history, joins, closes, first) == Open((BEN,))


def test_a_join_seen_by_a_joiner_who_was_seen_is_counted_too() -> None:
    """EPO-3: joins are taken until nothing is added."""
    history = History()
    joins = [Entry(ANA, history.change(1))]
    joins.append(Entry(BEN, history.change(2, joins[0].change)))
    joins.append(Entry(MIRA, history.change(3, joins[1].change)))
    closes = {ANA: history.change(1, joins[1].change), BEN: history.change(2, joins[2].change)}

    assert cut_after(history, joins, closes) == Open((MIRA,))

    closes[MIRA] = history.change(3)
    cut = cut_after(history, joins, closes)
    assert isinstance(cut, Cut)
    assert cut.counted == (ANA, BEN, MIRA)


def test_work_after_a_close_is_in_the_cut_only_if_another_close_had_seen_it() -> None:
    """EPO-3: the cut is closed under pasts, and so consistent."""
    history = History()
    joins = [Entry(ANA, history.change(1))]
    joins.append(Entry(BEN, history.change(2, joins[0].change)))
    early = history.change(1, joins[1].change)
    seen = history.change(1)
    history.change(1)
    closes = {ANA: early, BEN: history.change(2, seen)}

    cut = cut_after(history, joins, closes)

    assert isinstance(cut, Cut)
    assert cut.lengths == {1: 3, 2: 2}


def test_a_past_covers_a_cut_when_it_holds_every_close_of_it() -> None:
    """EPO-4."""
    cut = Cut(0, {1: 5, 2: 3}, (ANA, BEN), {ANA: ChangeRef(1, 4), BEN: ChangeRef(2, 2)})

    assert covers({1: 5, 2: 3}, cut)
    assert covers({1: 9, 2: 9, 3: 1}, cut)
    assert not covers({1: 5, 2: 2}, cut)
    assert not covers({1: 5}, cut)
    assert covers({}, NOTHING)


@given(st.randoms(use_true_random=False))
def test_the_cut_is_closed_under_pasts_and_alike_whatever_the_order_of_joins(random: Random) -> None:
    """EPO-3, W1, W24: drawn fleets, two epochs; members are counted in the order of their ids alone."""
    history = History()
    members = [bytes([n]) * 32 for n in range(1, random.randint(2, 5))]
    joins = [Entry(ANA, history.change(1))]
    heads = [joins[0].change]
    for index, member in enumerate(members[1:], 2):
        join = history.change(index, random.choice(heads))
        joins.append(Entry(member, join))
        heads.append(join)
    previous = NOTHING
    for _ in range(2):
        for _ in range(random.randint(0, 12)):
            heads.append(history.change(random.randint(1, len(members)), random.choice(heads)))
        closes = {}
        for index, member in enumerate(members, 1):
            if random.random() < 0.9:
                closes[member] = history.change(index, random.choice(heads))
        cut = cut_after(history, joins, closes, previous)
        shuffled = random.sample(joins, len(joins))
        assert cut_after(history, shuffled, dict(reversed(closes.items())), previous) == cut
        if not isinstance(cut, Cut):
            assert cut.waiting == tuple(sorted(cut.waiting))
            assert not set(cut.waiting) & set(closes)
            return
        for log, length in cut.lengths.items():
            for index, seen in history.vector(ChangeRef(log, length - 1)).items():
                assert seen <= cut.lengths.get(index, 0)
        assert all(cut.lengths.get(log, 0) >= length for log, length in previous.lengths.items())
        assert covers(cut.lengths, cut)
        previous = cut


# -- going on without somebody -----------------------------------------------------------


class Talk:
    """Epoch 0 of ana, ben and mira, whose founder is ana, and what they say about it."""

    def __init__(self) -> None:
        self.history = History()
        self.joins = [Entry(ANA, self.history.change(1))]
        self.joins.append(Entry(BEN, self.history.change(2, self.joins[0].change)))
        self.joins.append(Entry(MIRA, self.history.change(3, self.joins[0].change)))
        self.history.change(1, self.joins[1].change, self.joins[2].change)
        self.closes: dict[bytes, list[ChangeRef]] = {}
        self.words: list[Spoken] = []

    def close(self, member_id: bytes, *seen: ChangeRef) -> ChangeRef:
        close = self.history.change(member_id[0], *seen)
        self.closes.setdefault(member_id, []).append(close)
        return close

    def say(self, member_id: bytes, word: Word, *seen: ChangeRef, order: int | None = None) -> ChangeRef:
        """Let a member say a word; by default the order is that of saying."""
        change = self.history.change(member_id[0], *seen)
        place = (len(self.words) if order is None else order,)
        self.words.append(Spoken(change, member_id, word, place))
        self.words.sort(key=lambda each: each.order)
        return change

    @property
    def said(self) -> Said:
        return Said(self.closes, self.words)

    @property
    def ground(self) -> Ground:
        return Ground(ANA, lambda: self.joins, self.history.vector)

    def removed(self, previous: Cut = NOTHING) -> dict[bytes, str]:
        return uncounted(previous, self.said, self.ground)

    def cut(self, previous: Cut = NOTHING) -> Cut | Open:
        return cut_of(previous, self.said, self.ground)


def test_an_epoch_goes_on_without_whom_its_steward_retired_or_expelled() -> None:
    """EPO-7."""
    talk = Talk()
    talk.say(ANA, Retire(MIRA, 0, "silent"))
    talk.close(ANA)
    talk.close(BEN)

    cut = talk.cut()
    assert isinstance(cut, Cut)
    assert (cut.counted, cut.gone) == ((ANA, BEN), (Gone(MIRA, "retired", 0, "silent", is_counted=False),))
    assert cut.members == (ANA, BEN)
    talk.say(ANA, Expel(MIRA, 0, "stole"))
    assert talk.removed() == {MIRA: "expelled"}


def test_nobody_but_the_steward_retires_and_nobody_retires_the_steward() -> None:
    """EPO-7: a steward in force is not gone on without, whoever said so while another was."""
    talk = Talk()
    talk.say(BEN, Retire(MIRA, 0, "silent"))
    assert talk.removed() == {}

    talk.say(BEN, Take(0, 1))
    talk.say(BEN, Retire(ANA, 0, "silent"))
    assert talk.removed() == {ANA: "retired", MIRA: "retired"}
    talk.say(BEN, Retire(BEN, 0, "silent"))
    assert talk.removed() == {ANA: "retired", MIRA: "retired"}


def test_a_retire_that_had_seen_the_close_is_void_and_an_expulsion_counts_it() -> None:
    """EPO-7: where neither saw the other the retire wins."""
    talk = Talk()
    close = talk.close(MIRA)
    seen = Talk()
    seen.say(ANA, Retire(MIRA, 0, "silent"), seen.close(MIRA))
    assert seen.removed() == {}

    talk.say(ANA, Retire(MIRA, 0, "silent"))
    assert talk.removed() == {MIRA: "retired"}
    talk = Talk()
    close = talk.close(MIRA)
    talk.say(ANA, Expel(MIRA, 0, "stole"), close)
    talk.close(ANA)
    talk.close(BEN)
    assert talk.removed() == {}
    cut = talk.cut()
    assert isinstance(cut, Cut)
    assert cut.gone == (Gone(MIRA, "expelled", 0, "stole", is_counted=True),)


def test_an_admit_takes_back_only_a_word_that_it_had_seen() -> None:
    """EPO-7: and only the steward's, about the same member."""
    talk = Talk()
    word = talk.say(ANA, Retire(MIRA, 0, "silent"))
    talk.say(BEN, Admit(MIRA), word)
    talk.say(ANA, Admit(BEN))
    assert talk.removed() == {MIRA: "retired"}
    talk.say(ANA, Admit(MIRA))
    assert talk.removed() == {}

    early = Talk()
    early.say(ANA, Admit(MIRA))
    early.say(ANA, Retire(MIRA, 0, "silent"))
    assert early.removed() == {MIRA: "retired"}


def test_the_take_of_the_highest_round_is_in_force_and_of_several_the_first_in_the_one_order() -> None:
    """EPO-6: whatever order they are given in."""
    talk = Talk()
    takes = {order: talk.say(who, Take(0, number), order=order) for order, who, number in ((2, BEN, 1), (1, MIRA, 1))}
    assert steward_of(NOTHING, talk.said, ANA) == MIRA
    assert steward_of(NOTHING, Said({}, talk.words[::-1]), ANA) == MIRA
    talk.say(BEN, Take(0, 2), order=9)
    assert steward_of(NOTHING, talk.said, ANA) == BEN
    assert len(takes) == 2


def test_without_a_take_it_is_whom_the_cut_before_gave() -> None:
    """EPO-6: the founder first."""
    assert steward_of(NOTHING, Said({}), ANA) == ANA
    assert steward_of(Cut(0, {}, (ANA,), {}, steward_next=BEN), Said({}), ANA) == BEN
    assert steward_of(Cut(0, {}, (ANA,), {}), Said({}), ANA) == b""


def test_the_place_goes_to_the_last_heir_who_stays() -> None:
    """EPO-6: one who leaves, or is no member, inherits nothing."""
    talk = Talk()
    talk.say(ANA, Hand(0, BEN))
    talk.say(ANA, Hand(0, MIRA))
    mira = talk.close(MIRA)
    talk.words.append(Spoken(mira, MIRA, Leave(0), (99,)))
    for member_id in (ANA, BEN):
        talk.close(member_id)

    cut = talk.cut()
    assert isinstance(cut, Cut)
    assert (cut.steward, cut.steward_next, cut.members) == (ANA, BEN, (ANA, BEN))


def test_fewer_than_half_of_any_leading_stretch_are_too_few() -> None:
    """EPO-8."""
    assert has_half({ANA}, [[ANA], [BEN]])
    assert not has_half({ANA}, [[ANA], [BEN], [MIRA]])
    assert not has_half({ANA, b"x", b"y", b"z"}, [[ANA], [BEN], [MIRA], [b"x", b"y", b"z"]])
    assert has_half({ANA, b"x", b"y", b"z"}, [[ANA, BEN, MIRA, b"x", b"y", b"z"]])
    assert has_half({BEN, MIRA}, [[ANA], [BEN], [MIRA]], size_min=3)
    assert not has_half({BEN, MIRA}, [[ANA], [BEN], [MIRA]])

    talk = Talk()
    for member_id in (BEN, MIRA):
        talk.say(ANA, Retire(member_id, 0, "silent"))
    talk.close(ANA)
    ground = Ground(ANA, lambda: talk.joins, talk.history.vector, lambda _take, _lengths: [[ANA], [BEN], [MIRA]])
    assert cut_of(NOTHING, talk.said, ground) == Open((), is_too_few=True)


def test_who_had_gone_is_let_in_by_a_word_that_undoes_it_and_lies_beyond_the_cut_before() -> None:
    """MEM-8."""
    gone = Gone(BEN, "retired", 0, "silent", is_counted=False)
    before = Cut(0, {1: 3}, (ANA,), {}, gone=(gone,))
    back = frozenset({"left", "retired"})

    assert undoes(before, Entry(BEN, ChangeRef(2, 0), back), gone)
    assert undoes(before, Entry(BEN, ChangeRef(1, 3), back), gone)
    assert not undoes(before, Entry(BEN, ChangeRef(1, 2), back), gone)
    assert not undoes(before, Entry(BEN, ChangeRef(2, 0)), gone)
    assert not undoes(before, Entry(BEN, ChangeRef(2, 0), back), Gone(BEN, "expelled", 0, "stole", is_counted=False))
