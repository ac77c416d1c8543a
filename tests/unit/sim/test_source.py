"""The pure model against the rules, and the arrays against the pure model."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klal.sim import fleet as arrays
from klal.sim.source import Change, ChangeId, Close, Join, Whole, certificate_of, draw, first_drawn_of, run_source

NAMES = ("ana", "ben", "cem", "dov", "eva")
TABLES = ("x", "y")

members = st.integers(0, len(NAMES) - 1)
contacts = st.tuples(st.just("contact"), members, members, st.none() | st.integers(0, 3))
finishes = st.tuples(st.just("finish"), members)
gatherings = st.tuples(st.just("gather"), members)
# Some kinds stand twice: histories in which no epoch completes teach little.
short = st.lists(
    st.one_of(
        st.tuples(st.just("write"), members, st.sampled_from(TABLES)),
        contacts,
        contacts,
        finishes,
        finishes,
        finishes,
        gatherings,
        gatherings,
        st.tuples(st.just("give"), members, members, st.integers(0, 2**16)),
        st.tuples(st.just("receipt"), members),
        st.tuples(st.just("scope"), members, st.none() | st.sets(st.sampled_from(TABLES))),
        st.tuples(st.just("join"), members),
    ),
    min_size=15,
    max_size=60,
)


def thrown(seed):
    """Return a long history in which epochs complete: a drawn list of this length would shrink to nothing."""
    dice = random.Random(seed)
    run = [("join", who) for who in range(dice.randint(0, len(NAMES) - 1))]
    for _ in range(60):
        who, other = dice.randrange(len(NAMES)), dice.randrange(len(NAMES))
        run.append(
            dice.choice(
                [
                    ("write", who, dice.choice(TABLES)),
                    ("contact", who, other, dice.choice([None, 0, 1, 4])),
                    ("give", who, other, dice.getrandbits(16)),
                    ("finish", who),
                    ("finish", who),
                    ("gather", who),
                    ("receipt", who),
                    ("scope", who, dice.choice([None, None, TABLES[:1]])),
                ]
            )
        )
    return run


steps = short | st.integers(0, 10_000).map(thrown)


def play(run, names=NAMES, check=lambda whole, step: None, founded=2):
    """Play drawn steps; a step that makes no sense where it stands is left out."""
    whole = Whole()
    for name in names[:founded]:
        whole.add_member(name)
    for step in run:
        kind, who, *rest = step
        name = names[who]
        if kind == "join":
            if name not in whole.members:
                whole.add_member(name, via=whole.members[who % len(whole.members)])
            continue
        if name not in whole.members:
            continue
        if kind == "write":
            whole.write(name, rest[0])
        elif kind == "finish":
            if whole.may_finish(name):
                whole.finish(name)
        elif kind == "receipt":
            whole.receipt(name)
        elif kind == "scope":
            whole.set_scope(name, rest[0])
        elif kind == "gather":
            # Round one member: it signs last, and has what everybody had.
            for other in (*whole.members, *whole.members):
                if other != name:
                    whole.receipt(other)
                    whole.contact(name, other)
            whole.receipt(name)
        else:
            other = names[rest[0]]
            if other == name or other not in whole.members:
                continue
            if kind == "contact":
                whole.contact(name, other, rest[1])
            else:
                in_order = [change for change in whole.changes if change in whole.held(name)]
                whole.give(name, other, [c for i, c in enumerate(in_order) if rest[1] >> (i % 16) & 1])
        check(whole, step)
    return whole


def meet_all(whole, rounds=2):
    """Everybody takes everything and meets everybody."""
    for name in whole.members:
        whole.set_scope(name, None)
    for _ in range(rounds):
        for first in whole.members:
            for second in whole.members:
                if first < second:
                    whole.contact(first, second)


def fleet_of(count, founder="a0"):
    """Return a space in which everybody's join is known to the founder as a name."""
    whole = Whole()
    names = [founder] + [f"a{i}" for i in range(1, count)]
    for name in names:
        whole.add_member(name)
    for name in names[1:]:
        whole.give(name, founder, [ChangeId(name, 0)])
    return whole, names


# --- laws over drawn histories


@given(run=steps)
def test_known_has_every_past_and_covers_held(run):
    """W1: whoever knows of a change knows its whole past, and everything descends from one genesis."""

    def check(whole, _step):
        for name in whole.members:
            known = whole.known(name)
            assert whole.held(name) <= known
            assert all(whole.changes[change].past <= known for change in known)
            assert ChangeId("ana", 0) in known

    whole = play(run, check=check)
    genesis, *others = whole.changes.values()
    assert not genesis.past
    assert all(genesis.id in change.past for change in others)


@given(run=steps)
def test_coverage_is_exact_and_contact_never_lowers_it(run):
    """W3, W5: held and missing add up to known, and only ever grow by name."""
    before = {}

    def check(whole, _step):
        for name in whole.members:
            coverage, held = whole.coverage(name), whole.held(name)
            assert coverage.held == len(held)
            assert coverage.held + len(coverage.missing) == coverage.known
            assert not coverage.missing & held
            for earlier, now in zip(before.get(name, (set(), set())), (held, whole.known(name)), strict=True):
                assert earlier <= now
            before[name] = (held, whole.known(name))

    play(run, check=check)


@given(run=steps)
def test_an_epoch_is_complete_if_and_only_if_nobody_is_waited_for(run):
    """W10, W27: one missing change or Close holds it open, and is named; nothing else does."""

    def check(whole, _step):
        for name in whole.members:
            complete = whole.complete_count(name)
            for epoch in range(complete + 1):
                waiting = whole.waiting_for(name, epoch)
                assert (not waiting) == (epoch < complete)
                for owed in waiting:
                    assert owed.missing <= whole.coverage(name).missing
                    assert {change.member for change in owed.missing} <= {owed.member}

    play(run, check=check)


@given(run=steps)
def test_a_certificate_is_the_same_wherever_it_can_be_computed(run):
    """W19: it is a function of the cut alone, and a cut holds the past of all it holds."""
    found = {}

    def check(whole, _step):
        for name in whole.members:
            for epoch in range(whole.complete_count(name)):
                cut, certificate = whole.cut(name, epoch), whole.certificate(name, epoch)
                assert found.setdefault(epoch, (cut, certificate)) == (cut, certificate)
                assert all(whole.changes[change].past <= cut for change in cut)
                assert all(whole.changes[change].epoch <= epoch for change in cut)
                assert {change.member for change in cut} == set(certificate.members)
                assert certificate.change_count == len(cut)
                if epoch:
                    assert found[epoch - 1][0] < cut

    play(run, check=check)


@given(run=steps)
def test_no_change_is_of_an_epoch_before_one_in_its_past(run):
    whole = play(run)

    for change in whole.changes.values():
        assert all(whole.changes[earlier].epoch <= change.epoch for earlier in change.past)


@given(run=steps)
def test_states_mean_what_they_say(run):
    """W4, W6: alone is never whole, and closed is stable, and stable is held by everybody in fact."""

    def check(whole, _step):
        for name in whole.members:
            state = whole.state(name)
            met = {change.member for change in whole.known(name) if not isinstance(whole.changes[change], Join)} - {
                name
            }
            assert state != "alone" or not met
            assert (state == "behind") == (state != "alone" and bool(whole.coverage(name).missing))
            for change in whole.stable(name):
                assert all(change in whole.held(other) for other in whole.members_known(name))
            if state in ("stable", "closed"):
                assert whole.known(name) <= whole.stable(name)

    play(run, check=check)


@given(run=steps)
def test_one_whole_replica_brings_every_other_one_whole(run):
    """W11: whatever happened before, everybody is whole after one contact with it."""
    whole = play(run)
    meet_all(whole)
    one = whole.members[-1]
    for name in whole.members[:-1]:
        whole.lose(name)
        assert whole.state(name) == "alone"

    for name in whole.members[:-1]:
        whole.contact(one, name)

    assert all(whole.held(name) == set(whole.changes) for name in whole.members)


@given(run=steps, turn=st.permutations(NAMES))
def test_relabelling_members_changes_nothing_but_names(run, turn):
    """W24: no rule looks at a name, but for the draw among equals, which the certificate's hash decides."""
    other = dict(zip(NAMES, turn, strict=True))

    def renamed(changes):
        return {ChangeId(other[change.member], change.seq) for change in changes}

    left, right = play(run), play(run, names=tuple(turn))

    for name in left.members:
        twin = other[name]
        assert renamed(left.held(name)) == right.held(twin)
        assert renamed(left.coverage(name).missing) == right.coverage(twin).missing
        assert renamed(left.stable(name)) == right.stable(twin)
        assert left.state(name) == right.state(twin)
        assert left.complete_count(name) == right.complete_count(twin)
        assert {other[owed.member]: renamed(owed.missing) for owed in left.waiting_for(name, 0)} == {
            owed.member: owed.missing for owed in right.waiting_for(twin, 0)
        }


@settings(max_examples=25)
@given(run=steps, order=st.randoms(use_true_random=False))
def test_any_order_of_delivery_gives_the_same_whole(run, order):
    """W1, W15: one at a time, in any order and twice over, the same is held, applied and certified."""
    whole = play(run)
    meet_all(whole)
    one = whole.members[0]
    reader = Whole.add_member(whole, "reader").member
    deliveries = list(whole.held(one)) * 2
    order.shuffle(deliveries)

    for change in deliveries:
        whole.give(one, reader, [change])

    assert whole.held(reader) - {ChangeId("reader", 0)} == whole.held(one)
    assert whole.complete_count(reader) == whole.complete_count(one)
    newest = whole.complete_count(one) - 1
    assert whole.certificate(reader, newest) == whole.certificate(one, newest)


# --- rules by example


def test_a_newcomer_is_alone_and_holds_the_genesis():
    """W4: all it knows is here, and it still does not say whole."""
    whole = Whole()
    whole.add_member("ana")
    join = whole.add_member("ben")

    assert join.past == {ChangeId("ana", 0)}
    assert not whole.coverage("ben").missing
    assert (whole.state("ana"), whole.state("ben")) == ("alone", "alone")
    assert whole.members_known("ana") == {"ana"}


def test_names_alone_do_not_end_being_alone():
    whole, names = fleet_of(3)

    assert whole.members_known("a0") == set(names)
    assert whole.state("a0") == "alone"


def test_a_cut_off_contact_leaves_the_outline_and_names_what_is_missing():
    """W1, W5: after the first word everybody knows how much there is."""
    whole = Whole()
    for name in ("ana", "ben"):
        whole.add_member(name)
    change = whole.write("ben")
    whole.contact("ana", "ben", limit=1)

    assert whole.coverage("ana").missing == {change.id}
    assert whole.state("ana") == "behind"


def test_whole_means_no_scope():
    """W8: what a scope leaves out is known and missing; widening it lets the next contact bring it."""
    whole = Whole()
    for name in ("ana", "ben"):
        whole.add_member(name)
    change = whole.write("ben", "y")
    whole.set_scope("ana", {"x"})
    whole.contact("ana", "ben")
    assert whole.state("ana") == "behind"
    assert whole.coverage("ana").missing == {change.id}

    whole.set_scope("ana", None)
    whole.contact("ana", "ben")
    assert whole.state("ana") == "whole"

    whole.set_scope("ana", ())
    assert change.id in whole.held("ana")


def test_stable_needs_the_newest_word_of_every_member():
    """W6: two who agree with each other for ever make nothing stable while a third is silent."""
    whole, (ana, ben, mira) = fleet_of(3)
    change = whole.write(ana).id
    meet_all(whole)
    for name in (ana, ben):
        whole.receipt(name)
    meet_all(whole)
    assert whole.who_has(ana, change) == {ana, ben}
    assert not whole.stable(ana)

    whole.receipt(mira)
    whole.contact(mira, ana)
    assert change in whole.stable(ana)
    assert whole.state(ana) == "stable"
    assert whole.state(ben) == "whole"


def test_only_the_newest_receipt_of_a_member_counts():
    whole, (ana, ben, cem) = fleet_of(3)
    whole.receipt(ana)
    meet_all(whole)
    change = whole.write(ben).id
    meet_all(whole)
    whole.receipt(ana)
    whole.contact(ana, ben)
    whole.contact(cem, ben)
    assert whole.who_has(cem, change) == {ana}

    whole.give(ana, cem)
    whole.contact(cem, ana)
    assert whole.who_has(cem, change) == whole.who_has(ana, change) == {ana}


def test_what_is_given_brings_the_outline_of_its_past():
    """W1, W15: one change out of order, and the one who takes it can say what is still missing before it."""
    whole, (ana, ben) = fleet_of(2)
    first, second, third = (whole.write(ana).id for _ in range(3))
    whole.give(ana, ben, [third])
    assert whole.coverage(ben).missing == {first, second}
    assert whole.parked(ben) == {third}

    whole.give(ana, ben, [first, second])
    assert not whole.parked(ben)


def test_the_end_is_withheld_while_one_change_is_missing():
    """W10, W19, W26: all but one change everywhere, and it stays open, naming whose change that is."""
    whole, names = fleet_of(5)
    last = names[-1]
    for name in names:
        whole.write(name)
        whole.finish(name)
    whole.contact(last, names[1], limit=1)
    for _ in range(3):
        for first in names[:-1]:
            for second in names[:-1]:
                if first != second:
                    whole.contact(first, second)

    for name in names[:-1]:
        assert whole.certificate(name, 0) is None
        (owed,) = whole.waiting_for(name, 0)
        assert owed.member == last
        assert owed.missing == whole.coverage(name).missing == {ChangeId(last, 1), ChangeId(last, 2)}

    whole.contact(last, names[2])
    assert whole.certificate(last, 0) == whole.certificate(names[2], 0) is not None

    for name in names:
        whole.contact(last, name)
    assert all(whole.complete_count(name) == 1 for name in names)


def test_an_epoch_is_closed_when_every_newest_receipt_names_its_certificate():
    """W19: complete is computed here; closed is known of everybody."""
    whole, names = fleet_of(3)
    for name in names:
        whole.write(name)
        whole.finish(name)
    meet_all(whole)
    assert not whole.is_closed("a0", 0)
    for name in names[:2]:
        whole.receipt(name)
    meet_all(whole)
    assert not whole.is_closed("a0", 0)

    receipt = whole.receipt(names[2])
    meet_all(whole)
    assert receipt.certificate == whole.certificate("a0", 0).hash
    assert whole.is_closed("a0", 0)
    assert whole.state("a0") == "closed"
    whole.write("a0")
    assert whole.state("a0") == "whole"


def test_a_ready_member_cannot_complete_an_epoch_alone():
    """W27: everybody is required; and the one who brings it together may be the newest of all (W20)."""
    whole, names = fleet_of(4)
    for name in names[:-1]:
        whole.write(name)
        whole.finish(name)
    meet_all(whole)
    assert [owed.member for owed in whole.waiting_for("a0", 0)] == [names[-1]]

    whole.finish(names[-1])
    assert [name for name in names if whole.complete_count(name)] == [names[-1]]


def test_changes_of_a_later_epoch_are_parked_until_it_is_ones_own():
    whole, (ana, ben) = fleet_of(2)
    whole.finish(ana)
    later = whole.write(ana)
    whole.contact(ana, ben)
    assert later.epoch == 1
    assert whole.parked(ben) == {later.id}
    assert later.id not in whole.write(ben).past

    whole.finish(ben)
    assert not whole.parked(ben)
    assert later.id in whole.write(ben).past


def test_the_next_epoch_cannot_be_finished_before_this_one_is_complete():
    whole, (ana, ben) = fleet_of(2)
    whole.finish(ana)

    assert not whole.may_finish(ana)
    with pytest.raises(ValueError, match="epoch 0 is not complete"):
        whole.finish(ana)

    whole.finish(ben)
    whole.contact(ana, ben)
    assert whole.finish(ana).epoch == 1


def test_late_work_enters_the_next_cut():
    """W19: nobody had heard of it, the epoch completed, and it is not lost."""
    whole = Whole()
    whole.add_member("ana")
    whole.finish("ana")
    whole.add_member("ben", via="ana")
    late = whole.write("ben")
    assert late.epoch == 0
    assert whole.certificate("ana", 0).members == ("ana",)

    whole.contact("ana", "ben")
    whole.finish("ana")
    assert [owed.member for owed in whole.waiting_for("ana", 1)] == ["ben"]
    whole.finish("ben")
    whole.contact("ana", "ben")
    assert late.id not in whole.cut("ana", 0)
    assert late.id in whole.cut("ana", 1)
    assert whole.certificate("ana", 1).members == ("ana", "ben")


def test_whoever_joined_inside_the_cut_is_counted_to_a_fixpoint():
    """The founder's Close has seen ben's join, and ben's has seen eva's."""
    whole = Whole()
    for name in ("ana", "ben", "eva"):
        whole.add_member(name)
    whole.contact("ana", "ben")
    whole.finish("ana")
    whole.contact("ben", "eva")
    whole.finish("ben")
    whole.contact("ana", "ben")
    assert [owed.member for owed in whole.waiting_for("ana", 0)] == ["eva"]

    whole.finish("eva")
    whole.contact("ana", "eva")
    assert whole.certificate("ana", 0).members == ("ana", "ben", "eva")


def test_over_many_epochs_the_draw_favours_no_key():
    """W24: 4,000 draws among 8; the chi-square of 7 degrees of freedom is below 24.3 in 999 of 1,000 runs."""
    names = tuple(f"member {i}" for i in range(8))
    wins, previous = Counter(), ""
    for epoch in range(4_000):
        certificate = certificate_of(epoch, names, dict.fromkeys(names, epoch), previous)
        wins[first_drawn_of(certificate)] += 1
        previous = certificate.hash

    expected = 4_000 / len(names)
    assert sum((wins[name] - expected) ** 2 / expected for name in names) < 24.3
    assert first_drawn_of(certificate) == min(names, key=lambda name: draw(previous, name))


def test_the_draw_of_the_next_epoch_comes_from_the_certificate():
    whole, names = fleet_of(3)
    assert whole.first_drawn("a1", 0) == "a0"
    for name in names:
        whole.finish(name)
    assert whole.first_drawn("a0", 1) is None
    meet_all(whole)

    assert {whole.first_drawn(name, 1) for name in names} == {first_drawn_of(whole.certificate("a0", 0))}


def test_changes_are_told_apart_by_what_they_are():
    whole = Whole()
    assert isinstance(whole.add_member("ana"), Join)
    assert type(whole.write("ana")) is Change
    assert isinstance(whole.finish("ana"), Close)
    assert [str(change) for change in whole.changes] == ["ana:0", "ana:1", "ana:2"]


# --- the arrays


def twins(count, founder, scopes):
    """Return a fleet that follows everybody, and the pure model of the same."""
    names = arrays.names_of(count, 5)
    fleet = arrays.Fleet(names, np.arange(count), founder, np.array(scopes, np.uint8))
    whole = Whole()
    for name in (names[founder], *names[:founder], *names[founder + 1 :]):
        whole.add_member(name)
    for index, name in enumerate(names):
        if index != founder:
            whole.give(name, names[founder], [ChangeId(name, 0)])
    for index, name in enumerate(names):
        set_scope(whole, name, scopes[index])
        whole.write(name, f"t{index % arrays.TABLE_COUNT}")
        whole.finish(name)
    return fleet, whole


def set_scope(whole, name, size):
    whole.set_scope(name, None if size == arrays.TABLE_COUNT else {f"t{table}" for table in range(size)})


def assert_equal(fleet, whole):
    names = fleet.names
    for index, name in enumerate(names):
        for rows, changes in ((fleet.known, whole.known(name)), (fleet.held, whole.held(name))):
            assert {names[bit] for bit in fleet.bits(rows[:, index])} == {c.member for c in changes if c.seq == 1}
        is_whole = bool((fleet.held[:, index] == fleet.full).all())
        assert is_whole == (whole.complete_count(name) == 1)
        assert is_whole == (not whole.waiting_for(name, 0))
        assert bool(fleet.has_met[index]) == (whole.state(name) != "alone")
        assert bool(fleet.count(0).stable[index]) == whole.is_closed(name, 0) == (whole.state(name) == "closed")
        if is_whole:
            assert whole.certificate(name, 0) == fleet.certificate()


@st.composite
def meetings(draw_):
    count = draw_(st.integers(3, 9))
    founder = draw_(st.integers(0, count - 1))
    scopes = draw_(st.lists(st.integers(1, 4), min_size=count, max_size=count))
    order = st.permutations(range(count))
    rounds = draw_(st.lists(st.tuples(order, st.integers(1, count // 2), st.booleans(), st.booleans()), max_size=16))
    return count, founder, scopes, rounds


@given(drawn=meetings())
def test_the_arrays_and_the_sets_say_the_same_after_the_same_contacts(drawn):
    """W3, W5, W10, W19, W27: who knows, holds, has met, is whole and closed, and the certificate, byte for byte."""
    count, founder, scopes, rounds = drawn
    fleet, whole = twins(count, founder, scopes)
    assert_equal(fleet, whole)
    healing = [
        (tuple(range(shift, count)) + tuple(range(shift)), count // 2, False, True) for shift in range(count)
    ] * 2
    for order, pair_count, breaks_off, widens in [*rounds, *healing]:
        first, second = np.array(order[:pair_count]), np.array(order[pair_count : 2 * pair_count])
        fleet.contact(first, second, breaks_off=breaks_off)
        for one, other in zip(first, second, strict=True):
            whole.contact(fleet.names[one], fleet.names[other], limit=0 if breaks_off else None)
        if widens:
            fleet.widen()
            for index, name in enumerate(fleet.names):
                set_scope(whole, name, int(fleet.scopes[index]))
        fleet.sign()
        for name in fleet.names:
            if whole.complete_count(name):
                whole.receipt(name)
        assert_equal(fleet, whole)


def test_who_has_all_receipts_and_not_all_changes_is_not_stable():
    """W3: the others' word does not stand for what is not here."""
    fleet = arrays.Fleet(arrays.names_of(3, 0), np.array([0, 1]), 0, np.array([4, 4, 1], np.uint8))
    fleet.contact(np.array([0]), np.array([1]))
    fleet.sign()
    fleet.contact(np.array([0]), np.array([1]))
    fleet.contact(np.array([1]), np.array([2]))
    counted = fleet.count(0)

    assert (fleet.receipts == fleet.full[:, None]).all()
    assert counted.whole.tolist() == counted.stable.tolist() == [True, True, False]


@pytest.mark.parametrize("replicas", [3, 4, 5, 64, 65, 1_000])
def test_the_whole_story_is_told_at_every_size(replicas):
    """W1, W3, W10, W11, W19, W26: hidden, withheld by one, found, raised by one contact, closed, opened."""
    rounds = list(run_source(replicas, seed=3, sparks_sample=70))
    turns = {one.turn: one for one in rounds if one.turn}
    sample = min(70, replicas)

    assert turns["hidden"].alone == replicas
    assert turns["hidden"].coverage_mean == pytest.approx(1 / replicas)
    named = turns["named"]
    (last,) = named.missing
    assert (named.whole, named.epoch_state, named.missing_count) == (0, "open", 1)
    assert (last.holder, last.holder_count, last.named_by) == (last.member, 1, replicas - 1)
    assert turns["withheld"].coverage_mean == named.coverage_mean
    assert named.coverage_mean == pytest.approx(
        ((replicas - 1) * (sample - 1) + rounds_held(named, sample)) / (replicas * sample)
    )
    assert turns["found"].whole == 2
    assert next(one.number for one in rounds if one.whole) == turns["found"].number
    assert turns["closed"].stable == replicas
    assert {one.epoch_state for one in rounds if one.number < turns["found"].number} == {"open"}
    assert (turns["opened"].epoch, turns["opened"].epoch_state) == (1, "open")
    assert all(one.alone + one.behind + one.whole == replicas for one in rounds)
    means = [one.coverage_mean for one in rounds[:-1]]
    assert means == sorted(means)


def rounds_held(named, sample):
    """Return how much of the sample the absent replica holds: its own change."""
    return round(named.coverage_min * sample)


def test_one_seed_is_one_run_whatever_the_hash_seed():
    script = (
        "import json, dataclasses; from klal.sim.source import run_source;"
        "print(json.dumps([dataclasses.asdict(one) for one in run_source(500, 11, 100)]))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(outputs) == 1
    here = json.dumps([asdict(one) for one in run_source(500, 11, 100)])
    assert outputs == {here + "\n"}
    assert here != json.dumps([asdict(one) for one in run_source(500, 12, 100)])


@pytest.mark.parametrize(("replicas", "sample"), [(2, 256), (10, 1)])
def test_a_fleet_too_small_for_the_story_is_refused(replicas, sample):
    with pytest.raises(ValueError, match="want at least 3 and 2"):
        next(run_source(replicas, 0, sample))
