"""Who is known to hold what, and what is known of: computed from what lies in the file.

Nothing here comes from a cursor, an event, an acknowledgement or the other side's word:
only from headers, payloads, seals and signed receipts stored in this file (D13).

What receipts come to is kept in memory, and worked out anew when a receipt came, when
something else was rolled back or written by another process, and, as long as some receipt
speaks of changes that are not applied here, when history has grown. Receipts that say the
same, byte for byte, are read once: a fleet at rest has one such text, however many it is.

Law: `shares`, `named` and `other_branches` are what a `Knowledge` made this moment gives.

Source:
    Protocol spec section 14, rules COV-1 to COV-6, STB-1. Decision D13.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from klal.errors import DamagedError
from klal.model.header import NO_CERTIFICATE, past_of
from klal.model.receipt import Copy, HeldHead, Receipt
from klal.rules.coverage import Held, Share
from klal.rules.merge import ChangeRef
from klal.store.history import History, Log
from klal.store.sql import Connection


class _Said(msgspec.Struct, frozen=True, array_like=True):
    """A statement with its heads left as they are spelled: equal bytes are read once."""

    member_id: bytes
    incarnation: bytes
    number: int
    unix_ms: int
    heads: msgspec.Raw
    parked: msgspec.Raw
    certificate: bytes
    copy: Copy


Text = tuple[bytes, bytes]  # The heads and the parked prefixes of a statement, as they are spelled.
_read_said = msgspec.msgpack.Decoder(_Said).decode
_read_heads = msgspec.msgpack.Decoder(tuple[HeldHead, ...]).decode
Lengths = dict[bytes, int]


@dataclass(frozen=True, slots=True)
class Voice:
    """The newest statement of one log, without what it says is held.

    Shape:
        copy: what it says of old payloads.
    """

    log_id: bytes
    member_id: bytes
    number: int
    unix_ms: int
    certificate: bytes
    copy: Copy


@dataclass(frozen=True, slots=True)
class _Reading:
    """What all voices come to, and how long that is so: for ever, or at one state of history.

    Shape:
        lengths: text -> log id -> length; branches: text -> logs of which it names another branch.
        ahead: log id -> the greatest length that names a header which is not here.
    """

    as_of: tuple[int, int] | None
    lengths: dict[Text, Lengths]
    branches: dict[Text, frozenset[bytes]]
    ahead: Lengths


class Knowledge:
    """Statements stored in one file, read as claims."""

    def __init__(self, connection: Connection, history: History) -> None:
        self._connection = connection
        self._history = history
        self._voices: dict[bytes, Voice] = {}
        self._texts: dict[bytes, Text] = {}  # Log id -> what its voice says is held.
        self._spoken: dict[Text, tuple[tuple[HeldHead, ...], tuple[HeldHead, ...]]] = {}
        self._is_loaded = False
        self._is_saved = True
        self._named: Lengths | None = None
        self._reading: _Reading | None = None
        self._reach: dict[HeldHead, Lengths] = {}  # Of heads applied here: what they say is final.

    # -- statements ------------------------------------------------------------------------

    def receipts(self) -> dict[bytes, Receipt]:
        """Return the newest receipt of every log, by log id, ascending."""
        rows = self._connection.execute("SELECT log_id, body, signature FROM klal_receipt ORDER BY log_id").fetchall()
        return {log_id: Receipt.decode(body, signature) for log_id, body, signature in rows}

    def receipt(self, log_id: bytes) -> Receipt | None:
        """Return the newest receipt of a log."""
        row = self._connection.execute(
            "SELECT body, signature FROM klal_receipt WHERE log_id = ?", (log_id,)
        ).fetchone()
        return None if row is None else Receipt.decode(*row)

    def voices(self) -> dict[bytes, Voice]:
        """Return who said something last and when, by log id, ascending."""
        self._load()
        return dict(sorted(self._voices.items()))

    def keep(self, log_id: bytes, receipt: Receipt) -> None:
        """Store a receipt, checked before, in place of the log's one before."""
        self._load()
        self._connection.execute(
            "INSERT OR REPLACE INTO klal_receipt VALUES(?,?,?,?)",
            (log_id, receipt.statement.number, receipt.body, receipt.signature),
        )
        self._hear(log_id, receipt.body)
        self._named = self._reading = None
        self._is_saved = False

    def forget(self) -> None:
        """Drop what is in memory: the file may say something else now."""
        self._voices, self._texts, self._spoken, self._reach = {}, {}, {}, {}
        self._is_loaded, self._is_saved = False, True
        self._named = self._reading = None

    def _load(self) -> None:
        if not self._is_loaded:
            for log_id, body in self._connection.execute("SELECT log_id, body FROM klal_receipt ORDER BY log_id"):
                self._hear(log_id, body)
            self._is_loaded = True

    def _hear(self, log_id: bytes, body: bytes) -> None:
        try:
            said = _read_said(body)
            text = bytes(said.heads), bytes(said.parked)
            if text not in self._spoken:
                self._spoken[text] = _read_heads(text[0]), _read_heads(text[1])
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise DamagedError(f"the receipt of log {log_id.hex()[:8]} cannot be read") from error
        self._voices[log_id] = Voice(log_id, said.member_id, said.number, said.unix_ms, said.certificate, said.copy)
        self._texts[log_id] = text

    def _texts_in_use(self) -> dict[Text, list[bytes]]:
        """Return each text with the logs that speak it; texts nobody speaks any more are let go."""
        self._load()
        found: dict[Text, list[bytes]] = {}
        for log_id, text in self._texts.items():
            found.setdefault(text, []).append(log_id)
        self._spoken = {text: self._spoken[text] for text in found}
        return found

    # -- what is known of ------------------------------------------------------------------

    def named(self) -> Lengths:
        """Return, by log, the greatest length that any receipt stored here names, held here or not (COV-2)."""
        if self._named is None:
            found: Lengths = {}
            for text in self._texts_in_use():
                for heads in self._spoken[text]:
                    for head in heads:
                        if head.length > found.get(head.log_id, 0):
                            found[head.log_id] = head.length
            self._named = found
        return self._named

    def save_named(self) -> None:
        """Bring the table that the views read (`klal_named`) up to the receipts, in their own transaction."""
        if self._is_saved:
            return
        named = self.named()
        stored: Lengths = dict(self._connection.execute("SELECT log_id, length FROM klal_named").fetchall())
        self._connection.executemany(
            "INSERT OR REPLACE INTO klal_named VALUES(?,?)",
            sorted((log_id, length) for log_id, length in named.items() if stored.get(log_id) != length),
        )
        self._connection.executemany(
            "DELETE FROM klal_named WHERE log_id = ?", [(log_id,) for log_id in sorted(stored.keys() - named.keys())]
        )
        self._is_saved = True

    def held(self) -> dict[bytes, Held]:
        """Return every log that is held or known of, as this file has it."""
        ahead = self._read().ahead
        found = {}
        for log in self._history.logs.values():
            if log.length > log.start or log.log_id in ahead:
                found[log.log_id] = self.held_of(log, log.length, max(log.length, ahead.get(log.log_id, 0)))
        for log_id, length in ahead.items():
            if log_id not in found:
                found[log_id] = Held(None, 0, length, 0)
        return found

    def held_of(self, log: Log, length: int, known_length: int) -> Held:
        """Return what is here of the first `length` changes of a log; of a strand, of those up to there."""
        gaps = self.payload_gaps(log, length)
        wanted = set(self._history.wanted.get(log.log, ()))
        dropped = stretches(seq for seq in self._history.dropped(log) if seq < length and seq not in wanted)
        lacking = sum(len(gap) for gap in (*gaps, *dropped))
        return Held(
            log.member_id,
            length,
            known_length,
            length - lacking,
            tuple(gaps),
            tuple(dropped),
            log.start,
            min(log.applied_length, length),
        )

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

    # -- who is known to hold it ------------------------------------------------------------

    def shares(self, cuts: Mapping[bytes, Lengths], *, but: bytes | None = None) -> list[Share]:
        """Return what members signed for, those who signed for the same together.

        Args:
            cuts: Certificate hash -> log id -> length, of the epochs known here. Who names one holds its cut, which its
                receipt does not list again. Of a replica that is compacted below another, no payload is known to be
                held.
            but: A member to leave out: one's own holdings are counted from bytes, not words.
        """
        reading = self._read()
        said: dict[bytes, set[tuple[Text, bytes, bytes]]] = {}
        for log_id, voice in self._voices.items():
            if voice.member_id != but:
                word = self._texts[log_id], voice.certificate, voice.copy.compacted
                said.setdefault(voice.member_id, set()).add(word)
        together: dict[tuple[tuple[Text, bytes, bytes], ...], list[bytes]] = {}
        for member_id, words in said.items():
            together.setdefault(tuple(sorted(words)), []).append(member_id)
        found = []
        for alike, members in together.items():
            held = [
                (_union([reading.lengths[text], cuts.get(certificate, {})]), compacted)
                for text, certificate, compacted in alike
            ]
            lengths = _union([each for each, _ in held])
            found.append(Share(tuple(sorted(members)), lengths, _bare(lengths, held, cuts)))
        return sorted(found, key=lambda share: share.members)

    def newest_lengths(self, member_id: bytes) -> Lengths:
        """Return what the newest statement of a member says is held, by log: of several logs, of the one last heard."""
        reading = self._read()
        voices = [voice for voice in self._voices.values() if voice.member_id == member_id]
        newest = max(voices, key=lambda voice: (voice.unix_ms, voice.number, voice.log_id), default=None)
        return {} if newest is None else reading.lengths[self._texts[newest.log_id]]

    def other_branches(self) -> set[tuple[bytes, bytes]]:
        """Return (log id, member id) where a member signed for another header than the one here (COV-3).

        One of the two is a branch of a log that forked: something is known of and not here.
        """
        branches = self._read().branches
        if not any(branches.values()):
            return set()
        return {
            (branch, voice.member_id)
            for log_id, voice in self._voices.items()
            for branch in branches[self._texts[log_id]]
        }

    def _read(self) -> _Reading:
        """Work out what every text says, as far as it is not known already."""
        history = self._history
        now = history.lsn_max, sum(log.applied_length for log in history.logs.values())
        if self._reading is not None and self._reading.as_of in (None, now):
            return self._reading
        final: dict[HeldHead, Lengths] = {}
        waiting: dict[HeldHead, Lengths] = {}
        lengths: dict[Text, Lengths] = {}
        branches: dict[Text, frozenset[bytes]] = {}
        ahead: Lengths = {}
        for text in self._texts_in_use():
            heads, parked = self._spoken[text]
            others: set[bytes] = set()
            said = []
            for head in heads:
                reach = final.get(head) or self._reach.get(head)
                if reach is not None:
                    final[head] = reach
                else:
                    reach = waiting.get(head) or self._reach_of(head, final, waiting, ahead)
                said.append(reach)
            for head in parked:
                ref = history.head_at(head.log_id, head.length, head.head_hash)
                if ref is None:
                    waiting[head] = {}
                    said.append(self._unheld(head, ahead))
                else:
                    path = history.path(history.logs[ref.log], ref.seq + 1)
                    said.append({strand.log_id: stop for strand, _, stop in path})
            others.update(head.log_id for head in (*heads, *parked) if head in waiting and self._is_other_branch(head))
            lengths[text] = _union(said)
            branches[text] = frozenset(others)
        self._reach = final
        self._reading = _Reading(now if waiting else None, lengths, branches, ahead)
        return self._reading

    def _reach_of(
        self, head: HeldHead, final: dict[HeldHead, Lengths], waiting: dict[HeldHead, Lengths], ahead: Lengths
    ) -> Lengths:
        """Return what holding this header with its past means, as far as its past is known here.

        Once it is applied here that is `final`. One that is not here says its own log and
        length and no more, and nothing where it is of another branch.
        """
        history = self._history
        ref = history.head_at(head.log_id, head.length, head.head_hash)
        if ref is None:
            waiting[head] = self._unheld(head, ahead)
            return waiting[head]
        log = history.logs[ref.log]
        reach = {history.logs[index].log_id: seen for index, seen in self.past(log, ref.seq + 1).items()}
        (final if log.applied_length > ref.seq else waiting)[head] = reach
        return reach

    def _unheld(self, head: HeldHead, ahead: Lengths) -> Lengths:
        """Return what a head that is not here says: its own log, or nothing where it is of another branch."""
        if head.length > ahead.get(head.log_id, 0):
            ahead[head.log_id] = head.length
        return {} if self._is_other_branch(head) else {head.log_id: head.length}

    def _is_other_branch(self, head: HeldHead) -> bool:
        """True when this file holds other headers at that place, and not this one (COV-3)."""
        is_within = any(log.length >= head.length for log in self._history.strands_of(head.log_id))
        return is_within and self._history.head_at(head.log_id, head.length, head.head_hash) is None

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


def _bare(
    lengths: Lengths, words: list[tuple[Lengths, bytes]], cuts: Mapping[bytes, Lengths]
) -> dict[bytes, tuple[range, ...]]:
    """Return the stretches below `lengths` that none of these words says to be held with payloads."""
    if all(certificate == NO_CERTIFICATE for _, certificate in words):
        return {}
    found = {}
    for log_id, length in lengths.items():
        held = []
        for said, certificate in words:
            cut = {} if certificate == NO_CERTIFICATE else cuts.get(certificate)
            if cut is not None and cut.get(log_id, 0) < said.get(log_id, 0):
                held.append(range(cut.get(log_id, 0), said[log_id]))
        start, bare = 0, []
        for each in sorted(held, key=lambda each: each.start):
            if each.start > start:
                bare.append(range(start, each.start))
            start = max(start, each.stop)
        if start < length:
            bare.append(range(start, length))
        if bare:
            found[log_id] = tuple(bare)
    return found


def _union(several: Sequence[Lengths]) -> Lengths:
    """Return the greatest length of each log; one alone is given as it is, and is not to be changed."""
    if len(several) == 1:
        return several[0]
    longest = max(several, key=len, default={})
    found = dict(longest)
    for lengths in several:
        for log_id, length in lengths.items() if lengths is not longest else ():
            if length > found.get(log_id, 0):
                found[log_id] = length
    return found


def stretches(seqs: Iterable[int]) -> list[range]:
    """Return ascending numbers as half-open ranges."""
    found: list[range] = []
    for seq in seqs:
        if found and found[-1].stop == seq:
            found[-1] = range(found[-1].start, seq + 1)
        else:
            found.append(range(seq, seq + 1))
    return found
