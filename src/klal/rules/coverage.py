"""How much is held, exactly, and who is known to hold what: from stored statements only.

Law: nothing is counted as held that is not stored here; more contact never lowers what
is known (W3). A member counts once, however many logs it has (W28).

Source:
    Protocol spec section 14, rules COV-1 to COV-5 and STB-1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Held:
    """One log as this file has it.

    Shape:
        length: sealed headers here; payload_count: how many of those have their payload.
        known_length: the most that any signed statement stored here gives this log.
        payload_gaps: seqs below `length` whose payload is not here, as half-open ranges.
    """

    member_id: bytes | None
    length: int
    known_length: int
    payload_count: int
    payload_gaps: tuple[range, ...] = ()


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
"""Member id -> log id -> the greatest length that member signed for."""


def gaps(logs: Mapping[bytes, Held], claims: Claims) -> list[Gap]:
    """Return everything known of and not here, in log order (COV-2, W5)."""
    found = []
    for log_id in sorted(logs):
        held = logs[log_id]
        missing = [(seqs, "payloads") for seqs in held.payload_gaps]
        if held.known_length > held.length:
            missing.append((range(held.length, held.known_length), "headers"))
        for seqs, what in missing:
            holders = tuple(sorted(m for m, lengths in claims.items() if lengths.get(log_id, 0) > seqs.start))
            found.append(Gap(log_id, held.member_id, seqs, what, holders))
    return found


def stable_lengths(members: Iterable[bytes], claims: Claims, log_ids: Iterable[bytes]) -> dict[bytes, int]:
    """Return, by log, the prefix that every member is known to hold (STB-1).

    A member without a claim holds nothing that is known, so one silent member keeps
    everything from becoming stable: that is the meaning of the word.
    """
    known = [claims.get(member, {}) for member in members]
    return {log_id: min((lengths.get(log_id, 0) for lengths in known), default=0) for log_id in log_ids}


def space_state(*, is_alone: bool, is_whole: bool, is_stable: bool, is_closed: bool) -> str:
    """Return the one word for where a replica stands (COV-5, W6)."""
    if is_alone:
        return "alone"
    if not is_whole:
        return "behind"
    if is_closed:
        return "closed"
    return "stable" if is_stable else "whole"
