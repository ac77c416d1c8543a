"""The base of a compacted file: the state as of a closed epoch, which stands for the payloads that were put down.

It is one image of a small SQLite database, compressed: the rows of the cut, what the merge
remembers of keys, and which changes wrote them last. History is applied again from it
instead of from nothing, so everything that replays goes on working: certificates of later
epochs, the search for foreign writes, `verify`, and moments since.

The choice a reader would question: an image of all rows, and not the old values of those
that change later. Kept in pages that zstd packs it costs a fraction of the rows, and it can
be checked whole against the certificate, which is what a compacted file rests on.

Source:
    Protocol spec section 15, rule CMP-2. Decision D17.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
import zstandard

from klal.errors import DamagedError, KlalError
from klal.model.codec import pack, unpack
from klal.rules.merge import ChangeRef
from klal.store.file import memory_file
from klal.store.sql import Connection

_LEVEL = 9
_PIECE_SIZE = 1 << 20
_META = "compacted"
# What a replay copies from the file itself, or has no use for.
_LEFT_OUT = (
    *("klal_meta", "klal_log", "klal_change", "klal_span", "klal_slice", "klal_leaves", "klal_hash", "klal_past"),
    *("klal_seal", "klal_receipt", "klal_branch", "klal_member", "klal_close", "klal_moment", "klal_epoch"),
    *("klal_pack", "klal_snapshot"),
)


class PutDownError(KlalError):
    """Rows below what was compacted would have to be made to go on, and payloads of them are not here (CMP-11).

    Args:
        message: What was to be made.
        lengths: Which changes it is made from, by log index.
    """

    def __init__(self, message: str, lengths: Mapping[int, int]) -> None:
        super().__init__(message, rule="CMP-11")
        self.lengths = lengths


class Base(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Below what a file has put payloads down.

    Shape:
        certificate: hash of the certificate of `epoch`.
        lengths: (log index, length) of its cut.
        keepers: members whose word it relies on for what it put down, ascending.
    """

    epoch: int
    certificate: bytes
    lengths: tuple[tuple[int, int], ...]
    keepers: tuple[bytes, ...]


Written = Mapping[bytes, ChangeRef]
"""Column id -> the greatest UPDATE of a key's life that wrote it; under b"" the greatest INSERT."""


def read_base(connection: Connection) -> Base | None:
    """Return below what this file is compacted, or None."""
    told = connection.execute("SELECT value FROM klal_meta WHERE name = ?", (_META,)).get
    return None if told is None else unpack(told, Base, "stored base", 1 << 28)


def write_base(connection: Connection, base: Base, image: bytes) -> None:
    """Put an image in the place of the one before; the caller holds a transaction."""
    connection.execute("INSERT OR REPLACE INTO klal_meta VALUES(?,?)", (_META, pack(base)))
    connection.execute("DELETE FROM klal_base")
    pieces = (image[start : start + _PIECE_SIZE] for start in range(0, len(image), _PIECE_SIZE))
    connection.executemany("INSERT INTO klal_base VALUES(?,?)", enumerate(pieces))


def base_size(connection: Connection) -> int:
    """Return the size of a file's image."""
    return connection.execute("SELECT coalesce(sum(length(data)), 0) FROM klal_base").get or 0


def open_base(connection: Connection) -> Connection:
    """Return the base of a compacted file as a file in memory.

    Raises:
        DamagedError: It cannot be read.
    """
    pieces = connection.execute("SELECT data FROM klal_base ORDER BY piece").fetchall()
    try:
        image = zstandard.ZstdDecompressor().decompress(b"".join(piece for (piece,) in pieces))
        opened = memory_file()
        opened.deserialize("main", image)
        opened.execute("SELECT count(*) FROM klal_written")
    except (zstandard.ZstdError, ValueError) as error:
        raise DamagedError(f"the image of what was compacted cannot be read: {error}") from error
    return opened


def make_image(connection: Connection) -> bytes:
    """Return the image of a file in memory that was replayed to the cut; the file is used up by it."""
    for name in _LEFT_OUT:
        connection.execute(f"DELETE FROM {name}")
    connection.execute("VACUUM")
    return zstandard.ZstdCompressor(level=_LEVEL).compress(connection.serialize("main"))


# -- who wrote what last ----------------------------------------------------------------------------


def put_written(connection: Connection, table_id: bytes, lines: Iterable[tuple[bytes, int, Written]]) -> None:
    """Keep, in a file that is to become an image, which changes last wrote the keys of a table.

    Args:
        lines: (key as bytes, life, its writes).
    """
    connection.executemany(
        "INSERT OR REPLACE INTO klal_written VALUES(?,?,?,?)",
        ((table_id, key, life, pack([(c, *ref) for c, ref in written.items()])) for key, life, written in lines),
    )


def written_of(connection: Connection, table_id: bytes, keys: Iterable[bytes]) -> dict[bytes, tuple[int, Written]]:
    """Return (life, writes) of those of these keys that the base of a file knows."""
    is_own = connection.execute("SELECT count(*) FROM klal_base").get == 0
    base = connection if is_own else open_base(connection)
    try:
        found: dict[bytes, tuple[int, Written]] = {}
        for key in keys:
            row = base.execute(
                "SELECT life, writes FROM klal_written WHERE table_id = ? AND key = ?", (table_id, key)
            ).fetchone()
            if row is not None:
                found[key] = row[0], decode_written(row[1])
        return found
    finally:
        if not is_own:
            base.close()


def decode_written(data: bytes) -> dict[bytes, ChangeRef]:
    """Return the writes that were stored as these bytes."""
    lines = unpack(data, list[tuple[bytes, int, int]], "stored writes", 1 << 28)
    return {column_id: ChangeRef(log, seq) for column_id, log, seq in lines}
