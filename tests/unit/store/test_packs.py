"""Headers in blocks: what comes out is what went in, and a changed block is refused or gives another chain."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from klal.errors import DamagedError
from klal.model.header import Header, header_hash
from klal.rules.merge import ChangeRef
from klal.store.file import memory_file
from klal.store.packs import PACK_COUNT_MAX, Packs, pack_headers, unpack_headers
from tests.helpers.model_strategies import headers

SPACE = bytes(range(32))


def chained(drawn: list[Header], start: int) -> list[bytes]:
    """Return headers as consecutive ones of one log."""
    backlink, found = b"\7" * 32, []
    for seq, header in enumerate(drawn, start):
        data = Header(
            seq,
            header.epoch,
            header.unix_ms,
            header.counter,
            backlink,
            header.certificate,
            header.past,
            header.parts,
            header.is_sealed,
        ).encode()
        backlink = header_hash(SPACE, data)
        found.append(data)
    return found


@given(st.lists(headers(), min_size=1, max_size=20), st.integers(0, 1 << 40))
def test_headers_come_out_of_a_block_as_they_went_in(drawn, start):
    """FIL-3: byte for byte, so hashes and links are those that were signed."""
    run = chained(drawn, start)

    assert unpack_headers(SPACE, pack_headers(run)) == run


@given(st.binary(max_size=300))
def test_bytes_that_are_no_block_are_refused(data):
    with pytest.raises(DamagedError):
        unpack_headers(SPACE, data)


@given(st.lists(headers(), min_size=2, max_size=4), st.data())
def test_no_flipped_bit_of_a_block_gives_the_same_headers(drawn, data):
    run = chained(drawn, 5)
    block = bytearray(pack_headers(run))
    block[data.draw(st.integers(0, len(block) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = unpack_headers(SPACE, bytes(block))
    except DamagedError:
        return
    # zstd has bits of its own that mean nothing, and what is read past is no header.
    assert found == run or header_hash(SPACE, found[-1]) != header_hash(SPACE, run[-1])


@given(st.lists(headers(), min_size=1, max_size=3))
def test_a_header_is_found_by_number_and_by_hash_over_several_blocks(drawn):
    run = chained((drawn * (PACK_COUNT_MAX + 5))[: PACK_COUNT_MAX + 5], 3)
    packs = Packs(memory_file(), SPACE)
    packs.add(2, 3, run)

    assert packs.length(2) == 3 + len(run)
    assert packs.length(1) == 0
    for at in (0, 1, PACK_COUNT_MAX - 1, PACK_COUNT_MAX, len(run) - 1, 0):
        hashed = header_hash(SPACE, run[at])
        assert packs.header(ChangeRef(2, 3 + at)) == run[at]
        assert packs.find(hashed) == ChangeRef(2, 3 + at)
        assert packs.has_mark(ChangeRef(2, 3 + at), hashed)
    assert packs.find(bytes(32)) is None
    for place in (ChangeRef(2, 2), ChangeRef(2, 3 + len(run)), ChangeRef(1, 5)):
        with pytest.raises(DamagedError):
            packs.header(place)
