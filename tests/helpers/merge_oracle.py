"""What a key must look like, worked out from the whole set of changes at once: no order of arrival, no window.

This is the definition that `klal.rules.merge` must agree with. It reads every write of a key and asks of each whether
another one has seen it, which is what an engine cannot afford and a test can.

The fleets that it is held against are drawn here too: members that write what they see, hear of each other in pieces,
and have clocks that are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from klal.model.header import NO_CERTIFICATE
from klal.model.payload import Kind
from klal.rules.merge import ChangeRef, RowState, Sees, Write, merge_write
from klal.rules.order import OrderKey, draw_of, order_stamp

COLUMNS = (b"a", b"b", b"late")  # The last one is unknown to some writers, as an added column is.
DEFAULTS = MappingProxyType({b"a": None, b"b": None, b"late": 0})
SPACE = bytes(32)

Key = str
Value = int | float | str | None
Merge = Callable[[RowState, Sequence[Write], Write, Sees, Mapping[bytes, object]], RowState]


@dataclass(frozen=True)
class Change:
    """One change of a drawn fleet.

    Shape:
        past: every change that it had seen, itself not included.
        writes: at most one for each key.
    """

    ref: ChangeRef
    order: OrderKey
    past: frozenset[ChangeRef]
    writes: dict[Key, Write]

    def __repr__(self) -> str:
        writes = ", ".join(
            f"{write.kind.name} {key} life {write.life} {dict(write.cells)}" for key, write in self.writes.items()
        )
        seen = " ".join(f"{log}:{seq}" for log, seq in sorted(self.past))
        return f"\n  {self.ref.log}:{self.ref.seq} stamp {self.order.stamp} saw [{seen}] {writes}"


@dataclass(frozen=True)
class Conflict:
    """One entry as anybody may ask for it. `value` and `winner_value` are spelled, so that 1 and 1.0 differ."""

    column: bytes | None
    change: ChangeRef
    value: str
    winner: ChangeRef | None
    winner_value: str


@dataclass(frozen=True)
class Expected:
    """What there is to know of one key.

    Shape:
        life: the greatest that was written, 0 when none was.
        cells: column and value of that life, whether the row is visible or not.
    """

    life: int
    cells: frozenset[tuple[bytes, str]]
    is_alive: bool
    conflicts: frozenset[Conflict]


def expected(changes: Collection[Change], key: Key) -> Expected:
    """Return what a key must look like once exactly these changes are applied.

    Args:
        changes: Closed under pasts.
        key: Any key.
    """
    touching = [change for change in changes if key in change.writes]
    puts = [change for change in touching if change.writes[key].kind is not Kind.DELETE]
    deletes = [change for change in touching if change.writes[key].kind is Kind.DELETE]
    life = max((change.writes[key].life for change in puts), default=0)
    current = [change for change in puts if change.writes[key].life == life]
    ends = [change for change in deletes if change.writes[key].life == life]

    is_born = any(change.writes[key].kind is Kind.INSERT for change in current)
    is_alive = is_born and any(not _seen_by_any(put, ends) for put in current)
    top: dict[bytes, Change] = {}
    for put in sorted(current, key=lambda change: change.order):
        top.update(dict.fromkeys(put.writes[key].cells, put))
    row = {column: repr(default) for column, default in DEFAULTS.items() if life}
    row.update({column: repr(put.writes[key].cells[column]) for column, put in top.items()})

    conflicts = set()
    for put in puts:
        write = put.writes[key]
        for column, value in write.cells.items():
            if _seen_by_any(put, deletes) or _seen_by_any(put, _overwriting(puts, key, write.life, column)):
                continue
            stands = row.get(column) if is_alive else None
            if stands != repr(value):
                winner = top[column].ref if write.life == life else None
                conflicts.add(Conflict(column, put.ref, repr(value), winner, stands or "None"))
    for end in ends if is_alive else ():
        if not _seen_by_any(end, touching):
            against = [put for put in current if put.ref not in end.past]
            winner = max(against, key=lambda put: put.order).ref
            conflicts.add(Conflict(None, end.ref, "None", winner, "None"))
    return Expected(life, frozenset(row.items()), is_alive, frozenset(conflicts))


def _seen_by_any(change: Change, others: Collection[Change]) -> bool:
    return any(change.ref in other.past for other in others)


def _overwriting(puts: Collection[Change], key: Key, life: int, column: bytes) -> list[Change]:
    """Return the writes that, if they have seen it, put a value of `column` in `life` to rest."""
    return [
        put
        for put in puts
        if put.writes[key].life > life or (put.writes[key].life == life and column in put.writes[key].cells)
    ]


class Copy:
    """One replica that applies changes one by one, looking at its window only."""

    def __init__(self, merge: Merge = merge_write) -> None:
        self._merge = merge
        self.applied: dict[ChangeRef, Change] = {}
        self.rows: dict[Key, RowState] = {}

    def can_apply(self, change: Change) -> bool:
        return change.ref not in self.applied and change.past <= self.applied.keys()

    def apply(self, change: Change) -> None:
        assert self.can_apply(change), "delivery is causal"
        for key, write in change.writes.items():
            window = [
                other.writes[key]
                for other in self.applied.values()
                if key in other.writes and other.ref not in change.past
            ]
            known = {**self.applied, change.ref: change}
            self.rows[key] = self._merge(
                self.rows.get(key, RowState()), window, write, lambda a, b, known=known: b in known[a].past, DEFAULTS
            )
        self.applied[change.ref] = change

    def shows(self, key: Key) -> Expected:
        """Return the key as this copy has it, in the oracle's form."""
        row = self.rows.get(key, RowState())
        cells = frozenset((column, repr(value)) for column, value in (row.cells or {}).items())
        conflicts = [
            Conflict(entry.column, entry.change, repr(entry.value), entry.winner, repr(entry.winner_value))
            for entry in row.entries
        ]
        assert len(set(conflicts)) == len(conflicts), "no conflict is listed twice"
        return Expected(row.life, cells, row.is_alive, frozenset(conflicts))

    def first_difference(self) -> str | None:
        """Return in words where this copy and the oracle part, or None."""
        for key in sorted({key for change in self.applied.values() for key in change.writes}):
            found, want = self.shows(key), expected(self.applied.values(), key)
            if found != want:
                return f"key {key} after {list(self.applied.values())}\nfound {found}\nwant  {want}"
        return None


class Space:
    """Makes changes with the order keys that the protocol gives them."""

    def __init__(self, not_after_ms: int = 1 << 40) -> None:
        self.changes: list[Change] = []
        self._not_after_ms = not_after_ms
        self._lengths: dict[int, int] = {}

    def change(self, member: int, seen: Collection[Change], unix_ms: int, writes: dict[Key, tuple]) -> Change:
        """Return a new change of `member` that had seen exactly `seen`.

        Args:
            member: Its own earlier changes must be among `seen`.
            seen: Closed under pasts.
            unix_ms: What its clock said.
            writes: key -> (kind, life, cells).
        """
        seq = self._lengths.get(member, 0)
        self._lengths[member] = seq + 1
        ref = ChangeRef(member, seq)
        stamp = order_stamp(unix_ms, self._not_after_ms, max((other.order.stamp for other in seen), default=0))
        order = OrderKey(stamp, draw_of(SPACE, NO_CERTIFICATE, bytes([member])), bytes([member, seq]))
        made = Change(
            ref,
            order,
            frozenset(other.ref for other in seen),
            {key: Write(ref, order, kind, life, cells) for key, (kind, life, cells) in writes.items()},
        )
        self.changes.append(made)
        return made


def draw_fleet(random: Random, merge: Merge = merge_write, *, change_count: int = 14, liars: bool = False) -> Space:
    """Return the changes of a few members that write, delete, hear of each other, and have wrong clocks.

    Args:
        random: All dice.
        merge: How the members' own copies merge, so that a broken one is not corrected by an honest one.
        change_count: How many changes to draw.
        liars: Some writes name a life, or a kind, that their past rules out.
    """
    member_count = random.randint(2, 4)
    space = Space(random.choice([1 << 40, 2_000, 50]))
    copies = [Copy(merge) for _ in range(member_count)]
    skews = [random.choice([0, 0, 0, 1, 300_000, -300_000]) for _ in range(member_count)]
    keys = ["k1", "k2"][: random.randint(1, 2)]
    hears = random.random() / 2
    now = 1_000
    while len(space.changes) < change_count:
        now += random.randint(0, 40)
        member = random.randrange(member_count)
        copy = copies[member]
        if random.random() < hears:
            hear(random, copy, list(copies[random.randrange(member_count)].applied.values()), random.choice([1, 2, 99]))
            continue
        chosen = random.sample(keys, random.randint(1, len(keys)))
        writes = {key: draw_write(random, copy.rows.get(key, RowState()), liars=liars) for key in chosen}
        made = space.change(member, copy.applied.values(), max(0, now + skews[member]), writes)
        copy.apply(made)
    return space


def draw_write(random: Random, row: RowState, *, liars: bool) -> tuple[Kind, int, dict[bytes, Value]]:
    """Return (kind, life, cells) of a write that somebody who sees `row` could make."""
    values = [0, 1, 2, None]
    if liars and random.random() < 0.3:
        kind = random.choice([Kind.INSERT, Kind.UPDATE, Kind.DELETE])
        columns = random.sample(COLUMNS, random.randint(1, len(COLUMNS)))
        cells = {} if kind is Kind.DELETE else {column: random.choice(values) for column in columns}
        return kind, random.randint(1, 3), cells
    if not row.is_alive:
        known = COLUMNS[: random.randint(2, 3)]
        return Kind.INSERT, row.life + 1, {column: random.choice(values) for column in known}
    if random.random() < 0.35:
        return Kind.DELETE, row.life, {}
    columns = random.sample(COLUMNS, random.randint(1, 2))
    return Kind.UPDATE, row.life, {column: random.choice(values) for column in columns}


def hear(random: Random, copy: Copy, changes: list[Change], count_max: int) -> None:
    """Apply up to `count_max` of `changes` to `copy`, in a drawn order that causality allows."""
    for change in shuffled_causally(random, copy, changes)[:count_max]:
        copy.apply(change)


def shuffled_causally(random: Random, copy: Copy, changes: Collection[Change]) -> list[Change]:
    """Return what `copy` lacks of `changes`, each after its past, otherwise in any order."""
    lacking = [change for change in changes if change.ref not in copy.applied]
    known = set(copy.applied)
    order = []
    while ready := [change for change in lacking if change.past <= known]:
        change = random.choice(ready)
        lacking.remove(change)
        known.add(change.ref)
        order.append(change)
    return order


def causal_orders(changes: Sequence[Change], before: tuple[Change, ...] = ()) -> Iterator[tuple[Change, ...]]:
    """Yield every order of `changes` in which each comes after its past."""
    if not changes:
        yield before
    known = {change.ref for change in before}
    for change in changes:
        if change.past <= known:
            yield from causal_orders([other for other in changes if other is not change], (*before, change))


def disagreement(random: Random, merge: Merge = merge_write, **fleet: object) -> str | None:
    """Draw a fleet, deliver it in several orders, and return in words where the oracle disagrees, or None."""
    space = draw_fleet(random, merge, **fleet)  # type: ignore[arg-type]
    for _ in range(3):
        copy = Copy(merge)
        for change in shuffled_causally(random, copy, space.changes):
            copy.apply(change)
            # Mid points too: a state that is right only at the end was wrong for whoever looked.
            if (difference := copy.first_difference()) is not None:
                return difference
    return None
