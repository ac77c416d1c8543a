"""A hostile member declares what no klal would: it is void or harmless, the same at everybody, and a merge goes on."""

from __future__ import annotations

import pytest

from klal.model.acts import AddColumn, CreateIndex, CreateTable, CreateView, Drop, DropColumn, Rename, encode_acts
from klal.model.header import ACTS_TABLE
from klal.model.payload import Kind, Segment, encode_segment
from klal.model.schema import (
    Check,
    Column,
    ForeignKey,
    IndexDefinition,
    IndexTerm,
    TableDefinition,
    ViewDefinition,
    column_id_of,
)
from klal.model.tokens import Token
from tests.attacks.test_peers import SALT, Mallory
from tests.laws.test_schema_any_order import everything_of

KEY = Column("id", "TEXT")


def words(text):
    """Return tokens of words and operators, written with spaces between."""
    return tuple(Token("o" if not word[0].isalpha() else "w", word) for word in text.split())


def bird(fleet):
    """Return the table that was declared as bird, whatever it is called by now."""
    return next(t for t in fleet["ana"]._store.catalog.by_id.values() if t.definition.name == "bird")


def bird_column(fleet, name):
    return next(info.column_id for info in bird(fleet).columns if info.name == name)


def index(fleet, *tokens, name="evil", is_unique=False, condition=()):
    return CreateIndex(IndexDefinition(name, bird(fleet).table_id, (IndexTerm(tokens),), is_unique, condition))


def mass(fleet):
    return Token("c", bird_column(fleet, "mass"))


def table(*columns, **more):
    return CreateTable(TableDefinition("evil", (KEY, *columns), ("id",), **more))


def check(*tokens):
    return table(Column("a", "INT"), checks=(Check("", tokens),))


def generated(*tokens):
    return table(Column("a", "INT", generated=tokens))


# What no SQL or name may come of, at anybody: the whole change has no effect.
VOID = {
    "a word that is no word": lambda f: check(Token("w", "SELECT")),
    "a second statement": lambda f: check(Token("o", ";")),
    "a comment": lambda f: check(Token("v", 1), Token("o", "--")),
    "parentheses that close too soon": lambda f: check(Token("v", 1), Token("o", ")"), Token("o", "(")),
    "a function that is not listed": lambda f: check(Token("f", "load_extension"), *words("( )")),
    "a CHECK that may raise": lambda f: check(Token("f", "json_extract"), Token("o", "("), Token("o", ")")),
    "a pattern that is put together": lambda f: check(
        *(Token("c", "a"), Token("w", "LIKE"), Token("v", "x"), Token("o", "||"), Token("c", "a"))
    ),
    "a CHECK that does not parse": lambda f: check(Token("v", 1), Token("v", 2)),
    "a CHECK of an unknown column": lambda f: check(Token("c", "nobody")),
    "a generated column that may raise": lambda f: generated(Token("f", "abs"), *words("( )")),
    "a generated column of itself": lambda f: generated(Token("c", "a")),
    "a table of klal's": lambda f: CreateTable(TableDefinition("klal_meta", (KEY,), ("id",))),
    "a name that ends as an id": lambda f: Rename(bird(f).table_id, b"", "bird__" + "0" * 32, 1),
    "a renaming without a number": lambda f: Rename(bird(f).table_id, b"", "aves", 0),
    "an id of a wrong size": lambda f: Drop(b"short"),
    "a foreign key to no key of itself": lambda f: table(
        Column("a", "INT"), foreign_keys=(ForeignKey(("a",), b"", ("a",)),)
    ),
    "an index of two terms in one": lambda f: index(f, mass(f), Token("o", ","), mass(f)),
    "an index that does not parse": lambda f: index(f, mass(f), mass(f)),
    "a condition that does not parse": lambda f: index(f, mass(f), condition=(Token("v", 1), Token("v", 2))),
    "a unique index over an expression": lambda f: index(f, mass(f), *words("+"), Token("v", 1), is_unique=True),
    "a view that writes": lambda f: CreateView(ViewDefinition("evil", (), words("DELETE FROM"))),
    "a view of klal's name": lambda f: CreateView(ViewDefinition("klal_violations", (), words("SELECT 1"))),
    "an added column that cannot be added": lambda f: AddColumn(bird(f).table_id, Column("a", "INT", not_null=True)),
    "an added column whose type ends it": lambda f: AddColumn(bird(f).table_id, Column("a", "INT PRIMARY KEY")),
    "an added column whose type is a statement": lambda f: AddColumn(bird(f).table_id, Column("a", "SELECT")),
}

# What is well formed and means mischief: it has no effect or one that all see alike, and nothing stops.
HARMLESS = {
    "a foreign key to nothing": lambda f: table(
        Column("a", "INT"), foreign_keys=(ForeignKey(("a",), b"\x05" * 16, ("x",)),)
    ),
    "a foreign key to no key": lambda f: table(
        Column("a", "INT"), foreign_keys=(ForeignKey(("a",), bird(f).table_id, ("mass",)),)
    ),
    "a key dropped": lambda f: DropColumn(bird(f).table_id, bird_column(f, "id")),
    "an unknown column dropped": lambda f: DropColumn(bird(f).table_id, b"\x01" * 8),
    "an unknown table dropped": lambda f: Drop(b"\x02" * 16),
    "an unknown table renamed": lambda f: Rename(b"\x02" * 16, b"", "bird", 5),
    "the greatest number taken": lambda f: Rename(bird(f).table_id, b"", "aves", 2**31 - 1),
    "a column of an unknown table": lambda f: AddColumn(b"\x02" * 16, Column("a", "INT")),
    "an index over an unknown column": lambda f: index(f, Token("c", b"\x03" * 8)),
    "an index that raises": lambda f: index(
        f,
        Token("f", "json_extract"),
        *words("("),
        Token("c", bird_column(f, "note")),
        *words(","),
        Token("v", "$["),
        *words(")"),
    ),
    "an index that raises on a row": lambda f: index(
        f, Token("f", "json"), *words("("), Token("c", bird_column(f, "note")), *words(")")
    ),
    "an index named as a table": lambda f: index(f, mass(f), name="bird"),
    "a unique index that hides rows": lambda f: index(f, mass(f), is_unique=True),
    "a view of klal's tables": lambda f: CreateView(
        ViewDefinition("evil", (), (*words("SELECT * FROM"), Token("n", "klal_meta")))
    ),
    "a view of itself": lambda f: CreateView(ViewDefinition("evil", (), (*words("SELECT * FROM"), Token("n", "evil")))),
    "a view of the violations": lambda f: CreateView(
        ViewDefinition("evil", (), (*words("SELECT * FROM"), Token("n", "klal_violations")))
    ),
    "a view named as a table": lambda f: CreateView(ViewDefinition("BIRD", (), (Token("w", "SELECT"), Token("v", 1)))),
    "a column named as klal's passing names": lambda f: AddColumn(
        bird(f).table_id, Column("klal_renamed_" + bird_column(f, "mass").hex(), "INT")
    ),
    "a column of the key's name": lambda f: AddColumn(bird(f).table_id, Column("id", "TEXT")),
    "a generated column in a unique index": lambda f: _unique_of_generated(),
}


def _unique_of_generated():
    made = table(Column("a", "INT"), Column("b", "INT", generated=(Token("c", "a"),)))
    column_id = column_id_of(made.definition.table_id, made.definition.columns[2])
    definition = IndexDefinition("evil_b", made.definition.table_id, (IndexTerm((Token("c", column_id),)),), True)
    return made, CreateIndex(definition)


def declared(fleet, mallory, acts, to):
    """Let mallory declare acts, and insert a bird in the same change, before and after others have written."""
    acts = acts if isinstance(acts, tuple) else (acts,)
    mallory.write({ACTS_TABLE: encode_acts(acts, SALT), **mallory.rows("ana", "m", note="{")})
    for name in to:
        assert mallory.push(name) == []


@pytest.mark.parametrize("name", [*VOID, *HARMLESS])
def test_hostile_schema_acts_are_void_or_harmless_everywhere(fleet, name):
    """T38 T41 SCH-4 SCH-5 SCH-6 SCH-7 SCH-8."""
    acts = {**VOID, **HARMLESS}[name](fleet)
    mallory = Mallory(fleet).join()
    # Ana hears of it first, and ben only once he has renamed, dropped and written apart.
    declared(fleet, mallory, acts, ["ana"])
    fleet["ana"].execute(f"UPDATE \"{bird(fleet).name}\" SET mass = 7 WHERE id = 'ben'")
    fleet["ben"].execute("ALTER TABLE bird RENAME COLUMN mass TO weight")
    fleet["ben"].execute("INSERT INTO bird VALUES('b2', 1, '{}')")
    fleet["ben"].execute("ALTER TABLE bird DROP COLUMN note")
    mallory.push("ben")
    fleet.gather()

    assert everything_of(fleet["ana"]) == everything_of(fleet["ben"])
    states = fleet["ana"].query("SELECT state FROM klal_changes WHERE member = 'mallory' ORDER BY arrival")
    assert states[-1] == (("without effect",) if name in VOID else ("applied",))
    fleet["ana"].execute(f'ALTER TABLE "{bird(fleet).name}" RENAME TO fowl')
    fleet.gather()
    fleet.join("eve")
    fleet.gather(["ana", "eve"])
    assert everything_of(fleet["eve"])[1:] == everything_of(fleet["ana"])[1:]
    for replica in fleet.replicas.values():
        assert "fowl" in replica.tables()
        assert replica.query("SELECT count(*) FROM klal_violations")
        replica.verify()


def test_an_update_of_nothing_but_what_was_dropped_comes_to_the_same_wherever_it_is_heard(fleet):
    """SCH-9 MRG-4: of a row that nobody inserted, from a faulty writer."""
    note = bird_column(fleet, "note")
    segment = Segment(Kind.UPDATE, (note,), [["nobody"]], [["x"]], None)
    mallory = Mallory(fleet).join()
    mallory.write({bird(fleet).table_id: SALT + encode_segment(segment)})
    mallory.push("ana")
    fleet["ben"].execute("ALTER TABLE bird DROP COLUMN note")
    mallory.push("ben")
    fleet.gather()

    assert everything_of(fleet["ana"]) == everything_of(fleet["ben"])
    for replica in fleet.replicas.values():
        replica.verify()
