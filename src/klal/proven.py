"""What a checked proof shows, in words for people and as values for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from klal.model.header import Header
from klal.model.proof import (
    AbsenceClaim,
    ChangeClaim,
    MemberClaim,
    NamedClaim,
    Proof,
    RowClaim,
    columns_of,
    key_of,
    log_of,
    named_by,
    part_of,
)
from klal.model.schema import key_text
from klal.reports import ChangeId, json_value


@dataclass(frozen=True, slots=True)
class Proven:
    """What follows from a proof, if its certificate is the true one.

    Shape:
        kind: "change", "row", "absence", "member" or "named".
        epoch, certificate: whose certificate it is about, by number and hash.
        under_epoch, under: the certificate that must be trusted; it may be a later one.
        facts: what is shown, for programs. sentence: the same, for people.
    """

    kind: str
    epoch: int
    certificate: bytes
    under_epoch: int
    under: bytes
    facts: dict[str, Any]
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Return the answer as JSON has it."""
        return {
            "ok": True,
            "proves": self.kind,
            **self.facts,
            "epoch": self.epoch,
            "certificate": self.certificate.hex(),
            "under": {"epoch": self.under_epoch, "certificate": self.under.hex()},
        }


def proven(proof: Proof) -> Proven:
    """Return what a checked proof shows."""
    outline, anchor = proof.certificate, proof.anchor
    claim = proof.claim
    match claim:
        case ChangeClaim():
            kind, facts, sentence = "change", *_change(proof, claim)
        case RowClaim():
            names = [column.name for column in columns_of(claim.table)]
            key, table = key_of(claim.table, claim.row.values), claim.table.definition.name
            row = dict(zip(names, map(json_value, claim.row.values), strict=True))
            kind, facts = "row", {"table": table, "key": list(map(json_value, key)), "row": row}
            sentence = f"at the close of epoch {outline.epoch}, table {table} had this row with key {key_text(key)}"
        case AbsenceClaim():
            table = claim.table.definition.name
            kind, facts = "absence", {"table": table, "key": list(map(json_value, claim.key))}
            sentence = f"at the close of epoch {outline.epoch}, table {table} had no row with key {key_text(claim.key)}"
        case MemberClaim():
            kind, facts = "member", {"member": claim.member_id.hex(), "members": outline.member_count}
            sentence = (
                f"member {claim.member_id.hex()[:16]} is one of the {outline.member_count} counted in epoch"
                f" {outline.epoch}: its Close is in the cut"
            )
        case NamedClaim():
            kind, facts, sentence = "named", *_named(proof, claim)
    return Proven(kind, outline.epoch, outline.hash, anchor.epoch, anchor.hash, facts, sentence)


def _change(proof: Proof, claim: ChangeClaim) -> tuple[dict[str, Any], str]:
    header = Header.decode(claim.header)
    change = ChangeId(log_of(proof.certificate, claim), header.seq)
    parts = [
        {
            "table": part.table_id.hex(),
            "row_count": part.row_count,
            "bytes": part.size,
            "shown": part_of(claim, part.table_id) is not None,
        }
        for part in header.parts
    ]
    facts = {"change": str(change), "member": claim.member_id.hex(), "written_in_epoch": header.epoch, "parts": parts}
    payload = "its payload is shown whole" if all(part["shown"] for part in parts) else "its payload by hash"
    sentence = (
        f"change {change.log_id.hex()[:8]}:{change.seq} by member {claim.member_id.hex()[:16]} belongs to epoch"
        f" {proof.certificate.epoch}: header and place are shown, {payload}"
    )
    return facts, sentence


def _named(proof: Proof, claim: NamedClaim) -> tuple[dict[str, Any], str]:
    *_, naming = named_by(proof.certificate, claim)
    *before, last = claim.steps
    # Who decides about an epoch are those whom the one before it counted, and who stay.
    voices = before[-1].electorate if before else frozenset(last.members)
    names, since = sorted(naming & voices), claim.steps[0].outline if before else None
    facts = {
        "members": len(voices),
        "named_by": [member_id.hex() for member_id in names],
        "since": None if since is None else {"epoch": since.epoch, "certificate": since.hash.hex()},
    }
    counted = f"members counted in epoch {proof.certificate.epoch - bool(before)}"
    sentence = (
        f"{len(names)} of the {len(voices)} {counted}{' who stayed' if before else ''} signed that they computed"
        f" the certificate of epoch {proof.certificate.epoch}"
    )
    if since is not None:
        sentence += f", whose chain begins with that of epoch {since.epoch}"
    return facts, sentence
