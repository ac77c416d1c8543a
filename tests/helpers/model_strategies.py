"""Hypothesis strategies for the values that are signed, hashed or sent, and a small space to draw them from."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from klal.errors import RefusedError
from klal.model.codec import (
    COLUMN_ID_SIZE,
    EPOCH_MAX,
    HASH_SIZE,
    PART_SIZE_MAX,
    SEQ_MAX,
    TABLE_ID_SIZE,
    UNIX_MS_MAX,
)
from klal.model.frontier import Frontier, Head
from klal.model.header import Header, Part
from klal.model.keys import SigningKey
from klal.model.payload import Kind, Segment
from klal.model.schema import Column, Default, TableDefinition, affinity_of, check_addable, is_as_stored

ANA = SigningKey(bytes([1]) * 32)
BEN = SigningKey(bytes([2]) * 32)
MIRA = SigningKey(bytes([3]) * 32)
SPACE = bytes([7]) * HASH_SIZE

hashes = st.binary(min_size=HASH_SIZE, max_size=HASH_SIZE)
table_ids = st.binary(min_size=TABLE_ID_SIZE, max_size=TABLE_ID_SIZE)
column_ids = st.binary(min_size=COLUMN_ID_SIZE, max_size=COLUMN_ID_SIZE)
seeds = st.binary(min_size=32, max_size=32)

texts = st.text(st.characters(codec="utf-8"))
sql_values = (
    st.none() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False) | texts | st.binary(max_size=40)
)

parts = st.builds(Part, table_ids, hashes, st.integers(1, PART_SIZE_MAX), st.integers(0, (1 << 32) - 1))


@st.composite
def headers(draw: st.DrawFn) -> Header:
    past = draw(st.lists(hashes, max_size=16, unique=True))
    own = draw(st.lists(parts, max_size=5, unique_by=lambda part: part.table_id))
    return Header(
        draw(st.integers(0, SEQ_MAX)),
        draw(st.integers(0, EPOCH_MAX)),
        draw(st.integers(0, UNIX_MS_MAX)),
        draw(st.integers(0, 0xFFFF)),
        draw(hashes),
        draw(hashes),
        tuple(sorted(past)),
        tuple(sorted(own, key=lambda part: part.table_id)),
    )


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    row_count = draw(st.integers(1, 5))
    width = draw(st.integers(1, 3))
    kind = draw(st.sampled_from(Kind))
    columns = () if kind is Kind.DELETE else tuple(draw(st.lists(column_ids, max_size=3, unique=True)))
    column = st.lists(sql_values, min_size=row_count, max_size=row_count)
    keys = draw(st.lists(st.tuples(*[sql_values] * width), min_size=row_count, max_size=row_count))
    lives = draw(st.none() | st.lists(st.integers(1, (1 << 53) - 1), min_size=row_count, max_size=row_count))
    is_final = kind is Kind.DELETE and draw(st.booleans())
    return Segment.of_keys(kind, columns, keys, [draw(column) for _ in columns], lives, is_final=is_final)


# A head's hash follows from its log and length, as it does wherever no log is forked.
def frontier_of(lengths: dict[bytes, int]) -> Frontier:
    return Frontier(
        {log: Head(length, (log + length.to_bytes(8, "big"))[-HASH_SIZE:]) for log, length in lengths.items()}
    )


_logs = st.sampled_from([bytes([n]) * HASH_SIZE for n in range(6)])
frontiers = st.dictionaries(_logs, st.integers(1, 4)).map(frontier_of)

names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)
defaults = st.builds(Default, sql_values) | st.builds(Default, st.none(), st.sampled_from(["klal_id", "current_date"]))


def _of_its_type(column: Column) -> Column:
    default = column.default
    if default is None or is_as_stored(affinity_of(column.type), default.literal):
        return column
    return Column(column.name, column.type, column.not_null, None, column.collation)


columns = st.builds(
    Column,
    names,
    st.sampled_from(["TEXT", "INT", "REAL", "BLOB", "VARCHAR(20)", "NUMERIC(10, 2)", ""]),
    st.booleans(),
    st.none() | defaults,
    st.sampled_from(["BINARY", "NOCASE", "RTRIM"]),
).map(_of_its_type)


def _is_addable(column: Column) -> bool:
    return refusal_of(check_addable, column) is None


addable_columns = columns.filter(_is_addable)


@st.composite
def definitions(draw: st.DrawFn) -> TableDefinition:
    own = tuple(draw(st.lists(columns, min_size=1, max_size=4, unique_by=lambda column: column.name.casefold())))
    key = tuple(draw(st.lists(st.sampled_from([column.name for column in own]), min_size=1, max_size=2, unique=True)))
    own = tuple(Column(column.name, "TEXT", column.not_null) if column.name in key else column for column in own)
    return TableDefinition("t" + draw(names), own, key, draw(st.booleans()), draw(st.booleans()))


def refusal_of(call: Callable[..., object], *args: object) -> RefusedError | None:
    """Return how the call refuses its arguments, or None if it takes them. Anything else it raises is a bug."""
    try:
        call(*args)
    except RefusedError as error:
        return error
    return None
