"""Old payloads go only where others have shown that they hold them, and nothing that is said about them is a guess."""

from __future__ import annotations

from contextlib import suppress

import pytest

from klal.api import check_proof
from klal.errors import CopiesError, DamagedError, IncompleteError, RefusedError
from klal.model.header import NO_CERTIFICATE
from tests.helpers.fleet import BIRD, Fleet, all_agree, answers_of, certificates_of, rows_of

NAMES = ("ana", "ben", "cal")
RING = "CREATE TABLE ring(id TEXT PRIMARY KEY, code TEXT UNIQUE)"


@pytest.fixture
def fleet(tmp_path):
    """Three members, and two epochs in which each row was written many times."""
    with Fleet(tmp_path / "fleet") as made:
        made.found("ana", BIRD, RING)
        for name in NAMES[1:]:
            made.join(name)
        made.gather()
        for epoch in range(2):
            for name in NAMES:
                made[name].execute("INSERT OR IGNORE INTO bird VALUES(?, 0, NULL)", (name,))
                for mass in range(10):
                    made[name].execute("UPDATE bird SET mass = ?, note = ? WHERE id = ?", (mass, str(epoch), name))
            made.close_epoch()
        yield made


def compact(fleet, name, *, keep):
    """Ask, let everybody answer, and compact."""
    with suppress(IncompleteError):
        fleet[name].compact(keep=keep, anyway=True)
    fleet.gather(NAMES)
    done = fleet[name].compact(keep=keep, anyway=True)
    fleet.gather(NAMES)
    return done


def test_nothing_goes_before_as_many_as_are_wanted_have_shown_their_copy(fleet):
    """W14, T19, CMP-7: a receipt alone is a claim."""
    assert {m.state for m in fleet["ana"].members()} == {"whole"}
    for _ in range(2):
        with pytest.raises(IncompleteError) as caught:
            fleet["ana"].compact(keep=2)
        assert [w.member_name for w in caught.value.waiting_for] == ["ben", "cal"]
        assert fleet["ana"].coverage().is_whole
    for _ in range(2):  # With the first the question goes, with the second comes the answer.
        fleet.meet("ana", "ben")
    with pytest.raises(IncompleteError) as caught:
        fleet["ana"].compact(keep=2)
    assert [w.member_name for w in caught.value.waiting_for] == ["cal"]

    assert fleet["ana"].compact(keep=1).keepers == ("ben",)
    assert fleet["ana"].status().standing == "part"


def test_the_last_full_copy_stays(fleet):
    """W14: whoever the others rely on may not compact, and says for whom it keeps."""
    first = compact(fleet, "ana", keep=1)
    (keeper,) = first.keepers
    free = next(name for name in ("ben", "cal") if name != keeper)
    assert compact(fleet, free, keep=1).keepers == (keeper,)

    with pytest.raises(CopiesError) as caught:
        fleet[keeper].compact(keep=1)
    assert sorted(w.member_name for w in caught.value.waiting_for) == sorted(["ana", free])
    assert fleet[keeper].coverage().is_whole
    assert fleet[keeper].status().standing == "whole"


def test_two_who_ask_at_once_never_both_go_where_two_must_stay(fleet):
    """W14, W24, CMP-9: one of them takes its question back and keeps its copy for the other."""
    for name in ("ana", "ben"):
        with pytest.raises(IncompleteError):
            fleet[name].compact(keep=2)
    done = []
    for _ in range(3):
        fleet.gather()
        for name in ("ana", "ben"):
            with suppress(IncompleteError, CopiesError):
                done.append(fleet[name].compact(keep=2).epoch and name)
    fleet.gather()

    assert len(set(done)) == 1
    assert [fleet[name].status().standing for name in NAMES].count("whole") == 2


@pytest.mark.parametrize("keep", [1, 2])
def test_one_who_signed_for_what_it_lost_is_found_and_named(fleet, keep):
    """T19, S58, CMP-8: its receipt says whole, and its answer is wrong."""
    connection = fleet["ben"]._store.connection
    connection.execute("UPDATE klal_change SET payload = zeroblob(length(payload)) WHERE lsn = 20")
    with pytest.raises(IncompleteError):
        fleet["ana"].compact(keep=2)
    fleet.gather()

    assert any("ben signed that it holds all payloads" in warning for warning in fleet["ana"].status().warnings)
    if keep == 1:
        assert fleet["ana"].compact(keep=1).keepers == ("cal",)
    else:
        with pytest.raises(CopiesError, match="ben showed no right copy"):
            fleet["ana"].compact(keep=2)
        assert fleet["ana"].coverage().is_whole


def test_more_copies_than_there_are_others_are_refused(fleet):
    """W14, W28: however many logs a member has, it holds one copy."""
    fleet.destroy("cal")
    fleet.join("cal")
    fleet.gather()
    with pytest.raises(CopiesError):
        fleet["ana"].compact(keep=3)


def test_an_open_epoch_is_not_compacted(fleet):
    """CMP-1, W10."""
    with pytest.raises(IncompleteError) as caught:
        fleet["ana"].compact(2, keep=1)
    assert {w.member_name for w in caught.value.waiting_for} == set(NAMES)
    with pytest.raises(IncompleteError):
        fleet["ana"].compact(7, keep=1)


def test_a_compacted_replica_says_exactly_what_it_lacks_and_nobody_counts_on_it(fleet):
    """W3 W7 W14, COV-1 to COV-5: headers and payloads apart, and never whole."""
    old = next(entry.change for entry in fleet["ana"].log() if entry.tables)
    done = compact(fleet, "ana", keep=2)
    coverage = fleet["ana"].coverage()

    assert done.change_count == sum(owed.change_count for owed in coverage.dropped)
    assert coverage.held == coverage.known
    assert coverage.payloads_held == coverage.payloads_known - done.change_count
    assert not coverage.is_whole
    assert coverage.missing == ()
    assert coverage.compacted_epoch == 1
    assert {owed.holders for owed in coverage.dropped} == {("ben", "cal")}
    assert fleet["ana"].status().standing == "part"
    assert fleet["ana"].status().state == "closed"
    for name in NAMES:
        holders = fleet[name].who_has(old)
        assert (holders.holders, holders.lacking) == (("ben", "cal"), ("ana",))
        assert {m.name: m.state for m in fleet[name].members()} == {"ana": "part", "ben": "whole", "cal": "whole"}
        assert fleet[name].status().stable_count == coverage.known
    fleet["ana"].execute("UPDATE bird SET mass = 77 WHERE id = 'ana'")
    assert fleet["ben"].status().state == "closed"
    fleet.gather()
    assert {fleet[name].status().state for name in NAMES} == {"stable"}
    assert fleet.meet("ana", "ben").equal
    all_agree(fleet, lambda replica: answers_of(replica)[:3])


def test_what_was_compacted_is_not_asked_for_and_sessions_still_end_at_once(fleet):
    """SYN-7, CMP-6."""
    compact(fleet, "ana", keep=2)
    outcome = fleet.meet("ana", "ben")
    assert outcome.equal
    assert outcome.received.byte_count + outcome.sent.byte_count < 600
    assert outcome.received.payload_count == outcome.sent.payload_count == 0


def test_a_newcomer_who_meets_only_a_compacted_replica_waits_for_a_full_one_and_writes(fleet):
    """W14 W15 W26: it is a member, and knows who has what it lacks."""
    compact(fleet, "ana", keep=2)
    fleet.join("dan", fleet["cal"].invite())
    fleet.meet("cal", "ana")
    fleet.meet("dan", "ana")

    dan = fleet["dan"]
    assert {m.name for m in dan.members()} == {*NAMES, "dan"}
    assert dan.status().state == "behind"
    # Ben's receipt leaves out what lies in the cut of the certificate it names, and dan cannot make that one yet:
    # of ben dan knows less than is so, and never more (RCP-5).
    holders = {owed.holders for owed in dan.missing() if owed.what == "payloads"}
    assert holders <= {("ben", "cal"), ("cal",)}
    assert all("cal" in each for each in holders)
    dan.execute("INSERT INTO bird VALUES('dan', 5, NULL)")
    fleet.meet("dan", "ana")
    fleet.meet("dan", "cal")
    assert dan.coverage().is_whole
    fleet.gather(("cal", "ana", "ben", "dan"))
    all_agree(fleet, rows_of)
    all_agree(fleet, lambda replica: [c.hash for c in certificates_of(replica)])
    for replica in fleet.replicas.values():
        replica.verify()


def test_late_work_waits_for_what_it_must_be_compared_with_and_comes_out_alike(fleet):
    """W15 W19 S54, CMP-5: and whoever keeps everything takes it at once."""
    fleet.join("eve")
    fleet["eve"].execute("INSERT INTO bird VALUES('ana', 99, 'late')")
    compact(fleet, "ana", keep=2)
    fleet.meet("ana", "eve")
    ana = fleet["ana"]
    ana.admit("eve")

    assert ana.status().parked == 1
    assert any("compacted here and are wanted again" in warning for warning in ana.status().warnings)
    assert {owed.holders for owed in ana.missing()} == {("ben", "cal")}
    assert ana.status().state == "behind"
    fleet.reopen("ana")
    fleet.gather(("ben", "ana", "cal", "eve"))
    assert fleet["ana"].status().parked == 0
    assert fleet["ana"].missing() == []
    all_agree(fleet, lambda replica: answers_of(replica)[:3])
    assert len(fleet["ana"].conflicts()) == 2
    for replica in fleet.replicas.values():
        replica.verify()
    for name in fleet.names:
        fleet[name].finish()
    fleet.gather(("ben", "ana", "cal", "eve"))
    assert len({certificates_of(replica)[2].hash for replica in fleet.replicas.values()}) == 1
    assert compact(fleet, "ana", keep=2).epoch == 2
    fleet["ana"].verify()


def test_rows_of_before_that_wait_for_a_unique_value_are_settled_as_everywhere(tmp_path):
    """UNQ-1, CMP-3: whose claim is older is known though the writes are gone."""
    with Fleet(tmp_path / "fleet") as fleet:
        fleet.found("ana", RING)
        for name in NAMES[1:]:
            fleet.join(name)
        fleet.gather()
        fleet["ana"].execute("INSERT INTO ring VALUES('a', 'A')")
        fleet["ben"].execute("INSERT INTO ring VALUES('b', 'B')")
        fleet.close_epoch()
        compact(fleet, "ana", keep=2)
        for name, sql in (
            ("ana", "UPDATE ring SET code = 'C' WHERE id = 'a'"),
            ("ben", "INSERT INTO ring VALUES('c', 'C')"),
        ):
            fleet[name].execute(sql)
        fleet.gather()
        fleet["cal"].execute("DELETE FROM ring WHERE code = 'C'")
        fleet["cal"].execute("UPDATE ring SET code = 'A' WHERE id = 'b'")
        fleet.gather()

        all_agree(fleet, lambda replica: (rows_of(replica), replica.violations()))
        for replica in fleet.replicas.values():
            replica.verify()


def test_the_past_below_the_cut_is_refused_with_who_can_answer_and_the_rest_is_right(fleet):
    """W14, MOM-4, CMP-6."""
    before = next(entry.change for entry in reversed(fleet["ana"].log()) if entry.tables)
    compact(fleet, "ana", keep=2)
    fleet["ana"].execute("UPDATE bird SET mass = 42 WHERE id = 'ana'")
    ana = fleet["ana"]

    for asked in ("epoch:0", str(before), "1700000000020"):
        with pytest.raises(IncompleteError, match="compacted here; ben, cal can answer"):
            ana.at(asked)
    with pytest.raises(IncompleteError, match="compacted"):
        ana.history("bird", "ana")
    with pytest.raises(IncompleteError, match="compacted"):
        ana.diff("epoch:0")
    fleet.gather()
    for asked in ("epoch:1", "now"):
        with ana.at(asked) as here, fleet["ben"].at(asked) as there:
            sql = "SELECT * FROM bird ORDER BY id"
            assert here.query(sql) == there.query(sql)
            assert here.root == there.root
    assert ana.diff("epoch:1") == fleet["ben"].diff("epoch:1")


def test_what_lies_below_the_cut_is_proven_by_headers_or_refused_with_who_can(fleet):
    """PRF-1 to PRF-5, CMP-6: a header and its place stay; payloads and older rows are with the full copies."""
    change = next(entry.change for entry in reversed(fleet["ana"].log()) if entry.tables)
    hashes = [certificate.hash for certificate in certificates_of(fleet["ana"])]
    compact(fleet, "ana", keep=2)
    prove, full = fleet["ana"].prove, fleet["ben"].prove

    for epoch in (0, 1):
        assert prove.change(change, epoch=epoch).encode() == full.change(change, epoch=epoch).encode()
        assert check_proof(prove.change(change, epoch=epoch).encode()).under == hashes[epoch]
        assert prove.member(fleet["cal"].member_id, epoch=epoch) == full.member(fleet["cal"].member_id, epoch=epoch)
    for key in ("ana", "nobody"):
        assert prove.row("bird", key) == full.row("bird", key)
        with pytest.raises(IncompleteError, match=r"at the close of epoch 0 lie below epoch 1.*; ben, cal can answer"):
            prove.row("bird", key, epoch=0)
        assert full.row("bird", key, epoch=0)
    with pytest.raises(IncompleteError, match="compacted here; ben, cal can answer") as caught:
        prove.change(change, with_payload=True)
    assert {owed.holders for owed in caught.value.missing} == {("ben", "cal")}
    assert full.change(change, with_payload=True)
    fleet["ana"].execute("UPDATE bird SET mass = 78 WHERE id = 'ana'")
    fleet.gather(NAMES)
    for key in ("ana", "nobody"):  # The base is at the cut, wherever the tables are.
        assert prove.row("bird", key, epoch=1) == full.row("bird", key, epoch=1)


def test_verify_says_compacted_and_finds_what_was_changed_in_the_base(fleet):
    """W13, CMP-4: what is taken on trust is named, and it is what the certificate names."""
    compact(fleet, "ana", keep=2)
    assert fleet["ana"].verify().to_json()["compacted"] == {"epoch": 1}
    assert "compacted" not in fleet["ben"].verify().to_json()

    connection = fleet["ana"]._store.connection
    fleet["ana"].execute("UPDATE bird SET mass = 43 WHERE id = 'ana'")
    newest = connection.execute("SELECT max(lsn), payload FROM klal_change").fetchone()
    connection.execute("UPDATE klal_change SET state = 4, payload = NULL WHERE lsn = ?", newest[:1])
    with pytest.raises(RefusedError) as caught:
        fleet["ana"].verify()
    assert caught.value.rule == "CMP-2"
    connection.execute("UPDATE klal_change SET state = 2, payload = ?2 WHERE lsn = ?1", newest)
    fleet["ana"].verify()


@pytest.mark.parametrize("table", ["klal_base", "bird"])
def test_a_base_or_a_row_of_another_state_does_not_pass(fleet, table):
    """W13, CRT-3, FIL-4."""
    compact(fleet, "ana", keep=2)
    connection = fleet["ana"]._store.connection
    if table == "bird":
        connection.execute("UPDATE bird SET mass = 1000 -- klal")
    else:
        connection.execute("UPDATE klal_base SET data = substr(data, 1, length(data) - 9) || zeroblob(9)")
    with pytest.raises(RefusedError):
        fleet["ana"].verify()


def test_a_foreign_write_is_found_in_a_compacted_file(fleet):
    """T40, D3."""
    compact(fleet, "ana", keep=2)
    fleet["ana"]._store.writer.capture.stop()
    fleet["ana"]._store.connection.execute("UPDATE bird SET mass = 1000 WHERE id = 'ben'")
    fleet["ana"]._store.writer.capture.start()
    (found,) = fleet["ana"].foreign_writes()
    assert (found.table, found.key) == ("bird", ("ben",))
    fleet["ana"].undo()
    fleet["ana"].verify()


def test_a_receipt_of_a_whole_replica_says_that_it_put_down_nothing(fleet):
    """RCP-1, CMP-7."""
    compact(fleet, "ana", keep=2)
    words = {word.member_id: word.copy for word in fleet["ben"]._store.copies.words()}
    hashes = [certificate.hash for certificate in certificates_of(fleet["ben"])]
    assert words[fleet["ana"].member_id].compacted == hashes[1]
    assert words[fleet["ana"].member_id].keepers == tuple(sorted(fleet[n].member_id for n in ("ben", "cal")))
    assert {words[fleet[n].member_id].compacted for n in ("ben", "cal")} == {NO_CERTIFICATE}


def test_through_a_folder_alone(fleet):
    """D19: question and answers travel as receipts do, over any carrier."""
    with suppress(IncompleteError):
        fleet["ana"].compact(keep=2)
    for name in (*NAMES, "ana"):
        fleet.drop_by(name)
    assert fleet["ana"].compact(keep=2).keepers == ("ben", "cal")
    fleet["ana"].execute("UPDATE bird SET mass = 5 WHERE id = 'ben'")
    for name in (*NAMES, "ana"):
        fleet.drop_by(name)
    all_agree(fleet, rows_of)


@pytest.fixture
def decided(tmp_path):
    """Ana, ben, cal, dan and eve: epoch 1 was decided without eve and dan, and dan took it to have been without eve."""
    with Fleet(tmp_path / "fleet") as fleet:
        fleet.found("ana", BIRD)
        for name in ("ben", "cal", "dan", "eve"):
            fleet.join(name)
        fleet.gather()
        for name in fleet.names:
            fleet[name].execute("INSERT INTO bird VALUES(?, 1, NULL)", (name,))
        fleet.close_epoch()
        for name in fleet.names:
            fleet[name].execute("UPDATE bird SET mass = mass + 1 WHERE id = ?", (name,))
        fleet.gather(("ana", "ben", "cal", "dan"))
        fleet["ana"].retire("eve", reason="lost")
        fleet["ana"].finish()
        for name in ("ben", "cal", "dan"):
            fleet.meet("ana", name)
        for name in ("ben", "cal", "dan"):
            fleet[name].finish()
            fleet.drop_by(name)
        fleet.drop_by("dan")
        fleet["dan"].execute("UPDATE bird SET mass = 40 WHERE id = 'dan'")
        fleet["ana"].retire("dan", reason="lost too")
        fleet.gather(NAMES)
        for name in NAMES:
            fleet[name].execute("UPDATE bird SET mass = mass + 1 WHERE id = ?", (name,))
        fleet.gather(NAMES)
        for name in NAMES:
            fleet[name].finish()
        fleet.gather(NAMES)
        yield fleet


def test_an_epoch_decided_without_somebody_stays_decided_in_a_compacted_file(decided):
    """EPO-8, CMP-4: which certificates a past holds is worked out again after opening, below the base too."""
    compact(decided, "ana", keep=2)
    hashes = [certificate.hash for certificate in certificates_of(decided["ben"])]
    assert len(hashes) == 3
    decided.reopen("ana")
    decided["ana"].execute("UPDATE bird SET mass = 9 WHERE id = 'ben'")
    decided.gather(NAMES)

    assert [certificate.hash for certificate in certificates_of(decided["ana"])] == hashes
    decided["ana"].verify()
    all_agree_of(decided, NAMES)


def test_work_judged_by_a_certificate_that_did_not_come_to_stand_waits_for_the_payloads_below(decided):
    """CMP-11, EPO-4, EPO-8: which one its writer could compute takes the rows of that cut, which others have."""
    compact(decided, "ana", keep=2)
    for _ in range(3):
        decided.meet("ana", "dan")
    ana = decided["ana"]
    assert ana.status().parked
    assert any("compacted here and are wanted again" in warning for warning in ana.status().warnings)
    assert {owed.holders for owed in ana.missing() if owed.what == "payloads"} >= {("ben", "cal")}

    decided.reopen("ana")
    decided.gather(("ben", "ana", "cal", "dan", "eve"))
    assert decided["ana"].status().parked == decided["ben"].status().parked == 0
    all_agree_of(decided, (*NAMES, "dan", "eve"))
    for replica in decided.replicas.values():
        replica.verify()


def all_agree_of(fleet, names):
    found = [answers_of(fleet[name])[:3] for name in names]
    assert found == found[:1] * len(names)


def packed(replica):
    """Return (headers in blocks, headers in lines of their own) of a file."""
    connection = replica._store.connection
    blocks = connection.execute("SELECT sum(length(marks)) / 3 FROM klal_pack").get
    return blocks or 0, connection.execute("SELECT count(*) FROM klal_change WHERE header <> x''").get


def test_headers_below_the_cut_lie_in_blocks_and_are_served_as_before(fleet):
    """CMP-12, FIL-3: whoever asks gets each of them byte for byte, and what comes later has a line of its own."""
    before = fleet["ana"].log()
    compact(fleet, "ana", keep=2)
    blocks, lines = packed(fleet["ana"])
    assert blocks > 60
    assert lines == 0
    assert fleet["ana"].log() == before

    fleet.reopen("ana")
    fleet["ana"].execute("UPDATE bird SET mass = 77 WHERE id = 'ana'")
    assert packed(fleet["ana"]) == (blocks, 1)
    fleet.join("dan", fleet["cal"].invite())
    fleet.meet("cal", "ana")
    fleet.meet("dan", "ana")
    fleet.meet("dan", "cal")
    assert fleet["dan"].coverage().is_whole
    assert fleet["ana"].verify().changes == fleet["dan"].verify().changes
    indexed = fleet["ana"]._store.connection.execute("SELECT count(*) FROM klal_hash").get
    assert indexed <= packed(fleet["ana"])[1]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("UPDATE klal_pack SET data = substr(data, 1, length(data) - 1)", None),
        ("UPDATE klal_pack SET data = zeroblob(40)", None),
        ("UPDATE klal_pack SET marks = zeroblob(length(marks))", "FIL-3"),
        ("DELETE FROM klal_pack WHERE log = 1", None),
        ("UPDATE klal_pack SET seq = seq + 1", None),
    ],
)
def test_a_block_that_was_changed_does_not_pass(fleet, change, rule):
    """W13, FIL-3, CMP-12."""
    compact(fleet, "ana", keep=2)
    fleet["ana"]._store.connection.execute(change)
    fleet["ana"]._store.history._packs.forget()

    with pytest.raises((RefusedError, DamagedError)) as caught:
        fleet["ana"].verify()
    assert rule in (None, caught.value.rule)


def test_a_fork_below_the_packed_cut_is_found_and_both_branches_go_on(tmp_path):
    """LOG-4, LOG-7, W15: the branch is linked to a header that lies in a block."""
    with Fleet(tmp_path / "fleet") as fleet:
        fleet.found("ana", BIRD)
        for name in NAMES[1:]:
            fleet.join(name)
        fleet.gather()
        for mass in range(5):
            fleet["ben"].execute("INSERT INTO bird VALUES(?, ?, NULL)", (f"b{mass}", mass))
        fleet.gather()
        fleet.snapshot("ben", "ben again")
        fleet["ben again"].execute("UPDATE bird SET note = 'other' WHERE id = 'b1'")
        for mass in range(5):
            fleet["ben"].execute("UPDATE bird SET mass = ? WHERE id = 'b1'", (mass + 10,))
        stray = fleet.replicas.pop("ben again")
        fleet.close_epoch()
        compact(fleet, "ana", keep=2)
        assert packed(fleet["ana"])[1] == 0
        fleet.replicas["ben again"] = stray
        for _ in range(3):
            fleet.meet("ana", "ben again")
        for name in (*NAMES, "ben again"):
            fleet.meet("ana", name)
        for _ in range(3):
            fleet.gather()

        assert len(fleet["ana"].query("SELECT * FROM klal_forks")) == 2
        all_agree(fleet, lambda replica: answers_of(replica)[:3])
        for replica in fleet.replicas.values():
            replica.verify()


def copy_of(fleet, name):
    store = fleet[name]._store
    return store.knowledge.receipt(store.writer.own.log.log_id).statement.copy


def test_an_answer_is_given_once_and_goes_with_its_question(fleet):
    """CMP-10: however often they meet, and a question with another nonce is answered anew."""
    with pytest.raises(IncompleteError):
        fleet["ana"].compact(keep=2)
    fleet.gather(NAMES)
    (first,) = copy_of(fleet, "ben").proofs
    assert first.log_id == fleet["ana"].log_id
    fleet["ben"].execute("INSERT INTO bird VALUES('more', 1, NULL)")
    fleet.gather(NAMES)
    assert copy_of(fleet, "ben").proofs == (first,)

    store = fleet["ana"]._store
    with store.writing():
        store.copies.ask(first_question(fleet).certificate, bytes(16))
    fleet.gather(NAMES)
    (second,) = copy_of(fleet, "ben").proofs
    assert (second.nonce, second.digest != first.digest) == (bytes(16), True)

    with store.writing():
        store.copies.withdraw()
    fleet.gather(NAMES)
    assert copy_of(fleet, "ben").proofs == copy_of(fleet, "cal").proofs == ()


def first_question(fleet):
    (question,) = copy_of(fleet, "ana").questions
    return question
