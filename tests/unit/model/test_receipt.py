"""Receipts. Rules RCP-1 to RCP-4."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.errors import MalformedError, RefusedError, SignatureError
from klal.model.codec import pack
from klal.model.receipt import Copy, HeldHead, Proof, Question, Receipt, Statement, make_receipt, receipts_root
from tests.helpers.model_strategies import ANA, BEN, SPACE, hashes

nonces = st.binary(min_size=16, max_size=16)
held = st.builds(HeldHead, hashes, st.integers(1, 1 << 40), hashes)
statements = st.builds(
    Statement,
    st.just(ANA.member_id),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 48),
    st.lists(held, max_size=3).map(tuple),
    st.lists(held, max_size=3).map(tuple),
    hashes,
    st.builds(
        Copy,
        hashes,
        st.sets(hashes, max_size=2).map(lambda each: tuple(sorted(each))),
        st.lists(st.builds(Question, hashes, hashes, nonces), max_size=1).map(tuple),
        st.lists(st.builds(Proof, hashes, nonces, hashes), max_size=1).map(tuple),
    ),
)
PLAIN = Statement(ANA.member_id, bytes(16), 4, 1_700_000_000_000, (HeldHead(bytes(32), 2, bytes(32)),), ())


@given(statements)
def test_a_receipt_decodes_to_itself_and_checks(statement: Statement) -> None:
    """RCP-1."""
    made = make_receipt(ANA, SPACE, statement)
    found = Receipt.decode(made.body, made.signature)

    assert found == made
    found.check(SPACE)


@given(statements, st.data())
def test_any_byte_changed_or_cut_is_refused(statement: Statement, data: st.DataObject) -> None:
    """RCP-1, T19: every byte is signed."""
    made = make_receipt(ANA, SPACE, statement)
    at = data.draw(st.integers(0, len(made.body) - 1))
    bits = data.draw(st.integers(1, 255))
    for body in (
        made.body[:at] + bytes([made.body[at] ^ bits]) + made.body[at + 1 :],
        made.body[:at],
        made.body + b"\0",
    ):
        with pytest.raises(RefusedError):
            Receipt.decode(body, made.signature).check(SPACE)


def test_a_receipt_of_another_space_or_member_is_refused() -> None:
    """RCP-1, T12."""
    made = make_receipt(ANA, SPACE, PLAIN)

    with pytest.raises(SignatureError):
        made.check(bytes(32))
    with pytest.raises(SignatureError):
        make_receipt(BEN, SPACE, PLAIN).check(SPACE)


@pytest.mark.parametrize(
    "fields",
    [
        {0: bytes(31)},
        {1: bytes(15)},
        {2: -1},
        {3: -1},
        {4: [[bytes(31), 1, bytes(32)]]},
        {4: [[bytes(32), 0, bytes(32)]]},
        {5: [[bytes(32), 1, bytes(33)]]},
        {6: bytes(31)},
        {7: [bytes(31), [], [], []]},
        {7: [bytes(32), [bytes(31)], [], []]},
        {7: [bytes(32), [bytes([2]) * 32, bytes([1]) * 32], [], []]},
        {7: [bytes(32), [], [[bytes(32), bytes(32), bytes(15)]], []]},
        {7: [bytes(32), [], [[bytes(32), bytes(32), bytes(16)]] * 2, []]},
        {7: [bytes(32), [], [], [[bytes(32), bytes(16), bytes(31)]]]},
        {7: [bytes(32), [], [], [[bytes(32), bytes(16), bytes(32)]] * 2]},
    ],
)
def test_a_field_out_of_bounds_is_refused(fields: dict[int, object]) -> None:
    """RCP-1."""
    body: list[object] = [ANA.member_id, bytes(16), 4, 5, [], [], bytes(32), [bytes(32), [], [], []]]
    for at, value in fields.items():
        body[at] = value

    with pytest.raises(MalformedError) as caught:
        Receipt.decode(pack(body), bytes(64))
    assert caught.value.rule == "RCP-1"


def test_receipts_are_compared_by_one_root() -> None:
    """RCP-4: of the newest of each log, whatever the order they came in."""
    ana, ben = make_receipt(ANA, SPACE, PLAIN), make_receipt(BEN, SPACE, PLAIN)
    one, two = bytes([1]) * 32, bytes([2]) * 32

    assert receipts_root({one: ana, two: ben}) == receipts_root({two: ben, one: ana})
    assert receipts_root({one: ana}) != receipts_root({one: ben}) or ana.body == ben.body
    assert receipts_root({}) != receipts_root({one: ana})


def test_its_log_is_named_by_member_and_incarnation() -> None:
    """RCP-2, W28: which of a member's logs speaks is signed too."""
    one = make_receipt(ANA, SPACE, PLAIN)
    two = make_receipt(ANA, SPACE, Statement(ANA.member_id, bytes([1]) * 16, 4, 5, (), ()))

    assert one.log_id(SPACE) != two.log_id(SPACE)


@pytest.mark.parametrize("field", [2, 3])
def test_a_number_that_no_file_can_keep_is_refused(field: int) -> None:
    """RCP-1, T2: a member could else stop every replica that stores its receipt."""
    body: list[object] = [ANA.member_id, bytes(16), 4, 5, [], [], bytes(32), [bytes(32), [], [], []]]
    body[field] = 1 << 63

    with pytest.raises(MalformedError):
        Receipt.decode(pack(body), bytes(64))
