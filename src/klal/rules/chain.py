"""Certificates beside each other: several of one space as a chain, and one against what history gives.

Each is checked by itself before (`check_certificate`); here they are held together. Nothing
is signed anew: that two certificates belong to one chain follows from their hashes, their
members and their cuts.

Source:
    Protocol spec section 13, rules CRT-1 to CRT-9 (T23).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from klal.errors import LinkError
from klal.model.certificate import Certificate
from klal.model.roots import chain_root


def check_chain(certificates: Iterable[Certificate]) -> list[Certificate]:
    """Return certificates by epoch, each once, if they can all be of one space's one chain.

    Between certificates of epochs that do not follow one another only cut and counts can be compared.

    Raises:
        LinkError: CRT-1, two spaces; CRT-9, two certificates of one epoch, or another predecessor;
            CRT-4, members who came or went unsaid; CRT-2, a cut that lacks what the one before had.
    """
    found: dict[int, Certificate] = {}
    for certificate in sorted(certificates, key=lambda each: each.epoch):
        body = certificate.body
        other = found.setdefault(certificate.epoch, certificate)
        if other.body.space_id != body.space_id or next(iter(found.values())).body.space_id != body.space_id:
            raise LinkError("certificates are of two spaces", rule="CRT-1")
        if other.hash != certificate.hash:
            raise LinkError(
                f"there are two certificates of epoch {certificate.epoch}: {other.hash.hex()[:16]}"
                f" and {certificate.hash.hex()[:16]}",
                rule="CRT-9",
                evidence=(other.hash, certificate.hash),
            )
    chain = list(found.values())
    for older, newer in pairwise(chain):
        _check_pair(older, newer)
    if chain and chain[-1].epoch == len(chain) - 1:
        for certificate in chain:
            if certificate.body.chain_root != chain_root(each.hash for each in chain[: certificate.epoch]):
                raise LinkError(f"certificate of epoch {certificate.epoch} has another chain", rule="CRT-9")
    return chain


def _check_pair(older: Certificate, newer: Certificate) -> None:
    what = f"certificate of epoch {newer.epoch}"
    before, after = older.frontier(), newer.frontier()
    # Where a log was found to have forked, it ends earlier and its branches stand beside it (LOG-7).
    # Their names do not say of which log they are: only the history does.
    may_have_forked = len(after.heads.keys() - before.heads.keys()) > 1
    for log_id, head in before.heads.items():
        is_same = after.length(log_id) != head.length or after.heads[log_id].head_hash == head.head_hash
        is_shorter = after.length(log_id) < head.length and not may_have_forked
        if is_shorter or not is_same:
            raise LinkError(
                f"{what} lacks changes of log {log_id.hex()[:8]} that epoch {older.epoch} had", rule="CRT-2"
            )
    if newer.epoch > older.epoch + 1:
        return
    if newer.body.previous != older.hash:
        raise LinkError(f"{what} does not follow that of epoch {older.epoch}", rule="CRT-9")
    were, are = (members_of(each) for each in (older, newer))
    if {joined.member_id for joined in newer.body.joined} != are - were:
        raise LinkError(f"{what} does not say who joined", rule="CRT-4")
    if set(newer.body.left) != were - are:
        raise LinkError(f"{what} does not say who left", rule="CRT-6")
    gone = {each.member_id for each in newer.body.gone}
    if not were - are <= gone:
        raise LinkError(f"{what} lacks member {min(were - are - gone).hex()[:8]} and does not say why", rule="CRT-6")


def members_of(certificate: Certificate) -> set[bytes]:
    """Return the ids of the counted members."""
    return {witness.member.member_id for witness in certificate.witness}


_FIELDS: tuple[tuple[str, str, str], ...] = (
    ("space_id", "CRT-1", "is of another space"),
    ("epoch", "CRT-1", "is of another epoch"),
    ("previous", "CRT-9", "names another certificate before it"),
    ("chain_root", "CRT-9", "has another chain before it"),
    ("history_root", "CRT-2", "is over another history"),
    ("change_count", "CRT-2", "counts other changes"),
    ("changes_root", "CRT-8", "is over other changes"),
    ("payload_size", "CRT-3", "states another size of payloads"),
    ("members_root", "CRT-4", "counts other members"),
    ("member_count", "CRT-4", "counts another number of members"),
    ("joined", "CRT-4", "names others who joined"),
    ("left", "CRT-6", "names others who left"),
    ("gone", "CRT-6", "names others who are gone"),
    ("late", "CRT-6", "counts other late changes"),
    ("steward", "CRT-6", "names another steward"),
    ("steward_next", "CRT-6", "names another next steward"),
    ("rows_root", "CRT-3", "is over other rows"),
    ("row_count", "CRT-3", "counts other rows"),
)


def check_against(given: Certificate, true: Certificate) -> None:
    """Return if a certificate is the one that history gives.

    Args:
        given: Checked by itself.
        true: As computed from history.

    Raises:
        LinkError: The first field that differs, with the rule that gives it; `evidence` names the field.
    """
    what = f"certificate of epoch {given.epoch}"
    for name, rule, words in _FIELDS:
        if getattr(given.body, name) != getattr(true.body, name):
            raise LinkError(f"{what} {words} than history gives", rule=rule, evidence=name)
    if given.hash != true.hash:
        name = next(
            each for each in given.body.__struct_fields__ if getattr(given.body, each) != getattr(true.body, each)
        )
        raise LinkError(f"{what} says otherwise than history what is {name}", rule="CRT-1", evidence=name)
    if given.cut != true.cut:
        raise LinkError(f"{what} lists another cut than history gives", rule="CRT-2", evidence="cut")
    if members_of(given) != members_of(true):
        raise LinkError(f"{what} has another witness than history gives", rule="CRT-5", evidence="witness")
