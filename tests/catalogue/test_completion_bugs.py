"""How systems of this kind were caught telling their users "it is all there" when it was not, one test for each.

The ids are those of docs/explanation/completeness-bugs.md, which tells the stories.
"""

from __future__ import annotations

import io
from contextlib import closing

import apsw
import pytest
from rich.console import Console

from klal.cli import standing
from klal.errors import IncompleteError, RefusedError
from tests.helpers.fleet import BIRD, Fleet

YEAR_MS = 365 * 24 * 60 * 60 * 1000
BIG = "INSERT INTO bird VALUES(?, 1, hex(randomblob(300000)))"


@pytest.fixture
def fleet(tmp_path):
    with Fleet(tmp_path / "fleet") as fleet:
        fleet.found("ana", BIRD)
        fleet.join("ben")
        fleet.join("cal")
        fleet.gather()
        yield fleet


def bird(replica, key):
    return replica.execute("INSERT INTO bird VALUES(?, 1, '')", (key,)).change


def shown(replica):
    console = Console(file=io.StringIO(), width=80)
    console.print(standing.status(replica.status().to_json(), now_unix_ms=0))
    return console.file.getvalue()


def test_c1_progress_does_not_stand_still_at_the_last_percent(fleet):
    """C1: every session that is cut brings something, and the last one ends it."""
    for key in "abc":
        fleet["ben"].execute(BIG, (key,))
    lacking = []
    for _ in range(100):
        fleet.meet("cal", "ben", byte_count_max=150_000)
        store = fleet["cal"]._store
        slices = store.connection.execute("SELECT count(*) FROM klal_slice").get
        lacking.append((fleet["cal"].coverage().known - fleet["cal"].coverage().payloads_held, -slices))
        if not lacking[-1][0] and fleet["cal"].coverage().is_whole:
            break

    assert fleet["cal"].coverage().is_whole
    assert lacking[1:] == sorted(set(lacking[1:]), reverse=True)


def test_c2_a_hundred_percent_means_that_not_one_record_is_missing(fleet):
    """C2, S43: one payload in two hundred keeps the bar short and the word from being said."""
    for number in range(200):
        bird(fleet["ben"], str(number))
    fleet["ben"].execute(BIG, ("big",))
    fleet.meet("cal", "ben", byte_count_max=90_000)
    coverage = fleet["cal"].coverage()

    assert coverage.held == coverage.known == coverage.payloads_held + 1
    assert fleet["cal"].status().state == "behind"
    assert not coverage.is_whole
    assert [m.change_count for m in coverage.missing] == [1]
    (mine,) = [line for line in shown(fleet["cal"]).splitlines() if line.split()[1:2] == ["cal"] and "%" in line]
    assert "99 %" in mine


def test_c3_no_status_is_at_rest_while_final_reads_differ(fleet):
    """C3, S17, S16: the same is said by roots, and equal roots are equal rows."""
    bird(fleet["ana"], "a")
    bird(fleet["ben"], "b")
    apart = [fleet[name].status() for name in ("ana", "ben")]
    fleet.gather()
    together = [fleet[name].status() for name in fleet.names]

    assert apart[0].root != apart[1].root
    assert {status.state for status in apart} == {"whole"}
    assert {status.only_here for status in apart} == {1}
    assert len({status.root for status in together}) == 1
    assert len({tuple(fleet[name].query("SELECT * FROM bird ORDER BY id")) for name in fleet.names}) == 1
    assert {status.state for status in together} == {"stable"}


def test_c4_nobody_is_done_who_never_connected(fleet):
    """C4: a member that joined and was never met is named, and nothing counts without it."""
    change = bird(fleet["ana"], "a")
    fleet.join("dan")
    fleet.drop_by("dan")  # It leaves its log in the folder, and never takes anything.
    fleet.drop_by("ana")
    fleet.gather(["ana", "ben", "cal"])
    members = {member.name: member for member in fleet["ana"].members()}

    assert members["dan"].held < members["dan"].known
    assert fleet["ana"].status().state == "whole"
    with pytest.raises(IncompleteError) as caught:
        fleet["ana"].wait(change, held_by="all", timeout=0)
    assert caught.value.missing == ("dan",)


def test_c5_nothing_goes_past_a_payload_that_did_not_come(fleet):
    """C5: what came after it is held, it stays wanted, and the next who has it brings it."""
    bird(fleet["ben"], "a")
    fleet.drop_by("ben")
    first = list(fleet.share.rglob("*.P*"))
    bird(fleet["ben"], "b")
    fleet.drop_by("ben")
    for path in first:
        path.unlink()
    fleet.drop_by("cal")
    (gap,) = fleet["cal"].missing()
    before = fleet["cal"].query("SELECT id FROM bird")
    fleet.meet("cal", "ben")

    assert (gap.what, gap.member_name) == ("payloads", "ben")
    assert fleet["cal"].coverage().is_whole
    assert before == []
    assert sorted(fleet["cal"].query("SELECT id FROM bird")) == [("a",), ("b",)]


def test_c6_a_restart_forgets_nothing_that_was_wanted(fleet):
    """C6: wants are worked out from the file, each time."""
    for key in "ab":
        fleet["ben"].execute(BIG, (key,))
    fleet.meet("cal", "ben", byte_count_max=100_000)
    before = fleet["cal"].missing()
    after = fleet.reopen("cal").missing()
    fleet.meet("cal", "ben")

    assert before == after != []
    assert fleet["cal"].missing() == []


def test_c7_an_empty_answer_completes_nothing(fleet):
    """C7, S43: an empty folder, and a replica that knows less."""
    fleet["ben"].execute(BIG, ("a",))
    fleet.meet("cal", "ben", byte_count_max=50_000)
    before = fleet["cal"].coverage()
    outcome = fleet.drop_by("cal")
    fleet.meet("cal", "ana")

    assert outcome.received.change_count == 0
    assert fleet["cal"].coverage().missing == before.missing != ()
    assert fleet["cal"].status().state == "behind"


def test_c8_a_device_that_is_gone_is_not_counted_twice_and_not_forgotten(fleet):
    """C8, W28: one member whatever its files, shown as holding things up until it is said to have left."""
    for _ in range(3):
        fleet.destroy("ben")
        fleet.join("ben")
        bird(fleet["ben"], f"b{fleet.file_count}")
        fleet.gather()
    change = bird(fleet["ana"], "a")
    fleet.gather(["ana", "cal"])
    found = fleet["ana"].who_has(change)

    assert (found.holder_count, found.member_count) == (2, 3)
    assert found.lacking == ("ben",)
    assert [member.name for member in fleet["ana"].members()] == ["ana", "ben", "cal"]
    assert fleet["ana"].status().state == "whole"


def test_c8_a_member_that_left_is_waited_for_no_more_and_still_shown(fleet):
    """C8: from the epoch on that it left after, its silence holds nothing up."""
    fleet["ben"].leave()
    fleet.gather()
    for name in ("ana", "cal"):
        fleet[name].finish()
    fleet.gather()
    change = bird(fleet["ana"], "a")
    fleet.gather(["ana", "cal"])
    found = fleet["ana"].who_has(change)

    assert {member.name: member.standing for member in fleet["ana"].members()} == {
        "ana": "member",
        "ben": "left",
        "cal": "member",
    }
    assert (found.holder_count, found.member_count, found.lacking) == (2, 2, ("ben",))
    assert found.is_stable
    assert fleet["ana"].wait(change, held_by="all", timeout=0).is_stable
    assert fleet["ana"].status().state == "stable"
    assert " left " in shown(fleet["ana"])


def test_c9_a_clock_that_is_ahead_changes_no_figure(fleet):
    """C9: it is named, and everything else is as with a right one."""
    fleet.skew("ben", 3 * YEAR_MS)
    bird(fleet["ben"], "a")
    fleet.gather()
    bird(fleet["ana"], "b")
    fleet.gather()
    status = fleet["ana"].status()

    assert status.state == "stable"
    assert any("the clock of ben is" in warning for warning in status.warnings)
    assert {member.name: member.state for member in status.members} == dict.fromkeys(("ana", "ben", "cal"), "whole")
    assert "ahead of this clock" in shown(fleet["ana"])
    for name in fleet.names:
        fleet[name].finish()
    fleet.gather()
    assert fleet["ana"].close_epoch(0).state == "closed"


def test_c10_a_payload_that_was_not_to_be_had_is_asked_for_again_of_everybody(fleet):
    """C10, S59, T21: known, held by nobody reachable, and fetched from the first who has it."""
    fleet["ben"].execute("INSERT INTO bird VALUES('a', 1, 'rare')")
    fleet.drop_by("ben")
    for path in fleet.share.rglob("*.P*"):
        path.unlink()
    for _ in range(3):
        fleet.drop_by("cal")
    fleet.meet("ana", "cal")
    lacking = [fleet[name].missing() for name in ("ana", "cal")]
    fleet.meet("ben", "ana")
    fleet.meet("ana", "cal")

    assert [[(m.change_count, m.what) for m in each] for each in lacking] == [[(1, "payloads")], [(1, "payloads")]]
    assert lacking[0][0].holders == ("ben",)
    assert fleet["cal"].query("SELECT note FROM bird") == [("rare",)]


def test_c11_a_copy_that_lies_about_itself_is_not_taken_at_its_word(fleet):
    """C11: there are no snapshots; a backup is the nearest, and it is measured like any other file."""
    bird(fleet["ana"], "a")
    fleet.gather()
    copy = fleet.folder / "copy.db"
    fleet["ana"].backup(copy)
    with closing(apsw.Connection(str(copy))) as connection:
        connection.execute("UPDATE klal_change SET payload = NULL WHERE lsn = (SELECT max(lsn) FROM klal_change)")
    with fleet.guest("ana", copy) as guest, pytest.raises(RefusedError) as caught:
        guest.verify()
    fleet["ana"].backup(fleet.folder / "other.db")
    with closing(apsw.Connection(str(fleet.folder / "other.db"))) as connection:
        connection.execute("UPDATE klal_named SET length = 1")
    with fleet.guest("ana", fleet.folder / "other.db") as guest:
        told = guest.coverage()

    assert caught.value.rule in {"PAY-6", "FIL-4"}
    assert (told.held, told.known, told.certainty) == (told.payloads_held, fleet["ana"].coverage().known, "whole")


def test_c12_a_wiped_replica_signs_for_what_it_has_and_no_more(fleet):
    """C12, T19: its new word says little; the old one was true when it was signed, and is no proof of possession."""
    change = bird(fleet["ana"], "a")
    fleet.gather()
    fleet.destroy("ben")
    fleet.join("ben")
    fleet.meet("ben", "cal", byte_count_max=1)
    store = fleet["ben"]._store
    store.sign_receipt()
    own = store.knowledge.receipt(fleet["ben"].log_id)
    said = {head.log_id: head.length for head in own.statement.heads} if own else {}

    assert said.get(change.log_id, 0) <= change.seq
    assert fleet["ben"].coverage().held < fleet["ana"].coverage().held
    assert not fleet["ben"].coverage().is_whole
    assert "ben" in fleet["ana"].who_has(change).holders
    fleet.gather()
    assert fleet["ben"].wait(change, held_by="all", timeout=0).is_stable
