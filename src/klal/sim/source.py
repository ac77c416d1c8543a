"""The rules of the whole as plain Python sets, seen by an observer who sees every replica at once.

It knows nothing of files, signatures or clocks, so it is short enough to be read against the rules one by one, and it
is the oracle that the engine and the vectorised fleet are held against. The one choice a reader would question: a
change carries its whole causal past as a set. The engine never could; here it makes every rule a subset test.

A replica has two sets. *Known* is the outline: which changes there are, who made them and what each had seen; no scope
leaves any of it out, and whoever learns of a change learns of its past with it (W1). *Held* is what is durably here,
payload and all. What is known and not held is missing, by name (W5).

Left out, as the rules for them live elsewhere: merging of rows, retirement, several logs of one member, lies.

Laws: known is closed under causal past, and covers held; every set but `lose`'s only grows (W3); a certificate is the
same wherever it can be computed (W19); an epoch is complete somewhere if and only if nobody is waited for there (W27).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from klal.sim.fleet import Round

State = Literal["alone", "behind", "whole", "stable", "closed"]


class ChangeId(NamedTuple):
    """A change by its place: whose it is, and its number there, from 0."""

    member: str
    seq: int

    def __str__(self) -> str:
        return f"{self.member}:{self.seq}"


@dataclass(frozen=True, slots=True)
class Change:
    """One committed transaction.

    Shape:
        epoch: at least every epoch in its past.
        past: every change its writer had seen, the writer's own earlier ones among them.
        table: what a scope may leave out; None for joins and Closes, which no scope leaves out.
    """

    id: ChangeId
    epoch: int
    past: frozenset[ChangeId]
    table: str | None = None

    @property
    def member(self) -> str:
        """Return who wrote it."""
        return self.id.member


@dataclass(frozen=True, slots=True)
class Join(Change):
    """A member's first change. The founder's is the genesis, the one change without a past (W1)."""

    inviter: str | None = None


@dataclass(frozen=True, slots=True)
class Close(Change):
    """A member's word: I have nothing more to add to this epoch."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a member says it holds, numbered; only its newest counts.

    Shape:
        certified: newest epoch whose certificate it names, -1 for none. As each certificate names the one before,
            naming one names all earlier ones.
    """

    member: str
    number: int
    held: frozenset[ChangeId]
    certified: int
    certificate: str | None


class Coverage(NamedTuple):
    """How much of what a replica knows of is here: held + len(missing) == known."""

    held: int
    known: int
    missing: frozenset[ChangeId]


class Owed(NamedTuple):
    """Why an epoch is not complete here: this member has not finished, or changes of it are missing, or both."""

    member: str
    has_finished: bool
    missing: frozenset[ChangeId]


@dataclass(frozen=True)
class Certificate:
    """What proves an epoch complete: a pure function of its cut (W19).

    Shape:
        members: counted in the epoch, ascending.
        change_count: of the whole cut, earlier epochs included.
        root, previous: hex; previous is "" in the first epoch.
    """

    epoch: int
    members: tuple[str, ...]
    change_count: int
    root: str
    previous: str

    @cached_property
    def hash(self) -> str:
        """Return the hex hash that names this certificate everywhere."""
        return _hash("certificate", str(self.epoch), self.previous, str(self.change_count), self.root, *self.members)


def certificate_of(epoch: int, members: Iterable[str], lengths: Mapping[str, int], previous: str) -> Certificate:
    """Return the certificate of the cut that has the first `lengths[m]` changes of each member m.

    A cut holds the past of whatever it holds, so of each log it holds a prefix, and lengths say it all.
    """
    root = _hash("cut", *(f"{member}:{lengths[member]}" for member in sorted(lengths)))
    return Certificate(epoch, tuple(sorted(members)), sum(lengths.values()), root, previous)


def draw(certificate: str, member: str) -> str:
    """Return a member's lot in the epoch after `certificate`, which settles ties: the least comes first (W24)."""
    return _hash("draw", certificate, member)


def first_drawn_of(certificate: Certificate) -> str:
    """Return whose lot is least in the epoch after `certificate`: drawn anew each time, so no key is favoured (W24)."""
    named = certificate.hash
    return min(certificate.members, key=lambda member: draw(named, member))


def _hash(*parts: str) -> str:
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(f"{len(part)}:{part}".encode())
    return hashed.hexdigest()


class _Cut(NamedTuple):
    members: frozenset[str]
    changes: frozenset[ChangeId]


@dataclass(slots=True)
class _Replica:
    """One body.

    Shape:
        seen: applied; the past of the next change written here.
        scope: tables whose payloads it takes, None for all of them (W8).
        has_met: true after a contact, or after being given more than names.
    """

    known: set[ChangeId] = field(default_factory=set)
    held: set[ChangeId] = field(default_factory=set)
    seen: set[ChangeId] = field(default_factory=set)
    receipts: dict[str, Receipt] = field(default_factory=dict)
    scope: frozenset[str] | None = None
    has_met: bool = False
    receipt_count: int = 0

    def admits(self, change: Change) -> bool:
        return change.table is None or self.scope is None or change.table in self.scope


class Whole:
    """One space: every replica of it, and the observer who sees them all.

    What a replica could compute from its own sets takes that member's name as its first argument and looks at nothing
    else. Members are replicas here: one file each.
    """

    def __init__(self) -> None:
        self._changes: dict[ChangeId, Change] = {}  # In order of writing, which is a causal order.
        self._number: dict[ChangeId, int] = {}
        self._replicas: dict[str, _Replica] = {}

    # --- what the observer sees

    @property
    def members(self) -> tuple[str, ...]:
        """Return everybody, in order of joining; the founder is first."""
        return tuple(self._replicas)

    @property
    def changes(self) -> Mapping[ChangeId, Change]:
        """Return every change ever written, in a causal order."""
        return self._changes

    # --- what happens

    def add_member(self, name: str, via: str | None = None) -> Join:
        """Add a member and return its join; the first is the founder, and its join the genesis.

        Joining works alone, with a ticket that carries the genesis and nothing else: nobody learns of the join before
        a contact.

        Args:
            name: Not a member yet.
            via: Whose ticket it is; the founder's if None.
        """
        if name in self._replicas or (via is not None and via not in self._replicas):
            raise ValueError(f"{name} is a member already, or {via} is none")
        genesis = next(iter(self._changes), None)
        replica = self._replicas[name] = _Replica()
        if genesis is not None:
            for ids in (replica.known, replica.held, replica.seen):
                ids.add(genesis)
            via = via or genesis.member
        join = Join(ChangeId(name, 0), 0, frozenset(replica.seen), None, via)
        self._append(replica, join)
        return join

    def write(self, member: str, table: str = "row") -> Change:
        """Return a new change of `member`, which had seen all that is applied here.

        Its epoch is the greatest of: one more than the member finished, one more than is complete here, and those in
        its past.
        """
        replica = self._replicas[member]
        change = Change(self._next_id(member), self._epoch(member), frozenset(self._see(member)), table)
        self._append(replica, change)
        return change

    def finish(self, member: str) -> Close:
        """Return the member's Close of the epoch it writes in.

        Raises:
            ValueError: The epoch before is not complete here. `may_finish` says so beforehand.
        """
        if not self.may_finish(member):
            raise ValueError(f"epoch {self._epoch(member) - 1} is not complete at {member}")
        close = Close(self._next_id(member), self._epoch(member), frozenset(self._see(member)))
        self._append(self._replicas[member], close)
        return close

    def may_finish(self, member: str) -> bool:
        """True when the epoch before the one it writes in is complete here."""
        return self._epoch(member) <= self.complete_count(member)

    def contact(self, a: str, b: str, limit: int | None = None) -> None:
        """Bring both as far as each other's holdings and scopes allow.

        Args:
            a: One side.
            b: The other.
            limit: At most so many changes each way, in causal order, as when a session breaks off. The outline and
                the receipts, being small, have passed by then.
        """
        left, right = self._replicas[a], self._replicas[b]
        sides = ((right, self._sorted(left.held - right.held)), (left, self._sorted(right.held - left.held)))
        outline = left.known | right.known
        newest = dict(left.receipts)
        for receipt in right.receipts.values():
            if receipt.member not in newest or newest[receipt.member].number < receipt.number:
                newest[receipt.member] = receipt
        for side, offered in sides:
            admitted = [change.id for change in offered if side.admits(change)]
            side.held.update(admitted[:limit])
            side.known |= outline
            side.receipts = dict(newest)
            side.has_met = True

    def give(self, src: str, dst: str, changes: Iterable[ChangeId] | None = None) -> None:
        """Deliver changes one way, in any order and with any gaps; each brings the outline of its past (W15).

        Nothing else passes, not even receipts. Joins alone are names, and do not end being alone.

        Args:
            src: Holds them.
            dst: Takes what its scope admits.
            changes: All that `src` holds if None.
        """
        source, target = self._replicas[src], self._replicas[dst]
        given = set(source.held if changes is None else changes)
        if not given <= source.held:
            raise ValueError(f"{src} does not hold {', '.join(map(str, sorted(given - source.held)))}")
        for change in self._sorted(given):
            target.known |= {change.id, *change.past}
            if target.admits(change):
                target.held.add(change.id)
            if not isinstance(change, Join) and change.member != dst:
                target.has_met = True

    def receipt(self, member: str) -> Receipt:
        """Return the member's signed word on what it holds now; it travels with contacts."""
        replica = self._replicas[member]
        complete = self.complete_count(member)
        certificate = self.certificate(member, complete - 1)
        receipt = Receipt(
            member,
            replica.receipt_count,
            frozenset(replica.held),
            complete - 1,
            certificate.hash if certificate else None,
        )
        replica.receipt_count += 1
        replica.receipts[member] = receipt
        return receipt

    def set_scope(self, member: str, tables: Iterable[str] | None) -> None:
        """Widen or narrow what `member` takes from now on; nothing held is dropped (W8).

        Args:
            member: Whose scope.
            tables: None for everything.
        """
        self._replicas[member].scope = None if tables is None else frozenset(tables)

    def lose(self, member: str) -> None:
        """Destroy the member's file. It keeps its key and its ticket, and is alone again until it meets somebody."""
        replica = self._replicas[member]
        genesis = {next(iter(self._changes))}
        self._replicas[member] = _Replica(
            set(genesis), set(genesis), set(genesis), scope=replica.scope, receipt_count=replica.receipt_count
        )

    # --- what a replica can say

    def known(self, member: str) -> frozenset[ChangeId]:
        """Return every change whose outline is here."""
        return frozenset(self._replicas[member].known)

    def held(self, member: str) -> frozenset[ChangeId]:
        """Return every change that is here, payload and all, applied or parked."""
        return frozenset(self._replicas[member].held)

    def parked(self, member: str) -> frozenset[ChangeId]:
        """Return what is held and waits for its past, or for its epoch."""
        return self.held(member) - self._see(member)

    def members_known(self, member: str) -> frozenset[str]:
        """Return the members whose join is known here. A figure of its own, beside coverage (W4)."""
        return frozenset(c.member for c in self._all(self._replicas[member].known) if isinstance(c, Join))

    def coverage(self, member: str) -> Coverage:
        """Return how much of what is known here is held here, with what is missing by name (W3, W5)."""
        replica = self._replicas[member]
        return Coverage(len(replica.held), len(replica.known), frozenset(replica.known - replica.held))

    def who_has(self, member: str, change: ChangeId) -> frozenset[str]:
        """Return who is known to hold `change`, by the receipts that `member` has."""
        return frozenset(r.member for r in self._replicas[member].receipts.values() if change in r.held)

    def stable(self, member: str) -> frozenset[ChangeId]:
        """Return the changes that every member known here has signed for (W6)."""
        receipts = self._replicas[member].receipts
        everyone = self.members_known(member)
        if everyone == {member} or not everyone <= set(receipts):
            return frozenset()  # While nobody else is known, nothing is held but here (W4).
        return frozenset.intersection(*(receipts[name].held for name in everyone))

    def complete_count(self, member: str) -> int:
        """Return how many epochs are complete here: those below this number."""
        return len(self._cuts(self._replicas[member].held))

    def cut(self, member: str, epoch: int) -> frozenset[ChangeId] | None:
        """Return what an epoch and those before it are made of, or None while it is not complete here."""
        cuts = self._cuts(self._replicas[member].held)
        return cuts[epoch].changes if 0 <= epoch < len(cuts) else None

    def waiting_for(self, member: str, epoch: int) -> tuple[Owed, ...]:
        """Return whom and what an epoch waits for here, ascending by member (W10, W26).

        Empty if and only if the epoch is complete here (W27). An epoch waits for the one before it.
        """
        replica = self._replicas[member]
        if epoch > 0 and (earlier := self.waiting_for(member, epoch - 1)):
            return earlier
        closes = self._closes(replica.known)
        cut = self._grow(self._cuts(replica.known)[:epoch], epoch, closes)
        missing = replica.known - replica.held
        owed = []
        for name in sorted(cut.members):
            has_finished = (epoch, name) in closes
            of_name = frozenset(c for c in missing if c.member == name and (c in cut.changes or not has_finished))
            if of_name or not has_finished:
                owed.append(Owed(name, has_finished, of_name))
        return tuple(owed)

    def certificate(self, member: str, epoch: int) -> Certificate | None:
        """Return the certificate of `epoch`, or None while it is not complete here (W19, W27)."""
        certificate = None
        if not 0 <= epoch < self.complete_count(member):
            return None
        for number, cut in enumerate(self._cuts(self._replicas[member].held)[: epoch + 1]):
            lengths: dict[str, int] = {}
            for name, seq in cut.changes:
                lengths[name] = max(lengths.get(name, 0), seq + 1)
            certificate = certificate_of(number, cut.members, lengths, certificate.hash if certificate else "")
        return certificate

    def first_drawn(self, member: str, epoch: int) -> str | None:
        """Return who comes first in the ties of `epoch`, or None while the epoch before is not complete here (W24).

        The founder is the first, being the only member there is when the space begins.
        """
        if epoch == 0:
            return self.members[0]
        certificate = self.certificate(member, epoch - 1)
        return first_drawn_of(certificate) if certificate else None

    def is_closed(self, member: str, epoch: int) -> bool:
        """True when the newest receipt here of every counted member names the certificate of `epoch` (W19)."""
        certificate = self.certificate(member, epoch)
        receipts = self._replicas[member].receipts
        return certificate is not None and all(
            name in receipts and receipts[name].certified >= epoch for name in certificate.members
        )

    def state(self, member: str) -> State:
        """Return the one word for where a replica stands, as far as it can know (W4, W6).

        Closed means that nothing is known here beyond the newest complete epoch, and that one is closed; then
        everything is stable too.
        """
        replica = self._replicas[member]
        if not replica.has_met:
            return "alone"
        if replica.known - replica.held:
            return "behind"
        newest = self.complete_count(member) - 1
        if self.is_closed(member, newest) and replica.known <= (self.cut(member, newest) or set()):
            return "closed"
        return "stable" if replica.known <= self.stable(member) else "whole"

    # --- how

    def _all(self, ids: Iterable[ChangeId]) -> Iterator[Change]:
        return map(self._changes.__getitem__, ids)

    def _sorted(self, ids: Iterable[ChangeId]) -> list[Change]:
        return list(self._all(sorted(ids, key=self._number.__getitem__)))

    def _next_id(self, member: str) -> ChangeId:
        replica = self._replicas[member]
        seq = sum(1 for seen in replica.seen if seen.member == member)
        # A file that lost its own past would start a new log, which this model leaves out.
        if ChangeId(member, seq) in self._changes:
            raise ValueError(f"{member} does not hold its own {ChangeId(member, seq)}")
        return ChangeId(member, seq)

    def _append(self, replica: _Replica, change: Change) -> None:
        self._number[change.id] = len(self._changes)
        self._changes[change.id] = change
        for ids in (replica.known, replica.held, replica.seen):
            ids.add(change.id)

    def _epoch(self, member: str) -> int:
        """Return the epoch that `member` writes in."""
        in_past = max((change.epoch for change in self._all(self._see(member))), default=0)
        return max(self._open_epoch(member), in_past)

    def _open_epoch(self, member: str) -> int:
        """Return the latest epoch whose changes are not parked here."""
        finished = [epoch for epoch, name in self._closes(self._replicas[member].known) if name == member]
        return max([self.complete_count(member), *(epoch + 1 for epoch in finished)])

    def _see(self, member: str) -> set[ChangeId]:
        """Apply what can be applied, and return all that is."""
        replica = self._replicas[member]
        # What the scope leaves out has nothing to apply, so it never keeps its successors waiting.
        left_out = {change.id for change in self._all(replica.known) if not replica.admits(change)}
        here = replica.seen | replica.held | left_out
        limit = self._open_epoch(member)
        # The past's epochs are no greater than the change's own, so one look at the change is enough.
        replica.seen |= {change.id for change in self._all(here) if change.past <= here and change.epoch <= limit}
        return replica.seen

    def _closes(self, ids: Iterable[ChangeId]) -> dict[tuple[int, str], Close]:
        return {(change.epoch, change.member): change for change in self._all(ids) if isinstance(change, Close)}

    def _grow(self, cuts: list[_Cut], epoch: int, closes: Mapping[tuple[int, str], Close]) -> _Cut:
        """Return the cut of `epoch` as far as `closes` go, with everybody it counts."""
        before = cuts[epoch - 1] if epoch else _Cut(frozenset({self.members[0]}), frozenset())
        members, changes = set(before.members), set(before.changes)
        while True:
            for name in members:
                if close := closes.get((epoch, name)):
                    changes |= {close.id, *close.past}
            # Whoever joined inside the cut has work in it, and must be heard too.
            inside = {change.member for change in self._all(changes) if isinstance(change, Join)}
            if inside <= members:
                return _Cut(frozenset(members), frozenset(changes))
            members |= inside

    def _cuts(self, ids: set[ChangeId]) -> list[_Cut]:
        """Return the cuts of all epochs that are complete within `ids`."""
        closes = self._closes(ids)
        cuts: list[_Cut] = []
        while True:
            cut = self._grow(cuts, len(cuts), closes)
            everyone_finished = all((len(cuts), name) in closes for name in cut.members)
            if not (everyone_finished and cut.changes <= ids):
                return cuts
            cuts.append(cut)


def run_source(replicas: int = 600_000, seed: int = 0, sparks_sample: int = 256) -> Iterator[Round]:
    """Yield the rounds of `klal.sim.fleet.run_source`, which alone needs numpy."""
    from klal.sim.fleet import run_source as run  # noqa: PLC0415  # the oracle must import without the extra

    return run(replicas, seed, sparks_sample)
