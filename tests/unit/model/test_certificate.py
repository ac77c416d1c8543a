"""Certificates: what the file proves by itself, and what it does not. Rules CRT-1 to CRT-5."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.errors import RefusedError
from klal.model.acts import Certify, encode_acts
from klal.model.certificate import (
    MAGIC,
    Certificate,
    GoneMember,
    MemberName,
    Witness,
    check_certificate,
)
from klal.model.codec import pack
from klal.model.header import ACTS_TABLE, NO_CERTIFICATE, Header, Part, header_hash
from klal.model.keys import SigningKey, log_id_of
from klal.model.payload import part_root
from klal.model.roots import chain_root, members_root
from klal.model.seal import make_seal
from tests.helpers.model_strategies import ANA, BEN, MIRA

_path = Path(__file__).parents[2] / "vectors" / "make_vectors.py"
_spec = importlib.util.spec_from_file_location("make_vectors_for_certificates", _path)
assert _spec is not None
assert _spec.loader is not None
VECTORS = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(VECTORS)

TRUE: Certificate = VECTORS.certificate()
replace = msgspec.structs.replace


def with_body(**fields: object) -> Certificate:
    return replace(TRUE, body=replace(TRUE.body, **fields))


def with_witness(at: int, **fields: object) -> Certificate:
    witness = list(TRUE.witness)
    witness[at] = replace(witness[at], **fields)
    return replace(TRUE, witness=tuple(witness))


def with_cut(at: int, **fields: object) -> Certificate:
    cut = list(TRUE.cut)
    cut[at] = replace(cut[at], **fields)
    return replace(TRUE, cut=tuple(cut))


def test_a_true_certificate_checks_and_says_what_it_is() -> None:
    """CRT-1 to CRT-5, W13: CRT-2, CRT-4."""
    found = check_certificate(TRUE.encode())

    assert found == TRUE
    assert found.encode() == TRUE.encode()
    assert (found.epoch, found.grade) == (0, "complete")
    assert found.frontier().root() == found.body.history_root


@given(st.integers(0, len(TRUE.encode()) - 1), st.integers(1, 255))
def test_any_byte_changed_is_refused_or_another_certificate(at: int, bits: int) -> None:
    """CRT-1, W13, T1: nothing that passes can be mistaken for the true one."""
    data = TRUE.encode()
    changed = data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]

    try:
        found = check_certificate(changed)
    except RefusedError:
        return
    names_only = [replace(one, member=two.member) for one, two in zip(found.witness, TRUE.witness, strict=True)]
    assert found.hash != TRUE.hash or names_only == list(TRUE.witness)


@given(st.integers(0, len(TRUE.encode()) - 1))
def test_a_certificate_cut_short_is_refused(length: int) -> None:
    """CRT-1, T1."""
    with pytest.raises(RefusedError):
        check_certificate(TRUE.encode()[:length])


def test_bytes_behind_a_certificate_are_refused() -> None:
    """CRT-1, ENC-3."""
    with pytest.raises(RefusedError):
        check_certificate(TRUE.encode() + b"\0")


@given(st.binary(max_size=100))
def test_whatever_the_bytes_only_a_refusal_comes_out(data: bytes) -> None:
    """CRT-1, T1."""
    for whole in (data, MAGIC + data):
        with pytest.raises(RefusedError):
            check_certificate(whole)


FORGED = {
    "another version": (lambda: with_body(version=2), "CRT-1"),
    "a short space id": (lambda: with_body(space_id=bytes(31)), "CRT-1"),
    "a short rows root": (lambda: with_body(rows_root=b""), "CRT-1"),
    "a log of length 0": (lambda: with_cut(0, length=0), "CRT-1"),
    "a cut out of order": (lambda: replace(TRUE, cut=TRUE.cut[::-1]), "CRT-1"),
    "a log twice": (lambda: replace(TRUE, cut=(TRUE.cut[0], *TRUE.cut)), "CRT-1"),
    "a witness out of order": (lambda: replace(TRUE, witness=TRUE.witness[::-1]), "CRT-1"),
    "another history root": (lambda: with_body(history_root=bytes(32)), "CRT-2"),
    "another count of changes": (lambda: with_body(change_count=5), "CRT-2"),
    "a log less": (lambda: replace(TRUE, cut=TRUE.cut[:1]), "CRT-2"),
    "another head": (lambda: with_cut(0, head_hash=bytes(32)), "CRT-2"),
    "another length": (lambda: with_cut(1, length=9), "CRT-2"),
    "a witness less": (lambda: replace(TRUE, witness=TRUE.witness[:1]), "CRT-4"),
    "another members root": (lambda: with_body(members_root=bytes(32)), "CRT-4"),
    "another count of members": (lambda: with_body(member_count=3), "CRT-4"),
    "a stranger among the joined": (lambda: with_body(joined=(MemberName(MIRA.member_id, "mira"),)), "CRT-4"),
    "one before the first": (lambda: with_body(previous=bytes([1]) * 32), "CRT-9"),
    "a chain before the first": (lambda: with_body(chain_root=bytes(32)), "CRT-9"),
    "a chain without the one before": (lambda: with_body(epoch=1), "CRT-9"),
    "somebody who was there before the first": (lambda: with_body(joined=TRUE.body.joined[:1]), "CRT-4"),
    "another epoch": (lambda: with_body(epoch=1, chain_root=chain_root((NO_CERTIFICATE,))), "CRT-5"),
    "another space": (lambda: with_body(space_id=bytes(32)), "CRT-5"),
    "another signature": (lambda: with_witness(0, signature=bytes(64)), "KEY-1"),
    "another incarnation": (lambda: with_witness(0, incarnation=bytes(16)), "CRT-5"),
    "other acts": (lambda: with_witness(0, acts=TRUE.witness[1].acts), "CRT-5"),
    "the header of another": (
        lambda: with_witness(0, header=TRUE.witness[1].header, acts=TRUE.witness[1].acts),
        "CRT-5",
    ),
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_certificate_that_contradicts_itself_is_refused_by_its_rule(forged: str) -> None:
    """CRT-1 to CRT-5, T23: CRT-2, CRT-4."""
    make, rule = FORGED[forged]

    with pytest.raises(RefusedError) as caught:
        check_certificate(make().encode())
    assert caught.value.rule == rule


@pytest.mark.parametrize(
    "fields",
    [
        {"changes_root": bytes(32)},
        {"rows_root": bytes(32)},
        {"payload_size": 1},
        {"row_count": 99},
        {"late": ((MIRA.member_id, 3),)},
        {"steward": MIRA.member_id},
        {"left": (MIRA.member_id,)},
        {"gone": (GoneMember(MIRA.member_id, "mira", "left", 0, "", is_counted=True),)},
    ],
)
def test_what_only_the_history_can_show_is_guarded_by_the_hash_alone(fields: dict[str, object]) -> None:
    """CRT-3: the file alone does not prove these, so whoever is shown one must know the hash, or hold the history."""
    changed = check_certificate(with_body(**fields).encode())

    assert changed.hash != TRUE.hash


def test_the_outline_stands_for_the_body_and_is_small_however_many_have_joined() -> None:
    """CRT-1: what grows with the members is in it by its hash."""
    many = tuple(MemberName(bytes([n]) * 32, "somebody") for n in range(200))
    body = with_body(joined=many).body

    assert body.outline.hash == body.hash != TRUE.hash
    assert len(pack(body.outline)) == len(pack(TRUE.body.outline))
    assert body.outline.__struct_fields__ == body.__struct_fields__


@pytest.mark.parametrize("name", TRUE.body.__struct_fields__)
def test_every_field_of_the_body_is_bound_by_the_hash(name: str) -> None:
    """CRT-1, T23: a body with any field replaced is another certificate."""
    value = getattr(TRUE.body, name)
    other = value + 1 if isinstance(value, int) else bytes([1]) * 32 if isinstance(value, bytes) else ((b"", "x"),)

    assert with_body(**{name: other}).hash != TRUE.hash


def test_the_members_root_names_each_member_in_one_order() -> None:
    """CRT-4."""
    both = members_root([ANA.member_id, BEN.member_id])

    assert both == members_root([BEN.member_id, ANA.member_id])
    assert len({both, members_root([ANA.member_id]), members_root([]), members_root([MIRA.member_id])}) == 4


def test_a_certificate_without_somebody_is_never_called_complete() -> None:
    """W19."""
    earlier, now = (
        GoneMember(MIRA.member_id, "mira", "retired", epoch, "lost at sea", is_counted=False) for epoch in (0, 1)
    )
    expelled = GoneMember(MIRA.member_id, "mira", "expelled", 1, "a thief", is_counted=False)

    for gone in (earlier, now, expelled):
        assert with_body(epoch=1, gone=(gone,)).grade == "without"
    # Nobody waits for the later work of one who was expelled, nor for that of one who left.
    assert with_body(epoch=2, gone=(expelled,)).grade == "complete"
    assert with_body(gone=(GoneMember(MIRA.member_id, "mira", "left", 0, "", is_counted=True),)).grade == "complete"


def test_a_certificate_gives_no_place_to_who_is_gone() -> None:
    """CRT-6 EPO-6: the next steward is a member of the next epoch."""
    gone = GoneMember(MIRA.member_id, "mira", "left", 0, "", is_counted=True)

    with pytest.raises(RefusedError, match="steward who is gone") as caught:
        check_certificate(with_body(gone=(gone,), steward_next=MIRA.member_id).encode())
    assert caught.value.rule == "CRT-6"


def test_a_certificate_that_goes_on_without_somebody_bears_its_stewards_word() -> None:
    """CRT-7, W19, W23: a word for another certificate, or of another member, does not count."""
    gone = GoneMember(MIRA.member_id, "mira", "retired", 0, "lost at sea", is_counted=False)
    bare = with_body(gone=(gone,))

    def worded(key: SigningKey, name: str, run: bytes, *, epoch: int = 0, named: bytes = bare.hash) -> Certificate:
        acts = encode_acts((Certify(epoch, named),), bytes(16))
        part = Part(ACTS_TABLE, part_root(acts), len(acts), 1)
        header = Header(9, 0, 0, 0, bytes(32), NO_CERTIFICATE, (), (part,), is_sealed=True).encode()
        log_id = log_id_of(VECTORS.SPACE, key.member_id, run)
        seal = make_seal(key, VECTORS.SPACE, log_id, 10, header_hash(VECTORS.SPACE, header))
        word = Witness(MemberName(key.member_id, name), run, b"", header, acts, seal.signature)
        return replace(bare, word=(word,))

    assert check_certificate(worded(ANA, "ana", VECTORS.ANA_RUN).encode()).grade == "without"
    for wrong in (
        bare,
        worded(BEN, "ben", VECTORS.BEN_RUN),
        worded(ANA, "ana", VECTORS.ANA_RUN, named=TRUE.hash),
        replace(worded(ANA, "ana", VECTORS.ANA_RUN), word=worded(ANA, "ana", VECTORS.ANA_RUN).word * 2),
    ):
        with pytest.raises(RefusedError) as caught:
            check_certificate(wrong.encode())
        assert caught.value.rule == "CRT-7"
