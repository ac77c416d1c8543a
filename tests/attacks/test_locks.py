"""Other processes are kept off what a replica has open, whatever else its own process does with the file."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

import pytest

import klal
from klal.errors import KlalError, NotKlalError

READ = (
    "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); print(c.execute('SELECT id FROM t').fetchall()); c.close()"
)


def test_opening_a_file_a_second_time_takes_no_lock_from_the_first(tmp_path):
    """POSIX drops a process's locks on a file when it closes any descriptor of it.

    Another program that reads the file is then the last one, so it believes, and removes the log that klal goes on
    writing to: what is committed from there on is gone.
    """
    with klal.create(tmp_path / "a.db", space="s", member="ana", home=tmp_path / "home") as first:
        first.execute("CREATE TABLE t(id TEXT PRIMARY KEY)")
        klal.open(tmp_path / "a.db", home=tmp_path / "home").close()

        subprocess.run([sys.executable, "-c", READ, first.path], capture_output=True, text=True, check=True)
        first.execute("INSERT INTO t VALUES ('kept')")
        again = subprocess.run([sys.executable, "-c", READ, first.path], capture_output=True, text=True, check=True)
        assert again.stdout.strip() == "[('kept',)]"

    with klal.open(tmp_path / "a.db", home=tmp_path / "home") as later:
        assert later.query("SELECT id FROM t") == [("kept",)]
        later.verify()


@pytest.mark.parametrize(
    "look",
    [
        lambda first, other: other.sync(first.path),
        lambda first, _: klal.read_bundle(first.path),
        lambda first, other: other.bundle_status(first.path),
        lambda first, other: other.import_bundle(first.path),
        lambda first, _: klal.check_certificate_file(first.path),
        lambda first, _: klal.Spark.open(first.path),
    ],
    ids=["sync", "read_bundle", "bundle_status", "import_bundle", "check_certificate_file", "Spark.open"],
)
def test_looking_at_an_open_file_as_if_it_were_another_kind_takes_no_lock_from_it(tmp_path, look):
    """S48: what is committed afterwards is there, whatever the file was taken for."""
    with klal.create(tmp_path / "a.db", space="s", member="ana", home=tmp_path / "home") as first:
        first.execute("CREATE TABLE t(id TEXT PRIMARY KEY)")
        other = klal.join(tmp_path / "b.db", first.invite(), member="ben", home=tmp_path / "home-b")
        with other, suppress(KlalError):
            look(first, other)

        subprocess.run([sys.executable, "-c", READ, first.path], capture_output=True, text=True, check=True)
        first.execute("INSERT INTO t VALUES ('kept')")
        again = subprocess.run([sys.executable, "-c", READ, first.path], capture_output=True, text=True, check=True)
        assert again.stdout.strip() == "[('kept',)]"


@pytest.mark.parametrize("content", [b"", b"S", b"SQLite format 3\0", b"SQLite format 3\0" + bytes(4096), b"x" * 8192])
def test_what_is_no_klal_file_is_refused_and_not_touched(tmp_path, content):
    """FIL-1: by SQLite's own reading."""
    (tmp_path / "x.db").write_bytes(content)

    with pytest.raises(NotKlalError):
        klal.open(tmp_path / "x.db", home=tmp_path)
    assert (tmp_path / "x.db").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["x.db"]
