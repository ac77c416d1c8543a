"""Proofs: small files that show one thing about a certificate to whoever knows that certificate's hash.

A proof carries the outline of a certificate, and a path of hashes from one change, one row,
one absent key or one member up to a root in it. Nothing else is needed to check it: no
database, no key, no other file. What it does not show is that the certificate is
true; whoever checks must know its hash from somebody they trust, or from a `Spark`.

The one choice a reader would question: a proof is about the certificate of one epoch, and
may carry beside it the outline of a later one, in whose chain that certificate is. So
whoever keeps the newest hash alone can check what was certified years ago.

Law: `check_proof(make(x).encode())` returns for every x that is so, and no bytes that pass
say anything that is not under the certificate they name.

Source:
    Protocol spec section 13, rules PRF-1 to PRF-7. RFC 6962.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec

from klal.errors import LinkError, MalformedError
from klal.model.certificate import GoneMember, Outline
from klal.model.codec import HASH_SIZE, HEADER_SIZE_MAX, SLICE_SIZE, pack, tree_leaf, unpack
from klal.model.header import Header, Part, header_hash
from klal.model.keys import INCARNATION_SIZE, MEMBER_ID_SIZE, log_id_of
from klal.model.merkle import check_inclusion
from klal.model.payload import check_row
from klal.model.receipt import Receipt
from klal.model.roots import change_leaf, members_root, row_leaf, table_node
from klal.model.schema import Column, Key, TableDefinition, Value, affinity_of, column_id_of, fold, is_as_stored

PROOF_MAGIC = b"klal proof 1\n"
PROOF_SIZE_MAX = 1 << 28
_COUNT_MAX = 1 << 48

Path = tuple[bytes, ...]


class _Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One piece of a proof."""


class Later(_Part, frozen=True):
    """A certificate of a later epoch, whose chain holds the one that the proof is about."""

    outline: Outline
    path: Path


class Slice(_Part, frozen=True):
    """Bytes of one part of a change: `data` is slice number `index` of the part of this table."""

    table_id: bytes
    index: int
    data: bytes
    path: Path


class ChangeClaim(_Part, frozen=True, tag="change"):
    """This change is among those that the certificate's cut added to the cut before it.

    Shape:
        index, size: the change's place among them; they steer the path and say nothing by themselves.
        slices: what of its payload is shown.
    """

    member_id: bytes
    incarnation: bytes
    header: bytes
    index: int
    size: int
    path: Path
    slices: tuple[Slice, ...] = ()


class TableNode(_Part, frozen=True):
    """One table among the certified rows.

    Shape:
        added: the definitions of columns that were added later.
        columns: ids, in the order in which values stand in a row.
        root: over its `row_count` rows. index, count, path: the table's place among all tables.
    """

    definition: TableDefinition
    added: tuple[Column, ...]
    columns: tuple[bytes, ...]
    row_count: int
    root: bytes
    index: int
    count: int
    path: Path


class RowLeaf(_Part, frozen=True):
    """One row and its place in its table, by ascending key."""

    index: int
    values: tuple[Any, ...]
    path: Path


class RowClaim(_Part, frozen=True, tag="row"):
    """This row is among the certified rows."""

    table: TableNode
    row: RowLeaf


class AbsenceClaim(_Part, frozen=True, tag="absence"):
    """No certified row has this key: those beside where it would stand are here, and are neighbours.

    Shape:
        rows: the one before and the one after; one of them at an end, none in an empty table.
    """

    table: TableNode
    key: tuple[Any, ...]
    rows: tuple[RowLeaf, ...]


class MemberClaim(_Part, frozen=True, tag="member"):
    """This member was counted: its Close was needed, and is in the cut."""

    member_id: bytes
    index: int
    path: Path


class Step(_Part, frozen=True):
    """One certificate of a chain, with what its hash stands for of who may decide about the next.

    Shape:
        members: ids of all its counted members, ascending.
        gone: as in its body: who of them is no member of the next epoch.
    """

    outline: Outline
    members: tuple[bytes, ...]
    gone: tuple[GoneMember, ...]

    @property
    def electorate(self) -> frozenset[bytes]:
        """Return who decides about the next epoch: those who were counted and stay (EPO-9)."""
        return frozenset(self.members).difference(each.member_id for each in self.gone)


class NamedClaim(_Part, frozen=True, tag="named"):
    """These members signed receipts that name the certificate, or one before it.

    Shape:
        steps: the certificates of epochs that follow one another, the one that the proof is about last.
        receipts: (body, signature), ascending by body; each names one of the steps.
    """

    steps: tuple[Step, ...]
    receipts: tuple[tuple[bytes, bytes], ...]


Claim = ChangeClaim | RowClaim | AbsenceClaim | MemberClaim | NamedClaim


class Proof(_Part, frozen=True):
    """One claim about a certificate, with all that is needed to check it.

    Shape:
        certificate: what the claim is about.
        later: None, or a later certificate that vouches for it.
    """

    certificate: Outline
    later: Later | None
    claim: Claim

    @property
    def anchor(self) -> Outline:
        """Return the certificate that whoever checks must trust."""
        return self.certificate if self.later is None else self.later.outline

    def encode(self) -> bytes:
        """Return the proof as the bytes of its file."""
        return PROOF_MAGIC + pack(self)


def check_proof(data: bytes) -> Proof:
    """Return the proof in `data` if what it claims follows from its anchor.

    Raises:
        RefusedError: PRF-1 to PRF-7, at the first thing that does not hold.
    """
    if not data.startswith(PROOF_MAGIC):
        raise MalformedError("this is not a proof: its first line is another", rule="PRF-1")
    proof = unpack(data[len(PROOF_MAGIC) :], Proof, "proof", PROOF_SIZE_MAX)
    if not proof.certificate.is_formed:
        raise MalformedError("proof has a certificate that is not of this format", rule="PRF-1")
    if proof.later is not None:
        _check_chained(proof.certificate, proof.later.outline, proof.later.path)
    match proof.claim:
        case ChangeClaim():
            _check_change(proof.certificate, proof.claim)
        case RowClaim():
            _check_row(proof.certificate, proof.claim)
        case AbsenceClaim():
            _check_absence(proof.certificate, proof.claim)
        case MemberClaim():
            _check_member(proof.certificate, proof.claim)
        case NamedClaim():
            named_by(proof.certificate, proof.claim)
    return proof


def _check_chained(older: Outline, newer: Outline, path: Path) -> None:
    """Return if the older certificate is in the chain of the newer (PRF-2)."""
    if not newer.is_formed or not older.is_formed:
        raise MalformedError("proof has a certificate that is not of this format", rule="PRF-1")
    if older.space_id != newer.space_id:
        raise LinkError("proof joins certificates of two spaces", rule="PRF-2")
    if not check_inclusion(tree_leaf(older.hash), older.epoch, newer.epoch, path, newer.chain_root):
        raise LinkError(
            f"certificate of epoch {older.epoch} is not in the chain of that of epoch {newer.epoch}", rule="PRF-2"
        )
    if older.epoch == newer.epoch - 1 and newer.previous != older.hash:
        raise LinkError(f"certificate of epoch {newer.epoch} names another before it", rule="PRF-2")


# -- changes -----------------------------------------------------------------------------


def _check_change(certificate: Outline, claim: ChangeClaim) -> None:
    """Return if the change is under the certificate's changes root, and the slices under the change (PRF-3)."""
    if len(claim.member_id) != MEMBER_ID_SIZE or len(claim.incarnation) != INCARNATION_SIZE:
        raise MalformedError("proof has a member or an incarnation of a wrong size", rule="PRF-1")
    if len(claim.header) > HEADER_SIZE_MAX:
        raise MalformedError(f"proof has a header of {len(claim.header)} bytes", rule="PRF-1")
    header = Header.decode(claim.header)
    log_id, hashed = log_of(certificate, claim), header_hash(certificate.space_id, claim.header)
    leaf = change_leaf(log_id, header.seq, hashed)
    if not check_inclusion(leaf, claim.index, claim.size, claim.path, certificate.changes_root):
        raise LinkError(
            f"change {log_id.hex()[:8]}:{header.seq} is not one that epoch {certificate.epoch} certified", rule="PRF-3"
        )
    places = [(each.table_id, each.index) for each in claim.slices]
    if places != sorted(set(places)):
        raise MalformedError("proof's slices are not in strict order", rule="PRF-1")
    parts = {part.table_id: part for part in header.parts}
    for each in claim.slices:
        if each.table_id not in parts or not _is_slice(parts[each.table_id], each):
            raise LinkError(f"slice {each.index} is not one of change {header.seq}", rule="PRF-3")


def _is_slice(part: Part, piece: Slice) -> bool:
    count = -(-part.size // SLICE_SIZE)
    size = SLICE_SIZE if piece.index < count - 1 else part.size - (count - 1) * SLICE_SIZE
    return len(piece.data) == size and check_inclusion(tree_leaf(piece.data), piece.index, count, piece.path, part.root)


def log_of(certificate: Outline, claim: ChangeClaim) -> bytes:
    """Return the log that the change is in."""
    return log_id_of(certificate.space_id, claim.member_id, claim.incarnation)


def part_of(claim: ChangeClaim, table_id: bytes) -> bytes | None:
    """Return a part of the change whose slices are all shown, or None."""
    part = next((each for each in Header.decode(claim.header).parts if each.table_id == table_id), None)
    data = b"".join(each.data for each in claim.slices if each.table_id == table_id)
    return data if part is not None and len(data) == part.size else None


# -- rows --------------------------------------------------------------------------------


def columns_of(table: TableNode) -> list[Column]:
    """Return the columns in the order in which values stand in a row.

    Raises:
        RefusedError: PRF-4, a column that is not defined.
    """
    table_id = table.definition.table_id
    defined = {column_id_of(table_id, column): column for column in (*table.definition.columns, *table.added)}
    columns = [defined.get(column_id) for column_id in table.columns]
    found = [column for column in columns if column is not None]
    if len(found) != len(columns):
        raise LinkError("proof names a column that it does not define", rule="PRF-4")
    return found


def key_of(table: TableNode, values: Sequence[Value]) -> Key:
    """Return the key of a row, its columns in key order."""
    return tuple(values[table.columns.index(column_id)] for column_id, _ in _key_columns(table))


def _key_columns(table: TableNode) -> list[tuple[bytes, Column]]:
    """Return (id, column) of the key's columns, in key order."""
    definition = table.definition
    by_name = {fold(column.name): column for column in definition.columns}
    key = [by_name.get(fold(name)) for name in definition.key]
    found = [(column_id_of(definition.table_id, column), column) for column in key if column is not None]
    if not found or len(found) != len(key) or not {column_id for column_id, _ in found} <= set(table.columns):
        raise LinkError("proof's table lacks a column of its key", rule="PRF-4")
    return found


def _check_table(certificate: Outline, table: TableNode) -> None:
    if not (0 <= table.row_count < _COUNT_MAX and len(table.root) == HASH_SIZE):
        raise MalformedError("proof has a table with a field out of bounds", rule="PRF-1")
    node = table_node(table.definition.table_id, table.row_count, table.root, table.columns)
    if not check_inclusion(node, table.index, table.count, table.path, certificate.rows_root):
        raise LinkError(f"table {table.definition.name!r:.60} is not one that was certified so", rule="PRF-4")
    columns_of(table)
    _key_columns(table)


def _check_leaf(table: TableNode, row: RowLeaf) -> None:
    if len(row.values) != len(table.columns):
        raise MalformedError("proof has a row of another width than its table", rule="PRF-1")
    check_row(row.values)
    if not check_inclusion(row_leaf(row.values), row.index, table.row_count, row.path, table.root):
        raise LinkError(f"row {row.index} of {table.definition.name!r:.60} is not certified so", rule="PRF-4")


def _check_row(certificate: Outline, claim: RowClaim) -> None:
    """Return if the row is under the certificate's rows root (PRF-4)."""
    _check_table(certificate, claim.table)
    _check_leaf(claim.table, claim.row)


def _check_absence(certificate: Outline, claim: AbsenceClaim) -> None:
    """Return if the key lies between two rows that are neighbours, or before the first or after the last (PRF-5)."""
    table = claim.table
    _check_table(certificate, table)
    for row in claim.rows:
        _check_leaf(table, row)
    wanted = key_order(table, claim.key)
    orders = [key_order(table, key_of(table, row.values)) for row in claim.rows]
    before = sum(order < wanted for order in orders)
    at = claim.rows[before - 1].index + 1 if before else 0
    neighbours = [index for index in (at - 1, at) if 0 <= index < table.row_count]
    if orders != sorted(orders) or wanted in orders or before > 1 or [row.index for row in claim.rows] != neighbours:
        raise LinkError("proof's rows do not stand beside the key that is said to be absent", rule="PRF-5")


def key_order(table: TableNode, key: Key) -> tuple[tuple[int, Any], ...]:
    """Return what a key is ordered by, as SQLite orders the columns of the key.

    Raises:
        RefusedError: PRF-5, a key that this table could not hold, or whose order cannot be told.
    """
    columns = [column for _, column in _key_columns(table)]
    if len(key) != len(columns):
        raise MalformedError(f"proof has a key of {len(key)} values, want {len(columns)}", rule="PRF-5")
    check_row(key)
    return tuple(_order_of(table.definition, column, value) for column, value in zip(columns, key, strict=True))


def _order_of(definition: TableDefinition, column: Column, value: Value) -> tuple[int, Any]:
    affinity = "BLOB" if definition.strict and column.type == "ANY" else affinity_of(column.type)
    if column.collation != "BINARY":
        raise MalformedError(f"column {column.name!r:.60} is ordered by {column.collation!r:.20}", rule="PRF-5")
    if value is None or not is_as_stored(affinity, value):
        raise MalformedError(f"column {column.name!r:.60} would hold this key as another value", rule="PRF-5")
    if isinstance(value, str):
        return 2, value.encode()
    return (3, value) if isinstance(value, bytes) else (1, value)


# -- members, and who named a certificate --------------------------------------------------


def _check_member(certificate: Outline, claim: MemberClaim) -> None:
    """Return if the member is under the certificate's members root (PRF-6)."""
    leaf = tree_leaf(claim.member_id)
    size = certificate.member_count
    if len(claim.member_id) != MEMBER_ID_SIZE or not check_inclusion(
        leaf, claim.index, size, claim.path, certificate.members_root
    ):
        raise LinkError(f"member {claim.member_id.hex()[:8]} is not counted there", rule="PRF-6")


def named_by(certificate: Outline, claim: NamedClaim) -> tuple[frozenset[bytes], ...]:
    """Return, for each step, who signed for its certificate or for a later one: that is made only upon it (PRF-7).

    Raises:
        RefusedError: PRF-7, or what its receipts break.
    """
    steps = claim.steps
    if not steps or steps[-1].outline != certificate:
        raise MalformedError("proof's steps do not end with the certificate that it is about", rule="PRF-7")
    for step in steps:
        _check_step(certificate, step)
    for older, newer in pairwise(step.outline for step in steps):
        if newer.epoch != older.epoch + 1 or newer.previous != older.hash:
            raise LinkError(f"certificate of epoch {newer.epoch} does not follow the one before it", rule="PRF-7")
    if list(claim.receipts) != sorted(set(claim.receipts)):
        raise MalformedError("proof's receipts are not in strict order", rule="PRF-7")
    heard = {member_id for step in steps for member_id in (*step.members, step.outline.steward)}
    places = {step.outline.hash: place for place, step in enumerate(steps)}
    newest: dict[bytes, int] = {}
    for body, signature in claim.receipts:
        receipt = Receipt.decode(body, signature)
        who, place = receipt.statement.member_id, places.get(receipt.statement.certificate)
        if who not in heard or place is None:
            raise LinkError("proof has a receipt that is no member's, or names another certificate", rule="PRF-7")
        receipt.check(certificate.space_id)
        newest[who] = max(newest.get(who, 0), place)
    return tuple(frozenset(who for who, at in newest.items() if at >= place) for place in range(len(steps)))


def _check_step(certificate: Outline, step: Step) -> None:
    """Return if a step is a certificate of this space, with its own members and those who are gone."""
    outline = step.outline
    if not outline.is_formed:
        raise MalformedError("proof has a certificate that is not of this format", rule="PRF-1")
    if outline.space_id != certificate.space_id:
        raise LinkError("proof joins certificates of two spaces", rule="PRF-7")
    if list(step.members) != sorted(set(step.members)) or len(step.members) != outline.member_count:
        raise MalformedError("proof's members are not in strict order, or not as many as were counted", rule="PRF-7")
    if members_root(step.members) != outline.members_root or tree_leaf(pack(step.gone)) != outline.gone:
        raise LinkError("proof lists other members than were counted, or others as gone", rule="PRF-7")
