"""Several lines over one file: what comes by all of them is stored together, and told to the others.

A desk belongs to the one thread that uses the file. Whoever has the sockets puts what came
into inboxes, has it `work`, and takes away what is to be sent; it never waits.

The one choice a reader would question: all lines share one station and one transaction. A
batch of frames from many lines is then made durable by one commit, and applied by one pass,
before any of them is answered. If the disk refuses, what came by all of them is gone, and so
all of them end: their other sides still have it.

Source:
    Protocol spec section 12, rules SYN-7 to SYN-9 and LIN-1 to LIN-5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from klal.errors import KlalError, MembershipError, RefusedError, StoreError
from klal.file_station import FileStation
from klal.model.receipt import Receipt
from klal.store.intake import STRANGER_SIZE_MAX
from klal.store.stewardship import Stewardship
from klal.store.store import Store
from klal.sync.line import Journal, Line
from klal.sync.station import Arrival, LogState, PartLeaves, PartSlice, Roots

_CHUNK_SIZE = 256 * 1024
ROUND_S = 0.05  # One round hears no longer than this before it commits.
OWNER_SIZE = 1 << 20  # What one owner's connections are heard of in one round.
PULL_SIZE = 512 * 1024  # What one connection is given at once; it holds no more than this and one frame.
RECEIPTS_S = 0.25
RECEIPTS_LINES = 50  # So many lines wait that long for receipts, and more lines as much longer.
OWED_S = 10.0  # Word that an offer arrived is waited for this long, and then twice as long each time.
OWED_MAX_S = 300.0
CONTACT_EVERY_S = 30.0
STRANGERS_SIZE_MAX = STRANGER_SIZE_MAX // 8


class _DeskStation(FileStation):
    """A file as many sessions at once see it: answers are kept as long as nothing moves."""

    def __init__(self, store: Store) -> None:
        self.is_unsettled = False
        self._kept_roots: Roots | None = None
        self._kept_logs: list[LogState] | None = None
        self._kept_receipts: list[Receipt] | None = None
        super().__init__(store)

    def moved(self) -> None:
        """Forget what was answered."""
        self._kept_roots = self._kept_logs = self._kept_receipts = None

    def roots(self) -> Roots:
        if self._kept_roots is None:
            self._kept_roots = super().roots()
        return self._kept_roots

    def logs(self) -> list[LogState]:
        if self._kept_logs is None:
            self._kept_logs = super().logs()
        return self._kept_logs

    def receipts(self) -> list[Receipt]:
        if self._kept_receipts is None:
            self._kept_receipts = super().receipts()
        return self._kept_receipts

    def payloads(self, log_id: bytes, start: int, stop: int) -> Iterator[PartLeaves | PartSlice]:
        """Yield payloads without leaving a statement open: between two frames other lines write to this file."""
        count = 1
        while start < stop:
            end = min(stop, start + count)
            pieces = list(super().payloads(log_id, start, end))
            size = sum(len(piece.data) for piece in pieces if isinstance(piece, PartSlice))
            count = count * 2 if size < _CHUNK_SIZE else max(1, count // 2)
            yield from pieces
            start = end

    def take(self, arrival: Arrival) -> None:
        self.moved()
        self.is_unsettled = True
        super().take(arrival)

    def take_whole(self, log_id: bytes, slices: Sequence[PartSlice]) -> set[int]:
        self.moved()
        self.is_unsettled = True
        return super().take_whole(log_id, slices)

    def settle(self) -> None:
        """Make what was taken durable; the desk applies it, once for all lines."""
        if self.takes:
            self._flush()


@dataclass(eq=False, slots=True)
class Port:
    """One connection as a desk sees it.

    Shape:
        owner: whose it is; owners take turns, however many connections each has.
        inbox: frames that came and were not heard yet.
        is_busy: what it was given last is still being sent.
    """

    owner: str
    line: Line
    inbox: deque[bytes] = field(default_factory=deque)
    is_busy: bool = False
    owed_since_s: float | None = None
    patience_s: float = OWED_S


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one round of work came to for one connection.

    Shape:
        frames: to be sent, in this order.
        heard_count: how many frames left its inbox.
        error: why it must end; None where it goes on.
    """

    port: Port
    frames: list[bytes]
    heard_count: int
    error: KlalError | None = None


class Desk:
    """A file and the connections that end at it.

    Args:
        store: The file's.
        monotonic: Seconds that only rise, to measure waits.
    """

    def __init__(self, store: Store, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._monotonic = monotonic
        self._ports: dict[Port, None] = {}
        self._open()

    def _open(self) -> None:
        self._station = _DeskStation(self._store)
        self.journal = Journal(self._station)
        self._seen_version = self._version()
        self._is_told = False
        self._strangers: dict[bytes, Port] = {}
        self._receipts_due_s: float | None = None
        self._contact_s: float | None = None

    @property
    def takes(self) -> bool:
        """False for a file without its key: it gives, and takes nothing."""
        return self._station.takes

    @property
    def port_count(self) -> int:
        """How many connections end here."""
        return len(self._ports)

    def join(self, owner: str, *, dials: bool) -> Port:
        """Return a new connection; the caller carries its frames."""
        port = Port(owner, Line(self._station, self.journal, dials=dials))
        self._ports[port] = None
        return port

    def leave(self, port: Port) -> None:
        """Note that a connection has ended."""
        if port not in self._ports:
            return
        del self._ports[port]
        port.line.close()
        # What nobody vouched for goes with whoever brought it (T17).
        for log_id in [log_id for log_id, bringer in self._strangers.items() if bringer is port]:
            del self._strangers[log_id]
            self._store.intake.forget_stranger(log_id)

    def touch(self) -> None:
        """Note that this process has written to the file by itself."""
        self._is_told = True

    def work(self) -> list[Delivery]:
        """Hear what came, make it durable, apply it, and return what is to be sent; do nothing where nothing is new.

        Raises:
            StoreError: The file cannot be used. Every connection has ended, and the desk is as new.
        """
        try:
            heard, errors = self._hear()
            self._settle()
        except StoreError:
            for port in list(self._ports):
                self.leave(port)
            self._open()
            raise
        self._note_contact(bool(heard))
        self._tell_receipts()
        deliveries = []
        for port in list(self._ports):
            error = errors.get(port)
            frames = [] if error is not None or port.is_busy else port.line.pull(PULL_SIZE)
            port.is_busy = port.is_busy or bool(frames)
            self._be_patient(port)
            if frames or error is not None or port in heard:
                deliveries.append(Delivery(port, frames, heard.get(port, 0), error))
        for port in errors:
            self.leave(port)
        return deliveries

    @property
    def has_more(self) -> bool:
        """True when `work` would go on at once: what came was more than one round takes."""
        return any(port.inbox for port in self._ports)

    def _hear(self) -> tuple[dict[Port, int], dict[Port, KlalError]]:
        """Take frames from every owner in turn, until a round is full."""
        heard: dict[Port, int] = {}
        errors: dict[Port, KlalError] = {}
        sizes: dict[str, int] = {}
        until_s = self._monotonic() + ROUND_S
        waiting = [port for port in self._ports if port.inbox]
        while waiting and self._monotonic() < until_s:
            left = []
            for port in waiting:
                if sizes.get(port.owner, 0) >= OWNER_SIZE:
                    continue
                frame = port.inbox.popleft()
                sizes[port.owner] = sizes.get(port.owner, 0) + len(frame)
                heard[port] = heard.get(port, 0) + 1
                try:
                    port.line.hear(frame)
                    self._check_strangers(port)
                except RefusedError as error:
                    errors[port] = error
                    continue
                if port.inbox:
                    left.append(port)
            waiting = left
        return heard, errors

    def _check_strangers(self, port: Port) -> None:
        """Note who brings logs that wait for somebody to vouch for them, and let no one bring all that may wait.

        Raises:
            MembershipError: MEM-4, this owner has brought its share.
        """
        sizes = self._store.intake.waiting_sizes()
        if not sizes and not self._strangers:
            return
        self._strangers = {log_id: self._strangers.get(log_id, port) for log_id in sizes}
        brought = sum(size for log_id, size in sizes.items() if self._strangers[log_id].owner == port.owner)
        if brought > STRANGERS_SIZE_MAX:
            raise MembershipError(f"{brought} bytes of logs of nobody known here came from one member", rule="MEM-4")

    def _settle(self) -> None:
        """Make everything heard durable, apply it, sign what is to be signed, and take down what was gained."""
        store, station = self._store, self._station
        version = self._version()
        is_changed = version != self._seen_version
        if not (station.is_unsettled or is_changed or self._is_told):
            return
        self._is_told = False
        if station.takes:
            station.settle()
            station.is_unsettled = False
            store.apply_ready()
            Stewardship(store).do_duties()
            store.seal()
            store.sign_receipt()
        else:
            with store.reading():
                pass
        self._seen_version = version
        station.moved()
        for port in self._ports:
            port.line.settled()
        self.journal.note()
        if self._receipts_due_s is None:
            # Many lines would each bring a receipt, and each be told of all the others': so they wait for one another.
            self._receipts_due_s = self._monotonic() + RECEIPTS_S * (len(self._ports) > 1) * max(
                1.0, len(self._ports) / RECEIPTS_LINES
            )

    def _version(self) -> int:
        """Return a number that changes when another connection has committed, and by nothing done here."""
        version: int = self._store.connection.pragma("data_version")
        return version

    def _tell_receipts(self) -> None:
        due_s = self._receipts_due_s
        if due_s is not None and self._monotonic() >= due_s:
            self._receipts_due_s = None
            self.journal.note_receipts()

    def _note_contact(self, has_heard: bool) -> None:
        """Remember in the file that word came from elsewhere, now and then."""
        store = self._store
        if not (has_heard and self._station.takes and any(port.line.session_count for port in self._ports)):
            return
        now_s = self._monotonic()
        if self._contact_s is not None and now_s - self._contact_s < CONTACT_EVERY_S and not store.is_entering:
            return
        self._contact_s = now_s
        store.enter_if_waiting(is_writing=False)
        store.note_contact()
        self._is_told = True

    def _be_patient(self, port: Port) -> None:
        """Have a session settle what was offered and not answered by a receipt, less often each time (W12)."""
        line = port.line
        now_s = self._monotonic()
        if not line.is_owed:
            port.owed_since_s, port.patience_s = None, OWED_S
        elif port.owed_since_s is None:
            port.owed_since_s = now_s
        elif now_s - port.owed_since_s >= port.patience_s and not line.is_in_session:
            port.owed_since_s, port.patience_s = now_s, min(2 * port.patience_s, OWED_MAX_S)
            line.request_session()
