"""When word came from elsewhere, and how much was here then: what "new since yesterday" is read from.

A change bears its writer's clock and no time of arrival. Writing one for every change would
cost each commit, so a mark is kept for a contact: by that time these changes were here. Marks
of the last day are at least ten minutes apart, and one older is kept, so there are few.

Law: a change that a mark counts was here when the mark was made; what arrived after a mark
and before the next may have arrived at any time between.
"""

from __future__ import annotations

from klal.rules.merge import ChangeRef
from klal.store.history import History, Log
from klal.store.sql import Connection

MARK_EVERY_MS = 10 * 60 * 1000
_KEPT_MS = 24 * 60 * 60 * 1000


class Contacts:
    """The marks of one file."""

    def __init__(self, connection: Connection, history: History) -> None:
        self._connection = connection
        self._history = history

    def note(self, lsn: int, now_ms: int) -> None:
        """Keep a mark, unless one was made a moment ago; inside a transaction of the caller's."""
        newest = self._connection.execute("SELECT unix_ms FROM klal_contact ORDER BY lsn DESC LIMIT 1").get
        # A clock that was set back must not silence the marks until it has caught up.
        if newest is not None and 0 <= now_ms - newest < MARK_EVERY_MS:
            return
        self._connection.execute("INSERT OR IGNORE INTO klal_contact VALUES(?,?)", (lsn, now_ms))
        self._connection.execute(
            "DELETE FROM klal_contact WHERE lsn < (SELECT max(lsn) FROM klal_contact WHERE unix_ms <= ? AND lsn <= ?)",
            (now_ms - _KEPT_MS, lsn),
        )

    def mark_before(self, unix_ms: int) -> tuple[int, int | None]:
        """Return (how many changes were here, when) by the newest mark not after a time; (0, None) without one."""
        row = self._connection.execute(
            "SELECT lsn, unix_ms FROM klal_contact WHERE unix_ms <= ? ORDER BY lsn DESC LIMIT 1", (unix_ms,)
        ).fetchone()
        return (0, None) if row is None else (row[0], row[1])

    def arrived_after(self, lsn: int) -> dict[int, int]:
        """Return, by log index, how many changes lie after a place in the order of arrival."""
        spans = self._connection.execute(
            "SELECT lsn, log FROM klal_span WHERE lsn >= coalesce((SELECT max(lsn) FROM klal_span WHERE lsn <= ?), 0)"
            " ORDER BY lsn",
            (lsn + 1,),
        ).fetchall()
        ends = [start for start, _ in spans[1:]] + [self._history.lsn_max + 1]
        found: dict[int, int] = {}
        for (start, log), end in zip(spans, ends, strict=True):
            count = end - max(start, lsn + 1)
            if count > 0:
                found[log] = found.get(log, 0) + count
        return found

    def written_after(self, log: Log, unix_ms: int) -> int:
        """Return how many changes of a log its writer's clock puts after a time; it never falls along a log."""
        low, high = log.start, log.length
        while low < high:
            middle = (low + high) // 2
            if self._history.read(ChangeRef(log.log, middle)).header.unix_ms > unix_ms:
                high = middle
            else:
                low = middle + 1
        return log.length - low
