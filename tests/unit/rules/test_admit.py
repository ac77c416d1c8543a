"""What may enter a log and a payload."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.errors import LinkError, MalformedError, RefusedError, SignatureError
from klal.model.codec import SLICE_SIZE, tree_leaf, tree_root
from klal.model.frontier import Head
from klal.model.header import Part
from klal.model.seal import SEAL_EVERY_COUNT, Seal
from klal.rules.admit import Admission, admit_run, check_chain, check_leaves, check_run, check_slice
from klal.sync.station import Run
from tests.helpers.memory_station import SPACE, TABLE, Author, part_leaves, row_bytes, slices_of


def author_with(count: int, name: str = "ana", size: int = 8) -> tuple[Author, Run]:
    author = Author(name)
    for number in range(count):
        author.write(row_bytes(name, number, size))
    return author, author.run()


def test_a_run_from_the_beginning_is_a_chain():
    _, run = author_with(3)

    assert [header.seq for header in check_run(SPACE, None, run)] == [0, 1, 2]


def test_a_run_that_goes_on_at_the_head_is_accepted():
    author, _ = author_with(3)
    author.seal()
    links = check_chain(SPACE, next(author.own.runs(author.log_id, 0, 3)))
    author.write(b"more")

    assert [header.seq for header in check_run(SPACE, Head(3, links[-1].hash), author.run())] == [3]


def test_a_run_over_another_predecessor_is_refused():
    """LOG-3, T8: the head hash is what tells equal lengths apart."""
    author, _ = author_with(3)
    author.seal()
    author.write(b"more")
    run = author.run()

    with pytest.raises(LinkError) as caught:
        check_run(SPACE, Head(3, bytes(32)), run)
    assert caught.value.rule == "LOG-3"
    with pytest.raises(LinkError):
        check_run(SPACE, Head(2, run.seal.head_hash), run)


def test_a_wrong_backlink_inside_a_run_is_refused():
    """LOG-3, T8."""
    _, mine = author_with(3)
    _, other = author_with(3, size=9)
    run = replace(mine, headers=(mine.headers[0], other.headers[1], mine.headers[2]))

    with pytest.raises(LinkError) as caught:
        check_chain(SPACE, run)
    assert caught.value.rule == "LOG-3"


def test_numbers_that_do_not_follow_are_refused():
    """LOG-2, T8."""
    _, run = author_with(3)

    with pytest.raises(MalformedError) as caught:
        check_chain(SPACE, replace(run, headers=(run.headers[0], run.headers[2])))
    assert caught.value.rule == "LOG-2"


def test_an_empty_run_is_refused():
    _, run = author_with(1)

    with pytest.raises(MalformedError):
        check_chain(SPACE, replace(run, headers=()))


def test_a_log_id_that_is_not_its_members_is_refused():
    """LOG-1."""
    _, run = author_with(1)

    for changed in (
        replace(run, log_id=bytes(32)),
        replace(run, member_id=bytes(32)),
        replace(run, incarnation=bytes(16)),
        replace(run, incarnation=b""),
    ):
        with pytest.raises(MalformedError) as caught:
            check_chain(SPACE, changed)
        assert caught.value.rule == "LOG-1"


def test_a_run_of_another_space_is_refused():
    """T12: every hash and signature is bound to its space."""
    _, run = author_with(1)

    with pytest.raises(RefusedError):
        check_chain(bytes(32), run)


def test_a_seal_by_another_key_is_refused():
    """SEA-1."""
    _, run = author_with(2)
    seal = run.seal
    forged = Seal(seal.log_id, seal.length, seal.head_hash, bytes(64))

    with pytest.raises(SignatureError) as caught:
        check_chain(SPACE, replace(run, seal=forged))
    assert caught.value.rule == "SEA-1"


def test_a_seal_of_another_length_is_refused():
    """SEA-1: a seal says where a log ends, and a run ends exactly there."""
    author, run = author_with(3)

    with pytest.raises(LinkError) as caught:
        check_chain(SPACE, replace(run, headers=run.headers[:2]))
    assert caught.value.rule == "SEA-1"
    assert author.length == 3


@given(data=st.data())
def test_no_changed_byte_of_a_run_passes(data):
    """T1: a header, signed as a whole, has no byte that may differ."""
    _, run = author_with(2)
    which = data.draw(st.integers(0, 1))
    header = bytearray(run.headers[which])
    at = data.draw(st.integers(0, len(header) - 1))
    header[at] ^= 1 << data.draw(st.integers(0, 7))
    headers = list(run.headers)
    headers[which] = bytes(header)

    with pytest.raises(RefusedError):
        check_chain(SPACE, replace(run, headers=tuple(headers)))


class Held:
    """Headers of one log, by hash: what `admit_run` asks of a station."""

    def __init__(self, *runs: Run) -> None:
        self.links = {link.hash: link for run in runs for link in check_chain(SPACE, run)}
        self.lengths = {run.seal.head_hash: run.seal.length for run in runs}

    def find(self, seq: int, hashed: bytes) -> bytes | None:
        link = self.links.get(hashed)
        return hashed if link is not None and link.header.seq == seq else None

    def after(self, place: bytes | None) -> list[tuple[bytes, bytes]]:
        found = [
            link
            for link in self.links.values()
            if link.header.backlink == place or (place is None and link.header.seq == 0)
        ]
        return [(link.hash, link.hash) for link in found]

    def seals_below(self, place: bytes | None) -> int:
        length = 0
        while place is not None:
            length = max(length, self.lengths.get(place, 0))
            link = self.links[place]
            place = link.header.backlink if link.header.seq else None
        return length


def test_what_is_held_already_is_a_duplicate():
    """T10."""
    _, run = author_with(3)
    links = check_chain(SPACE, run)

    assert admit_run(Held(run), links) == (Admission.DUPLICATE, links[-1].hash, [], False)


def test_a_run_beyond_a_gap_waits():
    """LOG-2, T8: waiting is a value."""
    author, _ = author_with(3)
    author.seal()
    author.write(b"more")

    fit = admit_run(Held(), check_chain(SPACE, author.run()))

    assert (fit.verdict, fit.fresh) == (Admission.WAIT, [])


def test_an_overlapping_run_brings_what_lies_beyond():
    author, short = author_with(2)
    author.write(b"more")
    links = check_chain(SPACE, author.run())

    assert admit_run(Held(short), links) == (Admission.APPEND, links[1].hash, links[2:], False)


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_a_second_header_under_one_number_is_a_fork(shared):
    """LOG-4, T8, T15: found whichever of the two came first."""
    one, other = author_with(shared)[0], author_with(shared)[0]
    for author, data in ((one, b"mine"), (other, b"theirs")):
        author.write(data)
        author.write(b"more")
    runs = one.run(), other.run()
    for held, new in (runs, runs[::-1]):
        links = check_chain(SPACE, new)
        below = links[shared - 1].hash if shared else None

        assert admit_run(Held(held), links) == (Admission.APPEND, below, links[shared:], True)
        assert admit_run(Held(held, new), links).verdict is Admission.DUPLICATE


def test_a_branch_is_never_longer_under_one_seal_than_a_run_may_be():
    """LOG-2, T8: else whoever holds nothing of it could not be sent it."""
    one, _ = author_with(SEAL_EVERY_COUNT - 24)
    held = one.run()
    one.seal()
    other, _ = author_with(500)
    start = other.run()
    other.own.take(start)
    other._pending.clear()
    for number in range(600):
        other.write(row_bytes("other", number, 9))
    links = check_chain(SPACE, other.run())

    with pytest.raises(MalformedError) as caught:
        admit_run(Held(held), links)
    assert caught.value.rule == "LOG-2"
    # With the seal in between, the same headers are two runs.
    assert admit_run(Held(held, start), links).is_fork


def part_of(data: bytes) -> Part:
    return Part(TABLE, tree_root(part_leaves(data)), len(data), 1)


def test_a_slice_of_a_small_part_is_checked_against_the_root():
    """PAY-6, T22."""
    part = part_of(b"rows")
    check_slice(part, None, 0, b"rows")

    for index, data in ((0, b"rowz"), (0, b"row"), (0, b"rows "), (1, b"rows"), (-1, b"rows")):
        with pytest.raises(RefusedError) as caught:
            check_slice(part, None, index, data)
        assert caught.value.rule == "PAY-6"


def test_slices_of_a_large_part_are_checked_against_its_leaves():
    """PAY-6, T22."""
    data = row_bytes("large", 2 * SLICE_SIZE + 5)
    part = part_of(data)
    leaves = part_leaves(data)
    check_leaves(part, leaves)
    for index, piece in enumerate(slices_of(data)):
        check_slice(part, leaves, index, piece)

    with pytest.raises(RefusedError):
        check_slice(part, None, 0, data[:SLICE_SIZE])
    with pytest.raises(RefusedError):
        check_slice(part, leaves, 1, bytes(SLICE_SIZE))
    with pytest.raises(RefusedError):
        check_slice(part, leaves, 2, bytes(5) + b"6")


def test_leaves_that_hash_to_another_root_are_refused():
    """PAY-6, T22."""
    data = row_bytes("large", SLICE_SIZE + 5)
    part = part_of(data)
    good = part_leaves(data)

    for leaves in ([], good[:1], [*good, good[0]], [good[1], good[0]], [good[0], tree_leaf(b"")], [good[0], b""]):
        with pytest.raises(RefusedError) as caught:
            check_leaves(part, leaves)
        assert caught.value.rule == "PAY-6"
