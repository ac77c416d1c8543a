"""What is held, and who is known to hold what. Rules COV-1 to COV-5 and STB-1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.rules.coverage import Gap, Held, gaps, space_state, stable_lengths

ANA, BEN, MIRA = (bytes([n]) * 32 for n in (1, 2, 3))
LOGS = [bytes([n]) * 32 for n in range(10, 14)]

lengths = st.dictionaries(st.sampled_from(LOGS), st.integers(1, 9))
claims = st.dictionaries(st.sampled_from([ANA, BEN, MIRA]), lengths)


def test_what_is_known_of_and_not_here_is_named_with_who_holds_it() -> None:
    """COV-2, W5, W26."""
    logs = {
        LOGS[1]: Held(BEN, 5, 9, 3, (range(1, 2), range(4, 5))),
        LOGS[0]: Held(ANA, 2, 2, 2),
        LOGS[2]: Held(None, 0, 3, 0),
    }
    known = {ANA: {LOGS[1]: 5}, MIRA: {LOGS[1]: 9, LOGS[2]: 1}}

    assert gaps(logs, known) == [
        Gap(LOGS[1], BEN, range(1, 2), "payloads", (ANA, MIRA)),
        Gap(LOGS[1], BEN, range(4, 5), "payloads", (ANA, MIRA)),
        Gap(LOGS[1], BEN, range(5, 9), "headers", (MIRA,)),
        Gap(LOGS[2], None, range(3), "headers", (MIRA,)),
    ]


def test_a_gap_that_nobody_known_can_fill_is_named_too() -> None:
    """COV-2, S59."""
    assert gaps({LOGS[0]: Held(ANA, 1, 1, 0, (range(1),))}, {}) == [Gap(LOGS[0], ANA, range(1), "payloads", ())]


@given(lengths, lengths, claims)
def test_nothing_is_missing_exactly_when_all_that_is_known_of_is_here(
    here: dict[bytes, int], known: dict[bytes, int], said: dict[bytes, dict[bytes, int]]
) -> None:
    """COV-1, W3, S43: an empty list is the only meaning of whole, and counts add up."""
    logs = {
        log: Held(ANA, here.get(log, 0), max(here.get(log, 0), known.get(log, 0)), here.get(log, 0)) for log in LOGS
    }

    found = gaps(logs, said)

    assert sum(len(gap.seqs) for gap in found) == sum(held.known_length - held.length for held in logs.values())
    assert (not found) == all(held.known_length == held.length for held in logs.values())


def test_one_silent_member_keeps_everything_from_becoming_stable() -> None:
    """STB-1, W10."""
    said = {ANA: {LOGS[0]: 5}, BEN: {LOGS[0]: 4}}

    assert stable_lengths([ANA, BEN], said, LOGS[:1]) == {LOGS[0]: 4}
    assert stable_lengths([ANA, BEN, MIRA], said, LOGS[:1]) == {LOGS[0]: 0}


@given(claims, st.sampled_from([ANA, BEN, MIRA]), st.sampled_from(LOGS), st.integers(1, 9))
def test_more_contact_never_lowers_what_is_known(
    said: dict[bytes, dict[bytes, int]], member: bytes, log: bytes, length: int
) -> None:
    """STB-1, W3, W6: and what is stable is held by each."""
    members = [ANA, BEN, MIRA]
    before = stable_lengths(members, said, LOGS)
    more = {**said, member: {**said.get(member, {}), log: max(length, said.get(member, {}).get(log, 0))}}
    after = stable_lengths(members, more, LOGS)

    assert all(after[each] >= before[each] for each in LOGS)
    for each in LOGS:
        assert all(after[each] <= more.get(one, {}).get(each, 0) for one in members)


@given(claims)
def test_a_member_counts_once_however_it_is_listed(said: dict[bytes, dict[bytes, int]]) -> None:
    """STB-1, W28: claims are by member, whichever of its logs spoke."""
    assert stable_lengths([ANA, BEN, ANA, ANA], said, LOGS) == stable_lengths([BEN, ANA], said, LOGS)


def test_nobody_holds_nothing() -> None:
    """STB-1: without members nothing is stable, and never everything."""
    assert stable_lengths([], {ANA: {LOGS[0]: 3}}, LOGS[:1]) == {LOGS[0]: 0}


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
