"""How a newcomer comes by a snapshot: asked for before the first session, in slices that each prove themselves.

Two small machines, bytes in and bytes out like a session, over whatever carries one. The asker
says what it is for, hears an outline or that there is none, and wants slices until it has them
all. What it has is kept between meetings, so that a cut costs the slices that were under way.

Law: cut after any frame and begun again, the asker ends as if it had never been cut.

Source:
    Protocol spec section 19, rules SNP-1, SNP-2, SNP-5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Protocol, TypeVar, runtime_checkable

import msgspec

from klal.errors import MalformedError, RefusedError
from klal.model.codec import FRAME_SIZE_MAX, HASH_SIZE, SLICE_SIZE, pack, unpack
from klal.model.snapshot import LEAF_COUNT_MAX, OUTLINE_SIZE_MAX, Outline, decode_outline
from klal.sync.messages import frame_size

SLICE_WANT_MAX = 16  # Slices in one want: 4 MiB under way.

_PREFIX = struct.Struct(">IB")


class _Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Common form of all bodies."""


class Ask(_Body, frozen=True):
    """Asks what snapshot there is of a space."""

    space_id: bytes


class Offer(_Body, frozen=True):
    """The outline of the one there is, or empty bytes."""

    outline: bytes


class WantSlices(_Body, frozen=True):
    """Slices [start, stop) of the snapshot with this root."""

    root: bytes
    start: int
    stop: int


class SnapshotSlice(_Body, frozen=True):
    """One slice; empty bytes where it is not there any more."""

    index: int
    data: bytes


_NUMBERS: dict[type[_Body], int] = {Ask: 11, Offer: 12, WantSlices: 13, SnapshotSlice: 14}

_B = TypeVar("_B", bound=_Body)


class _Gives(Protocol):
    def snapshot_outline(self) -> bytes: ...
    def snapshot_slice(self, root: bytes, index: int) -> bytes: ...


@runtime_checkable
class GivesSnapshot(Protocol):
    """A station that may have a snapshot to give."""

    def snapshot_outline(self) -> bytes:
        """Return the outline of the snapshot that is here, or empty bytes."""

    def snapshot_slice(self, root: bytes, index: int) -> bytes:
        """Return one slice of the snapshot with this root, or empty bytes where it is not here."""


@runtime_checkable
class TakesSnapshot(Protocol):
    """A station that a snapshot would help."""

    @property
    def space_id(self) -> bytes:
        """The space this station belongs to."""

    def wants_snapshot(self) -> bool:
        """True while nothing of the space's rows is here."""

    def begin_snapshot(self, outline: Outline, giver: str) -> int | None:
        """Take up an outline: the first slice that lacks, their number where none does, None where it is not wanted."""

    def take_snapshot_slice(self, index: int, data: bytes) -> None:
        """Keep one slice.

        Raises:
            RefusedError: SNP-2.
        """

    def open_snapshot(self) -> None:
        """Make the rows of a snapshot that is all here readable.

        Raises:
            RefusedError: SNP-3, SNP-4, CRT-n: it is none; nothing of it is kept.
        """


class Asker:
    """The newcomer's side.

    Args:
        station: What the snapshot is for.
        giver: Whom to name if it is a lie.
    """

    def __init__(self, station: TakesSnapshot, giver: str) -> None:
        self._station = station
        self._giver = giver
        self._outline: Outline | None = None
        self._next = 0
        self._stop = 0
        self._is_asked = False

    def begin(self) -> bytes:
        """Return the first frame."""
        self._is_asked = True
        return _encode(Ask(self._station.space_id))

    def receive(self, frame: bytes) -> bytes | None:
        """Take one frame; return the next to be sent, empty bytes while more must come, None when it is over.

        Raises:
            RefusedError: The frame breaks a rule, or what came is no snapshot.
        """
        if self._outline is None:
            return self._meet(_decode(frame, Offer).outline)
        piece = _decode(frame, SnapshotSlice)
        if not piece.data:
            return None  # It was replaced by a newer one meanwhile; that is for the next meeting.
        if piece.index != self._next:
            raise MalformedError(f"slice {piece.index} of a snapshot came, {self._next} was wanted", rule="SNP-5")
        self._station.take_snapshot_slice(piece.index, piece.data)
        self._next += 1
        return b"" if self._next < self._stop else self._want()

    def _meet(self, data: bytes) -> bytes | None:
        if not data:
            return None
        outline = decode_outline(data, self._station.space_id)
        start = self._station.begin_snapshot(outline, self._giver)
        if start is None:
            return None
        self._outline, self._next = outline, start
        return self._want()

    def _want(self) -> bytes | None:
        assert self._outline is not None, "wants follow an outline"
        count = len(self._outline.leaves)
        if self._next == count:
            self._station.open_snapshot()
            return None
        self._stop = min(self._next + SLICE_WANT_MAX, count)
        return _encode(WantSlices(self._outline.root, self._next, self._stop))


class Giver:
    """The side that has a snapshot, or has none."""

    def __init__(self, station: object, space_id: bytes) -> None:
        self._shelf: _Gives | None = station if isinstance(station, GivesSnapshot) else None
        self._space_id = space_id

    def receive(self, frame: bytes) -> Iterator[bytes]:
        """Yield the frames that answer one.

        Raises:
            RefusedError: The frame breaks a rule.
        """
        if is_ask(frame):
            ask = _decode(frame, Ask)
            is_ours = ask.space_id == self._space_id
            yield _encode(Offer(self._shelf.snapshot_outline() if self._shelf is not None and is_ours else b""))
            return
        want = _decode(frame, WantSlices)
        is_bounded = 0 <= want.start < want.stop <= min(want.start + SLICE_WANT_MAX, LEAF_COUNT_MAX)
        if len(want.root) != HASH_SIZE or not is_bounded:
            raise MalformedError("want of a snapshot has a size or count out of bounds", rule="SNP-5")
        for index in range(want.start, want.stop):
            data = b"" if self._shelf is None else self._shelf.snapshot_slice(want.root, index)
            yield _encode(SnapshotSlice(index, data))
            if not data:
                return


def is_ask(frame: bytes) -> bool:
    """True when a connection begins with a question for a snapshot, and not with a session."""
    return len(frame) >= _PREFIX.size and frame[_PREFIX.size - 1] == _NUMBERS[Ask]


def fetch(mine: object, theirs: object) -> str:
    """Bring a snapshot from a station in this process, where that would help; return why it was refused, or "".

    A side that breaks a rule here costs the snapshot, and the session that follows nothing.
    """
    if not isinstance(mine, TakesSnapshot) or not mine.wants_snapshot():
        return ""
    asker = Asker(mine, str(getattr(theirs, "name", "") or "the other side"))
    giver = Giver(theirs, mine.space_id)
    try:
        question: bytes | None = asker.begin()
        while question:
            answer: bytes | None = b""
            for frame in giver.receive(question):
                answer = asker.receive(frame)
            question = answer
    except RefusedError as error:
        return str(error)
    return ""


def _encode(body: _Body) -> bytes:
    data = pack(body)
    return _PREFIX.pack(1 + len(data), _NUMBERS[type(body)]) + data


def _decode(frame: bytes, kind: type[_B]) -> _B:
    size = frame_size(frame)
    if size != len(frame):
        raise MalformedError(f"frame has {len(frame)} bytes and states {size}", rule="SYN-1")
    number = frame[_PREFIX.size - 1]
    if number != _NUMBERS[kind]:
        raise MalformedError(f"frame has type {number}, want {_NUMBERS[kind]}", rule="SNP-5")
    return unpack(frame[_PREFIX.size :], kind, f"{kind.__name__} message", FRAME_SIZE_MAX)


assert SLICE_SIZE + 64 < FRAME_SIZE_MAX, "a slice fits one frame"
assert OUTLINE_SIZE_MAX + 64 < FRAME_SIZE_MAX, "so does an outline"
