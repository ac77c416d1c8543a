"""Moments one by one: what each form of asking means, what is refused, and what names do."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import apsw
import pytest

import klal
from klal.errors import DamagedError, IncompleteError, MalformedError, ReadOnlyError, UsageError
from klal.model.acts import Genesis, NameMoment, check_act
from klal.model.frontier import Frontier
from klal.moment import Moments
from klal.rules.merge import ChangeRef
from klal.store import moments
from tests.helpers.fleet import BIRD, START_MS, Fleet


@pytest.fixture
def fleet(tmp_path):
    with Fleet(tmp_path / "fleet") as made:
        made.found("ana", BIRD)
        made.join("ben")
        made.gather()
        yield made


def masses(replica_or_moment):
    return replica_or_moment.query("SELECT id, mass FROM bird ORDER BY id")


def wrote(replica, key, mass):
    return replica.execute(
        "INSERT INTO bird(id, mass) VALUES(?, ?) ON CONFLICT DO UPDATE SET mass = excluded.mass", (key, mass)
    ).change


# -- what a moment may be asked by ----------------------------------------------------------------


def test_a_change_is_the_moment_of_it_and_all_that_it_had_seen(fleet):
    """W14 MOM-1."""
    first = wrote(fleet["ana"], "a", 1)
    fleet.gather()
    apart = wrote(fleet["ben"], "b", 5)
    second = wrote(fleet["ana"], "a", 2)
    fleet.gather()

    for replica in fleet.replicas.values():
        with replica.at(first) as moment:
            assert masses(moment) == [("a", 1)]
        with replica.at(str(second)) as moment:
            assert masses(moment) == [("a", 2)]
        with replica.at(apart) as moment:
            assert masses(moment) == [("a", 1), ("b", 5)]
        assert masses(replica) == [("a", 2), ("b", 5)]


def test_a_time_is_what_is_stamped_until_then_in_whatever_form_it_is_given(fleet):
    """W14 MOM-3."""
    fleet["ana"]._store._world.clock.now_ms = START_MS + 100_000
    wrote(fleet["ana"], "a", 1)
    fleet["ana"]._store._world.clock.now_ms = START_MS + 300_000
    wrote(fleet["ana"], "a", 2)
    between = datetime.fromtimestamp((START_MS + 200_000) / 1000, UTC)

    for asked in (between, between.isoformat(), between.replace(tzinfo=None).isoformat(), str(START_MS + 200_000)):
        with fleet["ana"].at(asked) as moment:
            assert masses(moment) == [("a", 1)]
    with fleet["ana"].at("1970-01-02") as moment:
        assert moment.frontier.change_count == 0
        with pytest.raises(UsageError, match="no such table"):
            moment.query("SELECT * FROM bird")


def test_a_clock_that_ran_back_does_not_tear_a_moment_from_its_past(fleet):
    """MOM-3: ben's clock says yesterday, but he had seen what ana wrote today."""
    wrote(fleet["ana"], "a", 1)
    fleet.gather()
    fleet.skew("ben", -86_400_000)
    late = wrote(fleet["ben"], "a", 2)
    fleet.gather()
    said = next(entry.unix_ms for entry in fleet["ana"].log() if entry.change == late)

    with fleet["ana"].at(str(said)) as moment:
        assert moment.frontier.length(late.log_id) <= late.seq
    with fleet["ana"].at(str(START_MS + 86_400_000)) as moment:
        assert masses(moment) == [("a", 2)]


def test_a_time_is_the_same_where_a_change_is_parked_and_where_it_is_applied(fleet):
    """MOM-3 W17: what is held decides, and not what one's own finishing lets show."""
    wrote(fleet["ana"], "a", 1)
    fleet["ana"].finish()
    wrote(fleet["ana"], "a", 2)  # Of epoch 1, which ben has not begun.
    fleet.gather()

    assert fleet["ben"].status().parked
    assert masses(fleet["ben"]) == [("a", 1)]
    late = str(START_MS + 10_000_000)
    with fleet["ana"].at(late) as one, fleet["ben"].at(late) as other:
        assert one.root == other.root
        assert masses(one) == masses(other) == [("a", 2)]
    with fleet["ben"].at("now") as moment:
        assert masses(moment) == [("a", 1)]


def test_an_epoch_is_its_cut_and_its_root_is_the_certificates(fleet):
    """W14 W17."""
    wrote(fleet["ana"], "a", 1)
    with pytest.raises(IncompleteError) as caught:
        fleet["ana"].at("epoch:0")
    assert {each.member_name for each in caught.value.waiting_for} == {"ana", "ben"}
    fleet.close_epoch()
    wrote(fleet["ben"], "a", 2)
    closed = fleet["ben"].close_epoch(0)

    for asked in (closed, "epoch:0", closed.certificate.body.history_root.hex(), closed.certificate.frontier()):
        with fleet["ben"].at(asked) as moment:
            assert masses(moment) == [("a", 1)]
            assert moment.root == closed.certificate.body.history_root


def test_a_moment_has_the_tables_and_columns_of_its_time(fleet):
    """W17."""
    before = wrote(fleet["ana"], "a", 1)
    fleet["ana"].execute("ALTER TABLE bird ADD COLUMN ring TEXT DEFAULT 'none'")
    fleet["ana"].execute("CREATE TABLE nest(id TEXT PRIMARY KEY)")
    fleet["ana"].execute("UPDATE bird SET ring = 'r1'")
    fleet.close_epoch()

    for replica in fleet.replicas.values():
        with replica.at(before) as moment:
            assert moment.query("SELECT * FROM bird").columns == ("id", "mass", "note")
            with pytest.raises(UsageError, match="ring"):
                moment.query("SELECT ring FROM bird")
            with pytest.raises(UsageError, match="nest"):
                moment.query("SELECT * FROM nest")
        with replica.at("epoch:0") as moment:
            assert moment.query("SELECT * FROM bird") == [("a", 1, None, "r1")]
            assert moment.query("SELECT count(*) FROM nest") == [(0,)]


def test_members_conflicts_and_epochs_are_those_of_the_moment(fleet):
    """W14 W17."""
    early = wrote(fleet["ana"], "a", 1)
    fleet.gather()
    wrote(fleet["ana"], "a", 2)
    wrote(fleet["ben"], "a", 3)
    fleet.gather()
    fleet["ana"].name_moment("apart")
    wrote(fleet["ana"], "a", 9)
    fleet.close_epoch()

    for replica in fleet.replicas.values():
        assert replica.conflicts() == []
        with replica.at("apart") as moment:
            assert moment.query("SELECT loser_value, winner_value FROM klal_conflicts") in ([(2, 3)], [(3, 2)])
            assert moment.query("SELECT count(*) FROM klal_epochs") == [(0,)]
        with replica.at(early) as moment:
            assert moment.query("SELECT count(*) FROM klal_conflicts") == [(0,)]
        with replica.at("epoch:0") as moment:
            assert moment.query("SELECT name FROM klal_members ORDER BY name") == [("ana",), ("ben",)]
            assert moment.query("SELECT epoch FROM klal_epochs") == [(0,)]


# -- what is not here -------------------------------------------------------------------------------


def test_a_moment_that_is_not_all_here_says_what_is_missing(fleet):
    """W14 MOM-4."""
    for number in range(40):
        change = wrote(fleet["ana"], f"k{number}", number)
    fleet.meet("ana", "ben", 3_000)
    assert not fleet["ben"].coverage().is_whole

    with pytest.raises(IncompleteError) as caught:
        fleet["ben"].at(change)
    assert {each.member_name for each in caught.value.missing} == {"ana"}
    with fleet["ana"].at("now") as moment:
        frontier = moment.frontier
    with pytest.raises(IncompleteError):
        fleet["ben"].at(frontier)
    fleet.gather()
    with fleet["ben"].at(frontier) as moment:
        assert moment.root == frontier.root()


def test_a_frontier_that_is_torn_from_its_past_is_no_moment(fleet):
    """MOM-1."""
    wrote(fleet["ana"], "a", 1)
    fleet.gather()
    wrote(fleet["ben"], "a", 2)
    heads = dict(fleet["ben"]._store.history.frontier().heads)
    del heads[fleet["ana"].log_id]

    with pytest.raises(UsageError, match="had seen one outside it"):
        fleet["ben"].at(Frontier(heads))


@pytest.mark.parametrize(
    "asked", ["yesterday", "2026-13-01", "2026", "20261125", "00" * 32, "11" * 32 + ":0", "name:nothing", "", "epoch:x"]
)
def test_what_is_no_moment_is_refused_in_a_sentence(fleet, asked):
    with pytest.raises(UsageError, match="a int is no moment"):
        fleet["ana"].at(7)
    with pytest.raises(UsageError):
        fleet["ana"].at(asked)


# -- reading only ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO bird(id) VALUES('x')",
        "WITH a AS (SELECT 1) DELETE FROM bird",
        "CREATE TABLE t(id TEXT PRIMARY KEY)",
        "DROP VIEW bird",
        "ATTACH ':memory:' AS x",
        "PRAGMA user_version = 3",
        "BEGIN",
    ],
)
@pytest.mark.parametrize("way", ["quick", "replayed"])
def test_the_past_cannot_be_written(fleet, sql, way):
    """W14."""
    change = wrote(fleet["ana"], "a", 1)
    wrote(fleet["ana"], "a", 2)
    with fleet["ana"].at(change) as moment:
        if way == "replayed":
            moment._past.replayed()
        with pytest.raises(UsageError, match="a moment is past and can only be read: want a SELECT"):
            moment.query(sql)
        assert masses(moment) == [("a", 1)]


@pytest.mark.parametrize("way", ["quick", "replayed"])
def test_what_speaks_of_one_file_is_no_part_of_a_moment(fleet, way):
    change = wrote(fleet["ana"], "a", 1)
    wrote(fleet["ana"], "a", 2)
    with fleet["ana"].at(change) as moment:
        if way == "replayed":
            moment._past.replayed()
        for sql in (
            "SELECT * FROM klal_changes",
            "SELECT * FROM klal_log",
            "SELECT * FROM sqlite_schema",
            "SELECT * FROM pragma_table_info('bird')",
            "SELECT rowid FROM bird",
            "SELECT * FROM klal_patch_1",
            "SELECT 1; SELECT 2",
            "SELECT * FROM nowhere",
            "SELEC",
        ):
            with pytest.raises(UsageError):
                moment.query(sql)
            assert masses(moment) == [("a", 1)]
        assert moment.query("SELECT value FROM json_each('[7]')") == [(7,)]


def test_a_table_named_with_its_schema_is_as_of_then_too(fleet):
    change = wrote(fleet["ana"], "a", 1)
    wrote(fleet["ana"], "a", 2)
    with fleet["ana"].at(change) as moment:
        assert moment.query("SELECT mass FROM bird") == [(1,)]
        assert moment._past._replay is None
        assert moment.query("SELECT mass FROM main.bird") == [(1,)]


def test_columns_compare_and_convert_as_of_then_as_they_do_now(fleet):
    """The rows that were different then keep their columns' affinity and collation."""
    fleet["ana"].execute("CREATE TABLE mixed(id TEXT PRIMARY KEY, n INTEGER, t TEXT COLLATE NOCASE, a ANY, r REAL)")
    fleet["ana"].execute("INSERT INTO mixed VALUES('x', 10, 'Aa', 1, 2), ('y', 20, 'Bb', 'z', 3.5)")
    change = fleet["ana"].execute("UPDATE mixed SET n = 9, t = 'cC', r = 7 WHERE id = 'x'").change
    fleet["ana"].execute("UPDATE mixed SET n = 1, t = 'q', a = 'q', r = 1")
    fleet["ana"].execute("INSERT INTO mixed VALUES('w', 9, 'cc', 9, 7)")
    questions = [
        "SELECT id FROM mixed WHERE n = '9'",
        "SELECT id FROM mixed WHERE t = 'CC'",
        "SELECT id, n, t, a, r, typeof(n), typeof(t), typeof(a), typeof(r) FROM mixed ORDER BY id",
        "SELECT t FROM mixed ORDER BY t",
        "SELECT count(DISTINCT t), sum(r), max(n) FROM mixed",
        "SELECT id FROM mixed WHERE n > '2' AND id >= 'x' ORDER BY n",
    ]

    with fleet["ana"].at(change) as quick, fleet["ana"].at(change) as slow:
        slow._past.replayed()
        for sql in questions:
            assert quick.query(sql) == slow.query(sql), sql
        assert quick._past._replay is None


def test_a_moment_stays_what_it_is_while_the_file_goes_on(fleet):
    wrote(fleet["ana"], "a", 1)
    with fleet["ana"].at("now") as moment:
        wrote(fleet["ana"], "a", 2)
        wrote(fleet["ana"], "b", 2)
        assert masses(moment) == [("a", 1)]
    assert masses(fleet["ana"]) == [("a", 2), ("b", 2)]
    with pytest.raises(UsageError, match="closed"):
        masses(moment)
    moment.close()


def test_rows_that_history_has_and_the_file_has_not_are_damage_and_not_an_answer(fleet):
    """W14: the quick way leans on the rows of now, and says when they are not those of history."""
    change = wrote(fleet["ana"], "a", 1)
    wrote(fleet["ana"], "a", 2)
    fleet["ana"].close()
    connection = apsw.Connection(str(fleet["ana"].path))
    connection.execute("DELETE FROM bird")
    connection.close()
    with fleet.open("ana").at(change) as moment, pytest.raises(DamagedError, match="lacks rows"):
        masses(moment)


def test_a_moment_is_of_the_open_file_wherever_the_program_goes(fleet, tmp_path, monkeypatch):
    fleet["ana"].close()
    monkeypatch.chdir(fleet["ana"].path.parent)
    with fleet.open("ana", Path(fleet["ana"].path.name)) as replica:
        wrote(replica, "a", 1)
        monkeypatch.chdir(tmp_path)
        with replica.at("now") as moment:
            assert masses(moment) == [("a", 1)]


def test_a_moment_shows_what_it_is(fleet):
    wrote(fleet["ana"], "a", 1)
    with fleet["ana"].at("now") as moment:
        assert isinstance(moment, klal.Moment)
        assert moment.name == moment.root.hex() == moment.frontier.root().hex()
        assert repr(moment) == f"<klal.Moment {moment.root.hex()[:8]} of {moment.frontier.change_count} changes>"
        again = fleet["ana"].at(moment)
    assert again.root == moment.root
    again.close()
    assert repr(again).endswith("changes, closed>")
    fleet["ana"].name_moment("here")
    with fleet["ana"].at("here") as named:
        assert named.name == "here"
        assert named.root == moment.root
        assert repr(named).startswith("<klal.Moment 'here' ")


def test_nothing_of_the_past_runs_inside_a_transaction(fleet):
    with fleet["ana"].transaction():
        for work in (
            lambda: fleet["ana"].at("now"),
            lambda: fleet["ana"].diff("now"),
            lambda: fleet["ana"].name_moment("x"),
        ):
            with pytest.raises(UsageError, match="inside a transaction"):
                work()


# -- names ------------------------------------------------------------------------------------------------


def test_a_name_travels_and_opens_the_same_state_everywhere(fleet):
    """W17 MOM-2."""
    wrote(fleet["ana"], "a", 1)
    named = fleet["ana"].name_moment("before the storm")
    wrote(fleet["ana"], "a", 2)
    fleet.gather()

    assert fleet["ben"].moments() == fleet["ana"].moments() == [named]
    assert named.member_name == "ana"
    with fleet["ben"].at("before the storm") as moment, fleet["ben"].at(named.root.hex()) as by_root:
        assert moment.root == by_root.root == named.root
        assert masses(moment) == masses(by_root) == [("a", 1)]
    assert fleet["ben"].log()[1].acts == ("named before the storm",)
    for replica in fleet.replicas.values():
        replica.verify()


def test_one_name_given_apart_to_two_states_is_told_apart_the_same_everywhere(fleet):
    """W17 MOM-2."""
    fleet.join("cal")
    fleet.gather()
    for name, mass in (("ben", 2), ("ana", 1), ("cal", 3)):
        wrote(fleet[name], name, mass)
        fleet[name].name_moment("audit")
    fleet.gather()

    names = [moment.name for moment in fleet["ana"].moments()]
    assert len(names) == 3
    assert names[0] == "audit"
    assert names[1:] == [f"audit__{moment.root[:16].hex()}" for moment in fleet["ana"].moments()[1:]]
    for replica in fleet.replicas.values():
        assert replica.moments() == fleet["ana"].moments()
        for moment in replica.moments():
            with replica.at(moment.name) as opened:
                assert masses(opened) == [(moment.member_name, {"ana": 1, "ben": 2, "cal": 3}[moment.member_name])]


def test_naming_the_same_state_again_says_nothing_new(fleet):
    """MOM-2."""
    named = fleet["ana"].name_moment("x")
    with pytest.raises(UsageError, match="another state"):
        fleet["ana"].name_moment("x")
    with fleet["ana"].at("x") as moment:
        assert moment.root == named.root
    assert fleet["ana"].moments() == [named]


@pytest.mark.parametrize(
    "name",
    ["", " x", "a\nb", "x" * 201, "now", "epoch:1", "2026-01-01", "12", "ab" * 32, "name:x", "x__" + "0" * 32],
)
def test_a_name_that_would_be_read_as_something_else_is_refused(fleet, name):
    with pytest.raises(UsageError):
        fleet["ana"].name_moment(name)
    assert fleet["ana"].moments() == []


def test_a_foreign_name_that_looks_like_something_else_does_not_stand_in_its_way(fleet):
    """MOM-2: fixed forms are read first."""
    fleet["ana"]._store.name_moment("now")
    wrote(fleet["ana"], "a", 1)

    with fleet["ana"].at("now") as moment, fleet["ana"].at("name:now") as named:
        assert masses(moment) == [("a", 1)]
        assert masses(named) == []


def test_a_name_told_apart_by_its_end_is_refused_at_the_door():
    """MOM-2 ACT-2."""
    for name in ("", "x\0", "audit__" + "0" * 32):
        with pytest.raises(MalformedError):
            check_act(NameMoment(name))


def test_a_file_without_its_key_reads_the_past_and_names_nothing(fleet, tmp_path):
    change = wrote(fleet["ana"], "a", 1)
    wrote(fleet["ana"], "a", 2)
    fleet["ana"].close()
    with klal.open(fleet["ana"].path, home=tmp_path / "empty") as replica:
        assert replica.read_only
        with replica.at(change) as moment:
            assert masses(moment) == [("a", 1)]
        with pytest.raises(ReadOnlyError):
            replica.name_moment("x")


# -- versions and differences -----------------------------------------------------------------------------


def test_the_versions_of_a_row_say_who_when_what_and_what_lost(fleet):
    """W14."""
    made = wrote(fleet["ana"], "a", 1)
    fleet.gather()
    hers, his = wrote(fleet["ana"], "a", 2), wrote(fleet["ben"], "a", 3)
    fleet.gather()
    settled = wrote(fleet["ana"], "a", 4)
    gone = fleet["ana"].execute("DELETE FROM bird").change
    versions = fleet["ana"].history("bird", "a")

    assert [version.kind for version in versions] == ["insert", "update", "update", "update", "delete"]
    assert [version.change for version in (versions[0], *versions[3:])] == [made, settled, gone]
    assert {version.change for version in versions[1:3]} == {hers, his}
    loser, winner = versions[1], versions[2]
    assert [(c.column, c.loser.value, c.winner.change) for c in loser.lost] == [
        ("mass", loser.written["mass"], winner.change)
    ]
    assert winner.lost == versions[3].lost == ()
    assert versions[3].row == {"id": "a", "mass": 4, "note": None}
    assert versions[4].row is None
    assert versions[3].written == {"mass": 4}
    assert fleet["ana"].history("bird", "nobody") == []
    with pytest.raises(UsageError, match="1 key columns, found 2"):
        fleet["ana"].history("bird", ("a", "b"))
    with pytest.raises(UsageError, match="no table"):
        fleet["ana"].history("fish", "a")


def test_a_diff_across_a_new_column_names_only_rows_that_changed(fleet):
    """W14."""
    wrote(fleet["ana"], "a", 1)
    before = wrote(fleet["ana"], "b", 1)
    fleet["ana"].execute("ALTER TABLE bird ADD COLUMN ring TEXT DEFAULT 'none'")
    fleet["ana"].execute("UPDATE bird SET ring = 'r' WHERE id = 'b'")
    fleet["ana"].execute("CREATE TABLE nest(id TEXT PRIMARY KEY)")
    fleet["ana"].execute("INSERT INTO nest VALUES('n')")

    found = fleet["ana"].diff(before)
    assert [(each.table, each.key, each.before, each.after) for each in found] == [
        ("bird", ("b",), {"id": "b", "mass": 1, "note": None}, {"id": "b", "mass": 1, "note": None, "ring": "r"}),
        ("nest", ("n",), None, {"id": "n"}),
    ]
    back = fleet["ana"].diff("now", before)
    assert [(each.key, each.before, each.after) for each in back] == [(e.key, e.after, e.before) for e in found]
    assert fleet["ana"].diff("now") == []


# -- the quick way is taken where it is surely right, and only there ---------------------------------------


def test_what_could_be_different_takes_the_long_way(fleet):
    """W14: added columns, tables without a rowid, and acts that are not known to be harmless."""
    early = wrote(fleet["ana"], "a", 1)
    fleet["ana"].execute("CREATE TABLE cage(id BLOB PRIMARY KEY, n INTEGER) WITHOUT ROWID")
    fleet["ana"].execute("CREATE TABLE taken(rowid TEXT PRIMARY KEY, oid INTEGER, _rowid_ INTEGER)")
    fleet["ana"].execute("CREATE TABLE partly(rowid TEXT PRIMARY KEY, n INTEGER)")
    fleet["ana"].execute("INSERT INTO cage VALUES(x'00', 1)")
    fleet["ana"].execute("INSERT INTO taken VALUES('t', 1, 1)")
    later = fleet["ana"].execute("INSERT INTO partly VALUES('p', 1)").change
    fleet["ana"].execute("UPDATE cage SET n = 2")
    fleet["ana"].execute("UPDATE taken SET oid = 2")
    fleet["ana"].execute("UPDATE partly SET n = 2")
    fleet.join("cal")  # Whose join declares all tables again.
    fleet.gather()
    replica = fleet["ana"]

    for asked, quick in ((early, {"bird"}), (later, {"bird", "partly"})):
        with replica.at(asked) as moment:
            past = moment._past
            assert {table.name for table in past.catalog.by_id.values() if past.is_plain(table)} == quick
    with replica.at(later) as moment:
        assert moment.query("SELECT n FROM partly") == [(1,)]
        assert moment._past._replay is None
        assert moment.query("SELECT (SELECT n FROM cage), (SELECT oid FROM taken), n FROM partly") == [(1, 1, 1)]
        assert moment._past._replay is not None


def test_an_act_that_is_not_known_to_be_harmless_sends_everything_the_long_way(fleet, monkeypatch):
    """W14: what a later version of klal can do to tables is not listed, so nothing is taken for granted."""
    change = wrote(fleet["ana"], "a", 1)
    wrote(fleet["ana"], "a", 2)
    fleet["ana"].invite()
    with fleet["ana"].at(change) as moment:
        assert masses(moment) == [("a", 1)]
        assert moment._past._replay is None
    monkeypatch.setattr(moments, "_HARMLESS_ACTS", (Genesis,))
    with fleet["ana"].at(change) as moment:
        assert masses(moment) == [("a", 1)]
        assert moment._past._replay is not None


def test_of_several_members_writes_the_greatest_stands_whatever_log_it_lies_in(fleet):
    """MRG-3: the quick way reads several logs as one."""
    fleet.join("cal")
    fleet.gather()
    wrote(fleet["ana"], "a", 0)
    fleet.gather()
    asked = {}
    for number, name in enumerate(["ben", "ana", "cal", "ana", "ben", "cal", "ben"], 1):
        asked[number] = wrote(fleet[name], "a", number)
        fleet.gather()
    for number, change in asked.items():
        with fleet["ana"].at(change) as moment:
            assert masses(moment) == [("a", number)]
            assert moment._past._replay is None


def test_a_change_without_effect_has_none_in_the_past_either(fleet):
    """APP-2: its place is kept, and its rows are not read."""
    wrote(fleet["ana"], "a", 1)
    void = wrote(fleet["ana"], "a", 2)
    wrote(fleet["ana"], "a", 3)
    history = fleet["ana"]._store.history
    lsn = history.lsn_of(ChangeRef(history.by_id[void.log_id].log, void.seq))
    fleet["ana"]._store.connection.execute("UPDATE klal_change SET state = 3 WHERE lsn = ?", (lsn,))
    with fleet["ana"].at(void) as moment:
        assert masses(moment) == [("a", 1)]
        assert moment._past._replay is None


def test_very_much_later_work_is_not_loaded_to_be_undone(fleet, monkeypatch):
    change = wrote(fleet["ana"], "a", 1)
    wrote(fleet["ana"], "a", 2)
    monkeypatch.setattr(moments, "_LATER_PART_SIZE_MAX", 10)
    with fleet["ana"].at(change) as moment:
        assert masses(moment) == [("a", 1)]
        assert moment._past._replay is not None


def test_moments_of_one_store_are_named_by_what_they_hold(fleet):
    """W17: equal frontiers, equal roots, whoever asks and by whatever way."""
    change = wrote(fleet["ana"], "a", 1)
    fleet.gather()
    store = fleet["ben"]._store
    with store.reading():
        lengths = Moments(store).lengths(change)
        root = Moments(store).frontier(lengths).root()
    with fleet["ana"].at(change) as moment:
        assert moment.root == root


def test_who_first_had_a_state_whole_is_the_same_wherever_the_same_changes_are(fleet):
    """W17 MOM-5: it follows from history, in whatever order that arrived."""
    fleet.join("cal")
    fleet.gather()
    first = wrote(fleet["ana"], "a", 1)
    assert fleet["ana"].discloser(first).change == first, "whoever completes it has it whole"
    fleet.gather()
    other = wrote(fleet["ben"], "b", 2)
    fleet.gather()
    after = wrote(fleet["cal"], "c", 3)
    fleet.gather()

    found = {(d.member_name, d.change, d.value) for d in (r.discloser(other) for r in fleet.replicas.values())}
    assert len(found) == 1
    assert found.pop()[:2] == ("ben", other)
    assert {r.discloser(after).member_name for r in fleet.replicas.values()} == {"cal"}
    assert {r.discloser("now").change for r in fleet.replicas.values()} == {after}


def test_a_state_nobodys_change_has_seen_has_no_discloser_yet(fleet):
    """W17 MOM-5: two wrote apart, and nobody since."""
    fleet.join("cal")
    fleet.gather()
    wrote(fleet["ana"], "a", 1)
    wrote(fleet["ben"], "b", 2)
    fleet.gather()
    assert fleet["ana"].discloser() is None
    change = wrote(fleet["cal"], "c", 3)
    fleet.gather()

    assert fleet["ana"].discloser().change == change
