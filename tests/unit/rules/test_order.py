"""Order stamps and draws. Rules ORD-1 to ORD-3."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from klal.model.header import NO_CERTIFICATE
from klal.rules.order import OrderKey, draw_of, order_stamp
from tests.helpers.merge_oracle import draw_fleet
from tests.helpers.model_strategies import SPACE, hashes

clocks = st.integers(0, (1 << 48) - 1)


@given(clocks, clocks, clocks)
def test_a_stamp_is_beyond_every_stamp_in_its_past(unix_ms: int, not_after_ms: int, past: int) -> None:
    """ORD-1, S2, S14: whatever the clock says, also when it walks back."""
    assert order_stamp(unix_ms, not_after_ms, past) > past


@given(clocks, clocks, clocks)
def test_a_clock_counts_up_to_the_declared_end_and_no_further(unix_ms: int, not_after_ms: int, past: int) -> None:
    """ORD-1, T18."""
    stamp = order_stamp(unix_ms, not_after_ms, past)

    assert stamp == order_stamp(min(unix_ms, not_after_ms), not_after_ms, past)
    assert stamp <= max(not_after_ms, past + 1)
    if past < unix_ms <= not_after_ms:
        assert stamp == unix_ms


@given(st.randoms(use_true_random=False))
def test_the_order_follows_causality_and_no_two_changes_tie(random: Random) -> None:
    """ORD-1, ORD-3, S4, S12: over drawn fleets with clocks that are wrong."""
    changes = {change.ref: change for change in draw_fleet(random, change_count=12).changes}

    for change in changes.values():
        assert all(changes[ref].order < change.order for ref in change.past)
    assert len({change.order for change in changes.values()}) == len(changes)


def test_a_greater_stamp_beats_any_draw_and_a_greater_draw_any_hash() -> None:
    """ORD-3."""
    low, high = bytes(32), b"\xff" * 32

    assert OrderKey(1, high, high) < OrderKey(2, low, low)
    assert OrderKey(1, low, high) < OrderKey(1, high, low)
    assert OrderKey(1, low, low) < OrderKey(1, low, high)


@given(hashes, hashes)
def test_a_draw_is_made_anew_by_every_certificate(certificate: bytes, member: bytes) -> None:
    """ORD-2, W24, T30: before the first certificate the space itself is drawn from."""
    assert (
        draw_of(SPACE, certificate, member) == draw_of(bytes(32), certificate, member) or certificate == NO_CERTIFICATE
    )
    assert draw_of(SPACE, NO_CERTIFICATE, member) == draw_of(SPACE, SPACE, member)
    assert draw_of(SPACE, certificate, member) != draw_of(SPACE, bytes([1]) * 31 + b"\2", member)


def test_over_many_epochs_no_member_is_favoured() -> None:
    """ORD-2, W24: ten members, two thousand draws; each wins about a tenth of the ties."""
    members = [bytes([n]) * 32 for n in range(10)]
    wins = dict.fromkeys(members, 0)
    for epoch in range(1, 2001):
        certificate = epoch.to_bytes(32, "big")
        wins[max(members, key=lambda member, origin=certificate: draw_of(SPACE, origin, member))] += 1

    # Four standard deviations of a fair die: sqrt(2000 * 0.1 * 0.9) is 13.4.
    assert all(abs(count - 200) < 54 for count in wins.values())
