"""The short way of single-row commits makes the change that the long way would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import klal
from klal.model.header import Header
from klal.rules.merge import ChangeRef


class _Frozen:
    """One clock and one set of dice for two files, so that equal work gives equal bytes."""

    def unix_ms(self) -> int:
        return 1_700_000_000_000

    def token(self, size: int) -> bytes:
        return bytes(size)


def _header_and_payload(replica: klal.Replica) -> tuple[Header, bytes]:
    store: Any = replica._store
    own = store.writer.own.log
    stored = store.history.read(ChangeRef(own.log, own.length - 1))
    return stored.header, stored.payload


@pytest.mark.parametrize("row", [("a", 1), ("b", None), ("c" * 400, 2), ("d", -(2**63))])
def test_one_inserted_row_makes_the_same_change_either_way(tmp_path: Path, row: tuple[str, int | None]) -> None:
    """Law of `Writer.flush_insert`."""
    made = []
    for name in ("short", "long"):
        with klal.create(tmp_path / f"{name}.db", space="s", member="ana", home=tmp_path / name) as replica:
            writer: Any = replica._store.writer
            writer._clock = writer._entropy = _Frozen()
            writer._salts, writer._salt_at = b"", 0
            replica.execute("CREATE TABLE t(id TEXT PRIMARY KEY, n INT)")
            replica.execute("INSERT INTO t VALUES ('first', 0)")
            if name == "long":
                writer.flush_insert = lambda: None
            replica.execute("INSERT INTO t VALUES (?, ?)", row)
            header, payload = _header_and_payload(replica)
            made.append((header.seq, header.epoch, header.parts, payload))

    assert made[0] == made[1]
