"""Prefixes of logs, and the root over them. Rules FRN-1 to FRN-3."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.model.frontier import EMPTY_ROOT, NOTHING, Frontier, Head
from tests.helpers.model_strategies import frontiers, hashes

heads = st.builds(Head, st.integers(1, 1 << 40), hashes)


@given(frontiers, frontiers)
def test_merge_is_the_least_upper_bound(a: Frontier, b: Frontier) -> None:
    """FRN-2, W9: syncing never invents a change; whatever is new in the merge came from one side."""
    both = a.merge(b)

    assert both.covers(a)
    assert both.covers(b)
    for log_id, seqs in both.beyond(a).items():
        assert seqs.stop == b.length(log_id)


@given(frontiers, frontiers, frontiers)
def test_merging_again_in_another_order_or_grouping_changes_nothing(a: Frontier, b: Frontier, c: Frontier) -> None:
    """FRN-2, W1, W9."""
    assert a.merge(a) == a
    assert a.merge(b) == b.merge(a)
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(NOTHING) == NOTHING.merge(a) == a


@given(frontiers, frontiers)
def test_beyond_is_empty_exactly_when_covered(a: Frontier, b: Frontier) -> None:
    """FRN-2."""
    assert b.covers(a) == (not a.beyond(b))
    assert all(len(seqs) > 0 for seqs in a.beyond(b).values())
    assert a.merge(b).change_count == b.change_count + sum(map(len, a.beyond(b).values()))


@pytest.mark.parametrize("length", [0, -1])
def test_an_empty_log_is_left_out_and_never_named(length: int) -> None:
    """FRN-1: so equal knowledge is always equal data."""
    with pytest.raises(ValueError, match="want >= 1"):
        Frontier({bytes(32): Head(length, bytes(32))})


@given(st.dictionaries(hashes, heads, max_size=20), st.randoms(use_true_random=False))
def test_the_root_does_not_depend_on_the_order_of_insertion(logs: dict[bytes, Head], random: Random) -> None:
    """FRN-3, W1."""
    shuffled = list(logs.items())
    random.shuffle(shuffled)

    assert Frontier(dict(shuffled)).root() == Frontier(logs).root()


@given(st.dictionaries(hashes, heads, min_size=1, max_size=12), st.data())
def test_a_log_more_or_less_or_another_head_gives_another_root(logs: dict[bytes, Head], data: st.DataObject) -> None:
    """FRN-3, S41: equal lengths over different content are not the same."""
    root = Frontier(logs).root()
    log_id = data.draw(st.sampled_from(sorted(logs)))
    head = logs[log_id]
    others = [
        {name: own for name, own in logs.items() if name != log_id},
        {**logs, log_id: Head(head.length + 1, head.head_hash)},
        {**logs, log_id: Head(head.length, bytes(31) + bytes([head.head_hash[31] ^ 1]))},
        {**logs, bytes([255]) * 32: Head(1, bytes(32))},
    ]

    assert all(Frontier(other).root() != root for other in others)


def test_the_empty_frontier_has_a_root_of_its_own() -> None:
    assert NOTHING.root() == EMPTY_ROOT


def test_a_trie_of_many_logs_is_deep_enough() -> None:
    """FRN-3: keys are hashes of log ids, so the trie stays shallow whatever the ids are."""
    logs = {n.to_bytes(32, "big"): Head(1, bytes(32)) for n in range(3000)}

    assert Frontier(logs).root() == Frontier(dict(reversed(logs.items()))).root()
