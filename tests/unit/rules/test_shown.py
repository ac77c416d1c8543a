"""A row worked out from all of its writes at once is the row that merging makes one write at a time. MRG-1 to MRG-4."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from klal.model.payload import Kind
from klal.rules.merge import ChangeRef, Sees
from klal.rules.shown import PastWrite, shown
from tests.helpers.merge_oracle import DEFAULTS, REGISTERS, Change, Copy, draw_fleet, expected, shuffled_causally


def writes_in(changes: list[Change], key: str) -> list[PastWrite]:
    touching = sorted((change for change in changes if key in change.writes), key=lambda change: change.order)
    return [
        PastWrite(change.ref, write.kind, write.life, write.cells, write.is_final)
        for change in touching
        for write in [change.writes[key]]
    ]


def sees_in(changes: list[Change]) -> Sees:
    past = {change.ref: change.past for change in changes}
    return lambda a, b: b in past[a]


@given(st.integers(0, 1 << 32), st.booleans())
def test_what_a_row_shows_is_what_merging_makes_of_it_and_what_the_oracle_wants(seed: int, liars: bool) -> None:
    """W14: at every causally closed set of changes on the way, not only at the end."""
    random = Random(seed)
    space = draw_fleet(random, liars=liars)
    copy = Copy()
    for change in shuffled_causally(random, copy, space.changes):
        copy.apply(change)
        applied = list(copy.applied.values())
        for key in ("k1", "k2"):
            row, want = shown(writes_in(applied, key), sees_in(applied), DEFAULTS), expected(applied, key)
            merged = copy.shows(key)
            assert (row is not None) == want.is_alive == merged.is_alive
            if row is not None:
                # Counters, sets and texts are the merge's alone: a table with one takes the long way.
                found = {(column, repr(value)) for column, value in row.items() if column in REGISTERS}
                assert found == {cell for cell in want.cells if cell[0] in REGISTERS}
                assert want.cells == merged.cells


def test_a_row_nobody_wrote_or_only_an_update_named_is_not_there() -> None:
    one = ChangeRef(0, 0)

    assert shown([], lambda _a, _b: False, DEFAULTS) is None
    assert shown([PastWrite(one, Kind.UPDATE, 1, {b"a": 1})], lambda _a, _b: False, DEFAULTS) is None
    assert shown([PastWrite(one, Kind.DELETE, 1, {})], lambda _a, _b: False, DEFAULTS) is None
