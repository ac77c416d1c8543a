"""Row writes as bytes. Rules PAY-1 to PAY-6."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.errors import MalformedError
from klal.model.codec import SALT_SIZE, SEGMENT_COLUMN_COUNT_MAX, SEGMENT_ROW_COUNT_MAX, SLICE_SIZE, compress
from klal.model.payload import (
    Kind,
    Segment,
    decode_segments,
    decode_stripes,
    encode_row,
    encode_segment,
    part_leaves,
    part_root,
    slices_of,
    touched_keys,
)
from tests.helpers.model_strategies import column_ids, refusal_of, segments, sql_values

SALT = bytes(range(SALT_SIZE))
COLUMN = b"column-1"
_pack = msgspec.msgpack.Encoder().encode


def _plain(segment: Segment) -> tuple[object, ...]:
    """Return the segment with its rows as tuples, and each float by its spelling."""
    spelled = [[repr(value) for value in column] for column in segment.values]
    lives = None if segment.lives is None else list(segment.lives)
    keys = [tuple(map(repr, key)) for key in segment.keys]
    return segment.kind, segment.columns, keys, spelled, lives, segment.is_final


def _raw(
    kind: int = 2,
    flags: int = 0,
    columns: tuple[bytes, ...] = (COLUMN,),
    row_count: int = 1,
    keys: bytes = _pack([["k"]]),
    values: bytes = _pack([[1]]),
    column_count: int | None = None,
    keys_plain: int | None = None,
) -> bytes:
    head = struct.pack(
        ">BBHIIIII",
        kind,
        flags,
        len(columns) if column_count is None else column_count,
        row_count,
        len(keys) if keys_plain is None else keys_plain,
        len(keys),
        len(values),
        len(values),
    )
    return SALT + head + b"".join(columns) + keys + values


@given(st.lists(segments(), min_size=1, max_size=3))
def test_a_part_decodes_to_its_segments(written: list[Segment]) -> None:
    """PAY-1, PAY-2, T42: every SQL value, a negative zero and text with a NUL among them."""
    part = SALT + b"".join(map(encode_segment, written))

    assert [_plain(segment) for segment in decode_segments(part)] == [_plain(segment) for segment in written]


@given(
    st.sampled_from([Kind.INSERT, Kind.UPDATE]),
    st.lists(column_ids, max_size=3, unique=True),
    st.lists(sql_values, min_size=1, max_size=3),
    st.data(),
)
def test_one_row_written_the_short_way_has_the_same_bytes(
    kind: Kind, columns: list[bytes], key: list[object], data: st.DataObject
) -> None:
    """PAY-2, for rows on both sides of the size that is compressed, whatever the order of their columns."""
    values = [data.draw(sql_values | st.just("x" * 300)) for _ in columns]
    places = data.draw(st.permutations(range(len(key) + len(values))))
    row = [value for _, value in sorted(zip(places, [*key, *values], strict=True), key=lambda pair: pair[0])]

    long_way = encode_segment(Segment(kind, tuple(columns), [[value] for value in key], [[value] for value in values]))
    assert encode_row(kind, columns, row, places[: len(key)], places[len(key) :]) == long_way


def test_large_sections_are_compressed_and_come_back() -> None:
    """PAY-2, ENC-5."""
    keys = [f"key {n}" for n in range(2000)]
    written = Segment(Kind.INSERT, (COLUMN,), [keys], [list(range(2000))])

    encoded = encode_segment(written)
    (found,) = decode_segments(SALT + encoded)

    assert len(encoded) < 12_000
    assert _plain(found) == _plain(written)


@given(st.binary(max_size=200))
def test_whatever_the_bytes_only_a_refusal_comes_out(data: bytes) -> None:
    """T1, T9."""
    refusal = refusal_of(list, decode_segments(SALT + data))

    assert refusal is None or refusal.rule[:3] in {"PAY", "ENC"}


@given(segments(), st.data())
def test_any_byte_changed_or_cut_is_refused_or_has_another_root(segment: Segment, data: st.DataObject) -> None:
    """PAY-6, T22: whatever it decodes to, it is not what the header committed to."""
    part = SALT + encode_segment(segment)
    at = data.draw(st.integers(0, len(part) - 1))
    for changed in (part[:at] + bytes([part[at] ^ 1]) + part[at + 1 :], part[:at], part + b"\0"):
        assert part_root(changed) != part_root(part)
        refusal = refusal_of(list, decode_segments(changed))
        assert refusal is None or refusal.rule[:3] in {"PAY", "ENC"}


@pytest.mark.parametrize(
    ("part", "rule"),
    [
        (b"", "PAY-1"),
        (SALT, "PAY-1"),
        (SALT + bytes(5), "PAY-2"),
        (_raw(kind=0), "PAY-2"),
        (_raw(kind=4), "PAY-2"),
        (_raw(flags=8), "PAY-2"),
        (_raw(kind=1, flags=8), "PAY-2"),
        (_raw(kind=3, flags=16, columns=(), values=_pack([])), "PAY-2"),
        (_raw()[:-1], "PAY-2"),
        (_raw() + b"\0", "PAY-2"),
        (_raw(keys_plain=99), "PAY-2"),
        (_raw(row_count=0), "PAY-3"),
        (_raw(row_count=SEGMENT_ROW_COUNT_MAX + 1), "PAY-3"),
        (_raw(column_count=SEGMENT_COLUMN_COUNT_MAX + 1), "PAY-3"),
        (_raw(keys_plain=(1 << 28) + 1), "PAY-3"),
        (_raw(columns=(COLUMN, COLUMN), values=_pack([[1], [1]])), "PAY-4"),
        (_raw(keys=_pack([])), "PAY-4"),
        (_raw(keys=_pack([["k"]] * 65)), "PAY-4"),
        (_raw(flags=1, keys=_pack([["k"], [0]])), "PAY-4"),
        (_raw(flags=1, keys=_pack([["k"], ["2"]])), "PAY-4"),
        (_raw(flags=1, keys=_pack([["k"], [1 << 53]])), "PAY-4"),
        (_raw(values=_pack([])), "PAY-4"),
        (_raw(kind=3), "PAY-4"),
        (_raw(keys=_pack([["k", "l"]])), "PAY-5"),
        (_raw(values=b"\xc1"), "PAY-5"),
        (_raw(values=_pack([1])), "PAY-5"),
        (_raw(values=_pack({"a": 1})), "PAY-5"),
        (_raw(values=_pack([[True]])), "PAY-5"),
        (_raw(values=_pack([[[1]]])), "PAY-5"),
        (_raw(values=_pack([[{"a": 1}]])), "PAY-5"),
        (_raw(values=_pack([[msgspec.msgpack.Ext(5, b"x")]])), "PAY-5"),
        (_raw(values=b"\x91\x91\xa2\xed\xa0"), "PAY-5"),
        (_raw(values=b"\x91" * 100_000 + b"\x01"), "PAY-5"),
    ],
)
def test_a_segment_outside_the_layout_is_refused_by_its_rule(part: bytes, rule: str) -> None:
    """PAY-1 to PAY-5, T1, T2, T3, T9: PAY-2, PAY-3, PAY-4."""
    with pytest.raises(MalformedError) as caught:
        list(decode_segments(part))

    assert caught.value.rule == rule


@pytest.mark.parametrize("value", [1 << 63, (1 << 64) - 1, float("nan")])
@pytest.mark.parametrize("others", [[], [None, 7, "x"], [1.5, -2.5], [float("inf"), float("-inf")]])
def test_a_value_that_sqlite_cannot_hold_is_refused(value: float, others: list[object]) -> None:
    """PAY-5, T42: alone and among others, of its own type and not."""
    row_count = len(others) + 1
    keys = _pack([list(range(row_count))])
    with pytest.raises(MalformedError) as caught:
        list(decode_segments(_raw(row_count=row_count, keys=keys, values=_pack([[*others, value]]))))

    assert caught.value.rule == "PAY-5"


def test_infinities_that_cancel_out_are_no_nan() -> None:
    """PAY-5, T42: a NaN is looked for by a sum, which two infinities make one as well."""
    values = [float("inf"), 1.5, float("-inf")]
    (found,) = decode_segments(_raw(row_count=3, keys=_pack([[1, 2, 3]]), values=_pack([values])))

    assert found.values == [values]


@pytest.mark.parametrize("value", [-(1 << 63), (1 << 63) - 1, -0.0, float("inf"), 5e-324, "a\0b", "", b"", b"\xff" * 9])
def test_an_odd_value_comes_back_to_the_byte(value: object) -> None:
    """T42."""
    (found,) = decode_segments(_raw(values=_pack([[value]])))

    assert repr(found.values[0][0]) == repr(value)


def test_a_bomb_in_a_segment_is_refused_by_the_size_it_states() -> None:
    """T5, PAY-3, ENC-5."""
    bomb = compress(_pack([["k" * (64 << 20)]]))

    assert len(bomb) < 10_000
    for stated in (len(bomb), 1000):
        with pytest.raises(MalformedError):
            list(decode_segments(_raw(flags=2, keys=bomb, keys_plain=stated)))


@pytest.mark.parametrize("size", [17, SLICE_SIZE - 1, SLICE_SIZE, SLICE_SIZE + 1, 3 * SLICE_SIZE])
def test_slices_join_to_the_part_and_their_leaves_give_its_root(size: int) -> None:
    """PAY-6."""
    part = bytes(n % 251 for n in range(size))
    slices = list(slices_of(part))

    assert b"".join(slices) == part
    assert {len(piece) for piece in slices[:-1]} <= {SLICE_SIZE}
    assert len(part_leaves(part)) == len(slices) == -(-size // SLICE_SIZE)
    for at in range(0, size, SLICE_SIZE // 2 + 1):
        assert part_root(part[:at] + bytes([part[at] ^ 1]) + part[at + 1 :]) != part_root(part)


def test_the_salt_is_part_of_what_is_hashed() -> None:
    """PAY-1: without it a guess at a small payload could be confirmed by its root."""
    body = encode_segment(Segment(Kind.DELETE, (), [["k"]], []))

    assert part_root(bytes(SALT_SIZE) + body) != part_root(SALT + body)


@given(st.lists(segments(), min_size=1, max_size=3))
def test_a_stripe_gives_what_the_whole_segment_gives(drawn: list[Segment]) -> None:
    part = SALT + b"".join(map(encode_segment, drawn))

    for stripe, segment in zip(decode_stripes(part), decode_segments(part), strict=True):
        columns = [stripe.column(index) for index in reversed(range(len(stripe.columns)))][::-1]
        keys = [key if isinstance(key, tuple) else (key,) for key in stripe.keys]
        found = Segment.of_keys(stripe.kind, stripe.columns, keys, columns, stripe.lives, is_final=stripe.is_final)
        assert _plain(found) == _plain(segment)
        assert stripe.row_count == segment.row_count == len(segment.keys)


@given(st.lists(segments(), min_size=1, max_size=4))
def test_the_keys_of_many_parts_are_those_of_each(drawn: list[Segment]) -> None:
    # Of one table, as they are always asked for: with keys of one width.
    width = len(drawn[0].keys[0])
    parts = [SALT + encode_segment(segment) for segment in drawn if len(segment.keys[0]) == width]
    want: dict[tuple[object, ...], list[str]] = {}
    for segment in (segment for part in parts for segment in decode_segments(part)):
        form = (segment.kind, segment.columns, segment.lives is not None)
        want.setdefault(form, []).extend(map(repr, segment.keys))

    found = {
        (form.kind, form.columns, form.has_lives): [
            repr(key if isinstance(key, tuple) else (key,)) for key in form.keys
        ]
        for form in touched_keys(parts)
    }
    assert found == want
