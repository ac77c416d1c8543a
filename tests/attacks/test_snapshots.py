"""Snapshots from whoever: rows that a certificate names, or none; and history has the last word (W21, T39)."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import apsw
import msgspec
import pytest
import zstandard

from klal.errors import IncompleteError, RefusedError, UsageError
from klal.file_station import FileStation
from klal.model.certificate import Certificate
from klal.model.codec import HASH_SIZE, SLICE_SIZE, pack, tree_leaf
from klal.model.payload import slices_of
from klal.model.snapshot import Head, Outline, decode_content, decode_outline, encode_content
from klal.sync.snapshot import Asker, Giver, fetch
from tests.helpers.fleet import BIRD, Fleet, certificates_of, rows_of

replace = msgspec.structs.replace
VISIT = "CREATE TABLE visit(day TEXT, site INTEGER, note TEXT, PRIMARY KEY(day, site))"
SQL = "SELECT id, mass FROM bird ORDER BY id"


@pytest.fixture
def fleet(tmp_path):
    """Two members, an epoch of two tables, closed, and work of after it; ana has made a snapshot."""
    with Fleet(tmp_path / "fleet") as made:
        made.found("ana", BIRD, VISIT)
        made.join("ben")
        made.gather()
        made["ana"].insert_many("bird", [(f"b{number:04d}", number, "n" * 80) for number in range(300)])
        made["ben"].execute("INSERT INTO visit VALUES('d1', 2, x'00')")
        made["ana"].execute("ALTER TABLE bird ADD COLUMN ring TEXT DEFAULT 'none'")
        made.close_epoch()
        made["ana"].execute("UPDATE bird SET mass = -1")
        made["ana"].snapshot.make()
        made.gather()
        made.join("dan")
        yield made


def station(fleet, name):
    return FileStation(fleet[name]._store)


class Shelf:
    """A station that gives what a test says, in the place of a file's."""

    name = "eve"

    def __init__(self, outline: Outline, content: bytes) -> None:
        self.outline = outline
        self.content = content

    def snapshot_outline(self) -> bytes:
        return pack(self.outline)

    def snapshot_slice(self, _root: bytes, index: int) -> bytes:
        return self.content[index * SLICE_SIZE : (index + 1) * SLICE_SIZE]


def honest(fleet) -> tuple[Outline, bytes]:
    source = station(fleet, "ana")
    outline = decode_outline(source.snapshot_outline(), fleet["ana"].space_id)
    return outline, b"".join(source.snapshot_slice(outline.root, at) for at in range(len(outline.leaves)))


def shelf(outline: Outline, content: bytes) -> Shelf:
    """Give content under an outline whose hashes are right."""
    leaves = tuple(tree_leaf(piece) for piece in slices_of(content))
    return Shelf(replace(outline, size=len(content), leaves=leaves), content)


def with_image(fleet, change) -> Shelf:
    """Give the honest snapshot with another image: `change` takes the plain one and returns another."""
    outline, content = honest(fleet)
    head, packed = decode_content(content)
    image = change(bytearray(zstandard.decompress(packed)))
    head = replace(head, image_size=len(image))
    return shelf(outline, encode_content(head, zstandard.compress(bytes(image))))


def sql_of(*statements: str):
    def change(image: bytearray) -> bytes:
        connection = apsw.Connection(":memory:")
        connection.deserialize("main", bytes(image))
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        connection.execute("PRAGMA writable_schema = on")
        birds = next(name for name in ("t0", "t1") if connection.execute(f"SELECT count(*) FROM {name}").get == 300)
        for sql in statements:
            connection.execute(sql.replace("birds", birds))
        data = connection.serialize("main")
        connection.close()
        return data

    return change


def nothing_is_left(fleet) -> bool:
    dan = fleet["dan"]
    count = dan._store.connection.execute("SELECT count(*) FROM klal_snapshot").get
    beside = list(dan.path.parent.glob(f"{dan.path.name}.snapshot*"))
    return dan.snapshot.get() is None and count == 0 and not beside


def test_a_newcomer_reads_the_rows_of_the_close_before_history_and_goes_on_without_them_after(fleet):
    """W21, W7, SNP-1 to SNP-6: a part and never whole meanwhile, and the tables show what history gives."""
    dan = fleet["dan"]
    assert fetch(station(fleet, "dan"), station(fleet, "ana")) == ""
    found = dan.snapshot.get()
    assert (found.epoch, found.state, found.giver, found.row_count) == (0, "certified", "ana", 301)
    assert found.certificate == certificates_of(fleet["ana"])[0].hash
    assert dan.snapshot.query(SQL)[:2] == [("b0000", 0), ("b0001", 1)]
    assert dan.snapshot.query("SELECT ring, count(*) FROM bird") == [("none", 300)]
    assert dan.snapshot.query("SELECT note FROM visit") == [(b"\0",)]
    assert dan.query("SELECT count(*) FROM bird") == [(0,)]
    status = dan.status()
    assert (status.state, status.standing) == ("behind", "part")
    assert "rows as of the close of epoch 0 can be read until history is here, as ana gave them" in status.warnings
    dan.verify()
    dan.execute("INSERT INTO bird(id, mass) VALUES('mine', 5)")  # It writes as any newcomer does.

    fleet.reopen("dan")
    assert fleet["dan"].snapshot.query("SELECT count(*) FROM bird") == [(300,)]
    fleet.meet("dan", "ana")
    assert nothing_is_left(fleet)
    assert fleet["dan"].query("SELECT count(*), sum(mass) FROM bird") == [(301, 5 - 300)]
    assert fleet["dan"].status().standing == "whole"
    assert not any("snapshot" in warning for warning in fleet["dan"].status().warnings)
    fleet["ana"].admit("dan")
    fleet.gather()
    assert rows_of(fleet["dan"]) == rows_of(fleet["ben"])
    with pytest.raises(IncompleteError, match="no snapshot"):
        fleet["dan"].snapshot.query(SQL)


def test_one_makes_it_and_it_is_not_made_again(fleet):
    """W22: who asks again is given the same, and the next close another."""
    first = honest(fleet)[0]
    assert fleet["ana"].snapshot.make().state == "made"
    assert honest(fleet)[0] == first

    fleet.destroy("dan")
    fleet.close_epoch()
    assert fleet["ana"].snapshot.make().epoch == 1
    assert honest(fleet)[0].epoch == 1
    fleet["ana"].snapshot.forget()
    assert fleet["ana"].snapshot.get() is None
    assert station(fleet, "ana").snapshot_outline() == b""


def test_a_cut_at_any_frame_costs_the_slices_under_way_and_no_more(fleet):
    """SNP-5, T39: what has come stays, across closing and opening, and the end is as if never cut."""
    taken, frames = 0, 0
    outline, content = honest(fleet)
    content += bytes(3 * SLICE_SIZE)  # What follows the image is not looked at before it is all here.
    giver = shelf(outline, content)
    while fleet["dan"].snapshot.get() is None or taken < len(giver.outline.leaves) - 1:
        asker = Asker(station(fleet, "dan"), "eve")
        answers = Giver(giver, fleet["dan"].space_id)
        want = asker.receive(next(answers.receive(asker.begin())))
        assert asker.receive(next(answers.receive(want))) in (b"", None)
        taken += 1
        frames += 2
        fleet.reopen("dan")
        assert fleet["dan"]._store.connection.execute("SELECT count(*) FROM klal_snapshot").get == taken

    assert fleet["dan"].status().warnings[-1] == "a snapshot of epoch 0 from eve is arriving"
    assert frames == 2 * taken


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(sql_of("UPDATE birds SET c1 = 7 WHERE c0 = 'b0042'"), id="another value"),
        pytest.param(sql_of("UPDATE birds SET c0 = 'b0042' WHERE rowid = 1"), id="a key twice"),
        pytest.param(sql_of("DELETE FROM birds WHERE rowid = 9"), id="a row less"),
        pytest.param(sql_of("INSERT INTO birds(rowid, c0) VALUES(-1, 'a')"), id="a row more"),
        pytest.param(sql_of("CREATE TABLE more(x)"), id="a table more"),
        pytest.param(sql_of("CREATE TRIGGER a AFTER INSERT ON t0 BEGIN SELECT 1; END"), id="a trigger"),
        pytest.param(sql_of("CREATE VIEW v AS SELECT load_extension('x')"), id="a view"),
        pytest.param(sql_of("CREATE INDEX i ON t0(c0)"), id="an index"),
        pytest.param(sql_of("UPDATE sqlite_schema SET rootpage = 2"), id="two tables on one page"),
        pytest.param(sql_of("UPDATE sqlite_schema SET sql = 'CREATE VIRTUAL TABLE t0 USING fts5(c0)'"), id="virtual"),
        pytest.param(sql_of("UPDATE sqlite_schema SET sql = replace(sql, 'c0', 'c9')"), id="other columns"),
        pytest.param(lambda image: image[:-4096], id="a page less"),
        pytest.param(lambda image: b"not a database, " + bytes(image[16:]), id="no database"),
        pytest.param(lambda image: image[:18] + b"\2\2" + image[20:], id="with a write-ahead log"),
        pytest.param(lambda image: image[:8192] + bytes(4096) + image[12288:], id="a page of nothing"),
        pytest.param(lambda image: image[:8192] + b"\xff" * 4096 + image[12288:], id="a page of ones"),
    ],
)
def test_no_image_but_the_certified_rows_is_ever_read(fleet, change):
    """T39, SNP-4: whatever lies in it, the giver is named, nothing of it is kept, and the session is not lost."""
    dan = fleet["dan"]
    refused = fetch(station(fleet, "dan"), with_image(fleet, change))

    assert refused
    assert nothing_is_left(fleet)
    assert any("eve gave a snapshot of epoch 0, and " in warning for warning in dan.status().warnings)
    assert fleet.meet("dan", "ana").equal
    assert dan.query("SELECT count(*) FROM bird") == [(300,)]
    dan.verify()


@pytest.mark.parametrize("at", [0, 2, 4000])
def test_no_flipped_bit_of_a_page_is_read(fleet, at):
    """T39: found by SQLite's own check, or by the root of the rows."""

    def change(image: bytearray) -> bytearray:
        for page in range(4096 + at, len(image), 4096):
            image[page] ^= 0x11
        return image

    assert fetch(station(fleet, "dan"), with_image(fleet, change))
    assert nothing_is_left(fleet)


def outlines(outline: Outline):
    yield replace(outline, version=2)
    yield replace(outline, space_id=bytes(32))
    yield replace(outline, epoch=-1)
    yield replace(outline, size=0, leaves=())
    yield replace(outline, size=outline.size + SLICE_SIZE)
    yield replace(outline, size=1 << 60, leaves=outline.leaves)
    yield replace(outline, certificate=b"")
    yield replace(outline, leaves=tuple(leaf[:-1] for leaf in outline.leaves))
    yield replace(outline, leaves=(bytes(HASH_SIZE),) * len(outline.leaves))


@pytest.mark.parametrize("number", range(9))
def test_an_outline_out_of_bounds_or_with_other_hashes_costs_nothing(fleet, number):
    """T39, SNP-1, SNP-2: refused before a byte of it is stored, or with the first slice."""
    outline, content = honest(fleet)
    bad = list(outlines(outline))[number]

    assert fetch(station(fleet, "dan"), Shelf(bad, content))
    assert fleet["dan"]._store.connection.execute("SELECT count(*) FROM klal_snapshot").get == 0
    # What was begun under a lying outline gives way to the next one.
    assert fetch(station(fleet, "dan"), station(fleet, "ana")) == ""
    assert fleet["dan"].snapshot.get().state == "certified"


def heads(head: Head, certificate: Certificate):
    body = certificate.body
    yield replace(head, certificate=b"x")
    yield replace(head, certificate=replace(certificate, body=replace(body, row_count=1)).encode())
    yield replace(head, certificate=replace(certificate, witness=()).encode())
    yield replace(head, schema=head.schema[:1])
    yield replace(head, schema=())
    yield replace(head, row_counts=head.row_counts[:1])
    yield replace(head, row_counts=(*head.row_counts, 0))
    yield replace(head, row_counts=(-1, *head.row_counts[1:]))
    yield replace(head, row_counts=tuple(1 << 60 for _ in head.row_counts))
    yield replace(head, image_size=head.image_size + 1)
    yield replace(head, image_size=1 << 62)


@pytest.mark.parametrize("number", range(11))
def test_a_head_that_says_other_things_is_refused(fleet, number):
    """SNP-3, T39: the certificate proves itself, and sizes and counts are bounds before anything is unpacked."""
    outline, content = honest(fleet)
    head, packed = decode_content(content)
    bad = list(heads(head, certificates_of(fleet["ana"])[0]))[number]

    assert fetch(station(fleet, "dan"), shelf(outline, encode_content(bad, bytes(packed))))
    assert nothing_is_left(fleet)


def test_a_snapshot_under_a_certificate_that_history_does_not_give_is_thrown_away_when_it_is_here(fleet, tmp_path):
    """SNP-6, W21: it says everything rightly of itself, of a history that ana's members never had."""
    with Fleet(tmp_path / "other") as forged:
        # The same keys in another place: ana and ben close an epoch that the others never see.
        forged.home, forged.worlds = fleet.home, fleet.worlds
        for name in ("ana", "ben"):
            copy = tmp_path / f"{name}.db"
            fleet[name].backup(copy)
            forged.open_at = copy
            forged._keep(name, forged.store(copy, name))
        forged.gather()
        for name in ("ana", "ben"):
            forged[name].execute("INSERT INTO bird(id, mass) VALUES(?, 1000000)", (f"forged by {name}",))
        forged.close_epoch()
        forged["ana"].snapshot.make()
        assert fetch(station(fleet, "dan"), station(forged, "ana")) == ""
    assert fleet["dan"].snapshot.query("SELECT count(*) FROM bird WHERE mass = 1000000") == [(2,)]
    assert fleet["dan"].snapshot.get().epoch == 1

    fleet.close_epoch()
    fleet.gather()
    assert nothing_is_left(fleet)
    assert any("under a certificate that history does not give" in each for each in fleet["dan"].status().warnings)
    assert fleet["dan"].query("SELECT count(*) FROM bird WHERE mass = 1000000") == [(0,)]
    fleet["dan"].verify()


def test_frames_that_break_the_order_are_refused(fleet):
    """SNP-5, SYN-1."""
    giver = Giver(station(fleet, "ana"), fleet["ana"].space_id)
    asker = Asker(station(fleet, "dan"), "ana")
    outline = next(giver.receive(asker.begin()))
    want = asker.receive(outline)
    piece = next(giver.receive(want))
    for frame in (b"", piece[:-1], outline, piece[:4] + b"\7" + piece[5:]):
        with pytest.raises(RefusedError):
            asker.receive(frame)
    for frame in (b"", want[:-1], outline, want[:5] + b"\x93" + want[6:-2] + b"\x00\x00"):
        with pytest.raises(RefusedError):
            list(giver.receive(frame))
    assert next(Giver(object(), fleet["ana"].space_id).receive(asker.begin())) != outline


def test_a_snapshot_is_asked_for_by_newcomers_alone(fleet):
    """SNP-5: whoever has work of others goes on from it, and makes none of a snapshot."""
    assert not station(fleet, "ben").wants_snapshot()
    fleet.meet("dan", "ben")
    assert not station(fleet, "dan").wants_snapshot()
    fleet.destroy("dan")
    fleet.join("dan again")
    fetch(station(fleet, "dan again"), station(fleet, "ana"))
    shelf = fleet["dan again"].snapshot
    with pytest.raises(UsageError, match="only be read"):
        shelf.query("DELETE FROM bird")
    with pytest.raises(UsageError, match="reads a snapshot itself"):
        shelf.make()
    with pytest.raises(UsageError):
        shelf.query("ATTACH '/etc/passwd' AS x")


def test_a_newcomer_killed_at_any_commit_goes_on_and_never_shows_other_rows(fleet):
    """W21, W3: what can be read is labelled for what it is, and the next meeting brings the rest."""
    ana, dan = fleet["ana"], fleet["dan"]
    source, path = ana.path, dan.path
    ana.close()
    dan.close()
    script = Path(__file__).parents[1] / "helpers" / "killed_newcomer.py"
    states = []
    for count in range(1, 20):
        command = [sys.executable, str(script), str(path), str(source), str(fleet.home.folder), str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        dan = fleet.open("dan", path)
        found = dan.snapshot.get()
        states.append(None if found is None else found.state)
        if found is not None and found.state != "arriving":
            assert dan.snapshot.query("SELECT count(*), min(mass) FROM bird") == [(300, 0)]
            assert dan.status().standing == "part"
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        ana = fleet.open("ana", source)
        assert fetch(station(fleet, "dan"), station(fleet, "ana")) == ""
        assert dan.snapshot.get().state == "certified"
        dan.snapshot.forget()
        dan.close()
        ana.close()

    assert done.stdout == ""
    assert list(dict.fromkeys(states)) == ["arriving", "unchecked", "certified"]
