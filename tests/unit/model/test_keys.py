"""Members' keys and signatures. Rules KEY-1 to KEY-3, LOG-1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.errors import SignatureError
from klal.model.keys import SigningKey, check_signature, log_id_of
from tests.helpers.model_strategies import ANA, BEN, SPACE, seeds

TAG = "klal/test/1"


@given(seeds, st.binary(max_size=40))
def test_what_a_key_signs_checks(seed: bytes, message: bytes) -> None:
    """KEY-1."""
    key = SigningKey(seed)

    check_signature(key.member_id, key.sign(TAG, message), "word", TAG, message)


@given(st.binary(min_size=1, max_size=40), st.data())
def test_any_changed_byte_is_refused(message: bytes, data: st.DataObject) -> None:
    """KEY-1: in the key, the signature or the message."""
    fields = [ANA.member_id, ANA.sign(TAG, message), message]
    which = data.draw(st.integers(0, 2))
    at = data.draw(st.integers(0, len(fields[which]) - 1))
    bits = data.draw(st.integers(1, 255))
    changed = bytearray(fields[which])
    changed[at] ^= bits
    fields[which] = bytes(changed)

    with pytest.raises(SignatureError) as caught:
        check_signature(fields[0], fields[1], "word", TAG, fields[2])
    assert caught.value.rule == "KEY-1"


def test_a_signature_holds_for_one_key_one_tag_and_one_message() -> None:
    """KEY-2, T12."""
    signature = ANA.sign(TAG, b"a", b"b")

    check_signature(ANA.member_id, signature, "word", TAG, b"ab")
    for member_id, tag, message in (
        (BEN.member_id, TAG, b"ab"),
        (ANA.member_id, "klal/test/2", b"ab"),
        (ANA.member_id, TAG, b"ba"),
    ):
        with pytest.raises(SignatureError, match="word is not signed by"):
            check_signature(member_id, signature, "word", tag, message)


@pytest.mark.parametrize(("key_size", "signature_size"), [(0, 64), (31, 64), (33, 64), (32, 0), (32, 63), (32, 65)])
def test_a_key_or_signature_of_another_size_is_refused(key_size: int, signature_size: int) -> None:
    """KEY-1, T1: PyNaCl would raise something of its own."""
    with pytest.raises(SignatureError):
        check_signature(bytes(key_size), bytes(signature_size), "word", TAG, b"")


def test_a_seed_is_never_printed() -> None:
    """KEY-3, T44."""
    assert ANA.seed.hex() not in repr(ANA)
    assert repr(ANA.seed) not in repr(ANA)


def test_a_log_is_named_by_space_member_and_incarnation() -> None:
    """LOG-1, T12: the same key elsewhere, or after a restore, writes another log."""
    one, two = bytes(16), bytes([1]) * 16
    names = {
        log_id_of(space, key.member_id, run) for space in (SPACE, bytes(32)) for key in (ANA, BEN) for run in (one, two)
    }

    assert len(names) == 8
