"""How the rooms of the store see SQLite: apsw, with rows typed as what our own tables hold.

apsw's stubs give every value of every row the union of all storage classes. What klal's
own statements select is known from `layout`, so here a row is plain Any and nothing more
is changed: at run time this is apsw's own Connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import apsw

if TYPE_CHECKING:

    class Cursor(apsw.Cursor):
        """A cursor whose rows are Any."""

        @property
        def get(self) -> Any: ...
        def fetchall(self) -> list[Any]: ...
        def fetchone(self) -> Any: ...
        def __iter__(self) -> Iterator[Any]: ...  # type: ignore[override]

    class Connection(apsw.Connection):
        """A connection whose cursors give Any."""

        def execute(self, statements: str, bindings: Any = None, **options: Any) -> Cursor: ...
        def executemany(self, statements: str, sequenceofbindings: Any, **options: Any) -> Cursor: ...
        def cursor(self) -> Cursor: ...

else:
    Connection = apsw.Connection
    Cursor = apsw.Cursor


def runner(connection: Connection) -> Callable[..., object]:
    """Return an `execute` for statements that give no rows.

    All of them share one cursor, because `Connection.execute` makes a cursor each time,
    which costs as much as a short statement does.
    """
    return connection.cursor().execute
