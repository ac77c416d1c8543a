"""Tickets: one line of text that lets its holder join offline. Rules MEM-2 and MEM-3."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.errors import KlalError, MalformedError, RefusedError, UsageError
from klal.model.acts import Close, CreateTable, Genesis, Policy, encode_acts, make_invitation
from klal.model.codec import pack, tagged_hash
from klal.model.header import ACTS_TABLE, NO_CERTIFICATE, Header, Part, header_hash
from klal.model.keys import SigningKey, log_id_of
from klal.model.payload import part_root
from klal.model.schema import Column, TableDefinition
from klal.model.seal import make_seal
from klal.model.ticket import PREFIX, Ticket, decode_ticket, encode_ticket
from tests.helpers.model_strategies import ANA, BEN, MIRA

RUN = bytes(16)
GENESIS = Genesis("season", ANA.member_id, "ana", bytes(32), Policy())


def make(
    genesis: Genesis = GENESIS, inviter: SigningKey = ANA, acts: bytes | None = None, **header_fields: Any
) -> Ticket:
    """Return a ticket whose parts belong together, except for what is asked otherwise."""
    space = genesis.space_id
    log = log_id_of(space, genesis.founder, RUN)
    acts = encode_acts((genesis,), bytes(16)) if acts is None else acts
    fields = {
        "seq": 0,
        "epoch": 0,
        "unix_ms": 1,
        "counter": 0,
        "backlink": log,
        "certificate": NO_CERTIFICATE,
        "past": (),
        "parts": (Part(ACTS_TABLE, part_root(acts), len(acts), 1),),
    }
    header = Header(**{**fields, **header_fields})
    seal = make_seal(ANA, space, log, 1, header_hash(space, header.encode()))
    invitation = make_invitation(inviter, space, MIRA.member_id, 2, 0)
    return Ticket(header.encode(), acts, RUN, seal.signature, invitation, MIRA.seed)


def test_a_ticket_decodes_to_itself() -> None:
    """MEM-3: with or without line breaks that a mail program put in."""
    table = TableDefinition("t", (Column("id", "TEXT"),), ("id",))
    ticket = msgspec.structs.replace(make(), schema=(CreateTable(table),))
    text = encode_ticket(ticket)

    assert decode_ticket(text) == ticket
    assert decode_ticket("  " + "\n".join(text[i : i + 60] for i in range(0, len(text), 60)) + "\n") == ticket
    assert decode_ticket(text).genesis == GENESIS
    assert decode_ticket(text).key.member_id == ticket.invitation.ticket_id


@given(st.data())
def test_any_character_changed_or_cut_is_refused(data: st.DataObject) -> None:
    """MEM-3: the checksum sees a slip of the pen before anything is believed."""
    text = encode_ticket(make())
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from([c for c in "ABCabc019-_*" if c != text[at]]))
    for changed in (text[:at] + other + text[at + 1 :], text[:at], text + "AAAA"):
        try:
            found = decode_ticket(changed)
        except UsageError:
            continue
        # Base64 leaves a few bits of the last character unused.
        assert found == make()
        assert at == len(text) - 1


@given(st.text(max_size=80))
def test_whatever_the_text_only_a_named_error_comes_out(text: str) -> None:
    for line in (text, PREFIX + text):
        with pytest.raises(KlalError):
            decode_ticket(line)


def _reencoded(data: bytes) -> str:
    check = tagged_hash("klal/ticket/1", data)[:6]
    return PREFIX + base64.urlsafe_b64encode(check + data).decode().rstrip("=")


@given(st.binary(max_size=100))
def test_whatever_the_bytes_under_a_good_checksum_only_a_refusal_comes_out(data: bytes) -> None:
    """T1, ENC-3."""
    with pytest.raises(RefusedError):
        decode_ticket(_reencoded(data))


OTHER = Genesis("season", ANA.member_id, "ana", bytes([1]) * 32, Policy())

CONTRADICTIONS = {
    "its seed is another": lambda: msgspec.structs.replace(make(), seed=BEN.seed),
    "its seed is short": lambda: msgspec.structs.replace(make(), seed=bytes(31)),
    "its seal is another": lambda: msgspec.structs.replace(make(), genesis_seal=bytes(64)),
    "its seal is short": lambda: msgspec.structs.replace(make(), genesis_seal=bytes(63)),
    "its incarnation is another": lambda: msgspec.structs.replace(make(), incarnation=bytes([1]) * 16),
    "its incarnation is short": lambda: msgspec.structs.replace(make(), incarnation=bytes(15)),
    "its genesis is another": lambda: msgspec.structs.replace(make(), genesis_acts=encode_acts((OTHER,), bytes(16))),
    "its invitation is of another space": lambda: msgspec.structs.replace(make(), invitation=make(OTHER).invitation),
    "it begins with something else": lambda: make(acts=encode_acts((Close(0),), bytes(16))),
    "it begins with more than a genesis": lambda: make(acts=encode_acts((GENESIS, Close(0)), bytes(16))),
    "its header is not the first": lambda: make(seq=1),
    "its header has a past": lambda: make(past=(bytes(32),)),
    "its header has no payload": lambda: make(parts=()),
    "its header is cut": lambda: msgspec.structs.replace(make(), genesis_header=make().genesis_header[:-1]),
}


@pytest.mark.parametrize("contradiction", CONTRADICTIONS)
def test_a_ticket_whose_contents_contradict_each_other_is_refused(contradiction: str) -> None:
    """MEM-3, W1: a history that does not descend from the genesis it shows."""
    with pytest.raises(RefusedError):
        decode_ticket(_reencoded(pack(CONTRADICTIONS[contradiction]())))


@pytest.mark.parametrize("use_count", [-1, 1 << 32])
def test_a_use_count_out_of_bounds_is_refused(use_count: int) -> None:
    """MEM-3, T1."""
    ticket = make()
    bad = msgspec.structs.replace(ticket.invitation, use_count_max=use_count)

    with pytest.raises(MalformedError):
        decode_ticket(_reencoded(pack(msgspec.structs.replace(ticket, invitation=bad))))
