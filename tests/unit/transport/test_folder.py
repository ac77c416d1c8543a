"""A shared folder: it only grows, and what is damaged in it does not count."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klal import items as item_format
from klal.errors import RefusedError, TransportError
from klal.model.codec import SLICE_SIZE, pack
from klal.sync.drive import drive
from klal.sync.side import Outcome
from klal.transport import folder as folder_module
from klal.transport import items
from klal.transport.folder import FolderStation
from tests.helpers.memory_station import SPACE, TABLE, Author, MemoryStation, row_bytes, stated, station_with

OTHER_SPACE = bytes(32)
SHORT_NAME = re.compile(r"[0-9A-F]{8}\.[HPRD][0-9A-F]{2}")


def small_author(name: str = "ana") -> Author:
    author = Author(name)
    author.write_many(3, size=20)
    author.write(b"one", b"two")
    author.seal()
    author.receipt()
    return author


def items_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.*") if path.is_file() or path.is_symlink())


def item_of(folder: Path, letter: str) -> Path:
    (found,) = [path for path in items_in(folder) if path.name[9] == letter]
    return found


def give(folder: Path, author: Author) -> Outcome:
    return drive(author.own, FolderStation(folder, author.space_id))


def fetch(folder: Path) -> tuple[MemoryStation, FolderStation]:
    newcomer, station = MemoryStation(), FolderStation(folder, SPACE)
    assert drive(newcomer, station).is_finished
    return newcomer, station


def test_two_replicas_meet_in_a_folder(tmp_path):
    ana, ben = small_author("ana"), small_author("ben")

    assert give(tmp_path, ana).equal
    assert give(tmp_path, ben).equal
    assert give(tmp_path, ana).equal

    assert ana.own.roots() == ben.own.roots() == FolderStation(tmp_path, SPACE).roots()


def test_an_empty_folder_holds_no_logs_and_stays_empty_until_something_is_taken(tmp_path):
    station = FolderStation(tmp_path, SPACE)

    assert station.logs() == []
    assert station.receipts() == []
    drive(MemoryStation(), station)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    """A stick that is not plugged in must not become a folder on the disk."""
    missing = tmp_path / "stick"

    with pytest.raises(TransportError, match="stick cannot be listed: No such file or directory"):
        give(missing, small_author())
    assert not missing.exists()


def test_a_file_in_place_of_the_folder_is_one_sentence(tmp_path):
    path = tmp_path / "stick"
    path.write_text("hello")

    with pytest.raises(TransportError, match="stick cannot be listed"):
        give(path, small_author())
    assert path.read_text() == "hello"


def test_a_folder_opened_for_reading_is_sent_nothing(tmp_path):
    ana, ben = small_author("ana"), small_author("ben")
    give(tmp_path, ana)
    before = items_in(tmp_path)

    outcome = drive(ben.own, FolderStation(tmp_path, SPACE, read_only=True))

    assert outcome.received.change_count == 4
    assert outcome.sent.change_count == 0
    assert items_in(tmp_path) == before
    with pytest.raises(TransportError):
        FolderStation(tmp_path, SPACE, read_only=True).take(ben.own.taken[0])


def test_every_name_is_short_and_nothing_temporary_stays(tmp_path):
    """FAT32 holds 65,534 short names in a directory, and a third as many others."""
    ana = small_author()
    give(tmp_path, ana)
    for _ in range(3):
        ana.write(b"more")
        ana.seal()
        ana.receipt()
        give(tmp_path, ana)

    names = [path.name for path in items_in(tmp_path)]
    assert all(SHORT_NAME.fullmatch(name) for name in names)
    assert {name[9] for name in names} == {"H", "P", "R"}


def test_names_in_any_case_are_read(tmp_path):
    """FAT drivers show short names in whatever case they like."""
    give(tmp_path, small_author())
    for path in items_in(tmp_path):
        path.rename(path.with_name(path.name.lower()))

    newcomer, station = fetch(tmp_path)

    assert station.damaged == []
    assert newcomer.roots() == station.roots() == small_author().own.roots()


def test_many_small_changes_make_few_files(tmp_path):
    ana = Author("ana")
    ana.write_many(5000, size=50)

    give(tmp_path, ana)

    assert len(items_in(tmp_path)) == 2
    newcomer, _ = fetch(tmp_path)
    assert newcomer.roots() == ana.own.roots()


def test_a_large_part_lies_in_several_items_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "ITEM_SIZE_AIM", 3 * SLICE_SIZE)
    monkeypatch.setattr(folder_module, "_PENDING_SIZE_MAX", 4 * SLICE_SIZE)
    ana = Author("ana")
    ana.write(row_bytes("large", 10 * SLICE_SIZE + 7), b"small")
    ana.seal()

    assert give(tmp_path, ana).equal

    assert len([path for path in items_in(tmp_path) if path.name[9] == "P"]) > 2
    newcomer, _ = fetch(tmp_path)
    assert newcomer.roots() == ana.own.roots()
    assert newcomer.held[ana.log_id].parts == ana.own.held[ana.log_id].parts


def test_a_part_cut_half_way_is_resumed_at_its_slice(tmp_path):
    ana = Author("ana")
    ana.write(row_bytes("large", 6 * SLICE_SIZE))
    ana.seal()
    drive(ana.own, FolderStation(tmp_path, SPACE), byte_count_max=3 * SLICE_SIZE)
    begun = FolderStation(tmp_path, SPACE)
    begun.logs()
    count = begun.parts_begun(stated(begun, ana.log_id), 0, 1)[0].slice_count

    outcome = drive(ana.own, FolderStation(tmp_path, SPACE))

    assert count >= 2
    assert outcome.equal
    assert outcome.sent.byte_count < (7 - count) * SLICE_SIZE
    assert fetch(tmp_path)[0].roots() == ana.own.roots()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(cuts=st.lists(st.integers(1, 700_000), max_size=5), back=st.integers(1, 700_000))
def test_a_session_with_a_folder_cut_anywhere_is_resumed(cuts, back, tmp_path_factory):
    """SYN-8, T10."""
    tmp_path = tmp_path_factory.mktemp("stick")
    ana = Author("ana")
    ana.write_many(4)
    ana.write(row_bytes("large", SLICE_SIZE + 5), b"small")
    ana.seal()
    ana.receipt()
    newcomer = MemoryStation()
    for cut in cuts:
        drive(ana.own, FolderStation(tmp_path, SPACE), byte_count_max=cut)
        drive(newcomer, FolderStation(tmp_path, SPACE), byte_count_max=back)

    assert give(tmp_path, ana).equal
    assert drive(newcomer, FolderStation(tmp_path, SPACE)).equal
    assert newcomer.roots() == ana.own.roots()


def test_nothing_in_the_folder_is_ever_changed_or_removed(tmp_path):
    authors = [small_author(name) for name in ("ana", "ben", "cat")]
    seen: dict[Path, tuple[bytes, int]] = {}
    for author in [*authors, *authors]:
        author.write(b"more")
        author.seal()
        author.receipt()
        give(tmp_path, author)
        now = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in items_in(tmp_path)}
        assert all(now[path] == content for path, content in seen.items())
        seen = now


def test_files_of_other_programs_and_names_like_paths_are_left_alone(tmp_path):
    """T35: a name is data, and what is not named like an item is nobody's item."""
    ana = small_author()
    give(tmp_path, ana)
    log_folder = item_of(tmp_path, "H").parent
    strangers = [
        "desktop.ini",
        "notes.txt",
        "..H00",
        "00000000.H0",
        "00000000.HZZ",
        "-0000001.P00",
        "%2e%2e.H00",
        "con",
    ]
    for folder in (tmp_path, log_folder.parent, log_folder, log_folder / "RECEIPTS"):
        for name in strangers:
            (folder / name).write_bytes(b"not ours")
        (folder / "...").mkdir()

    newcomer, station = fetch(tmp_path)

    assert station.damaged == []
    assert newcomer.roots() == ana.own.roots()
    assert (log_folder / "notes.txt").read_bytes() == b"not ours"


def test_several_spaces_share_a_folder(tmp_path):
    ana, other = small_author(), Author("ana", OTHER_SPACE)
    other.write_many(2)

    assert give(tmp_path, ana).equal
    assert give(tmp_path, other).equal

    assert FolderStation(tmp_path, SPACE).roots() == ana.own.roots()
    assert FolderStation(tmp_path, OTHER_SPACE).roots() == other.own.roots()


def test_an_item_of_another_space_or_log_does_not_count(tmp_path):
    """T12: an item copied under another log's name is listed and skipped."""
    ana, ben = small_author("ana"), small_author("ben")
    give(tmp_path, ana)
    give(tmp_path, ben)
    home = next(tmp_path.iterdir())
    mine = next((home / ana.log_id.hex()[:16]).glob("*.P*"))
    shutil.copy(mine, home / ben.log_id.hex()[:16] / "00000000.P00")

    _, station = fetch(tmp_path)

    assert len(station.damaged) == 1
    assert "lies under a name that is not its own" in station.damaged[0]


@pytest.mark.parametrize("letter", ["H", "P", "R"])
def test_an_item_cut_at_any_length_is_skipped_listed_and_written_again(tmp_path, letter):
    """T1, T22: a half-copied file."""
    ana = small_author()
    give(tmp_path, ana)
    path = item_of(tmp_path, letter)
    whole = path.read_bytes()
    for size in range(1, len(whole), 3):
        path.write_bytes(whole[:size])
        station = FolderStation(tmp_path, SPACE)
        station.roots()
        assert len(station.damaged) == 1, size
        assert str(path) in station.damaged[0]
        assert station.roots() != ana.own.roots()

    assert give(tmp_path, ana).equal

    newcomer, station = fetch(tmp_path)
    assert newcomer.roots() == ana.own.roots()
    assert path.read_bytes() == whole[:size]
    assert len([other for other in items_in(tmp_path) if other.name[9] == letter]) == 2


def test_an_empty_file_is_a_name_that_somebody_reserved(tmp_path):
    ana = small_author()
    give(tmp_path, ana)
    item_of(tmp_path, "P").write_bytes(b"")

    station = FolderStation(tmp_path, SPACE)

    assert station.payload_gaps(stated(station, ana.log_id)) == [range(4)]
    assert [log.payload_length for log in station.logs()] == [0]
    assert station.damaged == []
    assert give(tmp_path, ana).equal


@pytest.mark.parametrize("letter", ["H", "P", "R"])
def test_a_bit_flipped_anywhere_never_gets_through(tmp_path, letter):
    """T1, T22: what arrives is what was written, or nothing."""
    ana = small_author()
    give(tmp_path, ana)
    path = item_of(tmp_path, letter)
    whole = path.read_bytes()
    for at in range(0, len(whole), 2):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        newcomer, station = MemoryStation(), FolderStation(tmp_path, SPACE, read_only=True)
        outcome = drive(newcomer, station)

        assert outcome.refused == (), at
        assert len(station.damaged) == 1, at
        for log_id, log in newcomer.held.items():
            held = ana.own.held[log_id]
            assert log.data == held.data[: len(log.data)]
            assert all(held.parts[place] == part for place, part in log.parts.items())


def test_a_damaged_payload_is_noted_by_its_reader_and_written_again_by_who_has_it(tmp_path):
    """T22: an index is read and a body is not, so its reader tells the others."""
    ana = small_author()
    give(tmp_path, ana)
    path = item_of(tmp_path, "P")
    whole = path.read_bytes()
    path.write_bytes(whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:])
    assert give(tmp_path, ana).equal

    ben, _ = fetch(tmp_path)
    assert ben.payload_gaps(stated(ben, ana.log_id)) == [range(4)]
    assert give(tmp_path, ana).sent.payload_count == 4
    outcome = drive(ben, FolderStation(tmp_path, SPACE))

    assert outcome.equal
    assert ben.roots() == ana.own.roots()
    station = FolderStation(tmp_path, SPACE)
    station.roots()
    assert len(station.damaged) == 1
    assert path.read_bytes() != whole


def test_indexing_reads_no_payload(tmp_path, monkeypatch):
    ana = small_author()
    give(tmp_path, ana)
    monkeypatch.setattr(folder_module, "read_whole", lambda path: pytest.fail(f"read {path}"))

    assert FolderStation(tmp_path, SPACE).roots() == ana.own.roots()
    assert give(tmp_path, ana).equal


def test_a_size_is_bounded_before_it_is_read(tmp_path):
    """T2: a sparse file of 100 GB is no item."""
    ana = small_author()
    give(tmp_path, ana)
    huge = item_of(tmp_path, "H").with_name("00000001.H00")
    with huge.open("wb") as file:
        file.truncate(100 << 30)

    _, station = fetch(tmp_path)

    assert len(station.damaged) == 1


def test_an_index_that_states_four_gigabytes_is_not_believed(tmp_path):
    """T2."""
    ana = small_author()
    give(tmp_path, ana)
    path = item_of(tmp_path, "P")
    data = bytearray(path.read_bytes())
    data[8:12] = b"\xff\xff\xff\xff"
    path.with_name("00000001.P00").write_bytes(data)

    newcomer, station = fetch(tmp_path)

    assert len(station.damaged) == 1
    assert newcomer.roots() == ana.own.roots()


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="no symbolic links to refuse")
class TestLinks:
    def test_a_symlinked_item_is_ignored(self, tmp_path):
        """T36: also if what it points to is a perfectly good item."""
        stick, elsewhere = tmp_path / "stick", tmp_path / "elsewhere"
        stick.mkdir()
        elsewhere.mkdir()
        ana = small_author()
        give(stick, ana)
        for path in items_in(stick):
            target = elsewhere / path.name
            path.rename(target)
            path.symlink_to(target)

        newcomer, station = fetch(stick)

        assert newcomer.held == {}
        assert station.logs() == []
        assert give(stick, ana).equal
        assert fetch(stick)[0].roots() == ana.own.roots()

    def test_a_symlinked_folder_is_ignored_and_never_written_through(self, tmp_path):
        """T36."""
        stick, elsewhere = tmp_path / "stick", tmp_path / "elsewhere"
        stick.mkdir()
        elsewhere.mkdir()
        ana = small_author()
        give(stick, ana)
        home = next(stick.iterdir())
        log_folder = home / ana.log_id.hex()[:16]
        shutil.move(log_folder, elsewhere / "log")
        log_folder.symlink_to(elsewhere / "log")
        before = items_in(elsewhere)

        assert FolderStation(stick, SPACE).logs() == []
        with pytest.raises(TransportError, match="cannot be written"):
            give(stick, ana)
        assert items_in(elsewhere) == before

        log_folder.unlink()
        shutil.move(home, elsewhere / "home")
        home.symlink_to(elsewhere / "home")
        assert FolderStation(stick, SPACE).logs() == []
        with pytest.raises(TransportError):
            give(stick, ana)
        assert list((elsewhere / "home").iterdir()) == []

    def test_a_dangling_link_in_place_of_an_item_is_not_written_through(self, tmp_path):
        """T36: the name is taken, so another is used."""
        ana = small_author()
        first = tmp_path / "first"
        second = tmp_path / "second"
        first.mkdir()
        second.mkdir()
        give(first, ana)
        target = tmp_path / "target"
        for path in items_in(first):
            twin = second / path.relative_to(first)
            twin.parent.mkdir(parents=True, exist_ok=True)
            twin.symlink_to(target)

        assert give(second, ana).equal
        assert not target.exists()
        assert fetch(second)[0].roots() == ana.own.roots()

    def test_a_pipe_and_a_folder_named_like_items_are_ignored(self, tmp_path):
        """T36: opening a pipe would wait for ever."""
        ana = small_author()
        give(tmp_path, ana)
        path = item_of(tmp_path, "H")
        os.mkfifo(path.with_name("00000000.H00"))
        path.with_name("00000000.P00").mkdir()

        newcomer, _ = fetch(tmp_path)

        assert newcomer.roots() == ana.own.roots()

    def test_a_file_that_becomes_a_pipe_or_link_after_it_was_listed_is_not_followed(self, tmp_path):
        """T36: what was listed and what is opened may differ."""
        give(tmp_path, small_author())
        path = item_of(tmp_path, "H")
        fifo, link = path.with_name("00000000.H00"), path.with_name("00000000.H01")
        os.mkfifo(fifo)
        link.symlink_to(path)

        for other in (fifo, link):
            with pytest.raises((item_format.DamagedItem, OSError)):
                items.read_head(str(other))
            with pytest.raises((item_format.DamagedItem, OSError)):
                items.read_whole(str(other))


def test_a_name_taken_by_something_else_is_left_alone(tmp_path):
    ana = small_author()
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    give(first, ana)
    for path in items_in(first):
        twin = second / path.relative_to(first)
        twin.parent.mkdir(parents=True, exist_ok=True)
        twin.write_bytes(b"something else")

    assert give(second, ana).equal

    assert fetch(second)[0].roots() == ana.own.roots()
    for path in items_in(first):
        assert (second / path.relative_to(first)).read_bytes() == b"something else"


def test_the_same_item_written_twice_is_one_file(tmp_path):
    data = item_format.encode_item(item_format.HEADERS, SPACE, bytes(32), b"index")

    names = {items.write_item(str(tmp_path), 7, item_format.HEADERS, data) for _ in range(3)}

    assert len(names) == 1
    assert [path.name for path in tmp_path.iterdir()] == list(names)


def test_a_name_that_is_taken_while_it_is_chosen_is_not_overwritten(tmp_path, monkeypatch):
    """Two writers at once: the second one finds the name taken only when it reserves it."""
    data = item_format.encode_item(item_format.HEADERS, SPACE, bytes(32), b"index")
    other = item_format.encode_item(item_format.HEADERS, SPACE, bytes(32), b"other")
    name = items.write_item(str(tmp_path), 7, item_format.HEADERS, data)
    (tmp_path / name).write_bytes(other)
    lexists = os.path.lexists
    monkeypatch.setattr(items.os.path, "lexists", lambda path: False)

    second = items.write_item(str(tmp_path), 7, item_format.HEADERS, data)
    monkeypatch.setattr(items.os.path, "lexists", lexists)

    assert second != name
    assert (tmp_path / name).read_bytes() == other
    assert (tmp_path / second).read_bytes() == data
    assert len(list(tmp_path.iterdir())) == 2


def test_two_writers_at_once_lose_nothing(tmp_path):
    """Both have looked before either writes, also for one and the same log."""
    ana, ben = small_author("ana"), small_author("ben")
    longer = small_author("ana")
    longer.write(b"more")
    longer.seal()
    one, two = FolderStation(tmp_path, SPACE), FolderStation(tmp_path, SPACE)
    other = station_with(ben, longer)
    for arrivals, station in ((ana.own.taken, one), (other.taken, two)):
        station.logs()
        for arrival in arrivals:
            station.take(arrival)
    one.settle()
    two.settle()

    newcomer, station = fetch(tmp_path)

    assert station.damaged == []
    assert newcomer.held[ana.log_id].payload_length == 5
    assert newcomer.held[ben.log_id].payload_length == 4
    assert one.logs() == two.logs() == station.logs()


def test_what_others_add_is_seen_without_opening_anew(tmp_path):
    ana, ben = small_author("ana"), small_author("ben")
    station = FolderStation(tmp_path, SPACE)
    assert station.logs() == []

    give(tmp_path, ana)
    assert [log.log_id for log in station.logs()] == [ana.log_id]

    give(tmp_path, ben)
    assert len(station.logs()) == 2


def test_headers_whose_predecessor_is_damaged_wait_for_it(tmp_path):
    """T8: a range that does not count is written again, and what lay behind it connects."""
    ana = small_author()
    give(tmp_path, ana)
    first = item_of(tmp_path, "H")
    ana.write(b"more")
    ana.seal()
    give(tmp_path, ana)
    first.write_bytes(first.read_bytes()[:-1])
    station = FolderStation(tmp_path, SPACE)
    assert station.logs() == []

    assert drive(ana.own, station).equal

    assert fetch(tmp_path)[0].roots() == ana.own.roots()


@pytest.mark.parametrize("shared", [0, 3])
def test_two_branches_that_came_to_one_folder_apart_are_both_read_from_it(tmp_path, shared):
    """LOG-4 LOG-7 T8 T15: two who know nothing of each other write a folder that a service brings together."""
    mine, theirs = Author("ana"), Author("ana")
    for author, count, size in ((mine, 3, 8), (theirs, 4, 9)):
        if shared:
            author.write_many(shared, size=7)
        author.write_many(count, size=size)
    one, two = FolderStation(tmp_path, SPACE), FolderStation(tmp_path, SPACE)
    one.logs()
    two.logs()
    for station, author in ((one, mine), (two, theirs)):
        for arrival in author.own.taken:
            station.take(arrival)
        station.settle()

    newcomer, station = fetch(tmp_path)

    assert station.damaged == []
    assert newcomer.roots() == station.roots()
    data = sorted(log.data for log in newcomer.held.values())
    assert data == sorted(author.own.held[mine.log_id].data for author in (mine, theirs))
    assert all(log.payload_length == len(log.data) for log in newcomer.held.values())
    for author in (mine, theirs):
        assert give(tmp_path, author).equal
        assert author.own.roots() == newcomer.roots()


def test_a_branch_is_written_beside_the_one_that_came_first(tmp_path):
    """LOG-4 T15: in both orders a folder holds the same."""
    mine, theirs = Author("ana"), Author("ana")
    for author, count, size in ((mine, 2, 8), (theirs, 40, 9)):
        author.write_many(5, size=7)
        author.write_many(count, size=size)
    assert give(tmp_path, mine).equal
    outcome = give(tmp_path, theirs)

    assert outcome.equal
    assert outcome.sent.payload_count == 40
    newcomer, _ = fetch(tmp_path)
    assert newcomer.roots() == theirs.own.roots()
    assert give(tmp_path, mine).equal
    assert mine.own.roots() == theirs.own.roots()


def test_logs_are_given_in_the_order_they_were_taken(tmp_path):
    """An inviter's log before those it invited, whoever wrote which."""
    authors = [small_author(name) for name in ("dan", "ana", "cat", "ben")]
    order = [author.log_id for author in authors]
    drive(station_with(*authors[:2]), FolderStation(tmp_path, SPACE))
    drive(station_with(*authors), FolderStation(tmp_path, SPACE))

    assert [log.log_id for log in FolderStation(tmp_path, SPACE).logs()] == order


def test_a_receipt_that_says_nothing_new_makes_no_file(tmp_path):
    ana = small_author()
    give(tmp_path, ana)
    before = items_in(tmp_path)
    for _ in range(3):
        ana.receipt()
        assert give(tmp_path, ana).equal

    assert items_in(tmp_path) == before


def test_the_newest_receipt_counts_and_an_older_one_changes_nothing(tmp_path):
    """T10."""
    ana = small_author()
    old = station_with(ana)
    ana.write(b"more")
    ana.seal()
    newest = ana.receipt()
    give(tmp_path, ana)

    drive(old, FolderStation(tmp_path, SPACE))

    assert FolderStation(tmp_path, SPACE).receipts() == [newest]
    assert old.receipts() == [newest]


def test_a_forged_receipt_in_the_folder_does_not_count(tmp_path):
    """T19."""
    ana = small_author()
    give(tmp_path, ana)
    path = item_of(tmp_path, "R")
    receipt = ana.own.newest[ana.log_id]
    forged = pack(item_format.ReceiptIndex(receipt.body, bytes(64)))
    path.with_name("00000001.R00").write_bytes(item_format.encode_item(item_format.RECEIPT, SPACE, ana.log_id, forged))

    station = FolderStation(tmp_path, SPACE)

    assert station.receipts() == [receipt]
    assert len(station.damaged) == 1


def test_a_payload_item_that_lies_about_what_it_holds_does_not_get_through(tmp_path):
    """T22: well hashed, and not what the headers commit to."""
    ana = Author("ana")
    ana.write(b"right")
    ana.seal()
    give(tmp_path, ana)
    path = item_of(tmp_path, "P")
    path.unlink()
    index = pack(
        item_format.PayloadsIndex(ana.own.held[ana.log_id].hashes[0], (TABLE,), (item_format.Entry(0, 0, 0, 1, 0, 5),))
    )
    lie = item_format.encode_item(item_format.PAYLOADS, SPACE, ana.log_id, index, b"wrong")
    path.write_bytes(lie)

    newcomer, station = fetch(tmp_path)

    assert newcomer.payload_gaps(stated(newcomer, ana.log_id)) == [range(1)]
    assert len(station.damaged) == 1
    give(tmp_path, ana)
    assert drive(newcomer, FolderStation(tmp_path, SPACE)).equal


@pytest.mark.parametrize(
    ("entries", "size"),
    [
        ([(0, 1, 0, 1, 0, 5)], 5),
        ([(0, 0, 0, 1, 0, 5)], 6),
        ([(0, 0, 1, 1, 0, 5)], 5),
        ([(0, 0, 0, 2, 0, 5)], 5),
        ([(0, 0, 0, 1, -1, 5)], 5),
        ([(-1, 0, 0, 1, 0, 5)], 5),
        ([(0, 0, 0, 1, 0, SLICE_SIZE + 1)], SLICE_SIZE + 1),
        ([(0, 0, 0, 1, 1 << 40, 5)], 5),
        ([(1 << 62, 0, 0, 1, 0, 5)], 5),
    ],
)
def test_an_impossible_index_is_listed(tmp_path, entries, size):
    """T2."""
    ana = small_author()
    give(tmp_path, ana)
    index = pack(item_format.PayloadsIndex(bytes(32), (TABLE,), tuple(item_format.Entry(*entry) for entry in entries)))
    data = item_format.encode_item(item_format.PAYLOADS, SPACE, ana.log_id, index, bytes(size))
    item_of(tmp_path, "P").with_name("00000009.P00").write_bytes(data)

    newcomer, station = fetch(tmp_path)

    assert len(station.damaged) == 1
    assert newcomer.roots() == ana.own.roots()


def test_a_foreign_arrival_that_breaks_a_rule_writes_nothing(tmp_path):
    ana = small_author()
    give(tmp_path, ana)
    before = items_in(tmp_path)
    station = FolderStation(tmp_path, SPACE)
    station.logs()
    broken = station_with(ana)
    broken.held[ana.log_id].parts[0, TABLE].slices[0] = b"x"

    for piece in [*broken.payloads(ana.log_id, 0, 1), *Author("ben").own.taken]:
        with pytest.raises(RefusedError):
            station.take(piece)
    station.settle()
    assert items_in(tmp_path) == before


def test_a_full_disk_is_one_sentence_and_nothing_half_written_counts(tmp_path, monkeypatch):
    """T51."""
    ana = small_author()
    write = os.write
    room = [700]

    def write_until_full(descriptor: int, data: bytes) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(descriptor, bytes(data)[: room[0]])
        room[0] -= count
        return count

    monkeypatch.setattr(items.os, "write", write_until_full)
    with pytest.raises(TransportError, match="cannot be written: No space left on device"):
        give(tmp_path, ana)
    monkeypatch.setattr(items.os, "write", write)

    assert items_in(tmp_path) == []
    assert give(tmp_path, ana).equal


def test_a_read_only_folder_is_one_sentence(tmp_path, monkeypatch):
    """T51."""

    def refuse(path: str, mode: int = 0o777) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(folder_module.os, "mkdir", refuse)

    with pytest.raises(TransportError, match="cannot be written: Read-only file system"):
        give(tmp_path, small_author())


def test_a_stick_pulled_out_while_reading_keeps_what_arrived(tmp_path, monkeypatch):
    ana, ben = small_author("ana"), small_author("ben")
    stick = tmp_path / "stick"
    stick.mkdir()
    give(stick, ana)
    newcomer = MemoryStation()
    payloads = FolderStation.payloads

    def pull_out(self: FolderStation, *span: object) -> Iterator[object]:
        shutil.rmtree(stick)
        yield from payloads(self, *span)

    monkeypatch.setattr(FolderStation, "payloads", pull_out)
    with pytest.raises(TransportError, match="cannot be read"):
        drive(newcomer, FolderStation(stick, SPACE))

    assert len(newcomer.held[ana.log_id].headers) == 4
    assert not stick.exists()
    assert ben.length == 4


def test_a_mount_point_left_behind_empty_is_not_written_to(tmp_path):
    """An unplugged stick leaves an empty folder, and a fresh copy of everything there would help nobody."""
    ana = small_author()
    give(tmp_path, ana)
    station = FolderStation(tmp_path, SPACE)
    station.logs()
    shutil.rmtree(next(tmp_path.iterdir()))

    with pytest.raises(TransportError, match="what was there is gone"):
        drive(ana.own, station)
    assert list(tmp_path.iterdir()) == []


def test_an_item_that_vanishes_counts_as_absent(tmp_path):
    ana = small_author()
    give(tmp_path, ana)
    station = FolderStation(tmp_path, SPACE)
    station.logs()
    item_of(tmp_path, "P").unlink()

    assert [log.payload_length for log in station.logs()] == [0]
    assert drive(ana.own, station).sent.payload_count == 4


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.booleans()), min_size=3, max_size=14))
def test_replicas_that_share_folders_in_any_order_end_equal(steps, tmp_path_factory):
    """T10: two sticks, three people, any order; afterwards everybody visits both sticks twice."""
    base = tmp_path_factory.mktemp("sticks")
    sticks = [base / "red", base / "blue"]
    for stick in sticks:
        stick.mkdir()
    authors = [Author(name) for name in ("ana", "ben", "cat")]
    for who, which, writes in steps:
        author = authors[who]
        if writes:
            author.write(row_bytes(who, author.length, 30))
            author.seal()
            author.receipt()
        give(sticks[which], author)
    for _ in range(2):
        for author in authors:
            for stick in sticks:
                give(stick, author)

    roots = {author.own.roots() for author in authors} | {FolderStation(stick, SPACE).roots() for stick in sticks}
    assert len(roots) == 1
