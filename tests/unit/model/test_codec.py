"""One encoding for everything, and limits on foreign bytes. Rules ENC-1 to ENC-5."""

from __future__ import annotations

from hashlib import sha256

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from klal.errors import MalformedError
from klal.model import codec
from klal.model.codec import compress, decompress, pack, tagged_hash, tree_leaf, tree_root, unpack
from tests.helpers.model_strategies import refusal_of


class Shape(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    number: int
    text: str
    data: bytes
    more: tuple[int, ...] = ()


shapes = st.builds(
    Shape,
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.text(st.characters(codec="utf-8")),
    st.binary(),
    st.lists(st.integers(0, 9)).map(tuple),
)


@given(shapes)
def test_what_is_packed_unpacks_to_the_same(value: Shape) -> None:
    """ENC-3."""
    assert unpack(pack(value), Shape, "shape") == value


@given(shapes, st.data())
def test_any_byte_changed_or_cut_is_refused_or_spells_something_else(value: Shape, data: st.DataObject) -> None:
    """ENC-3, T4: no two byte strings spell one value."""
    packed = pack(value)
    at = data.draw(st.integers(0, len(packed) - 1))
    changed = data.draw(
        st.one_of(
            st.integers(1, 255).map(lambda bits: packed[:at] + bytes([packed[at] ^ bits]) + packed[at + 1 :]),
            st.just(packed[:at]),
            st.binary(min_size=1, max_size=3).map(lambda tail: packed + tail),
        )
    )

    try:
        found = unpack(changed, Shape, "shape")
    except MalformedError:
        return
    assert pack(found) == changed != packed


@given(st.binary(max_size=64))
def test_whatever_the_bytes_only_a_refusal_comes_out(data: bytes) -> None:
    """ENC-3, T1."""
    refusal = refusal_of(unpack, data, Shape, "shape")

    if refusal is None:
        assert pack(unpack(data, Shape, "shape")) == data
    else:
        assert refusal.rule == "ENC-3"


@pytest.mark.parametrize(
    "spelling",
    [
        b"\x94\xcc\x01\xa0\xc4\x00\x90",  # 1 in two bytes
        b"\x94\xd3\x00\x00\x00\x00\x00\x00\x00\x01\xa0\xc4\x00\x90",  # 1 in nine bytes
        b"\x94\x01\xd9\x00\xc4\x00\x90",  # an empty text with a length byte
        b"\x94\x01\xa0\xc5\x00\x00\x90",  # empty bytes with a length of two
        b"\xdc\x00\x04\x01\xa0\xc4\x00\x90",  # an array of four with a length of two
        b"\x93\x01\xa0\xc4\x00",  # a default left out
        b"\x95\x01\xa0\xc4\x00\x90\x01",  # a field too many
        b"\x94\xca\x3f\x80\x00\x00\xa0\xc4\x00\x90",  # 1.0 where an integer belongs
    ],
)
def test_a_second_spelling_of_a_value_is_refused(spelling: bytes) -> None:
    """ENC-3, T4."""
    assert unpack(b"\x94\x01\xa0\xc4\x00\x90", Shape, "shape") == Shape(1, "", b"")

    with pytest.raises(MalformedError, match="shape"):
        unpack(spelling, Shape, "shape")


def test_a_huge_declared_length_is_refused_before_anything_is_allocated() -> None:
    """T2: an array and a byte string that both say four gigabytes."""
    for head in (b"\xdd\xff\xff\xff\xff", b"\x94\x01\xa0\xc6\xff\xff\xff\xff", b"\x94\x01\xdb\xff\xff\xff\xff"):
        with pytest.raises(MalformedError):
            unpack(head + b"\x01", Shape, "shape")


def test_more_bytes_than_the_limit_are_refused_before_parsing() -> None:
    """ENC-4, T2."""
    with pytest.raises(MalformedError) as caught:
        unpack(b"\xc1" * 11, Shape, "shape", 10)

    assert caught.value.rule == "ENC-4"


@pytest.mark.parametrize("nest", [b"\x91", b"\x81\x01"])
def test_deep_nesting_is_refused_as_an_ordinary_fault(nest: bytes) -> None:
    """T3: also where any value may stand."""
    deep = nest * 200_000 + b"\x01"

    for kind in (Shape, list, object):
        with pytest.raises(MalformedError):
            unpack(deep, kind, "shape")


@pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
def test_a_lone_surrogate_is_refused_at_the_author(text: str) -> None:
    """T42."""
    with pytest.raises(UnicodeError):
        pack(text)


def test_text_that_is_not_utf_8_is_refused() -> None:
    """T42."""
    with pytest.raises(MalformedError):
        unpack(b"\xa2\xed\xa0", str, "text")


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_a_tag_separates_uses(one: bytes, two: bytes) -> None:
    """ENC-2, T12: one byte string under two tags has two hashes, and the parts are simply joined."""
    assert tagged_hash("klal/a/1", one, two) == tagged_hash("klal/a/1", one + two)
    assert tagged_hash("klal/a/1", one, two) != tagged_hash("klal/b/1", one, two)
    assert tagged_hash("klal/a/1", one) == sha256(b"klal/a/1\x00" + one).digest()


def _rfc_6962(leaves: list[bytes]) -> bytes:
    """Return the root as RFC 6962 section 2.1 words it: split at the largest power of two."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\x01" + _rfc_6962(leaves[:split]) + _rfc_6962(leaves[split:])).digest()


@pytest.mark.parametrize("count", [*range(1, 40), 1023, 1024, 1025])
def test_the_tree_is_that_of_rfc_6962(count: int) -> None:
    """ENC-2."""
    leaves = [tree_leaf(bytes([n % 256])) for n in range(count)]

    assert tree_root(leaves) == _rfc_6962(leaves)
    assert tree_root([]) == sha256(b"").digest()


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=9), st.data())
def test_a_tree_with_another_leaf_or_order_has_another_root(data: list[bytes], draw: st.DataObject) -> None:
    """W13: the root commits to each leaf and to its place."""
    leaves = [tree_leaf(item) for item in data]
    at = draw.draw(st.integers(0, len(leaves) - 1))

    assert tree_root([*leaves[:at], tree_leaf(b"other"), *leaves[at + 1 :]]) != tree_root(leaves)
    assert tree_root([*leaves, leaves[-1]]) != tree_root(leaves)
    if leaves != leaves[::-1]:
        assert tree_root(leaves[::-1]) != tree_root(leaves)


@given(st.binary(min_size=1, max_size=2000))
def test_what_is_compressed_decompresses_to_the_same(data: bytes) -> None:
    """ENC-5."""
    assert decompress(compress(data), len(data)) == data


def test_a_compression_bomb_is_refused_before_it_is_unpacked() -> None:
    """ENC-5, T5: the plain size is stated outside, and the frame's own is compared before anything is allocated."""
    bomb = compress(bytes(100 << 20))

    assert len(bomb) < 10_000
    with pytest.raises(MalformedError) as caught:
        decompress(bomb, 1000)
    assert caught.value.rule == "ENC-5"
    with pytest.raises(MalformedError) as caught:
        decompress(bomb, codec.SEGMENT_PLAIN_SIZE_MAX + 1)
    assert caught.value.rule == "ENC-4"


def test_a_frame_that_does_not_state_its_size_is_refused() -> None:
    """ENC-5, T5: a streamed frame could go on for ever."""
    stream = zstandard.ZstdCompressor().compressobj()
    frame = stream.compress(bytes(1000)) + stream.flush()

    with pytest.raises(MalformedError):
        decompress(frame, 1000)


@given(st.binary(min_size=300, max_size=400), st.data())
def test_a_frame_cut_changed_or_followed_by_more_never_gives_other_than_its_size(
    data: bytes, draw: st.DataObject
) -> None:
    """ENC-5, T1."""
    frame = compress(data)
    at = draw.draw(st.integers(0, len(frame) - 1))
    for changed in (frame[:at], frame + b"\0", frame + frame, frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]):
        try:
            plain = decompress(changed, len(data))
        except MalformedError:
            continue
        assert len(plain) == len(data)
