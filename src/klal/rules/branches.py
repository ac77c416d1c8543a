"""What the branches of a forked log are called, and where one ends and the next begins.

A log that forked freezes at its earliest fork, and each branch goes on as a log of its own
(LOG-7). Which branches there are depends on which headers one looks at: a certificate made
before a fork was found names a log that is whole, and must be the same bytes for whoever
computes it afterwards. So names are worked out from the headers inside a frontier, and are
never stored with them.

Law: the same headers give the same names, in whatever order and to whatever strands they came.

Source:
    Protocol spec sections 4 and 6, rules LOG-4, LOG-7 and FRN-4. Lavoie 2023 (2P-BFT-Log).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from klal.model.keys import branch_id_of
from klal.rules.merge import ChangeRef


class Strand(NamedTuple):
    """Headers of one log that a station keeps one after another.

    Shape:
        log: its index there.
        below: index of the strand that holds the header before its first; None where there is none.
        start: number of its first header.
    """

    log: int
    below: int | None
    start: int


@dataclass(frozen=True, slots=True)
class Branch:
    """One log as a frontier names it.

    Shape:
        start: number of its first header; above 0 only of a branch.
        stretches: (strand, start, stop) one after another, at least one, none empty.
    """

    log_id: bytes
    start: int
    stretches: tuple[tuple[int, int, int], ...]

    @property
    def length(self) -> int:
        """How many headers it has of its own (FRN-4)."""
        return self.stretches[-1][2] - self.start

    @property
    def last(self) -> ChangeRef:
        """Its newest header."""
        return ChangeRef(self.stretches[-1][0], self.stretches[-1][2] - 1)


def branches_of(
    log_id: bytes, strands: Iterable[Strand], lengths: Mapping[int, int], hash_at: Callable[[ChangeRef], bytes]
) -> list[Branch]:
    """Return the logs that the headers of one log inside a frontier make.

    Args:
        log_id: The log that all of them were signed for.
        strands: All strands of it.
        lengths: Strand -> number after its last header inside; a strand without headers inside may be absent.
        hash_at: Gives a header's hash.
    """
    above: dict[int | None, list[Strand]] = {}
    for strand in sorted(strands, key=_start_of):
        if lengths.get(strand.log, 0) > strand.start:
            above.setdefault(strand.below, []).append(strand)
    found: list[Branch] = []
    # (name, its first number, its stretches so far, strand, number): a list and no recursion,
    # as whoever forks each header of a log again makes a deep tree.
    todo: list[tuple[bytes, int, tuple[tuple[int, int, int], ...], int, int]] = []

    def go_on(
        places: list[tuple[int, int]], name: bytes, start: int, stretches: tuple[tuple[int, int, int], ...]
    ) -> None:
        if len(places) == 1:
            todo.append((name, start, stretches, *places[0]))
            return
        # A fork: here the log ends, and each of these is a log of its own.
        for log, seq in places:
            todo.append((branch_id_of(log_id, hash_at(ChangeRef(log, seq))), seq, (), log, seq))

    go_on([(strand.log, 0) for strand in above.get(None, ())], log_id, 0, ())
    while todo:
        name, start, stretches, log, seq = todo.pop()
        others = above.get(log, [])
        at = bisect_right(others, seq, key=_start_of)
        stop = others[at].start if at < len(others) else lengths[log]
        stretches = (*stretches, (log, seq, stop))
        places = [(strand.log, stop) for strand in others[at : bisect_right(others, stop, key=_start_of)]]
        if lengths[log] > stop:
            places.append((log, stop))
        if len(places) != 1:
            found.append(Branch(name, start, stretches))
        go_on(places, name, start, stretches)
    return sorted(found, key=lambda branch: branch.log_id)


def _start_of(strand: Strand) -> int:
    return strand.start
