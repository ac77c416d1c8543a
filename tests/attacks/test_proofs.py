"""Proofs and light clients against whoever bends them: nothing that passes says what was not certified (T23)."""

from __future__ import annotations

import msgspec
import pytest

from klal.api import check_proof
from klal.errors import ForkError, IncompleteError, LinkError, RefusedError
from klal.model.certificate import NO_MEMBER, GoneMember, check_certificate
from klal.model.codec import pack
from klal.model.keys import SigningKey
from klal.model.proof import PROOF_MAGIC, NamedClaim, Proof, Step
from klal.model.proof import check_proof as checked
from klal.model.receipt import Statement, make_receipt
from klal.model.roots import chain_root, members_root, row_leaf, table_node
from klal.rules.chain import check_against, check_chain
from klal.spark import Spark
from tests.helpers.books import EPOCH_COUNT, books, chain_of, proofs_of

replace = msgspec.structs.replace

KINDS = (
    *("change", "old change", "change with its payload", "row", "row of a key of two columns"),
    *("absent between two", "absent at the end", "member", "named", "named since"),
)


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    with books(tmp_path_factory.mktemp("books") / "fleet") as fleet:
        yield fleet


@pytest.fixture(scope="module")
def chain(closed):
    return chain_of(closed["ana"])


@pytest.fixture(scope="module")
def proofs(closed):
    found = proofs_of(closed["ana"])
    assert tuple(found) == KINDS
    return found


@pytest.fixture
def spark(tmp_path, chain):
    def spark(epoch):
        return Spark.begin(tmp_path / f"{epoch}.spark", chain[epoch], hash=chain[epoch].hash)

    return spark


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_bit_is_flipped_a_proof_says_the_same_or_nothing(closed, proofs, kind):
    """PRF-1 to PRF-7, W13: refused, or about another certificate, or the same facts."""
    data = proofs[kind].encode()
    true = check_proof(data)

    for at in range(len(data)):
        for bit in range(8):
            changed = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            try:
                found = check_proof(changed)
            except RefusedError:
                continue
            if found.under == true.under:
                assert (found.facts, found.certificate) == (true.facts, true.certificate) or is_absent(closed, found)


def is_absent(closed, found):
    """True when another key, which a flip made, is absent as truly: between the same two neighbours."""
    rows = closed["ana"].at(f"epoch:{found.epoch}").query(f"SELECT * FROM {found.facts.get('table', 'bird')}")
    return found.kind == "absence" and tuple(found.facts["key"]) not in {row[: len(found.facts["key"])] for row in rows}


@pytest.mark.parametrize("kind", KINDS)
def test_a_proof_cut_short_or_followed_by_anything_is_refused(proofs, kind):
    """PRF-1, T1."""
    data = proofs[kind].encode()

    for bent in [data[:length] for length in range(len(data))] + [data + b"\0", PROOF_MAGIC + data]:
        with pytest.raises(RefusedError):
            check_proof(bent)


@pytest.mark.parametrize("kind", KINDS)
def test_a_proof_of_one_certificate_proves_nothing_of_another(proofs, chain, kind):
    """T23: with the outline of another epoch, or of another space, the same claim is refused."""
    proof = proofs[kind]
    others = [each.body.outline for each in chain if each.epoch != proof.certificate.epoch]
    if "change" in kind or "named" in kind:  # What a row says does not name its space; the certificate's hash does.
        others.append(replace(proof.certificate, space_id=bytes(32)))

    for other in others:
        if kind == "member" and other.members_root == proof.certificate.members_root:
            continue  # It was counted there too, and at the same place.
        for later in {proof.later, None}:
            with pytest.raises(RefusedError):
                checked(replace(proof, certificate=other, later=later).encode())


def test_the_path_of_one_change_is_no_proof_of_another(proofs, closed):
    """PRF-3, T23."""
    one, other = proofs["change"], proofs["old change"]
    for fields in (
        {"header": other.claim.header},
        {"member_id": closed["ben"].member_id},
        {"incarnation": bytes(16)},
        {"path": other.claim.path},
    ):
        with pytest.raises(RefusedError) as caught:
            checked(replace(one, claim=replace(one.claim, **fields)).encode())
        assert caught.value.rule == "PRF-3"


def test_nobody_who_was_not_counted_is_shown_as_a_member(proofs, closed):
    """PRF-6, T17: nor at another place, nor by another's path."""
    proof = proofs["member"]
    stranger = SigningKey(bytes([21]) * 32).member_id
    for fields in ({"member_id": stranger}, {"member_id": closed["ben"].member_id}, {"index": 5}, {"path": ()}):
        with pytest.raises(RefusedError) as caught:
            checked(replace(proof, claim=replace(proof.claim, **fields)).encode())
        assert caught.value.rule == "PRF-6"


def test_a_payload_of_another_change_is_not_shown_with_this_one(proofs, closed):
    """PRF-3: slices are held against the root in the header."""
    one = proofs["change with its payload"]
    visits = [each.change for each in closed["ana"].log() if each.tables.get("visit")]
    theirs = closed["ana"].prove.change(visits[0], with_payload=True).claim.slices
    ours = one.claim.slices

    for slices in (theirs, (*ours, *ours), (*ours, *theirs)):
        with pytest.raises(RefusedError):
            checked(replace(one, claim=replace(one.claim, slices=slices)).encode())


def test_a_row_that_is_there_cannot_be_shown_to_be_absent(proofs, closed):
    """PRF-5: rows that are no neighbours, or are not beside the key, show nothing."""
    prove = closed["ana"].prove
    absence = proofs["absent between two"].claim
    before, after = absence.rows
    there, first = prove.row("bird", "ben-2").claim.row, prove.row("bird", "ana-0").claim.row
    last = prove.row("bird", "cal-3").claim.row

    for key, rows in (
        (("ben-2",), (before, after)),
        (("ben-2",), (there,)),
        (("ben-2",), ()),
        (("ben-2",), (first, last)),
        (("ben-2",), (first,)),
        (("ben-",), (first, after)),
        (("ben-",), (after, before)),
        (("ben-",), (before,)),
        (("ben-",), (before, after, last)),
        (("zzz",), (before,)),
        (("aaa",), (after,)),
    ):
        bent = replace(proofs["absent between two"], claim=replace(absence, key=key, rows=rows))
        with pytest.raises(RefusedError) as caught:
            checked(bent.encode())
        assert caught.value.rule == "PRF-5"


@pytest.mark.parametrize("value", [[1], {"a": 1}, float("nan"), 1 << 63, True])
def test_a_value_that_no_row_can_hold_is_refused_and_never_shown(proofs, value):
    """PRF-4, PAY-5, T42: also where a made-up certificate vouches for it."""
    proof = proofs["row"]
    values = (*proof.claim.row.values[:-1], value)
    root = row_leaf(values)
    table = replace(proof.claim.table, row_count=1, root=root, index=0, count=1, path=())
    node = table_node(table.definition.table_id, 1, root, table.columns)
    claim = replace(proof.claim, table=table, row=replace(proof.claim.row, index=0, values=values, path=()))

    with pytest.raises(RefusedError) as caught:
        checked(Proof(replace(proof.certificate, rows_root=node), None, claim).encode())
    assert caught.value.rule == "PAY-5"


def test_who_named_a_certificate_is_shown_by_valid_receipts_and_a_chain_that_goes_on(proofs):
    """PRF-7, T19: no forged signature, no receipt twice, no other past."""
    proof = proofs["named since"]
    (body, signature), *rest = proof.claim.receipts
    bent = (*proof.claim.steps[2].members[:2], bytes([255]) * 32)
    gone = (GoneMember(proof.claim.steps[0].members[0], "ana", "left", 1, "", is_counted=True),)
    for fields, rule in (
        ({"receipts": ((body, bytes(64)), *rest)}, "KEY-1"),
        ({"receipts": ((body, signature), (body, signature), *rest)}, "PRF-7"),
        ({"steps": (proof.claim.steps[0], proof.claim.steps[2])}, "PRF-7"),
        ({"steps": proof.claim.steps[:2]}, "PRF-7"),
        ({"steps": ()}, "PRF-7"),
        ({"steps": (*proof.claim.steps[:2], replace(proof.claim.steps[2], members=bent))}, "PRF-7"),
        ({"steps": (replace(proof.claim.steps[0], gone=gone), *proof.claim.steps[1:])}, "PRF-7"),
    ):
        with pytest.raises(RefusedError) as caught:
            checked(replace(proof, claim=replace(proof.claim, **fields)).encode())
        assert caught.value.rule == rule


# -- chains of certificates ------------------------------------------------------------------


def test_certificates_of_one_space_are_one_chain(chain):
    """CRT-9."""
    assert check_chain(chain[::-1]) == chain
    assert check_chain([*chain, *chain]) == chain
    assert check_chain([chain[3], chain[1]]) == [chain[1], chain[3]]


def bent_bodies(chain):
    body, earlier = chain[2].body, chain[1]
    return {
        "another predecessor": (replace(body, previous=chain[0].hash), "CRT-9"),
        "a chain without an epoch": (replace(body, chain_root=chain_root([chain[0].hash])), "CRT-9"),
        "a member who joined unsaid": (replace(body, joined=earlier.body.joined), "CRT-4"),
    }


@pytest.mark.parametrize("what", ["another predecessor", "a chain without an epoch", "a member who joined unsaid"])
def test_a_certificate_that_does_not_follow_is_found_beside_the_one_before_it(chain, what):
    """T23: a skipped epoch, a wrong member list, another chain."""
    body, rule = bent_bodies(chain)[what]
    bent = check_certificate(replace(chain[2], body=body).encode())

    with pytest.raises(LinkError) as caught:
        check_chain([chain[0], chain[1], bent])
    assert caught.value.rule == rule


def test_a_member_who_is_left_out_unsaid_is_found(chain):
    """T23, W19: a certificate that forgets a member is no successor of one that counts it."""
    body = chain[2].body
    kept = tuple(witness for witness in chain[2].witness if witness.member.name != "ben")
    ids = [witness.member.member_id for witness in kept]
    left = tuple(witness.member.member_id for witness in chain[2].witness if witness.member.name == "ben")
    bent = replace(body, members_root=members_root(ids), member_count=len(ids), left=left)
    forged = check_certificate(replace(chain[2], body=bent, witness=kept).encode())

    with pytest.raises(LinkError, match="does not say why") as caught:
        check_chain([chain[1], forged])
    assert caught.value.rule == "CRT-6"


def test_two_certificates_for_one_epoch_are_evidence(chain):
    """T23: by their hashes."""
    other = replace(chain[1], body=replace(chain[1].body, rows_root=bytes(32)))

    with pytest.raises(LinkError, match="two certificates of epoch 1") as caught:
        check_chain([chain[0], chain[1], other])
    assert caught.value.evidence in ((chain[1].hash, other.hash), (other.hash, chain[1].hash))


def test_a_certificate_whose_cut_forgets_what_was_certified_is_no_successor(chain):
    """CRT-2: what an epoch had, later ones have."""
    old = chain[3]
    forged = replace(old, body=replace(old.body, epoch=1, chain_root=chain_root([old.body.previous])))

    with pytest.raises(LinkError, match="lacks changes") as caught:
        check_chain([forged, chain[2]])
    assert caught.value.rule == "CRT-2"


@pytest.mark.parametrize(
    "name",
    [
        "previous",
        "chain_root",
        "history_root",
        "changes_root",
        "rows_root",
        "members_root",
        "change_count",
        "payload_size",
        "row_count",
        "member_count",
        "joined",
        "left",
        "gone",
        "late",
        "steward",
        "steward_next",
    ],
)
def test_every_field_of_a_body_is_held_against_history(chain, name):
    """CRT-1 to CRT-9, T23: the first that differs is named, with its rule."""
    value = getattr(chain[2].body, name)
    other = value + 1 if isinstance(value, int) else bytes(32) if isinstance(value, bytes) else ((bytes(32), "x"),)
    bent = replace(chain[2], body=replace(chain[2].body, **{name: other}))

    with pytest.raises(LinkError) as caught:
        check_against(bent, chain[2])
    assert caught.value.evidence == name
    assert caught.value.rule.startswith("CRT-")


def test_a_file_is_compared_with_certificates(closed, chain):
    """W13: the certificate and the history prove all of it."""
    verified = closed["ben"].verify(certificates=chain)
    assert verified.certificates == EPOCH_COUNT

    lying = replace(chain[1], body=replace(chain[1].body, rows_root=bytes(32)))
    assert check_certificate(lying.encode()) == lying, "by itself it cannot be told from the true one"
    with pytest.raises(LinkError, match="other rows than history gives") as caught:
        closed["ben"].verify(certificates=[lying])
    assert caught.value.rule == "CRT-3"
    with pytest.raises(IncompleteError):
        closed["ben"].verify(certificates=[replace(lying, body=replace(lying.body, epoch=9))])
    with pytest.raises(LinkError, match="another space"):
        closed["ben"].verify(certificates=[replace(lying, body=replace(lying.body, space_id=bytes(32)))])


def test_a_witness_of_another_epoch_is_no_witness(chain):
    """T23, W23: a Close is replayed elsewhere in vain."""
    old, new = chain[2].witness, chain[3].witness
    for at in range(3):
        replayed = replace(chain[3], witness=(*new[:at], old[at], *new[at + 1 :]))
        with pytest.raises(RefusedError) as caught:
            check_certificate(replayed.encode())
        assert caught.value.rule == "CRT-5"


# -- light clients ---------------------------------------------------------------------------


def test_a_spark_goes_on_when_the_next_certificate_is_settled(closed, chain, spark, proofs):
    """W7: it holds half a kilobyte, and checks what was certified before and after it began."""
    light = spark(1)
    assert (light.standing, light.epoch) == ("spark", 1)
    with pytest.raises(LinkError, match="held is") as caught:
        light.check(proofs["row"].encode())
    assert caught.value.rule == "SPK-3"

    light.check(closed["ben"].prove.named(since=1).encode())
    assert (light.epoch, light.certificate_hash) == (3, chain[3].hash)
    for kind in KINDS:
        if kind not in ("named since", "row of a key of two columns"):
            assert light.check(proofs[kind].encode()) is not None
    again = Spark.open(light._path)
    assert (again.epoch, again.certificate_hash, again.trusts) == (3, chain[3].hash, "3 of 3 members signed for it")
    assert light._path.stat().st_size < 600


def test_a_spark_begins_with_a_hash_from_somebody_and_nothing_else(tmp_path, chain):
    """W7: trust is given by a person, and the file alone proves less."""
    with pytest.raises(LinkError) as caught:
        Spark.begin(tmp_path / "x.spark", chain[0], hash=chain[1].hash)
    assert caught.value.rule == "SPK-1"
    assert not (tmp_path / "x.spark").exists()


def signed(key, outline):
    receipt = make_receipt(key, outline.space_id, Statement(key.member_id, bytes(16), 1, 1, (), (), outline.hash))
    return receipt.body, receipt.signature


def step_of(certificate, outline=None, ids=None):
    ids = ids or tuple(witness.member.member_id for witness in certificate.witness)
    return Step(outline or certificate.body.outline, tuple(ids), certificate.body.gone)


def moving(steps, keys):
    """Return the proof that these keys named the last of these steps."""
    receipts = sorted(signed(key, steps[-1].outline) for key in keys)
    return Proof(steps[-1].outline, None, NamedClaim(tuple(steps), tuple(receipts)))


def key_of(fleet, name):
    return fleet[name]._store.identity.key


def test_strangers_cannot_move_a_spark(chain, spark):
    """T23 SPK-2: whoever they say the members are, those counted before must have signed."""
    keys = [SigningKey(bytes([n]) * 32) for n in (21, 22, 23)]
    ids = sorted(key.member_id for key in keys)
    body = replace(chain[2].body, members_root=members_root(ids), member_count=len(ids), rows_root=bytes(32))
    steps = [step_of(chain[1]), step_of(chain[2], body.outline, ids)]

    light = spark(1)
    with pytest.raises(IncompleteError, match="0 of 3 members"):
        light.check(moving(steps, keys).encode())
    with pytest.raises(RefusedError) as caught:
        light.check(moving([steps[0], replace(steps[1], members=steps[0].members)], keys).encode())
    assert caught.value.rule == "PRF-7"


def test_a_spark_waits_for_half_of_the_members_and_for_the_steward_among_them(closed, chain, spark):
    """SPK-2: not yet is no refusal, and nothing is kept. The steward may still say a word that gives it up."""
    steps = [step_of(each) for each in chain[1:3]]
    ana, ben, cal = (key_of(closed, name) for name in ("ana", "ben", "cal"))

    light = spark(1)
    with pytest.raises(IncompleteError, match="1 of 3 members"):
        light.check(moving(steps, [ana]).encode())
    with pytest.raises(IncompleteError, match="the steward of epoch 2"):
        light.check(moving(steps, [ben, cal]).encode())
    assert Spark.open(light._path).epoch == 1
    light.check(moving(steps, [ana, cal]).encode())
    assert (light.epoch, light.trusts) == (2, "2 of 3 members signed for it")


def test_half_without_a_steward_is_not_enough(closed, chain, spark):
    """SPK-2: where the place is vacant, more than half."""
    light = spark(0)
    body = replace(chain[1].body, steward=NO_MEMBER)
    steps = [step_of(chain[0]), step_of(chain[1], body.outline)]
    assert len(steps[0].members) == 2

    with pytest.raises(IncompleteError, match="1 of 2 members"):
        light.check(moving(steps, [key_of(closed, "ben")]).encode())


def test_a_spark_takes_a_name_of_a_later_certificate_for_the_earlier_too(closed, chain, spark):
    """SPK-2: it moves along the steps as far as they are settled."""
    steps = [step_of(each) for each in chain[1:]]
    ana, ben = key_of(closed, "ana"), key_of(closed, "ben")
    receipts = sorted([signed(ana, chain[2].body.outline), signed(ben, chain[3].body.outline)])

    light = spark(1)
    light.check(Proof(steps[-1].outline, None, NamedClaim(tuple(steps), tuple(receipts))).encode())
    assert (light.epoch, light.certificate_hash) == (2, chain[2].hash)


def test_a_spark_is_not_moved_back_or_to_another_space(closed, chain, spark):
    """SPK-2, T10: an older certificate, a skipped predecessor and another chain are refused."""
    light = spark(3)
    older = closed["ana"].prove.named(epoch=2, since=1)
    with pytest.raises(LinkError):
        light.check(older.encode())
    with pytest.raises(LinkError) as caught:
        light.check(chain[2].encode())
    assert caught.value.rule == "SPK-3"
    assert light.check(chain[3].encode()) is None
    assert Spark.open(light._path).epoch == 3


def test_members_who_sign_for_two_certificates_are_found(closed, chain, spark):
    """T23 SPK-2: the two hashes are the evidence. One of another space is none, nor one that could be given up."""
    light = spark(2)
    light.check(closed["ana"].prove.named(since=2).encode())
    keys = [key_of(closed, name) for name in ("ana", "ben")]

    def other(**fields):
        outline = replace(chain[3].body.outline, **fields)
        return [step_of(chain[2]), step_of(chain[3], outline)]

    lie = other(rows_root=bytes(32))
    with pytest.raises(ForkError) as caught:
        light.check(moving(lie, keys).encode())
    assert caught.value.evidence == (chain[3].hash, lie[1].outline.hash)
    with pytest.raises(LinkError, match="goes on from"):
        light.check(moving(lie, keys[1:]).encode())
    begun = spark(3)
    with pytest.raises(LinkError, match="on a person's word"):
        begun.check(moving(lie, keys).encode())
    with pytest.raises(LinkError, match="another space"):
        light.check(moving(other(space_id=bytes(32))[1:], keys).encode())


def test_whatever_bit_of_a_sparks_file_is_flipped_it_is_another_belief_or_none(spark):
    """SPK-1: nothing but a refusal comes out, or another hash."""
    light = spark(1)
    data = light._path.read_bytes()

    for at in range(len(data)):
        for bit in range(8):
            light._path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
            try:
                found = Spark.open(light._path)
            except RefusedError:
                continue
            assert found.certificate_hash != light.certificate_hash or found.trusts != light.trusts


def test_a_later_certificate_that_names_another_before_it_vouches_for_nothing(closed, chain):
    """PRF-2, T23: nor one of another space, or with another chain."""
    change = next(entry.change for entry in closed["ana"].log() if entry.epoch == 2)
    proof = closed["ana"].prove.change(change)
    assert (proof.certificate.epoch, proof.later.outline.epoch) == (2, 3)

    for fields in ({"previous": chain[0].hash}, {"space_id": bytes(32)}, {"chain_root": bytes(32)}, {"epoch": 4}):
        bent = replace(proof, later=replace(proof.later, outline=replace(proof.later.outline, **fields)))
        with pytest.raises(RefusedError) as caught:
            checked(bent.encode())
        assert caught.value.rule == "PRF-2"


def test_an_outline_is_not_believed_with_a_field_out_of_bounds(proofs):
    """PRF-1."""
    proof = proofs["row"]
    for fields in ({"version": 2}, {"epoch": -1}, {"row_count": 1 << 63}, {"rows_root": b""}, {"joined": b"x"}):
        with pytest.raises(RefusedError) as caught:
            checked(PROOF_MAGIC + pack(replace(proof, certificate=replace(proof.certificate, **fields))))
        assert caught.value.rule == "PRF-1"
