"""How much is held, exactly, and who is known to hold what: from stored statements only.

Law: nothing is counted as held that is not stored here; more contact never lowers what
is known (W3). A member counts once, however many logs it has (W28).

Source:
    Protocol spec section 14, rules COV-1 to COV-5 and STB-1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Held:
    """One log as this file has it.

    Shape:
        length: sealed headers here; payload_count: how many of those have their payload.
        known_length: the most that any signed statement stored here gives this log.
        payload_gaps: seqs below `length` whose payload is wanted and not here, as half-open ranges.
        dropped: likewise of those that compaction put down.
        start: number of its first change, of a branch of a log that forked; lengths count from the log's beginning.
    """

    member_id: bytes | None
    length: int
    known_length: int
    payload_count: int
    payload_gaps: tuple[range, ...] = ()
    dropped: tuple[range, ...] = ()
    start: int = 0


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


Claims = Mapping[bytes, Mapping[bytes, int]]
"""Member id -> log id -> the greatest length that member signed for, with payloads or without."""

Copies = Mapping[bytes, Mapping[bytes, Sequence[range]]]
"""Member id -> log id -> the stretches that member signed for with their payloads."""


def gaps(logs: Mapping[bytes, Held], claims: Claims, copies: Copies | None = None) -> list[Gap]:
    """Return everything known of and not here, in log order (COV-2, W5).

    Args:
        logs: What is here.
        claims: Who holds what.
        copies: Who holds it with payloads, where that is not the same.
    """
    copies = copies_of(claims) if copies is None else copies
    found: list[Gap] = []
    for log_id in sorted(logs):
        held = logs[log_id]
        found.extend(
            Gap(log_id, held.member_id, seqs, "payloads", holders_of(copies, log_id, seqs.start))
            for seqs in held.payload_gaps
        )
        if held.known_length > held.length:
            holders = tuple(sorted(m for m, lengths in claims.items() if lengths.get(log_id, 0) > held.length))
            found.append(Gap(log_id, held.member_id, range(held.length, held.known_length), "headers", holders))
    return found


def holders_of(copies: Copies, log_id: bytes, seq: int) -> tuple[bytes, ...]:
    """Return who signed for holding a change with its payload, ascending (COV-3)."""
    return tuple(sorted(m for m, logs in copies.items() if any(seq in held for held in logs.get(log_id, ()))))


def copies_of(claims: Claims) -> Copies:
    """Return claims of members none of whom has compacted."""
    return {member: {log_id: [range(length)] for log_id, length in logs.items()} for member, logs in claims.items()}


def stable_lengths(
    members: Iterable[bytes], claims: Claims, log_ids: Iterable[bytes], copies: Copies | None = None
) -> dict[bytes, int]:
    """Return, by log, the prefix that every member is known to hold, and one with all payloads (STB-1).

    A member without a claim holds nothing that is known, so one silent member keeps
    everything from becoming stable: that is the meaning of the word. A member that has
    compacted holds what it put down as far as the others go, but somebody must have it.
    """
    members = list(members)
    copies = copies_of(claims) if copies is None else copies
    known = [claims.get(member, {}) for member in members]
    return {
        log_id: min(
            min((lengths.get(log_id, 0) for lengths in known), default=0),
            max((prefix_of(copies.get(member, {}).get(log_id, ())) for member in members), default=0),
        )
        for log_id in log_ids
    }


def prefix_of(held: Iterable[range]) -> int:
    """Return how far these stretches reach without a gap."""
    length = 0
    for stretch in sorted(held, key=lambda each: each.start):
        if stretch.start <= length:
            length = max(length, stretch.stop)
    return length


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
