"""What a session needs of the place it speaks for: a file, a folder, later a hub.

A station is anything that holds part of a space and can be asked what it holds. The
session reads through these questions and never writes: what arrives comes out of it as
events, and whoever drives the session gives them to `take`.

Source:
    Protocol spec section 12, rules SYN-1 to SYN-9.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from klal.model.frontier import Frontier
from klal.model.keys import log_id_of
from klal.model.receipt import Receipt, receipts_root
from klal.model.seal import Seal


@dataclass(frozen=True, slots=True)
class Roots:
    """Three hashes that say all a station holds, 32 bytes each (`roots_of` makes them).

    Shape:
        known: root of the frontier of sealed headers, per log (length, head hash).
        held: root of the frontier of payload prefixes, per log (payload length, hash of
            the header that ends it); so held equals known exactly where nothing is missing.
        receipts: root of the newest receipts.
    """

    known: bytes
    held: bytes
    receipts: bytes


@dataclass(frozen=True, slots=True)
class LogState:
    """How much of one log a station holds; of a log that forked there is one for each end that it has.

    Shape:
        log_id: what its station calls it: a log, or a branch of one (LOG-7).
        member_id, incarnation: hash, with the space, to the log that its headers were signed for.
        length, head_hash: sealed headers held, from the beginning of that log; length >= 1.
        payload_length: the prefix of changes whose payload is here whole, <= length.
    """

    log_id: bytes
    member_id: bytes
    incarnation: bytes
    length: int
    head_hash: bytes
    payload_length: int

    def origin(self, space_id: bytes) -> bytes:
        """Return the log that its headers were signed for."""
        return log_id_of(space_id, self.member_id, self.incarnation)


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive headers of one log, ending exactly where a seal signs.

    Shape:
        log_id: the log they were signed for, whatever became of it.
        start: seq of the first.
        headers: encoded headers, at least one, at most SEAL_EVERY_COUNT.
        seal: at length start + len(headers).
    """

    log_id: bytes
    member_id: bytes
    incarnation: bytes
    start: int
    headers: tuple[bytes, ...]
    seal: Seal


@dataclass(frozen=True, slots=True)
class PartLeaves:
    """The leaf hashes of a part with more than one slice; sent before its slices."""

    log_id: bytes
    seq: int
    table_id: bytes
    leaves: tuple[bytes, ...]


class PartSlice(msgspec.Struct, frozen=True):
    """One slice of one part of one payload, at most SLICE_SIZE bytes.

    In a log that forked several headers bear one number: a slice is of those that its hash fits.
    """

    log_id: bytes
    seq: int
    table_id: bytes
    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class PartBegun:
    """How many leading slices of one part are here, at least one; all of them count too."""

    seq: int
    table_id: bytes
    slice_count: int


@dataclass(frozen=True, slots=True)
class Receipts:
    """Receipts of any logs."""

    receipts: tuple[Receipt, ...]


Arrival = Run | PartLeaves | PartSlice | Receipts


def roots_of(known: Frontier, held: Frontier, receipts: dict[bytes, Receipt]) -> Roots:
    """Return the three roots over what is known, what is held whole, and the newest receipts by log."""
    return Roots(known.root(), held.root(), receipts_root(receipts))


class Station(Protocol):
    """The port between a session and what it speaks for."""

    @property
    def space_id(self) -> bytes:
        """The space this station belongs to."""

    @property
    def takes(self) -> bool:
        """False for a read-only source: it gives, and is sent nothing."""

    def roots(self) -> Roots:
        """Return the three roots as of now."""

    def logs(self) -> list[LogState]:
        """Return every log held, an inviter's before those it invited; of a forked one each branch that ends."""

    def holds(self, log: LogState) -> bool:
        """True when all headers of this prefix are here, whatever the log is called."""

    def runs(self, log_id: bytes, start: int, stop: int) -> Iterator[Run]:
        """Yield the headers [start, stop) up to this log's end as runs; `stop` is a sealed length.

        `log_id` is one that `logs` gave, and goes on to mean what it meant then.
        `start` need not be one: the first run begins there and ends at the next seal.
        """

    def payload_gaps(self, log: LogState) -> list[range]:
        """Return the seqs of this prefix whose payload is not here; none where not all of its headers are."""

    def parts_begun(self, log: LogState, start: int, stop: int) -> list[PartBegun]:
        """Return, for payloads of [start, stop) that are not whole, the parts with slices here.

        In ascending order. They are not sent again, so a cut part is resumed.
        """

    def payloads(self, log_id: bytes, start: int, stop: int) -> Iterator[PartLeaves | PartSlice]:
        """Yield the payloads of [start, stop), in order, skipping what is not here.

        Parts ascend by (seq, table id). Per part: leaves first if it has more than one
        slice, then slices in order.
        """

    def receipts(self) -> list[Receipt]:
        """Return the newest receipt of every log known here, ascending by log id."""

    def take(self, arrival: Arrival) -> None:
        """Store one arrival after checking it; may buffer until `settle`.

        Taking the same thing twice changes nothing.

        Raises:
            RefusedError: The bytes broke a rule; nothing of this arrival is stored.
        """

    def take_whole(self, log_id: bytes, slices: Sequence[PartSlice]) -> set[int]:
        """Store those small payloads that these slices of one log hold whole and right; return their seqs.

        The others are to be given to `take`, one by one, which says what is wrong with them.
        A station that gains nothing by it returns an empty set.
        """

    def settle(self) -> None:
        """Make everything taken durable, apply what can be applied, sign a fresh receipt if due."""
