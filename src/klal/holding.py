"""What is held here and who is known to hold what, against a named cut: one look at a file.

A *cut* is what is counted: everything known here, an epoch, or any frontier. How far an open
epoch goes is not known until its members have finished, so of that only what is certain to
lie in it is counted, and the answer says that its end is open.

Source:
    Protocol spec section 14, rules COV-1 to COV-7 and STB-1. Decision D13.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from klal.coverage import Coverage, MemberStatus, Missing, Waiting
from klal.errors import IncompleteError, UsageError
from klal.model.frontier import Frontier, Head
from klal.model.header import NO_CERTIFICATE
from klal.reports import ChangeId, Holders
from klal.rules.coverage import (
    Gap,
    Held,
    Share,
    certainty,
    gaps,
    greatest_lengths,
    stable_lengths,
)
from klal.rules.merge import ChangeRef
from klal.store.history import Log, lacks_payload
from klal.store.store import Store

_UNKNOWN_MEMBER = "a member not known here"


@dataclass(frozen=True, slots=True)
class Extent:
    """A cut: how far it goes in every log.

    Shape:
        frontier: what it is, held here or not; or None, and then `lengths` says what is here of it.
        lengths: log index -> length, of headers that are here.
        beyond: log id -> length, of what is known of beyond them.
        is_open: more may belong to it than anybody here can know.
    """

    name: str
    frontier: Frontier | None
    lengths: Mapping[int, int]
    beyond: Mapping[bytes, int]
    root: bytes | None
    is_open: bool
    epoch: int | None = None
    waiting_for: tuple[Waiting, ...] = ()

    @staticmethod
    def of(name: str, frontier: Frontier) -> Extent:
        """Return the cut that a frontier is."""
        return Extent(name, frontier, {}, {}, frontier.root(), is_open=False)


class Holding:
    """Answers about one store; used inside one read transaction and then dropped."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._history = store.history
        self._me = store.member_id

    # -- what is known ---------------------------------------------------------------------

    @cached_property
    def names(self) -> dict[bytes, str]:
        """Member id -> name, of every member known here."""
        rows = self._store.connection.execute("SELECT member_id, name FROM klal_member ORDER BY name, member_id")
        return dict(rows.fetchall())

    @cached_property
    def counted(self) -> frozenset[bytes]:
        """The members whose holding a change makes it stable (STB-1): those who belong as this is read."""
        return frozenset(self.names) - self.standings.keys()

    @cached_property
    def standings(self) -> dict[bytes, str]:
        """How those stand who do not belong as this is read: "left", "retired", "expelled" or "waiting"."""
        epochs = self._store.epochs
        found = dict.fromkeys(self._store.applier.questioned, "waiting")
        found.update(dict.fromkeys(epochs.expelled, "expelled"))
        found.update((each.member_id, each.kind) for each in epochs.previous.gone)
        found.update(epochs.removed())
        return found

    @cached_property
    def held(self) -> dict[bytes, Held]:
        """Every log held or known of."""
        return self._store.knowledge.held()

    @cached_property
    def others(self) -> list[Share]:
        """What other members signed for."""
        return self._store.knowledge.shares(self.cuts, but=self._me)

    @cached_property
    def cuts(self) -> dict[bytes, dict[bytes, int]]:
        """Log id -> length in the cut of each certificate that receipts speak of and that stands here, by its hash."""
        ids = {index: log.log_id for index, log in self._history.logs.items()}
        voices = self._store.knowledge.voices().values()
        spoken_of = {name for voice in voices for name in (voice.certificate, voice.copy.compacted)}
        return {
            closed.certificate_hash: {ids[index]: length for index, length in closed.cut.lengths.items()}
            for closed in self._store.applier.closed
            if closed.certificate_hash in spoken_of
        }

    @cached_property
    def mine(self) -> Share:
        """What lies in this file, which is this member's share."""
        logs = self._history.logs
        lengths = {logs[index].log_id: length for index, length in self._history.held_lengths().items()}
        bare = {
            log_id: tuple(sorted((*held.payload_gaps, *held.dropped), key=lambda seqs: seqs.start))
            for log_id, held in self.held.items()
            if held.dropped or held.payload_gaps
        }
        return Share((self._me,), lengths, bare)

    @cached_property
    def claims(self) -> dict[bytes, Mapping[bytes, int]]:
        """Member id -> log id -> the greatest length signed for; of oneself, what lies in this file."""
        return {member: share.lengths for share in (*self.others, self.mine) for member in share.members}

    @cached_property
    def elsewhere(self) -> dict[bytes, int]:
        """Log id -> the longest prefix that another member is known to hold."""
        return greatest_lengths(self.others)

    @cached_property
    def heard(self) -> dict[bytes, Share]:
        """Member id -> share, of every other member of whom a receipt is here."""
        return {member: share for share in self.others for member in share.members}

    @cached_property
    def is_alone(self) -> bool:
        """True while no receipt of another member is here: whether more exists is unknown (W4)."""
        return not self.others

    @cached_property
    def branches(self) -> set[tuple[bytes, bytes]]:
        """(log id, member id) where a member signed for another branch of a log than the one here."""
        return self._store.knowledge.other_branches()

    @cached_property
    def beyond(self) -> frozenset[bytes]:
        """Members who name a certificate that does not stand here: nobody here knows how much that one holds (COV-3).

        Of those who are gone it may be one that was given up, and they need not come back to say so.
        """
        known = {closed.certificate_hash for closed in self._store.applier.closed} | {NO_CERTIFICATE}
        voices = self._store.knowledge.voices().values()
        return frozenset(each.member_id for each in voices if each.certificate not in known) - self.standings.keys()

    @cached_property
    def stable(self) -> dict[bytes, int]:
        """Log id -> the prefix that every member is known to hold (STB-1).

        While nobody else belongs nothing is stable: one disk is one disk (W4).
        """
        if len(self.counted) < 2:
            return {}
        return stable_lengths(self.counted, [*self.others, self.mine])

    @cached_property
    def gaps(self) -> list[Gap]:
        """Everything known of and not here."""
        found = self._gaps(self.held)
        if not any(gap.what == "headers" for gap in found):
            # A header names what it had seen, though nobody's receipt says in which log that lies.
            found.extend(
                Gap(b"", None, range(count), "headers", (member_id,))
                for member_id, count in sorted(self._store.knowledge.unknown_past().items())
            )
        return found

    def _gaps(self, logs: Mapping[bytes, Held]) -> list[Gap]:
        # Whoever sealed a log up to here held it then: the author is a holder before any receipt,
        # unless it says that it has put the payload down since.
        def author(log_id: bytes, seq: int) -> bytes | None:
            member = logs[log_id].member_id
            if member is None or member == self._me:
                return None
            share = self.heard.get(member)
            is_bare = share is not None and any(seq in bare for bare in share.bare.get(log_id, ()))
            return None if is_bare else member

        return gaps(logs, self.others, author)

    def name(self, member_id: bytes | None) -> str:
        """Return how a member is called."""
        if member_id is None:
            return _UNKNOWN_MEMBER
        return self.names.get(member_id, _UNKNOWN_MEMBER)

    # -- coverage --------------------------------------------------------------------------

    @cached_property
    def finished(self) -> dict[bytes, int]:
        """Member id -> the first epoch that this member has not finished, of whoever has finished one."""
        rows = self._store.connection.execute("SELECT member_id, max(epoch) + 1 FROM klal_close GROUP BY member_id")
        return dict(rows.fetchall())

    def coverage(self, cut: Extent | None = None, *, epoch: int | None = None) -> Coverage:
        """Return how much of a cut is here; of everything known here by default.

        Args:
            cut: What is counted.
            epoch: Whose Closes are asked for; by default the cut's, else the first not complete here.
        """
        if cut is None:
            root = self._history.frontier().root()
            cut = Extent("everything known", None, {}, {}, root, is_open=self.is_alone)
            logs, found = self.held, self.gaps
            is_missing = bool(found or self.branches or self.beyond)
        else:
            logs = self._logs_of(cut)
            found = self._gaps(logs)
            is_missing = bool(found)  # A cut names its heads: another branch is missing in it.
        dropped = [
            Gap(log_id, held.member_id, seqs, "payloads", self._holders_of(log_id, seqs.start))
            for log_id, held in sorted(logs.items())
            for seqs in held.dropped
        ]
        base = self._history.base
        # What a header names as its past without a log, and is not here, is known of too (COV-2).
        known = sum(log.known_length - log.start for log in logs.values())
        known += sum(len(gap.seqs) for gap in found if not gap.log_id)
        return Coverage(
            held=sum(log.length - log.start for log in logs.values()),
            known=known,
            payloads_held=sum(log.payload_count - log.start for log in logs.values()),
            payloads_known=known,
            missing=tuple(self._missing(found)),
            as_of_unix_ms=self._store.contact_unix_ms,
            applied=sum(log.applied_length - log.start for log in logs.values()),
            cut=cut.name,
            root=cut.root,
            certainty=certainty(is_missing=is_missing, is_open=cut.is_open, is_part=bool(dropped)),
            members=tuple(self._members(logs, found, cut.epoch if epoch is None else epoch, known)),
            waiting_for=cut.waiting_for,
            dropped=tuple(self._missing(dropped)),
            compacted_epoch=None if base is None else base.epoch,
        )

    def _logs_of(self, cut: Extent) -> dict[bytes, Held]:
        """Return what of each log of a cut is here."""
        history, knowledge = self._history, self._store.knowledge
        if cut.frontier is None:
            logs = {history.logs[index].log_id: (index, length) for index, length in cut.lengths.items()}
            found = {
                log_id: knowledge.held_of(history.logs[index], length, length)
                for log_id, (index, length) in logs.items()
                if length > history.logs[index].start
            }
            for log_id, length in cut.beyond.items():
                held = found.get(log_id, Held(None, 0, 0, 0))
                found[log_id] = replace(held, known_length=max(held.length, length))
            return found
        found = {}
        for log_id, head in cut.frontier.heads.items():
            for strand_id, held in self._within(log_id, head):
                before = found.get(strand_id)
                if before is None:
                    found[strand_id] = held
                elif before.length == held.start or held.length == before.start:
                    found[strand_id] = _joined(before, held)  # Of two branches one begins where the other ends.
                else:
                    found[head.head_hash] = held  # Another branch than the one here has no name here.
        return found

    def _within(self, log_id: bytes, head: Head) -> Iterable[tuple[bytes, Held]]:
        """Yield what is here of one log of a frontier, by the strands that it lies in."""
        history, knowledge = self._history, self._store.knowledge
        log = history.by_id.get(log_id)
        last = None if log is None else history.head_at(log.origin, head.length, head.head_hash)
        last = last or history.find(head.head_hash)
        if last is not None:
            # Of a branch only its own headers count (FRN-4): those are the last ones on the way to its head.
            left = head.length
            for strand, start, stop in reversed(history.path(history.logs[last.log], last.seq + 1)):
                begin = max(start, stop - left)
                left -= stop - begin
                if begin < stop:
                    yield strand.log_id, _from(begin, knowledge.held_of(strand, stop, stop))
        elif log is None or log.length >= head.length:
            # Not here, or another branch is. Where two branches part nobody can tell from one head.
            yield log_id, Held(None if log is None else log.member_id, 0, head.length, 0)
        else:
            yield log_id, knowledge.held_of(log, log.length, head.length)

    def _name_of(self, log_id: bytes, seq: int) -> bytes:
        """Return what the log of a change is called: of a forked one, the branch (LOG-7)."""
        ref = self._history.named(log_id, seq)
        return log_id if ref is None else self._history.name_of(ref)

    def _holders_of(self, log_id: bytes, seq: int) -> tuple[bytes, ...]:
        """Return the others who signed for a change with its payload, ascending."""
        return tuple(sorted(member for share in self.others if share.holds(log_id, seq) for member in share.members))

    def _missing(self, found: Iterable[Gap]) -> Iterable[Missing]:
        called: dict[tuple[bytes, ...], tuple[str, ...]] = {}
        for gap in found:
            if gap.holders not in called:
                called[gap.holders] = tuple(sorted(self.name(holder) for holder in gap.holders))
            yield Missing(
                self.name(gap.member_id),
                gap.member_id or b"",
                self._name_of(gap.log_id, gap.seqs.start),
                gap.seqs.start,
                gap.seqs.stop,
                gap.what,
                called[gap.holders],
            )

    def _members(
        self, logs: Mapping[bytes, Held], found: Iterable[Gap], epoch: int | None, known: int
    ) -> Iterable[MemberStatus]:
        """Yield what each member is known to hold of the `known` changes of these logs, and owes, by name."""
        epoch = self._store.epochs.next_epoch if epoch is None else epoch
        seen: dict[bytes, int] = {}
        for voice in self._store.knowledge.voices().values():
            seen[voice.member_id] = max(seen.get(voice.member_id, 0), voice.unix_ms)
        owed: dict[tuple[bytes | None, str], int] = {}
        for gap in found:
            owed[gap.member_id, gap.what] = owed.get((gap.member_id, gap.what), 0) + len(gap.seqs)
        counts: dict[int, tuple[int, int]] = {}  # By share, which many members have alike.
        now = self._store.now_ms()
        for member_id, name in self.names.items():
            share = self.heard.get(member_id)
            if member_id == self._me:
                held = sum(log.payload_count - log.start for log in logs.values())
                reach = held + sum(len(seqs) for log in logs.values() for seqs in log.dropped)
            elif share is None:
                held = reach = 0
            else:
                if id(share) not in counts:
                    counts[id(share)] = _counted(share, logs)
                held, reach = counts[id(share)]
            if share is None and member_id != self._me:
                state = "unknown"
            else:
                state = "behind" if reach < known else "part" if held < reach else "whole"
            at = seen.get(member_id)
            yield MemberStatus(
                member_id,
                name,
                state,
                at,
                self.finished.get(member_id, 0) > epoch,
                self.standings.get(member_id, "member"),
                None if at is None else now - at,
                held,
                known,
                owed.get((member_id, "headers"), 0),
                owed.get((member_id, "payloads"), 0),
            )

    def epoch_extent(self, epoch: int, waiting_for: tuple[Waiting, ...]) -> Extent:
        """Return the cut of an epoch; of one that is not complete here, what is certain to lie in it."""
        closed = self._store.applier.closed
        name = f"epoch {epoch}"
        if epoch < len(closed):
            return replace(self.extent_of(name, closed[epoch].cut.lengths), epoch=epoch)
        lengths = dict(closed[-1].cut.lengths) if closed else {}
        # Each Close of a member who is counted, as far as known here, pulls its past into the cut (EPO-3).
        for log, seq, member_id in self._store.connection.execute(
            "SELECT log, seq, member_id FROM klal_close WHERE epoch = ? ORDER BY log, seq", (epoch,)
        ).fetchall():
            if member_id in self.standings:
                continue
            for index, length in self._history.vector(ChangeRef(log, seq)).items():
                lengths[index] = max(length, lengths.get(index, 0))
        return Extent(name, None, lengths, {}, None, is_open=True, epoch=epoch, waiting_for=waiting_for)

    def change_extent(self, change: ChangeId) -> Extent:
        """Return a change with its whole past, as far as that is known here."""
        history = self._history
        name = f"change {change.log_id.hex()[:8]}:{change.seq}"
        ref = history.named(change.log_id, change.seq)
        if ref is None:
            if change.seq >= self._store.knowledge.named().get(change.log_id, 0):
                raise UsageError(f"{name} is not known here")
            log = history.by_id.get(change.log_id)
            lengths = {} if log is None else {log.log: log.length}
            return Extent(name, None, lengths, {change.log_id: change.seq + 1}, None, is_open=True)
        log = history.logs[ref.log]
        past = self._store.knowledge.past(log, ref.seq + 1)
        if log.applied_length <= ref.seq:  # Then some of its past may not be here to be read.
            return Extent(name, None, past, {}, None, is_open=True)
        return self.extent_of(name, past)

    def extent_of(self, name: str, lengths: Mapping[int, int]) -> Extent:
        """Return the cut that prefixes of logs make which are here, by log index."""
        return Extent(name, None, lengths, {}, self._history.frontier_of(lengths).root(), is_open=False)

    # -- who has it ------------------------------------------------------------------------

    def who_has(self, change: ChangeId) -> Holders:
        """Return who is known to hold a change.

        Raises:
            UsageError: Nothing stored here names it.
        """
        ref = self._history.named(change.log_id, change.seq)
        if ref is None and change.seq >= self._store.knowledge.named().get(change.log_id, 0):
            raise UsageError(f"change {change.log_id.hex()[:8]}:{change.seq} is not known here")
        log_id = change.log_id if ref is None else self._history.logs[ref.log].log_id
        held = {member for share in self.others if share.holds(log_id, change.seq) for member in share.members}
        # Of oneself bytes count, and not a prefix: a payload beyond a gap is held too.
        if ref is not None and not lacks_payload(self._history.read(ref).state):
            held.add(self._me)
        heard = self.heard.keys() | {self._me}
        holders: list[str] = []
        lacking: list[str] = []
        unknown: list[str] = []
        for member_id, name in self.names.items():
            which = holders if member_id in held else lacking if member_id in heard else unknown
            which.append(name)
        is_stable = len(self.counted) > 1 and self.counted <= held
        return Holders(
            change,
            tuple(sorted(holders)),
            tuple(sorted(lacking)),
            tuple(sorted(unknown)),
            is_stable,
            len(self.counted & held),
            len(self.counted),
        )

    def stable_frontier(self) -> Frontier:
        """Return what every member is known to hold, of the logs that are here (STB-1)."""
        by_id = self._history.by_id
        stable = [(by_id[log_id], length) for log_id, length in self.stable.items() if log_id in by_id]
        return self._history.frontier_of(
            {log.log: min(log.length, length) for log, length in stable if length > log.start}
        )

    def only_here(self) -> list[tuple[Log, range]]:
        """Return the changes of this member's own that no other member is known to hold, by log (W5)."""
        found = []
        for log in sorted(self._history.logs.values(), key=lambda log: log.log_id):
            start = max(log.start, min(log.length, self.elsewhere.get(log.log_id, 0)))
            if log.member_id == self._me and start < log.length:
                found.append((log, range(start, log.length)))
        return found


def _from(start: int, held: Held) -> Held:
    """Return what is held of a log from a number on."""
    before = sum(len(range(seqs.start, min(seqs.stop, start))) for seqs in (*held.payload_gaps, *held.dropped))
    return replace(
        held,
        start=start,
        payload_count=held.payload_count + before,
        payload_gaps=_above(start, held.payload_gaps),
        dropped=_above(start, held.dropped),
        applied_length=max(held.applied_length, start),
    )


def _above(start: int, stretches: tuple[range, ...]) -> tuple[range, ...]:
    return tuple(range(max(start, seqs.start), seqs.stop) for seqs in stretches if seqs.stop > start)


def _joined(a: Held, b: Held) -> Held:
    """Return two stretches of one strand that meet as one."""
    low, high = sorted((a, b), key=lambda held: held.start)
    return replace(
        high,
        start=low.start,
        payload_count=low.payload_count + high.payload_count - high.start,
        payload_gaps=(*low.payload_gaps, *high.payload_gaps),
        dropped=(*low.dropped, *high.dropped),
        applied_length=low.applied_length if low.applied_length < high.start else high.applied_length,
    )


def _counted(share: Share, logs: Mapping[bytes, Held]) -> tuple[int, int]:
    """Return how many changes of these logs a share holds with their payloads, and how many in all."""
    held = reach = 0
    for log_id, length in share.lengths.items():
        log = logs.get(log_id)
        if log is not None:
            inside = range(log.start, min(length, log.known_length))
            bare = sum(
                len(range(max(inside.start, seqs.start), min(inside.stop, seqs.stop)))
                for seqs in share.bare.get(log_id, ())
            )
            reach += len(inside)
            held += len(inside) - bare
    return held, reach


def compacted(store: Store, what: str, log_ids: Collection[bytes]) -> IncompleteError:
    """Return the refusal to answer from payloads that were put down, naming who holds them (CMP-6)."""
    dropped = [each for each in Holding(store).coverage().dropped if each.log_id in log_ids]
    holders = sorted({holder for each in dropped for holder in each.holders})
    base = store.history.base
    assert base is not None, "only a compacted file has put payloads down"
    return IncompleteError(
        f"{what} below epoch {base.epoch}, whose payloads were compacted here;"
        f" {', '.join(holders) or 'nobody known'} can answer",
        missing=dropped,
        epoch=base.epoch,
    )
