"""What is held, and who is known to hold what. Rules COV-1 to COV-5 and STB-1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.rules.coverage import (
    Gap,
    Held,
    Share,
    certainty,
    gaps,
    greatest_lengths,
    space_state,
    stable_lengths,
    wanted_count,
)

ANA, BEN, MIRA = (bytes([n]) * 32 for n in (1, 2, 3))
LOGS = [bytes([n]) * 32 for n in range(10, 14)]

lengths = st.dictionaries(st.sampled_from(LOGS), st.integers(1, 9))
claims = st.dictionaries(st.sampled_from([ANA, BEN, MIRA]), lengths)


def shares(said: dict[bytes, dict[bytes, int]]) -> list[Share]:
    """Return claims as shares: members who said the same in one."""
    together: dict[str, list[bytes]] = {}
    for member in sorted(said):
        together.setdefault(repr(sorted(said[member].items())), []).append(member)
    return [Share(tuple(members), said[members[0]]) for members in together.values()]


def test_what_is_known_of_and_not_here_is_named_with_who_holds_it() -> None:
    """COV-2, W5, W26."""
    logs = {
        LOGS[1]: Held(BEN, 5, 9, 3, (range(1, 2), range(4, 5))),
        LOGS[0]: Held(ANA, 2, 2, 2),
        LOGS[2]: Held(None, 0, 3, 0),
    }
    known = {ANA: {LOGS[1]: 5}, MIRA: {LOGS[1]: 9, LOGS[2]: 1}}

    assert gaps(logs, shares(known)) == [
        Gap(LOGS[1], BEN, range(1, 2), "payloads", (ANA, MIRA)),
        Gap(LOGS[1], BEN, range(4, 5), "payloads", (ANA, MIRA)),
        Gap(LOGS[1], BEN, range(5, 9), "headers", (MIRA,)),
        Gap(LOGS[2], None, range(3), "headers", (MIRA,)),
    ]


def test_a_gap_that_nobody_known_can_fill_is_named_too() -> None:
    """COV-2, S59."""
    assert gaps({LOGS[0]: Held(ANA, 1, 1, 0, (range(1),))}, []) == [Gap(LOGS[0], ANA, range(1), "payloads", ())]


@given(lengths, lengths, claims)
def test_nothing_is_missing_exactly_when_all_that_is_known_of_is_here(
    here: dict[bytes, int], known: dict[bytes, int], said: dict[bytes, dict[bytes, int]]
) -> None:
    """COV-1, W3, S43: an empty list is the only meaning of whole, and counts add up."""
    logs = {
        log: Held(ANA, here.get(log, 0), max(here.get(log, 0), known.get(log, 0)), here.get(log, 0)) for log in LOGS
    }

    found = gaps(logs, shares(said))

    assert sum(len(gap.seqs) for gap in found) == sum(held.known_length - held.length for held in logs.values())
    assert (not found) == all(held.known_length == held.length for held in logs.values())


def test_the_author_of_a_log_is_a_holder_of_what_it_sealed_before_any_receipt() -> None:
    """COV-2: of payloads; of headers that are not here nothing is sealed."""
    logs = {LOGS[0]: Held(BEN, 2, 4, 1, (range(1, 2),))}

    assert [gap.holders for gap in gaps(logs, shares({ANA: {LOGS[0]: 4}}), lambda *_: BEN)] == [(ANA, BEN), (ANA,)]


def test_one_silent_member_keeps_everything_from_becoming_stable() -> None:
    """STB-1, W10."""
    said = shares({ANA: {LOGS[0]: 5}, BEN: {LOGS[0]: 4}})

    assert stable_lengths([ANA, BEN], said) == {LOGS[0]: 4}
    assert stable_lengths([ANA, BEN, MIRA], said) == {}


@given(claims)
def test_counting_over_shares_gives_the_least_of_every_member(said: dict[bytes, dict[bytes, int]]) -> None:
    """STB-1: as asking each member for each log would, and without doing so."""
    members = [ANA, BEN, MIRA]
    want = {log: min(said.get(member, {}).get(log, 0) for member in members) for log in LOGS}

    assert stable_lengths(members, shares(said)) == {log: length for log, length in want.items() if length}
    most = {log: max(said.get(member, {}).get(log, 0) for member in members) for log in LOGS}
    assert greatest_lengths(shares(said)) == {log: length for log, length in most.items() if length}


@given(claims, st.sampled_from([ANA, BEN, MIRA]), st.sampled_from(LOGS), st.integers(1, 9))
def test_more_contact_never_lowers_what_is_known(
    said: dict[bytes, dict[bytes, int]], member: bytes, log: bytes, length: int
) -> None:
    """STB-1, W3, W6: and what is stable is held by each."""
    members = [ANA, BEN, MIRA]
    before = stable_lengths(members, shares(said))
    more = {**said, member: {**said.get(member, {}), log: max(length, said.get(member, {}).get(log, 0))}}
    after = stable_lengths(members, shares(more))

    assert all(after.get(each, 0) >= before.get(each, 0) for each in LOGS)
    for each in LOGS:
        assert all(after.get(each, 0) <= more.get(one, {}).get(each, 0) for one in members)


@given(claims)
def test_a_member_counts_once_however_it_is_listed(said: dict[bytes, dict[bytes, int]]) -> None:
    """STB-1, W28: claims are by member, whichever of its logs spoke."""
    assert stable_lengths([ANA, BEN, ANA, ANA], shares(said)) == stable_lengths([BEN, ANA], shares(said))


def test_what_everybody_has_put_down_is_stable_only_as_far_as_somebody_kept_it() -> None:
    """STB-1, W14: a member that compacted goes along with the others, and one of them must have the payloads."""
    ana = Share((ANA,), {LOGS[0]: 9}, {LOGS[0]: (range(2, 5),)})
    ben = Share((BEN,), {LOGS[0]: 8}, {LOGS[0]: (range(6),)})
    mira = Share((MIRA,), {LOGS[0]: 7})

    assert stable_lengths([ANA, BEN], [ana, ben]) == {LOGS[0]: 2}
    assert stable_lengths([ANA, BEN, MIRA], [ana, ben, mira]) == {LOGS[0]: 7}
    assert stable_lengths([BEN], [ben]) == {}
    assert [ana.holds(LOGS[0], seq) for seq in (1, 2, 4, 5, 8, 9)] == [True, False, False, True, True, False]


def test_whoever_put_a_payload_down_does_not_hold_it_and_still_holds_its_header() -> None:
    """COV-2, COV-3, CMP-6."""
    logs = {LOGS[0]: Held(BEN, 3, 9, 2, (range(1, 2),))}
    said = [Share((ANA,), {LOGS[0]: 9}, {LOGS[0]: (range(5),)}), Share((MIRA,), {LOGS[0]: 4})]

    assert [(gap.what, gap.holders) for gap in gaps(logs, said)] == [("payloads", (MIRA,)), ("headers", (ANA, MIRA))]


def test_nobody_holds_nothing() -> None:
    """STB-1: without members nothing is stable, and never everything."""
    assert stable_lengths([], shares({ANA: {LOGS[0]: 3}})) == {}


@pytest.mark.parametrize(
    ("held_by", "member_count", "wanted"),
    [
        (1, 5, 1),
        (2, 1, 2),
        ("quorum", 1, 1),
        ("quorum", 4, 3),
        ("quorum", 5, 3),
        ("all", 3, 3),
        ("all", 0, 1),
        ("stable", 1, 2),
        ("stable", 4, 4),
    ],
)
def test_how_many_members_a_word_means(held_by: int | str, member_count: int, wanted: int) -> None:
    """COV-7: more than half is a quorum, and one disk is never stable (W4)."""
    assert wanted_count(held_by, member_count) == wanted


@pytest.mark.parametrize("wrong", [0, -1, True, "most", ""])
def test_a_count_or_word_that_means_nothing_is_refused(wrong: int | str) -> None:
    with pytest.raises(ValueError, match="held_by is"):
        wanted_count(wrong, 3)


@pytest.mark.parametrize(
    ("missing", "open_", "part", "word"),
    [
        (True, True, True, "incomplete"),
        (True, False, False, "incomplete"),
        (False, True, True, "unknown"),
        (False, False, True, "part"),
        (False, False, False, "whole"),
    ],
)
def test_an_end_that_nobody_knows_is_never_whole(missing: bool, open_: bool, part: bool, word: str) -> None:
    """COV-6, W4, S43."""
    assert certainty(is_missing=missing, is_open=open_, is_part=part) == word


@pytest.mark.parametrize(
    ("alone", "whole", "stable", "closed", "word"),
    [
        (True, True, True, True, "alone"),
        (True, False, False, False, "alone"),
        (False, False, True, True, "behind"),
        (False, True, False, False, "whole"),
        (False, True, True, False, "stable"),
        (False, True, True, True, "closed"),
        (False, True, False, True, "closed"),
    ],
)
def test_one_word_says_where_a_replica_stands(alone: bool, whole: bool, stable: bool, closed: bool, word: str) -> None:
    """COV-5, W4, W6: alone comes first, since a replica that has met nobody cannot know."""
    assert space_state(is_alone=alone, is_whole=whole, is_stable=stable, is_closed=closed) == word
