"""A replica as Python's own database interface: DB-API 2 (PEP 249), for ORMs, pandas and whatever else speaks it.

    connection = klal.dbapi.connect("season.db")
    connection.execute("UPDATE penguin SET body_mass_g = ? WHERE id = ?", (3800, "N2A1"))
    connection.commit()                                 # one transaction, one change

The one choice a reader would question: a transaction begins with the first statement that writes, and not with the
first one at all. klal has write transactions only, and a program that has merely read must not keep everybody else from
writing until it says commit. Whoever reads in order to write what follows from it says BEGIN first.

Law: whatever the statement and its values, a method raises an exception of this module, with klal's own as its cause.

Source:
    PEP 249. Decision 0024.
"""

from __future__ import annotations

import datetime as dt
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import klal.api
from klal.errors import ConstraintError, KlalError, StoreError, TransportError, UnsupportedError, UsageError
from klal.model.schema import affinity_of, fold
from klal.replica import Replica
from klal.reports import Result
from klal.store.sql import SQLITE_VERSION
from klal.store.sqltext import first_word

__all__ = [
    "BINARY",
    "DATETIME",
    "NUMBER",
    "ROWID",
    "STRING",
    "Binary",
    "Connection",
    "Cursor",
    "DataError",
    "DatabaseError",
    "Date",
    "DateFromTicks",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "ProgrammingError",
    "Row",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "Warning",
    "apilevel",
    "connect",
    "paramstyle",
    "sqlite_version",
    "sqlite_version_info",
    "threadsafety",
]

apilevel = "2.0"
threadsafety = 1  # Threads may share the module and not a connection.
paramstyle = "qmark"  # Named parameters (:name, with a mapping) are taken too.

sqlite_version = SQLITE_VERSION
sqlite_version_info = tuple(map(int, SQLITE_VERSION.split(".")))

Parameters = Sequence[Any] | Mapping[str, Any]
RowFactory = Callable[["Cursor", tuple[Any, ...]], Any]

# These end a transaction or begin one themselves, so none is begun for them.
_TRANSACTION_WORDS = frozenset(["BEGIN", "COMMIT", "END", "ROLLBACK", "RELEASE"])
_WRITE_WORDS = frozenset(["INSERT", "UPDATE", "DELETE", "REPLACE", "WITH"])
# What SQLite stores as it is. Not everything with a buffer: a numpy integer has one, and would become a blob.
_PLAIN = frozenset([type(None), int, float, str, bytes, bool, bytearray, memoryview])


# -- exceptions --------------------------------------------------------------------------


class Warning(Exception):  # noqa: A001, N818 - the name PEP 249 gives it
    """Never raised; PEP 249 asks for it."""


class Error(Exception):
    """What every exception of this module is. `__cause__` is klal's own, with its `hint`, where there is one."""


class InterfaceError(Error):
    """Never raised: what goes wrong goes wrong in the database."""


class DatabaseError(Error):
    """What the database raises."""


class DataError(DatabaseError):
    """A value that no column can store: a number beyond 64 bits, text that is not Unicode, another type."""


class OperationalError(DatabaseError):
    """The file or the disk failed, or another process is writing."""


class IntegrityError(DatabaseError):
    """A row breaks a constraint of its table; the statement was undone."""


class InternalError(DatabaseError):
    """Never raised: a bug of klal's is not dressed up."""


class ProgrammingError(DatabaseError):
    """The statement or the call is wrong."""


class NotSupportedError(DatabaseError):
    """SQL that klal cannot replicate, in a sentence that says so."""


@contextmanager
def _translated() -> Iterator[None]:
    """Turn klal's errors inside the block into those of PEP 249, chained."""
    try:
        yield
    except KlalError as error:
        raise _error_of(error)(error.message) from error


def _error_of(error: KlalError) -> type[DatabaseError]:
    if isinstance(error, ConstraintError):
        return IntegrityError
    if isinstance(error, UnsupportedError):
        return NotSupportedError
    if isinstance(error, UsageError):
        # The writer chains the values that no binding takes.
        return DataError if isinstance(error.__cause__, OverflowError | UnicodeError) else ProgrammingError
    return OperationalError if isinstance(error, StoreError | TransportError) else DatabaseError


# -- types -------------------------------------------------------------------------------

Date = dt.date
Time = dt.time
Timestamp = dt.datetime
Binary = memoryview


def DateFromTicks(ticks: float) -> dt.date:  # noqa: N802 - the name PEP 249 gives it
    """Return the local date at that many seconds after 1970."""
    return dt.date.fromtimestamp(ticks)  # noqa: DTZ012 - PEP 249 means local time


def TimeFromTicks(ticks: float) -> dt.time:  # noqa: N802 - the name PEP 249 gives it
    """Return the local time of day at that many seconds after 1970."""
    return TimestampFromTicks(ticks).time()


def TimestampFromTicks(ticks: float) -> dt.datetime:  # noqa: N802 - the name PEP 249 gives it
    """Return the local date and time at that many seconds after 1970."""
    return dt.datetime.fromtimestamp(ticks)  # noqa: DTZ006 - PEP 249 means local time


class _Kind:
    """A type object: equal to every declared type, as `Cursor.description` gives it, of its kind."""

    __hash__ = None  # type: ignore[assignment]  # It equals strings that differ from each other.

    def __init__(self, name: str) -> None:
        self._name = name

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, str) and _kind_of(other) == self._name)

    def __repr__(self) -> str:
        return f"klal.dbapi.{self._name}"


def _kind_of(declared_type: str) -> str:
    upper = declared_type.upper()
    if "DATE" in upper or "TIME" in upper:
        return "DATETIME"
    return {"TEXT": "STRING", "BLOB": "BINARY"}.get(affinity_of(upper), "NUMBER")


STRING = _Kind("STRING")
BINARY = _Kind("BINARY")
NUMBER = _Kind("NUMBER")
DATETIME = _Kind("DATETIME")
ROWID = _Kind("ROWID")  # Equal to no column: two replicas number rows apart.


def _bound(parameters: Any) -> Any:
    """Return parameters with every value as SQLite stores it.

    Raises:
        ProgrammingError: No sequence or mapping. DataError: A value of a type that no column can store.
    """
    if isinstance(parameters, Mapping):
        return {name: _stored(value) for name, value in parameters.items()}
    if isinstance(parameters, str | bytes) or not isinstance(parameters, Iterable):
        raise ProgrammingError(f"parameters are {type(parameters).__name__}, want a sequence or a mapping")
    row = tuple(parameters)
    return row if _PLAIN.issuperset(map(type, row)) else tuple(map(_stored, row))


def _stored(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, dt.datetime):
        return value.isoformat(" ")  # As sqlite3 writes it, and SQLite's own date functions read it.
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational):
        return float(value)
    raise DataError(
        f"a value of type {type(value).__name__} cannot be stored, want None, a number, text, bytes or a date"
    )


class Row(tuple[Any, ...]):  # noqa: SLOT001 - a tuple's subclass can have none but empty slots
    """A row whose values are found by name too: `connection.row_factory = klal.dbapi.Row`.

    Names are compared as SQLite compares them, without regard to the case of ASCII letters.
    Of two columns with one name, the first is found.
    """

    _names: tuple[str, ...]

    def __new__(cls, cursor: Cursor, values: tuple[Any, ...]) -> Self:
        row = super().__new__(cls, values)
        row._names = cursor._names
        return row

    def __getitem__(self, place: Any) -> Any:
        if not isinstance(place, str):
            return super().__getitem__(place)
        folded = fold(place)
        for name, value in zip(self._names, self, strict=True):
            if fold(name) == folded:
                return value
        raise IndexError(f"the row has no column {place}, only {', '.join(self._names)}")

    def keys(self) -> list[str]:
        """Return the names of the columns, in order."""
        return list(self._names)


# -- connections -------------------------------------------------------------------------


def connect(
    path: str | Path, *, home: str | Path | None = None, member: str | None = None, autocommit: bool = False
) -> Connection:
    """Open a klal file.

    Args:
        path: Of a file that `klal.create` or `klal.join` made.
        home: Folder that keeps keys and fences; the user's configuration folder by default.
        member: Whose key to use when the home has several for this space.
        autocommit: Commit every statement by itself.

    Raises:
        Error: As for any other call. ProgrammingError where there is no such file.
    """
    with _translated():
        replica = klal.api.open(path, home=home, member=member)
    return Connection(replica, autocommit=autocommit)


class Connection:
    """A replica, opened; closing the connection closes it.

    As a context manager it is a transaction, as with sqlite3: committed at the end of the block, rolled back where the
    block raises. It stays open; `contextlib.closing` closes.

    Args:
        replica: Open, and outside a transaction. Its other methods are at `connection.replica`: sync, status, finish.
        autocommit: Commit every statement by itself.
    """

    Warning: ClassVar = Warning
    Error: ClassVar = Error
    InterfaceError: ClassVar = InterfaceError
    DatabaseError: ClassVar = DatabaseError
    DataError: ClassVar = DataError
    OperationalError: ClassVar = OperationalError
    IntegrityError: ClassVar = IntegrityError
    InternalError: ClassVar = InternalError
    ProgrammingError: ClassVar = ProgrammingError
    NotSupportedError: ClassVar = NotSupportedError

    row_factory: RowFactory | None = None
    """Makes what `fetchone` gives of (cursor, tuple); None gives the tuple."""

    def __init__(self, replica: Replica, *, autocommit: bool = False) -> None:
        self._replica: Replica | None = replica
        self._autocommit = autocommit

    @property
    def replica(self) -> Replica:
        """The replica.

        Raises:
            ProgrammingError: The connection is closed.
        """
        self._check_open()
        assert self._replica is not None, "it is open"
        return self._replica

    def _check_open(self) -> None:
        """Return if the connection is open.

        Raises:
            ProgrammingError: It is closed.
        """
        if self._replica is None:
            raise ProgrammingError("the connection is closed")

    @property
    def autocommit(self) -> bool:
        """True when every statement commits by itself; setting it to True commits what is pending."""
        return self._autocommit

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        if value:
            self.commit()
        self._autocommit = bool(value)

    @property
    def in_transaction(self) -> bool:
        """True while something waits to be committed or rolled back."""
        return self.replica.in_transaction

    def cursor(self) -> Cursor:
        """Return a new cursor. Those of one connection share its transaction."""
        self._check_open()
        return Cursor(self)

    def execute(self, sql: str, parameters: Parameters = ()) -> Cursor:
        """Run a statement on a new cursor and return that, as sqlite3 does."""
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> Cursor:
        """Run a statement for each row of parameters on a new cursor and return that, as sqlite3 does."""
        return self.cursor().executemany(sql, rows)

    def commit(self) -> None:
        """Make what was written since the last commit one change; nothing where nothing was written."""
        self._end("COMMIT")

    def rollback(self) -> None:
        """Undo what was written since the last commit."""
        self._end("ROLLBACK")

    def _end(self, word: str) -> None:
        replica = self.replica
        if replica.in_transaction:
            with _translated():
                replica.execute(word)

    def _run(self, sql: str, work: Callable[[Replica], Result]) -> Result:
        """Run one statement's work, in a transaction that is begun for it unless it reads or one is open.

        A statement that fails leaves no transaction behind that was begun for it.
        """
        replica = self.replica
        with _translated():
            if (
                self._autocommit
                or replica.in_transaction
                or replica.is_query(sql)
                or first_word(sql) in _TRANSACTION_WORDS
            ):
                return work(replica)
            replica.execute("BEGIN")
            try:
                return work(replica)
            except BaseException:
                self.rollback()
                raise

    def close(self) -> None:
        """Roll back what is pending, seal what was written and release the file."""
        replica, self._replica = self._replica, None
        if replica is not None:
            with _translated():
                replica.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.rollback()


class Cursor:
    """Runs statements and hands out rows.

    The rows of a query are all fetched when it is run, so they are of one moment, and no open cursor keeps anybody
    waiting; a table that does not fit into memory is read in stretches of its key.
    """

    arraysize = 1
    """How many rows `fetchmany` gives."""

    lastrowid: None = None
    """Always None: a rowid is a number of this file alone. Ask for the key with RETURNING."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.description: tuple[tuple[str, str | None, None, None, None, None, None], ...] | None = None
        self.rowcount = -1
        self._rows: Iterator[tuple[Any, ...]] | None = None
        self._names: tuple[str, ...] = ()
        self._is_closed = False

    def execute(self, sql: str, parameters: Parameters = ()) -> Self:
        """Run one SQL statement.

        Args:
            parameters: A sequence for `?`, or a mapping for `:name`.
        """
        self._forget()
        bound = _bound(parameters)
        return self._keep(sql, self.connection._run(sql, lambda replica: replica.execute(sql, bound)))

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> Self:
        """Run one INSERT, UPDATE or DELETE for each row of parameters."""
        self._forget()
        bound = map(_bound, rows)
        return self._keep(sql, self.connection._run(sql, lambda replica: replica.executemany(sql, bound)))

    def _forget(self) -> None:
        self._check_open()
        self.description, self.rowcount, self._rows, self._names = None, -1, None, ()

    def _keep(self, sql: str, result: Result) -> Self:
        if first_word(sql) in _WRITE_WORDS and not self.connection.replica.is_query(sql):
            self.rowcount = result.row_count
        if result.columns:
            self._names, self._rows = result.columns, iter(result.rows)
            self.description = tuple(
                (name, declared, None, None, None, None, None)
                for name, declared in zip(result.columns, result.types, strict=True)
            )
        return self

    def fetchone(self) -> Any:
        """Return the next row, or None where there is none."""
        return next(self._fetching(), None)

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """Return the next rows, `arraysize` of them by default."""
        return list(islice(self._fetching(), self.arraysize if size is None else size))

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""
        return list(self._fetching())

    def _fetching(self) -> Iterator[Any]:
        self._check_open()
        rows, make = self._rows, self.connection.row_factory
        if rows is None:
            raise ProgrammingError("there are no rows to fetch: the last statement was no query")
        return rows if make is None else (make(self, row) for row in rows)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ProgrammingError("the cursor is closed")
        self.connection._check_open()

    def close(self) -> None:
        """Let go of the rows."""
        self._rows, self._is_closed = None, True

    def setinputsizes(self, sizes: Sequence[Any]) -> None:
        """Do nothing, as PEP 249 allows."""

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Do nothing, as PEP 249 allows."""

    def __iter__(self) -> Iterator[Any]:
        return self._fetching()
