"""How much is held, exactly, and who is known to hold what: from stored statements only.

Members who signed for the same are one *share*, so a fleet of n members that is at rest
costs one list of lengths and not n. What every member holds is found by counting over
shares: a log that all of them name is held up to the least length they give it.

Law: nothing is counted as held that is not stored here; more contact never lowers what
is known (W3). A member counts once, however many logs it has (W28).

Source:
    Protocol spec section 14, rules COV-1 to COV-6 and STB-1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Held:
    """One log as this file has it.

    Shape:
        length: sealed headers here; payload_count: how many of those have their payload.
        known_length: the most that any signed statement stored here gives this log.
        payload_gaps: seqs below `length` whose payload is wanted and not here, as half-open ranges.
        dropped: likewise of those that compaction put down.
        start: number of its first change, of a branch of a log that forked; lengths count from the log's beginning.
        applied_length: how many changes are in the tables.
    """

    member_id: bytes | None
    length: int
    known_length: int
    payload_count: int
    payload_gaps: tuple[range, ...] = ()
    dropped: tuple[range, ...] = ()
    start: int = 0
    applied_length: int = 0


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of one log that is known of and not here.

    Shape:
        what: "headers" or "payloads".
        holders: members whose receipts name it, ascending.
    """

    log_id: bytes
    member_id: bytes | None
    seqs: range
    what: str
    holders: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """Members who are known to hold the same, and how much of each log that is.

    Shape:
        members: member ids, ascending; a member is in one share.
        lengths: log id -> the greatest length that these members signed for, with payloads or without.
        bare: log id -> the stretches below it, ascending, of which they do not say that they hold the
            payloads, since they compacted them. Of most members there are none.
    """

    members: tuple[bytes, ...]
    lengths: Mapping[bytes, int]
    bare: Mapping[bytes, tuple[range, ...]] = field(default_factory=dict)

    def holds(self, log_id: bytes, seq: int) -> bool:
        """True when these members signed for a change with its payload (COV-3)."""
        return seq < self.lengths.get(log_id, 0) and not any(seq in bare for bare in self.bare.get(log_id, ()))

    def whole_length(self, log_id: bytes) -> int:
        """Return how far they signed for a log with all payloads from its beginning."""
        bare = self.bare.get(log_id)
        return bare[0].start if bare else self.lengths.get(log_id, 0)


def gaps(
    logs: Mapping[bytes, Held], shares: Sequence[Share], authors: Callable[[bytes, int], bytes | None] | None = None
) -> list[Gap]:
    """Return everything known of and not here, in log order (COV-2, W5).

    Args:
        logs: What is held and known of.
        shares: What others signed for.
        authors: Gives the member who sealed a change, by log and number, and so held it then; None
            where its author is not to be named.
    """
    found = []
    together: dict[tuple[tuple[int, ...], bytes | None], tuple[bytes, ...]] = {}
    for log_id in sorted(logs):
        held = logs[log_id]
        missing = [(seqs, "payloads") for seqs in held.payload_gaps]
        if held.known_length > held.length:
            missing.append((range(held.length, held.known_length), "headers"))
        for seqs, what in missing:
            if what == "payloads":
                which = tuple(i for i, share in enumerate(shares) if share.holds(log_id, seqs.start))
                author = authors(log_id, seqs.start) if authors is not None else None
            else:
                which = tuple(i for i, share in enumerate(shares) if share.lengths.get(log_id, 0) > seqs.start)
                author = None
            # The same holders come again from log to log, and are many: they are listed once.
            if (which, author) not in together:
                members = {member for i in which for member in shares[i].members} | ({author} if author else set())
                together[which, author] = tuple(sorted(members))
            found.append(Gap(log_id, held.member_id, seqs, what, together[which, author]))
    return found


def stable_lengths(members: Collection[bytes], shares: Sequence[Share]) -> dict[bytes, int]:
    """Return, by log, the prefix that every member is known to hold, and one with all payloads (STB-1).

    A member without a claim holds nothing that is known, so one silent member keeps
    everything from becoming stable: that is the meaning of the word. A member that has
    compacted holds what it put down as far as the others go, but somebody must have it.
    A log of which nothing is stable is left out.
    """
    wanted = set(members)
    count: dict[bytes, int] = {}
    least: dict[bytes, int] = {}
    counted = [(share, weight) for share in shares if (weight := len(wanted.intersection(share.members)))]
    for share, weight in counted:
        for log_id, length in share.lengths.items():
            count[log_id] = count.get(log_id, 0) + weight
            if length < least.get(log_id, length + 1):
                least[log_id] = length
    stable = {log_id: least[log_id] for log_id in sorted(least) if count[log_id] == len(wanted)}
    for log_id in {log_id for share, _ in counted for log_id in share.bare} & stable.keys():
        stable[log_id] = min(stable[log_id], max(share.whole_length(log_id) for share, _ in counted))
    return {log_id: length for log_id, length in stable.items() if length}


def greatest_lengths(shares: Iterable[Share]) -> dict[bytes, int]:
    """Return, by log, the longest prefix that anybody is known to hold."""
    found: dict[bytes, int] = {}
    for share in shares:
        for log_id, length in share.lengths.items():
            if length > found.get(log_id, 0):
                found[log_id] = length
    return found


def wanted_count(held_by: int | str, member_count: int) -> int:
    """Return how many members "2", "quorum", "all" or "stable" means among so many (COV-7).

    A quorum is more than half. Stable needs a second member at least: one disk is one disk (W4).

    Raises:
        ValueError: No such word, or a count below one.
    """
    if isinstance(held_by, bool):
        raise ValueError(f"held_by is {held_by}, want a count")  # noqa: TRY004 - one error for one wrong argument
    if isinstance(held_by, int):
        if held_by < 1:
            raise ValueError(f"held_by is {held_by}, want at least 1")
        return held_by
    match held_by:
        case "quorum":
            return member_count // 2 + 1
        case "all":
            return max(member_count, 1)
        case "stable":
            return max(member_count, 2)
    raise ValueError(f"held_by is {held_by!r}, want a count, 'quorum', 'all' or 'stable'")


def certainty(*, is_missing: bool, is_open: bool, is_part: bool = False) -> str:
    """Return "whole", "incomplete", "unknown" or "part": how sure the figures of a cut are (COV-6).

    What is missing is said first: it is known. "unknown" is a cut of which nothing known is
    missing and whose end nobody here can know; "part", one of which compaction put something down.
    """
    if is_missing:
        return "incomplete"
    if is_open:
        return "unknown"
    return "part" if is_part else "whole"


def space_state(*, is_alone: bool, is_whole: bool, is_stable: bool, is_closed: bool, is_part: bool = False) -> str:
    """Return the one word for where a replica stands (COV-5, W6).

    Args:
        is_whole: Nothing that is wanted is missing.
        is_part: Something is not wanted: compaction put it down, so this replica is never whole (W14).
    """
    if is_alone:
        return "alone"
    if not is_whole:
        return "behind"
    if is_closed:
        return "closed"
    if is_stable:
        return "stable"
    return "part" if is_part else "whole"
