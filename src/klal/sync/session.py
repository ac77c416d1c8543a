"""A session: two replicas find out what the other lacks, and send exactly that.

A session reads one station and never writes it. Bytes come in, arrivals and bytes go
out, and whoever drives it stores the arrivals. The two sides take turns; a turn is a
lazy sequence of frames that ends with TURN or END.

Nothing is remembered between sessions. What to ask for is worked out anew each turn from
what the other side stated and what is stored here by then, so a session that was cut is
resumed by beginning again. The same question is put a second time only after something
else has moved: progress is what keeps a session going.

    opener                            other
    HELLO TURN                   ->
                                 <-   HELLO [END if all roots are equal] LOGS TURN
    LOGS WANT_HEADERS TURN       ->
                                 <-   HEADERS.. WANT_HEADERS TURN
    HEADERS.. WANT_PAYLOADS TURN ->
                                 <-   SLICES.. WANT_PAYLOADS TURN
    SLICES.. TURN                ->
                                 <-   RECEIPTS TURN
    RECEIPTS END                 ->
                                 <-   END

Law: whatever the bytes, `receive` raises `RefusedError` or nothing, and a refused frame
leaves the session as it was.

Source:
    Protocol spec section 12, rules SYN-1 to SYN-9.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field

from klal.errors import MalformedError, RefusedError
from klal.model.codec import FRAME_SIZE_MAX, PROTOCOL_VERSION
from klal.model.header import header_hash
from klal.model.receipt import Receipt
from klal.model.seal import SEAL_EVERY_COUNT, Seal
from klal.sync.messages import (
    LOG_PAGE_COUNT_MAX,
    RECEIPT_PAGE_COUNT_MAX,
    RECEIPT_SENT_SIZE_MAX,
    SLICE_BATCH_COUNT_MAX,
    WANT_COUNT_MAX,
    Begun,
    End,
    HeaderPiece,
    Hello,
    Leaves,
    LogLine,
    Logs,
    Message,
    ReceiptLine,
    ReceiptPage,
    SignedLine,
    SliceLine,
    Slices,
    Span,
    Turn,
    WantHeaders,
    WantPayloads,
    decode,
    encode,
)
from klal.sync.station import Arrival, LogState, PartLeaves, PartSlice, Receipts, Roots, Run, Station

LOG_COUNT_MAX = 1 << 20  # About 300 MB of statements; a peer that goes on has another aim.
TURN_COUNT_MAX = 1 << 16  # With 4,096 wants a turn this is 268 million gaps.
# Frames are filled up to here: large enough that framing costs nothing, small enough that
# a cut strands little and a progress bar moves.
_BATCH_SIZE = 256 * 1024
_LINE_SIZE = 48  # The most that a slice and a table named for the first time add to its data.

assert 2 * _BATCH_SIZE < FRAME_SIZE_MAX, "a batch that one more slice or header overfills still fits a frame"


@dataclass(frozen=True, slots=True)
class Ended:
    """The other side wants nothing more.

    Shape:
        equal: known and held are now the same on both sides.
    """

    equal: bool


@dataclass(slots=True)
class _Want:
    """One span asked for, of headers or of payloads, and how far the answer has come."""

    span: Span
    begun: tuple[Begun, ...] = ()
    is_payload: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        # A member who has only joined is one header and one payload over the same span.
        return (self.is_payload, self.span.log_id, self.span.start, self.span.stop, self.begun)


@dataclass(slots=True)
class _Answer:
    """What the other side may send in its next turn: what was asked for, once, in order.

    Shape:
        headers: log id -> [next seq, stop].
        payloads: log id -> spans, ascending.
        last: log id -> (seq, table id, index) of the newest leaves (-1) or slice.
        pieces: headers of the run that is not sealed yet, of `run_log`, from `run_start`.
    """

    headers: dict[bytes, list[int]] = field(default_factory=dict)
    payloads: dict[bytes, list[Span]] = field(default_factory=dict)
    last: dict[bytes, tuple[int, bytes, int]] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    run_log: bytes = b""


class Session:
    """One side of a session, speaking for `station`.

    Call `turn` and send its frames, then `receive` what comes until the other side's turn
    is over (`is_my_turn`), and so on until `is_over`. The side whose `turn` is called
    before anything was received is the one that opens.

    Between a turn of the other side that brought arrivals and one's own, the station must
    be settled: wants are worked out from what is stored.
    """

    def __init__(self, station: Station) -> None:
        self._station = station
        self._is_my_turn = True
        self._hello: Hello | None = None
        self._own_roots: Roots | None = None
        self._own_takes = station.takes
        self._stated: dict[bytes, int] = {}
        self._own_numbers: dict[bytes, int] = {}
        self._logs: dict[bytes, LogState] = {}
        self._numbers: dict[bytes, int] = {}
        self._has_logs = False
        self._has_receipts = False
        self._logs_sent = False
        self._receipts_sent = False
        self._ended = False
        self._has_ended = False
        self._turn_count = 0
        self._answer = _Answer()
        self._asked: dict[tuple[object, ...], Roots] = {}
        self._want_headers: WantHeaders | None = None
        self._want_payloads: WantPayloads | None = None
        self._refused_logs: set[bytes] = set()
        self._refused_seqs: dict[bytes, set[int]] = {}
        self.headers_asked_count = 0
        """Headers asked for so far, for a progress bar."""
        self.payloads_asked_count = 0
        """Payloads asked for so far."""
        self.headers_sent_count = 0
        """Headers given in answer so far, for whoever cannot ask the other side what it took."""
        self.payloads_sent_count = 0
        """Payloads given in answer so far, whole or in part."""

    @property
    def is_my_turn(self) -> bool:
        """True when the other side has ended its turn, or nobody has spoken."""
        return self._is_my_turn

    @property
    def has_met(self) -> bool:
        """True once the other side's hello was accepted: same space, same protocol."""
        return self._hello is not None

    @property
    def other_takes(self) -> bool:
        """True once the other side has said that it may be sent something."""
        return self._hello is not None and self._hello.takes

    @property
    def is_over(self) -> bool:
        """True when both sides have said END."""
        return self._ended and self._has_ended

    def refuse(self, log_id: bytes, seq: int | None = None) -> None:
        """Ask for nothing more of this log, or of this one payload of it, in this session.

        What still comes of it in answer to an earlier question is passed over in silence.
        """
        if seq is None:
            self._refused_logs.add(log_id)
        else:
            self._refused_seqs.setdefault(log_id, set()).add(seq)

    # Speaking.

    def turn(self) -> Generator[bytes, None, None]:
        """Yield the frames of this side's turn; to be consumed to its end, or the session given up."""
        assert self._is_my_turn, "the other side is speaking"
        assert not self._ended, "END was the last word"
        # Taken down first: whoever abandons the generator half-way has given up the turn.
        self._is_my_turn = False
        for message in self._speak():
            yield encode(message)

    def _speak(self) -> Iterator[Message]:
        station = self._station
        if self._own_roots is None:
            self._own_roots = roots = station.roots()
            self._own_numbers = {
                receipt.log_id(station.space_id): receipt.statement.number for receipt in station.receipts()
            }
            yield Hello(
                PROTOCOL_VERSION, station.space_id, roots.known, roots.held, roots.receipts, takes=self._own_takes
            )
            if self._hello is None:
                yield Turn()
                return
        assert self._hello is not None, "the other side speaks only after a hello"
        if self._has_ended or self._nothing_to_do(self._own_roots, self._hello):
            yield self._end()
            return
        # A side that has not seen these logs may still want something.
        could_ask = self._logs_sent or not self._hello.takes
        if self._hello.takes and not self._logs_sent:
            yield from self._speak_logs()
        was_asked = self._want_headers is not None or self._want_payloads is not None
        yield from self._serve()
        wants = self._ask()
        if wants is not None:
            yield wants
        # Receipts come when neither side wants anything more: they speak of what this session
        # brought, and the logs they speak for are known where they arrive.
        is_waiting = wants is not None or was_asked or not could_ask or (self._own_takes and not self._has_logs)
        if not is_waiting and not self._receipts_sent:
            self._receipts_sent = True
            if self._hello.takes:
                yield from self._speak_receipts()
        if not is_waiting and (self._has_receipts or not self._own_takes):
            yield self._end()
        else:
            yield Turn()

    def _nothing_to_do(self, own: Roots, hello: Hello) -> bool:
        if not (self._own_takes or hello.takes):
            return True
        # Beyond a gap the held root says nothing, so two sides with the same gap still compare.
        return own == Roots(hello.known, hello.held, hello.receipts) and own.known == own.held

    def _end(self) -> End:
        self._ended = True
        roots = self._station.roots()
        return End(roots.known, roots.held, roots.receipts)

    def _speak_logs(self) -> Iterator[Message]:
        self._logs_sent = True
        logs = self._station.logs()
        self._stated = {log.log_id: log.length for log in logs}
        lines = [
            LogLine(log.log_id, log.member_id, log.incarnation, log.length, log.head_hash, log.payload_length)
            for log in logs
        ]
        assert self._own_roots is not None, "logs follow both hellos"
        assert self._hello is not None, "logs follow both hellos"
        numbers: list[ReceiptLine] = []
        # Equal roots over receipts: each side knows the other's numbers without being told.
        if self._own_takes and self._own_roots.receipts != self._hello.receipts:
            numbers = [ReceiptLine(*item) for item in self._own_numbers.items()]
        page_count = max(1, -(-max(len(lines), len(numbers)) // LOG_PAGE_COUNT_MAX))
        for page in range(page_count):
            here = slice(page * LOG_PAGE_COUNT_MAX, (page + 1) * LOG_PAGE_COUNT_MAX)
            yield Logs(tuple(lines[here]), tuple(numbers[here]), is_last=page == page_count - 1)

    def _speak_receipts(self) -> Iterator[Message]:
        assert self._own_roots is not None, "receipts follow both hellos"
        assert self._hello is not None, "receipts follow both hellos"
        same = self._own_roots.receipts == self._hello.receipts
        numbers = self._own_numbers if same else self._numbers
        page: list[SignedLine] = []
        size = 0
        for receipt in self._station.receipts():
            is_news = receipt.statement.number > numbers.get(receipt.log_id(self._station.space_id), -1)
            if not is_news or len(receipt.body) > RECEIPT_SENT_SIZE_MAX:
                continue
            if page and (size + len(receipt.body) > _BATCH_SIZE or len(page) == RECEIPT_PAGE_COUNT_MAX):
                yield ReceiptPage(tuple(page), is_last=False)
                page, size = [], 0
            page.append(SignedLine(receipt.body, receipt.signature))
            # 80: the signature and the lengths around both.
            size += len(receipt.body) + 80
        yield ReceiptPage(tuple(page), is_last=True)

    def _serve(self) -> Iterator[Message]:
        headers, self._want_headers = self._want_headers, None
        payloads, self._want_payloads = self._want_payloads, None
        if headers is not None:
            for span in headers.spans:
                for run in self._station.runs(span.log_id, span.start, span.stop):
                    self.headers_sent_count += len(run.headers)
                    yield from header_pieces(span.log_id, run)
        if payloads is not None:
            held = {(begun.log_id, begun.seq, begun.table_id): begun.slice_count for begun in payloads.begun}
            for log_id, spans in _by_log(payloads.spans):
                yield from self._serve_payloads(log_id, spans, held)

    def _serve_payloads(
        self, log_id: bytes, spans: list[Span], held: dict[tuple[bytes, int, bytes], int]
    ) -> Iterator[Message]:
        batch = Batch(log_id)
        last_seq = -1
        for span in spans:
            for piece in self._station.payloads(log_id, span.start, span.stop):
                self.payloads_sent_count += piece.seq != last_seq
                last_seq = piece.seq
                held_count = held.get((log_id, piece.seq, piece.table_id), 0)
                if isinstance(piece, PartLeaves):
                    # Whoever holds a slice of a large part holds its leaves.
                    if not held_count:
                        yield from batch.flush()
                        yield Leaves(log_id, piece.seq, piece.table_id, piece.leaves)
                elif piece.index >= held_count:
                    if batch.is_full(piece):
                        yield from batch.flush()
                    batch.add(piece)
        yield from batch.flush()

    # Asking.

    def _ask(self) -> WantHeaders | WantPayloads | None:
        self._answer = _Answer()
        if not (self._own_takes and self._has_logs):
            return None
        own: dict[bytes, int] = {}  # log -> how long the longest of its branches here is
        for log in self._station.logs():
            own[self._origin(log)] = max(log.length, own.get(self._origin(log), 0))
        roots = self._station.roots()
        headers = list(self._header_wants(own))
        fresh = self._pick(headers, roots, again=False)
        if fresh:
            return self._ask_headers(fresh)
        payloads = list(self._payload_wants())
        fresh = self._pick(payloads, roots, again=False)
        if fresh:
            return self._ask_payloads(fresh)
        # What came to nothing may have waited for what has come since: an inviter's payload.
        again = self._pick(headers, roots, again=True)
        if again:
            return self._ask_headers(again)
        again = self._pick(payloads, roots, again=True)
        return self._ask_payloads(again) if again else None

    def _pick(self, wants: list[_Want], roots: Roots, *, again: bool) -> list[_Want]:
        """Return at most a turn's worth: those never asked, or those asked before something moved."""
        picked: list[_Want] = []
        branches: dict[bytes, bytes] = {}  # Of a forked log one branch a turn: what they share comes once.
        for want in wants:
            asked = self._asked.get(want.key)
            if (asked is None) != again and (asked is None or _has_moved(asked, roots)):
                log_id = want.span.log_id
                if branches.setdefault(self._origin(self._logs[log_id]), log_id) != log_id:
                    continue
                picked.append(want)
                if len(picked) == WANT_COUNT_MAX:
                    break
        for want in picked:
            self._asked[want.key] = roots
        return picked

    def _ask_headers(self, wants: list[_Want]) -> WantHeaders:
        self._answer.headers = {want.span.log_id: [want.span.start, want.span.stop] for want in wants}
        self.headers_asked_count += sum(want.span.stop - want.span.start for want in wants)
        return WantHeaders(tuple(want.span for want in wants))

    def _ask_payloads(self, wants: list[_Want]) -> WantPayloads:
        spans = tuple(want.span for want in wants)
        self._answer.payloads = dict(_by_log(spans))
        self.payloads_asked_count += sum(span.stop - span.start for span in spans)
        # Beyond the limit a slice comes twice, which changes nothing.
        begun = tuple(begun for want in wants for begun in want.begun)[:WANT_COUNT_MAX]
        return WantPayloads(spans, begun)

    def _is_out(self, log: LogState) -> bool:
        return bool(self._refused_logs) and self._origin(log) in self._refused_logs

    def _origin(self, log: LogState) -> bytes:
        return log.origin(self._station.space_id)

    def _header_wants(self, own: dict[bytes, int]) -> Iterator[_Want]:
        for theirs in self._logs.values():
            if not self._is_out(theirs) and not self._station.holds(theirs):
                start = self._start(theirs, own.get(self._origin(theirs), 0))
                yield _Want(Span(theirs.log_id, start, theirs.length))

    def _start(self, theirs: LogState, length: int) -> int:
        """Return from where to ask for the headers of a log of which `length` are here, on whatever branch.

        Most often theirs goes on where ours ends. If they have nothing that ours goes on from,
        the two have forked somewhere below, and each question reaches four times as far down.
        """
        start = length if length < theirs.length else max(0, theirs.length - SEAL_EVERY_COUNT)
        while start and _Want(Span(theirs.log_id, start, theirs.length)).key in self._asked:
            start = max(0, theirs.length - 4 * (theirs.length - start))
        return start

    def _payload_wants(self) -> Iterator[_Want]:
        for theirs in self._logs.values():
            if self._is_out(theirs) or not self._station.holds(theirs):
                continue
            origin = self._origin(theirs)
            refused = self._refused_seqs.get(origin, set())
            # Also beyond the prefix they state: what lies behind a gap may be here or there.
            for gap in self._station.payload_gaps(theirs):
                for start, end in _without(gap, refused):
                    begun = self._station.parts_begun(theirs, start, end)
                    lines = (Begun(theirs.log_id, part.seq, part.table_id, part.slice_count) for part in begun)
                    yield _Want(Span(theirs.log_id, start, end), tuple(lines), is_payload=True)

    # Listening.

    def receive(self, frame: bytes) -> list[Arrival | Ended]:
        """Return what one frame of the other side brings, in order; often nothing.

        Raises:
            MalformedError: SYN-1 to SYN-3, the frame; SYN-4, a version or an order.
            RefusedError: SYN-5, another space; SYN-6, something nobody asked for.
        """
        message = decode(frame)
        if self._is_my_turn and (self._own_roots is not None or self._hello is not None):
            raise MalformedError(f"{_name(message)} came out of turn", rule="SYN-4")
        if self._has_ended:
            raise MalformedError(f"{_name(message)} came after the end", rule="SYN-4")
        if isinstance(message, Hello):
            return self._hear_hello(message)
        if self._hello is None:
            raise MalformedError(f"{_name(message)} came before a hello", rule="SYN-4")
        if self._answer.pieces and not isinstance(message, HeaderPiece):
            raise MalformedError(f"{_name(message)} came inside a run of headers", rule="SYN-4")
        match message:
            case Logs():
                return self._hear_logs(message)
            case HeaderPiece():
                return self._hear_headers(message)
            case Leaves():
                return self._hear_leaves(message)
            case Slices():
                return self._hear_slices(message)
            case WantHeaders() | WantPayloads():
                return self._hear_want(message)
            case ReceiptPage():
                return self._hear_receipts(message)
            case Turn():
                return self._hear_turn()
            case End():
                return self._hear_end(message)

    def _hear_hello(self, hello: Hello) -> list[Arrival | Ended]:
        if self._hello is not None:
            raise MalformedError("a second hello came", rule="SYN-4")
        if hello.version != PROTOCOL_VERSION:
            raise MalformedError(f"protocol version is {hello.version}, want {PROTOCOL_VERSION}", rule="SYN-4")
        if hello.space_id != self._station.space_id:
            raise RefusedError(
                f"other side is of space {hello.space_id.hex()[:8]}, want {self._station.space_id.hex()[:8]}",
                rule="SYN-5",
                evidence=hello.space_id,
            )
        self._hello = hello
        self._is_my_turn = False
        return []

    def _hear_logs(self, page: Logs) -> list[Arrival | Ended]:
        if not self._own_takes or self._has_logs or self._own_roots is None:
            raise RefusedError("a list of logs came that nobody waits for", rule="SYN-6")
        ids = [line.log_id for line in page.logs]
        if len(set(ids)) != len(ids) or not self._logs.keys().isdisjoint(ids):
            raise MalformedError("list of logs names a log twice", rule="SYN-3")
        if len(self._logs) + len(ids) > LOG_COUNT_MAX or len(self._numbers) + len(page.receipts) > LOG_COUNT_MAX:
            raise MalformedError(f"list of logs goes beyond {LOG_COUNT_MAX}", rule="SYN-3")
        for line in page.logs:
            self._logs[line.log_id] = LogState(
                line.log_id, line.member_id, line.incarnation, line.length, line.head_hash, line.payload_length
            )
        for receipt in page.receipts:
            self._numbers[receipt.log_id] = receipt.number
        self._has_logs = page.is_last
        return []

    def _hear_headers(self, piece: HeaderPiece) -> list[Arrival | Ended]:
        answer = self._answer
        log_id = piece.log_id
        want = answer.headers.get(log_id)
        next_seq = -1 if want is None else want[0] + len(answer.pieces)
        if want is None or (answer.pieces and answer.run_log != log_id) or piece.start != next_seq:
            raise RefusedError(f"headers of {log_id.hex()[:8]} from {piece.start} were not asked for", rule="SYN-6")
        count = len(answer.pieces) + len(piece.headers)
        if count > SEAL_EVERY_COUNT or want[0] + count > want[1]:
            raise RefusedError(f"run of {log_id.hex()[:8]} goes beyond what was asked for", rule="SYN-6")
        if not piece.signature:
            answer.pieces.extend(piece.headers)
            answer.run_log = log_id
            return []
        headers = (*answer.pieces, *piece.headers)
        start, want[0] = want[0], want[0] + count
        answer.pieces.clear()
        stated = self._logs[log_id]
        origin = self._origin(stated)
        if origin in self._refused_logs:
            return []
        head_hash = header_hash(self._station.space_id, headers[-1])
        seal = Seal(origin, start + count, head_hash, piece.signature)
        return [Run(origin, stated.member_id, stated.incarnation, start, headers, seal)]

    def _hear_leaves(self, leaves: Leaves) -> list[Arrival | Ended]:
        place = (leaves.seq, leaves.table_id, -1)
        self._check_payload(leaves.log_id, [place])
        origin = self._origin(self._logs[leaves.log_id])
        if origin in self._refused_logs or leaves.seq in self._refused_seqs.get(origin, ()):
            return []
        return [PartLeaves(origin, leaves.seq, leaves.table_id, leaves.leaves)]

    def _hear_slices(self, batch: Slices) -> list[Arrival | Ended]:
        self._check_payload(batch.log_id, [(line.seq, batch.tables[line.table], line.index) for line in batch.slices])
        origin, tables = self._origin(self._logs[batch.log_id]), batch.tables
        refused = self._refused_seqs.get(origin, ())
        return [
            PartSlice(origin, line.seq, tables[line.table], line.index, line.data)
            for line in (batch.slices if origin not in self._refused_logs else ())
            if line.seq not in refused
        ]

    def _check_payload(self, log_id: bytes, places: list[tuple[int, bytes, int]]) -> None:
        """Note that these pieces came, if each lies in a span asked for and beyond the one before it."""
        spans = self._answer.payloads.get(log_id, [])
        last = self._answer.last.get(log_id, (-1, b"", -1))
        start = stop = 0  # Of the span that the newest place lies in; most lie in the same.
        for place in places:
            if not start <= place[0] < stop:
                at = bisect_right(spans, place[0], key=_start_of) - 1
                start, stop = (spans[at].start, spans[at].stop) if at >= 0 else (0, 0)
            if not start <= place[0] < stop or place <= last:
                raise RefusedError(f"payload of {log_id.hex()[:8]}:{place[0]} was not asked for", rule="SYN-6")
            last = place
        self._answer.last[log_id] = last

    def _hear_want(self, want: WantHeaders | WantPayloads) -> list[Arrival | Ended]:
        # One of either a turn: what does not fit waits for the next.
        if self._want_headers is not None or self._want_payloads is not None:
            raise MalformedError("a second want came in one turn", rule="SYN-4")
        if not self._logs_sent:
            raise MalformedError(f"{_name(want)} came before the logs it speaks of", rule="SYN-4")
        last: tuple[bytes, int] = (b"", 0)
        logs: set[bytes] = set()
        for span in want.spans:
            stated = self._stated.get(span.log_id, 0)
            is_stop_right = span.stop == stated if isinstance(want, WantHeaders) else span.stop <= stated
            if not is_stop_right:
                raise RefusedError(
                    f"{_name(want)} asks {span.log_id.hex()[:8]} up to {span.stop}, stated were {stated}", rule="SYN-6"
                )
            # A log's spans stand together and ascend, so nothing can be asked for twice in one want.
            is_next = span.log_id == last[0] and span.start >= last[1] and isinstance(want, WantPayloads)
            if not is_next and span.log_id in logs:
                raise MalformedError(f"{_name(want)} asks for {span.log_id.hex()[:8]} twice", rule="SYN-3")
            logs.add(span.log_id)
            last = (span.log_id, span.stop)
        if isinstance(want, WantHeaders):
            self._want_headers = want
        else:
            self._want_payloads = want
        return []

    def _hear_receipts(self, page: ReceiptPage) -> list[Arrival | Ended]:
        if not self._own_takes or self._has_receipts or self._own_roots is None:
            raise RefusedError("receipts came that nobody waits for", rule="SYN-6")
        receipts = tuple(Receipt.decode(line.body, line.signature) for line in page.receipts)
        self._has_receipts = page.is_last
        return [Receipts(receipts)] if receipts else []

    def _hear_turn(self) -> list[Arrival | Ended]:
        if self._turn_count == TURN_COUNT_MAX:
            raise MalformedError(f"session has more than {TURN_COUNT_MAX} turns", rule="SYN-4")
        self._turn_count += 1
        self._is_my_turn = True
        return []

    def _hear_end(self, end: End) -> list[Arrival | Ended]:
        if self._own_roots is None or self._hello is None:
            raise MalformedError("an end came before both hellos", rule="SYN-4")
        is_owing = self._own_takes and not (self._has_logs and self._has_receipts)
        is_busy = self._answer.headers or self._answer.payloads or self._want_headers or self._want_payloads
        if is_busy or (is_owing and not self._nothing_to_do(self._own_roots, self._hello)):
            raise MalformedError("an end came while one side waits for the other", rule="SYN-4")
        self._has_ended = True
        self._is_my_turn = not self._ended
        roots = self._station.roots()
        return [Ended(roots.known == end.known and roots.held == end.held)]


@dataclass(slots=True)
class Batch:
    """Slices of one log that wait to fill a frame."""

    log_id: bytes
    lines: list[SliceLine] = field(default_factory=list)
    tables: dict[bytes, int] = field(default_factory=dict)
    size: int = 0

    def is_full(self, piece: PartSlice) -> bool:
        """True when what waits should be sent before `piece` is added."""
        is_large = self.size >= _BATCH_SIZE or self.size + len(piece.data) + _LINE_SIZE > 2 * _BATCH_SIZE
        return is_large or len(self.lines) == SLICE_BATCH_COUNT_MAX

    def add(self, piece: PartSlice) -> None:
        table = self.tables.setdefault(piece.table_id, len(self.tables))
        self.lines.append(SliceLine(piece.seq, table, piece.index, piece.data))
        self.size += len(piece.data) + _LINE_SIZE

    def flush(self) -> Iterator[Message]:
        if self.lines:
            message = Slices(self.log_id, tuple(self.tables), tuple(self.lines))
            self.lines, self.tables, self.size = [], {}, 0
            yield message


def header_pieces(log_id: bytes, run: Run) -> Iterator[HeaderPiece]:
    """Yield the messages that carry one run."""
    piece: list[bytes] = []
    size = 0
    start = run.start
    for header in run.headers:
        if piece and size + len(header) > _BATCH_SIZE:
            yield HeaderPiece(log_id, start, tuple(piece), b"")
            start += len(piece)
            piece, size = [], 0
        piece.append(header)
        size += len(header)
    yield HeaderPiece(log_id, start, tuple(piece), run.seal.signature)


def _by_log(spans: Iterable[Span]) -> Iterator[tuple[bytes, list[Span]]]:
    """Yield spans grouped by log, logs in order of their first span."""
    grouped: dict[bytes, list[Span]] = {}
    for span in spans:
        grouped.setdefault(span.log_id, []).append(span)
    yield from grouped.items()


def _without(gap: range, refused: set[int]) -> Iterator[tuple[int, int]]:
    """Yield `gap` as (start, stop), cut where a seq is refused."""
    start = gap.start
    for seq in sorted(seq for seq in refused if seq in gap):
        if start < seq:
            yield start, seq
        start = seq + 1
    if start < gap.stop:
        yield start, gap.stop


def _has_moved(before: Roots, now: Roots) -> bool:
    return before.known != now.known or before.held != now.held


def _start_of(span: Span) -> int:
    return span.start


def _name(message: Message) -> str:
    return type(message).__name__
