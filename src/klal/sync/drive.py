"""Two stations in one process, synced: what both carriers do, another file and a folder.

The drive carries frames between two sessions, gives each arrival to its station, and
settles a station before it speaks after having listened. One refused arrival costs its
log, or its one payload, for the rest of the session and nothing else.

Law: cut after any frame and driven again, two stations end as if they had never been cut.

Source:
    Protocol spec section 12, rules SYN-7 to SYN-9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from klal.errors import KlalError, RefusedError
from klal.sync.session import Ended, Session
from klal.sync.station import Arrival, LogState, PartLeaves, PartSlice, Receipts, Roots, Run, Station

REFUSED_COUNT_MAX = 1000  # A side that breaks more rules than this is not worth the wait.
# Settled this often within one turn, so that a power cut costs no more than this.
_SETTLE_SIZE = 32 * 1024 * 1024

OnProgress = Callable[[str, int, int], None]
"""Called with ("headers" or "payloads", done, total) over both directions; total may grow."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went one way.

    Shape:
        change_count: headers accepted, in runs that were not here whole.
        payload_count: changes of which payload arrived, and which are whole now.
        byte_count: bytes of frames.
    """

    change_count: int
    payload_count: int
    byte_count: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a session came to, seen from `mine`.

    Shape:
        equal: both sides said that they want nothing more, and hold the same now.
        is_finished: False when it was cut.
        refused: one sentence for each thing refused, on either side.
        roots: of `mine`, at the end.
    """

    sent: Traffic
    received: Traffic
    equal: bool
    is_finished: bool
    refused: tuple[str, ...]
    roots: Roots


def drive(
    mine: Station, theirs: Station, *, on_progress: OnProgress | None = None, byte_count_max: int | None = None
) -> Outcome:
    """Sync two stations and return what came of it.

    Args:
        mine: The side that opens, and that counts as the sender in the outcome.
        theirs: The other side.
        on_progress: Told after each frame that brought something.
        byte_count_max: Stop after the frame that reaches this many bytes, both ways together.

    Raises:
        RefusedError: SYN-5 or SYN-4, the two are of different spaces or protocols.
        TransportError: A station's wire failed; what had arrived is settled.
    """
    return _Drive(_Side(mine), _Side(theirs), on_progress, byte_count_max).run()


@dataclass(slots=True)
class _Side:
    """One station, its session, and what arrived at it."""

    station: Station
    session: Session = field(init=False)
    change_count: int = 0
    byte_count: int = 0
    seqs: dict[bytes, set[int]] = field(default_factory=dict)
    payload_count: int = 0
    unsettled_size: int = 0
    refused: list[str] = field(default_factory=list)
    ended: Ended | None = None

    def __post_init__(self) -> None:
        self.session = Session(self.station)

    def hear(self, frame: bytes) -> bool:
        """Take what one frame brings; return whether that was anything."""
        self.byte_count += len(frame)
        try:
            events = self.session.receive(frame)
        except RefusedError as error:
            # Two spaces have nothing to say to each other: no session, so nothing to save.
            if not self.session.has_met:
                raise
            self.refused.append(str(error))
            return False
        arrived = False
        slices = [event for event in events if isinstance(event, PartSlice)]
        if slices:
            arrived = True
            self._take_slices(slices)
        for event in events if not slices else ():
            if isinstance(event, Ended):
                self.ended = event
                continue
            arrived = True
            self._take(event)
        if arrived:
            self.unsettled_size += len(frame)
            if self.unsettled_size >= _SETTLE_SIZE:
                self.settle()
        return arrived

    def _take_slices(self, slices: list[PartSlice]) -> None:
        """Take the slices of one frame, which are of one log: together what can be, the others one by one."""
        log_id = slices[0].log_id
        taken = self.station.take_whole(log_id, slices)
        seqs = self.seqs.setdefault(log_id, set())
        self.payload_count += len(taken - seqs)
        seqs |= taken
        for each in slices:
            if each.seq not in taken:
                self._take(each)

    def _take(self, arrival: Arrival) -> None:
        was_held = isinstance(arrival, Run) and self._holds(arrival)
        try:
            self.station.take(arrival)
        except RefusedError as error:
            if isinstance(arrival, Receipts) and len(arrival.receipts) > 1:
                # One bad receipt does not take the good ones of its page with it.
                for receipt in arrival.receipts:
                    self._take(Receipts((receipt,)))
                return
            self._refuse(arrival, error)
            return
        match arrival:
            case Run():
                if not was_held and self._holds(arrival):
                    self.change_count += len(arrival.headers)
            case PartLeaves() | PartSlice():
                seqs = self.seqs.setdefault(arrival.log_id, set())
                if arrival.seq not in seqs:
                    seqs.add(arrival.seq)
                    self.payload_count += 1
            case Receipts():
                pass

    def _holds(self, run: Run) -> bool:
        seal = run.seal
        return self.station.holds(
            LogState(run.log_id, run.member_id, run.incarnation, seal.length, seal.head_hash, payload_length=0)
        )

    def _refuse(self, arrival: Arrival, error: RefusedError) -> None:
        self.refused.append(str(error))
        match arrival:
            case Run():
                self.session.refuse(arrival.log_id)
            case PartLeaves() | PartSlice():
                # Every payload is judged against its own header, so the log's others may be fine.
                self.session.refuse(arrival.log_id, arrival.seq)
            case Receipts():
                pass

    def settle(self) -> None:
        if self.unsettled_size:
            self.unsettled_size = 0
            self.station.settle()

    def whole_payload_count(self) -> int:
        """Return how many of the payloads that arrived are whole now."""
        if not self.seqs:
            return 0
        lacking: set[tuple[bytes, int]] = set()  # Of a forked log, two branches may lack what they share.
        for log in self.station.logs():
            origin = log.origin(self.station.space_id)
            seqs = self.seqs.get(origin)
            if seqs:
                lacking.update((origin, seq) for gap in self.station.payload_gaps(log) for seq in gap if seq in seqs)
        return sum(map(len, self.seqs.values())) - len(lacking)


@dataclass(slots=True)
class _Drive:
    mine: _Side
    theirs: _Side
    on_progress: OnProgress | None
    byte_count_max: int | None
    told: dict[str, tuple[int, int]] = field(default_factory=dict)

    def run(self) -> Outcome:
        speaker, listener = self.mine, self.theirs
        is_whole = True
        while is_whole:
            is_whole = self._turn(speaker, listener)
            # An answer that cannot be given any more: the turn's last frame was refused.
            if not listener.session.is_my_turn:
                break
            speaker, listener = listener, speaker
        return self._outcome()

    def _turn(self, speaker: _Side, listener: _Side) -> bool:
        """Carry one turn; return False when the session must stop here."""
        frames = speaker.session.turn()
        try:
            is_whole = self._carry(frames, listener)
        except BaseException:
            # What arrived whole stays, whatever went wrong, also when somebody pressed Ctrl-C.
            # Closed first: a generator left half-way may hold a read transaction open.
            frames.close()
            for side in (listener, speaker):
                with suppress(KlalError):
                    side.settle()
            raise
        frames.close()
        listener.settle()
        return is_whole

    def _carry(self, frames: Iterator[bytes], listener: _Side) -> bool:
        for frame in frames:
            if listener.hear(frame):
                self._tell()
            if self.byte_count_max is not None and self._byte_count() >= self.byte_count_max:
                return False
            if len(listener.refused) > REFUSED_COUNT_MAX:
                return False
        return True

    def _byte_count(self) -> int:
        return self.mine.byte_count + self.theirs.byte_count

    def _tell(self) -> None:
        if self.on_progress is None:
            return
        sides = (self.mine, self.theirs)
        now = {
            "headers": (
                sum(side.change_count for side in sides),
                sum(side.session.headers_asked_count for side in sides),
            ),
            "payloads": (
                sum(side.payload_count for side in sides),
                sum(side.session.payloads_asked_count for side in sides),
            ),
        }
        for phase, (done, total) in now.items():
            if self.told.get(phase, (0, 0)) != (done, total) and done:
                self.on_progress(phase, done, total)
        self.told = now

    def _outcome(self) -> Outcome:
        mine, theirs = self.mine, self.theirs
        is_finished = mine.session.is_over and theirs.session.is_over
        equal = all(side.ended is not None and side.ended.equal for side in (mine, theirs))
        return Outcome(
            sent=Traffic(theirs.change_count, theirs.whole_payload_count(), theirs.byte_count),
            received=Traffic(mine.change_count, mine.whole_payload_count(), mine.byte_count),
            equal=equal and is_finished,
            is_finished=is_finished,
            refused=(*mine.refused, *theirs.refused),
            roots=mine.station.roots(),
        )
