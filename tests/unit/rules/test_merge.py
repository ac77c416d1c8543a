"""Merging one key: what the rules promise, and that a window is enough to keep it. Rules MRG-1 to MRG-7."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.model.payload import Kind
from klal.rules import merge
from klal.rules.merge import Columns, Write, merge_write, same
from klal.rules.text import Edit, encode_edits
from tests.helpers.merge_oracle import (
    DEFAULTS,
    Change,
    Conflict,
    Copy,
    Expected,
    Space,
    causal_orders,
    disagreement,
    draw_fleet,
    expected,
)

INSERT, UPDATE, DELETE = Kind.INSERT, Kind.UPDATE, Kind.DELETE
ANA, BEN, MIRA = 0, 1, 2


def outcome(space: Space) -> Expected:
    """Return the one state that every causal order of delivery gives for key k."""
    outcomes = set()
    for order in causal_orders(space.changes):
        copy = Copy()
        for change in order:
            copy.apply(change)
        outcomes.add(copy.shows("k"))
    assert len(outcomes) == 1, "the order of delivery decided"
    (only,) = outcomes
    assert only == expected(space.changes, "k")
    return only


def row_of(shown: Expected) -> dict[str, str] | None:
    """Return the visible row without the cells that show their default."""
    cells = {column: value for column, value in shown.cells if value != repr(DEFAULTS[column])}
    return {column.decode(): value for column, value in cells.items()} if shown.is_alive else None


def losers_of(shown: Expected) -> set[tuple[str, str]]:
    return {("DELETE" if lost.column is None else lost.column.decode(), lost.value) for lost in shown.conflicts}


def begun(**cells: int) -> tuple[Space, Change]:
    """Return a space in which ana inserted k, with what she wrote."""
    space = Space()
    insert = space.change(ANA, [], 10, {"k": (INSERT, 1, {name.encode(): value for name, value in cells.items()})})
    return space, insert


# -- scenarios ------------------------------------------------------------------------------


def test_two_cells_of_one_row_written_apart_are_both_kept() -> None:
    """S18, MRG-3."""
    space, insert = begun(a=1, b=1)
    space.change(ANA, [insert], 20, {"k": (UPDATE, 1, {b"a": 2})})
    space.change(BEN, [insert], 20, {"k": (UPDATE, 1, {b"b": 3})})

    shown = outcome(space)

    assert row_of(shown) == {"a": "2", "b": "3"}
    assert not shown.conflicts


def test_of_two_values_of_one_cell_the_greater_order_wins_and_the_other_is_listed() -> None:
    """S19, S10, MRG-3, MRG-6: both were made from one base, and nobody's work goes without a trace."""
    space, insert = begun(a=1)
    later = space.change(ANA, [insert], 30, {"k": (UPDATE, 1, {b"a": 2})})
    earlier = space.change(BEN, [insert], 20, {"k": (UPDATE, 1, {b"a": 3})})

    shown = outcome(space)

    assert row_of(shown) == {"a": "2"}
    assert shown.conflicts == {Conflict(b"a", earlier.ref, "3", later.ref, "2")}


def test_equal_clocks_are_told_apart_by_the_members_draw() -> None:
    """S20, ORD-3: the tie is broken by hashes, so alike on every platform."""
    space, insert = begun(a=1)
    one = space.change(ANA, [insert], 20, {"k": (UPDATE, 1, {b"a": 2})})
    two = space.change(BEN, [insert], 20, {"k": (UPDATE, 1, {b"a": 3})})

    shown = outcome(space)

    assert one.order.stamp == two.order.stamp
    assert row_of(shown) == {"a": "2" if one.order.draw > two.order.draw else "3"}


def test_a_clock_beyond_the_declared_end_wins_no_more_than_a_tie() -> None:
    """ORD-1, T18: the stamp is clamped, so the draw decides and not the lie."""
    space = Space(not_after_ms=100)
    insert = space.change(ANA, [], 10, {"k": (INSERT, 1, {b"a": 1})})
    far = space.change(ANA, [insert], 1 << 40, {"k": (UPDATE, 1, {b"a": 2})})
    near = space.change(BEN, [insert], 100, {"k": (UPDATE, 1, {b"a": 3})})

    assert far.order.stamp == near.order.stamp
    assert row_of(outcome(space)) == {"a": "2" if far.order > near.order else "3"}


def test_equal_values_are_no_conflict() -> None:
    """MRG-6."""
    space, insert = begun(a=1)
    space.change(ANA, [insert], 20, {"k": (UPDATE, 1, {b"a": 2})})
    space.change(BEN, [insert], 30, {"k": (UPDATE, 1, {b"a": 2})})

    assert not outcome(space).conflicts


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (0.0, -0.0), (None, 0), ("1", 1), ("1", b"1")])
def test_values_that_differ_in_type_or_sign_are_not_the_same(one: object, other: object) -> None:
    """T42: what SQL compares as equal is still two spellings, and a replica must show one."""
    assert not same(one, other)  # type: ignore[arg-type]
    assert same(one, one)  # type: ignore[arg-type]


def test_a_row_deleted_while_it_was_updated_elsewhere_revives_whole() -> None:
    """S21, MRG-4: no half-empty row, and the lost DELETE is listed."""
    space, insert = begun(a=1, b=1)
    update = space.change(ANA, [insert], 20, {"k": (UPDATE, 1, {b"a": 2})})
    delete = space.change(BEN, [insert], 99, {"k": (DELETE, 1, {})})

    shown = outcome(space)

    assert row_of(shown) == {"a": "2", "b": "1"}
    assert shown.conflicts == {Conflict(None, delete.ref, "None", update.ref, "None")}


def test_a_delete_that_saw_everything_ends_the_row_without_a_conflict() -> None:
    """MRG-4."""
    space, insert = begun(a=1)
    update = space.change(BEN, [insert], 20, {"k": (UPDATE, 1, {b"a": 2})})
    space.change(MIRA, [insert, update], 5, {"k": (DELETE, 1, {})})

    shown = outcome(space)

    assert row_of(shown) is None
    assert not shown.conflicts


def test_an_update_of_a_row_that_was_deleted_and_inserted_anew_does_not_leak_into_it() -> None:
    """S22, MRG-2: it wrote an older life, and is listed."""
    space, insert = begun(a=1, b=1)
    delete = space.change(ANA, [insert], 20, {"k": (DELETE, 1, {})})
    space.change(ANA, [insert, delete], 30, {"k": (INSERT, 2, {b"a": 5, b"b": 5})})
    old = space.change(BEN, [insert], 1_000, {"k": (UPDATE, 1, {b"a": 9})})

    shown = outcome(space)

    assert row_of(shown) == {"a": "5", "b": "5"}
    assert shown.conflicts == {Conflict(b"a", old.ref, "9", None, "5")}


def test_what_an_older_life_lost_stays_listed_when_the_row_is_dead() -> None:
    """MRG-6: the new life has ended too, by a DELETE that never saw it."""
    space, insert = begun(a=1)
    delete = space.change(ANA, [insert], 20, {"k": (DELETE, 1, {})})
    again = space.change(ANA, [insert, delete], 30, {"k": (INSERT, 2, {b"a": 5})})
    space.change(ANA, [insert, delete, again], 40, {"k": (DELETE, 2, {})})
    old = space.change(BEN, [insert], 1_000, {"k": (UPDATE, 1, {b"a": 5})})

    shown = outcome(space)

    assert row_of(shown) is None
    assert shown.conflicts == {Conflict(b"a", old.ref, "5", None, "None")}


def test_two_inserts_of_one_key_are_one_row() -> None:
    """MRG-2, MRG-3: both begin the same life, so their cells merge."""
    space = Space()
    one = space.change(ANA, [], 10, {"k": (INSERT, 1, {b"a": 1, b"b": 1})})
    two = space.change(BEN, [], 20, {"k": (INSERT, 1, {b"a": 2, b"b": 1})})

    shown = outcome(space)

    assert row_of(shown) == {"a": "2", "b": "1"}
    assert shown.conflicts == {Conflict(b"a", one.ref, "1", two.ref, "2")}


def test_an_add_that_a_delete_had_not_seen_stays_and_one_that_it_saw_goes() -> None:
    """S23: a set of keys behaves as an observed-remove set."""
    space, seen = begun(a=1)
    delete = space.change(BEN, [seen], 20, {"k": (DELETE, 1, {})})
    space.change(MIRA, [], 5, {"k": (INSERT, 1, {b"a": 1})})

    shown = outcome(space)

    assert row_of(shown) == {"a": "1"}
    assert {lost.change for lost in shown.conflicts} == {delete.ref}


def test_every_sibling_stays_listed_until_a_write_that_saw_them() -> None:
    """S31, MRG-5, MRG-6."""
    space, insert = begun(a=1)
    lost = space.change(ANA, [insert], 20, {"k": (UPDATE, 1, {b"a": 2})})
    won = space.change(BEN, [insert], 30, {"k": (UPDATE, 1, {b"a": 3})})
    other_cell = space.change(MIRA, [insert, lost, won], 40, {"k": (UPDATE, 1, {b"b": 7})})

    assert losers_of(outcome(space)) == {("a", "2")}

    space.change(MIRA, [insert, lost, won, other_cell], 50, {"k": (UPDATE, 1, {b"a": 4})})

    assert not outcome(space).conflicts


def test_a_lost_delete_is_listed_until_any_later_write_of_the_key_has_seen_it() -> None:
    """MRG-6."""
    space, insert = begun(a=1, b=1)
    update = space.change(ANA, [insert], 20, {"k": (UPDATE, 1, {b"a": 2})})
    delete = space.change(BEN, [insert], 30, {"k": (DELETE, 1, {})})
    space.change(MIRA, [insert, update, delete], 40, {"k": (UPDATE, 1, {b"b": 3})})

    assert not outcome(space).conflicts


def test_a_lost_delete_names_what_it_had_not_seen_and_not_what_it_ended() -> None:
    """MRG-7: the greatest write of the life was in its past, and is not what it lost to."""
    space = Space()
    ended = space.change(ANA, [], 900, {"k": (INSERT, 1, {b"a": 1})})
    delete = space.change(ANA, [ended], 901, {"k": (DELETE, 1, {})})
    kept = space.change(BEN, [], 10, {"k": (INSERT, 1, {b"a": 2})})

    shown = outcome(space)

    assert {(lost.column, lost.change, lost.winner) for lost in shown.conflicts} == {
        (None, delete.ref, kept.ref),
        (b"a", kept.ref, ended.ref),
    }


def test_a_revived_row_names_no_write_as_the_winner_over_an_older_life() -> None:
    """MRG-7: whoever wrote the cell lies in everybody's past, so some orders could not name it."""
    space, first = begun(a=7, b=1)
    delete = space.change(ANA, [first], 20, {"k": (DELETE, 1, {})})
    again = space.change(ANA, [first, delete], 30, {"k": (INSERT, 2, {b"a": 5, b"b": 5})})
    old = space.change(BEN, [first], 40, {"k": (UPDATE, 1, {b"a": 9})})
    space.change(ANA, [first, delete, again], 50, {"k": (DELETE, 2, {})})
    space.change(MIRA, [first, delete, again], 60, {"k": (UPDATE, 2, {b"b": 6})})

    shown = outcome(space)

    assert row_of(shown) == {"a": "5", "b": "6"}
    assert Conflict(b"a", old.ref, "9", None, "5") in shown.conflicts


def test_a_column_that_the_newer_life_never_wrote_has_no_value_from_the_older() -> None:
    """MRG-2, MRG-3, S32: its writer did not know the column yet, and the table's default shows."""
    space, first = begun(a=1, late=1)
    delete = space.change(ANA, [first], 20, {"k": (DELETE, 1, {})})
    old = space.change(MIRA, [first], 25, {"k": (UPDATE, 1, {b"late": 7})})
    space.change(BEN, [first, delete], 30, {"k": (INSERT, 2, {b"a": 2})})

    shown = outcome(space)

    assert row_of(shown) == {"a": "2"}
    assert shown.conflicts == {Conflict(b"late", old.ref, "7", None, "0")}


def test_a_life_without_an_insert_is_not_visible() -> None:
    """MRG-2, T9: only a faulty writer makes one, and it must be nothing everywhere."""
    space = Space()
    space.change(ANA, [], 10, {"k": (UPDATE, 1, {b"a": 1})})

    assert row_of(outcome(space)) is None

    space.change(BEN, [], 5, {"k": (INSERT, 1, {b"a": 2, b"b": 2})})

    assert row_of(outcome(space)) == {"a": "1", "b": "2"}


# -- laws -----------------------------------------------------------------------------------


@given(random=st.randoms(use_true_random=False), change_count=st.integers(1, 10))
def test_the_state_is_a_function_of_the_set_of_applied_changes(random: Random, change_count: int) -> None:
    """S35, MRG-1: whatever the order, at every point on the way, names of winners included."""
    assert disagreement(random, change_count=change_count) is None


@given(random=st.randoms(use_true_random=False), change_count=st.integers(1, 10))
def test_the_state_is_a_function_of_the_set_also_where_writers_lie(random: Random, change_count: int) -> None:
    """S35, T9: a life or a kind that the writer's own past rules out."""
    assert disagreement(random, change_count=change_count, liars=True) is None


SEEDS = range(100)


@pytest.mark.parametrize("liars", [False, True])
def test_many_long_histories_agree_with_the_definition(liars: bool) -> None:
    """S35, S18, S19, S21, S22, S31: longer than a shrinking tool likes to draw."""
    for seed in SEEDS:
        assert disagreement(Random(seed), change_count=16, liars=liars) is None, seed


def test_every_causal_order_of_a_small_history_gives_one_state() -> None:
    """S35, by exhaustion."""
    for seed in range(40):
        space = draw_fleet(Random(seed), change_count=5)
        for key in ("k1", "k2"):
            outcomes = set()
            for order in causal_orders(space.changes):
                copy = Copy()
                for change in order:
                    copy.apply(change)
                outcomes.add(copy.shows(key))

            assert outcomes == {expected(space.changes, key)}, seed


# -- the laws can see -----------------------------------------------------------------------


def _in_first_life(write: Write) -> Write:
    return replace(write, life=1)


def _one_life(row, window, write, sees, columns):
    return merge_write(row, [*map(_in_first_life, window)], _in_first_life(write), sees, columns)


def _arrival_decides(merged, row, puts, write, sees, columns):
    return WITH_CELLS(merged, row, [put for put in puts if put.kind is INSERT], write, sees, columns)


def _older_cells_stay(row, window, write, sees, columns):
    return PUT(row, window, write, sees, Columns({**columns.defaults, **(row.cells or {})}, columns.merges))


def _image_not_kept(row, window, write, sees):
    merged = DELETE_OF(row, window, write, sees)
    return replace(merged, cells=merged.cells if merged.is_alive else DEFAULTS)


def _delete_always_wins(row, window, write, sees):
    return DELETE_OF(row, [other for other in window if other.kind is DELETE], write, sees)


def _deletes_do_not_know_each_other(row, window, write, sees):
    return DELETE_OF(row, [other for other in window if other.kind is not DELETE], write, sees)


def _winner_never_changes(entry, *rest):
    return entry if entry.winner is not None else WITH_WINNER(entry, *rest)


def _delete_lost_to_the_greatest(other, entry, merged, sees):
    return STANDS_AGAINST(other, entry, merged, lambda a, b: False)


def _final_is_as_any(row, window, write, sees):
    return DELETE_OF(row, window, replace(write, is_final=False), sees)


def _final_unseen_is_missed(row, window, write, sees, columns):
    return PUT(row, [replace(other, is_final=False) for other in window], write, sees, columns)


def _counted_from_the_sum(cell, column, firsts, write, columns):
    return REBASED(columns.stated(firsts[0])[column], column, firsts, write, columns)


def _remove_wins(cell, column, puts, write, sees, columns):
    return SET_OF(cell, column, [], write, sees, columns)


def _all_are_registers(later, earlier, column, columns):
    return SUPERSEDES(later, earlier, column, Columns(columns.defaults))


def _settled_half_seen(write, entry, merged, sees, columns):
    return CLEARS(write, replace(entry, winner=entry.change), merged, sees, columns)


def _edits_are_of_now(row, column, puts, write):
    return EDITED(row, column, [], write)


PUT = merge._put
WITH_CELLS = merge._with_cells
REBASED = merge._rebased
SET_OF = merge._set
EDITED = merge._edited
DELETE_OF = merge._delete
SUPERSEDES = merge._supersedes
CLEARS = merge._clears
WITH_WINNER = merge._with_winner
STANDS_AGAINST = merge._stands_against

MUTANTS = {
    "a key has one life only": ("merge_write", _one_life),
    "an older life leaks into a newer one": ("_put", _older_cells_stay),
    "the last to arrive wins": ("_with_cells", _arrival_decides),
    "a dead row's image is not kept": ("_delete", _image_not_kept),
    "a delete wins over what it had not seen": ("_delete", _delete_always_wins),
    "a write survives although another delete saw it": ("_delete", _deletes_do_not_know_each_other),
    "a final delete is one like any other": ("_delete", _final_is_as_any),
    "a counter's new beginning forgets what was added": ("_rebased", _counted_from_the_sum),
    "a removal takes what it had not seen": ("_set", _remove_wins),
    "edits are made where the text is now": ("_edited", _edits_are_of_now),
    "an increment overrides one before it": ("_supersedes", _all_are_registers),
    "whoever counts settles what it never saw": ("_clears", _settled_half_seen),
    "every insert counts as the first": ("_saw_birth", lambda row, puts: row.births > 0 and row.is_alive),
    "entries are never cleared": ("_clears", lambda *_: False),
    "entries are cleared unseen": ("_clears", lambda *_: True),
    "any write clears the whole row": (
        "_clears",
        lambda write, entry, merged, sees, columns: sees(write.change, entry.change),
    ),
    "an older life is not superseded": (
        "_supersedes",
        lambda later, earlier, column, columns: (
            later.kind is DELETE or (later.life == earlier.life and column in later.cells)
        ),
    ),
    "a delete supersedes nothing": (
        "_supersedes",
        lambda later, earlier, column, columns: (
            later.kind is not DELETE and SUPERSEDES(later, earlier, column, columns)
        ),
    ),
    "equal values conflict": ("same", lambda a, b: False),
    "1 and True-ish values are the same": ("same", lambda a, b: bool(a) == bool(b)),
    "a winner is named once and for all": ("_with_winner", _winner_never_changes),
    "a lost delete names what it ended": ("_stands_against", _delete_lost_to_the_greatest),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_merge_is_found(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The law above would be worth nothing if it let these pass."""
    name, replacement = MUTANTS[mutant]
    monkeypatch.setattr(merge, name, replacement)

    assert any(disagreement(Random(seed), merge.merge_write, change_count=16) is not None for seed in SEEDS)


def test_a_final_delete_of_a_life_to_come_is_missed_only_where_writers_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """MRG-4: an honest final DELETE ends what it sees, so the row remembers it and no window is asked."""
    monkeypatch.setattr(merge, "_put", _final_unseen_is_missed)

    assert any(disagreement(Random(seed), merge.merge_write, change_count=16, liars=True) for seed in SEEDS)


def test_a_life_that_nobody_began_is_missed_only_where_writers_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """MRG-2: honest members never need `is_born`, which is why the laws are run with liars too."""

    def everything_is_born(row, window, write, sees, columns):
        merged = PUT(row, window, write, sees, columns)
        return replace(merged, is_alive=merged.life > 0 and not merged.is_ended)

    monkeypatch.setattr(merge, "_put", everything_is_born)

    assert any(disagreement(Random(seed), change_count=16, liars=True) is not None for seed in SEEDS)


# -- counters, sets, texts and final deletes -------------------------------------------------


def test_a_final_delete_ends_a_row_whatever_it_had_not_seen() -> None:
    """S21 under "wins", MRG-4, MRG-6: gone everywhere, and what nobody had seen is listed."""
    space, insert = begun(a=1, b=1)
    update = space.change(ANA, [insert], 20, {"k": (UPDATE, 1, {b"a": 2})})
    delete = space.change(BEN, [insert], 5, {"k": (DELETE, 1, {}, True)})

    shown = outcome(space)

    assert row_of(shown) is None
    assert shown.conflicts == {Conflict(b"a", update.ref, "2", delete.ref, "None")}


def test_what_two_counted_apart_is_added_once_each_however_often_it_comes() -> None:
    """S24, TYP-2: +1 and +1, and two who each add 3: eight more; a change is applied once."""
    space, insert = begun(n=10)
    ones = [space.change(who, [insert], 20, {"k": (UPDATE, 1, {b"n": 1})}) for who in (ANA, BEN)]
    for who in (ANA, BEN):
        space.change(who, [insert, *[one for one in ones if one.ref.log == who]], 30, {"k": (UPDATE, 1, {b"n": 3})})

    assert row_of(outcome(space)) == {"n": "18"}

    copy = Copy()
    for change in [*space.changes, *space.changes, *space.changes]:
        if copy.can_apply(change):
            copy.apply(change)
    assert dict(copy.shows("k").cells)[b"n"] == "18"


def test_two_withdrawals_below_zero_are_both_kept() -> None:
    """S25: the sum says what happened; that it is below zero is for a CHECK to list, and no reason to lose one."""
    space, insert = begun(n=100)
    space.change(ANA, [insert], 20, {"k": (UPDATE, 1, {b"n": -80})})
    space.change(BEN, [insert], 20, {"k": (UPDATE, 1, {b"n": -80})})

    shown = outcome(space)

    assert row_of(shown) == {"n": "-60"}
    assert not shown.conflicts


def test_a_counter_begun_apart_counts_from_the_greater_order_and_keeps_every_increment() -> None:
    """TYP-2: what lost is compared with what it lost to, and not with the sum."""
    space = Space()
    lost = space.change(ANA, [], 10, {"k": (INSERT, 1, {b"n": 100})})
    won = space.change(BEN, [], 20, {"k": (INSERT, 1, {b"n": 7})})
    space.change(ANA, [lost], 30, {"k": (UPDATE, 1, {b"n": 93})})

    shown = outcome(space)

    assert row_of(shown) == {"n": "100"}
    assert shown.conflicts == {Conflict(b"n", lost.ref, "100", won.ref, "100")}

    space.change(BEN, space.changes, 40, {"k": (UPDATE, 1, {b"n": 0})})
    assert not outcome(space).conflicts


def test_a_counter_wraps_around_so_that_no_order_overflows_and_another_does_not() -> None:
    """TYP-2, S35."""
    space, insert = begun(n=2**63 - 1)
    space.change(ANA, [insert], 20, {"k": (UPDATE, 1, {b"n": 1})})
    space.change(BEN, [insert], 20, {"k": (UPDATE, 1, {b"n": -1})})

    assert row_of(outcome(space)) == {"n": str(2**63 - 1)}


def test_an_element_added_where_it_was_removed_unseen_stays_and_goes_once_seen() -> None:
    """S23, TYP-3."""
    space = Space()
    insert = space.change(ANA, [], 10, {"k": (INSERT, 1, {b"s": '["x"]'})})
    space.change(ANA, [insert], 20, {"k": (UPDATE, 1, {b"s": '[[],["x"]]'})})
    space.change(BEN, [insert], 5, {"k": (UPDATE, 1, {b"s": '[["x","y"],[]]'})})

    assert row_of(outcome(space)) == {"s": '\'["x","y"]\''}

    space.change(MIRA, space.changes, 30, {"k": (UPDATE, 1, {b"s": '[[],["x"]]'})})
    assert row_of(outcome(space)) == {"s": "'[\"y\"]'"}


def typed(*edits: tuple[int, int, str]) -> dict[bytes, object]:
    return {b"t": encode_edits(Edit(*edit) for edit in edits)}


def test_what_several_type_at_one_point_is_not_interleaved() -> None:
    """S30, TYP-4: run by run, and letter by letter in changes of their own."""
    space = Space()
    insert = space.change(ANA, [], 10, {"k": (INSERT, 1, {b"t": "()"})})
    for who, word in ((ANA, "milk"), (BEN, "eggs"), (MIRA, "bread")):
        seen = [insert]
        for place, letter in enumerate(word):
            seen.append(space.change(who, seen, 20 + place, {"k": (UPDATE, 1, typed((1 + place, 0, letter)))}))
    shown = Copy()
    for change in sorted(space.changes, key=lambda change: change.order):
        shown.apply(change)
    other = Copy()
    for change in sorted(space.changes, key=lambda change: change.ref):
        other.apply(change)

    text = dict(shown.shows("k").cells)[b"t"]
    assert all(word in text for word in ("milk", "eggs", "bread"))
    assert len(text) == len("'()'") + len("milkeggsbread")
    assert other.shows("k") == shown.shows("k") == expected(space.changes, "k")


def test_one_text_inserted_twice_is_one_and_two_stand_one_after_the_other() -> None:
    """TYP-4."""
    space = Space()
    for who, text in ((ANA, "one"), (BEN, "one"), (MIRA, "two")):
        space.change(who, [], 10, {"k": (INSERT, 1, {b"t": text})})

    shown = outcome(space)

    assert row_of(shown) in ({"t": "'onetwo'"}, {"t": "'twoone'"})
    assert not shown.conflicts


def test_an_edit_beyond_the_end_is_cut_there() -> None:
    """TYP-4, T9: only a faulty writer makes one, and it must be the same everywhere."""
    space = Space()
    insert = space.change(ANA, [], 10, {"k": (INSERT, 1, {b"t": "abc"})})
    space.change(BEN, [insert], 20, {"k": (UPDATE, 1, typed((2, 99, "!"), (10**12, 0, "?")))})

    assert row_of(outcome(space)) == {"t": "'ab!?'"}


def test_moved_twice_is_in_one_place_and_two_moves_under_each_other_can_close_a_circle() -> None:
    """S28, S29: a parent is a cell, so there is one place and no duplicate; that it makes a tree nobody checks."""
    space = Space()
    rows = space.change(ANA, [], 10, {key: (INSERT, 1, {b"a": "root"}) for key in ("k", "l")})
    space.change(ANA, [rows], 20, {"k": (UPDATE, 1, {b"a": "l"})})
    space.change(BEN, [rows], 21, {"l": (UPDATE, 1, {b"a": "k"})})
    twice = space.change(MIRA, [rows], 22, {"k": (UPDATE, 1, {b"a": "elsewhere"})})

    assert row_of(outcome(space)) == {"a": "'elsewhere'"}

    without = [change for change in space.changes if change is not twice]
    assert {dict(expected(without, key).cells)[b"a"] for key in ("k", "l")} == {"'l'", "'k'"}


# -- every order ------------------------------------------------------------------------------


def _every_order_agrees(space: Space) -> int:
    """Apply in every causal order, each change three times over; return how many orders there were."""
    keys = sorted({key for change in space.changes for key in change.writes})
    want = {key: expected(space.changes, key) for key in keys}
    count = 0
    for order in causal_orders(space.changes):
        count += 1
        copy = Copy()
        for change in order:
            for again in (change, *order[: count % len(order)]):
                if copy.can_apply(again):
                    copy.apply(again)
        assert {key: copy.shows(key) for key in keys} == want
    return count


@pytest.mark.parametrize("liars", [False, True])
def test_every_order_with_replays_gives_what_the_set_says(liars: bool) -> None:
    """S35, S18 to S25, S30, S31: by exhaustion, n up to 5."""
    orders = sum(_every_order_agrees(draw_fleet(Random(seed), change_count=5, liars=liars)) for seed in range(25))

    assert orders > 200


def test_six_changes_that_knew_of_nobody_come_in_all_720_orders() -> None:
    """S35."""
    space = Space()
    for member in range(6):
        cells = {b"a": member, b"n": member, b"s": f"[{member % 2}]", b"t": "ab" if member % 2 else "c"}
        space.change(member, [], 10 + member % 3, {"k": (INSERT, 1, cells)})

    assert _every_order_agrees(space) == 720


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(60))
def test_every_order_of_six_and_seven_changes(seed: int) -> None:
    """S35."""
    _every_order_agrees(draw_fleet(Random(seed), change_count=6 + seed % 2, liars=seed % 3 == 0))
