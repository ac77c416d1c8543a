"""What `coverage` answers: how much of a named cut is here, who holds it, and who owes what.

The one choice a reader would question: certainty has three values and not two. Nothing known
may be missing while nobody can know where the cut ends, and that is not "whole" (D13, W4).

Source:
    Protocol spec section 14, rules COV-2, COV-4 and COV-6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from klal.notebook import coverage_page


@dataclass(frozen=True, slots=True)
class Missing:
    """A stretch of one log that is known of and not here."""

    member_name: str
    member_id: bytes
    log_id: bytes
    start: int
    stop: int
    what: str
    holders: tuple[str, ...]

    @property
    def change_count(self) -> int:
        """How many changes it is."""
        return self.stop - self.start

    @property
    def member(self) -> str:
        """Name of the member who owes it."""
        return self.member_name

    def __str__(self) -> str:
        held = f"held by {', '.join(self.holders)}" if self.holders else "held by nobody known"
        what = self.what.removesuffix("s") if self.change_count == 1 else self.what
        return f"{self.change_count:,} {what} of {self.member_name}, {held}"

    def to_json(self) -> dict[str, Any]:
        return {
            "member": self.member_name,
            "log": self.log_id.hex(),
            "from": self.start,
            "to": self.stop,
            "what": self.what,
            "holders": list(self.holders),
        }


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One member as this replica knows it.

    Shape:
        state: "whole", "part" (it has compacted), "behind" or "unknown", by the member's newest receipt.
        last_seen_unix_ms: when that receipt was signed, by the member's clock; None if never.
        finished: whether the member has finished the epoch that status shows, or that the cut is of.
        age_ms: how long ago that was by this machine's clock; negative where the member's is ahead of it.
        held: how many of the `known` changes of the cut the member is known to hold, payloads included;
            of this replica's own member, how many payloads lie here.
        standing: "member"; "left", "retired" or "expelled"; or "waiting" to be admitted.
        owed_headers, owed_payloads: changes of the member's own that are known of and not here.
    """

    member_id: bytes
    name: str
    state: str
    last_seen_unix_ms: int | None
    finished: bool
    standing: str = "member"
    age_ms: int | None = None
    held: int = 0
    known: int = 0
    owed_headers: int = 0
    owed_payloads: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "member": self.member_id.hex(),
            "name": self.name,
            "state": self.state,
            "last_seen_unix_ms": self.last_seen_unix_ms,
            "finished": self.finished,
            "standing": self.standing,
            "age_ms": self.age_ms,
            "held": self.held,
            "known": self.known,
            "owes": {"headers": self.owed_headers, "payloads": self.owed_payloads},
        }


@dataclass(frozen=True, slots=True)
class Waiting:
    """Whom an epoch waits for, and why.

    Shape:
        reason: "not finished", "missing changes", "missing payloads"; of a complete epoch "not heard from", or
            "certificate not named", by its steward; and "fewer than half would be left".
        count: how many changes are missing; 0 for "not finished".
    """

    member_name: str
    member_id: bytes
    reason: str
    count: int
    holders: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.member_name} ({self.reason}{f', {self.count:,}' if self.count else ''})"

    def to_json(self) -> dict[str, Any]:
        return {
            "member": self.member_name,
            "reason": self.reason,
            "count": self.count,
            "holders": list(self.holders),
        }


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a cut is here.

    Shape:
        held, known: changes of the cut whose header is here / that it has, as far as known.
        payloads_held, payloads_known: the same for payloads.
        missing: what of the cut is known of and not here.
        as_of_unix_ms: when a session last brought word from elsewhere; None if never.
        applied: changes of the cut that are in the tables.
        cut: what was asked for: "everything known", "epoch 3", or what names a moment.
        root: the cut's root, if its end is known; what is known here has the root of its headers.
        certainty: "whole", nothing of the cut is missing; "incomplete", `missing` says what, or a
            member signed for another branch of a log; "unknown", nothing known is missing, and how
            far the cut goes is not known: nobody else was heard of yet, or an epoch is not finished;
            "part", nothing that is wanted is missing, and `dropped` lists what was put down.
        members: what each is known to hold of the cut, and owes.
        waiting_for: whom the end of the cut waits for, of an epoch that is not complete here.
        dropped: payloads that `compact` put down here, and who is known to hold them; they are not wanted.
        compacted_epoch: the epoch below whose cut they were; None where this file was never compacted.
    """

    held: int
    known: int
    payloads_held: int
    payloads_known: int
    missing: tuple[Missing, ...]
    as_of_unix_ms: int | None
    applied: int
    cut: str
    root: bytes | None
    certainty: str
    members: tuple[MemberStatus, ...]
    waiting_for: tuple[Waiting, ...] = ()
    dropped: tuple[Missing, ...] = ()
    compacted_epoch: int | None = None

    @property
    def is_whole(self) -> bool:
        """True when the cut is known, and none of it is missing or put down; never while nobody else was met (W4)."""
        return self.certainty == "whole"

    def __str__(self) -> str:
        figures = (
            f"{self.held:,} of {self.known:,} headers and {self.payloads_held:,} of {self.payloads_known:,} payloads"
        )
        lacking = f"; missing: {'; '.join(map(str, self.missing))}" if self.missing else ""
        waits = f"; waits for {', '.join(map(str, self.waiting_for))}" if self.waiting_for else ""
        return f"{self.certainty}: {figures} of {self.cut} are here{lacking}{waits}"

    def _repr_html_(self) -> str:
        """Return a page for notebooks: self-contained, and without scripts."""
        return coverage_page(self.to_json())

    def to_json(self) -> dict[str, Any]:
        return {
            "cut": self.cut,
            "root": None if self.root is None else self.root.hex(),
            "certainty": self.certainty,
            "headers": {"held": self.held, "known": self.known},
            "payloads": {"held": self.payloads_held, "known": self.payloads_known},
            "applied": self.applied,
            "as_of_unix_ms": self.as_of_unix_ms,
            "missing": [missing.to_json() for missing in self.missing],
            "members": [member.to_json() for member in self.members],
            "waiting_for": [waiting.to_json() for waiting in self.waiting_for],
            "dropped": [dropped.to_json() for dropped in self.dropped],
        }
