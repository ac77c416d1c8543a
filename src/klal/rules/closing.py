"""Epochs are computed: the cut, who is counted, and what an open epoch waits for.

Nobody opens an epoch. The cut of an epoch unites the cut before it with the causal pasts
of the counted members' Closes; whoever joined inside the cut is counted too, and so on
until nothing is added. All of it is a function of signed history, so every replica that
has it computes the same.

Law: an epoch is complete here if and only if every counted Close and every payload under
them is here (W27); one member's silence holds it open, whoever the others are (W10).

Source:
    Protocol spec section 13, rules EPO-1 to EPO-5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from klal.rules.merge import ChangeRef

Vector = Mapping[int, int]
"""Log index -> prefix length; an absent log means 0."""


@dataclass(frozen=True, slots=True)
class Join:
    """Where a member entered the space."""

    member_id: bytes
    change: ChangeRef


@dataclass(frozen=True, slots=True)
class Cut:
    """What an epoch is made of.

    Shape:
        lengths: log index -> prefix length inside the cut.
        counted: member ids whose Close it needed, ascending.
        closes: member id -> that member's Close.
    """

    epoch: int
    lengths: dict[int, int]
    counted: tuple[bytes, ...]
    closes: dict[bytes, ChangeRef]


NOTHING = Cut(-1, {}, (), {})


def cut_of(
    previous: Cut,
    founder: bytes,
    joins: list[Join],
    closes: Mapping[bytes, ChangeRef],
    vector_of: Callable[[ChangeRef], Vector],
) -> Cut | tuple[bytes, ...]:
    """Return the cut of the epoch after `previous`, or the counted members who have not finished.

    Args:
        previous: Cut of the epoch before; NOTHING before the first.
        founder: Counted in the first epoch whatever happens.
        joins: Every member's entry that is applied here.
        closes: Member id -> its Close of this epoch, as far as applied here.
        vector_of: A change's past, as prefix lengths; the change itself is not in it.
    """
    counted = set(previous.counted) or {founder}
    lengths = dict(previous.lengths)
    while True:
        for member_id in counted & set(closes):
            close = closes[member_id]
            for log, length in vector_of(close).items():
                lengths[log] = max(lengths.get(log, 0), length)
            lengths[close.log] = max(lengths.get(close.log, 0), close.seq + 1)
        # Whoever joined inside the cut has work in it and must be heard too (EPO-3). That is
        # worked out while some are silent as well: whom it waits for is all of them (W10).
        inside = {join.member_id for join in joins if lengths.get(join.change.log, 0) > join.change.seq}
        if inside <= counted:
            break
        counted |= inside
    waiting = sorted(counted - set(closes))
    if waiting:
        return tuple(waiting)
    closed = {member_id: closes[member_id] for member_id in sorted(counted)}
    return Cut(previous.epoch + 1, lengths, tuple(sorted(counted)), closed)


def covers(lengths: Vector, cut: Cut) -> bool:
    """True when every Close of the cut, and so the whole cut, lies in this past (EPO-4)."""
    return all(lengths.get(close.log, 0) > close.seq for close in cut.closes.values())
