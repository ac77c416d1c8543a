"""Headers of a compacted file, many to a block, without what follows from their neighbours.

Below the cut of a base headers are read seldom and never change. In rows of their own each
costs some 200 bytes; in a block about 40, of which 32 are the root of its part and cannot be
made smaller. A header's number and backlink are left out: the first of a block says where it
begins, and every other is linked to the one before it.

The choice a reader would question: no index of their hashes. It would cost as much again as
half of what is left, for names that hardly anybody says any more. Three bytes of each hash are
kept in its place, and whoever looks for one reads these through, a megabyte in a millisecond.

Law: the headers that come out are those that went in, byte for byte.

Source:
    Protocol spec section 15, rules FIL-3 and CMP-12. Decision D17.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import zstandard

from klal.errors import DamagedError
from klal.model.codec import HASH_SIZE, HEADER_SIZE_MAX
from klal.model.header import header_hash, header_size
from klal.rules.merge import ChangeRef
from klal.store.sql import Connection

PACK_COUNT_MAX = 256  # Headers in a block: twice as many would save half a percent, and each look unpacks one.

_BLOCK_CACHE_MAX = 8
_FOUND_CACHE_MAX = 4096
_LEVEL = 9
_MARK_SIZE = 3
_SEQ = slice(8, 16)  # Where in a header its number lies, and its backlink.
_BACKLINK = slice(24, 56)
_START_SIZE = 8 + HASH_SIZE


def pack_headers(headers: Sequence[bytes]) -> bytes:
    """Return consecutive headers of one log as one block; at least one, at most `PACK_COUNT_MAX`."""
    first = headers[0]
    rest = b"".join(
        [data[: _SEQ.start] + data[_SEQ.stop : _BACKLINK.start] + data[_BACKLINK.stop :] for data in headers]
    )
    return zstandard.ZstdCompressor(level=_LEVEL).compress(first[_SEQ] + first[_BACKLINK] + rest)


def unpack_headers(space_id: bytes, block: bytes) -> list[bytes]:
    """Return the headers of a block.

    Raises:
        DamagedError: It is none.
    """
    try:
        size_max = _START_SIZE + PACK_COUNT_MAX * HEADER_SIZE_MAX
        if not 0 < zstandard.frame_content_size(block) <= size_max:
            raise DamagedError("a block of headers states no size, or too great a one")
        data = zstandard.ZstdDecompressor().decompress(block)
    except zstandard.ZstdError as error:
        raise DamagedError(f"a block of headers cannot be read: {error}") from error
    seq, backlink = int.from_bytes(data[:8], "big"), data[8:_START_SIZE]
    found: list[bytes] = []
    at, left_out = _START_SIZE, HASH_SIZE + 8
    while at < len(data):
        end = at + (header_size(data[at : at + 3]) - left_out if len(data) - at > left_out else len(data))
        if end > len(data) or len(found) == PACK_COUNT_MAX:
            raise DamagedError("a block of headers ends within one, or holds too many")
        head, tail = data[at : at + 16], data[at + 16 : end]
        header = head[:8] + seq.to_bytes(8, "big") + head[8:] + backlink + tail
        found.append(header)
        seq, backlink, at = seq + 1, header_hash(space_id, header), end
    return found


class Packs:
    """The blocks of one file, by log and number of their first header."""

    def __init__(self, connection: Connection, space_id: bytes) -> None:
        self._connection = connection
        self._space_id = space_id
        self._blocks: dict[tuple[int, int], list[bytes]] = {}
        self._found: dict[bytes, ChangeRef] = {}
        self._last: tuple[int, int, list[bytes]] = (0, 0, [])

    def forget(self) -> None:
        """Read everything again from the file."""
        self._blocks.clear()
        self._found.clear()
        self._last = (0, 0, [])

    def add(self, log: int, start: int, headers: Sequence[bytes]) -> None:
        """Keep the headers of a log from `start` on in blocks."""
        for at in range(0, len(headers), PACK_COUNT_MAX):
            some = headers[at : at + PACK_COUNT_MAX]
            marks = b"".join(header_hash(self._space_id, data)[:_MARK_SIZE] for data in some)
            self._connection.execute(
                "INSERT INTO klal_pack VALUES(?,?,?,?)", (log, start + at, marks, pack_headers(some))
            )

    def length(self, log: int) -> int:
        """Return up to which number the headers of a log lie in blocks."""
        row = self._connection.execute(
            "SELECT seq, length(marks) FROM klal_pack WHERE log = ? ORDER BY seq DESC LIMIT 1", (log,)
        ).fetchone()
        return 0 if row is None else row[0] + row[1] // _MARK_SIZE

    def header(self, ref: ChangeRef) -> bytes:
        """Return one header as it was received.

        Raises:
            DamagedError: It should be here and is not.
        """
        log, start, block = self._last
        if log != ref.log or not 0 <= ref.seq - start < len(block):
            row = self._connection.execute(
                "SELECT seq FROM klal_pack WHERE log = ? AND seq <= ? ORDER BY seq DESC LIMIT 1", ref
            ).fetchone()
            start = 0 if row is None else row[0]
            block = [] if row is None else self._block(ref.log, start)
            if ref.seq - start >= len(block):
                raise DamagedError(f"header {ref.seq} of log {ref.log} is not in the file")
            self._last = ref.log, start, block
        return block[ref.seq - start]

    def has_mark(self, ref: ChangeRef, hashed: bytes) -> bool:
        """True when a look for this hash comes by this header."""
        row = self._connection.execute(
            "SELECT seq, marks FROM klal_pack WHERE log = ? AND seq <= ? ORDER BY seq DESC LIMIT 1", ref
        ).fetchone()
        at = 0 if row is None else (ref.seq - row[0]) * _MARK_SIZE
        return row is not None and row[1][at : at + _MARK_SIZE] == hashed[:_MARK_SIZE]

    def find(self, hashed: bytes) -> ChangeRef | None:
        """Return which header hashes to this, or None where it is in no block."""
        if hashed not in self._found:
            ref = next(self._look_for(hashed), None)
            if ref is None:
                return None
            if len(self._found) >= _FOUND_CACHE_MAX:
                self._found.clear()
            self._found[hashed] = ref
        return self._found[hashed]

    def _look_for(self, hashed: bytes) -> Iterator[ChangeRef]:
        mark = hashed[:_MARK_SIZE]
        rows = self._connection.execute(
            "SELECT log, seq, marks FROM klal_pack WHERE instr(marks, ?)", (mark,)
        ).fetchall()
        for log, seq, marks in rows:
            at = marks.find(mark)
            while at >= 0:
                number, rest = divmod(at, _MARK_SIZE)
                if not rest and header_hash(self._space_id, self.header(ChangeRef(log, seq + number))) == hashed:
                    yield ChangeRef(log, seq + number)
                at = marks.find(mark, at + 1)

    def _block(self, log: int, start: int) -> list[bytes]:
        place = log, start
        if place not in self._blocks:
            block: bytes = self._connection.execute("SELECT data FROM klal_pack WHERE log = ? AND seq = ?", place).get
            if len(self._blocks) >= _BLOCK_CACHE_MAX:
                self._blocks.clear()
            self._blocks[place] = unpack_headers(self._space_id, block)
        return self._blocks[place]
