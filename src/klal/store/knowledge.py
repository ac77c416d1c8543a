"""What is held, what is missing, who holds what: computed from what lies in the file.

Nothing here comes from a cursor, an event, an acknowledgement or the other side's word:
only from headers, payloads, seals and signed receipts stored in this file (D13).

Source:
    Protocol spec section 14, rules COV-1 to COV-5, STB-1. Decision D13.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from klal.model.header import NO_CERTIFICATE, past_of
from klal.model.receipt import HeldHead, Receipt
from klal.rules.coverage import Held
from klal.rules.merge import ChangeRef
from klal.store.history import History, Log
from klal.store.sql import Connection


class Knowledge:
    """Statements stored in one file, read as claims."""

    def __init__(self, connection: Connection, history: History) -> None:
        self._connection = connection
        self._history = history

    def receipts(self) -> dict[bytes, Receipt]:
        """Return the newest receipt of every log, by log id, ascending."""
        rows = self._connection.execute("SELECT log_id, body, signature FROM klal_receipt ORDER BY log_id").fetchall()
        return {log_id: Receipt.decode(body, signature) for log_id, body, signature in rows}

    def claims(self, *, but: bytes | None = None) -> dict[bytes, dict[bytes, int]]:
        """Return, by member and log, the greatest length that member signed for.

        Args:
            but: A member to leave out: one's own holdings are counted from bytes, not words.
        """
        found: dict[bytes, dict[bytes, int]] = {}
        for receipt in self.receipts().values():
            statement = receipt.statement
            if statement.member_id == but:
                continue
            lengths = found.setdefault(statement.member_id, {})
            for log_id, length in self._said(receipt).items():
                lengths[log_id] = max(lengths.get(log_id, 0), length)
        return found

    def copies(self, cuts: Mapping[bytes, Mapping[bytes, int]]) -> dict[bytes, dict[bytes, list[range]]]:
        """Return what members signed for holding with its payloads: of `claims`, without what they compacted.

        Args:
            cuts: Certificate hash -> log id -> length, of the epochs known here. Of a replica
                that is compacted below another nothing is known to be held.
        """
        found: dict[bytes, dict[bytes, list[range]]] = {}
        for receipt in self.receipts().values():
            statement = receipt.statement
            below: Mapping[bytes, int] | None = {}
            if statement.copy.compacted != NO_CERTIFICATE:
                below = cuts.get(statement.copy.compacted)
            if below is not None:
                logs = found.setdefault(statement.member_id, {})
                for log_id, length in self._said(receipt).items():
                    logs.setdefault(log_id, []).append(range(below.get(log_id, 0), length))
        return found

    def _said(self, receipt: Receipt) -> dict[bytes, int]:
        """Return the lengths that one receipt signs for, by log."""
        lengths: dict[bytes, int] = {}
        statement = receipt.statement
        for heads, is_applied in ((statement.heads, True), (statement.parked, False)):
            for head in heads:
                for log_id, length in self._reach(head, is_applied=is_applied).items():
                    lengths[log_id] = max(lengths.get(log_id, 0), length)
        return lengths

    def _reach(self, head: HeldHead, *, is_applied: bool) -> dict[bytes, int]:
        """Return what holding this header means: with its past, as far as that is known here, if it is applied."""
        history = self._history
        ref = history.head_at(head.log_id, head.length, head.head_hash)
        if ref is None:
            # Another branch says nothing about what is held of those here.
            return {} if self._is_other_branch(head) else {head.log_id: head.length}
        log = history.logs[ref.log]
        if not is_applied:
            return {strand.log_id: stop for strand, _, stop in history.path(log, ref.seq + 1)}
        return {history.logs[index].log_id: seen for index, seen in self.past(log, ref.seq + 1).items()}

    def past(self, log: Log, length: int) -> dict[int, int]:
        """Return what the first `length` changes of a log had seen, log -> length, parked ones read by their headers.

        Without those, a member who goes on into the next epoch would seem to hold less than before.
        """
        history = self._history
        found: dict[int, int] = {}
        waiting = [(log, length)]
        while waiting:
            log, length = waiting.pop()
            if found.get(log.log, 0) >= length:
                continue
            read = max(log.applied_length, found.get(log.log, 0))
            if log.below is not None:
                waiting.append((history.logs[log.below], log.start))
            if log.applied_length > log.start and found.get(log.log, 0) < min(length, log.applied_length):
                ref = ChangeRef(log.log, min(length, log.applied_length) - 1)
                for index, seen in history.vector(ref).items():
                    found[index] = max(found.get(index, 0), seen)
            found[log.log] = max(found.get(log.log, 0), length)
            for stored in history.lines(log, read, length):
                for hashed in stored.header.past:
                    past = history.find(hashed)
                    if past is not None:
                        waiting.append((history.logs[past.log], past.seq + 1))
        return found

    def other_branches(self) -> set[tuple[bytes, bytes]]:
        """Return (log id, member id) where a member signed for another header than the one here (COV-3).

        One of the two is a branch of a log that forked: something is known of and not here.
        """
        return {
            (head.log_id, receipt.statement.member_id)
            for receipt in self.receipts().values()
            for head in (*receipt.statement.heads, *receipt.statement.parked)
            if self._is_other_branch(head)
        }

    def _is_other_branch(self, head: HeldHead) -> bool:
        """True when this file holds other headers at that place, and not this one (COV-3)."""
        strands = self._history.strands_of(head.log_id)
        is_within = any(log.length >= head.length for log in strands)
        return is_within and self._history.head_at(head.log_id, head.length, head.head_hash) is None

    def held(self) -> dict[bytes, Held]:
        """Return every log that is held or known of, as this file has it."""
        known: dict[bytes, int] = {}
        for receipt in self.receipts().values():
            for head in (*receipt.statement.heads, *receipt.statement.parked):
                # What another branch is long says nothing of the strand that came first.
                if self._history.head_at(head.log_id, head.length, head.head_hash) is None:
                    known[head.log_id] = max(known.get(head.log_id, 0), head.length)
        found = {}
        for log in self._history.logs.values():
            if log.length > log.start or log.log_id in known:
                gaps = self.payload_gaps(log, log.length)
                wanted = set(self._history.wanted.get(log.log, ()))
                dropped = stretches(seq for seq in self._history.dropped(log) if seq not in wanted)
                lacking = sum(len(gap) for gap in (*gaps, *dropped))
                found[log.log_id] = Held(
                    log.member_id,
                    log.length,
                    max(log.length, known.get(log.log_id, 0)),
                    log.length - lacking,
                    tuple(gaps),
                    tuple(dropped),
                    log.start,
                )
        for log_id, length in known.items():
            if log_id not in found:
                found[log_id] = Held(None, 0, length, 0)
        return found

    def unknown_past(self) -> dict[bytes, int]:
        """Return how many headers that are not here are named by those of each member that wait for them (COV-2)."""
        found: dict[bytes, set[bytes]] = {}
        for log in self._history.logs.values():
            for data in self._history.headers(log, log.applied_length, log.length):
                unknown = {hashed for hashed in past_of(data) if self._history.find(hashed) is None}
                if unknown:
                    found.setdefault(log.member_id, set()).update(unknown)
        return {member_id: len(hashes) for member_id, hashes in found.items()}

    def payload_gaps(self, log: Log, stop: int) -> list[range]:
        """Return the seqs below `stop` whose header is here and whose payload is not, though it is wanted."""
        again = [seq for seq in self._history.wanted.get(log.log, ()) if seq < stop]
        if log.payload_length >= min(stop, log.length):
            return stretches(again)
        return stretches([*again, *self._history.lacking(log, log.payload_length, min(stop, log.length))])


def stretches(seqs: Iterable[int]) -> list[range]:
    """Return ascending numbers as half-open ranges."""
    found: list[range] = []
    for seq in seqs:
        if found and found[-1].stop == seq:
            found[-1] = range(found[-1].start, seq + 1)
        else:
            found.append(range(seq, seq + 1))
    return found
