"""A ticket: what a newcomer needs to join offline, in one line of text.

It carries the genesis (header, act and seal), an invitation with the ticket's secret,
and the tables known to the inviter, so that a newcomer can write before meeting anyone.
Whoever holds it may join: it is a secret.

Source:
    Protocol spec section 9, rules MEM-2 and MEM-3.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from klal.errors import MalformedError, UsageError
from klal.model.acts import Genesis, Invitation, SchemaAct, check_act, decode_acts
from klal.model.codec import SIGNATURE_SIZE, pack, tagged_hash, unpack
from klal.model.header import ACTS_TABLE, Header, header_hash
from klal.model.keys import INCARNATION_SIZE, SEED_SIZE, SigningKey, log_id_of
from klal.model.payload import part_root
from klal.model.seal import Seal

PREFIX = "klal1-"
TICKET_SIZE_MAX = 1 << 20
_CHECK_SIZE = 6


class Ticket(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """All that `join` needs.

    Shape:
        genesis_header, genesis_acts: the first change of the space, as stored.
        incarnation: of the founder's first log.
        genesis_seal: signature over that log at length 1.
        seed: the ticket's secret, 32 bytes.
        schema: what is declared, in the order it applies.
    """

    genesis_header: bytes
    genesis_acts: bytes
    incarnation: bytes
    genesis_seal: bytes
    invitation: Invitation
    seed: bytes
    schema: tuple[SchemaAct, ...] = ()

    @property
    def genesis(self) -> Genesis:
        """Return the genesis act."""
        acts = decode_acts(self.genesis_acts)
        if len(acts) != 1 or not isinstance(acts[0], Genesis):
            raise MalformedError("ticket does not begin with a genesis", rule="MEM-3")
        return acts[0]

    @property
    def key(self) -> SigningKey:
        """Return the ticket's own key."""
        return SigningKey(self.seed)


def encode_ticket(ticket: Ticket) -> str:
    """Return the ticket as one line of text with a checksum."""
    data = pack(ticket)
    check = tagged_hash("klal/ticket/1", data)[:_CHECK_SIZE]
    return _spelled(check + data)


def _spelled(data: bytes) -> str:
    return PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")


def decode_ticket(text: str) -> Ticket:
    """Return the ticket that `text` spells, its genesis and signatures checked.

    Raises:
        UsageError: Not a ticket, or mistyped.
        RefusedError: MEM-3, a ticket whose contents contradict each other.
    """
    text = "".join(text.split())
    if not text.startswith(PREFIX) or len(text) > TICKET_SIZE_MAX:
        raise UsageError(f"this is not a ticket: it does not begin with {PREFIX!r}")
    body = text[len(PREFIX) :]
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError("this ticket has characters that no ticket has") from error
    check, data = data[:_CHECK_SIZE], data[_CHECK_SIZE:]
    if check != tagged_hash("klal/ticket/1", data)[:_CHECK_SIZE] or _spelled(check + data) != text:
        # The checksum is of what the text says, and base64 has letters that say the same.
        raise UsageError("this ticket is mistyped or cut short: its checksum does not match")
    ticket = unpack(data, Ticket, "ticket", TICKET_SIZE_MAX)
    _check_ticket(ticket)
    return ticket


def _check_ticket(ticket: Ticket) -> None:
    if len(ticket.seed) != SEED_SIZE or len(ticket.genesis_seal) != SIGNATURE_SIZE:
        raise MalformedError("ticket has a secret or seal of a wrong size", rule="MEM-3")
    if len(ticket.incarnation) != INCARNATION_SIZE:
        raise MalformedError("ticket has an incarnation of a wrong size", rule="MEM-3")
    genesis = ticket.genesis
    space_id = genesis.space_id
    header = Header.decode(ticket.genesis_header)
    log_id = log_id_of(space_id, genesis.founder, ticket.incarnation)
    is_genesis = header.seq == 0 and header.backlink == log_id and not header.past and len(header.parts) == 1
    is_acts = is_genesis and header.parts[0].table_id == ACTS_TABLE
    if not is_acts or header.parts[0].root != part_root(ticket.genesis_acts):
        raise MalformedError("ticket's first header is not that of its genesis", rule="MEM-3")
    seal = Seal(log_id, 1, header_hash(space_id, ticket.genesis_header), ticket.genesis_seal)
    seal.check(space_id, genesis.founder)
    ticket.invitation.check(space_id)
    for act in ticket.schema:
        check_act(act)
    if ticket.key.member_id != ticket.invitation.ticket_id:
        raise MalformedError("ticket's secret does not belong to its invitation", rule="MEM-3")
