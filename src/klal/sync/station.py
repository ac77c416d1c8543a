"""What a session needs of the place it speaks for: a file, a folder, later a hub.

A station is anything that holds part of a space and can be asked what it holds. The
session reads through these questions and never writes: what arrives comes out of it as
events, and whoever drives the session gives them to `take`.

Source:
    Protocol spec section 12, rules SYN-1 to SYN-9.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from klal.model.receipt import Receipt
from klal.model.seal import Seal


@dataclass(frozen=True, slots=True)
class Roots:
    """Three hashes that say all a station holds (32 bytes each): headers, payloads, receipts."""

    known: bytes
    held: bytes
    receipts: bytes


@dataclass(frozen=True, slots=True)
class LogState:
    """How much of one log a station holds.

    Shape:
        member_id, incarnation: hash, with the space, to log_id.
        length, head_hash: sealed headers held; length >= 1.
        payload_length: the prefix of changes whose payload is here whole, <= length.
    """

    log_id: bytes
    member_id: bytes
    incarnation: bytes
    length: int
    head_hash: bytes
    payload_length: int


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive headers of one log, ending exactly where a seal signs.

    Shape:
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


@dataclass(frozen=True, slots=True)
class PartSlice:
    """One slice of one part of one payload, at most SLICE_SIZE bytes."""

    log_id: bytes
    seq: int
    table_id: bytes
    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Receipts:
    """Receipts of any logs."""

    receipts: tuple[Receipt, ...]


Arrival = Run | PartLeaves | PartSlice | Receipts


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
        """Return every log held, an inviter's before those it invited."""

    def runs(self, log_id: bytes, start: int, stop: int) -> Iterator[Run]:
        """Yield the headers [start, stop) as runs; `stop` is a sealed length.

        `start` need not be one: the first run begins there and ends at the next seal.
        """

    def payload_gaps(self, log_id: bytes, stop: int) -> list[range]:
        """Return the seqs below `stop` whose header is here and whose payload is not."""

    def slice_count(self, log_id: bytes, seq: int, table_id: bytes) -> int:
        """Return how many leading slices of this part are here (0 if none), so a part is resumed."""

    def payloads(self, log_id: bytes, start: int, stop: int) -> Iterator[PartLeaves | PartSlice]:
        """Yield the payloads of [start, stop), in order, skipping what is not here.

        Per part: leaves first if it has more than one slice, then slices in order.
        """

    def receipts(self) -> list[Receipt]:
        """Return the newest receipt of every log known here, ascending by log id."""

    def take(self, arrival: Arrival) -> None:
        """Store one arrival after checking it; may buffer until `settle`.

        Taking the same thing twice changes nothing.

        Raises:
            RefusedError: The bytes broke a rule; nothing of this arrival is stored.
        """

    def settle(self) -> None:
        """Make everything taken durable, apply what can be applied, sign a fresh receipt if due."""
