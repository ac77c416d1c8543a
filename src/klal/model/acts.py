"""Acts: what a change does besides writing rows. They travel in the part of acts.

Membership, schema and epoch live in the same hash-linked history as the rows, and
everything about them is decided from that signed past alone (D21).

Source:
    Protocol spec section 9, rules ACT-1 to ACT-3 and MEM-1 to MEM-5.
"""

from __future__ import annotations

import msgspec

from klal.errors import MalformedError
from klal.model.codec import (
    ACTS_SIZE_MAX,
    COLUMN_ID_SIZE,
    EPOCH_MAX,
    HASH_SIZE,
    NAME_LENGTH_MAX,
    SALT_SIZE,
    SIGNATURE_SIZE,
    TABLE_ID_SIZE,
    UNIX_MS_MAX,
    pack,
    tagged_hash,
    unpack,
)
from klal.model.keys import MEMBER_ID_SIZE, SigningKey, check_signature
from klal.model.schema import (
    Column,
    IndexDefinition,
    TableDefinition,
    ViewDefinition,
    check_addable,
    check_column,
    check_column_name,
    check_definition,
    check_index,
    check_table_name,
    check_view,
    has_suffix,
)

ACT_COUNT_MAX = 4096
RENAME_NUMBER_MAX = (1 << 31) - 1
ROUND_MAX = (1 << 31) - 1
# The first of each holds where nobody has said anything.
MERGE_POLICIES = ("cell", "row")
DELETE_POLICIES = ("revive", "wins")


class _Act(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=True):
    """Common form of all acts: a msgpack array that begins with the act's name."""


class Policy(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What an epoch is judged by.

    Shape:
        invited_by: "member" (any) or "steward".
        not_after_ms: declared end of the epoch, where order stamps are clamped (D9).
    """

    invited_by: str = "member"
    not_after_ms: int = UNIX_MS_MAX


class Predecessor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The space that a space goes on from (MEM-11).

    Shape:
        space_id, space_name: of the old space.
        root: of the history of it that the founder held.
        certificate: the newest one of it that the founder held, or 32 zero bytes.
    """

    space_id: bytes
    space_name: str
    root: bytes
    certificate: bytes


class Genesis(_Act, frozen=True, tag="genesis"):
    """The one origin. Its hash is the space's id (W1)."""

    space_name: str
    founder: bytes
    founder_name: str
    nonce: bytes
    policy: Policy
    predecessor: Predecessor | None = None

    @property
    def space_id(self) -> bytes:
        """Return the 32 bytes that name the space."""
        return tagged_hash("klal/space/1", pack(self))


class Invitation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A member's signed word that holders of a ticket may join.

    Shape:
        ticket_id: public half of the ticket's own Ed25519 key.
        use_count_max: how many members it is meant for; over-use is listed, not refused.
        epoch: the one it is for: like every grant it ends with its epoch (W23).
    """

    inviter: bytes
    ticket_id: bytes
    use_count_max: int
    epoch: int
    signature: bytes

    def check(self, space_id: bytes) -> None:
        """Return if its fields are in bounds and the inviter signed it.

        Raises:
            MalformedError: ACT-2. SignatureError: MEM-2.
        """
        _check_invitation(self)
        numbers = _invitation_numbers(self.use_count_max, self.epoch)
        check_signature(self.inviter, self.signature, "invitation", _INVITE_TAG, space_id, self.ticket_id, numbers)


class Invite(_Act, frozen=True, tag="invite"):
    """The record of a ticket handed out."""

    invitation: Invitation


class Join(_Act, frozen=True, tag="join"):
    """A new member, by an invitation and the ticket's secret.

    It carries the invitation whole, so that it can be judged by anybody who knows the
    inviter, in whatever order things arrive.
    """

    member: bytes
    name: str
    invitation: Invitation
    signature: bytes

    def check(self, space_id: bytes) -> None:
        """Return if the inviter invited, and the ticket's holder named this member.

        Raises:
            SignatureError: MEM-2.
        """
        self.invitation.check(space_id)
        ticket_id = self.invitation.ticket_id
        check_signature(
            ticket_id,
            self.signature,
            f"join of {self.name!r:.40}",
            _JOIN_TAG,
            space_id,
            self.member,
            self.name.encode(),
        )


class CreateTable(_Act, frozen=True, tag="table"):
    """CREATE TABLE, as data."""

    definition: TableDefinition


class AddColumn(_Act, frozen=True, tag="column"):
    """ALTER TABLE ADD COLUMN, as data. It writes no rows."""

    table_id: bytes
    column: Column


class CreateIndex(_Act, frozen=True, tag="index"):
    """CREATE INDEX, as data."""

    definition: IndexDefinition


class CreateView(_Act, frozen=True, tag="view"):
    """CREATE VIEW, as data."""

    definition: ViewDefinition


class Rename(_Act, frozen=True, tag="rename"):
    """A new name for a table, or for a column of it.

    Shape:
        column_id: empty when it is the table that is renamed.
        number: one more than that of the renaming it replaces, from 1; so that a name said
            again by a newcomer, whose ticket is old, does not replace a newer one (SCH-3).
    """

    table_id: bytes
    column_id: bytes
    name: str
    number: int


class DropColumn(_Act, frozen=True, tag="drop column"):
    """ALTER TABLE DROP COLUMN. What was written in it stays in history."""

    table_id: bytes
    column_id: bytes


class Drop(_Act, frozen=True, tag="drop"):
    """DROP of a table, index or view, by its id. What was written in it stays in history."""

    object_id: bytes


class SetPolicy(_Act, frozen=True, tag="policy"):
    """How writes of one table shall be made from now on, by whoever has seen this.

    Shape:
        merge: "cell" or "row", or empty to leave it.
        on_delete: "revive" or "wins", or empty to leave it.
        number: one more than that of the policy it replaces, from 1; as a renaming's (POL-2).
    """

    table_id: bytes
    merge: str
    on_delete: str
    number: int


class Close(_Act, frozen=True, tag="close"):
    """A member's word: I have nothing more to add to this epoch."""

    epoch: int


class Leave(_Act, frozen=True, tag="leave"):
    """A member's word beside its Close: I am not of the epochs after this one."""

    epoch: int


class Return(_Act, frozen=True, tag="return"):
    """A member's word that it is back, having left or been retired."""


class Retire(_Act, frozen=True, tag="retire"):
    """The steward's word: this epoch goes on without that member, and says so."""

    member: bytes
    epoch: int
    reason: str


class Expel(_Act, frozen=True, tag="expel"):
    """The steward's word: that member is one no more, and what of theirs I had not seen waits for another's word."""

    member: bytes
    epoch: int
    reason: str


class Admit(_Act, frozen=True, tag="admit"):
    """A member's word that somebody belongs here: who joined too late for their epoch, or was expelled."""

    member: bytes


class Support(_Act, frozen=True, tag="support"):
    """A member's one vote, in one round of one epoch, on who shall be its steward instead."""

    epoch: int
    round: int
    candidate: bytes


class Take(_Act, frozen=True, tag="take"):
    """The word of who more than half support: I am the steward of this epoch now."""

    epoch: int
    round: int


class Hand(_Act, frozen=True, tag="hand"):
    """The steward's word: that member is the steward from the next epoch on."""

    epoch: int
    member: bytes


class Certify(_Act, frozen=True, tag="certify"):
    """The steward's word, once an epoch, where it could have come to more than one certificate: this one stands."""

    epoch: int
    certificate: bytes


class NameMoment(_Act, frozen=True, tag="moment"):
    """A name for a state: the one that the act's own change had seen.

    It carries no frontier: a change names its past already (D5), and so nobody can name a
    state by one and mean another.
    """

    name: str


SchemaAct = CreateTable | AddColumn | CreateIndex | CreateView | Rename | SetPolicy | DropColumn | Drop
Word = Leave | Return | Retire | Expel | Admit | Support | Take | Hand | Certify
"""What members say about who belongs and who decides; each is judged by its own past."""

Act = Genesis | Invite | Join | SchemaAct | Close | Word | NameMoment

_INVITE_TAG = "klal/invite/1"
_JOIN_TAG = "klal/join/1"


def make_invitation(key: SigningKey, space_id: bytes, ticket_id: bytes, use_count_max: int, epoch: int) -> Invitation:
    """Return an invitation signed by `key`."""
    signature = key.sign(_INVITE_TAG, space_id, ticket_id, _invitation_numbers(use_count_max, epoch))
    return Invitation(key.member_id, ticket_id, use_count_max, epoch, signature)


def _invitation_numbers(use_count_max: int, epoch: int) -> bytes:
    return use_count_max.to_bytes(4, "big") + epoch.to_bytes(4, "big")


def make_join(ticket_key: SigningKey, space_id: bytes, member: bytes, name: str, invitation: Invitation) -> Join:
    """Return the join of `member`, signed with the ticket's secret."""
    return Join(member, name, invitation, ticket_key.sign(_JOIN_TAG, space_id, member, name.encode()))


def encode_acts(acts: tuple[Act, ...], salt: bytes) -> bytes:
    """Return the part of acts: 16 random bytes, then the acts.

    Raises:
        ValueError: A salt of another size.
    """
    if len(salt) != SALT_SIZE:
        raise ValueError(f"salt has {len(salt)} bytes, want {SALT_SIZE}")
    return salt + pack(acts)


def decode_acts(part: bytes) -> tuple[Act, ...]:
    """Return the acts in a part, each field within its bounds.

    Raises:
        MalformedError: ACT-1, or the rule of the field.
    """
    if len(part) < SALT_SIZE:
        raise MalformedError(f"part of acts has {len(part)} bytes, want at least {SALT_SIZE}", rule="ACT-1")
    acts: tuple[Act, ...] = unpack(part[SALT_SIZE:], tuple[Act, ...], "part of acts", ACTS_SIZE_MAX)
    if len(acts) > ACT_COUNT_MAX:
        raise MalformedError(f"part of acts has {len(acts)} acts, want at most {ACT_COUNT_MAX}", rule="ACT-1")
    for act in acts:
        check_act(act)
    return acts


def encode_act(act: Act) -> bytes:
    """Return the one encoding of an act by itself, as a file keeps schema acts."""
    return pack(act)


def decode_word(data: bytes) -> Word:
    """Return a word that a file keeps.

    Raises:
        MalformedError: ACT-1, it is none.
    """
    word: Word = unpack(data, Word, "stored word", ACTS_SIZE_MAX)  # type: ignore[arg-type]
    return word


def decode_schema_act(data: bytes) -> SchemaAct:
    """Return a schema act that a file keeps.

    Raises:
        MalformedError: ACT-1, it is none.
    """
    act: SchemaAct = unpack(data, SchemaAct, "stored schema act", ACTS_SIZE_MAX)  # type: ignore[arg-type]
    return act


def check_act(act: Act) -> None:
    """Return if every field of an act is within its bounds.

    Raises:
        MalformedError: ACT-2, or the rule of the field.
    """
    match act:
        case Genesis():
            _check_name(act.space_name)
            _check_name(act.founder_name)
            _check_size(act.founder, MEMBER_ID_SIZE, "founder")
            _check_size(act.nonce, HASH_SIZE, "nonce")
            if act.policy.invited_by not in ("member", "steward") or not 0 <= act.policy.not_after_ms <= UNIX_MS_MAX:
                raise MalformedError("genesis has a policy out of bounds", rule="ACT-2")
            if act.predecessor is not None:
                _check_name(act.predecessor.space_name)
                for value in (act.predecessor.space_id, act.predecessor.root, act.predecessor.certificate):
                    _check_size(value, HASH_SIZE, "predecessor")
        case Invite():
            _check_invitation(act.invitation)
        case Join():
            _check_name(act.name)
            _check_size(act.member, MEMBER_ID_SIZE, "member")
            _check_size(act.signature, SIGNATURE_SIZE, "signature")
            _check_invitation(act.invitation)
        case CreateTable():
            check_definition(act.definition)
        case AddColumn():
            _check_size(act.table_id, TABLE_ID_SIZE, "table id")
            check_column(act.column)
            check_addable(act.column)
        case CreateIndex():
            check_index(act.definition)
        case CreateView():
            check_view(act.definition)
        case Rename():
            _check_size(act.table_id, TABLE_ID_SIZE, "table id")
            if not 0 < act.number <= RENAME_NUMBER_MAX:
                raise MalformedError(f"renaming has number {act.number}", rule="ACT-2")
            if act.column_id:
                _check_size(act.column_id, COLUMN_ID_SIZE, "column id")
                check_column_name(act.name)
            else:
                check_table_name(act.name)
        case DropColumn():
            _check_size(act.table_id, TABLE_ID_SIZE, "table id")
            _check_size(act.column_id, COLUMN_ID_SIZE, "column id")
        case Drop():
            _check_size(act.object_id, TABLE_ID_SIZE, "object id")
        case SetPolicy():
            _check_size(act.table_id, TABLE_ID_SIZE, "table id")
            is_known = act.merge in ("", *MERGE_POLICIES) and act.on_delete in ("", *DELETE_POLICIES)
            if not is_known or not (act.merge or act.on_delete) or not 0 < act.number <= RENAME_NUMBER_MAX:
                raise MalformedError(f"policy {act.merge!r:.20} {act.on_delete!r:.20} is none", rule="POL-1")
        case Close() | Leave() | Return() | Retire() | Expel() | Admit() | Support() | Take() | Hand() | Certify():
            _check_word(act)
        case NameMoment():
            _check_name(act.name)
            if has_suffix(act.name):
                raise MalformedError(f"moment name {act.name!r:.40} ends as those told apart do", rule="MOM-2")


def _check_word(word: Close | Word) -> None:
    if not isinstance(word, Return | Admit):
        _check_epoch(word.epoch)
    if isinstance(word, Retire | Expel | Admit | Hand):
        _check_size(word.member, MEMBER_ID_SIZE, "member")
    if isinstance(word, Retire | Expel):
        _check_name(word.reason)
    if isinstance(word, Support):
        _check_size(word.candidate, MEMBER_ID_SIZE, "candidate")
    if isinstance(word, Support | Take) and not 0 < word.round <= ROUND_MAX:
        raise MalformedError(f"round is {word.round}, want 1 to {ROUND_MAX}", rule="ACT-2")
    if isinstance(word, Certify):
        _check_size(word.certificate, HASH_SIZE, "certificate")


def _check_epoch(epoch: int) -> None:
    if not 0 <= epoch <= EPOCH_MAX:
        raise MalformedError(f"act names epoch {epoch}", rule="ACT-2")


def _check_invitation(invitation: Invitation) -> None:
    _check_epoch(invitation.epoch)
    _check_size(invitation.inviter, MEMBER_ID_SIZE, "inviter")
    _check_size(invitation.ticket_id, MEMBER_ID_SIZE, "ticket id")
    _check_size(invitation.signature, SIGNATURE_SIZE, "signature")
    if not 1 <= invitation.use_count_max < 1 << 31:
        raise MalformedError(f"invitation is for {invitation.use_count_max} members", rule="ACT-2")


def _check_name(name: str) -> None:
    if not 0 < len(name) <= NAME_LENGTH_MAX or not name.isprintable():
        raise MalformedError(f"name {name!r:.40} is empty, too long or not printable", rule="ACT-2")


def _check_size(value: bytes, size: int, what: str) -> None:
    if len(value) != size:
        raise MalformedError(f"{what} has {len(value)} bytes, want {size}", rule="ACT-2")
