"""Another program writes to the tables, past klal: found row by row, never spread, never lost (T40).

While klal has the file open the other program is another process, as SQLite's locks demand.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import klal
from klal.cli.app import run
from klal.errors import ForeignWritesError, UsageError
from klal.store.file import is_as_left, mark_left

BIRD = "CREATE TABLE bird(id TEXT PRIMARY KEY, mass INTEGER NOT NULL DEFAULT 0, note TEXT)"
_OTHER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement)
connection.close()
"""


class Space:
    """Ana's file with three birds, and Ben's, who has them too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "ana.db"
        self.home = folder / "home"
        with klal.create(self.path, space="s", member="ana", home=self.home) as ana:
            ana.execute(BIRD)
            ana.insert_many("bird", [("a", 1, "one"), ("b", 2, "two"), ("c", 3, "three")])
            ticket = ana.invite()
        self.ben = klal.join(folder / "ben.db", ticket, member="ben", home=folder / "ben")
        self.shared = folder / "shared"
        self.shared.mkdir()
        with self.open() as ana:
            for replica in (self.ben, ana, self.ben, ana):
                replica.sync(self.shared)

    def open(self):
        return klal.open(self.path, home=self.home)

    def behind(self, *statements):
        """Write as another program does."""
        subprocess.run([sys.executable, "-c", _OTHER, str(self.path), *statements], check=True)

    def rows(self):
        return self.ben.query("SELECT id, mass, note FROM bird ORDER BY id")


@pytest.fixture
def space(tmp_path):
    made = Space(tmp_path)
    yield made
    made.ben.close()


HONEST = [("a", 1, "one"), ("b", 2, "two"), ("c", 3, "three")]
THREE = (
    "UPDATE bird SET mass = 99 WHERE id = 'a'",
    "DELETE FROM bird WHERE id = 'b'",
    "INSERT INTO bird VALUES ('d', 4, 'four')",
)


def briefly(writes):
    return [(write.kind, write.table, write.key, write.before, write.after) for write in writes]


FOUND = [
    ("updated", "bird", ("a",), {"mass": 1}, {"mass": 99}),
    ("deleted", "bird", ("b",), {"id": "b", "mass": 2, "note": "two"}, None),
    ("inserted", "bird", ("d",), None, {"id": "d", "mass": 4, "note": "four"}),
]


def warned(replica):
    return [warning for warning in replica.status().warnings if "another program" in warning]


def test_what_was_written_to_the_closed_file_is_listed_row_by_row(space):
    """T40."""
    space.behind(*THREE)
    with space.open() as ana:
        before = warned(ana)
        found = ana.foreign_writes()
        after = warned(ana)

    assert before == ["unchecked: another program may have written to this file since klal last looked"]
    assert briefly(found) == FOUND
    assert after == ["another program wrote to ana.db: 3 rows"]
    assert {write.obstacle for write in found} == {""}


def test_what_was_written_while_klal_has_the_file_open_is_found_too(space):
    """T40."""
    with space.open() as ana:
        ana.execute("INSERT INTO bird VALUES ('mine', 5, '')")
        space.behind(*THREE)

        assert warned(ana) == ["unchecked: another program may have written to this file since klal last looked"]
        assert briefly(ana.foreign_writes()) == FOUND
        with pytest.raises(ForeignWritesError):
            ana.sync(space.folder / "ben.db")


def test_adopted_rows_are_one_change_that_merges_as_any_other(space):
    """T40."""
    space.behind(*THREE)
    with space.open() as ana:
        result = ana.adopt()

        assert result.row_count == 3
        assert result.change == ana.log(limit=1)[0].change
        assert ana.log(limit=1)[0].tables == {"bird": 3}
        assert ana.foreign_writes() == []
        assert warned(ana) == []
        ana.verify()
        ana.sync(space.shared)
    space.ben.sync(space.shared)

    assert space.rows() == [("a", 99, "one"), ("c", 3, "three"), ("d", 4, "four")]
    space.ben.verify()


def test_undone_rows_are_as_history_says_and_in_no_change(space):
    """T40."""
    space.behind(*THREE)
    with space.open() as ana:
        before = ana.log()
        result = ana.undo()

        assert (result.row_count, result.change) == (3, None)
        assert ana.query("SELECT * FROM bird ORDER BY id") == HONEST
        assert ana.log() == before
        assert ana.foreign_writes() == []
        ana.verify()


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        lambda ana, space: ana.sync(space.folder / "ben.db"),
        lambda ana, space: ana.sync(space.shared),
        lambda ana, space: ana.finish(),
        lambda ana, space: ana.close_epoch(),
    ],
    ids=["sync with a file", "sync with a folder", "finish", "close_epoch"],
)
def test_nothing_is_synced_finished_or_closed_over_foreign_rows(space, call, is_open):
    """T40: a merge would write over them, and a certificate would name them."""
    ana = space.open()
    ana.execute("UPDATE bird SET note = 'third' WHERE id = 'c'")
    if not is_open:
        ana.close()
    space.behind(*THREE)
    with ana if is_open else space.open() as ana:
        before = ana.status().root
        with pytest.raises(ForeignWritesError, match="3 rows"):
            call(ana, space)

        assert ana.status().root == before
        assert briefly(ana.foreign_writes()) == FOUND


def test_a_file_with_foreign_rows_takes_nothing_from_whoever_syncs_with_it(space):
    """T40: as the other side of a session too."""
    space.ben.close()
    shutil.copytree(space.folder / "ben", space.home, dirs_exist_ok=True)
    space.behind(*THREE)
    with klal.open(space.folder / "ben.db", home=space.home, member="ben") as ben:
        ben.execute("UPDATE bird SET mass = 50 WHERE id = 'a'")
        with pytest.raises(ForeignWritesError, match=r"ana\.db"):
            ben.sync(space.path)
    with klal.open(space.path, home=space.home, member="ana") as ana:
        assert briefly(ana.foreign_writes()) == FOUND


@pytest.mark.parametrize("is_open", [False, True])
def test_a_local_write_over_a_foreign_row_is_refused_and_any_other_is_not(space, is_open):
    """T40: otherwise the row would be in history as if klal had written all of it."""
    ana = space.open()
    if is_open:
        ana.execute("UPDATE bird SET note = 'first' WHERE id = 'c'")
    else:
        ana.close()
    space.behind(*THREE)
    if not is_open:
        ana = space.open()
    with ana:
        for sql in (
            "UPDATE bird SET mass = mass + 1 WHERE id = 'a'",
            "UPDATE bird SET note = 'x'",
            "INSERT INTO bird VALUES ('b', 7, '')",
            "DELETE FROM bird WHERE id = 'd'",
            "INSERT OR REPLACE INTO bird VALUES ('d', 7, '')",
        ):
            with pytest.raises(ForeignWritesError, match="was written by another program"):
                ana.execute(sql)
            with pytest.raises(ForeignWritesError), ana.transaction():
                ana.execute(sql)
        with pytest.raises(ForeignWritesError):
            ana.insert_many("bird", [("b", 7, "")])
        ana.execute("UPDATE bird SET note = 'mine' WHERE id = 'c'")

        assert briefly(ana.foreign_writes()) == FOUND
        ana.adopt()
        ana.verify()


def test_klals_own_writes_are_not_taken_for_anothers(space):
    """Clean closes, rollbacks, reads and a second klal on the file leave nothing to decide on."""
    with space.open() as ana:
        ana.execute("UPDATE bird SET mass = 5 WHERE id = 'a'")
        with pytest.raises(UsageError):
            ana.execute("INSERT INTO bird VALUES ('a', 1, '')")
        ana.execute("BEGIN")
        ana.execute("DELETE FROM bird")
        ana.execute("ROLLBACK")
        for _ in range(200):
            ana.execute("UPDATE bird SET mass = mass + 1")

        assert ana._store.behind.is_known
    for _ in range(3):
        with space.open() as ana:
            assert ana._store.behind.is_known
            ana.query("SELECT * FROM bird")
    with space.open() as ana:
        ana.finish()
        assert ana._store.behind.is_known
        assert warned(ana) == []


def test_two_klals_on_one_file_write_in_turn_without_looking_and_sync_after_looking(space):
    """Whether a third program wrote in between cannot be told, so a sync looks first and a write does not."""
    with space.open() as ana, space.open() as too:
        too.execute("UPDATE bird SET mass = 8 WHERE id = 'a'")
        for number in range(5):
            for replica in (ana, too):
                replica.execute("UPDATE bird SET mass = ? WHERE id = 'b'", (number,))
                assert not replica._store.behind.is_suspect

        assert warned(ana) == ["unchecked: another program may have written to this file since klal last looked"]
        ana.sync(space.shared)
        assert warned(ana) == []
        space.behind("UPDATE bird SET mass = 99 WHERE id = 'c'")
        too.execute("UPDATE bird SET mass = 7 WHERE id = 'b'")
        with pytest.raises(ForeignWritesError, match="1 row"):
            ana.sync(space.shared)


_KILLED = """
import os, signal, sys
import klal
ana = klal.open(sys.argv[1], home=sys.argv[2])
ana.execute("UPDATE bird SET mass = 7 WHERE id = 'a'")
ana.execute("BEGIN")
ana.execute("UPDATE bird SET mass = 8")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_nothing_to_decide_on(space):
    """T40 S48: the file is unchecked, the look finds nothing, and after a clean close it is known again."""
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(space.path), str(space.home)], check=False)
    with space.open() as ana:
        before = warned(ana)
        ana.execute("UPDATE bird SET mass = 9 WHERE id = 'b'")

        assert killed.returncode == -signal.SIGKILL
        assert before
        assert warned(ana) == []
        assert ana.foreign_writes() == []
    with space.open() as ana:
        assert ana._store.behind.is_known


def test_rows_written_after_a_kill_are_found(space):
    """T40: the write-ahead log that the killed writer left says nothing of who wrote since."""
    subprocess.run([sys.executable, "-c", _KILLED, str(space.path), str(space.home)], check=False)
    space.behind("UPDATE bird SET mass = 99 WHERE id = 'a'")
    with space.open() as ana:
        assert briefly(ana.foreign_writes()) == [("updated", "bird", ("a",), {"mass": 7}, {"mass": 99})]


def test_a_write_in_the_same_tick_of_the_clock_as_the_close_shows(tmp_path):
    """T40: kernels stamp files with a clock that ticks every few milliseconds, so both would bear one time."""
    path = tmp_path / "file"
    path.write_bytes(b"as klal wrote it")
    tick_ns = path.stat().st_mtime_ns
    left = mark_left(path)

    assert is_as_left(path, left)
    path.write_bytes(b"as another wrote")
    os.utime(path, ns=(tick_ns, tick_ns))
    assert not is_as_left(path, left)


def test_a_write_that_is_still_in_the_write_ahead_log_shows(space):
    """T40: the other program was killed, so its rows are in no file whose time could tell."""
    script = _OTHER.replace("connection.close()", "import os; os.kill(os.getpid(), 9)")
    subprocess.run([sys.executable, "-c", script, str(space.path), THREE[0]], check=False)
    with space.open() as ana:
        assert warned(ana)
        assert briefly(ana.foreign_writes()) == FOUND[:1]


def test_a_file_that_is_open_elsewhere_at_the_close_is_not_called_unwritten(space):
    """T40: the other's writes may reach the file before and after, and no time tells."""
    script = _OTHER.replace(
        "for statement", "connection.execute(sys.argv.pop(2)).fetchall()\nprint(flush=True)\ninput()\nfor statement"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", script, str(space.path), "SELECT * FROM bird", THREE[0]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    reader.stdout.readline()
    with space.open() as ana:
        ana.execute("UPDATE bird SET note = 'x' WHERE id = 'c'")
    fences = [json.loads(path.read_text()) for path in space.home.glob("*/*.fence")]
    reader.communicate("\n")

    assert [fence["left"] for fence in fences] == [None]
    with space.open() as ana:
        assert briefly(ana.foreign_writes()) == FOUND[:1]


ODD = {
    "a NULL key": ("INSERT INTO bird VALUES (NULL, 1, '')", "column id of table bird is NULL"),
    "another NULL key": ("INSERT INTO bird VALUES (NULL, 2, 'x')", "column id of table bird is NULL"),
    "broken text": ("INSERT INTO bird VALUES ('e', 1, CAST(x'ff' AS TEXT))", "is not valid UTF-8"),
    "a broken key": ("INSERT INTO bird VALUES (CAST(x'ff41' AS TEXT), 1, '')", "is not valid UTF-8"),
    "broken text in an honest row": (
        "UPDATE bird SET note = CAST(x'fe' AS TEXT) WHERE id = 'b'",
        "column note of table bird holds text that is not valid UTF-8",
    ),
}


@pytest.mark.parametrize(("sql", "sentence"), ODD.values(), ids=ODD)
def test_rows_that_cannot_travel_say_so_and_can_be_undone(space, sql, sentence):
    """T40 T42."""
    space.behind(sql, THREE[0])
    with space.open() as ana:
        result = ana.adopt()
        left = ana.foreign_writes()

        assert result.row_count == 1
        assert len(left) == 1
        assert sentence in left[0].obstacle
        with pytest.raises(ForeignWritesError):
            ana.finish()
        assert ana.undo().row_count == 1
        assert ana.foreign_writes() == []
        assert ana.query("SELECT * FROM bird ORDER BY id") == [("a", 99, "one"), *HONEST[1:]]
        ana.verify()


SCHEMA = {
    "index": ("CREATE UNIQUE INDEX by_mass ON bird(mass)", "index by_mass was made by another program on bird", True),
    "trigger": ("CREATE TRIGGER r AFTER INSERT ON bird BEGIN SELECT 1; END", "trigger r was made", True),
    "view": ("CREATE VIEW heavy AS SELECT 1", "view heavy was made by another program", True),
    "table": ("CREATE TABLE notes(x)", "table notes was made by another program", False),
    "column": ("ALTER TABLE bird ADD COLUMN extra", "column extra of table bird was added", False),
    "dropped view": ("DROP VIEW klal_members", "view klal_members was dropped by another program", False),
    "klal's own": ("DELETE FROM klal_past", "klal_past, a table of klal's own", False),
    "klal's own rows": (
        "INSERT INTO klal_life VALUES (1, x'91a161', 7, 1, 0)",
        "klal_life, a table of klal's own",
        False,
    ),
}


@pytest.mark.parametrize(("sql", "sentence", "is_undone"), SCHEMA.values(), ids=SCHEMA)
def test_what_others_made_or_altered_is_named_and_never_adopted(space, sql, sentence, is_undone):
    """T40 T41: a UNIQUE index of another program's would make honest changes void on this replica alone."""
    space.behind(sql)
    with space.open() as ana:
        found = ana.foreign_writes()

        assert [write.kind for write in found] == ["schema"]
        assert sentence in found[0].obstacle
        assert ana.adopt().row_count == 0
        with pytest.raises(ForeignWritesError, match="1 object of the schema"):
            ana.finish()
        ana.undo()
        assert (ana.foreign_writes() == []) == is_undone


def test_a_file_without_its_key_can_be_looked_at_and_not_changed(space):
    space.behind(*THREE)
    with klal.open(space.path, home=space.folder / "nobody") as reader:
        assert warned(reader) == []
        assert briefly(reader.foreign_writes()) == FOUND
        with pytest.raises(klal.errors.ReadOnlyError):
            reader.adopt()


def test_a_copy_and_a_restored_backup_are_looked_at_once(space):
    """T40 T50: their time is another, or that of the original which they are byte for byte."""
    backup = space.folder / "backup.db"
    with space.open() as ana:
        ana.backup(backup)
    space.path.unlink()
    shutil.move(backup, space.path)
    space.behind(THREE[0])
    with space.open() as ana:
        assert briefly(ana.foreign_writes()) == FOUND[:1]


def test_the_command_lists_adopts_and_undoes(space, capsys, monkeypatch):
    """T40."""
    monkeypatch.setenv("KLAL_HOME", str(space.home))
    space.behind(*THREE, ODD["a NULL key"][0])
    assert run(["behind", str(space.path), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert run(["behind", str(space.path)]) == 0
    shown = capsys.readouterr().out
    assert run(["finish", str(space.path), "--json"]) == 1
    refused = json.loads(capsys.readouterr().out)
    assert run(["behind", str(space.path), "--adopt", "--undo"]) == 2
    capsys.readouterr()
    assert run(["behind", str(space.path), "--adopt", "--json"]) == 0
    adopted = json.loads(capsys.readouterr().out)
    assert run(["behind", str(space.path), "--undo"]) == 0
    undone = capsys.readouterr().out
    assert run(["behind", str(space.path)]) == 0

    assert [write["kind"] for write in listed] == ["inserted", "updated", "deleted", "inserted"]
    assert listed[1] == {
        "kind": "updated",
        "table": "bird",
        "key": ["a"],
        "before": {"mass": 1},
        "after": {"mass": 99},
        "obstacle": "",
    }
    assert "not adoptable: column id of table bird is NULL" in shown
    assert refused["error"] == "foreign-writes"
    assert "klal behind" in refused["hint"]
    assert adopted["row_count"] == 3
    assert len(adopted["left"]) == 1
    assert "1 row put back" in undone
    assert "the tables are what history says" in capsys.readouterr().out


def test_opening_looks_at_nothing_but_time_and_size(space):
    """A file whose time and size are as it was left opens without reading history; what hides there, verify finds."""
    stat = space.path.stat()
    space.behind(THREE[0])
    os.utime(space.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with space.open() as ana:
        assert ana._store.behind.is_known
        with pytest.raises(klal.errors.LinkError, match="not those that history gives"):
            ana.verify()
        assert briefly(ana.foreign_writes()) == FOUND[:1]
