"""Bundles: what they say, what they bring, and that nothing is written over or believed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import klal
from klal import disk
from klal.bundle.contents import MAGIC, encode_contents, encode_end
from klal.bundle.reading import Bundle
from klal.errors import IncompleteError, ReadOnlyError, StoreError, UsageError
from klal.items import encode_item
from klal.model.codec import SLICE_SIZE
from tests.helpers.fleet import BIRD, Fleet, answers_of, rows_of, scratch

INSERT = "INSERT INTO bird VALUES(?, 1, ?)"


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with scratch() as folder, Fleet(folder) as fleet:
        fleet.found("ana", BIRD).execute(INSERT, ("a1", "x"))
        fleet.join("ben").execute("SELECT 1")
        fleet.meet("ana", "ben")
        fleet["ben"].execute(INSERT, ("b1", "y"))
        fleet.gather()
        yield fleet


def export(fleet: Fleet, name: str = "ana", **asked: object) -> Path:
    path = fleet.folder / f"{len(list(fleet.folder.glob('*.bundle')))}.bundle"
    (written,) = fleet[name].export_bundle(path, **asked).bundles
    assert written.path == path
    assert written.bytes == path.stat().st_size
    return path


def test_a_new_replica_has_the_whole_from_a_ticket_and_a_bundle(fleet):
    """W11 S46 S47: any one bundle of everything brings the space back, its members and its epochs."""
    fleet.close_epoch()
    certificate = fleet["ana"].close_epoch(0).certificate
    path = export(fleet, "ben")
    fleet.destroy("ana")
    fleet.destroy("ben")

    taken = fleet.join("dan").import_bundle(path)
    assert taken.is_whole, taken.sentences
    assert fleet["dan"].close_epoch(0).certificate.encode() == certificate.encode()
    fleet.join("ana").import_bundle(path)
    assert rows_of(fleet["ana"]) == rows_of(fleet["dan"])
    fleet["ana"].execute(INSERT, ("a2", "back"))
    fleet["dan"].import_bundle(export(fleet, "ana", for_="ben"))
    assert fleet["dan"].query("SELECT note FROM bird WHERE id = 'a2'") == [("back",)]
    assert fleet["dan"].verify().certificates == 1


def test_status_says_what_a_bundle_would_bring_and_takes_nothing(fleet):
    path = export(fleet)
    fleet.join("dan")
    before = fleet["dan"].status().root

    would = fleet["dan"].bundle_status(path)
    assert fleet["dan"].status().root == before
    taken = fleet["dan"].import_bundle(path)
    assert (would.changes, would.payloads) == (taken.changes, taken.payloads)
    assert {each.member_name for each in would.members} == {"ana", "ben"}
    assert sum(each.bytes for each in would.members) == would.bytes > 0
    assert (would.needs, would.damaged, would.receipts) == ((), (), 2)
    after = fleet["dan"].bundle_status(path)
    assert (after.changes, after.payloads, after.bytes, after.members) == (0, 0, 0, ())


def test_a_bundle_speaks_for_itself_where_there_is_no_file(fleet):
    found = klal.read_bundle(export(fleet))

    assert found.space == "flock"
    assert [each.member_name for each in found.members] == ["ana", "ben"]
    assert found.changes == fleet["ana"].coverage().held


def test_taken_again_it_brings_nothing_and_reads_no_payload(fleet, monkeypatch):
    path = export(fleet)
    fleet.join("dan").import_bundle(path)
    monkeypatch.setattr(Bundle, "body", lambda *_: pytest.fail("a payload that is held was read"))

    again = fleet["dan"].import_bundle(path)
    assert (again.changes, again.payloads, again.is_whole) == (0, 0, True)


def test_a_bundle_for_somebody_leaves_out_what_their_receipt_names(fleet):
    fleet["ana"].execute(INSERT, ("a2", "new"))
    path = export(fleet, for_="ben")

    found = klal.read_bundle(path)
    assert (found.changes, found.payloads) == (1, 1)
    assert found.needs
    assert found.receipts == 2
    assert fleet["ben"].import_bundle(path).is_whole
    assert rows_of(fleet["ben"]) == rows_of(fleet["ana"])


def test_what_it_needs_and_is_not_here_is_named_and_nothing_is_lost_or_half_taken(fleet):
    fleet["ana"].execute(INSERT, ("a2", "new"))
    path = export(fleet, for_="ben")
    fleet.join("dan")

    would = fleet["dan"].bundle_status(path)
    assert {each.member_name for each in would.needs} == {"ana", "ben"}
    taken = fleet["dan"].import_bundle(path)
    assert (taken.changes, taken.payloads, taken.is_whole) == (0, 0, False)
    assert {each.member_name for each in taken.absent} == {"ana"}
    assert any("it needs 3 changes of ana" in sentence for sentence in taken.sentences)
    fleet["dan"].import_bundle(export(fleet))
    assert fleet["dan"].import_bundle(path).is_whole


def test_since_takes_moments_and_certificates(fleet):
    fleet.close_epoch()
    certificate = fleet["ana"].close_epoch(0).certificate
    fleet["ana"].execute(INSERT, ("a2", "new"))

    for since in ("epoch:0", certificate, certificate.frontier()):
        assert klal.read_bundle(export(fleet, since=since)).changes == 1
    assert klal.read_bundle(export(fleet, since="now")).changes == 0
    with pytest.raises(IncompleteError):
        export(fleet, since="epoch:1")
    with pytest.raises(UsageError, match="not both"):
        export(fleet, since="now", for_="ben")


def test_a_large_payload_is_cut_over_several_bundles_and_comes_back(fleet):
    """Each of several is no larger than was asked for, and each needs what is before it."""
    text = os.urandom(5 * SLICE_SIZE).hex()
    fleet["ana"].execute(INSERT, ("large", text))
    path = fleet.folder / "field.bundle"

    written = fleet["ana"].export_bundle(path, size_max=600_000).bundles
    assert len(written) > 2
    assert [each.path.name for each in written[:2]] == [f"field.{n}-of-{len(written)}.bundle" for n in (1, 2)]
    assert not path.exists()
    assert all(each.bytes <= 600_000 for each in written)
    fleet.join("dan")
    assert fleet["dan"].bundle_status(written[-1].path).needs
    for each in written:
        assert fleet["dan"].import_bundle(each.path).is_whole
    assert fleet["dan"].query("SELECT note FROM bird WHERE id = 'large'") == [(text,)]
    assert answers_of(fleet["dan"])[1] == answers_of(fleet["ana"])[1]


def test_a_limit_that_nothing_fits_says_what_does(fleet):
    with pytest.raises(UsageError, match=r"want at least [0-9]+ here"):
        fleet["ana"].export_bundle(fleet.folder / "x.bundle", size_max=100)
    assert not list(fleet.folder.glob("x*"))


def test_nothing_is_ever_written_over(fleet, monkeypatch):
    """T37: not a database, not another bundle, not what appears while one is written."""
    file = fleet["ben"].path
    data = file.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        fleet["ana"].export_bundle(file)
    assert file.read_bytes() == data
    path, late = export(fleet), fleet.folder / "late.bundle"
    with pytest.raises(UsageError, match="exists already"):
        fleet["ana"].export_bundle(path)
    fsync = os.fsync

    def appear(descriptor: int) -> None:
        late.write_bytes(b"somebody else's")
        fsync(descriptor)

    monkeypatch.setattr(disk.os, "fsync", appear)
    with pytest.raises(UsageError, match="exists already"):
        fleet["ana"].export_bundle(late)
    assert late.read_bytes() == b"somebody else's"
    assert not list(fleet.folder.glob("*.partial*"))


def test_a_full_disk_leaves_nothing_half_written(fleet, monkeypatch):
    """T51: one sentence, and no file that looks like a bundle."""
    count = 0
    write = os.write

    def write_until_full(descriptor: int, data: bytes) -> int:
        nonlocal count
        count += 1
        if count > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(disk.os, "write", write_until_full)
    with pytest.raises(StoreError, match="No space left"):
        fleet["ana"].export_bundle(fleet.folder / "full.bundle")
    monkeypatch.undo()
    assert not list(fleet.folder.glob("full*"))
    assert fleet["ana"].export_bundle(fleet.folder / "full.bundle").changes


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="no symbolic links to refuse")
def test_only_a_plain_file_is_opened(fleet, tmp_path):
    """T36: no link is followed, and no pipe is waited for."""
    path = export(fleet)
    (tmp_path / "link.bundle").symlink_to(path)
    os.mkfifo(tmp_path / "pipe.bundle")
    for name in ("link.bundle", "pipe.bundle", ".", "nothing.bundle"):
        with pytest.raises(UsageError, match="cannot be opened"):
            fleet["ben"].import_bundle(tmp_path / name)


def test_a_link_in_the_place_of_a_new_bundle_is_not_followed(fleet, tmp_path):
    """T36 T37"""
    (tmp_path / "out.bundle").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(UsageError, match="exists already"):
        fleet["ana"].export_bundle(tmp_path / "out.bundle")
    assert not (tmp_path / "elsewhere").exists()


def test_what_is_no_bundle_of_this_space_is_one_sentence(fleet, tmp_path):
    """SYN-5 T39: a database given as a bundle is not opened as one."""
    with Fleet(tmp_path / "other") as other:
        other.found("eve", BIRD)
        path = export(other, "eve")
    with pytest.raises(UsageError, match="is of another space, 'flock'"):
        fleet["ana"].import_bundle(path)
    with pytest.raises(UsageError, match="is no bundle of klal"):
        fleet["ana"].import_bundle(fleet["ben"].path)


def test_a_file_without_its_key_gives_and_does_not_take(fleet, tmp_path):
    path = export(fleet)
    with klal.open(fleet["ana"].path, home=tmp_path / "nobody") as guest:
        assert guest.export_bundle(tmp_path / "x.bundle").changes
        with pytest.raises(ReadOnlyError):
            guest.import_bundle(path)


def test_sync_takes_a_bundle(fleet):
    fleet.join("dan")
    path = export(fleet)

    report = fleet["dan"].sync(path)
    assert report.received.changes == fleet["ana"].coverage().held - 1  # A ticket has the founding in it.
    assert (report.sent.changes, report.equal, report.refused) == (0, False, ())
    with pytest.raises(UsageError, match="without a limit"):
        fleet["dan"].sync(path, byte_count_max=10)


def test_progress_is_told_up_to_the_end(fleet):
    told = []
    path = fleet.folder / "told.bundle"

    fleet["ana"].export_bundle(path, progress=told.append)
    fleet.join("dan").import_bundle(path, progress=told.append)
    assert list(dict.fromkeys(each.phase for each in told)) == ["plan", "export", "import"]
    for phase in ("plan", "import"):
        done = [each for each in told if each.phase == phase][-1]
        assert 0 < done.done <= done.total
    assert all(a.done <= b.done for a, b in pairwise(told) if a.phase == b.phase)


def test_contents_that_promise_more_than_there_is_are_not_believed(fleet):
    """BDL-3 T20 T27: what a bundle says of itself decides what people are told, and nothing else."""
    path = export(fleet)
    bundle = Bundle(path)
    try:
        contents = bundle.contents
        items = [bundle._read(found.offset, found.head.size) for found in bundle.items() if found.head.kind != 5]
    finally:
        bundle.close()
    assert contents is not None
    lie = type(contents)(
        contents.space_id,
        contents.space_name,
        contents.part,
        contents.part_count,
        (),
        tuple(type(line)(*[*list_of(line)[:5], line.length + 7, bytes(32), ()]) for line in contents.gives),
    )
    data = MAGIC + b"".join((*encode_contents(lie), *items))
    path.write_bytes(data + encode_end(lie.space_id, len(items) + 1, len(data)))

    taken = fleet.join("dan").import_bundle(path)
    assert taken.changes == fleet["ana"].coverage().held - 1  # A ticket has the founding in it.
    assert fleet["dan"].coverage().is_whole
    assert not taken.is_whole
    assert all(each.what == "headers" for each in taken.absent)


def list_of(line: object) -> list[object]:
    return [getattr(line, name) for name in line.__struct_fields__]


def test_an_item_of_another_space_among_ours_does_not_count(fleet):
    path = export(fleet)
    data = path.read_bytes()
    foreign = encode_item(1, bytes(32), bytes(32), b"\x94")
    bundle = Bundle(path)
    try:
        at = next(bundle.items()).end
    finally:
        bundle.close()
    path.write_bytes(data[:at] + foreign + data[at:])

    taken = fleet.join("dan").import_bundle(path)
    assert fleet["dan"].coverage().is_whole
    assert any("is of space 00000000" in sentence for sentence in taken.damaged)


def test_a_compacted_file_gives_what_it_has_and_a_full_one_the_rest(fleet):
    """W14: the members come with it, so that what follows can be judged."""
    fleet.close_epoch()
    for _ in range(3):  # It asks, they answer, it goes.
        try:
            fleet["ana"].compact(keep=1, anyway=True)
        except IncompleteError:
            fleet.gather()
    assert fleet["ana"].status().standing == "part"
    fleet["ana"].execute(INSERT, ("a2", "after"))
    part, whole = export(fleet, "ana"), export(fleet, "ben")

    taken = fleet.join("dan").import_bundle(part)
    assert taken.is_whole, taken.sentences
    assert fleet["dan"].coverage().held > fleet["ben"].coverage().held
    assert not fleet["dan"].coverage().is_whole
    assert fleet["dan"].import_bundle(whole).is_whole
    assert rows_of(fleet["dan"])["bird"] == rows_of(fleet["ana"])["bird"]
