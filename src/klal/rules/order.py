"""Which of two concurrent writes stands: an order computed from history, never from a clock.

A wall clock only breaks ties between changes that did not know of each other, and only
as far as the epoch's declared end allows. Nothing is refused or parked for its clock.

Law: if a is in the past of b, then `order_stamp(a) < order_stamp(b)`.

Source:
    Protocol spec section 10, rules ORD-1 to ORD-3.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from klal.model.codec import tagged_hash
from klal.model.header import NO_CERTIFICATE


class OrderKey(NamedTuple):
    """(order stamp, member's draw, header hash): total, and no key is favoured for ever (W24)."""

    stamp: int
    draw: bytes
    header_hash: bytes


def order_stamp(unix_ms: int, not_after_ms: int, past_stamp_max: int) -> int:
    """Return a change's order stamp (ORD-1).

    Args:
        unix_ms: What the writer's clock said.
        not_after_ms: Declared end of the epoch; a far-future clock wins no more than this.
        past_stamp_max: Greatest order stamp in the change's past, 0 for the genesis.
    """
    return max(min(unix_ms, not_after_ms), past_stamp_max + 1)


@lru_cache(1024)
def draw_of(space_id: bytes, certificate: bytes, member_id: bytes) -> bytes:
    """Return a member's place in ties, drawn anew by every certificate (ORD-2, W24)."""
    origin = space_id if certificate == NO_CERTIFICATE else certificate
    return tagged_hash("klal/draw/1", origin, member_id)


def order_bytes(order: OrderKey) -> bytes:
    """Return bytes that sort as the order key does."""
    return order.stamp.to_bytes(8, "big") + order.draw + order.header_hash
