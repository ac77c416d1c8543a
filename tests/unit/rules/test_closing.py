"""Cuts of epochs. Rules EPO-1 to EPO-5."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from klal.rules.closing import NOTHING, Cut, Entry, Ground, Open, Said, covers, cut_of
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
