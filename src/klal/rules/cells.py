"""Cells that several writers may change at once and none of them loses: counters, sets and texts.

A put says what it adds to what it saw, and not what the cell shall show: a difference,
elements in and out, edits. An INSERT says what the life begins with. Both have one
canonical spelling as an SQL value, so that equal changes are equal bytes.

Law: `canonical_set(s) == s` for everything that a set cell shows, and `wrapped` is a
homomorphism: the order in which differences are added does not show.

Source:
    Protocol spec section 10, rules TYP-1 to TYP-4.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from klal.errors import MalformedError
from klal.model.payload import Kind
from klal.model.schema import Merge, Value
from klal.rules.text import decode_edits, edits_text

_INT_MAX = 1 << 63


def wrapped(number: int) -> int:
    """Return a number modulo 2^64, as the signed 64 bits that SQLite holds (TYP-2)."""
    return (number + _INT_MAX) % (2 * _INT_MAX) - _INT_MAX


# -- sets ----------------------------------------------------------------------------------


def elements_of(text: Value) -> set[str]:
    """Return the elements of a set cell, each as its JSON text.

    Raises:
        MalformedError: TYP-3, not a JSON array of texts, 64-bit integers, true, false and null.
    """
    return set(map(_element, _array(text)))


def set_text(elements: Iterable[str]) -> str:
    """Return what a set cell with these elements shows: one spelling for one set."""
    return f"[{','.join(sorted(elements))}]"


def canonical_set(text: Value) -> str:
    """Return the one spelling of a set that somebody wrote as JSON.

    Raises:
        MalformedError: TYP-3.
    """
    return set_text(elements_of(text))


def set_change(old: Value, new: Value) -> str:
    """Return what an UPDATE from one set to another carries: `[[added], [removed]]`."""
    before, after = elements_of(old), elements_of(new)
    return f"[{set_text(after - before)},{set_text(before - after)}]"


def change_of_set(change: Value) -> tuple[set[str], set[str]]:
    """Return (added, removed) of a set's UPDATE.

    Raises:
        MalformedError: TYP-3, not spelled as `set_change` spells it, or an element on both sides.
    """
    parts = _array(change)
    if len(parts) != 2 or not all(isinstance(part, list) for part in parts):
        raise MalformedError("change of a set is not [[added], [removed]]", rule="TYP-3")
    added, removed = (set(map(_element, part)) for part in parts)
    if added & removed or change != f"[{set_text(added)},{set_text(removed)}]":
        raise MalformedError("change of a set is not in its one spelling", rule="TYP-3")
    return added, removed


def _array(text: Value) -> list[Any]:
    if not isinstance(text, str):
        raise MalformedError(f"set is {type(text).__name__}, want a JSON array as text", rule="TYP-3")
    try:
        array = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"set {text!r:.60} is not JSON", rule="TYP-3") from error
    if not isinstance(array, list):
        raise MalformedError(f"set {text!r:.60} is not a JSON array", rule="TYP-3")
    return array


def _element(value: Any) -> str:
    if value is not None and type(value) not in (str, int, bool):
        raise MalformedError(
            f"set has element {value!r:.40}, want a text, an integer, true, false or null", rule="TYP-3"
        )
    if type(value) is int and not -_INT_MAX <= value < _INT_MAX:
        raise MalformedError("set has an integer beyond 64 bits", rule="TYP-3")
    # Letters stay as they are: escapes would sort, and read, otherwise.
    spelled = json.dumps(value, ensure_ascii=False)
    if not spelled.isascii() and any("\ud800" <= letter <= "\udfff" for letter in spelled):
        raise MalformedError("set has a text that is not valid Unicode", rule="TYP-3")
    return spelled


# -- what travels --------------------------------------------------------------------------


def readable(merge: Merge, kind: Kind, value: Value) -> Value:
    """Return what a put says as a person reads it in the list of conflicts.

    A difference keeps its sign as text, so that nobody takes it for a value.
    """
    if merge is Merge.REGISTER or kind is Kind.INSERT:
        return value
    if merge is Merge.COUNTER:
        assert isinstance(value, int), "a counter's difference was checked when it came"
        return f"{value:+}"
    if merge is Merge.TEXT:
        return edits_text(value)
    added, removed = change_of_set(value)
    return " ".join([*(f"+{each}" for each in sorted(added)), *(f"-{each}" for each in sorted(removed))])


def check_cells(merge: Merge, kind: Kind, values: Sequence[Value]) -> None:
    """Return if a foreign segment may carry these values for a counter, set or text (APP-4).

    Raises:
        MalformedError: TYP-2 to TYP-4.
    """
    if merge is Merge.SET:
        for value in values:
            if kind is Kind.UPDATE:
                change_of_set(value)
            elif canonical_set(value) != value:
                raise MalformedError("set is not in its one spelling", rule="TYP-3")
        return
    if merge is Merge.TEXT and kind is Kind.UPDATE:
        for value in values:
            decode_edits(value)
        return
    wanted, rule = (int, "TYP-2") if merge is Merge.COUNTER else (str, "TYP-4")
    if set(map(type, values)) != {wanted}:
        raise MalformedError(f"{merge.value} column is written with another type than {wanted.__name__}", rule=rule)
