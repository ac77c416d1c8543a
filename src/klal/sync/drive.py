"""Two stations in one process, synced: what both carriers do, another file and a folder.

The drive carries frames between two sessions, gives each arrival to its station, and
settles a station before it speaks after having listened. One refused arrival costs its
log, or its one payload, for the rest of the session and nothing else.

Law: cut after any frame and driven again, two stations end as if they had never been cut.

Source:
    Protocol spec section 12, rules SYN-7 to SYN-9.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from klal.errors import KlalError
from klal.sync.side import REFUSED_COUNT_MAX, OnProgress, Outcome, Side, Traffic
from klal.sync.snapshot import fetch
from klal.sync.station import Station


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
    refused = [sentence for sentence in (fetch(mine, theirs), fetch(theirs, mine)) if sentence]
    sides = Side(mine), Side(theirs)
    sides[0].refused += refused
    return _Drive(*sides, on_progress, byte_count_max).run()


@dataclass(slots=True)
class _Drive:
    mine: Side
    theirs: Side
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

    def _turn(self, speaker: Side, listener: Side) -> bool:
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

    def _carry(self, frames: Iterator[bytes], listener: Side) -> bool:
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
