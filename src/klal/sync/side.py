"""One side of a session: a station, what its session says, and what became of each arrival.

One refused arrival costs its log, or its one payload, for the rest of the session and
nothing else. Whoever carries the frames settles a side before it speaks after having
listened.

Source:
    Protocol spec section 12, rules SYN-7 and SYN-8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from klal.errors import RefusedError
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


@dataclass(slots=True)
class Side:
    """One station, its session, and what arrived at it.

    Shape:
        on_run: told the log of every run that brought something.
    """

    station: Station
    on_run: Callable[[bytes], None] | None = None
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
        for event in events:
            if isinstance(event, Ended):
                self.ended = event
        return self.take([event for event in events if not isinstance(event, Ended)], len(frame))

    def take(self, arrivals: Sequence[Arrival], size: int) -> bool:
        """Give the station what one frame of this size brought; return whether that was anything."""
        slices = [arrival for arrival in arrivals if isinstance(arrival, PartSlice)]
        if slices:
            self._take_slices(slices)
        for arrival in arrivals if not slices else ():
            self._take(arrival)
        if arrivals:
            self.unsettled_size += size
            if self.unsettled_size >= _SETTLE_SIZE:
                self.settle()
        return bool(arrivals)

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
                    if self.on_run is not None:
                        self.on_run(arrival.log_id)
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
