"""Seals. Rules SEA-1 and SEA-2."""

from __future__ import annotations

from dataclasses import replace

import pytest

from klal.errors import SignatureError
from klal.model.seal import make_seal
from tests.helpers.model_strategies import ANA, BEN, SPACE

LOG, HEAD = bytes([8]) * 32, bytes([9]) * 32


def test_a_seal_that_a_member_made_checks() -> None:
    """SEA-1."""
    make_seal(ANA, SPACE, LOG, 5, HEAD).check(SPACE, ANA.member_id)


@pytest.mark.parametrize(
    "change",
    [{"log_id": bytes(32)}, {"length": 6}, {"length": 4}, {"head_hash": bytes(32)}, {"signature": bytes(64)}],
)
def test_a_seal_with_any_field_changed_is_refused(change: dict[str, object]) -> None:
    """SEA-1."""
    seal = replace(make_seal(ANA, SPACE, LOG, 5, HEAD), **change)

    with pytest.raises(SignatureError):
        seal.check(SPACE, ANA.member_id)


def test_a_seal_of_another_space_or_member_is_refused() -> None:
    """SEA-1, T12: the space is signed with it."""
    seal = make_seal(ANA, SPACE, LOG, 5, HEAD)

    with pytest.raises(SignatureError, match="at 5"):
        seal.check(bytes(32), ANA.member_id)
    with pytest.raises(SignatureError):
        seal.check(SPACE, BEN.member_id)
