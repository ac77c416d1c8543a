"""Bytes that must never change within a protocol version, made from fixed keys.

    python tests/vectors/make_vectors.py            say whether the files beside this one are what the code makes
    python tests/vectors/make_vectors.py --write    write them

A second implementation that reproduces these has the encodings right. `test_vectors.py` fails if they differ, so that a
change of format is a decision and not an accident. The parts are kept too small to be compressed, because the bytes of
a zstd frame are its library's choice.
"""

from __future__ import annotations

import json
import sys
from hashlib import sha512
from pathlib import Path
from typing import Any

import nacl.exceptions
import nacl.signing

from klal.bundle.contents import MAGIC, Contents, Gives, Needs, encode_contents, encode_end, encode_receipts
from klal.items import (
    HEADERS,
    PAYLOADS,
    HeadersIndex,
    PayloadsDraft,
    RunLine,
    encode_item,
)
from klal.model.acts import (
    Close,
    CreateTable,
    Genesis,
    NameMoment,
    Policy,
    SetPolicy,
    encode_acts,
    make_invitation,
    make_join,
)
from klal.model.certificate import Body, Certificate, CutHead, MemberName, Witness
from klal.model.codec import pack, tree_leaf, tree_root
from klal.model.frontier import EMPTY_ROOT, Frontier, Head
from klal.model.header import ACTS_TABLE, NO_CERTIFICATE, Header, Part, header_hash
from klal.model.keys import SigningKey, branch_id_of, log_id_of
from klal.model.merkle import inclusion_path
from klal.model.payload import Kind, Segment, encode_segment, part_root
from klal.model.proof import ChangeClaim, MemberClaim, Proof, Slice
from klal.model.receipt import Copy, HeldHead, Question, Statement, make_receipt, receipts_root
from klal.model.receipt import Proof as CopyProof
from klal.model.roots import chain_root, change_leaf, members_root, row_leaf, table_node
from klal.model.schema import Column, Default, TableDefinition, column_id_of
from klal.model.seal import make_seal
from klal.model.ticket import Ticket, encode_ticket
from klal.rules.compaction import digest_of, tally_of
from klal.rules.order import draw_of
from klal.rules.spark import Belief
from klal.sync.station import PartSlice

FOLDER = Path(__file__).parent

ANA = SigningKey(bytes([1]) * 32)
BEN = SigningKey(bytes([2]) * 32)
TICKET_KEY = SigningKey(bytes([9]) * 32)
ANA_RUN = bytes([0x11]) * 16
BEN_RUN = bytes([0x22]) * 16
SALT = bytes(range(16))

GENESIS = Genesis("season", ANA.member_id, "ana", bytes([5]) * 32, Policy("member", 1_900_000_000_000))
SPACE = GENESIS.space_id
ANA_LOG = log_id_of(SPACE, ANA.member_id, ANA_RUN)
BEN_LOG = log_id_of(SPACE, BEN.member_id, BEN_RUN)
TABLE = TableDefinition(
    "penguin",
    (
        Column("id", "TEXT", default=Default(None, "klal_id")),
        Column("mass_g", "INT"),
        Column("note", "TEXT", True, Default("")),
    ),
    ("id",),
)
COLUMN_IDS = tuple(column_id_of(TABLE.table_id, column) for column in TABLE.columns)


MERKLE_INPUTS = (
    *("", "00", "10", "2021", "3031", "40414243"),
    *("5051525354555657", "606162636465666768696a6b6c6d6e6f"),
)


def _part(table_id: bytes, data: bytes, row_count: int) -> Part:
    return Part(table_id, part_root(data), len(data), row_count)


def _history() -> dict[str, Any]:
    genesis_acts = encode_acts((GENESIS,), SALT)
    first = Header(0, 0, 1_700_000_000_000, 0, ANA_LOG, NO_CERTIFICATE, (), (_part(ACTS_TABLE, genesis_acts, 1),))
    first_hash = header_hash(SPACE, first.encode())

    table_acts = encode_acts((CreateTable(TABLE), SetPolicy(TABLE.table_id, "row", "wins", 1)), SALT)
    rows = b"".join(
        (
            SALT,
            encode_segment(Segment(Kind.DELETE, (), [["gone"]], [])),
            encode_segment(Segment(Kind.DELETE, (), [["ended"]], [], is_final=True)),
            encode_segment(Segment(Kind.UPDATE, (COLUMN_IDS[1],), [["n2"]], [[3800]], [2])),
            encode_segment(Segment(Kind.INSERT, COLUMN_IDS[1:], [["n1", "n2"]], [[None, -1], ["", "s\u00f8"]], None)),
        )
    )
    parts = (_part(ACTS_TABLE, table_acts, 2), _part(TABLE.table_id, rows, 5))
    second = Header(1, 0, 1_700_000_000_001, 3, first_hash, NO_CERTIFICATE, (), parts)
    second_hash = header_hash(SPACE, second.encode())

    invitation = make_invitation(ANA, SPACE, TICKET_KEY.member_id, 3, 0)
    join = make_join(TICKET_KEY, SPACE, BEN.member_id, "ben", invitation)
    join_acts = encode_acts((join, Close(0)), SALT)
    third = Header(
        0, 0, 1_700_000_000_002, 0, BEN_LOG, NO_CERTIFICATE, (second_hash,), (_part(ACTS_TABLE, join_acts, 2),)
    )
    third_hash = header_hash(SPACE, third.encode())

    close_acts = encode_acts((Close(0),), SALT)
    fourth = Header(
        2, 0, 1_700_000_000_003, 0, second_hash, NO_CERTIFICATE, (third_hash,), (_part(ACTS_TABLE, close_acts, 1),)
    )
    return {
        "genesis_acts": genesis_acts,
        "table_acts": table_acts,
        "rows": rows,
        "join_acts": join_acts,
        "close_acts": close_acts,
        "invitation": invitation,
        "headers": [first, second, third, fourth],
        "hashes": [first_hash, second_hash, third_hash, header_hash(SPACE, fourth.encode())],
    }


def _frontier(hashes: list[bytes]) -> Frontier:
    return Frontier({ANA_LOG: Head(3, hashes[3]), BEN_LOG: Head(1, hashes[2])})


def _change_leaves(hashes: list[bytes]) -> list[bytes]:
    places = [(ANA_LOG, 0, hashes[0]), (ANA_LOG, 1, hashes[1]), (ANA_LOG, 2, hashes[3]), (BEN_LOG, 0, hashes[2])]
    return [change_leaf(*place) for place in sorted(places)]


def proofs() -> dict[str, Proof]:
    """Return a proof of Ana's second change with its rows, and one that Ben was counted."""
    made, outline = _history(), certificate().body.outline
    leaves = _change_leaves(made["hashes"])
    at = leaves.index(change_leaf(ANA_LOG, 1, made["hashes"][1]))
    rows = Slice(TABLE.table_id, 0, made["rows"], ())
    change = ChangeClaim(
        ANA.member_id,
        ANA_RUN,
        made["headers"][1].encode(),
        at,
        len(leaves),
        inclusion_path(leaves, at),
        (rows,),
    )
    ids = sorted((ANA.member_id, BEN.member_id))
    index = ids.index(BEN.member_id)
    member = MemberClaim(BEN.member_id, index, inclusion_path([tree_leaf(each) for each in ids], index))
    return {"proof_of_change": Proof(outline, None, change), "proof_of_member": Proof(outline, None, member)}


def certificate() -> Certificate:
    """Return the certificate of a small space whose two members have finished."""
    made = _history()
    headers, hashes = made["headers"], made["hashes"]
    cut = _frontier(hashes)
    closes = [
        (ANA, "ana", ANA_RUN, ANA_LOG, headers[3], made["close_acts"]),
        (BEN, "ben", BEN_RUN, BEN_LOG, headers[2], made["join_acts"]),
    ]
    closes.sort(key=lambda close: close[0].member_id)
    names = tuple(MemberName(key.member_id, name) for key, name, *_ in closes)
    body = Body(
        1,
        SPACE,
        0,
        NO_CERTIFICATE,
        chain_root(()),
        cut.root(),
        tree_root(_change_leaves(hashes)),
        bytes([0x33]) * 32,
        cut.change_count,
        sum(header.payload_size for header in headers),
        2,
        members_root([name.member_id for name in names]),
        2,
        names,
        (),
        (),
        (),
        ANA.member_id,
        ANA.member_id,
    )
    witness = tuple(
        Witness(
            MemberName(key.member_id, name),
            run,
            b"",
            header.encode(),
            acts,
            make_seal(key, SPACE, log, header.seq + 1, header_hash(SPACE, header.encode())).signature,
        )
        for key, name, run, log, header, acts in closes
    )
    heads = tuple(CutHead(log, head.length, head.head_hash) for log, head in cut.heads.items())
    return Certificate(body, heads, witness)


def ticket() -> Ticket:
    """Return a ticket of the same space, with its one table."""
    made = _history()
    seal = make_seal(ANA, SPACE, ANA_LOG, 1, made["hashes"][0])
    return Ticket(
        made["headers"][0].encode(),
        made["genesis_acts"],
        ANA_RUN,
        seal.signature,
        made["invitation"],
        TICKET_KEY.seed,
        (CreateTable(TABLE),),
    )


def format_vectors() -> dict[str, Any]:
    """Return name -> bytes in hex, or text, of everything with a byte layout."""
    made = _history()
    headers, hashes = made["headers"], made["hashes"]
    frontier = _frontier(hashes)
    statement = Statement(
        ANA.member_id,
        ANA_RUN,
        7,
        1_700_000_000_004,
        (HeldHead(ANA_LOG, 3, hashes[3]),),
        (HeldHead(BEN_LOG, 1, hashes[2]),),
        hashes[1],
        Copy(
            hashes[0],
            (BEN.member_id,),
            (Question(hashes[1], hashes[0], SALT),),
            (
                CopyProof(
                    BEN_LOG, SALT, digest_of(SPACE, Question(hashes[2], bytes(32), SALT), ANA.member_id, hashes[3])
                ),
            ),
        ),
    )
    receipt = make_receipt(ANA, SPACE, statement)
    vectors: dict[str, Any] = {
        "space_id": SPACE,
        "member_id_of_ana": ANA.member_id,
        "member_id_of_ben": BEN.member_id,
        "log_id_of_ana": ANA_LOG,
        "log_id_of_ben": BEN_LOG,
        "branch_id_of_ana": branch_id_of(ANA_LOG, hashes[1]),
        "table_id": TABLE.table_id,
        "column_ids": list(COLUMN_IDS),
        "genesis_acts": made["genesis_acts"],
        "join_acts": made["join_acts"],
        "moment_acts": encode_acts((NameMoment("before the storm"),), SALT),
        "part": made["rows"],
        "part_root": part_root(made["rows"]),
        "large_part_root": part_root(bytes(16) + b"\x01" * (600 * 1024)),
        "headers": [header.encode() for header in headers],
        "header_hashes": hashes,
        "seal_signature": make_seal(ANA, SPACE, ANA_LOG, 3, hashes[3]).signature,
        "empty_frontier_root": EMPTY_ROOT,
        "frontier_root": frontier.root(),
        "frontier_root_of_1000_logs": Frontier(
            {log_id_of(SPACE, ANA.member_id, n.to_bytes(16, "big")): Head(n + 1, hashes[0]) for n in range(1000)}
        ).root(),
        "receipt_body": receipt.body,
        "receipt_signature": receipt.signature,
        "copy_tally": tally_of(SALT, [b"payload of one", b"payload of two"]),
        "receipts_root": receipts_root({ANA_LOG: receipt}),
        "draw_of_ana": draw_of(SPACE, NO_CERTIFICATE, ANA.member_id),
        "ticket": encode_ticket(ticket()),
        "certificate": certificate().encode(),
        "certificate_outline": pack(certificate().body.outline),
        "certificate_hash": certificate().hash,
        "spark": Belief(certificate().body.outline, 2, 2).encode(),
        **{name: proof.encode() for name, proof in proofs().items()},
        "row_leaf": row_leaf(("n1", None, "s\u00f8")),
        "table_node": table_node(TABLE.table_id, 1, row_leaf(("n1", None, "s\u00f8")), COLUMN_IDS),
    }
    return {name: _plain(value) for name, value in vectors.items()}


def merkle_vectors() -> dict[str, Any]:
    """Return trees over the eight inputs that implementations of RFC 6962 are tried with, and paths in them."""
    leaves = [tree_leaf(bytes.fromhex(data)) for data in MERKLE_INPUTS]
    sizes = range(1, len(leaves) + 1)
    return {
        "inputs": MERKLE_INPUTS,
        "roots": [tree_root(leaves[:size]).hex() for size in sizes],
        "inclusion": [
            {"index": index, "size": size, "path": [h.hex() for h in inclusion_path(leaves[:size], index)]}
            for size in sizes
            for index in range(size)
        ],
    }


# -- Ed25519 at its edges -------------------------------------------------------------------

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = (-121665 * pow(121666, _P - 2, _P)) % _P


def _small_order_keys() -> dict[str, bytes]:
    """Return every encoding of a point of order 1, 2, 4 or 8, canonical or not."""
    # y of a point of order 8: y^2 = (-1 +- sqrt(1 + d)) / d, from doubling it to one with y = 0.
    root = pow(1 + _D, (_P + 3) // 8, _P)
    if root * root % _P != (1 + _D) % _P:
        root = root * pow(2, (_P - 1) // 4, _P) % _P
    inverse = pow(_D, _P - 2, _P)
    found = {"order 1, y = 1": 1, "order 2, y = -1": _P - 1, "order 4, y = 0": 0}
    for square in ((-1 + root) * inverse % _P, (-1 - root) * inverse % _P):
        y = pow(square, (_P + 3) // 8, _P)
        if y * y % _P != square:
            y = y * pow(2, (_P - 1) // 4, _P) % _P
        if y * y % _P == square:
            found["order 8, y"] = y
            found["order 8, -y"] = _P - y
    found |= {"order 4, y = p": _P, "order 1, y = p + 1": _P + 1}
    keys = {}
    for name, y in found.items():
        for sign in (0, 1):
            keys[f"{name}, sign {sign}"] = (y | sign << 255).to_bytes(32, "little")
    return keys


def _accepts(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        nacl.signing.VerifyKey(key).verify(message, signature)
    except (nacl.exceptions.CryptoError, ValueError):
        return False
    return True


def ed25519_vectors() -> list[dict[str, Any]]:
    """Return edge cases of Ed25519 with what PyNaCl says to each (T13)."""
    message = b"klal edge"
    signed = nacl.signing.SigningKey(bytes([1]) * 32).sign(message).signature
    key = ANA.member_id
    r, s = signed[:32], int.from_bytes(signed[32:], "little")
    cases: list[tuple[str, bytes, bytes]] = [("an honest signature", key, signed)]
    cases += [
        (f"S + {times} L", key, r + (s + times * _L).to_bytes(32, "little"))
        for times in range(1, 16)
        if s + times * _L < 1 << 256
    ]
    cases += [
        ("S = 0", key, r + bytes(32)),
        ("S = L", key, r + _L.to_bytes(32, "little")),
        ("S = L - 1", key, r + (_L - 1).to_bytes(32, "little")),
        ("S with all bits", key, r + b"\xff" * 32),
        ("R = 0", key, bytes(32) + signed[32:]),
        ("R with the sign bit turned", key, r[:31] + bytes([r[31] ^ 128]) + signed[32:]),
        ("A with the sign bit turned", key[:31] + bytes([key[31] ^ 128]), signed),
        ("A = 2^255 - 1, no point", b"\xff" * 31 + b"\x7f", signed),
        ("R and S swapped", key, signed[32:] + r),
    ]
    identity = (1).to_bytes(32, "little")
    for name, small in _small_order_keys().items():
        # With A of small order and S = 0 a verifier without the check takes R = identity for one message in eight.
        cases.append((f"A of {name}; R = identity, S = 0", small, identity + bytes(32)))
        cases.append((f"A of {name}; R = A, S = 0", small, small + bytes(32)))
        # With an honest A, R of small order: S = k a verifies for those whose equation holds.
        scalar = _clamped(bytes([1]) * 32)
        k = int.from_bytes(sha512(small + key + message).digest(), "little") % _L
        cases.append((f"R of {name}; S = k a", key, small + (k * scalar % _L).to_bytes(32, "little")))
    return [
        {"name": name, "key": key_.hex(), "message": message.hex(), "signature": signature.hex(), "accepted": accepted}
        for name, key_, signature in cases
        for accepted in (_accepts(key_, message, signature),)
    ]


def _clamped(seed: bytes) -> int:
    digest = bytearray(sha512(seed).digest()[:32])
    digest[0] &= 248
    digest[31] = digest[31] & 127 | 64
    return int.from_bytes(digest, "little")


def bundle_vectors() -> dict[str, Any]:
    """Return one bundle in pieces: ana's first change, as somebody takes it who holds ben's first (BDL-1, BDL-2)."""
    acts = encode_acts((GENESIS,), SALT)
    header = Header(0, 0, 1_700_000_000_000, 0, ANA_LOG, NO_CERTIFICATE, (), (_part(ACTS_TABLE, acts, 1),))
    head = header_hash(SPACE, header.encode())
    seal = make_seal(ANA, SPACE, ANA_LOG, 1, head)
    receipt = make_receipt(ANA, SPACE, Statement(ANA.member_id, ANA_RUN, 3, 1_700_000_000_003, (), ()))
    need = Needs(BEN_LOG, "ben", 1, bytes([7]) * 32)
    gift = Gives(ANA_LOG, ANA.member_id, ANA_RUN, "ana", 0, 1, head, ((0, 1),))
    draft = PayloadsDraft(1 << 20)
    draft.add(PartSlice(ANA_LOG, 0, ACTS_TABLE, 0, acts), ())
    index, body = draft.finish(head)
    run = HeadersIndex(ANA.member_id, ANA_RUN, 1, (RunLine(0, (header.encode(),), seal.signature),))
    items = [
        *encode_contents(Contents(SPACE, "season", 2, 3, (need,), (gift,))),
        encode_item(HEADERS, SPACE, ANA_LOG, pack(run)),
        encode_item(PAYLOADS, SPACE, ANA_LOG, pack(index), body),
        *encode_receipts(SPACE, (receipt,)),
    ]
    size = len(MAGIC) + sum(map(len, items))
    return {
        "magic": MAGIC.hex(),
        "contents": items[0].hex(),
        "headers": items[1].hex(),
        "payloads": items[2].hex(),
        "receipts": items[3].hex(),
        "end": encode_end(SPACE, len(items), size).hex(),
    }


# -- files ----------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return [_plain(item) for item in value] if isinstance(value, list) else value


def files() -> dict[str, str]:
    """Return file name -> its text, as the code makes it now."""
    made = {
        "formats.json": format_vectors(),
        "merkle.json": merkle_vectors(),
        "ed25519_edge.json": ed25519_vectors(),
        "bundle.json": bundle_vectors(),
    }
    return {name: json.dumps(value, indent=1) + "\n" for name, value in made.items()}


def main() -> int:
    status = 0
    for name, text in files().items():
        path = FOLDER / name
        if "--write" in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{name} is not what the code makes", file=sys.stderr)  # noqa: T201 - it is a script
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
