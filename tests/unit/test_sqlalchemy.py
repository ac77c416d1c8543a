"""SQLAlchemy over klal: what its ORM and Core do of themselves works, and what klal refuses is said."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy import exc, orm
from sqlalchemy.dialects import sqlite

import klal
from tests.helpers.naughty import NAMES, STRINGS


class Base(orm.DeclarativeBase):
    pass


class Island(Base):
    __tablename__ = "island"
    name: orm.Mapped[str] = orm.mapped_column(sa.String(50), primary_key=True)
    # A relationship needs to know the columns, and no constraint in the table.
    penguins: orm.Mapped[list[Penguin]] = orm.relationship(
        primaryjoin="foreign(Penguin.island_name) == Island.name", back_populates="island", cascade="all, delete-orphan"
    )


class Penguin(Base):
    __tablename__ = "penguin"
    id: orm.Mapped[str] = orm.mapped_column(primary_key=True, default=klal.new_id)
    island_name: orm.Mapped[str | None]
    mass_g: orm.Mapped[int | None] = orm.mapped_column(server_default=sa.text("3000"))
    version: orm.Mapped[int] = orm.mapped_column()
    island: orm.Mapped[Island | None] = orm.relationship(
        primaryjoin="foreign(Penguin.island_name) == Island.name", back_populates="penguins"
    )
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - as SQLAlchemy declares it


class Visit(Base):
    __tablename__ = "visit"
    id: orm.Mapped[str] = orm.mapped_column(primary_key=True, server_default=sa.text("(klal_id())"))
    day: orm.Mapped[dt.date]


@pytest.fixture
def make_engine(tmp_path):
    """Make files of one space, and engines on them by member."""
    engines = []
    with klal.create(tmp_path / "ana.db", space="s", member="ana", home=tmp_path / "home") as ana:
        ticket = ana.invite()
    klal.join(tmp_path / "ben.db", ticket, member="ben", home=tmp_path / "home").close()

    def make(member="ana", **options):
        url = f"klal:///{tmp_path}/{member}.db?home={tmp_path}/home&member={member}"
        engines.append(sa.create_engine(url, **options))
        return engines[-1]

    yield make
    for engine in engines:
        engine.dispose()


@pytest.fixture
def engine(make_engine):
    engine = make_engine()
    Base.metadata.create_all(engine)
    return engine


@pytest.fixture
def session(engine):
    with orm.Session(engine) as session:
        yield session


def replica_of(engine):
    with engine.connect() as connection:
        return connection.connection.dbapi_connection.replica


def synced(a, b):
    """Let two engines' files meet, and see that both hold the same."""
    replica_of(a).sync(replica_of(b).path)
    report = replica_of(b).sync(replica_of(a).path)
    assert report.refused == ()
    assert report.equal


# -- the engine --------------------------------------------------------------------------


def test_the_url_names_a_file_a_home_and_a_member(engine):
    assert engine.dialect.driver == "klal"
    assert engine.dialect.name == "sqlite"
    assert replica_of(engine).member_name == "ana"


@pytest.mark.parametrize("url", ["klal://", "klal:///", "klal://host/a.db", "klal:///a.db?mode=ro"])
def test_a_url_that_names_no_file_or_too_much_is_refused(url):
    with pytest.raises(exc.ArgumentError, match="klal"):
        sa.create_engine(url).connect()


def test_a_file_that_is_not_there_is_an_error_of_the_drivers(tmp_path):
    with pytest.raises(exc.ProgrammingError, match="does not exist"):
        sa.create_engine(f"klal:///{tmp_path}/nothing.db").connect()


def test_create_all_is_one_change_and_again_is_none(engine):
    log = replica_of(engine).log()
    Base.metadata.create_all(engine)

    assert len(replica_of(engine).log()) == len(log)
    assert replica_of(engine).tables() == ["island", "penguin", "visit"]
    assert [len(entry.acts) for entry in log].count(3) == 1


def test_autocommit_is_an_isolation_level(engine):
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.insert(Island).values(name="Dream"))
        connection.rollback()
        assert connection.scalars(sa.select(Island.name)).all() == ["Dream"]
    with engine.connect() as connection:
        assert connection.get_isolation_level() == "SERIALIZABLE"
        connection.execute(sa.insert(Island).values(name="Biscoe"))
        connection.rollback()
        assert connection.scalars(sa.select(Island.name)).all() == ["Dream"]


def test_a_connection_whose_file_was_closed_is_replaced(make_engine):
    engine = make_engine(pool_pre_ping=True)
    with engine.connect() as connection:
        connection.connection.dbapi_connection.close()
        with pytest.raises(exc.ProgrammingError, match="closed") as caught:
            connection.execute(sa.text("SELECT 1"))

    assert caught.value.connection_invalidated
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1


# -- the ORM -----------------------------------------------------------------------------


def test_rows_are_added_changed_and_deleted_through_objects(session):
    dream = Island(name="Dream", penguins=[Penguin(mass_g=3750), Penguin()])
    session.add(dream)
    session.commit()
    assert {len(penguin.id) for penguin in dream.penguins} == {26}
    assert sorted(penguin.mass_g for penguin in dream.penguins) == [3000, 3750]

    dream.penguins[0].mass_g = 3800
    dream.penguins.pop()
    session.commit()
    session.expire_all()
    ((name, mass),) = session.execute(sa.select(Island.name, Penguin.mass_g).join(Island.penguins)).all()
    assert (name, mass) == ("Dream", 3800)

    session.delete(dream)
    session.commit()
    assert session.scalars(sa.select(Penguin)).all() == []


def test_relationships_load_in_each_way(session):
    session.add(Island(name="Dream", penguins=[Penguin(mass_g=n) for n in range(3)]))
    session.commit()

    for load in (orm.joinedload, orm.selectinload, orm.subqueryload, orm.lazyload):
        session.expunge_all()
        (island,) = session.scalars(sa.select(Island).options(load(Island.penguins))).unique()
        assert sorted(penguin.mass_g for penguin in island.penguins) == [0, 1, 2]
        assert island.penguins[0].island is island


def test_a_commit_is_one_change_and_a_rollback_none(session, engine):
    before = len(replica_of(engine).log())
    session.add_all([Island(name="Dream"), Penguin(), Visit(day=dt.date(2009, 11, 16))])
    session.flush()
    session.add(Island(name="Biscoe"))
    session.commit()
    session.add(Island(name="Torgersen"))
    session.flush()
    session.rollback()

    assert len(replica_of(engine).log()) == before + 1
    assert session.scalars(sa.select(Island.name).order_by(Island.name)).all() == ["Biscoe", "Dream"]


def test_nested_transactions_roll_back_by_themselves(session):
    with session.begin_nested():
        session.add(Island(name="Dream"))
    nested = session.begin_nested()
    session.add(Penguin(id="lost"))
    session.flush()
    with pytest.raises(exc.IntegrityError, match=r"island\.name"):
        session.execute(sa.insert(Island).values(name="Dream"))
    nested.rollback()
    session.add(Island(name="Biscoe"))
    with session.begin_nested():
        session.add(Penguin(id="kept"))
    session.commit()

    assert session.scalars(sa.select(Island.name).order_by(Island.name)).all() == ["Biscoe", "Dream"]
    assert session.scalars(sa.select(Penguin.id)).all() == ["kept"]


def test_a_key_with_a_server_default_is_read_back_with_returning(session):
    visits = [Visit(day=dt.date(2009, 11, day)) for day in (16, 17, 18)]
    session.add_all(visits)
    session.flush()

    assert len({visit.id for visit in visits}) == 3
    assert {len(visit.id) for visit in visits} == {26}


def test_a_stale_object_is_found_by_its_version(session, engine):
    """The count of changed rows is what the ORM goes by."""
    session.add(Penguin(id="a", mass_g=1))
    session.commit()
    penguin = session.get(Penguin, "a")
    assert penguin.version == 1
    with orm.Session(engine) as other:
        other.get(Penguin, "a").mass_g = 2
        other.commit()
    penguin.mass_g = 3

    with pytest.raises(orm.exc.StaleDataError):
        session.flush()


def test_bulk_inserts_updates_and_deletes(session, engine):
    rows = [{"id": f"p{n:04}", "mass_g": n, "version": 1} for n in range(3000)]
    before = len(replica_of(engine).log())
    session.execute(sa.insert(Penguin), rows)
    session.commit()
    assert len(replica_of(engine).log()) == before + 1
    assert session.scalar(sa.select(sa.func.count()).select_from(Penguin)) == 3000

    turned = sa.update(Penguin.__table__).where(Penguin.id == sa.bindparam("key")).values(mass_g=sa.bindparam("mass"))
    done = session.connection().execute(turned, [{"key": row["id"], "mass": -row["mass_g"]} for row in rows[:100]])
    assert done.rowcount == 100
    assert session.execute(sa.update(Penguin).where(Penguin.mass_g < 0).values(mass_g=0)).rowcount == 99
    assert session.execute(sa.delete(Penguin).where(Penguin.mass_g == 0)).rowcount == 100
    session.commit()
    replica_of(engine).verify()


def test_threads_write_through_one_engine(engine):
    """Each has a connection of its own from the pool; the file lets one write at a time, and the others wait."""

    def write(thread):
        for n in range(10):
            with orm.Session(engine) as session:
                session.add(Penguin(id=f"{thread}-{n}"))
                session.commit()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))

    with orm.Session(engine) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Penguin)) == 40
    assert len({entry.change.log_id for entry in replica_of(engine).log()}) == 1
    replica_of(engine).verify()


# -- Core --------------------------------------------------------------------------------


def test_returning_gives_what_was_written_in_order(engine):
    with engine.begin() as connection:
        rows = [{"id": f"p{n}", "mass_g": n, "version": 1} for n in range(2500)]
        inserted = connection.execute(
            sa.insert(Penguin).returning(Penguin.id, Penguin.mass_g, sort_by_parameter_order=True), rows
        ).all()
        updated = connection.execute(
            sa.update(Penguin).where(Penguin.mass_g < 2).values(mass_g=Penguin.mass_g + 10).returning(Penguin.mass_g)
        ).all()
        deleted = connection.execute(sa.delete(Penguin).where(Penguin.mass_g > 2).returning(Penguin.id)).all()

    assert inserted == [(row["id"], row["mass_g"]) for row in rows]
    assert sorted(updated) == [(10,), (11,)]
    assert len(deleted) == 2499


def test_what_is_written_for_sqlite_works(engine):
    """Upserts, JSON paths, casts and common table expressions of the SQLite dialect."""
    insert = sqlite.insert(Penguin).values(id="a", mass_g=1, version=1)
    with engine.begin() as connection:
        connection.execute(insert)
        connection.execute(insert.on_conflict_do_nothing())
        connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_={"mass_g": 2}))
        found = connection.execute(
            sa.select(Penguin.mass_g, sa.cast(Penguin.mass_g, sa.Text), sa.literal("x").label("Odd Name"))
        )
        assert list(found.keys())[::2] == ["mass_g", "Odd Name"]
        assert found.all() == [(2, "2", "x")]
        numbers = sa.select(sa.literal(1).label("n")).cte("numbers", recursive=True)
        numbers = numbers.union_all(sa.select(numbers.c.n + 1).where(numbers.c.n < 5))
        assert connection.scalar(sa.select(sa.func.sum(numbers.c.n))) == 15


def test_types_come_back_as_they_went_in_here_and_elsewhere(make_engine):
    """T42."""

    class Colour(enum.Enum):
        BLACK = 1

    metadata = sa.MetaData()
    table = sa.Table(
        "every",
        metadata,
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("big", sa.BigInteger),
        sa.Column("real", sa.Float),
        sa.Column("money", sa.Numeric(10, 2, asdecimal=True)),
        sa.Column("flag", sa.Boolean),
        sa.Column("day", sa.Date),
        sa.Column("moment", sa.DateTime),
        sa.Column("hour", sa.Time),
        sa.Column("span", sa.Interval),
        sa.Column("blob", sa.LargeBinary),
        sa.Column("text", sa.Text),
        sa.Column("data", sa.JSON),
        sa.Column("colour", sa.Enum(Colour)),
        sa.Column("pickled", sa.PickleType),
    )
    row = {
        "id": uuid.UUID(int=7),
        "big": 2**63 - 1,
        "real": 0.1 + 0.2,
        "money": decimal.Decimal("12.50"),
        "flag": True,
        "day": dt.date(2009, 11, 16),
        "moment": dt.datetime(2009, 11, 16, 8, 30, 0, 250),  # noqa: DTZ001 - SQLite has no zones
        "hour": dt.time(8, 30),
        "span": dt.timedelta(hours=3),
        "blob": b"\0\xff",
        "text": "a\0b",
        "data": {"a": [1, None, "\u05d0"]},
        "colour": Colour.BLACK,
        "pickled": {"a": 1},
    }
    ana, ben = make_engine("ana"), make_engine("ben")
    metadata.create_all(ana)
    with ana.begin() as connection:
        connection.execute(sa.insert(table), [row, {**dict.fromkeys(row), "id": uuid.UUID(int=8), "data": sa.null()}])
    synced(ana, ben)

    for engine in (ana, ben):
        with engine.connect() as connection:
            first, second = connection.execute(sa.select(table).order_by(table.c.id)).mappings().all()
        assert dict(first) == row
        assert set(second.values()) == {uuid.UUID(int=8), None}


def test_every_storage_class_is_carried_exactly(make_engine):
    """T42: through a column without a type, which stores each value as it is."""
    values = [None, 0, -1, 2**63 - 1, -(2**63), -0.0, 5e-324, float("inf"), "", "1", b"", b"\0", *STRINGS]
    ana, ben = make_engine("ana"), make_engine("ben")
    with ana.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE v(id INT PRIMARY KEY, value)")
    table = sa.Table("v", sa.MetaData(), autoload_with=ana)
    with ana.begin() as connection:
        connection.execute(sa.insert(table), [{"id": number, "value": value} for number, value in enumerate(values)])
    synced(ana, ben)

    for engine in (ana, ben):
        with engine.connect() as connection:
            found = connection.scalars(sa.select(table.c.value).order_by(table.c.id)).all()
        assert list(map(repr, found)) == list(map(repr, values))


def test_a_number_beyond_64_bits_and_a_lone_surrogate_are_data_errors(engine):
    """T42."""
    for value in ({"mass_g": 2**63}, {"mass_g": -(2**63) - 1}, {"island_name": "\udfff"}):
        with pytest.raises(exc.DataError, match=r"cannot be stored|not valid Unicode"), engine.begin() as connection:
            connection.execute(sa.insert(Penguin).values(id="a", version=1, **value))


def test_naughty_names_are_created_written_and_reflected(make_engine):
    """T42."""
    ana, ben = make_engine("ana"), make_engine("ben")
    metadata = sa.MetaData()
    tables = [
        sa.Table(
            f"{number} {name}",
            metadata,
            sa.Column(name, sa.Text, primary_key=True, quote=True),  # Its list of SQLite's keywords has gaps.
            sa.Column(f"{name}+", sa.Text),
        )
        for number, name in enumerate(NAMES)
    ]
    metadata.create_all(ana)
    with ana.begin() as connection:
        for table, name in zip(tables, NAMES, strict=True):
            connection.execute(sa.insert(table).values({name: name}))
            connection.execute(sa.update(table).where(table.c[name] == name).values({f"{name}+": "x"}))
    synced(ana, ben)

    reflected = sa.MetaData()
    reflected.reflect(ben)
    assert set(reflected.tables) == set(metadata.tables)
    with ben.connect() as connection:
        for table, name in zip(tables, NAMES, strict=True):
            assert [column.name for column in reflected.tables[table.name].columns] == [name, f"{name}+"]
            assert connection.execute(sa.select(table)).all() == [(name, "x")]


# -- reflection --------------------------------------------------------------------------


def test_a_schema_is_read_back_as_it_was_declared(engine):
    reflected = sa.MetaData()
    reflected.reflect(engine)
    assert sorted(reflected.tables) == ["island", "penguin", "visit"]
    penguin = reflected.tables["penguin"]
    assert [column.name for column in penguin.primary_key] == ["id"]
    assert [(column.name, column.nullable) for column in penguin.columns] == [
        ("id", False),
        ("island_name", True),
        ("mass_g", True),
        ("version", False),
    ]
    assert str(penguin.c.mass_g.server_default.arg) == "3000"
    assert str(reflected.tables["visit"].c.id.server_default.arg) == "klal_id()"


def test_the_inspector_answers_every_question(engine):
    found = sa.inspect(engine)

    assert found.get_table_names() == ["island", "penguin", "visit"]
    assert "klal_conflicts" in found.get_view_names()
    assert found.has_table("penguin")
    assert not found.has_table("nowhere")
    assert found.get_schema_names() == ["main"]
    assert found.get_pk_constraint("penguin")["constrained_columns"] == ["id"]
    assert found.get_foreign_keys("penguin") == []
    assert found.get_indexes("penguin") == []
    assert found.get_unique_constraints("penguin") == []
    assert found.get_check_constraints("penguin") == []
    assert [column["name"] for column in found.get_columns("klal_members")] == ["member_id", "name"]
    assert "SELECT" in found.get_view_definition("klal_members")


def test_klals_views_are_read_as_tables(engine):
    members = sa.Table("klal_members", sa.MetaData(), autoload_with=engine)
    with engine.connect() as connection:
        assert connection.scalars(sa.select(members.c.name)).all() == ["ana"]


@pytest.mark.parametrize(
    "pragma",
    ["table_info", "table_xinfo", "foreign_key_list", "index_list", "index_info", "index_xinfo"],
)
def test_the_pragmas_that_reflection_reads_may_be_read(engine, pragma):
    with engine.connect() as connection:
        connection.exec_driver_sql(f'PRAGMA main.{pragma}("penguin")').all()
        connection.exec_driver_sql(f"SELECT * FROM pragma_{pragma}('penguin')").all()
        assert connection.exec_driver_sql("PRAGMA table_list").all()
        assert connection.exec_driver_sql("PRAGMA database_list").all()


# -- what is refused ---------------------------------------------------------------------


def refused(engine, *columns, match):
    metadata = sa.MetaData()
    sa.Table("refused", metadata, *columns)
    with pytest.raises(exc.NotSupportedError, match=match):
        metadata.create_all(engine)
    assert "refused" not in replica_of(engine).tables()


def test_a_key_that_numbers_itself_is_refused_with_the_way_out(engine):
    refused(
        engine, sa.Column("id", sa.Integer, primary_key=True), match="two replicas apart would hand out the same number"
    )
    refused(
        engine, sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True), match="numbers"
    )


def test_a_table_without_a_key_is_refused(engine):
    refused(engine, sa.Column("x", sa.Text), match="no primary key")


def test_dropping_all_tables_drops_the_users_and_none_of_klals(engine):
    Base.metadata.drop_all(engine)

    assert replica_of(engine).tables() == []
    replica_of(engine).verify()


# -- two members -------------------------------------------------------------------------


def test_objects_of_two_members_meet(make_engine):
    ana, ben = make_engine("ana"), make_engine("ben")
    Base.metadata.create_all(ana)
    Base.metadata.create_all(ben)  # Declared apart, and the same.
    with orm.Session(ana) as session:
        session.add(Island(name="Dream", penguins=[Penguin(id="a", mass_g=1)]))
        session.commit()
    synced(ana, ben)
    with orm.Session(ben) as session:
        session.get(Penguin, "a").mass_g = 2
        session.add(Penguin(id="b", island=session.get(Island, "Dream")))
        session.commit()
    synced(ana, ben)

    with orm.Session(ana) as session:
        assert [(p.id, p.mass_g) for p in session.get(Island, "Dream").penguins] == [("a", 2), ("b", 3000)]
