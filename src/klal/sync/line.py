"""A connection that stays: sessions, and between them each side offers what it gains, unasked.

A session finds out what is missing and costs several turns. Two sides that have just had
one know what the other holds, so what either gains afterwards is sent at once, in one go:
the log as it now is, the headers that are new, their payloads. Such an offer is judged as
everything else is, and what does not fit is put right by the next session.

What is gained is made into frames once, in a `Journal`, for however many lines there are:
a line is a position in it. So a listener who is slow costs nothing but its position, and
one who falls off the end is told by a session instead.

The side that dialed opens the sessions. The other asks for one with a TURN.

Law: whatever the bytes, `Line.hear` raises `RefusedError` or nothing.

Source:
    Protocol spec section 12, rules LIN-1 to LIN-5. Decision record 0032.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

from klal.errors import MalformedError, RefusedError
from klal.model.header import header_hash
from klal.model.receipt import Receipt
from klal.model.seal import SEAL_EVERY_COUNT, Seal
from klal.sync.messages import (
    RECEIPT_PAGE_COUNT_MAX,
    RECEIPT_SENT_SIZE_MAX,
    HeaderPiece,
    Hello,
    Leaves,
    LogLine,
    Logs,
    Message,
    ReceiptPage,
    SignedLine,
    Slices,
    Turn,
    decode,
    encode,
)
from klal.sync.session import Batch, header_pieces
from klal.sync.side import REFUSED_COUNT_MAX, Side
from klal.sync.station import Arrival, LogState, PartLeaves, PartSlice, Receipts, Run, Station

OFFER_SIZE_MAX = 1 << 20  # More than this is better asked for, in turns that wait for each other.
JOURNAL_SIZE_MAX = 8 << 20
OFFERED_LOG_COUNT_MAX = 4096
_PAGE_SIZE = 256 * 1024


@dataclass(frozen=True, slots=True)
class Gain:
    """One thing gained, ready to be sent.

    Shape:
        origin: the line it came by, which need not hear of it; None for what is from here, or of several.
        frames: one offer; none where only a session can tell of it.
    """

    origin: Line | None
    frames: tuple[bytes, ...]
    is_data: bool

    @property
    def size(self) -> int:
        return sum(map(len, self.frames))


class Journal:
    """What a station has gained, oldest first, as frames.

    Positions count gains since the journal was begun; only the newest are kept.
    """

    def __init__(self, station: Station) -> None:
        self._station = station
        self._lengths = {log.log_id: log.length for log in station.logs() if log.payload_length == log.length}
        self._numbers = self._numbers_now()
        self._gains: deque[Gain] = deque()
        self._size = 0
        self._first = 0
        self._origins: dict[bytes, Line | None] = {}

    @property
    def end(self) -> int:
        """Return the position behind the newest gain."""
        return self._first + len(self._gains)

    def came(self, log_id: bytes, line: Line) -> None:
        """Note by which line news of a log comes, before `note` finds it."""
        self._origins[log_id] = line if self._origins.get(log_id, line) is line else None

    def forget(self, line: Line) -> None:
        """Note that a line has ended."""
        for log_id in [log_id for log_id, origin in self._origins.items() if origin is line]:
            self._origins[log_id] = None

    def note(self) -> bool:
        """Take down the logs that grew and are whole again; return whether there are any."""
        before = self.end
        for log in self._station.logs():
            length = self._lengths.get(log.log_id, 0)
            if log.payload_length == log.length > length:
                self._lengths[log.log_id] = log.length
                origin = self._origins.pop(log.log_id, None)
                self._add(Gain(origin, self._offer(log, length), is_data=True))
        return self.end > before

    def note_receipts(self, origin: Line | None = None) -> bool:
        """Take down the receipts that are new; return whether there are any."""
        numbers, pages = self._numbers, list[ReceiptPage]()
        lines: list[SignedLine] = []
        size = 0
        for receipt in self._station.receipts():
            log_id, number = receipt.log_id(self._station.space_id), receipt.statement.number
            if number <= numbers.get(log_id, -1) or len(receipt.body) > RECEIPT_SENT_SIZE_MAX:
                continue
            numbers[log_id] = number
            if lines and (size + len(receipt.body) > _PAGE_SIZE or len(lines) == RECEIPT_PAGE_COUNT_MAX):
                pages.append(ReceiptPage(tuple(lines), is_last=True))
                lines, size = [], 0
            lines.append(SignedLine(receipt.body, receipt.signature))
            size += len(receipt.body) + 80  # The signature and the lengths around both.
        if lines:
            pages.append(ReceiptPage(tuple(lines), is_last=True))
        for page in pages:
            self._add(Gain(origin, (encode(page),), is_data=False))
        return bool(pages)

    def since(self, position: int) -> list[Gain] | None:
        """Return the gains from a position on; None where they are not kept any more."""
        if position < self._first:
            return None
        return [self._gains[index] for index in range(position - self._first, len(self._gains))]

    def _numbers_now(self) -> dict[bytes, int]:
        space_id = self._station.space_id
        return {receipt.log_id(space_id): receipt.statement.number for receipt in self._station.receipts()}

    def _add(self, gain: Gain) -> None:
        self._gains.append(gain)
        self._size += gain.size
        while self._size > JOURNAL_SIZE_MAX:
            self._size -= self._gains.popleft().size
            self._first += 1

    def _offer(self, log: LogState, start: int) -> tuple[bytes, ...]:
        """Return the frames that bring a log from `start` to its end; none where that is a session's work."""
        if log.log_id != log.origin(self._station.space_id):
            return ()  # Which branches the other side has, only a session finds out.
        frames: list[bytes] = []
        size = 0
        for message in self._messages(log, start):
            frames.append(encode(message))
            size += len(frames[-1])
            if size > OFFER_SIZE_MAX:
                return ()
        return tuple(frames)

    def _messages(self, log: LogState, start: int) -> Iterator[Message]:
        line = LogLine(log.log_id, log.member_id, log.incarnation, log.length, log.head_hash, log.payload_length)
        yield Logs((line,), (), is_last=False)
        for run in self._station.runs(log.log_id, start, log.length):
            yield from header_pieces(log.log_id, run)
        batch = Batch(log.log_id)
        for piece in self._station.payloads(log.log_id, start, log.length):
            if isinstance(piece, PartLeaves):
                yield from batch.flush()
                yield Leaves(log.log_id, piece.seq, piece.table_id, piece.leaves)
                continue
            if batch.is_full(piece):
                yield from batch.flush()
            batch.add(piece)
        yield from batch.flush()
        yield Logs((), (), is_last=True)


class _Offers:
    """What the other side offers, put together: each HEADERS and SLICES is of a log that a LOGS before it states.

    Shape:
        logs: stated by the offer that is coming.
        ended: stated by offers that have come to their end since anybody looked whether all of it is here.
    """

    def __init__(self, space_id: bytes) -> None:
        self._space_id = space_id
        self._pieces: list[bytes] = []
        self._piece_log = b""
        self._piece_start = 0
        self.logs: dict[bytes, LogState] = {}
        self.ended: dict[bytes, LogState] = {}

    def hear(self, message: Message) -> list[Arrival]:
        """Return what one message brings.

        Raises:
            MalformedError: LIN-3, what no offer holds, or a log that was not stated.
        """
        match message:
            case Logs():
                return self._hear_logs(message)
            case HeaderPiece():
                return self._hear_headers(message)
            case Leaves():
                log = self._stated(message.log_id)
                return [PartLeaves(log.origin(self._space_id), message.seq, message.table_id, message.leaves)]
            case Slices():
                origin, tables = self._stated(message.log_id).origin(self._space_id), message.tables
                return [
                    PartSlice(origin, line.seq, tables[line.table], line.index, line.data) for line in message.slices
                ]
            case ReceiptPage():
                receipts = tuple(Receipt.decode(line.body, line.signature) for line in message.receipts)
                return [Receipts(receipts)] if receipts else []
        raise MalformedError(f"{type(message).__name__} came outside of a session", rule="LIN-3")

    def _hear_logs(self, page: Logs) -> list[Arrival]:
        if len(self.logs) + len(self.ended) + len(page.logs) > OFFERED_LOG_COUNT_MAX:
            raise MalformedError(f"more than {OFFERED_LOG_COUNT_MAX} logs are offered at once", rule="LIN-3")
        for line in page.logs:
            state = LogState(
                line.log_id, line.member_id, line.incarnation, line.length, line.head_hash, line.payload_length
            )
            if state.origin(self._space_id) != line.log_id:
                raise MalformedError(f"log {line.log_id.hex()[:8]} is offered under another's name", rule="LIN-3")
            self.logs[line.log_id] = state
        if page.is_last:
            self.ended.update(self.logs)
            self.logs.clear()
        return []

    def _hear_headers(self, piece: HeaderPiece) -> list[Arrival]:
        log = self._stated(piece.log_id)
        if not self._pieces:
            self._piece_log, self._piece_start = piece.log_id, piece.start
        is_next = piece.log_id == self._piece_log and piece.start == self._piece_start + len(self._pieces)
        count = len(self._pieces) + len(piece.headers)
        if not is_next or count > SEAL_EVERY_COUNT or self._piece_start + count > log.length:
            raise MalformedError(f"headers of {piece.log_id.hex()[:8]} do not follow each other", rule="LIN-3")
        self._pieces += piece.headers
        if not piece.signature:
            return []
        headers, self._pieces = tuple(self._pieces), []
        seal = Seal(log.log_id, self._piece_start + count, header_hash(self._space_id, headers[-1]), piece.signature)
        return [Run(log.log_id, log.member_id, log.incarnation, self._piece_start, headers, seal)]

    def _stated(self, log_id: bytes) -> LogState:
        log = self.logs.get(log_id)
        if log is None:
            raise MalformedError(f"log {log_id.hex()[:8]} is offered without being stated", rule="LIN-3")
        return log


class Line:
    """One end of a connection between two stations.

    Whoever carries it gives it what comes (`hear`), settles the station, says so
    (`settled`), and sends what it has to say (`pull`). Several lines may share one station
    and one journal, if the station is settled for all of them before any of them speaks.
    """

    def __init__(self, station: Station, journal: Journal, *, dials: bool) -> None:
        self._station = station
        self._journal = journal
        self._dials = dials
        self._side: Side | None = None
        self._guest = Side(station, self._came)  # Takes what is offered; its session is never used.
        self._offers = _Offers(station.space_id)
        self._position = journal.end
        self._position_met = journal.end
        self._words: Generator[bytes, None, None] | None = None
        self._ahead: bytes | None = None
        self._wants_session = dials
        self._has_met = False
        self._other_takes = False
        self.session_count = 0
        """Sessions that came to their end."""
        self.is_equal = False
        """Whether the last one ended with the same roots on both sides."""
        self.change_count = 0
        """Changes taken by this line."""
        self.payload_count = 0
        """Payloads taken by this line, whole or in part."""
        self.refused: deque[str] = deque(maxlen=8)
        """Sentences on what was refused, the newest few."""
        self.refused_count = 0
        self.is_owed = False
        """True from an offer until word comes that it arrived: a receipt, or a session."""

    @property
    def is_in_session(self) -> bool:
        """True between the first HELLO and the last END."""
        return self._side is not None

    @property
    def is_waited_for(self) -> bool:
        """True when the other side is to speak: it has a deadline then."""
        return self._side is not None and not self._side.session.is_my_turn and self._words is None

    def request_session(self) -> None:
        """Have the next words be a session, or the request for one."""
        self._wants_session = True

    # Listening.

    def hear(self, frame: bytes) -> None:
        """Give the station what one frame brings.

        Raises:
            RefusedError: The line is not worth keeping: SYN-1 to SYN-5, LIN-1 to LIN-3, or too much was refused.
        """
        side = self._side
        if side is not None and side.session.has_met:
            if self._words is not None:
                raise MalformedError("a frame came out of turn", rule="SYN-4")
            self._hear_session(side, frame)
            return
        message = decode(frame)
        match message:
            case Hello() if side is None and self._dials:
                raise MalformedError("a hello came from the side that was dialed", rule="LIN-2")
            case Hello():
                self._hear_session(side or self._begin(), frame)
            case Turn() if self._dials:
                self._wants_session = True
            case _ if not self._has_met:
                raise MalformedError(f"{type(message).__name__} came before a session", rule="LIN-3")
            case _:
                self._hear_offer(message, len(frame))
        self._check_patience()

    def _hear_session(self, side: Side, frame: bytes) -> None:
        side.hear(frame)
        self._check_patience()
        if side.session.is_over:
            self._end(side)

    def _hear_offer(self, message: Message, size: int) -> None:
        arrivals = self._offers.hear(message)
        if not self._station.takes:
            raise RefusedError("an offer came to a side that takes nothing", rule="LIN-3")
        if any(isinstance(arrival, Receipts) for arrival in arrivals):
            self.is_owed = False
        self._guest.take(arrivals, size)

    def _came(self, log_id: bytes) -> None:
        self._journal.came(log_id, self)

    def _check_patience(self) -> None:
        if self.refused_count + sum(len(side.refused) for side in self._sides()) > REFUSED_COUNT_MAX:
            raise RefusedError(f"more than {REFUSED_COUNT_MAX} things were refused on one line", rule="LIN-3")

    def _sides(self) -> Iterable[Side]:
        return (self._guest,) if self._side is None else (self._guest, self._side)

    def settled(self) -> None:
        """Note that what was heard is durable and applied: see whether what was offered is all here now."""
        guest = self._guest
        for log in self._offers.ended.values():
            if not self._station.holds(log) or self._station.payload_gaps(log):
                self._wants_session = True
        self._offers.ended.clear()
        self._tally(guest)

    def _tally(self, side: Side) -> None:
        self.change_count += side.change_count
        self.payload_count += side.payload_count
        self.refused_count += len(side.refused)
        self.refused.extend(side.refused)
        side.change_count = side.payload_count = 0
        side.refused.clear()
        side.seqs.clear()

    # Speaking.

    @property
    def has_words(self) -> bool:
        """True when `pull` would return something."""
        if self._words is not None:
            return True
        if self._side is not None:
            return self._side.session.is_my_turn and not self._side.session.is_over
        return self._wants_session or (self._has_met and self._position < self._journal.end)

    def pull(self, size: int) -> list[bytes]:
        """Return the next frames to send, at least one if there are any, about this many bytes of them.

        The station must be settled when a turn begins; between two pulls it may gain more.
        """
        frames: list[bytes] = []
        pulled = 0
        while pulled < size and (self._ahead is not None or self._look_ahead()):
            assert self._ahead is not None, "it was just looked for"
            frames.append(self._ahead)
            pulled += len(self._ahead)
            self._ahead = self._next()
        return frames

    def _look_ahead(self) -> bool:
        """Begin to say what there is to say; False if that is nothing."""
        while self._ahead is None and self.has_words:
            self._words = self._speak()
            self._ahead = self._next()
        return self._ahead is not None

    def _next(self) -> bytes | None:
        """Return the next frame of what is being said; None at its end, known before its last frame is sent."""
        assert self._words is not None, "somebody is speaking"
        frame = next(self._words, None)
        if frame is None:
            self._words = None
            if self._side is not None and self._side.session.is_over:
                self._end(self._side)
        return frame

    def close(self) -> None:
        """Give up what is being said."""
        if self._words is not None:
            self._words.close()
        self._words = self._ahead = None
        self._journal.forget(self)

    def _speak(self) -> Generator[bytes, None, None]:
        if self._side is not None:
            yield from self._side.session.turn()
            return
        if not self._wants_session:
            gains = self._journal.since(self._position)
            theirs = None if gains is None else [gain for gain in gains if gain.origin is not self]
            if theirs is not None and all(gain.frames for gain in theirs):
                self._position = self._journal.end
                for gain in theirs if self._other_takes else ():
                    self.is_owed = self.is_owed or gain.is_data
                    yield from gain.frames
                return
            self._wants_session = True
        if self._dials:
            yield from self._begin().session.turn()
            return
        # Asked once; what is gained until it comes is told by that session.
        self._wants_session = False
        self._position = self._journal.end
        yield encode(Turn())

    def _begin(self) -> Side:
        self._wants_session = False
        self._has_met = True
        self._position_met = self._journal.end
        self._side = Side(self._station, self._came)
        return self._side

    def _end(self, side: Side) -> None:
        self._side = None
        self._tally(side)
        self._position = max(self._position, self._position_met)
        self.session_count += 1
        self._other_takes = side.session.other_takes
        self.is_owed = False
        self.is_equal = side.ended is not None and side.ended.equal
