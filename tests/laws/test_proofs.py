"""Whatever is in a table, each of its rows is proved and each other key is proved absent, and nothing else is."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from klal.api import check_proof
from klal.errors import IncompleteError, MalformedError, UsageError
from klal.model.codec import SLICE_SIZE
from klal.model.proof import part_of
from tests.helpers.books import EPOCH_COUNT, books, chain_of, proofs_of
from tests.helpers.fleet import BIRD, Fleet, scratch

INTEGERS = st.integers(-(1 << 63), (1 << 63) - 1)
TYPES = {
    "TEXT": st.text(st.characters(exclude_categories=("Cs",)), max_size=3),
    "INT": INTEGERS,
    "BLOB": st.binary(max_size=3),
    "REAL": st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0),
}


@given(st.data())
@settings(max_examples=15)
def test_of_any_table_every_key_is_there_or_absent_by_proof(data):
    """PRF-4, PRF-5, CRT-3: in the order in which SQLite has the keys, of each type."""
    kinds = data.draw(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=2))
    key = st.tuples(*[TYPES[kind] for kind in kinds])
    keys = data.draw(st.sets(key, max_size=9))
    others = data.draw(st.sets(key, min_size=1, max_size=4)) - keys
    names = [f"k{n}" for n in range(len(kinds))]
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(names, kinds, strict=True))
    with scratch() as folder, Fleet(folder) as fleet:
        ana = fleet.found("ana", f"CREATE TABLE t({columns}, v INT, PRIMARY KEY({', '.join(names)}))", BIRD)
        ana.insert_many("t", [(*each, n) for n, each in enumerate(sorted(keys, key=repr))])
        ana.finish(alone=True)
        stored = {row[:-1]: row for row in ana.query("SELECT * FROM t")}

        for each in sorted(keys | others, key=repr):
            proof = ana.prove.row("t", each)
            found = check_proof(proof.encode())
            assert found.kind == ("row" if each in stored else "absence")
            assert found.kind == "absence" or proof.claim.row.values == stored[each]


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    with books(tmp_path_factory.mktemp("books") / "fleet") as fleet:
        yield fleet


def test_every_certified_change_is_proved_under_every_certificate_that_has_it(closed):
    """PRF-2, PRF-3, CRT-8, W13: O(log n) hashes, and no change of the open epoch."""
    chain = chain_of(closed["ana"])
    for entry in closed["ana"].log():
        cuts = [each.frontier().length(entry.change.log_id) > entry.change.seq for each in chain]
        for epoch in range(EPOCH_COUNT):
            if not cuts[epoch]:
                with pytest.raises(IncompleteError):
                    closed["ana"].prove.change(entry.change, epoch=epoch)
                continue
            found = check_proof(closed["ana"].prove.change(entry.change, epoch=epoch).encode())

            assert found.facts["change"] == str(entry.change)
            assert (found.epoch, found.under) == (cuts.index(True), chain[epoch].hash)


def test_every_replica_makes_the_same_proofs(closed):
    """W22: whoever does it; what is proved does not depend on how far a replica has gone on."""
    ana, ben = (proofs_of(closed[name]) for name in ("ana", "ben"))

    for kind in set(ana) - {"change", "change with its payload"}:
        assert ana[kind] == ben[kind], kind


def test_a_row_is_proved_as_it_was_at_each_close_and_by_the_columns_of_then(closed):
    """PRF-4, CRT-3: a later update and an added column do not change what was certified."""
    rows = [check_proof(closed["ben"].prove.row("bird", "ana-0", epoch=epoch).encode()).facts for epoch in (0, 1)]

    assert rows[0]["row"] == {"id": "ana-0", "mass": 1000, "note": None}
    assert rows[1]["row"] == {"id": "ana-0", "mass": 1000, "note": None, "ring": "-"}
    assert closed["ben"].query("SELECT mass FROM bird WHERE id = 'ana-0'") == [(7,)]


def test_a_payload_of_many_slices_is_shown_whole_or_by_one_of_them(tmp_path):
    """PRF-3, PAY-6: one slice of a large part is enough to show that slice."""
    with Fleet(tmp_path / "fleet") as fleet:
        ana = fleet.found("ana", BIRD)
        change = ana.execute("INSERT INTO bird VALUES('big', 1, hex(randomblob(600000)))").change
        ana.finish(alone=True)
        proof = ana.prove.change(change, with_payload=True)
        part = proof.claim.slices[0].table_id

        assert len(proof.claim.slices) == 3
        assert len(part_of(proof.claim, part)) > 2 * SLICE_SIZE
        check_proof(proof.encode())
        one = replace(proof, claim=replace(proof.claim, slices=proof.claim.slices[1:2]))
        assert check_proof(one.encode()).facts["parts"][0]["shown"] is False
        assert part_of(one.claim, part) is None


def test_what_cannot_be_proved_is_said_to_be_so(closed):
    """PRF-5: a key that the table would store as another value has no order; and the rest is used wrongly."""
    prove = closed["ana"].prove
    with pytest.raises(MalformedError):
        prove.row("bird", 5)
    with pytest.raises(UsageError):
        prove.row("bird", ("a", "b"))
    with pytest.raises(UsageError):
        prove.row("fish", "a")
    with pytest.raises(UsageError):
        prove.member("nobody")
    with pytest.raises(UsageError):
        prove.member("cal", epoch=0)
    with pytest.raises(UsageError):
        prove.named(epoch=1, since=1)
    with pytest.raises(UsageError):
        prove.change(f"{'0' * 64}:0")
    with pytest.raises(IncompleteError):
        prove.row("bird", "a", epoch=EPOCH_COUNT)


def test_nothing_can_be_proved_before_the_first_close(tmp_path):
    """PRF-1: not yet."""
    with Fleet(tmp_path / "fleet") as fleet, pytest.raises(IncompleteError, match="no epoch is complete"):
        fleet.found("ana", BIRD).prove.row("bird", "a")
