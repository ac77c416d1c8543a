"""Each byte of what klal stores or hands over is changed, and each length cut: whoever reads it says so, or nothing
of it means anything.

Of a database some bytes mean nothing: free space in a page, counters that SQLite alone reads. A file that was changed
there passes `verify`, and then it must answer everything as before.
"""

from __future__ import annotations

import shutil
from contextlib import closing, suppress
from pathlib import Path

import apsw
import pytest

from klal.api import check_certificate_file
from klal.errors import KlalError, RefusedError
from klal.items import DamagedItem
from klal.model.receipt import Receipt
from klal.model.ticket import decode_ticket
from klal.replica import Replica
from klal.store.file import open_file
from klal.store.heal import heal_file
from klal.store.home import Home
from klal.store.store import World, opened_store
from klal.transport.items import read_whole
from tests.helpers.fleet import BIRD, FakeClock, FakeEntropy, Fleet, answers_of, scratch

EVERY = pytest.mark.soak
BITS = (0x01, 0x10, 0x80)
PAGE_SIZE = 512  # Small pages, so that a small file has many of them and little room that is free.


class Closed:
    """Ana's and ben's files after a closed epoch, a conflict and a deletion, and work after it; all shut."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "small.db"
        self.home = folder / "fleet" / "home"
        with Fleet(folder / "fleet") as fleet:
            fleet.found("ana", BIRD)
            fleet.join("ben")
            fleet["ana"].execute("INSERT INTO bird VALUES('both', 1, NULL)")
            fleet["ana"].execute("INSERT INTO bird VALUES('gone', 1, NULL)")
            fleet.gather()
            fleet["ana"].execute("UPDATE bird SET mass = 2 WHERE id = 'both'")
            fleet["ben"].execute("UPDATE bird SET mass = 3 WHERE id = 'both'")
            fleet["ben"].execute("DELETE FROM bird WHERE id = 'gone'")
            fleet.close_epoch()
            fleet["ben"].execute("INSERT INTO bird VALUES('after', 4, 'x')")
            fleet.gather()
            fleet.drop_by("ana")
            self.share = fleet.share
            self.ticket = fleet["ana"].invite()
            self.space_id = fleet["ana"].space_id
            self.receipts = list(fleet["ana"]._store.knowledge.receipts().values())
            fleet["ana"].close_epoch(0).write(folder / "certificate")
            source = fleet["ana"].path
        shutil.copy(source, self.path)
        with closing(apsw.Connection(str(self.path))) as connection:
            connection.pragma("journal_mode", "delete")
            connection.pragma("page_size", PAGE_SIZE)
            connection.execute("VACUUM")
            connection.pragma("journal_mode", "wal")
        self.data = self.path.read_bytes()
        self.answers = self.ask(self.data)

    def write(self, data: bytes) -> None:
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self.path.write_bytes(data)

    def open(self, path: Path, name: str, home: Path) -> Replica:
        connection = open_file(path)
        try:
            world = World(FakeClock(), FakeEntropy(name))
            return Replica(opened_store(connection, path, Home(home), world, name), lambda _: None)
        except BaseException:
            connection.close()
            raise

    def ask(self, data: bytes) -> tuple[object, ...]:
        """Return all that a file with these bytes says, once `verify` has passed it.

        Raises:
            KlalError: It did not pass, or could not be opened.
        """
        self.write(data)
        replica = self.open(self.path, "ana", self.home)
        try:
            replica.verify()
            return (*answers_of(replica), replica.coverage(), replica.status().state)
        finally:
            replica._store.release()

    def says(self, data: bytes) -> str:
        """Return what is said of a file with these bytes; "" where it answers as before."""
        found, answers = None, self.answers
        try:
            answers = self.ask(data)
        except KlalError as error:
            found = error
        assert answers == self.answers
        assert not isinstance(found, RefusedError) or (found.rule and found.evidence)
        return "" if found is None else found.message


@pytest.fixture(scope="module")
def closed():
    with scratch() as folder:
        yield Closed(folder)


def flipped(data: bytes, position: int, bit: int = 0) -> bytes:
    bits = bit or BITS[position % len(BITS)]
    return data[:position] + bytes([data[position] ^ bits]) + data[position + 1 :]


def positions(data: bytes, stride: int) -> range:
    return range(7 % stride, len(data), stride)


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("stride", "bits"), [(151, (0,)), *(pytest.param(1, (bit,), marks=EVERY) for bit in (*BITS, 0xFF))]
)
def test_no_changed_byte_of_a_file_passes_unless_it_means_nothing(closed, stride, bits):
    """W13 W19 T22 T27: verify names the rule and the place, or every answer is as it was."""
    passed = []
    for bit in bits:
        for position in positions(closed.data, stride):
            try:
                if not closed.says(flipped(closed.data, position, bit)):
                    passed.append(position)
            except BaseException as error:
                error.add_note(f"byte {position}, bits {bit or BITS[position % len(BITS)]:#x}")
                raise

    assert 0 < len(passed) < len(range(0, len(closed.data), stride)) * len(bits)


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("stride", [1201, pytest.param(1, marks=EVERY)])
def test_no_file_that_is_cut_short_passes(closed, stride):
    """W13 W19 T22 T51: half a copy is no copy."""
    for length in range(0, len(closed.data) - 1, stride):
        assert closed.says(closed.data[:length]), length


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("stride", [1511, pytest.param(1, marks=EVERY)])
def test_whatever_byte_was_changed_the_file_is_healed_or_left_alone_with_a_sentence(closed, stride):
    """T22 T37 W13: healed, it holds what it held or says what to fetch; and the old one is kept as it was."""
    refused = 0
    for position in positions(closed.data, stride):
        data = flipped(closed.data, position)
        with scratch() as folder:
            path = folder / "mangled.db"
            path.write_bytes(data)
            shutil.copytree(closed.home, folder / "home")
            healing = None
            with suppress(KlalError):
                healing = heal_file(path, Home(folder / "home"), World(FakeClock(), FakeEntropy("x")), "ana", "undo")
            if healing is None:  # It is a page that SQLite needs to find a table at all.
                assert path.read_bytes() == data, position
                refused += 1
                continue
            assert healing.kept is None or healing.kept.read_bytes() == data, position
            replica = closed.open(path, "ana", folder / "home")
            try:
                replica.verify()
                assert healing.dropped or answers_of(replica) == closed.answers[:6]
            except BaseException as error:
                error.add_note(f"byte {position}")
                raise
            finally:
                replica.close()

    assert refused <= len(positions(closed.data, stride)) // 50


def test_no_changed_byte_of_a_certificate_is_believed(closed):
    """W13 W19 T23: what is not proved by itself is bound by the hash."""
    path = closed.folder / "certificate"
    data = path.read_bytes()
    true_hash = check_certificate_file(path).hash
    mangled = closed.folder / "mangled"
    for position in range(len(data)):
        mangled.write_bytes(flipped(data, position))
        # The body is named by its hash, which whoever compares it has from elsewhere; all else proves itself.
        with suppress(RefusedError):
            assert check_certificate_file(mangled).hash != true_hash, position


def test_no_changed_byte_of_a_receipt_is_believed(closed):
    """W13 W3 T10: a receipt is what its member signed, to the byte."""
    assert len(closed.receipts) == 2
    for receipt in closed.receipts:
        for position in range(len(receipt.body) + len(receipt.signature)):
            data = flipped(receipt.body + receipt.signature, position)
            with pytest.raises(RefusedError):
                Receipt.decode(data[: len(receipt.body)], data[len(receipt.body) :]).check(closed.space_id)
        for length in range(len(receipt.body)):
            with pytest.raises(RefusedError):
                Receipt.decode(receipt.body[:length], receipt.signature).check(closed.space_id)


def test_no_changed_byte_of_an_item_in_a_folder_is_believed(closed):
    """W13 W19 T22: of headers, payloads and receipts alike."""
    items = sorted(path for path in closed.share.rglob("*.*") if path.is_file())
    assert {path.suffix[1] for path in items} == {"H", "P", "R"}
    mangled = closed.folder / "mangled"
    for item in items:
        data = item.read_bytes()
        for position in range(len(data)):
            mangled.write_bytes(flipped(data, position))
            with pytest.raises(DamagedItem):
                read_whole(str(mangled))
        for length in range(len(data)):
            mangled.write_bytes(data[:length])
            with pytest.raises(DamagedItem):
                read_whole(str(mangled))


def test_no_changed_letter_of_a_ticket_is_believed(closed):
    """W13 T22: nor one that base64 has for the same bits."""
    ticket = closed.ticket
    alike = {"-": "+", "_": "/"}
    for position, letter in enumerate(ticket):
        for other in {"A", "b", alike.get(letter, "=")} - {letter}:
            with pytest.raises(KlalError):
                decode_ticket(ticket[:position] + other + ticket[position + 1 :])
        with pytest.raises(KlalError):
            decode_ticket(ticket[:position])
    assert decode_ticket(ticket) == decode_ticket(f" {ticket[:9]}\n{ticket[9:]} ")
