"""Local objects: what a user makes in this connection's temp schema, and what keeps it out of history.

TEMP tables, views, triggers and virtual tables (full-text search) die with the connection, so
they can confuse no other tool and no other replica. Their rows are nobody's change. A TEMP
trigger fires for local writes, and what it writes into replicated tables is part of the same
change. The engine's own writes find them put aside: an error inside a trigger would make an
honest change void here and nowhere else.

Source:
    Decision record 0023.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from klal.store.layout import quote
from klal.store.sql import Connection

SHAPING = {
    apsw.SQLITE_CREATE_TABLE,
    apsw.SQLITE_CREATE_INDEX,
    apsw.SQLITE_CREATE_VIEW,
    apsw.SQLITE_CREATE_TRIGGER,
    apsw.SQLITE_CREATE_VTABLE,
    apsw.SQLITE_CREATE_TEMP_TABLE,
    apsw.SQLITE_CREATE_TEMP_INDEX,
    apsw.SQLITE_CREATE_TEMP_VIEW,
    apsw.SQLITE_CREATE_TEMP_TRIGGER,
    apsw.SQLITE_DROP_TABLE,
    apsw.SQLITE_DROP_INDEX,
    apsw.SQLITE_DROP_VIEW,
    apsw.SQLITE_DROP_TRIGGER,
    apsw.SQLITE_DROP_VTABLE,
    apsw.SQLITE_DROP_TEMP_TABLE,
    apsw.SQLITE_DROP_TEMP_INDEX,
    apsw.SQLITE_DROP_TEMP_VIEW,
    apsw.SQLITE_DROP_TEMP_TRIGGER,
    apsw.SQLITE_REINDEX,
}
"""What the authorizer calls making or dropping an object."""


def is_local(asked: list[tuple[int, str | None]]) -> bool:
    """True when a CREATE or DROP makes or drops objects of the temp schema alone.

    Args:
        asked: (action, database) of everything that the authorizer was asked about it.
    """
    databases = {database for action, database in asked if action in SHAPING}
    # Of a virtual table that is there already, SQLite asks about nothing but the line in the schema.
    return (databases or {database for action, database in asked if action == apsw.SQLITE_INSERT}) == {"temp"}


def has_triggers(connection: Connection) -> bool:
    """True when local triggers may fire on what is written now."""
    return connection.execute("SELECT 1 FROM temp.sqlite_schema WHERE type = 'trigger' LIMIT 1").get is not None


@contextmanager
def put_aside(connection: Connection) -> Iterator[None]:
    """Run the engine's own writes and renames without local triggers and views; then they are there again.

    SQLite has no switch for TEMP triggers, and views are put aside since a RENAME fails on one
    that names what is not there. They name tables by name, so they come back to whichever table
    has that name then.
    """
    found = connection.execute(
        "SELECT type, name, sql FROM temp.sqlite_schema WHERE type IN ('trigger', 'view') ORDER BY type, rowid DESC"
    ).fetchall()
    for kind, name, _ in found:
        connection.execute(f"DROP {kind} temp.{quote(name)}")
    try:
        yield
    finally:
        # Views first: an INSTEAD OF trigger wants its view. SQLite keeps each text without TEMP.
        for kind, _, sql in reversed(found):
            connection.execute(f"CREATE TEMP {kind} {sql.removeprefix(f'CREATE {kind.upper()} ')}")
