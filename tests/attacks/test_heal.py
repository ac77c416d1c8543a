"""A damaged file is healed: what is good of its signed history stays, the rest is fetched, and the old file is kept."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing

import pytest

import klal
from klal.cli.app import run
from klal.errors import BusyError, DamagedError, ForeignWritesError, NotKlalError, ReadOnlyError
from klal.rules.merge import ChangeRef
from tests.helpers.fleet import answers_of

BIRD = "CREATE TABLE bird(id TEXT PRIMARY KEY, mass INTEGER, note TEXT)"


class Space:
    """Ana and ben, who closed an epoch and went on; ana's file is shut."""

    def __init__(self, folder):
        self.folder = folder
        self.home = folder / "home"
        self.path = folder / "ana.db"
        self.other = folder / "ben.db"
        with klal.create(self.path, space="s", member="ana", home=self.home) as ana:
            ana.execute(BIRD)
            ticket = ana.invite()
            with klal.join(self.other, ticket, member="ben", home=folder / "ben") as ben:
                ana.execute("INSERT INTO bird VALUES('both', 1, NULL), ('gone', 1, NULL)")
                self.meet(ana, ben)
                ana.execute("UPDATE bird SET mass = 2 WHERE id = 'both'")
                ben.execute("UPDATE bird SET mass = 3 WHERE id = 'both'")
                ben.execute("DELETE FROM bird WHERE id = 'gone'")
                ana.execute("INSERT INTO bird VALUES('big', 1, hex(randomblob(300000)))")
                self.meet(ana, ben)
                for replica in (ana, ben):
                    replica.finish()
                self.meet(ana, ben)
                ben.execute("INSERT INTO bird VALUES('after', 4, 'x')")
                self.meet(ana, ben)
                self.answers = answers_of(ana)
                ana.verify()

    def meet(self, ana, ben):
        # Through the folder: neither home has the other's key, and a file without its key only gives.
        shared = self.folder / "shared"
        shared.mkdir(exist_ok=True)
        for replica in (ana, ben, ana, ben):
            replica.sync(shared)

    def open(self):
        return klal.open(self.path, home=self.home)

    def heal(self, rows="ask"):
        return klal.heal(self.path, rows=rows, home=self.home)

    def mangle(self, *statements):
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            for statement in statements:
                connection.execute(statement)

    def fetch(self):
        """Sync with the other, and return whether everything is as it was."""
        with self.open() as ana, klal.open(self.other, home=self.folder / "ben") as ben:
            self.meet(ana, ben)
            ana.verify()
            return answers_of(ana) == answers_of(ben) == self.answers


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Space(tmp_path_factory.mktemp("heal"))


@pytest.fixture
def space(made, tmp_path):
    shutil.copytree(made.folder, tmp_path / "space")
    space = object.__new__(Space)
    space.__dict__.update(made.__dict__)
    space.folder = tmp_path / "space"
    space.home, space.path, space.other = (space.folder / name for name in ("home", "ana.db", "ben.db"))
    return space


DERIVED = (
    "DELETE FROM klal_past",
    "DELETE FROM klal_hash",
    "DELETE FROM klal_dead",
    "DELETE FROM klal_conflict",
    "DELETE FROM klal_epoch",
    "DELETE FROM klal_close",
    "DELETE FROM klal_member",
    "DELETE FROM klal_span",
    "DELETE FROM klal_log",
    "DELETE FROM klal_table",
    "DELETE FROM klal_meta",
    "DELETE FROM klal_meta WHERE name = 'genesis'",
    "UPDATE klal_meta SET value = zeroblob(32) WHERE name = 'space_id'",
    "UPDATE klal_log SET log_id = zeroblob(32) WHERE log = 2",
    "UPDATE klal_log SET member_id = zeroblob(32)",
    "UPDATE klal_log SET head_hash = zeroblob(32), length = 1, payload_length = 9, applied_length = 0",
    "UPDATE klal_change SET state = 0, order_stamp = 7",
    "UPDATE klal_epoch SET certificate = zeroblob(100)",
    "UPDATE klal_member SET name = 'other' WHERE ticket_id IS NOT NULL",
    "UPDATE sqlite_schema SET sql = 'CREATE TABLE klal_change(x)' WHERE name = 'klal_change'",
    "UPDATE sqlite_schema SET name = 'klam_change' WHERE name = 'klal_change'",
    "UPDATE sqlite_schema SET sql = CAST(x'ff' || sql AS TEXT) WHERE name = 'klal_seal'",
    "DROP TABLE klal_past",
    "DROP VIEW klal_conflicts",
)


@pytest.mark.parametrize("sql", DERIVED)
def test_what_follows_from_history_is_computed_again(space, sql):
    """T27 W13: nothing of it is asked of anybody, and every answer is as it was."""
    space.mangle(sql)
    healed = space.heal()

    assert healed.found
    assert healed.missing == ()
    assert healed.left == ()
    with space.open() as ana:
        ana.verify()
        assert answers_of(ana) == space.answers
    assert space.heal().found == ""
    assert space.fetch()


LOST = (
    ("UPDATE klal_change SET payload = zeroblob(length(payload)) WHERE lsn = 4", "payloads"),
    ("UPDATE klal_change SET payload = NULL WHERE lsn = 5", "headers"),
    ("UPDATE klal_slice SET data = zeroblob(length(data)) WHERE slice = 1", "payloads"),
    ("DELETE FROM klal_slice WHERE slice = 1", "payloads"),
    ("UPDATE klal_change SET header = zeroblob(length(header)) WHERE lsn = 4", "headers"),
    ("DELETE FROM klal_change WHERE lsn = 5", "headers"),
    ("DELETE FROM klal_change WHERE lsn > 3", "headers"),
    ("UPDATE klal_seal SET signature = zeroblob(64) WHERE log = 2 AND length > 1", "headers"),
    ("DELETE FROM klal_seal WHERE log = 2 AND length > 1", "headers"),
    ("UPDATE klal_change SET header = zeroblob(100) WHERE lsn = 1", "headers"),
    ("UPDATE klal_change SET payload = zeroblob(9) WHERE lsn = 1", "payloads"),
)


@pytest.mark.parametrize(("sql", "what"), LOST)
def test_what_is_not_good_is_said_and_fetched_again(space, sql, what):
    """T22 W3 W19: a file never counts what it has not, and whoever holds it brings all of it back."""
    space.mangle(sql)
    before = space.path.read_bytes()
    with pytest.raises(ForeignWritesError):
        space.heal()
    assert space.path.read_bytes() == before
    healed = space.heal(rows="undo")

    assert what in {missing.what for missing in healed.missing}
    with space.open() as ana:
        ana.verify()
        # COV-2: where no receipt says what was there, the headers that saw it do.
        assert not ana.coverage().is_whole
        assert ana.status().state in ("alone", "behind")
    assert space.fetch()


def test_the_old_file_is_kept_byte_for_byte_under_a_name_of_its_own(space):
    """T37: heal never writes over the only copy, nor over a copy it made before."""
    space.mangle("DELETE FROM klal_past")
    first = space.path.read_bytes()
    one = space.heal().kept
    space.mangle("DELETE FROM klal_hash")
    second = space.path.read_bytes()
    two = space.heal().kept

    assert [one.name, two.name] == ["ana.db.before-heal-1", "ana.db.before-heal-2"]
    assert one.read_bytes() == first
    assert two.read_bytes() == second
    assert sorted(path.name for path in space.folder.glob("ana.db*")) == ["ana.db", one.name, two.name]


def test_a_write_ahead_log_is_kept_with_the_old_file_and_not_with_the_new_one(space):
    """T37: what a killed writer had committed is in no other place."""
    with space.open() as ana:
        ana.execute("INSERT INTO bird VALUES('mine', 5, NULL)")
        ana._store.connection.execute("DELETE FROM klal_past")
        copies = [shutil.copy(f"{space.path}{suffix}", f"{space.path}{suffix}.copy") for suffix in ("", "-wal")]
    for copy in copies:
        shutil.move(copy, copy.removesuffix(".copy"))
    wal = space.path.with_name("ana.db-wal").read_bytes()
    kept = space.heal().kept

    assert wal
    assert kept.with_name(f"{kept.name}-wal").read_bytes() == wal
    assert not space.path.with_name("ana.db-wal").exists()
    with space.open() as ana:
        assert ana.query("SELECT mass FROM bird WHERE id = 'mine'") == [(5,)]


def test_a_whole_file_is_left_as_it_is(space):
    before = space.path.read_bytes()
    healed = space.heal()

    assert (healed.found, healed.kept) == ("", None)
    assert space.path.read_bytes() == before
    assert list(space.folder.glob("*before-heal*")) == []


def test_a_healed_file_goes_on_under_a_log_of_its_own(space):
    """LOG-6 T39: what the old log once held cannot be known, so none of its numbers is used again."""
    with space.open() as ana:
        before = ana.log_id
    space.mangle("DELETE FROM klal_change WHERE lsn = (SELECT max(lsn) FROM klal_change)")
    space.heal(rows="undo")
    with space.open() as ana:
        change = ana.execute("INSERT INTO bird VALUES('new', 1, NULL)").change
        assert change.log_id != before
    with space.open() as ana, klal.open(space.other, home=space.folder / "ben") as ben:
        space.meet(ana, ben)
        assert answers_of(ana) == answers_of(ben)
        assert ben._store.connection.execute("SELECT count(*) FROM klal_forks").get == 0


def unsealed(space):
    """Leave the file as a killed writer does, with changes under no seal."""
    with space.open() as ana:
        for number in range(3):
            ana.execute("INSERT INTO bird VALUES(?, ?, 'unsealed')", (f"new {number}", number))
        ana._store.release()


def test_what_was_written_and_never_sealed_is_kept(space):
    """S48: it links, and it is the work of whoever heals it."""
    unsealed(space)
    space.mangle("DELETE FROM klal_past")
    healed = space.heal()

    assert healed.missing == ()
    with space.open() as ana:
        assert ana.query("SELECT count(*) FROM bird WHERE note = 'unsealed'") == [(3,)]
        ana.verify()


def test_of_what_was_never_sealed_the_part_that_links_is_kept_and_the_rest_is_offered_as_rows(space):
    """T37: nobody else ever had it, so its rows are all that is left of it."""
    unsealed(space)
    last = "(SELECT max(lsn) FROM klal_change)"
    space.mangle(f"UPDATE klal_change SET header = zeroblob(length(header)) WHERE lsn = {last} - 1")
    healed = space.heal(rows="adopt")

    assert healed.row_count == 2
    with space.open() as ana:
        assert ana.query("SELECT count(*) FROM bird WHERE note = 'unsealed'") == [(3,)]
        assert ana.log(limit=1)[0].change == healed.change
        ana.verify()


def with_another_time(space, from_end):
    """Change the time in a header of ana's own log, which still reads: only the one after it can tell."""
    with space.open() as ana:
        own = ana._store.writer.own.log
        lsn = ana._store.history.lsn_of(ChangeRef(own.log, own.length - 1 - from_end))
        ana._store.release()
    time = "substr(header, 1, 16) || x'000000000001' || substr(header, 23)"
    space.mangle(f"UPDATE klal_change SET header = CAST({time} AS BLOB) WHERE lsn = {lsn}")


@pytest.mark.parametrize("from_end", [0, 1, 2])
def test_no_header_is_sealed_twice_with_two_contents(space, from_end):
    """LOG-4 T15: to seal a damaged header where another once stood sealed would fork the log."""
    with_another_time(space, from_end)
    space.heal(rows="undo")

    assert space.fetch()
    with klal.open(space.other, home=space.folder / "ben") as ben:
        assert ben._store.connection.execute("SELECT count(*) FROM klal_forks").get == 0


def test_a_damaged_header_does_not_become_history(space):
    """T22: where the chain breaks off, its last header is the one that may be wrong, and nothing vouches for it."""
    unsealed(space)
    with_another_time(space, 1)
    healed = space.heal(rows="adopt")

    assert healed.row_count == 2
    with space.open() as ana:
        assert min(entry.unix_ms for entry in ana.log()) > 1
        assert ana.query("SELECT count(*) FROM bird WHERE note = 'unsealed'") == [(3,)]


THREE = (
    "UPDATE bird SET mass = 99 WHERE id = 'both'",
    "DELETE FROM bird WHERE id = 'after'",
    "INSERT INTO bird VALUES('behind', 1, NULL)",
)


def test_rows_of_another_program_are_asked_for_and_adopted_or_left_behind(space):
    """T40: whether it is damage or somebody's work only a person can say."""
    space.mangle(*THREE, "CREATE TABLE notes(x)")
    with pytest.raises(ForeignWritesError, match="notes is not in history"):
        space.heal()
    assert list(space.folder.glob("*before-heal*")) == []
    healed = space.heal(rows="adopt")

    assert healed.row_count == 3
    assert healed.left == ("table notes is not in history",)
    with space.open() as ana:
        ana.verify()
        assert ana.foreign_writes() == []
        assert ana.query("SELECT id, mass FROM bird ORDER BY id") == [("behind", 1), ("big", 1), ("both", 99)]
    with closing(sqlite3.connect(healed.kept)) as connection:
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (0,)


def test_rows_left_behind_are_in_the_old_file_alone(space):
    """T40."""
    space.mangle(*THREE)
    healed = space.heal(rows="undo")

    assert healed.left == ("3 rows that history does not give",)
    with space.open() as ana:
        assert answers_of(ana) == space.answers
    with closing(sqlite3.connect(healed.kept)) as connection:
        assert connection.execute("SELECT mass FROM bird WHERE id = 'both'").fetchone() == (99,)


def test_an_open_replica_heals_itself_and_goes_on(space):
    with space.open() as ana:
        ana._store.connection.execute("DELETE FROM klal_past")
        healed = ana.heal()

        assert healed.found
        assert answers_of(ana) == space.answers
        ana.execute("INSERT INTO bird VALUES('new', 1, NULL)")
        ana.verify()


def test_a_replica_that_must_be_asked_stays_open_as_it_was(space):
    with space.open() as ana:
        ana._store.writer.capture.stop()
        ana._store.connection.execute("UPDATE bird SET mass = 99 WHERE id = 'both'")
        with pytest.raises(ForeignWritesError):
            ana.heal()
        assert ana.query("SELECT mass FROM bird WHERE id = 'both'") == [(99,)]
        assert [write.key for write in ana.foreign_writes()] == [("both",)]


def test_a_file_that_is_open_elsewhere_is_not_healed(space):
    space.mangle("DELETE FROM klal_past")
    with space.open() as ana:
        ana.query("SELECT * FROM bird")
        with pytest.raises(BusyError):
            space.heal()


def test_a_file_without_its_key_is_not_healed(space):
    space.mangle("DELETE FROM klal_past")
    with pytest.raises(ReadOnlyError):
        klal.heal(space.path, home=space.folder / "nowhere")
    assert list(space.folder.glob("*before-heal*")) == []


@pytest.mark.parametrize("data", [b"", b"Dear all", b"\0" * 100_000], ids=["empty", "text", "zeros"])
def test_what_is_no_klal_file_is_refused_and_left_alone(space, data):
    space.path.write_bytes(data)
    with pytest.raises((DamagedError, NotKlalError)):
        space.heal()
    assert space.path.read_bytes() == data
    assert list(space.folder.glob("*before-heal*")) == []


def test_another_database_is_refused(space):
    space.path.unlink()
    with closing(sqlite3.connect(space.path)) as connection:
        connection.execute("CREATE TABLE t(x)")
    with pytest.raises(DamagedError, match="cannot be read as a klal file"):
        space.heal()


@pytest.mark.parametrize("position", [0, 15, 16, 18, 21, 24, 28, 31, 56, 60, 68, 71])
def test_the_first_bytes_of_a_database_are_mended(space, position):
    """T22: SQLite opens nothing where one of them is wrong."""
    data = bytearray(space.path.read_bytes())
    data[position] ^= 0x10
    space.path.write_bytes(data)
    try:
        healed = space.heal()
    except klal.errors.NewerFormatError:
        assert position == 60  # It says that a newer klal wrote it.
        return

    if healed.found:
        assert healed.kept.read_bytes() == data
    with space.open() as ana:
        ana.verify()
        assert answers_of(ana) == space.answers


@pytest.mark.parametrize("part", range(1, 20))
def test_a_file_with_a_page_overwritten_comes_back_whole_or_says_that_the_key_is_enough(space, part):
    """T22: nothing that lies on it can be read, and SQLite trusts none of it; some pages name all the others."""
    data = bytearray(space.path.read_bytes())
    start = len(data) // 4096 * part // 20 * 4096
    data[start : start + 4096] = b"\xa5" * 4096
    space.path.write_bytes(data)
    healed, hint = None, ""
    try:
        healed = space.heal(rows="undo")
    except DamagedError as error:
        hint = error.hint

    if healed is None:
        assert "klal join" in hint
        assert space.path.read_bytes() == data
    else:
        assert not healed.found or healed.kept.read_bytes() == data
        assert space.fetch()


@pytest.mark.parametrize("denominator", [2, 3, 10])
def test_a_file_cut_short_comes_back_whole_or_says_that_the_key_is_enough(space, denominator):
    """T22 T51: half a copy."""
    data = space.path.read_bytes()
    space.path.write_bytes(data[: len(data) * (denominator - 1) // denominator])
    hint = ""
    try:
        space.heal(rows="undo")
    except DamagedError as error:
        hint = error.hint

    assert "klal join" in hint or space.fetch()


def test_the_command_says_what_was_wrong_and_what_was_done(space, monkeypatch, capsys):
    monkeypatch.setenv("KLAL_HOME", str(space.home))
    space.mangle("UPDATE klal_change SET payload = NULL WHERE lsn = 5")
    assert run(["heal", str(space.path)]) == 1
    assert "--adopt" in capsys.readouterr().err
    assert run(["heal", str(space.path), "--adopt", "--undo"]) == 2
    capsys.readouterr()
    assert run(["heal", str(space.path), "--undo"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "PAY-6" not in said
    assert "is not what its header names" in said
    assert "klal sync brings what was not good" in said
    assert run(["heal", str(space.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["found"] == ""
