"""Files, folders and tickets that are not what they should be: one sentence, an error of klal's, nothing changed."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

import klal
from klal.errors import (
    BusyError,
    DamagedError,
    KlalError,
    NewerFormatError,
    NotKlalError,
    RefusedError,
    StoreError,
    TransportError,
    UsageError,
)


def said(error):
    """Return an error's message if it is one sentence without advice or a traceback."""
    message = str(error.value)
    assert message
    assert "\n" not in message
    assert "Traceback" not in message
    return message


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A closed file with some history, and its home."""
    folder = tmp_path_factory.mktemp("original")
    with klal.create(folder / "ana.db", space="s", member="ana", home=folder / "home") as ana:
        ana.execute("CREATE TABLE t(k TEXT PRIMARY KEY, v)")
        ana.insert_many("t", [(f"k{number}", "x" * 20) for number in range(200)])
        ana.execute("UPDATE t SET v = 1 WHERE k < 'k15'")
        ana.execute("DELETE FROM t WHERE k > 'k95'")
        ana.execute("ALTER TABLE t ADD COLUMN w REAL DEFAULT 3")
        ticket = ana.invite()
        with klal.join(folder / "ben.db", ticket, member="ben", home=folder / "ben") as ben:
            ben.execute("INSERT INTO t(k) VALUES ('ben')")
            ben.sync(folder / "ana.db")
        ana.sync(folder / "ben.db")
        ana.finish()
    return folder


@pytest.fixture
def ana(original, tmp_path):
    """The path of a fresh copy, with its home beside it."""
    shutil.copy(original / "ana.db", tmp_path / "ana.db")
    shutil.copytree(original / "home", tmp_path / "home")
    return tmp_path / "ana.db"


def opened(path):
    return klal.open(path, home=path.parent / "home")


# -- files that are something else -------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"", b"S", b"SQLite format 3", b"SQLite format 3\0", b"\0" * 4096, b"%PDF-1.7", b"a,b\n1,2\n", os.urandom(9000)],
)
def test_what_is_no_database_is_not_klal(tmp_path, data):
    """T1."""
    path = tmp_path / "other"
    path.write_bytes(data)
    with pytest.raises(StoreError) as error:
        opened(path)

    assert isinstance(error.value, NotKlalError | DamagedError)
    assert str(path) in said(error)
    assert path.read_bytes() == data


def test_a_database_of_somebody_else_is_not_klal_and_is_left_as_it_was(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t(k)")
    other.close()
    data = path.read_bytes()
    with pytest.raises(NotKlalError) as error:
        opened(path)

    assert "not a klal file" in said(error)
    assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_a_database_that_only_says_it_is_klal_is_refused(tmp_path):
    """T39."""
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA application_id = {0x6B6C616C}")
        other.execute("PRAGMA user_version = 1")
        other.execute("CREATE TABLE klal_meta(name TEXT PRIMARY KEY, value)")
    other.close()
    with pytest.raises(KlalError) as error:
        opened(path)

    said(error)


@pytest.mark.parametrize("version", [2, 99, 2**31 - 1])
def test_a_newer_format_is_left_alone(ana, version):
    with sqlite3.connect(ana) as other:
        other.execute(f"PRAGMA user_version = {version}")
    other.close()
    data = ana.read_bytes()
    with pytest.raises(NewerFormatError) as error:
        opened(ana)

    assert str(version) in said(error)
    assert ana.read_bytes() == data


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere"), os.mkfifo, lambda path: None])
def test_what_is_no_file_is_refused(tmp_path, make):
    make(tmp_path / "it")
    with pytest.raises(UsageError) as error:
        opened(tmp_path / "it")

    said(error)


@pytest.mark.parametrize("taken", [b"", b"something"])
def test_a_new_file_never_replaces_one_that_is_there(original, tmp_path, taken):
    """T37."""
    path = tmp_path / "taken"
    path.write_bytes(taken)
    with opened(original / "ana.db") as ana:
        ticket = ana.invite()
        for write in (
            lambda: klal.create(path, space="s", member="ana", home=tmp_path / "home"),
            lambda: klal.join(path, ticket, member="ben", home=tmp_path / "home"),
            lambda: ana.backup(path),
        ):
            with pytest.raises(UsageError) as error:
                write()
            assert "exists" in said(error)
            assert path.read_bytes() == taken


def test_a_backup_that_cannot_be_finished_leaves_nothing(ana, tmp_path):
    """T37."""
    with opened(ana) as replica, pytest.raises(KlalError):
        replica.backup(tmp_path / "nowhere" / "backup.db")

    assert not (tmp_path / "nowhere").exists()


# -- damage ------------------------------------------------------------------------------


def judge(path, rows, log):
    """Open a damaged file: an error in a sentence, or verify finds it, or all of its content is what it was."""
    try:
        with opened(path) as replica:
            replica.verify()
            assert replica.query("SELECT * FROM t ORDER BY k") == rows
            # Whether a change is held by others too depends on who asks; a file whose member is harmed is nobody's.
            apart = [replace(entry, state="") if replica.read_only else entry for entry in replica.log()]
            assert apart == [replace(entry, state="") if replica.read_only else entry for entry in log]
            return "unharmed"
    except KlalError as error:
        message = str(error)
        outcome = "found" if isinstance(error, RefusedError) else "refused"
    assert message
    assert "\n" not in message
    return outcome


@pytest.fixture(scope="module")
def content(original):
    with opened(original / "ana.db") as replica:
        return replica.query("SELECT * FROM t ORDER BY k"), replica.log()


def test_a_truncated_file_is_never_taken_for_whole(original, content, tmp_path):
    """T1 S48."""
    shutil.copytree(original / "home", tmp_path / "home")
    data = (original / "ana.db").read_bytes()
    dice = random.Random(1)
    lengths = [*range(0, len(data), 4096), *(dice.randrange(len(data)) for _ in range(20)), 99, 100, 101, len(data) - 1]
    for length in lengths:
        path = tmp_path / f"cut{length}.db"
        path.write_bytes(data[:length])

        outcome = judge(path, *content)
        # What is cut off of the end may be pages that nothing uses.
        assert outcome != "unharmed" or length > len(data) * 3 // 4, length


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_is_refused_or_found_or_without_effect(original, content, tmp_path, seed):
    """T1 W13: over the whole file, its free pages and unused bytes included."""
    shutil.copytree(original / "home", tmp_path / "home")
    data = (original / "ana.db").read_bytes()
    dice = random.Random(seed)
    outcomes = []
    for number in range(30):
        harmed = bytearray(data)
        place = dice.randrange(120) if number % 10 == 0 else dice.randrange(len(data))
        harmed[place] ^= 1 << dice.randrange(8)
        path = tmp_path / "harmed.db"
        path.write_bytes(harmed)
        outcomes.append(judge(path, *content))
        for left in tmp_path.glob("harmed.db*"):
            left.unlink()

    assert set(outcomes) > {"unharmed"}, "no flip did anything: nothing was tested"


def test_a_page_of_noise_is_refused_or_found(original, content, tmp_path):
    shutil.copytree(original / "home", tmp_path / "home")
    data = (original / "ana.db").read_bytes()
    for page in range(len(data) // 4096):
        path = tmp_path / f"noise{page}.db"
        path.write_bytes(data[: page * 4096] + random.Random(page).randbytes(4096) + data[(page + 1) * 4096 :])

        judge(path, *content)


# What a flip of one row of klal's own can do, without SQLite noticing.
TAMPERINGS = [
    "UPDATE t SET v = 2 WHERE k = 'k2'",
    "UPDATE t SET v = 1.0 WHERE k = 'k1'",
    "UPDATE t SET v = CAST(x'ff' AS TEXT) WHERE k = 'k2'",
    "DELETE FROM t WHERE k = 'k2'",
    "INSERT INTO t(k) VALUES ('smuggled')",
    "DROP TABLE t",
    "ALTER TABLE t DROP COLUMN w",
    "UPDATE klal_change SET payload = zeroblob(length(payload)) WHERE lsn = 3",
    "UPDATE klal_change SET payload = NULL WHERE lsn = 3",
    "UPDATE klal_change SET header = zeroblob(length(header)) WHERE lsn = 3",
    "UPDATE klal_change SET header = 'text' WHERE lsn = 3",
    "UPDATE klal_change SET state = 3 WHERE lsn = 3",
    "UPDATE klal_change SET state = 0 WHERE lsn = 3",
    "DELETE FROM klal_change WHERE lsn = 3",
    "DELETE FROM klal_change WHERE lsn = (SELECT max(lsn) FROM klal_change)",
    "DELETE FROM klal_span",
    "UPDATE klal_span SET seq = seq + 1",
    "UPDATE klal_log SET length = length + 1",
    "UPDATE klal_log SET length = length - 1",
    "UPDATE klal_log SET length = 'many'",
    "UPDATE klal_log SET applied_length = applied_length - 1",
    "UPDATE klal_log SET payload_length = payload_length + 1",
    "UPDATE klal_log SET head_hash = zeroblob(32)",
    "UPDATE klal_log SET member_id = zeroblob(32)",
    "UPDATE klal_log SET log_id = zeroblob(32) WHERE log = 1",
    "DELETE FROM klal_log",
    "UPDATE klal_seal SET signature = zeroblob(64)",
    "UPDATE klal_seal SET length = length + 1000",
    "DELETE FROM klal_seal",
    "UPDATE klal_receipt SET body = zeroblob(length(body))",
    "UPDATE klal_receipt SET signature = zeroblob(64)",
    "DELETE FROM klal_meta WHERE name = 'space_id'",
    "DELETE FROM klal_meta WHERE name = 'genesis'",
    "UPDATE klal_meta SET value = zeroblob(32) WHERE name = 'space_id'",
    "UPDATE klal_meta SET value = x'c1' WHERE name = 'genesis'",
    "UPDATE klal_meta SET value = 99 WHERE name = 'own_log'",
    "UPDATE klal_meta SET value = 'x' WHERE name = 'own_log'",
    "DELETE FROM klal_hash",
    "DELETE FROM klal_past",
    "DELETE FROM klal_dead",
    "UPDATE klal_dead SET life = life + 1",
    "UPDATE klal_dead SET image = x'c1'",
    "DELETE FROM klal_table",
    "UPDATE klal_table SET name = 'u'",
    "UPDATE klal_table SET definition = x'c1'",
    "DELETE FROM klal_column",
    "DELETE FROM klal_member",
    "UPDATE klal_member SET name = 'eve' WHERE name = 'ben'",
    "DELETE FROM klal_close",
    "DROP TABLE klal_past",
    "DROP TABLE klal_log",
    "DROP VIEW klal_changes",
    "CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM t; END",
    "CREATE TABLE other(k)",
]
HARMLESS = {  # Of these, what is wrong is rebuilt, unused, or of somebody else.
    "DROP VIEW klal_changes",
    "CREATE TABLE other(k)",
    "CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM t; END",
}


@pytest.mark.parametrize("sql", TAMPERINGS)
def test_a_row_that_another_tool_changed_is_refused_or_found(ana, content, sql):
    """T40 W13."""
    with sqlite3.connect(ana) as other:
        other.execute(sql)
    other.close()

    outcome = judge(ana, *content)
    assert outcome != "unharmed" or sql in HARMLESS


# -- files that cannot be had -------------------------------------------------------------


def test_a_file_that_another_process_holds_is_busy_and_free_again_afterwards(ana):
    """S48 T52."""
    with opened(ana) as replica:
        replica._store.connection.set_busy_timeout(50)
        other = apsw.Connection(str(ana))
        other.execute("BEGIN IMMEDIATE")
        for write in (
            lambda: replica.execute("DELETE FROM t"),
            lambda: replica.execute("BEGIN"),
            lambda: replica.insert_many("t", [("x", 1, 1.0)]),
            replica.invite,
        ):
            with pytest.raises(BusyError) as error:
                write()
            assert error.value.retryable
            assert "locked" in said(error)
        assert replica.query("SELECT count(*) FROM t")[0][0] > 100
        other.execute("ROLLBACK")
        assert replica.execute("DELETE FROM t").change is not None
        other.close()
        replica.verify()


def test_a_file_under_a_file_is_an_error_of_the_store(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for write in (
        lambda: klal.create(tmp_path / "file" / "x.db", space="s", member="ana", home=tmp_path / "home"),
        lambda: klal.create(tmp_path / "nowhere" / "x.db", space="s", member="ana", home=tmp_path / "home"),
        lambda: klal.create(tmp_path / "x.db", space="s", member="ana", home=tmp_path / "file"),
        lambda: klal.create(tmp_path / ("x" * 300), space="s", member="ana", home=tmp_path / "home"),
    ):
        with pytest.raises(StoreError) as error:
            write()
        said(error)


_FULL = """
import resource, signal, sys, klal
path, home, limit = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with klal.open(path, home=home) as replica:
    replica.execute("INSERT INTO t(k) VALUES ('before')")
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), -1))
    stored = []
    for number in range(200):
        try:
            if number % 3:
                replica.execute("INSERT INTO t(k, v) VALUES (?, ?)", (f"full {number}", "x" * 3000))
                stored.append(f"full {number}")
            elif number % 2:
                replica.insert_many("t", [(f"many {number} {n}", "x" * 100, 1.0) for n in range(1000)])
                stored.append(f"many {number} 0")
            else:
                with replica.transaction():
                    for n in range(50):
                        replica.execute("INSERT INTO t(k, v) VALUES (?, ?)", (f"block {number} {n}", "x" * 1000))
                stored.append(f"block {number} 0")
        except klal.errors.KlalError as error:
            print("error", type(error).__name__, str(error).replace("\\n", "NEWLINE"))
    for key in stored:
        print("stored", key)
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
"""


@pytest.mark.parametrize("room", [0, 20_000, 400_000])
def test_a_full_disk_stops_in_a_sentence_and_keeps_what_was_stored(ana, room):
    """T51: a file may grow no further, as on a disk that is full; then there is room again."""
    limit = ana.stat().st_size + room
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(ana), str(ana.parent / "home"), str(limit)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    stored = {what for kind, what in lines if kind == "stored"}
    errors = [what for kind, what in lines if kind == "error"]

    assert errors
    assert all(error.startswith(("StoreError", "BusyError")) and "NEWLINE" not in error for error in errors), errors[:3]
    with opened(ana) as replica:
        replica.verify()
        held = {key for (key,) in replica.query("SELECT k FROM t")}
        assert stored | {"before"} <= held
        blocks = [key for key in held if key.startswith("block")]
        assert len(blocks) % 50 == 0
        assert len([key for key in held if key.startswith("many")]) % 1000 == 0
        replica.execute("INSERT INTO t(k) VALUES ('after')")


def is_mountable():
    """True when this process may mount a file system of its own."""
    return os.geteuid() == 0 and shutil.which("unshare") is not None


@pytest.mark.skipif(not is_mountable(), reason="mounting a read-only folder needs root")
def test_a_read_only_folder_is_read_and_says_so_when_written(ana):
    """T51: as on a mounted medium."""
    folder = ana.parent
    script = """
import sys, klal
path, home = sys.argv[1:]
try:
    replica = klal.open(path, home=home)
    print("rows", len(replica.query("SELECT * FROM t")))
    replica.verify()
    replica.execute("INSERT INTO t(k) VALUES ('x')")
except klal.errors.KlalError as error:
    print(type(error).__name__, error)
"""
    shell = f"mount --bind '{folder}' '{folder}' && mount -o remount,ro,bind '{folder}' && exec \"$@\""
    done = subprocess.run(
        [
            shutil.which("unshare"),
            "--mount",
            "sh",
            "-c",
            shell,
            "sh",
            sys.executable,
            "-c",
            script,
            str(ana),
            str(folder / "home"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if "mount" in done.stderr:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(("ReadOnlyError", "StoreError")), done.stdout
    with opened(ana) as replica:
        replica.verify()


# -- tickets -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ticket(original):
    with opened(original / "ana.db") as ana:
        return ana.invite()


def refused_ticket(folder, ticket):
    path = folder / "new.db"
    with pytest.raises(KlalError) as error:
        klal.join(path, ticket, member="cid", home=folder / "home")

    assert not path.exists()
    return said(error)


@pytest.mark.parametrize(
    "ticket", ["", " ", "klal1-", "klal2-abc", "hello", "klal1-\0", "klal1-" + "A" * 100_000, "\u05db"]
)
def test_what_is_no_ticket_makes_no_file(tmp_path, ticket):
    """T1 T37."""
    refused_ticket(tmp_path, ticket)


def test_a_truncated_ticket_makes_no_file(ticket, tmp_path):
    for length in {*range(0, len(ticket), 37), len(ticket) - 1, len(ticket) - 2}:
        refused_ticket(tmp_path, ticket[:length])


def test_a_mistyped_ticket_makes_no_file(ticket, tmp_path):
    dice = random.Random(3)
    for _ in range(60):
        place = dice.randrange(len(ticket))
        wrong = dice.choice([letter for letter in "ABCabc019-_" if letter != ticket[place]])
        refused_ticket(tmp_path, ticket[:place] + wrong + ticket[place + 1 :])
    refused_ticket(tmp_path, ticket + "A")
    refused_ticket(tmp_path, ticket[:40] + ticket[41] + ticket[40] + ticket[42:])


def test_a_ticket_survives_what_mail_does_to_it(ticket, tmp_path):
    broken = "\n".join(ticket[start : start + 70] for start in range(0, len(ticket), 70))
    with klal.join(tmp_path / "new.db", f" {broken}\r\n", member="cid", home=tmp_path / "home") as cid:
        assert cid.space_name == "s"


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 1000, "\0"])
def test_a_name_that_cannot_be_shown_makes_no_file(ticket, tmp_path, name):
    for write in (
        lambda: klal.create(tmp_path / "new.db", space="s", member=name, home=tmp_path / "home"),
        lambda: klal.create(tmp_path / "new.db", space=name, member="ana", home=tmp_path / "home"),
        lambda: klal.join(tmp_path / "new.db", ticket, member=name, home=tmp_path / "home"),
    ):
        with pytest.raises(UsageError) as error:
            write()
        said(error)
        assert not (tmp_path / "new.db").exists()


# -- remotes -----------------------------------------------------------------------------


def test_a_remote_that_is_no_remote_is_refused_and_the_file_goes_on(ana, tmp_path):
    (tmp_path / "text").write_text("hello")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("x", "y")
    klal.create(tmp_path / "foreign.db", space="other", member="ana", home=tmp_path / "foreign").close()
    with opened(ana) as replica:
        before = replica.status().root
        for remote, kind in (
            ("text", NotKlalError),
            ("zip", NotKlalError),
            ("foreign.db", UsageError),
            ("nowhere", TransportError),
            ("nowhere/else", TransportError),
            ("ana.db", UsageError),
            ("ana.db-wal", KlalError),
        ):
            with pytest.raises(kind) as error:
                replica.sync(tmp_path / remote)
            said(error)
        for remote in ("ws://localhost", "http://x", "", "\0"):
            with pytest.raises(KlalError) as error:
                replica.sync(remote)
            said(error)
        assert replica.status().root == before
        replica.verify()


def test_two_files_of_two_spaces_keep_apart_in_one_folder(ana, tmp_path):
    """T12."""
    shared = tmp_path / "shared"
    shared.mkdir()
    with klal.create(tmp_path / "foreign.db", space="s", member="ana", home=tmp_path / "foreign") as foreign:
        foreign.execute("CREATE TABLE t(k TEXT PRIMARY KEY, v)")
        foreign.execute("INSERT INTO t VALUES ('foreign', 1)")
        foreign.sync(shared)
        with opened(ana) as replica:
            before = replica.status().root
            for other in (replica, foreign, replica):
                with suppress(KlalError):  # Or nothing: the folder is not theirs alone.
                    other.sync(shared)
            assert replica.status().root == before
            assert foreign.query("SELECT k FROM t") == [("foreign",)]
            replica.verify()
            foreign.verify()
