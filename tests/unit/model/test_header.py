"""The header of a change. Rules HDR-1 to HDR-6."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.errors import MalformedError
from klal.model.codec import EPOCH_MAX, HEADER_SIZE_MAX, PART_COUNT_MAX, PART_SIZE_MAX, PAST_COUNT_MAX, SEQ_MAX
from klal.model.header import Header, Part, header_hash, parts_of, past_of
from tests.helpers.model_strategies import SPACE, headers, refusal_of

PLAIN = Header(
    3,
    1,
    1_700_000_000_000,
    2,
    bytes([1]) * 32,
    bytes(32),
    (bytes([2]) * 32, bytes([3]) * 32),
    (Part(bytes(16), bytes([4]) * 32, 17, 1), Part(bytes([5]) * 16, bytes([6]) * 32, 40, 2)),
)


@given(headers())
def test_a_header_decodes_to_itself(header: Header) -> None:
    """HDR-1."""
    assert Header.decode(header.encode()) == header


@given(headers(), st.data())
def test_any_byte_changed_or_cut_is_refused_or_another_header(header: Header, data: st.DataObject) -> None:
    """HDR-1, T1, T4: no two byte strings decode to equal headers."""
    encoded = header.encode()
    at = data.draw(st.integers(0, len(encoded) - 1))
    bits = data.draw(st.integers(1, 255))
    for changed in (
        encoded[:at] + bytes([encoded[at] ^ bits]) + encoded[at + 1 :],
        encoded[:at],
        encoded + b"\0",
    ):
        refusal = refusal_of(Header.decode, changed)
        if refusal is None:
            assert Header.decode(changed) != header
            assert Header.decode(changed).encode() == changed
        else:
            assert refusal.rule.startswith("HDR-")


@given(st.binary(max_size=400))
def test_whatever_the_bytes_only_a_refusal_comes_out(data: bytes) -> None:
    """T1."""
    refusal = refusal_of(Header.decode, b"\x01" + data)

    if refusal is None:
        assert Header.decode(b"\x01" + data).encode() == b"\x01" + data
    else:
        assert refusal.rule.startswith("HDR-")


def _with(offset: int, layout: str, value: int) -> bytes:
    encoded = bytearray(PLAIN.encode())
    struct.pack_into(layout, encoded, offset, value)
    return bytes(encoded)


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "HDR-1"),
        (PLAIN.encode()[:87], "HDR-1"),
        (bytes([1]) + bytes(HEADER_SIZE_MAX), "HDR-1"),
        (PLAIN.encode() + b"\0", "HDR-1"),
        (_with(0, ">B", 0), "HDR-2"),
        (_with(0, ">B", 2), "HDR-2"),
        (_with(1, ">B", PAST_COUNT_MAX + 1), "HDR-3"),
        (_with(1, ">B", 3), "HDR-1"),
        (_with(2, ">B", PART_COUNT_MAX + 1), "HDR-3"),
        (_with(3, ">B", 2), "HDR-3"),
        (_with(4, ">I", EPOCH_MAX + 1), "HDR-3"),
        (_with(8, ">Q", SEQ_MAX + 1), "HDR-3"),
        (_with(88, ">B", 9), "HDR-4"),
        (_with(88 + 64, ">B", 9), "HDR-5"),
        (_with(88 + 64 + 48, ">Q", 0), "HDR-3"),
        (_with(88 + 64 + 48, ">Q", PART_SIZE_MAX + 1), "HDR-3"),
    ],
)
def test_a_header_outside_the_layout_is_refused_by_its_rule(data: bytes, rule: str) -> None:
    """HDR-1 to HDR-5, T1, T2, T6: HDR-2, HDR-3, HDR-4."""
    with pytest.raises(MalformedError) as caught:
        Header.decode(data)

    assert caught.value.rule == rule


@pytest.mark.parametrize("repeated", [PLAIN.past[0], bytes(32)])
def test_past_hashes_that_repeat_or_descend_are_refused(repeated: bytes) -> None:
    """HDR-4, T6."""
    header = Header(3, 1, 0, 0, bytes(32), bytes(32), (PLAIN.past[0], repeated), ())

    with pytest.raises(MalformedError) as caught:
        Header.decode(header.encode())
    assert caught.value.rule == "HDR-4"


def test_the_fullest_header_fits_the_limit() -> None:
    past = tuple(bytes([n]) * 32 for n in range(PAST_COUNT_MAX))
    parts = tuple(Part(bytes([n]) * 16, bytes(32), 1, 0) for n in range(PART_COUNT_MAX))
    full = Header(0, 0, 0, 0, bytes(32), bytes(32), past, parts)

    assert Header.decode(full.encode()) == full


def test_a_hash_is_bound_to_its_space_and_to_every_byte() -> None:
    """HDR-6, T12, W13: through backlink and past it commits to all that its writer had seen."""
    encoded = PLAIN.encode()
    other = Header(3, 1, PLAIN.unix_ms, 2, PLAIN.backlink, bytes(32), (PLAIN.past[0], bytes([9]) * 32), PLAIN.parts)

    assert header_hash(SPACE, encoded) != header_hash(bytes(32), encoded)
    assert header_hash(SPACE, encoded) != header_hash(SPACE, other.encode())
    assert len({header_hash(SPACE, bytes([n]) + encoded[1:]) for n in range(256)}) == 256


@given(headers())
def test_the_parts_and_the_past_of_a_stored_header_are_those_of_the_whole(header: Header) -> None:
    assert tuple(parts_of(header.encode())) == header.parts
    assert tuple(past_of(header.encode())) == header.past
