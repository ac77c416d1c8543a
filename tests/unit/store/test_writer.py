"""The short way of single-row commits makes the change that the long way would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import klal
from klal.model.header import Header
from klal.model.payload import Kind, decode_segments
from klal.rules.merge import ChangeRef


class _Frozen:
    """One clock and one set of dice for two files, so that equal work gives equal bytes."""

    def unix_ms(self) -> int:
        return 4_000_000_000_000  # Later than what the real clock said when the file was made.

    def token(self, size: int) -> bytes:
        return bytes(size)


def _header_and_payload(replica: klal.Replica) -> tuple[Header, bytes]:
    store: Any = replica._store
    own = store.writer.own.log
    stored = store.history.read(ChangeRef(own.log, own.length - 1))
    return stored.header, stored.payload


def _change(folder: Path, *statements: tuple[str, tuple[Any, ...]], is_long: bool) -> tuple[Header, bytes, list[Any]]:
    """Return what the last statement appended after the others, and the rows, by either way."""
    with klal.create(folder / "a.db", space="s", member="ana", home=folder / "home") as replica:
        writer: Any = replica._store.writer
        writer._clock = writer._entropy = _Frozen()
        writer._salts, writer._salt_at = b"", 0
        replica.execute("CREATE TABLE t(id TEXT PRIMARY KEY, n INT, r REAL, x BLOB)")
        for sql, bindings in statements[:-1]:
            replica.execute(sql, bindings)
        if is_long:
            writer._plain_part = lambda _: None
        replica.execute(*statements[-1])
        header, payload = _header_and_payload(replica)
        return header, payload, list(replica.query("SELECT * FROM t"))


def _both(folder: Path, *statements: tuple[str, tuple[Any, ...]]) -> tuple[Header, bytes]:
    """Return the header and payload that both ways make of the last statement."""
    made = []
    for name in ("short", "long"):
        (folder / name).mkdir()
        header, payload, rows = _change(folder / name, *statements, is_long=name == "long")
        # All but the backlink, which goes back to a log id of its own.
        made.append((replace(header, backlink=b""), payload, rows))

    assert made[0] == made[1]
    return made[0][:2]


_FIRST = ("INSERT INTO t VALUES ('first', 0, 1.5, x'00')", ())


@pytest.mark.parametrize("row", [("a", 1), ("b", None), ("c" * 400, 2), ("d", -(2**63))])
def test_one_inserted_row_makes_the_same_change_either_way(tmp_path: Path, row: tuple[str, int | None]) -> None:
    """Law of `Writer._plain_part`."""
    _both(tmp_path, _FIRST, ("INSERT INTO t(id, n) VALUES (?, ?)", row))


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("n", 1),
        ("n", None),
        ("n = 7, r", 2.5),
        ("r", 3),
        ("r", -0.0),
        ("x", b"\x00" * 400),
        ("x", "text in a blob column"),
        ("id", "second"),
        ("id = 'second', n", 9),
    ],
)
def test_one_updated_row_makes_the_same_change_either_way(tmp_path: Path, assignment: str, value: Any) -> None:
    """Law of `Writer._plain_part`; a new key is a delete and an insert, and takes the long way by itself."""
    header, payload = _both(tmp_path, _FIRST, (f"UPDATE t SET {assignment} = ? WHERE id = 'first'", (value,)))

    kinds = [segment.kind for segment in decode_segments(payload)]
    assert kinds == ([Kind.DELETE, Kind.INSERT] if "id" in assignment else [Kind.UPDATE])
    assert header.parts[0].row_count == (2 if "id" in assignment else 1)


def test_an_update_of_a_row_older_than_its_column_makes_the_same_change_either_way(tmp_path: Path) -> None:
    """The hook shows a REAL default as an integer there, which is no change of that cell."""
    added = ("ALTER TABLE t ADD COLUMN late REAL DEFAULT 3.0", ())
    _, payload = _both(tmp_path, _FIRST, added, ("UPDATE t SET n = 5, late = 3.0 WHERE id = 'first'", ()))

    (segment,) = decode_segments(payload)
    assert len(segment.columns) == 1


@pytest.mark.parametrize("last", ["UPDATE t SET n = 0 WHERE id = 'first'", "UPDATE t SET n = 1 WHERE id = 'nobody'"])
def test_an_update_that_changes_nothing_is_no_change(tmp_path: Path, last: str) -> None:
    with klal.create(tmp_path / "a.db", space="s", member="ana", home=tmp_path / "home") as replica:
        replica.execute("CREATE TABLE t(id TEXT PRIMARY KEY, n INT)")
        replica.execute("INSERT INTO t VALUES ('first', 0)")

        assert replica.execute(last).change is None


def test_a_row_written_again_after_a_delete_names_its_second_life_also_alone(tmp_path: Path) -> None:
    """MRG-2: a table that remembers anything of any key takes the careful way."""
    with klal.create(tmp_path / "a.db", space="s", member="ana", home=tmp_path / "home") as replica:
        replica.execute("CREATE TABLE t(id TEXT PRIMARY KEY, n INT)")
        for sql in ("INSERT INTO t VALUES ('a', 0)", "DELETE FROM t", "INSERT INTO t VALUES ('a', 1)"):
            replica.execute(sql)
        lives = []
        for sql in ("UPDATE t SET n = 2", "INSERT INTO t VALUES ('b', 0)"):
            replica.execute(sql)
            (segment,) = decode_segments(_header_and_payload(replica)[1])
            lives.append(segment.life(0))

        assert lives == [2, 1]


def test_the_count_of_rows_is_that_of_the_statement_just_run(tmp_path: Path) -> None:
    with klal.create(tmp_path / "a.db", space="s", member="ana", home=tmp_path / "home") as replica:
        replica.execute("CREATE TABLE t(id TEXT PRIMARY KEY, n INT)")
        counts = [
            replica.execute(sql).row_count
            for sql in (
                "INSERT INTO t VALUES ('a', 0), ('b', 0), ('c', 0)",
                "UPDATE t SET n = 1 WHERE id > 'z'",
                "INSERT OR REPLACE INTO t VALUES ('a', 2)",
                "INSERT OR IGNORE INTO t VALUES ('a', 3)",
                "DELETE FROM t",
                "DELETE FROM t",
            )
        ]

        assert counts == [3, 0, 1, 0, 3, 0]
