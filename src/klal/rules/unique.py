"""Which rows may be seen when several hold a value that must be UNIQUE: no row is lost, and all replicas agree.

SQLite keeps one row per value; a merge may bring two. Each row has a claim, rows are taken
in the order of their claims, and one that finds a value of its own taken is hidden, with all
its data, until that value is free. It matters only how two rows that share a value compare,
so nothing needs to be known of any other row.

Law: what is visible is a function of the rows that are alive, their values and their claims.

Source:
    Protocol spec section 10, rules UNQ-1 to UNQ-4 (S26). Decision D12.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from klal.model.schema import Value, fold

K = TypeVar("K", bound=Hashable)


class Claimant(NamedTuple):
    """A row that is alive, as far as UNIQUE goes.

    Shape:
        has_survived: it lives on after a DELETE that had not seen some write of it.
        order: order key, as bytes that sort, of the newest write that won a cell UNIQUE depends on.
        key: its encoded key.
        values: (number of the rule, the value as compared) of every rule that it falls under.
    """

    has_survived: bool
    order: bytes
    key: bytes
    values: frozenset[Hashable]


def visible(rows: Mapping[K, Claimant]) -> set[K]:
    """Return the rows that may be seen (UNQ-2).

    A survivor comes after all others: whoever took the value meanwhile took it in good faith.
    """
    taken: set[Hashable] = set()
    seen = set()
    for name, row in sorted(rows.items(), key=lambda item: item[1][:3]):
        if taken.isdisjoint(row.values):
            taken |= row.values
            seen.add(name)
    return seen


def compared(values: Sequence[Value], collations: Sequence[str]) -> Hashable | None:
    """Return what is equal for values that SQLite holds to be one in a UNIQUE, or None where one is NULL."""
    if None in values:
        return None
    return tuple(_compared(value, collation) for value, collation in zip(values, collations, strict=True))


def _compared(value: Value, collation: str) -> Hashable:
    if isinstance(value, str):
        if collation == "NOCASE":
            # SQLite compares without case up to the first NUL, and then only the sizes.
            return "text", fold(value.partition("\0")[0]), len(value.encode())
        if collation == "RTRIM":
            value = value.rstrip(" ")
        return "text", value
    # 1 and 1.0 are equal in Python as in SQLite.
    return ("blob" if isinstance(value, bytes) else "number"), value
