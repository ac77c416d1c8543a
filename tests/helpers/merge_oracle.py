"""What a key must look like, worked out from the whole set of changes at once: no order of arrival, no window.

This is the definition that `klal.rules.merge` must agree with. It reads every write of a key and asks of each whether
another one has seen it, which is what an engine cannot afford and a test can.

The fleets that it is held against are drawn here too: members that write what they see, hear of each other in pieces,
and have clocks that are wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from types import MappingProxyType

import loro
import msgspec

from klal.model.codec import tagged_hash
from klal.model.header import NO_CERTIFICATE
from klal.model.payload import Kind
from klal.model.schema import Merge as Type
from klal.rules.merge import ChangeRef, Columns, RowState, Sees, Write, merge_write
from klal.rules.order import OrderKey, draw_of, order_stamp
from klal.rules.text import Edit, encode_edits

REGISTERS = (b"a", b"b", b"late")  # The last one is unknown to some writers, as an added column is.
TYPES = MappingProxyType({b"n": Type.COUNTER, b"s": Type.SET, b"t": Type.TEXT})
COLUMNS = (*REGISTERS, *TYPES)
DEFAULTS = MappingProxyType({b"a": None, b"b": None, b"late": 0, b"n": 5, b"s": "[]", b"t": "ab"})
TABLE = Columns(DEFAULTS, TYPES)
SPACE = bytes(32)

Key = str
Value = int | float | str | bytes | None
Merge = Callable[[RowState, Sequence[Write], Write, Sees, Columns], RowState]


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
    births = [change for change in puts if change.writes[key].kind is Kind.INSERT]
    deletes = [change for change in touching if change.writes[key].kind is Kind.DELETE]
    life = max((change.writes[key].life for change in puts), default=0)
    current = [change for change in puts if change.writes[key].life == life]
    ends = [change for change in deletes if change.writes[key].life == life]

    is_born = any(change.writes[key].kind is Kind.INSERT for change in current)
    finals = [end for end in ends if end.writes[key].is_final and any(end.ref not in put.past for put in current)]
    is_alive = is_born and not finals and any(not _seen_by_any(put, ends) for put in current)
    top: dict[bytes, Change] = {}
    for put in sorted(current, key=lambda change: change.order):
        top.update(dict.fromkeys(put.writes[key].cells, put))
    row = {column: repr(default) for column, default in DEFAULTS.items() if life}
    row.update({column: repr(put.writes[key].cells[column]) for column, put in top.items() if column in REGISTERS})
    began = [put for put in births if put in current and not _saw_any(put, [i for i in births if i in current])]
    added = [
        put
        for put in current
        if put.writes[key].kind is Kind.UPDATE and _saw_any(put, [i for i in births if i in current])
    ]
    if life:
        row[b"n"], base = counter_of(key, began, added)
        row[b"s"] = set_of(key, current)
        row[b"t"] = text_of(key, began, added)

    conflicts = set()
    for put in puts:
        write = put.writes[key]
        for column, value in write.cells.items():
            if _seen_by_any(put, deletes) or _seen_by_any(put, _overwriting(puts, key, put, column)):
                continue
            stands = row[column] if is_alive else None
            shown = repr(spelled(write, column))
            winner = None
            if write.life == life:
                winner = top[column].ref
                if finals:
                    unseen = [end for end in finals if end.ref not in put.past]
                    winner = max(unseen, key=lambda end: end.order).ref if unseen else None
                elif is_alive and column in TYPES:
                    if base is None or column != b"n" or put not in began or value == stated(base, key, column):
                        continue
                    if any(b"n" in u.writes[key].cells and {put.ref, base.ref} <= u.past for u in added):
                        continue
                    stands, shown, winner = None, repr(value), base.ref
            if stands != shown:
                conflicts.add(Conflict(column, put.ref, shown, winner, row[column] if is_alive else "None"))
    for end in ends if is_alive else ():
        if not _seen_by_any(end, touching):
            against = [put for put in current if put.ref not in end.past]
            winner = max(against, key=lambda put: put.order).ref
            conflicts.add(Conflict(None, end.ref, "None", winner, "None"))
    return Expected(life, frozenset(row.items()), is_alive, frozenset(conflicts))


def stated(insert: Change, key: Key, column: bytes) -> Value:
    """Return what an INSERT begins a counter, set or text with."""
    return insert.writes[key].cells.get(column, DEFAULTS[column])


def counter_of(key: Key, began: Collection[Change], added: Collection[Change]) -> tuple[str, Change | None]:
    """Return what a counter shows, and the INSERT that it counts from."""
    if not began:
        return repr(DEFAULTS[b"n"]), None
    base = max(began, key=lambda put: put.order)
    total = stated(base, key, b"n") + sum(put.writes[key].cells.get(b"n", 0) for put in added)
    return repr((total + 2**63) % 2**64 - 2**63), base


def set_of(key: Key, puts: Collection[Change]) -> str:
    """Return what a set shows: whatever was put in by somebody whom nobody who took it out had seen."""
    into, out = [], []
    for put in puts:
        write = put.writes[key]
        parts = json.loads(write.cells.get(b"s", "[[],[]]" if write.kind is Kind.UPDATE else "[]"))
        plus, minus = (parts, []) if write.kind is Kind.INSERT else parts
        into.extend((element, put) for element in plus)
        out.extend((element, put) for element in minus)
    stays = {
        json.dumps(element)
        for element, put in into
        if not any(other == element and put.ref in taker.past for other, taker in out)
    }
    return repr("[" + ",".join(sorted(stays)) + "]")


def text_of(key: Key, began: Collection[Change], added: Collection[Change]) -> str:
    """Return what a text shows: each put made upon a document of exactly what it had seen, and all of them joined."""
    added = [put for put in added if b"t" in put.writes[key].cells]
    texts = {stated(put, key, b"t") for put in began} or {DEFAULTS[b"t"]}
    if len(texts) == 1 and not added:
        return repr(*texts)
    identity = {put.ref: tagged_hash("klal/text/1", stated(put, key, b"t").encode()) for put in began}
    for put in sorted(added, key=lambda change: change.order):
        seen = sorted({each for ref, each in identity.items() if ref in put.past})
        write = put.writes[key]
        upon = tagged_hash("klal/texts/1", *seen)
        place = put.ref.seq.to_bytes(8, "big")
        identity[put.ref] = tagged_hash(
            "klal/edits/1", write.log_id, place, upon, bytes(write.cells.get(b"t", b"\x90"))
        )
    rank = {each: place for place, each in enumerate(sorted(set(identity.values())), 1)}
    made: dict[ChangeRef, bytes] = {}
    for put in sorted([*began, *added], key=lambda change: change.order):
        document = loro.LoroDoc()
        document.peer_id = rank[identity[put.ref]]
        for ref, seen in made.items():
            if ref in put.past:
                document.import_(seen)
        text = document.get_text("t")
        if put.writes[key].kind is Kind.INSERT:
            text.insert(0, stated(put, key, b"t"))
        for at, deleted, inserted in (
            msgspec.msgpack.decode(put.writes[key].cells.get(b"t", b"\x90")) if put in added else ()
        ):
            place = min(at, text.len_unicode)
            text.delete(place, min(deleted, text.len_unicode - place))
            text.insert(place, inserted)
        document.commit()
        made[put.ref] = document.export(loro.ExportMode.Snapshot())
    whole = loro.LoroDoc()
    whole.import_batch(list(made.values()))
    return repr(whole.get_text("t").to_string())


def spelled(write: Write, column: bytes) -> Value:
    """Return what a put says, as the list of conflicts spells it."""
    value = write.cells[column]
    if column in REGISTERS or write.kind is Kind.INSERT:
        return value
    if column == b"n":
        return f"{value:+d}"
    if column == b"s":
        plus, minus = json.loads(value)
        return " ".join([f"+{json.dumps(each)}" for each in plus] + [f"-{json.dumps(each)}" for each in minus])
    words = []
    for _, deleted, inserted in msgspec.msgpack.decode(value):
        words += [f"-{deleted}"] * bool(deleted) + [f'+"{inserted}"'] * bool(inserted)
    return " ".join(words)


def _saw_any(change: Change, others: Collection[Change]) -> bool:
    return any(other.ref in change.past for other in others)


def _seen_by_any(change: Change, others: Collection[Change]) -> bool:
    return any(change.ref in other.past for other in others)


def _overwriting(puts: Collection[Change], key: Key, earlier: Change, column: bytes) -> list[Change]:
    """Return the writes that, if they have seen it, put what `earlier` wrote in `column` to rest."""
    write = earlier.writes[key]
    adds = column in TYPES
    return [
        put
        for put in puts
        if put.writes[key].life > write.life
        or (put.writes[key].life == write.life and column in put.writes[key].cells and not adds)
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
                self.rows.get(key, RowState()), window, write, lambda a, b, known=known: b in known[a].past, TABLE
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
            writes: key -> (kind, life, cells), of a final DELETE with True after them.
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
            {
                key: Write(ref, order, *write, *[False] * (4 - len(write)), log_id(member))
                for key, write in writes.items()
            },
        )
        self.changes.append(made)
        return made


def log_id(member: int) -> bytes:
    """Return a member's log id; all of them begin alike, as those of somebody who looks for such would."""
    return bytes(7) + sha256(bytes([member])).digest()[:25]


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
    columns = COLUMNS if random.random() < 0.4 else COLUMNS[:-1]  # Texts take longest.
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
        writes = {key: draw_write(random, copy.rows.get(key, RowState()), columns, liars=liars) for key in chosen}
        made = space.change(member, copy.applied.values(), max(0, now + skews[member]), writes)
        copy.apply(made)
    return space


def draw_write(random: Random, row: RowState, columns: Sequence[bytes], *, liars: bool) -> tuple[object, ...]:
    """Return (kind, life, cells, is final) of a write that somebody who sees `row` could make."""
    if liars and random.random() < 0.3:
        kind = random.choice([Kind.INSERT, Kind.UPDATE, Kind.DELETE])
        chosen = random.sample(columns, random.randint(1, len(columns)))
        cells = {} if kind is Kind.DELETE else draw_cells(random, kind, chosen)
        return kind, random.randint(1, 3), cells, kind is Kind.DELETE and random.random() < 0.3
    if not row.is_alive:
        known = [column for column in columns if random.random() < 0.8]
        return Kind.INSERT, row.life + 1, draw_cells(random, Kind.INSERT, known), False
    if random.random() < 0.35:
        return Kind.DELETE, row.life, {}, random.random() < 0.3
    chosen = random.sample(columns, random.randint(1, 2))
    return Kind.UPDATE, row.life, draw_cells(random, Kind.UPDATE, chosen), False


def draw_cells(random: Random, kind: Kind, columns: Collection[bytes]) -> dict[bytes, Value]:
    """Return what a put writes into these columns."""
    return {column: draw_cell(random, kind, column) for column in columns}


def draw_cell(random: Random, kind: Kind, column: bytes) -> Value:
    elements = ['"x"', '"y"', "1", "null"]
    if column in REGISTERS:
        return random.choice([0, 1, 2, None])
    if column == b"n":
        return random.choice([-2, 0, 1, 3, 2**63 - 1])
    if column == b"s":
        if kind is Kind.INSERT:
            return f"[{','.join(sorted(random.sample(elements, random.randint(0, 2))))}]"
        drawn = random.sample(elements, random.randint(0, 3))
        plus, minus = sorted(drawn[:1]), sorted(drawn[1:])
        return f"[[{','.join(plus)}],[{','.join(minus)}]]"
    if kind is Kind.INSERT:
        return random.choice(["", "ab", "one two", "z"])
    edits = []
    for _ in range(random.randint(0, 2)):
        deleted = random.randint(0, 2)
        edits.append(
            Edit(random.randint(0, 9), deleted, random.choice(["PQ", "r", "\U0001f600"] + [""] * bool(deleted)))
        )
    return encode_edits(edits)


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
