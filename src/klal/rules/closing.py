"""Epochs are computed: the cut, who is counted, and what an open epoch waits for.

Nobody opens an epoch. The cut of an epoch unites the cut before it with the causal pasts
of the counted members' Closes; whoever joined inside the cut is counted too, and so on
until nothing is added. Its steward may go on without somebody, and the certificate says
so. All of it is a function of signed history, so every replica that has it computes the
same; and the same function, given less history, says what a change had in its past.

Laws: an epoch is complete here if and only if every counted Close and every payload under
them is here (W27); one member's silence holds it open until the steward says otherwise,
whoever the others are (W10); no two certificates of one epoch are ever closed (W18).

Source:
    Protocol spec section 13, rules EPO-1 to EPO-9. Decisions D14, D15.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from klal.model.acts import Admit, Expel, Hand, Leave, Retire, Take
from klal.model.acts import Word as Act
from klal.rules.merge import ChangeRef

Vector = Mapping[int, int]
"""Log index -> prefix length; an absent log means 0."""


def is_seen(vector: Vector, change: ChangeRef) -> bool:
    """True when a change lies in this past."""
    return vector.get(change.log, 0) > change.seq


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a member entered the space, or came back to it.

    Shape:
        undoes: as what the member may have gone before, "left", "retired" or "expelled"; of an entry, nothing.
    """

    member_id: bytes
    change: ChangeRef
    undoes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Spoken:
    """A word about an epoch, by whom it was said and where, and its place in the one order."""

    change: ChangeRef
    member_id: bytes
    act: Act
    order: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """What was said of one epoch inside some past, by those who had a right to say it.

    Shape:
        closes: member id -> its Closes, smallest order key first.
        words: in the one order.
    """

    closes: Mapping[bytes, Sequence[ChangeRef]]
    words: Sequence[Spoken] = ()

    def take(self) -> Spoken | None:
        """Return the Take of the highest round, or None while the steward is the one the cut before gave."""
        takes = [spoken for spoken in self.words if isinstance(spoken.act, Take)]
        return min(takes, key=_highest_round_first, default=None)


@dataclass(frozen=True, slots=True)
class Gone:
    """A member of some epoch who is none of the next.

    Shape:
        kind: "left", "retired" or "expelled".
        epoch: the last one it was a member of.
        is_counted: its Close of that epoch is in the cut.
    """

    member_id: bytes
    kind: str
    epoch: int
    reason: str
    is_counted: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """What an epoch is made of.

    Shape:
        lengths: log index -> prefix length inside the cut.
        counted: member ids whose Close it needed, ascending.
        closes: member id -> that member's Close.
        gone: who was a member and is none any more, ascending by id; who is back is left out.
        steward: who had the last word on it, or empty bytes when its place was vacant.
        steward_next: of the next epoch, or empty bytes.
        removals: the words that this epoch goes on without somebody by.
    """

    epoch: int
    lengths: dict[int, int]
    counted: tuple[bytes, ...]
    closes: dict[bytes, ChangeRef]
    gone: tuple[Gone, ...] = ()
    steward: bytes = b""
    steward_next: bytes = b""
    removals: tuple[ChangeRef, ...] = ()

    @property
    def members(self) -> tuple[bytes, ...]:
        """Return the members of the next epoch, as far as the cut knows: the counted who stay."""
        gone = {each.member_id for each in self.gone}
        return tuple(member_id for member_id in self.counted if member_id not in gone)


@dataclass(frozen=True, slots=True)
class Open:
    """Why an epoch has no cut yet.

    Shape:
        waiting: counted members who have not finished, ascending.
        is_too_few: nobody is waited for, and yet fewer than half would be left (EPO-8).
    """

    waiting: tuple[bytes, ...]
    is_too_few: bool = False


@dataclass(frozen=True, slots=True)
class Ground:
    """What a cut is computed from besides the words: all of it is looked up in the file, and tests give their own.

    Shape:
        founder: the space's first member.
        entries: gives every entry and return that is applied here.
        vector_of: a change's past, as prefix lengths; the change itself is in it or not, which makes no difference.
        groups_of: (the Take in force or None, the cut's lengths) -> groups of members, in the order in which the
            steward had come to know them: at least half of every leading stretch of groups must be counted.
    """

    founder: bytes
    entries: Callable[[], Iterable[Entry]]
    vector_of: Callable[[ChangeRef], Vector]
    groups_of: Callable[[Spoken | None, Vector], Iterable[Sequence[bytes]]] = field(default=lambda _take, _lengths: ())


NOTHING = Cut(-1, {}, (), {})


def steward_of(previous: Cut, said: Said, founder: bytes) -> bytes:
    """Return the steward of the epoch after `previous`, as the words of some past have it (EPO-6)."""
    take = said.take()
    if take is not None:
        return take.member_id
    return founder if previous.epoch < 0 else previous.steward_next


def cut_of(previous: Cut, said: Said, ground: Ground) -> Cut | Open:
    """Return the cut of the epoch after `previous`, or why it has none (EPO-3, EPO-7, EPO-8).

    Args:
        previous: Cut of the epoch before; NOTHING before the first.
        said: What was said of this epoch, in the past that is asked about.
        ground: What else it is computed from.
    """
    epoch = previous.epoch + 1
    removals = _removals(previous, said, ground)
    removed = set(uncounted(previous, said, ground))
    counted = set(previous.members) if epoch else {ground.founder}
    if not epoch and (take := said.take()) is not None:
        # An elected steward may go on without the founder, from whom the first epoch is counted.
        counted.update(*ground.groups_of(take, {}))
    counted -= removed
    gone = {each.member_id: each for each in previous.gone}
    lengths = dict(previous.lengths)
    fresh = sorted(counted & said.closes.keys())
    if fresh or lengths:
        # Whoever joined inside the cut has work in it and must be heard too (EPO-3). That is
        # worked out while some are silent as well: whom it waits for is all of them (W10).
        entries: dict[int, list[Entry]] = {}
        for entry in ground.entries():
            if entry.member_id not in removed and _lets_in(previous, entry, gone.get(entry.member_id)):
                entries.setdefault(entry.change.log, []).append(entry)
        risen: list[Iterable[int]] = [previous.lengths]
        while risen or fresh:
            for entry in (entry for logs in risen for log in logs for entry in entries.get(log, ())):
                if lengths[entry.change.log] > entry.change.seq and entry.member_id not in counted:
                    counted.add(entry.member_id)
                    if entry.member_id in said.closes:
                        fresh.append(entry.member_id)
            risen = [_raise(lengths, said.closes[member_id][0], ground) for member_id in fresh]
            fresh = []
    waiting = sorted(counted - said.closes.keys())
    if waiting or not counted:
        return Open(tuple(waiting))  # Where everybody has left, nobody is waited for, and nothing can be closed.
    if removed and not has_half(counted, ground.groups_of(said.take(), lengths)):
        return Open((), is_too_few=True)
    return _made(previous, said, ground, counted, lengths, removals)


def _raise(lengths: dict[int, int], close: ChangeRef, ground: Ground) -> list[int]:
    """Take a Close with its past into a cut, and return the logs of which more is in it now."""
    past = {**ground.vector_of(close), close.log: close.seq + 1}
    risen = [log for log, length in past.items() if length > lengths.get(log, 0)]
    lengths.update((log, past[log]) for log in risen)
    return risen


def uncounted(previous: Cut, said: Said, ground: Ground) -> dict[bytes, str]:
    """Return those whom the epoch after `previous` goes on without, and how: their Close is not asked for (EPO-7)."""
    return {
        subject: _kind(spoken)
        for subject, spoken in _removals(previous, said, ground).items()
        if not _saw_close(said, spoken, subject, ground)
    }


def _kind(spoken: Spoken) -> str:
    return "retired" if isinstance(spoken.act, Retire) else "expelled"


def _made(
    previous: Cut,
    said: Said,
    ground: Ground,
    counted: set[bytes],
    lengths: dict[int, int],
    removals: Mapping[bytes, Spoken],
) -> Cut:
    epoch = previous.epoch + 1
    gone = {each.member_id: each for each in previous.gone if each.member_id not in counted}
    for member_id in counted:
        if any(isinstance(each.act, Leave) and each.change == said.closes[member_id][0] for each in said.words):
            gone[member_id] = Gone(member_id, "left", epoch, "", is_counted=True)
    for subject, spoken in removals.items():
        assert isinstance(spoken.act, Retire | Expel)
        gone[subject] = Gone(subject, _kind(spoken), epoch, spoken.act.reason, subject in counted)
    # Who decided is read from the cut alone, unless somebody was gone on without: the certificate is a
    # function of the cut and of the removals it lists, whoever computes it and whatever else they know.
    inside = Said(said.closes, [each for each in said.words if is_seen(lengths, each.change)])
    steward = steward_of(previous, said if removals else inside, ground.founder)
    staying = counted - gone.keys()
    heirs = [each.act.member for each in inside.words if isinstance(each.act, Hand) and each.member_id == steward]
    heir = next((heir for heir in reversed(heirs) if heir in staying), steward)
    return Cut(
        epoch,
        lengths,
        tuple(sorted(counted)),
        {member_id: said.closes[member_id][0] for member_id in sorted(counted)},
        tuple(gone[member_id] for member_id in sorted(gone)),
        steward,
        heir if heir in staying else b"",
        tuple(sorted(spoken.change for spoken in removals.values())),
    )


def _removals(previous: Cut, said: Said, ground: Ground) -> dict[bytes, Spoken]:
    """Return who is gone on without, with the word that says so: only the steward in force has a say (EPO-7)."""
    steward = steward_of(previous, said, ground.founder)
    expelled = {each.member_id for each in previous.gone if each.kind == "expelled"}
    found: dict[bytes, Spoken] = {}
    for spoken in said.words:
        act = spoken.act
        if isinstance(act, Retire | Expel) and spoken.member_id == steward and act.member != steward:
            if isinstance(act, Retire) and act.member in expelled:
                continue
            # A retirement whose past holds the member's Close is void: nobody is waited for. An expulsion stands,
            # and that Close is counted.
            if isinstance(act, Retire) and _saw_close(said, spoken, act.member, ground):
                continue
            if any(_takes_back(each, spoken, steward, ground) for each in said.words):
                continue
            known = found.get(act.member)
            if known is None or (isinstance(known.act, Retire) and isinstance(act, Expel)):
                found[act.member] = spoken
    return found


def _takes_back(later: Spoken, spoken: Spoken, steward: bytes, ground: Ground) -> bool:
    """True when the steward in force admitted the same member again, knowing of this word."""
    assert isinstance(spoken.act, Retire | Expel)
    if not isinstance(later.act, Admit) or later.member_id != steward or later.act.member != spoken.act.member:
        return False
    return is_seen(ground.vector_of(later.change), spoken.change)


def _saw_close(said: Said, spoken: Spoken, subject: bytes, ground: Ground) -> bool:
    seen = ground.vector_of(spoken.change)
    return any(is_seen(seen, close) for close in said.closes.get(subject, ()))


def _lets_in(previous: Cut, entry: Entry, gone: Gone | None) -> bool:
    """True when an entry counts its member: a first change, or of one who had gone a word that undoes it."""
    return not entry.undoes if gone is None else undoes(previous, entry, gone)


def undoes(previous: Cut, entry: Entry, gone: Gone) -> bool:
    """True when an entry beyond the cut before brings back a member who had gone like this (MEM-8)."""
    return gone.kind in entry.undoes and previous.lengths.get(entry.change.log, 0) <= entry.change.seq


def has_half(present: Collection[bytes], groups: Iterable[Sequence[bytes]], size_min: int = 1) -> bool:
    """True when at least half of every leading stretch of groups, of `size_min` members or more, is present.

    So whoever is present has a member in common with more than half of any of these stretches: that is what keeps
    a certificate and an election from ignoring each other (EPO-8, EPO-9).
    """
    there = total = 0
    for group in groups:
        total += len(group)
        there += sum(member_id in present for member_id in group)
        if total >= size_min and 2 * there < total:
            return False
    return True


def _highest_round_first(spoken: Spoken) -> tuple[object, ...]:
    assert isinstance(spoken.act, Take)
    return (-spoken.act.round, spoken.order)


def covers(lengths: Vector, cut: Cut) -> bool:
    """True when every Close of the cut, and so the whole cut, lies in this past (EPO-4)."""
    return all(is_seen(lengths, close) for close in cut.closes.values())
