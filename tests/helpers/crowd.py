"""A replica that has heard of very many members: real keys, logs and receipts, written straight into one file.

Nobody syncs a thousand files in a test. Each member here joins with the founder's ticket and writes one change, and
what it says it holds is signed as its replica would sign it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

from klal.model.acts import encode_acts, make_join
from klal.model.codec import SALT_SIZE
from klal.model.header import ACTS_TABLE, NO_CERTIFICATE, Header, Part, header_hash
from klal.model.keys import SigningKey, log_id_of
from klal.model.payload import part_root
from klal.model.receipt import HeldHead, Receipt, Statement, make_receipt
from klal.model.seal import make_seal
from klal.model.ticket import decode_ticket
from klal.store.store import Store
from klal.sync.station import Run
from tests.helpers.fleet import START_MS, Fleet


@dataclass
class Someone:
    """A member with a log of two changes: a join, and an empty one that names what it had seen."""

    key: SigningKey
    incarnation: bytes
    log_id: bytes
    headers: list[bytes]
    acts: bytes
    head: HeldHead


@dataclass
class Crowd:
    """Members by number, in a founder's file.

    Shape:
        is_chained: each has seen the one before it, so that the last has seen all.
    """

    fleet: Fleet
    count: int
    is_chained: bool = False
    people: list[Someone] = field(default_factory=list)

    def __post_init__(self) -> None:
        store = self.store
        with store.writing():
            for number in range(self.count):
                self.people.append(self.enter(number))
        store.apply_ready()

    @property
    def store(self) -> Store:
        return self.fleet["ana"]._store

    def enter(self, number: int) -> Someone:
        """Store a member's log, inside a transaction of the caller's."""
        ticket = decode_ticket(self.fleet.ticket)
        space_id = self.store.space_id
        key = SigningKey(sha256(f"member {number}".encode()).digest())
        incarnation = sha256(f"log {number}".encode()).digest()[:16]
        log_id = log_id_of(space_id, key.member_id, incarnation)
        join = make_join(ticket.key, space_id, key.member_id, f"m{number:06}", ticket.invitation)
        acts = encode_acts((join,), bytes(SALT_SIZE))
        parts = (Part(ACTS_TABLE, part_root(acts), len(acts), 1),)
        genesis = header_hash(space_id, ticket.genesis_header)
        first = Header(0, 0, START_MS, 0, log_id, NO_CERTIFICATE, (genesis,), parts, is_sealed=False).encode()
        past = (self.people[-1].head.head_hash,) if self.is_chained and self.people else ()
        backlink = header_hash(space_id, first)
        second = Header(1, 0, START_MS + 1, 0, backlink, NO_CERTIFICATE, past, (), is_sealed=False).encode()
        head = HeldHead(log_id, 2, header_hash(space_id, second))
        seal = make_seal(key, space_id, log_id, 2, head.head_hash)
        intake = self.store.intake
        run = Run(log_id, key.member_id, incarnation, 0, (first, second), seal)
        intake.take_run(run)
        intake.take_slice(log_id, 0, ACTS_TABLE, 0, acts)
        return Someone(key, incarnation, log_id, [first, second], acts, head)

    def says(self, number: int, heads: list[HeldHead], receipt_number: int = 0) -> Receipt:
        """Return a receipt of one of them that names these heads."""
        someone = self.people[number]
        ordered = tuple(sorted(heads, key=lambda head: head.log_id))
        statement = Statement(
            someone.key.member_id, someone.incarnation, receipt_number, START_MS + 2 + receipt_number, ordered, ()
        )
        return make_receipt(someone.key, self.store.space_id, statement)

    def take(self, receipts: list[Receipt]) -> None:
        with self.store.writing():
            for receipt in receipts:
                self.store.intake.take_receipt(receipt)

    def all_hold_all(self) -> None:
        """Let everybody say that they hold everything there is."""
        heads = [self.store._held_head(ref) for ref in self.store.history.maximal_heads({})]
        self.take([self.says(number, heads, 1 << 20) for number in range(self.count)])
