"""Merging one key: what the rules promise, and that a window is enough to keep it. Rules MRG-1 to MRG-7."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.model.payload import Kind
from klal.rules import merge
from klal.rules.merge import RowState, Write, merge_write, same
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
    for seed in range(60):
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
    return Write(write.change, write.order, write.kind, 1, write.cells)


def _one_life(row, window, write, sees, defaults):
    return merge_write(row, [*map(_in_first_life, window)], _in_first_life(write), sees, defaults)


def _arrival_decides(row, window, write, defaults):
    return PUT(row, [other for other in window if other.kind is DELETE], write, defaults)


def _older_cells_stay(row, window, write, defaults):
    return PUT(row, window, write, {**defaults, **(row.cells or {})})


def _image_not_kept(row, window, write, sees):
    merged = DELETE_OF(row, window, write, sees)
    cells = merged.cells if merged.is_alive else None
    return RowState(merged.life, cells, merged.is_alive, merged.is_born, merged.was_deleted, merged.entries)


def _delete_always_wins(row, window, write, sees):
    return DELETE_OF(row, [other for other in window if other.kind is DELETE], write, sees)


def _deletes_do_not_know_each_other(row, window, write, sees):
    return DELETE_OF(row, [other for other in window if other.kind is not DELETE], write, sees)


def _winner_never_changes(entry, merged, everyone, write, sees):
    return entry if entry.winner is not None else WITH_WINNER(entry, merged, everyone, write, sees)


def _delete_lost_to_the_greatest(other, entry, sees):
    return STANDS_AGAINST(other, entry, lambda a, b: False)


PUT = merge._put
DELETE_OF = merge._delete
SUPERSEDES = merge._supersedes
WITH_WINNER = merge._with_winner
STANDS_AGAINST = merge._stands_against

MUTANTS = {
    "a key has one life only": ("merge_write", _one_life),
    "an older life leaks into a newer one": ("_put", _older_cells_stay),
    "the last to arrive wins": ("_put", _arrival_decides),
    "a dead row's image is not kept": ("_delete", _image_not_kept),
    "a delete wins over what it had not seen": ("_delete", _delete_always_wins),
    "a write survives although another delete saw it": ("_delete", _deletes_do_not_know_each_other),
    "entries are never cleared": ("_clears", lambda write, entry, sees: False),
    "entries are cleared unseen": ("_clears", lambda write, entry, sees: True),
    "any write clears the whole row": ("_clears", lambda write, entry, sees: sees(write.change, entry.change)),
    "an older life is not superseded": (
        "_supersedes",
        lambda later, earlier, column: later.kind is DELETE or (later.life == earlier.life and column in later.cells),
    ),
    "a delete supersedes nothing": (
        "_supersedes",
        lambda later, earlier, column: later.kind is not DELETE and SUPERSEDES(later, earlier, column),
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


def test_a_life_that_nobody_began_is_missed_only_where_writers_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """MRG-2: honest members never need `is_born`, which is why the laws are run with liars too."""

    def everything_is_born(row, window, write, defaults):
        merged = PUT(row, window, write, defaults)
        return RowState(merged.life, merged.cells, merged.life > 0, merged.life > 0, merged.was_deleted)

    monkeypatch.setattr(merge, "_put", everything_is_born)

    assert any(disagreement(Random(seed), change_count=16, liars=True) is not None for seed in SEEDS)
