"""The snapshot of a replica as a program sees it: made for newcomers, or read by one until history is here.

What a snapshot shows is not in the replica's tables, and `status` calls the replica a part for
as long as there is one: its rows are those that a certificate names, and that the certificate
is the true one only history shows.

Source:
    Protocol spec section 19 (W21).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from klal.errors import UsageError
from klal.model.schema import Value
from klal.reports import Rows, Status
from klal.store.snapshot import Kept, Snapshots
from klal.store.store import Store


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Which snapshot a replica has.

    Shape:
        epoch, certificate: of the close whose rows it has, by number and hash.
        row_count: 0 while it is arriving.
        size: bytes, as it travels.
        state: "made" here, for newcomers; or "arriving"; or "unchecked", its rows can be read; or
            "certified", and they are those that its certificate names.
        giver: who gave it, "" of one made here.
    """

    epoch: int
    certificate: bytes
    row_count: int
    size: int
    state: str
    giver: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "epoch": self.epoch,
            "certificate": self.certificate.hex(),
            "rows": self.row_count,
            "bytes": self.size,
            "state": self.state,
            "giver": self.giver,
        }


class SnapshotShelf:
    """What `Replica.snapshot` gives: the place of the one snapshot that a replica may have."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._snapshots = Snapshots(store)

    def make(self) -> Snapshot:
        """Make the snapshot of the newest epoch that is complete here, for newcomers to be given when they sync.

        It is kept in the file, at about a third of the size of its rows, until the next one is made or `forget`.
        One that is there already is not made again.

        Raises:
            IncompleteError: No epoch is complete here.
            UsageError: This replica is itself a newcomer that reads one; or inside a transaction.
        """
        if self._store.in_transaction:
            raise UsageError("a snapshot cannot be made inside a transaction")
        return _snapshot(self._snapshots.make())

    def get(self) -> Snapshot | None:
        """Return which snapshot there is, or None."""
        kept = self._snapshots.kept()
        return None if kept is None else _snapshot(kept)

    def query(self, sql: str, parameters: Sequence[Value] | Mapping[str, Value] = ()) -> Rows:
        """Return the rows of a SELECT, as of the close that the snapshot is of.

        Raises:
            IncompleteError: No snapshot is to be read here: none came, or history is here by now.
            UsageError: Not one SELECT.
        """
        return Rows(*self._snapshots.query(sql, parameters))

    def forget(self) -> None:
        """Drop the snapshot, whatever it is; no row of a table changes by it."""
        self._snapshots.throw_away("")


def with_snapshot(store: Store, status: Status) -> Status:
    """Return a status that says what a snapshot changes of it: who has one is a part, and behind."""
    snapshots = Snapshots(store)
    kept, lie = snapshots.kept(), snapshots.lie()
    warnings = [f"{lie}; it was thrown away, and history does without it"] if lie else []
    if kept is None or kept.state == "made":
        return replace(status, warnings=(*status.warnings, *warnings))
    epoch, giver = kept.outline.epoch, kept.giver
    told = {
        "arriving": f"a snapshot of epoch {epoch} from {giver} is arriving",
        "unchecked": f"rows as of the close of epoch {epoch} can be read as {giver} gave them; they are unchecked",
        "certified": f"rows as of the close of epoch {epoch} can be read until history is here, as {giver} gave them",
    }
    return replace(status, standing="part", state="behind", warnings=(*status.warnings, *warnings, told[kept.state]))


def _snapshot(kept: Kept) -> Snapshot:
    outline = kept.outline
    return Snapshot(outline.epoch, outline.certificate, kept.row_count, outline.size, kept.state, kept.giver)
