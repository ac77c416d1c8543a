"""A bundle that was damaged, cut or made to deceive: what is whole of it is kept, and it is said what is not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from klal.bundle.contents import MAGIC
from klal.bundle.reading import Bundle
from klal.errors import UsageError
from klal.file_station import FileStation
from klal.items import HEADERS, PAYLOADS, HeadersIndex, RunLine, encode_item
from klal.model.codec import pack, unpack
from tests.helpers.fleet import BIRD, Fleet, answers_of, rows_of, scratch

EVERY = pytest.mark.soak
BITS = (0x01, 0x10, 0x80)


class Carried:
    """A bundle of a small space, with dan, who has nothing yet, to take it again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet = Fleet(folder / "fleet")
        self.fleet.found("ana", BIRD).execute("INSERT INTO bird VALUES('a', 1, 'x')")
        self.fleet.join("ben")
        self.fleet.meet("ana", "ben")
        self.fleet["ben"].execute("INSERT INTO bird VALUES('b', 2, ?)", ("large " * 60_000,))
        self.fleet["ben"].execute("UPDATE bird SET mass = 3 WHERE id = 'a'")
        self.fleet.gather()
        self.good = folder / "good.bundle"
        self.fleet["ana"].export_bundle(self.good)
        self.data = self.good.read_bytes()
        self.bad = folder / "bad.bundle"
        bundle = Bundle(self.good)
        self.contents_end = next(bundle.items()).end
        bundle.close()
        self.count = 0

    def take(self, data: bytes) -> tuple[list[str], bool]:
        """Give a newcomer these bytes, and then the good ones; return what was said, and whether all had come."""
        self.count += 1
        self.bad.write_bytes(data)
        name = f"dan{self.count}"
        dan = self.fleet.join(name)
        try:
            said = [*dan.import_bundle(self.bad).sentences]
        except UsageError as error:
            said = [str(error)]
        is_all = dan.tables() == ["bird"] and rows_of(dan) == rows_of(self.fleet["ana"])
        dan.verify()
        taken = dan.import_bundle(self.good)
        assert taken.is_whole, taken.sentences
        assert rows_of(dan) == rows_of(self.fleet["ana"])
        self.fleet.destroy(name)
        return said, is_all


@pytest.fixture(scope="module")
def carried() -> Iterator[Carried]:
    with scratch() as folder:
        carried = Carried(folder)
        with carried.fleet:
            yield carried


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("stride", [211, pytest.param(1, marks=EVERY)])
def test_whatever_byte_is_changed_it_is_said_and_what_is_whole_is_kept(carried, stride):
    """T22 T1 W13 W19 BDL-6: no changed byte passes, and a good copy brings the rest."""
    for position in range(0, len(carried.data), stride):
        data = bytearray(carried.data)
        data[position] ^= BITS[position % len(BITS)]
        said, _ = carried.take(bytes(data))

        assert said, position


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("stride", [307, pytest.param(1, marks=EVERY)])
def test_wherever_it_is_cut_it_is_said_and_what_is_whole_is_kept(carried, stride):
    """T22 T51 BDL-6: and what it should have contained is named, as far as its contents are there."""
    kept = set()
    for length in range(0, len(carried.data) - 1, stride):
        said, is_all = carried.take(carried.data[:length])
        kept.add(is_all)

        assert said, length
        assert is_all or length < carried.contents_end or any("it should contain" in each for each in said), (
            length,
            said,
        )


@pytest.mark.parametrize("kind", [HEADERS, PAYLOADS])
def test_one_damaged_item_costs_what_is_in_it_and_says_which(carried, kind):
    """T22 BDL-6: the others arrive."""
    bundle = Bundle(carried.good)
    try:
        places = [found for found in bundle.items() if found.head.kind == kind]
    finally:
        bundle.close()
    for found in places:
        data = bytearray(carried.data)
        data[found.end - 1] ^= 1
        said, is_all = carried.take(bytes(data))

        assert not is_all
        assert any(f"at byte {found.offset:,} cannot be used" in sentence for sentence in said)
        assert any("it should contain" in sentence for sentence in said)


def test_bytes_before_between_and_behind_items_are_passed_over(carried):
    """BDL-6: what lies between two items is listed, and both count."""
    bundle = Bundle(carried.good)
    try:
        ends = [found.end for found in bundle.items()]
    finally:
        bundle.close()
    for end in (len(MAGIC), *ends, len(carried.data)):
        said, is_all = carried.take(carried.data[:end] + b"klal\x01 noise klal" * 9 + carried.data[end:])

        assert is_all, end
        assert said


def test_what_looks_like_items_everywhere_costs_little(carried):
    """T2 T29: each of these states the greatest size there is."""
    fake = encode_item(HEADERS, carried.fleet["ana"].space_id, bytes(32), bytes(1 << 20))[:84]
    start = time.process_time()
    said, is_all = carried.take(carried.data + fake * 30_000)

    assert is_all
    assert said
    assert time.process_time() - start < 20


def test_a_change_that_is_refused_by_a_session_is_refused_from_a_bundle(carried, tmp_path):
    """T27 LOG-3 SEA-1: the same door; an item that is whole proves nothing of what is in it."""
    bundle = Bundle(carried.good)
    try:
        items = [(found, bundle._read(found.offset, found.head.size)) for found in bundle.items()]
    finally:
        bundle.close()
    space_id = carried.fleet["ana"].space_id
    forged = []
    for found, data in items:
        if found.head.kind == HEADERS:
            index = unpack(found.head.index, HeadersIndex, "headers", 1 << 20)
            runs = tuple(RunLine(run.start, run.headers, bytes(64)) for run in index.runs)
            index = HeadersIndex(index.member_id, index.incarnation, index.rank, runs)
            forged.append(encode_item(HEADERS, space_id, found.head.log_id, pack(index)))
        else:
            forged.append(data)
    said, is_all = carried.take(MAGIC + b"".join(forged))

    assert not is_all
    assert any("seal" in sentence or "sign" in sentence for sentence in said)


def test_a_file_is_the_same_whether_its_work_came_by_session_or_by_bundle(tmp_path):
    """T27: a change without effect is one on either road."""
    with Fleet(tmp_path) as fleet:
        fleet.found("ana", BIRD)
        fleet.join("ben")
        fleet.join("cal")
        fleet.gather()
        fleet["ana"].execute("CREATE TABLE nest(id TEXT PRIMARY KEY)")
        fleet["ben"].execute("CREATE TABLE nest(id INT PRIMARY KEY, note TEXT)")
        fleet["ben"].execute("INSERT INTO nest VALUES(1, 'x')")
        fleet.meet("ana", "ben")
        fleet["ana"].export_bundle(tmp_path / "x.bundle")
        fleet["cal"].import_bundle(tmp_path / "x.bundle")

        assert answers_of(fleet["cal"])[:3] == answers_of(fleet["ana"])[:3]
        assert fleet["cal"].violations() == fleet["ana"].violations()
        FileStation(fleet["cal"]._store)
        fleet["cal"].verify()
