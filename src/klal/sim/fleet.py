"""The rules of `klal.sim.source` for fleets of 600,000, as arrays: one generation from hiding the whole to the next.

Each replica is a member with a key and a change of its own. Following every change through every replica would take
600,000 times 600,000 bits; so a stated sample of the changes is followed, and each of these exactly, through all
replicas: a set of bits per replica for what it knows of, one for what it holds, one for the receipts it has. Nothing
is estimated from the sample: every figure of a `Round` is counted in these bits, and says "of the sample" where it
means that. With a sample as large as the fleet the arrays are the pure model, and a test holds them equal on the same
contacts.

The run is one story with no timetable but one: every turn is taken when the arrays say that it is time.
The founder has everybody's join, as a list of names; each member writes one change and finishes. One of the sample
meets somebody once, is cut off when only the outline has passed, and stays out of contact. Some take only part of what
they are offered, and take more over time.

Law: same replicas, seed and sample, same rounds, whatever PYTHONHASHSEED is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from klal.sim.source import Certificate, certificate_of, first_drawn_of

Bits = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Turn = Literal["hidden", "", "withheld", "named", "found", "complete", "closed", "opened"]

TABLE_COUNT = 4
NARROW_SHARE = 0.25  # of the replicas begin with a scope of less than everything
WIDEN_EVERY = 6  # rounds: a narrow scope takes one more table
QUIET_ROUNDS = 2  # of contact among all the others, to see that the end does not come without the one
NAMED_MAX = 4  # a round names its missing changes when there are at most so many
ROUNDS_MAX = 1_000  # a fleet of 600,000 takes about 80; more than this is our bug


@dataclass(frozen=True, slots=True)
class Missing:
    """A change of the sample that somebody in contact lacks.

    Shape:
        holder_count: replicas that hold it, in contact or not.
        holder: the one that holds it if it is one, else "".
        named_by: replicas whose own list of what is missing names it, and so its member.
    """

    member: str
    change: str
    holder_count: int
    holder: str
    named_by: int


@dataclass(frozen=True, slots=True)
class Round:
    """What the observer counts after one round of contacts; every figure is over all replicas.

    Shape:
        turn: what happened first in this round, or "".
        alone, behind, whole: add up to the replicas. Behind has met somebody, whole holds every change of the sample;
            of a whole one `stable` says that it has the receipts of all members of the sample. These name the
            certificate, as everybody finished before, so the epoch is closed there too.
        narrow: replicas whose scope is not everything.
        coverage_mean, coverage_min: share of the sample held by a replica.
        members_known_mean: share of the members of the sample that a replica has heard of.
        missing_count: changes of the sample that somebody in contact lacks; `missing` names them when they are few.
        epoch_state: "complete" when some replica is whole, "closed" when all are stable.
        contacts: pairs that met in this round.
        certificate: of the newest complete epoch, "" before the first.
    """

    number: int
    turn: Turn
    epoch: int
    epoch_state: Literal["open", "complete", "closed"]
    first_drawn: str
    alone: int
    behind: int
    whole: int
    stable: int
    narrow: int
    coverage_mean: float
    coverage_min: float
    members_known_mean: float
    missing_count: int
    missing: tuple[Missing, ...]
    contacts: int
    certificate: str


@dataclass(frozen=True, slots=True)
class Counted:
    """The figures of a round that turns are decided by.

    Shape:
        bare: whether each replica lacks nothing, but for the change of the absent member.
    """

    whole: Flags
    bare: Flags
    stable: Flags


class Fleet:
    """The replicas of one space, as arrays.

    Args:
        names: Member ids, one per replica.
        sample: Indices of the members that are followed, ascending.
        founder: Index of the member that has everybody's join; one of the sample.
        scopes: How many of the tables each replica takes, from 1 to TABLE_COUNT.

    Shape:
        known, held, receipts: (words, replicas) of uint64; bit k of a column stands for member sample[k]: its change
            and Close known of, its change held, its receipt here. Words are outermost because a gather from 5 MB stays
            in cache where one from 20 MB does not: twice as fast.
    """

    def __init__(self, names: Sequence[str], sample: Indices, founder: int, scopes: npt.NDArray[np.uint8]) -> None:
        self.names = names
        self.sample = sample
        self.founder = founder
        self.scopes = scopes
        self.epoch = 0
        self.has_met = np.zeros(len(names), np.bool_)
        count = len(sample)
        bits = np.arange(count)
        self._words, self._masks = bits // 64, np.uint64(1) << (bits % 64).astype(np.uint64)
        self._own = np.zeros(((count + 63) // 64, len(names)), np.uint64)
        self._own[self._words, sample] = self._masks
        self.full = self.column(bits)
        # Column s: what a scope of s tables admits. The change of member sample[k] is in table k % TABLE_COUNT.
        of_tables = [self.column(bits[bits % TABLE_COUNT < size]) for size in range(TABLE_COUNT + 1)]
        self._admits = np.stack(of_tables, axis=1)
        self.known = self._own.copy()
        self.held = self._own.copy()
        self.receipts = np.zeros_like(self._own)

    def column(self, bits: Indices) -> Bits:
        """Return the column in which these bits of the sample are set."""
        column = np.zeros(len(self._own), np.uint64)
        np.bitwise_or.at(column, self._words[bits], self._masks[bits])
        return column

    def bits(self, column: Bits) -> list[int]:
        """Return which bits of the sample are set in `column`."""
        return [bit for bit in range(len(self.sample)) if column[self._words[bit]] & self._masks[bit]]

    def who_has(self, rows: Bits, bit: int) -> Flags:
        """Return which replicas have this bit of the sample set."""
        has: Flags = (rows[self._words[bit]] & self._masks[bit]) != 0
        return has

    def contact(self, first: Indices, second: Indices, *, breaks_off: bool = False) -> None:
        """Let first[i] and second[i] meet, for all i at once; nobody may be there twice.

        Args:
            first: Indices of one side.
            second: Indices of the other.
            breaks_off: Only the outline and the receipts pass.
        """
        _unite(self.known, first, second)
        _unite(self.receipts, first, second)
        self.has_met[first] = True
        self.has_met[second] = True
        if breaks_off:
            return
        if (self.scopes == TABLE_COUNT).all():
            _unite(self.held, first, second)
            return
        for word, admits in zip(self.held, self._admits, strict=True):
            left, right = word.take(first), word.take(second)
            both = left | right
            word[first] = left | (both & admits.take(self.scopes.take(first)))
            word[second] = right | (both & admits.take(self.scopes.take(second)))

    def widen(self) -> None:
        """Let each narrow scope take one more table."""
        np.minimum(self.scopes + 1, TABLE_COUNT, out=self.scopes)

    def sign(self) -> None:
        """Let each whole replica sign for it; those of the sample are followed."""
        signing = np.flatnonzero((self.held[:, self.sample] == self.full[:, None]).all(axis=0))
        self.receipts[self._words[signing], self.sample[signing]] |= self._masks[signing]

    def open_epoch(self) -> None:
        """Let the next epoch begin: everybody writes a change, and finishes."""
        self.epoch += 1
        self.known = self._own.copy()
        self.held = self._own.copy()
        self.receipts[:] = 0

    def certificate(self, previous: Certificate | None = None) -> Certificate:
        """Return the certificate of the epoch, for whoever is whole: a pure function of the cut."""
        # A join or the genesis, and in each epoch a change and a Close.
        length = 1 + 2 * (self.epoch + 1)
        lengths = dict.fromkeys(self.names, length)
        return certificate_of(self.epoch, self.names, lengths, previous.hash if previous else "")

    def count(self, absent: int) -> Counted:
        """Return who is whole, who lacks nothing but the change of bit `absent`, and who is stable."""
        others = self.full & ~self.column(np.array([absent]))
        bare = _covers(self.held, others)
        whole = bare & self.who_has(self.held, absent)
        stable = _covers(self.receipts, self.full)
        stable &= whole
        return Counted(whole, bare, stable)

    def missing(self, absent: int | None) -> tuple[int, tuple[Missing, ...]]:
        """Return how many changes of the sample somebody in contact lacks, and their names if they are few.

        Args:
            absent: Index of the replica that is out of contact, if one is.
        """
        end = len(self.names) if absent is None else absent
        everywhere = np.bitwise_and.reduce(self.held[:, :end], axis=1)
        if absent is not None:
            everywhere &= np.bitwise_and.reduce(self.held[:, absent + 1 :], axis=1)
        bits = self.bits(self.full & ~everywhere)
        named = []
        for bit in bits if len(bits) <= NAMED_MAX else ():
            holds = self.who_has(self.held, bit)
            holder_count = int(np.count_nonzero(holds))
            name = self.names[int(self.sample[bit])]
            named.append(
                Missing(
                    member=name,
                    change=f"{name}:{1 + 2 * self.epoch}",
                    holder_count=holder_count,
                    holder=self.names[int(holds.argmax())] if holder_count == 1 else "",
                    named_by=int(np.count_nonzero(self.who_has(self.known, bit) & ~holds)),
                )
            )
        return len(bits), tuple(named)

    def coverage(self) -> tuple[float, float]:
        """Return the mean and the smallest share of the sample that a replica holds."""
        held = _bit_counts(self.held)
        count = len(self.sample)
        return float(held.sum(dtype=np.int64)) / (len(held) * count), float(held.min()) / count

    def members_known(self) -> float:
        """Return the mean share of the members of the sample that a replica has heard of.

        In the past of the founder's Close is everybody's join: who knows of it knows all names. From the second epoch
        on everybody does.
        """
        if self.epoch:
            return 1.0
        heard = _bit_counts(self.known)
        heard[self.who_has(self.known, int(np.searchsorted(self.sample, self.founder)))] = len(self.sample)
        heard[self.founder] = len(self.sample)
        return float(heard.sum(dtype=np.int64)) / (len(heard) * len(self.sample))


def _unite(rows: Bits, first: Indices, second: Indices) -> None:
    for word in rows:
        # Where all replicas have the same, meeting changes nothing: true of most words for most of a run.
        if (word == word[0]).all():
            continue
        both = word.take(first)
        both |= word.take(second)
        word[first] = both
        word[second] = both


def _covers(rows: Bits, column: Bits) -> Flags:
    """Return which replicas have all bits of `column` set."""
    covers = np.ones(rows.shape[1], np.bool_)
    for word, wanted in zip(rows, column, strict=True):
        covers &= (word & wanted) == wanted
    return covers


def _bit_counts(rows: Bits) -> npt.NDArray[np.int32]:
    """Return how many bits each replica has set."""
    counts = np.zeros(rows.shape[1], np.int32)
    for word in rows:
        counts += np.bitwise_count(word)
    return counts


def pairs(rng: np.random.Generator, present: Indices) -> tuple[Indices, Indices]:
    """Return who meets whom in a round: everybody present meets one other, but for one of an odd number."""
    order = rng.permutation(present)
    half = len(order) // 2
    return order[:half], order[half : 2 * half]


def names_of(replicas: int, seed: int) -> list[str]:
    """Return the members' ids: hashes, as of keys, that say nothing about who they are."""
    names = [hashlib.sha256(f"klal sim {seed} {index}".encode()).hexdigest()[:16] for index in range(replicas)]
    assert len(set(names)) == replicas, "two keys are the same"
    return names


def run_source(replicas: int = 600_000, seed: int = 0, sparks_sample: int = 256) -> Iterator[Round]:
    """Yield a round at a time, from everybody alone to the opening of the next epoch.

    Args:
        replicas: At least 3.
        seed: The only source of chance.
        sparks_sample: How many changes are followed; all of them if there are fewer replicas. At least 2.
    """
    if replicas < 3 or sparks_sample < 2:
        raise ValueError(f"{replicas} replicas and a sample of {sparks_sample}, want at least 3 and 2")
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(replicas, min(sparks_sample, replicas), replace=False))
    founder_bit, absent_bit = (int(bit) for bit in rng.choice(len(sample), 2, replace=False))
    founder, absent = int(sample[founder_bit]), int(sample[absent_bit])
    scopes = np.full(replicas, TABLE_COUNT, np.uint8)
    is_narrow = rng.random(replicas) < NARROW_SHARE
    scopes[is_narrow] = rng.integers(1, TABLE_COUNT, int(is_narrow.sum()), dtype=np.uint8)
    fleet = Fleet(names_of(replicas, seed), sample, founder, scopes)

    everybody = np.arange(replicas)
    others = np.delete(everybody, absent)
    certificate: Certificate | None = None
    first_drawn = fleet.names[founder]
    is_found = False
    quiet = -1  # rounds since everybody else held everything else
    turns_taken: set[Turn] = set()
    for number in range(ROUNDS_MAX):
        contacts = 0
        if number == 1:
            met = int(rng.choice(others))
            fleet.contact(np.array([absent]), np.array([met]), breaks_off=True)
            first, second = pairs(rng, others[others != met])
            fleet.contact(first, second)
            contacts = len(first) + 1
        elif number:
            first, second = pairs(rng, everybody if is_found else others)
            fleet.contact(first, second)
            contacts = len(first)
        if number and number % WIDEN_EVERY == 0:
            fleet.widen()
        fleet.sign()
        counted = fleet.count(absent_bit)
        whole, stable = int(counted.whole.sum()), int(counted.stable.sum())
        if whole and certificate is None:
            certificate = fleet.certificate()

        turn: Turn = ""
        if number == 0:
            turn = "hidden"
        elif is_found and "found" not in turns_taken:
            turn = "found"
        elif stable == replicas:
            turn = "closed"
        elif whole == replicas and "complete" not in turns_taken:
            turn = "complete"
        elif not whole and counted.bare.sum() >= replicas - 1 and (fleet.scopes == TABLE_COUNT).all():
            quiet += 1
            turn = "withheld" if quiet == 0 else "named" if quiet == QUIET_ROUNDS else ""
        turns_taken.add(turn)
        yield _round(fleet, number, turn, counted, first_drawn, contacts, certificate, None if is_found else absent)
        if turn == "named":
            is_found = True
        if turn == "closed":
            break
    else:
        raise RuntimeError(f"not closed after {ROUNDS_MAX} rounds")

    assert certificate is not None, "a closed epoch is complete"
    fleet.open_epoch()
    yield _round(
        fleet, number + 1, "opened", fleet.count(absent_bit), first_drawn_of(certificate), 0, certificate, None
    )


def _round(
    fleet: Fleet,
    number: int,
    turn: Turn,
    counted: Counted,
    first_drawn: str,
    contacts: int,
    certificate: Certificate | None,
    absent: int | None,
) -> Round:
    replicas = len(fleet.names)
    whole, stable = int(counted.whole.sum()), int(counted.stable.sum())
    alone = int((~fleet.has_met & ~counted.whole).sum())
    missing_count, missing = fleet.missing(absent)
    coverage_mean, coverage_min = fleet.coverage()
    return Round(
        number=number,
        turn=turn,
        epoch=fleet.epoch,
        epoch_state="closed" if stable == replicas else "complete" if whole else "open",
        first_drawn=first_drawn,
        alone=alone,
        behind=replicas - alone - whole,
        whole=whole,
        stable=stable,
        narrow=int((fleet.scopes < TABLE_COUNT).sum()),
        coverage_mean=coverage_mean,
        coverage_min=coverage_min,
        members_known_mean=fleet.members_known(),
        missing_count=missing_count,
        missing=missing,
        contacts=contacts,
        certificate=certificate.hash if certificate else "",
    )
