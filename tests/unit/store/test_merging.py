"""Policies, counters, sets, texts and settled conflicts, on real files: what SQL asks for, and what the others see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path

import pytest

from klal.errors import ConstraintError, LinkError, UsageError
from klal.replica import Replica
from tests.helpers.fleet import Fleet, answers_of

SITE = (
    "CREATE TABLE site(id TEXT PRIMARY KEY, name TEXT, hint TEXT, nests INTEGER COUNTER NOT NULL DEFAULT 0,"
    " tags TEXT ELEMENTS NOT NULL DEFAULT '[]', notes TEXT COLLABORATIVE NOT NULL DEFAULT '')"
)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path) as fleet:
        fleet.found("ana", SITE)
        fleet.join("ben")
        fleet["ana"].execute("INSERT INTO site VALUES('a', 'A', NULL, 10, '[\"x\"]', 'seen by all')")
        fleet.gather()
        yield fleet


def apart(fleet: Fleet, ana: str, ben: str) -> Replica:
    """Let each write without knowing of the other, bring them together, and return one of the two, now alike."""
    fleet["ana"].execute(ana)
    fleet["ben"].execute(ben)
    fleet.gather()
    agree(fleet)
    return fleet["ana"]


def agree(fleet: Fleet) -> None:
    assert answers_of(fleet["ana"]) == answers_of(fleet["ben"])
    for name in fleet.names:
        fleet[name].verify()


def cell(replica: Replica, column: str) -> object:
    ((value,),) = replica.query(f"SELECT {column} FROM site WHERE id = 'a'")
    return value


# -- counters, sets and texts ----------------------------------------------------------------


def test_two_offline_replicas_add_three_each_and_six_are_added(fleet: Fleet) -> None:
    """S24, TYP-2."""
    more = "UPDATE site SET nests = nests + 3"

    assert cell(apart(fleet, more, more), "nests") == 16
    assert not fleet["ana"].conflicts()


def test_withdrawals_below_zero_are_both_kept(fleet: Fleet) -> None:
    """S25."""
    less = "UPDATE site SET nests = nests - 8"

    assert cell(apart(fleet, less, less), "nests") == -6


def test_what_was_added_to_a_set_here_and_removed_there_stays(fleet: Fleet) -> None:
    """S23, TYP-3; the user's own spelling is made the one spelling, in the table too."""
    shown = apart(fleet, 'UPDATE site SET tags = \'[ "y", "x", "y" ]\'', "UPDATE site SET tags = '[]'")

    assert cell(shown, "tags") == '["y"]'
    fleet["ana"].execute("UPDATE site SET tags = '[\"z\", 1,   null]'")
    assert cell(fleet["ana"], "tags") == '["z",1,null]'


def test_a_text_holds_what_both_typed(fleet: Fleet) -> None:
    """S30, TYP-4."""
    shown = apart(
        fleet, "UPDATE site SET notes = 'Ana: ' || notes", "UPDATE site SET notes = replace(notes, 'all', 'all of us')"
    )

    assert cell(shown, "notes") == "Ana: seen by all of us"
    again = apart(fleet, "UPDATE site SET notes = notes || ' 1'", "UPDATE site SET notes = notes || ' 2'")
    assert cell(again, "notes") in ("Ana: seen by all of us 1 2", "Ana: seen by all of us 2 1")


def test_any_order_of_arrival_gives_one_text(tmp_path: Path) -> None:
    """S30, S35, TYP-4: six who type at one point, heard of in different orders, one after the other."""
    names = ("ana", "ben", "cal", "dan")
    outcomes = set()
    for number, order in enumerate(permutations(names[1:])):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Fleet(folder) as fleet:
            fleet.found("ana", SITE)
            for name in names[1:]:
                fleet.join(name)
            fleet["ana"].execute("INSERT INTO site(id, notes) VALUES('a', '()')")
            fleet.gather()
            for name in names:
                for letter in name:
                    fleet[name].execute(
                        "UPDATE site SET notes = substr(notes, 1, length(notes) - 1) || ? || ')'", (letter,)
                    )
            for name in order:
                fleet.meet("ana", name)
            outcomes.add(cell(fleet["ana"], "notes"))
            fleet["ana"].verify()

    (text,) = outcomes
    assert all(name in text for name in names)
    assert len(text) == 2 + sum(map(len, names))


def test_a_copied_file_goes_on_under_another_log_and_types_as_another(fleet: Fleet, tmp_path: Path) -> None:
    """S40, TYP-4: two files with one past are two logs, so their edits are told apart."""
    fleet["ben"].execute("UPDATE site SET notes = notes || '!'")
    fleet["ben"].backup(tmp_path / "copy.db")
    with fleet.guest("ben", tmp_path / "copy.db") as copy:
        copy.execute("UPDATE site SET notes = notes || ' copy'")
        fleet["ben"].execute("UPDATE site SET notes = notes || ' original'")
        copy.sync(fleet["ben"].path)

        assert copy.query("SELECT notes FROM site") == fleet["ben"].query("SELECT notes FROM site")
        assert "copy" in str(cell(copy, "notes"))
        assert "original" in str(cell(copy, "notes"))


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("UPDATE site SET nests = 1.5", "want an integer"),
        ("UPDATE site SET nests = 9223372036854775807 + nests", "want an integer"),
        ("UPDATE site SET nests = 'many'", "want an integer"),
        ("UPDATE site SET tags = 'x'", "not JSON"),
        ("UPDATE site SET tags = '{}'", "not a JSON array"),
        ("UPDATE site SET tags = '[[]]'", "want a text, an integer"),
        ("UPDATE site SET tags = '[1.5]'", "want a text, an integer"),
        ("UPDATE site SET tags = '[99999999999999999999]'", "64 bits"),
        ("UPDATE site SET notes = x'00'", "want text"),
        ("INSERT INTO site(id, nests) VALUES('b', 'many')", "want an integer"),
        ("UPDATE site SET notes = NULL", "NOT NULL"),
    ],
)
def test_what_is_none_of_its_type_is_refused_in_a_sentence(fleet: Fleet, sql: str, what: str) -> None:
    """TYP-2, TYP-3, TYP-4."""
    before = answers_of(fleet["ana"])
    with pytest.raises(ConstraintError) as caught:
        fleet["ana"].execute(sql)

    assert what in caught.value.message
    assert answers_of(fleet["ana"]) == before


@pytest.mark.parametrize(
    "column",
    [
        "n INTEGER COUNTER",
        "n REAL COUNTER NOT NULL",
        "n COUNTER NOT NULL",
        "n INTEGER COUNTER NOT NULL DEFAULT 'x'",
        "n INTEGER ELEMENTS NOT NULL",
        "n TEXT ELEMENTS NOT NULL DEFAULT 'x'",
        "n BLOB COLLABORATIVE NOT NULL",
        "n TEXT COLLABORATIVE",
        "n INT COUNTER NOT NULL PRIMARY KEY, m",
    ],
)
def test_a_counter_set_or_text_that_could_not_merge_is_refused(fleet: Fleet, column: str) -> None:
    """TYP-1."""
    key = "" if "PRIMARY" in column else "id TEXT PRIMARY KEY, "
    with pytest.raises(UsageError):
        fleet["ana"].execute(f"CREATE TABLE t({key}{column})")


def test_many_rows_at_once_are_checked_and_spelled_alike(fleet: Fleet) -> None:
    """TYP-3, D3: the fast path is right for such columns."""
    rows = [(f"k{n}", None, None, n, '["b","a"]', "text") for n in range(100)]
    fleet["ana"].insert_many("site", rows)
    fleet["ana"].executemany("INSERT INTO site(id, tags) VALUES(?, ?)", [("z1", "[2, 1]"), ("z2", "[]")])
    fleet.gather()

    agree(fleet)
    assert fleet["ben"].query("SELECT DISTINCT tags FROM site WHERE id LIKE 'k%'") == [('["a","b"]',)]
    with pytest.raises(ConstraintError):
        fleet["ana"].insert_many("site", [("bad", None, None, "x", "[]", "")])


def test_a_counter_column_added_later_counts_from_its_default(fleet: Fleet) -> None:
    """TYP-2, S32."""
    fleet["ana"].execute("ALTER TABLE site ADD COLUMN eggs INTEGER COUNTER NOT NULL DEFAULT 5")
    fleet["ana"].execute("UPDATE site SET eggs = eggs + 1")
    fleet["ben"].execute("DELETE FROM site")
    fleet["ben"].execute("INSERT INTO site(id) VALUES('a')")
    fleet.gather()
    agree(fleet)

    assert cell(fleet["ben"], "eggs") == 5
    more = "UPDATE site SET eggs = eggs + 1"
    assert cell(apart(fleet, more, more), "eggs") == 7


def test_a_document_changed_by_another_tool_is_found(fleet: Fleet) -> None:
    """FIL-4."""
    apart(fleet, "UPDATE site SET notes = notes || '1'", "UPDATE site SET notes = notes || '2'")
    fleet["ana"]._store.connection.execute("DELETE FROM klal_text")

    with pytest.raises(LinkError) as caught:
        fleet["ana"].verify()
    assert caught.value.evidence == "klal_text"


def test_one_transaction_over_three_tables_arrives_whole(fleet: Fleet) -> None:
    """S33, APP-1."""
    for name in ("one", "two"):
        fleet["ana"].execute(f"CREATE TABLE {name}(id TEXT PRIMARY KEY, n INTEGER COUNTER NOT NULL)")
    with fleet["ana"].transaction():
        for name in ("one", "two"):
            fleet["ana"].execute(f"INSERT INTO {name} VALUES('k', 1)")
        fleet["ana"].execute("UPDATE site SET nests = nests + 1")
    fleet.gather()
    agree(fleet)

    assert fleet["ben"].query("SELECT one.n, two.n, nests FROM one, two, site") == [(1, 1, 11)]


# -- policies --------------------------------------------------------------------------------


def test_a_row_table_shows_one_writers_row_and_lists_the_other_by_column(fleet: Fleet) -> None:
    """S18 under "row", POL-1 to POL-3."""
    fleet["ana"].execute("ALTER TABLE site SET MERGE ROW")
    fleet.gather()
    shown = apart(fleet, "UPDATE site SET name = 'Ana', nests = nests + 1", "UPDATE site SET hint = 'Ben'")

    row = shown.query("SELECT name, hint, nests FROM site")
    assert row in ([("Ana", None, 11)], [("A", "Ben", 11)])
    assert {conflict.column for conflict in shown.conflicts()} == {"name", "hint"}
    assert shown.query("SELECT * FROM klal_policies") == [("site", "row", "revive")]


def test_a_count_in_a_row_table_takes_no_row_with_it(fleet: Fleet) -> None:
    """POL-3: counters merge by themselves, so counting overrides nobody's row."""
    fleet["ana"].set_policy("site", merge="row")
    fleet.gather()
    shown = apart(fleet, "UPDATE site SET nests = nests + 1", "UPDATE site SET name = 'Ben'")

    assert shown.query("SELECT name, nests FROM site") == [("Ben", 11)]
    assert not shown.conflicts()


def test_a_delete_wins_where_the_table_says_so_and_what_it_had_not_seen_is_listed(fleet: Fleet) -> None:
    """S21, POL-1, MRG-4."""
    fleet["ben"].execute("ALTER TABLE site SET ON DELETE WINS")
    fleet.gather()
    shown = apart(
        fleet,
        "DELETE FROM site",
        "UPDATE site SET name = 'Ben', nests = nests + 1, tags = '[]', notes = notes || '!'",
    )

    assert not shown.query("SELECT * FROM site")
    lost = {conflict.column: conflict.loser.value for conflict in shown.conflicts()}
    assert lost == {"name": "Ben", "nests": "+1", "tags": '-"x"', "notes": '+"!"'}
    assert {conflict.winner.member_name for conflict in shown.conflicts()} == {"ana"}


def test_a_delete_without_policy_revives(fleet: Fleet) -> None:
    """S21."""
    shown = apart(fleet, "DELETE FROM site", "UPDATE site SET name = 'Ben'")

    assert cell(shown, "name") == "Ben"
    assert cell(shown, "notes") == "seen by all"


def test_of_two_policies_set_apart_the_greater_order_stands_everywhere(fleet: Fleet) -> None:
    """POL-2, W16: the two settings are apart, so nobody's word about the other is lost."""
    fleet.skew("ana", 1_000)
    fleet["ana"].set_policy("site", merge="row")
    fleet["ana"].set_policy("site", on_delete="wins")
    fleet["ben"].set_policy("site", merge="cell")
    fleet.gather()
    agree(fleet)
    assert fleet["ben"].query("SELECT * FROM klal_policies") == [("site", "row", "wins")]

    fleet["ben"].set_policy("site", merge="cell")
    fleet.gather()
    agree(fleet)
    assert fleet["ana"].query("SELECT * FROM klal_policies") == [("site", "cell", "wins")]


def test_a_write_is_made_under_the_policy_that_its_writer_had_seen(fleet: Fleet) -> None:
    """POL-3, W16: ana's DELETE is final by her policy, and ben's, who has not heard of it, is not."""
    fleet["ana"].set_policy("site", on_delete="wins")
    fleet["ana"].execute("UPDATE site SET name = 'Ana'")
    fleet["ben"].execute("DELETE FROM site")
    fleet.gather()
    agree(fleet)

    assert cell(fleet["ben"], "name") == "Ana"


def test_a_policy_is_rolled_back_with_its_transaction(fleet: Fleet) -> None:
    """POL-1, W9."""
    ana = fleet["ana"]
    ana.execute("BEGIN")
    ana.set_policy("site", merge="row")
    ana.execute("SAVEPOINT s")
    ana.set_policy("site", on_delete="wins")
    ana.execute("ROLLBACK TO s")
    ana.execute("COMMIT")

    assert ana.query("SELECT * FROM klal_policies") == [("site", "row", "revive")]
    fleet.gather()
    agree(fleet)


@pytest.mark.parametrize("words", ["MERGE TABLE", "ON DELETE CASCADE", "MERGE ROW, ON DELETE WINS"])
def test_another_word_is_refused(fleet: Fleet, words: str) -> None:
    """POL-1."""
    with pytest.raises(UsageError):
        fleet["ana"].execute(f"ALTER TABLE site SET {words}")
    with pytest.raises(UsageError):
        fleet["ana"].set_policy("site", merge="column")
    with pytest.raises(UsageError):
        fleet["ana"].set_policy("site")


@pytest.mark.parametrize("name", ["site", '"site"', "[site]", "`site`", "SITE"])
def test_a_policy_names_its_table_as_sql_does(fleet: Fleet, name: str) -> None:
    """POL-1."""
    fleet["ana"].execute(f"  alter table {name}\n set merge by row ; -- so")

    assert fleet["ana"].query('SELECT "merge" FROM klal_policies') == [("row",)]


# -- settling --------------------------------------------------------------------------------


def settled(fleet: Fleet, settle: Callable[[Replica, str], object]) -> Replica:
    """Settle ben's only conflict there, and return ana's side of it."""
    (conflict,) = fleet["ben"].conflicts()
    assert conflict.id == fleet["ana"].conflicts()[0].id
    settle(fleet["ben"], conflict.id)
    fleet.gather()
    agree(fleet)
    assert not fleet["ana"].conflicts()
    return fleet["ana"]


def test_a_conflict_is_settled_with_the_value_that_shows_already(fleet: Fleet) -> None:
    """S31, MRG-5: a write that changes nothing is made all the same."""
    shown = apart(fleet, "UPDATE site SET name = 'Ana'", "UPDATE site SET name = 'Ben'")
    name = cell(shown, "name")

    assert cell(settled(fleet, lambda ben, it: ben.resolve(it, name)), "name") == name


def test_a_conflict_is_settled_with_another_value_or_none(fleet: Fleet) -> None:
    """S31."""
    apart(fleet, "UPDATE site SET name = 'Ana'", "UPDATE site SET name = 'Ben'")
    assert cell(settled(fleet, lambda ben, it: ben.resolve(it, "both")), "name") == "both"

    apart(fleet, "UPDATE site SET name = 'Ana'", "UPDATE site SET name = 'Ben'")
    assert cell(settled(fleet, lambda ben, it: ben.resolve(it, None)), "name") is None


def test_a_conflict_is_settled_by_keeping_or_deleting(fleet: Fleet) -> None:
    """S31."""
    apart(fleet, "UPDATE site SET name = 'Ana'", "UPDATE site SET name = 'Ben'")
    kept = settled(fleet, lambda ben, it: ben.resolve(it, keep=True))
    assert cell(kept, "name") in ("Ana", "Ben")

    apart(fleet, "UPDATE site SET name = 'x'", "UPDATE site SET name = 'y'")
    assert not settled(fleet, lambda ben, it: ben.resolve(it, delete=True)).query("SELECT * FROM site")


def test_a_lost_delete_is_settled_by_keeping_the_row_or_deleting_it(fleet: Fleet) -> None:
    """S21, MRG-6."""
    apart(fleet, "DELETE FROM site", "UPDATE site SET name = 'Ben'")
    with pytest.raises(UsageError):
        fleet["ben"].resolve(fleet["ben"].conflicts()[0], "a value")
    assert cell(settled(fleet, lambda ben, it: ben.resolve(it, keep=True)), "name") == "Ben"

    apart(fleet, "DELETE FROM site", "UPDATE site SET name = 'again'")
    assert not settled(fleet, lambda ben, it: ben.resolve(it, delete=True)).query("SELECT * FROM site")


def test_a_deleted_row_is_brought_back_with_the_value_or_confirmed(fleet: Fleet) -> None:
    """S21, MRG-6."""
    fleet["ana"].set_policy("site", on_delete="wins")
    fleet.gather()
    apart(fleet, "DELETE FROM site", "UPDATE site SET name = 'Ben'")
    back = settled(fleet, lambda ben, it: ben.resolve(it, "Ben"))
    assert back.query("SELECT name, nests, notes FROM site") == [("Ben", 10, "seen by all")]

    apart(fleet, "DELETE FROM site", "UPDATE site SET name = 'again'")
    assert not settled(fleet, lambda ben, it: ben.resolve(it, keep=True)).query("SELECT * FROM site")


def test_what_a_counter_was_begun_with_apart_is_settled(fleet: Fleet) -> None:
    """TYP-2."""
    apart(fleet, "INSERT INTO site(id, nests) VALUES('b', 3)", "INSERT INTO site(id, nests) VALUES('b', 4)")
    shown = settled(fleet, lambda ben, it: ben.resolve(it, 7))

    assert shown.query("SELECT nests FROM site WHERE id = 'b'") == [(7,)]


def test_a_settled_conflict_and_a_wrong_word_are_refused(fleet: Fleet) -> None:
    apart(fleet, "UPDATE site SET name = 'Ana'", "UPDATE site SET name = 'Ben'")
    (conflict,) = fleet["ana"].conflicts()
    for wrong in ({}, {"keep": True, "delete": True}, {"value": 1, "keep": True}):
        with pytest.raises(UsageError):
            fleet["ana"].resolve(conflict, **wrong)
    fleet["ana"].resolve(conflict, keep=True)

    with pytest.raises(UsageError):
        fleet["ana"].resolve(conflict, keep=True)
