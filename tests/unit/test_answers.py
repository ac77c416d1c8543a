"""How much is here, of which cut, who has what, and waiting for it: all from what lies in the file."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from html.parser import HTMLParser

import pytest

import klal
from klal.cli.app import run
from klal.errors import IncompleteError, UsageError
from klal.model.frontier import Frontier, Head
from klal.reports import SyncReport, Traffic
from tests.helpers.fleet import BIRD, Fleet

DAY_MS = 24 * 60 * 60 * 1000


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


# -- cuts -----------------------------------------------------------------------------------


def test_a_replica_that_met_nobody_is_never_sure(tmp_path):
    """COV-6, W4: nothing is missing, and how much more there is nobody here can know."""
    with Fleet(tmp_path / "fleet") as fleet:
        coverage = fleet.found("ana", BIRD).coverage()

    assert coverage.missing == ()
    assert (coverage.certainty, coverage.is_whole) == ("unknown", False)


def test_headers_payloads_and_what_is_applied_are_three_figures(fleet):
    """COV-1, COV-6: of changes whose payload did not come, and of those that wait behind it."""
    for key in "abc":
        bird(fleet["ben"], key)
    fleet["ben"].execute("INSERT INTO bird VALUES('big', 1, hex(randomblob(400000)))")
    bird(fleet["ben"], "d")
    fleet.meet("cal", "ben", byte_count_max=60_000)
    coverage = fleet["cal"].coverage()

    assert coverage.certainty == "incomplete"
    assert coverage.applied <= coverage.payloads_held < coverage.held == coverage.known
    (ben,) = [member for member in coverage.members if member.name == "ben"]
    assert ben.owed_payloads == sum(m.change_count for m in coverage.missing) > 0
    assert ben.owed_headers == 0
    assert sum(m.change_count for m in fleet["cal"].missing()) == coverage.known - coverage.payloads_held
    fleet.gather()
    assert fleet["cal"].coverage().is_whole


def test_answers_are_printed_as_a_person_would_say_them(fleet):
    """What is missing is part of the sentence, so that nobody reads a figure and stops there (S43)."""
    for key in "abc":
        bird(fleet["ben"], key)
    fleet["ben"].execute("INSERT INTO bird VALUES('big', 1, hex(randomblob(400000)))")
    fleet.meet("cal", "ben", byte_count_max=60_000)
    cal = fleet["cal"]
    known = cal.coverage().known

    assert str(cal.coverage()) == (
        f"incomplete: {known} of {known} headers and {known - 1} of {known} payloads of everything known are here; "
        "missing: 1 payload of ben, held by ben"
    )
    assert str(cal.status()).splitlines()[0] == f"{cal.space_name}, seen by cal: behind (part)"
    assert str(SyncReport(Traffic(0, 0, 9), Traffic(1, 3, 9), equal=False, root=b"", is_finished=False)) == (
        "sent 0 changes, received 1; the two do not hold the same; it was cut off"
    )


def test_an_open_epoch_is_unknown_beyond_what_its_members_have_signed(fleet):
    """COV-6: what a Close has seen is certain to lie in the cut, and nobody knows the rest."""
    bird(fleet["ana"], "a")
    fleet["ana"].finish()
    fleet.gather()
    before = fleet["ben"].coverage(epoch=0)
    for name in ("ben", "cal"):
        fleet[name].finish()
    fleet.gather()
    after = fleet["ben"].coverage("epoch:0")
    bird(fleet["ana"], "later")
    fleet.meet("ben", "ana")

    assert (before.cut, before.certainty, before.root) == ("epoch 0", "unknown", None)
    assert {waiting.member_name for waiting in before.waiting_for} == {"ben", "cal"}
    assert {member.name: member.finished for member in before.members} == {"ana": True, "ben": False, "cal": False}
    assert (after.certainty, after.waiting_for) == ("whole", ())
    assert after.root == fleet["ben"].close_epoch(0).certificate.body.history_root
    assert before.known < after.known == fleet["ben"].coverage(epoch=0).known < fleet["ben"].coverage().known
    assert fleet["ben"].coverage(epoch=7).certainty == "unknown"


def test_a_certificate_says_what_a_replica_lacks_that_has_never_heard_of_the_rest(fleet):
    """COV-6: a cut is measured by whoever has its frontier, held here or not."""
    late = fleet["cal"].coverage().known
    bird(fleet["ana"], "a")
    for name in fleet.names:
        fleet[name].finish()
    fleet.gather(["ana", "ben"])
    fleet.meet("ana", "cal", byte_count_max=1)
    for _ in range(2):
        fleet.meet("ben", "ana")
        with pytest.raises(IncompleteError):
            fleet["ana"].close_epoch(0)
    fleet.gather()
    closed = fleet["ana"].close_epoch(0)
    with Fleet(fleet.folder / "other") as other:
        stranger = other.found("zoe", BIRD)
        nothing = stranger.coverage(closed)

    assert (nothing.certainty, nothing.held, nothing.known) == ("incomplete", 0, closed.certificate.body.change_count)
    assert nothing.known > late
    for asked in (closed, closed.certificate, closed.certificate.frontier(), fleet["ben"].at("epoch:0")):
        assert fleet["ben"].coverage(asked).certainty == "whole"


def test_a_cut_that_ends_on_another_branch_is_not_held(fleet):
    """COV-6, COV-3: equal counters over other content are not the same."""
    own = fleet["ana"].at("now").frontier.heads
    log_id, head = next(iter(own.items()))
    forged = Frontier({**own, log_id: Head(head.length, b"\1" * 32)})

    found = fleet["ana"].coverage(forged)

    assert found.certainty == "incomplete"
    assert [(m.log_id, m.start, m.stop) for m in found.missing] == [(log_id, 0, head.length)]


def test_a_cut_is_measured_branch_by_branch_where_a_log_forked(fleet):
    """COV-6, FRN-4, LOG-7: each branch by its own headers, in one that was forked before and after it is known."""
    fleet.snapshot("ana", "old")
    for number in range(3):
        bird(fleet["ana"], f"here {number}")
    bird(fleet["old"], "there")
    cuts = {name: fleet[name].at("now").frontier for name in ("ana", "old")}
    fleet.meet("ben", "ana")
    apart = {name: fleet["ben"].coverage(cut) for name, cut in cuts.items()}
    fleet.meet("ben", "old")
    fleet.gather()
    cuts["all"] = fleet["ben"].at("now").frontier
    together = {name: fleet["ben"].coverage(cut) for name, cut in cuts.items()}
    fleet.join("dan")
    newcomer = fleet["dan"].coverage(cuts["all"])

    assert (apart["ana"].certainty, apart["old"].certainty) == ("whole", "incomplete")
    for name, found in together.items():
        assert (found.certainty, found.held, found.known) == ("whole", found.known, cuts[name].change_count), name
        assert found.applied == found.payloads_held == found.held
    assert cuts["all"].change_count == fleet["ben"].coverage().known
    assert (newcomer.certainty, newcomer.known) == ("incomplete", cuts["all"].change_count)
    assert newcomer.held == fleet["dan"].coverage().held - 1  # All but its own join.
    assert fleet["ben"].status().stable_count == fleet["ben"].coverage().known == fleet["ben"].stable().change_count


def test_a_change_is_a_cut_with_its_whole_past(fleet):
    """COV-6."""
    bird(fleet["ana"], "a")
    fleet.gather()
    change = bird(fleet["ben"], "b")
    bird(fleet["cal"], "c")
    fleet.gather()
    found = fleet["ana"].coverage(change)

    assert (found.certainty, found.root) == ("whole", fleet["ana"].at(change).root)
    assert fleet["ana"].coverage(str(change)).root == found.root
    assert found.known == fleet["ana"].coverage().known - 1
    with pytest.raises(UsageError, match="not known here"):
        fleet["ana"].coverage(klal.ChangeId(b"\7" * 32, 0))
    with pytest.raises(UsageError, match="not both"):
        fleet["ana"].coverage("now", epoch=0)
    with pytest.raises(UsageError, match="want 0 or more"):
        fleet["ana"].coverage(epoch=-1)


def test_each_member_is_said_to_hold_what_it_signed_for_and_how_old_that_word_is(fleet):
    """COV-3, COV-6: of a member who was never heard of, nothing."""
    bird(fleet["ana"], "a")
    fleet.meet("ana", "ben")
    fleet.skew("ana", 5 * DAY_MS)
    members = {member.name: member for member in fleet["ana"].members()}

    assert members["ben"].held == members["ben"].known == members["ana"].held
    assert members["cal"].held == members["cal"].known - 1
    assert [members[name].state for name in ("ana", "ben", "cal")] == ["whole", "whole", "behind"]
    assert 5 * DAY_MS <= members["ben"].age_ms < 6 * DAY_MS
    assert [(m.name, m.held) for m in fleet["ana"].coverage().members] == [(m.name, m.held) for m in members.values()]


# -- who has it, and waiting ------------------------------------------------------------------


def test_stable_is_the_frontier_that_every_member_is_known_to_hold(fleet):
    """STB-1, W6."""
    before = fleet["ana"].stable()
    change = bird(fleet["ana"], "a")
    fleet.meet("ana", "ben")
    with_one = fleet["ana"].stable()
    fleet.gather()

    assert before == with_one
    assert fleet["ana"].stable() == fleet["ana"].at("now").frontier
    assert fleet["ana"].who_has(change).is_stable
    assert fleet["ana"].stable().change_count == fleet["ana"].status().stable_count


def test_only_here_lists_what_of_mine_nobody_else_is_known_to_hold(fleet):
    """W5, S16: with its tables and times, until somebody has signed for it."""
    assert fleet["ana"].only_here() == []
    changes = [bird(fleet["ana"], key) for key in "ab"]
    bird(fleet["ben"], "c")
    alone = fleet["ana"].only_here()
    fleet.meet("ana", "ben")

    assert [(entry.change, entry.tables, entry.state) for entry in alone] == [
        (change, {"bird": 1}, "local") for change in changes
    ]
    assert all(entry.unix_ms for entry in alone)
    assert fleet["ana"].only_here() == []
    assert fleet["ana"].status().only_here == 0


def test_wait_tells_who_lacks_it_and_returns_as_soon_as_it_is_known(fleet):
    """COV-7."""
    ana = fleet["ana"]
    change = bird(ana, "a")
    assert ana.wait(change, held_by=1, timeout=0).holders == ("ana",)
    for held_by in (2, "quorum", "all", "stable"):
        with pytest.raises(IncompleteError, match="known to be held by 1") as caught:
            ana.wait(change, held_by=held_by, timeout=0)
        assert caught.value.missing == ("ben", "cal")
    fleet.meet("ana", "ben")

    assert ana.wait(change, held_by=2, timeout=0).holders == ("ana", "ben")
    assert ana.wait(str(change), held_by="quorum", timeout=0).holder_count == 2
    with pytest.raises(IncompleteError) as caught:
        ana.wait(change, held_by="all", timeout=0)
    assert caught.value.missing == ("cal",)
    fleet.gather()
    assert ana.wait(change, held_by="stable", timeout=0).is_stable


def test_wait_is_asked_rightly_or_not_at_all(fleet):
    ana = fleet["ana"]
    change = bird(ana, "a")
    for held_by in (0, "most", True):
        with pytest.raises(UsageError, match="held_by is"):
            ana.wait(change, held_by=held_by, timeout=0)
    with pytest.raises(UsageError, match="not known here"):
        ana.wait(klal.ChangeId(b"\7" * 32, 0), timeout=0)
    with ana.transaction(), pytest.raises(UsageError, match="inside a transaction"):
        ana.wait(change, timeout=0)


def test_one_disk_is_never_stable_however_long_one_waits(tmp_path):
    """COV-7, W4."""
    with Fleet(tmp_path / "fleet") as fleet:
        ana = fleet.found("ana", BIRD)
        change = bird(ana, "a")

        assert ana.wait(change, held_by="all", timeout=0).holders == ("ana",)
        with pytest.raises(IncompleteError, match="anybody else"):
            ana.wait(change, held_by="stable", timeout=0)


SYNC = """
import sys, klal
with klal.open(sys.argv[1], home=sys.argv[2]) as ana, klal.open(sys.argv[3], home=sys.argv[2]):
    ana.sync(sys.argv[3])
"""


def test_wait_notices_another_process_that_syncs_the_file(tmp_path):
    """COV-7: no network, no thread: the file is looked at."""
    home = tmp_path / "home"
    with klal.create(tmp_path / "ana.db", space="s", member="ana", home=home) as ana:
        ana.execute("CREATE TABLE t(id TEXT PRIMARY KEY)")
        klal.join(tmp_path / "ben.db", ana.invite(), member="ben", home=home).close()
        change = ana.execute("INSERT INTO t VALUES ('a')").change
        program = [sys.executable, "-c", SYNC, str(tmp_path / "ana.db"), str(home), str(tmp_path / "ben.db")]
        with subprocess.Popen(program) as other:
            found = ana.wait(change, held_by=2, timeout=60)
            assert other.wait(60) == 0

        assert found.holders == ("ana", "ben")


def test_what_this_process_commits_wakes_an_asynchronous_wait(fleet, monkeypatch):
    """COV-7."""
    monkeypatch.setattr(klal.polling, "POLL_S", 3600)
    ana = fleet["ana"]
    change = bird(ana, "a")

    async def main():
        waiting = asyncio.create_task(ana.wait_async(change, held_by=2))
        await asyncio.sleep(0)
        fleet.meet("ana", "ben")
        found = await waiting
        with pytest.raises(IncompleteError):
            await ana.wait_async(change, held_by="all", timeout=0)
        return found

    assert asyncio.run(main()).holders == ("ana", "ben")


def test_a_replica_that_is_closed_while_it_waits_says_so(fleet):
    ana = fleet["ana"]
    change = bird(ana, "a")

    async def main():
        waiting = asyncio.create_task(ana.wait_async(change))
        await asyncio.sleep(0)
        ana.close()
        with pytest.raises(klal.errors.KlalError):
            await waiting

    asyncio.run(main())


# -- status -------------------------------------------------------------------------------------


def test_status_says_what_came_since_yesterday(fleet):
    """By marks of arrival, not by what others' clocks say; of one's own by one's own."""
    ana = fleet["ana"]
    bird(ana, "old")
    fleet["ben"].execute("UPDATE bird SET mass = 2")
    fleet.gather()
    ana._store.note_contact()
    fleet.skew("ana", 2 * DAY_MS)
    quiet = ana.status().news
    bird(ana, "new")
    for key in "xy":
        bird(fleet["ben"], key)
    fleet.meet("ana", "ben")
    ana._store.note_contact()
    news = fleet.reopen("ana").status().news

    assert (quiet.written, quiet.arrived) == (0, {})
    assert quiet.since_unix_ms is not None
    assert (news.written, news.arrived, news.since_unix_ms) == (1, {"ben": 2}, quiet.since_unix_ms)


def test_marks_of_arrival_are_few(fleet):
    """A hub that is called every second keeps one in ten minutes, and one older than a day."""
    store = fleet["ana"]._store
    for number in range(400):
        bird(fleet["ana"], str(number))
        store.note_contact()
        fleet.skew("ana", 10 * 60 * 1000)
        store.note_contact()
    count = store.connection.execute("SELECT count(*) FROM klal_contact").get
    for number in range(20):
        bird(fleet["ana"], f"quick {number}")
        store.note_contact()

    assert 100 < count < 150
    assert store.connection.execute("SELECT count(*) FROM klal_contact").get <= count + 1
    assert 0 < fleet["ana"].status().news.written < 170


def test_status_says_why_something_is_parked(fleet):
    """EPO-2, APP-1."""
    fleet["ana"].finish()
    bird(fleet["ana"], "next")
    fleet.gather()
    (parked,) = fleet["ben"].status().parked_why

    assert (parked.member_name, parked.count, parked.reason) == ("ana", 1, "epoch 1 has not begun here")
    assert fleet["ana"].status().parked_why == ()


class Strict(HTMLParser):
    """Every element closed in its turn, nothing that runs, nothing fetched."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        assert tag in {"div", "style", "h3", "b", "span", "table", "thead", "tbody", "tr", "th", "td", "meter", "p"}
        assert {name for name, _ in attrs} <= {"class", "min", "max", "value"}
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def parsed(page):
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert "url(" not in page
    assert "@import" not in page
    return parser.text


def test_pages_for_notebooks_hold_everything_escaped_and_run_nothing(fleet):
    """T44: a name is text, whatever it spells."""
    fleet.join("<script>alert(1)<script>\"'&")
    bird(fleet["ben"], "a")
    fleet.gather()
    for page in (fleet["ana"].status()._repr_html_(), fleet["ana"].coverage()._repr_html_()):
        text = parsed(page)
        assert "<script" not in page
        assert "<script>alert(1)<script>\"'&" in text
        assert "prefers-color-scheme: dark" in page
        assert page.isascii()
    fleet["ben"].execute("INSERT INTO bird VALUES('b', 1, hex(randomblob(400000)))")
    fleet.meet("cal", "ben", byte_count_max=60_000)
    assert "ben" in parsed(fleet["cal"].coverage()._repr_html_())
    fleet["ana"].finish()
    bird(fleet["ana"], "next")
    fleet.gather(["ana", "ben"])
    assert "epoch 1 has not begun here" in parsed(fleet["ben"].status()._repr_html_())
    assert "has not" in parsed(fleet["ben"].coverage(epoch=0)._repr_html_()).replace("not finished", "has not finished")


def test_a_page_shows_what_a_terminal_would_obey_as_a_code():
    """T44."""
    from klal.notebook import escaped

    assert escaped("a\x1b[31m\u202eb\n") == "a\\u001b[31m\\u202eb\\u000a"


# -- what plain SQLite reads --------------------------------------------------------------------

READ = """
import json, sqlite3, sys
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
connection.row_factory = sqlite3.Row
for sql in ("SELECT * FROM klal_status", "SELECT * FROM klal_missing ORDER BY 2, 3"):
    print(json.dumps([dict(row) for row in connection.execute(sql)]))
"""


def test_the_views_say_in_plain_sql_what_status_and_missing_say(fleet):
    """FIL-3, COV-2: read by a SQLite that knows nothing of klal, in a process of its own."""
    for key in "abc":
        bird(fleet["ben"], key)
    fleet["ben"].execute("INSERT INTO bird VALUES('big', 1, hex(randomblob(400000)))")
    bird(fleet["ben"], "d")
    cal = fleet["cal"]
    fleet.meet("cal", "ben", byte_count_max=60_000)
    bird(cal, "own")  # Not sealed yet: the log's counters in the file are older than its lines.
    done = subprocess.run([sys.executable, "-c", READ, cal.path], capture_output=True, text=True, check=True)
    status, missing = map(json.loads, done.stdout.splitlines())
    told = cal.status()

    assert missing == [
        {"member": m.member_name, "log": m.log_id.hex(), "from": m.start, "to": m.stop, "what": m.what}
        for m in sorted(cal.missing(), key=lambda m: (m.log_id, m.start))
    ]
    assert len(missing) == 1
    (line,) = status
    assert line == {
        "member": "cal",
        "headers_held": told.coverage.held,
        "headers_known": told.coverage.known,
        "payloads_held": told.coverage.payloads_held,
        "payloads_known": told.coverage.payloads_known,
        "applied": told.coverage.applied,
        "is_whole": 0,
        "is_alone": 0,
        "epoch": 0,
        "conflicts": 0,
        "as_of_unix_ms": None,
    }
    assert cal.query("SELECT is_whole FROM klal_status") == [(0,)]
    fleet.gather()
    assert cal.query("SELECT is_whole, is_alone FROM klal_status") == [(1, 0)]


# -- the commands -------------------------------------------------------------------------------


def test_the_commands_say_not_yet_with_their_exit_code(fleet, capsys, monkeypatch):
    """COV-6, COV-7, W5."""
    monkeypatch.setenv("KLAL_HOME", str(fleet.home.folder))
    change = str(bird(fleet["ana"], "a"))
    for name in fleet.names:
        fleet[name].close()
    path = str(fleet["ana"].path)

    def told(*arguments):
        code = run([*arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, alone = told("only-here", path)
    assert (code, [entry["change"] for entry in alone]) == (3, [change])
    code, holders = told("wait", path, change[:10] + change[64:], "--held-by", "2", "--timeout", "0")
    assert (code, holders["holders"], holders["lacking"]) == (3, ["ana"], ["ben", "cal"])
    assert run(["sync", path, str(fleet["ben"].path)]) == 0
    capsys.readouterr()
    assert told("only-here", path) == (0, [])
    code, holders = told("wait", path, change, "--held-by", "quorum", "--timeout", "0")
    assert (code, holders["holders"]) == (0, ["ana", "ben"])
    assert told("wait", path, change, "--held-by", "most", "--timeout", "0")[0] == 2
    code, coverage = told("coverage", path)
    assert (code, coverage["certainty"], coverage["cut"]) == (0, "whole", "everything known")
    code, coverage = told("coverage", path, "epoch:0")
    assert (code, coverage["certainty"], len(coverage["waiting_for"])) == (3, "unknown", 3)
    for command in (["status", path], ["coverage", path, "epoch:0"], ["only-here", path], ["who-has", path, change]):
        run(command)
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 80
        assert "\x1b" not in text
    assert run(["wait", path, change, "--timeout", "0"]) == 3
    assert "lacking" in capsys.readouterr().out
