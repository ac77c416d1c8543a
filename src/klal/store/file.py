"""Opening a klal file, and turning SQLite's errors into klal's.

Source:
    Protocol spec section 15, rules FIL-1 and FIL-2. SQLite's file format and WAL pages.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from klal.errors import (
    BusyError,
    ConstraintError,
    DamagedError,
    KlalError,
    NewerFormatError,
    NotKlalError,
    ReadOnlyError,
    StoreError,
    UnsupportedError,
    UsageError,
)
from klal.store.layout import APPLICATION_ID, FILE_FORMAT, TABLES, VIEWS
from klal.store.sql import Connection

_BUSY_TIMEOUT_MS = 10_000
_CACHE_SIZE_KIB = 64 * 1024
_MARK_NS = 1000

missing_options = {"ENABLE_PREUPDATE_HOOK"} - set(apsw.compile_options)
if missing_options:
    # A distribution's apsw may be linked to a SQLite that cannot tell what a write did.
    raise ImportError(
        f"this apsw lacks {', '.join(sorted(missing_options))}; install apsw from PyPI, whose wheels have it"
    )


def translate(error: apsw.Error, where: object) -> KlalError:
    """Return klal's error for one of SQLite's, in a sentence that says where."""
    text = str(error)
    match error:
        case apsw.BusyError() | apsw.LockedError():
            return BusyError(
                f"{where} is locked by another process", hint="wait until the other process is done, then try again"
            )
        case apsw.NotADBError():
            return NotKlalError(f"{where} is not a database")
        case apsw.CorruptError():
            return DamagedError(f"{where} is damaged: {text}", hint="klal heal mends it")
        case apsw.ConstraintError() | apsw.MismatchError():
            return ConstraintError(text.removeprefix("SQLITE_CONSTRAINT: "))
        case apsw.ReadOnlyError():
            return ReadOnlyError(f"{where} cannot be written: {text}")
        case apsw.FullError():
            return StoreError(f"{where}: the disk is full; nothing of this was stored")
        case apsw.IOError() | apsw.CantOpenError() | apsw.NoMemError() | apsw.PermissionsError():
            return StoreError(f"{where} cannot be used: {text}")
        case apsw.AuthError():
            return UnsupportedError(f"this SQL is not allowed here: {text}")
    return UsageError(text)


@contextmanager
def translated(where: object) -> Iterator[None]:
    """Turn any error of SQLite inside the block into klal's, chained."""
    try:
        yield
    except apsw.Error as error:
        raise translate(error, where) from error


def is_there(path: Path) -> bool:
    """True when something lies at `path`.

    Raises:
        UsageError: Nothing can ever lie there. StoreError: It cannot be known.
    """
    if "\0" in str(path):
        raise UsageError("a path holds a NUL")
    try:
        return path.exists()
    except OSError as error:
        raise StoreError(f"{path} cannot be used: {error.strerror}") from error


def create_file(path: Path) -> Connection:
    """Return a connection to a new klal file at `path`, which must not exist.

    Raises:
        UsageError: Something is there already.
        StoreError: The disk refuses.
    """
    if is_there(path):
        raise UsageError(f"{path} exists already")
    if not is_there(path.parent):
        raise StoreError(f"the folder of {path} does not exist", hint=f"make {path.parent} first")
    with translated(path):
        connection = Connection(str(path))
        connection.pragma("application_id", APPLICATION_ID)
        connection.pragma("user_version", FILE_FORMAT)
        _configure(connection)
        with connection:
            connection.execute(TABLES + VIEWS)
    return connection


def open_file(path: Path, *, writable: bool = True) -> Connection:
    """Return a connection to the klal file at `path`.

    Raises:
        UsageError: There is no such file.
        NotKlalError: FIL-1. NewerFormatError: FIL-2. DamagedError, BusyError, StoreError.
    """
    if not is_there(path):
        raise UsageError(f"{path} does not exist")
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    with translated(path):
        flags = apsw.SQLITE_OPEN_READWRITE if writable else apsw.SQLITE_OPEN_READONLY
        connection = Connection(str(path), flags=flags)
        try:
            connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
            application_id = connection.pragma("application_id")
            version = connection.pragma("user_version")
            if application_id != APPLICATION_ID:
                raise NotKlalError(f"{path} is an SQLite database but not a klal file")
            if version > FILE_FORMAT:
                raise NewerFormatError(f"{path} has file format {version}, this klal reads up to {FILE_FORMAT}")
            _configure(connection, writable=writable and not connection.readonly("main"))
        except BaseException:
            connection.close()
            raise
    return connection


def mark_left(path: Path) -> tuple[int, int] | None:
    """Return a modification time and size that any later write to the file will change, or None.

    The caller holds the file alone. Its time is set back by a microsecond: the kernel's clock
    ticks every few milliseconds, so a write in the same tick would leave the time as it is. Where
    the file system keeps coarser times than that there is no such mark. SQLite's own change
    counter is none either: in WAL mode it rises only when page 1 is written.
    """
    try:
        found = path.stat()
        wanted_ns = found.st_mtime_ns - _MARK_NS
        os.utime(path, ns=(found.st_atime_ns, wanted_ns))
        kept = path.stat()
    except OSError:
        return None
    return (kept.st_mtime_ns, kept.st_size) if kept.st_mtime_ns == wanted_ns else None


def is_as_left(path: Path, left: tuple[int, int] | None) -> bool:
    """True when nobody has written to the file since `mark_left` gave `left`."""
    try:
        found = path.stat()
        wal = path.with_name(path.name + "-wal")
        return left == (found.st_mtime_ns, found.st_size) and not (wal.exists() and wal.stat().st_size)
    except OSError:
        return False


def hold(connection: Connection) -> int | None:
    """Lock out everybody else until this connection closes; None, and no lock, when the file is open elsewhere.

    Returns:
        The data version seen when the lock was taken.
    """
    connection.set_busy_timeout(0)
    try:
        connection.pragma("locking_mode", "exclusive")
        connection.execute("BEGIN IMMEDIATE -- klal")
        version = connection.data_version()
        connection.execute("COMMIT -- klal")
    except (apsw.BusyError, apsw.LockedError):
        connection.pragma("locking_mode", "normal")
        return None
    return version


def alone(connection: Connection) -> int | None:
    """Hold a file as `hold` does, and bring everything into the main file: the WAL is empty then."""
    version = hold(connection)
    try:
        is_busy = version is None or connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except (apsw.BusyError, apsw.LockedError):
        connection.pragma("locking_mode", "normal")
        return None
    return None if is_busy else version


def memory_file() -> Connection:
    """Return an empty klal file in memory, to replay history in."""
    connection = Connection(":memory:")
    connection.pragma("application_id", APPLICATION_ID)
    connection.pragma("user_version", FILE_FORMAT)
    allow_klal_id(connection, str)  # Replaying never evaluates a default; creating tables names it.
    connection.pragma("ignore_check_constraints", True)
    _plan_once(connection)
    # As in a file, or a view could mean here what it does not mean there.
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    with connection:
        connection.execute(TABLES + VIEWS)
    return connection


@contextmanager
def unchecked(connection: Connection) -> Iterator[None]:
    """Run writes that no FOREIGN KEY or CHECK may stop: what they break is listed, the same everywhere (D12)."""
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 0)
    connection.pragma("ignore_check_constraints", True)
    try:
        yield
    finally:
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 1)
        connection.pragma("ignore_check_constraints", False)


def allow_klal_id(connection: Connection, make_id: Callable[[], str]) -> None:
    """Let DEFAULT (klal_id()) call `make_id` on this connection."""
    # Innocuous, so that it may stand in a table's DEFAULT with trusted_schema off.
    connection.create_scalar_function("klal_id", lambda *_: make_id(), 0, flags=apsw.SQLITE_INNOCUOUS)


def _plan_once(connection: Connection) -> None:
    # What is bound has no say in a statement's plan: SQLite would prepare many anew for each value that is bound.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)


def _configure(connection: Connection, *, writable: bool = True) -> None:
    connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
    if writable:
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "normal")
    connection.pragma("cache_size", -_CACHE_SIZE_KIB)
    connection.pragma("trusted_schema", "off")
    connection.pragma("cell_size_check", "on")
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    _plan_once(connection)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 1)
    # "x" in double quotes is a name and never a text, so that what a table says can be told from its tokens.
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
