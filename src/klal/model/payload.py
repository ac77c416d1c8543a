"""Row writes as bytes: one part per table, made of columnar segments.

A part is 16 random bytes and then segments. A segment holds up to 16k writes of one
kind over one set of columns; its key columns are a section of their own, because a
merge that meets no concurrent work needs nothing but keys. The hash tree runs over
fixed slices of the part's bytes, so transfer can stop and go on anywhere and a segment
may be as large as its largest row.

Law: `decode_segments(encode_segment(w)) == w` up to how writes are grouped in segments.

Source:
    Protocol spec section 11, rules PAY-1 to PAY-6.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import msgspec

from klal.errors import MalformedError, UsageError
from klal.model.codec import (
    COLUMN_ID_SIZE,
    SALT_SIZE,
    SEGMENT_COLUMN_COUNT_MAX,
    SEGMENT_PLAIN_SIZE_MAX,
    SEGMENT_ROW_COUNT_MAX,
    SLICE_SIZE,
    compress,
    decompress,
    tree_leaf,
    tree_root,
)
from klal.model.schema import Key, Value

# kind, flags, column_count, row_count, then plain and stored size of keys and of values
_SEGMENT = struct.Struct(">BBHIIIII")
_ROW_START = SALT_SIZE + _SEGMENT.size  # Where the column ids of a part's first segment stand.
_LIVES = 1
_KEYS_COMPRESSED = 2
_VALUES_COMPRESSED = 4
_FINAL = 8
# Below this a zstd frame costs more than it saves, in bytes and in time.
_COMPRESS_MIN_SIZE = 256
_KEY_COUNT_MAX = 64
LIFE_MAX = (1 << 53) - 1

_VALUE_TYPES = {type(None), int, float, str, bytes}
_encode = msgspec.msgpack.Encoder().encode
# msgspec cannot tell text from bytes in a union, so values come as Any and are checked below.
_decode_columns = msgspec.msgpack.Decoder(list[list[Any]]).decode
_decode_sections = msgspec.msgpack.Decoder(list[list[list[Any]]]).decode
_decode_column = msgspec.msgpack.Decoder(list[Any]).decode
_split_columns = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


class Kind(IntEnum):
    """What a row write does."""

    INSERT = 1
    UPDATE = 2
    DELETE = 3


class Segment(msgspec.Struct, frozen=True, eq=False, dict=True):
    """Writes of one kind over one set of columns.

    Rows that nothing can meet go from bytes to SQLite column by column: what is asked of
    single rows or of single values' types is made when it is asked for, and then kept.

    Shape:
        columns: 8-byte ids of the written, non-key columns; empty for deletes.
        key_columns: one list per column of the key, each as long as there are rows.
        values: one list per entry of `columns`, likewise.
        lives: one int per row, or None when every row is in its first life.
        is_final: of DELETEs, that they end their life whatever they had not seen.
    """

    kind: Kind
    columns: tuple[bytes, ...]
    key_columns: Sequence[Sequence[Value]]
    values: Sequence[Sequence[Value]]
    lives: Sequence[int] | None = None
    is_final: bool = False

    @classmethod
    def of_keys(
        cls,
        kind: Kind,
        columns: tuple[bytes, ...],
        keys: Sequence[Key],
        values: Sequence[Sequence[Value]],
        lives: Sequence[int] | None = None,
        *,
        is_final: bool = False,
    ) -> Segment:
        """Return a segment whose keys are given as one tuple per row."""
        return cls(kind, columns, list(zip(*keys, strict=True)), values, lives, is_final)

    @property
    def row_count(self) -> int:
        """How many rows it writes."""
        return len(self.key_columns[0])

    @cached_property
    def keys(self) -> Sequence[Key]:
        """One tuple per row."""
        return list(zip(*self.key_columns, strict=True))

    @cached_property
    def kinds(self) -> Sequence[set[type]]:
        """Which types stand in each column, those of the key first."""
        return _kinds_of((*self.key_columns, *self.values))

    def life(self, row: int) -> int:
        """Return the life that row `row` is written in."""
        return 1 if self.lives is None else self.lives[row]


def encode_segment(segment: Segment) -> bytes:
    """Return the bytes of a segment (layout PAY-2), or of several where one would be too large to be taken.

    Raises:
        UsageError: A single row beyond SEGMENT_PLAIN_SIZE_MAX.
    """
    flags = _FINAL if segment.is_final else 0
    key_columns: list[Sequence[Value]] = list(segment.key_columns)
    if segment.lives is not None:
        key_columns.append(segment.lives)
        flags |= _LIVES
    keys = keys_stored = _encode(key_columns)
    if len(keys) >= _COMPRESS_MIN_SIZE:
        keys_stored = compress(keys)
        flags |= _KEYS_COMPRESSED
    values = values_stored = _encode(segment.values)
    if max(len(keys), len(values)) > SEGMENT_PLAIN_SIZE_MAX:
        return b"".join(map(encode_segment, _halves(segment)))
    if len(values) >= _COMPRESS_MIN_SIZE:
        values_stored = compress(values)
        flags |= _VALUES_COMPRESSED
    head = _SEGMENT.pack(
        segment.kind,
        flags,
        len(segment.columns),
        segment.row_count,
        len(keys),
        len(keys_stored),
        len(values),
        len(values_stored),
    )
    return b"".join((head, *segment.columns, keys_stored, values_stored))


def _halves(segment: Segment) -> tuple[Segment, Segment]:
    middle = segment.row_count // 2
    if not middle:
        raise UsageError(f"a row has more than {SEGMENT_PLAIN_SIZE_MAX} bytes, which is more than can travel")

    def part(rows: slice) -> Segment:
        return msgspec.structs.replace(
            segment,
            key_columns=[values[rows] for values in segment.key_columns],
            values=[values[rows] for values in segment.values],
            lives=None if segment.lives is None else segment.lives[rows],
        )

    return part(slice(middle)), part(slice(middle, None))


def encode_row(
    kind: int, columns: Sequence[bytes], row: Sequence[Value], key: Sequence[int], cells: Sequence[int]
) -> bytes:
    """Return the segment of one row write in the row's first life.

    Law: equal to `encode_segment` of the same row; it only makes fewer objects on the way.

    Args:
        kind: A `Kind`, or its number.
        columns: Ids of the columns written.
        row: Where the key and the written values are.
        key: Where in `row` the key stands.
        cells: Where in `row` the value of each of `columns` stands.
    """
    keys_bytes = _encode([[row[position]] for position in key])
    cells_bytes = _encode([[row[position]] for position in cells])
    keys_size, cells_size = len(keys_bytes), len(cells_bytes)
    if keys_size >= _COMPRESS_MIN_SIZE or cells_size >= _COMPRESS_MIN_SIZE:
        keys = [[row[position]] for position in key]
        return encode_segment(Segment(Kind(kind), tuple(columns), keys, [[row[position]] for position in cells]))
    head = _SEGMENT.pack(kind, 0, len(columns), 1, keys_size, keys_size, cells_size, cells_size)
    return b"".join((head, *columns, keys_bytes, cells_bytes))


def decode_segments(part: bytes) -> Iterator[Segment]:
    """Yield the segments of a part, each bounded and checked before it is given out.

    Raises:
        MalformedError: PAY-2 to PAY-5, at the segment that breaks it.
    """
    position = SALT_SIZE
    if len(part) <= SALT_SIZE:
        raise MalformedError(f"part has {len(part)} bytes, want more than {SALT_SIZE}", rule="PAY-1")
    while position < len(part):
        segment, position = _decode_segment(part, position)
        yield segment


class _Frame(NamedTuple):
    """Where the pieces of one segment lie, its counts and sizes within their bounds."""

    kind: Kind
    flags: int
    columns: tuple[bytes, ...]
    row_count: int
    keys: bytes
    keys_plain: int
    values: bytes
    values_plain: int
    end: int


def _frame(part: bytes, start: int) -> _Frame:
    columns_start = start + _SEGMENT.size
    if columns_start > len(part):
        raise MalformedError("segment header is cut short", rule="PAY-2")
    kind, flags, column_count, row_count, keys_plain, keys_size, values_plain, values_size = _SEGMENT.unpack_from(
        part, start
    )
    flags_max = _LIVES | _KEYS_COMPRESSED | _VALUES_COMPRESSED | (_FINAL if kind == Kind.DELETE else 0)
    if kind not in (1, 2, 3) or flags > flags_max:
        raise MalformedError(f"segment has kind {kind} and flags {flags}", rule="PAY-2")
    if column_count > SEGMENT_COLUMN_COUNT_MAX or not 0 < row_count <= SEGMENT_ROW_COUNT_MAX:
        raise MalformedError(f"segment has {column_count} columns, {row_count} rows", rule="PAY-3")
    if max(keys_plain, values_plain) > SEGMENT_PLAIN_SIZE_MAX:
        raise MalformedError(f"segment states {keys_plain} and {values_plain} plain bytes", rule="PAY-3")
    keys_start = columns_start + column_count * COLUMN_ID_SIZE
    values_start = keys_start + keys_size
    end = values_start + values_size
    if end > len(part):
        raise MalformedError("segment is cut short", rule="PAY-2")
    columns = tuple(part[i : i + COLUMN_ID_SIZE] for i in range(columns_start, keys_start, COLUMN_ID_SIZE))
    keys, values = part[keys_start:values_start], part[values_start:end]
    return _Frame(Kind(kind), flags, columns, row_count, keys, keys_plain, values, values_plain, end)


def _decode_segment(part: bytes, start: int) -> tuple[Segment, int]:
    frame = _frame(part, start)
    kind, flags, columns, row_count = frame.kind, frame.flags, frame.columns, frame.row_count
    if len(set(columns)) != len(columns):
        raise MalformedError("segment writes a column twice", rule="PAY-4")
    key_columns = _decode_section(frame.keys, frame.keys_plain, compressed=bool(flags & _KEYS_COMPRESSED))
    lives: list[Any] | None = key_columns.pop() if flags & _LIVES and key_columns else None
    if lives is not None:
        _check_columns([lives], _kinds_of([lives]), row_count)
        if not all(type(life) is int and 0 < life <= LIFE_MAX for life in lives):
            raise MalformedError("segment has a life that is no positive number", rule="PAY-4")
    if not 0 < len(key_columns) <= _KEY_COUNT_MAX:
        raise MalformedError(f"segment has {len(key_columns)} key columns", rule="PAY-4")
    values = _decode_section(frame.values, frame.values_plain, compressed=bool(flags & _VALUES_COMPRESSED))
    if len(values) != len(columns) or (kind == Kind.DELETE and columns):
        raise MalformedError(f"segment has {len(values)} value columns, want {len(columns)}", rule="PAY-4")
    segment = Segment(kind, columns, key_columns, values, lives, bool(flags & _FINAL))
    check_values(segment, row_count)
    return segment, frame.end


class Stripe:
    """A segment of a change that was applied here, so checked already: decoded column by column, as asked.

    Reading the past looks through many rows for few keys, and at few columns of those.

    Law: what it gives is what `decode_segments` gives of the same part.
    """

    def __init__(self, frame: _Frame) -> None:
        self.kind, self.columns, self.row_count = frame.kind, frame.columns, frame.row_count
        self.is_final = bool(frame.flags & _FINAL)
        self._frame = frame

    @cached_property
    def _key_columns(self) -> list[list[Any]]:
        frame = self._frame
        is_compressed = frame.flags & _KEYS_COMPRESSED
        decoded: list[list[Any]] = _decode_columns(
            decompress(frame.keys, frame.keys_plain) if is_compressed else frame.keys
        )
        return decoded

    @property
    def lives(self) -> list[int] | None:
        """Return one life per row, or None when every row is in its first."""
        return self._key_columns[-1] if self._frame.flags & _LIVES else None

    @cached_property
    def keys(self) -> Sequence[Value] | Sequence[Key]:
        """Return the keys: bare values where one column is the key, else tuples."""
        columns = self._key_columns[:-1] if self._frame.flags & _LIVES else self._key_columns
        return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))

    @cached_property
    def _value_columns(self) -> list[msgspec.Raw]:
        frame = self._frame
        is_compressed = frame.flags & _VALUES_COMPRESSED
        split: list[msgspec.Raw] = _split_columns(
            decompress(frame.values, frame.values_plain) if is_compressed else frame.values
        )
        return split

    def column(self, index: int) -> list[Value]:
        """Return the values of the column at this place in `columns`."""
        column: list[Value] = _decode_column(self._value_columns[index])
        return column


def decode_stripes(part: bytes) -> Iterator[Stripe]:
    """Yield the segments of a part that was applied here, each to be decoded as far as it is asked.

    Raises:
        MalformedError: The file is damaged.
    """
    position = SALT_SIZE
    while position < len(part):
        frame = _frame(part, position)
        position = frame.end
        yield Stripe(frame)


class Touched(NamedTuple):
    """Which keys the segments of one form write, in many parts together.

    Shape:
        keys: bare values where one column is the key, else tuples.
    """

    kind: Kind
    columns: tuple[bytes, ...]
    has_lives: bool
    keys: Iterator[Value] | Iterator[Key]


def touched_keys(parts: Iterable[bytes]) -> Iterator[Touched]:
    """Yield the keys that parts of applied changes write, one form of segment after another, values not looked at.

    Most changes write one row, and then it is the calls that cost: so the keys of all segments
    of one kind over one set of columns are decoded as one array of arrays.
    """
    forms: dict[tuple[int, int, bytes], list[bytes]] = {}
    for part in parts:
        position, end = SALT_SIZE, len(part)
        while position < end:
            kind, flags, column_count, _, plain, size, _, values_size = _SEGMENT.unpack_from(part, position)
            columns_start = position + _SEGMENT.size
            keys_start = columns_start + column_count * COLUMN_ID_SIZE
            keys = part[keys_start : keys_start + size]
            if flags & _KEYS_COMPRESSED:
                keys = decompress(keys, plain)
            forms.setdefault((kind, flags & _LIVES, part[columns_start:keys_start]), []).append(keys)
            position = keys_start + size + values_size
    for (kind, lives, ids), sections in forms.items():
        columns = tuple(ids[i : i + COLUMN_ID_SIZE] for i in range(0, len(ids), COLUMN_ID_SIZE))
        decoded = _decode_sections(b"\xdd" + len(sections).to_bytes(4, "big") + b"".join(sections))
        yield Touched(Kind(kind), columns, bool(lives), _keys_in(decoded, has_lives=bool(lives)))


def _keys_in(sections: list[list[list[Any]]], *, has_lives: bool) -> Iterator[Any]:
    width = len(sections[0]) - has_lives
    if width == 1:
        return chain.from_iterable(section[0] for section in sections)
    return chain.from_iterable(zip(*section[:width], strict=True) for section in sections)


def decode_row(part: bytes) -> tuple[int, bytes, Key, Sequence[Value]] | None:
    """Return the one row that a part writes in its first life: (kind, column ids joined, key, values).

    None where it is anything else, or cannot be read: `decode_segments` says what. The
    values are not looked at, since a key must be one: of many rows they are checked together (`check_values`).
    """
    if len(part) <= _ROW_START:
        return None
    kind, flags, column_count, row_count, keys_plain, keys_size, values_plain, values_size = _SEGMENT.unpack_from(
        part, SALT_SIZE
    )
    keys_start = _ROW_START + column_count * COLUMN_ID_SIZE
    values_start = keys_start + keys_size
    is_plain = not flags and row_count == 1 and (keys_plain, values_plain) == (keys_size, values_size)
    if not is_plain or values_start + values_size != len(part):
        return None
    try:
        (key,) = zip(*_decode_columns(part[keys_start:values_start]), strict=True)
        if not _VALUE_TYPES.issuperset(map(type, key)):
            return None
        values = [value for (value,) in _decode_columns(part[values_start:])]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError):
        return None
    return (kind, part[_ROW_START:keys_start], key, values) if len(values) == column_count else None


def decode_keys(part: bytes) -> Iterator[list[Key]]:
    """Yield the keys of each segment of a part that was decoded whole before; values are not unpacked.

    Raises:
        MalformedError: PAY-5, a section that can no longer be read.
    """
    position = SALT_SIZE
    while position + _SEGMENT.size <= len(part):
        _, flags, column_count, row_count, plain_size, keys_size, _, values_size = _SEGMENT.unpack_from(part, position)
        start = position + _SEGMENT.size + column_count * COLUMN_ID_SIZE
        position = start + keys_size
        columns = _decode_section(part[start:position], plain_size, compressed=bool(flags & _KEYS_COMPRESSED))
        _check_columns(columns, _kinds_of(columns), row_count)
        if flags & _LIVES:
            columns.pop()
        yield list(zip(*columns, strict=True))
        position += values_size


def _decode_section(stored: bytes, plain_size: int, *, compressed: bool) -> list[list[Any]]:
    if not compressed and len(stored) != plain_size:
        raise MalformedError(f"section has {len(stored)} bytes, want {plain_size}", rule="PAY-2")
    plain = decompress(stored, plain_size) if compressed else stored
    try:
        columns: list[list[Any]] = _decode_columns(plain)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError) as error:
        raise MalformedError(f"section cannot be decoded: {error}", rule="PAY-5") from error
    return columns


def check_values(segment: Segment, row_count: int) -> None:
    """Return if a decoded segment holds nothing but `row_count` values a column that SQLite can hold.

    Raises:
        MalformedError: PAY-5.
    """
    _check_columns((*segment.key_columns, *segment.values), segment.kinds, row_count)


def check_row(values: Sequence[Any]) -> None:
    """Return if decoded values of one row are nothing but what SQLite can hold.

    Raises:
        MalformedError: PAY-5.
    """
    _check_columns([values], _kinds_of([values]), len(values))


def _kinds_of(columns: Iterable[Sequence[Any]]) -> list[set[type]]:
    return [set(map(type, column)) for column in columns]


def _check_columns(columns: Iterable[Sequence[Any]], kinds_of: Iterable[set[type]], row_count: int) -> None:
    for column, kinds in zip(columns, kinds_of, strict=True):
        if len(column) != row_count:
            raise MalformedError(f"column has {len(column)} values, want {row_count}", rule="PAY-5")
        if not kinds <= _VALUE_TYPES:
            names = sorted(kind.__name__ for kind in kinds - _VALUE_TYPES)
            raise MalformedError(f"column has a value of type {names[0]}", rule="PAY-5")
        # msgpack has no integer below -2^63, and some above 2^63.
        if int in kinds and max(_only(int, column, kinds)) >= 1 << 63:
            raise MalformedError("column has an integer beyond 64 bits", rule="PAY-5")
        if float in kinds and _has_nan(_only(float, column, kinds)):
            raise MalformedError("column has a NaN, which SQLite cannot hold", rule="PAY-5")


def _only(kind: type, column: Sequence[Any], kinds: set[type]) -> Sequence[Any]:
    return column if kinds == {kind} else [value for value in column if type(value) is kind]


def _has_nan(column: Sequence[float]) -> bool:
    # A NaN makes their sum one, which is seen in a quarter of the time; so do two infinities that cancel out.
    return math.isnan(sum(column)) and any(map(math.isnan, column))


def slices_of(part: bytes) -> Iterable[bytes]:
    """Yield the fixed slices that a part is hashed, stored and sent in."""
    return (part[i : i + SLICE_SIZE] for i in range(0, len(part), SLICE_SIZE))


def part_leaves(part: bytes) -> list[bytes]:
    """Return the leaf hash of each slice, in order."""
    return [tree_leaf(piece) for piece in slices_of(part)]


def part_root(part: bytes) -> bytes:
    """Return what a header commits to for this part (PAY-6)."""
    return tree_leaf(part) if len(part) <= SLICE_SIZE else tree_root(part_leaves(part))
