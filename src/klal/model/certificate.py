"""A certificate: the hashed body that proves an epoch complete, and its witness.

The body is a pure function of the epoch's cut: whoever computes it gets the same bytes.
The witness beside it is not hashed: each counted member's Close, under a seal, so that
a stranger with nothing but this file can check who signed for what.

Law: `check_certificate(encode(c))` returns for a true certificate; any changed byte raises,
or gives another hash.

Source:
    Protocol spec section 13, rules CRT-1 to CRT-9.
"""

from __future__ import annotations

from typing import Any

import msgspec

from klal.errors import LinkError, MalformedError
from klal.model.acts import Certify, Close, decode_acts
from klal.model.codec import HASH_SIZE, pack, tagged_hash, tree_leaf, unpack
from klal.model.frontier import Frontier, Head
from klal.model.header import ACTS_TABLE, NO_CERTIFICATE, Header, header_hash
from klal.model.keys import MEMBER_ID_SIZE, branch_id_of, log_id_of
from klal.model.payload import part_root
from klal.model.roots import chain_root, members_root
from klal.model.seal import Seal

MAGIC = b"klal certificate 1\n"
NO_MEMBER = bytes(MEMBER_ID_SIZE)
CERTIFICATE_SIZE_MAX = 1 << 29  # 600,000 members take some 300 MB.


class MemberName(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A member as the certificate names it."""

    member_id: bytes
    name: str


class GoneMember(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Somebody who was a member and is none of the next epoch.

    Shape:
        kind: "left", "retired" or "expelled"; epoch: the last one of theirs; reason: of whoever retired or
            expelled them.
        is_counted: their Close of that epoch is in its cut, so nothing of theirs can be lacking.
    """

    member_id: bytes
    name: str
    kind: str
    epoch: int
    reason: str
    is_counted: bool


class Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is hashed.

    Shape:
        previous: hash of the certificate of the epoch before, or 32 zero bytes.
        chain_root: tree over the hashes of all certificates before it (CRT-9).
        history_root: root of the trie over the cut (FRN-3).
        changes_root: tree over the changes that this cut has and the one before has not (CRT-8).
        rows_root: root over all rows of all tables as of the cut (CRT-3).
        change_count, payload_size: of the whole cut, earlier epochs included.
        members_root: RFC 6962 tree over the counted members' ids, ascending.
        joined, left: members counted here and not in the epoch before, and the other way round.
        gone: everybody who was a member once and is none of the next epoch, ascending by id; who is back is not.
        late: member id -> how many changes of theirs are of an earlier epoch, and in this cut first; ascending.
        steward, steward_next: of this epoch and of the next, or NO_MEMBER.
    """

    version: int
    space_id: bytes
    epoch: int
    previous: bytes
    chain_root: bytes
    history_root: bytes
    changes_root: bytes
    rows_root: bytes
    change_count: int
    payload_size: int
    row_count: int
    members_root: bytes
    member_count: int
    joined: tuple[MemberName, ...]
    left: tuple[bytes, ...]
    gone: tuple[GoneMember, ...]
    late: tuple[tuple[bytes, int], ...]
    steward: bytes
    steward_next: bytes

    @property
    def outline(self) -> Outline:
        """Return the body with a hash in the place of each list."""
        fields: tuple[Any, ...] = msgspec.structs.astuple(self)
        hashed: list[Any] = [tree_leaf(pack(field)) if isinstance(field, tuple) else field for field in fields]
        return Outline(*hashed)

    @property
    def hash(self) -> bytes:
        """Return the hash that names this certificate everywhere."""
        return self.outline.hash

    @property
    def absent(self) -> tuple[GoneMember, ...]:
        """Return those whose work may be lacking (W19): retired and not back, or expelled in this epoch."""
        uncounted = [each for each in self.gone if not each.is_counted]
        return tuple(each for each in uncounted if each.kind == "retired" or self._is_expelled_now(each))

    def _is_expelled_now(self, gone: GoneMember) -> bool:
        return gone.kind == "expelled" and gone.epoch == self.epoch


class Outline(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A body that fits into a proof: what grows with the members is in it by its hash.

    Law: its hash is the body's.

    Shape:
        As the body, and in its order; joined, left, gone, late: the leaf hash of the packed list.
    """

    version: int
    space_id: bytes
    epoch: int
    previous: bytes
    chain_root: bytes
    history_root: bytes
    changes_root: bytes
    rows_root: bytes
    change_count: int
    payload_size: int
    row_count: int
    members_root: bytes
    member_count: int
    joined: bytes
    left: bytes
    gone: bytes
    late: bytes
    steward: bytes
    steward_next: bytes

    @property
    def hash(self) -> bytes:
        """Return the hash of the certificate (CRT-1)."""
        return tagged_hash("klal/certificate/1", pack(self))

    @property
    def is_formed(self) -> bool:
        """True when every field has its size (CRT-1)."""
        hashes = (value for value in msgspec.structs.astuple(self) if isinstance(value, bytes))
        counts = (value for value in msgspec.structs.astuple(self) if isinstance(value, int))
        return (
            self.version == 1
            and all(len(value) == HASH_SIZE for value in hashes)
            and all(0 <= value < 1 << 63 for value in counts)
        )


class CutHead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One log of the cut."""

    log_id: bytes
    length: int
    head_hash: bytes


class Witness(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One counted member's Close: its header, its acts, and the seal exactly at it.

    Shape:
        branch: what the branch of its log that holds the Close goes by (LOG-7); empty where the cut has only one.
    """

    member: MemberName
    incarnation: bytes
    branch: bytes
    header: bytes
    acts: bytes
    signature: bytes


class Certificate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Body, cut and witness: the file a stranger can check.

    Shape:
        cut: ascending by log id.
        witness: one per counted member, ascending by member id.
        word: of the steward, that this certificate stands; none where nobody had to decide that.
    """

    body: Body
    cut: tuple[CutHead, ...]
    witness: tuple[Witness, ...]
    word: tuple[Witness, ...] = ()

    @property
    def epoch(self) -> int:
        """Return the number of the epoch."""
        return self.body.epoch

    @property
    def hash(self) -> bytes:
        """Return the hash of the body."""
        return self.body.hash

    @property
    def grade(self) -> str:
        """Return "complete", or "without" when the work of somebody may be lacking (CRT-6)."""
        return "without" if self.body.absent else "complete"

    def frontier(self) -> Frontier:
        """Return the cut as a frontier."""
        return Frontier({head.log_id: Head(head.length, head.head_hash) for head in self.cut})

    def encode(self) -> bytes:
        """Return the certificate as the bytes of its file."""
        return MAGIC + pack(self)


def check_certificate(data: bytes) -> Certificate:
    """Return the certificate in `data` if everything it says about itself holds.

    It proves that every counted member signed the Close of this epoch over a history
    whose root is in the body. It cannot prove that nobody kept a change to themselves.

    Raises:
        RefusedError: CRT-1 to CRT-9, at the first thing that does not hold.
    """
    if not data.startswith(MAGIC):
        raise MalformedError("this is not a certificate: its first line is another", rule="CRT-1")
    certificate = unpack(data[len(MAGIC) :], Certificate, "certificate", CERTIFICATE_SIZE_MAX)
    body = certificate.body
    if not body.outline.is_formed:
        raise MalformedError("certificate has a version or a field that is not of this format", rule="CRT-1")
    if any(
        head.length < 1 or len(head.log_id) != HASH_SIZE or len(head.head_hash) != HASH_SIZE for head in certificate.cut
    ):
        raise MalformedError("certificate has a cut with a field out of bounds", rule="CRT-1")
    if body.epoch == 0 and (body.previous, body.chain_root) != (NO_CERTIFICATE, chain_root(())):
        raise LinkError("certificate of epoch 0 names one before it", rule="CRT-9")
    if body.epoch == 1 and body.chain_root != chain_root((body.previous,)):
        raise LinkError("certificate's chain does not end with the one before it", rule="CRT-9")
    _check_gone(body)
    log_ids = [head.log_id for head in certificate.cut]
    member_ids = [witness.member.member_id for witness in certificate.witness]
    if log_ids != sorted(set(log_ids)) or member_ids != sorted(set(member_ids)):
        raise MalformedError("certificate's cut or witness is not in strict order", rule="CRT-1")
    frontier = certificate.frontier()
    if frontier.root() != body.history_root or frontier.change_count != body.change_count:
        raise LinkError("certificate's cut does not give its history root", rule="CRT-2")
    if members_root(member_ids) != body.members_root or len(member_ids) != body.member_count:
        raise LinkError("certificate's witness does not give its members root", rule="CRT-4")
    if not {joined.member_id for joined in body.joined} <= set(member_ids):
        raise LinkError("certificate names a joined member that it does not count", rule="CRT-4")
    if body.epoch == 0 and len(body.joined) != len(member_ids):
        raise LinkError("certificate of epoch 0 counts a member who did not join in it", rule="CRT-4")
    names = {joined.member_id: joined.name for joined in body.joined}
    members = [witness.member for witness in certificate.witness]
    if any(names.get(member.member_id, member.name) != member.name for member in members):
        raise LinkError("certificate's witness names a member otherwise than its body", rule="CRT-4")
    for witness in certificate.witness:
        _check_witness(body, frontier, witness)
    _check_word(certificate)
    return certificate


def _check_gone(body: Body) -> None:
    """Return if who is gone, who left and what came late are said in their form (CRT-1, CRT-6)."""
    gone = [each.member_id for each in body.gone]
    late = [member_id for member_id, _ in body.late]
    if any(list(ids) != sorted(set(ids)) for ids in (gone, late, body.left)):
        raise MalformedError("certificate names those who are gone or late out of order", rule="CRT-1")
    ids = [*gone, *late, *body.left]
    if any(len(member_id) != MEMBER_ID_SIZE for member_id in ids) or any(count < 1 for _, count in body.late):
        raise MalformedError("certificate has a member or a count out of bounds", rule="CRT-1")
    for each in body.gone:
        if each.kind not in ("left", "retired", "expelled") or not 0 <= each.epoch <= body.epoch:
            raise MalformedError(f"certificate says that {each.name!r:.40} is gone in no known way", rule="CRT-6")
    if body.steward_next in gone:
        raise LinkError("certificate gives the next epoch to a steward who is gone", rule="CRT-6")


def _check_witness(body: Body, frontier: Frontier, witness: Witness) -> None:
    """Return if this member signed a Close of this epoch inside the cut (CRT-5)."""
    who = f"close by {witness.member.name!r:.40}"
    header = _check_acts(who, witness, "CRT-5")
    if not any(isinstance(act, Close) and act.epoch == body.epoch for act in decode_acts(witness.acts)):
        raise LinkError(f"{who} does not close epoch {body.epoch}", rule="CRT-5")
    log_id = log_id_of(body.space_id, witness.member.member_id, witness.incarnation)
    hashed = header_hash(body.space_id, witness.header)
    # A branch counts its own headers alone, so where it begins cannot be told from its length.
    name = branch_id_of(log_id, witness.branch) if witness.branch else log_id
    if frontier.length(name) <= (0 if witness.branch else header.seq):
        raise LinkError(f"{who} lies outside the cut", rule="CRT-5")
    if name == log_id and frontier.length(log_id) == header.seq + 1 and frontier.heads[log_id].head_hash != hashed:
        raise LinkError(f"{who} is not the head that the cut names", rule="CRT-5")
    _check_seal(body, witness, header)


def _check_acts(who: str, witness: Witness, rule: str) -> Header:
    """Return the header of a witness whose acts are the ones that it commits to."""
    header = Header.decode(witness.header)
    parts = {part.table_id: part.root for part in header.parts}
    if parts.get(ACTS_TABLE) != part_root(witness.acts):
        raise LinkError(f"{who}: its acts are not those of its header", rule=rule)
    return header


def _check_seal(body: Body, witness: Witness, header: Header) -> None:
    """Return if the member signed its log exactly at this header."""
    log_id = log_id_of(body.space_id, witness.member.member_id, witness.incarnation)
    hashed = header_hash(body.space_id, witness.header)
    Seal(log_id, header.seq + 1, hashed, witness.signature).check(body.space_id, witness.member.member_id)


def _check_word(certificate: Certificate) -> None:
    """Return if its steward said that this certificate stands, where somebody was gone on without (CRT-7)."""
    body = certificate.body
    if len(certificate.word) > 1:
        raise MalformedError("certificate has more than one word of its steward", rule="CRT-7")
    for word in certificate.word:
        who = f"word of {word.member.name!r:.40}"
        _check_seal(body, word, _check_acts(who, word, "CRT-7"))
        named = [act.certificate for act in decode_acts(word.acts) if isinstance(act, Certify)]
        if word.member.member_id != body.steward or body.hash not in named:
            raise LinkError(f"{who} is not its steward's on this certificate", rule="CRT-7")
    decided = [each for each in body.gone if each.epoch == body.epoch and each.kind != "left"]
    if decided and not certificate.word:
        raise LinkError(f"certificate goes on without {decided[0].name!r:.40} and no steward says so", rule="CRT-7")
