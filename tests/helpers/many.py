"""Very many members of one space, as signed bytes: what their replicas would have written, without a file for each.

Each has its own key and one log of three changes: a join by the founder's ticket, one row, and its Close of epoch 0,
sealed exactly there. They are taken into a real file through the door that a session uses, and everything from there
on is the engine's own work. Whoever of them is asked for is made from its number again, so nothing is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from klal.model.acts import Close, encode_acts, make_join
from klal.model.codec import SALT_SIZE
from klal.model.header import ACTS_TABLE, NO_CERTIFICATE, Header, Part, header_hash
from klal.model.keys import INCARNATION_SIZE, SigningKey, log_id_of
from klal.model.payload import Kind, Segment, encode_segment, part_root
from klal.model.receipt import HeldHead, Receipt, Statement, make_receipt
from klal.model.seal import make_seal
from klal.model.ticket import Ticket
from klal.store.store import Store
from klal.store.writer import paused
from klal.sync.station import PartSlice, Run

START_MS = 1_700_000_000_000
TABLE = "CREATE TABLE bird(id TEXT PRIMARY KEY, mass INTEGER, note TEXT)"


@dataclass(frozen=True)
class Newcomer:
    """The log of one member, as it travels: one run, and the payloads of its changes."""

    run: Run
    join: PartSlice
    others: tuple[PartSlice, ...]


class Many:
    """Members by number, of the space that a ticket is for and its `TABLE`."""

    def __init__(self, store: Store, ticket: Ticket) -> None:
        self._ticket = ticket
        self._space_id = store.space_id
        self._genesis = header_hash(self._space_id, ticket.genesis_header)
        table = store.catalog.by_name["bird"]
        self._table_id = table.table_id
        self._columns = tuple(info.column_id for info in table.values)

    def name(self, number: int) -> str:
        return f"member {number:07}"

    def key(self, number: int) -> SigningKey:
        return SigningKey(_drawn("key", number))

    def newcomer(self, number: int, *, is_finished: bool = True) -> Newcomer:
        """Return the log of one member, whole or without its Close."""
        ticket, space_id, key = self._ticket, self._space_id, self.key(number)
        incarnation = _drawn("log", number)[:INCARNATION_SIZE]
        log_id = log_id_of(space_id, key.member_id, incarnation)
        join = make_join(ticket.key, space_id, key.member_id, self.name(number), ticket.invitation)
        row = Segment.of_keys(Kind.INSERT, self._columns, [(f"{number:08x}",)], [[number], [f"bird {number}"]])
        payloads = (
            (ACTS_TABLE, encode_acts((join, *ticket.schema), _salt("join", number)), 1 + len(ticket.schema)),
            (self._table_id, _salt("row", number) + encode_segment(row), 1),
            (ACTS_TABLE, encode_acts((Close(0),), _salt("close", number)), 1),
        )[: 3 if is_finished else 2]
        headers: list[bytes] = []
        before = log_id
        for seq, (table_id, data, count) in enumerate(payloads):
            past = () if seq else (self._genesis,)
            parts = (Part(table_id, part_root(data), len(data), count),)
            header = Header(seq, 0, START_MS + number, seq, before, NO_CERTIFICATE, past, parts, is_sealed=seq == 2)
            headers.append(header.encode())
            before = header_hash(space_id, headers[-1])
        seal = make_seal(key, space_id, log_id, len(headers), before)
        slices = [PartSlice(log_id, seq, table_id, 0, data) for seq, (table_id, data, _) in enumerate(payloads)]
        run = Run(log_id, key.member_id, incarnation, 0, tuple(headers), seal)
        return Newcomer(run, slices[0], tuple(slices[1:]))

    def receipt(self, number: int, heads: tuple[HeldHead, ...], certificate: bytes) -> Receipt:
        """Return what one member signs who holds these heads and computed this certificate."""
        incarnation = _drawn("log", number)[:INCARNATION_SIZE]
        key = self.key(number)
        statement = Statement(key.member_id, incarnation, 0, START_MS + number, heads, (), certificate)
        return make_receipt(key, self._space_id, statement)


def take_in(store: Store, newcomers: Iterable[Newcomer]) -> None:
    """Store logs, or what is new of them, all in one transaction; nothing is applied."""
    with store.writing(), paused(store.writer.capture):
        for newcomer in newcomers:
            store.intake.take_run(newcomer.run)
            first = newcomer.join
            store.intake.take_slice(first.log_id, first.seq, first.table_id, first.index, first.data)
            store.intake.take_whole(first.log_id, newcomer.others)


def take_receipts(store: Store, receipts: Iterable[Receipt]) -> None:
    with store.writing():
        for receipt in receipts:
            store.intake.take_receipt(receipt)


def receipts(store: Store, many: Many, numbers: Iterable[int], certificate: bytes) -> Iterator[Receipt]:
    """Yield the receipts of members who hold what this file holds, and computed this certificate."""
    heads = tuple(
        sorted((store._held_head(ref) for ref in store.history.maximal_heads({})), key=lambda head: head.log_id)
    )
    for number in numbers:
        yield many.receipt(number, heads, certificate)


def batches(count: int, size: int) -> Iterator[range]:
    """Yield the numbers below `count`, some at a time."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def _drawn(use: str, number: int) -> bytes:
    return sha256(f"{use} {number}".encode()).digest()


def _salt(use: str, number: int) -> bytes:
    return _drawn(f"salt of {use}", number)[:SALT_SIZE]
