"""The vectors beside this file are what the code makes, and what the code takes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from klal.bundle.reading import Bundle
from klal.errors import SignatureError
from klal.model.certificate import check_certificate
from klal.model.header import Header
from klal.model.keys import check_signature
from klal.model.proof import check_proof
from klal.model.ticket import decode_ticket
from klal.rules.spark import decode_belief

FOLDER = Path(__file__).parent


def _load_maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_vectors", FOLDER / "make_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = _load_maker()
FORMATS = json.loads((FOLDER / "formats.json").read_text("utf-8"))
EDGES = json.loads((FOLDER / "ed25519_edge.json").read_text("utf-8"))


@pytest.mark.parametrize("name", sorted(MAKER.files()))
def test_regenerated_bytes_are_the_ones_in_the_file(name: str) -> None:
    """ENC-1, HDR-1, PAY-2, SEA-1, RCP-1, FRN-3, MEM-3, CRT-1, PRF-1, SPK-1, BDL-1: another of any is a new version."""
    assert MAKER.files()[name] == (FOLDER / name).read_text("utf-8")


def test_the_vectors_are_accepted() -> None:
    certificate = check_certificate(bytes.fromhex(FORMATS["certificate"]))

    assert certificate.hash.hex() == FORMATS["certificate_hash"]
    for name in ("proof_of_change", "proof_of_member"):
        assert check_proof(bytes.fromhex(FORMATS[name])).certificate == certificate.body.outline
    assert decode_belief(bytes.fromhex(FORMATS["spark"])).outline.hash == certificate.hash
    assert decode_ticket(FORMATS["ticket"]).genesis.space_id.hex() == FORMATS["space_id"]
    for data in FORMATS["headers"]:
        assert Header.decode(bytes.fromhex(data)).encode().hex() == data


def test_the_bundle_is_accepted(tmp_path: Path) -> None:
    """BDL-1 BDL-2 BDL-6"""
    pieces = json.loads((FOLDER / "bundle.json").read_text("utf-8"))
    path = tmp_path / "x.bundle"
    path.write_bytes(b"".join(bytes.fromhex(data) for data in pieces.values()))
    bundle = Bundle(path)
    try:
        kinds = [found.head.kind for found in bundle.items()]
        damaged = list(bundle.damaged)
    finally:
        bundle.close()

    assert (kinds, damaged) == ([5, 1, 2, 6], [])
    assert bundle.contents is not None
    assert (bundle.contents.part, bundle.contents.part_count) == (2, 3)
    assert [line.name for line in (*bundle.contents.needs, *bundle.contents.gives)] == ["ben", "ana"]


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge["name"])
def test_ed25519_takes_exactly_what_it_took_when_the_set_was_frozen(edge: dict) -> None:
    """T13, KEY-3: two replicas that differ in one of these would part for ever."""
    key, message, signature = (bytes.fromhex(edge[name]) for name in ("key", "message", "signature"))

    assert MAKER._accepts(key, message, signature) is edge["accepted"]


def test_of_the_edge_cases_only_the_honest_signature_is_accepted() -> None:
    """T13: no small-order key, no second S, no R or A that is not the one spelling of a point of full order."""
    assert [edge["name"] for edge in EDGES if edge["accepted"]] == ["an honest signature"]


def test_a_signature_of_another_use_is_refused() -> None:
    """T12, KEY-2."""
    signature = MAKER.ANA.sign("klal/seal/1", b"x")

    check_signature(MAKER.ANA.member_id, signature, "word", "klal/seal/1", b"x")
    with pytest.raises(SignatureError):
        check_signature(MAKER.ANA.member_id, signature, "word", "klal/receipt/1", b"x")
