"""What bundles answer: plain values, each with the JSON that the command line prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klal.sync.station import Roots


@dataclass(frozen=True, slots=True)
class BundleWritten:
    """One file that was written, and what is in it. `bytes` is its size."""

    path: Path
    bytes: int
    changes: int
    payloads: int

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "changes": self.changes,
            "payloads": self.payloads,
        }


@dataclass(frozen=True, slots=True)
class Exported:
    """The files that were written, to be taken in this order."""

    bundles: tuple[BundleWritten, ...]

    @property
    def changes(self) -> int:
        return sum(each.changes for each in self.bundles)

    @property
    def payloads(self) -> int:
        return sum(each.payloads for each in self.bundles)

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.bundles)

    def to_json(self) -> dict[str, Any]:
        return {
            "bundles": [each.to_json() for each in self.bundles],
            "bytes": self.bytes,
            "changes": self.changes,
            "payloads": self.payloads,
        }


@dataclass(frozen=True, slots=True)
class Absent:
    """Changes of one log that are not here.

    Shape:
        member_name: as it is called here, or else by the bundle; "" where nobody says.
        what: "headers" (the changes themselves) or "payloads" (what they wrote).
        seqs: their numbers, in stretches.
    """

    member_name: str
    log_id: bytes
    what: str
    seqs: tuple[range, ...]

    @property
    def count(self) -> int:
        return sum(map(len, self.seqs))

    @property
    def sentence(self) -> str:
        """Which they are, as part of a sentence."""
        where = ", ".join(str(seqs.start) if len(seqs) == 1 else f"{seqs.start}-{seqs[-1]}" for seqs in self.seqs[:3])
        more = "" if len(self.seqs) <= 3 else " and more"
        what = "change" if self.what == "headers" else "payload"
        name = self.member_name or "somebody not known here"
        return f"{self.count:,} {what}{'' if self.count == 1 else 's'} of {name} ({where}{more}) not held here"

    def to_json(self) -> dict[str, Any]:
        return {
            "member": self.member_name,
            "log": self.log_id.hex(),
            "what": self.what,
            "count": self.count,
            "seqs": [[seqs.start, seqs.stop] for seqs in self.seqs],
        }


@dataclass(frozen=True, slots=True)
class Carried:
    """How much a bundle brings of one member. `bytes` counts headers and payloads, without the form around them."""

    member_name: str
    member_id: bytes
    changes: int
    payloads: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return {
            "member": self.member_name,
            "member_id": self.member_id.hex(),
            "changes": self.changes,
            "payloads": self.payloads,
            "bytes": self.bytes,
        }


@dataclass(frozen=True, slots=True)
class BundleStatus:
    """What a bundle would bring to a file, or without a file what is in it.

    Shape:
        space: as the bundle calls it.
        size: bytes of the bundle.
        part, part_count: its number among those written together.
        members: of whom there is something, most bytes first.
        receipts: how many are in it.
        needs: what it needs and is not here; without a file, all that it needs.
        damaged: sentences on what of it is not whole.
        is_whole: every byte that was looked at is as it was written. Payloads are looked at when they are taken.
    """

    space: str
    space_id: bytes
    size: int
    part: int
    part_count: int
    members: tuple[Carried, ...]
    receipts: int
    needs: tuple[Absent, ...]
    damaged: tuple[str, ...]

    @property
    def changes(self) -> int:
        return sum(each.changes for each in self.members)

    @property
    def payloads(self) -> int:
        return sum(each.payloads for each in self.members)

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.members)

    @property
    def is_whole(self) -> bool:
        return not self.damaged

    def to_json(self) -> dict[str, Any]:
        return {
            "space": self.space,
            "space_id": self.space_id.hex(),
            "size": self.size,
            "part": self.part,
            "parts": self.part_count,
            "changes": self.changes,
            "payloads": self.payloads,
            "bytes": self.bytes,
            "members": [each.to_json() for each in self.members],
            "receipts": self.receipts,
            "needs": [each.to_json() for each in self.needs],
            "damaged": list(self.damaged),
        }


@dataclass(frozen=True, slots=True)
class Imported:
    """What taking a bundle came to.

    Shape:
        changes, payloads: new here.
        read: bytes of the bundle that were looked at.
        needs: what the bundle needs and is not here: something of it may wait for that.
        absent: what it says it contains and is not here now.
        damaged: sentences on what of it is not whole.
        refused: sentences on what was not taken, and why.
        roots: of this file, afterwards.
    """

    changes: int
    payloads: int
    read: int
    needs: tuple[Absent, ...]
    absent: tuple[Absent, ...]
    damaged: tuple[str, ...]
    refused: tuple[str, ...]
    roots: Roots

    @property
    def is_whole(self) -> bool:
        """True when all that the bundle contains and needs is here."""
        return not (self.needs or self.absent or self.damaged or self.refused)

    @property
    def root(self) -> bytes:
        return self.roots.known

    @property
    def sentences(self) -> tuple[str, ...]:
        """One sentence for each thing of the bundle that is not here, and why as far as that is known."""
        needs = (f"it needs {each.sentence}" for each in self.needs)
        absent = (f"it should contain {each.sentence}" for each in self.absent)
        return (*self.damaged, *self.refused, *needs, *absent)

    def to_json(self) -> dict[str, Any]:
        return {
            "changes": self.changes,
            "payloads": self.payloads,
            "bytes": self.read,
            "needs": [each.to_json() for each in self.needs],
            "absent": [each.to_json() for each in self.absent],
            "damaged": list(self.damaged),
            "refused": list(self.refused),
            "whole": self.is_whole,
            "root": self.root.hex(),
        }
