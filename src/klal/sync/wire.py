"""One side of a session, over anything that carries frames: a socket, a pipe, a pair of queues.

What `drive` is for two stations in one process, `exchange` is for one station and a wire
behind which the other one is.

Law: cut after any frame and done again, two stations end as if they had never been cut.

Source:
    Protocol spec section 12, rules SYN-7 to SYN-9.
"""

from __future__ import annotations

from contextlib import closing, suppress
from typing import Protocol

from klal.errors import KlalError
from klal.sync.side import REFUSED_COUNT_MAX, OnProgress, Outcome, Side, Traffic
from klal.sync.station import Station


class Wire(Protocol):
    """What carries whole frames, in order, to the other side and back.

    Both methods raise `TransportError` once the other side is gone, or takes too long.
    """

    def send(self, frame: bytes) -> None:
        """Hand one frame over; may wait until there is room."""

    def receive(self) -> bytes:
        """Wait for the other side's next frame."""

    def close(self) -> None:
        """Release the wire; it never raises."""


def exchange(
    mine: Station, wire: Wire, *, on_progress: OnProgress | None = None, byte_count_max: int | None = None
) -> Outcome:
    """Open a session with whoever is behind the wire, and return what came of it, seen from here.

    What was sent counts as asked for by the other side: whether it was taken, only that side knows.

    Raises:
        RefusedError: SYN-5 or SYN-4, the other side is of another space or protocol.
        TransportError: The wire failed; what had arrived is settled.
    """
    return _Exchange(Side(mine), wire, on_progress, byte_count_max).run()


class _Exchange:
    def __init__(self, side: Side, wire: Wire, on_progress: OnProgress | None, byte_count_max: int | None) -> None:
        self.side = side
        self.wire = wire
        self.on_progress = on_progress
        self.byte_count_max = byte_count_max
        self.sent_size = 0

    def run(self) -> Outcome:
        session = self.side.session
        try:
            while not session.is_over and not self._is_spent():
                if session.is_my_turn:
                    self.side.settle()
                    self._speak()
                else:
                    self._listen()
        except BaseException:
            # What arrived whole stays, whatever went wrong, also when somebody pressed Ctrl-C.
            with suppress(KlalError):
                self.side.settle()
            raise
        self.side.settle()
        return self._outcome()

    def _is_spent(self) -> bool:
        is_full = self.byte_count_max is not None and self.sent_size + self.side.byte_count >= self.byte_count_max
        return is_full or len(self.side.refused) > REFUSED_COUNT_MAX

    def _speak(self) -> None:
        with closing(self.side.session.turn()) as frames:
            for frame in frames:
                self.wire.send(frame)
                self.sent_size += len(frame)
                self._tell()
                if self._is_spent():
                    return

    def _listen(self) -> None:
        if self.side.hear(self.wire.receive()):
            self._tell()

    def _tell(self) -> None:
        if self.on_progress is None:
            return
        side, session = self.side, self.side.session
        for phase, done, total in (
            ("headers", side.change_count + session.headers_sent_count, session.headers_asked_count),
            ("payloads", side.payload_count + session.payloads_sent_count, session.payloads_asked_count),
        ):
            if done:
                self.on_progress(phase, done, max(done, total))

    def _outcome(self) -> Outcome:
        side, session = self.side, self.side.session
        return Outcome(
            sent=Traffic(session.headers_sent_count, session.payloads_sent_count, self.sent_size),
            received=Traffic(side.change_count, side.whole_payload_count(), side.byte_count),
            equal=session.is_over and side.ended is not None and side.ended.equal,
            is_finished=session.is_over,
            refused=tuple(side.refused),
            roots=side.station.roots(),
        )
