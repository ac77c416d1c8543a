"""Acts. Rules ACT-1 to ACT-3 and MEM-1 to MEM-5."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.errors import MalformedError, RefusedError, SignatureError
from klal.model.acts import (
    ACT_COUNT_MAX,
    Act,
    AddColumn,
    Close,
    CreateTable,
    Genesis,
    Invitation,
    Invite,
    Join,
    Policy,
    SetPolicy,
    decode_acts,
    encode_acts,
    make_invitation,
    make_join,
)
from klal.model.codec import EPOCH_MAX, SALT_SIZE, UNIX_MS_MAX, pack
from tests.helpers.model_strategies import ANA, BEN, MIRA, SPACE, addable_columns, definitions, names, table_ids

SALT = bytes(SALT_SIZE)
INVITATION = make_invitation(ANA, SPACE, MIRA.member_id, 2, 0)
GENESIS = Genesis("season", ANA.member_id, "ana", bytes(32), Policy())
JOIN = make_join(MIRA, SPACE, BEN.member_id, "ben", INVITATION)

acts = st.one_of(
    st.builds(
        Genesis,
        names,
        st.just(ANA.member_id),
        names,
        st.binary(min_size=32, max_size=32),
        st.builds(Policy, st.sampled_from(["member", "steward"]), st.integers(0, UNIX_MS_MAX)),
    ),
    st.just(Invite(INVITATION)),
    st.just(JOIN),
    st.builds(CreateTable, definitions()),
    st.builds(AddColumn, table_ids, addable_columns),
    st.builds(SetPolicy, table_ids, st.just("row"), st.sampled_from(["", "revive", "wins"]), st.integers(1, 99)),
    st.builds(Close, st.integers(0, EPOCH_MAX)),
)


@given(st.lists(acts, max_size=4).map(tuple))
def test_acts_decode_to_themselves(made: tuple[Act, ...]) -> None:
    """ACT-1."""
    part = encode_acts(made, SALT)

    assert decode_acts(part) == made
    assert encode_acts(decode_acts(part), SALT) == part


@given(st.lists(acts, min_size=1, max_size=2).map(tuple), st.data())
def test_any_byte_changed_or_cut_is_refused_or_says_something_else(made: tuple[Act, ...], data: st.DataObject) -> None:
    """ACT-1, T4."""
    part = encode_acts(made, SALT)
    at = data.draw(st.integers(SALT_SIZE, len(part) - 1))
    bits = data.draw(st.integers(1, 255))
    for changed in (part[:at] + bytes([part[at] ^ bits]) + part[at + 1 :], part[:at], part + b"\0"):
        try:
            found = decode_acts(changed)
        except RefusedError:
            continue
        assert found != made
        assert encode_acts(found, SALT) == changed


@dataclass
class _Case:
    name: str
    act: list[object]


def _fields(act: Act) -> list[object]:
    return msgspec.msgpack.decode(pack(act))


def _changed(act: Act, at: int, value: object) -> list[object]:
    fields = _fields(act)
    fields[at] = value
    return fields


FORGED = [
    Invitation(ANA.member_id, MIRA.member_id, 3, 0, INVITATION.signature),
    Invitation(BEN.member_id, MIRA.member_id, 2, 0, INVITATION.signature),
    Invitation(ANA.member_id, MIRA.member_id, 2, 1, INVITATION.signature),
]


@pytest.mark.parametrize(
    "fields",
    [
        ["nothing"],
        ["close"],
        ["close", -1],
        ["close", EPOCH_MAX + 1],
        ["close", 1, 2],
        _changed(GENESIS, 1, ""),
        _changed(GENESIS, 1, "x" * 201),
        _changed(GENESIS, 1, "line\nbreak"),
        _changed(GENESIS, 1, "\x1b[31m"),
        _changed(GENESIS, 2, bytes(31)),
        _changed(GENESIS, 4, bytes(31)),
        _changed(GENESIS, 5, ["anybody", 5]),
        _changed(GENESIS, 5, ["member", UNIX_MS_MAX + 1]),
        _changed(JOIN, 1, bytes(33)),
        _changed(JOIN, 2, "tab\t"),
        _changed(JOIN, 4, bytes(63)),
        _changed(Invite(INVITATION), 1, [ANA.member_id, MIRA.member_id, 0, 0, bytes(64)]),
        _changed(Invite(INVITATION), 1, [ANA.member_id, MIRA.member_id, 1 << 31, 0, bytes(64)]),
        _changed(Invite(INVITATION), 1, [ANA.member_id, bytes(31), 1, 0, bytes(64)]),
        _changed(Invite(INVITATION), 1, [ANA.member_id, MIRA.member_id, 1, 0, bytes(65)]),
        _changed(Invite(INVITATION), 1, [ANA.member_id, MIRA.member_id, 1, -1, bytes(64)]),
        ["leave", -1],
        ["return", 1],
        ["retire", bytes(31), 0, "lost"],
        ["retire", bytes(32), 0, ""],
        ["retire", bytes(32), EPOCH_MAX + 1, "lost"],
        ["expel", bytes(32), 0, "\x1b[2J"],
        ["admit", bytes(33)],
        ["support", 0, 0, bytes(32)],
        ["support", 0, 1, bytes(31)],
        ["take", 0, 1 << 31],
        ["hand", 0, bytes(31)],
        ["certify", 0, bytes(31)],
        ["policy", bytes(15), "row", ""],
        ["policy", bytes(16), "", ""],
        ["policy", bytes(16), "rows", ""],
        ["policy", bytes(16), "", "cascade"],
        ["column", bytes(15), ["c", "TEXT", False, None, "BINARY"]],
    ],
)
def test_an_act_out_of_bounds_is_refused(fields: list[object]) -> None:
    """ACT-2, POL-1, ENC-3, T44: control characters in a name would reach a terminal."""
    with pytest.raises(MalformedError) as caught:
        decode_acts(SALT + pack([fields]))

    assert caught.value.rule in {"ACT-2", "POL-1", "ENC-3"}


def test_too_many_acts_or_too_few_bytes_are_refused() -> None:
    """ACT-1, T2."""
    with pytest.raises(MalformedError) as caught:
        decode_acts(SALT + pack([["close", 1]] * (ACT_COUNT_MAX + 1)))
    assert caught.value.rule == "ACT-1"
    with pytest.raises(MalformedError):
        decode_acts(SALT[:-1])
    with pytest.raises(MalformedError):
        decode_acts(SALT)


def test_a_salt_of_another_size_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="want 16"):
        encode_acts((), b"")


def test_a_space_is_named_by_its_whole_genesis() -> None:
    """ACT-3, W1: one history, one origin."""
    others = [
        Genesis("seasons", ANA.member_id, "ana", bytes(32), Policy()),
        Genesis("season", BEN.member_id, "ana", bytes(32), Policy()),
        Genesis("season", ANA.member_id, "anna", bytes(32), Policy()),
        Genesis("season", ANA.member_id, "ana", bytes(31) + b"\1", Policy()),
        Genesis("season", ANA.member_id, "ana", bytes(32), Policy("steward")),
    ]

    assert len({GENESIS.space_id, *(other.space_id for other in others)}) == 1 + len(others)


def test_a_join_checks_for_the_invited_space_member_and_name_alone() -> None:
    """MEM-2, T12, T17."""
    JOIN.check(SPACE)

    wrong = [
        Join(MIRA.member_id, "ben", INVITATION, JOIN.signature),
        Join(BEN.member_id, "bena", INVITATION, JOIN.signature),
        make_join(BEN, SPACE, BEN.member_id, "ben", INVITATION),
        Join(BEN.member_id, "ben", make_invitation(BEN, SPACE, BEN.member_id, 2, 0), JOIN.signature),
        Join(
            BEN.member_id, "ben", Invitation(ANA.member_id, MIRA.member_id, 3, 0, INVITATION.signature), JOIN.signature
        ),
        Join(
            BEN.member_id, "ben", Invitation(BEN.member_id, MIRA.member_id, 2, 0, INVITATION.signature), JOIN.signature
        ),
    ]
    for join in wrong:
        with pytest.raises(SignatureError):
            join.check(SPACE)
    with pytest.raises(SignatureError):
        JOIN.check(bytes(32))
