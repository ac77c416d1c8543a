"""Healing as a program asks for it: a damaged file becomes whole, and the answer says what is still to be fetched.

The work is that of `klal.store.heal`; this opens what came of it and puts names to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klal.coverage import Missing
from klal.reports import ChangeId
from klal.store.file import open_file
from klal.store.heal import Dropped, OnCount, heal_file
from klal.store.home import Home
from klal.store.store import Store, World, opened_store
from klal.survey import Survey


@dataclass(frozen=True, slots=True)
class Healed:
    """What was wrong with a file, what was taken over into the new one, and what was not.

    Shape:
        found: what `verify` said, as a sentence; "" where nothing was wrong and nothing was done.
        kept: where the old file lies now, byte for byte; None where nothing was done.
        change_count, receipt_count: how many were good and are taken over.
        missing: what of the logs was not, and who is known to hold it; the next sync asks for it.
        row_count, change: rows that history does not give, adopted, and the change that they are.
        left: what lies in the old file alone, as sentences.
    """

    found: str
    kept: Path | None
    change_count: int
    receipt_count: int
    missing: tuple[Missing, ...]
    row_count: int
    change: ChangeId | None
    left: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "found": self.found,
            "kept": None if self.kept is None else str(self.kept),
            "changes": self.change_count,
            "receipts": self.receipt_count,
            "missing": [each.to_json() for each in self.missing],
            "rows": self.row_count,
            "change": None if self.change is None else str(self.change),
            "left": list(self.left),
        }


def mend(
    path: Path, home: Home, world: World, member_name: str | None, rows: str, on_count: OnCount | None
) -> tuple[Store, Healed]:
    """Heal the file at `path`, and return the store of what came of it with the answer.

    Raises:
        KlalError: As `heal_file`.
    """
    healing = heal_file(path, home, world, member_name, rows, on_count)
    store = store_at(path, home, world, member_name)
    try:
        with store.reading():
            survey = Survey(store)
            missing = tuple(_missing(survey, store, each) for each in healing.dropped)
            change = None
            if healing.change_seq is not None:
                own = store.writer.own
                assert own is not None, "what was adopted lies in the file's own log"
                change = ChangeId(own.log.log_id, healing.change_seq)
    except BaseException:
        store.release()
        raise
    return store, Healed(
        healing.found,
        healing.kept,
        healing.change_count,
        healing.receipt_count,
        missing,
        healing.row_count,
        change,
        tuple(healing.left),
    )


def store_at(path: Path, home: Home, world: World, member_name: str | None) -> Store:
    """Return the store of the file at `path`.

    Raises:
        UsageError: No such file. NotKlalError, NewerFormatError, DamagedError, BusyError.
    """
    connection = open_file(path)
    try:
        return opened_store(connection, path, home, world, member_name)
    except BaseException:
        connection.close()
        raise


def _missing(survey: Survey, store: Store, dropped: Dropped) -> Missing:
    """Return a stretch that was dropped with the others who are known to hold it, its author among them."""
    shares = (share for share in survey.others if share.lengths.get(dropped.log_id, 0) > dropped.start)
    holders = ({member for share in shares for member in share.members} | {dropped.member_id}) - {store.member_id}
    return Missing(
        survey.name(dropped.member_id),
        dropped.member_id,
        dropped.log_id,
        dropped.start,
        dropped.stop,
        dropped.what,
        tuple(sorted(map(survey.name, holders))),
    )
