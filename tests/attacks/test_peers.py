"""A hostile peer with real keys, against a real file: nothing that breaks a rule is stored, and the honest go on."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

import pytest

from klal.errors import LinkError, MalformedError, RefusedError, SignatureError
from klal.file_station import FileStation
from klal.model.acts import Close, CreateTable, Genesis, Join, Policy, encode_acts, make_invitation, make_join
from klal.model.codec import SALT_SIZE, UNIX_MS_MAX
from klal.model.header import ACTS_TABLE, NO_CERTIFICATE, Header, Part, header_hash
from klal.model.keys import SigningKey, log_id_of
from klal.model.payload import Kind, Segment, encode_segment, part_root
from klal.model.receipt import HeldHead, Statement, make_receipt
from klal.model.seal import make_seal
from klal.model.ticket import decode_ticket
from klal.store import intake
from klal.sync.station import PartSlice, Receipts, Run
from tests.helpers.fleet import START_MS, Fleet, answers_of
from tests.helpers.many import Many

SALT = bytes(SALT_SIZE)


@dataclass
class Mallory:
    """A member with a real key, who writes what no klal would."""

    fleet: Fleet
    seed: bytes = b"m" * 32
    incarnation: bytes = b"i" * 16
    data: list[bytes] = field(default_factory=list)
    payloads: list[tuple[int, bytes, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.space_id = self.fleet["ana"].space_id
        self.key = SigningKey(self.seed)
        self.log_id = log_id_of(self.space_id, self.key.member_id, self.incarnation)

    @property
    def head(self) -> bytes:
        return header_hash(self.space_id, self.data[-1]) if self.data else self.log_id

    def join(self) -> Mallory:
        ticket = decode_ticket(self.fleet.ticket)
        act = make_join(ticket.key, self.space_id, self.key.member_id, "mallory", ticket.invitation)
        genesis = header_hash(self.space_id, ticket.genesis_header)
        self.write({ACTS_TABLE: encode_acts((act,), SALT)}, past=(genesis,))
        return self

    def write(
        self,
        parts,
        *,
        past=(),
        unix_ms=START_MS,
        epoch=0,
        seq=None,
        backlink=None,
        certificate=NO_CERTIFICATE,
        is_sealed=False,
    ):
        seq = len(self.data) if seq is None else seq
        header = Header(
            seq,
            epoch,
            unix_ms,
            0,
            self.head if backlink is None else backlink,
            certificate,
            tuple(sorted(past)),
            tuple(Part(t, part_root(d), len(d), 1) for t, d in sorted(parts.items())),
            is_sealed,
        )
        self.data.append(header.encode())
        self.payloads.extend((seq, table, data) for table, data in sorted(parts.items()))

    def run(self, start=0, stop=None):
        data = self.data[start:stop]
        length = start + len(data)
        seal = make_seal(
            self.key, self.space_id, self.log_id, length, header_hash(self.space_id, self.data[length - 1])
        )
        return Run(self.log_id, self.key.member_id, self.incarnation, start, tuple(data), seal)

    def push(self, name, start=0):
        """Send everything from `start` on, and return what was refused."""
        door = FileStation(self.fleet[name]._store)
        refused = []
        pieces = [PartSlice(self.log_id, s, t, 0, d) for s, t, d in self.payloads if s >= start]
        for arrival in (self.run(start), *pieces):
            try:
                door.take(arrival)
            except RefusedError as error:
                refused.append(error)
        door.settle()
        return refused

    def rows(self, name, *keys, note="evil"):
        """Return a part that inserts birds."""
        table = self.fleet[name]._store.catalog.named("bird")
        columns = tuple(info.column_id for info in table.values)
        values = tuple([1 if info.name == "mass" else note for _ in keys] for info in table.values)
        segment = Segment(Kind.INSERT, columns, [list(keys)], list(values))
        return {table.table_id: SALT + encode_segment(segment)}


def honest_go_on(fleet):
    """Everybody writes, hears of it and says the same; coverage has not fallen."""
    before = {name: fleet[name].coverage().held for name in fleet.names}
    for name in fleet.names:
        fleet[name].execute("INSERT OR REPLACE INTO bird VALUES(?, 2, 'goes on')", (name,))
    fleet.gather()
    assert len({repr(answers_of(fleet[name])) for name in fleet.names}) == 1
    for name in fleet.names:
        assert fleet[name].coverage().held >= before[name]
        assert fleet[name].query("SELECT count(*) FROM bird WHERE note = 'goes on'") == [(2,)]
        fleet[name].verify()


def test_a_member_known_to_be_hostile_can_still_write_what_is_well_formed(fleet):
    """The scaffolding is real: without a fault, mallory's row arrives."""
    mallory = Mallory(fleet).join()
    mallory.write(mallory.rows("ana", "m"))

    assert mallory.push("ana") == []
    assert fleet["ana"].query("SELECT note FROM bird WHERE id = 'm'") == [("evil",)]
    honest_go_on(fleet)


def test_a_change_whose_past_never_comes_is_parked_and_shown_and_blocks_nobody(fleet):
    """T7 T6."""
    mallory = Mallory(fleet).join()
    mallory.write(mallory.rows("ana", "m"), past=(b"\x07" * 32,))

    assert mallory.push("ana") == []
    assert fleet["ana"].status().parked == 1
    assert fleet["ana"].query("SELECT count(*) FROM bird WHERE id = 'm'") == [(0,)]
    honest_go_on(fleet)


@pytest.mark.parametrize("fault", ["gap", "backlink", "start"])
def test_gaps_and_wrong_links_are_refused_and_nothing_of_them_is_stored(fleet, fault):
    """T8."""
    mallory = Mallory(fleet).join()
    assert mallory.push("ana") == []
    held = fleet["ana"].coverage().held
    if fault == "gap":
        mallory.write(mallory.rows("ana", "m"), seq=2)
    else:
        mallory.write(mallory.rows("ana", "m"), backlink=b"\x01" * 32)
    # Alone, a header that is linked to nothing known waits; with what lies before it, it is no chain.
    if fault != "gap":
        mallory.push("ana", start=1)
        assert fleet["ana"].coverage().held == held
    refused = mallory.push("ana")

    assert refused
    assert isinstance(refused[0], MalformedError | LinkError)
    assert fleet["ana"].coverage().held == held
    honest_go_on(fleet)


POISON = {
    "garbage acts": lambda m: {ACTS_TABLE: b"\xff" * 40},
    "short acts": lambda m: {ACTS_TABLE: b"x"},
    "garbage rows": lambda m: {next(iter(m.rows("ana", "m"))): b"\xc1" * 90},
    "unknown table": lambda m: {b"no such table id": next(iter(m.rows("ana", "m").values()))},
    "key twice": lambda m: m.rows("ana", "m", "m"),
    "another's genesis": lambda m: {
        ACTS_TABLE: encode_acts((Genesis("evil", m.key.member_id, "evil", b"n" * 32, Policy()),), SALT)
    },
    "own space's genesis": lambda m: {ACTS_TABLE: encode_acts((m.fleet["ana"]._store.genesis,), SALT)},
    "join of another": lambda m: {
        ACTS_TABLE: encode_acts(
            (Join(b"\x09" * 32, "ghost", decode_ticket(m.fleet.ticket).invitation, b"s" * 64),), SALT
        )
    },
    "join with a forged word": lambda m: {
        ACTS_TABLE: encode_acts(
            (Join(m.key.member_id, "again", decode_ticket(m.fleet.ticket).invitation, b"s" * 64),), SALT
        )
    },
    "join by a stranger's invitation": lambda m: {
        ACTS_TABLE: encode_acts(
            (
                make_join(
                    SigningKey(b"t" * 32),
                    m.space_id,
                    m.key.member_id,
                    "again",
                    make_invitation(SigningKey(b"u" * 32), m.space_id, SigningKey(b"t" * 32).member_id, 1, 0),
                ),
            ),
            SALT,
        )
    },
    "close of another epoch": lambda m: {ACTS_TABLE: encode_acts((Close(7),), SALT)},
}


@pytest.mark.parametrize("poison", POISON)
def test_poison_is_held_without_effect_everywhere_alike_and_the_chain_goes_on(fleet, poison):
    """T9 T27: whatever cannot be read, or has no right to be there."""
    mallory = Mallory(fleet).join()
    mallory.write(POISON[poison](mallory))
    mallory.write(mallory.rows("ana", "after"))

    assert mallory.push("ana") == []
    assert fleet["ana"].query("SELECT note FROM bird WHERE id = 'after'") == [("evil",)]
    assert fleet["ana"].query("SELECT count(*) FROM bird WHERE id = 'm'") == [(0,)]
    assert len(fleet["ana"].members()) == 3
    honest_go_on(fleet)
    assert fleet["ben"].query("SELECT note FROM bird WHERE id = 'after'") == [("evil",)]
    # By any other road, and for whoever comes later, the verdict is the same (T27).
    fleet.drop_by("ben")
    fleet.join("cal")
    fleet.drop_by("cal")
    fleet.gather()
    assert len({repr(answers_of(fleet[name])) for name in fleet.names}) == 1
    assert any("broke a rule" in warning for warning in fleet["cal"].status().warnings)


def test_what_was_sent_before_changes_nothing_when_it_is_sent_again(fleet):
    """T10."""
    mallory = Mallory(fleet).join()
    mallory.write(mallory.rows("ana", "m"))
    mallory.push("ana")
    before = answers_of(fleet["ana"])
    old = fleet["ana"]._store.knowledge.receipts()[fleet["ben"].log_id]
    fleet["ben"].execute("INSERT INTO bird VALUES('newer', 1, NULL)")
    fleet.meet("ana", "ben")
    after = answers_of(fleet["ana"])
    newer = fleet["ana"]._store.knowledge.receipts()[fleet["ben"].log_id]
    for _ in range(3):
        assert mallory.push("ana") == []
        FileStation(fleet["ana"]._store).take(Receipts((old,)))

    assert before != after == answers_of(fleet["ana"])
    fleet["ana"]._store.commit()
    assert fleet["ana"]._store.knowledge.receipts()[fleet["ben"].log_id] == newer


def test_two_branches_of_one_log_go_on_as_two_logs_and_are_the_proof(fleet):
    """T15 T8 W9 LOG-4: nothing is refused, nothing is hidden, and other logs go on."""
    one, other = Mallory(fleet).join(), Mallory(fleet).join()
    one.write(one.rows("ana", "left"))
    other.write(other.rows("ana", "right"))
    assert one.push("ana") == []
    assert other.push("ana") == []
    assert other.push("ben") == []
    assert one.push("ben") == []
    honest_go_on(fleet)

    for name in fleet.names:
        assert fleet[name].query("SELECT id FROM bird WHERE note = 'evil' ORDER BY id") == [("left",), ("right",)]
        assert any("mallory went on in 2 ways" in warning for warning in fleet[name].status().warnings)
        proof = fleet[name]._store.connection.execute("SELECT member, number, header FROM klal_forks").fetchall()
        assert sorted(proof) == sorted(("mallory", 1, log.data[1]) for log in (one, other))
    assert len(fleet["ana"].members()) == 3


def test_many_branches_cost_what_they_hold_and_no_more(fleet):
    """T16: a member who forks for its pleasure stores what any change stores, and everybody ends alike."""
    branches = []
    for number in range(40):
        branch = Mallory(fleet).join()
        for deep in range(number % 4):
            branch.write(branch.rows("ana", f"deep {deep}"))
        branch.write(branch.rows("ana", f"{number}"))
        branches.append(branch)
    for branch in branches:
        assert branch.push("ana") == []
    for branch in branches[::-1]:
        assert branch.push("ben") == []

    honest_go_on(fleet)
    hashes = {header_hash(branch.space_id, data) for branch in branches for data in branch.data}
    history = fleet["ben"]._store.history
    stored = [log for log in history.logs.values() if log.origin == branches[0].log_id]
    assert sum(log.length - log.start for log in stored) == len(hashes)


def test_a_flood_of_strangers_is_not_stored(fleet):
    """T16 T17."""
    before = answers_of(fleet["ana"])
    for number in range(30):
        stranger = Mallory(fleet, seed=bytes([number]) * 32)
        stranger.write(
            {ACTS_TABLE: encode_acts((CreateTable(next(iter(fleet["ana"]._store.schema_acts())).definition),), SALT)}
        )
        stranger.write(stranger.rows("ana", "m"))
        stranger.push("ana")
    logs = fleet["ana"]._store.connection.execute("SELECT count(*) FROM klal_log").get

    assert answers_of(fleet["ana"]) == before
    assert logs == 2
    honest_go_on(fleet)


def test_headers_of_strangers_wait_up_to_a_bound_and_may_come_again(fleet, monkeypatch):
    """MEM-4 T16: one more is refused and named; whoever is let in, and the end of the session, frees their room."""
    store = fleet["ana"]._store
    many = Many(store, decode_ticket(fleet["ana"].invite(use_count_max=9)))
    first, second, third = (many.newcomer(number) for number in range(3))
    room = sum(map(len, first.run.headers))
    monkeypatch.setattr(intake, "STRANGER_SIZE_MAX", 2 * room)

    with store.writing():
        for newcomer in (first, second):
            store.intake.take_run(newcomer.run)
        with pytest.raises(RefusedError) as caught:
            store.intake.take_run(third.run)
        assert caught.value.rule == "MEM-4"
        join = first.join
        store.intake.take_slice(join.log_id, join.seq, join.table_id, join.index, join.data)
        store.intake.take_run(third.run)
        assert len(list(store.intake.waiting())) == 2
    store.intake.forget()
    assert list(store.intake.waiting()) == []
    with store.writing():
        for newcomer in (second, third):
            store.intake.take_run(newcomer.run)
    assert store.connection.execute("SELECT count(*) FROM klal_log WHERE length > 0").get == 3


def test_a_ticket_signed_by_nobody_lets_nobody_in(fleet):
    """T17."""
    mallory = Mallory(fleet)
    ticket = SigningKey(b"t" * 32)
    forged = make_invitation(mallory.key, mallory.space_id, ticket.member_id, 1, 0)
    act = make_join(ticket, mallory.space_id, mallory.key.member_id, "mallory", forged)
    mallory.write({ACTS_TABLE: encode_acts((act,), SALT)})

    assert any(error.rule == "MEM-2" for error in mallory.push("ana"))
    assert len(fleet["ana"].members()) == 2
    honest_go_on(fleet)


def test_a_clock_in_the_far_future_wins_no_more_than_the_declared_end(fleet):
    """T18."""
    mallory = Mallory(fleet).join()
    mallory.write(mallory.rows("ana", "both"), unix_ms=UNIX_MS_MAX)
    mallory.push("ana")
    history = fleet["ana"]._store.history
    log = history.by_id[mallory.log_id]

    assert log.order_stamp == START_MS + 1_000_000
    # Whoever has seen it wins by having seen it.
    fleet["ana"].execute("UPDATE bird SET note = 'seen' WHERE id = 'both'")
    honest_go_on(fleet)
    assert fleet["ben"].query("SELECT note FROM bird WHERE id = 'both'") == [("seen",)]


def test_a_forged_receipt_is_refused_and_makes_nothing_stable(fleet):
    """T19."""
    change = fleet["ana"].execute("INSERT INTO bird VALUES('mine', 1, NULL)").change
    fleet["ana"]._store.seal()
    log = fleet["ana"]._store.history.by_id[change.log_id]
    real = fleet["ana"]._store.knowledge.receipts()[fleet["ben"].log_id].statement
    claim = HeldHead(log.log_id, log.length, log.head_hash)
    said = Statement(real.member_id, real.incarnation, real.number + 1, real.unix_ms, (claim,), (), NO_CERTIFICATE)
    forged = make_receipt(SigningKey(b"m" * 32), fleet["ana"].space_id, said)
    door = FileStation(fleet["ana"]._store)
    with pytest.raises(SignatureError) as caught:
        door.take(Receipts((forged,)))
    door.settle()

    assert caught.value.rule in ("KEY-1", "RCP-1")
    assert not fleet["ana"].who_has(change).is_stable
    assert fleet["ana"].status().only_here == 1
    honest_go_on(fleet)


def test_a_member_who_joins_twice_under_two_names_is_one_and_named_alike_in_every_certificate(fleet):
    """W28 T23: whichever of its logs came first."""
    ticket = decode_ticket(fleet.ticket)
    logs = []
    for name in ("one", "two"):
        log = Mallory(fleet, incarnation=sha256(name.encode()).digest()[:16])
        act = make_join(ticket.key, log.space_id, log.key.member_id, name, ticket.invitation)
        log.write({ACTS_TABLE: encode_acts((act,), SALT)}, past=(header_hash(log.space_id, ticket.genesis_header),))
        logs.append(log)
    logs[0].push("ana")
    logs[1].push("ben")
    fleet.gather()
    logs[0].write({ACTS_TABLE: encode_acts((Close(0),), SALT)}, is_sealed=True)
    logs[0].push("ana")
    for name in fleet.names:
        fleet[name].finish()
    fleet.gather()

    assert len({fleet[name].close_epoch(0).certificate.hash for name in fleet.names}) == 1
    assert fleet["ana"].close_epoch(0).certificate.body.member_count == 3
