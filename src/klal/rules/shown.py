"""What a row shows, worked out from all of its writes at once.

Whoever reads the past has every write of a key before it, and no state to start from. So
this is the definition itself, rules MRG-2 to MRG-4, and `klal.rules.merge` is what makes
it one write at a time. Only visibility asks who had seen what, and only of deleted rows.

Law: `shown` of a key's writes is what `merge_write` makes of them in any causal order.

Source:
    Protocol spec section 10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from klal.model.payload import Kind
from klal.model.schema import Value
from klal.rules.merge import ChangeRef, Sees


class PastWrite(NamedTuple):
    """One row write of one applied change; its place among others says how the order keys compare."""

    change: ChangeRef
    kind: Kind
    life: int
    cells: Mapping[bytes, Value]
    is_final: bool = False


def shown(writes: Sequence[PastWrite], sees: Sees, defaults: Mapping[bytes, Value]) -> Mapping[bytes, Value] | None:
    """Return the cells of a visible row, or None where no row is visible.

    Args:
        writes: All writes of one key within a causally closed set of changes, by ascending order key.
        sees: sees(a, b) is True when change b is in the past of change a.
        defaults: What a cell shows that no write of its life wrote, by column id.
    """
    puts = [write for write in writes if write.kind is not Kind.DELETE]
    life = max((put.life for put in puts), default=0)
    current = [put for put in puts if put.life == life]
    if not any(put.kind is Kind.INSERT for put in current):
        return None
    ends = [write for write in writes if write.kind is Kind.DELETE and write.life == life]
    if any(end.is_final and not all(sees(put.change, end.change) for put in current) for end in ends):
        return None
    if ends and all(any(sees(end.change, put.change) for end in ends) for put in current):
        return None
    cells = dict(defaults)
    for put in current:
        cells.update(put.cells)
    return cells
